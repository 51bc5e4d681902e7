//! HTTP/2 connections: the handshake, one task for each request, the bounds on both, and what a header section
//! may hold.
//!
//! A fragment (`#` and what follows) in `:path` is dropped by the HTTP/2 library before anything here sees the
//! request. What is left is what is matched and what is forwarded, so there is one reading of it; in HTTP/1.1,
//! where the whole target is at hand, it is refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Version, header};
use pingora::apps::HttpServerApp;
use pingora::http::RequestHeader;
use pingora::protocols::Digest;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server as h2;
use tokio_util::task::TaskTracker;

use super::capacity::{self, Share};
use super::exchange::{CURRENT, OpenExchange};
use super::head::MAX_FIELDS;
use super::listener::Listener;
use super::refused::{LAST_WORDS, Refused};
use super::socket::Socket;
use palisade_core::domain::answer::answer;
use palisade_core::domain::request::Malformed;
use palisade_core::domain::verdict::Refusal;

/// Bounds on one HTTP/2 connection: what a client can make us hold for it. Streams that are reset before they are
/// served (rapid reset, CVE-2023-44487) and streams that we reset (MadeYouReset, CVE-2025-8671) have bounds of their
/// own.
const H2_STREAMS: u32 = 100;
const H2_PENDING_RESETS: usize = 20;
const H2_LOCAL_RESETS: usize = 100;
/// Malformed requests after which a connection is to end: others may share it behind a proxy, so what is under way
/// on it is finished first, while as many again are borne.
const H2_MALFORMED: usize = 20;

/// What the HTTP/2 library may hold for small DATA frames of one connection that wait to be read, beside their
/// content, in bytes: each that is smaller than 256 bytes counts as what it lacks. The library ends a connection
/// that would go beyond; by default about 130 frames of 20 bytes do, which a gRPC client streams in a moment. With the
/// most, a client may fill its window of 64 kB with frames of 16 bytes.
const SMALL_FRAMES: std::ops::RangeInclusive<usize> = 32 * 1024..=1024 * 1024;

/// [`SMALL_FRAMES`] for one more of so many connections: all of them together get a quarter of the memory of requests
/// beside it, as long as that is enough for each.
fn small_frames(memory: usize, connections: usize) -> usize {
    (memory / 4 / connections.max(1)).clamp(*SMALL_FRAMES.start(), *SMALL_FRAMES.end())
}

/// What the HTTP/2 library counts for each field beside its name and value (RFC 9113 §6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// The bound of the HTTP/2 library on the decoded fields of one request: twice what [`check`] lets pass. It
/// answers what is larger by a bare 431; what lies between gets the answer that HTTP/1.1 clients get.
fn header_list(bytes: usize) -> u32 {
    u32::try_from(2 * (bytes + FIELD_OVERHEAD * MAX_FIELDS)).unwrap_or(u32::MAX)
}

/// Holds a header section of HTTP/2 to what [`super::head`] holds those of HTTP/1.1 to and the HTTP/2 library
/// does not: its size in bytes, as it would be written in HTTP/1.1, the number of its fields, one way to say how long the
/// body is, and no white space around values (RFC 9113 §8.2.1), which we would read and the upstream would not. Cookies in fields of their own (RFC 9113 §8.2.3) count as the one field that they
/// are. Other versions pass.
///
/// # Errors
/// [`Refusal::HeaderTooLarge`], [`Malformed::Framing`] and [`Malformed::Header`].
pub fn check(request: &RequestHeader, most: usize) -> Result<(), Refusal> {
    if request.version != Version::HTTP_2 {
        return Ok(());
    }
    let target = request.uri.path_and_query().map_or(1, |target| target.as_str().len());
    let mut bytes = request.method.as_str().len() + target + "  HTTP/1.1\r\n\r\n".len();
    let (mut fields, mut lengths, mut cookies) = (0, 0, 0);
    if let Some(authority) = request.uri.authority()
        && !request.headers.contains_key(header::HOST)
    {
        fields += 1;
        bytes += "host: \r\n".len() + authority.as_str().len();
    }
    for (name, value) in &request.headers {
        let value = value.as_bytes();
        if value.trim_ascii().len() != value.len() {
            return Err(Refusal::Malformed(Malformed::Header));
        }
        if *name == header::COOKIE {
            cookies += 1;
            if cookies > 1 {
                bytes += "; ".len() + value.len();
                continue;
            }
        } else if *name == header::CONTENT_LENGTH {
            lengths += 1;
            if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
                return Err(Refusal::Malformed(Malformed::Framing));
            }
        }
        fields += 1;
        bytes += name.as_str().len() + value.len() + ": \r\n".len();
    }
    if bytes > most || fields > MAX_FIELDS {
        return Err(Refusal::HeaderTooLarge);
    }
    if lengths > 1 { Err(Refusal::Malformed(Malformed::Framing)) } else { Ok(()) }
}

