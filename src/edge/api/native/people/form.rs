//! A form that a page of ours posted.

use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::super::super::body;
use super::super::super::failure::Failure;
use super::super::state::AuthState;
use super::answer;
use crate::http_fields::Fields;
use palisade_core::domain::browser::NamedOrigin;
use palisade_core::domain::page::PageName;
use palisade_core::domain::same_origin::{Sender, sender};

/// How many inputs a form may have.
const MAX_INPUTS: usize = 32;
/// The longest value that is shown again, in characters.
const MAX_SHOWN: usize = 320;

/// The inputs of a form (`application/x-www-form-urlencoded`, WHATWG URL §5) that a page of the same origin sent.
///
/// There is no other way to one: what another site posts is refused before it is read (CSRF, login CSRF), with a cookie
/// or without. So is what does not say where it comes from: every browser says it.
pub(super) struct Form(Vec<(String, SecretString)>);

impl Form {
    /// What was typed into this input, without white space at its ends; empty when there is none.
    pub(super) fn text(&self, name: &str) -> &str {
        self.value(name).map_or("", str::trim)
    }

    /// [`Form::text`] as it may be shown in the form again.
    pub(super) fn again(&self, name: &str) -> String {
        self.text(name).chars().take(MAX_SHOWN).collect()
    }

    /// A password, as it was typed.
    pub(super) fn password(&self, name: &str) -> SecretString {
        self.value(name).unwrap_or_default().to_owned().into()
    }

    /// Whether something was typed into this input, or it was chosen.
    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| !value.is_empty())
    }

    /// The inputs whose names begin with `prefix`, without it, as far as something was typed into them.
    pub(super) fn below<'f>(&'f self, prefix: &'f str) -> impl Iterator<Item = (&'f str, &'f str)> {
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
        let is_own = |origin: &palisade_core::domain::request::WebOrigin<'_>| {
            NamedOrigin::of(origin) == state.browser.public
        };
        let sent_by = sender(&Fields(request.headers()), &is_own, &|origin| state.cors.trusts(origin));
        if sent_by != Sender::SameOrigin {
            let facts = json!({"kind": "cross_origin"});
            return Err(answer(state, request.headers(), PageName::Error, 403, "cross_origin", &facts));
        }
        if !body::is_of(&request, b"application/x-www-form-urlencoded") {
            let want = "send the form as `Content-Type: application/x-www-form-urlencoded`";
            return Err(Failure::new(415, "unsupported_media_type", want).into_response());
        }
        let bytes = body::read(request).await.map_err(IntoResponse::into_response)?;
        let inputs = form_urlencoded::parse(&bytes).take(MAX_INPUTS);
        Ok(Form(inputs.map(|(name, value)| (name.into_owned(), value.into_owned().into())).collect()))
    }
}
