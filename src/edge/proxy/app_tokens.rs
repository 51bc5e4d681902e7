//! The tokens for the servers of apps (`headers.access_token`): each is made once and sent until little of its life is
//! left.
//!
//! What a token says and who gets one is decided in [`app_token`]. Here they are signed and kept. A kept token is found by
//! all that it depends on: what the caller's credential says, the terms of the route, and the credential's end where that
//! ends the token. So a raised token version, other scopes, and a route with another audience after a reload lead to
//! another token.
//!
//! A caller is held against the revocation set before a token is looked for. Its session, token version and generation are
//! among the claims by which a token is found, so no request reaches the entry of a caller that is revoked by one of
//! them; the entry ends with its time to live, 5 minutes at most. The revocation of one credential by its `jti` leaves
//! the entry to the other credentials of its session.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use moka::sync::Cache;
use zeroize::Zeroizing;

use super::fields::FieldName;
use crate::config::AccessTokenField;
use palisade_core::domain::app_token::{self, AppTokenTerms, CallerDigest, Span};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{SignError, Signer, Verified};

/// The bytes of a token that count as one entry.
const ORDINARY: usize = 1024;

/// Where a route sends a token, and which.
#[derive(Debug, Clone)]
pub struct AppTokenField {
    /// The field; what a client sends in it never reaches the app.
    pub name: FieldName,
    terms: AppTokenTerms,
    digest: [u8; 32],
    /// Whether the scheme `Bearer` stands before the token: in `Authorization` (RFC 6750 §2.1).
    has_scheme: bool,
}

impl AppTokenField {
    /// What `configured` says for the route `route`.
    ///
    /// # Errors
    /// A name that no header can have; configuration refuses those before.
    pub fn new(configured: &AccessTokenField, route: &str) -> Result<AppTokenField, String> {
        let AccessTokenField { field, audience } = configured;
        let terms = AppTokenTerms { audience: audience.clone(), client: route.to_owned() };
        Ok(AppTokenField {
            name: FieldName::parse(field).map_err(|error| format!("{field:?}: {error}"))?,
            digest: terms.digest(),
            terms,
            has_scheme: configured.is_authorization(),
        })
    }
}

/// All that a token depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    caller: CallerDigest,
    terms: [u8; 32],
    has_scheme: bool,
    bound: Option<u64>,
}

#[derive(Clone)]
struct Entry {
    /// Sensitive: its `Debug` shows nothing of it.
    value: HeaderValue,
    made: UnixTime,
    until: UnixTime,
}

/// Makes the tokens, and keeps them for a while.
pub struct AppTokens {
    signer: Arc<dyn Signer>,
    life: Duration,
    entries: Cache<Key, Entry>,
}

impl AppTokens {
    /// Tokens of at most `access_ttl`, the life of an account's other tokens. Keeps at most `max` of an ordinary length,
    /// fewer when they are longer; 0 keeps none.
    #[must_use]
    pub fn new(signer: Arc<dyn Signer>, access_ttl: Duration, max: u64) -> AppTokens {
        let life = app_token::LONGEST.min(access_ttl);
        let weight =
            |_: &Key, entry: &Entry| (entry.value.len() / ORDINARY).max(1).try_into().unwrap_or(u32::MAX);
        let entries = Cache::builder().max_capacity(max).time_to_live(life).weigher(weight).build();
        AppTokens { signer, life, entries }
    }

    /// What `field` holds for a caller who was admitted at `now`; `None`: such a caller gets no token. Signs only where no
    /// fresh token is kept.
    ///
    /// # Errors
    /// [`SignError`] when there is no usable key.
    pub fn value(
        &self,
        field: &AppTokenField,
        caller: &Verified,
        now: UnixTime,
    ) -> Result<Option<HeaderValue>, SignError> {
        let Some(digest) = caller.for_apps(self.signer.issuer()) else { return Ok(None) };
        let Some(Span { until, bound }) = Span::at(now, caller.identity.expires_at, self.life) else {
            return Ok(None);
        };
        let key = Key {
            caller: digest,
            terms: field.digest,
            has_scheme: field.has_scheme,
            bound: bound.map(|bound| bound.0),
        };
        if let Some(entry) = self.entries.get(&key)
            && app_token::is_fresh(entry.made, entry.until, bound, now)
        {
            return Ok(Some(entry.value));
        }
        let value = self.sign(field, caller, now, until)?;
        self.entries.insert(key, Entry { value: value.clone(), made: now, until });
        Ok(Some(value))
    }

