//! Restoring a backup into an empty store, and looking at one without a store.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::stores::{self, OpenStore};
use super::{accounts, backup};
use crate::config::Config;
use crate::edge::backup::reader::{self, Chunk};
use crate::edge::backup::{
    BackupReader, BackupRecords, CheckedBackup, InstallationKeys, SignedBy, journal, sealed,
};
use crate::edge::clock::SystemClock;
use crate::edge::data_dir;
use crate::edge::own_secrets::file_name;
use crate::edge::store::{Doubts, Kept};
use palisade_core::domain::ends::Ends;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Clock, ImportError, RecordSource, SecretStore, StoreError, VersionedRecord};
use palisade_core::service::restore::{Cutoff, RestoreCounts, Restored};

/// What a restore is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct RestoreWish {
    pub(crate) file: PathBuf,
    /// The file of a private key of `age`.
    pub(crate) identity: Option<PathBuf>,
    /// Files of the journal of ends, and folders of them.
    pub(crate) ends: Vec<PathBuf>,
    /// Whether what could come back to life is left alive.
    pub(crate) without_cutoff: bool,
    /// Whether a backup that another installation has signed is taken.
    pub(crate) accept_foreign: bool,
    /// The public key of the installation that is believed beside this one.
    pub(crate) signed_by: Option<String>,
}

/// What a restore came to.
#[derive(Debug)]
pub(crate) struct RestoreReport {
    pub(crate) backup: CheckedBackup,
    pub(crate) counts: RestoreCounts,
    pub(crate) ends: usize,
    /// What the operator should know, one line each.
    pub(crate) notices: Vec<String>,
}

/// Reads a backup to its end: whether it is whole, and what is in it. Blocks. Needs no store.
///
/// # Errors
/// What is wrong with it, and where; as one printable text.
pub(crate) fn check(
    file: &Path,
    identity: Option<&Path>,
    told: &mut dyn FnMut(u64),
) -> Result<CheckedBackup, String> {
    let fault = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    reader::check(open(file, identity)?, told).map_err(|error| fault(&error))
}

fn open(file: &Path, identity: Option<&Path>) -> Result<Box<dyn std::io::Read + Send>, String> {
    let keys = match identity {
        None => Vec::new(),
        Some(path) => {
            let text = std::fs::read_to_string(path).map(zeroize::Zeroizing::new);
            let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
            sealed::identities(&text).map_err(|error| format!("{}: {error}", path.display()))?
        }
    };
    let input = File::open(file).map_err(|error| format!("{}: {error}", file.display()))?;
    sealed::open(input, &keys).map_err(|error| format!("{}: {error}", file.display()))
}

/// Which installation has signed it, as the configuration tells; `None`: this one has no key yet.
pub(crate) fn signer(config: &Config, backup: &CheckedBackup) -> Option<SignedBy> {
    let secrets = stores::secrets(config).ok()?;
    backup::installation(config, &*secrets).ok().map(|keys| backup.signer(&keys))
}

/// Restores a backup into the empty store of `config`. Blocks, outside of tasks.
///
/// # Errors
/// As one printable text. Then the store is as empty as it was, or holds a part and serves nothing.
pub(crate) fn restore(
    config: &Config,
    wish: &RestoreWish,
    told: &mut (dyn FnMut(&'static str, u64) + Send),
) -> Result<RestoreReport, String> {
    let data_dir = config.store.data_dir();
    let secrets = stores::secrets(config)?;
    // The whole of it, before anything is believed or written: its signature is at its end.
    let checked = check(&wish.file, wish.identity.as_deref(), &mut |records| told("checked", records))?;
    let keys = backup::installation(config, &*secrets);
    admit(&checked, keys.as_ref(), wish)?;
    let installation = checked.header.installation.clone();
    let is_known = |public: &str| {
        public == installation || wish.accept_foreign || keys.as_ref().is_ok_and(|keys| keys.knows(public))
    };
    let journal = journal::read(&wish.ends, &is_known).map_err(|error| error.to_string())?;
    let mut ends = Ends::default();
    let count = journal.ends.len();
    journal.ends.into_iter().for_each(|end| ends.add(end.end));
    let mut notices: Vec<String> = Vec::new();
    for file in &journal.torn {
        notices.push(format!(
            "the last line of {} was cut off by a crash, and was never answered",
            file.display()
        ));
    }
    if checked.header.issuer != config.tokens.issuer {
        notices.push(format!(
            "the backup is of the issuer {}, and tokens.issuer is {}: revocations of the former issuer's tokens reach none of \
             the new one's",
            checked.header.issuer, config.tokens.issuer
        ));
    }
    let cutoff = (!wish.without_cutoff).then(|| cutoff(config, &checked));

    data_dir::make(data_dir)?;
    let mut admit = |kept: &Kept| match kept.is_populated {
        true => Err(ImportError::NotEmpty.to_string()),
        false => Ok(()),
    };
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let opened = runtime.block_on(OpenStore::open(config, Doubts::Refuse, &mut admit))?;
    notices.extend(put_secrets(wish, &*secrets, &checked)?);
    let input = open(&wish.file, wish.identity.as_deref())?;
    let source = BackupReader::begin(input).map_err(|error| format!("{}: {error}", wish.file.display()))?;
    let mut source = BackupRecords::new(source);
    let mut restored = Restored::new(&mut source, ends, cutoff);
    let store = Arc::clone(&opened.store);
    let outcome = runtime.block_on(async {
        let mut told = Told { source: &mut restored, told, records: 0 };
        store.import(&mut told).await.map_err(|error| error.to_string())
    });
    let counts = restored.counts();
    drop(opened);
    outcome.map_err(|error| format!("{}: {error}", wish.file.display()))?;
    Ok(RestoreReport { backup: checked, counts, ends: count, notices })
}

/// A source whose pages are told of.
struct Told<'a, 'r, 't> {
    source: &'a mut Restored<'r>,
    told: &'t mut (dyn FnMut(&'static str, u64) + Send),
    records: u64,
}

