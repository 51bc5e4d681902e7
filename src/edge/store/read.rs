//! What the store is asked, over the engine. Nothing here writes, and nothing here may run in a task.
//!
//! The writer goes on meanwhile: what an index names may be gone, or changed, by the time it is looked up.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::ops::Range;

use ::sled::IVec;
use serde::de::DeserializeOwned;

use super::keys::{self, Key, Table};
use super::record::{Standing, decode, decode_revocation, decode_session};
use super::trees::Trees;
use palisade_core::domain::account::{User, UserId};
use palisade_core::domain::audit::Event;
use palisade_core::domain::connection::{Connection, ConnectionId};
use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::mail::Mail;
use palisade_core::domain::provider_identity::IdentityFingerprint;
use palisade_core::domain::revocation::{Revocation, Target};
use palisade_core::domain::session::{Session, SessionId};
use palisade_core::domain::task::{Task, TaskKind};
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::username::Username;
use palisade_core::ports::{GONE_EVENTS_LIFE, StoreError, Upgrade};

/// How many entries one visit reads.
pub(super) const PAGE: usize = 4096;

/// The record at `key`.
pub(super) fn at<T: DeserializeOwned>(trees: &Trees, key: &[u8]) -> Result<Option<T>, StoreError> {
    trees.get(key)?.map(|bytes| decode(key, &bytes)).transpose()
}

/// The record of an entry of the tree.
fn whole<T: DeserializeOwned>(entry: Result<(IVec, IVec), StoreError>) -> Result<T, StoreError> {
    let (key, bytes) = entry?;
    decode(&key, &bytes)
}

fn standing(entry: Result<(IVec, IVec), StoreError>) -> Result<Standing, StoreError> {
    let (key, bytes) = entry?;
    decode_revocation(&key, &bytes)
}

fn whole_session(entry: Result<(IVec, IVec), StoreError>) -> Result<Session, StoreError> {
    let (key, bytes) = entry?;
    decode_session(&key, &bytes)
}

/// What there is to do, without what a newer program has left there for itself.
fn ours<T>(found: Result<T, StoreError>) -> Option<Result<T, StoreError>> {
    (!matches!(found, Err(StoreError::Newer(_)))).then_some(found)
}

pub(super) fn key_checks(trees: &Trees) -> Result<BTreeMap<String, String>, StoreError> {
    trees
        .under(&keys::all(Table::KeyCheck))
        .map(|entry| {
            let (key, bytes) = entry?;
            Ok((keys::checked_file(&key)?, decode(&key, &bytes)?))
        })
        .collect()
}

pub(super) fn user_by_email(trees: &Trees, email: &EmailAddress) -> Result<Option<User>, StoreError> {
    let owner: Option<UserId> = at(trees, &keys::email(email))?;
    let user: Option<User> = match owner {
        Some(id) => at(trees, &keys::user(id))?,
        None => None,
    };
    // Between the two looks the account may have got another address.
    Ok(user.filter(|user| user.addresses().any(|owned| owned == email)))
}

pub(super) fn user_by_username(trees: &Trees, name: &Username) -> Result<Option<User>, StoreError> {
    let name = name.fingerprint();
    let owner: Option<UserId> = at(trees, &keys::username(name))?;
    let user: Option<User> = match owner {
        Some(id) => at(trees, &keys::user(id))?,
        None => None,
    };
    // Between the two looks the account may have got another name.
    Ok(user.filter(|user| user.username.as_ref().map(Username::fingerprint) == Some(name)))
}

pub(super) fn user_by_identity(
    trees: &Trees,
    identity: IdentityFingerprint,
) -> Result<Option<User>, StoreError> {
    let owner: Option<UserId> = at(trees, &keys::identity(identity))?;
    let user: Option<User> = match owner {
        Some(id) => at(trees, &keys::user(id))?,
        None => None,
    };
    // Between the two looks the account may have lost it.
    Ok(user.filter(|user| user.identities.iter().any(|one| one.fingerprint() == identity)))
}

