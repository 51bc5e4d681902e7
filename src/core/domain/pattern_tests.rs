//! Patterns, alone and in pairs: what `relation` and `meet` say is held against every path of a small world.

use super::*;

fn pattern(text: &str) -> PathPattern {
    PathPattern::parse(text).unwrap_or_else(|fault| panic!("{text}: {fault}"))
}

/// The same relation, seen from the other pattern.
const fn reversed(relation: Relation) -> Relation {
    match relation {
        Relation::Narrower => Relation::Wider,
        Relation::Wider => Relation::Narrower,
        same => same,
    }
}

#[test]
fn a_pattern_takes_whole_segments() {
    for (text, taken, left) in [
        ("/", &["/", "/a", "/a/", "//", "/a/b"][..], &["", "a"][..]),
        ("/api", &["/api", "/api/", "/api/x", "/api//x"], &["/", "/apix", "/ap", "/x/api", "/API"]),
        ("=/", &["/"], &["/a", "//"]),
        ("=/a", &["/a"], &["/a/", "/a/b", "/", "/ab"]),
        ("=/a/", &["/a/"], &["/a", "/a/b", "/a//"]),
        ("/*", &["/a", "/a/b", "/a/"], &["/", "//", "//a"]),
        ("=/*", &["/a", "/*"], &["/", "/a/", "/a/b"]),
        ("/*.js", &["/a.js", "/.js", "/a.js/x", "/%C3%A9.js"], &["/a.jsx", "/js", "/x/a.js", "/a.js."]),
        ("=/*.js", &["/a.js"], &["/a.js/", "/a.js/x"]),
        ("/x*", &["/x", "/xy", "/xy/z"], &["/", "/ax", "/X"]),
        ("/ab*ba", &["/abba", "/ab-ba"], &["/aba", "/ab", "/ba"]),
        (
            "/projects/*/hooks",
            &["/projects/1/hooks", "/projects/1/hooks/2"],
            &["/projects/hooks", "/projects//hooks", "/projects/1/2/hooks", "/projects/1/hooksx"],
        ),
        // The star takes whole escapes.
        ("/*9.js", &["/9.js", "/a9.js", "/%C3%A99.js"], &["/%C3%A9.js"]),
        ("/*A9.js", &["/A9.js"], &["/%C3%A9.js"]),
        ("/a%2Ab", &["/a%2Ab"], &["/a*b", "/ab", "/axb"]),
    ] {
        let pattern = pattern(text);
        for path in taken {
            assert!(pattern.takes(path), "{text} takes {path}");
        }
        for path in left {
            assert!(!pattern.takes(path), "{text} does not take {path}");
        }
        assert_eq!(pattern.to_string(), text);
    }
}

#[test]
fn a_text_that_is_no_pattern_says_what_is_right() {
    let normal = |text: &str| PatternFault::NotNormal { normal: text.to_owned() };
    let slash = |without: &str, exact: &str| PatternFault::TrailingSlash {
        without: without.to_owned(),
        exact: exact.to_owned(),
    };
    for (text, fault) in [
        ("", PatternFault::Path(Malformed::Target)),
        ("=", PatternFault::Path(Malformed::Target)),
        ("api", PatternFault::Path(Malformed::Target)),
        ("==/x", PatternFault::Path(Malformed::Target)),
        ("/a/../b", PatternFault::Path(Malformed::DotSegment)),
        ("=/%2e", PatternFault::Path(Malformed::DotSegment)),
        ("/%*41", PatternFault::Path(Malformed::Escape)),
        ("/a%2*", PatternFault::Path(Malformed::Escape)),
        ("/a?b", PatternFault::Path(Malformed::Byte)),
        ("/%61", normal("/a")),
        ("=/%2a", normal("=/%2A")),
        ("/api/", slash("/api", "=/api/")),
        ("//", slash("/", "=//")),
        ("/a*b*", PatternFault::Stars),
        ("/**", PatternFault::Stars),
        ("/x/**/y", PatternFault::Stars),
        ("/%25*", PatternFault::Delimiter),
        ("/*;v", PatternFault::Delimiter),
        ("/*%2Fx", PatternFault::Delimiter),
        ("/*.", PatternFault::Trailing),
        ("/a*%20", PatternFault::Trailing),
        ("/%C3*", PatternFault::Character),
        ("/*%A9", PatternFault::Character),
    ] {
        assert_eq!(PathPattern::parse(text), Err(fault), "{text}");
    }
    for text in ["/*%C3%A9", "/a;b/*", "/%25/*", "/.*"] {
        assert!(PathPattern::parse(text).is_ok(), "{text}");
    }
}

#[test]
fn the_start_is_the_literal_part() {
    for (text, start) in [
        ("/", "/"),
        ("=/", "/"),
        ("/a/b", "/a/b"),
        ("=/a/", "/a/"),
        ("/*", "/"),
        ("/a/*/b", "/a"),
        ("=/a/b/*.js", "/a/b"),
    ] {
        assert_eq!(pattern(text).start(), start, "{text}");
    }
}

