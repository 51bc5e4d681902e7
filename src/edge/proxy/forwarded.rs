//! The client address, where a request came from: read from the one field that the operator named (`X-Forwarded-For`,
//! say), when the peer is a trusted proxy, and written for the upstream.
//!
//! The chain is read from the right, because each proxy appends: the last entry is the peer's own word, the one
//! before it the word of the proxy that the last entry names, and so on. Reading stops at the first address that
//! is not a believed proxy's (the client), and at the first entry that cannot be read. What is left of there is
//! the client's own words, and is neither believed nor forwarded.
//!
//! There are crates that parse `Forwarded` (RFC 7239). They read it from the left and split quoted strings at
//! commas, so that what a client writes in front decides how the proxy's own entry is read.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr};

use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

use super::fields::{self, FieldName, HeaderFields};
use crate::config::ClientAddress;
use palisade_core::domain::request::Host;
use palisade_core::domain::reserved::fold;

/// The trusted proxies, and the field that is read.
#[derive(Debug, Clone, Default)]
pub struct Believed {
    /// The networks of the proxies.
    pub proxies: Vec<IpNet>,
    /// The field that they write the client's address into.
    pub field: ClientAddress,
}

impl Believed {
    /// Whether `address` is one of the proxies.
    #[must_use]
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        if self.proxies.is_empty() {
            return false;
        }
        let address = address.to_canonical();
        self.proxies.iter().any(|net| net.contains(&address))
    }

    /// What a believed `peer` says of the request; `None` when the peer is no believed proxy.
    #[must_use]
    pub fn read(&self, peer: IpAddr, fields: &HeaderMap) -> Option<Box<Relayed>> {
        if !self.is_proxy(peer) {
            return None;
        }
        let mut relayed = self.chain(self.field, fields);
        if self.field != ClientAddress::Forwarded {
            relayed.proto = last(fields, "x-forwarded-proto").and_then(proto);
            relayed.host = last(fields, "x-forwarded-host").and_then(host);
            relayed.port = last(fields, "x-forwarded-port").and_then(port);
        }
        Some(Box::new(relayed))
    }

    /// The client's address as far as it may decide what is let in. `None`:
    /// - when a peer that is no trusted proxy sends a field that names a client: it may be a proxy that is not listed;
    /// - when a trusted proxy sends no such field, or one that cannot be read up to the client;
    /// - when two such fields name different clients: the client wrote one of them, and which one depends on the proxy;
    /// - when every entry is a trusted proxy: so it looks where address translation in front of the first proxy gives every
    ///   client the address of a proxy.
    #[must_use]
    pub fn network_address(
        &self,
        peer: IpAddr,
        fields: &HeaderMap,
        relayed: Option<&Relayed>,
    ) -> Option<IpAddr> {
        let named = fields.keys().filter_map(|name| ForwardingField::of(name.as_str()));
        let Some(relayed) = relayed else {
            return (named.count() == 0).then(|| peer.to_canonical());
        };
        let client = relayed.whole_client().filter(|client| !self.is_proxy(*client))?;
        for field in named {
            // In a spelling that only some servers take for the field, the believed proxy did not write it.
            let ForwardingField::Exact(field) = field else { return None };
            if field != self.field && self.chain(field, fields).whole_client() != Some(client) {
                return None;
            }
        }
        Some(client)
    }

    /// The way of the request, read from `field`.
    fn chain(&self, field: ClientAddress, fields: &HeaderMap) -> Relayed {
        let mut relayed = Relayed::default();
        relayed.is_whole = match field {
            ClientAddress::Forwarded => self.forwarded(fields, &mut relayed),
            ClientAddress::XForwardedFor => self.x_forwarded_for(fields, &mut relayed),
            ClientAddress::XRealIp => {
                // The field holds one address. Two lines are one too many to know which the proxy wrote.
                let mut lines = fields.get_all("x-real-ip").iter();
                if let (Some(line), None) = (lines.next(), lines.next()) {
                    relayed.hops.extend(node(trimmed(line.as_bytes())));
                }
                true
            }
        };
        relayed
    }

    /// False when the field could not be read up to the client.
    fn x_forwarded_for(&self, fields: &HeaderMap, relayed: &mut Relayed) -> bool {
        for line in fields.get_all("x-forwarded-for").iter().rev() {
            for entry in line.as_bytes().rsplit(|byte| *byte == b',') {
                let Some(address) = node(trimmed(entry)) else { return false };
                relayed.hops.push(address);
                if !self.is_proxy(address) {
                    return true;
                }
            }
        }
        true
    }

    /// False when the field could not be read up to the client.
    fn forwarded(&self, fields: &HeaderMap, relayed: &mut Relayed) -> bool {
        for line in fields.get_all("forwarded").iter().rev() {
            let mut rest = Some(line.as_bytes());
            while let Some(text) = rest {
                let (before, element) = last_element(text);
                rest = before;
                let Some(element) = Element::parse(element) else { return false };
                // The proxy that wrote this entry is trusted, whether or not it knows the address.
                relayed.proto = element.proto.as_deref().and_then(proto);
                relayed.host = element.host.as_deref().and_then(host);
                let Some(address) = element.node.as_deref().and_then(node) else { return false };
                relayed.hops.push(address);
                if !self.is_proxy(address) {
                    return true;
                }
            }
        }
        true
    }
}

