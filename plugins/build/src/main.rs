//! Builds the provider plugins to components: `make plugins`, `make plugins-check`.
//!
//! `write` puts them under `dist/`, with where each came from. `check` builds them elsewhere and compares:
//! what is in the repository must be of these sources, and, by the same toolchain, the same bytes.

mod component;
mod plugin;
mod provenance;
mod toolchain;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use plugin::Plugin;
use provenance::{Component, Provenance};
use toolchain::Toolchain;

/// No committed component is larger, in bytes.
const LARGEST: usize = 320_000;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["write"] => write(),
        ["check"] => check(),
        ["componentize", core, component] => componentize(Path::new(core), Path::new(component)),
        _ => Err("usage: palisade-plugins write | check | componentize CORE.wasm COMPONENT.wasm".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The plugins' folder: this crate is in it.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

fn write() -> Outcome<()> {
    let root = root();
    let (fresh, provenance) = build(&root)?;
    let dist = root.join("dist");
    fs::create_dir_all(&dist)?;
    for entry in fs::read_dir(&dist)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            fs::remove_file(path)?;
        }
    }
    for (plugin, bytes) in &fresh {
        fs::write(dist.join(format!("{}.wasm", plugin.name)), bytes)?;
        println!("{:>8}  dist/{}.wasm", bytes.len(), plugin.name);
    }
    provenance.write(&dist)
}

fn check() -> Outcome<()> {
    let root = root();
    let committed = Provenance::read(&root.join("dist"))?;
    let (fresh, provenance) = build(&root)?;
    let same_toolchain = committed.toolchain == provenance.toolchain;
    if !same_toolchain {
        println!(
            "The components in dist/ were built by another toolchain, so their bytes are not compared:\n  \
             theirs  {}\n  yours   {}",
            committed.toolchain, provenance.toolchain
        );
    }
    let mut wrong: Vec<String> = Vec::new();
    for (plugin, bytes) in &fresh {
        let name = &plugin.name;
        let file = fs::read(root.join("dist").join(format!("{name}.wasm"))).unwrap_or_default();
        match committed.components.get(name) {
            None => wrong.push(format!("{name}: is not in dist/")),
            Some(known) if known.sha256 != provenance::sha256(&file) => {
                wrong
                    .push(format!("{name}: dist/{name}.wasm is not the file that PROVENANCE.toml speaks of"));
            }
            Some(known) if known.sources != provenance.components[name].sources => {
                wrong.push(format!("{name}: its sources changed after dist/{name}.wasm was built"));
            }
            Some(_) if same_toolchain && file != *bytes => {
                wrong.push(format!("{name}: the same sources and toolchain gave other bytes"));
            }
            Some(_) => {
                println!("{name}: {}", if same_toolchain { "the same bytes" } else { "the same sources" })
            }
        }
    }
    for name in committed.components.keys().filter(|name| !provenance.components.contains_key(*name)) {
        wrong.push(format!("{name}: is in dist/ and not among the plugins"));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!("{}\nRun `make plugins` and commit plugins/dist.", wrong.join("\n")).into())
}

type Built = Vec<(Plugin, Vec<u8>)>;

fn build(root: &Path) -> Outcome<(Built, Provenance)> {
    let plugins = plugin::all(root)?;
    let toolchain = Toolchain::find()?;
    println!("{}", toolchain.name());
    toolchain.build(root, &plugins)?;
    let mut built = Vec::new();
    let mut components = std::collections::BTreeMap::new();
    for plugin in plugins {
        let core = fs::read(toolchain.output(root).join(format!("{}.wasm", plugin.name)))?;
        let about = |error: Box<dyn Error>| -> Box<dyn Error> { format!("{}: {error}", plugin.name).into() };
        let bytes = component::encode(&core).map_err(about)?;
        let wit = component::interface(&bytes).map_err(about)?;
        provenance::refuse_paths(&bytes, root).map_err(about)?;
        if bytes.len() > LARGEST {
            return Err(format!("{}: {} bytes, more than {LARGEST}", plugin.name, bytes.len()).into());
        }
        if !plugin.dist {
            continue;
        }
        components.insert(
            plugin.name.clone(),
            Component {
                sha256: provenance::sha256(&bytes),
                size: bytes.len(),
                package: plugin.package.clone(),
                version: plugin.version.clone(),
                wit,
                sources: provenance::sources(root, &plugin)?,
            },
        );
        built.push((plugin, bytes));
    }
    Ok((built, Provenance { toolchain: toolchain.name(), flags: toolchain.flags(), components }))
}

/// One core module to one component, for who builds by other means.
fn componentize(core: &Path, component: &Path) -> Outcome<()> {
    let bytes = component::encode(&fs::read(core)?)?;
    let wit = component::interface(&bytes)?;
    fs::write(component, &bytes)?;
    println!("{}: {} bytes, {wit}", component.display(), bytes.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs no compiler for WebAssembly, so every `cargo test` sees a forgotten `make plugins`.
    #[test]
    fn what_is_committed_is_of_these_sources() {
        let root = root();
        let known = Provenance::read(&root.join("dist")).unwrap();
        let shipped: Vec<Plugin> =
            plugin::all(&root).unwrap().into_iter().filter(|plugin| plugin.dist).collect();
        assert_eq!(shipped.len(), known.components.len());
        for plugin in shipped {
            let name = &plugin.name;
            let bytes = fs::read(root.join(format!("dist/{name}.wasm"))).unwrap();
            let component = &known.components[name];
            assert_eq!(component.sha256, provenance::sha256(&bytes), "{name}");
            assert_eq!(component.size, bytes.len(), "{name}");
            assert_eq!(component.wit, component::interface(&bytes).unwrap(), "{name}");
            let sources = provenance::sources(&root, &plugin).unwrap();
            assert_eq!(component.sources, sources, "{name}: run `make plugins` and commit plugins/dist");
        }
    }

    #[test]
    fn components_of_earlier_versions_are_of_their_version() {
        let mut seen = 0;
        for version in fs::read_dir(root().join("compat")).unwrap().map(|entry| entry.unwrap().path()) {
            if !version.is_dir() {
                continue;
            }
            let name = version.file_name().unwrap().to_string_lossy().into_owned();
            for file in fs::read_dir(&version).unwrap().map(|entry| entry.unwrap().path()) {
                let interface = component::interface(&fs::read(&file).unwrap()).unwrap();
                assert_eq!(interface, format!("palisade:provider@{name}"), "{}", file.display());
                seen += 1;
            }
        }
        assert!(seen >= 2);
    }

    #[test]
    fn what_is_no_component_is_refused() {
        // An empty core module, and no module at all.
        for bytes in [b"\0asm\x01\0\0\0".as_slice(), b"nonsense"] {
            assert!(component::interface(bytes).is_err());
        }
        assert!(component::encode(b"nonsense").is_err());
        let empty = component::encode(b"\0asm\x01\0\0\0").unwrap();
        assert!(component::interface(&empty).unwrap_err().to_string().contains("does not export"));
    }
}
