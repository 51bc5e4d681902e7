//! From `config.toml` as written to the typed [`Config`]: every section but the routes, and what spans
//! sections. Nothing stops at the first error, and no secret gets into a message.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use toml::de::DeTable;

use super::connections::Vault;
use super::error::ConfigError;
use super::file::{Document, Section};
use super::form::{self, Url};
use super::issuers::Algorithm;
use super::other_issuers::OtherIssuerNames;
use super::read::{ADDRESS, address, clash, existing_file, host, secret};
use super::settings::{
    AuditTo, ClientAddress, Config, Log, LogFormat, MailTransport, Passwords, Route, Server, Sessions, Tls,
    Tokens,
};
use super::sources::Sources;
use super::store::{self, StoreUrl};
use super::{
    accounts, backup, browser, connections, cors, fetch, issuers, limits, mail, native, pages, probes,
    providers, proxies, routes, rule_warnings, unsent_emails,
};
use palisade_core::domain::account::Registration;
use palisade_core::domain::credential::{MAX_TOKEN_BYTES, MOST_TOKEN_BYTES};
use palisade_core::domain::password::{MIN_GUESSES, MOST_MIN_GUESSES, PasswordPolicy};
use palisade_core::domain::session::{Fingerprint, LONGEST_REPEAT, REPEAT_WINDOW};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// As `humantime` reads and writes it.
const YEAR: Duration = Duration::from_secs(31_557_600);
/// What we sign with.
const ALGORITHMS: [(&str, Algorithm); 4] = [
    ("EdDSA", Algorithm::EdDsa),
    ("ES256", Algorithm::Es256),
    ("RS256", Algorithm::Rs256),
    ("HS256", Algorithm::Hs256),
];

