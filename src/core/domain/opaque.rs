//! Opaque tokens: refresh tokens, the tokens in mailed links, and what binds a consent to its connection.
//!
//! They are made from randomness and the server key, and kept only as SHA-256 hashes. A copy of the store is of no
//! use to an attacker: neither the hash nor the server key alone gives a token.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::account::UserId;
use super::block::AddressBlock;
use super::connection::ConnectionId;
use super::email::EmailAddress;
use super::session::SessionId;
use super::username::UsernameFingerprint;

/// Version, user, session, generation.
const HEAD: usize = 1 + 16 + 16 + 4;
/// The tag that shows we issued the head.
const TAG: usize = 16;
const SECRET: usize = 32;
/// Version, user, connection, consent.
const STATE_HEAD: usize = 1 + 16 + 16 + 16;
pub(super) const VERSION: u8 = 1;
/// The characters of a refresh token: base64url without padding.
pub(super) const REFRESH_TOKEN_CHARS: usize = ((HEAD + TAG + SECRET) * 4).div_ceil(3);
/// The characters of a state.
pub(super) const STATE_CHARS: usize = ((STATE_HEAD + SECRET) * 4).div_ceil(3);

/// The SHA-256 of a token: all that is kept of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// The hash of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> TokenHash {
        TokenHash(Sha256::digest(bytes).into())
    }

    /// Whether both are the same, in a time that does not tell where they differ.
    #[must_use]
    pub fn is(&self, other: &TokenHash) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

impl From<TokenHash> for String {
    fn from(hash: TokenHash) -> String {
        URL_SAFE_NO_PAD.encode(hash.0)
    }
}

impl TryFrom<String> for TokenHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<TokenHash, &'static str> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| "a token hash is base64url")?;
        bytes.try_into().map(TokenHash).map_err(|_| "a token hash has 32 bytes")
    }
}

/// A refresh token, read or about to be written. It names its session and its place in the session's row
/// of tokens, so that one which was used long ago is still known for what it is.
pub struct RefreshToken {
    pub user: UserId,
    pub session: SessionId,
    /// 0 for the token that a login hands out, then one more with every rotation.
    pub generation: u32,
    secret: Zeroizing<[u8; SECRET]>,
    /// The key that it is under: its tag, and its secret where it is a successor's.
    key: KeyIndex,
}

impl RefreshToken {
    /// Whether it is under the key that signs.
    pub(super) fn is_of_first_key(&self) -> bool {
        self.key == KeyIndex::FIRST
    }

    /// What is kept of it.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&*self.secret)
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshToken").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// The `state` of an authorization request (RFC 6749 §10.12): the consent, its connection and its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub user: UserId,
    pub connection: ConnectionId,
    /// [`super::connection::Consent::id`].
    pub consent: Uuid,
}

/// The secret of this installation from which opaque tokens are derived: a ring of keys of 32 random bytes that live
/// beside the signing keys, never in the store. The first one signs, all of them verify, so that a new one in front voids
/// nothing. What is no credential but only a number or name for an address goes by the last one, and stays the same.
pub struct ServerKey {
    first: Zeroizing<[u8; 32]>,
    /// The latest first.
    former: Vec<Zeroizing<[u8; 32]>>,
}

/// The place of a key in the ring of this process; 0 is the one that signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyIndex(usize);

impl KeyIndex {
    /// The key that signs.
    pub(super) const FIRST: KeyIndex = KeyIndex(0);
}

impl ServerKey {
    /// A ring of one key of these bytes, which must be random.
    #[must_use]
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> ServerKey {
        ServerKey::ring(bytes, Vec::new())
    }

    /// A ring: `first` signs, `former` only verify.
    #[must_use]
    pub fn ring(first: Zeroizing<[u8; 32]>, former: Vec<Zeroizing<[u8; 32]>>) -> ServerKey {
        ServerKey { first, former }
    }

    /// Every key, the one that signs first.
    pub(super) fn keys(&self) -> impl Iterator<Item = KeyIndex> + use<> {
        (0..=self.former.len()).map(KeyIndex)
    }

