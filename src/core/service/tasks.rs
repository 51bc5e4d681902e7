//! The worker of the tasks that requests enqueue, so that an answer shows no account (enumeration).
//!
//! Each task is done and taken off the list in one commit, so that a kill at any moment neither loses nor
//! repeats it. It is done under a lease ([`super::leases`]), so that of several gateways over one store one does it. While the store fails, all of them wait; one that cannot be done for a reason of its own is put
//! off, and the others go on. Errands, which go out over the network and may take long, have a worker of their
//! own ([`super::connections`]).

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::future::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::domain::account::{Claim, Registration, User, UserId};
use crate::domain::audit::{Action, Outcome};
use crate::domain::email::EmailAddress;
use crate::domain::lease::LeaseSubject;
use crate::domain::mail::{Facts, Letter};
use crate::domain::mail_cap::LetterRequest;
use crate::domain::task::{RequestOrigin, Task, TaskKind, Work};
use crate::domain::time::UnixTime;
use crate::ports::{Change, CommitError, StoreError};

use super::accounts::{AccountError, Accounts};
use super::caller::Source;
use super::leases::HeldLease;
use super::noted::About;
use super::retry::{Decision, retry_on_conflict};
use super::unclaimed::{AddressHolder, UNCLAIMED_LIFE};
use super::worker::Worker;

/// How many tasks one look takes.
const BATCH: usize = 64;
/// When a task that could not be done is tried again.
const PUT_OFF: Duration = Duration::from_secs(60);

/// What a task comes to.
#[derive(Default)]
pub struct Done {
    /// To be committed together with the end of the task.
    pub changes: Vec<Change>,
    /// What happened by it, once it is durable.
    pub(super) noted: Option<(Action, Outcome, About)>,
}

impl From<Vec<Change>> for Done {
    fn from(changes: Vec<Change>) -> Done {
        Done { changes, noted: None }
    }
}

impl Accounts {
    /// Does tasks until `closing`: at once when a request has enqueued one, and when the time of a later one has come.
    pub async fn run_tasks(&self, closing: CancellationToken) {
        let worker = Worker { what: "tasks", woken: &self.tasks, closing: &closing };
        worker.run(|| self.do_due_tasks()).await;
    }

    /// Does the tasks that are due, or the first of them when there are many. Returns whether there was any.
    ///
    /// # Errors
    /// [`StoreError`]; then the rest is still to do.
    pub async fn do_due_tasks(&self) -> Result<bool, StoreError> {
        let tasks = self.store.due_tasks_of(TaskKind::Account, self.now(), BATCH).await?;
        let mut any = false;
        for task in tasks {
            let Some(held) = self.leases.claim(LeaseSubject::Task(task.id)).await? else {
                // Another gateway does it.
                continue;
            };
            let outcome = self.do_leased(task, &held).await;
            self.leases.release(&held).await;
            any |= outcome?;
        }
        Ok(any)
    }

    /// Does a task under its lease, or puts it off. Returns whether it was still to do.
    async fn do_leased(&self, task: Task, held: &HeldLease) -> Result<bool, StoreError> {
        // Another gateway may have done it, or put it off, before this one had the lease.
        let Some(task) = self.store.task(task.id).await?.filter(|stored| *stored == task) else {
            return Ok(false);
        };
        // One that cannot be done must not keep the others from it.
        let why = match AssertUnwindSafe(self.do_task(&task, held)).catch_unwind().await {
            Ok(Ok(true)) => return Ok(true),
            Ok(Ok(false)) => "others were changing the account all the time".to_owned(),
            Ok(Err(error @ (StoreError::Unavailable(_) | StoreError::Closed(_)))) => return Err(error),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".to_owned(),
        };
        tracing::error!(task = %task.id, why, "a task could not be done; it is tried again");
        self.put_off(task, held).await?;
        Ok(true)
    }

    async fn put_off(&self, task: Task, held: &HeldLease) -> Result<(), StoreError> {
        let later = Task { due_at: self.now().plus(PUT_OFF), ..task };
        let changes = vec![held.require(), Change::FinishTask(task.id), Change::CreateTask(later)];
        // When it is gone, it is done.
        self.store.commit(changes).await.map(drop).or_else(CommitError::unless_overtaken)
    }

