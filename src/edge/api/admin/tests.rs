//! The admin API over fakes of the ports.

use super::super::body::MAX_BODY;
use super::super::described::{self, Answer};
use super::super::fakes;
use super::operator::Peer;
use super::*;
use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::future::FutureExt;
use palisade_core::domain::account::UserId;
use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::domain::email_change::{Freeze, FreezeStage};
use palisade_core::domain::session::Lifetimes;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{
    BackupBytes, BackupRefused, BackupRequest, Backups, Change, Control, ProviderFault, Store,
};
use palisade_core::service::accounts::Accounts;
use palisade_core::service::caller::Person;
use palisade_core::service::clock::{GuardedClock, Timekeeping};
use palisade_core::service::connections::{Begin, Connections};
use palisade_core::service::mint::Mint;
use palisade_core::service::revoke::{Lives, Revoke};
use palisade_core::service::rotate::Rotate;
use palisade_core::service::storage::Storage;
use palisade_testing::accounts_world::{self, ANN, BROWSER, PASSWORD};
use palisade_testing::connection_fakes::{ACME, FakeProviders};
use palisade_testing::fakes::{
    FakeAudit, FakeClock, FakeEntropy, FakeIssuerClocks, FakeKeys, FakeSigner, FakeStore, NOW,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;
use tower::ServiceExt;

const CREDENTIAL: &str = "test-credential";

struct Api {
    router: Router,
    document: Value,
    accounts: Accounts,
    /// The operations that were done.
    done: Mutex<BTreeSet<String>>,
    store: Arc<FakeStore>,
    clock: Arc<FakeClock>,
    audit: Arc<FakeAudit>,
    connections: Connections,
    providers: Arc<FakeProviders>,
}

/// A gateway that is ready, or not for the reason it is given, and whose configuration is broken
/// exactly then.
struct FakeControl(Option<&'static str>);

#[async_trait::async_trait]
impl Control for FakeControl {
    async fn reload(&self) -> Result<Vec<String>, Vec<String>> {
        match self.0 {
            Some(why) => Err(vec![why.to_owned()]),
            None => Ok(vec!["1 route".to_owned()]),
        }
    }

    fn configuration(&self) -> String {
        "5a5a".to_owned()
    }

    fn not_ready_because(&self) -> Vec<String> {
        self.0.into_iter().map(str::to_owned).collect()
    }

    fn missing(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A backup of two parts; none to a recipient that is none.
struct FakeBackups;

struct FakeBytes(u32);

#[async_trait]
impl BackupBytes for FakeBytes {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        self.0 += 1;
        Ok((self.0 < 3).then(|| format!("part {}\n", self.0).into_bytes()))
    }
}

#[async_trait]
impl Backups for FakeBackups {
    async fn begin(&self, request: BackupRequest) -> Result<Box<dyn BackupBytes>, BackupRefused> {
        match request.recipients.first().map(String::as_str) {
            Some("none") => Err(BackupRefused::Invalid("recipient 1 is none".to_owned())),
            Some("later") => Err(BackupRefused::Unavailable("four are being read".to_owned())),
            _ => Ok(Box::new(FakeBytes(0))),
        }
    }
}

fn api(not_ready: Option<&'static str>) -> Api {
    let world = accounts_world::world();
    let providers = Arc::new(FakeProviders::open());
    let connections = fakes::over(&world, &providers);
    let (store, audit, accounts) = (world.store, world.audit, world.accounts);
    let (signer, clock) = (Arc::new(FakeSigner), Arc::new(FakeClock::default()));
    let (hour, none) = (Duration::from_secs(3600), Duration::ZERO);
    // The fake store answers without waiting.
    let holder = palisade_core::domain::lease::LeaseHolder(uuid::Uuid::nil());
    let guarded =
        GuardedClock::start(clock.clone(), Box::new(|| Duration::ZERO), &*store, holder).now_or_never();
    let guarded = guarded.unwrap().unwrap();
    let revoke = Revoke::new(
        store.clone(),
        signer.clone(),
        guarded.clone(),
        Arc::new(FakeEntropy::default()),
        Arc::new(FakeIssuerClocks),
        Lives {
            tokens: hour,
            sessions: Lifetimes { sliding: hour, absolute: hour, browser: BROWSER },
            leeway: none,
        },
    );
    let router = admin_router(AdminState {
        credential: CREDENTIAL.into(),
        storage: Storage::new(store.clone()),
        backups: Arc::new(FakeBackups),
        revoke: revoke.clone(),
        mint: Mint::new(store.clone(), signer, clock.clone(), hour, 8192),
        rotate: Rotate::new(Arc::new(FakeKeys::default()), clock.clone()),
        timekeeping: Timekeeping::new(guarded, store.clone(), revoke),
        connections: connections.clone(),
        accounts: accounts.clone(),
        control: Arc::new(FakeControl(not_ready)),
        metrics: Arc::new(|| "# metrics\n".to_owned()),
        pages: LinkPages { verify: "https://app.test/v".to_owned(), reset: "https://app.test/r".to_owned() },
    });
    Api {
        router,
        document: description(),
        accounts,
        done: Mutex::default(),
        store,
        clock,
        audit,
        connections,
        providers,
    }
}

impl Api {
    async fn send(&self, request: Request) -> (u16, Value) {
        let (method, path) = (request.method().as_str().to_lowercase(), request.uri().path().to_owned());
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let text = String::from_utf8(to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap();
        let answer = Answer::new(&parts, text);
        let status = answer.status;
        assert_eq!(answer.header("cache-control"), "no-store");
        let is_problem = answer.header("content-type") == "application/problem+json";
        assert_eq!(
            is_problem,
            (400..=499).contains(&status)
                || matches!(status, 500 | 502)
                || status == 503 && path != "/readyz",
            "status {status}"
        );
        let operation = described::holds(&self.document, &method, &path, &answer);
        self.done.lock().unwrap().extend(operation.filter(|_| status < 300));
        (status, answer.body())
    }

    async fn post(&self, path: &str, body: &str) -> (u16, Value) {
        let request = request("POST", path)
            .header("authorization", format!("Bearer {CREDENTIAL}"))
            .header("content-type", "application/json; charset=utf-8");
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let request = request("GET", path).header("authorization", format!("bearer {CREDENTIAL}"));
        self.send(request.body(Body::empty()).unwrap()).await
    }

    async fn patch(&self, path: &str, body: &str) -> (u16, Value) {
        let request = request("PATCH", path)
            .header("authorization", format!("Bearer {CREDENTIAL}"))
            .header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    async fn delete(&self, path: &str) -> (u16, Value) {
        let request = request("DELETE", path).header("authorization", format!("Bearer {CREDENTIAL}"));
        self.send(request.body(Body::empty()).unwrap()).await
    }
}

fn request(method: &str, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path)
}

fn token(claims: &Value) -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

#[tokio::test]
async fn only_the_credential_opens_the_door() {
    let api = api(None);
    for (path, authorization) in [
        ("/admin/v1/keys", None),
        ("/admin/v1/keys", Some("Bearer wrong")),
        ("/admin/v1/keys", Some("Basic test-credential")),
        ("/admin/v1/keys", Some("Bearer ")),
        ("/admin/v1/nothing", None),
    ] {
        let mut request = request("GET", path);
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let (status, problem) = api.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!((status, &problem["code"]), (401, &json!("unauthorized")));
    }
    assert_eq!(api.get("/admin/v1/keys").await.0, 200);
    assert_eq!(api.get("/admin/v1/nothing").await.0, 404);
    assert_eq!(api.get("/admin/v1/reload").await.1["code"], "method_not_allowed");
}

#[tokio::test]
async fn a_token_is_revoked_by_what_it_says() {
    let api = api(None);
    let token = token(&json!({"iss": "https://they.test", "jti": "j1", "exp": NOW.0 + 9}));
    let (status, entry) = api.post("/admin/v1/revocations", &json!({"token": token}).to_string()).await;
    assert_eq!(status, 201);
    assert_eq!(entry["target"], json!({"kind": "token", "issuer": "https://they.test", "jti": "j1"}));
    assert_eq!(entry["expires_at"], NOW.0 + 9);
    for nothing in ["sessions_ended", "live_session", "account"] {
        assert_eq!(entry[nothing], Value::Null, "{nothing}: sessions of another issuer are not kept here");
    }
    let (_, list) = api.get("/admin/v1/revocations?limit=5").await;
    for (name, value) in list["revocations"][0].as_object().unwrap() {
        assert_eq!(entry[name], *value, "{name}");
    }
}

#[tokio::test]
async fn a_token_without_an_id_names_the_cure() {
    let body = json!({"token": token(&json!({"sub": "alice"}))}).to_string();
    let (status, problem) = api(None).post("/admin/v1/revocations", &body).await;
    assert_eq!((status, &problem["code"]), (422, &json!("token_without_id")));
    assert!(problem["detail"].as_str().unwrap().contains("`sid`"));
}

#[tokio::test]
async fn the_other_targets() {
    let api = api(None);
    for (body, kind) in [
        (r#"{"jti":"a"}"#, "token"),
        (r#"{"sid":"a","reason":"lost phone","expires_in":"2h"}"#, "session"),
        (r#"{"sub":"a","issuer":"https://they.test","expires_in":60}"#, "subject_issued"),
        (r#"{"before":1700000000}"#, "issuer"),
        (r#"{"before":"2026-01-31T12:00:00Z"}"#, "issuer"),
    ] {
        let (status, entry) = api.post("/admin/v1/revocations", body).await;
        assert_eq!((status, &entry["target"]["kind"]), (201, &json!(kind)), "{body}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_a_code() {
    let api = api(None);
    for (body, status, code) in [
        ("{}", 422, "invalid_request"),
        (r#"{"jti":"a","sid":"b"}"#, 422, "invalid_request"),
        (r#"{"jti":""}"#, 422, "invalid_request"),
        (r#"{"jti":"a","session":true}"#, 422, "invalid_request"),
        (r#"{"sub":"a","session":true}"#, 422, "invalid_request"),
        (r#"{"jti":"a","colour":"red"}"#, 400, "invalid_json"),
        (r#"{"before":"yesterday"}"#, 400, "invalid_json"),
        (r#"{"jti":"a","jti":"b"}"#, 400, "invalid_json"),
        (r#"[null,"a",null,null,null,null,null,null]"#, 400, "invalid_json"),
        ("\u{feff}{\"jti\":\"a\"}", 400, "invalid_json"),
        (r#"{"before":99999999999}"#, 422, "invalid_request"),
        (r#"{"token":"nonsense"}"#, 422, "token_malformed"),
        ("{", 400, "invalid_json"),
    ] {
        let (got, problem) = api.post("/admin/v1/revocations", body).await;
        assert_eq!((got, &problem["code"]), (status, &json!(code)), "{body}");
    }
    assert_eq!(api.get("/admin/v1/revocations?limit=0").await.0, 400);
    assert_eq!(api.get("/admin/v1/revocations?limit=x").await.0, 400);
    let huge = format!(r#"{{"jti":"{}"}}"#, "x".repeat(MAX_BODY));
    assert_eq!(api.post("/admin/v1/revocations", &huge).await.1["code"], "body_too_large");
    let form = request("POST", "/admin/v1/revocations")
        .header("authorization", format!("Bearer {CREDENTIAL}"))
        .body(Body::from("{}"))
        .unwrap();
    assert_eq!(api.send(form).await.0, 415);
    let other = request("POST", "/admin/v1/revocations")
        .header("authorization", format!("Bearer {CREDENTIAL}"))
        .header("content-type", "application/json; charset=utf-16")
        .body(Body::from(r#"{"jti":"a"}"#))
        .unwrap();
    assert_eq!(api.send(other).await.0, 415);
    let twice =
        r#"{"email":"ann@example.com","generate_password":true,"claims":{"role":"user","role":"admin"}}"#;
    let (status, problem) = api.post("/admin/v1/users", twice).await;
    assert_eq!((status, &problem["code"]), (400, &json!("invalid_json")));
    assert!(problem["detail"].as_str().unwrap().contains("`role` is there twice"), "{problem}");
}

#[tokio::test]
async fn a_store_failure_is_told_without_its_inside() {
    let api = api(None);
    api.store.fail();
    let request = request("POST", "/admin/v1/revocations")
        .header("authorization", format!("Bearer {CREDENTIAL}"))
        .header("content-type", "application/json")
        .body(Body::from(r#"{"jti":"a"}"#))
        .unwrap();
    let response = api.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "1");
    let body = String::from_utf8(to_bytes(response.into_body(), 9999).await.unwrap().to_vec()).unwrap();
    assert!(body.contains("store_unavailable") && !body.contains("secret"), "{body}");
}

#[tokio::test]
async fn a_store_that_cannot_write_is_not_compacted() {
    let api = api(None);
    api.store.fail();
    let (status, problem) = api.post("/admin/v1/store/compact", "").await;
    assert_eq!((status, &problem["code"]), (503, &json!("not_compacted")));
}

#[tokio::test]
async fn a_backup_comes_as_it_is_made_and_a_refusal_says_why() {
    let api = api(None);
    let made = request("POST", "/admin/v1/backup").header("authorization", format!("Bearer {CREDENTIAL}"));
    let response = api.router.clone().oneshot(made.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/octet-stream");
    assert_eq!(&to_bytes(response.into_body(), 99).await.unwrap()[..], b"part 1\npart 2\n");
    for (recipient, status, code) in [("none", 422, "invalid_request"), ("later", 503, "no_backup")] {
        let (found, problem) =
            api.post("/admin/v1/backup", &json!({"recipients": [recipient]}).to_string()).await;
        assert_eq!((found, &problem["code"]), (status, &json!(code)), "{problem}");
    }
    assert_eq!(api.post("/admin/v1/backup", r#"{"recipient": "x"}"#).await.0, 400);
}

#[tokio::test]
async fn versions_keys_and_tokens() {
    let api = api(None);
    assert_eq!(api.post("/admin/v1/token-versions", r#"{"sub":"alice"}"#).await.1["version"], 1);
    let (status, minted) =
        api.post("/admin/v1/tokens", r#"{"sub":"alice","scopes":["read"],"ttl":"5m"}"#).await;
    assert_eq!((status, &minted["access_token"]), (201, &json!("alice.v1")));
    assert_eq!(minted["expires_in"], 300);
    assert_eq!(api.post("/admin/v1/tokens", r#"{"sub":"alice","ttl":"25h"}"#).await.0, 422);
    assert_eq!(api.post("/admin/v1/keys/rotate", "").await.1["keys"][0]["kid"], "k1");
}

#[tokio::test]
async fn a_frozen_account_is_shown_and_decided() {
    let api = api(None);
    let body = r#"{"email": "ann@new.test", "email_verified": true, "generate_password": true}"#;
    let made = api.post("/admin/v1/users", body).await.1;
    let at = |path: &str| format!("/admin/v1/users/{}{path}", made["id"].as_str().unwrap());
    assert_eq!(made["frozen"], Value::Null);
    let early = api.post(&at("/unfreeze"), r#"{"email": "ann@new.test"}"#).await;
    assert_eq!((early.0, &early.1["code"]), (422, &json!("invalid_request")));
    let mut user = api.store.user(made["id"].as_str().unwrap().parse().unwrap()).await.unwrap().unwrap();
    user.email_changes.freeze = Some(Freeze {
        since: NOW,
        claim: uuid::Uuid::nil(),
        earlier: "ann@example.com".parse().unwrap(),
        later: vec![user.email.clone().unwrap()],
        stage: FreezeStage::Waiting { until: UnixTime(NOW.0 + 5) },
    });
    api.store.commit(vec![Change::UpdateUser(user)]).await.unwrap();
    // Found by either address, and nothing else is mailed.
    for named in ["ann@new.test", "ann@example.com"] {
        let shown = api.get(&format!("/admin/v1/users/{named}")).await.1;
        let freeze = json!({
            "since": NOW, "state": "waiting", "until": NOW.0 + 5,
            "earlier_email": "ann@example.com", "later_emails": ["ann@new.test"],
        });
        assert_eq!((&shown["id"], &shown["frozen"]), (&made["id"], &freeze), "{named}");
    }
    let reset = api.post(&at("/reset-password"), "").await;
    assert_eq!((reset.0, &reset.1["code"]), (409, &json!("account_frozen")));
    let taken = api.post("/admin/v1/users", r#"{"email": "ann@example.com"}"#).await;
    assert_eq!((taken.0, &taken.1["code"]), (409, &json!("email_taken")));
    let minted = api.post("/admin/v1/tokens", &json!({"sub": made["id"]}).to_string()).await;
    assert_eq!(minted.0, 422);
    for bad in [r#"{"email": "bob@example.com"}"#, r#"{"email": "x"}"#] {
        assert_eq!(api.post(&at("/unfreeze"), bad).await.0, 422, "{bad}");
    }
    let (status, decided) = api.post(&at("/unfreeze"), r#"{"email": "ann@example.com"}"#).await;
    assert_eq!((status, &decided["email"]), (200, &json!("ann@example.com")));
    assert_eq!((&decided["frozen"]["state"], &decided["has_password"]), (&json!("decided"), &json!(false)));
    let mails = api.get("/admin/v1/mails").await.1;
    assert_eq!(
        (&mails["mails"][0]["letter"], &mails["mails"][0]["to"]),
        (&json!("reset_password"), &json!("ann@example.com"))
    );
    assert_eq!(api.post("/admin/v1/users", r#"{"email": "ann@new.test"}"#).await.0, 201, "it is free");
}

#[tokio::test]
async fn connections_are_listed_looked_at_refreshed_and_ended() {
    let api = api(None);
    let mut users = Vec::new();
    for name in ["ann", "bob", "cy"] {
        let body = json!({"email": format!("{name}@example.com"), "email_verified": true, "generate_password": true});
        let user = api.post("/admin/v1/users", &body.to_string()).await.1;
        users.push(user["id"].as_str().unwrap().to_owned());
    }
    // No user is asked for consent, so that they are active at once.
    api.providers.unattended.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut ids = Vec::new();
    for user in &users {
        for account in 0..3 {
            *api.providers.subject.lock().unwrap() = format!("{user}/{account}");
            let person = Person { user: user.parse().unwrap(), session: None };
            let begin = Begin { provider: ACME.to_owned(), another: true, ..Begin::default() };
            let begun = api.connections.begin(&accounts_world::client(), person, begin).await.unwrap();
            ids.push((user.clone(), begun.connection.id.to_string()));
        }
    }
    ids.sort();
    let listed = async |query: &str| {
        let (status, body) = api.get(&format!("/admin/v1/connections{query}")).await;
        assert_eq!(status, 200, "{query}: {body}");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let list: Vec<_> = body["connections"].as_array().unwrap().clone();
        let list: Vec<_> = list.iter().map(|one| (text(&one["user"]), text(&one["id"]))).collect();
        (list, body["next"].as_str().map(str::to_owned), body.to_string())
    };
    let (all, next, text) = listed("").await;
    assert_eq!((&all, next), (&ids, None));
    for secret in ["a0.0", "r0.0", "k1|", "realm-0"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    // In pages of any size, filtered or not.
    for size in [1, 2, 4, 8, 9, 10] {
        for filter in ["", "&status=active", "&provider=acme"] {
            let (mut seen, mut after) = (Vec::new(), String::new());
            loop {
                let (page, next, _) = listed(&format!("?limit={size}{filter}{after}")).await;
                assert!(page.len() <= size);
                seen.extend(page);
                let Some(next) = next else { break };
                after = format!("&after={next}");
            }
            assert_eq!(seen, ids, "{size} {filter}");
        }
    }
    let (page, next, _) = listed("?user=bob@example.com&limit=2").await;
    let (rest, last, _) = listed(&format!("?user={}&limit=2&after={}", users[1], next.unwrap())).await;
    assert_eq!((page.len(), rest.len(), last), (2, 1, None));
    assert!(page.iter().chain(&rest).all(|(user, _)| *user == users[1]));

    let path = format!("/admin/v1/users/bob@example.com/connections/{}", rest[0].1);
    assert_eq!(api.get(&path).await.1["status"], "active");
    let (status, refreshed) = api.post(&format!("{path}/refresh"), "").await;
    assert_eq!((status, &refreshed["failures"]), (200, &json!(0)));
    assert_eq!(api.providers.count("refresh"), 1);
    api.providers.fail("refresh", ProviderFault::Misconfigured("no such client".into()));
    let (status, problem) = api.post(&format!("{path}/refresh"), "").await;
    assert_eq!((status, &problem["code"]), (502, &json!("provider_failed")));
    assert!(problem["detail"].as_str().unwrap().contains("no such client"), "{problem}");
    assert_eq!(api.delete(&path).await.0, 204);
    assert_eq!(listed("?status=revoked").await.0, rest);
    assert_eq!(listed("?status=active").await.0.len(), 8);
    let (_, of_bob) = api.get(&format!("/admin/v1/users/{}/connections", users[1])).await;
    assert_eq!(of_bob["connections"].as_array().unwrap().len(), 3);

    // Another's is none of theirs.
    let strange = format!("/admin/v1/users/ann@example.com/connections/{}", rest[0].1);
    assert_eq!(api.get(&strange).await.0, 404);
    assert_eq!(api.post(&format!("{strange}/refresh"), "").await.1["code"], "not_found");
    assert_eq!(api.get("/admin/v1/users/ann@example.com/connections/x").await.0, 404);
    assert_eq!(api.get("/admin/v1/users/nobody@example.com/connections").await.0, 404);
    for bad in ["?status=broken", "?after=x", "?after=a.b", "?limit=0", "?limit=1001", "?colour=red"] {
        let (status, problem) = api.get(&format!("/admin/v1/connections{bad}")).await;
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_request")), "{bad}");
    }
}

#[tokio::test]
async fn every_configured_provider_is_told_of() {
    let (status, body) = api(None).get("/admin/v1/providers").await;
    assert_eq!(status, 200);
    let told: Vec<_> =
        body["providers"].as_array().unwrap().iter().map(|p| (&p["name"], &p["in_service"])).collect();
    assert_eq!(told, [(&json!("acme"), &json!(true)), (&json!("broken"), &json!(false))]);
    assert_eq!(body["providers"][0]["display_name"], "Acme Bank");
    let faults: Vec<_> = body["providers"].as_array().unwrap().iter().map(|p| &p["fault"]).collect();
    assert_eq!(faults, [&Value::Null, &json!("a fake reason")]);
}

#[tokio::test]
async fn calls_that_are_not_done_are_written_down_and_reloads_too() {
    let api = api(None);
    for authorization in [None, Some("Bearer wrong"), Some("Bearer wrong")] {
        let mut request = request("POST", "/admin/v1/revocations?x=1");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        request.extensions_mut().unwrap().insert(Peer([192, 0, 2, 7].into()));
        api.send(request.body(Body::empty()).unwrap()).await;
    }
    api.post("/admin/v1/revocations", r#"{"jti":""}"#).await;
    api.post("/admin/v1/users", "{").await;
    api.get("/admin/v1/users/nobody@example.com").await;
    api.post("/admin/v1/reload", "").await;
    let events = api.audit.0.lock().unwrap();
    let told: Vec<_> = events
        .iter()
        .map(|event| {
            (
                event.action,
                event.outcome,
                event.reason.clone().unwrap_or_default(),
                event.details.get("path").cloned(),
            )
        })
        .collect();
    let call =
        |reason: &str, path: &str| (Action::AdminCall, Outcome::Denied, reason.to_owned(), Some(json!(path)));
    let expected = [
        // Once in a second, whatever the flood.
        call("no_credential", "/admin/v1/revocations"),
        call("invalid_request", "/admin/v1/revocations"),
        call("invalid_json", "/admin/v1/users"),
        (Action::Reload, Outcome::Success, String::new(), None),
    ];
    assert_eq!(told, expected);
    assert_eq!(events[0].address, Some([192, 0, 2, 7].into()));
    let text = serde_json::to_string(&*events).unwrap();
    assert!(!text.contains("wrong\"") && !text.contains(CREDENTIAL), "{text}");
}

#[tokio::test]
async fn reload_tells_every_error() {
    assert_eq!(api(None).post("/admin/v1/reload", "").await.1["notes"], json!(["1 route"]));
    let (status, problem) = api(Some("bad key")).post("/admin/v1/reload", "").await;
    assert_eq!((status, &problem["errors"]), (422, &json!(["bad key"])));
}

#[tokio::test]
async fn health_needs_no_credential() {
    let ask = |path| request("GET", path).body(Body::empty()).unwrap();
    assert_eq!(api(None).send(ask("/livez")).await.0, 200);
    assert_eq!(api(None).send(ask("/readyz")).await.0, 200);
    let (status, body) = api(Some("revocations loading")).send(ask("/readyz")).await;
    assert_eq!((status, &body["because"][0]), (503, &json!("revocations loading")));
    assert_eq!(api(None).send(ask("/metrics")).await.0, 200);
}

#[tokio::test]
async fn a_clock_in_doubt_is_shown_and_accepted() {
    let api = api(None);
    let (status, clock) = api.get("/admin/v1/clock").await;
    assert_eq!((status, clock["in_doubt"].clone(), clock["delay"].clone()), (200, json!(false), json!(0)));
    api.clock.advance(3600 * 24 * 365);
    let (_, clock) = api.get("/admin/v1/clock").await;
    assert_eq!((clock["in_doubt"].clone(), clock["doubt"].clone()), (json!(true), json!("ahead")));
    assert_eq!((clock["mark"].clone(), clock["skew"].clone()), (json!(NOW), json!(3600 * 24 * 365)));
    assert!(clock["detail"].as_str().unwrap().contains("palisade clock accept"), "{clock}");
    let (status, accepted) = api.post("/admin/v1/clock/accept", "").await;
    assert_eq!((status, accepted["revoked_all_tokens"].clone()), (200, json!(false)), "{accepted}");
    assert_eq!(accepted["accepted"], json!(NOW.plus(Duration::from_secs(3600 * 24 * 365))));
    assert_eq!(accepted["now"]["in_doubt"], json!(false));
    assert_eq!(api.store.clock_mark().await.unwrap().unwrap().at.0, accepted["accepted"]);
    // Set right, a year earlier: what was signed in between would outlive every revocation.
    api.clock.set_back(3600 * 24 * 365);
    let (_, accepted) = api.post("/admin/v1/clock/accept", "").await;
    assert_eq!(accepted["revoked_all_tokens"], json!(true), "{accepted}");
    let revoked = &api.store.recent_revocations(9).await.unwrap()[0];
    assert!(revoked.expires_at > NOW.plus(Duration::from_secs(3600 * 24 * 365)), "{revoked:?}");
    assert_eq!(api.get("/admin/v1/clock").await.1["has_been_ahead"], json!(false));
}

/// Every operation of the admin listener.
const OPERATIONS: &str = "\
    GET /admin/v1/users|POST /admin/v1/users|POST /admin/v1/users-import|GET /admin/v1/users-export|POST /admin/v1/invitations|GET /admin/v1/users/{user}|PATCH /admin/v1/users/{user}|\
    DELETE /admin/v1/users/{user}|GET /admin/v1/users/{user}/sessions|DELETE /admin/v1/users/{user}/sessions|\
    DELETE /admin/v1/users/{user}/sessions/{session}|POST /admin/v1/users/{user}/reset-password|\
    POST /admin/v1/users/{user}/unfreeze|GET /admin/v1/users/{user}/connections|\
    GET /admin/v1/users/{user}/connections/{connection}|DELETE /admin/v1/users/{user}/connections/{connection}|\
    POST /admin/v1/users/{user}/connections/{connection}/refresh|GET /admin/v1/audit|GET /admin/v1/mails|\
    GET /admin/v1/connections|GET /admin/v1/providers|GET /admin/v1/revocations|POST /admin/v1/revocations|\
    POST /admin/v1/token-versions|GET /admin/v1/keys|POST /admin/v1/keys/rotate|POST /admin/v1/tokens|\
    POST /admin/v1/reload|GET /admin/v1/clock|POST /admin/v1/clock/accept|GET /admin/v1/store|\
    POST /admin/v1/store/compact|POST /admin/v1/backup|GET /admin/v1/openapi.json|GET /livez|GET /readyz|GET /metrics";

#[tokio::test]
async fn every_operation_is_described_and_does_what_is_described() {
    let api = api(None);
    let new = |email: &str| {
        json!({"email": email, "email_verified": true, "password": PASSWORD, "claims": {"role": ["x", 1]}})
            .to_string()
    };
    let user = api.post("/admin/v1/users", &new(ANN)).await.1;
    let id: UserId = user["id"].as_str().unwrap().parse().unwrap();
    let at = |path: &str| format!("/admin/v1/users/{id}{path}");
    for _ in 0..2 {
        api.accounts.password_login(&accounts_world::client(), ANN, PASSWORD.into()).await.unwrap();
    }
    let shown = api.get(&at("")).await.1;
    assert_eq!(shown["sessions"].as_array().unwrap().len(), 2, "{shown}");
    assert_eq!(api.get(&at("/sessions")).await.1["sessions"], shown["sessions"]);
    let session = shown["sessions"][0]["id"].as_str().unwrap();
    assert_eq!(api.delete(&at(&format!("/sessions/{session}"))).await.1, json!({"ended": 1}));
    assert_eq!(api.delete(&at(&format!("/sessions/{session}"))).await.0, 404);
    assert_eq!(api.delete(&at("/sessions")).await.1, json!({"ended": 1}));
    assert_eq!(api.patch(&at(""), r#"{"name": "Ann"}"#).await.1["name"], "Ann");
    let reset = api.post(&at("/reset-password"), "").await;
    assert_eq!(reset, (202, json!({"mailed": true})), "a link in a mail is shown to no operator");
    assert_eq!(api.get("/admin/v1/mails").await.1["mails"].as_array().unwrap().len(), 1);
    let invited = api.post("/admin/v1/invitations", r#"{"email": "cid@example.com", "name": "Cid"}"#).await;
    assert_eq!(
        (invited.0, &invited.1["has_password"], &invited.1["mailed"]),
        (201, &json!(false), &json!(true))
    );
    assert_eq!(invited.1["link"], Value::Null);
    let taken = api.post("/admin/v1/invitations", &json!({"email": ANN}).to_string()).await;
    assert_eq!((taken.0, &taken.1["code"]), (409, &json!("email_taken")));
    assert_eq!(api.get(&format!("/admin/v1/audit?user={id}")).await.0, 200);
    let rows = json!({"accounts": [
        {"email": "dan@example.com", "hash": "old:x", "created": "2024-05-01T00:00:00Z", "state": "disabled",
         "identities": [{"issuer": "https://idp.test", "subject": "dan"}]},
        {"email": ANN, "generate_password": true},
        {"username": "eve"},
        {"username": "fay", "active": "yes"},
        {"username": "gil", "password": "x", "hash": "y"},
        {"username": "hal", "password_hash": "nonsense"},
        {"username": "ida", "subject": "auth0|1"},
        {"username": "jon", "generate_password": true, "hash": 5},
        {"username": "kim", "identities": [{"issuer": "https://idp.test", "subject": "dan"}]},
        [1],
    ]});
    for (dry_run, status) in [(true, 200), (false, 200)] {
        let mut rows = rows.clone();
        rows["dry_run"] = json!(dry_run);
        let (done, imported) = api.post("/admin/v1/users-import", &rows.to_string()).await;
        assert_eq!(
            (done, &imported["made"], &imported["refused"]),
            (status, &json!(2), &json!(8)),
            "{imported}"
        );
        let codes: Vec<&str> = imported["accounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["code"].as_str().unwrap_or("made"))
            .collect();
        assert_eq!(
            codes,
            [
                "made",
                "email_taken",
                "made",
                "invalid_json",
                "invalid_request",
                "invalid_request",
                "invalid_request",
                "invalid_request",
                "identity_taken",
                "invalid_json"
            ]
        );
        // Nothing that was sent is repeated: it may be a password.
        assert!(
            !imported.to_string().contains("nonsense") && !imported.to_string().contains("yes"),
            "{imported}"
        );
        assert_eq!(
            imported["accounts"][2]["link"].is_string(),
            !dry_run,
            "an account without an address: {imported}"
        );
    }
    let exported = api.get("/admin/v1/users-export?limit=10").await.1;
    let dan = exported["accounts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["email"] == "dan@example.com")
        .unwrap();
    assert_eq!((&dan["active"], &dan["created_at"]), (&json!(false), &json!(1_714_521_600)));
    assert!(dan.get("password_hash").is_none(), "{exported}");
    let hashes = api.get("/admin/v1/users-export?limit=10&hashes=true&since=2020-01-01T00:00:00Z").await.1;
    assert!(hashes.to_string().contains("old:x"), "{hashes}");
    for query in ["since=yesterday", "limit=0", "hashes=perhaps", "x=1"] {
        assert_eq!(api.get(&format!("/admin/v1/users-export?{query}")).await.0, 400, "{query}");
    }
    assert_eq!(api.get("/admin/v1/users?limit=1").await.1["users"][0]["id"], user["id"]);
    api.providers.unattended.store(true, std::sync::atomic::Ordering::Relaxed);
    let begin = Begin { provider: ACME.to_owned(), ..Begin::default() };
    let person = Person { user: id, session: None };
    let begun = api.connections.begin(&accounts_world::client(), person, begin).await.unwrap();
    let connection = at(&format!("/connections/{}", begun.connection.id));
    for path in ["/admin/v1/connections", &at("/connections"), &connection, "/admin/v1/providers"] {
        assert_eq!(api.get(path).await.0, 200, "{path}");
    }
    assert_eq!(api.post(&format!("{connection}/refresh"), "").await.0, 200);
    assert_eq!(api.delete(&connection).await.0, 204);

    let mut frozen = api.store.user(id).await.unwrap().unwrap();
    frozen.email_changes.freeze = Some(Freeze {
        since: NOW,
        claim: uuid::Uuid::nil(),
        earlier: "ann@before.test".parse().unwrap(),
        later: vec![frozen.email.clone().unwrap()],
        stage: FreezeStage::Taken,
    });
    api.store.commit(vec![Change::UpdateUser(frozen)]).await.unwrap();
    let decided = api.post(&at("/unfreeze"), &json!({"email": ANN}).to_string()).await;
    assert_eq!((decided.0, &decided.1["frozen"]["state"]), (200, &json!("decided")));

    for body in [r#"{"sub":"a"}"#, r#"{"before":"now"}"#, r#"{"sub":"a","issuer":"https://they.test"}"#] {
        assert_eq!(api.post("/admin/v1/revocations", body).await.0, 201, "{body}");
    }
    assert_eq!(api.post("/admin/v1/token-versions", r#"{"all":true,"grace":"10m"}"#).await.0, 200);
    assert_eq!(api.post("/admin/v1/tokens", r#"{"sub":"service"}"#).await.0, 201);
    for path in ["keys/rotate", "reload", "clock/accept", "store/compact", "backup"] {
        assert_eq!(api.post(&format!("/admin/v1/{path}"), "").await.0, 200, "{path}");
    }
    for path in ["revocations", "keys", "clock", "store", "openapi.json"] {
        assert_eq!(api.get(&format!("/admin/v1/{path}")).await.0, 200, "{path}");
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(api.get(path).await.0, 200, "{path}");
    }
    assert_eq!(api.delete(&at("")).await.0, 204);

    let mut described = BTreeSet::new();
    for (path, methods) in api.document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            described.insert(format!("{} {path}", method.to_uppercase()));
            assert!(!operation["summary"].as_str().unwrap().is_empty(), "{method} {path}");
            assert!(operation.get("x-codes").is_none(), "{method} {path}");
            let is_open = !path.starts_with("/admin/");
            assert_eq!(
                operation["security"],
                if is_open { Value::Null } else { json!([{"operator": []}]) },
                "{path}"
            );
        }
    }
    assert_eq!(described, OPERATIONS.split('|').map(str::to_owned).collect());
    assert_eq!(*api.done.lock().unwrap(), described, "each has answered as it is described");
    assert_eq!(api.get("/admin/v1/openapi.json").await.1, api.document);
}

#[tokio::test]
async fn the_description_needs_the_credential_and_tells_every_failure() {
    let api = api(None);
    let ask = request("GET", "/admin/v1/openapi.json").body(Body::empty()).unwrap();
    assert_eq!(api.send(ask).await.0, 401);
    let document = &api.document;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for (name, schema) in schemas.iter().filter(|(_, schema)| schema.get("example").is_some()) {
        assert_eq!(described::fault(document, &schema["example"], schema), None, "{name}");
    }
    let text = document.to_string();
    for (failure, _) in failures().known.iter().skip(super::super::openapi::documented_failures().len()) {
        let code = failure.document()["code"].to_string();
        assert!(text.contains(&format!(r#""code":{code}"#)), "{code} is answered by no operation");
    }
    for name in schemas.keys() {
        let named = format!("\"#/components/schemas/{name}\"");
        assert!(text.contains(&named), "{name} is in no answer and no request");
    }
}
