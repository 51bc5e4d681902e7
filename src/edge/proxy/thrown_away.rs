//! Tells the operator that forwarded fields count for nothing, because no proxy is believed.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderName;

use super::forwarded::Believed;

/// Says once that forwarded fields are thrown away because no proxy is believed.
#[derive(Debug, Default)]
pub struct ThrownAway {
    is_said: AtomicBool,
}

impl ThrownAway {
    /// Whether a field of this name, in lower case, says where a request came from.
    fn is_forwarded(name: &str) -> bool {
        ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"].contains(&name)
    }

    /// Looks at the names of fields that count for nothing. Returns whether it said so now: the first time only, so that no
    /// client can fill the log.
    pub fn look<'n>(
        &self,
        believed: &Believed,
        peer: IpAddr,
        mut names: impl Iterator<Item = &'n HeaderName>,
    ) -> bool {
        if !believed.proxies.is_empty() || self.is_said.load(Ordering::Relaxed) {
            return false;
        }
        let Some(name) = names.find(|name| ThrownAway::is_forwarded(name.as_str())) else { return false };
        if self.is_said.swap(true, Ordering::Relaxed) {
            return false;
        }
        let peer = peer.to_canonical();
        tracing::warn!(
            %peer,
            field = name.as_str(),
            "a request came with a field in which a proxy says where it came from, and such fields are thrown away, because \
             server.trusted_proxies is empty: if the peer is a proxy, name it there, or all its clients have its address in \
             limits, networks and logs; if it is a client, nothing is wrong. This is said once until the next reload or start"
        );
        true
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn what_is_thrown_away_is_said_once() {
        let peer: IpAddr = "9.9.9.9".parse().unwrap();
        let (none, some) = (
            Believed::default(),
            Believed { proxies: vec!["10.0.0.0/8".parse().unwrap()], ..Believed::default() },
        );
        for name in ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"] {
            let (thrown, map) = (ThrownAway::default(), fields(&[("accept", "*/*"), (name, "x")]));
            assert!(!thrown.look(&some, peer, map.keys()), "{name}");
            assert!(thrown.look(&none, peer, map.keys()), "{name}");
            assert!(!thrown.look(&none, peer, map.keys()), "{name}");
        }
        let map = fields(&[("accept", "*/*"), ("x-request-id", "x"), ("via", "1.1 x")]);
        assert!(!ThrownAway::default().look(&none, peer, map.keys()));
    }
}
