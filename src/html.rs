//! Text as HTML. Below the rooms of `edge`, since several of them write pages or letters.

/// The text as that of an element or a quoted attribute. Slashes stay as they are, so that an address in the source is one
/// that can be copied.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
