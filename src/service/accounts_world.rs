//! A world of fakes for the stories about accounts: a gateway without a network, a clock that is moved by
//! hand, and Ann. For tests only.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Notify;
use zeroize::Zeroizing;

use super::accounts::{AccountError, Accounts, Client, Granted, Parts, Person, Settings};
use super::fakes::{FakeAudit, FakeClock, FakeEntropy, FakeLimiter, FakePasswords, FakeSigner, FakeStore};
use super::verify_registration::Proof;
use crate::domain::account::User;
use crate::domain::audit::{Action, Event, Outcome};
use crate::domain::mail::{Letter, Mail};
use crate::domain::mail_cap::Caps;
use crate::domain::opaque::ServerKey;
use crate::domain::revocation::Target;
use crate::domain::session::{Device, Fingerprint, Lifetimes};
use crate::ports::{Clock, Devices, Store};

pub(crate) const ANN: &str = "ann@example.com";
pub(crate) const PASSWORD: &str = "correct horse";

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

pub(crate) struct World {
    pub(crate) accounts: Accounts,
    pub(crate) store: Arc<FakeStore>,
    pub(crate) clock: Arc<FakeClock>,
    pub(crate) passwords: Arc<FakePasswords>,
    pub(crate) limiter: Arc<FakeLimiter>,
    pub(crate) audit: Arc<FakeAudit>,
}

pub(crate) fn world() -> World {
    world_with(|_| ())
}

/// The use cases over fakes and this store, for the tests of the rooms above.
pub(crate) fn over(store: Arc<FakeStore>) -> Accounts {
    world_over(store, |_| ()).accounts
}

pub(crate) fn world_with(adjust: impl FnOnce(&mut Settings)) -> World {
    world_over(Arc::new(FakeStore::default()), adjust)
}

fn world_over(store: Arc<FakeStore>, adjust: impl FnOnce(&mut Settings)) -> World {
    let clock = Arc::new(FakeClock::default());
    let passwords = Arc::new(FakePasswords::default());
    let limiter = Arc::new(FakeLimiter::default());
    let audit = Arc::new(FakeAudit::default());
    let mut settings = Settings {
        access_ttl: Duration::from_secs(1800),
        longest_token: 8192,
        lifetimes: Lifetimes { sliding: Duration::from_secs(86_400), absolute: Duration::from_secs(864_000) },
        max_sessions: 3,
        fingerprint: Fingerprint::Note,
        verification: crate::domain::account::Verification::Link,
        revocation_life: Duration::from_secs(90_000),
        letters: Caps { enabled: true, an_hour: 5, a_day: 15 },
    };
    adjust(&mut settings);
    let accounts = Accounts::new(Parts {
        store: store.clone(),
        signer: Arc::new(FakeSigner),
        clock: clock.clone(),
        entropy: Arc::new(FakeEntropy::default()),
        passwords: passwords.clone(),
        limiter: limiter.clone(),
        audit: audit.clone(),
        devices: Arc::new(FakeDevices),
        forms: std::sync::Mutex::default(),
        key: Arc::new(ServerKey::new(Zeroizing::new([9; 32]))),
        tasks: Arc::new(Notify::new()),
        outbox: Arc::new(Notify::new()),
        settings,
    });
    World { accounts, store, clock, passwords, limiter, audit }
}

pub(crate) fn client() -> Client {
    from("firefox")
}

pub(crate) fn from(agent: &str) -> Client {
    Client { address: [192, 0, 2, 1].into(), user_agent: Some(agent.to_owned()), request_id: "r1".to_owned() }
}

pub(crate) fn secret(text: &str) -> SecretString {
    text.to_owned().into()
}

impl World {
    pub(crate) async fn register(&self, email: &str) {
        self.accounts.register(&client(), email, secret(PASSWORD), Some("Ann".into())).await.unwrap();
        self.accounts.do_due_tasks().await.unwrap();
    }

    /// Ann, verified.
    pub(crate) async fn ann(&self) -> User {
        self.register(ANN).await;
        let token = self.token(Letter::VerifyEmail).await;
        self.accounts.verify_email(&client(), &token).await.unwrap()
    }

    pub(crate) async fn login(&self) -> Granted {
        self.accounts.login(&client(), ANN, secret(PASSWORD)).await.unwrap()
    }

    pub(crate) async fn letters(&self) -> Vec<(Letter, String)> {
        let mails = self.store.mails(100).await.unwrap();
        mails.into_iter().rev().map(|mail| (mail.letter, mail.to.to_string())).collect()
    }

    pub(crate) async fn newest(&self, letter: Letter) -> Mail {
        let mails = self.store.mails(100).await.unwrap();
        mails.into_iter().find(|mail| mail.letter == letter).expect("no such mail")
    }

    /// The token of the newest mail of this kind.
    pub(crate) async fn token(&self, letter: Letter) -> String {
        let link = self.newest(letter).await.link.expect("a mail without a link");
        self.accounts.key.link_token(link.id).expose_secret().to_owned()
    }

    pub(crate) async fn refresh(&self, token: &SecretString) -> Result<Granted, AccountError> {
        self.accounts.refresh(&client(), token.expose_secret()).await
    }

    pub(crate) async fn revoked_sessions(&self) -> usize {
        let entries = self.store.recent_revocations(100).await.unwrap();
        entries.iter().filter(|entry| matches!(entry.target, Target::Session { .. })).count()
    }

    pub(crate) fn events(&self) -> Vec<(Action, Outcome, Option<String>)> {
        let events = self.audit.0.lock().unwrap();
        events.iter().map(|event| (event.action, event.outcome, event.reason.clone())).collect()
    }

    /// The addresses before and after, as the newest event of this action that has both tells them.
    pub(crate) fn addresses(&self, action: Action) -> Option<(String, String)> {
        let events = self.audit.0.lock().unwrap();
        let text = |event: &Event, name: &str| Some(event.details.get(name)?.as_str()?.to_owned());
        let of = |event: &Event| Some((text(event, "email_before")?, text(event, "email_after")?));
        events.iter().rev().filter(|event| event.action == action).find_map(of)
    }
}

pub(crate) fn person(granted: &Granted) -> Person {
    Person { user: granted.user.id, session: Some(granted.session) }
}

/// Proof by the session's access token.
pub(crate) fn signed_in(granted: &Granted) -> Proof {
    Proof { person: Some(person(granted)), ..Proof::default() }
}

/// Proof by the account's password.
pub(crate) fn typed(password: &str) -> Proof {
    Proof { password: Some(secret(password)), ..Proof::default() }
}

impl World {
    pub(crate) fn clock_now(&self) -> u64 {
        self.clock.now().0
    }
}
