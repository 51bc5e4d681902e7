//! The forms that a kept password has, and the work of making and checking one.
//!
//! New ones: up to 72 bytes plain bcrypt, `$2b$`; beyond, `bcrypt_sha256` version 2 as passlib writes it,
//! because bcrypt itself reads no further than 72 bytes. Nothing that is set is ever cut.
//!
//! Others' hashes are checked as their makers check them:
//! - `$2a$`, `$2b$` and `$2y$`: of a longer password bcrypt saw the first 72 bytes, so only those count.
//!   All three are the correct algorithm; the bug of OpenBSD's old `$2a$` with passwords of 255 bytes and
//!   more is not rebuilt.
//! - `bcrypt_sha256` of both versions, and Django's, which is another one.
//! - not `$2x$`: it marks hashes of a broken implementation, in which passwords collide. Such hashes are
//!   not worth keeping.
//! - those of other algorithms ([`super::derived`]), in the spellings of their makers ([`super::makers`]).
//!
//! Nothing here panics, whatever is stored, and no hash makes more work than [`ceiling`] allows, or takes more memory
//! than [`MOST_MEMORY`].

use base64::Engine as _;
use base64::alphabet::BCRYPT;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::derived::{Derived, MOST_MEMORY};
use super::makers::{self, Spelt};
use palisade_core::domain::account::PasswordHash;
use palisade_core::ports::{Checked, NotImported};

/// What bcrypt reads of a password, in bytes.
pub(super) const READ: usize = 72;
/// Of 24 bytes that bcrypt computes, 23 are kept.
const DIGEST: usize = 23;
/// The characters of a salt of 16 bytes, and of a digest.
const SALT_TEXT: usize = 22;
const DIGEST_TEXT: usize = 31;

/// The costs that bcrypt knows; each step doubles the work.
pub(super) const COSTS: std::ops::RangeInclusive<u32> = 4..=31;

/// bcrypt's own base64. The bits of the last character that mean nothing are ignored, since some makers
/// of salts set them.
const TEXT: GeneralPurpose = GeneralPurpose::new(
    &BCRYPT,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// The highest cost of a hash that is checked where new ones have `cost`: eight times the work of a new
/// one, or of cost 12 if that is more. A hash of cost 31 would take a thread for two days.
pub(super) fn ceiling(cost: u32) -> u32 {
    cost.max(12) + 3
}

/// How a password becomes what bcrypt is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As it is, cut at [`READ`].
    Plain,
    /// Base64 of its SHA-256 (passlib before 1.7.3).
    Sha256,
    /// Base64 of its HMAC-SHA256 under the text of the salt.
    HmacSha256,
    /// Its SHA-256 in hexadecimal (Django).
    HexSha256,
}

impl Form {
    /// The form of a new hash.
    fn of(password: &[u8]) -> Form {
        if password.len() <= READ { Form::Plain } else { Form::HmacSha256 }
    }

    /// What bcrypt is given: at most [`READ`] bytes, never none. A NUL ends it as bcrypt's makers decided,
    /// where there is room for one.
    fn key(self, password: &[u8], salt: [u8; 16]) -> Zeroizing<Vec<u8>> {
        let mut key = Zeroizing::new(Vec::with_capacity(READ));
        let summed = match self {
            Form::Plain => None,
            Form::Sha256 | Form::HexSha256 => {
                Some(Zeroizing::<[u8; 32]>::new(Sha256::digest(password).into()))
            }
            Form::HmacSha256 => {
                let text = TEXT.encode(salt);
                // HMAC takes keys of any length; an error it has no cause for would match nothing.
                let mac = Hmac::<Sha256>::new_from_slice(text.as_bytes()).ok();
                mac.map(|mac| Zeroizing::new(mac.chain_update(password).finalize().into_bytes().into()))
            }
        };
        match summed {
            None => key.extend_from_slice(&password[..password.len().min(READ)]),
            Some(sum) if self == Form::HexSha256 => {
                let digits = |b: &u8| [b >> 4, b & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]);
                key.extend(sum.iter().flat_map(digits));
            }
            Some(sum) => key.extend_from_slice(Zeroizing::new(STANDARD.encode(*sum)).as_bytes()),
        }
        if key.len() < READ {
            key.push(0);
        }
        key
    }
}

/// A kept password, read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Bcrypt(Bcrypt),
    Derived(Derived),
}

