//! Several hosts behind a running gateway: a session is carried from the host of `public_url` to hosts that share no
//! domain with it, and every attack on the way has its outcome here.

use std::collections::BTreeMap;

use crate::support::{Gateway, Upstream, body_of, field, status};
use serde_json::{Value, json};

const ANN: &str = "ann@example.com";
const BOB: &str = "bob@example.com";
const PASSWORD: &str = "Correct horse 42";
const AUTH: &str = "https://auth.test";
const APP: &str = "https://app.test";
const LAB: &str = "https://lab.example";
/// What a browser says when a person opens an address.
const NAVIGATION: &str =
    "Accept: text/html\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Site: none\r\n";
/// No chain of redirects is longer: more is a loop.
const MOST_TURNS: usize = 12;

struct World {
    gateway: Gateway,
    app: Upstream,
}

impl World {
    async fn start() -> World {
        World::start_with("").await
    }

    async fn start_with(browser: &str) -> World {
        let app = Upstream::start().await;
        let route = |name: &str, host: &str, more: &str| {
            format!(
                "[[routes]]\nname = \"{name}\"\nmatch = {{ host = \"{host}\", path = \"/\" }}\n\
                 upstream = [\"http://{}\"]\nauth = \"required\"\n{more}\n",
                app.address
            )
        };
        let shell = format!(
            "[[routes]]\nname = \"shell\"\nmatch = {{ host = \"spa.example\", path = \"/\" }}\n\
             upstream = [\"http://{0}\"]\nauth = \"none\"\n\
             [[routes]]\nname = \"shell-api\"\nmatch = {{ host = \"spa.example\", path = \"/api\" }}\n\
             upstream = [\"http://{0}\"]\nauth = \"required\"\n",
            app.address
        );
        let extra = format!(
            "[passwords]\nbcrypt_cost = 4\n[limits]\nenabled = false\n[browser]\nreturn_to = [\"https://www.test\"]\n{browser}\n{shell}{}{}{}{}",
            route("app", "app.test", "app_cookies = [\"sessionid\"]"),
            route("lab", "lab.example", ""),
            route("sub", "notes.auth.test", ""),
            route("wild", "*.wild.test", ""),
        );
        let world = World { gateway: Gateway::start_at(AUTH, "", &extra).await, app };
        for email in [ANN, BOB] {
            let account = json!({"email": email, "password": PASSWORD, "email_verified": true});
            let (status, made) = world.gateway.admin("POST", "/admin/v1/users", &account).await;
            assert_eq!(status, 201, "{made}");
        }
        world
    }

    /// A browser that is signed in on the host of `public_url`.
    async fn signed_in(&self, email: &str) -> Browser<'_> {
        let mut browser = self.browser();
        browser.sign_in(email).await;
        browser
    }

    fn browser(&self) -> Browser<'_> {
        Browser { world: self, jar: BTreeMap::new(), keeps: true }
    }
}

/// A browser: it keeps the cookies of each host apart, and follows redirects.
struct Browser<'w> {
    world: &'w World,
    /// By host or domain (with a dot before it), then by name.
    jar: BTreeMap<String, BTreeMap<String, String>>,
    keeps: bool,
}

/// An answer, and where it came from.
#[derive(Debug)]
struct Page {
    url: String,
    answer: String,
    chain: Vec<String>,
}

impl Page {
    fn status(&self) -> u16 {
        status(&self.answer)
    }

    fn json(&self) -> Value {
        serde_json::from_str(body_of(&self.answer)).unwrap_or(Value::Null)
    }
}

/// The host and the rest of an `https` URL.
fn parts(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("https://").unwrap_or_else(|| panic!("{url}"));
    let rest = rest.split('#').next().unwrap();
    rest.split_once('/').map_or((rest, "/"), |(host, _)| (host, &rest[host.len()..]))
}

/// Where a redirect leads, as a whole URL.
fn location(page: &Page) -> String {
    let to = field(&page.answer, "location").unwrap();
    if to.starts_with('/') { format!("https://{}{to}", parts(&page.url).0) } else { to.to_owned() }
}

