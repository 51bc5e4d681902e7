//! `palisade routes` and `palisade routes explain`, as the program says it.

use std::fs;

use serde_json::Value;

use crate::support::binary::{palisade, run};

const CONFIG: &str = r#"
public_url = "https://auth.test"

[server]
trusted_proxies = ["10.0.0.2"]
ping_path = "/ping"

[mail]
transport = "none"

[native]
hosts = ["auth.test"]

[[routes]]
name = "shop"
match = { host = ["shop.test", "*.shop.test"] }
upstream = ["http://127.0.0.1:3000"]
public = ["/static", "=/robots.txt", "POST /projects/*/hooks"]

[[routes]]
name = "home"
match = { host = "shop.test", networks = ["192.168.0.0/16"] }
upstream = ["http://127.0.0.1:3000"]
auth = "none"

[[routes]]
name = "admin"
match = { host = "shop.test", path = ["/admin", "/projects/*/settings"], methods = ["GET", "POST"], networks = ["10.8.0.0/24"] }
upstream = ["http://127.0.0.1:3001"]
require = { scopes = ["admin"] }

[[routes]]
name = "rest"
upstream = ["http://127.0.0.1:3002"]
auth = "optional"
"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder::with(CONFIG)
    }

    fn with(config: &str) -> Folder {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.toml"), config).unwrap();
        Folder(folder)
    }

    /// What a command prints, without spaces at the ends of lines.
    fn says(&self, arguments: &str) -> String {
        let mut command = palisade();
        let output = run(command.current_dir(self.0.path()).args(arguments.split(' ')), "");
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(output.status.success(), said[1].is_empty(), "{said:?}");
        said.concat().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }

    fn explains(&self, request: &str) -> String {
        self.says(&format!("routes explain {request}"))
    }
}

const TABLE: &str = "\
 HOST         PATH                  METHODS   NETWORKS        ROUTE  AUTH      UPSTREAM
 shop.test    /admin                GET POST  10.8.0.0/24     admin  required  http://127.0.0.1:3001
 shop.test    /projects/*/settings  GET POST  10.8.0.0/24     admin  required  http://127.0.0.1:3001
 shop.test    /                     every     192.168.0.0/16  home   none      http://127.0.0.1:3000
 shop.test    /                     every     every           shop   required  http://127.0.0.1:3000
 shop.test      /static             GET HEAD  every           shop   public    http://127.0.0.1:3000
 shop.test      =/robots.txt        GET HEAD  every           shop   public    http://127.0.0.1:3000
 shop.test      /projects/*/hooks   POST      every           shop   public    http://127.0.0.1:3000
 *.shop.test  /                     every     every           shop   required  http://127.0.0.1:3000
 *.shop.test    /static             GET HEAD  every           shop   public    http://127.0.0.1:3000
 *.shop.test    =/robots.txt        GET HEAD  every           shop   public    http://127.0.0.1:3000
 *.shop.test    /projects/*/hooks   POST      every           shop   public    http://127.0.0.1:3000
 *            /                     every     every           rest   optional  http://127.0.0.1:3002";

#[test]
fn the_rules_are_listed_in_the_order_in_which_they_decide() {
    let folder = Folder::new();
    let said = folder.says("routes");
    assert!(said.starts_with(&format!(" {TABLE}\n\nThe first host and path")), "{said}");
    let rules: Vec<Value> = serde_json::from_str(&folder.says("routes --json")).unwrap();
    assert_eq!(
        (rules.len(), &rules[0]["route"], &rules[5]["host"]),
        (6, &Value::from("admin"), &Value::from("*"))
    );
    assert_eq!(rules[3]["public"][2]["path"], "/projects/*/hooks");
    let mut command = palisade();
    let output = run(command.current_dir(folder.0.path()).arg("check"), "");
    let said = String::from_utf8(output.stdout).unwrap();
    let said: Vec<&str> = said.lines().map(str::trim_end).collect();
    assert!(said.join("\n").ends_with(&format!("\n\n {TABLE}")), "{said:#?}");
    assert!(said[0].starts_with("config.toml: good, 4 routes"), "{said:#?}");
}

#[test]
fn of_many_rules_check_prints_the_first_ones() {
    let folder = tempfile::tempdir().unwrap();
    let route = |index: usize| {
        format!(
            "[[routes]]\nname = \"r{index}\"\nmatch.path = \"/p{index:03}/*/x\"\nupstream = \"http://127.0.0.1:3000\"\n"
        )
    };
    fs::write(folder.path().join("config.toml"), (0..1000).map(route).collect::<String>()).unwrap();
    let mut command = palisade();
    let output = run(command.current_dir(folder.path()).arg("check"), "");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.ends_with("… and 950 more: `palisade routes` prints them all\n"), "{said}");
    assert!(said.contains(" /p049/*/x ") && !said.contains(" /p050/*/x "), "{said}");
}

