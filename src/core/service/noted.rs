//! Audit events about accounts, beside those that each use case records itself.

use std::net::IpAddr;

use serde_json::{Map, Value};
use uuid::Uuid;

use super::accounts::{AccountError, Accounts};
use super::caller::{Client, Source};
use crate::domain::account::{User, UserId};
use crate::domain::audit::{Action, Actor, Event, Outcome};
use crate::domain::connection::ConnectionId;
use crate::domain::email::EmailAddress;
use crate::domain::link::{Link, Purpose};
use crate::domain::opaque::TokenHash;
use crate::domain::revocation::{Revocation, Target};
use crate::domain::session::SessionId;
use crate::domain::time::UnixTime;
use crate::domain::username::Username;
use crate::ports::{Change, CommitError, Committed};

/// The longest text of a detail, in bytes.
const MAX_DETAIL: usize = 200;

/// What an event is about beside what was done.
#[derive(Default)]
pub(super) struct About {
    pub(super) user: Option<UserId>,
    pub(super) session: Option<SessionId>,
    pub(super) connection: Option<ConnectionId>,
    pub(super) reason: Option<String>,
    pub(super) details: Map<String, Value>,
}

impl About {
    pub(super) fn user(user: UserId) -> About {
        About { user: Some(user), ..About::default() }
    }

    pub(super) fn session(user: UserId, session: SessionId) -> About {
        About { user: Some(user), session: Some(session), ..About::default() }
    }

    pub(super) fn connection(user: UserId, connection: ConnectionId) -> About {
        About { user: Some(user), connection: Some(connection), ..About::default() }
    }

    /// Adds a detail, which must be no secret.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> About {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// A change of address; where there was none, or is none, that is not named.
    pub(super) fn with_emails(self, before: Option<&EmailAddress>, after: Option<&EmailAddress>) -> About {
        let named = [("email_before", before), ("email_after", after)];
        let named = named.into_iter().filter_map(|(name, email)| Some((name, email?)));
        named.fold(self, |about, (name, email)| about.with(name, email.as_str()))
    }

    pub(super) fn because(mut self, reason: impl Into<String>) -> About {
        self.reason = Some(reason.into());
        self
    }
}

impl Source<'_> {
    /// The event that tells of it.
    pub(super) fn event(
        &self,
        id: Uuid,
        at: UnixTime,
        action: Action,
        outcome: Outcome,
        about: About,
    ) -> Event {
        let (actor, address, request_id) = match self {
            Source::Client(client) => (Actor::User, Some(client.address), client.request_id.clone()),
            Source::Task(origin) => (Actor::User, Some(origin.address), origin.request_id.clone()),
            Source::Operator(request_id) => (Actor::Operator, None, (*request_id).to_owned()),
            Source::System => (Actor::System, None, String::new()),
        };
        let About { user, session, connection, reason, details } = about;
        let request_id = Some(request_id).filter(|id| !id.is_empty());
        Event {
            id,
            at,
            action,
            outcome,
            actor,
            user,
            session,
            connection,
            address,
            request_id,
            reason,
            details,
        }
    }
}

impl Accounts {
    /// Writes down what an operator did; `reason` says what it was about.
    pub fn note_operator(&self, request_id: &str, action: Action, reason: String) {
        self.note_outcome(request_id, action, Outcome::Success, reason);
    }

    /// Writes down how what an operator did has ended.
    pub fn note_outcome(&self, request_id: &str, action: Action, outcome: Outcome, reason: String) {
        let about = About { reason: Some(reason).filter(|reason| !reason.is_empty()), ..About::default() };
        self.note(&Source::Operator(request_id), action, outcome, about);
    }

    /// Writes down what came of a reload that no operator asked for over the admin API, but `by`: a signal, or files that
    /// changed.
    pub fn note_reload(&self, outcome: Outcome, by: &'static str) {
        self.note(&Source::System, Action::Reload, outcome, About::default().because(by));
    }

    /// Writes down which sessions an operator's act has ended, and by what.
    pub fn note_ended_by_operator(&self, request_id: &str, ended: &[(UserId, SessionId)], by: &str) {
        for (user, session) in ended {
            let about = About::session(*user, *session).because(by);
            self.note(&Source::Operator(request_id), Action::EndSession, Outcome::Success, about);
        }
    }

