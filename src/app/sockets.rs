//! The sockets that are listened on.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// Connections that the kernel holds for us until they are accepted; it takes less where `net.core.somaxconn` is
/// less. The usual 128 are full after a moment in which all clients reconnect.
const BACKLOG: u32 = 4096;

/// Listens on `address`; `key` is what the configuration calls it.
///
/// # Errors
/// Why it cannot, as one printable text.
pub(super) fn listen(address: SocketAddr, key: &str) -> Result<TcpListener, String> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restart must not wait for connections of the process before it.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|error: std::io::Error| {
        format!("{key}: cannot listen on {address}: {error}; is another program, or another Palisade, there?")
    })
}

/// The address with its real port, where the configuration said 0.
pub(super) fn local(listener: &TcpListener) -> Result<SocketAddr, String> {
    listener.local_addr().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::future::join_all;
    use tokio::net::TcpStream;

    use super::*;

    /// More than the standard library's 128, and within the descriptors of any machine.
    const AT_ONCE: usize = 600;

    #[tokio::test]
    async fn many_may_connect_before_any_is_accepted() {
        let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok();
        let most = most.and_then(|text| text.trim().parse().ok()).unwrap_or(128);
        let listener = listen("127.0.0.1:0".parse().unwrap(), "test").unwrap();
        let address = local(&listener).unwrap();
        let connecting = join_all((0..AT_ONCE.min(most)).map(|_| TcpStream::connect(address)));
        let connected = tokio::time::timeout(Duration::from_secs(20), connecting).await;
        assert!(connected.expect("the queue is full").iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn a_taken_address_names_its_key() {
        let taken = listen("127.0.0.1:0".parse().unwrap(), "test").unwrap();
        let why = listen(local(&taken).unwrap(), "server.admin").unwrap_err();
        assert!(why.starts_with("server.admin: cannot listen on 127.0.0.1:"), "{why}");
    }
}
