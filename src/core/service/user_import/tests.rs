//! Imports and exports of accounts, over the fakes.

use serde_json::Map;
use uuid::Uuid;

use palisade_core::domain::account::{Claim, PasswordHash, UserId};
use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::domain::mail::Letter;
use palisade_core::domain::provider_identity::ProviderIdentity;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, Store};
use palisade_core::service::accounts::AccountError;
use palisade_core::service::user_import::{ImportLetters, ImportedUser, MAX_ROWS};
use palisade_core::service::users::{NewPassword, NewUser, UserEdit};
use palisade_testing::accounts_world::{ANN, AccountsWorld, PASSWORD, PasswordLogin, client, secret, world};

const BOB: &str = "bob@example.com";

fn row(email: &str, password: NewPassword) -> ImportedUser {
    let new = NewUser {
        email: Some(email.to_owned()),
        username: None,
        groups: Vec::new(),
        name: None,
        password,
        email_verified: true,
        scopes: Vec::new(),
        claims: Map::new(),
    };
    ImportedUser { subject: None, new, active: true, created_at: None, identities: Vec::new(), claimed: true }
}

fn hashed(email: &str) -> ImportedUser {
    row(email, NewPassword::Imported(PasswordHash(format!("old:{PASSWORD}"))))
}

fn id(n: u128) -> UserId {
    UserId(Uuid::from_u128(n))
}

fn identity(subject: &str) -> ProviderIdentity {
    ProviderIdentity { issuer: "https://idp.test".to_owned(), subject: subject.to_owned(), since: None }
}

/// What became of each row: the address of an account, or the error.
async fn imported(
    world: &AccountsWorld,
    rows: Vec<ImportedUser>,
    letters: ImportLetters,
    dry_run: bool,
) -> Vec<Result<String, String>> {
    let outcomes = world.accounts.import_users("r1", rows, letters, dry_run).await.unwrap();
    outcomes
        .into_iter()
        .map(|outcome| outcome.map(|made| made.user.called()).map_err(|error| error.to_string()))
        .collect()
}

fn refused(outcome: &Result<String, String>, why: &str) {
    let error = outcome.as_ref().unwrap_err();
    assert!(error.contains(why), "{error}");
}

#[tokio::test]
async fn an_account_is_as_it_was_and_signs_in_with_its_password() {
    let world = world();
    let mut ann = hashed(ANN);
    ann.subject = Some(id(7));
    ann.created_at = Some(UnixTime(5));
    ann.identities = vec![identity("ann")];
    ann.new.username = Some("Ann".to_owned());
    ann.new.scopes = vec!["read".to_owned()];
    let mut bob = hashed(BOB);
    bob.active = false;
    let made = imported(&world, vec![ann, bob], ImportLetters::Missing, false).await;
    assert_eq!(made, [Ok(ANN.to_owned()), Ok(BOB.to_owned())]);
    let user = world.store.user(id(7)).await.unwrap().unwrap();
    assert_eq!((user.created_at, user.updated_at), (UnixTime(5), UnixTime(world.clock_now())));
    assert_eq!((user.claim, &*user.identities), (Claim::Claimed, &[identity("ann")][..]));
    assert_eq!(
        world.store.user_by_identity(&identity("ann")).await.unwrap().map(|user| user.id),
        Some(id(7))
    );
    assert!(world.store.mails(9).await.unwrap().is_empty(), "nothing is mailed to what can sign in");
    world.accounts.login(&client(), "ann", secret(PASSWORD)).await.unwrap();
    let renewed = world.store.user(id(7)).await.unwrap().unwrap();
    assert_eq!(renewed.password, Some(PasswordHash(format!("hash:{PASSWORD}"))));
    let disabled = world.accounts.login(&client(), BOB, secret(PASSWORD)).await;
    assert!(matches!(disabled, Err(AccountError::Disabled)));
    let events = world.audit.0.lock().unwrap();
    let noted = events.iter().filter(|event| event.action == Action::CreateUser);
    let noted: Vec<_> = noted.map(|event| (event.outcome, event.reason.as_deref())).collect();
    assert_eq!(noted, [(Outcome::Success, Some("imported")); 2]);
}

