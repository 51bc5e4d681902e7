//! Any store, and what looks on: it is told of each call, of each revocation and of each sweep. It must change no
//! answer, but that a commit is not acknowledged before what it has ended is kept ([`EndsKeeper`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use uuid::Uuid;

use palisade_core::domain::account::{User, UserId};
use palisade_core::domain::audit::Event;
use palisade_core::domain::connection::{Connection, ConnectionId};
use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::ends::End;
use palisade_core::domain::link::Link;
use palisade_core::domain::mail::Mail;
use palisade_core::domain::mail_cap::{Mailbox, MailboxId};
use palisade_core::domain::opaque::TokenHash;
use palisade_core::domain::provider_identity::ProviderIdentity;
use palisade_core::domain::revocation::{Begun, Revocation, Target, Versions};
use palisade_core::domain::session::{Session, SessionId};
use palisade_core::domain::task::{Task, TaskKind};
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::trusted_time::Mark;
use palisade_core::domain::username::Username;
use palisade_core::ports::{
    Change, CommitError, Committed, Compacted, EndsKeeper, EndsNotKept, ImportError, InForce, Meter,
    Position, RecordCursor, RecordPage, RecordSource, Records, SharedNotes, Store, StoreError, StoreStatus,
    Subscription, SubscriptionError, Swept, Upgrade,
};
use palisade_core::service::ends::ends_of;

/// What is told of the calls of a store. It is called in the task of the call, so it must not block.
pub trait StoreObserver: Send + Sync {
    /// A call of this name has ended. `worked`: it was answered, be it by a refusal.
    fn called(&self, call: &'static str, took: Duration, worked: bool) {
        let _ = (call, took, worked);
    }

    /// A revocation is durable and in force, and its commit is not answered yet.
    fn revoked(&self, revocation: &Revocation) {
        let _ = revocation;
    }

    /// What had ended by then is forgotten.
    fn swept(&self, now: UnixTime) {
        let _ = now;
    }
}

/// Tells a meter of the time that each call takes.
pub struct MeterObserver(pub Arc<dyn Meter>);

impl StoreObserver for MeterObserver {
    fn called(&self, call: &'static str, took: Duration, worked: bool) {
        self.0.store_call(call, took, worked);
    }
}

/// A store whose calls are observed.
pub struct ObservedStore {
    pub(super) store: Arc<dyn Store>,
    /// In the order in which they are told.
    observers: Arc<[Arc<dyn StoreObserver>]>,
    /// What keeps the ends outside of the store, if they are kept.
    ends: Option<Arc<dyn EndsKeeper>>,
}

impl ObservedStore {
    /// Wraps `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, observers: Vec<Arc<dyn StoreObserver>>) -> ObservedStore {
        ObservedStore { store, observers: observers.into(), ends: None }
    }

    /// The same, with the ends of each commit kept before it is answered.
    #[must_use]
    pub fn with_ends(self, keeper: Arc<dyn EndsKeeper>) -> ObservedStore {
        ObservedStore { ends: Some(keeper), ..self }
    }

    pub(super) async fn observed<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        let outcome = call.await;
        self.observers.iter().for_each(|observer| observer.called(name, begun.elapsed(), outcome.is_ok()));
        outcome
    }
}

/// Keeps ends, with all that waited before them.
async fn keep(keeper: Arc<dyn EndsKeeper>, ends: Vec<End>) -> Result<(), StoreError> {
    // Files block.
    let kept = tokio::task::spawn_blocking(move || keeper.keep(ends)).await;
    Ok(kept.map_err(|error| EndsNotKept(error.to_string())).flatten()?)
}

#[async_trait]
impl Records for ObservedStore {
    async fn records(&self, after: Option<RecordCursor>, limit: usize) -> Result<RecordPage, StoreError> {
        self.observed("records", self.store.records(after, limit)).await
    }

    async fn import_begun(&self) -> Result<Option<u64>, StoreError> {
        self.observed("import_begun", self.store.import_begun()).await
    }

    async fn resume_import(&self, source: &mut dyn RecordSource) -> Result<u64, ImportError> {
        // Of use before a start only, which reads the whole set of revocations.
        self.store.resume_import(source).await
    }

    async fn closed_for(&self) -> Result<Option<String>, StoreError> {
        self.observed("closed_for", self.store.closed_for()).await
    }

