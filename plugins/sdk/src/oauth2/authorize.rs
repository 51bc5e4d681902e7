//! The authorization request (RFC 6749 §4.1.1, RFC 7636 §4.3).

use super::settings::{PkceMethod, Settings};
use super::values::Values;
use crate::{Authorization, Context, Failure, Fields, Pkce, url};

/// The URL at which the user gives consent, or that there is no consent to give.
///
/// # Errors
/// [`Failure::Misconfigured`] and [`Failure::ProviderError`] when a template comes out wrong.
pub fn authorize(
    cx: &Context<'_>,
    settings: &Settings,
    state: &str,
    pkce: &Pkce,
) -> Result<Authorization, Failure> {
    let Some(template) = settings.authorize_url.as_deref().filter(|_| !settings.is_unattended()) else {
        return Ok(Authorization::Unattended);
    };
    let connection = cx.connection;
    let values = Values::new(cx);
    let mut fields = Fields::default();
    let mut add = |name: &str, value: &str| {
        if !name.is_empty() && !value.is_empty() {
            fields.push(name, value);
        }
    };
    add("response_type", &settings.response_type);
    add(&settings.client_id_param, &connection.client_id);
    add(&settings.redirect_uri_param, &connection.redirect_uri);
    add(&settings.scope_param, &connection.scopes.join(&settings.scope_separator));
    values.add(&mut fields, &settings.authorize_params)?;
    // Last, so that no setting replaces what protects the user.
    fields.set(&settings.state_param, state);
    let challenge = match settings.pkce {
        PkceMethod::S256 => Some((&pkce.challenge, "S256")),
        PkceMethod::Plain => Some((&pkce.verifier, "plain")),
        PkceMethod::Off => None,
    };
    if let Some((challenge, method)) = challenge {
        fields.set("code_challenge", challenge.as_str());
        fields.set("code_challenge_method", method);
    }
    Ok(Authorization::Visit(url::with_query(&values.url(template)?, &fields)))
}
