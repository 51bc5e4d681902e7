//! Facebook and Instagram.
//!
//! - There are no refresh tokens. A token that came for a code is short-lived, and is exchanged at once for one
//!   that lives about 60 days; a refresh exchanges that one again, while it is still good.
//!   (<https://developers.facebook.com/docs/facebook-login/guides/access-tokens/get-long-lived>,
//!   <https://developers.facebook.com/docs/instagram-platform/instagram-api-with-instagram-login/business-login>)
//! - Instagram wants a token to be a day old before that
//!   (<https://developers.facebook.com/docs/instagram-platform/reference/refresh_access_token>).
//! - Errors of the Graph API are objects with a number
//!   (<https://developers.facebook.com/docs/graph-api/guides/error-handling>).
//! - An address on a profile is not said to be verified.

use palisade_provider::oauth2::{
    self, About, AnswerFields, ClientAuthMethod, Flow, IdentityFields, IdentitySource, PkceMethod, RefreshBy,
    RevokeAuth, RevokeMethod, Step, TokenMethod,
};
use palisade_provider::{Context, CurrentTokens, Description, Failure, Fields, Pkce, Tokens};

/// Facebook or Instagram accounts.
pub struct Meta;

/// What the operator can say.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    product: Product,
    #[serde(default = "version")]
    graph_version: String,
}

#[derive(Clone, Copy, PartialEq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Product {
    Facebook,
    Instagram,
}

fn version() -> String {
    "v23.0".into()
}

impl Flow for Meta {
    type Settings = Settings;

    fn about() -> About {
        About {
            display_name: "Meta",
            version: env!("CARGO_PKG_VERSION"),
            docs: Some("https://developers.facebook.com/docs/facebook-login"),
            settings: &[
                ("product", "`facebook` or `instagram`.", true),
                ("graph_version", "The version of the Graph API, for Facebook.", false),
            ],
            scopes: &[],
        }
    }

    fn standard(own: &Settings, step: Step) -> Result<oauth2::Settings, Failure> {
        let numbers = |list: &[u32]| list.iter().map(ToString::to_string).collect();
        let common = oauth2::Settings {
            client_auth: ClientAuthMethod::Post,
            pkce: PkceMethod::Off,
            scope_separator: ",".into(),
            refresh: Some(RefreshBy::AccessToken),
            fields: AnswerFields { error: Some("error.code".into()), ..AnswerFields::default() },
            // The token has ended, or the user took it back.
            invalid_grant: numbers(&[102, 190]),
            // Unknown, down, and too many calls.
            transient: numbers(&[1, 2, 4, 17, 341, 613]),
            misconfigured: numbers(&[101, 191]),
            identity: IdentitySource::Userinfo,
            ..oauth2::Settings::default()
        };
        Ok(match own.product {
            Product::Facebook => {
                let graph = format!("https://graph.facebook.com/{}", own.graph_version);
                oauth2::Settings {
                    authorize_url: Some(format!("https://www.facebook.com/{}/dialog/oauth", own.graph_version)),
                    token_url: format!("{graph}/oauth/access_token"),
                    revoke_url: Some(format!("{graph}/me/permissions")),
                    revoke_method: RevokeMethod::Delete,
                    revoke_token_param: String::new(),
                    revoke_auth: Some(RevokeAuth::Bearer),
                    method: TokenMethod::Get,
                    grant_type: if step == Step::Exchange { String::new() } else { "authorization_code".into() },
                    refresh_grant_type: "fb_exchange_token".into(),
                    refresh_token_param: "fb_exchange_token".into(),
                    userinfo_url: Some(format!("{graph}/me?fields=id,name,email")),
                    identity_fields: paths("id", "name"),
                    ..common
                }
            }
            Product::Instagram => oauth2::Settings {
                authorize_url: Some("https://www.instagram.com/oauth/authorize".into()),
                token_url: "https://api.instagram.com/oauth/access_token".into(),
                refresh_url: Some("https://graph.instagram.com/refresh_access_token".into()),
                method: if step == Step::Refresh { TokenMethod::Get } else { TokenMethod::Post },
                client_auth: if step == Step::Refresh { ClientAuthMethod::None } else { ClientAuthMethod::Post },
                client_id_param: if step == Step::Refresh { String::new() } else { "client_id".into() },
                refresh_grant_type: "ig_refresh_token".into(),
                refresh_token_param: "access_token".into(),
                userinfo_url: Some("https://graph.instagram.com/me?fields=user_id,username".into()),
                identity_fields: paths("user_id", "username"),
                ..common
            },
        })
    }

    fn describe(own: &Settings) -> Result<Description, Failure> {
        let version = own.graph_version.as_bytes();
        if version.first() != Some(&b'v') || !version[1..].iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
        {
            return Err(Failure::misconfigured("settings: `graph_version` is like `v23.0`"));
        }
        let mut description = oauth2::describe(&Self::about(), &Self::standard(own, Step::Describe)?)?;
        description.display_name = match own.product {
            Product::Facebook => "Facebook",
            Product::Instagram => "Instagram",
        }
        .into();
        Ok(description)
    }

    fn exchange(cx: &Context<'_>, own: &Settings, callback: &Fields, pkce: &Pkce) -> Result<Tokens, Failure> {
        let standard = Self::standard(own, Step::Exchange)?;
        if own.product == Product::Facebook {
            let short = oauth2::exchange(cx, &standard, callback, pkce)?;
            return Self::refresh(cx, own, &current(short.access_token));
        }
        let short = instagram_short_lived(cx, standard, callback)?;
        let mut long = long_lived(cx, own, &short.access_token)?;
        long.scopes = short.scopes;
        Ok(long)
    }
}

fn paths(subject: &str, name: &str) -> IdentityFields {
    IdentityFields {
        subject: Some(subject.into()),
        name: Some(name.into()),
        // Neither says so.
        email_verified: Some("none".into()),
        ..IdentityFields::default()
    }
}

fn current(access_token: String) -> CurrentTokens {
    CurrentTokens { access_token, ..CurrentTokens::default() }
}

/// A code for a token of an hour. The documentation shows the answer inside a list, and without one.
fn instagram_short_lived(
    cx: &Context<'_>,
    mut standard: oauth2::Settings,
    callback: &Fields,
) -> Result<Tokens, Failure> {
    let code = callback
        .get("code")
        .ok_or_else(|| Failure::provider_error("the callback came without `code`"))?;
    let fields: Fields = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", cx.connection.redirect_uri.as_str()),
    ]
    .into_iter()
    .collect();
    let response = oauth2::send_to_token_endpoint(cx, &standard, &standard.token_url, &fields)?;
    let place = if oauth2::parse(&response.body)["data"].is_array() { "data.0." } else { "" };
    standard.fields.access_token = Some(format!("{place}access_token"));
    standard.fields.scope = Some(format!("{place}permissions"));
    oauth2::tokens(cx, &standard, &response, &[code])
}

/// A token of an hour for one of 60 days, at Instagram.
fn long_lived(cx: &Context<'_>, own: &Settings, short: &str) -> Result<Tokens, Failure> {
    let mut standard = Meta::standard(own, Step::Exchange)?;
    standard.method = TokenMethod::Get;
    standard.client_id_param = String::new();
    let fields: Fields = [("grant_type", "ig_exchange_token"), ("access_token", short)].into_iter().collect();
    oauth2::request_tokens(cx, &standard, "https://graph.instagram.com/access_token", &fields, &[short])
}

palisade_provider::register!(Meta);
