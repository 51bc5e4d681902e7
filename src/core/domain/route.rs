//! Routes: which one a request matches, and its authorization policy.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::browser::RouteBrowser;
use super::claim_path::ClaimPath;
use super::cors::Cors;
use super::credential::Carrier;
use super::identity::Identity;
use super::identity_fields::{IdentityField, IdentityFields};
use super::other_token::{self, OtherToken, TokenKind};
use super::pattern::{HostPattern, PathPattern};
use super::request::Path;
use super::upstream_path::UpstreamPath;
use super::verdict::{Refusal, TokenFault};

/// Whether a route wants a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// A good token, or 401.
    Required,
    /// A good token or none at all. A bad one is 401, but for one in the route's cookie: it counts as none,
    /// since browsers send cookies without being asked.
    Optional,
    /// Tokens are not looked at and pass through untouched.
    None,
}

/// What becomes of credentials while the set of revocations is not confirmed: some of them may be revoked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FailMode {
    /// They are refused with a 503, and exchanges that they opened end.
    #[default]
    Closed,
    /// They count as the set says that was confirmed last.
    Open,
}

/// What a verified caller must bring besides a good token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Require {
    /// Every one of these scopes.
    pub scopes: Vec<String>,
    /// `email_verified: true`.
    pub email_verified: bool,
    /// For each claim, one of the values.
    pub claims: Vec<(ClaimPath, Vec<String>)>,
    /// All that the app is to be told in these fields, each value in its form and length.
    pub identity: Option<Box<IdentityFields>>,
}

impl Require {
    /// The fields in which the app is told of the caller by names that it knows.
    pub fn told(&self) -> impl Iterator<Item = &IdentityField> + Clone {
        self.identity.iter().flat_map(|told| &told.fields)
    }

    /// Whether `identity` brings all of it.
    ///
    /// # Errors
    /// The first requirement that is not met.
    pub fn check(&self, identity: &Identity) -> Result<(), Refusal> {
        if !identity.has_scopes(&self.scopes) {
            return Err(Refusal::Scope { needed: self.scopes.clone() });
        }
        if self.email_verified && identity.verified_email().is_none() {
            return Err(Refusal::EmailUnverified);
        }
        if !self.claims.iter().all(|(path, values)| identity.claim_holds(path, values)) {
            return Err(Refusal::Claim);
        }
        self.identity.as_ref().map_or(Ok(()), |fields| fields.check(identity)).map_err(Refusal::Identity)
    }
}

/// Whose the `Authorization` field of a route's requests is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AuthorizationField {
    /// The gateway's: a Bearer token in it is read, and taken out.
    #[default]
    Ours,
    /// The app's: it is forwarded byte for byte and never read.
    Apps {
        /// Whether a request that has the field passes without a session: the app judges it.
        without_session: bool,
    },
}

/// Where a route looks for a token. `Authorization: Bearer` counts unless that field is the app's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carriers {
    /// A cookie of this name.
    pub cookie: Option<String>,
    /// WebSockets only: a `Sec-WebSocket-Protocol` entry `bearer.<token>`.
    pub websocket_protocol: bool,
    /// WebSockets only: a query parameter of this name.
    pub query: Option<String>,
    /// A header field of this name, in lower case: the token alone, or `Bearer` and the token.
    pub header: Option<String>,
    /// Whose the `Authorization` field is.
    pub authorization: AuthorizationField,
    /// The issuer whose load balancer writes [`Carriers::header`]; then the field carries nothing else.
    pub load_balancer: Option<Arc<str>>,
    /// The one issuer that is asked about opaque tokens, wherever they travel but in the field of a load balancer.
    pub opaque: Option<Arc<str>>,
}

impl Carriers {
    /// Whether the `Authorization` field is the app's.
    #[must_use]
    pub fn is_authorization_apps(&self) -> bool {
        matches!(self.authorization, AuthorizationField::Apps { .. })
    }

    /// What `token`, found in `carrier`, is verified as; `None`: a JWT. Costs two loads where a route takes JWTs alone.
    #[must_use]
    pub fn other_token(&self, token: &str, carrier: Carrier) -> Option<OtherToken<'_>> {
        if let Some(issuer) = self.load_balancer.as_deref().filter(|_| carrier == Carrier::Header) {
            return Some(OtherToken::LoadBalancer { issuer });
        }
        let issuer = self.opaque.as_deref().filter(|_| !other_token::looks_signed(token))?;
        Some(OtherToken::Opaque { issuer })
    }

    /// Whether a token of this kind and issuer that came in `carrier` is verified as such here.
    #[must_use]
    pub fn takes(&self, kind: TokenKind, issuer: &str, carrier: Carrier) -> bool {
        let is_balancers = carrier == Carrier::Header && self.load_balancer.is_some();
        match kind {
            TokenKind::Jwt => !is_balancers,
            TokenKind::LoadBalancer => is_balancers && self.load_balancer.as_deref() == Some(issuer),
            TokenKind::Opaque => !is_balancers && self.opaque.as_deref() == Some(issuer),
        }
    }

    /// Whether a request without a session passes when it has the app's `Authorization` field.
    #[must_use]
    pub fn leaves_to_app(&self) -> bool {
        self.authorization == AuthorizationField::Apps { without_session: true }
    }
}

