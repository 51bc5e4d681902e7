//! What a browser remembers of the registrations that it sent: one cookie, which only we can write.
//!
//! A requester that opens a verification link owns the mailbox. That does not prove that they chose the password: an
//! attacker may have registered the address with a password of their own (pre-hijacking: A. Sudhodanan and A. Paverd,
//! "Pre-hijacked Accounts", USENIX Security 2022). The cookie proves that this browser sent the registration that set
//! the password. It proves that only for the last registration that the browser sent for the address, because that
//! one has the password that its user remembers. The cookie never says whether an address has an account
//! (enumeration).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::account::User;
use super::email::EmailAddress;
use super::opaque::{KeyIndex, ServerKey};
use super::time::UnixTime;

/// How long a browser remembers a registration: as long as an account waits for its address to be verified.
pub const BINDING_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// The addresses that are remembered; the one that was registered first makes room.
const MOST: usize = 4;

const VERSION: u8 = 1;
const ADDRESS: usize = 16;
/// Address, registration, end.
const ENTRY: usize = ADDRESS + 16 + 8;
const MAC: usize = 32;

/// The last registration that a browser sent for an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sent {
    /// A MAC over the address, so that the cookie does not hold it.
    address: [u8; ADDRESS],
    registration: Uuid,
    ends_at: UnixTime,
}

/// The registrations that a browser sent, the latest last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Binding(Vec<Sent>);

impl Binding {
    /// The browser sends the registration `registration` for `email`: what it sent for that address before counts no
    /// more.
    pub fn sends(&mut self, key: &ServerKey, email: &EmailAddress, registration: Uuid, now: UnixTime) {
        self.0.retain(|sent| !is_of(key, email, &sent.address));
        let address = tag(key, KeyIndex::FIRST, email);
        self.0.push(Sent { address, registration, ends_at: now.plus(BINDING_LIFE) });
        let excess = self.0.len().saturating_sub(MOST);
        self.0.drain(..excess);
    }

    /// Whether the last registration that this browser sent for the account's address is the one that set the
    /// account's password.
    #[must_use]
    pub fn proves(&self, key: &ServerKey, user: &User, now: UnixTime) -> bool {
        let Some(registration) = user.registration else { return false };
        let is_it = |sent: &Sent| sent.registration == registration && now < sent.ends_at;
        let Some(email) = &user.email else { return false };
        self.0.iter().any(|sent| is_it(sent) && is_of(key, email, &sent.address))
    }

    /// The registration that the browser sent last, whatever the address.
    #[must_use]
    pub fn latest(&self, now: UnixTime) -> Option<Uuid> {
        self.0.last().filter(|sent| now < sent.ends_at).map(|sent| sent.registration)
    }

    /// The cookie's value, which names no address.
    #[must_use]
    pub fn write(&self, key: &ServerKey) -> SecretString {
        let mut bytes = Vec::with_capacity(1 + self.0.len() * ENTRY + MAC);
        bytes.push(VERSION);
        for sent in &self.0 {
            bytes.extend_from_slice(&sent.address);
            bytes.extend_from_slice(sent.registration.as_bytes());
            bytes.extend_from_slice(&sent.ends_at.0.to_be_bytes());
        }
        let mac = key.mac(COOKIE, &[&bytes]);
        bytes.extend_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(bytes).into()
    }

    /// What the value of a cookie says; nothing when it is not one that we wrote.
    #[must_use]
    pub fn read(key: &ServerKey, text: &str) -> Binding {
        Binding::parse(key, text).unwrap_or_default()
    }

    fn parse(key: &ServerKey, text: &str) -> Option<Binding> {
        if text.len() > (1 + MOST * ENTRY + MAC).div_ceil(3) * 4 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (said, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC)?)?;
        key.verifying(mac, COOKIE, &[said])?;
        let entries = said.strip_prefix(&[VERSION])?.chunks_exact(ENTRY);
        if !entries.remainder().is_empty() {
            return None;
        }
        let entry = |bytes: &[u8]| {
            let (address, rest) = bytes.split_first_chunk()?;
            let (registration, end) = rest.split_first_chunk()?;
            Some(Sent {
                address: *address,
                registration: Uuid::from_bytes(*registration),
                ends_at: UnixTime(u64::from_be_bytes(end.try_into().ok()?)),
            })
        };
        entries.map(entry).collect::<Option<_>>().map(Binding)
    }
}

