//! The tools of plugin authors, as a program: what `palisade plugin …` says of good and of broken components.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::support::binary::{palisade, run};
use crate::support::components::{WIT, of as component};

/// The WIT with one place changed.
fn changed(from: &str, to: &str) -> String {
    assert!(WIT.contains(from), "{from}");
    WIT.replace(from, to)
}

fn plugin(arguments: &[&str], folder: &Path) -> Output {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin-cache");
    run(palisade().arg("plugin").args(arguments).current_dir(folder).env("XDG_CACHE_HOME", cache), "")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

#[test]
fn each_broken_component_is_told_what_is_wrong_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let http = "\npackage wasi:http@0.2.0 { interface outgoing-handler { handle: func(); } }\n";
    let newer = WIT.replace("palisade:provider@0.1.0", "palisade:provider@0.2.0");
    let good = component(WIT);
    let refresh =
        "    refresh: func(connection: connection, current: current-tokens) -> result<tokens, failure>;";
    for (name, bytes, what, cure) in [
        (
            "a function is missing",
            component(&changed(refresh, "")),
            "it does not export the function `refresh`",
            "add `refresh: func(connection: connection, current: current-tokens) -> result<tokens, failure>`",
        ),
        (
            "a field of another type",
            component(&changed(
                "expires-in: option<u64>,\n        /// The next",
                "expires-in: option<u32>,\n        /// The next",
            )),
            "`expires-in` of the result is u32 instead of u64",
            "it must be `exchange: func(",
        ),
        (
            "a field is missing",
            component(&changed("        can-revoke: bool,", "")),
            "the result lacks `can-revoke`",
            "build it against that file",
        ),
        (
            "another parameter",
            component(&changed("describe: func(settings: string)", "describe: func(settings: list<u8>)")),
            "settings is list<u8> instead of string",
            "it must be `describe: func(settings: string) -> result<description, failure>`",
        ),
        (
            "an import of another type",
            component(&changed("now: func() -> u64;", "now: func() -> u32;")),
            "it imports `now: func() -> u32` with another type: the result is u32 instead of u64",
            "it must be `now: func() -> u64`",
        ),
        (
            "nothing to call",
            component(&changed("    export plugin;\n", "")),
            "it does not export `palisade:provider/plugin@0.1.0`",
            "`export const plugin = {…}`",
        ),
        (
            "an import beyond the world",
            component(
                &changed("import clock;", "import clock;\n    import wasi:http/outgoing-handler@0.2.0;")
                    .replace(
                        "package palisade:provider@0.1.0;",
                        &format!("package palisade:provider@0.1.0;{http}"),
                    ),
            ),
            "it imports `wasi:http/outgoing-handler@0.2.0`, which is not served",
            "componentize-js: `-d http fetch-event`",
        ),
        (
            "newer WIT",
            component(&newer),
            "it speaks palisade:provider@0.2.0 (",
            "it is newer than this Palisade, which serves 0.1.0: upgrade Palisade",
        ),
        (
            "older WIT",
            component(&WIT.replace("palisade:provider@0.1.0", "palisade:provider@0.0.1")),
            "it speaks palisade:provider@0.0.1 (",
            "build it against the wit/provider.wit",
        ),
        ("it traps", good.clone(), "`describe` breaks off", "it must return a description"),
        (
            "a core module",
            b"\0asm\x01\0\0\0".to_vec(),
            "it is a core module",
            "`palisade plugin build` makes a component",
        ),
        ("text", b"(component)".to_vec(), "WebAssembly in text form", "`wasm-tools parse`"),
        ("nonsense", b"MZ".to_vec(), "it is not a WebAssembly component", "`palisade plugin build` made"),
        ("cut off", good[..good.len() / 2].to_vec(), "it is damaged", "build it again"),
        ("too large", vec![0; (64 << 20) + 1], "more than 64 MiB", "without debug information"),
    ] {
        let file = folder.path().join("x.wasm");
        fs::write(&file, bytes).unwrap();
        let output = plugin(&["check", "x.wasm"], folder.path());
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        assert!(said.contains("x.wasm cannot be loaded:\n"), "{name}: {said}");
        assert!(said.contains(what), "{name}, what: {said}");
        assert!(
            said.split("→").nth(1).is_some_and(|rest| rest.contains(cure)) || said.contains(cure),
            "{name}, cure: {said}"
        );
    }
}

