//! Restoring a backup into an empty store, and looking at one without a store.

use std::path::{Path, PathBuf};

use super::needed_keys::{self, ReadBackup};
use super::stores::{self, CountedRecords, OpenStore};
use super::{accounts, backup};
use crate::config::{Config, StoreUrl};
use crate::edge::backup::journal::{self, ReadJournal};
use crate::edge::backup::{
    BackupError, BackupFile, BackupReader, BackupRecords, CheckedBackup, InstallationKeys, SignedBy, reader,
};
use crate::edge::clock::SystemClock;
use crate::edge::data_dir;
use crate::edge::store::{Doubts, Kept};
use palisade_core::domain::ends::Ends;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Clock, ImportError, SecretStore};
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
    /// Whether it goes on without keys that the backup needs.
    pub(crate) accept_missing_keys: bool,
    /// Whether it goes on where `ends` holds no journal.
    pub(crate) accept_no_ends: bool,
}

/// What was read of journals of ends.
#[derive(Debug, Default)]
pub(crate) struct JournalReport {
    pub(crate) files: usize,
    pub(crate) ends: usize,
    /// The moments of the first end and the last one.
    pub(crate) span: Option<(UnixTime, UnixTime)>,
}

/// What a restore came to.
#[derive(Debug)]
pub(crate) struct RestoreReport {
    pub(crate) backup: CheckedBackup,
    pub(crate) counts: RestoreCounts,
    /// What the journals of ends were.
    pub(crate) journal: JournalReport,
    /// What the operator should know, one line each.
    pub(crate) notices: Vec<String>,
}

/// Reads a backup to its end: whether it is whole, and what is in it. Blocks. Needs no store.
///
/// # Errors
/// What is wrong with it, and where; as one printable text.
pub(crate) fn read(
    file: &Path,
    identity: Option<&Path>,
    told: &mut dyn FnMut(u64),
) -> Result<ReadBackup, String> {
    let opened = BackupFile::open(file, identity)?;
    let read = opened.once().and_then(|input| with_secrets(input, told));
    read.map_err(|error| format!("{}: {error}", file.display()))
}

fn with_secrets(
    input: Box<dyn std::io::Read + Send>,
    told: &mut dyn FnMut(u64),
) -> Result<ReadBackup, BackupError> {
    let (mut secrets, mut unknown) = (Vec::new(), Vec::new());
    let checked = reader::check(input, told, &mut |name, content| match needed_keys::named(&name) {
        Some(secret) => secrets.push((secret, content)),
        None => unknown.push(name),
    })?;
    Ok(ReadBackup { checked, secrets, unknown })
}

