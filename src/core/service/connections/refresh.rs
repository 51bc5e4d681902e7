//! Refreshing (single-flight): at most one call to the provider for each connection at a time, however many callers
//! ask.
//!
//! A refresh token may be valid for one use only. So an attempt is committed before the provider is called, and its
//! answer before any caller gets it. If the process ends in between, the attempt stays open, and the next refresh
//! presents the stored refresh token again: an `invalid_grant` then means that the answer was lost, and the user must
//! connect again.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::future::FutureExt;
use secrecy::{ExposeSecret, SecretString};

use super::seal::call;
use super::tell::NoticeKind;
use super::turns::Refreshed;
use super::{ConnectionError, Connections, Failure, standing};
use crate::domain::account::UserId;
use crate::domain::audit::{Action, Outcome};
use crate::domain::connection::{
    Connection, ConnectionId, FaultKind, Grant, MAX_REASON, ProviderFailure, RefreshAttempt, Status, clean,
};
use crate::domain::mail::Letter;
use crate::domain::time::UnixTime;
use crate::domain::upkeep::backoff;
use crate::ports::{Change, Limited, ProviderFault};
use crate::service::caller::{Client, OwnedSource, Person};
use crate::service::leases::HeldLease;
use crate::service::noted::About;
use crate::service::retry::Decision;

/// The pauses between tries to write tokens that just came. What is not written by then is kept in memory, and
/// written by the worker or ahead of the next refresh.
pub(super) const PAUSES: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// When a caller may retry for a token of a provider that is not in service, for example because it is being started.
const NOT_YET: Duration = Duration::from_secs(5);
/// A token that was turned away is not replaced when it has come only just now: the next would be, too.
const JUST_NOW: Duration = Duration::from_secs(30);

/// Why a connection ends with its access token: the provider has no refresh for it.
const NO_OTHER_WAY: &str = "the access token has ended, and this provider has no other way to a new one";

/// What a refresh brought and the store did not take.
#[derive(Clone)]
pub(super) struct Unwritten {
    /// As it was when the provider was asked.
    pub(super) base: Connection,
    pub(super) grant: Grant,
    at: UnixTime,
}

/// When a refresh is wanted.
pub(super) enum Want {
    /// The access token ends soon, or has.
    Fresh,
    /// The worker's look: its time has come.
    Due,
    /// In any case.
    Now,
    /// This one was turned away.
    Instead(SecretString),
}

/// Whether a refresh that was asked for is still to be made once it has its turn.
pub(super) enum Need {
    /// Ask the provider for this connection.
    Refresh(Connection),
    /// Nothing is to be done: this is the connection as it is.
    Nothing(Connection),
}

