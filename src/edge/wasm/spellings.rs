//! How a secret is written: in forms, URLs, JSON and base64.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::Value;
use zeroize::Zeroizing;

/// Shorter words hold nothing that anybody would know again.
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

/// `text` without what says a secret in another way; `tells` knows one when it is decoded.
pub(super) fn without_codes(text: &str, tells: impl Fn(&str) -> bool) -> String {
    let mut whole = text.to_owned();
    for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || "+/_-=".contains(c))) {
        let parts = word.split('/').chain([word]).filter(|part| part.len() >= SHORTEST);
        for part in parts {
            let decoded = BASE64.iter().filter_map(|code| code.decode(part).ok());
            if decoded.into_iter().any(|bytes| tells(&String::from_utf8_lossy(&bytes))) {
                whole = whole.replace(part, WITHHELD);
            }
        }
    }
    let once = percent_decode_str(&whole).decode_utf8_lossy();
    let twice = percent_decode_str(&once).decode_utf8_lossy();
    // JSON within JSON, and HTML.
    let bare = twice.replace('\\', "").replace("&amp;", "&").replace("&#x2F;", "/").replace("&#43;", "+");
    let hidden = [&*once, &*twice, &*bare].into_iter().any(|read| read != whole && tells(read));
    if hidden { WITHHELD.to_owned() } else { whole }
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
    // As PHP writes JSON.
    made.push(secret.replace('/', "\\/"));
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
        assert_eq!(without_codes("a dTpodXNoL2h1c2g= b", tells), "a withheld b");
        assert_eq!(without_codes("head.eyJhIjoiaHVzaC9odXNoIn0.sig", tells), "head.withheld.sig");
        assert_eq!(without_codes("x%252Fhush%252Fhush", tells), "withheld");
        assert_eq!(without_codes("hush&#x2F;hush", tells), "withheld");
        assert_eq!(without_codes("https://a.test/b%2Fc?d=e", tells), "https://a.test/b%2Fc?d=e");
    }
}
