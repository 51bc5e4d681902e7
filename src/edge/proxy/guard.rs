//! A connection to an upstream whose answers are checked as they pass: what has more than one reading ends
//! it, before the engine has seen the rest.
//!
//! The engine is told "closed" when it looks whether the connection may be used again; the answer then is
//! complete, and the connection goes back to its [`Dialer`](super::dial::Dialer) if nothing speaks against it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use pingora::protocols::l4::ext::set_tcp_keepalive;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answer_head::{self, MAX_FIELDS_OF_ENGINE};
use super::dial::{Delivery, Line};
use super::framing::{Body, Fault};
use super::head::section_end;
use super::patience::Timer;
use palisade_core::domain::upstream_address::UpstreamAddress;

/// The largest header section of an answer, in bytes.
const MAX_HEAD: usize = 1 << 20;

/// Where in the answer the next byte stands.
#[derive(Debug)]
enum At {
    /// In a header section, of which so much was read before. The engine reads it once it is whole.
    Head(Vec<u8>),
    Body(Body),
    /// Behind the answer.
    Over,
    /// In a WebSocket.
    Switched,
    Broken,
}

/// A guarded connection, for one request and its answer.
#[derive(Debug)]
pub struct Guarded {
    /// Present until it goes back to the dialer.
    line: Option<Line>,
    address: UpstreamAddress,
    delivery: Arc<Delivery>,
    at: At,
    /// Whether nothing further may be asked on this connection.
    last: bool,
    /// How long the upstream says that it keeps an idle connection open.
    idle: Option<Duration>,
    /// Whether the engine would use the connection again.
    released: bool,
    written: bool,
    /// What is checked, and the engine has still to read: behind a header section that came in pieces, or that has more fields
    /// than the engine reads.
    ready: BytesMut,
    timer: Timer,
}

impl Guarded {
    /// Guards the answer to one delivery.
    #[must_use]
    pub fn new(line: Line, address: UpstreamAddress, delivery: Arc<Delivery>) -> Guarded {
        Guarded {
            line: Some(line),
            address,
            at: At::Head(Vec::new()),
            last: delivery.asked.websocket,
            delivery,
            idle: None,
            released: false,
            written: false,
            ready: BytesMut::new(),
            timer: Timer::default(),
        }
    }