#[test]
fn all_faults_are_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let wit =
        changed("now: func() -> u64;", "now: func() -> u32;").replace("can-revoke: bool,", "can-revoke: u8,");
    fs::write(folder.path().join("x.wasm"), component(&wit)).unwrap();
    let said = said(&plugin(&["check", "x.wasm"], folder.path()));
    assert_eq!(said.matches("\n  - ").count(), 2, "{said}");
}

const GENERIC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/plugins/dist/oauth2.wasm");

#[test]
fn a_good_component_is_shown_with_what_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let settings = "authorize_url = \"https://id.example/a\"\ntoken_url = \"https://id.example/t\"\n";
    fs::write(folder.path().join("settings.toml"), settings).unwrap();
    let check = plugin(&["check", GENERIC, "--settings", "settings.toml"], folder.path());
    let text = said(&check);
    assert!(check.status.success(), "{text}");
    let sum = text.split("sha256 = \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    for part in ["good, palisade:provider 0.1.0", "calls      id.example"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let without = said(&plugin(&["check", GENERIC], folder.path()));
    assert!(without.contains("only with settings (settings: `token_url` is missing)"), "{without}");
    fs::write(folder.path().join("settings.toml"), "tokenurl = 1").unwrap();
    let refused = plugin(&["check", GENERIC, "--settings", "settings.toml"], folder.path());
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("`describe` refuses the settings"), "{}", said(&refused));

    let shown = plugin(&["inspect", GENERIC, "--json"], folder.path());
    let value: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((value["speaks"].as_str(), value["sha256"].as_str()), (Some("0.1.0"), Some(&*sum)));
    assert!(value["producers"]["processed-by"].to_string().contains("wit-component"), "{value:#}");
    let text = said(&plugin(&["inspect", GENERIC], folder.path()));
    assert!(text.contains("palisade:provider/plugin@0.1.0") && text.contains("wit-component"), "{text}");
}

/// The SDK plays the same files natively: both must agree on what they mean.
#[test]
fn the_exchanges_of_the_built_in_component_play_in_the_host() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = plugin(&["test", GENERIC, "--exchanges", "plugins/oauth2/exchanges"], root);
    assert!(output.status.success(), "{}", said(&output));
}

/// Files of both shapes that were written by hand before the format was one; the SDK plays the same.
#[test]
fn values_are_read_as_texts_and_as_lists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = plugin(&["test", GENERIC, "--exchanges", "plugins/sdk/tests/shapes"], root);
    assert!(said(&output).contains("2 passed, 0 failed"), "{}", said(&output));
    let folder = tempfile::tempdir().unwrap();
    let list = fs::read_to_string(root.join("plugins/sdk/tests/shapes/list.toml")).unwrap();
    fs::create_dir(folder.path().join("exchanges")).unwrap();
    let several = list.replace("shop = [\"acme\"]", "shop = [\"acme\", \"other\"]");
    assert_ne!(several, list);
    fs::write(folder.path().join("exchanges/several.toml"), several).unwrap();
    let output = plugin(&["test", GENERIC, "--exchanges", "exchanges"], folder.path());
    assert!(said(&output).contains("connection.parameters: `shop` needs one value"), "{}", said(&output));
}

#[test]
fn a_difference_is_shown_line_by_line_without_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let exchanges = folder.path().join("exchanges");
    fs::create_dir(&exchanges).unwrap();
    let token = "t0ken-".repeat(10);
    let text = format!(
        r#"
about = "A refresh."
call = "refresh"
settings = {{ authorize_url = "https://id.example/a", token_url = "https://id.example/t" }}
[input.tokens]
access_token = "access-1"
refresh_token = "{token}"
[[requests]]
method = "POST"
url = "https://id.example/token"
client_auth = "basic_raw"
form = {{ grant_type = "refresh_token", refresh_token = "another", scope = "x" }}
answer.json = {{ access_token = "{token}" }}
[result.tokens]
access_token = "access-2"
"#
    );
    fs::write(exchanges.join("refresh.toml"), text).unwrap();
    fs::write(exchanges.join("broken.toml"), "about = 1").unwrap();
    let output = plugin(&["test", GENERIC, "--exchanges", "exchanges"], folder.path());
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in [
        "FAILED  broken",
        "FAILED  refresh",
        "requests[0]: url\n            - https://id.example/token\n            + https://id.example/t\n",
        "requests[0]: client_auth\n            - basic_raw\n            + basic\n",
        "form: lacks scope = x",
        "form: refresh_token\n            - another\n            + (60 characters, SHA-256 ",
        "tokens: access_token\n            - access-2\n            + (60 characters, SHA-256 ",
        "0 passed, 2 failed",
        "2 of 2 exchanges are not as recorded",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains(&token), "{text}");
    // A folder of another author: it may lead anywhere.
    std::os::unix::fs::symlink("/dev/zero", exchanges.join("endless.toml")).unwrap();
    let endless =
        said(&plugin(&["test", GENERIC, "--exchanges", "exchanges", "--only", "endless"], folder.path()));
    assert!(endless.contains("endless.toml has more than 16 MiB"), "{endless}");
    let none = plugin(&["test", GENERIC, "--exchanges", "exchanges", "--only", "revoke"], folder.path());
    assert!(said(&none).contains("no recorded exchange with \"revoke\" in its name"), "{}", said(&none));
}

