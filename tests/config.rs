//! `config.toml`, from files: each in `config/good` loads, each folder in `config/bad` gives exactly the
//! errors beside it. With `PALISADE_BLESS=1` the errors are written instead of compared; read the diff.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use palisade::config::{
    self, AccessTokenField, AllowedHost, BUILT_IN, Component, Config, ConfigError, Cors, IntrospectionAuth,
    MailTransport, OptionalMembers, Origins, PluginLimits, PostgresTls, SharedStore, SmtpTls, StoreUrl,
};
use palisade_core::domain::account::{Registration, Verification};
use palisade_core::domain::browser::{NamedOrigin, SessionUse, SignInPage};
use palisade_core::domain::claim_path::ClaimPath;
use palisade_core::domain::identity_fields::{IdentitySource, TextEncoding};
use palisade_core::domain::page::PageName;
use palisade_core::domain::route::{Auth, AuthorizationField, Carriers, FailMode};
use palisade_core::domain::upstream_path::UpstreamPath;
use secrecy::ExposeSecret as _;

const HOUR: Duration = Duration::from_secs(3600);
const SECRET: &str = "correct-horse-battery-staple-0123456789";

fn env(name: &str) -> Option<String> {
    match name {
        "SECRET" => Some(SECRET.to_owned()),
        "SHORT" => Some("hunter2".to_owned()),
        "EMPTY" => Some(String::new()),
        "VAULT_NEW" => Some("VAULT_KEY_IS_IN_NO_MESSAGE_AT_ALL_EVER_1234".to_owned()),
        // The same bytes.
        "VAULT_NEW_AS_HEX" => {
            Some("54050b4ff28463f212fc837f34efcc112480184fc04ff00b2ff115111ff5db7e".to_owned())
        }
        "VAULT_OLD" => Some("hJ3zLZxkBvK0sS0kUu1cJ0rJcG9yq3e1m2b4c6d8e0A=".to_owned()),
        "WEBHOOK" => Some("whsec_aGVsbG8gaGVsbG8gaGVsbG8gaGVsbG8h".to_owned()),
        "NOT_BASE64" => Some("whsec_hunter2-hunter2-hunter2-hunter2***".to_owned()),
        _ => None,
    }
}

fn entries(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(folder);
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn parse(path: &Path) -> Result<Config, Vec<ConfigError>> {
    config::parse(&fs::read_to_string(path).unwrap(), path, &env)
}

fn good(name: &str) -> Config {
    parse(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/good").join(name)).unwrap()
}

fn inline(text: &str) -> Result<Config, Vec<ConfigError>> {
    config::parse(text, Path::new("config.toml"), &env)
}

#[test]
fn good_files_load() {
    for path in entries("good") {
        if path.extension().is_some_and(|extension| extension == "toml")
            && let Err(errors) = parse(&path)
        {
            panic!("{path:?}: {errors:#?}");
        }
    }
}

#[test]
fn bad_files_give_their_errors() {
    let mut cases = 0;
    for folder in entries("bad") {
        let errors = parse(&folder.join("config.toml")).expect_err(&folder.display().to_string());
        let prefix = format!("{}/", folder.display());
        let told: String = errors.iter().map(|error| format!("{error}\n").replacen(&prefix, "", 1)).collect();
        for secret in [SECRET, "hunter2", "IS_IN_NO_MESSAGE"] {
            assert!(!told.contains(secret), "{folder:?} prints a secret");
        }
        let expected = folder.join("errors.txt");
        if std::env::var_os("PALISADE_BLESS").is_some() {
            fs::write(&expected, &told).unwrap();
        }
        assert_eq!(told, fs::read_to_string(&expected).unwrap_or_default(), "{folder:?}");
        cases += 1;
    }
    assert!(cases >= 15);
}

#[test]
fn references_inside_texts_stand_for_their_values_and_for_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    fs::write(folder.path().join("host.txt"), "app.test\r\n").unwrap();
    fs::write(folder.path().join("key.txt"), "hunter2hunter2hunter2hunter2hunter2\n").unwrap();
    let odd = "a\"]\nlisten = [\"0.0.0.0:1\"]\n${env:HOST} $${x} env:SECRET";
    let env = |name: &str| match name {
        "HOST" => Some("127.0.0.1".to_owned()),
        "PORT" => Some("3000".to_owned()),
        "ODD" => Some(odd.to_owned()),
        "REFERENCE" => Some("env:PORT-and-some-more-to-make-it-long-enough".to_owned()),
        "FOLDER" => Some("key".to_owned()),
        "VAULT" => Some("VAULT_KEY_IS_IN_NO_MESSAGE_AT_ALL_EVER_1234".to_owned()),
        "https_proxy" | "HTTPS_PROXY" | "no_proxy" | "NO_PROXY" => None,
        other => panic!("{other} was asked for"),
    };
    let read = |key: &str| {
        let text = format!(
            "public_url = \"https://${{file:host.txt}}\"\n\
             [tokens]\naudience = \"${{env:ODD}}\"\nissuer = \"$${{env:NOT_READ}} $5 ${{env:PORT}}\"\n\
             algorithm = \"HS256\"\nkey = \"{key}\"\n\
             [vault]\nkeys = [\"${{env:VAULT}}\"]\n\
             [[routes]]\nname = \"app\"\nupstream = [\"http://${{env:HOST}}:${{env:PORT}}\"]\n\
             [[providers]]\nname = \"bank\"\ncomponent = \"builtin:oauth2\"\nclient_id = \"id-${{env:PORT}}\"\n\
             allowed_hosts = [\"bank.test\"]\n[providers.settings]\nurl = \"https://${{shop}}/${{env:NOT_READ}}/$${{x}}\"\n"
        );
        config::parse(&text, &path, &env).unwrap_or_else(|errors| panic!("{errors:#?}"))
    };
    let config = read("${file:key.txt}");
    assert_eq!(config.public_url, "https://app.test");
    // Neither syntax nor a reference comes from a value.
    assert_eq!(config.tokens.audience, odd);
    assert_eq!(config.server.listen, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(config.tokens.issuer, "${env:NOT_READ} $5 3000");
    assert_eq!(config.routes[0].upstream.origins[0].port, 3000);
    assert_eq!(config.providers[0].client_id.expose_secret(), "id-3000");
    assert_eq!(config.providers[0].settings["url"], "https://${shop}/${env:NOT_READ}/$${x}");
    let key = |config: Config| config.tokens.key.unwrap().expose_secret().to_owned();
    assert_eq!(key(config), "hunter2hunter2hunter2hunter2hunter2");
    assert_eq!(key(read("${env:REFERENCE}")), "env:PORT-and-some-more-to-make-it-long-enough");
    assert_eq!(key(read("file:${env:FOLDER}.txt")), "hunter2hunter2hunter2hunter2hunter2");
}

#[test]
fn what_came_from_a_reference_is_in_no_message_as_it_is_or_as_it_is_read() {
    let env = |name: &str| {
        Some(match name {
            "TINY" => "no".to_owned(),
            "HOST" => "App.Internal.Test".to_owned(),
            "https_proxy" | "HTTPS_PROXY" | "no_proxy" | "NO_PROXY" => return None,
            other => panic!("{other} was asked for"),
        })
    };
    let read = |text: &str| config::parse(text, Path::new("config.toml"), &env);
    // Too short to be looked for in messages, but this one is about it.
    let errors = read("public_url = \"${env:TINY}\"\n").unwrap_err();
    assert_eq!(errors[0].found, "\"${env:TINY}\"");
    let text = "public_url = \"https://${env:HOST}\"\n[browser]\nenabled = false\n[native]\nhosts = [\"other.test\"]\n";
    let warnings = read(text).unwrap().warnings.join("\n");
    assert!(
        warnings.contains("native.hosts: links in mail") && warnings.contains("name ${env:HOST},"),
        "{warnings}"
    );
    assert!(!warnings.to_lowercase().contains("internal"), "{warnings}");
}

#[test]
fn the_hash_is_that_of_the_text_and_not_of_values() {
    let text = "public_url = \"https://${env:HOST}\"\n";
    let hash = |text: &str, host: &str| {
        config::parse(text, Path::new("config.toml"), &|_| Some(host.to_owned())).unwrap().hash
    };
    // printf 'public_url = "https://${env:HOST}"\n' | sha256sum
    let known = "fa8556cd27199d9ba639eefabec1f6b3ca64da2d9342a43aa6360796d381c9ad";
    assert_eq!(hash(text, "a.test"), known);
    assert_eq!(hash(text, "b.test"), known);
    assert_ne!(hash(&format!("{text}\n"), "a.test"), known);
}

#[test]
fn a_warning_shows_the_reference_instead_of_its_value() {
    let env = |_: &str| Some("http://hunter2.test".to_owned());
    let text = "public_url = \"${env:URL}\"\n[[routes]]\nname = \"a\"\nmatch = { path = \"/auth\" }\n\
                upstream = [\"${env:URL}\"]\n";
    let config = config::parse(text, Path::new("config.toml"), &env).unwrap();
    let told = [config.warnings, config.exposures, config.unsent_emails].concat().join("\n");
    assert!(!told.contains("hunter2") && told.contains("public_url"), "{told}");
}

#[test]
fn the_shipped_file_loads_and_says_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.toml");
    let shipped = config::parse(&fs::read_to_string(&path).unwrap(), &path, &|_| None).unwrap();
    assert_eq!(shipped.warnings, Vec::<String>::new());
    assert_eq!(shipped.routes.len(), 1);
    assert_eq!(shipped.routes[0].upstream.origins[0].port, 3000);

    // Beside the route and what only an operator may open, an empty file means the same.
    let mut defaults = config::parse("", &path, &|_| None).unwrap();
    assert_eq!(defaults.accounts.registration(), Registration::Invited);
    defaults.routes.clone_from(&shipped.routes);
    defaults.accounts.registration = Some(Registration::Open);
    defaults.exposures.clone_from(&shipped.exposures);
    defaults.hash.clone_from(&shipped.hash);
    defaults.warnings.clear();
    assert_eq!(format!("{defaults:?}"), format!("{shipped:?}"));
}

#[test]
fn every_commented_key_of_the_shipped_file_is_a_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.toml");
    let text = fs::read_to_string(&path).unwrap();
    let uncommented = |line: &str| {
        let bare = line.trim_start_matches("# ");
        let key = bare.split_once(" = ").is_some_and(|(key, _)| {
            key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        });
        if line.starts_with("# ") && (key || bare.starts_with('[')) {
            bare.to_owned()
        } else {
            line.to_owned()
        }
    };
    let text: Vec<String> = text.lines().map(uncommented).collect();
    let errors = config::parse(&text.join("\n"), &path, &|_| None).unwrap_err();
    // Files and variables that are not there, and a domain that is not public_url's, are all that may be wrong.
    let missing = [
        "no file",
        "no folder",
        "env:",
        "\"ca.pem\"",
        ".mmdb\"",
        "a password",
        "\"example.com\"",
        "a sled store",
    ];
    for error in errors {
        assert!(missing.iter().any(|found| error.found.contains(found)), "{error}");
    }
}