    async fn set_closed(&self, what: Option<String>) -> Result<(), StoreError> {
        self.observed("set_closed", self.store.set_closed(what)).await
    }

    async fn snapshot(&self) -> Result<Box<dyn RecordSource>, StoreError> {
        self.observed("snapshot", self.store.snapshot()).await
    }

    async fn import(&self, source: &mut dyn RecordSource) -> Result<u64, ImportError> {
        let begun = Instant::now();
        let outcome = self.store.import(source).await;
        self.observers
            .iter()
            .for_each(|observer| observer.called("import", begun.elapsed(), outcome.is_ok()));
        let count = outcome?;
        let mut in_force =
            |entry: Revocation| self.observers.iter().for_each(|observer| observer.revoked(&entry));
        self.store.each_revocation(UnixTime(0), &mut in_force).await?;
        Ok(count)
    }
}

#[async_trait]
impl Store for ObservedStore {
    async fn commit(&self, changes: Vec<Change>) -> Result<Committed, CommitError> {
        let (store, observers) = (Arc::clone(&self.store), Arc::clone(&self.observers));
        let in_force = InForce::of(&changes);
        let kept = self.ends.clone().map(|keeper| (keeper, changes.clone()));
        // Runs to the end even when the caller goes away: a revocation on the disk that no observer heard of would
        // come into force only at the next start.
        let work = tokio::spawn(async move {
            let begun = Instant::now();
            let outcome = store.commit(changes).await;
            // A refusal is the store at its work, not a failure of it.
            let worked = outcome.as_ref().err().is_none_or(CommitError::is_overtaken);
            observers.iter().for_each(|observer| observer.called("commit", begun.elapsed(), worked));
            let committed = outcome?;
            for entry in in_force.among(&committed.revocations) {
                observers.iter().for_each(|observer| observer.revoked(entry));
            }
            if let Some((keeper, changes)) = kept {
                let revoked: Vec<Revocation> = in_force.among(&committed.revocations).cloned().collect();
                let ends = ends_of(&changes, &revoked);
                if !ends.is_empty() {
                    keep(keeper, ends).await?;
                }
            }
            Ok(committed)
        });
        work.await.map_err(|e| StoreError::Unavailable(e.to_string()))?
    }

    async fn await_in_force(&self) -> Result<(), StoreError> {
        self.observed("await_in_force", self.store.await_in_force()).await?;
        match self.ends.clone() {
            Some(keeper) => keep(keeper, Vec::new()).await,
            None => Ok(()),
        }
    }

    fn position(&self) -> Position {
        self.store.position()
    }

    async fn subscribe(&self, since: Position) -> Result<Box<dyn Subscription>, SubscriptionError> {
        self.store.subscribe(since).await
    }

    async fn version(&self, issuer: &str, sub: &str) -> Result<u64, StoreError> {
        self.observed("version", self.store.version(issuer, sub)).await
    }

    async fn generation(&self, issuer: &str) -> Result<u64, StoreError> {
        self.observed("generation", self.store.generation(issuer)).await
    }

    async fn versions(&self, issuer: &str, sub: &str) -> Result<Versions, StoreError> {
        self.observed("version", self.store.versions(issuer, sub)).await
    }

    async fn each_revocation(
        &self,
        now: UnixTime,
        each: &mut (dyn FnMut(Revocation) + Send),
    ) -> Result<(), StoreError> {
        self.observed("each_revocation", self.store.each_revocation(now, each)).await
    }

    async fn recent_revocations(&self, limit: usize) -> Result<Vec<Revocation>, StoreError> {
        self.observed("recent_revocations", self.store.recent_revocations(limit)).await
    }

    async fn revocation(&self, target: &Target) -> Result<Option<Revocation>, StoreError> {
        self.observed("revocation", self.store.revocation(target)).await
    }

    async fn is_cut(&self, begun: &Begun<'_>) -> Result<bool, StoreError> {
        self.observed("is_cut", self.store.is_cut(begun)).await
    }

    async fn user(&self, id: UserId) -> Result<Option<User>, StoreError> {
        self.observed("user", self.store.user(id)).await
    }

    async fn user_by_email(&self, email: &EmailAddress) -> Result<Option<User>, StoreError> {
        self.observed("user_by_email", self.store.user_by_email(email)).await
    }

