//! Where a connection to an upstream leads.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// An address that can be connected to. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UpstreamAddress {
    /// An address and a port of TCP.
    Inet(SocketAddr),
    /// The absolute path of a socket file.
    Unix(Arc<str>),
}

impl From<SocketAddr> for UpstreamAddress {
    fn from(address: SocketAddr) -> UpstreamAddress {
        UpstreamAddress::Inet(address)
    }
}

/// `127.0.0.1:3000`, `[::1]:3000` or `unix:/run/app.sock`.
impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpstreamAddress::Inet(address) => address.fmt(f),
            UpstreamAddress::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}
