//! `palisade migrate`: everything from one store into another one.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::backup::Progress;
use super::output::{Output, pretty, tell};
use crate::app::migrate::{self, MigrationReport};
use crate::config::{self, Config};

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// The store that is moved: `sled:FOLDER` or `postgres://USER@HOST/DATABASE`; also a reference, `env:NAME` or
    /// `file:PATH`.
    #[arg(value_name = "FROM")]
    from: String,
    /// Where to: a store that is empty, or was being filled by this command before.
    #[arg(value_name = "TO", required_unless_present = "give_up", conflicts_with = "give_up")]
    to: Option<String>,
    /// Give a migration up: FROM takes writes again. What the other store got is no store.
    #[arg(long)]
    give_up: bool,
    /// The password of the database, as a reference: `env:NAME` or `file:PATH`. As `store.password` without it.
    #[arg(long, value_name = "REFERENCE")]
    password: Option<String>,
    /// A PEM file of authorities for the database. As `store.ca` without it.
    #[arg(long, value_name = "FILE")]
    ca: Option<String>,
    /// The configuration of the gateway that serves the new store, where it is another one than --config.
    #[arg(long, value_name = "FILE")]
    to_config: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// Does what was asked. The text is what to print.
pub(super) fn run(config: &Path, command: &Migrate) -> Result<String, String> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|error| {
            format!("{} cannot be read: {error}; name the configuration with --config", path.display())
        })
    };
    let text = read(config)?;
    let keys: Vec<(&str, &str)> = [("password", &command.password), ("ca", &command.ca)]
        .into_iter()
        .filter_map(|(key, value)| value.as_deref().map(|value| (key, value)))
        .collect();
    let of = |url: &str| if url.starts_with("sled:") { &[][..] } else { &keys[..] };
    let from = with_store(&text, config, &command.from, of(&command.from))?;
    let Some(to) = &command.to else {
        let given_up = migrate::give_up(&from)?;
        if given_up.was_done {
            tell(format_args!(
                "warning: the migration was done. Each of the two stores takes writes now, and lacks what the other one \
                 acknowledges, revocations among it: serve one of them only. If the other one was served, what was revoked \
                 there is not revoked here: `palisade token revoke --before now` ends every token, once this one is served"
            ));
        }
        return Ok(format!("{} takes writes again; it had been closed: {}", from.store, given_up.what));
    };
    let target = match &command.to_config {
        Some(path) => with_store(&read(path)?, path, to, of(to))?,
        None => with_store(&text, config, to, of(to))?,
    };
    let report = Progress::of_records(|told| migrate::migrate(&from, &target, told))?;
    report.notices.iter().for_each(|notice| tell(format_args!("warning: {notice}")));
    Ok(match command.output.json {
        true => pretty(&shown(&report)),
        false => format!(
            "moved {} records from {} to {}, and compared each of them\nNow set store.url to the new store, and start the \
             gateway. The former one is closed for writing: keep it until you know that you do not want it back",
            report.records, from.store, target.store
        ),
    })
}

fn shown(report: &MigrationReport) -> serde_json::Value {
    let kinds: serde_json::Map<String, serde_json::Value> =
        report.kinds.iter().map(|(kind, count)| (kind.name().to_owned(), json!(count))).collect();
    json!({"records": report.records, "resumed": report.resumed, "kinds": kinds, "notices": report.notices})
}

/// The configuration that serves the store at `url`, as it would be read from the text of another one.
///
/// # Errors
/// The errors of the configuration, one on each line.
fn with_store(text: &str, path: &Path, url: &str, keys: &[(&str, &str)]) -> Result<Config, String> {
    let mut table: toml::Table =
        text.parse().map_err(|error| format!("{} is not TOML: {error}", path.display()))?;
    let mut store = match table.remove("store") {
        // What is said of the other kind of store means nothing for this one.
        Some(toml::Value::Table(store)) if !url.starts_with("sled:") => store,
        _ => toml::Table::new(),
    };
    store.insert("url".to_owned(), url.into());
    for (key, value) in keys {
        store.insert((*key).to_owned(), (*value).into());
    }
    table.insert("store".to_owned(), toml::Value::Table(store));
    config::parse(&table.to_string(), path, &|name| std::env::var(name).ok())
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}