impl Browser<'_> {
    fn cookies(&self, host: &str) -> String {
        let of = |place: &String| {
            place == host || place.starts_with('.') && format!(".{host}").ends_with(place.as_str())
        };
        let jars = self.jar.iter().filter(|(place, _)| of(place));
        let pairs: Vec<String> = jars
            .flat_map(|(_, jar)| jar)
            .map(|(name, value)| {
                // A cookie that was tossed for a path has a mark behind its name here.
                format!("{}={value}", name.trim_end_matches('\''))
            })
            .collect();
        if pairs.is_empty() { String::new() } else { format!("Cookie: {}\r\n", pairs.join("; ")) }
    }

    fn keep(&mut self, host: &str, answer: &str) {
        let head = answer.split("\r\n\r\n").next().unwrap();
        for line in head
            .lines()
            .filter_map(|line| line.strip_prefix("set-cookie: ").or(line.strip_prefix("Set-Cookie: ")))
        {
            let mut attributes = line.split("; ");
            let (name, value) = attributes.next().unwrap().split_once('=').unwrap();
            let attributes: Vec<&str> = attributes.collect();
            let domain = attributes.iter().find_map(|text| text.strip_prefix("Domain="));
            if name.starts_with("__Host-") {
                assert!(
                    domain.is_none() && attributes.contains(&"Path=/") && attributes.contains(&"Secure"),
                    "{line}"
                );
            }
            let place = domain.map_or(host.to_owned(), |domain| format!(".{domain}"));
            let jar = self.jar.entry(place).or_default();
            if attributes.contains(&"Max-Age=0") {
                jar.remove(name);
            } else if self.keeps {
                jar.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    /// One request, without following.
    async fn ask(&mut self, method: &str, url: &str, fields: &str, body: &str) -> Page {
        let (host, target) = parts(url);
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let length =
            if method == "POST" && body.is_empty() { "Content-Length: 0\r\n".to_owned() } else { length };
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Firefox/140\r\n{}{fields}{length}Connection: close\r\n\r\n{body}",
            self.cookies(host),
        );
        let answer = self.world.gateway.send(request).await;
        let host = host.to_owned();
        self.keep(&host, &answer);
        Page { url: url.to_owned(), answer, chain: Vec::new() }
    }

    /// Opens an address as a person does.
    async fn open(&mut self, url: &str) -> Page {
        let (mut url, mut chain) = (url.to_owned(), Vec::new());
        loop {
            let page = self.ask("GET", &url, NAVIGATION, "").await;
            if page.status() != 303 {
                return Page { chain, ..page };
            }
            url = location(&page);
            chain.push(url.clone());
            assert!(chain.len() <= MOST_TURNS, "a loop: {chain:#?}");
        }
    }

    /// Opens an address until the next one begins with `until`, which is not opened; that address.
    async fn stop_before(&mut self, url: &str, until: &str) -> String {
        let mut url = url.to_owned();
        for _ in 0..MOST_TURNS {
            if url.starts_with(until) {
                return url;
            }
            let page = self.ask("GET", &url, NAVIGATION, "").await;
            assert_eq!(page.status(), 303, "{page:#?}");
            url = location(&page);
        }
        panic!("never came to {until}");
    }

    async fn sign_in(&mut self, email: &str) {
        let body = json!({"email": email, "password": PASSWORD, "session": "cookie"}).to_string();
        let fields = "Content-Type: application/json\r\nSec-Fetch-Site: same-origin\r\n";
        let page = self.ask("POST", &format!("{AUTH}/auth/login"), fields, &body).await;
        assert!(matches!(page.status(), 200 | 204), "{page:#?}");
    }

    /// What script of a page on `origin` does.
    async fn script(&mut self, method: &str, url: &str) -> Page {
        self.ask(method, url, "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\n", "").await
    }

    async fn is_signed_in(&mut self, origin: &str) -> bool {
        let page = self.script("GET", &format!("{origin}/")).await;
        assert!(matches!(page.status(), 200 | 401), "{page:#?}");
        page.status() == 200
    }
}

/// A static shell that every browser may load, and an API that only its script calls: no navigation begins the carry.
#[tokio::test]
async fn a_session_comes_to_a_host_that_only_scripts_ask_something_protected_of() {
    const SPA: &str = "https://spa.example";
    let world = World::start().await;
    let mut browser = world.signed_in(ANN).await;
    let shell = browser.open(&format!("{SPA}/board?x=1")).await;
    assert_eq!((shell.status(), shell.chain.len()), (200, 0), "{shell:#?}");
    let fetch = async |browser: &mut Browser<'_>, page: &str| {
        let fields = format!(
            "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nHX-Request: true\r\nReferer: {page}\r\n"
        );
        browser.ask("GET", &format!("{SPA}/api/data"), &fields, "").await
    };
    let board = format!("{SPA}/board?x=1");
    let refused = fetch(&mut browser, &board).await;
    assert_eq!(refused.status(), 401, "{refused:#?}");
    let nonce = browser.jar["spa.example"]["__Host-palisade-carry"].clone();
    let again = fetch(&mut browser, &board).await;
    assert_eq!(field(&again.answer, "set-cookie"), None, "a good nonce is used again: {again:#?}");
    assert_eq!(browser.jar["spa.example"]["__Host-palisade-carry"], nonce);
    let sign_in = again.json()["sign_in"].as_str().unwrap().to_owned();
    assert!(sign_in.contains("&carry="), "{sign_in}");
    assert_eq!(field(&again.answer, "hx-redirect"), Some(&*sign_in));
    let back = browser.open(&sign_in).await;
    assert_eq!((back.status(), &*back.url), (200, &*board), "{back:#?}");
    assert_eq!(fetch(&mut browser, &board).await.status(), 200);

    // A session of this host does not come by way of a page elsewhere.
    let mut other = world.signed_in(ANN).await;
    for page in [format!("{APP}/x"), "https://evil.test/".to_owned(), format!("{AUTH}/")] {
        let refused = fetch(&mut other, &page).await;
        assert_eq!((refused.status(), field(&refused.answer, "set-cookie")), (401, None), "{refused:#?}");
        assert!(!refused.json()["sign_in"].as_str().unwrap().contains("carry="), "{refused:#?}");
    }
    // A browser that keeps no cookie here is told so, and does not go round.
    let refused = fetch(&mut other, &board).await;
    other.jar.remove("spa.example");
    let told = other.open(refused.json()["sign_in"].as_str().unwrap()).await;
    assert_eq!(told.status(), 400, "{told:#?}");
}

