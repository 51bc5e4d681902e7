//! The native endpoints over fakes of the ports. Every answer that a test sees is held against the
//! description: its status, its codes and its members must be in it.

use axum::body::{Body, Bytes, to_bytes};
use axum::http::Request;
use http_body_util::StreamBody;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::super::described::{self, Answer};
use super::super::fakes;
use super::super::openapi::document;
use super::*;
use palisade_core::domain::account::{Registration, UserId};
use palisade_core::domain::browser::{BrowserSettings, NamedOrigin, SessionUse};
use palisade_core::domain::mail::Letter;
use palisade_core::domain::route::FailMode;
use palisade_core::ports::Signer;
use palisade_core::service::admit::Authenticator;
use palisade_core::service::caller::AskedHost;
use palisade_core::service::connections::Connections;
use palisade_core::service::users::UserEdit;
use palisade_testing::accounts_world::{self, ANN, AccountsWorld, BROWSER, PASSWORD, client};
use palisade_testing::connection_fakes::FakeProviders;
use palisade_testing::fakes::{FakeSigner, NOW};
use palisade_testing::page_fakes::FakePages;
use palisade_testing::token_fakes::FakeVerifier;

pub(super) const PREFIX: &str = "/auth";

pub(super) struct Api {
    pub(super) router: Router,
    pub(super) world: AccountsWorld,
    pub(super) connections: Connections,
    pub(super) providers: Arc<FakeProviders>,
    pub(super) document: Value,
}

pub(super) fn api() -> Api {
    api_for(Origins::These(Vec::new()))
}

pub(super) fn api_for(origins: Origins) -> Api {
    api_at(origins, "https://app.test")
}

pub(super) fn api_at(origins: Origins, public_url: &str) -> Api {
    api_of(accounts_world::world(), origins, public_url)
}

pub(super) fn api_of(world: AccountsWorld, origins: Origins, public_url: &str) -> Api {
    let state = state_of(&world, origins, public_url);
    api_from(world, state)
}

pub(super) fn state_of(world: &AccountsWorld, origins: Origins, public_url: &str) -> AuthState {
    let connections = fakes::over(world, &Arc::new(FakeProviders::open()));
    let (store, clock) = (world.store.clone(), world.clock.clone());
    AuthState {
        accounts: world.accounts.clone(),
        connections,
        authenticator: Arc::new(move || Authenticator {
            verifier: Arc::new(FakeVerifier),
            revocations: store.clone(),
            fail: FailMode::Closed,
            clock: clock.clone(),
        }),
        issuer: FakeSigner.issuer().to_owned(),
        prefix: PREFIX.to_owned(),
        public_url: public_url.to_owned(),
        pages: Arc::new(FakePages),
        cors: Cors { origins, ..Cors::default() },
        browser: browser_at(public_url),
        hosts: {
            let browser = Arc::new(browser_at(public_url));
            Arc::new(move || Arc::clone(&browser))
        },
        carrier: Arc::new(palisade_core::service::carry::SessionCarrier::new(
            Arc::clone(&world.key),
            Arc::clone(&world.clock) as _,
            Arc::clone(&world.entropy) as _,
            Arc::clone(&world.store) as _,
        )),
    }
}

/// Sessions in cookies, as long as those of the world are.
pub(super) fn browser_at(public_url: &str) -> BrowserSettings {
    BrowserSettings {
        enabled: true,
        public: NamedOrigin::parse(public_url).unwrap(),
        hosts: Vec::new(),
        domain: None,
        idle: BROWSER.idle,
        absolute: BROWSER.absolute,
        remember: BROWSER.remember,
        return_to: Vec::new(),
        uses: SessionUse::Every,
        insecure_http: false,
    }
}

pub(super) fn api_from(world: AccountsWorld, mut state: AuthState) -> Api {
    let providers = Arc::new(FakeProviders::open());
    let connections = fakes::over(&world, &providers);
    state.connections = connections.clone();
    let router = auth_router(state);
    let document = document(endpoints().into_openapi(), "https://app.test/auth", &openapi::failures());
    Api { router, world, connections, providers, document }
}

pub(super) fn request(method: &str, path: &str, token: Option<&str>, body: Option<&str>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(format!("{PREFIX}{path}"));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    let mut request = request.body(Body::from(body.unwrap_or_default().to_owned())).unwrap();
    request.extensions_mut().insert(client());
    request.extensions_mut().insert(AskedHost("app.test".to_owned()));
    request
}

impl Api {
    pub(super) async fn send(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().as_str().to_lowercase(), request.uri().path().to_owned());
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let text = String::from_utf8(to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap();
        let answer = Answer::new(&parts, text);
        described::holds(&self.document, &method, path.strip_prefix(PREFIX).unwrap(), &answer);
        answer
    }

