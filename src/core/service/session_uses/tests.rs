//! When uses of sessions are written, over the fakes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use palisade_core::domain::browser::CookiePlace;
use palisade_core::domain::session::Session;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, Clock, Store};
use palisade_core::service::browser::SignedIn;
use palisade_core::service::sign_in::SignIn;
use palisade_testing::accounts_world::{ANN, AccountsWorld, BROWSER, PASSWORD, client, secret, world};
use tokio_util::sync::CancellationToken;

async fn enters(world: &AccountsWorld) -> SignedIn {
    let place = CookiePlace::Host("app.test".to_owned());
    let login = world.accounts.browser_login(&client(), ANN, secret(PASSWORD), false, &place, None).await;
    match login.unwrap() {
        SignIn::Done(signed_in) => *signed_in,
        SignIn::Challenge(challenge) => match challenge {},
    }
}

/// What these tests do with a world.
trait Uses {
    fn uses(&self, signed_in: &SignedIn);

    async fn stored(&self, signed_in: &SignedIn) -> Option<Session>;

    /// How many commits a pass made.
    async fn pass(&self) -> u64;
}

impl Uses for AccountsWorld {
    fn uses(&self, signed_in: &SignedIn) {
        self.accounts.used(signed_in.user.id, signed_in.session, self.clock.now());
    }

    async fn stored(&self, signed_in: &SignedIn) -> Option<Session> {
        self.store.session(signed_in.user.id, signed_in.session).await.unwrap()
    }

    async fn pass(&self) -> u64 {
        let before = self.store.commits.load(Ordering::Relaxed);
        self.accounts.write_due_uses().await.unwrap();
        self.store.commits.load(Ordering::Relaxed) - before
    }
}

#[tokio::test]
async fn a_use_is_written_at_once_and_then_once_a_minute() {
    let world = world();
    world.ann().await;
    let (one, other) = (enters(&world).await, enters(&world).await);
    assert_eq!(world.pass().await, 0, "nothing was used");
    world.clock.advance(100);
    let at = world.clock.now();
    (0..10).for_each(|_| world.uses(&one));
    world.uses(&other);
    assert_eq!(world.pass().await, 1, "both in one commit");
    let stored = world.stored(&one).await.unwrap();
    assert_eq!((stored.last_used_at, stored.expires_at), (at, at.plus(BROWSER.idle)));
    assert_eq!(world.stored(&other).await.unwrap().last_used_at, at);
    for _ in 0..59 {
        world.clock.advance(1);
        world.uses(&one);
        assert_eq!(world.pass().await, 0);
    }
    world.clock.advance(1);
    assert_eq!(world.pass().await, 1);
    assert_eq!(world.stored(&one).await.unwrap().last_used_at, UnixTime(at.0 + 59));
    assert_eq!(world.stored(&other).await.unwrap().last_used_at, at);
    // Without a further use there is nothing to write, and nothing is remembered.
    world.clock.advance(600);
    assert_eq!(world.pass().await, 0);
    assert_eq!(world.accounts.session_uses().latest(one.user.id, one.session), None);
}

#[tokio::test]
async fn an_ended_session_is_not_written_again() {
    let world = world();
    world.ann().await;
    let signed_in = enters(&world).await;
    world.clock.advance(100);
    world.uses(&signed_in);
    world.accounts.end_browser_session(&client(), signed_in.user.id, signed_in.session).await.unwrap();
    assert_eq!(world.pass().await, 0);
    assert_eq!(world.stored(&signed_in).await, None);
    // Also when it ends between the read and the write.
    let signed_in = enters(&world).await;
    world.clock.advance(100);
    world.uses(&signed_in);
    world.store.get_ahead(vec![Change::EndSession(signed_in.user.id, signed_in.session)]);
    world.pass().await;
    assert_eq!(world.stored(&signed_in).await, None);
    assert_eq!(world.accounts.session_uses().latest(signed_in.user.id, signed_in.session), None);
}

#[tokio::test]
async fn a_write_of_another_part_and_one_of_a_use_do_not_undo_each_other() {
    let world = world();
    world.ann().await;
    let (one, other) = (enters(&world).await, enters(&world).await);
    world.clock.advance(100);
    world.uses(&one);
    world.uses(&other);
    // Another gateway writes one of them in between.
    let mut changed = world.stored(&one).await.unwrap();
    changed.scopes = vec!["changed".to_owned()];
    world.store.get_ahead(vec![Change::UpdateSession(changed)]);
    world.pass().await;
    let stored = world.stored(&one).await.unwrap();
    assert_eq!((stored.last_used_at, stored.scopes), (world.clock.now(), vec!["changed".to_owned()]));
    assert_eq!(world.stored(&other).await.unwrap().last_used_at, world.clock.now());
}

#[tokio::test]
async fn while_the_store_does_not_write_a_use_counts_and_is_written_later() {
    let world = world();
    world.ann().await;
    let signed_in = enters(&world).await;
    world.clock.advance(100);
    world.uses(&signed_in);
    world.store.fail();
    assert!(world.accounts.write_due_uses().await.is_err());
    let uses = world.accounts.session_uses();
    assert_eq!(uses.latest(signed_in.user.id, signed_in.session), Some(world.clock.now()));
    world.store.mend();
    assert_eq!(world.pass().await, 1);
    assert_eq!(world.stored(&signed_in).await.unwrap().last_used_at, world.clock.now());
}

#[tokio::test]
async fn a_clean_stop_writes_what_is_left() {
    let world = world();
    world.ann().await;
    let signed_in = enters(&world).await;
    world.clock.advance(100);
    world.uses(&signed_in);
    world.pass().await;
    world.clock.advance(10);
    world.uses(&signed_in);
    let closing = CancellationToken::new();
    closing.cancel();
    world.accounts.write_session_uses(closing).await;
    assert_eq!(world.stored(&signed_in).await.unwrap().last_used_at, world.clock.now());
}

#[tokio::test]
async fn a_session_of_refresh_tokens_is_none_of_this() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    world.clock.advance(100);
    world.accounts.used(granted.user.id, granted.session, world.clock.now());
    assert_eq!(world.pass().await, 0);
    let stored = world.store.session(granted.user.id, granted.session).await.unwrap().unwrap();
    let uses = Arc::clone(&world.accounts.session_uses());
    assert_eq!(uses.apply(stored.clone(), world.accounts.session_lifetimes()), stored);
}
