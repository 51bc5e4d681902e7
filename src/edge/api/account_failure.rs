//! What a caller is told when an account's request is not done: one exhaustive match. The codes are
//! stable, and every one is in the description of the API ([`told`]).

use std::sync::LazyLock;
use std::time::Duration;

use serde_json::{Value, json};

use super::failure::{self, Failure};
use palisade_core::domain::answer::{answer, realm};
use palisade_core::domain::name::NAME_WANTED;
use palisade_core::domain::password::{PasswordPolicy, Violation};
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::verdict::{Refusal, TokenFault};
use palisade_core::ports::{Busy, SignError, StoreError, TooMany};
use palisade_core::service::accounts::{AccountError, Ways};
use palisade_core::service::outage::Outage;

/// A line for each request would fill the log while a database is away, at the pleasure of those who ask.
static UNAVAILABLE: LazyLock<Outage> =
    LazyLock::new(|| Outage::new("the store does not answer, and requests that need it get a 503"));

/// Tells the log why a request was refused.
pub(super) fn log_store(error: &StoreError) {
    match error {
        StoreError::Unavailable(_) => UNAVAILABLE.failed(error),
        _ => tracing::error!(%error, "the store refused a request"),
    }
}

/// When to try again at a store that is closed for writing: only an operator opens it.
const CLOSED_FOR: Duration = Duration::from_secs(60);

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        log_store(&error);
        store(&error)
    }
}

impl From<AccountError> for Failure {
    fn from(error: AccountError) -> Failure {
        match &error {
            AccountError::Store(error) => log_store(error),
            AccountError::Sign(error) => tracing::error!(%error, "no token was signed"),
            _ => {}
        }
        account(&error)
    }
}

pub(super) fn store(error: &StoreError) -> Failure {
    match error {
        StoreError::Unavailable(_) => {
            let detail = "the store does not answer, so it is not known that this was done; try again";
            Failure::new(503, "store_unavailable", detail)
        }
        StoreError::Closed(_) => {
            let detail = "nothing was changed: this gateway serves a store that is closed for writing, because its records are \
                          moved, or were moved, to another one; it takes changes again once its operator has decided which \
                          store is served";
            Failure::new(503, "store_unavailable", detail).after(CLOSED_FOR)
        }
        StoreError::EndsNotKept(_) => {
            let detail = "this was done, but the journal of ends (backup.journal) cannot be written, so that a restore could \
                          undo it; try again";
            Failure::new(503, "store_unavailable", detail)
        }
        StoreError::OlderReplica(older) => {
            let program = older.program;
            let detail = format!(
                "nothing was changed: a replica with program {program} still serves, and cannot read what this would write; \
                 try again once it is upgraded"
            );
            Failure::new(503, "store_unavailable", detail)
        }
        StoreError::Unreadable(_) | StoreError::Newer(_) => {
            Failure::new(500, "store_unreadable", "the store holds a record that cannot be read; see the log")
        }
    }
}

