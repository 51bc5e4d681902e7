//! Hashes of algorithms other than bcrypt, which come by imports: PBKDF2 (RFC 8018 §5.2), Argon2 (RFC 9106), scrypt
//! (RFC 7914), and Firebase's modification of scrypt. They are checked until their owners sign in, and never made.
//!
//! They are kept in one spelling, whatever the maker wrote: `$pbkdf2-sha256$i=600000$salt$hash`,
//! `$argon2id$v=19$m=65536,t=3,p=4$salt$hash`, `$scrypt$ln=14,r=8,p=1$salt$hash` (PHC string format), and
//! `$firebase-scrypt$ln=14,r=8,p=1$salt$keystream`. [`super::makers`] reads those of the makers.

use aws_lc_rs::cipher::{AES_256, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use palisade_core::domain::account::PasswordHash;

/// The most memory that one check takes, in bytes: what libsodium calls moderate.
pub(super) const MOST_MEMORY: u64 = 256 << 20;

/// Digests of fewer bytes are met by other passwords too soon; longer ones no maker writes.
const DIGESTS: std::ops::RangeInclusive<usize> = 16..=128;
const LONGEST_SALT: usize = 1024;
/// What Argon2 asks of a salt (RFC 9106 §3.1), in bytes.
const SHORTEST_ARGON2_SALT: usize = 8;

/// What is done in the time of bcrypt at cost 0, about 60 µs on a core of today: iterations of PBKDF2 with SHA-1 and
/// SHA-256, and with SHA-512; blocks of 1 KiB that Argon2 fills; blocks of 128 bytes that scrypt mixes.
const PBKDF2_SHORT_IN_A_UNIT: u64 = 128;
const PBKDF2_LONG_IN_A_UNIT: u64 = 64;
const ARGON2_IN_A_UNIT: u64 = 60;
const SCRYPT_IN_A_UNIT: u64 = 160;

/// The hash function of PBKDF2's HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prf {
    Sha1,
    Sha256,
    Sha512,
}

impl Prf {
    const ALL: [(Prf, &'static str); 3] =
        [(Prf::Sha1, "pbkdf2-sha1"), (Prf::Sha256, "pbkdf2-sha256"), (Prf::Sha512, "pbkdf2-sha512")];

    fn named(name: &str) -> Option<Prf> {
        Prf::ALL.into_iter().find(|(_, known)| *known == name).map(|(prf, _)| prf)
    }

    fn name(self) -> &'static str {
        Prf::ALL.into_iter().find(|(prf, _)| *prf == self).map_or("", |(_, name)| name)
    }

    /// The bytes that one run yields; a longer digest takes a run for each.
    fn length(self) -> usize {
        match self {
            Prf::Sha1 => 20,
            Prf::Sha256 => 32,
            Prf::Sha512 => 64,
        }
    }
}

/// Costs of scrypt: `N = 2^log_n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ScryptCosts {
    pub(super) log_n: u8,
    pub(super) r: u32,
    pub(super) p: u32,
}

impl ScryptCosts {
    /// `N·r·p`, saturated.
    fn blocks(self) -> u64 {
        let n = 1_u64.checked_shl(u32::from(self.log_n)).unwrap_or(u64::MAX);
        n.saturating_mul(u64::from(self.r)).saturating_mul(u64::from(self.p))
    }

    fn memory(self) -> u64 {
        // The lanes are mixed one after the other; what goes into them is there for all.
        (self.blocks() / u64::from(self.p).max(1)).saturating_add(u64::from(self.r) * u64::from(self.p)) * 128
    }
}

/// An algorithm with its costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Algorithm {
    Pbkdf2 {
        prf: Prf,
        iterations: u32,
    },
    Argon2 {
        kind: argon2::Algorithm,
        version: argon2::Version,
        /// In KiB.
        memory: u32,
        passes: u32,
        lanes: u32,
    },
    Scrypt(ScryptCosts),
    /// The digest is the keystream of AES-256 in counter mode under the first 32 bytes that scrypt derives. What
    /// Firebase keeps is this with its signer key mixed in, which [`super::makers`] takes out: one secret less to keep.
    FirebaseScrypt(ScryptCosts),
}

