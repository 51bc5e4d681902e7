//! Token requests: the exchange (RFC 6749 §4.1.3, §4.4.2) and the refresh (§6).

use super::answer;
use super::settings::{PkceMethod, RefreshBy, Settings, TokenMethod};
use super::values::{Values, client_auth, with_fields, with_headers};
use crate::http::{Request, Response};
use crate::{Context, CurrentTokens, Failure, Fields, Pkce, Tokens};

/// Exchanges what came back for tokens, or asks for them with the client's own credentials.
///
/// # Errors
/// By the table in docs/oauth2.md; [`Failure::ProviderError`] also when the callback lacks what it must have.
pub fn exchange(
    cx: &Context<'_>,
    settings: &Settings,
    callback: &Fields,
    pkce: &Pkce,
) -> Result<Tokens, Failure> {
    let given = |name: &str| callback.get(name).filter(|value| !value.is_empty());
    for name in &settings.callback_required {
        if given(name).is_none() {
            return Err(Failure::provider_error(format!("the callback came without `{name}`")));
        }
    }
    if let Some(name) = settings.callback_keep.iter().find(|name| given(name).is_some_and(|v| v.len() > 4096))
    {
        return Err(Failure::provider_error(format!("`{name}` of the callback is too long to keep")));
    }
    // RFC 9207 §2.4: the code would go to one provider, and be another's.
    if let (Some(issuer), Some(from)) = (&settings.issuer, callback.get("iss"))
        && from != issuer
    {
        return Err(Failure::provider_error("the callback comes from another issuer"));
    }
    let kept: Fields =
        settings.callback_keep.iter().filter_map(|name| Some((name.as_str(), given(name)?))).collect();
    let values = Values::and(cx, &kept);
    let mut fields = Fields::default();
    if !settings.grant_type.is_empty() {
        fields.push("grant_type", settings.grant_type.as_str());
    }
    if settings.is_unattended() {
        push_scopes(&mut fields, cx, settings);
    } else {
        let name = &settings.callback_code;
        let code = given(name)
            .ok_or_else(|| Failure::provider_error(format!("the callback came without `{name}`")))?;
        fields.push(settings.code_param.as_str(), code);
        if !settings.redirect_uri_param.is_empty() {
            fields.push(settings.redirect_uri_param.as_str(), cx.connection.redirect_uri.as_str());
        }
        if settings.pkce != PkceMethod::Off {
            fields.push("code_verifier", pkce.verifier.as_str());
        }
    }
    values.add(&mut fields, &settings.token_params)?;
    let secrets = [given(&settings.callback_code).unwrap_or_default(), pkce.verifier.as_str()];
    let mut tokens = request_tokens(cx, settings, &values.url(&settings.token_url)?, &fields, &secrets)?;
    // What the token endpoint says goes before what the browser brought.
    for (name, value) in kept.iter() {
        if tokens.keep.get(name).is_none() {
            tokens.keep.push(name, value);
        }
    }
    if tokens.refresh_expires_in.is_none() && tokens.refresh_token.is_some() {
        tokens.refresh_expires_in = settings.default_refresh_expires_in;
    }
    Ok(tokens)
}