    async fn user_by_username(&self, name: &Username) -> Result<Option<User>, StoreError> {
        self.observed("user_by_username", self.store.user_by_username(name)).await
    }

    async fn user_by_identity(&self, identity: &ProviderIdentity) -> Result<Option<User>, StoreError> {
        self.observed("user_by_identity", self.store.user_by_identity(identity)).await
    }

    async fn gone_users(&self, since: UnixTime) -> Result<Vec<(UserId, UnixTime)>, StoreError> {
        self.observed("gone_users", self.store.gone_users(since)).await
    }

    async fn username_owner(&self, name: &Username) -> Result<Option<UserId>, StoreError> {
        self.observed("username_owner", self.store.username_owner(name)).await
    }

    async fn is_upgraded(&self, upgrade: Upgrade) -> Result<bool, StoreError> {
        self.observed("is_upgraded", self.store.is_upgraded(upgrade)).await
    }

    async fn users(&self, after: Option<UserId>, limit: usize) -> Result<Vec<User>, StoreError> {
        self.observed("users", self.store.users(after, limit)).await
    }

    async fn session(&self, user: UserId, id: SessionId) -> Result<Option<Session>, StoreError> {
        self.observed("session", self.store.session(user, id)).await
    }

    async fn sessions(&self, user: UserId) -> Result<Vec<Session>, StoreError> {
        self.observed("sessions", self.store.sessions(user)).await
    }

