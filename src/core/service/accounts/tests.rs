//! The use cases about accounts over the fakes, as stories.

use std::sync::atomic::Ordering;

use secrecy::ExposeSecret;

use palisade_core::domain::account::UserId;
use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::domain::mail::Letter;
use palisade_core::domain::session::Fingerprint;
use palisade_core::ports::{Limited, Store};
use palisade_core::service::accounts::AccountError;
use palisade_core::service::caller::Person;
use palisade_core::service::profile::Edit;
use palisade_core::service::sessions::Which;
use palisade_testing::accounts_world::{
    ANN, PASSWORD, PasswordLogin, client, from, person, secret, signed_in, world, world_with,
};

#[tokio::test]
async fn from_registering_to_signing_out() {
    let world = world();
    world.register(" Ann@EXAMPLE.com").await;
    let early = world.accounts.login(&client(), ANN, secret(PASSWORD)).await;
    assert!(matches!(early, Err(AccountError::InvalidCredentials)));
    let token = world.token(Letter::VerifyEmail).await;
    let user = world.accounts.verify_email(&client(), &token).await.unwrap();
    assert!(user.email_verified);
    let again = world.accounts.verify_email(&client(), &token).await;
    assert!(matches!(again, Err(AccountError::InvalidLink)), "a link is good once");

    let granted = world.login().await;
    assert!(granted.access_token.starts_with(&user.id.to_string()));
    let sessions = world.accounts.list_sessions(person(&granted)).await.unwrap();
    assert_eq!((sessions.len(), sessions[0].id), (1, granted.session));
    world.accounts.logout(&client(), Some(person(&granted)), None).await.unwrap();
    assert_eq!(world.revoked_sessions().await, 1);
    assert!(matches!(world.refresh(&granted.refresh_token).await, Err(AccountError::InvalidRefreshToken)));
    let letters: Vec<Letter> = world.letters().await.into_iter().map(|(letter, _)| letter).collect();
    assert_eq!(letters, [Letter::VerifyEmail, Letter::Welcome]);
    let actions: Vec<Action> = world.events().into_iter().map(|(action, ..)| action).collect();
    let done = [Action::Register, Action::Login, Action::VerifyEmail, Action::Login, Action::Logout];
    let refused = [Action::UseLink, Action::Refresh];
    let (told, seen): (Vec<_>, Vec<_>) = actions.into_iter().partition(|action| refused.contains(action));
    assert_eq!((seen, told), (done.to_vec(), refused.to_vec()));
}

#[tokio::test]
async fn a_taken_address_is_told_to_its_owner_only() {
    let world = world();
    let ann = world.ann().await;
    world.register(ANN).await;
    assert_eq!(world.letters().await.last(), Some(&(Letter::AlreadyRegistered, ANN.to_owned())));
    let kept = world.store.user_by_email(ann.email.as_ref().unwrap()).await.unwrap().unwrap();
    assert_eq!(kept.password, ann.password);
}

#[tokio::test]
async fn unknown_wrong_and_unverified_look_the_same() {
    let world = world();
    world.ann().await;
    // Registered by a requester with a password of their own: the one address was free, the other taken.
    world.register("cid@example.com").await;
    world.accounts.register(&client(), ANN, secret("another password"), None).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    for (email, password) in [
        (ANN, "wrong password"),
        ("bob@example.com", PASSWORD),
        ("cid@example.com", PASSWORD),
        (ANN, "another password"),
    ] {
        let denied = world.accounts.login(&client(), email, secret(password)).await.unwrap_err();
        assert_eq!(denied.to_string(), AccountError::InvalidCredentials.to_string());
    }
    assert_eq!(*world.limiter.ended.lock().unwrap(), [(Limited::Login, false); 4]);
    let known = [ANN, "bob@example.com"];
    for email in known {
        world.accounts.request_reset(&client(), email).await.unwrap();
        world.accounts.resend_verification(&client(), email).await.unwrap();
    }
    world.accounts.do_due_tasks().await.unwrap();
    let resets = world.letters().await.into_iter().filter(|(letter, _)| *letter == Letter::ResetPassword);
    assert_eq!(resets.map(|(_, to)| to).collect::<Vec<_>>(), [ANN]);
}

#[tokio::test]
async fn what_is_limited_or_busy_is_not_tried() {
    let world = world();
    world.ann().await;
    *world.limiter.stop.lock().unwrap() = Some(Limited::Login);
    let stopped = world.accounts.login(&client(), ANN, secret(PASSWORD)).await.unwrap_err();
    assert!(matches!(stopped, AccountError::TooMany(too_many) if too_many.retry_after.as_secs() == 7));
    *world.limiter.stop.lock().unwrap() = None;
    world.passwords.busy.store(true, Ordering::Relaxed);
    let busy = world.accounts.login(&client(), ANN, secret(PASSWORD)).await;
    assert!(matches!(busy, Err(AccountError::Busy(_))));
    let busy = world.accounts.register(&client(), "bob@example.com", secret(PASSWORD), None).await;
    assert!(matches!(busy, Err(AccountError::Busy(_))));
}