/// Accounts that are gone, with the moment from which their events are kept.
pub(super) fn gone_users(trees: &Trees, since: UnixTime) -> Result<Vec<(UserId, UnixTime)>, StoreError> {
    let mut gone = Vec::new();
    for entry in trees.range(keys::all(Table::GoneUser)..keys::behind(Table::GoneUser)) {
        let (key, bytes) = entry?;
        let until: UnixTime = decode(&key, &bytes)?;
        let at = UnixTime(until.0.saturating_sub(GONE_EVENTS_LIFE.as_secs()));
        if at >= since {
            gone.push((keys::gone_user_id(&key)?, at));
        }
    }
    Ok(gone)
}

pub(super) fn username_owner(trees: &Trees, name: &Username) -> Result<Option<UserId>, StoreError> {
    let name = name.fingerprint();
    match at(trees, &keys::username(name))? {
        Some(owner) => Ok(Some(owner)),
        None => at(trees, &keys::former_username(name)),
    }
}

pub(super) fn is_upgraded(trees: &Trees, upgrade: Upgrade) -> Result<bool, StoreError> {
    Ok(trees.get(&keys::upgrade(upgrade))?.is_some())
}

pub(super) fn users(trees: &Trees, after: Option<UserId>, limit: usize) -> Result<Vec<User>, StoreError> {
    let start = after.map_or(keys::all(Table::User), |after| keys::next(&keys::user(after)));
    let found = trees.range(start..keys::behind(Table::User)).take(limit);
    found.map(whole).collect()
}

pub(super) fn session(trees: &Trees, user: UserId, id: SessionId) -> Result<Option<Session>, StoreError> {
    let key = keys::session(user, id);
    trees.get(&key)?.map(|bytes| decode_session(&key, &bytes)).transpose()
}

pub(super) fn sessions(trees: &Trees, user: UserId) -> Result<Vec<Session>, StoreError> {
    trees.under(&keys::sessions(user)).map(whole_session).collect()
}

/// Decodes none but the one that it finds.
pub(super) fn find_session(trees: &Trees, id: SessionId) -> Result<Option<Session>, StoreError> {
    for entry in trees.under(&keys::all(Table::Session)) {
        let (key, bytes) = entry?;
        if keys::session_id(&key)? == id {
            return decode_session(&key, &bytes).map(Some);
        }
    }
    Ok(None)
}

pub(super) fn all_sessions(
    trees: &Trees,
    after: Option<(UserId, SessionId)>,
    limit: usize,
) -> Result<Vec<Session>, StoreError> {
    let start = after.map_or(keys::all(Table::Session), |(user, id)| keys::next(&keys::session(user, id)));
    let found = trees.range(start..keys::behind(Table::Session)).take(limit);
    found.map(whole_session).collect()
}

pub(super) fn connections(trees: &Trees, user: UserId) -> Result<Vec<Connection>, StoreError> {
    trees.under(&keys::connections(user)).map(whole).collect()
}

pub(super) fn all_connections(
    trees: &Trees,
    after: Option<(UserId, ConnectionId)>,
    limit: usize,
) -> Result<Vec<Connection>, StoreError> {
    let start =
        after.map_or(keys::all(Table::Connection), |(user, id)| keys::next(&keys::connection(user, id)));
    let found = trees.range(start..keys::behind(Table::Connection)).take(limit);
    found.map(whole).collect()
}

/// What the entries of an index name, as far as it is ours and still due: it may have changed since the entry was
/// written.
fn due<T: DeserializeOwned>(
    trees: &Trees,
    index: Range<Key>,
    limit: usize,
    named: impl Fn(&[u8]) -> Result<Key, StoreError>,
    is_due: impl Fn(&T) -> bool,
) -> Result<Vec<T>, StoreError> {
    let mut found = Vec::new();
    for entry in trees.range(index) {
        if found.len() == limit {
            break;
        }
        let Some(record) = ours(at::<T>(trees, &named(&entry?.0)?)) else { continue };
        found.extend(record?.filter(&is_due));
    }
    Ok(found)
}

pub(super) fn due_connections(
    trees: &Trees,
    now: UnixTime,
    limit: usize,
) -> Result<Vec<Connection>, StoreError> {
    let index = keys::all(Table::DueConnection)..until(Table::DueConnection, now);
    // Refreshed, ended or put off since: no longer due.
    let is_due = |connection: &Connection| connection.due_at.is_some_and(|due| due <= now);
    due(trees, index, limit, keys::connection_due, is_due)
}

