//! What a process keeps across reloads, and what a configuration puts in force over it.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::ends::DatedJournal;
use super::fail_modes;
use crate::config::{Config, UpstreamOrigin};
use crate::edge::demo;
use crate::edge::fetch::HttpFetch;
use crate::edge::jwt::{Clocks, Issuers, OtherIssuers, SigningKeyRing, TokenVerifier};
use crate::edge::proxy;
use crate::edge::proxy::app_tokens::AppTokens;
use crate::edge::proxy::capacity::Capacity;
use crate::edge::proxy::forward::StripRules;
use crate::edge::proxy::served::ServedRoute;
use crate::edge::store::RevocationCache;
use crate::edge::telemetry::Meters;
use crate::edge::telemetry::metrics::Metrics;
use palisade_core::domain::opaque::ServerKey;
use palisade_core::domain::same_origin::OwnOrigins;
use palisade_core::domain::table::Table;
use palisade_core::ports::{BrowserSessions, Clock, FirstVerified, Meter, Revocations, Store};
use palisade_core::service::admit::{Admission, Authenticator};
use palisade_core::service::clock::GuardedClock;
use palisade_core::service::left_to_app::LeftToApp;
use palisade_core::service::session_cookies::SessionCookies;
use palisade_core::service::successor_uses::SuccessorUses;

/// Everything that outlives a reload.
pub(super) struct ProcessState {
    pub(super) clock: Arc<GuardedClock>,
    pub(super) meters: Arc<Meters>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) ring: SigningKeyRing,
    pub(super) fetch: Arc<HttpFetch>,
    pub(super) store: Arc<dyn Store>,
    /// The journal of ends, if one is kept.
    pub(super) ends: Option<Arc<DatedJournal>>,
    pub(super) revocations: Arc<RevocationCache>,
    /// The issuers of the configuration in force, with their keys.
    pub(super) issuers: ArcSwap<Issuers>,
    /// Its issuers of tokens that are no JWTs, with what they keep.
    pub(super) others: ArcSwap<OtherIssuers>,
    pub(super) issuer_clocks: Arc<Clocks>,
    /// The sessions behind cookies.
    pub(super) sessions: Arc<dyn BrowserSessions>,
    /// Which refresh tokens were used since they replaced their parents.
    pub(super) successors: Arc<SuccessorUses>,
    /// The tokens for the servers of apps.
    pub(super) app_tokens: Arc<AppTokens>,
    /// The audit of what routes leave to their apps.
    pub(super) left_to_app: Arc<LeftToApp>,
    pub(super) key: Arc<ServerKey>,
    /// Where the sample app is, if it is served.
    pub(super) demo: Option<SocketAddr>,
    pub(super) capacity: Arc<Capacity>,
}

impl ProcessState {
    /// The clock, as the use cases know it.
    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as _
    }

    /// The metrics, as the use cases know them.
    pub(super) fn meter(&self) -> Arc<dyn Meter> {
        Arc::clone(&self.meters) as _
    }

    /// What a configuration puts in force.
    ///
    /// # Errors
    /// What kept a route from being served, as one printable text.
    pub(super) async fn live(
        &self,
        config: &Config,
        issuers: &Arc<Issuers>,
    ) -> Result<proxy::gateway::Live, String> {
        let (ring, clocks) = (Arc::new(self.ring.clone()), Arc::clone(&self.issuer_clocks));
        let first_verified = Arc::clone(&self.successors) as Arc<dyn FirstVerified>;
        let others = Arc::new(self.others.load().succeed(config)?);
        let verifier = TokenVerifier::new(
            &config.tokens,
            ring,
            Arc::clone(issuers),
            Arc::clone(&others),
            clocks,
            self.meter(),
            first_verified,
        );
        let mut configured = config.routes.clone();
        if let Some(address) = self.demo {
            for route in &mut configured {
                route.upstream.origins = vec![UpstreamOrigin {
                    tls: false,
                    host: address.ip().to_string(),
                    port: address.port(),
                    socket: None,
                }];
                route.upstream.http2 = false;
                // The sample app greets people by the name that is in it.
                route.forward.assertion = Some(demo::ASSERTION.to_owned());
            }
        }
        self.metrics.set_routes(config.routes.iter().map(|route| &*route.policy.name));
        let strip = StripRules::of(configured.iter().map(|route| (&route.forward, &route.policy.policy)));
        let mut served = Vec::with_capacity(configured.len());
        for route in configured {
            served.push(ServedRoute::start(route, &self.capacity).await?);
        }
        self.others.store(others);
        Ok(proxy::gateway::Live {
            admission: Admission {
                own: OwnOrigins {
                    scheme: config.scheme(),
                    named: config.browser.hosts.iter().chain([&config.browser.public]).cloned().collect(),
                },
                sessions: config.browser.enabled.then(|| SessionCookies {
                    settings: Arc::new(config.browser.clone()),
                    issuer: config.tokens.issuer.clone(),
                    sessions: Arc::clone(&self.sessions),
                    key: Arc::clone(&self.key),
                }),
                routes: Table::new(served),
                authenticator: Authenticator {
                    verifier: Arc::new(verifier),
                    revocations: Arc::clone(&self.revocations) as Arc<dyn Revocations>,
                    fail: fail_modes::of_store(config),
                    clock: self.clock(),
                },
            },
            strip,
            native_hosts: config.native.clone(),
            browsers: config.browser.enabled.then(|| proxy::browsers::BrowserRules {
                settings: Arc::new(config.browser.clone()),
                issuer: config.tokens.issuer.clone(),
            }),
            thrown_away: proxy::thrown_away::ThrownAway::default(),
            believed: proxy::forwarded::Believed {
                proxies: config.server.trusted_proxies.clone(),
                field: config.server.client_address,
            },
        })
    }
}
