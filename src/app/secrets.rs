//! The gateway's own secrets, in the data folder or in the database, looked at before a start goes by them.
//!
//! A secret that is missing beside a populated store is not made anew unless the operator says so: what was derived
//! from it or sealed with it would be lost, and the file may only be somewhere else. Nothing is written here.

use std::fmt::Write;

use super::options::Accept;
use super::{credential, key_checks};
use crate::config::{Config, StoreUrl};
use crate::edge::own_secrets::{FolderSecrets, file_name};
use crate::edge::store::{self, Kept};
use palisade_core::ports::{OwnSecret, SecretStore};

/// A secret that other data depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Secret {
    kept: OwnSecret,
    /// What is lost with it.
    lost: &'static str,
}

const VAULT: Secret = Secret {
    kept: OwnSecret::VaultKey,
    lost: "the tokens of providers are sealed with it: every connection has to be made anew by its user",
};
const OPAQUE: Secret = Secret {
    kept: OwnSecret::ServerKey,
    lost: "sessions, mailed links and consents under way are derived from it: every user has to sign in again",
};
const SIGNING: Secret = Secret {
    kept: OwnSecret::SigningKeys,
    lost: "access tokens are signed with it: those that were issued are refused, here and wherever its public keys \
           are still known, until they are refreshed or minted anew",
};

/// The secrets that this configuration and the store go by and that are not in the folder.
fn missing(config: &Config, secrets: &dyn SecretStore, store: &Kept) -> Vec<Secret> {
    let mut wanted = vec![OPAQUE];
    // With keys of its own the configuration does without the one in the folder, unless that was in use before: tokens
    // are sealed with it until they were sealed anew.
    if config.vault.keys.is_empty()
        || store.key_checks.as_ref().is_ok_and(|known| key_checks::was_there(known, OwnSecret::VaultKey))
    {
        wanted.push(VAULT);
    }
    if config.tokens.key.is_none() {
        wanted.push(SIGNING);
    }
    // A dangling link counts as missing; what cannot be looked at is reported by the code that reads it.
    wanted.retain(|secret| matches!(secrets.read(secret.kept), Ok(None)));
    wanted
}

fn listed(missing: &[Secret], secrets: &dyn SecretStore) -> String {
    missing.iter().fold(String::new(), |mut text, secret| {
        // The text can always grow.
        let _ = write!(text, "\n  {}", line(secret, secrets));
        text
    })
}

fn line(Secret { kept, lost }: &Secret, secrets: &dyn SecretStore) -> String {
    let name = if secrets.is_shared() { kept.name() } else { file_name(*kept) };
    format!("{name}: {lost}")
}

/// The secrets that a start over this store would be refused without, and what is lost without them: one line each.
pub(super) fn lacking(config: &Config, secrets: &dyn SecretStore, store: &Kept) -> Vec<String> {
    missing(config, secrets, store).iter().map(|secret| line(secret, secrets)).collect()
}

/// Whether a start may go on over this store. Returns what the operator should know.
///
/// # Errors
/// Which secrets are missing, what would be lost, and what to do, as one printable text.
pub(super) fn admit(
    config: &Config,
    secrets: &dyn SecretStore,
    store: &Kept,
    accept: Accept,
) -> Result<Vec<String>, String> {
    // Every start makes the store first, and then this one. What cannot be read is reported by the code that reads it.
    if store.is_new && matches!(secrets.read(OwnSecret::ServerKey), Ok(Some(_))) && !accept.store_as_it_is {
        return Err(without_store(config, secrets));
    }
    if !store.is_populated {
        return Ok(Vec::new());
    }
    let missing = missing(config, secrets, store);
    if !missing.is_empty() && !accept.new_keys {
        let (place, backup) = match &config.store {
            StoreUrl::Sled(folder) => (folder.display().to_string(), "a backup of this folder"),
            StoreUrl::Postgres(settings) => (format!("palisade.secrets of {}", settings.server), "a backup"),
        };
        return Err(format!(
            "secrets are missing from {place}, although its store holds records:{}\nPut them back from {backup}. To go \
             on with new ones, and lose what is said here: palisade run --accept-new-keys",
            listed(&missing, secrets)
        ));
    }
    let anew = |secret: &Secret| {
        let is_made = secret.kept != OwnSecret::VaultKey || config.vault.keys.is_empty();
        let becomes = if is_made { "is made anew" } else { "the start goes on without it" };
        format!("{} was missing and {becomes}, as accepted: {}", secrets.place(secret.kept), secret.lost)
    };
    let mut notices: Vec<String> = missing.iter().map(anew).collect();
    if credential::will_be_made(secrets) {
        notices.push(format!(
            "{} was missing and is made anew: who holds the former admin credential needs this one",
            secrets.place(OwnSecret::AdminCredential)
        ));
    }
    Ok(notices)
}

