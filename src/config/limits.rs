//! `[limits]`: how often people and programs may try, and how much mail one mailbox gets.

use std::time::Duration;

use ipnet::IpNet;

use super::file::{Item, Section};
use super::networks::{canonical, is_too_wide, network};
use palisade_core::domain::guesses::Guesses;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Attempts are remembered in memory for so long at the most.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSettings {
    /// Whether there are any limits on attempts.
    pub enabled: bool,
    /// What an address block may do.
    pub allowances: Allowances,
    /// Wrong passwords for one account.
    pub guesses: Guesses,
    /// Networks without an allowance for each address block: a school or an office behind one address.
    pub exempt: Vec<IpNet>,
    /// How many letters that any caller can ask for one mailbox gets in an hour; at least 1.
    pub letters_per_hour: usize,
    /// The same in a day.
    pub letters_per_day: usize,
}

impl Default for LimitSettings {
    fn default() -> LimitSettings {
        LimitSettings {
            enabled: true,
            allowances: Allowances::default(),
            guesses: Guesses::default(),
            exempt: Vec::new(),
            letters_per_hour: 5,
            letters_per_day: 15,
        }
    }
}

/// A rate limit: `burst` attempts at once, and one more each time that `every` has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// 1 to 100,000.
    pub burst: u32,
    /// A millisecond to a day.
    pub every: Duration,
}

impl Allowance {
    /// How long until it is whole again once it is used up.
    fn whole_after(self) -> Duration {
        self.every.saturating_mul(self.burst)
    }
}

/// The allowances of each kind of attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowances {
    /// Signing in with a password.
    pub login: Allowance,
    /// Giving the present password for a change.
    pub confirm_password: Allowance,
    /// Registering.
    pub register: Allowance,
    /// Refreshing a session.
    pub refresh: Allowance,
    /// Asking for a mail.
    pub request_mail: Allowance,
    /// Registering and asking for a mail, for one given address.
    pub mail_to_address: Allowance,
    /// Trying a mailed link.
    pub use_link: Allowance,
    /// Beginning, refreshing or coming back to a connection.
    pub connect: Allowance,
    /// Bringing tokens for a connection.
    pub import: Allowance,
    /// A session cookie that is over, for one value.
    pub session_cookie: Allowance,
}

impl Allowances {
    /// How long it takes at the most until an allowance that was used up is whole again.
    #[must_use]
    pub fn longest(&self) -> Duration {
        let kinds = [
            self.login,
            self.confirm_password,
            self.register,
            self.refresh,
            self.request_mail,
            self.mail_to_address,
            self.use_link,
            self.connect,
            self.import,
            self.session_cookie,
        ];
        kinds.into_iter().map(Allowance::whole_after).max().unwrap_or_default()
    }
}

impl Default for Allowances {
    fn default() -> Allowances {
        let seconds = |burst, seconds| Allowance { burst, every: Duration::from_secs(seconds) };
        let millis = |burst, millis| Allowance { burst, every: Duration::from_millis(millis) };
        Allowances {
            login: seconds(20, 3),
            confirm_password: seconds(20, 3),
            register: seconds(10, 360),
            refresh: millis(120, 500),
            request_mail: seconds(10, 60),
            mail_to_address: seconds(3, 300),
            use_link: seconds(20, 3),
            connect: seconds(30, 2),
            import: seconds(10, 60),
            session_cookie: millis(300, 200),
        }
    }
}

/// Reads the section.
pub(super) fn limits(section: Section<'_>) -> LimitSettings {
    let default = LimitSettings::default();
    let enabled = section.bool("enabled", default.enabled);
    if let Some(item) = section.get("enabled").filter(|_| !enabled) {
        item.doc.warn(item.at, &item.key, "passwords can be guessed as fast as they are hashed");
    }
    let kinds = default.allowances;
    let of = |name, default| allowance(section.section(name), default);
    let settings = LimitSettings {
        enabled,
        allowances: Allowances {
            login: of("login", kinds.login),
            confirm_password: of("confirm_password", kinds.confirm_password),
            register: of("register", kinds.register),
            refresh: of("refresh", kinds.refresh),
            request_mail: of("request_mail", kinds.request_mail),
            mail_to_address: of("mail_to_address", kinds.mail_to_address),
            use_link: of("use_link", kinds.use_link),
            connect: of("connect", kinds.connect),
            import: of("import", kinds.import),
            session_cookie: of("session_cookie", kinds.session_cookie),
        },
        guesses: guesses(section.section("guesses"), default.guesses),
        exempt: section.list("exempt", exempt),
        letters_per_hour: section.count("letters_per_hour", default.letters_per_hour, 1..=1000),
        letters_per_day: section.count("letters_per_day", default.letters_per_day, 1..=1000),
    };
    section.close();
    settings
}

fn allowance(section: Section<'_>, default: Allowance) -> Allowance {
    let allowance = Allowance {
        burst: count(&section, "burst", default.burst, 100_000),
        every: section.duration("every", default.every, Duration::from_millis(1)..=DAY),
    };
    if allowance.whole_after() > LONGEST {
        let whole = humantime::format_duration(allowance.whole_after());
        let found = format!(
            "{} of which one comes back every {}",
            allowance.burst,
            humantime::format_duration(allowance.every)
        );
        let want = format!(
            "an allowance that is whole again within 7 days: attempts are remembered in memory; this one takes {whole}"
        );
        section.doc.fault(section.at, &section.key, found, want);
    }
    section.close();
    allowance
}

fn guesses(section: Section<'_>, default: Guesses) -> Guesses {
    let guesses = Guesses {
        free: count(&section, "free", default.free, 100),
        // With more, one person could keep another one of the same network from their account for too long.
        longest: section.duration("longest", default.longest, Duration::from_secs(1)..=HOUR),
    };
    section.close();
    guesses
}

/// A number from 1 to `most`.
fn count(section: &Section<'_>, name: &'static str, default: u32, most: u32) -> u32 {
    let number = section.get(name).and_then(|item| item.number(1..=u64::from(most)));
    number.and_then(|number| u32::try_from(number).ok()).unwrap_or(default)
}

fn exempt(item: &Item<'_>) -> Option<IpNet> {
    let net = canonical(network(item)?);
    if is_too_wide(&net) {
        let text = "so wide a network holds strangers, who then have no rate limit by address";
        item.doc.warn(item.at, &item.key, text);
    }
    Some(net)
}
