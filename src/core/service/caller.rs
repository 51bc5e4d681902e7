//! The caller of a use case: the user, and where the request came from.

use std::net::IpAddr;

use crate::domain::account::UserId;
use crate::domain::identity::Identity;
use crate::domain::session::SessionId;
use crate::domain::task::RequestOrigin;

/// Where a request comes from, as far as it tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The client's own address: trusted proxies are left out.
    pub address: IpAddr,
    pub user_agent: Option<String>,
    pub request_id: String,
}

/// The host that a request was sent to, as [`crate::domain::request::Host::name`] gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedHost(pub String);

impl Client {
    /// What a task keeps of the request that enqueued it. `return_to`: where its browser was going.
    pub(super) fn origin(&self, return_to: Option<String>) -> RequestOrigin {
        RequestOrigin { address: self.address, request_id: self.request_id.clone(), return_to }
    }
}

/// The user of the access token that came with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Person {
    pub user: UserId,
    /// `None`: a token that an operator minted.
    pub session: Option<SessionId>,
}

impl Person {
    /// The account that a verified token speaks for; `None` when it is of another issuer, or was minted for
    /// a subject that is no account.
    #[must_use]
    pub fn of(identity: &Identity, our_issuer: &str) -> Option<Person> {
        if &*identity.issuer != our_issuer {
            return None;
        }
        let session = identity.session.as_deref().map(str::parse).transpose().ok()?;
        Some(Person { user: identity.subject.parse().ok()?, session })
    }
}

/// The actor of an event of the audit log.
pub(super) enum Source<'a> {
    Client(&'a Client),
    /// A request that enqueued a task.
    Task(&'a RequestOrigin),
    /// The id of an operator's request.
    Operator(&'a str),
    /// No request: its time has come.
    System,
}

/// A [`Source`] of work that outlives its request.
pub(super) enum OwnedSource {
    Client(Client),
    /// The id of an operator's request.
    Operator(String),
    System,
}

impl OwnedSource {
    pub(super) fn source(&self) -> Source<'_> {
        match self {
            OwnedSource::Client(client) => Source::Client(client),
            OwnedSource::Operator(request_id) => Source::Operator(request_id),
            OwnedSource::System => Source::System,
        }
    }
}
