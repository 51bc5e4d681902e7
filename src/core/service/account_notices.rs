//! Tells the app of accounts (`[accounts] webhook`): a notice is a task ([`Errand::NotifyOfAccount`]), enqueued by the commit of what
//! it is about. [`super::connections`] delivers it, in order for each account, beside the notices about connections.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;
use tokio::sync::Mutex;

use super::account_changes::AccountChange;
use super::accounts::Accounts;
use crate::domain::account::User;
use crate::domain::account_event::AccountEvent;
use crate::domain::task::{Errand, TaskKind, Work};
use crate::domain::time::UnixTime;
use crate::ports::{Change, StoreError};

/// How many notices wait at most, so that an app that is down for a day does not fill the store. Further ones are given up.
pub const MOST_WAITING: usize = 10_000;
/// 9999-12-31T23:59:59Z: what comes later cannot be written as a date (RFC 3339).
const LAST: u64 = 253_402_300_799;
/// How long nothing is enqueued once so many wait, in seconds.
const PAUSE: u64 = 10;

/// How many notices may be enqueued before those that wait are counted again.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    left: usize,
    /// Nothing is counted before this moment.
    again_at: UnixTime,
}

impl Accounts {
    /// The tasks that tell the app of `changes`, to be committed with them.
    pub(super) async fn telling(&self, changes: &[AccountChange]) -> Result<Vec<Change>, StoreError> {
        if !self.settings.tells_app {
            return Ok(Vec::new());
        }
        let now = self.now();
        let bodies =
            changes.iter().filter_map(|change| notice(change.before.as_ref(), change.after.as_ref(), now));
        let mut bodies: Vec<String> = bodies.collect();
        let allowed = self.allowed(&self.allowance, bodies.len()).await?;
        bodies.truncate(allowed);
        let tasks = bodies.into_iter().map(|body| {
            self.at_once(Work::Errand { made_at: now, tries: 0, errand: Errand::NotifyOfAccount(body) })
        });
        Ok(tasks.collect())
    }

    /// How many of `wanted` notices may be enqueued.
    async fn allowed(&self, allowance: &Mutex<Allowance>, wanted: usize) -> Result<usize, StoreError> {
        if wanted == 0 {
            return Ok(0);
        }
        let mut allowance = allowance.lock().await;
        let now = self.now();
        if allowance.left < wanted && allowance.again_at <= now {
            let waiting =
                self.store.due_tasks_of(TaskKind::AccountNotice, UnixTime::NEVER, MOST_WAITING).await?.len();
            allowance.left = MOST_WAITING - waiting.min(MOST_WAITING);
            if allowance.left < wanted {
                allowance.again_at = UnixTime(now.0.saturating_add(PAUSE));
                tracing::error!(
                    waiting,
                    "notices about accounts are given up: the app takes none. `palisade users export --since` tells what it \
                     has missed"
                );
            }
        }
        let allowed = wanted.min(allowance.left);
        allowance.left -= allowed;
        Ok(allowed)
    }
}

/// The notice of what makes `after` of `before` at `now`, as the Standard Webhooks specification has it (`type`,
/// `timestamp`, `data`); `None`: there is nothing to tell. Nothing in it is a secret, and its length is bounded.
fn notice(before: Option<&User>, after: Option<&User>, now: UnixTime) -> Option<String> {
    let (event, fields) = AccountEvent::of(before, after)?;
    let account = after.or(before)?.id;
    // Every write of the record raises its revision, so later notices have higher numbers.
    let sequence = before.map_or(1, |before| before.revision.saturating_add(2));
    let at = UNIX_EPOCH + Duration::from_secs(now.0.min(LAST));
    let mut body = json!({
        "type": event.name(),
        "timestamp": humantime::format_rfc3339_seconds(at).to_string(),
        "data": {"account": account, "sequence": sequence},
    });
    if !matches!(event, AccountEvent::Created | AccountEvent::Deleted) {
        body["data"]["fields"] = json!(fields);
    }
    Some(body.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::UserId;
    use serde_json::Value;
    use uuid::Uuid;

    fn ann() -> User {
        let email = "ann@example.com".parse().unwrap();
        let ann = User::new(UserId(Uuid::from_u128(7)), email, UnixTime(1));
        User { name: Some("Secret Name".into()), revision: 4, ..ann }
    }

    #[test]
    fn a_notice_names_the_account_and_no_value() {
        let after = User { name: Some("Other Name".into()), active: false, ..ann() };
        let body = notice(Some(&ann()), Some(&after), UnixTime(1_800_000_000)).unwrap();
        assert!(!body.contains("Name") && !body.contains("example.com"), "{body}");
        let value: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            value,
            json!({
                "type": "account.disabled", "timestamp": "2027-01-15T08:00:00Z",
                "data": {"account": Uuid::from_u128(7), "sequence": 6, "fields": ["name", "active"]},
            })
        );
        let sequence = |before: Option<&User>, after: Option<&User>| {
            let body: Value = serde_json::from_str(&notice(before, after, UnixTime(1)).unwrap()).unwrap();
            body["data"]["sequence"].as_u64().unwrap()
        };
        let new = User { revision: 0, ..ann() };
        let changed = User { name: None, ..new.clone() };
        let later = User { revision: 1, ..changed.clone() };
        let all = [
            sequence(None, Some(&new)),
            sequence(Some(&new), Some(&changed)),
            sequence(Some(&later), Some(&ann())),
            sequence(Some(&User { revision: 2, ..later.clone() }), None),
        ];
        assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
    }
}
