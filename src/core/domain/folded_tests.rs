//! Under which patterns servers may see a path.

use super::super::reading::MAX_DELIMITERS;
use super::*;

fn pattern(text: &str) -> PathPattern {
    PathPattern::parse(text).unwrap()
}

fn seen(path: &str, from: &str, known: &[&str]) -> Vec<String> {
    let mut patterns = FoldedPatterns::new();
    for (index, text) in known.iter().enumerate() {
        patterns.insert(&pattern(text), index);
    }
    let reading = PathReading::of(path).unwrap();
    let certain = certain(&pattern(from), &reading);
    let mut seen: Vec<String> =
        patterns.seen(&reading, &certain).unwrap().into_iter().map(|index| known[index].to_owned()).collect();
    seen.sort();
    seen
}

#[test]
fn every_choice_of_a_server_is_followed() {
    let known = ["/", "/admin", "/api", "/api/admin", "/caf%C3%A9", "/x", "/x/y"];
    for (path, from, expected) in [
        ("/a/b", "/", &["/"][..]),
        ("/ADMIN", "/", &["/", "/admin"]),
        ("/admin;x=1/y", "/", &["/", "/admin"]),
        ("/admin%23/public", "/", &["/", "/admin"]),
        ("/admin.%20/public", "/", &["/", "/admin"]),
        ("/;a/admin", "/", &["/", "/admin"]),
        ("/a;x/admin", "/", &["/"]),
        // Parameters that end where they did before they were decoded, or do after.
        ("/api;x%252Fy/admin", "/", &["/", "/api", "/api/admin"]),
        ("/api;x%2Fadmin", "/", &["/", "/api", "/api/admin"]),
        ("/api;%23/admin", "/", &["/", "/api", "/api/admin"]),
        ("/%3B%255C.+%252fadmin;", "/", &["/", "/admin"]),
        ("/x%3F/y", "/", &["/", "/x"]),
        ("/x%2Fy", "/", &["/", "/x", "/x/y"]),
        ("/x//y", "/", &["/", "/x", "/x/y"]),
        // Of another host.
        ("//host/admin", "/", &["/", "/admin"]),
        ("/%2F%5Chost%2Fadmin", "/", &["/", "/admin"]),
        ("/CAF%C3%89", "/", &["/", "/caf%C3%A9"]),
        // What is certain stays so.
        ("/caf%C3%A9/A", "/caf%C3%A9", &["/caf%C3%A9"]),
        ("/admin/A;x", "/admin", &["/admin"]),
        ("/admin/..x%2F", "/admin", &["/admin"]),
    ] {
        assert_eq!(seen(path, from, &known), expected, "{path}");
    }
}

#[test]
fn many_delimiters_cost_little() {
    let path = format!("/a{}", ";%2Fa".repeat(MAX_DELIMITERS / 2));
    let known = ["/a", "/a/a", "/a/a/a", "/a/a/a/a"];
    assert_eq!(seen(&path, "/", &known).len(), 4);
}

#[test]
fn a_pattern_that_ends_in_what_servers_drop_is_seen_without_it() {
    let known = ["/", "/closed.", "/shut%20", "/a%2Fb"];
    for (path, expected) in [
        ("/closed", &["/", "/closed."][..]),
        ("/closed%2E%20/x", &["/", "/closed."]),
        ("/shut", &["/", "/shut%20"]),
        ("/A%2Fb", &["/", "/a%2Fb"]),
        ("/a/b", &["/", "/a%2Fb"]),
    ] {
        assert_eq!(seen(path, "/", &known), expected, "{path}");
    }
    // What has no such end is read in one way only.
    assert_eq!(seen("/closed./x", "/closed.", &known), ["/", "/closed."]);
    assert_eq!(seen("/a%2Fb/x", "/a%2Fb", &known), ["/a%2Fb"]);
}

#[test]
fn a_wildcard_takes_what_any_server_takes_for_a_segment() {
    let known = ["/", "/p/*/hooks", "/*.js", "=/p/*", "/a*9"];
    for (path, expected) in [
        ("/p/x;y/hooks", &["/", "/p/*/hooks", "=/p/*"][..]),
        ("/p/x%2Fy/hooks", &["/", "/p/*/hooks"]),
        ("/p/x%2Fhooks", &["/", "/p/*/hooks", "=/p/*"]),
        ("/p/x%23/y/hooks", &["/", "=/p/*"]),
        ("/p/;/x/hooks", &["/", "/p/*/hooks"]),
        ("/p/%20/hooks", &["/", "/p/*/hooks", "=/p/*"]),
        ("/x.js;y", &["/", "/*.js"]),
        ("/x;y.js", &["/", "/*.js"]),
        ("/x.js%20", &["/", "/*.js"]),
        ("/x%2F.js", &["/", "/*.js"]),
        // A `%` that stands for itself may begin an escape to a server that decodes once more.
        ("/x%252Ejs", &["/", "/*.js", "/a*9"]),
        ("/aX%C3%89", &["/", "/a*9"]),
        ("/bX%C3%89", &["/"]),
    ] {
        assert_eq!(seen(path, "/", &known), expected, "{path}");
    }
}

#[test]
fn a_pattern_that_may_be_the_host_of_a_reference_is_read_as_one() {
    let known = ["/", "/%2Fhost", "/admin"];
    assert_eq!(seen("/%2Fhost/admin", "/%2Fhost", &known), ["/", "/%2Fhost", "/admin"]);
}

#[test]
fn a_path_with_too_many_readings_is_not_read_to_the_end() {
    let mut patterns = FoldedPatterns::new();
    // Each segment either way, so that a name leads to two nodes at each depth.
    for index in 0..256 {
        let segments = (0..8).map(|bit| if index >> bit & 1 == 0 { "/*" } else { "/a*" });
        patterns.insert(&pattern(&segments.collect::<String>()), index);
    }
    let seen = |names: usize| {
        // To a server that resolves references any of the names may be the host's.
        let reading = PathReading::of(&format!("//{}", "a/".repeat(names))).unwrap();
        patterns.seen(&reading, &certain(&PathPattern::root(), &reading))
    };
    assert_eq!(seen(20).map(|owners| owners.len()), Some(256));
    assert_eq!(seen(2000), None);
}
