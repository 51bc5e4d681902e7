//! RSA keys made by Infineon's library with the fault of CVE-2017-15361 (ROCA): they can be factored.
//!
//! Their primes are `k·M + (65537^a mod M)` for `M` the product of the first primes, so modulo each of these
//! the modulus itself is a power of 65537, and the exponents agree (M. Nemec, M. Sys, P. Svenda, D. Klinec,
//! V. Matyas: "The Return of Coppersmith's Attack", ACM CCS 2017, §2.3). A sound key passes for one of these
//! with a chance below 2^-100.

/// The odd primes that divide `M` for every length of key (512 bits and more).
const PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103,
    107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];

const GENERATOR: u32 = 65537;

/// Whether `modulus` (big-endian) has the structure of the faulty generator.
pub(super) fn is_weak(modulus: &[u8]) -> bool {
    let mut powers: Vec<(u32, u32)> = Vec::with_capacity(PRIMES.len());
    for prime in PRIMES {
        let residue = modulus.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime);
        match logarithm(residue, prime) {
            Some(power) => powers.push(power),
            None => return false,
        }
    }
    // One exponent for all of them: any two agree modulo what their orders share.
    powers.iter().enumerate().all(|(n, (exponent, order))| {
        powers[..n].iter().all(|(other, others_order)| {
            let shared = gcd(*order, *others_order);
            exponent % shared == other % shared
        })
    })
}

/// The exponent that makes `residue` a power of the generator modulo `prime`, and the generator's order.
fn logarithm(residue: u32, prime: u32) -> Option<(u32, u32)> {
    let (mut power, mut order, mut found) = (1, 0, None);
    loop {
        if power == residue {
            found = Some(order);
        }
        power = power * (GENERATOR % prime) % prime;
        order += 1;
        if power == 1 {
            return found.map(|exponent| (exponent, order));
        }
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::KeyPair as _;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    /// The modulus of `tests/fixtures/roca.pem`: 2048 bits, from two primes of the form that the paper gives (`M`
    /// of the first 126 primes).
    const WEAK: &str = "1I1bBr-Arv6-CTT-lv3ud-gjXoEjdjk8kEqMYF1hXD8zngdWBO_dg5EsNNEvWgHMDukO71JERS7emAPrPk8weoHBxZTEfAol1o8L6iEqQ0nVdELOH7eSJjsgAIbHkhYyT9M1idjC0x48JXE8Y17OqQZWde0wI78JHpJ45qzs_24lc18gXIUUOblHl5s0IFBhIJPZ6DLD0gCGoa7K5oDcXOYp_5fZ9arA9Qqn7c5THCjb4IsUHAmf1IsuVU9Y4AuFloWvJIF4X5ADuB7DElMwJtYSfEePbET8FiU10PYMk-Djnohwd7YK9uVeo-1-pHQAyiXjLzbj9lvj3l7ar6N4-Q";

    #[test]
    fn the_structure_is_found_and_nothing_else_is() {
        let weak = URL_SAFE_NO_PAD.decode(WEAK).unwrap();
        assert!(is_weak(&weak));
        assert!(is_weak(&[&[0, 0], &weak[..]].concat()), "leading zeros change no number");
        // One bit away from it, nothing of the structure is left.
        for byte in 0..weak.len() {
            let mut other = weak.clone();
            other[byte] ^= 4;
            assert!(!is_weak(&other), "{byte}");
        }
        // 1 modulo every prime but 11, where it is an odd power of the generator: no exponent fits both.
        let inconsistent: [u8; 28] = [
            1, 63, 51, 11, 23, 207, 42, 33, 134, 104, 122, 35, 50, 44, 231, 7, 36, 144, 134, 116, 243, 77,
            93, 65, 148, 203, 233, 156,
        ];
        assert!(!is_weak(&inconsistent));
        for _ in 0..3 {
            let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
            assert!(!is_weak(key.public_key().modulus().big_endian_without_leading_zero()));
        }
    }
}