/// A kept password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Derived {
    algorithm: Algorithm,
    salt: Vec<u8>,
    digest: Vec<u8>,
}

impl Derived {
    /// `None`: no password can be checked against this. Its costs may be beyond all bounds.
    pub(super) fn new(algorithm: Algorithm, salt: Vec<u8>, digest: Vec<u8>) -> Option<Derived> {
        let is_sound = match &algorithm {
            Algorithm::Pbkdf2 { iterations, .. } => *iterations > 0,
            Algorithm::Argon2 { .. } => {
                salt.len() >= SHORTEST_ARGON2_SALT && argon2_of(&algorithm, digest.len()).is_some()
            }
            Algorithm::Scrypt(costs) | Algorithm::FirebaseScrypt(costs) => {
                // RFC 7914 §2 for N; r and p as the crate takes them.
                costs.log_n > 0 && scrypt::Params::new(costs.log_n, costs.r, costs.p).is_ok()
            }
        };
        let fits = DIGESTS.contains(&digest.len()) && salt.len() <= LONGEST_SALT;
        (is_sound && fits).then_some(Derived { algorithm, salt, digest })
    }

    /// Reads what [`Derived::write`] has written, and PHC strings of others.
    pub(super) fn read(text: &str) -> Option<Derived> {
        let mut parts = text.strip_prefix('$')?.split('$');
        let name = parts.next()?;
        let mut costs = parts.next()?;
        let algorithm = match (name, kind_of(name)) {
            (_, Some(kind)) => {
                let version = match costs.strip_prefix("v=") {
                    Some("19") => argon2::Version::V0x13,
                    Some("16") => argon2::Version::V0x10,
                    Some(_) => return None,
                    // Without its number it is the first version.
                    None => argon2::Version::V0x10,
                };
                if costs.starts_with("v=") {
                    costs = parts.next()?;
                }
                let [memory, passes, lanes] = numbers(costs, ["m", "t", "p"])?;
                Algorithm::Argon2 { kind, version, memory, passes, lanes }
            }
            ("scrypt" | "firebase-scrypt", None) => {
                let [log_n, r, p] = numbers(costs, ["ln", "r", "p"])?;
                let costs = ScryptCosts { log_n: u8::try_from(log_n).ok()?, r, p };
                if name == "scrypt" { Algorithm::Scrypt(costs) } else { Algorithm::FirebaseScrypt(costs) }
            }
            _ => {
                // passlib writes the bare number, and no name for SHA-1.
                let prf = Prf::named(name).or((name == "pbkdf2").then_some(Prf::Sha1))?;
                // The length of the digest, which some write, is that of the digest.
                let costs = costs.split_once(",l=").map_or(costs, |(costs, _)| costs);
                let [iterations] = numbers(costs, ["i"]).or_else(|| Some([number(costs)?]))?;
                Algorithm::Pbkdf2 { prf, iterations }
            }
        };
        let (salt, digest) = (bytes(parts.next()?)?, bytes(parts.next()?)?);
        if parts.next().is_some() {
            return None;
        }
        Derived::new(algorithm, salt, digest)
    }

    /// In the one spelling in which it is kept.
    pub(super) fn write(&self) -> PasswordHash {
        let scrypt = |costs: &ScryptCosts| format!("ln={},r={},p={}", costs.log_n, costs.r, costs.p);
        let head = match &self.algorithm {
            Algorithm::Pbkdf2 { prf, iterations } => format!("{}$i={iterations}", prf.name()),
            Algorithm::Argon2 { kind, version, memory, passes, lanes } => {
                let version = u32::from(*version);
                format!("{}$v={version}$m={memory},t={passes},p={lanes}", kind.as_str())
            }
            Algorithm::Scrypt(costs) => format!("scrypt${}", scrypt(costs)),
            Algorithm::FirebaseScrypt(costs) => format!("firebase-scrypt${}", scrypt(costs)),
        };
        let (salt, digest) = (STANDARD_NO_PAD.encode(&self.salt), STANDARD_NO_PAD.encode(&self.digest));
        PasswordHash(format!("${head}${salt}${digest}"))
    }

