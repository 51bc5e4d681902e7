//! `[[providers]]`: components, the hosts that each of them can reach, and their credentials.
//!
//! What is wrong here would otherwise show when the first user connects, or let a component reach hosts
//! that the operator did not intend.

use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::file::{Item, Section};
use super::form;
use super::networks::reach;
use super::read::{existing_file, filled, require, secret};
use palisade_core::domain::name::is_line;
use palisade_core::domain::reach::Reach;
use palisade_core::domain::request::{Host, is_loopback};
use palisade_core::domain::route::Require;

/// The components that are shipped inside the binary, as `builtin:NAME` names them.
pub const BUILT_IN: [&str; 9] =
    ["oauth2", "google", "github", "entra", "slack", "salesforce", "schwab", "apple", "meta"];

/// `[[providers]]`: a component, its settings and its credentials.
#[derive(Clone)]
pub struct Provider {
    pub name: String,
    /// Where it begins in the file, counted from 1.
    pub line: usize,
    /// What people call it; `None`: what the component says.
    pub display_name: Option<String>,
    pub component: Component,
    /// What the SHA-256 of the component must be.
    pub sha256: Option<[u8; 32]>,
    pub client_id: SecretString,
    /// For `private_key_jwt`, a private key in PEM.
    pub client_secret: Option<SecretString>,
    /// The only hosts that the component can reach; never empty.
    pub allowed_hosts: Vec<AllowedHost>,
    /// Whether hosts on this machine may be called, in cleartext too.
    pub allow_loopback: bool,
    /// The private networks that may be called, and the authorities that are trusted there.
    pub reach: Reach,
    /// What is asked for; empty: what the component names.
    pub scopes: Vec<String>,
    /// What the component is told, as a JSON object.
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// The values in it that the file names by a reference.
    pub secret_settings: Vec<SecretString>,
    /// The parameters whose values are sealed and never shown.
    pub secret_parameters: Vec<String>,
    pub limits: PluginLimits,
    /// Who may be given access tokens of this provider; `None`: no caller.
    pub token_access: Option<Require>,
}

/// Settings may be secrets.
impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Provider { name, component, allowed_hosts, limits, .. } = self;
        f.debug_struct("Provider")
            .field("name", name)
            .field("component", component)
            .field("allowed_hosts", allowed_hosts)
            .field("limits", limits)
            .finish_non_exhaustive()
    }
}

/// Where a component comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Component {
    /// `builtin:NAME`, one of [`BUILT_IN`].
    BuiltIn(String),
    File(PathBuf),
}

/// A host that may be called: `api.example.com`, with a port unless it is 443, or `*.example.com` for one
/// label or more in front.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AllowedHost {
    /// Without the `*.`; lower case; an IPv6 address in brackets.
    pub host: String,
    /// Whether labels may stand in front, and then at least one must.
    pub wildcard: bool,
    /// `None`: the default port of the scheme.
    pub port: Option<u16>,
}

impl AllowedHost {
    /// Whether `host` (in lower case) at `port` may be called, where `usual` is the default port of the
    /// scheme.
    #[must_use]
    pub fn covers(&self, host: &str, port: u16, usual: u16) -> bool {
        let named = if self.wildcard {
            // The dot belongs to the front: `evilexample.com` is no host of `*.example.com`.
            host.strip_suffix(&*self.host)
                .and_then(|front| front.strip_suffix('.'))
                .is_some_and(|labels| labels.split('.').all(|label| !label.is_empty()))
        } else {
            host == self.host
        };
        named && port == self.port.unwrap_or(usual)
    }
}

/// `providers.limits`: what one call of a component may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PluginLimits {
    /// Wall-clock time of a call, requests included.
    pub deadline: Duration,
    /// Time of one request; no longer than the deadline.
    pub request_timeout: Duration,
    /// Linear memory in bytes.
    pub memory: usize,
    /// The largest answer that a request may bring, in bytes.
    pub response: usize,
    /// Requests in a call.
    pub requests: u32,
    /// Calls at once; more wait.
    pub concurrency: usize,
}

impl Default for PluginLimits {
    fn default() -> PluginLimits {
        PluginLimits {
            deadline: Duration::from_secs(20),
            request_timeout: Duration::from_secs(10),
            memory: 64 << 20,
            response: 1 << 20,
            requests: 16,
            concurrency: 16,
        }
    }
}