pub(super) fn account(error: &AccountError) -> Failure {
    let said = error.to_string();
    match error {
        // Every 401 names a scheme that would do (RFC 9110 §15.5.2); Bearer is one for which no browser asks
        // its user.
        AccountError::InvalidCredentials => {
            Failure::new(401, "invalid_credentials", said).challenging(realm())
        }
        AccountError::InvalidRefreshToken => {
            Failure::new(401, "invalid_refresh_token", said).challenging(realm())
        }
        // No 401: the access token is good, and a client must not take it for one that has ended.
        AccountError::WrongPassword => Failure::new(403, "wrong_password", said),
        AccountError::Disabled => Failure::new(403, "account_disabled", said),
        AccountError::Frozen => Failure::new(409, "account_frozen", said),
        AccountError::FreshSignInNeeded => Failure::new(403, "fresh_sign_in_needed", said),
        AccountError::EmailChangeUndoable(until) => {
            let why = "the address of the account was changed lately: as long as that can be undone, until the moment in \
                       `until`, the account cannot be deleted";
            Failure::new(409, "email_change_undoable", why).with("until", json!(until))
        }
        AccountError::Locked(until) => {
            Failure::new(403, "account_locked", "the account is locked until the moment in `until`")
                .with("until", json!(until))
        }
        AccountError::InvalidLink => Failure::new(400, "invalid_link", said),
        AccountError::ProofNeeded(ways) => {
            let ways = match ways {
                Ways::Password => json!(["password", "new_password"]),
                Ways::NewPassword => json!(["new_password"]),
                Ways::Account => json!(["password", "access_token"]),
            };
            Failure::new(403, "proof_needed", said).with("ways", ways)
        }
        AccountError::InvalidEmail(_) => Failure::new(422, "invalid_email", said),
        AccountError::Invalid(_) => Failure::new(422, "invalid_request", said),
        AccountError::PasswordRejected { broken, policy } => {
            Failure::new(422, "password_rejected", said).with("violations", violations(broken, *policy))
        }
        AccountError::NoAccount => Failure::new(403, "no_account", said),
        AccountError::NotFound(_) => Failure::new(404, "not_found", said),
        AccountError::RegistrationClosed => Failure::new(403, "registration_closed", said),
        AccountError::NoMail => Failure::new(403, "no_mail", said),
        AccountError::EmailTaken => Failure::new(409, "email_taken", said),
        AccountError::UsernameTaken => Failure::new(409, "username_taken", said),
        AccountError::IdentityTaken => Failure::new(409, "identity_taken", said),
        AccountError::InvalidUsername(_) => Failure::new(422, "invalid_username", said),
        AccountError::InvalidGroups(_) => Failure::new(422, "invalid_request", said),
        AccountError::Conflict => Failure::new(409, "conflict", said),
        AccountError::Busy(busy) => Failure::new(503, "busy", said).after(busy.retry_after),
        AccountError::TooMany(many) => Failure::new(429, "too_many_attempts", said).after(many.retry_after),
        AccountError::Store(error) => store(error),
        AccountError::Sign(_) => {
            Failure::new(503, "signing_unavailable", "there is no usable signing key; try again")
        }
    }
}

/// The rules that a password breaks, for programs and for people.
fn violations(broken: &[Violation], policy: PasswordPolicy) -> Value {
    broken.iter().map(|violation| json!({"rule": violation, "text": policy.explain(*violation)})).collect()
}

