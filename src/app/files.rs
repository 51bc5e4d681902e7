//! The keys, certificates and other files that a configuration names and a start reads, tried before anything goes by them.
//! `palisade check` and a start ask the same function, so what one takes the other takes.

use secrecy::ExposeSecret as _;

use super::upstream_files;
use crate::config::Config;
use crate::edge::devices::DeviceReader;
use crate::edge::fetch::HttpFetch;
use crate::edge::jwt::keys::SigningKey;
use crate::edge::proxy::tls::Acceptor;
use crate::edge::vault::VaultKeyRing;

/// What keeps a start from going by the files and keys of `config`, one printable line each. Holds no secret.
pub(crate) fn faults(config: &Config) -> Vec<String> {
    let mut faults = Vec::new();
    let mut tried = |key: &str, outcome: Result<(), String>| {
        if let Err(why) = outcome {
            // Some of them name their key themselves.
            let why = config.redaction.hide(why);
            let named = if key.is_empty() { why } else { format!("{key}: {why}") };
            let fault = format!("{}: {named}", config.path.display());
            // An issuer can be in two lists.
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
    };
    if let Some(key) = &config.tokens.key {
        tried("tokens.key", SigningKey::read(config.tokens.algorithm, key.expose_secret()).map(drop));
    }
    if !config.vault.keys.is_empty() {
        tried("", VaultKeyRing::new(&config.vault.keys).map(drop));
    }
    if let Some(tls) = &config.server.tls {
        tried("server.tls", Acceptor::new(tls).map(drop));
    }
    tried("", DeviceReader::open(config.sessions.geoip.as_deref()).map(drop));
    match HttpFetch::with(&config.fetch) {
        Ok(fetch) => {
            // Those of providers are tried with their components: a start goes on without one of them.
            let of_jwt = config.issuers.iter().map(|issuer| &issuer.reach);
            let of_load_balancers = config.load_balancers.iter().map(|kind| &kind.reach);
            let of_introspected = config.introspected.iter().map(|issuer| &issuer.reach);
            for reach in of_jwt.chain(of_load_balancers).chain(of_introspected) {
                tried("", fetch.try_reach(reach));
            }
        }
        Err(why) => tried("", Err(why)),
    }
    faults.extend(upstream_files::about(config).iter().map(ToString::to_string));
    faults
}
