//! What Palisade must know of {{name}}.
//!
//! The standard flow (RFC 6749, 7009, 7636) is in the SDK, which lies in `sdk/`. This says where, and what is
//! different.

use palisade_provider::oauth2::{self, About, Flow, Step};
use palisade_provider::{Failure, register};
use serde::Deserialize;

/// Where {{name}} is, unless `[providers.settings]` says otherwise.
const BASE: &str = "https://{{name}}.example";

struct Plugin;

/// `[providers.settings]` of Palisade's configuration. A key that is not here is an error that names it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    base_url: Option<String>,
}

impl Flow for Plugin {
    type Settings = Settings;

    fn about() -> About {
        About {
            display_name: "{{Name}}",
            version: env!("CARGO_PKG_VERSION"),
            docs: None,
            scopes: &[],
            settings: &[("base_url", "Where the provider is, if not at its usual address: a sandbox.", false)],
        }
    }

    /// Everything that `builtin:oauth2` can be told can be said here; docs/oauth2.md lists it.
    fn standard(settings: &Settings, _step: Step) -> Result<oauth2::Settings, Failure> {
        let base = settings.base_url.as_deref().unwrap_or(BASE);
        Ok(oauth2::Settings {
            authorize_url: Some(format!("{base}/auth")),
            token_url: format!("{base}/token"),
            revoke_url: Some(format!("{base}/token/revocation")),
            ..oauth2::Settings::default()
        })
    }

    // What no setting can say: override `authorize`, `exchange`, `refresh`, `revoke` or `identity`, and call
    // the function of the same name in `oauth2` for what is standard about it.
}

register!(Plugin);

#[cfg(test)]
mod tests {
    /// The same files that `palisade plugin test` plays with the component, in a fraction of the time.
    #[test]
    fn recorded_exchanges() {
        palisade_provider::testing::play_all::<super::Plugin>(concat!(env!("CARGO_MANIFEST_DIR"), "/exchanges"));
    }
}
