//! What the admin API answers, as JSON. Times are seconds since 1970, spans whole seconds. Names of enums are written as
//! the store and the audit log write them.
//!
//! No answer holds a password hash or a sealed token.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::acknowledged::Acknowledged;
use super::state::LinkPages;
use palisade_core::domain::account::User;
use palisade_core::domain::audit::{Action, Actor, Event, Outcome};
use palisade_core::domain::email_change::{Freeze, FreezeStage};
use palisade_core::domain::mail::{Letter, Mail};
use palisade_core::domain::revocation::{Revocation, Target};
use palisade_core::domain::session::Session;
use palisade_core::domain::time::UnixTime;
use palisade_core::service::links::HandedLink;
use palisade_core::service::revoke::{Raised, RevokeOutcome};
use palisade_core::service::users::Shown;

fn seconds(at: Option<UnixTime>) -> Option<u64> {
    at.map(|at| at.0)
}

/// An account, as the operator sees it.
#[derive(Serialize, ToSchema)]
pub(super) struct UserEntry {
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    /// None: nothing is mailed to it.
    #[schema(required)]
    email: Option<String>,
    email_verified: bool,
    /// What it is signed in to by, too, and apps know it by (`preferred_username`).
    #[schema(required)]
    username: Option<String>,
    /// In the claim `groups` of its access tokens.
    groups: Vec<String>,
    #[schema(required)]
    name: Option<String>,
    has_password: bool,
    active: bool,
    #[schema(required)]
    locked_until: Option<u64>,
    /// While it is undecided which address the account gets, and after the decision.
    #[schema(required)]
    frozen: Option<FreezeEntry>,
    created_at: u64,
    updated_at: u64,
    #[schema(required)]
    last_login_at: Option<u64>,
    /// What its access tokens may do.
    scopes: Vec<String>,
    /// Further claims of its access tokens.
    claims: BTreeMap<String, Value>,
    /// Those of `claims` that no token says, because the gateway sets claims of these names: they were written by an
    /// earlier version and could not become the account's `groups` or its `username`. Setting that takes them away.
    ignored_claims: Vec<String>,
}

impl From<&User> for UserEntry {
    fn from(user: &User) -> UserEntry {
        UserEntry {
            id: user.id.0,
            email: user.email.as_ref().map(ToString::to_string),
            email_verified: user.email_verified,
            username: user.username.as_ref().map(ToString::to_string),
            groups: user.groups.as_slice().to_vec(),
            name: user.name.clone(),
            has_password: user.password.is_some(),
            active: user.active,
            locked_until: seconds(user.locked_until),
            frozen: user.email_changes.freeze.as_ref().map(FreezeEntry::from),
            created_at: user.created_at.0,
            updated_at: user.updated_at.0,
            last_login_at: seconds(user.last_login_at),
            scopes: user.scopes.clone(),
            claims: user.claims.clone().into_iter().collect(),
            ignored_claims: user.unsaid_claims().map(str::to_owned).collect(),
        }
    }
}

/// What an operator decides from with `POST /admin/v1/users/{user}/unfreeze`.
#[derive(Serialize, ToSchema)]
pub(super) struct FreezeEntry {
    since: u64,
    /// `waiting`, `objected`, `taken` or `decided`.
    state: &'static str,
    /// When the earlier address gets the account unless a later one objects.
    #[schema(required)]
    until: Option<u64>,
    earlier_email: String,
    later_emails: Vec<String>,
}

impl From<&Freeze> for FreezeEntry {
    fn from(freeze: &Freeze) -> FreezeEntry {
        let (state, until) = match freeze.stage {
            FreezeStage::Waiting { until } => ("waiting", Some(until)),
            FreezeStage::Objected { .. } => ("objected", None),
            FreezeStage::Taken => ("taken", None),
            FreezeStage::Decided => ("decided", None),
        };
        FreezeEntry {
            since: freeze.since.0,
            state,
            until: seconds(until),
            earlier_email: freeze.earlier.to_string(),
            later_emails: freeze.later.iter().map(ToString::to_string).collect(),
        }
    }
}

