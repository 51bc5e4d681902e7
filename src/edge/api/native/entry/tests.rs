//! The pages of getting in, over fakes of the ports, as browsers meet them: with cookies that they keep, and forms.

use std::collections::BTreeMap;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::super::tests::{Api, api_from, request, state_of};
use palisade_core::domain::account::Registration;
use palisade_core::domain::browser::NamedOrigin;
use palisade_core::domain::cors::Origins;
use palisade_core::domain::mail::Letter;
use palisade_core::ports::{Limited, Store};
use palisade_core::service::caller::AskedHost;
use palisade_core::service::users::{NewPassword, NewUser, UserEdit};
use palisade_testing::accounts_world::{
    ANN, AccountsWorld, PASSWORD, PasswordLogin, from, secret, world, world_with,
};

const NEW: &str = "another horse";
const PAGES: [&str; 6] = ["sign-in", "register", "check-mail", "verify", "forgot", "reset"];

/// A gateway that may send browsers back to `https://lab.test`, too.
fn gateway_of(world: AccountsWorld) -> Api {
    let mut state = state_of(&world, Origins::These(Vec::new()), "https://app.test");
    state.browser.hosts.push(NamedOrigin::parse("https://lab.test").unwrap());
    api_from(world, state)
}

fn gateway() -> Api {
    gateway_of(world())
}

/// A page as a browser gets it.
#[derive(Debug)]
struct Got {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The name of the page that was rendered.
    fn page(&self) -> &str {
        self.text.lines().next().unwrap_or_default()
    }

    /// What the page was told.
    fn facts(&self) -> Value {
        serde_json::from_str(self.text.lines().nth(1).unwrap_or("null")).unwrap()
    }

    /// Status, field and code of what is wrong with the form.
    fn wrong(&self) -> (u16, Value, Value) {
        let first = &self.facts()["errors"][0];
        (self.status, first["field"].clone(), first["code"].clone())
    }

    /// Status and place, without the mark by which a host knows that the browser was sent back there just now.
    fn location(&self) -> (u16, &str) {
        let to = self.header("location");
        let end = to.find("palisade-turn=").map_or(to.len(), |at| at - 1);
        (self.status, &to[..end])
    }
}

/// A browser with its cookies.
struct Browser<'a> {
    api: &'a Api,
    cookies: BTreeMap<String, String>,
}

