//! Whether the files of the data folder are those that its store was last used with.
//!
//! A secret in a file of its own has no checksum: one damaged character makes another secret, with which the start
//! would succeed and sessions, links and tokens of providers would be lost one by one. So the store keeps a check
//! value of each, a MAC under the server key, which tells nothing about the secret without that key. Of a ring of server
//! keys it is under the first one, and each key of the ring has a check value of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::backend::Backend;
use super::credential;
use super::options::Accept;
use crate::edge::jwt::clocks;
use crate::edge::own_secrets::{self, file_name};
use palisade_core::ports::{OwnSecret, SecretStore};

/// What a check value is computed for, so that no other MAC under the server key is one.
const CONTEXT: &[u8] = b"palisade key check\0";
/// Characters of a check value, four bits each.
const CHARACTERS: usize = 32;

/// In place of a check value: the file was gone, and a start went on without it.
const GONE: &str = "";

/// What follows when a file is not the one that it was.
enum Changed {
    /// The start is refused, because this would be lost.
    Refused(&'static str),
    /// The operator is notified, and the file is used as it is now.
    Notice(&'static str),
}

/// The files that have no checksum of their own, the server key first: all check values are under it.
static SECRETS: [(OwnSecret, Changed); 4] = [
    (
        OwnSecret::ServerKey,
        Changed::Refused(
            "sessions, mailed links and consents under way are derived from it, and all of them would be refused",
        ),
    ),
    (
        OwnSecret::VaultKey,
        Changed::Refused("the tokens of providers are sealed with it, and none of them would open"),
    ),
    (
        OwnSecret::AdminCredential,
        Changed::Notice(
            "who operates this gateway needs the credential that is in it now; if you have not changed it, put the former one back",
        ),
    ),
    (OwnSecret::PluginCacheKey, Changed::Notice("the components of providers are compiled anew")),
];

/// What follows when one of these is gone. Those that carry a checksum are only known to have been there.
const PRESENT: [(&str, &str); 2] = [
    (
        clocks::FILE,
        "the clocks of other issuers are observed anew, and a cutoff that is made until then may miss tokens that such \
         a clock, ahead of ours, has signed",
    ),
    (file_name(OwnSecret::PluginCacheKey), "the components of providers are compiled anew"),
];

/// Whether the store was last used with this secret, by what it knows of them.
pub(super) fn was_there(known: &BTreeMap<String, String>, secret: OwnSecret) -> bool {
    known.get(file_name(secret)).is_some_and(|was| was != GONE)
}

/// Compares the files with what the store was last used with, before anything goes by them. Returns what the operator
/// should know.
///
/// # Errors
/// A file is another one, what would be lost, and what to do; as one printable text.
pub(super) fn admit(
    known: &BTreeMap<String, String>,
    secrets: &dyn SecretStore,
    data_dir: &Path,
    accept: Accept,
) -> Result<Vec<String>, String> {
    // Those that cannot be used first: no flag makes them usable.
    are_usable(secrets)?;
    let server_key = file_name(OwnSecret::ServerKey);
    let now = checks_as_known(known, secrets, data_dir);
    let mut notices = Vec::new();
    if was_there(known, OwnSecret::ServerKey) && matches!(secrets.read(OwnSecret::ServerKey), Ok(None)) {
        let all = SECRETS.iter().map(|(secret, _)| file_name(*secret)).filter(|file| *file != server_key);
        notices.push(format!(
            "without {server_key} nothing shows whether {} are the former ones: put the former ones back if they are not",
            all.collect::<Vec<_>>().join(", ")
        ));
    }
    for (secret, changed) in replaced(known, &now) {
        let place = secrets.place(secret);
        match changed {
            Changed::Notice(why) => notices.push(format!("{place} is not the one of the last start: {why}")),
            Changed::Refused(lost) if accept.new_keys => {
                notices.push(format!("{place} is another one, as accepted: {lost}"));
            }
            Changed::Refused(lost) => {
                return Err(format!(
                    "{place} is damaged, or another one than the store was written with: {lost}. Put the former one back \
                     from a backup of this folder. To go on with this one, and lose that: palisade run --accept-new-keys"
                ));
            }
        }
    }
    let gone = |(file, _): &&(&str, &str)| {
        known.get(*file).is_some_and(|was| was != GONE)
            && matches!(data_dir.join(file).try_exists(), Ok(false))
    };
    notices.extend(
        PRESENT
            .iter()
            .filter(gone)
            .map(|(file, why)| format!("{} is gone: {why}", data_dir.join(file).display())),
    );
    Ok(notices)
}

/// The check values of the secrets as they are now, as those of a former start can be compared with them.
fn checks_as_known(
    known: &BTreeMap<String, String>,
    secrets: &dyn SecretStore,
    data_dir: &Path,
) -> BTreeMap<String, String> {
    checks(secrets, data_dir, known.get(file_name(OwnSecret::ServerKey)).map_or("", String::as_str))
}

/// The secrets that are others now than those that a store was last used with.
fn replaced(
    known: &BTreeMap<String, String>,
    now: &BTreeMap<String, String>,
) -> Vec<(OwnSecret, &'static Changed)> {
    let mut found = Vec::new();
    for (secret, changed) in &SECRETS {
        let file = file_name(*secret);
        // A missing file is reported elsewhere, and a file that the store never knew cannot be compared.
        let (Some(was), Some(is)) = (known.get(file).filter(|was| *was != GONE), now.get(file)) else {
            continue;
        };
        let is_same = match secret {
            OwnSecret::ServerKey => continues(was, is),
            _ => was == is,
        };
        if is_same {
            continue;
        }
        found.push((*secret, changed));
        // Under another server key every check value differs.
        if *secret == OwnSecret::ServerKey {
            break;
        }
    }
    found
}

/// The secrets that are others than those that a store was last used with, with what is lost by that where a start is
/// refused for it.
pub(super) fn others(
    known: &BTreeMap<String, String>,
    secrets: &dyn SecretStore,
    data_dir: &Path,
) -> Vec<(OwnSecret, Option<&'static str>)> {
    let now = checks_as_known(known, secrets, data_dir);
    let lost = |changed: &Changed| match changed {
        Changed::Refused(lost) => Some(*lost),
        Changed::Notice(_) => None,
    };
    replaced(known, &now).into_iter().map(|(secret, changed)| (secret, lost(changed))).collect()
}

/// Whether every secret that is kept, in whatever place, is one.
///
/// # Errors
/// What is wrong with the first that is not, as one printable text.
pub(super) fn are_usable(secrets: &dyn SecretStore) -> Result<(), String> {
    own_secrets::check_server_keys(secrets)?;
    own_secrets::check_key(secrets, OwnSecret::PluginCacheKey)?;
    own_secrets::find(secrets, OwnSecret::VaultKey)?;
    if !credential::is_in_environment() {
        own_secrets::find(secrets, OwnSecret::AdminCredential)?;
    }
    Ok(())
}

/// Keeps what the files are known by, once the start has made those that were missing. Returns a notice when that
/// fails: a full disk is no reason not to start.
pub(super) async fn keep(store: &Backend, secrets: &dyn SecretStore, data_dir: &Path) -> Option<String> {
    // The files beside them are each replica's own.
    if secrets.is_shared() {
        return None;
    }
    // Under the key that signs from now on.
    let mut now = checks(secrets, data_dir, "");
    let known = store.key_checks().await.ok()?;
    let is_gone = |file: &&String| matches!(data_dir.join(file).try_exists(), Ok(false));
    now.extend(known.keys().filter(is_gone).map(|file| (file.clone(), GONE.to_owned())));
    now.retain(|file, check| known.get(file) != Some(check));
    if now.is_empty() {
        return None;
    }
    let error = store.put_key_checks(now).await.err()?;
    Some(format!(
        "a change of the secrets in {} will not be noticed at the next start: {error}",
        data_dir.display()
    ))
}

/// Whether the server keys of which `is` has the check values go on from those of which the store has `was`: the one that
/// signed is still there, and new ones stand in front only. A former one may be gone, which an operator decides. A damaged
/// one is a new one that stands elsewhere, or is gone from the front.
fn continues(was: &str, is: &str) -> bool {
    let known: Vec<&str> = was.split(' ').collect();
    let now: Vec<&str> = is.split(' ').collect();
    let kept = now.iter().skip_while(|check| !known.contains(check));
    now.iter().any(|check| known.first() == Some(check)) && kept.clone().all(|check| known.contains(check))
}

/// The check value of every file that can be read, by its name; none without the server key. That of the server key has
/// one for each key of the ring, in their order, under the key itself.
///
/// All others are under the first key that `ring`, the check values of a former start, begins with; under the one that
/// signs now where there is none such.
fn checks(secrets: &dyn SecretStore, data_dir: &Path, ring: &str) -> BTreeMap<String, String> {
    let read = |file: &str| fs::read(data_dir.join(file)).ok().map(Zeroizing::new);
    let kept = |secret: OwnSecret| secrets.read(secret).ok().flatten();
    let Some(server_key) = kept(OwnSecret::ServerKey) else { return BTreeMap::new() };
    let keys: Vec<&[u8]> = own_secrets::server_key_lines(&server_key).collect();
    let file = file_name(OwnSecret::ServerKey);
    let own: Vec<String> = keys.iter().filter_map(|key| check(key, file, key)).collect();
    let former = own.iter().position(|check| ring.split(' ').next() == Some(check));
    let Some(key) = keys.get(former.unwrap_or(0)) else { return BTreeMap::new() };
    let others = SECRETS.iter().filter(|(secret, _)| *secret != OwnSecret::ServerKey);
    let checked = others.filter_map(|(secret, _)| {
        let file = file_name(*secret);
        Some((file.to_owned(), check(key, file, kept(*secret)?.trim_ascii())?))
    });
    let present = PRESENT.iter().filter_map(|(file, _)| {
        read(file).and_then(|_| check(key, file, b"")).map(|check| ((*file).to_owned(), check))
    });
    std::iter::once((file.to_owned(), own.join(" "))).chain(present).chain(checked).collect()
}

/// The check value of a file under a server key.
fn check(key: &[u8], file: &str, content: &[u8]) -> Option<String> {
    let mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    let mac = mac.chain_update(CONTEXT).chain_update(file).chain_update([0]).chain_update(content);
    let mut text = hex::encode(mac.finalize().into_bytes());
    text.truncate(CHARACTERS);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::continues;

    #[test]
    fn a_ring_goes_on_while_the_key_that_signed_is_there_and_new_ones_stand_in_front() {
        for (was, is, goes_on) in [
            ("a", "a", true),
            ("a", "b a", true),
            ("a", "c b a", true),
            ("b a", "b", true),
            ("b a", "c b a", true),
            ("b a", "c b", true),
            ("b a", "a b", true),
            ("a", "b", false),
            ("a", "a b", false),
            ("b a", "a", false),
            ("b a", "b x", false),
            ("b a", "x a", false),
            ("b a", "c a", false),
            ("", "a", false),
        ] {
            assert_eq!(continues(was, is), goes_on, "{was} -> {is}");
        }
    }
}
