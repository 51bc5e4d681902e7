//! Requests that Palisade makes on the plugin's behalf, and what came back: the WIT's interface `http`.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;

use crate::{Failure, Fields, form};

/// The methods that a plugin may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
    /// `HEAD`
    Head,
}

impl Method {
    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Head => "HEAD",
        }
    }
}

/// How the host proves who the client is: the plugin never sees the secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// Not at all.
    #[default]
    None,
    /// `Authorization: Basic` (RFC 6749 §2.3.1).
    Basic(BasicEncoding),
    /// The identifier and the secret as parameters.
    Post(CredentialParameters),
    /// A JWT signed with the client's private key (RFC 7523).
    PrivateKeyJwt(Assertion),
}

/// What is done to identifier and secret before they are joined and encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BasicEncoding {
    /// They are form-encoded, as RFC 6749 §2.3.1 says.
    Form,
    /// Nothing.
    Raw,
}

/// Where parameters with credentials go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Into the body, in the body's own form.
    Body,
    /// Into the query of the URL.
    Query,
}

/// The parameters that carry identifier and secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialParameters {
    /// The name of the one with the identifier. Absent: it is not sent.
    pub id: Option<String>,
    /// The name of the one with the secret.
    pub secret: String,
    /// Where they go.
    pub place: Place,
}

/// A JWT by which the client authenticates itself (RFC 7523 §3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertion {
    /// `EdDSA`, `ES256`, `ES384`, `RS256`, `RS384` or `RS512`. Absent: the one that fits the key.
    pub algorithm: Option<String>,
    /// `kid` of the header.
    pub key_id: Option<String>,
    /// `iss`. Absent: the client identifier.
    pub issuer: Option<String>,
    /// `sub`. Absent: the client identifier.
    pub subject: Option<String>,
    /// `aud`.
    pub audience: String,
    /// How long it is good, in seconds; at most 3600.
    pub lifetime: u32,
    /// Further claims, as a JSON object; `{}` for none.
    pub claims: String,
    /// The parameter that carries it. Absent: `client_assertion` (RFC 7521 §4.2).
    pub parameter: Option<String>,
}

/// One request.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// An absolute URL without user name, password or fragment.
    pub url: String,
    /// Header fields.
    pub headers: Vec<(String, String)>,
    /// The body; empty for none. At most 1 MiB.
    pub body: Vec<u8>,
    /// How the client is authenticated.
    pub client_auth: ClientAuth,
}

impl Request {
    /// A request that asks for JSON, without a body.
    pub fn new(method: Method, url: impl Into<String>) -> Self {
        Self {
            method,
            url: url.into(),
            headers: vec![("accept".into(), "application/json".into())],
            body: Vec::new(),
            client_auth: ClientAuth::None,
        }
    }

    /// `GET url`.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new(Method::Get, url)
    }

    /// `POST url`.
    pub fn post(url: impl Into<String>) -> Self {
        Self::new(Method::Post, url)
    }

    /// With a header field; one of the same name is replaced.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// With a bearer token (RFC 6750 §2.1).
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// With a form as its body.
    #[must_use]
    pub fn form(mut self, fields: &Fields) -> Self {
        self.body = form::encode(fields).into_bytes();
        self.header("content-type", "application/x-www-form-urlencoded")
    }

    /// With a JSON value as its body.
    #[must_use]
    pub fn json(mut self, value: &serde_json::Value) -> Self {
        self.body = value.to_string().into_bytes();
        self.header("content-type", "application/json")
    }

    /// With parameters added to the query of the URL.
    #[must_use]
    pub fn query(mut self, fields: &Fields) -> Self {
        self.url = crate::url::with_query(&self.url, fields);
        self
    }

    /// Authenticated as the client.
    #[must_use]
    pub fn client_auth(mut self, client_auth: ClientAuth) -> Self {
        self.client_auth = client_auth;
        self
    }
}

/// Shows no query, no header value and no body: any of them may hold a token.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("url", &self.url.split(['?', '#']).next().unwrap_or_default())
            .field("client_auth", &self.client_auth)
            .finish_non_exhaustive()
    }
}

/// Whatever the provider answered, redirects and errors included.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header field `name`, which is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether the status is 2xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// [`Failure::ProviderError`] when it is something else.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        // The error itself can quote the body.
        serde_json::from_slice(crate::json::without_mark(&self.body)).map_err(|error| {
            Failure::provider_error(format!(
                "the answer (status {}) is not the JSON that was expected, at line {} column {}",
                self.status,
                error.line(),
                error.column()
            ))
        })
    }

    /// Seconds to wait according to `Retry-After` (RFC 9110 §10.2.3), at `now` in seconds since 1970.
    #[must_use]
    pub fn retry_after(&self, now: u64) -> Option<u64> {
        let value = self.header("retry-after")?.trim();
        if let Ok(seconds) = value.parse() {
            return Some(seconds);
        }
        let date = httpdate::parse_http_date(value).ok()?;
        let now = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(now))?;
        Some(date.duration_since(now).map_or(0, |left| left.as_secs()))
    }

    /// Why this is no answer for now, if that is what its status says: 408, 425, 429 and 5xx.
    #[must_use]
    pub fn transient(&self, now: u64) -> Option<Failure> {
        matches!(self.status, 408 | 425 | 429 | 500..=599).then(|| Failure::Transient {
            message: format!("the provider answered with status {}", self.status),
            retry_after: self.retry_after(now),
        })
    }
}

/// Shows no body.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The request was not made. Trying again is of no use.
    Denied(String),
    /// There was no whole answer in time.
    Timeout,
    /// No connection, or one that broke.
    Unreachable(String),
    /// The answer is larger than allowed.
    TooLarge,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, retry_after: &str) -> Response {
        Response { status, headers: vec![("retry-after".into(), retry_after.into())], body: Vec::new() }
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        assert_eq!(response(429, "30").retry_after(0), Some(30));
        assert_eq!(response(503, "Thu, 01 Jan 1970 00:01:00 GMT").retry_after(20), Some(40));
        assert_eq!(response(503, "Thu, 01 Jan 1970 00:01:00 GMT").retry_after(90), Some(0));
        assert_eq!(response(503, "soon").retry_after(0), None);
    }

    #[test]
    fn debugging_shows_no_token() {
        let request = Request::post("https://a.example/t?token=secret").bearer("secret");
        assert!(!format!("{request:?}").contains("secret"));
    }
}
