//! JSON objects as two parties read them alike: a name that occurs twice is refused at every depth
//! (RFC 7519 §4 and RFC 7515 §4 allow it, RFC 8725 §2.4 shows why not to).
//!
//! Must never guess: what is not exactly one JSON object in UTF-8 is an error, numbers outside the range
//! of a double included.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use palisade_core::domain::verdict::TokenFault;

/// Reads `bytes` as one JSON object without repeated names.
///
/// # Errors
/// [`TokenFault::DuplicateName`], or [`TokenFault::Malformed`] for anything that is not an object.
pub fn object(bytes: &[u8]) -> Result<Map<String, Value>, TokenFault> {
    let repeated = Cell::new(false);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = Strict { repeated: &repeated }.deserialize(&mut reader).and_then(|value| {
        reader.end()?;
        Ok(value)
    });
    match read {
        _ if repeated.get() => Err(TokenFault::DuplicateName),
        Ok(Value::Object(map)) => Ok(map),
        _ => Err(TokenFault::Malformed),
    }
}

/// The text that the object in `bytes` has under `name`; nothing else of it is kept, or looked at beyond its syntax.
///
/// # Errors
/// [`TokenFault::Issuer`] where there is no such member or it is no text, [`TokenFault::DuplicateName`] where there are two,
/// [`TokenFault::Malformed`] for what is no object.
pub fn text_member<'a>(bytes: &'a [u8], name: &str) -> Result<Cow<'a, str>, TokenFault> {
    let fault = Cell::new(TokenFault::Malformed);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let member = Member { name, fault: &fault };
    let read = reader.deserialize_map(member).and_then(|found| reader.end().map(|()| found));
    read.map_err(|_| fault.get())?.ok_or(TokenFault::Issuer)
}

/// Finds the text under one name of an object.
struct Member<'a> {
    name: &'a str,
    /// What an error means.
    fault: &'a Cell<TokenFault>,
}

/// A text, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Text(name)) = members.next_key()? {
            if name != self.name {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            if found.is_some() {
                self.fault.set(TokenFault::DuplicateName);
                return Err(A::Error::custom("a name occurs twice"));
            }
            self.fault.set(TokenFault::Issuer);
            let Text(text) = members.next_value()?;
            self.fault.set(TokenFault::Malformed);
            found = Some(text);
        }
        Ok(found)
    }
}

#[derive(Clone, Copy)]
struct Strict<'a> {
    repeated: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without repeated names")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Number::from_f64(number).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(self)?;
            if map.insert(name, value).is_some() {
                self.repeated.set(true);
                return Err(A::Error::custom("a name occurs twice"));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_is_found_without_reading_the_rest() {
        use TokenFault::{DuplicateName, Issuer, Malformed};
        let deep = format!("{{\"x\":{}{},\"iss\":\"i\"}}", "[".repeat(9000), "]".repeat(9000));
        for (text, want) in [
            (r#"{"iss":"i"}"#, Ok("i")),
            (r#" {"a":{"iss":"j"},"\u0069ss":"\u0069","b":[1,"iss"]} "#, Ok("i")),
            (&deep, Ok("i")),
            (r#"{"iss":"i","iss":"i"}"#, Err(DuplicateName)),
            (r#"{"iss":"i","\u0069ss":"j"}"#, Err(DuplicateName)),
            (r#"{"a":1}"#, Err(Issuer)),
            ("{}", Err(Issuer)),
            (r#"{"iss":["i"]}"#, Err(Issuer)),
            (r#"{"iss":null}"#, Err(Issuer)),
            (r#"{"iss":7}"#, Err(Issuer)),
            (r#"["i"]"#, Err(Malformed)),
            (r#"["iss","i"]"#, Err(Malformed)),
            (r#""i""#, Err(Malformed)),
            (r#"{"iss":"i"}{}"#, Err(Malformed)),
            (r#"{"iss":"i","#, Err(Malformed)),
            // Numbers and escapes are looked at when all of it is read.
            (r#"{"a":["\ud800",1e400],"iss":"i"}"#, Ok("i")),
            ("", Err(Malformed)),
        ] {
            assert_eq!(text_member(text.as_bytes(), "iss").as_deref(), want.as_ref().copied(), "{text}");
        }
    }

    #[test]
    fn only_one_unambiguous_object_is_read() {
        for (text, want) in [
            (r#"{"a":1,"b":{"a":2},"c":[{"a":3},null,true,-1,1.5,"x"]}"#, None),
            (r#"{"a":1,"a":1}"#, Some(TokenFault::DuplicateName)),
            (r#"{"a":{"b":1,"b":2}}"#, Some(TokenFault::DuplicateName)),
            (r#"{"x":[{"b":1,"\u0062":2}]}"#, Some(TokenFault::DuplicateName)),
            (r#"{"exp":1e400}"#, Some(TokenFault::Malformed)),
            (r#"{"a":NaN}"#, Some(TokenFault::Malformed)),
            (r#"{"a":1}{}"#, Some(TokenFault::Malformed)),
            (r#"{"a":"\ud800"}"#, Some(TokenFault::Malformed)),
            ("[1]", Some(TokenFault::Malformed)),
            ("\"a\"", Some(TokenFault::Malformed)),
            ("", Some(TokenFault::Malformed)),
        ] {
            assert_eq!(object(text.as_bytes()).err(), want, "{text}");
        }
        assert_eq!(object(b"{\"a\":\"\xff\"}").err(), Some(TokenFault::Malformed));
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(object(deep.as_bytes()).err(), Some(TokenFault::Malformed));
    }
}
