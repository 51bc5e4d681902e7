//! Microsoft Entra ID, the v2.0 endpoints
//! (<https://learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow>).
//!
//! - The tenant is part of every URL: an identifier, a domain, `organizations`, `consumers` or `common`.
//! - A refresh names its scopes; a refresh token comes only with `offline_access`.
//! - The claim `email` is whatever the tenant's administrator typed
//!   (<https://learn.microsoft.com/entra/identity-platform/claims-validation>): it counts as verified only when
//!   `xms_edov` says that the address's domain is the tenant's.
//! - There is no revocation by an app for one user.

use palisade_provider::oauth2::{self, About, ClientAuthMethod, Flow, IdentitySource, Step, id_token};
use palisade_provider::{Account, Context, CurrentTokens, Failure};

/// Work, school and personal Microsoft accounts.
pub struct Entra;

/// What the operator can say.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    tenant: String,
    #[serde(default = "worldwide")]
    authority: String,
    #[serde(default)]
    prompt: String,
}

fn worldwide() -> String {
    "login.microsoftonline.com".into()
}

impl Settings {
    /// The tenant's identifier, where the operator gave that.
    fn tenant_id(&self) -> Option<&str> {
        let is_id = self.tenant.len() == 36
            && self.tenant.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        is_id.then_some(self.tenant.as_str())
    }
}

impl Flow for Entra {
    type Settings = Settings;

    fn about() -> About {
        About {
            display_name: "Microsoft",
            version: env!("CARGO_PKG_VERSION"),
            docs: Some("https://learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow"),
            settings: &[
                (
                    "tenant",
                    "The tenant's identifier or domain, `organizations`, `consumers` or `common`.",
                    true,
                ),
                ("authority", "The host of a national cloud; `login.microsoftonline.com` unless set.", false),
                ("prompt", "`login`, `consent` or `select_account`; not sent unless set.", false),
            ],
            scopes: &["openid", "profile", "email", "offline_access"],
        }
    }

    fn standard(own: &Settings, _step: Step) -> Result<oauth2::Settings, Failure> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        if own.tenant.is_empty() || !own.tenant.bytes().all(fits) {
            return Err(Failure::misconfigured("settings: `tenant` is an identifier or a domain"));
        }
        let base = format!("https://{}/{}/oauth2/v2.0", own.authority, own.tenant);
        let mut standard = oauth2::Settings {
            authorize_url: Some(format!("{base}/authorize")),
            token_url: format!("{base}/token"),
            client_auth: ClientAuthMethod::Post,
            send_scopes_on_refresh: true,
            invalid_grant: ["interaction_required", "consent_required", "login_required"]
                .map(str::to_owned)
                .into(),
            misconfigured: vec!["invalid_resource".into()],
            identity: IdentitySource::IdToken,
            ..oauth2::Settings::default()
        };
        standard.authorize_params.set("response_mode", "query");
        if !own.prompt.is_empty() {
            standard.authorize_params.set("prompt", own.prompt.as_str());
        }
        Ok(standard)
    }

    fn identity(cx: &Context<'_>, own: &Settings, current: &CurrentTokens) -> Result<Account, Failure> {
        let standard = Self::standard(own, Step::Identity)?;
        let claims = id_token(cx, &standard, current)?;
        let tenant = claims["tid"].as_str().unwrap_or_default();
        if own.tenant_id().is_some_and(|wanted| !tenant.eq_ignore_ascii_case(wanted)) {
            return Err(Failure::provider_error("the account is of another tenant"));
        }
        // Which host an issuer has differs from cloud to cloud; it came from the authority's own by TLS.
        let issuer = claims["iss"].as_str().unwrap_or_default();
        if tenant.is_empty() || !issuer.ends_with(&format!("/{tenant}/v2.0")) {
            return Err(Failure::provider_error("the ID token is of another issuer"));
        }
        let mut account = oauth2::account(&claims, &standard)?;
        account.email_verified = ["1", "true"].iter().any(|yes| claims["xms_edov"] == *yes)
            || claims["xms_edov"] == true
            || claims["xms_edov"] == 1;
        Ok(account)
    }
}

palisade_provider::register!(Entra);
