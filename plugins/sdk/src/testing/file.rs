//! A recorded exchange, and its values in the SDK's own types. The format itself is the crate [`palisade_exchange`],
//! which the gateway reads the same files with.

use std::collections::BTreeMap;

use palisade_exchange::{Auth, FormatError, Input, RecordedExchange, Texts, Where, pairs};
use serde_json::Value;

use crate::http::{Assertion, BasicEncoding, ClientAuth, CredentialParameters, Method, Place};
use crate::{Connection, CurrentTokens, Fields, Pkce};

/// A recorded exchange.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// What it shows.
    pub about: String,
    /// Where the provider documents what is seen here.
    pub source: Option<String>,
    pub(super) recorded: RecordedExchange,
}

impl Exchange {
    /// Reads a file's text.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let recorded: RecordedExchange = toml::from_str(text).map_err(|error| error.to_string())?;
        recorded.check().map_err(|error| match error {
            FormatError::UnknownKey { index, name, .. } => {
                format!("requests[{index}] has the unknown key `{name}`")
            }
            error @ FormatError::Wrong(_) => error.to_string(),
        })?;
        Ok(Self { about: recorded.about.clone(), source: recorded.source.clone(), recorded })
    }

    pub(super) fn connection(&self) -> Connection {
        let given = &self.recorded.connection;
        Connection {
            client_id: given.client_id.clone(),
            redirect_uri: given.redirect_uri.clone(),
            parameters: fields(&given.parameters),
            kept: fields(&given.kept),
            scopes: given.scopes.clone(),
        }
    }
}

/// A table of texts, as fields.
pub(super) fn fields(table: &BTreeMap<String, Texts>) -> Fields {
    Fields::from(pairs(table))
}

pub(super) fn pkce(input: &Input) -> Pkce {
    Pkce { verifier: input.pkce.verifier.clone(), challenge: input.pkce.challenge.clone() }
}

pub(super) fn tokens(input: &Input) -> CurrentTokens {
    let tokens = input.tokens.clone();
    CurrentTokens {
        access_token: tokens.access_token,
        refresh_token: tokens.refresh_token,
        expires_at: tokens.expires_at,
        id_token: tokens.id_token,
    }
}

/// What no log line and no failure may repeat.
pub(super) fn secrets(input: &Input) -> Vec<String> {
    let tokens = tokens(input);
    let code = fields(&input.callback).get("code").map(str::to_owned);
    [Some(tokens.access_token), tokens.refresh_token, tokens.id_token, code]
        .into_iter()
        .flatten()
        .chain([input.pkce.verifier.clone()])
        .filter(|secret| !secret.is_empty())
        .collect()
}

/// What a plugin asks the host for, where a file says `auth`.
pub(super) fn client_auth(auth: &Auth) -> ClientAuth {
    match auth.clone() {
        Auth::None => ClientAuth::None,
        Auth::Basic => ClientAuth::Basic(BasicEncoding::Form),
        Auth::BasicRaw => ClientAuth::Basic(BasicEncoding::Raw),
        Auth::Post { post } => ClientAuth::Post(CredentialParameters {
            id: post.id,
            secret: post.secret,
            place: match post.place {
                Where::Body => Place::Body,
                Where::Query => Place::Query,
            },
        }),
        Auth::PrivateKeyJwt { private_key_jwt: jwt } => ClientAuth::PrivateKeyJwt(Assertion {
            algorithm: jwt.algorithm,
            key_id: jwt.key_id,
            issuer: jwt.issuer,
            subject: jwt.subject,
            audience: jwt.audience,
            lifetime: jwt.lifetime,
            claims: Value::Object(jwt.claims).to_string(),
            parameter: jwt.parameter,
        }),
    }
}

/// The method by its name on the wire.
pub(super) fn method(name: &str) -> Option<Method> {
    [Method::Get, Method::Post, Method::Put, Method::Patch, Method::Delete, Method::Head]
        .into_iter()
        .find(|method| method.as_str() == name)
}
