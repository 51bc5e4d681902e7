//! The pages of people who are signed in, and of the links that undo a change of address, as a browser without script
//! uses them.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use super::super::super::super::described::Answer;
use super::super::super::tests::{Api, access, api, api_from, request, state_of};
use crate::config::Origins;
use palisade_core::domain::account::UserId;
use palisade_core::domain::mail::Letter;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, Store};
use palisade_core::service::caller::AskedHost;
use palisade_core::service::users::{NewPassword, NewUser};
use palisade_testing::accounts_world::{self, ANN, PASSWORD};
use palisade_testing::connection_fakes::ACME;

const ACCOUNT: &str = "/pages/account";
const SIGN_OUT: &str = "/pages/sign-out";
const PUBLIC: &str = "https://app.test/auth/pages/";
const OURS: (&str, &str) = ("sec-fetch-site", "same-origin");
/// What browsers say when a person presses a link on a page of the same site.
const PRESSED: [(&str, &str); 3] =
    [("sec-fetch-site", "same-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];

/// A browser, with its session cookie.
struct Browser<'a> {
    api: &'a Api,
    cookie: String,
}

fn with(mut request: Request<Body>, fields: &[(&str, &str)]) -> Request<Body> {
    for (name, value) in fields {
        let name: axum::http::HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

fn form(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// The facts of a page; [`palisade_testing::page_fakes::FakePages`] writes them behind its name.
fn facts(answer: &Answer, page: &str) -> Value {
    let (name, facts) = answer.text.split_once('\n').unwrap_or_else(|| panic!("{answer:?}"));
    assert_eq!(name, page, "{answer:?}");
    serde_json::from_str(facts).unwrap()
}

/// The codes of what is wrong, with their fields.
fn errors(answer: &Answer) -> Vec<(Value, Value)> {
    let facts = facts(answer, "account");
    let errors = facts["errors"].as_array().unwrap_or_else(|| panic!("{facts}"));
    errors.iter().map(|error| (error["field"].clone(), error["code"].clone())).collect()
}

fn to(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.header("location"))
}

impl Api {
    /// Ann signs in with a browser.
    async fn browser(&self) -> Browser<'_> {
        let body = json!({"email": ANN, "password": PASSWORD, "session": "cookie"}).to_string();
        let answer = self.send(with(request("POST", "/login", None, Some(&body)), &[OURS])).await;
        let cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
        assert!(cookie.starts_with("__Host-palisade="), "{answer:?}");
        Browser { api: self, cookie }
    }

    async fn visit(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.send(with(request("GET", path, None, None), fields)).await
    }

    async fn submit(&self, path: &str, pairs: &[(&str, &str)], fields: &[(&str, &str)]) -> Answer {
        let mut request = with(request("POST", path, None, None), fields);
        let kind = "application/x-www-form-urlencoded".parse().unwrap();
        request.headers_mut().insert("content-type", kind);
        *request.body_mut() = Body::from(form(pairs));
        self.send(request).await
    }
}

impl Browser<'_> {
    async fn opens(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.api.visit(path, &[&[("cookie", &*self.cookie)], fields].concat()).await
    }

    /// Sends a form of the page.
    async fn sends(&self, path: &str, pairs: &[(&str, &str)]) -> Answer {
        self.api.submit(path, pairs, &[("cookie", &*self.cookie), OURS]).await
    }

    /// A form of the account's page.
    async fn asks(&self, which: &str, pairs: &[(&str, &str)]) -> Answer {
        self.sends(ACCOUNT, &[&[("form", which)], pairs].concat()).await
    }

    async fn is_signed_in(&self) -> bool {
        self.opens(ACCOUNT, &[]).await.status == 200
    }
}

#[tokio::test]
async fn the_account_is_for_its_owner_on_the_public_host() {
    let api = api();
    api.ann().await;
    let back =
        "https://app.test/auth/pages/sign-in?return_to=https%3A%2F%2Fapp.test%2Fauth%2Fpages%2Faccount";
    assert_eq!(to(&api.visit(ACCOUNT, &[]).await), (303, back));
    for cookie in ["__Host-palisade=x", "palisade=x"] {
        assert_eq!(to(&api.visit(ACCOUNT, &[("cookie", cookie)]).await), (303, back));
    }
    let late = api.submit(ACCOUNT, &[("form", "name"), ("name", "Eve")], &[OURS]).await;
    assert_eq!(to(&late), (303, &*format!("{back}&notice=unsent")));
    let token = access(&api.login().await);
    let by_token = api.send(request("GET", ACCOUNT, Some(&token), None)).await;
    assert_eq!(to(&by_token), (303, back), "a page takes no token");

    let browser = api.browser().await;
    let shown = browser.opens(ACCOUNT, &[]).await;
    assert_eq!((shown.status, shown.header("cache-control")), (200, "no-store"));
    let facts_here = facts(&shown, "account");
    assert_eq!((&facts_here["email"], &facts_here["name"]), (&json!(ANN), &json!("Ann")));
    assert_eq!(facts_here["sessions"].as_array().unwrap().len(), 2);
    let this: Vec<&Value> =
        facts_here["sessions"].as_array().unwrap().iter().map(|one| &one["is_this"]).collect();
    assert_eq!(this.iter().filter(|is| ***is == true).count(), 1);
    assert_eq!(facts_here["sign_out_url"], "https://app.test/auth/pages/sign-out");

    for host in [Some("other.test"), None] {
        for path in [ACCOUNT, SIGN_OUT] {
            let mut request = with(request("GET", path, None, None), &[("cookie", &browser.cookie)]);
            let extensions = request.extensions_mut();
            extensions.remove::<AskedHost>();
            host.map(|host| extensions.insert(AskedHost(host.to_owned())));
            let refused = api.send(request).await;
            assert_eq!((refused.status, &facts(&refused, "error")["kind"]), (403, &json!("address")));
            assert!(!refused.text.contains(ANN), "{refused:?}");
        }
    }
}

/// The sign-in leads to the account with a mark: without it, a browser that keeps no cookie would go round for ever.
#[tokio::test]
async fn a_browser_that_keeps_no_cookie_reads_why() {
    let api = api();
    api.ann().await;
    let sign_in = [("email", ANN), ("password", PASSWORD)];
    for query in ["", "?return_to=%2Fauth%2Fpages%2Faccount%3Fa%3D1"] {
        let done = api.submit(&format!("/pages/sign-in{query}"), &sign_in, &[OURS]).await;
        let marked = done.header("location").strip_prefix("https://app.test/auth").unwrap().to_owned();
        assert!(marked.contains("palisade-turn="), "{marked}");
        let blocked = api.visit(&marked, &[OURS]).await;
        let told = facts(&blocked, "error");
        assert_eq!(
            (blocked.status, &told["kind"], &told["cause"]),
            (400, &json!("cookie"), &json!("blocked"))
        );
        assert_eq!(told["retry_url"], format!("{PUBLIC}account"));
        let insecure = facts(&api.visit(&marked, &[]).await, "error");
        assert_eq!(insecure["cause"], "insecure");
        // With a session the mark is taken out of the address.
        let browser = api.browser().await;
        let rest = if query.is_empty() { "" } else { "?a=1" };
        assert_eq!(to(&browser.opens(&marked, &[OURS]).await), (303, &*format!("{PUBLIC}account{rest}")));
        // The mark is over in a minute.
        api.world.clock.advance(61);
        assert_eq!(api.visit(&marked, &[OURS]).await.status, 303);
    }
}

#[tokio::test]
async fn no_other_site_sends_a_form() {
    let api = api();
    api.ann().await;
    let browser = api.browser().await;
    for fields in [
        &[][..],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "https://evil.test")],
        &[("origin", "null")],
    ] {
        let fields = [&[("cookie", &*browser.cookie)], fields].concat();
        for pairs in [
            &[("form", "name"), ("name", "Eve")][..],
            &[("form", "sessions")],
            &[("form", "delete"), ("delete_confirmed", "true")],
            &[("form", "connect"), ("provider", ACME)],
        ] {
            let refused = api.submit(ACCOUNT, pairs, &fields).await;
            assert_eq!((refused.status, &facts(&refused, "error")["kind"]), (403, &json!("cross_site")));
        }
        assert_eq!(api.submit(SIGN_OUT, &[], &fields).await.status, 403);
    }
    assert_eq!(facts(&browser.opens(ACCOUNT, &[]).await, "account")["name"], "Ann");
    let json = with(request("POST", ACCOUNT, None, Some("{}")), &[("cookie", &browser.cookie), OURS]);
    assert_eq!(api.send(json).await.status, 415);
}

