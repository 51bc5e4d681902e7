//! The laws of the house, as tests over the parsed sources: which way dependencies point, which crate is named where,
//! what is kept out of the core, and how long a file may be. `ARCHITECTURE.md` says why.

#[path = "tidy/hidden.rs"]
mod hidden;
#[path = "tidy/laws.rs"]
mod laws;
#[path = "tidy/paths.rs"]
mod paths;
#[path = "tidy/rooms.rs"]
mod rooms;
#[path = "tidy/sources.rs"]
mod sources;
#[path = "tidy/words.rs"]
mod words;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use laws::{House, Manifest, Manifests, UNSAFE};
use rooms::{CORE_TOKIO, UNNAMED};
use sources::Sources;

static HOUSE: LazyLock<House> = LazyLock::new(|| House::new(&Sources::read(), manifests()));

fn manifest_text(path: &str) -> toml::Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    toml::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn manifests() -> Manifests {
    let read = |path: &str| {
        let manifest = manifest_text(path);
        let names = |table: &str| -> BTreeSet<String> {
            let table = manifest.get(table).and_then(toml::Value::as_table);
            table.into_iter().flatten().map(|(name, _)| name.replace('-', "_")).collect()
        };
        Manifest { dependencies: names("dependencies"), dev_dependencies: names("dev-dependencies") }
    };
    Manifests::from([
        ("palisade", read("Cargo.toml")),
        ("palisade_core", read("src/core/Cargo.toml")),
        ("palisade_testing", read("src/testing/Cargo.toml")),
    ])
}

fn holds(broken: Vec<String>) {
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_floor_names_only_the_floors_below_it_and_a_room_no_other_room() {
    holds(HOUSE.directions());
}

#[test]
fn a_crate_is_named_only_in_the_rooms_that_list_it() {
    holds(HOUSE.outsiders());
}

#[test]
fn a_room_lists_no_crate_that_it_does_not_name() {
    holds(HOUSE.unused());
}

#[test]
fn a_manifest_lists_what_its_rooms_list() {
    holds(HOUSE.manifests(UNNAMED));
}

/// Dependencies of one platform would be seen by no law.
#[test]
fn a_manifest_lists_its_dependencies_for_every_platform() {
    for path in ["Cargo.toml", "src/core/Cargo.toml", "src/testing/Cargo.toml"] {
        assert!(!manifest_text(path).contains_key("target"), "{path}");
    }
}

#[test]
fn no_import_hides_a_name_from_the_laws() {
    holds(hidden::hidden_imports(&Sources::read()));
    let found = |code: &str| {
        let files =
            [("core/lib.rs".to_owned(), String::new()), ("core/domain/mod.rs".to_owned(), code.to_owned())];
        hidden::hidden_imports(&Sources::parse(files)).len()
    };
    for code in [
        "use std::time::*; fn f() { SystemTime::now(); }",
        "use std::{io, time::{Duration, *}};",
        "use std as s;",
        "use ::std::*;",
        "use std::{self as s};",
        "fn f() { use std as s; s::fs::read(p) }",
        "use {core::time::*, serde::Serialize};",
        "extern crate sled as engine;",
        "mod inner { extern crate self as me; }",
    ] {
        assert_eq!(found(code), 1, "{code}");
    }
    for code in ["use super::*;", "use std::{fmt, time::Duration};", "use std::fmt::{self, Write as _};"] {
        assert_eq!(found(code), 0, "{code}");
    }
}

/// `cargo check -p palisade-core` on its own then says whether that is enough: `make lint` runs it.
#[test]
fn the_core_has_no_more_of_tokio_than_it_needs() {
    let manifest = manifest_text("src/core/Cargo.toml");
    let tokio = &manifest["dependencies"]["tokio"];
    let features: Vec<_> =
        tokio["features"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    assert_eq!(features, CORE_TOKIO);
    assert!(tokio.get("workspace").is_none(), "features of the workspace would be added");
}

#[test]
fn the_domain_is_pure_and_the_core_does_no_io() {
    holds(HOUSE.purity());
}

#[test]
fn unsafe_code_is_in_one_file_only() {
    holds(HOUSE.unsafety());
    let is_used = HOUSE.found.kinds.iter().any(|(file, ..)| file == UNSAFE);
    assert!(is_used, "{UNSAFE} has no unsafe code any more");
}

#[test]
fn no_macro_prints() {
    holds(HOUSE.prints());
    for (code, is_seen) in [
        ("fn f() { println!(\"x\") }", true),
        ("fn f() { g(|| eprint!(\"x\")) }", true),
        ("fn f() { std::eprintln!(\"x\") }", true),
        ("fn f() { vec![dbg!(1)]; }", true),
        ("fn f() { format!(\"println!\") }", false),
        ("#[cfg(test)] mod tests { fn f() { println!(\"x\") } }", false),
    ] {
        assert_eq!(!over("cli/users.rs", code).prints().is_empty(), is_seen, "{code}");
    }
}

#[test]
fn the_modules_of_some_rooms_form_a_tree() {
    holds(HOUSE.circles());
}

#[test]
fn no_file_is_longer_than_a_sitting() {
    holds(HOUSE.lengths());
}

#[test]
fn comments_and_guides_name_the_actor() {
    holds(words::broken_words());
}

#[test]
fn public_types_of_two_modules_do_not_share_a_name() {
    holds(words::shared_names(&Sources::read()));
}

fn guide() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap()
}

fn of_src(name: &str) -> Option<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name)).ok()
}