/// A field that names the client, to some server.
enum ForwardingField {
    Exact(ClientAddress),
    /// In a spelling that some server folds into it: `X_Forwarded_For`, `X.Forwarded.For`.
    Folded,
}

impl ForwardingField {
    /// `name` in lower case.
    fn of(name: &str) -> Option<ForwardingField> {
        let folded = fold(name);
        let known = [
            ("forwarded", ClientAddress::Forwarded),
            ("x-forwarded-for", ClientAddress::XForwardedFor),
            ("x-real-ip", ClientAddress::XRealIp),
        ];
        let (text, field) = known.into_iter().find(|(known, _)| **known == *folded)?;
        Some(if text == name { ForwardingField::Exact(field) } else { ForwardingField::Folded })
    }
}

/// What believed proxies say of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relayed {
    /// The addresses that were read, the peer's word first: believed proxies, and last the client. Empty when
    /// the peer named no address that could be read.
    hops: Vec<IpAddr>,
    /// Whether the last one is the client's. Otherwise the entry in front of it could not be read.
    is_whole: bool,
    /// The scheme that the client used, in lower case: `http` or `https`.
    pub proto: Option<&'static str>,
    /// The Host that the client sent.
    pub host: Option<String>,
    /// The port that the client connected to.
    pub port: Option<u16>,
}

impl Relayed {
    /// The client, as far as it is known.
    #[must_use]
    pub fn client(&self) -> Option<IpAddr> {
        self.hops.last().copied()
    }

    /// The client, where every entry up to it could be read.
    fn whole_client(&self) -> Option<IpAddr> {
        self.client().filter(|_| self.is_whole)
    }
}

/// Of a list in one field or several lines, the last entry: the peer's own word.
fn last<'a>(fields: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let line = fields.get_all(name).iter().next_back()?;
    line.as_bytes().rsplit(|byte| *byte == b',').next().map(trimmed)
}

/// Without white space around it (OWS, RFC 9110 §5.6.3).
fn trimmed(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// The scheme. Of a WebSocket some proxies say `wss` (Traefik): it begins as a request of the HTTP scheme (RFC 6455 §3).
fn proto(text: &[u8]) -> Option<&'static str> {
    let known = [("https", "https"), ("http", "http"), ("wss", "https"), ("ws", "http")];
    known.into_iter().find(|(said, _)| text.eq_ignore_ascii_case(said.as_bytes())).map(|(_, scheme)| scheme)
}

fn host(text: &[u8]) -> Option<String> {
    Host::parse(text).ok().map(|host| host.to_string())
}

fn port(text: &[u8]) -> Option<u16> {
    let digits = (1..=5).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok().filter(|port| *port != 0)
}

/// An address with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`,
/// `[2001:db8::1]:80`. The port may be an obfuscated one (`_x`, RFC 7239 §6.2). An IPv6 address loses its zone
/// (RFC 4007 §11), which means something on the proxy only; one that stands for an IPv4 address becomes that.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let is_port = |text: &str| match text.strip_prefix('_') {
        Some(name) => !name.is_empty() && name.bytes().all(is_obfuscated),
        None => port(text.as_bytes()).is_some() || text == "0",
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (address, after) = rest.split_once(']')?;
        let fits = after.is_empty() || after.strip_prefix(':').is_some_and(is_port);
        return v6(address).filter(|_| fits);
    }
    match text.split_once(':') {
        Some((address, after)) if !after.contains(':') => {
            let address = address.parse().ok().map(IpAddr::V4);
            address.filter(|_| is_port(after))
        }
        Some(_) => v6(text),
        None => text.parse().ok().map(IpAddr::V4),
    }
}

fn v6(text: &str) -> Option<IpAddr> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    let is_zone =
        |zone: &str| !zone.is_empty() && zone.bytes().all(|byte| is_obfuscated(byte) || byte == b'%');
    if !zone.is_none_or(is_zone) {
        return None;
    }
    address.parse::<Ipv6Addr>().ok().map(|address| IpAddr::V6(address).to_canonical())
}

