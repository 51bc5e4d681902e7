//! What `config.toml` says, typed: the whole and its sections. Sections with more to them have a file of their own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;

use super::accounts::Accounts;
use super::backup::BackupSettings;
use super::connections::{Connections, Vault};
use super::fetch::FetchSettings;
use super::introspection::IntrospectedIssuer;
use super::issuers::{Algorithm, Issuer};
use super::limits::LimitSettings;
use super::load_balancers::LoadBalancers;
use super::providers::Provider;
use super::redaction::Redaction;
use super::sources::Sources;
use super::store::StoreUrl;
use palisade_core::domain::browser::BrowserSettings;
use palisade_core::domain::cors::Cors;
use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::native_hosts::NativeHosts;
use palisade_core::domain::page::PageName;
use palisade_core::domain::password::PasswordPolicy;
use palisade_core::domain::pattern::HostPattern;
use palisade_core::domain::request::Scheme;
use palisade_core::domain::route::{self, Policy};
use palisade_core::domain::session::Fingerprint;

/// The whole of `config.toml`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the file was; relative paths in it are resolved against its folder.
    pub path: PathBuf,
    /// The files that it was read from.
    pub sources: Sources,
    /// The SHA-256 of the file's text in hexadecimal, as `sha256sum` prints it. Values of references are not in it: a hash
    /// of a short secret could be searched for.
    pub hash: String,
    /// The origin that browsers see, without a trailing slash. Links are built from it.
    pub public_url: String,
    pub server: Server,
    /// `[cors]`: whose pages may call the native endpoints.
    pub cors: Cors,
    pub browser: BrowserSettings,
    /// `[native] hosts`: where the native endpoints answer.
    pub native: NativeHosts,
    pub pages: PagesSettings,
    pub log: Log,
    pub store: StoreUrl,
    pub backup: BackupSettings,
    pub tokens: Tokens,
    /// Those whose tokens are JWTs.
    pub issuers: Vec<Issuer>,
    pub load_balancers: Vec<LoadBalancers>,
    /// Those that are asked about opaque tokens. One whose JWTs are taken, too, is in both lists.
    pub introspected: Vec<IntrospectedIssuer>,
    /// `[fetch]`: how requests of our own leave.
    pub fetch: FetchSettings,
    pub passwords: Passwords,
    pub accounts: Accounts,
    pub sessions: Sessions,
    pub limits: LimitSettings,
    pub mail: Mail,
    pub routes: Vec<Route>,
    pub providers: Vec<Provider>,
    pub connections: Connections,
    pub vault: Vault,
    /// Keeps the values of references out of messages about this configuration.
    pub redaction: Redaction,
    /// What works, but is probably not meant; one printable line each.
    pub warnings: Vec<String>,
    /// The routes that do not send the address of some callers, as it is not known to be verified; one printable
    /// line each. For `check` and the start: a reload changes nothing about it.
    pub unsent_emails: Vec<String>,
    /// The routes that let in more people, or more script near an account, than their operator may expect; one
    /// printable line each. For `check` and the start, too.
    pub exposures: Vec<String>,
}

impl Config {
    /// The scheme of [`Config::public_url`].
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        if self.public_url.starts_with("https://") { Scheme::Https } else { Scheme::Http }
    }
}

/// `[pages]`: what the pages for people look like, and where they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PagesSettings {
    /// What the service is called; `None`: the name in `mail.from`.
    pub name: Option<String>,
    /// An image file (SVG or PNG), read at the start.
    pub logo: Option<PathBuf>,
    /// `#rrggbb`, in lower case; `None`: ours.
    pub accent: Option<String>,
    /// A folder whose files replace the built-in templates of the same names.
    pub folder: Option<PathBuf>,
    /// The languages that are offered, the first when a reader asks for none of them; empty: all that are built in.
    pub languages: Vec<String>,
    /// The operator's own pages in place of ours: whole URLs without a fragment.
    pub urls: Vec<(PageName, String)>,
}

/// `[server]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub listen: Vec<SocketAddr>,
    pub admin: SocketAddr,
    /// Names that the admin listener answers to, beside addresses and `localhost`: a host in lower case, or
    /// `*.example.com` for the hosts below it.
    pub admin_hosts: Vec<HostPattern>,
    /// A listener of health and metrics alone, without a credential.
    pub health: Option<SocketAddr>,
    /// The path at which the listeners for clients tell readiness: in normal form.
    pub ping_path: Option<String>,
    /// The path that the native endpoints are below: in normal form, without a trailing slash.
    pub prefix: String,
    pub tls: Option<Tls>,
    /// Peers that are believed about where a request came from.
    pub trusted_proxies: Vec<IpNet>,
    /// The field in which they name the client.
    pub client_address: ClientAddress,
    /// How long requests are still taken, as before, after a stop was asked for.
    pub shutdown_delay: Duration,
    /// How long requests under way may take to finish after that.
    pub shutdown_grace: Duration,
    /// From the first byte of a request to the end of its header section.
    pub header_timeout: Duration,
    /// How long a connection may stay open between requests.
    pub idle_timeout: Duration,
    /// The largest header section in bytes, request line included.
    pub max_header_bytes: usize,
    /// Open client connections at once; more are closed as they come.
    pub max_connections: usize,
    /// About the most memory that all requests under way may hold together, in bytes.
    pub max_request_memory: usize,
    /// Worker threads; 0: one per core.
    pub threads: usize,
    /// Whether the configuration is read again when its file changes.
    pub watch: bool,
}

