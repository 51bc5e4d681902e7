//! Path confusion: every way in which servers in use may read one path.
//!
//! Servers decode escapes once, twice or not at all; drop `;` parameters before or after that, up to the next
//! slash, the next backslash or the end; cut at `#` or `?`; take a backslash for a slash; collapse `//`, or take
//! what follows it for a host; ignore case; drop a trailing dot. The order in which they do so differs, too. A
//! [`PathReading`] is the path decoded to its end, with each delimiter in it; [`super::folded`] then follows every
//! choice that a server may make there. Decoding to the end loses none of them: escapes never overlap, so every
//! order of decoding ends in the same text, and what was a delimiter or a dot on the way still is one there.

use super::request::Malformed;

/// The most delimiters with two meanings (`;`, and encoded `/`, `\`, `#` and `?`) that one path may hold. It
/// bounds the work: every one of them doubles the readings.
pub(super) const MAX_DELIMITERS: usize = 256;

/// A letter of a path that is decoded and case-folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) char: char,
    /// It was encoded: a server may take it for a delimiter, or for a part of a name.
    pub(super) encoded: bool,
}

impl Letter {
    pub(super) const fn is_separator(self) -> bool {
        matches!(self.char, '/' | '\\')
    }

    /// What may end a path.
    pub(super) const fn is_cut(self) -> bool {
        matches!(self.char, '#' | '?')
    }

    const fn has_two_meanings(self) -> bool {
        self.char == ';' || self.is_cut() || (self.encoded && self.is_separator())
    }

    /// What file systems drop at the end of a name (Windows).
    pub(super) const fn is_trailing(self) -> bool {
        matches!(self.char, '.' | ' ')
    }
}

/// A path as all servers together may read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathReading {
    /// What follows the first `/`.
    letters: Vec<Letter>,
    boundaries: Vec<Boundary>,
    is_escaped: bool,
    is_nested: bool,
}

/// Where some server may take a name to end: in front of a separator, of `;`, `#` or `?`, and at the end of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Boundary {
    pub(super) at: usize,
    /// Where the name ends without the dots and spaces at its end.
    pub(super) trimmed: usize,
    /// The next boundary that is one to every server: a slash that was not encoded, or the end of the path.
    pub(super) last: usize,
}

impl PathReading {
    /// Reads a path in normal form.
    ///
    /// # Errors
    /// [`Malformed::DotSegment`] when some server would see a dot segment in it, [`Malformed::Control`] when
    /// one would see a control character, which cuts the path or vanishes from it, and
    /// [`Malformed::Ambiguous`] for more delimiters than any honest path has.
    pub fn of(path: &str) -> Result<PathReading, Malformed> {
        let letters = letters_of(path.strip_prefix('/').unwrap_or(path));
        if letters.iter().any(|letter| letter.char.is_ascii_control()) {
            return Err(Malformed::Control);
        }
        if letters.split(|letter| letter.is_separator()).any(is_dot_segment) {
            return Err(Malformed::DotSegment);
        }
        if letters.iter().filter(|letter| letter.has_two_meanings()).count() > MAX_DELIMITERS {
            return Err(Malformed::Ambiguous);
        }
        let (is_escaped, is_nested) = (path.contains('%'), path.contains("%25"));
        Ok(PathReading { boundaries: boundaries(&letters), letters, is_escaped, is_nested })
    }

    pub(super) fn letters(&self) -> &[Letter] {
        &self.letters
    }

    /// The boundaries at or behind `at`.
    pub(super) fn boundaries_from(&self, at: usize) -> &[Boundary] {
        &self.boundaries[self.boundaries.partition_point(|boundary| boundary.at < at)..]
    }

    /// `at`, or what follows the dots and spaces there.
    pub(super) fn after_trailing(&self, at: usize) -> usize {
        at + self.letters[at..].iter().take_while(|letter| letter.is_trailing()).count()
    }

    /// Whether it was written with any escape.
    pub(super) fn is_escaped(&self) -> bool {
        self.is_escaped
    }

    /// Whether an escape stands for a `%`, so that what follows it is read as another one by some servers.
    pub(super) fn is_nested(&self) -> bool {
        self.is_nested
    }
}