/// Why a start makes no store beside the server key of another one.
fn without_store(config: &Config, secrets: &dyn SecretStore) -> String {
    format!(
        "{} is there, and the store that was in {} is not: with it, accounts and revocations are gone, and revoked tokens \
         would be accepted again. Put the store back, or restore a backup into an empty directory. To begin with an empty \
         store all the same: `palisade run --accept-store-as-it-is`, and then `palisade token revoke --before now`",
        secrets.place(OwnSecret::ServerKey),
        config.store.data_dir().display()
    )
}

/// What `palisade check` can say without opening the store, which may be in use: the next start is refused when the
/// store that lies in the folder holds records.
pub(crate) fn check(config: &Config) -> Option<String> {
    // A database is not connected to.
    let StoreUrl::Sled(data_dir) = &config.store else { return None };
    let secrets = FolderSecrets::new(data_dir);
    if !store::is_there(data_dir) {
        let is_left = matches!(secrets.read(OwnSecret::ServerKey), Ok(Some(_)));
        return is_left
            .then(|| format!("{}: store.url: {}", config.path.display(), without_store(config, &secrets)));
    }
    let missing = missing(config, &secrets, &Kept::default());
    (!missing.is_empty()).then(|| {
        format!(
            "{}: store.url: there is a store in {}, but secrets are missing beside it:{}\nThe next start refuses to \
             make them anew once the store holds records. Put them back from a backup of this folder, or go on without \
             them with `palisade run --accept-new-keys`",
            config.path.display(),
            data_dir.display(),
            listed(&missing, &secrets)
        )
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config;

    const BARE: &str = "[tokens]\nissuer = \"http://i.test\"\naudience = \"api\"\n";
    const REFUSE: Accept = Accept { new_keys: false, store_as_it_is: false, closed_source: false };

    fn folder(text: &str) -> (Config, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let key = |_: &str| Some("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned());
        let config = config::parse(text, &folder.path().join("config.toml"), &key).unwrap();
        let data = config.store.data_dir().to_owned();
        fs::create_dir_all(&data).unwrap();
        let secrets = [VAULT, OPAQUE, SIGNING].map(|secret| file_name(secret.kept));
        for file in secrets.into_iter().chain(["db", "admin.token"]) {
            fs::write(data.join(file), "x").unwrap();
        }
        (config, folder)
    }

    fn admitted(config: &Config, accept: Accept) -> Result<Vec<String>, String> {
        let kept = Kept { is_populated: true, ..Kept::default() };
        admit(config, &FolderSecrets::new(config.store.data_dir()), &kept, accept)
    }

    #[test]
    fn each_secret_that_is_gone_stops_the_start_and_says_what_goes_with_it() {
        for secret in [VAULT, OPAQUE, SIGNING] {
            let (config, _folder) = folder(BARE);
            assert_eq!(admitted(&config, REFUSE), Ok(Vec::new()));
            assert_eq!(check(&config), None);
            fs::remove_file(config.store.data_dir().join(file_name(secret.kept))).unwrap();
            for said in [admitted(&config, REFUSE).unwrap_err(), check(&config).unwrap()] {
                assert!(said.contains(file_name(secret.kept)) && said.contains(secret.lost), "{said}");
                assert!(said.contains("--accept-new-keys") && said.lines().count() == 3, "{said}");
            }
            let notices = admitted(&config, Accept { new_keys: true, ..REFUSE }).unwrap();
            assert!(notices.len() == 1 && notices[0].contains(secret.lost), "{notices:?}");
            // A store that holds nothing has nothing to lose.
            let secrets = FolderSecrets::new(config.store.data_dir());
            assert_eq!(admit(&config, &secrets, &Kept::default(), REFUSE), Ok(Vec::new()));
            fs::remove_file(config.store.data_dir().join("db")).unwrap();
            let _ = fs::remove_file(config.store.data_dir().join(file_name(OwnSecret::ServerKey)));
            assert_eq!(check(&config), None, "nor has a folder without one");
        }
    }

    #[test]
    fn a_store_that_is_gone_beside_its_server_key_is_not_made_anew() {
        let (config, _folder) = folder(BARE);
        let data = config.store.data_dir();
        let secrets = FolderSecrets::new(data);
        let gone = Kept { is_new: true, ..Kept::default() };
        fs::remove_file(data.join("db")).unwrap();
        for said in [admit(&config, &secrets, &gone, REFUSE).unwrap_err(), check(&config).unwrap()] {
            assert!(said.contains("opaque.key") && said.contains("--accept-store-as-it-is"), "{said}");
        }
        let accept = Accept { store_as_it_is: true, ..REFUSE };
        assert_eq!(admit(&config, &secrets, &gone, accept), Ok(Vec::new()));
        fs::remove_file(data.join("opaque.key")).unwrap();
        assert_eq!(admit(&config, &secrets, &gone, REFUSE), Ok(Vec::new()));
    }

    #[test]
    fn all_that_are_gone_are_named_at_once() {
        let (config, _folder) = folder(BARE);
        for secret in [VAULT, OPAQUE, SIGNING] {
            fs::remove_file(config.store.data_dir().join(file_name(secret.kept))).unwrap();
        }
        let said = admitted(&config, REFUSE).unwrap_err();
        assert!([VAULT, OPAQUE, SIGNING].iter().all(|secret| said.contains(secret.lost)), "{said}");
    }

    #[test]
    fn what_the_configuration_holds_itself_is_not_missed() {
        let (config, _folder) = folder(
            "[tokens]\nissuer = \"http://i.test\"\naudience = \"api\"\nalgorithm = \"HS256\"\nkey = \"env:K\"\n\
             [vault]\nkeys = [\"env:K\"]\n",
        );
        for secret in [VAULT, SIGNING] {
            fs::remove_file(config.store.data_dir().join(file_name(secret.kept))).unwrap();
        }
        assert_eq!(admitted(&config, REFUSE), Ok(Vec::new()));
    }

    #[test]
    fn a_vault_key_that_the_store_knows_is_missed_whatever_is_configured() {
        let (config, _folder) =
            folder("[tokens]\nissuer = \"http://i.test\"\naudience = \"api\"\n[vault]\nkeys = [\"env:K\"]\n");
        let secrets = FolderSecrets::new(config.store.data_dir());
        let file = file_name(VAULT.kept);
        let known = |check: &str| Kept {
            is_populated: true,
            key_checks: Ok([(file.to_owned(), check.to_owned())].into()),
            ..Kept::default()
        };
        assert_eq!(admit(&config, &secrets, &known("0123"), REFUSE), Ok(Vec::new()));
        fs::remove_file(config.store.data_dir().join(file)).unwrap();
        let said = admit(&config, &secrets, &known("0123"), REFUSE).unwrap_err();
        assert!(said.contains(file) && said.contains(VAULT.lost), "{said}");
        let accept = Accept { new_keys: true, ..REFUSE };
        let notices = admit(&config, &secrets, &known("0123"), accept).unwrap();
        assert!(notices.len() == 1 && notices[0].contains("goes on without it"), "{notices:?}");
        // From then on the store knows that it is gone.
        assert_eq!(admit(&config, &secrets, &known(""), REFUSE), Ok(Vec::new()));
    }

    #[test]
    fn the_admin_credential_is_made_anew_and_told() {
        let (config, _folder) = folder(BARE);
        fs::remove_file(config.store.data_dir().join("admin.token")).unwrap();
        let notices = admitted(&config, REFUSE).unwrap();
        assert!(notices.len() == 1 && notices[0].contains("admin.token"), "{notices:?}");
    }
}
