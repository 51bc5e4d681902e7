//! `[fetch]`: how requests of our own leave, to key sets, providers and webhooks.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};

use super::file::{Item, Section};
use super::networks::authorities;
use palisade_core::domain::reach::Authorities;
use palisade_core::domain::request::Host;

const PROXY: &str = "a proxy like \"http://proxy.example.com:3128\", or \"none\"";

/// `[fetch]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchSettings {
    /// `proxy`, else `HTTPS_PROXY` of the environment; `None`: requests go straight to their hosts.
    pub proxy: Option<ProxyUrl>,
    /// `NO_PROXY` of the environment: what is called without the proxy, as curl reads it.
    pub no_proxy: String,
    /// `ca`: authorities that are trusted beside the built-in ones.
    pub ca: Option<Authorities>,
}

/// The URL of a proxy, which may hold credentials.
#[derive(Clone)]
pub struct ProxyUrl {
    url: SecretString,
    /// Its host and port, for people.
    pub shown: String,
    /// The key or the variable that names it.
    pub named_by: &'static str,
}

impl ProxyUrl {
    /// The whole URL, with its scheme and its credentials.
    #[must_use]
    pub fn url(&self) -> &SecretString {
        &self.url
    }

    /// Reads `[http[s]://][user[:password]@]host[:port]`. Without a scheme it is `http`, as for curl.
    fn parse(text: &str, named_by: &'static str) -> Option<ProxyUrl> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // The last one: passwords hold what they like.
        let (user, authority) = rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
        let host = Host::parse(authority.as_bytes()).ok().filter(|host| host.port() != Some(0))?;
        let is_user = |user: &str| user.bytes().all(|b| b.is_ascii_graphic() && !b"/?#@\\".contains(&b));
        if !["http", "https"].contains(&scheme) || !user.is_none_or(is_user) {
            return None;
        }
        let user = user.map(|user| format!("{user}@")).unwrap_or_default();
        let url = SecretString::from(format!("{scheme}://{user}{host}/"));
        Some(ProxyUrl { url, shown: host.to_string(), named_by })
    }
}

/// Without the credentials.
impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProxyUrl").field(&self.shown).finish()
    }
}

impl PartialEq for ProxyUrl {
    fn eq(&self, other: &ProxyUrl) -> bool {
        self.url.expose_secret() == other.url.expose_secret()
    }
}

impl Eq for ProxyUrl {}

/// Reads the section, and the environment where it says nothing of a proxy.
pub(super) fn fetch(section: Section<'_>) -> FetchSettings {
    let of_environment = |names: [&'static str; 2]| {
        let set = |name: &'static str| {
            Some((name, (section.doc.env)(name).filter(|value| !value.trim().is_empty())?))
        };
        names.into_iter().find_map(set)
    };
    let proxy = match section.get("proxy") {
        Some(item) if item.raw() == Some("none") => None,
        Some(item) => configured(&item),
        // Lower case first, as curl does.
        None => of_environment(["https_proxy", "HTTPS_PROXY"]).and_then(|(name, value)| {
            let proxy = ProxyUrl::parse(value.trim(), name);
            if proxy.is_none() {
                let found = format!("a text in the variable {name} that is no URL of a proxy");
                section.doc.fault(section.at, "fetch.proxy", found, format!("{PROXY} there or in this key"));
            }
            proxy
        }),
    };
    let no_proxy = of_environment(["no_proxy", "NO_PROXY"]).map(|(_, value)| value).unwrap_or_default();
    let ca = section.get("ca").as_ref().and_then(authorities);
    section.close();
    FetchSettings { proxy, no_proxy, ca }
}

/// The proxy that the file names. Its credentials come from a reference, like every secret.
fn configured(item: &Item<'_>) -> Option<ProxyUrl> {
    let proxy = item.read(PROXY, |text| ProxyUrl::parse(text, "fetch.proxy"))?;
    if item.filled.is_none() && proxy.url.expose_secret().contains('@') {
        let want = "the whole URL as a reference, \"env:NAME\", or its password as one: \"http://user:${env:NAME}@host\"";
        return item.bad_as("credentials that anyone who reads the file can read", want);
    }
    Some(proxy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_read_as_curl_reads_it_and_its_credentials_are_not_shown() {
        for (text, want) in [
            ("http://proxy:3128", Some("http://proxy:3128/")),
            ("https://proxy.test:3128/", Some("https://proxy.test:3128/")),
            ("proxy:3128", Some("http://proxy:3128/")),
            ("10.0.0.1:3128", Some("http://10.0.0.1:3128/")),
            ("http://[::1]:3128", Some("http://[::1]:3128/")),
            ("http://u:hunter2@proxy:3128", Some("http://u:hunter2@proxy:3128/")),
            ("u:hunter2@proxy:3128", Some("http://u:hunter2@proxy:3128/")),
            ("socks5://proxy:1080", None),
            ("http://proxy:3128/path", None),
            ("http://u p@proxy", None),
            ("http://u@evil.test/@proxy", None),
            ("http://", None),
            ("", None),
        ] {
            let proxy = ProxyUrl::parse(text, "x");
            assert_eq!(proxy.as_ref().map(|proxy| proxy.url.expose_secret()), want, "{text}");
            assert!(!format!("{proxy:?}").contains("hunter2"));
            assert!(proxy.is_none_or(|proxy| !proxy.shown.contains("hunter2")));
        }
    }
}
