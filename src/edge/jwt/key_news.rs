//! What asking the source of an issuer's keys has brought, as lines for the operator.

use std::fmt;
use std::sync::Arc;

/// How many keys that are not used are named.
const TOLD: usize = 16;

/// What asking a source has brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySetOutcome {
    /// The keys that were in force.
    Same,
    /// Another set, now in force.
    Changed { keys: usize, new: usize, withdrawn: usize, left_out: Vec<String>, passed_over: Vec<String> },
    /// No key set, so the last good keys stay.
    Failed { why: String, keys: usize },
    /// No answer yet; it is waited for in the background, and the last good keys stay.
    Pending { keys: usize },
}

/// A [`KeySetOutcome`] with its issuer, as a line for the operator.
#[derive(Debug, Clone)]
pub struct News {
    pub issuer: Arc<str>,
    pub outcome: KeySetOutcome,
}

impl News {
    /// Whether there is anything to tell.
    #[must_use]
    pub fn is_news(&self) -> bool {
        self.outcome != KeySetOutcome::Same
    }

    /// Whether an operator should look.
    #[must_use]
    pub fn is_worrying(&self) -> bool {
        match &self.outcome {
            KeySetOutcome::Same | KeySetOutcome::Pending { .. } => false,
            KeySetOutcome::Changed { keys, left_out, .. } => *keys == 0 || !left_out.is_empty(),
            KeySetOutcome::Failed { .. } => true,
        }
    }

    /// Writes it to the log, where there is anything to tell.
    pub(super) fn log(&self) {
        if self.is_worrying() {
            tracing::warn!("{self}");
        } else if self.is_news() {
            tracing::info!("{self}");
        }
    }
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const REFUSED: &str = "its tokens are refused until they can be fetched";
        let count = |keys: &usize| format!("{keys} key{}", if *keys == 1 { "" } else { "s" });
        write!(f, "keys of {}: ", self.issuer)?;
        match &self.outcome {
            KeySetOutcome::Same => f.write_str("as before"),
            KeySetOutcome::Changed { keys, new, withdrawn, left_out, passed_over } => {
                match keys {
                    0 => f.write_str("none that can be used; its tokens are refused")?,
                    keys => write!(f, "{} in force", count(keys))?,
                }
                write!(f, " ({new} new, {withdrawn} withdrawn)")?;
                let left_out = left_out.iter().map(|key| ("left out", key));
                let unused = left_out.chain(passed_over.iter().map(|key| ("passed over", key)));
                unused.clone().take(TOLD).try_for_each(|(how, key)| write!(f, "; {how} {key}"))?;
                match unused.count().saturating_sub(TOLD) {
                    0 => Ok(()),
                    more => write!(f, "; and {more} more"),
                }
            }
            KeySetOutcome::Failed { why, keys: 0 } => write!(f, "{why}; {REFUSED}"),
            KeySetOutcome::Failed { why, keys } => {
                write!(f, "{why}; the last good ones stay ({})", count(keys))
            }
            KeySetOutcome::Pending { keys: 0 } => write!(f, "the source has not answered yet; {REFUSED}"),
            KeySetOutcome::Pending { keys } => {
                write!(f, "the source has not answered yet; the last good ones stay ({})", count(keys))
            }
        }
    }
}
