//! The key files of issuers, tried before anything goes by them.

use crate::config::{Config, ConfigError, Jwks};
use crate::edge::jwt::keyset::KeySet;

/// How many keys that cannot be used are named.
const TOLD: usize = 16;

/// The keys of a set that are not used, and why.
fn unused(keys: &KeySet) -> impl Iterator<Item = &String> {
    keys.left_out().iter().chain(keys.passed_over())
}

/// What is wrong with the key files that `config` names, and what is odd about them: errors and warnings.
pub(crate) fn about(config: &Config) -> (Vec<ConfigError>, Vec<String>) {
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    for (index, issuer) in config.issuers.iter().enumerate() {
        let Jwks::File(path) = &issuer.jwks else { continue };
        let key = format!("issuers[{index}].jwks");
        let read = std::fs::read(path).map_err(|error| format!("it cannot be read: {error}"));
        match read.and_then(|bytes| {
            KeySet::parse_for(&bytes, &issuer.algorithms, |key| {
                issuer.names.iter().any(|name| key.signs_for(name))
            })
        }) {
            // What is empty may be filled while the gateway runs: the file is read again.
            Ok(keys) if keys.is_empty() && unused(&keys).next().is_none() => warnings.push(format!(
                "{}:{}: {key}: {} holds no key, so every token of {} is refused",
                config.path.display(),
                issuer.line,
                path.display(),
                issuer.issuer
            )),
            Ok(keys) if keys.is_empty() => errors.push(ConfigError {
                path: config.path.clone(),
                line: issuer.line,
                key,
                found: format!(
                    "{}, in which no key can be used: {}",
                    path.display(),
                    unused(&keys).take(TOLD).map(String::as_str).collect::<Vec<_>>().join("; ")
                ),
                want: "a key for at least one of the issuer's `algorithms`".to_owned(),
            }),
            Ok(keys) => warnings.extend(keys.left_out().iter().map(|key_left_out| {
                let place = format!("{}:{}: {key}", config.path.display(), issuer.line);
                format!("{place}: {} is used without {key_left_out}", path.display())
            })),
            Err(why) => errors.push(ConfigError {
                path: config.path.clone(),
                line: issuer.line,
                key,
                found: format!("{}, {why}", path.display()),
                want: "a JWK Set (RFC 7517 §5), as the issuer publishes it: {\"keys\": [...]}".to_owned(),
            }),
        }
    }
    let hide = |text: String| config.redaction.hide(text);
    errors.iter_mut().for_each(|error| error.found = hide(std::mem::take(&mut error.found)));
    (errors, warnings.into_iter().map(hide).collect())
}
