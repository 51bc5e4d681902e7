//! A world of fakes for the stories about connections: Ann, the provider Acme, and no network. For tests only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::sync::Notify;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::accounts_world::{ANN, client};
use crate::connection_fakes::{ACME, FakeProviders, FakeVault, FakeWebhook};
use crate::fakes::{FakeAudit, FakeClock, FakeEntropy, FakeLimiter, FakeStore, NOW};
use palisade_core::domain::account::{User, UserId};
use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::domain::connection::{Connection, ConnectionId};
use palisade_core::domain::identity::Identity;
use palisade_core::domain::mail::Letter;
use palisade_core::domain::opaque::ServerKey;
use palisade_core::domain::route::Require;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, Clock, Entropy, Store};
use palisade_core::service::caller::Person;
use palisade_core::service::connections::{
    Begin, BegunConsent, Callback, ConnectionError, ConnectionPorts, ConnectionSettings, Connections,
    ProviderSettings, ProviderToken, Returned, Waits,
};

pub const RETURN_TO: &str = "https://app.test/settings?tab=banks";

/// Everything that outlives a run of the program.
pub struct Fakes {
    pub store: Arc<FakeStore>,
    pub providers: Arc<FakeProviders>,
    pub vault: Arc<FakeVault>,
    pub webhook: Arc<FakeWebhook>,
    pub clock: Arc<FakeClock>,
    pub limiter: Arc<FakeLimiter>,
    pub audit: Arc<FakeAudit>,
    entropy: Arc<FakeEntropy>,
    pub ann: Person,
}

pub struct ConnectionsWorld {
    pub connections: Connections,
    fakes: Fakes,
}

impl std::ops::Deref for ConnectionsWorld {
    type Target = Fakes;

    fn deref(&self) -> &Fakes {
        &self.fakes
    }
}

pub fn settings() -> ConnectionSettings {
    let acme = ProviderSettings { scopes: Vec::new(), token_access: Some(Require::default()) };
    ConnectionSettings {
        callback_url: "https://us.test/auth/connections/callback".to_owned(),
        return_to: vec![RETURN_TO.to_owned()],
        refresh_ahead: Duration::from_secs(300),
        keep_fresh: true,
        warn_ahead: Duration::from_secs(2 * 24 * 3600),
        providers: BTreeMap::from([(ACME.to_owned(), acme)]),
    }
}

/// Ann has an account, and no connection yet.
pub async fn world() -> ConnectionsWorld {
    let ann = UserId(Uuid::from_u128(0xa << 64));
    let fakes = Fakes {
        store: Arc::default(),
        providers: Arc::new(FakeProviders::open()),
        vault: Arc::default(),
        webhook: Arc::default(),
        clock: Arc::default(),
        limiter: Arc::default(),
        audit: Arc::default(),
        entropy: Arc::default(),
        ann: Person { user: ann, session: None },
    };
    fakes.store.commit(vec![Change::CreateUser(user(ann))]).await.unwrap();
    ConnectionsWorld { connections: fakes.run(PATIENCE), fakes }
}

/// As long as nothing hangs, no caller waits for so long.
const PATIENCE: Duration = Duration::from_secs(60);

impl Fakes {
    /// A run of the program over what there is.
    fn run(&self, patience: Duration) -> Connections {
        self.store.end_leases();
        Connections::with_waits(self.ports(), settings(), Waits { pauses: &[Duration::ZERO; 2], patience })
    }

    fn ports(&self) -> ConnectionPorts {
        ConnectionPorts {
            store: Arc::clone(&self.store) as _,
            providers: Arc::clone(&self.providers) as _,
            vault: Arc::clone(&self.vault) as _,
            webhook: Arc::clone(&self.webhook) as _,
            clock: Arc::clone(&self.clock) as _,
            entropy: Arc::clone(&self.entropy) as _,
            limiter: Arc::clone(&self.limiter) as _,
            audit: Arc::clone(&self.audit) as _,
            key: Arc::new(ServerKey::new(Zeroizing::new([9; 32]))),
            outbox: Arc::new(Notify::new()),
            issuer: "https://us.test".to_owned(),
            run: self.entropy.uuid(),
        }
    }
}

fn user(id: UserId) -> User {
    User { email_verified: true, name: Some("Ann".to_owned()), ..User::new(id, ANN.parse().unwrap(), NOW) }
}

/// The caller with an access token of `user`.
pub fn identity(user: UserId) -> Identity {
    Identity {
        issuer: "https://us.test".into(),
        subject: user.to_string(),
        email: None,
        email_verified: false,
        session: None,
        token_id: None,
        version: None,
        scopes: Vec::new(),
        issued_at: NOW,
        expires_at: UnixTime::NEVER,
        claims: serde_json::Map::new(),
    }
}

pub fn acme() -> Begin {
    Begin { provider: ACME.to_owned(), return_to: Some(RETURN_TO.to_owned()), ..Begin::default() }
}

