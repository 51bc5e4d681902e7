//! How networks are written, and which of them our own requests may reach: `allow_private` and `ca`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::file::{Item, Section};
use super::read::existing_file;
use super::references;
use palisade_core::domain::reach::{Authorities, Reach, is_public, opens_nothing};

/// A network, or an address as a network of one.
pub(super) fn network(item: &Item<'_>) -> Option<IpNet> {
    item.read("a network like 10.0.0.0/8, or an address", |text| {
        text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
    })
}

/// `allow_private` and `ca` of an issuer or a provider: which addresses may be called for it, and which authorities are trusted there.
pub(super) fn reach(section: &Section<'_>) -> Reach {
    Reach {
        allow_private: section.list("allow_private", opened),
        ca: section.get("ca").as_ref().and_then(authorities),
    }
}

/// A network that may be called although it is private.
fn opened(item: &Item<'_>) -> Option<IpNet> {
    let net = canonical(network(item)?);
    if opens_nothing(&net) {
        return item.bad(
            "a network of hosts: link-local addresses and those at which clouds answer with credentials are never called",
        );
    }
    if is_too_wide(&net) {
        return item
            .bad("the networks that are needed, such as [\"10.0.0.0/8\"]: so wide a one holds the internet");
    }
    if is_public(net.network()) || is_public(net.broadcast()) {
        let text = "holds public addresses, which may be called in cleartext, too";
        item.doc.warn(item.at, &item.key, text);
    }
    Some(net)
}

/// The text of a PEM file of certificate authorities.
pub(super) fn authorities(item: &Item<'_>) -> Option<Authorities> {
    let path = existing_file(item, "a PEM file of certificate authorities")?;
    match item.doc.read(&item.key, &path, references::MOST_AUTHORITIES) {
        Ok(pem) => {
            let named = format!("{}: {}", item.key, path.display()).into();
            Some(Authorities { named, pem: pem.into() })
        }
        Err(error) => item.bad_as(format!("{} ({error})", path.display()), "a readable PEM file"),
    }
}

/// A network of IPv4-mapped IPv6 addresses as the IPv4 network that it is: peers are looked up by that.
pub(super) fn canonical(net: IpNet) -> IpNet {
    let mapped = match net {
        IpNet::V6(net) if net.prefix_len() >= 96 => {
            net.network().to_ipv4_mapped().zip(Some(net.prefix_len()))
        }
        IpNet::V6(_) | IpNet::V4(_) => None,
    };
    let v4 = mapped.and_then(|(address, length)| Ipv4Net::new(address, length - 96).ok());
    v4.map_or(net, IpNet::V4)
}

/// Whether a network is wider than any real one of proxies. Private ones may be as wide as they are.
pub(super) fn is_too_wide(net: &IpNet) -> bool {
    let private: [IpNet; 6] = [
        Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8).into(),
        Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 8).into(),
        Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12).into(),
        Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16).into(),
        Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7).into(),
        Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10).into(),
    ];
    let widest = match net {
        IpNet::V4(_) => 12,
        IpNet::V6(_) => 24,
    };
    net.prefix_len() < widest && !private.iter().any(|private| private.contains(net))
}