#[tokio::test]
async fn a_session_is_carried_to_hosts_that_share_no_domain() {
    let world = World::start().await;
    let mut browser = world.signed_in(ANN).await;
    for origin in [APP, LAB] {
        assert!(!browser.is_signed_in(origin).await);
        let page = browser.open(&format!("{origin}/report?a=1")).await;
        assert_eq!((page.status(), page.url.as_str()), (200, &*format!("{origin}/report?a=1")), "{page:#?}");
        assert!(page.chain[0].starts_with(&format!("{AUTH}/auth/pages/sign-in?return_to=")), "{page:#?}");
        assert!(page.chain[1].starts_with(&format!("{origin}/.palisade/carry?code=")), "{page:#?}");
        let page = browser.open(&format!("{origin}/again")).await;
        assert!(page.chain.is_empty(), "{page:#?}");
    }
    let cookies =
        ["app.test", "lab.example", "auth.test"].map(|host| browser.jar[host]["__Host-palisade"].clone());
    assert!(cookies[0] != cookies[1] && cookies[1] != cookies[2], "each host has a value of its own");
    // Neither a cookie of ours nor a mark reached an app.
    for seen in world.app.requests() {
        assert!(!seen.contains("__Host-") && !seen.contains("palisade-turn"), "{seen}");
    }
    // The value of one host is good on no other.
    let mut thief = world.browser();
    for (host, value) in ["app.test", "lab.example", "auth.test"].iter().zip(&cookies) {
        for other in ["app.test", "lab.example"].iter().filter(|other| *other != host) {
            thief.jar = BTreeMap::from([(
                (*other).to_owned(),
                BTreeMap::from([("__Host-palisade".to_owned(), value.clone())]),
            )]);
            assert!(!thief.is_signed_in(&format!("https://{other}")).await, "{host} {other}");
        }
    }
}

