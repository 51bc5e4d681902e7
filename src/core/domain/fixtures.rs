//! What the core's own unit tests are made of. All other tests have `palisade_testing`, which is built on the core as a
//! library and not on the copy of it that unit tests are compiled into.

use std::time::Duration;

use super::browser::{BrowserSettings, NamedOrigin, RouteBrowser, SessionUse};
use super::pattern::{HostPattern, PathPattern};
use super::request::{Headers, Host, NoHeaders, Path, Request};
use super::route::{Allow, Auth, Carriers, FailMode, Policy, Require, Route};
use super::upstream_path::UpstreamPath;

/// A route that takes `path` on every host, by every method and of every client, and is named after it.
pub fn route(path: &str, auth: Auth) -> Route {
    Route {
        name: path.into(),
        index: 0,
        upstreams: Vec::new(),
        upstream_path: UpstreamPath::default(),
        hosts: vec![HostPattern::Every],
        paths: vec![PathPattern::parse(path).unwrap()],
        methods: Vec::new(),
        networks: Vec::new(),
        public: Vec::new(),
        policy: Policy {
            auth,
            require: Require::default(),
            carriers: Carriers::default(),
            issuers: Vec::new(),
        },
        allow: Allow::default(),
        after_expiry: Duration::ZERO,
        fail: FailMode::Closed,
        cors: None,
        browser: RouteBrowser::default(),
    }
}

/// Sessions in cookies, with sign-in at this origin and no other host.
pub fn browser_settings(public: &str) -> BrowserSettings {
    BrowserSettings {
        enabled: true,
        public: NamedOrigin::parse(public).unwrap(),
        hosts: Vec::new(),
        domain: None,
        idle: Duration::from_secs(60),
        absolute: Duration::from_secs(60),
        remember: None,
        return_to: Vec::new(),
        uses: SessionUse::Every,
        insecure_http: false,
    }
}

/// Header fields: names in lower case, with their values, in order.
pub struct Fields<'f>(pub &'f [(&'f str, &'f str)]);

impl Headers for Fields<'_> {
    fn each<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        for (_, value) in self.0.iter().filter(|(sent, _)| *sent == name) {
            visit(value.as_bytes());
        }
    }
}

/// A request without header fields that no proxy forwarded, of a client whose address is not known.
pub fn request<'a>(host: &'a str, method: &'a str, path: &'a str) -> Request<'a> {
    Request {
        method,
        host: Host::parse(host.as_bytes()).unwrap(),
        path: Path::parse(path.as_bytes()).unwrap(),
        query: None,
        websocket: false,
        is_peer_trusted: false,
        client: None,
        headers: &NoHeaders,
    }
}

/// Numbers that look random and are the same in every run. Of a seed that is not 0.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: usize) -> usize {
        // Xorshift (G. Marsaglia, "Xorshift RNGs", Journal of Statistical Software, 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}
