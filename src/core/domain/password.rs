//! What a password must be.
//!
//! Length is counted in Unicode characters, and a password is brought into NFC before it is judged or hashed, as NIST SP
//! 800-63B-4 §3.1.1.2 asks: two keyboards that write `é` in different ways then type the same password ([`normalized`]).
//! Hashes of earlier programs and of other makers were made from the bytes as they were typed, so a password in another
//! form is held against a hash in both ([`check_both`]).
//!
//! Nothing here keeps a copy of a password that is not overwritten, and no message holds one.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use unicode_normalization::{UnicodeNormalization, is_nfc};
use zeroize::{Zeroize, Zeroizing};

use super::email::EmailAddress;

/// The longest password that is taken, in bytes: long enough for any sentence, short enough that checking one costs
/// little.
pub const MAX_BYTES: usize = 1024;

/// The most bytes that NFC makes of one byte (Unicode Standard Annex #15, §9).
const NFC_GROWTH: usize = 3;

/// A password in NFC, the form that is judged and hashed. What was made for it is overwritten when it is dropped.
#[derive(Debug)]
pub struct Normalized<'a>(Cow<'a, str>);

impl Normalized<'_> {
    /// Whether it was typed in another form.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        matches!(self.0, Cow::Owned(_))
    }
}

impl std::ops::Deref for Normalized<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Drop for Normalized<'_> {
    fn drop(&mut self) {
        if let Cow::Owned(text) = &mut self.0 {
            text.zeroize();
        }
    }
}

/// `typed` in NFC. Everything that judges, hashes or checks a password asks this.
#[must_use]
pub fn normalized(typed: &str) -> Normalized<'_> {
    // What is decided at a glance is nearly every password.
    if typed.is_ascii() || is_nfc(typed) {
        return Normalized(Cow::Borrowed(typed));
    }
    // Room for the longest form, so that no copy is left behind by growing.
    let mut text = String::with_capacity(NFC_GROWTH * typed.len());
    text.extend(typed.nfc());
    Normalized(Cow::Owned(text))
}

/// Holds `typed` against a hash by `matches`: in NFC, and where that is another text also as it was typed, since
/// earlier programs and other makers hashed that. The result says whether the first and the second did.
///
/// The second is tried whatever came of the first, so that the time tells of the text alone: otherwise, one with a
/// password of one's own choice would tell whether an address has an account that is not verified yet (enumeration).
pub fn check_both<T>(typed: &str, mut matches: impl FnMut(&str) -> T) -> (T, Option<T>) {
    let text = normalized(typed);
    let first = matches(&text);
    (first, text.is_changed().then(|| matches(typed)))
}

/// A password that holds the account's address or name has more than this many characters besides.
const BESIDES_IDENTITY: usize = 3;

/// A password that is a few characters over and over is a common one, however long it is. This many are
/// no longer a few.
const SHORTEST_UNIT: usize = 8;

/// The fewest guesses that a password must stand, unless the operator wants more. About a million, so that the name of
/// the service with a capital letter, three digits and a sign is still among what is refused.
pub const MIN_GUESSES: u64 = 2_000_000;

/// The most that an operator may ask for: every generated password stands more.
pub const MOST_MIN_GUESSES: u64 = 1_000_000_000_000_000;

/// So often a row of neighbours (`abcdef`, `7654`, `aaaa`) may break before it counts as none.
const BREAKS_OF_A_ROW: usize = 2;

/// Which rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PasswordPolicy {
    /// 8 characters or more, with an upper and a lower case letter, a digit and another character.
    Composition,
    /// 15 characters or more, and none of the common ones (NIST SP 800-63B §3.1.1.2).
    Length,
}

/// Why a guesser would soon come to a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Guessed {
    /// It is a common password, or close to one.
    Common,
    /// It is made of the account's address or name, or of the service's.
    Known,
    /// A row of keys, a sequence, a date, a repetition.
    Pattern,
    /// One word or name, and little more.
    Word,
    /// Anything else that is short and regular.
    Simple,
}

/// A rule that a password breaks. The names are stable words of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Violation {
    TooShort,
    TooLong,
    NoUppercase,
    NoLowercase,
    NoDigit,
    NoSpecial,
    /// It is on the list of common passwords, or as easily guessed as one.
    TooCommon,
    /// It is the account's address or name, or hardly more.
    ContainsIdentity,
    /// A NUL character, which bcrypt would take for the end.
    ContainsNul,
    /// It takes fewer guesses than it must stand.
    Guessable(Guessed),
}

