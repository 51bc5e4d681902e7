//! A world of fakes for the stories about accounts: a gateway without a network, a clock that is moved by
//! hand, and Ann. For tests only.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Notify;
use zeroize::Zeroizing;

use crate::fakes::{FakeAudit, FakeClock, FakeEntropy, FakeLimiter, FakePasswords, FakeSigner, FakeStore};
use palisade_core::domain::account::User;
use palisade_core::domain::audit::{Action, Event, Outcome};
use palisade_core::domain::lease::LeaseHolder;
use palisade_core::domain::mail::{Letter, Mail};
use palisade_core::domain::mail_cap::Caps;
use palisade_core::domain::opaque::ServerKey;
use palisade_core::domain::revocation::Target;
use palisade_core::domain::session::{BrowserLifetimes, Device, Fingerprint, Lifetimes, REPEAT_WINDOW};
use palisade_core::ports::{Clock, Devices, Store};
use palisade_core::service::accounts::{AccountError, AccountPorts, AccountSettings, Accounts};
use palisade_core::service::caller::{Client, Person};
use palisade_core::service::profile::Edit;
use palisade_core::service::sign_in::{Granted, SignIn};
use palisade_core::service::verify_registration::Proof;

pub const ANN: &str = "ann@example.com";
pub const PASSWORD: &str = "correct horse";

/// How long sessions in cookies live in the worlds.
pub const BROWSER: BrowserLifetimes = BrowserLifetimes {
    idle: Duration::from_secs(3600),
    absolute: Duration::from_secs(700_000),
    remember: Some(Duration::from_secs(180_000)),
};

/// A device is its user agent.
struct FakeDevices;

impl Devices for FakeDevices {
    fn device(&self, user_agent: Option<&str>, address: IpAddr) -> Device {
        let name = user_agent.unwrap_or("unknown").to_owned();
        let fingerprint = name.clone();
        Device { name, user_agent: user_agent.map(str::to_owned), address, place: None, fingerprint }
    }

    fn described(&self, user_agent: Option<&str>) -> String {
        format!("described {}", user_agent.unwrap_or("unknown"))
    }
}

pub struct AccountsWorld {
    pub accounts: Accounts,
    pub store: Arc<FakeStore>,
    pub clock: Arc<FakeClock>,
    pub passwords: Arc<FakePasswords>,
    pub limiter: Arc<FakeLimiter>,
    pub audit: Arc<FakeAudit>,
    pub key: Arc<ServerKey>,
    pub entropy: Arc<FakeEntropy>,
    pub settings: AccountSettings,
}

pub fn world() -> AccountsWorld {
    world_with(|_| ())
}

/// The use cases over fakes and this store, for the tests of the rooms above.
pub fn over(store: Arc<FakeStore>) -> Accounts {
    world_over(store, |_| ()).accounts
}

pub fn world_with(adjust: impl FnOnce(&mut AccountSettings)) -> AccountsWorld {
    world_over(Arc::new(FakeStore::default()), adjust)
}

/// A world over the store of another one, after a restart with these server keys.
pub fn world_under(store: Arc<FakeStore>, key: ServerKey) -> AccountsWorld {
    world_of(store, key, |_| ())
}

/// The one server key of a world.
pub fn server_key() -> Zeroizing<[u8; 32]> {
    Zeroizing::new([9; 32])
}

/// The world that goes on with this store, as after a restart.
pub fn world_over(store: Arc<FakeStore>, adjust: impl FnOnce(&mut AccountSettings)) -> AccountsWorld {
    world_of(store, ServerKey::new(server_key()), adjust)
}

/// What the worlds are set to.
fn settings() -> AccountSettings {
    AccountSettings {
        access_ttl: Duration::from_secs(1800),
        longest_token: 8192,
        most_signed: 8192,
        lifetimes: Lifetimes {
            sliding: Duration::from_secs(86_400),
            absolute: Duration::from_secs(864_000),
            browser: BROWSER,
        },
        refresh_repeat: REPEAT_WINDOW,
        max_sessions: 3,
        fingerprint: Fingerprint::Note,
        verification: palisade_core::domain::account::Verification::Link,
        registration: palisade_core::domain::account::Registration::Open,
        sends_mail: true,
        tells_app: false,
        revocation_life: Duration::from_secs(90_000),
        guesses: Some(palisade_core::domain::guesses::Guesses::default()),
        letters: Caps { enabled: true, an_hour: 5, a_day: 15 },
    }
}

