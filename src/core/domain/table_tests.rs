//! The table: which rule decides, and what two servers could read as two rules' paths.

use super::super::fixtures::{self, Dice, request};
use super::super::route::{Allow, Auth};
use super::*;

fn route(name: &str, host: Option<&str>, prefix: &str, methods: &[&str], auth: Auth) -> Route {
    Route {
        name: name.into(),
        hosts: vec![host.map_or(HostPattern::Every, HostPattern::of)],
        methods: methods.iter().map(|m| (*m).to_owned()).collect(),
        allow: Allow { encoded_slash: prefix == "/pkg", empty_segment: prefix == "/pkg" },
        ..fixtures::route(prefix, auth)
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

fn find_in(table: &Table, request: &Request<'_>) -> Result<(String, bool), Refusal> {
    table.find(request).map(|found| (found.entry.name.to_string(), found.is_open))
}

fn find(host: &str, method: &str, path: &str) -> Result<String, Refusal> {
    find_in(&table(), &request(host, method, path)).map(|(name, _)| name)
}

fn pattern(text: &str) -> PathPattern {
    PathPattern::parse(text).unwrap()
}

fn nets(texts: &[&str]) -> Vec<ipnet::IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn public(methods: &[&str], path: &str) -> super::super::route::Public {
    let methods = methods.iter().map(|method| (*method).to_owned()).collect();
    super::super::route::Public { methods, path: pattern(path) }
}

const AMBIGUOUS: Result<(String, bool), Refusal> = Err(Refusal::Malformed(Malformed::Ambiguous));

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

#[test]
fn a_name_of_spaces_alone_is_one_to_most_servers() {
    let table = Table::new(vec![
        route("pkg", None, "/pkg", &[], Auth::None),
        route("keys", None, "/pkg/*/keys", &[], Auth::Required),
    ]);
    let found = |path: &str| find_in(&table, &request("a.test", "GET", path)).map(|(name, _)| name);
    let ambiguous = Err(Refusal::Malformed(Malformed::Ambiguous));
    // Some servers drop the spaces, some drop the empty name, and some neither.
    for path in ["/pkg/%20/keys", "/pkg//%20/keys/x", "/pkg//%20%20/keys", "/pkg//a/keys", "/pkg//a%20/keys"]
    {
        assert_eq!(found(path), ambiguous, "{path}");
    }
    assert_eq!(found("/pkg//%20/key"), Ok("pkg".to_owned()));
}

/// Routes whose policies all differ, each named after its first path.
fn patterns(texts: &[&[&str]]) -> Table {
    let of = |(index, paths): (usize, &&[&str])| {
        let mut one = route(paths[0], None, paths[0], &[], Auth::Required);
        one.paths = paths.iter().map(|path| pattern(path)).collect();
        one.policy.require.scopes = vec![index.to_string()];
        one
    };
    Table::new(texts.iter().enumerate().map(of).collect())
}

#[test]
fn the_narrowest_pattern_decides() {
    let table = patterns(&[
        &["/"],
        &["/projects", "/teams"],
        &["/projects/*/hooks"],
        &["/projects/x/hooks/open"],
        &["=/projects/*"],
        &["/*.js"],
        &["/a*.js"],
        &["=/robots.txt"],
        &["=/dir/"],
        &["/*/logs"],
        &["/projects/logs"],
        &["/teams/logs"],
        &["/*.js/logs"],
        &["/a*.js/logs"],
    ]);
    for (path, name) in [
        ("/", "/"),
        ("/x", "/"),
        ("/projects", "/projects"),
        ("/projects/", "/projects"),
        ("/projects/1", "=/projects/*"),
        ("/projects/1/2", "/projects"),
        ("/projects/1/hooks", "/projects/*/hooks"),
        ("/projects/1/hooks/2", "/projects/*/hooks"),
        ("/projects/x/hooks/open/y", "/projects/x/hooks/open"),
        ("/projects/x/hooks/openx", "/projects/*/hooks"),
        ("/teams/x", "/projects"),
        ("/teams/logs", "/teams/logs"),
        ("/x/logs/y", "/*/logs"),
        ("/x.js/y", "/*.js"),
        ("/a.js/y", "/a*.js"),
        ("/a.js/logs", "/a*.js/logs"),
        ("/b.js/logs", "/*.js/logs"),
        ("/robots.txt", "=/robots.txt"),
        ("/robots.txt/x", "/"),
        ("/dir/", "=/dir/"),
        ("/dir/x", "/"),
    ] {
        let found = find_in(&table, &request("a.test", "GET", path));
        assert_eq!(found, Ok((name.to_owned(), false)), "{path}");
    }
    // To some servers a slash at the end of a path changes nothing, and to some its case.
    for path in [
        "/robots.txt/",
        "/projects/1/",
        "/dir",
        "/projects/1/HOOKS",
        "/Robots.txt",
        "/B.JS",
        "/Dir/",
        "/DIR",
        "/Projects/1",
    ] {
        assert_eq!(find_in(&table, &request("a.test", "GET", path)), AMBIGUOUS, "{path}");
    }
    for (path, name) in
        [("/projects/A/B", "/projects"), ("/X", "/"), ("/projects/A/hooks/B", "/projects/*/hooks")]
    {
        assert_eq!(find_in(&table, &request("a.test", "GET", path)), Ok((name.to_owned(), false)), "{path}");
    }
}

#[test]
fn a_host_without_a_place_for_the_path_leaves_it_to_the_next_wider_one() {
    let at = |name: &str, host: &str, path: &str| route(name, Some(host), path, &[], Auth::Required);
    let mut both = at("both", "one.a.test", "/two");
    both.hosts.push(HostPattern::of("two.test"));
    let table = Table::new(vec![
        at("exact", "x.y.a.test", "=/only"),
        at("deep", "*.y.a.test", "/deep"),
        at("below", "*.a.test", "/below"),
        at("below-all", "*.a.test", "/below/x/*"),
        both,
        route("every", None, "/every", &[], Auth::Required),
    ]);
    for (host, path, name) in [
        ("x.y.a.test", "/only", Some("exact")),
        ("x.y.a.test", "/deep", Some("deep")),
        ("x.y.a.test", "/below/x/y", Some("below-all")),
        ("x.y.a.test", "/below/x", Some("below")),
        ("x.y.a.test", "/every", Some("every")),
        ("z.y.a.test", "/only", None),
        ("y.a.test", "/deep", None),
        ("a.test", "/below", None),
        ("one.a.test", "/two", Some("both")),
        ("one.a.test", "/below", Some("below")),
        ("two.test", "/two", Some("both")),
        ("two.test", "/below", None),
        ("b.test", "/every/x", Some("every")),
    ] {
        let found = find_in(&table, &request(host, "GET", path)).map(|(name, _)| name);
        assert_eq!(found, name.map(str::to_owned).ok_or(Refusal::NoRoute), "{host}{path}");
    }
}

#[test]
fn the_network_of_the_client_comes_before_the_method() {
    let with = |name: &str, path: &str, methods: &[&str], networks: &[&str]| {
        let mut one = route(name, None, path, methods, Auth::Required);
        one.networks = nets(networks);
        one.policy.require.scopes = vec![name.to_owned()];
        one
    };
    let table = Table::new(vec![
        with("app", "/", &[], &[]),
        with("read", "/", &["GET"], &[]),
        with("home", "/", &[], &["192.168.0.0/16", "fd00::/8"]),
        with("desk", "/", &["GET"], &["192.168.1.7/32"]),
        with("vpn", "/admin", &["GET", "POST"], &["10.0.0.0/8"]),
        with("ops", "/admin", &["DELETE"], &["10.1.0.0/16"]),
    ]);
    assert!(table.has_networks());
    let name = |name: &str| Ok((name.to_owned(), false));
    let method =
        |allow: &[&str]| Err(Refusal::Method { allow: allow.iter().map(|m| (*m).to_owned()).collect() });
    for (client, method_of, path, want) in [
        (Some("6.6.6.6"), "GET", "/", name("read")),
        (Some("6.6.6.6"), "POST", "/", name("app")),
        (Some("192.168.1.8"), "GET", "/", name("home")),
        (Some("192.168.1.7"), "GET", "/", name("desk")),
        (Some("192.168.1.7"), "POST", "/", name("home")),
        (Some("fd12::1"), "GET", "/x", name("home")),
        // It is in no network.
        (None, "GET", "/", name("read")),
        (None, "GET", "/admin", Err(Refusal::Network)),
        // A wider place is no fallback.
        (Some("6.6.6.6"), "GET", "/admin/x", Err(Refusal::Network)),
        (Some("192.168.1.7"), "GET", "/admin", Err(Refusal::Network)),
        (Some("10.2.0.1"), "POST", "/admin", name("vpn")),
        (Some("10.2.0.1"), "DELETE", "/admin", method(&["GET", "POST"])),
        (Some("10.1.0.1"), "DELETE", "/admin", name("ops")),
        (Some("10.1.0.1"), "GET", "/admin", name("vpn")),
        (Some("10.1.0.1"), "PUT", "/admin", method(&["DELETE", "GET", "POST"])),
        // What a lax server reads as the path of the other place is refused whatever the client.
        (Some("10.1.0.1"), "GET", "/ADMIN", AMBIGUOUS),
        (Some("6.6.6.6"), "GET", "/Admin;x", AMBIGUOUS),
    ] {
        let client = client.map(|text| text.parse().unwrap());
        let request = Request { client, ..request("a.test", method_of, path) };
        assert_eq!(find_in(&table, &request), want, "{client:?} {method_of} {path}");
    }
    // Behind one reading lies a network that the client is not in.
    let closed = Table::new(vec![with("app", "/", &[], &[]), {
        let mut same = with("app", "/inner", &[], &["10.0.0.0/8"]);
        same.name = "inner".into();
        same
    }]);
    for (client, want) in [("10.0.0.1", name("app")), ("6.6.6.6", AMBIGUOUS)] {
        let request = Request { client: Some(client.parse().unwrap()), ..request("a.test", "GET", "/INNER") };
        assert_eq!(find_in(&closed, &request), want, "{client}");
    }
}

#[test]
fn what_is_public_opens_its_methods_and_takes_nothing_from_other_rules() {
    let mut read = route("read", None, "/", &["GET", "HEAD"], Auth::Required);
    read.public = vec![
        public(&["GET", "HEAD"], "/static"),
        public(&["POST"], "/static/up"),
        public(&["GET"], "=/robots.txt"),
    ];
    let mut write = route("write", None, "/", &[], Auth::Required);
    write.public =
        vec![public(&["POST"], "=/hook"), public(&["POST"], "/static/up"), public(&["GET"], "/*/logo.png")];
    let mut home = route("home", None, "/", &["PUT"], Auth::None);
    home.networks = nets(&["10.0.0.0/8"]);
    let mut admin = route("admin", None, "/admin", &[], Auth::Required);
    admin.policy.require.scopes = vec!["admin".to_owned()];
    let mut stray = route("stray", None, "/stray", &[], Auth::Required);
    stray.public = vec![public(&["GET"], "/admin"), public(&["GET"], "/")];
    let table = Table::new(vec![read, write, home, admin, stray]);
    for (method, path, want) in [
        ("GET", "/static", ("read", true)),
        ("HEAD", "/static/x/y", ("read", true)),
        ("GET", "/static/up/x", ("read", true)),
        ("GET", "/staticx", ("read", false)),
        ("POST", "/static/x", ("write", false)),
        ("POST", "/static/up/x", ("write", true)),
        ("DELETE", "/static", ("write", false)),
        ("GET", "/robots.txt", ("read", true)),
        ("HEAD", "/robots.txt", ("read", false)),
        ("GET", "/robots.txt/x", ("read", false)),
        ("GET", "/robots.txt/", ("read", false)),
        ("POST", "/hook", ("write", true)),
        ("GET", "/hook", ("read", false)),
        ("PUT", "/static", ("write", false)),
        // Another rule of the same place takes GET.
        ("GET", "/x/logo.png", ("read", false)),
        ("GET", "/admin/logo.png", ("admin", false)),
        ("GET", "/admin", ("admin", false)),
        ("GET", "/stray", ("stray", true)),
        ("GET", "/", ("read", false)),
        ("get", "/stray", ("stray", false)),
    ] {
        let found = find_in(&table, &request("a.test", method, path));
        assert_eq!(found, Ok((want.0.to_owned(), want.1)), "{method} {path}");
    }
    let client = Some([10, 0, 0, 1].into());
    let found = find_in(&table, &Request { client, ..request("a.test", "PUT", "/static") });
    assert_eq!(found, Ok(("home".to_owned(), false)));
    let websocket = Request { websocket: true, ..request("a.test", "GET", "/static") };
    assert_eq!(find_in(&table, &websocket), Ok(("read".to_owned(), false)));
    // What passes without a caller is read as open by every server; what does not may be read as anything of its policy.
    for path in ["/static;x", "/static/%2e%2e;/x", "/static/..%2Fx", "/robots.txt%20"] {
        let found = find_in(&table, &request("a.test", "GET", path));
        assert!(!matches!(found, Ok((_, true))), "{path}: {found:?}");
    }
    assert_eq!(find_in(&table, &request("a.test", "GET", "/STATIC")), Ok(("read".to_owned(), false)));
}

#[test]
fn where_public_patterns_overlap_what_both_take_is_open_for_both() {
    let mut app = route("app", None, "/", &[], Auth::Required);
    app.paths.push(pattern("/x"));
    app.public = vec![public(&["GET"], "/*/open"), public(&["POST"], "/a/*"), public(&["PUT"], "/*.js")];
    let table = Table::new(vec![app]);
    for (method, path, is_open) in [
        ("GET", "/a/open", true),
        ("POST", "/a/open", true),
        ("PUT", "/a/open", false),
        ("GET", "/a/b", false),
        ("POST", "/a/b", true),
        ("POST", "/b/open", false),
        ("GET", "/b.js/open", true),
        ("PUT", "/b.js/open", true),
        // The place `/x` is the app's own, too.
        ("GET", "/x/open", true),
        ("GET", "/x/y", false),
    ] {
        let found = find_in(&table, &request("a.test", method, path));
        assert_eq!(found, Ok(("app".to_owned(), is_open)), "{method} {path}");
    }
}

#[test]
fn what_acts_on_a_collection_reaches_what_lies_below_it() {
    let mut app = route("app", None, "/", &[], Auth::Required);
    app.public = vec![public(&["COPY"], "/open/public")];
    let closed = |path: &str| {
        let mut closed = route(path, None, path, &[], Auth::Required);
        closed.policy.require.scopes = vec!["more".to_owned()];
        closed
    };
    let table = Table::new(vec![app, closed("/tree/*/closed"), closed("=/files/one"), closed("=/alone")]);
    for (path, covers) in [
        ("/", true),
        ("/tree", true),
        ("/tree/x", true),
        ("/tree/x/", true),
        ("/tree/x/open", false),
        ("/tree/x/closed/y", false),
        ("/files", true),
        ("/files/two", false),
        ("/x", false),
        // What lies below an exact path is another place's.
        ("/alone", true),
        // A closed decision reaches what is open; an open one does not reach what is closed.
        ("/open", false),
        ("/open/public", false),
    ] {
        assert_eq!(table.covers_another(&request("a.test", "COPY", path), path), covers, "{path}");
    }
    let mut half = route("half", None, "/", &[], Auth::Required);
    half.public = vec![public(&["COPY"], "=/open")];
    let half = Table::new(vec![half]);
    assert!(half.covers_another(&request("a.test", "COPY", "/open"), "/open"));
}

/// Patterns of one host without any two that overlap without their meet.
fn decided(dice: &mut Dice) -> Vec<PathPattern> {
    const SEGMENTS: [&str; 8] = ["a", "b", "ab", "*", "a*", "*b", "a*b", "a"];
    let mut patterns: Vec<PathPattern> = Vec::new();
    for _ in 0..dice.below(10) {
        let path: String = (0..dice.below(4)).map(|_| format!("/{}", SEGMENTS[dice.below(8)])).collect();
        let exact = if dice.below(3) == 0 { "=" } else { "" };
        let slash = if path.is_empty() || (!exact.is_empty() && dice.below(4) == 0) { "/" } else { "" };
        let mut more = vec![pattern(&format!("{exact}{path}{slash}"))];
        let mut next = patterns.clone();
        while let Some(one) = more.pop() {
            if next.contains(&one) {
                continue;
            }
            let overlapping: Vec<PathPattern> =
                next.iter().filter(|other| other.relation(&one) == Relation::Overlapping).cloned().collect();
            let meets: Option<Vec<PathPattern>> = overlapping.iter().map(|other| other.meet(&one)).collect();
            let Some(meets) = meets else {
                next.clone_from(&patterns);
                break;
            };
            more.extend(meets);
            next.push(one);
        }
        patterns = next;
    }
    patterns
}

#[test]
fn the_tree_finds_what_a_look_at_every_pattern_finds() {
    const HOSTS: [Option<&str>; 5] =
        [None, Some("*.test"), Some("*.a.test"), Some("x.a.test"), Some("x.test")];
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let mut found = 0;
    for _ in 0..400 {
        let mut routes: Vec<Route> = Vec::new();
        for host in HOSTS {
            for path in decided(&mut dice) {
                routes.push(route(&format!("{host:?} {path}"), host, path.as_str(), &[], Auth::None));
            }
        }
        // The order of the file decides nothing.
        for at in (1..routes.len()).rev() {
            routes.swap(at, dice.below(at + 1));
        }
        let table = Table::new(routes.clone());
        for _ in 0..60 {
            const NAMES: [&str; 7] = ["a", "b", "ab", "aab", "c", "abb", ""];
            let host = ["x.a.test", "x.test", "y.x.a.test", "test", "b.test"][dice.below(5)];
            let path: String = (0..1 + dice.below(4)).map(|_| format!("/{}", NAMES[dice.below(7)])).collect();
            let taking =
                || routes.iter().filter(|route| route.takes_host(host) && route.paths[0].takes(&path));
            let host_of = |route: &&Route| {
                taking().all(|other| {
                    matches!(route.hosts[0].relation(&other.hosts[0]), Relation::Same | Relation::Narrower)
                })
            };
            let of_host = || taking().filter(host_of);
            let linear = of_host().find(|route| {
                of_host().all(|other| {
                    matches!(route.paths[0].relation(&other.paths[0]), Relation::Same | Relation::Narrower)
                })
            });
            assert_eq!(taking().next().is_some(), linear.is_some(), "undecided: {host}{path}");
            found += usize::from(linear.is_some());
            let tree = table.of_path(host, &path);
            assert_eq!(tree.map(|route| &route.name), linear.map(|route| &route.name), "{host}{path}");
        }
    }
    assert!(found > 5_000, "{found}");
}