/// The domain of the MAC over a cookie; no other text of ours is under it.
const COOKIE: &str = "registration cookie";

/// Whether `address` is the tag of `email` under any key of the ring.
fn is_of(key: &ServerKey, email: &EmailAddress, address: &[u8; ADDRESS]) -> bool {
    key.keys().any(|one| tag(key, one, email) == *address)
}

fn tag(key: &ServerKey, by: KeyIndex, email: &EmailAddress) -> [u8; ADDRESS] {
    let mac = key.mac_by(by, "registration address", &[email.as_str().as_bytes()]);
    let mut tag = [0; ADDRESS];
    tag.copy_from_slice(&mac[..ADDRESS]);
    tag
}

/// The registrations that came with an id of their form, so that a form which is sent twice (a double click, an
/// answer that was lost) is one registration (idempotency). In memory and bounded: what is forgotten is a registration of its
/// own, and costs its sender a word about the password.
#[derive(Debug, Default)]
pub struct Forms(std::collections::VecDeque<KnownForm>);

#[derive(Debug)]
struct KnownForm {
    id: FormId,
    registration: Uuid,
    at: UnixTime,
    /// When it was last enqueued.
    taken_at: Option<UnixTime>,
}

/// Identifies a form: its id, and everything that was typed into it. A client that knows only the id and sends
/// another password under it sends another registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormId([u8; 32]);

impl FormId {
    /// Of what was sent. `password` goes into a MAC that stays in memory.
    #[must_use]
    pub fn of(key: &ServerKey, id: &str, email: &EmailAddress, name: Option<&str>, password: &str) -> FormId {
        let parts = [id, email.as_str(), name.unwrap_or_default(), password];
        let lengths = parts.map(|part| (part.len() as u64).to_be_bytes());
        let mut pieces: Vec<&[u8]> = Vec::with_capacity(2 * parts.len());
        for (length, part) in lengths.iter().zip(&parts) {
            pieces.push(length);
            pieces.push(part.as_bytes());
        }
        FormId(key.mac("registration form", &pieces))
    }
}

impl Forms {
    /// How many are remembered.
    const MOST: usize = 4096;
    /// How long.
    const LIFE: Duration = Duration::from_secs(24 * 3600);
    /// For how long a form that was enqueued is not enqueued again: its button was pressed twice.
    const PRESSED_TWICE: Duration = Duration::from_secs(60);

    /// The registration of this form: `fresh`, or what it was when the form came before.
    pub fn registration(&mut self, form: FormId, fresh: Uuid, now: UnixTime) -> Uuid {
        // Also what a clock that was set back has left far ahead.
        let is_over = |at: UnixTime| now >= at.plus(Self::LIFE) || at > now.plus(Self::LIFE);
        while self.0.front().is_some_and(|sent| is_over(sent.at)) {
            self.0.pop_front();
        }
        if let Some(known) = self.find(&form).filter(|sent| !is_over(sent.at)) {
            return known.registration;
        }
        if self.0.len() == Self::MOST {
            self.0.pop_front();
        }
        self.0.push_back(KnownForm { id: form, registration: fresh, at: now, taken_at: None });
        fresh
    }

    /// The registration of a form that was enqueued within the last minute: nothing is to be done for it again.
    pub fn pressed_again(&mut self, form: &FormId, now: UnixTime) -> Option<Uuid> {
        let sent = self.find(form)?;
        let at = sent.taken_at?;
        (at <= now && now < at.plus(Self::PRESSED_TWICE)).then_some(sent.registration)
    }

    /// The registration of this form was enqueued.
    pub fn taken(&mut self, form: &FormId, now: UnixTime) {
        if let Some(sent) = self.find(form) {
            sent.taken_at = Some(now);
        }
    }

