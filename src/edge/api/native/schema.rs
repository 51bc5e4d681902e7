//! What the native endpoints take and answer, as JSON. Times are seconds since 1970 (RFC 7519,
//! `NumericDate`), as in the tokens and in the operator's API.
//!
//! Passwords and tokens are secrets from the moment they are read. A member that is not known is refused: a
//! misspelt one would be silently without effect.

use std::net::IpAddr;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use palisade_core::domain::account::User;
use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::password::{PasswordPolicy, Requirements};
use palisade_core::domain::session::{Lifetimes, Session, SessionId};
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::username::Username;
use palisade_core::service::accounts::AccountError;
use palisade_core::service::sign_in::Granted;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"email": "ann@example.com", "password": "Correct horse 42", "name": "Ann"}))]
pub(super) struct Registration {
    #[schema(format = Email)]
    pub(super) email: String,
    /// See `GET /password-requirements`.
    #[schema(value_type = String, format = Password)]
    pub(super) password: SecretString,
    /// What the person is called: at most 100 characters (200 bytes) on one line that can be seen, without a link
    /// or a telephone number.
    pub(super) name: Option<String>,
    /// A random id of the form, made when it is shown: a form that is sent twice is one registration. The header
    /// field `Idempotency-Key` does the same.
    pub(super) form_id: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"token": "Xq3vN0uGJw2cT5mB8rYk1LpZsHd7EoAfRi6WxVt9QyM", "password": "Correct horse 42"}))]
pub(super) struct Verification {
    /// What follows `#token=` in the link.
    #[schema(value_type = String, format = Password)]
    pub(super) token: SecretString,
    /// The password of the account: shows that who has the mailbox chose it.
    #[schema(value_type = Option<String>, format = Password)]
    pub(super) password: Option<SecretString>,
    /// A password that the account is to have instead. It ends everything from before. See
    /// `GET /password-requirements`.
    #[schema(value_type = Option<String>, format = Password)]
    pub(super) new_password: Option<SecretString>,
    /// `true` asks for a proof of the password where the configuration does not: a cookie of the browser that
    /// registered, `password` or `new_password`. Without one the answer is `proof_needed`, and the link stays good.
    #[serde(default)]
    pub(super) proof: bool,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"email": "ann@example.com"}))]
pub(super) struct Address {
    #[schema(format = Email)]
    pub(super) email: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"token": "Xq3vN0uGJw2cT5mB8rYk1LpZsHd7EoAfRi6WxVt9QyM"}))]
pub(super) struct LinkToken {
    /// What follows `#token=` in the link.
    #[schema(value_type = String, format = Password)]
    pub(super) token: SecretString,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"token": "Xq3vN0uGJw2cT5mB8rYk1LpZsHd7EoAfRi6WxVt9QyM", "new_password": "Correct horse 43"}))]
pub(super) struct NewPassword {
    /// What follows `#token=` in the link.
    #[schema(value_type = String, format = Password)]
    pub(super) token: SecretString,
    /// See `GET /password-requirements`.
    #[schema(value_type = String, format = Password)]
    pub(super) new_password: SecretString,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"email": "ann@example.com", "password": "Correct horse 42"}))]
pub(super) struct Credentials {
    #[schema(format = Email)]
    pub(super) email: Option<String>,
    /// In place of `email`: the account's user name, in any case.
    pub(super) username: Option<String>,
    #[schema(value_type = String, format = Password)]
    pub(super) password: SecretString,
    /// `cookie`: the session travels in a cookie instead of tokens.
    #[serde(default)]
    pub(super) session: Carriage,
    /// For a session in a cookie: whether it outlives the browser's window, where the operator allows that.
    #[serde(default)]
    pub(super) remember: bool,
}

impl Credentials {
    /// The account that is to be signed in to: an address, or a user name, which has no `@`.
    ///
    /// # Errors
    /// [`AccountError::Invalid`] unless exactly one of them was sent; [`AccountError::InvalidEmail`] or
    /// [`AccountError::InvalidUsername`] for a text that can be none.
    pub(super) fn account(&self) -> Result<String, AccountError> {
        match (&self.email, &self.username) {
            (Some(email), None) => Ok(email.parse::<EmailAddress>()?.to_string()),
            (None, Some(username)) => Ok(username.parse::<Username>()?.to_string()),
            _ => Err(AccountError::Invalid("send one of `email` and `username`".to_owned())),
        }
    }
}

/// How a session travels.
#[derive(Deserialize, ToSchema, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Carriage {
    /// In an access token and a refresh token.
    #[default]
    Tokens,
    /// In a cookie that is set for pages on the host of the gateway's public URL.
    Cookie,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"refresh_token": "AQGb1sPKfXCTv8NVr0uQXAGb1sPKfnPCnRcUk2cTqQAAAAG5vX0c2Xy0"}))]
