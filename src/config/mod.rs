//! The configuration, typed and already valid.
//!
//! `file` walks `config.toml` as written and knows the line of every key, `check` turns it into the types of
//! `settings` and collects every error on the way. Past this module values are right, and their types say so.
//! No secret is ever printed: they are `SecretString`s, resolved from their references.
//!
//! The modules form a tree, from the top: `check`, the sections (`routes`, `providers` and so on), `settings`,
//! `read`, `file`, `sources`, `references`, `redaction`, `form`, `error`. Each uses only modules below it; a test of `tests/tidy.rs` finds a circle.

mod access_token;
mod accounts;
mod app_accounts;
mod authorization;
mod backup;
mod browser;
pub mod catalogue;
mod check;
mod connections;
mod cors;
mod error;
mod fetch;
mod file;
mod foreign_tokens;
mod form;
mod identity_headers;
mod introspection;
mod issuers;
mod json;
mod limits;
mod load_balancers;
mod mail;
mod matching;
mod native;
mod networks;
mod other_issuers;
mod pages;
mod probes;
mod providers;
mod proxies;
mod read;
mod redaction;
mod references;
mod routes;
mod rule_warnings;
mod settings;
mod sources;
mod store;
mod unsent_emails;
mod upstreams;

use std::path::Path;

pub use self::accounts::Accounts;
pub use self::backup::BackupSettings;
pub use self::connections::{Connections, Vault, Webhook};
pub use self::error::{ConfigError, error_lines};
pub use self::fetch::{FetchSettings, ProxyUrl};
pub use self::form::{vault_key, webhook_key};
pub use self::introspection::{IntrospectedIssuer, Introspection, IntrospectionAuth, OptionalMembers};
pub use self::issuers::{Algorithm, Issuer, Jwks};
pub use self::limits::{Allowance, Allowances, LimitSettings};
pub use self::load_balancers::LoadBalancers;
pub use self::providers::{AllowedHost, BUILT_IN, Component, PluginLimits, Provider};
pub use self::redaction::Redaction;
pub use self::settings::{
    AccessTokenField, AuditTo, Balance, ClientAddress, ClientCertificate, Config, Forward, Health, Log,
    LogFormat, Mail, MailTransport, Mailbox, PagesSettings, Passwords, Rewrite, Route, Server, Sessions,
    Smtp, SmtpTls, Tls, Tokens, Upstream, UpstreamOrigin,
};
pub use self::sources::Sources;
pub use self::store::{PostgresHost, PostgresPassword, PostgresServer, PostgresTls, SharedStore, StoreUrl};
pub use palisade_core::domain::cors::{Cors, Origins};

fn unreadable(path: &Path, error: &std::io::Error) -> ConfigError {
    ConfigError {
        path: path.to_owned(),
        line: 0,
        key: String::new(),
        found: format!("no readable file ({error})"),
        want: "a configuration file; name another with --config FILE".to_owned(),
    }
}

/// Reads and checks the file at `path`, resolving secrets from the environment and from files.
///
/// # Errors
/// Everything that is wrong with it, in the order of its lines.
pub fn load(path: &Path) -> Result<Config, Vec<ConfigError>> {
    read(path).0
}

/// What the file at `path` says of the store and of `vault.keys`. Everything else in it may be wrong.
///
/// # Errors
/// What is wrong with these two sections, or that the file cannot be read.
pub fn load_store(path: &Path) -> Result<(StoreUrl, Vault), Vec<ConfigError>> {
    match std::fs::read_to_string(path) {
        Ok(text) => check::store_alone(&text, path, &|name| std::env::var(name).ok()),
        Err(error) => Err(vec![unreadable(path, &error)]),
    }
}

/// Like [`load`], with the files that were read for it, whether it is good or not.
pub fn read(path: &Path) -> (Result<Config, Vec<ConfigError>>, Sources) {
    match std::fs::read_to_string(path) {
        Ok(text) => check::config(&text, path, &|name| std::env::var(name).ok()),
        Err(error) => (Err(vec![unreadable(path, &error)]), Sources::new(path, None)),
    }
}

/// Checks `text` as the file at `path` would be, with `env` in place of the environment.
///
/// # Errors
/// Everything that is wrong with it, in the order of its lines.
pub fn parse(
    text: &str,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, Vec<ConfigError>> {
    check::config(text, path, env).0
}
