//! Session cookies on the request path: which of them a request presents, whether one is good now, and what counts as a
//! use of its session.
//!
//! A verdict that is in memory costs what a token costs that was verified before: a look-up, and two loads for the
//! revocation set. It is never longer in force than some minutes, which is far less than the shortest time for which a
//! revocation is remembered; then the session is read again.

use std::net::IpAddr;
use std::sync::Arc;

use super::admit::Authenticator;
use crate::domain::browser::{BrowserSettings, PlaceRef, SessionUse};
use crate::domain::credential;
use crate::domain::navigation::{self, Asking, RequestKind};
use crate::domain::opaque::ServerKey;
use crate::domain::request::Request;
use crate::domain::route::{Auth, Route};
use crate::domain::time::UnixTime;
use crate::domain::verdict::Refusal;
use crate::ports::{BrowserSessions, CookieFault, LiveCookie};

/// What admission needs for sessions in cookies.
#[derive(Clone)]
pub struct SessionCookies {
    pub settings: Arc<BrowserSettings>,
    /// The issuer of our own tokens: routes name it in `issuers`.
    pub issuer: String,
    pub sessions: Arc<dyn BrowserSessions>,
    /// For what browsers keep beside the cookies of apps ([`crate::domain::app_cookie`]).
    pub key: Arc<ServerKey>,
}

/// What the session cookies of a request come to.
#[derive(Debug)]
pub enum CookieVerdict {
    /// There is none that we made for this place; or good ones of different sessions, where nothing says which is meant.
    None,
    /// There was one that we made, and its session is over.
    Over,
    /// The session lives.
    Good(Arc<LiveCookie>),
}

impl SessionCookies {
    /// Whether a session of ours can satisfy `route`: it looks at credentials and takes our issuer.
    #[must_use]
    pub fn can_open(&self, route: &Route) -> bool {
        let policy = &route.policy;
        policy.auth != Auth::None && (policy.issuers.is_empty() || policy.issuers.contains(&self.issuer))
    }

    /// The session that `request` presents on `route`.
    ///
    /// # Errors
    /// [`Refusal::NotReady`] while the revocation set is not whole, [`Refusal::Stale`] while it is not confirmed, and
    /// [`Refusal::SessionUnknown`] when the store does not answer. None says anything against the session.
    pub async fn presented(
        &self,
        authenticator: &Authenticator,
        request: &Request<'_>,
        route: &Route,
        client: IpAddr,
    ) -> Result<CookieVerdict, Refusal> {
        if !self.can_open(route) {
            return Ok(CookieVerdict::None);
        }
        let mut is_over = false;
        for (name, place) in self.settings.cookies_at(request.host.name()).into_iter().flatten() {
            let mut values = Values::default();
            credential::each_cookie(request.headers, name, &mut |value| values.keep(value));
            let mut good: Option<Arc<LiveCookie>> = None;
            for value in values.iter() {
                match self.look(authenticator, value, place, client, route).await? {
                    CookieVerdict::None => {}
                    CookieVerdict::Over => is_over = true,
                    CookieVerdict::Good(live) => match &good {
                        None => good = Some(live),
                        // Cookie tossing: every host of a domain can plant a cookie of its own session (RFC 6265
                        // §8.6), with a path that puts it first. Which one is the person's own cannot be told.
                        Some(other) if other.session != live.session => return Ok(CookieVerdict::None),
                        Some(_) => {}
                    },
                }
            }
            if let Some(live) = good {
                return Ok(CookieVerdict::Good(live));
            }
        }
        Ok(if is_over { CookieVerdict::Over } else { CookieVerdict::None })
    }

    /// What one cookie is worth now.
    async fn look(
        &self,
        authenticator: &Authenticator,
        value: &str,
        place: PlaceRef<'_>,
        client: IpAddr,
        route: &Route,
    ) -> Result<CookieVerdict, Refusal> {
        if let Some(live) = self.sessions.cached(value, place, authenticator.clock.now()) {
            match authenticator.refuse_revoked(&live.verified, || route.fail) {
                Ok(()) => return Ok(CookieVerdict::Good(live)),
                // A raised token version asks for a new verdict and lets the session go on.
                Err(Refusal::Revoked) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        match self.sessions.read(value, place, client).await {
            Ok(live) => match authenticator.refuse_revoked(&live.verified, || route.fail) {
                Ok(()) => Ok(CookieVerdict::Good(live)),
                Err(Refusal::Revoked) => Ok(CookieVerdict::Over),
                Err(refusal) => Err(refusal),
            },
            Err(CookieFault::Forged) => Ok(CookieVerdict::None),
            // Too many misses are misses of this very value: no session was behind it, and none can come back.
            Err(CookieFault::Over | CookieFault::TooMany(_)) => Ok(CookieVerdict::Over),
            Err(CookieFault::Store(error)) => {
                tracing::error!(%error, "a session cannot be read, so its cookie cannot be judged");
                Err(Refusal::SessionUnknown)
            }
        }
    }

    /// What counts as a use on `route`.
    #[must_use]
    pub fn uses(&self, route: &Route) -> SessionUse {
        route.browser.uses.unwrap_or(self.settings.uses)
    }

    /// Whether `request` is a use.
    #[must_use]
    pub fn is_use(&self, uses: SessionUse, request: &Request<'_>) -> bool {
        match uses {
            SessionUse::Every => true,
            SessionUse::Never => false,
            SessionUse::Navigation => {
                let Request { method, websocket, path, headers, .. } = request;
                let asking = Asking { method, websocket: *websocket, path: path.as_str(), headers: *headers };
                navigation::kind(&asking) == RequestKind::Navigation
            }
        }
    }

    /// Notes that a session was used now.
    pub fn used(&self, live: &LiveCookie, now: UnixTime) {
        self.sessions.used(live, now);
    }
}

/// The values of the cookies of one name. Nearly always there is one.
#[derive(Default)]
struct Values<'a> {
    first: Option<&'a str>,
    more: Vec<&'a str>,
}

impl<'a> Values<'a> {
    fn keep(&mut self, value: &'a str) {
        match self.first {
            None => self.first = Some(value),
            Some(_) => self.more.push(value),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.first.into_iter().chain(self.more.iter().copied())
    }
}