/// The keys that a restore of the backup would lack here, one line each, with what is lost without them. Of a database
/// nothing is told: it is not asked. Blocks.
///
/// # Errors
/// A secret cannot be read, or is damaged; as one printable text.
pub(crate) fn lacking(config: &Config, backup: &ReadBackup) -> Result<Option<Vec<String>>, String> {
    match config.store {
        StoreUrl::Postgres(_) => Ok(None),
        StoreUrl::Sled(_) => {
            needed_keys::look(config, &*stores::secrets(config)?, backup).map(|keys| Some(keys.lacking))
        }
    }
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
    let fault = |error: BackupError| format!("{}: {error}", wish.file.display());
    let file = BackupFile::open(&wish.file, wish.identity.as_deref())?;
    // The whole of it, before anything is believed or written: its signature is at its end.
    let input = file.from_start().map_err(fault)?;
    let read = with_secrets(input, &mut |records| told("checked", records)).map_err(fault)?;
    let checked = &read.checked;
    let keys = backup::installation(config, &*secrets);
    admit(checked, keys.as_ref(), wish)?;
    let installation = checked.header.installation.clone();
    let is_known = |public: &str| {
        public == installation || wish.accept_foreign || keys.as_ref().is_ok_and(|keys| keys.knows(public))
    };
    let journal = journal::read(&wish.ends, &is_known).map_err(|error| error.to_string())?;
    let mut notices = told_of_journal(&journal, wish, checked)?;
    let report = JournalReport {
        files: journal.files,
        ends: journal.ends.len(),
        span: journal.ends.first().zip(journal.ends.last()).map(|(first, last)| (first.at, last.at)),
    };
    let mut ends = Ends::default();
    journal.ends.into_iter().for_each(|end| ends.add(end.end));
    if checked.header.issuer != config.tokens.issuer {
        notices.push(format!(
            "the backup is of the issuer {}, and tokens.issuer is {}: revocations of the former issuer's tokens reach none of \
             the new one's",
            checked.header.issuer.escape_debug(),
            config.tokens.issuer
        ));
    }
    let cutoff = (!wish.without_cutoff).then(|| cutoff(config, checked));

    // Of a database the secrets are told once its tables are there: before anything of the backup is written, too.
    let is_folder = matches!(config.store, StoreUrl::Sled(_));
    if is_folder {
        notices.extend(admit_keys(config, &*secrets, &read, wish)?);
    }
    data_dir::make(data_dir)?;
    // One that was there before, with the keys put into it, may be open to other users.
    notices.extend(data_dir::tighten(data_dir)?);
    let mut admit = |kept: &Kept| match kept.is_populated {
        true => Err(ImportError::NotEmpty.to_string()),
        false => Ok(()),
    };
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let opened = runtime.block_on(OpenStore::open(config, Doubts::Refuse, &mut admit))?;
    if !is_folder {
        notices.extend(admit_keys(config, &*secrets, &read, wish)?);
    }
    let reader = file.from_start().and_then(BackupReader::begin);
    let mut source = reader.and_then(|reader| BackupRecords::of(reader, checked)).map_err(fault)?;
    notices.extend(put_secrets(&*secrets, &read)?);
    let restored = Restored::new(&mut source, ends, cutoff);
    let mut restored = CountedRecords { source: restored, what: "restored", told, records: 0 };
    let outcome = runtime.block_on(opened.store.import(&mut restored)).map_err(|error| error.to_string());
    let counts = restored.source.counts();
    drop(opened);
    if let Err(error) = outcome {
        let why = source.fault().map_or(error, ToString::to_string);
        return Err(format!("{}: {why}", wish.file.display()));
    }
    Ok(RestoreReport { backup: read.checked, counts, journal: report, notices })
}

/// What the operator should know of the journals.
///
/// # Errors
/// There are none where some were said to be.
fn told_of_journal(
    journal: &ReadJournal,
    wish: &RestoreWish,
    backup: &CheckedBackup,
) -> Result<Vec<String>, String> {
    let mut notices = Vec::new();
    for path in &journal.without {
        let path = path.display();
        if !wish.accept_no_ends {
            return Err(format!(
                "{path} holds no journal of ends, so that nothing of what has ended since the backup would stay ended. Is it the \
                 folder of backup.journal? One that has no end yet has no file. If that is so, say `--accept-no-ends`"
            ));
        }
        notices.push(format!("{path} holds no journal of ends, as accepted"));
    }
    for file in &journal.torn {
        notices.push(format!(
            "the last line of {} was cut off by a crash, and was never answered",
            file.display()
        ));
    }
    if journal.ends.last().is_some_and(|last| last.at.0 < backup.header.made_at) {
        notices.push(
            "the last end of the journal is older than the backup: if something has ended since, it is in another journal"
                .to_owned(),
        );
    }
    Ok(notices)
}

