//! What our own access tokens say (RFC 9068 §2.2).

use std::time::Duration;

use serde_json::{Map, Value, json};

use palisade_core::domain::claims::{GROUPS_CLAIM, HOST_CLAIM, ROTATION_CLAIM, USERNAME_CLAIM, is_reserved};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::AccessGrant;

/// The claims of an access token of `grant`, but for its id. None of the grant's further claims replaces one of these.
pub(super) fn claims(
    issuer: &str,
    audience: &str,
    grant: &AccessGrant,
    ttl: Duration,
    now: UnixTime,
) -> Map<String, Value> {
    let mut claims = grant.extra.clone();
    claims.retain(|name, _| !is_reserved(name));
    let mut set = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    set("iss", json!(issuer));
    set("aud", json!(audience));
    set("sub", json!(grant.subject));
    set("type", json!("access"));
    set("iat", json!(now));
    set("nbf", json!(now));
    set("exp", json!(now.plus(ttl)));
    set("ver", json!(grant.version));
    set("gen", json!(grant.generation));
    if let Some(email) = &grant.email {
        set("email", json!(email));
        set("email_verified", json!(grant.email_verified));
    }
    if let Some(name) = &grant.username {
        set(USERNAME_CLAIM, json!(name));
    }
    if !grant.groups.is_empty() {
        set(GROUPS_CLAIM, json!(grant.groups));
    }
    if let Some(session) = &grant.session {
        set("sid", json!(session));
    }
    if let Some(host) = &grant.host {
        set(HOST_CLAIM, json!(host));
    }
    if let Some(place) = grant.rotation {
        set(ROTATION_CLAIM, json!(place));
    }
    if !grant.scopes.is_empty() {
        set("scope", json!(grant.scopes.join(" ")));
    }
    claims
}
