//! What happened to accounts, for whoever has to answer for it. An event never holds a secret.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
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
    /// A verification mail was asked for again.
    ResendVerification,
    /// A mailed link was presented that is none, or is not good any more.
    UseLink,
    /// An attempt met a limit: the first of each wait.
    LimitReached,
    /// The configuration was read again.
    Reload,
    /// A call of the admin API that was not done: without the credential, or for another reason.
    AdminCall,
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
    /// What else is to be known, by its name: see `docs/audit.md`. Never a secret.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every action; [`every_action_is_described`] does not compile when one is missing.
    const ALL: [Action; 38] = [
        Action::Register,
        Action::VerifyEmail,
        Action::Login,
        Action::Refresh,
        Action::RefreshReuse,
        Action::Logout,
        Action::EndSession,
        Action::RequestPasswordReset,
        Action::ResetPassword,
        Action::ChangePassword,
        Action::RequestEmailChange,
        Action::ChangeEmail,
        Action::ChangeProfile,
        Action::Revoke,
        Action::RaiseVersion,
        Action::MintToken,
        Action::RotateKeys,
        Action::CreateUser,
        Action::UpdateUser,
        Action::DisableUser,
        Action::EnableUser,
        Action::DeleteUser,
        Action::Connect,
        Action::RefreshConnection,
        Action::ReadProviderToken,
        Action::ImportTokens,
        Action::ReconnectNeeded,
        Action::Disconnect,
        Action::ResendVerification,
        Action::UseLink,
        Action::LimitReached,
        Action::Reload,
        Action::AdminCall,
        Action::AcceptClock,
        Action::UndoEmailChange,
        Action::ObjectToUndo,
        Action::RestoreEmail,
        Action::UnfreezeUser,
    ];

    #[test]
    fn every_action_is_described() {
        let described = include_str!("../../docs/audit.md");
        for action in ALL {
            match action {
                Action::Register
                | Action::VerifyEmail
                | Action::Login
                | Action::Refresh
                | Action::RefreshReuse
                | Action::Logout
                | Action::EndSession
                | Action::RequestPasswordReset
                | Action::ResetPassword
                | Action::ChangePassword
                | Action::RequestEmailChange
                | Action::ChangeEmail
                | Action::ChangeProfile
                | Action::Revoke
                | Action::RaiseVersion
                | Action::MintToken
                | Action::RotateKeys
                | Action::CreateUser
                | Action::UpdateUser
                | Action::DisableUser
                | Action::EnableUser
                | Action::DeleteUser
                | Action::Connect
                | Action::RefreshConnection
                | Action::ReadProviderToken
                | Action::ImportTokens
                | Action::ReconnectNeeded
                | Action::Disconnect
                | Action::ResendVerification
                | Action::UseLink
                | Action::LimitReached
                | Action::Reload
                | Action::AdminCall
                | Action::AcceptClock
                | Action::UndoEmailChange
                | Action::ObjectToUndo
                | Action::RestoreEmail
                | Action::UnfreezeUser => {}
            }
            let word = serde_json::to_value(action).unwrap();
            let word = word.as_str().unwrap();
            assert!(
                described.contains(&format!("\n| `{word}` |")),
                "docs/audit.md does not say what {word} is"
            );
        }
    }

    #[test]
    fn an_event_of_before_there_were_details_is_read() {
        let text = r#"{"id":"0192f0c1-2345-7abc-8def-0123456789ab","at":7,"action":"login","outcome":"success",
            "actor":"user","user":null,"session":null,"address":null,"request_id":null,"reason":null}"#;
        let event: Event = serde_json::from_str(text).unwrap();
        assert!(event.details.is_empty());
        assert!(!serde_json::to_string(&event).unwrap().contains("details"));
    }
}
