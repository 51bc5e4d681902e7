//! Which plugins there are: the folders beside this one whose crate is a `cdylib`.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::Outcome;

/// One plugin.
pub struct Plugin {
    /// Of its folder, its library and its component.
    pub name: String,
    /// Of its crate.
    pub package: String,
    /// Of its crate.
    pub version: String,
    /// Whether it comes with Palisade. One that does not is built all the same, to see that it builds.
    pub dist: bool,
}

#[derive(Deserialize)]
struct Manifest {
    package: Option<Package>,
    lib: Option<Library>,
    workspace: Option<Workspace>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: toml::Value,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
struct Metadata {
    palisade: Option<Palisade>,
}

#[derive(Deserialize)]
struct Palisade {
    dist: bool,
}

#[derive(Deserialize)]
struct Library {
    name: Option<String>,
    #[serde(default, rename = "crate-type")]
    crate_type: Vec<String>,
}

#[derive(Deserialize)]
struct Workspace {
    members: Vec<String>,
    package: Shared,
}

#[derive(Deserialize)]
struct Shared {
    version: String,
}

/// The plugins of the workspace at `root`, by name.
///
/// # Errors
/// A manifest that cannot be read, or whose library is not called like its folder.
pub fn all(root: &Path) -> Outcome<Vec<Plugin>> {
    let workspace = manifest(root)?.workspace.ok_or("plugins/Cargo.toml has no [workspace]")?;
    let mut plugins = Vec::new();
    for name in workspace.members {
        let manifest = manifest(&root.join(&name))?;
        let (Some(package), Some(library)) = (manifest.package, manifest.lib) else { continue };
        if !library.crate_type.iter().any(|kind| kind == "cdylib") {
            continue;
        }
        if library.name.as_deref() != Some(&name) {
            return Err(format!("{name}/Cargo.toml: the library must be called `{name}`").into());
        }
        let version = package.version.as_str().map_or(workspace.package.version.clone(), str::to_owned);
        let dist = package.metadata.palisade.is_none_or(|palisade| palisade.dist);
        plugins.push(Plugin { name, package: package.name, version, dist });
    }
    plugins.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(plugins)
}

fn manifest(folder: &Path) -> Outcome<Manifest> {
    let path = folder.join("Cargo.toml");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()).into())
}
