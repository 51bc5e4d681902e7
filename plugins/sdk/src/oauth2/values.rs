//! What `${name}` stands for in a call, and how the client is authenticated.

use super::settings::{BodyForm, ClientAuthMethod, Settings, TokenMethod};
use crate::http::{Assertion, BasicEncoding, ClientAuth, CredentialParameters, Method, Place, Request};
use crate::{Context, Failure, Fields, json, url};

/// What `${name}` stands for: the client's own values, then what the user gave, then what came with this
/// very callback, then what was kept. The browser brought the callback, so it replaces nothing that the
/// user or the operator said.
#[derive(Clone, Copy)]
pub struct Values<'v> {
    cx: &'v Context<'v>,
    fresh: Option<&'v Fields>,
}

impl<'v> Values<'v> {
    /// The values of a call.
    #[must_use]
    pub fn new(cx: &'v Context<'v>) -> Self {
        Self { cx, fresh: None }
    }

    /// With what is about to be kept.
    #[must_use]
    pub fn and(cx: &'v Context<'v>, fresh: &'v Fields) -> Self {
        Self { cx, fresh: Some(fresh) }
    }

    /// What `name` stands for.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'v str> {
        let connection = self.cx.connection;
        match name {
            "client_id" => Some(&connection.client_id),
            "redirect_uri" => Some(&connection.redirect_uri),
            _ => connection
                .parameters
                .get(name)
                .or_else(|| self.fresh.and_then(|fresh| fresh.get(name)))
                .or_else(|| connection.kept.get(name)),
        }
    }

    /// The URL that `template` stands for.
    ///
    /// # Errors
    /// Those of [`url::expand`].
    pub fn url(&self, template: &str) -> Result<String, Failure> {
        url::expand(template, |name| self.get(name))
    }

    /// Adds the parameters that `templates` stand for to `fields`, each in place of what has its name.
    ///
    /// # Errors
    /// Those of [`url::fill`].
    pub fn add(&self, fields: &mut Fields, templates: &Fields) -> Result<(), Failure> {
        for (name, template) in templates.iter() {
            fields.set(name, url::fill(template, |name| self.get(name))?);
        }
        Ok(())
    }
}

/// How the client is authenticated by `method` at `url`, and the parameters that the plugin itself must send
/// for it.
#[must_use]
pub fn client_auth(
    settings: &Settings,
    method: ClientAuthMethod,
    client_id: &str,
    url: &str,
    in_query: bool,
) -> (ClientAuth, Fields) {
    let id = &settings.client_id_param;
    let credentials = |place| {
        ClientAuth::Post(CredentialParameters {
            id: (!id.is_empty()).then(|| id.clone()),
            secret: settings.client_secret_param.clone(),
            place,
        })
    };
    let auth = match method {
        ClientAuthMethod::Basic => ClientAuth::Basic(BasicEncoding::Form),
        ClientAuthMethod::BasicRaw => ClientAuth::Basic(BasicEncoding::Raw),
        ClientAuthMethod::Post if in_query => credentials(Place::Query),
        ClientAuthMethod::Post => credentials(Place::Body),
        ClientAuthMethod::Query => credentials(Place::Query),
        ClientAuthMethod::None => ClientAuth::None,
        ClientAuthMethod::PrivateKeyJwt => {
            let assertion = &settings.assertion;
            ClientAuth::PrivateKeyJwt(Assertion {
                algorithm: assertion.algorithm.clone(),
                key_id: assertion.key_id.clone(),
                issuer: assertion.issuer.clone(),
                subject: assertion.subject.clone(),
                audience: assertion.audience.clone().unwrap_or_else(|| url.to_owned()),
                lifetime: assertion.lifetime,
                claims: serde_json::Value::Object(assertion.claims.clone()).to_string(),
                parameter: assertion.parameter.clone(),
            })
        }
    };
    let mut own = Fields::default();
    // A public client says who it is (RFC 6749 §3.2.1); with credentials as parameters the host does.
    let by_host = matches!(method, ClientAuthMethod::Post | ClientAuthMethod::Query);
    if !id.is_empty() && !by_host && (settings.send_client_id || method == ClientAuthMethod::None) {
        own.push(id.as_str(), client_id);
    }
    (auth, own)
}

/// A request with `fields` where they go. Without any it has no body.
pub(super) fn with_fields(request: Request, fields: &Fields, in_query: bool, body: BodyForm) -> Request {
    match body {
        _ if fields.is_empty() => request,
        _ if in_query => request.query(fields),
        BodyForm::Form => request.form(fields),
        BodyForm::Json => request.json(&json::object(fields.iter())),
    }
}

/// A request with the header fields of the settings.
pub(super) fn with_headers(mut request: Request, settings: &Settings) -> Request {
    for (name, value) in settings.headers.iter() {
        request = request.header(name, value);
    }
    request
}

impl TokenMethod {
    pub(super) fn as_method(self) -> Method {
        match self {
            Self::Post => Method::Post,
            Self::Get => Method::Get,
        }
    }
}
