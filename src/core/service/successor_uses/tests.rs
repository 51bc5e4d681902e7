//! Which repeats of a refresh token bring its successor, over the fakes: minutes later, and as long as no use of that is
//! known.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;

use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::domain::claims::ROTATION_CLAIM;
use palisade_core::domain::identity::Identity;
use palisade_core::domain::session::{Fingerprint, REPEAT_WINDOW, Session, SuccessorUse};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, Clock, FirstVerified, Store};
use palisade_core::service::accounts::{AccountError, AccountSettings};
use palisade_core::service::sign_in::Granted;
use palisade_core::service::successor_uses::SuccessorUses;
use palisade_testing::accounts_world::{
    ANN, AccountsWorld, PASSWORD, client, from, person, secret, world, world_over, world_with,
};

const HOUR: u64 = 3600;

/// A world in which a repeat brings the successor for an hour.
fn lenient() -> AccountsWorld {
    world_with(for_an_hour)
}

/// What a first verification of this access token says.
fn identity(granted: &Granted) -> Identity {
    let place = granted.access_token.split(".r").nth(1).map(|place| place.parse::<u64>().unwrap());
    Identity {
        issuer: "https://us.test".into(),
        subject: granted.user.id.to_string(),
        email: None,
        email_verified: false,
        session: Some(granted.session.to_string()),
        token_id: None,
        version: Some(0),
        scopes: Vec::new(),
        issued_at: UnixTime(1),
        expires_at: UnixTime(2),
        claims: place.map(|place| (ROTATION_CLAIM.to_owned(), place.into())).into_iter().collect(),
    }
}

/// The gateway that goes on with this store, or another one beside it: what is only in memory it does not know.
fn another(world: &AccountsWorld, adjust: impl FnOnce(&mut AccountSettings)) -> AccountsWorld {
    let other = world_over(Arc::clone(&world.store), adjust);
    other.clock.advance(world.clock_now() - other.clock_now());
    other
}

fn for_an_hour(settings: &mut AccountSettings) {
    settings.refresh_repeat = Duration::from_secs(HOUR);
}

trait Repeats {
    async fn parent(&self) -> SecretString;
    /// An access token is verified for the first time by this gateway.
    fn visits(&self, granted: &Granted);
    async fn stored(&self, granted: &Granted) -> Option<Session>;
    /// Whether `parent` still brings `successor`.
    async fn repeats(&self, parent: &SecretString, successor: &Granted) -> bool;
}

impl Repeats for AccountsWorld {
    async fn parent(&self) -> SecretString {
        self.ann().await;
        self.login().await.refresh_token
    }

    fn visits(&self, granted: &Granted) {
        self.accounts.successor_uses().passed(&identity(granted));
    }

    async fn stored(&self, granted: &Granted) -> Option<Session> {
        self.store.session(granted.user.id, granted.session).await.unwrap()
    }

