//! Sessions that travel in cookies, as the request path asks for them.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;

use super::{StoreError, TooMany, Verified};
use crate::domain::browser::CookiePlace;
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

/// The sessions behind cookies.
#[async_trait]
pub trait BrowserSessions: Send + Sync {
    /// The session that is in memory for this cookie; `None`: [`BrowserSessions::read`] it. Never blocks, no I/O.
    fn cached(&self, cookie: &str, place: &CookiePlace, now: UnixTime) -> Option<Arc<Verified>>;

    /// Reads the session, and keeps it in memory for some minutes.
    ///
    /// # Errors
    /// [`CookieFault`].
    async fn read(
        &self,
        cookie: &str,
        place: &CookiePlace,
        client: IpAddr,
    ) -> Result<Arc<Verified>, CookieFault>;

    /// The session was used now. It is written at most once a minute. Never blocks.
    fn used(&self, session: &Verified, now: UnixTime);
}
