//! `palisade backup`: everything that a store holds, in one file; and what a file holds.

use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::{Output, ended, failed, pretty, tell, tell_part};
use super::token_inspect::moment;
use super::{admin, check};
use crate::app::needed_keys::ReadBackup;
use crate::app::{backup, restore};
use crate::config::Config;
use crate::edge::backup::{BackupDraft, CheckedBackup, NamedOutput, SignedBy};
use palisade_core::ports::BackupRequest;

/// How often it is told how far it is where standard error is no terminal.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// Exit code: the backup is whole, and another installation has signed it.
const FOREIGN: u8 = 3;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Backup {
    #[command(subcommand)]
    command: Option<OfFile>,
    #[command(flatten)]
    make: Make,
}

#[derive(Debug, Args)]
struct Make {
    /// Where to; its mode is 0600, and it gets its name once it is whole. `-`: standard output.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// A public key of `age` (age1…) that the backup is encrypted to; repeat for more.
    #[arg(long = "recipient", short = 'r', value_name = "KEY")]
    recipients: Vec<String>,
    /// Leave the gateway's own secrets out of an encrypted backup. They are never in one that is not encrypted.
    #[arg(long)]
    without_secrets: bool,
}

#[derive(Debug, Subcommand)]
enum OfFile {
    /// Read a backup to its end: is it whole, and who has signed it? Needs no store and no running gateway.
    ///
    /// Exits with 0 when it is whole and this installation has signed it, 1 when it cannot be read or is damaged (it says
    /// where), and 3 when it is whole and another installation has signed it.
    Verify(Look),
    /// Show what a backup holds, where it comes from, and which keys a restore would lack here.
    Inspect(Look),
}