#[test]
fn a_route_forgets_nothing() {
    let config = good("full.toml");
    let api = &config.routes[0];
    assert_eq!(api.policy.paths[0].as_str(), "/api");
    assert_eq!(api.policy.methods, ["GET", "POST"]);
    assert_eq!(api.policy.policy.auth, Auth::Optional);
    assert_eq!(
        api.policy.policy.require.claims,
        [(ClaimPath::parse("role").unwrap(), vec!["admin".to_owned()])]
    );
    assert!(api.policy.allow.encoded_slash && !api.policy.allow.empty_segment);
    assert_eq!(api.upstream.max_body, Some(10_000_000));
    assert_eq!(api.upstream.read_timeout, Duration::from_secs(300));
    assert_eq!(api.forward.subject.as_deref(), Some("X-Person"));
    assert_eq!(api.forward.issuer.as_deref(), Some("X-Person-Of"));
    assert_eq!(api.forward.session, None);
    assert_eq!(api.forward.assertion.as_deref(), Some("X-Auth-Assertion"));
    assert_eq!(api.forward.inject.as_deref(), Some("bank"));
    assert_eq!(config.routes[1].policy.index, 1);
}

#[test]
fn probes_are_where_the_file_says_and_a_route_that_loses_a_path_is_named() {
    let server = good("full.toml").server;
    assert_eq!(server.health, Some(([0, 0, 0, 0], 9181).into()));
    assert_eq!(server.ping_path.as_deref(), Some("/ping"));
    let server = good("minimal.toml").server;
    assert!(server.health.is_none() && server.ping_path.is_none());
    let warnings = |path: &str| {
        let route = format!(
            "[[routes]]\nname = \"app\"\nmatch = {{ path = {path:?} }}\nupstream = [\"http://127.0.0.1:3000\"]\n"
        );
        inline(&format!("[server]\nping_path = \"/up\"\n{route}")).unwrap().warnings
    };
    let [warning] = &warnings("/up")[..] else { panic!("{:?}", warnings("/up")) };
    assert!(warning.starts_with("config.toml:2: server.ping_path: GET /up "), "{warning}");
    assert!(warning.contains("route app "), "{warning}");
    assert_eq!(warnings("/"), [""; 0]);
}

#[test]
fn what_a_rule_says_is_kept_in_every_form() {
    let config = good("rules.toml");
    let texts = |values: &[String]| values.join(" ");
    let [home, app, reports] = [0, 1, 2].map(|index| &config.routes[index].policy);
    assert_eq!(texts(&home.hosts.iter().map(ToString::to_string).collect::<Vec<_>>()), "app.test *.app.test");
    // An address is a network of one, and IPv4 is IPv4 however it is written.
    let networks: Vec<String> = home.networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["192.168.0.0/16", "10.0.0.7/32", "fd00::/8", "10.1.0.0/16"]);
    assert!(app.networks.is_empty() && home.paths[0].as_str() == "/");
    let paths: Vec<&str> = reports.paths.iter().map(|path| path.as_str()).collect();
    assert_eq!(paths, ["/reports", "=/reports/*/raw.csv", "=/summary/", "/v%2A", "/x*-report"]);
    assert_eq!(reports.methods, ["GET", "HEAD"]);
    let public: Vec<String> =
        app.public.iter().map(|public| format!("{} {}", texts(&public.methods), public.path)).collect();
    for entry in [
        "GET /static",
        "GET HEAD =/robots.txt",
        "POST =/saml/acs",
        "GET HEAD =/*.js",
        "POST /projects/*/hooks",
        "GET HEAD /projects/open",
        "GET HEAD =/manifest.json",
    ] {
        assert!(public.iter().any(|other| other == entry), "{entry}: {public:#?}");
    }
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn networks_that_give_more_are_warned_of_while_no_proxy_is_named() {
    let route = |name: &str, keys: &str| {
        format!("[[routes]]\nname = \"{name}\"\nupstream = \"http://127.0.0.1:3000\"\n{keys}\n")
    };
    let warned = |server: &str, routes: &[String]| -> Vec<String> {
        let config = inline(&format!("[server]\n{server}\n{}", routes.concat())).unwrap();
        config.warnings.into_iter().filter(|line| line.contains(".match.networks: ")).collect()
    };
    let lan = "match.networks = [\"192.168.0.0/16\"]\n";
    let app = route("app", "");
    let open = route("home", &format!("{lan}auth = \"none\""));
    let said = warned("", &[open.clone(), app.clone()]);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].starts_with("config.toml:6: routes[0].match.networks: route \"home\" gives clients"),
        "{said:?}"
    );
    assert!(said[0].contains("more than route \"app\" gives others"), "{said:?}");
    assert_eq!(warned("trusted_proxies = [\"10.0.0.2\"]", &[open.clone(), app.clone()]), [""; 0]);
    for (keys, others, is_warned) in [
        ("auth = \"optional\"", "", true),
        ("", "require = { scopes = [\"read\"] }", true),
        ("", "require = { email_verified = true }", true),
        ("require = { claims = { role = [\"a\", \"b\"] } }", "require = { claims = { role = \"a\" } }", true),
        ("", "issuers = [\"http://localhost:8080\"]", true),
        ("authorization = \"app\"\nwithout_session = \"app\"", "", true),
        ("public = [\"/x\"]", "", true),
        // The same, or less.
        ("", "", false),
        ("public = [\"/x\"]", "public = [\"/x\", \"/y\"]", false),
        ("require = { scopes = [\"read\"] }", "", false),
        ("", "auth = \"none\"", false),
        (
            "require = { claims = { role = \"a\" } }",
            "require = { claims = { role = [\"a\", \"b\"] } }",
            false,
        ),
    ] {
        let said = warned("", &[route("home", &format!("{lan}{keys}")), route("app", others)]);
        assert_eq!(!said.is_empty(), is_warned, "{keys} / {others}: {said:?}");
    }
    // Without the rule a wider one would answer, or none.
    let below = |auth: &str| route("lan", &format!("match.path = \"/x\"\n{lan}auth = \"{auth}\""));
    assert_eq!(warned("", &[below("none"), app.clone()]).len(), 1);
    assert_eq!(warned("", &[below("required"), app]), [""; 0]);
    assert!(warned("", &[below("none")])[0].contains("more than others, who get nothing there"));
    assert_eq!(warned("", &[below("required")]), [""; 0]);
    // The star of `/admin/*` leaves `/admin` to a rule that asks for less.
    let stars = |keys: &str, others: &str| -> Vec<String> {
        let text =
            route("admin", &format!("match.path = [\"/x\", \"/admin/*\"]\n{keys}")) + &route("app", others);
        let config = inline(&text).unwrap();
        config.warnings.into_iter().filter(|line| line.contains("takes what is below /admin")).collect()
    };
    let said = stars("", "auth = \"none\"");
    assert!(said.len() == 1 && said[0].contains("routes[0].match.path[1]: "), "{said:?}");
    assert_eq!(stars("match.networks = [\"10.0.0.7\"]", "").len(), 1);
    assert_eq!(stars("", ""), [""; 0]);
    assert_eq!(stars("auth = \"none\"", ""), [""; 0]);
    // A network of every client is no network.
    let wide = |entry: &str| {
        let warnings = inline(&route("app", &format!("public = [\"{entry}\"]"))).unwrap().warnings;
        warnings.into_iter().filter(|line| line.contains(".public[0]: ")).count()
    };
    assert_eq!(["/*.js", "/a/x*", "/", "/*", "/*/*"].map(wide), [1; 5]);
    assert_eq!(["=/*.js", "/static", "/a/*", "=/*", "=/", "/*.d/x"].map(wide), [0; 6]);
    let held = |proxies: &str| {
        let keys = route("home", "match.networks = [\"10.0.0.0/24\"]");
        let config = inline(&format!("[server]\ntrusted_proxies = [{proxies}]\n{keys}")).unwrap();
        config.warnings.into_iter().filter(|line| line.contains("no client is in 10.0.0.0/24")).count()
    };
    assert_eq!(["\"10.0.0.0/8\"", "\"10.0.0.0/24\"", "\"10.0.0.2\"", ""].map(held), [1, 1, 0, 0]);
    let rebound = |host: &str, auth: &str| {
        let keys = format!("match = {{ {host}networks = [\"10.0.0.7\"] }}\nauth = \"{auth}\"");
        let warnings = inline(&route("home", &keys)).unwrap().warnings;
        warnings.into_iter().filter(|line| line.contains("DNS rebinding")).count()
    };
    assert_eq!([rebound("", "none"), rebound("", "optional"), rebound("", "required")], [1, 1, 0]);
    assert_eq!(rebound("", "required\"\npublic = [\"/feed\"]\n#"), 1);
    assert_eq!(rebound("host = \"*.app.test\", ", "none"), 0);
    let wide = inline(&route("home", "match.networks = [\"0.0.0.0/0\"]")).unwrap().warnings;
    assert!(wide.iter().any(|line| line.contains("match.networks[0]: so wide a network")), "{wide:?}");
}

