//! What cannot be undone waits while the clock is in doubt, and is done once it is not; as stories over the fakes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::domain::connection::Status;
use palisade_core::domain::mail::Letter;
use palisade_core::ports::{Clock, ProviderFault, Store};
use palisade_core::service::accounts::AccountError;
use palisade_core::service::connections::ConnectionError;
use palisade_testing::accounts_world::{ANN, PASSWORD, PasswordLogin, client, from, secret, world};
use palisade_testing::connections_world;

const DAY: u64 = 24 * 3600;

#[tokio::test]
async fn an_account_that_nobody_claimed_is_not_removed_by_a_clock_in_doubt() {
    let world = world();
    world.register(ANN).await;
    world.clock.jump(30 * DAY);
    // Put off, not done again and again.
    assert!(world.accounts.do_due_tasks().await.unwrap());
    assert!(!world.accounts.do_due_tasks().await.unwrap());
    let address = ANN.parse().unwrap();
    let found = || world.store.user_by_email(&address);
    assert!(found().await.unwrap().is_some());
    world.clock.accept();
    world.clock.advance(7 * DAY);
    while world.accounts.do_due_tasks().await.unwrap() {}
    assert!(found().await.unwrap().is_none());
}

#[tokio::test]
async fn a_session_is_refused_by_the_wall_clock_and_removed_by_the_earliest() {
    let world = world();
    let ann = world.ann().await;
    let first = world.login().await;
    world.clock.jump(2 * DAY);
    assert!(matches!(world.refresh(&first.refresh_token).await, Err(AccountError::InvalidRefreshToken)));
    // A sign-in makes room.
    world.accounts.login(&from("chrome"), ANN, secret(PASSWORD)).await.unwrap();
    assert!(world.store.session(ann.id, first.session).await.unwrap().is_some());
    world.clock.set_back(2 * DAY);
    world.clock.accept();
    world.refresh(&first.refresh_token).await.unwrap();
    world.clock.advance(2 * DAY);
    world.login().await;
    assert!(world.store.session(ann.id, first.session).await.unwrap().is_none());
}

#[tokio::test]
async fn a_session_that_was_begun_by_a_clock_that_was_ahead_ends_once_the_clock_is_accepted() {
    let world = world();
    world.ann().await;
    let year = 365 * DAY;
    world.clock.jump(year);
    let (one, other) = (world.login().await, world.login().await);
    // Back, and no operator has said so yet: the user of the session may go on.
    world.clock.set_back(year);
    let kept = world.refresh(&one.refresh_token).await.unwrap();
    world.clock.accept();
    for granted in [&kept, &other] {
        let refused = world.refresh(&granted.refresh_token).await;
        assert!(matches!(refused, Err(AccountError::InvalidRefreshToken)));
    }
    assert_eq!(world.revoked_sessions().await, 2);
    let told = (Action::Refresh, Outcome::Denied, Some("begun_in_the_future".to_owned()));
    assert_eq!(world.events().iter().filter(|event| **event == told).count(), 2);
    world.login().await;
}

#[tokio::test]
async fn what_is_revoked_outlasts_the_latest_moment_that_the_clock_showed() {
    let world = world();
    let ann = world.ann().await;
    let granted = world.login().await;
    world.clock.jump(365 * DAY);
    world.clock.set_back(365 * DAY);
    world.accounts.logout(&client(), None, Some(&exposed(&granted.refresh_token))).await.unwrap();
    // What raises the version of an account, beside what ends a session.
    world.accounts.reset_password_of("r", ann.id).await.unwrap();
    let entries = world.store.recent_revocations(9).await.unwrap();
    assert_eq!(entries.len(), 2, "{entries:?}");
    let end = world.clock.now().plus(Duration::from_secs(365 * DAY)).plus(world.settings.revocation_life);
    assert!(entries.iter().all(|entry| entry.expires_at == end), "{entries:?}");
}

fn exposed(secret: &secrecy::SecretString) -> String {
    secrecy::ExposeSecret::expose_secret(secret).to_owned()
}

