//! How soon a guesser would come to a password: the estimate of `zxcvbn` (Wheeler, "zxcvbn: Low-Budget Password
//! Strength Estimation", USENIX Security 2016).
//!
//! Its work grows with the square of the length and with the characters that may stand for others (`@` for `a`), so
//! it sees the first [`LOOKED_AT`] characters only and belongs on the threads that hash. Whatever is hard to guess by
//! then stays so with more behind it. Unlike everything else in this room, the crate does not overwrite the copies that
//! it makes.

use zxcvbn::feedback::Warning;
use zxcvbn::zxcvbn;

use palisade_core::domain::password::{Guessed, PasswordOwner, normalized};

/// How many characters of a password are looked at. 32 take 0.1 ms as a rule and 0.15 s at worst (on a busy machine), less
/// than a hash of usual cost; 100 take two seconds at worst.
const LOOKED_AT: usize = 32;
/// The most words of the account and the service, and the most characters of one.
const WORDS: usize = 64;
const WORD: usize = 64;
/// Shorter ones are in any password.
const SHORTEST: usize = 3;

/// Why `password` is guessed within fewer than `min` tries by a guesser that knows `words`, in lower case; `None` when it is not.
pub(super) fn too_soon(password: &str, words: &[String], min: u64) -> Option<Guessed> {
    let seen: zeroize::Zeroizing<String> =
        zeroize::Zeroizing::new(password.chars().take(LOOKED_AT).collect());
    let known: Vec<&str> = words.iter().map(String::as_str).collect();
    let estimate = zxcvbn(&seen, &known);
    if estimate.guesses() >= min {
        return None;
    }
    let lower = zeroize::Zeroizing::new(seen.to_lowercase());
    if words.iter().any(|word| lower.contains(word.as_str())) {
        return Some(Guessed::Known);
    }
    Some(match estimate.feedback().and_then(|feedback| feedback.warning()) {
        Some(
            Warning::ThisIsATop10Password
            | Warning::ThisIsATop100Password
            | Warning::ThisIsACommonPassword
            | Warning::ThisIsSimilarToACommonlyUsedPassword,
        ) => Guessed::Common,
        Some(
            Warning::StraightRowsOfKeysAreEasyToGuess
            | Warning::ShortKeyboardPatternsAreEasyToGuess
            | Warning::RepeatsLikeAaaAreEasyToGuess
            | Warning::RepeatsLikeAbcAbcAreOnlySlightlyHarderToGuess
            | Warning::SequencesLikeAbcAreEasyToGuess
            | Warning::RecentYearsAreEasyToGuess
            | Warning::DatesAreOftenEasyToGuess,
        ) => Guessed::Pattern,
        Some(
            Warning::AWordByItselfIsEasyToGuess
            | Warning::NamesAndSurnamesByThemselvesAreEasyToGuess
            | Warning::CommonNamesAndSurnamesAreEasyToGuess,
        ) => Guessed::Word,
        None => Guessed::Simple,
    })
}

/// What a guesser knows of the account and the service, likeliest first, in lower case and each once.
pub(super) fn words(service: &[String], owner: PasswordOwner<'_>) -> Vec<String> {
    let mut all = Vec::new();
    for text in service {
        add(&mut all, text);
    }
    if let Some(email) = owner.email {
        add(&mut all, email.local());
        let domain = email.as_str().rsplit_once('@').map_or("", |(_, domain)| domain);
        // Without the top-level domain, which names no account.
        add(&mut all, domain.rsplit_once('.').map_or(domain, |(labels, _)| labels));
        push(&mut all, email.as_str().to_owned());
    }
    for name in [owner.username, owner.name].into_iter().flatten() {
        add(&mut all, name);
    }
    all
}

/// `text`, its words, and its words without what stands between them.
fn add(all: &mut Vec<String>, text: &str) {
    let text = &*normalized(text);
    let apart = |c: char| !c.is_alphanumeric();
    let joined: String = text.split(apart).collect();
    for word in [text, joined.as_str()].into_iter().chain(text.split(apart)) {
        push(all, word.to_lowercase());
    }
}

