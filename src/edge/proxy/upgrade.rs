//! Answers that would switch protocols, of which only one to a request for a WebSocket may.

use http::StatusCode;
use http::header::UPGRADE;
use pingora::http::ResponseHeader;
use pingora::{Error, ErrorType, Result};

/// Refuses a `101` to a request that asked for no WebSocket, or one to another protocol (RFC 9110 §15.2.2):
/// what follows it is no HTTP, so no further request on that connection could be admitted.
///
/// # Errors
/// The upstream's answer is one of these.
pub fn refuse_unasked(response: &ResponseHeader, websocket: bool) -> Result<()> {
    if response.status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(());
    }
    let to = response.headers.get(UPGRADE).map_or(&b""[..], |value| value.as_bytes());
    if websocket && to.eq_ignore_ascii_case(b"websocket") {
        return Ok(());
    }
    Err(Error::explain(ErrorType::new("UnaskedUpgrade"), "a 101 to what was not asked").into_up())
}
