//! Access tokens for the servers of apps: a copy of what a caller's own credential says, with the route's audience and a
//! short life, so that an app can call other APIs as its user.
//!
//! Such a token never says more than the credential that came with the request. Its claims are that credential's, so it
//! has the same scopes and the same token version; it ends no later; and a credential that is good on one host alone
//! gives none, because an API elsewhere would not know of that bound.

use std::time::Duration;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::claims::{HOST_CLAIM, ROTATION_CLAIM};
use super::identity::Identity;
use super::session::SessionId;
use super::time::UnixTime;

/// The longest life of a token for an app. It lives no longer than `tokens.access_ttl` either.
pub const LONGEST: Duration = Duration::from_secs(5 * 60);

/// A token is made again when less than this part of its life is left.
const MARGIN: u32 = 5;

/// The claims that each token has of its own (RFC 9068 §2.2): those of the credential are replaced.
pub const REPLACED: [&str; 7] = ["aud", "client_id", "exp", "iat", "jti", "nbf", ROTATION_CLAIM];

/// Which APIs the tokens of a route are for, and which app presents them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppTokenTerms {
    /// `aud`: the APIs that take the token.
    pub audience: String,
    /// `client_id`: the route, whose app presents it.
    pub client: String,
}

impl AppTokenTerms {
    /// A name for these very terms, of a fixed length.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let length = u64::try_from(self.audience.len()).unwrap_or(u64::MAX);
        let mut hash = Sha256::new();
        hash.update(length.to_be_bytes());
        hash.update(&self.audience);
        hash.update(&self.client);
        hash.finalize().into()
    }
}

/// A name for what a token for an app says of its caller, of a fixed length: the session, the token version, the scopes
/// and every other claim but those in [`REPLACED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallerDigest([u8; 32]);

impl CallerDigest {
    /// The name for what `identity` says; `None` for a caller that gets no token. A token is for sessions of
    /// `our_issuer` only: one of ours in the name of an external issuer's subject would say what we do not know.
    #[must_use]
    pub fn of(identity: &Identity, our_issuer: &str) -> Option<CallerDigest> {
        let has_session =
            identity.session.as_deref().is_some_and(|session| session.parse::<SessionId>().is_ok());
        if &*identity.issuer != our_issuer || !has_session || identity.claims.contains_key(HOST_CLAIM) {
            return None;
        }
        let mut hash = Sha256::new();
        for (name, value) in kept(&identity.claims) {
            // Each text as JSON has an end of its own: no two different lists of claims are one text.
            hash.update(Value::from(name).to_string());
            hash.update(value.to_string());
        }
        Some(CallerDigest(hash.finalize().into()))
    }
}

/// The claims of a credential that a token for an app has, too.
fn kept(claims: &Map<String, Value>) -> impl Iterator<Item = (&str, &Value)> {
    claims.iter().map(|(name, value)| (name.as_str(), value)).filter(|(name, _)| !REPLACED.contains(name))
}

/// The claims of a token for an app, but for its id: those of `identity`, from `now` to `until`.
#[must_use]
pub fn claims(
    identity: &Identity,
    terms: &AppTokenTerms,
    now: UnixTime,
    until: UnixTime,
) -> Map<String, Value> {
    let mut claims: Map<String, Value> =
        kept(&identity.claims).map(|(name, value)| (name.to_owned(), value.clone())).collect();
    let mut set = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    set("aud", Value::from(terms.audience.as_str()));
    set("client_id", Value::from(terms.client.as_str()));
    set("iat", Value::from(now.0));
    set("nbf", Value::from(now.0));
    set("exp", Value::from(until.0));
    claims
}

/// How long a token for an app lives, and which callers can have the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// When it ends.
    pub until: UnixTime,
    /// The end of the caller's credential, where that is what ends the token: then only callers with the same end have
    /// the same token. `None`: every credential of these claims outlives it.
    pub bound: Option<UnixTime>,
}

impl Span {
    /// The span of a token made now for a caller whose credential ends at `credential_ends`; `life` is the configured
    /// one. `None`: the credential is over, and only the leeway for clocks admitted it.
    #[must_use]
    pub fn at(now: UnixTime, credential_ends: UnixTime, life: Duration) -> Option<Span> {
        if credential_ends <= now {
            return None;
        }
        let whole = now.plus(life);
        Some(match credential_ends < whole {
            true => Span { until: credential_ends, bound: Some(credential_ends) },
            false => Span { until: whole, bound: None },
        })
    }
}

