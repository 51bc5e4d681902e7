use super::*;

/// Rules as a test writes them.
#[derive(Default)]
struct Written {
    hosts: Vec<HostPattern>,
    paths: Vec<PathPattern>,
    methods: Vec<String>,
    networks: Vec<IpNet>,
    public: Vec<Public>,
}

impl Written {
    fn at(paths: &[&str]) -> Written {
        let paths = paths.iter().map(|path| PathPattern::parse(path).unwrap()).collect();
        Written { hosts: vec![HostPattern::Every], paths, ..Written::default() }
    }

    fn on(mut self, hosts: &[&str]) -> Written {
        self.hosts = hosts.iter().map(|host| HostPattern::of(host)).collect();
        self
    }

    fn by(mut self, methods: &[&str]) -> Written {
        self.methods = methods.iter().map(|&method| method.to_owned()).collect();
        self
    }

    fn from(mut self, networks: &[&str]) -> Written {
        self.networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        self
    }

    fn open(mut self, methods: &[&str], path: &str) -> Written {
        let methods = methods.iter().map(|&method| method.to_owned()).collect();
        self.public.push(Public { methods, path: PathPattern::parse(path).unwrap() });
        self
    }
}

fn views(rules: &[Written]) -> Vec<Match<'_>> {
    rules
        .iter()
        .map(|Written { hosts, paths, methods, networks, public }| Match {
            hosts,
            paths,
            methods,
            networks,
            public,
        })
        .collect()
}

fn faults(rules: &[Written]) -> Vec<OverlapFault> {
    undecided(&views(rules)).into_iter().map(|overlap| overlap.fault).collect()
}

/// The one overlap, as a person reads it.
fn told(rules: &[Written]) -> String {
    let overlaps = undecided(&views(rules));
    let [overlap] = &overlaps[..] else { return format!("{overlaps:?}") };
    let what = match &overlap.fault {
        OverlapFault::Same { methods, network } => format!("same {methods:?} {network:?}"),
        OverlapFault::Covered => "covered".to_owned(),
        OverlapFault::Undecided { meet } => format!("meet {:?}", meet.as_ref().map(PathPattern::as_str)),
    };
    let (method, path) = &overlap.example;
    format!("{}.{}: {what}: {method} {}{path}", overlap.rule.rule, overlap.other.rule, overlap.host)
}

#[test]
fn what_order_decides_is_left_alone() {
    for rules in [
        vec![
            Written::at(&["/"]),
            Written::at(&["/api"]),
            Written::at(&["=/api"]),
            Written::at(&["/api/*/x"]),
        ],
        vec![Written::at(&["/"]), Written::at(&["/"]).on(&["a.test"]), Written::at(&["/"]).on(&["*.test"])],
        vec![Written::at(&["/"]), Written::at(&["/"]).by(&["GET"]), Written::at(&["/"]).by(&["POST"])],
        vec![
            Written::at(&["/"]),
            Written::at(&["/"]).from(&["10.0.0.0/8"]),
            Written::at(&["/"]).from(&["10.1.0.0/16"]),
        ],
        vec![
            Written::at(&["/"]).by(&["GET"]).from(&["10.0.0.0/8"]),
            Written::at(&["/"]).by(&["PUT"]).from(&["10.0.0.0/8"]),
        ],
        // Nothing in common, or one is narrower.
        vec![
            Written::at(&["/*.js"]),
            Written::at(&["/*.css"]),
            Written::at(&["/api"]),
            Written::at(&["/lib*.js"]),
        ],
        vec![Written::at(&["=/*/x"]), Written::at(&["=/a/*/x"])],
        // Of different hosts the host decides.
        vec![Written::at(&["/a/*"]).on(&["a.test"]), Written::at(&["/*/x"])],
    ] {
        assert_eq!(faults(&rules), []);
    }
}

