//! Changing an address and undoing that, as stories of owners, thieves and foreign hands.

use std::sync::atomic::Ordering;

use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::domain::email_change::{FreezeStage, MAX_UNDOABLE};
use palisade_core::domain::mail::Letter;
use palisade_core::domain::task::{Errand, Work};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Limited, Store};
use palisade_core::service::accounts::{AccountError, Ways};
use palisade_core::service::verify_registration::Proof;
use palisade_testing::accounts_world::{
    ANN, PASSWORD, PasswordLogin, client, person, secret, signed_in, typed, world,
};

pub(super) const NEW: &str = "new@example.com";
pub(super) const NEWER: &str = "newer@example.com";
const DAY: u64 = 24 * 3600;

pub(super) fn is_bad_link<T>(outcome: Result<T, AccountError>) -> bool {
    matches!(outcome, Err(AccountError::InvalidLink))
}

#[tokio::test]
async fn a_change_is_finished_by_somebody_who_is_signed_in() {
    let world = world();
    let ann = world.ann().await;
    let (mine, other) = (world.login().await, world.login().await);
    let token = world.ask_for(&mine, NEW, PASSWORD).await;
    let finish = async |proof| world.accounts.verify_by(&client(), &token, proof).await;
    let nothing = finish(Proof::default()).await;
    assert!(matches!(nothing, Err(AccountError::ProofNeeded(Ways::Account))));
    let mut stranger = person(&mine);
    stranger.user = palisade_core::domain::account::UserId(uuid::Uuid::from_u128(77));
    let foreign = finish(Proof { person: Some(stranger), ..Proof::default() }).await;
    assert!(matches!(foreign, Err(AccountError::ProofNeeded(Ways::Account))), "a session of another account");
    let mistaken = Proof { new_password: Some(secret("a new password")), ..signed_in(&mine) };
    assert!(matches!(finish(mistaken).await, Err(AccountError::Invalid(_))), "it would not be set");
    assert_eq!(world.at(ANN).await.id, ann.id, "the link stays good and nothing is changed");

    let user = finish(signed_in(&mine)).await.unwrap();
    assert_eq!((user.id, user.email.as_ref().unwrap().as_str()), (ann.id, NEW));
    assert!(world.refresh(&mine.refresh_token).await.is_ok(), "its own session goes on");
    assert!(world.refresh(&other.refresh_token).await.is_err(), "the others end");
    assert!(is_bad_link(finish(signed_in(&mine)).await), "once");
    assert_eq!(world.recipients(Letter::EmailReplaced).await, [ANN]);
    let facts = world.newest(Letter::EmailReplaced).await.facts;
    assert_eq!(facts.new_email.unwrap().as_str(), NEW);
    assert!(world.events().contains(&(Action::ChangeEmail, Outcome::Success, None)));
    assert_eq!(world.addresses(Action::ChangeEmail), Some((ANN.to_owned(), NEW.to_owned())));
}

#[tokio::test]
async fn a_change_is_finished_by_the_password_and_then_every_session_ends() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let token = world.ask_for(&granted, NEW, PASSWORD).await;
    let wrong = world.accounts.verify_by(&client(), &token, typed("wrong")).await;
    assert!(matches!(wrong, Err(AccountError::WrongPassword)));
    assert_eq!(world.limiter.ended.lock().unwrap().last(), Some(&(Limited::ConfirmPassword, false)));
    let noted = (Action::ChangeEmail, Outcome::Denied, Some("wrong_password".to_owned()));
    assert!(world.events().contains(&noted));
    *world.limiter.stop.lock().unwrap() = Some(Limited::ConfirmPassword);
    let limited = world.accounts.verify_by(&client(), &token, typed(PASSWORD)).await;
    assert!(matches!(limited, Err(AccountError::TooMany(_))));
    *world.limiter.stop.lock().unwrap() = None;
    world.accounts.verify_by(&client(), &token, typed(PASSWORD)).await.unwrap();
    assert!(world.refresh(&granted.refresh_token).await.is_err());
    world.sign_in(NEW, PASSWORD).await.unwrap();
}