#[tokio::test]
async fn a_code_is_answered_at_once_leaves_no_trace_and_is_good_once() {
    let world = World::start().await;
    let mut browser = world.signed_in(ANN).await;
    let url = browser.stop_before(&format!("{APP}/x"), &format!("{APP}/.palisade/carry")).await;
    // What looks without opening does not use it up.
    for fields in ["", "Sec-Purpose: prefetch\r\n", "Sec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n"] {
        let method = if fields.is_empty() { "HEAD" } else { "GET" };
        assert_eq!(browser.ask(method, &url, fields, "").await.status(), 403, "{fields}");
    }
    let page = browser.ask("GET", &url, NAVIGATION, "").await;
    assert_eq!(page.status(), 303);
    assert_eq!(field(&page.answer, "referrer-policy"), Some("no-referrer"));
    assert_eq!(field(&page.answer, "cache-control"), Some("no-store"));
    assert!(page.answer.to_lowercase().contains("set-cookie: sessionid=; path=/; max-age=0"), "{page:#?}");
    assert!(body_of(&page.answer).is_empty());
    // Replay, in this browser and in another one.
    let again = browser.ask("GET", &url, NAVIGATION, "").await;
    assert_eq!((again.status(), field(&again.answer, "location")), (400, None), "{again:#?}");
    let mut thief = world.browser();
    assert_eq!(thief.ask("GET", &url, NAVIGATION, "").await.status(), 400);
    assert!(!thief.is_signed_in(APP).await);
}

#[tokio::test]
async fn a_code_for_another_browser_signs_nobody_in() {
    let world = World::start().await;
    // Login CSRF: the attacker's code is opened in a victim's browser, with and without a nonce of its own.
    for began in [false, true] {
        let mut attacker = world.signed_in(BOB).await;
        let url = attacker.stop_before(&format!("{APP}/x"), &format!("{APP}/.palisade/carry")).await;
        let mut victim = world.browser();
        if began {
            victim.stop_before(&format!("{APP}/"), AUTH).await;
        }
        let page = victim.ask("GET", &url, NAVIGATION, "").await;
        assert_eq!((page.status(), field(&page.answer, "location")), (400, None), "{page:#?}");
        assert!(!page.answer.contains("__Host-palisade=") && !victim.is_signed_in(APP).await, "{page:#?}");
        // It is void for the attacker, too.
        assert_eq!(attacker.ask("GET", &url, NAVIGATION, "").await.status(), 400);
    }
    // The other way round: a victim who is signed in follows the attacker's address of the sign-in.
    let mut attacker = world.browser();
    let sign_in = attacker.stop_before(&format!("{APP}/x"), AUTH).await;
    let mut victim = world.signed_in(ANN).await;
    let url = victim.stop_before(&sign_in, &format!("{APP}/.palisade/carry")).await;
    assert_eq!(victim.ask("GET", &url, NAVIGATION, "").await.status(), 400);
    assert_eq!(attacker.ask("GET", &url, NAVIGATION, "").await.status(), 400, "even if it leaked");
    assert!(!attacker.is_signed_in(APP).await);
}

#[tokio::test]
async fn a_code_is_refused_on_another_host() {
    let world = World::start().await;
    let mut browser = world.signed_in(ANN).await;
    browser.stop_before(&format!("{LAB}/"), AUTH).await;
    let url = browser.stop_before(&format!("{APP}/x"), &format!("{APP}/.palisade/carry")).await;
    let elsewhere = url.replace(APP, LAB);
    assert_eq!(browser.ask("GET", &elsewhere, NAVIGATION, "").await.status(), 400);
    assert!(!browser.is_signed_in(LAB).await);
    assert_eq!(browser.ask("GET", &url, NAVIGATION, "").await.status(), 400, "and void after that");
}

