//! `[browser]`, and what a route says about browsers: how a session travels in a cookie, and where to.

use std::cell::RefCell;
use std::time::Duration;

use super::file::{Item, Section};
use super::form;
use super::read::page_url;
use super::settings::Route;
use palisade_core::domain::browser::{BrowserSettings, NamedOrigin, RouteBrowser, SessionUse, SignInPage};
use palisade_core::domain::credential::{HOST_PREFIX, OURS};
use palisade_core::domain::native_hosts::is_below;
use palisade_core::domain::pattern::{HostPattern, PathPattern};
use palisade_core::domain::request::{Host, Scheme};
use palisade_core::domain::route::{Auth, Public};

/// How long a session is good without a use, unless the file says otherwise.
const IDLE: Duration = Duration::from_secs(12 * 3600);
/// The same, for those who ask to be kept signed in.
const REMEMBER: Duration = Duration::from_secs(30 * 24 * 3600);
/// From the sign-in to the end, unless the file says otherwise or sessions end sooner.
const ABSOLUTE: Duration = Duration::from_secs(90 * 24 * 3600);
/// A use is written at most once a minute, so a shorter idle time would end sessions that are in use.
const SHORTEST: Duration = Duration::from_secs(120);
/// Ten years, as `humantime` reads and writes them.
const LONGEST: Duration = Duration::from_secs(315_576_000);

const SIGN_IN: &str = "true (our page), false (no page: 401), or the URL of a page of your own, such as \
                       https://app.example.com/sign-in";

/// What `preset = "pwa"` lets pass, below the path of the route: browsers ask for a manifest (W3C Web Application
/// Manifest §1.2) and for icons without cookies, unless the page says otherwise.
const PWA: [&str; 12] = [
    "manifest.json",
    "manifest.webmanifest",
    "site.webmanifest",
    "favicon.ico",
    "favicon.svg",
    "favicon.png",
    "apple-touch-icon.png",
    "apple-touch-icon-precomposed.png",
    "android-chrome-192x192.png",
    "android-chrome-512x512.png",
    "icon-192.png",
    "icon-512.png",
];

/// Reads the section. `longest`: how long a session of any kind lives at most (`sessions.absolute_ttl`).
pub(super) fn browser(
    root: &Section<'_>,
    public_url: &str,
    routes: &[Route],
    longest: Duration,
) -> BrowserSettings {
    let section = root.section("browser");
    // `public_url` was read as an origin before, or is the default.
    let public = NamedOrigin::parse(public_url).unwrap_or(NamedOrigin {
        scheme: Scheme::Http,
        host: "localhost".to_owned(),
        port: Some(8080),
    });
    let insecure_http = insecure_http(&section, &public);
    let enabled = enabled(root, &section, &public, insecure_http);
    let may_have_cookies =
        |origin: &NamedOrigin| origin.scheme == Scheme::Https || origin.is_loopback() || insecure_http;
    let mut hosts = exact_hosts(&public, routes);
    // Over the network, in cleartext, a host gets no session cookie unless the operator asks for that.
    hosts.retain(may_have_cookies);
    let named = RefCell::new(Vec::new());
    let further = section.list("hosts", |item| {
        let origin = origin(item, &public)?;
        if origin.scheme != public.scheme {
            return item.bad("the scheme of public_url: a session in a cookie has one for all hosts");
        }
        if !may_have_cookies(&origin) {
            return item.bad(
                "an https:// public_url and host, or insecure_http = true: its cookie would cross the network in cleartext",
            );
        }
        once(item, origin, &named)
    });
    hosts.extend(further.into_iter().filter(|origin| *origin != public));
    let mut unique: Vec<NamedOrigin> = Vec::new();
    for origin in hosts {
        if !unique.contains(&origin) {
            unique.push(origin);
        }
    }
    let targets = RefCell::new(Vec::new());
    let return_to = section.list("return_to", |item| {
        let origin = origin(item, &public)?;
        once(item, origin, &targets)
    });
    let (idle, absolute, remember) = lives(&section, longest);
    let settings = BrowserSettings {
        enabled,
        domain: section.get("domain").and_then(|item| domain(&item, &public)),
        hosts: unique,
        idle,
        absolute,
        remember,
        return_to,
        uses: section.choice(
            "use",
            &[("request", SessionUse::Every), ("navigation", SessionUse::Navigation)],
            SessionUse::Every,
        ),
        insecure_http,
        public,
    };
    section.close();
    settings
}

