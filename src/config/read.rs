//! What several sections read: addresses, files that must exist, references to secrets, hosts, and what a token must say.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::file::{Item, Section};
use super::form::{self, Url};
use super::references;
use palisade_core::domain::claim_path::ClaimPath;
use palisade_core::domain::pattern::HostPattern;
use palisade_core::domain::request::Host;
use palisade_core::domain::route::Require;

pub(super) const ADDRESS: &str = "an address like 127.0.0.1:8080";

/// An address to listen on.
pub(super) fn address(item: &Item<'_>) -> Option<SocketAddr> {
    item.read(ADDRESS, |text| text.parse().ok())
}

/// What was found where an address cannot be listened on beside `taken`.
pub(super) fn clash(address: SocketAddr, taken: &[SocketAddr]) -> Option<String> {
    let other = taken.iter().find(|other| is_taken(address, **other))?;
    Some(format!("{address}, where {other} is listened on already"))
}

/// Whether two listeners cannot both have their address: it is the same, or one of them is every address of that family.
/// Whether every IPv6 address has those of IPv4 with it is a setting of the machine.
fn is_taken(address: SocketAddr, other: SocketAddr) -> bool {
    let [ip, with] = [address, other].map(|address| address.ip().to_canonical());
    let is_same =
        ip == with || ip.is_ipv4() == with.is_ipv4() && (ip.is_unspecified() || with.is_unspecified());
    // Port 0 is a new port each time.
    address.port() != 0 && address.port() == other.port() && is_same
}

/// A file that is there; named relative to the configuration.
pub(super) fn existing_file(item: &Item<'_>, want: &str) -> Option<PathBuf> {
    let text = item.text(want)?;
    let path = item.doc.resolve(text.strip_prefix("file:").unwrap_or(text));
    if path.is_file() { Some(path) } else { item.bad_as(format!("{text:?}, which is no file"), want) }
}

/// Resolves `env:NAME` or `file:PATH`, or takes a text that contains `${env:NAME}` or `${file:PATH}`. Whatever goes
/// wrong, the value itself is not in the message.
pub(super) fn secret(item: &Item<'_>) -> Option<SecretString> {
    let want = "a reference: \"env:NAME\" or \"file:PATH\"";
    let Some(reference) = item.raw() else { return item.bad_as("no reference", want) };
    // The scheme is the file's: a value that looks like a reference is none.
    let scheme = |text: &str| {
        text.starts_with("file:") || (text.starts_with("env:") && references::whole(text).is_none())
    };
    let value = if let Some(filled) = item.filled.filter(|filled| !scheme(&filled.written)) {
        if filled.failed {
            return None;
        }
        reference.to_owned()
    } else if let Some(name) = reference.strip_prefix("env:") {
        match (item.doc.env)(name) {
            Some(value) => value,
            None => return item.bad_as(format!("{reference:?}"), &format!("the variable {name} to be set")),
        }
    } else if let Some(path) = reference.strip_prefix("file:") {
        let file = item.doc.resolve(path);
        match item.doc.read(&item.key, &file, references::MOST) {
            Ok(value) => {
                warn_of_readers(item, &file);
                value
            }
            Err(error) => return item.bad_as(format!("{reference:?} ({error})"), "a readable file"),
        }
    } else {
        return item.bad_as("a literal", want);
    };
    // Editors and `echo` end files with a newline that no secret has.
    match value.trim_end_matches(['\r', '\n']) {
        "" => item.bad_as(format!("{reference:?}, which is empty"), "a secret"),
        value => Some(SecretString::from(value)),
    }
}

/// A secret that every user of the machine may read is warned of, not refused: orchestrators mount them so.
fn warn_of_readers(item: &Item<'_>, file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(file).map_or(0, |found| found.permissions().mode() & 0o777);
    if mode & 0o004 != 0 {
        let shown = file.display();
        let text =
            format!("{shown} may be read by every user of this machine (mode {mode:04o}); chmod 600 it");
        item.doc.warn(item.at, &item.key, &text);
    }
}

/// A list with at least one value in it, each read by `read`.
pub(super) fn filled<'a, T>(
    section: &Section<'a>,
    name: &'static str,
    want: &str,
    read: impl Fn(&Item<'a>) -> Option<T>,
) -> Vec<T> {
    match section.required(name, want) {
        Some(item) if item.is_empty_list() => item.bad::<Vec<T>>(want).unwrap_or_default(),
        _ => section.list(name, read),
    }
}

/// A host, or a pattern for the hosts below one.
pub(super) fn host(item: &Item<'_>) -> Option<HostPattern> {
    item.read("a host in lower case, without a port, or *.example.com for the hosts below it", |text| {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let host = Host::parse(name.as_bytes()).ok()?;
        (host.port().is_none() && host.name() == name).then(|| HostPattern::of(text))
    })
}

/// A page of the operator's own: a whole URL without a fragment. Without TLS, `what` would cross the network in
/// cleartext, which is warned of.
pub(super) fn page_url(item: &Item<'_>, want: &str, what: &str) -> Option<String> {
    item.read(want, |text| {
        let url = Url::parse(text).filter(|url| !url.rest.contains('#'))?;
        if !url.is_safe() {
            item.doc.warn(item.at, &item.key, &format!("{what} will cross the network in cleartext"));
        }
        Some(text.to_owned())
    })
}