fn push(all: &mut Vec<String>, mut word: String) {
    if let Some((end, _)) = word.char_indices().nth(WORD) {
        word.truncate(end);
    }
    if all.len() < WORDS && word.chars().count() >= SHORTEST && !all.contains(&word) {
        all.push(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_core::domain::password::MIN_GUESSES;

    fn known() -> Vec<String> {
        let email = "ann.lee@example.com".parse().unwrap();
        words(
            &["Palisade".into(), "auth.acme-bank".into(), "Acme Bank".into()],
            PasswordOwner { email: Some(&email), username: Some("petrel7"), name: Some("Ann Ōlafsson") },
        )
    }

    fn judged(password: &str) -> Option<Guessed> {
        too_soon(password, &known(), MIN_GUESSES)
    }

    /// The estimates that [`MIN_GUESSES`] was chosen by. They may move with the crate; the side they are on must not.
    #[test]
    fn what_is_tried_first_is_refused_and_what_fulfils_the_rules_by_more_is_not() {
        for (password, why) in [
            ("Password1!", Guessed::Common),        // 17,560
            ("Qwerty123!", Guessed::Common),        // 18,760
            ("Passw0rd!", Guessed::Common),         // 11,000
            ("P@ssw0rd1", Guessed::Common),         // 11,000
            ("Welcome1!", Guessed::Common),         // 40,800
            ("Admin123!", Guessed::Common),         // 299,720
            ("Monkey123!", Guessed::Common),        // 320,040
            ("Secret123!", Guessed::Common),        // 578,640
            ("Abcd1234!", Guessed::Common),         // 18,840
            ("1qaz2wsx!Q", Guessed::Common),        // 20,000
            ("Aa1!Aa1!", Guessed::Pattern),         // 20,003
            ("aaaaaaaaaaaaaaaa", Guessed::Pattern), // 193
            ("Palisade1!", Guessed::Known),         // 20,000
            ("Palisade123!", Guessed::Known),       // 1,010,000
            ("palisadepalisade", Guessed::Known),   // 5
            ("Acmebank1!", Guessed::Known),         // 20,000
            ("acmebankacmebank", Guessed::Known),
            ("Ann.Lee1!", Guessed::Known),  // 47,800
            ("Example12!", Guessed::Known), // 110,000
            ("Ōlafsson1!", Guessed::Known), // 20,000
        ] {
            assert_eq!(judged(password), Some(why), "{password}");
        }
        for password in [
            "SecurePass123!",    // 672,643,360
            "NewSecurePass123!", // 1,142,015,553,280
            "OldPass123!",       // 164,906,560
            "Correct horse 42",  // 1,421,945,920,000
            "another one",       // 3,530,000
            "S3cure-Passw0rd",   // 121,661,200
            "Пароль-1",          // 100,000,001
            "Aa1密码密码密",     // 100,000,001
            "the quick brown fox",
            "Palisade is a good service",
        ] {
            assert_eq!(judged(password), None, "{password}");
        }
    }

    #[test]
    fn a_stricter_operator_is_told_something_as_well() {
        assert_eq!(too_soon("SecurePass123!", &known(), 1_000_000_000_000), Some(Guessed::Simple));
        assert_eq!(too_soon("NewSecurePass123!", &known(), 1_000_000_000_000), None);
    }

    #[test]
    fn only_the_beginning_is_looked_at_and_nothing_breaks() {
        let hidden = format!("{}{}", "a".repeat(LOOKED_AT), "the quick brown fox 42!");
        assert_eq!(judged(&hidden), Some(Guessed::Pattern));
        // What takes the estimate longest: every character may stand for others.
        for unit in ["4@8({[<36901!|7$5+%2", "p@ssw0rd", "\u{0}", "é", "\u{10ffff}", "🙂", "  "] {
            let _ = judged(&unit.repeat(300));
        }
        assert_eq!(judged(""), Some(Guessed::Simple));
    }

    #[test]
    fn words_are_those_of_the_account_and_the_service_and_bounded() {
        let all = known();
        for word in [
            "palisade",
            "acmebank",
            "acme bank",
            "acme",
            "bank",
            "ann.lee",
            "annlee",
            "example",
            "lee",
            "petrel7",
        ] {
            assert!(all.contains(&word.to_owned()), "{word}: {all:?}");
        }
        assert!(!all.contains(&"com".to_owned()));
        let named = |name| PasswordOwner { name: Some(name), ..PasswordOwner::default() };
        let many: String = (0..500).map(|n| format!("word{n} ")).collect();
        let all = words(&[], named(&many));
        assert!(all.len() <= WORDS && all.iter().all(|word| word.chars().count() <= WORD));
        assert_eq!(words(&[], named("al")), Vec::<String>::new());
    }
}
