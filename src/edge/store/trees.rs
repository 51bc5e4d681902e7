//! The layout inside sled, and each mutation as one transaction over it.
//!
//! Five trees: the revocations by key; two indexes over them, by expiry and by creation; the token
//! versions; and the sequence number of the last mutation, which rises in the same transaction. Only
//! the writer thread may call the mutations: they rely on nobody else writing.

use std::fs::{File, OpenOptions};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use ::sled::transaction::{
    ConflictableTransactionError, TransactionError, TransactionalTree, UnabortableTransactionError,
};
use ::sled::{Db, IVec, Transactional, Tree};

use super::EXPIRY_SLACK;
use super::files::{OpenError, Witness};
use super::record::{decode, encode, entry_key, time_key, untimed};
use crate::domain::revocation::{Kind, Revocation, Target};
use crate::domain::time::UnixTime;
use crate::ports::StoreError;

/// sled's page cache; its own default is a gigabyte.
const CACHE_BYTES: u64 = 64 << 20;
/// How long sled's threads may hold the file after its handle is gone.
const LET_GO: Duration = Duration::from_secs(5);
const SEQUENCE: &[u8] = b"sequence";
/// How many entries one sweeping transaction removes, so that revocations are not kept waiting.
pub(super) const SWEEP_STEP: usize = 256;

/// sled, open.
pub(super) struct Trees {
    pub(super) revocations: Tree,
    pub(super) expiries: Tree,
    pub(super) recent: Tree,
    pub(super) versions: Tree,
    meta: Tree,
    db: Db,
    /// Our own descriptor of the database file: `flush` alone does not sync what it wrote.
    file: File,
    witness: Witness,
}

/// The same trees inside a transaction, and how a mutation runs on them.
struct Tx<'a> {
    revocations: &'a TransactionalTree,
    expiries: &'a TransactionalTree,
    recent: &'a TransactionalTree,
    versions: &'a TransactionalTree,
}

type TxResult<T> = Result<T, ConflictableTransactionError<StoreError>>;

impl Trees {
    /// Opens the sled files in `dir` and holds them against the witness beside them.
    pub(super) fn open(dir: &Path) -> Result<Trees, OpenError> {
        Trees::open_at(dir, dir, true)
    }

    /// Opens the copy of a store in `copy` as if it were the one in `dir`, and lets it go again.
    pub(super) fn rehearse(dir: &Path, copy: &Path) -> Result<(), OpenError> {
        Trees::open_at(copy, dir, false).map(drop)
    }

    fn open_at(dir: &Path, witness_dir: &Path, flusher: bool) -> Result<Trees, OpenError> {
        let witness = Witness::open(witness_dir)?;
        let acknowledged = witness.read(witness_dir)?;
        if acknowledged > 0 && !dir.join("db").exists() {
            return Err(OpenError::corrupt(dir, "the file `db` is missing"));
        }
        // sled panics on some kinds of damage. Whatever it built is dropped with the panic.
        let opened = catch_unwind(AssertUnwindSafe(|| -> Result<_, ::sled::Error> {
            let db = open_db(dir, flusher)?;
            let tree = |name: &str| db.open_tree(name);
            let meta = tree("meta")?;
            let sequence = meta.get(SEQUENCE)?;
            Ok((
                tree("revocations")?,
                tree("expiries")?,
                tree("recent")?,
                tree("versions")?,
                meta,
                db.clone(),
                sequence,
            ))
        }));
        let (revocations, expiries, recent, versions, meta, db, sequence) = match opened {
            Ok(Ok(parts)) => parts,
            Ok(Err(::sled::Error::Io(source))) if !is_damage(&source) => {
                return Err(OpenError::Io { path: dir.join("db"), source });
            }
            Ok(Err(e)) => return Err(OpenError::corrupt(dir, e.to_string())),
            Err(_) => {
                return Err(OpenError::corrupt(dir, "the database files do not make sense to the engine"));
            }
        };
        let sequence = sequence_in(sequence).map_err(|e| OpenError::corrupt(dir, e.to_string()))?;
        if sequence < acknowledged {
            return Err(OpenError::corrupt(
                dir,
                format!("{acknowledged} changes were acknowledged and only {sequence} are left"),
            ));
        }
        let path = dir.join("db");
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(OpenError::io(path))?;
        Ok(Trees { revocations, expiries, recent, versions, meta, db, file, witness })
    }

