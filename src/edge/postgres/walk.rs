//! A walk over every record, page by page: what a page selects, and how its rows become records.

use palisade_core::domain::account::UserId;
use palisade_core::domain::connection::Connection;
use palisade_core::domain::username::UsernameFingerprint;
use palisade_core::ports::{Record, RecordKind, StoreError, Upgrade, VersionedRecord};
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::numbers::{from_bigint, moment};
use super::read::{Kept, Parameter, REVOCATION, Reads, column, revocation_in, row_limit};
use super::record::token_version_of;

/// How many records a page has at most, whatever is asked for: what is in memory at once.
const LARGEST_PAGE: usize = 8192;

/// The table of a kind of record.
pub(super) struct Walked {
    pub(super) kind: RecordKind,
    pub(super) table: &'static str,
    /// What its rows are found and ordered by.
    key: WalkKey,
    /// The columns behind the key that a record is made of.
    columns: &'static str,
    /// Which rows are records of this kind; empty for all.
    only: &'static str,
}

/// The key of a table, by which a walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WalkKey {
    Uuid(&'static str),
    /// That of a user and one of theirs.
    UserAndId,
    Bytes(&'static str),
    Number(&'static str),
    Text(&'static str),
    /// There is one row at most.
    One,
}

const BODY: &str = "version, body";

/// The table of every kind of record, in the order of the walk.
pub(super) const WALK: [Walked; 15] = [
    walked(RecordKind::User, "users", WalkKey::Uuid("id"), BODY),
    walked(RecordKind::Session, "sessions", WalkKey::UserAndId, BODY),
    walked(RecordKind::Connection, "connections", WalkKey::UserAndId, BODY),
    walked(RecordKind::Link, "links", WalkKey::Bytes("hash"), BODY),
    walked(RecordKind::Revocation, "revocations", WalkKey::Bytes("key"), REVOCATION),
    walked(RecordKind::TokenVersion, "token_versions", WalkKey::Bytes("key"), "number"),
    walked(RecordKind::Task, "tasks", WalkKey::Uuid("id"), BODY),
    walked(RecordKind::Mail, "mails", WalkKey::Uuid("id"), BODY),
    walked(RecordKind::Mailbox, "mailboxes", WalkKey::Bytes("id"), BODY),
    walked(RecordKind::EventsEnd, "gone_users", WalkKey::Uuid("user_id"), "at"),
    // In the order in which they came, and so those of each account too.
    walked(RecordKind::Event, "events", WalkKey::Number("n"), BODY),
    walked(RecordKind::ClockMark, "clock_mark", WalkKey::One, BODY),
    walked(RecordKind::KeyCheck, "key_checks", WalkKey::Text("name"), "value"),
    Walked {
        only: "former AND ",
        ..walked(RecordKind::FormerUsername, "usernames", WalkKey::Bytes("name"), "user_id")
    },
    walked(RecordKind::Upgrade, "upgrades", WalkKey::Text("name"), "''"),
];

const fn walked(kind: RecordKind, table: &'static str, key: WalkKey, columns: &'static str) -> Walked {
    Walked { kind, table, key, columns, only: "" }
}

/// The last record of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Which of [`WALK`].
    table: u8,
    key: PlaceKey,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum PlaceKey {
    Uuid(Uuid),
    Uuids(Uuid, Uuid),
    Bytes(Vec<u8>),
    Number(i64),
    Text(String),
    One,
}

impl Place {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let key = match &self.key {
            PlaceKey::Uuid(id) => id.as_bytes().to_vec(),
            PlaceKey::Uuids(user, id) => [*user.as_bytes(), *id.as_bytes()].concat(),
            PlaceKey::Bytes(bytes) => bytes.clone(),
            PlaceKey::Number(number) => number.to_be_bytes().to_vec(),
            PlaceKey::Text(text) => text.as_bytes().to_vec(),
            PlaceKey::One => Vec::new(),
        };
        [&[self.table], &key[..]].concat()
    }

    /// The place that these bytes are of ([`Place::to_bytes`]), if there is such a place.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Place> {
        let (table, key) = bytes.split_first()?;
        let uuid = |bytes: &[u8]| Uuid::from_slice(bytes).ok();
        let key = match WALK.get(usize::from(*table))?.key {
            WalkKey::Uuid(_) => PlaceKey::Uuid(uuid(key)?),
            WalkKey::UserAndId => {
                let (user, id) = key.split_at_checked(16)?;
                PlaceKey::Uuids(uuid(user)?, uuid(id)?)
            }
            WalkKey::Bytes(_) => PlaceKey::Bytes(key.to_vec()),
            WalkKey::Number(_) => PlaceKey::Number(i64::from_be_bytes(key.try_into().ok()?)),
            WalkKey::Text(_) => PlaceKey::Text(String::from_utf8(key.to_vec()).ok()?),
            WalkKey::One => key.is_empty().then_some(PlaceKey::One)?,
        };
        Some(Place { table: *table, key })
    }
}

/// At most `limit` records from behind `after`, at least one where there is one; and where the next page begins, unless
/// there is none.
pub(super) async fn fill(
    reads: &impl Reads,
    after: Option<Place>,
    limit: usize,
) -> Result<(Vec<VersionedRecord>, Option<Place>), StoreError> {
    let limit = limit.clamp(1, LARGEST_PAGE);
    let first = after.as_ref().map_or(0, |after| after.table);
    let (mut records, mut last) = (Vec::new(), after);
    for (at, walked) in (0_u8..).zip(&WALK).skip(usize::from(first)) {
        let after = last.as_ref().filter(|last| last.table == at).map(|last| &last.key);
        // One more, to learn whether anything is behind them.
        let rows = walked.rows(reads, after, limit - records.len() + 1).await?;
        for row in &rows {
            if records.len() == limit {
                return Ok((records, last));
            }
            records.push(walked.record(row)?.into());
            last = Some(Place { table: at, key: walked.key.of(row)? });
        }
    }
    Ok((records, None))
}

impl Walked {
    async fn rows(
        &self,
        reads: &impl Reads,
        after: Option<&PlaceKey>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let Walked { table, columns, only, .. } = self;
        let limit = row_limit(limit);
        let page = |key: &str, bound: &str| {
            format!(
                "SELECT {columns}, {key} FROM palisade.{table} WHERE {only}{bound} ORDER BY {key} LIMIT $1"
            )
        };
        let limited: Parameter<'_> = (&limit, Type::INT8);
        let rows = match (self.key, after) {
            (WalkKey::One, Some(_)) => return Ok(Vec::new()),
            (WalkKey::One, None) => {
                reads.rows(&format!("SELECT {columns} FROM palisade.{table} LIMIT $1"), &[limited]).await?
            }
            (WalkKey::UserAndId, after) => {
                let (user, id) = match after {
                    Some(PlaceKey::Uuids(user, id)) => (Some(user), Some(id)),
                    _ => (None, None),
                };
                let sql = page("user_id, id", "($2::uuid IS NULL OR (user_id, id) > ($2, $3))");
                reads.rows(&sql, &[limited, (&user, Type::UUID), (&id, Type::UUID)]).await?
            }
            (WalkKey::Uuid(key) | WalkKey::Bytes(key) | WalkKey::Number(key) | WalkKey::Text(key), after) => {
                // What a place of another key says is none of this table's.
                let (mut uuid, mut bytes, mut number, mut text) = (None, None, None, None);
                match after {
                    Some(PlaceKey::Uuid(id)) => uuid = Some(id),
                    Some(PlaceKey::Bytes(after)) => bytes = Some(&after[..]),
                    Some(PlaceKey::Number(after)) => number = Some(after),
                    Some(PlaceKey::Text(after)) => text = Some(&after[..]),
                    Some(PlaceKey::Uuids(..) | PlaceKey::One) | None => {}
                }
                let (kind, bound): (&str, Parameter<'_>) = match self.key {
                    WalkKey::Uuid(_) => ("uuid", (&uuid, Type::UUID)),
                    WalkKey::Bytes(_) => ("bytea", (&bytes, Type::BYTEA)),
                    WalkKey::Number(_) => ("bigint", (&number, Type::INT8)),
                    _ => ("text", (&text, Type::TEXT)),
                };
                let sql = page(key, &format!("($2::{kind} IS NULL OR {key} > $2)"));
                reads.rows(&sql, &[limited, bound]).await?
            }
        };
        Ok(rows)
    }

    fn record(&self, row: &Row) -> Result<Record, StoreError> {
        // What errors name the record by: of these kinds the key is an id.
        let id = match (self.kind, self.key) {
            (RecordKind::User | RecordKind::Task | RecordKind::Mail, WalkKey::Uuid(_)) => {
                column::<Uuid>(row, row.len() - 1)?.to_string()
            }
            (_, WalkKey::UserAndId) => column::<Uuid>(row, row.len() - 1)?.to_string(),
            _ => String::new(),
        };
        Ok(match self.kind {
            RecordKind::User => Record::User(Kept::read(row, 0, &id)?),
            RecordKind::Session => Record::Session(Kept::read(row, 0, &id)?),
            RecordKind::Connection => Record::Connection(Box::new(Connection::read(row, 0, &id)?)),
            RecordKind::Link => Record::Link(Kept::read(row, 0, &id)?),
            RecordKind::Revocation => Record::Revocation(revocation_in(row)?),
            RecordKind::TokenVersion => {
                let (issuer, sub) = token_version_of(column(row, 1)?)?;
                Record::TokenVersion { issuer, sub, version: from_bigint(column(row, 0)?) }
            }
            RecordKind::Task => Record::Task(Kept::read(row, 0, &id)?),
            RecordKind::Mail => Record::Mail(Kept::read(row, 0, &id)?),
            RecordKind::Mailbox => Record::Mailbox(Kept::read(row, 0, &id)?),
            RecordKind::EventsEnd => {
                Record::EventsEnd { user: UserId(column(row, 1)?), at: moment(column(row, 0)?) }
            }
            RecordKind::Event => Record::Event(Kept::read(row, 0, &id)?),
            RecordKind::ClockMark => Record::ClockMark(Kept::read(row, 0, &id)?),
            RecordKind::KeyCheck => Record::KeyCheck { check: column(row, 0)?, file: column(row, 1)? },
            RecordKind::FormerUsername => {
                let name = <[u8; 32]>::try_from(column::<&[u8]>(row, 1)?).map_err(|_| {
                    StoreError::Unreadable("a user name's fingerprint has another length".to_owned())
                })?;
                Record::FormerUsername { name: UsernameFingerprint(name), user: UserId(column(row, 0)?) }
            }
            RecordKind::Upgrade => Record::Upgrade(upgrade(column(row, 1)?)?),
        })
    }
}

impl WalkKey {
    /// The key of a row, whose last columns it is.
    fn of(self, row: &Row) -> Result<PlaceKey, StoreError> {
        let last = row.len() - 1;
        Ok(match self {
            WalkKey::Uuid(_) => PlaceKey::Uuid(column(row, last)?),
            WalkKey::UserAndId => PlaceKey::Uuids(column(row, last - 1)?, column(row, last)?),
            WalkKey::Bytes(_) => PlaceKey::Bytes(column(row, last)?),
            WalkKey::Number(_) => PlaceKey::Number(column(row, last)?),
            WalkKey::Text(_) => PlaceKey::Text(column(row, last)?),
            WalkKey::One => PlaceKey::One,
        })
    }
}

fn upgrade(name: &str) -> Result<Upgrade, StoreError> {
    serde_json::from_value(serde_json::Value::from(name)).map_err(|_| {
        StoreError::Newer(format!(
            "what was done once to the store, `{name}`, is of a newer program; run that again"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_record_is_walked_in_the_order_of_the_port() {
        assert_eq!(WALK.each_ref().map(|walked| walked.kind), RecordKind::ALL);
    }

    #[test]
    fn a_place_comes_back_from_its_bytes_and_no_other_bytes_are_one() {
        let id = Uuid::from_u128(7);
        for (table, walked) in (0_u8..).zip(&WALK) {
            let key = match walked.key {
                WalkKey::Uuid(_) => PlaceKey::Uuid(id),
                WalkKey::UserAndId => PlaceKey::Uuids(id, Uuid::max()),
                WalkKey::Bytes(_) => PlaceKey::Bytes(vec![0, 255]),
                WalkKey::Number(_) => PlaceKey::Number(-3),
                WalkKey::Text(_) => PlaceKey::Text("admin.token".to_owned()),
                WalkKey::One => PlaceKey::One,
            };
            let place = Place { table, key };
            assert_eq!(Place::from_bytes(&place.to_bytes()), Some(place));
        }
        for bytes in [&b""[..], b"\x00short", b"\x01\0\0", b"\x0a1", b"\x0bmore", b"\x0c\xff", b"\x0f"] {
            assert_eq!(Place::from_bytes(bytes), None, "{bytes:?}");
        }
    }
}