pub(super) fn due_tasks(
    trees: &Trees,
    kind: TaskKind,
    now: UnixTime,
    limit: usize,
) -> Result<Vec<Task>, StoreError> {
    let end = match now {
        UnixTime::NEVER => keys::behind_due_tasks(kind),
        UnixTime(now) => keys::due_tasks(kind, UnixTime(now + 1)),
    };
    let index = keys::due_tasks(kind, UnixTime(0))..end;
    // Done or put off since: no longer due.
    due(
        trees,
        index,
        limit,
        |entry| keys::due_task_id(entry).map(keys::task),
        |task: &Task| task.due_at <= now,
    )
}

pub(super) fn due_mails(trees: &Trees, now: UnixTime, limit: usize) -> Result<Vec<Mail>, StoreError> {
    let index = keys::all(Table::DueMail)..until(Table::DueMail, now);
    // Delivered, given up or put off since: no longer due.
    let is_due = |mail: &Mail| mail.due_at <= now && !mail.given_up;
    due(trees, index, limit, |entry| keys::due_mail_id(entry).map(keys::mail), is_due)
}

pub(super) fn mails(trees: &Trees, limit: usize) -> Result<Vec<Mail>, StoreError> {
    let newest = trees.under(&keys::all(Table::Mail)).rev().take(limit);
    newest.map(whole).collect()
}

/// The number of an issuer, if anything is kept about it.
fn issuer(trees: &Trees, text: &str) -> Result<Option<u32>, StoreError> {
    at(trees, &keys::issuer(text))
}

pub(super) fn version(trees: &Trees, issuer_text: &str, sub: &str) -> Result<u64, StoreError> {
    match issuer(trees, issuer_text)? {
        Some(number) => Ok(at(trees, &keys::version(number, sub))?.unwrap_or(0)),
        None => Ok(0),
    }
}

/// The generation of all tokens of an issuer.
pub(super) fn generation(trees: &Trees, issuer_text: &str) -> Result<u64, StoreError> {
    match issuer(trees, issuer_text)? {
        Some(number) => Ok(at(trees, &keys::generation(number))?.unwrap_or(0)),
        None => Ok(0),
    }
}

pub(super) fn revocation(trees: &Trees, target: &Target) -> Result<Option<Revocation>, StoreError> {
    let (kind, issuer_text, name) = target.key();
    let Some(number) = issuer(trees, issuer_text)? else { return Ok(None) };
    let key = keys::revocation(kind, number, name);
    let whole = |standing: Standing| standing.of((kind, issuer_text.to_owned(), name.to_owned()));
    trees.get(&key)?.map(|bytes| decode_revocation(&key, &bytes).and_then(whole)).transpose()
}

