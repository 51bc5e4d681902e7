//! The gateway as a whole: each suite starts it on free ports, with neighbours of the tests' own.
//!
//! One binary, so that the gateway is linked once; a suite is a module: `cargo test --test gateway accounts::`.

mod abuse;
mod accounts;
mod app_tokens;
mod browsers;
mod hosts;
mod http2;
mod injection;
mod logs;
mod migrating;
mod native_hosts;
mod probes;
mod requests;
mod revocation;
mod rules;
mod streams;
mod support;
mod tokens;
mod upstreams;
mod user_names;
mod watch;
mod webdav;
