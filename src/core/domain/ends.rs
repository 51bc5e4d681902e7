//! Ends: what a later state of the store has taken away, and what an older state that is restored would bring back to
//! life.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::account::UserId;
use super::connection::ConnectionId;
use super::opaque::TokenHash;
use super::revocation::{Kind, Revocation};
use super::session::SessionId;
use super::time::UnixTime;

/// One end. Names nothing by an address or a secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "end")]
pub enum End {
    /// An account was deleted, with everything of it.
    Erased { user: UserId },
    /// An operator has disabled an account.
    Disabled { user: UserId },
    /// A disabled account may be used again: it ends the end.
    Enabled { user: UserId },
    /// A session was ended.
    SessionEnded { user: UserId, session: SessionId },
    /// A connection to a provider was removed or revoked.
    Unlinked { user: UserId, connection: ConnectionId },
    /// A link was used up.
    LinkUsed { link: TokenHash },
    /// Tokens or sessions were revoked; as the entry then stood.
    Revoked { revocation: Revocation },
}

/// An end, and when it came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatedEnd {
    pub at: UnixTime,
    #[serde(flatten)]
    pub end: End,
}

/// Ends that are looked up by what they end.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ends {
    pub erased: BTreeSet<UserId>,
    /// Those whose last word was that they are disabled.
    pub disabled: BTreeSet<UserId>,
    pub sessions: BTreeSet<(UserId, SessionId)>,
    pub connections: BTreeSet<(UserId, ConnectionId)>,
    pub links: BTreeSet<[u8; 32]>,
    /// By kind, issuer and name; the larger limit and the later end of each.
    pub revocations: BTreeMap<(Kind, String, String), Revocation>,
}

impl Ends {
    /// Takes in one more, which came after those before it.
    pub fn add(&mut self, end: End) {
        match end {
            End::Erased { user } => {
                self.erased.insert(user);
            }
            End::Disabled { user } => {
                self.disabled.insert(user);
            }
            End::Enabled { user } => {
                self.disabled.remove(&user);
            }
            End::SessionEnded { user, session } => {
                self.sessions.insert((user, session));
            }
            End::Unlinked { user, connection } => {
                self.connections.insert((user, connection));
            }
            End::LinkUsed { link } => {
                self.links.insert(link.0);
            }
            End::Revoked { revocation } => self.revoke(revocation),
        }
    }

    /// Takes in a revocation. One of the same key keeps the larger limit and the later expiry.
    pub fn revoke(&mut self, revocation: Revocation) {
        let (kind, issuer, name) = revocation.target.key();
        let key = (kind, issuer.to_owned(), name.to_owned());
        let merged = match self.revocations.remove(&key) {
            None => revocation,
            Some(standing) => merged(standing, revocation),
        };
        self.revocations.insert(key, merged);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.erased.len()
            + self.disabled.len()
            + self.sessions.len()
            + self.connections.len()
            + self.links.len()
            + self.revocations.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Two revocations of one key, as one.
#[must_use]
pub fn merged(standing: Revocation, more: Revocation) -> Revocation {
    let limit = standing.target.limit().max(more.target.limit());
    Revocation {
        target: standing.target.with_limit(limit),
        expires_at: standing.expires_at.max(more.expires_at),
        created_at: standing.created_at.max(more.created_at),
        reason: more.reason.or(standing.reason),
    }
}

/// The id of a session that a revocation names, where it is one of ours.
#[must_use]
pub fn session_of(name: &str) -> Option<SessionId> {
    Uuid::try_parse(name).ok().map(SessionId)
}