/// Refuses a restore that lacks keys, unless the operator goes on without. Returns what the operator should know.
fn admit_keys(
    config: &Config,
    secrets: &dyn SecretStore,
    backup: &ReadBackup,
    wish: &RestoreWish,
) -> Result<Vec<String>, String> {
    let keys = needed_keys::look(config, secrets, backup)?;
    if !keys.lacking.is_empty() && !wish.accept_missing_keys {
        return Err(format!(
            "{}: the backup needs keys that are neither in it nor beside the store:\n  {}\nNothing of it was written. Put them \
             back first, or restore a backup that is encrypted and holds them. To go on without them, and lose what is said \
             here: `--accept-missing-keys`",
            wish.file.display(),
            keys.lacking.join("\n  ")
        ));
    }
    let mut notices: Vec<String> = keys
        .lacking
        .iter()
        .map(|line| format!("restored without a key that is needed, as accepted: {line}"))
        .collect();
    if !keys.made_anew.is_empty() {
        notices.push(format!(
            "these are not there, and are made anew by the next start: {}",
            keys.made_anew.join(", ")
        ));
    }
    Ok(notices)
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
fn put_secrets(secrets: &dyn SecretStore, backup: &ReadBackup) -> Result<Vec<String>, String> {
    let unknown = backup.unknown.iter().map(|name| {
        format!("the backup holds a secret `{}` that this program does not know", name.escape_debug())
    });
    let mut notices: Vec<String> = unknown.collect();
    for (secret, content) in &backup.secrets {
        let kept = secrets.make(*secret, content).map_err(|error| format!("the secret in {error}"))?;
        if *kept.content != **content {
            notices.push(format!(
                "{} is there already, and is another one than that of the backup: it was left as it is",
                secrets.place(*secret)
            ));
        }
    }
    Ok(notices)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use zeroize::Zeroizing;

    use super::*;
    use crate::config;
    use crate::edge::backup::{BackupHeader, BackupWriter};
    use crate::edge::own_secrets::file_name;
    use palisade_core::ports::{OwnSecret, Record, Records};

    const ISSUER: &str = "https://id.test";

    /// A backup by the vault's key of these bytes, with this version of the tokens of a subject and this secret.
    fn backup(vault: u8, version: u64, secret: &[u8]) -> Vec<u8> {
        let keys = InstallationKeys::derive(&[Zeroizing::new([vault; 32])]).unwrap();
        let header = BackupHeader {
            id: String::new(),
            installation: String::new(),
            made_at: 1,
            store: "sled".to_owned(),
            program: "test".to_owned(),
            issuer: ISSUER.to_owned(),
            secrets_kept: Vec::new(),
        };
        let mut writer = BackupWriter::begin(Vec::new(), &keys, header).unwrap();
        writer.secret("plugins.key", secret).unwrap();
        let record = Record::TokenVersion { issuer: ISSUER.to_owned(), sub: Some("ann".to_owned()), version };
        writer.record(&record.into()).unwrap();
        writer.finish().unwrap().0
    }

    /// What is swapped in between the check and the import never gets into the store, nor its secrets beside it.
    #[test]
    fn a_file_that_is_replaced_is_not_read_and_one_that_is_changed_is_refused() {
        // By this installation, too: it may be an older one.
        for (is_replaced, vault) in [(true, 0), (true, 9), (false, 0), (false, 9)] {
            let folder = tempfile::tempdir().unwrap();
            let text = format!(
                "[tokens]\nissuer = \"{ISSUER}\"\naudience = \"api\"\n[vault]\nkeys = [\"env:KEY\"]\n"
            );
            let key = |_: &str| Some("A".repeat(43));
            let config = config::parse(&text, &folder.path().join("config.toml"), &key).unwrap();
            let file = folder.path().join("one.palisade");
            fs::write(&file, backup(0, 5, &[b'A'; 43])).unwrap();
            let wish = RestoreWish {
                file: file.clone(),
                without_cutoff: true,
                accept_missing_keys: true,
                ..RestoreWish::default()
            };
            let other = backup(vault, 6, &[b'E'; 43]);
            let mut swap = Some(|| match is_replaced {
                true => {
                    fs::write(folder.path().join("other"), &other).unwrap();
                    fs::rename(folder.path().join("other"), &file).unwrap();
                }
                false => fs::write(&file, &other).unwrap(),
            });
            let outcome = restore(&config, &wish, &mut |what, _| {
                if let Some(swap) = swap.take_if(|_| what == "checked") {
                    swap();
                }
            });
            let data = config.store.data_dir();
            let store = crate::edge::store::SledStore::open(data).unwrap();
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let records = runtime.block_on(store.records(None, 9)).unwrap().records;
            let secret = fs::read(data.join(file_name(OwnSecret::PluginCacheKey))).ok();
            match is_replaced {
                true => {
                    assert_eq!(outcome.unwrap().counts.restored, 1);
                    assert!(
                        matches!(&records[0].record, Record::TokenVersion { version: 5, .. }),
                        "{records:?}"
                    );
                    assert_eq!(secret, Some(vec![b'A'; 43]));
                }
                false => {
                    let why = outcome.unwrap_err();
                    assert!(why.contains("was changed while it was read"), "{why}");
                    assert_eq!((records, secret), (Vec::new(), None));
                }
            }
        }
    }

    #[test]
    fn a_pipe_cannot_be_read_twice_and_is_refused_before_it_is_read() {
        let (reader, _) = std::io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        let opened = BackupFile::open(Path::new(&path), None).unwrap();
        let why = opened.from_start().err().unwrap().to_string();
        assert!(why.contains("Put it into a file first"), "{why}");
    }
}
