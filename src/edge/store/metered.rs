//! Any store, with the time that each call takes told to the meter. It must change no answer.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use palisade_core::domain::account::{User, UserId};
use palisade_core::domain::audit::Event;
use palisade_core::domain::connection::{Connection, ConnectionId};
use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::link::Link;
use palisade_core::domain::mail::Mail;
use palisade_core::domain::mail_cap::{Mailbox, MailboxId};
use palisade_core::domain::opaque::TokenHash;
use palisade_core::domain::revocation::{Begun, Revocation, Target, Versions};
use palisade_core::domain::session::{Session, SessionId};
use palisade_core::domain::task::Task;
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::trusted_time::Mark;
use palisade_core::ports::{Change, CommitError, Compacted, Meter, Store, StoreError, StoreStatus, Swept};

/// A store whose calls are counted.
pub struct MeteredStore {
    store: Arc<dyn Store>,
    meter: Arc<dyn Meter>,
}

impl MeteredStore {
    /// Wraps `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, meter: Arc<dyn Meter>) -> MeteredStore {
        MeteredStore { store, meter }
    }

    async fn metered<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        let outcome = call.await;
        self.meter.store_call(name, begun.elapsed(), outcome.is_ok());
        outcome
    }
}

#[async_trait]
impl Store for MeteredStore {
    async fn commit(&self, changes: Vec<Change>) -> Result<Vec<Revocation>, CommitError> {
        let begun = Instant::now();
        let outcome = self.store.commit(changes).await;
        // A refusal is the store at its work, not a failure of it.
        let ok = !matches!(outcome, Err(CommitError::Store(_)));
        self.meter.store_call("commit", begun.elapsed(), ok);
        outcome
    }

    async fn version(&self, issuer: &str, sub: &str) -> Result<u64, StoreError> {
        self.metered("version", self.store.version(issuer, sub)).await
    }

    async fn generation(&self, issuer: &str) -> Result<u64, StoreError> {
        self.metered("generation", self.store.generation(issuer)).await
    }

    async fn versions(&self, issuer: &str, sub: &str) -> Result<Versions, StoreError> {
        self.metered("version", self.store.versions(issuer, sub)).await
    }

    async fn each_revocation(
        &self,
        now: UnixTime,
        each: &mut (dyn FnMut(Revocation) + Send),
    ) -> Result<(), StoreError> {
        self.metered("each_revocation", self.store.each_revocation(now, each)).await
    }

    async fn recent_revocations(&self, limit: usize) -> Result<Vec<Revocation>, StoreError> {
        self.metered("recent_revocations", self.store.recent_revocations(limit)).await
    }

    async fn revocation(&self, target: &Target) -> Result<Option<Revocation>, StoreError> {
        self.metered("revocation", self.store.revocation(target)).await
    }

    async fn is_cut(&self, begun: &Begun<'_>) -> Result<bool, StoreError> {
        self.metered("is_cut", self.store.is_cut(begun)).await
    }

    async fn user(&self, id: UserId) -> Result<Option<User>, StoreError> {
        self.metered("user", self.store.user(id)).await
    }

    async fn user_by_email(&self, email: &EmailAddress) -> Result<Option<User>, StoreError> {
        self.metered("user_by_email", self.store.user_by_email(email)).await
    }

    async fn users(&self, after: Option<UserId>, limit: usize) -> Result<Vec<User>, StoreError> {
        self.metered("users", self.store.users(after, limit)).await
    }

    async fn session(&self, user: UserId, id: SessionId) -> Result<Option<Session>, StoreError> {
        self.metered("session", self.store.session(user, id)).await
    }

    async fn sessions(&self, user: UserId) -> Result<Vec<Session>, StoreError> {
        self.metered("sessions", self.store.sessions(user)).await
    }

    async fn find_session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        self.metered("find_session", self.store.find_session(id)).await
    }

    async fn all_sessions(
        &self,
        after: Option<(UserId, SessionId)>,
        limit: usize,
    ) -> Result<Vec<Session>, StoreError> {
        self.metered("all_sessions", self.store.all_sessions(after, limit)).await
    }

    async fn connection(&self, user: UserId, id: ConnectionId) -> Result<Option<Connection>, StoreError> {
        self.metered("connection", self.store.connection(user, id)).await
    }

    async fn connections(&self, user: UserId) -> Result<Vec<Connection>, StoreError> {
        self.metered("connections", self.store.connections(user)).await
    }

    async fn all_connections(
        &self,
        after: Option<(UserId, ConnectionId)>,
        limit: usize,
    ) -> Result<Vec<Connection>, StoreError> {
        self.metered("all_connections", self.store.all_connections(after, limit)).await
    }

    async fn due_connections(&self, now: UnixTime, limit: usize) -> Result<Vec<Connection>, StoreError> {
        self.metered("due_connections", self.store.due_connections(now, limit)).await
    }

    async fn link(&self, hash: &TokenHash) -> Result<Option<Link>, StoreError> {
        self.metered("link", self.store.link(hash)).await
    }

    async fn due_tasks(&self, now: UnixTime, limit: usize) -> Result<Vec<Task>, StoreError> {
        self.metered("due_tasks", self.store.due_tasks(now, limit)).await
    }

    async fn due_mails(&self, now: UnixTime, limit: usize) -> Result<Vec<Mail>, StoreError> {
        self.metered("due_mails", self.store.due_mails(now, limit)).await
    }

    async fn mailbox(&self, id: MailboxId) -> Result<Option<Mailbox>, StoreError> {
        self.metered("mailbox", self.store.mailbox(id)).await
    }

    async fn mails(&self, limit: usize) -> Result<Vec<Mail>, StoreError> {
        self.metered("mails", self.store.mails(limit)).await
    }

    async fn events(&self, user: Option<UserId>, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.metered("events", self.store.events(user, limit)).await
    }

    async fn clock_mark(&self) -> Result<Option<Mark>, StoreError> {
        self.metered("clock_mark", self.store.clock_mark()).await
    }

    async fn latest_moment(&self) -> Result<Option<UnixTime>, StoreError> {
        self.metered("latest_moment", self.store.latest_moment()).await
    }

    async fn sweep(&self, now: UnixTime) -> Result<Swept, StoreError> {
        self.metered("sweep", self.store.sweep(now)).await
    }

    async fn compact(&self) -> Result<Compacted, StoreError> {
        self.metered("compact", self.store.compact()).await
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
        let store = MeteredStore::new(inner.clone(), calls.clone());
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
}