/// What was built once goes on loading in every gateway that serves its version.
#[test]
fn components_of_every_served_version_load() {
    let compat = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/compat");
    let folder = tempfile::tempdir().unwrap();
    let settings = "authorize_url = \"https://id.example/a\"\ntoken_url = \"https://id.example/t\"\n";
    fs::write(folder.path().join("oauth2.toml"), settings).unwrap();
    fs::write(folder.path().join("minimal.toml"), "url = \"https://id.example/token\"\n").unwrap();
    for version in palisade::edge::wasm::SERVED {
        let mut found = 0;
        for entry in fs::read_dir(compat.join(version)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "wasm") {
                continue;
            }
            found += 1;
            let settings = format!("{}.toml", path.file_stem().unwrap().to_str().unwrap());
            let output = plugin(&["check", path.to_str().unwrap(), "--settings", &settings], folder.path());
            assert!(output.status.success(), "{}", said(&output));
            assert!(
                said(&output).contains(&format!("good, palisade:provider {version}")),
                "{}",
                said(&output)
            );
        }
        assert!(found > 0, "plugins/compat/{version} is empty");
    }
}

#[test]
fn a_new_plugin_says_what_to_do_next_and_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for language in ["rust", "js", "python"] {
        let made = plugin(&["new", "acme-bank", "--lang", language, "--path", language], folder.path());
        assert!(said(&made).contains(&format!("cd {language}\n  palisade plugin build")), "{}", said(&made));
        let unbuilt = plugin(&["test", language], folder.path());
        assert!(said(&unbuilt).contains(&format!("build it with `palisade plugin build {language}`")));
        let again = plugin(&["new", "acme-bank", "--lang", language, "--path", language], folder.path());
        assert!(
            !again.status.success() && said(&again).contains("nothing is overwritten"),
            "{}",
            said(&again)
        );
    }
    let bad = plugin(&["new", "Acme"], folder.path());
    assert!(said(&bad).contains("such as \"acme\""), "{}", said(&bad));
    let nothing = plugin(&["build"], folder.path());
    assert!(said(&nothing).contains("`palisade plugin new NAME` begins one"), "{}", said(&nothing));
}

/// A folder with the configuration of one provider, `acme`.
fn configured() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("id"), "client-1").unwrap();
    let config = r#"
public_url = "http://localhost:8080"
[[providers]]
name = "acme"
component = "builtin:oauth2"
client_id = "file:id"
allowed_hosts = ["id.example"]
scopes = ["read"]
[providers.settings]
authorize_url = "https://id.example/authorize"
token_url = "https://id.example/token"
"#;
    fs::write(folder.path().join("config.toml"), config).unwrap();
    folder
}

