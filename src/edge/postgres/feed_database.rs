//! The calls of a replica, in SQL. The functions are in `schema/`.

use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_postgres::Notification;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::connect::{DatabasePool, DatabaseSession};
use super::feed_calls::{
    ConfirmAnswer, ConfirmCall, FeedCalls, FeedListener, FeedNews, FeedNotice, FeedPlace, RegisterAnswer,
    RegisterCall, ReplicaRows, RevocationPage,
};
use super::numbers::{from_bigint, to_bigint};
use super::record::{self, RevocationColumns};
use palisade_core::ports::StoreError;

/// How many revocations one page of the whole set has.
const PAGE: i32 = 10_000;
/// How many entries are read at once.
const ENTRIES: i32 = 500;
/// How many connections confirmations and reads have for themselves: no load of other work keeps a replica from
/// confirming.
pub(super) const CONNECTIONS: usize = 3;
/// How long a message on the connection for notices may take.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(3);

/// The calls, over connections of their own.
pub struct FeedDatabase {
    calls: DatabasePool,
    notices: DatabasePool,
}

impl FeedDatabase {
    /// `store`: the database. `notices`: the same one, by an address at which `LISTEN` works; the store's where there
    /// is none of its own.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the settings name no host.
    pub fn new(store: &DatabasePool, notices: &DatabasePool) -> Result<FeedDatabase, StoreError> {
        Ok(FeedDatabase {
            calls: DatabasePool::new(store.settings().with_size(CONNECTIONS))?,
            notices: notices.clone(),
        })
    }

    /// Calls a function that writes, in one message.
    async fn write<A: Serialize, T: DeserializeOwned>(
        &self,
        function: &str,
        asked: &A,
    ) -> Result<Option<T>, StoreError> {
        let asked = serde_json::to_vec(asked).map_err(unreadable)?;
        let answer = self.calls.call(&format!("palisade.{function}('{}')", STANDARD.encode(asked))).await?;
        answer.map(|text| serde_json::from_str(&text).map_err(unreadable)).transpose()
    }

    async fn read<T: DeserializeOwned>(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<T, StoreError> {
        let rows = self.calls.read(sql, parameters).await?;
        let text: &str = rows.first().ok_or_else(nothing)?.try_get(0).map_err(unreadable)?;
        serde_json::from_str(text).map_err(unreadable)
    }
}

fn unreadable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unreadable(format!(
        "what the database answers about replicas and their feed cannot be read: {error}"
    ))
}

fn nothing() -> StoreError {
    StoreError::Unavailable("the database answered with nothing about replicas and their feed".to_owned())
}

#[async_trait]
impl FeedCalls for FeedDatabase {
    async fn register(&self, registration: &RegisterCall) -> Result<RegisterAnswer, StoreError> {
        self.write("register_1", registration).await?.ok_or_else(nothing)
    }

    async fn confirm(&self, confirm: &ConfirmCall) -> Result<Option<ConfirmAnswer>, StoreError> {
        self.write("confirm_1", confirm).await
    }

    async fn expire(&self, id: Uuid, confirms: u64) -> Result<bool, StoreError> {
        let asked = serde_json::json!({ "id": id, "confirms": confirms });
        self.write("expire_1", &asked).await?.ok_or_else(nothing)
    }

    async fn lost(&self, why: &str) -> Result<(), StoreError> {
        self.write::<_, bool>("lost_1", &serde_json::json!({ "why": why })).await.map(drop)
    }

    async fn leave(&self, id: Uuid) -> Result<(), StoreError> {
        self.write::<_, bool>("leave_1", &serde_json::json!({ "id": id })).await.map(drop)
    }

    async fn replicas(&self) -> Result<ReplicaRows, StoreError> {
        self.read("SELECT palisade.replicas_1()::text", &[]).await
    }

