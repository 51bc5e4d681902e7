//! `[store]`: where the records are kept, and how far a replica may fall behind the others.
//!
//! A password never stands in the file itself, and no part of a URL is shown that may hold one.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret as _, SecretString};

use super::file::{Item, Section};
use super::form::quoted;
use super::read::{existing_file, secret};
use super::references;
use palisade_core::domain::request::{Host, is_loopback};
use palisade_core::domain::route::FailMode;

const URL: &str = "\"sled:FOLDER\", such as \"sled:./data\", or \"postgres://USER@HOST/DATABASE\"";
const POSTGRES: &str =
    "\"postgres://USER@HOST/DATABASE\", for a socket \"postgres://USER@/DATABASE?host=/run/postgresql\"";
const NO_PASSWORD: &str = "the password in store.password, as a reference, or the whole URL as a reference: \"env:NAME\" or \"file:PATH\"";
/// The port of PostgreSQL (IANA).
const PORT: u16 = 5432;
/// The keys that only a store for several replicas has.
const SHARED: [&str; 7] = ["password", "ca", "feed_url", "connections", "max_staleness", "fail", "data"];
const FAIL: [(&str, FailMode); 2] = [("closed", FailMode::Closed), ("open", FailMode::Open)];
const SECOND: Duration = Duration::from_secs(1);

/// `store.url`, with the keys beside it.
#[derive(Debug, Clone)]
pub enum StoreUrl {
    /// `sled:FOLDER`. Keys and the admin credential live in the same folder.
    Sled(PathBuf),
    /// `postgres://…`: shared by several replicas, with their secrets.
    Postgres(Box<SharedStore>),
}

impl StoreUrl {
    /// The folder for local files: the data folder, or `store.data` of a replica, in which nothing lies that another
    /// replica needs.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        match self {
            StoreUrl::Sled(folder) => folder,
            StoreUrl::Postgres(settings) => &settings.data,
        }
    }

    /// The settings of a store in PostgreSQL.
    #[must_use]
    pub fn postgres(&self) -> Option<&SharedStore> {
        match self {
            StoreUrl::Sled(_) => None,
            StoreUrl::Postgres(settings) => Some(settings),
        }
    }
}

/// Shows no password.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreUrl::Sled(folder) => write!(f, "sled:{}", folder.display()),
            StoreUrl::Postgres(settings) => settings.server.fmt(f),
        }
    }
}

/// A store in PostgreSQL.
#[derive(Debug, Clone)]
pub struct SharedStore {
    /// Where records are read and written; may lead to a pooler in transaction mode.
    pub server: PostgresServer,
    /// Where notifications are listened for: a connection that is its session's own, not one of a pooler in transaction
    /// mode. [`SharedStore::server`] unless `feed_url` says otherwise.
    pub feed: PostgresServer,
    /// A PEM file of authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// The most connections at once, beside that of the feed.
    pub connections: usize,
    /// How long the revocations are relied on after the database has confirmed that they are complete.
    pub max_staleness: Duration,
    /// What routes do after that, unless they say otherwise.
    pub fail: FailMode,
    /// The folder for local files.
    pub data: PathBuf,
}

/// A database, and who we are to it.
#[derive(Debug, Clone)]
pub struct PostgresServer {
    /// At least one. Of several, the first one that takes writes is the one.
    pub hosts: Vec<PostgresHost>,
    pub user: String,
    pub database: String,
    pub password: Option<PostgresPassword>,
    pub tls: PostgresTls,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PostgresHost {
    /// A name, or an address without brackets.
    Tcp { host: String, port: u16 },
    /// The folder of the socket file `.s.PGSQL.PORT`.
    Socket { folder: PathBuf, port: u16 },
}

/// The password for a server.
#[derive(Debug, Clone)]
pub enum PostgresPassword {
    /// As the start has read it.
    Fixed(SecretString),
    /// Read again at each new connection, so that it can be replaced without a restart.
    File(PathBuf),
}

impl PostgresPassword {
    /// The password as it is now. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, or holds none; without anything of it.
    pub fn now(&self) -> Result<SecretString, String> {
        match self {
            PostgresPassword::Fixed(password) => Ok(password.clone()),
            PostgresPassword::File(file) => {
                let shown = file.display();
                let text = references::read(file, references::MOST)
                    .map_err(|error| format!("store.password: {shown} cannot be read: {error}"))?;
                match text.trim_end_matches(['\r', '\n']) {
                    "" => Err(format!("store.password: {shown} is empty")),
                    password => Ok(password.into()),
                }
            }
        }
    }
}

/// How connections to a server are kept from others on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostgresTls {
    /// TLS, with a certificate for the host's name from an authority that is trusted.
    Verify,
    /// None: on this machine, or as `sslmode=disable` says.
    Off,
}

