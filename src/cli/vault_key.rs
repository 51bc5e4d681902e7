//! `palisade vault key`: a fresh key for `vault.keys`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::edge::entropy::SystemEntropy;
use palisade_core::ports::Entropy as _;

/// 32 random bytes as base64url, for standard output and nowhere else.
pub(super) fn run() -> String {
    let mut key = Zeroizing::new([0; 32]);
    SystemEntropy.fill(&mut *key);
    URL_SAFE_NO_PAD.encode(*key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_a_key_of_its_own() {
        let keys = [run(), run()].map(|text| crate::config::vault_key(&text.into()).unwrap());
        assert_ne!(keys[0], keys[1]);
    }
}
