//! Ending a grant (RFC 7009), or what a provider has in its place.

use super::answer;
use super::settings::{ClientAuthMethod, RevokeAuth, RevokeMethod, RevokedToken, Settings};
use super::values::{Values, client_auth, with_fields, with_headers};
use crate::http::{ClientAuth, Method, Request};
use crate::{Context, CurrentTokens, Failure, Fields};

/// Ends the grant at the provider.
///
/// # Errors
/// By the table in docs/oauth2.md, but that a token which is good no more is what was wanted.
pub fn revoke(cx: &Context<'_>, settings: &Settings, current: &CurrentTokens) -> Result<(), Failure> {
    let Some(template) = &settings.revoke_url else {
        return Err(Failure::misconfigured("settings: `revoke_url` is missing"));
    };
    let url = Values::new(cx).url(template)?;
    let access = (current.access_token.as_str(), "access_token");
    let refresh = current.refresh_token.as_deref().map(|token| (token, "refresh_token"));
    let presented = match settings.revoke_token {
        None => vec![refresh.unwrap_or(access)],
        Some(RevokedToken::AccessToken) => vec![access],
        Some(RevokedToken::RefreshToken) => Vec::from_iter(refresh),
        // The longer-lived one first: should the second request fail, less is left.
        Some(RevokedToken::Both) => refresh.into_iter().chain([access]).collect(),
    };
    presented.into_iter().try_for_each(|(token, kind)| revoke_one(cx, settings, &url, current, token, kind))
}

fn revoke_one(
    cx: &Context<'_>,
    settings: &Settings,
    url: &str,
    current: &CurrentTokens,
    token: &str,
    kind: &str,
) -> Result<(), Failure> {
    let method = match settings.revoke_method {
        RevokeMethod::Post => Method::Post,
        RevokeMethod::Get => Method::Get,
        RevokeMethod::Delete => Method::Delete,
    };
    // The body of a DELETE means nothing (RFC 9110 §9.3.5), unless the operator knows better.
    let in_query = method == Method::Get || (method == Method::Delete && settings.revoke_body.is_none());
    let auth = match settings.revoke_auth {
        None => Some(settings.client_auth),
        Some(RevokeAuth::Basic) => Some(ClientAuthMethod::Basic),
        Some(RevokeAuth::BasicRaw) => Some(ClientAuthMethod::BasicRaw),
        Some(RevokeAuth::Post) => Some(ClientAuthMethod::Post),
        Some(RevokeAuth::Query) => Some(ClientAuthMethod::Query),
        Some(RevokeAuth::None) => Some(ClientAuthMethod::None),
        Some(RevokeAuth::PrivateKeyJwt) => Some(ClientAuthMethod::PrivateKeyJwt),
        Some(RevokeAuth::Bearer) => None,
    };
    let mut fields = Fields::default();
    if !settings.revoke_token_param.is_empty() {
        fields.push(settings.revoke_token_param.as_str(), token);
    }
    if settings.revoke_token_param == "token" && method == Method::Post {
        fields.push("token_type_hint", kind);
    }
    Values::new(cx).add(&mut fields, &settings.revoke_params)?;
    let mut request = Request::new(method, url);
    match auth {
        None => request = request.bearer(&current.access_token),
        Some(by) => {
            let (auth, own) = client_auth(settings, by, &cx.connection.client_id, url, in_query);
            // `revoke_auth = "none"`: the endpoint gets no client identifier either.
            if auth != ClientAuth::None || settings.revoke_auth.is_none() {
                fields = fields.iter().chain(own.iter()).collect();
            }
            request = request.client_auth(auth);
        }
    }
    request = with_fields(request, &fields, in_query, settings.revoke_body.unwrap_or(settings.body));
    let response = cx.send(&with_headers(request, settings))?;
    if let Some(failure) = response.transient(cx.now()) {
        return Err(failure);
    }
    let body = answer::parse(&response.body);
    match answer::refused(settings, &response, &body, &[token]) {
        None | Some(Failure::InvalidGrant(_)) => Ok(()),
        Some(_) if body["error"] == "invalid_token" => Ok(()),
        Some(failure) => Err(failure),
    }
}