#[test]
fn every_signpost_of_the_guide_leads_to_its_word() {
    holds(words::false_signposts(&guide(), of_src));
}

#[test]
fn a_false_signpost_is_seen() {
    let guide = guide();
    let broken = |guide: &str| words::false_signposts(guide, of_src);
    let moved = guide.replace("| SSRF | `edge/fetch/door.rs` |", "| SSRF | `edge/fetch/gate.rs` |");
    assert_eq!(broken(&moved), ["SSRF: edge/fetch/gate.rs does not exist"]);
    let renamed = guide.replace("| SSRF |", "| SSRF, clickjacking |");
    assert_eq!(broken(&renamed), ["clickjacking: edge/fetch/door.rs does not say so"]);
    assert_eq!(broken(&guide.replace("Where do I find", "Where")), ["the section is missing"]);
    let empty = guide.replace("\n| ", "\n ");
    assert_eq!(broken(&empty), ["0 signposts only: the table was not found"]);
}

#[test]
fn the_law_of_words_sees_what_it_forbids() {
    for (name, text) in [
        ("src/a.rs", "/// Nobody reads it."),
        ("src/a.rs", "fn f() {} // whoever calls"),
        ("src/a.rs", "let url = \"http://a\"; // for nobody's use"),
        ("a.wit", "  /// Somebody."),
        ("a.py", "# nobody"),
        ("a.py", "\"\"\"A text\nfor everybody.\n\"\"\""),
        ("a.toml", "a = 1 # nobody"),
        ("run", "#!/bin/sh\n# nobody"),
        ("docs/a.md", "For anybody."),
        ("docs/a.md", "```\ncode\n```\nFor anybody."),
    ] {
        assert_eq!(words::words_of(name, text).len(), 1, "{name}: {text}");
    }
    for (name, text) in [
        ("src/a.rs", "let nobody = \"nobody // nobody\"; // a client"),
        ("src/a.rs", "/// The kind `everybody`, and some_body."),
        ("src/a.rs", "assert_eq!(url, \"https://nobody\");"),
        ("a.toml", "name = \"nobody\""),
        ("docs/a.md", "```\nnobody\n```\nThe kind `everybody`."),
        ("data/db", "# nobody"),
    ] {
        assert_eq!(words::words_of(name, text), [""; 0], "{name}: {text}");
    }
}

