//! Rate limits and delays against brute force, by address block and by account. All of it is in memory, and all of it
//! is bounded: what is forgotten first is what was least recently used. From which blocks an account was signed in to
//! is kept with the account as well, and [`Limiter::recall`] tells it here after a restart.
//!
//! # Rates
//! Each address block (an IPv4 address, an IPv6 /64) has an allowance for each kind of attempt. It is used
//! up at once or bit by bit, and grows back steadily. The defaults, which `[limits]` changes:
//!
//! | kind | at once | grows back |
//! |---|---|---|
//! | login, the present password | 20 | one in 3 s |
//! | register | 10 | one in 6 min |
//! | refresh | 120 | one in 0.5 s |
//! | asking for a mail | 10 | one in 1 min |
//! | registering or asking for a mail, for one given address | 3 | one in 5 min |
//! | trying a mailed link | 20 | one in 3 s |
//! | beginning, refreshing or coming back to a connection | 30 | one in 2 s |
//! | bringing tokens for a connection | 10 | one in 1 min |
//! | a session cookie that is over, for one value | 300 | one in 0.2 s |
//!
//! What only the owner of an account can do with a connection is counted by account alone: many addresses are no
//! way to more of it, and an app that acts for all its users from one address is not held up.
//!
//! What sends mail is counted by the address that was given, too, whether or not it has an account (against enumeration).
//!
//! An IPv6 /48, the usual allocation of a site, has 65,536 of those blocks; together they have 64 times the
//! allowance of one, for what sends mail 4 times, and for mail to one given address no more than one block has.
//!
//! A sign-in whose password was right gives back what it took, so that people behind one address who come at the same hour
//! are held up by wrong passwords alone. Networks that `limits.exempt` names have no allowance for each address block; all
//! that is counted by account holds for them, too.
//!
//! Those are limits on asking, and hold for one network each. How many letters one mailbox gets in the end, from
//! however many callers and networks, is bounded where tasks are done, durably: `limits.letters_per_hour` and
//! `limits.letters_per_day`, by the rules of [`palisade_core::domain::mail_cap`].
//!
//! # Guessing
//! A caller that gives a wrong password for one account from one block waits: nothing after the first four, then
//! 1 s, 2 s, 4 s, and so on up to 15 minutes. An hour without an attempt forgets it, a right password at
//! once. Attempts count when they begin, so that a hundred at the same moment are no way around it; one for which
//! the threads that hash had no time is taken back.
//!
//! Many blocks together that guess at one account put it under siege: from 30 wrong passwords on (one a
//! minute is forgiven), blocks without a recent sign-in to it wait before *every* attempt,
//! the first included, for 1 s to 30 s. Each block waits for itself alone: however many strangers wait,
//! the owner on a new network waits 30 seconds at most, and on a known one not at all. So an attacker
//! can delay guesses and cannot lock the owner out.

mod rate;

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use self::rate::Rate;
use crate::config::{Allowance, Allowances, LimitSettings};
use palisade_core::domain::block::{AddressBlock, Site};
use palisade_core::domain::guesses::{Pressure, Tries};
use palisade_core::ports::{Limited, Limiter, TooMany};

/// A site's allowance is that of so many blocks.
const BLOCKS_OF_A_SITE: u32 = 64;
/// The same for what sends mail: a campus has many people, who seldom register or forget passwords together.
const MAILING_BLOCKS_OF_A_SITE: u32 = 4;

/// Entries of each table. Full, all tables together take some 80 MB.
const ENTRIES: u64 = 50_000;
/// Entries not looked at for so long change nothing any more.
const IDLE: Duration = Duration::from_secs(2 * 3600);
/// How long a block stays known to an account after a sign-in from it.
const KNOWN: Duration = Duration::from_secs(30 * 24 * 3600);

/// Time that never runs backwards, since some fixed moment.
pub type Ticks = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Whose attempts are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Block {
    One(AddressBlock),
    /// All blocks of one site, although they may be different customers of one network.
    Site(Site),
    /// Wherever it comes from.
    Anywhere,
}

impl Block {
    fn of(client: IpAddr) -> Block {
        Block::One(AddressBlock::of(client))
    }

    /// The site that the block is in.
    fn site(self) -> Option<Block> {
        match self {
            Block::One(block) => block.site().map(Block::Site),
            Block::Site(_) | Block::Anywhere => None,
        }
    }
}

