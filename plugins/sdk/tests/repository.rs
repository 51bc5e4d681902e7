//! What this crate repeats of the repository that it is built in must be the same there.

use std::fs;
use std::path::Path;

fn repository(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_wit_is_the_gateways() {
    assert!(
        repository("wit/provider.wit") == repository("plugins/sdk/wit/provider.wit"),
        "copy wit/provider.wit to plugins/sdk/wit/provider.wit"
    );
}

#[test]
fn the_version_is_the_wits() {
    let package = format!("package palisade:provider@{};", palisade_provider::WIT_VERSION);
    assert!(repository("wit/provider.wit").contains(&package));
}

/// The document's tables and the settings' type name the same keys.
#[test]
fn every_setting_is_documented() {
    let refused = palisade_provider::settings::<palisade_provider::oauth2::Settings>(r#"{"?":1}"#).unwrap_err();
    let (_, list) = refused.message().split_once("expected one of ").unwrap();
    let mut known: Vec<&str> = list.split(", ").map(|key| key.trim_matches('`')).collect();
    let document = repository("docs/oauth2.md");
    let (settings, _) = document.split_once("## What each answer makes").unwrap();
    let rows = settings.lines().filter(|line| line.starts_with("| `"));
    let mut documented: Vec<&str> = rows
        .flat_map(|row| row.split(" | ").next().unwrap_or_default().split('`').skip(1).step_by(2))
        .collect();
    known.sort_unstable();
    documented.sort_unstable();
    assert_eq!(known, documented);
}
