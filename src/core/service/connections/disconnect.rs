//! Ending a connection: the tokens are erased whatever the provider answers.
//!
//! They are erased in the commit that enqueues the revocation at the provider. So a kill in between neither keeps a
//! connection half-alive nor leaves an unknown grant at the provider.

use super::tell::NoticeKind;
use super::{ConnectionError, Connections};
use crate::domain::account::UserId;
use crate::domain::audit::{Action, Outcome};
use crate::domain::connection::{Connection, ConnectionId, Status};
use crate::domain::task::Errand;
use crate::domain::time::UnixTime;
use crate::ports::Change;
use crate::service::caller::{Client, OwnedSource, Person};
use crate::service::noted::About;
use crate::service::retry::Decision;

use super::errands::{ErrandFailure, GRACE};

impl Connections {
    /// Ends a connection: the provider is told, the tokens are erased, the record is kept. Nothing to do when
    /// it has ended.
    ///
    /// # Errors
    /// [`ConnectionError::NotFound`] or [`ConnectionError::Store`]; then it goes on.
    pub async fn disconnect(
        &self,
        client: &Client,
        person: Person,
        id: ConnectionId,
    ) -> Result<(), ConnectionError> {
        self.disconnect_for(OwnedSource::Client(client.clone()), person.user, id).await
    }

    /// Ends a connection, as an operator.
    ///
    /// # Errors
    /// As [`Connections::disconnect`].
    pub async fn operator_disconnect(
        &self,
        request_id: &str,
        user: UserId,
        id: ConnectionId,
    ) -> Result<(), ConnectionError> {
        self.disconnect_for(OwnedSource::Operator(request_id.to_owned()), user, id).await
    }

    async fn disconnect_for(
        &self,
        who: OwnedSource,
        user: UserId,
        id: ConnectionId,
    ) -> Result<(), ConnectionError> {
        let this = self.clone();
        self.spawn(async move {
            let mut turn = this.state.turns.turn(id).await;
            // A refresh that another gateway has begun ends first: what it brings is to be taken back, too.
            let held = this.claim_refresh(id).await?;
            let revoked = this.revoke(user, id).await;
            if matches!(revoked, Ok(Some(_))) {
                this.unwritten().remove(&id);
            }
            this.release_refresh(id, &held).await;
            let Some((before, errand)) = revoked? else { return Ok(()) };
            turn.replaced();
            this.wake();
            let mut about = About::connection(user, id);
            if let Some(errand) = errand {
                match this.end_grant(&before).await {
                    Err(left) => {
                        about = about.because(left.reason());
                        if !left.again {
                            this.finish(&errand).await;
                        }
                    }
                    Ok(()) => this.finish(&errand).await,
                }
            }
            this.note(&who, Action::Disconnect, Outcome::Success, about);
            Ok(())
        })
        .await
    }

    /// Ends the connections of `user` that were made or renewed since `since`, because an attacker may have been in
    /// the account then. One that was ended by then has left nothing to do.
    pub(super) async fn disconnect_since(&self, user: UserId, since: UnixTime) -> Result<(), ErrandFailure> {
        let left = |error: String| ErrandFailure { why: error, again: true };
        let all = self.store.connections(user).await.map_err(|error| left(error.to_string()))?;
        let is_later =
            |one: &Connection| one.created_at >= since || one.connected_at.is_some_and(|at| at >= since);
        for connection in all.iter().filter(|one| is_later(one)) {
            match self.disconnect_for(OwnedSource::System, user, connection.id).await {
                Ok(()) | Err(ConnectionError::NotFound) => {}
                Err(error) => return Err(left(error.to_string())),
            }
        }
        Ok(())
    }

    /// Commits the end. Returns the connection as it was, and the errand to its provider; `None` when it had
    /// ended before.
    async fn revoke(
        &self,
        user: UserId,
        id: ConnectionId,
    ) -> Result<Option<(Connection, Option<crate::domain::task::Task>)>, ConnectionError> {
        let decide = || async {
            let mut connection = self.find(user, id).await?;
            if connection.status == Status::Revoked {
                return Ok(Decision::Unchanged(None));
            }
            let mut before = connection.clone();
            // What the provider gave last is what it is to take back.
            if let Some(kept) = self.unwritten().get(&id).filter(|kept| kept.base.tokens == before.tokens) {
                before.tokens = Some(kept.grant.tokens.clone());
            }
            connection.end(Status::Revoked);
            self.schedule(&mut connection);
            let notice = before.connected_at.map(|_| self.tell_app(NoticeKind::Revoked, &mut connection));
            let mut changes = vec![Change::UpdateConnection(connection)];
            changes.extend(notice);
            let mut errand = None;
            if before.tokens.is_some() {
                let later = self.errand(Errand::EndGrant(Box::new(before.clone())), self.now().plus(GRACE));
                if let Change::CreateTask(task) = &later {
                    errand = Some(task.clone());
                }
                changes.push(later);
            }
            Ok(Decision::Commit(changes, Some((before, errand))))
        };
        self.retry_on_conflict(decide).await
    }
}