    pub(super) async fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &Value) -> Answer {
        let body = (!body.is_null()).then(|| body.to_string());
        self.send(request(method, path, token, body.as_deref())).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, None, body).await
    }

    pub(super) async fn get(&self, path: &str, token: &str) -> Answer {
        self.ask("GET", path, Some(token), &Value::Null).await
    }

    pub(super) async fn register(&self, email: &str) -> Answer {
        let answer =
            self.post("/register", &json!({"email": email, "password": PASSWORD, "name": "Ann"})).await;
        self.world.accounts.do_due_tasks().await.unwrap();
        answer
    }

    /// The token of the newest mail of this kind.
    pub(super) async fn mailed(&self, letter: Letter) -> String {
        self.world.token(letter).await
    }

    /// Registers and verifies Ann.
    pub(super) async fn ann(&self) -> UserId {
        assert_eq!(self.register(ANN).await.status, 202);
        let token = self.mailed(Letter::VerifyEmail).await;
        let verified = self.post("/verify-email", &json!({"token": token})).await;
        assert_eq!((verified.status, &verified.body()["email_verified"]), (200, &json!(true)));
        verified.body()["id"].as_str().unwrap().parse().unwrap()
    }

    pub(super) async fn login(&self) -> Value {
        let answer = self.post("/login", &json!({"email": ANN, "password": PASSWORD})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body()
    }

    pub(super) async fn edit(&self, id: UserId, edit: UserEdit) {
        self.world.accounts.update_user("r", id, edit).await.unwrap();
    }
}

