//! E-mail addresses in one canonical form.
//!
//! Two spellings of one mailbox must be one account, and an address must never be able to say something
//! to a mail server besides who gets the mail. So only the plain form is taken (RFC 5321 `Dot-string`, no
//! quotes, comments or address literals), the domain is in its ASCII form (UTS #46), and everything is in
//! lower case.

use std::fmt;

use serde::{Deserialize, Serialize};

/// RFC 5321 §4.5.3.1.1.
const MAX_LOCAL: usize = 64;
/// RFC 5321 §4.5.3.1.3, less the angle brackets.
pub const MAX_ADDRESS: usize = 254;

/// An address in canonical form: `local@domain`, lower case, ASCII.
///
/// ```
/// use palisade_core::domain::email::EmailAddress;
/// let address: EmailAddress = " Ann.Lee@BÜCHER.example ".parse().unwrap();
/// assert_eq!(address.as_str(), "ann.lee@xn--bcher-kva.example");
/// assert!("a@evil@corp.example".parse::<EmailAddress>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EmailAddress(String);

/// Why a text is no address; says what would be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an e-mail address looks like name@example.com: {0}")]
pub struct InvalidEmail(&'static str);

impl EmailAddress {
    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the `@`.
    #[must_use]
    pub fn local(&self) -> &str {
        self.0.split_once('@').map_or(&*self.0, |(local, _)| local)
    }

    /// The part behind the `@`, in its ASCII form.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.0.split_once('@').map_or("", |(_, domain)| domain)
    }
}

impl std::str::FromStr for EmailAddress {
    type Err = InvalidEmail;

    fn from_str(text: &str) -> Result<EmailAddress, InvalidEmail> {
        // Copied addresses come with white space around them; inside there is none.
        let text = text.trim_matches([' ', '\t']);
        // Ahead of all else, so that a megabyte costs nothing.
        if text.len() > 4 * MAX_ADDRESS {
            return Err(InvalidEmail("it is too long"));
        }
        let (local, domain) = text.split_once('@').ok_or(InvalidEmail("there is no @"))?;
        if domain.contains('@') {
            return Err(InvalidEmail("there is more than one @"));
        }
        if local.is_empty() || local.len() > MAX_LOCAL {
            return Err(InvalidEmail("1 to 64 characters stand before the @"));
        }
        let is_atom = |atom: &str| {
            let atext = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b);
            !atom.is_empty() && atom.bytes().all(atext)
        };
        if !local.split('.').all(is_atom) {
            return Err(InvalidEmail("before the @ are letters, digits and single dots"));
        }
        let domain = idna::domain_to_ascii_cow(domain.as_bytes(), idna::AsciiDenyList::STD3)
            .map_err(|_| InvalidEmail("behind the @ is no domain name"))?;
        let is_label =
            |label: &str| (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
        let last = domain.rsplit('.').next().unwrap_or_default();
        // A last label of digits would be an IP address; a domain without a dot is a host of ours.
        if !domain.contains('.')
            || !domain.split('.').all(is_label)
            || last.bytes().all(|b| b.is_ascii_digit())
        {
            return Err(InvalidEmail("behind the @ is no domain name"));
        }
        let address = format!("{}@{domain}", local.to_ascii_lowercase());
        if address.len() > MAX_ADDRESS {
            return Err(InvalidEmail("it is too long"));
        }
        Ok(EmailAddress(address))
    }
}

impl TryFrom<String> for EmailAddress {
    type Error = InvalidEmail;

    fn try_from(text: String) -> Result<EmailAddress, InvalidEmail> {
        text.parse()
    }
}

impl From<EmailAddress> for String {
    fn from(address: EmailAddress) -> String {
        address.0
    }
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mailbox_has_one_form() {
        for (given, canonical) in [
            ("ann@example.com", "ann@example.com"),
            ("\tAnn+News@EXAMPLE.Com ", "ann+news@example.com"),
            ("o'neil@mail.example.com", "o'neil@mail.example.com"),
            ("ann@Straße.example", "ann@xn--strae-oqa.example"),
            ("ann@XN--BCHER-KVA.example", "ann@xn--bcher-kva.example"),
            // Full-width forms and an ideographic full stop are the same domain (UTS #46).
            ("ann@ｅｘａｍｐｌｅ。com", "ann@example.com"),
        ] {
            assert_eq!(given.parse::<EmailAddress>().unwrap().as_str(), canonical);
        }
    }

    #[test]
    fn what_could_mean_something_else_is_no_address() {
        for bad in [
            "",
            "ann",
            "@example.com",
            "ann@",
            "a@evil@corp.com",
            "\"a b\"@example.com",
            "ann@example.com\r\nBcc: x@example.com",
            "ann\n@example.com",
            "ann @example.com",
            "<ann@example.com>",
            "ann@example.com,bob@example.com",
            "ann..lee@example.com",
            ".ann@example.com",
            "ann@localhost",
            "ann@[127.0.0.1]",
            "ann@127.0.0.1",
            "ann@exa_mple.com",
            "ann@-example.com",
            "ann@example..com",
            "ann@example.com.",
            "ann@example.com\0",
            "änn@example.com",
        ] {
            assert!(bad.parse::<EmailAddress>().is_err(), "{bad:?}");
        }
        assert!(format!("{}@example.com", "a".repeat(65)).parse::<EmailAddress>().is_err());
        assert!(format!("a@{}example.com", "a.".repeat(130)).parse::<EmailAddress>().is_err());
    }
}
