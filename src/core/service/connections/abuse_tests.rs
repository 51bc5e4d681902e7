//! Connections under attack, over the fakes: an attacker or client that is too late, comes twice (replay), or sends
//! too much.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use secrecy::ExposeSecret;
use uuid::Uuid;

use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::domain::connection::{ConnectionId, Status};
use palisade_core::domain::opaque::TokenHash;
use palisade_core::domain::session::{Device, Session, SessionId};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, Clock, Limited, ProviderFault, Store};
use palisade_core::service::caller::Person;
use palisade_core::service::connections::{Begin, ConnectionError, Import};
use palisade_testing::accounts_world::client;
use palisade_testing::connection_fakes::{ACME, info};
use palisade_testing::connections_world::{ConnectionsWorld, acme, identity, secret, world};
use palisade_testing::fakes::NOW;

type Injecting = tokio::task::JoinHandle<Result<String, ConnectionError>>;

/// A request on its way to an upstream, in a task of its own.
fn injecting(world: &ConnectionsWorld) -> Injecting {
    let (connections, ann) = (world.connections.clone(), identity(world.ann.user));
    tokio::spawn(async move {
        let injected = connections.inject(&ann, ACME).await?;
        Ok(injected.access_token.expose_secret().to_owned())
    })
}

pub(crate) fn import(access: &str, refresh: &str) -> Import {
    Import {
        access_token: secret(access),
        refresh_token: Some(secret(refresh)),
        expires_in: Some(Duration::from_secs(3600)),
        refresh_expires_in: None,
        scopes: None,
        kept: BTreeMap::new(),
    }
}

/// The queue: a refresh under way, the end behind it, and a request behind the end. What the refresh brought is
/// worth nothing any more when the request's turn comes.
#[tokio::test]
async fn no_request_behind_the_end_gets_what_came_before_it() {
    let world = world().await;
    let id = world.connect(acme()).await;
    world.clock.advance(3600);
    world.providers.close_gate();
    let first = injecting(&world);
    world.providers.begun.notified().await;
    let ending = {
        let (connections, ann) = (world.connections.clone(), world.ann);
        tokio::spawn(async move { connections.disconnect(&client(), ann, id).await })
    };
    world.queued(id, 2).await;
    let late = injecting(&world);
    world.queued(id, 3).await;
    world.providers.gate.add_permits(1000);
    assert_eq!(first.await.unwrap().unwrap(), "a0.1");
    ending.await.unwrap().unwrap();
    let late = late.await.unwrap();
    assert!(matches!(late, Err(ConnectionError::Revoked)), "{late:?}");
}

/// The same where another grant takes the place of the one that was refreshed.
#[tokio::test]
async fn no_request_behind_a_new_grant_gets_a_token_of_the_old_one() {
    let world = world().await;
    let id = world.connect(acme()).await;
    world.clock.advance(3600);
    world.providers.close_gate();
    let first = injecting(&world);
    world.providers.begun.notified().await;
    let importing = {
        let (connections, ann) = (world.connections.clone(), world.ann);
        tokio::spawn(
            async move { connections.import_tokens(&client(), ann, id, import("a9.0", "r9.0")).await },
        )
    };
    world.queued(id, 2).await;
    let late = injecting(&world);
    world.queued(id, 3).await;
    world.providers.gate.add_permits(1000);
    assert_eq!(first.await.unwrap().unwrap(), "a0.1");
    importing.await.unwrap().unwrap();
    assert_eq!(late.await.unwrap().unwrap(), "a9.0");
}

/// The same account is connected a second time while the first connection is being refreshed: that one is over,
/// whatever the refresh brings.
#[tokio::test]
async fn a_refresh_brings_no_connection_back_that_was_replaced() {
    let world = world().await;
    let old = world.connect(acme()).await;
    world.clock.advance(3600);
    let new = world.begin(Begin { another: true, ..acme() }).await.unwrap().connection.id;
    world.providers.close_gate();
    let late = injecting(&world);
    world.providers.begun.notified().await;
    *world.providers.subject.lock().unwrap() = "ann-at-acme".into();
    world.connections.import_tokens(&client(), world.ann, new, import("theirs", "r9.0")).await.unwrap();
    world.providers.gate.add_permits(1000);
    let late = late.await.unwrap();
    assert!(matches!(late, Err(ConnectionError::Revoked)), "{late:?}");
    let (old, new) = (world.stored(old).await, world.stored(new).await);
    assert_eq!((old.status, old.tokens), (Status::Revoked, None));
    assert!(new.status == Status::Active && new.tokens.is_some());
    assert_eq!(world.providers.count("revoke"), 0, "the provider may know the two for one grant");
}

