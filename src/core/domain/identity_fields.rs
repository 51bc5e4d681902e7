//! The identity headers in which a route tells its app who the caller is by the names that the app knows: a user name,
//! groups, other claims (`headers.preset` and `headers.claims`).
//!
//! Apps believe these fields and nothing else, so no two callers, and no two lists of groups, may be written in one way.
//! A field that is made of a claim holds a list (of one, where the claim is one text), in which each value is
//! percent-encoded (RFC 3986 §2.1) as far as it would be read in two ways: [`IdentityFields::check`] has the rules. What
//! cannot be written so, or does not fit, is a refusal that names it. Nothing is cut, left out or replaced.

use std::fmt::{self, Write as _};

use serde_json::Value;

use super::claim_path::ClaimPath;
use super::claims::{USERNAME_CLAIM, is_exact};
use super::identity::Identity;
use super::username::Username;

/// The longest line that is sent: name, colon, space and value, in bytes. Apache and gunicorn take 8,190 by default
/// (`LimitRequestFieldSize`, `limit_request_field_size`), nginx and Node.js more.
pub const MAX_LINE: usize = 8190;

/// How text beyond ASCII is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TextEncoding {
    /// Each byte of its UTF-8 as `%XX`: an app that reads header fields as Latin-1, as WSGI has it, and trims or splits
    /// them at what is white space there takes no two values for one.
    #[default]
    Percent,
    /// As UTF-8 (`obs-text` of RFC 9110 §5.5).
    Utf8,
}

/// What a field is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentitySource {
    /// The user name.
    Username,
    /// `sub`.
    Subject,
    /// The address, where it is known to be the caller's.
    Email,
    /// The claim that lies there.
    Claim(ClaimPath),
}

/// One field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityField {
    /// Its name.
    pub header: String,
    pub source: IdentitySource,
    pub encoding: TextEncoding,
    /// Whether it holds a list of values; else it is one text, in which the separator means nothing.
    pub is_list: bool,
    /// Whether a caller without it is refused: the app knows its users by it, or cannot do without.
    pub is_required: bool,
    /// Whether what it holds are groups, of which the route may send some only.
    pub is_groups: bool,
}

/// The fields of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFields {
    pub fields: Vec<IdentityField>,
    /// Stands between the values of a list: printable ASCII, neither letter nor digit nor `%`.
    pub separator: u8,
    /// The only groups that are sent.
    pub groups_only: Option<Vec<String>>,
}

/// Why the app cannot be told of a caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityFault {
    /// The app knows its users by user name, and the caller has none.
    #[error(
        "The app behind this path knows people by their user names, and this account has none; an operator can set one."
    )]
    NoUsername,
    /// The app knows its users by address, and the caller has none that is verified.
    #[error(
        "The app behind this path knows people by their verified e-mail addresses, and this account has none."
    )]
    NoEmail,
    /// The route asks for a claim that the caller lacks.
    #[error("The app behind this path needs {what:?} of each person, and this account has none.")]
    Missing {
        /// The claim.
        what: String,
    },
    /// A field would be longer than [`MAX_LINE`].
    #[error(
        "{what:?} of this account is too long for a header field ({MAX_LINE} bytes), and none of it is left out."
    )]
    TooLong {
        /// The claim.
        what: String,
    },
    /// A value that no field can hold: control characters, an empty text in a list, an object, null or a list in a list,
    /// a number that is not exact.
    #[error(
        "{what:?} of this account holds what no header field can: text, numbers and lists of them are sent."
    )]
    Unsendable {
        /// The claim.
        what: String,
    },
}

impl IdentityFault {
    /// The stable word for logs, metrics and problem documents.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            IdentityFault::NoUsername => "username_missing",
            IdentityFault::NoEmail => "email_unverified",
            IdentityFault::Missing { .. } => "identity_missing",
            IdentityFault::TooLong { .. } => "identity_too_long",
            IdentityFault::Unsendable { .. } => "identity_unsendable",
        }
    }
}

/// Whether `separator` can stand between the values of a list.
#[must_use]
pub const fn is_separator(separator: u8) -> bool {
    matches!(separator, b' '..=b'~') && !separator.is_ascii_alphanumeric() && separator != b'%'
}

impl IdentityFields {
    /// Whether the app can be told of `identity` in these fields. Allocates nothing when it can.
    ///
    /// A value is written with `%`, the separator, and a space that is its first or last byte percent-encoded; text beyond
    /// ASCII as the field's [`TextEncoding`] has it. Numbers and booleans are written as in JSON. What is missing, null,
    /// an empty list or one empty text gives no field.
    ///
    /// # Errors
    /// The first field that cannot be written, or that is required and has no value.
    pub fn check(&self, identity: &Identity) -> Result<(), IdentityFault> {
        for field in &self.fields {
            self.length(field, identity)?;
        }
        Ok(())
    }

    /// The value of one of these fields; `None`: it is not sent. Allocated once, with no room to spare.
    ///
    /// # Errors
    /// As [`IdentityFields::check`].
    pub fn value(
        &self,
        field: &IdentityField,
        identity: &Identity,
    ) -> Result<Option<Vec<u8>>, IdentityFault> {
        let length = self.length(field, identity)?;
        if length == 0 {
            return Ok(None);
        }
        let mut value = Vec::with_capacity(length);
        self.write(field, identity, &mut |bytes| value.extend_from_slice(bytes))?;
        Ok(Some(value))
    }

