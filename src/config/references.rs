//! `${env:NAME}` and `${file:PATH}` inside the texts of `config.toml`, and `env:NAME` as a whole text.
//!
//! They are replaced in the document after it was parsed, and once: a value never becomes syntax of the file, and never
//! a reference of its own. What came from a reference is shown in no message: the text is, as it was written.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::redaction::{Redaction, Values};

/// The largest file that a reference may name, in bytes.
pub const MOST: u64 = 64 << 10;
/// The largest file of certificate authorities, in bytes. What systems ship is a quarter of it.
pub const MOST_AUTHORITIES: u64 = 1 << 20;
/// What begins a text that stands for a variable as a whole.
const WHOLE: &str = "env:";
/// What a text may contain.
pub const FORMS: &str = "${env:NAME} or ${file:PATH}, and $${ for a literal ${";

/// What a reference names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source<'t> {
    /// A variable of the environment, somewhere in a text.
    Env(&'t str),
    /// A variable of the environment, as the whole text.
    Variable(&'t str),
    /// A file, relative to the configuration.
    File(&'t str),
}

/// A piece of a text.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'t> {
    Literal(&'t str),
    Reference(Source<'t>),
}

/// A reference that cannot be replaced.
#[derive(Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// Never the value.
    pub found: String,
    pub want: String,
}

/// A text that contains references.
pub struct Filled {
    /// As it stands in the file.
    pub written: String,
    /// Whether a reference in it could not be replaced, which was reported.
    pub failed: bool,
}

/// The texts of the document that contained references, and what they stand for.
#[derive(Default)]
pub struct References {
    /// By the byte at which the text starts in the file.
    texts: HashMap<usize, Filled>,
    /// Keeps their values out of messages.
    pub redaction: Redaction,
}

/// Looks up what a reference in the text of a key stands for.
pub type Resolve<'r> = dyn Fn(&str, Source<'_>) -> Result<String, Unresolved> + 'r;

/// Receives what is wrong with a text: its place, its key, what was found.
pub type Report<'r> = dyn FnMut(usize, &str, Unresolved) + 'r;

impl References {
    /// Replaces the references in every text of the document except `[providers.settings]`, whose `${…}` are the
    /// provider's.
    pub fn fill(table: &mut DeTable<'_>, resolve: &Resolve<'_>, report: &mut Report<'_>) -> References {
        let mut references = References::default();
        let mut walk = Walk { resolve, report, values: Values::default() };
        references.table(table, "", 0, &mut walk);
        references.redaction = walk.values.finish();
        references
    }

    /// The text that starts at this byte, if it contained references.
    pub fn text_at(&self, start: usize) -> Option<&Filled> {
        self.texts.get(&start)
    }

    fn table(&mut self, table: &mut DeTable<'_>, key: &str, depth: usize, walk: &mut Walk<'_, '_>) {
        for (name, value) in table.iter_mut() {
            if depth == 1 && name.get_ref() == "settings" && is_provider(key) {
                continue;
            }
            let dotted = super::form::dotted(key, name.get_ref());
            self.value(value, &dotted, name.span().start, depth + 1, walk);
        }
    }

    fn value(
        &mut self,
        value: &mut Spanned<DeValue<'_>>,
        key: &str,
        at: usize,
        depth: usize,
        walk: &mut Walk<'_, '_>,
    ) {
        let span = value.span();
        match value.get_mut() {
            DeValue::String(text) => {
                if let Some(filled) = self.text(text, span.start, key, at, walk) {
                    *text = filled.into();
                }
            }
            DeValue::Array(values) => {
                for (index, value) in values.iter_mut().enumerate() {
                    let at = if value.span().end == 0 { at } else { value.span().start };
                    self.value(value, &format!("{key}[{index}]"), at, depth, walk);
                }
            }
            DeValue::Table(table) => self.table(table, key, depth, walk),
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
        }
    }

    /// The text with values in place of its references; `None`: it stays as it is.
    fn text(
        &mut self,
        text: &str,
        start: usize,
        key: &str,
        at: usize,
        walk: &mut Walk<'_, '_>,
    ) -> Option<String> {
        let taken_apart = match whole(text) {
            Some(name) => Ok(vec![Piece::Reference(Source::Variable(name))]),
            None => pieces(text),
        };
        let pieces = match taken_apart {
            Ok(pieces) => pieces,
            Err(unresolved) => {
                (walk.report)(at, key, unresolved);
                self.texts.insert(start, Filled { written: text.to_owned(), failed: true });
                return None;
            }
        };
        let (mut filled, mut failed, mut any) = (String::new(), false, false);
        for piece in pieces {
            match piece {
                Piece::Literal(literal) => filled.push_str(literal),
                Piece::Reference(source) => {
                    any = true;
                    match (walk.resolve)(key, source) {
                        Ok(value) => {
                            filled.push_str(&value);
                            walk.values.keep_out(&value, &source.to_string());
                        }
                        Err(unresolved) => {
                            failed = true;
                            (walk.report)(at, key, unresolved);
                        }
                    }
                }
            }
        }
        if any {
            if !failed {
                walk.values.keep_out(&filled, text);
            }
            self.texts.insert(start, Filled { written: text.to_owned(), failed });
        }
        (!failed).then_some(filled)
    }
}

struct Walk<'w, 'r> {
    resolve: &'w Resolve<'r>,
    report: &'w mut Report<'r>,
    values: Values,
}

/// Whether the key is that of an element of `[[providers]]`.
fn is_provider(key: &str) -> bool {
    key.starts_with("providers[")
}

impl std::fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Env(name) => write!(f, "${{env:{name}}}"),
            Source::Variable(name) => write!(f, "{WHOLE}{name}"),
            Source::File(path) => write!(f, "${{file:{path}}}"),
        }
    }
}

