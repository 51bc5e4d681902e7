//! What commands print: tables for people, JSON for programs.
//!
//! Commands print by these functions alone: the macros of the standard library panic once the reader has left (`| head`).

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use super::token_inspect::moment;

#[derive(Debug, Args)]
pub(super) struct Output {
    /// JSON, for programs.
    #[arg(long)]
    pub(super) json: bool,
}

/// Prints a line on standard output. Of what a reader does not want any more (`| head`) nothing is said.
///
/// # Errors
/// It cannot be written, such as on a full disk; as one printable text.
pub(super) fn say(line: impl Display) -> Result<(), String> {
    print(format!("{line}\n").as_bytes())
}

/// Prints these bytes on standard output, as [`say`] does.
///
/// # Errors
/// As [`say`].
pub(super) fn print(bytes: &[u8]) -> Result<(), String> {
    written(&mut io::stdout().lock(), bytes)
}

fn written(out: &mut dyn Write, bytes: &[u8]) -> Result<(), String> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("standard output cannot be written: {error}"))
        }
        _ => Ok(()),
    }
}

/// Prints what a command came to and ends it with `code`; with a failure where that cannot be printed.
pub(super) fn ended(line: impl Display, code: ExitCode) -> ExitCode {
    say(line).map_or_else(|error| failed(&error), |()| code)
}

/// Says why a command has failed.
pub(super) fn failed(error: &str) -> ExitCode {
    tell(format_args!("palisade: {error}"));
    ExitCode::FAILURE
}

/// Prints a line on standard error.
pub(super) fn tell(line: impl Display) {
    tell_part(format_args!("{line}\n"));
}

/// Prints on standard error, without an end of the line.
pub(super) fn tell_part(text: impl Display) {
    // What a command does goes on, whether its words are read or not.
    let _ = io::stderr().lock().write_all(text.to_string().as_bytes());
}

/// `text` as one segment of a path (RFC 3986 §2.3).
pub(super) fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~@".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// An empty table; without a head, for pairs of a label and a value.
pub(super) fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if !head.is_empty() {
        table.set_header(head);
    }
    table
}

/// Text for a terminal, without the control characters that another party chose to move its cursor.
pub(super) fn text(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        None => "–".to_owned(),
    }
}

/// The words of a list.
pub(super) fn list_of(value: &Value) -> String {
    let words: Vec<String> = value.as_array().into_iter().flatten().map(text).collect();
    if words.is_empty() { "–".to_owned() } else { words.join(" ") }
}

/// A moment that is seconds since 1970.
pub(super) fn time(value: &Value) -> String {
    value.as_u64().map_or_else(|| "–".to_owned(), moment)
}

/// JSON for people who read it, too.
pub(super) fn pretty(value: &Value) -> String {
    // A value read from JSON can be written as JSON.
    serde_json::to_string_pretty(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A reader that has left, or a full disk.
    struct Refusing(ErrorKind);

    impl Write for Refusing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_left_is_no_failure_and_a_full_disk_is_one() {
        assert_eq!(written(&mut Refusing(ErrorKind::BrokenPipe), b"x"), Ok(()));
        let error = written(&mut Refusing(ErrorKind::StorageFull), b"x").unwrap_err();
        assert!(error.starts_with("standard output cannot be written: "), "{error}");
    }

    #[test]
    fn a_name_stays_in_its_place() {
        assert_eq!(escaped("a/../b?c@example.com"), "a%2F..%2Fb%3Fc@example.com");
        assert_eq!(text(&json!("a\u{1b}[2Jb")), "a?[2Jb");
    }
}
