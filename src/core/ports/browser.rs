//! Sessions that travel in cookies, as the request path asks for them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use super::{StoreError, TooMany, Verified};
use crate::domain::account::UserId;
use crate::domain::browser::PlaceRef;
use crate::domain::session::SessionId;
use crate::domain::time::UnixTime;

/// Why a session cookie does not count.
#[derive(Debug, thiserror::Error)]
pub enum CookieFault {
    /// We did not make it, or not for this place. It costs no read of the store.
    #[error("not a session cookie of this place")]
    Forged,
    /// Its session is over: revoked, idle for too long, or past its absolute end; or it was replaced by a newer value.
    #[error("the session is over")]
    Over,
    /// Too many that were not found came of this session or from this address block.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// The store does not answer. That says nothing against the session.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A session as its cookie brings it: the identity as a fresh access token of the session would say it, for some
/// minutes, and the moments at which the session ends.
#[derive(Debug)]
pub struct CookieSession {
    pub verified: Arc<Verified>,
    /// When the session ends unless it is used.
    pub idle_at: UnixTime,
    /// When it ends in any case.
    pub ends_at: UnixTime,
}

/// A session cookie that was found good, as it is remembered for some minutes.
#[derive(Debug)]
pub struct LiveCookie {
    /// Whose it is. To be held against the revocation set at every request, as a verified token is.
    pub verified: Arc<Verified>,
    pub user: UserId,
    pub session: SessionId,
    used_at: AtomicU64,
}

impl LiveCookie {
    /// A cookie of this session; no use of it is noted yet.
    #[must_use]
    pub fn new(verified: Arc<Verified>, user: UserId, session: SessionId) -> LiveCookie {
        LiveCookie { verified, user, session, used_at: AtomicU64::new(0) }
    }

    /// Notes a use. True when it is the first within this second: only that one need be told of.
    pub fn note(&self, now: UnixTime) -> bool {
        self.used_at.load(Ordering::Relaxed) != now.0 && self.used_at.swap(now.0, Ordering::Relaxed) != now.0
    }
}

/// The sessions behind cookies.
#[async_trait]
pub trait BrowserSessions: Send + Sync {
    /// The session that is in memory for this cookie; `None`: [`BrowserSessions::read`] it. Never blocks, no I/O. The
    /// caller holds it against the revocation set.
    fn cached(&self, cookie: &str, place: PlaceRef<'_>, now: UnixTime) -> Option<Arc<LiveCookie>>;

    /// Reads the session, and keeps it in memory for some minutes, at most until its end.
    ///
    /// # Errors
    /// [`CookieFault`].
    async fn read(
        &self,
        cookie: &str,
        place: PlaceRef<'_>,
        client: IpAddr,
    ) -> Result<Arc<LiveCookie>, CookieFault>;

    /// The session was used now. It is written at most once a minute. Never blocks, and costs one load for all but the
    /// first use within a second.
    fn used(&self, live: &LiveCookie, now: UnixTime);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::identity::Identity;
    use uuid::Uuid;

    #[test]
    fn a_use_is_told_of_once_a_second() {
        let identity = Identity {
            issuer: "https://i.test".into(),
            subject: "ann".into(),
            email: None,
            email_verified: false,
            session: None,
            token_id: None,
            version: None,
            scopes: Vec::new(),
            issued_at: UnixTime(1),
            expires_at: UnixTime(9),
            claims: serde_json::Map::new(),
        };
        let verified = Arc::new(Verified::new(identity));
        let live = LiveCookie::new(verified, UserId(Uuid::from_u128(1)), SessionId(Uuid::from_u128(2)));
        let noted = [5, 5, 6, 5, 5].map(|second| live.note(UnixTime(second)));
        assert_eq!(noted, [true, false, true, true, false]);
    }
}