    /// Makes everything applied so far durable, and notes it.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let failed = |e: &dyn std::fmt::Display| StoreError::Unavailable(e.to_string());
        self.db.flush().map_err(|e| failed(&e))?;
        self.file.sync_all().map_err(|e| failed(&e))?;
        let sequence = sequence_in(self.meta.get(SEQUENCE).map_err(unavailable)?)?;
        self.witness.note(sequence).map_err(|e| failed(&e))
    }

    /// Bytes of the database file.
    pub(super) fn bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |m| m.len())
    }

    /// Raises the sequence and nothing else: the write that shows the store works again.
    pub(super) fn touch(&self) -> Result<(), StoreError> {
        self.mutate(|_| Ok(()))
    }

    /// Records a revocation, merged with the entry that stands under its key.
    pub(super) fn revoke(&self, revocation: &Revocation) -> Result<Revocation, StoreError> {
        self.mutate(|tx| tx.put(revocation.clone()))
    }

    /// Raises the version of `sub` and revokes every token below it.
    pub(super) fn raise(
        &self,
        issuer: &str,
        sub: &str,
        times: (UnixTime, UnixTime),
        reason: Option<&str>,
    ) -> Result<Revocation, StoreError> {
        self.mutate(|tx| {
            let key = entry_key((Kind::SubjectVersion, issuer, sub));
            let version = match tx.versions.get(&key)? {
                Some(bytes) => decode::<u64>("a token version", &bytes).map_err(abort)?,
                None => 0,
            };
            // An operator may already have revoked further than the version ever rose; a token signed
            // with the new version must not be born revoked.
            let floor = tx.standing(&key)?.map_or(0, |r| r.target.limit());
            let version = version.saturating_add(1).max(floor);
            tx.versions.insert(key, encode(&version).map_err(abort)?)?;
            tx.put(Revocation {
                target: Target::SubjectVersion {
                    issuer: issuer.to_owned(),
                    sub: sub.to_owned(),
                    below: version,
                },
                created_at: times.0,
                expires_at: times.1,
                reason: reason.map(str::to_owned),
            })
        })
    }

    /// Removes at most [`SWEEP_STEP`] entries that ended well before `now`. How many it removed.
    pub(super) fn sweep_step(&self, now: UnixTime) -> Result<u64, StoreError> {
        let end = now.minus(EXPIRY_SLACK).0.to_be_bytes();
        let due: Vec<IVec> = self
            .expiries
            .range(..end)
            .keys()
            .take(SWEEP_STEP)
            .collect::<Result<_, _>>()
            .map_err(unavailable)?;
        if due.is_empty() {
            return Ok(0);
        }
        self.mutate(|tx| {
            for filed in &due {
                let key = untimed(filed).map_err(abort)?;
                if let Some(entry) = tx.standing(key)? {
                    tx.recent.remove(time_key(entry.created_at, key))?;
                    tx.revocations.remove(key)?;
                }
                tx.expiries.remove(filed)?;
            }
            Ok(due.len() as u64)
        })
    }

    fn mutate<T>(&self, change: impl Fn(&Tx<'_>) -> TxResult<T>) -> Result<T, StoreError> {
        let trees = (&self.revocations, &self.expiries, &self.recent, &self.versions, &self.meta);
        trees
            .transaction(|(revocations, expiries, recent, versions, meta)| {
                let done = change(&Tx { revocations, expiries, recent, versions })?;
                let sequence = sequence_in(meta.get(SEQUENCE)?).map_err(abort)?;
                meta.insert(SEQUENCE, &(sequence + 1).to_be_bytes())?;
                Ok(done)
            })
            .map_err(|e| match e {
                TransactionError::Abort(error) => error,
                TransactionError::Storage(error) => unavailable(error),
            })
    }
}

