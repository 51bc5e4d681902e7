//! Accounts as lines of a file: JSON (one object on each line) or CSV (RFC 4180, with a head), read and written.
//!
//! A cell that a spreadsheet would take for a formula gets an apostrophe in front when it is written, which is taken away
//! when it is read.

use std::io::{BufRead, Read, Write};

use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::edge::jwt::json::object;
use palisade_core::domain::verdict::TokenFault;

/// How the file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A JSON object on each line.
    Jsonl,
    /// A table with the names of the members as its head.
    Csv,
}

impl Format {
    /// As the name of the file says, unless it was said.
    pub(super) fn of(said: Option<Format>, name: Option<&std::path::Path>) -> Format {
        let is_csv =
            name.and_then(|name| name.extension()).is_some_and(|end| end.eq_ignore_ascii_case("csv"));
        said.unwrap_or(if is_csv { Format::Csv } else { Format::Jsonl })
    }
}

/// What a cell of a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    Text,
    /// Text, or the JSON object of a maker that writes one.
    Hash,
    Bool,
    Moment,
    /// A JSON list, or words between the separator; `None`: white space.
    List(Option<char>),
    Json,
}

/// The columns in the order in which an export writes them; the rest an import takes, too.
const COLUMNS: [(&str, Cell); 20] = [
    ("subject", Cell::Text),
    ("username", Cell::Text),
    ("email", Cell::Text),
    ("email_verified", Cell::Bool),
    ("name", Cell::Text),
    ("password_hash", Cell::Hash),
    ("groups", Cell::List(Some(';'))),
    ("scopes", Cell::List(None)),
    ("claims", Cell::Json),
    ("active", Cell::Bool),
    ("created_at", Cell::Moment),
    ("identities", Cell::Json),
    ("claimed", Cell::Bool),
    // Behind this an export writes nothing.
    ("state", Cell::Text),
    ("password", Cell::Text),
    ("generate_password", Cell::Bool),
    ("salt", Cell::Text),
    ("hash", Cell::Hash),
    ("verified", Cell::Bool),
    ("created", Cell::Moment),
];
/// Columns whose text is taken as it is.
const SECRETS: [&str; 3] = ["password", "salt", "hash"];
const EXPORTED: usize = 13;
/// The column of accounts that are gone.
const DELETED_AT: &str = "deleted_at";

/// An account of the file, with its line, or what is wrong with it.
pub(super) type Row = (u64, Result<Map<String, Value>, String>);

/// Calls `each` with every account of the file.
///
/// # Errors
/// The file cannot be read, or its head names a column that there is none of; what `each` fails with.
pub(super) fn read(
    file: impl Read,
    format: Format,
    each: &mut dyn FnMut(Row) -> Result<(), String>,
) -> Result<(), String> {
    match format {
        Format::Jsonl => read_lines(file, each),
        Format::Csv => read_table(file, each),
    }
}

fn read_lines(file: impl Read, each: &mut dyn FnMut(Row) -> Result<(), String>) -> Result<(), String> {
    let mut file = std::io::BufReader::new(file);
    let (mut line, mut at) = (Vec::new(), 0);
    loop {
        line.clear();
        if file.read_until(b'\n', &mut line).map_err(|error| format!("the file cannot be read: {error}"))?
            == 0
        {
            return Ok(());
        }
        at += 1;
        // Spreadsheets and editors of some systems put a byte order mark first.
        let bytes = line.strip_prefix(b"\xef\xbb\xbf").filter(|_| at == 1).unwrap_or(&line).trim_ascii();
        if bytes.is_empty() {
            continue;
        }
        let row = object(bytes).map_err(|fault| match fault {
            // Readers differ in which of the two counts.
            TokenFault::DuplicateName => "a member of the object comes twice".to_owned(),
            _ => match serde_json::from_slice::<Value>(bytes) {
                Ok(_) => "no JSON object".to_owned(),
                Err(error) => format!("no JSON object, at column {}", error.column()),
            },
        });
        each((at, row))?;
    }
}