#[test]
fn what_a_verification_needs_is_the_operators_choice() {
    assert_eq!(good("full.toml").accounts.verification, Verification::Proof);
    assert_eq!(good("minimal.toml").accounts.verification, Verification::Link);
}

#[test]
fn what_the_file_says_of_browsers_is_kept() {
    let config = good("full.toml");
    let origin = |text: &str| NamedOrigin::parse(text).unwrap();
    let browser = &config.browser;
    assert!(browser.enabled && !browser.insecure_http);
    assert_eq!(browser.hosts, [origin("https://notes.test"), origin("https://maps.example.com:8443")]);
    assert_eq!(browser.domain.as_deref(), Some("example.com"));
    assert_eq!((browser.idle, browser.absolute), (HOUR, HOUR * 24 * 7));
    assert_eq!((browser.remember, browser.uses), (None, SessionUse::Navigation));
    assert_eq!(browser.return_to, [origin("https://www.example.com"), origin("http://localhost:5173")]);
    assert!(config.warnings.iter().any(|line| line.contains("browser.domain: every host below example.com")));

    assert_eq!(config.pages.name.as_deref(), Some("Example, Inc"));
    assert_eq!(config.pages.accent.as_deref(), Some("#0b57d0"));
    assert_eq!(config.pages.languages, ["de", "pt-BR"]);
    assert!(config.pages.logo.as_ref().unwrap().ends_with("good/dummy.svg"));
    let urls = [
        (PageName::SignIn, "https://app.example.com/in?app=1".to_owned()),
        (PageName::Undo, "https://app.example.com/u".to_owned()),
    ];
    assert_eq!(config.pages.urls, urls);

    let route = &config.routes[0].policy.browser;
    assert_eq!(route.sign_in, SignInPage::At("https://app.example.com/in".to_owned()));
    assert_eq!(route.app_cookies, ["sessionid", "_xsrf"]);
    assert!(route.is_cache_shared);
    assert_eq!(route.uses, Some(SessionUse::Never));
    let public = &config.routes[0].policy.public;
    assert!(public.iter().any(|open| open.path.as_str() == "=/api/manifest.json"), "{public:?}");
    assert!(config.routes[3].policy.public.is_empty());
    assert_eq!(config.accounts.registration(), Registration::Closed);
}

#[test]
fn what_the_file_does_not_say_of_browsers_fits_the_rest() {
    let route = "[[routes]]\nname = \"a\"\nupstream = \"http://127.0.0.1:3000\"\n";
    let config = inline(&format!(
        "public_url = \"https://app.test:8443\"\n[sessions]\nabsolute_ttl = \"1h\"\n{route}match.host = \"a.test\"\n\
         {}match.host = \"*.b.test\"\n{}",
        route.replace("\"a\"", "\"b\""),
        route.replace("\"a\"", "\"c\"")
    ));
    let browser = config.unwrap().browser;
    assert_eq!((browser.idle, browser.absolute, browser.remember), (HOUR, HOUR, Some(HOUR)));
    let hosts: Vec<String> = browser.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["https://a.test", "https://a.test:8443"], "never what only a wildcard matches");

    // The whole cookie would cross the network in cleartext: only where the operator says so.
    let hosts = |text: &str| {
        let config = inline(&format!("{text}\n{route}match.host = \"a.test\"\n")).unwrap();
        let hosts: Vec<String> = config.browser.hosts.iter().map(ToString::to_string).collect();
        (config.browser.enabled, hosts, config.warnings)
    };
    let (enabled, found, _) = hosts("public_url = \"http://localhost\"");
    assert_eq!((enabled, found), (true, Vec::new()));
    let (enabled, found, warnings) = hosts("public_url = \"http://app.test\"");
    assert_eq!((enabled, found), (false, Vec::new()));
    assert!(warnings.iter().any(|line| line.contains("no session can travel in a cookie")), "{warnings:?}");
    let (enabled, found, warnings) =
        hosts("public_url = \"http://app.test\"\n[browser]\ninsecure_http = true");
    assert_eq!((enabled, found), (true, vec!["http://a.test".to_owned()]));
    assert!(warnings.iter().any(|line| line.contains("browser.insecure_http: ")), "{warnings:?}");
    let (enabled, _, warnings) = hosts("public_url = \"http://app.test\"\n[browser]\nenabled = false");
    assert!(!enabled && !warnings.iter().any(|line| line.contains("cookie")), "{warnings:?}");
}

#[test]
fn whose_the_authorization_field_is_is_kept_and_said() {
    let config = good("full.toml");
    let carriers = |at: usize| &config.routes[at].policy.policy.carriers;
    assert_eq!(carriers(2).authorization, AuthorizationField::Apps { without_session: true });
    assert_eq!(carriers(2).header.as_deref(), Some("x-gate-token"));
    assert_eq!(carriers(1), &Carriers::default());
    let warned: Vec<_> = config.warnings.iter().filter(|line| line.contains("without_session")).collect();
    assert_eq!(warned.len(), 1, "{warned:?}");
    let text = "route \"dashboards\" is open to every client that sends an Authorization field";
    assert!(warned[0].contains(text), "{warned:?}");

    let route = "[[routes]]\nname = \"a\"\nupstream = \"http://127.0.0.1:3000\"\nauthorization = \"app\"\n";
    for auth in ["required", "optional"] {
        let config = inline(&format!("{route}auth = \"{auth}\"\n")).unwrap();
        let field = config.routes[0].policy.policy.carriers.authorization;
        assert_eq!(field, AuthorizationField::Apps { without_session: false }, "{auth}");
        assert!(!config.warnings.iter().any(|line| line.contains("without_session")), "{auth}");
    }
}

