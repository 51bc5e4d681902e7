//! A whole backup from a source of records, in one call that blocks.

use std::io::{self, Write};

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::format::{BackupCounts, BackupError, BackupHeader, VERSION};
use super::installation::InstallationKeys;
use super::sealed::{SealedWriter, recipients};
use super::writer::BackupWriter;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::RecordSource;

/// What a backup says beside the records.
pub struct BackupPlan {
    /// The kind of the store: `sled` or `postgres`.
    pub store: &'static str,
    /// `tokens.issuer`.
    pub issuer: String,
    /// The names of the gateway's secrets that are kept beside the store.
    pub secrets_kept: Vec<String>,
    pub made_at: UnixTime,
    /// Public keys of `age`; none: not encrypted.
    pub recipients: Vec<String>,
    /// Secrets of the gateway, by their names. Left out of a backup that is not encrypted.
    pub secrets: Vec<(&'static str, Zeroizing<Vec<u8>>)>,
}

/// Writes a backup of everything that `source` gives. Blocks: pages are awaited on `runtime`, outside of its tasks. `told`
/// is told of the records so far.
///
/// # Errors
/// [`BackupError`]; what was written is no backup then.
pub fn write<W: Write>(
    out: W,
    plan: &BackupPlan,
    keys: &InstallationKeys,
    source: &mut dyn RecordSource,
    runtime: &Handle,
    told: &mut dyn FnMut(u64),
) -> Result<(W, BackupCounts), BackupError> {
    let recipients = recipients(&plan.recipients)?;
    let out = SealedWriter::new(out, &recipients)?;
    let header = BackupHeader {
        id: String::new(),
        installation: String::new(),
        made_at: plan.made_at.0,
        store: plan.store.to_owned(),
        program: format!("{} (backup {VERSION})", env!("CARGO_PKG_VERSION")),
        issuer: plan.issuer.clone(),
        secrets_kept: plan.secrets_kept.clone(),
    };
    let mut writer = BackupWriter::begin(out, keys, header)?;
    if !recipients.is_empty() {
        for (name, content) in &plan.secrets {
            writer.secret(name, content)?;
        }
    }
    loop {
        let page =
            runtime.block_on(source.next_page()).map_err(|error| BackupError::Source(error.to_string()))?;
        if page.is_empty() {
            break;
        }
        for record in &page {
            writer.record(record)?;
        }
        told(writer.records());
    }
    let (out, counts) = writer.finish()?;
    Ok((out.finish()?, counts))
}

/// Sends what is written to another task, which may be slower: a full channel is waited for. Of use outside of tasks only.
pub struct ChannelWriter {
    to: mpsc::Sender<Vec<u8>>,
    held: Vec<u8>,
}

/// How many bytes are sent at once.
const AT_ONCE: usize = 64 << 10;

impl ChannelWriter {
    #[must_use]
    pub fn new(to: mpsc::Sender<Vec<u8>>) -> ChannelWriter {
        ChannelWriter { to, held: Vec::with_capacity(AT_ONCE) }
    }
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        if self.held.len() >= AT_ONCE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let held = std::mem::replace(&mut self.held, Vec::with_capacity(AT_ONCE));
        self.to.blocking_send(held).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
