//! The Rust SDK, carried in this binary: a plugin builds with the SDK of the Palisade at hand, from nothing.

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../../plugins/sdk/", $path)))),*]
    };
}

/// Its files, without the manifests. A test compares the list with the folder.
pub(super) const FILES: &[(&str, &str)] = files![
    "LICENSE",
    "README.md",
    "exchange/src/lib.rs",
    "src/component.rs",
    "src/context.rs",
    "src/failure.rs",
    "src/form.rs",
    "src/http.rs",
    "src/json.rs",
    "src/jwt.rs",
    "src/lib.rs",
    "src/oauth2/answer.rs",
    "src/oauth2/authorize.rs",
    "src/oauth2/identity.rs",
    "src/oauth2/mod.rs",
    "src/oauth2/revoke.rs",
    "src/oauth2/settings.rs",
    "src/oauth2/token.rs",
    "src/oauth2/values.rs",
    "src/provider.rs",
    "src/random.rs",
    "src/reader.rs",
    "src/salvage.rs",
    "src/testing/compare.rs",
    "src/testing/file.rs",
    "src/testing/mod.rs",
    "src/testing/player.rs",
    "src/types.rs",
    "src/url.rs",
    "wit/provider.wit",
];

/// Its manifest, and that of the format of recorded exchanges, by their places.
const MANIFESTS: [(&str, &str); 2] = [
    ("Cargo.toml", include_str!("../../../plugins/sdk/Cargo.toml")),
    ("exchange/Cargo.toml", include_str!("../../../plugins/sdk/exchange/Cargo.toml")),
];
const WORKSPACE: &str = include_str!("../../../plugins/Cargo.toml");

/// The SDK's manifests by their places, as they stand outside their workspace: what they inherit is written out.
///
/// # Errors
/// Something that they inherit is missing.
pub(super) fn manifests() -> Result<Vec<(&'static str, String)>, String> {
    MANIFESTS.iter().map(|(place, text)| Ok((*place, alone(text)?))).collect()
}

fn alone(manifest: &str) -> Result<String, String> {
    let workspace: toml::Table = WORKSPACE.parse().map_err(|error| format!("plugins/Cargo.toml: {error}"))?;
    let inherited = |section: &str, key: &str| {
        let section = workspace.get("workspace").and_then(|workspace| workspace.get(section));
        let value = section.and_then(|section| section.get(key));
        value.map(ToString::to_string).ok_or_else(|| format!("plugins/Cargo.toml says nothing of {key}"))
    };
    let mut text = String::from("# Written by `palisade plugin new`: the SDK of that Palisade.\n");
    let mut section = "";
    for line in manifest.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_matches(['[', ']']);
        }
        // Of the repository, and not of the crate as it is built elsewhere.
        if ["lints", "test", "dev-dependencies"].contains(&section) {
            continue;
        }
        let line = match line.strip_suffix(".workspace = true") {
            Some(key) => format!(
                "{key} = {}",
                inherited(if section == "package" { section } else { "dependencies" }, key)?
            ),
            None => line.to_owned(),
        };
        text.push_str(&line);
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn it_is_carried_whole() {
        fn collect(folder: &Path, root: &Path, files: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    collect(&path, root, files);
                } else {
                    files.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/sdk");
        let mut found = Vec::new();
        for part in ["exchange/src", "src", "wit"] {
            collect(&root.join(part), &root, &mut found);
        }
        found.extend(["LICENSE", "README.md"].map(str::to_owned));
        found.sort();
        let carried: Vec<&str> = FILES.iter().map(|(path, _)| *path).collect();
        assert_eq!(carried, found);
    }

    #[test]
    fn its_manifests_stand_alone() {
        let names = ["palisade-provider", "palisade-exchange"];
        for ((place, text), name) in manifests().unwrap().into_iter().zip(names) {
            let table: toml::Table = text.parse().unwrap();
            assert_eq!(table["package"]["name"].as_str(), Some(name), "{place}");
            assert!(table["package"]["version"].is_str() && table["package"]["edition"].is_str());
            assert!(table["dependencies"]["serde_json"].is_str());
            assert!(!text.contains("workspace"));
        }
    }
}