/// What a caller's token must say; of a route, or of a caller that may be given tokens of a provider.
pub(super) fn require(section: Section<'_>) -> Require {
    let scopes = section.list("scopes", |item| {
        item.read("a scope without spaces", |text| {
            text.bytes().all(|b| b.is_ascii_graphic()).then(|| text.to_owned())
        })
    });
    let email_verified = section.bool("email_verified", false);
    let claims = section.get("claims").map(|item| Conditions::read(&item)).unwrap_or_default();
    let require = Require { scopes, email_verified, claims, identity: None };
    section.close();
    require
}

const CLAIM_PATH: &str = "a claim such as \"groups\", \"realm_access.roles\" or [\"app.name\", \"roles\"]: up to 8 names, \
                          none empty";

/// A claim path: one text, or a list of the names that lead to the claim.
pub(super) fn claim_path(item: &Item<'_>) -> Option<ClaimPath> {
    let path = if item.raw().is_some() {
        item.read(CLAIM_PATH, |text| ClaimPath::parse(text).ok())?
    } else if item.is_list() {
        let items = item.list();
        let names: Vec<&str> =
            items.iter().map(|name| name.text("the name of a claim")).collect::<Option<_>>()?;
        match ClaimPath::new(names) {
            Ok(path) => path,
            Err(_) => return item.bad(CLAIM_PATH),
        }
    } else {
        return item.bad(CLAIM_PATH);
    };
    leads_somewhere(item, path)
}

/// Refuses a path through a claim that is one text, number or list in every token: it would never be found.
fn leads_somewhere(item: &Item<'_>, path: ClaimPath) -> Option<ClaimPath> {
    const LEAVES: [&str; 12] =
        ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "sid", "scope", "scp", "email", "email_verified"];
    if path.name().is_none() && LEAVES.contains(&path.first()) {
        return item.bad_as(
            format!("{path}, which no token has: {:?} holds no further claims", path.first()),
            "a path to a claim; a name with a dot in it is a list of one, such as [\"a.b\"]",
        );
    }
    Some(path)
}

/// The claims that a condition names, each once.
#[derive(Default)]
struct Conditions(Vec<(ClaimPath, Vec<String>)>);

impl Conditions {
    /// Reads a table of claims with their values (keys of TOML that are nested tables lead into objects), or a list of
    /// tables that say `claim` and `values`, for names that no text says.
    fn read(item: &Item<'_>) -> Vec<(ClaimPath, Vec<String>)> {
        let want = "a table such as { role = [\"admin\"] }, or a list of tables with claim and values";
        let mut conditions = Conditions::default();
        if item.is_table() {
            conditions.table(item, &mut Vec::new());
        } else if item.is_list() && !item.is_empty_list() {
            for item in item.list() {
                let Some(section) = item.section() else { continue };
                let claim = section.required("claim", CLAIM_PATH);
                let path = claim.as_ref().and_then(claim_path);
                let values = section.required("values", "at least one value, such as [\"admin\"]");
                section.close();
                if let (Some(claim), Some(path), Some(values)) = (claim, path, values) {
                    conditions.put(&claim, path, &values);
                }
            }
        } else {
            item.bad::<()>(want);
        }
        conditions.0
    }

    /// The claims of a table; `way`: the keys that lead to it.
    fn table<'a>(&mut self, item: &Item<'a>, way: &mut Vec<&'a str>) {
        let entries = item.section().map(Section::all).unwrap_or_default();
        if entries.is_empty() && !way.is_empty() {
            item.bad::<()>("at least one claim in it");
        }
        for (name, item) in entries {
            let is_split = name.contains('.') && !name.contains("://");
            if is_split && (item.is_table() || !way.is_empty()) {
                // One reader would split it at its dots, another would not.
                let want = "one text for the whole path (\"a.b.c\"), or a list of tables: [{ claim = [\"a.b\", \"c\"], \
                            values = […] }]";
                item.bad_as::<()>(format!("{name:?} as one name of several"), want);
                continue;
            }
            if item.is_table() {
                way.push(name);
                self.table(&item, way);
                way.pop();
                continue;
            }
            let path = match way.is_empty() {
                true => ClaimPath::parse(name),
                false => ClaimPath::new(way.iter().copied().chain([name])),
            };
            let path = path.or_else(|_| item.bad_as(form::quoted(name), CLAIM_PATH).ok_or(()));
            if let Some(path) = path.ok().and_then(|path| leads_somewhere(&item, path)) {
                self.put(&item, path, &item);
            }
        }
    }

    fn put(&mut self, claim: &Item<'_>, path: ClaimPath, values: &Item<'_>) {
        let list = values.list();
        if values.is_empty_list() {
            values.bad::<()>("at least one value, such as [\"admin\"]");
        }
        if self.0.iter().any(|(known, _)| *known == path) {
            claim.bad_as::<()>(format!("{path} a second time"), "each claim once, however it is written");
        }
        let list = list.iter().filter_map(|value| value.text("a text").map(str::to_owned)).collect();
        self.0.push((path, list));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_by_itself_and_by_every_address_of_its_family() {
        for (address, other, is) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "0.0.0.0:1", true),
            ("[::]:1", "[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("0.0.0.0:1", "0.0.0.0:2", false),
            ("0.0.0.0:0", "0.0.0.0:0", false),
            // Two listeners with `net.ipv6.bindv6only`.
            ("[::]:1", "0.0.0.0:1", false),
            ("[::1]:1", "0.0.0.0:1", false),
        ] {
            assert_eq!(is_taken(address.parse().unwrap(), other.parse().unwrap()), is, "{address} {other}");
        }
    }
}
