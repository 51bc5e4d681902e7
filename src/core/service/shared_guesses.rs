//! Wrong passwords, counted for all gateways over one store: an attacker that spreads guesses over replicas gets no more of
//! them than over one. The delays are those of [`crate::domain::guesses`]; a store that one process has to itself leaves
//! the counting to its limiter.
//!
//! An attempt is written before its password is looked at, not after it has failed: otherwise each replica would let one
//! through at the same moment. A right password removes it. What is written names neither the account nor the address,
//! and whether there is such an account makes no difference (enumeration).

use std::time::Duration;

use super::accounts::{AccountError, Accounts};
use super::caller::Client;
use crate::domain::block::AddressBlock;
use crate::domain::guesses::{FORGOTTEN, Guesses, Pressure, SIEGE_FORGOTTEN, Tries};
use crate::domain::opaque::ServerKey;
use crate::ports::{Limited, Note, NoteKey, NoteKind, NotePut, NotesRead, SharedNotes, StoreError, TooMany};

/// How often a count is written anew that others have changed meanwhile. More come at the same moment only from one block
/// that guesses at one account.
const MAX_ATTEMPTS: usize = 16;
/// How long such a block is told to wait.
const COLLIDED: TooMany = TooMany { retry_after: Duration::from_secs(1) };
/// A note outlives what it says by so much.
const SLACK: Duration = Duration::from_secs(60);

/// Where the guesses under one name are counted.
#[derive(Debug, Clone, Copy)]
struct Counters {
    tries: NoteKey,
    pressure: NoteKey,
}

impl Counters {
    fn of(key: &ServerKey, what: Limited, block: AddressBlock, name: &str) -> Counters {
        let purpose = match what {
            Limited::ConfirmPassword => "guesses at a present password",
            _ => "guesses at a password",
        };
        let hash = |block| key.hash_of_guesses(purpose, block, name);
        Counters {
            tries: NoteKey { kind: NoteKind::Tries, hash: hash(Some(block)) },
            pressure: NoteKey { kind: NoteKind::Pressure, hash: hash(None) },
        }
    }
}

/// An attempt that has begun.
#[derive(Debug, Default)]
pub(super) struct BegunGuess {
    /// Where it is counted; nowhere when the limiter of the process does that.
    counted: Vec<Counters>,
    /// Under the account it has to wait, whatever it was called: it counts as wrong, and the client must not be told.
    pub(super) is_too_early: bool,
}

/// What becomes of an attempt under one name.
enum Begun {
    /// It may go on once this is written.
    Counted(NotePut),
    Refused(TooMany, Option<NotePut>),
}

/// What the notes of one name say of an attempt at `now`.
fn begin(
    counters: &Counters,
    [tries, pressure]: [Option<&Note>; 2],
    (rules, is_known): (&Guesses, bool),
    now: Duration,
) -> Begun {
    let kept: Tries = read(tries);
    let siege = if is_known { Duration::ZERO } else { read::<Pressure>(pressure).wait(now) };
    let mut next = kept;
    let begun = next.begin(rules, siege, now);
    let put = || put(counters.tries, tries, &next, FORGOTTEN);
    match begun {
        Ok(()) => Begun::Counted(put()),
        Err(left) => {
            let wait = Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0));
            Begun::Refused(TooMany { retry_after: wait }, (next != kept).then(put))
        }
    }
}

/// What another program wrote in another form counts as nothing.
fn read<T: Default + serde::de::DeserializeOwned>(note: Option<&Note>) -> T {
    note.and_then(|note| serde_json::from_slice(&note.body).ok()).unwrap_or_default()
}

fn put<T: serde::Serialize>(key: NoteKey, before: Option<&Note>, what: &T, life: Duration) -> NotePut {
    let body = serde_json::to_vec(what).unwrap_or_default();
    NotePut { key, before: before.map(|note| note.revision), body, life: life + SLACK }
}