/// Every failure that the native endpoints and the operator's API of accounts can answer with, one for
/// each code as it is really sent, and when that is.
pub(super) fn documented_failures() -> Vec<(Failure, &'static str)> {
    let wait = Duration::from_secs(30);
    let broken = vec![Violation::TooShort, Violation::NoDigit];
    let email = "ann".parse::<palisade_core::domain::email::EmailAddress>();
    let username = "".parse::<palisade_core::domain::username::Username>();
    let invalid_username = username.err().map(|error| account(&AccountError::InvalidUsername(error)));
    let invalid_email = email.err().map(|error| account(&AccountError::InvalidEmail(error)));
    let accounts = [
        (
            AccountError::Invalid(NAME_WANTED.into()),
            "A member of the body, or a parameter, cannot be what it is.",
        ),
        (
            AccountError::PasswordRejected { broken, policy: PasswordPolicy::Composition },
            "The password breaks the rules in `violations`.",
        ),
        (
            AccountError::InvalidCredentials,
            "There is no such account, it has another password, or its address is not verified yet.",
        ),
        (AccountError::WrongPassword, "The current password, asked for once more, is another one."),
        (AccountError::Disabled, "An operator has disabled the account."),
        (
            AccountError::RegistrationClosed,
            "`accounts.registration` is not \"open\": accounts are made by the operator, or by an invitation.",
        ),
        (
            AccountError::NoMail,
            "`mail.transport` is \"none\": the operator makes the link that is asked for.",
        ),
        (
            AccountError::Frozen,
            "A change of the account's address was undone, and it is not decided yet which address it gets.",
        ),
        (
            AccountError::FreshSignInNeeded,
            "The account's password was not given, and the session is older than ten minutes.",
        ),
        (
            AccountError::EmailChangeUndoable(UnixTime(1_800_000_000)),
            "The account's address was changed, and that can be undone until `until`.",
        ),
        (AccountError::Locked(UnixTime(1_800_000_000)), "An operator has locked the account until `until`."),
        (
            AccountError::InvalidRefreshToken,
            "The refresh token is none of ours, was replaced, or its session has ended.",
        ),
        (
            AccountError::InvalidLink,
            "The token of a mailed link was used, has expired, or is void: the account has changed since.",
        ),
        (
            AccountError::ProofNeeded(Ways::Password),
            "The link is good, and needs beside its token one of what `ways` names: a member of the body, or an access token. It stays good.",
        ),
        (
            AccountError::NoAccount,
            "The access token is good and belongs to no account: it is of another issuer, or was minted by an operator.",
        ),
        (AccountError::NotFound("session"), "There is no such thing, or it is none of the caller's."),
        (AccountError::EmailTaken, "Another account has the address."),
        (AccountError::UsernameTaken, "Another account has the user name, or had it."),
        (AccountError::IdentityTaken, "Another account has the identity at a provider."),
        (AccountError::Conflict, "Others were changing the account at the same time; try again."),
        (
            AccountError::TooMany(TooMany { retry_after: wait }),
            "Too many attempts; come back after `Retry-After` seconds.",
        ),
        (
            AccountError::Busy(Busy { retry_after: wait }),
            "Too many passwords are being checked; come back after `Retry-After` seconds.",
        ),
        (
            AccountError::Store(StoreError::Unavailable(String::new())),
            "The store does not answer, or cannot write: what was asked for is not known to be done.",
        ),
        (
            AccountError::Store(StoreError::Unreadable(String::new())),
            "The store holds a record that cannot be read.",
        ),
        (AccountError::Sign(SignError(String::new())), "There is no usable signing key."),
    ];
    let refusals = [
        (Refusal::Credentials, "More than one credential was sent, or one that cannot be read."),
        (Refusal::NoToken, "No access token was sent."),
        (
            Refusal::Token(TokenFault::Expired),
            "The access token is expired, revoked, malformed or not for here.",
        ),
        (Refusal::NotReady, "The gateway is starting."),
        (Refusal::Stale, "It cannot be known at the moment whether the credential was revoked."),
    ];
    let others = [
        (failure::unreadable(), "The body ended early."),
        (failure::too_slow(), "The body did not arrive within ten seconds."),
        (
            failure::malformed("`email`: expected a string at line 1 column 11"),
            "The body is not JSON, lacks a member, or has one that is not described here.",
        ),
        (failure::too_large(), "The body is larger than 64 KiB."),
        (failure::wrong_type(), "The body was not sent as `application/json` in UTF-8."),
        (failure::no_such_method(), "The path does not take this method; `Allow` says which."),
        (failure::internal(), "Something of ours failed."),
    ];
    let accounts = accounts.into_iter().map(|(error, when)| (account(&error), when));
    let refusals = refusals.into_iter().map(|(refusal, when)| (answer(&refusal).into(), when));
    let email = invalid_email.into_iter().map(|failure| (failure, "The e-mail address is none."));
    let username = invalid_username.into_iter().map(|failure| (failure, "The user name is none."));
    accounts.chain(email).chain(username).chain(refusals).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_core::domain::email::EmailAddress;
    use palisade_core::domain::groups::Groups;
    use palisade_core::domain::username::Username;
    use palisade_core::ports::{EndsNotKept, OlderReplica, RecordKind};

    /// One error after the other. A new one does not compile until it has its place here.
    fn after(error: Option<&AccountError>) -> Option<AccountError> {
        let broken = vec![Violation::TooShort];
        Some(match error {
            None => AccountError::InvalidCredentials,
            Some(AccountError::InvalidCredentials) => AccountError::WrongPassword,
            Some(AccountError::WrongPassword) => AccountError::Disabled,
            Some(AccountError::Disabled) => AccountError::Frozen,
            Some(AccountError::Frozen) => AccountError::FreshSignInNeeded,
            Some(AccountError::FreshSignInNeeded) => AccountError::EmailChangeUndoable(UnixTime(1)),
            Some(AccountError::EmailChangeUndoable(_)) => AccountError::Locked(UnixTime(1)),
            Some(AccountError::Locked(_)) => AccountError::InvalidRefreshToken,
            Some(AccountError::InvalidRefreshToken) => AccountError::InvalidLink,
            Some(AccountError::InvalidLink) => AccountError::ProofNeeded(Ways::NewPassword),
            Some(AccountError::ProofNeeded(_)) => "x".parse::<EmailAddress>().unwrap_err().into(),
            Some(AccountError::InvalidEmail(_)) => AccountError::Invalid("x".into()),
            Some(AccountError::Invalid(_)) => {
                AccountError::PasswordRejected { broken, policy: PasswordPolicy::Composition }
            }
            Some(AccountError::PasswordRejected { .. }) => AccountError::NoAccount,
            Some(AccountError::NoAccount) => AccountError::NotFound("session"),
            Some(AccountError::NotFound(_)) => AccountError::EmailTaken,
            Some(AccountError::EmailTaken) => AccountError::UsernameTaken,
            Some(AccountError::UsernameTaken) => AccountError::IdentityTaken,
            Some(AccountError::IdentityTaken) => "".parse::<Username>().unwrap_err().into(),
            Some(AccountError::InvalidUsername(_)) => Groups::new(&[""]).unwrap_err().into(),
            Some(AccountError::InvalidGroups(_)) => AccountError::RegistrationClosed,
            Some(AccountError::RegistrationClosed) => AccountError::NoMail,
            Some(AccountError::NoMail) => AccountError::Conflict,
            Some(AccountError::Conflict) => Busy { retry_after: Duration::ZERO }.into(),
            Some(AccountError::Busy(_)) => TooMany { retry_after: Duration::from_millis(1500) }.into(),
            Some(AccountError::TooMany(_)) => StoreError::Unavailable("inside".into()).into(),
            Some(AccountError::Store(StoreError::Unavailable(_))) => {
                StoreError::Closed("inside".into()).into()
            }
            Some(AccountError::Store(StoreError::Closed(_))) => {
                StoreError::Unreadable("inside".into()).into()
            }
            Some(AccountError::Store(StoreError::Unreadable(_))) => StoreError::Newer("inside".into()).into(),
            Some(AccountError::Store(StoreError::Newer(_))) => {
                let (replica, kind) = ("inside".to_owned(), RecordKind::User);
                StoreError::from(OlderReplica { replica, program: 6, kind, version: 3, reads: 2 }).into()
            }
            Some(AccountError::Store(StoreError::OlderReplica(_))) => {
                StoreError::from(EndsNotKept("inside".into())).into()
            }
            Some(AccountError::Store(StoreError::EndsNotKept(_))) => SignError("inside".into()).into(),
            Some(AccountError::Sign(_)) => return None,
        })
    }

    #[test]
    fn a_write_that_an_older_replica_cannot_read_names_its_program_and_not_the_replica() {
        let (replica, kind) = ("b-7.internal".to_owned(), RecordKind::User);
        let failure = store(&OlderReplica { replica, program: 6, kind, version: 3, reads: 2 }.into());
        let document = failure.document();
        assert_eq!((&document["status"], &document["code"]), (&503.into(), &"store_unavailable".into()));
        let detail = document["detail"].as_str().unwrap();
        assert!(detail.contains("program 6") && !detail.contains("b-7"), "{detail}");
    }

    #[test]
    fn a_write_to_a_closed_store_is_known_not_to_be_done_and_is_not_hurried() {
        let failure = store(&StoreError::Closed("its records are moved to sled:/inside".to_owned()));
        assert_eq!((failure.status(), failure.code()), (503, "store_unavailable"));
        assert_eq!(failure.retry_after(), Some(60));
        let detail = failure.document()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("nothing was changed: ") && !detail.contains("inside"), "{detail}");
    }

    #[test]
    fn every_error_is_told_in_a_listed_code_and_none_from_inside() {
        let listed: Vec<Value> =
            documented_failures().iter().map(|(failure, _)| failure.document()["code"].clone()).collect();
        let mut error = after(None);
        let mut count = 0;
        while let Some(this) = error {
            let failure = account(&this);
            let document = failure.document();
            let place = listed.iter().filter(|code| **code == document["code"]).count();
            assert_eq!(place, 1, "{document}");
            assert!(!document.to_string().contains("inside"), "{document}");
            count += 1;
            error = after(Some(&this));
        }
        assert_eq!(count, 32);
    }
}