/// As a URL, without the password.
impl fmt::Display for PostgresServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.hosts.iter().map(ToString::to_string).collect();
        write!(f, "postgres://{}@{}/{}", self.user, hosts.join(","), self.database)
    }
}

impl fmt::Display for PostgresHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PostgresHost::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            PostgresHost::Tcp { host, port } => write!(f, "{host}:{port}"),
            PostgresHost::Socket { folder, port } => write!(f, "{}/.s.PGSQL.{port}", folder.display()),
        }
    }
}

impl PostgresHost {
    /// Whether it is on this machine.
    fn is_local(&self) -> bool {
        match self {
            PostgresHost::Tcp { host, .. } => is_loopback(host),
            PostgresHost::Socket { .. } => true,
        }
    }
}

/// Reads `[store]`.
pub(super) fn store(section: Section<'_>) -> StoreUrl {
    let url = section.get("url");
    let text = url.as_ref().and_then(|item| Text::of(item, URL));
    let default = || StoreUrl::Sled(section.doc.resolve("./data"));
    let store = match &text {
        // Whatever is wrong with it was reported; keys of either kind of store may stand beside it.
        None if url.is_some() => {
            SHARED.iter().for_each(|name| drop(section.get(name)));
            default()
        }
        None => {
            refuse_shared_keys(&section);
            default()
        }
        Some(text) => match text.value.split_once(':') {
            Some(("sled", folder)) if !folder.is_empty() => {
                refuse_shared_keys(&section);
                StoreUrl::Sled(section.doc.resolve(folder))
            }
            Some(("postgres" | "postgresql", _)) => match postgres(&section, text) {
                Some(settings) => StoreUrl::Postgres(Box::new(settings)),
                None => default(),
            },
            _ => {
                SHARED.iter().for_each(|name| drop(section.get(name)));
                text.bad::<()>(URL);
                default()
            }
        },
    };
    section.close();
    store
}

/// A key that does nothing is a mistake, and most often the URL is what was forgotten.
fn refuse_shared_keys(section: &Section<'_>) {
    for name in SHARED {
        if let Some(item) = section.get(name) {
            let found = format!("{name} beside a sled store");
            let want = match name {
                "data" => "no such key: the folder in store.url holds local files, too",
                _ => {
                    "no such key, or a store.url that begins with postgres://: one process alone has a sled store"
                }
            };
            item.bad_as::<()>(found, want);
        }
    }
}

/// Whether `store.url` is meant to be that of a sled store, also where it is wrong.
pub(super) fn is_sled_meant(root: &Section<'_>) -> bool {
    let url = root.section("store").get("url");
    url.is_none_or(|item| item.raw().is_some_and(|text| text.starts_with("sled:")))
}

/// `fail` of a route; `store`: what the others do, where several replicas share it.
pub(super) fn fail_of_route(
    section: &Section<'_>,
    store: Option<&SharedStore>,
    is_sled_meant: bool,
) -> FailMode {
    let default = store.map_or(FailMode::Closed, |store| store.fail);
    match section.get("fail").filter(|_| is_sled_meant) {
        Some(item) => {
            item.bad_as::<()>(
                "fail beside a sled store",
                "no such key: a sled store's revocations are never stale",
            );
            default
        }
        None => section.choice("fail", &FAIL, default),
    }
}

/// The text of a URL, and where it was found.
struct Text<'i, 'a> {
    item: &'i Item<'a>,
    value: Cow<'a, str>,
    /// Whether it stands in the configuration itself, as it is.
    is_literal: bool,
    /// The file that it was read from.
    file: Option<&'a str>,
}