/// The use cases over fakes and any store, and what looks at their passwords.
pub fn accounts_over(store: Arc<dyn Store>) -> (Accounts, Arc<FakePasswords>) {
    let passwords = Arc::new(FakePasswords::default());
    let ports = AccountPorts {
        store,
        signer: Arc::new(FakeSigner),
        clock: Arc::new(FakeClock::default()),
        entropy: Arc::new(FakeEntropy::default()),
        passwords: passwords.clone(),
        limiter: Arc::new(FakeLimiter::default()),
        audit: Arc::new(FakeAudit::default()),
        devices: Arc::new(FakeDevices),
        key: Arc::new(ServerKey::new(server_key())),
        outbox: Arc::new(Notify::new()),
        holder: LeaseHolder(uuid::Uuid::from_u128(1)),
    };
    (Accounts::new(ports, settings()), passwords)
}

fn world_of(
    store: Arc<FakeStore>,
    key: ServerKey,
    adjust: impl FnOnce(&mut AccountSettings),
) -> AccountsWorld {
    let clock = Arc::new(FakeClock::default());
    let passwords = Arc::new(FakePasswords::default());
    let limiter = Arc::new(FakeLimiter::default());
    let audit = Arc::new(FakeAudit::default());
    let mut settings = settings();
    adjust(&mut settings);
    let entropy = Arc::new(FakeEntropy::default());
    let key = Arc::new(key);
    let ports = AccountPorts {
        store: store.clone(),
        signer: Arc::new(FakeSigner),
        clock: clock.clone(),
        entropy: Arc::clone(&entropy) as _,
        passwords: passwords.clone(),
        limiter: limiter.clone(),
        audit: audit.clone(),
        devices: Arc::new(FakeDevices),
        key: Arc::clone(&key),
        outbox: Arc::new(Notify::new()),
        holder: LeaseHolder(uuid::Uuid::from_u128(1)),
    };
    let accounts = Accounts::new(ports, settings);
    AccountsWorld { accounts, store, clock, passwords, limiter, audit, key, entropy, settings }
}

pub fn client() -> Client {
    from("firefox")
}

pub fn from(agent: &str) -> Client {
    Client { address: [192, 0, 2, 1].into(), user_agent: Some(agent.to_owned()), request_id: "r1".to_owned() }
}

pub fn secret(text: &str) -> SecretString {
    text.to_owned().into()
}

impl AccountsWorld {
    pub async fn register(&self, email: &str) {
        self.accounts.register(&client(), email, secret(PASSWORD), Some("Ann".into())).await.unwrap();
        self.accounts.do_due_tasks().await.unwrap();
    }

    /// Ann, verified.
    pub async fn ann(&self) -> User {
        self.register(ANN).await;
        let token = self.token(Letter::VerifyEmail).await;
        self.accounts.verify_email(&client(), &token).await.unwrap()
    }

    pub async fn login(&self) -> Granted {
        self.accounts.login(&client(), ANN, secret(PASSWORD)).await.unwrap()
    }

    pub async fn letters(&self) -> Vec<(Letter, String)> {
        let mails = self.store.mails(100).await.unwrap();
        mails.into_iter().rev().map(|mail| (mail.letter, mail.to.to_string())).collect()
    }

    pub async fn newest(&self, letter: Letter) -> Mail {
        let mails = self.store.mails(100).await.unwrap();
        mails.into_iter().find(|mail| mail.letter == letter).expect("no such mail")
    }

    /// The token of the newest mail of this kind.
    pub async fn token(&self, letter: Letter) -> String {
        let link = self.newest(letter).await.link.expect("a mail without a link");
        self.key.link_token(link.id).expose_secret().to_owned()
    }

    pub async fn refresh(&self, token: &SecretString) -> Result<Granted, AccountError> {
        self.accounts.refresh(&client(), token.expose_secret()).await
    }

    pub async fn revoked_sessions(&self) -> usize {
        let entries = self.store.recent_revocations(100).await.unwrap();
        entries.iter().filter(|entry| matches!(entry.target, Target::Session { .. })).count()
    }

