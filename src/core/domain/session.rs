//! Sessions: a sign-in on one device, and the row of refresh tokens that keeps it alive (refresh token rotation).
//!
//! Each use of a refresh token replaces it (RFC 9700 §4.14). The direct parent of the present token gets the same
//! successor again for [`REPEAT_WINDOW`], and, where the operator allows it, for longer as long as no use of that
//! successor is known ([`SuccessorUse`]); any older one is a replay: the client and an attacker both hold a token of the
//! row, and the session ends.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::account::UserId;
use super::opaque::{RefreshToken, ServerKey, TokenHash};
use super::revocation::Versions;
use super::session_cookie::CookieSeed;
use super::time::UnixTime;

/// How long the direct parent of the present token still brings the present one: a lost answer, or two
/// tabs of one browser.
pub const REPEAT_WINDOW: Duration = Duration::from_secs(10);

/// The longest time that an operator may allow in place of [`REPEAT_WINDOW`] (`tokens.refresh_repeat`).
pub const LONGEST_REPEAT: Duration = Duration::from_secs(24 * 60 * 60);

/// What is known of the use of the present refresh token and of the access tokens that came with it: whether its direct
/// parent may still bring it, once [`REPEAT_WINDOW`] is over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuccessorUse {
    /// Its use was not looked for: it replaced its parent while nothing longer than [`REPEAT_WINDOW`] was allowed, or
    /// under an earlier program. It counts as used.
    #[default]
    Untracked,
    /// No use was seen. Its access tokens say the place in the row ([`super::claims::ROTATION_CLAIM`]).
    Unused,
    /// It was presented, or an access token that came with it was verified.
    Used,
}

/// How many places in the row an old token is followed to the present one: some milliseconds of work. A session that is
/// refreshed every half an hour has fewer in its 90 days.
const MAX_STEPS: u32 = 5000;

/// The id of a session: the `sid` of its access tokens (UUID v7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub Uuid);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for SessionId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<SessionId, uuid::Error> {
        text.parse().map(SessionId)
    }
}

/// Where a session is used from, as far as a request tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// For people: "Firefox on Windows".
    pub name: String,
    /// As it was sent, cut to a sane length.
    pub user_agent: Option<String>,
    pub address: IpAddr,
    /// "Berlin, Germany", when a database of places is configured.
    pub place: Option<String>,
    /// What stays the same while a device is the same: a hash over the kind of browser and system.
    pub fingerprint: String,
}

/// What to do about a refresh from a device that does not look like the one that signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fingerprint {
    /// Nothing.
    Ignore,
    /// Write it down.
    Note,
    /// Turn it away, and end the session.
    Refuse,
}

/// How long sessions live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// From one use to the next, of sessions that travel in refresh tokens.
    pub sliding: Duration,
    /// From the login, however much it is used; no session of any kind lives longer.
    pub absolute: Duration,
    /// Of sessions that travel in cookies.
    pub browser: BrowserLifetimes,
}

/// How long sessions live that travel in cookies (`[browser]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrowserLifetimes {
    /// From one use to the next (idle timeout).
    pub idle: Duration,
    /// From the sign-in, however much it is used.
    pub absolute: Duration,
    /// In place of [`BrowserLifetimes::idle`] for people who asked to be kept signed in; `None`: the operator does not
    /// offer it.
    pub remember: Option<Duration>,
}

impl BrowserLifetimes {
    /// The idle timeout of a session.
    fn idle_of(self, session: &BrowserSession) -> Duration {
        self.remember.filter(|_| session.remember).unwrap_or(self.idle)
    }
}

/// What a session is that travels in a cookie: the secrets of its cookies are derived from the seed, one for each place
/// ([`super::session_cookie`]). A new seed voids them everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrowserSession {
    pub seed: CookieSeed,
    /// Its owner asked to be kept signed in.
    pub remember: bool,
}