#[tokio::test]
async fn a_link_from_the_future_is_not_good_and_another_is_mailed() {
    let world = world();
    world.ann().await;
    world.clock.jump(365 * DAY);
    world.accounts.request_reset(&client(), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let early = world.token(Letter::ResetPassword).await;
    world.accounts.validate_reset(&client(), &early).await.unwrap();
    world.clock.set_back(365 * DAY);
    assert!(world.accounts.validate_reset(&client(), &early).await.is_err());
    world.clock.accept();
    world.accounts.request_reset(&client(), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let mails = world.store.mails(100).await.unwrap();
    let resets: Vec<_> = mails.iter().filter(|mail| mail.letter == Letter::ResetPassword).collect();
    assert_eq!(resets.len(), 2);
    assert_ne!(resets[0].link.unwrap().id, resets[1].link.unwrap().id);
}

#[tokio::test]
async fn tokens_that_cannot_be_replaced_are_not_erased_by_a_clock_in_doubt() {
    let world = connections_world::world().await;
    world.providers.edit_info(|info| info.can_refresh = false);
    let id = world.connect(connections_world::acme()).await;
    world.clock.jump(DAY);
    assert!(matches!(world.token(id).await, Err(ConnectionError::NotRefreshable)));
    world.connections.do_due_connections().await.unwrap();
    assert!(!world.connections.do_due_connections().await.unwrap());
    assert_eq!((world.stored(id).await.status, world.letters().await), (Status::Active, Vec::new()));
    world.clock.set_back(DAY);
    assert_eq!(world.access(id).await, "a0.0");
    world.clock.accept();
    world.clock.advance(DAY);
    assert!(matches!(world.token(id).await, Err(ConnectionError::ReconnectNeeded)));
}

#[tokio::test]
async fn tokens_with_nothing_to_refresh_them_by_are_not_erased_by_a_clock_in_doubt() {
    let world = connections_world::world().await;
    let id = world.connect(connections_world::acme()).await;
    world.clock.jump(DAY);
    let nothing = || ProviderFault::NotRefreshable("the provider gave no refresh token".into());
    world.providers.fail("refresh", nothing());
    assert!(matches!(world.token(id).await, Err(ConnectionError::NotRefreshable)));
    assert_eq!(world.stored(id).await.status, Status::Active);
    world.clock.set_back(DAY);
    assert_eq!(world.access(id).await, "a0.0");
    world.clock.accept();
    world.clock.advance(DAY);
    world.providers.fail("refresh", nothing());
    assert!(matches!(world.token(id).await, Err(ConnectionError::ReconnectNeeded)));
}

#[tokio::test]
async fn the_end_of_a_grant_is_not_warned_of_by_a_clock_in_doubt() {
    let world = connections_world::world().await;
    *world.providers.life.lock().unwrap() = (Some(3600), Some(7 * DAY));
    world.connect(connections_world::acme()).await;
    world.providers.infos.lock().unwrap().clear();
    world.clock.jump(5 * DAY + 600);
    world.connections.do_due_connections().await.unwrap();
    assert_eq!(world.letters().await, Vec::new());
    world.clock.accept();
    world.clock.advance(600);
    world.connections.do_due_connections().await.unwrap();
    assert_eq!(world.letters().await, [Letter::GrantEnding]);
}

#[tokio::test]
async fn tokens_that_came_by_a_clock_that_was_ahead_are_replaced() {
    let world = connections_world::world().await;
    world.clock.jump(365 * DAY);
    let id = world.connect(connections_world::acme()).await;
    assert_eq!(world.access(id).await, "a0.0");
    world.clock.set_back(365 * DAY);
    // They say that they are good for a year.
    assert_eq!(world.access(id).await, "a0.1");
    assert_eq!(world.access(id).await, "a0.1");
}

#[tokio::test]
async fn a_consent_under_way_is_not_removed_by_a_clock_in_doubt() {
    let world = connections_world::world().await;
    let begun = world.begin(connections_world::acme()).await.unwrap();
    let id = begun.connection.id;
    world.clock.jump(DAY);
    world.connections.do_due_connections().await.unwrap();
    assert!(!world.connections.do_due_connections().await.unwrap());
    assert!(world.stored(id).await.consent.is_some());
    world.clock.set_back(DAY);
    assert_eq!(world.come_back(&begun).await.unwrap().outcome, Ok(()));
}

#[tokio::test]
async fn a_notice_is_not_given_up_by_a_clock_in_doubt() {
    let world = connections_world::world().await;
    world.webhook.down.store(true, Ordering::Relaxed);
    world.connect(connections_world::acme()).await;
    world.sent_notices().await;
    world.clock.jump(30 * DAY);
    world.sent_notices().await;
    let left = || async {
        world.store.due_tasks(palisade_core::domain::time::UnixTime::NEVER, 9).await.unwrap().len()
    };
    assert_eq!(left().await, 1);
    for _ in 0..25 {
        world.clock.advance(3600);
        world.sent_notices().await;
    }
    assert_eq!(left().await, 0, "a day by the mark, too");
}

#[tokio::test]
async fn a_notice_that_was_put_off_by_a_clock_that_was_ahead_is_tried_for_its_day() {
    let world = connections_world::world().await;
    world.webhook.down.store(true, Ordering::Relaxed);
    world.clock.jump(365 * DAY);
    world.connect(connections_world::acme()).await;
    world.sent_notices().await;
    world.clock.set_back(365 * DAY);
    let tries = || world.webhook.notices.lock().unwrap().len();
    let before = tries();
    world.sent_notices().await;
    assert_eq!(tries(), before + 1);
    for _ in 0..25 {
        world.clock.advance(3600);
        world.sent_notices().await;
    }
    let left = world.store.due_tasks(palisade_core::domain::time::UnixTime::NEVER, 9).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}
