//! `headers.access_token` and `headers.audience` of a route: the token for the app's server.

use super::authorization;
use super::file::{Item, Section};
use super::form;
use super::issuers::Algorithm;
use super::settings::{AccessTokenField, Forward, Tokens};
use palisade_core::domain::reserved::fold;
use palisade_core::domain::route::{Auth, Policy};

/// The longest audience, in bytes.
const MAX_AUDIENCE: usize = 256;

/// Names beside those of identity headers: that of bearer tokens (RFC 6750 §2.1), and that of oauth2-proxy. No client may
/// send the latter on any route.
const NAMES: [&str; 2] = ["authorization", "x-forwarded-access-token"];

/// Reads both keys. `route`: the name of the route, which is the audience where none is configured. `names`: the folded
/// names of the fields that the route sets already.
pub fn field(headers: &Section<'_>, route: &str, names: &[String]) -> Option<AccessTokenField> {
    let audience = headers.get("audience");
    let field = headers.get("access_token").filter(|item| !item.is_false()).map(|item| name(&item, names));
    if let (None, Some(item)) = (&field, &audience) {
        item.bad_as::<()>(
            "an audience without a token",
            "access_token beside it: the field that the token goes in",
        );
    }
    let want =
        "an audience of printable ASCII without spaces, such as \"reports\" or \"https://api.example.com\"";
    let audience = match &audience {
        None => Some(route.to_owned()),
        Some(item) => item.read(want, |text| {
            let is_plain = text.len() <= MAX_AUDIENCE && text.bytes().all(|byte| byte.is_ascii_graphic());
            is_plain.then(|| text.to_owned())
        }),
    };
    Some(AccessTokenField { field: field??, audience: audience? })
}

fn name(item: &Item<'_>, names: &[String]) -> Option<String> {
    let want =
        "\"Authorization\", or a header name that carries nothing else, such as \"X-Forwarded-Access-Token\"";
    let name = item.read(want, |text| {
        let is_known = NAMES.iter().any(|name| text.eq_ignore_ascii_case(name));
        (is_known || form::is_sendable(text)).then(|| text.to_owned())
    })?;
    match names.iter().any(|taken| *taken == *fold(&name)) {
        // Apps that read `_` as `-` could not tell them apart.
        true => item.bad("each header name once"),
        false => Some(name),
    }
}

/// Refuses a token that has no caller or no place of its own, and warns of one that does more than its operator may mean.
pub fn judge(section: &Section<'_>, policy: &Policy, forward: &Forward, tokens: &Tokens) {
    let headers = section.section("headers");
    let (Some(token), Some(item)) = (&forward.access_token, headers.get("access_token")) else { return };
    if policy.auth == Auth::None {
        item.bad_as::<()>("a token on a route with auth = \"none\"", "auth = \"required\": whose token?");
    }
    if token.is_authorization() {
        authorization::refuse_taken(section, &item, &policy.carriers);
    }
    if token.audience == tokens.audience && headers.get("audience").is_none() {
        item.bad_as::<()>(
            format!("a token for {:?}, the name of the route and tokens.audience at once", token.audience),
            "an audience of its own beside it; written out it may be tokens.audience, and then the app can do in this \
             gateway whatever the caller can",
        );
    } else if token.audience == tokens.audience {
        let text = format!(
            "tokens for the audience {:?} (tokens.audience) open every route of this gateway and the caller's own account: \
             the app can do there whatever the caller can",
            token.audience
        );
        item.doc.warn(item.at, &item.key, &text);
    }
    if tokens.algorithm == Algorithm::Hs256 {
        let text = "with tokens.algorithm = \"HS256\" no API can verify the token without the secret that signs every token";
        item.doc.warn(item.at, &item.key, text);
    }
}
