//! A disk of its own for the data of a cluster: memory (tmpfs), which root can mount on Linux.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::home::Home;

/// Mounted until it is dropped, or until the tests have ended.
pub(super) struct Disk(PathBuf);

impl Disk {
    /// An empty one at `folder`, which is made.
    pub(super) fn at(folder: &Path, megabytes: u32) -> Disk {
        mount(folder, megabytes).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
        Disk(folder.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // One that is still in use goes with its last user.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Whether a cluster can have a disk of its own here; why not.
///
/// # Errors
/// This user, or this container, may not mount one.
pub fn can_mount() -> Result<(), String> {
    let folder = Home::get().folder().join("data");
    mount(&folder, 1).map(|()| drop(Disk(folder)))
}

fn mount(folder: &Path, megabytes: u32) -> Result<(), String> {
    fs::create_dir(folder).map_err(|error| error.to_string())?;
    let size = format!("size={megabytes}m,mode=700");
    let mut command = Command::new("mount");
    command.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder);
    let output = command.output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Home::get().give(folder);
    Ok(())
}