/// An account that was made.
#[derive(Serialize, ToSchema)]
pub(super) struct CreatedUser {
    #[serde(flatten)]
    pub(super) user: UserEntry,
    /// The generated password, shown here only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) password: Option<String>,
    #[serde(flatten)]
    pub(super) delivery: Delivery,
}

/// An account that waits for the invited person.
#[derive(Serialize, ToSchema)]
pub(super) struct InvitedUser {
    #[serde(flatten)]
    pub(super) user: UserEntry,
    #[serde(flatten)]
    pub(super) delivery: Delivery,
}

/// What becomes of the link that the account needs.
#[derive(Default, Serialize, ToSchema)]
pub(super) struct Delivery {
    /// Whether it is on its way by mail.
    pub(super) mailed: bool,
    /// With `mail.transport = "none"`, and of an account without an address: the link, for the operator to hand to the
    /// person. It works once, and stands for the mailbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) link: Option<String>,
    /// When that link is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) link_expires_at: Option<u64>,
}

impl Delivery {
    /// Of `link`, which there is where nothing can be mailed.
    pub(super) fn of(link: Option<&HandedLink>, pages: &LinkPages) -> Delivery {
        Delivery {
            mailed: link.is_none(),
            link: link.map(|link| pages.url(link)),
            link_expires_at: link.map(|link| link.expires_at.0),
        }
    }
}

/// An account with its sessions.
#[derive(Serialize, ToSchema)]
pub(super) struct UserDetails {
    #[serde(flatten)]
    user: UserEntry,
    /// The `ver` of its access tokens.
    token_version: u64,
    sessions: Vec<SessionEntry>,
}

impl From<&Shown> for UserDetails {
    fn from(shown: &Shown) -> UserDetails {
        UserDetails {
            user: UserEntry::from(&shown.user),
            token_version: shown.token_version,
            sessions: shown.sessions.iter().map(SessionEntry::from).collect(),
        }
    }
}

/// A page of accounts, oldest first.
#[derive(Serialize, ToSchema)]
pub(super) struct UserList {
    pub(super) users: Vec<UserEntry>,
    /// The `after` of the next page; null behind the last one.
    #[schema(required, value_type = Option<String>, format = "uuid")]
    pub(super) next: Option<Uuid>,
}

/// A sign-in on one device.
#[derive(Serialize, ToSchema)]
pub(super) struct SessionEntry {
    /// The `sid` of its access tokens.
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    device: String,
    #[schema(required)]
    user_agent: Option<String>,
    /// Of the last use.
    #[schema(value_type = String)]
    address: IpAddr,
    #[schema(required)]
    place: Option<String>,
    created_at: u64,
    last_used_at: u64,
    /// When it ends at the latest.
    expires_at: u64,
    scopes: Vec<String>,
}

impl From<&Session> for SessionEntry {
    fn from(session: &Session) -> SessionEntry {
        SessionEntry {
            id: session.id.0,
            device: session.device.name.clone(),
            user_agent: session.device.user_agent.clone(),
            address: session.device.address,
            place: session.device.place.clone(),
            created_at: session.created_at.0,
            last_used_at: session.last_used_at.0,
            expires_at: session.expires_at.0,
            scopes: session.scopes.clone(),
        }
    }
}

/// The sessions of an account.
#[derive(Serialize, ToSchema)]
pub(super) struct SessionList {
    pub(super) sessions: Vec<SessionEntry>,
}

/// How many sessions have ended by the call.
#[derive(Serialize, ToSchema)]
pub(super) struct EndedSessions {
    pub(super) ended: usize,
}

/// An event of the audit log: see `docs/audit.md`.
#[derive(Serialize, ToSchema)]
pub(super) struct EventEntry {
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    at: u64,
    #[schema(value_type = String)]
    action: Action,
    /// `success`, `denied` or `failed`.
    #[schema(value_type = String)]
    outcome: Outcome,
    /// `user`, `operator` or `system`.
    #[schema(value_type = String)]
    actor: Actor,
    /// The account; null when it concerns none, or none was found.
    #[schema(required, value_type = Option<String>, format = "uuid")]
    user: Option<Uuid>,
    #[schema(required, value_type = Option<String>, format = "uuid")]
    session: Option<Uuid>,
    #[schema(required, value_type = Option<String>, format = "uuid")]
    connection: Option<Uuid>,
    /// Where the request came from.
    #[schema(required, value_type = Option<String>)]
    address: Option<IpAddr>,
    #[schema(required)]
    request_id: Option<String>,
    /// A stable word, or an operator's reason.
    #[schema(required)]
    reason: Option<String>,
    /// What else is known, by its name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false)]
    details: BTreeMap<String, Value>,
}