    /// The first refresh token of a session; `secret` must be fresh randomness.
    #[must_use]
    pub fn first(&self, user: UserId, session: SessionId, secret: Zeroizing<[u8; 32]>) -> RefreshToken {
        RefreshToken { user, session, generation: 0, secret, key: KeyIndex::FIRST }
    }

    /// The token that replaces `parent`: always the same one for the same parent, so that a client that lost the
    /// answer and repeats the request gets the same answer.
    #[must_use]
    pub fn successor(&self, parent: &RefreshToken) -> RefreshToken {
        self.successor_by(KeyIndex::FIRST, parent)
    }

    /// [`ServerKey::successor`] as one of the keys derives it.
    pub(super) fn successor_by(&self, key: KeyIndex, parent: &RefreshToken) -> RefreshToken {
        RefreshToken {
            user: parent.user,
            session: parent.session,
            generation: parent.generation.saturating_add(1),
            secret: Zeroizing::new(self.mac_by(key, "successor", &[&head(parent), &*parent.secret])),
            key,
        }
    }

    /// The token `steps` places behind `token`, as one of the keys derives the whole way.
    pub(super) fn followed(&self, key: KeyIndex, token: &RefreshToken, steps: u32) -> RefreshToken {
        let mut reached = RefreshToken { secret: token.secret.clone(), ..*token };
        for _ in 0..steps {
            reached = self.successor_by(key, &reached);
        }
        reached
    }

    /// [`ServerKey::followed`] by the key that `token` itself is under.
    pub(super) fn followed_by_its_own(&self, token: &RefreshToken, steps: u32) -> RefreshToken {
        self.followed(token.key, token, steps)
    }

