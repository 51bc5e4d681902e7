//! The composition root: [`Config`] in, a running gateway out. Only this room names every room of `edge`.
//!
//! A start has five phases, each a function whose result the next one takes: [`open`](open::open) (store, secrets,
//! keys), [`compose`](compose::compose) (the use cases), [`bind`](bind::bind) (listeners), [`load`](load::load)
//! (revocations, plugins, key sets of other issuers), [`serve`](serve::serve). `backend` makes the store.

mod accounts;
mod backend;
mod background;
pub(crate) mod backup;
mod backups;
mod bind;
mod closed;
mod compose;
mod connections;
mod credential;
mod ends;
mod fail_modes;
pub(crate) mod files;
mod key_checks;
pub(crate) mod key_files;
mod levels;
mod load;
pub(crate) mod migrate;
pub(crate) mod needed_keys;
mod open;
mod operator;
mod options;
mod restart;
pub(crate) mod restore;
mod running;
pub(crate) mod secrets;
mod serve;
mod shared;
mod shared_backend;
mod sockets;
mod state;
mod stores;
mod upstream_files;
pub(crate) mod warnings;
mod watch;

/// For commands that try one provider without a gateway.
pub(crate) use self::connections::{SHIPPED, callback_url, door, try_providers};
pub use self::options::{Accept, Options};
pub use self::running::{Demo, RunningGateway};
/// For commands about a store that replicas share.
pub(crate) use self::shared::{database_secrets, look_at_database};

use std::sync::Arc;

use crate::config::Config;
use crate::edge::clock::SystemClock;
use palisade_core::ports::Clock;

/// Starts everything. Returns once requests are served and the providers are loaded; until then the admin
/// listener answers, and `/readyz` says what is missing.
///
/// # Errors
/// What kept it from starting, with advice, as one printable text.
pub async fn start(config: Config, options: Options) -> Result<RunningGateway, String> {
    start_by(Arc::new(SystemClock), config, options).await
}

/// Like [`start`], by another clock than the machine's.
///
/// # Errors
/// As [`start`].
pub async fn start_by(
    clock: Arc<dyn Clock>,
    config: Config,
    options: Options,
) -> Result<RunningGateway, String> {
    // Boxed, because each of them holds much, and the compiler follows nested ones only so far.
    let opened = Box::pin(open::open(clock, config, options)).await?;
    let composed = Box::pin(compose::compose(opened)).await?;
    let bound = Box::pin(bind::bind(composed)).await?;
    let loaded = Box::pin(load::load(bound)).await?;
    Box::pin(serve::serve(loaded)).await
}
