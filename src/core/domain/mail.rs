//! What is to be mailed: which letter, to which recipient, with which facts. The words are templates at the edge.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::email::EmailAddress;
use super::link::Purpose;
use super::time::UnixTime;

/// Which letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Letter {
    /// A link that shows the address is theirs.
    VerifyEmail,
    /// The account works now.
    Welcome,
    /// A requester tried to register an address that has an account.
    AlreadyRegistered,
    /// A link that sets a new password.
    ResetPassword,
    /// The password was changed.
    PasswordChanged,
    /// To the new address: a link that makes it the account's.
    ConfirmEmail,
    /// To the old address: a session asked for another one.
    EmailChanged,
    /// To the old address: it was changed, with a link that undoes it.
    EmailReplaced,
    /// To the earlier address: a change was undone, and the account is frozen for now.
    EmailChangeUndone,
    /// To the later addresses: the same, with a link to object.
    EmailChangeDisputed,
    /// A sign-in from a device that was not seen before.
    NewDevice,
    /// Its owner has deleted the account.
    AccountDeleted,
    /// A provider does not honour the grant any more: connect again.
    ReconnectNeeded,
    /// A grant ends soon, whatever Palisade does: connect again.
    GrantEnding,
    /// An operator has made an account for them: a link that sets its password.
    Invitation,
}

impl Letter {
    /// Every letter, in the order people get to see them.
    pub const ALL: [Letter; 15] = [
        Letter::VerifyEmail,
        Letter::Welcome,
        Letter::AlreadyRegistered,
        Letter::ResetPassword,
        Letter::PasswordChanged,
        Letter::ConfirmEmail,
        Letter::EmailChanged,
        Letter::EmailReplaced,
        Letter::EmailChangeUndone,
        Letter::EmailChangeDisputed,
        Letter::NewDevice,
        Letter::AccountDeleted,
        Letter::ReconnectNeeded,
        Letter::GrantEnding,
        Letter::Invitation,
    ];

    /// The name of its templates: `verify_email`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Letter::VerifyEmail => "verify_email",
            Letter::Welcome => "welcome",
            Letter::AlreadyRegistered => "already_registered",
            Letter::ResetPassword => "reset_password",
            Letter::PasswordChanged => "password_changed",
            Letter::ConfirmEmail => "confirm_email",
            Letter::EmailChanged => "email_changed",
            Letter::EmailReplaced => "email_replaced",
            Letter::EmailChangeUndone => "email_change_undone",
            Letter::EmailChangeDisputed => "email_change_disputed",
            Letter::NewDevice => "new_device",
            Letter::AccountDeleted => "account_deleted",
            Letter::ReconnectNeeded => "reconnect_needed",
            Letter::GrantEnding => "grant_ending",
            Letter::Invitation => "invitation",
        }
    }
}

/// A mail in the outbox. It holds no token: the link's is derived when the mail is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mail {
    /// UUID v7; also the `Message-ID`, so that a second delivery can be told.
    pub id: Uuid,
    pub letter: Letter,
    pub to: EmailAddress,
    /// Whether the recipient had shown, when this was enqueued, that [`Mail::to`] is theirs. If not, a stranger may
    /// have named it, and the letter repeats no text that a requester chose ([`Mail::telling`]).
    #[serde(default)]
    pub verified: bool,
    /// What the person is called.
    pub name: Option<String>,
    pub link: Option<MailedLink>,
    /// What the letter tells of; empty where it tells of nothing.
    pub facts: Facts,
    pub created_at: UnixTime,
    /// Not before this moment.
    pub due_at: UnixTime,
    /// How often it was tried.
    pub attempts: u32,
    /// Why the last try failed.
    pub last_error: Option<String>,
    /// No longer tried; kept for the operator to see.
    pub given_up: bool,
}

impl Mail {
    /// A mail to be sent at once, without a name, a link or facts.
    #[must_use]
    pub fn new(id: Uuid, letter: Letter, to: EmailAddress, now: UnixTime) -> Mail {
        Mail {
            id,
            letter,
            to,
            verified: false,
            name: None,
            link: None,
            facts: Facts::default(),
            created_at: now,
            due_at: now,
            attempts: 0,
            last_error: None,
            given_up: false,
        }
    }

    /// What the letter may tell: everything to an address that is verified, and else only what the gateway itself
    /// says. An attacker who registers another person's address must not be able to write to that person.
    #[must_use]
    pub fn telling(&self) -> (Option<&str>, Facts) {
        if self.verified {
            return (self.name.as_deref(), self.facts.clone());
        }
        // Named one by one, so that a new fact does not compile before its author has said who chose its text.
        let Facts {
            at,
            device: _,
            address,
            place,
            new_email: _,
            old_email: _,
            provider,
            ends_at,
            connections,
        } = self.facts.clone();
        let (device, new_email, old_email) = (None, None, None);
        (None, Facts { at, device, address, place, new_email, old_email, provider, ends_at, connections })
    }
}

/// The link in a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailedLink {
    /// [`super::link::Link::id`].
    pub id: Uuid,
    pub purpose: Purpose,
    pub expires_at: UnixTime,
}

/// What happened, for the letters that tell of something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub at: Option<UnixTime>,
    pub device: Option<String>,
    pub address: Option<String>,
    pub place: Option<String>,
    /// The address that is to replace the present one.
    pub new_email: Option<EmailAddress>,
    /// The address that a change was undone for.
    #[serde(default)]
    pub old_email: Option<EmailAddress>,
    /// What people call the provider.
    #[serde(default)]
    pub provider: Option<String>,
    /// When what the letter warns of comes.
    #[serde(default)]
    pub ends_at: Option<UnixTime>,
    /// Where the account stays connected although its password was changed, the latest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connections: Vec<Connected>,
}

/// A connection to a provider, as a letter names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connected {
    /// The provider's name in the configuration.
    pub provider: String,
    /// When consent was last given.
    pub at: UnixTime,
}
