//! Writing an answer that ends the exchange. What it says is the domain's ([`crate::domain::answer`]).

use std::time::Duration;

use bytes::Bytes;
use http::header;
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use crate::domain::answer::Answer;
use crate::domain::problem::Problem;

/// How much of an unwanted body is read after the answer, so that the client sees it before the
/// connection closes.
const LINGER_BYTES: usize = 256 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(1);

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
pub async fn linger(session: &mut Session) {
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
