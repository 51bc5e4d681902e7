//! Links in mails: good once, for one purpose, one address and a short time.
//!
//! Only a state-changing method consumes one, because mail scanners open every link they see.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::account::{User, UserId};
use super::email::EmailAddress;
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
}

impl Purpose {
    /// How long a link for this is good.
    #[must_use]
    pub fn life(self) -> Duration {
        match self {
            Purpose::VerifyEmail | Purpose::ChangeEmail => Duration::from_secs(24 * 3600),
            Purpose::ResetPassword => Duration::from_secs(3600),
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
    /// Where it was sent.
    pub email: EmailAddress,
    /// The account's [`User::link_generation`] when it was made.
    pub generation: u64,
    pub created_at: UnixTime,
    pub expires_at: UnixTime,
    /// Whether it is good only while the account names it as its live link ([`User::live_links`]). False for links
    /// of versions that did not keep that: those are good until they are used, void or over.
    #[serde(default)]
    pub is_listed: bool,
}

impl Link {
    /// Whether the link still opens anything for `purpose` at `now`, given the account as it now is. The
    /// account's address must be the one that the link was sent to, unless the link is to change it. An address
    /// that is verified already needs no link for that.
    #[must_use]
    pub fn is_good(&self, purpose: Purpose, user: &User, now: UnixTime) -> bool {
        self.purpose == purpose
            && self.user == user.id
            && now < self.expires_at
            // Made while the clock was ahead: it would be good for longer than any link.
            && self.created_at <= now.plus(NEAR)
            && self.generation == user.link_generation
            && user.active
            && (purpose == Purpose::ChangeEmail || self.email == user.email)
            && (purpose != Purpose::VerifyEmail || !user.email_verified)
            && (!self.is_listed || user.live_links.get(&purpose) == Some(&self.id))
    }
}
