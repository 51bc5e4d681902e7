//! The standard flow (RFC 6749, 7009, 7636, OpenID Connect Core), driven by [`Settings`].
//!
//! [`Generic`] is `builtin:oauth2`: nothing but the settings of the configuration. A provider for which they
//! do not suffice is a [`Flow`]: it makes [`Settings`] of its own ones, and overrides the steps that are
//! different, in which the functions of this module do what the standard does.

mod answer;
mod authorize;
mod identity;
mod revoke;
mod settings;
mod token;
mod values;

pub use answer::{parse, refused, tokens};
pub use authorize::authorize;
pub use identity::{account, id_token, identity, userinfo};
pub use revoke::revoke;
pub use settings::{
    AnswerFields, AssertionSettings, BodyForm, ClientAuthMethod, IdentityFields, IdentitySource,
    ParameterSettings, PkceMethod, RefreshBy, RevokeAuth, RevokeMethod, RevokedToken, Settings, Success,
    TokenMethod,
};
pub use token::{alive, exchange, refresh, request_tokens, send_to_token_endpoint};
pub use values::{Values, client_auth};

use serde::de::DeserializeOwned;

use crate::{
    Account, Authorization, Context, CurrentTokens, Description, Failure, Fields, Parameter, Pkce, Provider,
    Setting, Tokens, url,
};

/// Which function of the plugin settings are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the methods of Provider")]
pub enum Step {
    Describe,
    Authorize,
    Exchange,
    Refresh,
    Revoke,
    Identity,
}

/// What a plugin says about itself.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// The provider's name as people know it.
    pub display_name: &'static str,
    /// The plugin's version: `env!("CARGO_PKG_VERSION")`.
    pub version: &'static str,
    /// Where the provider documents what the plugin does.
    pub docs: Option<&'static str>,
    /// The plugin's own settings: key, what it is for, whether nothing works without it.
    pub settings: &'static [(&'static str, &'static str, bool)],
    /// The scopes that are asked for when the operator names none.
    pub scopes: &'static [&'static str],
}

/// A provider that speaks OAuth 2.0, more or less. Every type that implements this is a [`Provider`].
pub trait Flow {
    /// `[providers.settings]` of the configuration; `#[serde(deny_unknown_fields)]` is a kindness.
    type Settings: DeserializeOwned;

    /// What the plugin says about itself.
    fn about() -> About;

    /// The standard flow's settings for `step`, of the plugin's own.
    ///
    /// # Errors
    /// [`Failure::Misconfigured`] when the plugin's settings make no sense.
    fn standard(settings: &Self::Settings, step: Step) -> Result<Settings, Failure>;

    /// See [`Provider::describe`].
    ///
    /// # Errors
    /// [`Failure::Misconfigured`] when the settings make no sense.
    fn describe(settings: &Self::Settings) -> Result<Description, Failure> {
        describe(&Self::about(), &Self::standard(settings, Step::Describe)?)
    }

    /// See [`Provider::authorize`].
    ///
    /// # Errors
    /// Those of [`authorize`].
    fn authorize(
        cx: &Context<'_>,
        settings: &Self::Settings,
        state: &str,
        pkce: &Pkce,
    ) -> Result<Authorization, Failure> {
        authorize(cx, &Self::standard(settings, Step::Authorize)?, state, pkce)
    }

    /// See [`Provider::exchange`].
    ///
    /// # Errors
    /// Those of [`exchange`].
    fn exchange(
        cx: &Context<'_>,
        settings: &Self::Settings,
        callback: &Fields,
        pkce: &Pkce,
    ) -> Result<Tokens, Failure> {
        exchange(cx, &Self::standard(settings, Step::Exchange)?, callback, pkce)
    }

    /// See [`Provider::refresh`].
    ///
    /// # Errors
    /// Those of [`refresh`].
    fn refresh(
        cx: &Context<'_>,
        settings: &Self::Settings,
        current: &CurrentTokens,
    ) -> Result<Tokens, Failure> {
        refresh(cx, &Self::standard(settings, Step::Refresh)?, current)
    }

    /// See [`Provider::revoke`].
    ///
    /// # Errors
    /// Those of [`revoke`].
    fn revoke(cx: &Context<'_>, settings: &Self::Settings, current: &CurrentTokens) -> Result<(), Failure> {
        revoke(cx, &Self::standard(settings, Step::Revoke)?, current)
    }

    /// See [`Provider::identity`].
    ///
    /// # Errors
    /// Those of [`identity`].
    fn identity(
        cx: &Context<'_>,
        settings: &Self::Settings,
        current: &CurrentTokens,
    ) -> Result<Account, Failure> {
        identity(cx, &Self::standard(settings, Step::Identity)?, current)
    }
}