    /// Writes down a call of the admin API that was not done; `reason` is a stable word.
    pub fn note_admin_call(
        &self,
        request_id: &str,
        address: Option<IpAddr>,
        outcome: Outcome,
        reason: &str,
        (method, path): (&str, &str),
    ) {
        let about = About::default()
            .because(reason)
            .with("method", method)
            .with("path", &path[..path.floor_char_boundary(MAX_DETAIL)]);
        let source = Source::Operator(request_id);
        let mut event = source.event(self.entropy.uuid(), self.now(), Action::AdminCall, outcome, about);
        event.address = address;
        self.audit.record(event);
    }

    /// Commits what a use case has decided, and writes down every session that it ends, and by what.
    ///
    /// # Errors
    /// As [`crate::ports::Store::commit`].
    pub(super) async fn commit_by(
        &self,
        source: &Source<'_>,
        changes: Vec<Change>,
    ) -> Result<Committed, CommitError> {
        let ended: Vec<_> = changes.windows(2).filter_map(ended).collect();
        let committed = self.commit(changes).await?;
        for about in ended {
            self.note(source, Action::EndSession, Outcome::Success, about);
        }
        Ok(committed)
    }

    /// An event about an address that has no account.
    pub(super) fn unknown_address(&self, email: &EmailAddress) -> About {
        let hash = self.key.hash_of_address(email.as_str());
        About::default().because("unknown_address").with("address_hash", hash)
    }

    /// An event about a user name that no account has.
    pub(super) fn unknown_username(&self, name: &Username) -> About {
        let hash = self.key.hash_of_address(&name.fingerprint().to_string());
        About::default().because("unknown_username").with("username_hash", hash)
    }

    /// [`Accounts::mailed`], with a word in the audit log when the link is not good.
    ///
    /// # Errors
    /// As [`Accounts::mailed`].
    pub(super) async fn mailed_to(
        &self,
        client: &Client,
        token: &str,
        purposes: &[Purpose],
    ) -> Result<(Link, User), AccountError> {
        let found = self.mailed(token, purposes).await;
        if matches!(found, Err(AccountError::InvalidLink)) {
            let link = match token.len() {
                0..=64 => self.store.link(&TokenHash::of(token.as_bytes())).await?,
                _ => None,
            };
            // The event names the account as long as it exists.
            let user = match link {
                Some(link) => self.store.user(link.user).await?,
                None => None,
            };
            let about = match user {
                Some(user) => About::user(user.id).because("stale_link"),
                None => About::default().because("unknown_link"),
            };
            self.note(&Source::Client(client), Action::UseLink, Outcome::Denied, about);
        }
        found
    }
}

/// What a change of an account by an operator was: the names of the fields, and the address, the scopes and the groups
/// before and after. What claims and names say is not for the log.
pub(super) fn changed(before: &User, after: &User) -> About {
    let fields: [(&str, bool); 10] = [
        ("name", before.name != after.name),
        ("email", before.email != after.email),
        ("email_verified", before.email_verified != after.email_verified),
        ("active", before.active != after.active),
        ("locked_until", before.locked_until != after.locked_until),
        ("scopes", before.scopes != after.scopes),
        ("username", before.username != after.username),
        ("groups", before.groups != after.groups),
        ("claims", before.claims != after.claims),
        ("password", before.password != after.password),
    ];
    let names: Vec<&str> = fields.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
    let mut about = About::user(after.id).with("fields", names);
    if before.email != after.email {
        about = about.with_emails(before.email.as_ref(), after.email.as_ref());
    }
    if before.scopes != after.scopes {
        about = about.with("scopes_before", before.scopes.clone()).with("scopes_after", after.scopes.clone());
    }
    if before.groups != after.groups {
        let groups = |user: &User| Value::from(user.groups.as_slice());
        about = about.with("groups_before", groups(before)).with("groups_after", groups(after));
    }
    about
}

/// The session that two changes end: its record goes, and its tokens are revoked, for a reason.
fn ended(pair: &[Change]) -> Option<About> {
    let [Change::EndSession(user, id), Change::Revoke(Revocation { target, reason, .. })] = pair else {
        return None;
    };
    let is_same = matches!(target, Target::Session { sid, .. } if *sid == id.to_string());
    let word = reason.as_deref().unwrap_or("ended").replace([' ', '-'], "_");
    is_same.then(|| About::session(*user, *id).because(word))
}
