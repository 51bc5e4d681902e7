//! Carrying a session from the host of `public_url` to another host: begin, leave, take. What the texts in between are
//! bound to is in [`crate::domain::carry`].
//!
//! A code is in the memory of this process until it is used, for a minute at most; a restart voids it, and the browser
//! then makes one more turn. It is in no log: only its hash is kept, and it travels in a query, which is not logged.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::domain::account::UserId;
use crate::domain::browser::{BrowserSettings, NamedOrigin};
use crate::domain::carry::{self, CODE_LIFE, CarryRequest, Nonce, Turn};
use crate::domain::opaque::{ServerKey, TokenHash};
use crate::domain::redirect::Location;
use crate::domain::return_to::{BESIDE_APPS, ReturnReach, ReturnTarget};
use crate::domain::session::SessionId;
use crate::domain::time::UnixTime;
use crate::ports::{Clock, Entropy};

/// The most codes at once, of all sessions together: some megabytes.
const MAX_CODES: usize = 10_000;
/// The most codes of one session at once: its tabs. The oldest gives way, so no session takes the room of all.
const MAX_OF_A_SESSION: usize = 32;

/// The asking half: what a host sets and adds to the address of the sign-in.
#[derive(Debug)]
pub struct CarryBegun {
    /// A nonce that the browser has not got yet, to be set in its cookie.
    pub new_nonce: Option<Nonce>,
    /// The value of [`crate::domain::sign_in_url::CARRY`].
    pub parameter: String,
}

/// What a code stood for.
#[derive(Clone, PartialEq, Eq)]
pub struct Carried {
    pub user: UserId,
    pub session: SessionId,
    /// Where the person was going, on the very host that the code was for.
    pub target: ReturnTarget,
}

/// Why no session is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CarryFault {
    /// The browser has no nonce of this host: it did not keep the cookie, or another browser began this (login CSRF).
    /// `was_cleartext`: it began over `http`, where browsers keep no cookie that is `Secure`.
    #[error("the browser brought no nonce of this host")]
    NoNonce { was_cleartext: bool },
    /// The code is for another browser or another host. It is void now.
    #[error("the code is for another browser or another host")]
    NotForHere,
    /// The code was used, is over, or was never one.
    #[error("the code was used, or is over")]
    Over,
    /// The code was made later than now: the clock was set back.
    #[error("the clock was set back")]
    Clock,
}

/// A code that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarryRefused {
    pub fault: CarryFault,
    /// Where its browser was going, when the code was one.
    pub target: Option<ReturnTarget>,
}

struct Code {
    nonce: TokenHash,
    origin: NamedOrigin,
    carried: Carried,
    was_cleartext: bool,
    made_at: UnixTime,
    /// Its place in the order of all.
    number: u64,
}

#[derive(Default)]
struct Codes {
    by_hash: HashMap<TokenHash, Code>,
    made: u64,
}

/// Carries sessions between hosts.
pub struct SessionCarrier {
    key: Arc<ServerKey>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    codes: Mutex<Codes>,
}

