//! Floor 4: one room per outside thing. Only that room imports its crate; no room names another.

pub mod admin_client;
pub mod api;
pub mod backup;
pub mod browser_sessions;
pub mod clock;
pub mod data_dir;
pub mod demo;
pub mod devices;
pub mod entropy;
pub mod fetch;
pub mod jwt;
pub mod limits;
pub mod machine;
pub mod mail;
pub mod own_secrets;
pub mod pages;
pub mod passwords;
pub mod postgres;
pub mod proxy;
pub mod store;
pub mod telemetry;
pub mod vault;
pub mod wasm;
pub mod webhook;
