//! What an operator changes of addresses, user names and groups, over the fakes.

use secrecy::ExposeSecret;

use palisade_core::domain::account::User;
use palisade_core::domain::audit::Action;
use palisade_core::domain::mail::Letter;
use palisade_core::ports::{Change, RecordFormats, ReplicaFormats, Store, StoreError};
use palisade_core::service::accounts::AccountError;
use palisade_core::service::users::{NewPassword, NewUser, UserEdit};
use palisade_testing::accounts_world::{ANN, AccountsWorld, PASSWORD, client, secret, world};

const NEW: &str = "ann@new.example";
const BOB: &str = "bob@example.com";

fn email(address: &str, verified: bool) -> UserEdit {
    UserEdit {
        email: Some(address.to_owned()),
        email_verified: verified.then_some(true),
        ..UserEdit::default()
    }
}

fn groups(add: &[&str], remove: &[&str]) -> UserEdit {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    UserEdit { add_groups: owned(add), remove_groups: owned(remove), ..UserEdit::default() }
}

fn new(email: Option<&str>, username: Option<&str>) -> NewUser {
    NewUser {
        email: email.map(str::to_owned),
        username: username.map(str::to_owned),
        groups: Vec::new(),
        name: None,
        password: NewPassword::Given(secret(PASSWORD)),
        email_verified: false,
        scopes: Vec::new(),
        claims: serde_json::Map::new(),
    }
}

async fn edit(world: &AccountsWorld, edit: UserEdit) -> Result<(), AccountError> {
    let id = world.store.users(None, 1).await.unwrap()[0].id;
    world.accounts.update_user("r1", id, edit).await.map(|_| ())
}

/// A thief with the password has changed the address. What the operator decides is final.
#[tokio::test]
async fn an_operators_address_ends_sessions_and_voids_what_was_mailed() {
    let world = world();
    world.ann().await;
    let thief = world.login().await;
    let undo = world.move_to(&thief, "thief@example.com").await;
    edit(&world, email(NEW, true)).await.unwrap();
    let ann = world.at(NEW).await;
    assert!(ann.email_verified && ann.email_changes.undoable.is_empty());
    assert!(world.refresh(&thief.refresh_token).await.is_err());
    assert!(matches!(world.undo(&undo).await, Err(AccountError::InvalidLink)));
    assert!(world.sign_in("thief@example.com", PASSWORD).await.is_err());
    world.sign_in(NEW, PASSWORD).await.unwrap();
    let told = world.addresses(Action::UpdateUser);
    assert_eq!(told, Some(("thief@example.com".to_owned(), NEW.to_owned())));
}

#[tokio::test]
async fn an_address_that_is_not_vouched_for_waits_for_its_link() {
    let world = world();
    world.ann().await;
    edit(&world, email(NEW, false)).await.unwrap();
    assert!(world.sign_in(NEW, PASSWORD).await.is_err(), "not verified yet");
    let token = world.token(Letter::VerifyEmail).await;
    assert_eq!(world.newest(Letter::VerifyEmail).await.to.as_str(), NEW);
    world.accounts.verify_email(&client(), &token).await.unwrap();
    world.sign_in(NEW, PASSWORD).await.unwrap();
}

#[tokio::test]
async fn an_address_of_another_account_is_taken_and_a_strangers_makes_room() {
    let world = world();
    world.ann().await;
    // Registered and never verified.
    world.register(BOB).await;
    let stranger = world.at(BOB).await.id;
    edit(&world, email(BOB, true)).await.unwrap();
    assert!(world.store.user(stranger).await.unwrap().is_none());
    let owner = NewUser { email_verified: true, ..new(Some(ANN), None) };
    world.accounts.create_user("r1", owner).await.unwrap();
    let taken = edit(&world, email(ANN, true)).await;
    assert!(matches!(taken, Err(AccountError::EmailTaken)), "{taken:?}");
}

#[tokio::test]
async fn an_address_under_dispute_is_decided_by_unfreezing_alone() {
    let world = world();
    world.ann().await;
    let thief = world.login().await;
    let undo = world.move_to(&thief, NEW).await;
    world.undo(&undo).await.unwrap();
    for wish in [email(BOB, true), email("", false)] {
        let refused = edit(&world, UserEdit { username: Some("ann".to_owned()), ..wish }).await;
        assert!(matches!(refused, Err(AccountError::Frozen)), "{refused:?}");
    }
    assert!(world.at(NEW).await.email_changes.is_frozen());
}

#[tokio::test]
async fn an_account_keeps_something_to_sign_in_by() {
    let world = world();
    world.ann().await;
    let invalid = |result| matches!(result, Err(AccountError::Invalid(_)));
    assert!(invalid(edit(&world, email("", false)).await));
    assert!(invalid(world.accounts.create_user("r1", new(None, None)).await.map(|_| ())));
    let named = UserEdit { username: Some("Ann".to_owned()), ..email("", false) };
    edit(&world, named).await.unwrap();
    let users = world.store.users(None, 9).await.unwrap();
    assert_eq!((users[0].email.as_ref(), users[0].email_verified), (None, false));
    assert_eq!(users[0].username.as_ref().unwrap().as_str(), "ann");
    assert!(invalid(edit(&world, UserEdit { username: Some(String::new()), ..UserEdit::default() }).await));
}