/// Every provider of the file; those with errors are left out, and reported.
pub(super) fn providers(root: &Section<'_>) -> Vec<Provider> {
    let mut providers: Vec<Provider> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for section in root.sections("providers") {
        let want = "a name of letters, digits, '-', '_' and '.'";
        let name = section.required("name", want).and_then(|item| {
            let name = item.read(want, |text| form::is_label(text).then(|| text.to_owned()))?;
            if names.contains(&name) {
                return item.bad("a name that no other provider has");
            }
            names.push(name.clone());
            Some(name)
        });
        providers.extend(provider(section, name));
    }
    providers
}

fn provider(section: Section<'_>, name: Option<String>) -> Option<Provider> {
    let display_name = section.get("display_name").and_then(|item| {
        item.read("a name for people to read", |text| is_line(text).then(|| text.to_owned()))
    });
    let component = section.required("component", &component_wanted()).as_ref().and_then(component);
    let sha256 = section.get("sha256").and_then(|item| {
        item.read("64 hexadecimal digits, as `sha256sum` prints them", |text| {
            form::hex(text)?.as_slice().try_into().ok()
        })
    });
    let client_id = section.required("client_id", "a reference: \"env:NAME\" or \"file:PATH\"");
    let client_id = client_id.as_ref().and_then(secret);
    let client_secret = section.get("client_secret").as_ref().and_then(secret);
    let allow_loopback = section.bool("allow_loopback", false);
    if let Some(item) = section.get("allow_loopback").filter(|_| allow_loopback) {
        let text = "the component may call programs on this machine, in cleartext too; for development";
        item.doc.warn(item.at, &item.key, text);
    }
    let reach = reach(&section);
    let want = "the hosts that the component may reach";
    let allowed_hosts =
        filled(&section, "allowed_hosts", want, |item| allowed_host(item, allow_loopback, &reach));
    let scopes = section.list("scopes", |item| {
        item.read("a scope without spaces", |text| {
            text.bytes().all(|b| b.is_ascii_graphic()).then(|| text.to_owned())
        })
    });
    let (settings, secret_settings) = settings(&section);
    let mut secret_parameters = section.list("secret_parameters", |item| {
        item.read("the name of a parameter", |text| (!text.is_empty()).then(|| text.to_owned()))
    });
    secret_parameters.extend(settings.iter().flat_map(marked_secret));
    let limits = limits(section.section("limits"));
    let token_access = section.get("token_access").and_then(|item| token_access(&item));
    let line = section.doc.line(section.at);
    section.close();
    Some(Provider {
        name: name?,
        line,
        display_name,
        component: component?,
        sha256,
        client_id: client_id?,
        client_secret,
        allowed_hosts,
        allow_loopback,
        reach,
        scopes,
        settings: settings.unwrap_or_default(),
        secret_settings,
        secret_parameters,
        limits,
        token_access,
    })
}

/// `[providers.settings]`, and the values in it that came by reference.
fn settings(
    section: &Section<'_>,
) -> (Option<serde_json::Map<String, serde_json::Value>>, Vec<SecretString>) {
    let secrets: RefCell<Vec<SecretString>> = RefCell::default();
    let text = |item: &Item<'_>, text: &str| {
        if !["env:", "file:"].iter().any(|scheme| text.starts_with(scheme)) {
            return Some(text.to_owned());
        }
        let found = secret(item)?;
        let value = found.expose_secret().to_owned();
        secrets.borrow_mut().push(found);
        Some(value)
    };
    let settings = section.get("settings").and_then(|item| item.json_object(&text));
    (settings, secrets.into_inner())
}

/// The parameters that the settings of `builtin:oauth2` mark with `secret = true`.
fn marked_secret(settings: &serde_json::Map<String, serde_json::Value>) -> Vec<String> {
    let parameters = settings.get("parameters").and_then(serde_json::Value::as_array);
    let marked = parameters.into_iter().flatten().filter(|parameter| parameter["secret"] == true);
    marked.filter_map(|parameter| parameter["name"].as_str().map(str::to_owned)).collect()
}

fn component_wanted() -> String {
    format!("a component file (.wasm), or \"builtin:\" and one of {}", BUILT_IN.join(", "))
}

