//! The files that pages are made with: the stylesheet, the script file, and the operator's logo.
//!
//! Their names have a hash of what they hold, so caches keep them for long. Under the name of another version, which a
//! page from before an upgrade may ask for, there is the present one, and no cache keeps it.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Path as Segment;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use sha2::{Digest, Sha256};

use super::TemplatedPages;

/// The largest logo in bytes: it is kept in memory and sent with the first page of every visitor.
const MAX_LOGO: usize = 512 * 1024;
/// How long caches keep a file: its name changes with it (RFC 8246).
const FOR_LONG: &str = "public, max-age=31536000, immutable";

/// A file, ready to be sent.
pub(super) struct Asset {
    /// What its name begins with.
    stem: &'static str,
    /// The last part of its path.
    name: String,
    media_type: &'static str,
    /// An image may hold script: opened by itself, it runs in an origin of its own, without scripts (CSP 3 §6.3.2).
    policy: &'static str,
    bytes: Bytes,
}

impl Asset {
    fn new(stem: &'static str, extension: &'static str, media_type: &'static str, bytes: Vec<u8>) -> Asset {
        let hash = Sha256::digest(&bytes);
        let hash: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let policy = match stem {
            "logo" | "icon" => "default-src 'none'; style-src 'unsafe-inline'; sandbox",
            _ => "default-src 'none'",
        };
        Asset { stem, name: format!("{stem}-{hash}.{extension}"), media_type, policy, bytes: bytes.into() }
    }
}

/// All files.
pub(super) struct Assets {
    /// The path that they are below.
    path: String,
    files: Vec<Asset>,
}

impl Assets {
    /// The built-in files below the native `prefix`; `style` follows the stylesheet.
    pub(super) fn new(prefix: &str, style: &str) -> Assets {
        let style = format!("{}{style}", include_str!("assets/style.css"));
        let files = vec![
            Asset::new("style", "css", "text/css; charset=utf-8", style.into_bytes()),
            Asset::new(
                "pages",
                "js",
                "text/javascript; charset=utf-8",
                include_bytes!("assets/pages.js").to_vec(),
            ),
            Asset::new("icon", "svg", "image/svg+xml", include_bytes!("assets/icon.svg").to_vec()),
        ];
        Assets { path: format!("{prefix}/pages/assets"), files }
    }

    /// Adds the operator's logo. Reads a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn add_logo(&mut self, file: &Path) -> Result<(), String> {
        let bytes = std::fs::read(file).map_err(|error| format!("no readable file ({error})"))?;
        if bytes.len() > MAX_LOGO {
            return Err(format!("{} bytes", bytes.len()));
        }
        let is_png = bytes.starts_with(b"\x89PNG\r\n\x1a\n");
        let is_svg = std::str::from_utf8(&bytes).is_ok_and(|text| text.contains("<svg"));
        let (extension, media_type) = match (is_png, is_svg) {
            (true, _) => ("png", "image/png"),
            (_, true) => ("svg", "image/svg+xml"),
            _ => return Err("a file that is neither PNG nor SVG".to_owned()),
        };
        self.files.push(Asset::new("logo", extension, media_type, bytes));
        Ok(())
    }

    /// The path of the file whose name begins with `stem`.
    pub(super) fn path(&self, stem: &str) -> Option<String> {
        let file = self.files.iter().find(|file| file.stem == stem)?;
        Some(format!("{}/{}", self.path, file.name))
    }

    /// The file of this name, or of its beginning.
    pub(super) fn answer(&self, name: &str) -> Response {
        let stem = name.split('-').next().unwrap_or_default();
        let Some(file) = self.files.iter().find(|file| file.stem == stem) else {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        };
        let keep = if file.name == name { FOR_LONG } else { "no-store" };
        let mut response = Response::new(Body::from(file.bytes.clone()));
        response.headers_mut().extend(
            [
                (header::CONTENT_TYPE, file.media_type),
                (header::CACHE_CONTROL, keep),
                (header::CONTENT_SECURITY_POLICY, file.policy),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
                (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
            ]
            .map(|(name, value)| (name, HeaderValue::from_static(value))),
        );
        response
    }
}

/// The files that pages are made with, below `{prefix}/pages/assets`. A page may be shown on every host, and asks that
/// host for them.
pub fn assets_router(pages: &Arc<TemplatedPages>) -> Router {
    let path = format!("{}/{{name}}", pages.assets.path);
    let pages = Arc::clone(pages);
    let answer = move |Segment(name): Segment<String>| async move { pages.assets.answer(&name) };
    Router::new().route(&path, get(answer))
}
