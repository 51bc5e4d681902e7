//! The key ring's promises: nothing valid is refused by a rotation, nothing secret gets out, nothing is
//! lost by a restart.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use palisade_core::domain::groups::Groups;

use super::super::tests::secrets_of;
use super::*;

const NOW: UnixTime = UnixTime(1_000_000);
const ALL: [Algorithm; 4] = [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256, Algorithm::Hs256];

const FILE: &str = "signing-keys.json";

fn open(
    tokens: &Tokens,
    folder: &Path,
    now: impl Into<ClockReading>,
) -> Result<SigningKeyRing, KeyRingError> {
    SigningKeyRing::open(tokens, secrets_of(folder), now)
}

fn tokens(algorithm: Algorithm) -> Tokens {
    Tokens {
        issuer: "https://we.test".into(),
        audience: "api".into(),
        algorithm,
        access_ttl: Duration::from_secs(1800),
        refresh_ttl: Duration::from_secs(86_400),
        refresh_repeat: Duration::from_secs(10),
        leeway: Duration::from_secs(60),
        key: None,
        max_bytes: 24 * 1024,
        cache_entries: 10,
    }
}

fn sign(ring: &SigningKeyRing, now: UnixTime) -> String {
    let grant = AccessGrant { subject: "u1".into(), ..AccessGrant::default() };
    ring.access_token(&grant, Duration::from_secs(1800), now).unwrap().token
}

fn check(ring: &SigningKeyRing, token: &str, now: UnixTime) -> Result<(), TokenFault> {
    ring.check(&Compact::read(token).unwrap(), now)
}

#[test]
fn the_ring_survives_a_restart_in_a_file_only_we_can_read() {
    for algorithm in ALL {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let ring = open(&tokens(algorithm), &data, NOW).unwrap();
        assert!(ring.made_keys());
        let token = sign(&ring, NOW);
        let again = open(&tokens(algorithm), &data, NOW).unwrap();
        assert!(!again.made_keys());
        assert_eq!(check(&again, &token, NOW), Ok(()), "{algorithm:?}");
        assert_eq!(again.list(), ring.list());
        let mode = fs::metadata(data.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let public = ring.jwks().to_string();
        for private in ["\"d\"", "\"k\"", "\"p\"", "PRIVATE"] {
            assert!(!public.contains(private), "{public}");
        }
        let published = ring.jwks()["keys"].as_array().unwrap().len();
        assert_eq!(published, if algorithm == Algorithm::Hs256 { 0 } else { 2 });
    }
}

#[tokio::test]
async fn no_damaged_byte_is_taken_for_another_and_a_ring_of_0_1_0_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let ring = open(&tokens(Algorithm::EdDsa), folder.path(), NOW).unwrap();
    ring.rotate(NOW.into()).await.unwrap();
    let path = folder.path().join(FILE);
    let good = fs::read(&path).unwrap();
    let open = || open(&tokens(Algorithm::EdDsa), folder.path(), NOW);
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        // White space may be another white space.
        match open() {
            Ok(open) => assert_eq!(open.list(), ring.list(), "{at}"),
            Err(error) => assert!(error.to_string().contains(FILE), "{error}"),
        }
        assert_eq!(fs::read(&path).unwrap()[..at], good[..at]);
    }
    let mut earlier: Value = serde_json::from_slice(&good).unwrap();
    earlier.as_object_mut().unwrap().remove("digest");
    fs::write(&path, earlier.to_string()).unwrap();
    assert_eq!(open().unwrap().list(), ring.list());
    assert_eq!(fs::read(&path).unwrap(), good, "it has a digest from then on");
}

#[tokio::test]
async fn a_rotation_refuses_no_valid_token() {
    let folder = tempfile::tempdir().unwrap();
    let ring = open(&tokens(Algorithm::EdDsa), folder.path(), NOW).unwrap();
    let old = sign(&ring, NOW);
    let before = ring.list();
    let after = ring.rotate(NOW.plus(Duration::from_secs(5)).into()).await.unwrap();
    assert_eq!(after[0].kid, before[1].kid, "the published next key signs now");
    assert_eq!(
        after.iter().map(|k| k.state).collect::<Vec<_>>(),
        [KeyState::Active, KeyState::Next, KeyState::Retired]
    );
    let new = sign(&ring, NOW);
    let again = open(&tokens(Algorithm::EdDsa), folder.path(), NOW).unwrap();
    for ring in [&ring, &again] {
        assert_eq!(check(ring, &old, NOW.plus(Duration::from_secs(1860))), Ok(()));
        assert_eq!(check(ring, &new, NOW), Ok(()));
    }
    let later = NOW.plus(Duration::from_secs(2000));
    assert_eq!(check(&ring, &old, later), Err(TokenFault::UnknownKey));
    let kept = ring.rotate(later.into()).await.unwrap();
    assert!(kept.iter().all(|key| key.kid != before[0].kid), "dropped once its last token has ended");
}

