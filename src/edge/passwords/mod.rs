//! Passwords: hashed by bcrypt on threads of their own, judged by the policy and by how soon they would be guessed,
//! made up at random. Imported hashes of other algorithms are checked on the same threads. Against enumeration an unknown
//! address is checked against a decoy hash. The only room that names `bcrypt`, `argon2`, `pbkdf2`, `scrypt` and `zxcvbn`.
//!
//! No password leaves this room, and every copy that is made here is overwritten.

mod common;
mod derived;
mod generate;
mod guesses;
mod hash;
mod line;
mod makers;
mod pool;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{io, thread};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};

use self::hash::{Kept, units};
use self::pool::{PATIENCE, Pool, PoolSettings};
use crate::config;
use palisade_core::domain::account::PasswordHash;
use palisade_core::domain::hash_cost::{Decoys, HashCosts};
use palisade_core::domain::password::{
    Guessed, PasswordOwner, PasswordPolicy, Violation, check_both, normalized,
};
use palisade_core::ports::{Busy, Checked, Entropy, Meter, NotImported, Passwords, Requester};

/// Added to the nice value of a thread that hashes: where the cores are taken, it gets a thirtieth of a thread's
/// share, and logins still come to their end.
const NICE: i32 = 15;
/// The same for hashes that are dearer than new ones: less than half of what the others get.
const NICE_DEAR: i32 = 19;
/// A hash that takes more memory to check, in bytes, takes its turn among the dear ones: there are fewer threads, so less
/// memory is taken at once.
const LITTLE_MEMORY: u64 = 32 << 20;
/// The estimate of how many guesses a password stands counts as a hash of this cost: it is less as a rule, and a few
/// times that at worst.
const ESTIMATE: u32 = 8;

/// The policy, and the threads that hash.
pub struct BcryptPasswords {
    policy: PasswordPolicy,
    min_guesses: u64,
    /// What people know the service by: a guesser tries it.
    service: Vec<String>,
    cost: u32,
    max_cost: u32,
    /// For hashes of the configured cost.
    pool: Pool,
    /// For dearer ones, which were imported: a lane of their own, so that they delay no other sign-in.
    dear: Pool,
    /// What stands in for a hash where there is none.
    decoys: Mutex<Decoys>,
    entropy: Arc<dyn Entropy>,
}

