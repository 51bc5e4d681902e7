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
