//! Whether a body is one JSON object that every reader reads alike.
//!
//! `serde` takes a list for a structure as well, its items in the order of the members, and of two members of one name
//! the last where a map is wanted. Another reader of the same body, such as a filter in front of the gateway, may see
//! something else in it (RFC 8259 §4).

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Whether `bytes` begin as an object does.
///
/// # Errors
/// What they are instead, for the client. Nothing of the body is in it.
pub(super) fn begins(bytes: &[u8]) -> Result<(), &'static str> {
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err("the body begins with a byte order mark, which JSON has none of (RFC 8259 §8.1)");
    }
    match bytes.trim_ascii_start().first() {
        Some(b'{') => Ok(()),
        Some(b'[') => Err("the body is a list and must be an object"),
        None => Err("the body is empty and must be a JSON object"),
        Some(_) => Err("the body must be a JSON object"),
    }
}

/// Whether no object in `bytes`, at any depth, has two members of one name.
///
/// # Errors
/// The parser's, which names the member and the place.
pub(super) fn has_unique_names(bytes: &[u8]) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    Unique.deserialize(&mut reader)
}

/// Reads a value and keeps nothing of it but the names of the objects that are open.
#[derive(Clone, Copy)]
struct Unique;

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without repeated names")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut names: HashSet<String> = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            if names.contains(&name) {
                // The parser says where.
                members.next_value::<IgnoredAny>()?;
                return Err(A::Error::custom(format_args!("the member `{name}` is there twice")));
            }
            names.insert(name);
            members.next_value_seed(self)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_object_begins_like_one() {
        for good in ["{}", " \r\n\t{"] {
            assert_eq!(begins(good.as_bytes()), Ok(()), "{good:?}");
        }
        for bad in ["", " ", "[]", "[{}]", "\"{\"", "null", "1", "\u{feff}{}", "\u{a0}{}", "\0{}"] {
            assert!(begins(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_is_there_once_at_every_depth() {
        for good in [r#"{"a":1,"b":{"a":1},"c":[{"a":1},{"a":1}]}"#, "{}", r#"{"a":"\"a\":","A":1.5e3}"#] {
            assert!(has_unique_names(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"{"x":{"a":1,"a":1}}"#,
            r#"{"x":[[{"b":1,"a":null,"a":{}}]]}"#,
        ] {
            let error = has_unique_names(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("`a` is there twice"), "{bad}: {error}");
        }
    }
}