    fn sign(
        &self,
        field: &AppTokenField,
        caller: &Verified,
        now: UnixTime,
        until: UnixTime,
    ) -> Result<HeaderValue, SignError> {
        let token = Zeroizing::new(self.signer.app_token(&caller.identity, &field.terms, now, until)?);
        let text = Zeroizing::new(match field.has_scheme {
            true => format!("Bearer {}", &*token),
            false => token.to_string(),
        });
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| SignError("the token cannot stand in a header field".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use palisade_core::domain::identity::Identity;
    use palisade_core::ports::{AccessGrant, Signed};
    use serde_json::{Map, Value, json};

    use super::*;

    const ISSUER: &str = "https://a.test";

    /// Numbers its tokens.
    #[derive(Default)]
    struct Counting(AtomicU64);

    impl Signer for Counting {
        fn issuer(&self) -> &str {
            ISSUER
        }

        fn access_token(&self, _: &AccessGrant, _: Duration, _: UnixTime) -> Result<Signed, SignError> {
            unreachable!()
        }

        fn identity(&self, _: &AccessGrant, _: Duration, _: UnixTime) -> Result<Identity, SignError> {
            unreachable!()
        }

        fn assertion(&self, _: &Identity, _: &str, _: UnixTime) -> Result<String, SignError> {
            unreachable!()
        }

        fn app_token(
            &self,
            identity: &Identity,
            terms: &AppTokenTerms,
            _: UnixTime,
            until: UnixTime,
        ) -> Result<String, SignError> {
            let number = self.0.fetch_add(1, Ordering::Relaxed);
            Ok(format!("{number}.{}.{}.{until}", identity.subject, terms.audience))
        }
    }

    fn caller(ends: u64, change: &[(&str, Value)]) -> Verified {
        let Value::Object(mut claims) = json!({
            "iss": ISSUER, "sub": "u1", "sid": "00000000-0000-0000-0000-000000000002", "ver": 3,
        }) else {
            unreachable!()
        };
        claims.extend(change.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let text = |claims: &Map<String, Value>, name: &str| claims[name].as_str().unwrap().to_owned();
        Verified::new(Identity {
            issuer: text(&claims, "iss").into(),
            subject: text(&claims, "sub"),
            email: None,
            email_verified: false,
            session: Some(text(&claims, "sid")),
            token_id: None,
            version: claims["ver"].as_u64(),
            scopes: Vec::new(),
            issued_at: UnixTime(1000),
            expires_at: UnixTime(ends),
            claims,
        })
    }

    fn field(name: &str, audience: &str) -> AppTokenField {
        let configured = AccessTokenField { field: name.to_owned(), audience: audience.to_owned() };
        AppTokenField::new(&configured, "app").unwrap()
    }

    fn tokens(access_ttl: u64) -> AppTokens {
        AppTokens::new(Arc::new(Counting::default()), Duration::from_secs(access_ttl), 100)
    }

    impl AppTokens {
        fn sent(&self, field: &AppTokenField, caller: &Verified, now: u64) -> Option<String> {
            let value = self.value(field, caller, UnixTime(now)).unwrap();
            assert!(value.as_ref().is_none_or(|value| format!("{value:?}") == "Sensitive"));
            value.map(|value| value.to_str().unwrap().to_owned())
        }
    }

    #[test]
    fn a_token_is_made_once_and_again_near_its_end() {
        let (tokens, field) = (tokens(900), field("X-Token", "reports"));
        let at = |caller: &Verified, now| tokens.sent(&field, caller, now).unwrap();
        let first = caller(9000, &[]);
        assert_eq!(at(&first, 1000), "0.u1.reports.1300");
        // Another credential that says the same, such as one that a refresh gave.
        assert_eq!(
            at(&caller(9900, &[("iat", json!(1100)), ("jti", json!("x"))]), 1200),
            "0.u1.reports.1300"
        );
        assert_eq!(at(&first, 1240), "0.u1.reports.1300");
        assert_eq!(at(&first, 1241), "1.u1.reports.1541");
        // A clock that was set back is before what was made.
        assert_eq!(at(&first, 1100), "2.u1.reports.1400");
    }

    #[test]
    fn what_a_token_depends_on_leads_to_another() {
        let tokens = tokens(900);
        let first = tokens.sent(&field("X-Token", "reports"), &caller(9000, &[]), 1000).unwrap();
        assert_eq!(first, "0.u1.reports.1300");
        for (number, change) in
            [("ver", json!(4)), ("sid", json!("00000000-0000-0000-0000-000000000003")), ("scope", json!("a"))]
                .into_iter()
                .enumerate()
        {
            let next = tokens.sent(&field("X-Token", "reports"), &caller(9000, &[change]), 1000).unwrap();
            assert_eq!(next, format!("{}.u1.reports.1300", number + 1));
        }
        let other = tokens.sent(&field("X-Token", "mail"), &caller(9000, &[]), 1000).unwrap();
        assert_eq!(other, "4.u1.mail.1300");
        let bearer = tokens.sent(&field("authorization", "reports"), &caller(9000, &[]), 1000).unwrap();
        assert_eq!(bearer, "Bearer 5.u1.reports.1300");
        let again = tokens.sent(&field("X-Token", "reports"), &caller(9000, &[]), 1000).unwrap();
        assert_eq!(again, first);
    }

    #[test]
    fn no_token_outlives_the_credential_or_the_configured_life() {
        let field = field("X-Token", "reports");
        let short = tokens(60);
        assert_eq!(short.sent(&field, &caller(9000, &[]), 1000).unwrap(), "0.u1.reports.1060");
        let tokens = tokens(900);
        let (ending, going) = (caller(1200, &[]), caller(9000, &[]));
        assert_eq!(tokens.sent(&field, &going, 1000).unwrap(), "0.u1.reports.1300");
        // Two credentials of one session, of which one ends soon: neither takes the other's token, nor its place.
        for now in [1000, 1100, 1199] {
            assert_eq!(tokens.sent(&field, &ending, now).unwrap(), "1.u1.reports.1200", "{now}");
            assert_eq!(tokens.sent(&field, &going, now).unwrap(), "0.u1.reports.1300", "{now}");
        }
        for now in [1200, 1230] {
            assert_eq!(tokens.sent(&field, &ending, now), None, "admitted within the leeway");
        }
    }

    #[test]
    fn callers_without_a_session_of_ours_get_none() {
        let (tokens, field) = (tokens(900), field("X-Token", "reports"));
        for change in [("iss", json!("https://b.test")), ("palisade_host", json!("a.test"))] {
            assert_eq!(tokens.sent(&field, &caller(9000, &[change]), 1000), None);
        }
    }
}
