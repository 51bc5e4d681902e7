//! The sample app of `palisade run --demo`: it shows who the gateway says the caller is.
//!
//! It checks nothing itself, and it need not: only the gateway reaches it, on loopback, and the
//! gateway strips what callers write into the identity headers.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Uri, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::Stream;
use serde_json::{Map, Value};
use tokio::net::TcpSocket;

use crate::html::escaped;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// Begin the names of identity headers.
const IDENTITY: [&str; 2] = ["remote-", "x-auth-"];
/// Carries the gateway's assertion, in which people have names.
pub const ASSERTION: &str = "x-auth-assertion";

/// Serves the sample app on a loopback port of the system's choice until the process ends. `native` is the path that
/// the gateway's own pages are below.
///
/// # Errors
/// No port could be bound.
pub async fn serve(native: &str) -> io::Result<SocketAddr> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let listener = socket.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    let native = Arc::from(native);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router(native)).await {
            tracing::error!(%error, "the sample app stopped");
        }
    });
    Ok(address)
}

fn router(native: Arc<str>) -> Router {
    Router::new()
        .route("/events", get(|| async { Sse::new(ticks()).keep_alive(KeepAlive::default()) }))
        .route("/headers", get(headers))
        .fallback(page)
        .with_state(native)
}

/// One event at once, then one each second.
fn ticks() -> impl Stream<Item = Result<Event, Infallible>> {
    futures::stream::unfold(
        (0_u64, tokio::time::interval(Duration::from_secs(1))),
        |(count, mut clock)| async move {
            clock.tick().await;
            let event = Event::default().event("tick").id(count.to_string()).data(count.to_string());
            Some((Ok(event), (count + 1, clock)))
        },
    )
}

async fn headers(headers: HeaderMap) -> impl IntoResponse {
    let mut document = Map::new();
    for name in headers.keys() {
        let values: Vec<_> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        document.insert(name.to_string(), Value::String(values.join(", ")));
    }
    // No cache may keep it: the answer is made of the caller's own headers.
    ([(header::CACHE_CONTROL, "no-store")], axum::Json(Value::Object(document)))
}

async fn page(State(native): State<Arc<str>>, uri: Uri, headers: HeaderMap) -> impl IntoResponse {
    let mut rows = String::new();
    let is_identity = |name: &str| IDENTITY.iter().any(|family| name.starts_with(family));
    let shown = |name: &str| is_identity(name) && name != ASSERTION;
    for (name, value) in headers.iter().filter(|(name, _)| shown(name.as_str())) {
        let value = escaped(&String::from_utf8_lossy(value.as_bytes()));
        rows.push_str(&format!("<tr><th>{}</th><td>{value}</td></tr>\n", escaped(name.as_str())));
    }
    let named = ["x-auth-subject", "x-auth-user", "x-auth-sub"].iter().find_map(|name| headers.get(*name));
    let named = named.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let hello = match asserted_name(&headers).or(named) {
        Some(name) => format!("Hello, {}", escaped(&name)),
        None => "Hello, stranger".to_owned(),
    };
    let table = if rows.is_empty() {
        "<p>No identity headers came with this request.</p>".to_owned()
    } else {
        format!("<p>What the gateway told this app about you:</p>\n<table>\n{rows}</table>")
    };
    let path = escaped(uri.path());
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>Palisade sample app</title>\n\
         <style>body{{font:1rem/1.5 system-ui;max-width:40rem;margin:3rem auto;padding:0 1rem}}\
         th{{text-align:left;padding-right:1rem;vertical-align:top}}td{{overflow-wrap:anywhere}}</style>\n\
         <h1>{hello}</h1>\n<p>You asked for <code>{path}</code>.</p>\n{table}\n\
         <p>See also <a href=\"/headers\">every header</a> and <a href=\"/events\">an event stream</a>.</p>\n\
         <p><a href=\"{native}/pages/account\">Your account</a> · \
         <a href=\"{native}/pages/sign-out?return_to=%2F\">Sign out</a></p>\n\
         </html>\n"
    );
    ([(header::CACHE_CONTROL, "no-store")], Html(html))
}

/// What the gateway's assertion calls the caller. An app that others can reach must verify it first.
fn asserted_name(headers: &HeaderMap) -> Option<String> {
    let payload = headers.get(ASSERTION)?.to_str().ok()?.split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims["name"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt;

    async fn ask(path: &str, subject: &str) -> String {
        told(path, "x-auth-subject", subject).await
    }

    async fn told(path: &str, name: &str, value: &str) -> String {
        let request = Request::builder().uri(path).header(name, value).body(Body::empty()).unwrap();
        let response = router("/auth".into()).oneshot(request).await.unwrap();
        String::from_utf8(to_bytes(response.into_body(), 65536).await.unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn it_greets_whom_the_gateway_names() {
        assert!(ask("/any/path", "alice").await.contains("<h1>Hello, alice</h1>"));
        assert!(ask("/headers", "alice").await.contains(r#""x-auth-subject":"alice""#));
        let page = told("/", "remote-groups", "staff,Sales%2C EMEA").await;
        assert!(page.contains("<th>remote-groups</th><td>staff,Sales%2C EMEA</td>"), "{page}");
    }

    #[tokio::test]
    async fn what_it_shows_is_text_and_not_markup() {
        let page = ask("/", "<script>alert('x')</script>").await;
        assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"), "{page}");
    }

    #[tokio::test]
    async fn the_first_tick_comes_at_once() {
        use futures::StreamExt;
        let mut ticks = Box::pin(ticks());
        assert!(ticks.next().await.is_some());
    }
}
