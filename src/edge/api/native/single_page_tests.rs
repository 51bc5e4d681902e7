//! Single-page apps, as a browser that keeps to the rules lets their script call (Fetch standard, §3.2): on the origin of
//! `public_url`, and on others that `[cors]` lists.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use super::super::described::Answer;
use super::tests::{Api, access, api_from, request, state_of};
use palisade_core::domain::cors::{Cors, Origins};
use palisade_testing::accounts_world::{self, ANN, PASSWORD};

const HOME: &str = "https://app.test";
const SPA: &str = "https://spa.app.test";

/// A page of an origin, with the cookie that its browser has for the host of `public_url`.
struct Page<'a> {
    api: &'a Api,
    origin: &'static str,
    /// As browsers say it to the host of `public_url`.
    site: &'static str,
    cookie: String,
}

fn api(cors: Cors) -> Api {
    let world = accounts_world::world();
    let state = state_of(&world, Origins::These(Vec::new()), HOME);
    api_from(world, super::AuthState { cors, ..state })
}

fn listing(origins: Origins, credentials: bool) -> Cors {
    Cors { origins, credentials, ..Cors::default() }
}

fn spa(credentials: bool) -> Cors {
    listing(Origins::These(vec![SPA.to_owned()]), credentials)
}

fn with_cookie() -> Value {
    json!({"email": ANN, "password": PASSWORD, "session": "cookie"})
}

impl Api {
    async fn page(&self, origin: &'static str) -> Page<'_> {
        let site = match origin {
            HOME => "same-origin",
            SPA => "same-site",
            _ => "cross-site",
        };
        Page { api: self, origin, site, cookie: String::new() }
    }
}

impl Page<'_> {
    fn dressed(&self, mut request: Request<Body>) -> Request<Body> {
        let fields = [("origin", self.origin), ("sec-fetch-site", self.site), ("sec-fetch-mode", "cors")];
        for (name, value) in fields {
            // Browsers name the origin on GET to other origins only.
            if name != "origin" || self.site != "same-origin" || request.method() != "GET" {
                request.headers_mut().insert(name, value.parse().unwrap());
            }
        }
        request
    }

    /// What `fetch` with `credentials: "include"` sends.
    async fn fetches(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = (!body.is_null()).then(|| body.to_string());
        let mut request = self.dressed(request(method, path, None, body.as_deref()));
        if !self.cookie.is_empty() {
            request.headers_mut().insert("cookie", self.cookie.parse().unwrap());
        }
        self.api.send(request).await
    }

    /// Whether the browser sends the request that follows this preflight, cookies with it.
    async fn may(&self, method: &str, path: &str) -> (bool, bool) {
        self.asking(method, path, "content-type").await
    }

    /// [`Page::may`] for a request with these fields.
    async fn asking(&self, method: &str, path: &str, names: &str) -> (bool, bool) {
        let mut preflight = self.dressed(request("OPTIONS", path, None, None));
        let fields = preflight.headers_mut();
        fields.insert("access-control-request-method", method.parse().unwrap());
        fields.insert("access-control-request-headers", names.parse().unwrap());
        let answer = self.api.send(preflight).await;
        let is_origin = answer.header("access-control-allow-origin") == self.origin;
        let is_any = answer.header("access-control-allow-origin") == "*";
        let may = (is_origin || is_any)
            && answer.header("access-control-allow-methods").split(',').any(|known| known == method)
            && answer.header("access-control-allow-headers").contains("content-type");
        (may, may && is_origin && answer.header("access-control-allow-credentials") == "true")
    }

    /// Whether script may read an answer to a request with cookies.
    fn reads(&self, answer: &Answer) -> bool {
        self.site == "same-origin"
            || answer.header("access-control-allow-origin") == self.origin
                && answer.header("access-control-allow-credentials") == "true"
    }

    async fn signs_in(&mut self) -> Answer {
        let answer = self.fetches("POST", "/login", &with_cookie()).await;
        self.cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
        answer
    }
}

