//! What an issuer is asked, what its answers are worth, and how little a flood of tokens makes us ask.

use std::collections::HashSet;
use std::sync::Mutex as StdMutex;

use async_trait::async_trait;
use futures::FutureExt as _;
use serde_json::json;
use tokio::sync::Semaphore;

use super::*;
use crate::config::{IntrospectedIssuer, Introspection, OptionalMembers};
use palisade_core::domain::claim_path::ClaimPath;
use palisade_core::domain::reach::Reach;
use palisade_core::ports::{Ended, FetchError, FetchRequest, StoreError};

const NOW: UnixTime = UnixTime(1_000_000);
const ISSUER: &str = "https://i.test";
const URL: &str = "https://i.test/introspect";
const TOKEN: &str = "2YotnFZFEjr1zCsicMWpAA";

/// Counts by outcome.
#[derive(Default)]
struct Counts(StdMutex<Vec<&'static str>>);
impl Meter for Counts {
    fn ended(&self, _: &Ended<'_>) {}
    fn token_cache(&self, _: bool) {}
    fn store_call(&self, _: &'static str, _: Duration, _: bool) {}
    fn mail(&self, _: &'static str) {}
    fn password(&self, _: Duration, _: Duration) {}
    fn jwks_fetch(&self, _: &str, _: bool) {}
    fn introspection(&self, issuer: &str, outcome: &'static str) {
        assert_eq!(issuer, ISSUER);
        self.0.lock().unwrap().push(outcome);
    }
    fn provider_call(&self, _: &str, _: &'static str, _: &'static str, _: Duration) {}
    fn provider_request(&self, _: &str, _: &'static str) {}
    fn plugin_reload(&self, _: &str, _: &'static str) {}
}

/// An endpoint that answers what it is told to.
struct Endpoint {
    answer: StdMutex<Result<Fetched, &'static str>>,
    asked: StdMutex<Vec<Vec<(String, String)>>>,
    /// A permit for each answer.
    turns: Semaphore,
}

impl Endpoint {
    fn answers(&self, status: u16, body: &str) {
        let body = body.as_bytes().to_vec();
        *self.answer.lock().unwrap() = Ok(Fetched { status, body, ..Fetched::default() });
    }

    fn says(&self, answer: &Value) {
        self.answers(200, &answer.to_string());
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

#[async_trait]
impl Fetch for Endpoint {
    async fn get(&self, request: FetchRequest<'_>) -> Result<Fetched, FetchError> {
        panic!("nothing is fetched: {}", request.url)
    }

    async fn post_form(&self, request: PostForm<'_>) -> Result<Fetched, FetchError> {
        assert_eq!((request.url, request.timeout), (URL, Duration::from_secs(5)));
        let mut form: Vec<(String, String)> =
            request.form.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        match request.auth {
            FormAuth::Basic { user, password } => {
                form.push((format!("{user} by basic"), password.expose_secret().to_owned()));
            }
            FormAuth::None => {}
            FormAuth::Bearer(_) => panic!("not configured"),
        }
        self.asked.lock().unwrap().push(form);
        self.turns.acquire().await.unwrap().forget();
        let answer = self.answer.lock().unwrap();
        answer.clone().map_err(|why| FetchError::Failed { url: URL.into(), why: why.into() })
    }

    async fn post(&self, url: &str, _: &[(&str, String)], _: String) -> Result<u16, FetchError> {
        panic!("nothing else is sent: {url}")
    }
}

/// Knows these.
#[derive(Default)]
struct Own(HashSet<&'static str>);

#[async_trait]
impl OwnCredentials for Own {
    async fn is_ours(&self, text: &str) -> Result<bool, StoreError> {
        match text {
            "unknown" => Err(StoreError::Unavailable("the disk".to_owned())),
            text => Ok(self.0.contains(text)),
        }
    }
}

struct House {
    introspector: Arc<Introspector>,
    endpoint: Arc<Endpoint>,
    counts: Arc<Counts>,
    at: Instant,
    _folder: tempfile::TempDir,
}

fn settings(change: impl FnOnce(&mut Introspection)) -> IntrospectedIssuer {
    let mut introspection = Introspection {
        url: URL.to_owned(),
        client_id: "palisade".to_owned(),
        client_secret: "hunter2".into(),
        client_auth: IntrospectionAuth::Basic,
        optional: OptionalMembers::default(),
        cache: Duration::from_secs(10),
        timeout: Duration::from_secs(5),
        in_flight: 8,
        per_second: 100,
    };
    change(&mut introspection);
    IntrospectedIssuer {
        issuer: ISSUER.to_owned(),
        audiences: vec!["api".to_owned()],
        email_trusted: false,
        claims: Default::default(),
        introspection,
        reach: Reach::default(),
        redaction: config::Redaction::default(),
    }
}

/// `turns`: how many requests are answered before the next one has to wait.
fn house(turns: usize, change: impl FnOnce(&mut Introspection)) -> House {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = Arc::new(Endpoint {
        answer: StdMutex::new(Err("down")),
        asked: StdMutex::default(),
        turns: Semaphore::new(turns),
    });
    endpoint.says(&active(json!({})));
    let counts = Arc::new(Counts::default());
    let ports = IntrospectionPorts {
        fetch: endpoint.clone(),
        meter: counts.clone(),
        own: Arc::new(Own(HashSet::from(["ours"]))),
        clocks: Arc::new(Clocks::open(folder.path()).unwrap()),
    };
    let leeway = Duration::from_secs(60);
    let introspector = Arc::new(Introspector::new(&settings(change), leeway, ports).unwrap());
    House { introspector, endpoint, counts, at: Instant::now(), _folder: folder }
}

fn active(change: Value) -> Value {
    let mut answer = json!({"active": true, "iss": ISSUER, "aud": "api", "sub": "ann", "client_id": "app",
        "token_type": "Bearer", "scope": "read write", "exp": 1_000_600, "iat": 999_000});
    for (name, value) in change.as_object().unwrap() {
        match value {
            Value::Null => drop(answer.as_object_mut().unwrap().remove(name)),
            value => answer[name] = value.clone(),
        }
    }
    answer
}

impl House {
    async fn ask(&self, token: &str, seconds: u64) -> Result<Arc<Verified>, Refusal> {
        let after = Duration::from_secs(seconds);
        self.introspector.verify(token, NOW.plus(after), self.at + after).await
    }

    async fn fault(&self, token: &str) -> Option<TokenFault> {
        match self.ask(token, 0).await {
            Ok(_) => None,
            Err(Refusal::Token(fault)) => Some(fault),
            Err(other) => panic!("{other:?}"),
        }
    }

    async fn is_shed(&self, token: &str, seconds: u64) -> bool {
        matches!(self.ask(token, seconds).await, Err(Refusal::IssuerUnavailable { retry_after }) if retry_after >= SECOND)
    }

    fn counted(&self) -> Vec<&'static str> {
        self.counts.0.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn an_active_token_is_asked_about_once_in_ten_seconds() {
    let house = house(100, |_| ());
    let verified = house.ask(TOKEN, 0).await.unwrap();
    let who = &verified.identity;
    assert_eq!((verified.kind(), &*who.issuer, &*who.subject), (TokenKind::Opaque, ISSUER, "ann"));
    assert_eq!((who.expires_at, who.issued_at), (UnixTime(1_000_600), UnixTime(999_000)));
    assert_eq!(who.scopes, ["read", "write"]);
    assert!(who.claims.contains_key("client_id") && !who.claims.contains_key("active"));
    assert!(house.introspector.accepts(who));
    let form = [("token", TOKEN), ("token_type_hint", "access_token"), ("palisade by basic", "hunter2")];
    let form: Vec<_> = form.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    assert_eq!(*house.endpoint.asked.lock().unwrap(), [form]);
    assert!(Arc::ptr_eq(&verified, &house.ask(TOKEN, 9).await.unwrap()));
    assert_eq!(house.endpoint.asked(), 1);
    house.ask(TOKEN, 12).await.unwrap();
    assert_eq!(house.endpoint.asked(), 2);
    // A clock that was set, or a machine that was suspended: either clock ends it.
    let later = Duration::from_secs(24);
    house.introspector.verify(TOKEN, NOW.plus(later), house.at + Duration::from_secs(12)).await.unwrap();
    assert_eq!(house.endpoint.asked(), 3);
    house.introspector.verify(TOKEN, NOW, house.at + Duration::from_secs(12)).await.unwrap();
    assert_eq!(house.endpoint.asked(), 4);
    assert_eq!(house.counted(), ["active"; 4]);
}

#[tokio::test]
async fn the_end_that_an_answer_names_ends_it_before_the_ten_seconds() {
    let house = house(100, |_| ());
    house.endpoint.says(&active(json!({"exp": 999_945})));
    assert!(house.ask(TOKEN, 0).await.is_ok());
    house.endpoint.says(&json!({"active": false}));
    assert_eq!(house.ask(TOKEN, 5).await.err(), Some(Refusal::Token(TokenFault::Inactive)));
    assert_eq!(house.endpoint.asked(), 2);
}

#[tokio::test]
async fn the_credentials_go_where_the_operator_says() {
    let house = house(1, |introspection| introspection.client_auth = IntrospectionAuth::Post);
    house.ask(TOKEN, 0).await.unwrap();
    let asked = house.endpoint.asked.lock().unwrap();
    let form: Vec<_> = asked[0].iter().map(|(name, value)| (&**name, &**value)).collect();
    let want = [
        ("token", TOKEN),
        ("token_type_hint", "access_token"),
        ("client_id", "palisade"),
        ("client_secret", "hunter2"),
    ];
    assert_eq!(form, want);
}

#[tokio::test]
async fn active_counts_only_with_this_issuer_and_audience_and_as_the_claims_of_a_jwt_would() {
    use TokenFault::{Audience, Bound, Claim, Expired, Inactive, Issuer, NoExpiry, NotYet, Subject, Use};
    let house = house(1000, |_| ());
    let cases = [
        (json!({"active": false}), Inactive),
        (json!({"iss": "https://i.test/"}), Issuer),
        (json!({"iss": null}), Issuer),
        (json!({"iss": [ISSUER]}), Issuer),
        (json!({"aud": "other"}), Audience),
        (json!({"aud": ["other"]}), Audience),
        (json!({"aud": null}), Audience),
        (json!({"aud": ["api", 1]}), Audience),
        (json!({"sub": null}), Subject),
        (json!({"sub": "a\nb"}), Subject),
        (json!({"exp": 999_940}), Expired),
        (json!({"exp": null}), NoExpiry),
        (json!({"exp": "1000600"}), Claim),
        (json!({"nbf": 1_000_061}), NotYet),
        (json!({"iat": 1_000_061}), NotYet),
        (json!({"cnf": {"jkt": "x"}}), Bound),
        (json!({"cnf": {"x5t#S256": "x"}}), Bound),
        (json!({"token_type": "DPoP"}), Use),
        (json!({"token_type": "mac"}), Use),
        (json!({"token_type": "refresh_token"}), Use),
        (json!({"token_type": 7}), Use),
        (json!({"token_use": "refresh_token"}), Use),
        (json!({"token_use": "id"}), Use),
        (json!({"typ": "Refresh"}), Use),
        (json!({"typ": "Offline"}), Use),
        (json!({"typ": "ID"}), Use),
    ];
    for (n, (change, want)) in cases.into_iter().enumerate() {
        house.endpoint.says(&active(change.clone()));
        let token = format!("bad-{n}");
        assert_eq!(house.fault(&token).await, Some(want), "{change}");
        // The answer is remembered, whatever the endpoint would say now.
        house.endpoint.says(&active(json!({})));
        assert_eq!(house.fault(&token).await, Some(want), "{change}");
        assert_eq!(house.endpoint.asked(), n + 1, "{change}");
        assert!(house.ask(&token, 12 + 12 * n as u64).await.is_ok(), "{change}");
        house.endpoint.asked.lock().unwrap().truncate(n + 1);
    }
}

#[tokio::test]
async fn what_servers_of_the_field_say_more_or_less_is_fine() {
    let house = house(100, |_| ());
    for (n, change) in [
        json!({"token_type": null, "iat": null, "scope": null}),
        json!({"token_type": "bearer", "aud": ["other", "api"], "username": "Ann", "extension_field": "twenty-seven"}),
        json!({"token_type": "Bearer", "typ": "Bearer", "sid": "s1", "azp": "app", "realm_access": {"roles": ["a"]}}),
        json!({"token_use": "access_token", "ext": {}}),
        json!({"typ": "user", "jti": "j1"}),
    ]
    .into_iter()
    .enumerate()
    {
        house.endpoint.says(&active(change.clone()));
        assert_eq!(house.fault(&format!("good-{n}")).await, None, "{change}");
    }
}

#[tokio::test]
async fn a_member_that_is_optional_counts_where_it_is_there() {
    use TokenFault::{Audience, Issuer};
    let both = OptionalMembers { iss: true, aud: true };
    for (n, (optional, change, want)) in [
        // A refresh token of a server that calls it by no name.
        (both, json!({"aud": null, "token_type": null}), Some(TokenFault::Use)),
        (both, json!({"aud": null, "token_type": null, "token_use": "access_token"}), None),
        (both, json!({"iss": null, "aud": null}), None),
        (both, json!({"iss": "https://evil.test", "aud": null}), Some(Issuer)),
        (both, json!({"iss": null, "aud": "other"}), Some(Audience)),
        (both, json!({"iss": null, "aud": []}), Some(Audience)),
        (OptionalMembers { iss: true, aud: false }, json!({"iss": null, "aud": null}), Some(Audience)),
        (OptionalMembers { iss: false, aud: true }, json!({"iss": null, "aud": null}), Some(Issuer)),
        (OptionalMembers { iss: false, aud: true }, json!({"aud": null}), None),
    ]
    .into_iter()
    .enumerate()
    {
        let house = house(1, |introspection| introspection.optional = optional);
        house.endpoint.says(&active(change.clone()));
        assert_eq!(house.fault(&format!("token-{n}")).await, want, "{optional:?} {change}");
        if want.is_none() {
            let verified = house.ask(&format!("token-{n}"), 1).await.unwrap();
            assert_eq!(&*verified.identity.issuer, ISSUER);
            assert!(house.introspector.accepts(&verified.identity));
        }
    }
    // The client for which a token was made stands for the audience, but does not make an access token of it.
    for (change, want) in [
        (json!({"aud": null, "client_id": "api"}), None),
        (json!({"aud": "api"}), Some(Audience)),
        (json!({"aud": null, "client_id": "api", "token_type": null}), Some(TokenFault::Use)),
    ] {
        let mut house = house(1, |_| ());
        house.endpoint.says(&active(change.clone()));
        let mut by_client = settings(|_| ());
        by_client.claims.audience = ClaimPath::parse("client_id").ok();
        let ports = house.introspector.ports.clone();
        house.introspector = Arc::new(Introspector::new(&by_client, Duration::from_secs(60), ports).unwrap());
        assert_eq!(house.fault(TOKEN).await, want, "{change}");
    }
    // A literal null is a member that is not there.
    let house = house(1, |introspection| introspection.optional = both);
    let null = active(json!({})).to_string().replace("\"api\"", "null").replace("\"https://i.test\"", "null");
    house.endpoint.answers(200, &null);
    assert_eq!(house.fault(TOKEN).await, None);
}

#[tokio::test]
async fn no_signed_token_and_no_credential_of_ours_is_sent() {
    let house = house(100, |_| ());
    for token in [
        "eyJhbGciOiJub25lIn0.e30.",
        "eyJhbGciOiJub25lIn0.e30.AAAA",
        "a.b.c.d.e",
        "two words",
        "caf\u{e9}",
        "line\nfeed",
        "",
        "ours",
    ] {
        assert_eq!(house.fault(token).await, Some(TokenFault::Malformed), "{token}");
    }
    // What cannot be told is not sent either.
    assert!(house.is_shed("unknown", 0).await);
    assert_eq!(house.endpoint.asked(), 0);
}

#[tokio::test]
async fn requests_about_one_token_are_one_and_a_caller_that_leaves_ends_it_for_none() {
    let house = house(0, |_| ());
    let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(house.ask(TOKEN, 0))).collect();
    for caller in &mut waiting {
        assert!(futures::poll!(caller).is_pending());
    }
    drop(waiting.remove(0));
    house.endpoint.turns.add_permits(1);
    let answers = futures::future::join_all(waiting).await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|who| who.identity.subject == "ann")));
    assert_eq!((house.endpoint.asked(), house.counted()), (1, vec!["active"]));
    assert!(house.introspector.lock().flights.is_empty());
}

#[tokio::test]
async fn requests_at_once_are_bounded_and_known_tokens_have_a_share_of_their_own() {
    let house = house(1, |_| ());
    house.ask("known", 0).await.unwrap();
    let mut waiting: Vec<_> = (0..6).map(|n| (n, format!("made-up-{n}"))).collect();
    let names = std::mem::take(&mut waiting);
    let mut calls: Vec<_> = names.iter().map(|(_, name)| Box::pin(house.ask(name, 12))).collect();
    for call in &mut calls {
        assert!(futures::poll!(call).is_pending());
    }
    let shed = house.is_shed("made-up-6", 12).now_or_never();
    assert_eq!(shed, Some(true), "six of eight are for tokens that were never active");
    let mut known = Box::pin(house.ask("known", 12));
    assert!(futures::poll!(&mut known).is_pending());
    house.endpoint.turns.add_permits(7);
    assert!(known.await.is_ok());
    assert!(futures::future::join_all(calls).await.iter().all(Result::is_ok));
    assert_eq!(house.endpoint.asked(), 8);
    assert_eq!(house.counted().iter().filter(|outcome| **outcome == "shed").count(), 1);
}

#[tokio::test]
async fn requests_in_a_second_are_bounded_whatever_the_flood() {
    let house = house(1000, |introspection| introspection.per_second = 8);
    house.ask("known", 0).await.unwrap();
    house.endpoint.says(&json!({"active": false}));
    for n in 0..100 {
        let shed = house.is_shed(&format!("made-up-{n}"), 12).await;
        assert_eq!(shed, n >= 6, "{n}");
    }
    house.endpoint.says(&active(json!({})));
    assert!(house.ask("known", 12).await.is_ok());
    assert_eq!(house.endpoint.asked(), 8);
    // Made-up ones are remembered as such, and the next second brings others a turn.
    assert_eq!(house.ask("made-up-0", 13).await.err(), Some(Refusal::Token(TokenFault::Inactive)));
    assert!(house.ask("another", 13).await.is_ok());
    // With bounds of one there is nothing to keep back.
    let one =
        |introspection: &mut Introspection| (introspection.per_second, introspection.in_flight) = (1, 1);
    let house = self::house(1000, one);
    assert!(house.ask("a", 0).await.is_ok());
    assert!(house.is_shed("b", 0).await);
    assert!(house.ask("b", 1).await.is_ok());
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_alone_and_says_nothing_against_a_token() {
    let house = house(1000, |_| ());
    house.ask(TOKEN, 0).await.unwrap();
    let down = |why| *house.endpoint.answer.lock().unwrap() = Err(why);
    down("no connection");
    assert!(house.is_shed("other", 20).await);
    let asked = house.endpoint.asked();
    assert!(house.is_shed("another", 0).await, "paused");
    assert_eq!(house.endpoint.asked(), asked);
    // What is known of a token does not outlive its seconds: fail closed.
    assert!(house.is_shed(TOKEN, 40).await);
    house.endpoint.says(&active(json!({})));
    assert!(house.ask(TOKEN, 60).await.is_ok());
    for (status, body) in [(401, ""), (429, ""), (503, "")] {
        let house = self::house(1000, |_| ());
        house.endpoint.answers(status, body);
        assert!(house.is_shed("a", 0).await, "{status}");
        assert!(house.is_shed("b", 0).await, "{status}");
        assert_eq!(house.endpoint.asked(), 1, "{status}");
    }
}

/// A firewall refuses what looks like an attack, an answer about one person is too large: a stranger chooses such a token.
#[tokio::test]
async fn what_fails_for_the_token_of_a_stranger_keeps_no_one_out_who_is_at_work() {
    for (status, is_paused) in [(None, true), (Some(429), true), (Some(503), true), (Some(403), false)] {
        let house = house(1000, |_| ());
        house.ask(TOKEN, 0).await.unwrap();
        match status {
            None => *house.endpoint.answer.lock().unwrap() = Err("more than 65536 bytes"),
            Some(status) => house.endpoint.answers(status, ""),
        }
        assert!(house.is_shed("<script>", 20).await, "{status:?}");
        house.endpoint.says(&active(json!({})));
        assert!(house.ask(TOKEN, 20).await.is_ok(), "{status:?}");
        assert_eq!(house.is_shed("new", 20).await, is_paused, "{status:?}");
    }
    // Refused credentials are the same for every token.
    let house = house(1000, |_| ());
    house.ask(TOKEN, 0).await.unwrap();
    house.endpoint.answers(401, "");
    assert!(house.is_shed("other", 20).await);
    house.endpoint.says(&active(json!({})));
    assert!(house.is_shed(TOKEN, 20).await);
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_about_that_token_alone() {
    for (status, body) in [
        (400, "{}"),
        (403, ""),
        (404, "{\"active\":true}"),
        (500, ""),
        (302, ""),
        (200, ""),
        (200, "<html>"),
        (200, "[]"),
        (200, "{}"),
        (200, "{\"active\":\"true\"}"),
        (200, "{\"active\":1}"),
        (200, "{\"active\":null}"),
        (200, "{\"active\":false,\"active\":true}"),
    ] {
        let house = house(1000, |_| ());
        house.endpoint.answers(status, body);
        assert!(house.is_shed("odd", 0).await, "{status} {body}");
        assert!(house.is_shed("odd", 0).await, "{status} {body}");
        assert_eq!(house.endpoint.asked(), 1, "{status} {body}");
        house.endpoint.says(&active(json!({})));
        assert!(house.ask("good", 0).await.is_ok(), "{status} {body}");
        assert!(house.ask("odd", 3).await.is_ok(), "{status} {body}");
    }
}

#[tokio::test]
async fn a_retry_after_is_kept_to_and_bounded() {
    for (asked, waits) in [(Some(30), 30), (Some(100_000), 60), (None, 1)] {
        let house = house(1000, |_| ());
        let retry_after = asked.map(Duration::from_secs);
        *house.endpoint.answer.lock().unwrap() =
            Ok(Fetched { status: 503, retry_after, ..Fetched::default() });
        let refused = house.ask("a", 0).await.err();
        assert_eq!(refused, Some(Refusal::IssuerUnavailable { retry_after: Duration::from_secs(waits) }));
        house.endpoint.says(&active(json!({})));
        assert!(house.is_shed("b", waits - 1).await);
        assert!(house.ask("b", waits + 1).await.is_ok());
    }
}

#[test]
fn what_is_kept_is_bounded_by_its_size() {
    let house = house(0, |_| ());
    for n in 0..MOST_ANSWERS {
        let mut digest = Digest::default();
        digest[..8].copy_from_slice(&n.to_be_bytes());
        let outcome = Err(Unaccepted::Token(TokenFault::Inactive));
        let (at, since) = (house.at, NOW);
        let answer = Answer { outcome, at, since, good_for: SECOND, size: 7 * ORDINARY };
        house.introspector.others.insert(digest, answer);
    }
    house.introspector.others.run_pending_tasks();
    assert!(house.introspector.others.entry_count() <= MOST_ANSWERS / 8);
}