#[test]
fn two_rules_at_one_place_are_refused_where_both_would_take_a_request() {
    let same = |methods: &[&str], network: Option<&str>| {
        let methods = methods.iter().map(|&method| method.to_owned()).collect();
        [OverlapFault::Same { methods, network: network.map(|network| network.parse().unwrap()) }]
    };
    assert_eq!(faults(&[Written::at(&["/a", "/b"]), Written::at(&["/c", "/b"])]), same(&[], None));
    let twice = [Written::at(&["/"]).by(&["GET", "PUT"]), Written::at(&["/"]).by(&["PUT", "POST"])];
    assert_eq!(faults(&twice), same(&["PUT"], None));
    let both = [
        Written::at(&["/"]).from(&["10.0.0.0/8", "fd00::/8"]),
        Written::at(&["/"]).from(&["192.168.0.0/16", "10.0.0.0/8"]),
    ];
    assert_eq!(faults(&both), same(&[], Some("10.0.0.0/8")));
    let hosts = [
        Written::at(&["/x"]).on(&["a.test", "b.test"]),
        Written::at(&["/x"]).on(&["c.test", "b.test"]).by(&[]),
    ];
    assert_eq!(told(&hosts), "1.0: same [] None: GET b.test/x");
}

#[test]
fn paths_that_overlap_want_a_third_one_that_is_what_both_take() {
    let two = || vec![Written::at(&["/a/*"]), Written::at(&["/*/x"]).by(&["PUT"])];
    assert_eq!(told(&two()), "1.0: meet Some(\"/a/x\"): PUT */a/x");
    let with = |path: &str| two().into_iter().chain([Written::at(&[path])]).collect::<Vec<_>>();
    assert_eq!(faults(&with("/a/x")), []);
    // What is not all of it decides nothing.
    for path in ["=/a/x", "/a", "/a/x/y"] {
        let found = undecided(&views(&with(path)));
        assert!(
            found.iter().any(|overlap| (overlap.rule.rule, overlap.other.rule) == (1, 0)),
            "{path}: {found:?}"
        );
    }
    // One of the two may say it.
    assert_eq!(faults(&[Written::at(&["/a/*", "/a/x"]), Written::at(&["/*/x"])]), []);
    // It is to be there on each host.
    let on = |hosts: &[&str]| Written::at(&["/a/x"]).on(hosts);
    let rules = |third: Written| {
        [
            Written::at(&["/a/*"]).on(&["a.test", "b.test"]),
            Written::at(&["/*/x"]).on(&["a.test", "b.test"]),
            third,
        ]
    };
    assert_eq!(faults(&rules(on(&["a.test", "b.test"]))), []);
    assert!(told(&rules(on(&["a.test"]))).ends_with("GET b.test/a/x"));
    // Both lead to one rule.
    assert_eq!(faults(&[Written::at(&["/a/*", "/*/x"])]), []);
    // A prefix and what lies below it in some places only.
    assert_eq!(
        told(&[Written::at(&["/api"]), Written::at(&["/*/hooks"])]),
        "1.0: meet Some(\"/api/hooks\"): GET */api/hooks"
    );
    // No pattern says what both take.
    assert!(told(&[Written::at(&["/ab*"]), Written::at(&["/*bc"])]).starts_with("1.0: meet None: GET */ab"));
}

#[test]
fn a_rule_that_no_client_is_left_to_is_refused() {
    let halves = || Written::at(&["/"]).from(&["10.0.0.0/9", "10.128.0.0/9"]);
    assert_eq!(told(&[halves(), Written::at(&["/"]).from(&["10.0.0.0/8"])]), "1.0: covered: GET */");
    assert_eq!(told(&[Written::at(&["/"]).from(&["10.0.0.0/8"]), halves()]), "0.1: covered: GET */");
    // Something is left to each of these.
    assert_eq!(faults(&[halves(), Written::at(&["/"]).from(&["10.0.0.0/8", "fd00::/8"])]), []);
    assert_eq!(faults(&[halves().by(&["GET"]), Written::at(&["/"]).from(&["10.0.0.0/8"])]), []);
    assert_eq!(faults(&[Written::at(&["/"]), Written::at(&["/"]).from(&["0.0.0.0/0", "::/0"])]), []);
}

