//! A client's TCP connection as the engine wants it: one write buffer that exists only while there is
//! something in it, bytes that can be put back, and an end behind each HTTP/1.1 request.
//!
//! The engine sees one request at a time: what a client sends ahead of its turn stays here, and a body that
//! has more than one reading is an error at the byte where it has.
//!
//! The engine's own stream keeps 64 kB of read buffer for as long as the connection lives; here an
//! idle connection owns none.
//!
//! What the engine answers before it has asked our hooks anything (a target that it cannot read, CONNECT)
//! is replaced here by an answer of ours: it would be in another form, and in no log.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::exchange::OpenExchange;
use super::framing::Body;
use super::head::Section;
use super::refused::Refused;

/// The most that is read ahead of a request's turn.
const AHEAD: usize = 512;
/// Writes up to this many bytes are gathered into one system call.
const WRITE_BUFFER: usize = 16 * 1024;

/// What the bytes travel over.
#[derive(Debug)]
pub enum Wire {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    fn tcp(&self) -> &TcpStream {
        match self {
            Wire::Clear(tcp) => tcp,
            Wire::Tls(tls) => tls.get_ref().0,
        }
    }
}

/// Calls the same method on whichever stream the wire is.
macro_rules! on_wire {
    ($wire:expr, $method:ident $(, $argument:expr)*) => {
        match $wire {
            Wire::Clear(tcp) => Pin::new(tcp).$method($($argument),*),
            Wire::Tls(tls) => Pin::new(tls.as_mut()).$method($($argument),*),
        }
    };
}

/// A client's connection.
#[derive(Debug)]
pub struct Socket {
    wire: Wire,
    unread: BytesMut,
    unsent: Vec<u8>,
    sent: usize,
    established: SystemTime,
    /// The request under way; between requests and on HTTP/2 there is none, and everything may be read.
    request: Option<Request>,
}

/// How much of a request the engine has still to read.
#[derive(Debug)]
struct Request {
    head: usize,
    body: Body,
    exchange: Arc<OpenExchange>,
}

impl Socket {
    /// Takes over an accepted connection.
    #[must_use]
    pub fn new(wire: Wire) -> Socket {
        Socket {
            wire,
            unread: BytesMut::new(),
            unsent: Vec::new(),
            sent: 0,
            established: SystemTime::now(),
            request: None,
        }
    }

    /// Lets the engine read one request: the section, which it has not seen yet, and the body behind it.
    pub fn begin(&mut self, section: Section, exchange: Arc<OpenExchange>) {
        self.unread = section.bytes;
        self.request = Some(Request { head: section.length, body: section.body, exchange });
    }

    /// Whether the engine is answering the request by itself. Then ours is in its place.
    fn is_replaced(&mut self, bytes: &[u8]) -> bool {
        let Some(Request { exchange, .. }) = &self.request else { return false };
        if exchange.has_begun() {
            return false;
        }
        if exchange.replaced().is_none() {
            self.unsent = exchange.replace(|| Refused::in_place_of(bytes)).raw();
        }
        true
    }

    /// Says that the request is done with: what comes next is another one.
    pub fn end(&mut self) {
        self.request = None;
    }

