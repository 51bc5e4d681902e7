//! The least that a provider plugin can be: a place to begin with one for a provider that speaks no OAuth 2.0.
//!
//! This one exchanges a ticket for a token that has no end, at one URL.

use palisade_provider::http::{BasicEncoding, ClientAuth, Request};
use palisade_provider::{
    Authorization, Context, Description, Failure, Fields, Pkce, Provider, Setting, Tokens, url,
};

/// A provider that does not exist.
pub struct Minimal;

/// What the operator must say.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    url: String,
}

/// What the provider answers.
#[derive(serde::Deserialize)]
struct Answer {
    token: String,
}

impl Provider for Minimal {
    type Settings = Settings;

    fn describe(settings: &Settings) -> Result<Description, Failure> {
        url::check(&settings.url)
            .map_err(|why| Failure::misconfigured(format!("settings: `url`, `{}`, {why}", settings.url)))?;
        Ok(Description {
            display_name: "Minimal".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            settings: vec![Setting {
                name: "url".into(),
                summary: "Where tickets are drawn and exchanged.".into(),
                required: true,
            }],
            hosts: url::host_pattern(&settings.url).into_iter().collect(),
            ..Description::default()
        })
    }

    fn authorize(
        cx: &Context<'_>,
        settings: &Settings,
        state: &str,
        _pkce: &Pkce,
    ) -> Result<Authorization, Failure> {
        let fields: Fields =
            [("back", cx.connection.redirect_uri.as_str()), ("state", state)].into_iter().collect();
        Ok(Authorization::Visit(url::with_query(&settings.url, &fields)))
    }

    fn exchange(
        cx: &Context<'_>,
        settings: &Settings,
        callback: &Fields,
        _pkce: &Pkce,
    ) -> Result<Tokens, Failure> {
        let ticket = callback
            .get("ticket")
            .ok_or_else(|| Failure::provider_error("the callback came without `ticket`"))?;
        let request = Request::post(settings.url.as_str())
            .form(&[("ticket", ticket)].into_iter().collect())
            .client_auth(ClientAuth::Basic(BasicEncoding::Form));
        let response = cx.send(&request)?;
        if let Some(failure) = response.transient(cx.now()) {
            return Err(failure);
        }
        if !response.is_success() {
            return Err(Failure::provider_error(format!("it answered with status {}", response.status)));
        }
        let answer: Answer = response.json()?;
        Ok(Tokens { access_token: answer.token, ..Tokens::default() })
    }
}

palisade_provider::register!(Minimal);