/// A sign-in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub id: SessionId,
    pub user: UserId,
    pub created_at: UnixTime,
    pub last_used_at: UnixTime,
    /// When it ends unless it is used; never later than the absolute limit.
    pub expires_at: UnixTime,
    /// As of the last use.
    pub device: Device,
    /// The scopes that its access tokens have.
    pub scopes: Vec<String>,
    /// The token version of its user and the generation of all tokens, as read before it was begun: what is
    /// revoked later ends it ([`super::revocation::Begun`]). Zero in records of earlier programs, which every
    /// revocation from now on therefore reaches.
    #[serde(default)]
    pub begun: Versions,
    /// The place of the present token in the row.
    pub generation: u32,
    /// What is kept of the present token.
    pub current: TokenHash,
    /// The first place in the row that was derived under another key of the ring than the one before it; 0 while there is
    /// none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rekeyed: u32,
    /// When the present token replaced its parent.
    pub rotated_at: UnixTime,
    /// Whether the present token was used since.
    #[serde(default, skip_serializing_if = "is_untracked")]
    pub successor: SuccessorUse,
    /// Of a session that travels in a cookie. It has no refresh token: [`Session::current`] is of fresh randomness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub browser: Option<BrowserSession>,
    /// Counts the writes of this record; the store refuses one that was made from an older state.
    pub revision: u64,
}

/// What a refresh token is worth.
#[derive(Debug)]
pub enum Presented {
    /// The present one: the session as it is after the rotation, and the token that replaces it.
    Rotated(Box<Session>, RefreshToken),
    /// The direct parent: the present token again; nothing changes. `is_late`: after [`REPEAT_WINDOW`], because no use
    /// of the successor is known.
    Repeated { successor: RefreshToken, is_late: bool },
    /// Replay: a token that was replaced long ago. An attacker may hold a copy: end the session.
    Reused,
    /// The session has ended by itself.
    Expired,
    /// None of this session's.
    Unknown,
}

impl Session {
    /// Decides about `token`, which was read by [`ServerKey::read`] and names this session. `repeat`: for how long the
    /// direct parent may bring a successor that was not used (`tokens.refresh_repeat`), at least [`REPEAT_WINDOW`].
    #[must_use]
    pub fn present(
        &self,
        token: &RefreshToken,
        key: &ServerKey,
        lifetimes: Lifetimes,
        repeat: Duration,
        now: UnixTime,
    ) -> Presented {
        if (token.user, token.session) != (self.user, self.id) {
            return Presented::Unknown;
        }
        if now >= self.ends_at(lifetimes) {
            return Presented::Expired;
        }
        if token.generation == self.generation {
            if !token.hash().is(&self.current) {
                return Presented::Unknown;
            }
            let next = key.successor(token);
            // The generation (32 bits) would wrap. No client refreshes so often, so the session ends.
            if next.generation == token.generation {
                return Presented::Expired;
            }
            let mut session = self.clone();
            if !token.is_of_first_key() {
                session.rekeyed = next.generation;
            }
            session.generation = next.generation;
            session.current = next.hash();
            session.rotated_at = now;
            session.successor = match repeat > REPEAT_WINDOW {
                true => SuccessorUse::Unused,
                false => SuccessorUse::Untracked,
            };
            session.last_used_at = now;
            session.expires_at = now.plus(lifetimes.sliding).min(self.last_end(lifetimes));
            return Presented::Rotated(Box::new(session), next);
        }
        if token.generation > self.generation {
            return Presented::Unknown;
        }
        // No hash is kept of an older token. It is a token of this row if the derivation leads from it to the present
        // one. A client that knows only its head, which may be in a log, must not end the session.
        if !self.knows(token, key) {
            return Presented::Unknown;
        }
        let mut successors = key.keys().map(|one| key.successor_by(one, token));
        let successor =
            successors.find(|next| next.generation == self.generation && next.hash().is(&self.current));
        let Some(successor) = successor else { return Presented::Reused };
        // A clock that was set back must not open a window again: ten seconds of it are the most that either gains.
        if self.rotated_at > now.plus(REPEAT_WINDOW) {
            return Presented::Reused;
        }
        if now <= self.rotated_at.plus(REPEAT_WINDOW) {
            return Presented::Repeated { successor, is_late: false };
        }
        match self.successor {
            SuccessorUse::Unused if now <= self.rotated_at.plus(repeat) => {
                Presented::Repeated { successor, is_late: true }
            }
            _ => Presented::Reused,
        }
    }