/// Brings a fresh access token.
///
/// # Errors
/// By the table in docs/oauth2.md; [`Failure::InvalidGrant`] also when the access token has an end and there
/// is nothing to refresh it by.
pub fn refresh(cx: &Context<'_>, settings: &Settings, current: &CurrentTokens) -> Result<Tokens, Failure> {
    let presented = match settings.refresh_by() {
        RefreshBy::Again => return exchange(cx, settings, &Fields::default(), &Pkce::default()),
        RefreshBy::None => return Err(nothing_to_refresh_by(current)),
        RefreshBy::AccessToken => current.access_token.as_str(),
        RefreshBy::RefreshToken => {
            current.refresh_token.as_deref().ok_or_else(|| nothing_to_refresh_by(current))?
        }
    };
    let values = Values::new(cx);
    let mut fields = Fields::default();
    if !settings.refresh_grant_type.is_empty() {
        fields.push("grant_type", settings.refresh_grant_type.as_str());
    }
    fields.push(settings.refresh_token_param.as_str(), presented);
    if settings.send_scopes_on_refresh {
        push_scopes(&mut fields, cx, settings);
    }
    values.add(&mut fields, &settings.refresh_params)?;
    let template = settings.refresh_url.as_ref().unwrap_or(&settings.token_url);
    let mut tokens = request_tokens(cx, settings, &values.url(template)?, &fields, &[presented])?;
    if tokens.refresh_token == current.refresh_token {
        tokens.refresh_token = None;
    } else if tokens.refresh_expires_in.is_none() && tokens.refresh_token.is_some() {
        tokens.refresh_expires_in = settings.default_refresh_expires_in;
    }
    Ok(tokens)
}

/// Sends `fields` to the token endpoint `url`, with the client authenticated, and reads the answer. No
/// failure quotes words of the provider that have one of `secrets` in them.
///
/// # Errors
/// By the table in docs/oauth2.md.
pub fn request_tokens(
    cx: &Context<'_>,
    settings: &Settings,
    url: &str,
    fields: &Fields,
    secrets: &[&str],
) -> Result<Tokens, Failure> {
    answer::tokens(cx, settings, &send_to_token_endpoint(cx, settings, url, fields)?, secrets)
}

/// Sends `fields` to the token endpoint `url`, with the client authenticated. Any status is an answer.
///
/// # Errors
/// That there is no answer.
pub fn send_to_token_endpoint(
    cx: &Context<'_>,
    settings: &Settings,
    url: &str,
    fields: &Fields,
) -> Result<Response, Failure> {
    let in_query = settings.method == TokenMethod::Get;
    let (auth, own) = client_auth(settings, settings.client_auth, &cx.connection.client_id, url, in_query);
    let all: Fields = fields.iter().chain(own.iter()).collect();
    let request = Request::new(settings.method.as_method(), url).client_auth(auth);
    cx.send(&with_headers(with_fields(request, &all, in_query, settings.body), settings))
}

/// `current` with an access token that is good now, for providers that revoke by one: an ended one is
/// refreshed first. `None` when the grant is gone, which is what a revocation is for.
///
/// # Errors
/// Those of [`refresh`], but for a grant that is gone.
pub fn alive(
    cx: &Context<'_>,
    settings: &Settings,
    current: &CurrentTokens,
) -> Result<Option<CurrentTokens>, Failure> {
    let ended = current.expires_at.is_some_and(|end| end <= cx.now());
    if !ended || current.refresh_token.is_none() {
        return Ok(Some(current.clone()));
    }
    match refresh(cx, settings, current) {
        Ok(tokens) => Ok(Some(CurrentTokens {
            access_token: tokens.access_token,
            refresh_token: tokens.refresh_token.or_else(|| current.refresh_token.clone()),
            expires_at: tokens.expires_in.map(|life| cx.now().saturating_add(life)),
            id_token: tokens.id_token.or_else(|| current.id_token.clone()),
        })),
        Err(Failure::InvalidGrant(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn push_scopes(fields: &mut Fields, cx: &Context<'_>, settings: &Settings) {
    if !settings.scope_param.is_empty() && !cx.connection.scopes.is_empty() {
        fields.push(settings.scope_param.as_str(), cx.connection.scopes.join(&settings.scope_separator));
    }
}

/// A token without an end needs no refresh, and a forced one must not cost the connection.
fn nothing_to_refresh_by(current: &CurrentTokens) -> Failure {
    let message = "the provider gave nothing to refresh the access token by";
    if current.expires_at.is_some() {
        Failure::invalid_grant(message)
    } else {
        Failure::provider_error(format!("{message}, and it has no known end"))
    }
}
