//! Core modules to components, and a look at what came out. Nothing here knows this repository.

use wit_component::{ComponentEncoder, DecodedWasm, decode};
use wit_parser::WorldItem;

use crate::Outcome;

/// The package whose world a plugin implements.
const PACKAGE: &str = "palisade:provider";

/// Makes a component of a core module that carries its WIT, as `wit-bindgen` leaves it. No adapter is
/// linked: a module that imports WASI is refused.
///
/// # Errors
/// What the module lacks.
pub fn encode(core: &[u8]) -> Outcome<Vec<u8>> {
    let encoder = ComponentEncoder::default().validate(true).module(core);
    let bytes = encoder.and_then(|mut encoder| encoder.encode());
    bytes.map_err(|error| format!("it cannot be made a component: {error:#}").into())
}

/// The WIT package that `component` implements, with its version, after a look that it imports nothing else.
///
/// # Errors
/// What it imports or does not export.
pub fn interface(component: &[u8]) -> Outcome<String> {
    let DecodedWasm::Component(resolve, world) =
        decode(component).map_err(|error| format!("it is no component: {error:#}"))?
    else {
        return Err("it is a WIT package and not a component".into());
    };
    let world = &resolve.worlds[world];
    let name = |key| resolve.name_world_key(key);
    let is_ours = |name: &str| name.strip_prefix(PACKAGE).is_some_and(|rest| rest.starts_with('/'));
    for (key, item) in &world.imports {
        if !matches!(item, WorldItem::Interface { .. }) || !is_ours(&name(key)) {
            return Err(format!("it imports `{}`, which is none of {PACKAGE}", name(key)).into());
        }
    }
    let exported = world.exports.keys().map(name).find(|name| name.starts_with(&format!("{PACKAGE}/plugin")));
    let exported = exported.ok_or_else(|| format!("it does not export {PACKAGE}/plugin"))?;
    let version = exported.split_once('@').map_or("", |(_, version)| version);
    Ok(format!("{PACKAGE}@{version}"))
}
