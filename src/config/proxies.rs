//! `server.trusted_proxies` and `server.client_address`: which peers are trusted about the address of the client.

use ipnet::IpNet;

use super::file::Item;
use super::networks::{canonical, is_too_wide, network};
use super::settings::ClientAddress;

/// The words of `server.client_address`.
pub(super) const CLIENT_ADDRESSES: [(&str, ClientAddress); 3] = [
    ("x-forwarded-for", ClientAddress::XForwardedFor),
    ("forwarded", ClientAddress::Forwarded),
    ("x-real-ip", ClientAddress::XRealIp),
];

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
