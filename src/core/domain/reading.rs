//! Path confusion: every way in which servers in use may read one path.
//!
//! Servers decode escapes once, twice or not at all; drop `;` parameters before or after that, up to the next
//! slash, the next backslash or the end; cut at `#` or `?`; take a backslash for a slash; collapse `//`, or take
//! what follows it for a host; ignore case; drop a trailing dot. The order in which they do so differs, too. A
//! [`PathReading`] is the path decoded to its end, with each delimiter in it; [`PathReading::places`] then follows every
//! choice that a server may make there. Decoding to the end loses none of them: escapes never overlap, so every
//! order of decoding ends in the same text, and what was a delimiter or a dot on the way still is one there.

use std::collections::HashSet;

use super::request::Malformed;

/// The most delimiters with two meanings (`;`, and encoded `/`, `\`, `#` and `?`) that one path may hold. It
/// bounds the work: every one of them doubles the readings.
const MAX_DELIMITERS: usize = 256;

/// A letter of a path that is decoded and case-folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Letter {
    char: char,
    /// It was encoded: a server may take it for a delimiter, or for a part of a name.
    encoded: bool,
}

impl Letter {
    const fn is_separator(self) -> bool {
        matches!(self.char, '/' | '\\')
    }

    /// What may end a path.
    const fn is_cut(self) -> bool {
        matches!(self.char, '#' | '?')
    }

    const fn has_two_meanings(self) -> bool {
        self.char == ';' || self.is_cut() || (self.encoded && self.is_separator())
    }

    /// What file systems drop at the end of a name (Windows).
    const fn is_trailing(self) -> bool {
        matches!(self.char, '.' | ' ')
    }
}

/// A path as all servers together may read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathReading {
    /// What follows the first `/`.
    letters: Vec<Letter>,
}

/// The prefix of a route, to be held against a [`PathReading`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Its segments, decoded and case-folded.
    segments: Vec<String>,
    /// How many letters of a reading it takes, where every reading of a path below it begins with it.
    certain: Option<usize>,
}

impl Names {
    /// The names of a prefix in normal form.
    #[must_use]
    pub fn of(prefix: &str) -> Names {
        let Ok(reading) = PathReading::of(prefix) else {
            // No request below it is ever read otherwise: each is refused for the same reason.
            let segments = prefix.split('/').filter(|segment| !segment.is_empty());
            return Names { segments: segments.map(str::to_owned).collect(), certain: None };
        };
        let segments = reading
            .letters
            .split(|letter| letter.is_separator())
            .filter(|segment| !segment.is_empty())
            .map(|segment| segment.iter().map(|letter| letter.char).collect());
        // Encoded slashes are separators to a server, or they are not: prefix and path are split alike.
        let unclear = reading.letters.iter().any(|letter| letter.char == ';' || letter.is_cut());
        Names { segments: segments.collect(), certain: (!unclear).then_some(reading.letters.len()) }
    }

    /// The segments.
    #[must_use]
    pub fn segments(&self) -> &[String] {
        &self.segments
    }
}

impl PathReading {
    /// Reads a path in normal form.
    ///
    /// # Errors
    /// [`Malformed::DotSegment`] when some server would see a dot segment in it, [`Malformed::Control`] when
    /// one would see a control character, which cuts the path or vanishes from it, and
    /// [`Malformed::Ambiguous`] for more delimiters than any honest path has.
    pub fn of(path: &str) -> Result<PathReading, Malformed> {
        let letters = fold(&decode(path.strip_prefix('/').unwrap_or(path)));
        if letters.iter().any(|letter| letter.char.is_ascii_control()) {
            return Err(Malformed::Control);
        }
        if letters.split(|letter| letter.is_separator()).any(is_dot_segment) {
            return Err(Malformed::DotSegment);
        }
        if letters.iter().filter(|letter| letter.has_two_meanings()).count() > MAX_DELIMITERS {
            return Err(Malformed::Ambiguous);
        }
        Ok(PathReading { letters })
    }

    /// Where servers may see this path: each sequence of segments that a route's prefix begins with and that
    /// the path begins with in some reading, as far as those prefixes go. The root, `[]`, is one of them unless
    /// every reading begins with `from`, the prefix of the route that the path belongs to as it stands.
    pub fn places<'n>(&self, from: &'n Names, known: &[&'n Names]) -> Vec<&'n [String]> {
        let mut search = Search {
            letters: &self.letters,
            known,
            places: Vec::new(),
            seen: HashSet::new(),
            waiting: Vec::new(),
        };
        let begins_with_two = self.letters.first().is_some_and(|letter| letter.is_separator());
        match from.certain {
            Some(taken) if taken > 0 => search.after(&from.segments, taken),
            _ => search.wait(&[], Step::Segment, 0),
        }
        if begins_with_two {
            search.wait(&[], Step::Segment, 0);
        }
        search.run();
        search.places
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    /// A segment begins here.
    Segment,
    /// A parameter goes on here, or what is taken for a host, and is being dropped.
    Parameter,
}

/// Follows every choice; each state is looked at once, so the work is bounded by their number.
struct Search<'s, 'n> {
    letters: &'s [Letter],
    known: &'s [&'n Names],
    places: Vec<&'n [String]>,
    /// The index in `places`, and where in the letters.
    seen: HashSet<(usize, Step, usize)>,
    waiting: Vec<(usize, Step, usize)>,
}

impl<'n> Search<'_, 'n> {
    fn place(&mut self, place: &'n [String]) -> usize {
        let known = self.places.iter().position(|other| *other == place);
        known.unwrap_or_else(|| {
            self.places.push(place);
            self.places.len() - 1
        })
    }

