//! How sizes, sums and tables are written for people.

use std::fmt::Write as _;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::cli::output;
use crate::edge::wasm::is_visible;

/// Longer words are not shown where a token might be one of them.
const WORD: usize = 40;

/// `184 KiB`, `12.2 MiB`.
#[allow(clippy::cast_precision_loss, reason = "to be read, not to be computed with")]
pub(super) fn size(bytes: usize) -> String {
    match bytes {
        0..=1023 => format!("{bytes} bytes"),
        1024..=1_048_575 => format!("{} KiB", bytes / 1024),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// `text` without what would do something to a terminal: components, exchanges and answers are strangers'. In
/// JSON it means the same.
pub(super) fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || is_visible(c) {
            out.push(c);
        } else {
            // A text can always grow. All of them are below U+10000.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        }
    }
    out
}

/// `text` with the length of long words in their place: a token might be one.
pub(super) fn without_long_words(text: &str) -> String {
    let word = |word: &str| match word.chars().count() {
        count if count > WORD => format!("({count} characters)"),
        _ => word.to_owned(),
    };
    text.split_inclusive(char::is_whitespace)
        .map(|piece| {
            let end = piece.trim_end();
            word(end) + &piece[end.len()..]
        })
        .collect()
}

/// A path, as a shell takes it.
pub(super) fn path(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+@:".contains(c);
    if text.chars().all(plain) && !text.is_empty() {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// The SHA-256, as `sha256sum` prints it and `providers.sha256` takes it.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Rows under a head, without lines.
pub(super) fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = output::table(&head);
    for row in rows {
        table.add_row(row);
    }
    table.to_string().lines().map(|line| format!("  {}", line.trim_end())).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_moves_the_cursor() {
        assert_eq!(harmless("a\u{1b}[31m\r\nb\u{202e}\u{9b}"), "a\\u001b[31m\\u000d\nb\\u202e\\u009b");
        let json = serde_json::json!({"a": "x\u{202e}\u{9b}\u{1b}"}).to_string();
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&harmless(&json)).unwrap()["a"],
            "x\u{202e}\u{9b}\u{1b}"
        );
    }

    #[test]
    fn a_long_word_is_told_by_its_length() {
        let token = "t".repeat(41);
        assert_eq!(without_long_words(&format!("a {token}\nb  c")), "a (41 characters)\nb  c");
    }

    #[test]
    fn a_path_can_be_given_to_a_shell() {
        assert_eq!(path(Path::new("plugins/acme")), "plugins/acme");
        assert_eq!(path(Path::new("it's a; b")), r"'it'\''s a; b'");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!([size(7), size(188_416), size(12_800_000)], ["7 bytes", "184 KiB", "12.2 MiB"]);
    }

    #[test]
    fn a_sum_is_what_sha256sum_prints() {
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