impl Tx<'_> {
    fn standing(&self, key: &[u8]) -> TxResult<Option<Revocation>> {
        let found: Result<_, UnabortableTransactionError> = self.revocations.get(key);
        found?.map(|bytes| decode("a revocation", &bytes)).transpose().map_err(abort)
    }

    fn put(&self, mut revocation: Revocation) -> TxResult<Revocation> {
        let key = entry_key(revocation.target.key());
        if let Some(old) = self.standing(&key)? {
            self.expiries.remove(time_key(old.expires_at, &key))?;
            self.recent.remove(time_key(old.created_at, &key))?;
            revocation = merged(old, revocation);
        }
        self.revocations.insert(key.as_slice(), encode(&revocation).map_err(abort)?)?;
        self.expiries.insert(time_key(revocation.expires_at, &key), &[])?;
        self.recent.insert(time_key(revocation.created_at, &key), &[])?;
        Ok(revocation)
    }
}

/// Two statements under one key: the larger limit, the later end, and the later word on why.
fn merged(old: Revocation, new: Revocation) -> Revocation {
    let limit = old.target.limit().max(new.target.limit());
    Revocation {
        target: new.target.with_limit(limit),
        expires_at: old.expires_at.max(new.expires_at),
        created_at: old.created_at.max(new.created_at),
        reason: new.reason.or(old.reason),
    }
}

/// sled's threads let go of the file a moment after its handle is dropped. Our own lock already says
/// that nobody else has it, so its lock is worth waiting for.
fn open_db(dir: &Path, flusher: bool) -> ::sled::Result<Db> {
    // sled's own thread frees segments, so the store needs it; on a copy it would only sync the whole
    // file to a disk that is about to lose it.
    let flush_every = flusher.then_some(500);
    let begun = Instant::now();
    loop {
        match ::sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(flush_every).open() {
            Err(::sled::Error::Io(e))
                if e.to_string().contains("could not acquire lock") && begun.elapsed() < LET_GO =>
            {
                #[allow(
                    clippy::disallowed_methods,
                    reason = "on the writer's own thread, never a worker of the runtime"
                )]
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

/// sled reports some kinds of damage as an I/O error that no system call made.
fn is_damage(error: &std::io::Error) -> bool {
    error.raw_os_error().is_none() && !error.to_string().contains("could not acquire lock")
}

fn sequence_in(bytes: Option<IVec>) -> Result<u64, StoreError> {
    match bytes {
        None => Ok(0),
        Some(bytes) => bytes
            .as_ref()
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| StoreError::Unreadable("the sequence number is not eight bytes long".into())),
    }
}

fn abort(error: StoreError) -> ConflictableTransactionError<StoreError> {
    ConflictableTransactionError::Abort(error)
}

/// What sled said, in the store's words.
pub(super) fn unavailable(error: ::sled::Error) -> StoreError {
    match error {
        ::sled::Error::Corruption { .. } => {
            StoreError::Unreadable(format!("{error}; restore the data directory from a backup"))
        }
        other => StoreError::Unavailable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_an_unknown_version_stops_the_change_that_meets_it() {
        let dir = tempfile::tempdir().unwrap();
        let trees = Trees::open(dir.path()).unwrap();
        let revocation = Revocation {
            target: Target::Token { issuer: "i".into(), jti: "t".into() },
            expires_at: UnixTime(10),
            created_at: UnixTime(1),
            reason: None,
        };
        trees.revocations.insert(entry_key(revocation.target.key()), b"\x09{}").unwrap();
        let error = trees.revoke(&revocation).unwrap_err();
        assert!(matches!(&error, StoreError::Unreadable(why) if why.contains("version 9")), "{error}");
    }
}
