//! Write a provider plugin for the [Palisade](https://docs.rs/palisade-provider) authentication gateway.
//!
//! A **provider** is a service at which people have accounts and that grants access to them by OAuth 2.0
//! or something like it. Palisade keeps the tokens, decides when to refresh them, and makes every request;
//! a plugin, a WebAssembly component, knows which requests to make and how to read the answers. It keeps
//! nothing between calls and never sees the client secret: [`http::ClientAuth`] says how the host is to
//! add it.
//!
//! Most providers need no plugin: the component `builtin:oauth2` does what its settings say. What settings
//! cannot say is a few lines on top of the same flow:
//!
//! ```
//! use palisade_provider::oauth2::{self, About, Flow, Step};
//! use palisade_provider::{Context, CurrentTokens, Account, Failure, http::Request};
//!
//! struct Example;
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Settings {
//!     region: String,
//! }
//!
//! impl Flow for Example {
//!     type Settings = Settings;
//!
//!     fn about() -> About {
//!         About {
//!             display_name: "Example",
//!             version: env!("CARGO_PKG_VERSION"),
//!             docs: Some("https://developer.example.com/oauth"),
//!             settings: &[("region", "Where the accounts are: `eu` or `us`.", true)],
//!             scopes: &["profile"],
//!         }
//!     }
//!
//!     fn standard(own: &Settings, _step: Step) -> Result<oauth2::Settings, Failure> {
//!         Ok(oauth2::Settings {
//!             authorize_url: Some("https://www.example.com/oauth/authorize".into()),
//!             token_url: format!("https://{}.example.com/oauth/token", own.region),
//!             identity: oauth2::IdentitySource::Userinfo,
//!             userinfo_url: Some("https://www.example.com/me".into()),
//!             ..oauth2::Settings::default()
//!         })
//!     }
//!
//!     // This provider's own way of saying whose account it is.
//!     fn identity(cx: &Context<'_>, own: &Settings, current: &CurrentTokens) -> Result<Account, Failure> {
//!         let url = format!("https://{}.example.com/whoami", own.region);
//!         let response = cx.send(&Request::get(url).bearer(&current.access_token))?;
//!         let answer: serde_json::Value = response.json()?;
//!         oauth2::account(&answer, &Self::standard(own, Step::Identity)?)
//!     }
//! }
//!
//! palisade_provider::register!(Example);
//! ```
//!
//! A provider that speaks something else implements [`Provider`] itself.
//!
//! # Tests
//! Nothing here needs WebAssembly but [`register!`]: on any other target the crate is plain Rust, and
//! `cargo test` runs a plugin against recorded exchanges (see [`testing`], feature `testing`).
//!
//! # Versions
//! This crate follows semantic versioning. Its minor version says which version of the WIT package
//! `palisade:provider` it speaks ([`WIT_VERSION`]); Palisade says which of those it serves. A component that
//! was built once goes on loading in every gateway that serves its version.

#![deny(unsafe_code)]

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod component;
mod context;
mod failure;
pub mod form;
pub mod http;
pub mod json;
pub mod jwt;
pub mod oauth2;
mod provider;
pub mod random;
mod reader;
mod salvage;
#[cfg(feature = "testing")]
pub mod testing;
mod types;
pub mod url;

pub use context::{Context, Host, Level};
pub use failure::Failure;
pub use provider::Provider;
pub use reader::settings;
pub use types::{
    Account, Authorization, Connection, CurrentTokens, Description, Fields, Parameter, Pkce, Setting, Tokens,
};

/// The version of the WIT package `palisade:provider` that this crate speaks.
pub const WIT_VERSION: &str = "0.1.0";

/// Makes a type that is a [`Provider`] what this component exports. Once in a crate, whose
/// `crate-type` has `cdylib`. Does nothing on targets other than WebAssembly.
#[macro_export]
macro_rules! register {
    ($provider:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type Exported = $crate::component::Component<$provider>;
    $crate::component::bindings::export!(Exported with_types_in $crate::component::bindings);
        };
    };
}
