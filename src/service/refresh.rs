//! Exchanging a refresh token for the next one and a fresh access token.

use super::accounts::{About, AccountError, Accounts, Client, Granted, Source, TRIES};
use super::login::{barred, may_sign_in};
use crate::domain::audit::{Action, Outcome};
use crate::domain::session::{Fingerprint, Presented};
use crate::domain::trusted_time::NEAR;
use crate::ports::{Change, CommitError, Limited};

impl Accounts {
    /// Rotates. The same token within ten seconds brings the same successor; one that was replaced longer
    /// ago ends the session.
    ///
    /// # Errors
    /// [`AccountError::InvalidRefreshToken`] for every token that is not good;
    /// [`AccountError::TooMany`], [`AccountError::Store`] or [`AccountError::Sign`].
    pub async fn refresh(&self, client: &Client, token: &str) -> Result<Granted, AccountError> {
        self.limiter.attempt(Limited::Refresh, client.address, None)?;
        let Some(presented) = self.key.read(token) else {
            let about = About::default().because("unknown_token");
            self.note(&Source::Client(client), Action::Refresh, Outcome::Denied, about);
            return Err(AccountError::InvalidRefreshToken);
        };
        let about = || About::session(presented.user, presented.session);
        let note = |action, outcome, about| self.note(&Source::Client(client), action, outcome, about);
        for _ in 0..TRIES {
            let version = self.version(presented.user).await?;
            let session = self.store.session(presented.user, presented.session).await?;
            let Some(session) = session else {
                // Of an account that is gone, nothing is written down under its id any more.
                let about = match self.store.user(presented.user).await? {
                    Some(_) => about().because("session_unknown"),
                    None => About::default().because("account_gone"),
                };
                note(Action::Refresh, Outcome::Denied, about);
                return Err(AccountError::InvalidRefreshToken);
            };
            if self.is_cut(&session).await? {
                let ending = self.ending(&session, "revoked");
                self.commit_by(&Source::Client(client), ending.into()).await?;
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
            let user = self.store.user(session.user).await?.ok_or(AccountError::InvalidRefreshToken)?;
            if let Err(error) = may_sign_in(&user, self.now()) {
                note(Action::Refresh, Outcome::Denied, about().because(barred(&user, &error)));
                return Err(AccountError::InvalidRefreshToken);
            }
            let device = self.devices.device(client.user_agent.as_deref(), client.address);
            let is_other = device.fingerprint != session.device.fingerprint;
            let decided = session.present(&presented, &self.key, self.settings.lifetimes, self.now());
            let is_good = matches!(decided, Presented::Repeated(_) | Presented::Rotated(..));
            if is_good && is_other && self.settings.fingerprint == Fingerprint::Refuse {
                let ending = self.ending(&session, "another device");
                self.commit_by(&Source::Client(client), ending.into()).await?;
                note(Action::Refresh, Outcome::Denied, about().because("device_changed"));
                return Err(AccountError::InvalidRefreshToken);
            }
            let is_over = matches!(decided, Presented::Expired);
            let (session, next) = match decided {
                Presented::Repeated(next) => (session, next),
                Presented::Rotated(mut rotated, next) => {
                    rotated.device = device;
                    // Its scopes follow the account's.
                    rotated.scopes = user.scopes.clone();
                    match self.store.commit(vec![Change::UpdateSession((*rotated).clone())]).await {
                        Ok(_) => {}
                        Err(CommitError::Conflict) => continue,
                        Err(error) => return Err(error.into()),
                    }
                    let noted = is_other && self.settings.fingerprint == Fingerprint::Note;
                    let about = if noted { about().because("device_changed") } else { about() };
                    note(Action::Refresh, Outcome::Success, about);
                    (*rotated, next)
                }
                Presented::Reused => {
                    let ending = self.ending(&session, "refresh token reused");
                    self.commit_by(&Source::Client(client), ending.into()).await?;
                    note(Action::RefreshReuse, Outcome::Denied, about().because("session_ended"));
                    return Err(AccountError::InvalidRefreshToken);
                }
                Presented::Expired | Presented::Unknown => {
                    let reason = if is_over { "session_expired" } else { "unknown_token" };
                    note(Action::Refresh, Outcome::Denied, about().because(reason));
                    return Err(AccountError::InvalidRefreshToken);
                }
            };
            return self.grant(version, user, &session, self.key.write(&next));
        }
        Err(AccountError::Conflict)
    }
}
