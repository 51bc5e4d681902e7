//! The tokens that a plugin brought: the access token must be usable, everything beside it is optional.
//!
//! A refresh may have used the presented refresh token up. So nothing that came with a good access token is a reason
//! to lose the tokens: an odd field is dropped or cut, and [`GrantedTokens::notes`] says so.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::bindings::palisade::provider::types;
use palisade_core::ports::GrantedTokens;

/// The longest token, in bytes.
const TOKEN: usize = 64 << 10;
/// The longest life that is believed: longer ones count as this one.
const LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// What a plugin may ask to be kept: fields, and bytes of a name and of a value.
const KEPT: usize = 64;
const KEPT_NAME: usize = 128;
const KEPT_VALUE: usize = 4096;
/// The most scopes, and bytes of one.
const SCOPES: usize = 256;
const SCOPE: usize = 512;
/// The longest token type, in bytes.
const TOKEN_TYPE: usize = 64;

/// Tokens that a plugin brought.
///
/// # Errors
/// The access token cannot be used. Says why, without any of it.
pub(super) fn tokens(tokens: types::Tokens) -> Result<GrantedTokens, String> {
    let access_token = SecretString::from(tokens.access_token);
    let refresh_token = tokens.refresh_token.map(SecretString::from);
    let id_token = tokens.id_token.map(SecretString::from);
    let keep: Vec<(String, SecretString)> =
        tokens.keep.into_iter().map(|(name, value)| (name, SecretString::from(value))).collect();
    visible(&access_token)?;
    let mut notes = Vec::new();
    let refresh_token = optional(refresh_token, "refresh token", is_sendable, &mut notes);
    let id_token = optional(id_token, "ID token", is_visible, &mut notes);
    let keep = kept(keep, &mut notes);
    Ok(GrantedTokens {
        access_token,
        token_type: token_type(tokens.token_type, &mut notes),
        expires_in: life("access token", tokens.expires_in, &mut notes),
        refresh_token,
        refresh_expires_in: life("refresh token", tokens.refresh_expires_in, &mut notes),
        scopes: granted_scopes(tokens.scopes, &mut notes),
        id_token,
        keep,
        notes,
    })
}

