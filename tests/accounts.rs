//! Accounts in a running gateway: from the mail to the app, and out again.

use std::collections::HashSet;
use std::sync::Arc;

use crate::support::arrivals::Arrivals;
use crate::support::{Gateway, PATIENCE, Upstream, body_of, field, find, status};
use palisade_core::ports::Clock;
use palisade_testing::fakes::FakeClock;
use serde_json::{Value, json};

const ANN: &str = "ann@example.com";
const PASSWORD: &str = "Correct horse 42";

/// A gateway that writes mails to files, in front of an app that wants to know its callers.
struct World {
    gateway: Gateway,
    app: Upstream,
    prefix: &'static str,
}

impl World {
    const COMMON: &str = "[accounts]\nregistration = \"open\"\n[passwords]\nbcrypt_cost = 4\n[limits]\nenabled = false\n\
                          [mail]\ntransport = \"file:./outbox\"\n";

    fn route(app: &Upstream) -> String {
        format!("[[routes]]\nname = \"app\"\nupstream = [\"http://{}\"]\n", app.address)
    }

    async fn start() -> World {
        World::start_with("/auth", "", "").await
    }

    async fn start_with(prefix: &'static str, server: &str, extra: &str) -> World {
        let app = Upstream::start().await;
        let extra = format!("{}{extra}\n{}", World::COMMON, World::route(&app));
        World { gateway: Gateway::start_with(server, &extra).await, app, prefix }
    }

    /// Starts one that goes by this clock.
    async fn start_by(clock: Arc<dyn Clock>, extra: &str) -> World {
        let app = Upstream::start().await;
        let extra = format!("{}{extra}{}", World::COMMON, World::route(&app));
        World { gateway: Gateway::start_by(clock, &extra).await, app, prefix: "/auth" }
    }

    /// One call of a native endpoint, with further field lines.
    async fn call(&self, method: &str, path: &str, fields: &str, body: &Value) -> String {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        self.gateway
            .send(format!(
                "{method} {}{path} HTTP/1.1\r\nHost: app.test\r\nUser-Agent: Firefox/140\r\n{kind}{fields}\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                self.prefix,
                body.len()
            ))
            .await
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        read(&self.call("POST", path, "", body).await)
    }

    async fn ask(&self, method: &str, path: &str, token: &str, body: &Value) -> (u16, Value) {
        read(&self.call(method, path, &bearer(token), body).await)
    }

    /// What the app's route answers to this token.
    async fn visit(&self, token: &str) -> u16 {
        status(&self.gateway.get("/", &bearer(token)).await)
    }

    /// The next mail that is none of `seen`, unfolded.
    async fn mail(&self, seen: &mut HashSet<String>) -> String {
        let folder = self.gateway.folder.path().join("outbox");
        let arrivals = Arrivals::at(&folder);
        let look = async {
            loop {
                for entry in std::fs::read_dir(&folder).into_iter().flatten() {
                    let path = entry.unwrap().path();
                    let name = path.file_name().unwrap().to_string_lossy().into_owned();
                    if name.ends_with(".eml") && !name.starts_with('.') && seen.insert(name) {
                        return std::fs::read_to_string(path).unwrap();
                    }
                }
                arrivals.next().await;
            }
        };
        let mail = tokio::time::timeout(PATIENCE, look).await.expect("no mail came");
        // Quoted-printable (RFC 2045 §6.7), as far as links need it.
        mail.replace("=\r\n", "").replace("=3D", "=")
    }