pub(super) fn access(tokens: &Value) -> String {
    tokens["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn closed_registration_and_missing_mail_have_codes() {
    let world = accounts_world::world_with(|settings| {
        settings.registration = Registration::Invited;
        settings.sends_mail = false;
    });
    let api = api_of(world, Origins::These(Vec::new()), "https://app.test");
    for email in [ANN, "bob@example.com"] {
        let closed = api.post("/register", &json!({"email": email, "password": PASSWORD})).await;
        assert_eq!(closed.refusal(), (403, "registration_closed".into()));
        for path in ["/verify-email/resend", "/password-resets"] {
            assert_eq!(api.post(path, &json!({"email": email})).await.refusal(), (403, "no_mail".into()));
        }
    }
}

#[tokio::test]
async fn from_registering_to_signing_out() {
    let api = api();
    let early = json!({"email": ANN, "password": PASSWORD});
    assert_eq!(api.register(ANN).await.status, 202);
    assert_eq!(api.post("/login", &early).await.refusal(), (401, "invalid_credentials".into()));
    assert_eq!(api.post("/verify-email/resend", &json!({"email": ANN})).await.status, 202);
    api.world.accounts.do_due_tasks().await.unwrap();
    let link = json!({"token": api.mailed(Letter::VerifyEmail).await});
    assert_eq!(api.post("/verify-email", &link).await.status, 200);
    assert_eq!(api.post("/verify-email", &link).await.refusal(), (400, "invalid_link".into()));

    let tokens = api.login().await;
    assert_eq!((&tokens["token_type"], &tokens["expires_in"]), (&json!("Bearer"), &json!(1800)));
    assert_eq!(tokens["user"]["last_login_at"], NOW.0);
    let me = api.get("/me", &access(&tokens)).await;
    assert_eq!((me.status, &me.body()), (200, &tokens["user"]));

    let refreshed = api.post("/refresh", &json!({"refresh_token": tokens["refresh_token"]})).await;
    assert_eq!(refreshed.status, 200);
    assert_ne!(refreshed.body()["refresh_token"], tokens["refresh_token"]);
    let access = access(&refreshed.body());
    assert_eq!(api.ask("POST", "/logout", Some(&access), &Value::Null).await.status, 204);
    let after = api.get("/me", &access).await;
    assert_eq!(after.refusal(), (401, "invalid_token".into()));
    assert!(after.header("www-authenticate").contains("error=\"invalid_token\""));
    let spent = api.post("/refresh", &json!({"refresh_token": refreshed.body()["refresh_token"]})).await;
    assert_eq!(spent.refusal(), (401, "invalid_refresh_token".into()));
}

#[tokio::test]
async fn signing_out_takes_either_token() {
    let api = api();
    let id = api.ann().await;
    let (minted, refused) = (format!("{id}.v0"), (401, "invalid_refresh_token".to_owned()));
    let logout = async |token: Option<&str>, body: Value| api.ask("POST", "/logout", token, &body).await;
    let tokens = api.login().await;
    let by_refresh = json!({"refresh_token": tokens["refresh_token"]});
    // The head of the token, which names the session, is right; the secret behind it is not.
    let forged = |refresh: &str| {
        let (head, secret) = refresh.split_at(refresh.len() - 20);
        let other = |c: char| if c == 'A' { 'B' } else { 'A' };
        json!({"refresh_token": format!("{head}{}", secret.chars().map(other).collect::<String>())})
    };
    let first = tokens["refresh_token"].as_str().unwrap().to_owned();
    assert_eq!(logout(None, forged(&first)).await.refusal(), refused);
    for _ in 0..3 {
        let tokens = api.post("/refresh", &by_refresh).await.body();
        assert_eq!(logout(None, forged(tokens["refresh_token"].as_str().unwrap())).await.refusal(), refused);
        assert_eq!(
            api.post("/refresh", &forged(&first)).await.refusal(),
            refused,
            "nor does it look like a copy"
        );
    }
    assert_eq!(api.get("/me", &access(&tokens)).await.status, 200, "the session goes on");
    // An access token that is not good any more does no harm.
    assert_eq!(logout(Some("expired"), by_refresh.clone()).await.status, 204);
    assert_eq!(api.get("/me", &access(&tokens)).await.status, 401);
    assert_eq!(logout(None, by_refresh.clone()).await.status, 204, "it has ended already");
    assert_eq!(logout(Some(&minted), by_refresh).await.status, 204);
    assert_eq!(logout(None, json!({"refresh_token": "none"})).await.refusal(), refused);
    assert_eq!(logout(None, Value::Null).await.refusal(), (401, "token_missing".into()));
    assert_eq!(logout(None, json!({})).await.refusal(), (401, "token_missing".into()));
    assert_eq!(logout(Some("expired"), Value::Null).await.refusal(), (401, "invalid_token".into()));
    assert_eq!(logout(Some(&minted), Value::Null).await.refusal(), (422, "invalid_request".into()));
    assert_eq!(logout(Some("they/ann"), Value::Null).await.refusal(), (403, "no_account".into()));
}

#[tokio::test]
async fn a_body_of_unknown_length_may_be_none_at_all() {
    let api = api();
    api.ann().await;
    // As HTTP/2 sends it: no length, no type, and an end that shows only when it is read.
    let empty = || {
        Body::new(StreamBody::new(futures::stream::iter(
            Vec::<std::io::Result<http_body::Frame<Bytes>>>::new(),
        )))
    };
    let mut request = request("POST", "/logout", Some(&access(&api.login().await)), None);
    *request.body_mut() = empty();
    assert_eq!(api.send(request).await.status, 204);
}

#[tokio::test]
async fn an_account_changes_hands_only_by_password_and_mail() {
    let api = api();
    api.ann().await;
    let token = access(&api.login().await);
    let patch = async |body: Value| api.ask("PATCH", "/me", Some(&token), &body).await;
    assert_eq!(patch(json!({"name": " Ann Lee "})).await.body()["name"], "Ann Lee");
    assert_eq!(patch(json!({})).await.body()["name"], "Ann Lee");
    assert_eq!(patch(json!({"name": null})).await.body()["name"], Value::Null);
    assert_eq!(patch(json!({"name": "a\r\nb"})).await.refusal(), (422, "invalid_request".into()));
    let email = |email: &str, password: &str| json!({"email": email, "current_password": password});
    let invalid = patch(email("a@evil@corp.com", PASSWORD)).await;
    assert_eq!(invalid.refusal(), (422, "invalid_email".into()));
    assert_eq!(patch(json!({"email": "ann@new.test"})).await.refusal(), (422, "invalid_request".into()));
    assert_eq!(patch(email("ann@new.test", "wrong")).await.refusal(), (403, "wrong_password".into()));
    let pending = patch(email("Ann@NEW.test", PASSWORD)).await.body();
    assert_eq!((&pending["email"], &pending["pending_email"]), (&json!(ANN), &json!("ann@new.test")));
    api.world.accounts.do_due_tasks().await.unwrap();
    let link = json!({"token": api.mailed(Letter::ConfirmEmail).await});
    let changed = api.ask("POST", "/verify-email", Some(&token), &link).await;
    assert_eq!(changed.body()["email"], "ann@new.test");
}

#[tokio::test]
async fn a_password_is_changed_by_the_old_one_or_by_mail() {
    let api = api();
    api.ann().await;
    let (other, token) = (access(&api.login().await), access(&api.login().await));
    let change = async |current: &str, new: &str| {
        let body = json!({"current_password": current, "new_password": new});
        api.ask("PUT", "/me/password", Some(&token), &body).await
    };
    let weak = change(PASSWORD, "short").await;
    assert_eq!(weak.refusal(), (422, "password_rejected".into()));
    let text = "The password needs at least 8 characters.";
    assert_eq!(weak.body()["violations"], json!([{"rule": "too_short", "text": text}]));
    assert_eq!(change("wrong", "a new password").await.refusal(), (403, "wrong_password".into()));
    let renewed = change(PASSWORD, "a new password").await;
    assert_eq!(renewed.status, 200, "{renewed:?}");
    let renewed = renewed.body();
    assert_eq!((&renewed["token_type"], &renewed["user"]["email"]), (&json!("Bearer"), &json!(ANN)));
    assert!(renewed["refresh_token"].is_string() && renewed["expires_in"].is_u64(), "{renewed}");
    for old in [&token, &other] {
        assert_eq!(api.get("/me", old).await.status, 401, "the old tokens end");
    }
    let token = access(&renewed);
    assert_eq!(api.get("/me", &token).await.status, 200);

    assert_eq!(api.post("/password-resets", &json!({"email": ANN})).await.status, 202);
    api.world.accounts.do_due_tasks().await.unwrap();
    let link = api.mailed(Letter::ResetPassword).await;
    let valid = api.post("/password-resets/validate", &json!({"token": link})).await;
    assert_eq!((valid.status, valid.body()), (200, json!({"valid": true})));
    let confirm = async |password: &str| {
        api.post("/password-resets/confirm", &json!({"token": link, "new_password": password})).await
    };
    assert_eq!(confirm("short").await.refusal(), (422, "password_rejected".into()));
    assert_eq!(confirm(PASSWORD).await.status, 204);
    assert_eq!(confirm(PASSWORD).await.refusal(), (400, "invalid_link".into()));
    let spent = api.post("/password-resets/validate", &json!({"token": link})).await;
    assert_eq!(spent.refusal(), (400, "invalid_link".into()));
    assert_eq!(api.get("/me", &token).await.status, 401, "every session ends");
    api.login().await;
}

#[tokio::test]
async fn the_rules_for_passwords_are_public() {
    let rules = api().ask("GET", "/password-requirements", None, &Value::Null).await;
    assert_eq!((rules.status, &rules.body()["min_length"]), (200, &json!(8)));
    assert!(!rules.body()["text"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn sessions_are_listed_and_ended() {
    let api = api();
    api.ann().await;
    let tokens: Vec<String> =
        [api.login().await, api.login().await, api.login().await].iter().map(access).collect();
    let list = async || api.get("/sessions", &tokens[2]).await.body()["sessions"].as_array().unwrap().clone();
    let sessions = list().await;
    let current: Vec<bool> = sessions.iter().map(|session| session["current"] == true).collect();
    assert_eq!(current.iter().filter(|current| **current).count(), 1);
    assert_eq!((&sessions[0]["device"], &sessions[0]["address"]), (&json!("firefox"), &json!("192.0.2.1")));
    let end = async |path: &str| api.ask("DELETE", path, Some(&tokens[2]), &Value::Null).await;
    let first = tokens[0].rsplit('.').next().unwrap();
    assert_eq!(end(&format!("/sessions/{first}")).await.status, 204);
    assert_eq!(api.get("/me", &tokens[0]).await.status, 401);
    for none in [first, "x", "%FF", "00000000-0000-0000-0000-000000000000"] {
        assert_eq!(end(&format!("/sessions/{none}")).await.refusal(), (404, "not_found".into()), "{none}");
    }
    for unclear in [
        "/sessions?except=all",
        "/sessions?expect=current",
        "/sessions?except=current&x=1",
        "/sessions?except",
    ] {
        assert_eq!(end(unclear).await.refusal(), (422, "invalid_request".into()), "{unclear}");
    }
    assert_eq!(end("/sessions?except=current").await.status, 204);
    assert_eq!(list().await.len(), 1);
    assert_eq!(api.get("/me", &tokens[1]).await.status, 401);
    assert_eq!(end("/sessions").await.status, 204);
    assert_eq!(api.get("/me", &tokens[2]).await.status, 401);
}

#[tokio::test]
async fn another_persons_session_is_out_of_reach() {
    let api = api();
    api.ann().await;
    let anns = access(&api.login().await);
    let bob = UserId(uuid::Uuid::from_u128(77));
    let path = format!("/sessions/{}", anns.rsplit('.').next().unwrap());
    let tried = api.ask("DELETE", &path, Some(&format!("{bob}.v0")), &Value::Null).await;
    assert_eq!(tried.refusal(), (404, "not_found".into()));
    assert_eq!(api.get("/me", &anns).await.status, 200);
}