impl From<Event> for EventEntry {
    fn from(event: Event) -> EventEntry {
        EventEntry {
            id: event.id,
            at: event.at.0,
            action: event.action,
            outcome: event.outcome,
            actor: event.actor,
            user: event.user.map(|id| id.0),
            session: event.session.map(|id| id.0),
            connection: event.connection.map(|id| id.0),
            address: event.address,
            request_id: event.request_id,
            reason: event.reason,
            details: event.details.into_iter().collect(),
        }
    }
}

/// Events, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct EventList {
    pub(super) events: Vec<EventEntry>,
}

/// A mail that waits or was given up.
#[derive(Serialize, ToSchema)]
pub(super) struct MailEntry {
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    #[schema(value_type = String)]
    letter: Letter,
    to: String,
    created_at: u64,
    /// Not sent before.
    due_at: u64,
    attempts: u32,
    #[schema(required)]
    last_error: Option<String>,
    /// Whether it is no longer tried.
    given_up: bool,
}

impl From<&Mail> for MailEntry {
    fn from(mail: &Mail) -> MailEntry {
        MailEntry {
            id: mail.id,
            letter: mail.letter,
            to: mail.to.to_string(),
            created_at: mail.created_at.0,
            due_at: mail.due_at.0,
            attempts: mail.attempts,
            last_error: mail.last_error.clone(),
            given_up: mail.given_up,
        }
    }
}

/// Mails, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct MailList {
    pub(super) mails: Vec<MailEntry>,
}

/// What a revocation names. Which members are there beside the first two follows from `kind`.
#[derive(Serialize, ToSchema)]
pub(super) struct TargetEntry {
    /// `token`, `session`, `subject_version`, `subject_issued`, `issuer`, `everybody`, `subject_sessions` or
    /// `every_session`.
    kind: &'static str,
    issuer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    /// The versions or generations that are revoked are lower than this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    below: Option<u64>,
    /// The last `iat` that is revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
}

impl From<&Target> for TargetEntry {
    fn from(target: &Target) -> TargetEntry {
        let of = |kind, issuer: &str| TargetEntry {
            kind,
            issuer: issuer.to_owned(),
            jti: None,
            sid: None,
            sub: None,
            below: None,
            until: None,
        };
        match target.clone() {
            Target::Token { issuer, jti } => TargetEntry { jti: Some(jti), ..of("token", &issuer) },
            Target::Session { issuer, sid } => TargetEntry { sid: Some(sid), ..of("session", &issuer) },
            Target::SubjectVersion { issuer, sub, below } => {
                TargetEntry { sub: Some(sub), below: Some(below), ..of("subject_version", &issuer) }
            }
            Target::SubjectIssued { issuer, sub, until } => {
                TargetEntry { sub: Some(sub), until: Some(until.0), ..of("subject_issued", &issuer) }
            }
            Target::Issuer { issuer, until } => TargetEntry { until: Some(until.0), ..of("issuer", &issuer) },
            Target::IssuerGeneration { issuer, below } => {
                TargetEntry { below: Some(below), ..of("everybody", &issuer) }
            }
            Target::SubjectSessions { issuer, sub, below } => {
                TargetEntry { sub: Some(sub), below: Some(below), ..of("subject_sessions", &issuer) }
            }
            Target::EverySession { issuer, below } => {
                TargetEntry { below: Some(below), ..of("every_session", &issuer) }
            }
        }
    }
}

/// A revocation.
#[derive(Serialize, ToSchema)]
pub(super) struct RevocationEntry {
    target: TargetEntry,
    /// When the last token that it reaches has ended.
    expires_at: u64,
    created_at: u64,
    /// Why, in the operator's words.
    #[schema(required)]
    reason: Option<String>,
}