/// What an obfuscated name may hold (RFC 7239 §6.3).
const fn is_obfuscated(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// Cuts a `Forwarded` line in front of its last element: what is before the comma, if there is one, and the
/// element. Quotes are paired from the right, so that one that a client left open changes nothing of what the
/// proxy has appended.
fn last_element(line: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let mut quoted = false;
    for (at, byte) in line.iter().enumerate().rev() {
        match byte {
            // `\"` within a quoted string is no end of it (RFC 9110 §5.6.4).
            b'"' => {
                let escapes = line[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
                if !quoted || escapes % 2 == 0 {
                    quoted = !quoted;
                }
            }
            b',' if !quoted => return (Some(&line[..at]), &line[at + 1..]),
            _ => {}
        }
    }
    (None, line)
}

/// One element of `Forwarded` (RFC 7239 §4), as far as it is used here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Element {
    node: Option<Vec<u8>>,
    host: Option<Vec<u8>>,
    proto: Option<Vec<u8>>,
}

impl Element {
    /// `None` for what does not have the form, or has a parameter twice.
    fn parse(text: &[u8]) -> Option<Element> {
        let mut element = Element::default();
        let mut rest = trimmed(text);
        while !rest.is_empty() {
            let equals = rest.iter().position(|byte| matches!(byte, b'=' | b';'));
            let (name, value, after) = match equals.map(|at| (&rest[..at], &rest[at..])) {
                Some((name, [b'=', value @ ..])) => {
                    let (value, after) = value_of(value)?;
                    (name, value, after)
                }
                // An empty pair is allowed; a name without a value is not.
                Some((name, after)) if trimmed(name).is_empty() => {
                    rest = trimmed(&after[1..]);
                    continue;
                }
                _ => return None,
            };
            let place = match name.to_ascii_lowercase().as_slice() {
                b"for" => Some(&mut element.node),
                b"host" => Some(&mut element.host),
                b"proto" => Some(&mut element.proto),
                name if !name.is_empty() && name.iter().all(|byte| is_obfuscated(*byte)) => None,
                _ => return None,
            };
            if let Some(place) = place
                && place.replace(value).is_some()
            {
                return None;
            }
            rest = match trimmed(after) {
                [] => &[],
                [b';', after @ ..] => trimmed(after),
                _ => return None,
            };
        }
        Some(element)
    }
}

/// A value, and what follows it. A bare one may hold what strictly must be quoted (`for=192.0.2.1:80`): many
/// proxies write that, and it has one reading.
fn value_of(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|byte| matches!(byte, b';' | b' ' | b'\t')).unwrap_or(text.len());
        let (value, after) = text.split_at(end);
        let plain = !value.is_empty() && value.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'"');
        return plain.then(|| (value.to_vec(), after));
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((value, &quoted[at + 1..])),
            b'\\' => value.push(*bytes.next()?.1),
            byte => value.push(*byte),
        }
    }
    None
}

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub struct ReceivedFrom<'a> {
    pub peer: IpAddr,
    pub tls: bool,
    pub host: &'a str,
    /// What a believed peer says.
    pub relayed: Option<&'a Relayed>,
    /// The field that a believed peer said it in.
    pub field: ClientAddress,
}

/// The longest id of a request that is taken from a proxy, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// The id that a believed proxy gave the request in its one `X-Request-Id`: up to [`MAX_REQUEST_ID`] letters, digits, `-`, `_`,
/// `.` and `:`, which need no quotes in any log. Only for requests of believed proxies: a client that may choose the id may
/// choose one that another request has.
#[must_use]
pub fn request_id(fields: &HeaderMap) -> Option<&str> {
    let mut lines = fields.get_all(fields::X_REQUEST_ID.name()).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    let fits = (1..=MAX_REQUEST_ID).contains(&line.len()) && line.as_bytes().iter().all(is_plain);
    line.to_str().ok().filter(|_| fits)
}

/// Where a client's request went to, as an app is told it in two dialects.
struct Asked<'a> {
    /// `X-Forwarded-Host`.
    host: &'a str,
    /// `X-Forwarded-Port`.
    port: Option<u16>,
    /// `host` of `Forwarded`, which has no place of its own for the port.
    both: Cow<'a, str>,
}

