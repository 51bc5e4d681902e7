//! Maps a refusal to an HTTP answer. This is the only place that decides what a caller is told, whichever part
//! refuses.

use std::time::Duration;

use super::problem::Problem;
use super::verdict::Refusal;

/// When to come back after a lease that is over. A replica asks for the next one several times a second.
const STALE_RETRY: Duration = Duration::from_secs(2);

/// A refusal as the caller sees it: the document, and a challenge or an `Allow` beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub problem: Problem,
    /// The value of `WWW-Authenticate` (RFC 6750 §3).
    pub challenge: Option<String>,
    /// The value of `Allow`.
    pub allow: Option<String>,
    /// For a 503: when to come back, where that is known.
    pub retry_after: Option<Duration>,
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Answer {
        Answer { problem, challenge: None, allow: None, retry_after: None }
    }
}

/// What the caller is told: that a token is bad, not why. The reason goes to the log only.
#[must_use]
pub fn answer(refusal: &Refusal) -> Answer {
    let problem = |status, detail: &str| Problem::new(status, refusal.code(), detail);
    let (problem, challenge) = match refusal {
        Refusal::Malformed(malformed) => (problem(400, &malformed.to_string()), None),
        Refusal::HeaderTooLarge => {
            (problem(431, "The header section is larger than this server takes."), None)
        }
        Refusal::Loop => (
            problem(
                508,
                "The upstream of this path leads back to this gateway; its configuration must change.",
            ),
            None,
        ),
        Refusal::NoRoute => (problem(404, "Nothing is served under this host and path."), None),
        Refusal::Network => (problem(403, "This path is not open to the network that you come from."), None),
        Refusal::Method { allow } => {
            let problem = problem(405, "This path does not take this method.");
            return Answer { allow: Some(allow.join(", ")), ..problem.into() };
        }
        Refusal::Destination(fault) => (problem(fault.status(), &fault.to_string()), None),
        // RFC 6750 §3.1: `invalid_request` is a 400.
        Refusal::Credentials => (
            problem(400, "Send exactly one credential, in one place."),
            Some(bearer("invalid_request", "more than one credential, or one that cannot be read", None)),
        ),
        // Without a token there is no error to name (RFC 6750 §3.1).
        Refusal::NoToken => {
            (problem(401, "Send an access token: Authorization: Bearer …"), Some(realm().to_owned()))
        }
        Refusal::Token(_) | Refusal::Revoked => (
            Problem::new(
                401,
                "invalid_token",
                "The access token is expired, revoked, malformed or not for here.",
            ),
            Some(bearer(
                "invalid_token",
                "the access token is expired, revoked, malformed or not for here",
                None,
            )),
        ),
        Refusal::IssuerUnavailable { retry_after } => {
            let detail =
                "The access token cannot be looked up at its issuer at the moment; try again shortly.";
            return Answer { retry_after: Some(*retry_after), ..problem(503, detail).into() };
        }
        Refusal::SessionOver => {
            (problem(401, "The session is over; sign in again."), Some(realm().to_owned()))
        }
        Refusal::SessionUnknown => {
            (problem(503, "The session cannot be looked up at the moment; try again shortly."), None)
        }
        Refusal::Scope { needed } => (
            problem(403, "The access token lacks a scope that this path needs."),
            Some(bearer("insufficient_scope", "a scope is missing", Some(&needed.join(" ")))),
        ),
        Refusal::EmailUnverified => (problem(403, "This path needs a verified e-mail address."), None),
        Refusal::Claim => (problem(403, "The access token's claims do not allow this."), None),
        Refusal::Identity(fault) => (problem(403, &fault.to_string()), None),
        Refusal::CrossSite => {
            (problem(403, "A cookie or a network counts only for requests from this site's own pages."), None)
        }
        Refusal::NotReady => (problem(503, "The gateway is starting; try again shortly."), None),
        Refusal::Stale => {
            let detail =
                "It cannot be known at the moment whether the credential was revoked; try again shortly.";
            return Answer { retry_after: Some(STALE_RETRY), ..problem(503, detail).into() };
        }
        Refusal::Overloaded => (problem(503, "The gateway is at its limit; try again shortly."), None),
        // No 401 and no challenge: the access token is good, and a client must not take it for one that ended.
        Refusal::NotConnected { provider, begin_at } => {
            let cure = format!("This path needs a connection to {provider:?}; begin one: POST {begin_at}");
            (problem(403, &cure).about(provider), None)
        }
        Refusal::ReconnectNeeded { provider, begin_at } => {
            let cure = format!(
                "{provider:?} does not honour the connection any more; connect again: POST {begin_at}"
            );
            (problem(403, &cure).about(provider), None)
        }
        Refusal::ProviderUnavailable { provider, retry_after } => {
            let problem = problem(503, "There is no token of the provider at the moment; try again shortly.");
            return Answer { retry_after: *retry_after, ..problem.about(provider).into() };
        }
        Refusal::ProviderFailed { provider } => {
            let cure = "There is no token of the provider, and an operator must act first; the log says why.";
            (problem(502, cure).about(provider), None)
        }
    };
    Answer { challenge, ..problem.into() }
}