    /// The token as its bearer holds it.
    #[must_use]
    pub fn write(&self, token: &RefreshToken) -> SecretString {
        let head = head(token);
        let mut bytes = Zeroizing::new(Vec::with_capacity(HEAD + TAG + SECRET));
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&self.mac_by(token.key, "refresh", &[&head])[..TAG]);
        bytes.extend_from_slice(&*token.secret);
        URL_SAFE_NO_PAD.encode(&*bytes).into()
    }

    /// The token in `text`, when it is one that we could have issued. Whether it is the session's present
    /// one is for [`super::session::Session::present`] to say.
    #[must_use]
    pub fn read(&self, text: &str) -> Option<RefreshToken> {
        // One length only: also what keeps a megabyte from being decoded.
        if text.len() != REFRESH_TOKEN_CHARS {
            return None;
        }
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        let (head, rest) = bytes.split_at_checked(HEAD)?;
        let (tag, secret) = rest.split_at_checked(TAG)?;
        let key = self.verifying(tag, "refresh", &[head]).filter(|_| head[0] == VERSION)?;
        let uuid = |at: usize| Uuid::from_slice(&head[at..at + 16]).ok();
        Some(RefreshToken {
            user: UserId(uuid(1)?),
            session: SessionId(uuid(17)?),
            generation: u32::from_be_bytes(head[33..].try_into().ok()?),
            secret: Zeroizing::new(secret.try_into().ok()?),
            key,
        })
    }

    /// The token of the mailed link `id`. It can be made again from the id, so that a mail which waits to
    /// be sent need not hold it.
    #[must_use]
    pub fn link_token(&self, id: Uuid) -> SecretString {
        self.link_token_by(KeyIndex::FIRST, id)
    }

    /// The tokens that the mailed link `id` can have, by the key under which it was made: [`ServerKey::link_token`]
    /// first.
    pub fn link_tokens(&self, id: Uuid) -> impl Iterator<Item = SecretString> {
        self.keys().map(move |key| self.link_token_by(key, id))
    }

    fn link_token_by(&self, key: KeyIndex, id: Uuid) -> SecretString {
        URL_SAFE_NO_PAD.encode(self.mac_by(key, "link", &[id.as_bytes()])).into()
    }

    /// The password of the account of a demonstration: the same after a restart, another in every installation. It has
    /// characters of every kind that a policy may ask for.
    #[must_use]
    pub fn demo_password(&self) -> SecretString {
        let random = URL_SAFE_NO_PAD.encode(&self.mac("demo password", &[])[..12]);
        format!("Demo-1-{random}").into()
    }

    /// A number for an address, whether or not it has an account: evenly spread, the same after a restart, and not to
    /// be guessed without the key.
    #[must_use]
    pub fn tag(&self, email: &EmailAddress) -> u64 {
        number(&self.mac_by_oldest("tag", &[email.as_str().as_bytes()]))
    }

    /// [`ServerKey::tag`] of an account that has no address.
    #[must_use]
    pub fn tag_of_account(&self, user: UserId) -> u64 {
        number(&self.mac_by_oldest("tag of an account", &[user.0.as_bytes()]))
    }

    /// [`ServerKey::tag`] of a user name, whether or not an account has it.
    #[must_use]
    pub fn tag_of_username(&self, name: UsernameFingerprint) -> u64 {
        number(&self.mac_by_oldest("tag of a user name", &[&name.0]))
    }

    /// Stands for an address in the audit log, which must not reveal the addresses that were tried: the same for the
    /// same address, and of no use to find it without the key.
    #[must_use]
    pub fn hash_of_address(&self, address: &str) -> String {
        URL_SAFE_NO_PAD.encode(&self.mac_by_oldest("audited address", &[address.as_bytes()])[..16])
    }

    /// Stands for the name of an account and a block of addresses where guesses at its password are counted: the same on
    /// every gateway over one store, and of no use to find either without the key. `block`: `None` for all of them.
    #[must_use]
    pub fn hash_of_guesses(&self, purpose: &str, block: Option<AddressBlock>, name: &str) -> [u8; 32] {
        let block = block.map_or([0; 9], AddressBlock::bytes);
        self.mac_by_oldest(purpose, &[&block, name.as_bytes()])
    }

    /// A state as the provider sees it: the user, connection and consent, and a MAC over them by the server key.
    #[must_use]
    pub fn write_state(&self, state: &State) -> SecretString {
        let named = state_head(state);
        let mut bytes = Zeroizing::new(Vec::with_capacity(STATE_HEAD + SECRET));
        bytes.extend_from_slice(&named);
        bytes.extend_from_slice(&self.mac("state", &[&named]));
        URL_SAFE_NO_PAD.encode(&*bytes).into()
    }

    /// The state in `text`, when it is one that we have issued.
    #[must_use]
    pub fn read_state(&self, text: &str) -> Option<State> {
        self.keyed_state(text).map(|(state, _)| state)
    }

    fn keyed_state(&self, text: &str) -> Option<(State, KeyIndex)> {
        if text.len() != STATE_CHARS {
            return None;
        }
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        let (named, mac) = bytes.split_at_checked(STATE_HEAD)?;
        let key = self.verifying(mac, "state", &[named]).filter(|_| named[0] == VERSION)?;
        let uuid = |at: usize| Uuid::from_slice(&named[at..at + 16]).ok();
        let state = State { user: UserId(uuid(1)?), connection: ConnectionId(uuid(17)?), consent: uuid(33)? };
        Some((state, key))
    }

    /// The code verifier of a consent (RFC 7636 §4.1): 43 characters. It need not be kept.
    #[must_use]
    pub fn code_verifier(&self, consent: Uuid) -> SecretString {
        self.code_verifier_by(KeyIndex::FIRST, consent)
    }

    /// The code verifier of the consent that `state` names, by the key under which both were made; `None` for a state
    /// that is none of ours.
    #[must_use]
    pub fn code_verifier_of(&self, state: &str) -> Option<SecretString> {
        let (state, key) = self.keyed_state(state)?;
        Some(self.code_verifier_by(key, state.consent))
    }

    fn code_verifier_by(&self, key: KeyIndex, consent: Uuid) -> SecretString {
        URL_SAFE_NO_PAD.encode(self.mac_by(key, "code verifier", &[consent.as_bytes()])).into()
    }

    /// A MAC under the oldest key, for this purpose only.
    pub(super) fn mac_by_oldest(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        self.mac_by(KeyIndex(self.former.len()), purpose, parts)
    }

    /// The key under which `tag`, which may be cut, is a MAC for this purpose.
    pub(super) fn verifying(&self, tag: &[u8], purpose: &str, parts: &[&[u8]]) -> Option<KeyIndex> {
        self.keys().find(|key| {
            let mac = self.mac_by(*key, purpose, parts);
            mac.get(..tag.len()).is_some_and(|mac| mac.ct_eq(tag).into())
        })
    }

    /// A MAC under the key that signs, for this purpose only.
    pub(super) fn mac(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        self.mac_by(KeyIndex::FIRST, purpose, parts)
    }

    /// A MAC under one of the keys, for this purpose only.
    pub(super) fn mac_by(&self, key: KeyIndex, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        let former = key.0.checked_sub(1).and_then(|at| self.former.get(at));
        let bytes = former.unwrap_or(&self.first);
        #[allow(clippy::expect_used, reason = "HMAC takes a key of any length (RFC 2104 §2)")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&**bytes).expect("a key of 32 bytes");
        // Every part but the last has a fixed length, so that no two inputs run into one another.
        mac.update(purpose.as_bytes());
        mac.update(b"\0");
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// The code challenge of a verifier for the method `S256` (RFC 7636 §4.2).
#[must_use]
pub fn code_challenge(verifier: &SecretString) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.expose_secret()))
}

