//! The forms that a kept password has, and the work of making and checking one.
//!
//! New ones: up to 72 bytes plain bcrypt, `$2b$`; beyond, `bcrypt_sha256` version 2 as passlib writes it,
//! because bcrypt itself reads no further than 72 bytes. Nothing that is set is ever cut.
//!
//! Others' hashes are checked as their makers check them:
//! - `$2a$`, `$2b$` and `$2y$`: of a longer password bcrypt saw the first 72 bytes, so only those count.
//!   All three are the correct algorithm; the bug of OpenBSD's old `$2a$` with passwords of 255 bytes and
//!   more is not rebuilt.
//! - `bcrypt_sha256` of both versions.
//! - not `$2x$`: it marks hashes of a broken implementation, in which passwords collide. Such hashes are
//!   not worth keeping.
//!
//! Nothing here panics, whatever is stored, and no hash makes more work than [`ceiling`] allows.

use base64::Engine as _;
use base64::alphabet::BCRYPT;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use palisade_core::domain::account::PasswordHash;
use palisade_core::ports::Checked;

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
            Form::Sha256 => Some(Zeroizing::<[u8; 32]>::new(Sha256::digest(password).into())),
            Form::HmacSha256 => {
                let text = TEXT.encode(salt);
                // HMAC takes keys of any length; an error it has no cause for would match nothing.
                let mac = Hmac::<Sha256>::new_from_slice(text.as_bytes()).ok();
                mac.map(|mac| Zeroizing::new(mac.chain_update(password).finalize().into_bytes().into()))
            }
        };
        match summed {
            None => key.extend_from_slice(&password[..password.len().min(READ)]),
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
pub(super) struct Kept {
    form: Form,
    /// Whether it is marked `2b`, as new ones are.
    is_2b: bool,
    pub(super) cost: u32,
    salt: [u8; 16],
    digest: [u8; DIGEST],
}

impl Kept {
    /// Reads a hash; `None` when it is in no form that we know.
    pub(super) fn read(hash: &PasswordHash) -> Option<Kept> {
        let text = hash.0.as_str();
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
                return Kept::of(Form::HmacSha256, true, cost, salt, digest);
            }
            let (variant, cost) = head.split_once(',')?;
            return matches!(variant, "2a" | "2b")
                .then(|| Kept::of(Form::Sha256, false, cost, salt, digest))?;
        }
        let (variant, rest) = text.strip_prefix('$')?.split_once('$')?;
        let (cost, rest) = rest.split_once('$')?;
        if !matches!(variant, "2a" | "2b" | "2y") || cost.len() != 2 || rest.len() != SALT_TEXT + DIGEST_TEXT
        {
            return None;
        }
        let (salt, digest) = rest.split_at(SALT_TEXT);
        Kept::of(Form::Plain, variant == "2b", cost, salt, digest)
    }

    fn of(form: Form, is_2b: bool, cost: &str, salt: &str, digest: &str) -> Option<Kept> {
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
        Some(Kept { form, is_2b, cost, salt, digest })
    }

    fn write(&self) -> PasswordHash {
        let (salt, digest) = (TEXT.encode(self.salt), TEXT.encode(self.digest));
        PasswordHash(match self.form {
            Form::HmacSha256 => format!("$bcrypt-sha256$v=2,t=2b,r={}${salt}${digest}", self.cost),
            Form::Sha256 => format!("$bcrypt-sha256$2b,{}${salt}${digest}", self.cost),
            Form::Plain => format!("$2b${:02}${salt}{digest}", self.cost),
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
    Kept { form, is_2b: true, cost, salt, digest: digest(form, password, cost, salt) }.write()
}

/// In the form of a new hash, and of no password.
pub(super) fn decoy(cost: u32) -> PasswordHash {
    Kept { form: Form::Plain, is_2b: true, cost, salt: [0; 16], digest: [0; DIGEST] }.write()
}

/// Checks `password` against what is kept, where new hashes have `cost`. It takes as long as making one,
/// with `None` and with an older, cheaper hash too; only a hash of a higher cost takes longer, until its
/// owner signs in and it is made anew.
pub(super) fn check(password: &str, kept: Option<&Kept>, cost: u32) -> Checked {
    let bytes = password.as_bytes();
    let Some(kept) = kept else {
        digest(Form::of(bytes), bytes, cost, [0; 16]);
        return Checked { matches: false, needs_rehash: false };
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
            "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b4dWRWJTmaasQ".into(),
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