#[test]
fn the_law_of_names_sees_what_it_forbids() {
    let shared = |files: &[(&str, &str)]| {
        let files = files.iter().map(|(name, code)| ((*name).to_owned(), (*code).to_owned()));
        words::shared_names(&Sources::parse(files))
    };
    let of_domain = (
        "core/domain/time.rs",
        "pub struct Origin; pub(super) struct Own; #[cfg(test)] mod t { pub enum T {} }",
    );
    let code = "pub enum Origin {} pub struct Own; pub trait T {}";
    let broken = shared(&[of_domain, ("edge/jwt/keys.rs", code)]);
    assert_eq!(broken, ["Origin: palisade_core::domain::time, palisade::edge::jwt::keys"]);
    assert_eq!(shared(&[of_domain, ("edge/jwt/mod.rs", "pub mod inner { pub type Origin = u8; }")]).len(), 1);
    for name in ["config/routes.rs", "core/service/mint/tests.rs"] {
        assert_eq!(shared(&[of_domain, (name, code)]), [""; 0], "{name}");
    }
}

/// The laws over one file of this name, beside the roots of its crate.
fn over(name: &str, code: &str) -> House {
    let roots = [
        ("lib.rs", "pub mod app; pub mod cli; pub mod config; pub mod edge; pub use edge::store as kept;"),
        ("edge/mod.rs", "pub mod api; pub mod jwt; pub mod proxy; pub mod store; pub mod wasm;"),
        ("core/lib.rs", "pub mod domain; pub mod ports; pub mod service;"),
        ("edge/store/mod.rs", "pub struct SledStore; pub use sled::Db;"),
    ];
    let files = roots.into_iter().filter(|(root, _)| *root != name).chain([(name, code)]);
    let files = files.map(|(name, code)| (name.to_owned(), code.to_owned()));
    House::new(&Sources::parse(files), manifests())
}

#[track_caller]
fn directions(name: &str, code: &str, named: &[&str]) {
    let broken = over(name, code).directions();
    let broken: Vec<String> = broken.into_iter().filter(|line| line.starts_with(name)).collect();
    let told: Vec<&str> = broken.iter().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(told, named, "{name}: {code}");
}

#[track_caller]
fn outsiders(name: &str, code: &str, named: &[&str]) {
    let broken = over(name, code).outsiders();
    let told: Vec<&str> = broken.iter().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(told, named, "{name}: {code}");
}

#[test]
fn the_law_of_directions_sees_what_it_forbids() {
    // A room names another one, or what composes rooms.
    for code in [
        "use crate::edge::store::SledStore;",
        "use crate::{config, edge::{store::SledStore}};",
        "use crate::edge::{self as rooms}; fn f() { rooms::store::open() }",
        "use super::super::store::SledStore;",
        "fn f() -> super::super::store::SledStore { todo!() }",
        "fn f() { crate::edge::store::open() }",
        "fn f() { let _ = vec![crate::edge::store::open()]; }",
        "macro_rules! m { () => { $crate::edge::store::open() } }",
        "#[serde(with = \"crate::edge::store::hex\")] struct S;",
        "mod inner { use super::super::super::store::SledStore; }",
        "mod inner { mod deeper { fn f() { super::super::super::super::store::open() } } }",
        "use crate::kept::SledStore;",
        "pub(in crate::edge::store) struct S;",
    ] {
        let broken = over("edge/jwt/keys.rs", code).directions();
        assert!(broken.iter().any(|line| line.contains("palisade::edge")), "{code}: {broken:?}");
    }
    directions(
        "edge/jwt/keys.rs",
        "use crate::edge::store::{A, b::C};",
        &["palisade::edge::store::A", "palisade::edge::store::b::C"],
    );
    directions("edge/jwt/keys.rs", "use crate::edge::*;", &["palisade::edge"]);
    directions(
        "edge/jwt/keys.rs",
        "#[cfg(test)] mod tests { use crate::app::start; }",
        &["palisade::app::start"],
    );
    directions("edge/jwt/keys.rs", "use crate::app::start;", &["palisade::app::start"]);
    directions("edge/jwt/keys.rs", "use super::super::super::cli::run;", &["palisade::cli::run"]);
    directions(
        "edge/jwt/keys.rs",
        "use palisade_testing::fakes::FakeClock;",
        &["palisade_testing::fakes::FakeClock"],
    );
    // What is below, and what is its own.
    for code in [
        "use crate::config::Config; use palisade_core::{domain::time::UnixTime, ports::Clock, service::admit};",
        "use crate::edge::jwt::verify; use super::clocks; fn f() { self::g(); super::verify::h() }",
        "use std::fs; use serde::Serialize; fn f() { String::new(); fs::read(\"x\"); }",
        "#[cfg(test)] mod tests { use super::*; use palisade_testing::fakes::FakeClock; }",
        "#[cfg(test)] mod tests { use crate::edge::store::SledStore; }",
        "fn f() { let store = 1; store::g() }",
    ] {
        directions("edge/jwt/keys.rs", code, &[]);
    }
    // Each floor.
    directions("core/domain/time.rs", "use crate::ports::Clock;", &["palisade_core::ports::Clock"]);
    directions(
        "core/domain/time.rs",
        "use super::super::{service::mint};",
        &["palisade_core::service::mint"],
    );
    directions("core/ports/store.rs", "use crate::service::mint;", &["palisade_core::service::mint"]);
    directions("core/service/mint.rs", "use crate::{domain, ports};", &[]);
    directions("config/routes.rs", "use crate::edge::jwt::Key;", &["palisade::edge::jwt::Key"]);
    directions("config/routes.rs", "use palisade_core::ports::Clock;", &["palisade_core::ports::Clock"]);
    directions("config/routes.rs", "use palisade_core::domain::route::Route;", &[]);
    directions("app.rs", "use crate::cli::run;", &["palisade::cli::run"]);
    directions("app.rs", "use crate::edge::{jwt, store};", &[]);
    directions("lib.rs", "pub mod edge; pub use edge::store;", &["palisade::edge::store"]);
    directions("main.rs", "fn main() { palisade::app::start() }", &["palisade::app::start"]);
}

