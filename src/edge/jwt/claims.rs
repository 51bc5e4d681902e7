//! From claims to an [`Identity`]: every rule about what an access token must say (RFC 7519 §4.1,
//! RFC 9068 §2.2).
//!
//! A claim of the wrong type is an error, never "absent": what is skipped here is checked nowhere. An optional claim that
//! is null is absent, since many issuers write what they do not know so; `exp`, `iat` and `nbf` are not, because a token
//! whose times are unclear must not pass. Text that may end up in a header line must not hold control characters.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use palisade_core::domain::identity::Identity;
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::verdict::TokenFault;

/// What is expected of the claims.
#[derive(Debug, Clone, Copy)]
pub struct Expect<'a> {
    pub issuer: &'a Arc<str>,
    /// Accepted audiences; `None`: any, as long as the claim is well-formed.
    pub audiences: Option<&'a [String]>,
    /// Signed by us: `type` must be there.
    pub ours: bool,
    /// The operator vouches for addresses of which the issuer does not say whether they are verified.
    pub email_trusted: bool,
    pub leeway: Duration,
}

/// Holds `claims` against `expect` at `now`.
///
/// # Errors
/// The first rule they break.
pub fn identity(
    claims: Map<String, Value>,
    expect: Expect<'_>,
    now: UnixTime,
) -> Result<Identity, TokenFault> {
    if claims.get("iss").and_then(Value::as_str) != Some(expect.issuer) {
        return Err(TokenFault::Issuer);
    }
    match claims.get("type") {
        Some(Value::String(kind)) if expect.ours && kind == "access" => {}
        _ if expect.ours => return Err(TokenFault::Use),
        // No registered claim: with others it says what they like (`"app"`, `"user"`), but for what it takes in plain words.
        Some(Value::String(kind)) if is_no_access_token(kind) => return Err(TokenFault::Use),
        _ => {}
    }
    // RFC 7800 §3.1: good only together with a proof that nothing here asks for (DPoP, RFC 9449 §6; a client
    // certificate, RFC 8705 §3). Taken without it, the token would be as good in a thief's hands.
    if present(&claims, "cnf").is_some() {
        return Err(TokenFault::Bound);
    }
    check_audience(claims.get("aud"), expect.audiences)?;
    let subject = match claims.get("sub") {
        Some(Value::String(sub)) if !sub.is_empty() && is_whole(sub) => sub.clone(),
        _ => return Err(TokenFault::Subject),
    };
    let expires_at = time(&claims, "exp")?.ok_or(TokenFault::NoExpiry)?;
    if now >= expires_at.plus(expect.leeway) {
        return Err(TokenFault::Expired);
    }
    let issued_at = time(&claims, "iat")?;
    let not_before = time(&claims, "nbf")?;
    let soon = now.plus(expect.leeway);
    if issued_at.into_iter().chain(not_before).any(|from| from > soon) {
        return Err(TokenFault::NotYet);
    }
    let email = text(&claims, "email")?.map(whole).transpose()?;
    Ok(Identity {
        issuer: Arc::clone(expect.issuer),
        subject,
        email_verified: match present(&claims, "email_verified") {
            // An issuer that says no is believed, whatever the operator thinks of its addresses.
            None => expect.email_trusted && email.is_some(),
            Some(Value::Bool(verified)) => *verified,
            // Some issuers send the words; nothing else counts as a yes or a no.
            Some(Value::String(word)) if word == "true" || word == "false" => word == "true",
            Some(_) => return Err(TokenFault::Claim),
        },
        email,
        session: text(&claims, "sid")?.map(whole).transpose()?,
        token_id: text(&claims, "jti")?,
        version: match present(&claims, "ver") {
            None => None,
            Some(Value::Number(number)) => Some(number.as_u64().ok_or(TokenFault::Claim)?),
            // Others use this unregistered name for the format of the token (`"2.0"`): not a version of ours.
            Some(Value::String(_)) if !expect.ours => None,
            Some(_) => return Err(TokenFault::Claim),
        },
        scopes: scopes(&claims)?,
        issued_at: issued_at.unwrap_or_default(),
        expires_at,
        claims,
    })
}

/// RFC 7519 §4.1.3: one string or an array of strings, one of which is ours.
pub(super) fn check_audience(aud: Option<&Value>, accepted: Option<&[String]>) -> Result<(), TokenFault> {
    let fits = |name: &str| accepted.is_none_or(|accepted| accepted.iter().any(|a| a == name));
    let good = match aud {
        Some(Value::String(name)) => fits(name),
        Some(Value::Array(names)) => {
            names.iter().all(Value::is_string) && names.iter().filter_map(Value::as_str).any(fits)
        }
        None | Some(Value::Null) => accepted.is_none(),
        Some(_) => false,
    };
    if good { Ok(()) } else { Err(TokenFault::Audience) }
}

