//! `[cors]`, and `cors` of a route: the same keys, read by the same code.

use std::cell::Cell;
use std::time::Duration;

use super::file::{Item, Section};
use super::form::{self, Url};
use super::matching::is_method;
use palisade_core::domain::cors::{Cors, MAX_AGE, Origins};
use palisade_core::domain::route::Route;

const ORIGIN: &str =
    "an origin like https://app.example.com, with no path and no trailing slash, or \"*\" alone";

/// No browser remembers the answer to a preflight for longer.
const MOST_AGE: Duration = Duration::from_secs(24 * 3600);

/// The keys of the section; no other origin when it is empty.
pub fn cors(section: Section<'_>) -> Cors {
    let any = Cell::new(None);
    let origins = section.list("origins", |item| {
        let origin = item.read(ORIGIN, |text| match text {
            "*" => Some(text.to_owned()),
            _ => {
                // Browsers send it in exactly this form (RFC 6454 §6.2): lower case, no default port.
                let url = Url::parse(text).filter(|url| url.rest.is_empty())?;
                let scheme = if url.tls { "https" } else { "http" };
                let port = url.port.filter(|port| *port != if url.tls { 443 } else { 80 });
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                (format!("{scheme}://{}{port}", url.host) == text).then(|| text.to_owned())
            }
        })?;
        if origin == "*" {
            any.set(Some(item.at));
        }
        Some(origin)
    });
    let key = |name: &str| format!("{}.{name}", section.key);
    let origins = match any.get() {
        None => Origins::These(origins),
        Some(at) => {
            if origins.len() > 1 {
                let want = "\"*\" alone, or the origins without it";
                section.doc.fault(at, &key("origins"), "\"*\" among others", want);
            }
            Origins::Any
        }
    };
    let credentials = section.bool("credentials", false);
    let names = |name: &'static str| section.list(name, |item| header(item, credentials));
    let cors = Cors {
        allow_methods: section.list("allow_methods", |item| {
            item.read("a method in upper case, such as GET", |text| is_method(text).then(|| text.to_owned()))
        }),
        max_age: section.duration("max_age", MAX_AGE, Duration::ZERO..=MOST_AGE),
        allow_headers: names("allow_headers"),
        expose_headers: names("expose_headers"),
        origins,
        credentials,
    };
    if let (Some(at), true) = (any.get(), credentials) {
        let want = "the origins by name: with credentials = true every site could act as its visitor";
        section.doc.fault(at, &key("origins"), "\"*\" with credentials", want);
    }
    section.close();
    cors
}

fn header(item: &Item<'_>, credentials: bool) -> Option<String> {
    if item.raw() == Some("*") && credentials {
        return item
            .bad_as("\"*\" with credentials", "the names of the fields: browsers read this \"*\" as a name");
    }
    item.read("the name of a header field, or \"*\"", |text| form::is_token(text).then(|| text.to_owned()))
}

/// `cors` of a route, which makes no sense without an origin.
pub fn of_route(item: &Item<'_>) -> Option<Cors> {
    let section = item.section()?;
    let none = section.get("origins").is_none_or(|origins| origins.is_empty_list());
    if none {
        section.doc.fault(item.at, &format!("{}.origins", item.key), "nothing", ORIGIN);
    }
    Some(cors(section))
}

/// Refuses `cors` that lets the page of every site read what a rule for some networks gives to a client for its address: a
/// browser lends the address to every page, as it does a cookie, and the rule for cookies is that `"*"` gets none.
pub fn refuse_lent_networks(item: &Item<'_>, route: &Route) {
    if route.networks.is_empty() || route.cors.as_ref().is_none_or(|cors| cors.origins != Origins::Any) {
        return;
    }
    let key = format!("{}.origins", item.key);
    if route.lets_in_without_sign_in() {
        let want = "the origins by name: without a sign-in the client's address is the credential, and every site could read \
                    with it what this rule gives to its networks";
        item.doc.fault(item.at, &key, "\"*\" on a rule with match.networks", want);
    } else {
        let text = "the page of every site may call this rule from a browser of its networks, with a token that it brings \
                    itself; name the origins";
        item.doc.warn(item.at, &key, text);
    }
}