#[test]
fn tokens_of_other_kinds_are_taken_where_a_route_names_their_issuer() {
    let config = good("other-issuers.toml");
    let carriers = |at: usize| &config.routes[at].policy.policy.carriers;
    let balancers = |at: usize| carriers(at).load_balancer.as_deref();
    let opaque = |at: usize| carriers(at).opaque.as_deref();
    assert_eq!((balancers(0), opaque(0)), (Some("https://alb.test"), Some("https://opaque.test")));
    assert_eq!((balancers(1), opaque(1)), (Some("https://gov.test"), None));
    assert_eq!((balancers(2), opaque(2)), (None, Some("https://both.test")));
    assert_eq!((balancers(3), opaque(3)), (None, None));
    let keys: Vec<_> = config.load_balancers.iter().map(|balancers| balancers.keys.as_str()).collect();
    let gov = "https://s3-us-gov-west-1.amazonaws.com/aws-elb-public-keys-prod-us-gov-west-1";
    let usual = "https://public-keys.auth.elb.eu-central-1.amazonaws.com";
    assert_eq!(keys, [usual, gov, "http://keys.internal:8080/alb"]);
    assert_eq!((config.load_balancers[0].signers.len(), config.load_balancers[1].clients.len()), (2, 2));
    let names: Vec<_> = config.issuers.iter().map(|issuer| issuer.issuer.as_str()).collect();
    assert_eq!(names, ["https://both.test"], "the others sign no JWTs that are taken");
    let [opaque, both] = config.introspected.as_slice() else { panic!("{:?}", config.introspected) };
    let asked = &opaque.introspection;
    assert_eq!((asked.cache, asked.timeout), (Duration::from_secs(10), Duration::from_secs(5)));
    assert_eq!((asked.in_flight, asked.per_second), (32, 50));
    assert_eq!(both.introspection.optional, OptionalMembers { iss: true, aud: true });
    assert_eq!(both.introspection.client_auth, IntrospectionAuth::Post);
    let warned = |text: &str| config.warnings.iter().filter(|line| line.contains(text)).count();
    assert_eq!(warned("no route names it"), 1, "{:?}", config.warnings);
    assert_eq!(warned("for any other app"), 1, "{:?}", config.warnings);
    // What a client secret is must not be in what is printed of a configuration.
    assert!(!format!("{:?}", config.introspected).contains(SECRET));
}

#[test]
fn a_token_for_an_apps_server_is_for_its_route_unless_the_file_says_otherwise() {
    let route = "[[routes]]\nname = \"wiki\"\nupstream = \"http://127.0.0.1:3000\"\n";
    let read =
        |headers: &str, tokens: &str| inline(&format!("{tokens}{route}headers = {{ {headers} }}\n")).unwrap();
    let token = |headers: &str| read(headers, "").routes[0].forward.access_token.clone();
    let some = |field: &str, audience: &str| {
        Some(AccessTokenField { field: field.to_owned(), audience: audience.to_owned() })
    };
    assert_eq!(token(""), None);
    assert_eq!(token("access_token = false"), None);
    assert_eq!(token("access_token = \"Authorization\""), some("Authorization", "wiki"));
    let own = "access_token = \"X-Forwarded-Access-Token\", audience = \"https://reports.test/\"";
    assert_eq!(token(own), some("X-Forwarded-Access-Token", "https://reports.test/"));
    for (headers, tokens, want) in [
        ("access_token = \"Authorization\"", "", None),
        (
            "access_token = \"Authorization\", audience = \"api\"",
            "",
            Some("open every route of this gateway"),
        ),
        (
            "access_token = \"X-Token\", audience = \"wiki\"",
            "[tokens]\naudience = \"wiki\"\n",
            Some("open every route of this gateway"),
        ),
        (
            "access_token = \"X-Token\"",
            "[tokens]\nalgorithm = \"HS256\"\nkey = \"${env:SECRET}\"\n",
            Some("no API can verify the token"),
        ),
    ] {
        let warned: Vec<_> = read(headers, tokens).warnings;
        let about: Vec<_> = warned.iter().filter(|line| line.contains("headers.access_token: ")).collect();
        assert_eq!(about.len(), usize::from(want.is_some()), "{headers} {tokens}: {warned:?}");
        assert!(want.is_none_or(|want| about[0].contains(want)), "{about:?}");
    }
}

#[test]
fn what_a_preset_trusts_an_issuer_with_is_said() {
    let issuer = "[[issuers]]\nissuer = \"https://issuer.test\"\njwks = \"https://issuer.test/keys\"\n\
                  audiences = [\"api\"]\nalgorithms = [\"ES256\"]\n";
    let read = |issuers: &str, headers: &str| {
        let route = format!(
            "[[routes]]\nname = \"wiki\"\nupstream = \"http://127.0.0.1:3000\"\nissuers = [\"{issuers}\"]\n\
             headers = {{ {headers} }}\n"
        );
        inline(&format!("{issuer}{route}")).unwrap_or_else(|errors| panic!("{errors:#?}"))
    };
    let (other, own) = ("https://issuer.test", "http://localhost:8080");
    let username = "preset = \"remote-user\", user = \"username\"";
    let trusts =
        |config: Config| config.warnings.iter().any(|line| line.contains("`preferred_username` names"));
    assert!(trusts(read(other, username)));
    assert!(!trusts(read(own, username)));
    assert!(!trusts(read(other, "preset = \"remote-user\", user = \"subject\"")));
    // What is sent for verified addresses alone is said of the field that a caller cannot do without.
    let unsent = read(other, "email = false, preset = \"remote-user\", user = \"email\"").unsent_emails;
    assert!(
        unsent.len() == 1 && unsent[0].contains("sends Remote-User only for tokens that say"),
        "{unsent:?}"
    );
    assert_eq!(read(other, "email = false, claims = { X-Team = \"team\" }").unsent_emails, [""; 0]);
}

#[test]
fn what_an_app_is_told_of_people_is_kept_with_what_each_header_is_made_of() {
    let config = good("full.toml");
    let route = |name: &str| config.routes.iter().find(|route| &*route.policy.name == name).unwrap();
    let wiki = route("wiki");
    let told = wiki.policy.policy.require.identity.as_ref().unwrap();
    let groups = ["Sales, EMEA", "staff"].map(str::to_owned).to_vec();
    assert_eq!((told.separator, &told.groups_only), (b'|', &Some(groups)));
    let claim = |name: &str| IdentitySource::Claim(ClaimPath::parse(name).unwrap());
    let (percent, utf8) = (TextEncoding::Percent, TextEncoding::Utf8);
    let fields =
        told.fields.iter().map(|field| (&*field.header, &field.source, field.encoding, field.is_list));
    let wanted = [
        ("Remote-User", IdentitySource::Username, utf8, false),
        ("Remote-Name", claim("display_name"), utf8, false),
        ("Remote-Groups", claim("groups"), percent, true),
        ("X-Auth-Department", claim("department"), percent, true),
        ("X-Auth-Groups", claim("groups"), percent, true),
    ];
    let wanted = wanted.iter().map(|(header, source, encoding, list)| (*header, source, *encoding, *list));
    assert!(fields.clone().eq(wanted), "{:?}", fields.collect::<Vec<_>>());
    let required: Vec<bool> = told.fields.iter().map(|field| field.is_required).collect();
    assert_eq!(required, [true, false, false, false, false]);
    // No client writes any of them, on any route.
    let names: Vec<&str> = wiki.forward.names(&wiki.policy.policy).collect();
    assert!(told.fields.iter().all(|field| names.contains(&&*field.header)), "{names:?}");
    let reports = route("reports").policy.policy.require.identity.as_ref().unwrap();
    assert_eq!((reports.separator, &reports.groups_only, reports.fields.len()), (b',', &None, 1));
    assert!(route("dashboards").policy.policy.require.identity.is_none());
}

#[test]
fn a_claim_path_is_one_however_it_is_written() {
    let claims = |text: &str| {
        let route = "[[routes]]\nname = \"app\"\nupstream = \"http://127.0.0.1:3000\"\n";
        let config = inline(&format!("{route}{text}")).unwrap();
        config.routes[0].policy.policy.require.claims.clone()
    };
    let of = |names: &[&str]| {
        let path = ClaimPath::new(names.iter().copied()).unwrap();
        vec![(path, vec!["x".to_owned()])]
    };
    let nested = of(&["realm_access", "roles"]);
    for text in [
        "require.claims = { \"realm_access.roles\" = \"x\" }",
        "require.claims = { realm_access.roles = [\"x\"] }",
        "require.claims = { realm_access = { roles = [\"x\"] } }",
        "require.claims.realm_access.roles = [\"x\"]",
        "[routes.require.claims.realm_access]\nroles = [\"x\"]",
        "require.claims = [{ claim = \"realm_access.roles\", values = \"x\" }]",
        "[[routes.require.claims]]\nclaim = [\"realm_access\", \"roles\"]\nvalues = [\"x\"]",
    ] {
        assert_eq!(claims(text), nested, "{text}");
    }
    let url = "https://example.com/roles";
    for text in [
        format!("require.claims = {{ \"{url}\" = [\"x\"] }}"),
        format!("require.claims = [{{ claim = \"{url}\", values = [\"x\"] }}]"),
        format!("require.claims = [{{ claim = [\"{url}\"], values = [\"x\"] }}]"),
    ] {
        assert_eq!(claims(&text), of(&[url]), "{text}");
    }
    assert_eq!(claims(&format!("require.claims = {{ \"{url}\" = {{ app = \"x\" }} }}")), of(&[url, "app"]));
    assert_eq!(claims("require.claims = [{ claim = [\"a.b\"], values = [\"x\"] }]"), of(&["a.b"]));
    assert_eq!(claims("require.claims = {}"), []);
}