#[tokio::test]
async fn what_is_refused_is_named_and_the_others_are_made() {
    let world = world();
    let before = world.accounts.create_user("", hashed("old@example.com").new).await.unwrap().user;
    world
        .accounts
        .update_user("", before.id, UserEdit { username: Some("old".into()), ..UserEdit::default() })
        .await
        .unwrap();
    let with = |change: fn(&mut ImportedUser)| {
        let mut row = hashed("x@example.com");
        row.new.email = None;
        row.new.email_verified = false;
        row.new.username = Some("x".to_owned());
        change(&mut row);
        row
    };
    let mut taken_subject = hashed("y@example.com");
    taken_subject.subject = Some(before.id);
    let rows = vec![
        hashed(ANN),
        hashed("Ann@Example.com"),
        hashed("old@example.com"),
        with(|row| row.new.username = Some("OLD".to_owned())),
        taken_subject,
        with(|row| row.new.email = Some("no address".to_owned())),
        with(|row| row.new.password = NewPassword::Imported(PasswordHash("nonsense".to_owned()))),
        with(|row| row.new.password = NewPassword::Imported(PasswordHash("dear:x".to_owned()))),
        with(|row| row.created_at = Some(UnixTime(u64::MAX))),
        with(|row| row.identities = vec![identity("")]),
        with(|row| row.subject = Some(id(0))),
        with(|row| row.new.username = None),
        with(|row| row.new.email_verified = true),
        with(|row| row.identities = vec![identity("one")]),
        with(|row| {
            row.new.username = Some("z".to_owned());
            row.identities = vec![identity("one")];
        }),
        hashed(BOB),
    ];
    let whys = [
        "this address",
        "this address",
        "user name",
        "`subject`",
        "address",
        "`password_hash`",
        "passwords.max_cost",
        "`created_at`",
        "`identities`",
        "`subject`",
        "`email` or a `username`",
        "`email_verified`",
    ];
    for dry_run in [true, false] {
        let outcomes = imported(&world, rows.clone(), ImportLetters::None, dry_run).await;
        assert_eq!(outcomes[0], Ok(ANN.to_owned()));
        whys.iter().zip(&outcomes[1..]).for_each(|(why, outcome)| refused(outcome, why));
        assert_eq!(outcomes[13], Ok("x".to_owned()));
        refused(&outcomes[14], "identity");
        assert_eq!(outcomes[15], Ok(BOB.to_owned()));
        let count = world.store.users(None, 99).await.unwrap().len();
        assert_eq!(count, if dry_run { 1 } else { 4 });
    }
    // Once more: what was made is refused, and nothing is made twice.
    let again = imported(&world, vec![hashed(ANN), hashed(BOB)], ImportLetters::None, false).await;
    again.iter().for_each(|outcome| refused(outcome, "this address"));
    assert!(
        world
            .accounts
            .import_users("", vec![hashed(ANN); MAX_ROWS + 1], ImportLetters::None, true)
            .await
            .is_err()
    );
}

/// All rows share one commit. Another account may take an address between the look and the commit: that row is refused,
/// and the others are made.
#[tokio::test]
async fn a_row_that_comes_too_late_stops_no_other() {
    let world = world();
    let mut late = hashed("late@example.com");
    // While its password is hashed, the address is taken.
    late.new.password = NewPassword::Given(secret(PASSWORD));
    let taker = palisade_testing::conformance::user(99, "late@example.com");
    world.store.get_ahead(vec![Change::CreateUser(taker)]);
    let outcomes = imported(&world, vec![hashed(ANN), late, hashed(BOB)], ImportLetters::None, false).await;
    assert_eq!((&outcomes[0], &outcomes[2]), (&Ok(ANN.to_owned()), &Ok(BOB.to_owned())));
    refused(&outcomes[1], "this address");
    assert_eq!(world.store.users(None, 99).await.unwrap().len(), 3);
}

#[tokio::test]
async fn letters_go_to_those_that_are_named() {
    for (letters, expected) in [
        (ImportLetters::None, vec![]),
        (ImportLetters::Missing, vec![("a@example.com", Letter::ResetPassword)]),
        (
            ImportLetters::All,
            vec![
                ("a@example.com", Letter::ResetPassword),
                ("b@example.com", Letter::VerifyEmail),
                ("c@example.com", Letter::ResetPassword),
            ],
        ),
    ] {
        let world = world();
        let mut unverified = hashed("b@example.com");
        unverified.new.email_verified = false;
        let mut provided = row("c@example.com", NewPassword::Mailed);
        provided.identities = vec![identity("c")];
        let mut disabled = row("d@example.com", NewPassword::Mailed);
        disabled.active = false;
        let rows =
            vec![row("a@example.com", NewPassword::Mailed), unverified, provided, disabled, hashed(ANN)];
        let dry = world.accounts.import_users("", rows.clone(), letters, true).await.unwrap();
        assert_eq!(dry.iter().flatten().filter(|made| made.gets_link).count(), expected.len());
        assert!(world.store.mails(9).await.unwrap().is_empty());
        world.accounts.import_users("", rows, letters, false).await.unwrap();
        let mails = world.store.mails(9).await.unwrap();
        let mut sent: Vec<_> = mails.iter().map(|mail| (mail.to.as_str(), mail.letter)).collect();
        sent.sort_by_key(|(to, _)| *to);
        assert_eq!(sent, expected, "{letters:?}");
    }
}

