//! What wakes up those that follow the feed and those that wait for it. A signal says that there may be something to
//! read; nothing is taken from it, and nothing depends on its coming.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// The uptime by a clock that runs on while the machine is suspended (CLOCK_BOOTTIME).
pub type FeedClock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The signals of one process.
pub struct FeedSignals {
    entries: watch::Sender<()>,
    confirmed: watch::Sender<()>,
    listening: AtomicBool,
    /// The greatest position of the feed that is known here.
    head: AtomicU64,
}

/// Waits for a signal.
pub struct Signal(watch::Receiver<()>);

impl Signal {
    /// Waits for a signal that came after this was made, or after the last one.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // There will be none.
            std::future::pending::<()>().await;
        }
    }
}

impl Default for FeedSignals {
    fn default() -> FeedSignals {
        FeedSignals {
            entries: watch::Sender::new(()),
            confirmed: watch::Sender::new(()),
            listening: AtomicBool::new(false),
            head: AtomicU64::new(0),
        }
    }
}

impl FeedSignals {
    /// There may be entries.
    pub fn tell_entries(&self) {
        self.entries.send_replace(());
    }

    /// A replica may have confirmed.
    pub fn tell_confirmed(&self) {
        self.confirmed.send_replace(());
    }

    pub fn entries(&self) -> Signal {
        Signal(self.entries.subscribe())
    }

    pub fn confirmed(&self) -> Signal {
        Signal(self.confirmed.subscribe())
    }

    /// Whether notices of the database arrive; else it has to be polled.
    pub fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Acquire)
    }

    pub fn set_listening(&self, listening: bool) {
        self.listening.store(listening, Ordering::Release);
    }

    /// A position that was committed or followed. Returns the greatest one.
    pub fn reached(&self, position: u64) -> u64 {
        self.head.fetch_max(position, Ordering::AcqRel).max(position)
    }
}