#[test]
fn a_configured_provider_is_called_by_its_name() {
    let folder = configured();
    let described = said(&plugin(&["call", "acme", "describe"], folder.path()));
    assert!(described.contains("can_refresh        true"), "{described}");
    let visit = said(&plugin(&["call", "acme", "authorize", "--record", "exchanges/a.toml"], folder.path()));
    for part in ["https://id.example/authorize?", "[pkce]\n  verifier = ", "played back: as it was"] {
        assert!(visit.contains(part), "{part}: {visit}");
    }
    // What was recorded is a test, for the host as for the SDK.
    let played = plugin(&["test", GENERIC, "--exchanges", "exchanges"], folder.path());
    assert!(played.status.success(), "{}", said(&played));
    let again = said(&plugin(&["call", "acme", "authorize", "--record", "exchanges/a.toml"], folder.path()));
    assert!(again.contains("nothing is overwritten"), "{again}");
    let other = said(&plugin(&["call", "bank", "describe"], folder.path()));
    assert!(other.contains("there is no provider \"bank\"; there are acme"), "{other}");
    let bare = said(&plugin(&["call", "acme", "refresh"], folder.path()));
    assert!(bare.contains("Nothing was given to it: tokens or a callback come with --input"), "{bare}");
    fs::write(folder.path().join("tokens.toml"), "[tokens]\nacces_token = \"s3cret\"").unwrap();
    let slip = said(&plugin(&["call", "acme", "refresh", "--input", "tokens.toml"], folder.path()));
    assert!(
        slip.contains("the input, line 2: unknown field `acces_token`") && !slip.contains("s3cret"),
        "{slip}"
    );
}

#[test]
fn checking_the_configuration_tries_every_provider() {
    let folder = tempfile::tempdir().unwrap();
    let newer = WIT.replace("palisade:provider@0.1.0", "palisade:provider@0.2.0");
    fs::write(folder.path().join("newer.wasm"), component(&newer)).unwrap();
    let oauth2 = r#"
[[providers]]
name = "good"
component = "builtin:oauth2"
client_id = "env:HOME"
client_secret = "env:HOME"
allowed_hosts = ["a.test"]
settings = { authorize_url = "https://a.test/a", token_url = "https://a.test/t" }
"#;
    let route = "[[routes]]\nname = \"app\"\nupstream = [\"http://127.0.0.1:3000\"]\n";
    let check = |text: &str| {
        fs::write(folder.path().join("config.toml"), text).unwrap();
        run(palisade().arg("check").current_dir(folder.path()).env("HOME", "x"), "")
    };
    let good = check(&format!("{route}{oauth2}"));
    assert!(good.status.success(), "{}", said(&good));
    assert!(said(&good).contains("good, 1 route, 1 provider"), "{}", said(&good));
    // It would be denied at the first user's consent.
    let elsewhere = check(&format!("{route}{}", oauth2.replace("https://a.test/t", "https://b.test/t")));
    assert!(elsewhere.status.success(), "{}", said(&elsewhere));
    let warning =
        "warning: config.toml:5: providers.good: its plugin calls b.test, which providers.allowed_hosts";
    assert!(said(&elsewhere).contains(warning), "{}", said(&elsewhere));
    let broken = format!(
        "{route}{oauth2}{}{}",
        oauth2.replace("good", "mistyped").replace("token_url", "tokn_url"),
        oauth2.replace("\"good\"", "\"newer\"").replace("builtin:oauth2", "newer.wasm")
    );
    let broken = check(&broken);
    let said = said(&broken);
    assert_eq!(broken.status.code(), Some(1), "{said}");
    assert!(said.contains("config.toml:13: providers.mistyped: ") && said.contains("tokn_url"), "{said}");
    assert!(said.contains("config.toml:21: providers.newer: ") && said.contains("0.2.0"), "{said}");
    assert!(!said.contains("providers.good"), "{said}");
}

/// An exchange of the built-in component that plays, with one place changed.
fn exchange(from: &str, to: &str) -> String {
    let text = r#"
about = "A refresh."
call = "refresh"
settings = { authorize_url = "https://id.example/a", token_url = "https://id.example/t" }
[input.tokens]
access_token = "access-1"
refresh_token = "refresh-1"
[[requests]]
method = "POST"
url = "https://id.example/t"
client_auth = "basic"
form = { grant_type = "refresh_token", refresh_token = "refresh-1" }
answer.json = { access_token = "access-2" }
[result.tokens]
access_token = "access-2"
"#;
    assert!(text.contains(from), "{from}");
    text.replace(from, to)
}

