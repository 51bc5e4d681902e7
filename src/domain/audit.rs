//! What happened to accounts, for whoever has to answer for it. An event never holds a secret.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::account::UserId;
use super::connection::ConnectionId;
use super::session::SessionId;
use super::time::UnixTime;

/// What was done or tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Register,
    VerifyEmail,
    Login,
    Refresh,
    /// A refresh token that had been replaced was presented again: somebody holds a copy.
    RefreshReuse,
    Logout,
    EndSession,
    RequestPasswordReset,
    ResetPassword,
    ChangePassword,
    RequestEmailChange,
    ChangeEmail,
    /// By the old address: the account is frozen until it is decided whose it is.
    UndoEmailChange,
    /// By a later address: an operator decides.
    ObjectToUndo,
    /// Nobody has objected: the account has the earlier address again.
    RestoreEmail,
    ChangeProfile,
    Revoke,
    RaiseVersion,
    MintToken,
    RotateKeys,
    /// An operator said that the clock is right.
    AcceptClock,
    CreateUser,
    UpdateUser,
    DisableUser,
    EnableUser,
    /// An operator has decided which address a frozen account gets.
    UnfreezeUser,
    DeleteUser,
    /// Consent was given to a provider, or asked for in vain.
    Connect,
    RefreshConnection,
    /// A caller was given a provider's access token.
    ReadProviderToken,
    ImportTokens,
    /// The provider does not honour a grant any more.
    ReconnectNeeded,
    Disconnect,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Success,
    /// Turned away; [`Event::reason`] says why.
    Denied,
    /// Something of ours failed.
    Failed,
}

/// Who did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// The person, or somebody who passes for them.
    User,
    /// Over the admin API.
    Operator,
    /// Palisade by itself.
    System,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// UUID v7.
    pub id: Uuid,
    pub at: UnixTime,
    pub action: Action,
    pub outcome: Outcome,
    pub actor: Actor,
    /// Whose account; `None` when it concerns none, or none was found.
    pub user: Option<UserId>,
    pub session: Option<SessionId>,
    /// Which connection to a provider, where it is about one.
    #[serde(default)]
    pub connection: Option<ConnectionId>,
    /// Where the request came from.
    pub address: Option<IpAddr>,
    pub request_id: Option<String>,
    /// A stable word, such as `wrong_password`, or an operator's reason.
    pub reason: Option<String>,
}