    async fn find_session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        self.observed("find_session", self.store.find_session(id)).await
    }

    async fn all_sessions(
        &self,
        after: Option<(UserId, SessionId)>,
        limit: usize,
    ) -> Result<Vec<Session>, StoreError> {
        self.observed("all_sessions", self.store.all_sessions(after, limit)).await
    }

    async fn connection(&self, user: UserId, id: ConnectionId) -> Result<Option<Connection>, StoreError> {
        self.observed("connection", self.store.connection(user, id)).await
    }

    async fn connections(&self, user: UserId) -> Result<Vec<Connection>, StoreError> {
        self.observed("connections", self.store.connections(user)).await
    }

    async fn all_connections(
        &self,
        after: Option<(UserId, ConnectionId)>,
        limit: usize,
    ) -> Result<Vec<Connection>, StoreError> {
        self.observed("all_connections", self.store.all_connections(after, limit)).await
    }

    async fn due_connections(&self, now: UnixTime, limit: usize) -> Result<Vec<Connection>, StoreError> {
        self.observed("due_connections", self.store.due_connections(now, limit)).await
    }

    async fn link(&self, hash: &TokenHash) -> Result<Option<Link>, StoreError> {
        self.observed("link", self.store.link(hash)).await
    }

    async fn task(&self, id: Uuid) -> Result<Option<Task>, StoreError> {
        self.observed("task", self.store.task(id)).await
    }

    async fn due_tasks_of(
        &self,
        kind: TaskKind,
        now: UnixTime,
        limit: usize,
    ) -> Result<Vec<Task>, StoreError> {
        self.observed("due_tasks", self.store.due_tasks_of(kind, now, limit)).await
    }

    async fn due_mails(&self, now: UnixTime, limit: usize) -> Result<Vec<Mail>, StoreError> {
        self.observed("due_mails", self.store.due_mails(now, limit)).await
    }

    async fn mail(&self, id: Uuid) -> Result<Option<Mail>, StoreError> {
        self.observed("mail", self.store.mail(id)).await
    }

    async fn mailbox(&self, id: MailboxId) -> Result<Option<Mailbox>, StoreError> {
        self.observed("mailbox", self.store.mailbox(id)).await
    }

    async fn mails(&self, limit: usize) -> Result<Vec<Mail>, StoreError> {
        self.observed("mails", self.store.mails(limit)).await
    }

    async fn events(&self, user: Option<UserId>, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.observed("events", self.store.events(user, limit)).await
    }

    async fn clock_mark(&self) -> Result<Option<Mark>, StoreError> {
        self.observed("clock_mark", self.store.clock_mark()).await
    }

    async fn latest_moment(&self) -> Result<Option<UnixTime>, StoreError> {
        self.observed("latest_moment", self.store.latest_moment()).await
    }

    async fn sweep(&self, now: UnixTime) -> Result<Swept, StoreError> {
        let swept = self.observed("sweep", self.store.sweep(now)).await?;
        self.observers.iter().for_each(|observer| observer.swept(now));
        Ok(swept)
    }

    async fn compact(&self) -> Result<Compacted, StoreError> {
        self.observed("compact", self.store.compact()).await
    }

    fn shared_notes(&self) -> Option<&dyn SharedNotes> {
        self.store.shared_notes()
    }

    fn status(&self) -> StoreStatus {
        self.store.status()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use palisade_core::ports::Ended;
    use palisade_testing::fakes::{FakeStore, NOW};

    #[derive(Default)]
    struct Calls(Mutex<Vec<(&'static str, bool)>>);

    impl Meter for Calls {
        fn ended(&self, _: &Ended<'_>) {}
        fn token_cache(&self, _: bool) {}
        fn store_call(&self, call: &'static str, _: Duration, ok: bool) {
            self.0.lock().unwrap().push((call, ok));
        }
        fn mail(&self, _: &'static str) {}
        fn password(&self, _: Duration, _: Duration) {}
        fn jwks_fetch(&self, _: &str, _: bool) {}
        fn provider_call(&self, _: &str, _: &'static str, _: &'static str, _: Duration) {}
        fn provider_request(&self, _: &str, _: &'static str) {}
        fn plugin_reload(&self, _: &str, _: &'static str) {}
    }

    #[tokio::test]
    async fn every_call_is_told_with_its_name_and_whether_the_store_worked() {
        let (inner, calls) = (Arc::new(FakeStore::default()), Arc::new(Calls::default()));
        let meter = Arc::new(MeterObserver(calls.clone()));
        let store = ObservedStore::new(inner.clone(), vec![meter]);
        store.raise_version("i", "ann", NOW, NOW, None).await.unwrap();
        assert_eq!(store.version("i", "ann").await.unwrap(), 1);
        let gone = Change::ConsumeLink(TokenHash::of(b"gone"));
        assert!(matches!(store.commit(vec![gone]).await, Err(CommitError::Conflict)));
        store.sweep(NOW).await.unwrap();
        inner.fail();
        assert!(store.commit(Vec::new()).await.is_err());
        let told = calls.0.lock().unwrap().clone();
        let expected =
            [("commit", true), ("version", true), ("commit", true), ("sweep", true), ("commit", false)];
        assert_eq!(told, expected);
    }

    /// Fails, as often as it is asked; or keeps.
    #[derive(Default)]
    struct Keeper {
        fails: std::sync::atomic::AtomicBool,
        kept: Mutex<Vec<End>>,
    }

    impl EndsKeeper for Keeper {
        fn keep(&self, ends: Vec<End>) -> Result<(), EndsNotKept> {
            self.kept.lock().unwrap().extend(ends);
            match self.fails.load(std::sync::atomic::Ordering::Relaxed) {
                true => Err(EndsNotKept("no room".to_owned())),
                false => Ok(()),
            }
        }
    }

    #[tokio::test]
    async fn a_commit_whose_ends_are_not_kept_stands_and_is_not_acknowledged() {
        let (inner, keeper) = (Arc::new(FakeStore::default()), Arc::new(Keeper::default()));
        let store = ObservedStore::new(inner.clone(), Vec::new()).with_ends(keeper.clone());
        keeper.fails.store(true, std::sync::atomic::Ordering::Relaxed);
        let outcome = store.raise_version("i", "ann", NOW, NOW, None).await;
        assert!(matches!(outcome, Err(StoreError::EndsNotKept(_))), "{outcome:?}");
        assert_eq!(inner.version("i", "ann").await.unwrap(), 1);
        let repeated = store.await_in_force().await;
        assert!(matches!(repeated, Err(StoreError::EndsNotKept(_))), "nothing is left to do: {repeated:?}");
        let nothing = store.commit(Vec::new()).await;
        assert!(nothing.is_ok(), "a commit that ends nothing is answered as ever: {nothing:?}");
        keeper.fails.store(false, std::sync::atomic::Ordering::Relaxed);
        store.raise_version("i", "ann", NOW, NOW, None).await.unwrap();
        assert_eq!(keeper.kept.lock().unwrap().len(), 2);
    }
}
