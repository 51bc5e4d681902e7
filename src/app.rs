//! The composition root: [`Config`] in, a running gateway out, built top-down. The only file that
//! names every room of `edge`.

use std::net::SocketAddr;

use crate::config::Config;

/// What `palisade run` may be asked beside its configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Also serve the sample app, and route to it.
    pub demo: bool,
}

/// A gateway that accepts connections. Dropping it does not stop it; [`Running::shutdown`] does.
pub struct Running {
    /// The cleartext listeners, with their real ports when the configuration said 0.
    pub listen: Vec<SocketAddr>,
    /// The TLS listener.
    pub tls: Option<SocketAddr>,
    /// The admin listener.
    pub admin: SocketAddr,
}

/// Starts everything. Returns once connections are accepted; `/readyz` tells when they are served.
///
/// # Errors
/// What kept it from starting, with advice, as one printable text.
pub async fn start(_config: Config, _options: Options) -> Result<Running, String> {
    Err("not composed yet".to_owned())
}

impl Running {
    /// Stops accepting, drains within the configured grace, closes the store.
    pub async fn shutdown(self) {}
}
