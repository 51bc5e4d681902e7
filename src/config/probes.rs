//! `server.health` and `server.ping_path`: where probes and scrapers ask.

use std::net::SocketAddr;

use super::file::Section;
use super::native::is_plain;
use super::read::{address, clash};
use super::settings::{Route, Server};
use palisade_core::domain::native_hosts::is_below;
use palisade_core::domain::return_to::BESIDE_APPS;

/// `server.health`: an address that is none of those of the other listeners, `taken`.
pub fn health(section: &Section<'_>, taken: &[SocketAddr]) -> Option<SocketAddr> {
    let item = section.get("health")?;
    let health = address(&item)?;
    match clash(health, taken) {
        None => Some(health),
        Some(found) => item.bad_as(found, "an address that no other listener has, such as 0.0.0.0:9181"),
    }
}

/// `server.ping_path`: a path in normal form that is none of the native endpoints' below `prefix`, nor of ours beside
/// the apps.
pub fn ping_path(section: &Section<'_>, prefix: &str) -> Option<String> {
    let want = format!(
        "a path like \"/ping\": in normal form, without a slash at its end, and not below {prefix}, /.well-known or \
         {BESIDE_APPS}"
    );
    section.get("ping_path")?.read(&want, |text| {
        let is_ours = [prefix, "/.well-known", BESIDE_APPS].iter().any(|ours| is_below(text, ours));
        (is_plain(text) && !is_ours).then(|| text.to_owned())
    })
}

/// Warns of a route that begins where pings are answered: it may be the health check of its app.
pub fn warn_of_route(root: &Section<'_>, server: &Server, routes: &[Route]) {
    let Some(ping) = &server.ping_path else { return };
    let section = root.section("server");
    let at = section.get("ping_path").map_or(section.at, |item| item.at);
    let begins = |route: &&Route| route.policy.paths.iter().any(|path| path.start() == ping);
    for route in routes.iter().filter(begins) {
        let text = format!(
            "GET {ping} is answered here on every host, so route {} does not get it",
            route.policy.name
        );
        root.doc.warn(at, "server.ping_path", &text);
    }
}
