//! From a refusal to an answer: the one place that says what a caller is told.

use std::time::Duration;

use bytes::Bytes;
use http::header;
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use crate::domain::problem::Problem;
use crate::domain::verdict::Refusal;

/// How much of an unwanted body is read after the answer, so that the client sees it before the
/// connection closes.
const LINGER_BYTES: usize = 256 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(1);

/// A refusal as the caller sees it: the document, and a challenge or an `Allow` beside it.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub problem: Problem,
    pub challenge: Option<String>,
    pub allow: Option<String>,
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Answer {
        Answer { problem, challenge: None, allow: None }
    }
}

/// What the caller is told. Why a token is bad stays inside; that it is bad is all a stranger learns.
#[must_use]
pub fn answer(refusal: &Refusal) -> Answer {
    let problem = |status, detail: &str| Problem::new(status, refusal.code(), detail);
    let (problem, challenge) = match refusal {
        Refusal::Malformed(malformed) => (problem(400, &malformed.to_string()), None),
        Refusal::NoRoute => (problem(404, "Nothing is served under this host and path."), None),
        Refusal::Method { allow } => {
            let problem = problem(405, "This path does not take this method.");
            return Answer { problem, challenge: None, allow: Some(allow.join(", ")) };
        }
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
        Refusal::Scope { needed } => (
            problem(403, "The access token lacks a scope that this path needs."),
            Some(bearer("insufficient_scope", "a scope is missing", Some(&needed.join(" ")))),
        ),
        Refusal::EmailUnverified => (problem(403, "This path needs a verified e-mail address."), None),
        Refusal::Claim => (problem(403, "The access token's claims do not allow this."), None),
        Refusal::CrossSite => {
            (problem(403, "A cookie counts only for requests from this site's own pages."), None)
        }
        Refusal::NotReady => (problem(503, "The gateway is starting; try again shortly."), None),
    };
    Answer { problem, challenge, allow: None }
}

const fn realm() -> &'static str {
    "Bearer realm=\"palisade\""
}

fn bearer(error: &str, description: &str, scope: Option<&str>) -> String {
    let scope = scope.map(|scope| format!(", scope=\"{scope}\"")).unwrap_or_default();
    format!("{}, error=\"{error}\", error_description=\"{description}\"{scope}", realm())
}

/// Writes `answer` and ends the exchange. A request body that nobody will read is read away within
/// bounds; a connection with more of it left is closed, never reused.
///
/// # Errors
/// The client's connection failed.
pub async fn send(session: &mut Session, answer: &Answer, request_id: &str) -> Result<()> {
    let Answer { problem, challenge, allow } = answer;
    let body = problem.to_json();
    let mut response = ResponseHeader::build(problem.status, Some(6))?;
    response.insert_header(header::CONTENT_TYPE, "application/problem+json")?;
    response.insert_header(header::CONTENT_LENGTH, body.len())?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    if !request_id.is_empty() {
        response.insert_header("x-request-id", request_id)?;
    }
    if let Some(challenge) = challenge {
        response.insert_header(header::WWW_AUTHENTICATE, challenge)?;
    }
    if let Some(allow) = allow {
        response.insert_header(header::ALLOW, allow)?;
    }
    if problem.status == 503 {
        response.insert_header(header::RETRY_AFTER, "1")?;
    }
    let head_only = session.req_header().method == http::Method::HEAD;
    let unread = !session.is_body_done();
    if unread {
        session.set_keepalive(None);
    }
    session.write_response_header(Box::new(response), head_only).await?;
    if !head_only {
        session.write_response_body(Some(Bytes::from(body)), true).await?;
    }
    if unread {
        linger(session).await;
    }
    Ok(())
}

/// Reads on for a bounded while after an early answer.
async fn linger(session: &mut Session) {
    let mut left = LINGER_BYTES;
    let read = async {
        while let Ok(Some(chunk)) = session.read_request_body().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    };
    // Either way the connection is closed after this.
    let _ = tokio::time::timeout(LINGER_TIME, read).await;
}

/// The bytes of an answer to a request that never became one: always the last on its connection.
#[must_use]
pub fn raw(problem: &Problem) -> Vec<u8> {
    let body = problem.to_json();
    format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nconnection: close\r\n\r\n{body}",
        problem.status,
        problem.title,
        body.len()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::verdict::TokenFault;

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
    fn a_stranger_does_not_learn_why_a_token_is_bad() {
        let expired = answer(&Refusal::Token(TokenFault::Expired));
        assert_eq!(expired, answer(&Refusal::Token(TokenFault::Signature)));
        assert_eq!(expired, answer(&Refusal::Revoked));
    }
}
