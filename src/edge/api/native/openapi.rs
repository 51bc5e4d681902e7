//! The frame of the description of the native endpoints: what it says beside what the handlers say of themselves.

use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

use super::super::openapi::{Failures, documented_failures};
use super::super::schema::{BrokenRule, Problem};

/// What needing an access token adds.
const AUTHENTICATING: [&str; 5] =
    ["credentials_ambiguous", "token_missing", "invalid_token", "no_account", "not_ready"];

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
         1970. Send an access token as `Authorization: Bearer`; no cookie stands in for one. Every refusal is a \
         problem document (RFC 9457) whose `code` is stable, but for those that a browser gets as a page."
            .to_owned(),
    );
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    api.components.get_or_insert_default().add_security_scheme("bearer", SecurityScheme::Http(bearer));
    api
}

/// The failures of the native endpoints.
pub(super) fn failures() -> Failures {
    Failures {
        known: documented_failures(),
        authenticating: &AUTHENTICATING,
        anything: &["internal"],
        query: None,
    }
}

#[cfg(test)]
mod tests;
