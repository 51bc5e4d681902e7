//! What can be read of JSON that cannot be read as a whole.
//!
//! A refresh may have used the presented token up, so its answer must not be lost for one member that is no JSON as
//! `serde_json` reads it: a number beyond every double, bytes that are not UTF-8, half a surrogate pair, a line break
//! inside a text, a nesting that goes too deep. Such a member is left out, and the others are there. What is not
//! even an object with names, colons and ends in their places is nothing at all: it may have been cut off.

use serde_json::{Map, Value};

/// How deep objects and lists are looked into that cannot be read as a whole.
const DEPTH: usize = 8;

/// The object in `body` and how many values had to be left out; `None` when there is none.
pub(crate) fn object(body: &[u8]) -> Option<(Value, usize)> {
    let mut scanner = Scanner { bytes: body, at: 0 };
    scanner.space();
    // What stands behind the object is not looked at.
    let span = scanner.span().filter(|span| span.first() == Some(&b'{'))?;
    let mut lost = 0;
    let value = container(span, DEPTH, &mut lost)?;
    Some((value, lost))
}

/// `span` as far as it can be read.
fn value(span: &[u8], depth: usize, lost: &mut usize) -> Option<Value> {
    if let Ok(value) = serde_json::from_slice(span) {
        return Some(value);
    }
    let read = match span.first() {
        Some(b'{' | b'[') if depth > 0 => container(span, depth - 1, lost),
        Some(b'-' | b'0'..=b'9') => number(span),
        _ => None,
    };
    if read.is_none() {
        *lost += 1;
    }
    read
}

/// What `serde_json` does not read though it has a number's characters is larger than every double, and counts as the
/// largest number there is.
fn number(span: &[u8]) -> Option<Value> {
    let is_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    // JSON has no leading zeros.
    let leads = span[0] == b'0' && span.get(1).is_some_and(u8::is_ascii_digit);
    if leads || !span.iter().all(is_number) {
        return None;
    }
    Some(if span[0] == b'-' { i64::MIN.into() } else { u64::MAX.into() })
}

/// The members of an object, or the items of a list, that can be read. A list keeps its places.
fn container(span: &[u8], depth: usize, lost: &mut usize) -> Option<Value> {
    let is_object = span.first() == Some(&b'{');
    let end = if is_object { b'}' } else { b']' };
    let mut scanner = Scanner { bytes: span, at: 1 };
    let (mut members, mut items) = (Map::new(), Vec::new());
    scanner.space();
    if scanner.next_is(end) {
        return Some(if is_object { Value::Object(members) } else { Value::Array(items) });
    }
    loop {
        scanner.space();
        let name = match is_object {
            true => {
                let name = scanner.span().filter(|span| span.first() == Some(&b'"'))?;
                scanner.space();
                scanner.next_is(b':').then_some(())?;
                scanner.space();
                name
            }
            false => &[],
        };
        let read = value(scanner.span()?, depth, lost);
        if !is_object {
            items.push(read.unwrap_or(Value::Null));
        } else if let Some(read) = read {
            match serde_json::from_slice(name) {
                Ok(Value::String(name)) => drop(members.insert(name, read)),
                // It has no name that a plugin could ask for.
                _ => *lost += 1,
            }
        }
        scanner.space();
        if scanner.next_is(end) {
            return Some(if is_object { Value::Object(members) } else { Value::Array(items) });
        }
        scanner.next_is(b',').then_some(())?;
    }
}

/// Finds where values end, without reading them.
struct Scanner<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Scanner<'b> {
    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn next_is(&mut self, byte: u8) -> bool {
        let is = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(is);
        is
    }

    /// The value that begins here; `None` when it has no end.
    fn span(&mut self) -> Option<&'b [u8]> {
        let start = self.at;
        match self.bytes.get(start)? {
            b'"' => self.text()?,
            b'{' | b'[' => {
                let mut open = 0_usize;
                loop {
                    match self.bytes.get(self.at)? {
                        b'"' => {
                            self.text()?;
                            continue;
                        }
                        b'{' | b'[' => open += 1,
                        b'}' | b']' => open -= 1,
                        _ => {}
                    }
                    self.at += 1;
                    if open == 0 {
                        break;
                    }
                }
            }
            _ => {
                while !matches!(
                    self.bytes.get(self.at)?,
                    b',' | b'}' | b']' | b':' | b'"' | b' ' | b'\t' | b'\n' | b'\r'
                ) {
                    self.at += 1;
                }
            }
        }
        Some(&self.bytes[start..self.at]).filter(|span| !span.is_empty())
    }

    fn text(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            match self.bytes.get(self.at)? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_cannot_be_read_is_left_out_and_the_rest_is_there() {
        for odd in [
            &br#""n":"\ud800""#[..],
            b"\"n\":\"caf\xe9\"",
            b"\"n\":\"a\nb\"",
            b"\"n\":nul",
            b"\"n\":-x",
            b"\"n\":01",
            b"\"n\":'x'",
            b"\"\xff\":1",
        ] {
            let body = [b" {\"a\":\"x}\\\"\", ", odd, b" ,\"b\":{\"c\":[1,{}]}} behind"].concat();
            assert!(serde_json::from_slice::<Value>(&body).is_err());
            let (read, lost) = object(&body).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&body)));
            assert_eq!((read, lost), (json!({"a": "x}\"", "b": {"c": [1, {}]}}), 1));
        }
        let deep = format!(r#"{{"a":"x","d":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(object(deep.as_bytes()).unwrap().0["a"], json!("x"));
        let within = br#"{"data":[{"a":"x","n":"\ud800"},nul],"e":{}}"#;
        assert_eq!(object(within), Some((json!({"data": [{"a": "x"}, null], "e": {}}), 2)));
    }

    #[test]
    fn a_number_beyond_doubles_is_the_largest() {
        let (read, lost) = object(br#"{"a":1e400,"b":-1E+999,"c":[]}"#).unwrap();
        assert_eq!((read, lost), (json!({"a": u64::MAX, "b": i64::MIN, "c": []}), 0));
    }

    #[test]
    fn what_may_be_cut_off_is_nothing() {
        let whole = r#"{"a":"x\"","b":[1,{"c":2}],"d":1e400}"#;
        assert!(object(whole.as_bytes()).is_some());
        for length in 0..whole.len() {
            assert_eq!(object(&whole.as_bytes()[..length]), None, "{}", &whole[..length]);
        }
        for broken in
            ["[1]", "\"a\"", "{\"a\" 1}", "{\"a\":1 \"b\":2}", "{a:1}", "{,}", "{\"a\":}", "}", "<x>", ""]
        {
            assert_eq!(object(broken.as_bytes()), None, "{broken}");
        }
        assert_eq!(object(b"{}"), Some((json!({}), 0)));
    }
}