/// Resolves once no stream has been open for `idle`.
async fn quiet(streams: &TaskTracker, idle: Duration) {
    streams.wait().await;
    tokio::time::sleep(idle).await;
}

impl Listener {
    /// Serves the requests of one connection until either end is done with it.
    pub(super) async fn serve_http2(&self, socket: Box<Socket>, peer: SocketAddr) {
        let encrypted = self.tls.is_some();
        let mut options = h2::default_h2_options();
        options
            .max_concurrent_streams(H2_STREAMS)
            .max_header_list_size(header_list(self.limits.bytes))
            .max_pending_accept_reset_streams(H2_PENDING_RESETS)
            .max_local_error_reset_streams(Some(H2_LOCAL_RESETS))
            .data_frame_budget(small_frames(self.capacity.most_memory(), self.capacity.taken().clients));
        let Ok(Ok(mut connection)) =
            tokio::time::timeout(self.limits.deadline, h2::handshake(socket, Some(options))).await
        else {
            return self.meter.connection_refused("http2");
        };
        let streams = TaskTracker::new();
        // Closed, it can be waited for, and still takes streams.
        streams.close();
        let digest = Arc::new(Digest::default());
        let mut closing = self.closing.clone();
        let (mut leaving, mut rejected) = (false, 0);
        loop {
            // A client that was told to leave, and that has no request under way, is waited for a moment only.
            let idle = if leaving { LAST_WORDS } else { self.limits.idle };
            let accepted = tokio::select! {
                biased;
                _ = closing.wait_for(|closing| *closing), if !leaving => {
                    connection.graceful_shutdown();
                    leaving = true;
                    continue;
                }
                accepted = h2::HttpSession::from_h2_conn(&mut connection, Arc::clone(&digest)) => accepted,
                () = quiet(&streams, idle) => {
                    if leaving {
                        return;
                    }
                    // The client learns which of its requests were taken: what it sends just now is not lost.
                    connection.graceful_shutdown();
                    leaving = true;
                    continue;
                }
            };
            match accepted {
                Ok(Some(h2::H2Accept::Session(stream))) => {
                    let session = ServerSession::new_http2(stream);
                    let mut memory = self.capacity.memory();
                    if let Some(refused) = refused_at_once(session.req_header(), &mut memory) {
                        refused.log(&*self.meter, peer, Duration::ZERO);
                        refused.say_on_stream(session);
                        continue;
                    }
                    let counted = self.capacity.stream();
                    let engine = Arc::clone(&self.engine);
                    let closing = self.closing.clone();
                    let exchange = OpenExchange::new(peer, encrypted);
                    let serving = streams.track_future(async move {
                        let _held = (memory, counted);
                        tokio::select! {
                            biased;
                            // Dropping the session resets the stream.
                            () = exchange.is_cut() => {}
                            _ = CURRENT.scope(Arc::clone(&exchange), engine.process_new_http(session, &closing)) => {}
                        }
                    });
                    self.connections.spawn(serving);
                }
                // The engine has answered it, or has reset the stream.
                Ok(Some(h2::H2Accept::Rejected)) => {
                    Refused::malformed(Malformed::Header).log(&*self.meter, peer, Duration::ZERO);
                    rejected += 1;
                    if rejected > 2 * H2_MALFORMED {
                        return self.meter.connection_refused("http2");
                    }
                    if rejected > H2_MALFORMED && !leaving {
                        connection.graceful_shutdown();
                        leaving = true;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    if !is_lost(&error) {
                        self.meter.connection_refused("http2");
                    }
                    return;
                }
            }
        }
    }
}

/// What a request is answered that the engine must not see: it would answer in its own words, or there is no
/// memory for it. `memory` is made as large as the request.
fn refused_at_once(request: &RequestHeader, memory: &mut Share) -> Option<Refused> {
    if request.method == http::Method::CONNECT {
        return Some(Refused::connect());
    }
    let fields =
        request.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD);
    let target = request.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let size = fields.sum::<usize>() + target;
    (!memory.hold(capacity::of_request(size))).then(|| Refused::new(answer(&Refusal::Overloaded)))
}

