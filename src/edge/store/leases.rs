//! The leases of a store that one process has to itself: kept in its memory, because the end of the process ends what it
//! was doing, and counted so that no fencing number ever comes again.
//!
//! The upper bits of a fencing number are the run of the store, counted on disk. The first claim of a run writes it, and
//! no later one costs a write.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::draft::Draft;
use super::keys;
use super::observed::ObservedStore;
use super::record::decode;
use super::sled::SledStore;
use super::writer::Command;
use palisade_core::domain::lease::{Lease, LeaseHolder, LeaseSubject, LeaseTable};
use palisade_core::ports::{CommitError, LeaseStore, StoreError};

/// How many bits of a fencing number count the leases of one run.
const COUNT_BITS: u32 = 40;

/// The time since some fixed moment, by a clock that never goes back.
pub type LeaseClock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// What is asked of the leases.
#[derive(Debug, Clone, Copy)]
pub(super) enum LeaseCommand {
    Claim(LeaseSubject, LeaseHolder, Duration),
    Release(Lease),
}

/// The leases of an open store. Only the writer thread asks them, in turn with the commits, so a lease that is granted
/// comes after every commit that was decided before.
pub(super) struct RunLeases {
    /// `None` until the number of this run is on its way to the disk.
    table: Mutex<Option<LeaseTable>>,
    clock: Mutex<LeaseClock>,
}

impl Default for RunLeases {
    fn default() -> RunLeases {
        let opened = Instant::now();
        RunLeases { table: Mutex::default(), clock: Mutex::new(Arc::new(move || opened.elapsed())) }
    }
}

impl RunLeases {
    /// Decides a claim or a release. Returns whether the answer rests on the number of the run that this batch writes:
    /// when the batch fails, [`RunLeases::forget`] is to be called.
    pub(super) fn decide(
        &self,
        draft: &mut Draft<'_>,
        command: LeaseCommand,
    ) -> Result<(Option<Lease>, bool), StoreError> {
        let mut table = self.table();
        let is_first = table.is_none() && matches!(command, LeaseCommand::Claim(..));
        if is_first {
            let key = keys::lease_run();
            let last: u64 = draft.get(&key)?.map_or(Ok(0), |bytes| decode(&key, &bytes))?;
            let run = last + 1;
            draft.step(|draft| draft.write(key, &run))?;
            *table = Some(LeaseTable::above(run << COUNT_BITS));
        }
        Ok((self.answer(table.as_mut(), command), is_first))
    }

    /// The answer while the disk takes no writes: leases are in memory, so work that is under way can go on. `None`: it
    /// would need a write.
    pub(super) fn decide_in_memory(&self, command: LeaseCommand) -> Option<Option<Lease>> {
        let mut table = self.table();
        table.is_some().then(|| self.answer(table.as_mut(), command))
    }

    fn answer(&self, table: Option<&mut LeaseTable>, command: LeaseCommand) -> Option<Lease> {
        let table = table?;
        match command {
            LeaseCommand::Claim(subject, holder, term) => table.claim(subject, holder, term, self.now()),
            LeaseCommand::Release(lease) => {
                table.release(&lease);
                None
            }
        }
    }

    /// The number of this run may not be on disk: no lease was granted by it, and the next claim writes another.
    pub(super) fn forget(&self) {
        *self.table() = None;
    }

    /// Whether `lease` stands ([`LeaseTable::stands`]).
    pub(super) fn stands(&self, lease: &Lease) -> bool {
        self.table().as_ref().is_some_and(|table| table.stands(lease))
    }

    fn now(&self) -> Duration {
        let clock = Arc::clone(&self.clock.lock().unwrap_or_else(PoisonError::into_inner));
        clock()
    }

    fn table(&self) -> MutexGuard<'_, Option<LeaseTable>> {
        // No change of a table can stop half-way.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SledStore {
    /// Measures the terms of leases by another clock from now on. For tests.
    pub fn set_lease_clock(&self, clock: LeaseClock) {
        *self.shared.leases.clock.lock().unwrap_or_else(PoisonError::into_inner) = clock;
    }

    async fn ask_leases(&self, command: LeaseCommand) -> Result<Option<Lease>, StoreError> {
        self.ask(|reply| Command::Lease(command, reply)).await.map_err(CommitError::of_the_store)
    }
}

#[async_trait]
impl LeaseStore for SledStore {
    async fn claim(
        &self,
        subject: LeaseSubject,
        holder: LeaseHolder,
        term: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        self.ask_leases(LeaseCommand::Claim(subject, holder, term)).await
    }

    async fn release(&self, lease: Lease) -> Result<(), StoreError> {
        self.ask_leases(LeaseCommand::Release(lease)).await.map(drop)
    }
}

#[async_trait]
impl LeaseStore for ObservedStore {
    async fn claim(
        &self,
        subject: LeaseSubject,
        holder: LeaseHolder,
        term: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        self.observed("claim", self.store.claim(subject, holder, term)).await
    }

    async fn release(&self, lease: Lease) -> Result<(), StoreError> {
        self.observed("release", self.store.release(lease)).await
    }
}
