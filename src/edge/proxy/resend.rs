//! Whether a request that failed on the way to its upstream is sent once more.
//!
//! One that is not idempotent is sent again only when the upstream did not act on it: no byte of it went out, or HTTP/2 says so.

use h2::Reason;
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType};

use super::dial::Delivery;
use super::inbound;
use super::stage::Admitted;

/// Decides it, and says so in `error`. `reused`: whether the engine took the connection from its own pool.
pub fn decide(session: &Session, admitted: &mut Admitted, error: &mut Error, reused: bool) {
    let delivery = admitted.attempts.current.as_ref().and_then(|attempt| attempt.delivery.as_deref());
    let reused = delivery.map_or(reused, Delivery::is_reused);
    // Whether the request was acted on is not known, so only what may be repeated is repeated, and only with its whole
    // body at hand.
    let has_body = !session.as_ref().retry_buffer_truncated();
    let may_repeat = has_body && inbound::is_idempotent(&session.req_header().method);
    error.retry.decide_reuse(reused && may_repeat);
    let was_closing = match delivery {
        Some(delivery) => delivery.is_unsent() && reused,
        None => has_gone_away(error),
    };
    let is_untouched = *error.esource() == ErrorSource::Upstream
        && admitted.sent.status == 0
        && has_body
        && delivery.map_or_else(|| was_not_processed(error), Delivery::is_unsent);
    if is_untouched {
        // The upstream has not acted on it, so it goes to another connection whatever its method.
        let moves_on = was_closing && admitted.attempts.moves_on();
        error.set_retry(moves_on || admitted.may_retry());
    } else if !may_repeat || !admitted.may_retry() {
        // Whatever the engine thinks of it: connections that turn out closed do not add to `retries`.
        error.set_retry(false);
    }
}

fn told(error: &Error) -> Option<&h2::Error> {
    error.root_cause().downcast_ref::<h2::Error>()
}

/// Whether the upstream said over HTTP/2 that it will not act on the request: its stream lies behind the last one of a GOAWAY
/// (RFC 9113 §6.8), or was refused (RFC 9113 §8.7), or the upstream wants HTTP/1.1 for it (RFC 9113 §7). Of a stream that a
/// GOAWAY leaves open the `h2` crate does not tell this error.
fn was_not_processed(error: &Error) -> bool {
    // An upstream that is asked over HTTP/2 alone is not asked over HTTP/1.1: the engine has decided that.
    let is_downgraded = *error.etype() == ErrorType::H2Downgrade && error.retry();
    let is_refused = told(error).is_some_and(|told| {
        told.is_reset() && told.is_remote() && told.reason() == Some(Reason::REFUSED_STREAM)
    });
    has_gone_away(error) || is_refused || is_downgraded
}

/// Whether that is because its connection is closing.
fn has_gone_away(error: &Error) -> bool {
    told(error).is_some_and(|told| told.is_go_away() && told.is_remote())
}
