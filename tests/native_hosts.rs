//! `[native] hosts` behind a running gateway: an app that has `/auth` and `/.well-known` itself, as Home Assistant has,
//! gets them on its host, and the native endpoints answer on the hosts that are listed.

use crate::support::{Gateway, Upstream, field, status};

const AUTH: &str = "https://auth.test";
/// Paths of native endpoints. Home Assistant has its own at some of them.
const PATHS: [&str; 8] = [
    "/auth/login",
    "/auth/pages/sign-in",
    "/auth/me",
    "/auth",
    "/.well-known/openid-configuration",
    "/.well-known/jwks.json",
    "/.well-known/oauth-authorization-server",
    "/.well-known/change-password",
];

/// A stand-in for Home Assistant: it answers whatever it is asked, so what it saw is what the gateway passed on. Its
/// host is named among `browser.hosts`, as a session can be carried to it.
struct World {
    gateway: Gateway,
    home_assistant: Upstream,
}

impl World {
    async fn start(native: &str) -> World {
        let home_assistant = Upstream::start().await;
        let route = |name: &str, place: &str, auth: &str| {
            format!(
                "[[routes]]\nname = \"{name}\"\nmatch = {{ {place} }}\nupstream = [\"http://{}\"]\nauth = \"{auth}\"\n",
                home_assistant.address
            )
        };
        let extra = format!(
            "{native}\n{}{}",
            route("home", "host = \"home.test\", path = \"/\"", "none"),
            route("home-private", "host = \"home.test\", path = \"/auth/private\"", "required"),
        );
        World { gateway: Gateway::start_at(AUTH, "", &extra).await, home_assistant }
    }

    /// The answer to a request, and whether the app saw it.
    async fn ask(&self, method: &str, host: &str, path: &str, fields: &str) -> (String, bool) {
        let before = self.home_assistant.requests().len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}Connection: close\r\n\r\n");
        let answer = self.gateway.send(request).await;
        (answer, self.home_assistant.requests().len() > before)
    }
}

#[tokio::test]
async fn an_app_has_its_own_auth_and_well_known_where_no_native_endpoint_answers() {
    let world = World::start("[native]\nhosts = [\"auth.test\"]").await;
    for host in ["home.test", "HOME.test", "home.test.", "home.test:8123"] {
        for path in PATHS {
            let (answer, is_seen) = world.ask("GET", host, path, "").await;
            assert!(is_seen, "{host}{path}: {answer}");
        }
    }
    for host in ["auth.test", "AUTH.Test", "auth.test.", "auth.test:443", "auth.test:9999"] {
        for path in ["/auth/login", "/auth/pages/sign-in", "/.well-known/jwks.json"] {
            let (answer, is_seen) = world.ask("GET", host, path, "").await;
            assert!(!is_seen && status(&answer) != 404, "{host}{path}: {answer}");
        }
    }
    // No route has this host, and no native endpoint answers there.
    let (answer, is_seen) = world.ask("GET", "xauth.test", "/.well-known/jwks.json", "").await;
    assert!(!is_seen && status(&answer) == 404, "{answer}");
}

#[tokio::test]
async fn password_managers_find_where_a_password_is_changed() {
    let world = World::start("").await;
    for method in ["GET", "HEAD"] {
        let (answer, is_seen) = world.ask(method, "auth.test", "/.well-known/change-password", "").await;
        assert!(!is_seen && status(&answer) == 303, "{answer}");
        assert_eq!(
            field(&answer, "location"),
            Some("https://auth.test/auth/pages/account#change-password"),
            "{answer}"
        );
    }
    let (answer, _) = world.ask("POST", "auth.test", "/.well-known/change-password", "").await;
    assert_eq!(status(&answer), 405, "{answer}");
    let own = "[pages]\nurls = { account = \"https://app.test/settings\" }";
    let (answer, _) =
        World::start(own).await.ask("GET", "auth.test", "/.well-known/change-password", "").await;
    assert_eq!(field(&answer, "location"), Some("https://app.test/settings"), "{answer}");
}

#[tokio::test]
async fn without_the_key_native_endpoints_answer_on_every_host() {
    let world = World::start("").await;
    for path in ["/auth/login", "/auth", "/.well-known/jwks.json"] {
        let (answer, is_seen) = world.ask("GET", "home.test", path, "").await;
        assert!(!is_seen, "{path}: {answer}");
    }
}

#[tokio::test]
async fn the_route_table_alone_decides_about_auth_of_an_app() {
    let world = World::start("[native]\nhosts = [\"auth.test\"]").await;
    for path in [
        "/auth/private",
        "/auth/x/../private",
        "/auth/%70rivate",
        "/auth/private;x",
        "/auth//private",
        "/auth/login/..;/private",
        "/auth/login\\..\\private",
        "/auth/login%2f..%2fprivate",
    ] {
        let (answer, is_seen) = world.ask("GET", "home.test", path, "").await;
        assert!(!is_seen && status(&answer) >= 400, "{path}: {answer}");
    }
}

#[tokio::test]
async fn four_paths_stay_ours_on_the_host_of_an_app_and_no_cookie_of_ours_reaches_it() {
    let world = World::start("[native]\nhosts = [\"auth.test\"]").await;
    for (method, path) in [("GET", "session"), ("POST", "sign-out"), ("POST", "token"), ("GET", "carry")] {
        let (answer, is_seen) = world.ask(method, "home.test", &format!("/.palisade/{path}"), "").await;
        assert!(!is_seen, "{path}: {answer}");
    }
    for path in ["/.palisade", "/.palisade/other", "/.palisade/session/x"] {
        let (answer, is_seen) = world.ask("GET", "home.test", path, "").await;
        assert!(is_seen, "{path}: {answer}");
    }
    let cookies = "Cookie: __Host-palisade=a; theme=dark; __Secure-palisade=b\r\n";
    let (answer, is_seen) = world.ask("GET", "home.test", "/auth/login", cookies).await;
    assert!(is_seen, "{answer}");
    let seen = world.home_assistant.requests().pop().unwrap();
    assert_eq!(field(&seen, "cookie"), Some("theme=dark"), "{seen}");
}
