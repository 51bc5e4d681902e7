//! Accepts as many connections as the process can hold, and at a graceful shutdown also those that wait already.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::listener::Listener;
use super::refused::Refused;
use palisade_core::domain::answer::answer;
use palisade_core::domain::verdict::Refusal;

/// How long to wait after the system could not hand over a connection: the machine needs a moment.
const BREATH: Duration = Duration::from_millis(20);
/// How often the log says that connections are being shed.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// After the last call, the listener is closed once no connection has come for this long …
const QUIET: Duration = Duration::from_millis(50);
/// … and in any case after this.
const LAST_CALL: Duration = Duration::from_secs(1);

impl Listener {
    /// Accepts connections until the gateway closes, and then those that were made before.
    pub async fn run(self: Arc<Self>, tcp: TcpListener) {
        let mut closing = self.closing.clone();
        let mut said = Said::default();
        loop {
            let accepted = tokio::select! {
                accepted = tcp.accept() => accepted,
                _ = closing.wait_for(|closing| *closing) => break,
            };
            self.take(accepted, &mut said).await;
        }
        // Closing a listener resets every connection that waits in its queue, and its client has been told
        // that it is connected. So no further one may get there first.
        turn_away(&tcp);
        let end = Instant::now() + LAST_CALL;
        while let Ok(accepted) = tokio::time::timeout(QUIET, tcp.accept()).await {
            self.take(accepted, &mut said).await;
            if Instant::now() > end {
                break;
            }
        }
    }

    async fn take(self: &Arc<Self>, accepted: std::io::Result<(TcpStream, SocketAddr)>, said: &mut Said) {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the client left already.
                self.meter.connection_refused("accept");
                if said.may_say() {
                    tracing::warn!(%error, "connections cannot be accepted");
                }
                return tokio::time::sleep(BREATH).await;
            }
        };
        let Some(place) = self.capacity.client() else {
            if said.may_say() {
                let open = self.capacity.taken().clients;
                tracing::warn!(open, "client connections are shed: there is no room for more");
            }
            return self.shed(stream, peer);
        };
        let listener = Arc::clone(self);
        self.connections.spawn(async move {
            // Latency matters more than a saved packet; a socket that cannot is still served.
            let _ = stream.set_nodelay(true);
            listener.serve(stream, peer).await;
            drop(place);
        });
    }

    fn shed(&self, stream: TcpStream, peer: SocketAddr) {
        self.meter.connection_refused("limit");
        let refused = Refused::new(answer(&Refusal::Overloaded));
        if self.tls.is_some() {
            // There is no way to tell it before a handshake, which is what cannot be afforded.
            return refused.log_as(0, &*self.meter, peer, Duration::ZERO);
        }
        refused.log(&*self.meter, peer, Duration::ZERO);
        refused.say_at_once(stream);
    }
}

/// When something was said last.
#[derive(Default)]
struct Said(Option<Instant>);

impl Said {
    fn may_say(&mut self) -> bool {
        let now = Instant::now();
        let may = self.0.is_none_or(|last| now.duration_since(last) >= SAY_EVERY);
        if may {
            self.0 = Some(now);
        }
        may
    }
}

/// Lets no new connection begin, while those in the middle of their handshake come through: drops segments
/// with SYN. A client tries again after a second, and then finds the listener of a successor, or none.
#[cfg(target_os = "linux")]
fn turn_away(tcp: &TcpListener) {
    use socket2::{SockFilter, SockRef};
    // Classic BPF over the TCP header: the flags are in its byte 13, and SYN is 2.
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    let filter = [
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(JUMP_IF_SET, 0, 1, 2),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    if let Err(error) = SockRef::from(tcp).attach_filter(&filter) {
        tracing::debug!(%error, "new connections cannot be turned away before the listener closes");
    }
}

/// Elsewhere there is no such filter: what comes between the last look and the close is reset.
#[cfg(not(target_os = "linux"))]
fn turn_away(_tcp: &TcpListener) {}
