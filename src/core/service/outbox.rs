//! The outbox: delivers mails to the mailer, retried with backoff until the mailer takes them or they expire.
//!
//! A mail is enqueued by the commit of what it tells of ([`Change::PutMail`]) and removed when the mailer
//! took it. If the process ends between the two, the mail is sent once more at the next start, with the
//! same `Message-ID`. Nothing here holds up an endpoint.
//!
//! Each try is made under a lease ([`super::leases`]), so that of several gateways over one store one delivers a mail. A
//! second delivery is possible if the lease of a try ends because the store answers no extension, and another gateway
//! then claims the mail.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Notify;
use uuid::Uuid;

use super::leases::{HeldLease, Leases};
use super::outage::Outage;
use crate::domain::lease::{LeaseHolder, LeaseSubject};
use crate::domain::mail::Mail;
use crate::domain::opaque::{ServerKey, TokenHash};
use crate::domain::time::UnixTime;
use crate::ports::{Change, Clock, MailFault, Mailer, Meter, Store, StoreError};

/// How many are delivered at once.
pub const AT_ONCE: usize = 8;
/// How long a mail without a link is tried. One with a link is tried for as long as the link lives.
pub const LIFE: Duration = Duration::from_secs(24 * 3600);
/// When a mail that was not taken is tried again, in seconds after the first, second, … try.
const RETRY: [u64; 6] = [10, 30, 120, 600, 1800, 3600];
/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// How many mails are looked through for those that a clock which was ahead has put off.
const PUT_OFF: usize = 1000;
/// How long everything waits while nothing can be delivered, in seconds; one mail is tried after each.
const PAUSE: [u64; 4] = [5, 10, 30, 60];
/// When a store that failed is asked again.
pub const STORE_PAUSE: Duration = Duration::from_secs(10);
/// The last try is so long before a mail expires, because its recipient must still be able to use it.
pub const LAST_CALL: Duration = Duration::from_secs(300);
/// The longest sleep: a wall clock that was moved is noticed within it.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// The longest cause that is kept with a mail, in characters.
const MAX_ERROR: usize = 300;

/// The worker that empties the outbox. There is one in each gateway.
pub struct Outbox {
    store: Arc<dyn Store>,
    leases: Leases,
    mailer: Arc<dyn Mailer>,
    clock: Arc<dyn Clock>,
    meter: Arc<dyn Meter>,
    key: Arc<ServerKey>,
    woken: Arc<Notify>,
    closing: AtomicBool,
    state: Mutex<State>,
    outage: Outage,
}

/// What is known beside the store.
#[derive(Default)]
struct State {
    /// What became of mails, where the store could not be told yet. They are not tried again before it
    /// is: a mail that was taken would be sent twice.
    unrecorded: HashMap<Uuid, Unrecorded>,
    /// How often in a row nothing could be delivered, and until when nothing is tried.
    outage: Option<(usize, UnixTime)>,
}

/// What became of a mail, to be committed under the lease of the try.
type Unrecorded = (Arc<HeldLease>, Change);

/// How one try ended.
enum TryOutcome {
    Sent,
    Fault(MailFault),
    /// It is of no more use.
    TooLate,
}