fn insecure_http(section: &Section<'_>, public: &NamedOrigin) -> bool {
    let insecure = section.bool("insecure_http", false);
    let Some(item) = section.get("insecure_http").filter(|_| insecure) else { return false };
    if public.scheme == Scheme::Https {
        item.bad::<()>("false: with an https:// public_url, session cookies cross no network in cleartext");
        return false;
    }
    let text = "session cookies cross the network in cleartext: every machine on the way can read them and act as the person";
    item.doc.warn(item.at, &item.key, text);
    true
}

/// Whether there are sessions in cookies at all. Browsers send cookies over cleartext too, so without TLS to another
/// machine there are none unless the operator asks for them.
fn enabled(root: &Section<'_>, section: &Section<'_>, public: &NamedOrigin, insecure_http: bool) -> bool {
    let enabled = section.bool("enabled", true);
    if !enabled || public.scheme == Scheme::Https || public.is_loopback() || insecure_http {
        return enabled;
    }
    if let Some(item) = section.get("enabled") {
        let want = "an https:// public_url; or insecure_http = true, for a home network or a test";
        return item.bad_as("true, but public_url is http://", want).unwrap_or(false);
    }
    let at = root.get("public_url").map_or(0, |item| item.at);
    let text = "an http:// origin, where no session can travel in a cookie: browsers get no sign-in page and no session. \
                Want an https:// origin; or [browser] insecure_http = true, for a home network or a test; or [browser] \
                enabled = false, to say so";
    root.doc.warn(at, "public_url", text);
    false
}

/// `idle`, `absolute` and `remember`. What is not written is never longer than the bound above it.
fn lives(section: &Section<'_>, longest: Duration) -> (Duration, Duration, Option<Duration>) {
    let range = SHORTEST..=LONGEST;
    let absolute = section.duration("absolute", ABSOLUTE.min(longest), range.clone());
    let within = |name: &'static str, value: Duration, most: Duration, bound: &str| {
        if let Some(item) = section.get(name).filter(|_| value > most) {
            let found = humantime::format_duration(value).to_string();
            item.bad_as::<()>(found, &format!("no more than {bound}, {}", humantime::format_duration(most)));
        }
    };
    within("absolute", absolute, longest, "sessions.absolute_ttl");
    let idle = section.duration("idle", IDLE.min(absolute), range.clone());
    within("idle", idle, absolute, "browser.absolute");
    let remember = match section.get("remember") {
        Some(item) if item.is_false() => None,
        _ => Some(section.duration("remember", REMEMBER.min(absolute), range)),
    };
    if let Some(remember) = remember {
        within("remember", remember, absolute, "browser.absolute");
        if let Some(item) = section.get("remember").filter(|_| remember < idle) {
            let found = humantime::format_duration(remember).to_string();
            let want = format!(
                "no less than browser.idle, {}; or false, which offers it to no visitor",
                humantime::format_duration(idle)
            );
            item.bad_as::<()>(found, &want);
        }
    }
    (idle, absolute, remember)
}

/// An origin that is spelled out in full; without a scheme it has that of `public_url`.
fn origin(item: &Item<'_>, public: &NamedOrigin) -> Option<NamedOrigin> {
    let want =
        "an origin spelled out in full, such as \"https://notes.example.com\", with no path and no wildcard";
    item.read(want, |text| {
        if text.contains("://") {
            return NamedOrigin::parse(text);
        }
        let scheme = if public.scheme == Scheme::Https { "https" } else { "http" };
        NamedOrigin::parse(&format!("{scheme}://{text}"))
    })
}

