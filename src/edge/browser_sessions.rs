//! The sessions behind session cookies, in memory for some minutes: what makes one that was seen before cost a look-up
//! instead of a read of the store.
//!
//! The key is the whole value, so nothing but the very same bytes can hit. A verdict is never used at another place than
//! it was found good at, at or past an end of its session, at or past the end of an access token that would have been
//! signed with it, nor before the moment at which it was made, for a clock that was set back. A value that is not good is
//! not kept: what we did not make costs a MAC, and misses are bounded where they are read.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moka::sync::Cache;

use crate::by_end::ByEnd;
use palisade_core::domain::account::UserId;
use palisade_core::domain::browser::{CookiePlace, PlaceRef};
use palisade_core::domain::session::SessionId;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{BrowserSessions, Clock, CookieFault, CookieSession, LiveCookie};
use palisade_core::service::accounts::Accounts;
use palisade_core::service::caller::Person;

/// The longest that a verdict is in force without another read.
pub const LONGEST: Duration = Duration::from_secs(300);

/// Where sessions are read, and told of their uses.
#[async_trait]
pub trait SessionSource: Send + Sync {
    /// The session of a cookie, read from the store.
    ///
    /// # Errors
    /// [`CookieFault`].
    async fn cookie_session(
        &self,
        cookie: &str,
        place: &CookiePlace,
        client: IpAddr,
    ) -> Result<CookieSession, CookieFault>;

    /// A session was used at `at`.
    fn used(&self, user: UserId, session: SessionId, at: UnixTime);
}

#[async_trait]
impl SessionSource for Accounts {
    async fn cookie_session(
        &self,
        cookie: &str,
        place: &CookiePlace,
        client: IpAddr,
    ) -> Result<CookieSession, CookieFault> {
        Accounts::cookie_session(self, cookie, place, client).await
    }

    fn used(&self, user: UserId, session: SessionId, at: UnixTime) {
        Accounts::used(self, user, session, at);
    }
}

#[derive(Clone)]
struct Entry {
    live: Arc<LiveCookie>,
    /// Where it was found good.
    place: Arc<CookiePlace>,
    /// When it was found good.
    since: UnixTime,
    /// From when on it has to be read again.
    until: UnixTime,
}

/// The verdicts about cookies, over where they are read.
pub struct CookieVerdicts<S> {
    entries: Cache<Box<str>, Entry, ByEnd>,
    source: S,
    /// The issuer of our own tokens.
    issuer: String,
    clock: Arc<dyn Clock>,
}

impl<S: SessionSource> CookieVerdicts<S> {
    /// Keeps at most `max` verdicts; 0 keeps none.
    #[must_use]
    pub fn new(source: S, max: u64, issuer: String, clock: Arc<dyn Clock>) -> CookieVerdicts<S> {
        let entries =
            Cache::builder().max_capacity(max).time_to_live(LONGEST).build_with_hasher(ByEnd::default());
        CookieVerdicts { entries, source, issuer, clock }
    }
}

#[async_trait]
impl<S: SessionSource> BrowserSessions for CookieVerdicts<S> {
    fn cached(&self, cookie: &str, place: PlaceRef<'_>, now: UnixTime) -> Option<Arc<LiveCookie>> {
        let entry = self.entries.get(cookie)?;
        let is_good = entry.since <= now && now < entry.until && entry.place.by_ref() == place;
        is_good.then_some(entry.live)
    }

    async fn read(
        &self,
        cookie: &str,
        place: PlaceRef<'_>,
        client: IpAddr,
    ) -> Result<Arc<LiveCookie>, CookieFault> {
        // Before the read: the verdict is no younger than that.
        let now = self.clock.now();
        let place = Arc::new(place.to_place());
        let found = match self.source.cookie_session(cookie, &place, client).await {
            Ok(found) => found,
            Err(fault) => {
                if matches!(fault, CookieFault::Over) {
                    self.entries.invalidate(cookie);
                }
                return Err(fault);
            }
        };
        let CookieSession { verified, idle_at, ends_at } = found;
        let person = Person::of(&verified.identity, &self.issuer);
        // The identity was made of the session: it names both.
        let Some(Person { user, session: Some(session) }) = person else { return Err(CookieFault::Over) };
        let until = now.plus(LONGEST).min(verified.identity.expires_at).min(idle_at).min(ends_at);
        let live = Arc::new(LiveCookie::new(verified, user, session));
        self.entries.insert(cookie.into(), Entry { live: Arc::clone(&live), place, since: now, until });
        Ok(live)
    }

