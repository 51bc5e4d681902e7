//! Reads settings out of JSON, and says at which key something is wrong.
//!
//! `serde_json` knows no keys, only lines and columns of a text that no operator wrote; and what it makes
//! for each type twice over (structs as maps and as lists) was a third of a component.

use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde_json::Value;

use crate::Failure;

/// Reads `[providers.settings]`, which come as a JSON object.
///
/// # Errors
/// [`Failure::Misconfigured`] names the key and what would do.
pub fn settings<T: DeserializeOwned>(json: &str) -> Result<T, Failure> {
    let value: Value = serde_json::from_slice(json.as_bytes())
        .map_err(|_| Failure::misconfigured("settings: they are not JSON, which is the gateway's fault"))?;
    T::deserialize(Reader(&value)).map_err(|error| {
        let Error { path, message } = error;
        Failure::misconfigured(if path.is_empty() {
            format!("settings: {message}")
        } else {
            format!("settings: `{path}`: {message}")
        })
    })
}

/// A value that is read.
struct Reader<'de>(&'de Value);

/// What is wrong, and the keys that lead there, joined by dots.
#[derive(Debug)]
struct Error {
    path: String,
    message: String,
}

impl Error {
    /// The same, seen from one step above.
    fn under(mut self, key: &str) -> Self {
        let joint = if self.path.is_empty() { "" } else { "." };
        self.path = format!("{key}{joint}{}", self.path);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: String::new(), message: message.to_string() }
    }
}

fn wrong<'de>(value: &'de Value, expected: &dyn serde::de::Expected) -> Error {
    let found = match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(flag) => Unexpected::Bool(*flag),
        Value::Number(_) => Unexpected::Other("a number"),
        // The value may be what should have been a secret's reference.
        Value::String(_) => Unexpected::Other("a text"),
        Value::Array(_) => Unexpected::Other("a list"),
        Value::Object(_) => Unexpected::Other("a table"),
    };
    Error::invalid_type(found, expected)
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(flag) => visitor.visit_bool(*flag),
            Value::Number(number) => {
                if let Some(whole) = number.as_u64() {
                    visitor.visit_u64(whole)
                } else if let Some(whole) = number.as_i64() {
                    visitor.visit_i64(whole)
                } else {
                    visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN))
                }
            }
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(items) => visitor.visit_seq(Items { rest: items.iter(), index: 0 }),
            Value::Object(members) => visitor.visit_map(Members { rest: members.iter(), value: None }),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::String(text) => visitor.visit_borrowed_str(text),
            other => Err(wrong(other, &visitor)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_string(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Bool(flag) => visitor.visit_bool(*flag),
            other => Err(wrong(other, &visitor)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => visitor.visit_seq(Items { rest: items.iter(), index: 0 }),
            other => Err(wrong(other, &visitor)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(members) => visitor.visit_map(Members { rest: members.iter(), value: None }),
            other => Err(wrong(other, &visitor)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    /// Variants are texts. One with content needs a tag inside (`#[serde(tag = "…")]`), which comes by
    /// `deserialize_any`.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::String(variant) => {
                visitor.visit_enum(serde::de::value::BorrowedStrDeserializer::new(variant))
            }
            other => Err(wrong(other, &visitor)),
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple
        tuple_struct identifier ignored_any
    }
}

struct Members<'de> {
    rest: serde_json::map::Iter<'de>,
    value: Option<(&'de str, &'de Value)>,
}

impl<'de> MapAccess<'de> for Members<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some((key, value));
        seed.deserialize(serde::de::value::BorrowedStrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (key, value) = self.value.take().ok_or_else(|| Error::custom("a value without a key"))?;
        seed.deserialize(Reader(value)).map_err(|error| error.under(key))
    }
}

struct Items<'de> {
    rest: std::slice::Iter<'de, Value>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(item) = self.rest.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(Reader(item)).map(Some).map_err(|error| error.under(&index.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Plain,
        Other,
    }

    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(tag = "by", rename_all = "lowercase")]
    enum Tagged {
        Age { seconds: u64 },
    }

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        tenant: String,
        #[serde(default)]
        extra: BTreeMap<String, String>,
        #[serde(default)]
        list: Vec<Inner>,
        kind: Option<Kind>,
        tagged: Option<Tagged>,
        seconds: Option<u32>,
    }

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        name: String,
    }

    fn message(json: &str) -> String {
        settings::<Settings>(json).unwrap_err().message().to_owned()
    }

    #[test]
    fn a_slip_in_the_settings_is_named() {
        assert_eq!(message("{}"), "settings: missing field `tenant`");
        assert!(message(r#"{"tenant":"a","tennant":1}"#).starts_with("settings: unknown field `tennant`, expected one of"));
        assert_eq!(
            message(r#"{"tenant":"a","extra":{"x":1}}"#),
            "settings: `extra.x`: invalid type: a number, expected a string"
        );
        assert_eq!(message(r#"{"tenant":["x"]}"#), "settings: `tenant`: invalid type: a list, expected a string");
        assert_eq!(
            message(r#"{"tenant":"a","list":[{"name":"x"},{"nam":"x"}]}"#),
            "settings: `list.1`: unknown field `nam`, expected `name`"
        );
        assert_eq!(
            message(r#"{"tenant":"a","kind":"plaine"}"#),
            "settings: `kind`: unknown variant `plaine`, expected `plain` or `other`"
        );
        assert!(message(r#"{"tenant":"a","seconds":-1}"#).contains("`seconds`: invalid value"));
        assert!(message("[]").contains("invalid type: a list"));
        assert!(message("{").contains("not JSON"));
    }

    #[test]
    fn settings_are_read_as_serde_json_reads_them() {
        let read: Settings = settings(
            r#"{"tenant":"a","extra":{"x":"y"},"list":[{"name":"n"}],"kind":"other",
                "tagged":{"by":"age","seconds":7},"seconds":5}"#,
        )
        .unwrap();
        assert_eq!((read.tenant.as_str(), read.extra["x"].as_str()), ("a", "y"));
        assert_eq!((read.list[0].name.as_str(), read.kind, read.seconds), ("n", Some(Kind::Other), Some(5)));
        assert_eq!(read.tagged, Some(Tagged::Age { seconds: 7 }));
        let read: Settings = settings(r#"{"tenant":"a","kind":"plain","seconds":null}"#).unwrap();
        assert_eq!((read.kind, read.seconds), (Some(Kind::Plain), None));
    }
}
