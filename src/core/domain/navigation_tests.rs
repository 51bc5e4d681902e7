//! What browsers, scripts, programs and bots send, as recorded from them.

use super::*;

struct Sent<'a>(&'a [(&'a str, &'a str)]);

impl Headers for Sent<'_> {
    fn each<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        for (_, value) in self.0.iter().filter(|(sent, _)| sent.eq_ignore_ascii_case(name)) {
            visit(value.as_bytes());
        }
    }
}

fn of(method: &str, path: &str, fields: &[(&str, &str)]) -> RequestKind {
    kind(&Asking { method, websocket: false, path, headers: &Sent(fields) })
}

const CHROME: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/137.0.0.0 Safari/537.36";
const CHROME_ACCEPT: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,\
                             application/signed-exchange;v=b3;q=0.7";
const SAFARI: &str = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/15.6 Safari/605.1.15";
const SAFARI_ACCEPT: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

#[test]
fn what_browsers_send_is_told_from_what_programs_send() {
    for fields in [
        &[("user-agent", "git/2.47.3"), ("accept", "*/*"), ("git-protocol", "version=2")][..],
        &[
            ("user-agent", "git-lfs/3.6.0 (GitHub; linux amd64; go 1.23)"),
            ("accept", "application/vnd.git-lfs+json"),
        ],
        &[("user-agent", "davfs2/1.7.0 neon/0.34.0")],
        &[("user-agent", "curl/8.14.1"), ("accept", "*/*")],
        &[],
    ] {
        assert!(is_of_no_browser(&Sent(fields)), "{fields:?}");
    }
    for field in [
        ("user-agent", CHROME),
        ("user-agent", SAFARI),
        ("user-agent", "mozilla/4.0"),
        ("cookie", "a=b"),
        ("origin", "null"),
        ("referer", "https://app.test/"),
        ("sec-fetch-mode", "cors"),
        ("sec-fetch-dest", "empty"),
        ("sec-fetch-site", "none"),
        ("sec-fetch-user", "?1"),
    ] {
        assert!(!is_of_no_browser(&Sent(&[("accept", "*/*"), field])), "{field:?}");
    }
}

#[test]
fn a_page_that_a_person_opens_is_a_navigation() {
    for (client, fields) in [
        (
            "Chrome over TLS",
            &[
                ("user-agent", CHROME),
                ("accept", CHROME_ACCEPT),
                ("upgrade-insecure-requests", "1"),
                ("sec-fetch-site", "none"),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-user", "?1"),
                ("sec-fetch-dest", "document"),
                ("accept-language", "de-DE,de;q=0.9"),
            ][..],
        ),
        (
            "Chrome without TLS",
            &[("user-agent", CHROME), ("accept", CHROME_ACCEPT), ("upgrade-insecure-requests", "1")],
        ),
        (
            "Firefox",
            &[
                ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:139.0) Gecko/20100101 Firefox/139.0"),
                ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
                ("sec-fetch-dest", "document"),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-user", "?1"),
                ("priority", "u=0, i"),
            ],
        ),
        ("Safari before fetch metadata", &[("user-agent", SAFARI), ("accept", SAFARI_ACCEPT)]),
        (
            "a web view of Android without TLS",
            &[("user-agent", CHROME), ("accept", CHROME_ACCEPT), ("x-requested-with", "com.example.app_1")],
        ),
        (
            "a web view of Android",
            &[
                ("accept", CHROME_ACCEPT),
                ("x-requested-with", "com.example.app"),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
            ],
        ),
        // A telephone's name is no bot's.
        (
            "a Cubot",
            &[("user-agent", "Mozilla/5.0 (Linux; Android 10; CUBOT_X18)"), ("accept", CHROME_ACCEPT)],
        ),
        (
            "w3m",
            &[("user-agent", "w3m/0.5.3"), ("accept", "text/html, text/*;q=0.5, image/*, application/*")],
        ),
        ("lynx", &[("accept", "text/html"), ("accept", "text/plain, text/sgml, text/css, */*;q=0.01")]),
    ] {
        for method in ["GET", "HEAD"] {
            assert_eq!(of(method, "/", fields), RequestKind::Navigation, "{client}");
        }
    }
}