/// An account as it was named, hashed under a key of this process: long names cost no memory.
type Account = u64;

/// Every limit of the gateway.
pub struct RateLimits {
    enabled: AtomicBool,
    /// Whether wrong passwords are counted here.
    counts_guesses: bool,
    settings: LimitSettings,
    ticks: Ticks,
    hasher: RandomState,
    rates: Cache<(Limited, Block, Option<Account>), Arc<Rate>>,
    tries: Cache<(Limited, Block, Account), Arc<Mutex<Tries>>>,
    pressures: Cache<(Limited, Account), Arc<Mutex<Pressure>>>,
    known: Cache<(Limited, Block, Account), ()>,
    /// When the waits of session cookies end, by [`RateLimits::ticks`].
    waits: Cache<(Limited, Block, Account), Duration>,
}

impl RateLimits {
    /// Limits that begin now.
    #[must_use]
    pub fn new(settings: LimitSettings) -> RateLimits {
        let begun = Instant::now();
        RateLimits::with_ticks(settings, Arc::new(move || begun.elapsed()))
    }

    /// Limits that go by another clock.
    #[must_use]
    pub fn with_ticks(settings: LimitSettings, ticks: Ticks) -> RateLimits {
        RateLimits::sized(settings, ticks, ENTRIES)
    }

    fn sized(settings: LimitSettings, ticks: Ticks, entries: u64) -> RateLimits {
        RateLimits {
            enabled: AtomicBool::new(settings.enabled),
            counts_guesses: true,
            ticks,
            hasher: RandomState::new(),
            // What is forgotten is full again.
            rates: table(entries, settings.allowances.longest().max(IDLE)),
            tries: table(entries, IDLE),
            pressures: table(entries, IDLE),
            known: table(entries, KNOWN),
            waits: table(entries, IDLE),
            settings,
        }
    }

    /// Switches every limit on or off, as a reload of the configuration does.
    pub fn set_enabled(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Relaxed);
    }

    fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// The same limits without the counts of wrong passwords, for a gateway that shares those with others
    /// ([`palisade_core::service::shared_guesses`]).
    #[must_use]
    pub fn without_guesses(self) -> RateLimits {
        RateLimits { counts_guesses: false, ..self }
    }

    /// Whether attempts of this kind are counted as guesses here.
    fn counts(&self, what: Limited) -> bool {
        self.counts_guesses && self.is_enabled() && is_guess(what)
    }

    /// Takes one from an allowance.
    fn take(&self, key: (Limited, Block, Option<Account>), allowance: Allowance) -> Result<(), TooMany> {
        let rate = self.rates.get_with(key, || Arc::new(Rate::new(allowance, &self.ticks)));
        rate.take().map_err(too_many)
    }

    /// Whether the block that `client` is in has no allowance, and everything passes.
    fn is_exempt(&self, client: IpAddr) -> bool {
        self.settings.exempt.iter().any(|network| network.contains(&client))
    }

    /// Begins an attempt at guessing, or says how long to wait.
    fn guess(&self, what: Limited, block: Block, account: Account) -> Result<(), TooMany> {
        let now = (self.ticks)();
        let siege = match self.known.contains_key(&(what, block, account)) {
            true => Duration::ZERO,
            false => self.pressures.get(&(what, account)).map_or(Duration::ZERO, |it| locked(&it).wait(now)),
        };
        let tries = self.tries.get_with((what, block, account), Arc::default);
        locked(&tries).begin(&self.settings.guesses, siege, now).map_err(too_many)
    }
}

fn table<K, V>(entries: u64, idle: Duration) -> Cache<K, V>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    // By frequency, moka would rather forget a new entry than an old one: a flood of addresses would then
    // leave the next one without any limit.
    Cache::builder().max_capacity(entries).time_to_idle(idle).eviction_policy(EvictionPolicy::lru()).build()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In whole seconds, and never "now".
fn too_many(wait: Duration) -> TooMany {
    TooMany {
        retry_after: Duration::from_secs(
            u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1),
        ),
    }
}

/// The allowance of one kind of attempt.
const fn allowance(kinds: &Allowances, what: Limited) -> Allowance {
    match what {
        Limited::Login => kinds.login,
        Limited::ConfirmPassword => kinds.confirm_password,
        Limited::Register => kinds.register,
        Limited::Refresh => kinds.refresh,
        Limited::RequestMail => kinds.request_mail,
        Limited::UseLink => kinds.use_link,
        Limited::Connect => kinds.connect,
        Limited::Import => kinds.import,
        Limited::SessionCookie => kinds.session_cookie,
    }
}