    /// Whether it is done; otherwise it met one conflict after the other.
    async fn do_task(&self, task: &Task, held: &HeldLease) -> Result<bool, StoreError> {
        let mut is_first = true;
        let decide = || {
            let is_again = !std::mem::take(&mut is_first);
            async move {
                // The conflict may be that another worker has done it, put it off, or taken it over.
                let is_to_do = !is_again
                    || self.store.task(task.id).await?.is_some_and(|task| task.due_at <= self.now())
                        && self.leases.extend(held).await?.is_some();
                if !is_to_do {
                    return Ok(Decision::Unchanged((false, None)));
                }
                let Done { mut changes, noted } = self.work_out(&task.work).await?;
                let mails = changes.iter().any(|change| matches!(change, Change::PutMail(_)));
                changes.extend([held.require(), Change::FinishTask(task.id)]);
                Ok(Decision::Commit(changes, (mails, noted)))
            }
        };
        let (mails, noted) = match retry_on_conflict(|changes| self.commit(changes), decide).await {
            Ok(done) => done,
            Err(error) => return CommitError::unless_overtaken(error).map(|()| false),
        };
        if mails {
            self.outbox.notify_one();
        }
        if let Some((action, outcome, about)) = noted {
            self.note(&source(&task.work), action, outcome, about);
        }
        Ok(true)
    }

    async fn work_out(&self, work: &Work) -> Result<Done, StoreError> {
        Ok(match work {
            // Enqueued before registration was closed.
            Work::Register { .. } if self.settings.registration != Registration::Open => {
                let about = About::default().because("registration_closed");
                Done { changes: Vec::new(), noted: Some((Action::Register, Outcome::Denied, about)) }
            }
            Work::Register { email, registration, origin, .. } => {
                match self.store.user_by_email(email).await? {
                    None => self.new_account(work).await?,
                    // A form that was sent twice: this is done.
                    Some(user) if registration.is_some() && user.registration == *registration => {
                        Done::default()
                    }
                    Some(user) => self.registered_again(user, email, origin).await?,
                }
            }
            Work::ResendVerification { email, origin } => match self.store.user_by_email(email).await? {
                Some(user) if user.is_open() && user.awaits_verification() => {
                    let about = About::user(user.id);
                    let changes = self.asked_link_to(LetterRequest::Verify, user, origin).await?;
                    let about = if changes.is_empty() { about.because("letter_held_back") } else { about };
                    Done { changes, noted: Some((Action::ResendVerification, Outcome::Success, about)) }
                }
                Some(user) => {
                    let about = About::user(user.id).because("nothing_to_verify");
                    Done {
                        changes: Vec::new(),
                        noted: Some((Action::ResendVerification, Outcome::Denied, about)),
                    }
                }
                None => {
                    let about = self.unknown_address(email);
                    Done {
                        changes: Vec::new(),
                        noted: Some((Action::ResendVerification, Outcome::Denied, about)),
                    }
                }
            },
            Work::ResetPassword { email, origin } => self.reset_mail(email, origin).await?,
            Work::ChangeEmail { user, email, generation } => {
                self.wished_for(*user, email, *generation).await?.into()
            }
            Work::ForgetUnverified(user) => match self.store.user(*user).await? {
                Some(user) => self.forget_unclaimed(user).await?,
                None => Done::default(),
            },
            Work::RestoreEmail { user, claim } => self.restore_email(*user, *claim).await?,
            Work::Revoke(revocation) => vec![Change::Revoke(revocation.clone())].into(),
            Work::Errand { .. } => {
                return Err(StoreError::Unreadable("an errand is none of ours".to_owned()));
            }
        })
    }

    async fn new_account(&self, work: &Work) -> Result<Done, StoreError> {
        let Work::Register { email, name, password, registration, origin } = work else {
            return Ok(Done::default());
        };
        let mut user = User {
            name: name.clone(),
            password: Some(password.clone()),
            claim: Claim::Unclaimed,
            registration: *registration,
            ..User::new(UserId(self.entropy.uuid()), email.clone(), self.now())
        };
        let noted = Some((Action::Register, Outcome::Success, About::user(user.id)));
        // The account is made even when its letter is held back: the next request for it may come through.
        let mut changes = self.asked_link(LetterRequest::Verify, &mut user, email, Some(origin)).await?;
        changes.push(self.later(user.created_at.plus(UNCLAIMED_LIFE), Work::ForgetUnverified(user.id)));
        changes.push(Change::CreateUser(user));
        Ok(Done { changes, noted })
    }

    /// Work to be done at once. Under no moment of a clock, which may be set back before it is.
    pub(super) fn at_once(&self, work: Work) -> Change {
        Change::CreateTask(Task { id: self.entropy.uuid(), due_at: UnixTime(0), work })
    }

