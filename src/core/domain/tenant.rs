//! Tenants of Entra: their issuers, and for which of them a key of a shared key set signs.
//!
//! Entra publishes the keys of all tenants in one set, and gives each of them a member `issuer`: that of one tenant, or a
//! text with `{tenantid}` for all of them. A key of one tenant must sign for no other one.
//! See "Validate the signing key issuer" in Microsoft's guide to claims validation.

/// What stands for the tenant in an issuer of Entra.
pub const TENANT: &str = "{tenantid}";

/// The issuers of Entra's tokens of the first version, whose keys carry the issuer of the second.
const FIRST: (&str, &str) = ("https://sts.windows.net/", "/");
const SECOND: (&str, &str) = ("https://login.microsoftonline.com/", "/v2.0");

/// The member `issuer` of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignsFor(Box<str>);

impl SignsFor {
    /// What the member says.
    #[must_use]
    pub fn of(issuer: &str) -> SignsFor {
        SignsFor(issuer.into())
    }

    /// Whether `issuer` is meant: the same text, or a tenant in place of the placeholder.
    #[must_use]
    pub fn holds(&self, issuer: &str) -> bool {
        if *self.0 == *issuer {
            return true;
        }
        let of_tenant = |around| between(issuer, around).is_some_and(is_tenant);
        if self.0.split_once(TENANT).is_some_and(of_tenant) {
            return true;
        }
        // One set of keys serves both versions of tokens.
        match (between(issuer, FIRST), between(&self.0, SECOND)) {
            (Some(tenant), Some(named)) => is_tenant(tenant) && (named == TENANT || named == tenant),
            _ => false,
        }
    }
}

/// What stands between `around` in `text`.
fn between<'a>(text: &'a str, around: (&str, &str)) -> Option<&'a str> {
    text.strip_prefix(around.0)?.strip_suffix(around.1)
}

/// `issuer` with `tenant` in place of the placeholder.
#[must_use]
pub fn with_tenant(issuer: &str, tenant: &str) -> String {
    issuer.replacen(TENANT, tenant, 1)
}

/// Whether `text` is the id of a tenant: a UUID in lower case (RFC 9562 §4).
#[must_use]
pub fn is_tenant(text: &str) -> bool {
    let hyphen = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match hyphen(at) {
            true => byte == b'-',
            false => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "11111111-2222-3333-4444-5555aaaaffff";
    const B: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";

    #[test]
    fn a_key_signs_for_the_issuer_that_it_names_and_for_no_other() {
        let second = |tenant: &str| format!("https://login.microsoftonline.com/{tenant}/v2.0");
        let first = |tenant: &str| format!("https://sts.windows.net/{tenant}/");
        for (key, issuer, want) in [
            (second(A), second(A), true),
            (second(A), second(B), false),
            (second(A), first(A), true),
            (second(A), first(B), false),
            (second(TENANT), second(A), true),
            (second(TENANT), second(B), true),
            (second(TENANT), first(A), true),
            (second(TENANT), second("common"), false),
            (second(TENANT), first("common"), false),
            (second(TENANT), second(&A.to_uppercase()), false),
            (second(TENANT), second(&format!("{A}/{B}")), false),
            (second(TENANT), format!("{}/", second(A)), false),
            (second(TENANT), format!("https://evil.test/{A}/v2.0"), false),
            (first(TENANT), first(A), true),
            ("https://i.test".to_owned(), "https://i.test".to_owned(), true),
            ("https://i.test".to_owned(), "https://i.test/".to_owned(), false),
            (String::new(), "https://i.test".to_owned(), false),
            ("{tenantid}".to_owned(), "https://i.test".to_owned(), false),
        ] {
            assert_eq!(SignsFor::of(&key).holds(&issuer), want, "{key} {issuer}");
        }
    }
}
