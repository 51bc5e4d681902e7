//! User names: what an account is called where an app asks for a name instead of an address.
//!
//! A name that an operator, an import or a provider gives is brought into one form, and two names that differ only in case
//! or in their normal form are one. So no account can be mistaken for another by how its name is written.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use precis_profiles::UsernameCaseMapped;
use precis_profiles::precis_core::profile::PrecisFastInvocation as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// The longest user name, in bytes of UTF-8.
pub const MAX_USERNAME: usize = 128;

/// The characters of ASCII beside letters and digits. None of them separates anything in a header field, a list, a path,
/// a URL, Basic credentials (RFC 7617 §2 ends the name at a colon) or a line of a shell.
const MARKS: [char; 6] = ['.', '_', '-', '+', '~', '\''];

/// A user name in its one form: RFC 8265 `UsernameCaseMapped` (half-width, lower case, NFC, one direction, no symbols,
/// spaces, control or invisible characters), and of ASCII only letters, digits and a few marks.
///
/// It is never an address (no `@`) and never an account's id (no UUID in any spelling), so no text names two accounts.
///
/// ```
/// use palisade_core::domain::username::Username;
/// let name: Username = "Ｊürgen.Lee".parse().unwrap();
/// assert_eq!(name.as_str(), "jürgen.lee");
/// assert!("ann@example.com".parse::<Username>().is_err());
/// ```
///
/// What is stored is read as it is: a later version of Unicode must not make an account unreadable.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Username(String);

