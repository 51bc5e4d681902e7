//! Backups of the running gateway, for its admin API.

use std::io::Write;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::backup::{installation, kept_names, kept_secrets, kind};
use super::compose::Composed;
use crate::edge::backup::{BackupError, BackupPlan, ChannelWriter, InstallationKeys, sealed, stream};
use palisade_core::ports::{BackupBytes, BackupRefused, BackupRequest, Backups, Clock, SecretStore, Store};

/// How many parts of a backup wait for a client that reads slowly, before reading the store waits for it.
const AHEAD: usize = 8;

/// What backups of this process are made of.
pub(super) struct BackupMaker {
    store: Arc<dyn Store>,
    kind: &'static str,
    secrets: Arc<dyn SecretStore>,
    keys: Arc<InstallationKeys>,
    issuer: String,
    clock: Arc<dyn Clock>,
}

/// What makes the backups that the admin API is asked for.
///
/// # Errors
/// The key that signs them cannot be derived; as one printable text.
pub(super) fn maker(composed: &Composed) -> Result<BackupMaker, String> {
    let (state, config) = (&composed.operator.state, &composed.operator.started);
    Ok(BackupMaker {
        store: Arc::clone(&state.store),
        kind: kind(&config.store),
        secrets: Arc::clone(&composed.secrets),
        keys: Arc::new(installation(config, &*composed.secrets)?),
        issuer: config.tokens.issuer.clone(),
        clock: state.clock(),
    })
}

#[async_trait]
impl Backups for BackupMaker {
    async fn begin(&self, request: BackupRequest) -> Result<Box<dyn BackupBytes>, BackupRefused> {
        sealed::recipients(&request.recipients).map_err(|error| BackupRefused::Invalid(error.to_string()))?;
        let with_secrets = request.secrets && !request.recipients.is_empty();
        let secrets = Arc::clone(&self.secrets);
        let read = move || {
            let content = if with_secrets { kept_secrets(&*secrets)? } else { Vec::new() };
            Ok((kept_names(&*secrets), content))
        };
        let (secrets_kept, secrets) = tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| BackupRefused::Unavailable(error.to_string()))?
            .map_err(BackupRefused::Unavailable)?;
        let plan = BackupPlan {
            store: self.kind,
            issuer: self.issuer.clone(),
            made_at: self.clock.now(),
            recipients: request.recipients,
            secrets_kept,
            secrets,
        };
        let source = self.store.snapshot().await;
        let mut source = source.map_err(|error| BackupRefused::Unavailable(error.to_string()))?;
        let (to, bytes) = mpsc::channel(AHEAD);
        let (keys, runtime) = (Arc::clone(&self.keys), Handle::current());
        let work = tokio::task::spawn_blocking(move || {
            let out = ChannelWriter::new(to);
            let written = stream::write(out, &plan, &keys, &mut *source, &runtime, &mut |_| ());
            let (mut out, _) = written?;
            Ok(out.flush()?)
        });
        Ok(Box::new(RunningBackup { bytes, work: Some(work) }))
    }
}

/// A backup that is being made. Once it is dropped, its next part finds the channel closed.
struct RunningBackup {
    bytes: mpsc::Receiver<Vec<u8>>,
    work: Option<JoinHandle<Result<(), BackupError>>>,
}

#[async_trait]
impl BackupBytes for RunningBackup {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        if let Some(bytes) = self.bytes.recv().await {
            return Ok(Some(bytes));
        }
        let Some(work) = self.work.take() else { return Ok(None) };
        let ended = work.await.map_err(|error| error.to_string())?;
        ended.map(|()| None).map_err(|error| error.to_string())
    }
}
