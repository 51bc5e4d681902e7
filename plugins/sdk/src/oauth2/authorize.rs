//! The authorization request (RFC 6749 §4.1.1, RFC 7636 §4.3).

use super::settings::{PkceMethod, Settings};
use super::values::Values;
use crate::{Authorization, Context, Failure, Fields, Pkce, url};

/// The URL at which the user gives consent, or that there is no consent to give.
///
/// # Errors
/// [`Failure::Misconfigured`] and [`Failure::ProviderError`] when a template comes out wrong.
pub fn authorize(
    cx: &Context<'_>,
    settings: &Settings,
    state: &str,
    pkce: &Pkce,
) -> Result<Authorization, Failure> {
    let Some(template) = settings.authorize_url.as_deref().filter(|_| !settings.is_unattended()) else {
        return Ok(Authorization::Unattended);
    };
    let connection = cx.connection;
    let values = Values::new(cx);
    let mut fields = Fields::default();
    let mut add = |name: &str, value: &str| {
        if !name.is_empty() && !value.is_empty() {
            fields.push(name, value);
        }
    };
    // WeChat takes them in this order only; RFC 6749 has none.
    add(&settings.client_id_param, &connection.client_id);
    add(&settings.redirect_uri_param, &connection.redirect_uri);
    add("response_type", &settings.response_type);
    add(&settings.scope_param, &connection.scopes.join(&settings.scope_separator));
    add(&settings.state_param, state);
    values.add(&mut fields, &settings.authorize_params)?;
    // No setting replaces what protects the user.
    if fields.iter().filter(|(name, _)| *name == settings.state_param).ne([(&*settings.state_param, state)]) {
        fields.set(&settings.state_param, state);
    }
    let challenge = match settings.pkce {
        PkceMethod::S256 => Some((&pkce.challenge, "S256")),
        PkceMethod::Plain => Some((&pkce.verifier, "plain")),
        PkceMethod::Off => None,
    };
    if let Some((challenge, method)) = challenge {
        fields.set("code_challenge", challenge.as_str());
        fields.set("code_challenge_method", method);
    }
    Ok(Authorization::Visit(url::with_query(&values.url(template)?, &fields)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Connection, Host, Level, http};

    struct Alone;

    impl Host for Alone {
        fn send(&self, _: &http::Request) -> Result<http::Response, http::SendError> {
            Err(http::SendError::Denied("nothing is asked here".into()))
        }

        fn now(&self) -> u64 {
            0
        }

        fn log(&self, _: Level, _: &str) {}
    }

    fn url(settings: &Settings) -> String {
        let connection = Connection {
            client_id: "c".into(),
            redirect_uri: "r".into(),
            scopes: vec!["s".into()],
            ..Connection::default()
        };
        match authorize(&Context::new(&connection, &Alone), settings, "the-state", &Pkce::default()) {
            Ok(Authorization::Visit(url)) => url,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn parameters_come_in_one_order() {
        let mut settings = Settings {
            authorize_url: Some("https://a.example/#f".into()),
            pkce: PkceMethod::Off,
            ..Settings::default()
        };
        settings.authorize_params.set("x", "1");
        let want =
            "https://a.example/?client_id=c&redirect_uri=r&response_type=code&scope=s&state=the-state&x=1#f";
        assert_eq!(url(&settings), want);
    }

    #[test]
    fn no_setting_replaces_the_state() {
        let mut settings = Settings {
            authorize_url: Some("https://a.example/".into()),
            scope_param: "state".into(),
            ..Settings::default()
        };
        settings.authorize_params.set("state", "fixed");
        settings.authorize_params.set("code_challenge", "fixed");
        let url = url(&settings);
        assert!(url.contains("state=the-state") && !url.contains("fixed"), "{url}");
        assert_eq!(url.matches("state=").count(), 1, "{url}");
    }
}
