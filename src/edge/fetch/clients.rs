//! Which client sends a request, and which addresses it dials: the guard against SSRF.
//!
//! Through a proxy names are resolved by the proxy, so the addresses behind them cannot be checked: what is left there is the
//! judgement of the URL itself, and the lists of hosts. What an operator opened and what is on this machine never goes
//! through it.
//!
//! A client is made once for each owner and reach, and kept: it holds the connections and the parsed authorities.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Client, ClientBuilder, Proxy, Url};
use secrecy::ExposeSecret as _;

use super::words;
use crate::config::{FetchSettings, ProxyUrl};
use palisade_core::domain::reach::{Authorities, Reach, is_public};
use palisade_core::domain::request::is_loopback;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For requests that set no time of their own.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);
/// Bytes of the header fields of an answer.
pub(super) const ANSWER_FIELD_BYTES: u32 = 64 << 10;
/// The clients that are kept. Reloads leave those of former configurations behind.
const MOST_CLIENTS: usize = 256;

/// On whose behalf a request is made: connections are not shared between two owners.
pub(super) type Owner = Arc<str>;

/// The clients, by what they may dial, under one `[fetch]`.
#[derive(Debug)]
pub(super) struct Clients {
    settings: FetchSettings,
    /// Which hosts are called through the proxy, if there is one.
    proxied: Option<Matcher>,
    made: Mutex<HashMap<Key, Client>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    owner: Owner,
    dials: Dials,
    reach: Reach,
}

/// What a client may dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Dials {
    /// This machine alone.
    Loopback,
    /// What the reach allows.
    Allowed,
    /// What the reach opens: for cleartext.
    Opened,
    /// Any address: for URLs of the operator's own.
    Anywhere,
    /// The proxy.
    Proxy,
}

impl Clients {
    /// No client yet.
    pub(super) fn new(settings: FetchSettings) -> Clients {
        let matcher = |proxy: &ProxyUrl| {
            Matcher::builder()
                .https(proxy.url().expose_secret().to_owned())
                .no(settings.no_proxy.clone())
                .build()
        };
        Clients { proxied: settings.proxy.as_ref().map(matcher), settings, made: Mutex::default() }
    }

    /// The settings that they are made for.
    pub(super) fn settings(&self) -> &FetchSettings {
        &self.settings
    }

    /// Whether a URL that `dials` says so of goes through the proxy instead.
    pub(super) async fn route(&self, url: &Url, reach: &Reach, dials: Dials) -> Dials {
        let Some(matcher) = &self.proxied else { return dials };
        if matches!(dials, Dials::Loopback | Dials::Opened | Dials::Proxy)
            || !url.as_str().parse().is_ok_and(|uri| matcher.intercept(&uri).is_some())
        {
            return dials;
        }
        let is_straight =
            |ip: IpAddr| if dials == Dials::Anywhere { !is_public(ip) } else { reach.opens(ip) };
        let host = url.host_str().unwrap_or_default();
        let is_straight = match literal(host) {
            Some(ip) => is_straight(ip),
            None if dials == Dials::Allowed && reach.allow_private.is_empty() => false,
            None => {
                // Where the proxy alone resolves names, this brings nothing.
                let found = tokio::time::timeout(CONNECT_TIMEOUT, tokio::net::lookup_host((host, 0))).await;
                let found = found.ok().and_then(Result::ok);
                found.is_some_and(|mut found| found.any(|address| is_straight(address.ip())))
            }
        };
        if is_straight { dials } else { Dials::Proxy }
    }

    /// The client for `dials`.
    ///
    /// # Errors
    /// The authorities of `reach` cannot be read, or TLS cannot start.
    pub(super) fn get(&self, owner: &Owner, reach: &Reach, dials: Dials) -> Result<Client, String> {
        let key = Key { owner: Arc::clone(owner), dials, reach: reach.clone() };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = made.get(&key) {
            return Ok(client.clone());
        }
        let client = self.build(reach, dials)?;
        if made.len() >= MOST_CLIENTS {
            made.clear();
        }
        made.insert(key, client.clone());
        Ok(client)
    }

    fn build(&self, reach: &Reach, dials: Dials) -> Result<Client, String> {
        let mut builder = client(match dials {
            Dials::Loopback => Some(Checked(Fits::Loopback)),
            Dials::Allowed => Some(Checked(Fits::Allowed(reach.clone()))),
            Dials::Opened => Some(Checked(Fits::Opened(reach.clone()))),
            Dials::Anywhere | Dials::Proxy => None,
        });
        if let (Dials::Proxy, Some(proxy)) = (dials, &self.settings.proxy) {
            let failed = |error| format!("{}: {}", proxy.named_by, words(error));
            builder = builder.proxy(Proxy::all(proxy.url().expose_secret()).map_err(failed)?);
        }
        let authorities = reach.ca.as_ref().or(self.settings.ca.as_ref());
        if let Some(authorities) = &reach.ca {
            builder = builder.tls_certs_only(certificates(authorities)?);
        } else if let Some(authorities) = &self.settings.ca {
            builder = builder.tls_certs_merge(certificates(authorities)?);
        }
        // The certificates themselves are read here.
        builder.build().map_err(|error| match authorities {
            Some(authorities) => format!("{}: {}", authorities.named, words(error)),
            None => words(error),
        })
    }
}

