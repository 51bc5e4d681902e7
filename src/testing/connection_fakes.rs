//! Fakes of what connections need: a provider that rotates refresh tokens as strictly as real ones do, a vault
//! that marks its envelopes, and an app that is told things. For tests only.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::FutureExt;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Notify, Semaphore};

use palisade_core::domain::connection::Account;
use palisade_core::ports::*;

/// The name of the provider that every test has.
pub const ACME: &str = "acme";

/// What a provider keeps of a grant.
struct Granted {
    /// The place of the refresh token that is good; `None`: the grant has ended.
    current: Option<usize>,
    subject: String,
}

/// A provider with refresh tokens for one use: `r0.3` is the fourth of the first grant. A replay of one ends its
/// grant.
pub struct FakeProviders {
    pub infos: Mutex<Vec<ProviderInfo>>,
    grants: Mutex<Vec<Granted>>,
    /// What goes wrong at the next call of this name, instead of anything else.
    faults: Mutex<VecDeque<(&'static str, ProviderFault)>>,
    /// The answer to the next refresh gets lost, though the provider has made it.
    pub lose: AtomicBool,
    /// The account at the provider that the next grant is of.
    pub subject: Mutex<String>,
    pub unattended: AtomicBool,
    pub url: Mutex<String>,
    /// What the next grants say beside the tokens.
    pub life: Mutex<(Option<u64>, Option<u64>)>,
    pub scopes: Mutex<Option<Vec<String>>>,
    pub notes: Mutex<Vec<String>>,
    pub calls: Mutex<Vec<(&'static str, ProviderCall)>>,
    /// The challenges of authorizations, and the verifiers of exchanges.
    pub pkce: Mutex<Vec<(String, String)>>,
    pub states: Mutex<Vec<String>>,
    /// One permit lets one refresh or exchange go on.
    pub gate: Semaphore,
    /// What another caller does while the next authorization is made up.
    pub meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// Rung at the beginning of each of them.
    pub begun: Notify,
    pub refreshes: AtomicUsize,
    /// This provider does not answer a refresh within twenty seconds.
    pub silent: Mutex<Option<&'static str>>,
}

pub fn info(name: &str) -> ProviderInfo {
    ProviderInfo {
        name: name.to_owned(),
        display_name: "Acme Bank".to_owned(),
        scopes: vec!["plugin.read".to_owned()],
        parameters: Vec::new(),
        docs: None,
        can_refresh: true,
        can_revoke: true,
        can_identify: true,
    }
}

impl FakeProviders {
    /// One that answers at once.
    pub fn open() -> FakeProviders {
        let providers = FakeProviders {
            infos: Mutex::new(vec![info(ACME)]),
            grants: Mutex::default(),
            faults: Mutex::default(),
            lose: AtomicBool::default(),
            subject: Mutex::new("ann-at-acme".to_owned()),
            unattended: AtomicBool::default(),
            url: Mutex::new("https://acme.test/authorize".to_owned()),
            life: Mutex::new((Some(3600), None)),
            scopes: Mutex::default(),
            notes: Mutex::default(),
            calls: Mutex::default(),
            pkce: Mutex::default(),
            states: Mutex::default(),
            gate: Semaphore::new(0),
            meanwhile: Mutex::default(),
            begun: Notify::new(),
            refreshes: AtomicUsize::default(),
            silent: Mutex::default(),
        };
        providers.gate.add_permits(Semaphore::MAX_PERMITS / 2);
        providers
    }

    /// From now on no call goes on without a permit, and calls that began before are forgotten.
    pub fn close_gate(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
        let _ = self.begun.notified().now_or_never();
    }

    pub fn fail(&self, verb: &'static str, fault: ProviderFault) {
        self.faults.lock().unwrap().push_back((verb, fault));
    }

    /// Nothing that was to fail fails any more.
    pub fn forgive(&self) {
        self.faults.lock().unwrap().clear();
    }

    pub fn edit_info(&self, edit: impl FnOnce(&mut ProviderInfo)) {
        edit(&mut self.infos.lock().unwrap()[0]);
    }

    pub fn count(&self, verb: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|(called, _)| *called == verb).count()
    }

    pub fn last(&self, verb: &str) -> ProviderCall {
        let calls = self.calls.lock().unwrap();
        calls.iter().rev().find(|(called, _)| *called == verb).expect("no such call").1.clone()
    }

    /// The live grants, by number.
    pub fn live(&self) -> Vec<usize> {
        let grants = self.grants.lock().unwrap();
        (0..grants.len()).filter(|number| grants[*number].current.is_some()).collect()
    }

    async fn enter(&self, verb: &'static str, call: ProviderCall) -> Result<(), ProviderFault> {
        self.calls.lock().unwrap().push((verb, call));
        if verb == "refresh" || verb == "exchange" {
            self.begun.notify_one();
            self.gate.acquire().await.unwrap().forget();
        }
        let mut faults = self.faults.lock().unwrap();
        let next = faults.iter().position(|(failing, _)| *failing == verb);
        next.and_then(|next| faults.remove(next)).map_or(Ok(()), |(_, fault)| Err(fault))
    }

    fn tokens(&self, grant: usize, place: usize) -> GrantedTokens {
        let (expires_in, refresh_expires_in) = *self.life.lock().unwrap();
        GrantedTokens {
            access_token: format!("a{grant}.{place}").into(),
            token_type: None,
            expires_in: expires_in.map(Duration::from_secs),
            refresh_token: Some(format!("r{grant}.{place}").into()),
            refresh_expires_in: refresh_expires_in.map(Duration::from_secs),
            scopes: self.scopes.lock().unwrap().clone(),
            id_token: None,
            keep: BTreeMap::from([("realm".to_owned(), format!("realm-{grant}").into())]),
            notes: self.notes.lock().unwrap().clone(),
        }
    }
}

/// `r0.3` or `a0.3` as `(0, 3)`.
fn numbers(token: &str) -> Option<(usize, usize)> {
    let (grant, place) = token.get(1..)?.split_once('.')?;
    Some((grant.parse().ok()?, place.parse().ok()?))
}

#[async_trait]
impl Providers for FakeProviders {
    fn list(&self) -> Vec<ProviderInfo> {
        self.infos.lock().unwrap().clone()
    }

