//! Parts of the gateway on their own: the configuration, the store, the plugin host with the catalogue, and the
//! command line.
//!
//! One binary, so that they are linked once; a suite is a module: `cargo test --test parts store::`.

mod backups;
mod catalogue;
mod check_and_run;
mod config;
mod fetch;
mod output;
mod passwords;
mod plugin_tools;
mod plugins;
mod routes;
mod store;
mod support;
