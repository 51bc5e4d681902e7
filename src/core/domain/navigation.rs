//! What a request says of itself: whether a person opens a page with it, and where that page is shown.
//!
//! Read from fetch metadata (W3C Fetch Metadata Request Headers), and where a client sends none of it, from `Accept`.
//! Any client can send any of these fields. So the answer to this question chooses the form of an answer (page, redirect
//! or problem document), and may be a reason to refuse; it never admits and never exempts from a limit.

use super::request::Headers;

/// The parts of a request that tell what it is.
pub struct Asking<'a> {
    /// The method, as sent.
    pub method: &'a str,
    /// Whether it asks to become a WebSocket.
    pub websocket: bool,
    /// The path, without the query.
    pub path: &'a str,
    pub headers: &'a dyn Headers,
}

/// What a request is, as far as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// A person opens a page in a tab, or submits a form to one.
    Navigation,
    /// A page is opened inside another page.
    Frame,
    /// Anything else: a script, a program, an image, a bot, or a browser that looks ahead.
    Program,
}

/// The request fields that [`kind`] reads, and those that change what a page or a problem document says: for `Vary`
/// (RFC 9110 §12.5.5).
pub const VARY: &str = "Accept, Accept-Language, Cookie, Sec-Fetch-Dest, Sec-Fetch-Mode, Sec-Purpose, Purpose, X-Moz, \
     X-Requested-With, HX-Request, HX-Current-URL, Turbo-Frame, Referer, User-Agent";

/// The fields by which scripts say that a page's own code sent a request (htmx, Turbo, pjax, Inertia, Unpoly) and will
/// read the answer.
const OF_SCRIPTS: [&str; 6] =
    ["hx-request", "turbo-frame", "x-turbo-request-id", "x-pjax", "x-inertia", "x-up-version"];

/// The fields by which a browser says that it looks ahead, so that a person may never see the answer.
pub const OF_SPECULATION: [&str; 4] = ["sec-purpose", "purpose", "x-moz", "x-purpose"];

/// What fetch metadata consists of.
const OF_METADATA: [&str; 4] = ["sec-fetch-mode", "sec-fetch-dest", "sec-fetch-site", "sec-fetch-user"];

/// The destinations of a page inside another one (Fetch standard, §2.2.5).
const FRAMES: [&[u8]; 5] = [b"iframe", b"frame", b"embed", b"object", b"fencedframe"];

/// What the `User-Agent` of programs has in it that fetch a link to show a preview of it, in lower case. Some of them
/// send the `Accept` of a browser.
const OF_PREVIEWS: [&str; 22] = [
    "applebot",
    "bingbot",
    "bingpreview",
    "bluesky cardyb",
    "discordbot",
    "embedly",
    "facebookexternalhit",
    "facebot",
    "googlebot",
    "google-pagerenderer",
    "iframely",
    "linkedinbot",
    "mastodon/",
    "matrix-hookshot",
    "pinterestbot",
    "redditbot",
    "skypeuripreview",
    "slackbot",
    "telegrambot",
    "twitterbot",
    "viber",
    "whatsapp/",
];

/// The icon that browsers fetch without being asked.
const ICON: &str = "favicon.ico";

/// What the request is.
#[must_use]
pub fn kind(asking: &Asking<'_>) -> RequestKind {
    if asking.websocket || is_of_a_script(asking) || is_ahead(asking) {
        return RequestKind::Program;
    }
    if OF_METADATA.iter().any(|name| has(asking, name)) {
        return by_metadata(asking);
    }
    let is_read_only = matches!(asking.method, "GET" | "HEAD");
    match is_read_only && !is_xhr(asking) && accept(asking).is_some_and(|accept| prefers_html(&accept)) {
        true => RequestKind::Navigation,
        false => RequestKind::Program,
    }
}

/// Whether a method leaves what it is used on as it is (RFC 9110 §9.2.1).
#[must_use]
pub fn is_safe(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS")
}

/// Whether the request has nothing that browsers send: at a challenge of scheme Basic a browser opens a dialog of its own,
/// also for what a script fetches, and sends the password that a person types there with every later request.
#[must_use]
pub fn is_of_no_browser(headers: &dyn Headers) -> bool {
    let mut is_browser = false;
    for name in OF_METADATA.into_iter().chain(["cookie", "origin", "referer"]) {
        headers.each(name, &mut |_| is_browser = true);
    }
    headers.each("user-agent", &mut |line| {
        is_browser |= String::from_utf8_lossy(line).to_ascii_lowercase().contains("mozilla");
    });
    !is_browser
}

/// Whether htmx sent it, which follows `HX-Redirect` in place of the answer.
#[must_use]
pub fn is_htmx(headers: &dyn Headers) -> bool {
    only(headers, "hx-request") == Lines::Once(b"true".to_vec())
}

/// The address of the page that a script runs in, as it says itself: `HX-Current-URL`, else `Referer`. It says nothing
/// of whether a browser may be sent there.
#[must_use]
pub fn page(headers: &dyn Headers) -> Option<String> {
    text(headers, "hx-current-url").or_else(|| referrer(headers))
}

