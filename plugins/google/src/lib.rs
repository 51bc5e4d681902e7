//! Google (<https://developers.google.com/identity/protocols/oauth2/web-server>).
//!
//! - A refresh token comes only with `access_type=offline`, and again only with `prompt=consent`.
//! - `include_granted_scopes` makes a later consent add to the earlier ones.
//! - Who it is stands in the ID token
//!   (<https://developers.google.com/identity/openid-connect/openid-connect#obtainuserinfo>); `hd` there is the
//!   only proof of a Workspace domain, the parameter of the authorization URL is none.

use palisade_provider::oauth2::{
    self, About, ClientAuthMethod, Flow, IdentitySource, RevokeAuth, Step, id_token,
};
use palisade_provider::{Account, Context, CurrentTokens, Failure};

/// Google accounts.
pub struct Google;

/// What the operator can say.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    prompt: String,
    include_granted_scopes: bool,
    hosted_domain: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { prompt: "consent".into(), include_granted_scopes: true, hosted_domain: None }
    }
}

impl Flow for Google {
    type Settings = Settings;

    fn about() -> About {
        About {
            display_name: "Google",
            version: env!("CARGO_PKG_VERSION"),
            docs: Some("https://developers.google.com/identity/protocols/oauth2/web-server"),
            settings: &[
                ("prompt", "`consent` unless set; without it Google gives a refresh token only once.", false),
                ("include_granted_scopes", "Whether a consent adds to earlier ones; true unless set.", false),
                ("hosted_domain", "The Workspace domain that accounts must be of.", false),
            ],
            scopes: &["openid", "email", "profile"],
        }
    }

    fn standard(own: &Settings, _step: Step) -> Result<oauth2::Settings, Failure> {
        let mut standard = oauth2::Settings {
            authorize_url: Some("https://accounts.google.com/o/oauth2/v2/auth".into()),
            token_url: "https://oauth2.googleapis.com/token".into(),
            revoke_url: Some("https://oauth2.googleapis.com/revoke".into()),
            client_auth: ClientAuthMethod::Post,
            revoke_auth: Some(RevokeAuth::None),
            identity: IdentitySource::IdToken,
            ..oauth2::Settings::default()
        };
        let params = &mut standard.authorize_params;
        params.set("access_type", "offline");
        if !own.prompt.is_empty() {
            params.set("prompt", own.prompt.as_str());
        }
        if own.include_granted_scopes {
            params.set("include_granted_scopes", "true");
        }
        if let Some(domain) = &own.hosted_domain {
            params.set("hd", domain.as_str());
        }
        Ok(standard)
    }

    fn identity(cx: &Context<'_>, own: &Settings, current: &CurrentTokens) -> Result<Account, Failure> {
        let standard = Self::standard(own, Step::Identity)?;
        let claims = id_token(cx, &standard, current)?;
        // Google writes it either way.
        let issuer = claims["iss"].as_str().unwrap_or_default();
        if issuer.strip_prefix("https://").unwrap_or(issuer) != "accounts.google.com" {
            return Err(Failure::provider_error("the ID token is of another issuer"));
        }
        if let Some(domain) = &own.hosted_domain
            && claims["hd"] != domain.as_str()
        {
            return Err(Failure::provider_error(format!("the account is not of {domain}")));
        }
        oauth2::account(&claims, &standard)
    }
}

palisade_provider::register!(Google);
