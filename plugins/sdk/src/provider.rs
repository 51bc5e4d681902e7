//! What a plugin says about its provider: one method for each function of the WIT's interface `plugin`.

use serde::de::DeserializeOwned;

use crate::{Account, Authorization, Context, CurrentTokens, Description, Failure, Fields, Pkce, Tokens};

/// A provider. Every call runs in a fresh instance: nothing can be remembered between calls but by
/// [`Tokens::keep`].
///
/// A provider that speaks OAuth 2.0 implements [`crate::oauth2::Flow`] instead, and has this one by it.
pub trait Provider {
    /// `[providers.settings]` of the configuration. Let unknown keys be errors
    /// (`#[serde(deny_unknown_fields)]`), so that an operator's slip does not go unnoticed.
    type Settings: DeserializeOwned;

    /// What there is to say about this plugin. Called when it is loaded, so this is where settings are
    /// checked.
    ///
    /// # Errors
    /// [`Failure::Misconfigured`] keeps the provider out of service and tells the operator why.
    fn describe(settings: &Self::Settings) -> Result<Description, Failure>;

    /// Begins a connection. `state` must come back in the callback.
    ///
    /// # Errors
    /// Why there is nothing to visit.
    fn authorize(
        cx: &Context<'_>,
        settings: &Self::Settings,
        state: &str,
        pkce: &Pkce,
    ) -> Result<Authorization, Failure>;

    /// Completes a connection: what came back, for tokens.
    ///
    /// # Errors
    /// Why there are none.
    fn exchange(
        cx: &Context<'_>,
        settings: &Self::Settings,
        callback: &Fields,
        pkce: &Pkce,
    ) -> Result<Tokens, Failure>;

    /// Brings a fresh access token. After a timeout or a crash it may be called again with the same tokens.
    ///
    /// # Errors
    /// Why there is none; always, unless a provider overrides it.
    fn refresh(
        cx: &Context<'_>,
        settings: &Self::Settings,
        current: &CurrentTokens,
    ) -> Result<Tokens, Failure> {
        let _ = (cx, settings, current);
        Err(Failure::provider_error("this provider's tokens cannot be refreshed"))
    }

    /// Ends the grant at the provider. Only called when [`Description::can_revoke`]. A grant that has ended
    /// already is no failure.
    ///
    /// # Errors
    /// Why it may still be good; always, unless a provider overrides it.
    fn revoke(cx: &Context<'_>, settings: &Self::Settings, current: &CurrentTokens) -> Result<(), Failure> {
        let _ = (cx, settings, current);
        Err(Failure::provider_error("this provider's grants cannot be revoked"))
    }

    /// Says whose account it is. Only called when [`Description::can_identify`].
    ///
    /// # Errors
    /// Why that is not known; always, unless a provider overrides it.
    fn identity(
        cx: &Context<'_>,
        settings: &Self::Settings,
        current: &CurrentTokens,
    ) -> Result<Account, Failure> {
        let _ = (cx, settings, current);
        Err(Failure::provider_error("this provider does not say whose account it is"))
    }
}

/// Reads `[providers.settings]`, which come as a JSON object.
///
/// # Errors
/// [`Failure::Misconfigured`] names the key and what would do.
pub fn settings<T: DeserializeOwned>(json: &str) -> Result<T, Failure> {
    serde_json::from_str(json).map_err(|error| {
        // A place in the JSON says nothing to who wrote TOML.
        let said = error.to_string();
        let what = said.rsplit_once(" at line ").map_or(said.as_str(), |(what, _)| what);
        let before = json.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum::<usize>();
        let path = path_at(json.as_bytes(), before + error.column());
        Failure::misconfigured(if path.is_empty() || what.contains(&format!("`{path}`")) {
            format!("settings: {what}")
        } else {
            format!("settings: `{path}`: {what}")
        })
    })
}

/// The keys that lead to byte `end` of `json`, joined by dots. A deserializer that keeps track of them would
/// be a third of a component.
fn path_at(json: &[u8], end: usize) -> String {
    /// An object or a list that is open, with the key last seen in it.
    struct Open {
        key: Option<String>,
        expects_key: bool,
    }
    let mut open: Vec<Open> = Vec::new();
    let mut at = 0;
    while at < end.min(json.len()) {
        match json[at] {
            b'{' => open.push(Open { key: None, expects_key: true }),
            b'[' => open.push(Open { key: None, expects_key: false }),
            // What ends here is wrong as a whole: its own keys are not the place.
            b'}' | b']' => drop(open.pop()),
            b',' => {
                if let Some(Open { key: key @ Some(_), expects_key }) = open.last_mut() {
                    (*key, *expects_key) = (None, true);
                }
            }
            b'"' => {
                let start = at + 1;
                at = start;
                while at < json.len() && json[at] != b'"' {
                    at += if json[at] == b'\\' { 2 } else { 1 };
                }
                if let Some(innermost) = open.last_mut().filter(|innermost| innermost.expects_key) {
                    let key = String::from_utf8_lossy(&json[start..at.min(json.len())]).into_owned();
                    (innermost.key, innermost.expects_key) = (Some(key), false);
                }
            }
            _ => {}
        }
        at += 1;
    }
    open.into_iter().filter_map(|open| open.key).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        #[expect(dead_code, reason = "only read")]
        tenant: String,
        #[expect(dead_code, reason = "only read")]
        #[serde(default)]
        extra: BTreeMap<String, String>,
    }

    fn message(json: &str) -> String {
        settings::<Settings>(json).unwrap_err().message().to_owned()
    }

    #[test]
    fn a_slip_in_the_settings_is_named() {
        assert_eq!(message("{}"), "settings: missing field `tenant`");
        assert_eq!(
            message(r#"{"tenant":"a","tennant":1}"#),
            "settings: unknown field `tennant`, expected `tenant` or `extra`"
        );
        assert_eq!(
            message(r#"{"tenant":"a","extra":{"x":1}}"#),
            "settings: `extra.x`: invalid type: integer `1`, expected a string"
        );
        assert_eq!(
            message(r#"{"extra":{"a":"{","b":"\""},"tenant":["x"]}"#),
            "settings: `tenant`: invalid type: sequence, expected a string"
        );
        assert_eq!(
            message("{\"extra\":\n{\"a\":null}}"),
            "settings: `extra.a`: invalid type: null, expected a string"
        );
        assert_eq!(message("[]").split(':').next(), Some("settings"));
        assert_eq!(message("{\"").split(':').next(), Some("settings"));
        assert!(settings::<Settings>(r#"{"tenant":"a"}"#).is_ok());
    }
}
