//! The plugin host: providers as WebAssembly components (wasmtime), each call in an instance of its own.
//!
//! A component reaches nothing but what `wit/provider.wit` names, and no call of one takes longer or more
//! than `[providers.limits]` allows. Whatever it does costs that call, a line in the log and a count; the
//! gateway's own threads never run it. `docs/plugins.md` says what authors and operators see of it.
//!
//! - [`engine`]: compiler, instance pool, threads and ticks. [`cache`]: compiled components on disk.
//! - [`load`]: from bytes to linked code, or words that say why not.
//! - [`host`], [`credentials`], [`answers`], [`secrets`], [`lines`], [`limits`]: what a component is given, and how much
//!   of it.
//! - [`call`], [`plugin`], [`convert`], [`granted`]: one call, and what goes in and comes out.
//! - [`Plugins`]: the configured providers, loaded, watched and replaced.
//! - [`Bench`]: one component, tried before it is in service. [`interface`]: what its bytes tell.
//!   [`exchange`], [`player`], [`recorder`], [`mask`], [`spellings`], [`outcome`]: recorded exchanges, played and written.

mod answers;
mod bench;
mod bindings;
mod cache;
mod call;
mod convert;
mod credentials;
mod engine;
pub mod exchange;
mod granted;
mod host;
mod interface;
mod limits;
mod lines;
mod load;
mod mask;
mod outcome;
mod player;
mod plugin;
mod plugins;
mod recorder;
mod secrets;
mod spellings;

pub use self::bench::{Apparatus, Bench, Played, Tried};
pub use self::convert::unlisted;
pub use self::interface::{Fault, Interface, LARGE, LARGEST, SERVED, WIT, examine};
pub use self::lines::is_visible;
pub use self::outcome::{Described, Item};
pub use self::plugins::{CacheAt, Plugins, Standing, Wiring};