#[test]
fn a_public_entry_belongs_to_its_route_and_says_something_new() {
    let fault = |rules: &[Written]| public_fault(&views(rules), 0, rules[0].public.len() - 1);
    let app = || Written::at(&["/", "/app"]);
    assert_eq!(fault(&[app().open(&["GET"], "/static")]), None);
    assert_eq!(fault(&[app().open(&["GET"], "/")]), None);
    assert_eq!(fault(&[app().open(&["GET"], "/static"), Written::at(&["/static/private"])]), None);
    assert_eq!(fault(&[Written::at(&["/app"]).open(&["GET"], "/static")]), Some(PublicFault::Outside));
    assert_eq!(fault(&[Written::at(&["/app/x"]).open(&["GET"], "/app")]), Some(PublicFault::Outside));
    let admin = || Written::at(&["/x", "/admin"]);
    for path in ["/admin", "/admin/static", "=/admin/x"] {
        assert_eq!(fault(&[app().open(&["GET"], path), admin()]), Some(PublicFault::Taken(1, 1)), "{path}");
    }
    // On another host it is the route's.
    let elsewhere = || Written::at(&["/admin"]).on(&["a.test"]);
    assert_eq!(fault(&[app().open(&["GET"], "/admin"), elsewhere()]), None);
    assert_eq!(fault(&[app().on(&["a.test", "b.test"]).open(&["GET"], "/admin"), elsewhere()]), None);
    // Where one place has several rules, each has its own exceptions.
    assert_eq!(fault(&[app().by(&["GET"]).open(&["GET"], "/static"), app().by(&["PUT"])]), None);
    assert_eq!(
        fault(&[app().by(&["GET"]).open(&["PUT"], "/static")]),
        Some(PublicFault::Method("PUT".to_owned()))
    );
    let said =
        |methods: &[&str], path: &str| fault(&[app().open(&["GET", "HEAD"], "/static").open(methods, path)]);
    for (methods, path) in
        [(&["GET", "HEAD"][..], "/static"), (&["GET"], "/static"), (&["HEAD"], "=/static/*.js")]
    {
        assert_eq!(said(methods, path), Some(PublicFault::Said(0)), "{path}");
    }
    for (methods, path) in [(&["POST"][..], "/static"), (&["GET", "POST"], "/static/x"), (&["GET"], "/*/x")] {
        assert_eq!(said(methods, path), None, "{path}");
    }
}

#[test]
fn a_public_path_takes_nothing_from_other_routes_where_a_pattern_can_say_it() {
    let app = |path: &str| Written::at(&["/"]).open(&["GET"], path);
    assert_eq!(faults(&[app("/*/x.js"), Written::at(&["/api"])]), []);
    assert_eq!(faults(&[app("/static"), Written::at(&["/*/private"])]), []);
    assert_eq!(told(&[app("/*bc"), Written::at(&["/ab*"])]), "1.0: meet None: GET */abxbc");
    // Where both lead to the same rules, it does not matter.
    assert_eq!(faults(&[Written::at(&["/", "/ab*"]).open(&["GET"], "/*bc")]), []);
    assert_eq!(faults(&[app("/*bc").open(&["GET"], "/ab*"), Written::at(&["/"]).by(&["PUT"])]), []);
    let [read, write] = [app("/*bc").by(&["GET"]), Written::at(&["/"]).by(&["PUT"])];
    assert_eq!(told(&[read, write, Written::at(&["/ab*"])]), "2.0: meet None: GET */abxbc");
}