fn boundaries(letters: &[Letter]) -> Vec<Boundary> {
    let (mut boundaries, mut trimmed) = (Vec::new(), 0);
    for (at, letter) in letters.iter().enumerate() {
        if letter.is_separator() || letter.char == ';' || letter.is_cut() {
            boundaries.push(Boundary { at, trimmed, last: at });
        }
        if !letter.is_trailing() {
            trimmed = at + 1;
        }
    }
    boundaries.push(Boundary { at: letters.len(), trimmed, last: letters.len() });
    let mut last = letters.len();
    for boundary in boundaries.iter_mut().rev() {
        if letters.get(boundary.at).is_some_and(|letter| letter.is_separator() && !letter.encoded) {
            last = boundary.at;
        }
        boundary.last = last;
    }
    boundaries
}

/// A text as it is read by the server that decodes and folds most.
pub(super) fn letters_of(text: &str) -> Vec<Letter> {
    fold(&decode(text))
}

/// The names in a segment of a pattern, which it has more than one of where it holds an encoded separator. Encoded slashes
/// are separators to a server, or they are not: pattern and path are split alike.
pub(super) fn names_of(segment: &str) -> Vec<Vec<char>> {
    let letters = letters_of(segment);
    let names = letters.split(|letter| letter.is_separator()).map(|name| {
        let end = name.iter().rposition(|letter| !letter.is_trailing()).map_or(0, |at| at + 1);
        name[..end].iter().map(|letter| letter.char).collect::<Vec<char>>()
    });
    names.filter(|name| !name.is_empty()).collect()
}

/// Whether some server takes this for `.` or `..`, which all its delimiters may end. No client has reason to encode a
/// dot: of a row of them some may be dropped before the others are decoded.
fn is_dot_segment(segment: &[Letter]) -> bool {
    let end = segment.iter().position(|letter| letter.char == ';' || letter.is_cut());
    let name = &segment[..end.unwrap_or(segment.len())];
    let dots = name.iter().filter(|letter| letter.char == '.').count();
    let only_dots = dots > 0 && name.iter().all(|letter| letter.is_trailing());
    only_dots && (dots <= 2 || name.iter().any(|letter| letter.encoded))
}

/// A byte, and whether it was encoded.
type Byte = (u8, bool);

/// Decodes until there is nothing left to decode, however deep the escapes are nested, in one pass.
fn decode(text: &str) -> Vec<Byte> {
    let mut decoded: Vec<Byte> = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        decoded.push((byte, false));
        // What an escape stands for may complete another.
        while let Some((taken, char)) = last_escape(&decoded) {
            decoded.truncate(decoded.len() - taken);
            match char {
                Decoded::Byte(byte) => decoded.push((byte, true)),
                Decoded::Char(char) => {
                    decoded.extend(char.encode_utf8(&mut [0; 4]).bytes().map(|byte| (byte, true)));
                }
            }
        }
    }
    decoded
}

enum Decoded {
    Byte(u8),
    Char(char),
}

/// The escape that ends here: how long it is, and what it stands for. Besides `%XX` there are `%uXXXX`, which
/// some servers know, and UTF-8 in more bytes than needed (RFC 3629 §10), which careless decoders take.
fn last_escape(bytes: &[Byte]) -> Option<(usize, Decoded)> {
    let overlong = |high: u8, low: u8| Decoded::Byte((high & 1) << 6 | (low & 0x3f));
    match bytes {
        [.., (0xf0, _), (0x80, _), (high @ 0x80..=0x81, _), (low @ 0x80..=0xbf, _)] => {
            Some((4, overlong(*high, *low)))
        }
        [.., (0xe0, _), (high @ 0x80..=0x81, _), (low @ 0x80..=0xbf, _)] => Some((3, overlong(*high, *low))),
        [.., (high @ 0xc0..=0xc1, _), (low @ 0x80..=0xbf, _)] => Some((2, overlong(*high, *low))),
        [.., (b'%', _), a, b] => Some((3, Decoded::Byte(u8::try_from(hex(&[*a, *b])?).ok()?))),
        [.., (b'%', _), (b'u', _), a, b, c, d] => {
            Some((6, Decoded::Char(char::from_u32(hex(&[*a, *b, *c, *d])?)?)))
        }
        _ => None,
    }
}

fn hex(digits: &[Byte]) -> Option<u32> {
    digits.iter().try_fold(0, |number, (digit, _)| Some(number << 4 | char::from(*digit).to_digit(16)?))
}