#[tokio::test]
async fn bad_input_is_named() {
    let world = world();
    let register = |email: &'static str, password: &'static str, name: Option<&str>| {
        let (name, accounts) = (name.map(str::to_owned), world.accounts.clone());
        async move { accounts.register(&client(), email, secret(password), name).await.unwrap_err() }
    };
    assert!(matches!(register("a@evil@corp.com", PASSWORD, None).await, AccountError::InvalidEmail(_)));
    assert!(matches!(register(ANN, "short", None).await, AccountError::PasswordRejected { .. }));
    assert!(matches!(register(ANN, PASSWORD, Some("a\r\nb")).await, AccountError::Invalid(_)));
    assert!(!world.accounts.do_due_tasks().await.unwrap(), "nothing was written down");
}

#[tokio::test]
async fn a_refresh_token_has_one_successor() {
    let world = world();
    world.ann().await;
    let first = world.login().await.refresh_token;
    let second = world.refresh(&first).await.unwrap().refresh_token;
    let again = world.refresh(&first).await.unwrap().refresh_token;
    assert_eq!(second.expose_secret(), again.expose_secret(), "the same one within ten seconds");
    let third = world.refresh(&second).await.unwrap();
    assert!(matches!(world.refresh(&first).await, Err(AccountError::InvalidRefreshToken)));
    assert_eq!(world.revoked_sessions().await, 1, "a grandparent ends the session");
    assert!(matches!(world.refresh(&third.refresh_token).await, Err(AccountError::InvalidRefreshToken)));
    let reuse = (Action::RefreshReuse, Outcome::Denied, Some("session_ended".to_owned()));
    assert!(world.events().contains(&reuse));
}

#[tokio::test]
async fn fifty_at_once_get_the_same_successor() {
    let world = world();
    world.ann().await;
    let first = world.login().await.refresh_token;
    let tries = (0..50).map(|_| {
        let (accounts, token) = (world.accounts.clone(), first.clone());
        tokio::spawn(async move { accounts.refresh(&client(), token.expose_secret()).await.unwrap() })
    });
    let mut successors = Vec::new();
    for granted in futures::future::join_all(tries).await {
        successors.push(granted.unwrap().refresh_token.expose_secret().to_owned());
    }
    successors.dedup();
    assert_eq!(successors.len(), 1);
}

#[tokio::test]
async fn sessions_end_by_themselves_and_by_number() {
    let world = world();
    world.ann().await;
    let first = world.login().await;
    for _ in 0..3 {
        world.clock.advance(1);
        world.login().await;
    }
    assert!(matches!(world.refresh(&first.refresh_token).await, Err(AccountError::InvalidRefreshToken)));
    assert_eq!(world.revoked_sessions().await, 1, "the oldest one ended");
    world.clock.advance(86_400);
    assert!(world.accounts.list_sessions(person(&first)).await.unwrap().is_empty());
    let last = world.login().await;
    assert_eq!(world.store.sessions(last.user.id).await.unwrap().len(), 1, "what is over was cleared away");
}

#[tokio::test]
async fn a_new_device_is_told_of_once() {
    let world = world();
    world.ann().await;
    for agent in ["firefox", "firefox", "curl", "curl", "firefox"] {
        world.accounts.login(&from(agent), ANN, secret(PASSWORD)).await.unwrap();
    }
    let told = world.letters().await.into_iter().filter(|(letter, _)| *letter == Letter::NewDevice);
    assert_eq!(told.count(), 1);
    assert_eq!(world.newest(Letter::NewDevice).await.facts.device.as_deref(), Some("described curl"));
}

#[tokio::test]
async fn another_device_is_noted_or_refused_as_configured() {
    for (policy, works, noted) in [
        (Fingerprint::Ignore, true, false),
        (Fingerprint::Note, true, true),
        (Fingerprint::Refuse, false, true),
    ] {
        let world = world_with(|settings| settings.fingerprint = policy);
        world.ann().await;
        let token = world.login().await.refresh_token;
        let other = world.accounts.refresh(&from("curl"), token.expose_secret()).await;
        assert_eq!(other.is_ok(), works, "{policy:?}");
        let changed = |(_, _, reason): &(_, _, Option<String>)| reason.as_deref() == Some("device_changed");
        assert_eq!(world.events().iter().any(changed), noted, "{policy:?}");
    }
}

