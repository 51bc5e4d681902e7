//! What people may be called.
//!
//! A name goes into letters, pages and tokens. The requester who sets it need not be the recipient who reads it: an
//! attacker who registers another person's address would write to that person. So a name may contain no link, no
//! telephone number and no invisible character.
//!
//! The rules hold for names that are given. Names that were kept earlier are read as they are; what a letter
//! repeats of them is decided where letters are written.

/// The longest name, in bytes of UTF-8.
pub const MAX_NAME: usize = 200;
/// The longest name, in characters.
pub const MAX_NAME_CHARS: usize = 100;

/// So many digits with nothing but separators between them are a telephone number: the shortest numbers that
/// can be called from elsewhere have seven.
const TELEPHONE_DIGITS: usize = 7;

/// What a name must be, for who gave another one.
pub const NAME_WANTED: &str = "`name` must be at most 100 characters (200 bytes) on one line that can be seen, without a \
                               link or a telephone number";

/// Top-level domains behind a dot in a name that mail programs turn into links. Those of two letters are
/// countries' and stand for themselves.
const DOMAINS: [&str; 40] = [
    "com", "net", "org", "info", "biz", "edu", "gov", "mil", "int", "app", "dev", "xyz", "top", "site",
    "online", "shop", "store", "club", "live", "link", "click", "page", "web", "website", "space", "tech",
    "cloud", "email", "help", "support", "news", "blog", "world", "life", "zip", "mov", "icu", "vip", "bank",
    "onion",
];

/// Whether `text` is one line that can be shown: not empty, not huge, without what turns or ends a line. For
/// texts of the operator.
#[must_use]
pub fn is_line(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= MAX_NAME && !text.chars().any(is_unprintable)
}

/// Whether `name` may be given as a person's name: a line of at most [`MAX_NAME_CHARS`] characters with
/// something to see, and without a link or a telephone number.
#[must_use]
pub fn is_name(name: &str) -> bool {
    is_line(name)
        && name.chars().count() <= MAX_NAME_CHARS
        && name.chars().any(|c| !c.is_whitespace() && !is_invisible(c))
        && !has_link(name)
        && !has_telephone_number(name)
}

/// Control characters, line and paragraph separators, and the marks that turn the direction of text: with
/// them a name could pass for the words around it.
pub(super) fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Characters that show nothing: Unicode's Default_Ignorable_Code_Point, and the blanks that it leaves out
/// (the Braille pattern without dots).
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// As a reader, or a program that looks for links, would read it: without what cannot be seen, in lower case,
/// full-width forms and the other full stops as ASCII.
fn as_read(name: &str) -> String {
    let plain = |c: char| match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
        '\u{3002}' | '\u{ff61}' | '\u{2024}' | '\u{fe52}' => '.',
        '\u{2044}' | '\u{2215}' | '\u{29f8}' => '/',
        '\u{a789}' | '\u{2236}' | '\u{fe55}' => ':',
        c => c,
    };
    name.chars().filter(|c| !is_invisible(*c)).map(plain).flat_map(char::to_lowercase).collect()
}

/// Whether a name holds what a reader or a mail program takes for a link.
fn has_link(name: &str) -> bool {
    let name = as_read(name);
    if ["://", "//", "http:", "https:", "http/", "www.", "mailto:", "tel:", "sms:", "javascript:"]
        .iter()
        .any(|mark| name.contains(mark))
    {
        return true;
    }
    name.split(|c: char| c.is_whitespace() || ",;()[]<>\"'|".contains(c)).any(is_host)
}