#[test]
fn a_page_of_the_operators_is_where_mailed_links_lead() {
    let config = inline("[pages]\nurls = { verify = \"https://app.test/v\" }\n").unwrap();
    assert_eq!(config.mail.verify_url, "https://app.test/v");
    assert_eq!(config.mail.reset_url, "http://localhost:8080/auth/pages/reset");
}

#[test]
fn routes_that_let_in_more_than_meant_are_named() {
    let named = |text: &str| inline(text).unwrap().exposures;
    let route = "[[routes]]\nname = \"app\"\nupstream = \"http://127.0.0.1:3000\"\n";
    let open = |rest: &str| named(&format!("[accounts]\nregistration = \"open\"\n{route}{rest}"));
    let found = open("");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("config.toml:3: routes[0].auth: registration is open"), "{found:?}");
    assert!(found[1].contains("route \"app\" serves an app on the host of public_url"), "{found:?}");
    for rest in
        ["auth = \"none\"", "require = { scopes = [\"staff\"] }", "require.claims = { role = [\"staff\"] }"]
    {
        assert!(!open(rest).iter().any(|line| line.contains("registration")), "{rest}");
    }
    // What an address that is verified adds, every person with a mailbox has.
    assert!(open("require.email_verified = true").iter().any(|line| line.contains("registration")));
    for written in ["", "[accounts]\nregistration = \"closed\"\n"] {
        let found = named(&format!("{written}{route}"));
        assert!(!found.iter().any(|line| line.contains("registration")), "{found:?}");
    }
    let here = |rest: &str| named(&format!("public_url = \"https://app.b.test\"\n{rest}"));
    for (rest, is_named) in [
        ("match.host = \"app.b.test\"", true),
        ("match.host = \"*.b.test\"", true),
        ("match.host = \"*.test\"", true),
        ("match.path = \"/x\"", true),
        ("match.host = \"b.test\"", false),
        ("match.host = \"notes.test\"", false),
        ("match.path = \"/auth/x\"", false),
    ] {
        let found = here(&format!("{route}{rest}"));
        assert_eq!(found.iter().any(|line| line.contains("on the host of public_url")), is_named, "{rest}");
    }
    assert!(here(&format!("[browser]\nenabled = false\n{route}")).is_empty());
}

#[test]
fn what_works_in_browsers_but_is_not_meant_is_warned_of() {
    let warned = |text: &str, want: &str| {
        let warnings = inline(text).unwrap().warnings;
        assert!(warnings.iter().any(|line| line.contains(want)), "{want}: {warnings:?}");
    };
    let route = "[[routes]]\nname = \"app\"\nupstream = \"http://127.0.0.1:3000\"\n";
    warned(
        &format!("{route}token.cookie = \"__Host-palisade\""),
        "routes[0].token.cookie: cookies whose names",
    );
    warned(&format!("{route}auth = \"none\"\nsign_in = true"), "routes[0].sign_in: without effect");
    warned("[pages]\nurls.account = \"http://app.test/a\"", "pages.urls.account: ");
}

#[test]
fn a_provider_forgets_nothing() {
    let config = good("full.toml");
    let [bank, own] = &config.providers[..] else { panic!("{:?}", config.providers) };
    assert_eq!((bank.name.as_str(), bank.display_name.as_deref()), ("bank", Some("The Bank of Łódź")));
    assert_eq!(bank.component, Component::BuiltIn("oauth2".to_owned()));
    let digest = bank.sha256.unwrap();
    assert_eq!((digest[0], digest[31]), (0xe3, 0x55));
    let host = |host: &str, wildcard, port| AllowedHost { host: host.to_owned(), wildcard, port };
    let hosts = [
        host("api.bank.test", false, None),
        host("bank.test", true, Some(8443)),
        host("127.0.0.1", false, Some(9000)),
        host("[::1]", false, None),
        host("localhost", false, Some(9001)),
    ];
    assert_eq!(bank.allowed_hosts, hosts);
    assert!(bank.allow_loopback && config.warnings.iter().any(|line| line.contains("allow_loopback")));
    assert!(bank.reach.ca.as_ref().unwrap().named.ends_with("good/dummy.pem"));
    assert_eq!(bank.scopes, ["readonly", "https://bank.test/auth/trade"]);
    let access = bank.token_access.as_ref().unwrap();
    assert_eq!(access.scopes, ["bank-tokens"]);
    assert_eq!(access.claims, [(ClaimPath::parse("role").unwrap(), vec!["broker".to_owned()])]);
    let settings = serde_json::json!({
        "authorize_url": "https://api.bank.test/authorize",
        "pkce": true,
        "since": "2026-01-31",
        "at": "1979-05-27T07:32:00Z",
        "extra": {"authorize": {"prompt": "consent"}, "retries": 1000, "ratio": 10.5, "list": ["a", 16, false]},
    });
    assert_eq!(serde_json::Value::Object(bank.settings.clone()), settings);
    let limits = PluginLimits {
        deadline: Duration::from_secs(5),
        // Not asked for, and never longer than the whole call.
        request_timeout: Duration::from_secs(5),
        memory: 32 << 20,
        response: 4096,
        requests: 3,
        concurrency: 2,
    };
    assert_eq!(bank.limits, limits);

    let Component::File(file) = &own.component else { panic!("{:?}", own.component) };
    assert!(file.ends_with("good/dummy.wasm"));
    assert!(own.token_access.is_none() && own.display_name.is_none() && !own.allow_loopback);
    assert_eq!(
        own.limits,
        PluginLimits { request_timeout: Duration::from_secs(20), ..PluginLimits::default() }
    );
}

#[test]
fn connections_forget_nothing() {
    let config = good("full.toml");
    let connections = config.connections;
    let pages =
        ["https://app.example.com/settings?tab=1", "https://app.example.com/done", "http://localhost:5173/"];
    assert_eq!(connections.return_to, pages);
    assert_eq!(connections.refresh_ahead, Duration::from_secs(60));
    assert!(!connections.keep_fresh);
    assert_eq!(connections.warn_ahead, Duration::from_secs(3 * 86_400));
    assert!(connections.cache.unwrap().ends_with("good/cache"));
    let webhook = connections.webhook.unwrap();
    assert_eq!(webhook.url, "http://127.0.0.1:9002/");
    assert_eq!(**config::webhook_key(&webhook.secret).unwrap(), *b"hello hello hello hello!");
    assert_eq!(config.vault.keys.len(), 2);
    assert_eq!(config::vault_key(&config.vault.keys[0]).unwrap()[..2], [0x54, 0x05]);
}

#[test]
fn every_built_in_component_has_its_name() {
    for name in BUILT_IN {
        let provider = format!(
            "[[providers]]\nname = \"p\"\ncomponent = \"builtin:{name}\"\nclient_id = \"env:SECRET\"\nallowed_hosts = \"a.test\"\n"
        );
        let config = inline(&provider).unwrap();
        assert_eq!(config.providers[0].component, Component::BuiltIn(name.to_owned()));
    }
}

/// On loopback the key is made in the data folder.
#[test]
fn a_vault_key_is_wanted_where_people_are() {
    let with = |public_url: &str, vault: &str| {
        let provider = "[[providers]]\nname = \"p\"\ncomponent = \"builtin:oauth2\"\nclient_id = \"env:SECRET\"\nallowed_hosts = \"a.test\"\n";
        inline(&format!("public_url = {public_url:?}\n{provider}{vault}"))
    };
    assert!(with("http://localhost:8080", "").is_ok());
    assert!(with("http://127.0.0.1:8080", "").is_ok());
    assert!(with("https://app.test", "[vault]\nkeys = \"env:VAULT_NEW\"").is_ok());
    for public_url in ["https://app.test", "http://10.0.0.1", "https://localhost.app.test"] {
        let errors = with(public_url, "").unwrap_err();
        assert_eq!((errors.len(), errors[0].key.as_str()), (1, "vault.keys"), "{public_url}");
        assert!(errors[0].want.contains("palisade vault key"), "{}", errors[0]);
    }
    // One that is named and missing is one error, not two.
    assert_eq!(with("https://app.test", "[vault]\nkeys = \"env:NO_SUCH\"").unwrap_err().len(), 1);
    assert!(inline("public_url = \"https://app.test\"").is_ok(), "no provider, no key");
}

#[test]
fn secrets_are_resolved_and_not_printed() {
    let config = good("full.toml");
    assert_eq!(config.tokens.key.as_ref().unwrap().expose_secret(), SECRET);
    assert_eq!(config.providers[0].client_secret.as_ref().unwrap().expose_secret(), "from-a-file");
    let printed = format!("{config:?}");
    for secret in [SECRET, "from-a-file", "IS_IN_NO_MESSAGE", "aGVsbG8g"] {
        assert!(!printed.contains(secret), "{secret}");
    }
}