/// The certificates of a PEM text.
///
/// # Errors
/// It holds none, or one that cannot be read; with the key and the file.
pub(super) fn certificates(authorities: &Authorities) -> Result<Vec<Certificate>, String> {
    let failed = |why: String| format!("{}: {why}", authorities.named);
    let found = Certificate::from_pem_bundle(authorities.pem.as_bytes());
    let found = found.map_err(|error| failed(words(error)))?;
    if found.is_empty() {
        return Err(failed("there is no certificate in it".to_owned()));
    }
    Ok(found)
}

/// What every client of ours has in common.
pub(super) fn client(addresses: Option<Checked>) -> ClientBuilder {
    let builder = Client::builder()
        .user_agent(concat!("palisade/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TOTAL_TIMEOUT)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(8)
        .http2_max_header_list_size(ANSWER_FIELD_BYTES);
    match addresses {
        Some(checked) => builder.dns_resolver(Arc::new(checked)),
        None => builder,
    }
}

/// Judges a URL by itself: its scheme, and its host where that is an address. `to_this_machine`: whether loopback hosts
/// may be called.
///
/// # Errors
/// Why it may not be called.
pub(super) fn judge(url: &Url, reach: &Reach, to_this_machine: bool) -> Result<Dials, String> {
    let host = url.host_str().ok_or("no host")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials in a URL".to_owned());
    }
    let (literal, is_cleartext) = (literal(host), url.scheme() == "http");
    if !is_cleartext && url.scheme() != "https" {
        return Err("only https or http".to_owned());
    }
    if is_loopback(host.strip_suffix('.').unwrap_or(host)) {
        let own = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let is_opened = literal.map_or_else(|| own.iter().any(|ip| reach.opens(*ip)), |ip| reach.opens(ip));
        return match (to_this_machine, is_opened) {
            (true, _) => Ok(Dials::Loopback),
            (false, true) => Ok(Dials::Opened),
            (false, false) => Err("a host on this machine".to_owned()),
        };
    }
    // A literal address never reaches the resolver.
    match literal {
        Some(ip) if is_cleartext && !reach.opens(ip) => Err(not_in_cleartext(reach)),
        Some(ip) if !reach.allows(ip) => Err(format!("{host} is not a public address, nor in allow_private")),
        None if is_cleartext && reach.allow_private.is_empty() => Err(not_in_cleartext(reach)),
        _ if is_cleartext => Ok(Dials::Opened),
        _ => Ok(Dials::Allowed),
    }
}

fn not_in_cleartext(reach: &Reach) -> String {
    match reach.allow_private.is_empty() {
        true => "only https, or http to a loopback host".to_owned(),
        false => "only https, or http to a loopback host and into allow_private".to_owned(),
    }
}

/// The address that the host of a URL is, where it is one.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// The error of [`Checked`].
#[derive(Debug, thiserror::Error)]
#[error("the name leads to an address that may not be called")]
pub(super) struct NotAllowed;

/// Resolves a name once and keeps what may be dialled.
pub(super) struct Checked(pub(super) Fits);

/// Which addresses fit.
#[derive(Clone)]
pub(super) enum Fits {
    Loopback,
    Allowed(Reach),
    Opened(Reach),
}

impl Fits {
    fn fits(&self, ip: IpAddr) -> bool {
        match self {
            Fits::Loopback => ip.is_loopback(),
            Fits::Allowed(reach) => reach.allows(ip),
            Fits::Opened(reach) => reach.opens(ip),
        }
    }

    /// What may be dialled of the addresses of one name. One that may not refuses the whole name: DNS rebinding shows as
    /// a mixed answer.
    fn judge(&self, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, NotAllowed> {
        match !found.is_empty() && found.iter().all(|address| self.fits(address.ip())) {
            true => Ok(found),
            false => Err(NotAllowed),
        }
    }
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let fits = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(fits.judge(found)?.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(nets: &[&str]) -> Reach {
        Reach { allow_private: nets.iter().map(|net| net.parse().unwrap()).collect(), ca: None }
    }

    #[test]
    fn a_url_is_judged_by_its_scheme_and_its_literal_address() {
        let ten = opening(&["10.0.0.0/8"]);
        let wide = opening(&["0.0.0.0/0", "::/0"]);
        for (url, reach, want) in [
            ("https://a.test/", &Reach::default(), Some(Dials::Allowed)),
            ("http://a.test/", &Reach::default(), None),
            ("http://localhost/", &Reach::default(), Some(Dials::Loopback)),
            ("https://10.0.0.1/", &Reach::default(), None),
            ("https://10.0.0.1/", &ten, Some(Dials::Allowed)),
            ("http://10.0.0.1/", &ten, Some(Dials::Opened)),
            ("http://a.test/", &ten, Some(Dials::Opened)),
            ("https://a.test/", &ten, Some(Dials::Allowed)),
            // Public addresses are called encrypted only.
            ("http://8.8.8.8/", &ten, None),
            ("https://8.8.8.8/", &ten, Some(Dials::Allowed)),
            ("https://192.168.0.1/", &ten, None),
            // In decimal, hexadecimal and octal, and shortened: all of them are 10.0.0.1 to a URL parser.
            ("http://167772161/", &ten, Some(Dials::Opened)),
            ("http://0x0a000001/", &ten, Some(Dials::Opened)),
            ("http://012.0.0.1/", &ten, Some(Dials::Opened)),
            ("http://10.1/", &ten, Some(Dials::Opened)),
            ("http://167772161/", &Reach::default(), None),
            ("https://0x0a000001/", &Reach::default(), None),
            ("https://012.0.0.1/", &Reach::default(), None),
            ("https://10.1/", &Reach::default(), None),
            ("http://[::ffff:10.0.0.1]/", &ten, Some(Dials::Opened)),
            ("http://[64:ff9b::10.0.0.1]/", &ten, None),
            ("https://[2002:a00:1::]/", &ten, None),
            // Metadata, in every spelling, whatever was opened.
            ("https://169.254.169.254/", &wide, None),
            ("http://2852039166/", &wide, None),
            ("http://0xa9fea9fe/", &wide, None),
            ("http://0251.0376.0251.0376/", &wide, None),
            ("http://[::ffff:169.254.169.254]/", &wide, None),
            ("http://[64:ff9b::a9fe:a9fe]/", &wide, None),
            ("http://[2002:a9fe:a9fe::]/", &wide, None),
            ("http://[fd00:ec2::254]/", &wide, None),
            ("ftp://10.0.0.1/", &wide, None),
            ("https://u:p@10.0.0.1/", &wide, None),
        ] {
            let judged = judge(&Url::parse(url).unwrap(), reach, true);
            assert_eq!(judged.as_ref().ok(), want.as_ref(), "{url}: {judged:?}");
        }
        let own = Url::parse("http://127.0.0.1/").unwrap();
        assert!(judge(&own, &Reach::default(), false).is_err());
        assert_eq!(judge(&own, &opening(&["127.0.0.0/8"]), false), Ok(Dials::Opened));
    }

    #[test]
    fn one_address_that_may_not_be_called_refuses_its_name() {
        let ten = opening(&["10.0.0.0/8"]);
        let (allowed, opened) = (Fits::Allowed(ten.clone()), Fits::Opened(ten));
        for (addresses, is_allowed, is_opened) in [
            (&["8.8.8.8"][..], true, false),
            (&["10.0.0.1", "10.0.0.2"], true, true),
            // A network may have public addresses and private ones; in cleartext only the latter.
            (&["10.0.0.1", "2606:4700::1"], true, false),
            (&["10.0.0.1", "192.168.0.1"], false, false),
            (&["8.8.8.8", "169.254.169.254"], false, false),
            (&["10.0.0.1", "127.0.0.1"], false, false),
            (&[], false, false),
        ] {
            let found = || addresses.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect();
            assert_eq!(allowed.judge(found()).is_ok(), is_allowed, "{addresses:?}");
            assert_eq!(opened.judge(found()).is_ok(), is_opened, "{addresses:?}");
        }
        let usual = Fits::Allowed(Reach::default());
        let mixed = ["8.8.8.8:0", "10.0.0.1:0"].map(|address| address.parse().unwrap());
        assert!(usual.judge(mixed.to_vec()).is_err());
    }

    #[test]
    fn authorities_that_are_none_are_named() {
        let authorities = |pem: &str| Authorities { named: "issuers[0].ca: ca.pem".into(), pem: pem.into() };
        let none = certificates(&authorities("no PEM")).unwrap_err();
        assert_eq!(none, "issuers[0].ca: ca.pem: there is no certificate in it");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let reach = Reach { ca: Some(authorities(broken)), ..Reach::default() };
        let why = Clients::new(FetchSettings::default()).get(&"".into(), &reach, Dials::Allowed).unwrap_err();
        assert!(why.starts_with("issuers[0].ca: ca.pem: "), "{why}");
    }
}