#[test]
fn the_rule_that_answers_is_named_and_what_becomes_of_the_others() {
    let folder = Folder::new();
    let said = folder.explains("POST https://shop.test/projects/7/hooks?x=1");
    let want = "\
POST https://shop.test/projects/7/hooks?x=1 from a client whose address is not known

Route \"shop\" answers. It wants no sign-in: its public has \"POST /projects/*/hooks\".
Upstream: http://127.0.0.1:3000

 HOST       PATH  METHODS  NETWORKS        ROUTE
 shop.test  /     every    192.168.0.0/16  home   not this client
 shop.test  /     every    every           shop   answers
 *          /     every    every           rest   a wider host

With --client ADDRESS the answer is that for a client in a network.";
    assert_eq!(said, want);
    for (request, want) in [
        ("GET https://shop.test/x", "Route \"shop\" answers. It wants a session or a token."),
        ("GET https://SHOP.test./x --client ::ffff:192.168.7.7", "Route \"home\" answers. It wants nothing"),
        ("GET https://a.shop.test/static/x", "Route \"shop\" answers. It wants no sign-in"),
        ("HEAD https://a.shop.test/Static/x", "Route \"shop\" answers. It wants a session or a token."),
        (
            "GET https://shop.test/admin/x --client 10.8.0.7",
            "It wants a session or a token with the scopes admin.",
        ),
        ("GET https://shop.test/admin/x", "Refused with 403 network: "),
        (
            "PUT https://shop.test/admin/x --client 10.8.0.7",
            "Refused with 405 method_not_allowed: This path does not take this method. It takes GET, POST.",
        ),
        ("GET https://shop.test/ADMIN --client 10.8.0.7", "Refused with 400 path_ambiguous: "),
        ("GET https://shop.test/ADMIN --client 10.8.0.7", "Another server may read it as a path of /admin."),
        (
            "GET https://shop.test/a%2fb",
            "Its path in normal form: /a%2Fb\n\nRefused with 400 path_encoded_slash: ",
        ),
        ("GET https://shop.test/a/../b", "Refused with 400 path_dot_segment: "),
        ("TRACE https://shop.test/", "Refused with 405 method_not_allowed: "),
        (
            "GET https://other.test",
            "Route \"rest\" answers. It wants nothing; a session or a token is looked at.",
        ),
        ("GET https://auth.test/auth/login", "The gateway answers itself: a native endpoint."),
        ("GET https://shop.test/auth/login", "Route \"shop\" answers."),
        (
            "GET https://shop.test/.palisade/session",
            "The gateway answers itself: an endpoint beside the apps.",
        ),
        ("GET https://any.test/ping", "The gateway answers itself: a ping (server.ping_path)."),
        ("GET https://any.test/ping?x", "Route \"rest\" answers."),
        ("get https://any.test/", "Methods are in upper case"),
        ("GET any.test/x", "\"any.test/x\" is no URL; want a URL such as https://app.example.com/path"),
        ("GET ftp://any.test/x", "has another scheme"),
        ("GET https://u:p@any.test/", "want a URL such as"),
    ] {
        let said = folder.explains(request);
        assert!(said.contains(want), "{request}: {said}");
    }
    let said = folder.explains("GET https://shop.test/x");
    assert!(!said.contains("asked for"), "{said}");
    let json: Value =
        serde_json::from_str(&folder.explains("GET https://shop.test/static --client 192.168.0.1 --json"))
            .unwrap();
    assert_eq!(json["answer"]["route"], "home");
    assert_eq!(json["rules"][1]["why"], "comes later");
    assert_eq!(json["rules"][0]["networks"][0], "192.168.0.0/16");
}

#[test]
fn of_a_route_with_several_networks_the_one_that_holds_the_client_counts() {
    let folder = Folder::with(
        r#"
[[routes]]
name = "a"
auth = "none"
match = { path = "/", networks = ["10.0.0.0/8", "192.168.1.7"] }
upstream = "http://127.0.0.1:3000"

[[routes]]
name = "b"
auth = "none"
match = { path = "/", networks = ["10.1.0.0/16"] }
upstream = "http://127.0.0.1:3001"
"#,
    );
    for (client, want) in [
        ("10.1.2.3", ["not this client", "answers", "comes later"]),
        ("10.2.0.1", ["not this client", "not this client", "answers"]),
    ] {
        let json: Value =
            serde_json::from_str(&folder.explains(&format!("GET https://a.test/ --client {client} --json")))
                .unwrap();
        let rules: Vec<String> = json["rules"]
            .as_array()
            .unwrap()
            .iter()
            .map(|rule| {
                format!("{} {}", rule["networks"][0].as_str().unwrap(), rule["why"].as_str().unwrap())
            })
            .collect();
        let networks = ["192.168.1.7/32", "10.1.0.0/16", "10.0.0.0/8"];
        let want: Vec<String> =
            networks.iter().zip(want).map(|(network, why)| format!("{network} {why}")).collect();
        assert_eq!(rules, want, "{client}");
    }
}

#[test]
fn the_path_that_the_app_is_asked_for_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let config = "[mail]\ntransport = \"none\"\n[[routes]]\nname = \"api\"\nmatch = { host = \"a.test\", path = \"/api\" }\n\
                  upstream = \"http://127.0.0.1:3000/base\"\nstrip_prefix = \"/api\"\nallow = [\"empty-segment\"]\n";
    fs::write(folder.path().join("config.toml"), config).unwrap();
    let folder = Folder(folder);
    let said = folder.explains("GET https://a.test/api/x?y");
    assert!(said.contains("Upstream: http://127.0.0.1:3000\nIt is asked for: /base/x\n"), "{said}");
    let said = folder.explains("GET https://a.test/api//evil.test");
    assert!(said.contains("Refused with 400 path_rest: "), "{said}");
    let said: Value = serde_json::from_str(&folder.explains("GET https://a.test/api/x --json")).unwrap();
    assert_eq!(said["answer"]["asks"], "/base/x");
}
