//! A connection that is read one line at a time.
//!
//! The library reads ahead, and keeps what it has read when STARTTLS turns the connection into an
//! encrypted one: a man in the middle could inject answers there in cleartext which would then pass for
//! the server's (STARTTLS response injection). Read by lines, nothing is left over when the server says to begin, and what was put
//! behind that line meets the handshake, which fails.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A TCP connection; no read goes beyond the end of a line.
#[derive(Debug)]
pub(super) struct Lines {
    tcp: TcpStream,
    /// What was read and not handed out yet, from `at` on.
    ahead: Vec<u8>,
    at: usize,
}

impl Lines {
    pub(super) fn new(tcp: TcpStream) -> Lines {
        Lines { tcp, ahead: Vec::new(), at: 0 }
    }
}

impl AsyncTokioStream for Lines {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.peer_addr()
    }
}

impl AsyncRead for Lines {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.at == self.ahead.len() {
            let mut space = [0; 4096];
            let mut read = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut read))?;
            self.ahead.clear();
            self.ahead.extend_from_slice(read.filled());
            self.at = 0;
        }
        let rest = &self.ahead[self.at..];
        let line = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
        let taken = line.min(out.remaining());
        out.put_slice(&rest[..taken]);
        self.at += taken;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lines {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
