//! The issuers whose tokens are no JWTs under a published key set: load balancers of AWS, and issuers that are asked about
//! opaque tokens. What a route takes of them it names; nothing here is asked on the way of any other request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::alb::BalancerVerifier;
use super::introspection::{IntrospectionPorts, Introspector};
use crate::config::Config;
use palisade_core::domain::identity::Identity;
use palisade_core::domain::other_token::OtherToken;
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::verdict::{Refusal, TokenFault};
use palisade_core::ports::Verified;

/// Every issuer of other tokens that a configuration has.
pub struct OtherIssuers {
    balancers: HashMap<String, BalancerVerifier>,
    introspectors: HashMap<String, Arc<Introspector>>,
    ports: IntrospectionPorts,
}

impl OtherIssuers {
    /// None yet.
    #[must_use]
    pub fn none(ports: IntrospectionPorts) -> OtherIssuers {
        OtherIssuers { balancers: HashMap::new(), introspectors: HashMap::new(), ports }
    }

    /// Those of another configuration. The keys of load balancers go on, and so does an issuer that is asked as before,
    /// with its answers and its bounds.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn succeed(&self, config: &Config) -> Result<OtherIssuers, String> {
        let IntrospectionPorts { fetch, meter, .. } = &self.ports;
        let balancers = config.load_balancers.iter().map(|settings| {
            let before = self.balancers.get(&settings.issuer);
            let made = BalancerVerifier::new(settings, &config.tokens, fetch, meter, before);
            (settings.issuer.clone(), made)
        });
        let leeway = config.tokens.leeway;
        let introspectors = config.introspected.iter().map(|settings| {
            let known = self.introspectors.get(&settings.issuer);
            let made = match known.filter(|known| known.is_of(settings, leeway)) {
                Some(known) => Arc::clone(known),
                None => Arc::new(Introspector::new(settings, leeway, self.ports.clone())?),
            };
            Ok((settings.issuer.clone(), made))
        });
        Ok(OtherIssuers {
            balancers: balancers.collect(),
            introspectors: introspectors.collect::<Result<_, String>>()?,
            ports: self.ports.clone(),
        })
    }

    /// Verifies a token of this kind and issuer.
    ///
    /// # Errors
    /// [`Refusal::Token`], or [`Refusal::IssuerUnavailable`].
    pub async fn verify(
        &self,
        token: &str,
        kind: OtherToken<'_>,
        now: UnixTime,
    ) -> Result<Arc<Verified>, Refusal> {
        let unknown = Refusal::Token(TokenFault::Issuer);
        let at = Instant::now();
        match kind {
            OtherToken::LoadBalancer { issuer } => self
                .balancers
                .get(issuer)
                .ok_or(unknown)?
                .verify(token, now, at)
                .await
                .map_err(Refusal::Token),
            OtherToken::Opaque { issuer } => {
                self.introspectors.get(issuer).ok_or(unknown)?.verify(token, now, at).await
            }
        }
    }

    /// Whether a load balancer's statement about this identity is still taken.
    #[must_use]
    pub fn accepts_balancers(&self, identity: &Identity) -> bool {
        self.balancers.get(&*identity.issuer).is_some_and(|balancers| balancers.accepts(identity))
    }

    /// Whether what the issuer answered about this identity is still taken.
    #[must_use]
    pub fn accepts_opaque(&self, identity: &Identity) -> bool {
        self.introspectors.get(&*identity.issuer).is_some_and(|asked| asked.accepts(identity))
    }
}
