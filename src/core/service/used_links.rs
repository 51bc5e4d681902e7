//! Links that were used up lately, so that the person who used one, and presses it again, is told that it is done
//! (idempotency, as far as people see it).
//!
//! A link that is used up looks like one that never was, and so it must to strangers: that it was used says something
//! of an account. Told are the browser that used it, by a cookie that it was given when it opened the page, and a
//! browser that is signed in to the account of the link. Both must have the token, too. In memory and bounded: what is
//! forgotten, or was used at another replica, is told as a link that is not good.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::accounts::Accounts;
use super::keyed_turns::{KeyedTurn, KeyedTurns};
use crate::domain::account::UserId;
use crate::domain::link::Purpose;
use crate::domain::opaque::TokenHash;
use crate::domain::time::UnixTime;

/// How many are remembered; the one that was used first makes room.
const MOST: usize = 4096;
/// How long: a letter is opened again within a day, if at all.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// The length of a [`Accounts::browser_mark`], in characters.
const MARK: usize = 43;

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
        // Also what a clock that was set back has left ahead.
        let is_live = |link: &&UsedLink| link.at <= now && now < link.at.plus(LIFE);
        let by_them = |link: &&UsedLink| {
            let by_browser = link.browser.zip(browser).is_some_and(|(used, asks)| used.is(asks));
            by_browser || (person.is_some() && link.user == person)
        };
        let used = self.used();
        let link = used.iter().filter(is_live).find(|link| link.hash.is(hash) && by_them(link))?;
        Some(link.purpose)
    }
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
    pub fn link_used(&self, turn: &LinkTurn, purpose: Purpose, user: Option<UserId>, browser: Option<&str>) {
        let (hash, at) = (*turn.0.key(), self.now());
        self.used_links.note(UsedLink { hash, purpose, user, browser: mark(browser), at });
    }

    /// What the link of this turn was used for within the last day, where the browser that asks may know: it has the mark
    /// of the one that used it, or `person` is signed in to its account in it. `None` to every other browser, and after a
    /// restart.
    #[must_use]
    pub fn link_was_used(
        &self,
        turn: &LinkTurn,
        browser: Option<&str>,
        person: Option<UserId>,
    ) -> Option<Purpose> {
        self.used_links.find(turn.0.key(), mark(browser).as_ref(), person, self.now())
    }
}
