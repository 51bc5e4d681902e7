//! The pages that links in mails open: one confirms an address, one sets a new password.
//!
//! They are whole in themselves and send requests to us only. The token of a link is in the fragment, so no request
//! for a page holds one, and a page hands it in only when its reader presses the button. The policy of each names the
//! very script and style by hash: nothing else runs, whatever gets into the page.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::super::reply::written;
use palisade_core::domain::reply;

pub(super) const STYLE: &str = include_str!("pages/page.css");
const SHARED: &str = include_str!("pages/page.js");

/// A page, ready to be sent.
struct Page {
    html: String,
    /// Content-Security-Policy, level 3.
    policy: String,
}

impl Page {
    fn new(frame: &str, script: &str) -> Page {
        let script = format!("\n{SHARED}\n{script}");
        let style = format!("\n{STYLE}");
        let policy = format!(
            "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; form-action 'self'; \
             base-uri 'none'; frame-ancestors 'none'",
            source(&script),
            source(&style),
        );
        Page { html: frame.replace("{{style}}", &style).replace("{{script}}", &script), policy }
    }

    fn answer(&self) -> Response {
        page(StatusCode::OK, self.html.clone(), &self.policy)
    }
}

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

/// `/pages/verify` and `/pages/reset`, to be nested under the prefix of the native endpoints, which they call relative
/// to themselves: `../verify-email`, `../password-resets/validate`, `../password-resets/confirm` and
/// `../password-requirements`.
pub fn pages_router() -> Router {
    let page = |frame: &str, script: &str| {
        let page = Arc::new(Page::new(frame, script));
        get(move || {
            let answer = page.answer();
            async move { answer }
        })
    };
    Router::new()
        .route("/pages/verify", page(include_str!("pages/verify.html"), include_str!("pages/verify.js")))
        .route("/pages/reset", page(include_str!("pages/reset.html"), include_str!("pages/reset.js")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use axum::http::{HeaderMap, Request};
    use tower::ServiceExt;

    async fn ask(method: &str, path: &str) -> (StatusCode, HeaderMap, String) {
        let router = Router::new().nest("/auth", pages_router());
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    /// What is between the only `open` and `close`, as a browser cuts it out.
    fn inside<'a>(html: &'a str, open: &str, close: &str) -> &'a str {
        assert_eq!((html.matches(open).count(), html.matches(close).count()), (1, 1), "{open}");
        html.split_once(open).unwrap().1.split_once(close).unwrap().0
    }

    const ALL: [&str; 2] = ["/auth/pages/verify", "/auth/pages/reset"];

    #[tokio::test]
    async fn a_page_runs_its_own_script_and_nothing_else() {
        for path in ALL {
            let (status, headers, html) = ask("GET", path).await;
            assert_eq!(status, StatusCode::OK);
            let header = |name: &str| headers.get(name).unwrap().to_str().unwrap().to_owned();
            let (script, style) = (
                source(inside(&html, "<script>", "</script>")),
                source(inside(&html, "<style>", "</style>")),
            );
            assert_eq!(
                header("content-security-policy"),
                format!(
                    "default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; \
                     form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
                )
            );
            assert_eq!(header("content-type"), "text/html; charset=utf-8");
            assert_eq!(header("cache-control"), "no-store");
            assert_eq!(header("referrer-policy"), "same-origin");
            assert_eq!(header("x-content-type-options"), "nosniff");
            // Attributes of either kind would be dead under this policy, and other origins unreachable.
            for dead in [" style=\"", " onclick=", "http://", "https://", "src=", "innerHTML", "eval("] {
                assert!(!html.contains(dead), "{path} has {dead}");
            }
            assert!(!html.contains("{{"), "{path}");
        }
    }

    #[tokio::test]
    async fn a_page_can_be_read_by_everybody() {
        for path in ALL {
            let (_, _, html) = ask("GET", path).await;
            for part in [
                "<html lang=\"en\">",
                "<title>",
                "<noscript>",
                "aria-live=\"polite\"",
                "width=device-width, initial-scale=1",
                "prefers-color-scheme: dark",
                "<main>",
                "<h1>",
            ] {
                assert!(html.contains(part), "{path} lacks {part}");
            }
        }
        let (_, _, reset) = ask("GET", "/auth/pages/reset").await;
        assert!(
            reset.contains("<label for=\"password\">") && reset.contains("autocomplete=\"new-password\"")
        );
    }

    #[tokio::test]
    async fn a_page_is_only_read() {
        for path in ALL {
            assert_eq!(ask("HEAD", path).await.0, StatusCode::OK);
            assert_eq!(ask("POST", path).await.0, StatusCode::METHOD_NOT_ALLOWED);
        }
        assert_eq!(ask("GET", "/auth/pages/other").await.0, StatusCode::NOT_FOUND);
    }
}