/// An optional claim, if it is there and not null.
fn present<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).filter(|value| !value.is_null())
}

/// Whether another issuer's `type` says that its token is for something else: libraries sign refresh tokens and what they
/// mail with the key and for the audience of their access tokens, and tell them apart by this claim alone
/// (flask-jwt-extended: `"refresh"`).
fn is_no_access_token(kind: &str) -> bool {
    const OTHERS: [&str; 8] = [
        "refresh",
        "refreshtoken",
        "idtoken",
        "passwordreset",
        "resetpassword",
        "emailverification",
        "verifyemail",
        "magiclink",
    ];
    let letters: String =
        kind.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect();
    OTHERS.contains(&letters.as_str())
}

/// A time claim. RFC 7519 §2 allows a fraction; no issuer of access tokens needs one, and
/// parsers disagree about what it means, so only whole non-negative seconds are read.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<UnixTime>, TokenFault> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_u64().map(|seconds| Some(UnixTime(seconds))).ok_or(TokenFault::Claim),
    }
}

fn text(claims: &Map<String, Value>, name: &str) -> Result<Option<String>, TokenFault> {
    match present(claims, name) {
        None => Ok(None),
        Some(Value::String(text)) if is_plain(text) => Ok(Some(text.clone())),
        Some(_) => Err(TokenFault::Claim),
    }
}

/// `scope` (RFC 8693 §4.2), or `scp` as others write it; `scope` where a token has both. Either is a text or an array.
fn scopes(claims: &Map<String, Value>) -> Result<Vec<String>, TokenFault> {
    // Both are read, so that neither is skipped unseen.
    let scp = listed_scopes(claims, "scp")?;
    Ok(listed_scopes(claims, "scope")?.or(scp).unwrap_or_default())
}

fn listed_scopes(claims: &Map<String, Value>, name: &str) -> Result<Option<Vec<String>>, TokenFault> {
    let split = |text: &str| text.split(' ').filter(|s| !s.is_empty()).map(str::to_owned).collect();
    match present(claims, name) {
        None => Ok(None),
        Some(Value::String(scopes)) if is_plain(scopes) => Ok(Some(split(scopes))),
        Some(Value::Array(scopes)) => {
            let one = |scope: &Value| match scope {
                // A space inside would read as two scopes once they are joined for the upstream.
                Value::String(s) if is_plain(s) && !s.contains(' ') => Ok(s.clone()),
                _ => Err(TokenFault::Claim),
            };
            let scopes: Vec<String> = scopes.iter().map(one).collect::<Result<_, _>>()?;
            Ok(Some(scopes.into_iter().filter(|scope| !scope.is_empty()).collect()))
        }
        Some(_) => Err(TokenFault::Claim),
    }
}

/// Text that is the same once a header line has carried it: white space at its ends would be lost there
/// (RFC 9110 §5.5), and `"alice "` would arrive as `"alice"`.
fn is_whole(text: &str) -> bool {
    is_plain(text) && text.trim() == text
}

fn whole(text: String) -> Result<String, TokenFault> {
    if is_whole(&text) { Ok(text) } else { Err(TokenFault::Claim) }
}