    /// The token of the link in the next mail that has one.
    async fn link(&self, seen: &mut HashSet<String>) -> String {
        loop {
            let mail = self.mail(seen).await;
            if let Some((before, token)) = mail.split_once("#token=") {
                let place = format!("http://localhost:8080{}/pages/", self.prefix);
                assert!(before.contains(&place), "a link that leads elsewhere: {mail}");
                return token
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || "-_".contains(*c))
                    .collect();
            }
        }
    }

    /// Registers and verifies Ann.
    async fn ann(&self, seen: &mut HashSet<String>) {
        let account = json!({"email": ANN, "password": PASSWORD, "name": "Ann"});
        assert_eq!(self.post("/register", &account).await.0, 202);
        let token = self.link(seen).await;
        let (status, user) = self.post("/verify-email", &json!({"token": token})).await;
        assert_eq!((status, &user["email_verified"]), (200, &json!(true)));
    }

    async fn login(&self) -> Value {
        let (status, tokens) = self.post("/login", &json!({"email": ANN, "password": PASSWORD})).await;
        assert_eq!(status, 200, "{tokens}");
        tokens
    }
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn read(answer: &str) -> (u16, Value) {
    assert!(field(answer, "x-request-id").is_some(), "{answer}");
    (status(answer), serde_json::from_str(body_of(answer)).unwrap_or(Value::Null))
}

fn text<'a>(tokens: &'a Value, name: &str) -> &'a str {
    tokens[name].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_registering_to_a_request_that_is_refused() {
    let world = World::start().await;
    let mut seen = HashSet::new();
    let early = json!({"email": ANN, "password": PASSWORD});
    world.ann(&mut seen).await;
    let (status, tokens) = world.post("/login", &early).await;
    assert_eq!((status, &tokens["token_type"]), (200, &json!("Bearer")));
    let access = text(&tokens, "access_token");
    assert_eq!(world.visit(access).await, 200);
    let forwarded = world.app.only();
    assert_eq!(field(&forwarded, "x-auth-subject"), tokens["user"]["id"].as_str());
    assert_eq!(field(&forwarded, "x-auth-email"), Some(ANN));

    let (_, sessions) = world.ask("GET", "/sessions", access, &Value::Null).await;
    let session = &sessions["sessions"][0];
    assert_eq!((&session["current"], &session["address"]), (&json!(true), &json!("127.0.0.1")));
    assert_eq!(session["user_agent"], "Firefox/140");
    assert_eq!(field(&forwarded, "x-auth-session"), session["id"].as_str());

    let refresh = json!({"refresh_token": tokens["refresh_token"]});
    let (status, next) = world.post("/refresh", &refresh).await;
    assert_eq!(status, 200);
    let next = text(&next, "access_token");
    assert_eq!(world.visit(next).await, 200);
    assert_eq!(world.ask("POST", "/logout", next, &Value::Null).await.0, 204);
    assert_eq!((world.visit(access).await, world.visit(next).await), (401, 401), "on the very next request");
    assert_eq!(world.ask("GET", "/me", next, &Value::Null).await.1["code"], "invalid_token");
    assert_eq!(world.post("/refresh", &refresh).await.1["code"], "invalid_refresh_token");
}

/// A stranger registers the address of another person. What the owner's browser sent does not vouch for the
/// stranger's password.
#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_a_mailbox_shows_that_the_password_is_theirs_too() {
    let world = World::start().await;
    let mut seen = HashSet::new();
    let ours = "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\n";
    let registers = async |password: &str, fields: &str| {
        let body = json!({"email": ANN, "password": password, "name": "Ann"});
        let answer = world.call("POST", "/register", fields, &body).await;
        assert_eq!(status(&answer), 202, "{answer}");
        field(&answer, "set-cookie").map(|cookie| cookie.split(';').next().unwrap().to_owned())
    };
    let presses = async |token: &str, cookie: &str, more: Value| {
        let mut body = json!({"token": token, "proof": true});
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        read(&world.call("POST", "/verify-email", &format!("{ours}Cookie: {cookie}\r\n"), &body).await)
    };
    assert_eq!(registers("Strangers own 1", "").await, None, "no page of this site");
    let token = world.link(&mut seen).await;
    let cookie = registers(PASSWORD, ours).await.expect("no cookie");
    assert_eq!(world.link(&mut seen).await, token, "the live link, once more");

    let (status, asked) = presses(&token, &cookie, Value::Null).await;
    assert_eq!((status, &asked["code"]), (403, &json!("proof_needed")));
    assert_eq!(asked["ways"], json!(["password", "new_password"]));
    assert_eq!(presses(&token, &cookie, json!({"password": PASSWORD})).await.1["code"], "wrong_password");
    let (status, user) = presses(&token, &cookie, json!({"new_password": PASSWORD})).await;
    assert_eq!((status, &user["name"]), (200, &Value::Null), "nor the stranger's name");
    let strangers = json!({"email": ANN, "password": "Strangers own 1"});
    assert_eq!(world.post("/login", &strangers).await.1["code"], "invalid_credentials");
    let access = world.login().await["access_token"].as_str().unwrap().to_owned();

    // The cookie is between the browser and us.
    let answer = world.gateway.get("/", &format!("{}Cookie: a=b; {cookie}\r\n", bearer(&access))).await;
    assert_eq!(crate::support::status(&answer), 200);
    assert_eq!(field(&world.app.only(), "cookie"), Some("a=b"));
}

