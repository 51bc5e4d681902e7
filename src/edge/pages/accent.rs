//! Accessibility of the operator's colour as the stylesheet uses it. Whatever it is, what is written in it or on it can be read: text
//! has a contrast of at least 4.5 (WCAG 2.2, success criterion 1.4.3).

use std::fmt;

/// The surfaces that text in the accent stands on, the least favourable one of each scheme: `--back` of `style.css`.
const LIGHT: Colour = Colour(0xf4, 0xf5, 0xf7);
const DARK: Colour = Colour(0x24, 0x28, 0x31);
/// A little more than is asked for, as colours are rounded.
const READABLE: f64 = 4.6;

/// Red, green, blue (sRGB).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Colour(u8, u8, u8);

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }
}

impl Colour {
    const BLACK: Colour = Colour(0, 0, 0);
    const WHITE: Colour = Colour(255, 255, 255);

    /// Reads `#rrggbb`.
    fn parse(text: &str) -> Option<Colour> {
        let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6 && digits.is_ascii())?;
        let part = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).ok();
        Some(Colour(part(0)?, part(2)?, part(4)?))
    }

    /// WCAG 2.2: relative luminance.
    fn luminance(self) -> f64 {
        let linear = |part: u8| {
            let part = f64::from(part) / 255.0;
            if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(self.0) + 0.7152 * linear(self.1) + 0.0722 * linear(self.2)
    }

    /// WCAG 2.2: contrast ratio, from 1 to 21.
    fn contrast(self, other: Colour) -> f64 {
        let (one, two) = (self.luminance(), other.luminance());
        (one.max(two) + 0.05) / (one.min(two) + 0.05)
    }

    /// This colour moved towards `end` by so many of 32 steps.
    fn towards(self, end: Colour, steps: u16) -> Colour {
        let mix = |from: u8, to: u8| {
            let mixed = (u16::from(from) * (32 - steps) + u16::from(to) * steps) / 32;
            u8::try_from(mixed).unwrap_or(to)
        };
        Colour(mix(self.0, end.0), mix(self.1, end.1), mix(self.2, end.2))
    }

    /// The colour nearest to this one, on the way to `end`, that can be read on `surface`.
    fn readable(self, surface: Colour, end: Colour) -> Colour {
        let steps = (0..=32).map(|steps| self.towards(end, steps));
        steps.into_iter().find(|colour| colour.contrast(surface) >= READABLE).unwrap_or(end)
    }

    /// What can be read on this colour. One of the two has a contrast of at least 4.58 with any colour.
    fn ink(self) -> Colour {
        if self.contrast(Colour::WHITE) >= self.contrast(Colour::BLACK) {
            Colour::WHITE
        } else {
            Colour::BLACK
        }
    }
}

/// The custom properties that replace those of the stylesheet for `#rrggbb`; `None`: that is no colour.
pub(super) fn properties(accent: &str) -> Option<String> {
    let accent = Colour::parse(accent)?;
    let (ink, light, dark) =
        (accent.ink(), accent.readable(LIGHT, Colour::BLACK), accent.readable(DARK, Colour::WHITE));
    Some(format!(
        ":root {{ --act: {accent}; --act-text: {ink}; --link: {light}; }}\n\
         @media (prefers-color-scheme: dark) {{ :root {{ --link: {dark}; }} }}\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_accent_can_be_read() {
        for step in 0..4096_u32 {
            let part = |shift: u32| u8::try_from((step >> shift & 15) * 17).unwrap();
            let accent = Colour(part(8), part(4), part(0));
            assert!(accent.contrast(accent.ink()) >= 4.5, "{accent}");
            for (surface, end) in [(LIGHT, Colour::BLACK), (DARK, Colour::WHITE)] {
                let link = accent.readable(surface, end);
                assert!(link.contrast(surface) >= 4.5, "{accent} as {link} on {surface}");
            }
        }
    }

    #[test]
    fn an_accent_that_can_be_read_stays_as_it_is() {
        let said = properties("#1d4ed8").unwrap();
        assert!(
            said.starts_with(":root { --act: #1d4ed8; --act-text: #ffffff; --link: #1d4ed8; }"),
            "{said}"
        );
        assert!(properties("#ffcc00").unwrap().contains("--act-text: #000000"));
        for bad in ["", "red", "#fff", "#12345g", "#12345é", "1d4ed8"] {
            assert_eq!(properties(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_surfaces_are_those_of_the_stylesheet() {
        let style = include_str!("assets/style.css");
        for surface in [LIGHT, DARK] {
            assert!(style.contains(&format!(": {surface};")), "{surface}");
        }
    }
}
