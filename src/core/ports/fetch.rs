//! Requests of our own to issuers and to what the operator configured.

use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;

use crate::domain::reach::Reach;

/// Why an outgoing request brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL or the address behind it is not one we may call.
    #[error("{url}: {why}")]
    Forbidden { url: String, why: String },
    /// No usable answer: no connection, too large, too slow.
    #[error("{url}: {why}")]
    Failed { url: String, why: String },
    /// Another status than the one that was needed.
    #[error("{url}: answered {status}")]
    Answered {
        url: String,
        status: u16,
        /// How long the host asks to be left alone (RFC 9110 §10.2.3); bounded.
        retry_after: Option<Duration>,
    },
}

/// A `GET`.
#[derive(Debug, Clone, Copy)]
pub struct FetchRequest<'a> {
    /// Absolute: `https`, or `http` to a loopback host or into `reach.allow_private`.
    pub url: &'a str,
    /// The largest body that is taken, in bytes, after it was decompressed.
    pub max_bytes: usize,
    /// Which addresses it may go to.
    pub reach: &'a Reach,
}

/// A `POST` of a form (`application/x-www-form-urlencoded`).
pub struct PostForm<'a> {
    /// As in [`FetchRequest::url`].
    pub url: &'a str,
    /// The fields, as they are before they are encoded. May be secrets.
    pub form: &'a [(&'a str, &'a str)],
    pub auth: FormAuth<'a>,
    /// As in [`FetchRequest::max_bytes`].
    pub max_bytes: usize,
    /// Which addresses it may go to.
    pub reach: &'a Reach,
    /// How long it may take, answer and all.
    pub timeout: Duration,
}

/// How a client authenticates itself with a form.
pub enum FormAuth<'a> {
    None,
    /// `client_secret_basic` (RFC 6749 §2.3.1): both are form-encoded before they are joined.
    Basic {
        user: &'a str,
        password: &'a SecretString,
    },
    /// RFC 6750 §2.1.
    Bearer(&'a SecretString),
}

/// An answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetched {
    pub status: u16,
    pub body: Vec<u8>,
    /// How long the host asks to be left alone (RFC 9110 §10.2.3); bounded.
    pub retry_after: Option<Duration>,
}

/// Outgoing HTTP.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// A `GET` that is answered 200. Follows no redirects.
    ///
    /// # Errors
    /// [`FetchError`].
    async fn get(&self, request: FetchRequest<'_>) -> Result<Fetched, FetchError>;

    /// A `POST` of a form, whatever its status. Follows no redirects.
    ///
    /// # Errors
    /// [`FetchError`], but never [`FetchError::Answered`].
    async fn post_form(&self, request: PostForm<'_>) -> Result<Fetched, FetchError>;

    /// The status that a `POST` of JSON was answered with; the answer itself is not read. For a URL of the
    /// operator's own: over HTTPS its host may have any address, as the certificate says whether it is the
    /// one that was meant. Follows no redirects.
    ///
    /// # Errors
    /// [`FetchError`], but never [`FetchError::Answered`].
    async fn post(&self, url: &str, headers: &[(&str, String)], json: String) -> Result<u16, FetchError>;
}
