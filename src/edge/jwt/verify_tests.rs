//! The classes of hostile tokens, table by table, and the RFCs' own vectors.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, json};

use super::super::introspection::IntrospectionPorts;
use super::super::issuers::{ASK_AGAIN, Asker, KeySetOutcome};
use super::super::keys::SigningKey;
use super::*;
use crate::config::{Algorithm, Issuer, Jwks};
use palisade_core::domain::claim_path::ClaimPath;
use palisade_core::ports::{
    AccessGrant, Fetch, FetchError, FetchRequest, Fetched, Keys, OwnCredentials, PostForm, Signer, StoreError,
};
use palisade_testing::fakes::{FakeClock, NoMeter};

const NOW: UnixTime = UnixTime(1_000_000);
const URL: &str = "https://i.test/jwks.json";

struct NoCredentials;
#[async_trait]
impl OwnCredentials for NoCredentials {
    async fn is_ours(&self, _: &str) -> Result<bool, StoreError> {
        panic!("nothing is asked about opaque tokens here")
    }
}

/// Serves what it is told to, and counts.
#[derive(Default)]
struct Source {
    body: std::sync::Mutex<Option<String>>,
    asked: AtomicUsize,
}

impl Source {
    fn set(&self, keys: &[&SigningKey]) {
        let keys: Vec<Value> = keys.iter().filter_map(|key| key.public_jwk()).collect();
        *self.body.lock().unwrap() = Some(json!({ "keys": keys }).to_string());
    }
}

#[async_trait]
impl Fetch for Source {
    async fn get(&self, request: FetchRequest<'_>) -> Result<Fetched, FetchError> {
        let url = request.url;
        assert_eq!(url, URL, "nothing but the configured source is asked");
        self.asked.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let body = self.body.lock().unwrap().clone();
        let fetched = |body: String| Fetched { status: 200, body: body.into_bytes(), retry_after: None };
        body.map(fetched).ok_or_else(|| FetchError::Failed { url: url.into(), why: "down".into() })
    }

    async fn post_form(&self, request: PostForm<'_>) -> Result<Fetched, FetchError> {
        panic!("keys are never sent anywhere: {}", request.url)
    }

    async fn post(&self, url: &str, _: &[(&str, String)], _: String) -> Result<u16, FetchError> {
        panic!("keys are never sent anywhere: {url}")
    }
}

/// The subjects of the tokens that were verified for the first time.
#[derive(Default)]
struct Firsts(Mutex<Vec<String>>);

impl FirstVerified for Firsts {
    fn passed(&self, identity: &Identity) {
        self.0.lock().unwrap().push(identity.subject.clone());
    }
}

struct House {
    verifier: TokenVerifier,
    ring: Arc<SigningKeyRing>,
    issuers: Arc<Issuers>,
    source: Arc<Source>,
    theirs: SigningKey,
    firsts: Arc<Firsts>,
    _folder: tempfile::TempDir,
}