/// Sudhodanan and Paverd (2022), unexpired e-mail change: the attacker asks for the victim's address on an account of
/// their own, and the victim presses the link.
#[tokio::test]
async fn the_reader_of_a_strangers_link_finishes_nothing() {
    let world = world();
    world.ann().await;
    let attacker = world.login().await;
    let token = world.ask_for(&attacker, NEW, PASSWORD).await;
    let pressed = world.accounts.verify_email(&client(), &token).await;
    assert!(matches!(pressed, Err(AccountError::ProofNeeded(Ways::Account))));
    assert!(world.store.user_by_email(&NEW.parse().unwrap()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_session_that_has_ended_finishes_nothing() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let token = world.ask_for(&granted, NEW, PASSWORD).await;
    world.accounts.logout(&client(), Some(person(&granted)), None).await.unwrap();
    let outcome = world.accounts.verify_by(&client(), &token, signed_in(&granted)).await;
    assert!(matches!(outcome, Err(AccountError::ProofNeeded(Ways::Account))));
}

#[tokio::test]
async fn an_undo_freezes_the_account_and_gives_it_back_a_day_later() {
    let world = world();
    let ann = world.ann().await;
    let thief = world.login().await;
    let undo = world.move_to(&thief, NEW).await;
    let thief = world.refresh(&thief.refresh_token).await.unwrap();
    world.undo(&undo).await.unwrap();
    assert!(is_bad_link(world.undo(&undo).await), "once");
    assert!(world.refresh(&thief.refresh_token).await.is_err(), "every session ends");
    for email in [ANN, NEW] {
        let denied = world.sign_in(email, PASSWORD).await;
        assert!(matches!(denied, Err(AccountError::InvalidCredentials)), "{email}");
    }
    assert_eq!(world.recipients(Letter::EmailChangeUndone).await, [ANN]);
    assert_eq!(world.recipients(Letter::EmailChangeDisputed).await, [NEW]);
    assert_eq!(world.newest(Letter::EmailChangeDisputed).await.facts.old_email.unwrap().as_str(), ANN);
    assert!(world.events().contains(&(Action::UndoEmailChange, Outcome::Success, None)));
    assert_eq!(world.addresses(Action::UndoEmailChange), Some((NEW.to_owned(), ANN.to_owned())));

    world.clock.advance(DAY - 1);
    world.accounts.do_due_tasks().await.unwrap();
    assert_eq!(world.at(ANN).await.email.as_ref().unwrap().as_str(), NEW, "not yet");
    assert!(world.recipients(Letter::ResetPassword).await.is_empty());
    world.clock.advance(1);
    world.accounts.do_due_tasks().await.unwrap();
    assert_eq!(world.recipients(Letter::ResetPassword).await, [ANN]);
    let user = world.at(ANN).await;
    assert_eq!((user.id, user.email.as_ref().unwrap().as_str(), user.email_verified), (ann.id, ANN, true));
    assert!(world.events().contains(&(Action::RestoreEmail, Outcome::Success, None)));
    assert_eq!(world.addresses(Action::RestoreEmail), Some((NEW.to_owned(), ANN.to_owned())));
    assert!(world.sign_in(ANN, PASSWORD).await.is_err(), "the password stays useless");
    let reset = world.token(Letter::ResetPassword).await;
    world.accounts.confirm_reset(&client(), &reset, secret("a new password")).await.unwrap();
    assert!(!world.at(ANN).await.email_changes.is_frozen(), "the freeze ends with the reset");
    world.sign_in(ANN, "a new password").await.unwrap();
    let left = world.store.due_tasks(UnixTime::NEVER, 10).await.unwrap();
    assert!(!left.iter().any(|task| matches!(task.work, Work::RestoreEmail { .. })), "nothing is left to do");
    let ends = |work: &Work| matches!(work, Work::Errand { errand: Errand::EndConnections { user, .. }, .. } if *user == ann.id);
    assert!(left.iter().any(|task| ends(&task.work)), "but for the worker of connections");
}

/// The thief changes the password at once, and the address once more: neither voids the owner's undo link.
#[tokio::test]
async fn no_later_change_voids_an_undo() {
    let world = world();
    world.ann().await;
    let thief = world.login().await;
    let first = world.move_to(&thief, NEW).await;
    let (current, new) = (secret(PASSWORD), secret("the thief's own"));
    let renewed = world.accounts.change_password(&client(), person(&thief), current, new).await.unwrap();
    let thief = renewed.expect("the session goes on");
    let token = world.ask_for(&thief, NEWER, "the thief's own").await;
    world.accounts.verify_by(&client(), &token, signed_in(&thief)).await.unwrap();
    let second = world.token(Letter::EmailReplaced).await;
    world.accounts.request_reset(&client(), NEWER).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let reset = world.token(Letter::ResetPassword).await;
    world.accounts.confirm_reset(&client(), &reset, secret("another of theirs")).await.unwrap();
    let id = world.at(NEWER).await.id;
    let disable = palisade_core::service::users::UserEdit { active: Some(false), ..Default::default() };
    world.accounts.update_user("", id, disable).await.unwrap();
    let enable = palisade_core::service::users::UserEdit { active: Some(true), ..Default::default() };
    world.accounts.update_user("", id, enable).await.unwrap();
    world.clock.advance(3 * DAY - 1);
    world.undo(&first).await.unwrap();
    assert!(is_bad_link(world.undo(&second).await), "the thief's own goes with it");
    assert_eq!(world.recipients(Letter::EmailChangeDisputed).await, [NEW, NEWER]);
    assert!(world.sign_in(NEWER, "another of theirs").await.is_err());
    world.a_day_later().await;
    assert_eq!(world.at(ANN).await.email.as_ref().unwrap().as_str(), ANN);
    assert!(is_bad_link(world.undo(&second).await), "and cannot take it again");
}

#[tokio::test]
async fn an_undo_ends_after_three_days() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let undo = world.move_to(&granted, NEW).await;
    world.clock.advance(3 * DAY);
    assert!(is_bad_link(world.undo(&undo).await));
    world.sign_in(NEW, PASSWORD).await.unwrap();
    assert!(world.at(NEW).await.email_changes.undoable.is_empty(), "the old address is kept no longer");
    assert!(!world.at(NEW).await.email_changes.is_frozen());
}

/// The thief has the account frozen for a mailbox of their own, and the owner undoes the first change.
#[tokio::test]
async fn the_owners_undo_overrides_the_thiefs() {
    let world = world();
    world.ann().await;
    let thief = world.login().await;
    let owners = world.move_to(&thief, NEW).await;
    let thiefs = world.move_to(&thief, NEWER).await;
    world.undo(&thiefs).await.unwrap();
    world.clock.advance(DAY - 1);
    world.undo(&owners).await.unwrap();
    world.clock.advance(1);
    world.accounts.do_due_tasks().await.unwrap();
    assert!(
        world.recipients(Letter::ResetPassword).await.is_empty(),
        "the thief's day is over, and their claim too"
    );
    world.a_day_later().await;
    assert_eq!(world.recipients(Letter::ResetPassword).await, [ANN]);
    assert_eq!(world.at(ANN).await.email.as_ref().unwrap().as_str(), ANN);
}

#[tokio::test]
async fn an_account_that_is_gone_is_not_undone() {
    let world = world();
    let ann = world.ann().await;
    let granted = world.login().await;
    let undo = world.move_to(&granted, NEW).await;
    world.accounts.delete_user("", ann.id).await.unwrap();
    assert!(is_bad_link(world.undo(&undo).await));
}

#[tokio::test]
async fn a_frozen_account_can_be_deleted_and_leaves_both_addresses() {
    let world = world();
    let ann = world.ann().await;
    let granted = world.login().await;
    let undo = world.move_to(&granted, NEW).await;
    world.undo(&undo).await.unwrap();
    world.accounts.delete_user("", ann.id).await.unwrap();
    world.a_day_later().await;
    assert!(world.recipients(Letter::ResetPassword).await.is_empty());
    for email in [ANN, NEW] {
        world.register(email).await;
        assert_ne!(world.at(email).await.id, ann.id);
    }
}

/// The holder of the old mailbox has made an account of their own with it.
#[tokio::test]
async fn an_old_address_that_is_another_accounts_freezes_and_is_not_given_back() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let undo = world.move_to(&granted, NEW).await;
    world.register(ANN).await;
    let verify = world.token(Letter::VerifyEmail).await;
    let other = world.accounts.verify_email(&client(), &verify).await.unwrap();
    world.undo(&undo).await.unwrap();
    let frozen = world.at(NEW).await;
    assert_eq!(frozen.email_changes.freeze.as_ref().unwrap().stage, FreezeStage::Taken);
    assert_eq!(world.newest(Letter::EmailChangeUndone).await.facts.ends_at, None);
    for _ in 0..5 {
        world.a_day_later().await;
    }
    assert!(world.recipients(Letter::ResetPassword).await.is_empty());
    assert_eq!(world.at(ANN).await.id, other.id, "which goes on");
    world.sign_in(ANN, PASSWORD).await.unwrap();
    let taken = world.accounts.unfreeze_user("r", frozen.id, ANN).await;
    assert!(matches!(taken, Err(AccountError::EmailTaken)));
    world.accounts.unfreeze_user("r", frozen.id, NEW).await.unwrap();
    assert_eq!(world.recipients(Letter::ResetPassword).await, [NEW]);
}

