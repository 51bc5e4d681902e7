//! The order in which passwords are hashed, and what is no guess, over the fakes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::FutureExt;
use palisade_core::domain::account::{PasswordHash, User};
use palisade_core::domain::block::MAX_BLOCKS;
use palisade_core::domain::hash_cost::HashCosts;
use palisade_core::domain::mail::Letter;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, Limited, Requester, Store};
use palisade_core::service::accounts::AccountError;
use palisade_core::service::caller::Client;
use palisade_core::service::profile::Edit;
use palisade_core::service::users::{NewPassword, NewUser};
use palisade_testing::accounts_world::{
    ANN, AccountsWorld, PASSWORD, PasswordLogin, client, person, secret, typed, world,
};

fn at(address: [u8; 4]) -> Client {
    Client { address: address.into(), ..client() }
}

fn last_requester(world: &AccountsWorld) -> Requester {
    *world.passwords.requesters.lock().unwrap().last().unwrap()
}

async fn ann(world: &AccountsWorld) -> User {
    world.store.user_by_email(&ANN.parse().unwrap()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_block_that_has_signed_in_to_the_account_goes_first_from_then_on() {
    let world = world();
    world.ann().await;
    let home = at([192, 0, 2, 7]);
    for password in ["wrong", PASSWORD] {
        let _ = world.accounts.login(&home, ANN, secret(password)).await;
        assert!(!last_requester(&world).known, "a wrong password makes no block known");
    }
    let _ = world.accounts.login(&home, ANN, secret("wrong")).await;
    let known = last_requester(&world);
    assert!(known.known);
    let _ = world.accounts.login(&at([192, 0, 2, 8]), ANN, secret("wrong")).await;
    let other = last_requester(&world);
    assert!(!other.known && other.account == known.account && other.block != known.block);
    // For no other account; and an address without one has a turn of its own all the same.
    let _ = world.accounts.login(&home, "nobody@example.com", secret("wrong")).await;
    let nobody = last_requester(&world);
    assert!(!nobody.known && nobody.account != known.account && nobody.block == known.block);
}

/// After a restart the limits know no block, and the account does.
#[tokio::test]
async fn under_siege_a_block_that_has_signed_in_before_does_not_wait() {
    let world = world();
    world.ann().await;
    let home = at([192, 0, 2, 7]);
    world.accounts.login(&home, ANN, secret(PASSWORD)).await.unwrap();
    world.limiter.besieged.store(true, Ordering::Relaxed);
    let checked = world.passwords.requesters.lock().unwrap().len();
    for (from, email) in [(&at([192, 0, 2, 8]), ANN), (&home, "nobody@example.com")] {
        let refused = world.accounts.login(from, email, secret(PASSWORD)).await;
        assert!(matches!(refused, Err(AccountError::TooMany(_))), "{email}");
    }
    assert_eq!(world.passwords.requesters.lock().unwrap().len(), checked, "nothing was tried");
    world.accounts.login(&home, ANN, secret(PASSWORD)).await.unwrap();
}

/// The time of a refusal does not tell whether the address has an account.
#[tokio::test(start_paused = true)]
async fn a_refused_login_takes_as_long_for_an_address_without_an_account() {
    let world = world();
    world.ann().await;
    *world.limiter.stop.lock().unwrap() = Some(Limited::Login);
    let mut took = Vec::new();
    for email in [ANN, "nobody@example.com"] {
        let begun = tokio::time::Instant::now();
        world.accounts.login(&client(), email, secret(PASSWORD)).await.unwrap_err();
        took.push(begun.elapsed());
    }
    assert!(took[0] == took[1] && !took[0].is_zero(), "{took:?}");
}

#[tokio::test]
async fn an_account_remembers_few_blocks_in_no_readable_form_and_forgets_them_at_a_reset() {
    let world = world();
    world.ann().await;
    for n in 0..20 {
        world.accounts.login(&at([203, 0, 113, n]), ANN, secret(PASSWORD)).await.unwrap();
    }
    let user = ann(&world).await;
    assert_eq!(user.known_blocks.len(), MAX_BLOCKS);
    assert!(!serde_json::to_string(&user).unwrap().contains("203.0"));
    let _ = world.accounts.login(&at([203, 0, 113, 3]), ANN, secret("wrong")).await;
    assert!(!last_requester(&world).known, "the oldest are forgotten");
    let _ = world.accounts.login(&at([203, 0, 113, 4]), ANN, secret("wrong")).await;
    assert!(last_requester(&world).known);
    world.accounts.request_reset(&client(), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let token = world.token(Letter::ResetPassword).await;
    world.accounts.confirm_reset(&client(), &token, secret("another horse")).await.unwrap();
    assert_eq!(
        ann(&world).await.known_blocks,
        [""; 0],
        "the owner of the password signed in from some of them"
    );
}

#[tokio::test]
async fn a_record_of_an_earlier_program_knows_no_block() {
    let world = world();
    let mut record = serde_json::to_value(world.ann().await).unwrap();
    record.as_object_mut().unwrap().remove("known_blocks").unwrap();
    let read: User = serde_json::from_value(record).unwrap();
    assert_eq!(read.known_blocks, [""; 0]);
}

#[tokio::test]
async fn busy_is_no_wrong_password() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let before = world.limiter.ended.lock().unwrap().len();
    world.passwords.busy.store(true, Ordering::Relaxed);
    let login = world.accounts.login(&client(), ANN, secret("wrong")).await;
    assert!(matches!(login, Err(AccountError::Busy(_))));
    let change = world
        .accounts
        .change_password(&client(), person(&granted), secret("wrong"), secret("another horse"))
        .await;
    assert!(matches!(change, Err(AccountError::Busy(_))));
    assert_eq!(*world.limiter.not_tried.lock().unwrap(), [Limited::Login, Limited::ConfirmPassword]);
    assert_eq!(world.limiter.ended.lock().unwrap().len(), before);
}

fn new(email: &str, hash: &str) -> NewUser {
    NewUser {
        email: Some(email.to_owned()),
        username: None,
        groups: Vec::new(),
        name: None,
        password: NewPassword::Imported(PasswordHash(hash.to_owned())),
        email_verified: true,
        scopes: Vec::new(),
        claims: serde_json::Map::new(),
    }
}

#[tokio::test]
async fn a_hash_that_is_too_dear_is_not_imported_and_says_why() {
    let world = world();
    let refused = world.accounts.create_user("", new(ANN, "dear:x")).await.unwrap_err().to_string();
    assert!(refused.contains("`password_hash`") && refused.contains("15"), "{refused}");
    assert!(refused.contains("14") && refused.contains("passwords.max_cost"), "{refused}");
    let unknown = world.accounts.create_user("", new(ANN, "nonsense")).await.unwrap_err().to_string();
    assert!(unknown.contains("`password_hash`") && unknown.contains("bcrypt, Argon2"), "{unknown}");
}

/// The fake takes `old:` for a dear hash.
#[tokio::test]
async fn dear_hashes_are_counted_when_they_come_and_anew_as_they_go() {
    let world = world();
    let counted = |of: &[Option<&str>]| {
        let mut costs = HashCosts::default();
        of.iter().for_each(|kind| costs.add(*kind));
        costs
    };
    world.accounts.create_user("", new(ANN, "old:correct horse")).await.unwrap();
    assert_eq!(*world.passwords.costs.lock().unwrap(), counted(&[Some("dear")]), "at once");
    for n in 0..600 {
        let mut other = palisade_testing::conformance::user(1000 + n, &format!("u{n}@example.com"));
        other.password = Some(PasswordHash("hash:x".to_owned())).filter(|_| n > 0);
        world.store.commit(vec![Change::CreateUser(other)]).await.unwrap();
    }
    world.accounts.count_hash_costs().await.unwrap();
    let mut all = vec![None; 599];
    all.push(Some("dear"));
    assert_eq!(*world.passwords.costs.lock().unwrap(), counted(&all), "over more than one page");
    // Renewed at the next sign-in.
    world.accounts.login(&client(), ANN, secret(PASSWORD)).await.unwrap();
    assert_eq!(ann(&world).await.password, Some(PasswordHash(format!("hash:{PASSWORD}"))));
    assert_eq!(*world.passwords.costs.lock().unwrap(), counted(&[None; 600]), "at once");
    // Accounts that are made and removed here count as well, so that an import is weighed against all there are.
    let made = NewUser { password: NewPassword::Generated, ..new("new@example.com", "") };
    let made = world.accounts.create_user("", made).await.unwrap().user.id;
    assert_eq!(*world.passwords.costs.lock().unwrap(), counted(&[None; 601]));
    world.accounts.delete_user("", made).await.unwrap();
    assert_eq!(*world.passwords.costs.lock().unwrap(), counted(&[None; 600]));
    world.accounts.count_hash_costs().await.unwrap();
    assert_eq!(*world.passwords.costs.lock().unwrap(), counted(&[None; 600]), "and the count finds the same");
}

/// Hashing takes seconds, in which all sessions may be revoked.
#[tokio::test]
async fn a_session_that_was_revoked_meanwhile_is_not_renewed_with_the_password() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let (issuer, now) = ("https://us.test".to_owned(), UnixTime(world.clock_now()));
    let expires_at = now.plus(Duration::from_secs(1_000_000));
    let cut = Change::CutSessions { issuer, sub: None, created_at: now, expires_at, reason: None };
    let all = Change::RaiseGeneration {
        issuer: "https://us.test".to_owned(),
        created_at: now,
        expires_at,
        reason: None,
        enforce: true,
    };
    world.store.commit(vec![all, cut]).await.unwrap();
    let (current, new) = (secret(PASSWORD), secret("a new password"));
    let renewed = world.accounts.change_password(&client(), person(&granted), current, new).await.unwrap();
    assert!(renewed.is_none());
    assert!(world.store.sessions(granted.user.id).await.unwrap().is_empty());
    world.accounts.login(&client(), ANN, secret("a new password")).await.unwrap();
}

/// Another request replaces Ann's password while the next one is checked against its hash.
fn replace_meanwhile(world: &AccountsWorld) {
    let store = world.store.clone();
    let replace = move || {
        // The fake store answers without waiting.
        let found = store.user_by_email(&ANN.parse().unwrap()).now_or_never().unwrap().unwrap().unwrap();
        let replaced = User { password: Some(PasswordHash("hash:another".to_owned())), ..found };
        store.commit(vec![Change::UpdateUser(replaced)]).now_or_never().unwrap().unwrap();
    };
    *world.passwords.meanwhile.lock().unwrap() = Some(Box::new(replace));
}

/// What was held against a hash that is not the account's any more shows nothing.
#[tokio::test]
async fn a_password_that_was_replaced_while_it_was_checked_opens_nothing() {
    let world = world();
    world.register(ANN).await;
    let link = world.token(Letter::VerifyEmail).await;
    replace_meanwhile(&world);
    let verified = world.accounts.verify_by(&client(), &link, typed(PASSWORD)).await;
    assert!(matches!(verified, Err(AccountError::WrongPassword)));
    assert!(!ann(&world).await.email_verified);
    world.accounts.verify_by(&client(), &link, typed("another")).await.unwrap();

    let granted = world.accounts.login(&client(), ANN, secret("another")).await.unwrap();
    // Their own again, so that there is something to replace.
    let (current, new) = (secret("another"), secret(PASSWORD));
    let renewed = world.accounts.change_password(&client(), person(&granted), current, new).await;
    let granted = renewed.unwrap().unwrap();
    replace_meanwhile(&world);
    let (current, new) = (secret(PASSWORD), secret("a third one"));
    let changed = world.accounts.change_password(&client(), person(&granted), current, new).await;
    assert!(matches!(changed, Err(AccountError::WrongPassword)));
    assert_eq!(ann(&world).await.password, Some(PasswordHash("hash:another".to_owned())));

    let edit = Edit {
        email: Some("new@example.com".to_owned()),
        current_password: Some(secret("another")),
        ..Edit::default()
    };
    world.accounts.edit_profile(&client(), person(&granted), edit).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let link = world.token(Letter::ConfirmEmail).await;
    let mut user = ann(&world).await;
    user.password = Some(PasswordHash(format!("hash:{PASSWORD}")));
    world.store.commit(vec![Change::UpdateUser(user)]).await.unwrap();
    replace_meanwhile(&world);
    let moved = world.accounts.verify_by(&client(), &link, typed(PASSWORD)).await;
    assert!(matches!(moved, Err(AccountError::WrongPassword)));
    assert_eq!(ann(&world).await.email.as_ref().unwrap().as_str(), ANN);
}
