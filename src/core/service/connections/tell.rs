//! Telling of what becomes of a connection: its user by mail, the app by a webhook notice.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;

use super::Connections;
use crate::domain::connection::Connection;
use crate::domain::mail::{Facts, Letter, Mail};
use crate::domain::task::{Errand, Task, Work};
use crate::domain::time::UnixTime;
use crate::ports::{Change, StoreError};

/// 9999-12-31T23:59:59Z: what comes later cannot be written as a date (RFC 3339).
const LAST: u64 = 253_402_300_799;

/// What a notice to the app is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoticeKind {
    Connected,
    ReconnectNeeded,
    /// The grant ends soon.
    Ending,
    Revoked,
}

impl NoticeKind {
    fn name(self) -> &'static str {
        match self {
            NoticeKind::Connected => "connection.connected",
            NoticeKind::ReconnectNeeded => "connection.reconnect_needed",
            NoticeKind::Ending => "connection.ending",
            NoticeKind::Revoked => "connection.revoked",
        }
    }
}

impl Connections {
    /// Tells the app how `connection` stands, once this is committed together with it: the notice takes the next of
    /// its sequence numbers. The payload is as the Standard Webhooks specification has it: `type`, `timestamp`,
    /// `data`. Nothing in it is a secret, and its length is bounded.
    pub(super) fn tell_app(&self, kind: NoticeKind, connection: &mut Connection) -> Change {
        connection.notices += 1;
        let now = self.now();
        let at = UNIX_EPOCH + Duration::from_secs(now.0.min(LAST));
        let body = json!({
            "type": kind.name(),
            "timestamp": humantime::format_rfc3339_seconds(at).to_string(),
            "data": {
                "connection": connection.id,
                "user": connection.user,
                "provider": connection.provider,
                "sequence": connection.notices,
                "status": connection.status.word(),
                "connected_at": connection.connected_at,
                "expires_at": connection.expires_at,
                "refresh_expires_at": connection.refresh_expires_at,
            },
        });
        self.errand(Errand::Notify(body.to_string()), UnixTime(0))
    }

    /// Something to be done elsewhere, not before `due_at`.
    pub(super) fn errand(&self, errand: Errand, due_at: UnixTime) -> Change {
        let work = Work::Errand { made_at: self.now(), tries: 0, errand };
        Change::CreateTask(Task { id: self.entropy.uuid(), due_at, work })
    }

    /// Tells the user, once this is committed; nothing when their account is gone or has no address.
    pub(super) async fn tell_user(
        &self,
        letter: Letter,
        connection: &Connection,
        ends_at: Option<UnixTime>,
    ) -> Result<Option<Change>, StoreError> {
        let Some(user) = self.store.user(connection.user).await? else { return Ok(None) };
        let Some(to) = user.email else { return Ok(None) };
        let info = self.providers.get(&connection.provider);
        let provider = info.map_or_else(|| connection.provider.clone(), |info| info.display_name);
        let now = self.now();
        let facts = Facts { at: Some(now), provider: Some(provider), ends_at, ..Facts::default() };
        let mail = Mail::new(self.entropy.uuid(), letter, to, now);
        let (verified, name) = (user.email_verified, user.name.filter(|_| user.email_verified));
        Ok(Some(Change::PutMail(Mail { verified, name, facts, ..mail })))
    }

    /// Wakes the workers of the tasks that a commit enqueued.
    pub(super) fn wake(&self) {
        self.state.tasks.notify_one();
        self.outbox.notify_one();
        self.state.due.notify_one();
    }
}
