//! Hot reload without a command: the files of the configuration are looked at, and read again when they have changed.
//!
//! Their content is hashed at each look. File system events (inotify) would miss what Kubernetes does, which swaps a
//! symbolic link two folders up, and what network file systems do; a content that is back counts as unchanged.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::MissedTickBehavior;

use super::operator::Operator;
use crate::config::Sources;
use palisade_core::domain::audit::Outcome;
use palisade_core::ports::Control;
use palisade_core::service::accounts::Accounts;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Reads the configuration again when its files have changed.
pub(super) struct Watcher {
    operator: Arc<Operator>,
    accounts: Accounts,
    settling: Mutex<Settling>,
}

impl Watcher {
    pub(super) fn new(operator: Arc<Operator>, accounts: Accounts) -> Watcher {
        Watcher { operator, accounts, settling: Mutex::default() }
    }

    /// Looks once, and reads the configuration again if it is time.
    pub(super) async fn look(&self) {
        let mut settling = self.settling.lock().await;
        let read = self.operator.sources.load_full();
        let whole = self.operator.watching.load(Ordering::Acquire);
        if !whole && !read.has_references() {
            return;
        }
        let looked = Arc::clone(&read);
        let Ok(now) = tokio::task::spawn_blocking(move || looked.look()).await else { return };
        if !settling.is_due(&read, now, whole) {
            return;
        }
        tracing::info!("files of the configuration have changed");
        // Errors are logged once for each content: what was read is what the next look compares with.
        let _ = self.reload("files_changed").await;
    }

    /// Reads the configuration again, and says in the audit log and in the log what came of it. `by`: what asked for it.
    ///
    /// # Errors
    /// As [`Control::reload`].
    pub(super) async fn reload(&self, by: &'static str) -> Result<Vec<String>, Vec<String>> {
        let outcome = self.operator.reload().await;
        self.accounts.note_reload(Outcome::of(&outcome), by);
        match &outcome {
            Ok(notices) => notices.iter().for_each(|notice| tracing::warn!("{notice}")),
            Err(errors) => {
                errors.iter().for_each(|error| tracing::error!("{error}"));
                tracing::error!("the configuration in force stays");
            }
        }
        outcome
    }
}

/// Looks at the files until the gateway stops.
pub(super) async fn follow(watcher: Arc<Watcher>) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        watcher.look().await;
    }
}

/// Files that have changed, as the last look saw them: one that is still being written is not read.
#[derive(Default)]
struct Settling(Option<Sources>);

impl Settling {
    /// Whether the configuration is to be read again. `read`: what was read last; `now`: the same files as they are. Without
    /// `whole` a change of the configuration file itself is left to a command, and so is what changes beside it.
    fn is_due(&mut self, read: &Sources, now: Sources, whole: bool) -> bool {
        if now == *read || !(whole || now.has_text_of(read)) {
            self.0 = None;
            return false;
        }
        let settled = self.0.as_ref() == Some(&now);
        self.0 = (!settled).then_some(now);
        settled
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::config;

    /// Looks at the files of `folder`, and reads them when it is due. Returns whether it did.
    struct Looks(Settling, Sources, std::path::PathBuf);

    impl Looks {
        fn at(folder: &Path) -> Looks {
            let file = folder.join("config.toml");
            Looks(Settling::default(), config::read(&file).1, file)
        }

        fn look(&mut self, whole: bool) -> bool {
            let due = self.0.is_due(&self.1, self.1.look(), whole);
            if due {
                // As a reload does, also one that fails.
                self.1 = config::read(&self.2).1;
            }
            due
        }

        /// Four looks.
        fn looks(&mut self, whole: bool) -> [bool; 4] {
            [(); 4].map(|()| self.look(whole))
        }
    }

    const STILL: [bool; 4] = [false; 4];
    /// The first look finds a change, the second finds the same content and reads it, and the others find no change.
    const ONCE: [bool; 4] = [false, true, false, false];

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("host"), "a.test\n").unwrap();
        fs::write(folder.path().join("config.toml"), "public_url = \"https://${file:host}\"\n").unwrap();
        folder
    }

    #[test]
    fn each_content_is_read_once_and_only_when_it_holds_still() {
        let folder = folder();
        let mut looks = Looks::at(folder.path());
        let write = |text: &str| fs::write(folder.path().join("config.toml"), text).unwrap();
        assert_eq!(looks.looks(true), STILL);
        for text in ["# good\n", "broken = [", "public_url = 5\n", "public_url = \"${file:host}\"\n"] {
            write(text);
            assert_eq!(looks.looks(true), ONCE, "{text}");
        }
        for text in ["# o", "# on", "# one\n"] {
            write(text);
            assert!(!looks.look(true), "{text}: still being written");
        }
        assert!(looks.look(true));
        // One look finds a change, and the next one the content that was read.
        write("# two\n");
        assert!(!looks.look(true));
        write("# one\n");
        assert_eq!(looks.looks(true), STILL);
        // The earlier look that found this content does not count as the first of two.
        write("# two\n");
        assert_eq!(looks.looks(true), ONCE);
        fs::remove_file(folder.path().join("config.toml")).unwrap();
        assert_eq!(looks.looks(true), ONCE);
        write("# one\n");
        assert_eq!(looks.looks(true), ONCE);
    }

    #[test]
    fn a_file_that_a_reference_names_is_followed_through_links_and_before_it_is_there() {
        let folder = folder();
        let at = |name: &str| folder.path().join(name);
        let mut looks = Looks::at(folder.path());
        fs::write(at("host"), "b.test\n").unwrap();
        assert_eq!(looks.looks(false), ONCE);
        // As Kubernetes does: a folder is swapped by its link.
        for version in ["1", "2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("host"), version).unwrap();
        }
        std::os::unix::fs::symlink("1", at("data")).unwrap();
        fs::remove_file(at("host")).unwrap();
        std::os::unix::fs::symlink("data/host", at("host")).unwrap();
        assert_eq!(looks.looks(false), ONCE);
        std::os::unix::fs::symlink("2", at("next")).unwrap();
        fs::rename(at("next"), at("data")).unwrap();
        assert_eq!(looks.looks(false), ONCE);
        // One that is too large to be read is too large for the looks as well.
        fs::write(at("2/host"), "x".repeat(70_000)).unwrap();
        assert_eq!(looks.looks(false), ONCE);
        // A reference to a file that is not there yet.
        fs::write(at("config.toml"), "public_url = \"https://${file:later}\"\n").unwrap();
        assert_eq!(looks.looks(true), ONCE);
        fs::write(at("later"), "c.test").unwrap();
        assert_eq!(looks.looks(true), ONCE);
    }

    #[test]
    fn without_watch_the_configuration_file_is_left_to_a_command() {
        let folder = folder();
        let mut looks = Looks::at(folder.path());
        let text = fs::read_to_string(folder.path().join("config.toml")).unwrap();
        fs::write(folder.path().join("config.toml"), format!("{text}# edited\n")).unwrap();
        assert_eq!(looks.looks(false), STILL);
        // A reload for this change would put the edited configuration in force as well.
        fs::write(folder.path().join("host"), "b.test").unwrap();
        assert_eq!(looks.looks(false), STILL);
        fs::write(folder.path().join("config.toml"), text).unwrap();
        assert_eq!(looks.looks(false), ONCE);
    }
}