fn component(item: &Item<'_>) -> Option<Component> {
    let want = component_wanted();
    let text = item.text(&want)?;
    match text.strip_prefix("builtin:") {
        Some(name) if BUILT_IN.contains(&name) => Some(Component::BuiltIn(name.to_owned())),
        Some(name) => match form::nearest(name, &BUILT_IN) {
            Some(near) => item.bad(&format!("a built-in component; did you mean \"builtin:{near}\"?")),
            None => item.bad(&want),
        },
        None if !text.ends_with(".wasm") => item.bad(&want),
        None => existing_file(item, &want).map(Component::File),
    }
}

const HOST: &str = "a lower-case host with an optional port, such as api.example.com, or *.example.com for the hosts below it";

fn allowed_host(item: &Item<'_>, allow_loopback: bool, reach: &Reach) -> Option<AllowedHost> {
    let pattern = item.read(HOST, |text| {
        let (wildcard, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let host = Host::parse(rest.as_bytes()).ok()?;
        let usual = host.to_string() == rest && host.port() != Some(0) && !is_odd_address(host.name());
        usual.then(|| AllowedHost { host: host.name().to_owned(), wildcard, port: host.port() })
    })?;
    let address = pattern.host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    if pattern.wildcard && (address.is_some() || !pattern.host.contains('.')) {
        return item.bad("a wildcard below a name of two labels or more, such as *.example.com");
    }
    if address.is_some_and(|address| reach.opens(address)) {
        return Some(pattern);
    }
    if is_loopback(&pattern.host) {
        if !allow_loopback {
            return item.bad("a host elsewhere, or allow_loopback = true for development");
        }
    } else if address.is_some() {
        return item.bad(
            "the name of a host: addresses are for loopback, with allow_loopback = true, and for the networks of \
             allow_private",
        );
    }
    Some(pattern)
}

/// Whether URL parsers would make an address of what looks like a name: `0x7f.1` (WHATWG URL §3.5).
fn is_odd_address(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn limits(section: Section<'_>) -> PluginLimits {
    let usual = PluginLimits::default();
    let (second, tick) = (Duration::from_secs(1), Duration::from_millis(100));
    let deadline = section.duration("deadline", usual.deadline, tick..=second * 300);
    let request_timeout = usual.request_timeout.min(deadline);
    let limits = PluginLimits {
        deadline,
        request_timeout: section.duration("request_timeout", request_timeout, tick..=deadline),
        memory: section.size("memory", usual.memory, 1 << 20..=1 << 30),
        response: section.size("response", usual.response, 1 << 10..=64 << 20),
        requests: section.get("requests").map_or(usual.requests, |item| {
            item.number(1..=1000).and_then(|n| u32::try_from(n).ok()).unwrap_or(usual.requests)
        }),
        concurrency: section.count("concurrency", usual.concurrency, 1..=1024),
    };
    section.close();
    limits
}

/// Who may be given tokens. No condition at all would hand them to every app that a user signs in to.
fn token_access(item: &Item<'_>) -> Option<Require> {
    let require = require(item.section()?);
    if require == Require::default() {
        let want = "what a caller's token must say, such as { scopes = [\"provider-tokens\"] }; \
                    leave the key out to give tokens to no caller";
        return item.bad_as("no condition", want);
    }
    Some(require)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_its_host_at_its_port_and_nothing_that_looks_like_it() {
        let exact = AllowedHost { host: "a.test".to_owned(), wildcard: false, port: None };
        let wild = AllowedHost { host: "a.test".to_owned(), wildcard: true, port: None };
        let ported = AllowedHost { host: "a.test".to_owned(), wildcard: false, port: Some(8443) };
        for (pattern, host, port, want) in [
            (&exact, "a.test", 443, true),
            (&exact, "a.test", 8443, false),
            (&exact, "a.test.", 443, false),
            (&exact, "b.a.test", 443, false),
            (&wild, "b.a.test", 443, true),
            (&wild, "c.b.a.test", 443, true),
            (&wild, "a.test", 443, false),
            (&wild, "ba.test", 443, false),
            (&wild, ".a.test", 443, false),
            (&wild, "b..a.test", 443, false),
            (&wild, "b.a.test.evil", 443, false),
            (&ported, "a.test", 8443, true),
            (&ported, "a.test", 443, false),
        ] {
            assert_eq!(pattern.covers(host, port, 443), want, "{pattern:?} {host}:{port}");
        }
    }
}
