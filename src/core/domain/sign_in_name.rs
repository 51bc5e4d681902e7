//! What a person names their account by to sign in: its address or its user name. No text is both.

use std::borrow::Cow;

use super::email::{EmailAddress, InvalidEmail};
use super::username::{InvalidUsername, Username};

/// An address or a user name, in its one form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignInName {
    Address(EmailAddress),
    Username(Username),
}

/// Why a text is neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSignInName {
    /// It has an `@`.
    #[error(transparent)]
    Address(#[from] InvalidEmail),
    #[error(transparent)]
    Username(#[from] InvalidUsername),
}

impl SignInName {
    /// What attempts under this name are counted by, whether or not an account has it. Names that are one are counted as
    /// one, so that another spelling is no way to more attempts.
    #[must_use]
    pub fn counted_as(&self) -> Cow<'_, str> {
        match self {
            SignInName::Address(email) => email.as_str().into(),
            SignInName::Username(name) => name.fingerprint().to_string().into(),
        }
    }
}

impl std::str::FromStr for SignInName {
    type Err = InvalidSignInName;

    /// White space around it was copied along: inside there is none.
    fn from_str(text: &str) -> Result<SignInName, InvalidSignInName> {
        let text = text.trim_matches([' ', '\t']);
        match text.contains('@') {
            true => Ok(SignInName::Address(text.parse()?)),
            false => Ok(SignInName::Username(text.parse()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_at_sign_tells_an_address_from_a_user_name() {
        let read = |text: &str| text.parse::<SignInName>();
        let ann = |text: &str| SignInName::Username(text.parse().unwrap());
        for text in ["Ann@Example.com", " ann@example.com\t"] {
            assert_eq!(read(text), Ok(SignInName::Address("ann@example.com".parse().unwrap())), "{text}");
        }
        for text in ["Ann", " ann\t", "ＡＮＮ"] {
            assert_eq!(read(text), Ok(ann("ann")), "{text}");
        }
        for text in ["ann@", "@", "ann@evil@example.com"] {
            assert!(matches!(read(text), Err(InvalidSignInName::Address(_))), "{text}");
        }
        for text in ["", " ", "ann lee", "ann＠example.com", "0192f0c1-2345-7abc-8def-0123456789ab"] {
            assert!(matches!(read(text), Err(InvalidSignInName::Username(_))), "{text}");
        }
    }

    #[test]
    fn spellings_of_one_name_are_counted_together_and_as_no_address_or_account() {
        let counted = |text: &str| text.parse::<SignInName>().unwrap().counted_as().into_owned();
        assert_eq!(counted("straße"), counted("STRASSE"));
        assert_eq!(counted("ANN@example.com"), "ann@example.com");
        assert!(!counted("ann").contains('@') && counted("ann").parse::<uuid::Uuid>().is_err());
    }
}