impl Kept {
    /// Reads a hash; `None` when it is in no form that we know.
    pub(super) fn read(hash: &PasswordHash) -> Option<Kept> {
        let text = hash.0.as_str();
        let read = |text: &str| match Bcrypt::read(text) {
            Some(bcrypt) => Some(Kept::Bcrypt(bcrypt)),
            None => Derived::read(text).map(Kept::Derived),
        };
        match read(text) {
            Some(kept) => Some(kept),
            None => match makers::read(text)? {
                Spelt::Derived(derived) => Some(Kept::Derived(derived)),
                Spelt::Kept(rest) => read(&rest),
            },
        }
    }

    /// In the one spelling in which it is kept.
    pub(super) fn write(&self) -> PasswordHash {
        match self {
            Kept::Bcrypt(bcrypt) => bcrypt.write(),
            Kept::Derived(derived) => derived.write(),
        }
    }

    /// The work of a check, in runs of bcrypt at cost 0.
    pub(super) fn units(&self) -> u64 {
        match self {
            Kept::Bcrypt(bcrypt) => units(bcrypt.cost),
            Kept::Derived(derived) => derived.units(),
        }
    }

    /// The memory of a check, in bytes.
    pub(super) fn memory(&self) -> u64 {
        match self {
            Kept::Bcrypt(_) => 0,
            Kept::Derived(derived) => derived.memory(),
        }
    }

    /// Its decoy: a hash of no password that takes the same work; `None` where that is the work of a new hash of
    /// `cost`.
    pub(super) fn decoy(&self, cost: u32) -> Option<PasswordHash> {
        match self {
            Kept::Bcrypt(bcrypt) => (bcrypt.cost > cost).then(|| decoy(bcrypt.cost)),
            Kept::Derived(derived) => Some(derived.decoy().write()),
        }
    }

    /// Whether a check is bounded by the work of cost `most`, and by [`MOST_MEMORY`].
    ///
    /// # Errors
    /// [`NotImported`], which says by what it is not.
    pub(super) fn bounded(&self, most: u32) -> Result<(), NotImported> {
        let most_memory = MOST_MEMORY >> 20;
        if self.memory() > MOST_MEMORY {
            return Err(NotImported::TooLarge { mebibytes: self.memory() >> 20, most: most_memory });
        }
        if self.units() > units(most) {
            let cost = match self {
                Kept::Bcrypt(bcrypt) => bcrypt.cost,
                Kept::Derived(derived) => (derived.units() - 1).ilog2() + 1,
            };
            return Err(NotImported::TooDear { cost, most });
        }
        Ok(())
    }
}

/// The work of bcrypt: cost n is twice that of n - 1.
pub(super) fn units(cost: u32) -> u64 {
    1 << cost.min(*COSTS.end())
}

/// A kept password of bcrypt.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bcrypt {
    form: Form,
    /// Whether it is marked `2b`, as new ones are.
    is_2b: bool,
    pub(super) cost: u32,
    salt: [u8; 16],
    digest: [u8; DIGEST],
}

impl Bcrypt {
    fn read(text: &str) -> Option<Bcrypt> {
        // Every character is one byte from here on.
        if !text.is_ascii() {
            return None;
        }
        if let Some(rest) = text.strip_prefix("$bcrypt-sha256$") {
            let (head, rest) = rest.split_once('$')?;
            let (salt, digest) = rest.split_once('$')?;
            // passlib writes and reads it without a leading zero.
            if head.contains("=0") || head.contains(",0") {
                return None;
            }
            if let Some(cost) = head.strip_prefix("v=2,t=2b,r=") {
                return Bcrypt::of(Form::HmacSha256, true, cost, salt, digest);
            }
            let (variant, cost) = head.split_once(',')?;
            return matches!(variant, "2a" | "2b")
                .then(|| Bcrypt::of(Form::Sha256, false, cost, salt, digest))?;
        }
        let (text, form) = match text.strip_prefix("bcrypt_sha256$") {
            Some(rest) => (rest, Form::HexSha256),
            None => (text, Form::Plain),
        };
        let (variant, rest) = text.strip_prefix('$')?.split_once('$')?;
        let (cost, rest) = rest.split_once('$')?;
        if !matches!(variant, "2a" | "2b" | "2y") || cost.len() != 2 || rest.len() != SALT_TEXT + DIGEST_TEXT
        {
            return None;
        }
        let (salt, digest) = rest.split_at(SALT_TEXT);
        Bcrypt::of(form, variant == "2b", cost, salt, digest)
    }

