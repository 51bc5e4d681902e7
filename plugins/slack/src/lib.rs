//! Slack, the second version of its OAuth (<https://docs.slack.dev/authentication/installing-with-oauth>).
//!
//! - An installation brings two tokens: the bot's at the top of the answer, the user's under `authed_user`. One
//!   of them is this connection's. A refresh answers at the top for either
//!   (<https://docs.slack.dev/authentication/using-token-rotation>).
//! - Everything is answered with status 200; `ok` and `error` say what happened
//!   (<https://docs.slack.dev/reference/methods/oauth.v2.access>).
//! - Tokens end only where the app has token rotation.
//! - `auth.revoke` wants a good token (<https://docs.slack.dev/reference/methods/auth.revoke>).

use palisade_provider::oauth2::{
    self, About, AnswerFields, Flow, IdentitySource, PkceMethod, RevokeAuth, Step, Success,
};
use palisade_provider::{Account, Context, CurrentTokens, Failure, json};

/// Slack workspaces.
pub struct Slack;

/// What the operator can say.
#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    token: Whose,
    pkce: bool,
}

/// Whose token a connection holds.
#[derive(Clone, Copy, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Whose {
    #[default]
    User,
    Bot,
}

impl Flow for Slack {
    type Settings = Settings;

    fn about() -> About {
        About {
            display_name: "Slack",
            version: env!("CARGO_PKG_VERSION"),
            docs: Some("https://docs.slack.dev/authentication/installing-with-oauth"),
            settings: &[
                ("token", "Whose token is held: the `user`'s unless set, or the `bot`'s.", false),
                ("pkce", "Whether the app has PKCE turned on; false unless set.", false),
            ],
            scopes: &[],
        }
    }

    fn standard(own: &Settings, step: Step) -> Result<oauth2::Settings, Failure> {
        let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        let path = |name: &str| Some(format!("authed_user.{name}"));
        let of_user = own.token == Whose::User;
        let mut standard = oauth2::Settings {
            authorize_url: Some("https://slack.com/oauth/v2/authorize".into()),
            token_url: "https://slack.com/api/oauth.v2.access".into(),
            revoke_url: Some("https://slack.com/api/auth.revoke".into()),
            revoke_auth: Some(RevokeAuth::Bearer),
            revoke_token_param: String::new(),
            pkce: if own.pkce { PkceMethod::S256 } else { PkceMethod::Off },
            scope_param: if of_user { "user_scope".into() } else { "scope".into() },
            scope_separator: ",".into(),
            ok: Some(Success { path: "ok".into(), value: "true".into() }),
            invalid_grant: texts(&[
                "account_inactive",
                "code_already_used",
                "invalid_auth",
                "invalid_code",
                "invalid_refresh_token",
                "token_expired",
                "token_revoked",
            ]),
            transient: texts(&[
                "fatal_error",
                "internal_error",
                "ratelimited",
                "request_timeout",
                "service_unavailable",
            ]),
            misconfigured: texts(&[
                "bad_client_secret",
                "bad_redirect_uri",
                "invalid_client_id",
                "oauth_authorization_url_mismatch",
            ]),
            identity: IdentitySource::Userinfo,
            userinfo_url: Some("https://slack.com/api/auth.test".into()),
            ..oauth2::Settings::default()
        };
        if of_user && step == Step::Exchange {
            standard.fields = AnswerFields {
                access_token: path("access_token"),
                refresh_token: path("refresh_token"),
                token_type: path("token_type"),
                expires_in: path("expires_in"),
                scope: path("scope"),
                ..AnswerFields::default()
            };
        }
        Ok(standard)
    }

    fn revoke(cx: &Context<'_>, own: &Settings, current: &CurrentTokens) -> Result<(), Failure> {
        let refreshing = Self::standard(own, Step::Refresh)?;
        match oauth2::alive(cx, &refreshing, current)? {
            Some(current) => oauth2::revoke(cx, &Self::standard(own, Step::Revoke)?, &current),
            None => Ok(()),
        }
    }

    fn identity(cx: &Context<'_>, own: &Settings, current: &CurrentTokens) -> Result<Account, Failure> {
        let answer = oauth2::userinfo(cx, &Self::standard(own, Step::Identity)?, current)?;
        let text = |name: &str| json::text_at(&answer, name);
        let (Some(team), Some(user)) = (text("team_id"), text("user_id")) else {
            return Err(Failure::provider_error("Slack's answer has no `team_id` and `user_id`"));
        };
        Ok(Account {
            // A user's identifier is unique in its team only.
            subject: format!("{team}.{user}"),
            name: text("user").map(|user| format!("{user} in {}", text("team").unwrap_or(team))),
            ..Account::default()
        })
    }
}

palisade_provider::register!(Slack);
