//! What a caller is told when an account's request is not done: one exhaustive match. The codes are
//! stable, and every one is in the description of the API.

use serde_json::{Value, json};

use super::body::Failure;
use crate::domain::password::{Policy, Violation};
use crate::ports::StoreError;
use crate::service::accounts::AccountError;

/// RFC 6750 §3.
pub(super) const NO_TOKEN: &str = "Bearer realm=\"palisade\"";
pub(super) const BAD_TOKEN: &str = "Bearer realm=\"palisade\", error=\"invalid_token\", \
     error_description=\"the access token is expired, revoked, malformed or not for here\"";

/// Every code that the native endpoints answer with, its status, and what it means.
pub(super) const CODES: [(&str, u16, &str); 28] = [
    ("body_too_large", 413, "the body is larger than 64 KiB"),
    ("body_unreadable", 400, "the body ended early"),
    ("invalid_json", 400, "the body is not the JSON that is described here"),
    ("unsupported_media_type", 415, "the body is not sent as application/json"),
    ("invalid_request", 422, "a member or a parameter cannot be what it is"),
    ("invalid_email", 422, "the e-mail address is none"),
    ("password_rejected", 422, "the password breaks the rules in `violations`"),
    ("invalid_credentials", 401, "the e-mail address or the password is wrong"),
    ("email_not_verified", 403, "the password is right, and the address not verified yet"),
    ("account_disabled", 403, "the account is disabled"),
    ("account_locked", 403, "an operator has locked the account for a time"),
    ("invalid_refresh_token", 401, "the refresh token is not good, or its session has ended"),
    ("invalid_link", 400, "the token of a mailed link was used, has expired or was replaced"),
    ("token_missing", 401, "there is no access token"),
    ("invalid_token", 401, "the access token is not good"),
    ("credentials_ambiguous", 400, "there is more than one credential"),
    ("no_account", 403, "the access token belongs to no account"),
    ("not_found", 404, "there is no such thing, or not among the caller's"),
    ("method_not_allowed", 405, "the path does not take the method"),
    ("email_taken", 409, "another account has the address"),
    ("conflict", 409, "the account is being changed by others at the same time"),
    ("too_many_attempts", 429, "come back after `Retry-After`"),
    ("busy", 503, "too many passwords are being checked; come back after `Retry-After`"),
    ("store_unavailable", 503, "nothing was changed: the store cannot write"),
    ("store_unreadable", 500, "a record cannot be read"),
    ("signing_unavailable", 503, "there is no usable signing key"),
    ("not_ready", 503, "the gateway is starting"),
    ("internal", 500, "something of ours failed"),
];

/// The rules that a password breaks, for programs and for people.
pub(super) fn violations(broken: &[Violation], policy: Policy) -> Value {
    broken.iter().map(|violation| json!({"rule": violation, "text": policy.explain(*violation)})).collect()
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        tracing::error!(%error, "the store refused a request");
        match error {
            StoreError::Unavailable(_) => {
                let cure = "nothing was changed: the store cannot write; try again";
                Failure::new(503, "store_unavailable", cure)
            }
            StoreError::Unreadable(_) => {
                let cure = "the store holds a record that cannot be read; see the log";
                Failure::new(500, "store_unreadable", cure)
            }
        }
    }
}

impl From<AccountError> for Failure {
    fn from(error: AccountError) -> Failure {
        let said = error.to_string();
        match error {
            // A challenge would make browsers ask for a password of their own (RFC 9110 §11.6.1 wants one
            // with every 401; this one names the scheme that the rest of the API takes).
            AccountError::InvalidCredentials => {
                Failure::new(401, "invalid_credentials", said).challenging(NO_TOKEN)
            }
            AccountError::InvalidRefreshToken => {
                Failure::new(401, "invalid_refresh_token", said).challenging(NO_TOKEN)
            }
            AccountError::EmailNotVerified => Failure::new(403, "email_not_verified", said),
            AccountError::Disabled => Failure::new(403, "account_disabled", said),
            AccountError::Locked(until) => {
                Failure::new(403, "account_locked", "the account is locked for a time")
                    .with("until", json!(until))
            }
            AccountError::InvalidLink => Failure::new(400, "invalid_link", said),
            AccountError::InvalidEmail(_) => Failure::new(422, "invalid_email", said),
            AccountError::Invalid(_) => Failure::new(422, "invalid_request", said),
            AccountError::PasswordRejected { broken, policy } => {
                Failure::new(422, "password_rejected", said).with("violations", violations(&broken, policy))
            }
            AccountError::NoAccount => Failure::new(403, "no_account", said),
            AccountError::NotFound(_) => Failure::new(404, "not_found", said),
            AccountError::EmailTaken => Failure::new(409, "email_taken", said),
            AccountError::Conflict => Failure::new(409, "conflict", said),
            AccountError::Busy(busy) => Failure::new(503, "busy", said).after(busy.retry_after),
            AccountError::TooMany(many) => {
                Failure::new(429, "too_many_attempts", said).after(many.retry_after)
            }
            AccountError::Store(error) => error.into(),
            AccountError::Sign(error) => {
                tracing::error!(%error, "no token was signed");
                Failure::new(503, "signing_unavailable", "there is no usable signing key")
            }
        }
    }
}
