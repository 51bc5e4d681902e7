//! The value of a session cookie: opaque, and good at one place only.
//!
//! It names a user and a session, holds 256 bits of secret, and ends with a MAC of the server key over all of that, the
//! kind of credential and the place ([`CookiePlace`]). So a value that we did not make, or not for this place, is refused
//! without a read of the store. The secret is derived from the server key, the session's seed and the place: it is the
//! same in every tab and another one at every place, and neither the store nor the server key alone gives it. A new seed
//! voids the values of every place (session fixation: a value from before the sign-in is never one of after it).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::account::UserId;
use super::browser::CookiePlace;
use super::opaque::{KeyIndex, ServerKey};
use super::session::SessionId;

const VERSION: u8 = 1;
const SECRET: usize = 32;
/// Version, user, session, secret.
const SIGNED: usize = 1 + 16 + 16 + SECRET;
const TAG: usize = 32;
/// The characters of a value: base64url of [`SIGNED`] and [`TAG`] bytes.
pub(super) const LENGTH: usize = ((SIGNED + TAG) * 4).div_ceil(3);

/// The domains of the two MACs; no other text of ours is under them.
const PURPOSE: &str = "session cookie";
const SECRET_PURPOSE: &str = "session cookie secret";

/// The randomness of a session from which the secrets of its cookies are derived.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CookieSeed(pub [u8; 32]);

impl fmt::Debug for CookieSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieSeed(…)")
    }
}

impl From<CookieSeed> for String {
    fn from(seed: CookieSeed) -> String {
        URL_SAFE_NO_PAD.encode(seed.0)
    }
}

impl TryFrom<String> for CookieSeed {
    type Error = &'static str;

    fn try_from(text: String) -> Result<CookieSeed, &'static str> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| "a seed is base64url")?;
        bytes.try_into().map(CookieSeed).map_err(|_| "a seed has 32 bytes")
    }
}

/// A value that we made for this place. Whether its secret is still the session's is for
/// [`ServerKey::is_cookie_of`] to say.
pub struct PresentedCookie {
    pub user: UserId,
    pub session: SessionId,
    secret: Zeroizing<[u8; SECRET]>,
    /// The key that it was made with.
    key: KeyIndex,
}

impl PresentedCookie {
    /// A name for this very value, of no use to find its secret: the misses of a replaced value are not those of the one
    /// that replaced it.
    #[must_use]
    pub fn name(&self) -> String {
        let hash = super::opaque::TokenHash::of(&*self.secret).0;
        format!("{}.{}", self.session, URL_SAFE_NO_PAD.encode(&hash[..12]))
    }
}

impl fmt::Debug for PresentedCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresentedCookie").field("session", &self.session).finish_non_exhaustive()
    }
}

impl ServerKey {
    /// The value of the session's cookie at `place`, as the browser holds it.
    #[must_use]
    pub fn write_cookie(
        &self,
        user: UserId,
        session: SessionId,
        seed: &CookieSeed,
        place: &CookiePlace,
    ) -> SecretString {
        let (place, secret) = (bytes(place), self.cookie_secret(KeyIndex::FIRST, seed, place));
        let mut value = Zeroizing::new(Vec::with_capacity(SIGNED + TAG));
        value.push(VERSION);
        value.extend_from_slice(user.0.as_bytes());
        value.extend_from_slice(session.0.as_bytes());
        value.extend_from_slice(&*secret);
        let tag = self.mac(PURPOSE, &[&value, &place]);
        value.extend_from_slice(&tag);
        URL_SAFE_NO_PAD.encode(&*value).into()
    }

    /// The cookie in `text`, when we made it for `place`. Reads nothing else.
    #[must_use]
    pub fn read_cookie(&self, text: &str, place: &CookiePlace) -> Option<PresentedCookie> {
        // One length only: also what keeps a megabyte from being decoded.
        if text.len() != LENGTH {
            return None;
        }
        let value = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        let (signed, tag) = value.split_at_checked(SIGNED)?;
        let place = bytes(place);
        let key = self.verifying(tag, PURPOSE, &[signed, &place])?;
        let (version, rest) = signed.split_first()?;
        if *version != VERSION {
            return None;
        }
        let (user, rest) = rest.split_first_chunk()?;
        let (session, secret) = rest.split_first_chunk()?;
        Some(PresentedCookie {
            user: UserId(Uuid::from_bytes(*user)),
            session: SessionId(Uuid::from_bytes(*session)),
            secret: Zeroizing::new(secret.try_into().ok()?),
            key,
        })
    }

    /// Whether `cookie`, which was read for `place`, has the secret that the session with this seed has there.
    #[must_use]
    pub fn is_cookie_of(&self, cookie: &PresentedCookie, seed: &CookieSeed, place: &CookiePlace) -> bool {
        self.cookie_secret(cookie.key, seed, place).ct_eq(&*cookie.secret).into()
    }

    fn cookie_secret(
        &self,
        key: KeyIndex,
        seed: &CookieSeed,
        place: &CookiePlace,
    ) -> Zeroizing<[u8; SECRET]> {
        Zeroizing::new(self.mac_by(key, SECRET_PURPOSE, &[&seed.0, &bytes(place)]))
    }
}