/// Whether a token that was made at `made` for until `until` is still sent at `now`. One that its credential bounds
/// (`bound`) cannot be made again for longer, so it is sent to its end.
#[must_use]
pub fn is_fresh(made: UnixTime, until: UnixTime, bound: Option<UnixTime>, now: UnixTime) -> bool {
    // A clock that was set back has not reached the moment at which the token begins.
    if now < made || now >= until {
        return false;
    }
    let life = made.until(until);
    bound.is_some() || now.until(until) >= life / MARGIN
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ISSUER: &str = "https://a.test";
    const SESSION: &str = "00000000-0000-0000-0000-000000000002";

    fn identity(change: &[(&str, Value)]) -> Identity {
        let Value::Object(mut claims) = json!({
            "iss": ISSUER, "aud": "api", "sub": "u1", "sid": SESSION, "ver": 3, "gen": 1, "type": "access",
            "scope": "read write", "email": "ann@a.test", "email_verified": true, "role": "editor",
            "iat": 1000, "nbf": 1000, "exp": 2800, "jti": "t1",
        }) else {
            unreachable!()
        };
        for (name, value) in change {
            claims.insert((*name).to_owned(), value.clone());
        }
        let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
        Identity {
            issuer: text("iss").unwrap().into(),
            subject: text("sub").unwrap(),
            email: text("email"),
            email_verified: true,
            session: text("sid"),
            token_id: text("jti"),
            version: claims["ver"].as_u64(),
            scopes: vec!["read".into(), "write".into()],
            issued_at: UnixTime(1000),
            expires_at: UnixTime(claims["exp"].as_u64().unwrap()),
            claims,
        }
    }

    fn digest(change: &[(&str, Value)]) -> Option<CallerDigest> {
        CallerDigest::of(&identity(change), ISSUER)
    }

    #[test]
    fn sessions_of_ours_get_a_token_and_no_other_caller() {
        assert!(digest(&[]).is_some());
        let mut without = identity(&[]);
        without.session = None;
        assert_eq!(CallerDigest::of(&without, ISSUER), None, "an operator's token");
        for change in [
            ("sid", json!("another kind of session")),
            ("iss", json!("https://b.test")),
            ("iss", json!("https://a.test/")),
            ("palisade_host", json!("app.a.test")),
            // In a form that nothing of ours has.
            ("palisade_host", json!(["app.a.test"])),
            ("palisade_host", json!(null)),
        ] {
            assert_eq!(digest(std::slice::from_ref(&change)), None, "{change:?}");
        }
    }

    #[test]
    fn a_token_is_shared_by_credentials_that_say_the_same() {
        let same = [
            ("iat", json!(1001)),
            ("nbf", json!(1001)),
            ("exp", json!(2801)),
            ("jti", json!("t2")),
            ("aud", json!(["api", "more"])),
            ("client_id", json!("wiki")),
        ];
        for change in same {
            assert_eq!(digest(std::slice::from_ref(&change)), digest(&[]), "{change:?}");
        }
        let others = [
            ("ver", json!(4)),
            ("gen", json!(2)),
            ("sid", json!("00000000-0000-0000-0000-000000000003")),
            ("sub", json!("u2")),
            ("scope", json!("read")),
            ("email", json!("bob@a.test")),
            ("email_verified", json!(false)),
            ("role", json!("admin")),
            ("groups", json!(["a"])),
        ];
        let mut seen = vec![digest(&[])];
        for change in others {
            let one = digest(std::slice::from_ref(&change));
            assert!(one.is_some() && !seen.contains(&one), "{change:?}");
            seen.push(one);
        }
        // The ends of texts count.
        assert_ne!(digest(&[("a", json!("b\"c"))]), digest(&[("a", json!("b")), ("c", json!(""))]));
        assert_ne!(digest(&[("a", json!(["b"]))]), digest(&[("a", json!("[\"b\"]"))]));
    }

    #[test]
    fn a_token_says_what_the_credential_says_for_another_audience() {
        let terms = AppTokenTerms { audience: "reports".into(), client: "wiki".into() };
        let claims =
            claims(&identity(&[("client_id", json!("mail"))]), &terms, UnixTime(1500), UnixTime(1800));
        let want = json!({
            "iss": ISSUER, "aud": "reports", "client_id": "wiki", "sub": "u1", "sid": SESSION, "ver": 3, "gen": 1,
            "type": "access", "scope": "read write", "email": "ann@a.test", "email_verified": true,
            "role": "editor", "iat": 1500, "nbf": 1500, "exp": 1800,
        });
        assert_eq!(Value::Object(claims), want);
    }

    #[test]
    fn terms_differ_wherever_their_texts_end() {
        let digest = |audience: &str, client: &str| {
            AppTokenTerms { audience: audience.into(), client: client.into() }.digest()
        };
        assert_eq!(digest("ab", "c"), digest("ab", "c"));
        assert_ne!(digest("ab", "c"), digest("a", "bc"));
        assert_ne!(digest("ab", "c"), digest("ab", "d"));
    }

    #[test]
    fn no_token_outlives_its_credential() {
        let at = |now: u64, ends: u64| Span::at(UnixTime(now), UnixTime(ends), LONGEST);
        let span = |until: u64, bound: Option<u64>| {
            Some(Span { until: UnixTime(until), bound: bound.map(UnixTime) })
        };
        assert_eq!(at(1000, 9000), span(1300, None));
        assert_eq!(at(1000, 1300), span(1300, None));
        assert_eq!(at(1000, 1299), span(1299, Some(1299)));
        assert_eq!(at(1000, 1001), span(1001, Some(1001)));
        assert_eq!(at(1000, 1000), None);
        assert_eq!(at(1000, 999), None);
    }

    #[test]
    fn a_token_is_sent_until_a_fifth_of_its_life_is_left() {
        let fresh = |until: u64, bound: Option<u64>, now: u64| {
            is_fresh(UnixTime(1000), UnixTime(until), bound.map(UnixTime), UnixTime(now))
        };
        let moments = [999, 1000, 1240, 1241, 1299, 1300];
        assert_eq!(moments.map(|now| fresh(1300, None, now)), [false, true, true, false, false, false]);
        assert_eq!(moments.map(|now| fresh(1300, Some(1300), now)), [false, true, true, true, true, false]);
        assert!(fresh(1001, None, 1000));
    }
}
