//! Links in mails: good once, for one purpose, one address and a short time.
//!
//! Only a state-changing method consumes one, because mail scanners open every link they see.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::account::{User, UserId};
use super::email::EmailAddress;
use super::email_change::{OBJECTION_TIME, UNDO_LIFE};
use super::opaque::TokenHash;
use super::time::UnixTime;
use super::trusted_time::NEAR;

/// What a link is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Shows that mail to an account's address reaches its owner.
    VerifyEmail,
    /// Sets a new password without the old one.
    ResetPassword,
    /// Makes the address that the link was sent to the account's address.
    ChangeEmail,
    /// To the old address of a changed one: undoes the change ([`super::email_change`]).
    UndoEmailChange,
    /// To the later addresses of an undone change: an operator then decides who owns the account.
    ObjectToUndo,
    /// Sets the first password of an account that an operator made for an invited person.
    Invite,
}

impl Purpose {
    /// How long a link for this is good.
    #[must_use]
    pub fn life(self) -> Duration {
        match self {
            Purpose::VerifyEmail | Purpose::ChangeEmail => Duration::from_secs(24 * 3600),
            Purpose::ResetPassword => Duration::from_secs(3600),
            Purpose::UndoEmailChange => UNDO_LIFE,
            Purpose::ObjectToUndo => OBJECTION_TIME,
            Purpose::Invite => Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// A link that was mailed, as it is kept: without its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The token is derived from it ([`super::opaque::ServerKey::link_token`]).
    pub id: Uuid,
    /// What is kept of the token.
    pub hash: TokenHash,
    pub purpose: Purpose,
    pub user: UserId,
    /// Where it was sent. `None`: the account had no address, and an operator handed the link over.
    pub email: Option<EmailAddress>,
    /// The account's [`User::link_generation`] when it was made.
    pub generation: u64,
    pub created_at: UnixTime,
    pub expires_at: UnixTime,
    /// Whether it is good only while the account names it as its live link ([`User::live_links`]). False for links
    /// of versions that did not keep that: those are good until they are used, void or over.
    #[serde(default)]
    pub is_listed: bool,
    /// Where the browser that asked for it was going: a whole URL. It is here so that the link finishes there in any
    /// browser, and it has to be read anew by what the configuration allows at that time.
    #[serde(default)]
    pub return_to: Option<String>,
}

impl Link {
    /// Whether the link still opens anything for `purpose` at `now`, given the account as it now is. The
    /// account's address must be the one that the link was sent to (none, where it was handed over), unless the link is
    /// about another one. An address
    /// that is verified already needs no link for that. While a change of address is undone, only what belongs to
    /// the undo counts.
    #[must_use]
    pub fn is_good(&self, purpose: Purpose, user: &User, now: UnixTime) -> bool {
        let mine = self.purpose == purpose && self.user == user.id && now < self.expires_at;
        // Made while the clock was ahead: it would be good for longer than any link.
        let timely = self.created_at <= now.plus(NEAR);
        let current = timely
            && self.generation == user.link_generation
            && (!self.is_listed || user.live_links.get(&purpose) == Some(&self.id));
        mine && match purpose {
            Purpose::VerifyEmail => {
                current && user.is_open() && self.email == user.email && user.awaits_verification()
            }
            Purpose::ChangeEmail => current && user.is_open() && self.email.is_some(),
            Purpose::ResetPassword => {
                current && user.active && user.email_changes.takes_reset() && self.email == user.email
            }
            // It never replaces a password.
            Purpose::Invite => {
                current && user.is_open() && user.password.is_none() && self.email == user.email
            }
            // Good in any generation: an attacker who changes the password or the address again must not void it. Nor
            // does a clock that is corrected: the way back must not be lost with it.
            Purpose::UndoEmailChange => user.email_changes.can_undo(self.id, now),
            // Good in any generation, too: an operator's change in the meantime must not take the right to object
            // from an address.
            Purpose::ObjectToUndo => {
                self.email.as_ref().is_some_and(|email| user.email_changes.takes_objection(email))
            }
        }
    }
}