#[tokio::test]
async fn a_sign_in_leads_nowhere_else() {
    let world = World::start().await;
    let mut attacker = world.browser();
    let sign_in = attacker.stop_before(&format!("{APP}/x"), AUTH).await;
    let carry = sign_in.split_once("carry=").unwrap().1.to_owned();
    let mut victim = world.signed_in(ANN).await;
    for target in [
        "https://evil.test/",
        "//evil.test/",
        "/\\evil.test",
        "https:evil.test",
        "https://app.test@evil.test/",
        "https://x.wild.test/",
        "http://app.test/",
        "https://app.test:8443/",
        "https://app.test/.palisade/carry?code=x",
        "javascript:alert(1)",
    ] {
        let encoded: String = target.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for more in ["", &format!("&carry={carry}")] {
            let page = victim
                .ask("GET", &format!("{AUTH}/auth/pages/sign-in?return_to={encoded}{more}"), NAVIGATION, "")
                .await;
            let location = field(&page.answer, "location").unwrap_or(AUTH);
            assert!(location.starts_with(AUTH), "{target}: {location}");
        }
    }
    // An origin that is only returned to gets no code.
    let page = victim
        .ask(
            "GET",
            &format!("{AUTH}/auth/pages/sign-in?return_to=https%3A%2F%2Fwww.test%2F&carry={carry}"),
            NAVIGATION,
            "",
        )
        .await;
    assert_eq!(field(&page.answer, "location"), Some("https://www.test/"), "{page:#?}");
}

#[tokio::test]
async fn a_host_that_only_a_wildcard_matches_gets_a_page_and_no_session() {
    let world = World::start().await;
    let mut browser = world.signed_in(ANN).await;
    let page = browser.open("https://x.wild.test/y").await;
    assert_eq!((page.status(), page.chain.len()), (403, 0), "{page:#?}");
    assert!(body_of(&page.answer).contains("https://auth.test/"), "{page:#?}");
    assert!(!browser.jar.contains_key("x.wild.test"), "no nonce either");
    // What is ours on named hosts is the app's there.
    assert_eq!(browser.script("GET", "https://x.wild.test/.palisade/session").await.status(), 401);
    assert_eq!(browser.script("GET", &format!("{APP}/.palisade/session")).await.status(), 204);
}

#[tokio::test]
async fn a_browser_that_keeps_no_cookie_gets_a_page_after_one_turn() {
    let world = World::start().await;
    let mut browser = world.signed_in(ANN).await;
    // On the app's host.
    let mut jar = std::mem::take(&mut browser.jar);
    browser.keeps = false;
    browser.jar.insert("auth.test".into(), jar.remove("auth.test").unwrap());
    let page = browser.open(&format!("{APP}/x")).await;
    assert_eq!((page.status(), page.chain.len()), (400, 2), "{page:#?}");
    assert!(body_of(&page.answer).contains("https://app.test/x"), "a way on: {page:#?}");
    // One that keeps the nonce and not the session.
    browser.keeps = true;
    let url = browser.stop_before(&format!("{APP}/x"), &format!("{APP}/.palisade/carry")).await;
    browser.keeps = false;
    let page = browser.open(&url).await;
    assert_eq!((page.status(), page.chain.len()), (400, 1), "{page:#?}");
    // Old or forged, a mark changes nothing but that it is gone.
    let mark = page.chain[0].split_once("palisade-turn=").unwrap().1;
    let forged = format!("{APP}/x?a=1&palisade-turn={}", "A".repeat(mark.len()));
    let page = browser.ask("GET", &forged, NAVIGATION, "").await;
    let location = field(&page.answer, "location").unwrap_or_default();
    assert!(location.starts_with(AUTH) && !location.contains("palisade-turn"), "{page:#?}");
    // Over http, the page says so.
    browser.keeps = true;
    let request = "GET /x HTTP/1.1\r\nHost: app.test\r\nAccept: text/html\r\nConnection: close\r\n\r\n";
    let answer = world.gateway.send(request).await;
    let sign_in = field(&answer, "location").unwrap().to_owned();
    browser.jar.remove("app.test");
    let page = browser.open(&sign_in).await;
    assert_eq!(page.status(), 400);
    assert!(body_of(&page.answer).contains("https"), "{page:#?}");
    let log = field(&page.answer, "location");
    assert_eq!(log, None);
}

