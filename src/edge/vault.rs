//! The vault: seals the tokens of providers, so that a copy of the store reveals none of them.
//!
//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03 §2) with a random nonce of 192 bits, so that no nonce
//! repeats. The associated data says where a value belongs, so an envelope that is moved to another user,
//! connection or field, or renamed to another key, does not open. Its form is
//! `pv1.KEY-ID.BASE64URL(nonce, ciphertext, tag)`; that of the gateway's own secrets, where replicas share them, begins
//! with `ps1` and says their name in place of a connection. The length of a secret is not hidden. Must never put a key
//! or a secret into an error or a log, and never treat text that does not open as a plain secret.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use orion::hazardous::aead::xchacha20poly1305::{Nonce, SecretKey, XChaCha20Poly1305};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::config;
use palisade_core::ports::{OwnSecret, Place, SecretSealer, Vault, VaultError};

/// What every envelope begins with; an envelope of another form gets another number.
const VERSION: &str = "pv1";
/// The same for the gateway's own secrets: none of the other kind opens as one of these.
const OWN_VERSION: &str = "ps1";
const NONCE: usize = 24;
const TAG: usize = 16;

/// A key, and the name of it that envelopes carry.
struct Key {
    id: String,
    key: SecretKey,
}

impl Key {
    fn new(bytes: &[u8; 32]) -> Key {
        let hash = Sha256::new().chain_update(b"palisade vault key id\0").chain_update(bytes).finalize();
        Key { id: hex::encode(&hash[..4]), key: SecretKey::from(*bytes) }
    }
}

/// The keys of `vault.keys`: the first one seals, all of them open.
pub struct VaultKeyRing {
    present: Key,
    earlier: Vec<Key>,
}

impl VaultKeyRing {
    /// Reads the keys, each as [`config::vault_key`] does.
    ///
    /// # Errors
    /// There is none, one is no key, or two have the same name; without the key.
    pub fn new(keys: &[SecretString]) -> Result<VaultKeyRing, String> {
        let mut read: Vec<Key> = Vec::with_capacity(keys.len());
        for (index, text) in keys.iter().enumerate() {
            let bytes = config::vault_key(text).ok_or_else(|| {
                format!("vault.keys[{index}] is not 32 bytes in base64, base64url or hex; `palisade vault key` makes one")
            })?;
            let key = Key::new(&bytes);
            if read.iter().any(|other| other.id == key.id) {
                return Err(format!("vault.keys[{index}] is, or has the name of, one that is there already"));
            }
            read.push(key);
        }
        let mut keys = read.into_iter();
        let present = keys.next().ok_or("vault.keys holds no key; `palisade vault key` makes one")?;
        Ok(VaultKeyRing { present, earlier: keys.collect() })
    }

    /// The names of the keys, the one that seals first; they tell nothing of the keys.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys().map(|key| key.id.as_str())
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.present).chain(&self.earlier)
    }
}

/// Whether a text claims to be an envelope, whole or damaged: such a text is never taken for a plain secret.
#[must_use]
pub fn is_envelope(text: &str) -> bool {
    text.strip_prefix(VERSION).is_some_and(|rest| rest.starts_with('.'))
}

impl Vault for VaultKeyRing {
    fn seal(&self, place: Place<'_>, secret: &SecretString) -> String {
        let context = context(&self.present.id, place);
        seal(&self.present, VERSION, nonce(), &context, secret.expose_secret().as_bytes())
    }

    fn open(&self, place: Place<'_>, envelope: &str) -> Result<SecretString, VaultError> {
        let plain = self.opened(VERSION, envelope, |id| context(id, place))?;
        // What was sealed is text; its bytes move into the secret, which erases them.
        match std::str::from_utf8(&plain) {
            Ok(text) => Ok(SecretString::from(text)),
            Err(_) => Err(VaultError::Damaged),
        }
    }

    fn is_current(&self, envelope: &str) -> bool {
        parts(VERSION, envelope).is_some_and(|(id, _)| id == self.present.id)
    }
}

impl SecretSealer for VaultKeyRing {
    fn seal_own(&self, secret: OwnSecret, content: &[u8]) -> String {
        let context = own_context(&self.present.id, secret);
        seal(&self.present, OWN_VERSION, nonce(), &context, content)
    }

