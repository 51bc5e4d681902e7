//! Between the header fields of an HTTP library and those of the domain, in one place for the proxy and for the API:
//! fields of requests are read, and fields of answers are made.

use http::header::InvalidHeaderValue;
use http::{HeaderMap, HeaderValue};

use palisade_core::domain::reply::Field;
use palisade_core::domain::request::Headers;

/// The header fields of a request, for the domain.
pub struct Fields<'a>(pub &'a HeaderMap);

impl Headers for Fields<'_> {
    #[inline]
    fn each<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        for value in self.0.get_all(name) {
            visit(value.as_bytes());
        }
    }
}

/// The value of a field of an answer. One that may hold a secret is marked, so that it stays out of tables of compressed
/// fields (RFC 7541 §7.1.3) and out of debug output.
///
/// # Errors
/// It has a byte that ends a field. The domain's types hold none.
pub fn value(field: &Field<'_>) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(&field.value)?;
    value.set_sensitive(field.is_secret);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_marked_as_its_field_and_cannot_end_one() {
        for (is_secret, text, good) in
            [(true, "a=b; Path=/", true), (false, "no-store", true), (false, "a\r\nb: c", false)]
        {
            let field = Field { name: "x", value: text.into(), is_secret };
            let made = value(&field);
            assert_eq!(made.is_ok(), good, "{text}");
            assert!(made.is_err() || made.is_ok_and(|made| made == text && made.is_sensitive() == is_secret));
        }
    }
}
