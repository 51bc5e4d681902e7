//! `upstream` of a route and what belongs to it: where its requests go, over which connections, and what paths the app is
//! asked for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::file::{Item, Section};
use super::form::Url;
use super::read::existing_file;
use super::settings::{Balance, ClientCertificate, Health, Rewrite, Route, Upstream, UpstreamOrigin};
use palisade_core::domain::pattern::PathPattern;
use palisade_core::domain::request::{Host, Path};
use palisade_core::domain::upstream_path::UpstreamPath;

const HOUR: Duration = Duration::from_secs(3600);
const TICK: Duration = Duration::from_millis(1);
/// The longest path of a socket file in bytes: `sun_path` has 108 with its end (unix(7)).
const SOCKET_PATH: usize = 107;

const ORIGIN: &str = "an origin like http://127.0.0.1:3000, with no query or user name, or a socket file like unix:/run/app.sock";
const BASE: &str =
    "no path, or one in normal form without a slash at its end, like http://127.0.0.1:3000/base";
const PREFIX: &str = "a path in normal form without a slash at its end, like /api";

/// One entry of `upstream`, and its base path.
fn origin(item: &Item<'_>) -> Option<(UpstreamOrigin, String)> {
    let text = item.text(ORIGIN)?;
    if let Some(path) = text.strip_prefix("unix:") {
        return Some((socket(item, path)?, String::new()));
    }
    let Some(url) = Url::parse(text).filter(|url| !url.rest.contains(['?', '#'])) else {
        return item.bad(ORIGIN);
    };
    // To other proxies a slash alone says something about the route's path, too.
    if url.rest == "/" || UpstreamPath::new("", url.rest).is_err() {
        return item.bad(BASE);
    }
    let port = url.port.unwrap_or(if url.tls { 443 } else { 80 });
    Some((UpstreamOrigin { tls: url.tls, host: url.host, port, socket: None }, url.rest.to_owned()))
}

fn socket(item: &Item<'_>, path: &str) -> Option<UpstreamOrigin> {
    let is_line = path.bytes().all(|byte| byte.is_ascii_graphic() || byte >= 0x80);
    if !path.starts_with('/') || path.starts_with("//") || path.ends_with('/') || !is_line {
        return item.bad("the absolute path of a socket file, like unix:/run/app.sock");
    }
    if path.len() > SOCKET_PATH {
        return item
            .bad(&format!("a path of at most {SOCKET_PATH} bytes: no longer one can be connected to"));
    }
    Some(UpstreamOrigin { tls: false, host: "localhost".to_owned(), port: 80, socket: Some(Arc::from(path)) })
}

/// Where the requests of a route go, and by which paths. `listeners`: where clients reach us; `paths`: those that the route
/// takes. `None`: something of it is wrong, and was reported.
pub(super) fn upstream(
    section: &Section<'_>,
    listeners: &[SocketAddr],
    paths: &[PathPattern],
) -> Option<(Upstream, UpstreamPath)> {
    let item = section.required("upstream", ORIGIN);
    let line = section.doc.line(item.as_ref().map_or(section.at, |item| item.at));
    let mut origins: Vec<UpstreamOrigin> = Vec::new();
    let mut base: Option<String> = None;
    for item in item.iter().flat_map(Item::list) {
        let Some((origin, path)) = origin(&item) else { continue };
        let address = origin.host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        if address.is_some_and(|ip| listeners.contains(&SocketAddr::new(ip, origin.port))) {
            item.bad::<()>("another address than our own: requests would go in circles");
        } else if origins.first().is_some_and(|first| first.tls != origin.tls) {
            item.bad::<()>("one scheme for all upstreams of a route");
        } else if origins.contains(&origin) {
            item.bad::<()>("each upstream once");
        } else if base.as_ref().is_some_and(|base| *base != path) {
            item.bad::<()>("one base path for all upstreams of a route");
        }
        base = base.or(Some(path));
        origins.push(origin);
    }
    if let Some(item) = item.filter(Item::is_empty_list) {
        item.bad::<()>(ORIGIN);
    }
    let strip = section.get("strip_prefix").and_then(|item| strip_prefix(&item, paths));
    let upstream_path =
        UpstreamPath::new(strip.as_deref().unwrap_or_default(), base.as_deref().unwrap_or_default()).ok()?;
    let tls = origins.iter().any(|origin| origin.tls);
    let of_tls = |name: &'static str| {
        section.get(name).and_then(|item| match tls {
            true => Some(item),
            false => item.bad(&format!("no {name}, or https:// upstreams")),
        })
    };
    let ca = of_tls("ca").and_then(|item| existing_file(&item, "a PEM file of certificate authorities"));
    let tls_name = of_tls("tls_name").and_then(|item| {
        item.read("a host in lower case, as the upstream's certificate names it", |text| {
            let host = Host::parse(text.as_bytes()).ok()?;
            (host.port().is_none() && host.name() == text).then(|| text.trim_matches(['[', ']']).to_owned())
        })
    });
    let upstream = Upstream {
        balance: section.choice(
            "balance",
            &[("round-robin", Balance::RoundRobin), ("random", Balance::Random)],
            Balance::RoundRobin,
        ),
        health: section.get("health").and_then(|item| item.section()).map(health),
        connect_timeout: section.duration("connect_timeout", Duration::from_secs(5), TICK..=HOUR),
        read_timeout: section.duration("read_timeout", Duration::from_secs(60), TICK..=HOUR * 24),
        write_timeout: section.duration("write_timeout", Duration::from_secs(60), TICK..=HOUR * 24),
        idle: section
            .get("upstream_idle")
            .map(|_| section.duration("upstream_idle", Duration::ZERO, Duration::ZERO..=HOUR)),
        retries: section.count("retries", 1, 0..=10),
        max_body: section.get("max_body").and_then(|item| item.size()),
        ca,
        tls_name,
        client: client_certificate(section, tls),
        http2: section.bool("http2", false),
        rewrite: rewrite(section.section("rewrite")),
        origins,
        line,
    };
    (!upstream.origins.is_empty()).then_some((upstream, upstream_path))
}

