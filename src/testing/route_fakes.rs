//! Routes and requests for them, for tests only. What a test does not say is as little as there can be: a site says what
//! differs by struct update.

use std::time::Duration;

use palisade_core::domain::browser::RouteBrowser;
use palisade_core::domain::pattern::{HostPattern, PathPattern};
use palisade_core::domain::request::{Headers, Host, Path, Request};
use palisade_core::domain::route::{Allow, Auth, Carriers, FailMode, Policy, Require, Route};
use palisade_core::domain::upstream_path::UpstreamPath;

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

/// Header fields: names in lower case, with their values, in order.
pub struct FieldLines<'f>(pub &'f [(&'f str, &'f str)]);

impl Headers for FieldLines<'_> {
    fn each<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        for (_, value) in self.0.iter().filter(|(sent, _)| *sent == name) {
            visit(value.as_bytes());
        }
    }
}

/// A request to `a.test` that no proxy forwarded, of a client whose address is not known.
pub fn request<'a>(method: &'a str, path: &'a str, headers: &'a dyn Headers) -> Request<'a> {
    Request {
        method,
        host: Host::parse(b"a.test").unwrap(),
        path: Path::parse(path.as_bytes()).unwrap(),
        query: None,
        websocket: false,
        is_peer_trusted: false,
        client: None,
        headers,
    }
}
