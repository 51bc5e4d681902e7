//! Every page with sample facts, for authors of templates to look at.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderName, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::TemplatedPages;
use super::samples::{Sample, samples};
use crate::config::{ConfigError, error_lines};
use crate::http_fields;
use palisade_core::domain::page::PageName;
use palisade_core::domain::reply::Reply;
use palisade_core::ports::{PageRenderer, PageRequest};

/// Reads the templates.
type Load = Arc<dyn Fn() -> Result<TemplatedPages, Vec<ConfigError>> + Send + Sync>;

/// Serves on `address`, and tells `bound` where that is: `/` with a list, `/PAGE/SAMPLE/LANGUAGE` with a page, and the
/// files that it is made with. `load` is called for each of them, so a change of a template shows with the next look. The
/// forms lead nowhere.
///
/// # Errors
/// The address could not be bound.
pub async fn preview(
    address: SocketAddr,
    bound: impl FnOnce(SocketAddr),
    load: impl Fn() -> Result<TemplatedPages, Vec<ConfigError>> + Send + Sync + 'static,
) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    bound(listener.local_addr()?);
    axum::serve(listener, router(Arc::new(load))).await
}

pub(super) fn router(load: Load) -> Router {
    let (listed, shown) = (Arc::clone(&load), Arc::clone(&load));
    Router::new()
        .route("/", get(move || async move { with(&listed, list) }))
        .route(
            "/{page}/{sample}/{language}",
            get(move |Path((page, sample, language)): Path<(String, String, String)>| async move {
                with(&shown, |pages| show(pages, &page, &sample, &language))
            }),
        )
        .fallback(move |request: axum::extract::Request| async move {
            let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            with(&load, |pages| pages.assets.answer(&name))
        })
}

/// What `answer` makes of the templates, or what is wrong with them.
fn with(load: &Load, answer: impl FnOnce(&TemplatedPages) -> Response) -> Response {
    match load() {
        Ok(pages) => answer(&pages),
        Err(errors) => (StatusCode::INTERNAL_SERVER_ERROR, error_lines(&errors)).into_response(),
    }
}

fn list(pages: &TemplatedPages) -> Response {
    let mut html = "<!doctype html>\n<html lang=\"en\">\n<title>Pages</title>\n<h1>Pages</h1>\n".to_owned();
    for page in PageName::ALL {
        let page_name = page.name();
        // The text can always grow.
        let _ = writeln!(html, "<h2>{page_name}</h2>\n<ul>");
        for Sample { name, .. } in samples(page).unwrap_or_default() {
            let links =
                pages.languages().map(|tag| format!("<a href=\"/{page_name}/{name}/{tag}\">{tag}</a>"));
            let _ = writeln!(html, "<li>{name}: {}</li>", links.collect::<Vec<_>>().join(" "));
        }
        html.push_str("</ul>\n");
    }
    Html(html + "</html>\n").into_response()
}

fn show(pages: &TemplatedPages, page: &str, sample: &str, language: &str) -> Response {
    let page = PageName::ALL.into_iter().find(|known| known.name() == page);
    let found = page.and_then(|page| {
        let samples = samples(page).unwrap_or_default();
        samples.into_iter().find(|known| known.name == sample).map(|sample| (page, sample))
    });
    let Some((page, Sample { status, facts, .. })) = found else {
        return (StatusCode::NOT_FOUND, "there is no such page or sample").into_response();
    };
    let request =
        PageRequest { page, status, code: "preview", accept_language: Some(language), facts: &facts };
    let reply = Reply::from(pages.render(&request));
    let mut response = Response::new(Body::from(reply.body().into_owned()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    for field in reply.fields() {
        // Always: the domain's types hold visible ASCII only.
        if let Ok(value) = http_fields::value(&field) {
            response.headers_mut().append(HeaderName::from_static(field.name), value);
        }
    }
    response
}