#[test]
fn the_law_of_crates_sees_what_it_forbids() {
    outsiders("edge/jwt/keys.rs", "use sled::Db;", &["sled::Db"]);
    outsiders("edge/jwt/keys.rs", "use {sled::Db, std::fs};", &["sled::Db"]);
    outsiders("edge/jwt/keys.rs", "use sled as engine; fn f() { engine::open() }", &["sled", "sled::open"]);
    outsiders("edge/jwt/keys.rs", "fn f() -> ::sled::Db { todo!() }", &["sled::Db"]);
    outsiders(
        "edge/jwt/keys.rs",
        "fn f() { assert!(matches!(x, sled::Error::Io(_))) }",
        &["sled::Error::Io"],
    );
    outsiders("edge/jwt/keys.rs", "#[derive(utoipa::ToSchema)] struct S;", &["utoipa::ToSchema"]);
    outsiders("edge/jwt/keys.rs", "#[derive(Debug, clap::Parser)] struct S;", &["clap::Parser"]);
    outsiders("edge/proxy/h2.rs", "use axum::Router;", &["axum::Router"]);
    outsiders("edge/proxy/bridge.rs", "use axum::Router;", &[]);
    outsiders("core/service/mint.rs", "use sled::Db; use uuid::Uuid;", &["sled::Db"]);
    outsiders("core/domain/time.rs", "use tokio::sync::Notify;", &["tokio::sync::Notify"]);
    outsiders("edge/store/mod.rs", "use sled::Db; fn f() { sled::open() }", &[]);
    // A module of ours that is called like a crate.
    outsiders("edge/jwt/keys.rs", "mod sled { pub fn open() {} } fn f() { sled::open() }", &[]);
    outsiders("edge/jwt/keys.rs", "use super::sled; fn f() { sled::open() }", &[]);
    // Tests may use what they like.
    outsiders("edge/jwt/keys.rs", "#[cfg(test)] mod tests { use sled::Db; }", &[]);
    outsiders("core/service/mint/tests.rs", "use sled::Db;", &[]);
}

