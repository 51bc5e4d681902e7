//! From bytes to a component that can be called, or to words that say why not.

use sha2::{Digest, Sha256};
use wasmtime::component::{Component, types::ComponentItem};

use super::bindings::ProviderPre;
use super::cache::Cache;
use super::engine::Machine;
use super::host::State;
use super::interface::{self, InterfaceFault, SERVED};
use super::lines::escaped;

/// A component, compiled and linked.
pub(super) struct Code {
    pub(super) pre: ProviderPre<State>,
    pub(super) sha256: [u8; 32],
}

/// The longest text about the faults of a component, in bytes.
const MOST_TOLD: usize = 2000;

/// The SHA-256 of a component's bytes.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Compiles, or finds compiled, what `bytes` hold. Takes up to seconds: not for a thread that serves.
///
/// # Errors
/// Why it cannot be used and what to do about it.
pub(super) fn load(machine: &Machine, cache: Option<&Cache>, bytes: &[u8]) -> Result<Code, String> {
    if let Some(fault) = interface::refuse_form(bytes) {
        return Err(fault.to_string());
    }
    let sha256 = sha256(bytes);
    let cached = cache.and_then(|cache| cache.load(&machine.engine, &sha256));
    let component = match cached {
        Some(component) => component,
        None => {
            let component = Component::from_binary(&machine.engine, bytes)
                .map_err(|error| or_plainly(bytes, "it does not compile", &error))?;
            if let Some(cache) = cache {
                cache.store(&sha256, &component);
            }
            component
        }
    };
    check(machine, &component)?;
    let unfit = |error: wasmtime::Error| or_plainly(bytes, "it does not fit wit/provider.wit", &error);
    let pre = machine.linker.instantiate_pre(&component).map_err(unfit)?;
    let pre = ProviderPre::new(pre).map_err(unfit)?;
    tracing::debug!(sha256 = hex::encode(sha256), "a component was loaded");
    Ok(Code { pre, sha256 })
}

/// What [`interface`] finds in `bytes` that the compiler or the linker refused; their own words when it
/// finds nothing.
fn or_plainly(bytes: &[u8], what: &str, error: &wasmtime::Error) -> String {
    let faults = interface::examine(bytes).faults;
    if faults.is_empty() {
        return format!("{what} ({}): {}", SERVED.join(", "), escaped(&format!("{error:#}")));
    }
    faults_text(faults)
}

fn faults_text(faults: Vec<InterfaceFault>) -> String {
    let mut text = faults.iter().map(InterfaceFault::to_string).collect::<Vec<_>>().join("; ");
    // A component can have as many faults as it likes; `palisade plugin check` tells them all.
    if text.len() > MOST_TOLD {
        text.truncate(text.floor_char_boundary(MOST_TOLD));
        text.push_str(" … (`palisade plugin check` tells the rest)");
    }
    text
}

/// Whether it imports nothing that is not served, and exports the plugin: by names, which is all that a
/// component that was compiled before has to show.
fn check(machine: &Machine, component: &Component) -> Result<(), String> {
    let kind = component.component_type();
    let imports: Vec<&str> = kind.imports(&machine.engine).map(|(name, _)| name).collect();
    let mut faults: Vec<InterfaceFault> =
        imports.iter().filter_map(|name| interface::refuse_import(name)).collect();
    let exported = kind
        .exports(&machine.engine)
        .filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentInstance(_)))
        .find_map(|(name, _)| interface::plugin_version(name));
    if exported.is_none() {
        faults.push(interface::no_plugin());
    }
    faults.extend(interface::refuse_versions(&imports, exported));
    if faults.is_empty() { Ok(()) } else { Err(faults_text(faults)) }
}
