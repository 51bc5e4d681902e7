//! sled's snapshots, `snap.N`: which of them can be read, and what to do with the others.
//!
//! sled reads the last file whose name begins with `snap.`, whatever follows, and calls the whole store corrupt when
//! that one is not whole: so does a `snap.N.generating` that a full disk left empty. The database does not need its
//! snapshots; they spare it to read the log from the beginning. So what is no valid snapshot is set aside, under a
//! name that says so, and never removed: an operator may want it to find out what happened.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What the name of every snapshot begins with.
const PREFIX: &str = "snap.";
/// What follows: a log sequence number.
const DIGITS: usize = 16;
/// What the name of a file that was set aside begins with; its own name follows.
pub(super) const SET_ASIDE: &str = "palisade.set-aside.";
/// The length and the checksum at the end of a snapshot.
const TRAILER: usize = 8 + 4;

/// The snapshots of a folder.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// The names of those that are whole.
    pub(super) valid: Vec<OsString>,
    /// The names of files that sled would take for snapshots and that are none.
    pub(super) invalid: Vec<OsString>,
}

impl Snapshots {
    /// Those in `dir`, by their names and checksums.
    pub(super) fn of(dir: &Path) -> io::Result<Snapshots> {
        let mut found = Snapshots::default();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            if name.as_bytes().starts_with(PREFIX.as_bytes()) {
                let valid = is_named(&name) && is_whole(&dir.join(&name))?;
                if valid { &mut found.valid } else { &mut found.invalid }.push(name);
            }
        }
        found.valid.sort();
        found.invalid.sort();
        Ok(found)
    }

    /// Renames those that are none, so that sled does not see them, and makes that durable. Returns their new
    /// names.
    pub(super) fn set_aside(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut moved = Vec::with_capacity(self.invalid.len());
        for name in &self.invalid {
            let target = free(dir, name)?;
            fs::rename(dir.join(name), &target)?;
            moved.push(target);
        }
        if !moved.is_empty() {
            File::open(dir)?.sync_all()?;
        }
        Ok(moved)
    }

    /// Removes those that are none and were not there at `before`: what an attempt left that has just failed.
    pub(super) fn remove_new(dir: &Path, before: &Snapshots) -> io::Result<()> {
        for name in Snapshots::of(dir)?.invalid {
            if !before.invalid.contains(&name) {
                fs::remove_file(dir.join(name))?;
            }
        }
        Ok(())
    }
}

/// A name for what was `name` that nothing in `dir` has.
fn free(dir: &Path, name: &OsStr) -> io::Result<PathBuf> {
    for number in 1u32.. {
        let mut target = OsString::from(SET_ASIDE);
        target.push(name);
        if number > 1 {
            target.push(format!(".{number}"));
        }
        let target = dir.join(target);
        if !fs::exists(&target)? {
            return Ok(target);
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

fn is_named(name: &OsStr) -> bool {
    let digits = name.as_bytes().strip_prefix(PREFIX.as_bytes());
    let upper = |byte: &u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(byte);
    digits.is_some_and(|digits| digits.len() == DIGITS && digits.iter().all(upper))
}

/// Whether sled's own checks would pass: its checksum (CRC-32, little-endian, at the end) is that of what is
/// before the trailer.
fn is_whole(path: &Path) -> io::Result<bool> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Ok(false);
    }
    let bytes = fs::read(path)?;
    let Some(at) = bytes.len().checked_sub(TRAILER).filter(|at| *at > 0) else { return Ok(false) };
    let (body, trailer) = bytes.split_at(at);
    Ok(trailer[8..] == crc32fast::hash(body).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u64).to_le_bytes();
        [body, &length, &crc32fast::hash(body).to_le_bytes()].concat()
    }

    #[test]
    fn what_sled_would_stumble_over_is_set_aside_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let good = "snap.00000000000A0F10";
        let bad = [
            ("snap.00000000000A0F11.generating", &b""[..]),
            ("snap.00000000000A0F12.generating", &whole(b"complete, and never renamed")),
            ("snap.00000000000A0F13", b""),
            ("snap.00000000000A0F14", &whole(b"snapshot")[..15]),
            ("snap.x", &whole(b"snapshot")),
            ("snap.00000000000a0f15", &whole(b"snapshot")),
        ];
        fs::write(dir.path().join(good), whole(b"snapshot")).unwrap();
        for (name, bytes) in bad {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        fs::create_dir(dir.path().join("snap.00000000000A0F16")).unwrap();
        fs::write(dir.path().join("snapshot"), b"another file").unwrap();
        fs::write(dir.path().join("palisade.set-aside.snap.x"), b"an earlier one").unwrap();
        let found = Snapshots::of(dir.path()).unwrap();
        assert_eq!(found.valid, [good]);
        assert_eq!(found.invalid.len(), bad.len() + 1);
        found.set_aside(dir.path()).unwrap();
        let left = Snapshots::of(dir.path()).unwrap();
        assert_eq!((left.valid.len(), left.invalid.len()), (1, 0));
        assert_eq!(fs::read(dir.path().join("palisade.set-aside.snap.x")).unwrap(), b"an earlier one");
        for (name, bytes) in bad {
            let name = if name == "snap.x" { "snap.x.2" } else { name };
            assert_eq!(fs::read(dir.path().join(format!("{SET_ASIDE}{name}"))).unwrap(), bytes);
        }
    }

    /// The trailer is where we think it is.
    #[test]
    fn a_snapshot_of_sled_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let db = ::sled::open(dir.path()).unwrap();
            db.insert(b"key", b"value").unwrap();
            db.flush().unwrap();
        }
        let found = Snapshots::of(dir.path()).unwrap();
        assert_eq!((found.valid.len(), found.invalid.len()), (1, 0), "{found:?}");
    }
}
