//! Fakes of what counts attempts, of what keeps events and of what measures, for tests only.

use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use palisade_core::domain::audit::Event;
use palisade_core::ports::{Audit, Ended, Limited, Limiter, Meter, TooMany};

/// Lets everything through but what it was told to stop, and remembers how attempts ended.
#[derive(Default)]
pub struct FakeLimiter {
    pub stop: Mutex<Option<Limited>>,
    /// Lets only blocks through that it was told of by `recall`.
    pub besieged: AtomicBool,
    recalled: Mutex<Vec<(Limited, IpAddr, String)>>,
    pub ended: Mutex<Vec<(Limited, bool)>>,
    pub not_tried: Mutex<Vec<Limited>>,
    /// The attempts that were given back.
    pub given_back: Mutex<Vec<(Limited, IpAddr)>>,
    /// The attempts on accounts that go by more than one name.
    pub on_accounts: Mutex<Vec<(Limited, IpAddr, String)>>,
    /// Such an attempt has to wait.
    pub account_waits: AtomicBool,
    /// The names under which attempts were counted.
    pub counted: Mutex<Vec<String>>,
    /// The attempts that were refused where guesses are shared.
    pub refused_elsewhere: Mutex<Vec<(Limited, String)>>,
    /// The misses of session cookies, by client and value.
    pub misses: Mutex<Vec<(IpAddr, String)>>,
}

/// So many misses of a value from one address, and it waits.
pub const MISSES: usize = 3;

impl Limiter for FakeLimiter {
    fn attempt(&self, what: Limited, client: IpAddr, account: Option<&str>) -> Result<(), TooMany> {
        if what == Limited::SessionCookie {
            self.misses.lock().unwrap().push((client, account.unwrap_or_default().to_owned()));
        }
        self.counted.lock().unwrap().push(account.unwrap_or_default().to_owned());
        let try_of = (what, client, account.unwrap_or_default().to_owned());
        let waits = self.besieged.load(Ordering::Relaxed) && !self.recalled.lock().unwrap().contains(&try_of);
        match waits || *self.stop.lock().unwrap() == Some(what) {
            true => Err(TooMany { retry_after: Duration::from_secs(7) }),
            false => Ok(()),
        }
    }

    fn attempt_on_account(&self, what: Limited, client: IpAddr, account: &str) -> Result<(), TooMany> {
        self.on_accounts.lock().unwrap().push((what, client, account.to_owned()));
        match self.account_waits.load(Ordering::Relaxed) {
            true => Err(TooMany { retry_after: Duration::from_secs(7) }),
            false => Ok(()),
        }
    }

    fn waits(&self, what: Limited, client: IpAddr, account: &str) -> Result<(), TooMany> {
        let misses = self.misses.lock().unwrap();
        let count = misses.iter().filter(|(from, value)| *from == client && value == account).count();
        match *self.stop.lock().unwrap() == Some(what) || count >= MISSES {
            true => Err(TooMany { retry_after: Duration::from_secs(7) }),
            false => Ok(()),
        }
    }

    fn not_tried(&self, what: Limited, _: IpAddr, _: &str) {
        self.not_tried.lock().unwrap().push(what);
    }

    fn give_back(&self, what: Limited, client: IpAddr) {
        self.given_back.lock().unwrap().push((what, client));
    }

    fn failed(&self, what: Limited, _: IpAddr, _: &str) {
        self.ended.lock().unwrap().push((what, false));
    }

    fn recall(&self, what: Limited, client: IpAddr, account: &str) {
        self.recalled.lock().unwrap().push((what, client, account.to_owned()));
    }

    fn succeeded(&self, what: Limited, _: IpAddr, _: &str) {
        self.ended.lock().unwrap().push((what, true));
    }

    fn refused_elsewhere(&self, what: Limited, _: IpAddr, account: &str, _: TooMany) {
        self.refused_elsewhere.lock().unwrap().push((what, account.to_owned()));
    }
}

/// Measures nothing.
pub struct NoMeter;

impl Meter for NoMeter {
    fn ended(&self, _: &Ended<'_>) {}
    fn token_cache(&self, _: bool) {}
    fn store_call(&self, _: &'static str, _: Duration, _: bool) {}
    fn mail(&self, _: &'static str) {}
    fn password(&self, _: Duration, _: Duration) {}
    fn jwks_fetch(&self, _: &str, _: bool) {}
    fn provider_call(&self, _: &str, _: &'static str, _: &'static str, _: Duration) {}
    fn provider_request(&self, _: &str, _: &'static str) {}
    fn plugin_reload(&self, _: &str, _: &'static str) {}
}

/// Keeps what it is told.
#[derive(Default)]
pub struct FakeAudit(pub Mutex<Vec<Event>>);

impl Audit for FakeAudit {
    fn record(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}
