//! `headers`, `pass` and `inject` of a route: who the app is told that the caller is, in which header fields, and which
//! fields of the client's it is shown beside them.

use super::file::{Item, Section};
use super::settings::Forward;
use super::{access_token, form};
use palisade_core::domain::reserved::{self, Reserved, fold};
use palisade_core::domain::route::Auth;

/// A field that this route lets through, though by default no client may send it. `names`: what the route sets.
fn pass(item: &Item<'_>, names: &[String]) -> Option<String> {
    let want = "the name of a header that is taken out by default, such as \"X-HTTP-Method-Override\"";
    let name = item.read(want, |text| form::is_token(text).then(|| text.to_owned()))?;
    let folded = fold(&name);
    if names.iter().any(|ours| *ours == *folded) {
        return item.bad_as(
            format!("{name:?}, in which this route says who the caller is"),
            "no name that this route's headers have: callers could choose who they are",
        );
    }
    if let Some(why) = reserved::never_passes(&name) {
        return item.bad_as(format!("{name:?}: {why}"), want);
    }
    if !Reserved::default().takes(&name.to_ascii_lowercase()) {
        item.doc.warn(item.at, &item.key, &format!("{name:?} passes anyway, unless another route sets it"));
    }
    Some(name)
}

/// `headers`, `pass`, `inject` and `preserve_host`. `providers`: the names of the configured providers.
pub fn forward(section: &Section<'_>, providers: &[String], auth: Auth) -> Forward {
    let headers = section.section("headers");
    let mut names: Vec<String> = Vec::new();
    let mut name = |key: &'static str, default: Option<&str>| {
        let default = default.map(str::to_owned);
        let header = match headers.get(key) {
            None => default,
            Some(item) if item.is_false() => None,
            Some(item) => {
                let want = "a header name that carries nothing else, or false to send none";
                let header = item.read(want, |text| {
                    (form::is_token(text) && !form::is_reserved_header(text)).then(|| text.to_owned())
                });
                header.and_then(|header| {
                    // Apps that read `_` as `-` could not tell them apart.
                    let folded = fold(&header).into_owned();
                    if names.contains(&folded) { item.bad("each header name once") } else { Some(header) }
                })
            }
        };
        names.extend(header.as_ref().map(|header| fold(header).into_owned()));
        header
    };
    let subject = name("subject", Some("X-Auth-Subject"));
    let issuer = name("issuer", Some("X-Auth-Issuer"));
    let email = name("email", Some("X-Auth-Email"));
    let session = name("session", Some("X-Auth-Session"));
    let scopes = name("scopes", Some("X-Auth-Scopes"));
    let assertion = name("assertion", None);
    let route = section.get("name").and_then(|item| item.raw()).unwrap_or_default();
    let access_token = access_token::field(&headers, route, &names);
    names.extend(access_token.as_ref().map(|token| fold(&token.field).into_owned()));
    headers.close();
    let pass = section.list("pass", |item| pass(item, &names));
    let inject_item = section.get("inject");
    let inject = inject_item.as_ref().and_then(|item| {
        let inject = item.section()?;
        let want = "the name of a provider";
        let provider = inject.required("provider", want).and_then(|item| {
            let name = item.text(want)?;
            if providers.iter().any(|provider| provider == name) {
                return Some(name.to_owned());
            }
            item.bad("the name of a configured provider (see [[providers]])")
        });
        inject.close();
        provider
    });
    if let Some(item) = inject_item.filter(|_| auth == Auth::None) {
        item.bad_as::<()>("a provider on a route with auth = \"none\"", "auth = \"required\": whose token?");
    }
    Forward {
        subject,
        issuer,
        email,
        session,
        scopes,
        assertion,
        access_token,
        pass,
        preserve_host: section.bool("preserve_host", true),
        inject,
    }
}
