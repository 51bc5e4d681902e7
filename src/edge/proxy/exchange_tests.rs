use super::*;
use palisade_core::domain::identity::Identity;
use palisade_core::domain::request::Scheme;
use palisade_core::domain::revocation::{Revocation, Target};
use palisade_core::domain::route::{Auth, FailMode};
use palisade_core::domain::same_origin::OwnOrigins;
use palisade_core::domain::table::Table;
use palisade_core::ports::{Change, Standing, Store, Verified, Verifier};
use palisade_testing::accounts_world::{AccountsWorld, world};
use palisade_testing::fakes::{NOW, NoMeter};
use palisade_testing::route_fakes::route;
use palisade_testing::token_fakes::FakeVerifier;

fn admission(world: &AccountsWorld, auth: Auth) -> Admission {
    Admission {
        routes: Table::new(vec![route("/", auth)]),
        authenticator: Authenticator {
            verifier: Arc::new(FakeVerifier),
            revocations: world.store.clone(),
            fail: FailMode::Closed,
            clock: world.clock.clone(),
        },
        own: OwnOrigins { scheme: Scheme::Https, named: Vec::new() },
        sessions: None,
    }
}

fn admitted(caller: Option<Arc<Verified>>) -> AdmissionRecord {
    AdmissionRecord {
        route: Arc::new(route("/", Auth::Optional)),
        caller,
        carrier: None,
        is_left_to_app: false,
        since: NOW,
        method: "GET".into(),
        host: "a.test".into(),
        path: "/x".into(),
        websocket: false,
        client: None,
    }
}

#[test]
fn event_streams_are_known_in_any_case() {
    for (text, want) in
        [("Text/Event-Stream; charset=utf-8", true), ("*/*, text/event-stream", true), ("text/plain", false)]
    {
        assert_eq!(is_event_stream(Some(&HeaderValue::from_static(text))), want, "{text}");
    }
}

/// A walk through the exchanges that ended before this one was among them has not found it.
#[tokio::test]
async fn what_changed_after_the_decision_counts_for_it() {
    let world = world();
    let meter: Arc<dyn Meter> = Arc::new(NoMeter);
    let streams = Streams::new(&meter);
    let (lax, strict) = (admission(&world, Auth::Optional), admission(&world, Auth::Required));
    let watch =
        |caller| streams.watch(OpenExchange::new(([127, 0, 0, 1], 1).into(), false), admitted(caller));
    let known = watch(Some(FakeVerifier.verify("they/u1", NOW).unwrap()));
    let anonymous = watch(None);
    for watched in [&known, &anonymous] {
        assert_eq!(watched.hold_against(&lax, false), Ok(()));
        assert_eq!(watched.hold_against(&lax, true), Ok(()), "the same again");
    }
    assert_eq!(known.hold_against(&strict, true), Ok(()));
    assert_eq!(anonymous.hold_against(&strict, true), Err(Refusal::NotReady));
    let target = Target::SubjectIssued { issuer: "https://they.test".into(), sub: "u1".into(), until: NOW };
    let entry = Revocation { target, expires_at: UnixTime::NEVER, created_at: NOW, reason: None };
    world.store.commit(vec![Change::Revoke(entry)]).await.unwrap();
    assert_eq!(known.hold_against(&lax, false), Err(Refusal::Revoked));
    assert_eq!(anonymous.hold_against(&lax, false), Ok(()));
}

/// Nothing is revoked, and since when the set was confirmed is a matter of the test.
#[derive(Default)]
struct Lease(AtomicBool);

impl Revocations for Lease {
    fn standing(&self) -> Standing {
        match self.0.load(Ordering::Relaxed) {
            true => Standing::Stale(1),
            false => Standing::Confirmed(1),
        }
    }

    fn is_revoked(&self, _: &Identity) -> bool {
        false
    }
}

#[tokio::test]
async fn the_end_of_a_lease_ends_what_callers_opened_on_routes_that_ask_for_that() {
    let (world, lease) = (world(), Arc::new(Lease::default()));
    let meter: Arc<dyn Meter> = Arc::new(NoMeter);
    let streams = Streams::new(&meter);
    let mut admission = admission(&world, Auth::Optional);
    admission.authenticator.revocations = Arc::clone(&lease) as _;
    let caller = || Some(FakeVerifier.verify("they/u1", NOW).unwrap());
    let on = |fail| Arc::new(Route { fail, ..route("/", Auth::Optional) });
    let watch = |caller, fail| {
        let record = AdmissionRecord { route: on(fail), ..admitted(caller) };
        streams.watch(OpenExchange::new(([127, 0, 0, 1], 1).into(), false), record)
    };
    let (closed, open) = (watch(caller(), FailMode::Closed), watch(caller(), FailMode::Open));
    let anonymous = watch(None, FailMode::Closed);
    let all = [&closed, &open, &anonymous];
    let ended = || all.map(|watched| watched.exchange.ending());
    assert_eq!(streams.cut_stale(&admission.authenticator).await, 0);
    assert!(all.iter().all(|watched| !watched.exchange.cut_if_stale(&*lease)));
    lease.0.store(true, Ordering::Relaxed);
    assert_eq!(closed.hold_against(&admission, false), Err(Refusal::Stale));
    assert_eq!(open.hold_against(&admission, false), Ok(()));
    assert_eq!(anonymous.hold_against(&admission, false), Ok(()));
    assert_eq!(streams.cut_revoked(&admission.authenticator).await, 0, "nothing is");
    assert_eq!(ended(), [None; 3]);
    assert!(!open.exchange.cut_if_stale(&*lease) && !anonymous.exchange.cut_if_stale(&*lease));
    assert_eq!(streams.cut_stale(&admission.authenticator).await, 1);
    assert_eq!(ended(), [Some(Ending::Stale), None, None]);
    let between_bytes = watch(caller(), FailMode::Closed);
    assert!(between_bytes.exchange.cut_if_stale(&*lease));
    assert_eq!(between_bytes.exchange.ending(), Some(Ending::Stale));
    // By a reload, the route that it belongs to is closed.
    assert!(open.exchange.goes_on_under(&admission));
    assert_eq!(streams.cut_stale(&admission.authenticator).await, 1);
    assert_eq!(ended(), [Some(Ending::Stale), Some(Ending::Stale), None]);
}
