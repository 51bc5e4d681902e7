//! Connecting accounts at providers, and disconnecting them.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::super::super::super::failure::Failure;
use super::super::super::callback;
use super::super::Form;
use super::super::Told;
use super::super::answer;
use super::super::url;
use super::facts::title;
use super::{AccountPage, PAGE, Wrong};
use palisade_core::domain::connection::{ConnectionId, Status};
use palisade_core::domain::redirect::Location;
use palisade_core::service::connections::{Begin, BegunConsent, ConnectionError};

const FORM: &str = "connections";
/// What the names of inputs for parameters of a provider begin with.
const PARAMETER: &str = "parameter:";

impl AccountPage<'_> {
    /// What to say to a browser that comes back from a provider; nothing about a connection of another account.
    pub(super) async fn came_back(&self, id: ConnectionId, is_refused: bool) -> Option<&'static str> {
        let connection = self.state.connections.connection(self.owner.person, id).await.ok()?;
        Some(match (is_refused, connection.status) {
            (true, _) => "refused",
            (false, Status::Active) => "connected",
            (false, _) => "pending",
        })
    }

    /// Begins a connection, and leads to where its provider asks for consent.
    pub(super) async fn connect(&self, form: &Form) -> Result<Response, Wrong> {
        let provider = form.text("provider");
        let connection = match form.has("connection") {
            true => Some(
                form.text("connection")
                    .parse()
                    .map_err(|_| self.wrong(ConnectionError::NotFound, provider))?,
            ),
            false => None,
        };
        let begin = Begin {
            provider: provider.to_owned(),
            scopes: None,
            return_to: Some(url(self.state, PAGE)),
            parameters: form
                .below(PARAMETER)
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            connection,
            another: form.has("another"),
        };
        let begun = self.state.connections.begin(&self.asked.client, self.owner.person, begin).await;
        let begun = begun.map_err(|error| self.wrong(error, provider))?;
        Ok(self.leaving(&begun))
    }

    /// To the provider. Browsers hold the redirect after a form to the `form-action` of its page (CSP 3 §6.4.2), and the
    /// addresses of providers are not known ahead. So the answer is a page that leads there, at once (`Refresh`, HTML
    /// §7.4.2.5) and by a link.
    fn leaving(&self, begun: &BegunConsent) -> Response {
        let Some(url) = &begun.authorization_url else { return self.done(Some("connected")) };
        let providers = self.state.connections.providers();
        let facts = json!({
            "step": "leaving",
            "provider": title(&begun.connection.provider, &providers),
            "authorization_url": url,
        });
        let headers = &self.asked.headers;
        let mut response = answer(self.state, headers, PAGE, 200, "leaving", &facts);
        let fields = response.headers_mut();
        let refresh = Location::new(url.as_str()).ok();
        if let Some(Ok(refresh)) = refresh.map(|to| HeaderValue::from_str(&format!("0;url={}", to.as_str())))
        {
            fields.insert(header::REFRESH, refresh);
        }
        if let (Some(browser), Some(consent)) = (&begun.browser, &begun.connection.consent) {
            match callback::set_cookies(self.state, headers, consent.id, browser) {
                Ok(cookies) => cookies.into_iter().for_each(|cookie| {
                    response.headers_mut().append(header::SET_COOKIE, cookie);
                }),
                Err(failure) => return failure.into_response(),
            }
        }
        response
    }

    pub(super) async fn disconnect(&self, form: &Form) -> Result<Response, Wrong> {
        let wrong = |error| self.wrong(error, "");
        let id: ConnectionId =
            form.text("connection").parse().map_err(|_| wrong(ConnectionError::NotFound))?;
        self.state.connections.disconnect(&self.asked.client, self.owner.person, id).await.map_err(wrong)?;
        Ok(self.done(Some("disconnected")))
    }

    fn wrong(&self, error: ConnectionError, provider: &str) -> Wrong {
        let failure = Failure::from(error);
        let (status, code, wait) = (failure.status(), failure.code(), failure.retry_after());
        let told = match code {
            "unknown_provider" | "connection_revoked" => "not_found",
            "invalid_request" => "provider_parameters",
            "reconnect_needed" => "provider_failed",
            code => code,
        };
        let provider = title(provider, &self.state.connections.providers());
        let errors = json!([{"field": null, "code": told, "provider": provider, "wait": wait}]);
        Wrong::new(FORM, Told { status, code, errors, retry_after: wait })
    }
}