#[test]
fn a_setting_of_a_provider_may_be_a_reference() {
    let text = r#"
        [[routes]]
        name = "app"
        upstream = ["http://127.0.0.1:3000"]
        auth = "required"
        [[providers]]
        name = "bank"
        component = "builtin:oauth2"
        client_id = "env:SHORT"
        allowed_hosts = ["api.bank.test"]
        secret_parameters = ["pin"]
        [providers.settings]
        api_key = "env:SECRET"
        plain = "environment:SECRET"
        within = { list = ["file:tests/config/good/secret.txt", "see env:SECRET"] }
        [[providers.settings.parameters]]
        name = "key"
        secret = true
        [[providers.settings.parameters]]
        name = "shop"
    "#;
    let config = inline(text).unwrap_or_else(|errors| panic!("{errors:#?}"));
    let bank = &config.providers[0];
    assert_eq!(bank.settings["api_key"], SECRET);
    assert_eq!(bank.settings["plain"], "environment:SECRET");
    assert_eq!(bank.settings["within"], serde_json::json!({"list": ["from-a-file", "see env:SECRET"]}));
    let secrets: Vec<&str> = bank.secret_settings.iter().map(|secret| secret.expose_secret()).collect();
    assert_eq!(secrets, [SECRET, "from-a-file"]);
    assert_eq!(bank.secret_parameters, ["pin", "key"]);
    let printed = format!("{config:?}");
    assert!(!printed.contains(SECRET) && !printed.contains("from-a-file"), "{printed}");
}

#[test]
fn mail_forgets_nothing() {
    let mail = good("full.toml").mail;
    let MailTransport::Smtp(smtp) = mail.transport else { panic!("{:?}", mail.transport) };
    assert_eq!((smtp.host.as_str(), smtp.port, smtp.tls), ("mail.test", 587, SmtpTls::StartTls));
    assert_eq!(smtp.user.as_deref(), Some("user"));
    assert_eq!(smtp.password.unwrap().expose_secret(), "hunter2");
    assert!(smtp.ca.unwrap().ends_with("good/dummy.pem") && mail.templates.unwrap().ends_with("good/."));
    assert_eq!((mail.from.name, mail.from.address.as_str()), (None, "noreply@example.com"));
    assert_eq!(mail.verify_url, "https://app.example.com/v?lang=en");
    for (url, host, port, tls, user) in [
        ("smtps://ann@a.test@mail.test", "mail.test", 465, SmtpTls::Implicit, Some("ann@a.test")),
        ("smtp://ann%40a.test@[::1]:25", "::1", 25, SmtpTls::StartTls, Some("ann@a.test")),
        ("smtp://localhost:1025?tls=none", "localhost", 1025, SmtpTls::Off, None),
        ("smtp://mail.test/", "mail.test", 587, SmtpTls::StartTls, None),
    ] {
        let password = if user.is_some() { "password = \"env:SHORT\"" } else { "" };
        let mail = inline(&format!("[mail]\ntransport = {url:?}\n{password}")).unwrap().mail;
        let MailTransport::Smtp(smtp) = mail.transport else { panic!("{url}") };
        assert_eq!((smtp.host.as_str(), smtp.port, smtp.tls, smtp.user.as_deref()), (host, port, tls, user));
    }
}

#[test]
fn links_are_built_from_the_public_url() {
    let config = inline("public_url = \"https://app.test\"\n").unwrap();
    assert_eq!(config.mail.verify_url, "https://app.test/auth/pages/verify");
    assert_eq!(config.mail.reset_url, "https://app.test/auth/pages/reset");
}

#[test]
fn mail_in_the_log_is_for_development() {
    let warned =
        |text: &str| inline(text).unwrap().warnings.iter().any(|line| line.contains("for development"));
    assert!(warned("public_url = \"https://app.test\"\n[mail]\ntransport = \"log\""));
    assert!(warned("public_url = \"https://app.test\"\n"));
    assert!(!warned("public_url = \"http://localhost:8080\"\n[mail]\ntransport = \"log\""));
}

#[test]
fn paths_are_relative_to_the_file() {
    let config = good("full.toml");
    let StoreUrl::Sled(folder) = &config.store else { panic!("{}", config.store) };
    assert!(folder.ends_with("tests/config/good/data"));
    assert_eq!(config.store.data_dir(), folder);
}

/// A store in PostgreSQL with these lines in `[store]`.
fn shared(lines: &str) -> Result<Config, Vec<ConfigError>> {
    inline(&format!("[store]\n{lines}\n[vault]\nkeys = [\"env:VAULT_NEW\"]\n"))
}

#[test]
fn a_store_of_several_replicas_is_read_as_it_is_written() {
    let read = |url: &str| {
        let config = shared(&format!("url = {url:?}")).unwrap_or_else(|errors| panic!("{url}: {errors:#?}"));
        config.store.postgres().unwrap().clone()
    };
    for (url, shown, tls) in [
        ("postgres://me@db.test/palisade", "postgres://me@db.test:5432/palisade", PostgresTls::Verify),
        ("postgresql://me@db.test:6432/p", "postgres://me@db.test:6432/p", PostgresTls::Verify),
        ("postgres://me@a.test,b.test:1/p", "postgres://me@a.test:5432,b.test:1/p", PostgresTls::Verify),
        ("postgres://me@db.test/p?sslmode=disable", "postgres://me@db.test:5432/p", PostgresTls::Off),
        ("postgres://me@127.0.0.1/p", "postgres://me@127.0.0.1:5432/p", PostgresTls::Off),
        ("postgres://me@[::1]:7/p?sslmode=require", "postgres://me@[::1]:7/p", PostgresTls::Verify),
        (
            "postgres:///p?host=/run/db&port=7&user=m%65",
            "postgres://me@/run/db/.s.PGSQL.7/p",
            PostgresTls::Off,
        ),
        ("postgres://me@%2Frun%2Fdb/p", "postgres://me@/run/db/.s.PGSQL.5432/p", PostgresTls::Off),
    ] {
        let settings = read(url);
        assert_eq!((settings.server.to_string().as_str(), settings.server.tls), (shown, tls), "{url}");
        assert_eq!(settings.feed.to_string(), shown, "the feed goes where the rest goes");
    }
    let settings = read("postgres://me@db.test/palisade");
    assert_eq!((settings.connections, settings.max_staleness), (8, Duration::from_secs(5)));
    assert!(settings.fail == FailMode::Closed && settings.data.ends_with("data"));
    let warned = |url: &str| {
        !shared(&format!("url = {url:?}")).unwrap().warnings.iter().all(|w| !w.contains("sslmode"))
    };
    assert!(warned("postgres://me@db.test/p?sslmode=disable"));
    assert!(!warned("postgres://me@localhost/p?sslmode=disable"));
}

#[test]
fn the_password_of_a_database_comes_by_reference_and_from_a_file_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    fs::write(folder.path().join("password"), "hunter2\n").unwrap();
    fs::write(folder.path().join("url"), "postgres://me:hunter3@db.test/p\n").unwrap();
    let env = |name: &str| match name {
        "VAULT" => Some("VAULT_KEY_IS_IN_NO_MESSAGE_AT_ALL_EVER_1234".to_owned()),
        "URL" => Some("postgres://me:hunter%204@db.test/p".to_owned()),
        "PASSWORD" => Some("hunter5".to_owned()),
        _ => None,
    };
    let read = |lines: &str| {
        let text = format!("[store]\n{lines}\n[vault]\nkeys = [\"env:VAULT\"]\n");
        let config =
            config::parse(&text, &path, &env).unwrap_or_else(|errors| panic!("{lines}: {errors:#?}"));
        assert!(!format!("{config:?}").contains("hunter"), "{config:?}");
        config.store.postgres().unwrap().clone()
    };
    let now = |settings: &SharedStore| {
        settings.server.password.as_ref().unwrap().now().map(|password| password.expose_secret().to_owned())
    };
    for (lines, password) in [
        ("url = \"postgres://me@db.test/p\"\npassword = \"file:password\"", "hunter2"),
        ("url = \"file:url\"", "hunter3"),
        ("url = \"env:URL\"", "hunter 4"),
        ("url = \"postgres://me@db.test/p\"\npassword = \"env:PASSWORD\"", "hunter5"),
        ("url = \"postgres://me:${env:PASSWORD}@db.test/p\"", "hunter5"),
    ] {
        let settings = read(lines);
        assert_eq!(now(&settings).as_deref(), Ok(password), "{lines}");
    }
    let settings = read(
        "url = \"postgres://me@db.test/p\"\npassword = \"file:password\"\nfeed_url = \"postgres://me@db2.test/p\"",
    );
    assert!(settings.feed.password.is_some() && settings.feed.to_string().contains("db2.test"));
    fs::write(folder.path().join("password"), "hunter6\n").unwrap();
    assert_eq!(now(&settings).as_deref(), Ok("hunter6"));
    fs::write(folder.path().join("password"), "\n").unwrap();
    assert!(now(&settings).unwrap_err().contains("is empty"));
}