impl<'a> Asked<'a> {
    /// Of what `from` says. A port beside the name of the host is the client's own word for it, so it comes before
    /// one in a field of its own. A port that belongs to the other scheme is left out: it is one between two proxies.
    fn of(from: &ReceivedFrom<'a>, proto: &str) -> Asked<'a> {
        let told = from.relayed.and_then(|relayed| relayed.host.as_deref());
        let (host, relayed_port) = (told.unwrap_or(from.host), from.relayed.and_then(|relayed| relayed.port));
        let misfit = if proto == "https" { 80 } else { 443 };
        let Some(said) = relayed_port.filter(|port| *port != misfit) else {
            return Asked { host, port: None, both: Cow::Borrowed(host) };
        };
        let (name, own) = match host.rsplit_once(':') {
            Some((name, digits)) => match digits.parse::<u16>() {
                Ok(port) => (name, Some(port)),
                // Within an IPv6 address.
                Err(_) => (host, None),
            },
            None => (host, None),
        };
        // What we were asked ourselves is the port between the proxy and us.
        let port = own.filter(|_| told.is_some()).unwrap_or(said);
        let usual = if proto == "https" { 443 } else { 80 };
        let both = match own {
            Some(own) if own == port => Cow::Borrowed(host),
            _ if port == usual => Cow::Borrowed(name),
            _ => Cow::Owned(format!("{name}:{port}")),
        };
        Asked { host, port: Some(port), both }
    }
}

/// Sets `X-Forwarded-For`, `-Proto`, `-Host`, where a believed proxy says it `-Port`, and `Forwarded` (RFC 7239), which say
/// the same; those that came with the request must have been taken out. Behind a believed proxy they begin with the
/// client and name each hop; otherwise they begin with the peer. `X-Real-IP` is passed on where it is the field that is
/// read. A request without a host has none in them.
pub fn set(fields: &mut impl HeaderFields, from: ReceivedFrom<'_>) {
    let peer = from.peer.to_canonical();
    let relayed = from.relayed;
    let proto = relayed.and_then(|relayed| relayed.proto).unwrap_or(if from.tls { "https" } else { "http" });
    let Asked { host, port, both } = Asked::of(&from, proto);
    let hops = relayed.map_or(&[][..], |relayed| &relayed.hops);
    let (mut list, mut forwarded) = (String::with_capacity(48), String::with_capacity(96));
    for (index, hop) in hops.iter().rev().chain([&peer]).enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        // Writing into a text cannot fail.
        let _ = write!(list, "{comma}{hop}");
        let _ = match hop {
            IpAddr::V4(address) => write!(forwarded, "{comma}for={address}"),
            IpAddr::V6(address) => write!(forwarded, "{comma}for=\"[{address}]\""),
        };
        if index == 0 {
            let plain = both.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
            let quote = if plain { "" } else { "\"" };
            if !both.is_empty() {
                let _ = write!(forwarded, ";host={quote}{both}{quote}");
            }
            let _ = write!(forwarded, ";proto={proto}");
        }
    }
    put(fields, &fields::FORWARDED, &forwarded);
    put(fields, &fields::X_FORWARDED_FOR, &list);
    put(fields, &fields::X_FORWARDED_PROTO, proto);
    if !host.is_empty() {
        put(fields, &fields::X_FORWARDED_HOST, host);
    }
    let Some(relayed) = relayed else { return };
    if let Some(port) = port {
        put(fields, &fields::X_FORWARDED_PORT, &port.to_string());
    }
    if let Some(client) = relayed.client()
        && from.field == ClientAddress::XRealIp
    {
        put(fields, &fields::X_REAL_IP, &client.to_string());
    }
}