impl Serialize for Violation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

/// The rules of a policy, for programs; `text` says them to people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Requirements {
    pub policy: PasswordPolicy,
    /// In Unicode characters.
    pub min_length: usize,
    /// In bytes of UTF-8.
    pub max_bytes: usize,
    /// Whether an upper case letter is needed; so for the next three.
    pub uppercase: bool,
    pub lowercase: bool,
    pub digit: bool,
    /// A character that is none of the three; a space will do.
    pub special: bool,
    /// Whether common passwords are refused.
    pub common_refused: bool,
    /// Whether a password that is the account's address or name, or hardly more, is refused.
    pub identity_refused: bool,
    /// The fewest guesses that it must stand, as estimated by zxcvbn with the words of the account and the service.
    pub min_guesses: u64,
    /// One sentence each.
    pub text: Vec<&'static str>,
}

impl PasswordPolicy {
    /// Its rules, where a password must stand `min_guesses`.
    #[must_use]
    pub fn requirements(self, min_guesses: u64) -> Requirements {
        let classes = self == PasswordPolicy::Composition;
        let text = match self {
            PasswordPolicy::Composition => vec![
                "Use at least 8 characters.",
                "Use an upper case letter, a lower case letter, a digit, and a character that is none of these, such as a space.",
                "Use no more than 1024 bytes.",
                "Do not use your e-mail address or your name.",
                GUESSED_FIRST,
            ],
            PasswordPolicy::Length => vec![
                "Use at least 15 characters; a sentence is fine.",
                "Do not use a common password, or the same few characters over and over.",
                "Use no more than 1024 bytes.",
                "Do not use your e-mail address or your name.",
                GUESSED_FIRST,
            ],
        };
        Requirements {
            policy: self,
            min_length: self.min_length(),
            max_bytes: MAX_BYTES,
            uppercase: classes,
            lowercase: classes,
            digit: classes,
            special: classes,
            common_refused: self == PasswordPolicy::Length,
            identity_refused: true,
            min_guesses,
            text,
        }
    }

    /// The fewest Unicode characters.
    #[must_use]
    pub fn min_length(self) -> usize {
        match self {
            PasswordPolicy::Composition => 8,
            PasswordPolicy::Length => 15,
        }
    }

    /// The message for a user whose password breaks this rule.
    #[must_use]
    pub fn explain(self, violation: Violation) -> &'static str {
        match violation {
            Violation::TooShort => match self {
                PasswordPolicy::Composition => "The password needs at least 8 characters.",
                PasswordPolicy::Length => "The password needs at least 15 characters.",
            },
            Violation::TooLong => "The password is longer than 1024 bytes.",
            Violation::NoUppercase => "The password needs an upper case letter.",
            Violation::NoLowercase => "The password needs a lower case letter.",
            Violation::NoDigit => "The password needs a digit.",
            Violation::NoSpecial => "The password needs a character that is neither a letter nor a digit.",
            Violation::TooCommon => "The password is one of the first that others would try.",
            Violation::ContainsIdentity => {
                "The password is hardly more than your e-mail address, your user name or your name."
            }
            Violation::ContainsNul => "The password holds a NUL character, which no keyboard types.",
            Violation::Guessable(Guessed::Common) => {
                "The password is close to one that many people use, and those are tried first, with capital letters, digits and signs added: use words that have nothing to do with it."
            }
            Violation::Guessable(Guessed::Known) => {
                "The password is made of your e-mail address, your name or the name of this service, which others would try first: use words that have nothing to do with them."
            }
            Violation::Guessable(Guessed::Pattern) => {
                "The password is a row of keys, a sequence, a date or a repetition, which others would try first: use a few words instead."
            }
            Violation::Guessable(Guessed::Word) => {
                "The password is little more than one word or name, which others would try first: add a word or two."
            }
            Violation::Guessable(Guessed::Simple) => {
                "The password would be guessed too soon: make it longer, or add a word or two."
            }
        }
    }

    /// Every rule that `password` breaks for the account `owner`; `is_common` looks it up in the list of common ones.
    /// Empty when it will do.
    #[must_use]
    pub fn violations(
        self,
        password: &str,
        owner: PasswordOwner<'_>,
        is_common: &dyn Fn(&str) -> bool,
    ) -> Vec<Violation> {
        // Ahead of all else, so that a megabyte costs nothing.
        if password.len() > MAX_BYTES {
            return vec![Violation::TooLong];
        }
        let password = &*normalized(password);
        // NFC takes some characters apart, and what is hashed must be no longer than what is taken.
        if password.len() > MAX_BYTES {
            return vec![Violation::TooLong];
        }
        let lacks = |class: fn(char) -> bool| !password.chars().any(class);
        let composition = self == PasswordPolicy::Composition;
        let length = self == PasswordPolicy::Length;
        let rules = [
            (Violation::TooShort, password.chars().count() < self.min_length()),
            (Violation::NoUppercase, composition && lacks(char::is_uppercase)),
            (Violation::NoLowercase, composition && lacks(char::is_lowercase)),
            (Violation::NoDigit, composition && lacks(char::is_numeric)),
            (Violation::NoSpecial, composition && lacks(is_special)),
            (Violation::TooCommon, length && (is_common(password) || is_pattern(password))),
            (Violation::ContainsIdentity, is_hardly_more(password, owner)),
            (Violation::ContainsNul, password.contains('\0')),
        ];
        rules.into_iter().filter(|(_, broken)| *broken).map(|(violation, _)| violation).collect()
    }
}