fn read_table(mut file: impl Read, each: &mut dyn FnMut(Row) -> Result<(), String>) -> Result<(), String> {
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(|error| format!("the file cannot be read: {error}"))?;
    // Lines are counted by their line feeds, and the reader would leave one behind a carriage return to the next row. One
    // alone is text, such as of a password.
    let is_kept = |(at, byte): &(usize, &u8)| **byte != b'\r' || text.get(at + 1) != Some(&b'\n');
    let text: Vec<u8> = text.iter().enumerate().filter(is_kept).map(|(_, byte)| *byte).collect();
    let mut table = csv::ReaderBuilder::new().flexible(true).from_reader(&*text);
    let head = table.headers().map_err(|error| format!("the file is no CSV: {error}"))?.clone();
    let mut columns = Vec::with_capacity(head.len());
    for name in &head {
        let name = name.trim_start_matches('\u{feff}').trim();
        let known = COLUMNS.iter().find(|(known, _)| *known == name).ok_or_else(|| {
            let known: Vec<&str> = COLUMNS.iter().map(|(known, _)| *known).collect();
            format!("line 1: there is no column {name:?}: an account has {}", known.join(", "))
        })?;
        if columns.contains(&known) {
            return Err(format!("line 1: the column {name:?} comes twice"));
        }
        columns.push(known);
    }
    let mut record = csv::StringRecord::new();
    loop {
        let at = table.position().line();
        match table.read_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => {
                let at = record.position().map_or(at, csv::Position::line);
                each((at, account(&columns, &record)))?;
            }
            Err(error) if error.is_io_error() => return Err(format!("the file cannot be read: {error}")),
            Err(_) => each((at, Err("the line is not UTF-8".to_owned())))?,
        }
    }
}

fn account(columns: &[&(&str, Cell)], record: &csv::StringRecord) -> Result<Map<String, Value>, String> {
    if record.len() != columns.len() {
        return Err(format!("it has {} cells, and the head has {}", record.len(), columns.len()));
    }
    let mut account = Map::new();
    for ((name, cell), text) in columns.iter().zip(record) {
        // No export writes these, so an apostrophe in front is theirs.
        let text = if SECRETS.contains(name) { text } else { plain(text) };
        if !text.is_empty() {
            let value = value(*cell, text).ok_or_else(|| format!("`{name}` {}", wanted(*cell)))?;
            account.insert((*name).to_owned(), value);
        }
    }
    Ok(account)
}

fn value(cell: Cell, text: &str) -> Option<Value> {
    let json = |text: &str| serde_json::from_str::<Value>(text).ok();
    Some(match cell {
        Cell::Text => Value::String(text.to_owned()),
        // Spring's `{bcrypt}…` is text.
        Cell::Hash if text.starts_with("{\"") => json(text)?,
        Cell::Hash => Value::String(text.to_owned()),
        Cell::Bool => match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "1" => Value::Bool(true),
            "false" | "f" | "no" | "0" => Value::Bool(false),
            _ => return None,
        },
        Cell::Moment => text.parse::<u64>().map_or_else(|_| Value::String(text.to_owned()), Value::from),
        Cell::List(_) if text.starts_with('[') => json(text).filter(Value::is_array)?,
        Cell::List(Some(separator)) => text.split(separator).map(|word| Value::from(word.trim())).collect(),
        Cell::List(None) => text.split_whitespace().map(Value::from).collect(),
        Cell::Json => json(text)?,
    })
}

fn wanted(cell: Cell) -> &'static str {
    match cell {
        Cell::Text | Cell::Moment => "cannot be read",
        Cell::Hash => "begins as a JSON object and is none",
        Cell::Bool => "must be true or false",
        Cell::List(_) => "begins as a JSON list and is none",
        Cell::Json => "must be JSON",
    }
}

