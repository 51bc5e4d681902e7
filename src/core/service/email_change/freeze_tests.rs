//! A frozen account: what it accepts, and how its owner is decided, as stories over the fakes.

use std::sync::atomic::Ordering;

use super::tests::{NEW, NEWER, is_bad_link};
use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::domain::mail::Letter;
use palisade_core::domain::session::{Session, SessionId};
use palisade_core::ports::{Change, Limited, Store};
use palisade_core::service::accounts::AccountError;
use palisade_core::service::profile::Edit;
use palisade_core::service::users::UserEdit;
use palisade_testing::accounts_world::{ANN, PASSWORD, client, person, secret, signed_in, world};
use zeroize::Zeroizing;

#[tokio::test]
async fn while_frozen_neither_address_gets_a_letter_or_opens_anything() {
    let world = world();
    world.ann().await;
    let thief = world.login().await;
    // Everything that was mailed before is void, too.
    world.accounts.request_reset(&client(), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let undo = world.move_to(&thief, NEW).await;
    world.accounts.request_reset(&client(), NEW).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let reset = world.token(Letter::ResetPassword).await;
    let wish = world.ask_for(&thief, NEWER, PASSWORD).await;
    world.undo(&undo).await.unwrap();
    let before = world.letters().await;
    for email in [ANN, NEW] {
        world.ask_for_mail(email).await;
    }
    // Nor is either of them made another account's: bob asks for it.
    world.register("bob@example.com").await;
    let verify = world.token(Letter::VerifyEmail).await;
    world.accounts.verify_email(&client(), &verify).await.unwrap();
    let bob = world.sign_in("bob@example.com", PASSWORD).await.unwrap();
    let bobs = world.letters().await.len();
    for email in [ANN, NEW] {
        let edit =
            Edit { email: Some(email.into()), current_password: Some(secret(PASSWORD)), ..Edit::default() };
        world.accounts.edit_profile(&client(), person(&bob), edit).await.unwrap();
        world.accounts.do_due_tasks().await.unwrap();
    }
    let letters = world.letters().await;
    let to_either =
        |letters: &[(Letter, String)]| letters.iter().filter(|(_, to)| to == ANN || to == NEW).count();
    assert_eq!(to_either(&letters), to_either(&before), "{letters:?}");
    assert!(letters[bobs..].iter().all(|(letter, _)| *letter == Letter::EmailChanged), "{letters:?}");

    let set = world.accounts.confirm_reset(&client(), &reset, secret("a new password")).await;
    assert!(is_bad_link(set));
    assert!(is_bad_link(world.accounts.validate_reset(&client(), &reset).await));
    assert!(is_bad_link(world.accounts.verify_by(&client(), &wish, signed_in(&thief)).await));
    let profile = world.accounts.profile(person(&thief)).await;
    assert!(matches!(profile, Err(AccountError::Disabled)), "nor does a token that an operator minted");
    let id = world.at(ANN).await.id;
    let (signer, clock) = (std::sync::Arc::new(palisade_testing::fakes::FakeSigner), world.clock.clone());
    let hour = std::time::Duration::from_secs(3600);
    let mint = palisade_core::service::mint::Mint::new(world.store.clone(), signer, clock, hour, usize::MAX);
    let minted = mint
        .mint(palisade_core::service::mint::MintRequest { sub: id.to_string(), ..Default::default() })
        .await;
    assert!(matches!(minted, Err(palisade_core::service::mint::MintError::Invalid(_))));
    let operator = world.accounts.reset_password_of("", id).await;
    assert!(matches!(operator, Err(AccountError::Frozen)));
}

/// What a caller sees of a frozen account is what they see where there is none.
#[tokio::test]
async fn a_frozen_account_answers_like_an_unknown_one() {
    let world = world();
    world.ann().await;
    let thief = world.login().await;
    let undo = world.move_to(&thief, NEW).await;
    world.undo(&undo).await.unwrap();
    for email in [ANN, NEW, "nobody@example.com"] {
        let before = world.store.commits.load(Ordering::Relaxed);
        let denied = world.sign_in(email, PASSWORD).await.unwrap_err();
        assert_eq!(denied.to_string(), AccountError::InvalidCredentials.to_string());
        assert_eq!(world.limiter.ended.lock().unwrap().last(), Some(&(Limited::Login, false)));
        world.accounts.request_reset(&client(), email).await.unwrap();
        world.accounts.resend_verification(&client(), email).await.unwrap();
        world.accounts.register(&client(), email, secret(PASSWORD), None).await.unwrap();
        assert_eq!(world.store.commits.load(Ordering::Relaxed) - before, 3, "the same work for {email}");
    }
}

/// The undo ends every session; one may have been begun from what was read before it.
#[tokio::test]
async fn a_refused_refresh_of_a_frozen_account_says_so_in_the_audit_log() {
    let world = world();
    world.ann().await;
    let thief = world.login().await;
    let undo = world.move_to(&thief, NEW).await;
    let thief = world.sign_in(NEW, PASSWORD).await.unwrap();
    let session = world.store.session(thief.user.id, thief.session).await.unwrap().unwrap();
    world.undo(&undo).await.unwrap();
    let session = Session { id: SessionId(uuid::Uuid::from_u128(7 << 64)), ..session };
    let token = world.key.first(session.user, session.id, Zeroizing::new([3; 32]));
    let session = Session { current: token.hash(), generation: 0, ..session };
    world.store.commit(vec![Change::CreateSession(session)]).await.unwrap();
    let refused = world.refresh(&world.key.write(&token)).await;
    assert!(matches!(refused, Err(AccountError::InvalidRefreshToken)));
    let last = world.events().pop().unwrap();
    assert_eq!(last, (Action::Refresh, Outcome::Denied, Some("account_frozen".to_owned())));
}

/// An address was given up by its owner, and its mailbox belongs to another person by now.
#[tokio::test]
async fn foreign_hands_on_the_old_mailbox_get_nothing_against_an_objection() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let undo = world.move_to(&granted, NEW).await;
    world.undo(&undo).await.unwrap();
    let objection = world.token(Letter::EmailChangeDisputed).await;
    world.object(&objection).await.unwrap();
    assert!(is_bad_link(world.object(&objection).await), "once");
    assert!(world.events().contains(&(Action::ObjectToUndo, Outcome::Success, None)));
    for _ in 0..5 {
        world.a_day_later().await;
    }
    assert!(world.recipients(Letter::ResetPassword).await.is_empty());
    for email in [ANN, NEW] {
        assert!(world.at(email).await.email_changes.is_frozen(), "an operator decides");
    }

    let id = world.at(NEW).await.id;
    let wrong = world.accounts.unfreeze_user("r", id, NEWER).await;
    assert!(matches!(wrong, Err(AccountError::Invalid(text)) if text.contains(ANN) && text.contains(NEW)));
    world.accounts.unfreeze_user("r", id, NEW).await.unwrap();
    assert_eq!(world.recipients(Letter::ResetPassword).await, [NEW]);
    let reset = world.token(Letter::ResetPassword).await;
    world.accounts.confirm_reset(&client(), &reset, secret("a new password")).await.unwrap();
    world.sign_in(NEW, "a new password").await.unwrap();
    assert!(world.events().contains(&(Action::UnfreezeUser, Outcome::Success, None)));
    // The old address is free again.
    world.register(ANN).await;
    assert_ne!(world.at(ANN).await.id, id);
    let again = world.accounts.unfreeze_user("r", id, NEW).await;
    assert!(matches!(again, Err(AccountError::Invalid(_))), "there is nothing to decide");
}