    pub fn events(&self) -> Vec<(Action, Outcome, Option<String>)> {
        let events = self.audit.0.lock().unwrap();
        events.iter().map(|event| (event.action, event.outcome, event.reason.clone())).collect()
    }

    /// The addresses before and after, as the newest event of this action that has both tells them.
    pub fn addresses(&self, action: Action) -> Option<(String, String)> {
        let events = self.audit.0.lock().unwrap();
        let text = |event: &Event, name: &str| Some(event.details.get(name)?.as_str()?.to_owned());
        let of = |event: &Event| Some((text(event, "email_before")?, text(event, "email_after")?));
        events.iter().rev().filter(|event| event.action == action).find_map(of)
    }
}

pub fn person(granted: &Granted) -> Person {
    Person { user: granted.user.id, session: Some(granted.session) }
}

/// Proof by the session's access token.
pub fn signed_in(granted: &Granted) -> Proof {
    Proof { person: Some(person(granted)), ..Proof::default() }
}

/// Proof by the account's password.
pub fn typed(password: &str) -> Proof {
    Proof { password: Some(secret(password)), ..Proof::default() }
}

/// Changes of an account's address.
impl AccountsWorld {
    /// Asks for another address. Returns the token of the link to it.
    pub async fn ask_for(&self, granted: &Granted, email: &str, password: &str) -> String {
        let edit =
            Edit { email: Some(email.into()), current_password: Some(secret(password)), ..Edit::default() };
        self.accounts.edit_profile(&client(), person(granted), edit).await.unwrap();
        self.accounts.do_due_tasks().await.unwrap();
        self.token(Letter::ConfirmEmail).await
    }

    /// Changes the address. Returns the token of the link that undoes it.
    pub async fn move_to(&self, granted: &Granted, email: &str) -> String {
        let token = self.ask_for(granted, email, PASSWORD).await;
        self.accounts.verify_by(&client(), &token, signed_in(granted)).await.unwrap();
        self.token(Letter::EmailReplaced).await
    }

    pub async fn undo(&self, token: &str) -> Result<(), AccountError> {
        self.accounts.undo_email_change(&client(), token).await
    }

    /// The recipients of the letters of this kind, in the order they were made.
    pub async fn recipients(&self, letter: Letter) -> Vec<String> {
        let letters = self.letters().await.into_iter().filter(|(kind, _)| *kind == letter);
        letters.map(|(_, to)| to).collect()
    }

    pub async fn at(&self, email: &str) -> User {
        self.store.user_by_email(&email.parse().unwrap()).await.unwrap().expect("no such account")
    }

    /// A day passes, and what is due is done.
    pub async fn a_day_later(&self) {
        self.clock.advance(24 * 3600);
        self.accounts.do_due_tasks().await.unwrap();
    }

    pub async fn sign_in(&self, email: &str, password: &str) -> Result<Granted, AccountError> {
        self.accounts.login(&client(), email, secret(password)).await
    }

    pub async fn object(&self, token: &str) -> Result<(), AccountError> {
        self.accounts.object_to_undo(&client(), token).await
    }

    /// Asks for everything that would be mailed to this address.
    pub async fn ask_for_mail(&self, email: &str) {
        self.accounts.request_reset(&client(), email).await.unwrap();
        self.accounts.resend_verification(&client(), email).await.unwrap();
        self.accounts.register(&client(), email, secret(PASSWORD), None).await.unwrap();
        self.accounts.do_due_tasks().await.unwrap();
    }
}

impl AccountsWorld {
    pub fn clock_now(&self) -> u64 {
        self.clock.now().0
    }
}

/// [`Accounts::password_login`] for tests, where a sign-in ends with tokens.
pub trait PasswordLogin {
    /// # Errors
    /// As [`Accounts::password_login`].
    fn login(
        &self,
        client: &Client,
        email: &str,
        password: SecretString,
    ) -> impl Future<Output = Result<Granted, AccountError>> + Send;
}

impl PasswordLogin for Accounts {
    async fn login(
        &self,
        client: &Client,
        email: &str,
        password: SecretString,
    ) -> Result<Granted, AccountError> {
        match self.password_login(client, email, password).await? {
            SignIn::Done(granted) => Ok(*granted),
            SignIn::Challenge(challenge) => match challenge {},
        }
    }
}
