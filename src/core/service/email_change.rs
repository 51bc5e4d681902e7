//! Changing an address for good, undoing that, and objecting to the undo. The rules are
//! [`crate::domain::email_change`].

use super::accounts::{AccountError, Accounts, Ways};
use super::caller::{Client, Source};
use super::noted::About;
use super::retry::Decision;
use super::tasks::Done;
use super::verify_registration::Proof;
use crate::domain::account::{PasswordHash, User, UserId};
use crate::domain::audit::{Action, Outcome};
use crate::domain::email::EmailAddress;
use crate::domain::email_change::{EmailChange, FreezeStage};
use crate::domain::link::{Link, Purpose};
use crate::domain::mail::{Facts, Letter, Mail, MailedLink};
use crate::domain::session::SessionId;
use crate::domain::task::{Errand, Work};
use crate::ports::{Change, Limited, StoreError, TooMany};

/// What was shown.
enum Proven {
    /// `None`: a token that an operator minted.
    Session(Option<SessionId>),
    /// What the password was held against.
    Password(Option<PasswordHash>),
}

impl Accounts {
    /// Makes the address that the link was sent to the account's. Ends every session but that of the proof, voids the
    /// links that were mailed before, and mails the old address a link that undoes it.
    ///
    /// # Errors
    /// [`AccountError::ProofNeeded`] or [`AccountError::WrongPassword`], and the link stays good;
    /// [`AccountError::InvalidLink`] also when another account has the address by now; or another [`AccountError`].
    pub(super) async fn finish_email_change(
        &self,
        client: &Client,
        token: &str,
        proof: Proof,
    ) -> Result<User, AccountError> {
        let (_, user) = self.mailed(token, &[Purpose::ChangeEmail]).await?;
        let proven = self.prove(client, &user, proof).await?;
        let source = Source::Client(client);
        // A conflict: the address was registered, claimed or changed meanwhile.
        let decide = || async {
            let (link, mut user) = self.mailed(token, &[Purpose::ChangeEmail]).await?;
            let session = match &proven {
                Proven::Password(hash) if user.password != *hash => return Err(AccountError::WrongPassword),
                Proven::Password(_) => None,
                // It has ended while the link was looked up.
                Proven::Session(Some(id)) if self.store.session(user.id, *id).await?.is_none() => {
                    return Err(AccountError::ProofNeeded(Ways::Account));
                }
                Proven::Session(id) => *id,
            };
            // Another account may have claimed the address while the mail was on its way.
            let to = link.email.ok_or(AccountError::InvalidLink)?;
            let (mut changes, gone) = self.freeing(&to).await?.ok_or(AccountError::InvalidLink)?;
            let was_verified = user.email_verified;
            let before = user.email.replace(to.clone());
            // What was mailed before opens nothing any more, and what its tokens say is no longer true.
            user.void_links();
            user.verified();
            user.updated_at = self.now();
            changes.push(Change::ConsumeLink(link.hash));
            changes.extend(self.ending_all(user.id, session, "e-mail address changed").await?);
            changes.push(self.raising(user.id, "e-mail address changed"));
            if let Some(before) = &before {
                changes.extend(self.tell_the_old_address(&mut user, (before, &to), was_verified, client)?);
            }
            changes.push(Change::UpdateUser(user.clone()));
            Ok(Decision::Commit(changes, (user, session, before, to, gone)))
        };
        let (user, session, before, after, gone) = self.retry_on_conflict(&source, decide).await?;
        self.outbox.notify_one();
        let about = About { user: Some(user.id), session, ..About::default() }
            .with_emails(before.as_ref(), Some(&after));
        self.note(&source, Action::ChangeEmail, Outcome::Success, about);
        self.note_gone(&source, gone);
        Ok(user)
    }

    /// The letter to the old address. With a link that undoes the change, unless the old address was never verified:
    /// then it may be a stranger's, who must not be able to freeze the account.
    fn tell_the_old_address(
        &self,
        user: &mut User,
        (old, new): (&EmailAddress, &EmailAddress),
        was_verified: bool,
        client: &Client,
    ) -> Result<Vec<Change>, AccountError> {
        let facts = Facts { new_email: Some(new.clone()), ..self.facts(client) };
        if !was_verified {
            return Ok(vec![self.unnamed(Letter::EmailChanged, old, false, None, facts)]);
        }
        let now = self.now();
        let (link, mailed) = self.unlisted_link(Purpose::UndoEmailChange, user, old);
        let change = EmailChange { link: link.id, from: old.clone(), to: new.clone(), at: now };
        user.email_changes
            .add(change, now)
            .map_err(|too_many| TooMany { retry_after: now.until(too_many.until) })?;
        let mail = self.unnamed(Letter::EmailReplaced, old, true, Some(mailed), facts);
        Ok(vec![Change::CreateLink(link), mail])
    }