impl BcryptPasswords {
    /// Starts the threads. `service` are names that people know the service by.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(
        settings: &config::Passwords,
        service: Vec<String>,
        entropy: Arc<dyn Entropy>,
        meter: Arc<dyn Meter>,
    ) -> io::Result<BcryptPasswords> {
        let cost = clamp(settings.bcrypt_cost);
        let threads = match settings.threads {
            0 => default_threads(),
            threads => threads,
        };
        let wanted = |name, threads, nice, cost| PoolSettings {
            name,
            threads,
            nice,
            usual: units(cost),
            patience: PATIENCE,
        };
        let pool = Pool::start(wanted("password", threads, NICE, cost), Arc::clone(&meter))?;
        let dear = Pool::start(wanted("password-dear", threads / 4, NICE_DEAR, cost + 1), meter)?;
        let max_cost = clamp(settings.max_cost).max(cost);
        Ok(BcryptPasswords {
            policy: settings.policy,
            min_guesses: settings.min_guesses,
            service,
            cost,
            max_cost,
            pool,
            dear,
            decoys: Mutex::default(),
            entropy,
        })
    }

    /// The highest cost of a hash that is checked.
    fn ceiling(&self) -> u32 {
        hash::ceiling(self.cost).max(self.max_cost)
    }

    fn decoys(&self) -> MutexGuard<'_, Decoys> {
        self.decoys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What stands in for a hash where there is none: the same steps, and nothing matches it. As many addresses
    /// without an account are checked against each kind of hash as there are accounts that are.
    fn decoy(&self, tag: u64) -> Option<Kept> {
        let kind = self.decoys().of(tag).map(str::to_owned);
        Kept::read(&kind.map_or_else(|| hash::decoy(self.cost), PasswordHash))
    }

    /// The kind of a hash: its decoy, or `None` for the usual one. An error: it is not checked, and so no kind.
    fn kind(&self, hash: &PasswordHash) -> Result<Option<String>, NotImported> {
        let kept = readable(hash, self.ceiling()).ok_or(NotImported::Unknown)?;
        Ok(kept.decoy(self.cost).map(|decoy| decoy.0))
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
    async fn hash(&self, password: SecretString, requester: Requester) -> Result<PasswordHash, Busy> {
        let (cost, salt) = (self.cost, salt(&*self.entropy));
        let make = move || hash::make(&normalized(password.expose_secret()), cost, salt);
        self.pool.run(requester, units(cost), make).await
    }

    async fn check(
        &self,
        password: SecretString,
        hash: Option<&PasswordHash>,
        requester: Requester,
    ) -> Result<Checked, Busy> {
        let cost = self.cost;
        let stored = hash.and_then(|hash| readable(hash, self.ceiling()));
        if stored.is_none() && hash.is_some() {
            tracing::warn!("an account's password hash is in no form that can be checked");
        }
        let can_match = stored.is_some();
        // Made in any case, as that takes time, too.
        let decoy = self.decoy(requester.account);
        let kept = stored.or(decoy);
        let work = kept.as_ref().map_or(0, Kept::units).max(units(cost));
        let memory = kept.as_ref().map_or(0, Kept::memory);
        let pool = if work > units(cost) || memory > LITTLE_MEMORY { &self.dear } else { &self.pool };
        // Twice the work is two turns in the queue.
        let runs = 1 + u64::from(normalized(password.expose_secret()).is_changed());
        let check = move || check_typed(password.expose_secret(), kept.as_ref(), cost);
        let checked = pool.run(requester, runs * work, check).await?;
        Ok(Checked { matches: checked.matches && can_match, needs_rehash: checked.needs_rehash })
    }

    fn policy(&self) -> PasswordPolicy {
        self.policy
    }

    fn violations(&self, password: &str, owner: PasswordOwner<'_>) -> Vec<Violation> {
        self.policy.violations(password, owner, &common::is_common)
    }

    async fn guessed(
        &self,
        password: SecretString,
        owner: PasswordOwner<'_>,
        requester: Requester,
    ) -> Result<Option<Guessed>, Busy> {
        let (words, min) = (guesses::words(&self.service, owner), self.min_guesses);
        let estimate = move || guesses::too_soon(&normalized(password.expose_secret()), &words, min);
        self.pool.run(requester, units(ESTIMATE.min(self.cost)), estimate).await
    }

    fn min_guesses(&self) -> u64 {
        self.min_guesses
    }

    fn generate(&self) -> SecretString {
        generate::password(&*self.entropy)
    }

    fn import(&self, hash: &PasswordHash) -> Result<PasswordHash, NotImported> {
        let kept = Kept::read(hash).ok_or(NotImported::Unknown)?;
        kept.bounded(self.max_cost)?;
        Ok(kept.write())
    }

    fn count(&self, hash: &PasswordHash, costs: &mut HashCosts) {
        if let Ok(kind) = self.kind(hash) {
            costs.add(kind.as_deref());
        }
    }

    fn counted(&self, costs: HashCosts) {
        self.decoys().counted(costs);
    }

    fn changed(&self, before: Option<&PasswordHash>, after: Option<&PasswordHash>) {
        let kind = |hash: Option<&PasswordHash>| hash.and_then(|hash| self.kind(hash).ok());
        let (before, after) = (kind(before), kind(after));
        if before == after {
            return;
        }
        self.decoys().change(|costs| {
            before.into_iter().for_each(|kind| costs.remove(kind.as_deref()));
            after.into_iter().for_each(|kind| costs.add(kind.as_deref()));
        });
    }
}