/// An address that no requester has verified blocks no owner.
#[tokio::test]
async fn a_strangers_registration_of_the_old_address_makes_room() {
    let world = world();
    let ann = world.ann().await;
    let granted = world.login().await;
    let undo = world.move_to(&granted, NEW).await;
    world.register(ANN).await;
    let stranger = world.at(ANN).await;
    assert_ne!(stranger.id, ann.id);
    world.undo(&undo).await.unwrap();
    assert!(world.store.user(stranger.id).await.unwrap().is_none());
    world.a_day_later().await;
    assert_eq!(
        (world.at(ANN).await.id, world.recipients(Letter::ResetPassword).await),
        (ann.id, vec![ANN.to_owned()])
    );
}

#[tokio::test]
async fn an_old_address_that_was_never_verified_gets_no_way_back() {
    let world = world();
    let ann = world.ann().await;
    let granted = world.login().await;
    let token = world.ask_for(&granted, NEW, PASSWORD).await;
    let mut unsure = world.store.user(ann.id).await.unwrap().unwrap();
    unsure.email_verified = false;
    world.store.commit(vec![palisade_core::ports::Change::UpdateUser(unsure)]).await.unwrap();
    world.accounts.verify_by(&client(), &token, signed_in(&granted)).await.unwrap();
    assert!(world.recipients(Letter::EmailReplaced).await.is_empty());
    assert_eq!(world.recipients(Letter::EmailChanged).await, [ANN, ANN], "it is told all the same");
}

