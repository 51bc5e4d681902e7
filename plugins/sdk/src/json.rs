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
/// be somebody else's.
#[must_use]
pub fn identifier_at(value: &Value, path: &str) -> Option<String> {
    match at(value, path)? {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Number(number) if number.is_u64() || number.is_i64() => Some(number.to_string()),
        _ => None,
    }
}

/// A whole number of seconds: a number, or one in a string. Fractions are dropped, below zero is zero.
#[must_use]
pub fn seconds(value: &Value) -> Option<u64> {
    let text = match value {
        Value::Number(number) => match number.as_u64() {
            Some(whole) => return Some(whole),
            None => &number.to_string(),
        },
        Value::String(text) => text.trim(),
        _ => return None,
    };
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (0, digits));
    let whole = digits.split_once('.').map_or(digits, |(whole, _)| whole);
    whole.parse::<u64>().ok().map(|whole| whole * sign)
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
        assert_eq!(seconds(&json!("1e300")), None);
    }
}
