//! The audit log: events that tell the operator what happened to accounts. An event never holds a secret.

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
    /// Replay: a refresh token that had been replaced was presented again, so an attacker may hold a copy.
    RefreshReuse,
    Logout,
    EndSession,
    RequestPasswordReset,
    ResetPassword,
    ChangePassword,
    RequestEmailChange,
    ChangeEmail,
    /// By the old address: the account is frozen until its owner is decided.
    UndoEmailChange,
    /// By a later address: an operator decides.
    ObjectToUndo,
    /// The time to object is over: the account has the earlier address again.
    RestoreEmail,
    ChangeProfile,
    Revoke,
    RaiseVersion,
    MintToken,
    RotateKeys,
    /// An operator said that the clock is right.
    AcceptClock,
    CreateUser,
    /// An operator made an account for an invited person, or sent the invitation again.
    InviteUser,
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
    /// A request passed without a session, because its route leaves it to the app: the first of a client, and totals.
    LeftToApp,
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

impl Outcome {
    /// That of an act which came to this result.
    #[must_use]
    pub const fn of<T, E>(result: &Result<T, E>) -> Outcome {
        match result {
            Ok(_) => Outcome::Success,
            Err(_) => Outcome::Failed,
        }
    }
}

/// The actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// The user, or an attacker with the user's credentials.
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
    /// The account; `None` when it concerns none, or none was found.
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

impl Event {
    /// Whether a caller without a credential can cause it as often as they like, knowing no more than an address. Such
    /// events are kept apart, or they would push all else out.
    #[must_use]
    pub fn is_strangers(&self) -> bool {
        let without_credential =
            || matches!(self.reason.as_deref(), Some("no_credential" | "wrong_credential"));
        match (self.actor, self.action) {
            (Actor::User, _) if self.user.is_none() => true,
            // It takes a token that was the owner's, and the session ends by it.
            (Actor::User, Action::RefreshReuse) => false,
            // A requester can name an address that is not their own.
            (Actor::User, Action::RequestPasswordReset | Action::ResendVerification) => true,
            (Actor::User, _) => self.outcome == Outcome::Denied,
            (Actor::Operator, Action::AdminCall) => self.outcome == Outcome::Denied && without_credential(),
            (Actor::Operator | Actor::System, _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(actor: Actor, action: Action, outcome: Outcome) -> Event {
        Event {
            id: Uuid::nil(),
            at: UnixTime(1),
            action,
            outcome,
            actor,
            user: Some(UserId(Uuid::nil())),
            session: None,
            connection: None,
            address: None,
            request_id: None,
            reason: None,
            details: Map::new(),
        }
    }

    #[test]
    fn what_takes_no_credential_is_strangers() {
        use Outcome::{Denied, Success};
        let told = [
            (Actor::User, Action::Login, Denied, true),
            (Actor::User, Action::Login, Success, false),
            (Actor::User, Action::LimitReached, Denied, true),
            (Actor::User, Action::UseLink, Denied, true),
            (Actor::User, Action::Refresh, Denied, true),
            (Actor::User, Action::Register, Success, false),
            (Actor::User, Action::RequestPasswordReset, Success, true),
            (Actor::Operator, Action::RequestPasswordReset, Success, false),
            (Actor::User, Action::ResendVerification, Success, true),
            (Actor::User, Action::ChangePassword, Success, false),
            (Actor::User, Action::RefreshReuse, Denied, false),
            (Actor::System, Action::ReconnectNeeded, Denied, false),
            (Actor::Operator, Action::AdminCall, Denied, false),
        ];
        for (actor, action, outcome, expected) in told {
            let event = event(actor, action, outcome);
            assert_eq!(event.is_strangers(), expected, "{actor:?} {action:?} {outcome:?}");
        }
        let reason = |word: &str| Some(word.to_owned());
        let call = event(Actor::Operator, Action::AdminCall, Denied);
        assert!(Event { reason: reason("wrong_credential"), ..call.clone() }.is_strangers());
        assert!(!Event { reason: reason("user_not_found"), ..call }.is_strangers());
        let anonymous = Event { user: None, ..event(Actor::User, Action::RefreshReuse, Denied) };
        assert!(anonymous.is_strangers());
        assert!(!Event { user: None, ..event(Actor::Operator, Action::Reload, Success) }.is_strangers());
    }

    /// Every action; [`every_action_is_described`] does not compile when one is missing.
    const ALL: [Action; 40] = [
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
        Action::InviteUser,
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
        Action::LeftToApp,
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
        let described = include_str!("../../../docs/audit.md");
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
                | Action::InviteUser
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
                | Action::LeftToApp
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