/// What an operator does in the meantime does not take the later addresses their word.
#[tokio::test]
async fn an_objection_counts_though_the_account_was_disabled_for_a_while() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let undo = world.move_to(&granted, NEW).await;
    world.undo(&undo).await.unwrap();
    let objection = world.token(Letter::EmailChangeDisputed).await;
    let id = world.at(NEW).await.id;
    for active in [false, true] {
        let edit = UserEdit { active: Some(active), ..UserEdit::default() };
        world.accounts.update_user("", id, edit).await.unwrap();
    }
    world.object(&objection).await.unwrap();
    world.a_day_later().await;
    assert_eq!(world.at(NEW).await.email.as_ref().unwrap().as_str(), NEW);
}

#[tokio::test]
async fn an_objection_comes_too_late_after_a_day() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let undo = world.move_to(&granted, NEW).await;
    world.undo(&undo).await.unwrap();
    let objection = world.token(Letter::EmailChangeDisputed).await;
    world.a_day_later().await;
    assert!(is_bad_link(world.object(&objection).await));
}

#[tokio::test]
async fn an_operator_decides_for_the_earlier_address_before_the_day_is_over() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let undo = world.move_to(&granted, NEW).await;
    world.undo(&undo).await.unwrap();
    let objection = world.token(Letter::EmailChangeDisputed).await;
    let id = world.at(ANN).await.id;
    world.accounts.unfreeze_user("r", id, ANN).await.unwrap();
    assert!(is_bad_link(world.object(&objection).await), "the operator's word is final");
    assert_eq!(world.recipients(Letter::ResetPassword).await, [ANN]);
    world.a_day_later().await;
    assert_eq!(world.recipients(Letter::ResetPassword).await, [ANN], "and nothing is left to do");
    // The link of that letter has ended; the address may ask for another.
    world.accounts.request_reset(&client(), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let reset = world.token(Letter::ResetPassword).await;
    world.accounts.confirm_reset(&client(), &reset, secret("a new password")).await.unwrap();
    world.sign_in(ANN, "a new password").await.unwrap();
}
