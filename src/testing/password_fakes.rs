//! A fake of what hashes passwords, for tests only.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};

use palisade_core::domain::account::PasswordHash;
use palisade_core::domain::hash_cost::HashCosts;
use palisade_core::domain::password::{Guessed, MIN_GUESSES, PasswordOwner, PasswordPolicy, Violation};
use palisade_core::ports::{Busy, Checked, NotImported, Passwords, Requester};

/// A password that a guesser comes to too soon.
pub const GUESSABLE: &str = "easily guessed";

/// "Hashes" by writing `hash:` in front. One that begins with `old:` is out of date.
#[derive(Default)]
pub struct FakePasswords {
    /// Answers [`Busy`].
    pub busy: AtomicBool,
    /// The requesters.
    pub requesters: Mutex<Vec<Requester>>,
    pub costs: Mutex<HashCosts>,
    /// What happens, once, while a password is held against a hash.
    pub meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl FakePasswords {
    fn free(&self, requester: Requester) -> Result<(), Busy> {
        self.requesters.lock().unwrap().push(requester);
        match self.busy.load(Ordering::Relaxed) {
            true => Err(Busy { retry_after: Duration::from_secs(1) }),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Passwords for FakePasswords {
    async fn hash(&self, password: SecretString, requester: Requester) -> Result<PasswordHash, Busy> {
        self.free(requester)?;
        Ok(PasswordHash(format!("hash:{}", password.expose_secret())))
    }

    async fn check(
        &self,
        password: SecretString,
        hash: Option<&PasswordHash>,
        requester: Requester,
    ) -> Result<Checked, Busy> {
        self.free(requester)?;
        let meanwhile = self.meanwhile.lock().unwrap().take();
        meanwhile.into_iter().for_each(|happens| happens());
        let stored = hash.and_then(|hash| hash.0.split_once(':'));
        Ok(Checked {
            matches: stored.is_some_and(|(_, kept)| kept == password.expose_secret()),
            needs_rehash: stored.is_some_and(|(form, _)| form == "old"),
        })
    }

    fn policy(&self) -> PasswordPolicy {
        PasswordPolicy::Composition
    }

    async fn guessed(
        &self,
        password: SecretString,
        _: PasswordOwner<'_>,
        _: Requester,
    ) -> Result<Option<Guessed>, Busy> {
        Ok((password.expose_secret() == GUESSABLE).then_some(Guessed::Common))
    }

    fn min_guesses(&self) -> u64 {
        MIN_GUESSES
    }

    fn violations(&self, password: &str, _: PasswordOwner<'_>) -> Vec<Violation> {
        if password.len() < 8 { vec![Violation::TooShort] } else { Vec::new() }
    }

    fn generate(&self) -> SecretString {
        "generated".into()
    }

    fn import(&self, hash: &PasswordHash) -> Result<PasswordHash, NotImported> {
        match hash.0.split_once(':') {
            Some(("dear", _)) => Err(NotImported::TooDear { cost: 15, most: 14 }),
            Some(_) => Ok(hash.clone()),
            None => Err(NotImported::Unknown),
        }
    }

    fn count(&self, hash: &PasswordHash, costs: &mut HashCosts) {
        costs.add(kind(hash));
    }

    fn counted(&self, costs: HashCosts) {
        *self.costs.lock().unwrap() = costs;
    }

    fn changed(&self, before: Option<&PasswordHash>, after: Option<&PasswordHash>) {
        let mut costs = self.costs.lock().unwrap();
        before.into_iter().for_each(|hash| costs.remove(kind(hash)));
        after.into_iter().for_each(|hash| costs.add(kind(hash)));
    }
}

/// One that begins with `old:` is dear.
fn kind(hash: &PasswordHash) -> Option<&'static str> {
    hash.0.starts_with("old:").then_some("dear")
}