/// The allowance of a site, which is that of several blocks.
fn of_site(what: Limited, block: Allowance) -> Allowance {
    let blocks = if sends_mail(what) { MAILING_BLOCKS_OF_A_SITE } else { BLOCKS_OF_A_SITE };
    Allowance { burst: block.burst * blocks, every: block.every / blocks }
}

/// Whether an attempt sends mail to the address that it names.
fn sends_mail(what: Limited) -> bool {
    match what {
        Limited::Register | Limited::RequestMail => true,
        Limited::Login
        | Limited::ConfirmPassword
        | Limited::Refresh
        | Limited::UseLink
        | Limited::Connect
        | Limited::Import
        | Limited::SessionCookie => false,
    }
}

/// Whether an attempt can be a guess at an account's password.
fn is_guess(what: Limited) -> bool {
    match what {
        Limited::Login | Limited::ConfirmPassword => true,
        Limited::Register
        | Limited::Refresh
        | Limited::RequestMail
        | Limited::UseLink
        | Limited::Connect
        | Limited::Import
        | Limited::SessionCookie => false,
    }
}

impl Limiter for RateLimits {
    fn attempt(&self, what: Limited, client: IpAddr, account: Option<&str>) -> Result<(), TooMany> {
        if !self.is_enabled() {
            return Ok(());
        }
        let block = Block::of(client);
        let account = account.map(|account| self.hasher.hash_one(account));
        let allowance = allowance(&self.settings.allowances, what);
        if account.is_some() && matches!(what, Limited::Connect | Limited::Import) {
            return self.take((what, Block::Anywhere, account), allowance);
        }
        if let Some(value) = account.filter(|_| what == Limited::SessionCookie) {
            return self.take((what, block, Some(value)), allowance).inspect_err(|too_many| {
                self.waits.insert((what, block, value), (self.ticks)() + too_many.retry_after);
            });
        }
        if !self.is_exempt(client) {
            self.take((what, block, None), allowance)?;
            if let Some(site) = block.site() {
                self.take((what, site, None), of_site(what, allowance))?;
            }
        }
        match account {
            Some(account) if is_guess(what) => match self.counts_guesses {
                true => self.guess(what, block, account),
                false => Ok(()),
            },
            Some(account) if sends_mail(what) => {
                // A site has no more for one address than a block: its networks are in one hand.
                let whole = block.site().unwrap_or(block);
                self.take((what, whole, Some(account)), self.settings.allowances.mail_to_address)
            }
            _ => Ok(()),
        }
    }

    fn attempt_on_account(&self, what: Limited, client: IpAddr, account: &str) -> Result<(), TooMany> {
        match self.counts(what) {
            true => self.guess(what, Block::of(client), self.hasher.hash_one(account)),
            false => Ok(()),
        }
    }

    fn waits(&self, what: Limited, client: IpAddr, account: &str) -> Result<(), TooMany> {
        let key = (what, Block::of(client), self.hasher.hash_one(account));
        let until = self.waits.get(&key).filter(|_| self.is_enabled()).unwrap_or_default();
        let left = until.saturating_sub((self.ticks)());
        if left.is_zero() { Ok(()) } else { Err(too_many(left)) }
    }

    fn not_tried(&self, what: Limited, client: IpAddr, account: &str) {
        if self.counts(what) {
            let key = (what, Block::of(client), self.hasher.hash_one(account));
            if let Some(tries) = self.tries.get(&key) {
                locked(&tries).take_back();
            }
        }
    }

    fn give_back(&self, what: Limited, client: IpAddr) {
        // Nothing was taken for it.
        if self.is_exempt(client) {
            return;
        }
        let block = Block::of(client);
        for block in [Some(block), block.site()].into_iter().flatten() {
            // What was forgotten is full.
            if let Some(rate) = self.rates.get(&(what, block, None)) {
                rate.give_back();
            }
        }
    }

    fn failed(&self, what: Limited, _: IpAddr, account: &str) {
        // The block's own count was raised when the attempt began.
        if self.counts(what) {
            let account = self.hasher.hash_one(account);
            let pressure = self.pressures.get_with((what, account), Arc::default);
            locked(&pressure).add((self.ticks)());
        }
    }

