//! What Palisade answers itself among the proxied traffic: accounts, sessions and connections for their owners, the
//! pages of mailed links, and the published documents.

mod accounts;
mod callback;
mod caller;
mod connection_schema;
mod connections;
mod cookies;
mod deletion;
mod docs;
mod email_changes;
mod entry;
mod hosts;
mod link_browser;
mod openapi;
mod page_forms;
mod pages;
mod people;
mod registration;
mod same_origin;
mod schema;
mod session;
mod session_cookies;
#[cfg(test)]
mod single_page_tests;
mod state;
#[cfg(test)]
mod tests;
mod well_known;

use std::sync::Arc;

use axum::Router;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowCredentials, AllowOrigin, CorsLayer};
use utoipa_axum::router::OpenApiRouter;

use super::failure::{method_not_allowed, not_found};
use crate::http_fields::Fields;
use palisade_core::domain::cors::{Cors, Origins};
use palisade_core::domain::credential::only_bearer;

pub use state::AuthState;
pub use well_known::{NativeState, native_router};

/// The endpoints below [`AuthState::prefix`], their description, and the pages that mailed links open.
pub fn auth_router(state: AuthState) -> Router {
    let state = Arc::new(state);
    let (endpoints, described) = endpoints().split_for_parts();
    let document = super::openapi::document(
        described,
        &format!("{}{}", state.public_url, state.prefix),
        &openapi::failures(),
    );
    let page = docs::page(&document, &state.prefix);
    let endpoints = endpoints
        .with_state(Arc::clone(&state))
        .merge(docs::router(&document, page))
        .method_not_allowed_fallback(method_not_allowed);
    let endpoints = match cors(&state.cors) {
        Some(cors) => endpoints.layer(cors),
        None => endpoints,
    };
    let people = people::router(&state.browser).with_state(Arc::clone(&state));
    let entry = entry::router(&state.browser).with_state(Arc::clone(&state));
    let pages = people.merge(entry).method_not_allowed_fallback(method_not_allowed);
    let beside = hosts::router().merge(people::well_known(&state.browser)).with_state(Arc::clone(&state));
    Router::new().nest(&state.prefix, endpoints.merge(pages).fallback(not_found)).merge(beside)
}

/// Every endpoint, described by the very code that mounts it.
fn endpoints() -> OpenApiRouter<Arc<AuthState>> {
    OpenApiRouter::with_openapi(openapi::frame())
        .merge(accounts::endpoints())
        .merge(session::endpoints())
        .merge(deletion::endpoints())
        .merge(email_changes::endpoints())
        .merge(connections::endpoints())
        .merge(callback::endpoints())
}

/// Tokens travel in `Authorization`, which a page must set itself, and never in cookies. So every origin may be
/// allowed: a page can do no more than what its visitor types into it. Credentials, which is to say cookies, are
/// allowed to origins that are named: everywhere with `credentials = true`, and without it where a cookie is set for
/// a request that a token authorises ([`begins_consent`]).
fn cors(cors: &Cors) -> Option<CorsLayer> {
    let named = matches!(cors.origins, Origins::These(_));
    let everywhere = cors.credentials;
    let allowed = match &cors.origins {
        Origins::Any => AllowOrigin::any(),
        Origins::These(none) if none.is_empty() => return None,
        // They were read as origins, which are visible ASCII.
        Origins::These(some) => {
            AllowOrigin::list(some.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
        }
    };
    // They were read as names of header fields. Written as one value, as `*` may be among them.
    let names =
        |text: String| text.split(", ").filter_map(|name| name.parse().ok()).collect::<Vec<HeaderName>>();
    let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let methods: Vec<Method> =
        methods.into_iter().filter(|method| cors.allows_method(method.as_str())).collect();
    Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods(methods)
            .allow_headers(names(cors.allowed_headers()))
            .allow_credentials(AllowCredentials::predicate(move |_, request| {
                named && (everywhere || begins_consent(request))
            }))
            .expose_headers(names(cors.exposed_headers()))
            .max_age(cors.max_age),
    )
}

/// Whether it begins a connection with an access token, or asks whether it may: the answer sets the cookie of the consent,
/// which a browser keeps for credentialed requests only. A session cookie never authorises what this allows a page to
/// read: an origin that is not trusted with it is refused ([`caller`]).
fn begins_consent(request: &Parts) -> bool {
    let fields = &request.headers;
    let is_begin = |method: &[u8]| method == b"POST" && request.uri.path().ends_with(connections::BEGIN);
    if request.method == Method::OPTIONS {
        let method = fields.get(header::ACCESS_CONTROL_REQUEST_METHOD);
        let asked = fields.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).iter();
        let mut names = asked.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
        return method.is_some_and(|method| is_begin(method.as_bytes()))
            && names.any(|name| name.trim().eq_ignore_ascii_case("authorization"));
    }
    is_begin(request.method.as_str().as_bytes()) && matches!(only_bearer(&Fields(fields)), Ok(Some(_)))
}
