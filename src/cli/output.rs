//! What commands print: tables for people, JSON for programs.

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

    #[test]
    fn a_name_stays_in_its_place() {
        assert_eq!(escaped("a/../b?c@example.com"), "a%2F..%2Fb%3Fc@example.com");
        assert_eq!(text(&json!("a\u{1b}[2Jb")), "a?[2Jb");
    }
}
