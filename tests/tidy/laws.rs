//! The laws, over what the sources name. Each returns what breaks it.

use std::collections::{BTreeMap, BTreeSet};

use super::paths::{self, Found, Kind, Named, OURS};
use super::rooms::{ROOMS, Room};
use super::sources::Sources;

/// The file that may have `unsafe` code, with its proof.
pub const UNSAFE: &str = "edge/wasm/cache.rs";

pub const MAX_LINES: usize = 500;

/// The rooms whose modules form a tree: a helper that several of them use is a module below them.
const TREES: &[&str] = &["palisade::app", "palisade::config"];

/// What the use cases and all below them may not touch of the standard library, where no manifest keeps I/O out, and of
/// tokio.
const IO: &[&[&str]] = &[
    &["std", "env"],
    &["std", "fs"],
    &["std", "io", "stderr"],
    &["std", "io", "stdin"],
    &["std", "io", "stdout"],
    &["std", "net", "TcpListener"],
    &["std", "net", "TcpStream"],
    &["std", "net", "ToSocketAddrs"],
    &["std", "net", "UdpSocket"],
    &["std", "os"],
    &["std", "process"],
    &["std", "thread"],
    &["std", "time", "SystemTime"],
    // A feature of another crate may bring them in.
    &["tokio", "fs"],
    &["tokio", "io"],
    &["tokio", "net"],
    &["tokio", "process"],
    &["tokio", "signal"],
];

/// What the domain may not touch beyond [`IO`]: there is no clock and nothing to wait for.
const CLOCKS: &[&[&str]] = &[&["std", "sync", "mpsc"], &["std", "time", "Instant"], &["tokio"]];

/// What a manifest lists.
#[derive(Default)]
pub struct Manifest {
    pub dependencies: BTreeSet<String>,
    pub dev_dependencies: BTreeSet<String>,
}

/// The manifests of our crates, by crate.
pub type Manifests = BTreeMap<&'static str, Manifest>;

/// All that the sources name.
pub struct House {
    pub found: Found,
    /// The lines of each file that is not of tests, those of its tests left out.
    pub lines: Vec<(String, usize)>,
    pub manifests: Manifests,
}

impl House {
    pub fn new(sources: &Sources, manifests: Manifests) -> House {
        let mut crates: BTreeSet<String> = OURS.iter().map(|name| (*name).to_owned()).collect();
        for manifest in manifests.values() {
            crates.extend(manifest.dependencies.iter().cloned());
            crates.extend(manifest.dev_dependencies.iter().cloned());
        }
        let found = paths::find(sources, &crates);
        let files = sources.files.iter().filter(|source| !source.is_test);
        let lines = files.map(|source| (source.name.clone(), source.lines)).collect();
        House { found, lines, manifests }
    }

    /// Paths that name something of ours.
    fn ours(&self) -> impl Iterator<Item = &Named> {
        self.found.named.iter().filter(|named| OURS.contains(&&*named.path[0]))
    }

    /// Paths that name a crate of others, outside of tests.
    fn crates(&self) -> impl Iterator<Item = &Named> {
        let is_crate = |named: &&Named| {
            let name = &*named.path[0];
            !named.is_test && !OURS.contains(&name) && !matches!(name, "std" | "core" | "alloc")
        };
        self.found.named.iter().filter(is_crate)
    }

    /// A floor names only what is below it, and a room of `edge` no other room.
    pub fn directions(&self) -> Vec<String> {
        let breaks = |named: &&Named| {
            let is_ours = rooms_of(&named.from).any(|room| {
                starts_with(&named.path, room.at)
                    || room.ours.iter().any(|ours| starts_with(&named.path, ours))
            });
            // Fakes and worlds are for all tests; that nothing else uses them is the manifests' law. A room may be
            // tested with its real neighbours.
            let is_of_tests = named.is_test
                && (named.path[0] == "palisade_testing"
                    || starts_with(&named.from, "palisade::edge")
                        && starts_with(&named.path, "palisade::edge"));
            !is_ours && !is_of_tests
        };
        self.ours().filter(breaks).map(broken).collect()
    }

    /// A crate of others is named only in the rooms that list it.
    pub fn outsiders(&self) -> Vec<String> {
        let breaks =
            |named: &&Named| !rooms_of(&named.from).any(|room| room.crates.contains(&&*named.path[0]));
        self.crates().filter(breaks).map(broken).collect()
    }

    /// The list is no longer than what is true: each room names each crate that it lists.
    pub fn unused(&self) -> Vec<String> {
        let mut unused = Vec::new();
        for room in ROOMS {
            for name in room.crates {
                let is_named =
                    self.crates().any(|named| named.path[0] == *name && starts_with(&named.from, room.at));
                if !is_named {
                    unused.push(format!("{} lists {name} and does not name it", room.at));
                }
            }
        }
        unused
    }