    fn wait(&mut self, place: &'n [String], step: Step, at: usize) {
        let state = (self.place(place), step, at);
        if self.seen.insert(state) {
            self.waiting.push(state);
        }
    }

    fn run(&mut self) {
        while let Some((place, step, at)) = self.waiting.pop() {
            let place = self.places[place];
            match step {
                Step::Segment => self.segment(place, at),
                Step::Parameter => self.parameter(place, at),
            }
        }
    }

    /// A segment that begins at `at`. That no prefix goes on with its name is possible in any case.
    fn segment(&mut self, place: &'n [String], at: usize) {
        if at >= self.letters.len() {
            return;
        }
        // An empty name, or one that vanishes, is none to many servers.
        self.after(place, at);
        // To a server that resolves references (RFC 3986 §4.2), `//name/path` is `/path` of another host.
        if place.is_empty() && at > 0 {
            self.wait(place, Step::Parameter, at);
        }
        let depth = place.len();
        for names in self.known {
            let segments: &'n [String] = &names.segments;
            if segments.len() > depth
                && segments.starts_with(place)
                && let Some(end) = self.spelled(at, &segments[depth])
            {
                self.after(&segments[..=depth], end);
            }
        }
    }

    /// Where `name` ends, if it stands at `at`.
    fn spelled(&self, at: usize, name: &str) -> Option<usize> {
        let mut end = at;
        for char in name.chars() {
            if self.letters.get(end)?.char != char {
                return None;
            }
            end += 1;
        }
        Some(end)
    }

    /// A name that leads to `place` and ends at `at`, if it does.
    fn after(&mut self, place: &'n [String], at: usize) {
        let trailing = self.letters[at..].iter().take_while(|letter| letter.is_trailing()).count();
        let at = at + trailing;
        match self.letters.get(at) {
            Some(letter) if letter.is_separator() => self.wait(place, Step::Segment, at + 1),
            Some(letter) if letter.char == ';' => self.wait(place, Step::Parameter, at + 1),
            Some(letter) if !letter.is_cut() => {}
            // The end, or what some server takes for it.
            Some(_) | None => {
                self.place(place);
            }
        }
    }

    /// A parameter lasts until a separator, which a server may not see if it is encoded.
    fn parameter(&mut self, place: &'n [String], at: usize) {
        let mut at = at;
        while let Some(letter) = self.letters.get(at) {
            at += 1;
            if letter.is_separator() {
                self.wait(place, Step::Segment, at);
                if !letter.encoded {
                    return;
                }
            }
        }
    }
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

    fn places(path: &str, from: &str, known: &[&str]) -> Vec<String> {
        let from = Names::of(from);
        let known: Vec<Names> = known.iter().map(|prefix| Names::of(prefix)).collect();
        let known: Vec<&Names> = known.iter().collect();
        let reading = PathReading::of(path).unwrap();
        let mut places: Vec<String> =
            reading.places(&from, &known).iter().map(|place| format!("/{}", place.join("/"))).collect();
        places.sort();
        places
    }

    #[test]
    fn every_choice_of_a_server_is_followed() {
        let known = ["/", "/admin", "/api/admin", "/caf%C3%A9", "/x/y"];
        for (path, from, seen) in [
            ("/a/b", "/", &["/"][..]),
            ("/ADMIN", "/", &["/", "/admin"]),
            ("/admin;x=1/y", "/", &["/", "/admin"]),
            ("/admin%23/public", "/", &["/", "/admin"]),
            ("/admin.%20/public", "/", &["/", "/admin"]),
            ("/;a/admin", "/", &["/", "/admin"]),
            ("/a;x/admin", "/", &["/"]),
            // Parameters that end where they did before they were decoded, or do after.
            ("/api;x%252Fy/admin", "/", &["/", "/api", "/api/admin"]),
            ("/api;x%2Fadmin", "/", &["/", "/api", "/api/admin"]),
            ("/api;%23/admin", "/", &["/", "/api", "/api/admin"]),
            ("/%3B%255C.+%252fadmin;", "/", &["/", "/admin"]),
            ("/x%3F/y", "/", &["/", "/x"]),
            ("/x%2Fy", "/", &["/", "/x", "/x/y"]),
            ("/x//y", "/", &["/", "/x", "/x/y"]),
            // Of another host.
            ("//host/admin", "/", &["/", "/admin"]),
            ("/%2F%5Chost%2Fadmin", "/", &["/", "/admin"]),
            ("/CAF%C3%89", "/", &["/", "/caf\u{e9}"]),
            // What is certain stays so.
            ("/caf%C3%A9/A", "/caf%C3%A9", &["/caf\u{e9}"]),
            ("/admin/A;x", "/admin", &["/admin"]),
            ("/admin/..x%2F", "/admin", &["/admin"]),
        ] {
            assert_eq!(places(path, from, &known), seen, "{path}");
        }
    }

    #[test]
    fn many_delimiters_cost_little() {
        let path = format!("/a{}", ";%2Fa".repeat(MAX_DELIMITERS / 2));
        let known = ["/a", "/a/a", "/a/a/a", "/a/a/a/a"];
        assert_eq!(places(&path, "/", &known).len(), 5);
    }
}
