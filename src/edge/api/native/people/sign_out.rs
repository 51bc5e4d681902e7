//! Signing out: what an app's own button links to, with the place to return to (`return_to`).
//!
//! A link is followed with GET, so a request has to look like a person who pressed it on a page of the same site
//! ([`is_pressed`]); otherwise one question is asked first. An `<img>` of another site, a prefetch or a prerender ends no
//! session.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value, json};

use super::super::caller::Asked;
use super::super::state::{AuthState, SharedAuthState};
use super::Form;
use super::own::{failed, forgotten, is_from_us, owner};
use super::{Owner, url};
use super::{redirect, shown};
use palisade_core::domain::navigation::OF_SPECULATION;
use palisade_core::domain::page::PageName;
use palisade_core::domain::return_to::ReturnTarget;
use palisade_core::domain::sign_in_url::{NOTICE, RETURN_TO, SignInUrl};

const PAGE: PageName = PageName::SignOut;
/// Says what was done, in an address.
const DONE: &str = "done";
/// The value of [`DONE`] after an account was deleted.
const DELETED: &str = "deleted";
/// How many parameters of an address are looked at.
const MAX_PARAMETERS: usize = 16;

pub(super) fn router() -> Router<Arc<AuthState>> {
    Router::new().route("/pages/sign-out", get(show).post(submit))
}

/// Where a browser goes whose account was deleted.
pub(super) fn address_of_deleted(state: &AuthState) -> String {
    SignInUrl::of(&url(state, PAGE)).with(DONE, DELETED).into_string()
}

/// Whether a person has pressed a link on a page of the same site, as the browser says itself: a navigation of a whole tab
/// that is no speculation (W3C Fetch Metadata; Fetch standard §2.2.5). Without fetch metadata it is unknown, and so no.
fn is_pressed(method: &Method, headers: &HeaderMap) -> bool {
    let only = |name: &str| {
        let mut values = headers.get_all(name).iter();
        let first = values.next().filter(|_| values.next().is_none());
        first.map(|value| value.as_bytes())
    };
    // axum answers HEAD as GET.
    method == Method::GET
        && only("sec-fetch-mode") == Some(b"navigate")
        && only("sec-fetch-dest") == Some(b"document")
        && matches!(only("sec-fetch-site"), Some(b"same-origin" | b"same-site"))
        && OF_SPECULATION.iter().all(|name| !headers.contains_key(*name))
}

async fn show(
    State(state): SharedAuthState,
    method: Method,
    asked: Asked,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let (mut targets, mut is_deleted) = (Vec::new(), false);
    for (name, value) in form_urlencoded::parse(query.as_bytes()).take(MAX_PARAMETERS) {
        match &*name {
            RETURN_TO => targets.push(value.into_owned()),
            DONE => is_deleted = value == DELETED && is_from_us(&asked.headers),
            _ => {}
        }
    }
    // Of two, readers could differ in which one counts.
    let target = match &targets[..] {
        [target] => ReturnTarget::parse(target, &state.browser),
        _ => None,
    };
    match owner(&state, &asked).await {
        Err(page) => page,
        Ok(None) => gone(&state, &asked, target.as_ref(), if is_deleted { DELETED } else { DONE }),
        Ok(Some(owner)) if is_pressed(&method, &asked.headers) => {
            signed_out(&state, &asked, &owner, target.as_ref()).await
        }
        Ok(Some(owner)) => {
            let facts = json!({
                "step": "ask",
                "person": owner.called,
                "return_to": target.as_ref().map(ReturnTarget::as_str),
                "sign_in_url": state.pages.url(PageName::SignIn),
            });
            shown(&state, &asked.headers, PAGE, facts)
        }
    }
}

async fn submit(State(state): SharedAuthState, asked: Asked, form: Form) -> Response {
    let target = ReturnTarget::parse(form.text(RETURN_TO), &state.browser);
    match owner(&state, &asked).await {
        Err(page) => page,
        Ok(None) => match state.accounts.await_in_force().await {
            Ok(()) => forgotten(&state, redirect("signed_out", &address(&state, target.as_ref()))),
            Err(error) => failed(&state, &asked.headers, error.into()),
        },
        Ok(Some(owner)) => signed_out(&state, &asked, &owner, target.as_ref()).await,
    }
}

/// Ends the session, with its cookies on every host and its access tokens, and goes on to the page that says so.
pub(super) async fn signed_out(
    state: &AuthState,
    asked: &Asked,
    owner: &Owner,
    target: Option<&ReturnTarget>,
) -> Response {
    match state.accounts.end_browser_session(&asked.client, owner.person.user, owner.session).await {
        Ok(()) => forgotten(state, redirect("signed_out", &address(state, target))),
        // The cookie stays: the session does, too.
        Err(error) => failed(state, &asked.headers, error.into()),
    }
}

/// This page, which does not sign in again by itself, whatever the place to return to does.
fn address(state: &AuthState, target: Option<&ReturnTarget>) -> String {
    let url = SignInUrl::of(&url(state, PAGE));
    target.map_or(url.clone(), |target| url.with(RETURN_TO, target.as_str())).into_string()
}

/// The page for a browser without a session.
fn gone(state: &AuthState, asked: &Asked, target: Option<&ReturnTarget>, step: &str) -> Response {
    let mut sign_in = SignInUrl::of(&state.pages.url(PageName::SignIn)).with(NOTICE, "signed_out");
    if let Some(target) = target {
        sign_in = sign_in.with(RETURN_TO, target.as_str());
    }
    let host = target.map(ReturnTarget::origin).filter(|origin| **origin != state.browser.public);
    let facts = json!({
        "step": step,
        "return_url": target.map(ReturnTarget::as_str),
        "return_host": host.map_or(Value::Null, |origin| json!(origin.host)),
        "sign_in_url": sign_in.into_string(),
    });
    // No cookie is taken back: the request may have come without one only because another site caused it (`SameSite`).
    shown(state, &asked.headers, PAGE, facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_person_on_the_same_site_presses_a_link() {
        let good =
            [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"), ("sec-fetch-site", "same-site")];
        let pressed = |method: &Method, fields: &[(&str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                let name: axum::http::HeaderName = name.parse().unwrap();
                headers.append(name, value.parse().unwrap());
            }
            is_pressed(method, &headers)
        };
        assert!(pressed(&Method::GET, &good));
        assert!(!pressed(&Method::HEAD, &good));
        assert!(!pressed(&Method::GET, &[]));
        for (at, wrong) in [
            (0, "no-cors"),
            (0, "cors"),
            (0, "websocket"),
            (0, "NAVIGATE"),
            (1, "iframe"),
            (1, "image"),
            (1, "empty"),
            (1, "object"),
            (2, "cross-site"),
            (2, "none"),
            (2, ""),
        ] {
            let mut fields = good;
            fields[at].1 = wrong;
            assert!(!pressed(&Method::GET, &fields), "{fields:?}");
            let mut lacks = good.to_vec();
            lacks.remove(at);
            assert!(!pressed(&Method::GET, &lacks), "{lacks:?}");
            let mut twice = good.to_vec();
            twice.push(good[at]);
            assert!(!pressed(&Method::GET, &twice), "{twice:?}");
        }
        for (name, value) in [
            ("sec-purpose", "prefetch;prerender"),
            ("purpose", "prefetch"),
            ("x-moz", "prefetch"),
            ("sec-purpose", ""),
        ] {
            let mut ahead = good.to_vec();
            ahead.push((name, value));
            assert!(!pressed(&Method::GET, &ahead), "{name}: {value}");
        }
    }
}