    /// A manifest lists what its rooms list, beside what is `unnamed`; and fakes are for tests only.
    pub fn manifests(&self, unnamed: &[&str]) -> Vec<String> {
        let mut wrong = Vec::new();
        for (ours, manifest) in &self.manifests {
            let rooms = || ROOMS.iter().filter(|room| room.at.split("::").next() == Some(ours));
            for name in &manifest.dependencies {
                if name == "palisade_testing" {
                    wrong.push(format!("{ours} depends on {name} outside of its tests"));
                }
                let is_listed = OURS.contains(&&**name)
                    || unnamed.contains(&&**name)
                    || rooms().any(|room| room.crates.contains(&&**name));
                if !is_listed {
                    wrong.push(format!("the manifest of {ours} has {name}, which no room of it lists"));
                }
            }
            for name in rooms().flat_map(|room| room.crates) {
                if !manifest.dependencies.contains(*name) {
                    wrong.push(format!("a room of {ours} lists {name}, which its manifest does not have"));
                }
            }
        }
        wrong
    }

    /// The domain is pure, and neither the ports nor the use cases do I/O.
    pub fn purity(&self) -> Vec<String> {
        let mut broken_by: Vec<String> = self
            .found
            .named
            .iter()
            .filter(|named| !named.is_test && named.from[0] == "palisade_core")
            .filter(|named| {
                let is_domain = starts_with(&named.from, "palisade_core::domain");
                let is = |forbidden: &[&[&str]]| {
                    forbidden
                        .iter()
                        .any(|path| named.path.len() >= path.len() && named.path[..path.len()] == **path)
                };
                is(IO) || is_domain && is(CLOCKS)
            })
            .map(broken)
            .collect();
        for (file, line, kind, is_test) in &self.found.kinds {
            if *kind == Kind::Async && !is_test && file.starts_with("core/domain/") {
                broken_by.push(format!("{file}:{line} is async"));
            }
        }
        broken_by
    }

    /// The modules of a room in [`TREES`] do not use each other in a circle, tests left out.
    pub fn circles(&self) -> Vec<String> {
        TREES.iter().flat_map(|room| self.circles_of(room)).collect()
    }

    fn circles_of(&self, room: &str) -> Vec<String> {
        // The room's own module, and the modules directly in it. What is named in the room itself (a `pub use`) is
        // its own module's.
        let depth = room.split("::").count();
        let folder = format!("{}/", room.split("::").skip(1).collect::<Vec<_>>().join("/"));
        let children: BTreeSet<&str> = self
            .lines
            .iter()
            .filter_map(|(file, _)| file.strip_prefix(&folder)?.split('/').next()?.split('.').next())
            .collect();
        let module_of = |path: &[String]| {
            path.get(depth).map_or("mod", |name| children.get(&**name).copied().unwrap_or("mod")).to_owned()
        };
        let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for named in self.found.named.iter().filter(|named| !named.is_test) {
            if starts_with(&named.from, room) && starts_with(&named.path, room) {
                let (user, used) = (module_of(&named.from), module_of(&named.path));
                if user != used {
                    uses.entry(user).or_default().insert(used);
                }
            }
        }
        // What uses nothing that is left, or is used by nothing that is left, is in no circle.
        loop {
            let users: BTreeSet<String> = uses.keys().cloned().collect();
            uses.retain(|_, used| used.iter().any(|name| users.contains(name)));
            let used: BTreeSet<String> = uses.values().flatten().cloned().collect();
            uses.retain(|user, _| used.contains(user));
            if uses.len() == users.len() {
                break;
            }
        }
        let shown = |(user, used): (&String, &BTreeSet<String>)| {
            let used: Vec<&str> =
                used.iter().filter(|name| uses.contains_key(*name)).map(String::as_str).collect();
            format!("{room}: {user} uses {} in a circle", used.join(", "))
        };
        uses.iter().map(shown).collect()
    }

    /// `unsafe` is in one file.
    pub fn unsafety(&self) -> Vec<String> {
        let of_unsafe =
            self.found.kinds.iter().filter(|(file, _, kind, _)| *kind == Kind::Unsafe && file != UNSAFE);
        of_unsafe.map(|(file, line, ..)| format!("{file}:{line} is unsafe")).collect()
    }

    /// No macro prints: those of the standard library panic once the reader has left, and with them what was under way.
    /// `cli/output.rs` prints.
    pub fn prints(&self) -> Vec<String> {
        let is_ours = |file: &str| !file.starts_with("testing/");
        let of_prints = self
            .found
            .kinds
            .iter()
            .filter(|(file, _, kind, is_test)| *kind == Kind::Prints && !is_test && is_ours(file));
        of_prints.map(|(file, line, ..)| format!("{file}:{line} prints by a macro")).collect()
    }

    /// No file is too long to be read in one sitting, its tests left out.
    pub fn lengths(&self) -> Vec<String> {
        // The suite that every store must pass is one list of cases.
        let is_long = |(name, lines): &&(String, usize)| !name.starts_with("testing/") && *lines > MAX_LINES;
        self.lines.iter().filter(is_long).map(|(name, lines)| format!("{name}: {lines} lines")).collect()
    }
}

/// The rooms that `module` is in: a room may be within another, which then holds too.
fn rooms_of(module: &[String]) -> impl Iterator<Item = &'static Room> {
    ROOMS.iter().filter(move |room| starts_with(module, room.at))
}

fn starts_with(path: &[String], prefix: &str) -> bool {
    let mut path = path.iter();
    prefix.split("::").all(|segment| path.next().is_some_and(|named| named == segment))
}

fn broken(named: &Named) -> String {
    format!("{}:{} names {}", named.file, named.line, named.path.join("::"))
}
