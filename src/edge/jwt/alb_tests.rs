//! What is taken for a statement of a load balancer, and what a flood of others can make us fetch.

use std::sync::Mutex as StdMutex;

use async_trait::async_trait;
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    KeyPair as _,
};
use base64::engine::general_purpose::STANDARD;
use futures::FutureExt as _;
use tokio::sync::Semaphore;

use super::*;
use crate::config::Tokens;
use palisade_core::domain::claim_names::ClaimNames;
use palisade_core::domain::claim_path::ClaimPath;
use palisade_core::domain::reach::Reach;
use palisade_core::ports::{Fetched, PostForm};
use palisade_testing::fakes::NoMeter;

const NOW: UnixTime = UnixTime(1_000_000);
const ISSUER: &str = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_abc";
const ARN: &str =
    "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/web/50dc6c495c0c9188";
const KID: &str = "8d72a3d1-3b4c-4f5e-9a6b-7c8d9e0f1a2b";
const KEYS: &str = "https://public-keys.auth.elb.eu-central-1.amazonaws.com";

/// Serves key files, and notes what it was asked for.
struct Aws {
    files: StdMutex<Vec<(String, String)>>,
    down: StdMutex<bool>,
    asked: StdMutex<Vec<String>>,
    /// A permit for each answer.
    turns: Semaphore,
}

impl Aws {
    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn serve(&self, kid: &str, pem: &str) {
        let mut files = self.files.lock().unwrap();
        files.retain(|(name, _)| name != kid);
        files.push((kid.to_owned(), pem.to_owned()));
    }
}

#[async_trait]
impl Fetch for Aws {
    async fn get(&self, request: FetchRequest<'_>) -> Result<Fetched, FetchError> {
        self.asked.lock().unwrap().push(request.url.to_owned());
        self.turns.acquire().await.unwrap().forget();
        let url = request.url.to_owned();
        if *self.down.lock().unwrap() {
            return Err(FetchError::Failed { url, why: "down".into() });
        }
        let kid = request.url.strip_prefix(KEYS).and_then(|rest| rest.strip_prefix('/')).unwrap();
        let files = self.files.lock().unwrap();
        match files.iter().find(|(name, _)| name == kid) {
            Some((_, pem)) => {
                Ok(Fetched { status: 200, body: pem.clone().into_bytes(), ..Fetched::default() })
            }
            None => Err(FetchError::Answered { url, status: 404, retry_after: None }),
        }
    }

    async fn post_form(&self, request: PostForm<'_>) -> Result<Fetched, FetchError> {
        panic!("nothing is sent anywhere: {}", request.url)
    }

    async fn post(&self, url: &str, _: &[(&str, String)], _: String) -> Result<u16, FetchError> {
        panic!("nothing is sent anywhere: {url}")
    }
}

fn pem(pair: &EcdsaKeyPair) -> String {
    let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der.as_ref()))
}

fn pair(algorithm: &'static EcdsaSigningAlgorithm) -> EcdsaKeyPair {
    EcdsaKeyPair::generate(algorithm).unwrap()
}

/// As AWS signs: each part of base64url with its padding.
fn signed(pair: &EcdsaKeyPair, head: &Value, payload: &Value) -> String {
    let signed = format!("{}.{}", URL_SAFE.encode(head.to_string()), URL_SAFE.encode(payload.to_string()));
    let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE.encode(signature))
}

fn merged(mut base: Value, change: &Value) -> Value {
    for (name, value) in change.as_object().unwrap() {
        match value {
            Value::Null => drop(base.as_object_mut().unwrap().remove(name)),
            value => base[name] = value.clone(),
        }
    }
    base
}

fn head(change: Value) -> Value {
    let head = json!({"typ": "JWT", "kid": KID, "alg": "ES256", "iss": ISSUER, "client": "app-client", "signer": ARN,
        "exp": 1_000_120});
    merged(head, &change)
}

fn payload(change: Value) -> Value {
    merged(
        json!({"sub": "ann", "email": "ann@example.com", "email_verified": "true", "exp": 1_000_120, "iss": ISSUER}),
        &change,
    )
}

struct House {
    balancers: BalancerVerifier,
    aws: Arc<Aws>,
    pair: EcdsaKeyPair,
}

