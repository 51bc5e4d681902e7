//! `[connections]` and `[vault]`: where browsers and notices go, how tokens are kept fresh, and the keys
//! that they are sealed with.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::file::{Item, Section};
use super::form::{self, Url};
use super::read::secret;
use palisade_core::domain::request::Path;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The shortest key of a webhook in bytes (Standard Webhooks, "Signature scheme").
const MIN_WEBHOOK_KEY: usize = 24;

/// `[connections]`.
#[derive(Debug, Clone)]
pub struct Connections {
    /// Where a browser may be sent once a connection was made: whole URLs, word for word.
    pub return_to: Vec<String>,
    /// How long before its end an access token is replaced.
    pub refresh_ahead: Duration,
    /// Whether tokens are refreshed before they expire although no request needs them.
    pub keep_fresh: bool,
    /// How long before a grant ends by itself its user is told.
    pub warn_ahead: Duration,
    pub webhook: Option<Webhook>,
    /// Where compiled components are kept; `None`: in the data folder.
    pub cache: Option<PathBuf>,
}

/// `connections.webhook` and `accounts.webhook`: where the app is told.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// `https`, or `http` on loopback.
    pub url: String,
    /// What notices are signed with (HMAC-SHA256); [`crate::config::webhook_key`] reads it.
    pub secret: SecretString,
}

/// `[vault]`.
#[derive(Debug, Clone)]
pub struct Vault {
    /// 32 bytes each, as [`crate::config::vault_key`] reads them; no two are the same. The first one seals; all of
    /// them open. Empty: one is made in the data folder, for development.
    pub keys: Vec<SecretString>,
}

pub(super) fn connections(section: Section<'_>, public_url: &str) -> Connections {
    let mut return_to: Vec<String> = Vec::new();
    for item in section.get("return_to").iter().flat_map(Item::list) {
        let Some(url) = page(&item, public_url) else { continue };
        if return_to.contains(&url) {
            item.bad::<()>("each URL once");
        } else {
            return_to.push(url);
        }
    }
    let connections = Connections {
        return_to,
        refresh_ahead: section.duration("refresh_ahead", Duration::from_secs(300), Duration::ZERO..=DAY),
        keep_fresh: section.bool("keep_fresh", true),
        warn_ahead: section.duration("warn_ahead", DAY, Duration::ZERO..=DAY * 30),
        webhook: section.get("webhook").and_then(|item| webhook(item.section()?)),
        cache: section
            .get("cache")
            .and_then(|item| item.text("a folder").map(|folder| item.doc.resolve(folder))),
    };
    section.close();
    connections
}

/// A page to return to: a whole URL that no request can change, without a fragment, and with a path in normal form,
/// which every program reads in the same way.
fn page(item: &Item<'_>, public_url: &str) -> Option<String> {
    let want = "an exact URL (https://, or http:// on loopback) or a path on public_url, without a fragment";
    item.read(want, |text| {
        let whole = match text.starts_with('/') {
            true => format!("{public_url}{text}"),
            false => text.to_owned(),
        };
        let url = Url::parse(&whole).filter(|url| !url.rest.contains('#'))?;
        let path = url.rest.split('?').next().unwrap_or_default();
        let normal =
            path.is_empty() || Path::parse(path.as_bytes()).is_ok_and(|path| !path.has_empty_segment());
        // A path is on public_url, whatever that is; it has its own warning.
        let safe = url.is_safe() || text.starts_with('/');
        (normal && safe).then_some(whole)
    })
}

/// Reads where and how the app is told.
pub(super) fn webhook(section: Section<'_>) -> Option<Webhook> {
    let want = "an https:// URL (http:// on loopback only), without a fragment";
    let url = section.required("url", want).and_then(|item| {
        item.read(want, |text| {
            let url = Url::parse(text).filter(|url| url.is_safe() && !url.rest.contains('#'))?;
            // Without a path, servers are asked for the root.
            Some(if url.rest.is_empty() { format!("{text}/") } else { text.to_owned() })
        })
    });
    let item = section.required("secret", "a reference: \"env:NAME\" or \"file:PATH\"");
    let secret = item.and_then(|item| {
        let secret = secret(&item)?;
        match form::webhook_key(&secret) {
            Some(key) if key.len() >= MIN_WEBHOOK_KEY => Some(secret),
            Some(_) => {
                item.bad_as("a short secret", "at least 24 bytes, such as `palisade vault key` prints")
            }
            None => item.bad_as("no base64 behind whsec_", "whsec_ and base64, or a secret without whsec_"),
        }
    });
    section.close();
    Some(Webhook { url: url?, secret: secret? })
}

/// Reads the section; without a key, providers are for development only.
pub(super) fn vault(root: &Section<'_>, public_url: &str, is_shared: bool) -> Vault {
    let section = root.section("vault");
    let mut keys: Vec<SecretString> = Vec::new();
    let mut known: Vec<[u8; 32]> = Vec::new();
    for item in section.get("keys").iter().flat_map(Item::list) {
        let Some(text) = secret(&item) else { continue };
        match form::vault_key(&text) {
            None => {
                let want = "32 bytes in base64, base64url or hex, such as `palisade vault key` prints";
                item.bad_as::<()>("no key", want);
            }
            Some(key) if known.contains(&key) => {
                item.bad_as::<()>("a key that is there already", "each key once");
            }
            Some(key) => {
                known.push(*key);
                keys.push(text);
            }
        }
    }
    zeroize::Zeroize::zeroize(&mut known);
    let named = section.get("keys");
    let missing = named.as_ref().is_none_or(Item::is_empty_list);
    let local = Url::parse(public_url).is_some_and(|url| url.is_loopback());
    if is_shared && missing {
        let section = root.section("store");
        let at = named.map_or_else(|| section.get("url").map_or(section.at, |item| item.at), |item| item.at);
        let want = "a key that the secrets of all replicas are sealed with in the database, the same for each of them, \
                    such as [\"env:PALISADE_VAULT_KEY\"]: make one with `palisade vault key` and keep it away from the \
                    database";
        root.doc.fault(at, "vault.keys", "no key", want);
    } else if let Some(provider) = root.sections("providers").first().filter(|_| missing && !local) {
        let at = named.map_or(provider.at, |item| item.at);
        let want = "a key that the tokens of providers are sealed with, such as [\"env:PALISADE_VAULT_KEY\"]: \
                    make one with `palisade vault key` and keep it away from the data folder, or a thief of \
                    that folder can read the tokens too";
        root.doc.fault(at, "vault.keys", "no key", want);
    }
    section.close();
    Vault { keys }
}
