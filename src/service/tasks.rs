//! The worker that does what requests have left behind.
//!
//! Each task is done and taken off the list in one commit, so that a kill at any moment neither loses nor
//! repeats it. A task that cannot be done because the store fails stays on the list.

use crate::domain::account::{User, UserId};
use crate::domain::audit::{Action, Outcome};
use crate::domain::email::EmailAddress;
use crate::domain::link::Purpose;
use crate::domain::mail::{Facts, Letter};
use crate::domain::task::{Origin, Task, Work};
use crate::ports::{Change, CommitError, StoreError};

use super::accounts::{About, Accounts, Source, TRIES};

/// How many tasks one look takes.
const BATCH: usize = 64;

impl Accounts {
    /// Does every task that is due. Returns whether there was any.
    ///
    /// # Errors
    /// [`StoreError`]; then the rest is still to do.
    pub async fn do_due_tasks(&self) -> Result<bool, StoreError> {
        let mut any = false;
        loop {
            let tasks = self.store.due_tasks(self.now(), BATCH).await?;
            if tasks.is_empty() {
                return Ok(any);
            }
            any = true;
            for task in tasks {
                self.do_task(&task).await?;
            }
        }
    }

    async fn do_task(&self, task: &Task) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let mut changes = match &task.work {
                Work::Register { email, .. } => match self.store.user_by_email(email).await? {
                    None => self.new_account(&task.work),
                    Some(user) => self.registered_again(user, &task.work),
                },
                Work::ResendVerification { email, .. } => match self.store.user_by_email(email).await? {
                    Some(user) if user.active && !user.email_verified => {
                        self.link(Purpose::VerifyEmail, Letter::VerifyEmail, &user, &user.email).into()
                    }
                    _ => Vec::new(),
                },
                Work::ResetPassword { email, origin } => self.reset_mail(email, origin).await?,
                Work::Revoke(revocation) => vec![Change::Revoke(revocation.clone())],
            };
            let mails = changes.iter().any(|change| matches!(change, Change::PutMail(_)));
            changes.push(Change::FinishTask(task.clone()));
            match self.store.commit(changes).await {
                Ok(_) => {
                    if mails {
                        self.outbox.notify_one();
                    }
                    return Ok(());
                }
                // Somebody else got in between: look again. When the task itself is gone, it is done.
                Err(CommitError::Conflict | CommitError::EmailTaken) => {}
                Err(CommitError::Store(error)) => return Err(error),
            }
            let due = self.store.due_tasks(self.now(), usize::MAX).await?;
            if !due.iter().any(|other| other.id == task.id) {
                return Ok(());
            }
        }
        Err(StoreError::Unavailable("a task met one conflict after the other".to_owned()))
    }

    fn new_account(&self, work: &Work) -> Vec<Change> {
        let Work::Register { email, name, password, origin } = work else { return Vec::new() };
        let now = self.now();
        let user = User {
            id: UserId(self.entropy.uuid()),
            email: email.clone(),
            email_verified: false,
            name: name.clone(),
            password: Some(password.clone()),
            active: true,
            locked_until: None,
            created_at: now,
            updated_at: now,
            last_login_at: None,
            scopes: Vec::new(),
            claims: serde_json::Map::new(),
            devices: Vec::new(),
            link_generation: 0,
            revision: 0,
        };
        self.note(&Source::Task(origin), Action::Register, Outcome::Success, About::user(user.id));
        let link = self.link(Purpose::VerifyEmail, Letter::VerifyEmail, &user, email);
        std::iter::once(Change::CreateUser(user)).chain(link).collect()
    }

    /// The address has an account. Its owner is told. As long as nobody has shown that the address is
    /// theirs, none of the passwords that were given for it may ever open the account: whoever gave one of
    /// them may have been somebody else. Then the mail has a link that sets a password.
    fn registered_again(&self, mut user: User, work: &Work) -> Vec<Change> {
        let Work::Register { origin, .. } = work else { return Vec::new() };
        let about = About::user(user.id).because("address_taken");
        self.note(&Source::Task(origin), Action::Register, Outcome::Denied, about);
        if user.email_verified || !user.active {
            let name = user.name.as_deref();
            return vec![self.mail(Letter::AlreadyRegistered, name, &user.email, None, Facts::default())];
        }
        user.password = None;
        user.name = None;
        user.link_generation += 1;
        user.updated_at = self.now();
        let link = self.link(Purpose::ResetPassword, Letter::ResetPassword, &user, &user.email);
        std::iter::once(Change::UpdateUser(user)).chain(link).collect()
    }

    async fn reset_mail(&self, email: &EmailAddress, origin: &Origin) -> Result<Vec<Change>, StoreError> {
        let found = self.store.user_by_email(email).await?.filter(|user| user.active);
        let (outcome, about) = match &found {
            Some(user) => (Outcome::Success, About::user(user.id)),
            None => (Outcome::Denied, About::default().because("unknown_address")),
        };
        self.note(&Source::Task(origin), Action::RequestPasswordReset, outcome, about);
        Ok(found.map_or_else(Vec::new, |user| {
            self.link(Purpose::ResetPassword, Letter::ResetPassword, &user, &user.email).into()
        }))
    }
}