fn settings() -> config::LoadBalancers {
    config::LoadBalancers {
        issuer: ISSUER.to_owned(),
        keys: KEYS.to_owned(),
        signers: vec![ARN.to_owned()],
        clients: vec!["app-client".to_owned()],
        email_trusted: false,
        claims: ClaimNames::default(),
        reach: Reach::default(),
        redaction: config::Redaction::default(),
    }
}

fn tokens() -> Tokens {
    Tokens {
        issuer: "https://we.test".into(),
        audience: "api".into(),
        algorithm: Algorithm::EdDsa,
        access_ttl: Duration::from_secs(1800),
        refresh_ttl: Duration::from_secs(86_400),
        refresh_repeat: Duration::from_secs(10),
        leeway: Duration::from_secs(60),
        key: None,
        cache_entries: 100,
        max_bytes: 24 * 1024,
    }
}

/// `turns`: how many requests are answered before the next one has to wait.
fn house(turns: usize) -> House {
    let pair = pair(&ECDSA_P256_SHA256_FIXED_SIGNING);
    let aws = Arc::new(Aws {
        files: StdMutex::default(),
        down: StdMutex::default(),
        asked: StdMutex::default(),
        turns: Semaphore::new(turns),
    });
    aws.serve(KID, &pem(&pair));
    let (fetch, meter): (Arc<dyn Fetch>, Arc<dyn Meter>) = (aws.clone(), Arc::new(NoMeter));
    let balancers = BalancerVerifier::new(&settings(), &tokens(), &fetch, &meter, None);
    House { balancers, aws, pair }
}

impl House {
    fn token(&self, head_change: Value, payload_change: Value) -> String {
        signed(&self.pair, &head(head_change), &payload(payload_change))
    }

    async fn fault(&self, token: &str, at: Instant) -> Option<TokenFault> {
        self.balancers.verify(token, NOW, at).await.err()
    }
}

#[tokio::test]
async fn a_statement_says_who_until_its_end_and_costs_one_fetch() {
    let house = house(1);
    let token = house.token(json!({}), json!({"groups": ["staff"], "signer": "other", "client": "other"}));
    assert!(token.contains('='), "{token}");
    let at = Instant::now();
    let verified = house.balancers.verify(&token, NOW, at).await.unwrap();
    let who = &verified.identity;
    assert_eq!((verified.kind(), &*who.issuer, &*who.subject), (TokenKind::LoadBalancer, ISSUER, "ann"));
    assert_eq!((who.verified_email(), who.expires_at), (Some("ann@example.com"), UnixTime(1_000_120)));
    // The payload is what the provider said: of itself the load balancer speaks in the header.
    assert_eq!((&who.claims["signer"], &who.claims["client"]), (&json!(ARN), &json!("app-client")));
    assert_eq!(who.issued_at, UnixTime(0), "it does not say since when, so every cutoff reaches it");
    assert!(house.balancers.accepts(who));
    // The same one, another one, and without the padding.
    assert!(Arc::ptr_eq(&verified, &house.balancers.verify(&token, NOW, at).await.unwrap()));
    assert_eq!(house.fault(&house.token(json!({}), json!({"sub": "bob"})), at).await, None);
    let raw = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let bare = format!("{}.{}", raw(head(json!({}))), raw(payload(json!({}))));
    let signature = house.pair.sign(&SystemRandom::new(), bare.as_bytes()).unwrap();
    assert_eq!(house.fault(&format!("{bare}.{}", URL_SAFE_NO_PAD.encode(signature)), at).await, None);
    assert_eq!(house.aws.asked(), 1);
    assert_eq!(*house.aws.asked.lock().unwrap(), [format!("{KEYS}/{KID}")]);
    let end = UnixTime(1_000_180);
    assert_eq!(
        house.balancers.verify(&token, end, at).await.err(),
        Some(TokenFault::Expired),
        "from the cache"
    );
    // The end that comes first counts.
    let early =
        house.balancers.verify(&house.token(json!({}), json!({"exp": 1_000_007})), NOW, at).await.unwrap();
    assert_eq!(early.identity.expires_at, UnixTime(1_000_007));
}