    /// A hash of no password that takes the same work.
    pub(super) fn decoy(&self) -> Derived {
        Derived {
            algorithm: self.algorithm.clone(),
            salt: vec![0; 16],
            // The length counts where it takes several runs.
            digest: vec![0; self.digest.len()],
        }
    }

    /// The work of a check, in runs of bcrypt at cost 0; saturated.
    pub(super) fn units(&self) -> u64 {
        let units = match &self.algorithm {
            Algorithm::Pbkdf2 { prf, iterations } => {
                let runs = self.digest.len().div_ceil(prf.length()) as u64;
                let in_a_unit = match prf {
                    Prf::Sha1 | Prf::Sha256 => PBKDF2_SHORT_IN_A_UNIT,
                    Prf::Sha512 => PBKDF2_LONG_IN_A_UNIT,
                };
                runs.saturating_mul(u64::from(*iterations)) / in_a_unit
            }
            Algorithm::Argon2 { memory, passes, .. } => {
                u64::from(*memory).saturating_mul(u64::from(*passes)) / ARGON2_IN_A_UNIT
            }
            Algorithm::Scrypt(costs) | Algorithm::FirebaseScrypt(costs) => costs.blocks() / SCRYPT_IN_A_UNIT,
        };
        units.max(1)
    }

    /// The memory of a check, in bytes; saturated.
    pub(super) fn memory(&self) -> u64 {
        match &self.algorithm {
            Algorithm::Pbkdf2 { .. } => 0,
            Algorithm::Argon2 { memory, .. } => u64::from(*memory) * 1024,
            Algorithm::Scrypt(costs) | Algorithm::FirebaseScrypt(costs) => costs.memory(),
        }
    }

    /// Whether it is of this password. Takes the work and the memory that it says.
    pub(super) fn matches(&self, password: &[u8]) -> bool {
        let found = self.derive(password);
        // HMAC fills its key with zeros (RFC 2104 §2), so what ends in NUL would pass for what is before it.
        let is_taken = !password.ends_with(&[0]);
        found.is_some_and(|found| bool::from(found.ct_eq(&self.digest))) && is_taken
    }

    /// `None` where there is no memory for it.
    fn derive(&self, password: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut found = Zeroizing::new(vec![0; self.digest.len()]);
        match &self.algorithm {
            Algorithm::Pbkdf2 { prf, iterations } => {
                let (salt, rounds) = (&self.salt, *iterations);
                match prf {
                    Prf::Sha1 => pbkdf2::pbkdf2_hmac::<sha1::Sha1>(password, salt, rounds, &mut found),
                    Prf::Sha256 => pbkdf2::pbkdf2_hmac::<sha2::Sha256>(password, salt, rounds, &mut found),
                    Prf::Sha512 => pbkdf2::pbkdf2_hmac::<sha2::Sha512>(password, salt, rounds, &mut found),
                }
            }
            Algorithm::Argon2 { .. } => {
                let argon2 = argon2_of(&self.algorithm, found.len())?;
                argon2.hash_password_into(password, &self.salt, &mut found).ok()?;
            }
            Algorithm::Scrypt(costs) => derive_scrypt(*costs, password, &self.salt, &mut found)?,
            Algorithm::FirebaseScrypt(costs) => {
                let mut key = Zeroizing::new([0; 32]);
                derive_scrypt(*costs, password, &self.salt, &mut *key)?;
                keystream(&key, &mut found)?;
            }
        }
        Some(found)
    }
}

fn kind_of(name: &str) -> Option<argon2::Algorithm> {
    let all = [argon2::Algorithm::Argon2id, argon2::Algorithm::Argon2i, argon2::Algorithm::Argon2d];
    all.into_iter().find(|kind| kind.as_str() == name)
}