    fn line(&mut self) -> io::Result<Pin<&mut Line>> {
        self.line.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Writes until a first byte went out. A connection that was idle may have been closed since it was chosen: then nothing is
    /// written, so that the request can go over another one whatever its method. This costs no system call: what there is to
    /// be read is known since the connection was chosen, unless something has come.
    fn poll_first_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let is_reused = self.delivery.is_reused();
        let Some(line) = &mut self.line else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        if is_reused && !line.is_quiet() {
            self.last = true;
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let is_tls = line.is_tls();
        let written = Pin::new(line).poll_write(cx, bytes);
        // TLS may have sent a part of what it could not write whole.
        if is_tls || matches!(written, Poll::Ready(Ok(count)) if count > 0) {
            self.delivery.sent.store(true, Ordering::Relaxed);
        }
        written
    }

    /// Reads on through `bytes`; returns how many of them the engine may read as they are. What it may read of the others is in
    /// `ready`.
    fn follow(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let (mut read, mut as_they_are) = (0, 0);
        while read < bytes.len() {
            let here = &bytes[read..];
            match &mut self.at {
                At::Head(before) => {
                    // Most sections come in one read: those are not copied.
                    let scanned = before.len();
                    let end = if scanned == 0 {
                        section_end(here, 0)
                    } else {
                        before.extend_from_slice(here);
                        section_end(before, scanned)
                    };
                    let Some(end) = end else {
                        if scanned == 0 {
                            before.extend_from_slice(here);
                        }
                        return if before.len() > MAX_HEAD {
                            Err(Fault::HeaderSize)
                        } else {
                            Ok(as_they_are)
                        };
                    };
                    let section = if scanned == 0 { &here[..end] } else { &before[..end] };
                    let head = answer_head::read(section, self.delivery.asked.head)?;
                    self.last |= head.last;
                    self.idle = head.idle;
                    if head.fields > MAX_FIELDS_OF_ENGINE {
                        // What an interim answer has on top would be taken for the final one's.
                        let is_interim = matches!(head.status, 100..200);
                        let overflow = answer_head::split(section, &mut self.ready)?;
                        if is_interim || self.delivery.overflow.set(overflow).is_err() {
                            return Err(Fault::FieldCount);
                        }
                    } else if scanned > 0 || !self.ready.is_empty() {
                        self.ready.extend_from_slice(section);
                    } else {
                        as_they_are += end;
                    }
                    read += end - scanned;
                    self.at = match head.status {
                        101 if self.delivery.asked.websocket => At::Switched,
                        101 => return Err(Fault::Switch),
                        // The final answer is still to come (RFC 9110 §15.2).
                        100..200 => At::Head(Vec::new()),
                        _ if head.body.is_over() => At::Over,
                        _ => At::Body(head.body),
                    };
                }
                At::Body(body) => {
                    let taken = body.take(here)?;
                    read += taken;
                    if self.ready.is_empty() {
                        as_they_are += taken;
                    } else {
                        self.ready.extend_from_slice(&here[..taken]);
                    }
                    if body.is_over() {
                        self.at = At::Over;
                    }
                }
                At::Over => {
                    // More than was asked for: it must not answer another request.
                    self.last = true;
                    let upstream = &self.address;
                    tracing::warn!(%upstream, "an upstream sent more than its answer; the connection is closed");
                    return Ok(as_they_are);
                }
                At::Switched if self.ready.is_empty() => return Ok(bytes.len()),
                At::Switched => {
                    self.ready.extend_from_slice(here);
                    return Ok(as_they_are);
                }
                At::Broken => return Ok(0),
            }
        }
        Ok(as_they_are)
    }

    /// Lets the engine read what is ready.
    fn hand_over(&mut self, buf: &mut ReadBuf<'_>) {
        let taken = self.ready.len().min(buf.remaining());
        buf.put_slice(&self.ready.split_to(taken));
        if self.ready.is_empty() {
            self.ready = BytesMut::new();
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The engine tells its upstream half through a channel that a request for a WebSocket has no body, and
        // takes the message for the end of the WebSocket when the upstream's 101 is read before it: about one
        // in ten that a quick upstream accepts would be closed at once. The first read after a write lets its
        // task run once more, in which the channel is looked at, before it takes anything.
        if self.delivery.asked.websocket && std::mem::take(&mut self.written) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if !self.ready.is_empty() {
            self.hand_over(buf);
            return Poll::Ready(Ok(()));
        }
        match self.at {
            At::Over => {
                self.released = true;
                return Poll::Ready(Ok(()));
            }
            At::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            At::Head(_) | At::Body(_) | At::Switched => {}
        }
        let before = buf.filled().len();
        loop {
            match self.line()?.poll_read(cx, buf) {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    let this = &mut *self;
                    let Some(silence) = &this.delivery.silence else { return Poll::Pending };
                    ready!(this.timer.poll_too_long(cx, silence));
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            self.timer.stop();
            if buf.filled().len() == before {
                self.last = true;
                return Poll::Ready(Ok(()));
            }
            match self.follow(&buf.filled()[before..]) {
                Ok(read) => {
                    buf.set_filled(before + read);
                    if read == 0 && !self.ready.is_empty() {
                        self.hand_over(buf);
                    }
                    // Nothing new would look like the end.
                    if buf.filled().len() > before || !matches!(self.at, At::Head(_)) {
                        return Poll::Ready(Ok(()));
                    }
                }
                Err(fault) => {
                    buf.set_filled(before);
                    (self.at, self.last) = (At::Broken, true);
                    // Only the first counts; there is one.
                    let _ = self.delivery.fault.set(fault);
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault)));
                }
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.written = true;
        // An upstream that has answered already may not read what is still to come of the body, and would take it
        // for the next request.
        this.last |= matches!(this.at, At::Over);
        if let Some(silence) = &this.delivery.silence {
            this.timer.restart(silence);
        }
        if this.delivery.is_unsent() {
            return this.poll_first_write(cx, bytes);
        }
        self.line()?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.last = true;
        self.line()?.poll_shutdown(cx)
    }
}

impl VirtualSocket for Guarded {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        // Set when the connection was made, and on a used one before.
        let Some(line) = self.line.as_ref().filter(|_| !self.delivery.is_reused()) else { return Ok(()) };
        match option {
            VirtualSockOpt::NoDelay => Ok(()),
            VirtualSockOpt::KeepAlive(keepalive) => match line.tcp() {
                Some(tcp) => set_tcp_keepalive(tcp, &keepalive).map_err(io::Error::other),
                None => Ok(()),
            },
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.released
            && !self.last
            && let Some(line) = self.line.take()
        {
            self.delivery.dialer.keep(self.address.clone(), line, self.idle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::proxy::capacity::{Capacity, Plan};
    use crate::edge::proxy::dial::tests::dialer_to;
    use crate::edge::proxy::dial::{Asked, Connector, Dialer};
    use crate::edge::proxy::patience::Silence;
    use crate::edge::proxy::patience::tests::ends_unless_allowed;
    use pingora::connectors::L4Connect;
    use pingora::protocols::l4::stream::Stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    struct Upstream {
        listener: TcpListener,
        dialer: Arc<Dialer>,
    }

    impl Upstream {
        async fn start() -> Upstream {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let plan = Plan::new(None, 16, 1).unwrap();
            let address = listener.local_addr().unwrap();
            Upstream { listener, dialer: Arc::new(dialer_to(address, &Capacity::new(plan, 0))) }
        }

        async fn deliver(&self, asked: Asked) -> (Stream, Arc<Delivery>) {
            let address = self.listener.local_addr().unwrap();
            let delivery = Delivery::new(Arc::clone(&self.dialer), asked, None);
            let stream = Connector(Arc::clone(&delivery)).connect(&address.into()).await.unwrap();
            (stream, delivery)
        }

        async fn accept(&self) -> TcpStream {
            self.listener.accept().await.unwrap().0
        }
    }

    /// What the engine reads of `answer`, written in `pieces` at a time, and whether the connection is kept.
    async fn pass(answer: &str, pieces: usize, asked: Asked) -> (String, Option<Fault>, bool) {
        let upstream = Upstream::start().await;
        let (mut stream, delivery) = upstream.deliver(asked).await;
        let mut other = upstream.accept().await;
        let write = async {
            for piece in answer.as_bytes().chunks(pieces) {
                // A fault closes the connection.
                let _ = other.write_all(piece).await;
                tokio::task::yield_now().await;
            }
            other
        };
        let read = async {
            let mut seen = Vec::new();
            let _ = stream.read_to_end(&mut seen).await;
            drop(stream);
            seen
        };
        let (_other, seen) = tokio::join!(write, read);
        (String::from_utf8_lossy(&seen).into_owned(), delivery.fault(), !upstream.dialer.is_empty())
    }

    #[tokio::test]
    async fn a_whole_answer_passes_as_it_is_and_leaves_the_connection_for_another() {
        let head = Asked { head: true, ..Asked::default() };
        for (answer, asked) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Asked::default()),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\nX: 1\r\n\r\n",
                Asked::default(),
            ),
            ("HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 204 None\r\n\r\n", Asked::default()),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", head),
            ("HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n", Asked::default()),
        ] {
            for pieces in [1, 7, 1000] {
                let passed = pass(answer, pieces, asked).await;
                assert_eq!(passed, (answer.to_owned(), None, true), "{answer:?} in pieces of {pieces}");
            }
        }
    }

    #[tokio::test]
    async fn the_engine_reads_no_more_fields_than_it_can() {
        let lines: String = (0..300).map(|number| format!("X-{number}: {number}\r\n")).collect();
        let answer = format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 5\r\n\r\nhello");
        for pieces in [1, 7, 1000, 100_000] {
            let (seen, fault, kept) = pass(&answer, pieces, Asked::default()).await;
            assert_eq!((fault, kept), (None, true), "in pieces of {pieces}");
            assert!(seen.lines().count() < 256, "in pieces of {pieces}: {seen}");
            assert!(
                seen.contains("\r\nX-0: 0\r\n") && seen.ends_with("Content-Length: 5\r\n\r\nhello"),
                "{seen}"
            );
        }
        let early = format!("HTTP/1.1 103 Early\r\n{lines}\r\n{answer}");
        let (_, fault, kept) = pass(&early, 1000, Asked::default()).await;
        assert_eq!((fault, kept), (Some(Fault::FieldCount), false));
    }

    #[tokio::test]
    async fn what_is_written_behind_the_answer_is_the_last_on_the_connection() {
        for late in [&b""[..], b"rest of the body"] {
            let upstream = Upstream::start().await;
            let (mut stream, _delivery) = upstream.deliver(Asked::default()).await;
            let mut other = upstream.accept().await;
            stream.write_all(b"ask").await.unwrap();
            other.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"ok") {
                stream.read_buf(&mut seen).await.unwrap();
            }
            stream.write_all(late).await.unwrap();
            stream.flush().await.unwrap();
            assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
            drop(stream);
            assert_eq!(upstream.dialer.is_empty(), !late.is_empty(), "{late:?}");
        }
    }

    #[tokio::test]
    async fn what_has_two_readings_ends_the_connection() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (head, rest, fault) in [
            (
                "",
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                Fault::Framing,
            ),
            ("", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", Fault::HeaderLine),
            ("", "\r\nHTTP/1.1 200 OK\r\n\r\n", Fault::StatusLine),
            ("", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", Fault::Switch),
            (chunked, "5\nhello\r\n0\r\n\r\n", Fault::ChunkSize),
            (chunked, "5;a\nhello\r\n0\r\n\r\n", Fault::ChunkExtension),
            (chunked, "5\r\nhelloo\r\n0\r\n\r\n", Fault::ChunkEnd),
            (chunked, "0\r\nX: a\n\r\n", Fault::Trailer),
        ] {
            for pieces in [1, 1000] {
                let answer = format!("{head}{rest}");
                let (seen, found, kept) = pass(&answer, pieces, Asked::default()).await;
                assert_eq!((found, kept), (Some(fault), false), "{answer:?}");
                assert!(seen.len() < answer.len(), "{answer:?}: {seen:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_connection_that_says_more_or_says_no_more_is_not_kept() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        for (answer, seen) in [
            (format!("{whole}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"), whole.to_owned()),
            (whole.replace("Content", "Connection: x, close\r\nContent"), String::new()),
            (whole.replace("1.1", "1.0"), String::new()),
        ] {
            let (passed, fault, kept) = pass(&answer, 1000, Asked::default()).await;
            let want = if seen.is_empty() { &answer } else { &seen };
            assert_eq!((&passed, fault, kept), (want, None, false), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_was_given_up_half_way_is_not_kept() {
        let upstream = Upstream::start().await;
        let (mut stream, _) = upstream.deliver(Asked::default()).await;
        let mut other = upstream.accept().await;
        other.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await.unwrap();
        let mut whole = [0; 43];
        stream.read_exact(&mut whole).await.unwrap();
        // The answer is whole, but the engine did not ask whether it may have the connection again.
        drop(stream);
        assert!(upstream.dialer.is_empty());
    }

    async fn ask(stream: &mut Stream) -> io::Result<()> {
        stream.write_all(b"ask").await?;
        stream.flush().await
    }

    #[tokio::test]
    async fn a_connection_that_closed_while_it_was_idle_is_sent_nothing() {
        for is_closed in [false, true] {
            let upstream = Upstream::start().await;
            let (mut stream, first) = upstream.deliver(Asked::default()).await;
            let mut other = upstream.accept().await;
            assert!(first.is_unsent());
            ask(&mut stream).await.unwrap();
            assert!(!first.is_unsent());
            other.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            let mut seen = Vec::new();
            stream.read_to_end(&mut seen).await.unwrap();
            drop(stream);
            let (mut stream, second) = upstream.deliver(Asked::default()).await;
            assert!(second.is_reused() && second.is_unsent());
            let mut asked = [0; 3];
            other.read_exact(&mut asked).await.unwrap();
            if is_closed {
                drop(other);
                // Until the close has arrived here.
                assert_eq!(stream.read(&mut asked).await.unwrap(), 0);
                let error = ask(&mut stream).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                assert!(second.is_unsent());
            } else {
                ask(&mut stream).await.unwrap();
                assert!(!second.is_unsent());
            }
            drop(stream);
            assert!(upstream.dialer.is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_connection_unless_the_answer_allows_it() {
        for allowed in [false, true] {
            let upstream = Upstream::start().await;
            let address = upstream.listener.local_addr().unwrap();
            let silence = Silence::new(Duration::from_secs(60));
            let asked = Asked { stream: true, ..Asked::default() };
            let delivery = Delivery::new(Arc::clone(&upstream.dialer), asked, Some(Arc::clone(&silence)));
            let stream = Connector(delivery).connect(&address.into()).await.unwrap();
            let _other = upstream.accept().await;
            ends_unless_allowed(stream, &silence, allowed).await;
        }
    }

    #[tokio::test]
    async fn a_websockets_first_read_after_a_write_gives_way_once() {
        let upstream = Upstream::start().await;
        let (mut stream, _) = upstream.deliver(Asked { websocket: true, ..Asked::default() }).await;
        let mut other = upstream.accept().await;
        stream.write_all(b"ask").await.unwrap();
        stream.flush().await.unwrap();
        let answer = b"HTTP/1.1 101 Switching Protocols\r\n\r\nframe\n\0";
        other.write_all(answer).await.unwrap();
        let (mut polls, mut seen) = (0, vec![0; answer.len()]);
        let mut space = ReadBuf::new(&mut seen);
        while space.remaining() > 0 {
            std::future::poll_fn(|cx| {
                polls += 1;
                Pin::new(&mut stream).poll_read(cx, &mut space)
            })
            .await
            .unwrap();
        }
        assert!(polls > 1);
        assert_eq!(seen, answer);
    }
}
