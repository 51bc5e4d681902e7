//! What the owner of an account is told of what happened to it, apart from mail: from the events that are kept with the
//! account.

use std::net::IpAddr;

use uuid::Uuid;

use super::accounts::{AccountError, Accounts};
use super::caller::Person;
use crate::domain::audit::{Action, Actor, Event, Outcome};
use crate::domain::time::UnixTime;
use crate::ports::{EVENTS_KEPT, STRANGERS_EVENTS_KEPT};

/// How many are shown, the latest first.
pub const MAX_NOTICES: usize = 20;

/// What a notice tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeKind {
    /// A sign-in from a device that was not seen before.
    NewDevice,
    /// The password was changed by a signed-in person.
    PasswordChanged,
    /// A password was set by a link.
    PasswordReset,
    /// An operator took the password away.
    ResetByOperator,
    /// The address was changed.
    EmailChanged,
    /// A refresh token was presented a second time: another client may have had a copy.
    TokenCopied,
    /// A provider does not honour a grant any more.
    ReconnectNeeded,
}

impl NoticeKind {
    /// Its stable name: that of the letter that tells the same, where there is one.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            NoticeKind::NewDevice => "new_device",
            NoticeKind::PasswordChanged | NoticeKind::PasswordReset => "password_changed",
            NoticeKind::ResetByOperator => "password_taken",
            NoticeKind::EmailChanged => "email_replaced",
            NoticeKind::TokenCopied => "token_copied",
            NoticeKind::ReconnectNeeded => "reconnect_needed",
        }
    }
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountNotice {
    /// That of its event.
    pub id: Uuid,
    pub at: UnixTime,
    pub kind: NoticeKind,
    /// Where it came from.
    pub address: Option<IpAddr>,
    /// For a new device: how letters name it.
    pub device: Option<String>,
}

impl Accounts {
    /// The latest notices of the account, at most [`MAX_NOTICES`], the latest first. They are there whether letters are
    /// sent or not.
    ///
    /// # Errors
    /// [`AccountError::NoAccount`], [`AccountError::Disabled`] or [`AccountError::Store`].
    pub async fn notices(&self, person: Person) -> Result<Vec<AccountNotice>, AccountError> {
        let user = self.account(person).await?;
        let events = self.store.events(Some(user.id), EVENTS_KEPT + STRANGERS_EVENTS_KEPT).await?;
        Ok(events.iter().filter_map(notice).take(MAX_NOTICES).collect())
    }
}

fn notice(event: &Event) -> Option<AccountNotice> {
    let device = event.details.get(NEW_DEVICE).and_then(|device| device.as_str()).map(str::to_owned);
    let kind = match (event.action, event.outcome) {
        (Action::Login, Outcome::Success) if device.is_some() => NoticeKind::NewDevice,
        (Action::ChangePassword, Outcome::Success) => NoticeKind::PasswordChanged,
        (Action::ResetPassword, Outcome::Success) => NoticeKind::PasswordReset,
        (Action::RequestPasswordReset, Outcome::Success) if event.actor == Actor::Operator => {
            NoticeKind::ResetByOperator
        }
        (Action::ChangeEmail | Action::RestoreEmail | Action::UnfreezeUser, Outcome::Success) => {
            NoticeKind::EmailChanged
        }
        (Action::RefreshReuse, _) => NoticeKind::TokenCopied,
        (Action::ReconnectNeeded, _) => NoticeKind::ReconnectNeeded,
        _ => return None,
    };
    Some(AccountNotice { id: event.id, at: event.at, kind, address: event.address, device })
}

/// The detail of a sign-in from a device that was not seen before: how letters name it.
pub(super) const NEW_DEVICE: &str = "new_device";