    fn open_own(&self, secret: OwnSecret, envelope: &str) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        self.opened(OWN_VERSION, envelope, |id| own_context(id, secret))
    }

    fn is_own_current(&self, envelope: &str) -> bool {
        parts(OWN_VERSION, envelope).is_some_and(|(id, _)| id == self.present.id)
    }
}

impl VaultKeyRing {
    /// What an envelope holds; `context`: what is authenticated beside it, for the key of this name.
    fn opened(
        &self,
        version: &str,
        envelope: &str,
        context: impl FnOnce(&str) -> Vec<u8>,
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let (id, sealed) = parts(version, envelope).ok_or(VaultError::Damaged)?;
        let key =
            self.keys().find(|key| key.id == id).ok_or_else(|| VaultError::UnknownKey(id.to_owned()))?;
        let bytes = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| VaultError::Damaged)?;
        let (nonce, ciphertext) = bytes.split_first_chunk::<NONCE>().ok_or(VaultError::Damaged)?;
        let length = ciphertext.len().checked_sub(TAG).ok_or(VaultError::Damaged)?;
        let mut plain = Zeroizing::new(vec![0; length]);
        let nonce = Nonce::from(*nonce);
        XChaCha20Poly1305::open(&key.key, &nonce, ciphertext, Some(&context(&key.id)), &mut plain)
            .map_err(|_| VaultError::Damaged)?;
        Ok(plain)
    }
}

fn nonce() -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    #[allow(
        clippy::expect_used,
        reason = "a system without randomness has none to go on with: a nonce made without it could repeat"
    )]
    getrandom::fill(&mut nonce).expect("the operating system gives randomness");
    nonce
}

fn seal(key: &Key, version: &str, nonce: [u8; NONCE], context: &[u8], plain: &[u8]) -> String {
    let mut sealed = vec![0; NONCE + plain.len() + TAG];
    let (head, ciphertext) = sealed.split_at_mut(NONCE);
    head.copy_from_slice(&nonce);
    #[allow(
        clippy::expect_used,
        reason = "fails only when the room is too small, which is measured above, or for more than 256 GiB"
    )]
    XChaCha20Poly1305::seal(&key.key, &Nonce::from(nonce), plain, Some(context), ciphertext)
        .expect("a secret fits its envelope");
    format!("{version}.{}.{}", key.id, URL_SAFE_NO_PAD.encode(sealed))
}

/// The key's name and what is sealed, undecoded.
fn parts<'e>(version: &str, envelope: &'e str) -> Option<(&'e str, &'e str)> {
    let (id, sealed) = envelope.strip_prefix(version)?.strip_prefix('.')?.split_once('.')?;
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (id.len() == 8 && id.bytes().all(digit)).then_some((id, sealed))
}

/// What is authenticated beside a secret of our own. Begins otherwise than [`context`].
fn own_context(id: &str, secret: OwnSecret) -> Vec<u8> {
    [OWN_VERSION, id, secret.name()].concat().into_bytes()
}

