//! The plugin host: providers as WebAssembly components (wasmtime), each call in an instance of its own.
//!
//! A component reaches nothing but what `wit/provider.wit` names, and no call of one takes longer or more
//! than `[providers.limits]` allows. Whatever it does costs that call, a line in the log and a count; the
//! gateway's own threads never run it. `docs/plugins.md` says what authors and operators see of it.
//!
//! - [`engine`]: compiler, instance pool, threads and ticks. [`cache`]: compiled components on disk.
//! - [`load`]: from bytes to linked code, or words that say why not.
//! - [`host`], [`credentials`], [`answers`], [`secrets`], [`spellings`], [`lines`], [`limits`]: what a component is
//!   given, and how much of it.
//! - [`call`], [`plugin`], [`convert`], [`granted`]: one call, and what goes in and comes out.
//! - [`Plugins`]: the configured providers, loaded, watched and replaced.
//! - [`interface`]: what the bytes of a component tell.
//! - [`bench`]: tools for authors of plugins (`palisade plugin test`, `call`, `inspect`). A gateway runs none of it.

mod answers;
pub mod bench;
mod bindings;
mod cache;
mod call;
mod convert;
mod credentials;
mod engine;
mod granted;
mod host;
mod interface;
mod limits;
mod lines;
mod load;
mod plugin;
mod plugins;
mod secrets;
mod spellings;

pub use self::convert::unlisted;
pub use self::interface::{Interface, InterfaceFault, LARGE, LARGEST, SERVED, WIT, examine};
pub use self::lines::is_visible;
pub use self::plugins::{CacheAt, PluginStanding, Plugins, Wiring};