pub(super) struct Refresh {
    #[schema(value_type = String, format = Password)]
    pub(super) refresh_token: SecretString,
}

#[derive(Deserialize, ToSchema, Default)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"refresh_token": "AQGb1sPKfXCTv8NVr0uQXAGb1sPKfnPCnRcUk2cTqQAAAAG5vX0c2Xy0"}))]
pub(super) struct Logout {
    /// Needed only by who has no access token that is still good.
    #[schema(value_type = Option<String>, format = Password)]
    pub(super) refresh_token: Option<SecretString>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"current_password": "Correct horse 42", "new_password": "Correct horse 43"}))]
pub(super) struct PasswordChange {
    #[schema(value_type = String, format = Password)]
    pub(super) current_password: SecretString,
    /// See `GET /password-requirements`.
    #[schema(value_type = String, format = Password)]
    pub(super) new_password: SecretString,
}

/// What is not there stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "Ann Lee", "email": "ann.lee@example.com", "current_password": "Correct horse 42"}))]
pub(super) struct ProfileChange {
    /// `null` or an empty text takes it away.
    #[serde(default, deserialize_with = "taken_away")]
    pub(super) name: Option<String>,
    /// Takes effect when the link in the mail to it is opened. Needs `current_password`.
    #[schema(format = Email)]
    pub(super) email: Option<String>,
    #[schema(value_type = Option<String>, format = Password)]
    pub(super) current_password: Option<SecretString>,
}

/// `null` is not the same as nothing (RFC 7396 §1).
fn taken_away<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::<String>::deserialize(deserializer).map(|name| Some(name.unwrap_or_default()))
}

/// An account, as its owner sees it.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "id": "019b1e20-7c2e-7c3a-9d51-3f0b2a6c4e11", "email": "ann@example.com", "email_verified": true, "username": "ann",
    "groups": ["staff"], "name": "Ann", "created_at": 1800000000, "updated_at": 1800000060, "last_login_at": 1800003600,
    "scopes": ["read"],
}))]
pub(super) struct Profile {
    /// The `sub` of its tokens.
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    /// None: nothing is mailed to it, and it is signed in to by its user name.
    #[schema(required)]
    email: Option<String>,
    email_verified: bool,
    /// What it is signed in to by, too; set by the operator.
    #[schema(required)]
    username: Option<String>,
    /// Set by the operator; in the claim `groups` of its access tokens.
    groups: Vec<String>,
    #[schema(required)]
    name: Option<String>,
    created_at: u64,
    updated_at: u64,
    #[schema(required)]
    last_login_at: Option<u64>,
    /// What its access tokens may do.
    scopes: Vec<String>,
    /// The address that a confirmation was just mailed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pending_email: Option<String>,
}

impl From<&User> for Profile {
    fn from(user: &User) -> Profile {
        Profile {
            id: user.id.0,
            email: user.email.as_ref().map(ToString::to_string),
            email_verified: user.email_verified,
            username: user.username.as_ref().map(ToString::to_string),
            groups: user.groups.as_slice().to_vec(),
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
#[schema(example = json!({
    "access_token": "eyJ0eXAiOiJhdCtqd3QiLCJhbGciOiJFZERTQSIsImtpZCI6IjEifQ.e30.c2lnbmF0dXJl",
    "token_type": "Bearer", "expires_in": 1800,
    "refresh_token": "AQGb1sPKfXCTv8NVr0uQXAGb1sPKfnPCnRcUk2cTqQAAAAG5vX0c2Xy0",
    "user": {
        "id": "019b1e20-7c2e-7c3a-9d51-3f0b2a6c4e11", "email": "ann@example.com", "email_verified": true, "username": "ann",
        "groups": ["staff"], "name": "Ann", "created_at": 1800000000, "updated_at": 1800000060, "last_login_at": 1800003600,
        "scopes": ["read"],
    },
}))]
pub(super) struct Tokens {
    access_token: String,
    /// Always `Bearer`.
    token_type: &'static str,
    /// Seconds until the access token ends.
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

/// A short access token of a session in a cookie.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "access_token": "eyJ0eXAiOiJhdCtqd3QiLCJhbGciOiJFZERTQSIsImtpZCI6IjEifQ.e30.c2lnbmF0dXJl",
    "token_type": "Bearer", "expires_in": 1800,
}))]
pub(super) struct SessionToken {
    access_token: String,
    /// Always `Bearer`.
    token_type: &'static str,
    /// Seconds until the access token ends.
    expires_in: u64,
}

impl From<&palisade_core::service::browser::SessionToken> for SessionToken {
    fn from(token: &palisade_core::service::browser::SessionToken) -> SessionToken {
        SessionToken {
            access_token: token.access_token.clone(),
            token_type: "Bearer",
            expires_in: token.expires_in.as_secs(),
        }
    }
}