/// Whether one of `targets`, found, passes `reaches`.
pub(super) fn any_revocation(
    trees: &Trees,
    targets: &[Target],
    reaches: impl Fn(&Target) -> bool,
) -> Result<bool, StoreError> {
    for target in targets {
        if revocation(trees, target)?.is_some_and(|standing| reaches(&standing.target)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The issuers behind their numbers, each looked up once.
#[derive(Default)]
pub(super) struct Issuers(HashMap<u32, String>);

impl Issuers {
    pub(super) fn whole(
        &mut self,
        trees: &Trees,
        key: &[u8],
        standing: Standing,
    ) -> Result<Revocation, StoreError> {
        let (kind, number, name) = keys::revoked(key)?;
        standing.of((kind, self.text(trees, number)?, name))
    }

    /// The issuer of this number.
    pub(super) fn text(&mut self, trees: &Trees, number: u32) -> Result<String, StoreError> {
        if let Some(text) = self.0.get(&number) {
            return Ok(text.clone());
        }
        let text: String = at(trees, &keys::issuer_text(number))?.ok_or_else(|| {
            StoreError::Unreadable(
                "the issuer of a revocation or a token version is not there; restore the data directory from a backup"
                    .to_owned(),
            )
        })?;
        self.0.insert(number, text.clone());
        Ok(text)
    }
}

/// The revocations of one page behind `after` that have not ended at `now`; and the last key looked at,
/// unless there are no more.
pub(super) fn page(
    trees: &Trees,
    after: Option<Key>,
    now: UnixTime,
) -> Result<(Vec<Revocation>, Option<Key>), StoreError> {
    let start = after.map_or(keys::all(Table::Revocation), |key| keys::next(&key));
    let (mut found, mut last, mut issuers) = (Vec::with_capacity(PAGE), None, Issuers::default());
    for (n, entry) in trees.range(start..keys::behind(Table::Revocation)).take(PAGE).enumerate() {
        let (key, bytes) = entry?;
        let standing = decode_revocation(&key, &bytes)?;
        if standing.expires_at >= now {
            found.push(issuers.whole(trees, &key, standing)?);
        }
        if n + 1 == PAGE {
            last = Some(key.to_vec());
        }
    }
    Ok((found, last))
}

/// Reads them all and keeps the newest: it is asked by people only, and an index would make every
/// revocation dearer.
pub(super) fn recent_revocations(trees: &Trees, limit: usize) -> Result<Vec<Revocation>, StoreError> {
    let mut newest = BinaryHeap::new();
    for entry in trees.under(&keys::all(Table::Revocation)) {
        let (key, bytes) = entry?;
        let created_at = decode_revocation(&key, &bytes)?.created_at;
        let full = newest.len() >= limit;
        if full && newest.peek().is_none_or(|Reverse((oldest, _, _))| *oldest > created_at) {
            continue;
        }
        newest.push(Reverse((created_at, key, bytes)));
        if full {
            newest.pop();
        }
    }
    let mut issuers = Issuers::default();
    let sorted = newest.into_sorted_vec();
    sorted
        .iter()
        .map(|Reverse((_, key, bytes))| issuers.whole(trees, key, decode_revocation(key, bytes)?))
        .collect()
}

/// The tables that a start itself writes.
const OF_A_START: [Table; 6] =
    [Table::Sequence, Table::Clock, Table::Erased, Table::KeyCheck, Table::LeaseRun, Table::Upgrade];

/// Whether anything is kept but what a start itself writes.
pub(super) fn is_populated(trees: &Trees) -> Result<bool, StoreError> {
    for entry in trees.range(Vec::new()..keys::end()) {
        let (key, _) = entry?;
        if !Table::of(&key).is_some_and(|table| OF_A_START.contains(&table)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the store is closed for.
pub(super) fn closed_for(trees: &Trees) -> Result<Option<String>, StoreError> {
    let mark = trees.get(&keys::closed())?;
    Ok(mark.map(|what| String::from_utf8_lossy(&what).into_owned()))
}

/// How many records an import that did not come to its end has taken in.
pub(super) fn import_begun(trees: &Trees) -> Result<Option<u64>, StoreError> {
    let mark = trees.get(&keys::importing())?;
    // Version 0.1.0 wrote none, and what wrote an empty one did not count.
    Ok(mark.map(|count| count.as_ref().try_into().map_or(0, u64::from_be_bytes)))
}

/// The latest moment that any record names as its past.
pub(super) fn latest_moment(trees: &Trees) -> Result<Option<UnixTime>, StoreError> {
    let under = |table| trees.under(&keys::all(table));
    let mut latest = None;
    for entry in under(Table::Revocation) {
        latest = latest.max(Some(standing(entry)?.created_at));
    }
    for entry in under(Table::Session) {
        latest = latest.max(Some(whole_session(entry)?.last_used_at));
    }
    for entry in under(Table::User) {
        latest = latest.max(Some(whole::<User>(entry)?.updated_at));
    }
    for entry in under(Table::Event) {
        latest = latest.max(Some(whole::<Event>(entry)?.at));
    }
    for entry in under(Table::Mail) {
        latest = latest.max(Some(whole::<Mail>(entry)?.created_at));
    }
    Ok(latest)
}

/// How many revocations are kept.
pub(super) fn revocations(trees: &Trees) -> Result<usize, StoreError> {
    trees.under(&keys::all(Table::Revocation)).try_fold(0, |n, entry| entry.map(|_| n + 1))
}

/// The first key of a table ordered by time that is later than `now`.
fn until(table: Table, now: UnixTime) -> Key {
    match now {
        UnixTime::NEVER => keys::behind(table),
        UnixTime(now) => keys::from(table, UnixTime(now + 1)),
    }
}
