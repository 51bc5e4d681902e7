//! `server.trusted_proxies` and `server.client_address`: which peers are trusted about the address of the client.

use ipnet::IpNet;

use super::file::{Item, Section};
use super::networks::{canonical, is_too_wide, network};
use super::settings::{ClientAddress, Server};

/// The words of `server.client_address`.
pub(super) const CLIENT_ADDRESSES: [(&str, ClientAddress); 3] = [
    ("x-forwarded-for", ClientAddress::XForwardedFor),
    ("forwarded", ClientAddress::Forwarded),
    ("x-real-ip", ClientAddress::XRealIp),
];

/// Warns that forwarded fields are thrown away although a proxy seems to be in front: when the file names the field that it
/// writes, and when people come by `https` that this gateway does not end. No proxy is believed then, and its address is
/// that of every client behind it.
pub(super) fn warn_of_unbelieved(root: &Section<'_>, public_url: &str, server: &Server) {
    if !server.trusted_proxies.is_empty() {
        return;
    }
    let section = root.section("server");
    let (at, key, why) = match section.get("client_address") {
        Some(item) => (item.at, "server.client_address", "it names the field of a proxy"),
        None if public_url.starts_with("https://") && server.tls.is_none() => {
            let at = root.get("public_url").map_or(0, |item| item.at);
            (at, "public_url", "it is https, which a proxy in front must end, since there is no server.tls")
        }
        None => return,
    };
    let text = format!(
        "{why}, and server.trusted_proxies is empty: the fields in which a proxy says where a request came from are thrown \
         away, and all clients behind it have its address in limits, networks and logs; name the proxies"
    );
    root.doc.warn(at, key, &text);
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