    /// The latest of these: one that is over may still be among them.
    fn find(&mut self, form: &FormId) -> Option<&mut KnownForm> {
        self.0.iter_mut().rev().find(|sent| sent.id.0.ct_eq(&form.0).into())
    }
}

/// The registrations whose address was verified lately, with the password that they set, so that the browser which waits
/// for it can say so. In memory and bounded: what is forgotten is told by no page, and the person signs in.
#[derive(Debug, Default)]
pub struct VerifiedLately(std::collections::VecDeque<(Uuid, UnixTime)>);

impl VerifiedLately {
    /// How many are remembered.
    const MOST: usize = 4096;
    /// How long: as long as a page waits for it.
    pub const LIFE: Duration = Duration::from_secs(3600);

    pub fn note(&mut self, registration: Uuid, now: UnixTime) {
        self.0.retain(|(_, at)| *at <= now && now < at.plus(Self::LIFE));
        if self.0.len() == Self::MOST {
            self.0.pop_front();
        }
        self.0.push_back((registration, now));
    }

    #[must_use]
    pub fn has(&self, registration: Uuid, now: UnixTime) -> bool {
        self.0.iter().any(|(known, at)| *known == registration && *at <= now && now < at.plus(Self::LIFE))
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use zeroize::Zeroizing;

    use super::*;
    use crate::domain::account::UserId;

    const NOW: UnixTime = UnixTime(1_800_000_000);
    const ANN: &str = "ann@example.com";

    fn key(byte: u8) -> ServerKey {
        ServerKey::new(Zeroizing::new([byte; 32]))
    }

    fn at(address: &str) -> EmailAddress {
        address.parse().unwrap()
    }

    /// An account that has the password of this registration.
    fn registered(address: &str, registration: u128) -> User {
        User {
            registration: Some(Uuid::from_u128(registration)),
            ..User::new(UserId(Uuid::from_u128(1)), at(address), NOW)
        }
    }

    fn sent(registrations: &[(&str, u128)]) -> Binding {
        let mut binding = Binding::default();
        for (address, registration) in registrations {
            binding.sends(&key(1), &at(address), Uuid::from_u128(*registration), NOW);
        }
        binding
    }

    fn proves(binding: &Binding, user: &User) -> bool {
        binding.proves(&key(1), user, NOW)
    }

    #[test]
    fn only_the_last_registration_for_the_address_counts() {
        let ann = registered(ANN, 7);
        assert!(proves(&sent(&[(ANN, 7)]), &ann));
        assert!(proves(&sent(&[(ANN, 6), (ANN, 7)]), &ann));
        assert!(!proves(&sent(&[(ANN, 7), (ANN, 8)]), &ann), "another one since");
        assert!(proves(&sent(&[(ANN, 7), ("bob@example.com", 8)]), &ann), "of another address");
        assert!(!proves(&sent(&[("bob@example.com", 7)]), &ann));
        assert!(!proves(&Binding::default(), &ann));
        let without = User { registration: None, ..ann.clone() };
        assert!(!proves(&sent(&[(ANN, 7)]), &without));
        let later = NOW.plus(BINDING_LIFE);
        assert!(!sent(&[(ANN, 7)]).proves(&key(1), &ann, later));
    }

    #[test]
    fn a_cookie_is_read_as_it_was_written_and_by_nobody_else() {
        for count in 0..=MOST {
            let all: Vec<(String, u128)> =
                (0..count).map(|n| (format!("u{n}@example.com"), n as u128)).collect();
            let all: Vec<(&str, u128)> = all.iter().map(|(address, n)| (&**address, *n)).collect();
            let (binding, text) = (sent(&all), sent(&all).write(&key(1)));
            let text = text.expose_secret();
            assert_eq!(Binding::read(&key(1), text), binding, "{count}");
            assert_eq!(Binding::read(&key(2), text), Binding::default());
            for at in 0..text.len() {
                let mut bytes = text.as_bytes().to_vec();
                bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                let changed = std::str::from_utf8(&bytes).unwrap();
                assert_eq!(Binding::read(&key(1), changed), Binding::default(), "{at}");
            }
            for bad in
                ["", "x", &text[1..], &format!("{text}A"), &format!("{text}="), &"A".repeat(1 << 20), "é"]
            {
                assert_eq!(Binding::read(&key(1), bad), Binding::default());
            }
            assert!(!text.contains("example"));
        }
    }

    #[test]
    fn a_new_server_key_in_front_forgets_no_registration_and_revives_none() {
        let ring = ServerKey::ring(Zeroizing::new([2; 32]), vec![Zeroizing::new([1; 32])]);
        let text = sent(&[(ANN, 7)]).write(&key(1));
        let mut binding = Binding::read(&ring, text.expose_secret());
        assert!(binding.proves(&ring, &registered(ANN, 7), NOW));
        binding.sends(&ring, &at(ANN), Uuid::from_u128(8), NOW);
        assert!(!binding.proves(&ring, &registered(ANN, 7), NOW), "not the last one any more");
        assert!(binding.proves(&ring, &registered(ANN, 8), NOW));
    }

    #[test]
    fn a_browser_remembers_a_few_addresses() {
        let all: Vec<String> = (0..10).map(|n| format!("u{n}@example.com")).collect();
        let pairs: Vec<(&str, u128)> = all.iter().enumerate().map(|(n, a)| (&**a, n as u128)).collect();
        let binding = sent(&pairs);
        for (n, address) in all.iter().enumerate() {
            assert_eq!(proves(&binding, &registered(address, n as u128)), n >= 10 - MOST, "{address}");
        }
    }

    #[test]
    fn a_form_is_known_by_its_id_and_all_that_was_typed_into_it() {
        let form = |id, address, name, password| FormId::of(&key(1), id, &at(address), name, password);
        let one = form("f", ANN, Some("Ann"), "secret");
        let mut forms = Forms::default();
        let mut ask = |form, fresh: u128, later| {
            forms.registration(form, Uuid::from_u128(fresh), NOW.plus(Duration::from_secs(later))).as_u128()
        };
        assert_eq!((ask(one, 1, 0), ask(one, 2, 1)), (1, 1));
        for (n, other) in [
            form("g", ANN, Some("Ann"), "secret"),
            form("f", "bob@example.com", Some("Ann"), "secret"),
            form("f", ANN, None, "secret"),
            form("f", ANN, Some("Ann"), "another"),
            form("f", ANN, Some("Anns"), "ecret"),
            FormId::of(&key(2), "f", &at(ANN), Some("Ann"), "secret"),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(ask(other, 10 + n as u128, 2), 10 + n as u128);
        }
        assert_eq!(ask(one, 3, 24 * 3600 - 1), 1);
        assert_eq!(ask(one, 4, 24 * 3600), 4, "after a day it is another one");
    }

    #[test]
    fn a_form_is_pressed_again_within_a_minute_of_being_taken() {
        let form = |id| FormId::of(&key(1), id, &at(ANN), None, "secret");
        let (one, later) = (form("f"), |seconds| NOW.plus(Duration::from_secs(seconds)));
        let mut forms = Forms::default();
        forms.registration(one, Uuid::from_u128(1), NOW);
        assert_eq!(forms.pressed_again(&one, NOW), None, "not taken yet");
        forms.taken(&one, later(10));
        forms.taken(&form("g"), NOW);
        for (at, is_again) in [(9, false), (10, true), (69, true), (70, false)] {
            let again = is_again.then_some(Uuid::from_u128(1));
            assert_eq!(forms.pressed_again(&one, later(at)), again, "{at}");
        }
        assert_eq!(forms.pressed_again(&form("g"), NOW), None);
    }

    #[test]
    fn forms_are_bounded() {
        let mut forms = Forms::default();
        let form = |n: usize| FormId::of(&key(1), &n.to_string(), &at(ANN), None, "secret");
        for n in 0..=Forms::MOST {
            forms.registration(form(n), Uuid::from_u128(n as u128), NOW);
        }
        assert_eq!(forms.0.len(), Forms::MOST);
        assert_eq!(forms.registration(form(1), Uuid::max(), NOW), Uuid::from_u128(1));
        assert_eq!(forms.registration(form(0), Uuid::max(), NOW), Uuid::max(), "the oldest made room");
    }
}
