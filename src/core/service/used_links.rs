//! Links that were used up lately, so that the person who used one, and presses it again, is told that it is done
//! (idempotency, as far as people see it).
//!
//! A link that is used up looks like one that never was, and so it must to strangers: that it was used says something
//! of an account. Told are the browser that used it, by a cookie that it was given when it opened the page, and a
//! browser that is signed in to the account of the link. Both must have the token, too. Bounded: in memory, or among the
//! notes of a store that several gateways share. What is forgotten is told as a link that is not good.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::accounts::Accounts;
use super::keyed_turns::{KeyedTurn, KeyedTurns};
use crate::domain::account::UserId;
use crate::domain::link::Purpose;
use crate::domain::opaque::TokenHash;
use crate::domain::time::UnixTime;
use crate::ports::{NoteKey, NoteKind, NotePut, SharedNotes, StoreError};

/// How many are remembered; the one that was used first makes room.
const MOST: usize = 4096;
/// How long: a letter is opened again within a day, if at all.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// The length of a [`Accounts::browser_mark`], in characters.
const MARK: usize = 43;

#[derive(Serialize, Deserialize)]
struct UsedLink {
    /// Of its token.
    hash: TokenHash,
    purpose: Purpose,
    user: Option<UserId>,
    /// Of the mark of the browser that used it.
    browser: Option<TokenHash>,
    at: UnixTime,
}

/// The links that were used up lately.
#[derive(Default)]
pub(super) struct UsedLinks {
    turns: Arc<KeyedTurns<TokenHash>>,
    used: Mutex<VecDeque<UsedLink>>,
}

/// The turn with one link. A button that is pressed twice sends two requests: the second waits here, and then finds what
/// the first has done.
#[derive(Debug)]
pub struct LinkTurn(KeyedTurn<TokenHash>);

impl UsedLinks {
    fn used(&self) -> MutexGuard<'_, VecDeque<UsedLink>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, link: UsedLink) {
        let mut used = self.used();
        if used.len() == MOST {
            used.pop_front();
        }
        used.push_back(link);
    }

    fn find(
        &self,
        hash: &TokenHash,
        browser: Option<&TokenHash>,
        person: Option<UserId>,
        now: UnixTime,
    ) -> Option<Purpose> {
        let used = self.used();
        used.iter().find_map(|link| link.told(hash, browser, person, now))
    }
}

impl UsedLink {
    /// What it was used for, when it is the one of this hash and the browser or the person may know.
    fn told(
        &self,
        hash: &TokenHash,
        browser: Option<&TokenHash>,
        person: Option<UserId>,
        now: UnixTime,
    ) -> Option<Purpose> {
        // Also what a clock that was set back has left ahead.
        let is_live = self.at <= now && now < self.at.plus(LIFE);
        let by_browser = self.browser.zip(browser).is_some_and(|(used, asks)| used.is(asks));
        let by_them = by_browser || (person.is_some() && self.user == person);
        (is_live && self.hash.is(hash) && by_them).then_some(self.purpose)
    }
}

/// Where the link of this hash is kept among shared notes.
fn note_of(hash: &TokenHash) -> NoteKey {
    NoteKey { kind: NoteKind::UsedLink, hash: hash.0 }
}

async fn share(notes: &dyn SharedNotes, link: &UsedLink) -> Result<(), StoreError> {
    let body = serde_json::to_vec(link).unwrap_or_default();
    notes
        .put_notes(vec![NotePut { key: note_of(&link.hash), before: None, body, life: LIFE }])
        .await
        .map(drop)
}

async fn find_shared(notes: &dyn SharedNotes, hash: &TokenHash) -> Result<Option<UsedLink>, StoreError> {
    let found = notes.notes(&[note_of(hash)]).await?.notes.into_iter().flatten().next();
    Ok(found.and_then(|note| serde_json::from_slice(&note.body).ok()))
}

/// The hash of what a browser brought as its mark; `None` when it cannot be one.
fn mark(brought: Option<&str>) -> Option<TokenHash> {
    brought.filter(|text| is_browser_mark(text)).map(|text| TokenHash::of(text.as_bytes()))
}

/// Whether `text` has the form of a [`Accounts::browser_mark`].
#[must_use]
pub fn is_browser_mark(text: &str) -> bool {
    text.len() == MARK && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

impl Accounts {
    /// Fresh randomness by which a browser is known that used a link: the value of a cookie.
    #[must_use]
    pub fn browser_mark(&self) -> SecretString {
        use base64::Engine as _;
        let random: Zeroizing<[u8; 32]> = self.random();
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(*random).into()
    }

    /// Waits for the turn with the link of this token, whether or not there is such a link. To be held from before the
    /// link is opened until [`Accounts::link_used`].
    pub async fn link_turn(&self, token: &str) -> LinkTurn {
        LinkTurn(self.used_links.turns.turn(TokenHash::of(token.as_bytes())).await)
    }

    /// Notes that the link of this turn was used up for `purpose` by the browser with this mark. `user`: its account,
    /// where it is known.
    pub async fn link_used(
        &self,
        turn: &LinkTurn,
        purpose: Purpose,
        user: Option<UserId>,
        browser: Option<&str>,
    ) {
        let (hash, at) = (*turn.0.key(), self.now());
        let link = UsedLink { hash, purpose, user, browser: mark(browser), at };
        let Some(notes) = self.store.shared_notes() else { return self.used_links.note(link) };
        if let Err(error) = share(notes, &link).await {
            tracing::debug!(%error, "a link that was used is not remembered");
        }
    }

    /// What the link of this turn was used for within the last day, where the browser that asks may know: it has the mark
    /// of the one that used it, or `person` is signed in to its account in it. `None` to every other browser, and once it
    /// is forgotten.
    pub async fn link_was_used(
        &self,
        turn: &LinkTurn,
        browser: Option<&str>,
        person: Option<UserId>,
    ) -> Option<Purpose> {
        let (hash, browser, now) = (turn.0.key(), mark(browser), self.now());
        let Some(notes) = self.store.shared_notes() else {
            return self.used_links.find(hash, browser.as_ref(), person, now);
        };
        // One that cannot be read is told as a link that is not good.
        let link = find_shared(notes, hash).await.ok().flatten()?;
        link.told(hash, browser.as_ref(), person, now)
    }
}