#[tokio::test]
async fn whatever_is_not_as_it_must_be_is_refused_before_a_key_is_fetched() {
    use TokenFault::{
        Algorithm as Alg, Audience, Claim, Critical, EmbeddedKey, Expired, Issuer, Malformed, NoExpiry,
        UnknownKey,
    };
    let house = house(1);
    let good = house.token(json!({}), json!({}));
    let elsewhere = ARN.replace("123456789012", "210987654321");
    let upper = KID.to_uppercase();
    let simple = KID.replace('-', "");
    let (braced, urn) = (format!("{{{KID}}}"), format!("urn:uuid:{KID}"));
    for (change, want) in [
        (json!({"signer": elsewhere}), Issuer),
        (json!({"signer": null}), Issuer),
        (json!({"signer": [ARN]}), Issuer),
        (json!({"iss": "https://evil.test"}), Issuer),
        (json!({"iss": null}), Issuer),
        (json!({"client": "another"}), Audience),
        (json!({"client": null}), Audience),
        (json!({"client": ["app-client"]}), Audience),
        (json!({"exp": 999_940}), Expired),
        (json!({"exp": null}), NoExpiry),
        (json!({"exp": "1000120"}), Claim),
        (json!({"exp": 1_000_120.5}), Claim),
        (json!({"alg": "none"}), Alg),
        (json!({"alg": "HS256"}), Alg),
        (json!({"alg": "ES384"}), Alg),
        (json!({"alg": "RS256"}), Alg),
        (json!({"crit": ["exp"]}), Critical),
        (json!({"jku": "https://evil.test/"}), EmbeddedKey),
        (json!({"jwk": {}}), EmbeddedKey),
        (json!({"kid": null}), UnknownKey),
        (json!({"kid": 7}), Malformed),
        (json!({"kid": ""}), UnknownKey),
        (json!({"kid": upper}), UnknownKey),
        (json!({"kid": simple}), UnknownKey),
        (json!({"kid": braced}), UnknownKey),
        (json!({"kid": urn}), UnknownKey),
        (json!({"kid": format!("{KID}/")}), UnknownKey),
        (json!({"kid": format!("../{KID}")}), UnknownKey),
        (json!({"kid": "../../../latest/meta-data/iam"}), UnknownKey),
        (json!({"kid": "@169.254.169.254/x"}), UnknownKey),
        (json!({"kid": format!("{KID}?x")}), UnknownKey),
    ] {
        assert_eq!(
            house.fault(&house.token(change.clone(), json!({})), Instant::now()).await,
            Some(want),
            "{change}"
        );
    }
    let (start, rest) = good.split_once('.').unwrap();
    for (what, token) in [
        ("four parts", format!("{good}.AAAA")),
        ("two parts", good.rsplit_once('.').unwrap().0.to_owned()),
        ("half a padding", format!("{start}=.{rest}")),
        ("the other alphabet", good.replacen('.', ".+/", 1)),
        ("a name twice", {
            let twice = head(json!({})).to_string().replacen('{', "{\"alg\":\"ES256\",", 1);
            format!("{}.{rest}", URL_SAFE.encode(twice))
        }),
    ] {
        let fault = house.fault(&token, Instant::now()).await;
        assert!(matches!(fault, Some(Malformed | TokenFault::DuplicateName)), "{what}: {fault:?}");
    }
    assert_eq!(house.aws.asked(), 0, "no key is needed to refuse these");
}

#[tokio::test]
async fn a_good_signature_of_another_load_balancer_or_over_other_claims_is_none() {
    use TokenFault::{Bound, Claim, Expired, Issuer, NotYet, Signature, Subject};
    let house = house(1);
    let at = Instant::now();
    assert_eq!(house.fault(&house.token(json!({}), json!({})), at).await, None);
    let other = pair(&ECDSA_P256_SHA256_FIXED_SIGNING);
    let forged = signed(&other, &head(json!({})), &payload(json!({"sub": "root"})));
    assert_eq!(house.fault(&forged, at).await, Some(Signature));
    let good = house.token(json!({}), json!({}));
    let (signed, _) = good.rsplit_once('.').unwrap();
    assert_eq!(house.fault(&format!("{signed}."), at).await, Some(Signature));
    for (change, want) in [
        (json!({"sub": null}), Subject),
        (json!({"sub": ""}), Subject),
        (json!({"sub": "a\r\nX-Auth-Subject: root"}), Subject),
        (json!({"iss": "https://evil.test"}), Issuer),
        (json!({"iss": [ISSUER]}), Issuer),
        (json!({"exp": "soon"}), Claim),
        (json!({"exp": 999_940}), Expired),
        (json!({"nbf": 1_000_061}), NotYet),
        (json!({"cnf": {"jkt": "x"}}), Bound),
    ] {
        assert_eq!(house.fault(&house.token(json!({}), change.clone()), at).await, Some(want), "{change}");
    }
    assert_eq!(house.aws.asked(), 1);
}

