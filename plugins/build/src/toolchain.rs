//! Which compiler makes WebAssembly here: the one at hand if it has the target's library, else Debian's
//! `rustc-web`, which comes with the library's source and makes it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;
use crate::plugin::Plugin;

const TARGET: &str = "wasm32-unknown-unknown";

/// The stack of a component, as `palisade plugin build` sets it: 128 KiB. The host keeps the beginning of a
/// component's memory at hand between calls, and with the usual 1 MiB there would be nothing but stack in it.
const STACK: &str = "-Clink-arg=-zstack-size=131072";

/// Where Debian's packages put things.
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust";

/// A compiler, and how it comes by the standard library.
pub struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    version: String,
    /// The linker and its version, where the standard library is built along.
    linker: Option<(PathBuf, String)>,
}

impl Toolchain {
    /// The first that will do.
    ///
    /// # Errors
    /// What to install.
    pub fn find() -> Outcome<Self> {
        let cargo = env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from);
        let rustc = sysroot(Path::new("rustc"))
            .map(|sysroot| sysroot.join("bin/rustc"))
            .filter(|rustc| rustc.is_file())
            .unwrap_or_else(|| "rustc".into());
        if sysroot(&rustc).is_some_and(|root| root.join("lib/rustlib").join(TARGET).is_dir()) {
            return Ok(Self { version: version(&rustc)?, cargo, rustc, linker: None });
        }
        let rustc = PathBuf::from(DEBIAN_RUSTC);
        if rustc.is_file() && Path::new(DEBIAN_SOURCE).join("library/Cargo.lock").is_file() {
            let path = linker().ok_or_else(|| format!("There is no rust-lld and no wasm-ld.\n{}", cure()))?;
            let flavor: &[&str] = if path.ends_with("rust-lld") { &["-flavor", "wasm"] } else { &[] };
            let linker = output(Command::new(&path).args(flavor).arg("--version"))
                .ok_or_else(|| format!("{} does not say its version", path.display()))?;
            return Ok(Self {
                version: version(&rustc)?,
                cargo: DEBIAN_CARGO.into(),
                rustc,
                linker: Some((path, linker)),
            });
        }
        Err(format!("No Rust compiler here has a library for {TARGET}.\n{}", cure()).into())
    }

    /// For people, and to tell whether two builds can have the same bytes.
    pub fn name(&self) -> String {
        match &self.linker {
            Some((_, linker)) => format!("{}, {TARGET}, its library built along, {linker}", self.version),
            None => format!("{}, {TARGET}, its library as it came", self.version),
        }
    }

    /// What was given to the compiler beside the profile in Cargo.toml, without this machine's paths.
    pub fn flags(&self) -> Vec<String> {
        let mut flags = vec!["--release".to_owned(), "--locked".to_owned()];
        if self.linker.is_some() {
            flags.push("-Zbuild-std=std,panic_abort".to_owned());
        }
        flags.push("--remap-path-prefix".to_owned());
        flags
    }

    /// Where core modules are after a build.
    pub fn output(&self, root: &Path) -> PathBuf {
        root.join("target/components").join(TARGET).join("release")
    }

    /// Builds the core modules of `plugins`.
    ///
    /// # Errors
    /// That the compiler failed; it said why.
    pub fn build(&self, root: &Path, plugins: &[Plugin]) -> Outcome<()> {
        let mut command = Command::new(&self.cargo);
        command.current_dir(root).args(["build", "--release", "--locked", "--target", TARGET, "--lib"]);
        command.arg("--target-dir").arg(root.join("target/components"));
        for plugin in plugins {
            command.args(["--package", &plugin.package]);
        }
        // What rustup tells its proxies would lead Debian's cargo astray, and a person's own flags would
        // change the bytes.
        for name in ["RUSTUP_TOOLCHAIN", "RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_BUILD_RUSTFLAGS"] {
            command.env_remove(name);
        }
        command.env("RUSTC", &self.rustc).env("CARGO_ENCODED_RUSTFLAGS", self.rust_flags(root));
        if let Some((linker, _)) = &self.linker {
            // Building the library is unstable, and is all that is used of what is.
            command.arg("-Zbuild-std=std,panic_abort").env("RUSTC_BOOTSTRAP", "1");
            command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
        let status = command.status().map_err(|error| format!("{}: {error}", self.cargo.display()))?;
        if status.success() { Ok(()) } else { Err("The plugins did not build.".into()) }
    }

    /// Flags that leave no path of this machine in what is built, and bound its stack.
    fn rust_flags(&self, root: &Path) -> String {
        let home = env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
        let mut prefixes: Vec<(PathBuf, &str)> = vec![(root.to_owned(), "plugins")];
        prefixes.extend(home.map(|home| (home.join("registry/src"), "crates")));
        prefixes.push((DEBIAN_SOURCE.into(), "rust"));
        prefixes.extend(sysroot(&self.rustc).map(|sysroot| (sysroot.join("lib/rustlib/src/rust"), "rust")));
        let flag = |(from, to): &(PathBuf, &str)| format!("--remap-path-prefix={}={to}", from.display());
        prefixes.iter().map(flag).chain([STACK.to_owned()]).collect::<Vec<_>>().join("\u{1f}")
    }
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn sysroot(rustc: &Path) -> Option<PathBuf> {
    output(Command::new(rustc).args(["--print", "sysroot"])).map(PathBuf::from)
}

fn version(rustc: &Path) -> Outcome<String> {
    output(Command::new(rustc).arg("--version"))
        .ok_or_else(|| format!("{} does not say its version", rustc.display()).into())
}

/// `rust-lld`, of the toolchain at hand or of any; else `wasm-ld`. All are LLVM's linker.
fn linker() -> Option<PathBuf> {
    let of_sysroot = sysroot(Path::new("rustc")).map(|sysroot| {
        sysroot.join("lib/rustlib").join(format!("{}-unknown-linux-gnu/bin/rust-lld", env::consts::ARCH))
    });
    let on_path = |name: &str| {
        env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
    };
    of_sysroot.filter(|path| path.is_file()).or_else(|| on_path("rust-lld")).or_else(|| on_path("wasm-ld"))
}

fn cure() -> String {
    format!(
        "Install one of these:\n  with rustup     rustup target add {TARGET}\n  \
         Debian          sudo apt-get install rustc-web cargo-web rust-web-src lld\n\
         or run `make deps-plugins`."
    )
}
