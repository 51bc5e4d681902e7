//! User names and groups as an operator sets them, over the fakes.

use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

use palisade_core::domain::account::User;
use palisade_core::domain::browser::CookiePlace;
use palisade_core::ports::{Change, Store};
use palisade_core::service::accounts::AccountError;
use palisade_core::service::sign_in::SignIn;
use palisade_core::service::users::{NewPassword, NewUser, UserEdit};
use palisade_testing::accounts_world::{ANN, AccountsWorld, PASSWORD, client, secret, world, world_with};

fn new(email: &str, username: Option<&str>, groups: &[&str]) -> NewUser {
    NewUser {
        email: Some(email.into()),
        username: username.map(str::to_owned),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        name: None,
        password: NewPassword::Given(secret(PASSWORD)),
        email_verified: true,
        scopes: Vec::new(),
        claims: Map::new(),
    }
}

fn named(name: &str) -> UserEdit {
    UserEdit { username: Some(name.to_owned()), ..UserEdit::default() }
}

fn grouped(groups: &[&str]) -> UserEdit {
    UserEdit { groups: Some(groups.iter().map(|group| (*group).to_owned()).collect()), ..UserEdit::default() }
}

async fn made(world: &AccountsWorld, new: NewUser) -> User {
    world.accounts.create_user("", new).await.unwrap().user
}

async fn version(world: &AccountsWorld, user: &User) -> u64 {
    world.store.version("https://us.test", &user.id.to_string()).await.unwrap()
}

#[tokio::test]
async fn a_user_name_is_given_to_one_account_for_ever() {
    let world = world();
    let ann = made(&world, new(ANN, Some("Ann"), &[])).await;
    let bob = made(&world, new("bob@example.com", Some("bob"), &[])).await;
    let taken = |outcome: Result<_, AccountError>| matches!(outcome, Err(AccountError::UsernameTaken));
    assert!(taken(
        world.accounts.create_user("", new("cid@example.com", Some("ＡＮＮ"), &[])).await.map(drop)
    ));
    assert!(taken(world.accounts.update_user("", bob.id, named("ANN")).await.map(drop)));
    world.accounts.update_user("", ann.id, named("anna")).await.unwrap();
    assert!(taken(world.accounts.update_user("", bob.id, named("ann")).await.map(drop)));
    world.accounts.update_user("", ann.id, named("ann")).await.unwrap();
    // An empty one takes it away, and leaves it to this account alone.
    let none = world.accounts.update_user("", ann.id, named("")).await.unwrap();
    assert_eq!(none.username, None);
    assert!(taken(world.accounts.update_user("", bob.id, named("anna")).await.map(drop)));
    world.accounts.delete_user("", ann.id).await.unwrap();
    for name in ["ann", "Anna"] {
        assert!(taken(world.accounts.create_user("", new(ANN, Some(name), &[])).await.map(drop)), "{name}");
    }
    assert!(
        world.store.user_by_email(&ANN.parse().unwrap()).await.unwrap().is_none(),
        "a refusal makes no account"
    );
    for named in ["bob", "BOB", "bob@example.com", &bob.id.to_string()] {
        assert_eq!(world.accounts.find_user(named).await.unwrap(), bob.id, "{named}");
    }
    assert!(matches!(world.accounts.find_user("nobody").await, Err(AccountError::NotFound(_))));
}

/// Another operator gives the name away between the decision and the commit.
#[tokio::test]
async fn of_two_operators_one_gives_the_name() {
    let world = world();
    let ann = made(&world, new(ANN, None, &[])).await;
    let bob = made(&world, new("bob@example.com", None, &[])).await;
    let ahead = User { username: Some("lee".parse().unwrap()), ..bob };
    world.store.get_ahead(vec![Change::UpdateUser(ahead)]);
    let refused = world.accounts.update_user("", ann.id, named("LEE")).await;
    assert!(matches!(refused, Err(AccountError::UsernameTaken)));
    assert_eq!(world.store.user(ann.id).await.unwrap().unwrap().username, None);
}