    async fn repeats(&self, parent: &SecretString, successor: &Granted) -> bool {
        match self.refresh(parent).await {
            Ok(again) => {
                let (again, first) = (again.refresh_token, &successor.refresh_token);
                assert_eq!(again.expose_secret(), first.expose_secret(), "another successor");
                true
            }
            Err(AccountError::InvalidRefreshToken) => {
                assert!(self.stored(successor).await.is_none(), "the session goes on");
                assert!(self.refresh(&successor.refresh_token).await.is_err());
                false
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_lost_answer_is_repeated_minutes_later_and_told_to_the_audit_log() {
    let world = lenient();
    let parent = world.parent().await;
    let lost = world.refresh(&parent).await.unwrap();
    for after in [1, REPEAT_WINDOW.as_secs() - 1, 1, HOUR - REPEAT_WINDOW.as_secs() - 1] {
        world.clock.advance(after);
        assert!(world.repeats(&parent, &lost).await);
    }
    let late = (Action::Refresh, Outcome::Success, Some("repeated_late".to_owned()));
    assert_eq!(
        world.events().iter().filter(|event| **event == late).count(),
        2,
        "the first two were not late"
    );
    world.clock.advance(1);
    assert!(!world.repeats(&parent, &lost).await, "the time is over");
    let reuse = (Action::RefreshReuse, Outcome::Denied, Some("session_ended".to_owned()));
    assert!(world.events().contains(&reuse));
}

#[tokio::test]
async fn by_default_ten_seconds_are_all_and_nothing_is_tracked() {
    let world = world();
    let parent = world.parent().await;
    let lost = world.refresh(&parent).await.unwrap();
    assert!(!lost.access_token.contains(".r"), "{}", lost.access_token);
    world.clock.advance(11);
    assert!(!world.repeats(&parent, &lost).await);
}

/// A thief who has the parent, and one who came first.
#[tokio::test]
async fn what_was_used_ends_the_session_after_ten_seconds_and_not_before() {
    for (is_of_a_repeat, is_written) in [(false, false), (false, true), (true, false), (true, true)] {
        let world = lenient();
        let parent = world.parent().await;
        let first = world.refresh(&parent).await.unwrap();
        world.clock.advance(5);
        let used = if is_of_a_repeat { world.refresh(&parent).await.unwrap() } else { first.clone() };
        world.visits(&used);
        if is_written {
            world.accounts.write_successor_uses().await.unwrap();
            assert_eq!(world.stored(&first).await.unwrap().successor, SuccessorUse::Used);
        }
        world.clock.advance(5);
        assert!(world.repeats(&parent, &first).await, "within ten seconds whatever was seen");
        world.clock.advance(1);
        assert!(!world.repeats(&parent, &first).await, "{is_of_a_repeat} {is_written}");
    }
}

#[tokio::test]
async fn access_tokens_of_the_parent_are_no_use_of_the_successor() {
    let world = lenient();
    let parent = world.parent().await;
    let before = world.refresh(&parent).await.unwrap();
    let lost = world.refresh(&before.refresh_token).await.unwrap();
    // The client goes on with what it has while the answer is lost; the cache may have dropped its token.
    world.visits(&before);
    world.accounts.write_successor_uses().await.unwrap();
    world.visits(&before);
    world.clock.advance(600);
    assert!(world.repeats(&before.refresh_token, &lost).await);
    world.visits(&lost);
    assert!(!world.repeats(&before.refresh_token, &lost).await);
}

#[tokio::test]
async fn a_successor_that_was_presented_is_used_whatever_became_of_it() {
    // Rotated: the parent is a grandparent.
    let world = lenient();
    let parent = world.parent().await;
    let first = world.refresh(&parent).await.unwrap();
    world.clock.advance(60);
    let next = world.refresh(&first.refresh_token).await.unwrap();
    assert!(world.refresh(&parent).await.is_err());
    assert!(world.stored(&next).await.is_none());
    // Refused because the account was locked for a while.
    let world = lenient();
    let parent = world.parent().await;
    let first = world.refresh(&parent).await.unwrap();
    world.clock.advance(60);
    let mut ann = world.store.user(first.user.id).await.unwrap().unwrap();
    ann.locked_until = Some(world.clock.now().plus(Duration::from_secs(60)));
    world.store.commit(vec![Change::UpdateUser(ann)]).await.unwrap();
    assert!(world.refresh(&first.refresh_token).await.is_err());
    assert!(world.stored(&first).await.is_some());
    world.clock.advance(60);
    assert!(!world.repeats(&parent, &first).await);
    // Not stored: the disk was full.
    let world = lenient();
    let parent = world.parent().await;
    let first = world.refresh(&parent).await.unwrap();
    world.clock.advance(60);
    world.store.fail();
    assert!(matches!(world.refresh(&first.refresh_token).await, Err(AccountError::Store(_))));
    world.store.mend();
    assert!(!world.repeats(&parent, &first).await);
}

#[tokio::test]
async fn the_chain_goes_on_after_a_late_repeat() {
    let world = lenient();
    let parent = world.parent().await;
    let lost = world.refresh(&parent).await.unwrap();
    world.clock.advance(600);
    assert!(world.repeats(&parent, &lost).await);
    world.clock.advance(600);
    let next = world.refresh(&lost.refresh_token).await.unwrap();
    world.clock.advance(600);
    assert!(world.repeats(&lost.refresh_token, &next).await, "its own direct parent");
    world.visits(&next);
    assert!(!world.repeats(&lost.refresh_token, &next).await);
}

#[tokio::test]
async fn what_was_rotated_before_the_setting_is_as_strict_as_before() {
    let world = world();
    let parent = world.parent().await;
    let lost = world.refresh(&parent).await.unwrap();
    world.clock.advance(60);
    // The next start allows more. Nothing tells what was used under the former one.
    assert!(!another(&world, for_an_hour).repeats(&parent, &lost).await);
}

#[tokio::test]
async fn a_shorter_setting_holds_at_once_and_uses_are_noted_under_it() {
    let world = lenient();
    let parent = world.parent().await;
    let lost = world.refresh(&parent).await.unwrap();
    world.clock.advance(60);
    let strict = another(&world, |_| {});
    strict.visits(&lost);
    strict.accounts.write_successor_uses().await.unwrap();
    assert_eq!(
        world.stored(&lost).await.unwrap().successor,
        SuccessorUse::Used,
        "for when it is allowed again"
    );
    assert!(!strict.repeats(&parent, &lost).await);
}

#[tokio::test]
async fn another_replica_knows_what_was_written_and_misses_what_was_not() {
    for is_written in [false, true] {
        let world = lenient();
        let parent = world.parent().await;
        let first = world.refresh(&parent).await.unwrap();
        world.clock.advance(60);
        world.visits(&first);
        if is_written {
            world.accounts.write_successor_uses().await.unwrap();
        }
        assert_eq!(another(&world, for_an_hour).repeats(&parent, &first).await, !is_written);
    }
}

#[tokio::test]
async fn a_clean_stop_writes_what_was_noted() {
    let world = lenient();
    let parent = world.parent().await;
    let first = world.refresh(&parent).await.unwrap();
    let closing = CancellationToken::new();
    closing.cancel();
    world.visits(&first);
    world.accounts.write_session_uses(closing).await;
    assert_eq!(world.stored(&first).await.unwrap().successor, SuccessorUse::Used);
}

#[tokio::test]
async fn a_use_is_written_once_and_never_over_a_rotation() {
    let world = lenient();
    let parent = world.parent().await;
    let first = world.refresh(&parent).await.unwrap();
    let commits = || world.store.commits.load(Ordering::Relaxed);
    (0..10).for_each(|_| world.visits(&first));
    let before = commits();
    world.accounts.write_successor_uses().await.unwrap();
    assert_eq!(commits(), before + 1);
    // The cache dropped the token: it is verified anew, and nothing is to be written.
    world.visits(&first);
    world.accounts.write_successor_uses().await.unwrap();
    assert_eq!(commits(), before + 1);
    // A rotation on another replica comes in between.
    let world = lenient();
    let parent = world.parent().await;
    let first = world.refresh(&parent).await.unwrap();
    world.visits(&first);
    let mut rotated = world.stored(&first).await.unwrap();
    rotated.generation += 1;
    world.store.get_ahead(vec![Change::UpdateSession(rotated)]);
    world.accounts.write_successor_uses().await.unwrap();
    assert_eq!(world.stored(&first).await.unwrap().successor, SuccessorUse::Unused, "of the later token");
    // And another write that is none.
    let mut changed = world.stored(&first).await.unwrap();
    changed.scopes = vec!["changed".to_owned()];
    let late = Granted { access_token: format!("a.r{}", changed.generation), ..first };
    world.visits(&late);
    world.store.get_ahead(vec![Change::UpdateSession(changed)]);
    world.accounts.write_successor_uses().await.unwrap();
    let stored = world.stored(&late).await.unwrap();
    assert_eq!((stored.successor, stored.scopes), (SuccessorUse::Used, vec!["changed".to_owned()]));
}

#[tokio::test]
async fn while_the_store_does_not_write_a_use_counts_and_is_written_later() {
    let world = lenient();
    let parent = world.parent().await;
    let first = world.refresh(&parent).await.unwrap();
    world.clock.advance(60);
    world.visits(&first);
    world.store.fail();
    assert!(world.accounts.write_successor_uses().await.is_err());
    world.store.mend();
    let stored = world.stored(&first).await.unwrap();
    assert_eq!(world.accounts.successor_uses().apply(stored).successor, SuccessorUse::Used);
    world.accounts.write_successor_uses().await.unwrap();
    assert_eq!(world.stored(&first).await.unwrap().successor, SuccessorUse::Used);
}

#[tokio::test]
async fn an_ended_session_and_one_in_a_cookie_are_written_never() {
    let world = lenient();
    let parent = world.parent().await;
    let first = world.refresh(&parent).await.unwrap();
    world.visits(&first);
    world.accounts.logout(&client(), Some(person(&first)), None).await.unwrap();
    world.accounts.write_successor_uses().await.unwrap();
    assert!(world.stored(&first).await.is_none());
    assert!(matches!(world.refresh(&parent).await, Err(AccountError::InvalidRefreshToken)), "nor repeated");
}

/// More uses than there is room for: no successor of that time counts as unused.
#[tokio::test]
async fn a_use_that_there_is_no_room_for_is_not_taken_for_none() {
    let world = lenient();
    let parent = world.parent().await;
    let first = world.refresh(&parent).await.unwrap();
    let (stored, clock) = (world.stored(&first).await.unwrap(), Arc::clone(&world.clock));
    let uses = SuccessorUses::bounded(clock, 1);
    uses.note(stored.user, world.login().await.session, 1);
    assert_eq!(uses.apply(stored.clone()).successor, SuccessorUse::Unused);
    uses.passed(&identity(&first));
    assert_eq!(uses.apply(stored.clone()).successor, SuccessorUse::Used);
    let later = Session { rotated_at: world.clock.now().plus(Duration::from_secs(1)), ..stored };
    assert_eq!(uses.apply(later).successor, SuccessorUse::Unused);
}

/// A clock that is set back opens no window again.
#[tokio::test]
async fn a_clock_that_is_set_back_gains_ten_seconds_at_most() {
    for (back, is_repeated) in [(10, true), (11, false)] {
        let world = lenient();
        let parent = world.parent().await;
        world.clock.advance(HOUR);
        let lost = world.refresh(&parent).await.unwrap();
        world.clock.set_back(back);
        assert_eq!(world.repeats(&parent, &lost).await, is_repeated, "{back}");
    }
}

#[tokio::test]
async fn a_late_repeat_from_another_device_is_refused_or_told() {
    let world = world_with(|settings| {
        for_an_hour(settings);
        settings.fingerprint = Fingerprint::Refuse;
    });
    let parent = world.parent().await;
    let first = world.refresh(&parent).await.unwrap();
    world.clock.advance(60);
    assert!(world.accounts.refresh(&from("chrome"), parent.expose_secret()).await.is_err());
    assert!(world.stored(&first).await.is_none());
    let world = lenient();
    let parent = world.parent().await;
    world.refresh(&parent).await.unwrap();
    world.clock.advance(60);
    world.accounts.refresh(&from("chrome"), parent.expose_secret()).await.unwrap();
    let events = world.audit.0.lock().unwrap();
    assert_eq!(events.last().unwrap().details.get("device_changed"), Some(&true.into()));
}

/// The renewed session of a changed password has no parent that could bring its token.
#[tokio::test]
async fn a_changed_password_leaves_nothing_to_repeat() {
    let world = lenient();
    let parent = world.parent().await;
    let first = world.refresh(&parent).await.unwrap();
    let renewed = world
        .accounts
        .change_password(&client(), person(&first), secret(PASSWORD), secret("a new password"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(world.stored(&renewed).await.unwrap().successor, SuccessorUse::Untracked);
    assert!(matches!(world.refresh(&parent).await, Err(AccountError::InvalidRefreshToken)));
    let begun = world.sign_in(ANN, "a new password").await.unwrap();
    assert_eq!(world.stored(&begun).await.unwrap().successor, SuccessorUse::Untracked);
}

#[tokio::test]
async fn fifty_late_repeats_at_once_bring_one_successor() {
    let world = lenient();
    let parent = world.parent().await;
    let lost = world.refresh(&parent).await.unwrap();
    world.clock.advance(60);
    let tries = (0..50).map(|_| {
        let (accounts, token) = (world.accounts.clone(), parent.clone());
        tokio::spawn(async move { accounts.refresh(&client(), token.expose_secret()).await.unwrap() })
    });
    for granted in futures::future::join_all(tries).await {
        let again = granted.unwrap().refresh_token;
        assert_eq!(again.expose_secret(), lost.refresh_token.expose_secret());
    }
}
