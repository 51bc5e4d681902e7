//! GitHub, for OAuth apps and for GitHub apps
//! (<https://docs.github.com/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-user-access-token-for-a-github-app>).
//!
//! - Tokens of OAuth apps have no end and no refresh token; those of GitHub apps end after eight hours where the
//!   app says so
//!   (<https://docs.github.com/apps/creating-github-apps/authenticating-with-a-github-app/refreshing-user-access-tokens>).
//! - Errors of the token endpoint come with status 200.
//! - A grant is ended by `DELETE /applications/{client_id}/grant`, a single token by `…/token`
//!   (<https://docs.github.com/rest/apps/oauth-applications>). Both want a good access token.
//! - An address of the profile says nothing; `/user/emails` says which are verified
//!   (<https://docs.github.com/rest/users/emails>).

use palisade_provider::http::{BasicEncoding, ClientAuth, Method, Request};
use palisade_provider::oauth2::{self, About, ClientAuthMethod, Flow, IdentitySource, Step};
use palisade_provider::{Account, Context, CurrentTokens, Failure, json, url};
use serde_json::Value;

/// GitHub accounts.
pub struct GitHub;

/// What the operator can say.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    server: String,
    revoke: Revoked,
    allow_signup: bool,
}

/// What a revocation ends.
#[derive(Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Revoked {
    Grant,
    Token,
}

impl Default for Settings {
    fn default() -> Self {
        Self { server: "github.com".into(), revoke: Revoked::Grant, allow_signup: true }
    }
}

impl Settings {
    fn api(&self) -> String {
        if self.server == "github.com" {
            "https://api.github.com".into()
        } else if self.server.ends_with(".ghe.com") {
            format!("https://api.{}", self.server)
        } else {
            format!("https://{}/api/v3", self.server)
        }
    }

    fn request(&self, method: Method, path: &str) -> Request {
        Request::new(method, format!("{}{path}", self.api()))
            .header("accept", "application/vnd.github+json")
            .header("x-github-api-version", "2022-11-28")
            // Requests without one are refused.
            .header("user-agent", "palisade")
    }
}

impl Flow for GitHub {
    type Settings = Settings;

    fn about() -> About {
        About {
            display_name: "GitHub",
            version: env!("CARGO_PKG_VERSION"),
            docs: Some("https://docs.github.com/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps"),
            settings: &[
                ("server", "The host of an Enterprise Server; `github.com` unless set.", false),
                ("revoke", "What is ended: the whole `grant`, or only the `token`.", false),
                ("allow_signup", "Whether people may sign up on the way; true unless set.", false),
            ],
            scopes: &["read:user", "user:email"],
        }
    }

    fn standard(own: &Settings, _step: Step) -> Result<oauth2::Settings, Failure> {
        let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        let mut standard = oauth2::Settings {
            authorize_url: Some(format!("https://{}/login/oauth/authorize", own.server)),
            token_url: format!("https://{}/login/oauth/access_token", own.server),
            revoke_url: Some(format!("{}/applications/${{client_id}}/grant", own.api())),
            client_auth: ClientAuthMethod::Post,
            granted_scope_separator: Some(",".into()),
            invalid_grant: texts(&["bad_verification_code", "bad_refresh_token"]),
            misconfigured: texts(&["incorrect_client_credentials", "application_suspended"]),
            identity: IdentitySource::Userinfo,
            userinfo_url: Some(format!("{}/user", own.api())),
            ..oauth2::Settings::default()
        };
        if !own.allow_signup {
            standard.authorize_params.set("allow_signup", "false");
        }
        Ok(standard)
    }

    fn revoke(cx: &Context<'_>, own: &Settings, current: &CurrentTokens) -> Result<(), Failure> {
        let Some(current) = oauth2::alive(cx, &Self::standard(own, Step::Refresh)?, current)? else {
            return Ok(());
        };
        let what = match own.revoke {
            Revoked::Grant => "grant",
            Revoked::Token => "token",
        };
        let path = format!("/applications/{}/{what}", url::encode(&cx.connection.client_id));
        let request = own
            .request(Method::Delete, &path)
            .client_auth(ClientAuth::Basic(BasicEncoding::Form))
            .json(&json::object([("access_token", current.access_token.as_str())].into_iter()));
        let response = cx.send(&request)?;
        if let Some(failure) = response.transient(cx.now()) {
            return Err(failure);
        }
        match response.status {
            // 404: it knows the token no more.
            200..=299 | 404 => Ok(()),
            401 => Err(Failure::misconfigured("GitHub does not accept the client's secret")),
            status => Err(Failure::provider_error(format!("GitHub answered with status {status}"))),
        }
    }

    fn identity(cx: &Context<'_>, own: &Settings, current: &CurrentTokens) -> Result<Account, Failure> {
        let user = ask(cx, own, current, "/user")?.ok_or_else(|| {
            Failure::provider_error("GitHub does not say whose token it is")
        })?;
        let subject = json::text_at(&user, "id")
            .ok_or_else(|| Failure::provider_error("GitHub's answer has no `id`"))?;
        // Without the scope or the permission there is no list, and no address to believe.
        let emails = ask(cx, own, current, "/user/emails")?.unwrap_or_default();
        let primary = emails.as_array().into_iter().flatten().find(|email| email["primary"] == true);
        Ok(Account {
            subject,
            email: primary.and_then(|email| json::text_at(email, "email")),
            email_verified: primary.is_some_and(|email| email["verified"] == true),
            name: json::text_at(&user, "login"),
        })
    }
}

/// What the API says to the access token, or nothing when it may not be asked that.
fn ask(
    cx: &Context<'_>,
    own: &Settings,
    current: &CurrentTokens,
    path: &str,
) -> Result<Option<Value>, Failure> {
    let response = cx.send(&own.request(Method::Get, path).bearer(&current.access_token))?;
    if let Some(failure) = response.transient(cx.now()) {
        return Err(failure);
    }
    match response.status {
        200 => response.json().map(Some),
        403 | 404 => Ok(None),
        status => Err(Failure::provider_error(format!("GitHub answered with status {status}"))),
    }
}

palisade_provider::register!(GitHub);
