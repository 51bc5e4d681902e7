//! Sessions in cookies on the way of a request: what they open, what of them an app is told, and what an app's answers
//! become.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::neighbours::{Scripted, mint, read_head};
use crate::support::{Gateway, body_of, field, status};

const PASSWORD: &str = "Correct horse 42";
const ORIGIN: &str = "Origin: http://localhost:8080\r\n";

/// An app that answers with the head of the request, and with the fields that its path asks for.
async fn app() -> Scripted {
    Scripted::start(|mut stream| async move {
        let head = read_head(&mut stream).await;
        let path = head.split(' ').nth(1).unwrap_or_default();
        let mut fields =
            "Cache-Control: public, max-age=60, s-maxage=600\r\nCDN-Cache-Control: max-age=600\r\n\
                          Set-Cookie: palisade=evil; Path=/\r\nSet-Cookie: =__Host-palisade=evil\r\n"
                .to_owned();
        if let Some(value) = path.split("set=").nth(1) {
            fields.push_str(&format!("Set-Cookie: sid={value}; Path=/; HttpOnly\r\n"));
        }
        let answer = format!(
            "HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\nConnection: close\r\n\r\n{head}",
            head.len()
        );
        let _ = stream.write_all(answer.as_bytes()).await;
    })
    .await
}

struct World {
    gateway: Gateway,
    _app: Scripted,
}

impl World {
    async fn start() -> World {
        let app = app().await;
        let route = |name: &str, keys: &str| crate::support::route(name, app.address, keys);
        let routes = [
            route("app", "auth = \"required\"\ntoken = { cookie = \"at\" }"),
            route("open", "auth = \"optional\"\napp_cookies = [\"sid\"]"),
            route("shared", "auth = \"required\"\ncache = \"shared\""),
            route("jar", "auth = \"required\"\napp_cookies = [\"sid\"]"),
        ];
        let gateway = Gateway::start(&format!("[passwords]\nbcrypt_cost = 4\n{}", routes.concat())).await;
        for name in ["ann", "bob"] {
            let account =
                json!({"email": format!("{name}@example.com"), "password": PASSWORD, "email_verified": true});
            assert_eq!(gateway.admin("POST", "/admin/v1/users", &account).await.0, 201);
        }
        World { gateway, _app: app }
    }

    async fn send(&self, method: &str, target: &str, fields: &str) -> String {
        self.gateway
            .send(format!(
                "{method} {target} HTTP/1.1\r\nHost: localhost:8080\r\n{fields}Content-Length: 0\r\nConnection: close\r\n\r\n"
            ))
            .await
    }

