//! An address on which nothing listens, and on which nothing begins to listen by chance.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use tokio::net::TcpSocket;

/// The sockets that hold the ports of [`nowhere`], until the process ends.
static HELD: Mutex<Vec<TcpSocket>> = Mutex::new(Vec::new());

/// An address on loopback that refuses connections.
///
/// A socket is bound to it and never listens. A port that is only given back would be the next
/// listener's of another test, or the own port of a connection to it. A listener that a test binds
/// to this very address is let in (`SO_REUSEADDR`).
///
/// # Panics
///
/// When the machine has no free port.
#[must_use]
pub fn nowhere() -> SocketAddr {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("SO_REUSEADDR");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let address = socket.local_addr().expect("the address of a bound socket");
    HELD.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
    address
}