/// The letters of decoded bytes, in one case. What is no UTF-8 becomes U+FFFD.
fn fold(bytes: &[Byte]) -> Vec<Letter> {
    let plain: Vec<u8> = bytes.iter().map(|(byte, _)| *byte).collect();
    let mut letters = Vec::with_capacity(bytes.len());
    let mut at = 0;
    for chunk in plain.utf8_chunks() {
        for (offset, char) in chunk.valid().char_indices() {
            let encoded = bytes[at + offset].1;
            // Full-width forms are what some code pages know of ASCII.
            let char = match char {
                '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(char) - 0xfee0).unwrap_or(char),
                _ => char,
            };
            // Up and down again: some letters meet only in the upper case, as `s` and its long form do.
            let folded = char.to_uppercase().flat_map(char::to_lowercase);
            letters.extend(folded.map(|char| Letter { char, encoded }));
        }
        at += chunk.valid().len() + chunk.invalid().len();
        if !chunk.invalid().is_empty() {
            letters.push(Letter { char: char::REPLACEMENT_CHARACTER, encoded: true });
        }
    }
    letters
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str) -> Result<String, Malformed> {
        PathReading::of(path).map(|reading| reading.letters.iter().map(|letter| letter.char).collect())
    }

    #[test]
    fn a_path_is_decoded_to_its_end_and_folded() {
        for (path, read) in [
            ("/", ""),
            ("/a/b", "a/b"),
            ("/ADMIN", "admin"),
            ("/%2561dmin", "admin"),
            ("/%25%32%35%36%31", "a"),
            ("/%25252541", "a"),
            ("/100%25", "100%"),
            ("/a%2Fb%255Cc", "a/b\\c"),
            ("/CAF%C3%89", "caf\u{e9}"),
            ("/%C5%BFecret%E2%84%AA", "secretk"),
            ("/%C1%A1dmin/%E0%81%A1/%F0%80%81%A1", "admin/a/a"),
            ("/%C0%A561", "a"),
            ("/%25u0061%25u00C9", "a\u{e9}"),
            ("/%25u006", "%u006"),
            ("/%25ud800", "%ud800"),
            ("/%25uA%2541", "%uaa"),
            ("/%EF%BD%81", "a"),
            ("/%FF", "\u{fffd}"),
        ] {
            assert_eq!(text(path).as_deref(), Ok(read), "{path}");
        }
        let nested = format!("/%{}41", "25".repeat(10_000));
        assert_eq!(text(&nested).as_deref(), Ok("a"));
    }

    #[test]
    fn what_climbs_for_some_server_is_refused() {
        for path in [
            "/a%2F%2E%2E%2Fadmin",
            "/%252e%252e/admin",
            "/x/..%252fadmin",
            "/ADMIN/..;/public",
            "/x/.;a=b/y",
            "/x/..%3Bv/y",
            "/x/..%23/y",
            "/x/..%3F",
            "/x/%C0%AE%C0%AE/y",
            "/x/%E0%80%AE./y",
            "/public/%23/..;/..;/admin",
            "/public/%3F/..;/admin",
            "/public/%2523/..%255c/admin",
            "/public/a;b%2F..%2F/admin",
            "/public/..%20/admin",
            "/public/%25u002e./admin",
            "/public/%EF%BC%8E.%EF%BC%8Fadmin",
        ] {
            assert_eq!(text(path), Err(Malformed::DotSegment), "{path}");
        }
        for path in ["/a%2500", "/.%2509./admin", "/a%C0%80", "/%250d%250a", "/%257f"] {
            assert_eq!(text(path), Err(Malformed::Control), "{path}");
        }
        for path in ["/...", "/..a", "/a..", "/a;..b", "/docs/C%23/..x"] {
            assert!(text(path).is_ok(), "{path}");
        }
    }

    #[test]
    fn the_delimiters_of_one_path_are_bounded() {
        for delimiter in [";", "%2F", "%23", "%3F", "%255C"] {
            let path = |times| format!("/{}", format!("a{delimiter}").repeat(times));
            assert!(text(&path(MAX_DELIMITERS)).is_ok(), "{delimiter}");
            assert_eq!(text(&path(MAX_DELIMITERS + 1)), Err(Malformed::Ambiguous), "{delimiter}");
        }
        assert!(text(&"/a".repeat(10_000)).is_ok());
    }
}