fn argon2_of(algorithm: &Algorithm, length: usize) -> Option<argon2::Argon2<'static>> {
    let Algorithm::Argon2 { kind, version, memory, passes, lanes } = algorithm else { return None };
    let params = argon2::Params::new(*memory, *passes, *lanes, Some(length)).ok()?;
    Some(argon2::Argon2::new(*kind, *version, params))
}

fn derive_scrypt(costs: ScryptCosts, password: &[u8], salt: &[u8], into: &mut [u8]) -> Option<()> {
    let params = scrypt::Params::new(costs.log_n, costs.r, costs.p).ok()?;
    scrypt::scrypt(password, salt, &params, into).ok()
}

/// AES-256 in counter mode from zero on, over zeros.
fn keystream(key: &[u8; 32], zeros: &mut [u8]) -> Option<()> {
    let key = DecryptingKey::ctr(UnboundCipherKey::new(&AES_256, key).ok()?).ok()?;
    key.decrypt(zeros, DecryptionContext::Iv128(FixedLength::from([0; 16]))).ok().map(drop)
}

/// A whole number in its one spelling.
pub(super) fn number(text: &str) -> Option<u32> {
    // `parse` takes a sign, and leading zeros.
    let is_plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    is_plain.then(|| text.parse().ok())?
}

/// The numbers behind these names, in this order and no others.
fn numbers<const N: usize>(text: &str, names: [&str; N]) -> Option<[u32; N]> {
    let mut found = [0; N];
    let mut parts = text.split(',');
    for (place, name) in found.iter_mut().zip(names) {
        let (named, value) = parts.next()?.split_once('=')?;
        *place = number(value).filter(|_| named == name)?;
    }
    parts.next().is_none().then_some(found)
}

