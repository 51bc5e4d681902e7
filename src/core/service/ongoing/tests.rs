use palisade_core::domain::credential::Carrier;
use palisade_core::domain::pattern::{HostPattern, PathPattern};
use palisade_core::domain::route::Route;
use palisade_core::domain::route::{Auth, FailMode};
use palisade_core::domain::route::{AuthorizationField, Public};
use palisade_core::domain::time::UnixTime;
use palisade_core::service::admit::Admission;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use palisade_core::domain::identity::Identity;
use palisade_core::domain::request::Scheme;
use palisade_core::domain::same_origin::OwnOrigins;
use palisade_core::domain::table::Table;
use palisade_core::ports::Signer;
use palisade_core::ports::{Change, Clock, Store, Verified};
use palisade_core::service::admit::Authenticator;
use palisade_core::service::ongoing::*;
use palisade_testing::accounts_world::{AccountsWorld, world};
use palisade_testing::fakes::{FakeSigner, NOW};
use palisade_testing::route_fakes;
use palisade_testing::token_fakes::FakeVerifier;

const HOUR: Duration = Duration::from_secs(3600);
const LEEWAY: Duration = Duration::from_secs(60);

fn route(prefix: &str, auth: Auth) -> Route {
    let mut route = Route { after_expiry: HOUR, ..route_fakes::route(prefix, auth) };
    route.policy.carriers.cookie = Some("at".into());
    route
}

fn identity(issuer: &str, subject: String, session: Option<String>) -> Identity {
    Identity {
        issuer: issuer.into(),
        subject,
        email: None,
        email_verified: false,
        session,
        token_id: None,
        version: Some(0),
        scopes: vec!["read".into()],
        issued_at: NOW,
        expires_at: NOW.plus(LEEWAY),
        claims: serde_json::Map::new(),
    }
}

fn admitted(caller: Option<Identity>, since: u64) -> AdmissionRecord {
    AdmissionRecord {
        route: Arc::new(route("/", Auth::Required)),
        carrier: caller.as_ref().map(|_| Carrier::Authorization),
        is_left_to_app: false,
        caller: caller.map(|identity| Arc::new(Verified::new(identity))),
        since: UnixTime(NOW.0 + since),
        method: "GET".into(),
        host: "a.test".into(),
        path: "/files/x".into(),
        websocket: false,
        client: None,
    }
}

fn expiry(world: &AccountsWorld) -> Expiry {
    Expiry {
        store: world.store.clone(),
        issuer: FakeSigner.issuer().to_owned(),
        lifetimes: world.accounts.session_lifetimes(),
        uses: world.accounts.session_uses(),
        leeway: LEEWAY,
        outage: Expiry::outage(),
    }
}

#[tokio::test]
async fn with_a_session_of_ours_it_lasts_as_long_as_the_session() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let caller = |granted: &palisade_core::service::sign_in::Granted| {
        identity(FakeSigner.issuer(), granted.user.id.to_string(), Some(granted.session.to_string()))
    };
    let exchange = admitted(Some(caller(&granted)), 0);
    let expiry = expiry(&world);
    let look = async || expiry.look(&exchange, Duration::ZERO, world.clock.now()).await;
    assert_eq!(look().await, NOW.plus(LEEWAY), "before its token has expired nothing is asked");
    world.clock.advance(60);
    // Far from the end of the session it is looked at again in between.
    assert_eq!(look().await, world.clock.now().plus(LOOK_AGAIN));
    world.clock.advance(86_339);
    let next = look().await;
    assert_eq!(next, NOW.plus(Duration::from_secs(86_400)), "the session's own end");
    // Used meanwhile: the session lives on, and so does the exchange.
    let used = world.refresh(&granted.refresh_token).await.unwrap();
    world.clock.advance(1);
    assert!(look().await > world.clock.now());
    world.clock.advance(86_400);
    assert!(look().await <= world.clock.now(), "unused, the session has ended by itself");
    // A session that is gone.
    let session = world.store.session(used.user.id, used.session).await.unwrap().unwrap();
    world.store.commit(vec![Change::EndSession(session.user, session.id)]).await.unwrap();
    assert!(look().await <= world.clock.now());
    // Whatever the route gives to those without one.
    assert!(expiry.look(&exchange, HOUR * 1000, world.clock.now()).await <= world.clock.now());
}

#[tokio::test]
async fn without_a_session_of_ours_the_route_sets_the_time() {
    let world = world();
    let expiry = expiry(&world);
    // Of the same form as ours, and of no account here.
    let name = |number| uuid::Uuid::from_u128(number).to_string();
    let theirs = || identity("https://they.test", name(1), Some(name(2)));
    let minted = || identity(FakeSigner.issuer(), "alice".into(), None);
    let end = NOW.plus(LEEWAY);
    for caller in [theirs(), minted()] {
        let exchange = admitted(Some(caller), 0);
        assert_eq!(expiry.look(&exchange, HOUR, NOW).await, end);
        assert_eq!(expiry.look(&exchange, HOUR, end).await, end.plus(HOUR));
        assert!(expiry.look(&exchange, HOUR, end.plus(HOUR)).await <= end.plus(HOUR));
        assert_eq!(expiry.look(&exchange, Duration::ZERO, end).await, end, "the strict");
    }
    // AdmissionRecord within the leeway: as long as the token itself would be.
    let late = admitted(Some(theirs()), 90);
    assert_eq!(expiry.look(&late, Duration::ZERO, NOW.plus(Duration::from_secs(91))).await, end.plus(LEEWAY));
    assert_eq!(
        expiry.look(&admitted(None, 0), Duration::ZERO, UnixTime(u64::MAX - 1)).await,
        UnixTime::NEVER
    );
}