#[derive(Debug, Args)]
struct Look {
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The file of a private key of `age`, for an encrypted backup.
    #[arg(long, short, value_name = "FILE")]
    identity: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(config: &Path, command: Backup) -> ExitCode {
    let done = match command.command {
        Some(OfFile::Verify(look)) => verify(config, &look),
        Some(OfFile::Inspect(look)) => inspect(config, &look).map(|text| (text, ExitCode::SUCCESS)),
        None => make(config, &command.make).map(|()| (String::new(), ExitCode::SUCCESS)),
    };
    match done {
        Ok((text, code)) => {
            if !text.is_empty() {
                return ended(text, code);
            }
            code
        }
        Err(error) => failed(&error),
    }
}

fn make(config: &Path, wish: &Make) -> Result<(), String> {
    let Some(file) = &wish.file else {
        return Err(
            "name a file for the backup, or `-` for standard output: `palisade backup FILE`".to_owned()
        );
    };
    let request = BackupRequest { recipients: wish.recipients.clone(), secrets: !wish.without_secrets };
    if file.as_os_str() == "-" {
        let out = std::io::stdout();
        if out.is_terminal() {
            return Err(
                "a backup is no text for a terminal: name a file, or lead it into another program".to_owned()
            );
        }
        let (_, said) = written(config, &request, BufWriter::new(NamedOutput(out, "standard output")))?;
        tell(said);
        return Ok(());
    }
    let draft = BackupDraft::begin(file)?;
    let (_, said) = written(config, &request, BufWriter::new(&draft))?;
    draft.sync()?;
    // Only who holds the private key can read an encrypted one.
    if request.recipients.is_empty() {
        restore::read(draft.path(), None, &mut |_| ())?;
    }
    draft.publish()?;
    tell(format_args!("{}: {said}", file.display()));
    Ok(())
}

/// Writes a backup: from the running gateway, or from the store itself when none runs. Returns what to say of it.
fn written<W: Write>(config: &Path, request: &BackupRequest, out: W) -> Result<(W, String), String> {
    let (mut out, said) = match admin::is_running(config)? {
        true => from_gateway(config, request, out)?,
        false => from_store(config, request, out)?,
    };
    out.flush().map_err(unwritten)?;
    Ok((out, said))
}

fn from_gateway<W: Write>(config: &Path, request: &BackupRequest, mut out: W) -> Result<(W, String), String> {
    let body = json!({"recipients": request.recipients, "without_secrets": !request.secrets});
    let (mut progress, mut bytes) = (Progress::new(), 0);
    let mut each = |part: &[u8]| {
        bytes += part.len() as u64;
        progress.told(&format!("{bytes} bytes"));
        out.write_all(part).map_err(unwritten)
    };
    admin::ask(config, |client| async move {
        client.post_for_bytes("/admin/v1/backup", &body, &mut each).await?;
        Ok(String::new())
    })?;
    progress.end();
    Ok((out, format!("a whole backup of {bytes} bytes, from the running gateway")))
}

fn from_store<W: Write>(config: &Path, request: &BackupRequest, out: W) -> Result<(W, String), String> {
    let config = check::load(config).map_err(|errors| lines(&errors))?;
    let mut progress = Progress::new();
    let mut told = |records: u64| progress.told(&format!("{records} records"));
    let (out, counts, installation) = backup::offline(&config, request, out, &mut told)?;
    progress.end();
    let said = format!(
        "a whole backup of {} records, from the store itself; the installation {installation} has signed it",
        counts.records
    );
    Ok((out, said))
}

/// The errors of a configuration, one on each line.
pub(super) fn lines<T: ToString>(errors: &[T]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn unwritten(error: std::io::Error) -> String {
    format!("the backup cannot be written: {error}")
}

fn looked(look: &Look) -> Result<ReadBackup, String> {
    let mut progress = Progress::new();
    let backup = restore::read(&look.file, look.identity.as_deref(), &mut |records| {
        progress.told(&format!("{records} records"));
    });
    progress.end();
    backup
}

fn inspect(config: &Path, look: &Look) -> Result<String, String> {
    let backup = looked(look)?;
    // A backup is looked at on other machines, too.
    let here = |config: Config| restore::lacking(&config, &backup).unwrap_or_else(|why| Some(vec![why]));
    let lacking = check::load(config).ok().and_then(here);
    Ok(inspected(&backup.checked, lacking, &look.output))
}

fn verify(config: &Path, look: &Look) -> Result<(String, ExitCode), String> {
    let backup = looked(look)?.checked;
    // A configuration is only needed to know our own key; a backup is looked at on other machines, too.
    let signer = check::load(config).ok().and_then(|config| restore::signer(&config, &backup));
    let (who, code) = match signer {
        Some(SignedBy::Own) => ("this installation has signed it".to_owned(), ExitCode::SUCCESS),
        Some(SignedBy::Foreign) => (
            format!("another installation has signed it: {}", backup.header.installation),
            ExitCode::from(FOREIGN),
        ),
        None => (
            format!(
                "the installation {} has signed it; whether that is this one is not known without its vault key",
                backup.header.installation
            ),
            ExitCode::from(FOREIGN),
        ),
    };
    let text = match look.output.json {
        true => {
            let mut value = shown(&backup);
            value["own"] = json!(signer == Some(SignedBy::Own));
            pretty(&value)
        }
        false => format!("{}: whole, with {} records; {who}", look.file.display(), backup.counts.records),
    };
    Ok((text, code))
}

fn shown(backup: &CheckedBackup) -> Value {
    json!({
        "id": backup.header.id,
        "installation": backup.header.installation,
        "made_at": backup.header.made_at,
        "store": backup.header.store,
        "program": backup.header.program,
        "issuer": backup.header.issuer,
        "chunks": backup.counts.chunks,
        "records": backup.counts.records,
        "kinds": backup.counts.kinds,
        "secrets": backup.secrets,
        "secrets_needed": backup.needed(),
    })
}

/// `lacking`: what a restore would lack here; `None`: there is no configuration that tells, or its secrets are in a database.
fn inspected(backup: &CheckedBackup, lacking: Option<Vec<String>>, output: &Output) -> String {
    if output.json {
        let mut value = shown(backup);
        value["lacking_here"] = json!(lacking);
        return pretty(&value);
    }
    let header = &backup.header;
    let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { plain(&names.join(", ")) };
    let mut text = format!(
        "made at       {}\nissuer        {}\nstore         {}\nprogram       {}\ninstallation  {}\nsecrets       {}\nneeds         \
         {}\nrecords       {} in {} chunks\n",
        moment(header.made_at),
        plain(&header.issuer),
        plain(&header.store),
        plain(&header.program),
        plain(&header.installation),
        list(&backup.secrets),
        list(&backup.needed()),
        backup.counts.records,
        backup.counts.chunks,
    );
    for (kind, count) in &backup.counts.kinds {
        text.push_str(&format!("  {kind:<17}{count}\n"));
    }
    match lacking {
        None => text.push_str("lacking here  unknown without a data folder beside a configuration\n"),
        Some(lines) if lines.is_empty() => text.push_str("lacking here  none\n"),
        Some(lines) => lines.iter().for_each(|line| text.push_str(&format!("lacking here  {line}\n"))),
    }
    text.trim_end().to_owned()
}

/// Text of a file of unknown origin, without control characters.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// How far long work is, on standard error.
pub(super) struct Progress {
    is_terminal: bool,
    told: Instant,
}

impl Progress {
    pub(super) fn new() -> Progress {
        Progress { is_terminal: std::io::stderr().is_terminal(), told: Instant::now() }
    }

    pub(super) fn told(&mut self, how_far: &str) {
        let pause = if self.is_terminal { Duration::from_millis(100) } else { TOLD_EVERY };
        if self.told.elapsed() < pause {
            return;
        }
        self.told = Instant::now();
        match self.is_terminal {
            true => tell_part(format_args!("\r\x1b[K{how_far}")),
            false => tell(how_far),
        }
    }

    pub(super) fn end(&self) {
        if self.is_terminal {
            tell_part(format_args!("\r\x1b[K"));
        }
    }

    /// Shows how many records `work` is through, for as long as it takes.
    pub(super) fn of_records<T>(work: impl FnOnce(&mut (dyn FnMut(&'static str, u64) + Send)) -> T) -> T {
        let mut progress = Progress::new();
        let done = work(&mut |what, records| progress.told(&format!("{records} records {what}")));
        progress.end();
        done
    }
}