    /// Whether `proof` shows that the client is signed in to the account. Attempts at the password have the rate
    /// limit of a sign-in.
    async fn prove(&self, client: &Client, user: &User, proof: Proof) -> Result<Proven, AccountError> {
        if proof.new_password.is_some() {
            // Nothing would tell that it was not set.
            let why = "a link that changes an address takes no `new_password`";
            return Err(AccountError::Invalid(why.to_owned()));
        }
        if let Some(person) = proof.person.filter(|person| person.user == user.id) {
            return Ok(Proven::Session(person.session));
        }
        let Some(password) = proof.password else { return Err(AccountError::ProofNeeded(Ways::Account)) };
        if self.is_password(client, user, password).await? {
            return Ok(Proven::Password(user.password.clone()));
        }
        let about = About::user(user.id).because("wrong_password");
        self.note(&Source::Client(client), Action::ChangeEmail, Outcome::Denied, about);
        Err(AccountError::WrongPassword)
    }

    /// Undoes a change of address by the link that was mailed to the old one: freezes the account, and tells the
    /// earlier address and each later one.
    ///
    /// # Errors
    /// [`AccountError::InvalidLink`], [`AccountError::TooMany`], [`AccountError::Conflict`] or
    /// [`AccountError::Store`]; then nothing was changed.
    pub async fn undo_email_change(&self, client: &Client, token: &str) -> Result<(), AccountError> {
        self.limiter.attempt(Limited::UseLink, client.address, None)?;
        let source = Source::Client(client);
        // A conflict: the address was registered meanwhile.
        let decide = || async {
            let (link, mut user) = self.mailed_to(client, token, &[Purpose::UndoEmailChange]).await?;
            let (now, present) = (self.now(), user.email.clone());
            let earlier = link.email.ok_or(AccountError::InvalidLink)?;
            let freed = self.freeing_for(&earlier, user.id).await?;
            let was_pending = user.email_changes.can_object();
            let undone = user.email_changes.undo(link.id, present.as_ref(), freed.is_none(), now);
            let Some(undone) = undone else { return Err(AccountError::InvalidLink) };
            if !was_pending {
                // Links to object to a claim that gives way to this one stay good.
                user.void_links();
            }
            user.password = None;
            user.updated_at = now;
            let (mut changes, gone) = freed.unwrap_or_default();
            changes.push(Change::ConsumeLink(link.hash));
            changes.extend(self.ending_all(user.id, None, "change of address undone").await?);
            changes.push(self.raising(user.id, "change of address undone"));
            let errand = Errand::EndConnections { user: user.id, since: undone.since };
            changes.push(self.at_once(Work::Errand { made_at: now, tries: 0, errand }));
            let facts = Facts { at: Some(now), ends_at: undone.until, ..Facts::default() };
            changes.push(self.unnamed(Letter::EmailChangeUndone, &earlier, true, None, facts.clone()));
            let facts = Facts { old_email: Some(earlier.clone()), ..facts };
            for later in &undone.later {
                let (objection, mailed) = self.unlisted_link(Purpose::ObjectToUndo, &user, later);
                changes.push(Change::CreateLink(objection));
                let mail =
                    self.unnamed(Letter::EmailChangeDisputed, later, true, Some(mailed), facts.clone());
                changes.push(mail);
            }
            if let Some(until) = undone.until {
                changes.push(self.later(until, Work::RestoreEmail { user: user.id, claim: link.id }));
            }
            changes.push(Change::UpdateUser(user.clone()));
            Ok(Decision::Commit(changes, (user.id, present, earlier, gone)))
        };
        let (user, before, after, gone) = self.retry_on_conflict(&source, decide).await?;
        self.outbox.notify_one();
        self.tasks.notify_one();
        let about = About::user(user).with_emails(before.as_ref(), Some(&after));
        self.note(&source, Action::UndoEmailChange, Outcome::Success, about);
        self.note_gone(&source, gone);
        Ok(())
    }

    /// Leaves it to an operator which address a frozen account gets, by the link that a later address was mailed.
    ///
    /// # Errors
    /// As [`Accounts::undo_email_change`].
    pub async fn object_to_undo(&self, client: &Client, token: &str) -> Result<(), AccountError> {
        self.limiter.attempt(Limited::UseLink, client.address, None)?;
        let source = Source::Client(client);
        let decide = || async {
            let (link, mut user) = self.mailed_to(client, token, &[Purpose::ObjectToUndo]).await?;
            let now = self.now();
            if !user.email_changes.object(now) {
                return Err(AccountError::InvalidLink);
            }
            user.updated_at = now;
            let email = link.email.as_ref().map(EmailAddress::as_str);
            let about = About::user(user.id).with("email", email);
            Ok(Decision::Commit(vec![Change::ConsumeLink(link.hash), Change::UpdateUser(user)], about))
        };
        let about = self.retry_on_conflict(&source, decide).await?;
        self.note(&source, Action::ObjectToUndo, Outcome::Success, about);
        Ok(())
    }