    /// The length of a field's value in bytes; 0: it is not sent.
    fn length(&self, field: &IdentityField, identity: &Identity) -> Result<usize, IdentityFault> {
        let mut length = 0_usize;
        self.write(field, identity, &mut |bytes| length += bytes.len())?;
        if length == 0 && field.is_required {
            return Err(match field.source {
                IdentitySource::Email => IdentityFault::NoEmail,
                IdentitySource::Username => IdentityFault::NoUsername,
                IdentitySource::Subject | IdentitySource::Claim(_) => {
                    IdentityFault::Missing { what: field.source.claim() }
                }
            });
        }
        match field.header.len() + ": ".len() + length {
            whole if whole > MAX_LINE => Err(IdentityFault::TooLong { what: field.source.claim() }),
            _ => Ok(length),
        }
    }

    /// Hands the bytes of a field's value to `put`, piece by piece.
    fn write(
        &self,
        field: &IdentityField,
        identity: &Identity,
        put: &mut dyn FnMut(&[u8]),
    ) -> Result<(), IdentityFault> {
        let separator = field.is_list.then_some(self.separator);
        let mut writer = ValueWriter { separator, encoding: field.encoding, put };
        let written = match &field.source {
            IdentitySource::Subject => writer.text(&identity.subject),
            IdentitySource::Email => identity.verified_email().map_or(Ok(()), |email| writer.text(email)),
            IdentitySource::Username => username(identity).map_or(Ok(()), |name| writer.text(name)),
            IdentitySource::Claim(path) => match path.find(&identity.claims) {
                None => Ok(()),
                Some(Value::Array(values)) if field.is_list => self.list(field, values, &mut writer),
                Some(value) if field.is_groups && !self.sends(value) => readable(value),
                Some(value) => writer.value(value),
            },
        };
        written.map_err(|Unwritable| IdentityFault::Unsendable { what: field.source.claim() })
    }

    fn list(
        &self,
        field: &IdentityField,
        values: &[Value],
        writer: &mut ValueWriter<'_>,
    ) -> Result<(), Unwritable> {
        let mut is_first = true;
        for value in values {
            if field.is_groups && !self.sends(value) {
                readable(value)?;
                continue;
            }
            if !is_first {
                (writer.put)(&[self.separator]);
            }
            is_first = false;
            match value {
                // Apps take it for no value, or for an end of the list.
                Value::String(text) if text.is_empty() => return Err(Unwritable),
                value => writer.value(value)?,
            }
        }
        Ok(())
    }

    /// Whether a group is among those that the route sends. What is no text is none of them.
    fn sends(&self, group: &Value) -> bool {
        self.groups_only
            .as_ref()
            .is_none_or(|only| group.as_str().is_some_and(|group| only.iter().any(|sent| sent == group)))
    }
}

impl IdentitySource {
    /// The claim that it comes from, as a configuration names it.
    fn claim(&self) -> String {
        match self {
            IdentitySource::Username => USERNAME_CLAIM.to_owned(),
            IdentitySource::Subject => "sub".to_owned(),
            IdentitySource::Email => "email".to_owned(),
            IdentitySource::Claim(path) => path.to_string(),
        }
    }
}

/// The caller's user name: `preferred_username`, where it is one in its one form ([`Username`]). Another issuer's claim can
/// be anything: what is none could be another person's address or subject, or look like another person's name.
fn username(identity: &Identity) -> Option<&str> {
    identity.claims.get(USERNAME_CLAIM)?.as_str().filter(|name| Username::is_form(name))
}

/// A value that no field can hold.
struct Unwritable;

/// Whether a group that is not sent could have been.
fn readable(value: &Value) -> Result<(), Unwritable> {
    match value {
        Value::String(_) | Value::Number(_) | Value::Bool(_) => Ok(()),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(Unwritable),
    }
}

/// Writes values as they stand in a field.
struct ValueWriter<'a> {
    /// `None`: the field holds one value.
    separator: Option<u8>,
    encoding: TextEncoding,
    put: &'a mut dyn FnMut(&[u8]),
}

impl ValueWriter<'_> {
    fn value(&mut self, value: &Value) -> Result<(), Unwritable> {
        match value {
            Value::String(text) => self.text(text),
            Value::Bool(true) => self.text("true"),
            Value::Bool(false) => self.text("false"),
            Value::Number(number) if is_exact(value) => write!(self, "{number}").map_err(|_| Unwritable),
            Value::Number(_) | Value::Null | Value::Array(_) | Value::Object(_) => Err(Unwritable),
        }
    }

    fn text(&mut self, text: &str) -> Result<(), Unwritable> {
        if text.chars().any(char::is_control) {
            return Err(Unwritable);
        }
        let bytes = text.as_bytes();
        let mut plain = 0;
        for (at, byte) in bytes.iter().enumerate() {
            let is_end = at == 0 || at + 1 == bytes.len();
            if self.keeps(*byte, is_end) {
                continue;
            }
            (self.put)(&bytes[plain..at]);
            (self.put)(&escape(*byte));
            plain = at + 1;
        }
        (self.put)(&bytes[plain..]);
        Ok(())
    }

    /// Whether a byte is written as it is. `is_end`: it is the first or the last of its value, where white space would be
    /// no part of the value (RFC 9110 §5.5).
    fn keeps(&self, byte: u8, is_end: bool) -> bool {
        match byte {
            b'%' => false,
            b' ' if is_end => false,
            0x80.. => self.encoding == TextEncoding::Utf8,
            _ => self.separator != Some(byte),
        }
    }
}

impl fmt::Write for ValueWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text(text).map_err(|Unwritable| fmt::Error)
    }
}

/// A byte percent-encoded, in upper case (RFC 3986 §2.1).
fn escape(byte: u8) -> [u8; 3] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    [b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}

#[cfg(test)]
#[path = "identity_fields_tests.rs"]
mod tests;
