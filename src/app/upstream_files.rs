//! The files that TLS to upstreams goes by, tried before anything goes by them.

use crate::config::{Config, ConfigError};
use crate::edge::proxy::upstream_tls::UpstreamTls;

/// What is wrong with the files that the routes of `config` name.
pub(crate) fn about(config: &Config) -> Vec<ConfigError> {
    let faults = config.routes.iter().filter_map(|route| {
        let why = UpstreamTls::load(&route.upstream).err()?;
        Some(ConfigError {
            path: config.path.clone(),
            line: route.upstream.line,
            key: format!("routes.{}", route.policy.name),
            found: config.redaction.hide(why),
            want: "files that TLS to the upstream can go by: ca, and client_cert with its client_key"
                .to_owned(),
        })
    });
    faults.collect()
}