/// The address of the page that led to the request, as it says itself (RFC 9110 §10.1.3).
#[must_use]
pub fn referrer(headers: &dyn Headers) -> Option<String> {
    text(headers, "referer")
}

fn text(headers: &dyn Headers, name: &str) -> Option<String> {
    match only(headers, name) {
        Lines::Once(line) => String::from_utf8(line).ok(),
        Lines::None | Lines::Several => None,
    }
}

/// How often a field is there, and what it says.
#[derive(PartialEq, Eq)]
enum Lines {
    None,
    Once(Vec<u8>),
    Several,
}

/// The one line of a field, without white space around it.
fn only(headers: &dyn Headers, name: &str) -> Lines {
    let mut found = Lines::None;
    headers.each(name, &mut |line| {
        found = match found {
            Lines::None => Lines::Once(line.trim_ascii().to_vec()),
            Lines::Once(_) | Lines::Several => Lines::Several,
        };
    });
    found
}

fn has(asking: &Asking<'_>, name: &str) -> bool {
    only(asking.headers, name) != Lines::None
}

fn is(asking: &Asking<'_>, name: &str, value: &[u8]) -> bool {
    matches!(only(asking.headers, name), Lines::Once(line) if line == value)
}

fn by_metadata(asking: &Asking<'_>) -> RequestKind {
    if FRAMES.iter().any(|frame| is(asking, "sec-fetch-dest", frame)) {
        return RequestKind::Frame;
    }
    match is(asking, "sec-fetch-mode", b"navigate") && is(asking, "sec-fetch-dest", b"document") {
        true => RequestKind::Navigation,
        false => RequestKind::Program,
    }
}

/// Whether the code of a page, a service worker or a gRPC client reads the answer.
fn is_of_a_script(asking: &Asking<'_>) -> bool {
    let mut is_grpc = false;
    asking.headers.each("content-type", &mut |line| {
        let media = line.trim_ascii_start().get(..16);
        is_grpc |= media.is_some_and(|media| media.eq_ignore_ascii_case(b"application/grpc"));
    });
    is_grpc || has(asking, "service-worker") || OF_SCRIPTS.iter().any(|name| has(asking, name))
}

/// Whether no person has asked for it: a browser that looks ahead, an icon, the preview of a link.
fn is_ahead(asking: &Asking<'_>) -> bool {
    let mut is_preview = false;
    asking.headers.each("user-agent", &mut |line| {
        let agent = String::from_utf8_lossy(line).to_ascii_lowercase();
        is_preview |= OF_PREVIEWS.iter().any(|name| agent.contains(name));
    });
    is_preview
        || asking.path.rsplit('/').next() == Some(ICON)
        || OF_SPECULATION.iter().any(|name| has(asking, name))
}

/// Whether `X-Requested-With` says that a script sent it. The web view of Android writes the name of its app there
/// (`com.example.app`), in every navigation too.
fn is_xhr(asking: &Asking<'_>) -> bool {
    let is_app = |line: &[u8]| {
        let is_name = |part: &[u8]| {
            part.first().is_some_and(u8::is_ascii_alphabetic)
                && part.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        };
        line.contains(&b'.') && line.split(|byte| *byte == b'.').all(is_name)
    };
    match only(asking.headers, "x-requested-with") {
        Lines::None => false,
        Lines::Once(line) => !is_app(&line),
        Lines::Several => true,
    }
}

/// All lines of `Accept` as one list (RFC 9110 §5.3).
fn accept(asking: &Asking<'_>) -> Option<String> {
    let mut lines: Vec<String> = Vec::new();
    asking.headers.each("accept", &mut |line| lines.push(String::from_utf8_lossy(line).into_owned()));
    (!lines.is_empty()).then(|| lines.join(","))
}

/// Whether `text/html` stands in `accept` (RFC 9110 §12.5.1) and nothing is preferred to it: no other media range has a
/// higher weight, and none of the same weight stands before it but XHTML. A list that cannot be read prefers nothing.
fn prefers_html(accept: &str) -> bool {
    let mut html: Option<u16> = None;
    let mut most = 0;
    for range in accept.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let Some(weight) = weight(parts) else { return false };
        if media.eq_ignore_ascii_case("text/html") && html.is_none() {
            html = Some(weight).filter(|weight| *weight > 0 && *weight > most);
            if html.is_none() {
                return false;
            }
        } else if !media.eq_ignore_ascii_case("application/xhtml+xml") {
            most = most.max(weight);
            if html.is_some_and(|html| weight > html) {
                return false;
            }
        }
    }
    html.is_some()
}

/// The weight of a media range in thousandths (RFC 9110 §12.4.2); `None`: it cannot be read.
fn weight<'a>(mut parameters: impl Iterator<Item = &'a str>) -> Option<u16> {
    let is_weight = |parameter: &&str| parameter.get(..2).is_some_and(|name| name.eq_ignore_ascii_case("q="));
    let Some(parameter) = parameters.find(is_weight) else { return Some(1000) };
    let (whole, digits) = parameter[2..].split_once('.').unwrap_or((&parameter[2..], ""));
    if digits.len() > 3 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{digits:0<3}").parse().ok()?;
    match (whole, thousandths) {
        ("0", part) => Some(part),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
#[path = "navigation_tests.rs"]
mod tests;