impl<'i, 'a> Text<'i, 'a> {
    fn of(item: &'i Item<'a>, want: &str) -> Option<Text<'i, 'a>> {
        let text = item.text(want)?;
        if item.filled.is_some_and(|filled| filled.failed) {
            return None;
        }
        match text.strip_prefix("file:").filter(|_| item.filled.is_none()) {
            None => Some(Text { item, value: text.into(), is_literal: item.filled.is_none(), file: None }),
            Some(_) => {
                let value = secret(item)?;
                let value = Cow::Owned(value.expose_secret().to_owned());
                Some(Text { item, value, is_literal: false, file: Some(text) })
            }
        }
    }

    /// Reports that it will not do.
    fn bad<T>(&self, want: &str) -> Option<T> {
        match self.file {
            Some(file) => self.item.bad_as(format!("another text in {}", quoted(file)), want),
            None => self.item.bad(want),
        }
    }

    fn bad_as<T>(&self, found: impl Into<String>, want: &str) -> Option<T> {
        self.item.bad_as(found, want)
    }
}

fn postgres(section: &Section<'_>, url: &Text<'_, '_>) -> Option<SharedStore> {
    let password = section.get("password");
    let given = password.as_ref().and_then(password_of);
    let mut server = server(url);
    // `Some(None)`: it is there, and something of it is wrong.
    let mut feed = section.get("feed_url").map(|item| self::server(&Text::of(&item, POSTGRES)?));
    for server in [server.as_mut(), feed.as_mut().and_then(Option::as_mut)].into_iter().flatten() {
        match (&given, &server.password) {
            (Some(_), Some(_)) => {
                if let Some(item) = &password {
                    item.bad_as::<()>("a second password", "one: here, or in the URL that is a reference");
                }
            }
            (Some(given), None) => server.password = Some(given.clone()),
            (None, _) => {}
        }
    }
    let is_encrypted = [server.as_ref(), feed.as_ref().and_then(Option::as_ref)]
        .into_iter()
        .flatten()
        .any(|server| server.tls == PostgresTls::Verify);
    let ca = section.get("ca").and_then(|item| {
        if server.is_some() && !is_encrypted {
            return item
                .bad_as("ca for connections without TLS", "no ca, or ?sslmode=verify-full in store.url");
        }
        existing_file(&item, "a PEM file of certificate authorities")
    });
    let data =
        section.get("data").and_then(|item| item.text("a folder, such as \"./data\"").map(str::to_owned));
    let connections = section.count("connections", 8, 2..=256);
    let max_staleness = section.duration("max_staleness", SECOND * 5, SECOND..=SECOND * 60);
    let fail = section.choice("fail", &FAIL, FailMode::Closed);
    let data = section.doc.resolve(data.as_deref().unwrap_or("./data"));
    let server = server?;
    let feed = feed.unwrap_or_else(|| Some(server.clone()))?;
    Some(SharedStore { server, feed, ca, connections, max_staleness, fail, data })
}

/// `store.password`; a file is only looked at.
fn password_of(item: &Item<'_>) -> Option<PostgresPassword> {
    let value = secret(item)?;
    let file = item.raw().and_then(|text| text.strip_prefix("file:"));
    let is_file = item.filled.is_none_or(|filled| filled.written.starts_with("file:"));
    match file.filter(|_| is_file) {
        Some(path) => Some(PostgresPassword::File(item.doc.resolve(path))),
        None => Some(PostgresPassword::Fixed(value)),
    }
}