impl ConnectionsWorld {
    /// Another run of the program over the same store: nothing in memory is left.
    pub fn restart(&mut self) {
        self.connections = self.fakes.run(PATIENCE);
    }

    /// Another run, which waits as long as the program does.
    pub fn be_real(&mut self) {
        self.fakes.store.end_leases();
        self.connections = Connections::new(self.fakes.ports(), settings());
    }

    /// Another gateway over the same store, beside the one that runs.
    pub fn another(&self) -> Connections {
        Connections::new(self.fakes.ports(), settings())
    }

    /// From now on a caller with a good token waits for no other.
    pub fn be_impatient(&mut self) {
        self.connections = self.fakes.run(Duration::ZERO);
    }

    pub fn set(&self, edit: impl FnOnce(&mut ConnectionSettings)) {
        let mut settings = (*self.connections.settings()).clone();
        edit(&mut settings);
        self.connections.apply(settings);
    }

    pub async fn begin(&self, begin: Begin) -> Result<BegunConsent, ConnectionError> {
        self.connections.begin(&client(), self.ann, begin).await
    }

    /// What Ann's browser brings back from the consent that was begun last.
    pub fn coming_back(&self, begun: &BegunConsent, parameters: &[(&str, &str)]) -> Callback {
        Callback {
            state: self.providers.states.lock().unwrap().last().unwrap().clone(),
            browser: begun.browser.clone(),
            parameters: parameters
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).into()))
                .collect(),
        }
    }

    pub async fn come_back(&self, begun: &BegunConsent) -> Result<Returned, ConnectionError> {
        self.connections.callback(&client(), self.coming_back(begun, &[("code", "c0de")])).await
    }

    /// Ann connects Acme.
    pub async fn connect(&self, begin: Begin) -> ConnectionId {
        let begun = self.begin(begin).await.unwrap();
        let returned = self.come_back(&begun).await.unwrap();
        assert_eq!(returned.outcome, Ok(()));
        returned.connection
    }

    pub async fn token(&self, id: ConnectionId) -> Result<ProviderToken, ConnectionError> {
        self.connections.provider_token(&client(), &identity(self.ann.user), id).await
    }

    /// The access token that Ann's app gets.
    pub async fn access(&self, id: ConnectionId) -> String {
        self.token(id).await.unwrap().access_token.expose_secret().to_owned()
    }

    pub async fn stored(&self, id: ConnectionId) -> Connection {
        self.store.connection(self.ann.user, id).await.unwrap().expect("no such connection")
    }

    /// Until so many wait for their turn with it, or have it.
    pub async fn queued(&self, id: ConnectionId, count: usize) {
        let waiting = async {
            while self.connections.queued(id) < count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting)
            .await
            .expect("they do not wait for one another");
    }

    /// What is sealed in the store, in the clear.
    pub async fn sealed(&self, id: ConnectionId) -> Vec<String> {
        let tokens = self.stored(id).await.tokens.expect("no tokens");
        let envelopes = [Some(tokens.access_token), tokens.refresh_token, tokens.id_token, tokens.kept];
        let secret = |envelope: String| envelope.splitn(3, '|').nth(2).unwrap().to_owned();
        envelopes.into_iter().flatten().map(secret).collect()
    }

    pub async fn letters(&self) -> Vec<Letter> {
        self.store.mails(100).await.unwrap().into_iter().rev().map(|mail| mail.letter).collect()
    }

    /// The kinds of the notices that the app got once every errand that is due was done.
    pub async fn sent_notices(&self) -> Vec<String> {
        while self.connections.do_due_notices().await.unwrap() {}
        while self.connections.end_due_grants().await.unwrap() {}
        let kind =
            |body: &str| serde_json::from_str::<Value>(body).unwrap()["type"].as_str().unwrap().to_owned();
        self.webhook.notices.lock().unwrap().iter().map(|notice| kind(&notice.body)).collect()
    }

    pub fn events(&self) -> Vec<(Action, Outcome, Option<String>)> {
        let events = self.audit.0.lock().unwrap();
        events.iter().map(|event| (event.action, event.outcome, event.reason.clone())).collect()
    }

    pub fn count(&self, action: Action, outcome: Outcome) -> usize {
        self.events().iter().filter(|event| (event.0, event.1) == (action, outcome)).count()
    }

    /// Does all that becomes due until `seconds` from now.
    pub async fn live(&self, seconds: u64) {
        let end = self.clock.now().plus(Duration::from_secs(seconds));
        loop {
            while self.connections.do_due_connections().await.unwrap() {}
            let mine = self.store.connections(self.ann.user).await.unwrap();
            let next = mine.iter().filter_map(|one| one.due_at).min().filter(|at| *at <= end);
            let Some(next) = next else { break };
            let now = self.clock.now();
            assert!(next > now, "something is due and is not done");
            self.clock.advance(now.until(next).as_secs());
        }
        let now = self.clock.now();
        self.clock.advance(now.until(end).as_secs());
    }
}

pub fn secret(text: &str) -> SecretString {
    text.to_owned().into()
}