fn salt(entropy: &dyn Entropy) -> [u8; 16] {
    let mut salt = [0; 16];
    entropy.fill(&mut salt);
    salt
}

/// Checks a password as it was typed. A hash that it matches only so is to be renewed, from its NFC.
fn check_typed(password: &str, kept: Option<&Kept>, cost: u32) -> Checked {
    let (normal, typed) = check_both(password, |text| hash::check(text, kept, cost));
    let is_typed = typed.is_some_and(|typed| typed.matches);
    Checked {
        matches: normal.matches | is_typed,
        needs_rehash: normal.needs_rehash | (is_typed & !normal.matches),
    }
}

/// The hash, when it is in a form that is checked, and asks for no more work than that of cost `ceiling`.
fn readable(hash: &PasswordHash, ceiling: u32) -> Option<Kept> {
    Kept::read(hash).filter(|kept| kept.bounded(ceiling).is_ok())
}

/// The hash of `password` as the gateway would keep it, here and now: for commands, not for requests.
#[must_use]
pub fn hash_now(password: &str, cost: u32, entropy: &dyn Entropy) -> PasswordHash {
    hash::make(&normalized(password), clamp(cost), salt(entropy))
}

/// Whether `password` is that of `hash`, here and now; `None` when the gateway could not check it, where
/// new hashes have `cost`.
#[must_use]
pub fn check_now(password: &str, hash: &PasswordHash, cost: u32) -> Option<Checked> {
    readable(hash, hash::ceiling(clamp(cost))).map(|kept| check_typed(password, Some(&kept), clamp(cost)))
}

/// A random password that every policy takes.
#[must_use]
pub fn generate(entropy: &dyn Entropy) -> SecretString {
    generate::password(entropy)
}

#[cfg(test)]
mod tests {
    use palisade_core::domain::email::EmailAddress;

    use super::*;
    use crate::edge::passwords::hash::READ;
    use palisade_core::domain::block::AddressBlock;
    use palisade_core::domain::password::{MIN_GUESSES, MOST_MIN_GUESSES};
    use palisade_testing::fakes::{FakeEntropy, NoMeter};

    fn passwords(policy: PasswordPolicy) -> BcryptPasswords {
        let settings =
            config::Passwords { policy, min_guesses: MIN_GUESSES, bcrypt_cost: 4, max_cost: 14, threads: 2 };
        let service = vec!["Acme Bank".to_owned()];
        BcryptPasswords::start(&settings, service, Arc::new(FakeEntropy::default()), Arc::new(NoMeter))
            .unwrap()
    }

    const ANN: Requester = Requester { block: Some(AddressBlock::V4(1)), account: 1 << 63, known: false };

    const NO: Checked = Checked { matches: false, needs_rehash: false };

    #[tokio::test]
    async fn what_was_hashed_is_checked() {
        let passwords = passwords(PasswordPolicy::Composition);
        for length in [1, READ, READ + 1, 1024] {
            let password = || SecretString::from("p".repeat(length));
            let hash = passwords.hash(password(), ANN).await.unwrap();
            assert_eq!(passwords.import(&hash).unwrap(), hash);
            let right = passwords.check(password(), Some(&hash), ANN).await.unwrap();
            assert_eq!(right, Checked { matches: true, needs_rehash: false });
            assert_eq!(passwords.check("q".into(), Some(&hash), ANN).await.unwrap(), NO);
            // Each has a salt of its own.
            assert_ne!(hash.0, passwords.hash(password(), ANN).await.unwrap().0);
        }
    }

