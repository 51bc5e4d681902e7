//! What an operator may put into the access tokens of an account: scopes and claims of its own.
//!
//! A token travels in a header line, so all of it has a bound; and apps believe it, so nothing in it may pass for what
//! the gateway says.

use serde_json::{Map, Value};

use super::account::are_scopes;

/// The longest scope of a token, in bytes.
const MAX_SCOPE: usize = 256;
/// The most that the scopes of a token take together, in bytes: joined by spaces, as its `scope` has them.
const MAX_SCOPES: usize = 2048;
/// The most that an account's own claims take as JSON, in bytes.
const MAX_CLAIMS: usize = 4096;
/// Every whole number up to this is one of its own in the double that JSON readers make of it (RFC 8259 §6).
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The claim of an access token that was made for script on one host: it is good for the routes of that host alone, and at
/// no native endpoint.
pub const HOST_CLAIM: &str = "palisade_host";

/// The claim of an access token that says with which refresh token of its session it came: the place in the row. Only where
/// `tokens.refresh_repeat` is longer than ten seconds; it is for the gateway alone.
pub const ROTATION_CLAIM: &str = "palisade_rotation";

/// The claim of an account's user name (OpenID Connect Core §5.1).
pub const USERNAME_CLAIM: &str = "preferred_username";

/// The claim of an account's groups (RFC 9068 §2.2.3.1, RFC 7643 §4.1.2).
pub const GROUPS_CLAIM: &str = "groups";

/// What the gateway says in a token, or what others who sign tokens say by these names: about the token and its use
/// (RFC 7519 §4.1, RFC 9068 §2.2, RFC 7662), its subject and how they signed in (OpenID Connect Core §2), the actor
/// that it was delegated to (RFC 8693 §4), its key confirmation (RFC 7800), and that it is an event (RFC 8417).
/// `name` is the account's to set.
const RESERVED: [&str; 37] = [
    "iss",
    "aud",
    "sub",
    "exp",
    "nbf",
    "iat",
    "jti",
    "sid",
    "ver",
    "gen",
    "typ",
    "type",
    "scope",
    "scp",
    "email",
    "email_verified",
    "azp",
    "client_id",
    "cnf",
    "act",
    "may_act",
    "amr",
    "acr",
    "auth_time",
    "nonce",
    "at_hash",
    "c_hash",
    "events",
    "toe",
    "txn",
    "idp",
    "sub_id",
    "active",
    USERNAME_CLAIM,
    GROUPS_CLAIM,
    HOST_CLAIM,
    ROTATION_CLAIM,
];

/// Whether a claim of this name is the gateway's to set, in any case: some readers ignore it.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    // Both ways, so that letters that only some fold (`ſ`, the Kelvin sign) count as those they look like.
    let folded = name.to_uppercase().to_lowercase();
    RESERVED.contains(&folded.as_str())
}

/// What is wrong with these scopes for a token, in words.
#[must_use]
pub fn scopes_fault(scopes: &[String]) -> Option<String> {
    let together = scopes.iter().map(String::len).sum::<usize>() + scopes.len().saturating_sub(1);
    let is_long = scopes.iter().any(|scope| scope.len() > MAX_SCOPE);
    (!are_scopes(scopes) || is_long || together > MAX_SCOPES).then(|| {
        format!(
            "`scopes` must be at most 100 words of printable ASCII without spaces, quotes and backslashes, none longer than \
             {MAX_SCOPE} bytes, and {MAX_SCOPES} bytes together"
        )
    })
}

