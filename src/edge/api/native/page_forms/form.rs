//! A form that a page of ours posted.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::super::super::body;
use super::super::super::failure::Failure;
use super::super::caller::Asked;
use super::super::same_origin;
use super::super::state::AuthState;
use super::at_home::{page_of, wrong_host};
use super::{answer, url};
use palisade_core::domain::page::PageName;

/// How many inputs a form may have.
const MAX_INPUTS: usize = 32;
/// The longest value that is shown again, in characters.
const MAX_SHOWN: usize = 320;

/// The inputs of a form (`application/x-www-form-urlencoded`, WHATWG URL §5) that a page of the same origin sent.
///
/// There is no other way to one: what another site posts is refused before it is read (CSRF, login CSRF), with a cookie
/// or without. So is what does not say where it comes from: every browser says it.
pub(in super::super) struct Form(Vec<(String, SecretString)>);

impl Form {
    /// What was typed into this input, without white space at its ends; empty when there is none.
    pub(in super::super) fn text(&self, name: &str) -> &str {
        self.value(name).map_or("", str::trim)
    }

    /// [`Form::text`] as it may be shown in the form again.
    pub(in super::super) fn again(&self, name: &str) -> String {
        self.text(name).chars().take(MAX_SHOWN).collect()
    }

    /// A password, as it was typed.
    pub(in super::super) fn password(&self, name: &str) -> SecretString {
        self.value(name).unwrap_or_default().to_owned().into()
    }

    /// Whether something was typed into this input, or it was chosen.
    pub(in super::super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| !value.is_empty())
    }

    /// The inputs whose names begin with `prefix`, without it, as far as something was typed into them.
    pub(in super::super) fn below<'f>(&'f self, prefix: &'f str) -> impl Iterator<Item = (&'f str, &'f str)> {
        let below = self.0.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value)));
        below.map(|(name, value)| (name, value.expose_secret())).filter(|(_, value)| !value.is_empty())
    }

    /// The first of this name.
    fn value(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.expose_secret())
    }
}

impl FromRequest<Arc<AuthState>> for Form {
    type Rejection = Response;

    async fn from_request(request: Request, state: &Arc<AuthState>) -> Result<Form, Response> {
        let (mut parts, body) = request.into_parts();
        let Ok(asked) = Asked::from_request_parts(&mut parts, state).await;
        // On another host the cookie of the session would not count.
        if same_origin::require(state, &asked.headers).is_err() {
            let page = url(state, page_of(parts.uri.path()));
            let facts = json!({"kind": "cross_site", "page_url": page});
            return Err(answer(state, &asked.headers, PageName::Error, 403, "cross_site", &facts));
        }
        // These need no session: the link is what counts, by whatever name of this service it was opened.
        let needs_home = !matches!(page_of(parts.uri.path()), PageName::Undo | PageName::Object);
        if needs_home && !asked.is_at_home(state) {
            return Err(wrong_host(state, &asked, &format!("{}/", state.public_url)));
        }
        let request = Request::from_parts(parts, body);
        if !body::is_of(&request, b"application/x-www-form-urlencoded") {
            let want = "send the form as `Content-Type: application/x-www-form-urlencoded`";
            return Err(Failure::new(415, "unsupported_media_type", want).into_response());
        }
        let bytes = body::read(request).await.map_err(IntoResponse::into_response)?;
        let inputs = form_urlencoded::parse(&bytes).take(MAX_INPUTS);
        Ok(Form(inputs.map(|(name, value)| (name.into_owned(), value.into_owned().into())).collect()))
    }
}