#[tokio::test]
async fn more_changes_than_can_be_undone_are_refused() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let first = world.move_to(&granted, "n0@example.com").await;
    for n in 1..MAX_UNDOABLE {
        world.move_to(&granted, &format!("n{n}@example.com")).await;
    }
    let token = world.ask_for(&granted, NEW, PASSWORD).await;
    let refused = world.accounts.verify_by(&client(), &token, signed_in(&granted)).await;
    assert!(matches!(refused, Err(AccountError::TooMany(wait)) if wait.retry_after.as_secs() == 3 * DAY));
    world.undo(&first).await.unwrap();
    assert_eq!(world.recipients(Letter::EmailChangeDisputed).await.len(), MAX_UNDOABLE);
}

/// The process ends at the worst moments: after a write with a lost answer, and before one that was not made.
#[tokio::test]
async fn a_kill_in_between_neither_loses_nor_repeats_a_step() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let undo = world.move_to(&granted, NEW).await;
    world.store.fail();
    assert!(matches!(world.undo(&undo).await, Err(AccountError::Store(_))));
    world.store.mend();
    assert!(!world.at(NEW).await.email_changes.is_frozen());
    assert!(world.refresh(&granted.refresh_token).await.is_ok());
    world.store.lose.store(true, Ordering::Relaxed);
    assert!(matches!(world.undo(&undo).await, Err(AccountError::Store(_))));
    assert!(world.at(NEW).await.email_changes.is_frozen());
    assert_eq!(world.recipients(Letter::EmailChangeUndone).await, [ANN]);
    assert!(is_bad_link(world.undo(&undo).await));

    world.clock.advance(DAY);
    world.store.fail();
    assert!(world.accounts.do_due_tasks().await.is_err());
    world.store.mend();
    assert_eq!(world.at(NEW).await.email.as_ref().unwrap().as_str(), NEW);
    world.store.lose.store(true, Ordering::Relaxed);
    assert!(world.accounts.do_due_tasks().await.is_err());
    world.accounts.do_due_tasks().await.unwrap();
    assert_eq!(world.recipients(Letter::ResetPassword).await, [ANN], "once");
    assert_eq!(world.at(ANN).await.email.as_ref().unwrap().as_str(), ANN);
}

