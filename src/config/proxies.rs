//! `server.trusted_proxies` and `server.client_address`: which peers are trusted about the address of the client; and how
//! networks are written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::file::Item;
use super::settings::ClientAddress;

/// The words of `server.client_address`.
pub(super) const CLIENT_ADDRESSES: [(&str, ClientAddress); 3] = [
    ("x-forwarded-for", ClientAddress::XForwardedFor),
    ("forwarded", ClientAddress::Forwarded),
    ("x-real-ip", ClientAddress::XRealIp),
];

/// A network, or an address as a network of one.
pub(super) fn network(item: &Item<'_>) -> Option<IpNet> {
    item.read("a network like 10.0.0.0/8, or an address", |text| {
        text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
    })
}

/// Networks of proxies, as wide as real ones get.
pub(super) fn trusted(item: &Item<'_>) -> Option<IpNet> {
    let net = canonical(network(item)?);
    if is_too_wide(&net) {
        let text = "so wide a network holds strangers, who can then choose the address that limits and logs know them \
                    by; name the proxies";
        item.doc.warn(item.at, &item.key, text);
    }
    Some(net)
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