async fn house() -> House {
    let tokens = Tokens {
        issuer: "https://we.test".into(),
        audience: "api".into(),
        algorithm: Algorithm::EdDsa,
        access_ttl: Duration::from_secs(1800),
        refresh_ttl: Duration::from_secs(86_400),
        refresh_repeat: Duration::from_secs(10),
        leeway: Duration::from_secs(60),
        key: None,
        max_bytes: 24 * 1024,
        cache_entries: 100,
    };
    let folder = tempfile::tempdir().unwrap();
    let ring =
        Arc::new(SigningKeyRing::open(&tokens, super::super::tests::secrets_of(folder.path()), NOW).unwrap());
    let source = Arc::new(Source::default());
    let theirs = SigningKey::generate(Algorithm::Es256).unwrap();
    source.set(&[&theirs]);
    let issuer = Issuer {
        redaction: Default::default(),
        issuer: "https://i.test".into(),
        names: vec!["https://i.test".into()],
        claims: Default::default(),
        jwks: Jwks::Url(URL.into()),
        reach: Default::default(),
        line: 0,
        audiences: vec!["api".into()],
        algorithms: vec![Algorithm::Es256, Algorithm::EdDsa, Algorithm::Hs256],
        email_trusted: false,
    };
    let meter: Arc<dyn Meter> = Arc::new(NoMeter);
    let fetch: Arc<dyn Fetch> = source.clone();
    let clock = Arc::new(FakeClock::default());
    let issuers = Arc::new(Issuers::new(&[issuer], Asker::new(fetch, Arc::clone(&meter), clock, None)));
    issuers.refresh_all().await;
    let clocks = Arc::new(Clocks::open(folder.path()).unwrap());
    let ports = IntrospectionPorts {
        fetch: source.clone(),
        meter: Arc::clone(&meter),
        own: Arc::new(NoCredentials),
        clocks: Arc::clone(&clocks),
    };
    let others = Arc::new(OtherIssuers::none(ports));
    let firsts = Arc::new(Firsts::default());
    let verifier = TokenVerifier::new(
        &tokens,
        Arc::clone(&ring),
        Arc::clone(&issuers),
        others,
        clocks,
        meter,
        firsts.clone(),
    );
    House { verifier, ring, issuers, source, theirs, firsts, _folder: folder }
}

impl House {
    fn fault(&self, token: &str) -> Option<TokenFault> {
        self.verifier.verify(token, NOW).err()
    }

    fn ours(&self) -> String {
        let grant = AccessGrant {
            subject: "u1".into(),
            email: Some("a@b.test".into()),
            session: Some("s1".into()),
            version: 2,
            scopes: vec!["read".into(), "write".into()],
            extra: json!({"role": "admin", "sub": "root", "aud": "other"}).as_object().unwrap().clone(),
            ..AccessGrant::default()
        };
        self.ring.access_token(&grant, Duration::from_secs(1800), NOW).unwrap().token
    }
}