#[tokio::test]
async fn a_page_of_the_public_origin_signs_in_asks_and_gets_tokens() {
    let api = api(Cors::default());
    api.ann().await;
    let mut page = api.page(HOME).await;
    assert_eq!(page.fetches("GET", "/session", &Value::Null).await.status, 204);
    let signed_in = page.signs_in().await;
    assert_eq!((signed_in.status, signed_in.text.as_str()), (204, ""), "{signed_in:?}");
    assert!(signed_in.header("set-cookie").contains("; HttpOnly; SameSite=Lax"), "{signed_in:?}");
    let session = page.fetches("GET", "/session", &Value::Null).await;
    assert_eq!((session.status, &session.body()["user"]["email"]), (200, &json!(ANN)));
    let token = page.fetches("POST", "/token", &Value::Null).await;
    let token = token.body()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(api.get("/me", &token).await.status, 200);
    // `fetch` adds the cookie by itself: with a token beside it no rule says which counts.
    let mut both = page.dressed(request("GET", "/me", Some(&token), None));
    both.headers_mut().insert("cookie", page.cookie.parse().unwrap());
    assert_eq!(api.send(both).await.refusal(), (400, "credentials_ambiguous".into()));
    assert_eq!(page.fetches("POST", "/logout", &Value::Null).await.status, 204);
    assert_eq!(page.fetches("GET", "/session", &Value::Null).await.status, 204);
    assert_eq!(api.get("/me", &token).await.status, 401, "the token ends with its session");
}

/// An origin that is listed without `credentials` calls with tokens, and cookies are none of its business.
#[tokio::test]
async fn a_listed_origin_has_no_cookies_without_credentials() {
    let api = api(spa(false));
    api.ann().await;
    let (mut home, mut page) = (api.page(HOME).await, api.page(SPA).await);
    home.signs_in().await;
    let refused = page.signs_in().await;
    assert_eq!(refused.refusal(), (403, "cross_site".into()));
    assert_eq!(refused.header("set-cookie"), "");
    // The site is the same, so browsers do send the cookie.
    page.cookie = home.cookie.clone();
    for (method, path) in [
        ("POST", "/token"),
        ("POST", "/logout"),
        ("DELETE", "/me"),
        ("DELETE", "/sessions"),
        ("PATCH", "/me"),
    ] {
        assert_eq!(page.may(method, path).await, (true, false), "{method} {path}");
        let body = if method == "PATCH" { json!({"name": "Eve"}) } else { Value::Null };
        assert_eq!(page.fetches(method, path, &body).await.refusal(), (403, "cross_site".into()), "{path}");
    }
    for path in ["/session", "/me", "/sessions"] {
        let seen = page.fetches("GET", path, &Value::Null).await;
        assert!(!page.reads(&seen), "{seen:?}");
    }
    // Neither where the cookie of a consent is set.
    for (method, path) in [
        ("GET", "/connections"),
        ("HEAD", "/connections"),
        ("POST", "/connections"),
        ("GET", "/me"),
        ("GET", "/sessions"),
    ] {
        if method != "HEAD" {
            assert_eq!(page.may(method, path).await, (true, false), "{method} {path}");
        }
        let body = if method == "POST" { json!({"provider": "acme"}) } else { Value::Null };
        let seen = page.fetches(method, path, &body).await;
        assert_eq!(seen.status, 403, "{method} {path}: {seen:?}");
        assert!(!page.reads(&seen), "{method} {path}: {seen:?}");
    }
    assert_eq!(page.asking("POST", "/connections", "authorization, content-type").await, (true, true));
    assert_eq!(page.asking("GET", "/connections", "authorization, content-type").await, (true, false));
    // The token authorises it there, also beside a session cookie that the browser adds; so the answer can be read.
    let token = access(&api.login().await);
    let begin = json!({"provider": "nobody"}).to_string();
    let mut begins = page.dressed(request("POST", "/connections", Some(&token), Some(&begin)));
    begins.headers_mut().insert("cookie", page.cookie.parse().unwrap());
    let begun = api.send(begins).await;
    assert_eq!(begun.refusal().1, "unknown_provider");
    assert!(page.reads(&begun), "{begun:?}");
    let tokens = page.fetches("POST", "/login", &json!({"email": ANN, "password": PASSWORD})).await;
    assert_eq!((tokens.status, tokens.header("access-control-allow-origin")), (200, SPA));
    assert_eq!(home.fetches("GET", "/session", &Value::Null).await.body()["user"]["name"], "Ann");
}

