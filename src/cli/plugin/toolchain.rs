//! Which compiler makes WebAssembly of Rust here: the one at hand if it has the target's library, else
//! Debian's `rustc-web`, which comes with the library's source and builds it along.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The stack of a component: 128 KiB. The host keeps the beginning of a component's memory at hand between calls,
/// and with the usual 1 MiB there would be nothing but stack in it.
const STACK: &str = "-Clink-arg=-zstack-size=131072";

/// A target without an operating system and without WASI: the component imports only what it calls.
const TARGET: &str = "wasm32-unknown-unknown";
/// Where Debian's packages put things.
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust";
/// What to do where there is none.
const CURE: &str = "install one of these:\n  with rustup     rustup target add wasm32-unknown-unknown\n  \
                    Debian, Ubuntu  sudo apt-get install rustc-web cargo-web rust-web-src lld";

/// A compiler, and how it comes by the standard library.
pub(super) struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    /// The linker, where the standard library is built along.
    linker: Option<PathBuf>,
}

impl Toolchain {
    /// The first that will do.
    ///
    /// # Errors
    /// What to install.
    pub(super) fn find() -> Result<Toolchain, String> {
        let own = sysroot(Path::new("rustc"));
        if let Some(root) = &own
            && root.join("lib/rustlib").join(TARGET).is_dir()
        {
            // Not rustup's proxy: a file `rust-toolchain.toml` of a folder above must not lead elsewhere.
            let of_root = |name: &str| Some(root.join("bin").join(name)).filter(|path| path.is_file());
            let cargo = of_root("cargo").unwrap_or_else(|| "cargo".into());
            return Ok(Toolchain {
                cargo,
                rustc: of_root("rustc").unwrap_or_else(|| "rustc".into()),
                linker: None,
            });
        }
        if Path::new(DEBIAN_CARGO).is_file()
            && Path::new(DEBIAN_RUSTC).is_file()
            && Path::new(DEBIAN_SOURCE).join("library/Cargo.lock").is_file()
        {
            let linker = linker(own.as_deref()).ok_or_else(|| {
                format!("there is Debian's rustc-web here, but no linker for WebAssembly (rust-lld or wasm-ld); {CURE}")
            })?;
            return Ok(Toolchain {
                cargo: DEBIAN_CARGO.into(),
                rustc: DEBIAN_RUSTC.into(),
                linker: Some(linker),
            });
        }
        let found = match own {
            Some(_) => format!("the Rust at hand has no library for {TARGET}"),
            None => "there is no Rust here".to_owned(),
        };
        Err(format!("{found}; {CURE}"))
    }

    /// What it is, for people.
    pub(super) fn name(&self) -> String {
        let version =
            output(Command::new(&self.rustc).arg("--version")).unwrap_or_else(|| "rustc".to_owned());
        let version: Vec<&str> = version.split(' ').take(2).collect();
        let along = if self.linker.is_some() {
            ", which builds the standard library along the first time"
        } else {
            ""
        };
        format!("{}{along}", version.join(" "))
    }

    /// The command that builds the core module of the crate in `folder`, and where it will be.
    pub(super) fn build(&self, folder: &Path, name: &str) -> (Command, PathBuf) {
        let target = folder.join("target");
        let mut command = Command::new(&self.cargo);
        command
            .current_dir(folder)
            .args(["build", "--release", "--lib", "--target", TARGET, "--target-dir"])
            .arg(&target);
        // rustup's variables would mislead another cargo, and a user's own flags are for programs of this
        // machine.
        for name in
            ["RUSTUP_TOOLCHAIN", "RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_BUILD_RUSTFLAGS", "CARGO_TARGET_DIR"]
        {
            command.env_remove(name);
        }
        command.env("RUSTC", &self.rustc).env("CARGO_ENCODED_RUSTFLAGS", flags());
        if let Some(linker) = &self.linker {
            // Building the library is all that is used of what is unstable.
            command.arg("-Zbuild-std=std,panic_abort").env("RUSTC_BOOTSTRAP", "1");
            command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
        let core = target.join(TARGET).join("release").join(format!("{}.wasm", name.replace('-', "_")));
        (command, core)
    }
}

/// Flags that keep the paths of this machine out of what is built: the same sources in another home give the
/// same component, and its `sha256` holds. Of the crate itself, cargo only tells relative paths. And [`STACK`].
fn flags() -> String {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let mut prefixes = vec![(PathBuf::from(DEBIAN_SOURCE), "rust")];
    prefixes.extend(home.map(|home| (home.join("registry/src"), "crates")));
    let flag = |(from, to): &(PathBuf, &str)| format!("--remap-path-prefix={}={to}", from.display());
    prefixes.iter().map(flag).chain([STACK.to_owned()]).collect::<Vec<_>>().join("\u{1f}")
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn sysroot(rustc: &Path) -> Option<PathBuf> {
    output(Command::new(rustc).args(["--print", "sysroot"])).map(PathBuf::from)
}

/// `rust-lld`, of the toolchain at hand or of any; else `wasm-ld`. All are LLVM's linker.
fn linker(sysroot: Option<&Path>) -> Option<PathBuf> {
    let of_sysroot = sysroot.map(|root| {
        root.join("lib/rustlib").join(format!("{}-unknown-linux-gnu/bin/rust-lld", env::consts::ARCH))
    });
    of_sysroot.filter(|path| path.is_file()).or_else(|| on_path("rust-lld")).or_else(|| on_path("wasm-ld"))
}

/// The program of this name, if there is one.
pub(super) fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}