/// What others know of the account that a password is for.
#[derive(Debug, Clone, Copy, Default)]
pub struct PasswordOwner<'a> {
    pub email: Option<&'a EmailAddress>,
    pub username: Option<&'a str>,
    pub name: Option<&'a str>,
}

impl Violation {
    /// The stable word of the API.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Violation::TooShort => "too_short",
            Violation::TooLong => "too_long",
            Violation::NoUppercase => "no_uppercase",
            Violation::NoLowercase => "no_lowercase",
            Violation::NoDigit => "no_digit",
            Violation::NoSpecial => "no_special",
            Violation::TooCommon => "too_common",
            Violation::ContainsIdentity => "contains_identity",
            Violation::ContainsNul => "contains_nul",
            Violation::Guessable(_) => "guessable",
        }
    }
}

/// For people, in every policy.
const GUESSED_FIRST: &str = "Do not use what others would try first: common passwords with something added, the name of this service, rows of keys, dates.";

/// A character of none of the other classes. Letters without case are among them, so that a user of a script without
/// case can meet the rule with its letters.
fn is_special(c: char) -> bool {
    !c.is_uppercase() && !c.is_lowercase() && !c.is_numeric()
}

/// Its letters and digits, in lower case and in NFC: a name may be kept in any form.
fn folded(text: &str) -> Zeroizing<String> {
    let text = &*normalized(text);
    // Room for every fold, so that no copy is left behind by growing.
    let mut folded = Zeroizing::new(String::with_capacity(3 * text.len()));
    folded.extend(text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase));
    folded
}

/// Whether `password` is the address, its local part, the user name or the name, in any case and with any punctuation,
/// with at most [`BESIDES_IDENTITY`] characters besides.
fn is_hardly_more(password: &str, owner: PasswordOwner<'_>) -> bool {
    let PasswordOwner { email, username, name } = owner;
    let plain = folded(password);
    let length = password.chars().count();
    // `ann+news@example.com` is ann's.
    let untagged = email.and_then(|email| email.local().split('+').next());
    let words = [email.map(EmailAddress::as_str), email.map(EmailAddress::local), untagged, username, name];
    words.into_iter().flatten().any(|word| {
        let besides = length.saturating_sub(word.chars().count());
        let word = folded(word);
        !word.is_empty() && besides <= BESIDES_IDENTITY && plain.contains(word.as_str())
    })
}

