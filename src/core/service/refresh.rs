//! Refresh token rotation: exchanges a refresh token for the next one and a fresh access token.

use super::accounts::{AccountError, Accounts};
use super::caller::{Client, Source};
use super::noted::About;
use super::retry::Decision;
use super::sign_in::Granted;
use super::sign_in::{barred, may_sign_in};
use crate::domain::account::User;
use crate::domain::audit::{Action, Outcome};
use crate::domain::opaque::RefreshToken;
use crate::domain::revocation::Versions;
use crate::domain::session::{Fingerprint, Presented, Session, SuccessorUse};
use crate::domain::trusted_time::NEAR;
use crate::ports::{Change, Limited};

impl Accounts {
    /// Rotates. The same token within ten seconds brings the same successor, and for as long as
    /// [`super::accounts::AccountSettings::refresh_repeat`] while that was not used; one that was replaced longer ago
    /// ends the session.
    ///
    /// # Errors
    /// [`AccountError::InvalidRefreshToken`] for every token that is not good;
    /// [`AccountError::TooMany`], [`AccountError::Store`] or [`AccountError::Sign`].
    pub async fn refresh(&self, client: &Client, token: &str) -> Result<Granted, AccountError> {
        self.limiter.attempt(Limited::Refresh, client.address, None)?;
        let source = Source::Client(client);
        let note = |action, outcome, about| self.note(&source, action, outcome, about);
        let Some(presented) = self.key.read(token) else {
            note(Action::Refresh, Outcome::Denied, About::default().because("unknown_token"));
            return Err(AccountError::InvalidRefreshToken);
        };
        let about = || About::session(presented.user, presented.session);
        let decide = || async {
            let version = self.version(presented.user).await?;
            let session = self.store.session(presented.user, presented.session).await?;
            let Some(session) = session else {
                // No audit event is kept under the id of an account that is gone.
                let about = match self.store.user(presented.user).await? {
                    Some(_) => about().because("session_unknown"),
                    None => About::default().because("account_gone"),
                };
                note(Action::Refresh, Outcome::Denied, about);
                return Err(AccountError::InvalidRefreshToken);
            };
            if self.is_cut(&session).await? {
                let ending = self.ending(&session, "revoked");
                self.commit_by(&source, ending.into()).await?;
                note(Action::Refresh, Outcome::Denied, about().because("session_revoked"));
                return Err(AccountError::InvalidRefreshToken);
            }
            if session.created_at > self.clock.reading().horizon.plus(NEAR) {
                // An operator has said that the clock which it began by was ahead: it would live for too long.
                let ending = self.ending(&session, "begun while the clock was ahead");
                self.store.commit(ending.into()).await?;
                note(Action::Refresh, Outcome::Denied, about().because("begun_in_the_future"));
                return Err(AccountError::InvalidRefreshToken);
            }
            let session = self.successors.apply(session);
            if session.successor == SuccessorUse::Unused && session.is_present(&presented) {
                // Before anything else can fail: whatever becomes of this request, its sender has the token.
                self.successors.note(session.user, session.id, session.generation);
            }
            let user = self.store.user(session.user).await?.ok_or(AccountError::InvalidRefreshToken)?;
            if let Err(error) = may_sign_in(&user, self.now()) {
                note(Action::Refresh, Outcome::Denied, about().because(barred(&user, &error)));
                return Err(AccountError::InvalidRefreshToken);
            }
            let device = self.devices.device(client.user_agent.as_deref(), client.address);
            let is_other = device.fingerprint != session.device.fingerprint;
            let (lives, repeat) = (self.settings.lifetimes, self.settings.refresh_repeat);
            let decided = session.present(&presented, &self.key, lives, repeat, self.now());
            let is_good = matches!(decided, Presented::Repeated { .. } | Presented::Rotated(..));
            if is_good && is_other && self.settings.fingerprint == Fingerprint::Refuse {
                let ending = self.ending(&session, "another device");
                self.commit_by(&source, ending.into()).await?;
                note(Action::Refresh, Outcome::Denied, about().because("device_changed"));
                return Err(AccountError::InvalidRefreshToken);
            }
            let is_over = matches!(decided, Presented::Expired);
            match decided {
                Presented::Repeated { successor: next, is_late } => {
                    // One within the window has the event of its rotation.
                    let noted = is_late.then(|| match is_other {
                        true => about().because("repeated_late").with("device_changed", true),
                        false => about().because("repeated_late"),
                    });
                    Ok(Decision::Unchanged(Rotation { version, user, session, next, noted }))
                }
                Presented::Rotated(mut rotated, next) => {
                    rotated.device = device;
                    // Its scopes follow the account's.
                    rotated.scopes = user.scopes.clone();
                    let noted = is_other && self.settings.fingerprint == Fingerprint::Note;
                    let noted = Some(if noted { about().because("device_changed") } else { about() });
                    let changes = vec![Change::UpdateSession((*rotated).clone())];
                    let refreshed = Rotation { version, user, session: *rotated, next, noted };
                    Ok(Decision::Commit(changes, refreshed))
                }
                Presented::Reused => {
                    let ending = self.ending(&session, "refresh token reused");
                    self.commit_by(&source, ending.into()).await?;
                    note(Action::RefreshReuse, Outcome::Denied, about().because("session_ended"));
                    Err(AccountError::InvalidRefreshToken)
                }
                Presented::Expired | Presented::Unknown => {
                    let reason = if is_over { "session_expired" } else { "unknown_token" };
                    note(Action::Refresh, Outcome::Denied, about().because(reason));
                    Err(AccountError::InvalidRefreshToken)
                }
            }
        };
        let Rotation { version, user, session, next, noted } =
            self.retry_on_conflict(&source, decide).await?;
        // What it replaced needs no note any more.
        if let Some(place) = session.generation.checked_sub(1) {
            self.successors.forget((session.user, session.id), place);
        }
        if let Some(about) = noted {
            note(Action::Refresh, Outcome::Success, about);
        }
        self.grant(version, user, &session, self.key.write(&next))
    }
}

/// A refresh token that was found good, and its successor.
struct Rotation {
    version: Versions,
    user: User,
    session: Session,
    next: RefreshToken,
    /// The audit event; `None` for a token that was repeated within ten seconds: its rotation has an event already.
    noted: Option<About>,
}
