//! Finding the running gateway: its admin address and the credential.
//!
//! Reads only the two keys it needs, so that `palisade reload` can still tell a running gateway about a
//! configuration that is wrong elsewhere.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::edge::admin_client::AdminClient;

/// Holds the credential when it is not in the data folder.
const CREDENTIAL_ENV: &str = "PALISADE_ADMIN_TOKEN";

/// Asks the gateway that `config` belongs to.
///
/// # Errors
/// What went wrong, with advice.
pub(super) fn ask<F: Future<Output = Result<String, String>>>(
    config: &Path,
    question: impl FnOnce(AdminClient) -> F,
) -> Result<String, String> {
    let (address, data) = place(config)?;
    let client = AdminClient::new(address, credential(&data)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime could be started: {error}"))?;
    runtime.block_on(question(client))
}

/// The admin address and the data folder.
fn place(config: &Path) -> Result<(SocketAddr, PathBuf), String> {
    let shown = config.display();
    let text = std::fs::read_to_string(config)
        .map_err(|error| format!("{shown} cannot be read: {error}; name the configuration with --config"))?;
    let table: toml::Table = text.parse().map_err(|error| format!("{shown} is not TOML: {error}"))?;
    let text_at = |section: &str, key: &str, default: &str| -> Result<String, String> {
        match table.get(section).and_then(|section| section.get(key)) {
            None => Ok(default.to_owned()),
            Some(toml::Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(format!("{shown}: {section}.{key} must be text, such as {default:?}")),
        }
    };
    let admin = text_at("server", "admin", "127.0.0.1:9180")?;
    let address: SocketAddr = admin.parse().map_err(|_| {
        format!("{shown}: server.admin is {admin:?}; it must be ADDRESS:PORT, such as 127.0.0.1:9180")
    })?;
    let url = text_at("store", "url", "sled:./data")?;
    let folder = url
        .strip_prefix("sled:")
        .ok_or_else(|| format!("{shown}: store.url must begin with `sled:`, such as \"sled:./data\""))?;
    Ok((address, config.parent().unwrap_or(Path::new("")).join(folder)))
}

fn credential(data: &Path) -> Result<SecretString, String> {
    if let Ok(credential) = std::env::var(CREDENTIAL_ENV)
        && !credential.trim().is_empty()
    {
        return Ok(credential.trim().into());
    }
    let file = data.join("admin.token");
    let text = std::fs::read_to_string(&file).map(Zeroizing::new).map_err(|error| {
        let shown = file.display();
        match error.kind() {
            std::io::ErrorKind::NotFound => format!(
                "there is no admin credential: {shown} is made on the gateway's first start; start it with \
                 `palisade run`, or set {CREDENTIAL_ENV}"
            ),
            _ => format!(
                "{shown} cannot be read: {error}; run this as the gateway's user, or set {CREDENTIAL_ENV}"
            ),
        }
    })?;
    match text.trim() {
        "" => {
            Err(format!("{} is empty; remove it and restart the gateway to have a new one", file.display()))
        }
        credential => Ok(credential.into()),
    }
}

/// A token given as an argument, or read from standard input when it is `-` or missing.
///
/// # Errors
/// Nothing came.
pub(super) fn token_or_stdin(given: Option<String>) -> Result<String, String> {
    let token = match given {
        Some(token) if token != "-" => token,
        _ => std::io::read_to_string(std::io::stdin().lock())
            .map_err(|error| format!("standard input cannot be read: {error}"))?,
    };
    // People copy whole header lines.
    let token = token.trim();
    let token = token.strip_prefix("Bearer ").unwrap_or(token).trim();
    if token.is_empty() {
        return Err("no token: give it as an argument or on standard input".to_owned());
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_read_from_the_two_keys_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, "nonsense = 1\n").unwrap();
        let found = place(&file).unwrap();
        assert_eq!(found, ("127.0.0.1:9180".parse().unwrap(), folder.path().join("./data")));
        std::fs::write(&file, "server.admin = \"127.0.0.1:1\"\nstore.url = \"sled:/var/p\"\n").unwrap();
        assert_eq!(place(&file).unwrap(), ("127.0.0.1:1".parse().unwrap(), PathBuf::from("/var/p")));
        std::fs::write(&file, "server.admin = \"here\"\n").unwrap();
        assert!(place(&file).unwrap_err().contains("server.admin"));
    }

    #[test]
    fn a_missing_credential_names_the_cure() {
        let folder = tempfile::tempdir().unwrap();
        assert!(credential(folder.path()).unwrap_err().contains("palisade run"));
    }
}