#[tokio::test]
async fn a_name_and_an_address_are_changed() {
    let api = api();
    api.ann().await;
    let browser = api.browser().await;
    let named = browser.asks("name", &[("name", " <b>Ann</b> Lee ")]).await;
    assert_eq!(to(&named), (303, &*format!("{PUBLIC}account?notice=name")));
    let shown = facts(&browser.opens("/pages/account?notice=name", &[OURS]).await, "account");
    assert_eq!((&shown["name"], &shown["notice"]), (&json!("<b>Ann</b> Lee"), &json!("name")));
    let bad = browser.asks("name", &[("name", "a\nb")]).await;
    assert_eq!((bad.status, errors(&bad)), (422, vec![(json!("name"), json!("invalid_name"))]));
    let again = facts(&bad, "account");
    assert_eq!((&again["form"], &again["typed"]["name"]), (&json!("name"), &json!("a\nb")));

    let email = async |email: &str, password: &str| {
        browser.asks("email", &[("email", email), ("email_password", password)]).await
    };
    for (given, password, status, field, code) in [
        ("", PASSWORD, 422, "email", "required"),
        ("ann@new.test", "", 422, "email_password", "required"),
        ("ann@", PASSWORD, 422, "email", "invalid_email"),
        ("ann@new.test", "wrong one", 403, "email_password", "wrong_password"),
    ] {
        let refused = email(given, password).await;
        assert_eq!((refused.status, errors(&refused)), (status, vec![(json!(field), json!(code))]));
        assert!(!refused.text.contains("wrong one"), "a password is not shown again");
        assert_eq!(facts(&refused, "account")["typed"]["email"], given);
    }
    assert_eq!(to(&email("ann@new.test", PASSWORD).await), (303, &*format!("{PUBLIC}account?notice=email")));
    api.world.accounts.do_due_tasks().await.unwrap();
    assert_eq!(api.world.newest(Letter::ConfirmEmail).await.to.as_str(), "ann@new.test");
    assert_eq!(to(&email(ANN, PASSWORD).await), (303, &*format!("{PUBLIC}account")), "it is the present one");
}

