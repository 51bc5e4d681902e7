//! Which versions of records the gateways over one store can read, while programs of different ages serve side by side
//! (a rolling upgrade).
//!
//! A record of a new version is written only once every live gateway reads it. Until then a commit that needs one is
//! refused, and everything else goes on.

use std::collections::BTreeMap;

use super::{Change, RecordKind, task_version, user_version};

/// The highest version of each kind of record that a program reads. By default it reads none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordFormats(BTreeMap<String, u8>);

impl RecordFormats {
    /// Those of this program.
    #[must_use]
    pub fn of_this_program() -> RecordFormats {
        RecordFormats(RecordKind::ALL.iter().map(|kind| (kind.name().to_owned(), kind.version())).collect())
    }

    /// As a gateway tells them: a JSON object, by the names of the kinds.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    /// Reads what [`RecordFormats::to_json`] has written; `None`: it is none. Kinds that this program does not know stay.
    #[must_use]
    pub fn from_json(text: &str) -> Option<RecordFormats> {
        serde_json::from_str(text).ok().map(RecordFormats)
    }

    /// The highest version of this kind; 0: it knows no such records.
    #[must_use]
    pub fn version(&self, kind: RecordKind) -> u8 {
        self.0.get(kind.name()).copied().unwrap_or(0)
    }
}

/// What one live gateway reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaFormats {
    /// The name that the gateway has in the list of live ones.
    pub replica: String,
    /// The number of its program.
    pub program: u32,
    pub formats: RecordFormats,
}

/// The kind and version of the records that a change writes.
#[must_use]
pub fn written_format(change: &Change) -> Option<(RecordKind, u8)> {
    let latest = |kind: RecordKind| Some((kind, kind.version()));
    match change {
        Change::CreateUser(user) | Change::UpdateUser(user) => Some((RecordKind::User, user_version(user))),
        Change::CreateTask(task) => Some((RecordKind::Task, task_version(task))),
        Change::CreateSession(_) | Change::UpdateSession(_) => latest(RecordKind::Session),
        Change::CreateConnection(_) | Change::UpdateConnection(_) => latest(RecordKind::Connection),
        Change::CreateLink(_) => latest(RecordKind::Link),
        Change::PutMail(_) => latest(RecordKind::Mail),
        Change::PutMailbox(_) => latest(RecordKind::Mailbox),
        Change::Record(_) => latest(RecordKind::Event),
        Change::PutClockMark(_) => latest(RecordKind::ClockMark),
        Change::Upgraded(_) => latest(RecordKind::Upgrade),
        Change::Revoke(_)
        | Change::RaiseVersion { .. }
        | Change::RaiseGeneration { .. }
        | Change::CutSessions { .. } => latest(RecordKind::Revocation),
        Change::Require(_)
        | Change::DeleteUser(_)
        | Change::EndSession(..)
        | Change::RemoveConnection(..)
        | Change::ConsumeLink(_)
        | Change::RemoveMail(_)
        | Change::FinishTask(_) => None,
    }
}

/// Why a commit is refused while programs of different ages serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this needs a record of kind {} in version {version}, and the replica {replica:?} with program {program} reads versions \
     up to {reads}: it can be done once that replica is upgraded or stopped",
    kind.name()
)]
pub struct OlderReplica {
    /// The name that it has in the list of live ones.
    pub replica: String,
    /// The number of its program.
    pub program: u32,
    pub kind: RecordKind,
    /// What would be written.
    pub version: u8,
    /// The highest version that it reads; 0: it knows no such records.
    pub reads: u8,
}

/// Refuses a commit that would write a record which one of these gateways cannot read.
///
/// # Errors
/// [`OlderReplica`].
pub fn check_formats(changes: &[Change], live: &[ReplicaFormats]) -> Result<(), OlderReplica> {
    for (kind, version) in changes.iter().filter_map(written_format) {
        let cannot_read = |replica: &&ReplicaFormats| replica.formats.version(kind) < version;
        if let Some(ReplicaFormats { replica, program, formats }) = live.iter().find(cannot_read) {
            let (replica, program, reads) = (replica.clone(), *program, formats.version(kind));
            return Err(OlderReplica { replica, program, kind, version, reads });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::{User, UserId};
    use crate::domain::groups::Groups;
    use crate::domain::time::UnixTime;
    use uuid::Uuid;

    fn user() -> User {
        User::new(UserId(Uuid::from_u128(1)), "ann@example.com".parse().unwrap(), UnixTime(1))
    }

    fn replica(name: &str, users: u8) -> ReplicaFormats {
        let mut formats = RecordFormats::of_this_program();
        formats.0.insert("user".to_owned(), users);
        ReplicaFormats { replica: name.to_owned(), program: 6, formats }
    }

    #[test]
    fn what_every_live_replica_reads_is_written() {
        let new = Change::UpdateUser(User { groups: Groups::new(&["staff"]).unwrap(), ..user() });
        let old = Change::UpdateUser(user());
        assert!(check_formats(std::slice::from_ref(&new), &[]).is_ok());
        assert!(check_formats(std::slice::from_ref(&new), &[replica("a", 3), replica("b", 2)]).is_ok());
        let live = [replica("a", 3), replica("b", 1)];
        assert!(check_formats(&[old.clone(), Change::RemoveMail(Uuid::nil())], &live).is_ok());
        match check_formats(&[old, new], &live) {
            Err(why) => {
                let why = why.to_string();
                assert!(why.contains("kind user in version 2"), "{why}");
                assert!(why.contains("\"b\" with program 6 reads versions up to 1"), "{why}");
            }
            Ok(()) => panic!("it was let through"),
        }
    }

    #[test]
    fn a_kind_that_a_replica_does_not_name_is_one_that_it_cannot_read() {
        let formats = RecordFormats::from_json("{\"user\": 3, \"of the future\": 9}").unwrap();
        assert_eq!((formats.version(RecordKind::User), formats.version(RecordKind::Mail)), (3, 0));
        let live = [ReplicaFormats { replica: "a".to_owned(), program: 5, formats }];
        let marked = [Change::Upgraded(crate::ports::Upgrade::ReservedClaims)];
        assert_eq!(check_formats(&marked, &live).unwrap_err().reads, 0);
        assert_eq!(RecordFormats::from_json("[]"), None);
        let ours = RecordFormats::of_this_program();
        assert_eq!(RecordFormats::from_json(&ours.to_json()), Some(ours));
    }
}