/// `server.client_address`: the one field in which trusted proxies name the client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientAddress {
    /// `X-Forwarded-For`, with `X-Forwarded-Proto`, `-Host` and `-Port` beside it.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239), and no `X-Forwarded-` field.
    Forwarded,
    /// `X-Real-IP`, with `X-Forwarded-Proto`, `-Host` and `-Port` beside it.
    XRealIp,
}

/// `server.tls`: files are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub listen: SocketAddr,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter as `tracing` reads it.
    pub level: String,
    /// One line per request.
    pub access: bool,
    /// Where the lines of the audit log go.
    pub audit: AuditTo,
}

/// `log.audit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditTo {
    /// Standard output; everything else that is logged goes to standard error.
    Stdout,
    /// Appended to this file, which is opened anew for each write, so that it may be rotated.
    File(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// `[tokens]`: what we sign ourselves.
#[derive(Debug, Clone)]
pub struct Tokens {
    pub issuer: String,
    pub audience: String,
    pub algorithm: Algorithm,
    pub access_ttl: Duration,
    pub refresh_ttl: Duration,
    /// For how long the direct parent of a refresh token brings it while it was not used.
    pub refresh_repeat: Duration,
    pub leeway: Duration,
    /// A key given from outside: a PEM private key, or the HS256 secret. `None`: a managed key ring.
    pub key: Option<SecretString>,
    /// The longest token that is looked at, in bytes.
    pub max_bytes: usize,
    /// Entries in the verified-token cache; a long token counts as several.
    pub cache_entries: u64,
}

/// `[passwords]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passwords {
    pub policy: PasswordPolicy,
    /// The fewest guesses that a password must stand.
    pub min_guesses: u64,
    /// 4 to 31.
    pub bcrypt_cost: u32,
    /// The highest cost of a hash that is imported; at least [`Passwords::bcrypt_cost`], at most 31.
    pub max_cost: u32,
    /// Threads that hash; 0: one less than there are cores, and at least one.
    pub threads: usize,
}

/// `[sessions]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sessions {
    /// How many an account has at once; the least used one makes room for another.
    pub max_per_user: usize,
    /// From the login to the end, however much a session is used.
    pub absolute_ttl: Duration,
    /// What to do about a refresh from a device that does not look like the one that signed in.
    pub fingerprint: Fingerprint,
    /// A MaxMind database of places (GeoLite2 or GeoIP2, City or Country).
    pub geoip: Option<PathBuf>,
}

/// `[mail]`.
#[derive(Debug, Clone)]
pub struct Mail {
    pub transport: MailTransport,
    /// The sender of all mail; its name is also the name of the service in letters.
    pub from: Mailbox,
    /// A folder whose files replace the built-in letters of the same names.
    pub templates: Option<PathBuf>,
    /// The page that confirms an address; without a fragment, which is the token's place.
    pub verify_url: String,
    /// The page that sets a new password; without a fragment.
    pub reset_url: String,
    /// The page that undoes a change of address; without a fragment.
    pub undo_url: String,
    /// The page that objects to such an undo; without a fragment.
    pub object_url: String,
}

/// A mailbox (RFC 5322 §3.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    pub name: Option<String>,
    pub address: EmailAddress,
}

#[derive(Debug, Clone)]
pub enum MailTransport {
    /// No mail is sent. The operator hands links over, and what happened is told on the account page.
    None,
    /// Written to the log, for development.
    Log,
    /// Written as files into this folder.
    File(PathBuf),
    Smtp(Smtp),
}

/// A server that takes mail (RFC 6409).
#[derive(Debug, Clone)]
pub struct Smtp {
    /// A name, or an address without brackets.
    pub host: String,
    pub port: u16,
    pub tls: SmtpTls,
    /// The user to sign in as; then there is a password too.
    pub user: Option<String>,
    pub password: Option<SecretString>,
    /// A PEM file of authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    /// STARTTLS (RFC 3207), and nothing without it.
    StartTls,
    /// TLS from the first byte (RFC 8314 §3.3).
    Implicit,
    /// Cleartext, on loopback only.
    Off,
}

