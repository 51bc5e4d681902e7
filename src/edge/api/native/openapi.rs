//! The frame of the description of the native endpoints: what it says beside what the handlers say of themselves.

use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};

use super::super::openapi::{Failures, documented_failures};
use super::super::schema::{BrokenRule, Problem};
use palisade_core::domain::answer::answer;
use palisade_core::domain::verdict::Refusal;

/// What needing an access token adds.
const AUTHENTICATING: [&str; 9] = [
    "credentials_ambiguous",
    "token_missing",
    "invalid_token",
    "no_account",
    "not_ready",
    "revocations_stale",
    "cross_site",
    "session_over",
    "wrong_host",
];

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Palisade"),
    tags(
        (name = "Accounts", description = "Registering, and one's own account."),
        (name = "Sign-in", description = "Sessions begin, go on and end."),
        (name = "Passwords", description = "Forgotten ones, and what a new one must be."),
        (name = "Sessions", description = "Where one is signed in."),
        (name = "Connections", description = "Accounts at other providers, and their tokens."),
    ),
    components(schemas(Problem, BrokenRule))
)]
struct Frame;

/// The description without any endpoint.
pub(super) fn frame() -> OpenApi {
    let mut api = Frame::openapi();
    api.info.version = env!("CARGO_PKG_VERSION").to_owned();
    api.info.license = None;
    api.info.description = Some(
        "Accounts, sessions and connections behind the gateway. Bodies are JSON, and times are seconds since \
         1970. Send an access token as `Authorization: Bearer`, or, on the host of the gateway's public URL, the session cookie of a browser (its name \
         has no prefix without TLS); a cookie counts for unsafe methods only in requests of the gateway's own pages. Every refusal is a \
         problem document (RFC 9457) whose `code` is stable, but for those that a browser gets as a page."
            .to_owned(),
    );
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    let session = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new("__Host-palisade")));
    let components = api.components.get_or_insert_default();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    components.add_security_scheme("session", session);
    api
}

/// The failures of the native endpoints.
pub(super) fn failures() -> Failures {
    let mut known = documented_failures();
    known.push((
        answer(&Refusal::CrossSite).into(),
        "A session cookie authorises it, or it sets one or may come from a form, and it is not from a page of the gateway's own origin.",
    ));
    known.push((
        answer(&Refusal::SessionOver).into(),
        "The session of the cookie is over; it cannot be good again.",
    ));
    known.push((
        super::session::wrong_host(),
        "It needs the session cookie, and was sent to another host than that of the gateway's public URL.",
    ));
    Failures { known, authenticating: &AUTHENTICATING, anything: &["internal"], query: None }
}

#[cfg(test)]
mod tests;