    fn get(&self, provider: &str) -> Option<ProviderInfo> {
        self.infos.lock().unwrap().iter().find(|info| info.name == provider).cloned()
    }

    fn fault(&self, provider: &str) -> Option<String> {
        self.get(provider).is_none().then(|| "a fake reason".to_owned())
    }

    async fn authorize(
        &self,
        call: ProviderCall,
        state: &SecretString,
        pkce: &Pkce,
    ) -> Result<Authorization, ProviderFault> {
        self.enter("authorize", call).await?;
        if let Some(meanwhile) = self.meanwhile.lock().unwrap().take() {
            meanwhile();
        }
        self.states.lock().unwrap().push(state.expose_secret().to_owned());
        self.pkce.lock().unwrap().push((pkce.challenge.clone(), pkce.verifier.expose_secret().to_owned()));
        if self.unattended.load(Ordering::Relaxed) {
            return Ok(Authorization::Unattended);
        }
        Ok(Authorization::Visit(self.url.lock().unwrap().clone()))
    }

    async fn exchange(
        &self,
        call: ProviderCall,
        _: Vec<(String, SecretString)>,
        pkce: &Pkce,
    ) -> Result<GrantedTokens, ProviderFault> {
        self.pkce.lock().unwrap().push((pkce.challenge.clone(), pkce.verifier.expose_secret().to_owned()));
        self.enter("exchange", call).await?;
        let mut grants = self.grants.lock().unwrap();
        grants.push(Granted { current: Some(0), subject: self.subject.lock().unwrap().clone() });
        Ok(self.tokens(grants.len() - 1, 0))
    }