/// A link of an attacker must not make the page say what was not done.
#[tokio::test]
async fn only_our_own_page_says_what_was_done() {
    let api = api();
    api.ann().await;
    let browser = api.browser().await;
    let notice = async |path: &str, fields: &[(&str, &str)]| {
        facts(&browser.opens(path, fields).await, "account")["notice"].clone()
    };
    assert_eq!(notice("/pages/account?notice=password", &[OURS]).await, "password");
    assert_eq!(notice("/pages/account?notice=password", &[]).await, "password");
    for site in ["cross-site", "same-site", "none"] {
        assert_eq!(notice("/pages/account?notice=password", &[("sec-fetch-site", site)]).await, Value::Null);
    }
    assert_eq!(notice("/pages/account?notice=deleted-by-eve", &[OURS]).await, Value::Null);
    let gone = async |fields: &[(&str, &str)]| {
        facts(&api.visit("/pages/sign-out?done=deleted", fields).await, "sign-out")["step"].clone()
    };
    assert_eq!(
        (gone(&[OURS]).await, gone(&[("sec-fetch-site", "cross-site")]).await),
        (json!("deleted"), json!("done"))
    );
}

#[tokio::test]
async fn a_new_password_renews_the_cookie_and_ends_the_others() {
    let api = api();
    api.ann().await;
    let (browser, other) = (api.browser().await, api.browser().await);
    let change = async |current: &str, new: &str| {
        browser.asks("password", &[("current_password", current), ("new_password", new)]).await
    };
    for (current, new, field, code) in [
        ("", "a good new one", "current_password", "required"),
        ("wrong one", "a good new one", "current_password", "wrong_password"),
        (PASSWORD, "short", "new_password", "password_too_short"),
    ] {
        let refused = change(current, new).await;
        assert_eq!(errors(&refused), [(json!(field), json!(code))]);
        assert!(!refused.text.contains("wrong one") && !refused.text.contains("a good new one"));
        assert_eq!(refused.header("set-cookie"), "");
    }
    let changed = change(PASSWORD, "a good new one").await;
    assert_eq!(to(&changed), (303, &*format!("{PUBLIC}account?notice=password")));
    let renewed = changed.header("set-cookie");
    assert!(renewed.starts_with("__Host-palisade=") && renewed.contains("; HttpOnly"), "{renewed}");
    let renewed = Browser { api: &api, cookie: renewed.split(';').next().unwrap().to_owned() };
    assert!(renewed.is_signed_in().await);
    assert!(!browser.is_signed_in().await && !other.is_signed_in().await);
}