#[async_trait]
impl RecordSource for Told<'_, '_, '_> {
    async fn next_page(&mut self) -> Result<Vec<VersionedRecord>, StoreError> {
        let page = self.source.next_page().await?;
        self.records += page.len() as u64;
        (self.told)("restored", self.records);
        Ok(page)
    }
}

/// Refuses a backup of another installation, unless the operator takes it.
fn admit(
    backup: &CheckedBackup,
    keys: Result<&InstallationKeys, &String>,
    wish: &RestoreWish,
) -> Result<(), String> {
    let public = &backup.header.installation;
    let is_own = keys.is_ok_and(|keys| backup.signer(keys) == SignedBy::Own);
    if is_own || wish.accept_foreign || wish.signed_by.as_ref() == Some(public) {
        return Ok(());
    }
    let have = match keys {
        Ok(keys) => format!("this installation is {}", keys.public()),
        Err(why) => format!("this installation has no key to compare it with: {why}"),
    };
    Err(format!(
        "{}: the backup is whole, and the installation {public} has signed it; {have}. A backup from elsewhere can hold any \
         account and any right. If you know that key, say so with `--signed-by {public}`; if the vault key is in a file, put \
         it back first. To take the backup from any installation: `--accept-foreign`",
        wish.file.display()
    ))
}

fn cutoff(config: &Config, backup: &CheckedBackup) -> Cutoff {
    let now = SystemClock.now();
    let jwts = config.issuers.iter().flat_map(|issuer| issuer.names.clone());
    let asked = config.introspected.iter().map(|issuer| issuer.issuer.clone());
    let mut others: Vec<String> = jwts.chain(asked).collect();
    others.sort();
    others.dedup();
    Cutoff {
        issuer: config.tokens.issuer.clone(),
        others,
        horizon: now.max(backup.highest.unwrap_or(UnixTime(0))),
        now,
        lives: accounts::lives(config),
    }
}

/// Keeps the gateway's secrets of the backup where none is kept. Returns what the operator should know.
fn put_secrets(
    wish: &RestoreWish,
    secrets: &dyn SecretStore,
    backup: &CheckedBackup,
) -> Result<Vec<String>, String> {
    let mut notices = Vec::new();
    let input = open(&wish.file, wish.identity.as_deref())?;
    let mut reader = BackupReader::begin(input).map_err(|error| error.to_string())?;
    // They come before the first record.
    while let Some(Chunk::Secret(name, content)) = reader.next_chunk().map_err(|error| error.to_string())? {
        let Some(secret) = backup::SECRETS.into_iter().find(|secret| file_name(*secret) == name) else {
            notices.push(format!("the backup holds a secret `{name}` that this program does not know"));
            continue;
        };
        let kept = secrets.make(secret, &content).map_err(|error| format!("the secret in {error}"))?;
        if *kept.content != *content {
            notices.push(format!(
                "{} is there already, and is another one than that of the backup: it was left as it is",
                secrets.place(secret)
            ));
        }
    }
    let missing: Vec<&str> = backup
        .needed
        .iter()
        .map(String::as_str)
        .filter(|name| {
            let secret = backup::SECRETS.into_iter().find(|secret| file_name(*secret) == *name);
            secret.is_some_and(|secret| matches!(secrets.read(secret), Ok(None)))
        })
        .collect();
    if !missing.is_empty() {
        notices.push(format!(
            "the backup holds no secrets of the gateway, and these are missing beside the store: {}. Put them back before the \
             next start; without them it is refused and says what that loses",
            missing.join(", ")
        ));
    }
    Ok(notices)
}