#[tokio::test]
async fn a_reset_ends_everything_and_its_link_works_once() {
    let world = world();
    let ann = world.ann().await;
    let before = world.login().await;
    world.accounts.request_reset(&client(), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let token = world.token(Letter::ResetPassword).await;
    world.accounts.validate_reset(&client(), &token).await.unwrap();
    let weak = world.accounts.confirm_reset(&client(), &token, secret("short")).await;
    assert!(matches!(weak, Err(AccountError::PasswordRejected { .. })));
    world.accounts.confirm_reset(&client(), &token, secret("a new password")).await.unwrap();
    assert!(matches!(world.accounts.validate_reset(&client(), &token).await, Err(AccountError::InvalidLink)));
    assert!(matches!(world.refresh(&before.refresh_token).await, Err(AccountError::InvalidRefreshToken)));
    assert_eq!(world.store.version("https://us.test", &ann.id.to_string()).await.unwrap(), 1);
    assert!(world.accounts.login(&client(), ANN, secret(PASSWORD)).await.is_err());
    world.accounts.login(&client(), ANN, secret("a new password")).await.unwrap();
}

#[tokio::test]
async fn links_expire_and_serve_one_purpose() {
    let world = world();
    world.register(ANN).await;
    let verify = world.token(Letter::VerifyEmail).await;
    let misused = world.accounts.confirm_reset(&client(), &verify, secret(PASSWORD)).await;
    assert!(matches!(misused, Err(AccountError::InvalidLink)));
    world.clock.advance(24 * 3600);
    assert!(matches!(world.accounts.verify_email(&client(), &verify).await, Err(AccountError::InvalidLink)));
    for nonsense in ["", "x", &"x".repeat(1 << 20)] {
        let answer = world.accounts.verify_email(&client(), nonsense).await;
        assert!(matches!(answer, Err(AccountError::InvalidLink)));
    }
}

#[tokio::test]
async fn a_changed_address_kills_older_links_and_tells_the_old_one() {
    let world = world();
    let ann = world.ann().await;
    let granted = world.login().await;
    world.accounts.request_reset(&client(), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let old_reset = world.token(Letter::ResetPassword).await;
    let edit = |password: Option<&str>| Edit {
        email: Some("ann@new.example".into()),
        current_password: password.map(secret),
        ..Edit::default()
    };
    let without = world.accounts.edit_profile(&client(), person(&granted), edit(None)).await;
    assert!(matches!(without, Err(AccountError::Invalid(_))));
    let wrong = world.accounts.edit_profile(&client(), person(&granted), edit(Some("wrong"))).await;
    assert!(matches!(wrong, Err(AccountError::WrongPassword)));
    let edited =
        world.accounts.edit_profile(&client(), person(&granted), edit(Some(PASSWORD))).await.unwrap();
    assert_eq!(edited.user.email, ann.email, "not before it is confirmed");
    world.accounts.do_due_tasks().await.unwrap();
    assert_eq!(Some(world.newest(Letter::EmailChanged).await.to), ann.email);
    let stale = world.accounts.validate_reset(&client(), &old_reset).await;
    assert!(matches!(stale, Err(AccountError::InvalidLink)));
    let token = world.token(Letter::ConfirmEmail).await;
    let user = world.accounts.verify_by(&client(), &token, signed_in(&granted)).await.unwrap();
    assert_eq!(user.email.as_ref().unwrap().as_str(), "ann@new.example");
    assert!(world.accounts.login(&client(), ANN, secret(PASSWORD)).await.is_err());
    world.accounts.login(&client(), "ann@new.example", secret(PASSWORD)).await.unwrap();
}

#[tokio::test]
async fn a_taken_address_cannot_be_taken_over() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    world.register("bob@example.com").await;
    let bobs = world.token(Letter::VerifyEmail).await;
    world.accounts.verify_email(&client(), &bobs).await.unwrap();
    let edit = Edit {
        email: Some("bob@example.com".into()),
        current_password: Some(secret(PASSWORD)),
        ..Edit::default()
    };
    let edited = world.accounts.edit_profile(&client(), person(&granted), edit).await.unwrap();
    assert_eq!(edited.pending_email.unwrap().as_str(), "bob@example.com", "it looks like any other");
    world.accounts.do_due_tasks().await.unwrap();
    let letters = world.letters().await;
    assert_eq!(letters.last(), Some(&(Letter::AlreadyRegistered, "bob@example.com".to_owned())));
    assert!(!letters.iter().any(|(letter, _)| *letter == Letter::ConfirmEmail));
}

#[tokio::test]
async fn a_changed_password_ends_the_other_sessions() {
    let world = world();
    world.ann().await;
    let (mine, other) = (world.login().await, world.login().await);
    let change = |current: &'static str| {
        let (accounts, person) = (world.accounts.clone(), person(&mine));
        let (current, new) = (secret(current), secret("a new password"));
        async move { accounts.change_password(&client(), person, current, new).await }
    };
    assert!(matches!(change("wrong").await, Err(AccountError::WrongPassword)));
    let before = world.store.session(mine.user.id, mine.session).await.unwrap().unwrap();
    world.clock.advance(60);
    let renewed = change(PASSWORD).await.unwrap().expect("no tokens for the session that goes on");
    // What was there before is worth nothing, and to present it does not end what goes on.
    for old in [&mine, &other] {
        assert!(matches!(world.refresh(&old.refresh_token).await, Err(AccountError::InvalidRefreshToken)));
    }
    assert_eq!(world.revoked_sessions().await, 2);
    let sessions = world.store.sessions(mine.user.id).await.unwrap();
    assert_eq!(sessions.iter().map(|session| session.id).collect::<Vec<_>>(), [renewed.session]);
    assert_eq!((sessions[0].created_at, &sessions[0].device), (before.created_at, &before.device));
    assert_ne!(renewed.session, mine.session);
    let next = world.refresh(&renewed.refresh_token).await.unwrap();
    assert_eq!(next.session, renewed.session);
    assert_eq!(world.newest(Letter::PasswordChanged).await.to.as_str(), ANN);
    // A token that an operator minted has no session that could go on.
    let (now, new) = (secret("a new password"), secret("another new password"));
    let minted = Person { user: mine.user.id, session: None };
    assert!(world.accounts.change_password(&client(), minted, now, new).await.unwrap().is_none());
    assert!(world.refresh(&next.refresh_token).await.is_err());
}

