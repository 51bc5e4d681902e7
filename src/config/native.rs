//! Where the native endpoints are: below which path (`server.prefix`), and on which hosts (`[native] hosts`).

use super::file::Section;
use super::read::host;
use super::settings::Route;
use palisade_core::domain::browser::BrowserSettings;
use palisade_core::domain::native_hosts::{NativeHosts, is_below};
use palisade_core::domain::request::Path;

/// Where the native endpoints are unless the file says otherwise.
const PREFIX: &str = "/auth";

/// `server.prefix`: a path in normal form that is more than the root, ends in no slash, and leaves
/// `/.well-known` as it is.
pub fn prefix(section: &Section<'_>) -> String {
    let want =
        "a path like \"/auth\": in normal form, without a slash at its end, and not below /.well-known";
    let read = section.get("prefix").and_then(|item| {
        item.read(want, |text| (is_plain(text) && !is_below(text, "/.well-known")).then(|| text.to_owned()))
    });
    read.unwrap_or_else(|| PREFIX.to_owned())
}

/// Whether a path is more than the root, in normal form without anything that is encoded, and without a slash at its end.
pub fn is_plain(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let path = Path::parse(text.as_bytes());
    path.is_ok_and(|path| path.as_str() == text && !path.has_empty_segment())
        && text.bytes().all(plain)
        && !text.ends_with('/')
}

/// `[native] hosts`: the hosts on which the native endpoints answer. The pages for people are below `public_url`, so
/// its host must be one of them while `[browser]` is enabled.
pub fn hosts(root: &Section<'_>, browser: &BrowserSettings) -> NativeHosts {
    let section = root.section("native");
    let item = section.get("hosts");
    let hosts = match &item {
        None => NativeHosts::Every,
        Some(item) => NativeHosts::These(item.list().iter().filter_map(host).collect()),
    };
    if let Some(item) = item.filter(|_| !hosts.has(&browser.public.host)) {
        let public = &browser.public.host;
        if browser.enabled {
            let found = format!("no {public:?}");
            let want =
                "the host of public_url among them: the pages for people are there ([browser] is enabled)";
            root.doc.fault(item.at, &item.key, found, want);
        } else {
            let text = format!(
                "links in mail and the addresses of providers' callbacks name {public}, where no native endpoint answers"
            );
            root.doc.warn(item.at, &item.key, &text);
        }
    }
    section.close();
    hosts
}

/// Warns of routes whose every request the native endpoints would answer.
pub fn shadowed(root: &Section<'_>, prefix: &str, native: &NativeHosts, routes: &[Route]) {
    let section = root.section("server");
    let at = section.get("prefix").map_or(section.at, |item| item.at);
    for route in routes.iter().filter(|route| {
        route.policy.paths.iter().all(|path| is_below(path.start(), prefix))
            && route.policy.hosts.iter().all(|host| native.takes_all_of(host))
    }) {
        let text = format!(
            "the native endpoints answer below {prefix}, so route {} gets nothing",
            route.policy.name
        );
        root.doc.warn(at, "server.prefix", &text);
    }
}
