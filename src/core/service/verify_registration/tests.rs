//! Accounts that a stranger has prepared for their victim: the five classes of A. Sudhodanan and A. Paverd,
//! "Pre-hijacked Accounts: An Empirical Study of Security Failures in User Account Creation on the Web" (USENIX
//! Security 2022), as far as there is what they need. Where a class works through the sign-in of a provider, which
//! does not exist, the test holds what exists instead: that nothing which comes from a provider or another issuer
//! reaches an account by its address. And around them, what a verification proves.

use secrecy::ExposeSecret;
use serde_json::Map;

use palisade_core::domain::account::{Claim, User, Verification};
use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::domain::binding::Binding;
use palisade_core::domain::identity::Identity;
use palisade_core::domain::mail::Letter;
use palisade_core::domain::session::Session;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, Limited, Store};
use palisade_core::service::accounts::{AccountError, Ways};
use palisade_core::service::caller::Person;
use palisade_core::service::profile::Edit;
use palisade_core::service::register::{Registered, SentForm};
use palisade_core::service::users::UserEdit;
use palisade_core::service::verify_registration::Proof;
use palisade_testing::accounts_world::{
    ANN, AccountsWorld, PASSWORD, PasswordLogin, client, from, person, secret, world, world_with,
};
use palisade_testing::conformance::session;

const STRANGERS: &str = "stranger's own";
const OWNERS: &str = "the owner's own";

async fn stored(world: &AccountsWorld) -> User {
    world.store.user_by_email(&ANN.parse().unwrap()).await.unwrap().expect("no such account")
}

/// What a browser keeps of the registrations that it sends.
#[derive(Default)]
struct Browser(Option<String>);

impl Browser {
    async fn registers(
        &mut self,
        world: &AccountsWorld,
        email: &str,
        password: &str,
        form: Option<&str>,
    ) -> Registered {
        let (name, who) = (Some("Ann".to_owned()), client());
        let form = SentForm { id: form, return_to: None };
        let sent = world.accounts.register_form(&who, email, secret(password), name, form).await.unwrap();
        self.0 = Some(world.accounts.bind(self.0.as_deref(), &sent).expose_secret().to_owned());
        world.accounts.do_due_tasks().await.unwrap();
        sent
    }

    /// What our page sends, with the cookie.
    fn page(&self, world: &AccountsWorld) -> Proof {
        let browser = Binding::read(&world.key, self.0.as_deref().unwrap_or_default());
        Proof { browser, wanted: true, ..Proof::default() }
    }
}

/// What our page sends from a browser that has sent no registration.
fn page() -> Proof {
    Proof { wanted: true, ..Proof::default() }
}

fn typed(password: &str) -> Proof {
    Proof { password: Some(secret(password)), ..page() }
}

fn new(password: &str) -> Proof {
    Proof { new_password: Some(secret(password)), ..page() }
}

async fn press(world: &AccountsWorld, proof: Proof) -> Result<User, AccountError> {
    let token = world.token(Letter::VerifyEmail).await;
    world.accounts.verify_by(&client(), &token, proof).await
}

fn is_asked(outcome: &Result<User, AccountError>) -> bool {
    matches!(outcome, Err(AccountError::ProofNeeded(Ways::Password)))
}

async fn opens(world: &AccountsWorld, password: &str) -> bool {
    world.accounts.login(&client(), ANN, secret(password)).await.is_ok()
}

async fn stranger_registers(world: &AccountsWorld) {
    let name = Some("Call this number".to_owned());
    world.accounts.register(&from("stranger"), ANN, secret(STRANGERS), name).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
}

// ---- The five classes. ----