/// base64 without padding; passlib writes `.` for `+`.
fn bytes(text: &str) -> Option<Vec<u8>> {
    STANDARD_NO_PAD.decode(text.replace('.', "+")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Derived {
        Derived::read(text).unwrap_or_else(|| panic!("{text}"))
    }

    /// Made with passlib 1.7.4 and argon2-cffi 25.1.
    const KNOWN: [(&str, &str); 8] = [
        (
            "password",
            "$pbkdf2-sha256$6400$MDEyMzQ1Njc4OWFiY2RlZg$GAgw.j2X2FQf6rCn19KJonkGfQQsVMJDdhR2EPZ/a9I",
        ),
        ("password", "$pbkdf2$1212$.//7//v/.//7//v/.//7/w$tVQjTVmjWO/HNhkQ4xEqOosQjeg"),
        (
            "password",
            "$scrypt$ln=10,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$ZEBCzLptWM7dhpNJDU2HbQ945ovKHmVEozHkePPbSqw",
        ),
        ("password", "$argon2i$v=19$m=256,t=2,p=2$c29tZXNhbHQ$T/XOJ2mh1/TIpJHfCdQan76Q5esCFVoT5MAeIM1Oq2E"),
        ("password", "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc"),
        ("password", "$argon2d$v=19$m=256,t=2,p=2$c29tZXNhbHQ$e2nJLXw4iarRKB28i678Esw3yA8cdeM+8sLUDCjrxXM"),
        ("password", "$argon2i$v=16$m=256,t=2,p=2$c29tZXNhbHQ$tsEVYKap1h6scGt5ovl9aLRGOqOth+AMB+KwHpDFZPs"),
        ("password", "$argon2i$m=256,t=2,p=2$c29tZXNhbHQ$tsEVYKap1h6scGt5ovl9aLRGOqOth+AMB+KwHpDFZPs"),
    ];

    #[test]
    fn hashes_of_others_are_checked_and_kept_in_one_spelling() {
        for (password, text) in KNOWN {
            let hash = read(text);
            assert!(hash.matches(password.as_bytes()), "{text}");
            let kept = hash.write().0;
            assert_eq!(read(&kept), hash, "{kept}");
            assert_eq!(read(&kept).write().0, kept);
        }
        let cheap = read(KNOWN[1].1);
        assert!(!cheap.matches(b"Password") && !cheap.matches(b"password\0") && !cheap.matches(b""));
        assert!(cheap.write().0.starts_with("$pbkdf2-sha1$i=1212$"));
    }

    #[test]
    fn a_decoy_takes_the_same_work_and_matches_nothing() {
        for (password, text) in KNOWN {
            let (hash, decoy) = (read(text), read(text).decoy());
            assert_eq!((decoy.units(), decoy.memory()), (hash.units(), hash.memory()));
            assert_eq!(read(&decoy.write().0), decoy, "it can be kept as text");
            assert_eq!(decoy, decoy.decoy());
            assert!(!decoy.matches(password.as_bytes()));
        }
    }

    #[test]
    fn work_and_memory_are_what_the_costs_say() {
        let of = |text: &str| read(text).units();
        let digest = |bytes: usize| STANDARD_NO_PAD.encode(vec![1; bytes]);
        let pbkdf2 = |name: &str, i: u32, bytes| format!("${name}$i={i}$c29tZXNhbHQ${}", digest(bytes));
        assert_eq!(of(&pbkdf2("pbkdf2-sha256", 128_000, 32)), 1000);
        assert_eq!(of(&pbkdf2("pbkdf2-sha256", 128_000, 64)), 2000, "two runs");
        assert_eq!(of(&pbkdf2("pbkdf2-sha512", 64_000, 64)), 1000);
        assert_eq!(of(&pbkdf2("pbkdf2-sha1", 1, 20)), 1, "never nothing");
        let argon2 =
            |m: u32, t: u32, p: u32| format!("$argon2id$v=19$m={m},t={t},p={p}$c29tZXNhbHQ${}", digest(32));
        assert_eq!((of(&argon2(60_000, 2, 4)), read(&argon2(1024, 1, 1)).memory()), (2000, 1 << 20));
        assert_eq!(read(&argon2(u32::MAX, u32::MAX, 1)).units(), u64::from(u32::MAX).pow(2) / 60);
        let scrypt =
            |ln: u32, r: u32, p: u32| format!("$scrypt$ln={ln},r={r},p={p}$c29tZXNhbHQ${}", digest(32));
        assert_eq!(of(&scrypt(14, 10, 5)), 5120);
        assert_eq!(read(&scrypt(14, 8, 1)).memory(), (16 << 20) + 1024);
    }

    #[test]
    fn what_cannot_be_checked_is_no_hash() {
        let good = KNOWN[4].1;
        let pbkdf2 = "$pbkdf2-sha256$i=10$c2FsdA$Y11AchqV4b0sUisdZd0Xr97KWoymNE0LNNrnEgY4H9M";
        assert!(Derived::read(pbkdf2).is_some());
        for odd in [
            good.replace("v=19", "v=20"),
            good.replace("m=256", "m=0"),
            good.replace("m=256", "m=0256"),
            good.replace("m=256", "m=99999999999"),
            good.replace("m=256", "m=-1"),
            good.replace("t=2", "t=0"),
            good.replace("p=2", "p=0"),
            good.replace("p=2", "p=2,keyid=a"),
            good.replace("t=2,p=2", "p=2,t=2"),
            good.replace("c29tZXNhbHQ", "c2FsdA"),
            good.replace("argon2id", "argon2x"),
            format!("{good}$x"),
            format!("{good}="),
            good[..good.len() - 30].to_owned(),
            pbkdf2.replace("i=10", "i=0"),
            pbkdf2.replace("i=10", "i=+10"),
            pbkdf2.replace("sha256", "sha224"),
            pbkdf2.replace("H9M", "H9N"),
            pbkdf2[..40].to_owned(),
            KNOWN[2].1.replace("ln=10", "ln=0"),
            KNOWN[2].1.replace("ln=10", "ln=64"),
            KNOWN[2].1.replace("ln=10", "ln=300"),
            KNOWN[2].1.replace("r=8", "r=4294967295"),
            KNOWN[2].1.replace("p=1", "p=0"),
            "$".to_owned(),
            "$scrypt$".to_owned(),
            String::new(),
        ] {
            assert_eq!(Derived::read(&odd), None, "{odd}");
        }
    }
}
