//! From bytes to a component that can be called, or to words that say why not.

use sha2::{Digest, Sha256};
use wasmtime::component::{Component, types::ComponentItem};

use super::bindings::ProviderPre;
use super::cache::{Cache, hex};
use super::engine::Machine;
use super::host::State;
use super::lines::escaped;

/// The versions of `palisade:provider` that are served.
pub const SERVED: &[&str] = &["0.1.0"];
/// The largest component, in bytes.
pub(super) const LARGEST: usize = 64 << 20;

const PACKAGE: &str = "palisade:provider/";
/// What a component may import of it.
const IMPORTS: [&str; 4] = ["types", "http", "log", "clock"];
/// What WASI 0.2 is made of, as far as it is served.
const WASI: [&str; 6] = ["cli", "clocks", "filesystem", "io", "random", "sockets"];
const MAGIC: &[u8] = b"\0asm";
/// Version 13, layer 1: a component. A core module has version 1, layer 0.
const COMPONENT: &[u8] = &[0x0d, 0, 1, 0];
const CORE_MODULE: &[u8] = &[1, 0, 0, 0];

/// A component, compiled and linked.
pub(super) struct Code {
    pub(super) pre: ProviderPre<State>,
    pub(super) sha256: [u8; 32],
}

/// The SHA-256 of a component's bytes.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Compiles, or finds compiled, what `bytes` hold. Takes up to seconds: not for a thread that serves.
///
/// # Errors
/// Why it cannot be used and what to do about it.
pub(super) fn load(machine: &Machine, cache: Option<&Cache>, bytes: &[u8]) -> Result<Code, String> {
    if bytes.len() > LARGEST {
        return Err(format!("it has more than {LARGEST} bytes"));
    }
    match (bytes.get(..4), bytes.get(4..8)) {
        (Some(MAGIC), Some(COMPONENT)) => {}
        (Some(MAGIC), Some(CORE_MODULE)) => {
            return Err(
                "it is a core module, not a component: `wasm-tools component new` makes one of it".to_owned()
            );
        }
        _ => return Err("it is not a WebAssembly component".to_owned()),
    }
    let sha256 = sha256(bytes);
    let cached = cache.and_then(|cache| cache.load(&machine.engine, &sha256));
    let component = match cached {
        Some(component) => component,
        None => {
            let component = Component::from_binary(&machine.engine, bytes)
                .map_err(|error| format!("it does not compile: {}", escaped(&format!("{error:#}"))))?;
            if let Some(cache) = cache {
                cache.store(&sha256, &component);
            }
            component
        }
    };
    check(machine, &component)?;
    let unfit = |error: wasmtime::Error| {
        format!(
            "it does not fit wit/provider.wit ({}): {}",
            SERVED.join(", "),
            escaped(&format!("{error:#}"))
        )
    };
    let pre = machine.linker.instantiate_pre(&component).map_err(unfit)?;
    let pre = ProviderPre::new(pre).map_err(unfit)?;
    tracing::debug!(sha256 = hex(&sha256), "a component was loaded");
    Ok(Code { pre, sha256 })
}

/// Whether it imports nothing that is not served, and exports the plugin.
fn check(machine: &Machine, component: &Component) -> Result<(), String> {
    let kind = component.component_type();
    let mut faults: Vec<String> =
        kind.imports(&machine.engine).filter_map(|(name, _)| refuse_import(name)).collect();
    let exports: Vec<&str> = kind
        .exports(&machine.engine)
        .filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentInstance(_)))
        .map(|(name, _)| name)
        .collect();
    let plugin = exports.iter().find_map(|name| name.strip_prefix(PACKAGE)?.strip_prefix("plugin"));
    match plugin {
        None => faults.push(format!(
            "it does not export {PACKAGE}plugin: build it for the world `provider` of wit/provider.wit"
        )),
        Some(version) => faults.extend(refuse_version("plugin", version.trim_start_matches('@'))),
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
}

/// Why `name` is not served; `None` when it is.
fn refuse_import(name: &str) -> Option<String> {
    let (path, version) = name.split_once('@').unwrap_or((name, ""));
    if let Some(interface) = path.strip_prefix(PACKAGE) {
        if IMPORTS.contains(&interface) {
            return refuse_version(interface, version);
        }
        return Some(format!("it imports {}, which is none of {}", escaped(name), IMPORTS.join(", ")));
    }
    if let Some((package, _)) = path.strip_prefix("wasi:").and_then(|rest| rest.split_once('/')) {
        if WASI.contains(&package) && version.starts_with("0.2.") {
            return None;
        }
        let cure = match package {
            "http" => "requests are made by palisade:provider/http",
            _ if WASI.contains(&package) => "only WASI 0.2 is served",
            _ => "it is no part of WASI 0.2",
        };
        return Some(format!("it imports {}: {cure}", escaped(name)));
    }
    Some(format!("it imports {}: only palisade:provider and WASI 0.2 are served", escaped(name)))
}

fn refuse_version(interface: &str, version: &str) -> Option<String> {
    if SERVED.contains(&version) {
        return None;
    }
    Some(format!(
        "it speaks {PACKAGE}{interface}@{}, and this Palisade serves {}: rebuild it against this Palisade's \
         wit/provider.wit, or run a Palisade that serves it",
        escaped(version),
        SERVED.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_served_is_named_with_the_reason() {
        for served in ["palisade:provider/http@0.1.0", "wasi:io/streams@0.2.0", "wasi:cli/stderr@0.2.12"] {
            assert_eq!(refuse_import(served), None, "{served}");
        }
        for (name, why) in [
            ("palisade:provider/http@0.2.0", "this Palisade serves 0.1.0"),
            ("palisade:provider/http", "this Palisade serves 0.1.0"),
            ("palisade:provider/secrets@0.1.0", "none of types, http"),
            ("wasi:http/outgoing-handler@0.2.0", "made by palisade:provider/http"),
            ("wasi:cli/environment@0.3.0", "only WASI 0.2"),
            ("wasi:keyvalue/store@0.2.0", "no part of WASI 0.2"),
            ("env", "only palisade:provider and WASI"),
        ] {
            let refused = refuse_import(name).unwrap();
            assert!(refused.contains(why) && refused.contains(name), "{refused}");
        }
    }
}
