//! The law of the floors, as a test: it reads the sources and fails on a `use` that points upwards or
//! sideways, on a crate named outside its room, and on a file that has grown too long.

use std::fs;
use std::path::{Path, PathBuf};

/// Crates that belong to one room: (crate, the paths that may name it).
const ROOMS: &[(&str, &[&str])] = &[
    ("pingora", &["edge/proxy"]),
    ("h2", &["edge/proxy"]),
    ("x509_parser", &["edge/proxy"]),
    ("rustls", &["edge/proxy"]),
    ("tokio_rustls", &["edge/proxy"]),
    ("axum", &["edge/api", "edge/proxy/bridge.rs", "edge/proxy/gateway.rs", "edge/demo", "app"]),
    ("tower", &["edge/api", "edge/proxy/bridge.rs"]),
    ("tower_http", &["edge/api"]),
    ("hyper", &["edge/api"]),
    ("hyper_util", &["edge/api"]),
    ("utoipa", &["edge/api"]),
    ("utoipa_axum", &["edge/api"]),
    ("serde_path_to_error", &["edge/api"]),
    ("jsonwebtoken", &["edge/jwt"]),
    ("aws_lc_rs", &["edge/jwt"]),
    ("rustls_pki_types", &["edge/jwt"]),
    ("sled", &["edge/store"]),
    ("postcard", &["edge/store"]),
    ("crc32fast", &["edge/store"]),
    ("moka", &["edge/jwt", "edge/limits", "edge/store"]),
    ("lettre", &["edge/mail"]),
    ("minijinja", &["edge/mail"]),
    ("bcrypt", &["edge/passwords"]),
    ("zxcvbn", &["edge/passwords"]),
    ("rustix", &["edge/clock", "edge/machine", "edge/passwords", "edge/store", "edge/wasm"]),
    ("governor", &["edge/limits"]),
    ("maxminddb", &["edge/devices"]),
    ("orion", &["edge/vault"]),
    ("wasmtime", &["edge/wasm"]),
    ("wasmtime_wasi", &["edge/wasm"]),
    // Making a component is its author's tool, and no part of the gateway.
    ("wit_component", &["edge/wasm", "cli/plugin/build.rs"]),
    ("wasmparser", &["edge/wasm"]),
    ("wit_parser", &["edge/wasm"]),
    ("regex", &["edge/wasm"]),
    ("url", &["edge/wasm"]),
    ("reqwest", &["edge/fetch", "edge/admin_client"]),
    ("prometheus", &["edge/telemetry"]),
    ("tracing_subscriber", &["edge/telemetry"]),
    ("clap", &["cli"]),
    ("comfy_table", &["cli"]),
    ("toml", &["config", "cli/admin.rs", "cli/plugin"]),
    ("mimalloc", &["main.rs"]),
];

/// What each floor may not name of ours.
const FORBIDDEN: [(&str, &[&str]); 4] = [
    (
        "core/domain/",
        &["crate::ports", "crate::service", "crate::edge", "crate::config", "crate::app", "crate::cli"],
    ),
    ("core/ports", &["crate::service", "crate::edge", "crate::config", "crate::app", "crate::cli"]),
    ("core/service/", &["crate::edge", "crate::config", "crate::app", "crate::cli"]),
    ("config", &["crate::ports", "crate::service", "crate::edge", "crate::app", "crate::cli"]),
];

/// What the pure floors may not touch at all.
const IMPURE: [&str; 6] = ["std::fs", "std::net::Tcp", "SystemTime", "Instant::now", "tokio::", "async fn"];

const MAX_LINES: usize = 500;

struct Source {
    /// Relative to `src`, with `/`.
    name: String,
    /// Without its tests and comments.
    code: String,
    lines: usize,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    assert!(files.len() > 20, "the sources were not found");
    files
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let lines = code.lines().count();
            let code: Vec<&str> =
                code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
            Source { name, code: code.join("\n"), lines }
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Whether `code` names the crate `name` in a path.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        // `crate::config::…` and `self::…` are ours; `x_toml::` is another crate.
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

#[test]
fn a_floor_names_only_the_floors_below_it() {
    let mut broken = Vec::new();
    for source in sources() {
        for (floor, forbidden) in FORBIDDEN {
            let of_floor = source.name.starts_with(floor);
            for path in forbidden.iter().filter(|path| of_floor && source.code.contains(**path)) {
                broken.push(format!("{} names {path}", source.name));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_room_names_no_other_room() {
    let room = |name: &str| {
        let rest = name.strip_prefix("edge/")?;
        let room = rest.split(['/', '.']).next()?;
        (room != "mod").then(|| room.to_owned())
    };
    let mut broken = Vec::new();
    for source in sources() {
        let Some(own) = room(&source.name) else { continue };
        for (at, _) in source.code.match_indices("crate::edge::") {
            let other: String = source.code[at + "crate::edge::".len()..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if other != own {
                broken.push(format!("{} names edge::{other}", source.name));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_crate_is_named_only_in_its_room() {
    let mut broken = Vec::new();
    for source in sources() {
        for (name, rooms) in ROOMS {
            if names_crate(&source.code, name) && !rooms.iter().any(|room| source.name.starts_with(room)) {
                broken.push(format!("{} names {name}", source.name));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_domain_is_pure() {
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| source.name.starts_with("core/domain/")) {
        for word in IMPURE.iter().filter(|word| source.code.contains(**word)) {
            broken.push(format!("{} uses {word}", source.name));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn unsafe_code_is_in_one_file_only() {
    let with: Vec<_> = sources().into_iter().filter(|source| source.code.contains("unsafe {")).collect();
    let names: Vec<_> = with.iter().map(|source| &*source.name).collect();
    assert_eq!(names, ["edge/wasm/cache.rs"], "each other file needs a proof of its own, and a word here");
}

#[test]
fn no_file_is_longer_than_a_sitting() {
    let long: Vec<_> = sources()
        .into_iter()
        // What is in `testing/` is tests: the suite that every store must pass is one list of cases.
        .filter(|source| !source.name.starts_with("testing/") && source.lines > MAX_LINES)
        .map(|source| format!("{}: {} lines", source.name, source.lines))
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn the_law_sees_what_it_forbids() {
    assert!(names_crate("use toml::Value;", "toml"));
    assert!(names_crate("let x = (toml::from_str(y));", "toml"));
    assert!(!names_crate("use crate::toml::Value;", "toml"));
    assert!(!names_crate("use other_toml::Value;", "toml"));
}
