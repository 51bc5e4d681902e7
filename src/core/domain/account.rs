//! A person's account.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::email::EmailAddress;
use super::email_change::EmailChanges;
use super::groups::Groups;
use super::link::Purpose;
use super::password::PasswordOwner;
use super::provider_identity::ProviderIdentity;
use super::time::UnixTime;
use super::username::Username;

/// How many devices of a person are remembered, so that only a new one is told of by mail.
pub const MAX_DEVICES: usize = 50;

/// How many letters about new devices an account gets in a day: a thief with the password can bring any number of
/// devices. The events tell of all of them.
pub const DEVICE_LETTERS_A_DAY: usize = 10;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The id of an account: the `sub` of its tokens (UUID v7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserId(pub Uuid);

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for UserId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<UserId, uuid::Error> {
        text.parse().map(UserId)
    }
}

/// A password as it is kept: a bcrypt string, or `bcrypt_sha256` v2 as passlib writes it; an imported one in a form of its
/// own until its owner signs in. Never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PasswordHash(pub String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

/// Whether the owner of the address has claimed the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// Written by a version that did not keep it. Its events may tell.
    #[default]
    Unknown,
    /// Registered, and never verified: the requester may not own the address.
    Unclaimed,
    /// Its address was verified once, or an operator made, imported or changed the account. It stays so, whatever
    /// becomes of the verification.
    Claimed,
}

/// An account, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct User {
    pub id: UserId,
    /// `None`: nothing is mailed to it, and nothing looks it up by an address.
    #[serde(default)]
    pub email: Option<EmailAddress>,
    /// Whether the person has shown that mail to [`User::email`] reaches them. False without an address.
    pub email_verified: bool,
    /// What it may be signed in to by beside its address, and what apps know it by (`preferred_username`). Set by an
    /// operator or an import, never by its owner; no other account ever had it.
    #[serde(default)]
    pub username: Option<Username>,
    /// In every access token's `groups`.
    #[serde(default)]
    pub groups: Groups,
    /// What they are called; on one line ([`super::name::is_name`] when it was given).
    pub name: Option<String>,
    /// `None`: the account has no password, and sign-in by password fails.
    pub password: Option<PasswordHash>,
    /// Set to false by an operator: every sign-in is refused and every session has ended.
    pub active: bool,
    /// Every sign-in before this moment is refused. Set by an operator only, never by failed attempts: an attacker
    /// could lock out the owner.
    pub locked_until: Option<UnixTime>,
    pub created_at: UnixTime,
    pub updated_at: UnixTime,
    pub last_login_at: Option<UnixTime>,
    /// What they may do, in every access token's `scope`.
    pub scopes: Vec<String>,
    /// Further claims of every access token; none has a registered name.
    pub claims: Map<String, Value>,
    /// Fingerprints of the devices that have signed in, the latest last.
    pub devices: Vec<String>,
    /// When its owner was mailed about new devices in the last day, the latest last.
    #[serde(default)]
    pub device_letters: Vec<UnixTime>,
    /// Marks of the address blocks from which it was signed in to ([`super::opaque::ServerKey::block_mark`]), the
    /// latest last; no address can be read from them.
    #[serde(default)]
    pub known_blocks: Vec<String>,
    /// Mailed links of an earlier generation are dead.
    pub link_generation: u64,
    /// The last link that was mailed for each purpose, by [`super::link::Link::id`]: the only one that is good for
    /// it. It may be over.
    #[serde(default)]
    pub live_links: BTreeMap<Purpose, Uuid>,
    #[serde(default)]
    pub claim: Claim,
    /// The registration that set this password, until the address is verified. A browser that proves that it sent
    /// that registration proves that its user chose the password ([`super::binding`]).
    #[serde(default)]
    pub registration: Option<Uuid>,
    /// Which changes of address can be undone, and whether one was.
    #[serde(default)]
    pub email_changes: EmailChanges,
    /// What it is known by at providers; no other account has one of them.
    #[serde(default)]
    pub identities: Vec<ProviderIdentity>,
    /// Counts the writes of this record; the store refuses one that was made from an older state.
    pub revision: u64,
}

impl User {
    /// An account as it begins: active, claimed, without a password, and with an address that is not verified.
    #[must_use]
    pub fn new(id: UserId, email: EmailAddress, now: UnixTime) -> User {
        User { email: Some(email), ..User::without_address(id, now) }
    }

    /// [`User::new`] without an address.
    #[must_use]
    pub fn without_address(id: UserId, now: UnixTime) -> User {
        User {
            id,
            email: None,
            email_verified: false,
            username: None,
            groups: Groups::default(),
            name: None,
            password: None,
            active: true,
            locked_until: None,
            created_at: now,
            updated_at: now,
            last_login_at: None,
            scopes: Vec::new(),
            claims: Map::new(),
            devices: Vec::new(),
            device_letters: Vec::new(),
            known_blocks: Vec::new(),
            link_generation: 0,
            live_links: BTreeMap::new(),
            claim: Claim::Claimed,
            registration: None,
            email_changes: EmailChanges::default(),
            identities: Vec::new(),
            revision: 0,
        }
    }

    /// Makes every link void that was mailed for the account, but for those that undo a change of its address.
    pub fn void_links(&mut self) {
        self.link_generation += 1;
        self.live_links.clear();
    }