#[tokio::test]
async fn a_retired_key_is_not_removed_by_a_clock_that_is_ahead() {
    let folder = tempfile::tempdir().unwrap();
    let ring = open(&tokens(Algorithm::EdDsa), folder.path(), NOW).unwrap();
    let old = sign(&ring, NOW);
    ring.rotate(NOW.into()).await.unwrap();
    let year = NOW.plus(Duration::from_secs(365 * 24 * 3600));
    let ahead = ClockReading { wall: year, earliest: NOW, latest: year, horizon: year };
    assert_eq!(check(&ring, &old, year), Err(TokenFault::UnknownKey), "by the wall clock it is over");
    ring.rotate(ahead).await.unwrap();
    let again = open(&tokens(Algorithm::EdDsa), folder.path(), ahead).unwrap();
    for ring in [&ring, &again] {
        assert_eq!(check(ring, &old, NOW), Ok(()), "the clock is right again");
    }
}

#[tokio::test]
async fn a_key_that_is_retired_by_a_clock_that_is_behind_verifies_for_long_enough() {
    let folder = tempfile::tempdir().unwrap();
    let ring = open(&tokens(Algorithm::EdDsa), folder.path(), NOW).unwrap();
    let old = sign(&ring, NOW);
    let year_ago = NOW.minus(Duration::from_secs(365 * 24 * 3600));
    ring.rotate(ClockReading { wall: year_ago, earliest: year_ago, latest: NOW, horizon: NOW })
        .await
        .unwrap();
    assert_eq!(check(&ring, &old, NOW.plus(Duration::from_secs(60))), Ok(()));
}

#[tokio::test]
async fn a_key_that_signed_for_longer_verifies_for_longer() {
    let folder = tempfile::tempdir().unwrap();
    let ring = open(&tokens(Algorithm::EdDsa), folder.path(), NOW).unwrap();
    let grant = AccessGrant { subject: "u1".into(), ..AccessGrant::default() };
    let long = ring.access_token(&grant, Duration::from_secs(7200), NOW).unwrap().token;
    ring.rotate(NOW.into()).await.unwrap();
    assert_eq!(check(&ring, &long, NOW.plus(Duration::from_secs(7259))), Ok(()));
}

#[tokio::test]
async fn a_restart_does_not_shorten_what_was_signed_for_longer() {
    let folder = tempfile::tempdir().unwrap();
    let ring = open(&tokens(Algorithm::EdDsa), folder.path(), NOW).unwrap();
    let grant = AccessGrant { subject: "u1".into(), ..AccessGrant::default() };
    let long = ring.access_token(&grant, MAX_TTL, NOW).unwrap().token;
    let almost = NOW.plus(MAX_TTL - Duration::from_secs(1));
    let again = open(&tokens(Algorithm::EdDsa), folder.path(), NOW).unwrap();
    again.rotate(NOW.into()).await.unwrap();
    assert_eq!(check(&again, &long, almost), Ok(()), "rotated after a restart");
    let other = open(&tokens(Algorithm::Es256), folder.path(), NOW).unwrap();
    assert_eq!(check(&other, &long, almost), Ok(()));
    let folder = tempfile::tempdir().unwrap();
    let ring = open(&tokens(Algorithm::EdDsa), folder.path(), NOW).unwrap();
    let long = ring.access_token(&grant, MAX_TTL, NOW).unwrap().token;
    let other = open(&tokens(Algorithm::Es256), folder.path(), NOW).unwrap();
    assert_eq!(check(&other, &long, almost), Ok(()), "another algorithm after a restart");
    drop(ring);
}

/// Counted from the latest moment that any clock showed, not from the one that is wrong.
#[tokio::test]
async fn a_restart_with_a_clock_that_is_behind_does_not_shorten_what_was_signed_for_longer() {
    let year_ago = NOW.minus(Duration::from_secs(365 * 24 * 3600));
    let behind = ClockReading { wall: year_ago, earliest: year_ago, latest: NOW, horizon: NOW };
    let grant = AccessGrant { subject: "u1".into(), ..AccessGrant::default() };
    let almost = NOW.plus(MAX_TTL - Duration::from_secs(1));
    for algorithm in [Algorithm::EdDsa, Algorithm::Es256] {
        let folder = tempfile::tempdir().unwrap();
        let ring = open(&tokens(Algorithm::EdDsa), folder.path(), NOW).unwrap();
        let long = ring.access_token(&grant, MAX_TTL, NOW).unwrap().token;
        let again = open(&tokens(algorithm), folder.path(), behind).unwrap();
        again.rotate(behind).await.unwrap();
        assert_eq!(check(&again, &long, almost), Ok(()), "{algorithm:?}");
    }
}