    async fn refresh(
        &self,
        call: ProviderCall,
        current: CurrentTokens,
    ) -> Result<GrantedTokens, ProviderFault> {
        self.refreshes.fetch_add(1, Ordering::Relaxed);
        let is_silent = *self.silent.lock().unwrap() == Some(&*call.provider);
        if is_silent {
            self.calls.lock().unwrap().push(("refresh", call));
            tokio::time::sleep(Duration::from_secs(20)).await;
            let reason = "the provider did not answer in time".to_owned();
            return Err(ProviderFault::Transient { reason, retry_after: None });
        }
        self.enter("refresh", call).await?;
        let presented = current.refresh_token.expect("a refresh without a refresh token");
        let (number, place) = numbers(presented.expose_secret()).expect("not a token of this provider");
        let mut grants = self.grants.lock().unwrap();
        let grant = &mut grants[number];
        if grant.current != Some(place) {
            grant.current = None;
            return Err(ProviderFault::InvalidGrant("the refresh token was used before".to_owned()));
        }
        grant.current = Some(place + 1);
        if self.lose.swap(false, Ordering::Relaxed) {
            return Err(ProviderFault::Transient {
                reason: "no answer in time".to_owned(),
                retry_after: None,
            });
        }
        Ok(self.tokens(number, place + 1))
    }

    async fn revoke(&self, call: ProviderCall, current: CurrentTokens) -> Result<(), ProviderFault> {
        self.enter("revoke", call).await?;
        let presented = current.refresh_token.expect("a grant without a refresh token");
        let (number, place) = numbers(presented.expose_secret()).expect("not a token of this provider");
        let mut grants = self.grants.lock().unwrap();
        let Some(grant) = grants.get_mut(number) else {
            return Err(ProviderFault::InvalidGrant("not one of ours".to_owned()));
        };
        assert_eq!(grant.current, Some(place), "revoked with a token that was replaced");
        grant.current = None;
        Ok(())
    }

    async fn identity(
        &self,
        call: ProviderCall,
        current: CurrentTokens,
    ) -> Result<Option<Account>, ProviderFault> {
        self.enter("identity", call).await?;
        let number = numbers(current.access_token.expose_secret()).map(|(number, _)| number);
        let subject = match number {
            Some(number) if number < self.grants.lock().unwrap().len() => {
                self.grants.lock().unwrap()[number].subject.clone()
            }
            _ => self.subject.lock().unwrap().clone(),
        };
        Ok(Some(Account { subject, email: None, email_verified: false, name: None }))
    }
}

/// An envelope is the key, the place and the secret, side by side.
pub struct FakeVault {
    /// The present key, and those that open.
    pub keys: Mutex<Vec<String>>,
}

impl Default for FakeVault {
    fn default() -> FakeVault {
        FakeVault { keys: Mutex::new(vec!["k1".to_owned()]) }
    }
}

fn mark(place: Place<'_>) -> String {
    format!("{}/{}/{}", place.user, place.connection, place.field)
}

impl Vault for FakeVault {
    fn seal(&self, place: Place<'_>, secret: &SecretString) -> String {
        format!("{}|{}|{}", self.keys.lock().unwrap()[0], mark(place), secret.expose_secret())
    }

    fn open(&self, place: Place<'_>, envelope: &str) -> Result<SecretString, VaultError> {
        let mut parts = envelope.splitn(3, '|');
        let (key, marked) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if !self.keys.lock().unwrap().iter().any(|known| known == key) {
            return Err(VaultError::UnknownKey(key.to_owned()));
        }
        if marked != mark(place) {
            return Err(VaultError::Damaged);
        }
        Ok(parts.next().unwrap_or_default().into())
    }

    fn is_current(&self, envelope: &str) -> bool {
        envelope.split('|').next() == self.keys.lock().unwrap().first().map(String::as_str)
    }
}

/// Takes notices, or not.
#[derive(Default)]
pub struct FakeWebhook {
    pub down: AtomicBool,
    /// It never answers.
    pub silent: AtomicBool,
    /// Every try.
    pub notices: Mutex<Vec<Notice>>,
    /// What was taken.
    pub taken: Mutex<Vec<Notice>>,
}

#[async_trait]
impl Webhook for FakeWebhook {
    async fn deliver(&self, notice: &Notice) -> Result<(), String> {
        self.notices.lock().unwrap().push(notice.clone());
        if self.silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if self.down.load(Ordering::Relaxed) {
            return Err("503".to_owned());
        }
        self.taken.lock().unwrap().push(notice.clone());
        Ok(())
    }
}