#[tokio::test]
async fn an_address_that_was_kept_with_its_mark_is_as_good_as_without() {
    let world = World::start().await;
    let mut browser = world.signed_in(ANN).await;
    let url = browser.stop_before(&format!("{APP}/x?a=1"), &format!("{APP}/.palisade/carry")).await;
    let page = browser.ask("GET", &url, NAVIGATION, "").await;
    let marked = field(&page.answer, "location").unwrap().to_owned();
    assert!(marked.starts_with(&format!("{APP}/x?a=1&palisade-turn=")), "{marked}");
    for _ in 0..2 {
        let page = browser.open(&marked).await;
        assert_eq!((page.status(), page.url.as_str()), (200, "https://app.test/x?a=1"), "{page:#?}");
    }
    for seen in world.app.requests() {
        assert!(!seen.contains("palisade-turn"), "{seen}");
    }
}

#[tokio::test]
async fn script_on_a_host_gets_a_token_for_that_host_alone() {
    let world = World::start().await;
    let mut browser = world.signed_in(ANN).await;
    let none = browser.script("POST", &format!("{APP}/.palisade/token")).await;
    assert_eq!(none.status(), 401, "{none:#?}");
    browser.open(&format!("{APP}/")).await;
    let page = browser.script("POST", &format!("{APP}/.palisade/token")).await;
    let token = page.json()["access_token"].as_str().unwrap_or_else(|| panic!("{page:#?}")).to_owned();
    assert!(page.json()["expires_in"].as_u64().unwrap() <= 300);
    let mut program = world.browser();
    let bearer = format!("Authorization: Bearer {token}\r\n");
    for (url, want) in [
        (format!("{APP}/api"), 200),
        (format!("{LAB}/api"), 401),
        ("https://x.wild.test/api".to_owned(), 401),
        (format!("{AUTH}/auth/me"), 401),
        (format!("{APP}/auth/me"), 401),
        (format!("{AUTH}/auth/sessions"), 401),
    ] {
        assert_eq!(program.ask("GET", &url, &bearer, "").await.status(), want, "{url}");
    }
    // Script of another site, another host of ours, and what does not say where it comes from, get none.
    for fields in [
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
        "Origin: https://evil.test\r\n",
        "Origin: https://lab.example\r\n",
        "Origin: http://app.test\r\n",
        "Origin: null\r\n",
        "",
    ] {
        for path in ["token", "sign-out"] {
            let page = browser.ask("POST", &format!("{APP}/.palisade/{path}"), fields, "").await;
            assert_eq!(page.status(), 403, "{path} {fields}: {page:#?}");
        }
    }
    assert_eq!(
        browser
            .ask("POST", &format!("{APP}/.palisade/token"), "Origin: https://app.test\r\n", "")
            .await
            .status(),
        200
    );
    assert!(browser.is_signed_in(APP).await);
}

#[tokio::test]
async fn a_cookie_opens_native_endpoints_on_the_host_of_public_url_only() {
    let world = World::start().await;
    let mut browser = world.signed_in(ANN).await;
    browser.open(&format!("{APP}/")).await;
    assert_eq!(browser.script("GET", &format!("{AUTH}/auth/session")).await.status(), 200);
    let page = browser.script("GET", &format!("{APP}/auth/session")).await;
    assert_eq!((page.status(), &page.json()["code"]), (403, &json!("wrong_host")), "{page:#?}");
    for (method, path) in [("GET", "me"), ("GET", "sessions"), ("DELETE", "sessions"), ("POST", "token")] {
        let page = browser.script(method, &format!("{APP}/auth/{path}")).await;
        assert!(matches!(page.status(), 401 | 403), "{path}: {page:#?}");
    }
    let page = browser.script("GET", &format!("{APP}/.palisade/session")).await;
    assert_eq!(page.status(), 200);
    assert!(body_of(&page.answer).contains(ANN), "{page:#?}");
}

