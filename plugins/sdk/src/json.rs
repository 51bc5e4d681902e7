//! JSON by paths, and a lenient eye for numbers and flags that came as text.

use serde_json::Value;

/// What `path` leads to: names joined by dots, list places as numbers (`data.0.id`). A name that has dots
/// itself is found too. `null` is nothing.
#[must_use]
pub fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    if let Some(found) = step(value, path) {
        return (!found.is_null()).then_some(found);
    }
    path.match_indices('.').find_map(|(dot, _)| at(step(value, &path[..dot])?, &path[dot + 1..]))
}

fn step<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    match value {
        Value::Object(members) => members.get(name),
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        _ => None,
    }
}

/// `body` without the byte order mark that some servers put in front of it. RFC 8259 §8.1 forbids writing one and
/// allows ignoring it.
#[must_use]
pub fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// An object of texts.
#[must_use]
pub fn object<'f>(fields: impl Iterator<Item = (&'f str, &'f str)>) -> Value {
    let mut members = serde_json::Map::new();
    for (name, value) in fields {
        members.insert(name.to_owned(), value.into());
    }
    Value::Object(members)
}

/// A text, a number or a flag, as text. Lists and objects are written as JSON.
#[must_use]
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// The text at `path`, if there is one that is not empty.
#[must_use]
pub fn text_at(value: &Value, path: &str) -> Option<String> {
    at(value, path).and_then(text).filter(|text| !text.is_empty())
}

/// The text at `path`, if there is one that is not empty, and a text to begin with: a token, an address.
#[must_use]
pub fn string_at(value: &Value, path: &str) -> Option<String> {
    at(value, path)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The identifier at `path`: a text, or a whole number that was read exactly. A number that was rounded could
/// be another account's.
#[must_use]
pub fn identifier_at(value: &Value, path: &str) -> Option<String> {
    match at(value, path)? {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Number(number) if number.is_u64() || number.is_i64() => Some(number.to_string()),
        _ => None,
    }
}

/// A whole number of seconds: a number, or one in a string, in any form that JSON has. Fractions are dropped, below
/// zero is zero, and what is larger than the largest is the largest.
#[must_use]
pub fn seconds(value: &Value) -> Option<u64> {
    match value {
        // The conversion of a double saturates at both ends.
        Value::Number(number) => number.as_u64().or_else(|| number.as_f64().map(|number| number as u64)),
        Value::String(text) => whole_part(text.trim()),
        _ => None,
    }
}

/// The whole part of a decimal number, by its digits: a component need not carry the parser of doubles for it.
fn whole_part(text: &str) -> Option<u64> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    let power = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
    if !is_number(integer) || !fraction.is_empty() && !is_number(fraction) || !is_number(power) {
        return None;
    }
    if text.starts_with('-') {
        return Some(0);
    }
    // One that is too long to be read is larger than any number of digits here.
    let power = power.parse::<i32>().unwrap_or(i32::MAX);
    let power = if exponent.starts_with('-') { -i64::from(power) } else { i64::from(power) };
    let mut places = integer.len() as i64 + power;
    let mut whole = 0_u64;
    for digit in integer.bytes().chain(fraction.bytes()) {
        if places <= 0 {
            return Some(whole);
        }
        whole = whole.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
        places -= 1;
    }
    // After twenty of them it is zero, or the largest.
    for _ in 0..places.clamp(0, 20) {
        whole = whole.saturating_mul(10);
    }
    Some(whole)
}

