//! Salesforce, the web server flow
//! (<https://help.salesforce.com/s/articleView?id=xcloud.remoteaccess_oauth_web_server_flow.htm>).
//!
//! - Consent is given at `login.salesforce.com`, at `test.salesforce.com` for sandboxes, or at the customer's My
//!   Domain host, which the user names where the operator does not.
//! - The answer says where the customer's API is (`instance_url`) and who it is (`id`); both are kept.
//! - It does not say when the access token ends: that is the customer's session timeout, two hours unless
//!   changed.
//! - Who it is is asked at the instance, which answers the path of `id`
//!   (<https://help.salesforce.com/s/articleView?id=xcloud.remoteaccess_using_openid.htm>).

use palisade_provider::http::Request;
use palisade_provider::oauth2::{
    self, About, ClientAuthMethod, Flow, IdentitySource, ParameterSettings, RevokeAuth, Step, Values,
};
use palisade_provider::{Account, Context, CurrentTokens, Failure, json};
use serde_json::Value;

/// Salesforce organizations.
pub struct Salesforce;

/// What the operator can say.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    host: Option<String>,
    session_timeout: u64,
    prompt: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { host: None, session_timeout: 7200, prompt: String::new() }
    }
}

impl Flow for Salesforce {
    type Settings = Settings;

    fn about() -> About {
        About {
            display_name: "Salesforce",
            version: env!("CARGO_PKG_VERSION"),
            docs: Some(
                "https://help.salesforce.com/s/articleView?id=xcloud.remoteaccess_oauth_web_server_flow.htm",
            ),
            settings: &[
                ("host", "Where every user gives consent; unless set, each user names a host.", false),
                ("session_timeout", "Seconds that an access token lives; 7200 unless set.", false),
                ("prompt", "`login`, `consent` or `select_account`; not sent unless set.", false),
            ],
            scopes: &["api", "refresh_token", "openid"],
        }
    }

    fn standard(own: &Settings, _step: Step) -> Result<oauth2::Settings, Failure> {
        let host = own.host.as_deref().unwrap_or("${host}");
        let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        let mut standard = oauth2::Settings {
            authorize_url: Some(format!("https://{host}/services/oauth2/authorize")),
            token_url: format!("https://{host}/services/oauth2/token"),
            revoke_url: Some(format!("https://{host}/services/oauth2/revoke")),
            client_auth: ClientAuthMethod::Post,
            revoke_auth: Some(RevokeAuth::None),
            keep: [("instance_url", "instance_url"), ("id", "id")].into_iter().collect(),
            default_expires_in: Some(own.session_timeout),
            invalid_grant: texts(&["inactive_user", "inactive_org"]),
            transient: texts(&["rate_limit_exceeded", "server_unavailable"]),
            misconfigured: texts(&["invalid_client_id", "invalid_app_access", "invalid_client_credentials"]),
            identity: IdentitySource::Userinfo,
            userinfo_url: Some("${instance_url}/services/oauth2/userinfo".into()),
            ..oauth2::Settings::default()
        };
        if own.host.is_none() {
            standard.parameters = vec![ParameterSettings {
                name: "host".into(),
                summary: "Where you sign in to Salesforce".into(),
                pattern: r"(login|test)\.salesforce\.com|[A-Za-z0-9-]+(\.[a-z]+)?\.my\.salesforce\.com"
                    .into(),
                example: Some("acme.my.salesforce.com".into()),
                required: true,
            }];
        }
        if !own.prompt.is_empty() {
            standard.authorize_params.set("prompt", own.prompt.as_str());
        }
        Ok(standard)
    }

    fn identity(cx: &Context<'_>, _own: &Settings, current: &CurrentTokens) -> Result<Account, Failure> {
        let id = cx.connection.kept.get("id").unwrap_or_default();
        let path =
            id.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
        let [kind, organization, user] = path.split('/').collect::<Vec<_>>()[..] else {
            return Err(Failure::provider_error(
                "what Salesforce calls `id` is not kept, or is of another form",
            ));
        };
        let is_id = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if kind != "id" || !is_id(organization) || !is_id(user) {
            return Err(Failure::provider_error("what Salesforce calls `id` is of another form"));
        }
        let url = Values::new(cx).url(&format!("${{instance_url}}/id/{organization}/{user}"))?;
        let response = cx.send(&Request::get(url).bearer(&current.access_token))?;
        if let Some(failure) = response.transient(cx.now()) {
            return Err(failure);
        }
        if !response.is_success() {
            return Err(Failure::provider_error(format!(
                "Salesforce answered with status {}",
                response.status
            )));
        }
        let answer: Value = response.json()?;
        // It must be the account that the token came for.
        if json::text_at(&answer, "user_id").as_deref() != Some(user) {
            return Err(Failure::provider_error("Salesforce answered for another account"));
        }
        Ok(Account {
            subject: format!("{organization}.{user}"),
            email: json::text_at(&answer, "email"),
            email_verified: json::at(&answer, "email_verified").is_some_and(json::flag),
            name: json::text_at(&answer, "display_name").or_else(|| json::text_at(&answer, "username")),
        })
    }
}

palisade_provider::register!(Salesforce);