    async fn news(&self, place: FeedPlace) -> Result<FeedNews, StoreError> {
        let since = to_bigint(place.position);
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&since, Type::INT8), (&place.entry, Type::UUID), (&ENTRIES, Type::INT4)];
        self.read("SELECT palisade.entries_1($1, $2, $3)::text", &parameters).await
    }

    async fn revocations(&self, after: Option<Vec<u8>>) -> Result<RevocationPage, StoreError> {
        // The limit of the head is for the planner, which else takes this for work that is worth a compiler (JIT).
        let sql = "SELECT h.position, r.key, r.lim, r.expires_at, r.created_at, r.version, r.reason \
                   FROM (SELECT position FROM palisade.head LIMIT 1) h \
                   LEFT JOIN LATERAL (SELECT * FROM palisade.revocations WHERE key > $1 ORDER BY key LIMIT $2) r ON true \
                   ORDER BY r.key";
        let after = after.unwrap_or_default();
        let rows = self.calls.read(sql, &[(&after, Type::BYTEA), (&PAGE, Type::INT4)]).await?;
        let head = from_bigint(rows.first().ok_or_else(nothing)?.try_get(0).map_err(unreadable)?);
        let mut page = RevocationPage { head, revocations: Vec::with_capacity(rows.len()), next: None };
        for row in &rows {
            let Some(key) = row.try_get::<_, Option<&[u8]>>(1).map_err(unreadable)? else { break };
            let columns = RevocationColumns {
                lim: row.try_get(2).map_err(unreadable)?,
                expires_at: row.try_get(3).map_err(unreadable)?,
                created_at: row.try_get(4).map_err(unreadable)?,
                version: row.try_get(5).map_err(unreadable)?,
                reason: row.try_get(6).map_err(unreadable)?,
            };
            page.revocations.push(record::revocation(key, columns)?);
            page.next = Some(key.to_vec());
        }
        if i32::try_from(page.revocations.len()).is_ok_and(|count| count < PAGE) {
            page.next = None;
        }
        Ok(page)
    }

    async fn prune(&self) -> Result<u64, StoreError> {
        let rows = self.calls.write("SELECT palisade.prune_feed_1()").await?;
        let pruned = rows.into_iter().flatten().next().flatten();
        pruned.ok_or_else(nothing)?.parse().map_err(unreadable)
    }

    async fn listen(&self) -> Result<Box<dyn FeedListener>, StoreError> {
        let (session, notices) = self.notices.dedicated().await?;
        let listen = "LISTEN palisade_feed; LISTEN palisade_confirmed; LISTEN palisade_echo";
        session.message(listen, LISTEN_TIMEOUT).await?;
        let calls = self.calls.clone();
        Ok(Box::new(PgListener { calls, _session: session, notices, own: Uuid::now_v7() }))
    }
}

/// The connection for notices.
struct PgListener {
    /// Other connections, by which notices are asked for: a pooler in transaction mode hands on those that a connection
    /// sends itself, and no others.
    calls: DatabasePool,
    /// Listens for as long as it is held.
    _session: DatabaseSession,
    notices: mpsc::Receiver<Notification>,
    /// Tells the echoes of this one from those of others.
    own: Uuid,
}

#[async_trait]
impl FeedListener for PgListener {
    async fn ask(&mut self, number: u64) -> Result<(), StoreError> {
        let message = format!("SELECT pg_catalog.pg_notify('palisade_echo', '{} {number}')", self.own);
        self.calls.message(&message).await?;
        Ok(())
    }

    async fn next(&mut self) -> Result<FeedNotice, StoreError> {
        loop {
            let notice = self.notices.recv().await;
            let notice =
                notice.ok_or_else(|| StoreError::Unavailable("the connection has ended".to_owned()))?;
            let echo = || {
                let (own, number) = notice.payload().split_once(' ')?;
                (own == self.own.to_string()).then(|| number.parse().ok())?
            };
            match notice.channel() {
                "palisade_feed" => return Ok(FeedNotice::Entries),
                "palisade_confirmed" => return Ok(FeedNotice::Confirmed),
                _ => {
                    if let Some(number) = echo() {
                        return Ok(FeedNotice::Echo(number));
                    }
                }
            }
        }
    }
}