#[tokio::test]
async fn sessions_are_ended_one_by_one_or_all_others() {
    let api = api();
    let ann = api.ann().await;
    let (browser, second, third) = (api.browser().await, api.browser().await, api.browser().await);
    let id = async |browser: &Browser<'_>| {
        let shown = facts(&browser.opens(ACCOUNT, &[]).await, "account");
        let this = shown["sessions"].as_array().unwrap().iter().find(|one| one["is_this"] == true).cloned();
        this.unwrap()["id"].as_str().unwrap().to_owned()
    };
    let ended = browser.asks("session", &[("session", &id(&second).await)]).await;
    assert_eq!(to(&ended), (303, &*format!("{PUBLIC}account?notice=session")));
    assert!(!second.is_signed_in().await && third.is_signed_in().await);
    // It has ended already, is another account's, or is none: nothing is done.
    for none in ["019b1e20-7c2e-7c3a-9d51-3f0b2a6c4e11", "x", ""] {
        assert_eq!(browser.asks("session", &[("session", none)]).await.status, 303);
    }
    assert_eq!(to(&browser.asks("sessions", &[]).await), (303, &*format!("{PUBLIC}account?notice=sessions")));
    assert!(!third.is_signed_in().await && browser.is_signed_in().await);
    let own = browser.asks("session", &[("session", &id(&browser).await)]).await;
    assert_eq!(to(&own), (303, &*format!("{PUBLIC}sign-out")), "ending this one is signing out");
    assert!(own.header("set-cookie").contains("Max-Age=0"), "{own:?}");
    assert!(api.world.store.sessions(ann).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_account_at_a_provider_is_connected_and_disconnected() {
    let api = api();
    api.ann().await;
    let browser = api.browser().await;
    let of_page = async |path: &str| facts(&browser.opens(path, &[]).await, "account");
    let offered = of_page(ACCOUNT).await["providers"].clone();
    assert_eq!((&offered[0]["name"], &offered[1]["parameters"][0]["name"]), (&json!(ACME), &json!("shop")));
    for (pairs, code) in [
        (&[("provider", "none")][..], "not_found"),
        (&[("provider", "shop")], "provider_parameters"),
        (&[("provider", "shop"), ("parameter:other", "x")], "provider_parameters"),
        (&[("provider", ACME), ("connection", "x")], "not_found"),
    ] {
        let refused = browser.asks("connect", pairs).await;
        assert_eq!(errors(&refused), [(Value::Null, json!(code))], "{pairs:?}");
    }
    let leaving = browser.asks("connect", &[("provider", ACME)]).await;
    // A redirect here would be held to the policy's `form-action`.
    assert_eq!((leaving.status, &facts(&leaving, "account")["step"]), (200, &json!("leaving")));
    let url = facts(&leaving, "account")["authorization_url"].as_str().unwrap().to_owned();
    assert_eq!(leaving.header("refresh"), format!("0;url={url}"));
    let consent = leaving.header("set-cookie").split(';').next().unwrap().to_owned();
    assert!(consent.starts_with("__Host-palisade_connect_"), "{consent}");

    let state = api.providers.states.lock().unwrap().last().unwrap().clone();
    let callback = format!("/connections/callback?code=c&state={state}");
    let back = api.visit(&callback, &[("cookie", &format!("{}; {consent}", browser.cookie))]).await;
    assert_eq!(back.status, 303, "{back:?}");
    let query = back.header("location").strip_prefix("https://app.test/auth").unwrap().to_owned();
    let shown = of_page(&query).await;
    assert_eq!(
        (&shown["notice"], &shown["connections"][0]["status"]),
        (&json!("connected"), &json!("active"))
    );
    assert_eq!(shown["providers"].as_array().unwrap().len(), 1, "Acme is connected already");
    let id = shown["connections"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        of_page(&format!("/pages/account?connection={id}&error=access_denied")).await["notice"],
        "refused"
    );
    for none in [uuid::Uuid::from_u128(1).to_string(), "x".to_owned()] {
        assert_eq!(of_page(&format!("/pages/account?connection={none}")).await["notice"], Value::Null);
    }
    assert_eq!(errors(&browser.asks("disconnect", &[("connection", "x")]).await).len(), 1);
    let ended = browser.asks("disconnect", &[("connection", &id)]).await;
    assert_eq!(to(&ended), (303, &*format!("{PUBLIC}account?notice=disconnected")));
    assert_eq!(of_page(ACCOUNT).await["connections"], json!([]));
    assert!(api.providers.live().is_empty(), "the provider was told");
}

#[tokio::test]
async fn an_account_is_deleted_with_a_tick_and_a_password_or_a_fresh_sign_in() {
    let api = api();
    let ann = api.ann().await;
    let browser = api.browser().await;
    let is_there = async || api.world.store.user(ann).await.unwrap().is_some();
    let untouched = browser.asks("delete", &[("delete_password", PASSWORD)]).await;
    assert_eq!(errors(&untouched), [(json!("delete_confirmed"), json!("not_confirmed"))]);
    let delete = async |password: &str| {
        browser.asks("delete", &[("delete_confirmed", "true"), ("delete_password", password)]).await
    };
    assert_eq!(errors(&delete("wrong one").await), [(json!("delete_password"), json!("wrong_password"))]);
    assert_eq!(facts(&browser.opens(ACCOUNT, &[]).await, "account")["is_fresh"], true);
    api.world.clock.advance(600);
    assert_eq!(facts(&browser.opens(ACCOUNT, &[]).await, "account")["is_fresh"], false);
    assert_eq!(errors(&delete("").await), [(json!("delete_password"), json!("required"))]);
    assert!(is_there().await);
    let deleted = delete(PASSWORD).await;
    assert_eq!(to(&deleted), (303, &*format!("{PUBLIC}sign-out?done=deleted")));
    assert!(deleted.header("set-cookie").contains("Max-Age=0"), "{deleted:?}");
    assert_eq!(deleted.header("clear-site-data"), "\"cache\"");
    assert!(!is_there().await && !browser.is_signed_in().await);
    api.ann().await;
    let fresh = api.browser().await.asks("delete", &[("delete_confirmed", "true")]).await;
    assert_eq!(fresh.status, 303);
}

#[tokio::test]
async fn an_address_that_can_be_given_back_keeps_its_account() {
    let api = api();
    api.ann().await;
    let granted = api.world.login().await;
    let browser = api.browser().await;
    api.world.move_to(&granted, "thief@evil.test").await;
    assert!(!browser.is_signed_in().await);
    let body = json!({"email": "thief@evil.test", "password": PASSWORD, "session": "cookie"}).to_string();
    let answer = api.send(with(request("POST", "/login", None, Some(&body)), &[OURS])).await;
    let cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
    let thief = Browser { api: &api, cookie };
    assert!(facts(&thief.opens(ACCOUNT, &[]).await, "account")["stays_until"].is_u64());
    let kept = thief.asks("delete", &[("delete_confirmed", "true"), ("delete_password", PASSWORD)]).await;
    assert_eq!((kept.status, errors(&kept)), (409, vec![(Value::Null, json!("email_change_undoable"))]));
}

#[tokio::test]
async fn a_pressed_link_signs_out_and_nothing_else_does_without_a_question() {
    let api = api();
    api.ann().await;
    let browser = api.browser().await;
    let target = "https%3A%2F%2Fapp.test%2Freports";
    let path = format!("{SIGN_OUT}?return_to={target}");
    for fields in [
        // An image, a frame, a link on another site, one that was typed, a prerender, and a browser that does not say.
        &[("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")][..],
        &[("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
        &[("sec-fetch-site", "cross-site"), PRESSED[1], PRESSED[2]],
        &[("sec-fetch-site", "none"), PRESSED[1], PRESSED[2]],
        &[PRESSED[0], PRESSED[1], PRESSED[2], ("sec-purpose", "prefetch;prerender")],
        &[("referer", "https://app.test/")],
        &[],
    ] {
        let asked = browser.opens(&path, fields).await;
        let shown = facts(&asked, "sign-out");
        assert_eq!((&shown["step"], &shown["person"]), (&json!("ask"), &json!(ANN)), "{fields:?}");
        assert_eq!(shown["return_to"], "https://app.test/reports");
        assert_eq!((asked.header("set-cookie"), asked.header("clear-site-data")), ("", ""));
        assert!(browser.is_signed_in().await, "{fields:?}");
    }
    let mut head = with(request("HEAD", SIGN_OUT, None, None), &[("cookie", &browser.cookie)]);
    head = with(head, &PRESSED);
    assert_eq!(api.send(head).await.status, 200);
    assert!(browser.is_signed_in().await, "HEAD changes nothing");

    let out = browser.opens(&path, &PRESSED).await;
    assert_eq!(to(&out), (303, &*format!("{PUBLIC}sign-out?return_to={target}")));
    let forgotten = out.header("set-cookie");
    assert!(forgotten.starts_with("__Host-palisade=;") && forgotten.contains("Max-Age=0"), "{forgotten}");
    assert_eq!(out.header("clear-site-data"), "\"cache\"");
    assert!(!browser.is_signed_in().await);
    // The page after it leads back, and to a sign-in that is not made by itself.
    let done = api.visit(&path, &PRESSED).await;
    let shown = facts(&done, "sign-out");
    assert_eq!((&shown["step"], &shown["return_url"]), (&json!("done"), &json!("https://app.test/reports")));
    let sign_in = format!("{PUBLIC}sign-in?notice=signed_out&return_to={target}");
    assert_eq!(shown["sign_in_url"], sign_in);
    // Another site's request has no cookie, which must not take it away.
    assert_eq!((done.header("set-cookie"), done.header("clear-site-data")), ("", ""));

    let asked = api.browser().await;
    let answered = asked.sends(SIGN_OUT, &[("return_to", "https://app.test/reports")]).await;
    assert_eq!(to(&answered), (303, &*format!("{PUBLIC}sign-out?return_to={target}")));
    assert!(!asked.is_signed_in().await);
}

#[tokio::test]
async fn signing_out_leads_to_no_foreign_place() {
    let api = api();
    api.ann().await;
    for bad in [
        "//evil.test",
        "/\\evil.test",
        "https://evil.test/",
        "https://app.test@evil.test/",
        "javascript:alert(1)",
        "http://app.test/",
        "/.palisade/sign-out",
        "",
    ] {
        let path = format!("{SIGN_OUT}?{}", form(&[("return_to", bad)]));
        assert_eq!(facts(&api.visit(&path, &[]).await, "sign-out")["return_url"], Value::Null, "{bad}");
        let browser = api.browser().await;
        let out = browser.sends(SIGN_OUT, &[("return_to", bad)]).await;
        assert_eq!(to(&out), (303, &*format!("{PUBLIC}sign-out")), "{bad}");
    }
    let twice = format!("{SIGN_OUT}?{}", form(&[("return_to", "/a"), ("return_to", "/b")]));
    assert_eq!(facts(&api.visit(&twice, &[]).await, "sign-out")["return_url"], Value::Null);
}

/// A session that cannot be read has not ended: the browser keeps its cookie, and the person is told.
#[tokio::test]
async fn a_store_that_fails_signs_nobody_out() {
    let api = api();
    api.ann().await;
    let (browser, _other) = (api.browser().await, api.browser().await);
    api.world.store.fail();
    for out in [
        browser.opens(SIGN_OUT, &PRESSED).await,
        browser.sends(SIGN_OUT, &[]).await,
        browser.asks("sessions", &[]).await,
    ] {
        assert_eq!(out.status, 503, "{out:?}");
        assert_eq!((out.header("set-cookie"), out.header("clear-site-data")), ("", ""));
        assert!(!out.header("retry-after").is_empty() && !out.text.contains("secret detail"), "{out:?}");
    }
    api.world.store.mend();
    assert!(browser.is_signed_in().await);
}

#[tokio::test]
async fn a_session_that_an_operator_cut_off_opens_no_page() {
    let api = api();
    let ann: UserId = api.ann().await;
    let browser = api.browser().await;
    let (issuer, sub) = ("https://us.test".to_owned(), ann.to_string());
    let (created_at, expires_at, reason) = (UnixTime(1), UnixTime::NEVER, None);
    let raise = Change::RaiseVersion {
        issuer: issuer.clone(),
        sub: sub.clone(),
        created_at,
        expires_at,
        reason: None,
        enforce: true,
    };
    let cut = Change::CutSessions { issuer, sub: Some(sub), created_at, expires_at, reason };
    api.world.store.commit(vec![raise, cut]).await.unwrap();
    assert_eq!(browser.opens(ACCOUNT, &[]).await.status, 303);
}

#[tokio::test]
async fn the_page_tells_what_no_letter_can() {
    for sends_mail in [true, false] {
        let world = accounts_world::world_with(|settings| settings.sends_mail = sends_mail);
        let new = NewUser {
            email: Some(ANN.to_owned()),
            username: None,
            groups: Vec::new(),
            name: None,
            password: NewPassword::Given(accounts_world::secret(PASSWORD)),
            email_verified: true,
            scopes: Vec::new(),
            claims: serde_json::Map::new(),
        };
        let ann = world.accounts.create_user("r1", new).await.unwrap().user;
        let state = state_of(&world, Origins::These(Vec::new()), "https://app.test");
        let api = api_from(world, state);
        let browser = api.browser().await;
        let pairs = [("current_password", PASSWORD), ("new_password", "a good new one")];
        let changed = browser.asks("password", &pairs).await;
        let cookie = changed.header("set-cookie").split(';').next().unwrap().to_owned();
        let browser = Browser { api: &api, cookie };
        // The fake audit log keeps its events for itself.
        let events = api.world.audit.0.lock().unwrap().clone();
        api.world.store.commit(vec![Change::Record(events)]).await.unwrap();
        let shown = facts(&browser.opens(ACCOUNT, &[]).await, "account");
        assert_eq!(shown["has_mail"], sends_mail);
        let codes: Vec<&Value> = shown["news"].as_array().unwrap().iter().map(|one| &one["code"]).collect();
        assert_eq!(codes.contains(&&json!("password_changed")), !sends_mail, "{shown}");
        assert!(!shown["news"].to_string().contains(&ann.id.to_string()));
    }
}

/// By its user name, which is also what password managers get. What no letter can tell stands on the page.
#[tokio::test]
async fn the_page_of_an_account_without_an_address_names_it_by_its_user_name() {
    let api = api();
    let new = NewUser {
        email: None,
        username: Some("Ann.Lee".to_owned()),
        groups: vec!["staff".to_owned(), "Sales, EMEA".to_owned()],
        name: None,
        password: NewPassword::Given(accounts_world::secret(PASSWORD)),
        email_verified: false,
        scopes: Vec::new(),
        claims: serde_json::Map::new(),
    };
    let ann = api.world.accounts.create_user("r1", new).await.unwrap().user;
    let body = json!({"username": "ann.lee", "password": PASSWORD, "session": "cookie"}).to_string();
    let begun = api.send(with(request("POST", "/login", None, Some(&body)), &[OURS])).await;
    let cookie = begun.header("set-cookie").split(';').next().unwrap().to_owned();
    let browser = Browser { api: &api, cookie };
    let pairs = [("current_password", PASSWORD), ("new_password", "a good new one")];
    let changed = browser.asks("password", &pairs).await;
    let cookie = changed.header("set-cookie").split(';').next().unwrap().to_owned();
    let browser = Browser { api: &api, cookie };
    // The fake audit log keeps its events for itself.
    let events = api.world.audit.0.lock().unwrap().clone();
    api.world.store.commit(vec![Change::Record(events)]).await.unwrap();
    let shown = facts(&browser.opens(ACCOUNT, &[]).await, "account");
    assert_eq!((&shown["person"], &shown["username"]), (&json!("ann.lee"), &json!("ann.lee")));
    assert_eq!((&shown["email"], &shown["has_mail"]), (&Value::Null, &json!(true)));
    assert_eq!(shown["groups"], json!(["Sales, EMEA", "staff"]));
    let codes: Vec<&Value> = shown["news"].as_array().unwrap().iter().map(|one| &one["code"]).collect();
    assert_eq!(codes, [&json!("password_changed")], "{shown}");
    let out = facts(&browser.opens(SIGN_OUT, &[]).await, "sign-out");
    assert_eq!(out["person"], "ann.lee");

    // An address is added by the form that changes one.
    let pairs = [("email", ANN), ("email_password", "a good new one")];
    assert_eq!(browser.asks("email", &pairs).await.status, 303);
    api.world.accounts.do_due_tasks().await.unwrap();
    assert_eq!(api.world.recipients(Letter::ConfirmEmail).await, [ANN]);
    assert_eq!(api.world.letters().await.len(), 1, "nothing else was mailed");
    let user = api.world.store.user(ann.id).await.unwrap().unwrap();
    assert_eq!(user.email, None, "not before the link is opened");
}

#[tokio::test]
async fn links_about_a_change_of_address_work_without_script() {
    let api = api();
    api.ann().await;
    let granted = api.world.login().await;
    let undo = api.world.move_to(&granted, "thief@evil.test").await;
    for (page, letter) in [("undo", None), ("object", Some(Letter::EmailChangeDisputed))] {
        let token = match letter {
            None => undo.clone(),
            Some(letter) => api.mailed(letter).await,
        };
        let path = format!("/pages/{page}");
        let opened = api.visit(&path, &[]).await;
        assert_eq!(facts(&opened, page)["step"], "link");
        let mark = opened.header("set-cookie").split(';').next().unwrap().to_owned();
        let send =
            async |token: &str, fields: &[(&str, &str)]| api.submit(&path, &[("token", token)], fields).await;
        assert_eq!(send(&token, &[("sec-fetch-site", "cross-site")]).await.status, 403);
        let empty = send("", &[OURS]).await;
        assert_eq!((empty.status, &facts(&empty, page)["errors"][0]["field"]), (422, &json!("token")));
        let wrong = send("guessed", &[OURS]).await;
        assert_eq!((wrong.status, &facts(&wrong, page)["step"]), (400, &json!("over")));
        assert!(!wrong.text.contains("guessed"));
        api.world.store.fail();
        let failed = send(&token, &[OURS]).await;
        assert_eq!(
            (failed.status, &facts(&failed, page)["token"]),
            (503, &json!(token)),
            "it may be tried again"
        );
        api.world.store.mend();
        let marked = [OURS, ("cookie", &*mark)];
        let done = send(&format!(" {token}\n"), &marked).await;
        assert_eq!((done.status, &facts(&done, page)["step"]), (200, &json!("done")));
        assert!(facts(&done, page)["already"].is_null());
        assert_eq!(facts(&send(&token, &[OURS]).await, page)["step"], "over", "it is good once");
        let again = send(&token, &marked).await;
        assert_eq!((again.status, &facts(&again, page)["already"]), (200, &json!(true)));
        // Another person in that browser, with another link.
        assert_eq!(send("guessed", &marked).await.status, 400);
    }
}

#[tokio::test]
async fn without_sessions_in_cookies_there_are_only_the_pages_of_mailed_links() {
    let world = accounts_world::world();
    let mut state = state_of(&world, Origins::These(Vec::new()), "https://app.test");
    state.browser.enabled = false;
    let api = api_from(world, state);
    for (path, status) in
        [(ACCOUNT, 404), (SIGN_OUT, 404), ("/pages/undo", 200), ("/pages/object", 200), ("/pages/error", 200)]
    {
        assert_eq!(api.visit(path, &[]).await.status, status, "{path}");
    }
}