    fn of(form: Form, is_2b: bool, cost: &str, salt: &str, digest: &str) -> Option<Bcrypt> {
        // `parse` takes a sign.
        if cost.len() > 2 || !cost.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let cost = cost.parse().ok().filter(|cost| COSTS.contains(cost))?;
        if salt.len() != SALT_TEXT || digest.len() != DIGEST_TEXT {
            return None;
        }
        let salt = TEXT.decode(salt).ok()?.try_into().ok()?;
        let digest = TEXT.decode(digest).ok()?.try_into().ok()?;
        Some(Bcrypt { form, is_2b, cost, salt, digest })
    }

    fn write(&self) -> PasswordHash {
        let (salt, digest) = (TEXT.encode(self.salt), TEXT.encode(self.digest));
        PasswordHash(match self.form {
            Form::HmacSha256 => format!("$bcrypt-sha256$v=2,t=2b,r={}${salt}${digest}", self.cost),
            Form::Sha256 => format!("$bcrypt-sha256$2b,{}${salt}${digest}", self.cost),
            Form::Plain => format!("$2b${:02}${salt}{digest}", self.cost),
            Form::HexSha256 => format!("bcrypt_sha256$$2b${:02}${salt}{digest}", self.cost),
        })
    }
}

fn digest(form: Form, password: &[u8], cost: u32, salt: [u8; 16]) -> [u8; DIGEST] {
    let whole = bcrypt::bcrypt(cost, salt, &form.key(password, salt));
    let mut kept = [0; DIGEST];
    kept.copy_from_slice(&whole[..DIGEST]);
    kept
}

/// The hash of a new password. `cost` must be one of [`COSTS`], and `salt` random.
pub(super) fn make(password: &str, cost: u32, salt: [u8; 16]) -> PasswordHash {
    let (form, password) = (Form::of(password.as_bytes()), password.as_bytes());
    Bcrypt { form, is_2b: true, cost, salt, digest: digest(form, password, cost, salt) }.write()
}

/// In the form of a new hash, and of no password.
pub(super) fn decoy(cost: u32) -> PasswordHash {
    Bcrypt { form: Form::Plain, is_2b: true, cost, salt: [0; 16], digest: [0; DIGEST] }.write()
}