/// In every way to set one.
#[tokio::test]
async fn a_password_that_is_guessed_first_is_refused_with_its_reason() {
    use palisade_testing::password_fakes::GUESSABLE;
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    let guessed = |error: AccountError| match error {
        AccountError::PasswordRejected { broken, .. } => assert_eq!(broken[0].word(), "guessable"),
        other => panic!("{other:?}"),
    };
    let weak = || secret(GUESSABLE);
    let registered = world.accounts.register(&client(), "bob@example.com", weak(), None).await;
    guessed(registered.unwrap_err());
    let changed = world.accounts.change_password(&client(), person(&granted), secret(PASSWORD), weak()).await;
    guessed(changed.unwrap_err());
    world.accounts.request_reset(&client(), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let link = world.token(Letter::ResetPassword).await;
    guessed(world.accounts.confirm_reset(&client(), &link, weak()).await.unwrap_err());
    let new = palisade_core::service::users::NewUser {
        email: Some("bob@example.com".into()),
        username: None,
        groups: Vec::new(),
        name: None,
        password: palisade_core::service::users::NewPassword::Given(weak()),
        email_verified: true,
        scopes: Vec::new(),
        claims: serde_json::Map::new(),
    };
    guessed(world.accounts.create_user("r", new).await.unwrap_err());
    // Nothing was changed, and the link is still good.
    world.login().await;
    world.accounts.confirm_reset(&client(), &link, secret("a better password")).await.unwrap();
}

#[tokio::test]
async fn sessions_are_ended_one_the_others_or_all() {
    let world = world();
    world.ann().await;
    let (mine, other, third) = (world.login().await, world.login().await, world.login().await);
    let end = |which| {
        let accounts = world.accounts.clone();
        let person = person(&mine);
        async move { accounts.end_sessions(&client(), person, which).await }
    };
    end(Which::One(other.session)).await.unwrap();
    assert!(matches!(end(Which::One(other.session)).await, Err(AccountError::NotFound(_))));
    end(Which::Others).await.unwrap();
    assert!(world.refresh(&third.refresh_token).await.is_err());
    world.refresh(&mine.refresh_token).await.unwrap();
    end(Which::All).await.unwrap();
    assert_eq!(world.revoked_sessions().await, 3);
}

#[tokio::test]
async fn one_person_cannot_end_the_session_of_another() {
    let world = world();
    let ann = world.ann().await;
    let granted = world.login().await;
    let bob = Person { user: UserId(uuid::Uuid::from_u128(77)), session: None };
    let answer = world.accounts.end_sessions(&client(), bob, Which::One(granted.session)).await;
    assert!(matches!(answer, Err(AccountError::NotFound(_))));
    assert_eq!(world.store.sessions(ann.id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_store_that_cannot_write_promises_nothing() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    world.store.fail();
    assert!(matches!(world.refresh(&granted.refresh_token).await, Err(AccountError::Store(_))));
    let register = world.accounts.register(&client(), "bob@example.com", secret(PASSWORD), None).await;
    assert!(matches!(register, Err(AccountError::Store(_))));
    let logout = world.accounts.logout(&client(), Some(person(&granted)), None).await;
    assert!(matches!(logout, Err(AccountError::Store(_))));
}