/// Held against every request of a small world: where nothing is found, one rule is the narrowest of all that take it.
#[test]
fn what_is_not_found_is_decided_for_every_path() {
    let patterns = [
        "/", "/a", "=/a", "/a/a", "/*", "=/*", "/*/a", "/a/*", "=/a/*", "=/*/a", "/a*", "/*b", "/a*/a",
        "/ab", "/ab/a",
    ];
    let segments = ["", "a", "b", "ab", "aab"];
    let mut paths: Vec<String> = segments.iter().map(|one| format!("/{one}")).collect();
    for one in segments {
        paths.extend(segments.iter().map(|two| format!("/{one}/{two}")));
        paths.extend(segments.iter().map(|two| format!("/{one}/{two}/a")));
    }
    let (mut decided, mut refused) = (0, 0);
    for (first, one) in patterns.iter().enumerate() {
        for (second, two) in patterns.iter().enumerate().skip(first + 1) {
            for three in patterns.iter().skip(second + 1) {
                let rules = [one, two, three].map(|path| Written::at(&[path]));
                let is_found = !undecided(&views(&rules)).is_empty();
                let is_unclear = |path: &String| {
                    let taking: Vec<&PathPattern> =
                        rules.iter().map(|rule| &rule.paths[0]).filter(|rule| rule.takes(path)).collect();
                    let is_narrowest = |rule: &&&PathPattern| {
                        taking
                            .iter()
                            .all(|other| matches!(rule.relation(other), Relation::Same | Relation::Narrower))
                    };
                    !taking.is_empty() && !taking.iter().any(|rule| is_narrowest(&rule))
                };
                assert_eq!(paths.iter().any(is_unclear), is_found, "{one} {two} {three}");
                if is_found { refused += 1 } else { decided += 1 }
            }
        }
    }
    assert!(decided > 50 && refused > 50, "{decided} {refused}");
}

#[test]
fn a_thousand_rules_are_no_matter() {
    let literal = |index: usize| Written::at(&[&format!("/a{index}/b/c")]);
    let star = |index: usize| Written::at(&[&format!("/a{index}/*/c")]);
    let rules: Vec<Written> =
        (0..1000).map(|index| if index % 2 == 0 { literal(index) } else { star(index) }).collect();
    assert_eq!(faults(&rules), []);
    let rules: Vec<Written> = (0..1000).map(|index| Written::at(&[&format!("/*/{index}")])).collect();
    assert_eq!(faults(&rules), []);
}

/// Entries of `length` segments, each with a name at a place of its own and stars elsewhere: each subset of them meets.
fn crossing(length: usize) -> Vec<PathPattern> {
    let entry = |named: usize| {
        let segments = (0..length).map(|at| if at == named { "/x" } else { "/*" });
        PathPattern::parse(&segments.collect::<String>()).unwrap()
    };
    (0..length).map(entry).collect()
}

#[test]
fn public_paths_meet_once_each_and_not_without_bound() {
    let paths = crossing(9);
    let found = public_paths(&paths, &[]).unwrap();
    assert_eq!(found.len(), 511, "each subset but the empty one");
    assert_eq!(found.iter().collect::<HashSet<_>>().len(), 511);
    for one in &found {
        for other in &found {
            let meet = one.meet(other).unwrap();
            assert!(found.contains(&meet), "{one} and {other} meet in {meet}");
        }
    }
    assert_eq!(public_paths(&crossing(11), &[]), None);
    // Where there is nothing to meet there is no bound.
    let plain: Vec<PathPattern> =
        (0..3000).map(|index| PathPattern::parse(&format!("/a{index}")).unwrap()).collect();
    assert_eq!(public_paths(&plain, &[]).unwrap().len(), 3000);
    // What routes match has rules of its own.
    let matched = PathPattern::parse("/*/b").unwrap();
    let open = [PathPattern::parse("/a/*").unwrap(), matched.clone()];
    let texts = |paths: Vec<PathPattern>| paths.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts(public_paths(&open, &[&matched]).unwrap()), ["/a/*", "/a/b"]);
}

#[test]
fn a_crowd_of_public_paths_is_found_by_its_host() {
    let mut rule = Written::at(&["/"]);
    rule.public =
        crossing(11).into_iter().map(|path| Public { methods: vec!["GET".to_owned()], path }).collect();
    let rules = [Written::at(&["/b"]), rule];
    let found = crowded(&views(&rules));
    assert_eq!(
        found.iter().map(|(host, rules)| (host.to_string(), rules.clone())).collect::<Vec<_>>(),
        [("*".to_owned(), vec![1])]
    );
}