/// A clock that is set back while the task is done must not lose it.
#[tokio::test]
async fn a_clock_that_is_set_back_only_delays() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let undo = world.move_to(&granted, NEW).await;
    world.undo(&undo).await.unwrap();
    let user = world.at(NEW).await;
    let claim = user.email_changes.freeze.as_ref().unwrap().claim;
    let early = world.accounts.restore_email(user.id, claim).await.unwrap();
    assert!(matches!(
        &early.changes[..],
        [palisade_core::ports::Change::CreateTask(task)] if task.due_at.0 == world.clock_now() + DAY
    ));
}

#[tokio::test]
async fn of_an_undo_and_a_sign_in_at_once_neither_leaves_a_session() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let undo = world.move_to(&granted, NEW).await;
    let (client, attempts) = (client(), 20);
    let logins = (0..attempts).map(|_| world.accounts.login(&client, NEW, secret(PASSWORD)));
    let (undone, _) = futures::join!(world.undo(&undo), futures::future::join_all(logins));
    undone.unwrap();
    let id = world.at(NEW).await.id;
    assert!(world.store.sessions(id).await.unwrap().is_empty());
}

/// Until it is given back a holder of a later address may object: a clock that may be ahead does not end that time.
#[tokio::test]
async fn an_address_is_not_given_back_by_a_clock_in_doubt() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let undo = world.move_to(&granted, NEW).await;
    world.undo(&undo).await.unwrap();
    world.clock.jump(30 * DAY);
    // Put off, not done again and again.
    assert!(world.accounts.do_due_tasks().await.unwrap());
    assert!(!world.accounts.do_due_tasks().await.unwrap());
    assert_eq!(world.at(NEW).await.email.as_ref().unwrap().as_str(), NEW);
    assert_eq!(world.recipients(Letter::ResetPassword).await, [""; 0]);
    world.clock.accept();
    world.a_day_later().await;
    assert_eq!(world.recipients(Letter::ResetPassword).await, [ANN]);
    assert_eq!(world.at(ANN).await.email.as_ref().unwrap().as_str(), ANN);
}
