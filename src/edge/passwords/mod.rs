//! Passwords: hashed by bcrypt on threads of their own, judged by the policy, made up at random. The only
//! room that names `bcrypt`.
//!
//! No password leaves this room, and every copy that is made here is overwritten.

mod common;
mod generate;
mod hash;
mod pool;

use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};

use self::hash::Kept;
use self::pool::Pool;
use crate::config;
use crate::domain::account::PasswordHash;
use crate::domain::email::EmailAddress;
use crate::domain::password::{Policy, Violation};
use crate::ports::{Busy, Checked, Entropy, Meter, Passwords};

/// The policy, and the threads that hash.
pub struct BcryptPasswords {
    policy: Policy,
    cost: u32,
    /// Held against where there is no hash: the same steps, and nothing matches it.
    decoy: PasswordHash,
    pool: Pool,
    entropy: Arc<dyn Entropy>,
}

impl BcryptPasswords {
    /// Starts the threads.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(
        settings: &config::Passwords,
        entropy: Arc<dyn Entropy>,
        meter: Arc<dyn Meter>,
    ) -> io::Result<BcryptPasswords> {
        let cost = clamp(settings.bcrypt_cost);
        let threads = match settings.threads {
            0 => default_threads(),
            threads => threads,
        };
        // What a core of today takes; it is measured from the first password on.
        let usual = Duration::from_micros(60 << cost);
        let pool = Pool::start(threads, usual, meter)?;
        Ok(BcryptPasswords { policy: settings.policy, cost, decoy: hash::decoy(cost), pool, entropy })
    }
}

/// One core is left to the proxy, where there are two.
fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1)).max(1)
}

fn clamp(cost: u32) -> u32 {
    cost.clamp(*hash::COSTS.start(), *hash::COSTS.end())
}

#[async_trait]
impl Passwords for BcryptPasswords {
    async fn hash(&self, password: SecretString) -> Result<PasswordHash, Busy> {
        let (cost, salt) = (self.cost, salt(&*self.entropy));
        self.pool.run(move || hash::make(password.expose_secret(), cost, salt)).await
    }

    async fn check(&self, password: SecretString, hash: Option<&PasswordHash>) -> Result<Checked, Busy> {
        let cost = self.cost;
        let kept = readable(hash.unwrap_or(&self.decoy), cost);
        if kept.is_none() {
            tracing::warn!("an account's password hash is in no form that can be checked");
        }
        let exists = hash.is_some();
        let checked =
            self.pool.run(move || hash::check(password.expose_secret(), kept.as_ref(), cost)).await?;
        Ok(Checked { matches: checked.matches && exists, needs_rehash: checked.needs_rehash && exists })
    }

    fn policy(&self) -> Policy {
        self.policy
    }

    fn violations(&self, password: &str, email: Option<&EmailAddress>, name: Option<&str>) -> Vec<Violation> {
        self.policy.violations(password, email, name, &common::is_common)
    }

    fn generate(&self) -> SecretString {
        generate::password(&*self.entropy)
    }

    fn is_known(&self, hash: &PasswordHash) -> bool {
        readable(hash, self.cost).is_some()
    }
}

fn salt(entropy: &dyn Entropy) -> [u8; 16] {
    let mut salt = [0; 16];
    entropy.fill(&mut salt);
    salt
}

/// The hash, when it is in a form that is checked where new ones have `cost`, and asks for no absurd work.
fn readable(hash: &PasswordHash, cost: u32) -> Option<Kept> {
    Kept::read(hash).filter(|kept| kept.cost <= hash::ceiling(cost))
}

/// The hash of `password` as the gateway would keep it, here and now: for commands, not for requests.
#[must_use]
pub fn hash_now(password: &str, cost: u32, entropy: &dyn Entropy) -> PasswordHash {
    hash::make(password, clamp(cost), salt(entropy))
}

/// Whether `password` is that of `hash`, here and now; `None` when the gateway could not check it, where
/// new hashes have `cost`.
#[must_use]
pub fn check_now(password: &str, hash: &PasswordHash, cost: u32) -> Option<Checked> {
    readable(hash, clamp(cost)).map(|kept| hash::check(password, Some(&kept), clamp(cost)))
}