#[test]
fn a_slip_in_an_exchange_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let exchanges = folder.path().join("exchanges");
    fs::create_dir(&exchanges).unwrap();
    let token = "t0ken-".repeat(10);
    let tokens = "[result.tokens]\naccess_token = \"access-2\"";
    let failure = "[result.failure]\nkind = \"invalid_grant\"";
    for (from, to, said_of_it) in [
        ("about", "about", "1 passed, 0 failed"),
        ("answer.json", "anwser.json", "requests[0]: unknown key `anwser`, expected one of method, url"),
        ("answer.json", "answer.staus = 400\nanswer.json", "requests[0].answer: unknown key `staus`"),
        ("form =", "from =", "requests[0]: unknown key `from`"),
        ("\"basic\"", "\"bsaic\"", "client_auth is none of \"none\", \"basic\""),
        (tokens, failure, "`invalid_grant` is none of invalid-grant, transient"),
        (tokens, "[result]\ndone = false", "`done` and `unattended` can only be true"),
        ("\"access-1\"", &*format!("\"{token}\" x"), "access_token = (62 characters) x"),
        ("\"access-1\"", "\"access-1", "line 6"),
    ] {
        fs::write(exchanges.join("one.toml"), exchange(from, to)).unwrap();
        let text = said(&plugin(&["test", GENERIC, "--exchanges", "exchanges"], folder.path()));
        assert!(text.contains(said_of_it), "{said_of_it}: {text}");
        assert!(!text.contains(&token), "{text}");
    }
}

#[test]
fn nothing_in_an_exchange_moves_the_cursor_or_makes_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let exchanges = folder.path().join("exchanges");
    fs::create_dir(&exchanges).unwrap();
    for (from, to) in [
        ("A refresh.", r"A \u001b[2J\r\nok      forged \u202e"),
        ("A refresh.", "A \u{1b}[2J"),
        ("https://id.example/t\"\nclient", "https://id.example/\\u001b[31m\"\nclient"),
        ("form = {", "form = { \"\\u001b[31m\\nok      forged\" = \"1\", "),
        ("form =", "headers = { \"\\u001b\\nok      forged\" = \"\\u009b\" }\nform ="),
    ] {
        fs::write(exchanges.join("one.toml"), exchange(from, to)).unwrap();
        let text = said(&plugin(&["test", GENERIC, "--exchanges", "exchanges"], folder.path()));
        assert!(!text.chars().any(|c| c.is_control() && c != '\n' || c == '\u{202e}'), "{text:?}");
        assert!(!text.contains("\nok      forged"), "{text}");
    }
}

/// A provider that answers one request, and repeats everything it was sent.
fn echoing_provider() -> (u16, std::thread::JoinHandle<()>) {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = String::new();
        while !asked.contains("refresh_token=") {
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece).unwrap();
            assert!(read > 0, "{asked}");
            asked.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        }
        let form = asked.split("\r\n\r\n").nth(1).unwrap();
        let answer = serde_json::json!({
            "access_token": "fresh/access+1", "refresh_token": "fresh/refresh+1", "token_type": "Bearer",
            "expires_in": 3600, "scope": "read fresh/access+1", "you_sent": form, "and": null,
        });
        // As PHP writes it.
        let body = answer.to_string().replace('/', "\\/");
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
    });
    (port, thread)
}

#[test]
fn tokens_go_where_they_were_asked_for_and_nowhere_else() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("id"), "client-of-mine").unwrap();
    fs::write(at("secret"), "client/secret+1").unwrap();
    fs::write(
        at("tokens.toml"),
        "[tokens]\naccess_token = \"old/access+1\"\nrefresh_token = \"old/refresh+1\"\n",
    )
    .unwrap();
    let arguments =
        ["call", "acme", "refresh", "--input", "tokens.toml", "--record", "one.toml", "--print-tokens"];
    // Before anything is spent: a place that cannot be written to.
    let configure = |port: u16| {
        let config = format!(
            r#"
public_url = "http://localhost:8080"
[[providers]]
name = "acme"
component = "builtin:oauth2"
client_id = "file:id"
client_secret = "file:secret"
allowed_hosts = ["localhost:{port}"]
allow_loopback = true
settings = {{ authorize_url = "http://localhost:{port}/a", token_url = "http://localhost:{port}/t" }}
"#
        );
        fs::write(at("config.toml"), config).unwrap();
    };
    configure(1);
    std::os::unix::fs::symlink(at("elsewhere"), at("one.toml")).unwrap();
    let refused = said(&plugin(&arguments, folder.path()));
    assert!(refused.contains("nothing is overwritten") && !refused.contains("POST"), "{refused}");
    assert!(!at("elsewhere").exists());
    fs::remove_file(at("one.toml")).unwrap();

    let (port, provider) = echoing_provider();
    configure(port);
    let output = plugin(&arguments, folder.path());
    provider.join().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let printed: toml::Table = String::from_utf8(output.stdout).unwrap().parse().unwrap();
    assert_eq!(printed["tokens"]["refresh_token"].as_str(), Some("fresh/refresh+1"));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("access_token       (hidden, 14 characters)"), "{told}");
    assert!(told.contains("played back: as it was"), "{told}");
    assert_eq!(fs::metadata(at("one.toml")).unwrap().permissions().mode() & 0o777, 0o600);
    let written = fs::read_to_string(at("one.toml")).unwrap() + &told;
    for secret in ["access+1", "refresh+1", "client-of-mine", "secret+1", "refresh%2B1", "refresh\\/"] {
        assert!(!written.contains(secret), "{secret}: {written}");
    }
}

