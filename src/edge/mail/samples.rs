//! Sample letters about an invented account, to try templates and transports with.

use std::time::Duration;

use secrecy::SecretString;
use uuid::Uuid;

use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::link::Purpose;
use palisade_core::domain::mail::{Connected, Facts, Letter, Mail, MailedLink};
use palisade_core::domain::time::UnixTime;

/// A letter of this kind with everything it can tell, made at `now`. The link in it opens nothing.
#[must_use]
pub fn sample(letter: Letter, id: Uuid, to: EmailAddress, now: UnixTime) -> Mail {
    let purpose = purpose(letter);
    let is_change = matches!(letter, Letter::EmailChanged | Letter::EmailReplaced);
    let new_email = is_change.then(|| "ann.new@example.com".parse().ok()).flatten();
    let is_disputed = letter == Letter::EmailChangeDisputed;
    let old_email = is_disputed.then(|| "ann.old@example.com".parse().ok()).flatten();
    let ends =
        matches!(letter, Letter::GrantEnding | Letter::EmailChangeUndone | Letter::EmailChangeDisputed);
    let of_provider = matches!(letter, Letter::ReconnectNeeded | Letter::GrantEnding);
    Mail {
        id,
        letter,
        to,
        // These go to addresses that are not verified yet.
        verified: !matches!(
            letter,
            Letter::VerifyEmail | Letter::ConfirmEmail | Letter::Welcome | Letter::Invitation
        ),
        name: Some("Ann".to_owned()),
        link: purpose.map(|purpose| MailedLink { id, purpose, expires_at: now.plus(purpose.life()) }),
        facts: Facts {
            at: Some(now),
            device: Some("Firefox on Linux".to_owned()),
            address: Some("203.0.113.7".to_owned()),
            place: Some("Vienna, Austria".to_owned()),
            new_email,
            old_email,
            provider: of_provider.then(|| "Example Bank".to_owned()),
            ends_at: ends.then(|| now.plus(Duration::from_secs(24 * 3600))),
            connections: match letter {
                Letter::PasswordChanged => vec![Connected { provider: "example-bank".to_owned(), at: now }],
                _ => Vec::new(),
            },
        },
        created_at: now,
        due_at: now,
        attempts: 0,
        last_error: None,
        given_up: false,
    }
}

/// What the link in a sample has for a token: a text of the right length that opens nothing.
#[must_use]
pub fn sample_token() -> SecretString {
    "sample-that-opens-nothing-0123456789-abcdef".into()
}

/// The same letter with nothing that it can do without.
pub(super) fn bare(mail: Mail) -> Mail {
    Mail { name: None, facts: Facts::default(), ..mail }
}

/// What the link in this letter is for, when it has one.
pub(super) fn purpose(letter: Letter) -> Option<Purpose> {
    match letter {
        Letter::VerifyEmail => Some(Purpose::VerifyEmail),
        Letter::ResetPassword => Some(Purpose::ResetPassword),
        Letter::Invitation => Some(Purpose::Invite),
        Letter::ConfirmEmail => Some(Purpose::ChangeEmail),
        Letter::EmailReplaced => Some(Purpose::UndoEmailChange),
        Letter::EmailChangeDisputed => Some(Purpose::ObjectToUndo),
        Letter::Welcome
        | Letter::AlreadyRegistered
        | Letter::PasswordChanged
        | Letter::EmailChanged
        | Letter::EmailChangeUndone
        | Letter::NewDevice
        | Letter::AccountDeleted
        | Letter::ReconnectNeeded
        | Letter::GrantEnding => None,
    }
}