/// What is wrong with these claims of an account's own, in words.
#[must_use]
pub fn claims_fault(claims: &Map<String, Value>) -> Option<String> {
    for name in claims.keys() {
        if name.is_empty() {
            return Some("`claims` cannot have a claim without a name".to_owned());
        }
        if name.trim() != name || name.chars().any(char::is_control) {
            return Some(format!(
                "`claims` cannot set {name:?}: white space at its ends or a control character"
            ));
        }
        if name == GROUPS_CLAIM || name == USERNAME_CLAIM {
            let instead = if name == GROUPS_CLAIM { "groups" } else { "username" };
            return Some(format!(
                "`claims` cannot set `{name}`: the gateway does; set `{instead}` of the account instead"
            ));
        }
        if is_reserved(name) {
            return Some(format!("`claims` cannot set `{name}`: the gateway does, or signs no such token"));
        }
    }
    if let Some(name) = claims.iter().find(|(_, value)| !is_exact(value)).map(|(name, _)| name) {
        return Some(format!(
            "`claims.{name}` holds a number of more than 2^53 that would not stay exact: write it as text"
        ));
    }
    let bytes = serde_json::to_string(claims).map_or(usize::MAX, |text| text.len());
    (bytes > MAX_CLAIMS).then(|| format!("`claims` must be at most {MAX_CLAIMS} bytes of JSON"))
}

/// Whether every number in `value` is the one that was written. Whole numbers of 64 bits are kept as they are; what is
/// larger was read as a double, and is another number by now.
pub(super) fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) if number.is_f64() => {
            number.as_f64().is_some_and(|number| number.abs() < EXACT)
        }
        Value::Array(items) => items.iter().all(is_exact),
        Value::Object(members) => members.values().all(is_exact),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_the_gateway_says_cannot_be_set_in_any_case() {
        for name in RESERVED.into_iter().chain([
            "",
            " role",
            "role\t",
            "a\u{0}",
            "Sub",
            "SCOPE",
            "Client_ID",
            "Groups",
            "PREFERRED_USERNAME",
            "\u{17f}ub",
        ]) {
            let one = Map::from_iter([(name.to_owned(), Value::Null)]);
            assert!(claims_fault(&one).is_some(), "{name:?}");
        }
        for name in ["role", "name", "group", "https://app.test/role", "subject", "a b"] {
            let one = Map::from_iter([(name.to_owned(), Value::Null)]);
            assert_eq!(claims_fault(&one), None, "{name:?}");
        }
    }

    #[test]
    fn numbers_stay_exact_or_are_refused() {
        for exact in ["18446744073709551615", "-9223372036854775808", "9007199254740993", "0.5", "-1e15"] {
            let read = claims(&format!(r#"{{"id": [{{"n": {exact}}}]}}"#));
            assert_eq!(claims_fault(&read), None, "{exact}");
        }
        for changed in
            ["18446744073709551616", "-9223372036854775809", "1e16", "9007199254740993.0", "-1e300"]
        {
            let read = claims(&format!(r#"{{"id": [{{"n": {changed}}}]}}"#));
            assert!(claims_fault(&read).unwrap().contains("write it as text"), "{changed}");
        }
        assert_eq!(claims_fault(&claims(r#"{"id": "18446744073709551616"}"#)), None);
    }

    #[test]
    fn scopes_and_claims_have_bounds_each_and_together() {
        let many = |count: usize, length: usize| vec!["s".repeat(length); count];
        for good in [many(0, 0), many(100, 19), many(8, 255), many(1, 256)] {
            assert_eq!(
                scopes_fault(&good),
                None,
                "{} of {}",
                good.len(),
                good.first().map_or(0, String::len)
            );
        }
        for bad in
            [many(1, 0), many(101, 1), many(1, 257), many(8, 256), many(100, 20), vec!["a b".to_owned()]]
        {
            assert!(scopes_fault(&bad).is_some(), "{} of {}", bad.len(), bad[0].len());
        }
        let of = |bytes: usize| Map::from_iter([("a".to_owned(), Value::String("x".repeat(bytes)))]);
        assert_eq!(claims_fault(&of(MAX_CLAIMS - 8)), None);
        assert!(claims_fault(&of(MAX_CLAIMS - 7)).is_some());
    }
}
