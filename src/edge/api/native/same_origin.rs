//! The same-origin rule for the native endpoints (CSRF, login CSRF): [`palisade_core::domain::same_origin`], where the
//! origin that counts is that of `public_url`, or one that `[cors]` lists with `credentials = true`.

use axum::http::HeaderMap;

use super::super::failure::Failure;
use super::state::AuthState;
use crate::http_fields::Fields;
use palisade_core::domain::answer::answer;
use palisade_core::domain::browser::NamedOrigin;
use palisade_core::domain::same_origin::{self, Sender};
use palisade_core::domain::verdict::Refusal;

/// Where the request says that it comes from.
pub(super) fn sender(state: &AuthState, headers: &HeaderMap) -> Sender {
    same_origin::sender(
        &Fields(headers),
        &|origin| NamedOrigin::of(origin) == state.browser.public,
        &|origin| state.cors.trusts(origin),
    )
}

/// Whether script of a page of another origin sent it, which `[cors]` does not list with `credentials = true`. Browsers
/// name the origin on every request of that kind, whatever its method (Fetch standard, §3.2.1), and on no navigation by GET.
pub(super) fn is_foreign_script(state: &AuthState, headers: &HeaderMap) -> bool {
    headers.contains_key("origin") && sender(state, headers) == Sender::CrossOrigin
}

/// For what a session cookie authorises, what sets one, and every form of ours: only pages of the same origin. What says
/// nothing of where it comes from is refused as well.
///
/// # Errors
/// 403 `cross_site`.
pub(super) fn require(state: &AuthState, headers: &HeaderMap) -> Result<(), Failure> {
    match sender(state, headers) {
        Sender::SameOrigin => Ok(()),
        Sender::CrossOrigin | Sender::Unsaid => Err(cross_site()),
    }
}

/// For unsafe JSON requests that set no session cookie: pages of another site are refused, unless `[cors]` lets their
/// script call. Programs, which say nothing of where they come from, are not.
///
/// # Errors
/// 403 `cross_site`.
pub(super) fn refuse_cross_site(state: &AuthState, headers: &HeaderMap) -> Result<(), Failure> {
    let mut origins = headers.get_all("origin").iter();
    let is_allowed = match (origins.next(), origins.next()) {
        (Some(origin), None) => state.cors.allows(origin.as_bytes()),
        _ => false,
    };
    match sender(state, headers) {
        Sender::CrossOrigin if !is_allowed => Err(cross_site()),
        _ => Ok(()),
    }
}

pub(super) fn cross_site() -> Failure {
    answer(&Refusal::CrossSite).into()
}