    /// Whether `token` is the present one of this session, whatever has become of the session.
    #[must_use]
    pub fn is_present(&self, token: &RefreshToken) -> bool {
        (token.user, token.session, token.generation) == (self.user, self.id, self.generation)
            && token.hash().is(&self.current)
    }

    /// The place in the row that access tokens of this session say, where it matters whether they are used.
    #[must_use]
    pub fn told_rotation(&self) -> Option<u32> {
        (self.successor != SuccessorUse::Untracked).then_some(self.generation)
    }

    /// Whether `token`, secret included, is the present one of this session or one that it has replaced. Of one that
    /// is more than [`MAX_STEPS`] places old, only the head is looked at.
    #[must_use]
    pub fn knows(&self, token: &RefreshToken, key: &ServerKey) -> bool {
        let is_mine = (token.user, token.session) == (self.user, self.id);
        match self.generation.checked_sub(token.generation) {
            None => false,
            Some(0) => is_mine && token.hash().is(&self.current),
            Some(steps) if steps > MAX_STEPS => is_mine,
            Some(_) => is_mine && self.leads_here(token, key),
        }
    }

    /// Whether the derivation leads from `token`, an older one, to the present one. Up to the place at which another key
    /// came in front it is under the key of the token, then under one of the ring. Of two such changes only the last is
    /// known: a token from before both is unknown, which ends nothing.
    fn leads_here(&self, token: &RefreshToken, key: &ServerKey) -> bool {
        let is_present = |reached: &RefreshToken| reached.hash().is(&self.current);
        let Some(steps) = self.rekeyed.checked_sub(token.generation).filter(|steps| *steps > 0) else {
            let steps = self.generation - token.generation;
            return key.keys().any(|one| is_present(&key.followed(one, token, steps)));
        };
        let last = key.followed_by_its_own(token, steps - 1);
        let rest = self.generation.saturating_sub(last.generation);
        key.keys().any(|one| is_present(&key.followed(one, &last, rest)))
    }

    /// When it ends unless it is used, by the limits now in force.
    #[must_use]
    pub fn ends_at(&self, lifetimes: Lifetimes) -> UnixTime {
        let end = self.expires_at.min(self.last_end(lifetimes));
        match &self.browser {
            None => end,
            Some(browser) => end.min(self.last_used_at.plus(lifetimes.browser.idle_of(browser))),
        }
    }

    /// When it ends however much it is used, by the limits now in force.
    #[must_use]
    pub fn last_end(&self, lifetimes: Lifetimes) -> UnixTime {
        let life = match self.browser {
            None => lifetimes.absolute,
            Some(_) => lifetimes.absolute.min(lifetimes.browser.absolute),
        };
        self.created_at.plus(life)
    }

    /// The session as it is after a use at `at`. A use before the last one changes nothing, and none revives a session
    /// that had ended before it.
    #[must_use]
    pub fn used(self, at: UnixTime, lifetimes: Lifetimes) -> Session {
        let is_use = at >= self.last_used_at && at < self.ends_at(lifetimes);
        if is_use { self.extended(at, lifetimes) } else { self }
    }

    /// The session with `at` as its last use, whatever it was before: as it begins, or goes on under another id.
    #[must_use]
    pub fn extended(mut self, at: UnixTime, lifetimes: Lifetimes) -> Session {
        self.last_used_at = at;
        self.expires_at = at.plus(self.idle(lifetimes)).min(self.last_end(lifetimes));
        self
    }