/// `postgres://USER@HOST[:PORT][,HOST[:PORT]]/DATABASE[?NAME=VALUE&…]`, as libpq takes it (its manual, §34.1.1.2), without
/// what would have no effect here.
fn server(text: &Text<'_, '_>) -> Option<PostgresServer> {
    let (scheme, rest) = text.value.split_once("://").unwrap_or_default();
    if !matches!(scheme, "postgres" | "postgresql") {
        return text.bad(POSTGRES);
    }
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (userinfo, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = match userinfo.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (userinfo, None),
    };
    let parameters = parameters(text, query)?;
    if text.is_literal && password.is_some() {
        return text.bad_as("a password in the URL", NO_PASSWORD);
    }
    let decoded = |part: &str| percent_decode_str(part).decode_utf8().map(Cow::into_owned).ok();
    let is_word = |word: &String| !word.is_empty() && !word.chars().any(char::is_control);
    let user = match parameters.user {
        Some(user) => Some(user),
        None => decoded(user),
    };
    let Some(user) = user.filter(is_word) else { return text.bad_as("a URL without a user", POSTGRES) };
    let Some(database) = decoded(database).filter(is_word) else {
        return text.bad_as("a URL without a database", POSTGRES);
    };
    let password = match password.map(decoded) {
        None => None,
        Some(Some(password)) if !password.is_empty() => Some(PostgresPassword::Fixed(password.into())),
        Some(_) => return text.bad_as("a password that is empty or not UTF-8", NO_PASSWORD),
    };
    let port = parameters.port.unwrap_or(PORT);
    let named = if hosts.is_empty() { parameters.hosts.as_deref().unwrap_or_default() } else { hosts };
    let hosts: Option<Vec<PostgresHost>> = named.split(',').map(|named| one_host(named, port)).collect();
    let Some(hosts) = hosts else { return text.bad_as(format!("the host {}", quoted(named)), POSTGRES) };
    let is_local = hosts.iter().all(PostgresHost::is_local);
    let tls = parameters.tls.unwrap_or(if is_local { PostgresTls::Off } else { PostgresTls::Verify });
    if tls == PostgresTls::Off && !is_local {
        let item = text.item;
        let words = "sslmode=disable: passwords, accounts and tokens of providers cross the network in cleartext, and \
                     another machine can pose as the database";
        item.doc.warn(item.at, &item.key, words);
    }
    Some(PostgresServer { hosts, user, database, password, tls })
}

#[derive(Default)]
struct Parameters {
    hosts: Option<String>,
    port: Option<u16>,
    user: Option<String>,
    tls: Option<PostgresTls>,
}

fn parameters(text: &Text<'_, '_>, query: &str) -> Option<Parameters> {
    let mut parameters = Parameters::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode_str(value).decode_utf8().unwrap_or_default();
        match name {
            "password" => return text.bad_as("a password in the URL", NO_PASSWORD),
            "host" => parameters.hosts = Some(value.into_owned()),
            "user" => parameters.user = Some(value.into_owned()),
            "port" => match value.parse().ok().filter(|port| *port != 0) {
                Some(port) => parameters.port = Some(port),
                None => return text.bad_as("?port= without a port", "a port, such as ?port=5432"),
            },
            "sslmode" => match &*value {
                "disable" => parameters.tls = Some(PostgresTls::Off),
                // Encrypted without a look at the certificate is no protection; every mode with TLS verifies.
                "require" | "verify-ca" | "verify-full" => parameters.tls = Some(PostgresTls::Verify),
                other => {
                    let want = "sslmode=verify-full, or sslmode=disable to go without TLS";
                    return text.bad_as(format!("sslmode={}", quoted(other)), want);
                }
            },
            // What several hosts mean anyway.
            "target_session_attrs" if value == "read-write" => {}
            "target_session_attrs" => {
                let want = "target_session_attrs=read-write: every replica writes that it is there";
                return text.bad_as("a server that may be read-only", want);
            }
            other => {
                let want = "host, port, user, sslmode or target_session_attrs; the rest has keys of its own in [store]";
                return text.bad_as(format!("the parameter {}", quoted(other)), want);
            }
        }
    }
    Some(parameters)
}

fn one_host(named: &str, port: u16) -> Option<PostgresHost> {
    let decoded = percent_decode_str(named).decode_utf8().ok()?;
    if decoded.starts_with('/') {
        let (folder, port) = match named.rsplit_once(':') {
            Some((folder, port)) => (folder, port.parse().ok()?),
            None => (named, port),
        };
        let folder = percent_decode_str(folder).decode_utf8().ok()?;
        return Some(PostgresHost::Socket { folder: PathBuf::from(&*folder), port });
    }
    let host = Host::parse(named.as_bytes()).ok().filter(|host| host.port() != Some(0))?;
    let name = host.name().trim_matches(['[', ']']).to_owned();
    Some(PostgresHost::Tcp { host: name, port: host.port().unwrap_or(port) })
}
