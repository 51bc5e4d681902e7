//! One request and its answer, seen from outside: who is at the other end, and the switch that ends it.
//!
//! Every exchange runs under its switch (`listener`), so an open WebSocket or event stream can be cut
//! the moment its token is revoked, however silent it is. [`Streams`] knows which exchanges are open
//! for longer than one answer, and whose they are.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use http::HeaderValue;
use tokio::sync::Notify;

use super::refused::Refused;
use crate::ports::{Revocations, Verified};

tokio::task_local! {
    /// The exchange that the current task serves; set by the listener around the engine.
    pub static CURRENT: Arc<Exchange>;
}

/// What the listener knows of an exchange.
#[derive(Debug)]
pub struct Exchange {
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
    cut: Notify,
    switched: AtomicBool,
    malformed: AtomicBool,
    broken_off: AtomicBool,
    begun: AtomicBool,
    replaced: OnceLock<Refused>,
}

impl Exchange {
    /// An exchange with `peer`.
    #[must_use]
    pub fn new(peer: SocketAddr, tls: bool) -> Arc<Exchange> {
        Arc::new(Exchange {
            peer,
            tls,
            cut: Notify::new(),
            switched: AtomicBool::new(false),
            malformed: AtomicBool::new(false),
            broken_off: AtomicBool::new(false),
            begun: AtomicBool::new(false),
            replaced: OnceLock::new(),
        })
    }

    /// Says that the connection is a WebSocket from here on: what the client sends is no further request.
    pub fn switch(&self) {
        self.switched.store(true, Ordering::Relaxed);
    }

    /// Whether the connection has become a WebSocket.
    #[must_use]
    pub fn is_switched(&self) -> bool {
        self.switched.load(Ordering::Relaxed)
    }

    /// Says that the request's body has no single reading.
    pub fn mark_malformed(&self) {
        self.malformed.store(true, Ordering::Relaxed);
    }

    /// Whether the request's body turned out to have no single reading.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        self.malformed.load(Ordering::Relaxed)
    }

    /// Says that an answer broke off which the client would take for whole when the connection is closed.
    pub fn break_off(&self) {
        self.broken_off.store(true, Ordering::Relaxed);
    }

    /// Whether the connection is to end with a reset.
    #[must_use]
    pub fn is_broken_off(&self) -> bool {
        self.broken_off.load(Ordering::Relaxed)
    }

    /// The engine has handed the request to our hooks.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Whether our hooks have the request. What is answered before is the engine's own word.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// What takes the place of an answer of the engine's own, made once.
    pub fn replace(&self, make: impl FnOnce() -> Refused) -> &Refused {
        self.replaced.get_or_init(make)
    }

    /// What was answered in the engine's place.
    #[must_use]
    pub fn replaced(&self) -> Option<&Refused> {
        self.replaced.get()
    }

    /// Ends the exchange wherever it stands.
    pub fn cut(&self) {
        self.cut.notify_one();
    }

    /// Resolves once the exchange is cut.
    pub async fn is_cut(&self) {
        self.cut.notified().await;
    }
}

/// A stream, and whose it is.
#[derive(Debug)]
struct Open {
    caller: Arc<Verified>,
    exchange: Arc<Exchange>,
}

/// The open streams and their callers.
#[derive(Debug, Default)]
pub struct Streams {
    open: Mutex<HashMap<u64, Open>>,
    next: AtomicU64,
}

impl Streams {
    /// Watches an exchange until the guard is dropped.
    #[must_use]
    pub fn watch(self: &Arc<Self>, caller: Arc<Verified>, exchange: Arc<Exchange>) -> Watched {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Open { caller, exchange });
        Watched { id, streams: Arc::clone(self) }
    }

    /// Cuts every stream whose token is revoked by now; returns how many. Called after each change of
    /// the revocation set.
    pub fn cut_revoked(&self, revocations: &dyn Revocations) -> usize {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let revoked = open.values().filter(|stream| revocations.is_revoked(&stream.caller.identity));
        revoked.map(|stream| stream.exchange.cut()).count()
    }

    /// How many streams are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether no stream is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Keeps an exchange among the open [`Streams`].
#[derive(Debug)]
pub struct Watched {
    id: u64,
    streams: Arc<Streams>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.streams.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// Whether a field with a media type names event streams: such an exchange is open for longer than one answer.
pub fn is_event_stream(value: Option<&HeaderValue>) -> bool {
    let text = value.and_then(|value| value.to_str().ok());
    text.is_some_and(|text| text.to_ascii_lowercase().contains("text/event-stream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_streams_are_known_in_any_case() {
        for (text, want) in [
            ("Text/Event-Stream; charset=utf-8", true),
            ("*/*, text/event-stream", true),
            ("text/plain", false),
        ] {
            assert_eq!(is_event_stream(Some(&HeaderValue::from_static(text))), want, "{text}");
        }
    }
}
