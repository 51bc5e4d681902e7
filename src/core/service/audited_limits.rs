//! Rate limits that write an audit event: for the first refusal of each wait, not for every one of a flood.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use super::caller::Source;
use super::noted::About;
use crate::domain::account::UserId;
use crate::domain::audit::{Action, Outcome};
use crate::domain::opaque::ServerKey;
use crate::domain::time::UnixTime;
use crate::ports::{Audit, Clock, Entropy, Limited, Limiter, TooMany};

/// How many waits are remembered. Beyond that, some may get a second audit event.
const WAITS: usize = 4096;

/// Any limits, audited.
pub struct AuditedLimits {
    limits: Arc<dyn Limiter>,
    audit: Arc<dyn Audit>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    key: Arc<ServerKey>,
    /// When each wait ends that has an audit event.
    noted: Mutex<HashMap<Wait, UnixTime>>,
}

/// Identifies a wait: the limited act, the address block, and the hash of the account.
type Wait = (String, IpAddr, Option<String>);

impl AuditedLimits {
    /// `limits`, audited. An address that was tried is noted as a hash under `key`, whether or not it has an account.
    #[must_use]
    pub fn new(
        limits: Arc<dyn Limiter>,
        audit: Arc<dyn Audit>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        key: Arc<ServerKey>,
    ) -> AuditedLimits {
        AuditedLimits { limits, audit, clock, entropy, key, noted: Mutex::default() }
    }

    /// Whether this refusal is the first of its wait.
    fn is_first(&self, wait: Wait, until: UnixTime, now: UnixTime) -> bool {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.get(&wait).is_some_and(|end| now < *end) {
            return false;
        }
        if noted.len() >= WAITS {
            noted.retain(|_, end| now < *end);
        }
        if noted.len() >= WAITS {
            noted.clear();
        }
        noted.insert(wait, until);
        true
    }

    /// Writes down the first refusal of a wait.
    fn audited(
        &self,
        what: Limited,
        client: IpAddr,
        account: Option<&str>,
        refused: Result<(), TooMany>,
    ) -> Result<(), TooMany> {
        if let Err(TooMany { retry_after }) = &refused {
            let now = self.clock.now();
            let word = snake(&format!("{what:?}"));
            let user: Option<UserId> = account.and_then(|account| account.parse().ok());
            // A session cookie names no address.
            let is_address = user.is_none() && what != Limited::SessionCookie;
            let hash = account.filter(|_| is_address).map(|account| self.key.hash_of_address(account));
            let wait =
                (word.clone(), block(client), account.map(|account| self.key.hash_of_address(account)));
            if self.is_first(wait, now.plus(*retry_after), now) {
                let mut about = About { user, ..About::default() }.because(word);
                about = about.with("retry_after", retry_after.as_secs().max(1));
                if let Some(hash) = hash {
                    about = about.with("address_hash", hash);
                }
                let mut event = Source::System.event(
                    self.entropy.uuid(),
                    now,
                    Action::LimitReached,
                    Outcome::Denied,
                    about,
                );
                event.actor = crate::domain::audit::Actor::User;
                event.address = Some(client);
                self.audit.record(event);
            }
        }
        refused
    }
}

impl Limiter for AuditedLimits {
    fn attempt(&self, what: Limited, client: IpAddr, account: Option<&str>) -> Result<(), TooMany> {
        let refused = self.limits.attempt(what, client, account);
        self.audited(what, client, account, refused)
    }

    fn attempt_on_account(&self, what: Limited, client: IpAddr, account: &str) -> Result<(), TooMany> {
        let refused = self.limits.attempt_on_account(what, client, account);
        self.audited(what, client, Some(account), refused)
    }

    fn waits(&self, what: Limited, client: IpAddr, account: &str) -> Result<(), TooMany> {
        self.limits.waits(what, client, account)
    }

    fn not_tried(&self, what: Limited, client: IpAddr, account: &str) {
        self.limits.not_tried(what, client, account);
    }

    fn give_back(&self, what: Limited, client: IpAddr) {
        self.limits.give_back(what, client);
    }

    fn failed(&self, what: Limited, client: IpAddr, account: &str) {
        self.limits.failed(what, client, account);
    }

    fn recall(&self, what: Limited, client: IpAddr, account: &str) {
        self.limits.recall(what, client, account);
    }

    fn succeeded(&self, what: Limited, client: IpAddr, account: &str) {
        self.limits.succeeded(what, client, account);
    }

    fn refused_elsewhere(&self, what: Limited, client: IpAddr, account: &str, refused: TooMany) {
        // Only the event is ours: what is told to the client is the caller's.
        let _ = self.audited(what, client, Some(account), Err(refused));
    }
}

/// What one subscriber of a network has as a rule.
fn block(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => {
            let mut bytes = address.octets();
            bytes[8..].fill(0);
            Ipv6Addr::from(bytes).into()
        }
    }
}

fn snake(name: &str) -> String {
    let mut word = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.push(c.to_ascii_lowercase());
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_of_the_newer_protocol_is_one_block() {
        let of = |text: &str| block(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(snake("RequestMail"), "request_mail");
    }
}