/// Everything the admission of a request depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub auth: Auth,
    pub require: Require,
    pub carriers: Carriers,
    /// The accepted issuers; empty: every configured one.
    pub issuers: Vec<String>,
}

/// What of a path a route lets through although two servers may read it differently.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allow {
    /// `%2F`, opaque: never a separator.
    pub encoded_slash: bool,
    /// `//`.
    pub empty_segment: bool,
}

/// A part of a route that every client may see: requests with these methods pass without a caller where the policy asks
/// for one. A good token or session is still told to the app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Public {
    /// Upper-case methods; at least one.
    pub methods: Vec<String>,
    /// Within the route's own paths.
    pub path: PathPattern,
}

impl Public {
    /// What can be looked at there: GET and HEAD.
    #[must_use]
    pub fn to_read(path: PathPattern) -> Public {
        Public { methods: vec!["GET".to_owned(), "HEAD".to_owned()], path }
    }
}

/// By what a route takes a client. Of several routes at one place the greatest comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetworkMatch {
    /// It takes every client.
    Every,
    /// The prefix length of the narrowest of its networks that holds the client.
    Network(u8),
}

/// One route: what it matches, and what it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Unique; the label in metrics and logs.
    pub name: Arc<str>,
    /// Its place in the configuration.
    pub index: usize,
    /// The origins that its requests go to, sorted: routes whose upstreams are the same lead to one app.
    pub upstreams: Vec<String>,
    /// The paths that they are asked for.
    pub upstream_path: UpstreamPath,
    /// The hosts that it is for; at least one pattern.
    pub hosts: Vec<HostPattern>,
    /// The paths that it takes there; at least one pattern.
    pub paths: Vec<PathPattern>,
    /// Upper-case methods; empty: every method.
    pub methods: Vec<String>,
    /// The networks that a client's believed address must be in; empty: every client, also one whose address is not known.
    pub networks: Vec<IpNet>,
    /// What every client may see of it, whatever its policy says.
    pub public: Vec<Public>,
    pub policy: Policy,
    pub allow: Allow,
    /// How long an exchange may go on past the expiry of a token without a session of ours.
    pub after_expiry: Duration,
    /// What becomes of its callers while the set of revocations is not confirmed.
    pub fail: FailMode,
    /// The origins that may call from a browser; `None`: the app answers CORS requests itself.
    pub cors: Option<Cors>,
    /// What it says about people with browsers.
    pub browser: RouteBrowser,
}

impl AsRef<Route> for Route {
    fn as_ref(&self) -> &Route {
        self
    }
}

impl Route {
    /// Whether it is for `host`, in lower case and without a port.
    #[must_use]
    pub fn takes_host(&self, host: &str) -> bool {
        self.hosts.iter().any(|pattern| pattern.takes(host))
    }

    /// Whether it takes requests with `method`.
    #[must_use]
    pub fn takes_method(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|taken| taken == method)
    }

    /// Whether some of its requests pass without a sign-in, also those that the app is to judge: where it is for some networks,
    /// by the client's address alone.
    #[must_use]
    pub fn lets_in_without_sign_in(&self) -> bool {
        let policy = &self.policy;
        policy.auth != Auth::Required || !self.public.is_empty() || policy.carriers.leaves_to_app()
    }

    /// How it takes a client of this believed address; `None`: it does not.
    #[must_use]
    pub fn network_match(&self, client: Option<IpAddr>) -> Option<NetworkMatch> {
        if self.networks.is_empty() {
            return Some(NetworkMatch::Every);
        }
        let client = client?;
        let held = self.networks.iter().filter(|network| network.contains(&client)).map(IpNet::prefix_len);
        held.max().map(NetworkMatch::Network)
    }

    /// The literal leading part of the pattern that takes `path`, or of the first one: where the app begins there.
    #[must_use]
    pub fn start(&self, path: &str) -> &str {
        let normal = Path::parse(path.as_bytes()).ok();
        let own = normal.and_then(|normal| self.paths.iter().find(|pattern| pattern.takes(normal.as_str())));
        own.or_else(|| self.paths.first()).map_or("/", PathPattern::start)
    }

    /// Whether `identity` may pass.
    ///
    /// # Errors
    /// The first requirement that is not met.
    pub fn check(&self, identity: &Identity) -> Result<(), Refusal> {
        if !self.policy.issuers.is_empty() && !self.policy.issuers.iter().any(|i| **i == *identity.issuer) {
            return Err(Refusal::Token(TokenFault::Issuer));
        }
        self.policy.require.check(identity)
    }
}
