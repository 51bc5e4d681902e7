//! How a secret is written: in forms, URLs, JSON and base64.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::Value;
use zeroize::Zeroizing;

/// Shorter words are too common to be told from other text.
const SHORTEST: usize = 8;
/// Stands where nothing of a text could be kept.
pub(super) const WITHHELD: &str = "withheld";

/// What RFC 3986 §2.3 leaves as it is.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// As it is found, not as it should be.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const BASE64: [GeneralPurpose; 2] =
    [GeneralPurpose::new(&alphabet::STANDARD, LENIENT), GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT)];

/// `text` without what says a secret in another way, and `instead` in its place; `tells` knows one when it is
/// decoded.
pub(super) fn without_codes(text: &str, instead: &str, tells: impl Fn(&str) -> bool) -> String {
    let mut whole = text.to_owned();
    for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || "+/_-=".contains(c))) {
        let parts = word.split(['/', '=']).chain([word]).filter(|part| part.len() >= SHORTEST);
        for part in parts {
            if decoded(part).iter().any(|bytes| {
                let read = String::from_utf8_lossy(bytes);
                // Base64 in base64.
                tells(&read) || decoded(&read).iter().any(|bytes| tells(&String::from_utf8_lossy(bytes)))
            }) {
                whole = whole.replace(part, instead);
            }
        }
    }
    let once = percent_decode_str(&whole).decode_utf8_lossy();
    let twice = percent_decode_str(&once).decode_utf8_lossy();
    // JSON within JSON, and HTML.
    let chars = unescaped(&twice);
    let again = unescaped(&chars);
    let bare = again.replace('\\', "");
    let html = bare.replace("&amp;", "&").replace("&#x2F;", "/").replace("&#43;", "+");
    let hidden = [&*once, &*twice, &*chars, &*again, &*bare, &*html]
        .into_iter()
        .any(|read| read != whole && tells(read));
    if hidden { instead.to_owned() } else { whole }
}

/// What `word` may say in base64 or in hex.
fn decoded(word: &str) -> Vec<Zeroizing<Vec<u8>>> {
    let digits = word.strip_prefix("0x").unwrap_or(word).as_bytes();
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?);
    let hex = digits.chunks(2).map(pair).collect::<Option<Vec<u8>>>();
    let base64 = BASE64.iter().filter_map(|code| code.decode(word).ok());
    hex.into_iter().chain(base64).map(Zeroizing::new).collect()
}

/// `text` with the escapes of JSON (RFC 8259 §7) read, as far as they are some.
fn unescaped(text: &str) -> String {
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let escape = rest.strip_prefix("\\u").and_then(|rest| rest.get(..4));
        if let Some(unit) = escape.and_then(|digits| u16::from_str_radix(digits, 16).ok()) {
            units.push(unit);
            rest = &rest[6..];
        } else if let Some(escaped) = rest.strip_prefix('\\').and_then(|rest| rest.chars().next()) {
            units.extend(escaped.encode_utf16(&mut [0; 2]).iter());
            rest = &rest[1 + escaped.len_utf8()..];
        } else {
            units.extend(c.encode_utf16(&mut [0; 2]).iter());
            rest = &rest[c.len_utf8()..];
        }
    }
    String::from_utf16_lossy(&units)
}

/// One way to write a secret.
pub(super) struct Spelling {
    pub(super) text: Zeroizing<String>,
    /// Whether it is a piece out of the middle of a code.
    pub(super) within: bool,
}

/// Every usual way to write `secret` but the plain one.
pub(super) fn known_spellings(secret: &str) -> Vec<Spelling> {
    let whole = |text| Spelling { text, within: false };
    let mut all: Vec<Spelling> = spellings(secret).into_iter().map(whole).collect();
    // The bytes as Rust, Python and JavaScript print a list of them.
    let bytes: Vec<String> = secret.bytes().map(|b| b.to_string()).collect();
    all.extend([", ", ","].map(|between| whole(Zeroizing::new(bytes.join(between)))));
    let hex = hex::encode(secret);
    let within = |text: String| Spelling { text: Zeroizing::new(text), within: true };
    all.extend([within(hex.to_ascii_uppercase()), within(hex)]);
    for code in &BASE64 {
        // Whatever stands before it and behind it, one of three is in there.
        for before in 0..3 {
            let padded = Zeroizing::new([&vec![0; before][..], secret.as_bytes()].concat());
            let encoded = Zeroizing::new(code.encode(&*padded));
            let start = (before * 8).div_ceil(6);
            let end = padded.len() * 8 / 6;
            all.push(within(encoded[start..end].to_owned()));
        }
    }
    all.retain(|spelling| spelling.text.len() >= SHORTEST && *spelling.text != secret);
    all
}

/// The JSON that a text is.
pub(super) fn inner(text: &str) -> Option<Value> {
    text.trim_start().starts_with(['{', '[']).then(|| serde_json::from_str(text).ok()).flatten()
}

/// How forms, URLs and JSON write `secret`, where that is not how it is.
pub(super) fn spellings(secret: &str) -> Vec<Zeroizing<String>> {
    let all = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
    let some = utf8_percent_encode(secret, RESERVED).to_string();
    let mut made = vec![all.replace("%20", "+"), some.replace("%20", "+"), form_encoded(secret), all, some];
    made.extend(made.clone().iter().map(|text| lower_escapes(text)));
    // As PHP writes JSON, and as other encoders do.
    made.push(secret.replace('/', "\\/"));
    let quoted = Value::String(secret.to_owned()).to_string();
    made.push(quoted[1..quoted.len() - 1].to_owned());
    made.sort();
    made.dedup();
    made.into_iter().filter(|spelling| spelling != secret).map(Zeroizing::new).collect()
}

/// `%2F` as `%2f`.
fn lower_escapes(text: &str) -> String {
    let mut left = 0;
    text.chars()
        .map(|c| match c {
            '%' => {
                left = 2;
                c
            }
            c if left > 0 => {
                left -= 1;
                c.to_ascii_lowercase()
            }
            c => c,
        })
        .collect()
}

pub(super) fn form_encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_many_spellings() {
        let found = spellings("a/b c~d");
        let found: Vec<&str> = found.iter().map(|spelling| &***spelling).collect();
        for spelling in ["a%2Fb%20c%7Ed", "a%2fb%20c%7ed", "a%2Fb+c~d", "a%2fb%20c~d", "a\\/b c~d"] {
            assert!(found.contains(&spelling), "{spelling}: {found:?}");
        }
        assert!(spellings("plain").is_empty());
    }

    #[test]
    fn what_is_encoded_is_left_out_and_everything_else_is_kept() {
        let tells = |text: &str| text.contains("hush/hush");
        let shown = |text| without_codes(text, WITHHELD, tells);
        assert_eq!(shown("a dTpodXNoL2h1c2g= b"), "a withheld= b");
        assert_eq!(shown("head.eyJhIjoiaHVzaC9odXNoIn0.sig"), "head.withheld.sig");
        assert_eq!(shown("x%252Fhush%252Fhush"), "withheld");
        assert_eq!(shown("hush&#x2F;hush"), "withheld");
        assert_eq!(shown("hush\\u002fhush"), "withheld");
        assert_eq!(shown("a 787878687573682f68757368 b"), "a withheld b");
        assert_eq!(shown("a 0x687573682F68757368 b"), "a withheld b");
        assert_eq!(shown("https://a.test/b%2Fc?d=e"), "https://a.test/b%2Fc?d=e");
    }
}