#[test]
fn an_input_that_is_no_input_is_not_repeated() {
    let folder = configured();
    for (input, why) in [
        ("tokens = \"s3cret\"", "invalid type: string, expected a table"),
        ("[tokens]\naccess_token = 5533001", "invalid type: integer, expected a string"),
        ("[tokens]\nrefresh_token = [\"s3cret\"]", "invalid type: sequence, expected a string"),
        ("[tokens]\naccess_token = s3cret", "the input, line 2: "),
        ("s3cret", "the input, line 1: "),
    ] {
        fs::write(folder.path().join("tokens.toml"), input).unwrap();
        let text = said(&plugin(&["call", "acme", "refresh", "--input", "tokens.toml"], folder.path()));
        assert!(text.contains(why), "{why}: {text}");
        assert!(!text.contains("s3cret") && !text.contains("5533001"), "{text}");
    }
}

#[test]
fn what_is_played_is_there_and_what_is_old_is_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let missing = said(&plugin(&["test", "acme.wasm"], folder.path()));
    assert!(missing.contains("acme.wasm cannot be read: No such file"), "{missing}");
    plugin(&["new", "acme", "--lang", "js"], folder.path());
    let project = folder.path().join("acme");
    fs::copy(GENERIC, project.join("acme.wasm")).unwrap();
    let built = fs::metadata(project.join("acme.wasm")).unwrap().modified().unwrap();
    let dated = |name: &str, seconds: u64| {
        let file = fs::File::options().write(true).open(project.join(name)).unwrap();
        file.set_modified(built + std::time::Duration::from_secs(seconds)).unwrap();
    };
    dated("acme.wasm", 60);
    let test = || said(&plugin(&["test", "acme"], folder.path()));
    assert!(!test().contains("is newer"), "{}", test());
    dated("exchanges/refresh.toml", 90);
    assert!(!test().contains("is newer"), "{}", test());
    dated("plugin.js", 90);
    let warned = "acme/plugin.js is newer than acme/acme.wasm: build it first with `palisade plugin build`";
    assert!(test().contains(warned), "{}", test());
    assert!(!test().contains("passed"), "{}", test());
    let named = said(&plugin(&["test", "acme/acme.wasm"], folder.path()));
    assert!(named.contains("passed"), "{named}");

    fs::write(project.join("package.json"), "{\"name\": \"acme\",}").unwrap();
    assert!(test().contains("acme/package.json: trailing comma at line 1"), "{}", test());
}

