//! What the operating system lets this process have: file descriptors.
//!
//! Every connection is a descriptor, so their limit is the limit of everything.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The most that is asked for where a system says "no limit" and takes no number above its own.
const ENOUGH: u64 = 10_240;

/// The limit of open descriptors (RLIMIT_NOFILE).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    /// What was in force when the program was started; `None`: no limit.
    pub given: Option<u64>,
    /// What is in force now.
    pub limit: Option<u64>,
}

/// Raises the soft limit to the hard one, which needs no privilege. A system that refuses leaves the limit
/// as it was.
pub fn raise_descriptors() -> Descriptors {
    let before = getrlimit(Resource::Nofile);
    let raised = |current| setrlimit(Resource::Nofile, Rlimit { current, ..before }).is_ok();
    if before.current != before.maximum && !raised(before.maximum) {
        // macOS: "unlimited" is refused, its own highest number is not.
        let bounded = before.maximum.map_or(ENOUGH, |most| most.min(ENOUGH));
        if before.current.is_some_and(|current| current < bounded) {
            raised(Some(bounded));
        }
    }
    Descriptors { given: before.current, limit: descriptor_limit() }
}

/// The limit in force; `None`: there is none.
#[must_use]
pub fn descriptor_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// What the machine is called, for people; `gateway` where it does not say.
#[must_use]
pub fn host_name() -> String {
    let named =
        std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    let named = named.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    named.unwrap_or_else(|| "gateway".to_owned())
}

/// How many descriptors are open; `None` where the system has no folder that lists them.
#[must_use]
pub fn open_descriptors() -> Option<u64> {
    let folder =
        ["/proc/self/fd", "/dev/fd"].into_iter().map(std::path::Path::new).find(|path| path.is_dir())?;
    // Since Linux 6.2 the folder's size is their number; counting a hundred thousand takes a while.
    let known = folder.metadata().map_or(0, |data| data.len());
    if folder.starts_with("/proc") && known > 0 {
        return Some(known);
    }
    // Reading the folder opens one more.
    folder.read_dir().ok().map(|entries| (entries.count() as u64).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_and_opens_are_counted() {
        let descriptors = raise_descriptors();
        assert!(descriptors.limit.unwrap_or(u64::MAX) >= descriptors.given.unwrap_or(u64::MAX));
        let before = open_descriptors().unwrap();
        let held: Vec<_> = (0..64).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        // Other tests open and close files meanwhile.
        let now = open_descriptors().unwrap();
        assert!(now >= 64 && now + 32 > before + 64, "{before}, then {now}");
        drop(held);
    }
}
