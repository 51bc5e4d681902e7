//! What a replica has followed of the feed, kept in its data folder across restarts: a database that has lost
//! commits meanwhile is found out by it.
//!
//! Best effort. It may lag, which is harmless; it is never ahead of what was followed. Where there is none, or it
//! cannot be read, nothing is compared.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::feed_calls::FeedPlace;
use crate::durable;

pub(super) const WITNESS: &str = "feed.witness";
/// How often it is written at most.
pub(super) const WRITE_EVERY: Duration = Duration::from_secs(5);

/// What was followed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FeedWitness {
    pub(super) installation: Uuid,
    #[serde(flatten)]
    pub(super) place: FeedPlace,
}

/// The file of a data folder.
#[derive(Debug, Clone)]
pub(super) struct WitnessFile(PathBuf);

impl WitnessFile {
    pub(super) fn in_folder(folder: &Path) -> WitnessFile {
        WitnessFile(folder.join(WITNESS))
    }

    /// What it says; `None`: there is none that can be read.
    pub(super) async fn read(&self) -> Option<FeedWitness> {
        let path = self.0.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await.ok()?;
        serde_json::from_slice(&read.ok()?).ok()
    }

    /// Replaces it.
    pub(super) async fn write(&self, witness: FeedWitness) {
        let path = self.0.clone();
        let bytes = serde_json::to_vec(&witness).unwrap_or_default();
        let written = tokio::task::spawn_blocking(move || durable::replace(&path, &bytes)).await;
        if let Ok(Err(error)) = written {
            tracing::debug!(%error, "what was followed of the feed is forgotten at the next restart");
        }
    }
}
