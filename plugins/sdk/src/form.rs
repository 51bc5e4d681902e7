//! Forms: `application/x-www-form-urlencoded`, in bodies and answers.

use crate::Fields;

/// Writes a form.
#[must_use]
pub fn encode(fields: &Fields) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields.iter()).finish()
}

/// Reads a form or a query. There is nothing that is not one: what makes no sense becomes a name.
#[must_use]
pub fn decode(text: &[u8]) -> Fields {
    form_urlencoded::parse(text).map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let fields: Fields = [("scope", "a b"), ("x", "ä&=+%"), ("x", "")].into_iter().collect();
        let text = encode(&fields);
        assert!(text.starts_with("scope=a+b&"), "{text}");
        assert_eq!(decode(text.as_bytes()), fields);
    }
}