fn strip_prefix(item: &Item<'_>, paths: &[PathPattern]) -> Option<String> {
    let text = item.text(PREFIX)?;
    // In the Path of a cookie a semicolon would end it.
    let is_path = text.len() > 1 && !text.contains([';', '*']) && UpstreamPath::new(text, "").is_ok();
    let Some(prefix) = is_path.then(|| PathPattern::parse(text).ok()).flatten() else {
        return item.bad(PREFIX);
    };
    if let Some(outside) = paths.iter().find(|path| !prefix.holds(path)) {
        return item.bad(&format!("a path that the route's own {:?} lies below", outside.as_str()));
    }
    Some(text.to_owned())
}

fn client_certificate(section: &Section<'_>, tls: bool) -> Option<ClientCertificate> {
    let (cert, key) = (section.get("client_cert"), section.get("client_key"));
    if !tls {
        for (item, name) in [(&cert, "client_cert"), (&key, "client_key")] {
            if let Some(item) = item {
                item.bad::<()>(&format!("no {name}, or https:// upstreams"));
            }
        }
        return None;
    }
    match (&cert, &key) {
        (Some(cert), Some(key)) => {
            let cert =
                existing_file(cert, "a PEM file of a certificate and those between it and its authority");
            let key = existing_file(key, "a PEM file of the certificate's private key");
            Some(ClientCertificate { cert: cert?, key: key? })
        }
        (Some(alone), None) => alone.bad_as("client_cert without client_key", "both of them, or none"),
        (None, Some(alone)) => alone.bad_as("client_key without client_cert", "both of them, or none"),
        (None, None) => None,
    }
}

fn rewrite(section: Section<'_>) -> Rewrite {
    let rewrite =
        Rewrite { location: section.bool("location", false), cookies: section.bool("cookies", false) };
    section.close();
    rewrite
}

fn health(section: Section<'_>) -> Health {
    let path = section.get("path").and_then(|item| {
        item.read("a path like /healthz", |text| {
            let (path, query) = text.split_once('?').unwrap_or((text, ""));
            let plain = query.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
            (Path::parse(path.as_bytes()).is_ok() && plain).then(|| text.to_owned())
        })
    });
    let health = Health {
        path,
        interval: section.duration("interval", Duration::from_secs(10), TICK * 100..=HOUR),
        timeout: section.duration("timeout", Duration::from_secs(2), TICK..=HOUR),
        healthy_after: section.count("healthy_after", 2, 1..=100),
        unhealthy_after: section.count("unhealthy_after", 3, 1..=100),
    };
    section.close();
    health
}

/// Warns where one path of an app is reached by two routes with different policies because one of them takes a prefix off or
/// puts a base path before: the table of routes compares paths as clients write them, and cannot see that.
pub(super) fn warn_of_other_ways(root: &Section<'_>, routes: &[Route]) {
    let sections = root.sections("routes");
    for (at, one) in routes.iter().enumerate() {
        for other in &routes[at + 1..] {
            let (first, second) = (&one.policy, &other.policy);
            let shared = first.upstreams.iter().any(|upstream| second.upstreams.contains(upstream));
            let is_alike = first.policy == second.policy
                && first.networks == second.networks
                && first.methods == second.methods
                && first.public.is_empty()
                && second.public.is_empty();
            if !shared || first.upstream_path == second.upstream_path || is_alike {
                continue;
            }
            let mut pairs = first.paths.iter().flat_map(|a| second.paths.iter().map(move |b| (a, b)));
            let common = pairs.find_map(|(a, b)| {
                at_app(&first.upstream_path, a)?.common_path(&at_app(&second.upstream_path, b)?)
            });
            let Some((path, section)) = common.zip(sections.get(second.index)) else { continue };
            let item = section.get("strip_prefix").or_else(|| section.get("upstream"));
            let text = format!(
                "the app is asked for {path} by route {:?}, too, which may want something else of its callers",
                &*first.name
            );
            root.doc.warn(item.map_or(section.at, |item| item.at), &section.key, &text);
        }
    }
}

/// What a pattern of a route takes, as the app is asked for it.
fn at_app(paths: &UpstreamPath, pattern: &PathPattern) -> Option<PathPattern> {
    let text = pattern.as_str();
    let (sign, path) = match text.strip_prefix('=') {
        Some(path) => ("=", path),
        None => ("", text),
    };
    let mapped = paths.of(path).ok()?;
    let mapped = match (sign, &*mapped) {
        ("", "/") => "/",
        ("", below) => below.strip_suffix('/').unwrap_or(below),
        (_, exact) => exact,
    };
    PathPattern::parse(&format!("{sign}{mapped}")).ok()
}
