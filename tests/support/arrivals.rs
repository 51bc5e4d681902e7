//! Waiting for files that a program writes into a folder.
#![allow(dead_code, reason = "each suite uses its part")]

use std::path::Path;

#[cfg(target_os = "linux")]
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
#[cfg(target_os = "linux")]
use tokio::io::unix::AsyncFd;

/// A folder in which something may appear.
pub struct Arrivals {
    #[cfg(target_os = "linux")]
    notices: AsyncFd<rustix::fd::OwnedFd>,
}

impl Arrivals {
    /// Whatever is moved into `folder` from now on; it is made when it is not there yet.
    pub fn at(folder: &Path) -> Arrivals {
        std::fs::create_dir_all(folder).unwrap();
        Arrivals {
            #[cfg(target_os = "linux")]
            notices: {
                let notices = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
                inotify::add_watch(&notices, folder, WatchFlags::MOVED_TO).unwrap();
                // SAFETY: an `OwnedFd` stays open and is the same descriptor until it is dropped, and the `AsyncFd` that
                // owns it neither gives it out nor outlives it.
                unsafe { AsyncFd::register(notices) }.unwrap()
            },
        }
    }

    /// Waits until something has come since the last call, or since the beginning.
    #[cfg(target_os = "linux")]
    pub async fn next(&self) {
        let mut ready = self.notices.readable().await.unwrap();
        let mut notices = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.notices, &mut notices);
        // One is enough to look at the folder again.
        while reader.next().is_ok() {}
        ready.clear_ready();
    }

    /// Other systems do not tell what comes into a folder.
    #[cfg(not(target_os = "linux"))]
    pub async fn next(&self) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
