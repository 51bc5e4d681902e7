//! Which ends a commit has brought ([`crate::domain::ends`]).

use crate::domain::connection::Status;
use crate::domain::ends::End;
use crate::domain::revocation::Revocation;
use crate::ports::Change;

/// The ends that a commit of `changes` has brought, which was answered with the revocations `in_force`. An account that is
/// not disabled is told with each of its changes ([`End::Enabled`]): who keeps the ends knows whether it was.
#[must_use]
pub fn ends_of(changes: &[Change], in_force: &[Revocation]) -> Vec<End> {
    let changed = changes.iter().filter_map(|change| match change {
        Change::DeleteUser(user) => Some(End::Erased { user: *user }),
        Change::UpdateUser(user) | Change::CreateUser(user) => Some(match user.active {
            true => End::Enabled { user: user.id },
            false => End::Disabled { user: user.id },
        }),
        Change::EndSession(user, session) => Some(End::SessionEnded { user: *user, session: *session }),
        Change::RemoveConnection(user, connection) => {
            Some(End::Unlinked { user: *user, connection: *connection })
        }
        Change::UpdateConnection(connection) if connection.status == Status::Revoked => {
            Some(End::Unlinked { user: connection.user, connection: connection.id })
        }
        Change::ConsumeLink(link) => Some(End::LinkUsed { link: *link }),
        // Answered with the entries below, or the end of nothing.
        Change::Require(_)
        | Change::CreateSession(_)
        | Change::UpdateSession(_)
        | Change::CreateConnection(_)
        | Change::UpdateConnection(_)
        | Change::CreateLink(_)
        | Change::PutMail(_)
        | Change::RemoveMail(_)
        | Change::PutMailbox(_)
        | Change::CreateTask(_)
        | Change::FinishTask(_)
        | Change::Record(_)
        | Change::PutClockMark(_)
        | Change::Upgraded(_)
        | Change::Revoke(_)
        | Change::RaiseVersion { .. }
        | Change::RaiseGeneration { .. }
        | Change::CutSessions { .. } => None,
    });
    let revoked = in_force.iter().map(|revocation| End::Revoked { revocation: revocation.clone() });
    changed.chain(revoked).collect()
}
