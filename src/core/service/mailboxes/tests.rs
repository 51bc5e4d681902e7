//! What letters say and how many a mailbox gets, over the fakes.

use palisade_core::domain::account::DEVICE_LETTERS_A_DAY;
use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::domain::connection::{Connection, Status};
use palisade_core::domain::mail::{Letter, Mail};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, Store};
use palisade_core::service::caller::Client;
use palisade_core::service::profile::Edit;
use palisade_core::service::users::{NewPassword, NewUser, UserEdit};
use palisade_testing::accounts_world::{
    ANN, AccountsWorld, PASSWORD, PasswordLogin, client, person, secret, world, world_with,
};

/// A name that passes the rules and is a stranger's all the same.
const MARK: &str = "Marked by a stranger";

fn says_nothing(mail: &Mail) -> bool {
    !mail.verified && mail.name.is_none()
}

#[tokio::test]
async fn a_letter_to_an_address_that_nobody_verified_calls_nobody_by_name() {
    let world = world();
    let again = || async {
        world.accounts.register(&client(), ANN, secret(PASSWORD), Some(MARK.into())).await.unwrap();
        world.accounts.do_due_tasks().await.unwrap();
    };
    again().await;
    again().await;
    world.accounts.resend_verification(&client(), ANN).await.unwrap();
    world.accounts.request_reset(&client(), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let new = NewUser {
        email: Some("bob@example.com".to_owned()),
        username: None,
        groups: Vec::new(),
        name: Some(MARK.to_owned()),
        password: NewPassword::Mailed,
        email_verified: false,
        scopes: Vec::new(),
        claims: serde_json::Map::new(),
    };
    world.accounts.create_user("", new).await.unwrap();
    let mails = world.store.mails(100).await.unwrap();
    assert!(mails.len() >= 2 && mails.iter().all(says_nothing), "{mails:#?}");
}

#[tokio::test]
async fn a_wish_for_somebody_elses_address_writes_nothing_of_its_own_there() {
    let world = world();
    world.ann().await;
    assert!(
        says_nothing(&world.newest(Letter::Welcome).await),
        "the name was given before the address was verified"
    );
    let granted = world.login().await;
    let edit = Edit {
        name: Some(MARK.into()),
        email: Some("victim@example.com".into()),
        current_password: Some(secret(PASSWORD)),
    };
    world.accounts.edit_profile(&client(), person(&granted), edit).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    assert!(says_nothing(&world.newest(Letter::ConfirmEmail).await));
    let told = world.newest(Letter::EmailChanged).await;
    assert!(told.verified && told.name.as_deref() == Some(MARK), "to the owner, who chose the name");

    // What an operator took back counts no more.
    let edit = UserEdit { email_verified: Some(false), ..UserEdit::default() };
    world.accounts.update_user("", granted.user.id, edit).await.unwrap();
    world.accounts.request_reset(&client(), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let mails = world.store.mails(100).await.unwrap();
    let resets: Vec<_> = mails.iter().filter(|mail| mail.letter == Letter::ResetPassword).collect();
    assert!(!resets.is_empty() && resets.iter().all(|mail| says_nothing(mail)), "{resets:#?}");
}

#[tokio::test]
async fn a_device_in_a_letter_is_in_our_words() {
    let world = world();
    world.ann().await;
    world.login().await;
    world
        .accounts
        .login(&palisade_testing::accounts_world::from("evil.example"), ANN, secret(PASSWORD))
        .await
        .unwrap();
    let told = world.newest(Letter::NewDevice).await;
    assert_eq!(told.facts.device.as_deref(), Some("described evil.example"));
}

/// A client of its own: of the n-th of many networks.
fn at(n: u32) -> Client {
    Client { address: std::net::Ipv4Addr::from(0x0a00_0000 + n).into(), ..client() }
}

async fn got(world: &AccountsWorld, to: &str) -> usize {
    world.store.mails(10_000).await.unwrap().iter().filter(|mail| mail.to.as_str() == to).count()
}

/// Everything that a requester can ask for, from 200 networks at once.
async fn bombed(world: &AccountsWorld, to: &str) {
    for n in 0..200 {
        world.accounts.register(&at(n), to, secret(PASSWORD), None).await.unwrap();
        world.accounts.resend_verification(&at(n), to).await.unwrap();
        world.accounts.request_reset(&at(n), to).await.unwrap();
        while world.accounts.do_due_tasks().await.unwrap() {}
    }
}

#[tokio::test]
async fn a_mailbox_gets_few_letters_however_many_ask() {
    let world = world();
    bombed(&world, ANN).await;
    // The link of the registration, that of the first reset, and repeats of them up to five.
    assert_eq!(got(&world, ANN).await, 5);
    bombed(&world, "ann+news@example.com").await;
    let tagged = got(&world, "ann+news@example.com").await;
    assert!(tagged <= 2, "the first link of each purpose: {tagged}");
    for hour in 1..=24 {
        world.clock.advance(3600);
        bombed(&world, ANN).await;
        let all = got(&world, ANN).await;
        assert!(all <= 15 + hour, "{hour}: {all}");
    }
    bombed(&world, "bob@example.com").await;
    assert_eq!(got(&world, "bob@example.com").await, 5, "another mailbox has its own");
}

#[tokio::test]
async fn an_owner_is_not_locked_out_while_strangers_use_up_the_mailboxs_letters() {
    let world = world();
    world.ann().await;
    for _ in 0..5 {
        bombed(&world, ANN).await;
        let before = got(&world, ANN).await;
        // There is a live link in the mailbox: it was mailed within the hour, and it opens the account.
        let link = world.token(Letter::ResetPassword).await;
        world.accounts.validate_reset(&client(), &link).await.unwrap();
        world.accounts.request_reset(&at(9999), ANN).await.unwrap();
        world.accounts.do_due_tasks().await.unwrap();
        assert_eq!(got(&world, ANN).await, before, "a repeat beside a live link");
        let held = (Action::RequestPasswordReset, Outcome::Success, Some("letter_held_back".to_owned()));
        assert_eq!(world.events().last(), Some(&held), "and the operator can see why");
        // Used up, or over, there is a new one at once.
        world.accounts.confirm_reset(&client(), &link, secret("another horse")).await.unwrap();
        let before = got(&world, ANN).await;
        world.accounts.request_reset(&at(9999), ANN).await.unwrap();
        world.accounts.do_due_tasks().await.unwrap();
        assert_eq!(got(&world, ANN).await, before + 1);
        let fresh = world.token(Letter::ResetPassword).await;
        assert_ne!(fresh, link);
        // Where Ann has signed in, every letter that she asks for comes.
        world.accounts.login(&at(7777), ANN, secret("another horse")).await.unwrap();
        let before = got(&world, ANN).await;
        for _ in 0..3 {
            world.accounts.request_reset(&at(7777), ANN).await.unwrap();
            world.accounts.do_due_tasks().await.unwrap();
        }
        assert_eq!(got(&world, ANN).await, before + 3);
        world.clock.advance(3601);
    }
}

#[tokio::test]
async fn what_warns_the_owner_is_not_silenced() {
    let world = world();
    world.ann().await;
    bombed(&world, ANN).await;
    for n in 0..10 {
        world
            .accounts
            .login(&palisade_testing::accounts_world::from(&format!("device {n}")), ANN, secret(PASSWORD))
            .await
            .unwrap();
    }
    let mails = world.store.mails(10_000).await.unwrap();
    assert_eq!(mails.iter().filter(|mail| mail.letter == Letter::NewDevice).count(), 9);
}

#[tokio::test]
async fn whoever_gets_a_new_password_hears_what_stays_connected() {
    use palisade_testing::conformance::connection;
    let world = world();
    let ann = world.ann().await;
    let made = |id, provider: &str, at: u64| Connection {
        user: ann.id,
        provider: provider.to_owned(),
        connected_at: Some(UnixTime(at)),
        ..connection(1, id, None)
    };
    let mut ended = made(4, "ended", 4);
    ended.end(Status::Revoked);
    let pending = Connection { connected_at: None, tokens: None, ..made(5, "pending", 5) };
    let all = [made(1, "bank", 1), made(2, "shop", 3), ended, pending];
    world.store.commit(all.map(Change::CreateConnection).to_vec()).await.unwrap();
    let told = async || {
        let facts = world.newest(Letter::PasswordChanged).await.facts;
        facts.connections.into_iter().map(|one| (one.provider, one.at.0)).collect::<Vec<_>>()
    };
    let expected = [("shop".to_owned(), 3), ("bank".to_owned(), 1)];
    world.accounts.request_reset(&client(), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let token = world.token(Letter::ResetPassword).await;
    world.accounts.confirm_reset(&client(), &token, secret("a new password")).await.unwrap();
    assert_eq!(told().await, expected);

    let granted = world.accounts.login(&client(), ANN, secret("a new password")).await.unwrap();
    world.store.commit(vec![Change::RemoveConnection(ann.id, made(2, "shop", 3).id)]).await.unwrap();
    world.clock.advance(60);
    let (now, new) = (secret("a new password"), secret("another new password"));
    world.accounts.change_password(&client(), person(&granted), now, new).await.unwrap();
    assert_eq!(told().await, expected[1..]);
}

#[tokio::test]
async fn a_thief_with_many_devices_fills_no_mailbox_and_the_first_are_told_of() {
    let world = world();
    world.ann().await;
    let sign_in = async |n: usize| {
        let client = palisade_testing::accounts_world::from(&format!("device {n}"));
        world.accounts.login(&client, ANN, secret(PASSWORD)).await.unwrap();
    };
    let told = async || {
        let mails = world.store.mails(10_000).await.unwrap();
        mails.iter().filter(|mail| mail.letter == Letter::NewDevice).count()
    };
    let held = (Action::Login, Outcome::Success, Some("letter_held_back".to_owned()));
    let held_back = || world.events().iter().filter(|event| **event == held).count();
    // The first device of an account is no news.
    sign_in(0).await;
    for n in 1..=DEVICE_LETTERS_A_DAY {
        sign_in(n).await;
        assert_eq!((told().await, held_back()), (n, 0));
    }
    for n in 0..5 {
        sign_in(100 + n).await;
    }
    assert_eq!((told().await, held_back()), (DEVICE_LETTERS_A_DAY, 5));
    // A device that was not told of is known from then on, and a day later new ones are told of again.
    world.clock.advance(24 * 3600);
    sign_in(104).await;
    sign_in(200).await;
    assert_eq!((told().await, held_back()), (DEVICE_LETTERS_A_DAY + 1, 5));
    // What a clock that was ahead has counted holds nothing back.
    world.clock.advance(365 * 24 * 3600);
    for n in 300..300 + DEVICE_LETTERS_A_DAY {
        sign_in(n).await;
    }
    world.clock.set_back(364 * 24 * 3600);
    sign_in(400).await;
    assert_eq!((told().await, held_back()), (2 * DEVICE_LETTERS_A_DAY + 2, 5));
}

#[tokio::test]
async fn a_wish_reaches_a_mailbox_that_strangers_have_filled() {
    let world = world();
    world.ann().await;
    bombed(&world, "new@example.com").await;
    let granted = world.login().await;
    let edit = || Edit {
        name: None,
        email: Some("new@example.com".into()),
        current_password: Some(secret(PASSWORD)),
    };
    world.accounts.edit_profile(&client(), person(&granted), edit()).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    assert_eq!(world.newest(Letter::ConfirmEmail).await.to.as_str(), "new@example.com");
    for _ in 0..20 {
        world.accounts.edit_profile(&client(), person(&granted), edit()).await.unwrap();
        world.accounts.do_due_tasks().await.unwrap();
    }
    let mails = world.store.mails(10_000).await.unwrap();
    assert_eq!(mails.iter().filter(|mail| mail.letter == Letter::ConfirmEmail).count(), 3);
}

#[tokio::test]
async fn limits_that_are_off_hold_nothing_back_and_write_nothing() {
    let world = world_with(|settings| settings.letters.enabled = false);
    world.ann().await;
    for _ in 0..30 {
        world.accounts.request_reset(&client(), ANN).await.unwrap();
        world.accounts.do_due_tasks().await.unwrap();
    }
    assert_eq!(got(&world, ANN).await, 32, "two of the registration");
    let mailbox = world.key.mailbox(&ANN.parse().unwrap());
    assert_eq!(world.store.mailbox(mailbox).await.unwrap(), None);
}
