//! What a plugin may write into the log, or make the host write: so many lines a call, each cut and escaped.

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};
use zeroize::Zeroizing;

use super::bindings::palisade::provider::log::Level;
use super::secrets::Secrets;

/// Lines in a call; the last one says that no more follow.
const LINES: u32 = 64;
/// Bytes of a line.
const LINE: usize = 1024;
/// Bytes of what is searched for secrets: what is hidden is as a rule longer than what stands in its place.
const SEARCHED: usize = 4 * LINE;

/// The lines of one call.
#[derive(Clone)]
pub(super) struct Lines(Arc<Mutex<Inner>>);

struct Inner {
    provider: Arc<str>,
    /// What no line may hold.
    secrets: Arc<Secrets>,
    left: u32,
    /// What standard output and standard error hold of a line that has not ended.
    partial: Zeroizing<Vec<u8>>,
}

impl Lines {
    pub(super) fn new(provider: Arc<str>, secrets: Arc<Secrets>) -> Lines {
        Lines(Arc::new(Mutex::new(Inner { provider, secrets, left: LINES, partial: Zeroizing::default() })))
    }

    pub(super) fn write(&self, level: Level, message: &str) {
        self.lock().write(level, message);
    }

    /// A line of the host's own about what the plugin does.
    pub(super) fn say(&self, message: &str) {
        let mut inner = self.lock();
        if inner.spend() {
            let message = inner.masked(message);
            tracing::warn!(provider = &*inner.provider, "{message}");
        }
    }

    /// How many lines there may still be.
    #[cfg(test)]
    pub(super) fn left(&self) -> u32 {
        self.lock().left
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Every change of it is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Whether there may be one line more.
    fn spend(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        if self.left == 0 {
            tracing::warn!(
                provider = &*self.provider,
                lines = LINES,
                "the plugin writes too much; the rest of this call is left out"
            );
        }
        self.left > 0
    }

    fn write(&mut self, level: Level, message: &str) {
        if !self.spend() {
            return;
        }
        let provider = &*self.provider;
        let message = self.masked(message);
        match level {
            Level::Debug => tracing::debug!(provider, "plugin: {message}"),
            Level::Info => tracing::info!(provider, "plugin: {message}"),
            Level::Warn => tracing::warn!(provider, "plugin: {message}"),
            Level::Error => tracing::error!(provider, "plugin: {message}"),
        }
    }

    /// `message` as it may be written.
    fn masked(&self, message: &str) -> String {
        escaped(&self.secrets.hide(&message[..message.floor_char_boundary(SEARCHED)]))
    }

    fn write_stream(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LINE - self.partial.len().min(LINE);
            self.partial.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.partial);
        let text = String::from_utf8_lossy(&line);
        if !text.trim().is_empty() {
            self.write(Level::Warn, text.trim_end());
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end_line();
    }
}

/// Whether `c` ends a line or changes the direction of writing (Unicode UAX #9 §2) without being a control
/// character.
fn turns(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// Whether `c` is written where it stands, and does nothing else to a terminal.
#[must_use]
pub fn is_visible(c: char) -> bool {
    !c.is_control() && !turns(c)
}

/// Whether `text` is one line that reads as it is written.
pub(super) fn is_plain(text: &str) -> bool {
    text.chars().all(is_visible)
}

/// `text` cut at [`LINE`] bytes, and without anything that could look like another line or turn the
/// writing around.
pub(super) fn escaped(text: &str) -> String {
    let cut = &text[..text.floor_char_boundary(LINE)];
    let mut out = String::with_capacity(cut.len());
    for c in cut.chars() {
        if !is_visible(c) {
            // Writing to a String cannot fail.
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

impl IsTerminal for Lines {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Lines {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.lock().write_stream(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(4096)
    }
}

#[async_trait::async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Lines {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.lock().write_stream(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_core::ports::DoorResponse;

    #[test]
    fn a_line_is_one_line_and_not_longer_than_allowed() {
        assert_eq!(escaped("a\nb\u{1b}[0m\u{202e}c"), "a\\nb\\u{1b}[0m\\u{202e}c");
        assert_eq!(escaped(&"ä".repeat(LINE)).len(), LINE);
        assert!(escaped(&format!("{}ä", "x".repeat(LINE - 1))).ends_with('x'));
    }

    /// The most usual slip of an author: printing what came in.
    #[test]
    fn no_line_has_a_secret_of_its_call_in_it() {
        #[derive(Clone, Default)]
        struct Written(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Written {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let written = Written::default();
        let out = written.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || out.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let secrets = Arc::new(Secrets::of(["the-refresh-token".into()]));
            let lines = Lines::new("bank".into(), Arc::clone(&secrets));
            lines.write(Level::Info, "logged the-refresh-token");
            secrets.learn(&DoorResponse {
                status: 200,
                headers: Vec::new(),
                body: br#"{"refresh_token":"the-next-token-2"}"#.to_vec().into(),
                retry_after: None,
            });
            lines.lock().write_stream(b"printed the-next-token-2\n");
            lines.say("refused the-next-token-2");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        for line in ["logged (a secret)", "printed (a secret)", "refused (a secret)"] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("the-"), "{text}");
    }

    #[test]
    fn a_stream_without_an_end_of_line_holds_no_more_than_a_line() {
        let lines = Lines::new("bank".into(), Arc::default());
        for _ in 0..100 {
            lines.lock().write_stream(&[b'x'; 4096]);
        }
        assert_eq!(lines.lock().partial.len(), LINE);
        lines.lock().write_stream(b"\n\n\n");
        let inner = lines.lock();
        assert_eq!((inner.partial.len(), inner.left), (0, LINES - 1));
    }
}
