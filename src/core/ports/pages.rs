//! The rendering of pages for people.

use serde_json::Value;

use crate::domain::page::PageName;
use crate::domain::reply::Page;

/// What is to be rendered, and for which reader.
#[derive(Debug, Clone, Copy)]
pub struct PageRequest<'a> {
    pub page: PageName,
    /// The HTTP status of the answer.
    pub status: u16,
    /// The stable word for logs and metrics.
    pub code: &'static str,
    /// The field `Accept-Language` of the request (RFC 9110 §12.5.4).
    pub accept_language: Option<&'a str>,
    /// What the page tells, an object: its template says which names it knows.
    pub facts: &'a Value,
}

/// Renders pages from templates, in the reader's language. Never fails: every template was rendered at the start.
pub trait PageRenderer: Send + Sync {
    /// The page, with its `Content-Security-Policy`.
    fn render(&self, request: &PageRequest<'_>) -> Page;

    /// Where the page `page` is: an operator's own address (`[pages] urls`), or ours on the origin of `public_url`. A
    /// whole URL without a query and a fragment.
    fn url(&self, page: PageName) -> String;

    /// The operator's own address of `page` (`[pages] urls`); `None`: it is ours.
    fn own_url(&self, _page: PageName) -> Option<&str> {
        None
    }
}
