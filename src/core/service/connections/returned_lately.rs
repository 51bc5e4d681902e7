//! Callbacks that came to an end lately, so that a page which is reloaded on the way back says what came of it
//! (idempotency: nothing is exchanged twice).
//!
//! A consent is used up before its code is exchanged, and a reload cancels only the request of the browser: the exchange
//! goes on. The second request waits for its turn with the consent, and then goes where the first one would have gone. It
//! must come from the browser that began the consent, in a session that still lives, and the connection must still be
//! good. In memory and bounded: what is forgotten is told as a callback that belongs to nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use secrecy::ExposeSecret;
use uuid::Uuid;

use super::{Callback, ConnectionError, Connections, Returned, standing};
use crate::domain::account::UserId;
use crate::domain::connection::{CONSENT_LIFE, Consent};
use crate::domain::opaque::TokenHash;
use crate::domain::time::UnixTime;
use crate::service::keyed_turns::KeyedTurns;

/// How many are remembered; the first makes room.
const MOST: usize = 4096;

struct Finished {
    user: UserId,
    consent: Consent,
    returned: Returned,
    at: UnixTime,
}

/// The callbacks that led to a connection lately.
#[derive(Default)]
pub(super) struct ReturnedLately {
    /// By the id of the consent.
    pub(super) turns: Arc<KeyedTurns<Uuid>>,
    finished: Mutex<VecDeque<Finished>>,
}

impl ReturnedLately {
    /// Notes where a callback that led to a connection has sent its browser.
    pub(super) fn note(&self, user: UserId, consent: Consent, returned: Returned, at: UnixTime) {
        // Nothing of the grant is needed again.
        let consent = Consent { parameters: Default::default(), secret_parameters: None, ..consent };
        let mut finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        if finished.len() == MOST {
            finished.pop_front();
        }
        finished.push_back(Finished { user, consent, returned, at });
    }

    fn find(&self, consent: Uuid, browser: &TokenHash, now: UnixTime) -> Option<(UserId, Consent, Returned)> {
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        let is_live = |one: &&Finished| one.at <= now && now < one.at.plus(CONSENT_LIFE);
        let is_it = |one: &&Finished| one.consent.id == consent && one.consent.browser.is(browser);
        let one = finished.iter().filter(is_live).find(is_it)?;
        Some((one.user, one.consent.clone(), one.returned.clone()))
    }
}

impl Connections {
    /// Where this callback has sent its browser before; `None` when it has not, or when that is not so any more.
    ///
    /// # Errors
    /// As [`Connections::callback`].
    pub(super) async fn returned_before(
        &self,
        consent: Uuid,
        callback: &Callback,
    ) -> Result<Option<Returned>, ConnectionError> {
        let Some(browser) = &callback.browser else { return Ok(None) };
        let browser = TokenHash::of(browser.expose_secret().as_bytes());
        let Some((user, consent, returned)) = self.state.returned.find(consent, &browser, self.now()) else {
            return Ok(None);
        };
        let Some(connection) = self.store.connection(user, returned.connection).await? else {
            return Ok(None);
        };
        self.still_theirs(&connection, &consent).await?;
        Ok(standing(&connection).is_ok().then_some(returned))
    }
}
