//! Admission of the second target of COPY and MOVE (WebDAV): what `Destination` names must be admitted by its own route,
//! with the same caller, and lead to the same upstream.

use std::net::IpAddr;
use std::sync::Arc;

use super::admit::{Admission, Permit, Verdict};
use crate::domain::credential::Carrier;
use crate::domain::destination::{Destination, DestinationFault};
use crate::domain::request::{Path, Request};
use crate::domain::route::Route;
use crate::domain::verdict::Refusal;

impl<R: AsRef<Route>> Admission<R> {
    /// Holds the `Destination` of a request that was admitted by itself against its own route. A request without one
    /// passes: the app answers that it is missing.
    pub(super) async fn admit_destination(
        &self,
        request: &Request<'_>,
        client: IpAddr,
        permit: Permit<R>,
    ) -> Verdict<R> {
        let refuse = |permit: &Permit<R>, refusal| Verdict::Refusal {
            refusal,
            route: Some(Arc::clone(permit.route())),
            caller: permit.caller().cloned(),
        };
        let destination = match Destination::of(request) {
            Ok(Some(destination)) => destination,
            Ok(None) => return Verdict::Permit(permit),
            Err(fault) => return refuse(&permit, Refusal::Destination(fault)),
        };
        let second = Request {
            method: request.method,
            host: request.host.clone(),
            path: destination.path.clone(),
            query: None,
            websocket: false,
            is_peer_trusted: request.is_peer_trusted,
            client: request.client,
            headers: request.headers,
        };
        let other = match self.admit_target(&second, client).await {
            Verdict::Permit(other) => other,
            Verdict::Refusal { refusal: Refusal::Malformed(why), .. } => {
                return refuse(&permit, Refusal::Destination(DestinationFault::Path(why)));
            }
            // The refusal is that of the other route; the answer belongs to the path that was asked, whose route says
            // which pages may read it.
            Verdict::Refusal { refusal, caller, .. } => {
                let caller = caller.or_else(|| permit.caller().cloned());
                return Verdict::Refusal { refusal, route: Some(Arc::clone(permit.route())), caller };
            }
            // Admission itself sends no browser elsewhere.
            Verdict::Redirect { .. } => return refuse(&permit, Refusal::NoRoute),
        };
        if R::as_ref(other.route()).upstreams != R::as_ref(permit.route()).upstreams {
            return refuse(&permit, Refusal::Destination(DestinationFault::OtherUpstream));
        }
        // The app is told of one caller: a credential of another person, which only the other route looks at, lends
        // that caller nothing.
        if let (Some(caller), Some(second)) = (permit.caller(), other.caller()) {
            let (one, two) = (&caller.identity, &second.identity);
            if one.issuer != two.issuer || one.subject != two.subject {
                return refuse(&permit, Refusal::Credentials);
            }
        }
        // The app was to judge by a field that the request's own route takes out.
        if other.is_left_to_app() && permit.carrier() == Some(Carrier::Authorization) {
            return refuse(&permit, Refusal::NoToken);
        }
        let covers = |path: &Path<'_>| self.routes.covers_another(request, path.as_str());
        if covers(&request.path) || covers(&second.path) {
            return refuse(&permit, Refusal::Destination(DestinationFault::CoversOtherRoute));
        }
        match destination.kept(&R::as_ref(other.route()).upstream_path) {
            Ok(kept) => Verdict::Permit(permit.with_destination(kept)),
            Err(fault) => refuse(&permit, Refusal::Destination(fault)),
        }
    }
}
