//! What a call may use: the connection it is about, and the host's requests, clock and log.

use crate::http::{Request, Response, SendError};
use crate::{Connection, Failure};

/// How much a line of the log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For who looks into one provider.
    Debug,
    /// Worth knowing.
    Info,
    /// Something is odd.
    Warn,
    /// Something is broken.
    Error,
}

/// What the host does for a plugin. In a component this is Palisade; in a test, whatever the test says.
pub trait Host {
    /// Makes one request and waits for the whole answer.
    ///
    /// # Errors
    /// Why there is none.
    fn send(&self, request: &Request) -> Result<Response, SendError>;

    /// Seconds since 1970-01-01T00:00:00Z.
    fn now(&self) -> u64;

    /// Writes a line to the log. Never a token or a code.
    fn log(&self, level: Level, message: &str);
}

/// One call.
#[derive(Clone, Copy)]
pub struct Context<'c> {
    /// Whose connection the call is about.
    pub connection: &'c Connection,
    host: &'c dyn Host,
}

impl<'c> Context<'c> {
    /// A call about `connection`.
    #[must_use]
    pub fn new(connection: &'c Connection, host: &'c dyn Host) -> Self {
        Self { connection, host }
    }

    /// Makes one request. Any status is an answer.
    ///
    /// # Errors
    /// What the absence of an answer means for the connection.
    pub fn send(&self, request: &Request) -> Result<Response, Failure> {
        Ok(self.host.send(request)?)
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.host.now()
    }

    /// Writes a line to Palisade's log. Never a token or a code.
    pub fn log(&self, level: Level, message: &str) {
        self.host.log(level, message);
    }
}