    /// Enqueues work for the worker.
    ///
    /// # Errors
    /// [`AccountError::Store`]; then nothing will be done.
    pub(super) async fn enqueue(&self, work: Work) -> Result<(), AccountError> {
        self.store.commit(vec![self.at_once(work)]).await?;
        self.tasks.notify_one();
        Ok(())
    }

    pub(super) fn later(&self, due_at: UnixTime, work: Work) -> Change {
        Change::CreateTask(Task { id: self.entropy.uuid(), due_at, work })
    }

    /// The address has an account. A registration changes nothing of it: the mail tells its owner, or, as long as the
    /// address is unverified, carries the live link again.
    async fn registered_again(
        &self,
        user: User,
        email: &EmailAddress,
        origin: &RequestOrigin,
    ) -> Result<Done, StoreError> {
        let about = About::user(user.id).because("address_taken");
        let noted = Some((Action::Register, Outcome::Denied, about));
        let changes = match &user {
            // While it is not decided which address a frozen account gets, none of them gets a letter.
            frozen if frozen.email_changes.is_frozen() => Vec::new(),
            User { email_verified: true, .. } | User { active: false, .. } => {
                self.already_registered(&user, email, Some(origin)).await?
            }
            // Invited, or reset by an operator: an address that is verified would open nothing yet.
            User { password: None, .. } => self.asked_link_to(LetterRequest::Reset, user, origin).await?,
            _ => self.asked_link_to(LetterRequest::Verify, user, origin).await?,
        };
        Ok(Done { changes, noted })
    }

    /// The mail that tells `owner` of a request to use their address for another account; nothing when it is capped.
    async fn already_registered(
        &self,
        owner: &User,
        to: &EmailAddress,
        origin: Option<&RequestOrigin>,
    ) -> Result<Vec<Change>, StoreError> {
        let admitted = self.admit(LetterRequest::Notice, to, Some(owner), false, origin).await?;
        Ok(admitted.map_or_else(Vec::new, |mut changes| {
            changes.push(self.mail(Letter::AlreadyRegistered, owner, to, None, Facts::default()));
            changes
        }))
    }

    async fn reset_mail(&self, email: &EmailAddress, origin: &RequestOrigin) -> Result<Done, StoreError> {
        let found = self.store.user_by_email(email).await?.filter(|user| {
            // While it is not decided which address a frozen account gets, none of them gets a letter.
            user.active && user.has_address(email) && user.email_changes.takes_reset()
        });
        let (changes, outcome, about) = match found {
            Some(user) => {
                let about = About::user(user.id);
                let changes = self.asked_link_to(LetterRequest::Reset, user, origin).await?;
                // For the operator, when a user says that no letter came.
                let about = if changes.is_empty() { about.because("letter_held_back") } else { about };
                (changes, Outcome::Success, about)
            }
            None => (Vec::new(), Outcome::Denied, self.unknown_address(email)),
        };
        Ok(Done { changes, noted: Some((Action::RequestPasswordReset, outcome, about)) })
    }

    /// The mail about a wished-for address: the link, or, when another account has the address, a notice to its
    /// owner. An unclaimed account does not count.
    async fn wished_for(
        &self,
        id: UserId,
        email: &EmailAddress,
        generation: u64,
    ) -> Result<Vec<Change>, StoreError> {
        let wishes = |user: &User| user.is_open() && user.link_generation == generation;
        let Some(mut user) = self.store.user(id).await?.filter(wishes) else { return Ok(Vec::new()) };
        Ok(match self.holder(email).await? {
            AddressHolder::Free | AddressHolder::Unclaimed(_) => {
                let mut changes = self.asked_link(LetterRequest::Wish, &mut user, email, None).await?;
                if !changes.is_empty() {
                    changes.push(Change::UpdateUser(user));
                }
                changes
            }
            AddressHolder::Owner(owner) if owner.email_changes.is_frozen() => Vec::new(),
            AddressHolder::Owner(owner) => self.already_registered(&owner, email, None).await?,
        })
    }
}

/// The actor of a task, for the audit log.
fn source(work: &Work) -> Source<'_> {
    match work {
        Work::Register { origin, .. }
        | Work::ResendVerification { origin, .. }
        | Work::ResetPassword { origin, .. } => Source::Task(origin),
        Work::ChangeEmail { .. }
        | Work::ForgetUnverified(_)
        | Work::RestoreEmail { .. }
        | Work::Revoke(_)
        | Work::Errand { .. } => Source::System,
    }
}
