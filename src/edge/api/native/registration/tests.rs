//! What a browser gets for a registration, and what it shows with that at the verification.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use super::super::super::described::Answer;
use super::super::tests::{Api, api, api_at, api_from, api_of, request, state_of};
use crate::config::Origins;
use palisade_core::domain::account::Verification;
use palisade_core::domain::mail::Letter;
use palisade_core::ports::Store;
use palisade_testing::accounts_world::PASSWORD;
use palisade_testing::accounts_world::{self, ANN};
use secrecy::ExposeSecret;

const BOB: &str = "bob@example.com";
const OURS: (&str, &str) = ("sec-fetch-site", "same-origin");

fn with(mut request: Request<Body>, fields: &[(&str, &str)]) -> Request<Body> {
    for (name, value) in fields {
        let name: axum::http::HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

impl Api {
    async fn post_with(&self, path: &str, body: &Value, fields: &[(&str, &str)]) -> Answer {
        self.send(with(request("POST", path, None, Some(&body.to_string())), fields)).await
    }

    /// A registration with these fields; returns its whole `Set-Cookie`, which may be none.
    async fn registers(&self, email: &str, fields: &[(&str, &str)]) -> String {
        let body = json!({"email": email, "password": PASSWORD, "name": "Ann"});
        let answer = self.post_with("/register", &body, fields).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        self.world.accounts.do_due_tasks().await.unwrap();
        answer.header("set-cookie").to_owned()
    }

    /// What the page sends with this cookie.
    async fn presses(&self, cookie: &str, more: Value) -> Answer {
        let mut body = json!({"token": self.mailed(Letter::VerifyEmail).await, "proof": true});
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let cookie = cookie.split(';').next().unwrap_or_default();
        self.post_with("/verify-email", &body, &[OURS, ("cookie", cookie)]).await
    }
}

#[tokio::test]
async fn the_browser_that_registered_verifies_with_one_press() {
    let api = api();
    let cookie = api.registers(ANN, &[OURS]).await;
    let elsewhere = api.presses("", json!({})).await;
    assert_eq!(elsewhere.refusal(), (403, "proof_needed".into()));
    assert_eq!(elsewhere.body()["ways"], json!(["password", "new_password"]));
    let verified = api.presses(&cookie, json!({})).await;
    assert_eq!((verified.status, &verified.body()["email_verified"]), (200, &json!(true)));
}

#[tokio::test]
async fn elsewhere_it_takes_the_password_or_a_new_one() {
    let api = api();
    api.registers(ANN, &[]).await;
    let wrong = api.presses("", json!({"password": "a guess"})).await;
    assert_eq!(wrong.refusal(), (403, "wrong_password".into()));
    let both = api.presses("", json!({"password": PASSWORD, "new_password": PASSWORD})).await;
    assert_eq!(both.refusal(), (422, "invalid_request".into()));
    let weak = api.presses("", json!({"new_password": "short"})).await;
    assert_eq!(weak.refusal(), (422, "password_rejected".into()));
    assert_eq!(api.presses("", json!({"new_password": "the owner's own"})).await.body()["name"], Value::Null);
    let old = api.post("/login", &json!({"email": ANN, "password": PASSWORD})).await;
    assert_eq!(old.refusal(), (401, "invalid_credentials".into()));
    assert_eq!(api.post("/login", &json!({"email": ANN, "password": "the owner's own"})).await.status, 200);

    api.registers(BOB, &[]).await;
    assert_eq!(api.presses("", json!({"password": PASSWORD})).await.body()["name"], "Ann");
}

#[tokio::test]
async fn the_operators_word_makes_every_link_need_a_proof() {
    let world = accounts_world::world_with(|settings| settings.verification = Verification::Proof);
    let api = api_of(world, Origins::These(Vec::new()), "https://app.test");
    api.registers(ANN, &[]).await;
    let link = json!({"token": api.mailed(Letter::VerifyEmail).await});
    assert_eq!(api.post("/verify-email", &link).await.refusal(), (403, "proof_needed".into()));
    let typed = json!({"token": link["token"], "password": PASSWORD});
    assert_eq!(api.post("/verify-email", &typed).await.status, 200, "the link stayed good");
}

#[tokio::test]
async fn only_a_page_of_this_site_gets_a_cookie() {
    let listed = "https://pages.test";
    let api = {
        let world = accounts_world::world();
        let mut state = state_of(&world, Origins::These(vec![listed.to_owned()]), "https://app.test");
        state.cors.credentials = true;
        api_from(world, state)
    };
    let (ours, theirs) = (("origin", "https://app.test"), ("origin", "https://evil.test"));
    let listed = ("origin", listed);
    for fields in [
        vec![OURS],
        vec![OURS, ours],
        vec![ours],
        vec![("sec-fetch-site", "cross-site"), listed],
        vec![listed],
    ] {
        assert!(!api.registers(BOB, &fields).await.is_empty(), "{fields:?}");
    }
    for fields in [vec![], vec![("sec-fetch-site", "none")]] {
        assert!(api.registers(BOB, &fields).await.is_empty(), "{fields:?}");
    }
    let body = json!({"email": BOB, "password": PASSWORD, "name": "Ann"});
    for fields in [
        vec![theirs],
        vec![("origin", "null")],
        vec![("origin", "https://app.test.evil.test")],
        vec![("referer", "https://evil.test/app.test/")],
        vec![("sec-fetch-site", "cross-site"), theirs],
        vec![("sec-fetch-site", "cross-site"), ours],
        vec![("sec-fetch-site", "same-site"), ("origin", "https://other.app.test")],
        vec![("sec-fetch-site", "Same-Origin")],
        vec![OURS, ("sec-fetch-site", "cross-site")],
        vec![ours, theirs],
    ] {
        let answer = api.post_with("/register", &body, &fields).await;
        assert_eq!(answer.refusal(), (403, "cross_site".into()), "{fields:?}");
        assert_eq!(answer.header("set-cookie"), "", "{fields:?}");
    }
}

#[tokio::test]
async fn the_cookie_is_this_hosts_and_out_of_reach_of_scripts() {
    let https = api().registers(ANN, &[OURS]).await;
    assert!(https.starts_with("__Host-palisade-registration="), "{https}");
    assert!(https.ends_with("; HttpOnly; SameSite=Strict; Secure; Path=/; Max-Age=604800"), "{https}");
    let http = api_at(Origins::These(Vec::new()), "http://localhost:8080").registers(ANN, &[OURS]).await;
    assert!(http.starts_with("palisade-registration="), "{http}");
    assert!(http.ends_with("; HttpOnly; SameSite=Strict; Path=/auth; Max-Age=604800"), "{http}");
}

/// The answer follows from the request alone: whether the address is free, taken, waits, or was registered by this very
/// browser a moment ago.
#[tokio::test]
async fn a_cookie_tells_nothing_about_an_address() {
    let api = api();
    api.ann().await;
    let shape = |cookie: &str| {
        let (value, rest) = cookie.split_once(';').unwrap();
        (value.len(), rest.to_owned())
    };
    let mut shapes = Vec::new();
    for email in [ANN, BOB, BOB, "free@example.com"] {
        shapes.push(shape(&api.registers(email, &[OURS]).await));
    }
    shapes.dedup();
    assert_eq!(shapes.len(), 1, "{shapes:?}");
}

#[tokio::test]
async fn a_form_that_is_sent_twice_keeps_the_cookie_good_and_another_one_does_not() {
    for (repeat, is_one) in [("form 1", true), ("form 2", false)] {
        let api = api();
        let first = api.registers(ANN, &[OURS, ("idempotency-key", "form 1")]).await;
        let value = first.split(';').next().unwrap();
        let fields = [OURS, ("idempotency-key", repeat), ("cookie", value)];
        let second = api.registers(ANN, &fields).await;
        let letters = api.world.letters().await.len();
        assert_eq!(letters, if is_one { 1 } else { 2 });
        assert_eq!(api.presses(&second, json!({})).await.status, if is_one { 200 } else { 403 }, "{repeat}");
    }
    let api = api();
    let form = |id: Value| json!({"email": ANN, "password": PASSWORD, "form_id": id});
    assert_eq!(api.post("/register", &form(json!("form 1"))).await.status, 202);
    for bad in [json!(""), json!("x".repeat(256)), json!("ż")] {
        let refused = api.post("/register", &form(bad)).await;
        assert_eq!(refused.refusal(), (422, "invalid_request".into()));
    }
    for keys in [vec!["form 1"], vec![""], vec!["a", "b"]] {
        let fields: Vec<_> = keys.iter().map(|key| ("idempotency-key", *key)).collect();
        let body = if keys == ["form 1"] {
            form(json!("form 1"))
        } else {
            json!({"email": ANN, "password": PASSWORD})
        };
        let refused = api.post_with("/register", &body, &fields).await;
        assert_eq!(refused.refusal(), (422, "invalid_request".into()), "{keys:?}");
    }
}

#[tokio::test]
async fn a_registration_that_is_refused_changes_no_cookie() {
    let api = api();
    let body = json!({"email": ANN, "password": "short"});
    let refused = api.post_with("/register", &body, &[OURS]).await;
    assert_eq!((refused.status, refused.header("set-cookie")), (422, ""));
}

#[tokio::test]
async fn a_cookie_that_is_forged_doubled_or_anothers_shows_nothing() {
    let api = api();
    let strangers = api.registers(ANN, &[OURS]).await;
    let value = strangers.split(';').next().unwrap().to_owned();
    let mut forged = value.clone();
    let last = if forged.ends_with('A') { 'B' } else { 'A' };
    forged.replace_range(forged.len() - 1.., &last.to_string());
    let bobs = api.registers(BOB, &[OURS]).await;
    let doubled = format!("{value}; {value}");
    let link = {
        let mails = api.world.store.mails(100).await.unwrap();
        let anns = mails.into_iter().find(|mail| mail.to.as_str() == ANN).unwrap().link.unwrap();
        api.world.key.link_token(anns.id).expose_secret().to_owned()
    };
    let body = json!({"token": link, "proof": true});
    for cookie in [&*forged, bobs.split(';').next().unwrap(), &doubled, "__Host-palisade-registration=", "x"]
    {
        let asked = api.post_with("/verify-email", &body, &[("cookie", cookie)]).await;
        assert_eq!(asked.refusal(), (403, "proof_needed".into()), "{cookie}");
    }
    let plain = value.replace("__Host-", "");
    let asked = api.post_with("/verify-email", &body, &[("cookie", &plain)]).await;
    assert_eq!(asked.refusal(), (403, "proof_needed".into()), "a name that any host of the site could set");
    assert_eq!(api.post_with("/verify-email", &body, &[("cookie", &value)]).await.status, 200);
}