/// What begins a formula in a spreadsheet, and the apostrophe that says that it is none.
const FORMULA: [char; 7] = ['=', '+', '-', '@', '\t', '\r', '\''];

/// The text of a cell without the apostrophe that was put in front of it.
fn plain(cell: &str) -> &str {
    cell.strip_prefix('\'').filter(|rest| rest.starts_with(FORMULA)).unwrap_or(cell)
}

/// The text as no spreadsheet takes it for a formula.
fn quoted(text: String) -> String {
    if text.starts_with(FORMULA) { format!("'{text}") } else { text }
}

/// Writes accounts of an export. `deleted` says whether accounts that are gone may be among them.
///
/// # Errors
/// What the file cannot be written for.
pub(super) fn write<'a>(
    file: &mut dyn Write,
    format: Format,
    deleted: bool,
    accounts: impl Iterator<Item = &'a Value>,
) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("the export cannot be written: {error}");
    if format == Format::Jsonl {
        for account in accounts {
            writeln!(file, "{account}").map_err(|error| failed(&error))?;
        }
        return file.flush().map_err(|error| failed(&error));
    }
    let mut head: Vec<&str> = COLUMNS[..EXPORTED].iter().map(|(name, _)| *name).collect();
    head.extend(deleted.then_some(DELETED_AT));
    let mut table = csv::Writer::from_writer(file);
    table.write_record(&head).map_err(|error| failed(&error))?;
    for account in accounts {
        let cells = head.iter().map(|name| match &account[*name] {
            Value::Null => String::new(),
            Value::String(text) => quoted(text.clone()),
            other => other.to_string(),
        });
        table.write_record(cells).map_err(|error| failed(&error))?;
    }
    table.flush().map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows(text: &str, format: Format) -> Vec<(u64, Result<Value, String>)> {
        let mut rows = Vec::new();
        let mut each = |(line, row): Row| {
            rows.push((line, row.map(Value::Object)));
            Ok(())
        };
        read(text.as_bytes(), format, &mut each).unwrap();
        rows
    }

    #[test]
    fn a_file_of_json_has_an_account_on_each_line() {
        let file = "\u{feff}{\"username\": \"ann\"}\r\n\n  \n[1]\n{\"username\": \"bob\"\n{\"email\": \"cid@example.com\"}";
        let read = rows(file, Format::Jsonl);
        assert_eq!(read[0], (1, Ok(json!({"username": "ann"}))));
        assert_eq!(read[1], (4, Err("no JSON object".to_owned())));
        assert!(matches!(&read[2], (5, Err(why)) if why.starts_with("no JSON object, at column")));
        assert_eq!(read[3], (6, Ok(json!({"email": "cid@example.com"}))));
    }

    #[test]
    fn a_password_is_taken_as_it_is_written() {
        let file = "username,name,password\r\nann,'=1,'=Aa1!\r\nbob,,\"a\rb\"\r\n";
        let read = rows(file, Format::Csv);
        assert_eq!(read[0], (2, Ok(json!({"username": "ann", "name": "=1", "password": "'=Aa1!"}))));
        assert_eq!(read[1], (3, Ok(json!({"username": "bob", "password": "a\rb"}))));
    }

    #[test]
    fn a_member_that_comes_twice_is_refused() {
        for twice in
            ["{\"email\": \"a@a.test\", \"email\": \"b@b.test\"}", "{\"claims\": {\"a\": 1, \"\\u0061\": 2}}"]
        {
            let why = "a member of the object comes twice".to_owned();
            assert_eq!(rows(twice, Format::Jsonl), [(1, Err(why))], "{twice}");
        }
    }

    #[test]
    fn a_table_has_an_account_in_each_row() {
        let file = concat!(
            "\u{feff}email, verified,name,groups,scopes,claims,created,hash,identities\r\n",
            "ann@example.com,TRUE,\"Ann, \"\"A\"\"\nLee\",\"staff;Sales, EMEA\",read write,\"{\"\"level\"\": 3}\",1700000000,{bcrypt}$2a$10$x,\n",
            "bob@example.com,0,'=1+1,\"[\"\"a;b\"\"]\",,,2026-01-31T12:00:00Z,\"{\"\"secretData\"\": \"\"x\"\"}\",\"[{\"\"issuer\"\": \"\"i\"\", \"\"subject\"\": \"\"s\"\"}]\"\n",
            "cid@example.com,perhaps,,,,,,,\n",
            "dan@example.com,1\n",
            "eve@example.com,1,,,,{,,,\n",
        );
        let read = rows(file, Format::Csv);
        assert_eq!(
            read[0],
            (
                2,
                Ok(json!({
                    "email": "ann@example.com", "verified": true, "name": "Ann, \"A\"\nLee", "groups": ["staff", "Sales, EMEA"],
                    "scopes": ["read", "write"], "claims": {"level": 3}, "created": 1_700_000_000, "hash": "{bcrypt}$2a$10$x",
                }))
            )
        );
        assert_eq!(
            read[1],
            (
                4,
                Ok(json!({
                    "email": "bob@example.com", "verified": false, "name": "=1+1", "groups": ["a;b"],
                    "created": "2026-01-31T12:00:00Z", "hash": {"secretData": "x"},
                    "identities": [{"issuer": "i", "subject": "s"}],
                }))
            )
        );
        assert_eq!(read[2], (5, Err("`verified` must be true or false".to_owned())));
        assert_eq!(read[3], (6, Err("it has 2 cells, and the head has 9".to_owned())));
        assert_eq!(read[4], (7, Err("`claims` must be JSON".to_owned())));
    }

    #[test]
    fn a_head_that_is_not_understood_is_refused() {
        let refused = |head: &str| read(head.as_bytes(), Format::Csv, &mut |_| Ok(())).unwrap_err();
        assert!(refused("email,e-mail\n").contains("no column \"e-mail\""));
        assert!(refused("email,email\n").contains("twice"));
    }

    #[test]
    fn what_is_written_is_read_again_and_is_no_formula() {
        let accounts = [
            json!({
                "subject": "0190a1b2-0000-7000-8000-000000000001", "username": "ann", "email": null, "email_verified": false,
                "name": "=HYPERLINK(\"x\")", "password_hash": "$2b$12$x", "groups": ["a;b", "c,d"], "scopes": ["read"],
                "claims": {"a": "\"b\""}, "active": true, "created_at": 5, "identities": [], "claimed": true,
            }),
            json!({"subject": "0190a1b2-0000-7000-8000-000000000002", "email": "+b@example.com", "name": "'quoted'", "active": false}),
            json!({"subject": "0190a1b2-0000-7000-8000-000000000003", "name": "''"}),
        ];
        for format in [Format::Csv, Format::Jsonl] {
            let mut file = Vec::new();
            write(&mut file, format, false, accounts.iter()).unwrap();
            let text = String::from_utf8(file).unwrap();
            if format == Format::Csv {
                assert!(text.contains("'=HYPERLINK") && text.contains(",'+b@"), "{text}");
            }
            let read = rows(&text, format);
            for (account, (_, read)) in accounts.iter().zip(read) {
                let mut account = account.clone();
                let read = read.unwrap();
                if format == Format::Csv {
                    // An empty cell says nothing.
                    account.as_object_mut().unwrap().retain(|_, value| !value.is_null());
                }
                assert_eq!(read, account);
            }
        }
        let gone = [json!({"subject": "x", "deleted_at": 7})];
        let mut file = Vec::new();
        write(&mut file, Format::Csv, true, gone.iter()).unwrap();
        assert!(String::from_utf8(file).unwrap().ends_with(",7\n"));
    }
}