    /// Puts back bytes that were read: the next read yields them first.
    pub fn put_back(&mut self, bytes: BytesMut) {
        self.unread = bytes;
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.unsent.len() {
            let written = ready!(on_wire!(&mut self.wire, poll_write, cx, &self.unsent[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        self.sent = 0;
        self.unsent = Vec::new();
        Poll::Ready(Ok(()))
    }
}

impl Socket {
    fn poll_bytes(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            self.poll_wire(cx, buf)
        } else {
            Poll::Ready(self.reread(buf, usize::MAX))
        }
    }

    /// Yields bytes that were read before, at most so many.
    fn reread(&mut self, buf: &mut ReadBuf<'_>, most: usize) -> io::Result<()> {
        let taken = self.unread.len().min(buf.remaining()).min(most);
        buf.put_slice(&self.unread[..taken]);
        self.unread.advance(taken);
        if self.unread.is_empty() {
            // Even empty it would keep its memory, for as long as the connection is idle.
            self.unread = BytesMut::new();
        }
        Ok(())
    }

    fn poll_wire(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = on_wire!(&mut self.wire, poll_read, cx, buf);
        // The engine flushes a body of known length only at its end, and listens to the client while
        // it waits for more of one: what was written so far must not wait with it.
        if read.is_pending()
            && !self.unsent.is_empty()
            && let Poll::Ready(Err(error)) = Pin::new(self).poll_flush(cx)
        {
            return Poll::Ready(Err(error));
        }
        read
    }

    /// Behind a request only the client's leaving is told: what it sends is the next request, and waits.
    fn poll_behind(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            return Poll::Pending;
        }
        let mut space = [MaybeUninit::uninit(); AHEAD];
        let mut read = ReadBuf::uninit(&mut space);
        ready!(self.poll_wire(cx, &mut read))?;
        if read.filled().is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.unread = BytesMut::from(read.filled());
        Poll::Pending
    }

    fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        request: &mut Request,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if request.head > 0 {
            self.reread(buf, request.head)?;
            request.head -= buf.filled().len() - before;
            return Poll::Ready(Ok(()));
        }
        if request.exchange.is_switched() {
            return self.poll_bytes(cx, buf);
        }
        if request.exchange.is_malformed() {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        if request.body.is_over() {
            return self.poll_behind(cx);
        }
        ready!(self.poll_bytes(cx, buf))?;
        match request.body.take(&buf.filled()[before..]) {
            Ok(taken) => {
                let behind = &buf.filled()[before + taken..];
                if !behind.is_empty() {
                    let mut unread = BytesMut::from(behind);
                    unread.extend_from_slice(&self.unread);
                    self.unread = unread;
                    buf.set_filled(before + taken);
                }
                Poll::Ready(Ok(()))
            }
            Err(fault) => {
                buf.set_filled(before);
                request.exchange.mark_malformed();
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault)))
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.request.take() {
            None => self.poll_bytes(cx, buf),
            Some(mut request) => {
                let read = self.poll_request(cx, buf, &mut request);
                self.request = Some(request);
                read
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.request.as_ref().is_some_and(|request| request.exchange.is_broken_off()) {
            // Without a reset the client would take the part of the answer that it has for the whole.
            let _ = socket2::SockRef::from(self.wire.tcp()).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_replaced(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        if self.unsent.len() + bytes.len() > WRITE_BUFFER {
            ready!(self.poll_send(cx))?;
        }
        if bytes.len() >= WRITE_BUFFER {
            return on_wire!(&mut self.wire, poll_write, cx, bytes);
        }
        self.unsent.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.is_replaced(slices.first().map_or(&[], |slice| slice)) {
            return Poll::Ready(Ok(total));
        }
        if self.unsent.len() + total > WRITE_BUFFER {
            ready!(self.poll_send(cx))?;
        }
        if total >= WRITE_BUFFER {
            return on_wire!(&mut self.wire, poll_write_vectored, cx, slices);
        }
        for slice in slices {
            self.unsent.extend_from_slice(slice);
        }
        Poll::Ready(Ok(total))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        on_wire!(&mut self.wire, poll_flush, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        on_wire!(&mut self.wire, poll_shutdown, cx)
    }
}

#[async_trait]
impl Shutdown for Socket {
    async fn shutdown(&mut self) {
        // The peer may be gone already; then no reader is left to tell.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Socket {
    fn id(&self) -> i32 {
        self.wire.tcp().as_raw_fd()
    }
}

impl Ssl for Socket {}
impl Peek for Socket {}

impl GetTimingDigest for Socket {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(TimingDigest { established_ts: self.established, ..TimingDigest::default() })]
    }
}

impl GetProxyDigest for Socket {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Socket {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}
