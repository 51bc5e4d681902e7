//! Where the tokens of another issuer say what others say in `aud`, `sub`, `email` and `groups`.
//!
//! A token is brought into the usual form before anything is asked of it, so rules, headers and revocations all go by
//! one reading: what an issuer writes under the usual name is not looked at any more where the operator named another
//! claim.

use serde_json::{Map, Value};

use super::claim_path::ClaimPath;
use super::claims::GROUPS_CLAIM;
use super::email::EmailAddress;

/// The claims that an operator named in place of the usual ones. `None`: the usual one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClaimNames {
    /// In place of `aud` (RFC 7519 §4.1.3).
    pub audience: Option<ClaimPath>,
    /// In place of `sub` (RFC 7519 §4.1.2).
    pub subject: Option<ClaimPath>,
    /// In place of `email` (OpenID Connect Core §5.1). What it holds is an address only when it has the form of one.
    pub email: Option<ClaimPath>,
    /// In place of `groups`.
    pub groups: Option<ClaimPath>,
}

impl ClaimNames {
    /// Puts what the named claims hold under the usual names. What is not there is there under the usual name neither.
    pub fn take_over(&self, claims: &mut Map<String, Value>) {
        let ClaimNames { audience, subject, email, groups } = self;
        let found = |path: &Option<ClaimPath>| path.as_ref().map(|path| path.find(claims).cloned());
        let email = found(email).map(|value| value.and_then(address));
        // All are read before any is written: one may be the source of another.
        let values = [
            ("aud", found(audience)),
            ("sub", found(subject)),
            ("email", email),
            (GROUPS_CLAIM, found(groups)),
        ];
        for (name, value) in values {
            match value {
                None => {}
                Some(Some(value)) => drop(claims.insert(name.to_owned(), value)),
                Some(None) => drop(claims.remove(name)),
            }
        }
    }
}

/// What has the form of an address, or is a list of one such text: a user name need not be one, and of several it is not
/// known which is meant.
fn address(value: Value) -> Option<Value> {
    let text = match value {
        Value::String(text) => text,
        Value::Array(items) => match <[Value; 1]>::try_from(items) {
            Ok([Value::String(text)]) => text,
            _ => return None,
        },
        _ => return None,
    };
    text.parse::<EmailAddress>().is_ok().then_some(Value::String(text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn taken_over(names: &ClaimNames, claims: &Value) -> Value {
        let mut claims = claims.as_object().unwrap().clone();
        names.take_over(&mut claims);
        Value::Object(claims)
    }

    fn path(text: &str) -> Option<ClaimPath> {
        Some(ClaimPath::parse(text).unwrap())
    }

    #[test]
    fn what_an_operator_named_stands_under_the_usual_names_and_nothing_else_does() {
        let claims = json!({"aud": "a", "sub": "s", "email": "e@e.test", "groups": ["g"], "client_id": "c", "oid": "o",
                            "upn": "u@u.test", "realm": {"roles": ["r"]}});
        assert_eq!(taken_over(&ClaimNames::default(), &claims), claims);
        let names = ClaimNames {
            audience: path("client_id"),
            subject: path("oid"),
            email: path("upn"),
            groups: path("realm.roles"),
        };
        let usual = |claims: &Value| json!([claims["aud"], claims["sub"], claims["email"], claims["groups"]]);
        assert_eq!(usual(&taken_over(&names, &claims)), json!(["c", "o", "u@u.test", ["r"]]));
        // The usual names say nothing where another is named.
        let bare = json!({"aud": "a", "sub": "s", "email": "e@e.test", "groups": ["g"], "oid": null});
        assert_eq!(taken_over(&names, &bare), json!({"oid": null}));
        // One may be the source of another.
        let crossed = ClaimNames { subject: path("email"), email: path("sub"), ..ClaimNames::default() };
        let claims = json!({"sub": "s@s.test", "email": "e@e.test"});
        assert_eq!(taken_over(&crossed, &claims), json!({"sub": "e@e.test", "email": "s@s.test"}));
    }

    #[test]
    fn only_one_address_is_an_address() {
        let names = ClaimNames { email: path("upn"), ..ClaimNames::default() };
        for (value, want) in [
            (json!("a@b.test"), Some("a@b.test")),
            (json!(["a@b.test"]), Some("a@b.test")),
            (json!("+1 555 0100"), None),
            (json!("ann"), None),
            (json!("a@b.test\r\nx: y"), None),
            (json!(["a@b.test", "c@d.test"]), None),
            (json!([]), None),
            (json!(7), None),
        ] {
            let said = taken_over(&names, &json!({"email": "usual@b.test", "upn": value}));
            assert_eq!(said["email"].as_str(), want, "{value}");
        }
    }
}