fn once(item: &Item<'_>, origin: NamedOrigin, seen: &RefCell<Vec<NamedOrigin>>) -> Option<NamedOrigin> {
    let mut seen = seen.borrow_mut();
    if seen.contains(&origin) {
        return item.bad("each origin once");
    }
    seen.push(origin.clone());
    Some(origin)
}

/// `domain`: what browsers take as the `Domain` of a cookie that `public_url`'s host sets (RFC 6265 §5.1.3).
fn domain(item: &Item<'_>, public: &NamedOrigin) -> Option<String> {
    let want =
        format!("the host of public_url or a domain above it with a dot in it: {}", above(&public.host));
    let domain = item.read(&want, |text| {
        let host = Host::parse(text.as_bytes()).ok()?;
        let is_name = host.port().is_none() && host.name() == text && text.contains('.');
        let is_address = text.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
        let is_above = public.host == text || public.host.ends_with(&format!(".{text}"));
        (is_name && !is_address && is_above).then(|| text.to_owned())
    })?;
    let text = format!(
        "every host below {domain} is sent the session cookie and can set one of its name, and so sign a visitor in to \
         another account: run only hosts of your own there, or leave domain out, and each host gets a cookie of its own"
    );
    item.doc.warn(item.at, &item.key, &text);
    Some(domain)
}

/// The domains that would do for `host`, for an error.
fn above(host: &str) -> String {
    let mut rest = host;
    let mut good = Vec::new();
    while rest.contains('.') && rest.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_err() {
        good.push(format!("{rest:?}"));
        rest = rest.split_once('.').map_or("", |(_, rest)| rest);
    }
    if good.is_empty() { format!("none for {host:?}; leave domain out") } else { good.join(" or ") }
}

/// The origins of the hosts that routes spell out, at the default port and at that of `public_url`.
fn exact_hosts(public: &NamedOrigin, routes: &[Route]) -> Vec<NamedOrigin> {
    let mut origins: Vec<NamedOrigin> = Vec::new();
    for host in routes.iter().flat_map(|route| &route.policy.hosts).filter_map(HostPattern::exact) {
        for port in [None, public.port] {
            let origin = NamedOrigin { scheme: public.scheme, host: host.to_owned(), port };
            if origin != *public {
                origins.push(origin);
            }
        }
    }
    origins
}

/// What a route says about browsers.
pub(super) fn of_route(section: &Section<'_>, auth: Auth) -> RouteBrowser {
    let sign_in = section.get("sign_in").and_then(|item| match item.raw() {
        Some(_) => page_url(&item, SIGN_IN, "passwords").map(SignInPage::At),
        None if item.is_false() => Some(SignInPage::Nowhere),
        None => item.is_true().then_some(SignInPage::Ours).or_else(|| item.bad(SIGN_IN)),
    });
    let names = RefCell::new(Vec::new());
    let app_cookies = section.list("app_cookies", |item| {
        let name = item
            .read("the name of a cookie of the app", |text| form::is_token(text).then(|| text.to_owned()))?;
        if is_ours(&name) {
            return item.bad("a name without \"palisade\": cookies of that name are the gateway's");
        }
        let mut names = names.borrow_mut();
        if names.contains(&name) {
            return item.bad("each cookie once");
        }
        names.push(name.clone());
        Some(name)
    });
    let uses = section.get("use").and_then(|item| match item.is_false() {
        true => Some(SessionUse::Never),
        false => item
            .raw()
            .and_then(|text| match text {
                "request" => Some(SessionUse::Every),
                "navigation" => Some(SessionUse::Navigation),
                _ => None,
            })
            .or_else(|| item.bad("\"request\", \"navigation\" or false")),
    });
    if auth == Auth::None {
        for name in ["sign_in", "app_cookies", "cache", "use", "preset"] {
            if let Some(item) = section.get(name) {
                let text = "without effect: with auth = \"none\" a session is not looked at";
                item.doc.warn(item.at, &item.key, text);
            }
        }
    }
    RouteBrowser {
        sign_in: sign_in.unwrap_or_default(),
        app_cookies,
        is_cache_shared: section.choice("cache", &[("private", false), ("shared", true)], false),
        uses,
    }
}

