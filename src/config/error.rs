//! What is wrong with `config.toml`, for its operator.

use std::fmt;
use std::path::PathBuf;

/// Something in `config.toml` that keeps Palisade from starting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as it was named to us.
    pub path: PathBuf,
    /// Counted from 1; 0 when the file could not be read at all.
    pub line: usize,
    /// The dotted key, such as `routes[0].match.path`; empty when the fault is in no key.
    pub key: String,
    /// What is there. Never a secret.
    pub found: String,
    /// What would do.
    pub want: String,
}

/// Errors as one text, one a line.
#[must_use]
pub fn error_lines(errors: &[ConfigError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": found {}; want {}", self.found, self.want)
    }
}

impl std::error::Error for ConfigError {}