/// The variable that a text stands for as a whole: `env:NAME`, with a name as shells take it (POSIX, XBD §8.1).
pub fn whole(text: &str) -> Option<&str> {
    let name = text.strip_prefix(WHOLE)?;
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let starts = name.bytes().next().is_some_and(|first| !first.is_ascii_digit());
    (starts && name.bytes().all(is_name)).then_some(name)
}

/// A text, taken apart.
fn pieces(text: &str) -> Result<Vec<Piece<'_>>, Unresolved> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            // `$${`: the first `$` is dropped, and the rest is no reference.
            pieces.push(Piece::Literal(before));
            pieces.push(Piece::Literal("${"));
            rest = &from[2..];
            continue;
        }
        pieces.push(Piece::Literal(before));
        let Some((inside, after)) = from[2..].split_once('}') else {
            let found = format!("{} without its }}", super::form::quoted(from));
            return Err(Unresolved { found, want: FORMS.to_owned() });
        };
        let source = match inside.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Source::Env(name),
            Some(("file", path)) if !path.is_empty() => Source::File(path),
            _ => {
                let found = super::form::quoted(&format!("${{{inside}}}"));
                return Err(Unresolved { found, want: FORMS.to_owned() });
            }
        };
        pieces.push(Piece::Reference(source));
        rest = after;
    }
    pieces.push(Piece::Literal(rest));
    Ok(pieces)
}

/// A value is refused when it is empty: what a deployment forgot to fill in must not widen a rule.
pub fn not_empty(source: Source<'_>, value: String) -> Result<String, Unresolved> {
    if value.is_empty() {
        let found = format!("\"{source}\", which is empty");
        return Err(Unresolved { found, want: "a value that is not empty".to_owned() });
    }
    Ok(value)
}

/// The value without the newline that editors and `echo` end a file with.
pub fn without_newline(mut value: String) -> String {
    if value.ends_with('\n') {
        value.pop();
        if value.ends_with('\r') {
            value.pop();
        }
    }
    value
}

