//! What an account is known by at a provider (an OpenID Connect issuer, or another party that signs people in): the pair
//! of issuer and subject (OpenID Connect Core 1.0 §2), which is one account's. An address at a provider is no identity.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::time::UnixTime;

/// The most that one account has.
pub const MAX_IDENTITIES: usize = 20;
/// The longest issuer, in bytes.
const MAX_ISSUER: usize = 512;
/// The longest subject, in bytes (OpenID Connect Core 1.0 §2).
const MAX_SUBJECT: usize = 255;

/// An identity of an account at a provider. Later programs may write more members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderIdentity {
    /// As the provider says it, compared byte for byte.
    pub issuer: String,
    /// As the provider says it, compared byte for byte.
    pub subject: String,
    /// When it became the account's; `None` where that is not known.
    #[serde(default)]
    pub since: Option<UnixTime>,
}

/// By what the store knows the pair of an issuer and a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdentityFingerprint(pub [u8; 32]);

impl ProviderIdentity {
    /// The fingerprint of the pair.
    #[must_use]
    pub fn fingerprint(&self) -> IdentityFingerprint {
        let mut hash = Sha256::new();
        // Their lengths keep two pairs apart whose texts together are the same.
        hash.update((self.issuer.len() as u64).to_be_bytes());
        hash.update(self.issuer.as_bytes());
        hash.update(self.subject.as_bytes());
        IdentityFingerprint(hash.finalize().into())
    }

    fn fault(&self) -> Option<String> {
        let is_text = |text: &str, most: usize| {
            !text.is_empty() && text.len() <= most && !text.chars().any(char::is_control)
        };
        let mut fault = String::new();
        if !is_text(&self.issuer, MAX_ISSUER) {
            let _ = write!(fault, "the issuer of an identity must be text of 1 to {MAX_ISSUER} bytes");
        } else if !is_text(&self.subject, MAX_SUBJECT) {
            let _ = write!(fault, "the subject of an identity must be text of 1 to {MAX_SUBJECT} bytes");
        }
        Some(fault).filter(|fault| !fault.is_empty())
    }
}

/// Why these cannot be the identities of one account; `None` when they can.
#[must_use]
pub fn identities_fault(identities: &[ProviderIdentity]) -> Option<String> {
    if identities.len() > MAX_IDENTITIES {
        return Some(format!("an account has at most {MAX_IDENTITIES} identities at providers"));
    }
    let twice = |n: usize| identities[..n].iter().any(|one| one.fingerprint() == identities[n].fingerprint());
    if (0..identities.len()).any(twice) {
        return Some("an identity at a provider comes twice".to_owned());
    }
    identities.iter().find_map(ProviderIdentity::fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(issuer: &str, subject: &str) -> ProviderIdentity {
        ProviderIdentity { issuer: issuer.to_owned(), subject: subject.to_owned(), since: None }
    }

    #[test]
    fn two_pairs_are_one_only_byte_for_byte() {
        let ann = identity("https://idp.test", "ann").fingerprint();
        assert_eq!(
            ann,
            ProviderIdentity { since: Some(UnixTime(1)), ..identity("https://idp.test", "ann") }
                .fingerprint()
        );
        for other in [
            identity("https://idp.test", "Ann"),
            identity("https://idp.test/", "ann"),
            identity("https://idp.testa", "nn"),
            identity("https://idp.tes", "tann"),
        ] {
            assert_ne!(other.fingerprint(), ann, "{other:?}");
        }
    }

    #[test]
    fn what_can_be_no_identity_is_named() {
        assert_eq!(identities_fault(&[identity("i", "s"), identity("i", "t"), identity("j", "s")]), None);
        let fault = |identities: &[ProviderIdentity]| identities_fault(identities).unwrap();
        assert!(fault(&[identity("i", "s"), identity("i", "s")]).contains("twice"));
        assert!(fault(&[identity("", "s")]).contains("issuer"));
        assert!(fault(&[identity(&"i".repeat(MAX_ISSUER + 1), "s")]).contains("issuer"));
        assert!(fault(&[identity("i", "")]).contains("subject"));
        assert!(fault(&[identity("i", &"s".repeat(MAX_SUBJECT + 1))]).contains("subject"));
        assert!(fault(&[identity("i", "a\nb")]).contains("subject"));
        let many: Vec<_> = (0..=MAX_IDENTITIES).map(|n| identity("i", &n.to_string())).collect();
        assert!(fault(&many).contains("at most"));
    }

    /// A record that a later program wrote with more members is read.
    #[test]
    fn the_record_can_grow() {
        let stored = r#"{"issuer": "i", "subject": "s", "email": "x"}"#;
        assert_eq!(serde_json::from_str::<ProviderIdentity>(stored).unwrap(), identity("i", "s"));
    }
}
