use palisade_core::domain::lease::{LeaseHolder, LeaseSubject};
use palisade_core::domain::session::Lifetimes;
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::trusted_time::Mark;
use palisade_core::domain::trusted_time::PROBATION;
use palisade_core::ports::{Change, Clock, LeaseStore, Store};
use palisade_core::service::clock::*;
use palisade_core::service::revoke::{Lives, Revoke, RevokeRequest, Subject};
use palisade_testing::accounts_world::BROWSER;
use palisade_testing::conformance::session;
use palisade_testing::fakes::{FakeClock, FakeEntropy, FakeIssuerClocks, FakeSigner, FakeStore, NOW};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use uuid::Uuid;

const YEAR: u64 = 365 * 24 * 3600;
const HOLDER: LeaseHolder = LeaseHolder(Uuid::from_u128(1));
const OTHER: LeaseHolder = LeaseHolder(Uuid::from_u128(2));

/// A clock that can be set, an uptime that can be moved, and a store that outlives the process.
#[derive(Default)]
struct Machine {
    wall: Arc<FakeClock>,
    uptime: Arc<AtomicU64>,
    store: Arc<FakeStore>,
}

impl Machine {
    async fn start(&self) -> Arc<GuardedClock> {
        let uptime = Arc::clone(&self.uptime);
        let read = Box::new(move || Duration::from_secs(uptime.load(Ordering::Relaxed)));
        let clock = GuardedClock::start(self.wall.clone(), read, &*self.store, HOLDER).await.unwrap();
        clock.tick(&*self.store).await.unwrap();
        clock
    }

    /// Time passes, for both clocks.
    fn pass(&self, seconds: u64) {
        self.wall.advance(seconds);
        self.uptime.fetch_add(seconds, Ordering::Relaxed);
    }

    /// Tokens live for an hour, and so do sessions.
    fn revoke(&self, clock: &Arc<GuardedClock>) -> Revoke {
        let hour = Duration::from_secs(3600);
        Revoke::new(
            self.store.clone(),
            Arc::new(FakeSigner),
            clock.clone(),
            Arc::new(FakeEntropy::default()),
            Arc::new(FakeIssuerClocks),
            Lives {
                tokens: hour,
                sessions: Lifetimes { sliding: hour, absolute: hour, browser: BROWSER },
                leeway: Duration::ZERO,
            },
        )
    }

    async fn kept(&self) -> Mark {
        self.store.clock_mark().await.unwrap().unwrap()
    }