/// The token is still good, the provider does not answer, and while a request waits the account is deleted: that
/// waits for no turn.
#[tokio::test(start_paused = true)]
async fn a_token_that_was_read_before_the_end_is_not_sent_after_it() {
    let world = world().await;
    world.connect(acme()).await;
    world.clock.advance(3301);
    world.providers.close_gate();
    let late = injecting(&world);
    world.providers.begun.notified().await;
    world.store.commit(vec![Change::DeleteUser(world.ann.user)]).await.unwrap();
    let late = late.await.unwrap();
    assert!(matches!(late, Err(ConnectionError::NotFound)), "{late:?}");
}

/// A write that seems to fail and was made all the same is no conflict with the write of another caller.
#[tokio::test]
async fn tokens_that_were_written_after_all_are_used() {
    let world = world().await;
    let begun = world.begin(acme()).await.unwrap();
    let coming = {
        let (connections, callback) =
            (world.connections.clone(), world.coming_back(&begun, &[("code", "x")]));
        world.providers.close_gate();
        tokio::spawn(async move { connections.callback(&client(), callback).await })
    };
    world.providers.begun.notified().await;
    world.store.lose.store(true, Ordering::Relaxed);
    world.providers.gate.add_permits(1000);
    assert_eq!(coming.await.unwrap().unwrap().outcome, Ok(()));
    assert_eq!(world.sent_notices().await, ["connection.connected"]);
    world.clock.advance(3600);
    world.providers.close_gate();
    let caller = injecting(&world);
    world.providers.begun.notified().await;
    world.store.lose.store(true, Ordering::Relaxed);
    world.providers.gate.add_permits(1000);
    assert_eq!(caller.await.unwrap().unwrap(), "a0.1");
    assert_eq!(world.sealed(begun.connection.id).await[1], "r0.1");
}

/// The store is full when a refresh has come, and a caller tries to import other tokens.
#[tokio::test]
async fn a_new_grant_that_cannot_be_written_costs_no_tokens() {
    let world = world().await;
    let id = world.connect(acme()).await;
    world.clock.advance(3600);
    world.providers.close_gate();
    let caller = injecting(&world);
    world.providers.begun.notified().await;
    world.store.fail();
    world.providers.gate.add_permits(1000);
    assert!(matches!(caller.await.unwrap(), Err(ConnectionError::Store(_))));
    let refused = world.connections.import_tokens(&client(), world.ann, id, import("a9.0", "r9.0")).await;
    assert!(matches!(refused, Err(ConnectionError::Store(_))), "{refused:?}");
    world.store.mend();
    assert_eq!(world.access(id).await, "a0.1", "the only token that the provider takes");
}

#[tokio::test]
async fn bringing_tokens_is_limited_too() {
    let world = world().await;
    let id = world.begin(acme()).await.unwrap().connection.id;
    *world.limiter.stop.lock().unwrap() = Some(Limited::Import);
    let refused = world.connections.import_tokens(&client(), world.ann, id, import("a9.0", "r9.0")).await;
    assert!(matches!(refused, Err(ConnectionError::TooMany(_))), "{refused:?}");
    assert_eq!((world.providers.count("identity"), world.stored(id).await.status), (0, Status::Pending));
}

/// A session of Ann's; the holder of its token begins.
async fn session(world: &ConnectionsWorld) -> Person {
    let id = SessionId(Uuid::from_u128(0x5e55));
    let address = client().address;
    let (name, fingerprint) = ("Firefox".to_owned(), String::new());
    let device = Device { name, user_agent: None, address, place: None, fingerprint };
    let now = world.clock.now();
    let session = Session {
        id,
        user: world.ann.user,
        created_at: now,
        last_used_at: now,
        expires_at: UnixTime::NEVER,
        device,
        scopes: Vec::new(),
        begun: palisade_core::domain::revocation::Versions::default(),
        generation: 0,
        current: TokenHash::of(b"x"),
        rekeyed: 0,
        rotated_at: now,
        successor: Default::default(),
        browser: None,
        revision: 0,
    };
    world.store.commit(vec![Change::CreateSession(session)]).await.unwrap();
    Person { session: Some(id), ..world.ann }
}