/// As a change of scopes does: the tokens made before are refused, and the session goes on with what is new.
#[tokio::test]
async fn a_change_of_groups_or_of_the_name_reaches_the_sessions_that_there_are() {
    let world = world();
    let ann = made(&world, new(ANN, None, &["staff"])).await;
    let place = CookiePlace::Host("app.test".to_owned());
    let login = world.accounts.browser_login(&client(), ANN, secret(PASSWORD), false, &place, None).await;
    let signed_in = match login.unwrap() {
        SignIn::Done(signed_in) => signed_in,
        SignIn::Challenge(challenge) => match challenge {},
    };
    let granted = world.login().await;
    let said = async || {
        let cookie = signed_in.cookie.value.expose_secret();
        let found = world.accounts.cookie_session(cookie, &place, client().address).await.unwrap();
        let claims = &found.verified.identity.claims;
        json!([claims.get("preferred_username"), claims.get("groups")])
    };
    assert_eq!(said().await, json!([null, ["staff"]]));
    let scopes = UserEdit { scopes: Some(vec!["read".to_owned()]), ..UserEdit::default() };
    let mut raised = 0;
    for (edit, expected) in [
        (scopes, json!([null, ["staff"]])),
        (grouped(&["staff", "Sales, EMEA"]), json!([null, ["Sales, EMEA", "staff"]])),
        (named("Ann"), json!(["ann", ["Sales, EMEA", "staff"]])),
        (grouped(&[]), json!(["ann", null])),
        (named(""), json!([null, null])),
    ] {
        world.accounts.update_user("", ann.id, edit).await.unwrap();
        raised += 1;
        assert_eq!(version(&world, &ann).await, raised, "the tokens from before are refused");
        assert_eq!(said().await, expected);
        world.refresh(&granted.refresh_token).await.unwrap();
    }
    // The same set in another order is no change, nor is the same name.
    world.accounts.update_user("", ann.id, grouped(&["b", "a"])).await.unwrap();
    world.accounts.update_user("", ann.id, named("ann")).await.unwrap();
    let raised = version(&world, &ann).await;
    world.accounts.update_user("", ann.id, grouped(&["a", "b", "a"])).await.unwrap();
    world.accounts.update_user("", ann.id, named("ANN")).await.unwrap();
    assert_eq!(version(&world, &ann).await, raised);
    let event = world
        .audit
        .0
        .lock()
        .unwrap()
        .iter()
        .rev()
        .find(|event| event.details.contains_key("groups_after"))
        .cloned();
    let details = event.unwrap().details;
    assert_eq!(
        Value::from(details),
        json!({"fields": ["groups"], "groups_before": [], "groups_after": ["a", "b"]})
    );
}

#[tokio::test]
async fn what_is_no_name_and_no_list_of_groups_is_refused_and_changes_nothing() {
    let world = world();
    let ann = made(&world, new(ANN, Some("ann"), &["staff"])).await;
    for name in ["a b", "ann@example.com", "x\u{202e}", "ann\r\nX: y"] {
        let refused = world.accounts.update_user("", ann.id, named(name)).await;
        assert!(matches!(refused, Err(AccountError::InvalidUsername(_))), "{name:?}");
        let refused = world.accounts.create_user("", new("bob@example.com", Some(name), &[])).await;
        assert!(matches!(refused, Err(AccountError::InvalidUsername(_))), "{name:?}");
    }
    let refused = world.accounts.create_user("", new("bob@example.com", Some(""), &[])).await;
    assert!(matches!(refused, Err(AccountError::InvalidUsername(_))));
    for groups in [&["a", "b\n"][..], &[""]] {
        let refused = world.accounts.update_user("", ann.id, grouped(groups)).await;
        assert!(matches!(refused, Err(AccountError::InvalidGroups(_))), "{groups:?}");
        let refused = world.accounts.create_user("", new("bob@example.com", None, groups)).await;
        assert!(matches!(refused, Err(AccountError::InvalidGroups(_))), "{groups:?}");
    }
    assert_eq!(world.store.user(ann.id).await.unwrap().unwrap(), ann);
    assert_eq!(world.store.users(None, 9).await.unwrap().len(), 1);
    // In the claims of an account neither is said a second time.
    for name in ["groups", "preferred_username", "Groups"] {
        let claims = Some(Map::from_iter([(name.to_owned(), json!(["x"]))]));
        let refused =
            world.accounts.update_user("", ann.id, UserEdit { claims, ..UserEdit::default() }).await;
        assert!(matches!(refused, Err(AccountError::Invalid(_))), "{name}");
    }
}

/// The bound of a token counts them.
#[tokio::test]
async fn groups_that_make_the_token_too_long_are_refused() {
    let world = world_with(|settings| settings.longest_token = 80);
    let refused = world.accounts.create_user("", new(ANN, Some("ann"), &["staff"])).await.unwrap_err();
    assert!(refused.to_string().contains("`groups`"), "{refused}");
    let ann = made(&world, new(ANN, None, &[])).await;
    for edit in [grouped(&["staff"]), named("ann")] {
        let refused = world.accounts.update_user("", ann.id, edit).await;
        assert!(matches!(refused, Err(AccountError::Invalid(_))));
    }
    assert_eq!(world.store.user(ann.id).await.unwrap().unwrap(), ann);
}