    /// What gives an account its earlier address back, when the time to object has passed without an objection.
    pub async fn restore_email(&self, id: UserId, claim: uuid::Uuid) -> Result<Done, StoreError> {
        let Some(mut user) = self.store.user(id).await? else { return Ok(Done::default()) };
        // It cannot be undone once it is used: a clock in doubt only delays it.
        let (reading, before) = (self.clock.reading(), user.email.clone());
        let Some(email) = user.email_changes.give_back(claim, reading.earliest) else {
            let freeze = user.email_changes.freeze.as_ref().filter(|freeze| freeze.claim == claim);
            return Ok(match freeze.map(|freeze| freeze.stage) {
                Some(FreezeStage::Waiting { until }) => {
                    vec![self.later(reading.wall_at(until), Work::RestoreEmail { user: id, claim })].into()
                }
                _ => Done::default(),
            });
        };
        let about = About::user(id).with_emails(before.as_ref(), Some(&email));
        let changes = self.hand_over(user, email).await?;
        Ok(Done { changes, noted: Some((Action::RestoreEmail, Outcome::Success, about)) })
    }

    /// Decides as an operator which of its addresses a frozen account gets. A link that sets a new password is mailed
    /// to it, and every link that undoes a change of address is void.
    ///
    /// # Errors
    /// [`AccountError::Invalid`] when it is not frozen or `email` is none of the addresses that it is about,
    /// [`AccountError::EmailTaken`], [`AccountError::NotFound`] or another [`AccountError`]; then nothing was changed.
    pub async fn unfreeze_user(
        &self,
        request_id: &str,
        id: UserId,
        email: &str,
    ) -> Result<User, AccountError> {
        let email: EmailAddress = email.parse()?;
        let source = Source::Operator(request_id);
        let decide = || async {
            let mut user = self.store.user(id).await?.ok_or(AccountError::NotFound("user"))?;
            let Some(freeze) = user.email_changes.freeze.clone() else {
                return Err(AccountError::Invalid("the account is not frozen".to_owned()));
            };
            if !user.email_changes.decide(&email) {
                let known: Vec<&str> =
                    freeze.later.iter().chain([&freeze.earlier]).map(EmailAddress::as_str).collect();
                let want = format!("`email` must be one of the account's addresses: {}", known.join(", "));
                return Err(AccountError::Invalid(want));
            }
            let freed = self.freeing_for(&email, id).await?;
            let (mut changes, gone) = freed.ok_or(AccountError::EmailTaken)?;
            changes.extend(self.hand_over(user.clone(), email.clone()).await?);
            Ok(Decision::Commit(changes, gone))
        };
        let gone = self.retry_on_conflict(&source, decide).await?;
        self.outbox.notify_one();
        let about = About::user(id).with("email_after", email.as_str());
        self.note(&source, Action::UnfreezeUser, Outcome::Success, about);
        self.note_gone(&source, gone);
        self.store.user(id).await?.ok_or(AccountError::NotFound("user"))
    }

    /// What makes `email` the address of an account for which it was decided, and mails a reset to it.
    async fn hand_over(&self, mut user: User, email: EmailAddress) -> Result<Vec<Change>, StoreError> {
        user.email = Some(email.clone());
        user.verified();
        user.password = None;
        user.void_links();
        user.updated_at = self.now();
        let mut changes = self.ending_all(user.id, None, "e-mail address decided").await?;
        changes.push(self.raising(user.id, "e-mail address decided"));
        if user.active && self.has_mail() {
            let (purpose, letter) = (Purpose::ResetPassword, Letter::ResetPassword);
            changes.extend(self.link(purpose, letter, &mut user, &email, None).await?);
        }
        // Without a letter the operator asks for the link (`reset_password_of`).
        changes.push(Change::UpdateUser(user));
        Ok(changes)
    }

    /// [`Accounts::freeing`] for an account that may have the address itself.
    async fn freeing_for(
        &self,
        email: &EmailAddress,
        id: UserId,
    ) -> Result<Option<(Vec<Change>, Option<UserId>)>, StoreError> {
        match self.store.user_by_email(email).await? {
            Some(user) if user.id == id => Ok(Some((Vec::new(), None))),
            _ => self.freeing(email).await,
        }
    }

    pub(super) fn note_gone(&self, source: &Source<'_>, gone: Option<UserId>) {
        if let Some((action, outcome, about)) = gone.map(Accounts::made_room) {
            self.note(source, action, outcome, about);
        }
    }

    /// A letter to an address that is not, or not only, the account's, and that was `verified` for it. Without the
    /// account's name: an attacker who changed the address may have chosen it. These are security notices, which no
    /// cap of a mailbox holds back.
    fn unnamed(
        &self,
        letter: Letter,
        to: &EmailAddress,
        verified: bool,
        link: Option<MailedLink>,
        facts: Facts,
    ) -> Change {
        let mail = Mail::new(self.entropy.uuid(), letter, to.clone(), self.now());
        Change::PutMail(Mail { verified, link, facts, ..mail })
    }

    /// A link that is not the account's only live one for its purpose: each change of address has its own.
    fn unlisted_link(&self, purpose: Purpose, user: &User, to: &EmailAddress) -> (Link, MailedLink) {
        let link = Link { is_listed: false, ..self.fresh_link(purpose, user, Some(to)) };
        let mailed = MailedLink { id: link.id, purpose, expires_at: link.expires_at };
        (link, mailed)
    }
}