#[test]
fn pairs_meet_where_both_take_a_path() {
    for (one, two, relation, meet) in [
        ("/a", "/b", Relation::Disjoint, None),
        ("/a", "/a", Relation::Same, Some("/a")),
        ("/a", "/", Relation::Narrower, Some("/a")),
        ("=/a", "/a", Relation::Narrower, Some("=/a")),
        ("=/", "/", Relation::Narrower, Some("=/")),
        ("=/a", "/a/b", Relation::Disjoint, None),
        ("=/a", "=/a/", Relation::Disjoint, None),
        ("/a/*", "/*/b", Relation::Overlapping, Some("/a/b")),
        ("/a/*", "=/*/*", Relation::Overlapping, Some("=/a/*")),
        ("/*/b", "/a", Relation::Overlapping, Some("/a/b")),
        ("/a*", "/*.js", Relation::Overlapping, Some("/a*.js")),
        ("/ab*", "/*bc", Relation::Overlapping, None),
        ("/ab*", "/*ab", Relation::Overlapping, None),
        ("/aa*", "/*aa", Relation::Overlapping, None),
        ("/ab*c", "/a*bc", Relation::Overlapping, None),
        ("/a*", "/ab*", Relation::Wider, Some("/ab*")),
        ("/a*b", "/c*b", Relation::Disjoint, None),
        ("/*", "/*.js", Relation::Wider, Some("/*.js")),
        ("=/*", "=/", Relation::Disjoint, None),
    ] {
        let (one, two) = (pattern(one), pattern(two));
        assert_eq!(one.relation(&two), relation, "{one} {two}");
        assert_eq!(two.relation(&one), reversed(relation), "{two} {one}");
        assert_eq!(one.meet(&two), meet.map(pattern), "{one} {two}");
    }
}

/// Every pattern and every path of up to three segments of these.
fn texts(segments: &[&str]) -> Vec<String> {
    let mut texts = vec![String::new()];
    let mut longest = texts.clone();
    for _ in 0..3 {
        longest = longest
            .iter()
            .flat_map(|start| segments.iter().map(move |segment| format!("{start}/{segment}")))
            .collect();
        texts.extend(longest.clone());
    }
    texts
}

#[test]
fn relations_and_meets_hold_for_every_path_of_a_small_world() {
    let paths: Vec<String> =
        texts(&["", "a", "ab", "b", "ba", "aba"]).into_iter().filter(|path| !path.is_empty()).collect();
    let shorter = |text: &String| text.matches('/').count() <= 2;
    let mut patterns = vec![pattern("/")];
    for text in texts(&["", "a", "ab", "*", "a*", "*a", "*ba", "ab*"]).iter().filter(|text| shorter(text)) {
        patterns.extend(
            [text.clone(), format!("={text}")].iter().filter_map(|text| PathPattern::parse(text).ok()),
        );
    }
    let taken: Vec<Vec<bool>> =
        patterns.iter().map(|pattern| paths.iter().map(|path| pattern.takes(path)).collect()).collect();
    let mut met = 0;
    for (one, by_one) in patterns.iter().zip(&taken) {
        for (two, by_two) in patterns.iter().zip(&taken) {
            let (relation, meet) = (one.relation(two), one.meet(two));
            assert_eq!(two.relation(one), reversed(relation));
            let pairs = || by_one.iter().zip(by_two);
            let both = pairs().any(|(one, two)| *one && *two);
            let only_one = pairs().any(|(one, two)| *one && !two);
            let only_two = pairs().any(|(one, two)| !one && *two);
            let holds = match relation {
                Relation::Disjoint => !both,
                Relation::Same => both && !only_one && !only_two,
                Relation::Narrower => both && !only_one && only_two,
                Relation::Wider => both && only_one && !only_two,
                Relation::Overlapping => both && only_one && only_two,
            };
            // What only longer segments tell apart, the paths of this world do not.
            let is_told = ["*ba", "ab*"]
                .iter()
                .all(|part| !one.as_str().contains(part) || !two.as_str().contains(part));
            assert!(holds || (!is_told && relation == Relation::Overlapping), "{one} {two}: {relation:?}");
            assert_eq!(relation == Relation::Same, one == two, "{one} {two}");
            if let Some(meet) = meet {
                met += 1;
                assert_eq!(PathPattern::parse(meet.as_str()).as_ref(), Ok(&meet));
                for (path, (one_takes, two_takes)) in paths.iter().zip(pairs()) {
                    assert_eq!(
                        meet.takes(path),
                        *one_takes && *two_takes,
                        "{one} and {two} at {path}: {meet}"
                    );
                }
            } else {
                assert!(matches!(relation, Relation::Disjoint | Relation::Overlapping), "{one} {two}");
            }
            match one.common_path(two) {
                Some(path) => assert!(one.takes(&path) && two.takes(&path), "{one} {two}: {path}"),
                None => assert_eq!(relation, Relation::Disjoint, "{one} {two}"),
            }
        }
    }
    assert!(met > 1_000, "{met}");
}

#[test]
fn hosts_are_one_or_those_below_or_every_one() {
    let (every, below, deep) =
        (HostPattern::Every, HostPattern::of("*.example.com"), HostPattern::of("*.a.example.com"));
    let (exact, other) = (HostPattern::of("x.example.com"), HostPattern::of("example.com"));
    assert!(below.takes("x.example.com") && below.takes("a.b.example.com"));
    assert!(!below.takes("example.com") && !below.takes(".example.com") && !below.takes("xexample.com"));
    assert!(exact.takes("x.example.com") && !exact.takes("x.example.com.evil.test") && every.takes("b.test"));
    for (one, two, relation) in [
        (&below, &every, Relation::Narrower),
        (&deep, &below, Relation::Narrower),
        (&exact, &below, Relation::Narrower),
        (&exact, &deep, Relation::Disjoint),
        (&exact, &exact, Relation::Same),
        (&other, &below, Relation::Disjoint),
        (&every, &every, Relation::Same),
    ] {
        assert_eq!(one.relation(two), relation, "{one} {two}");
        assert_eq!(two.relation(one), reversed(relation), "{two} {one}");
    }
    assert_eq!([every, below, exact].map(|host| host.to_string()), ["*", "*.example.com", "x.example.com"]);
}
