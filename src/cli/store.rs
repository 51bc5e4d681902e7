//! `palisade store …`: the files that the running gateway keeps its data in, over its admin API.

use std::path::Path;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::admin;

/// How long a compaction is waited for.
const PATIENCE: Duration = Duration::from_secs(3600);

/// See the store's files and compact them.
#[derive(Debug, Subcommand)]
pub(super) enum Store {
    /// How large the files are, how much lives in them, and how compactions have ended.
    Status,
    /// Write what lives into fresh files now, so that nothing of what was deleted is left in them.
    ///
    /// Requests and commits go on meanwhile. The gateway does this by itself when its files are much larger than
    /// what lives in them, and within an hour after an account or a connection was deleted.
    Compact,
}

pub(super) fn run(config: &Path, command: Store) -> Result<String, String> {
    admin::ask(config, |client| async move {
        match command {
            Store::Status => Ok(status(&client.get("/admin/v1/store").await?)),
            Store::Compact => {
                Ok(compacted(&client.post_within("/admin/v1/store/compact", &json!({}), PATIENCE).await?))
            }
        }
    })
}

fn number(answer: &Value, name: &str) -> u64 {
    answer[name].as_u64().unwrap_or(0)
}

fn status(answer: &Value) -> String {
    let compactions = &answer["compactions"];
    let state = if answer["writable"] == true { "takes writes" } else { "TAKES NO WRITES" };
    format!(
        "the store {state}\non disk      {}\nlive         {}\ncompactions  {} done, {} without room on the disk, {} failed, since \
         the start",
        size(number(answer, "bytes")),
        size(number(answer, "live_bytes")),
        number(compactions, "done"),
        number(compactions, "no_room"),
        number(compactions, "failed"),
    )
}

fn compacted(answer: &Value) -> String {
    let took = Duration::from_millis(number(answer, "milliseconds"));
    format!(
        "compacted in {}: from {} to {}, with {} live",
        humantime::format_duration(took),
        size(number(answer, "bytes_before")),
        size(number(answer, "bytes")),
        size(number(answer, "live_bytes")),
    )
}

/// Bytes as people read them.
#[allow(clippy::cast_precision_loss, reason = "for people")]
fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_words() {
        let answer = json!({"bytes_before": 367_000_000, "bytes": 30_100_000, "live_bytes": 20_000_000, "milliseconds": 1500});
        assert_eq!(compacted(&answer), "compacted in 1s 500ms: from 367.0 MB to 30.1 MB, with 20.0 MB live");
        let answer = json!({"writable": false, "bytes": 12, "live_bytes": 0,
            "compactions": {"done": 1, "no_room": 2, "failed": 0}});
        let told = status(&answer);
        assert!(told.starts_with("the store TAKES NO WRITES\non disk      12 B\n"), "{told}");
        assert!(told.contains("1 done, 2 without room"), "{told}");
    }
}