fn put(fields: &mut impl HeaderFields, name: &FieldName, value: &str) {
    // Addresses, hosts and constants: always valid field values.
    if let Ok(value) = HeaderValue::from_str(value) {
        fields.put(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        fields
    }

    fn believed(field: ClientAddress) -> Believed {
        let proxies = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap()).to_vec();
        Believed { proxies, field }
    }

    /// The client that a proxy at 10.0.0.1 names in the lines of one field.
    fn client(field: ClientAddress, name: &'static str, lines: &[&[u8]]) -> String {
        let lines: Vec<_> = lines.iter().map(|line| (name, *line)).collect();
        let peer = "::ffff:10.0.0.1".parse().unwrap();
        let relayed = believed(field).read(peer, &fields(&lines)).unwrap();
        relayed.client().map_or("nobody".to_owned(), |address| address.to_string())
    }

    #[test]
    fn a_stranger_is_whom_the_connection_says() {
        let lines = fields(&[("x-forwarded-for", b"6.6.6.6"), ("x-forwarded-proto", b"https")]);
        assert_eq!(believed(ClientAddress::XForwardedFor).read("9.9.9.9".parse().unwrap(), &lines), None);
        assert_eq!(Believed::default().read("10.0.0.1".parse().unwrap(), &lines), None);
    }

    #[test]
    fn x_forwarded_for_is_read_from_the_right_up_to_the_first_that_is_not_believed() {
        let check = |lines: &[&[u8]]| client(ClientAddress::XForwardedFor, "x-forwarded-for", lines);
        for (lines, want) in [
            (&[&b"6.6.6.6, 7.7.7.7, 10.0.0.2"[..]][..], "7.7.7.7"),
            (&[b"6.6.6.6,7.7.7.7", b"10.0.0.2"], "7.7.7.7"),
            (&[b"7.7.7.7:51234"], "7.7.7.7"),
            (&[b"[2001:db8::7]:51234"], "2001:db8::7"),
            (&[b"[2001:DB8:0::7]"], "2001:db8::7"),
            (&[b"2001:db8::7"], "2001:db8::7"),
            (&[b"::ffff:7.7.7.7"], "7.7.7.7"),
            (&[b"[::ffff:7.7.7.7]:80"], "7.7.7.7"),
            (&[b"7.7.7.7, ::ffff:10.0.0.2"], "7.7.7.7"),
            (&[b"fe80::1%eth0"], "fe80::1"),
            (&[b"[fe80::1%25eth0]:80"], "fe80::1"),
            (&[b"\t7.7.7.7 \t, fd00::2 "], "7.7.7.7"),
            // Believed all the way: the first is the client.
            (&[b"10.0.0.9, 10.0.0.2"], "10.0.0.9"),
            // What cannot be read ends it, and is not skipped.
            (&[b"6.6.6.6, nonsense"], "nobody"),
            (&[b"6.6.6.6, nonsense, 10.0.0.2"], "10.0.0.2"),
            (&[b"6.6.6.6", b"\xff\xfe"], "nobody"),
            (&[b"6.6.6.6", b"caf\xc3\xa9, 10.0.0.2"], "10.0.0.2"),
            (&[b"6.6.6.6", b""], "nobody"),
            (&[b"6.6.6.6,"], "nobody"),
            (&[b"6.6.6.6, unknown"], "nobody"),
            (&[b"7.7.7.7:"], "nobody"),
            (&[b"7.7.7.7:99999"], "nobody"),
            (&[b"7.7.7.7:80x"], "nobody"),
            (&[b"7.7.7.7.7"], "nobody"),
            (&[b"007.7.7.7"], "nobody"),
            (&[b"7.7.7.7%eth0"], "nobody"),
            (&[b"[7.7.7.7]"], "nobody"),
            (&[b"[2001:db8::7"], "nobody"),
            (&[b"[2001:db8::7]80"], "nobody"),
            (&[b"2001:db8::7%"], "nobody"),
            (&[b"for=7.7.7.7"], "nobody"),
            (&[], "nobody"),
        ] {
            assert_eq!(check(lines), want, "{lines:?}");
        }
    }

    #[test]
    fn forwarded_is_read_from_the_right_up_to_the_first_that_is_not_believed() {
        let check = |lines: &[&[u8]]| client(ClientAddress::Forwarded, "forwarded", lines);
        for (lines, want) in [
            (&[&b"for=6.6.6.6, for=7.7.7.7, for=10.0.0.2"[..]][..], "7.7.7.7"),
            (&[b"for=6.6.6.6", b"For=\"7.7.7.7\";proto=https , FOR=10.0.0.2;by=10.0.0.1"], "7.7.7.7"),
            (&[b"for=\"7.7.7.7:80\""], "7.7.7.7"),
            (&[b"for=7.7.7.7:80"], "7.7.7.7"),
            (&[b"for=\"7.7.7.7:_port\""], "7.7.7.7"),
            (&[b"for=\"[2001:db8::7]:80\";host=\"a,b\""], "2001:db8::7"),
            (&[b"for=\"[2001:db8::7]\""], "2001:db8::7"),
            (&[b"for=[2001:db8::7]"], "2001:db8::7"),
            (&[b"for=\"\\7.7.7.7\""], "7.7.7.7"),
            (&[b"proto=https; for=7.7.7.7 ;;secret=\"a\\\"b, for=6.6.6.6\""], "7.7.7.7"),
            // A quote that a client left open belongs to the client's part.
            (&[b"for=\"6.6.6.6, for=7.7.7.7"], "7.7.7.7"),
            (&[b"for=\"6.6.6.6, for=10.0.0.2"], "10.0.0.2"),
            (&[b"for=6.6.6.6;x=\", for=\"[2001:db8::7]\""], "2001:db8::7"),
            // No address, or none that can be read.
            (&[b"for=6.6.6.6, for=unknown"], "nobody"),
            (&[b"for=6.6.6.6, for=_hidden, for=10.0.0.2"], "10.0.0.2"),
            (&[b"for=6.6.6.6, proto=https"], "nobody"),
            (&[b"for=6.6.6.6, "], "nobody"),
            (&[b"for=6.6.6.6", b"\xff"], "nobody"),
            (&[b"for=6.6.6.6;for=7.7.7.7"], "nobody"),
            (&[b"for =7.7.7.7"], "nobody"),
            (&[b"for= 7.7.7.7"], "nobody"),
            (&[b"for=7.7.7.7;proto"], "nobody"),
            (&[b"for=7.7.7.7 x"], "nobody"),
            (&[b"for=\"7.7.7.7"], "nobody"),
            (&[b"7.7.7.7"], "nobody"),
        ] {
            assert_eq!(
                check(lines),
                want,
                "{:?}",
                lines.iter().map(|l| String::from_utf8_lossy(l)).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn x_real_ip_is_one_address() {
        let check = |lines: &[&[u8]]| client(ClientAddress::XRealIp, "x-real-ip", lines);
        assert_eq!(check(&[b"7.7.7.7"]), "7.7.7.7");
        assert_eq!(check(&[b"[2001:db8::7]:80"]), "2001:db8::7");
        assert_eq!(check(&[b"10.0.0.2"]), "10.0.0.2");
        for lines in [&[&b"6.6.6.6, 7.7.7.7"[..]][..], &[b"6.6.6.6", b"7.7.7.7"], &[b""], &[b"\xff"], &[]] {
            assert_eq!(check(lines), "nobody", "{lines:?}");
        }
    }

    #[test]
    fn only_the_named_field_is_read() {
        let lines = fields(&[
            ("x-forwarded-for", b"1.1.1.1"),
            ("forwarded", b"for=2.2.2.2"),
            ("x-real-ip", b"3.3.3.3"),
        ]);
        let client =
            |field| believed(field).read("10.0.0.1".parse().unwrap(), &lines).unwrap().client().unwrap();
        assert_eq!(client(ClientAddress::XForwardedFor).to_string(), "1.1.1.1");
        assert_eq!(client(ClientAddress::Forwarded).to_string(), "2.2.2.2");
        assert_eq!(client(ClientAddress::XRealIp).to_string(), "3.3.3.3");
    }

    #[test]
    fn scheme_host_and_port_are_the_peers_own_word() {
        let read = |field, lines: &[(&'static str, &[u8])]| {
            let relayed = believed(field).read("10.0.0.1".parse().unwrap(), &fields(lines)).unwrap();
            (relayed.proto, relayed.host.clone(), relayed.port)
        };
        let x = [
            ("x-forwarded-proto", &b"http"[..]),
            ("x-forwarded-proto", b"http, HTTPS"),
            ("x-forwarded-host", b"evil.test, App.test:8443"),
            ("x-forwarded-port", b"8443"),
        ];
        let relayed = (Some("https"), Some("app.test:8443".to_owned()), Some(8443));
        assert_eq!(read(ClientAddress::XForwardedFor, &x), relayed);
        assert_eq!(read(ClientAddress::XRealIp, &x), relayed);
        // A proxy that speaks `Forwarded` does not vouch for the other fields.
        assert_eq!(read(ClientAddress::Forwarded, &x), (None, None, None));
        let forwarded = b"for=7.7.7.7;host=\"app.test:8443\";proto=https, for=10.0.0.2;host=inner;proto=http";
        let relayed = (Some("https"), Some("app.test:8443".to_owned()), None);
        assert_eq!(read(ClientAddress::Forwarded, &[("forwarded", forwarded)]), relayed);
        let hidden = b"for=unknown;proto=https";
        assert_eq!(read(ClientAddress::Forwarded, &[("forwarded", hidden)]), (Some("https"), None, None));
        for bad in [
            [("x-forwarded-proto", &b"ftp"[..]), ("x-forwarded-host", b"a b"), ("x-forwarded-port", b"0")],
            [("x-forwarded-proto", b"https,"), ("x-forwarded-host", b"a@b"), ("x-forwarded-port", b"+80")],
            [("x-forwarded-proto", b"\xff"), ("x-forwarded-host", b"a/b"), ("x-forwarded-port", b"123456")],
        ] {
            assert_eq!(read(ClientAddress::XForwardedFor, &bad), (None, None, None), "{bad:?}");
        }
    }

    #[test]
    fn what_decides_by_network_is_known_or_nothing() {
        let known = |field, peer: &str, lines: &[(&'static str, &[u8])]| {
            let (peer, fields, believed) = (peer.parse().unwrap(), fields(lines), believed(field));
            let relayed = believed.read(peer, &fields);
            believed.network_address(peer, &fields, relayed.as_deref()).map(|address| address.to_string())
        };
        use ClientAddress::{Forwarded, XForwardedFor, XRealIp};
        let direct = |lines: &[(&'static str, &[u8])]| known(XForwardedFor, "::ffff:192.168.1.7", lines);
        assert_eq!(direct(&[("x-forwarded-proto", b"https")]).as_deref(), Some("192.168.1.7"));
        // A proxy that the operator did not list has the address of all its clients.
        for name in
            ["x-forwarded-for", "forwarded", "x-real-ip", "x_forwarded_for", "x-forwarded_for", "x_real_ip"]
        {
            assert_eq!(direct(&[(name, b"192.168.1.7")]), None, "{name}");
            assert_eq!(direct(&[(name, b"")]), None, "{name}");
        }
        let relayed = |field, lines: &[(&'static str, &[u8])]| known(field, "10.0.0.1", lines);
        for (lines, want) in [
            (&[("x-forwarded-for", &b"7.7.7.7"[..])][..], Some("7.7.7.7")),
            (&[("x-forwarded-for", b"10.9.9.9, 7.7.7.7, 10.0.0.2")], Some("7.7.7.7")),
            (&[("x-forwarded-for", b"10.9.9.9"), ("x-forwarded-for", b"::ffff:7.7.7.7")], Some("7.7.7.7")),
            // A proxy's address is not the client's: what stands in front of it may be a client's own word.
            (&[("x-forwarded-for", b"10.9.9.9")], None),
            (&[("x-forwarded-for", b"10.8.0.1, 10.9.9.9")], None),
            (&[], None),
            (&[("x-forwarded-for", b"")], None),
            (&[("x-forwarded-for", b"x, 10.0.0.2")], None),
            (&[("x-forwarded-for", b"unknown")], None),
            (&[("x-forwarded-for", b"x"), ("x-forwarded-for", b"10.0.0.2")], None),
            // Another field may say the same, and nothing else: the client may have written either.
            (&[("x-forwarded-for", b"7.7.7.7"), ("x-real-ip", b"7.7.7.7")], Some("7.7.7.7")),
            (&[("x-forwarded-for", b"10.9.9.9"), ("x-real-ip", b"7.7.7.7")], None),
            (
                &[("x-forwarded-for", b"10.9.9.9"), ("x-real-ip", b"10.9.9.9"), ("x-real-ip", b"7.7.7.7")],
                None,
            ),
            (&[("x-forwarded-for", b"7.7.7.7"), ("forwarded", b"for=6.6.6.6")], None),
            (&[("x-forwarded-for", b"10.9.9.9"), ("forwarded", b"for=unknown, for=10.9.9.9")], None),
            (&[("x-forwarded-for", b"7.7.7.7"), ("forwarded", b"for=6.6.6.6, for=7.7.7.7")], Some("7.7.7.7")),
            (&[("x-forwarded-for", b"7.7.7.7"), ("x_forwarded_for", b"7.7.7.7")], None),
            (&[("x-real-ip", b"7.7.7.7")], None),
        ] {
            assert_eq!(relayed(XForwardedFor, lines).as_deref(), want, "{lines:?}");
        }
        assert_eq!(relayed(XRealIp, &[("x-real-ip", b"7.7.7.7")]).as_deref(), Some("7.7.7.7"));
        assert_eq!(relayed(XRealIp, &[("x-real-ip", b"7.7.7.7"), ("x-real-ip", b"7.7.7.7")]), None);
        assert_eq!(relayed(XRealIp, &[("x-real-ip", b"7.7.7.7"), ("x-forwarded-for", b"10.9.9.9")]), None);
        assert_eq!(
            relayed(Forwarded, &[("forwarded", b"for=6.6.6.6, for=\"[::ffff:7.7.7.7]:1\"")]).as_deref(),
            Some("7.7.7.7")
        );
        for line in
            [&b"for=unknown, for=10.0.0.2"[..], b"for=unknown", b"proto=https", b"for=x;for=y, for=10.0.0.2"]
        {
            assert_eq!(relayed(Forwarded, &[("forwarded", line)]), None);
        }
    }

    #[test]
    fn both_dialects_say_one_port() {
        let told = |lines: &[(&'static str, &[u8])]| {
            let all = written(ClientAddress::XForwardedFor, "10.0.0.1", lines);
            let named =
                |name: &str| all.iter().find_map(|line| line.strip_prefix(name)).unwrap_or("-").to_owned();
            let forwarded = named("forwarded: ");
            let host =
                forwarded.split(';').find_map(|pair| pair.strip_prefix("host=")).unwrap().trim_matches('"');
            (host.to_owned(), named("x-forwarded-host: "), named("x-forwarded-port: "))
        };
        for (proto, host, port, want) in [
            ("https", "app.test", "8443", ("app.test:8443", "app.test", "8443")),
            ("https", "app.test", "443", ("app.test", "app.test", "443")),
            ("http", "app.test", "80", ("app.test", "app.test", "80")),
            ("https", "app.test:8443", "8443", ("app.test:8443", "app.test:8443", "8443")),
            // The client's own word comes before the port of a proxy.
            ("https", "app.test:8443", "443", ("app.test:8443", "app.test:8443", "8443")),
            // No port of that scheme: it is that of a hop behind the end of TLS.
            ("https", "app.test", "80", ("app.test", "app.test", "-")),
            ("http", "app.test", "443", ("app.test", "app.test", "-")),
            ("https", "[2001:db8::7]", "8443", ("[2001:db8::7]:8443", "[2001:db8::7]", "8443")),
            ("https", "[2001:db8::7]:8443", "443", ("[2001:db8::7]:8443", "[2001:db8::7]:8443", "8443")),
            ("wss", "app.test", "443", ("app.test", "app.test", "443")),
        ] {
            let lines = [
                ("x-forwarded-for", &b"7.7.7.7"[..]),
                ("x-forwarded-proto", proto.as_bytes()),
                ("x-forwarded-host", host.as_bytes()),
                ("x-forwarded-port", port.as_bytes()),
            ];
            let want = (want.0.to_owned(), want.1.to_owned(), want.2.to_owned());
            assert_eq!(told(&lines), want, "{proto} {host} {port}");
        }
        // Without the client's host, ours is the one between the proxy and us, and its port is no client's.
        let lines = [("x-forwarded-proto", &b"https"[..]), ("x-forwarded-port", b"443")];
        assert_eq!(told(&lines), ("a.test".to_owned(), "a.test:8080".to_owned(), "443".to_owned()));
    }

    #[test]
    fn a_request_without_a_host_has_none_in_its_fields() {
        let mut request = HeaderMap::new();
        let peer = "9.9.9.9".parse().unwrap();
        let field = ClientAddress::XForwardedFor;
        set(&mut request, ReceivedFrom { peer, tls: false, host: "", relayed: None, field });
        assert_eq!(request.get("forwarded").unwrap(), "for=9.9.9.9;proto=http");
        assert_eq!(request.get("x-forwarded-host"), None);
    }

    #[test]
    fn an_id_is_one_short_word() {
        let longest = "a".repeat(MAX_REQUEST_ID);
        for id in ["a", "01a2105f-626d-74be-95cd-2b8454bab774", "7F000001:8296_7F00001E:1F90.5", &longest] {
            assert_eq!(request_id(&fields(&[("x-request-id", id.as_bytes())])), Some(id));
        }
        let long = "a".repeat(MAX_REQUEST_ID + 1);
        for id in ["", "a b", "a,b", "a\"b", "a=b", "<b>", "a/b", "caf\u{e9}", "a%0a", "a\tb", &long] {
            assert_eq!(request_id(&fields(&[("x-request-id", id.as_bytes())])), None, "{id}");
        }
        assert_eq!(request_id(&fields(&[("x-request-id", b"a"), ("x-request-id", b"a")])), None);
        assert_eq!(request_id(&fields(&[])), None);
    }

    fn written(field: ClientAddress, peer: &str, lines: &[(&'static str, &[u8])]) -> Vec<String> {
        let peer = peer.parse().unwrap();
        let relayed = believed(field).read(peer, &fields(lines));
        let mut request = HeaderMap::new();
        let relayed = relayed.as_deref();
        set(&mut request, ReceivedFrom { peer, tls: false, host: "a.test:8080", relayed, field });
        request.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn the_upstream_is_told_the_believed_part_of_the_way_in_fields_that_agree() {
        let lines =
            [("x-forwarded-for", &b"6.6.6.6, 7.7.7.7:1, fd00::2"[..]), ("x-forwarded-proto", b"https")];
        assert_eq!(
            written(ClientAddress::XForwardedFor, "10.0.0.1", &lines),
            [
                "forwarded: for=7.7.7.7;host=\"a.test:8080\";proto=https, for=\"[fd00::2]\", for=10.0.0.1",
                "x-forwarded-for: 7.7.7.7, fd00::2, 10.0.0.1",
                "x-forwarded-proto: https",
                "x-forwarded-host: a.test:8080",
            ]
        );
        assert_eq!(
            written(ClientAddress::XForwardedFor, "::ffff:9.9.9.9", &lines),
            [
                "forwarded: for=9.9.9.9;host=\"a.test:8080\";proto=http",
                "x-forwarded-for: 9.9.9.9",
                "x-forwarded-proto: http",
                "x-forwarded-host: a.test:8080",
            ]
        );
        let lines = [
            ("x-real-ip", &b"7.7.7.7:1"[..]),
            ("x-forwarded-host", b"out.test"),
            ("x-forwarded-port", b"8081"),
        ];
        assert_eq!(
            written(ClientAddress::XRealIp, "10.0.0.1", &lines),
            [
                "forwarded: for=7.7.7.7;host=\"out.test:8081\";proto=http, for=10.0.0.1",
                "x-forwarded-for: 7.7.7.7, 10.0.0.1",
                "x-forwarded-proto: http",
                "x-forwarded-host: out.test",
                "x-forwarded-port: 8081",
                "x-real-ip: 7.7.7.7",
            ]
        );
    }
}