impl SessionCarrier {
    /// One for the process: codes are in its memory.
    #[must_use]
    pub fn new(key: Arc<ServerKey>, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> SessionCarrier {
        SessionCarrier { key, clock, entropy, codes: Mutex::default() }
    }

    /// Begins a sign-in that `origin` asks for. `nonce` is the cookie that the request brought; a good one is used
    /// again, so that all tabs have one nonce. `was_cleartext`: the request came over `http`, as far as it tells.
    #[must_use]
    pub fn begin(&self, origin: &NamedOrigin, nonce: Option<&str>, was_cleartext: bool) -> CarryBegun {
        let known = nonce.and_then(|value| Nonce::read(&self.key, &origin.host, value));
        let (new_nonce, hash) = match known {
            Some(nonce) => (None, nonce.hash()),
            None => {
                let nonce = Nonce::new(&self.key, &origin.host, &self.random());
                let hash = nonce.hash();
                (Some(nonce), hash)
            }
        };
        let request =
            CarryRequest { origin: origin.clone(), nonce: hash, was_cleartext, begun_at: self.clock.now() };
        CarryBegun { new_nonce, parameter: request.write(&self.key) }
    }

    /// Where a browser goes that is signed in on the host of `public_url`. With a good `parameter` that the target's own
    /// host made, a code takes the session along. Without one the browser goes to the target as it is; if its host has no
    /// session, that host asks for one.
    #[must_use]
    pub fn leave(
        &self,
        user: UserId,
        session: SessionId,
        target: &ReturnTarget,
        parameter: Option<&str>,
    ) -> Location {
        let now = self.clock.now();
        let request = parameter.and_then(|text| CarryRequest::read(&self.key, text, now));
        match (target.reach(), request) {
            (ReturnReach::Carried, Some(request)) if request.origin == *target.origin() => {
                let code = self.code(request, Carried { user, session, target: target.clone() }, now);
                let origin = target.origin();
                // Base64url, and an origin that was parsed: always a location.
                Location::new(format!("{origin}{BESIDE_APPS}/carry?code={code}"))
                    .unwrap_or_else(|_| target.location().clone())
            }
            (ReturnReach::Public, _) => self.mark(target),
            (ReturnReach::Carried | ReturnReach::Outside, _) => target.location().clone(),
        }
    }

    /// Takes a code that came to `host` ([`crate::domain::request::Host::name`]) with the nonce cookie `nonce`. It is void
    /// after this, whatever comes of it.
    ///
    /// # Errors
    /// [`CarryRefused`].
    pub fn take(&self, code: &str, host: &str, nonce: Option<&str>) -> Result<Carried, CarryRefused> {
        let found = self.codes().by_hash.remove(&TokenHash::of(code.as_bytes()));
        let checked = self.check(found.as_ref(), host, nonce);
        // On another host its target says nothing: it is of the host that the code was for.
        let here = found.filter(|code| code.origin.host == host).map(|code| code.carried);
        match (checked, here) {
            (Ok(()), Some(carried)) => Ok(carried),
            (Ok(()), None) => Err(CarryRefused { fault: CarryFault::Over, target: None }),
            (Err(fault), here) => Err(CarryRefused { fault, target: here.map(|carried| carried.target) }),
        }
    }

    fn check(&self, code: Option<&Code>, host: &str, nonce: Option<&str>) -> Result<(), CarryFault> {
        let now = self.clock.now();
        let was_cleartext = code.is_some_and(|code| code.was_cleartext);
        let nonce = nonce
            .and_then(|value| Nonce::read(&self.key, host, value))
            .ok_or(CarryFault::NoNonce { was_cleartext })?;
        let code = code.ok_or(CarryFault::Over)?;
        if code.origin.host != host || !code.nonce.is(&nonce.hash()) {
            return Err(CarryFault::NotForHere);
        }
        if now < code.made_at {
            return Err(CarryFault::Clock);
        }
        match now < code.made_at.plus(CODE_LIFE) {
            true => Ok(()),
            false => Err(CarryFault::Over),
        }
    }

    /// A target with a mark, by which its host knows that the browser was sent back there just now.
    #[must_use]
    pub fn mark(&self, target: &ReturnTarget) -> Location {
        let marked = carry::marked(&self.key, target.origin(), target.as_str(), self.clock.now());
        marked.unwrap_or_else(|_| target.location().clone())
    }

    /// What the mark at the end of a query says on `host`; `None`: it has none.
    #[must_use]
    pub fn turn(&self, host: &str, query: Option<&str>) -> Option<Turn> {
        let (_, mark) = carry::split_mark(query?)?;
        Some(carry::read_mark(&self.key, host, mark, self.clock.now()))
    }

    fn code(&self, request: CarryRequest, carried: Carried, now: UnixTime) -> String {
        let text = URL_SAFE_NO_PAD.encode(*self.random());
        let mut codes = self.codes();
        codes.make_room(carried.session, now);
        codes.made += 1;
        let number = codes.made;
        let CarryRequest { origin, nonce, was_cleartext, .. } = request;
        let code = Code { nonce, origin, carried, was_cleartext, made_at: now, number };
        codes.by_hash.insert(TokenHash::of(text.as_bytes()), code);
        text
    }

    fn random(&self) -> Zeroizing<[u8; 32]> {
        let mut random = Zeroizing::new([0; 32]);
        self.entropy.fill(&mut *random);
        random
    }

    fn codes(&self) -> std::sync::MutexGuard<'_, Codes> {
        // What a thread that panicked left is whole: each change is one call.
        self.codes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Codes {
    /// Removes what is over, and what is in the way of one more code of `session`.
    fn make_room(&mut self, session: SessionId, now: UnixTime) {
        let of_session = self.by_hash.values().filter(|code| code.carried.session == session).count();
        if of_session < MAX_OF_A_SESSION && self.by_hash.len() < MAX_CODES {
            return;
        }
        self.by_hash.retain(|_, code| now < code.made_at.plus(CODE_LIFE));
        let of_session = |code: &Code| code.carried.session == session;
        if self.by_hash.values().filter(|code| of_session(code)).count() >= MAX_OF_A_SESSION {
            self.remove_oldest(of_session);
        }
        if self.by_hash.len() >= MAX_CODES {
            self.remove_oldest(|_| true);
        }
    }

    fn remove_oldest(&mut self, of: impl Fn(&Code) -> bool) {
        let codes = self.by_hash.iter().filter(|(_, code)| of(code));
        let oldest = codes.min_by_key(|(_, code)| code.number).map(|(hash, _)| *hash);
        if let Some(oldest) = oldest {
            self.by_hash.remove(&oldest);
        }
    }
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carried").field("session", &self.session).finish_non_exhaustive()
    }
}

impl fmt::Debug for SessionCarrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCarrier").finish_non_exhaustive()
    }
}

/// The origin under which a session can be carried to `host`, when the configuration names it
/// ([`BrowserSettings::hosts`]); `None` for the host of `public_url`, and for what only a wildcard or a route without a host
/// matches.
#[must_use]
pub fn carried_to<'s>(
    settings: &'s BrowserSettings,
    host: &crate::domain::request::Host<'_>,
) -> Option<&'s NamedOrigin> {
    settings.hosts.iter().find(|origin| origin.is_for(host) && origin.host != settings.public.host)
}