/// The registrant types the password while the owner chooses another one: whichever comes first, the account has one
/// password, and the link was used once.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_verifications_at_once_one_counts() {
    let world = World::start().await;
    let mut seen = HashSet::new();
    for round in 0..3 {
        let email = format!("ann{round}@example.com");
        let account = json!({"email": email, "password": PASSWORD});
        assert_eq!(world.post("/register", &account).await.0, 202);
        let token = world.link(&mut seen).await;
        let bodies: Vec<(String, Value)> = (0..12)
            .map(|n| match n % 2 {
                0 => (PASSWORD.to_owned(), json!({"token": token, "proof": true, "password": PASSWORD})),
                _ => {
                    let new = format!("Chosen horse {n}!");
                    (new.clone(), json!({"token": token, "proof": true, "new_password": new}))
                }
            })
            .collect();
        let presses = bodies.iter().map(|(_, body)| world.post("/verify-email", body));
        let answers = futures::future::join_all(presses).await;
        let used: Vec<&str> = bodies
            .iter()
            .zip(&answers)
            .filter_map(|((password, _), (status, _))| (*status == 200).then_some(&**password))
            .collect();
        assert_eq!(used.len(), 1, "{answers:?}");
        for (_, refused) in answers.iter().filter(|(status, _)| *status != 200) {
            assert!(["invalid_link", "wrong_password"].contains(&text(refused, "code")), "{refused}");
        }
        for (password, _) in &bodies {
            let opens = world.post("/login", &json!({"email": email, "password": password})).await.0 == 200;
            assert_eq!(opens, password == used[0], "{password}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_by_mail_ends_every_session() {
    let world = World::start().await;
    let mut seen = HashSet::new();
    world.ann(&mut seen).await;
    let access = world.login().await["access_token"].as_str().unwrap().to_owned();
    // Whatever the request says of the host, the link leads to us.
    let evil = "X-Forwarded-Host: evil.test\r\nForwarded: host=evil.test\r\nX-Original-URL: /evil\r\n";
    let answer = world.call("POST", "/password-resets", evil, &json!({"email": ANN})).await;
    assert_eq!(status(&answer), 202);
    let token = world.link(&mut seen).await;
    assert_eq!(world.post("/password-resets/validate", &json!({"token": token})).await.0, 200);
    let weak = json!({"token": token, "new_password": "short"});
    let (status, problem) = world.post("/password-resets/confirm", &weak).await;
    assert_eq!((status, &problem["code"]), (422, &json!("password_rejected")));
    let rules: Vec<&str> =
        problem["violations"].as_array().unwrap().iter().map(|v| text(v, "rule")).collect();
    assert!(rules.contains(&"too_short") && rules.contains(&"no_digit"), "{rules:?}");
    let new = json!({"token": token, "new_password": "Correct horse 43"});
    assert_eq!(world.post("/password-resets/confirm", &new).await.0, 204);
    assert_eq!(world.post("/password-resets/confirm", &new).await.1["code"], "invalid_link");
    assert_eq!(world.visit(&access).await, 401);
    let old = json!({"email": ANN, "password": PASSWORD});
    assert_eq!(world.post("/login", &old).await.1["code"], "invalid_credentials");
    assert_eq!(world.post("/login", &json!({"email": ANN, "password": "Correct horse 43"})).await.0, 200);
}

/// A thief with a session and the password takes the address; its owner takes it back.
#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_account_is_frozen_from_its_old_address_and_decided_by_an_operator() {
    const THIEF: &str = "thief@example.net";
    let world = World::start().await;
    let mut seen = HashSet::new();
    world.ann(&mut seen).await;
    let tokens = world.login().await;
    let access = text(&tokens, "access_token");
    let change = json!({"email": THIEF, "current_password": PASSWORD});
    let (status, pending) = world.ask("PATCH", "/me", access, &change).await;
    assert_eq!((status, &pending["pending_email"]), (200, &json!(THIEF)));
    let confirm = json!({"token": world.link(&mut seen).await});
    let (status, problem) = world.post("/verify-email", &confirm).await;
    assert_eq!((status, &problem["code"]), (403, &json!("proof_needed")));
    assert_eq!(world.ask("POST", "/verify-email", access, &confirm).await.1["email"], THIEF);
    let undo = json!({"token": world.link(&mut seen).await});
    assert_eq!(world.visit(access).await, 401, "its tokens say another address");
    let (status, next) = world.post("/refresh", &json!({"refresh_token": tokens["refresh_token"]})).await;
    assert_eq!(status, 200, "and its session goes on");
    let access = text(&next, "access_token");
    assert_eq!(world.visit(access).await, 200);

    let page = world.call("GET", "/pages/undo", "", &Value::Null).await;
    assert!(body_of(&page).contains("action=\"undo\""), "{page}");
    assert_eq!(world.post("/email-changes/undo", &undo).await.0, 204);
    assert_eq!(world.visit(access).await, 401, "on the very next request");
    let sign_in =
        async |email: &str| world.post("/login", &json!({"email": email, "password": PASSWORD})).await;
    for email in [ANN, THIEF] {
        assert_eq!(sign_in(email).await.1["code"], "invalid_credentials");
    }
    let objection = json!({"token": world.link(&mut seen).await});
    assert_eq!(world.post("/email-changes/object", &objection).await.0, 204);
    let path = format!("/admin/v1/users/{ANN}");
    let shown = world.gateway.admin("GET", &path, &Value::Null).await.1;
    assert_eq!((&shown["frozen"]["state"], &shown["email"]), (&json!("objected"), &json!(THIEF)));
    let decided = world.gateway.admin("POST", &format!("{path}/unfreeze"), &json!({"email": ANN})).await;
    assert_eq!((decided.0, &decided.1["email"]), (200, &json!(ANN)));
    let reset = json!({"token": world.link(&mut seen).await, "new_password": "Correct horse 43"});
    assert_eq!(world.post("/password-resets/confirm", &reset).await.0, 204);
    assert_eq!(world.post("/login", &json!({"email": ANN, "password": "Correct horse 43"})).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn ending_the_other_sessions_spares_this_one() {
    let world = World::start().await;
    world.ann(&mut HashSet::new()).await;
    let (one, other) = (world.login().await, world.login().await);
    let (one, other) = (text(&one, "access_token"), text(&other, "access_token"));
    assert_eq!((world.visit(one).await, world.visit(other).await), (200, 200));
    assert_eq!(world.ask("DELETE", "/sessions?except=current", one, &Value::Null).await.0, 204);
    assert_eq!((world.visit(one).await, world.visit(other).await), (200, 401));
    let change = json!({"current_password": "wrong", "new_password": "Correct horse 43"});
    assert_eq!(world.ask("PUT", "/me/password", one, &change).await.1["code"], "wrong_password");
    let change = json!({"current_password": PASSWORD, "new_password": "Correct horse 43"});
    let weak = json!({"current_password": PASSWORD, "new_password": "Password1!"});
    let (status, problem) = world.ask("PUT", "/me/password", one, &weak).await;
    assert_eq!((status, &problem["violations"][0]["rule"]), (422, &json!("guessable")), "{problem}");
    let (status, renewed) = world.ask("PUT", "/me/password", one, &change).await;
    assert_eq!(status, 200, "{renewed}");
    assert_eq!(world.visit(one).await, 401, "the old token ends");
    let one = text(&renewed, "access_token");
    assert_eq!(world.visit(one).await, 200);
    assert_eq!(world.ask("DELETE", "/sessions", one, &Value::Null).await.0, 204);
    assert_eq!(world.visit(one).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_refreshes_at_once_have_one_successor() {
    let world = World::start().await;
    world.ann(&mut HashSet::new()).await;
    let tokens = world.login().await;
    let body = json!({"refresh_token": tokens["refresh_token"]});
    let all = futures::future::join_all((0..50).map(|_| world.post("/refresh", &body))).await;
    let successors: HashSet<&str> = all
        .iter()
        .map(|(status, next)| {
            assert_eq!(*status, 200, "{next}");
            text(next, "refresh_token")
        })
        .collect();
    assert_eq!(successors.len(), 1);
}

/// A telephone loses an answer, is suspended and comes again minutes later; a thief of the parent comes after its access
/// token was used.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_refresh_is_repeated_minutes_later_unless_its_token_was_used() {
    let clock = Arc::new(FakeClock::default());
    let extra = "[tokens]\nrefresh_repeat = \"1h\"\n";
    let world = World::start_by(Arc::clone(&clock) as _, extra).await;
    world.ann(&mut HashSet::new()).await;
    let refresh = |token: &Value| {
        let (world, body) = (&world, json!({"refresh_token": token}));
        async move { world.post("/refresh", &body).await }
    };
    let tokens = world.login().await;
    let (_, lost) = refresh(&tokens["refresh_token"]).await;
    clock.advance(600);
    assert_eq!(world.visit(text(&tokens, "access_token")).await, 200, "of the parent");
    let (status, found) = refresh(&tokens["refresh_token"]).await;
    assert_eq!((status, &found["refresh_token"]), (200, &lost["refresh_token"]));
    // The app gets no wind of it.
    assert_eq!(world.visit(text(&found, "access_token")).await, 200);
    let (status, refused) = refresh(&tokens["refresh_token"]).await;
    assert_eq!((status, &refused["code"]), (401, &json!("invalid_refresh_token")));
    assert_eq!(world.visit(text(&found, "access_token")).await, 401, "the session has ended");
    assert_eq!(refresh(&lost["refresh_token"]).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_an_account_opens_no_account() {
    let world = World::start().await;
    let wanted = json!({"sub": "machine"});
    let (status, minted) = world.gateway.admin("POST", "/admin/v1/tokens", &wanted).await;
    assert_eq!(status, 201);
    let token = text(&minted, "access_token");
    assert_eq!(world.visit(token).await, 200);
    let (status, problem) = world.ask("GET", "/me", token, &Value::Null).await;
    assert_eq!((status, &problem["code"]), (403, &json!("no_account")));
    let twice = format!("{0}{0}", bearer(token));
    let answer = world.call("GET", "/me", &twice, &Value::Null).await;
    assert_eq!(read(&answer).1["code"], "credentials_ambiguous");
    let none = world.call("GET", "/me", &format!("Cookie: session={token}\r\n"), &Value::Null).await;
    assert_eq!(read(&none).1["code"], "token_missing");
    assert_eq!(field(&none, "www-authenticate"), Some("Bearer realm=\"palisade\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_body_is_refused_while_it_comes() {
    let world = World::start().await;
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    let head = "POST /auth/login HTTP/1.1\r\nHost: app.test\r\nContent-Type: application/json\r\n";
    // Well beyond what is taken, and no end.
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(12));
    let declared = format!("{head}Content-Length: 10000000000\r\n\r\n{{");
    for request in [chunked, declared] {
        let answer = world.gateway.send(request).await;
        assert_eq!((status(&answer), &read(&answer).1["code"]), (413, &json!("body_too_large")), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoints_are_where_the_configuration_says() {
    let cors = "[cors]\norigins = [\"https://app.example.com\"]";
    let world = World::start_with("/id/v1", "prefix = \"/id/v1\"", cors).await;
    world.ann(&mut HashSet::new()).await;
    let access = world.login().await["access_token"].as_str().unwrap().to_owned();
    let (status, document) = read(&world.call("GET", "/openapi.json", "", &Value::Null).await);
    assert_eq!((status, &document["servers"][0]["url"]), (200, &json!("http://localhost:8080/id/v1")));
    let page = world.call("GET", "/docs", "", &Value::Null).await;
    assert!(find(page.as_bytes(), b"POST /id/v1/login").is_some());

    let asked = "Origin: https://app.example.com\r\nAccess-Control-Request-Method: PATCH\r\n\
                 Access-Control-Request-Headers: authorization\r\n";
    let preflight = world.call("OPTIONS", "/me", asked, &Value::Null).await;
    assert_eq!(field(&preflight, "access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(world.app.requests().len(), 0, "a preflight is answered here");
    let other = asked.replace("app.example.com", "evil.example.com");
    let preflight = world.call("OPTIONS", "/me", &other, &Value::Null).await;
    assert_eq!(field(&preflight, "access-control-allow-origin"), None);

    // What was ours by default is the app's now, and what is published stays public.
    let app = world.gateway.get("/auth/login", &bearer(&access)).await;
    assert_eq!(crate::support::status(&app), 200);
    assert_eq!(world.app.requests().len(), 1);
    let keys = world.gateway.get("/.well-known/jwks.json", "").await;
    assert_eq!(field(&keys, "access-control-allow-origin"), Some("*"));
    let metadata = read(&world.gateway.get("/.well-known/oauth-authorization-server", "").await).1;
    assert_eq!(metadata["service_documentation"], "http://localhost:8080/id/v1/docs");
}

/// What an operator grants is refused while it is granted, and not when it has made every request too long.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_token_that_is_issued_fits_into_a_request() {
    // Signatures of 256 bytes are the longest that the gateway makes keys for.
    let algorithm = "[tokens]\nissuer = \"http://localhost:8080\"\naudience = \"api\"\nalgorithm = \"RS256\"";
    let world = World::start_with("/auth", "", algorithm).await;
    let scopes = |count: usize, length: usize| {
        (0..count).map(|n| format!("{n:03}{}", "s".repeat(length - 3))).collect::<Vec<_>>()
    };
    let claims = |bytes: usize| json!({"about": "x".repeat(bytes)});
    let create = async |email: &str, scopes: &Value, claims: &Value| {
        let mut user =
            json!({"email": email, "password": PASSWORD, "email_verified": true, "name": "\"".repeat(100)});
        user["scopes"] = scopes.clone();
        user["claims"] = claims.clone();
        world.gateway.admin("POST", "/admin/v1/users", &user).await
    };
    let none = json!({});
    for (scopes, claims) in [
        (json!(scopes(75, 800)), none.clone()),
        (json!(scopes(1, 257)), none.clone()),
        (json!(scopes(100, 25)), none.clone()),
        (json!([]), claims(4096)),
        // Each within its bound, and too much together.
        (json!(scopes(8, 255)), claims(4000)),
        (json!([]), json!({"Sub": "root"})),
        (json!([]), json!({"client_id": "app"})),
        (json!([]), json!({"": 1})),
        (json!([]), serde_json::from_str(r#"{"id": 36893488147419103232}"#).unwrap()),
    ] {
        let (code, answer) = create("bad@example.com", &scopes, &claims).await;
        let sizes = (scopes.to_string().len(), claims.to_string().len());
        assert_eq!((code, &answer["code"]), (422, &json!("invalid_request")), "{sizes:?}: {answer}");
    }
    // As much as is taken.
    let mut most = 4000;
    let (code, user) = loop {
        let (code, user) = create(ANN, &json!(scopes(8, 255)), &claims(most)).await;
        if code == 201 {
            break (code, user);
        }
        most -= 100;
    };
    assert_eq!(code, 201);
    let id = user["id"].as_str().unwrap();
    let path = format!("/admin/v1/users/{id}");
    let (code, answer) = world.gateway.admin("PATCH", &path, &json!({"claims": claims(most + 100)})).await;
    assert_eq!(code, 422, "{answer}");
    let exact = json!({"id": u64::MAX, "low": i64::MIN});
    assert_eq!(world.gateway.admin("PATCH", &path, &json!({"claims": exact})).await.0, 200);
    let shown = world.gateway.admin("GET", &path, &Value::Null).await.1;
    assert_eq!(shown["claims"], exact);
    assert_eq!(world.gateway.admin("PATCH", &path, &json!({"claims": claims(most)})).await.0, 200);

    let tokens = world.login().await;
    let token = tokens["access_token"].as_str().unwrap();
    assert!(token.len() > 6000, "{} bytes", token.len());
    assert_eq!(world.visit(token).await, 200);
    // The longest name that its owner can choose makes it no longer than fits.
    let name = json!({"name": "\\".repeat(100)});
    assert_eq!(world.ask("PATCH", "/me", token, &name).await.0, 200);
    let (code, tokens) = world.post("/refresh", &json!({"refresh_token": tokens["refresh_token"]})).await;
    assert_eq!(code, 200, "{tokens}");
    let token = tokens["access_token"].as_str().unwrap();
    assert_eq!(world.visit(token).await, 200);
    assert_eq!(world.ask("POST", "/logout", token, &Value::Null).await.0, 204);
    let long = json!({"sub": "\"".repeat(1024), "email": "\"".repeat(1024), "scopes": scopes(8, 255)});
    let (code, answer) = world.gateway.admin("POST", "/admin/v1/tokens", &long).await;
    assert_eq!((code, &answer["code"]), (422, &json!("invalid_request")), "{answer}");
}

/// With `mail.transport = "none"`: links are handed over by the operator, and no letter is left to wait.
#[tokio::test(flavor = "multi_thread")]
async fn without_mail_the_operator_hands_the_links_over() {
    let app = Upstream::start().await;
    let extra = format!(
        "[passwords]\nbcrypt_cost = 4\n[mail]\ntransport = \"none\"\n\
         [[routes]]\nname = \"app\"\nupstream = [\"http://{}\"]\n",
        app.address
    );
    let world = World { gateway: Gateway::start(&extra).await, app, prefix: "/auth" };
    let wish = json!({"email": ANN, "password": PASSWORD});
    let (status, problem) = world.post("/register", &wish).await;
    assert_eq!((status, text(&problem, "code")), (403, "registration_closed"));
    let (status, problem) = world.post("/password-resets", &json!({"email": ANN})).await;
    assert_eq!((status, text(&problem, "code")), (403, "no_mail"));

    let set_password = async |answer: &Value| {
        assert_eq!(answer["mailed"], false, "{answer}");
        let token =
            text(answer, "link").strip_prefix("http://localhost:8080/auth/pages/reset#token=").unwrap();
        let confirm = json!({"token": token, "new_password": PASSWORD});
        assert_eq!(world.post("/password-resets/confirm", &confirm).await.0, 204);
    };
    let invitation = json!({"email": ANN, "name": "Ann"});
    let (status, invited) = world.gateway.admin("POST", "/admin/v1/invitations", &invitation).await;
    assert_eq!(status, 201, "{invited}");
    set_password(&invited).await;
    let tokens = world.login().await;
    assert_eq!(tokens["user"]["email_verified"], true);
    assert_eq!(world.visit(text(&tokens, "access_token")).await, 200);
    // A reset takes the password away, and gives the way to the next one.
    let reset = format!("/admin/v1/users/{ANN}/reset-password");
    let (status, reset) = world.gateway.admin("POST", &reset, &json!({})).await;
    assert_eq!(status, 202, "{reset}");
    assert_eq!(world.visit(text(&tokens, "access_token")).await, 401);
    assert_eq!(world.post("/login", &wish).await.0, 401);
    set_password(&reset).await;
    world.login().await;

    // Two notices that new passwords were set are all that was enqueued.
    let looked = async {
        loop {
            let (_, mails) = world.gateway.admin("GET", "/admin/v1/mails", &Value::Null).await;
            if mails["mails"].as_array().unwrap().is_empty() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, looked).await.expect("letters wait although none is sent");
}
