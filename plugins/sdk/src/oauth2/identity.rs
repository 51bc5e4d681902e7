//! Whose account it is: by the ID token, the userinfo endpoint (OpenID Connect Core §5.3), or what was kept.

use serde_json::Value;

use super::answer;
use super::settings::{IdentitySource, Settings};
use super::values::{Values, with_headers};
use crate::http::Request;
use crate::{Account, Context, CurrentTokens, Failure, json, jwt};

/// Says whose account it is.
///
/// # Errors
/// [`Failure::ProviderError`] when there is no subject to be found; those of the request where one is made.
pub fn identity(cx: &Context<'_>, settings: &Settings, current: &CurrentTokens) -> Result<Account, Failure> {
    match settings.identity {
        IdentitySource::IdToken => account(&id_token(cx, settings, current)?, settings),
        IdentitySource::Userinfo => account(&userinfo(cx, settings, current)?, settings),
        IdentitySource::Answer => account(&json::object(cx.connection.kept.iter()), settings),
        IdentitySource::None => {
            Err(Failure::misconfigured("settings: `identity` does not say where the identity is"))
        }
    }
}

/// The claims of the connection's ID token, which is this client's and, where the settings name an issuer, of
/// that one.
///
/// # Errors
/// [`Failure::ProviderError`] when there is none, or it is for another client or of another account.
pub fn id_token(cx: &Context<'_>, settings: &Settings, current: &CurrentTokens) -> Result<Value, Failure> {
    let token = current.id_token.as_deref().ok_or_else(|| {
        Failure::provider_error("the provider gave no ID token; is the scope `openid` asked for?")
    })?;
    let claims = jwt::claims(token)?;
    if !jwt::is_for(&claims, &cx.connection.client_id) {
        return Err(Failure::provider_error("the ID token is for another client"));
    }
    if let Some(issuer) = &settings.issuer
        && claims["iss"] != issuer.as_str()
    {
        return Err(Failure::provider_error("the ID token is of another issuer"));
    }
    Ok(claims)
}

/// What `userinfo_url` answers to the access token.
///
/// # Errors
/// By the table in docs/oauth2.md.
pub fn userinfo(cx: &Context<'_>, settings: &Settings, current: &CurrentTokens) -> Result<Value, Failure> {
    let template = settings
        .userinfo_url
        .as_deref()
        .ok_or_else(|| Failure::misconfigured("settings: `userinfo_url` is missing"))?;
    let url = Values::new(cx).url(template)?;
    let mut request = with_headers(Request::get(url).bearer(&current.access_token), settings);
    for (name, value) in settings.userinfo_headers.iter() {
        request = request.header(name, value);
    }
    let response = cx.send(&request)?;
    if let Some(failure) = response.transient(cx.now()) {
        return Err(failure);
    }
    let answer = answer::parse(&response.body);
    match answer::refused(settings, &response, &answer, &[&current.access_token]) {
        Some(failure) => Err(failure),
        None => Ok(answer),
    }
}

/// The account in `claims`, by the paths of `identity_fields`.
///
/// # Errors
/// [`Failure::ProviderError`] when there is no subject.
pub fn account(claims: &Value, settings: &Settings) -> Result<Account, Failure> {
    let fields = &settings.identity_fields;
    let path = |own: &Option<String>, usual: &str| own.clone().unwrap_or_else(|| usual.to_owned());
    let subject = path(&fields.subject, "sub");
    // The usual flag is about the usual address, and about no other.
    let usual = fields.email.as_deref().is_none_or(|path| path == "email");
    let verified = fields.email_verified.as_deref().or_else(|| usual.then_some("email_verified"));
    Ok(Account {
        subject: json::identifier_at(claims, &subject).ok_or_else(|| {
            Failure::provider_error(format!(
                "the provider's answer has no `{subject}` that is a text or a whole number"
            ))
        })?,
        email: json::string_at(claims, &path(&fields.email, "email")),
        email_verified: verified.and_then(|path| json::at(claims, path)).is_some_and(json::flag),
        name: json::text_at(claims, &path(&fields.name, "name")),
    })
}