impl From<&Revocation> for RevocationEntry {
    fn from(entry: &Revocation) -> RevocationEntry {
        RevocationEntry {
            target: TargetEntry::from(&entry.target),
            expires_at: entry.expires_at.0,
            created_at: entry.created_at.0,
            reason: entry.reason.clone(),
        }
    }
}

/// Revocations, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct RevocationList {
    pub(super) revocations: Vec<RevocationEntry>,
}

/// A revocation that was made, and what became of sessions.
#[derive(Serialize, ToSchema)]
pub(super) struct CreatedRevocation {
    #[serde(flatten)]
    entry: RevocationEntry,
    /// How many sessions have ended by it. Null: those of another issuer are not kept here.
    #[schema(required)]
    sessions_ended: Option<u64>,
    /// The session of the token at hand that lives on, and will bring further tokens.
    #[schema(required, value_type = Option<String>, format = "uuid")]
    live_session: Option<Uuid>,
    /// The account of the tokens or session, by its address, or else its user name.
    #[schema(required)]
    account: Option<String>,
    acknowledged: Acknowledged,
}

impl From<&RevokeOutcome> for CreatedRevocation {
    fn from(revoked: &RevokeOutcome) -> CreatedRevocation {
        CreatedRevocation {
            entry: RevocationEntry::from(&revoked.entry),
            sessions_ended: revoked.sessions_ended,
            live_session: revoked.live_session.map(|id| id.0),
            account: revoked.account.clone(),
            acknowledged: Acknowledged::from(&revoked.acknowledgement),
        }
    }
}

/// Older tokens are asked to be replaced.
#[derive(Serialize, ToSchema)]
pub(super) struct RaisedVersion {
    /// The subject's new version; null when it is for the tokens of all subjects.
    #[schema(required)]
    version: Option<u64>,
    /// When the older tokens are refused.
    in_force_at: u64,
    /// Null until then.
    #[schema(required)]
    acknowledged: Option<Acknowledged>,
}

impl From<&Raised> for RaisedVersion {
    fn from(raised: &Raised) -> RaisedVersion {
        let Raised { version, in_force_at, acknowledgement } = raised;
        let acknowledged = acknowledgement.as_ref().map(Acknowledged::from);
        RaisedVersion { version: *version, in_force_at: in_force_at.0, acknowledged }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{json, to_value};

    #[test]
    fn targets_are_told_as_they_are_kept() {
        let (issuer, sub) = (|| "https://us.test".to_owned(), || "ann".to_owned());
        let all = [
            Target::Token { issuer: issuer(), jti: "j".into() },
            Target::Session { issuer: issuer(), sid: "s".into() },
            Target::SubjectVersion { issuer: issuer(), sub: sub(), below: 1 },
            Target::SubjectIssued { issuer: issuer(), sub: sub(), until: UnixTime(2) },
            Target::Issuer { issuer: issuer(), until: UnixTime(3) },
            Target::IssuerGeneration { issuer: issuer(), below: 4 },
            Target::SubjectSessions { issuer: issuer(), sub: sub(), below: 5 },
            Target::EverySession { issuer: issuer(), below: 6 },
        ];
        for target in all {
            assert_eq!(to_value(TargetEntry::from(&target)).unwrap(), to_value(&target).unwrap());
        }
    }

    #[test]
    fn events_are_told_as_they_are_kept() {
        let mut event = Event {
            id: Uuid::from_u128(1),
            at: UnixTime(7),
            action: Action::Login,
            outcome: Outcome::Denied,
            actor: Actor::User,
            user: Some(palisade_core::domain::account::UserId(Uuid::from_u128(2))),
            session: None,
            connection: None,
            address: Some([192, 0, 2, 1].into()),
            request_id: Some("r".into()),
            reason: Some("wrong_password".into()),
            details: serde_json::Map::new(),
        };
        for _ in 0..2 {
            assert_eq!(to_value(EventEntry::from(event.clone())).unwrap(), to_value(&event).unwrap());
            event.details.insert("path".into(), json!(["/x"]));
        }
    }
}