    /// What a keyboard of another maker types is the same password, and what was hashed as it was typed is renewed.
    #[tokio::test]
    async fn a_password_is_one_however_it_is_typed() {
        const COMPOSED: &str = "caf\u{e9} au lait 1";
        const TYPED: &str = "cafe\u{301} au lait 1";
        let passwords = passwords(PasswordPolicy::Composition);
        let check = async |password: &str, hash: &PasswordHash| {
            passwords.check(password.into(), Some(hash), ANN).await.unwrap()
        };
        let right = Checked { matches: true, needs_rehash: false };
        for set in [COMPOSED, TYPED] {
            let hash = passwords.hash(set.into(), ANN).await.unwrap();
            for typed in [COMPOSED, TYPED] {
                assert_eq!(check(typed, &hash).await, right, "{set:?} {typed:?}");
                assert_eq!(check_now(typed, &hash_now(set, 4, &FakeEntropy::default()), 4), Some(right));
            }
            assert_eq!(check("cafe au lait 1", &hash).await, NO);
        }
        // By an earlier program, or another maker, in the short form and in the long one.
        for more in ["", &"x".repeat(READ)] {
            let (typed, composed) = (format!("{TYPED}{more}"), format!("{COMPOSED}{more}"));
            let former = hash::make(&typed, 4, [7; 16]);
            let renew = Checked { matches: true, needs_rehash: true };
            assert_eq!(check(&typed, &former).await, renew);
            assert_eq!(check_now(&typed, &former, 4), Some(renew));
            assert_eq!(check(&composed, &former).await, NO, "its maker would have refused it");
            let renewed = passwords.hash(typed.as_str().into(), ANN).await.unwrap();
            assert_eq!((check(&typed, &renewed).await, check(&composed, &renewed).await), (right, right));
        }
        // bcrypt reads 72 bytes: 75 as they are typed, and 50 in NFC.
        let hash = passwords.hash("e\u{301}".repeat(25).as_str().into(), ANN).await.unwrap();
        assert!(hash.0.starts_with("$2b$"), "{}", hash.0);
        assert_eq!(check(&"\u{e9}".repeat(25), &hash).await, right);
    }

    #[tokio::test]
    async fn nothing_and_nonsense_match_nothing() {
        let passwords = passwords(PasswordPolicy::Composition);
        for password in ["", "secret", &"x".repeat(100_000)] {
            assert_eq!(passwords.check(password.into(), None, ANN).await.unwrap(), NO);
            for odd in [
                "",
                "*",
                "$2b$04$",
                "\u{1f511}",
                "$2x$04$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
            ] {
                let odd = PasswordHash(odd.into());
                assert_eq!(passwords.check(password.into(), Some(&odd), ANN).await.unwrap(), NO);
                assert_eq!(passwords.import(&odd), Err(NotImported::Unknown));
            }
        }
    }

    #[tokio::test]
    async fn a_hash_of_absurd_cost_is_not_tried() {
        let passwords = passwords(PasswordPolicy::Composition);
        let of_cost = |cost: u32| {
            PasswordHash(format!("$2b${cost:02}$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"))
        };
        for cost in [16, 31] {
            // Would take minutes, or days.
            assert_eq!(passwords.check("U*U".into(), Some(&of_cost(cost)), ANN).await.unwrap(), NO);
        }
        // What was imported earlier is checked; what is imported now is held to the configured cost.
        assert!(readable(&of_cost(15), passwords.ceiling()).is_some());
        assert!(passwords.import(&of_cost(14)).is_ok());
        for cost in [15, 31] {
            assert_eq!(passwords.import(&of_cost(cost)), Err(NotImported::TooDear { cost, most: 14 }));
        }
        assert_eq!((hash::ceiling(14), hash::ceiling(4)), (17, 15));
    }