impl<F: Flow> Provider for F {
    type Settings = <F as Flow>::Settings;

    fn describe(settings: &Self::Settings) -> Result<Description, Failure> {
        <F as Flow>::describe(settings)
    }

    fn authorize(
        cx: &Context<'_>,
        settings: &Self::Settings,
        state: &str,
        pkce: &Pkce,
    ) -> Result<Authorization, Failure> {
        <F as Flow>::authorize(cx, settings, state, pkce)
    }

    fn exchange(
        cx: &Context<'_>,
        settings: &Self::Settings,
        callback: &Fields,
        pkce: &Pkce,
    ) -> Result<Tokens, Failure> {
        <F as Flow>::exchange(cx, settings, callback, pkce)
    }

    fn refresh(
        cx: &Context<'_>,
        settings: &Self::Settings,
        current: &CurrentTokens,
    ) -> Result<Tokens, Failure> {
        <F as Flow>::refresh(cx, settings, current)
    }

    fn revoke(cx: &Context<'_>, settings: &Self::Settings, current: &CurrentTokens) -> Result<(), Failure> {
        <F as Flow>::revoke(cx, settings, current)
    }

    fn identity(
        cx: &Context<'_>,
        settings: &Self::Settings,
        current: &CurrentTokens,
    ) -> Result<Account, Failure> {
        <F as Flow>::identity(cx, settings, current)
    }
}

/// Any standard provider, by settings alone.
#[derive(Clone, Copy, Debug)]
pub struct Generic;

impl Generic {
    /// What `builtin:oauth2` says about itself.
    #[must_use]
    pub fn about() -> About {
        About {
            display_name: "OAuth 2.0",
            version: env!("CARGO_PKG_VERSION"),
            docs: Some("https://www.rfc-editor.org/rfc/rfc6749"),
            settings: settings::KNOWN,
            scopes: &[],
        }
    }
}

/// Not by [`Flow`]: its own settings are the standard ones, and need not be copied for each step.
impl Provider for Generic {
    type Settings = Settings;

    fn describe(settings: &Settings) -> Result<Description, Failure> {
        describe(&Self::about(), settings)
    }

    fn authorize(
        cx: &Context<'_>,
        settings: &Settings,
        state: &str,
        pkce: &Pkce,
    ) -> Result<Authorization, Failure> {
        authorize(cx, settings, state, pkce)
    }

    fn exchange(
        cx: &Context<'_>,
        settings: &Settings,
        callback: &Fields,
        pkce: &Pkce,
    ) -> Result<Tokens, Failure> {
        exchange(cx, settings, callback, pkce)
    }

    fn refresh(cx: &Context<'_>, settings: &Settings, current: &CurrentTokens) -> Result<Tokens, Failure> {
        refresh(cx, settings, current)
    }

    fn revoke(cx: &Context<'_>, settings: &Settings, current: &CurrentTokens) -> Result<(), Failure> {
        revoke(cx, settings, current)
    }

    fn identity(cx: &Context<'_>, settings: &Settings, current: &CurrentTokens) -> Result<Account, Failure> {
        identity(cx, settings, current)
    }
}

/// Checks `settings` and describes what a flow by them can do.
///
/// # Errors
/// Those of [`Settings::check`].
pub fn describe(about: &About, settings: &Settings) -> Result<Description, Failure> {
    settings.check()?;
    let mut hosts: Vec<String> = Vec::new();
    for host in settings.urls().iter().filter_map(|(_, template)| url::host_pattern(template)) {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    let setting = |&(name, summary, required): &(&str, &str, bool)| Setting {
        name: name.into(),
        summary: summary.into(),
        required,
    };
    let parameter = |parameter: &ParameterSettings| Parameter {
        name: parameter.name.clone(),
        summary: parameter.summary.clone(),
        pattern: parameter.pattern.clone(),
        example: parameter.example.clone(),
        required: parameter.required,
    };
    Ok(Description {
        display_name: settings.display_name.clone().unwrap_or_else(|| about.display_name.into()),
        version: about.version.into(),
        docs: settings.docs.clone().or_else(|| about.docs.map(Into::into)),
        settings: about.settings.iter().map(setting).collect(),
        parameters: settings.parameters.iter().map(parameter).collect(),
        scopes: about.scopes.iter().map(|&scope| scope.into()).collect(),
        hosts,
        can_refresh: settings.refresh_by() != RefreshBy::None,
        can_revoke: settings.revoke_url.is_some(),
        can_identify: settings.identity != IdentitySource::None,
    })
}
