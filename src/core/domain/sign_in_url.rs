//! The address of the sign-in page, with what it is to know.
//!
//! The page reads its query as any other page does: every value can be an attacker's. It decides itself what counts.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The parameter with the place to go to after the sign-in: a whole URL ([`super::return_to::ReturnTarget`]).
pub const RETURN_TO: &str = "return_to";

/// The parameter that names the nonce and the host which a session is to be carried to.
pub const CARRY: &str = "carry";

/// The parameter with the reason that a person sees the page for.
pub const NOTICE: &str = "notice";

/// The value of [`NOTICE`] after a form came whose session had ended: it was not sent on.
pub const UNSENT: &str = "unsent";

/// The parameter that asks for a sign-in although there is a session, as in OpenID Connect Core §3.1.2.1.
pub const PROMPT: &str = "prompt";

/// The value of [`PROMPT`].
pub const LOGIN: &str = "login";

/// All but the unreserved characters (RFC 3986 §2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Makes the address of a sign-in page.
#[derive(Debug, Clone)]
pub struct SignInUrl(String);

impl SignInUrl {
    /// The page at `page`, a whole URL without a fragment.
    #[must_use]
    pub fn of(page: &str) -> SignInUrl {
        SignInUrl(page.to_owned())
    }

    /// The same with one parameter more.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> SignInUrl {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(name);
        self.0.push('=');
        self.0.extend(utf8_percent_encode(value, RESERVED));
        self
    }

    /// The address.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_one_value() {
        let url = SignInUrl::of("https://a.test/auth/pages/sign-in");
        assert_eq!(url.clone().into_string(), "https://a.test/auth/pages/sign-in");
        let url = url.with(RETURN_TO, "https://b.test/x?y=1&carry=evil#z+ %").with(NOTICE, UNSENT);
        assert_eq!(
            url.into_string(),
            "https://a.test/auth/pages/sign-in?return_to=https%3A%2F%2Fb.test%2Fx%3Fy%3D1%26carry%3Devil%23z%2B%20%25&notice=unsent"
        );
        let own = SignInUrl::of("https://own.test/login?tenant=1").with(PROMPT, LOGIN).into_string();
        assert_eq!(own, "https://own.test/login?tenant=1&prompt=login");
    }
}