impl Outbox {
    /// A worker; `woken` is notified by the code that enqueues a mail, and `holder` is this gateway's id.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        mailer: Arc<dyn Mailer>,
        clock: Arc<dyn Clock>,
        meter: Arc<dyn Meter>,
        key: Arc<ServerKey>,
        woken: Arc<Notify>,
        holder: LeaseHolder,
    ) -> Outbox {
        let state = Mutex::default();
        let leases = Leases::new(Arc::clone(&store), holder);
        let outage = Outage::new("the outbox waits for the store");
        Outbox {
            store,
            leases,
            mailer,
            clock,
            meter,
            key,
            woken,
            closing: AtomicBool::new(false),
            state,
            outage,
        }
    }

    /// Delivers what is due whenever something is, until [`Outbox::close`].
    pub async fn run(&self) {
        while !self.closing.load(Ordering::Acquire) {
            let next = self.pass().await;
            if self.closing.load(Ordering::Acquire) {
                return;
            }
            let now = self.clock.now();
            // A moment that is not in the future would make this a busy loop.
            let sleep =
                next.map_or(LONGEST_SLEEP, |at| now.until(at).clamp(Duration::from_secs(1), LONGEST_SLEEP));
            // Either way there may be something to do.
            let _ = tokio::time::timeout(sleep, self.woken.notified()).await;
        }
    }

    /// Takes up no further mail. [`Outbox::run`] returns when those under way are done; to drop it before
    /// that may send them twice.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.woken.notify_one();
    }

    /// Delivers everything that is due, also what becomes so meanwhile. Returns when the next is; `None`
    /// when nothing waits.
    pub async fn pass(&self) -> Option<UnixTime> {
        match self.deliver_due().await {
            Ok(next) => {
                self.outage.succeeded();
                next
            }
            Err(error) => {
                self.outage.failed(&error);
                Some(self.clock.now().plus(STORE_PAUSE))
            }
        }
    }

    async fn deliver_due(&self) -> Result<Option<UnixTime>, StoreError> {
        let mut tries = FuturesUnordered::new();
        let mut flying: HashSet<Uuid> = HashSet::new();
        let mut failed = None;
        loop {
            if failed.is_none() {
                match self.take_up(&flying).await {
                    Ok(mails) => {
                        for (mail, held) in mails {
                            flying.insert(mail.id);
                            tries.push(self.attempt(mail, held));
                        }
                    }
                    Err(error) => failed = Some(error),
                }
            }
            if tries.is_empty() {
                break;
            }
            let wake = failed.is_none() && flying.len() < AT_ONCE;
            tokio::select! {
                Some((id, recorded)) = tries.next() => {
                    flying.remove(&id);
                    if let Err(error) = recorded {
                        failed = Some(error);
                    }
                }
                () = self.woken.notified(), if wake => {}
            }
        }
        match failed {
            Some(error) => Err(error),
            None => self.next().await,
        }
    }

    /// The mails that are due and not under way, at most as many as may be sent at once.
    async fn take_up(&self, flying: &HashSet<Uuid>) -> Result<Vec<(Mail, HeldLease)>, StoreError> {
        if self.closing.load(Ordering::Acquire) {
            return Ok(Vec::new());
        }
        self.record_rest().await?;
        let now = self.clock.now();
        let room = match self.lock().outage {
            // One goes ahead to see whether it is over.
            // One that is further away than any pause was begun before the clock was set back.
            Some((_, until)) if now >= until || until > now.plus(LONGEST_SLEEP) => 1,
            Some(_) => 0,
            None => AT_ONCE,
        };
        let room = room.saturating_sub(flying.len());
        if room == 0 {
            return Ok(Vec::new());
        }
        let mut taken = Vec::new();
        for limit in [room + flying.len(), PUT_OFF] {
            let due = self.due(now, limit).await?;
            let are_all = due.len() < limit;
            for mail in due.into_iter().filter(|mail| !flying.contains(&mail.id)) {
                if taken.len() == room {
                    break;
                }
                if taken.iter().any(|(other, _): &(Mail, _)| other.id == mail.id) {
                    continue;
                }
                match self.claim(mail).await {
                    Ok(claimed) => taken.extend(claimed),
                    // Those before it are leased: they are delivered first, and the next look meets the error again.
                    Err(error) if !taken.is_empty() => {
                        tracing::warn!(%error, "the store did not answer for a mail that is due");
                        return Ok(taken);
                    }
                    Err(error) => return Err(error),
                }
            }
            // Otherwise other gateways deliver those in front, and there are more behind them.
            if are_all || !taken.is_empty() {
                break;
            }
        }
        Ok(taken)
    }

    /// At most `limit` mails that are due, and those that a clock which was ahead has put off.
    async fn due(&self, now: UnixTime, limit: usize) -> Result<Vec<Mail>, StoreError> {
        let mut due = self.store.due_mails(now, limit).await?;
        let (latest, horizon) = (now.plus(LONGEST_WAIT), self.clock.reading().horizon);
        if latest < horizon {
            // Put off while the clock was ahead: no wait is so long.
            let others = self.store.due_mails(horizon.plus(LONGEST_WAIT), PUT_OFF).await?;
            due.extend(others.into_iter().filter(|mail| latest < mail.due_at));
        }
        Ok(due)
    }

    /// The lease of a mail, as long as it is the one that was read: another gateway may have tried it meanwhile.
    async fn claim(&self, mail: Mail) -> Result<Option<(Mail, HeldLease)>, StoreError> {
        let Some(held) = self.leases.claim(LeaseSubject::Mail(mail.id)).await? else { return Ok(None) };
        let read = self.store.mail(mail.id).await;
        if matches!(&read, Ok(Some(same)) if *same == mail) {
            return Ok(Some((mail, held)));
        }
        self.leases.release(&held).await;
        read.map(|_| None)
    }

    /// Tells the store what it could not be told before.
    async fn record_rest(&self) -> Result<(), StoreError> {
        let rest: Vec<(Uuid, Unrecorded)> =
            self.lock().unrecorded.iter().map(|(id, rest)| (*id, rest.clone())).collect();
        for (id, (held, change)) in rest {
            self.commit(id, held, change).await?;
        }
        Ok(())
    }

    /// One try, and its record.
    async fn attempt(&self, mail: Mail, mut held: HeldLease) -> (Uuid, Result<(), StoreError>) {
        let id = mail.id;
        // A mail that is given up is not tried again, so not because of a clock that may be ahead.
        let outcome = match self.clock.reading().earliest < deadline(&mail) {
            // A delivery that is broken off may have gone out already, so that the next one sends it twice.
            true => self.leases.run_until_taken_over(&mut held, self.deliver(&mail)).await,
            false => Ok(Some(TryOutcome::TooLate)),
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => return (id, Err(error)),
        };
        let Some(outcome) = outcome else {
            tracing::warn!(mail = %id, "a delivery was broken off: another gateway has taken the mail over");
            return (id, Ok(()));
        };
        let change = self.settle(mail, outcome);
        (id, self.commit(id, Arc::new(held), change).await)
    }

    async fn deliver(&self, mail: &Mail) -> TryOutcome {
        let token = match &mail.link {
            None => None,
            Some(link) => match self.token_of(link.id).await {
                Ok(token) => Some(token),
                Err(error) => return TryOutcome::Fault(MailFault::Transient(error.to_string())),
            },
        };
        // A letter that cannot be written must not keep the others from going out.
        match AssertUnwindSafe(self.mailer.deliver(mail, token)).catch_unwind().await {
            Ok(Ok(())) => TryOutcome::Sent,
            Ok(Err(fault)) => TryOutcome::Fault(fault),
            Err(_) => TryOutcome::Fault(MailFault::Transient("the mailer panicked".to_owned())),
        }
    }

    /// The token of a link: that of the key under which the link was made.
    async fn token_of(&self, id: Uuid) -> Result<SecretString, StoreError> {
        for token in self.key.link_tokens(id).skip(1) {
            if self.store.link(&TokenHash::of(token.expose_secret().as_bytes())).await?.is_some() {
                return Ok(token);
            }
        }
        // Of the key that signs, or of a link that is void.
        Ok(self.key.link_token(id))
    }

    /// What a try means for the mail, and for the others.
    fn settle(&self, mail: Mail, outcome: TryOutcome) -> Change {
        let now = self.clock.now();
        let fault = match outcome {
            TryOutcome::Sent => {
                if self.lock().outage.take().is_some() {
                    tracing::info!("mail is delivered again");
                }
                self.meter.mail("sent");
                tracing::debug!(mail = %mail.id, letter = mail.letter.name(), "a mail was delivered");
                return Change::RemoveMail(mail.id);
            }
            TryOutcome::TooLate => {
                let why = mail.last_error.clone().unwrap_or_else(|| "it was not tried in time".to_owned());
                return self.give_up(mail, why);
            }
            TryOutcome::Fault(fault) => fault,
        };
        let why: String = fault.to_string().chars().take(MAX_ERROR).collect();
        let mail = Mail { attempts: mail.attempts.saturating_add(1), ..mail };
        let wait = match fault {
            MailFault::Permanent(_) => {
                self.lock().outage = None;
                return self.give_up(mail, why);
            }
            MailFault::Transient(_) => {
                self.lock().outage = None;
                step(&RETRY, mail.attempts as usize)
            }
            MailFault::Unreachable(_) => self.pause(now),
        };
        let reading = self.clock.reading();
        let Some(at) = retry_at(reading.earliest, wait, deadline(&mail)) else {
            return self.give_up(mail, why);
        };
        let due_at = reading.wall_at(at);
        self.meter.mail("retried");
        let (letter, attempts) = (mail.letter.name(), mail.attempts);
        tracing::warn!(mail = %mail.id, letter, attempts, why, "a mail was not delivered; it is tried again");
        Change::PutMail(Mail { due_at, last_error: Some(why), ..mail })
    }

    /// Lets everything wait, longer each time in a row. Those that were under way together count once.
    fn pause(&self, now: UnixTime) -> Duration {
        let mut state = self.lock();
        let (times, until) = state.outage.unwrap_or((0, now));
        if now >= until || until > now.plus(LONGEST_SLEEP) {
            let wait = step(&PAUSE, times + 1);
            state.outage = Some((times + 1, now.plus(wait)));
            return wait;
        }
        now.until(until)
    }

    fn give_up(&self, mail: Mail, why: String) -> Change {
        self.meter.mail("given_up");
        let (letter, attempts) = (mail.letter.name(), mail.attempts);
        tracing::error!(mail = %mail.id, letter, attempts, why, "a mail was given up");
        Change::PutMail(Mail { given_up: true, last_error: Some(why), ..mail })
    }

    async fn commit(&self, id: Uuid, held: Arc<HeldLease>, change: Change) -> Result<(), StoreError> {
        match self.store.commit(vec![held.require(), change.clone()]).await {
            Ok(_) => {
                self.lock().unrecorded.remove(&id);
                self.leases.release(&held).await;
                Ok(())
            }
            Err(error) if error.is_overtaken() => {
                tracing::warn!(mail = %id, "another gateway has taken a mail over: what became of this try is not kept");
                self.lock().unrecorded.remove(&id);
                Ok(())
            }
            Err(error) => {
                self.lock().unrecorded.insert(id, (held, change));
                Err(StoreError::Unavailable(format!("what became of a mail: {error}")))
            }
        }
    }

    /// When there is something to do again.
    async fn next(&self) -> Result<Option<UnixTime>, StoreError> {
        let now = self.clock.now();
        // Nothing is due later than it lives.
        let Some(mail) = self.store.due_mails(now.plus(LIFE), 1).await?.into_iter().next() else {
            return Ok(None);
        };
        let outage = self.lock().outage.map(|(_, until)| until);
        Ok(Some(outage.map_or(mail.due_at, |until| mail.due_at.max(until))))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can leave the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a mail is of no more use.
fn deadline(mail: &Mail) -> UnixTime {
    match mail.link {
        // Counted from the mail as well: a link that was made by a clock that was ahead must not be tried for longer.
        Some(link) => link.expires_at.min(mail.created_at.plus(link.purpose.life())),
        None => mail.created_at.plus(LIFE),
    }
}

/// When to try again after `wait`; a last time shortly before the end, and then no more.
fn retry_at(now: UnixTime, wait: Duration, deadline: UnixTime) -> Option<UnixTime> {
    let at = now.plus(wait);
    if at < deadline {
        return Some(at);
    }
    let last = deadline.minus(LAST_CALL);
    (last > now).then_some(last)
}

/// The wait after the `times`-th time, which is at least 1; the last one for all that follow.
fn step(steps: &[u64], times: usize) -> Duration {
    Duration::from_secs(steps[times.clamp(1, steps.len()) - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_last() {
        assert_eq!(step(&PAUSE, 0), Duration::from_secs(5));
        assert_eq!(step(&PAUSE, 2), Duration::from_secs(10));
        assert_eq!(step(&PAUSE, 99), Duration::from_secs(60));
    }
}