/// Checks `password` against what is kept, where new hashes have `cost`. It takes as long as making one,
/// with `None` and with an older, cheaper hash too; only a hash of a higher cost takes longer, until its
/// owner signs in and it is made anew. A cheaper one of another algorithm takes about as long: decoys of its kind take
/// exactly as long.
pub(super) fn check(password: &str, kept: Option<&Kept>, cost: u32) -> Checked {
    let bytes = password.as_bytes();
    let Some(kept) = kept else {
        digest(Form::of(bytes), bytes, cost, [0; 16]);
        return Checked { matches: false, needs_rehash: false };
    };
    let kept = match kept {
        Kept::Bcrypt(kept) => kept,
        Kept::Derived(derived) => {
            let matches = derived.matches(bytes);
            let missing = units(cost).saturating_sub(derived.units());
            for step in COSTS.filter(|step| missing & units(*step) != 0) {
                digest(Form::Plain, bytes, step, [0; 16]);
            }
            return Checked { matches, needs_rehash: matches };
        }
    };
    let found = digest(kept.form, bytes, kept.cost, kept.salt);
    // A long password is read to its end with an account and without one, so that the time reveals nothing.
    if kept.form == Form::Plain && Form::of(bytes) != Form::Plain {
        std::hint::black_box(Form::HmacSha256.key(bytes, kept.salt));
    }
    // The work of cost n is that of n - 1 twice: what is missing is one run of each cost between.
    for missing in kept.cost..cost {
        digest(Form::Plain, bytes, missing, kept.salt);
    }
    // bcrypt repeats its key, so `a`, NUL, `a` would pass for `a`.
    let is_taken = kept.form != Form::Plain || !bytes.contains(&0);
    let matches = bool::from(found.ct_eq(&kept.digest)) && is_taken;
    let is_as_new = kept.form == Form::of(bytes) && kept.is_2b && kept.cost == cost;
    Checked { matches, needs_rehash: matches && !is_as_new }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(password: &str, hash: &str) -> bool {
        let kept = Kept::read(&PasswordHash(hash.into())).unwrap_or_else(|| panic!("{hash}"));
        check(password, Some(&kept), 4).matches
    }

    fn checked(password: &str, hash: &str) -> Checked {
        check(password, Kept::read(&PasswordHash(hash.into())).as_ref(), 5)
    }

    /// From crypt_blowfish's wrapper.c, of the marks that we take.
    const CRYPT_BLOWFISH: [(&str, &str); 11] = [
        ("U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"),
        ("U*U*", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK"),
        ("U*U*U", "$2a$05$XXXXXXXXXXXXXXXXXXXXXOAcXxm9kjPGEMsLznoKqmqw7tc8WCx4a"),
        ("", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy"),
        (
            "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789chars after 72 are ignored",
            "$2a$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui",
        ),
        ("U*U", "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"),
        ("U*U", "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"),
        // jBCrypt's TestBCrypt.java.
        ("", "$2a$06$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s."),
        ("a", "$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe"),
        ("abc", "$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i"),
        (
            "~!@#$%^&*()      ~!@#$%^&*()PNBFRD",
            "$2a$06$fPIsBO8qRqkjj273rfaOI.HtSV9jLDpTbZn782DC6/t7qT67P6FfO",
        ),
    ];

    #[test]
    fn bcrypt_of_others_is_checked() {
        for (password, hash) in CRYPT_BLOWFISH {
            assert!(matches(password, hash), "{hash}");
            assert!(!matches("another", hash), "{hash}");
        }
        // The bits that mean nothing, set by a careless maker.
        assert!(matches("U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC/E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"));
    }

    #[test]
    fn plain_hashes_saw_72_bytes() {
        let hash = CRYPT_BLOWFISH[4].1;
        let seen = &CRYPT_BLOWFISH[4].0[..72];
        assert!(matches(seen, hash) && matches(&format!("{seen}other"), hash));
        assert!(!matches(&seen[..71], hash));
    }

    /// From passlib's tests, tests/test_handlers_bcrypt.py of 1.7.4.
    const BCRYPT_SHA256: [(&str, &str); 6] = [
        ("", "$bcrypt-sha256$2a,5$E/e/2AOhqM5W/KJTFQzLce$F6dYSxOdAEoJZO2eoHUZWZljW/e0TXO"),
        ("password", "$bcrypt-sha256$2a,5$5Hg1DKFqPE8C2aflZ5vVoe$12BjNE0p7axMg55.Y/mHsYiVuFBDQyu"),
        (
            "t\u{e1}\u{411}\u{2113}\u{259}",
            "$bcrypt-sha256$2a,5$.US1fQ4TQS.ZTz/uJ5Kyn.$QNdPDOTKKT5/sovNz1iWg26quOU4Pje",
        ),
        ("", "$bcrypt-sha256$v=2,t=2b,r=5$E/e/2AOhqM5W/KJTFQzLce$WFPIZKtDDTriqWwlmRFfHiOTeheAZWe"),
        ("password", "$bcrypt-sha256$v=2,t=2b,r=5$5Hg1DKFqPE8C2aflZ5vVoe$wOK1VFFtS8IGTrGa7.h5fs0u84qyPbS"),
        (
            // Behind the 72 bytes that bcrypt reads.
            "abc123abc123abc123abc123abc123abc123abc123abc123abc123abc123abc123abc123qwr",
            "$bcrypt-sha256$v=2,t=2b,r=5$X1g1nh3g0v4h6970O68cxe$CBF9csfEdW68xv3DwE6xSULXMtqEFP.",
        ),
    ];

    #[test]
    fn bcrypt_sha256_of_others_is_checked() {
        for (password, hash) in BCRYPT_SHA256 {
            assert!(matches(password, hash), "{hash}");
            assert!(!matches("another", hash), "{hash}");
        }
    }

    /// Made with Django 5.2.
    const BCRYPT_DJANGO: &str = "bcrypt_sha256$$2b$05$CCCCCCCCCCCCCCCCCCCCCODnkkP4QfskupI0ioFA.dE5LjRF2Tqxm";

    #[test]
    fn bcrypt_of_django_and_spring_is_checked_and_kept_in_one_spelling() {
        assert!(matches("lètmein", BCRYPT_DJANGO) && !matches("letmein", BCRYPT_DJANGO));
        let written = |text: &str| Kept::read(&PasswordHash(text.to_owned())).unwrap().write().0;
        assert_eq!(written(BCRYPT_DJANGO), BCRYPT_DJANGO);
        assert!(checked("lètmein", BCRYPT_DJANGO).needs_rehash);
        let (password, plain) = CRYPT_BLOWFISH[5];
        for prefix in ["{bcrypt}", "bcrypt$"] {
            let spelt = format!("{prefix}{plain}");
            assert!(matches(password, &spelt));
            assert_eq!(written(&spelt), plain);
        }
        assert_eq!(Kept::read(&PasswordHash("{bcrypt}{bcrypt}".to_owned() + plain)), None);
    }

    #[test]
    fn a_hash_of_another_algorithm_is_checked_once_and_then_made_anew() {
        let argon2 = "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc";
        assert_eq!(checked("password", argon2), Checked { matches: true, needs_rehash: true });
        assert_eq!(checked("passwort", argon2), Checked { matches: false, needs_rehash: false });
        let kept = Kept::read(&PasswordHash(argon2.to_owned())).unwrap();
        let decoy = Kept::read(&kept.decoy(5).unwrap()).unwrap();
        assert_eq!((decoy.units(), decoy.memory()), (kept.units(), kept.memory()));
        assert_eq!(decoy.decoy(5), kept.decoy(5), "a decoy is of the kind that it stands for");
        // The kind of a new hash, and of an older and cheaper one, is the usual one.
        for (cost, kind) in [(4, None), (5, None), (6, Some(decoy_text(6)))] {
            assert_eq!(Kept::read(&make("x", cost, [1; 16])).unwrap().decoy(5).map(|hash| hash.0), kind);
        }
    }

    fn decoy_text(cost: u32) -> String {
        super::decoy(cost).0
    }

    /// What the makers write today, without their salts and digests.
    #[test]
    fn the_present_defaults_of_every_maker_are_taken_and_what_is_beyond_all_of_them_is_not() {
        let digest = |bytes: usize| base64::engine::general_purpose::STANDARD_NO_PAD.encode(vec![7; bytes]);
        let salt = digest(16);
        let hash = |head: &str, bytes: usize| {
            let text = format!("${head}${salt}${}", digest(bytes));
            Kept::read(&PasswordHash(text.clone())).unwrap_or_else(|| panic!("{text}"))
        };
        for (head, bytes) in [
            ("pbkdf2-sha256$i=1200000", 32),        // Django 6.0
            ("pbkdf2-sha256$i=1500000", 32),        // Django 6.1
            ("pbkdf2-sha256$i=600000", 64),         // Keycloak, with its derived key of 512 bits
            ("pbkdf2-sha512$i=210000", 64),         // Keycloak 24
            ("argon2id$v=19$m=7168,t=5,p=1", 32),   // Keycloak
            ("pbkdf2-sha512$i=100000", 32),         // ASP.NET Core
            ("argon2id$v=19$m=102400,t=2,p=8", 32), // Django
            ("argon2id$v=19$m=65536,t=3,p=4", 32),  // argon2-cffi, RFC 9106's second choice
            ("argon2id$v=19$m=65536,t=4,p=1", 32),  // PHP
            ("argon2id$v=19$m=262144,t=3,p=1", 32), // libsodium, moderate
            ("argon2id$v=19$m=16384,t=2,p=1", 32),  // Spring
            ("scrypt$ln=16,r=8,p=1", 32),           // passlib
            ("scrypt$ln=14,r=8,p=5", 64),           // Django
            ("scrypt$ln=17,r=8,p=1", 64),           // OWASP's
            ("firebase-scrypt$ln=14,r=8,p=1", 64),
        ] {
            assert_eq!(hash(head, bytes).bounded(14), Ok(()), "{head}");
        }
        let dear = |cost| Err(NotImported::TooDear { cost, most: 14 });
        let large = |mebibytes| Err(NotImported::TooLarge { mebibytes, most: 256 });
        for (head, refused) in [
            ("pbkdf2-sha256$i=2200000", dear(15)),
            ("pbkdf2-sha1$i=4300000", dear(17)),
            ("pbkdf2-sha256$i=4294967295", dear(25)),
            ("argon2id$v=19$m=65536,t=16,p=1", dear(15)),
            ("argon2id$v=19$m=64,t=4294967295,p=1", dear(33)),
            ("argon2id$v=19$m=1048576,t=4,p=1", large(1024)),
            ("argon2id$v=19$m=2097152,t=1,p=4", large(2048)),
            ("argon2id$v=19$m=4294967295,t=4294967295,p=1", large(4_194_303)),
            ("scrypt$ln=15,r=8,p=16", dear(15)),
            ("scrypt$ln=20,r=8,p=1", large(1024)),
            ("firebase-scrypt$ln=30,r=8,p=1", large(1 << 20)),
        ] {
            assert_eq!(hash(head, 32).bounded(14), refused, "{head}");
        }
    }

    #[test]
    fn a_new_hash_is_written_by_length() {
        for (length, start) in
            [(0, "$2b$05$"), (72, "$2b$05$"), (73, "$bcrypt-sha256$v=2,t=2b,r=5$"), (1024, "$bcrypt-sha256$")]
        {
            let password = "x".repeat(length);
            let hash = make(&password, 5, [7; 16]);
            assert!(hash.0.starts_with(start), "{length}: {}", hash.0);
            assert_eq!(checked(&password, &hash.0), Checked { matches: true, needs_rehash: false });
            assert!(!matches(&format!("{password}y"), &hash.0) || length == READ);
        }
        // Two that differ in their last byte only, far behind what bcrypt reads.
        let (one, other) = (format!("{}1", "x".repeat(1000)), format!("{}2", "x".repeat(1000)));
        assert!(!matches(&other, &make(&one, 4, [7; 16]).0));
    }

    #[test]
    fn what_a_new_hash_would_not_be_needs_one() {
        let needs = |password: &str, hash: &str| {
            let checked = checked(password, hash);
            assert!(checked.matches, "{hash}");
            checked.needs_rehash
        };
        assert!(!needs("U*U", CRYPT_BLOWFISH[5].1));
        assert!(needs("U*U", CRYPT_BLOWFISH[0].1) && needs("U*U", CRYPT_BLOWFISH[6].1));
        for other in [4, 6] {
            assert!(needs("secret", &make("secret", other, [1; 16]).0));
        }
        assert!(needs("password", BCRYPT_SHA256[1].1) && needs("password", BCRYPT_SHA256[4].1));
        let long = "x".repeat(80);
        assert!(needs(&long, &make(&long[..72], 5, [1; 16]).0));
        // A wrong guess does not reveal the form of the hash.
        assert!(!checked("wrong", CRYPT_BLOWFISH[0].1).needs_rehash);
    }

    #[test]
    fn a_nul_cannot_repeat_a_password() {
        let hash = make("abc", 4, [3; 16]);
        assert!(matches("abc", &hash.0) && !matches("abc\0abc", &hash.0) && !matches("abc\0", &hash.0));
    }

    #[test]
    fn odd_hashes_are_no_hashes() {
        let good = CRYPT_BLOWFISH[0].1;
        let v2 = BCRYPT_SHA256[4].1;
        let odd = [
            String::new(),
            "$".into(),
            "$2b$".into(),
            "*0".into(),
            "!".into(),
            good[..59].into(),
            format!("{good}x"),
            good.replace("$2a", "$2x"),
            good.replace("$2a", "$2"),
            good.replace("$05", "$+5"),
            good.replace("$05", "$ 5"),
            good.replace("$05", "$03"),
            good.replace("$05", "$32"),
            good.replace("$05", "$5"),
            good.replace('C', "ä"),
            good.replace("CC", "ä"),
            good.replace('C', "="),
            good.replace('C', "\0"),
            v2.replace("v=2", "v=3"),
            v2.replace("t=2b", "t=2a"),
            v2.replace("r=5", "r="),
            v2.replace("r=5", "r=05"),
            v2.replace("r=5", "r=99"),
            v2.replace("r=5", "r=18446744073709551621"),
            v2.replace("$wOK", "wOK"),
            format!("{v2}="),
            v2[..40].into(),
            BCRYPT_SHA256[0].1.replace("2a,5", "2y,5"),
            BCRYPT_DJANGO.replace("$$", "$"),
            BCRYPT_DJANGO.replace("bcrypt_sha256", "bcrypt_sha512"),
            "\u{1f511}".repeat(15),
        ];
        for hash in odd {
            assert_eq!(Kept::read(&PasswordHash(hash.clone())), None, "{hash:?}");
        }
    }

    #[test]
    fn a_cheaper_hash_takes_no_less_work() {
        // Counted in runs of bcrypt at cost 0, which is what the loop of `check` must add up to.
        for kept in COSTS {
            for cost in kept..=31 {
                let runs: u64 = (1 << kept) + (kept..cost).map(|missing| 1 << missing).sum::<u64>();
                assert_eq!(runs, 1 << cost);
            }
        }
    }
}