    /// Whether one more letter about a new device may go out at `now`; counts it if so. The first
    /// [`DEVICE_LETTERS_A_DAY`] of any 24 hours may.
    pub fn admits_device_letter(&mut self, now: UnixTime) -> bool {
        // One that was mailed by a clock that was ahead holds none back.
        self.device_letters.retain(|at| *at <= now && now < at.plus(DAY));
        let admits = self.device_letters.len() < DEVICE_LETTERS_A_DAY;
        if admits {
            self.device_letters.push(now);
        }
        admits
    }

    /// Whether the account is claimed; `None` when its record does not say. An account that was ever used, or that an
    /// operator has changed, is claimed.
    #[must_use]
    pub fn is_claimed(&self) -> Option<bool> {
        let was_used = self.email_verified || self.last_login_at.is_some() || !self.devices.is_empty();
        let was_changed = !self.active
            || self.locked_until.is_some()
            || !self.scopes.is_empty()
            || !self.claims.is_empty()
            || self.username.is_some()
            || !self.groups.is_empty();
        match self.claim {
            _ if was_used || was_changed => Some(true),
            Claim::Claimed => Some(true),
            Claim::Unclaimed => Some(false),
            Claim::Unknown => None,
        }
    }

    /// Takes the address, if there is one, for verified, and the account for its owner's from now on.
    pub fn verified(&mut self) {
        self.email_verified = self.email.is_some();
        self.claim = Claim::Claimed;
        self.registration = None;
    }

    /// Whether the account can be used at all: an operator has not disabled it, and no undone change of address
    /// waits for a decision.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.active && !self.email_changes.is_frozen()
    }

    /// Whether this is the account's address.
    #[must_use]
    pub fn has_address(&self, email: &EmailAddress) -> bool {
        self.email.as_ref() == Some(email)
    }

    /// What it is called where a person reads it: by its address, or else its user name, or else its id.
    #[must_use]
    pub fn called(&self) -> String {
        let email = self.email.as_ref().map(EmailAddress::as_str);
        let name = email.or(self.username.as_ref().map(Username::as_str));
        name.map_or_else(|| self.id.to_string(), str::to_owned)
    }

    /// What others know of it, for a password that is set.
    #[must_use]
    pub fn password_owner(&self) -> PasswordOwner<'_> {
        let username = self.username.as_ref().map(Username::as_str);
        PasswordOwner { email: self.email.as_ref(), username, name: self.name.as_deref() }
    }

    /// Whether its address was never verified. An account without an address waits for nothing.
    #[must_use]
    pub fn awaits_verification(&self) -> bool {
        self.email.is_some() && !self.email_verified
    }

    /// The addresses that no other account may have: its own, and the one that is kept for it while it is decided
    /// which of them it gets.
    pub fn addresses(&self) -> impl Iterator<Item = &EmailAddress> {
        let reserved = self.email_changes.reserved().filter(|reserved| !self.has_address(reserved));
        self.email.iter().chain(reserved)
    }
}

/// Who may make an account (`[accounts] registration`), whatever the way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// Every person with a mailbox.
    Open,
    /// Those that an operator invited (`palisade users invite`).
    Invited,
    /// None: an operator makes the accounts.
    Closed,
}

/// What a verification link needs beside its token (`accounts.verification`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verification {
    /// Nothing, unless the caller asks for more: what people know of such links. Our own pages ask.
    #[default]
    Link,
    /// A proof that the owner of the mailbox also knows the account's password, or a new password.
    Proof,
}

/// What scopes must be: the text of the error for scopes of another form.
pub const SCOPES_WANTED: &str = "`scopes` must be at most 100 words of printable ASCII without spaces";

/// Whether these can be the scopes of a token (RFC 6749 §3.3): not too many, each of printable ASCII without
/// space, quote and backslash.
#[must_use]
pub fn are_scopes(scopes: &[String]) -> bool {
    let is_scope = |scope: &String| {
        !scope.is_empty() && scope.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
    };
    scopes.len() <= 100 && scopes.iter().all(is_scope)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of earlier programs have an address, and later ones may have none.
    #[test]
    fn a_record_with_an_address_and_one_without_are_read() {
        let email: EmailAddress = "ann@example.com".parse().unwrap();
        let ann = User { email_verified: true, ..User::new(UserId(Uuid::nil()), email, UnixTime(1)) };
        let mut record = serde_json::to_value(&ann).unwrap();
        assert_eq!(record["email"], "ann@example.com");
        assert_eq!(serde_json::from_value::<User>(record.clone()).unwrap(), ann);
        record["email"] = Value::Null;
        let none: User = serde_json::from_value(record).unwrap();
        assert_eq!(
            (none.email.as_ref(), none.addresses().count(), none.awaits_verification()),
            (None, 0, false)
        );
    }

    #[test]
    fn an_account_without_an_address_has_none_that_is_verified() {
        let mut none = User::without_address(UserId(Uuid::nil()), UnixTime(1));
        none.claim = Claim::Unclaimed;
        none.verified();
        assert_eq!((none.email_verified, none.is_claimed()), (false, Some(true)));
    }

    #[test]
    fn a_password_is_never_printed() {
        assert!(!format!("{:?}", PasswordHash("$2b$12$secret".into())).contains("secret"));
    }
}