    fn used(&self, live: &LiveCookie, now: UnixTime) {
        if live.note(now) {
            self.source.used(live.user, live.session, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use palisade_core::domain::identity::Identity;
    use palisade_core::ports::{StoreError, Verified};

    use super::*;

    const ISSUER: &str = "https://a.test";
    const USER: &str = "00000000-0000-0000-0000-000000000001";
    const SESSION: &str = "00000000-0000-0000-0000-000000000002";

    #[derive(Default)]
    struct At(AtomicU64);

    impl Clock for At {
        fn now(&self) -> UnixTime {
            UnixTime(self.0.load(Ordering::Relaxed))
        }
    }

    /// Knows the value "good" at one host, and counts what is asked of it.
    struct Source {
        ends: [u64; 3],
        fault: Mutex<Option<CookieFault>>,
        reads: AtomicU64,
        uses: Mutex<Vec<u64>>,
    }

    #[async_trait]
    impl SessionSource for Arc<Source> {
        async fn cookie_session(
            &self,
            cookie: &str,
            place: &CookiePlace,
            _: IpAddr,
        ) -> Result<CookieSession, CookieFault> {
            if cookie != "good" || *place != CookiePlace::Host("a.test".into()) {
                return Err(CookieFault::Forged);
            }
            self.reads.fetch_add(1, Ordering::Relaxed);
            if let Some(fault) = self.fault.lock().unwrap().take() {
                return Err(fault);
            }
            let [token, idle, absolute] = self.ends.map(UnixTime);
            let identity = Identity {
                issuer: ISSUER.into(),
                subject: USER.into(),
                email: None,
                email_verified: false,
                session: Some(SESSION.into()),
                token_id: None,
                version: None,
                scopes: Vec::new(),
                issued_at: UnixTime(0),
                expires_at: token,
                claims: Default::default(),
            };
            Ok(CookieSession {
                verified: Arc::new(Verified::new(identity)),
                idle_at: idle,
                ends_at: absolute,
            })
        }

        fn used(&self, user: UserId, session: SessionId, at: UnixTime) {
            assert_eq!((user.to_string(), session.to_string()), (USER.to_owned(), SESSION.to_owned()));
            self.uses.lock().unwrap().push(at.0);
        }
    }

    fn verdicts(ends: [u64; 3]) -> (Arc<Source>, Arc<At>, CookieVerdicts<Arc<Source>>) {
        let (fault, uses) = (Mutex::default(), Mutex::default());
        let source = Arc::new(Source { ends, fault, reads: AtomicU64::new(0), uses });
        let clock = Arc::new(At(AtomicU64::new(1000)));
        let made = CookieVerdicts::new(
            Arc::clone(&source),
            10,
            ISSUER.to_owned(),
            Arc::clone(&clock) as Arc<dyn Clock>,
        );
        (source, clock, made)
    }

    const HERE: PlaceRef<'static> = PlaceRef::Host("a.test");
    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn a_verdict_lives_minutes_and_no_longer_than_its_session_or_a_token() {
        for (ends, until) in [
            ([9000, 9000, 9000], 1300),
            ([1100, 9000, 9000], 1100),
            ([9000, 1100, 9000], 1100),
            ([9000, 9000, 1100], 1100),
        ] {
            let (_, _, verdicts) = verdicts(ends);
            verdicts.read("good", HERE, CLIENT).await.unwrap();
            let hits = [999, 1000, until - 1, until].map(|now| verdicts.cached("good", HERE, UnixTime(now)));
            assert_eq!(hits.map(|hit| hit.is_some()), [false, true, true, false], "{ends:?}");
        }
    }

    #[tokio::test]
    async fn a_verdict_counts_for_the_very_value_at_its_very_place() {
        let (source, _, verdicts) = verdicts([9000; 3]);
        verdicts.read("good", HERE, CLIENT).await.unwrap();
        let now = UnixTime(1000);
        assert!(verdicts.cached("good", HERE, now).is_some());
        for (value, place) in [
            ("Good", HERE),
            ("good ", HERE),
            ("", HERE),
            ("good", PlaceRef::Host("b.test")),
            ("good", PlaceRef::Domain("a.test")),
        ] {
            assert!(verdicts.cached(value, place, now).is_none(), "{value} {place:?}");
            let read = verdicts.read(value, place, CLIENT).await;
            assert!(matches!(read, Err(CookieFault::Forged)), "{value} {place:?}");
        }
        assert!(verdicts.cached("good", HERE, now).is_some(), "a miss elsewhere leaves it");
        assert_eq!(source.reads.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_session_that_is_over_is_forgotten_and_an_outage_forgets_none() {
        let (source, _, verdicts) = verdicts([9000; 3]);
        verdicts.read("good", HERE, CLIENT).await.unwrap();
        let fail = |fault| *source.fault.lock().unwrap() = Some(fault);
        fail(CookieFault::Store(StoreError::Unavailable("gone".into())));
        assert!(matches!(verdicts.read("good", HERE, CLIENT).await, Err(CookieFault::Store(_))));
        assert!(verdicts.cached("good", HERE, UnixTime(1000)).is_some());
        fail(CookieFault::Over);
        assert!(matches!(verdicts.read("good", HERE, CLIENT).await, Err(CookieFault::Over)));
        assert!(verdicts.cached("good", HERE, UnixTime(1000)).is_none());
    }

    #[tokio::test]
    async fn a_use_is_told_of_once_a_second() {
        let (source, _, verdicts) = verdicts([9000; 3]);
        let live = verdicts.read("good", HERE, CLIENT).await.unwrap();
        for now in [1000, 1000, 1001, 1001, 1003] {
            verdicts.used(&live, UnixTime(now));
        }
        assert_eq!(*source.uses.lock().unwrap(), [1000, 1001, 1003]);
    }
}