impl<'a> Browser<'a> {
    fn new(api: &'a Api) -> Browser<'a> {
        Browser { api, cookies: BTreeMap::new() }
    }

    async fn send(&mut self, mut request: Request<Body>) -> Got {
        if !self.cookies.is_empty() {
            let pairs: Vec<String> =
                self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request.headers_mut().insert("cookie", pairs.join("; ").parse().unwrap());
        }
        let (parts, body) = self.api.router.clone().oneshot(request).await.unwrap().into_parts();
        for line in parts.headers.get_all("set-cookie") {
            let line = line.to_str().unwrap();
            assert!(
                line.contains("Path=/") && line.contains("HttpOnly") && line.contains("Secure"),
                "{line}"
            );
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        let text = String::from_utf8(to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap();
        Got { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    async fn open(&mut self, path: &str) -> Got {
        self.send(request("GET", &format!("/pages/{path}"), None, None)).await
    }

    async fn post(&mut self, path: &str, inputs: &[(&str, &str)]) -> Got {
        self.send(form(path, inputs, &[("sec-fetch-site", "same-origin")])).await
    }

    async fn sign_in(&mut self, query: &str, password: &str) -> Got {
        self.post(&format!("sign-in{query}"), &[("email", ANN), ("password", password)]).await
    }

    /// The value of the session cookie.
    fn session(&self) -> Option<&str> {
        self.cookies.get("__Host-palisade").map(String::as_str)
    }

    /// Who a page says is signed in.
    async fn person(&mut self) -> Value {
        self.open("sign-in").await.facts()["person"].clone()
    }
}

fn form(path: &str, inputs: &[(&str, &str)], headers: &[(&str, &str)]) -> Request<Body> {
    let mut body = form_urlencoded::Serializer::new(String::new());
    for (name, value) in inputs {
        body.append_pair(name, value);
    }
    let mut request = request("POST", &format!("/pages/{path}"), None, None);
    *request.body_mut() = Body::from(body.finish());
    let headers = headers.iter().chain(&[("content-type", "application/x-www-form-urlencoded")]);
    for (name, value) in headers {
        request
            .headers_mut()
            .append(axum::http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    request
}

/// Sends what is mailed, and returns the token of the newest letter of this kind.
async fn mailed(api: &Api, letter: Letter) -> String {
    api.world.accounts.do_due_tasks().await.unwrap();
    api.world.token(letter).await
}

/// The address of the page that waits for a letter to Ann.
fn waiting(api: &Api, url: &str) -> String {
    format!("{url}&since={}#email=ann%40example.com", api.world.accounts.now().0)
}

/// The value of a parameter of the query, decoded.
fn parameter(url: &str, name: &str) -> Option<String> {
    let query = url.split_once('?')?.1.split('#').next()?;
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

#[tokio::test]
async fn a_sign_in_sets_a_cookie_and_leads_to_where_the_person_was_going() {
    let api = gateway();
    api.ann().await;
    let mut browser = Browser::new(&api);
    let got = browser.sign_in("?return_to=%2Freport%3Fx%3D1", PASSWORD).await;
    assert_eq!(got.location(), (303, "https://app.test/report?x=1"));
    let cookie = got.header("set-cookie");
    assert!(cookie.starts_with("__Host-palisade=") && cookie.contains("SameSite=Lax"), "{cookie}");
    assert!(!cookie.contains("Max-Age"), "until the browser is closed: {cookie}");
    assert_eq!(got.header("cache-control"), "no-store");
    // With a session, the page goes on at once; HEAD as GET.
    let at_once = browser.open("sign-in?return_to=https%3A%2F%2Flab.test%2Flab").await;
    assert_eq!(at_once.location(), (303, "https://lab.test/lab"));
    let head = browser.send(request("HEAD", "/pages/sign-in?return_to=%2Fx", None, None)).await;
    assert_eq!(head.location(), (303, "https://app.test/x"));
    // Not without a place to go to, not for another account, and not right after a sign-out.
    for query in ["", "?return_to=%2Fx&prompt=login", "?return_to=%2Fx&notice=signed_out"] {
        let got = browser.open(&format!("sign-in{query}")).await;
        assert_eq!((got.status, &got.facts()["person"]), (200, &json!(ANN)), "{query}");
    }
    let kept = browser.post("sign-in", &[("email", ANN), ("password", PASSWORD), ("remember", "true")]).await;
    assert_eq!(kept.location(), (303, "https://app.test/auth/pages/account"));
    assert!(kept.header("set-cookie").contains("Max-Age="), "{kept:?}");
}

/// Another tab signed in before the browser came here with a form that was lost.
#[tokio::test]
async fn a_lost_form_is_told_although_there_is_a_session() {
    let api = gateway();
    api.ann().await;
    let mut browser = Browser::new(&api);
    browser.sign_in("", PASSWORD).await;
    let got = browser.open("sign-in?return_to=https%3A%2F%2Flab.test%2Flab&notice=unsent").await;
    let facts = got.facts();
    assert_eq!((got.status, &facts["notice"], &facts["person"]), (200, &json!("unsent"), &json!(ANN)));
    // The button leads through this page, which goes on at once.
    let on = facts["continue_url"].as_str().unwrap();
    assert_eq!(on, "https://app.test/auth/pages/sign-in?return_to=https%3A%2F%2Flab.test%2Flab");
    let query = on.split_once('?').unwrap().1;
    assert_eq!(browser.open(&format!("sign-in?{query}")).await.location(), (303, "https://lab.test/lab"));
}

/// The cookie of a whole domain is no reason for the former session of this host to go on.
#[tokio::test]
async fn every_way_in_ends_the_former_sessions_of_the_browser() {
    let world = world();
    let mut state = state_of(&world, Origins::These(Vec::new()), "https://app.test");
    state.browser.domain = Some("app.test".to_owned());
    let api = api_from(world, state);
    let ann = api.ann().await;
    let sessions = async || api.world.store.sessions(ann).await.unwrap().len();
    // A sign-in over two cookies of the domain, one of them tossed, sets one of this host as well.
    let (mut one, mut two) = (Browser::new(&api), Browser::new(&api));
    one.sign_in("", PASSWORD).await;
    two.sign_in("", PASSWORD).await;
    let name = "__Secure-palisade";
    let inputs = [("email", ANN), ("password", PASSWORD)];
    let mut request = form("sign-in", &inputs, &[("sec-fetch-site", "same-origin")]);
    let line = format!("{name}={}; {name}={}", one.cookies[name], two.cookies[name]);
    request.headers_mut().insert("cookie", line.parse().unwrap());
    let mut browser = Browser::new(&api);
    browser.send(request).await;
    browser.cookies.remove(name).unwrap();
    assert_eq!(browser.person().await, json!(ANN));
    let (former, before) = (browser.cookies.clone(), sessions().await);
    browser.sign_in("", PASSWORD).await;
    browser.cookies = former;
    assert_eq!(browser.person().await, Value::Null, "the former session is over");
    assert_eq!(sessions().await, before, "one ended, one began");
}

/// Before anything is typed, a browser is on the host where the cookie counts.
#[tokio::test]
async fn a_page_on_another_host_leads_home_and_never_in_a_circle() {
    let api = gateway();
    let opened = async |path: &str, host: Option<&str>| {
        let mut request = request("GET", &format!("/pages/{path}"), None, None);
        request.extensions_mut().remove::<AskedHost>();
        host.map(|host| request.extensions_mut().insert(AskedHost(host.to_owned())));
        Browser::new(&api).send(request).await
    };
    for page in PAGES {
        let got = opened(&format!("{page}?return_to=%2Fx&a"), Some("lab.test")).await;
        let home = format!("https://app.test/auth/pages/{page}?return_to=%2Fx&a&moved=1");
        assert_eq!(got.location(), (303, &*home));
        assert_eq!(
            opened(page, Some("lab.test")).await.location(),
            (303, &*format!("https://app.test/auth/pages/{page}?moved=1"))
        );
        assert_eq!(opened(&format!("{page}?moved=1"), Some("app.test")).await.page(), page);
        // A proxy in front that writes another host, or none.
        for (query, host) in [("?moved=1", Some("lab.test")), ("", None)] {
            let got = opened(&format!("{page}{query}"), host).await;
            assert_eq!((got.status, got.page()), (403, "error"), "{page} {host:?}");
            let facts = got.facts();
            assert_eq!(
                (&facts["kind"], &facts["right_url"]),
                (&json!("address"), &json!(format!("https://app.test/auth/pages/{page}")))
            );
        }
    }
}

#[tokio::test]
async fn a_sign_in_goes_over_the_session_that_the_browser_has() {
    let api = gateway();
    let ann = api.ann().await;
    let mut browser = Browser::new(&api);
    browser.sign_in("", PASSWORD).await;
    let first = browser.session().unwrap().to_owned();
    browser.sign_in("?prompt=login", PASSWORD).await;
    assert_ne!(browser.session().unwrap(), first);
    assert_eq!(api.world.store.sessions(ann).await.unwrap().len(), 1);
    browser.cookies.insert("__Host-palisade".to_owned(), first);
    assert_eq!(browser.person().await, Value::Null, "the former value is void");
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_address_get_the_form_again() {
    let api = gateway();
    api.ann().await;
    let mut browser = Browser::new(&api);
    let inputs = |email| [("email", email), ("password", "not this one"), ("remember", "true")];
    let known = browser.post("sign-in?return_to=%2Fx", &inputs(ANN)).await;
    assert_eq!(known.wrong(), (401, Value::Null, json!("invalid_credentials")));
    assert!(known.header("www-authenticate").starts_with("Bearer"));
    let facts = known.facts();
    assert_eq!((&facts["email"], &facts["remember"]), (&json!(ANN), &json!(true)));
    assert!(!known.text.contains("not this one"), "a password never comes back: {}", known.text);
    let register = facts["register_url"].as_str().unwrap();
    assert_eq!(parameter(register, "return_to").as_deref(), Some("https://app.test/x"), "{register}");
    let unknown = browser.post("sign-in?return_to=%2Fx", &inputs("nobody@example.com")).await;
    assert_eq!(
        (unknown.status, unknown.text.replace("nobody@example.com", ANN)),
        (known.status, known.text.clone())
    );
    assert_eq!(browser.cookies, BTreeMap::new());

    let missing = browser.post("sign-in", &[("email", ""), ("password", "")]).await;
    let codes: Vec<Value> =
        missing.facts()["errors"].as_array().unwrap().iter().map(|error| error["field"].clone()).collect();
    assert_eq!((missing.status, codes), (422, vec![json!("email"), json!("password")]));
    for (text, code) in [("ann@", "invalid_email"), ("ann lee", "invalid_username")] {
        let invalid = browser.post("sign-in", &[("email", text), ("password", "x")]).await;
        assert_eq!(invalid.wrong(), (422, json!("email"), json!(code)), "{text}");
    }
    // A user name that no account has.
    let unknown = browser.post("sign-in", &[("email", "ann"), ("password", "x")]).await;
    assert_eq!(unknown.wrong(), (401, Value::Null, json!("invalid_credentials")));
}

/// One field takes either, in any case, and the pages call a person by what there is.
#[tokio::test]
async fn a_person_without_an_address_signs_in_by_the_user_name() {
    let api = gateway();
    let new = NewUser {
        email: None,
        username: Some("ann.lee".to_owned()),
        groups: Vec::new(),
        name: None,
        password: NewPassword::Given(PASSWORD.into()),
        email_verified: false,
        scopes: Vec::new(),
        claims: serde_json::Map::new(),
    };
    let ann = api.world.accounts.create_user("r1", new).await.unwrap().user;
    let mut browser = Browser::new(&api);
    for (name, password) in [("ann.lee", "not this one"), ("bob.lee", PASSWORD)] {
        let wrong = browser.post("sign-in", &[("email", name), ("password", password)]).await;
        assert_eq!(wrong.wrong(), (401, Value::Null, json!("invalid_credentials")), "{name}");
        assert_eq!(wrong.facts()["email"], name, "it is typed once");
    }
    let got = browser.post("sign-in?return_to=%2Fx", &[("email", "Ann.LEE "), ("password", PASSWORD)]).await;
    assert_eq!(got.location(), (303, "https://app.test/x"));
    assert_eq!(browser.person().await, "ann.lee");

    // The page of a link that the operator handed over names the account to password managers.
    let handed = api.world.accounts.reset_password_of("r1", ann.id).await.unwrap().unwrap();
    let token = handed.token.expose_secret();
    let page = browser.post("reset", &[("token", token)]).await;
    assert_eq!((&page.facts()["step"], &page.facts()["email"]), (&json!("new_password"), &json!("ann.lee")));
}

#[tokio::test]
async fn barred_accounts_and_limits_have_their_status() {
    let api = gateway();
    let ann = api.ann().await;
    let mut browser = Browser::new(&api);
    let edit = UserEdit { active: Some(false), ..UserEdit::default() };
    api.world.accounts.update_user("r", ann, edit).await.unwrap();
    assert_eq!(browser.sign_in("", PASSWORD).await.wrong(), (403, Value::Null, json!("account_disabled")));
    for (path, inputs, limited) in [
        ("sign-in", vec![("email", ANN), ("password", "x")], Limited::Login),
        ("register", vec![("email", ANN), ("password", PASSWORD)], Limited::Register),
        ("check-mail", vec![("email", ANN)], Limited::RequestMail),
        ("forgot", vec![("email", ANN)], Limited::RequestMail),
        ("verify", vec![("token", "x")], Limited::UseLink),
        ("reset", vec![("token", "x")], Limited::UseLink),
    ] {
        *api.world.limiter.stop.lock().unwrap() = Some(limited);
        let got = browser.post(path, &inputs).await;
        assert_eq!(got.wrong(), (429, Value::Null, json!("too_many_attempts")), "{path}");
        assert_eq!((got.header("retry-after"), got.page()), ("7", path));
        if path == "verify" || path == "reset" {
            assert_eq!(got.facts()["token"], "x", "it may open with the next try");
        }
    }
}

/// What another site posts, and what does not say where it comes from, does nothing: with a cookie or without.
#[tokio::test]
async fn only_a_page_of_the_same_origin_posts_a_form() {
    let api = gateway();
    let ann = api.ann().await;
    let foreign: [&[(&str, &str)]; 8] = [
        &[],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "null")],
        &[("origin", "https://evil.test")],
        &[("origin", "https://lab.test")],
        &[("referer", "https://evil.test/https://app.test/")],
        &[("sec-fetch-site", "cross-site"), ("origin", "https://app.test")],
    ];
    let inputs = [
        ("email", ANN),
        ("password", PASSWORD),
        ("new_password", NEW),
        ("token", "x"),
        ("step", "new_password"),
    ];
    for headers in foreign {
        for page in PAGES {
            let mut browser = Browser::new(&api);
            let got = browser.send(form(page, &inputs, headers)).await;
            assert_eq!((got.status, got.page()), (403, "error"), "{page} {headers:?}");
            let facts = got.facts();
            let url = format!("https://app.test/auth/pages/{page}");
            assert_eq!((&facts["kind"], &facts["page_url"]), (&json!("cross_site"), &json!(url)));
            assert_eq!(browser.cookies, BTreeMap::new());
        }
    }
    assert!(!api.world.accounts.do_due_tasks().await.unwrap(), "nothing was asked for");
    assert!(api.world.store.sessions(ann).await.unwrap().is_empty());
    for headers in [
        [("origin", "https://app.test")],
        [("referer", "https://app.test/auth/pages/sign-in")],
        [("sec-fetch-site", "same-origin")],
    ] {
        let got = Browser::new(&api).send(form("sign-in", &inputs, &headers)).await;
        assert_eq!(got.status, 303, "{headers:?}");
    }
    // An app on another host of ours has no sign-in form: its cookie would not count there.
    let mut elsewhere = form("sign-in", &inputs, &[("sec-fetch-site", "same-origin")]);
    elsewhere.extensions_mut().insert(AskedHost("lab.test".to_owned()));
    let got = Browser::new(&api).send(elsewhere).await;
    assert_eq!((got.status, got.header("set-cookie")), (403, ""));
    assert_eq!(got.facts()["kind"], "address");
}

#[tokio::test]
async fn a_place_that_is_not_spelled_out_is_never_returned_to() {
    let api = gateway();
    api.ann().await;
    let mut browser = Browser::new(&api);
    for evil in [
        "//evil.test",
        "/\\evil.test",
        "https://evil.test/",
        "https://app.test@evil.test/",
        "javascript:alert(1)",
        "https://app.test:8443/",
        "http://app.test/",
        "/\t/evil.test",
        "/.palisade/carry?code=x",
    ] {
        let encoded: String = form_urlencoded::byte_serialize(evil.as_bytes()).collect();
        let got = browser.sign_in(&format!("?return_to={encoded}"), PASSWORD).await;
        assert_eq!(got.location(), (303, "https://app.test/auth/pages/account"), "{evil}");
        let page = browser.open(&format!("register?return_to={encoded}")).await;
        assert!(!page.text.contains("evil"), "{}", page.text);
    }
    let two = browser.sign_in("?return_to=%2Fa&return_to=%2Fb", PASSWORD).await;
    assert_eq!(two.location(), (303, "https://app.test/auth/pages/account"), "of two, neither");
    let three = browser.sign_in("?return_to=%2Fa&return_to=%2Fb&return_to=%2Fc", PASSWORD).await;
    assert_eq!(three.location(), (303, "https://app.test/auth/pages/account"), "of three, none");
}

/// A link to the sign-in that leads to the sign-out would make every sign-in look broken.
#[tokio::test]
async fn no_sign_in_leads_to_the_sign_out() {
    let api = gateway();
    api.world.ann().await;
    for target in ["%2Fauth%2Fpages%2Fsign-out", "https%3A%2F%2Fapp.test%2Fauth%2Fpages%2Fsign-out%3Fx%23y"] {
        let mut browser = Browser::new(&api);
        let got = browser.sign_in(&format!("?return_to={target}"), PASSWORD).await;
        assert_eq!(got.location(), (303, "https://app.test/"), "{target}");
    }
}

/// Ten tabs with the sign-in page open, each submitted late: each lands where it wanted, and no cookie grows.
#[tokio::test]
async fn tabs_that_are_submitted_late_land_where_they_wanted() {
    let api = gateway();
    let ann = api.ann().await;
    let mut browser = Browser::new(&api);
    for tab in 0..10 {
        assert_eq!(browser.open(&format!("sign-in?return_to=%2Ftab%2F{tab}")).await.status, 200);
    }
    assert_eq!(browser.cookies, BTreeMap::new(), "to open a page sets nothing");
    let mut sizes = Vec::new();
    for tab in 0..10 {
        // A form has no input but what its person fills in.
        let got = browser.sign_in(&format!("?return_to=%2Ftab%2F{tab}"), PASSWORD).await;
        assert_eq!(got.location(), (303, &*format!("https://app.test/tab/{tab}")));
        sizes.push(browser.cookies.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>());
    }
    assert_eq!(
        (browser.cookies.len(), sizes.iter().max(), sizes.iter().min()),
        (1, sizes.first(), sizes.last())
    );
    assert_eq!(api.world.store.sessions(ann).await.unwrap().len(), 1);
    // Reloaded instead, in a browser that is signed in by now.
    for tab in 0..10 {
        let got = browser.open(&format!("sign-in?return_to=%2Ftab%2F{tab}")).await;
        assert_eq!(got.location(), (303, &*format!("https://app.test/tab/{tab}")));
    }
}

async fn registers(browser: &mut Browser<'_>, query: &str, password: &str) -> Got {
    let id = browser.open(&format!("register{query}")).await.facts()["form_id"].clone();
    let inputs = [("email", ANN), ("name", "Ann"), ("password", password), ("form_id", id.as_str().unwrap())];
    browser.post(&format!("register{query}"), &inputs).await
}

#[tokio::test]
async fn the_browser_that_registered_is_signed_in_by_the_button_of_the_link() {
    let api = gateway();
    let mut browser = Browser::new(&api);
    let got = registers(&mut browser, "?return_to=https%3A%2F%2Flab.test%2Flab", PASSWORD).await;
    let url = "https://app.test/auth/pages/check-mail?return_to=https%3A%2F%2Flab.test%2Flab&letter=verify";
    assert_eq!(got.location(), (303, &*waiting(&api, url)));
    let token = mailed(&api, Letter::VerifyEmail).await;

    // A scanner opens the link, and runs the page: the token reaches no server, and a press alone uses nothing up.
    let mut scanner = Browser::new(&api);
    assert_eq!(scanner.open("verify").await.facts()["step"], "link");
    assert_eq!(scanner.open(&format!("verify?token={token}")).await.facts()["step"], "link");
    let pressed = scanner.post("verify", &[("token", &token)]).await;
    assert_eq!((pressed.status, &pressed.facts()["step"]), (200, &json!("password")));
    assert_eq!(scanner.cookies.keys().collect::<Vec<_>>(), ["__Host-palisade-links"]);

    let got = browser.post("verify", &[("token", &token)]).await;
    assert_eq!(got.location(), (303, "https://lab.test/lab"));
    assert_eq!(browser.person().await, json!(ANN));
    // The other window says so.
    let waiting = browser.open("check-mail?return_to=%2Fx").await;
    assert_eq!(waiting.facts()["person"], json!(ANN));
    let again = browser.post("verify", &[("token", &token)]).await;
    assert_eq!(
        (again.status, &again.facts()["step"], &again.facts()["already"]),
        (200, &json!("done"), &json!(true))
    );
    // The scanner has opened it, and not used it.
    let again = scanner.post("verify", &[("token", &token)]).await;
    assert_eq!(again.wrong(), (400, Value::Null, json!("invalid_link")));
    assert_eq!(again.facts()["step"], "over");
}

/// Told are the browser that used the link, and one that is signed in to its account. To all others, a link that was used
/// is what one is that never was.
#[tokio::test]
async fn a_link_that_is_pressed_again_is_done_for_the_person_who_used_it() {
    let api = gateway();
    let mut browser = Browser::new(&api);
    registers(&mut browser, "", PASSWORD).await;
    let token = mailed(&api, Letter::VerifyEmail).await;
    let mark = |browser: &Browser<'_>| browser.cookies.get("__Host-palisade-links").cloned();
    browser.open("verify").await;
    let first = mark(&browser).unwrap();
    browser.open("verify").await;
    assert_eq!(mark(&browser), Some(first), "it keeps the one that it has");
    let press = [("token", &*token)];
    assert_eq!(browser.post("verify", &press).await.status, 303);
    // Signed out, and opened again from the letter.
    browser.cookies.remove("__Host-palisade");
    browser.open("verify").await;
    let again = browser.post("verify", &press).await;
    assert_eq!((again.status, &again.facts()["step"]), (200, &json!("done")));
    assert_eq!(again.facts()["already"], true);
    assert_eq!(again.facts()["sign_in_url"], "https://app.test/auth/pages/sign-in");
    assert_eq!(browser.open("reset").await.status, 200);

    let mut stranger = Browser::new(&api);
    stranger.open("verify").await;
    let (used, never) =
        (stranger.post("verify", &press).await, stranger.post("verify", &[("token", "x")]).await);
    assert_eq!((used.status, &used.text), (400, &never.text));
    // A mark that is none, and the mark of the browser with another link.
    stranger.cookies.insert("__Host-palisade-links".into(), "x".into());
    assert_eq!(stranger.post("verify", &press).await.text, never.text);
    assert_eq!(browser.post("verify", &[("token", "x")]).await.status, 400);
    // Another person, signed in; and the owner in another browser.
    let operator = |email: &str| NewUser {
        email: Some(email.to_owned()),
        username: None,
        groups: Vec::new(),
        name: None,
        password: NewPassword::Given(secret(PASSWORD)),
        email_verified: true,
        scopes: Vec::new(),
        claims: serde_json::Map::new(),
    };
    api.world.accounts.create_user("r", operator("bob@example.com")).await.unwrap();
    let mut bob = Browser::new(&api);
    assert_eq!(
        bob.post("sign-in", &[("email", "bob@example.com"), ("password", PASSWORD)]).await.status,
        303
    );
    assert_eq!(bob.post("verify", &press).await.text, never.text);
    let mut owner = Browser::new(&api);
    assert_eq!(owner.sign_in("", PASSWORD).await.status, 303);
    assert_eq!(owner.post("verify", &press).await.facts()["already"], true);

    api.world.clock.advance(24 * 3600 - 1);
    assert_eq!(browser.post("verify", &press).await.status, 200);
    api.world.clock.advance(1);
    assert_eq!(browser.post("verify", &press).await.text, never.text, "for a day");
}

/// What is used up by no press is not told as done: a link that has expired, or was made void.
#[tokio::test]
async fn a_link_that_is_over_unused_is_not_done() {
    let api = gateway();
    let mut browser = Browser::new(&api);
    registers(&mut browser, "", PASSWORD).await;
    let token = mailed(&api, Letter::VerifyEmail).await;
    browser.open("verify").await;
    let wrong = [("token", &*token), ("step", "password"), ("password", "wrong")];
    assert_eq!(browser.post("verify", &wrong).await.status, 403, "a press that used nothing up");
    api.world.clock.advance(24 * 3600);
    assert_eq!(browser.post("verify", &[("token", &token)]).await.wrong().0, 400);
}

/// The second request of a button that is pressed twice comes before the first is answered.
#[tokio::test]
async fn a_button_that_is_pressed_twice_ends_in_no_fault() {
    let api = gateway();
    api.ann().await;
    api.world.accounts.request_reset(&from("phone"), ANN).await.unwrap();
    let token = mailed(&api, Letter::ResetPassword).await;
    let mut browser = Browser::new(&api);
    browser.open("reset").await;
    let inputs = [("token", &*token), ("step", "new_password"), ("new_password", NEW)];
    let press = || {
        let mut window = Browser { api: &api, cookies: browser.cookies.clone() };
        let inputs = &inputs;
        async move { window.post("reset", inputs).await }
    };
    let (one, two) = tokio::join!(press(), press());
    let (done, again) = if one.status == 303 { (one, two) } else { (two, one) };
    assert_eq!((done.status, again.status), (303, 200));
    assert_eq!(again.facts()["already"], true);
    assert_eq!(browser.sign_in("", NEW).await.status, 303);
}

#[tokio::test]
async fn a_link_that_another_browser_opens_finishes_there_with_the_password() {
    let api = gateway();
    let mut browser = Browser::new(&api);
    registers(&mut browser, "?return_to=%2Freport", PASSWORD).await;
    let token = mailed(&api, Letter::VerifyEmail).await;
    let mut telephone = Browser::new(&api);
    let asked = telephone.post("verify", &[("token", &token)]).await;
    let facts = asked.facts();
    assert_eq!(
        (&facts["step"], &facts["email"], &facts["token"]),
        (&json!("password"), &json!(ANN), &json!(token))
    );
    let wrong =
        telephone.post("verify", &[("token", &token), ("step", "password"), ("password", "no")]).await;
    assert_eq!(wrong.wrong(), (403, json!("password"), json!("wrong_password")));
    assert_eq!((&wrong.facts()["step"], &wrong.facts()["may_choose"]), (&json!("password"), &json!(true)));
    let empty = telephone.post("verify", &[("token", &token), ("step", "password"), ("password", "")]).await;
    assert_eq!(empty.wrong(), (422, json!("password"), json!("required")));
    let got =
        telephone.post("verify", &[("token", &token), ("step", "password"), ("password", PASSWORD)]).await;
    assert_eq!(got.location(), (303, "https://app.test/report"));
    assert_eq!((telephone.person().await, browser.person().await), (json!(ANN), Value::Null));
    assert_eq!(browser.sign_in("?return_to=%2Freport", PASSWORD).await.status, 303);
}

/// The page that waits asks again by itself, and says what happened elsewhere.
#[tokio::test]
async fn the_window_that_waits_learns_what_happened() {
    let api = gateway();
    let mut browser = Browser::new(&api);
    let to = registers(&mut browser, "?return_to=%2Fx", PASSWORD).await.header("location").to_owned();
    let page = to.strip_prefix("https://app.test/auth/pages/").unwrap().split('#').next().unwrap();
    let waits = browser.open(page).await;
    // Without a fragment, for which a browser would load nothing.
    let again =
        waits.header("refresh").strip_prefix("15; url=https://app.test/auth/pages/check-mail?").unwrap();
    assert!(again.contains("letter=verify") && again.contains("since=") && !again.contains('#'), "{again}");
    assert_eq!(waits.facts()["verified"], json!(false));
    // Where the letter is asked for again, something is typed: that page stays.
    let again = waits.facts()["again_url"].as_str().unwrap().rsplit_once('/').unwrap().1.to_owned();
    let form = browser.open(&again).await;
    assert_eq!((form.header("refresh"), &form.facts()["again_url"]), ("", &Value::Null));
    let wrong = browser.post(page, &[("email", "ann")]).await;
    assert_eq!((wrong.status, wrong.header("refresh")), (422, ""));
    // Another browser that came to the same address learns nothing later on.
    let mut stranger = Browser::new(&api);
    assert!(stranger.open(page).await.header("refresh").starts_with("15; url="));

    let token = mailed(&api, Letter::VerifyEmail).await;
    let mut telephone = Browser::new(&api);
    let inputs = [("token", &*token), ("step", "password"), ("password", PASSWORD)];
    assert_eq!(telephone.post("verify", &inputs).await.status, 303);
    let told = browser.open(page).await;
    assert_eq!((told.header("refresh"), &told.facts()["verified"]), ("", &json!(true)));
    let url = told.facts()["sign_in_url"].as_str().unwrap().to_owned();
    assert_eq!(parameter(&url, "return_to").as_deref(), Some("https://app.test/x"));
    assert_eq!(stranger.open(page).await.facts()["verified"], false);
    let here = telephone.open(page).await;
    assert_eq!((here.header("refresh"), &here.facts()["person"]), ("", &json!(ANN)));
    api.world.clock.advance(3600);
    let late = stranger.open(page).await;
    assert_eq!((late.header("refresh"), &late.facts()["again_url"]), ("", &Value::Null), "for an hour");
}

/// A requester that does not own the mailbox learns nothing of an owner who chose another password.
#[tokio::test]
async fn a_password_that_is_chosen_is_no_news_for_who_registered() {
    let api = gateway();
    let mut stranger = Browser::new(&api);
    registers(&mut stranger, "", PASSWORD).await;
    let token = mailed(&api, Letter::VerifyEmail).await;
    let inputs = [("token", &*token), ("step", "new_password"), ("new_password", NEW)];
    assert_eq!(Browser::new(&api).post("verify", &inputs).await.status, 303);
    assert_eq!(stranger.open("check-mail").await.facts()["verified"], false);
}

#[tokio::test]
async fn who_does_not_know_the_password_chooses_one() {
    let api = gateway();
    let mut stranger = Browser::new(&api);
    registers(&mut stranger, "", PASSWORD).await;
    let token = mailed(&api, Letter::VerifyEmail).await;
    let mut owner = Browser::new(&api);
    let chosen = owner.post("verify", &[("token", &token), ("choose", "true")]).await;
    assert_eq!((chosen.status, &chosen.facts()["step"]), (200, &json!("new_password")));
    let with = |password| [("token", &*token), ("step", "new_password"), ("new_password", password)];
    let weak = owner.post("verify", &with("short")).await;
    assert_eq!(weak.wrong(), (422, json!("new_password"), json!("password_too_short")));
    assert_eq!(weak.facts()["errors"][0]["min"], 8);
    let got = owner.post("verify", &with(NEW)).await;
    assert_eq!(got.location(), (303, "https://app.test/auth/pages/account"));
    assert_eq!(owner.person().await, json!(ANN));
    assert_eq!(stranger.sign_in("", PASSWORD).await.status, 401);
}

#[tokio::test]
async fn a_form_that_is_sent_twice_is_one_registration() {
    let api = gateway();
    let mut browser = Browser::new(&api);
    let id = browser.open("register").await.facts()["form_id"].clone();
    let inputs = [("email", ANN), ("password", PASSWORD), ("form_id", id.as_str().unwrap())];
    assert_eq!(browser.post("register", &inputs).await.status, 303);
    api.world.accounts.do_due_tasks().await.unwrap();
    assert_eq!(browser.post("register", &inputs).await.status, 303);
    let token = mailed(&api, Letter::VerifyEmail).await;
    assert_eq!(api.world.letters().await.len(), 1);
    assert_eq!(browser.post("verify", &[("token", &token)]).await.status, 303, "the browser still vouches");
}

/// The answers about an address that has an account are those about one that has none.
#[tokio::test]
async fn no_page_tells_whether_an_address_has_an_account() {
    let api = gateway();
    api.ann().await;
    for (page, password) in
        [("register", PASSWORD), ("forgot", ""), ("check-mail", ""), ("check-mail?letter=reset", "")]
    {
        let mut answers = Vec::new();
        for email in [ANN, "bob@example.com"] {
            let mut browser = Browser::new(&api);
            let got = browser.post(page, &[("email", email), ("password", password)]).await;
            let names: Vec<String> = browser.cookies.keys().cloned().collect();
            let to = got.header("location").replace("ann%40", "X").replace("bob%40", "X");
            answers.push((got.status, to, names, got.text));
        }
        assert_eq!(answers[0], answers[1], "{page}");
        assert_eq!(answers[0].0, 303);
    }
}

#[tokio::test]
async fn a_reset_ends_every_session_and_signs_in_with_the_new_password() {
    let api = gateway();
    let ann = api.ann().await;
    let mut old = Browser::new(&api);
    old.sign_in("", PASSWORD).await;
    let mut browser = Browser::new(&api);
    let asked = browser.post("forgot?return_to=%2Freport", &[("email", ANN)]).await;
    let url = "https://app.test/auth/pages/check-mail?return_to=https%3A%2F%2Fapp.test%2Freport&letter=reset";
    assert_eq!(asked.location(), (303, &*waiting(&api, url)));
    let token = mailed(&api, Letter::ResetPassword).await;
    // On the telephone, where the link is opened.
    let mut telephone = Browser::new(&api);
    assert_eq!(telephone.open(&format!("reset?token={token}")).await.facts()["step"], "link");
    let step = telephone.post("reset", &[("token", &token)]).await;
    let facts = step.facts();
    assert_eq!((&facts["step"], &facts["email"]), (&json!("new_password"), &json!(ANN)));
    let with = |password| [("token", &*token), ("step", "new_password"), ("new_password", password)];
    assert_eq!(
        telephone.post("reset", &with("")).await.wrong(),
        (422, json!("new_password"), json!("required"))
    );
    let weak = telephone.post("reset", &with("brief")).await;
    assert_eq!(weak.wrong(), (422, json!("new_password"), json!("password_too_short")));
    assert!(!weak.text.contains("brief"), "{}", weak.text);
    assert_eq!(old.person().await, json!(ANN), "nothing was done yet");
    let got = telephone.post("reset", &with(NEW)).await;
    assert_eq!(got.location(), (303, "https://app.test/report"));
    assert_eq!((telephone.person().await, old.person().await), (json!(ANN), Value::Null));
    assert_eq!(api.world.store.sessions(ann).await.unwrap().len(), 1);
    let again = telephone.post("reset", &with(NEW)).await;
    assert_eq!((again.status, &again.facts()["already"]), (200, &json!(true)));
    let again = Browser::new(&api).post("reset", &with(NEW)).await;
    assert_eq!(again.wrong(), (400, Value::Null, json!("invalid_link")));
    let url = again.facts()["again_url"].as_str().unwrap().to_owned();
    assert_eq!(url, "https://app.test/auth/pages/check-mail?letter=reset");
}

#[tokio::test]
async fn a_letter_is_asked_for_again_and_keeps_the_place_to_return_to() {
    let api = gateway();
    let mut browser = Browser::new(&api);
    registers(&mut browser, "", PASSWORD).await;
    let first = mailed(&api, Letter::VerifyEmail).await;
    let got = browser.post("check-mail?return_to=%2Freport&letter=verify", &[("email", ANN)]).await;
    let url = "https://app.test/auth/pages/check-mail?return_to=https%3A%2F%2Fapp.test%2Freport&letter=verify&notice=sent";
    assert_eq!(got.location(), (303, &*waiting(&api, url)));
    assert_eq!(browser.open("check-mail?letter=verify&notice=sent").await.facts()["sent"], true);
    assert_eq!(mailed(&api, Letter::VerifyEmail).await, first, "the same link");
    let got = browser.post("verify", &[("token", &first)]).await;
    assert_eq!(got.location(), (303, "https://app.test/report"));
}

#[tokio::test]
async fn a_link_to_a_new_address_takes_the_session_or_the_password() {
    let api = gateway();
    api.ann().await;
    let mut browser = Browser::new(&api);
    browser.sign_in("", PASSWORD).await;
    let before = browser.session().unwrap().to_owned();
    let granted = api.world.accounts.login(&from("phone"), ANN, secret(PASSWORD)).await.unwrap();
    let token = api.world.ask_for(&granted, "ann@new.test", PASSWORD).await;
    let elsewhere = Browser::new(&api).post("verify", &[("token", &token)]).await;
    let facts = elsewhere.facts();
    assert_eq!(
        (&facts["step"], &facts["may_choose"], &facts["email"]),
        (&json!("account"), &json!(false), &json!(ANN))
    );
    let wrong = Browser::new(&api)
        .post("verify", &[("token", &token), ("step", "password"), ("password", "x")])
        .await;
    assert_eq!((wrong.status, &wrong.facts()["step"]), (403, &json!("account")));
    let got = browser.post("verify", &[("token", &token)]).await;
    assert_eq!(got.location(), (303, "https://app.test/auth/pages/account"));
    assert_ne!(browser.session().unwrap(), before, "a new value");
    assert_eq!(browser.person().await, json!("ann@new.test"));
}

#[tokio::test]
async fn where_registration_is_not_open_there_is_no_form() {
    for registration in [Registration::Invited, Registration::Closed] {
        let api = gateway_of(world_with(|settings| settings.registration = registration));
        let mut browser = Browser::new(&api);
        assert_eq!(browser.open("sign-in").await.facts()["may_register"], false);
        assert_eq!(browser.open("register").await.facts()["may_register"], false);
        let got = browser.post("register", &[("email", ANN), ("password", PASSWORD)]).await;
        assert_eq!(got.wrong(), (403, Value::Null, json!("registration_closed")));
        assert!(!api.world.accounts.do_due_tasks().await.unwrap());
    }
}

#[tokio::test]
async fn without_mail_nothing_is_offered_that_needs_it() {
    let api = gateway_of(world_with(|settings| settings.sends_mail = false));
    let mut browser = Browser::new(&api);
    let facts = browser.open("sign-in").await.facts();
    assert_eq!((&facts["has_mail"], &facts["may_register"]), (&json!(false), &json!(false)));
    assert_eq!(browser.open("forgot").await.facts()["has_mail"], false);
    let got = browser.post("forgot", &[("email", ANN)]).await;
    assert_eq!(got.wrong(), (403, Value::Null, json!("no_mail")));
}

#[tokio::test]
async fn a_page_takes_forms_only_and_its_own_methods() {
    let api = gateway();
    for page in PAGES {
        let mut browser = Browser::new(&api);
        assert_eq!(browser.open(page).await.page(), page);
        let mut json = form(page, &[], &[("sec-fetch-site", "same-origin")]);
        json.headers_mut().insert("content-type", "application/json".parse().unwrap());
        assert_eq!(browser.send(json).await.status, 415, "{page}");
        assert_eq!(browser.send(request("PUT", &format!("/pages/{page}"), None, None)).await.status, 405);
        let large = form(page, &[("x", &"x".repeat(100_000))], &[("sec-fetch-site", "same-origin")]);
        assert_eq!(browser.send(large).await.status, 413, "{page}");
    }
}

/// Without sessions in cookies, the pages of mailed links end where they are.
#[tokio::test]
async fn without_cookies_a_link_is_used_and_nobody_is_signed_in() {
    let world = world();
    let mut state = state_of(&world, Origins::These(Vec::new()), "https://app.test");
    state.browser.enabled = false;
    let api = api_from(world, state);
    let mut browser = Browser::new(&api);
    assert_eq!(browser.open("sign-in").await.status, 404);
    api.world.register(ANN).await;
    let token = api.world.token(Letter::VerifyEmail).await;
    assert_eq!(browser.post("verify", &[("token", &token)]).await.facts()["step"], "password");
    let got =
        browser.post("verify", &[("token", &token), ("step", "password"), ("password", PASSWORD)]).await;
    assert_eq!((got.status, &got.facts()["step"]), (200, &json!("done")));
    api.world.accounts.request_reset(&from("phone"), ANN).await.unwrap();
    let token = mailed(&api, Letter::ResetPassword).await;
    let inputs = [("token", &*token), ("step", "new_password"), ("new_password", NEW)];
    assert_eq!(browser.post("reset", &inputs).await.facts()["step"], "done");
    assert_eq!(browser.cookies, BTreeMap::new());
    let again = browser.post("reset", &inputs).await;
    assert_eq!((&again.facts()["step"], &again.facts()["sign_in_url"]), (&json!("over"), &Value::Null));
}
