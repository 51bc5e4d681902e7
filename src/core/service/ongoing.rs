//! Exchanges under way: whether what admitted them still holds.
//!
//! A request is decided once, and its exchange may last for hours. It ends early when its token is revoked, when it is
//! not known any more whether it is, when a reload makes its route stricter, and some time after its token has expired. Expiry is not revocation: a token of
//! ours that belongs to a session is only a short-lived proof of it, so its exchanges last as long as the session;
//! of any other token we cannot ask whether its holder would get a new one, so the route sets a time.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::admit::{Admission, Permit};
use super::caller::Person;
use super::outage::Outage;
use super::session_uses::SessionUses;
use crate::domain::credential::Carrier;
use crate::domain::request::{Host, NoHeaders, Path, Request};
use crate::domain::route::{Auth, Carriers, Route};
use crate::domain::session::Lifetimes;
use crate::domain::time::UnixTime;
use crate::ports::{Store, Verified};

/// The longest that a session is taken for alive without another look at it.
pub const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// Why an exchange is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its token is revoked.
    Revoked,
    /// The route it belongs to now, if there is one, does not admit it.
    RouteChanged,
    /// Its token has expired, and its session or the time after it as well.
    Expired,
    /// Whether its token is revoked is not known any more: the lease of the revocation set is over.
    Stale,
}

impl Ending {
    /// The stable word for logs and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Ending::Revoked => "ended_revoked",
            Ending::RouteChanged => "ended_route_changed",
            Ending::Expired => "ended_expired",
            Ending::Stale => "ended_stale",
        }
    }
}

/// What an exchange was admitted as: enough to decide about it again.
#[derive(Debug)]
pub struct AdmissionRecord {
    pub route: Arc<Route>,
    /// `None` for an anonymous caller.
    pub caller: Option<Arc<Verified>>,
    pub carrier: Option<Carrier>,
    /// Whether it passed without a session because it has the app's own `Authorization` field.
    pub is_left_to_app: bool,
    /// When it was admitted; 0 for an anonymous caller, for which it is not read.
    pub since: UnixTime,
    pub method: Cow<'static, str>,
    /// The Host and the path as they were matched.
    pub host: Arc<str>,
    pub path: Arc<str>,
    pub websocket: bool,
    /// The client's address as far as it was believed; `None` too where no route asked for it then.
    pub client: Option<IpAddr>,
}

impl<R: AsRef<Route>> Admission<R> {
    /// The route that would admit the exchange if it began now; `None`: it has to end. Whether its token is
    /// revoked or has expired is not asked.
    #[must_use]
    pub fn still_admits(&self, admitted: &AdmissionRecord) -> Option<&Route> {
        let request = Request {
            method: &admitted.method,
            host: Host::parse(admitted.host.as_bytes()).ok()?,
            path: Path::parse(admitted.path.as_bytes()).ok()?,
            query: None,
            websocket: admitted.websocket,
            // No decision about routes asks who forwarded it.
            is_peer_trusted: false,
            client: admitted.client,
            // An exchange holds no fields any more, and no decision about routes looks at them.
            headers: &NoHeaders,
        };
        let found = self.routes.find(&request).ok()?;
        let route = R::as_ref(found.entry);
        match (&admitted.caller, route.policy.auth) {
            (_, Auth::None) | (None, Auth::Optional) => Some(route),
            (None, Auth::Required) => {
                let is_apps = admitted.is_left_to_app && route.policy.carriers.leaves_to_app();
                (found.is_open || is_apps).then_some(route)
            }
            (Some(caller), Auth::Required | Auth::Optional) => {
                let carriers = &route.policy.carriers;
                let carried = admitted.carrier.is_none_or(|carrier| {
                    self.is_same_carrier(carrier, &admitted.route.policy.carriers, carriers)
                        && carriers.takes(caller.kind(), &caller.identity.issuer, carrier)
                });
                let good = carried
                    && self.authenticator.verifier.accepts(caller)
                    && route.check(&caller.identity).is_ok();
                good.then_some(route)
            }
        }
    }

    /// Whether a token that came in `carrier` would be found under the new rules as under the old.
    fn is_same_carrier(&self, carrier: Carrier, old: &Carriers, new: &Carriers) -> bool {
        match carrier {
            Carrier::Authorization => !new.is_authorization_apps(),
            Carrier::Cookie => old.cookie == new.cookie,
            Carrier::Session => self.sessions.is_some(),
            Carrier::WebsocketProtocol => new.websocket_protocol,
            Carrier::Query => old.query == new.query,
            Carrier::Header => old.header == new.header,
        }
    }
}

impl AdmissionRecord {
    /// What `permit` admitted.
    #[must_use]
    pub fn by<R: AsRef<Route> + AsRef<Arc<Route>>>(
        permit: &Permit<R>,
        since: UnixTime,
        method: Cow<'static, str>,
        host: Arc<str>,
        path: Arc<str>,
        websocket: bool,
        client: Option<IpAddr>,
    ) -> AdmissionRecord {
        let (route, caller) = (Arc::clone(R::as_ref(permit.route())), permit.caller().cloned());
        let (carrier, is_left_to_app) = (permit.carrier(), permit.is_left_to_app());
        AdmissionRecord {
            route,
            caller,
            carrier,
            is_left_to_app,
            since,
            method,
            host,
            path,
            websocket,
            client,
        }
    }

    /// When its expiry is to be looked at first.
    #[must_use]
    pub fn expires_at(&self) -> UnixTime {
        self.caller.as_ref().map_or(UnixTime::NEVER, |caller| caller.identity.expires_at)
    }
}

/// What decides how long an exchange outlives its token.
pub struct Expiry {
    pub store: Arc<dyn Store>,
    /// The issuer of our own tokens.
    pub issuer: String,
    pub lifetimes: Lifetimes,
    /// The uses of sessions in cookies that are not written yet.
    pub uses: Arc<SessionUses>,
    /// How long past its `exp` a token is still accepted.
    pub leeway: Duration,
    /// Told while sessions cannot be read.
    pub outage: Outage,
}

impl Expiry {
    /// The [`Expiry::outage`] of a gateway.
    #[must_use]
    pub fn outage() -> Outage {
        Outage::new("sessions cannot be read; their exchanges go on for now")
    }

    /// When the exchange is to be looked at again; a moment that has come (`<= now`) when it has to end.
    /// `after_expiry` is that of the route it belongs to now.
    pub async fn look(&self, admitted: &AdmissionRecord, after_expiry: Duration, now: UnixTime) -> UnixTime {
        let Some(caller) = &admitted.caller else { return UnixTime::NEVER };
        let expires_at = caller.identity.expires_at;
        if now < expires_at {
            return expires_at;
        }
        // One that began within the leeway would otherwise end before its token is refused.
        let late = admitted.since >= expires_at;
        let end = if late { expires_at.plus(self.leeway) } else { expires_at }.plus(after_expiry);
        let Some(Person { user, session: Some(session) }) = Person::of(&caller.identity, &self.issuer) else {
            return end;
        };
        let found = self.store.session(user, session).await;
        if found.is_ok() {
            self.outage.succeeded();
        }
        match found {
            Ok(None) => now,
            Ok(Some(session)) => {
                let session = self.uses.apply(session, self.lifetimes);
                session.ends_at(self.lifetimes).min(now.plus(LOOK_AGAIN))
            }
            // Not known, which must not last: then it counts as a token without a session.
            Err(error) => {
                self.outage.failed(&error);
                end.min(now.plus(LOOK_AGAIN))
            }
        }
    }
}