/// An account that an earlier version has made may have them.
#[test]
fn claims_that_pass_for_the_gateways_own_are_not_signed() {
    use base64::Engine as _;
    let folder = tempfile::tempdir().unwrap();
    let ring = open(&tokens(Algorithm::EdDsa), folder.path(), NOW).unwrap();
    let extra = json!({"azp": "app", "Sub": "root", "email": "root@example.com", "role": "clerk"});
    let extra = extra.as_object().unwrap().clone();
    let grant = AccessGrant { subject: "u1".into(), extra, ..AccessGrant::default() };
    let token = ring.access_token(&grant, Duration::from_secs(60), NOW).unwrap().token;
    let payload = token.split('.').nth(1).unwrap();
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap();
    let said: Map<String, Value> = serde_json::from_slice(&payload).unwrap();
    assert_eq!((&said["sub"], &said["role"]), (&json!("u1"), &json!("clerk")));
    assert!(["azp", "Sub", "email"].iter().all(|name| !said.contains_key(*name)), "{said:?}");
}

/// An own claim of one of these names stays in the record of an account where it did not fit.
#[test]
fn a_user_name_and_groups_are_said_once_and_as_the_gateway_has_them() {
    use base64::Engine as _;
    let folder = tempfile::tempdir().unwrap();
    let ring = open(&tokens(Algorithm::EdDsa), folder.path(), NOW).unwrap();
    let extra = json!({"groups": ["root"], "Groups": ["root"], "preferred_username": "root"});
    let extra = extra.as_object().unwrap().clone();
    let username = Some("Ann".parse().unwrap());
    let groups = Groups::new(&["staff", "Sales, EMEA"]).unwrap();
    let of = |grant: &AccessGrant| {
        let token = ring.access_token(grant, Duration::from_secs(60), NOW).unwrap().token;
        let payload =
            base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap());
        String::from_utf8(payload.unwrap()).unwrap()
    };
    let grant = AccessGrant { subject: "u1".into(), username, groups, extra, ..AccessGrant::default() };
    let said = of(&grant);
    assert!(!said.contains("root") && said.to_lowercase().matches("groups").count() == 1, "{said}");
    let claims: Map<String, Value> = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&claims["preferred_username"], &claims["groups"]),
        (&json!("ann"), &json!(["Sales, EMEA", "staff"]))
    );
    let identity = ring.identity(&grant, Duration::from_secs(60), NOW).unwrap();
    for name in ["preferred_username", "groups"] {
        assert_eq!(identity.claims.get(name), Some(&claims[name]), "a session in a cookie says the same");
    }
    assert!(!identity.claims.contains_key("Groups"));
    // None of an account that has none.
    let none = of(&AccessGrant { username: None, groups: Groups::default(), ..grant });
    assert!(
        !none.contains("root") && !none.contains("groups") && !none.contains("preferred_username"),
        "{none}"
    );
}

#[test]
fn another_algorithm_retires_the_old_keys() {
    let folder = tempfile::tempdir().unwrap();
    let token = sign(&open(&tokens(Algorithm::EdDsa), folder.path(), NOW).unwrap(), NOW);
    let ring = open(&tokens(Algorithm::Es256), folder.path(), NOW).unwrap();
    assert_eq!(check(&ring, &token, NOW), Ok(()));
    assert_eq!(ring.list()[0].algorithm, "ES256");
}

#[test]
fn an_unreadable_file_stops_the_start_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE);
    for text in ["", "{}", "{\"version\":2,\"keys\":[]}", "{\"version\":1,\"keys\":[]}", "hunter2"] {
        fs::write(&file, text).unwrap();
        let error = open(&tokens(Algorithm::EdDsa), folder.path(), NOW).err().unwrap();
        assert!(matches!(error, KeyRingError::Unreadable { .. }), "{error}");
        assert!(!error.to_string().contains("hunter2"));
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
}

#[tokio::test]
async fn a_key_from_the_configuration_is_used_and_never_rotated() {
    let folder = tempfile::tempdir().unwrap();
    for algorithm in ALL {
        let key = SigningKey::generate(algorithm).unwrap();
        let tokens = Tokens { key: Some(key.secret().to_owned().into()), ..tokens(algorithm) };
        let ring = open(&tokens, folder.path(), NOW).unwrap();
        assert_eq!(check(&ring, &sign(&ring, NOW), NOW), Ok(()));
        assert_eq!(ring.list().len(), 1);
        assert!(ring.rotate(NOW.into()).await.is_err());
        assert!(!folder.path().join(FILE).exists());
    }
    for (algorithm, text) in [(Algorithm::Hs256, "hunter2"), (Algorithm::EdDsa, "hunter2")] {
        let tokens = Tokens { key: Some(text.to_owned().into()), ..tokens(algorithm) };
        let error = open(&tokens, folder.path(), NOW).err().unwrap().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
