//! Every way to be turned away, and what is told then.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{Body, Bytes};
use serde_json::{Value, json};

use super::super::super::body::MAX_BODY;
use super::super::tests::{access, api, request};
use palisade_core::domain::mail::Letter;
use palisade_core::ports::Limited;
use palisade_core::service::users::UserEdit;
use palisade_testing::accounts_world::{ANN, PASSWORD};
use palisade_testing::fakes::NOW;

#[tokio::test]
async fn only_a_good_token_in_its_place_counts() {
    let api = api();
    let id = api.ann().await;
    let token = access(&api.login().await);
    let closed = [
        ("GET", "/me"),
        ("PATCH", "/me"),
        ("PUT", "/me/password"),
        ("GET", "/sessions"),
        ("DELETE", "/sessions"),
        ("DELETE", "/sessions/x"),
        ("GET", "/connections"),
        ("POST", "/connections"),
        ("GET", "/connections/x"),
        ("DELETE", "/connections/x"),
        ("POST", "/connections/x/refresh"),
        ("PUT", "/connections/x/tokens"),
    ];
    for (method, path) in closed {
        let ask = async |fields: &[(&'static str, String)]| {
            let mut request = request(method, path, None, None);
            for (name, value) in fields {
                request.headers_mut().append(*name, value.parse().unwrap());
            }
            api.send(request).await
        };
        let bearer = |token: &str| ("authorization", format!("Bearer {token}"));
        let none = ask(&[]).await;
        assert_eq!(none.refusal(), (401, "token_missing".into()), "{method} {path}");
        assert_eq!(none.header("www-authenticate"), "Bearer realm=\"palisade\"");
        let cookie = ask(&[("cookie", format!("session={token}; access_token={token}"))]).await;
        assert_eq!(cookie.refusal(), (401, "token_missing".into()), "cookies are never looked at");
        assert_eq!(ask(&[bearer("nonsense")]).await.refusal(), (401, "invalid_token".into()));
        assert_eq!(ask(&[bearer("")]).await.refusal(), (401, "invalid_token".into()));
        assert_eq!(ask(&[bearer(&"a".repeat(9000))]).await.refusal(), (401, "invalid_token".into()));
        let several = (400, "credentials_ambiguous".to_owned());
        assert_eq!(ask(&[bearer(&token), bearer(&token)]).await.refusal(), several);
        assert_eq!(ask(&[bearer(&format!("{token}, Bearer {token}"))]).await.refusal(), several);
        // Good, and of no account: of another issuer, or minted for a subject that is no account.
        for stranger in ["they/ann", "machine.v0", &format!("they/{id}")] {
            assert_eq!(ask(&[bearer(stranger)]).await.refusal(), (403, "no_account".into()), "{stranger}");
        }
    }
    let query = api.ask("GET", &format!("/me?access_token={token}"), None, &Value::Null).await;
    assert_eq!(query.status, 401, "a token in the query counts for nothing");
}

#[tokio::test]
async fn what_an_operator_does_to_an_account_is_told_to_its_owner() {
    let api = api();
    let id = api.ann().await;
    let token = format!("{id}.v9");
    let credentials = json!({"email": ANN, "password": PASSWORD});
    let locked_until = Some(NOW.plus(Duration::from_secs(60)));
    api.edit(id, UserEdit { locked_until, ..UserEdit::default() }).await;
    let locked = api.post("/login", &credentials).await;
    assert_eq!(locked.refusal(), (403, "account_locked".into()));
    assert_eq!(locked.body()["until"], NOW.0 + 60);
    api.edit(id, UserEdit { active: Some(false), ..UserEdit::default() }).await;
    let disabled = (403, "account_disabled".to_owned());
    assert_eq!(api.post("/login", &credentials).await.refusal(), disabled);
    for (method, path, body) in [
        ("GET", "/me", Value::Null),
        ("GET", "/sessions", Value::Null),
        ("PATCH", "/me", json!({"name": "x"})),
        ("PUT", "/me/password", json!({"current_password": PASSWORD, "new_password": "another one"})),
    ] {
        assert_eq!(api.ask(method, path, Some(&token), &body).await.refusal(), disabled, "{method} {path}");
    }
    // Nothing of what a stranger may see changes.
    let wrong = json!({"email": ANN, "password": "wrong"});
    assert_eq!(api.post("/login", &wrong).await.refusal(), (401, "invalid_credentials".into()));
    api.world.accounts.delete_user("r", id).await.unwrap();
    assert_eq!(api.get("/me", &token).await.refusal(), (403, "no_account".into()));
    assert_eq!(api.get("/sessions", &token).await.refusal(), (403, "no_account".into()));
}

/// Every endpoint that takes a body, with one that would do.
fn bodies() -> Vec<(&'static str, &'static str, Value)> {
    let (address, link) = (json!({"email": ANN}), json!({"token": "t"}));
    vec![
        ("POST", "/register", json!({"email": ANN, "password": PASSWORD})),
        ("POST", "/verify-email", link.clone()),
        ("POST", "/verify-email/resend", address.clone()),
        ("POST", "/login", json!({"email": ANN, "password": PASSWORD})),
        ("POST", "/refresh", json!({"refresh_token": "t"})),
        ("POST", "/logout", json!({"refresh_token": "t"})),
        ("PATCH", "/me", json!({"name": "Ann"})),
        ("PUT", "/me/password", json!({"current_password": PASSWORD, "new_password": PASSWORD})),
        ("POST", "/password-resets", address),
        ("POST", "/password-resets/validate", link),
        ("POST", "/password-resets/confirm", json!({"token": "t", "new_password": PASSWORD})),
        ("POST", "/connections", json!({"provider": "acme"})),
        ("PUT", "/connections/x/tokens", json!({"access_token": "t"})),
    ]
}

#[tokio::test]
async fn a_body_is_json_with_the_described_members_and_no_others() {
    let api = api();
    let id = api.ann().await;
    let token = format!("{id}.v9");
    for (method, path, good) in bodies() {
        let send = async |content_type: Option<&str>, body: String| {
            let mut request = request(method, path, Some(&token), Some(&body));
            request.headers_mut().remove("content-type");
            if let Some(content_type) = content_type {
                request.headers_mut().insert("content-type", content_type.parse().unwrap());
            }
            api.send(request).await
        };
        let refused = (400, "invalid_json".to_owned());
        let first = good.as_object().unwrap().keys().next().unwrap().clone();
        let mut unknown = good.clone();
        unknown["hunter2"] = json!(1);
        let told = send(Some("application/json"), unknown.to_string()).await;
        assert_eq!(told.refusal(), refused, "{path}");
        assert!(told.text.contains("unknown field"), "{}", told.text);
        let twice = format!("{{\"{first}\":\"a\",\"{first}\":\"b\"}}");
        let deep = format!("{{\"{first}\":{}", "[".repeat(MAX_BODY - 100));
        let mut number = good.clone();
        // A value of the wrong type, as a password in another field's place: the parser's own message shows it.
        number[&first] = json!(70_717_273);
        // What `serde` alone would take for the same: its items in the order of the members.
        let list = json!(good.as_object().unwrap().values().collect::<Vec<_>>()).to_string();
        let marked = format!("\u{feff}{good}");
        for bad in [
            "{",
            "[]",
            "\"hunter2\"",
            "nonsense",
            "{} {}",
            &twice,
            &deep,
            &number.to_string(),
            "{\"email\":\"\\ud800\"}",
            &list,
            &marked,
            &format!("[{good}]"),
            "null",
        ] {
            let told = send(Some("application/json"), bad.to_owned()).await;
            assert_eq!(told.refusal(), refused, "{path} {bad:.40}");
            let repeated = ["hunter2", "70717273"].iter().any(|value| told.text.contains(value));
            assert!(!repeated, "a value is repeated: {}", told.text);
        }
        if path != "/logout" && path != "/me" {
            assert_eq!(send(Some("application/json"), "{}".into()).await.refusal(), refused, "{path}");
            assert_eq!(send(Some("application/json"), String::new()).await.refusal(), refused, "{path}");
        }
        // What a form of another site can send.
        for form in
            ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", "application/jsonp"]
        {
            let told = send(Some(form), good.to_string()).await;
            assert_eq!(told.refusal(), (415, "unsupported_media_type".into()), "{path} {form}");
        }
        for charset in ["iso-8859-1", "\"utf-16\"", "us-ascii", "utf-8; charset=utf-16"] {
            let told = send(Some(&format!("application/json; charset={charset}")), good.to_string()).await;
            assert_eq!(told.refusal(), (415, "unsupported_media_type".into()), "{path} {charset}");
        }
        assert_eq!(send(None, good.to_string()).await.status, 415, "{path}");
        let spelt = send(Some("Application/JSON ; charset=utf-8"), good.to_string()).await;
        assert!(
            !matches!(spelt.status, 400 | 415) || spelt.refusal().1 == "invalid_link",
            "{path} {spelt:?}"
        );
    }
}

#[tokio::test]
async fn a_large_body_is_refused_however_it_comes() {
    let api = api();
    let id = api.ann().await;
    for (method, path, good) in bodies() {
        let token = format!("{id}.v9");
        let refused = (413, "body_too_large".to_owned());
        let huge = format!("{good}{}", " ".repeat(MAX_BODY));
        assert_eq!(api.send(request(method, path, Some(&token), Some(&huge))).await.refusal(), refused);
        let mut endless = request(method, path, Some(&token), Some(""));
        let chunk = Bytes::from(vec![b' '; 8192]);
        let chunks = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
        *endless.body_mut() = Body::from_stream(chunks);
        assert_eq!(api.send(endless).await.refusal(), refused, "{path}");
        let mut declared = request(method, path, Some(&token), Some("{}"));
        declared.headers_mut().insert("content-length", "10000000000".parse().unwrap());
        assert_eq!(api.send(declared).await.refusal(), refused, "{path}");
        let mut broken = request(method, path, Some(&token), Some(""));
        let end: std::io::Error = std::io::ErrorKind::UnexpectedEof.into();
        *broken.body_mut() =
            Body::from_stream(futures::stream::iter([Ok(Bytes::from_static(b"{")), Err(end)]));
        assert_eq!(api.send(broken).await.refusal(), (400, "body_unreadable".into()), "{path}");
    }
}

#[tokio::test]
async fn who_is_too_fast_is_told_when_to_come_back() {
    let api = api();
    let id = api.ann().await;
    let token = format!("{id}.v9");
    for (method, path, body) in bodies() {
        let what = match path {
            "/register" => Limited::Register,
            "/login" => Limited::Login,
            "/refresh" => Limited::Refresh,
            "/logout" | "/connections/x/tokens" => continue,
            "/connections" => Limited::Connect,
            "/verify-email" | "/password-resets/validate" | "/password-resets/confirm" => Limited::UseLink,
            "/me" | "/me/password" => Limited::ConfirmPassword,
            _ => Limited::RequestMail,
        };
        *api.world.limiter.stop.lock().unwrap() = Some(what);
        let body = if path == "/me" { json!({"email": "x@y.test", "current_password": "x"}) } else { body };
        let stopped = api.ask(method, path, Some(&token), &body).await;
        assert_eq!(stopped.refusal(), (429, "too_many_attempts".into()), "{path}");
        assert_eq!(stopped.header("retry-after"), "7");
    }
}

#[tokio::test]
async fn what_fails_inside_stays_inside() {
    let api = api();
    let id = api.ann().await;
    let tokens = api.login().await;
    assert_eq!(api.post("/password-resets", &json!({"email": ANN})).await.status, 202);
    api.world.accounts.do_due_tasks().await.unwrap();
    let reset = api.mailed(Letter::ResetPassword).await;
    api.world.passwords.busy.store(true, Ordering::Relaxed);
    let token = access(&tokens);
    let changed = json!({"current_password": PASSWORD, "new_password": "a new password"});
    for (method, path, body) in [
        ("POST", "/register", json!({"email": ANN, "password": PASSWORD})),
        ("POST", "/login", json!({"email": ANN, "password": PASSWORD})),
        ("PUT", "/me/password", changed.clone()),
        ("PATCH", "/me", json!({"email": "x@y.test", "current_password": PASSWORD})),
        ("POST", "/password-resets/confirm", json!({"token": reset, "new_password": "a new password"})),
    ] {
        let busy = api.ask(method, path, Some(&token), &body).await;
        assert_eq!(busy.refusal(), (503, "busy".into()), "{path}");
        assert_eq!(busy.header("retry-after"), "1");
    }
    api.world.passwords.busy.store(false, Ordering::Relaxed);
    api.world.store.fail();
    for (method, path, body) in [
        ("POST", "/register", json!({"email": ANN, "password": PASSWORD})),
        ("POST", "/login", json!({"email": ANN, "password": PASSWORD})),
        ("POST", "/refresh", json!({"refresh_token": tokens["refresh_token"]})),
        ("POST", "/logout", json!({"refresh_token": tokens["refresh_token"]})),
        ("POST", "/verify-email/resend", json!({"email": ANN})),
        ("PATCH", "/me", json!({"name": "x"})),
        ("PUT", "/me/password", changed),
        ("POST", "/password-resets", json!({"email": ANN})),
        ("POST", "/password-resets/confirm", json!({"token": reset, "new_password": "a new password"})),
        ("DELETE", "/sessions", Value::Null),
    ] {
        let failed = api.ask(method, path, Some(&token), &body).await;
        assert_eq!(failed.refusal(), (503, "store_unavailable".into()), "{path}");
        assert!(!failed.text.contains("secret detail"), "{}", failed.text);
    }
    assert_eq!(api.get("/me", &format!("{id}.v9")).await.status, 200, "what only reads goes on");
}

#[tokio::test]
async fn a_thousand_strangers_learn_nothing() {
    let wrong = |email: &str| json!({"email": email, "password": "a wrong one"});
    let address = |email: &str| json!({"email": email});
    let (mut first, mut count) = (Vec::new(), 0);
    // The fake store copies itself with every commit, so a fresh one comes in now and then.
    let mut api = api();
    for number in 0..1000 {
        if number % 50 == 0 {
            api = self::api();
            api.ann().await;
        }
        for email in [ANN.to_owned(), format!("nobody-{number}@example.com")] {
            let asked = [
                ("/login", wrong(&email)),
                ("/register", wrong(&email)),
                ("/password-resets", address(&email)),
                ("/verify-email/resend", address(&email)),
            ];
            for (at, (path, body)) in asked.iter().enumerate() {
                let answer = api.post(path, body).await;
                count += 1;
                match first.get(at) {
                    None => first.push(answer),
                    Some(first) => assert_eq!(answer, *first, "{path} {email}"),
                }
            }
        }
    }
    assert_eq!(count, 8000);
    let statuses: Vec<u16> = first.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [401, 202, 202, 202]);
}