impl Connections {
    /// Refreshes now, however fresh the access token is.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn force_refresh(
        &self,
        client: &Client,
        person: Person,
        id: ConnectionId,
    ) -> Result<Connection, ConnectionError> {
        let user = person.user;
        self.limiter.attempt(Limited::Connect, client.address, Some(&user.to_string()))?;
        self.refresh_for(OwnedSource::Client(client.clone()), user, id).await
    }

    /// Refreshes now, as an operator.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn operator_refresh(
        &self,
        request_id: &str,
        user: UserId,
        id: ConnectionId,
    ) -> Result<Connection, ConnectionError> {
        self.refresh_for(OwnedSource::Operator(request_id.to_owned()), user, id).await
    }

    async fn refresh_for(&self, who: OwnedSource, user: UserId, id: ConnectionId) -> Refreshed {
        standing(&self.find(user, id).await?)?;
        let outcome = self.refresh(user, id, Want::Now).await;
        let about = About::connection(user, id);
        match &outcome {
            Ok(_) => self.note(&who, Action::RefreshConnection, Outcome::Success, about),
            Err(error) => {
                self.note(&who, Action::RefreshConnection, Outcome::Failed, about.because(error.to_string()));
            }
        }
        outcome
    }

    /// Waits for its turn, looks whether a refresh is still wanted, and makes it. It goes on though the caller
    /// does not wait.
    pub(super) async fn refresh(&self, user: UserId, id: ConnectionId, want: Want) -> Refreshed {
        let this = self.clone();
        self.spawn(async move {
            let mut turn = this.state.turns.turn(id).await;
            if let Some(outcome) = turn.meanwhile() {
                return outcome;
            }
            let needed = match this.write_kept(id).await {
                // Another grant has taken the place of what was kept.
                None | Some(Err(ConnectionError::Conflict)) => this.need(user, id, &want).await,
                Some(written) => written.map(Need::Nothing),
            };
            let outcome = match needed {
                Ok(Need::Refresh(_)) => this.refresh_leased(user, id, &want).await,
                Ok(Need::Nothing(as_it_is)) => return Ok(as_it_is),
                // The store fails for those who wait as well, and each attempt takes its time.
                Err(error @ ConnectionError::Store(_)) => Err(error),
                Err(error) => return Err(error),
            };
            turn.ended(outcome.clone());
            outcome
        })
        .await
    }

    /// Whether the connection is to be refreshed.
    ///
    /// # Errors
    /// It can be neither refreshed nor used as it is: [`ConnectionError`].
    pub(super) async fn need(
        &self,
        user: UserId,
        id: ConnectionId,
        want: &Want,
    ) -> Result<Need, ConnectionError> {
        let reading = self.clock.reading();
        let now = reading.wall;
        let connection = self.find(user, id).await?;
        standing(&connection)?;
        let upkeep = self.upkeep(&connection.provider);
        let wanted = match want {
            Want::Now => true,
            Want::Fresh => {
                !connection.is_fresh(now, connection.ahead(upkeep.refresh_ahead))
                    || connection.is_from_the_future(now)
            }
            Want::Due => connection.is_to_refresh(now, upkeep),
            Want::Instead(rejected) => {
                let same = self.open_access(&connection)?.expose_secret() == rejected.expose_secret();
                if same && connection.refreshed_at.is_some_and(|at| at <= now && now < at.plus(JUST_NOW)) {
                    let reason = "an upstream turns an access token away that has just come";
                    return Err(not_now(FaultKind::ProviderError, reason, Some(JUST_NOW)));
                }
                same
            }
        };
        if !wanted {
            return Ok(Need::Nothing(connection));
        }
        if !matches!(want, Want::Now)
            && let Some(at) = connection.waits_until(now)
        {
            return Err(waiting(&connection, now.until(at)));
        }
        let is_good = connection.is_fresh(now, Duration::ZERO);
        // For tokens without a refresh the plugin is asked again when a caller forces it, and before the connection
        // is given up: the plugin may have been replaced by one that can.
        let ask = !connection.not_refreshable || !is_good || matches!(want, Want::Now);
        if upkeep.can_refresh && ask {
            return Ok(Need::Refresh(connection));
        }
        if !is_good {
            // Their end erases them: not by a clock that may be ahead.
            if connection.is_fresh(reading.earliest, Duration::ZERO) {
                return Err(ConnectionError::NotRefreshable);
            }
            self.needs_consent(&connection, NO_OTHER_WAY, None).await?;
            return Err(ConnectionError::ReconnectNeeded);
        }
        match want {
            // An upstream may say no for reasons of its own. Only the provider can say that the grant is gone.
            Want::Now | Want::Instead(_) => Err(ConnectionError::NotRefreshable),
            Want::Fresh | Want::Due => Ok(Need::Nothing(connection)),
        }
    }

    /// The plugin has nothing to refresh the tokens with, and sent no request. They stay in use until they expire.
    async fn left_alone(&self, base: &Connection, reason: &str, lease: Change) -> Refreshed {
        if !base.is_fresh(self.clock.reading().earliest, Duration::ZERO) {
            self.needs_consent(base, reason, Some(lease)).await?;
            return Err(ConnectionError::ReconnectNeeded);
        }
        self.amend(base, vec![lease], Connection::leave_alone).await?;
        self.state.due.notify_one();
        let (connection, provider) = (base.id, &base.provider);
        tracing::info!(%connection, provider, reason, "tokens that cannot be refreshed are used until they end");
        Err(ConnectionError::NotRefreshable)
    }

    /// Asks the provider. Only with the turn.
    pub(super) async fn ask(&self, before: Connection, want: &Want, held: &mut HeldLease) -> Refreshed {
        let opened = match self.open(&before) {
            Ok(opened) => opened,
            Err(error) => {
                let (kind, reason) = (FaultKind::Misconfigured, error.to_string());
                self.failed(&before, Failure { kind, reason, retry_after: None }, want, held.require())
                    .await?;
                return Err(error);
            }
        };
        // No provider was asked, so there is no attempt to commit: it may be in service in a moment.
        if self.providers.get(&before.provider).is_none() {
            let reason = ProviderFault::NotInService(before.provider.clone()).to_string();
            return Err(not_now(FaultKind::Transient, &reason, Some(NOT_YET)));
        }
        let (started_at, run) = (self.now(), self.run);
        let begin = |connection: &mut Connection| {
            connection.attempt = Some(RefreshAttempt { started_at, run });
            connection.retry_at = None;
        };
        let base = self.amend(&before, vec![held.require()], begin).await?;
        if before.attempt.as_ref().is_some_and(|attempt| attempt.run != run) {
            tracing::warn!(connection = %base.id, provider = %base.provider, "a refresh was cut off; it is made again");
        }
        let call = call(&base, opened.kept.clone(), opened.parameters.clone());
        let asking = self.providers.refresh(call, opened.current.clone());
        // It is not broken off when the lease is lost: its answer may be all that is left of the grant.
        let answer = self.leases.hold_during(held, AssertUnwindSafe(asking).catch_unwind()).await?;
        // Another gateway had the lease meanwhile, and may be asking with the same refresh token.
        let answer = answer.ok_or(ConnectionError::Conflict)?;
        let answer = answer.unwrap_or_else(|_| Err(ProviderFault::PluginFailed("it panicked".to_owned())));
        match answer {
            Ok(granted) if granted.access_token.expose_secret().is_empty() => {
                let fault = ProviderFault::ProviderError("there is no access token in it".to_owned());
                Err(self.failed(&base, fault.into(), want, held.require()).await?)
            }
            Ok(granted) => {
                let grant = self.next_grant(&base, opened, granted, started_at);
                self.write(Unwritten { base, grant, at: started_at }).await
            }
            Err(ProviderFault::InvalidGrant(reason)) => {
                self.needs_consent(&base, &reason, Some(held.require())).await?;
                Err(ConnectionError::ReconnectNeeded)
            }
            Err(ProviderFault::NotRefreshable(reason)) => {
                self.left_alone(&base, &reason, held.require()).await
            }
            Err(fault) => Err(self.failed(&base, fault.into(), want, held.require()).await?),
        }
    }

    /// Writes what a refresh brought, and does not give up easily: there is nothing else left of the grant. So it requires
    /// no lease; that the connection still has the tokens that the refresh began with is condition enough.
    pub(super) async fn write(&self, new: Unwritten) -> Refreshed {
        let id = new.base.id;
        let outcome = self.try_to_write(new).await;
        match &outcome {
            Err(error @ ConnectionError::Store(_)) => {
                tracing::error!(connection = %id, %error, "fresh tokens could not be written; they are kept in memory");
            }
            _ => drop(self.unwritten().remove(&id)),
        }
        outcome
    }

    /// From the first try that fails they are among the unwritten.
    async fn try_to_write(&self, new: Unwritten) -> Refreshed {
        let mut pauses = self.state.waits.pauses.iter();
        loop {
            let renew = |connection: &mut Connection| connection.renew(new.grant.clone(), new.at);
            let error = match self.amend(&new.base, Vec::new(), renew).await {
                Ok(connection) => {
                    if new.base.failures > 0 {
                        let about = About::connection(connection.user, connection.id).because("works_again");
                        self.note(&OwnedSource::System, Action::RefreshConnection, Outcome::Success, about);
                    }
                    self.note_oddities(&new.base, &connection);
                    self.state.due.notify_one();
                    return Ok(connection);
                }
                // The account is gone or the connection was ended, and the grant must not outlive it.
                Err(error @ (ConnectionError::NotFound | ConnectionError::Revoked)) => {
                    match self.end_unheld(&new).await {
                        Ok(()) => return Err(error),
                        Err(unread) => unread.into(),
                    }
                }
                // A commit that failed may have been made all the same.
                Err(ConnectionError::Conflict) => {
                    let current = self.find(new.base.user, new.base.id).await?;
                    let ours = current.tokens.as_ref() == Some(&new.grant.tokens);
                    return if ours { Ok(current) } else { Err(ConnectionError::Conflict) };
                }
                Err(error @ ConnectionError::Store(_)) => error,
                Err(error) => return Err(error),
            };
            self.unwritten().insert(new.base.id, new.clone());
            match pauses.next() {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => return Err(error),
            }
        }
    }

    /// Says what was odd beside good tokens, and was dropped: once, not with each refresh that brings the same.
    fn note_oddities(&self, before: &Connection, now: &Connection) {
        if now.notes.is_empty() || now.notes == before.notes {
            return;
        }
        let (id, provider, notes) = (now.id, &now.provider, &now.notes);
        tracing::warn!(connection = %id, provider, ?notes, "what came with fresh tokens was odd");
        let about = About::connection(now.user, now.id).because(clean(&now.notes.join("; "), MAX_REASON));
        self.note(&OwnedSource::System, Action::RefreshConnection, Outcome::Success, about);
    }

    /// The provider does not honour the grant any more. The user and the app are told in the same commit.
    /// `lease` is the precondition that no other gateway refreshes meanwhile, where this one has asked the provider.
    async fn needs_consent(
        &self,
        base: &Connection,
        reason: &str,
        lease: Option<Change>,
    ) -> Result<(), ConnectionError> {
        let reason = clean(reason, MAX_REASON);
        let mail = self.tell_user(Letter::ReconnectNeeded, base, None).await?;
        let fault = ProviderFailure { at: self.now(), kind: FaultKind::InvalidGrant, reason: reason.clone() };
        let end = |connection: &mut Connection| {
            connection.end(Status::ReconnectNeeded);
            connection.last_fault = Some(fault.clone());
        };
        let others = mail.into_iter().chain(lease).collect();
        self.amend_and_tell(base, Some(NoticeKind::ReconnectNeeded), others, end).await?;
        self.wake();
        let about = About::connection(base.user, base.id).because(reason);
        self.note(&OwnedSource::System, Action::ReconnectNeeded, Outcome::Denied, about);
        Ok(())
    }

    /// Writes a failure down. Returns what the caller is told.
    async fn failed(
        &self,
        base: &Connection,
        failure: Failure,
        want: &Want,
        lease: Change,
    ) -> Result<ConnectionError, ConnectionError> {
        let (now, failures) = (self.now(), base.failures.saturating_add(1));
        let wait = backoff(failure.kind, failures, failure.retry_after, self.chance());
        let record = |connection: &mut Connection| {
            connection.failures = failures;
            connection.retry_at = Some(now.plus(wait));
            connection.last_fault =
                Some(ProviderFailure { at: now, kind: failure.kind, reason: failure.reason.clone() });
            // A refusal of our client credentials does not consume the refresh token; any other failure may have.
            if failure.kind == FaultKind::Misconfigured {
                connection.attempt = None;
            }
        };
        self.amend(base, vec![lease], record).await?;
        self.state.due.notify_one();
        let (connection, provider, reason) = (base.id, &base.provider, &failure.reason);
        tracing::warn!(%connection, provider, reason, failures, "a refresh failed; it is tried again");
        if failures == 1 && !matches!(want, Want::Now) {
            let about = About::connection(base.user, base.id).because(reason.clone());
            self.note(&OwnedSource::System, Action::RefreshConnection, Outcome::Failed, about);
        }
        Ok(Failure { retry_after: Some(wait), ..failure }.into())
    }

    /// Commits what `change` makes of the connection, together with `others`. Retries when another task writes the
    /// connection in between, but never overwrites tokens that `base` does not have. Returns it as written.
    pub(super) async fn amend(
        &self,
        base: &Connection,
        others: Vec<Change>,
        change: impl Fn(&mut Connection),
    ) -> Result<Connection, ConnectionError> {
        self.amend_and_tell(base, None, others, change).await
    }

    /// The same, and tells the app of what has become of it.
    pub(super) async fn amend_and_tell(
        &self,
        base: &Connection,
        notice: Option<NoticeKind>,
        others: Vec<Change>,
        change: impl Fn(&mut Connection),
    ) -> Result<Connection, ConnectionError> {
        let (mut known, others, change) = (Some(base.clone()), &others, &change);
        let decide = || {
            let known = known.take();
            async move {
                let mut current = match known {
                    Some(base) => base,
                    None => {
                        let current = self.find(base.user, base.id).await?;
                        if current.status != base.status || current.tokens != base.tokens {
                            standing(&current)?;
                            return Err(ConnectionError::Conflict);
                        }
                        current
                    }
                };
                change(&mut current);
                self.schedule(&mut current);
                // Made again for each try of the commit: the sequence number is that of the record as it is written.
                let notice = notice.map(|kind| self.tell_app(kind, &mut current));
                let mut changes = vec![Change::UpdateConnection(current.clone())];
                changes.extend(others.iter().cloned());
                changes.extend(notice);
                current.revision += 1;
                Ok(Decision::Commit(changes, current))
            }
        };
        self.retry_on_conflict(decide).await
    }
}

/// The error for a caller while the provider is not asked (backoff).
pub(super) fn waiting(connection: &Connection, wait: Duration) -> ConnectionError {
    let fault = connection.last_fault.as_ref();
    let kind = fault.map_or(FaultKind::Transient, |fault| fault.kind);
    let reason = fault.map_or("the provider was asked just now", |fault| &fault.reason);
    not_now(kind, reason, Some(wait))
}

fn not_now(kind: FaultKind, reason: &str, retry_after: Option<Duration>) -> ConnectionError {
    ConnectionError::Provider { kind, reason: reason.to_owned(), retry_after }
}