/// The session of a cookie.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "session": "019b1e21-0a4b-7b8e-8c7d-5a1e9f3b2d60", "idle_at": 1800043200, "ends_at": 1807776000,
    "user": {
        "id": "019b1e20-7c2e-7c3a-9d51-3f0b2a6c4e11", "email": "ann@example.com", "email_verified": true, "username": "ann",
        "groups": ["staff"], "name": "Ann", "created_at": 1800000000, "updated_at": 1800000060, "last_login_at": 1800003600,
        "scopes": ["read"],
    },
}))]
pub(super) struct SessionState {
    #[schema(required, value_type = Option<String>, format = "uuid")]
    session: Option<Uuid>,
    /// When it ends unless it is used.
    idle_at: u64,
    /// When it ends in any case.
    ends_at: u64,
    user: Profile,
}

impl SessionState {
    pub(super) fn new(
        user: &User,
        session: Option<SessionId>,
        idle_at: UnixTime,
        ends_at: UnixTime,
    ) -> SessionState {
        let session = session.map(|session| session.0);
        SessionState { session, idle_at: idle_at.0, ends_at: ends_at.0, user: Profile::from(user) }
    }
}

/// What happens next.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"detail": "if there is an account with this address, a link that sets a new password is on its way"}))]
pub(super) struct Accepted {
    pub(super) detail: &'static str,
}

/// The token of a link is good.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"valid": true}))]
pub(super) struct Valid {
    /// Always true: a link that is not good is answered with `invalid_link`.
    pub(super) valid: bool,
}

/// The rules for passwords.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "policy": "length", "min_length": 15, "max_bytes": 1024, "uppercase": false, "lowercase": false,
    "digit": false, "special": false, "common_refused": true, "identity_refused": true, "min_guesses": 2000000,
    "text": ["Use at least 15 characters; a sentence is fine."],
}))]
pub(super) struct PasswordRules {
    #[schema(value_type = String)]
    policy: PasswordPolicy,
    /// In characters.
    min_length: usize,
    /// In bytes of UTF-8.
    max_bytes: usize,
    /// Whether an upper case letter is needed; so for the next three.
    uppercase: bool,
    lowercase: bool,
    digit: bool,
    /// A character that is none of the three.
    special: bool,
    /// Whether common passwords are refused.
    common_refused: bool,
    /// Whether a password that is the account's address or name, or hardly more, is refused.
    identity_refused: bool,
    /// The fewest guesses that a password must stand, as zxcvbn estimates them for an attacker who knows the account
    /// and the service; one that stands fewer breaks the rule `guessable`.
    min_guesses: u64,
    /// One sentence for each rule.
    text: Vec<&'static str>,
}

impl From<Requirements> for PasswordRules {
    fn from(rules: Requirements) -> PasswordRules {
        PasswordRules {
            policy: rules.policy,
            min_length: rules.min_length,
            max_bytes: rules.max_bytes,
            uppercase: rules.uppercase,
            lowercase: rules.lowercase,
            digit: rules.digit,
            special: rules.special,
            common_refused: rules.common_refused,
            identity_refused: rules.identity_refused,
            min_guesses: rules.min_guesses,
            text: rules.text,
        }
    }
}

/// A sign-in on one device.
#[derive(Serialize, ToSchema)]
pub(super) struct SessionView {
    /// The `sid` of its access tokens.
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    /// Whether the access token of this request belongs to it.
    current: bool,
    /// For people.
    device: String,
    /// As it was sent with the last use, cut to 256 characters.
    #[schema(required)]
    user_agent: Option<String>,
    /// Of the last use.
    #[schema(value_type = String)]
    address: IpAddr,
    /// Where that address is, when the gateway has a database of places.
    #[schema(required)]
    place: Option<String>,
    created_at: u64,
    last_used_at: u64,
    /// When it ends unless it is used.
    expires_at: u64,
}

impl SessionView {
    pub(super) fn of(session: &Session, current: Option<SessionId>, lifetimes: Lifetimes) -> SessionView {
        SessionView {
            id: session.id.0,
            current: Some(session.id) == current,
            device: session.device.name.clone(),
            user_agent: session.device.user_agent.clone(),
            address: session.device.address,
            place: session.device.place.clone(),
            created_at: session.created_at.0,
            last_used_at: session.last_used_at.0,
            expires_at: session.ends_at(lifetimes).0,
        }
    }
}

/// The sessions of an account, the latest used first.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"sessions": [{
    "id": "019b1e21-0a4b-7b8e-8c7d-5a1e9f3b2d60", "current": true, "device": "Firefox on Windows",
    "user_agent": "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "address": "192.0.2.1", "place": "Berlin, Germany", "created_at": 1800000000, "last_used_at": 1800003600,
    "expires_at": 1802595600,
}]}))]
pub(super) struct Sessions {
    pub(super) sessions: Vec<SessionView>,
}
