//! The table: which rule decides, and what two servers could read as two rules' paths.

use std::time::Duration;

use super::super::request::{Headers, Host};
use super::super::route::{Allow, Auth, Carriers, Policy, Require};
use super::*;

struct NoHeaders;
impl Headers for NoHeaders {
    fn each<'a>(&'a self, _: &str, _: &mut dyn FnMut(&'a [u8])) {}
}

fn route(name: &str, host: Option<&str>, prefix: &str, methods: &[&str], auth: Auth) -> Route {
    Route {
        name: name.into(),
        index: 0,
        upstreams: Vec::new(),
        hosts: vec![host.map_or(HostPattern::Every, HostPattern::of)],
        paths: vec![PathPattern::parse(prefix).unwrap()],
        methods: methods.iter().map(|m| (*m).to_owned()).collect(),
        networks: Vec::new(),
        public: Vec::new(),
        policy: Policy { auth, require: Require::default(), carriers: Carriers::default(), issuers: vec![] },
        allow: Allow { encoded_slash: prefix == "/pkg", empty_segment: prefix == "/pkg" },
        after_expiry: Duration::ZERO,
        cors: None,
        browser: Default::default(),
    }
}

fn table() -> Table {
    Table::new(vec![
        route("root", None, "/", &[], Auth::None),
        route("admin", None, "/admin", &[], Auth::Required),
        route("pkg", None, "/pkg", &[], Auth::None),
        route("write", None, "/docs", &["POST", "PUT"], Auth::Required),
        route("read", None, "/docs", &["GET"], Auth::Optional),
        route("tenant", Some("*.example.com"), "/", &[], Auth::Required),
        route("home", Some("www.example.com"), "/", &[], Auth::None),
        route("nested", None, "/api/admin", &[], Auth::Required),
        route("cafe", None, "/caf%C3%A9", &[], Auth::Required),
        route("change", Some("rw.test"), "/", &["POST"], Auth::Required),
        route("look", Some("rw.test"), "/", &[], Auth::None),
        route("only", Some("only.test"), "/public", &[], Auth::None),
    ])
}

fn find(host: &str, method: &str, path: &str) -> Result<String, Refusal> {
    let request = Request {
        method,
        host: Host::parse(host.as_bytes()).unwrap(),
        path: Path::parse(path.as_bytes()).unwrap(),
        query: None,
        websocket: false,
        is_peer_trusted: false,
        client: None,
        headers: &NoHeaders,
    };
    table().find(&request).map(|found| found.entry.name.to_string())
}

#[test]
fn the_most_specific_host_then_prefix_then_method_wins() {
    for (host, method, path, name) in [
        ("a.test", "GET", "/", "root"),
        ("a.test", "GET", "/administrator", "root"),
        ("a.test", "GET", "/admin", "admin"),
        ("a.test", "GET", "/admin/", "admin"),
        ("a.test", "GET", "/admin/x", "admin"),
        ("a.test", "PUT", "/docs/1", "write"),
        ("a.test", "GET", "/docs/1", "read"),
        ("WWW.example.com", "GET", "/admin", "home"),
        ("x.example.com.", "GET", "/admin", "tenant"),
        ("example.com", "GET", "/x", "root"),
        ("a.test", "GET", "/caf%c3%a9/x", "cafe"),
    ] {
        assert_eq!(find(host, method, path).as_deref(), Ok(name), "{method} {host}{path}");
    }
}

#[test]
fn a_refused_method_does_not_fall_through_to_a_wider_route() {
    let refusal = find("a.test", "DELETE", "/docs/1");
    let allow = ["GET", "POST", "PUT"].map(String::from).to_vec();
    assert_eq!(refusal, Err(Refusal::Method { allow }));
}

#[test]
fn no_route_takes_trace_or_connect() {
    for method in ["TRACE", "CONNECT", "Trace"] {
        assert_eq!(find("a.test", method, "/"), Err(Refusal::Method { allow: vec![] }), "{method}");
    }
}

#[test]
fn slashes_that_are_not_separators_need_permission() {
    assert_eq!(find("a.test", "GET", "/pkg/@scope%2Fname").as_deref(), Ok("pkg"));
    assert_eq!(find("a.test", "GET", "/pkg//name").as_deref(), Ok("pkg"));
    let encoded = Refusal::Malformed(Malformed::EncodedSlash);
    assert_eq!(find("a.test", "GET", "/admin%2Fx"), Err(encoded));
    let empty = Refusal::Malformed(Malformed::EmptySegment);
    assert_eq!(find("a.test", "GET", "//admin"), Err(empty));
}

#[test]
fn a_path_that_a_lax_server_gives_to_another_route_is_refused() {
    let ambiguous = Err(Refusal::Malformed(Malformed::Ambiguous));
    for path in [
        "/ADMIN",
        "/Admin/x",
        "/admin;x",
        "/admin%23/public",
        "/admin%3Fx",
        "/%2561dmin",
        "/x/..%252fadmin",
        "/pkg/..%2F..%2Fadmin",
        "/pkg%2F..%2Fadmin",
    ] {
        let found = find("a.test", "GET", path);
        let slash = Err(Refusal::Malformed(Malformed::EncodedSlash));
        let dots = Err(Refusal::Malformed(Malformed::DotSegment));
        assert!(found == ambiguous || found == slash || found == dots, "{path}: {found:?}");
    }
    for path in ["/files/c%23.pdf", "/Readme", "/a;b=c/d", "/100%25"] {
        assert_eq!(find("a.test", "GET", path).as_deref(), Ok("root"), "{path}");
    }
}

#[test]
fn a_server_that_is_lax_in_one_way_only_is_minded_too() {
    for (host, method, path) in [
        // Case alone, where doing everything would climb out again.
        ("a.test", "GET", "/ADMIN/..;/public"),
        // Parameters dropped before anything is decoded.
        ("a.test", "GET", "/api;x%252Fy/admin"),
        ("a.test", "GET", "/api;%23/admin"),
        // A prefix that is written with escapes.
        ("a.test", "GET", "/CAF%C3%89"),
        ("a.test", "GET", "/Caf%C3%A9;x"),
        // A method that the narrower route refuses.
        ("a.test", "DELETE", "/DOCS/1"),
        ("a.test", "DELETE", "/docs;x/1"),
        // The case of a method.
        ("rw.test", "post", "/"),
        // Out of the only path that is served.
        ("only.test", "GET", "/public/..;/secret"),
        ("only.test", "GET", "/public/%252e%252e/secret"),
    ] {
        let found = find(host, method, path);
        assert!(matches!(found, Err(Refusal::Malformed(_))), "{method} {host}{path}: {found:?}");
    }
    assert_eq!(find("rw.test", "GET", "/").as_deref(), Ok("look"));
    assert_eq!(find("only.test", "GET", "/public/A;b/%25").as_deref(), Ok("only"));
}
