//! What the native endpoints take and answer, as JSON. Times are seconds since 1970 (RFC 7519,
//! `NumericDate`), as in the tokens.

use std::net::IpAddr;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::account::User;
use crate::domain::password::Requirements;
use crate::domain::session::{Session, SessionId};
use crate::service::accounts::Granted;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Registration {
    #[schema(example = "ann@example.com")]
    pub(super) email: String,
    #[schema(value_type = String, format = Password, example = "Correct horse 42")]
    pub(super) password: SecretString,
    /// What the person is called; at most 200 bytes on one line.
    #[schema(example = "Ann")]
    pub(super) name: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Address {
    #[schema(example = "ann@example.com")]
    pub(super) email: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkToken {
    /// What follows `#token=` in the link.
    #[schema(value_type = String, format = Password)]
    pub(super) token: SecretString,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPassword {
    /// What follows `#token=` in the link.
    #[schema(value_type = String, format = Password)]
    pub(super) token: SecretString,
    #[schema(value_type = String, format = Password)]
    pub(super) new_password: SecretString,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Credentials {
    #[schema(example = "ann@example.com")]
    pub(super) email: String,
    #[schema(value_type = String, format = Password, example = "Correct horse 42")]
    pub(super) password: SecretString,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Refresh {
    #[schema(value_type = String, format = Password)]
    pub(super) refresh_token: SecretString,
}

/// Needed only by who has no access token left.
#[derive(Deserialize, ToSchema, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Logout {
    #[schema(value_type = Option<String>, format = Password)]
    pub(super) refresh_token: Option<SecretString>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PasswordChange {
    #[schema(value_type = String, format = Password)]
    pub(super) current_password: SecretString,
    #[schema(value_type = String, format = Password)]
    pub(super) new_password: SecretString,
}

/// What is not there stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProfileChange {
    /// An empty name takes it away.
    pub(super) name: Option<String>,
    /// Takes effect when the link in the mail to it is opened. Needs `current_password`.
    pub(super) email: Option<String>,
    #[schema(value_type = Option<String>, format = Password)]
    pub(super) current_password: Option<SecretString>,
}

/// An account, as its owner sees it.
#[derive(Serialize, ToSchema)]
pub(super) struct Profile {
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    #[schema(example = "ann@example.com")]
    email: String,
    email_verified: bool,
    name: Option<String>,
    created_at: u64,
    updated_at: u64,
    last_login_at: Option<u64>,
    scopes: Vec<String>,
    /// The address that a confirmation was just mailed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pending_email: Option<String>,
}

impl From<&User> for Profile {
    fn from(user: &User) -> Profile {
        Profile {
            id: user.id.0,
            email: user.email.to_string(),
            email_verified: user.email_verified,
            name: user.name.clone(),
            created_at: user.created_at.0,
            updated_at: user.updated_at.0,
            last_login_at: user.last_login_at.map(|at| at.0),
            scopes: user.scopes.clone(),
            pending_email: None,
        }
    }
}

/// Tokens (RFC 6749 §5.1), and whose they are.
#[derive(Serialize, ToSchema)]
pub(super) struct Tokens {
    access_token: String,
    /// Always `Bearer`.
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// Seconds until the access token ends.
    #[schema(example = 1800)]
    expires_in: u64,
    /// Good for one exchange, which brings the next one.
    refresh_token: String,
    user: Profile,
}

impl From<&Granted> for Tokens {
    fn from(granted: &Granted) -> Tokens {
        Tokens {
            access_token: granted.access_token.clone(),
            token_type: "Bearer",
            expires_in: granted.expires_in.as_secs(),
            refresh_token: granted.refresh_token.expose_secret().to_owned(),
            user: Profile::from(&granted.user),
        }
    }
}

/// What happens next.
#[derive(Serialize, ToSchema)]
pub(super) struct Accepted {
    pub(super) detail: &'static str,
}

/// The token of a link is good.
#[derive(Serialize, ToSchema)]
pub(super) struct Valid {
    /// Always true: a link that is not good is answered with `invalid_link`.
    pub(super) valid: bool,
}

/// The rules for passwords.
#[derive(Serialize, ToSchema)]
pub(super) struct PasswordRules {
    /// `composition` or `length`.
    policy: &'static str,
    /// In characters.
    min_length: usize,
    /// In bytes of UTF-8.
    max_bytes: usize,
    uppercase: bool,
    lowercase: bool,
    digit: bool,
    /// A character that is neither a letter nor a digit.
    special: bool,
    /// Whether common passwords are refused.
    common_refused: bool,
    /// Whether the account's address and name are refused.
    identity_refused: bool,
    /// One sentence for each rule.
    text: Vec<String>,
}

impl From<Requirements> for PasswordRules {
    fn from(rules: Requirements) -> PasswordRules {
        PasswordRules {
            policy: match rules.policy {
                crate::domain::password::Policy::Composition => "composition",
                crate::domain::password::Policy::Length => "length",
            },
            min_length: rules.min_length,
            max_bytes: rules.max_bytes,
            uppercase: rules.uppercase,
            lowercase: rules.lowercase,
            digit: rules.digit,
            special: rules.special,
            common_refused: rules.common_refused,
            identity_refused: rules.identity_refused,
            text: rules.text.iter().map(|text| (*text).to_owned()).collect(),
        }
    }
}

/// A sign-in on one device.
#[derive(Serialize, ToSchema)]
pub(super) struct SessionView {
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    /// Whether the access token of this request belongs to it.
    current: bool,
    #[schema(example = "Firefox on Windows")]
    device: String,
    user_agent: Option<String>,
    #[schema(value_type = String, example = "192.0.2.1")]
    address: IpAddr,
    #[schema(example = "Berlin, Germany")]
    place: Option<String>,
    created_at: u64,
    last_used_at: u64,
    /// When it ends unless it is used.
    expires_at: u64,
}

impl SessionView {
    pub(super) fn of(session: &Session, current: Option<SessionId>) -> SessionView {
        SessionView {
            id: session.id.0,
            current: Some(session.id) == current,
            device: session.device.name.clone(),
            user_agent: session.device.user_agent.clone(),
            address: session.device.address,
            place: session.device.place.clone(),
            created_at: session.created_at.0,
            last_used_at: session.last_used_at.0,
            expires_at: session.expires_at.0,
        }
    }
}

/// The sessions of an account, the latest used first.
#[derive(Serialize, ToSchema)]
pub(super) struct Sessions {
    pub(super) sessions: Vec<SessionView>,
}

/// What went wrong (RFC 9457). `code` is stable, `title` and `detail` are for people.
#[derive(Serialize, ToSchema)]
pub(super) struct ProblemDocument {
    /// Always `about:blank`.
    #[schema(example = "about:blank")]
    r#type: String,
    #[schema(example = 422)]
    status: u16,
    title: String,
    detail: String,
    #[schema(example = "password_rejected")]
    code: String,
    /// Of `password_rejected`: the rules that the password breaks.
    violations: Option<Vec<BrokenRule>>,
    /// Of `account_locked`: when the lock ends.
    until: Option<u64>,
}

/// A rule that a password breaks.
#[derive(Serialize, ToSchema)]
pub(super) struct BrokenRule {
    #[schema(example = "too_short")]
    rule: String,
    text: String,
}