fn claims(change: Value) -> Map<String, Value> {
    let mut claims = json!({"iss": "https://i.test", "aud": "api", "sub": "u1", "exp": 1_000_600});
    for (name, value) in change.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object().unwrap().clone()
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// `token` with another header, still signed as before.
fn with_header(token: &str, header: Value) -> String {
    let (_, rest) = token.split_once('.').unwrap();
    format!("{}.{rest}", b64(header.to_string()))
}

#[tokio::test]
async fn good_tokens_of_both_kinds_are_verified_and_remembered() {
    let house = house().await;
    let ours = house.ours();
    let first = house.verifier.verify(&ours, NOW).unwrap();
    assert_eq!(first.identity.subject, "u1", "extra claims replace none of ours");
    assert_eq!(first.identity.scopes, ["read", "write"]);
    assert_eq!(first.identity.version, Some(2));
    assert!(first.identity.claim_holds(&ClaimPath::parse("role").unwrap(), &["admin".into()]));
    assert!(Arc::ptr_eq(&first, &house.verifier.verify(&ours, NOW).unwrap()));
    // Not again from the cache.
    assert_eq!(*house.firsts.0.lock().unwrap(), ["u1"]);
    // By a clock that was set back, it has not begun.
    let verify_at = |at: UnixTime| house.verifier.verify(&ours, at);
    assert!(Arc::ptr_eq(&first, &verify_at(NOW.minus(Duration::from_secs(60))).unwrap()));
    let early = NOW.minus(Duration::from_secs(61));
    assert_eq!(verify_at(early).err(), Some(TokenFault::NotYet), "even from the cache");
    verify_at(NOW).unwrap();
    let end = UnixTime(first.identity.expires_at.0 + 60);
    assert_eq!(house.verifier.verify(&ours, end).err(), Some(TokenFault::Expired), "even from the cache");
    let seen = house.firsts.0.lock().unwrap().len();
    for typ in ["JWT", "at+jwt", "AT+JWT"] {
        assert_eq!(house.fault(&house.theirs.sign(typ, &claims(json!({}))).unwrap()), None, "{typ}");
    }
    assert_eq!(house.firsts.0.lock().unwrap().len(), seen, "of tokens of others it is not told");
}

#[tokio::test]
async fn hostile_headers_and_signatures_are_refused() {
    use TokenFault::{Algorithm as Alg, Issuer, Malformed, Signature, TooLong, Type, UnknownKey};
    let house = house().await;
    let good = house.theirs.sign("JWT", &claims(json!({}))).unwrap();
    let kid = house.theirs.kid.clone();
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let other = house.theirs.sign("JWT", &claims(json!({"sub": "u2"}))).unwrap();
    let ours = house.ours();
    let our_kid = house.ring.list()[0].kid.clone();
    // The public key, as published, used as the HMAC secret.
    let public = house.theirs.public_jwk().unwrap().to_string();
    let hs = SigningKey::read(Algorithm::Hs256, &public).unwrap();
    let confused = hs.sign("JWT", &claims(json!({}))).unwrap();
    let our_hs = hs.sign("at+jwt", &claims(json!({"iss": "https://we.test", "type": "access"}))).unwrap();
    let (our_signed, our_rest) = our_hs.split_once('.').unwrap();
    let stranger = SigningKey::generate(Algorithm::Es256).unwrap();
    let forged = stranger.sign("JWT", &claims(json!({}))).unwrap();
    let for_us = house.theirs.sign("at+jwt", &claims(json!({"iss": "https://we.test", "type": "access"})));
    for (what, token, want) in [
        ("none", with_header(&good, json!({"alg": "none", "kid": kid})), Alg),
        ("nOnE", with_header(&good, json!({"alg": "nOnE", "kid": kid})), Alg),
        ("HS256 with the public key", confused, Alg),
        ("HS256 for our own", our_hs.clone(), UnknownKey),
        (
            "HS256 under our kid",
            with_header(
                &format!("{our_signed}.{our_rest}"),
                json!({"alg": "HS256", "typ": "at+jwt", "kid": our_kid}),
            ),
            Alg,
        ),
        ("kid path", with_header(&good, json!({"alg": "ES256", "kid": "../../dev/null"})), UnknownKey),
        ("kid SQL", with_header(&good, json!({"alg": "ES256", "kid": "' OR 1=1--"})), UnknownKey),
        ("kid URL", with_header(&good, json!({"alg": "ES256", "kid": "https://evil.test/k"})), UnknownKey),
        ("our kid for theirs", with_header(&good, json!({"alg": "ES256", "kid": our_kid})), UnknownKey),
        ("another alg", with_header(&good, json!({"alg": "EdDSA", "kid": kid})), Alg),
        ("alg not allowed", with_header(&good, json!({"alg": "RS256", "kid": kid})), Alg),
        ("their key for ours", for_us.unwrap(), UnknownKey),
        ("a stranger's key", forged.clone(), UnknownKey),
        ("a stranger's key, their kid", with_header(&forged, json!({"alg": "ES256", "kid": kid})), Signature),
        ("no signature", format!("{signed}."), Signature),
        ("truncated", format!("{signed}.{}", b64([7; 63])), Signature),
        ("all zero", format!("{signed}.{}", b64([0; 64])), Signature),
        ("swapped", format!("{signed}.{}", other.rsplit_once('.').unwrap().1), Signature),
        ("non-base64url", format!("{signed}.{}!", signature), Malformed),
        ("padded", format!("{good}=="), Malformed),
        ("24 KiB and one", format!("{signed}.{}", "A".repeat(24 * 1024 - signed.len())), TooLong),
        ("1 MB", "A".repeat(1 << 20), TooLong),
        (
            "our token, typ JWT",
            with_header(&ours, json!({"alg": "EdDSA", "typ": "JWT", "kid": our_kid})),
            Type,
        ),
        (
            "unknown issuer",
            house.theirs.sign("JWT", &claims(json!({"iss": "https://x.test"}))).unwrap(),
            Issuer,
        ),
        ("iss array", house.theirs.sign("JWT", &claims(json!({"iss": ["https://i.test"]}))).unwrap(), Issuer),
    ] {
        assert_eq!(house.fault(&token), Some(want), "{what}");
    }
    assert_eq!(house.source.asked.load(Ordering::SeqCst), 1, "no token made us fetch");
    let identity = house.verifier.verify(&good, NOW).unwrap();
    let assertion = house.ring.assertion(&identity.identity, "app", NOW).unwrap();
    assert_eq!(house.fault(&assertion), Some(Type), "an assertion opens nothing here");
}

#[tokio::test]
async fn signed_claims_still_have_to_be_right() {
    use TokenFault::{Audience, Claim, Expired, NotYet, Subject, Use};
    let house = house().await;
    for (change, want) in [
        (json!({"exp": "1000600"}), Claim),
        (json!({"exp": 1_000_600.5}), Claim),
        (json!({"exp": -5}), Claim),
        (json!({"exp": 999_940}), Expired),
        (json!({"nbf": 1_000_061}), NotYet),
        (json!({"iat": "now"}), Claim),
        (json!({"aud": 1}), Audience),
        (json!({"aud": {}}), Audience),
        (json!({"sub": null}), Subject),
        (json!({"type": "refresh"}), Use),
        (json!({"type": "password-reset"}), Use),
    ] {
        let token = house.theirs.sign("JWT", &claims(change.clone())).unwrap();
        assert_eq!(house.fault(&token), Some(want), "{change}");
    }
    let head = b64(json!({"alg": "ES256", "kid": house.theirs.kid}).to_string());
    for (payload, want) in [
        (r#"{"iss":"https://i.test","iss":"https://i.test"}"#, TokenFault::DuplicateName),
        (r#"{"iss":"https://i.test"}{"#, TokenFault::Malformed),
        ("[]", TokenFault::Malformed),
        // What else is in it is not read before its signature holds.
        (r#"{"iss":"https://i.test","exp":1e400,"a":1,"a":2}"#, TokenFault::Signature),
    ] {
        assert_eq!(house.fault(&format!("{head}.{}.AAAA", b64(payload))), Some(want), "{payload}");
    }
}

#[tokio::test]
async fn a_flood_of_unknown_keys_makes_one_fetch_per_ten_seconds() {
    let house = house().await;
    let asked = || house.source.asked.load(Ordering::SeqCst);
    let issuers = &house.issuers;
    let start = Instant::now() + ASK_AGAIN; // Past the prefetch.
    let learn = |at| async move { issuers.learn("https://i.test", at).await };
    let new = SigningKey::generate(Algorithm::Es256).unwrap();
    let token = new.sign("JWT", &claims(json!({}))).unwrap();
    assert_eq!(house.fault(&token), Some(TokenFault::UnknownKey));
    assert!(!house.verifier.learn_keys(&token).await, "asked a moment ago");

    house.source.set(&[&house.theirs, &new]);
    let learned = futures::future::join_all((0..1000).map(|_| learn(start))).await;
    assert!(learned[0], "the first one asked");
    assert_eq!(asked(), 2);
    assert_eq!(house.fault(&token), None);
    for tenth in 0..99 {
        assert!(!learn(start + Duration::from_millis(tenth * 100)).await);
    }
    assert_eq!(asked(), 2);
    assert!(learn(start + ASK_AGAIN).await);
    assert_eq!(asked(), 3);
    assert!(!issuers.learn("https://x.test", start + ASK_AGAIN * 9).await);
}

#[tokio::test]
async fn a_key_that_was_replaced_under_its_name_is_found_by_one_look_per_ten_seconds() {
    let house = house().await;
    let asked = || house.source.asked.load(Ordering::SeqCst);
    let issuers = &house.issuers;
    let learn = |at| async move { issuers.learn("https://i.test", at).await };
    let published = |key: &SigningKey| {
        let mut jwk = key.public_jwk().unwrap();
        jwk["kid"] = json!("main");
        json!({ "keys": [jwk] }).to_string()
    };
    let serve = |body: String| *house.source.body.lock().unwrap() = Some(body);
    let token = |key: &SigningKey| {
        let mut named = key.clone();
        named.kid = "main".into();
        named.sign("JWT", &claims(json!({}))).unwrap()
    };
    serve(published(&house.theirs));
    house.issuers.refresh_all().await;
    let before = token(&house.theirs);
    assert_eq!(house.fault(&before), None);
    let mut looks = asked();
    let start = Instant::now() + ASK_AGAIN;

    // Of the same algorithm, then of another.
    for (round, algorithm) in [Algorithm::Es256, Algorithm::EdDsa].into_iter().enumerate() {
        let new = SigningKey::generate(algorithm).unwrap();
        let at = start + ASK_AGAIN * u32::try_from(round).unwrap();
        serve(published(&new));
        let fault = house.fault(&token(&new)).unwrap();
        assert!(fault.may_lack_keys(), "{fault:?}");
        let learned = futures::future::join_all((0..1000).map(|_| learn(at))).await;
        assert!(learned[0], "the first one asked");
        looks += 1;
        assert_eq!(house.fault(&token(&new)), None, "{algorithm:?}");
        assert!(house.fault(&before).is_some(), "not from the cache either");
        // A flood of forged signatures asks no more often.
        for tenth in 0..99 {
            assert!(!learn(at + Duration::from_millis(tenth * 100)).await);
        }
        assert_eq!(asked(), looks);
    }
    // Neither our own tokens nor an algorithm that the issuer may not use are worth a look.
    let foreign = SigningKey::generate(Algorithm::Rs256).unwrap();
    assert_eq!(house.fault(&token(&foreign)), Some(TokenFault::Algorithm));
    assert!(!house.verifier.learn_keys(&token(&foreign)).await);
    assert!(!house.verifier.learn_keys(&house.ours()).await);
    assert_eq!(asked(), looks);
}

#[tokio::test]
async fn a_key_of_one_issuer_in_a_shared_set_signs_for_no_other() {
    let house = house().await;
    let serve = |limit: Value| {
        let mut jwk = house.theirs.public_jwk().unwrap();
        jwk["issuer"] = limit;
        *house.source.body.lock().unwrap() = Some(json!({ "keys": [jwk] }).to_string());
    };
    let token = house.theirs.sign("JWT", &claims(json!({}))).unwrap();
    for (limit, want) in [
        (json!("https://i.test"), None),
        (json!(null), None),
        (json!("https://j.test"), Some(TokenFault::UnknownKey)),
        (json!("https://i.test/"), Some(TokenFault::UnknownKey)),
        (json!(["https://i.test"]), Some(TokenFault::UnknownKey)),
        (json!(""), Some(TokenFault::UnknownKey)),
    ] {
        serve(limit.clone());
        let news = house.issuers.begin(Duration::from_secs(20)).await;
        assert_eq!(house.fault(&token), want, "{limit}");
        if want.is_some() {
            assert!(news[0].to_string().contains(&house.theirs.kid), "it is named: {}", news[0]);
        }
    }
}

#[tokio::test]
async fn a_caller_who_leaves_does_not_take_the_keys_along() {
    let house = house().await;
    let new = SigningKey::generate(Algorithm::Es256).unwrap();
    house.source.set(&[&house.theirs, &new]);
    let at = Instant::now() + ASK_AGAIN;
    {
        let mut leaving = std::pin::pin!(house.issuers.learn("https://i.test", at));
        assert!(futures::poll!(leaving.as_mut()).is_pending());
    }
    // Waits for the fetch that goes on, then finds it was made.
    house.issuers.learn("https://i.test", at).await;
    assert_eq!(house.source.asked.load(Ordering::SeqCst), 2);
    assert_eq!(house.fault(&new.sign("JWT", &claims(json!({}))).unwrap()), None);
}

#[tokio::test]
async fn the_last_good_keys_stay_and_withdrawn_ones_go() {
    let house = house().await;
    let token = house.theirs.sign("JWT", &claims(json!({}))).unwrap();
    for bad in [
        None,
        Some("<html>"),
        Some("{\"keys\":{}}"),
        Some("{}"),
        Some("[]"),
        Some("{\"keys\":[],\"keys\":[]}"),
    ] {
        *house.source.body.lock().unwrap() = bad.map(str::to_owned);
        house.issuers.refresh_all().await;
        assert_eq!(house.fault(&token), None, "{bad:?}");
    }
    let new = SigningKey::generate(Algorithm::Es256).unwrap();
    house.source.set(&[&new]);
    house.issuers.refresh_all().await;
    assert_eq!(house.fault(&token), Some(TokenFault::UnknownKey), "not from the cache either");
    // A valid set without a usable key withdraws them all.
    for empty in ["{\"keys\":[]}", "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}"] {
        house.source.set(&[&new]);
        house.issuers.refresh_all().await;
        let token = new.sign("JWT", &claims(json!({}))).unwrap();
        assert_eq!(house.fault(&token), None);
        *house.source.body.lock().unwrap() = Some(empty.to_owned());
        let news = house.issuers.begin(Duration::from_secs(20)).await;
        assert!(
            matches!(&news[0].outcome, KeySetOutcome::Changed { keys: 0, new: 0, withdrawn: 1, .. }),
            "{news:?}"
        );
        assert!(news[0].to_string().contains("none that can be used") && news[0].is_worrying());
        assert_eq!(house.fault(&token), Some(TokenFault::UnknownKey), "{empty}");
        assert_eq!(house.issuers.without_keys().len(), 1);
    }
}

#[test]
fn key_sets_keep_only_what_is_safe_and_unambiguous() {
    let key = SigningKey::generate(Algorithm::Es256).unwrap().public_jwk().unwrap();
    let other = SigningKey::generate(Algorithm::Es256).unwrap().public_jwk().unwrap();
    let rsa = SigningKey::generate(Algorithm::Rs256).unwrap().public_jwk().unwrap();
    let with = |jwk: &Value, name: &str, value: Value| {
        let mut jwk = jwk.clone();
        jwk[name] = value;
        jwk
    };
    let secret = json!({"kty": "oct", "k": b64([1; 32])});
    let public_only = [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256, Algorithm::Ps256];
    let of_length = |n: &[u8]| json!({"kty": "RSA", "n": b64(n), "e": "AQAB"});
    // How many keys are kept, and how many are worth a word.
    for (keys, want) in [
        (json!([]), (0, 0)),
        (json!([key]), (1, 0)),
        (json!([key, other]), (2, 0)),
        (json!([with(&key, "kid", json!("a")), with(&other, "kid", json!("a"))]), (0, 1)),
        (json!([with(&key, "kid", json!("a")), with(&key, "kid", json!("a"))]), (1, 0)),
        (
            json!([
                with(&key, "kid", json!("a")),
                with(&other, "kid", json!("a")),
                with(&key, "kid", json!("a"))
            ]),
            (0, 1),
        ),
        (json!([rsa, with(&rsa, "alg", json!("PS256"))]), (1, 0)),
        (json!([with(&key, "kid", json!("a")), with(&rsa, "kid", json!("a"))]), (2, 0)),
        (
            json!([
                with(&key, "kid", json!("a")),
                with(&rsa, "kid", json!("a")),
                with(&other, "kid", json!("a"))
            ]),
            (0, 1),
        ),
        (json!([with(&key, "kid", json!(7))]), (0, 1)),
        (json!([with(&key, "kid", Value::Null)]), (1, 0)),
        (json!([with(&key, "alg", Value::Null)]), (1, 0)),
        (json!([with(&key, "use", Value::Null)]), (1, 0)),
        (json!([with(&key, "key_ops", Value::Null)]), (1, 0)),
        (json!([with(&key, "y", key["x"].clone())]), (0, 1)),
        (json!([of_length(&[&[255; 255], &[254][..]].concat())]), (0, 1)),
        (json!([with(&key, "use", json!("enc"))]), (0, 0)),
        (json!([with(&key, "key_ops", json!(["encrypt"]))]), (0, 0)),
        (json!([with(&key, "key_ops", json!(["verify"]))]), (1, 0)),
        (json!([with(&key, "alg", json!("RS256"))]), (0, 1)),
        (json!([with(&key, "alg", json!("ECDH-ES+A128KW"))]), (0, 0)),
        (json!([with(&key, "crv", json!("P-521"))]), (0, 1)),
        (json!([with(&key, "crv", json!("secp256k1"))]), (0, 0)),
        (json!([with(&key, "x", json!("AAAA"))]), (0, 1)),
        (json!([of_length(&[255; 128])]), (0, 1)),
        (json!([of_length(&[255; 255])]), (0, 1)),
        (json!([of_length(&[&[0], &[255; 255][..]].concat())]), (0, 1)),
        (json!([of_length(&[&[0x7f], &[255; 255][..]].concat())]), (0, 1)),
        (json!([of_length(&[255; 256])]), (1, 0)),
        (json!([of_length(&[&[0], &[255; 256][..]].concat())]), (1, 0)),
        (json!([of_length(&[255; 1025])]), (0, 1)),
        (json!([with(&rsa, "e", json!("AQ"))]), (0, 1)),
        (json!([with(&rsa, "e", json!("AAE"))]), (0, 1)),
        (json!([with(&rsa, "e", json!("Ag"))]), (0, 1)),
        (json!([with(&rsa, "e", json!("Aw"))]), (1, 0)),
        (json!([with(&rsa, "e", json!("AQAAAAE"))]), (1, 0)),
        (json!([with(&rsa, "e", json!("AgAAAAE"))]), (0, 1)),
        (json!([with(&rsa, "e", json!("AQAAAAAB"))]), (0, 1)),
        (json!([secret, key]), (1, 1)),
        (json!([secret]), (0, 1)),
        (json!([7, null, [], "key"]), (0, 0)),
    ] {
        let set = json!({ "keys": keys }).to_string();
        let read = KeySet::parse(set.as_bytes(), &public_only).unwrap();
        assert_eq!((read.len(), read.left_out().len()), want, "{set} {:?}", read.left_out());
    }
    for broken in
        ["", "[]", "{}", "{\"keys\":{}}", "{\"keys\":null}", "{\"keys\":[],\"keys\":[]}", "{\"keys\":[]}x"]
    {
        assert!(KeySet::parse(broken.as_bytes(), &public_only).is_err(), "{broken}");
    }
}

#[test]
fn a_shared_secret_is_another_one_when_it_differs() {
    let secret = |byte| json!({"kty": "oct", "kid": "a", "k": b64([byte; 32])});
    let count = |keys: Value| {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), &[Algorithm::Hs256]).unwrap().len()
    };
    assert_eq!((count(json!([secret(1), secret(1)])), count(json!([secret(1), secret(2)]))), (1, 0));
}

/// RFC 7515 appendices A.1 to A.4, RFC 8037 appendix A.4.
#[test]
fn the_vectors_of_the_rfcs_verify() {
    let payload =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    for (jwk, token) in [
        (
            json!({"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}),
            format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{payload}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
        ),
        (
            json!({"kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}),
            format!("eyJhbGciOiJSUzI1NiJ9.{payload}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"),
        ),
        (
            json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}),
            format!("eyJhbGciOiJFUzI1NiJ9.{payload}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"),
        ),
        (
            json!({"kty": "EC", "crv": "P-521", "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk", "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2"}),
            "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn".to_owned(),
        ),
        (
            json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg".to_owned(),
        ),
    ] {
        let set = json!({ "keys": [jwk] }).to_string();
        let verifier = SetVerifier::new(set.as_bytes(), Duration::from_secs(60)).unwrap();
        assert_eq!(verifier.check_signature(&token), Ok(()), "{token}");
        let other = token.replace(".eyJ", ".eyK").replace(".RXh", ".RXi").replace(".UGF", ".UGG");
        assert_eq!(verifier.check_signature(&other), Err(TokenFault::Signature));
        let claims = verifier.check(&token, None, None, NOW).unwrap_err();
        assert!(matches!(claims, TokenFault::Subject | TokenFault::Malformed | TokenFault::Audience));
    }
}