#[test]
fn the_laws_of_the_core_and_of_unsafe_code_see_what_they_forbid() {
    let impure = |name: &str, code: &str| over(name, code).purity();
    for code in [
        "use std::fs;",
        "use std::{fs::File, sync::Arc};",
        "fn f() { std::process::exit(1) }",
        "use std::time::{Duration, SystemTime};",
        "fn f() { println!(\"x\") }",
    ] {
        assert_eq!(impure("core/service/mint.rs", code).len(), 1, "{code}");
        assert_eq!(impure("core/domain/time.rs", code).len(), 1, "{code}");
        assert!(impure("edge/store/files.rs", code).is_empty(), "{code}");
    }
    for code in ["use std::time::Instant;", "async fn f() {}", "fn f() { g(async { 1 }) }"] {
        assert_eq!(impure("core/domain/time.rs", code).len(), 1, "{code}");
        assert!(impure("core/service/mint.rs", code).is_empty(), "{code}");
    }
    assert!(impure("core/domain/time.rs", "#[cfg(test)] mod tests { use std::fs; }").is_empty());

    let is_unsafe = |name: &str, code: &str| !over(name, code).unsafety().is_empty();
    for code in [
        "fn f() { unsafe { g() } }",
        "unsafe fn f() {}",
        "unsafe impl Send for S {}",
        "fn f() { vec![unsafe { g() }]; }",
    ] {
        assert!(is_unsafe("edge/jwt/keys.rs", code), "{code}");
        assert!(!is_unsafe(UNSAFE, code), "{code}");
    }
    assert!(!is_unsafe("edge/jwt/keys.rs", "fn f() { \"unsafe { g() }\"; /* unsafe */ }"));
}

#[test]
fn the_laws_of_manifests_and_lengths_see_what_they_forbid() {
    let mut house = over("edge/jwt/keys.rs", "");
    house.manifests.get_mut("palisade_core").unwrap().dependencies.insert("reqwest".to_owned());
    house.manifests.get_mut("palisade").unwrap().dependencies.remove("sled");
    let wrong = house.manifests(UNNAMED);
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    assert!(wrong[0].contains("sled") && wrong[1].contains("palisade_core has reqwest"), "{wrong:?}");

    let mut house = over("edge/jwt/keys.rs", "");
    house.manifests.get_mut("palisade").unwrap().dependencies.insert("palisade_testing".to_owned());
    assert_eq!(house.manifests(UNNAMED).len(), 1);

    let long = |code: String| over("edge/jwt/keys.rs", &code).lengths();
    assert!(long("fn f() {}\n".repeat(500)).is_empty());
    assert_eq!(long("fn f() {}\n".repeat(501)), ["edge/jwt/keys.rs: 501 lines"]);
    let tests =
        format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", "fn f() {}\n".repeat(400), "fn t() {}\n".repeat(400));
    assert!(long(tests).is_empty());
    assert!(over("core/service/mint/tests.rs", &"fn f() {}\n".repeat(501)).lengths().is_empty());
}

#[test]
fn the_law_of_trees_sees_a_circle() {
    let circles = |files: &[(&str, &str)]| {
        let roots =
            [("lib.rs", "pub mod config;"), ("config/mod.rs", "mod a; mod b; mod c; pub use self::a::A;")];
        let files = roots.iter().chain(files).map(|(name, code)| ((*name).to_owned(), (*code).to_owned()));
        House::new(&Sources::parse(files), manifests()).circles()
    };
    let a = ("config/a.rs", "use super::b::B; fn f() { super::c::g() }");
    let c = ("config/c.rs", "use std::fs; pub fn g() {}");
    assert!(circles(&[a, ("config/b.rs", "use super::c;"), c]).is_empty());
    assert_eq!(circles(&[a, ("config/b.rs", "use crate::config::{a, c};"), c]).len(), 2);
    assert_eq!(circles(&[a, ("config/b.rs", "fn f() { super::a::g() }"), c]).len(), 2);
    // Through what the room re-exports.
    assert_eq!(circles(&[a, ("config/b.rs", "use super::A;"), c]).len(), 2);
    let tests = "#[cfg(test)] mod tests { use crate::config::a; }";
    assert!(circles(&[a, ("config/b.rs", tests), c]).is_empty());
}