#[tokio::test]
async fn a_flood_of_unknown_keys_is_one_fetch_in_ten_seconds() {
    let house = house(100);
    let at = Instant::now();
    assert_eq!(house.fault(&house.token(json!({}), json!({})), at).await, None);
    let later = |seconds| at + Duration::from_secs(seconds);
    for n in 0..50_u128 {
        let kid = Uuid::from_u128(n).hyphenated().to_string();
        let forged = house.token(json!({"kid": kid}), json!({}));
        assert_eq!(house.fault(&forged, later(9)).await, Some(TokenFault::UnknownKey));
    }
    assert_eq!(house.aws.asked(), 1, "the first one was asked for within ten seconds");
    for n in 0..50_u128 {
        let forged = house.token(json!({"kid": Uuid::from_u128(n).hyphenated().to_string()}), json!({}));
        assert_eq!(house.fault(&forged, later(10)).await, Some(TokenFault::UnknownKey));
    }
    assert_eq!(house.aws.asked(), 2);
    // A key of another customer verifies nothing here, and is not kept.
    let other = pair(&ECDSA_P256_SHA256_FIXED_SIGNING);
    let theirs = Uuid::from_u128(99).hyphenated().to_string();
    house.aws.serve(&theirs, &pem(&other));
    let forged = house.token(json!({"kid": theirs}), json!({}));
    assert_eq!(house.fault(&forged, later(20)).await, Some(TokenFault::Signature));
    assert_eq!(house.fault(&forged, later(21)).await, Some(TokenFault::UnknownKey));
    // The key that is in use goes on through all of it, and nothing was asked for a second time.
    assert_eq!(house.fault(&house.token(json!({}), json!({"sub": "eve"})), later(21)).await, None);
    assert_eq!(house.aws.asked(), 3);
    assert_eq!(house.balancers.keys.lock().kept.len(), 1);
}

#[tokio::test]
async fn those_who_wait_for_one_key_share_one_fetch_and_a_caller_that_leaves_ends_it_for_none() {
    let house = house(0);
    let (token, at) = (house.token(json!({}), json!({})), Instant::now());
    let (first, second) = (house.balancers.verify(&token, NOW, at), house.balancers.verify(&token, NOW, at));
    let mut first = Box::pin(first);
    assert!(futures::poll!(&mut first).is_pending());
    let mut second = Box::pin(second);
    assert!(futures::poll!(&mut second).is_pending());
    // Another key is not waited for while that one is fetched.
    let other = house.token(json!({"kid": Uuid::from_u128(1).hyphenated().to_string()}), json!({}));
    assert_eq!(house.fault(&other, at).now_or_never(), Some(Some(TokenFault::UnknownKey)));
    drop(first);
    house.aws.turns.add_permits(1);
    assert_eq!(second.await.unwrap().identity.subject, "ann");
    assert_eq!(house.aws.asked(), 1);
}

#[tokio::test]
async fn keys_are_bounded_in_number_and_the_least_used_one_makes_room() {
    let house = house(1000);
    let start = Instant::now();
    let step = |n: usize| start + ASK_AGAIN * u32::try_from(n).unwrap();
    for n in 0..=MOST_KEYS {
        let kid = Uuid::from_u128(n as u128).hyphenated().to_string();
        house.aws.serve(&kid, &pem(&house.pair));
        let token = house.token(json!({"kid": kid}), json!({}));
        assert_eq!(house.fault(&token, step(n)).await, None);
        // The first one stays in use.
        let first = house.token(json!({"kid": Uuid::from_u128(0).hyphenated().to_string()}), json!({"n": n}));
        assert_eq!(house.fault(&first, step(n)).await, None);
    }
    let state = house.balancers.keys.lock();
    let has = |n: u128| state.kept.iter().any(|kept| kept.kid == Uuid::from_u128(n));
    assert_eq!((state.kept.len(), has(0), has(1)), (MOST_KEYS, true, false));
}

