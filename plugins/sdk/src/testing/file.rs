//! The file of a recorded exchange.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::http::{Assertion, BasicEncoding, ClientAuth, CredentialParameters, Method, Place};
use crate::{Connection, CurrentTokens, Fields, Pkce};

/// A recorded exchange.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// What it shows.
    pub about: String,
    /// Where the provider documents what is seen here.
    pub source: Option<String>,
    /// Which function is called.
    pub(super) call: Call,
    /// The clock, in seconds since 1970.
    #[serde(default = "some_moment")]
    pub(super) now: u64,
    #[serde(default)]
    pub(super) settings: BTreeMap<String, Value>,
    #[serde(default)]
    pub(super) connection: Given,
    #[serde(default)]
    pub(super) input: Input,
    #[serde(default)]
    pub(super) requests: Vec<Expected>,
    pub(super) result: Outcome,
}

impl Exchange {
    /// Reads a file's text.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let exchange: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        let bodies = |body: &Body| {
            [body.form.is_some(), body.json.is_some(), body.body.is_some()].iter().filter(|is| **is).count()
        };
        for (index, request) in exchange.requests.iter().enumerate() {
            let of_answer = request.answer.iter().flat_map(|answer| answer.other.keys());
            if let Some(name) = request.other.keys().chain(of_answer).next() {
                return Err(format!("requests[{index}] has the unknown key `{name}`"));
            }
            let answers = usize::from(request.answer.is_some()) + usize::from(request.fails.is_some());
            if answers != 1 {
                return Err(format!("requests[{index}] needs either `answer` or `fails`"));
            }
            if bodies(&request.body) > 1
                || request.answer.as_ref().is_some_and(|answer| bodies(&answer.body) > 1)
            {
                return Err(format!("requests[{index}] has more than one of `form`, `json` and `body`"));
            }
        }
        Ok(exchange)
    }

    pub(super) fn connection(&self) -> Connection {
        Connection {
            client_id: self.connection.client_id.clone(),
            redirect_uri: self.connection.redirect_uri.clone(),
            parameters: fields(&self.connection.parameters),
            kept: fields(&self.connection.kept),
            scopes: self.connection.scopes.clone(),
        }
    }
}

fn some_moment() -> u64 {
    1_767_225_600
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Call {
    Describe,
    Authorize,
    Exchange,
    Refresh,
    Revoke,
    Identity,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Given {
    client_id: String,
    redirect_uri: String,
    parameters: BTreeMap<String, Texts>,
    kept: BTreeMap<String, Texts>,
    scopes: Vec<String>,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            client_id: "client-1".into(),
            redirect_uri: "https://app.example/auth/connections/callback".into(),
            parameters: BTreeMap::new(),
            kept: BTreeMap::new(),
            scopes: Vec::new(),
        }
    }
}

/// One value, or several under the same name.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Texts {
    One(String),
    Several(Vec<String>),
}

/// A table of texts, as fields.
pub(super) fn fields(table: &BTreeMap<String, Texts>) -> Fields {
    let mut fields = Fields::default();
    for (name, texts) in table {
        match texts {
            Texts::One(text) => fields.push(name.as_str(), text.as_str()),
            Texts::Several(texts) => texts.iter().for_each(|text| fields.push(name.as_str(), text.as_str())),
        }
    }
    fields
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Input {
    pub state: String,
    pkce: Verifier,
    pub callback: BTreeMap<String, Texts>,
    tokens: Current,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            state: "state-1".into(),
            pkce: Verifier::default(),
            callback: BTreeMap::new(),
            tokens: Current::default(),
        }
    }
}

impl Input {
    pub fn pkce(&self) -> Pkce {
        Pkce { verifier: self.pkce.verifier.clone(), challenge: self.pkce.challenge.clone() }
    }

    /// What no log line and no failure may repeat.
    pub fn secrets(&self) -> Vec<String> {
        let tokens = self.tokens();
        let code = fields(&self.callback).get("code").map(str::to_owned);
        [Some(tokens.access_token), tokens.refresh_token, tokens.id_token, code]
            .into_iter()
            .flatten()
            .chain([self.pkce.verifier.clone()])
            .filter(|secret| !secret.is_empty())
            .collect()
    }

