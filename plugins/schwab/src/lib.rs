//! Charles Schwab's Trader API
//! (<https://developer.schwab.com/products/trader-api--individual/details/documentation/Retail%20Trader%20API%20Production>).
//!
//! - An access token lives 30 minutes, a refresh token seven days from the user's consent: a refresh does not
//!   renew it. When it ends is kept from the exchange on, so that every refresh can say how long is left.
//! - A refresh token that has ended is answered with error codes of their own.

use palisade_provider::oauth2::{self, About, Flow, PkceMethod, Step};
use palisade_provider::{Context, CurrentTokens, Failure, Fields, Pkce, Tokens};

/// Schwab accounts.
pub struct Schwab;

/// There is nothing to say.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

/// How long a refresh token lives, in seconds.
const LIFE: u64 = 7 * 24 * 60 * 60;

/// Under which name its end is kept, in seconds since 1970.
const ENDS_AT: &str = "refresh_ends_at";

impl Flow for Schwab {
    type Settings = Settings;

    fn about() -> About {
        About {
            display_name: "Charles Schwab",
            version: env!("CARGO_PKG_VERSION"),
            docs: Some("https://developer.schwab.com/products/trader-api--individual"),
            settings: &[],
            scopes: &["readonly"],
        }
    }

    fn standard(_own: &Settings, _step: Step) -> Result<oauth2::Settings, Failure> {
        Ok(oauth2::Settings {
            authorize_url: Some("https://api.schwabapi.com/v1/oauth/authorize".into()),
            token_url: "https://api.schwabapi.com/v1/oauth/token".into(),
            pkce: PkceMethod::Off,
            invalid_grant: vec!["refresh_token_authentication_error".into(), "unsupported_token_type".into()],
            ..oauth2::Settings::default()
        })
    }

    fn exchange(cx: &Context<'_>, own: &Settings, callback: &Fields, pkce: &Pkce) -> Result<Tokens, Failure> {
        let mut tokens = oauth2::exchange(cx, &Self::standard(own, Step::Exchange)?, callback, pkce)?;
        tokens.refresh_expires_in = Some(LIFE);
        tokens.keep.set(ENDS_AT, cx.now().saturating_add(LIFE).to_string());
        Ok(tokens)
    }

    fn refresh(cx: &Context<'_>, own: &Settings, current: &CurrentTokens) -> Result<Tokens, Failure> {
        let mut tokens = oauth2::refresh(cx, &Self::standard(own, Step::Refresh)?, current)?;
        // Unknown for tokens that were imported: then no day is reported instead of a wrong one.
        let ends_at = cx.connection.kept.get(ENDS_AT).and_then(|end| end.parse::<u64>().ok());
        tokens.refresh_expires_in = ends_at.map(|end| end.saturating_sub(cx.now()));
        Ok(tokens)
    }
}

palisade_provider::register!(Schwab);
