//! Connections to upstreams that are asked to become WebSockets, and no others that become one.
//!
//! The engine tells its upstream half through a channel that such a request has no body, and takes the
//! message for the end of the WebSocket when the upstream's 101 is read before it: about one in ten
//! that a quick upstream on the same machine accepts would be closed at once. Here the first read after a
//! write lets its task run once more, in which the channel is looked at, before it takes anything.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use http::header::UPGRADE;
use pingora::connectors::l4::Connect;
use pingora::http::ResponseHeader;
use pingora::protocols::ALPN;
use pingora::protocols::l4::ext::set_tcp_keepalive;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, OrErr, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Keeps these connections apart from those of the pool.
const GROUP: u64 = 1;

/// Makes `peer` one whose connection may become a WebSocket: HTTP/1.1, never from the pool, and silent
/// for as long as both ends live.
pub fn prepare(peer: &mut HttpPeer) {
    let within = peer.options.connection_timeout;
    peer.group_key = GROUP;
    peer.options.alpn = ALPN::H1;
    peer.options.idle_timeout = Some(Duration::ZERO);
    peer.options.read_timeout = None;
    peer.options.custom_l4 = Some(Arc::new(Connector { within }));
}

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

#[derive(Debug)]
struct Connector {
    within: Option<Duration>,
}

#[async_trait]
impl Connect for Connector {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let Some(address) = address.as_inet() else {
            return Error::e_explain(ErrorType::ConnectError, "no internet address");
        };
        let connecting = TcpStream::connect(*address);
        let connected = match self.within {
            None => connecting.await,
            Some(within) => match tokio::time::timeout(within, connecting).await {
                Ok(connected) => connected,
                Err(_) => return Error::e_explain(ErrorType::ConnectTimedout, address.to_string()),
            },
        };
        let tcp = connected.or_err_with(ErrorType::ConnectError, || address.to_string())?;
        Ok(VirtualSocketStream::new(Box::new(Patient { tcp, written: false })).into())
    }
}

/// A connection whose first read after a write waits for one more turn.
#[derive(Debug)]
struct Patient {
    tcp: TcpStream,
    written: bool,
}

impl VirtualSocket for Patient {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.tcp.set_nodelay(true),
            VirtualSockOpt::KeepAlive(keepalive) => {
                set_tcp_keepalive(&self.tcp, &keepalive).map_err(io::Error::other)
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.written) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written = true;
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_read_after_a_write_gives_way_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut other, _) = listener.accept().await.unwrap();
        let mut patient = Patient { tcp, written: false };
        patient.write_all(b"ask").await.unwrap();
        other.write_all(b"answer").await.unwrap();
        patient.tcp.readable().await.unwrap();
        let mut reads = 0;
        let mut answer = [0; 6];
        std::future::poll_fn(|cx| {
            reads += 1;
            Pin::new(&mut patient).poll_read(cx, &mut ReadBuf::new(&mut answer))
        })
        .await
        .unwrap();
        assert_eq!((reads, &answer), (2, b"answer"));
        other.write_all(b"more").await.unwrap();
        assert_eq!(patient.read(&mut answer).await.unwrap(), 4);
    }
}
