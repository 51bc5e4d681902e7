//! `token`, `authorization` and `without_session` of a route: what carries our tokens, and whose the `Authorization`
//! field is.

use super::file::{Item, Section};
use super::form;
use super::settings::Forward;
use palisade_core::domain::credential::HOST_PREFIX;
use palisade_core::domain::reserved::{Reserved, fold, hands_on_a_token};
use palisade_core::domain::route::{Auth, AuthorizationField, Carriers, Policy};

/// Where the route looks for a token.
pub fn carriers(section: &Section<'_>, auth: Auth) -> Carriers {
    let token = section.section("token");
    let named = |name: &'static str, want: &str| {
        let item = token.get(name)?;
        item.read(want, |text| form::is_token(text).then(|| text.to_owned()))
    };
    let cookie = named("cookie", "the name of a cookie");
    if let Some(item) = token.get("cookie")
        && cookie.as_ref().is_some_and(|name| !name.starts_with(HOST_PREFIX))
    {
        let text = "without __Host- in front of its name, other hosts of the same site can set this cookie, and so sign a \
                    browser in to another account";
        item.doc.warn(item.at, &item.key, text);
    }
    let carriers = Carriers {
        cookie,
        websocket_protocol: token.bool("websocket_protocol", false),
        query: named("query", "the name of a query parameter"),
        header: token.get("header").and_then(|item| header(&item)),
        authorization: authorization(section, auth),
        // Said by the route's issuers ([`super::other_issuers`]).
        load_balancer: None,
        opaque: None,
    };
    token.close();
    carriers
}

/// The name of the field that carries tokens, in lower case.
fn header(item: &Item<'_>) -> Option<String> {
    let want = "the name of a header that carries nothing else, such as \"X-Gate-Token\"";
    let name = item.read(want, |text| form::is_token(text).then(|| text.to_ascii_lowercase()))?;
    let is_taken = || form::is_reserved_header(&name) || Reserved::default().takes(&name);
    if !hands_on_a_token(&name) && is_taken() {
        return item.bad(want);
    }
    Some(name)
}

/// `authorization` and `without_session`.
fn authorization(section: &Section<'_>, auth: Auth) -> AuthorizationField {
    let app = [("app", ())];
    let field = section.get("authorization");
    let is_apps = field.as_ref().is_some_and(|item| item.choice(&app).is_some());
    if let Some(item) = field.as_ref().filter(|_| auth == Auth::None) {
        item.bad_as::<()>(
            "authorization on a route with auth = \"none\"",
            "no such key: there no credential is read, and the field is the app's already",
        );
    }
    let item = section.get("without_session");
    let without_session = item.as_ref().is_some_and(|item| item.choice(&app).is_some());
    if let Some(item) = item {
        if auth != Auth::Required {
            item.bad_as::<()>(
                "without_session on a route that passes every request without a session",
                "auth = \"required\", or no without_session",
            );
        } else if field.is_none() {
            item.bad_as::<()>(
                "without_session on a route whose Authorization field is the gateway's",
                "authorization = \"app\" beside it",
            );
        } else if is_apps && without_session {
            let name = section.get("name").and_then(|item| item.raw().map(str::to_owned)).unwrap_or_default();
            let text = format!(
                "route {name:?} is open to every client that sends an Authorization field, whatever stands in it: only the \
                 app judges that"
            );
            item.doc.warn(item.at, &item.key, &text);
        }
    }
    match is_apps {
        true => AuthorizationField::Apps { without_session },
        false => AuthorizationField::Ours,
    }
}

/// Refuses a token for the app's server in an `Authorization` field that is taken already; `item`: `headers.access_token`.
pub fn refuse_taken(section: &Section<'_>, item: &Item<'_>, carriers: &Carriers) {
    let want = "another field, such as \"X-Forwarded-Access-Token\"";
    if carriers.is_authorization_apps() {
        item.bad_as::<()>(
            "a token in place of the app's own Authorization field (authorization = \"app\")",
            want,
        );
    } else if section.get("inject").is_some() {
        item.bad_as::<()>("a token in place of the provider's, which inject puts into Authorization", want);
    }
}

/// Refuses what would write into the app's `Authorization`, and what would read or forward the field of our tokens.
pub fn refuse_clashes(section: &Section<'_>, policy: &Policy, forward: &Forward) {
    let carriers = &policy.carriers;
    if carriers.is_authorization_apps()
        && let Some(item) = section.get("inject")
    {
        item.bad_as::<()>(
            "a provider's token in place of the app's own Authorization field",
            "inject or authorization = \"app\", not both",
        );
    }
    let Some(name) = carriers.header.as_deref() else { return };
    let folded = fold(name);
    let token = section.section("token");
    let Some(item) = token.get("header") else { return };
    if forward.names(policy).any(|set| fold(set) == folded) {
        item.bad_as::<()>(
            format!("{name:?}, in which this route says who the caller is"),
            "a name that this route's headers do not have",
        );
    }
    if forward.pass.iter().any(|passed| fold(passed) == folded) {
        item.bad_as::<()>(
            format!("{name:?}, which this route lets through"),
            "a name that pass does not have: tokens would reach the app",
        );
    }
}