/// Whether a connection ended without a fault of its client: it has gone.
fn is_lost(error: &pingora::Error) -> bool {
    let cause = error.cause.as_deref().and_then(|cause| cause.downcast_ref::<::h2::Error>());
    cause.is_none_or(::h2::Error::is_io)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&'static str, String)]) -> RequestHeader {
        let mut parts = http::Request::get("http://a.test/x?y").version(Version::HTTP_2).body(()).unwrap();
        for (name, value) in fields {
            parts.headers_mut().append(*name, value.parse().unwrap());
        }
        parts.into_parts().0.into()
    }

    #[test]
    fn a_section_counts_as_it_would_in_http1() {
        let fields = [("x-a", "b".to_owned()), ("cookie", "c=d".to_owned()), ("cookie", "e=f".to_owned())];
        let written = "GET /x?y HTTP/1.1\r\nhost: a.test\r\nx-a: b\r\ncookie: c=d; e=f\r\n\r\n".len();
        assert_eq!(check(&request(&fields), written), Ok(()));
        assert_eq!(check(&request(&fields), written - 1), Err(Refusal::HeaderTooLarge));
    }

    #[test]
    fn fields_are_counted_and_cookies_once() {
        let many = |name: &'static str, count: usize| -> Vec<_> {
            (0..count).map(|number| (name, format!("a{number}=b"))).collect()
        };
        // One is the host.
        assert_eq!(check(&request(&many("x-a", MAX_FIELDS - 1)), 1 << 20), Ok(()));
        assert_eq!(check(&request(&many("x-a", MAX_FIELDS)), 1 << 20), Err(Refusal::HeaderTooLarge));
        assert_eq!(check(&request(&many("cookie", 500)), 1 << 20), Ok(()));
    }

    #[test]
    fn one_length_in_digits_or_none() {
        let framing = Err(Refusal::Malformed(Malformed::Framing));
        let length = |values: &[&str]| -> Vec<_> {
            values.iter().map(|value| ("content-length", (*value).to_owned())).collect()
        };
        assert_eq!(check(&request(&length(&["5"])), 4096), Ok(()));
        for values in [&["5", "5"][..], &["5, 5"], &["+5"], &[""], &["99999999999999999999"]] {
            assert_eq!(check(&request(&length(values)), 4096), framing, "{values:?}");
        }
    }

    #[test]
    fn values_have_no_white_space_around_them() {
        for value in [" Bearer a", "Bearer a ", "\tBearer a"] {
            let fields = [("authorization", value.to_owned())];
            assert_eq!(
                check(&request(&fields), 4096),
                Err(Refusal::Malformed(Malformed::Header)),
                "{value:?}"
            );
        }
        assert_eq!(check(&request(&[("x-a", String::new()), ("x-b", "a  b".to_owned())]), 4096), Ok(()));
    }

    #[test]
    fn small_frames_of_all_connections_share_a_quarter_of_the_memory() {
        assert_eq!(small_frames(512 << 20, 0), 1 << 20);
        assert_eq!(small_frames(512 << 20, 128), 1 << 20);
        assert_eq!(small_frames(512 << 20, 256), 512 << 10);
        assert_eq!(small_frames(512 << 20, 16384), 32 << 10);
        assert_eq!(small_frames(0, 1), 32 << 10);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_begins_with_the_last_answer() {
        let begun = tokio::time::Instant::now();
        let streams = TaskTracker::new();
        streams.close();
        streams.spawn(tokio::time::sleep(Duration::from_secs(90)));
        quiet(&streams, Duration::from_secs(60)).await;
        assert_eq!(begun.elapsed().as_secs(), 150);
    }
}