/// Class 1, classic-federated merge. Needs a sign-in by a provider to merge into an account with a password; there
/// is none. What stands for it: the owner comes by another way, registering, and the stranger's password does not
/// stay valid beside theirs.
#[tokio::test]
async fn class_1_what_a_stranger_registered_does_not_merge_into_the_owners_account() {
    let world = world();
    stranger_registers(&world).await;
    let mut owner = Browser::default();
    owner.registers(&world, ANN, OWNERS, None).await;
    let pressed = press(&world, owner.page(&world)).await;
    assert!(is_asked(&pressed), "the browser did not send what the account has: {pressed:?}");
    let wrong = press(&world, typed(OWNERS)).await;
    assert!(matches!(wrong, Err(AccountError::WrongPassword)));
    let user = press(&world, new(OWNERS)).await.unwrap();
    assert_eq!((user.name, user.email_verified), (None, true), "nor the name");
    assert!(opens(&world, OWNERS).await);
    assert!(!opens(&world, STRANGERS).await);
}

/// Class 2, unexpired session identifier: a session of the stranger's outlives the owner's recovery.
#[tokio::test]
async fn class_2_no_session_from_before_outlives_the_owners_recovery() {
    let world = world();
    stranger_registers(&world).await;
    assert!(!opens(&world, STRANGERS).await, "there is none before the verification");
    // The owner pressed the link as a program does, the stranger signed in, and an operator took it back.
    let token = world.token(Letter::VerifyEmail).await;
    let ann = world.accounts.verify_email(&client(), &token).await.unwrap();
    let strangers = world.accounts.login(&from("stranger"), ANN, secret(STRANGERS)).await.unwrap();
    let edit = UserEdit { email_verified: Some(false), ..UserEdit::default() };
    world.accounts.update_user("r", ann.id, edit).await.unwrap();
    world.accounts.resend_verification(&client(), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    press(&world, new(OWNERS)).await.unwrap();
    assert!(world.refresh(&strangers.refresh_token).await.is_err());
    assert!(world.store.sessions(ann.id).await.unwrap().is_empty());
    let version = world.store.version("https://us.test", &ann.id.to_string()).await.unwrap();
    assert!(!strangers.access_token.contains(&format!("v{version}")), "nor an access token");
    assert_eq!(world.newest(Letter::PasswordChanged).await.to.as_str(), ANN, "it had another password");
}

/// Class 3, trojan identifier: the stranger adds a way in of their own. Identities of providers and telephone numbers do not
/// exist; what can be added is another address, and a link that sets a password.
#[tokio::test]
async fn class_3_no_link_of_a_strangers_opens_the_account_after_the_owner_came() {
    let world = world();
    stranger_registers(&world).await;
    // An attacker asked for a reset, and can read the mail as well.
    world.accounts.request_reset(&from("stranger"), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let reset = world.token(Letter::ResetPassword).await;
    press(&world, new(OWNERS)).await.unwrap();
    let late = world.accounts.confirm_reset(&from("stranger"), &reset, secret(STRANGERS)).await;
    assert!(matches!(late, Err(AccountError::InvalidLink)));
    assert!(opens(&world, OWNERS).await && !opens(&world, STRANGERS).await);
}

/// Class 4, unexpired email change: the stranger has begun a change of address, and finishes it after the owner has
/// recovered the account.
#[tokio::test]
async fn class_4_a_change_of_address_from_before_is_not_finished_after_a_recovery() {
    for recovers_by_reset in [true, false] {
        let world = world();
        stranger_registers(&world).await;
        let token = world.token(Letter::VerifyEmail).await;
        let ann = world.accounts.verify_email(&client(), &token).await.unwrap();
        let granted = world.accounts.login(&from("stranger"), ANN, secret(STRANGERS)).await.unwrap();
        let edit = Edit {
            email: Some("stranger@example.com".into()),
            current_password: Some(secret(STRANGERS)),
            ..Edit::default()
        };
        world.accounts.edit_profile(&from("stranger"), person(&granted), edit).await.unwrap();
        world.accounts.do_due_tasks().await.unwrap();
        let change = world.token(Letter::ConfirmEmail).await;
        if recovers_by_reset {
            world.accounts.request_reset(&client(), ANN).await.unwrap();
            world.accounts.do_due_tasks().await.unwrap();
            let reset = world.token(Letter::ResetPassword).await;
            world.accounts.confirm_reset(&client(), &reset, secret(OWNERS)).await.unwrap();
        } else {
            let edit = UserEdit { email_verified: Some(false), ..UserEdit::default() };
            world.accounts.update_user("r", ann.id, edit).await.unwrap();
            world.accounts.resend_verification(&client(), ANN).await.unwrap();
            world.accounts.do_due_tasks().await.unwrap();
            press(&world, new(OWNERS)).await.unwrap();
        }
        let late = world.accounts.verify_by(&from("stranger"), &change, typed(OWNERS)).await;
        assert!(matches!(late, Err(AccountError::InvalidLink)), "{recovers_by_reset} {late:?}");
        assert!(opens(&world, OWNERS).await);
    }
}

/// Class 5, non-verifying identity provider: the stranger gets an account by a provider that says an address which it
/// has not verified. No identity of a provider opens an account; the tokens of other issuers belong to no account
/// here, whatever address they name and however verified they say it is.
#[tokio::test]
async fn class_5_an_address_that_another_issuer_names_reaches_no_account() {
    let world = world();
    let ann = world.ann().await;
    for (issuer, email_verified) in [("https://idp.test", true), ("https://idp.test", false)] {
        let identity = Identity {
            issuer: issuer.into(),
            subject: ann.id.to_string(),
            email: Some(ANN.into()),
            email_verified,
            session: None,
            token_id: None,
            version: None,
            scopes: Vec::new(),
            issued_at: UnixTime(1),
            expires_at: UnixTime::NEVER,
            claims: Map::new(),
        };
        assert_eq!(Person::of(&identity, "https://us.test"), None);
        assert!(
            Person::of(&Identity { issuer: "https://us.test".into(), ..identity }, "https://us.test")
                .is_some()
        );
    }
}

// ---- What a verification proves. ----

#[tokio::test]
async fn the_browser_that_registered_needs_nothing_more() {
    let world = world();
    let mut browser = Browser::default();
    browser.registers(&world, ANN, PASSWORD, None).await;
    let user = press(&world, browser.page(&world)).await.unwrap();
    assert_eq!((user.name.as_deref(), user.claim), (Some("Ann"), Claim::Claimed));
    assert!(opens(&world, PASSWORD).await);
    let proven = (Action::VerifyEmail, Outcome::Success, Some("browser".to_owned()));
    assert!(world.events().contains(&proven));
    let letters = world.letters().await;
    assert!(letters.iter().any(|(letter, _)| *letter == Letter::Welcome));
}

#[tokio::test]
async fn any_other_browser_is_asked_and_the_link_stays_good() {
    let world = world();
    let mut browser = Browser::default();
    browser.registers(&world, ANN, PASSWORD, None).await;
    for _ in 0..3 {
        assert!(is_asked(&press(&world, page()).await));
    }
    let wrong = press(&world, typed("a guess")).await;
    assert!(matches!(wrong, Err(AccountError::WrongPassword)));
    let both = Proof { new_password: Some(secret(OWNERS)), ..typed(PASSWORD) };
    assert!(matches!(press(&world, both).await, Err(AccountError::Invalid(_))));
    assert!(matches!(press(&world, new("short")).await, Err(AccountError::PasswordRejected { .. })));
    let user = press(&world, typed(PASSWORD)).await.unwrap();
    assert_eq!(user.name.as_deref(), Some("Ann"), "who knows the password gave the name");
    assert!(opens(&world, PASSWORD).await);
    assert!(matches!(press(&world, typed(PASSWORD)).await, Err(AccountError::InvalidLink)));
}

#[tokio::test]
async fn a_token_alone_is_enough_for_programs_unless_the_operator_wants_a_proof() {
    let lenient = world();
    stranger_registers(&lenient).await;
    press(&lenient, Proof::default()).await.unwrap();
    let strict = world_with(|settings| settings.verification = Verification::Proof);
    stranger_registers(&strict).await;
    assert!(is_asked(&press(&strict, Proof::default()).await));
    assert!(!stored(&strict).await.email_verified);
    press(&strict, Proof { wanted: false, ..typed(STRANGERS) }).await.unwrap();
}

/// A stranger's form in the owner's browser, a second browser, a second thought: none of them is the registration
/// that set the password.
#[tokio::test]
async fn the_browsers_word_is_worth_nothing_for_a_password_that_is_not_kept() {
    let world = world();
    stranger_registers(&world).await;
    let mut owner = Browser::default();
    owner.registers(&world, ANN, OWNERS, None).await;
    assert!(is_asked(&press(&world, owner.page(&world)).await), "the stranger was first");

    let world = self::world();
    let mut owner = Browser::default();
    owner.registers(&world, ANN, PASSWORD, None).await;
    owner.registers(&world, ANN, OWNERS, None).await;
    assert!(is_asked(&press(&world, owner.page(&world)).await), "a repeat with another password");

    let world = self::world();
    let mut owner = Browser::default();
    owner.registers(&world, ANN, PASSWORD, None).await;
    owner.registers(&world, ANN, PASSWORD, None).await;
    assert!(is_asked(&press(&world, owner.page(&world)).await), "a repeat without the form's id");

    let world = self::world();
    let mut owner = Browser::default();
    owner.registers(&world, ANN, PASSWORD, None).await;
    owner.registers(&world, "bob@example.com", PASSWORD, None).await;
    let token = world.token(Letter::VerifyEmail).await;
    let bobs = world.accounts.verify_by(&client(), &token, owner.page(&world)).await.unwrap();
    assert_eq!(bobs.email.as_ref().unwrap().as_str(), "bob@example.com");
    let anns =
        world.store.mails(100).await.unwrap().into_iter().find(|mail| mail.to.as_str() == ANN).unwrap();
    let token = world.key.link_token(anns.link.unwrap().id);
    world.accounts.verify_by(&client(), token.expose_secret(), owner.page(&world)).await.unwrap();
}

#[tokio::test]
async fn a_form_that_is_sent_twice_is_one_registration_and_keeps_its_binding() {
    let world = world();
    let mut browser = Browser::default();
    let first = browser.registers(&world, ANN, PASSWORD, Some("form 1")).await;
    let before = stored(&world).await;
    // Twice more: once as from a tab that has not got the first answer yet.
    let mut other = Browser::default();
    other.registers(&world, ANN, PASSWORD, Some("form 1")).await;
    browser.registers(&world, ANN, PASSWORD, Some("form 1")).await;
    // Once more when the answer did not come for a minute.
    world.clock.advance(61);
    browser.registers(&world, ANN, PASSWORD, Some("form 1")).await;
    assert_eq!(stored(&world).await, before);
    assert_eq!(world.letters().await.len(), 1, "one registration, one letter");
    assert_eq!(before.registration, Some(first.id));
    for browser in [&browser, &other] {
        assert!(browser.page(&world).browser.proves(&world.key, &before, UnixTime(world.clock_now())));
    }
    // The same id with another password is another registration.
    other.registers(&world, ANN, OWNERS, Some("form 1")).await;
    assert!(is_asked(&press(&world, other.page(&world)).await));
    press(&world, browser.page(&world)).await.unwrap();
}

#[tokio::test]
async fn who_knows_the_id_of_somebodys_form_gets_nothing_by_it() {
    let world = world();
    let mut stranger = Browser::default();
    stranger.registers(&world, ANN, STRANGERS, Some(ANN)).await;
    let mut owner = Browser::default();
    owner.registers(&world, ANN, OWNERS, Some(ANN)).await;
    assert!(is_asked(&press(&world, owner.page(&world)).await));
    assert_eq!(world.letters().await.len(), 2, "and the owner gets the live link");
}

#[tokio::test]
async fn the_binding_ends_with_the_password_and_with_the_account() {
    let world = world();
    let mut browser = Browser::default();
    browser.registers(&world, ANN, PASSWORD, None).await;
    // The operator takes the password away.
    world.accounts.reset_password_of("r", stored(&world).await.id).await.unwrap();
    world.accounts.resend_verification(&client(), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let pressed = press(&world, browser.page(&world)).await;
    assert!(matches!(pressed, Err(AccountError::ProofNeeded(Ways::NewPassword))), "{pressed:?}");
    press(&world, new(OWNERS)).await.unwrap();
    // Verified and taken back: the registration is history.
    assert_eq!(stored(&world).await.registration, None);

    let world = self::world();
    let mut browser = Browser::default();
    browser.registers(&world, ANN, PASSWORD, None).await;
    world.clock.advance(7 * 24 * 3600);
    world.accounts.do_due_tasks().await.unwrap();
    stranger_registers(&world).await;
    assert!(is_asked(&press(&world, browser.page(&world)).await));
}

#[tokio::test]
async fn guesses_at_the_password_of_a_registration_are_limited_and_audited() {
    let world = world();
    stranger_registers(&world).await;
    assert!(press(&world, typed("a guess")).await.is_err());
    assert_eq!(world.limiter.ended.lock().unwrap().last(), Some(&(Limited::ConfirmPassword, false)));
    let denied = (Action::VerifyEmail, Outcome::Denied, Some("wrong_password".to_owned()));
    assert!(world.events().contains(&denied));
    *world.limiter.stop.lock().unwrap() = Some(Limited::ConfirmPassword);
    assert!(matches!(press(&world, typed(STRANGERS)).await, Err(AccountError::TooMany(_))));
    assert!(!stored(&world).await.email_verified);
}

#[tokio::test]
async fn a_password_chosen_at_the_verification_is_held_to_the_same_as_any() {
    let world = world();
    stranger_registers(&world).await;
    for (password, word) in
        [(palisade_testing::password_fakes::GUESSABLE, "guessable"), ("short", "too_short")]
    {
        match press(&world, new(password)).await {
            Err(AccountError::PasswordRejected { broken, .. }) => assert_eq!(broken[0].word(), word),
            other => panic!("{other:?}"),
        }
    }
    // The link is as good as before.
    press(&world, new(OWNERS)).await.unwrap();
    assert!(opens(&world, OWNERS).await);
}

/// Who had the earlier password may have signed in from some of them.
#[tokio::test]
async fn a_password_chosen_at_the_verification_forgets_from_where_the_account_was_used() {
    let world = world();
    let ann = world.ann().await;
    world.login().await;
    assert!(!stored(&world).await.known_blocks.is_empty());
    let edit = UserEdit { email_verified: Some(false), ..UserEdit::default() };
    world.accounts.update_user("r", ann.id, edit).await.unwrap();
    world.accounts.resend_verification(&client(), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    press(&world, new(OWNERS)).await.unwrap();
    assert_eq!(stored(&world).await.known_blocks, [""; 0]);
}

/// Tokens that an operator minted, and a session that an earlier program may have left.
#[tokio::test]
async fn a_password_chosen_at_the_verification_ends_every_token_and_session_from_before() {
    let world = world();
    stranger_registers(&world).await;
    let user = stored(&world).await;
    let left = Session { user: user.id, ..session(1, 7, u64::MAX) };
    world.store.commit(vec![Change::CreateSession(left)]).await.unwrap();
    press(&world, new(OWNERS)).await.unwrap();
    assert_eq!(world.store.version("https://us.test", &user.id.to_string()).await.unwrap(), 1);
    assert!(world.store.sessions(user.id).await.unwrap().is_empty());
}