#[tokio::test]
async fn a_known_key_stays_while_its_address_is_down_and_goes_when_it_is_withdrawn() {
    let house = house(100);
    let at = Instant::now();
    let token = house.token(json!({}), json!({}));
    assert_eq!(house.fault(&token, at).await, None);
    // A token that is not in the cache makes us look again, in the background.
    let anew = |n: u64| house.token(json!({}), json!({"n": n}));
    let looked = async |want: usize| {
        while house.aws.asked() < want {
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    };
    *house.aws.down.lock().unwrap() = true;
    assert_eq!(house.fault(&anew(1), at + LOOK_AGAIN).await, None);
    looked(2).await;
    assert_eq!(house.fault(&anew(2), at + LOOK_AGAIN).await, None, "the last good one stays");
    assert_eq!(house.aws.asked(), 2, "not before a minute is over");
    *house.aws.down.lock().unwrap() = false;
    house.aws.files.lock().unwrap().clear();
    assert_eq!(house.fault(&anew(3), at + LOOK_AGAIN + RETRY).await, None);
    looked(3).await;
    // Withdrawn: what it verified is verified again, and not from the cache.
    let gone = at + LOOK_AGAIN + RETRY + RETRY;
    assert_eq!(house.fault(&token, gone).await, Some(TokenFault::UnknownKey));
    // Another key under the same name.
    let other = pair(&ECDSA_P256_SHA256_FIXED_SIGNING);
    house.aws.serve(KID, &pem(&other));
    let theirs = signed(&other, &head(json!({})), &payload(json!({})));
    assert_eq!(house.fault(&theirs, gone + ASK_AGAIN).await, None);
    assert_eq!(house.fault(&token, gone + ASK_AGAIN).await, Some(TokenFault::Signature));
}

#[tokio::test]
async fn keys_go_on_with_another_configuration_unless_their_address_changed() {
    let house = house(1);
    let (token, at) = (house.token(json!({}), json!({})), Instant::now());
    assert_eq!(house.fault(&token, at).await, None);
    let (fetch, meter): (Arc<dyn Fetch>, Arc<dyn Meter>) = (house.aws.clone(), Arc::new(NoMeter));
    let next = |settings: config::LoadBalancers| {
        BalancerVerifier::new(&settings, &tokens(), &fetch, &meter, Some(&house.balancers))
    };
    let same = next(config::LoadBalancers { clients: vec!["x".into(), "app-client".into()], ..settings() });
    assert!(same.verify(&token, NOW, at).await.is_ok());
    let who = house.balancers.verify(&token, NOW, at).await.unwrap();
    assert!(same.accepts(&who.identity));
    // Who a person is can be in another claim of the user info.
    let by_name = ClaimNames { subject: ClaimPath::parse("email").ok(), ..ClaimNames::default() };
    let by_name = next(config::LoadBalancers { claims: by_name, ..settings() });
    assert_eq!(by_name.verify(&token, NOW, at).await.unwrap().identity.subject, "ann@example.com");
    let narrower = next(config::LoadBalancers { clients: vec!["x".into()], ..settings() });
    assert!(!narrower.accepts(&who.identity));
    let moved = next(config::LoadBalancers { signers: vec![ARN.replace("web", "new")], ..settings() });
    assert!(!moved.accepts(&who.identity));
    assert_eq!(narrower.verify(&token, NOW, at).await.err(), Some(TokenFault::Audience));
    assert_eq!(house.aws.asked(), 1);
    let elsewhere = next(config::LoadBalancers { keys: format!("{KEYS}/x"), ..settings() });
    assert!(elsewhere.keys.lock().kept.is_empty());
}

#[test]
fn a_key_file_is_one_p256_key() {
    let good = pem(&pair(&ECDSA_P256_SHA256_FIXED_SIGNING));
    assert!(BalancerKey::read(good.as_bytes()).is_ok());
    assert!(BalancerKey::read(good.trim_end().as_bytes()).is_ok());
    for bad in [
        "",
        "<html>",
        &good.replace("PUBLIC KEY", "CERTIFICATE"),
        &pem(&pair(&ECDSA_P384_SHA384_FIXED_SIGNING)),
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    ] {
        assert!(BalancerKey::read(bad.as_bytes()).is_err(), "{bad}");
    }
}
