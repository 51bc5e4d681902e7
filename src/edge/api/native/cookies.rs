//! The cookies of the native endpoints: those of a request are read, and those of an answer are made, here only.
//!
//! Over TLS a cookie of ours is `__Host-`, which a host beside ours cannot plant (RFC 6265bis §4.1.3.2).

use axum::http::{HeaderMap, HeaderValue, header};
use cookie::Cookie;
pub(super) use cookie::SameSite;
use cookie::time::Duration;

use super::super::failure::{Failure, internal};
use super::state::AuthState;
use crate::http_fields;
use palisade_core::domain::credential::HOST_PREFIX;
use palisade_core::domain::redirect::SetCookie;
use palisade_core::domain::reply::Field;

/// What a cookie is beside its value. None is ever shown to a script.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'a> {
    /// Without TLS: the path below the prefix of the endpoints. `__Host-` asks for `/`.
    pub(super) below: &'a str,
    /// In seconds; zero makes the browser forget it.
    pub(super) max_age: u64,
    /// Which requests of other sites bring it (RFC 6265bis §4.1.2.7): `Lax` for navigations, as when a provider sends
    /// the browser back; `Strict` for none.
    pub(super) same_site: SameSite,
}

/// The name that a cookie of ours has here.
pub(super) fn name(state: &AuthState, plain: &str) -> String {
    format!("{}{plain}", if state.is_tls() { HOST_PREFIX } else { "" })
}

/// The cookies of a request, names and values, in their order. A line that is not visible ASCII has none.
pub(super) fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let cookies = lines.flat_map(Cookie::split_parse).filter_map(Result::ok);
    cookies.filter_map(|cookie| Some((cookie.name_raw()?, cookie.value_raw()?)))
}

/// The only cookie of this name. Of two, another host or path may have planted one (RFC 6265 §8.6), so neither counts.
pub(super) fn only<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = pairs(headers).filter(|(key, _)| *key == name);
    let (_, value) = values.next()?;
    values.next().is_none().then_some(value)
}

/// The value of `Set-Cookie`.
///
/// # Errors
/// The value cannot stand in a header field. The values that we make always can.
pub(super) fn set(
    state: &AuthState,
    name: &str,
    value: &str,
    attributes: Attributes<'_>,
) -> Result<HeaderValue, Failure> {
    let Attributes { below, max_age, same_site } = attributes;
    let is_tls = state.is_tls();
    let path = if is_tls { "/".to_owned() } else { format!("{}{below}", state.prefix) };
    let cookie = Cookie::build((name, value))
        .path(path)
        // `Secure` is written only where it is true.
        .secure(is_tls)
        .http_only(true)
        .same_site(same_site)
        .max_age(Duration::seconds(i64::try_from(max_age).unwrap_or(i64::MAX)));
    let cookie = SetCookie::new(cookie.to_string()).map_err(|_| internal())?;
    let field = Field { name: "set-cookie", value: cookie.expose().into(), is_secret: true };
    http_fields::value(&field).map_err(|_| internal())
}