/// The first eight bytes of a MAC, as a number.
fn number(mac: &[u8; 32]) -> u64 {
    mac[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn state_head(state: &State) -> [u8; STATE_HEAD] {
    let mut named = [0; STATE_HEAD];
    named[0] = VERSION;
    named[1..17].copy_from_slice(state.user.0.as_bytes());
    named[17..33].copy_from_slice(state.connection.0.as_bytes());
    named[33..].copy_from_slice(state.consent.as_bytes());
    named
}

fn head(token: &RefreshToken) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[0] = VERSION;
    head[1..17].copy_from_slice(token.user.0.as_bytes());
    head[17..33].copy_from_slice(token.session.0.as_bytes());
    head[33..].copy_from_slice(&token.generation.to_be_bytes());
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> ServerKey {
        ServerKey::new(Zeroizing::new([byte; 32]))
    }

    fn first(key: &ServerKey) -> RefreshToken {
        key.first(UserId(Uuid::from_u128(1)), SessionId(Uuid::from_u128(2)), Zeroizing::new([7; 32]))
    }

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let key = key(1);
        let token = first(&key);
        let text = key.write(&token);
        let read = key.read(text.expose_secret()).unwrap();
        assert_eq!((read.user, read.session, read.generation), (token.user, token.session, 0));
        assert!(read.hash().is(&token.hash()));
    }

    #[test]
    fn a_successor_is_the_same_every_time_and_knows_its_place() {
        let key = key(1);
        let parent = first(&key);
        let (one, other) = (key.successor(&parent), key.successor(&parent));
        assert!(one.hash().is(&other.hash()));
        assert_eq!(one.generation, 1);
        assert!(!one.hash().is(&parent.hash()));
        assert!(!key.successor(&one).hash().is(&one.hash()));
    }

    #[test]
    fn every_changed_character_of_the_head_is_noticed() {
        let key = key(1);
        let text = key.write(&first(&key));
        let text = text.expose_secret();
        // Up to the last character that holds bits of the head or the tag only.
        for at in 0..(HEAD + TAG) * 4 / 3 {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert!(key.read(std::str::from_utf8(&bytes).unwrap()).is_none(), "{at}");
        }
        assert!(super::ServerKey::new(Zeroizing::new([2; 32])).read(text).is_none());
    }

    #[test]
    fn other_texts_are_no_tokens() {
        let key = key(1);
        let text = key.write(&first(&key)).expose_secret().to_owned();
        for bad in [
            "",
            "x",
            &text[1..],
            &format!("{text}="),
            &format!("{text}A"),
            &"é".repeat(57),
            &"A".repeat(1 << 20),
        ] {
            assert!(key.read(bad).is_none());
        }
    }

    #[test]
    fn a_link_has_its_own_token() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let token = key(1).link_token(one);
        assert_eq!(token.expose_secret().len(), 43);
        assert_eq!(token.expose_secret(), key(1).link_token(one).expose_secret());
        assert_ne!(token.expose_secret(), key(1).link_token(other).expose_secret());
        assert_ne!(token.expose_secret(), key(2).link_token(one).expose_secret());
    }

    /// Two keys, the second one the former.
    fn ring(first: u8, former: u8) -> ServerKey {
        ServerKey::ring(Zeroizing::new([first; 32]), vec![Zeroizing::new([former; 32])])
    }

    #[test]
    fn a_new_key_in_front_voids_nothing_and_signs() {
        let (old, both, new) = (key(1), ring(2, 1), key(2));
        let token = first(&old);
        let read = both.read(old.write(&token).expose_secret()).unwrap();
        assert!(read.hash().is(&token.hash()) && !read.is_of_first_key());
        assert!(both.successor(&read).hash().is(&new.successor(&token).hash()), "the first key derives");
        assert!(new.read(both.write(&both.successor(&read)).expose_secret()).is_some());
        assert!(new.read(both.write(&read).expose_secret()).is_none(), "it stays under its own");

        let id = Uuid::from_u128(7);
        let links: Vec<_> = both.link_tokens(id).map(|token| token.expose_secret().to_owned()).collect();
        assert_eq!(links, [new.link_token(id).expose_secret(), old.link_token(id).expose_secret()]);
        assert_eq!(both.link_token(id).expose_secret(), new.link_token(id).expose_secret());

        let [user, connection, consent] = [1, 2, 3].map(Uuid::from_u128);
        let state = State { user: UserId(user), connection: ConnectionId(connection), consent };
        for one in [&old, &new] {
            let text = one.write_state(&state);
            assert_eq!(both.read_state(text.expose_secret()), Some(state));
            let verifier = both.code_verifier_of(text.expose_secret()).unwrap();
            assert_eq!(verifier.expose_secret(), one.code_verifier(consent).expose_secret());
        }
        assert!(both.code_verifier_of("x").is_none());
        let email = "ann@example.com".parse().unwrap();
        assert_eq!(
            (both.tag(&email), both.hash_of_address("a")),
            (old.tag(&email), old.hash_of_address("a"))
        );
    }

    #[test]
    fn a_state_is_read_as_it_was_written_and_by_nobody_else() {
        let [user, connection, consent] = [1, 2, 3].map(Uuid::from_u128);
        let state = State { user: UserId(user), connection: ConnectionId(connection), consent };
        let text = key(1).write_state(&state);
        let text = text.expose_secret();
        assert_eq!(key(1).read_state(text), Some(state));
        assert!(key(2).read_state(text).is_none());
        for at in 0..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert!(key(1).read_state(std::str::from_utf8(&bytes).unwrap()).is_none(), "{at}");
        }
        let refresh = key(1).write(&first(&key(1)));
        let cut = &text[..text.len() - 1];
        for bad in ["", "x", cut, &format!("{text}A"), &"é".repeat(54), refresh.expose_secret()] {
            assert!(key(1).read_state(bad).is_none());
        }
    }

    #[test]
    fn a_consent_has_its_own_verifier() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let verifier = key(1).code_verifier(one);
        assert_eq!(verifier.expose_secret().len(), 43);
        assert_eq!(verifier.expose_secret(), key(1).code_verifier(one).expose_secret());
        assert_ne!(verifier.expose_secret(), key(1).code_verifier(other).expose_secret());
        assert_ne!(verifier.expose_secret(), key(2).code_verifier(one).expose_secret());
        // RFC 7636, appendix B.
        let example = code_challenge(&"dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".into());
        assert_eq!(example, "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }
}
