//! `palisade users export`: every account, as `palisade users import` takes it, while the gateway serves.
//!
//! Accounts that change during the walk are read again until nothing has changed since, so the file holds what the store
//! held at one moment: an address that one account gave to another is in it once.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use super::super::admin;
use super::super::output::escaped;
use super::rows::{self, Format};
use crate::edge::admin_client::AdminClient;

/// How many accounts one request asks for.
const PAGE: usize = 500;
/// How often what has changed is read again. Where accounts change all the time, the last reading stands.
const MOST_READINGS: usize = 10;

#[derive(Debug, Args)]
pub(in super::super) struct Export {
    /// Where to; its mode is 0600. Without it, standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Without it, as the name of the file ends: `.csv`, or anything else for JSON lines.
    #[arg(long)]
    format: Option<Format>,
    /// With the password hashes: keep the file as you would keep passwords.
    #[arg(long)]
    hashes: bool,
    /// Only accounts that were made or changed from this moment on, and those that were deleted since (for 90 days): a
    /// moment such as 2026-01-31T12:00:00Z, or seconds since 1970.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
}

/// The accounts by their ids, and when those are gone that are.
type Accounts = BTreeMap<String, Value>;

/// Does what was asked. The text is what to print.
pub(super) fn run(config: &Path, wish: &Export) -> Result<String, String> {
    let format = Format::of(wish.format, wish.output.as_deref());
    admin::ask(config, |client| async move {
        let accounts = all(&client, wish).await?;
        let write = |file: &mut dyn Write| rows::write(file, format, wish.since.is_some(), accounts.values());
        match &wish.output {
            None => {
                let mut text = Vec::new();
                write(&mut text)?;
                // What is printed gets a line feed at its end.
                let text = String::from_utf8(text).map_err(|error| error.to_string())?;
                Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
            }
            Some(path) => {
                let failed = |error: std::io::Error| format!("{} cannot be written: {error}", path.display());
                let mut options = OpenOptions::new();
                let file = options.write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
                let mut file = std::io::BufWriter::new(file);
                write(&mut file)?;
                file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
                Ok(format!("wrote {} accounts", accounts.len()))
            }
        }
    })
}

async fn all(client: &AdminClient, wish: &Export) -> Result<Accounts, String> {
    let mut accounts = Accounts::new();
    let mut since = wish.since.clone();
    for _ in 0..MOST_READINGS {
        let (as_of, has_changed) = reading(client, wish, since.as_deref(), &mut accounts).await?;
        if !has_changed {
            break;
        }
        // What changed in the second in which the reading began may have come behind it.
        since = Some(as_of.saturating_sub(1).to_string());
    }
    Ok(accounts)
}

/// Reads all pages. Returns when it began, and whether it brought anything new.
async fn reading(
    client: &AdminClient,
    wish: &Export,
    since: Option<&str>,
    accounts: &mut Accounts,
) -> Result<(u64, bool), String> {
    let (mut began, mut has_changed, mut after) = (None, false, String::new());
    let since = since.map(|since| format!("&since={}", escaped(since))).unwrap_or_default();
    loop {
        let path = format!("/admin/v1/users-export?limit={PAGE}&hashes={}{since}{after}", wish.hashes);
        let mut page = client.get(&path).await?;
        began = began.or(page["as_of"].as_u64());
        let list = |list: &mut Value| list.as_array_mut().map(std::mem::take).unwrap_or_default();
        for account in list(&mut page["accounts"]) {
            let id = account["subject"].as_str().unwrap_or_default().to_owned();
            has_changed |= accounts.get(&id) != Some(&account);
            accounts.insert(id, account);
        }
        for gone in list(&mut page["deleted"]) {
            let id = gone["subject"].as_str().unwrap_or_default().to_owned();
            has_changed |= match &wish.since {
                Some(_) => {
                    let is_known = accounts.get(&id) == Some(&gone);
                    accounts.insert(id, gone);
                    !is_known
                }
                // In an export of everything it is just not there.
                None => accounts.remove(&id).is_some(),
            };
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={}", escaped(next)),
            None => return Ok((began.unwrap_or_default(), has_changed)),
        }
    }
}
