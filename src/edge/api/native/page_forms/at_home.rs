//! Pages with forms are on the host of `public_url`: the cookies that they need and set count there.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::Uri;
use axum::http::request::Parts;
use axum::response::Response;
use serde_json::json;

use super::super::caller::Asked;
use super::super::state::AuthState;
use super::{answer, redirect};
use palisade_core::domain::page::PageName;
use palisade_core::domain::sign_in_url::SignInUrl;
use palisade_core::service::caller::AskedHost;

/// In the query after a redirect to the right host. A request that has it and is on the wrong host all the same comes
/// through a proxy that writes another `Host`, or by a name for this service that only the operator can explain: one
/// more redirect would lead to the same place.
const MOVED: &str = "moved";

/// A request to open a page on the host of `public_url`.
///
/// On every other host a browser is sent there before anything is typed: what a form posts there would be refused.
pub(in super::super) struct AtHome;

impl FromRequestParts<Arc<AuthState>> for AtHome {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<AuthState>) -> Result<AtHome, Response> {
        let Ok(asked) = Asked::from_request_parts(parts, state).await;
        if asked.is_at_home(state) {
            return Ok(AtHome);
        }
        let home = state.pages.url(page_of(parts.uri.path()));
        let query = parts.uri.query();
        match parts.extensions.get() {
            Some(AskedHost(host)) if !is_moved(query) && !is_on(&home, host) => {
                let url = query.map_or_else(|| home.clone(), |query| format!("{home}?{query}"));
                Err(redirect("moved", &SignInUrl::of(&url).with(MOVED, "1").into_string()))
            }
            // No host is told, or the redirect would lead to itself.
            _ => Err(wrong_host(state, &asked, &home)),
        }
    }
}

/// The page that a path leads to.
pub(super) fn page_of(path: &str) -> PageName {
    let last = path.rsplit('/').next();
    PageName::ALL.into_iter().find(|page| Some(page.name()) == last).unwrap_or(PageName::SignIn)
}

/// The page that says which address is the right one.
pub(in super::super) fn wrong_host(state: &AuthState, asked: &Asked, right: &str) -> Response {
    let facts = json!({"kind": "address", "right_url": right});
    answer(state, &asked.headers, PageName::Error, 403, "wrong_host", &facts)
}

fn is_moved(query: Option<&str>) -> bool {
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.any(|(name, _)| name == MOVED)
}

fn is_on(url: &str, host: &str) -> bool {
    url.parse::<Uri>().is_ok_and(|url| url.host() == Some(host))
}