/// A random password that every policy takes.
#[must_use]
pub fn generate(entropy: &dyn Entropy) -> SecretString {
    generate::password(entropy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::passwords::hash::READ;
    use crate::service::fakes::FakeEntropy;

    struct Silent;

    impl Meter for Silent {
        fn ended(&self, _: &crate::ports::Ended<'_>) {}
        fn token_cache(&self, _: bool) {}
        fn store_call(&self, _: &'static str, _: Duration, _: bool) {}
        fn mail(&self, _: &'static str) {}
        fn password(&self, _: Duration, _: Duration) {}
        fn jwks_fetch(&self, _: &str, _: bool) {}
        fn provider_call(&self, _: &str, _: &'static str, _: &'static str, _: Duration) {}
        fn provider_request(&self, _: &str, _: &'static str) {}
        fn plugin_reload(&self, _: &str, _: &'static str) {}
    }

    fn passwords(policy: Policy) -> BcryptPasswords {
        let settings = config::Passwords { policy, bcrypt_cost: 4, threads: 2 };
        BcryptPasswords::start(&settings, Arc::new(FakeEntropy::default()), Arc::new(Silent)).unwrap()
    }

    const NO: Checked = Checked { matches: false, needs_rehash: false };

    #[tokio::test]
    async fn what_was_hashed_is_checked() {
        let passwords = passwords(Policy::Composition);
        for length in [1, READ, READ + 1, 1024] {
            let password = || SecretString::from("p".repeat(length));
            let hash = passwords.hash(password()).await.unwrap();
            assert!(passwords.is_known(&hash));
            let right = passwords.check(password(), Some(&hash)).await.unwrap();
            assert_eq!(right, Checked { matches: true, needs_rehash: false });
            assert_eq!(passwords.check("q".into(), Some(&hash)).await.unwrap(), NO);
            // Each has a salt of its own.
            assert_ne!(hash.0, passwords.hash(password()).await.unwrap().0);
        }
    }

    #[tokio::test]
    async fn nothing_and_nonsense_match_nothing() {
        let passwords = passwords(Policy::Composition);
        for password in ["", "secret", &"x".repeat(100_000)] {
            assert_eq!(passwords.check(password.into(), None).await.unwrap(), NO);
            for odd in [
                "",
                "*",
                "$2b$04$",
                "\u{1f511}",
                "$2x$04$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
            ] {
                let odd = PasswordHash(odd.into());
                assert_eq!(passwords.check(password.into(), Some(&odd)).await.unwrap(), NO);
                assert!(!passwords.is_known(&odd));
            }
        }
    }

    #[tokio::test]
    async fn a_hash_of_absurd_cost_is_not_tried() {
        let passwords = passwords(Policy::Composition);
        let of_cost = |cost: u32| {
            PasswordHash(format!("$2b${cost:02}$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"))
        };
        assert!(passwords.is_known(&of_cost(15)));
        for cost in [16, 31] {
            assert!(!passwords.is_known(&of_cost(cost)));
            // Would take minutes, or days.
            assert_eq!(passwords.check("U*U".into(), Some(&of_cost(cost))).await.unwrap(), NO);
        }
        assert_eq!((hash::ceiling(14), hash::ceiling(4)), (17, 15));
    }

    #[test]
    fn the_policy_is_asked_with_the_list() {
        let common = "PasswordPassword";
        assert_eq!(passwords(Policy::Length).violations(common, None, None), [Violation::TooCommon]);
        let broken = passwords(Policy::Composition).violations(common, None, None);
        assert_eq!(broken, [Violation::NoDigit, Violation::NoSpecial]);
    }

    #[test]
    fn what_is_generated_breaks_no_rule() {
        for policy in [Policy::Composition, Policy::Length] {
            let password = generate(&crate::edge::entropy::SystemEntropy);
            assert_eq!(passwords(policy).violations(password.expose_secret(), None, None), []);
        }
    }
}
