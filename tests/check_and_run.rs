//! `palisade check` and a start take the same files and keys, and refuse the same in the same words; and one file serves
//! several places.

use std::fs;
use std::path::Path;

use crate::support::binary::{Program, palisade, refused, run};
use palisade::config;

const HEAD: &str = "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n";
const ROUTE: &str =
    "[[routes]]\nname = \"app\"\nupstream = [\"http://127.0.0.1:9\"]\nmatch.host = \"localhost\"\n";

/// What `check` says of the configuration in `folder`; `None`: it is good.
fn checked(folder: &Path) -> Option<String> {
    let mut command = palisade();
    command.args(["check", "--config"]).arg(folder.join("config.toml"));
    let output = run(&mut command, "");
    (!output.status.success()).then(|| String::from_utf8(output.stderr).unwrap())
}

/// What a start says that must not succeed.
fn started(folder: &Path) -> String {
    let mut command = palisade();
    command.args(["run", "--config"]).arg(folder.join("config.toml"));
    refused(&mut command)
}

#[test]
fn a_damaged_file_fails_a_check_in_the_words_in_which_it_stops_a_start() {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let issuer = "[[issuers]]\nissuer = \"https://i.test\"\njwks = \"http://127.0.0.1:9/k\"\naudiences = [\"api\"]\n\
                  algorithms = [\"ES256\"]\nemail = \"verified\"\nca = \"file\"\n";
    let tokens = "[tokens]\nalgorithm = \"ES256\"\nkey = \"file:file\"\n";
    let tls = "tls = { listen = \"127.0.0.1:0\", cert = \"CERT\", key = \"KEY\" }\n";
    let tls = |cert: &str, key: &str| tls.replace("CERT", cert).replace("KEY", key);
    let mail = "[mail]\ntransport = \"smtps://localhost:9\"\nca = \"file\"\n";
    let upstream = |keys: &str| {
        let route = "[[routes]]\nname = \"up\"\nupstream = [\"https://127.0.0.1:9\"]\nmatch.host = \"up.localhost\"\n";
        format!("{route}{keys}\n")
    };
    for (name, of_server, after, content) in [
        ("tokens.key", "", tokens, "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"),
        ("tokens.key", "", tokens, "hunter2"),
        ("tokens.key", "", &*tokens.replace("ES256", "HS256"), "hunter2"),
        ("vault.keys", "", "[vault]\nkeys = [\"file:file\"]\n", "hunter2"),
        ("server.tls", &*tls("file", "key.pem"), "", "no certificate"),
        ("server.tls", &*tls("cert.pem", "file"), "", "no key"),
        ("sessions.geoip", "", "[sessions]\ngeoip = \"file\"\n", "no database"),
        ("fetch.ca", "", "[fetch]\nca = \"file\"\n", broken),
        ("fetch.ca", "", "[fetch]\nca = \"file\"\n", "no certificate"),
        ("issuers[0].ca", "", issuer, broken),
        ("mail.ca", "", mail, broken),
        ("routes.up", "", &*upstream("ca = \"file\""), broken),
        ("routes.up", "", &*upstream("client_cert = \"cert.pem\"\nclient_key = \"file\""), "hunter2"),
        ("logo", "", "[pages]\nlogo = \"file\"\n", "no image"),
        ("templates", "", "[mail]\ntemplates = \"templates\"\n", "unused"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let at = |file: &str| folder.path().join(file);
        fs::write(at("cert.pem"), &cert).unwrap();
        fs::write(at("key.pem"), &key).unwrap();
        fs::write(at("file"), content).unwrap();
        fs::create_dir(at("templates")).unwrap();
        fs::write(at("templates/verify_email.html"), "{{ broken").unwrap();
        fs::write(at("config.toml"), format!("{HEAD}{of_server}{after}{ROUTE}")).unwrap();
        let check = checked(folder.path()).unwrap_or_else(|| panic!("{name}: check takes it"));
        let start = started(folder.path());
        let same = |line: &&str| line.contains(name) && !line.starts_with("warning");
        let line = check.lines().find(same).unwrap_or_else(|| panic!("{name}: {check}"));
        assert!(start.contains(line), "{name}: check says\n{check}\nand the start\n{start}");
        assert!(!check.contains("hunter2") && !start.contains("hunter2"), "{name}: {check}{start}");
    }
}

#[test]
fn a_key_in_the_form_of_sec1_passes_the_check_and_signs() {
    let folder = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("openssl")
        .args(["ecparam", "-name", "prime256v1", "-genkey", "-out", "key.pem"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(made.status.success());
    assert!(fs::read_to_string(folder.path().join("key.pem")).unwrap().contains("BEGIN EC PRIVATE KEY"));
    let tokens = "[tokens]\nalgorithm = \"ES256\"\nkey = \"file:key.pem\"\n";
    fs::write(folder.path().join("config.toml"), format!("{HEAD}{tokens}{ROUTE}")).unwrap();
    assert_eq!(checked(folder.path()), None);
    drop(Program::start(folder.path()));
}

const SHARED: &str = "public_url = \"env:URL\"\n[server]\nlisten = \"env:LISTEN\"\nwatch = \"env:WATCH\"\n\
     header_timeout = \"env:TIMEOUT\"\nmax_connections = \"env:CONNECTIONS\"\ntrusted_proxies = [\"env:PROXY\"]\n\
     [tokens]\nalgorithm = \"env:ALGORITHM\"\nkey = \"env:KEY\"\n\
     [[routes]]\nname = \"app\"\nupstream = [\"http://${env:APP}:3000\"]\nmatch.host = \"env:HOST\"\n\
     require = { claims = { role = [\"env:ROLE\"] } }\n";

/// A place: the variables that it sets.
type Place<'p> = &'p [(&'p str, &'p str)];

const STAGING: Place<'_> = &[
    ("URL", "http://localhost:8080"),
    ("LISTEN", "127.0.0.1:8080"),
    ("WATCH", "true"),
    ("TIMEOUT", "5s"),
    ("CONNECTIONS", "100"),
    ("PROXY", "10.0.0.0/8"),
    ("ALGORITHM", "HS256"),
    ("KEY", "staging-secret-of-more-than-32-bytes"),
    ("APP", "127.0.0.1"),
    ("HOST", "localhost"),
    ("ROLE", "tester"),
];

const LIVE: Place<'_> = &[
    ("URL", "https://app.example.com"),
    ("LISTEN", "127.0.0.1:80"),
    ("WATCH", "false"),
    ("TIMEOUT", "30s"),
    ("CONNECTIONS", "5000"),
    ("PROXY", "192.0.2.1"),
    ("ALGORITHM", "HS256"),
    ("KEY", "live-secret-of-more-than-thirty-two-bytes"),
    ("APP", "app.internal"),
    ("HOST", "app.example.com"),
    // A value that looks like a reference is none.
    ("ROLE", "env:ADMIN"),
];

fn parsed(place: Place<'_>) -> Result<config::Config, Vec<config::ConfigError>> {
    let env = |name: &str| {
        let found = place.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    config::parse(SHARED, Path::new("config.toml"), &env)
}

#[test]
fn one_file_serves_several_places() {
    let (staging, live) = (parsed(STAGING).unwrap(), parsed(LIVE).unwrap());
    assert_eq!(staging.hash, live.hash);
    assert_eq!(
        (&*staging.public_url, &*live.public_url),
        ("http://localhost:8080", "https://app.example.com")
    );
    assert_eq!((staging.server.watch, live.server.watch), (true, false));
    assert_eq!((staging.server.max_connections, live.server.max_connections), (100, 5000));
    let timeouts = [&staging, &live].map(|config| config.server.header_timeout.as_secs());
    assert_eq!(timeouts, [5, 30]);
    let hosts = [&staging, &live].map(|config| config.routes[0].upstream.origins[0].host.clone());
    assert_eq!(hosts, ["127.0.0.1", "app.internal"]);
    assert!(format!("{:?}", live.routes[0].policy.policy.require).contains("env:ADMIN"));
    assert_eq!(live.server.trusted_proxies.len(), 1);
}

#[test]
fn a_variable_that_is_missing_or_wrong_is_named_and_its_value_is_not() {
    for (name, _) in LIVE {
        let without: Vec<_> = LIVE.iter().copied().filter(|(known, _)| known != name).collect();
        let errors = config::error_lines(&parsed(&without).unwrap_err());
        let named = format!("the variable {name} to be set");
        assert!(errors.contains(&named), "{name}: {errors}");
        // The key is held against the default algorithm, then.
        assert!(errors.lines().count() == 1 || *name == "ALGORITHM", "{name}: {errors}");
        if ["APP", "ROLE"].contains(name) {
            continue;
        }
        let wrong: Vec<_> = LIVE
            .iter()
            .map(|(known, value)| (*known, if known == name { "hunter2 /\\ hunter2" } else { value }))
            .collect();
        let errors = config::error_lines(&parsed(&wrong).err().unwrap_or_default());
        assert!(!errors.contains("hunter2"), "{name}: {errors}");
        assert!(*name == "KEY" || errors.contains(&format!("env:{name}")), "{name}: {errors}");
    }
}

#[test]
fn the_settings_of_providers_keep_their_own_templates_and_take_references_as_a_whole() {
    let text = format!(
        "{ROUTE}[vault]\nkeys = [\"env:VAULT\"]\n[[providers]]\nname = \"bank\"\ncomponent = \"builtin:oauth2\"\n\
         client_id = \"env:ID\"\nallowed_hosts = [\"env:BANK\"]\n[providers.settings]\n\
         token_url = \"https://${{server}}.bank.test/${{env:ID}}\"\nheader = \"env:ID\"\n"
    );
    let env = |name: &str| match name {
        "ID" => Some("client".to_owned()),
        "BANK" => Some("api.bank.test".to_owned()),
        "VAULT" => Some("A".repeat(43)),
        _ => None,
    };
    let config = config::parse(&text, Path::new("config.toml"), &env).unwrap();
    let provider = &config.providers[0];
    assert_eq!(provider.allowed_hosts[0].host, "api.bank.test");
    assert_eq!(provider.settings["token_url"], "https://${server}.bank.test/${env:ID}");
    assert_eq!(provider.settings["header"], "client");
}

#[test]
fn a_start_that_waits_for_its_database_ends_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    // What comes here is closed at once, as by a database that is away.
    let away = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = away.local_addr().unwrap();
    std::thread::spawn(move || away.incoming().for_each(drop));
    let key = folder.path().join("key");
    fs::write(&key, "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE").unwrap();
    let text = format!(
        "public_url = \"http://localhost:8080\"\n[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\
         [store]\nurl = \"postgres://palisade@{place}/palisade\"\n\
         [vault]\nkeys = [\"file:{}\"]\n",
        key.display()
    );
    fs::write(folder.path().join("config.toml"), text).unwrap();
    let gateway = Program::start_until(folder.path(), "waits for the database");
    assert!(gateway.began.contains(&place.to_string()), "{}", gateway.began);
    assert_eq!(gateway.stop().code(), Some(0));
}