/// Access tokens travel in headers.
fn visible(token: &SecretString) -> Result<(), String> {
    let token = token.expose_secret();
    if token.is_empty() {
        return Err("an empty access token".to_owned());
    }
    if token.len() > TOKEN {
        return Err(format!("an access token of more than {TOKEN} bytes"));
    }
    if !is_visible(token) {
        return Err("characters in the access token that cannot be sent in a header".to_owned());
    }
    Ok(())
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Refresh tokens travel in bodies, where they are encoded: RFC 6749 §A.17 allows spaces, and some have more.
fn is_sendable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// A token that may be absent: an empty one is.
fn optional(
    token: Option<SecretString>,
    what: &str,
    is_good: fn(&str) -> bool,
    notes: &mut Vec<String>,
) -> Option<SecretString> {
    let token = token.filter(|token| !token.expose_secret().is_empty())?;
    let text = token.expose_secret();
    if text.len() > TOKEN {
        notes.push(format!("the {what} has more than {TOKEN} bytes and was dropped"));
        return None;
    }
    if !is_good(text) {
        notes.push(format!("the {what} has characters that no token has and was dropped"));
        return None;
    }
    Some(token)
}

/// What is no word (RFC 6749 §A.13) names no scheme. eBay says `User Access Token` of bearer tokens.
fn token_type(said: Option<String>, notes: &mut Vec<String>) -> Option<String> {
    let said = said.filter(|kind| !kind.is_empty())?;
    if said.len() > TOKEN_TYPE || !is_visible(&said) {
        notes.push("the token type is no word (RFC 6749 §A.13) and was dropped".to_owned());
        return None;
    }
    Some(said)
}

/// None at all is no life: some providers say so of tokens without an end, and each use would be a refresh.
fn life(of: &str, seconds: Option<u64>, notes: &mut Vec<String>) -> Option<Duration> {
    let said = Duration::from_secs(seconds.filter(|seconds| *seconds > 0)?);
    if said > LIFE {
        notes.push(format!("the life of the {of} is longer than ten years and was cut to that"));
    }
    Some(said.min(LIFE))
}

/// Of two fields of one name the later one counts, as it does for a name that was kept before.
fn kept(fields: Vec<(String, SecretString)>, notes: &mut Vec<String>) -> BTreeMap<String, SecretString> {
    let mut keep = BTreeMap::new();
    let (mut odd, mut more, mut twice) = (0_usize, 0_usize, 0_usize);
    for (name, value) in fields {
        let is_name = !name.is_empty() && name.len() <= KEPT_NAME && !name.chars().any(char::is_control);
        if !is_name || value.expose_secret().len() > KEPT_VALUE {
            odd += 1;
        } else if keep.len() >= KEPT && !keep.contains_key(&name) {
            more += 1;
        } else if keep.insert(name, value).is_some() {
            twice += 1;
        }
    }
    if odd > 0 {
        notes.push(format!(
            "{odd} fields to keep were dropped: a name has 1 to {KEPT_NAME} bytes, a value at most {KEPT_VALUE}"
        ));
    }
    if more > 0 {
        notes.push(format!("{more} fields to keep were dropped: at most {KEPT} are kept"));
    }
    if twice > 0 {
        notes.push(format!("{twice} fields to keep were there twice: the last of each was taken"));
    }
    keep
}

/// `None`: as asked; so, too, when nothing of what was said is a scope.
fn granted_scopes(said: Option<Vec<String>>, notes: &mut Vec<String>) -> Option<Vec<String>> {
    let mut granted = said?;
    let before = granted.len();
    granted.retain(|scope| scope.len() <= SCOPE && !scope.chars().any(char::is_control));
    let odd = before - granted.len();
    if odd > 0 {
        notes.push(format!(
            "{odd} scopes were dropped: one has at most {SCOPE} bytes and no control characters"
        ));
    }
    if granted.len() > SCOPES {
        notes.push(format!("{} scopes were dropped: at most {SCOPES} are kept", granted.len() - SCOPES));
        granted.truncate(SCOPES);
    }
    if granted.is_empty() && before > 0 { None } else { Some(granted) }
}

/// Whether these are scopes as a description may name them.
pub(super) fn are_scopes(scopes: &[String]) -> Result<(), String> {
    let fits = |scope: &String| scope.len() <= SCOPE && !scope.chars().any(char::is_control);
    if scopes.len() > SCOPES || !scopes.iter().all(fits) {
        return Err(format!(
            "more than {SCOPES} scopes, or one of more than {SCOPE} bytes or with control characters"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brought() -> types::Tokens {
        types::Tokens {
            access_token: "a".into(),
            token_type: None,
            expires_in: None,
            refresh_token: Some("r".into()),
            refresh_expires_in: None,
            scopes: None,
            id_token: None,
            keep: Vec::new(),
        }
    }

    #[test]
    fn a_token_type_that_is_no_word_is_none() {
        for (said, want) in [
            ("Bearer", Some("Bearer")),
            ("User Access Token", None),
            ("", None),
            ("bearer\n", None),
            ("urn:ietf:params:oauth:token-type:x", Some("urn:ietf:params:oauth:token-type:x")),
        ] {
            let granted = tokens(types::Tokens { token_type: Some(said.to_owned()), ..brought() }).unwrap();
            assert_eq!(granted.token_type.as_deref(), want, "{said:?}");
            assert_eq!(granted.notes.is_empty(), want.is_some() || said.is_empty(), "{said:?}");
        }
    }

    #[test]
    fn a_life_of_nothing_says_nothing_and_no_life_is_endless() {
        let life = |seconds| {
            let said = types::Tokens { expires_in: seconds, refresh_expires_in: seconds, ..brought() };
            let granted = tokens(said).unwrap();
            assert_eq!(granted.expires_in, granted.refresh_expires_in);
            granted.expires_in
        };
        assert_eq!((life(None), life(Some(0))), (None, None));
        assert_eq!((life(Some(1)), life(Some(u64::MAX))), (Some(Duration::from_secs(1)), Some(LIFE)));
    }

    #[test]
    fn what_is_too_much_is_cut_and_said() {
        let scopes = (0..300).map(|n| format!("s{n}")).chain(["x".repeat(600), "a\nb".into()]).collect();
        let keep = (0..70)
            .map(|n| (format!("k{n:02}"), "v".to_owned()))
            .chain([("k00".into(), "later".into()), ("long".into(), "v".repeat(5000))])
            .collect();
        let said = types::Tokens {
            scopes: Some(scopes),
            id_token: Some("i".repeat(TOKEN + 1)),
            token_type: Some("User Access Token".into()),
            expires_in: Some(u64::MAX),
            keep,
            ..brought()
        };
        let granted = tokens(said).unwrap();
        assert_eq!(granted.scopes.as_ref().map(Vec::len), Some(SCOPES));
        assert_eq!((granted.keep.len(), granted.keep["k00"].expose_secret()), (KEPT, "later"));
        assert!(granted.id_token.is_none() && granted.refresh_token.is_some());
        let notes = granted.notes.join("; ");
        for part in [
            "2 scopes were dropped",
            "44 scopes were dropped",
            "ID token",
            "token type",
            "ten years",
            "1 fields to keep were dropped",
            "6 fields to keep were dropped",
            "1 fields to keep were there twice",
        ] {
            assert!(notes.contains(part), "{part}: {notes}");
        }
    }

    #[test]
    fn a_refresh_token_that_cannot_be_one_is_none_and_the_present_one_stays_good() {
        for (said, want) in [("a b", true), ("żółw", true), ("", false), ("a\0b", false), ("a\nb", false)]
        {
            let granted = tokens(types::Tokens { refresh_token: Some(said.into()), ..brought() }).unwrap();
            assert_eq!(granted.refresh_token.is_some(), want, "{said:?}");
        }
    }

    /// A small generator (SplitMix64), so that the test is the same each time.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn below(&mut self, most: usize) -> usize {
            usize::try_from(self.next() % most as u64).unwrap()
        }

        /// Any text: empty, short, at a bound, far beyond one, with any characters.
        fn text(&mut self) -> String {
            const CHARACTERS: [char; 12] =
                ['a', 'Z', '7', ' ', '\n', '\0', '\u{7f}', '\u{1b}', 'ż', '\u{202e}', '\u{10ffff}', '"'];
            let lengths =
                [0, 1, 5, 63, 64, 65, 127, 128, 129, 511, 512, 513, 4095, 4096, 4097, TOKEN, TOKEN + 1];
            let length = lengths[self.below(lengths.len())];
            if self.below(3) > 0 {
                return "x".repeat(length);
            }
            // The odd ones stand at the end, where a look that is cut short would not find them.
            let odd = CHARACTERS[self.below(CHARACTERS.len())];
            "x".repeat(length.saturating_sub(odd.len_utf8())) + &odd.to_string()
        }

        fn maybe<T>(&mut self, make: impl FnOnce(&mut Random) -> T) -> Option<T> {
            (self.below(4) > 0).then(|| make(self))
        }

        fn seconds(&mut self) -> u64 {
            let bounds = [0, 1, 3600, LIFE.as_secs(), LIFE.as_secs() + 1, 1 << 53, 1 << 63, u64::MAX];
            bounds[self.below(bounds.len())]
        }

        fn list<T>(&mut self, mut make: impl FnMut(&mut Random) -> T) -> Vec<T> {
            let lengths = [0, 1, 2, 63, 64, 65, 255, 256, 257, 400];
            // Long lists of long texts would make the test slow and show nothing more.
            let length = lengths[self.below(lengths.len())];
            (0..length).map(|_| make(self)).collect()
        }

        fn short(&mut self) -> String {
            let mut text = self.text();
            text.truncate(text.floor_char_boundary(600));
            text
        }
    }

    #[test]
    fn whatever_stands_beside_good_tokens_the_tokens_are_kept() {
        let mut random = Random(8);
        for round in 0..500 {
            let said = types::Tokens {
                access_token: "access-1".into(),
                token_type: random.maybe(Random::text),
                expires_in: random.maybe(Random::seconds),
                refresh_token: Some("refresh-1".into()),
                refresh_expires_in: random.maybe(Random::seconds),
                scopes: random.maybe(|random| random.list(Random::short)),
                id_token: random.maybe(Random::text),
                keep: random.list(|random| (random.short(), random.text())),
            };
            let granted = tokens(said.clone()).unwrap_or_else(|why| panic!("round {round}: {why}"));
            assert_eq!(granted.access_token.expose_secret(), "access-1");
            assert_eq!(granted.refresh_token.as_ref().unwrap().expose_secret(), "refresh-1");
            // What is kept is sound, whatever was said.
            assert!(granted.token_type.iter().all(|kind| kind.len() <= TOKEN_TYPE && is_visible(kind)));
            assert!(granted.scopes.as_ref().is_none_or(|scopes| are_scopes(scopes).is_ok()));
            let lives = [granted.expires_in, granted.refresh_expires_in];
            assert!(lives.iter().flatten().all(|life| !life.is_zero() && *life <= LIFE));
            assert!(granted.id_token.iter().all(|token| visible(token).is_ok()));
            assert!(granted.keep.len() <= KEPT);
            for (name, value) in &granted.keep {
                assert!((1..=KEPT_NAME).contains(&name.len()) && value.expose_secret().len() <= KEPT_VALUE);
            }
            // What is missing is said, and no note repeats anything that came.
            let lost = said.scopes.as_ref().is_some_and(|scopes| Some(scopes) != granted.scopes.as_ref())
                || said.keep.len() != granted.keep.len()
                || said.id_token.is_some_and(|token| !token.is_empty()) != granted.id_token.is_some();
            assert!(!lost || !granted.notes.is_empty(), "round {round}");
            assert!(granted.notes.len() <= 9 && granted.notes.iter().all(|note| note.len() < 120));
            assert!(!granted.notes.iter().any(|note| note.contains("xxx") || note.contains("access-1")));
        }
    }
}