#[tokio::test]
async fn a_listed_origin_with_credentials_is_as_the_public_one() {
    let api = api(spa(true));
    api.ann().await;
    let mut page = api.page(SPA).await;
    for (method, path) in [("POST", "/login"), ("POST", "/token"), ("DELETE", "/me"), ("PUT", "/me/password")]
    {
        assert_eq!(page.may(method, path).await, (true, true), "{method} {path}");
    }
    let signed_in = page.signs_in().await;
    assert_eq!(signed_in.status, 204, "{signed_in:?}");
    assert!(page.reads(&signed_in) && signed_in.header("vary").contains("origin"), "{signed_in:?}");
    let session = page.fetches("GET", "/session", &Value::Null).await;
    assert!(page.reads(&session) && session.body()["user"]["email"] == ANN, "{session:?}");
    let token = page.fetches("POST", "/token", &Value::Null).await;
    assert!(page.reads(&token) && token.body()["access_token"].is_string(), "{token:?}");
    // A refusal can be read as well.
    let wrong = page.fetches("DELETE", "/me", &json!({"current_password": "wrong"})).await;
    assert_eq!(wrong.refusal(), (403, "wrong_password".into()));
    assert!(page.reads(&wrong), "{wrong:?}");
    let deleted = page.fetches("DELETE", "/me", &json!({"current_password": PASSWORD})).await;
    assert_eq!(deleted.status, 204);
    assert!(deleted.header("set-cookie").contains("Max-Age=0"), "{deleted:?}");
    assert_eq!(deleted.header("clear-site-data"), "\"cache\"");
}

#[tokio::test]
async fn an_origin_that_is_not_listed_gets_nothing() {
    for cors in [Cors::default(), spa(true), spa(false)] {
        let api = api(cors);
        api.ann().await;
        let mut home = api.page(HOME).await;
        home.signs_in().await;
        let near = ["https://spa.app.test:8443", "http://spa.app.test", "https://evil.test", "null"];
        for origin in near {
            let mut page = api.page(origin).await;
            assert_eq!(page.may("POST", "/login").await, (false, false), "{origin}");
            assert_eq!(page.signs_in().await.refusal(), (403, "cross_site".into()), "{origin}");
            page.cookie = home.cookie.clone();
            for (method, path) in [("POST", "/token"), ("DELETE", "/me"), ("POST", "/logout")] {
                let refused = page.fetches(method, path, &Value::Null).await;
                assert_eq!(refused.refusal(), (403, "cross_site".into()), "{origin} {path}");
            }
            assert!(!page.reads(&page.fetches("GET", "/session", &Value::Null).await), "{origin}");
        }
        assert_eq!(home.fetches("GET", "/session", &Value::Null).await.status, 200);
    }
}

/// The configuration refuses `"*"` with credentials; were it let through, it would do no harm.
#[tokio::test]
async fn any_origin_never_comes_with_cookies() {
    for credentials in [false, true] {
        let api = api(listing(Origins::Any, credentials));
        api.ann().await;
        let (mut home, mut page) = (api.page(HOME).await, api.page("https://evil.test").await);
        home.signs_in().await;
        for path in ["/login", "/token", "/connections"] {
            assert_eq!(page.may("POST", path).await, (true, false), "{path}");
        }
        assert_eq!(page.signs_in().await.refusal(), (403, "cross_site".into()));
        page.cookie = home.cookie.clone();
        let refused = page.fetches("POST", "/token", &Value::Null).await;
        assert_eq!(refused.refusal(), (403, "cross_site".into()));
        let seen = page.fetches("GET", "/session", &Value::Null).await;
        assert!(!page.reads(&seen) && seen.header("access-control-allow-credentials").is_empty(), "{seen:?}");
    }
}

#[tokio::test]
async fn pages_may_use_the_methods_that_are_listed_for_as_long_as_it_says() {
    let cors = Cors {
        allow_methods: vec!["GET".to_owned(), "POST".to_owned()],
        max_age: std::time::Duration::from_secs(7200),
        ..spa(false)
    };
    let api = api(cors);
    let page = api.page(SPA).await;
    assert_eq!(page.may("POST", "/login").await, (true, false));
    assert_eq!(page.may("DELETE", "/me").await, (false, false));
    let mut preflight = page.dressed(request("OPTIONS", "/me", None, None));
    preflight.headers_mut().insert("access-control-request-method", "GET".parse().unwrap());
    let answer = api.send(preflight).await;
    assert_eq!(answer.header("access-control-max-age"), "7200", "{answer:?}");
    for name in ["traceparent", "tracestate", "baggage", "sentry-trace", "x-requested-with"] {
        assert!(answer.header("access-control-allow-headers").contains(name), "{name}: {answer:?}");
    }
}
