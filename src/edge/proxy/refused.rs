//! Requests that are refused before the engine or by the engine itself: what they are answered, and that
//! they are logged and counted like any other.
//!
//! Of such a request nothing is repeated in the log or in the answer: what could not be read may hold
//! anything.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use pingora::protocols::http::ServerSession;
use tokio::io::AsyncWriteExt;

use super::grpc;
use super::head::Head;
use super::outbound;
use super::socket::Socket;
use palisade_core::domain::answer::{Answer, answer};
use palisade_core::domain::problem::{Problem, title};
use palisade_core::domain::reply::{Field, Reply};
use palisade_core::domain::request::Malformed;
use palisade_core::domain::verdict::Refusal;
use palisade_core::ports::{Ended, Meter};

/// How long an answer that ends a connection may take to be written.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(2);

/// A new id for a request.
#[must_use]
pub fn request_id() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

/// What a refused request is answered.
#[derive(Debug)]
pub struct Refused {
    reply: Reply,
    request_id: String,
}

impl Refused {
    /// A refusal with an id of its own.
    #[must_use]
    pub fn new(reply: impl Into<Reply>) -> Refused {
        Refused { reply: reply.into(), request_id: request_id() }
    }

    /// Why a head was not taken; `None` where there is nothing to tell.
    #[must_use]
    pub fn head(head: &Head) -> Option<Refused> {
        let problem = match head {
            Head::TooSlow => {
                Problem::new(408, "header_timeout", "The header section did not arrive in time.")
            }
            Head::TooLarge => return Some(Refused::new(answer(&Refusal::HeaderTooLarge))),
            Head::Version => Problem::new(505, "http_version", "Speak HTTP/1.1 or HTTP/2."),
            Head::NoRoom => return Some(Refused::new(answer(&Refusal::Overloaded))),
            Head::Refused(malformed) => return Some(Refused::malformed(*malformed)),
            Head::Complete(_) | Head::Http2(_) | Head::Gone => return None,
        };
        Some(Refused::new(problem))
    }

    /// 400, with the fault.
    #[must_use]
    pub fn malformed(malformed: Malformed) -> Refused {
        Refused::new(answer(&Refusal::Malformed(malformed)))
    }

    /// 405: there is no tunnel through this gateway.
    #[must_use]
    pub fn connect() -> Refused {
        let problem = Problem::new(405, "method_not_allowed", "CONNECT is not served here.");
        // An origin server that takes no CONNECT at all has nothing to list (RFC 9110 §10.2.1).
        Refused::new(Answer { allow: Some(String::new()), ..problem.into() })
    }

    /// What takes the place of the engine's own answer, of which these are the first bytes.
    #[must_use]
    pub(super) fn in_place_of(bytes: &[u8]) -> Refused {
        match bytes.get(9..12) {
            Some(b"405") => Refused::connect(),
            _ => Refused::malformed(Malformed::Header),
        }
    }

    /// As HTTP/1.1, the last answer of its connection.
    #[must_use]
    pub fn raw(&self) -> Vec<u8> {
        let (status, body) = (self.reply.status(), self.reply.body());
        let mut text = format!("HTTP/1.1 {status} {}\r\n", title(status));
        for Field { name, value, .. } in self.reply.fields() {
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!(
            "content-length: {}\r\nx-request-id: {}\r\nconnection: close\r\n\r\n{body}",
            body.len(),
            self.request_id
        );
        text.into_bytes()
    }

    /// Tells the client and closes the connection, whether or not the client has heard it.
    pub async fn say(&self, socket: &mut Socket) {
        let written = async {
            socket.write_all(&self.raw()).await?;
            socket.shutdown().await
        };
        let _ = tokio::time::timeout(LAST_WORDS, written).await;
    }

    /// Tells it to a client that has just connected, as far as that goes without waiting, and closes.
    pub fn say_at_once(&self, stream: tokio::net::TcpStream) {
        if let Ok(mut stream) = stream.into_std() {
            // Nothing is in the way of the first bytes of a connection; if something is, closing says enough.
            let _ = std::io::Write::write(&mut stream, &self.raw());
        }
    }

    /// Answers one HTTP/2 stream. Nothing is waited for: a client whose flow control lets no body through
    /// would hold what is refused here.
    pub fn say_on_stream(&self, mut session: ServerSession) {
        let written = async {
            if grpc::is_call(session.req_header())
                && let ServerSession::H2(stream) = &mut session
            {
                let head = grpc::head(&self.reply, &self.request_id)?;
                return stream.write_response_header(Box::new(head), true);
            }
            let body = self.reply.body();
            let head = outbound::head(&self.reply, body.len(), &self.request_id)?;
            let without_body = session.req_header().method == http::Method::HEAD;
            session.write_response_header(Box::new(head)).await?;
            let body = if without_body { Bytes::new() } else { Bytes::from(body.into_owned()) };
            session.write_response_body(body, true).await
        };
        // What could not be written in one go resets the stream when the session is dropped.
        let _ = written.now_or_never();
    }

    /// Counts and logs it. `took` is how long the head was waited for.
    pub fn log(&self, meter: &dyn Meter, peer: SocketAddr, took: Duration) {
        self.log_as(self.reply.status(), meter, peer, took);
    }

    /// The same with another status: 0 when there was no way to tell the client.
    pub fn log_as(&self, status: u16, meter: &dyn Meter, peer: SocketAddr, took: Duration) {
        meter.ended(&Ended {
            route: None,
            status,
            took,
            decision: self.reply.code(),
            request_id: &self.request_id,
            method: "",
            host: "",
            path: "",
            bytes: 0,
            subject: None,
            client: peer.ip().to_canonical(),
            upstream: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_the_engine_is_replaced_by_ours() {
        for (theirs, status, code) in [
            ("HTTP/1.1 400 Bad Request\r\nServer: Pingora\r\n", "400", "header_malformed"),
            ("HTTP/1.1 405 Method Not Allowed\r\nServer: Pingora\r\n", "405", "method_not_allowed"),
            ("", "400", "header_malformed"),
        ] {
            let ours = String::from_utf8(Refused::in_place_of(theirs.as_bytes()).raw()).unwrap();
            assert!(ours.starts_with(&format!("HTTP/1.1 {status} ")), "{ours}");
            assert!(ours.contains(code) && !ours.to_lowercase().contains("server:"), "{ours}");
            assert!(ours.contains("connection: close\r\n"), "{ours}");
        }
    }

    #[test]
    fn a_shed_request_is_told_when_to_come_back() {
        let refused = Refused::head(&Head::NoRoom).unwrap();
        let text = String::from_utf8(refused.raw()).unwrap();
        assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("retry-after: 1\r\n"), "{text}");
        assert!(text.contains(&refused.request_id), "{text}");
    }
}
