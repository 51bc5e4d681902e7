//! Tasks: work that a request enqueues.
//!
//! Work that would show whether an account exists (enumeration) is not done while the caller waits. The request is
//! enqueued, the same way for every address, and answered; a worker does it afterwards. Calls over the network to
//! providers and apps are enqueued too, so that no caller waits for them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::account::{PasswordHash, UserId};
use super::connection::Connection;
use super::email::EmailAddress;
use super::revocation::Revocation;
use super::time::UnixTime;

/// Something to do once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// UUID v7: tasks are done in this order.
    pub id: Uuid,
    /// Not before this moment.
    pub due_at: UnixTime,
    pub work: Work,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Make an account, or tell the owner of an existing one about the attempt.
    Register {
        email: EmailAddress,
        name: Option<String>,
        password: PasswordHash,
        origin: RequestOrigin,
        /// Which registration it is; a form that was sent twice is one. `None`: written by an earlier version.
        #[serde(default)]
        registration: Option<Uuid>,
    },
    /// Mail the link that verifies an address again.
    ResendVerification { email: EmailAddress, origin: RequestOrigin },
    /// Mail the link that sets a new password.
    ResetPassword { email: EmailAddress, origin: RequestOrigin },
    /// Mail the link that makes `email` the account's address; nothing when the account's links are of a
    /// later generation.
    ChangeEmail { user: UserId, email: EmailAddress, generation: u64 },
    /// Remove an account that was not verified in time.
    ForgetUnverified(UserId),
    /// Give the account its earlier address back and mail a reset to it, unless a holder of a later address has
    /// objected to the undo of this link, or another undo replaced it.
    RestoreEmail { user: UserId, claim: Uuid },
    /// Put a revocation in force after its grace period.
    Revoke(Revocation),
    /// Something to be done elsewhere, which may take its time and more than one try.
    Errand { made_at: UnixTime, tries: u32, errand: Errand },
}

/// The worker that a task is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TaskKind {
    /// What a request has left behind: the worker of accounts does it.
    Account,
    /// Ending grants and connections.
    EndGrant,
    /// Telling the app of connections, in an order of its own.
    Notice,
    /// Telling the app of accounts, in an order of its own: another receiver, which holds the other one up in nothing.
    AccountNotice,
}

impl TaskKind {
    pub const ALL: [TaskKind; 4] =
        [TaskKind::Account, TaskKind::EndGrant, TaskKind::Notice, TaskKind::AccountNotice];
}

impl Work {
    #[must_use]
    pub fn kind(&self) -> TaskKind {
        match self {
            Work::Errand { errand: Errand::Notify(_), .. } => TaskKind::Notice,
            Work::Errand { errand: Errand::NotifyOfAccount(_), .. } => TaskKind::AccountNotice,
            Work::Errand { errand: Errand::EndGrant(_) | Errand::EndConnections { .. }, .. } => {
                TaskKind::EndGrant
            }
            Work::Register { .. }
            | Work::ResendVerification { .. }
            | Work::ResetPassword { .. }
            | Work::ChangeEmail { .. }
            | Work::ForgetUnverified(_)
            | Work::RestoreEmail { .. }
            | Work::Revoke(_) => TaskKind::Account,
        }
    }
}

/// A call to a provider or app, or another errand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Errand {
    /// Tell the app. A JSON object without a token.
    Notify(String),
    /// Tell the app of an account. A JSON object without a value of the account.
    NotifyOfAccount(String),
    /// End a grant at its provider: of this connection, as it was before its tokens were erased. They are
    /// sealed here as they were there.
    EndGrant(Box<Connection>),
    /// End the connections of an account that were made or renewed since then.
    EndConnections { user: UserId, since: UnixTime },
}

/// Where a request came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestOrigin {
    pub address: IpAddr,
    pub request_id: String,
    /// Where the browser was going ([`super::link::Link::return_to`]).
    #[serde(default)]
    pub return_to: Option<String>,
}