/// A program of the fake tools; `@` stands for the built-in component.
fn tool(path: &Path, script: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\n{}", script.replace('@', GENERIC))).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// With fake tools: which are run, and with what, when dependencies come and change.
#[test]
fn what_is_listed_is_installed_and_what_is_installed_is_built_in() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let build_tool =
        r#"echo "build $* in $VIRTUAL_ENV" >> ../asked; for last; do :; done; cat '@' > "$last""#;
    tool(&at("builder"), build_tool);
    tool(&at("bin/node"), "! grep -n 'const const' $2 >&2");
    tool(
        &at("bin/npm"),
        r#"echo "npm $1" >> ../asked; mkdir -p node_modules/.bin; cp ../builder node_modules/.bin/componentize-js"#,
    );
    tool(&at("pip"), r#"echo "pip $3" >> ../asked; cp ../builder .venv/bin/componentize-py"#);
    tool(&at("bin/python3"), r#"echo "venv" >> ../asked; mkdir -p .venv/bin; cp ../pip .venv/bin/python"#);
    let path = format!("{}:/usr/bin:/bin", at("bin").display());
    for (language, list, first, changed) in [
        ("js", "package.json", "npm install\nbuild", "npm install\nbuild"),
        ("python", "requirements.txt", "venv\npip install\nbuild", "pip install\nbuild"),
    ] {
        plugin(&["new", "acme", "--lang", language, "--path", language], folder.path());
        let build = || {
            let _ = fs::remove_file(at("asked"));
            let mut command = palisade();
            command.args(["plugin", "build", language]).current_dir(folder.path());
            let output = run(command.env("PATH", &path).env("VIRTUAL_ENV", "/elsewhere"), "");
            assert!(output.status.success(), "{}", said(&output));
            fs::read_to_string(at("asked")).unwrap()
        };
        let asked = build();
        assert!(asked.starts_with(first), "{asked}");
        let disabled = asked.split("-d ").nth(1).unwrap();
        match language {
            "js" => {
                assert!(disabled.starts_with("http fetch-event -o"), "{asked}");
                let source = at("js").join("plugin.js");
                let text = fs::read_to_string(&source).unwrap();
                fs::write(&source, format!("const const\n{text}")).unwrap();
                let mut command = palisade();
                command.args(["plugin", "build", "js"]).current_dir(folder.path()).env("PATH", &path);
                let slip = said(&run(&mut command, ""));
                assert!(slip.contains("plugin.js cannot be read:\n  1:const const"), "{slip}");
                fs::write(&source, text).unwrap();
            }
            _ => assert!(asked.contains("/python/.venv\n"), "{asked}"),
        }
        let again = build();
        assert!(again.starts_with("build"), "{again}");
        let text = fs::read_to_string(at(language).join(list)).unwrap();
        fs::write(at(language).join(list), text + "\n").unwrap();
        let asked = build();
        assert!(asked.starts_with(changed), "{asked}");
        let again = build();
        assert!(again.starts_with("build"), "{again}");
    }
}

#[test]
fn a_build_that_makes_nothing_of_use_leaves_the_last_component() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    tool(&at("bin/node"), "exit 0");
    tool(&at("bin/npm"), "exit 1");
    plugin(&["new", "acme", "--lang", "js"], folder.path());
    let path = format!("{}:/usr/bin:/bin", at("bin").display());
    let build = |script: &str| {
        tool(&at("acme/node_modules/.bin/componentize-js"), script);
        let mut command = palisade();
        command.args(["plugin", "build", "acme"]).current_dir(folder.path()).env("PATH", &path);
        run(&mut command, "")
    };
    let good = build(r#"for last; do :; done; cat '@' > "$last""#);
    assert!(good.status.success(), "{}", said(&good));
    let component = fs::read(at("acme/acme.wasm")).unwrap();
    for (script, why) in [
        (r#"for last; do :; done; echo junk > "$last""#, "it is not a WebAssembly component"),
        (r#"for last; do :; done; head -c 1000 '@' > "$last""#, "it is damaged"),
        (r#"for last; do :; done; echo junk > "$last"; echo broken >&2; exit 1"#, "broken"),
        (r#"echo You cannot call them during Wizer initialization. >&2; exit 1"#, "outside of functions"),
    ] {
        let refused = build(script);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        assert!(said(&refused).contains(why), "{why}: {}", said(&refused));
        assert!(fs::read(at("acme/acme.wasm")).unwrap() == component, "{why}: the component was replaced");
        assert!(!at("acme/.palisade").exists(), "{why}");
    }
    let refused = said(&build(r#"for last; do :; done; echo junk > "$last""#));
    assert!(refused.contains("The component from before is still there."), "{refused}");
}

/// Names of names of names: a component may have as many as it likes.
#[test]
fn a_type_of_many_names_is_refused_and_nothing_else_happens() {
    use std::fmt::Write as _;
    let folder = tempfile::tempdir().unwrap();
    let mut names = "type a0 = u64;\n".to_owned();
    for n in 1..20_000 {
        writeln!(names, "type a{n} = a{};", n - 1).unwrap();
    }
    let wit = changed("now: func() -> u64;", &format!("{names}now: func() -> a19999;"));
    fs::write(folder.path().join("x.wasm"), component(&wit)).unwrap();
    let output = plugin(&["check", "x.wasm"], folder.path());
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("instead of u64"), "{}", said(&output));
}