    /// What may be imported can be checked, however much dearer than a new one it is.
    #[test]
    fn a_hash_of_the_highest_cost_that_is_imported_is_checked() {
        let settings = config::Passwords {
            policy: PasswordPolicy::Length,
            min_guesses: MIN_GUESSES,
            bcrypt_cost: 4,
            max_cost: 17,
            threads: 1,
        };
        let entropy = Arc::new(FakeEntropy::default());
        let passwords = BcryptPasswords::start(&settings, Vec::new(), entropy, Arc::new(NoMeter)).unwrap();
        let dear = hash::decoy(17);
        assert!(passwords.import(&dear).is_ok());
        assert!(readable(&dear, passwords.ceiling()).is_some());
        assert!(readable(&hash::decoy(18), passwords.ceiling()).is_none());
    }

    /// In a lane of its own a dear hash delays no other: while the only thread for dear ones is taken, others go on,
    /// and so they do the other way round.
    #[tokio::test]
    async fn a_dear_hash_has_a_lane_of_its_own() {
        let passwords = passwords(PasswordPolicy::Composition);
        let usual = PasswordHash(hash::make("secret", 4, [1; 16]).0);
        let dear = PasswordHash(hash::make("secret", 5, [1; 16]).0);
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let taken = passwords.dear.run(ANN, units(5), move || {
            begun.send(()).unwrap();
            let _ = held.recv();
        });
        let others = async {
            begins.await.unwrap();
            let checked = passwords.check("secret".into(), Some(&usual), ANN).await.unwrap();
            assert_eq!(checked, Checked { matches: true, needs_rehash: false });
            let waits = passwords.check("secret".into(), Some(&dear), ANN);
            let frees = async {
                assert_eq!(passwords.dear.waiting(), units(5), "it waits for the thread that is taken");
                drop(hold);
            };
            let (checked, ()) = tokio::join!(waits, frees);
            assert_eq!(
                checked.unwrap(),
                Checked { matches: true, needs_rehash: true },
                "renewed at this sign-in"
            );
        };
        let (taken, ()) = tokio::join!(taken, others);
        taken.unwrap();
    }

    /// An address without an account takes its turn where a dear account would.
    #[tokio::test]
    async fn a_dear_stand_in_takes_the_lane_of_dear_hashes() {
        let passwords = passwords(PasswordPolicy::Composition);
        let mut costs = HashCosts::default();
        passwords.count(&hash::decoy(5), &mut costs);
        passwords.counted(costs);
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let taken = passwords.dear.run(ANN, units(5), move || {
            begun.send(()).unwrap();
            let _ = held.recv();
        });
        // What cannot be checked is no account either.
        let odd = PasswordHash("*".to_owned());
        let others = async {
            begins.await.unwrap();
            let waits = futures::future::join(
                passwords.check("x".into(), None, Requester { account: 1, ..ANN }),
                passwords.check("x".into(), Some(&odd), Requester { account: 2, ..ANN }),
            );
            let frees = async {
                assert_eq!(passwords.dear.waiting(), 2 * units(5));
                drop(hold);
            };
            let ((none, unreadable), ()) = tokio::join!(waits, frees);
            assert_eq!((none.unwrap(), unreadable.unwrap()), (NO, NO));
        };
        let (taken, ()) = tokio::join!(taken, others);
        taken.unwrap();
    }

    /// A password in two forms takes the time of two hashes, so it waits and is counted as two; and no less without an
    /// account.
    #[tokio::test]
    async fn two_forms_of_a_password_are_two_turns() {
        let passwords = passwords(PasswordPolicy::Composition);
        let dear = hash::make("cafe\u{301}", 5, [1; 16]);
        let mut costs = HashCosts::default();
        passwords.count(&dear, &mut costs);
        passwords.counted(costs);
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let taken = passwords.dear.run(ANN, units(5), move || {
            begun.send(()).unwrap();
            let _ = held.recv();
        });
        let others = async {
            begins.await.unwrap();
            let waits = futures::future::join(
                passwords.check("cafe\u{301}".into(), Some(&dear), Requester { account: 1, ..ANN }),
                passwords.check("cafe\u{301}".into(), None, Requester { account: 2, ..ANN }),
            );
            let frees = async {
                assert_eq!(passwords.dear.waiting(), 4 * units(5));
                drop(hold);
            };
            let ((right, none), ()) = tokio::join!(waits, frees);
            assert_eq!((right.unwrap().matches, none.unwrap()), (true, NO));
        };
        let (taken, ()) = tokio::join!(taken, others);
        taken.unwrap();
    }