/// Whether a word begins with a host name, whatever port, path or user stands around it.
fn is_host(word: &str) -> bool {
    let host = word.rsplit_once('@').map_or(word, |(_, host)| host);
    let end = host.find(['/', ':', '?', '#', '\\']).unwrap_or(host.len());
    let (host, has_path) = (&host[..end], end < host.len() && !host[end..].starts_with(':'));
    let mut labels = host.trim_end_matches(['.', '!', '-']).rsplit('.');
    let (Some(last), Some(before)) = (labels.next(), labels.next()) else { return false };
    let is_label = |label: &str| label.chars().any(char::is_alphanumeric);
    let is_country = last.len() == 2 && last.bytes().all(|b| b.is_ascii_alphabetic());
    // `J.R.` and `Dr.Smith` are names; `x.com`, `x.de` and `x.anything/` are links.
    is_label(before)
        && (has_path && is_label(last) || is_country || last.starts_with("xn--") || DOMAINS.contains(&last))
}

/// Whether a name holds [`TELEPHONE_DIGITS`] digits, of any script, with nothing but separators between them.
fn has_telephone_number(name: &str) -> bool {
    let mut digits = 0;
    for c in as_read(name).chars() {
        if c.is_numeric() {
            digits += 1;
        } else if c.is_alphabetic() {
            digits = 0;
        }
        if digits >= TELEPHONE_DIGITS {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_on_its_line() {
        for bad in ["", "  ", "Ann\r\nBcc: x@example.com", "Ann\u{202e}", "Ann\u{2028}", "\0"] {
            assert!(!is_name(bad) && !is_line(bad), "{bad:?}");
        }
        assert!(!is_line(&"a".repeat(MAX_NAME + 1)));
        assert!(
            is_line("Booking.com") && is_line("Call 555 123 4567"),
            "an operator's words are not a stranger's"
        );
    }

    #[test]
    fn people_have_names() {
        for good in [
            "Ann",
            "Ann O'Neil",
            "Łukasz",
            "李",
            "J. R. Smith, Jr.",
            "J.R. Smith",
            "Dr.Smith",
            "Gal·la",
            "Mary St.John",
            "Louis XIV",
            "Louis 14",
            "X Æ A-12",
            "Agent 007 and 1999",
            "محمد\u{200c}رضا",
            "नरेन्द्र",
            "👩\u{200d}🚀",
            "Jean-Luc (he/him)",
            "Ann w/o a surname",
            "D'Arcy, 3rd",
            &"a".repeat(MAX_NAME_CHARS),
            &"李".repeat(66),
        ] {
            assert!(is_name(good), "{good}");
        }
        assert!(!is_name(&"a".repeat(MAX_NAME_CHARS + 1)) && !is_name(&"李".repeat(67)));
    }

    #[test]
    fn a_name_can_be_seen() {
        for bad in [
            "\u{200b}",
            "\u{3164}",
            "\u{2800}\u{2800}",
            "\u{feff} \u{ad}",
            "\u{e0041}\u{e0042}",
            "\u{115f}",
            "\u{a0}",
        ] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_name_leads_nowhere() {
        for bad in [
            "https://evil.test",
            "hxxp://evil.test",
            "HTTP:evil",
            "www.evil.test",
            "evil.com",
            "Your account was hacked, see evil.com!",
            "evil.com.",
            "EVIL.COM",
            "evil.de",
            "evil.test/login",
            "evil.bank/",
            "(evil.net)",
            "x@evil.org",
            "ann@evil.de:8080",
            "evil。com",
            "ｅｖｉｌ．ｃｏｍ",
            "ev\u{200b}il.c\u{200b}om",
            "evil\u{ad}.com",
            "evil.xn--p1ai",
            "//evil",
            "mailto:x",
            "evil․com",
        ] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_name_is_no_telephone_number() {
        for bad in [
            "Call 555-123-4567",
            "+1 (555) 123 4567",
            "5551234",
            "5.5.5.1.2.3.4",
            "Call 5/5/5/1/2/3/4",
            "٠١٢٣٤٥٦",
            "５５５１２３４",
            "5\u{200b}5\u{200b}5\u{200b}1\u{200b}2\u{200b}3\u{200b}4",
            "①②③④⑤⑥⑦",
        ] {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(is_name("555 123"));
    }
}