#[tokio::test]
async fn signing_out_on_one_host_ends_the_session_everywhere() {
    let world = World::start().await;
    let mut browser = world.signed_in(ANN).await;
    for origin in [APP, LAB] {
        browser.open(&format!("{origin}/")).await;
        assert!(browser.is_signed_in(origin).await);
    }
    let page = browser.script("POST", &format!("{APP}/.palisade/sign-out")).await;
    assert_eq!(
        (page.status(), field(&page.answer, "clear-site-data")),
        (204, Some("\"cache\"")),
        "{page:#?}"
    );
    assert!(page.answer.to_lowercase().contains("set-cookie: sessionid=;"), "{page:#?}");
    for origin in [APP, LAB] {
        assert!(!browser.is_signed_in(origin).await, "{origin}");
    }
    assert_eq!(browser.script("GET", &format!("{AUTH}/auth/session")).await.status(), 204);
}

#[tokio::test]
async fn another_person_who_signs_in_takes_the_place_of_the_last_one() {
    let world = World::start().await;
    let mut browser = world.signed_in(ANN).await;
    browser.open(&format!("{APP}/")).await;
    let fixed = browser.jar["app.test"]["__Host-palisade"].clone();
    browser.sign_in(BOB).await;
    assert!(!browser.is_signed_in(APP).await, "the session of the other person has ended there, too");
    browser.open(&format!("{APP}/")).await;
    let page = browser.script("GET", &format!("{APP}/.palisade/session")).await;
    assert!(body_of(&page.answer).contains(BOB), "{page:#?}");
    // Fixation: a value from before is none of after.
    assert_ne!(browser.jar["app.test"]["__Host-palisade"], fixed);
    browser.jar.get_mut("app.test").unwrap().insert("__Host-palisade".into(), fixed);
    assert!(!browser.is_signed_in(APP).await);
}

#[tokio::test]
async fn a_siblings_tossed_cookie_keeps_no_person_out() {
    let world = World::start_with("domain = \"auth.test\"").await;
    let notes = "https://notes.auth.test";
    let mut attacker = world.signed_in(BOB).await;
    assert!(attacker.is_signed_in(notes).await, "one cookie for the domain");
    let evil = attacker.jar[".auth.test"]["__Secure-palisade"].clone();
    let mut browser = world.signed_in(ANN).await;
    assert!(browser.is_signed_in(notes).await);
    // Another host of the domain sets one for a path of this one: it is sent, and comes first.
    browser.jar.entry(".auth.test".into()).or_default().insert("__Secure-palisade'".into(), evil.clone());
    assert!(!browser.is_signed_in(notes).await, "neither counts");
    // The next turn sets what only this host can set, and that wins.
    let page = browser.open(&format!("{notes}/x")).await;
    if page.status() != 200 || page.url != format!("{notes}/x") {
        // On the host of public_url neither counted, so the person signs in once more.
        browser.sign_in(ANN).await;
        let page = browser.open(&format!("{notes}/x")).await;
        assert_eq!((page.status(), page.url.as_str()), (200, &*format!("{notes}/x")), "{page:#?}");
    }
    assert!(browser.jar["auth.test"].contains_key("__Host-palisade"), "{:#?}", browser.jar);
    assert!(browser.jar["notes.auth.test"].contains_key("__Host-palisade"), "{:#?}", browser.jar);
    let page = browser.script("GET", &format!("{notes}/.palisade/session")).await;
    assert!(body_of(&page.answer).contains(ANN), "{page:#?}");
    assert!(browser.is_signed_in(notes).await);
}