    /// Signs in at a browser: `name=value` of the session cookie, and the whole answer.
    async fn sign_in(&self, name: &str) -> (String, String) {
        let body = json!({"email": format!("{name}@example.com"), "password": PASSWORD, "session": "cookie"});
        let body = body.to_string();
        let answer = self
            .gateway
            .send(format!(
                "POST /auth/login HTTP/1.1\r\nHost: localhost:8080\r\n{ORIGIN}Content-Type: application/json\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            ))
            .await;
        assert_eq!(status(&answer), 204, "{answer}");
        let line = set_cookies(&answer).into_iter().find(|line| line.starts_with("palisade=")).unwrap();
        (line.split(';').next().unwrap().to_owned(), answer)
    }
}

fn set_cookies(answer: &str) -> Vec<String> {
    let head = answer.split("\r\n\r\n").next().unwrap_or_default();
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    let lines = lines.filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
    lines.map(|(_, value)| value.trim().to_owned()).collect()
}

fn code(answer: &str) -> Value {
    serde_json::from_str::<Value>(body_of(answer)).unwrap_or_default()["code"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_cookie_opens_the_app_which_never_sees_it_and_its_answers_are_private() {
    let world = World::start().await;
    let (cookie, _) = world.sign_in("ann").await;
    let with = format!("Cookie: a=b; {cookie}; palisade-carry=x\r\n");
    let answer = world.send("GET", "/app/x", &with).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let told = body_of(&answer).to_ascii_lowercase();
    assert!(
        !told.contains("palisade=") && !told.contains("palisade-carry") && told.contains("cookie: a=b\r\n"),
        "{told}"
    );
    assert!(told.contains("x-auth-subject: "), "{told}");
    assert_eq!(field(&answer, "cache-control"), Some("private, max-age=60"));
    assert_eq!(field(&answer, "cdn-cache-control"), None);
    assert_eq!(set_cookies(&answer), [""; 0], "{answer}");
    // A token in a cookie is a credential that no cache knows, too; one in Authorization is known.
    let token = mint(&world.gateway, "carol").await;
    let by_cookie = world.send("GET", "/app/x", &format!("Cookie: at={token}\r\n")).await;
    assert_eq!(field(&by_cookie, "cache-control"), Some("private, max-age=60"), "{by_cookie}");
    for other in [
        world.send("GET", "/app/x", &format!("Authorization: Bearer {token}\r\n{with}")).await,
        world.send("GET", "/shared/x", &with).await,
        world.send("GET", "/open/x", "").await,
    ] {
        assert_eq!(field(&other, "cache-control"), Some("public, max-age=60, s-maxage=600"), "{other}");
        assert_eq!(field(&other, "cdn-cache-control"), Some("max-age=600"));
        assert_eq!(set_cookies(&other), [""; 0], "{other}");
        assert!(!body_of(&other).contains("palisade="), "{other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_sites_own_pages_change_anything_by_a_session_cookie_and_a_bad_token_never_passes_by_it() {
    let world = World::start().await;
    let (cookie, _) = world.sign_in("ann").await;
    let cookie = format!("Cookie: {cookie}\r\n");
    for (fields, allowed) in [
        ("", false),
        ("Origin: http://evil.test\r\n", false),
        ("Sec-Fetch-Site: same-site\r\n", false),
        ("Origin: null\r\nSec-Fetch-Site: same-origin\r\n", true),
        (ORIGIN, true),
        ("Referer: http://localhost:8080/x\r\n", true),
    ] {
        let answer = world.send("POST", "/app/x", &format!("{cookie}{fields}")).await;
        assert_eq!(status(&answer), if allowed { 200 } else { 403 }, "{fields} {answer}");
    }
    let bad = world.send("GET", "/app/x", &format!("{cookie}Authorization: Bearer a.b.c\r\n")).await;
    assert_eq!((status(&bad), code(&bad)), (401, json!("invalid_token")), "{bad}");
    for forged in ["palisade=x", "palisade=", &cookie[8..60]] {
        let answer = world.send("GET", "/app/x", &format!("Cookie: {forged}\r\n")).await;
        assert_eq!((status(&answer), code(&answer)), (401, json!("token_missing")), "{answer}");
        assert_eq!(status(&world.send("POST", "/open/x", &format!("Cookie: {forged}\r\n")).await), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_in_force_with_the_next_request() {
    let world = World::start().await;
    let (cookie, _) = world.sign_in("ann").await;
    let with = format!("Cookie: {cookie}\r\n");
    let answer = world.send("GET", "/app/x", &with).await;
    let subject = field(body_of(&answer), "x-auth-subject").unwrap().to_owned();
    let revoked = world.gateway.admin("POST", "/admin/v1/revocations", &json!({"sub": subject})).await;
    assert!(revoked.0 < 300, "{revoked:?}");
    let answer = world.send("GET", "/app/x", &with).await;
    assert_eq!((status(&answer), code(&answer)), (401, json!("session_over")), "{answer}");
    let open = world.send("GET", "/open/x", &with).await;
    assert_eq!(status(&open), 200, "{open}");
    assert_eq!(field(body_of(&open), "x-auth-subject"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_person_at_a_browser_is_not_the_previous_one_in_the_app() {
    let world = World::start().await;
    let (ann, signed_in) = world.sign_in("ann").await;
    let expired = "sid=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax";
    assert!(set_cookies(&signed_in).iter().any(|line| line == expired), "{signed_in}");
    let answer = world.send("GET", "/jar/?set=app1", &format!("Cookie: {ann}\r\n")).await;
    let mark = set_cookies(&answer).into_iter().find(|line| line.starts_with("palisade-app-sid=")).unwrap();
    let mark = mark.split(';').next().unwrap().to_owned();
    assert_eq!(field(&answer, "cache-control"), Some("private, max-age=60"), "{answer}");

    let kept = world.send("GET", "/jar/", &format!("Cookie: {ann}; sid=app1; {mark}\r\n")).await;
    assert!(body_of(&kept).contains("cookie: sid=app1\r\n"), "{kept}");
    assert_eq!(set_cookies(&kept), [""; 0], "{kept}");

    let (bob, _) = world.sign_in("bob").await;
    for (target, cookies) in [
        ("/jar/", format!("{bob}; sid=app1; {mark}")),
        ("/jar/", format!("{ann}; sid=app1")),
        ("/jar/", format!("{ann}; sid=app2; {mark}")),
        // After the sign-out, where the app takes visitors without an account.
        ("/open/", format!("sid=app1; {mark}")),
    ] {
        let answer = world.send("GET", target, &format!("Cookie: x=y; {cookies}\r\n")).await;
        assert!(body_of(&answer).contains("x=y") && !body_of(&answer).contains("sid="), "{cookies} {answer}");
        assert!(set_cookies(&answer).iter().any(|line| line == expired), "{cookies} {answer}");
        assert_eq!(field(&answer, "cache-control"), Some("private, max-age=60"), "{answer}");
    }
    // What the app sets for Bob is his.
    let fields = format!("Cookie: {bob}; sid=app1; {mark}\r\n");
    let answer = world.send("GET", "/jar/?set=app3", &fields).await;
    let set = set_cookies(&answer);
    assert!(
        !set.iter().any(|line| line == expired) && set.iter().any(|line| line.contains("sid=app3")),
        "{set:?}"
    );
}