/// Why a text is no user name; says what would be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a user name has letters and digits, and between them . _ - + ~ ', at most {MAX_USERNAME} bytes: {0}"
)]
pub struct InvalidUsername(&'static str);

impl Username {
    /// The name in its one form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a text is a user name in its one form, as it is. Allocates nothing for the names of ASCII.
    #[must_use]
    pub fn is_form(text: &str) -> bool {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_short = |byte: u8| is_plain(byte) || MARKS.contains(&char::from(byte));
        let begins = text.bytes().next().is_some_and(is_plain);
        if begins && text.len() <= MAX_USERNAME && text.bytes().all(is_short) {
            return !text.ends_with('.') && Uuid::try_parse(text).is_err();
        }
        !text.is_ascii() && text.parse::<Username>().is_ok_and(|name| name.as_str() == text)
    }

    /// What the name is known by where it must be unique.
    #[must_use]
    pub fn fingerprint(&self) -> UsernameFingerprint {
        let mut hash = Sha256::new_with_prefix(b"palisade user name\0");
        // Upper case first: `ς` and `σ`, `ß` and `ss` are the same in upper case, and UsernameCaseMapped keeps them apart.
        let folded: String =
            self.0.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect();
        hash.update(folded.as_bytes());
        UsernameFingerprint(hash.finalize().into())
    }
}

impl std::str::FromStr for Username {
    type Err = InvalidUsername;

    fn from_str(text: &str) -> Result<Username, InvalidUsername> {
        if text.is_empty() {
            return Err(InvalidUsername("it is empty"));
        }
        // Ahead of all else, so that a megabyte costs nothing. Full-width letters have three bytes each.
        if text.len() > 3 * MAX_USERNAME {
            return Err(InvalidUsername("it is too long"));
        }
        if text.contains('@') {
            return Err(InvalidUsername("an @ makes it an e-mail address"));
        }
        let form = enforced(text)?;
        if form.len() > MAX_USERNAME {
            return Err(InvalidUsername("it is too long"));
        }
        let is_word = |c: char| if c.is_ascii() { c.is_ascii_alphanumeric() } else { c.is_alphanumeric() };
        // Vowel signs and other combining marks are no letters by themselves: UsernameCaseMapped has admitted them.
        if let Some(bad) = form.chars().find(|c| c.is_ascii() && !is_word(*c) && !MARKS.contains(c)) {
            return Err(InvalidUsername(match bad {
                // The full-width form of it.
                '@' => "an @ makes it an e-mail address",
                _ => "it has another mark",
            }));
        }
        // A name that begins with a mark is an option, a hidden file or a relative path somewhere.
        if !form.starts_with(is_word) || form.ends_with('.') {
            return Err(InvalidUsername("it begins with a letter or digit, and ends with no dot"));
        }
        if Uuid::try_parse(&form).is_ok() {
            return Err(InvalidUsername("a UUID is the id of an account"));
        }
        Ok(Username(form))
    }
}

/// The text in the form of RFC 8265 §3.3. Applied until nothing changes (RFC 8264 §7): of a few names the first form is
/// not the last one.
fn enforced(text: &str) -> Result<String, InvalidUsername> {
    let mut form = text.to_owned();
    for _ in 0..4 {
        let next = UsernameCaseMapped::enforce(form.as_str())
            .map_err(|_| InvalidUsername("it has a space, a symbol, or a character that cannot be seen"))?;
        if next == form {
            return Ok(form);
        }
        form = next.into_owned();
    }
    Err(InvalidUsername("it has no single form"))
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a user name is known by: two names that are one have the same. A SHA-256, so that of an account that is gone the
/// name itself is not kept; it still shows whether a name that is guessed was ever given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UsernameFingerprint(pub [u8; 32]);

impl fmt::Display for UsernameFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl From<UsernameFingerprint> for String {
    fn from(fingerprint: UsernameFingerprint) -> String {
        fingerprint.to_string()
    }
}

impl TryFrom<String> for UsernameFingerprint {
    type Error = &'static str;

    fn try_from(text: String) -> Result<UsernameFingerprint, &'static str> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(UsernameFingerprint).ok_or("the fingerprint of a user name is 32 bytes in base64url")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Username {
        text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }

    #[test]
    fn one_name_has_one_form() {
        for (given, form) in [
            ("ann", "ann"),
            ("Ann.Lee", "ann.lee"),
            ("O'Neil", "o'neil"),
            ("ＡＮＮ１", "ann1"),
            ("ann．lee", "ann.lee"),
            // NFC of a letter and its accent.
            ("Jose\u{301}", "jos\u{e9}"),
            ("JOS\u{c9}", "jos\u{e9}"),
            ("Łukasz", "łukasz"),
            ("李小龍", "李小龍"),
            ("ｶﾅ", "カナ"),
            ("Ольга", "ольга"),
            ("दीपक", "दीपक"),
            ("אבג", "אבג"),
            ("1000", "1000"),
            (&"a".repeat(MAX_USERNAME), &"a".repeat(MAX_USERNAME)),
        ] {
            assert_eq!(name(given).as_str(), form);
            assert_eq!(name(form).as_str(), form, "the form of the form");
            assert!(Username::is_form(form) && (given == form || !Username::is_form(given)), "{given}");
        }
    }

    #[test]
    fn names_that_differ_in_case_or_form_alone_are_one() {
        for (one, other) in [
            ("ann", "ANN"),
            ("straße", "STRASSE"),
            ("Straße", "strasse"),
            ("οδος", "ΟΔΟΣ"),
            ("οδος", "οδοσ"),
            ("Jose\u{301}", "JOS\u{c9}"),
            ("ａｎｎ", "ann"),
            ("ｶﾅ", "カナ"),
            ("\u{3b1}\u{345}", "\u{1fb3}"),
        ] {
            assert_eq!(name(one).fingerprint(), name(other).fingerprint(), "{one} {other}");
        }
        for (one, other) in [("ann", "anne"), ("jose", "josé"), ("ann.lee", "annlee"), ("ann", "ann1")] {
            assert_ne!(name(one).fingerprint(), name(other).fingerprint(), "{one} {other}");
        }
    }

    #[test]
    fn what_could_be_another_thing_is_no_name() {
        for bad in [
            "",
            " ",
            " ann",
            "ann ",
            "ann lee",
            "ann\tlee",
            "ann\r\nRemote-User: root",
            "ann\0",
            "ann\u{85}",
            "ann\u{a0}lee",
            "ann\u{2028}",
            // Addresses, also in full width.
            "ann@example.com",
            "@ann",
            "ann＠example.com",
            // What separates.
            "ann,bob",
            "ann;bob",
            "ann:secret",
            "corp\\ann",
            "corp/ann",
            "corp／ann",
            "../ann",
            "ann%00",
            "ann=x",
            "\"ann\"",
            "<ann>",
            "ann&bob",
            "$(ann)",
            "`ann`",
            "ann|bob",
            "ann*",
            "ann?",
            "ann#",
            "-ann",
            ".ann",
            "_ann",
            "'ann",
            "ann.",
            "..",
            "~ann",
            // What cannot be seen or turns the line.
            "ann\u{200b}",
            "ann\u{ad}",
            "a\u{200d}nn",
            "ann\u{202e}",
            "\u{2066}ann",
            "\u{feff}ann",
            "ann\u{e0041}",
            "ann\u{fe0f}",
            "ann\u{34f}",
            "\u{3164}",
            // Letters of other letters (compatibility characters), symbols, and what is assigned to nothing.
            "ﬁn",
            "𝐚nn",
            "ⓐnn",
            "ª",
            "\u{212b}sa",
            "ann²",
            "ann™",
            "👩",
            "ann\u{378}",
            "ann\u{e000}",
            "ann\u{fffd}",
            // Two directions in one name.
            "annאבג",
            // A mark with nothing below it.
            "\u{301}ann",
            // The ids of accounts, in every spelling that is read as one.
            "0192f0c1-2345-7abc-8def-0123456789ab",
            "0192F0C1-2345-7ABC-8DEF-0123456789AB",
            "0192f0c123457abc8def0123456789ab",
            "０192f0c1-2345-7abc-8def-0123456789ab",
        ] {
            assert!(bad.parse::<Username>().is_err() && !Username::is_form(bad), "{bad:?}");
        }
        assert!("a".repeat(MAX_USERNAME + 1).parse::<Username>().is_err());
        assert!("李".repeat(43).parse::<Username>().is_err());
        assert!("a".repeat(1 << 20).parse::<Username>().is_err());
    }

    /// Over every character, alone and behind a letter: a name in its form is its own form, in a header line of its own,
    /// and names that are one in upper case are one.
    #[test]
    fn the_form_of_a_form_is_the_form_for_every_character() {
        let mut names = 0;
        for c in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
            for text in [c.to_string(), format!("a{c}")] {
                let parsed = text.parse::<Username>();
                let is_form = parsed.as_ref().is_ok_and(|name| name.as_str() == text);
                assert_eq!(Username::is_form(&text), is_form, "{text:?}");
                let Ok(one) = parsed else { continue };
                names += 1;
                assert_eq!(one.as_str().parse(), Ok(one.clone()), "{text:?}");
                assert!(!one.as_str().chars().any(|c| c.is_control() || c.is_whitespace()), "{text:?}");
                if let Ok(upper) = text.to_uppercase().parse::<Username>() {
                    assert_eq!(upper.fingerprint(), one.fingerprint(), "{text:?}");
                }
            }
        }
        assert!(names > 100_000, "{names}");
    }

    #[test]
    fn a_fingerprint_is_read_as_it_was_written() {
        let ann = name("ann").fingerprint();
        let text = serde_json::to_string(&ann).unwrap();
        assert_eq!(serde_json::from_str::<UsernameFingerprint>(&text).unwrap(), ann);
        assert!(!text.contains("ann"));
        for bad in ["\"\"", "\"AA\"", "\"=\"", "1"] {
            assert!(serde_json::from_str::<UsernameFingerprint>(bad).is_err(), "{bad}");
        }
    }
}