#[test]
fn a_form_is_a_navigation_where_fetch_metadata_says_so() {
    let form = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("accept", CHROME_ACCEPT),
        ("sec-fetch-site", "same-origin"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
    ];
    assert_eq!(of("POST", "/", &form), RequestKind::Navigation);
    // Without it nothing tells a form from a program.
    assert_eq!(of("POST", "/", &form[..2]), RequestKind::Program);
}

#[test]
fn a_page_inside_another_one_is_a_frame() {
    for destination in ["iframe", "frame", "embed", "object", "fencedframe"] {
        let fields =
            [("accept", CHROME_ACCEPT), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", destination)];
        assert_eq!(of("GET", "/", &fields), RequestKind::Frame, "{destination}");
    }
}

#[test]
fn whatever_no_person_opens_is_a_programs() {
    let navigation =
        [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"), ("accept", CHROME_ACCEPT)];
    let with =
        |more: (&'static str, &'static str)| [navigation[0], navigation[1], navigation[2], more].to_vec();
    let cors = |more: &[(&'static str, &'static str)]| {
        [
            &[
                ("user-agent", CHROME),
                ("sec-fetch-mode", "cors"),
                ("sec-fetch-dest", "empty"),
                ("sec-fetch-site", "same-origin"),
            ],
            more,
        ]
        .concat()
    };
    for (client, fields) in [
        ("nothing", vec![]),
        ("curl", vec![("user-agent", "curl/8.14.1"), ("accept", "*/*")]),
        ("wget", vec![("user-agent", "Wget/1.25.0"), ("accept", "*/*"), ("accept-encoding", "identity")]),
        ("python-requests", vec![("user-agent", "python-requests/2.32"), ("accept", "*/*")]),
        ("fetch", cors(&[("accept", "*/*")])),
        ("axios", cors(&[("accept", "application/json, text/plain, */*")])),
        ("axios without TLS", vec![("user-agent", CHROME), ("accept", "application/json, text/plain, */*")]),
        (
            "jQuery, a page",
            cors(&[("accept", "text/html, */*; q=0.01"), ("x-requested-with", "XMLHttpRequest")]),
        ),
        (
            "jQuery, a page, without TLS",
            vec![("accept", "text/html, */*; q=0.01"), ("x-requested-with", "XMLHttpRequest")],
        ),
        (
            "htmx",
            cors(&[("accept", "*/*"), ("hx-request", "true"), ("hx-current-url", "https://app.test/x")]),
        ),
        ("htmx without TLS", vec![("accept", "text/html, */*"), ("hx-request", "true")]),
        (
            "Turbo, a visit",
            cors(&[("accept", "text/html, application/xhtml+xml"), ("x-turbo-request-id", "1")]),
        ),
        (
            "Turbo, a visit, without TLS",
            vec![("accept", "text/html, application/xhtml+xml"), ("x-turbo-request-id", "1")],
        ),
        ("Turbo, a frame", vec![("accept", "text/html, application/xhtml+xml"), ("turbo-frame", "inbox")]),
        ("Turbo, a form", vec![("accept", "text/vnd.turbo-stream.html, text/html, application/xhtml+xml")]),
        (
            "Inertia",
            vec![
                ("accept", "text/html, application/xhtml+xml"),
                ("x-inertia", "true"),
                ("x-requested-with", "XMLHttpRequest"),
            ],
        ),
        ("EventSource", cors(&[("accept", "text/event-stream"), ("cache-control", "no-cache")])),
        ("EventSource without TLS", vec![("user-agent", CHROME), ("accept", "text/event-stream")]),
        (
            "the script of a service worker",
            vec![
                ("sec-fetch-mode", "same-origin"),
                ("sec-fetch-dest", "serviceworker"),
                ("service-worker", "script"),
                ("accept", "*/*"),
            ],
        ),
        ("the script of a service worker, oddly", with(("service-worker", "script"))),
        ("a manifest", vec![("sec-fetch-mode", "cors"), ("sec-fetch-dest", "manifest"), ("accept", "*/*")]),
        (
            "an image",
            vec![
                ("sec-fetch-mode", "no-cors"),
                ("sec-fetch-dest", "image"),
                ("accept", "image/avif,image/webp,*/*;q=0.8"),
            ],
        ),
        ("a script", vec![("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "script"), ("accept", "*/*")]),
        ("prefetch", with(("sec-purpose", "prefetch"))),
        ("prerender", with(("sec-purpose", "prefetch;prerender"))),
        ("prefetch of older browsers", with(("purpose", "prefetch"))),
        ("prefetch of older Firefox", vec![("accept", SAFARI_ACCEPT), ("x-moz", "prefetch")]),
        ("the top sites of Safari", vec![("accept", SAFARI_ACCEPT), ("x-purpose", "preview")]),
        ("WhatsApp", vec![("user-agent", "WhatsApp/2.23.20.0 A"), ("accept", CHROME_ACCEPT)]),
        (
            "Slack",
            vec![
                ("user-agent", "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)"),
                ("accept", "*/*"),
                ("range", "bytes=0-32768"),
            ],
        ),
        (
            "iMessage",
            vec![
                (
                    "user-agent",
                    "Mozilla/5.0 (Macintosh) AppleWebKit/601.2.4 Version/9.0.1 Safari/601.2.4 facebookexternalhit/1.1 Facebot Twitterbot/1.0",
                ),
                ("accept", SAFARI_ACCEPT),
            ],
        ),
        (
            "LinkedIn",
            vec![("user-agent", "LinkedInBot/1.0 (compatible; Mozilla/5.0)"), ("accept", SAFARI_ACCEPT)],
        ),
        (
            "a bot that renders",
            with(("user-agent", "Mozilla/5.0 (compatible; Googlebot/2.1) Chrome/137.0.0.0")),
        ),
        (
            "gRPC",
            vec![
                ("content-type", "application/grpc+proto"),
                ("te", "trailers"),
                ("user-agent", "grpc-go/1.72"),
            ],
        ),
        ("gRPC, oddly", with(("content-type", "application/grpc"))),
        ("a mode without a destination", vec![("sec-fetch-mode", "navigate"), ("accept", CHROME_ACCEPT)]),
        ("a destination without a mode", vec![("sec-fetch-dest", "document"), ("accept", CHROME_ACCEPT)]),
        ("a site alone", vec![("sec-fetch-site", "none"), ("accept", CHROME_ACCEPT)]),
        ("two modes", with(("sec-fetch-mode", "cors"))),
        ("two destinations", with(("sec-fetch-dest", "image"))),
        ("another case", vec![("sec-fetch-mode", "Navigate"), ("sec-fetch-dest", "document")]),
    ] {
        assert_eq!(of("GET", "/", &fields), RequestKind::Program, "{client}");
    }
    for path in ["/favicon.ico", "/x/favicon.ico"] {
        assert_eq!(of("GET", path, &navigation), RequestKind::Program, "{path}");
    }
    let websocket = Asking { method: "GET", websocket: true, path: "/", headers: &Sent(&navigation) };
    assert_eq!(kind(&websocket), RequestKind::Program);
}

#[test]
fn a_page_is_preferred_only_where_nothing_else_is_as_good() {
    for good in [
        "text/html",
        "TEXT/HTML",
        "text/html;q=0.1",
        "text/html;level=1;q=0.5, */*;q=0.4",
        "text/html, application/json",
        "application/xhtml+xml, text/html",
        "application/json;q=0.9, text/html;q=0.91",
        "text/html;Q=1.000,*/*;q=1.0",
        ", text/html ,",
        CHROME_ACCEPT,
        SAFARI_ACCEPT,
    ] {
        assert!(prefers_html(good), "{good}");
    }
    for bad in [
        "",
        "*/*",
        "text/*",
        "text/html;q=0",
        "text/html;q=0.000",
        "application/json, text/html",
        "text/html;q=0.8, application/json",
        "text/html;q=0.8, */*;q=0.9",
        "text/html;q=",
        "text/html;q=2",
        "text/html;q=1.001",
        "text/html;q=-1",
        "text/html;q=0.1234",
        "text/html;q=0.+1",
        "text/html, */*;q=x",
        "text/htmlx",
        "text/html/x",
        "text/vnd.turbo-stream.html, text/html",
    ] {
        assert!(!prefers_html(bad), "{bad}");
    }
}

#[test]
fn a_script_says_which_page_it_runs_in() {
    let page_of = |fields: &[(&str, &str)]| page(&Sent(fields));
    let referer = ("referer", "https://app.test/list");
    assert_eq!(page_of(&[referer]).as_deref(), Some("https://app.test/list"));
    let current = ("hx-current-url", "https://app.test/now");
    assert_eq!(page_of(&[referer, current]).as_deref(), Some("https://app.test/now"));
    assert_eq!(page_of(&[]), None);
    assert_eq!(page_of(&[referer, referer]), None);
    assert!(is_htmx(&Sent(&[("hx-request", "true")])));
    assert!(!is_htmx(&Sent(&[("hx-request", "true"), ("hx-request", "true")])) && !is_htmx(&Sent(&[])));
}

/// Marsaglia's xorshift: the same requests in every run.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Of any pile of fields: what one of a browser's own fields says against a navigation stands, whatever else is there and
/// in whatever order, and nothing but the two right values makes one out of fetch metadata.
#[test]
fn no_field_more_makes_a_navigation() {
    const PILE: [(&str, &str); 20] = [
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-mode", "cors"),
        ("sec-fetch-dest", "document"),
        ("sec-fetch-dest", "empty"),
        ("sec-fetch-dest", "iframe"),
        ("sec-fetch-site", "same-origin"),
        ("sec-fetch-user", "?1"),
        ("sec-purpose", "prefetch"),
        ("purpose", "prefetch"),
        ("x-moz", "prefetch"),
        ("hx-request", "true"),
        ("turbo-frame", "x"),
        ("x-requested-with", "XMLHttpRequest"),
        ("accept", "text/html"),
        ("accept", "application/json"),
        ("accept", "*/*;q=0.1"),
        ("service-worker", "script"),
        ("content-type", "application/grpc"),
        ("user-agent", "Slackbot"),
        ("referer", "https://a.test/"),
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let mut seen = [0_usize; 3];
    for _ in 0..50_000 {
        let count = 1 + (next(&mut state) % 6) as usize;
        let fields: Vec<(&str, &str)> =
            (0..count).map(|_| PILE[(next(&mut state) % PILE.len() as u64) as usize]).collect();
        let method = ["GET", "HEAD", "POST"][(next(&mut state) % 3) as usize];
        let decided = of(method, "/", &fields);
        let count = |name: &str| fields.iter().filter(|(sent, _)| *sent == name).count();
        let values = |name: &str| {
            fields.iter().filter(|(sent, _)| *sent == name).map(|(_, value)| *value).collect::<Vec<_>>()
        };
        let against = [
            "sec-purpose",
            "purpose",
            "x-moz",
            "hx-request",
            "turbo-frame",
            "service-worker",
            "content-type",
            "user-agent",
        ];
        let is_against = against.iter().any(|name| count(name) > 0);
        let has_metadata = fields.iter().any(|(name, _)| name.starts_with("sec-fetch-"));
        let right = values("sec-fetch-mode") == ["navigate"] && values("sec-fetch-dest") == ["document"];
        let html = values("accept").iter().find(|accept| **accept != "*/*;q=0.1") == Some(&"text/html");
        let expected = if is_against {
            RequestKind::Program
        } else if has_metadata {
            match (values("sec-fetch-dest") == ["iframe"], right) {
                (true, _) => RequestKind::Frame,
                (false, true) => RequestKind::Navigation,
                (false, false) => RequestKind::Program,
            }
        } else if html && method != "POST" && count("x-requested-with") == 0 {
            RequestKind::Navigation
        } else {
            RequestKind::Program
        };
        assert_eq!(decided, expected, "{method} {fields:?}");
        seen[decided as usize] += 1;
        let mut turned = fields.clone();
        // Fields of different names may come in any order.
        turned.sort_by_key(|(name, _)| *name);
        assert_eq!(of(method, "/", &turned), decided, "{method} {fields:?}");
    }
    assert!(seen.iter().all(|count| *count > 100), "each kind occurs: {seen:?}");
}