#[test]
fn a_url_of_a_database_that_will_not_do_says_what_would() {
    for (url, found) in [
        ("postgres://db.test/p", "without a user"),
        ("postgres://me@db.test", "without a database"),
        ("postgres://me@db.test/", "without a database"),
        ("postgres://me@/p", "the host \"\""),
        ("postgres://me@db.test:0/p", "the host"),
        ("postgres://me@db.test/p?sslmode=prefer", "sslmode=\"prefer\""),
        ("postgres://me@db.test/p?sslrootcert=x", "the parameter \"sslrootcert\""),
        ("postgres://me@db.test/p?target_session_attrs=any", "read-only"),
        ("postgres:me@db.test/p", "db.test/p"),
    ] {
        let errors = shared(&format!("url = {url:?}")).unwrap_err();
        assert!(errors.len() == 1 && errors[0].found.contains(found), "{url}: {errors:#?}");
    }
    // Beside a URL that is wrong, the other keys are known.
    assert_eq!(shared("url = 7\nmax_staleness = \"5s\"").unwrap_err().len(), 1);
}

#[test]
fn a_route_may_fail_otherwise_than_the_store_says() {
    let read = |store: &str, route: &str| {
        let text = format!(
            "[store]\nurl = \"postgres://me@localhost/p\"\n{store}\n[vault]\nkeys = [\"env:VAULT_NEW\"]\n\
             [[routes]]\nname = \"app\"\nupstream = \"http://127.0.0.1:3000\"\n{route}\n"
        );
        inline(&text).unwrap().routes[0].policy.fail
    };
    let (open, closed) = ("fail = \"open\"", "fail = \"closed\"");
    for (store, route, fail) in [
        ("", "", FailMode::Closed),
        (open, "", FailMode::Open),
        (open, closed, FailMode::Closed),
        ("", open, FailMode::Open),
    ] {
        assert_eq!(read(store, route), fail, "{store} {route}");
    }
}

#[test]
fn errors_name_file_line_key_found_and_what_would_do() {
    let errors = inline("[server]\nlisten = \"x\"\n").unwrap_err();
    let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["config.toml:2: server.listen: found \"x\"; want an address like 127.0.0.1:8080"]);
}

#[test]
fn the_native_endpoints_have_a_place_of_their_own() {
    assert_eq!(inline("").unwrap().server.prefix, "/auth");
    let route = |path: &str| {
        format!(
            "[[routes]]\nname = \"app\"\nmatch = {{ path = \"{path}\" }}\nupstream = \"http://localhost:3000\"\n"
        )
    };
    for (path, shadowed) in [("/auth/me", true), ("/auth", true), ("/", false), ("/authors", false)] {
        let warnings = inline(&route(path)).unwrap().warnings;
        assert_eq!(warnings.iter().any(|line| line.contains("server.prefix")), shadowed, "{path}");
    }
    let elsewhere =
        inline(&format!("public_url = \"https://app.test\"\n[server]\nprefix = \"/id\"\n{}", route("/auth")));
    let elsewhere = elsewhere.unwrap();
    assert!(!elsewhere.warnings.iter().any(|line| line.contains("server.prefix")));
    assert_eq!(elsewhere.mail.verify_url, "https://app.test/id/pages/verify");
}

#[test]
fn every_origin_may_be_allowed() {
    assert_eq!(inline("").unwrap().cors, Cors::default());
    assert_eq!(inline("[cors]\norigins = \"*\"\n").unwrap().cors.origins, Origins::Any);
}

#[test]
fn a_route_says_about_other_origins_what_the_native_endpoints_say() {
    let keys = "origins = [\"https://app.test\"], allow_methods = [\"GET\", \"PUT\"], allow_headers = [\"X-A\"], \
                expose_headers = [\"X-B\"], credentials = true, max_age = \"1h\"";
    let text = format!(
        "cors = {{ {keys} }}\n[[routes]]\nname = \"app\"\nupstream = \"http://localhost:3000\"\ncors = {{ {keys} }}\n"
    );
    let config = inline(&text).unwrap();
    assert_eq!(config.cors.allow_methods, ["GET", "PUT"]);
    assert_eq!((config.cors.max_age, config.cors.credentials), (HOUR, true));
    assert_eq!(config.routes[0].policy.cors.as_ref(), Some(&config.cors));
}

