//! Tokens that are no JWT of an issuer with a published key set: what a load balancer of AWS says in a field of its own,
//! and opaque tokens, about which their issuer is asked
//! (introspection, RFC 7662).
//!
//! An opaque token is sent to its issuer, so what must not leave is told here by its form: signed tokens, and
//! credentials of our own.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use uuid::{Uuid, Variant};

use super::opaque::ServerKey;
use super::{opaque, session_cookie};

/// A kind of token, and the one issuer of which a route takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherToken<'a> {
    /// The claims that a load balancer of AWS signs (`X-Amzn-Oidc-Data`).
    LoadBalancer { issuer: &'a str },
    /// An opaque token.
    Opaque { issuer: &'a str },
}

/// By what kind of token a caller was verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TokenKind {
    /// A JWT, or a session of ours.
    #[default]
    Jwt,
    /// As [`OtherToken::LoadBalancer`].
    LoadBalancer,
    /// As [`OtherToken::Opaque`].
    Opaque,
}

/// How API keys of ours begin.
const API_KEY: &str = "pal_";

/// Base64url with or without padding, spare bits or not: what any reader might take for a part of a token.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Whether a reader could take `token` for a signed or an encrypted one (RFC 7515 §7.1, RFC 7516 §7.1): it has three or
/// five parts of base64url, or somewhere a part in front of a dot that is a JSON object.
#[must_use]
pub fn looks_signed(token: &str) -> bool {
    let dots = token.bytes().filter(|byte| *byte == b'.').count();
    if dots == 0 {
        return false;
    }
    let is_base64url = |part: &str| part.bytes().all(is_of_token_part);
    if matches!(dots, 2 | 4) && token.split('.').all(is_base64url) {
        return true;
    }
    let mut parts = token.split('.');
    parts.next_back();
    parts.any(|part| {
        // What stands in front of it, such as a scheme or a name, is not of the part.
        let begin = part.bytes().rposition(|byte| !is_of_token_part(byte)).map_or(0, |at| at + 1);
        let decoded = part.get(begin..).and_then(|part| LENIENT.decode(part).ok());
        decoded.is_some_and(|bytes| serde_json::from_slice::<Map<String, Value>>(&bytes).is_ok())
    })
}

const fn is_of_token_part(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'=')
}

/// Whether a text can be an access token at all (RFC 6749 §A.12): at least one visible character of ASCII, no other.
#[must_use]
pub fn is_access_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether `text` has the form of a credential of ours: a refresh token, a session cookie, the state of a consent, or an
/// API key, also one under a key that we no longer have; or another text under a key of `key`.
///
/// Links and the admin credential have no form of their own: [`crate::ports::OwnCredentials`] looks them up.
#[must_use]
pub fn has_form_of_ours(key: &ServerKey, text: &str) -> bool {
    if text.starts_with(API_KEY) || key.read(text).is_some() || key.read_state(text).is_some() {
        return true;
    }
    let lengths = [opaque::REFRESH_TOKEN_CHARS, opaque::STATE_CHARS, session_cookie::LENGTH];
    if !lengths.contains(&text.len()) {
        return false;
    }
    // Version, user, session or connection. A token of others has these bits once in 65,536 times.
    let Ok(bytes) = URL_SAFE_NO_PAD.decode(text) else { return false };
    let uuid = |at: usize| bytes.get(at..at + 16).and_then(|bytes| Uuid::from_slice(bytes).ok());
    let is_ours = |id: Uuid| id.get_variant() == Variant::RFC4122;
    bytes.first() == Some(&opaque::VERSION)
        && uuid(1).is_some_and(is_ours)
        && uuid(17).is_some_and(|id| is_ours(id) && id.get_version_num() == 7)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;
    use zeroize::Zeroizing;

    use super::super::account::UserId;
    use super::super::browser::CookiePlace;
    use super::super::session::SessionId;
    use super::super::session_cookie::CookieSeed;
    use super::*;

    #[test]
    fn whatever_could_be_a_signed_token_is_told_from_an_opaque_one() {
        let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#);
        let spaced = URL_SAFE_NO_PAD.encode("\n { \"alg\" : \"ES256\" } ");
        for token in [
            format!("{head}.e30.AAAA"),
            format!("{head}.e30."),
            format!("{head}..."),
            format!("{head}.e30.AAAA.AAAA.AAAA"),
            format!("{head}.e30.AAAA.AAAA"),
            format!("{head}.e30"),
            format!("{head}.e 30.AAAA"),
            format!("{head}.{}.AAAA", "%65"),
            format!("{spaced}.x!"),
            // Padded, as load balancers of AWS sign.
            format!("{}.e30=.AA==", base64::engine::general_purpose::URL_SAFE.encode(r#"{"alg":"ES256" }"#)),
            format!("Bearer:{head}.e30.AAAA.x"),
            format!("a.b!{head}.e30.AAAA.x"),
            // Three parts of the alphabet, whatever they hold.
            format!("x{head}.e30.AAAA"),
            "v4.public.AAAA".to_owned(),
            "a.b.c.d.e".to_owned(),
            "..".to_owned(),
        ] {
            assert!(looks_signed(&token), "{token}");
        }
        for token in [
            "2YotnFZFEjr1zCsicMWpAA",
            "ory_at_Vfv9aPkRoBqLk7.UvIcGmGDlTSLxkQuTRsXB5eZC0",
            "ya29.a0AfH6SMBx-y_z",
            "eyJhbGciOiJFUzI1NiJ9",
            "a.b.c.d",
            "a.b!c.d",
            "00D50000000IZ3Z!AQ0AQDpEDKYsn7ioKug2.aSmgCjgrPjG9eRLza8jXWoW7uA.W5l",
            "gho_16C7e42F292c6912E7710c838347Ae178B4a",
            "",
        ] {
            assert!(!looks_signed(token), "{token}");
        }
    }

    #[test]
    fn what_we_hand_out_is_known_by_its_form_even_under_a_key_that_is_gone() {
        let server = |byte: u8| ServerKey::new(Zeroizing::new([byte; 32]));
        let (ours, gone) = (server(1), server(2));
        let user = UserId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001));
        let session = SessionId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0002));
        let imported = UserId(Uuid::from_u128(0x4e1d_0000_0000_4000_8000_0000_0000_0001));
        for user in [user, imported] {
            for key in [&ours, &gone] {
                let token = key.write(&key.first(user, session, Zeroizing::new([0xa5; 32])));
                assert_eq!(token.expose_secret().len(), opaque::REFRESH_TOKEN_CHARS);
                assert!(has_form_of_ours(&ours, token.expose_secret()));
                let (seed, place) = (CookieSeed([7; 32]), CookiePlace::Host("app.test".to_owned()));
                let cookie = key.write_cookie(user, session, &seed, &place);
                assert!(has_form_of_ours(&ours, cookie.expose_secret()));
            }
        }
        assert!(has_form_of_ours(&ours, "pal_01890000_secret"));
        for other in [
            "2YotnFZFEjr1zCsicMWpAA".to_owned(),
            "A".repeat(opaque::REFRESH_TOKEN_CHARS),
            "x".repeat(session_cookie::LENGTH),
            URL_SAFE_NO_PAD.encode([1; 85]),
        ] {
            assert!(!has_form_of_ours(&ours, &other), "{other}");
        }
    }
}
