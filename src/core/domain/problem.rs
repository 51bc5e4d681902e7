//! What a caller is told when something is refused or fails: an RFC 9457 problem document.
//!
//! Outside messages only. What went wrong inside belongs in the log.

use serde::Serialize;

/// A problem document. `code` is stable; `title` and `detail` are for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Always `about:blank`: the status says what class of problem it is, `code` which one.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The HTTP status code.
    pub status: u16,
    /// The status in words.
    pub title: &'static str,
    /// What happened and what would do.
    pub detail: String,
    /// The stable word for programs.
    pub code: &'static str,
    /// Which provider it is about, if any: an extension member (RFC 9457 §3.2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Where a person signs in: the whole URL of a page. An extension member, too. A browser is never sent there by the
    /// document itself, since scripts read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sign_in: Option<String>,
}

/// The status in words (RFC 9110 §15), of those that are answered here.
#[must_use]
pub const fn title(status: u16) -> &'static str {
    match status {
        303 => "See Other",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => "Internal Server Error",
    }
}

impl Problem {
    /// A problem with this status and code.
    #[must_use]
    pub fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Problem {
        Problem {
            kind: "about:blank",
            status,
            title: title(status),
            detail: detail.into(),
            code,
            provider: None,
            sign_in: None,
        }
    }

    /// The same, about the provider of this name.
    #[must_use]
    pub fn about(self, provider: &str) -> Problem {
        Problem { provider: Some(provider.to_owned()), ..self }
    }

    /// The same, with the page where a person signs in.
    #[must_use]
    pub fn with_sign_in(self, page: String) -> Problem {
        Problem { sign_in: Some(page), ..self }
    }

    /// The document as one line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        // A struct of text and one number: serialisation has nothing to fail on.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }
}