    fn commits(&self) -> u64 {
        self.store.commits.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn the_mark_is_kept_before_anything_is_served_and_then_now_and_then() {
    let machine = Machine::default();
    let clock = machine.start().await;
    assert_eq!(machine.kept().await, Mark { at: NOW, highest: NOW, ..Mark::default() });
    for _ in 1..WRITE.as_secs() {
        machine.pass(1);
        clock.tick(&*machine.store).await.unwrap();
    }
    assert_eq!(machine.commits(), 1);
    machine.pass(1);
    clock.tick(&*machine.store).await.unwrap();
    assert_eq!((machine.commits(), machine.kept().await.at), (2, NOW.plus(WRITE)));
}

#[tokio::test]
async fn a_jump_is_kept_at_once_and_does_not_move_the_mark() {
    let machine = Machine::default();
    let clock = machine.start().await;
    machine.wall.advance(YEAR);
    clock.tick(&*machine.store).await.unwrap();
    let kept = machine.kept().await;
    assert_eq!((kept.at, kept.highest), (NOW, NOW.plus(Duration::from_secs(YEAR))));
    // The next process, still ahead, goes on from there; and so does one with the clock set right.
    for _ in 0..2 {
        let clock = machine.start().await;
        assert_eq!(clock.reading().earliest, NOW);
        assert_eq!(clock.reading().horizon, NOW.plus(Duration::from_secs(YEAR)));
    }
    machine.wall.set_back(YEAR);
    let clock = machine.start().await;
    assert_eq!((clock.standing().doubt, clock.reading().earliest), (None, NOW));
    assert!(clock.standing().has_been_ahead());
}

#[tokio::test]
async fn a_moment_that_somebody_was_told_is_remembered_though_the_clock_came_back() {
    let machine = Machine::default();
    let clock = machine.start().await;
    machine.wall.advance(YEAR);
    let signed_at = clock.now();
    machine.wall.set_back(YEAR);
    assert_eq!(clock.reading().horizon, signed_at);
    clock.tick(&*machine.store).await.unwrap();
    assert_eq!(machine.kept().await.highest, signed_at);
}

#[tokio::test]
async fn an_acceptance_that_is_not_durable_changes_nothing() {
    let machine = Machine::default();
    let clock = machine.start().await;
    machine.wall.advance(YEAR);
    machine.store.fail();
    clock.accept(&*machine.store).await.unwrap_err();
    assert!(clock.standing().doubt.is_some());
    machine.store.mend();
    let before = clock.accept(&*machine.store).await.unwrap();
    assert!(before.doubt.is_some());
    assert_eq!((clock.standing().doubt, machine.kept().await.at), (None, clock.now()));
    // It holds for the next process as well.
    assert_eq!(machine.start().await.standing().doubt, None);
}

#[tokio::test]
async fn a_mark_that_cannot_be_written_is_written_later() {
    let machine = Machine::default();
    let clock = machine.start().await;
    machine.pass(WRITE.as_secs() + 30);
    machine.store.fail();
    clock.tick(&*machine.store).await.unwrap_err();
    machine.store.mend();
    clock.tick(&*machine.store).await.unwrap();
    assert_eq!(machine.kept().await.at, NOW.plus(WRITE + Duration::from_secs(30)));
}

#[tokio::test]
async fn what_is_revoked_while_the_clock_is_wrong_outlasts_it() {
    let machine = Machine::default();
    machine.pass(2 * YEAR);
    let now = machine.wall.now();
    let clock = machine.start().await;
    let revoke = machine.revoke(&clock);
    let request = |sid: &str| RevokeRequest {
        subject: Subject::Session(sid.to_owned()),
        issuer: None,
        reason: None,
        expires_in: None,
        end_session: false,
    };
    // Behind: counted from the mark, or the entry would be over before its tokens once the clock is right.
    machine.wall.set_back(YEAR);
    let entry = revoke.revoke(request("a")).await.unwrap().entry;
    assert_eq!(entry.expires_at, now.plus(Duration::from_secs(3600)));
    // Ahead, and right again: tokens of the session may say a later moment.
    machine.wall.advance(2 * YEAR);
    clock.now();
    machine.wall.set_back(YEAR);
    let entry = revoke.revoke(request("b")).await.unwrap().entry;
    assert_eq!(entry.expires_at, now.plus(Duration::from_secs(YEAR + 3600)));
}

#[tokio::test]
async fn a_long_stop_is_told_and_its_end_waits_for_the_operator() {
    let machine = Machine::default();
    machine.start().await;
    machine.wall.advance(30 * 24 * 3600);
    let clock = machine.start().await;
    let standing = clock.standing();
    let words = in_words(standing.doubt.unwrap(), &standing);
    assert!(words.contains("30 days ahead of") && words.contains("`palisade clock accept`"), "{words}");
    machine.pass(PROBATION.as_secs());
    assert_eq!(clock.reading().earliest, NOW.plus(PROBATION));
    clock.accept(&*machine.store).await.unwrap();
    assert_eq!(clock.reading().earliest, clock.now());
}

#[tokio::test]
async fn tokens_of_a_future_that_the_clock_once_showed_are_told_at_a_start_and_after_a_doubt() {
    let machine = Machine::default();
    machine.pass(2 * YEAR);
    machine.start().await;
    machine.wall.advance(YEAR);
    let clock = machine.start().await;
    let standing = clock.standing();
    assert!(
        !in_words(standing.doubt.unwrap(), &standing).contains("revokes"),
        "no token is of a later moment"
    );
    machine.wall.set_back(YEAR);
    let said = |clock: &GuardedClock, told: &mut ClockLog| {
        let (lines, is_news) = told.next(&clock.standing(), clock.uptime().unwrap());
        assert_eq!(is_news, !lines.is_empty());
        lines
    };
    let (mut told, revokes) =
        (ClockLog::default(), |line: &String| line.contains("revokes every access token"));
    told.doubt = standing.doubt.map(|doubt| (doubt, Duration::ZERO));
    let lines = said(&clock, &mut told);
    assert!(
        lines.len() == 2 && lines[0].contains("not in doubt any more") && revokes(&lines[1]),
        "{lines:?}"
    );
    assert_eq!(said(&clock, &mut told), Vec::<String>::new(), "once");
    let (clock, mut told) = (machine.start().await, ClockLog::default());
    let lines = said(&clock, &mut told);
    assert!(lines.len() == 1 && revokes(&lines[0]), "{lines:?}");
    machine.wall.set_back(YEAR);
    let lines = said(&clock, &mut told);
    assert!(lines.len() == 1 && lines[0].contains("365 days behind") && revokes(&lines[0]), "{lines:?}");
    clock.accept(&*machine.store).await.unwrap();
    let lines = said(&clock, &mut told);
    assert!(lines.len() == 1 && !revokes(&lines[0]), "{lines:?}");
}

#[test]
fn spans_are_told_in_their_two_largest_units() {
    for (seconds, words) in [
        (0, "0 s"),
        (59, "59 s"),
        (61, "1 min 1 s"),
        (3600, "1 h 0 min"),
        (86_399, "23 h 59 min"),
        (86_400, "1 day"),
        (93_600, "1 day 2 h"),
        (400 * 86_400 + 1, "400 days"),
    ] {
        assert_eq!(span(Duration::from_secs(seconds)), words);
    }
}

#[test]
fn moments_are_written_as_dates_as_long_as_they_have_one() {
    assert_eq!(shown(UnixTime(0)), "1970-01-01T00:00:00Z");
    assert_eq!(shown(UnixTime::NEVER), u64::MAX.to_string());
}

/// Shows these moments, one at each look, and the last of them from then on.
struct Script(Mutex<Vec<UnixTime>>);

impl Clock for Script {
    fn now(&self) -> UnixTime {
        let mut left = self.0.lock().unwrap();
        if left.len() > 1 { left.remove(0) } else { left[0] }
    }
}

#[tokio::test]
async fn a_clock_that_jumps_while_it_is_accepted_is_not_the_one_that_the_operator_saw() {
    let (store, year) = (FakeStore::default(), Duration::from_secs(YEAR));
    let seen = NOW.plus(year);
    let wall = Arc::new(Script(Mutex::new(vec![NOW, seen, seen.plus(year)])));
    let clock = GuardedClock::start(wall, Box::new(|| Duration::ZERO), &store, HOLDER).await.unwrap();
    assert_eq!(clock.accept(&store).await.unwrap().wall, seen);
    assert!(clock.standing().doubt.is_some());
    // What the operator did see is kept.
    assert_eq!(store.clock_mark().await.unwrap().unwrap().at, seen);
}

/// Of everything that can be revoked, in each of its ways.
#[tokio::test]
async fn every_kind_of_revocation_outlasts_what_was_signed_while_the_clock_was_ahead() {
    let sid = uuid::Uuid::from_u128(7).to_string();
    let sub = uuid::Uuid::from_u128(1).to_string();
    let token = Subject::Token { jti: "t".to_owned(), expires_at: None, holder: None };
    let ways = [
        token,
        Subject::TokenId("t".to_owned()),
        Subject::Session("of another kind".to_owned()),
        Subject::Session(sid),
        Subject::Subject(sub.clone()),
        Subject::IssuedBefore(NOW.plus(Duration::from_secs(YEAR))),
        Subject::IssuedSoFar,
    ];
    let mut outcomes = Vec::new();
    for way in 0..ways.len() + 2 {
        let machine = Machine::default();
        let clock = machine.start().await;
        // A session from then, which a moment that has passed reaches.
        machine.store.commit(vec![Change::CreateSession(session(1, 7, u64::MAX))]).await.unwrap();
        machine.pass(2 * YEAR);
        let now = machine.wall.now();
        machine.wall.advance(YEAR);
        clock.now();
        machine.wall.set_back(YEAR);
        let revoke = machine.revoke(&clock);
        match ways.get(way).cloned() {
            Some(subject) => {
                let request = RevokeRequest {
                    subject,
                    issuer: None,
                    reason: None,
                    expires_in: None,
                    end_session: false,
                };
                revoke.revoke(request).await.unwrap();
            }
            None if way == ways.len() => {
                revoke.raise_version(None, sub.clone(), None, None).await.unwrap();
            }
            None => {
                revoke.raise_all(None, None).await.unwrap();
            }
        }
        let horizon = now.plus(Duration::from_secs(YEAR));
        let entries = machine.store.recent_revocations(9).await.unwrap();
        let mut hours: Vec<_> =
            entries.iter().map(|entry| horizon.until(entry.expires_at).as_secs() / 3600).collect();
        hours.sort_unstable();
        outcomes.push(hours);
    }
    // As long as a token that was signed then; and what ends sessions, as long as one and the last token that it brings.
    let (token, session, both) = (vec![1], vec![2], vec![1, 2]);
    let wanted = [
        token.clone(),
        token.clone(),
        token.clone(),
        session,
        both.clone(),
        both.clone(),
        both,
        token.clone(),
        token,
    ];
    assert_eq!(outcomes, wanted);
}

/// It would be on probation once more after a kill.
#[tokio::test]
async fn a_stop_that_is_believed_is_kept_at_once() {
    let machine = Machine::default();
    machine.start().await;
    machine.wall.advance(24 * 3600);
    let clock = machine.start().await;
    let kept = machine.kept().await;
    assert_eq!((kept.at, kept.stops.len()), (NOW, 1));
    machine.pass(PROBATION.as_secs() - 1);
    clock.tick(&*machine.store).await.unwrap();
    assert_eq!(machine.kept().await.stops.len(), 1);
    machine.pass(1);
    clock.tick(&*machine.store).await.unwrap();
    assert_eq!(machine.kept().await.stops.len(), 0);
}

/// Three machines over one store, whose uptimes have nothing to do with one another.
async fn three() -> ([Machine; 3], Vec<Arc<GuardedClock>>) {
    let store = Arc::new(FakeStore::shared());
    let machine = |uptime| Machine {
        store: Arc::clone(&store),
        uptime: Arc::new(AtomicU64::new(uptime)),
        ..Machine::default()
    };
    let machines = [machine(900_000), machine(17), machine(5_000)];
    let mut clocks = Vec::new();
    for (n, machine) in machines.iter().enumerate() {
        let uptime = Arc::clone(&machine.uptime);
        let read = Box::new(move || Duration::from_secs(uptime.load(Ordering::Relaxed)));
        let holder = LeaseHolder(Uuid::from_u128(n as u128 + 10));
        let clock = GuardedClock::start(machine.wall.clone(), read, &*store, holder).await.unwrap();
        clock.tick(&*store).await.unwrap();
        clocks.push(clock);
        // The next one starts much later, before the mark is written again.
        machines.iter().for_each(|machine| machine.pass(400));
    }
    (machines, clocks)
}

#[tokio::test]
async fn three_gateways_keep_one_mark_that_uptime_alone_moves() {
    let (machines, clocks) = three().await;
    let mut before = machines[0].kept().await.at;
    for second in 0..2 * WRITE.as_secs() {
        for (machine, clock) in machines.iter().zip(&clocks) {
            machine.pass(1);
            clock.tick(&*machine.store).await.unwrap();
            let kept = machine.kept().await.at;
            assert!(kept >= before, "second {second}: the mark went back");
            assert!(kept <= machine.wall.now(), "second {second}: the mark ran ahead");
            before = kept;
        }
    }
    let now = machines[0].wall.now();
    for clock in &clocks {
        let standing = clock.standing();
        assert_eq!((standing.mark, standing.doubt), (now, None));
        assert_eq!(standing.stops, [], "the others ran in what a later start took for a stop");
    }
    assert!(before.until(now) <= WRITE);
}

#[tokio::test]
async fn an_operators_word_at_one_gateway_holds_at_all_of_them() {
    let (machines, clocks) = three().await;
    machines.iter().for_each(|machine| machine.wall.advance(YEAR));
    for (machine, clock) in machines.iter().zip(&clocks) {
        clock.tick(&*machine.store).await.unwrap();
        assert!(clock.standing().doubt.is_some());
    }
    clocks[1].accept(&*machines[1].store).await.unwrap();
    machines.iter().for_each(|machine| machine.pass(10));
    for (machine, clock) in machines.iter().zip(&clocks) {
        clock.tick(&*machine.store).await.unwrap();
        assert_eq!(clock.standing().doubt, None);
    }
    // It was ahead after all: the mark goes back at every gateway, and no gateway brings the old one again.
    machines.iter().for_each(|machine| machine.wall.set_back(YEAR));
    let before = clocks[2].accept(&*machines[2].store).await.unwrap();
    assert!(before.doubt.is_some());
    for _ in 0..2 * WRITE.as_secs() {
        for (machine, clock) in machines.iter().zip(&clocks) {
            machine.pass(1);
            clock.tick(&*machine.store).await.unwrap();
        }
    }
    for clock in &clocks {
        let standing = clock.standing();
        assert_eq!((standing.doubt, standing.has_been_ahead()), (None, false));
    }
    assert!(machines[0].kept().await.at <= machines[0].wall.now());
}

/// A gateway that was paused between its read and its write writes nothing over what its successor has written.
#[tokio::test]
async fn a_mark_under_a_lost_lease_is_not_written() {
    let machine = Machine::default();
    let clock = machine.start().await;
    machine.pass(WRITE.as_secs());
    let before = machine.kept().await;
    machine.store.take_over_before_commit(LeaseSubject::ClockMark, OTHER);
    clock.tick(&*machine.store).await.unwrap();
    assert_eq!(machine.kept().await, before);
    // While another gateway writes it, it is not waited for, and written later.
    clock.tick(&*machine.store).await.unwrap();
    assert_eq!(machine.kept().await, before);
    let lease = machine.store.claim(LeaseSubject::ClockMark, OTHER, Duration::ZERO).await.unwrap().unwrap();
    machine.store.release(lease).await.unwrap();
    clock.tick(&*machine.store).await.unwrap();
    assert_eq!(machine.kept().await.at, NOW.plus(WRITE));
}