#[test]
fn a_proxy_that_is_not_believed_is_noticed() {
    let warned = |public_url: &str, server: &str| {
        let config = inline(&format!("public_url = {public_url:?}\n[server]\n{server}\n")).unwrap();
        let said = config.warnings.iter().filter(|line| line.contains("are thrown away"));
        said.map(|line| line.split(": ").nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    let pem = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config/good/dummy.pem");
    let tls = format!("tls = {{ listen = \"0.0.0.0:8443\", cert = \"{pem}\", key = \"{pem}\" }}");
    let (https, http) = ("https://app.test", "http://localhost:8080");
    assert_eq!(warned(https, ""), ["public_url"]);
    assert_eq!(warned(http, "client_address = \"x-real-ip\""), ["server.client_address"]);
    // Once is enough.
    assert_eq!(warned(https, "client_address = \"x-forwarded-for\""), ["server.client_address"]);
    assert_eq!(warned(https, &tls), [""; 0]);
    assert_eq!(warned(http, ""), [""; 0]);
    for server in [
        "trusted_proxies = [\"10.0.0.1\"]",
        "trusted_proxies = [\"10.0.0.1\"]\nclient_address = \"forwarded\"",
    ] {
        assert_eq!(warned(https, server), [""; 0], "{server}");
    }
}

#[test]
fn every_origin_is_lent_no_network() {
    let read = |keys: &str| {
        let text = format!(
            "[[routes]]\nname = \"home\"\nmatch = {{ host = \"app.test\", networks = [\"10.0.0.0/24\"] }}\n\
             upstream = \"http://localhost:3000\"\n{keys}\n"
        );
        let said = |line: &String| line.contains("cors.origins: ") && line.contains("of its networks");
        match inline(&text) {
            Ok(config) => (0, config.warnings.iter().filter(|line| said(line)).count()),
            Err(errors) => (errors.len(), 0),
        }
    };
    for (keys, want) in [
        ("auth = \"none\"\ncors = { origins = \"*\" }", (1, 0)),
        ("auth = \"optional\"\ncors = { origins = [\"*\"] }", (1, 0)),
        ("public = [\"/feed\"]\ncors = { origins = \"*\" }", (1, 0)),
        ("authorization = \"app\"\nwithout_session = \"app\"\ncors = { origins = \"*\" }", (1, 0)),
        ("authorization = \"app\"\ncors = { origins = \"*\" }", (0, 1)),
        ("cors = { origins = \"*\" }", (0, 1)),
        ("auth = \"none\"\ncors = { origins = \"https://app.test\" }", (0, 0)),
        ("auth = \"none\"", (0, 0)),
    ] {
        assert_eq!(read(keys), want, "{keys}");
    }
}

#[test]
fn cookies_behind_tls_want_a_public_url_that_says_so() {
    let pem = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config/good/dummy.pem");
    let tls = format!("tls = {{ listen = \"0.0.0.0:8443\", cert = \"{pem}\", key = \"{pem}\" }}");
    let warned = |public_url: &str, tls: &str, token: &str| {
        let config = inline(&format!(
            "public_url = \"{public_url}\"\n[server]\n{tls}\n\
             [[routes]]\nname = \"app\"\nupstream = \"http://localhost:3000\"\n{token}\n"
        ));
        config.unwrap().warnings.iter().any(|line| line.contains("config.toml:1: public_url: pages behind"))
    };
    let cookie = "token = { cookie = \"session\" }";
    assert!(warned("http://localhost:8080", &tls, cookie));
    assert!(!warned("https://app.test", &tls, cookie));
    assert!(!warned("http://localhost:8080", "", cookie));
    assert!(!warned("http://localhost:8080", &tls, ""));
}

#[test]
fn what_works_but_is_probably_not_meant_warns() {
    let config = inline("[passwords]\nbcrypt_cost = 4\n").unwrap();
    assert!(config.warnings.iter().any(|line| line.contains("config.toml:2: passwords.bcrypt_cost")));
}

#[test]
fn what_is_imported_is_two_steps_dearer_at_most_unless_somebody_says_otherwise() {
    for (given, most) in [
        ("", 14),
        ("bcrypt_cost = 4", 14),
        ("bcrypt_cost = 15", 17),
        ("bcrypt_cost = 31", 31),
        ("max_cost = 12", 12),
        ("bcrypt_cost = 10\nmax_cost = 10", 10),
    ] {
        assert_eq!(inline(&format!("[passwords]\n{given}\n")).unwrap().passwords.max_cost, most, "{given}");
    }
    let warned = |most: u32| {
        let config = inline(&format!("[passwords]\nmax_cost = {most}\n")).unwrap();
        config.warnings.iter().any(|line| line.contains("config.toml:2: passwords.max_cost"))
    };
    assert!(warned(17) && !warned(16));
}

#[test]
fn a_network_of_everybody_warns_and_one_of_proxies_does_not() {
    let read = |networks: &str| {
        let route = "[[routes]]\nname = \"app\"\nupstream = [\"http://127.0.0.1:3000\"]\n";
        let config = inline(&format!("[server]\ntrusted_proxies = [{networks}]\n{route}")).unwrap();
        (config.warnings, config.server.trusted_proxies)
    };
    let wide = ["0.0.0.0/0", "::/0", "128.0.0.0/1", "34.0.0.0/8", "2000::/3", "::ffff:0:0/96", "8.0.0.0/7"];
    for network in wide.into_iter().chain(["10.0.0.0/7"]) {
        let (warnings, _) = read(&format!("\"10.0.0.1\", \"{network}\""));
        assert!(
            warnings.len() == 1 && warnings[0].starts_with("config.toml:2: server.trusted_proxies[1]: "),
            "{network}: {warnings:?}"
        );
    }
    let (none, networks) = read(
        "\"10.0.0.0/8\", \"172.16.0.0/12\", \"192.168.0.0/16\", \"fd00::/8\", \"fe80::/10\", \"127.0.0.0/8\", \
         \"104.16.0.0/13\", \"2606:4700::/32\", \"2a06:98c0::/29\", \"::ffff:10.1.0.0/112\"",
    );
    assert_eq!(none, Vec::<String>::new());
    // As the address of a peer is written.
    assert_eq!(networks.last().unwrap().to_string(), "10.1.0.0/16");
}

#[test]
fn a_gateway_that_asks_nobody_and_a_cookie_that_others_can_set_warn() {
    let route = |name: &str, more: &str| {
        format!(
            "[[routes]]\nname = \"{name}\"\nmatch = {{ path = \"/{name}\" }}\n\
             upstream = [\"http://127.0.0.1:3000\"]\n{more}\n"
        )
    };
    let only = |text: &str| match &inline(text).unwrap().warnings[..] {
        [] => String::new(),
        [one] => one.clone(),
        more => panic!("{more:?}"),
    };
    let open = route("a", "auth = \"none\"") + &route("b", "auth = \"none\"");
    assert!(only(&open).starts_with("config.toml:1: routes: every route has auth"), "{}", only(&open));
    assert_eq!(only(&(open + &route("c", ""))), "");
    let cookie = |name: &str| only(&route("a", &format!("token = {{ cookie = \"{name}\" }}")));
    let said = cookie("session");
    assert!(said.starts_with("config.toml:5: routes[0].token.cookie: without __Host-"), "{said}");
    assert_eq!(cookie("__Host-session"), "");
    let said = only(&route("a", "pass = [\"X-Foo\", \"Proxy\"]"));
    assert!(said.starts_with("config.toml:5: routes[0].pass[0]: \"X-Foo\" passes anyway"), "{said}");
}

#[test]
fn check_says_what_is_odd_beyond_the_file_and_what_a_key_file_is() {
    let folder = tempfile::tempdir().unwrap();
    let check = |config: &str, keys: &str| {
        fs::write(folder.path().join("config.toml"), config).unwrap();
        fs::write(folder.path().join("keys.json"), keys).unwrap();
        let mut palisade = Command::new(env!("CARGO_BIN_EXE_palisade"));
        let output =
            palisade.env_remove("PALISADE_CONFIG").current_dir(folder.path()).arg("check").output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let route = |upstream: &str| {
        format!("[[routes]]\nname = \"app\"\nupstream = [\"{upstream}\"]\nmatch.host = \"app.test\"\n")
    };
    let (good, said) = check(&route("http://127.0.0.1:3000").replace("app.test", "localhost"), "");
    assert!(
        good && said.starts_with("warning: config.toml:4: routes[0].match: route \"app\" serves"),
        "{said}"
    );
    let (good, said) = check(&route("http://localhost:8080"), "");
    let circle = "warning: config.toml:3: routes.app.upstream: localhost:8080 is this gateway's own listener";
    assert!(good && said.starts_with(circle), "{said}");
    let (good, said) = check(&route("http://192.0.2.1:3000"), "");
    let cleartext = "warning: config.toml:3: routes.app.upstream: 192.0.2.1:3000 is another machine";
    assert!(good && said.starts_with(cleartext), "{said}");
    let issuer = "[[issuers]]\nissuer = \"https://i.test\"\njwks = \"file:keys.json\"\naudiences = [\"api\"]\n\
                  algorithms = [\"ES256\"]\nemail = \"verified\"\n";
    let config = route("http://127.0.0.1:3000") + issuer;
    for (keys, what) in [
        ("", "it is empty"),
        ("-----BEGIN PUBLIC KEY-----\nhunter2", "it is PEM"),
        ("{\"keys\": [", "it breaks off at line 1"),
        ("{\"kty\": \"oct\", \"k\": \"hunter2\"}", "it is a single JWK"),
    ] {
        let (good, said) = check(&config, keys);
        let want = format!("config.toml:7: issuers[0].jwks: found keys.json, not a JWK Set: {what}");
        assert!(!good && said.starts_with(&want) && said.contains("; want a JWK Set"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_missing_file_says_so() {
    let errors = config::load(Path::new("no/such/config.toml")).unwrap_err();
    assert!(errors[0].to_string().contains("no/such/config.toml: found no readable file"));
}

#[test]
fn a_route_says_how_its_upstreams_are_reached() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["cert.pem", "key.pem"] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    let text = "[[routes]]\nname = \"app\"\nmatch = { path = \"/api\" }\nstrip_prefix = \"/api\"\n\
                upstream = [\"https://a.test/base\", \"https://b.test:8443/base\"]\ntls_name = \"app.internal\"\n\
                client_cert = \"cert.pem\"\nclient_key = \"key.pem\"\nupstream_idle = \"2s\"\nrewrite = { cookies = true }\n\
                [[routes]]\nname = \"socket\"\nupstream = \"unix:/run/app.sock\"\n";
    let config = config::parse(text, &folder.path().join("config.toml"), &env).unwrap();
    let [app, socket] = &config.routes[..] else { panic!("{:#?}", config.routes) };
    assert_eq!(app.policy.upstream_path, UpstreamPath::new("/api", "/base").unwrap());
    assert_eq!(app.policy.upstreams, ["https://a.test:443", "https://b.test:8443"]);
    let upstream = &app.upstream;
    assert_eq!(upstream.tls_name.as_deref(), Some("app.internal"));
    assert_eq!(upstream.client.as_ref().unwrap().key, folder.path().join("key.pem"));
    assert_eq!(upstream.idle, Some(Duration::from_secs(2)));
    assert!(upstream.rewrite.cookies && !upstream.rewrite.location);
    assert!(socket.policy.upstream_path.is_same() && socket.upstream.idle.is_none());
    assert_eq!(socket.upstream.origins[0].socket.as_deref(), Some("/run/app.sock"));
    assert_eq!(socket.policy.upstreams, ["unix:/run/app.sock"]);
}

#[test]
fn two_ways_to_one_path_of_an_app_are_warned_of_where_their_policies_differ() {
    let warned = |second: &str| -> Vec<String> {
        let text = format!(
            "[[routes]]\nname = \"api\"\nmatch = {{ path = \"/api\" }}\nupstream = \"http://127.0.0.1:3000\"\n\
             strip_prefix = \"/api\"\nauth = \"none\"\n[[routes]]\nname = \"other\"\n{second}\n"
        );
        let warnings = inline(&text).unwrap_or_else(|errors| panic!("{errors:#?}")).warnings;
        warnings.into_iter().filter(|warning| warning.contains("the app is asked for")).collect()
    };
    let admin = "match = { path = \"/admin\" }\nupstream = \"http://127.0.0.1:3000";
    for (second, path) in [
        (format!("{admin}\""), "/admin "),
        (format!("{admin}/base\""), "/base/admin "),
        (format!("{admin}\"\nstrip_prefix = \"/admin\""), "/ "),
    ] {
        let found = warned(&second);
        assert!(
            found.len() == 1 && found[0].contains(&format!("asked for {path}by route \"api\"")),
            "{found:?}"
        );
    }
    for harmless in [
        format!("{admin}\"\nauth = \"none\""),
        "match = { path = \"/admin\" }\nupstream = \"http://127.0.0.1:3001\"".to_owned(),
        // By one mapping the narrower path decides, as without any.
        "match = { path = \"/api/admin\" }\nupstream = \"http://127.0.0.1:3000\"\nstrip_prefix = \"/api\""
            .to_owned(),
    ] {
        assert_eq!(warned(&harmless), [""; 0], "{harmless}");
    }
}
