//! Where the crate meets the WIT: the generated bindings, and the way from their types to ours and back.
//! Only `register!` uses it.

#![allow(unsafe_code, missing_docs, clippy::all, clippy::pedantic, reason = "generated")]

use std::marker::PhantomData;

use exports::palisade::provider::plugin::{self as wire_plugin, Guest};
use palisade::provider::{clock, http as wire_http, log, types as wire};

use crate::http::{BasicEncoding, ClientAuth, Method, Place, Request, Response, SendError};
use crate::{
    Account, Authorization, Connection, Context, CurrentTokens, Description, Failure, Host, Level, Pkce,
    Provider, Tokens,
};

wit_bindgen::generate!({
    path: "wit",
    world: "provider",
    pub_export_macro: true,
    default_bindings_module: "palisade_provider::component",
});

/// The component that a provider is exported as.
pub struct Component<P>(PhantomData<P>);

impl<P: Provider> Guest for Component<P> {
    fn describe(settings: String) -> Result<wire_plugin::Description, wire::Failure> {
        report_panics();
        let description = crate::settings(&settings).and_then(|settings| P::describe(&settings));
        Ok(description?.into())
    }

    fn authorize(
        connection: wire::Connection,
        state: String,
        pkce: wire::Pkce,
    ) -> Result<wire_plugin::Authorization, wire::Failure> {
        let authorization =
            call::<P, _>(connection, |cx, settings| P::authorize(cx, settings, &state, &pkce.into()))?;
        Ok(match authorization {
            Authorization::Visit(url) => wire_plugin::Authorization::Visit(url),
            Authorization::Unattended => wire_plugin::Authorization::Unattended,
        })
    }

    fn exchange(
        connection: wire::Connection,
        callback: Vec<wire::Field>,
        pkce: wire::Pkce,
    ) -> Result<wire::Tokens, wire::Failure> {
        call::<P, _>(connection, |cx, settings| P::exchange(cx, settings, &callback.into(), &pkce.into()))
            .map(Into::into)
    }

    fn refresh(
        connection: wire::Connection,
        current: wire::CurrentTokens,
    ) -> Result<wire::Tokens, wire::Failure> {
        call::<P, _>(connection, |cx, settings| P::refresh(cx, settings, &current.into())).map(Into::into)
    }

    fn revoke(connection: wire::Connection, current: wire::CurrentTokens) -> Result<(), wire::Failure> {
        call::<P, _>(connection, |cx, settings| P::revoke(cx, settings, &current.into()))
    }

    fn identity(
        connection: wire::Connection,
        current: wire::CurrentTokens,
    ) -> Result<wire::Account, wire::Failure> {
        call::<P, _>(connection, |cx, settings| P::identity(cx, settings, &current.into())).map(Into::into)
    }
}

fn call<P: Provider, T>(
    connection: wire::Connection,
    work: impl FnOnce(&Context<'_>, &P::Settings) -> Result<T, Failure>,
) -> Result<T, wire::Failure> {
    report_panics();
    let settings = crate::settings(&connection.settings)?;
    let connection = Connection {
        client_id: connection.client_id,
        redirect_uri: connection.redirect_uri,
        parameters: connection.parameters.into(),
        kept: connection.kept.into(),
        scopes: connection.scopes,
    };
    Ok(work(&Context::new(&connection, &Gateway), &settings)?)
}

/// A panic ends the call as a trap, which says nothing. Its message may quote a token; its place does not.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        log::write(log::Level::Error, &format!("the plugin panicked at {place}"));
    }));
}

/// Palisade, as a component sees it.
struct Gateway;

impl Host for Gateway {
    fn send(&self, request: &Request) -> Result<Response, SendError> {
        let response = wire_http::send(&request.clone().into()).map_err(|error| match error {
            wire_http::SendError::Denied(why) => SendError::Denied(why),
            wire_http::SendError::Timeout => SendError::Timeout,
            wire_http::SendError::Unreachable(why) => SendError::Unreachable(why),
            wire_http::SendError::TooLarge => SendError::TooLarge,
        })?;
        Ok(Response { status: response.status, headers: response.headers, body: response.body })
    }

    fn now(&self) -> u64 {
        clock::now()
    }