    /// From one use to the next.
    fn idle(&self, lifetimes: Lifetimes) -> Duration {
        self.browser.as_ref().map_or(lifetimes.sliding, |browser| lifetimes.browser.idle_of(browser))
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(place: &u32) -> bool {
    *place == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_untracked(successor: &SuccessorUse) -> bool {
    *successor == SuccessorUse::Untracked
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    const NOW: UnixTime = UnixTime(1_800_000_000);
    const LIVES: Lifetimes = Lifetimes {
        sliding: Duration::from_secs(1000),
        absolute: Duration::from_secs(2500),
        browser: BrowserLifetimes {
            idle: Duration::from_secs(100),
            absolute: Duration::from_secs(2000),
            remember: Some(Duration::from_secs(700)),
        },
    };

    fn start() -> (ServerKey, Session, RefreshToken) {
        let key = ServerKey::new(Zeroizing::new([1; 32]));
        let (user, id) = (UserId(Uuid::from_u128(1)), SessionId(Uuid::from_u128(2)));
        let token = key.first(user, id, Zeroizing::new([7; 32]));
        let session = Session {
            id,
            user,
            created_at: NOW,
            last_used_at: NOW,
            expires_at: NOW.plus(LIVES.sliding),
            device: Device {
                name: "a device".into(),
                user_agent: None,
                address: [127, 0, 0, 1].into(),
                place: None,
                fingerprint: String::new(),
            },
            scopes: Vec::new(),
            begun: Versions::default(),
            generation: 0,
            current: token.hash(),
            rekeyed: 0,
            rotated_at: NOW,
            successor: SuccessorUse::Untracked,
            browser: None,
            revision: 0,
        };
        (key, session, token)
    }

    fn after(seconds: u64) -> UnixTime {
        UnixTime(NOW.0 + seconds)
    }

    fn rotated(
        session: &Session,
        token: &RefreshToken,
        key: &ServerKey,
        now: UnixTime,
    ) -> (Session, RefreshToken) {
        match session.present(token, key, LIVES, REPEAT_WINDOW, now) {
            Presented::Rotated(session, token) => (*session, token),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_parent_gets_the_same_successor_for_ten_seconds() {
        let (key, session, token) = start();
        let (session, next) = rotated(&session, &token, &key, after(100));
        for at in [100, 105, 110] {
            match session.present(&token, &key, LIVES, REPEAT_WINDOW, after(at)) {
                Presented::Repeated { successor: again, .. } => assert!(again.hash().is(&next.hash())),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(session.present(&token, &key, LIVES, REPEAT_WINDOW, after(111)), Presented::Reused));
    }

    #[test]
    fn a_grandparent_is_a_copy() {
        let (key, session, token) = start();
        let (session, next) = rotated(&session, &token, &key, after(1));
        let (session, _) = rotated(&session, &next, &key, after(2));
        assert!(matches!(session.present(&token, &key, LIVES, REPEAT_WINDOW, after(2)), Presented::Reused));
        assert!(matches!(
            session.present(&next, &key, LIVES, REPEAT_WINDOW, after(2)),
            Presented::Repeated { is_late: false, .. }
        ));
    }

    #[test]
    fn a_late_repeat_is_for_a_tracked_successor_without_a_use() {
        const LATE: Duration = Duration::from_secs(600);
        let (key, session, token) = start();
        let Presented::Rotated(session, next) = session.present(&token, &key, LIVES, LATE, after(100)) else {
            panic!()
        };
        assert_eq!((session.successor, session.told_rotation()), (SuccessorUse::Unused, Some(1)));
        assert!(session.is_present(&next) && !session.is_present(&token));
        let used = Session { successor: SuccessorUse::Used, ..(*session).clone() };
        let untracked = Session { successor: SuccessorUse::Untracked, ..(*session).clone() };
        assert_eq!((used.told_rotation(), untracked.told_rotation()), (Some(1), None));
        for (at, of_unused, of_others) in [
            (89, None, None),
            (90, Some(false), Some(false)),
            (110, Some(false), Some(false)),
            (111, Some(true), None),
            (700, Some(true), None),
            (701, None, None),
        ] {
            for (session, expected) in [(&*session, of_unused), (&used, of_others), (&untracked, of_others)] {
                let seen = match session.present(&token, &key, LIVES, LATE, after(at)) {
                    Presented::Repeated { successor, is_late } if successor.hash().is(&next.hash()) => {
                        Some(is_late)
                    }
                    Presented::Reused => None,
                    other => panic!("{other:?}"),
                };
                assert_eq!(seen, expected, "{at} {:?}", session.successor);
            }
        }
        // Of the setting in force, and not of the one that it was rotated under.
        let strict = session.present(&token, &key, LIVES, REPEAT_WINDOW, after(111));
        assert!(matches!(strict, Presented::Reused));
        let (again, _) = rotated(&session, &next, &key, after(200));
        assert_eq!(again.successor, SuccessorUse::Untracked);
        let (grandparent, key_of) = (session.present(&next, &key, LIVES, LATE, after(200)), &key);
        let Presented::Rotated(session, _) = grandparent else { panic!() };
        assert!(matches!(session.present(&token, key_of, LIVES, LATE, after(201)), Presented::Reused));
    }

    #[test]
    fn records_of_earlier_programs_count_as_used() {
        let (_, session, _) = start();
        let written = serde_json::to_value(&session).unwrap();
        assert!(written.get("successor").is_none(), "an earlier program reads what is not tracked");
        let read: Session = serde_json::from_value(written).unwrap();
        assert_eq!(read.successor, SuccessorUse::Untracked);
    }

    #[test]
    fn use_keeps_it_alive_and_the_absolute_limit_ends_it() {
        let (key, session, token) = start();
        assert!(matches!(
            session.present(&token, &key, LIVES, REPEAT_WINDOW, after(1000)),
            Presented::Expired
        ));
        let (session, token) = rotated(&session, &token, &key, after(999));
        assert_eq!(session.expires_at, after(1999));
        let (session, token) = rotated(&session, &token, &key, after(1998));
        assert_eq!(session.expires_at, after(2500));
        assert!(matches!(
            session.present(&token, &key, LIVES, REPEAT_WINDOW, after(2500)),
            Presented::Expired
        ));
        let shorter = Lifetimes { absolute: Duration::from_secs(2000), ..LIVES };
        assert!(matches!(
            session.present(&token, &key, shorter, REPEAT_WINDOW, after(2000)),
            Presented::Expired
        ));
    }

    #[test]
    fn another_sessions_token_is_unknown() {
        let (key, session, _) = start();
        let (user, id) = (session.user, session.id);
        let forged = key.first(user, id, Zeroizing::new([8; 32]));
        assert!(matches!(session.present(&forged, &key, LIVES, REPEAT_WINDOW, NOW), Presented::Unknown));
        let other = key.first(user, SessionId(Uuid::from_u128(3)), Zeroizing::new([7; 32]));
        assert!(matches!(session.present(&other, &key, LIVES, REPEAT_WINDOW, NOW), Presented::Unknown));
        let ahead = key.successor(&key.first(user, id, Zeroizing::new([7; 32])));
        assert!(matches!(session.present(&ahead, &key, LIVES, REPEAT_WINDOW, NOW), Presented::Unknown));
    }

    #[test]
    fn a_token_counts_whole_whatever_its_place_in_the_row() {
        let (key, mut session, mut token) = start();
        let first = start().2;
        let mut all = vec![start().2];
        for at in 1..=5 {
            (session, token) = rotated(&session, &token, &key, after(at));
            all.push(key.successor(all.last().unwrap()));
        }
        assert!(all.iter().all(|one| session.knows(one, &key)));
        assert!(!session.knows(&key.successor(&token), &key), "not issued yet");
        for one in &all {
            // Its head is right, under a MAC of ours; its secret is another.
            let mut forged = key.first(first.user, first.session, Zeroizing::new([8; 32]));
            forged.generation = one.generation;
            assert!(!session.knows(&forged, &key), "{}", one.generation);
            let presented = session.present(&forged, &key, LIVES, REPEAT_WINDOW, after(100));
            assert!(matches!(presented, Presented::Unknown), "{}: {presented:?}", one.generation);
        }
        let stranger = Session { id: SessionId(Uuid::from_u128(9)), ..session.clone() };
        assert!(!stranger.knows(&token, &key));
        let far = Session { generation: MAX_STEPS + 6, ..session };
        assert!(far.knows(&first, &key), "too old to be followed");
    }

    fn ring(first: u8, former: &[u8]) -> ServerKey {
        let former = former.iter().map(|byte| Zeroizing::new([*byte; 32])).collect();
        ServerKey::ring(Zeroizing::new([first; 32]), former)
    }

    /// The token as a client holds it, read under another ring.
    fn again(token: &RefreshToken, by: &ServerKey, key: &ServerKey) -> RefreshToken {
        use secrecy::ExposeSecret;
        key.read(by.write(token).expose_secret()).unwrap()
    }

    #[test]
    fn a_new_key_in_front_is_no_end_of_a_row_nor_of_the_repeat_window() {
        let (old, session, zero) = start();
        let (session, one) = rotated(&session, &zero, &old, after(1));
        // The answer was lost, and a new key came in front before the client asked again.
        let both = ring(2, &[1]);
        let parent = again(&zero, &old, &both);
        let Presented::Repeated { successor: same, .. } =
            session.present(&parent, &both, LIVES, REPEAT_WINDOW, after(5))
        else {
            panic!()
        };
        assert!(same.hash().is(&one.hash()));
        // Its successor is of the new key, and the row goes on without the former one.
        let held = again(&same, &both, &both);
        let (session, two) = rotated(&session, &held, &both, after(20));
        assert_eq!(session.rekeyed, 2);
        let Presented::Repeated { successor: same, .. } =
            session.present(&held, &both, LIVES, REPEAT_WINDOW, after(25))
        else {
            panic!()
        };
        assert!(same.hash().is(&two.hash()));
        let new = ring(2, &[]);
        let (session, three) = rotated(&session, &again(&two, &both, &new), &new, after(40));
        assert_eq!(session.rekeyed, 2, "both are of one key");
        // Every one that was replaced is known for a copy, across the change.
        for (copy, by) in [(&zero, &old), (&one, &old), (&two, &both)] {
            let copy = again(copy, by, &both);
            assert!(session.knows(&copy, &both));
            assert!(matches!(
                session.present(&copy, &both, LIVES, REPEAT_WINDOW, after(60)),
                Presented::Reused
            ));
        }
        // With another secret under the same head, none is.
        let mut forged = both.first(session.user, session.id, Zeroizing::new([8; 32]));
        for generation in 0..3 {
            forged.generation = generation;
            assert!(!session.knows(&forged, &both), "{generation}");
        }
        assert!(session.knows(&three, &new));
        // Another new key, before the session is used again.
        let third = ring(3, &[2, 1]);
        assert!(session.knows(&again(&one, &old, &third), &third));
        assert!(session.knows(&again(&two, &both, &third), &third));
        let present = again(&three, &new, &third);
        assert!(matches!(
            session.present(&present, &third, LIVES, REPEAT_WINDOW, after(60)),
            Presented::Rotated(..)
        ));
    }

    #[test]
    fn a_clock_set_back_does_not_open_the_window_for_long() {
        let (key, session, token) = start();
        let (session, _) = rotated(&session, &token, &key, after(500));
        assert!(matches!(session.present(&token, &key, LIVES, REPEAT_WINDOW, after(100)), Presented::Reused));
    }
}