/// A callback must not bring a grant to an account of which everything was revoked meanwhile.
#[tokio::test]
async fn a_consent_that_was_begun_before_a_revocation_is_worth_nothing_after_it() {
    let raise = |sub: Option<String>| {
        let (issuer, created_at, expires_at) = ("https://us.test".to_owned(), NOW, UnixTime::NEVER);
        let raise = match sub.clone() {
            Some(sub) => Change::RaiseVersion {
                issuer: issuer.clone(),
                sub,
                created_at,
                expires_at,
                reason: None,
                enforce: true,
            },
            None => Change::RaiseGeneration {
                issuer: issuer.clone(),
                created_at,
                expires_at,
                reason: None,
                enforce: true,
            },
        };
        let cut = Change::CutSessions { issuer, sub, created_at, expires_at, reason: None };
        (raise, cut)
    };
    for with_session in [true, false] {
        for all in [true, false] {
            let world = world().await;
            let ann = if with_session { session(&world).await } else { world.ann };
            let begin = async || world.connections.begin(&client(), ann, acme()).await.unwrap();
            let sub = (!all).then(|| ann.user.to_string());
            let (raise, cut) = raise(sub);
            let begun = begin().await;
            world.store.commit(vec![raise.clone()]).await.unwrap();
            world.come_back(&begun).await.unwrap().outcome.unwrap();
            let begun = begin().await;
            world.store.commit(vec![raise, cut]).await.unwrap();
            let back = world.come_back(&begun).await;
            assert!(matches!(back, Err(ConnectionError::InvalidState)), "{with_session} {all}");
            if !with_session {
                world.come_back(&begin().await).await.unwrap().outcome.unwrap();
            }
        }
    }
}

/// On a shared browser the next one would complete it, with an account of their own.
#[tokio::test]
async fn a_consent_ends_with_the_session_that_began_it() {
    let world = world().await;
    let ann = session(&world).await;
    let begin = async || world.connections.begin(&client(), ann, acme()).await.unwrap();
    world.come_back(&begin().await).await.unwrap().outcome.unwrap();
    let begun = begin().await;
    world.store.commit(vec![Change::EndSession(ann.user, ann.session.unwrap())]).await.unwrap();
    assert!(matches!(world.come_back(&begun).await, Err(ConnectionError::InvalidState)));
    assert_eq!(world.providers.count("exchange"), 1);
}

#[tokio::test]
async fn a_disabled_account_completes_nothing() {
    let world = world().await;
    let begun = world.begin(acme()).await.unwrap();
    let mut ann = world.store.user(world.ann.user).await.unwrap().unwrap();
    ann.active = false;
    world.store.commit(vec![Change::UpdateUser(ann)]).await.unwrap();
    assert!(matches!(world.come_back(&begun).await, Err(ConnectionError::NoAccount)));
    assert_eq!(world.providers.count("exchange"), 0);
}

/// A hundred callbacks at the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_callbacks_at_once_one_is_exchanged() {
    let world = world().await;
    let begun = world.begin(acme()).await.unwrap();
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let (connections, callback) =
                (world.connections.clone(), world.coming_back(&begun, &[("code", "x")]));
            tokio::spawn(async move { connections.callback(&client(), callback).await })
        })
        .collect();
    let mut good = 0;
    for caller in callers {
        match caller.await.unwrap() {
            Ok(returned) => good += usize::from(returned.outcome.is_ok()),
            Err(error) => assert!(matches!(error, ConnectionError::InvalidState), "{error}"),
        }
    }
    // All are of the browser that began it, so all lead where the one led.
    assert_eq!((good, world.providers.count("exchange")), (100, 1));
    assert_eq!(world.count(Action::Connect, Outcome::Success), 1);
}