/// Two operators who change groups at one time do not undo each other's change.
#[tokio::test]
async fn groups_are_added_to_and_removed_from_those_that_it_has_by_then() {
    let world = world();
    world.ann().await;
    let (one, other) = tokio::join!(
        edit(&world, groups(&["staff", "Sales, EMEA"], &[])),
        edit(&world, groups(&["night"], &["trainees"])),
    );
    one.and(other).unwrap();
    edit(&world, groups(&["staff"], &["Sales, EMEA", "never there"])).await.unwrap();
    let ann = world.at(ANN).await;
    assert_eq!(ann.groups.as_slice(), ["night", "staff"]);
    let id = ann.id.to_string();
    let version = async || world.store.version("https://us.test", &id).await.unwrap();
    let before = version().await;
    edit(&world, groups(&["staff"], &["trainees"])).await.unwrap();
    assert_eq!(version().await, before, "nothing was changed, and no token ends");
}

/// Stored groups are read as they are: what a later version would not take keeps no other edit from being made.
#[tokio::test]
async fn an_edit_that_names_no_group_leaves_the_stored_ones_as_they_are() {
    let world = world();
    world.ann().await;
    let stored = serde_json::from_value(serde_json::json!(["staff", "staff\u{200b}"])).unwrap();
    let user = User { groups: stored, ..world.at(ANN).await };
    world.store.commit(vec![Change::UpdateUser(user.clone())]).await.unwrap();
    let named = UserEdit { name: Some("Ann Lee".to_owned()), ..UserEdit::default() };
    edit(&world, named).await.unwrap();
    let after = world.at(ANN).await;
    assert_eq!((after.name.as_deref(), &after.groups), (Some("Ann Lee"), &user.groups));
    // It can lose a group, and get one, too.
    edit(&world, groups(&["night"], &["staff"])).await.unwrap();
    assert_eq!(world.at(ANN).await.groups.as_slice(), ["night", "staff\u{200b}"]);
}

#[tokio::test]
async fn a_group_is_not_added_and_removed_at_once_in_any_form() {
    let world = world();
    world.ann().await;
    let refused = edit(&world, groups(&["night", "Zu\u{308}rich"], &["Zürich"])).await.unwrap_err();
    assert!(matches!(&refused, AccountError::Invalid(why) if why.contains("\"Zürich\"")), "{refused}");
}

#[tokio::test]
async fn a_check_makes_nothing_and_refuses_what_would_be_refused() {
    let world = world();
    let ann = world.ann().await;
    edit(&world, UserEdit { username: Some("ann".to_owned()), ..UserEdit::default() }).await.unwrap();
    let (events, users) = (world.events().len(), world.store.users(None, 9).await.unwrap());
    let check = async |new| world.accounts.check_user(&new).await;
    check(new(Some(BOB), Some("bob"))).await.unwrap();
    check(NewUser { password: NewPassword::Mailed, ..new(None, Some("bob")) }).await.unwrap();
    assert!(matches!(check(new(Some(ANN), Some("bob"))).await, Err(AccountError::EmailTaken)));
    assert!(matches!(check(new(None, Some("ANN"))).await, Err(AccountError::UsernameTaken)));
    assert!(matches!(check(new(None, Some("a b"))).await, Err(AccountError::InvalidUsername(_))));
    assert!(matches!(check(new(None, None)).await, Err(AccountError::Invalid(_))));
    let weak = NewUser { password: NewPassword::Given(secret("x")), ..new(None, Some("bob")) };
    assert!(matches!(check(weak).await, Err(AccountError::PasswordRejected { .. })));
    assert_eq!((world.events().len(), world.store.users(None, 9).await.unwrap()), (events, users));
    assert!(world.letters().await.iter().all(|(letter, _)| *letter != Letter::ResetPassword));
    // Of an account that is gone, too.
    world.accounts.delete_user("r1", ann.id).await.unwrap();
    assert!(matches!(check(new(None, Some("ann"))).await, Err(AccountError::UsernameTaken)));
}

/// Password managers fill in what it is signed in to by.
#[tokio::test]
async fn a_link_names_its_account_by_the_address_or_else_the_user_name() {
    let world = world();
    let made = world.accounts.create_user("r1", new(None, Some("ann"))).await.unwrap();
    let named = async || {
        let handed = world.accounts.reset_password_of("r1", made.user.id).await.unwrap();
        let token = match handed {
            Some(link) => link.token.expose_secret().to_owned(),
            None => world.token(Letter::ResetPassword).await,
        };
        let purposes = [palisade_core::domain::link::Purpose::ResetPassword];
        let opened = world.accounts.open_link(&client(), &token, &purposes).await.unwrap();
        opened.login_name().map(str::to_owned)
    };
    assert_eq!(named().await.as_deref(), Some("ann"));
    edit(&world, email(ANN, true)).await.unwrap();
    assert_eq!(named().await.as_deref(), Some(ANN));
}

/// A rolling upgrade: what the older replica cannot read waits for its end, and everything else goes on.
#[tokio::test]
async fn what_a_live_older_replica_cannot_read_is_not_written() {
    let world = world();
    world.ann().await;
    let older = RecordFormats::of_this_program().to_json().replace("\"user\":3", "\"user\":1");
    let formats = RecordFormats::from_json(&older).unwrap();
    let replica = ReplicaFormats { replica: "b-7".to_owned(), program: 6, formats };
    *world.store.replicas.lock().unwrap() = vec![replica];
    let before = world.at(ANN).await;
    match edit(&world, groups(&["staff"], &[])).await {
        Err(AccountError::Store(StoreError::OlderReplica(older))) => {
            assert_eq!((older.replica.as_str(), older.program, older.version, older.reads), ("b-7", 6, 2, 1));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(world.at(ANN).await, before);
    edit(&world, email(NEW, true)).await.unwrap();
    world.sign_in(NEW, PASSWORD).await.unwrap();
    world.store.replicas.lock().unwrap().clear();
    edit(&world, groups(&["staff"], &[])).await.unwrap();
}
