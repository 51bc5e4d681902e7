//! Carrying a session from the host of `public_url` to another host: begin, leave, take. What the texts in between are
//! bound to is in [`crate::domain::carry`].
//!
//! A code is kept until it is used, for a minute at most: in the memory of this process, where a restart voids it and the
//! browser then makes one more turn; and among the notes of a store that several gateways share, since the browser may
//! bring it to any of them. It is in no log: only its hash is kept, and it travels in a query, which is not logged.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::domain::account::UserId;
use crate::domain::browser::{BrowserSettings, NamedOrigin};
use crate::domain::carry::{self, CODE_LIFE, CarryRequest, Nonce, Turn};
use crate::domain::opaque::{ServerKey, TokenHash};
use crate::domain::redirect::Location;
use crate::domain::return_to::{BESIDE_APPS, ReturnReach, ReturnTarget};
use crate::domain::session::SessionId;
use crate::domain::time::UnixTime;
use crate::ports::{Clock, Entropy, NoteKey, NoteKind, NotePut, SharedNotes, Store, StoreError};

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

/// A code as the gateways over one store share it.
#[derive(Serialize, Deserialize)]
struct SharedCode {
    nonce: TokenHash,
    origin: String,
    user: UserId,
    session: SessionId,
    target: String,
    was_cleartext: bool,
    made_at: UnixTime,
}

impl SharedCode {
    /// The code, where the configuration of this gateway still names its target.
    fn read(body: &[u8], settings: &BrowserSettings) -> Option<Code> {
        let SharedCode { nonce, origin, user, session, target, was_cleartext, made_at } =
            serde_json::from_slice(body).ok()?;
        let carried = Carried { user, session, target: ReturnTarget::parse(&target, settings)? };
        let origin = NamedOrigin::parse(&origin)?;
        Some(Code { nonce, origin, carried, was_cleartext, made_at, number: 0 })
    }
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
    store: Arc<dyn Store>,
    codes: Mutex<Codes>,
}

impl SessionCarrier {
    /// One for the process: codes are in its memory, unless other gateways share `store`.
    #[must_use]
    pub fn new(
        key: Arc<ServerKey>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        store: Arc<dyn Store>,
    ) -> SessionCarrier {
        SessionCarrier { key, clock, entropy, store, codes: Mutex::default() }
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
    ///
    /// # Errors
    /// [`StoreError`]: the code could not be written where other gateways read it.
    pub async fn leave(
        &self,
        user: UserId,
        session: SessionId,
        target: &ReturnTarget,
        parameter: Option<&str>,
    ) -> Result<Location, StoreError> {
        let now = self.clock.now();
        let request = parameter.and_then(|text| CarryRequest::read(&self.key, text, now));
        Ok(match (target.reach(), request) {
            (ReturnReach::Carried, Some(request)) if request.origin == *target.origin() => {
                let carried = Carried { user, session, target: target.clone() };
                let code = self.code(request, carried, now).await?;
                let origin = target.origin();
                // Base64url, and an origin that was parsed: always a location.
                Location::new(format!("{origin}{BESIDE_APPS}/carry?code={code}"))
                    .unwrap_or_else(|_| target.location().clone())
            }
            (ReturnReach::Public, _) => self.mark(target),
            (ReturnReach::Carried | ReturnReach::Outside, _) => target.location().clone(),
        })
    }

    /// Takes a code that came to `host` ([`crate::domain::request::Host::name`]) with the nonce cookie `nonce`. It is void
    /// after this, whatever comes of it. `settings` are those in force.
    ///
    /// # Errors
    /// [`StoreError`]: it is not known whether it is one. [`CarryRefused`].
    pub async fn take(
        &self,
        code: &str,
        host: &str,
        nonce: Option<&str>,
        settings: &BrowserSettings,
    ) -> Result<Result<Carried, CarryRefused>, StoreError> {
        let hash = TokenHash::of(code.as_bytes());
        let found = match self.store.shared_notes() {
            Some(notes) => {
                let taken = notes.take_note(note_of(&hash)).await?;
                taken.and_then(|body| SharedCode::read(&body, settings))
            }
            None => self.codes().by_hash.remove(&hash),
        };
        Ok(self.taken(found, host, nonce))
    }

    fn taken(&self, found: Option<Code>, host: &str, nonce: Option<&str>) -> Result<Carried, CarryRefused> {
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

    async fn code(
        &self,
        request: CarryRequest,
        carried: Carried,
        now: UnixTime,
    ) -> Result<String, StoreError> {
        let text = URL_SAFE_NO_PAD.encode(*self.random());
        let hash = TokenHash::of(text.as_bytes());
        let CarryRequest { origin, nonce, was_cleartext, .. } = request;
        let code = Code { nonce, origin, carried, was_cleartext, made_at: now, number: 0 };
        match self.store.shared_notes() {
            Some(notes) => share(notes, &hash, &code).await?,
            None => self.codes().insert(hash, code),
        }
        Ok(text)
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

/// Where the code of this hash is kept among shared notes.
fn note_of(hash: &TokenHash) -> NoteKey {
    NoteKey { kind: NoteKind::Carry, hash: hash.0 }
}

async fn share(notes: &dyn SharedNotes, hash: &TokenHash, code: &Code) -> Result<(), StoreError> {
    let Code { nonce, origin, carried, was_cleartext, made_at, .. } = code;
    let Carried { user, session, target } = carried;
    let shared = SharedCode {
        nonce: *nonce,
        origin: origin.to_string(),
        user: *user,
        session: *session,
        target: target.as_str().to_owned(),
        was_cleartext: *was_cleartext,
        made_at: *made_at,
    };
    let unwritten = |error: serde_json::Error| StoreError::Unavailable(error.to_string());
    let body = serde_json::to_vec(&shared).map_err(unwritten)?;
    let put = NotePut { key: note_of(hash), before: None, body, life: CODE_LIFE };
    // There is no other of the same randomness.
    notes.put_notes(vec![put]).await.map(drop)
}

impl Codes {
    fn insert(&mut self, hash: TokenHash, code: Code) {
        self.make_room(code.carried.session, code.made_at);
        self.made += 1;
        self.by_hash.insert(hash, Code { number: self.made, ..code });
    }

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