impl Accounts {
    /// Begins an attempt at a password under `name`, and under `account` as well where the account goes by two names. Two
    /// names are not twice the guesses. `is_known`: the account was signed in to from this block before.
    ///
    /// # Errors
    /// [`AccountError::TooMany`] under `name`; [`AccountError::Store`]: nothing may be tried while guesses cannot be
    /// counted.
    pub(super) async fn begin_guess(
        &self,
        what: Limited,
        client: &Client,
        (name, account): (&str, Option<&str>),
        is_known: bool,
    ) -> Result<BegunGuess, AccountError> {
        let (Some(notes), Some(rules)) = (self.store.shared_notes(), self.settings.guesses) else {
            return Ok(BegunGuess::default());
        };
        let block = AddressBlock::of(client.address);
        let counters = |name| Counters::of(&self.key, what, block, name);
        let (first, second) = (counters(name), account.map(counters));
        // Read in any case: an account with two names takes no longer than one with one, or none (enumeration).
        let other = second.unwrap_or_else(|| counters(""));
        let keys = [first.tries, first.pressure, other.tries, other.pressure];
        let mut guess = BegunGuess::default();
        let mut left = [Some(first), second];
        let refused = |refused: TooMany, name: &str| {
            self.limiter.refused_elsewhere(what, client.address, name, refused);
            refused
        };
        for _ in 0..MAX_ATTEMPTS {
            let NotesRead { now, notes: found } = notes.notes(&keys).await?;
            let (mut puts, mut places) = (Vec::new(), Vec::new());
            for (place, still_left) in left.iter_mut().enumerate() {
                let Some(counters) = still_left else { continue };
                let of = |n: usize| found.get(2 * place + n).and_then(Option::as_ref);
                match begin(counters, [of(0), of(1)], (&rules, is_known), now) {
                    Begun::Counted(put) => {
                        puts.push(put);
                        places.push(Some(place));
                    }
                    Begun::Refused(too_many, contact) if place == 0 => {
                        notes.put_notes(contact.into_iter().collect()).await?;
                        return Err(refused(too_many, name).into());
                    }
                    Begun::Refused(too_many, contact) => {
                        refused(too_many, account.unwrap_or_default());
                        guess.is_too_early = true;
                        *still_left = None;
                        places.extend(contact.iter().map(|_| None));
                        puts.extend(contact);
                    }
                }
            }
            let written = notes.put_notes(puts).await?;
            for place in
                places.iter().zip(written).filter_map(|(place, is_written)| place.filter(|_| is_written))
            {
                guess.counted.extend(left[place].take());
            }
            if left.iter().all(Option::is_none) {
                return Ok(guess);
            }
        }
        match left[0] {
            Some(_) => Err(refused(COLLIDED, name).into()),
            None => Ok(BegunGuess { is_too_early: true, ..guess }),
        }
    }

    /// The attempt was not carried out: it is as if it had not been made.
    pub(super) async fn take_guess_back(&self, guess: &BegunGuess) {
        let tries = guess.counted.iter().map(|counters| counters.tries).collect();
        self.change_counts(tries, FORGOTTEN, |tries: &mut Tries, _| tries.take_back()).await;
    }

    /// The password was wrong: the account comes under siege by many of these.
    pub(super) async fn guess_failed(&self, guess: &BegunGuess) {
        let pressures = guess.counted.iter().map(|counters| counters.pressure).collect();
        self.change_counts(pressures, SIEGE_FORGOTTEN, |pressure: &mut Pressure, now| pressure.add(now))
            .await;
    }

    /// The password was right: the delays for this block are over.
    pub(super) async fn guess_succeeded(&self, guess: &BegunGuess) {
        let (Some(notes), false) = (self.store.shared_notes(), guess.counted.is_empty()) else { return };
        let tries: Vec<_> = guess.counted.iter().map(|counters| counters.tries).collect();
        if let Err(error) = notes.remove_notes(&tries).await {
            tracing::debug!(%error, "the attempts before a right password are not forgotten");
        }
    }

    /// Writes counts anew. One that cannot be written stays as it is: the attempt itself was counted at its beginning.
    async fn change_counts<T>(
        &self,
        keys: Vec<NoteKey>,
        life: Duration,
        change: impl Fn(&mut T, Duration) + Send + Sync,
    ) where
        T: Default + Send + serde::Serialize + serde::de::DeserializeOwned,
    {
        let (Some(notes), false) = (self.store.shared_notes(), keys.is_empty()) else { return };
        if let Err(error) = change_all(notes, keys, life, change).await {
            tracing::debug!(%error, "a count of guesses was not written");
        }
    }
}

async fn change_all<T>(
    notes: &dyn SharedNotes,
    mut keys: Vec<NoteKey>,
    life: Duration,
    change: impl Fn(&mut T, Duration) + Send + Sync,
) -> Result<(), StoreError>
where
    T: Default + Send + serde::Serialize + serde::de::DeserializeOwned,
{
    for _ in 0..MAX_ATTEMPTS {
        let NotesRead { now, notes: found } = notes.notes(&keys).await?;
        let anew = |(key, note): (&NoteKey, &Option<Note>)| {
            let mut count: T = read(note.as_ref());
            change(&mut count, now);
            put(*key, note.as_ref(), &count, life)
        };
        let written = notes.put_notes(keys.iter().zip(&found).map(anew).collect()).await?;
        let mut written = written.into_iter();
        keys.retain(|_| !written.next().unwrap_or(false));
        if keys.is_empty() {
            break;
        }
    }
    Ok(())
}
