//! Sign in with Apple (<https://developer.apple.com/documentation/signinwithapplerestapi>).
//!
//! - The client secret is a JWT that the host signs with the key of the developer account
//!   (<https://developer.apple.com/documentation/accountorganizationaldatasharing/creating-a-client-secret>).
//! - Where scopes are asked for, the callback must be a form that the browser posts
//!   (<https://developer.apple.com/documentation/signinwithapple/incorporating-sign-in-with-apple-into-other-platforms>).
//! - The name comes with the first callback only, in `user`, through the browser: it is good for telling
//!   connections apart and for nothing else. The e-mail address there is not looked at; the ID token has it.

use palisade_provider::oauth2::{
    self, About, AssertionSettings, ClientAuthMethod, Flow, IdentitySource, PkceMethod, Step,
};
use palisade_provider::{
    Account, Authorization, Context, CurrentTokens, Failure, Fields, Pkce, Tokens, json,
};
use serde_json::Value;

/// Apple accounts.
pub struct Apple;

/// What the operator must say.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    team_id: String,
    key_id: String,
}

/// Under which name the person's name is kept.
const NAME: &str = "name";

impl Flow for Apple {
    type Settings = Settings;

    fn about() -> About {
        About {
            display_name: "Apple",
            version: env!("CARGO_PKG_VERSION"),
            docs: Some("https://developer.apple.com/documentation/signinwithapplerestapi"),
            settings: &[
                ("team_id", "The developer account's team, ten characters.", true),
                ("key_id", "The identifier of the private key that is the client secret.", true),
            ],
            scopes: &["name", "email"],
        }
    }

    fn standard(own: &Settings, _step: Step) -> Result<oauth2::Settings, Failure> {
        Ok(oauth2::Settings {
            authorize_url: Some("https://appleid.apple.com/auth/authorize".into()),
            token_url: "https://appleid.apple.com/auth/token".into(),
            revoke_url: Some("https://appleid.apple.com/auth/revoke".into()),
            client_auth: ClientAuthMethod::PrivateKeyJwt,
            send_client_id: true,
            assertion: AssertionSettings {
                algorithm: Some("ES256".into()),
                key_id: Some(own.key_id.clone()),
                issuer: Some(own.team_id.clone()),
                audience: Some("https://appleid.apple.com".into()),
                parameter: Some("client_secret".into()),
                ..AssertionSettings::default()
            },
            pkce: PkceMethod::Off,
            identity: IdentitySource::IdToken,
            issuer: Some("https://appleid.apple.com".into()),
            ..oauth2::Settings::default()
        })
    }

    fn authorize(
        cx: &Context<'_>,
        own: &Settings,
        state: &str,
        pkce: &Pkce,
    ) -> Result<Authorization, Failure> {
        let mut standard = Self::standard(own, Step::Authorize)?;
        let mode = if cx.connection.scopes.is_empty() { "query" } else { "form_post" };
        standard.authorize_params.set("response_mode", mode);
        oauth2::authorize(cx, &standard, state, pkce)
    }

    fn exchange(cx: &Context<'_>, own: &Settings, callback: &Fields, pkce: &Pkce) -> Result<Tokens, Failure> {
        let mut tokens = oauth2::exchange(cx, &Self::standard(own, Step::Exchange)?, callback, pkce)?;
        let user: Value =
            callback.get("user").and_then(|user| serde_json::from_str(user).ok()).unwrap_or_default();
        let names =
            ["name.firstName", "name.lastName"].into_iter().filter_map(|path| json::text_at(&user, path));
        let name = names.collect::<Vec<_>>().join(" ");
        if (1..=256).contains(&name.len()) {
            tokens.keep.set(NAME, name);
        }
        Ok(tokens)
    }

    fn identity(cx: &Context<'_>, own: &Settings, current: &CurrentTokens) -> Result<Account, Failure> {
        let mut account = oauth2::identity(cx, &Self::standard(own, Step::Identity)?, current)?;
        account.name = cx.connection.kept.get(NAME).map(str::to_owned);
        Ok(account)
    }
}

palisade_provider::register!(Apple);