#[tokio::test]
async fn what_is_exported_is_imported_again() {
    let world = world();
    world.register(ANN).await;
    let mut ann = hashed("ann2@example.com");
    ann.identities = vec![identity("ann")];
    world.accounts.import_users("", vec![ann, hashed(BOB)], ImportLetters::None, false).await.unwrap();
    let page = world.accounts.export_users(None, 2, None).await.unwrap();
    assert_eq!((page.users.len(), page.next), (2, Some(page.users[1].id)));
    let rest = world.accounts.export_users(page.next, 2, None).await.unwrap();
    assert_eq!((rest.users.len(), rest.next, rest.gone.len()), (1, None, 0));
    let users = [page.users, rest.users].concat();
    let unclaimed = users.iter().filter(|user| user.claim == Claim::Unclaimed);
    assert_eq!(
        unclaimed.map(|user| user.called()).collect::<Vec<_>>(),
        [ANN],
        "registered and never verified"
    );
    let rows = users.iter().map(|user| ImportedUser {
        subject: Some(user.id),
        new: NewUser {
            email: user.email.as_ref().map(ToString::to_string),
            username: None,
            groups: Vec::new(),
            name: user.name.clone(),
            password: user.password.clone().map_or(NewPassword::Mailed, NewPassword::Imported),
            email_verified: user.email_verified,
            scopes: user.scopes.clone(),
            claims: user.claims.clone(),
        },
        active: user.active,
        created_at: Some(user.created_at),
        identities: user.identities.clone(),
        claimed: user.claim == Claim::Claimed,
    });
    let other = palisade_testing::accounts_world::world();
    let outcomes = other.accounts.import_users("", rows.collect(), ImportLetters::None, false).await.unwrap();
    assert!(outcomes.iter().all(Result::is_ok));
    let again = other.accounts.export_users(None, 9, None).await.unwrap().users;
    for (before, after) in users.iter().zip(&again) {
        let same = |user: &palisade_core::domain::account::User| {
            (
                user.id,
                user.email.clone(),
                user.password.clone(),
                user.claim,
                user.created_at,
                user.identities.clone(),
            )
        };
        assert_eq!(same(before), same(after));
    }
    // The address of a registration that was never verified is free for its owner.
    let mut owner = hashed(ANN);
    owner.subject = Some(id(5000));
    assert_eq!(imported(&other, vec![owner], ImportLetters::None, false).await, [Ok(ANN.to_owned())]);
}

#[tokio::test]
async fn an_export_since_a_moment_has_what_changed_and_what_is_gone() {
    let world = world();
    let rows = vec![hashed(ANN), hashed(BOB), hashed("cid@example.com")];
    let made = world.accounts.import_users("", rows, ImportLetters::None, false).await.unwrap();
    let ids: Vec<UserId> = made.into_iter().map(|made| made.unwrap().user.id).collect();
    world.clock.advance(100);
    let since = UnixTime(world.clock_now());
    let changed = async |since: UnixTime| {
        let page = world.accounts.export_users(None, 9, Some(since)).await.unwrap();
        assert_eq!(page.as_of, UnixTime(world.clock_now()));
        (page.users.iter().map(|user| user.id).collect::<Vec<_>>(), page.gone)
    };
    assert_eq!(changed(since).await, (Vec::new(), Vec::new()));
    // A sign-in changes nothing that is exported.
    world.accounts.login(&client(), ANN, secret(PASSWORD)).await.unwrap();
    assert_eq!(changed(since).await.0, []);
    world
        .accounts
        .update_user("", ids[1], UserEdit { name: Some("Bob".into()), ..UserEdit::default() })
        .await
        .unwrap();
    world.accounts.delete_user("", ids[2]).await.unwrap();
    // As the audit log writes it behind the deletion.
    let events = world.audit.0.lock().unwrap().clone();
    let deletion = events.into_iter().filter(|event| event.action == Action::DeleteUser).collect();
    world.store.commit(vec![Change::Record(deletion)]).await.unwrap();
    assert_eq!(changed(since).await, (vec![ids[1]], vec![(ids[2], since)]));
    assert_eq!(changed(UnixTime(since.0 + 1)).await, (Vec::new(), Vec::new()));
    // One that was made again is not gone.
    let mut back = hashed("cid@example.com");
    back.subject = Some(ids[2]);
    world.accounts.import_users("", vec![back], ImportLetters::None, false).await.unwrap();
    let (mut users, gone) = changed(since).await;
    users.sort();
    let mut expected = vec![ids[1], ids[2]];
    expected.sort();
    assert_eq!((users, gone), (expected, Vec::new()));
}
