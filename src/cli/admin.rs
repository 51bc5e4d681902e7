//! Finding the running gateway: its admin address and the credential.
//!
//! Reads only the keys it needs, so that `palisade reload` can still tell a running gateway about a configuration that is
//! wrong elsewhere.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;

use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::app;
use crate::config::{self, StoreUrl, error_lines};
use crate::edge::admin_client::AdminClient;
use crate::edge::own_secrets;
use palisade_core::ports::OwnSecret;

/// Holds the credential when it is not to be read where the gateway keeps it.
const CREDENTIAL_ENV: &str = "PALISADE_ADMIN_TOKEN";

/// Asks the gateway that `config` belongs to.
///
/// # Errors
/// What went wrong, with advice.
pub(super) fn ask<F: Future<Output = Result<String, String>>>(
    config: &Path,
    question: impl FnOnce(AdminClient) -> F,
) -> Result<String, String> {
    let address = address(config)?;
    let client = AdminClient::new(address, credential(config)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime could be started: {error}"))?;
    runtime.block_on(question(client))
}

/// Whether a process listens at the admin address of the gateway that `config` belongs to.
///
/// # Errors
/// The configuration does not say where that is.
pub(super) fn is_running(config: &Path) -> Result<bool, String> {
    Ok(AdminClient::is_listening(address(config)?))
}

/// The admin address.
fn address(config: &Path) -> Result<SocketAddr, String> {
    let shown = config.display();
    let text = std::fs::read_to_string(config)
        .map_err(|error| format!("{shown} cannot be read: {error}; name the configuration with --config"))?;
    let table: toml::Table = text.parse().map_err(|error| format!("{shown} is not TOML: {error}"))?;
    let admin = match table.get("server").and_then(|server| server.get("admin")) {
        None => "127.0.0.1:9180",
        Some(toml::Value::String(text)) => text,
        Some(_) => return Err(format!("{shown}: server.admin must be text, such as \"127.0.0.1:9180\"")),
    };
    admin.parse().map_err(|_| {
        format!("{shown}: server.admin is {admin:?}; it must be ADDRESS:PORT, such as 127.0.0.1:9180")
    })
}

/// The credential: from the environment, else from where the gateway keeps it.
fn credential(config: &Path) -> Result<SecretString, String> {
    if let Ok(credential) = std::env::var(CREDENTIAL_ENV)
        && !credential.trim().is_empty()
    {
        return Ok(credential.trim().into());
    }
    let (store, vault) = config::load_store(config).map_err(|errors| {
        format!(
            "{}\nWithout it the admin credential cannot be found; or set {CREDENTIAL_ENV}",
            error_lines(&errors)
        )
    })?;
    match &store {
        StoreUrl::Sled(folder) => in_folder(folder),
        StoreUrl::Postgres(settings) => {
            let secrets = app::database_secrets(settings, &vault)?;
            let found = own_secrets::find(&*secrets, OwnSecret::AdminCredential)
                .map_err(|why| format!("{why}; or set {CREDENTIAL_ENV}"))?;
            found.ok_or_else(|| {
                format!(
                    "there is no admin credential in {store}: it is made on the first start of a gateway; start one with \
                     `palisade run`, or set {CREDENTIAL_ENV}"
                )
            })
        }
    }
}

fn in_folder(data: &Path) -> Result<SecretString, String> {
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
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn what_is_asked_is_found_whatever_else_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, "nonsense = 1\n[mail]\npassword = \"env:NO_SUCH_VARIABLE\"\n").unwrap();
        assert_eq!(address(&file).unwrap(), "127.0.0.1:9180".parse().unwrap());
        assert!(credential(&file).unwrap_err().contains("data/admin.token is made"));
        let data = folder.path().join("p");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("admin.token"), "credential\n").unwrap();
        std::fs::write(&file, "server.admin = \"127.0.0.1:1\"\nstore.url = \"sled:p\"\n").unwrap();
        assert_eq!(address(&file).unwrap(), "127.0.0.1:1".parse().unwrap());
        assert_eq!(credential(&file).unwrap().expose_secret(), "credential");
        std::fs::write(&file, "server.admin = \"here\"\nstore.url = \"mysql://x\"\n").unwrap();
        assert!(address(&file).unwrap_err().contains("server.admin"));
        assert!(credential(&file).unwrap_err().contains("store.url"));
    }

    #[test]
    fn a_missing_credential_names_the_cure() {
        let folder = tempfile::tempdir().unwrap();
        assert!(in_folder(folder.path()).unwrap_err().contains("palisade run"));
    }
}