/// `[[routes]]`: the policy for admission and the upstream for the proxy, under one name.
#[derive(Debug, Clone)]
pub struct Route {
    pub policy: route::Route,
    pub upstream: Upstream,
    pub forward: Forward,
}

/// Where a route's requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// At least one; all with the same scheme.
    pub origins: Vec<UpstreamOrigin>,
    /// Where they are written.
    pub line: usize,
    pub balance: Balance,
    pub health: Option<Health>,
    pub connect_timeout: Duration,
    /// Between two reads of a response. Streams that stay silent longer are cut unless they are
    /// WebSockets or event streams.
    pub read_timeout: Duration,
    /// How long either side may take nothing of what is being written to it.
    pub write_timeout: Duration,
    /// How long an idle connection is kept; `None`: as long as it usually is safe to.
    pub idle: Option<Duration>,
    /// Further attempts when no connection could be made, and for an idempotent request whose connection failed, also when an
    /// idle one was used again.
    pub retries: usize,
    /// The largest request body in bytes; `None`: no limit.
    pub max_body: Option<u64>,
    /// A PEM file of authorities to trust for `https` upstreams instead of the machine's own.
    pub ca: Option<PathBuf>,
    /// The name that TLS asks for and that the certificate is held against, in place of each upstream's own.
    pub tls_name: Option<String>,
    /// Who we are to `https` upstreams that ask.
    pub client: Option<ClientCertificate>,
    /// Speak HTTP/2 to the upstream (by ALPN over `https`, by prior knowledge over `http`).
    pub http2: bool,
    /// What of its answers is written anew.
    pub rewrite: Rewrite,
}

/// `client_cert` and `client_key` of a route: PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, and those between it and its authority.
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// `rewrite` of a route: what of the app's answers is told as clients of the gateway know it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// `Location` and `Content-Location`.
    pub location: bool,
    /// `Path` and `Domain` of cookies.
    pub cookies: bool,
}

/// One upstream: scheme, host, port; or a socket file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamOrigin {
    pub tls: bool,
    /// Of a socket file `localhost`, which is what the app is told where it is not told the caller's Host.
    pub host: String,
    pub port: u16,
    /// The absolute path of a socket file, where it is one.
    pub socket: Option<Arc<str>>,
}

impl std::fmt::Display for UpstreamOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(path) = &self.socket {
            return write!(f, "unix:{path}");
        }
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    Random,
}

/// `health` of a route: a `GET` that must answer 2xx or 3xx, or only a TCP connection when there is no
/// path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub path: Option<String>,
    pub interval: Duration,
    pub timeout: Duration,
    /// Successes in a row that make an upstream healthy again.
    pub healthy_after: usize,
    /// Failures in a row that take it out.
    pub unhealthy_after: usize,
}

/// What the upstream is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Names of the identity headers; `None`: not sent.
    pub subject: Option<String>,
    /// The issuer of the subject: two issuers may use one name for different people.
    pub issuer: Option<String>,
    /// Sent for verified addresses only.
    pub email: Option<String>,
    pub session: Option<String>,
    pub scopes: Option<String>,
    /// `X-Auth-Assertion`: off unless asked for.
    pub assertion: Option<String>,
    /// The token for the app's server: off unless asked for.
    pub access_token: Option<AccessTokenField>,
    /// `pass`: fields that the app takes from its callers although they are taken out by default.
    pub pass: Vec<String>,
    /// Send the caller's Host on (true) or the upstream's own.
    pub preserve_host: bool,
    /// The provider whose token replaces the caller's.
    pub inject: Option<String>,
}

impl Forward {
    /// The names of the fields that the route sets, and that no client may send on any route. `policy`: the route's, which
    /// has the headers of the preset and of `claims`. `Authorization` is none of them: on other routes it is the client's
    /// own.
    pub fn names<'a>(&'a self, policy: &'a Policy) -> impl Iterator<Item = &'a str> {
        let Forward {
            subject,
            issuer,
            email,
            session,
            scopes,
            assertion,
            access_token,
            pass: _,
            preserve_host: _,
            inject: _,
        } = self;
        let token =
            access_token.as_ref().filter(|token| !token.is_authorization()).map(|token| &*token.field);
        let named = [subject, issuer, email, session, scopes, assertion].into_iter().flatten();
        let told = policy.require.told().map(|field| &field.header);
        named.chain(told).map(String::as_str).chain(token)
    }
}

/// `headers.access_token` of a route, with `headers.audience`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessTokenField {
    /// The name of the field.
    pub field: String,
    /// `aud` of the token.
    pub audience: String,
}

impl AccessTokenField {
    /// Whether it is `Authorization`, where the token has its scheme before it (RFC 6750 §2.1).
    #[must_use]
    pub fn is_authorization(&self) -> bool {
        self.field.eq_ignore_ascii_case("authorization")
    }
}