    fn log(&self, level: Level, message: &str) {
        let level = match level {
            Level::Debug => log::Level::Debug,
            Level::Info => log::Level::Info,
            Level::Warn => log::Level::Warn,
            Level::Error => log::Level::Error,
        };
        log::write(level, message);
    }
}

impl From<Request> for wire_http::Request {
    fn from(request: Request) -> Self {
        Self {
            method: match request.method {
                Method::Get => wire_http::Method::Get,
                Method::Post => wire_http::Method::Post,
                Method::Put => wire_http::Method::Put,
                Method::Patch => wire_http::Method::Patch,
                Method::Delete => wire_http::Method::Delete,
                Method::Head => wire_http::Method::Head,
            },
            url: request.url,
            headers: request.headers,
            body: request.body,
            client_auth: request.client_auth.into(),
        }
    }
}

impl From<ClientAuth> for wire_http::ClientAuth {
    fn from(auth: ClientAuth) -> Self {
        match auth {
            ClientAuth::None => Self::None,
            ClientAuth::Basic(BasicEncoding::Form) => Self::Basic(wire_http::BasicEncoding::Form),
            ClientAuth::Basic(BasicEncoding::Raw) => Self::Basic(wire_http::BasicEncoding::Raw),
            ClientAuth::Post(parameters) => Self::Post(wire_http::CredentialParameters {
                id: parameters.id,
                secret: parameters.secret,
                place: match parameters.place {
                    Place::Body => wire_http::Place::Body,
                    Place::Query => wire_http::Place::Query,
                },
            }),
            ClientAuth::PrivateKeyJwt(assertion) => Self::PrivateKeyJwt(wire_http::Assertion {
                algorithm: assertion.algorithm,
                key_id: assertion.key_id,
                issuer: assertion.issuer,
                subject: assertion.subject,
                audience: assertion.audience,
                lifetime: assertion.lifetime,
                claims: assertion.claims,
                parameter: assertion.parameter,
            }),
        }
    }
}

impl From<wire::Pkce> for Pkce {
    fn from(pkce: wire::Pkce) -> Self {
        Self { verifier: pkce.verifier, challenge: pkce.challenge }
    }
}

impl From<wire::CurrentTokens> for CurrentTokens {
    fn from(current: wire::CurrentTokens) -> Self {
        Self {
            access_token: current.access_token,
            refresh_token: current.refresh_token,
            expires_at: current.expires_at,
            id_token: current.id_token,
        }
    }
}

impl From<Tokens> for wire::Tokens {
    fn from(tokens: Tokens) -> Self {
        Self {
            access_token: tokens.access_token,
            token_type: tokens.token_type,
            expires_in: tokens.expires_in,
            refresh_token: tokens.refresh_token,
            refresh_expires_in: tokens.refresh_expires_in,
            scopes: tokens.scopes,
            id_token: tokens.id_token,
            keep: tokens.keep.into_inner(),
        }
    }
}

impl From<Account> for wire::Account {
    fn from(account: Account) -> Self {
        Self {
            subject: account.subject,
            email: account.email,
            email_verified: account.email_verified,
            name: account.name,
        }
    }
}

impl From<Failure> for wire::Failure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::InvalidGrant(message) => Self::InvalidGrant(message),
            Failure::Transient { message, retry_after } => {
                Self::Transient(wire::Transient { message, retry_after })
            }
            Failure::Misconfigured(message) => Self::Misconfigured(message),
            Failure::ProviderError(message) => Self::ProviderError(message),
        }
    }
}

impl From<Description> for wire_plugin::Description {
    fn from(description: Description) -> Self {
        let setting = |setting: crate::Setting| wire_plugin::Setting {
            name: setting.name,
            summary: setting.summary,
            required: setting.required,
        };
        let parameter = |parameter: crate::Parameter| wire_plugin::Parameter {
            name: parameter.name,
            summary: parameter.summary,
            pattern: parameter.pattern,
            example: parameter.example,
            required: parameter.required,
        };
        Self {
            display_name: description.display_name,
            version: description.version,
            docs: description.docs,
            settings: description.settings.into_iter().map(setting).collect(),
            parameters: description.parameters.into_iter().map(parameter).collect(),
            scopes: description.scopes,
            hosts: description.hosts,
            can_refresh: description.can_refresh,
            can_revoke: description.can_revoke,
            can_identify: description.can_identify,
        }
    }
}
