//! The key of an installation: it signs backups and the journal of ends, so that a restore can tell its own from those
//! of others.
//!
//! It is derived from the vault's key, which is kept outside the store: in `vault.keys`, or in a file of the data folder.
//! So the gateways of one installation have one, and a copy of the store brings none. Of several vault keys the first one
//! signs and each of them is known, so that backups from before a rotation are still this installation's.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// What the keys are derived for, so that no other use of a vault key gives one of them.
const CONTEXT: &[u8] = b"palisade installation key\0";

/// Bytes of a signature.
pub(super) const SIGNATURE: usize = 64;

/// The signing keys of an installation.
pub struct InstallationKeys {
    present: Ed25519KeyPair,
    earlier: Vec<Ed25519KeyPair>,
}

impl InstallationKeys {
    /// Derives them from the keys of the vault, the one that seals first.
    ///
    /// # Errors
    /// There is no key; as one printable text.
    pub fn derive(vault: &[Zeroizing<[u8; 32]>]) -> Result<InstallationKeys, String> {
        let mut keys = vault.iter().map(|key| derived(key)).collect::<Result<Vec<_>, _>>()?.into_iter();
        let present =
            keys.next().ok_or("there is no vault key, from which the key that signs backups is derived")?;
        Ok(InstallationKeys { present, earlier: keys.collect() })
    }

    /// The public key that signs now, in hexadecimal digits: what a backup calls its installation.
    #[must_use]
    pub fn public(&self) -> String {
        hex::encode(self.present.public_key().as_ref())
    }

    /// Whether this is one of the installation's public keys, in hexadecimal digits.
    #[must_use]
    pub fn knows(&self, public: &str) -> bool {
        let keys = std::iter::once(&self.present).chain(&self.earlier);
        keys.into_iter().any(|key| hex::encode(key.public_key().as_ref()) == public)
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE] {
        let mut signature = [0; SIGNATURE];
        // Ed25519 signatures have 64 bytes.
        signature.copy_from_slice(self.present.sign(message).as_ref());
        signature
    }
}

/// Whether `signature` is that of `public`, in hexadecimal digits, over `message`.
pub(super) fn is_signed(public: &str, message: &[u8], signature: &[u8]) -> bool {
    let Ok(public) = hex::decode(public) else { return false };
    UnparsedPublicKey::new(&ED25519, public).verify(message, signature).is_ok()
}

fn derived(vault: &[u8; 32]) -> Result<Ed25519KeyPair, String> {
    let mac = Hmac::<Sha256>::new_from_slice(vault).map_err(|error| error.to_string())?;
    let seed: Zeroizing<[u8; 32]> = Zeroizing::new(mac.chain_update(CONTEXT).finalize().into_bytes().into());
    Ed25519KeyPair::from_seed_unchecked(&*seed).map_err(|error| format!("no key could be derived: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> InstallationKeys {
        let keys: Vec<_> = bytes.iter().map(|byte| Zeroizing::new([*byte; 32])).collect();
        InstallationKeys::derive(&keys).unwrap()
    }

    #[test]
    fn a_rotated_vault_key_still_knows_what_the_former_one_signed() {
        let (former, ring) = (keys(&[1]), keys(&[2, 1]));
        let signature = former.sign(b"x");
        assert!(
            is_signed(&former.public(), b"x", &signature) && !is_signed(&former.public(), b"y", &signature)
        );
        assert!(ring.knows(&former.public()) && ring.public() != former.public());
        assert!(!keys(&[2]).knows(&former.public()));
        assert!(!is_signed(&ring.public(), b"x", &signature) && !is_signed("zz", b"x", &signature));
        assert!(InstallationKeys::derive(&[]).is_err());
    }

    /// Backups are kept for years: the key of a vault key never changes.
    #[test]
    fn the_key_of_a_vault_key_is_always_the_same() {
        assert_eq!(keys(&[7]).public(), "a42107d62819e4eb30426a7cfc6bae200255fdbda4ab78b3f467baab8779d784");
    }
}