/// Checks a whole file. Returns what is wrong with it in the order of its lines, and which files were read.
pub fn config(
    text: &str,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> (Result<Config, Vec<ConfigError>>, Sources) {
    let mut doc = Document::new(text, path, env);
    let (mut table, faults) = DeTable::parse_recoverable(text);
    for fault in &faults {
        let at = fault.span().map_or(0, |span| span.start);
        doc.fault(at, "", fault.message(), "valid TOML");
    }
    if faults.is_empty() {
        doc.fill(table.get_mut());
    }
    // Reading on in a broken document would only add false errors.
    let config =
        if faults.is_empty() { whole(&Section::root(&doc, table.get_ref()), path, text) } else { None };
    let (errors, warnings, sources) = doc.finish();
    let config = match config {
        Some(config) if errors.is_empty() => Ok(Config { warnings, sources: sources.clone(), ..config }),
        _ => Err(errors),
    };
    (config, sources)
}

/// Reads what is said of the store, and the keys that its secrets are sealed with. What else the file holds may be wrong.
pub fn store_alone(
    text: &str,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<(StoreUrl, Vault), Vec<ConfigError>> {
    let mut doc = Document::new(text, path, env);
    let (mut table, faults) = DeTable::parse_recoverable(text);
    for fault in &faults {
        let at = fault.span().map_or(0, |span| span.start);
        doc.fault(at, "", fault.message(), "valid TOML");
    }
    doc.fill(table.get_mut());
    let root = Section::root(&doc, table.get_ref());
    let store = store::store(root.section("store"));
    let vault = connections::vault(&root, "http://localhost", store.postgres().is_some());
    let (mut errors, _, _) = doc.finish();
    let is_asked = |key: &str| ["store", "vault"].iter().any(|name| key.starts_with(name)) || key.is_empty();
    errors.retain(|error| is_asked(&error.key));
    if errors.is_empty() { Ok((store, vault)) } else { Err(errors) }
}

fn whole(root: &Section<'_>, path: &Path, text: &str) -> Option<Config> {
    let public_url = public_url(root);
    let server = server(root.section("server"));
    let cors = cors::cors(root.section("cors"));
    let log = log(root.section("log"));
    let store = store::store(root.section("store"));
    let backup = backup::backup(root.section("backup"));
    let tokens = tokens(root.section("tokens"), &public_url, server.max_header_bytes);
    let trusted = issuers::issuers(root, &tokens.issuer);
    let fetch = fetch::fetch(root.section("fetch"));
    let passwords = passwords(root.section("passwords"));
    let accounts = accounts::accounts(root.section("accounts"));
    let sessions = sessions(root.section("sessions"));
    let limits = limits::limits(root.section("limits"));
    let pages = pages::pages(root.section("pages"));
    let mail = mail::mail(root.section("mail"), &format!("{public_url}{}", server.prefix), &pages);
    let providers = providers::providers(root);
    let connections = connections::connections(root.section("connections"), &public_url);
    let vault = connections::vault(root, &public_url, store.postgres().is_some());
    let known = routes::Known {
        issuers: issuers::names(root)
            .into_iter()
            .chain([(tokens.issuer.clone(), vec![tokens.issuer.clone()])])
            .collect(),
        others: OtherIssuerNames::of(root),
        providers: root
            .sections("providers")
            .iter()
            .filter_map(|provider| provider.get("name")?.raw())
            .map(str::to_owned)
            .collect(),
        listeners: server.listen.iter().copied().chain(server.tls.as_ref().map(|tls| tls.listen)).collect(),
        tokens: &tokens,
        store: store.postgres(),
        is_sled_meant: store::is_sled_meant(root),
    };
    let routes = routes::routes(root, &known);
    rule_warnings::warn(root, &routes, &server.trusted_proxies);
    proxies::warn_of_unbelieved(root, &public_url, &server);
    known.others.warn_of_unnamed(root, &routes);
    warn_of_cookies(root, &public_url, &server, &routes);
    let unsent_emails = unsent_emails::unsent_emails(root, &routes);
    let browser = browser::browser(root, &public_url, &routes, sessions.absolute_ttl);
    let native = native::hosts(root, &browser);
    native::shadowed(root, &server.prefix, &native, &routes);
    probes::warn_of_route(root, &server, &routes);
    browser::warn_of_names(root, &browser, &routes);
    let is_open = accounts.registration() == Registration::Open;
    if is_open && mail.as_ref().is_some_and(|mail| matches!(mail.transport, MailTransport::None)) {
        let section = root.section("accounts");
        let at = section.get("registration").map_or(section.at, |item| item.at);
        let want = "\"invited\": without mail no address can be verified; `palisade users invite` makes a link to hand over";
        root.doc.fault(at, "accounts.registration", "\"open\" with mail.transport = \"none\"", want);
    }
    let exposures = browser::exposures(root, &browser, &routes, &tokens.issuer, is_open, &server.prefix);
    root.unknown();
    Some(Config {
        path: path.to_owned(),
        sources: Sources::new(path, Some(text)),
        hash: hex::encode(Sha256::digest(text)),
        public_url,
        server,
        cors,
        browser,
        native,
        pages,
        log,
        store,
        backup,
        tokens,
        issuers: trusted.jwt,
        load_balancers: trusted.load_balancers,
        introspected: trusted.introspected,
        fetch,
        passwords,
        accounts,
        sessions,
        limits,
        mail: mail?,
        routes,
        providers,
        connections,
        vault,
        redaction: root.doc.redaction().clone(),
        warnings: Vec::new(),
        unsent_emails,
        exposures,
    })
}

fn public_url(root: &Section<'_>) -> String {
    let default = || "http://localhost:8080".to_owned();
    let Some(item) = root.get("public_url") else { return default() };
    let want = "an origin like https://app.example.com, with no path and no trailing slash";
    let url = item.read(want, |text| {
        let url = Url::parse(text).filter(|url| url.rest.is_empty())?;
        if !url.is_safe() {
            item.doc.warn(item.at, &item.key, "links and tokens will cross the network in cleartext");
        }
        Some(text.to_owned())
    });
    url.unwrap_or_else(default)
}

/// A cookie counts for unsafe requests from pages of `public_url`'s scheme only; where we end TLS ourselves, people
/// cannot see `http`.
fn warn_of_cookies(root: &Section<'_>, public_url: &str, server: &Server, routes: &[Route]) {
    let is_cookie_read = routes.iter().any(|route| route.policy.policy.carriers.cookie.is_some());
    if server.tls.is_some() && is_cookie_read && !public_url.starts_with("https://") {
        let at = root.get("public_url").map_or(0, |item| item.at);
        let text = "pages behind server.tls are https, so no form of theirs may use a route's token.cookie; \
                    want an https:// origin";
        root.doc.warn(at, "public_url", text);
    }
}

fn server(section: Section<'_>) -> Server {
    let tls = section.get("tls").and_then(|item| tls(item.section()?));
    let mut listen = section.list("listen", address);
    match section.get("listen") {
        None => listen.push(SocketAddr::from(([127, 0, 0, 1], 8080))),
        Some(item) if item.is_empty_list() && section.get("tls").is_none() => {
            item.bad::<()>(&format!("{ADDRESS}, or server.tls"));
        }
        Some(_) => {}
    }
    let admin_item = section.get("admin");
    let admin = admin_item.as_ref().and_then(address).unwrap_or(SocketAddr::from(([127, 0, 0, 1], 9180)));
    let mut taken: Vec<SocketAddr> = vec![admin];
    for address in listen.iter().copied().chain(tls.as_ref().map(|tls: &Tls| tls.listen)) {
        if let Some(found) = clash(address, &taken) {
            let at = section.get("listen").map_or(section.at, |item| item.at);
            section.doc.fault(at, "server.listen", found, "an address of its own for each of them");
        }
        taken.push(address);
    }
    let health = probes::health(&section, &taken);
    let prefix = native::prefix(&section);
    if let Some(item) = admin_item.filter(|_| !admin.ip().is_loopback()) {
        item.doc.warn(item.at, &item.key, "the admin listener can be reached from other machines");
    }
    let second = Duration::from_secs(1);
    let hour = Duration::from_secs(3600);
    let server = Server {
        listen,
        admin,
        admin_hosts: section.list("admin_hosts", host),
        health,
        ping_path: probes::ping_path(&section, &prefix),
        prefix,
        tls,
        trusted_proxies: section.list("trusted_proxies", proxies::trusted),
        client_address: section.choice(
            "client_address",
            &proxies::CLIENT_ADDRESSES,
            ClientAddress::XForwardedFor,
        ),
        shutdown_delay: section.duration("shutdown_delay", Duration::ZERO, Duration::ZERO..=hour),
        shutdown_grace: section.duration("shutdown_grace", Duration::from_secs(30), Duration::ZERO..=hour),
        header_timeout: section.duration("header_timeout", Duration::from_secs(10), second / 10..=hour),
        idle_timeout: section.duration("idle_timeout", Duration::from_secs(60), second / 10..=hour * 24),
        max_header_bytes: section.count("max_header_bytes", 32_768, 1024..=1 << 20),
        max_connections: section.count("max_connections", 16_384, 1..=10_000_000),
        max_request_memory: section.size("max_request_memory", 512 << 20, 4 << 20..=64 << 30),
        threads: section.count("threads", 0, 0..=1024),
        watch: section.bool("watch", false),
    };
    section.close();
    server
}

fn tls(section: Section<'_>) -> Option<Tls> {
    let listen = section.required("listen", "an address like 0.0.0.0:8443");
    let listen = listen.as_ref().and_then(address);
    let cert = section.required("cert", "a PEM file with the certificate chain");
    let cert = cert.and_then(|item| existing_file(&item, "a PEM file with the certificate chain"));
    let key = section.required("key", "a PEM file with the private key");
    let key = key.and_then(|item| existing_file(&item, "a PEM file with the private key"));
    section.close();
    Some(Tls { listen: listen?, cert: cert?, key: key? })
}

fn log(section: Section<'_>) -> Log {
    let want = "error, warn, info, debug, trace or a filter like \"info,palisade=debug\"";
    let level = section
        .get("level")
        .and_then(|item| item.read(want, |text| form::is_log_filter(text).then(|| text.to_owned())));
    let audit = section.get("audit").and_then(|item| {
        item.read("\"stdout\" or \"file:PATH\"", |text| match text.strip_prefix("file:") {
            Some(path) if !path.is_empty() => Some(AuditTo::File(item.doc.resolve(path))),
            _ => (text == "stdout").then_some(AuditTo::Stdout),
        })
    });
    let log = Log {
        format: section.choice(
            "format",
            &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            LogFormat::Text,
        ),
        level: level.unwrap_or_else(|| "info".to_owned()),
        access: section.bool("access", true),
        audit: audit.unwrap_or(AuditTo::Stdout),
    };
    section.close();
    log
}

/// `max_header_bytes`: of `[server]`.
fn tokens(section: Section<'_>, public_url: &str, max_header_bytes: usize) -> Tokens {
    let algorithm = section.choice("algorithm", &ALGORITHMS, Algorithm::EdDsa);
    let key_item = section.get("key");
    let key = key_item.as_ref().and_then(secret);
    if let (Some(item), Some(key)) = (&key_item, &key) {
        use secrecy::ExposeSecret as _;
        // Looked at for its form only; nothing of it is shown.
        let text = key.expose_secret();
        if algorithm == Algorithm::Hs256 && text.len() < 32 {
            item.bad_as::<()>("a short secret", "at least 32 bytes for HS256 (RFC 7518 §3.2)");
        } else if algorithm != Algorithm::Hs256 && !text.contains("PRIVATE KEY-----") {
            item.bad_as::<()>(
                "a key that is not PEM",
                "a PEM private key for tokens.algorithm: PKCS #8, or SEC 1 for ES256",
            );
        }
    }
    let text = |name, default: &str| {
        let item = section.get(name);
        let text = item.and_then(|item| item.text("a text that is not empty").map(str::to_owned));
        text.unwrap_or_else(|| default.to_owned())
    };
    let access = Duration::from_secs(30 * 60);
    let tokens = Tokens {
        issuer: text("issuer", public_url),
        audience: text("audience", "api"),
        algorithm,
        access_ttl: section.duration("access_ttl", access, Duration::from_secs(1)..=DAY),
        refresh_ttl: section.duration("refresh_ttl", DAY * 30, Duration::from_secs(1)..=DAY * 366),
        refresh_repeat: section.duration("refresh_repeat", REPEAT_WINDOW, REPEAT_WINDOW..=LONGEST_REPEAT),
        leeway: section.duration(
            "leeway",
            Duration::from_secs(60),
            Duration::ZERO..=Duration::from_secs(300),
        ),
        key,
        max_bytes: section.size("max_bytes", MAX_TOKEN_BYTES, 1024..=MOST_TOKEN_BYTES),
        cache_entries: section.number("cache_entries", 100_000, 0..=100_000_000),
    };
    if let Some(item) = section.get("max_bytes").filter(|_| tokens.max_bytes > max_header_bytes) {
        item.bad::<()>(&format!(
            "no more than server.max_header_bytes ({max_header_bytes}), which holds the other fields, too"
        ));
    }
    if tokens.refresh_ttl < tokens.access_ttl {
        let at = section.get("refresh_ttl").map_or(section.at, |item| item.at);
        let found = humantime::format_duration(tokens.refresh_ttl).to_string();
        section.doc.fault(at, "tokens.refresh_ttl", found, "no less than tokens.access_ttl");
    }
    section.close();
    tokens
}

fn passwords(section: Section<'_>) -> Passwords {
    let policies = [("composition", PasswordPolicy::Composition), ("length", PasswordPolicy::Length)];
    let policy = section.choice("policy", &policies, PasswordPolicy::Composition);
    let cost = section.get("bcrypt_cost").and_then(|item| {
        let cost = item.number(4..=31)?;
        if cost < 10 {
            item.doc.warn(item.at, &item.key, "below 10, stolen hashes are cheap to guess; 12 is usual");
        }
        u32::try_from(cost).ok()
    });
    let bcrypt_cost = cost.unwrap_or(12);
    // Hashes of cost 12 are common elsewhere, whatever the cost of new ones is.
    let usual = (bcrypt_cost.max(12) + 2).min(31);
    let max_cost = section.get("max_cost").and_then(|item| {
        let most = item.number(u64::from(bcrypt_cost)..=31)?;
        if most > u64::from(bcrypt_cost) + 4 {
            item.doc.warn(
                item.at,
                &item.key,
                "a sign-in may take a thread for more than 16 usual ones until it is renewed",
            );
        }
        u32::try_from(most).ok()
    });
    let threads = section.count("threads", 0, 0..=1024);
    let guesses = section.get("min_guesses").and_then(|item| item.number(MIN_GUESSES..=MOST_MIN_GUESSES));
    section.close();
    let (min_guesses, max_cost) = (guesses.unwrap_or(MIN_GUESSES), max_cost.unwrap_or(usual));
    Passwords { policy, min_guesses, bcrypt_cost, max_cost, threads }
}

fn sessions(section: Section<'_>) -> Sessions {
    let words =
        [("ignore", Fingerprint::Ignore), ("note", Fingerprint::Note), ("refuse", Fingerprint::Refuse)];
    let want = "a MaxMind database, such as \"GeoLite2-City.mmdb\"";
    let sessions = Sessions {
        max_per_user: section.count("max_per_user", 20, 1..=1000),
        absolute_ttl: section.duration("absolute_ttl", DAY * 90, Duration::from_secs(1)..=YEAR * 10),
        fingerprint: section.choice("fingerprint", &words, Fingerprint::Note),
        geoip: section.get("geoip").and_then(|item| existing_file(&item, want)),
    };
    section.close();
    sessions
}
