//! The tools of plugin authors, as a program: what `palisade plugin …` says of good and of broken components.

mod support;

use std::fs;
use std::path::Path;
use std::process::Output;

use support::binary::{palisade, run};
use support::components::{WIT, of as component};

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
            "it speaks palisade:provider/plugin@0.2.0",
            "it is newer than this Palisade, which serves 0.1.0: upgrade Palisade",
        ),
        (
            "older WIT",
            component(&WIT.replace("palisade:provider@0.1.0", "palisade:provider@0.0.1")),
            "it speaks palisade:provider/plugin@0.0.1",
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

#[test]
fn a_configured_provider_is_called_by_its_name() {
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
