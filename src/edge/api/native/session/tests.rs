//! Sessions in cookies at the native endpoints.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use super::super::super::described::Answer;
use super::super::tests::{Api, access, api, api_at, api_from, request, state_of};
use crate::config::Origins;
use palisade_core::domain::mail::Letter;
use palisade_core::service::caller::AskedHost;
use palisade_testing::accounts_world::{self, ANN, BROWSER, PASSWORD};

const OURS: (&str, &str) = ("sec-fetch-site", "same-origin");
const NEW: &str = "another good one";

fn with(mut request: Request<Body>, fields: &[(&str, &str)]) -> Request<Body> {
    for (name, value) in fields {
        let name: axum::http::HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

fn credentials(more: Value) -> Value {
    let mut body = json!({"email": ANN, "password": PASSWORD, "session": "cookie"});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

/// The pair of a `Set-Cookie` as the browser sends it back.
fn pair(answer: &Answer) -> String {
    answer.header("set-cookie").split(';').next().unwrap().to_owned()
}

impl Api {
    async fn by(
        &self,
        method: &str,
        path: &str,
        cookie: &str,
        body: &Value,
        fields: &[(&str, &str)],
    ) -> Answer {
        let body = (!body.is_null()).then(|| body.to_string());
        let request = with(request(method, path, None, body.as_deref()), fields);
        let cookie: &[_] = if cookie.is_empty() { &[] } else { &[("cookie", cookie)] };
        self.send(with(request, cookie)).await
    }

    /// Signs in with a cookie over another one; returns the pair.
    async fn enters(&self, over: &str) -> String {
        let answer = self.by("POST", "/login", over, &credentials(Value::Null), &[OURS]).await;
        assert_eq!((answer.status, answer.text.as_str()), (204, ""), "{answer:?}");
        pair(&answer)
    }

    async fn shown(&self, cookie: &str) -> Answer {
        self.by("GET", "/session", cookie, &Value::Null, &[]).await
    }
}

#[tokio::test]
async fn a_sign_in_sets_a_cookie_instead_of_returning_tokens() {
    let api = api();
    api.ann().await;
    let answer = api.by("POST", "/login", "", &credentials(Value::Null), &[OURS]).await;
    let set = answer.header("set-cookie");
    assert!(set.starts_with("__Host-palisade="), "{set}");
    assert!(set.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"), "without Max-Age or Domain: {set}");
    let kept = api.by("POST", "/login", "", &credentials(json!({"remember": true})), &[OURS]).await;
    let age = format!("; Max-Age={}", BROWSER.absolute.as_secs());
    assert!(kept.header("set-cookie").contains(&age), "{kept:?}");

    let shown = api.shown(&pair(&answer)).await;
    let now = api.world.clock_now();
    let body = shown.body();
    assert_eq!((shown.status, &body["user"]["email"]), (200, &json!(ANN)));
    assert_eq!(body["idle_at"], now + BROWSER.idle.as_secs());
    assert_eq!(body["ends_at"], now + BROWSER.absolute.as_secs());
    assert_eq!(api.by("GET", "/me", &pair(&answer), &Value::Null, &[]).await.body()["email"], ANN);
    // There is no session.
    for nothing in ["", "__Host-palisade=x", "palisade=x"] {
        assert_eq!(api.shown(nothing).await.status, 204, "{nothing}");
    }
    let without = json!({"email": ANN, "password": PASSWORD, "remember": true});
    assert_eq!(api.post("/login", &without).await.refusal(), (422, "invalid_request".into()));
}

#[tokio::test]
async fn a_cookie_authorises_unsafe_methods_for_pages_of_this_origin_only() {
    let api = api();
    api.ann().await;
    let cookie = api.enters("").await;
    let cross = (403, "cross_site".to_owned());
    for fields in [
        &[][..],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "https://evil.test")],
        &[("origin", "null")],
        &[("referer", "https://evil.test/")],
        &[("origin", "https://app.test"), ("origin", "https://evil.test")],
    ] {
        for (method, path, body) in [
            ("PATCH", "/me", json!({"name": "Eve"})),
            ("POST", "/token", Value::Null),
            ("POST", "/logout", Value::Null),
            ("DELETE", "/sessions", Value::Null),
            ("DELETE", "/me", Value::Null),
            ("PUT", "/me/password", json!({"current_password": PASSWORD, "new_password": NEW})),
        ] {
            let answer = api.by(method, path, &cookie, &body, fields).await;
            assert_eq!(answer.refusal(), cross, "{method} {path} {fields:?}");
        }
        let login = api.by("POST", "/login", "", &credentials(Value::Null), fields).await;
        assert_eq!(login.refusal(), cross, "login CSRF: {fields:?}");
        assert_eq!(login.header("set-cookie"), "");
    }
    assert_eq!(api.shown(&cookie).await.body()["user"]["name"], "Ann");
    for fields in [&[OURS][..], &[("origin", "https://app.test")], &[("referer", "https://app.test/x")]] {
        let named = api.by("PATCH", "/me", &cookie, &json!({"name": "Anna"}), fields).await;
        assert_eq!(named.body()["name"], "Anna", "{fields:?}");
    }
}

/// Programs say nothing of where they come from; a page of another site does.
#[tokio::test]
async fn json_that_sets_no_cookie_is_taken_from_programs_and_not_from_other_sites() {
    let api = api();
    api.ann().await;
    let tokens = json!({"email": ANN, "password": PASSWORD});
    let link = json!({"token": "t"});
    for (path, body) in [
        ("/register", json!({"email": "bob@example.com", "password": PASSWORD})),
        ("/verify-email", link.clone()),
        ("/verify-email/resend", json!({"email": ANN})),
        ("/password-resets", json!({"email": ANN})),
        ("/password-resets/confirm", json!({"token": "t", "new_password": NEW})),
        ("/login", tokens.clone()),
    ] {
        for site in [("sec-fetch-site", "cross-site"), ("origin", "https://evil.test"), ("origin", "null")] {
            let answer = api.by("POST", path, "", &body, &[site]).await;
            assert_eq!(answer.refusal(), (403, "cross_site".into()), "{path} {site:?}");
        }
        assert_ne!(api.by("POST", path, "", &body, &[]).await.refusal().1, "cross_site", "{path}");
    }
    // Script of an origin that `[cors]` lists may sign in for tokens, and is no page of ours.
    let world = accounts_world::world();
    let state = state_of(&world, Origins::These(vec!["https://spa.test".to_owned()]), "https://app.test");
    let listed = api_from(world, state);
    listed.ann().await;
    let spa = [("origin", "https://spa.test"), ("sec-fetch-site", "cross-site")];
    assert_eq!(listed.by("POST", "/login", "", &tokens, &spa).await.status, 200);
    let refused = listed.by("POST", "/login", "", &credentials(Value::Null), &spa).await;
    assert_eq!(refused.refusal(), (403, "cross_site".into()));
}

#[tokio::test]
async fn a_cookie_counts_on_the_host_of_the_public_url_only() {
    let api = api();
    api.ann().await;
    let (cookie, token) = (api.enters("").await, access(&api.login().await));
    let ask = async |host: Option<&str>, method: &str, path: &str, body: &Value| {
        let body = (!body.is_null()).then(|| body.to_string());
        let mut request = with(request(method, path, None, body.as_deref()), &[OURS, ("cookie", &cookie)]);
        request.extensions_mut().remove::<AskedHost>();
        if let Some(host) = host {
            request.extensions_mut().insert(AskedHost(host.to_owned()));
        }
        api.send(request).await
    };
    for host in [Some("other.test"), Some("x.app.test"), None] {
        for (method, path, body) in [
            ("GET", "/session", Value::Null),
            ("POST", "/token", Value::Null),
            ("POST", "/login", credentials(Value::Null)),
        ] {
            let answer = ask(host, method, path, &body).await;
            assert_eq!(answer.refusal(), (403, "wrong_host".into()), "{host:?} {path}");
            assert!(answer.body()["sign_in"].as_str().unwrap().ends_with("/sign-in"), "{answer:?}");
        }
        for (method, path, body) in [
            ("GET", "/me", Value::Null),
            ("PATCH", "/me", json!({"name": "Eve"})),
            ("DELETE", "/me", Value::Null),
            ("PUT", "/me/password", json!({"current_password": PASSWORD, "new_password": NEW})),
            ("GET", "/sessions", Value::Null),
            ("GET", "/connections", Value::Null),
            ("POST", "/connections", json!({"provider": "acme"})),
            ("GET", "/connections/01a22a79-44f6-76e0-a713-5753e48fd1b3/token", Value::Null),
            ("POST", "/logout", Value::Null),
        ] {
            let answer = ask(host, method, path, &body).await;
            assert_eq!(answer.refusal(), (403, "wrong_host".into()), "{host:?} {method} {path}");
            assert!(answer.body()["sign_in"].as_str().unwrap().ends_with("/sign-in"), "{answer:?}");
        }
        // A token counts on every host, also beside a cookie that does not.
        let mut by_token = with(request("GET", "/me", Some(&token), None), &[("cookie", &cookie)]);
        by_token.extensions_mut().remove::<AskedHost>();
        if let Some(host) = host {
            by_token.extensions_mut().insert(AskedHost(host.to_owned()));
        }
        assert_eq!(api.send(by_token).await.status, 200, "{host:?}");
        // Without a cookie nothing is wrong with the host.
        let without = request("GET", "/me", None, None);
        assert_eq!(api.send(without).await.refusal(), (401, "token_missing".into()));
    }
    assert_eq!(ask(Some("app.test"), "GET", "/me", &Value::Null).await.status, 200);
}

#[tokio::test]
async fn a_cookie_beside_a_token_is_one_credential_too_many() {
    let api = api();
    api.ann().await;
    let (cookie, token) = (api.enters("").await, access(&api.login().await));
    let both = |cookie: &str| with(request("GET", "/me", Some(&token), None), &[("cookie", cookie)]);
    assert_eq!(api.send(both(&cookie)).await.refusal(), (400, "credentials_ambiguous".into()));
    // What another host planted under the name is none of ours, and refuses nothing.
    for planted in ["__Host-palisade=x", "__Host-palisade=", "palisade=x", "a=b"] {
        assert_eq!(api.send(both(planted)).await.status, 200, "{planted}");
    }
}

#[tokio::test]
async fn a_page_gets_short_tokens_and_they_end_with_the_session() {
    let api = api();
    api.ann().await;
    let cookie = api.enters("").await;
    let answer = api.by("POST", "/token", &cookie, &Value::Null, &[OURS]).await;
    let body = answer.body();
    assert_eq!(
        (answer.status, &body["token_type"], body.get("refresh_token")),
        (200, &json!("Bearer"), None)
    );
    let token = body["access_token"].as_str().unwrap().to_owned();
    assert_eq!(api.get("/me", &token).await.status, 200);
    let none = api.by("POST", "/token", "", &Value::Null, &[OURS]).await;
    assert_eq!(none.refusal(), (401, "token_missing".into()));
    let bearer = api.ask("POST", "/token", Some(&token), &Value::Null).await;
    assert_eq!(bearer.refusal(), (422, "invalid_request".into()), "a token brings no other one");
    let out = api.by("POST", "/logout", &cookie, &Value::Null, &[OURS]).await;
    assert_eq!((out.status, out.header("clear-site-data")), (204, "\"cache\""));
    assert!(out.header("set-cookie").starts_with("__Host-palisade=; Path=/; Max-Age=0"), "{out:?}");
    assert_eq!(api.get("/me", &token).await.refusal(), (401, "invalid_token".into()));
    assert_eq!(api.shown(&cookie).await.status, 204);
}

/// Session fixation, and copies of a cookie from before.
#[tokio::test]
async fn a_new_value_at_each_sign_in_and_each_change_voids_the_former() {
    let api = api();
    api.ann().await;
    let first = api.enters("").await;
    let second = api.enters(&first).await;
    assert_ne!(first, second);
    assert_eq!(api.shown(&first).await.status, 204, "signing in over a session ends it");
    let change = json!({"current_password": PASSWORD, "new_password": NEW});
    let changed = api.by("PUT", "/me/password", &second, &change, &[OURS]).await;
    assert_eq!((changed.status, changed.text.as_str()), (204, ""));
    let third = pair(&changed);
    assert_eq!(api.shown(&second).await.status, 204);
    assert_eq!(api.shown(&third).await.status, 200);
    // A new address.
    let edit = json!({"email": "ann@new.test", "current_password": NEW});
    assert_eq!(api.by("PATCH", "/me", &third, &edit, &[OURS]).await.status, 200);
    api.world.accounts.do_due_tasks().await.unwrap();
    let link = json!({"token": api.mailed(Letter::ConfirmEmail).await});
    let confirmed = api.by("POST", "/verify-email", &third, &link, &[OURS]).await;
    assert_eq!((confirmed.status, &confirmed.body()["email"]), (200, &json!("ann@new.test")));
    assert_eq!(api.shown(&third).await.status, 204);
    assert_eq!(api.shown(&pair(&confirmed)).await.body()["user"]["email"], "ann@new.test");
}

#[tokio::test]
async fn asking_who_is_signed_in_is_no_use_of_the_session() {
    let api = api();
    api.ann().await;
    let cookie = api.enters("").await;
    let first = api.shown(&cookie).await.body()["idle_at"].as_u64().unwrap();
    api.world.clock.advance(1000);
    assert_eq!(api.shown(&cookie).await.body()["idle_at"], first);
    // Anything else is.
    assert_eq!(api.by("GET", "/me", &cookie, &Value::Null, &[]).await.status, 200);
    assert_eq!(api.shown(&cookie).await.body()["idle_at"], first + 1000);
    api.world.clock.advance(BROWSER.idle.as_secs());
    assert_eq!(api.shown(&cookie).await.status, 204);
    let over = api.by("GET", "/me", &cookie, &Value::Null, &[]).await;
    assert_eq!(over.refusal(), (401, "session_over".into()));
    // Ending what has ended is no failure, and the browser forgets it.
    let out = api.by("POST", "/logout", &cookie, &Value::Null, &[OURS]).await;
    assert!(out.status == 204 && out.header("set-cookie").contains("Max-Age=0"), "{out:?}");
}

#[tokio::test]
async fn on_the_machine_itself_the_cookie_is_plain_and_an_operator_can_do_without_any() {
    let api = api_at(Origins::These(Vec::new()), "http://localhost:8080");
    api.ann().await;
    let mut request =
        with(request("POST", "/login", None, Some(&credentials(Value::Null).to_string())), &[OURS]);
    request.extensions_mut().insert(AskedHost("localhost".to_owned()));
    let set = api.send(request).await.header("set-cookie").to_owned();
    assert!(set.starts_with("palisade=") && set.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{set}");

    let world = accounts_world::world();
    let mut state = state_of(&world, Origins::These(Vec::new()), "https://app.test");
    state.browser.enabled = false;
    let off = api_from(world, state);
    off.ann().await;
    let refused = off.by("POST", "/login", "", &credentials(Value::Null), &[OURS]).await;
    assert_eq!(refused.refusal(), (422, "invalid_request".into()));
}

/// With a cookie for a whole domain, every host below it can toss one of its own session.
#[tokio::test]
async fn a_tossed_cookie_of_a_domain_keeps_nobody_out_and_signs_nobody_in() {
    let world = accounts_world::world();
    let mut state = state_of(&world, Origins::These(Vec::new()), "https://app.test");
    state.browser.domain = Some("app.test".to_owned());
    let api = api_from(world, state);
    api.ann().await;
    let first = api.by("POST", "/login", "", &credentials(Value::Null), &[OURS]).await;
    let set = first.header("set-cookie");
    assert!(set.starts_with("__Secure-palisade=") && set.contains("; Domain=app.test"), "{set}");
    let (mine, evil) =
        (pair(&first), pair(&api.by("POST", "/login", "", &credentials(Value::Null), &[OURS]).await));
    let both = format!("{evil}; {mine}");
    assert_eq!(api.shown(&both).await.status, 204, "which one is the person's own cannot be told");
    // The next sign-in sets one that only this host can set, and that wins over both.
    let again = api.by("POST", "/login", &both, &credentials(Value::Null), &[OURS]).await;
    let mut set = again.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap());
    let winner = set.find(|set| set.starts_with("__Host-")).unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(api.shown(&format!("{both}; {winner}")).await.status, 200);
    // Over that one, too, a sign-in ends the former session.
    let last = api.by("POST", "/login", &winner, &credentials(Value::Null), &[OURS]).await;
    assert_eq!(last.status, 204);
    assert_eq!(api.shown(&winner).await.status, 204);
}
