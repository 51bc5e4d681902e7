//! Palisade: an authentication gateway that runs beside a web application.
//!
//! # The map
//! - [`palisade_core`], a crate of its own (`src/core/`) that does no I/O:
//!   - [`domain`](palisade_core::domain): floor 1, what is true. No async, no clock.
//!   - [`ports`](palisade_core::ports): floor 2, what we need from outside, as traits.
//!   - [`service`](palisade_core::service): floor 3, the use cases, one file each.
//! - [`edge`]: floor 4, one room per outside thing: proxy (pingora), api (axum), jwt, store (sled),
//!   passwords (bcrypt), limits, devices, mail (lettre), fetch (reqwest), wasm (wasmtime), vault (orion),
//!   webhook, telemetry and the audit log.
//! - [`config`]: `config.toml`, typed and valid; the catalogue of providers. [`cli`]: one file per
//!   command. [`app`]: the composition root, the only room that names every room of `edge`.
//! - What several rooms of `edge` share: [`durable`] replaces a file of the data folder, [`http_fields`] converts header
//!   fields, [`templates`] and [`html`] make texts for people, [`by_end`] hashes what ends in a signature.
//!
//! # The law
//! Each floor uses only the floors below it, rooms on one floor never name each other, and only a room
//! imports its outside crate. The manifests and `tests/tidy.rs` enforce it.
//!
//! # A request's way
//! `edge::proxy::listener → inbound → service::admit (route → authenticate → revoked? → policy) →
//! Permit → upstream`, or `→ outbound` (refusal, redirect), or `→ bridge → edge::api`.
//!
//! # An account's way
//! `edge::api::native → service::accounts (one file per use case: register, login, refresh, recover …) →
//! Store::commit`; what must not show whether an account exists goes on in `service::tasks`, mail in
//! `service::outbox`.

// One exception, with its proof: `edge::wasm::cache` runs what it has compiled before.
#![deny(unsafe_code)]

pub mod app;
pub mod by_end;
pub mod cli;
pub mod config;
pub mod durable;
pub mod edge;
pub mod html;
pub mod http_fields;
pub mod templates;