/// What is authenticated beside the secret. Every part but the last has one length, so no two places share
/// one encoding.
fn context(id: &str, place: Place<'_>) -> Vec<u8> {
    let Place { user, connection, field } = place;
    [VERSION.as_bytes(), id.as_bytes(), user.0.as_bytes(), connection.0.as_bytes(), field.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_core::domain::account::UserId;
    use palisade_core::domain::connection::{ConnectionId, field};
    use std::collections::HashSet;
    use uuid::Uuid;

    fn key(byte: u8) -> SecretString {
        URL_SAFE_NO_PAD.encode([byte; 32]).into()
    }

    fn ring(bytes: &[u8]) -> VaultKeyRing {
        VaultKeyRing::new(&bytes.iter().map(|byte| key(*byte)).collect::<Vec<_>>()).unwrap()
    }

    fn place(user: u128, connection: u128, field: &str) -> Place<'_> {
        let (user, connection) = (UserId(Uuid::from_u128(user)), ConnectionId(Uuid::from_u128(connection)));
        Place { user, connection, field }
    }

    fn here() -> Place<'static> {
        place(1, 2, field::ACCESS_TOKEN)
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<_> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
    }

    /// draft-irtf-cfrg-xchacha-03, appendix A.3.1: key, nonce, associated data and tag are where we think.
    #[test]
    fn the_library_gives_the_drafts_answer() {
        let text = "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the \
                    future, sunscreen would be it.";
        let key: [u8; 32] = std::array::from_fn(|n| 0x80 + n as u8);
        let nonce: [u8; 24] = std::array::from_fn(|n| 0x40 + n as u8);
        let data = bytes("50515253c0c1c2c3c4c5c6c7");
        let expected = bytes(
            "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39
             ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9
             21f9664c97637da9768812f615c68b13b52e
             c0875924c1c7987947deafd8780acf49",
        );
        let mut sealed = vec![0; text.len() + TAG];
        let (key, nonce) = (SecretKey::from(key), Nonce::from(nonce));
        XChaCha20Poly1305::seal(&key, &nonce, text.as_bytes(), Some(&data), &mut sealed).unwrap();
        assert_eq!(sealed, expected);
    }

    /// What is in stores must open for ever: this envelope never changes. libsodium gives the same, with the
    /// associated data `pv1`, the key's id, both UUIDs as bytes, and the field.
    const YESTERDAY: &str = "pv1.a766dcbf.CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJyh2J7xKbD9XSiwmkv0wHcPGaLwUn";

    #[test]
    fn an_own_secret_opens_as_itself_and_as_nothing_else() {
        let (old, new) = (ring(&[7]), ring(&[8, 7]));
        let envelope = old.seal_own(OwnSecret::ServerKey, &[0xff, 0, 7]);
        assert!(envelope.starts_with("ps1.") && !is_envelope(&envelope), "{envelope}");
        assert_eq!(&**new.open_own(OwnSecret::ServerKey, &envelope).unwrap(), [0xff, 0, 7]);
        assert!(old.is_own_current(&envelope) && !new.is_own_current(&envelope));
        for other in OwnSecret::ALL.into_iter().filter(|other| *other != OwnSecret::ServerKey) {
            assert_eq!(old.open_own(other, &envelope).err(), Some(VaultError::Damaged), "{other:?}");
        }
        // Nor as the token of a connection, whatever it is called.
        assert_eq!(
            old.open(here(), &envelope.replacen("ps1", "pv1", 1)).map(|_| ()).err(),
            Some(VaultError::Damaged)
        );
        assert_eq!(old.open(here(), &envelope).map(|_| ()).err(), Some(VaultError::Damaged));
        assert!(matches!(
            ring(&[9]).open_own(OwnSecret::ServerKey, &envelope),
            Err(VaultError::UnknownKey(_))
        ));
        // A part of it is none.
        assert!(old.open_own(OwnSecret::ServerKey, &envelope[..envelope.len() - 1]).is_err());
    }

    #[test]
    fn an_envelope_of_yesterday_opens() {
        let ring = ring(&[7]);
        let envelope = seal(&ring.present, VERSION, [9; NONCE], &context(&ring.present.id, here()), b"token");
        assert_eq!(envelope, YESTERDAY);
        assert_eq!(ring.open(here(), YESTERDAY).unwrap().expose_secret(), "token");
    }

    #[test]
    fn what_was_sealed_comes_out_in_its_place_only() {
        let ring = ring(&[1]);
        for text in ["", "t", "ya29.a0Af-ż", &"x".repeat(100_000)] {
            let envelope = ring.seal(here(), &text.into());
            assert!(is_envelope(&envelope) && ring.is_current(&envelope));
            assert!(text.len() < 2 || !envelope.contains(text));
            assert_eq!(ring.open(here(), &envelope).unwrap().expose_secret(), text);
            for elsewhere in [
                place(3, 2, field::ACCESS_TOKEN),
                place(1, 3, field::ACCESS_TOKEN),
                place(2, 1, field::ACCESS_TOKEN),
                place(1, 2, field::REFRESH_TOKEN),
                place(1, 2, "access_toke"),
                place(1, 2, ""),
            ] {
                let opened = ring.open(elsewhere, &envelope).map(|_| ());
                assert_eq!(opened, Err(VaultError::Damaged), "{elsewhere:?}");
            }
        }
    }

    #[test]
    fn no_changed_bit_goes_unseen() {
        let ring = ring(&[1, 2]);
        let envelope = ring.seal(here(), &"correct horse".into());
        let (head, sealed) = envelope.rsplit_once('.').unwrap();
        let sealed = URL_SAFE_NO_PAD.decode(sealed).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let changed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(changed));
            assert_eq!(ring.open(here(), &changed).map(|_| ()), Err(VaultError::Damaged), "bit {bit}");
        }
        // Nor a changed character, wherever it is: the text has one spelling.
        for at in 0..envelope.len() {
            let mut changed = envelope.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(ring.open(here(), &changed).is_err(), "{changed}");
        }
        for length in 0..envelope.len() {
            assert!(ring.open(here(), &envelope[..length]).is_err(), "{length}");
        }
        for more in ["A", "=", "\n", ".", " "] {
            assert!(ring.open(here(), &format!("{envelope}{more}")).is_err(), "{more:?}");
        }
        // Under the name of another key of the ring.
        let renamed = envelope.replace(&ring.present.id, &ring.earlier[0].id);
        assert_eq!(ring.open(here(), &renamed).map(|_| ()), Err(VaultError::Damaged));
    }

    #[test]
    fn the_first_key_seals_and_all_of_them_open() {
        let (old, new) = (ring(&[1]), ring(&[2, 1]));
        let envelope = old.seal(here(), &"secret".into());
        assert_eq!(new.open(here(), &envelope).unwrap().expose_secret(), "secret");
        assert!(old.is_current(&envelope) && !new.is_current(&envelope));
        let again = new.seal(here(), &"secret".into());
        assert!(new.is_current(&again) && !old.is_current(&again));
        let id = new.ids().next().unwrap();
        assert_eq!(old.open(here(), &again).map(|_| ()), Err(VaultError::UnknownKey(id.to_owned())));
    }

    #[test]
    fn what_is_no_envelope_is_never_plaintext() {
        let ring = ring(&[1]);
        for text in [
            "",
            "token",
            "pv1",
            "pv1.",
            "pv1..",
            "pv1.0123.AAAA",
            "pv1.0123456G.AAAA",
            "pv1.01234567",
            "pv2.01234567.AAAA",
            "PV1.01234567.AAAA",
        ] {
            assert_eq!(ring.open(here(), text).map(|_| ()), Err(VaultError::Damaged), "{text}");
            assert!(!ring.is_current(text));
        }
        assert!(is_envelope("pv1.") && is_envelope("pv1.x") && !is_envelope("pv1") && !is_envelope("token"));
    }

    #[test]
    fn a_key_that_was_made_in_the_data_folder_is_one() {
        let folder = tempfile::tempdir().unwrap();
        use crate::edge::own_secrets::{self, FolderSecrets};
        let store = FolderSecrets::new(folder.path());
        let made =
            [0, 1].map(|_| own_secrets::secret(&store, palisade_core::ports::OwnSecret::VaultKey).unwrap());
        let [first, again] = made.map(|key| VaultKeyRing::new(&[key]).unwrap());
        let envelope = first.seal(here(), &"secret".into());
        assert_eq!(again.open(here(), &envelope).unwrap().expose_secret(), "secret");
    }

    #[test]
    fn a_nonce_is_used_once() {
        let ring = ring(&[1]);
        let nonces: HashSet<Vec<u8>> = (0..10_000)
            .map(|_| {
                let envelope = ring.seal(here(), &"x".into());
                let sealed = envelope.rsplit_once('.').unwrap().1;
                URL_SAFE_NO_PAD.decode(sealed).unwrap()[..NONCE].to_vec()
            })
            .collect();
        assert_eq!(nonces.len(), 10_000);
    }

    #[test]
    fn a_ring_of_no_keys_is_refused_without_saying_them() {
        let fails = |keys: &[SecretString]| VaultKeyRing::new(keys).err().unwrap();
        assert!(fails(&[]).contains("palisade vault key"));
        let error = fails(&[key(1), "hunter2".into()]);
        assert!(error.contains("vault.keys[1]") && !error.contains("hunter2"), "{error}");
        assert!(fails(&[key(1), key(2), key(1)]).contains("vault.keys[2]"));
    }
}
