//! Moving everything from one store into another one.
//!
//! The source is closed for writing first, durably: what it acknowledges is then in the other one, or stays its own. Each
//! step can be done again after a kill. At the end both are walked, and each record of the one must be in the other.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::backup::{SECRETS, kind};
use super::stores::{self, CountedRecords, OpenStore};
use crate::config::{Config, StoreUrl};
use crate::edge::data_dir;
use crate::edge::own_secrets::file_name;
use crate::edge::store::Doubts;
use palisade_core::domain::account::UserId;
use palisade_core::ports::{OwnSecret, Record, RecordKind, RecordsOf, SecretStore, Store, VersionedRecord};

/// What a migration came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MigrationReport {
    pub(crate) records: u64,
    /// How many of them were there from an earlier try.
    pub(crate) resumed: u64,
    pub(crate) kinds: BTreeMap<RecordKind, u64>,
    /// What the operator should know, one line each.
    pub(crate) notices: Vec<String>,
}

/// Moves everything from `from` to `to`, each with the configuration that serves it. Blocks, outside of tasks.
///
/// # Errors
/// As one printable text. The source stays closed, and the same call goes on.
pub(crate) fn migrate(
    from: &Config,
    to: &Config,
    told: &mut (dyn FnMut(&'static str, u64) + Send),
) -> Result<MigrationReport, String> {
    if !stores::may_be_there(from) {
        return Err(format!("there is no store at {}", from.store));
    }
    if is_one_store(from, to) {
        return Err(format!("{} and {} are one store: name another one to move to", from.store, to.store));
    }
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let source = runtime.block_on(OpenStore::open(from, Doubts::Refuse, &mut |_| Ok(())))?;
    runtime.block_on(async {
        let source = Arc::clone(&source.store);
        // A target that will not do is told before the source is closed: a wrong name stops no gateway.
        let goes_on = admit_source(&*source, from, to).await?;
        data_dir::make(to.store.data_dir())?;
        let target = OpenStore::open(to, Doubts::ResumeImport, &mut |_| Ok(())).await?;
        let store = Arc::clone(&target.store);
        admit_target(&*store, to, goes_on).await?;
        if !goes_on {
            source.set_closed(Some(under_way(to))).await.map_err(|error| error.to_string())?;
        }
        let moved = async {
            let resumed = fill(&*source, &*store, told).await?;
            let (records, kinds) = compare(&*source, &*store, told).await?;
            let notices = move_secrets(from, to).await?;
            // From here on the other one is the store. This one stays closed: served again, it would know nothing of what
            // came after.
            source.set_closed(Some(done(to))).await.map_err(|error| error.to_string())?;
            Ok::<_, String>(MigrationReport { records, resumed, kinds, notices })
        };
        moved.await.map_err(|error| {
            format!(
                "{error}\n{} stays closed for writing: run the same command again, or give it up by `palisade migrate --give-up` \
                 with its URL",
                from.store
            )
        })
    })
}

/// What a source is closed for until all of it is moved.
fn under_way(to: &Config) -> String {
    format!("its records are moved to {}", to.store)
}

/// What a source is closed for once all of it was moved, and how that begins.
fn done(to: &Config) -> String {
    format!("{DONE}{}", to.store)
}
const DONE: &str = "its records were moved to ";

/// Whether both are one data folder, by whatever names. Of databases their records tell.
fn is_one_store(from: &Config, to: &Config) -> bool {
    let folder = |config: &Config| match &config.store {
        StoreUrl::Sled(folder) => folder.canonicalize().ok(),
        StoreUrl::Postgres(_) => None,
    };
    folder(from).is_some_and(|source| folder(to) == Some(source))
}

/// Whether this source may be moved there, and whether that was begun before.
///
/// # Errors
/// It may not; as one printable text. Nothing was changed.
async fn admit_source(source: &dyn Store, from: &Config, to: &Config) -> Result<bool, String> {
    match source.closed_for().await.map_err(|error| error.to_string())? {
        Some(what) if what == under_way(to) => return Ok(true),
        Some(what) if what == done(to) => {
            return Err(format!(
                "{} is closed already: {what}, all of them. Set store.url to that one",
                from.store
            ));
        }
        Some(what) => {
            return Err(format!(
                "the source is closed already: {what}. Go on with that migration, or give it up first: `palisade migrate \
                 --give-up` with its URL"
            ));
        }
        None => {}
    }
    match is_empty(source).await? {
        true => Err(format!(
            "{} holds no records, and nothing was changed. Is it the store that is to be moved? It comes first, and behind it \
             the empty one",
            from.store
        )),
        false => Ok(false),
    }
}

/// Whether a migration may go there.
///
/// # Errors
/// It may not; as one printable text. Nothing was changed by this.
async fn admit_target(target: &dyn Store, to: &Config, goes_on: bool) -> Result<(), String> {
    if let Some(what) = target.closed_for().await.map_err(|error| error.to_string())? {
        return Err(format!(
            "{} is closed for writing ({what}), and holds what it held then: name an empty store",
            to.store
        ));
    }
    if goes_on {
        return Ok(());
    }
    let is_part = target.import_begun().await.map_err(|error| error.to_string())?.is_some();
    match is_part || !is_empty(target).await? {
        true => Err(format!(
            "{} is not empty: it holds records, or a part of a migration or a restore. Nothing was changed, and the source \
             takes writes as before. Name an empty store, or empty this one",
            to.store
        )),
        false => Ok(()),
    }
}

async fn is_empty(store: &dyn Store) -> Result<bool, String> {
    Ok(store.records(None, 1).await.map_err(|error| error.to_string())?.records.is_empty())
}

/// What became of a migration that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GivenUp {
    /// What the store was closed for.
    pub(crate) what: String,
    /// Whether all of it had been moved, so that the other one may be served by now.
    pub(crate) was_done: bool,
}

/// Lets the source of a migration take writes again. Blocks, outside of tasks.
///
/// # Errors
/// As one printable text; then nothing was changed. Among them: it is not closed, such as where the other store was named.
pub(crate) fn give_up(from: &Config) -> Result<GivenUp, String> {
    if !stores::may_be_there(from) {
        return Err(format!("there is no store at {}", from.store));
    }
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    // A part of an import opens, too, to be told from a source.
    let source = runtime.block_on(OpenStore::open(from, Doubts::ResumeImport, &mut |_| Ok(())))?;
    let store = Arc::clone(&source.store);
    runtime.block_on(async {
        let name_the_source = "Name the store that is moved, and not the one that its records go to";
        if store.import_begun().await.map_err(|error| error.to_string())?.is_some() {
            return Err(format!(
                "{} holds a part of what is moved or restored into it, and nothing was changed. {name_the_source}",
                from.store
            ));
        }
        let Some(what) = store.closed_for().await.map_err(|error| error.to_string())? else {
            return Err(format!("{} is not closed for writing, and nothing was changed. {name_the_source}", from.store));
        };
        store.set_closed(None).await.map_err(|error| error.to_string())?;
        Ok(GivenUp { was_done: what.starts_with(DONE), what })
    })
}

/// Copies what is not there yet. Returns how many records were there from an earlier try.
async fn fill(
    source: &dyn Store,
    target: &dyn Store,
    told: &mut (dyn FnMut(&'static str, u64) + Send),
) -> Result<u64, String> {
    let begun = target.import_begun().await.map_err(|error| error.to_string())?;
    let mut records = CountedRecords { source: RecordsOf::new(source), what: "copied", told, records: 0 };
    let outcome = match begun {
        Some(_) => target.resume_import(&mut records).await,
        // A try that was killed behind its last record: the comparison tells.
        None if !is_empty(target).await? => return Ok(0),
        None => target.import(&mut records).await,
    };
    outcome.map_err(|error| format!("the records could not be copied: {error}"))?;
    Ok(begun.unwrap_or(0))
}

/// What tells one record from every other: its kind, and a part of the hash of all that it says.
type Fingerprint = (RecordKind, [u8; 16]);

/// Every record of a store. Of each account, an event counts with its place among the others.
async fn fingerprints(
    store: &dyn Store,
    what: &'static str,
    told: &mut (dyn FnMut(&'static str, u64) + Send),
) -> Result<Vec<Fingerprint>, String> {
    let (mut found, mut events) = (Vec::new(), HashMap::<Option<UserId>, u64>::new());
    let mut failed = None;
    let mut each = |record: VersionedRecord| {
        let place = match &record.record {
            Record::Event(event) => {
                let place = events.entry(event.user).or_default();
                *place += 1;
                *place
            }
            _ => 0,
        };
        match serde_json::to_vec(&record) {
            Ok(line) => {
                let hash = Sha256::new().chain_update(place.to_be_bytes()).chain_update(line).finalize();
                let mut part = [0; 16];
                part.copy_from_slice(&hash[..16]);
                found.push((record.record.kind(), part));
                told(what, found.len() as u64);
            }
            Err(error) => failed = Some(error.to_string()),
        }
    };
    store.each_record(&mut each).await.map_err(|error| format!("the records cannot be compared: {error}"))?;
    if let Some(error) = failed {
        return Err(error);
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether each record of the one is in the other, and no more. Returns how many there are.
async fn compare(
    source: &dyn Store,
    target: &dyn Store,
    told: &mut (dyn FnMut(&'static str, u64) + Send),
) -> Result<(u64, BTreeMap<RecordKind, u64>), String> {
    let wanted = fingerprints(source, "read of the source", told).await?;
    let found = fingerprints(target, "read of the target", told).await?;
    let mut kinds = BTreeMap::new();
    wanted.iter().for_each(|(kind, _)| *kinds.entry(*kind).or_default() += 1);
    if wanted == found {
        return Ok((wanted.len() as u64, kinds));
    }
    let count = |of: &[Fingerprint], others: &[Fingerprint]| {
        let mut missing = BTreeMap::<RecordKind, u64>::new();
        let lacking = of.iter().filter(|record| others.binary_search(record).is_err());
        lacking.for_each(|(kind, _)| *missing.entry(*kind).or_default() += 1);
        missing.iter().map(|(kind, count)| format!("{count} {kind:?}")).collect::<Vec<_>>().join(", ")
    };
    Err(format!(
        "the stores differ. Only in the source: {}. Only in the target: {}. Empty the target first",
        or_none(count(&wanted, &found)),
        or_none(count(&found, &wanted))
    ))
}

fn or_none(text: String) -> String {
    if text.is_empty() { "nothing".to_owned() } else { text }
}

/// Puts the gateway's secrets beside the target, where they are not kept in the same place. Returns what the operator
/// should know.
async fn move_secrets(from: &Config, to: &Config) -> Result<Vec<String>, String> {
    let (source, target) = (stores::secrets(from)?, stores::secrets(to)?);
    let (from_kind, to_kind) = (kind(&from.store), kind(&to.store));
    let moved = tokio::task::spawn_blocking(move || moved_secrets(&*source, &*target));
    let mut notices = moved.await.map_err(|error| error.to_string())??;
    if from_kind == "sled" && to_kind == "postgres" {
        notices.push(format!(
            "tokens of providers stay sealed with the key in {}: list it in vault.keys of the new configuration, behind the key \
             that seals from now on, if it is not there",
            stores::secrets(from)?.place(OwnSecret::VaultKey)
        ));
    }
    Ok(notices)
}

fn moved_secrets(source: &dyn SecretStore, target: &dyn SecretStore) -> Result<Vec<String>, String> {
    let failed = |error: palisade_core::ports::SecretStoreError| format!("the secret in {error}");
    let mut notices = Vec::new();
    for secret in SECRETS {
        let Some(content) = source.read(secret).map_err(failed)? else { continue };
        let kept = target.make(secret, &content).map_err(failed)?;
        if *kept.content != *content {
            notices.push(format!(
                "{} is another one than `{}` of the source, and was left as it is",
                target.place(secret),
                file_name(secret)
            ));
        }
    }
    Ok(notices)
}