    pub fn tokens(&self) -> CurrentTokens {
        let tokens = self.tokens.clone();
        CurrentTokens {
            access_token: tokens.access_token,
            refresh_token: tokens.refresh_token,
            expires_at: tokens.expires_at,
            id_token: tokens.id_token,
        }
    }
}

/// The example of RFC 7636, appendix B, unless it says otherwise.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Verifier {
    verifier: String,
    challenge: String,
}

impl Default for Verifier {
    fn default() -> Self {
        Self {
            verifier: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".into(),
            challenge: "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM".into(),
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Current {
    access_token: String,
    refresh_token: Option<String>,
    expires_at: Option<u64>,
    id_token: Option<String>,
}

/// A request that must be made, and what comes of it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Expected {
    pub method: String,
    pub url: String,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    #[serde(flatten)]
    pub body: Body,
    #[serde(default)]
    pub client_auth: Auth,
    pub answer: Option<Answer>,
    pub fails: Option<Fails>,
    #[serde(flatten)]
    other: Unknown,
}

/// Keys that there are not: `deny_unknown_fields` does not go with `flatten`.
type Unknown = BTreeMap<String, serde::de::IgnoredAny>;

/// At most one of them.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Body {
    pub form: Option<BTreeMap<String, Texts>>,
    pub json: Option<Value>,
    pub body: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Answer {
    #[serde(default = "fine")]
    pub status: u16,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    #[serde(flatten)]
    pub body: Body,
    #[serde(flatten)]
    other: Unknown,
}

fn fine() -> u16 {
    200
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fails {
    Denied,
    Timeout,
    Unreachable,
    TooLarge,
}

/// As `client-auth` of the WIT.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Auth {
    #[default]
    None,
    Basic,
    BasicRaw,
    #[serde(untagged)]
    Post {
        post: Credentials,
    },
    #[serde(untagged)]
    PrivateKeyJwt {
        private_key_jwt: Jwt,
    },
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Credentials {
    id: Option<String>,
    secret: String,
    #[serde(default)]
    place: Where,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Where {
    #[default]
    Body,
    Query,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Jwt {
    algorithm: Option<String>,
    key_id: Option<String>,
    issuer: Option<String>,
    subject: Option<String>,
    audience: String,
    lifetime: u32,
    #[serde(default)]
    claims: serde_json::Map<String, Value>,
    parameter: Option<String>,
}

impl Auth {
    pub fn client_auth(&self) -> ClientAuth {
        match self.clone() {
            Self::None => ClientAuth::None,
            Self::Basic => ClientAuth::Basic(BasicEncoding::Form),
            Self::BasicRaw => ClientAuth::Basic(BasicEncoding::Raw),
            Self::Post { post } => ClientAuth::Post(CredentialParameters {
                id: post.id,
                secret: post.secret,
                place: match post.place {
                    Where::Body => Place::Body,
                    Where::Query => Place::Query,
                },
            }),
            Self::PrivateKeyJwt { private_key_jwt: jwt } => ClientAuth::PrivateKeyJwt(Assertion {
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
}

/// What must come of the call.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// Of `describe`: what is named here.
    Description(BTreeMap<String, Value>),
    /// Of `authorize`.
    Visit(String),
    /// Of `authorize`; always true.
    Unattended(bool),
    /// Of `exchange` and `refresh`.
    Tokens(Box<Granted>),
    /// Of `revoke`; always true.
    Done(bool),
    /// Of `identity`.
    Account(Person),
    /// Of any.
    Failure(Failed),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Granted {
    pub access_token: String,
    pub token_type: Option<String>,
    pub expires_in: Option<u64>,
    pub refresh_token: Option<String>,
    pub refresh_expires_in: Option<u64>,
    pub scopes: Option<Vec<String>>,
    pub id_token: Option<String>,
    #[serde(default)]
    pub keep: BTreeMap<String, Texts>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Person {
    pub subject: String,
    pub email: Option<String>,
    #[serde(default)]
    pub email_verified: bool,
    pub name: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Failed {
    /// `invalid-grant`, `transient`, `misconfigured` or `provider-error`.
    pub kind: String,
    /// What the message must have in it.
    #[serde(default)]
    pub message: String,
    pub retry_after: Option<u64>,
}

/// The method by its name on the wire.
pub(super) fn method(name: &str) -> Option<Method> {
    [Method::Get, Method::Post, Method::Put, Method::Patch, Method::Delete, Method::Head]
        .into_iter()
        .find(|method| method.as_str() == name)
}