fn is_plain(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: UnixTime = UnixTime(1_000_000);

    fn judge(change: &[(&str, Option<Value>)], ours: bool) -> Result<Identity, TokenFault> {
        let mut claims = json!({"iss": "https://i.test", "aud": ["x", "api"], "sub": "u1", "exp": 1_000_600})
            .as_object()
            .unwrap()
            .clone();
        if ours {
            claims.insert("type".into(), json!("access"));
        }
        for (name, value) in change {
            match value {
                Some(value) => claims.insert((*name).into(), value.clone()),
                None => claims.remove(*name),
            };
        }
        let issuer = Arc::from("https://i.test");
        let audiences = ["api".to_owned()];
        let leeway = Duration::from_secs(60);
        let expect =
            Expect { issuer: &issuer, audiences: Some(&audiences), ours, email_trusted: false, leeway };
        identity(claims, expect, NOW)
    }

    #[test]
    fn every_claim_of_the_wrong_kind_is_refused() {
        use TokenFault::{Audience, Claim, Expired, Issuer, NoExpiry, NotYet, Subject};
        for value in [json!(7), json!({"a": 1}), json!(true), json!([7])] {
            for (name, want) in [
                ("iss", Issuer),
                ("sub", Subject),
                ("aud", Audience),
                ("email", Claim),
                ("sid", Claim),
                ("jti", Claim),
                ("scope", Claim),
            ] {
                let got = judge(&[(name, Some(value.clone()))], false);
                assert_eq!(got.err(), Some(want), "{name} {value}");
            }
        }
        for (name, want) in [("iss", Issuer), ("sub", Subject), ("aud", Audience)] {
            for value in [json!(null), json!([])] {
                let got = judge(&[(name, Some(value.clone()))], false);
                assert_eq!(got.err(), Some(want), "{name} {value}");
            }
        }
        for name in ["email", "sid", "jti"] {
            assert_eq!(judge(&[(name, Some(json!([])))], false).err(), Some(Claim), "{name}");
        }
        for name in ["exp", "nbf", "iat"] {
            for value in
                [json!("1000600"), json!(1_000_600.5), json!(-1), json!(null), json!([1]), json!(1e300)]
            {
                assert_eq!(judge(&[(name, Some(value.clone()))], false).err(), Some(Claim), "{name} {value}");
            }
        }
        for (name, value, want) in [
            ("iss", Some(json!(["https://i.test"])), Issuer),
            ("iss", Some(json!("https://i.test/")), Issuer),
            ("iss", None, Issuer),
            ("sub", Some(json!("")), Subject),
            ("sub", Some(json!("a\r\nX-Auth-Subject: b")), Subject),
            ("sub", Some(json!(["u1"])), Subject),
            ("sub", Some(json!("u1 ")), Subject),
            ("sub", Some(json!(" u1")), Subject),
            ("sub", Some(json!("\u{a0}u1")), Subject),
            ("email", Some(json!("a@b.test ")), Claim),
            ("sid", Some(json!(" s1")), Claim),
            ("sub", None, Subject),
            ("aud", Some(json!("API")), Audience),
            ("aud", Some(json!(["api", 1])), Audience),
            ("aud", Some(json!({"api": "api"})), Audience),
            ("aud", None, Audience),
            ("exp", None, NoExpiry),
            ("exp", Some(json!(999_940)), Expired),
            ("nbf", Some(json!(1_000_061)), NotYet),
            ("iat", Some(json!(1_000_061)), NotYet),
            ("email", Some(json!("a@b\n")), Claim),
            ("email_verified", Some(json!("yes")), Claim),
            ("email_verified", Some(json!(1)), Claim),
            ("ver", Some(json!(-1)), Claim),
            ("ver", Some(json!(1.5)), Claim),
            ("ver", Some(json!([1])), Claim),
            ("scp", Some(json!([1])), Claim),
            ("scp", Some(json!(["a b"])), Claim),
            ("scp", Some(json!(5)), Claim),
            ("scp", Some(json!([null])), Claim),
            ("scp", Some(json!(["a\u{0}"])), Claim),
            ("scope", Some(json!([1])), Claim),
            ("scope", Some(json!([null])), Claim),
            ("scope", Some(json!([["a"]])), Claim),
            ("scope", Some(json!(["a b"])), Claim),
            ("scope", Some(json!(["a", "b\n"])), Claim),
        ] {
            assert_eq!(judge(&[(name, value.clone())], false).err(), Some(want), "{name} {value:?}");
        }
        for bound in [json!({"jkt": "x"}), json!({"x5t#S256": "x"}), json!({}), json!(false), json!("x")] {
            for ours in [true, false] {
                let got = judge(&[("cnf", Some(bound.clone()))], ours);
                assert_eq!(got.err(), Some(TokenFault::Bound), "{bound}");
            }
        }
        assert_eq!(judge(&[("ver", Some(json!("1")))], true).err(), Some(Claim));
    }

    #[test]
    fn type_is_ours_to_read_in_tokens_of_ours_alone() {
        let kind = |value: Option<Value>, ours| judge(&[("type", value)], ours).err();
        for value in [
            json!("app"),
            json!("user"),
            json!("access_token"),
            json!("Access"),
            json!("access "),
            json!(["access"]),
            json!(7),
            json!({"access": true}),
            json!(null),
            json!(""),
            json!("refresh"),
            json!("assertion"),
            json!("password-reset"),
        ] {
            assert_eq!(kind(Some(value.clone()), true), Some(TokenFault::Use), "{value}");
            let says_otherwise = value == "refresh" || value == "password-reset";
            assert_eq!(
                kind(Some(value.clone()), false),
                says_otherwise.then_some(TokenFault::Use),
                "{value}"
            );
        }
        for word in ["refresh", "Refresh", "refresh_token", "id_token", "email-verification", "magic-link"] {
            assert_eq!(kind(Some(json!(word)), false), Some(TokenFault::Use), "{word}");
        }
        assert_eq!(kind(None, true), Some(TokenFault::Use));
        assert_eq!(kind(None, false), None);
        assert_eq!(kind(Some(json!("access")), true), None);
    }

    #[test]
    fn null_is_absence_for_what_a_token_may_leave_out_and_an_error_for_its_times() {
        const OPTIONAL: [&str; 10] =
            ["email", "email_verified", "sid", "jti", "ver", "scope", "scp", "cnf", "type", "role"];
        let nulls: Vec<(&str, Option<Value>)> = OPTIONAL.map(|name| (name, Some(json!(null)))).to_vec();
        let absent: Vec<(&str, Option<Value>)> = OPTIONAL.map(|name| (name, None)).to_vec();
        let (with, without) = (judge(&nulls, false).unwrap(), judge(&absent, false).unwrap());
        assert_eq!(Identity { claims: Map::new(), ..with }, Identity { claims: Map::new(), ..without });
        for name in OPTIONAL {
            assert_eq!(judge(&[(name, Some(json!(null)))], false).err(), None, "{name}");
        }
        for name in ["exp", "iat", "nbf"] {
            for ours in [true, false] {
                let got = judge(&[(name, Some(json!(null)))], ours).err();
                assert_eq!(got, Some(TokenFault::Claim), "{name}");
            }
        }
    }

    #[test]
    fn scopes_are_a_text_or_a_list_under_either_name() {
        for (scope, scp, want) in [
            (json!("a  b"), json!(null), &["a", "b"][..]),
            (json!(["a", "b"]), json!(null), &["a", "b"]),
            (json!(null), json!("a b"), &["a", "b"]),
            (json!(null), json!(["a", "", "b"]), &["a", "b"]),
            (json!(["a"]), json!("b"), &["a"]),
            (json!("a"), json!(["b"]), &["a"]),
            (json!([]), json!(["b"]), &[]),
            (json!(""), json!(["b"]), &[]),
            (json!(null), json!(null), &[]),
        ] {
            let said = judge(&[("scope", Some(scope.clone())), ("scp", Some(scp.clone()))], false).unwrap();
            assert_eq!(said.scopes, want, "{scope} {scp}");
        }
        // The one that is not read must be well-formed, too.
        assert!(judge(&[("scope", Some(json!("a"))), ("scp", Some(json!(7)))], false).is_err());
    }

    #[test]
    fn a_good_token_says_who() {
        let who = judge(
            &[
                ("exp", Some(json!(999_941))),
                ("nbf", Some(json!(1_000_060))),
                ("iat", Some(json!(999_000))),
                ("email", Some(json!("a@b.test"))),
                ("email_verified", Some(json!(true))),
                ("sid", Some(json!("s1"))),
                ("jti", Some(json!("j1"))),
                ("ver", Some(json!(3))),
                ("scope", Some(json!("read  write"))),
            ],
            true,
        )
        .unwrap();
        assert_eq!((who.subject.as_str(), who.session.as_deref(), who.version), ("u1", Some("s1"), Some(3)));
        assert_eq!(who.scopes, ["read", "write"]);
        assert_eq!(who.issued_at, UnixTime(999_000));
        assert!(who.email_verified);
        assert_eq!(judge(&[("scp", Some(json!(["a", "b"])))], false).unwrap().scopes, ["a", "b"]);
        assert_eq!(judge(&[("ver", Some(json!("2.0")))], false).unwrap().version, None);
        assert_eq!(judge(&[("aud", Some(json!("api")))], false).unwrap().issued_at, UnixTime(0));
    }

    #[test]
    fn an_address_is_verified_when_its_issuer_says_so_or_its_operator_trusts_it() {
        let judge = |email: Option<&str>, verified: Option<Value>, email_trusted| {
            let mut claims = json!({"iss": "i", "sub": "u1", "exp": 1_000_600}).as_object().unwrap().clone();
            claims.extend(email.map(|email| ("email".to_owned(), json!(email))));
            claims.extend(verified.map(|verified| ("email_verified".to_owned(), verified)));
            let expect = Expect {
                issuer: &Arc::from("i"),
                audiences: None,
                ours: false,
                email_trusted,
                leeway: Duration::ZERO,
            };
            let who = identity(claims, expect, NOW).unwrap();
            (who.email_verified, who.verified_email().map(str::to_owned))
        };
        let a = || Some("a@b.test".to_owned());
        for (verified, trusted, want) in [
            (Some(json!(true)), false, (true, a())),
            (Some(json!("true")), false, (true, a())),
            (Some(json!(false)), false, (false, None)),
            (None, false, (false, None)),
            (Some(json!(true)), true, (true, a())),
            (Some(json!(false)), true, (false, None)),
            (Some(json!("false")), true, (false, None)),
            (None, true, (true, a())),
        ] {
            assert_eq!(judge(Some("a@b.test"), verified.clone(), trusted), want, "{verified:?} {trusted}");
        }
        assert_eq!(judge(None, None, true), (false, None), "no address, nothing to trust");
    }
}
