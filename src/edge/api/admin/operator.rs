//! Who calls: the check of the admin credential, the id of each call, and the audit of calls that are not done.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;

use super::super::failure::{Code, Failure};
use super::state::AdminState;
use palisade_core::domain::audit::Outcome;

/// The second in which a call without the credential was written down last: a flood of them is told once a second.
pub(super) type LastRecordedRefusal = Arc<AtomicU64>;

pub(super) async fn only_operator(
    State((state, told)): State<(AdminState, LastRecordedRefusal)>,
    mut request: Request,
    next: Next,
) -> Response {
    let wanted = state.credential.expose_secret().as_bytes();
    let mut given = request.headers().get_all(header::AUTHORIZATION).iter();
    let first = given.next().map(|value| value.as_bytes());
    let presented = match first.and_then(|value| value.split_at_checked(7)) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") => rest.trim_ascii(),
        _ => b"",
    };
    let is_operator = !wanted.is_empty() && given.next().is_none() && bool::from(presented.ct_eq(wanted));
    if is_operator {
        let id = uuid::Uuid::now_v7().to_string();
        request.extensions_mut().insert(RequestId(id.clone()));
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let peer = request.extensions().get().map(|Peer(address)| *address);
        let mut response = next.run(request).await;
        let status = response.status();
        if (status.is_client_error() || status.is_server_error()) && method != Method::GET {
            let code = response.extensions().get().map_or("failed", |Code(code)| code);
            let outcome = if status.is_client_error() { Outcome::Denied } else { Outcome::Failed };
            state.accounts.note_admin_call(&id, peer, outcome, code, (method.as_str(), &path));
        }
        if let Ok(id) = id.parse() {
            response.headers_mut().insert("x-request-id", id);
        }
        return response;
    }
    let now = state.accounts.now().0;
    if told.swap(now, Ordering::Relaxed) != now {
        let peer = request.extensions().get().map(|Peer(address)| *address);
        let reason = if first.is_some() { "wrong_credential" } else { "no_credential" };
        let call = (request.method().as_str(), request.uri().path());
        state.accounts.note_admin_call("", peer, Outcome::Denied, reason, call);
    }
    unauthorized().into_response()
}

pub(super) fn unauthorized() -> Failure {
    let cure = "send `Authorization: Bearer` with the admin credential; it is in `admin.token` in the \
                data folder";
    Failure::new(401, "unauthorized", cure).challenging("Bearer realm=\"palisade-admin\"")
}

/// Who a call comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// The id of an operator's request, in its answer and in the audit log.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<RequestId, Infallible> {
        // Every request that gets this far was given one.
        Ok(parts.extensions.get().cloned().unwrap_or(RequestId(String::new())))
    }
}