/// Whether `password` is a few characters over and over, or a row of neighbours.
fn is_pattern(password: &str) -> bool {
    let mut chars: Zeroizing<Vec<char>> = Zeroizing::new(Vec::with_capacity(3 * password.len()));
    chars.extend(password.chars().flat_map(char::to_lowercase));
    let repeats = |unit: usize| chars.len() > unit && chars.iter().zip(&chars[unit..]).all(|(a, b)| a == b);
    let breaks = chars.windows(2).filter(|pair| u32::from(pair[0]).abs_diff(u32::from(pair[1])) > 1).count();
    (1..SHORTEST_UNIT).any(repeats) || breaks <= BREAKS_OF_A_ROW
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(policy: PasswordPolicy, password: &str) -> Vec<Violation> {
        policy.violations(password, PasswordOwner::default(), &|common| {
            common == "correct horse battery staple"
        })
    }

    #[test]
    fn composition_wants_one_of_each() {
        use Violation::*;
        for (password, expected) in [
            ("Passw0rd!", vec![]),
            ("Pass w0r", vec![]),
            ("Пароль-1", vec![]),
            // Letters without case are special.
            ("Aa1密码密码密", vec![]),
            ("Aa1!Aa1", vec![TooShort]),
            // Seven characters of fourteen bytes.
            ("Ää1éééé", vec![TooShort, NoSpecial]),
            ("passw0rd!", vec![NoUppercase]),
            ("PASSW0RD!", vec![NoLowercase]),
            ("Password!", vec![NoDigit]),
            ("Passw0rds", vec![NoSpecial]),
            ("", vec![TooShort, NoUppercase, NoLowercase, NoDigit, NoSpecial]),
            ("Passw0rd!\0", vec![ContainsNul]),
        ] {
            assert_eq!(broken(PasswordPolicy::Composition, password), expected, "{password:?}");
        }
    }

    #[test]
    fn length_wants_nothing_but_length_and_rarity() {
        use Violation::*;
        for (password, expected) in [
            ("the quick brown", vec![]),
            ("the quick brow", vec![TooShort]),
            ("пятнадцать букв", vec![]),
            ("correct horse battery staple", vec![TooCommon]),
            ("aaaaaaaaaaaaaaaa", vec![TooCommon]),
            ("Hello1Hello1Hello1", vec![TooCommon]),
            ("abcdefghijklmnop", vec![TooCommon]),
            ("12345678901234567890", vec![TooCommon]),
            ("ZYXWVUTSRQPONMLK", vec![TooCommon]),
            ("abcdefg is the start", vec![]),
        ] {
            assert_eq!(broken(PasswordPolicy::Length, password), expected, "{password:?}");
        }
    }

    #[test]
    fn one_password_in_two_forms_is_one() {
        use Violation::*;
        for (typed, nfc) in [
            ("Passw0rd!", "Passw0rd!"),
            ("cafe\u{301}", "caf\u{e9}"),
            // A composition exclusion, which NFC takes apart, and marks in another order.
            ("\u{958}", "\u{915}\u{93c}"),
            ("a\u{301}\u{323}", "\u{1ea1}\u{301}"),
            // What merely looks alike stays what it is (NFKC would not keep it).
            ("\u{fb01}", "\u{fb01}"),
        ] {
            let text = normalized(typed);
            assert_eq!((&*text, text.is_changed()), (nfc, typed != nfc), "{typed:?}");
        }
        // Seven characters, which are fourteen as they were typed; and no sign of their own.
        let composed = broken(PasswordPolicy::Composition, &"e\u{301}".repeat(7));
        assert_eq!(composed, [TooShort, NoUppercase, NoDigit, NoSpecial]);
        let policy = PasswordPolicy::Length;
        let common = |known: &str| known == "caf\u{e9} caf\u{e9} caf\u{e9} caf\u{e9}";
        let typed = "cafe\u{301} cafe\u{301} cafe\u{301} cafe\u{301}";
        assert_eq!(policy.violations(typed, PasswordOwner::default(), &common), [TooCommon]);
    }

    #[test]
    fn both_forms_are_tried_whatever_comes_of_the_first() {
        for (typed, tried) in [
            ("plain", vec!["plain"]),
            ("caf\u{e9}", vec!["caf\u{e9}"]),
            ("cafe\u{301}", vec!["caf\u{e9}", "cafe\u{301}"]),
        ] {
            for outcome in [true, false] {
                let mut seen = Vec::new();
                check_both(typed, |text| {
                    seen.push(text.to_owned());
                    outcome
                });
                assert_eq!(seen, tried, "{outcome}");
            }
        }
    }

    #[test]
    fn what_grows_in_nfc_is_measured_there() {
        // Three bytes, and six in NFC; the worst is three times as many.
        let typed = format!("Aa1!{}", "\u{958}".repeat(200));
        assert!(typed.len() < MAX_BYTES);
        assert_eq!(broken(PasswordPolicy::Composition, &typed), [Violation::TooLong]);
        for worst in ["\u{390}", "\u{1d160}", "\u{fb2c}", "\u{958}"] {
            let typed = worst.repeat(100);
            assert!(normalized(&typed).len() <= NFC_GROWTH * typed.len(), "{worst:?}");
        }
    }

    #[test]
    fn the_longest_has_1024_bytes() {
        let longest = format!("Aa1!{}", "x".repeat(MAX_BYTES - 4));
        assert_eq!(broken(PasswordPolicy::Composition, &longest), []);
        assert_eq!(broken(PasswordPolicy::Composition, &format!("{longest}x")), [Violation::TooLong]);
        let wide = format!("Aa1!{}", "é".repeat(511));
        assert_eq!(broken(PasswordPolicy::Composition, &wide), [Violation::TooLong]);
    }

    #[test]
    fn who_one_is_is_no_secret() {
        let email: EmailAddress = "ann.lee+news@example.com".parse().unwrap();
        let breaks = |password: &str| {
            let owner = PasswordOwner {
                email: Some(&email),
                username: Some("storm.petrel"),
                name: Some("Ann B. Ōlafsson"),
            };
            let broken = PasswordPolicy::Composition.violations(password, owner, &|_| false);
            broken.contains(&Violation::ContainsIdentity)
        };
        for password in [
            "Ann.Lee1!",
            "ANNLEE-12",
            "ann.lee+news@example.com",
            "Ann.Lee+News@Example.Com1!",
            "annbōlafsson",
            "Storm-Petrel1",
            "AnnB.ŌLAFSSON!1",
            "annbo\u{304}lafsson",
        ] {
            assert!(breaks(password), "{password}");
        }
        for password in ["Ann.Lee, since 1990", "An1! other", "Example.com1!", "Ann-B-123!"] {
            assert!(!breaks(password), "{password}");
        }
        let name = Some("Ann O\u{304}lafsson");
        let decomposed = PasswordOwner { name, ..PasswordOwner::default() };
        let broken = PasswordPolicy::Composition.violations("ANNŌLAFSSON-1", decomposed, &|_| false);
        assert!(broken.contains(&Violation::ContainsIdentity));
        // A name of no letters says nothing about any password.
        let unnamed = PasswordOwner { name: Some("!!"), ..PasswordOwner::default() };
        assert_eq!(PasswordPolicy::Composition.violations("Passw0rd!", unnamed, &|_| false), []);
    }

    #[test]
    fn words_are_the_serialised_ones_and_sentences_are_sentences() {
        use Violation::*;
        for violation in [
            TooShort,
            TooLong,
            NoUppercase,
            NoLowercase,
            NoDigit,
            NoSpecial,
            TooCommon,
            ContainsIdentity,
            ContainsNul,
            Guessable(Guessed::Common),
            Guessable(Guessed::Known),
            Guessable(Guessed::Pattern),
            Guessable(Guessed::Word),
            Guessable(Guessed::Simple),
        ] {
            assert_eq!(serde_json::to_value(violation).unwrap(), violation.word());
            for policy in [PasswordPolicy::Composition, PasswordPolicy::Length] {
                assert!(policy.explain(violation).ends_with('.'));
            }
        }
    }

    #[test]
    fn the_requirements_say_what_is_checked() {
        for policy in [PasswordPolicy::Composition, PasswordPolicy::Length] {
            let rules = policy.requirements(MIN_GUESSES);
            let all = rules.text.join(" ");
            assert!(all.contains(&format!("at least {} ", rules.min_length)), "{all}");
            assert!(all.contains(&format!("than {} bytes", rules.max_bytes)), "{all}");
            assert_eq!(all.contains("digit"), rules.digit);
            assert_eq!(all.contains("a common password"), rules.common_refused);
            assert!(all.contains("this service") && rules.min_guesses == MIN_GUESSES);
            let short = policy.explain(Violation::TooShort);
            assert!(short.contains(&format!("at least {} ", rules.min_length)));
        }
        let json = serde_json::to_value(PasswordPolicy::Length.requirements(MIN_GUESSES)).unwrap();
        assert_eq!((&json["policy"], &json["min_length"]), (&"length".into(), &15.into()));
    }
}