    /// Where every account is dear every address is; the work is counted, not timed.
    #[tokio::test]
    async fn an_address_without_an_account_is_as_dear_as_accounts_are() {
        let passwords = passwords(PasswordPolicy::Composition);
        let cost_of = |tag: u64| passwords.decoy(tag).unwrap().units().ilog2();
        assert_eq!(cost_of(0), 4);
        let (dear, usual) = (hash::decoy(6), hash::decoy(4));
        let mut costs = HashCosts::default();
        [&dear, &usual, &usual, &usual].into_iter().for_each(|hash| passwords.count(hash, &mut costs));
        passwords.counted(costs);
        let dear_ones = (0..100).filter(|n| cost_of(u64::MAX / 100 * n) == 6).count();
        assert!((24..=26).contains(&dear_ones), "{dear_ones}");
        assert_eq!(passwords.check("x".into(), None, Requester { account: 0, ..ANN }).await.unwrap(), NO);
        (0..96).for_each(|_| passwords.changed(None, Some(&dear)));
        let dear_ones = || (0..100).filter(|n| cost_of(u64::MAX / 100 * n) == 6).count();
        assert!(dear_ones() >= 96, "{}", dear_ones());
        // Accounts that are made here count at once, too, and so does one that is renewed or removed.
        (0..100).for_each(|_| passwords.changed(None, Some(&usual)));
        assert!((47..=50).contains(&dear_ones()), "{}", dear_ones());
        (0..96).for_each(|_| passwords.changed(Some(&dear), Some(&usual)));
        assert!(dear_ones() <= 1, "{}", dear_ones());
        passwords.changed(Some(&dear), None);
        assert_eq!(dear_ones(), 0);
    }

    #[test]
    fn the_policy_is_asked_with_the_list() {
        let common = "PasswordPassword";
        assert_eq!(
            passwords(PasswordPolicy::Length).violations(common, PasswordOwner::default()),
            [Violation::TooCommon]
        );
        let broken = passwords(PasswordPolicy::Composition).violations(common, PasswordOwner::default());
        assert_eq!(broken, [Violation::NoDigit, Violation::NoSpecial]);
    }

    #[test]
    fn what_is_generated_breaks_no_rule() {
        for policy in [PasswordPolicy::Composition, PasswordPolicy::Length] {
            let passwords = passwords(policy);
            for _ in 0..50 {
                let password = generate(&crate::edge::entropy::SystemEntropy);
                assert_eq!(passwords.violations(password.expose_secret(), PasswordOwner::default()), []);
                assert_eq!(guesses::too_soon(password.expose_secret(), &[], MOST_MIN_GUESSES), None);
            }
        }
    }

    #[tokio::test]
    async fn what_would_be_guessed_first_is_told_with_its_reason_in_every_policy() {
        for policy in [PasswordPolicy::Composition, PasswordPolicy::Length] {
            let passwords = passwords(policy);
            let email: EmailAddress = "ann.lee@example.com".parse().unwrap();
            let judge = async |password: &str| {
                let owner =
                    PasswordOwner { email: Some(&email), username: Some("petrel7"), name: Some("Ann Lee") };
                passwords.guessed(password.into(), owner, ANN).await.unwrap()
            };
            assert_eq!(judge("Password1!").await, Some(Guessed::Common));
            for known in ["acmebankacmebank", "petrel7petrel7"] {
                assert_eq!(judge(known).await, Some(Guessed::Known), "{known}");
            }
            assert_eq!(judge("SecurePass123!").await, None);
        }
    }
}
