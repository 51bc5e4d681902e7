//! The request path: which route, who, revoked or not, may they pass.
//!
//! [`Admission::admit`] is the only maker of a [`Permit`], and the proxy connects to no upstream without
//! one: a forgotten check is a refusal, not a hole. The warm path takes no lock across an await, does
//! no I/O and reads nothing but memory.

use std::sync::Arc;

use crate::domain::credential::{self, Carrier};
use crate::domain::request::Request;
use crate::domain::route::{Auth, Route, Table};
use crate::domain::verdict::{Refusal, TokenFault};
use crate::ports::{Clock, Revocations, Verified, Verifier};

/// Proof that a request was admitted, and on what terms.
#[derive(Debug)]
pub struct Permit {
    route: Arc<Route>,
    caller: Option<Arc<Verified>>,
    carrier: Option<Carrier>,
}

impl Permit {
    /// The route that took the request.
    #[must_use]
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The verified caller; `None` for an anonymous one.
    #[must_use]
    pub fn caller(&self) -> Option<&Arc<Verified>> {
        self.caller.as_ref()
    }

    /// What carried the token, to be taken out before forwarding.
    #[must_use]
    pub fn carrier(&self) -> Option<Carrier> {
        self.carrier
    }
}

/// Decides whether a token is good now.
#[derive(Clone)]
pub struct Authenticator {
    pub verifier: Arc<dyn Verifier>,
    pub revocations: Arc<dyn Revocations>,
    pub clock: Arc<dyn Clock>,
}

/// What admission decides with.
pub struct Admission {
    pub routes: Table,
    pub authenticator: Authenticator,
}

impl Admission {
    /// Decides about one request. Waits only when a token names a key that its issuer may have
    /// published since the last look.
    ///
    /// # Errors
    /// Why the request is turned away, and the route it belonged to when one was found.
    pub async fn admit(&self, request: &Request<'_>) -> Result<Permit, (Refusal, Option<Arc<Route>>)> {
        credential::refuse_several(request.headers).map_err(|refusal| (refusal, None))?;
        let route = self.routes.find(request).map_err(|refusal| (refusal, None))?;
        self.decide(request, route).await.map_err(|refusal| (refusal, Some(Arc::clone(route))))
    }

    async fn decide(&self, request: &Request<'_>, route: &Arc<Route>) -> Result<Permit, Refusal> {
        let anonymous = Permit { route: Arc::clone(route), caller: None, carrier: None };
        if route.policy.auth == Auth::None {
            return Ok(anonymous);
        }
        let Some((token, carrier)) = credential::find(request, &route.policy.carriers)? else {
            return match route.policy.auth {
                Auth::Required => Err(Refusal::NoToken),
                Auth::Optional | Auth::None => Ok(anonymous),
            };
        };
        if carrier == Carrier::Cookie && credential::is_cross_site(request) {
            return Err(Refusal::CrossSite);
        }
        let caller = self.authenticator.authenticate(&token).await?;
        route.check(&caller.identity)?;
        Ok(Permit { caller: Some(caller), carrier: Some(carrier), ..anonymous })
    }
}

impl Authenticator {
    /// Verifies a token and holds it against the revocation set.
    ///
    /// # Errors
    /// [`Refusal::Token`], [`Refusal::Revoked`] or [`Refusal::NotReady`].
    pub async fn authenticate(&self, token: &str) -> Result<Arc<Verified>, Refusal> {
        let now = self.clock.now();
        let caller = match self.verifier.verify(token, now) {
            Err(TokenFault::UnknownKey) if self.verifier.learn_keys(token).await => {
                self.verifier.verify(token, now)
            }
            decided => decided,
        }
        .map_err(Refusal::Token)?;
        // The sequence is read before the set: a revocation in between makes the clearance stale, and
        // the next request asks again.
        let sequence = self.revocations.sequence().ok_or(Refusal::NotReady)?;
        if !caller.is_cleared_at(sequence) {
            if self.revocations.is_revoked(&caller.identity) {
                return Err(Refusal::Revoked);
            }
            caller.clear_at(sequence);
        }
        Ok(caller)
    }
}
