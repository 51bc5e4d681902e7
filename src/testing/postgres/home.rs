//! The folder of this process, who runs the servers in it, and where their programs are.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Runs until its standard input ends, which is when the process of the tests is gone. Then it kills the servers and
/// removes the folder.
const GUARDIAN: &str = r#"
cat > /dev/null
for file in "$1"/*/data/postmaster.pid "$1"/*/pooler.pid; do
    [ -f "$file" ] || continue
    read -r id < "$file" || continue
    kill -KILL "$id" $(cat "/proc/$id/task/$id/children" 2> /dev/null)
done 2> /dev/null
for folder in "$1"/*/data; do
    umount -l "$folder"
done 2> /dev/null
for attempt in 1 2 3 4 5; do
    rm -rf "$1" && break
    sleep 1
done
"#;

static HOME: OnceLock<Home> = OnceLock::new();

/// The folder of this process.
pub struct Home {
    pub path: PathBuf,
    /// The user and the group that servers run as: both of them refuse to run as root.
    run_as: Option<(u32, u32)>,
    numbers: AtomicU32,
    /// Its end is the sign for the guardian.
    _alive: ChildStdin,
}

impl Home {
    pub fn get() -> &'static Home {
        HOME.get_or_init(Home::make)
    }

    fn make() -> Home {
        let path = tempfile::Builder::new().prefix("palisade-postgres-").tempdir().unwrap().keep();
        let is_root = fs::metadata(&path).unwrap().uid() == 0;
        let run_as = is_root.then(unprivileged);
        if let Some((user, group)) = run_as {
            chown(&path, Some(user), Some(group)).unwrap();
        }
        #[allow(
            clippy::zombie_processes,
            reason = "it ends after this process, and removes what that has left"
        )]
        let mut guardian = Command::new("sh")
            .args(["-c", GUARDIAN, "sh"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // An interrupt from the terminal ends the tests, and this only after them.
            .process_group(0)
            .spawn()
            .unwrap();
        let alive = guardian.stdin.take().unwrap();
        Home { path, run_as, numbers: AtomicU32::new(0), _alive: alive }
    }

    /// A new folder that belongs to the servers' user.
    pub fn folder(&self) -> PathBuf {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(number.to_string());
        fs::create_dir(&path).unwrap();
        self.give(&path);
        path
    }

    /// Makes a file or folder the servers' own.
    pub fn give(&self, path: &Path) {
        if let Some((user, group)) = self.run_as {
            chown(path, Some(user), Some(group)).unwrap();
        }
    }

    /// A command that runs as the servers' user and knows nothing of our environment.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LC_ALL", "C");
        command.current_dir(&self.path).stdin(Stdio::null());
        if let Some((user, group)) = self.run_as {
            command.uid(user).gid(group);
        }
        command
    }
}

/// The user for servers: of the package if there is one, as its name has to be known to the system.
fn unprivileged() -> (u32, u32) {
    let id = |flag: &str, name: &str| -> Option<u32> {
        let output = Command::new("id").args([flag, name]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    };
    ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| Some((id("-u", name)?, id("-g", name)?)))
        .expect("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")
}

/// Where a program is: in PATH, or in the folder of the latest PostgreSQL as Debian lays it out.
pub fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    found(name, std::env::split_paths(&path), Path::new("/usr/lib/postgresql"))
        .unwrap_or_else(|| panic!("{name} is not installed: `make deps-wider` installs it or says how"))
}

fn found(name: &str, path: impl Iterator<Item = PathBuf>, versions: &Path) -> Option<PathBuf> {
    let mut packaged: Vec<(u32, PathBuf)> = match fs::read_dir(versions) {
        Ok(entries) => entries
            .filter_map(|entry| {
                let folder = entry.ok()?.path();
                let version = folder.file_name()?.to_str()?.parse().ok()?;
                Some((version, folder.join("bin")))
            })
            .collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("{}: {error}", versions.display()),
    };
    packaged.sort_unstable_by(|one, other| other.cmp(one));
    let packaged = packaged.into_iter().map(|(_, folder)| folder);
    // Where Debian puts servers, which a user's PATH may lack.
    let servers = std::iter::once(PathBuf::from("/usr/sbin"));
    path.chain(packaged).chain(servers).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Sends a signal to processes; those that are gone are passed over.
pub fn signal(name: &str, ids: &[u32]) {
    let ids = ids.iter().map(u32::to_string);
    let output = Command::new("kill").arg(format!("-{name}")).args(ids).output().unwrap();
    drop(output);
}

/// The processes that `id` has started; none where the system does not tell.
pub fn children(id: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    text.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_any_in_path_the_latest_package_is_found() {
        let folder = tempfile::tempdir().unwrap();
        for version in ["9", "15", "14", "lost+found"] {
            let bin = folder.path().join(version).join("bin");
            fs::create_dir_all(&bin).unwrap();
            fs::write(bin.join("initdb"), "").unwrap();
        }
        let by_path = folder.path().join("14/bin");
        assert_eq!(
            found("initdb", std::iter::empty(), folder.path()),
            Some(folder.path().join("15/bin/initdb"))
        );
        assert_eq!(
            found("initdb", std::iter::once(by_path.clone()), folder.path()),
            Some(by_path.join("initdb"))
        );
        assert_eq!(found("no-such-program", std::iter::empty(), folder.path()), None);
        assert_eq!(found("no-such-program", std::iter::empty(), &folder.path().join("none")), None);
    }
}