#[tokio::test]
async fn a_session_that_cannot_be_read_counts_as_none() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let caller =
        identity(FakeSigner.issuer(), granted.user.id.to_string(), Some(granted.session.to_string()));
    let exchange = admitted(Some(caller), 0);
    world.store.sessions_unreadable.store(true, Ordering::Relaxed);
    let (expiry, end) = (expiry(&world), NOW.plus(LEEWAY));
    assert_eq!(expiry.look(&exchange, HOUR, end).await, end.plus(LOOK_AGAIN));
    assert!(expiry.look(&exchange, HOUR, end.plus(HOUR)).await <= end.plus(HOUR));
    world.store.sessions_unreadable.store(false, Ordering::Relaxed);
    assert!(expiry.look(&exchange, HOUR, end.plus(HOUR)).await > end.plus(HOUR));
}

#[test]
fn a_stricter_route_admits_it_no_more_and_a_laxer_one_does() {
    let world = world();
    let under = |routes: Vec<Route>, exchange: &AdmissionRecord| {
        let admission = Admission {
            routes: Table::new(routes),
            authenticator: Authenticator {
                verifier: Arc::new(FakeVerifier),
                revocations: world.store.clone(),
                fail: FailMode::Closed,
                clock: world.clock.clone(),
            },
            own: OwnOrigins { scheme: Scheme::Https, named: Vec::new() },
            sessions: None,
        };
        admission.still_admits(exchange).is_some()
    };
    let alice = admitted(Some(identity("https://us.test", "alice".into(), None)), 0);
    let anybody = admitted(None, 0);
    let with = |change: &dyn Fn(&mut Route)| {
        let mut route = route("/", Auth::Required);
        change(&mut route);
        vec![route]
    };
    let open = |path| vec![Public::to_read(PathPattern::parse(path).unwrap())];
    // The routes, and whether they admit Alice and a caller without a token.
    for (why, routes, want) in [
        ("as before", with(&|_| ()), (true, false)),
        ("no token needed", with(&|r| r.policy.auth = Auth::None), (true, true)),
        ("no token needed", with(&|r| r.policy.auth = Auth::Optional), (true, true)),
        ("a scope that she has", with(&|r| r.policy.require.scopes = vec!["read".into()]), (true, false)),
        ("a scope that she lacks", with(&|r| r.policy.require.scopes = vec!["write".into()]), (false, false)),
        ("a verified address", with(&|r| r.policy.require.email_verified = true), (false, false)),
        ("another issuer", with(&|r| r.policy.issuers = vec!["https://they.test".into()]), (false, false)),
        ("another method", with(&|r| r.methods = vec!["POST".into()]), (false, false)),
        ("another host", with(&|r| r.hosts = vec![HostPattern::of("b.test")]), (false, false)),
        ("another path", with(&|r| r.paths = vec![PathPattern::parse("/other").unwrap()]), (false, false)),
        ("no route at all", vec![], (false, false)),
        ("a path that every client may see", with(&|r| r.public = open("=/files/x")), (true, true)),
        ("another such path", with(&|r| r.public = open("=/files")), (true, false)),
        (
            "a narrower route in front",
            vec![route("/", Auth::None), {
                let mut narrower = route("/files", Auth::Required);
                narrower.policy.require.scopes = vec!["write".into()];
                narrower
            }],
            (false, false),
        ),
    ] {
        assert_eq!((under(routes.clone(), &alice), under(routes, &anybody)), want, "{why}");
    }
    // What carried the token counts as well.
    let carried = |carrier| AdmissionRecord {
        carrier: Some(carrier),
        ..admitted(Some(identity("https://us.test", "a".into(), None)), 0)
    };
    let other_cookie = with(&|r| r.policy.carriers.cookie = Some("other".into()));
    assert!(under(with(&|_| ()), &carried(Carrier::Cookie)));
    assert!(!under(other_cookie.clone(), &carried(Carrier::Cookie)));
    assert!(under(other_cookie, &carried(Carrier::Authorization)));
    assert!(!under(with(&|_| ()), &carried(Carrier::WebsocketProtocol)));
    let other_field = with(&|r| r.policy.carriers.header = Some("x-token".into()));
    assert!(under(with(&|_| ()), &carried(Carrier::Header)));
    assert!(!under(other_field, &carried(Carrier::Header)));
    // Where the field is the app's now, no token would be found in it, and what the app judges is admitted as long as
    // that is so.
    let apps = |without_session| {
        with(&|r| r.policy.carriers.authorization = AuthorizationField::Apps { without_session })
    };
    assert!(!under(apps(false), &carried(Carrier::Authorization)));
    assert!(under(apps(false), &carried(Carrier::Cookie)));
    let left = AdmissionRecord { is_left_to_app: true, ..admitted(None, 0) };
    assert!(under(apps(true), &left));
    assert!(!under(apps(false), &left));
    assert!(!under(with(&|_| ()), &left));
    assert!(!under(apps(true), &admitted(None, 0)), "admitted as a visitor of an optional route");
}