/// Whatever a provider says of times, nothing overflows, spins, or sleeps for ever.
#[tokio::test]
async fn absurd_times_do_no_harm() {
    for life in [0, 1, u64::MAX - 1, u64::MAX] {
        for refresh_life in [None, Some(0), Some(1), Some(u64::MAX)] {
            let world = world().await;
            *world.providers.life.lock().unwrap() = (Some(life), refresh_life);
            let id = world.connect(acme()).await;
            let asked = || world.providers.count("refresh");
            world.live(3600).await;
            assert!(asked() <= 360, "{life} {refresh_life:?}: {}", asked());
            assert_eq!(world.stored(id).await.status, Status::Active, "{life} {refresh_life:?}");
            let retry_after = Some(Duration::from_secs(u64::MAX));
            let fault = ProviderFault::Transient { reason: "503".into(), retry_after };
            world.providers.fail("refresh", fault);
            let _ = world.connections.operator_refresh("r1", world.ann.user, id).await;
            let retry_at = world.stored(id).await.retry_at.unwrap();
            assert!(retry_at <= world.clock.now().plus(Duration::from_secs(2 * 3600)), "{retry_at}");
            world.live(3 * 3600).await;
            assert_eq!(world.stored(id).await.failures, 0, "{life} {refresh_life:?}");
        }
    }
}

/// Its connections come first, and there are many of them.
#[tokio::test(start_paused = true)]
async fn a_silent_provider_keeps_no_other_one_waiting() {
    let world = world().await;
    world.providers.infos.lock().unwrap().push(info("other"));
    world.providers.infos.lock().unwrap().iter_mut().for_each(|info| info.can_identify = false);
    for _ in 0..90 {
        world.connect(Begin { another: true, ..acme() }).await;
    }
    world.clock.advance(10);
    let other = world.connect(Begin { provider: "other".to_owned(), ..acme() }).await;
    *world.providers.silent.lock().unwrap() = Some(ACME);
    world.clock.advance(3500);
    let started = tokio::time::Instant::now();
    while world.connections.do_due_connections().await.unwrap() {}
    assert_eq!(world.stored(other).await.refreshed_at, Some(world.clock.now()));
    let took = started.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    // And it is asked again, once it is there again.
    *world.providers.silent.lock().unwrap() = None;
    tokio::time::advance(Duration::from_secs(60)).await;
    world.live(200).await;
    let mine = world.store.connections(world.ann.user).await.unwrap();
    assert!(mine.iter().all(|one| one.failures == 0 && one.refreshed_at > one.connected_at));
}

/// A grant that expired unnoticed is not looked at for ever.
#[tokio::test]
async fn an_end_that_has_passed_keeps_nobody_busy() {
    let world = world().await;
    world.set(|settings| settings.keep_fresh = false);
    *world.providers.life.lock().unwrap() = (Some(3600), Some(1000));
    let id = world.connect(acme()).await;
    // The gateway was down all the while.
    world.clock.advance(2000);
    while world.connections.do_due_connections().await.unwrap() {}
    assert_eq!(world.stored(id).await.due_at, None);
}

/// Bob's `begin` cannot name, renew or learn of a connection of Ann's, whatever he guesses.
#[tokio::test]
async fn a_connection_of_another_is_one_that_is_not_there() {
    let world = world().await;
    let id = world.connect(acme()).await;
    let bob = Person { user: palisade_core::domain::account::UserId(Uuid::from_u128(0xb)), session: None };
    let mut user = world.store.user(world.ann.user).await.unwrap().unwrap();
    (user.id, user.email, user.revision) = (bob.user, Some("bob@example.com".parse().unwrap()), 0);
    world.store.commit(vec![Change::CreateUser(user)]).await.unwrap();
    let begin = |id| Begin { connection: Some(id), ..acme() };
    let answers = [id, ConnectionId(Uuid::from_u128(7))].map(begin);
    for begin in answers {
        let refused = world.connections.begin(&client(), bob, begin).await;
        assert!(matches!(refused, Err(ConnectionError::NotFound)), "{refused:?}");
    }
}

#[tokio::test]
async fn no_connection_is_begun_for_an_account_that_goes_meanwhile() {
    let world = world().await;
    let (store, ann) = (world.store.clone(), world.ann.user);
    *world.providers.meanwhile.lock().unwrap() = Some(Box::new(move || {
        store.commit(vec![Change::DeleteUser(ann)]).now_or_never().unwrap().unwrap();
    }));
    assert!(matches!(world.begin(acme()).await, Err(ConnectionError::NoAccount)));
    assert!(world.store.connections(ann).await.unwrap().is_empty());
}