/// What `preset` opens to every client below `paths`, those of the route.
pub(super) fn public(section: &Section<'_>, paths: &[PathPattern]) -> Vec<Public> {
    let Some(item) = section.get("preset") else { return Vec::new() };
    if item.choice(&[("pwa", ())]).is_none() {
        return Vec::new();
    }
    if !paths.is_empty() && paths.iter().all(PathPattern::is_exact) {
        item.doc.warn(item.at, &item.key, "without effect: nothing is below an exact path");
    }
    let below = |path: &PathPattern| {
        let prefix = path.as_str().trim_end_matches('/').to_owned();
        PWA.iter().filter_map(move |name| PathPattern::parse(&format!("={prefix}/{name}")).ok())
    };
    paths.iter().filter(|path| !path.is_exact()).flat_map(below).map(Public::to_read).collect()
}

/// Whether a cookie of this name is the gateway's, in whatever case a browser or an app writes it.
fn is_ours(name: &str) -> bool {
    name.to_ascii_lowercase().contains(OURS)
}

/// Warns of a route whose cookie of tokens has a name that the gateway keeps for its own cookies.
pub(super) fn warn_of_names(root: &Section<'_>, browser: &BrowserSettings, routes: &[Route]) {
    let sections = root.sections("routes");
    for route in routes.iter().filter(|_| browser.enabled) {
        let Some(name) = route.policy.policy.carriers.cookie.as_deref().filter(|name| is_ours(name)) else {
            continue;
        };
        let Some(place) = sections.get(route.policy.index) else { continue };
        let text = format!(
            "cookies whose names contain \"palisade\" are the gateway's own, and {name:?} may be taken for one; want another \
             name, such as \"{HOST_PREFIX}token\""
        );
        place.doc.warn(place.at, &format!("{}.token.cookie", place.key), &text);
    }
}

/// The routes that let in more people, or more script near an account, than their operator may expect; one printable
/// line each. `is_open`: whether every person with a mailbox may register; `prefix`: where the native endpoints are.
pub(super) fn exposures(
    root: &Section<'_>,
    browser: &BrowserSettings,
    routes: &[Route],
    issuer: &str,
    is_open: bool,
    prefix: &str,
) -> Vec<String> {
    let sections = root.sections("routes");
    let mut lines = Vec::new();
    for route in routes {
        let Some(place) = sections.get(route.policy.index) else { continue };
        let at = |key: &'static str| place.get(key).map_or(place.at, |item| item.at);
        let policy = &route.policy.policy;
        let is_ours_good = policy.issuers.is_empty() || policy.issuers.iter().any(|name| name == issuer);
        let asks_more = !policy.require.scopes.is_empty() || !policy.require.claims.is_empty();
        if is_open && policy.auth == Auth::Required && is_ours_good && !asks_more {
            let text = format!(
                "registration is open, so every person with a mailbox can register and pass route {:?}; want require = \
                 {{ … }} on the route, or accounts.registration = \"invited\"",
                route.policy.name
            );
            lines.push(root.doc.place(at("auth"), &format!("{}.auth", place.key), &text));
        }
        let is_native = route.policy.paths.iter().all(|path| is_below(path.start(), prefix));
        if browser.enabled && route.policy.takes_host(&browser.public.host) && !is_native {
            let text = format!(
                "route {:?} serves an app on the host of public_url: script of that app can use the account of each of its \
                 visitors; trust it as the gateway itself, or give it a host of its own (docs/browser.md)",
                route.policy.name
            );
            lines.push(root.doc.place(at("match"), &format!("{}.match", place.key), &text));
        }
    }
    lines
}
