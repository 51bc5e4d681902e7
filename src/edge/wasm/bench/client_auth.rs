//! How the bench reads `client_auth` of a recorded exchange. The format itself is the crate [`palisade_exchange`], which
//! the Rust SDK reads the same files with.

use palisade_exchange::{Auth, Credentials, Jwt, Where};
use serde_json::Value;

use super::super::bindings::palisade::provider::http::{
    Assertion, BasicEncoding, ClientAuth, CredentialParameters, Place,
};

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

/// The reverse: what a file says of what a plugin asked for.
pub(super) fn recorded_auth(auth: &ClientAuth) -> Auth {
    match auth {
        ClientAuth::None => Auth::None,
        ClientAuth::Basic(BasicEncoding::Form) => Auth::Basic,
        ClientAuth::Basic(BasicEncoding::Raw) => Auth::BasicRaw,
        ClientAuth::Post(names) => Auth::Post {
            post: Credentials {
                id: names.id.clone(),
                secret: names.secret.clone(),
                place: match names.place {
                    Place::Body => Where::Body,
                    Place::Query => Where::Query,
                },
            },
        },
        ClientAuth::PrivateKeyJwt(jwt) => Auth::PrivateKeyJwt {
            private_key_jwt: Box::new(Jwt {
                algorithm: jwt.algorithm.clone(),
                key_id: jwt.key_id.clone(),
                issuer: jwt.issuer.clone(),
                subject: jwt.subject.clone(),
                audience: jwt.audience.clone(),
                lifetime: jwt.lifetime,
                claims: serde_json::from_str(&jwt.claims).unwrap_or_default(),
                parameter: jwt.parameter.clone(),
            }),
        },
    }
}
