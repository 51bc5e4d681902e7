//! Random passwords that people can read to each other.

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::guesses;
use palisade_core::domain::password::MOST_MIN_GUESSES;
use palisade_core::ports::Entropy;

/// 64 characters, so that six random bits pick one and none is likelier. Without those that look alike:
/// no `0 O o`, no `1 I l`.
const ALPHABET: &[u8; 64] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz23456789-+=@#%*?";

/// 120 bits, of which the rule that every class is there costs less than one.
const LENGTH: usize = 20;

/// A random password with an upper and a lower case letter, a digit and another character.
pub(super) fn password(entropy: &dyn Entropy) -> SecretString {
    let mut random = Zeroizing::new([0; LENGTH]);
    loop {
        entropy.fill(&mut *random);
        let mut password = Zeroizing::new(String::with_capacity(LENGTH));
        password.extend(random.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 63)])));
        // Whole passwords are drawn anew: putting a class where it lacks would favour some. The same happens to
        // one that the strictest settings would refuse, which is too unlikely to matter.
        if is_mixed(password.as_bytes()) && guesses::too_soon(&password, &[], MOST_MIN_GUESSES).is_none() {
            return SecretString::from(password.as_str());
        }
    }
}

fn is_mixed(password: &[u8]) -> bool {
    let has = |class: fn(&u8) -> bool| password.iter().any(class);
    has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_digit)
        && has(u8::is_ascii_punctuation)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::HashSet;
    use std::sync::Mutex;

    use secrecy::ExposeSecret;

    use super::*;

    /// A small generator (SplitMix64), so that the test is the same each time.
    struct Mixed(Mutex<Cell<u64>>);

    impl Entropy for Mixed {
        fn fill(&self, bytes: &mut [u8]) {
            let state = self.0.lock().unwrap();
            for byte in bytes {
                state.set(state.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
                let z = (state.get() ^ (state.get() >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                *byte = u8::try_from(z >> 56).unwrap();
            }
        }

        fn uuid(&self) -> uuid::Uuid {
            unreachable!("no ids are made here")
        }
    }

    const ROUNDS: u32 = 5_000;

    #[test]
    fn every_character_is_as_likely_and_no_password_comes_twice() {
        let entropy = Mixed(Mutex::new(Cell::new(1)));
        let mut counts = [0_u32; 256];
        let mut seen = HashSet::new();
        for _ in 0..ROUNDS {
            let password = password(&entropy);
            let text = password.expose_secret();
            assert!(text.len() == LENGTH && is_mixed(text.as_bytes()));
            text.bytes().for_each(|byte| counts[usize::from(byte)] += 1);
            assert!(seen.insert(text.to_owned()));
        }
        let mean = ROUNDS * 20 / 64;
        for (byte, count) in counts.iter().enumerate() {
            let known = ALPHABET.contains(&u8::try_from(byte).unwrap());
            // The rarer classes gain a little from being drawn again without them.
            assert!(if known { count.abs_diff(mean) < mean / 5 } else { *count == 0 }, "{byte}: {count}");
        }
    }

    #[test]
    fn nothing_looks_like_anything_else() {
        let distinct: HashSet<_> = ALPHABET.iter().collect();
        assert_eq!(distinct.len(), ALPHABET.len());
        assert!(!ALPHABET.iter().any(|byte| b"0Oo1Il|'`\"\\ ".contains(byte)));
    }
}