/// The text of a file that a reference names.
///
/// # Errors
/// It cannot be read, is no UTF-8 or is larger than `most` bytes.
pub fn read(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(most + 1).read_to_string(&mut text)?;
    if text.len() as u64 > most {
        return Err(io::Error::other(format!("more than {} KiB", most >> 10)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken_apart(text: &str) -> String {
        match pieces(text) {
            Ok(pieces) => pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Literal(literal) => (*literal).to_owned(),
                    Piece::Reference(source) => format!("<{source}>"),
                })
                .collect(),
            Err(Unresolved { found, .. }) => format!("error: {found}"),
        }
    }

    #[test]
    fn a_text_is_taken_apart_at_its_references() {
        for (text, want) in [
            ("", ""),
            ("plain $5 {x} $", "plain $5 {x} $"),
            ("${env:A}", "<${env:A}>"),
            ("x${env:A}y${file:b/c}z", "x<${env:A}>y<${file:b/c}>z"),
            ("$${env:A}", "${env:A}"),
            ("$$${env:A}", "$${env:A}"),
            ("$${x}${env:A}", "${x}<${env:A}>"),
            ("${A}", "error: \"${A}\""),
            ("${}", "error: \"${}\""),
            ("${env:}", "error: \"${env:}\""),
            ("${file:}", "error: \"${file:}\""),
            ("${ENV:A}", "error: \"${ENV:A}\""),
            ("${vault:a}", "error: \"${vault:a}\""),
            ("a${env:A", "error: \"${env:A\" without its }"),
        ] {
            assert_eq!(taken_apart(text), want, "{text}");
        }
    }

    /// The values of `a` to `d` of a document, what was wrong, and what hides the values.
    fn fill(text: &str) -> (String, Vec<String>, Redaction) {
        let mut table = DeTable::parse(text).unwrap();
        let resolve = |_: &str, source: Source<'_>| match source {
            Source::Env("GOOD") => Ok("hunter2".to_owned()),
            Source::Env("TINY") => Ok("no".to_owned()),
            other => Err(Unresolved { found: other.to_string(), want: String::new() }),
        };
        let mut faults = Vec::new();
        let mut report = |_: usize, key: &str, why: Unresolved| faults.push(format!("{key}: {}", why.found));
        let references = References::fill(table.get_mut(), &resolve, &mut report);
        (format!("{:?}", table.get_ref()), faults, references.redaction)
    }

    #[test]
    fn the_settings_of_providers_alone_are_left() {
        let (table, faults, _) = fill(
            "settings = { a = \"${env:GOOD}1\" }\n[routes]\nsettings = { a = \"${env:GOOD}2\" }\n\
             [[providers]]\nname = \"${env:GOOD}3\"\nsettings = { a = \"${env:GOOD}4\" }\n\
             [[providers]]\n[providers.limits]\nsettings = \"${env:GOOD}5\"\n",
        );
        assert_eq!(faults, [""; 0]);
        for filled in ["hunter21", "hunter22", "hunter23", "${env:GOOD}4", "hunter25"] {
            assert!(table.contains(filled), "{filled}: {table}");
        }
    }

    #[test]
    fn a_text_of_which_a_part_cannot_be_had_stays_as_it_is() {
        let (table, faults, redaction) =
            fill("a = \"${env:GOOD}-${env:GONE}\"\nb = [\"x\", \"p${env:TINY}q\"]\n");
        assert_eq!(faults, ["a: ${env:GONE}"]);
        assert!(table.contains("${env:GOOD}-${env:GONE}") && table.contains("pnoq"), "{table}");
        // Of a value that is too short to be looked for, the text with it is.
        assert_eq!(redaction.hide("hunter2, pnoq, no".to_owned()), "${env:GOOD}, p${env:TINY}q, no");
    }

    #[test]
    fn one_newline_is_cut() {
        for (text, want) in
            [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("\n", ""), ("a\r", "a\r")]
        {
            assert_eq!(without_newline(text.to_owned()), want);
        }
    }

    #[test]
    fn a_file_is_bounded_and_utf8() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let most = usize::try_from(MOST).unwrap();
        std::fs::write(&file, "x".repeat(most)).unwrap();
        assert_eq!(read(file.path(), MOST).unwrap().len(), most);
        std::fs::write(&file, "x".repeat(most + 1)).unwrap();
        assert!(read(file.path(), MOST).unwrap_err().to_string().contains("64 KiB"));
        std::fs::write(&file, [0xff]).unwrap();
        assert_eq!(read(file.path(), MOST).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(read(Path::new("/dev/zero"), MOST).is_err());
    }
}
