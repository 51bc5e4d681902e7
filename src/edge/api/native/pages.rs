//! What the pages of the callback and of the documentation share. They are whole in themselves: the policy of each names
//! the very script and style by hash, and nothing else runs, whatever gets into the page.

use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::super::reply::written;
use palisade_core::domain::reply;

pub(super) const STYLE: &str = include_str!("pages/page.css");

/// A page under this policy (CSP 3), which is not cached, not framed (clickjacking), and sends no referrer to other origins.
pub(super) fn page(status: StatusCode, html: String, policy: &str) -> Response {
    let page = reply::Page {
        status: status.as_u16(),
        code: "page",
        summary: String::new(),
        html: String::new(),
        policy: policy.to_owned(),
    };
    written(&page.into(), html)
}

/// The source expression that allows exactly this text (CSP 3 §2.3.1).
pub(super) fn source(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}
