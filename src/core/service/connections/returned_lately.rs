//! Callbacks that came to an end lately, so that a page which is reloaded on the way back says what came of it
//! (idempotency: nothing is exchanged twice).
//!
//! A consent is used up before its code is exchanged, and a reload cancels only the request of the browser: the exchange
//! goes on. The second request waits for its turn with the consent, and then goes where the first one would have gone. It
//! must come from the browser that began the consent, in a session that still lives, and the connection must still be
//! good. Bounded: in memory, or among the notes of a store that several gateways share. What is forgotten is told as a
//! callback that belongs to nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Callback, ConnectionError, Connections, Returned, standing};
use crate::domain::account::UserId;
use crate::domain::connection::{CONSENT_LIFE, ConnectionId, Consent};
use crate::domain::opaque::TokenHash;
use crate::domain::time::UnixTime;
use crate::ports::{NoteKey, NoteKind, NotePut, SharedNotes, StoreError};
use crate::service::keyed_turns::KeyedTurns;

/// How many are remembered; the first makes room.
const MOST: usize = 4096;

#[derive(Clone, Serialize, Deserialize)]
struct Finished {
    user: UserId,
    consent: Consent,
    connection: ConnectionId,
    provider: String,
    return_to: Option<String>,
    at: UnixTime,
}

impl Finished {
    fn new(user: UserId, consent: Consent, returned: &Returned, at: UnixTime) -> Finished {
        // Nothing of the grant is needed again.
        let consent = Consent { parameters: Default::default(), secret_parameters: None, ..consent };
        let Returned { connection, provider, return_to, .. } = returned;
        Finished {
            user,
            consent,
            connection: *connection,
            provider: provider.clone(),
            return_to: return_to.clone(),
            at,
        }
    }

    /// Whether it is of this consent and browser, and not forgotten.
    fn is_of(&self, consent: Uuid, browser: &TokenHash, now: UnixTime) -> bool {
        let is_live = self.at <= now && now < self.at.plus(CONSENT_LIFE);
        is_live && self.consent.id == consent && self.consent.browser.is(browser)
    }

    fn returned(self) -> Returned {
        let Finished { connection, provider, return_to, .. } = self;
        Returned { connection, provider, return_to, outcome: Ok(()) }
    }
}

/// The callbacks that led to a connection lately.
#[derive(Default)]
pub(super) struct ReturnedLately {
    /// By the id of the consent.
    pub(super) turns: Arc<KeyedTurns<Uuid>>,
    finished: Mutex<VecDeque<Finished>>,
}

impl ReturnedLately {
    fn note(&self, one: Finished) {
        let mut finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        if finished.len() == MOST {
            finished.pop_front();
        }
        finished.push_back(one);
    }

    fn find(&self, consent: Uuid, browser: &TokenHash, now: UnixTime) -> Option<Finished> {
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        finished.iter().find(|one| one.is_of(consent, browser, now)).cloned()
    }
}

/// Where the end of this consent is kept among shared notes.
fn note_of(consent: Uuid) -> NoteKey {
    NoteKey { kind: NoteKind::Returned, hash: TokenHash::of(consent.as_bytes()).0 }
}

async fn share(notes: &dyn SharedNotes, one: &Finished) -> Result<(), StoreError> {
    let body = serde_json::to_vec(one).unwrap_or_default();
    let put = NotePut { key: note_of(one.consent.id), before: None, body, life: CONSENT_LIFE };
    notes.put_notes(vec![put]).await.map(drop)
}

async fn find_shared(notes: &dyn SharedNotes, consent: Uuid) -> Result<Option<Finished>, StoreError> {
    let found = notes.notes(&[note_of(consent)]).await?.notes.into_iter().flatten().next();
    Ok(found.and_then(|note| serde_json::from_slice(&note.body).ok()))
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
        let now = self.now();
        let found = match self.store.shared_notes() {
            Some(notes) => find_shared(notes, consent).await?.filter(|one| one.is_of(consent, &browser, now)),
            None => self.state.returned.find(consent, &browser, now),
        };
        let Some(finished) = found else { return Ok(None) };
        let Some(connection) = self.store.connection(finished.user, finished.connection).await? else {
            return Ok(None);
        };
        self.still_theirs(&connection, &finished.consent).await?;
        Ok(standing(&connection).is_ok().then(|| finished.returned()))
    }

    /// Notes where a callback that led to a connection has sent its browser.
    pub(super) async fn note_returned(&self, user: UserId, consent: Consent, returned: &Returned) {
        let finished = Finished::new(user, consent, returned, self.now());
        let Some(notes) = self.store.shared_notes() else { return self.state.returned.note(finished) };
        if let Err(error) = share(notes, &finished).await {
            tracing::debug!(%error, "where a callback has led is not remembered");
        }
    }
}