/// The challenge without an error.
#[must_use]
pub const fn realm() -> &'static str {
    "Bearer realm=\"palisade\""
}

/// The challenge beside ours on a route that leaves requests to its app (`without_session`), for programs: git, its LFS and
/// clients of WebDAV send the password that they have only after one of this scheme (RFC 7617 §2).
pub const FOR_THE_APP: &str = "Basic realm=\"palisade\", charset=\"UTF-8\"";

fn bearer(error: &str, description: &str, scope: Option<&str>) -> String {
    let scope = scope.map(|scope| format!(", scope=\"{scope}\"")).unwrap_or_default();
    format!("{}, error=\"{error}\", error_description=\"{description}\"{scope}", realm())
}

#[cfg(test)]
mod tests {
    use super::super::verdict::TokenFault;
    use super::*;

    #[test]
    fn challenges_follow_rfc_6750() {
        let challenge = |refusal: Refusal| answer(&refusal).challenge;
        assert_eq!(challenge(Refusal::NoToken).as_deref(), Some("Bearer realm=\"palisade\""));
        let bad = challenge(Refusal::Token(TokenFault::Expired)).unwrap();
        assert!(bad.contains("error=\"invalid_token\""));
        assert_eq!(Some(bad), challenge(Refusal::Revoked));
        let scope = challenge(Refusal::Scope { needed: vec!["read".into(), "write".into()] }).unwrap();
        assert!(scope.contains("error=\"insufficient_scope\"") && scope.ends_with("scope=\"read write\""));
        assert_eq!(challenge(Refusal::NoRoute), None);
    }

    #[test]
    fn a_missing_connection_says_where_to_begin_one() {
        let (provider, begin_at) = ("bank".to_owned(), "/auth/connections".to_owned());
        let missing = answer(&Refusal::NotConnected { provider, begin_at });
        assert_eq!((missing.problem.status, missing.problem.code), (403, "connection_required"));
        assert!(missing.problem.detail.ends_with("POST /auth/connections"), "{missing:?}");
        assert!(missing.problem.to_json().contains("\"provider\":\"bank\""), "{missing:?}");
        assert_eq!(missing.challenge, None);
        let wait = Some(Duration::from_secs(9));
        let later = answer(&Refusal::ProviderUnavailable { provider: "bank".into(), retry_after: wait });
        assert_eq!((later.problem.status, later.retry_after), (503, wait));
    }

    #[test]
    fn a_stranger_does_not_learn_why_a_token_is_bad() {
        let expired = answer(&Refusal::Token(TokenFault::Expired));
        assert_eq!(expired, answer(&Refusal::Token(TokenFault::Signature)));
        assert_eq!(expired, answer(&Refusal::Revoked));
    }
}