/// A flag, or one in a string. Anything else is no.
#[must_use]
pub fn flag(value: &Value) -> bool {
    value.as_bool().unwrap_or_else(|| value.as_str() == Some("true"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_through_objects_lists_and_names_with_dots() {
        let value = json!({"a": {"b": [{"c": 1}]}, "x.y": {"z": 2}, "n": null});
        assert_eq!(at(&value, "a.b.0.c"), Some(&json!(1)));
        assert_eq!(at(&value, "x.y.z"), Some(&json!(2)));
        assert_eq!(at(&value, "n"), None);
        assert_eq!(at(&value, "a.b.1.c"), None);
    }

    #[test]
    fn identifiers_are_texts_and_exact_numbers() {
        let value: Value = serde_json::from_str(
            r#"{"a":"x","b":18446744073709551615,"c":-1,"d":1e3,"e":1e30,"f":true,"g":""}"#,
        )
        .unwrap();
        let found = ["a", "b", "c", "d", "e", "f", "g", "h"].map(|path| identifier_at(&value, path));
        let want = [Some("x"), Some("18446744073709551615"), Some("-1"), None, None, None, None, None];
        assert_eq!(found, want.map(|text| text.map(str::to_owned)));
        assert_eq!(string_at(&value, "a").as_deref(), Some("x"));
        assert_eq!((string_at(&value, "b"), string_at(&value, "f")), (None, None));
    }

    #[test]
    fn seconds_come_in_any_clothes() {
        assert_eq!(seconds(&json!(3600)), Some(3600));
        assert_eq!(seconds(&json!("3600")), Some(3600));
        assert_eq!(seconds(&json!(3599.9)), Some(3599));
        assert_eq!(seconds(&json!(-5)), Some(0));
        assert_eq!(seconds(&json!("NaN")), None);
        assert_eq!(seconds(&json!("never")), None);
        assert_eq!(seconds(&json!("1e300")), Some(u64::MAX));
        // Exponents that no integer of the machine holds.
        assert_eq!(seconds(&json!("1e99999999999")), Some(u64::MAX));
        assert_eq!(seconds(&json!("9e-99999999999")), Some(0));
        for nothing in
            ["", "inf", "-Infinity", "e", "1e", "--1", "0x10", "1 2", "1,000", "1e-", "1.x", ".5", "-"]
        {
            assert_eq!(seconds(&json!(nothing)), None, "{nothing}");
        }
    }

    /// Every number that JSON can say, against its own decimal digits.
    #[test]
    fn seconds_are_those_of_the_number_that_was_said() {
        let check = |text: &str| {
            let want = whole(text);
            // As a number, as the salvaging reader has one that is beyond doubles, and as a text.
            let body = format!("{{\"n\":{text}}}");
            let value =
                serde_json::from_str(&body).ok().or_else(|| Some(crate::salvage::object(body.as_bytes())?.0));
            let value = value.unwrap_or_else(|| panic!("{text} is a number"));
            for said in [&value["n"], &json!(text), &json!(format!(" {text}\n"))] {
                let got = seconds(said).unwrap_or_else(|| panic!("{said}"));
                // Doubles have 53 bits: from there on, only the magnitude is exact.
                let slack =
                    if want < 1 << 53 { u64::from(text.contains(['.', 'e', 'E'])) } else { want >> 50 };
                assert!(got.abs_diff(want) <= slack, "{text}: {got}, not {want}");
            }
        };
        for bound in [0_u128, 1, 1 << 31, 1 << 32, 1 << 53, 1 << 63, 1 << 64, 1 << 65, 10_u128.pow(30)] {
            for near in [bound.saturating_sub(1), bound, bound + 1] {
                for form in ["{}", "-{}", "{}.0", "{}.999", "{}e0", "{}E+2", "{}e-2", "{}e400", "-{}e400"] {
                    check(&form.replace("{}", &near.to_string()));
                }
            }
        }
        let mut state = 9_u64;
        let mut below = |most: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % most
        };
        for _ in 0..20_000 {
            let mut digits = |most: u64| -> String {
                (0..=below(most)).map(|_| char::from(b'0' + u8::try_from(below(10)).unwrap())).collect()
            };
            let integer = digits(25);
            let integer = integer.trim_start_matches('0');
            let mut text = if integer.is_empty() { "0".to_owned() } else { integer.to_owned() };
            let fraction = digits(20);
            if below(2) == 0 {
                text = format!("{text}.{fraction}");
            }
            if below(2) == 0 {
                let sign = ["", "+", "-"][usize::try_from(below(3)).unwrap()];
                let exponent =
                    [below(4), below(40), below(400), below(100_000)][usize::try_from(below(4)).unwrap()];
                text = format!("{text}{}{sign}{exponent}", if below(2) == 0 { "e" } else { "E" });
            }
            if below(4) == 0 {
                text.insert(0, '-');
            }
            check(&text);
        }
    }

    /// The whole part of a number in JSON's grammar, by moving its point; at most `u64::MAX`.
    fn whole(text: &str) -> u64 {
        let Some(text) = (!text.starts_with('-')).then_some(text) else { return 0 };
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{integer}{fraction}");
        let point = i64::try_from(integer.len()).unwrap() + exponent.parse::<i64>().unwrap();
        if digits.bytes().all(|digit| digit == b'0') {
            return 0;
        }
        let Ok(point) = usize::try_from(point) else { return 0 };
        if point > 400 {
            return u64::MAX;
        }
        let moved: String = digits.chars().chain(std::iter::repeat('0')).take(point).collect();
        let moved = moved.trim_start_matches('0');
        if moved.is_empty() { 0 } else { moved.parse().unwrap_or(u64::MAX) }
    }
}
