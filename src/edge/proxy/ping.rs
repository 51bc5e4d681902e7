//! `server.ping_path`: readiness on the data port, for load balancers that reach no other.
//!
//! It is asked before anything else of a request is looked at, so it depends on no route, no host and no credential; and
//! every client of the data port may ask, so its answer says the status and no reason.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;

use super::outbound;
use palisade_core::ports::Control;

/// The word for a ping among the decisions.
pub(super) const CODE: &str = "ping";

/// The endpoint.
pub struct Ping {
    /// The path, in normal form.
    pub path: String,
    pub control: Arc<dyn Control>,
}

impl Ping {
    /// Whether a request is a ping. The whole target is compared as it was sent: with a query, or in another spelling of
    /// the path, it is a request like any other, and so is every method but GET and HEAD.
    #[must_use]
    pub fn is_asked(&self, request: &RequestHeader) -> bool {
        request.raw_path() == self.path.as_bytes() && matches!(request.method, Method::GET | Method::HEAD)
    }

    /// Answers 200 when requests can be served, 503 otherwise: also from the moment of a stop, while they are still taken
    /// (`server.shutdown_delay`). Returns the status.
    ///
    /// # Errors
    /// The client's connection failed.
    pub async fn answer(&self, session: &mut Session) -> Result<u16> {
        let (status, body) = match self.control.not_ready_because().is_empty() {
            true => (StatusCode::OK, r#"{"status":"ready"}"#),
            false => (StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"not ready"}"#),
        };
        let mut head = ResponseHeader::build(status, Some(4))?;
        head.insert_header(header::CONTENT_TYPE, "application/json")?;
        head.insert_header(header::CONTENT_LENGTH, body.len())?;
        head.insert_header(header::CACHE_CONTROL, "no-store")?;
        head.insert_header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")?;
        let is_head = session.req_header().method == Method::HEAD;
        outbound::write(session, head, (!is_head).then(|| Bytes::from_static(body.as_bytes()))).await?;
        Ok(status.as_u16())
    }
}