    fn recall(&self, what: Limited, client: IpAddr, account: &str) {
        if self.counts(what) {
            self.known.insert((what, Block::of(client), self.hasher.hash_one(account)), ());
        }
    }

    fn succeeded(&self, what: Limited, client: IpAddr, account: &str) {
        if self.counts(what) {
            let key = (what, Block::of(client), self.hasher.hash_one(account));
            self.tries.invalidate(&key);
            self.known.insert(key, ());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use palisade_core::domain::guesses::Guesses;

    /// Limits, and their clock in milliseconds.
    fn limits() -> (RateLimits, Arc<AtomicU64>) {
        limits_by(LimitSettings::default())
    }

    fn limits_by(settings: LimitSettings) -> (RateLimits, Arc<AtomicU64>) {
        let time = Arc::new(AtomicU64::new(1_000_000));
        let clock = Arc::clone(&time);
        let ticks: Ticks = Arc::new(move || Duration::from_millis(clock.load(Ordering::Relaxed)));
        (RateLimits::with_ticks(settings, ticks), time)
    }

    fn pass(time: &AtomicU64, seconds: u64) {
        time.fetch_add(seconds * 1000, Ordering::Relaxed);
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn wait(outcome: Result<(), TooMany>) -> u64 {
        outcome.map_or_else(|too_many| too_many.retry_after.as_secs(), |()| 0)
    }

    /// Tries a wrong password; the seconds to wait if it may not be tried.
    fn wrong(limits: &RateLimits, client: &str, account: &str) -> u64 {
        let outcome = limits.attempt(Limited::Login, ip(client), Some(account));
        if outcome.is_ok() {
            limits.failed(Limited::Login, ip(client), account);
        }
        wait(outcome)
    }

    #[test]
    fn guesses_that_are_counted_elsewhere_are_not_counted_here() {
        let (limits, _) = limits();
        let limits = limits.without_guesses();
        for _ in 0..15 {
            limits.attempt(Limited::Login, ip("192.0.2.1"), Some("ann")).unwrap();
            limits.attempt_on_account(Limited::Login, ip("192.0.2.1"), "7").unwrap();
            limits.failed(Limited::Login, ip("192.0.2.1"), "ann");
        }
        let refused =
            (0..10).find_map(|_| limits.attempt(Limited::Login, ip("192.0.2.1"), Some("bob")).err());
        assert!(refused.is_some(), "the allowance of the block is");
    }

    #[test]
    fn an_account_of_two_names_gives_no_more_guesses_and_no_less_of_the_allowance() {
        let (limits, time) = limits();
        let client = ip("192.0.2.1");
        let guess = || limits.attempt_on_account(Limited::Login, client, "id");
        for _ in 0..Guesses::default().free + 1 {
            assert!(guess().is_ok());
        }
        assert_eq!(wait(guess()), 1, "whatever name each of them gave");
        pass(&time, 1);
        assert!(guess().is_ok());
        for n in 0..20 {
            assert_eq!(wrong(&limits, "192.0.2.1", &format!("{n}")), 0, "the block's allowance is as it was");
        }
        limits.succeeded(Limited::Login, client, "id");
        assert!(guess().is_ok());
    }

    #[test]
    fn an_allowance_is_used_up_and_grows_back() {
        for (what, burst, one_in) in [
            (Limited::Login, 20, 3),
            (Limited::ConfirmPassword, 20, 3),
            (Limited::UseLink, 20, 3),
            (Limited::Register, 10, 360),
            (Limited::RequestMail, 10, 60),
            (Limited::Connect, 30, 2),
            (Limited::Import, 10, 60),
        ] {
            let (limits, time) = limits();
            for _ in 0..burst {
                assert_eq!(limits.attempt(what, ip("192.0.2.1"), None), Ok(()));
            }
            assert_eq!(wait(limits.attempt(what, ip("192.0.2.1"), None)), one_in, "{what:?}");
            assert_eq!(limits.attempt(what, ip("192.0.2.2"), None), Ok(()));
            pass(&time, one_in);
            assert_eq!(limits.attempt(what, ip("192.0.2.1"), None), Ok(()));
            assert_eq!(wait(limits.attempt(what, ip("192.0.2.1"), None)), one_in);
            // One kind takes nothing from another.
            let other = if what == Limited::Refresh { Limited::Login } else { Limited::Refresh };
            assert_eq!(limits.attempt(other, ip("192.0.2.1"), None), Ok(()));
        }
    }

    /// A sign-in with a right password, or the seconds to wait.
    fn right(limits: &RateLimits, client: &str, account: &str) -> u64 {
        let outcome = limits.attempt(Limited::Login, ip(client), Some(account));
        if outcome.is_ok() {
            limits.succeeded(Limited::Login, ip(client), account);
            limits.give_back(Limited::Login, ip(client));
        }
        wait(outcome)
    }

    #[test]
    fn a_right_password_takes_nothing_from_the_block_and_earns_it_nothing() {
        for client in ["192.0.2.1", "2001:db8::1"] {
            let (limits, time) = limits();
            for pupil in 0..2000 {
                assert_eq!(right(&limits, client, &format!("pupil {pupil}")), 0);
            }
            let wrong_ones =
                (0..100).filter(|name| wrong(&limits, client, &format!("name {name}")) == 0).count();
            assert_eq!(wrong_ones, 20, "no more guesses than without the right ones");
            assert_eq!(right(&limits, client, "ann"), 3, "a right password is not known before it is tried");
            pass(&time, 3);
            assert_eq!(right(&limits, client, "ann"), 0);
            assert_eq!((wrong(&limits, client, "bob"), wrong(&limits, client, "bob")), (0, 3));
        }
    }

    #[test]
    fn an_exempt_client_earns_its_block_nothing() {
        let exempt = vec!["2001:db8:5::7/128".parse().unwrap()];
        let settings = LimitSettings { exempt, ..LimitSettings::default() };
        let (limits, _) = limits_by(settings);
        let guesses = |from: usize| {
            (from..from + 30).filter(|name| wrong(&limits, "2001:db8:5::8", &name.to_string()) == 0).count()
        };
        assert_eq!(guesses(0), 20);
        for name in 0..10 {
            assert_eq!(right(&limits, "2001:db8:5::7", &format!("pupil {name}")), 0);
        }
        assert_eq!(guesses(100), 0);
    }

    #[test]
    fn numbers_of_the_operators_own_hold() {
        let mut settings = LimitSettings::default();
        settings.allowances.login = Allowance { burst: 2, every: Duration::from_secs(600) };
        settings.allowances.mail_to_address = Allowance { burst: 1, every: Duration::from_secs(86_400) };
        settings.guesses = Guesses { free: 1, longest: Duration::from_secs(2) };
        settings.exempt = vec!["198.51.100.0/24".parse().unwrap(), "2001:db8:5::/48".parse().unwrap()];
        let (limits, time) = limits_by(settings);
        assert_eq!([0, 1, 2].map(|name| wrong(&limits, "192.0.2.1", &name.to_string())), [0, 0, 600]);
        for client in ["198.51.100.7", "2001:db8:5::7"] {
            assert!(
                (0..500).all(|name| wrong(&limits, client, &format!("{client} {name}")) == 0),
                "{client}"
            );
            // Guesses at one account are counted all the same.
            assert_eq!([0; 3].map(|_| wrong(&limits, client, client)), [0, 0, 1], "{client}");
            for expected in [2, 2] {
                pass(&time, 2);
                assert_eq!(wrong(&limits, client, client), 0);
                assert_eq!(wrong(&limits, client, client), expected);
            }
            let ask = || wait(limits.attempt(Limited::RequestMail, ip(client), Some(client)));
            assert_eq!((ask(), ask()), (0, 86_400));
        }
    }

    #[test]
    fn a_cookie_waits_once_its_misses_are_too_many_and_no_other_does() {
        let (limits, time) = limits();
        let (home, value) = (ip("192.0.2.1"), "session.value");
        let burst = LimitSettings::default().allowances.session_cookie.burst;
        for _ in 0..burst {
            assert_eq!(limits.waits(Limited::SessionCookie, home, value), Ok(()));
            assert_eq!(limits.attempt(Limited::SessionCookie, home, Some(value)), Ok(()));
        }
        assert_eq!(limits.waits(Limited::SessionCookie, home, value), Ok(()), "none was refused yet");
        assert!(limits.attempt(Limited::SessionCookie, home, Some(value)).is_err());
        for _ in 0..3 {
            assert_eq!(wait(limits.waits(Limited::SessionCookie, home, value)), 1, "asking takes nothing");
        }
        for (client, value) in [(home, "session.other"), (ip("192.0.2.2"), value)] {
            assert_eq!(limits.waits(Limited::SessionCookie, client, value), Ok(()));
            assert_eq!(limits.attempt(Limited::SessionCookie, client, Some(value)), Ok(()));
        }
        pass(&time, 1);
        assert_eq!(limits.waits(Limited::SessionCookie, home, value), Ok(()));
        assert_eq!(limits.attempt(Limited::SessionCookie, home, Some(value)), Ok(()));
        limits.set_enabled(false);
        assert_eq!(limits.waits(Limited::SessionCookie, home, value), Ok(()));
    }

    #[test]
    fn an_owner_is_counted_from_every_network_and_for_no_other_account() {
        for (what, burst, one_in) in [(Limited::Connect, 30, 2), (Limited::Import, 10, 60)] {
            let (limits, time) = limits();
            let attempt = |n: u32, account| {
                wait(limits.attempt(what, std::net::Ipv4Addr::from(0x0a00_0000 + n).into(), Some(account)))
            };
            assert!((0..burst).all(|n| attempt(n, "ann") == 0));
            assert_eq!(attempt(99, "ann"), one_in, "from one more address");
            assert_eq!(attempt(0, "bob"), 0, "from an address of hers");
            assert_eq!(wait(limits.attempt(what, ip("10.0.0.1"), None)), 0);
            pass(&time, one_in);
            assert_eq!((attempt(0, "ann"), attempt(0, "ann")), (0, one_in));
        }
    }

    #[test]
    fn what_was_not_tried_for_want_of_time_is_no_wrong_password() {
        let (limits, time) = limits();
        let busy = |client: &str| {
            let outcome = limits.attempt(Limited::Login, ip(client), Some("ann"));
            limits.not_tried(Limited::Login, ip(client), "ann");
            wait(outcome)
        };
        for _ in 0..5 {
            assert_eq!(busy("192.0.2.1"), 0);
        }
        for _ in 0..5 {
            assert_eq!(wrong(&limits, "192.0.2.1", "ann"), 0);
        }
        // The wait is neither longer for it nor begun anew.
        pass(&time, 1);
        assert_eq!(busy("192.0.2.1"), 0);
        pass(&time, 60);
        assert_eq!((busy("192.0.2.1"), busy("192.0.2.1")), (0, 0));
        assert_eq!(wrong(&limits, "192.0.2.1", "ann"), 0);
        assert_eq!(wrong(&limits, "192.0.2.1", "ann"), 2);
    }

    #[test]
    fn a_site_is_not_as_many_strangers_as_it_has_networks() {
        let (limits, time) = limits();
        let networks = || (0..2000).map(|network| ip(&format!("2001:db8:7:{network:x}::1")));
        let passed = |what, times: u32| -> usize {
            networks()
                .map(|network| (0..times).filter(|_| limits.attempt(what, network, None).is_ok()).count())
                .sum()
        };
        assert_eq!(passed(Limited::Register, 10), 40);
        assert_eq!(passed(Limited::RequestMail, 10), 40);
        assert_eq!(passed(Limited::Login, 20), 1280);
        // Its neighbours know nothing of it, and it grows back.
        assert_eq!(limits.attempt(Limited::Register, ip("2001:db8:8::1"), None), Ok(()));
        assert_eq!(limits.attempt(Limited::Register, ip("192.0.2.1"), None), Ok(()));
        pass(&time, 90);
        assert_eq!(limits.attempt(Limited::Register, ip("2001:db8:7:ffff::1"), None), Ok(()));
    }

    #[test]
    fn wrong_passwords_make_wait_twice_as_long_each_time() {
        let (limits, time) = limits();
        for _ in 0..5 {
            assert_eq!(wrong(&limits, "192.0.2.1", "ann"), 0);
        }
        for expected in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900] {
            assert_eq!(wrong(&limits, "192.0.2.1", "ann"), expected);
            // Asking in vain makes nothing longer.
            pass(&time, expected - 1);
            assert_eq!(wrong(&limits, "192.0.2.1", "ann"), 1);
            pass(&time, 1);
            assert_eq!(wrong(&limits, "192.0.2.1", "ann"), 0);
        }
        pass(&time, 3601);
        for _ in 0..5 {
            assert_eq!(wrong(&limits, "192.0.2.1", "ann"), 0);
        }
        assert_eq!(wrong(&limits, "192.0.2.1", "ann"), 1);
    }

    #[test]
    fn a_right_password_ends_the_wait() {
        let (limits, time) = limits();
        for _ in 0..5 {
            wrong(&limits, "192.0.2.1", "ann");
        }
        pass(&time, 1);
        assert_eq!(limits.attempt(Limited::Login, ip("192.0.2.1"), Some("ann")), Ok(()));
        limits.succeeded(Limited::Login, ip("192.0.2.1"), "ann");
        for _ in 0..5 {
            assert_eq!(wrong(&limits, "192.0.2.1", "ann"), 0);
        }
    }

    #[test]
    fn attempts_at_the_same_moment_are_no_way_around() {
        let (limits, _) = limits();
        let passed =
            (0..20).filter(|_| limits.attempt(Limited::Login, ip("192.0.2.1"), Some("ann")).is_ok()).count();
        assert_eq!(passed, 5);
    }

    #[test]
    fn waits_are_one_accounts_and_one_blocks() {
        let (limits, _) = limits();
        for _ in 0..5 {
            wrong(&limits, "192.0.2.1", "ann");
        }
        assert_eq!(wrong(&limits, "192.0.2.1", "ann"), 1);
        assert_eq!(wrong(&limits, "192.0.2.1", "bob"), 0);
        assert_eq!(wrong(&limits, "192.0.2.2", "ann"), 0);
        let confirm = limits.attempt(Limited::ConfirmPassword, ip("192.0.2.1"), Some("ann"));
        assert_eq!(confirm, Ok(()));
    }

    /// 200 addresses try five passwords each, all at one moment. How many were tried.
    fn siege(limits: &RateLimits) -> usize {
        let strangers = (0..1000).map(|try_of| format!("198.51.100.{}", try_of / 5));
        strangers.filter(|stranger| wrong(limits, stranger, "ann") == 0).count()
    }

    #[test]
    fn a_siege_slows_strangers_and_locks_no_owner_out() {
        let (limits, time) = limits();
        assert_eq!(limits.attempt(Limited::Login, ip("192.0.2.1"), Some("ann")), Ok(()));
        limits.succeeded(Limited::Login, ip("192.0.2.1"), "ann");
        // Not a thousand.
        assert_eq!(siege(&limits), 30);
        // Where the owner has signed in before, nothing has changed.
        assert_eq!(wrong(&limits, "192.0.2.1", "ann"), 0);
        // On a new network they wait for half a minute at most, whatever the strangers do meanwhile.
        let first = wrong(&limits, "203.0.113.9", "ann");
        assert!((1..=30).contains(&first), "{first}");
        for _ in 0..30 {
            pass(&time, 1);
            siege(&limits);
        }
        assert_eq!(wrong(&limits, "203.0.113.8", "ann"), 30);
        assert_eq!(limits.attempt(Limited::Login, ip("203.0.113.9"), Some("ann")), Ok(()));
        limits.succeeded(Limited::Login, ip("203.0.113.9"), "ann");
        assert_eq!(wrong(&limits, "203.0.113.9", "ann"), 0);
        // Another account knows nothing of it.
        assert_eq!(wrong(&limits, "203.0.113.10", "bob"), 0);
    }

    #[test]
    fn a_block_that_is_recalled_waits_for_its_own_wrong_passwords_only() {
        let (limits, _) = limits();
        siege(&limits);
        assert_ne!(wrong(&limits, "192.0.2.1", "ann"), 0);
        limits.recall(Limited::Login, ip("192.0.2.1"), "ann");
        for _ in 0..5 {
            assert_eq!(wrong(&limits, "192.0.2.1", "ann"), 0);
            // Said at each attempt, it takes no wrong password back.
            limits.recall(Limited::Login, ip("192.0.2.1"), "ann");
        }
        assert_eq!(wrong(&limits, "192.0.2.1", "ann"), 1);
        assert_ne!(wrong(&limits, "192.0.2.2", "ann"), 0, "another block");
    }

    #[test]
    fn a_siege_lasts_while_it_goes_on_and_ends_two_hours_later() {
        let (limits, time) = limits();
        siege(&limits);
        for _ in 0..100 {
            pass(&time, 30);
            // Each of the 200 waits for itself.
            assert!(siege(&limits) <= 200);
        }
        assert_eq!(wrong(&limits, "203.0.113.9", "ann"), 30);
        pass(&time, 2 * 3600);
        assert_eq!(wrong(&limits, "203.0.113.9", "ann"), 0);
    }

    #[test]
    fn mails_are_counted_by_the_address_that_is_given() {
        let (limits, time) = limits();
        let ask = |account: &str| wait(limits.attempt(Limited::RequestMail, ip("192.0.2.1"), Some(account)));
        for _ in 0..3 {
            assert_eq!(ask("nobody@example.com"), 0);
        }
        assert_eq!(ask("nobody@example.com"), 300);
        assert_eq!(ask("ann@example.com"), 0);
        pass(&time, 300);
        assert_eq!(ask("nobody@example.com"), 0);
        // Another block can still ask.
        assert_eq!(limits.attempt(Limited::RequestMail, ip("192.0.2.2"), Some("nobody@example.com")), Ok(()));
    }

    /// 80 letters to one mailbox came from one site.
    #[test]
    fn a_site_has_no_more_mail_for_one_address_than_a_block() {
        for what in [Limited::RequestMail, Limited::Register] {
            let (limits, time) = limits();
            let ask = |network: u32, account: &str| {
                limits.attempt(what, ip(&format!("2001:db8:7:{network:x}::1")), Some(account)).is_ok()
            };
            assert_eq!((0..30).filter(|network| ask(*network, "ann@example.com")).count(), 3, "{what:?}");
            assert!(ask(31, "bob@example.com"));
            pass(&time, 300);
            assert_eq!((40..70).filter(|network| ask(*network, "ann@example.com")).count(), 1);
            // Of IPv4 each address is a block.
            let from = |n: u8| limits.attempt(what, [192, 0, 2, n].into(), Some("ann@example.com")).is_ok();
            assert_eq!((0..30).filter(|n| from(*n)).count(), 30);
        }
    }

    /// The table at the top is what holds.
    #[test]
    fn the_table_says_what_is_true() {
        let rows: Vec<Vec<&str>> = include_str!("limits.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! | "))
            .map(|line| line.trim_end_matches(" |").split(" | ").collect())
            .collect();
        let span = |span: Duration| match span.as_secs() {
            0 => format!("one in {} s", span.as_secs_f64()),
            seconds if seconds % 60 == 0 => format!("one in {} min", seconds / 60),
            seconds => format!("one in {seconds} s"),
        };
        let kinds = LimitSettings::default().allowances;
        for (row, allowance) in [
            ("login, the present password", kinds.login),
            ("login, the present password", kinds.confirm_password),
            ("register", kinds.register),
            ("refresh", kinds.refresh),
            ("asking for a mail", kinds.request_mail),
            ("registering or asking for a mail, for one given address", kinds.mail_to_address),
            ("trying a mailed link", kinds.use_link),
            ("beginning, refreshing or coming back to a connection", kinds.connect),
            ("bringing tokens for a connection", kinds.import),
            ("a session cookie that is over, for one value", kinds.session_cookie),
        ] {
            let want = [row.to_owned(), allowance.burst.to_string(), span(allowance.every)];
            assert!(rows.iter().any(|found| *found == want), "{want:?} is not in the table");
        }
    }

    #[test]
    fn a_flood_of_addresses_takes_bounded_memory_and_the_last_is_still_counted() {
        let limits = RateLimits::sized(LimitSettings::default(), Arc::new(|| Duration::from_secs(1000)), 100);
        for client in 0..2000_u32 {
            let _ = limits.attempt(Limited::Login, IpAddr::from(client.to_be_bytes()), Some("ann"));
            limits.failed(Limited::Login, IpAddr::from(client.to_be_bytes()), &client.to_string());
        }
        for _ in 0..5 {
            assert_eq!(wrong(&limits, "192.0.2.1", "bob"), 0);
        }
        assert_eq!(wrong(&limits, "192.0.2.1", "bob"), 1);
        limits.rates.run_pending_tasks();
        limits.tries.run_pending_tasks();
        limits.pressures.run_pending_tasks();
        for entries in
            [limits.rates.entry_count(), limits.tries.entry_count(), limits.pressures.entry_count()]
        {
            assert!(entries <= 100, "{entries}");
        }
    }

    #[test]
    fn a_switch_turns_all_of_it_off() {
        let (limits, _) = limits();
        limits.set_enabled(false);
        for _ in 0..1000 {
            assert_eq!(wrong(&limits, "192.0.2.1", "ann"), 0);
        }
        limits.set_enabled(true);
        assert_eq!(wrong(&limits, "192.0.2.1", "ann"), 0);
    }
}
