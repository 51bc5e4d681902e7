//! `palisade restore`: a backup into an empty store.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::backup::{Progress, lines};
use super::check;
use super::output::{Output, pretty, tell};
use super::token_inspect::moment;
use crate::app::restore::{self, RestoreReport, RestoreWish};

#[derive(Debug, Args)]
pub(super) struct Restore {
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The file of a private key of `age`, for an encrypted backup.
    #[arg(long, short, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// The journal of ends (backup.journal): a folder, or one of its files; repeat for more. What was erased, disabled,
    /// unlinked and revoked since the backup stays so.
    #[arg(long, value_name = "PATH")]
    ends: Vec<PathBuf>,
    /// Go on where a PATH of --ends holds no journal, since nothing has ended there yet.
    #[arg(long, requires = "ends")]
    accept_no_ends: bool,
    /// Bring back to life what has ended unknown since the backup: tokens, sessions, links, invitations and what was under
    /// way. For a backup that is as new as the store it replaces.
    #[arg(long)]
    without_cutoff: bool,
    /// The public key of the installation that has signed the backup, if it is another one that you know.
    #[arg(long, value_name = "KEY")]
    signed_by: Option<String>,
    /// Take a backup whichever installation has signed it. It can hold any account and any right.
    #[arg(long)]
    accept_foreign: bool,
    /// Go on although keys that the backup needs are neither in it nor beside the store. The refused restore says which,
    /// and what is lost without them. They can still be put back until the next start.
    #[arg(long)]
    accept_missing_keys: bool,
    #[command(flatten)]
    output: Output,
}

/// Does what was asked. The text is what to print.
pub(super) fn run(config: &Path, command: Restore) -> Result<String, String> {
    let config = check::load(config).map_err(|errors| lines(&errors))?;
    let wish = RestoreWish {
        file: command.file,
        identity: command.identity,
        ends: command.ends,
        without_cutoff: command.without_cutoff,
        accept_foreign: command.accept_foreign,
        signed_by: command.signed_by,
        accept_missing_keys: command.accept_missing_keys,
        accept_no_ends: command.accept_no_ends,
    };
    let report = Progress::of_records(|told| restore::restore(&config, &wish, told))?;
    report.notices.iter().for_each(|notice| tell(format_args!("warning: {notice}")));
    Ok(match command.output.json {
        true => pretty(&shown(&report)),
        false => told(&report, &wish),
    })
}

fn shown(report: &RestoreReport) -> serde_json::Value {
    let counts = report.counts;
    json!({
        "made_at": report.backup.header.made_at,
        "restored": counts.restored,
        "ends": report.journal.ends,
        "ends_files": report.journal.files,
        "ends_from": report.journal.span.map(|(first, _)| first),
        "ends_until": report.journal.span.map(|(_, last)| last),
        "accounts_erased": counts.accounts_erased,
        "accounts_disabled": counts.accounts_disabled,
        "sessions_ended": counts.sessions_ended,
        "connections_ended": counts.connections_ended,
        "consents_ended": counts.consents_ended,
        "links_ended": counts.links_ended,
        "flows_ended": counts.flows_ended,
        "letters_dropped": counts.letters_dropped,
        "revocations_added": counts.revocations_added,
        "notices": report.notices,
    })
}

fn told(report: &RestoreReport, wish: &RestoreWish) -> String {
    let counts = report.counts;
    let mut text = format!(
        "restored {} records of a backup from {}\n",
        counts.restored,
        moment(report.backup.header.made_at)
    );
    let journal = &report.journal;
    text.push_str(&match (wish.ends.is_empty(), journal.span) {
        (true, _) => "no journal of ends was given: accounts that were erased, disabled or unlinked since are as they were\n"
            .to_owned(),
        (false, None) => format!("no end in {} files of the journal\n", journal.files),
        (false, Some((first, last))) => format!(
            "{} ends from {} to {}, in {} files of the journal: {} accounts erased, {} disabled, {} connections ended\n",
            journal.ends,
            moment(first.0),
            moment(last.0),
            journal.files,
            counts.accounts_erased,
            counts.accounts_disabled,
            counts.connections_ended
        ),
    });
    text.push_str(&match wish.without_cutoff {
        true => "no cutoff, as asked: tokens, sessions and links that have ended since may be good again".to_owned(),
        false => format!(
            "cut off: every token and session of the issuer, {} sessions, {} links and invitations, {} consents and {} \
             flows under way, {} letters. Every user has to sign in again",
            counts.sessions_ended,
            counts.links_ended,
            counts.consents_ended,
            counts.flows_ended,
            counts.letters_dropped
        ),
    });
    text
}