/// A place as it goes into a MAC: its kind, then its name.
fn bytes(place: &CookiePlace) -> Vec<u8> {
    let (kind, name) = match place {
        CookiePlace::Host(name) => (b'h', name),
        CookiePlace::Domain(name) => (b'd', name),
    };
    let mut bytes = Vec::with_capacity(1 + name.len());
    bytes.push(kind);
    bytes.extend_from_slice(name.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    const ANN: UserId = UserId(Uuid::from_u128(1));
    const SESSION: SessionId = SessionId(Uuid::from_u128(2));
    const SEED: CookieSeed = CookieSeed([7; 32]);

    fn key(byte: u8) -> ServerKey {
        ServerKey::new(Zeroizing::new([byte; 32]))
    }

    fn host(name: &str) -> CookiePlace {
        CookiePlace::Host(name.to_owned())
    }

    fn value(key: &ServerKey, place: &CookiePlace) -> String {
        key.write_cookie(ANN, SESSION, &SEED, place).expose_secret().to_owned()
    }

    #[test]
    fn a_value_is_read_as_it_was_written() {
        let (key, place) = (key(1), host("app.test"));
        let text = value(&key, &place);
        assert_eq!(text.len(), LENGTH);
        let read = key.read_cookie(&text, &place).unwrap();
        assert_eq!((read.user, read.session), (ANN, SESSION));
        assert!(key.is_cookie_of(&read, &SEED, &place));
        assert!(!key.is_cookie_of(&read, &CookieSeed([8; 32]), &place), "a new seed voids it");
        assert_eq!(value(&key, &place), text, "the same in every tab");
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let (key, place) = (key(1), host("app.test"));
        let text = value(&key, &place);
        for at in 0..text.len() {
            for other in *b"AB-_09az" {
                let mut bytes = text.as_bytes().to_vec();
                if bytes[at] == other {
                    continue;
                }
                bytes[at] = other;
                assert!(key.read_cookie(std::str::from_utf8(&bytes).unwrap(), &place).is_none(), "{at}");
            }
        }
        let cut = &text[..text.len() - 1];
        for bad in
            ["", "x", cut, &format!("{text}A"), &format!("{text}="), &"é".repeat(65), &"A".repeat(1 << 20)]
        {
            assert!(key.read_cookie(bad, &place).is_none());
        }
    }

    #[test]
    fn a_value_is_good_at_its_place_only() {
        let key = key(1);
        let places = [
            host("app.test"),
            host("app.test."),
            host("other.test"),
            host("dapp.test"),
            host(""),
            CookiePlace::Domain("app.test".to_owned()),
            CookiePlace::Domain(String::new()),
        ];
        for (of, place) in places.iter().enumerate() {
            let text = value(&key, place);
            for (at, other) in places.iter().enumerate() {
                let read = key.read_cookie(&text, other);
                assert_eq!(read.is_some(), of == at, "{place:?} {other:?}");
            }
            let read = key.read_cookie(&text, place).unwrap();
            for other in places.iter().filter(|other| *other != place) {
                assert!(!key.is_cookie_of(&read, &SEED, other), "the secret is of {place:?}, not {other:?}");
            }
        }
    }

    #[test]
    fn a_value_is_of_its_key_and_a_new_one_in_front_voids_none() {
        let place = host("app.test");
        let text = value(&key(1), &place);
        assert!(key(2).read_cookie(&text, &place).is_none());
        let ring = ServerKey::ring(Zeroizing::new([2; 32]), vec![Zeroizing::new([1; 32])]);
        let read = ring.read_cookie(&text, &place).unwrap();
        assert!(ring.is_cookie_of(&read, &SEED, &place));
        let anew = value(&ring, &place);
        assert_eq!(anew, value(&key(2), &place), "the first key signs");
        assert!(key(1).read_cookie(&anew, &place).is_none());
        // Under the other key of the ring, the same seed has another secret.
        let other = ring.read_cookie(&anew, &place).unwrap();
        assert!(ring.is_cookie_of(&other, &SEED, &place));
        assert_ne!(*read.secret, *other.secret);
    }

    #[test]
    fn other_texts_of_ours_are_no_cookies() {
        let (key, place) = (key(1), host("app.test"));
        let refresh = key.write(&key.first(ANN, SESSION, Zeroizing::new([7; 32])));
        let link = key.link_token(Uuid::from_u128(1));
        for other in [refresh, link] {
            assert!(key.read_cookie(other.expose_secret(), &place).is_none());
        }
        assert!(key.read(&value(&key, &place)).is_none());
        assert!(key.read_state(&value(&key, &place)).is_none());
    }

    #[test]
    fn a_seed_is_written_as_text_and_never_shown() {
        let text = serde_json::to_string(&SEED).unwrap();
        assert_eq!(serde_json::from_str::<CookieSeed>(&text).unwrap(), SEED);
        assert!(serde_json::from_str::<CookieSeed>("\"AAAA\"").is_err());
        assert_eq!(format!("{SEED:?}"), "CookieSeed(…)");
    }

    #[test]
    fn the_name_of_a_value_is_its_own() {
        let key = key(1);
        let name = |seed: u8, place: &CookiePlace| {
            let text = key.write_cookie(ANN, SESSION, &CookieSeed([seed; 32]), place);
            key.read_cookie(text.expose_secret(), place).unwrap().name()
        };
        assert_eq!(name(7, &host("a.test")), name(7, &host("a.test")));
        assert_ne!(name(7, &host("a.test")), name(8, &host("a.test")));
        assert!(name(7, &host("a.test")).starts_with(&SESSION.to_string()));
    }
}
