//! Recorded exchanges: what a call of a plugin is given, which requests it must make, what each is answered,
//! and what must come of it. `plugins/README.md` describes every key of the files.
//!
//! The Rust SDK reads the same files (`palisade_provider::testing`); what holds there holds here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::super::bindings::palisade::provider::http::{
    Assertion, BasicEncoding, ClientAuth, CredentialParameters, Place,
};

/// One recorded exchange.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// What it shows.
    pub about: String,
    /// Where the provider documents what is seen here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Which function is called.
    pub call: Call,
    /// The clock, in seconds since 1970.
    #[serde(default = "some_moment")]
    pub now: u64,
    /// `[providers.settings]`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub settings: Map<String, Value>,
    #[serde(default)]
    pub connection: Given,
    #[serde(default)]
    pub input: Input,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<Expected>,
    pub result: Outcome,
}

fn some_moment() -> u64 {
    1_767_225_600
}

impl Exchange {
    /// Whether what was read makes sense as a whole.
    ///
    /// # Errors
    /// The first thing that does not.
    pub fn check(&self) -> Result<(), String> {
        match &self.result {
            Outcome::Done(false) | Outcome::Unattended(false) => {
                return Err("result: `done` and `unattended` can only be true".to_owned());
            }
            Outcome::Failure(failure) if !KINDS.contains(&&*failure.kind) => {
                return Err(format!("result.failure: `{}` is none of {}", failure.kind, KINDS.join(", ")));
            }
            _ => {}
        }
        for (index, request) in self.requests.iter().enumerate() {
            let answer = request.answer.as_ref();
            for (what, known, other) in [
                (String::new(), &REQUEST[..], Some(&request.other)),
                (".answer".to_owned(), &ANSWER[..], answer.map(|answer| &answer.other)),
            ] {
                if let Some(name) = other.and_then(|other| other.keys().next()) {
                    return Err(format!(
                        "requests[{index}]{what}: unknown key `{name}`, expected one of {}",
                        known.join(", ")
                    ));
                }
            }
            if request.answer.is_some() == request.fails.is_some() {
                return Err(format!("requests[{index}] needs either `answer` or `fails`"));
            }
            if request.body.count() > 1
                || request.answer.as_ref().is_some_and(|answer| answer.body.count() > 1)
            {
                return Err(format!("requests[{index}] has more than one of `form`, `json` and `body`"));
            }
            if !METHODS.contains(&&*request.method) {
                return Err(format!(
                    "requests[{index}]: `{}` is none of {}",
                    request.method,
                    METHODS.join(", ")
                ));
            }
        }
        Ok(())
    }

    /// A call with nothing given and nothing expected.
    #[must_use]
    pub fn empty(call: Call) -> Exchange {
        Exchange {
            about: String::new(),
            source: None,
            call,
            now: some_moment(),
            settings: Map::new(),
            connection: Given::default(),
            input: Input::default(),
            requests: Vec::new(),
            result: Outcome::Done(true),
        }
    }
}

/// What a request may say.
const REQUEST: [&str; 9] =
    ["method", "url", "headers", "client_auth", "form", "json", "body", "answer", "fails"];
/// And its answer.
const ANSWER: [&str; 5] = ["status", "headers", "form", "json", "body"];
/// How a call may fail: as plugins say it, and as the host does.
const KINDS: [&str; 6] =
    ["invalid-grant", "transient", "misconfigured", "provider-error", "plugin-failed", "invalid-parameter"];
const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"];

/// The functions of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Call {
    Describe,
    Authorize,
    Exchange,
    Refresh,
    Revoke,
    Identity,
}

impl Call {
    /// The name in the WIT.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Call::Describe => "describe",
            Call::Authorize => "authorize",
            Call::Exchange => "exchange",
            Call::Refresh => "refresh",
            Call::Revoke => "revoke",
            Call::Identity => "identity",
        }
    }
}

/// The connection that the call is about.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Given {
    pub client_id: String,
    pub redirect_uri: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub kept: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

impl Default for Given {
    fn default() -> Given {
        Given {
            client_id: "client-1".to_owned(),
            redirect_uri: "https://app.example/auth/connections/callback".to_owned(),
            parameters: BTreeMap::new(),
            kept: BTreeMap::new(),
            scopes: Vec::new(),
        }
    }
}

/// One value, or several under the same name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Texts {
    One(String),
    Several(Vec<String>),
}

/// A table of texts, as pairs.
pub(super) fn pairs(table: &BTreeMap<String, Texts>) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for (name, texts) in table {
        match texts {
            Texts::One(text) => pairs.push((name.clone(), text.clone())),
            Texts::Several(texts) => pairs.extend(texts.iter().map(|text| (name.clone(), text.clone()))),
        }
    }
    pairs
}

/// What else the call is given.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Input {
    pub state: String,
    pub pkce: Verifier,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub callback: BTreeMap<String, Texts>,
    pub tokens: Current,
}

impl Default for Input {
    fn default() -> Input {
        Input {
            state: "state-1".to_owned(),
            pkce: Verifier::default(),
            callback: BTreeMap::new(),
            tokens: Current::default(),
        }
    }
}

/// The example of RFC 7636, appendix B, unless it says otherwise.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Verifier {
    pub verifier: String,
    pub challenge: String,
}

impl Default for Verifier {
    fn default() -> Verifier {
        Verifier {
            verifier: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".to_owned(),
            challenge: "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM".to_owned(),
        }
    }
}

/// The tokens that the connection has.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Current {
    pub access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_token: Option<String>,
}

/// A request that must be made, and what comes of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Expected {
    pub method: String,
    pub url: String,
    #[serde(default, skip_serializing_if = "Auth::is_none")]
    pub client_auth: Auth,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    #[serde(flatten)]
    pub body: Body,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fails: Option<Fails>,
    #[serde(flatten, skip_serializing)]
    pub other: Unknown,
}

/// Keys that there are not: `deny_unknown_fields` does not go with `flatten`.
pub type Unknown = BTreeMap<String, serde::de::IgnoredAny>;

/// At most one of them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Body {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<BTreeMap<String, Texts>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

impl Body {
    fn count(&self) -> usize {
        [self.form.is_some(), self.json.is_some(), self.body.is_some()].iter().filter(|is| **is).count()
    }
}

/// What a request is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    #[serde(default = "fine")]
    pub status: u16,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    #[serde(flatten)]
    pub body: Body,
    #[serde(flatten, skip_serializing)]
    pub other: Unknown,
}

fn fine() -> u16 {
    200
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fails {
    Denied,
    Timeout,
    Unreachable,
    TooLarge,
}

/// As `client-auth` of the WIT.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(
    rename_all = "snake_case",
    expecting = "client_auth is none of \"none\", \"basic\", \"basic_raw\", { post = { secret = … } } and { private_key_jwt = { audience = …, lifetime = … } }"
)]
pub enum Auth {
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
        private_key_jwt: Box<Jwt>,
    },
}

/// Parameters that carry identifier and secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub secret: String,
    #[serde(default)]
    pub place: Where,
}

/// Where they go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Where {
    #[default]
    Body,
    Query,
}

/// A signed assertion.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    pub audience: String,
    pub lifetime: u32,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub claims: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
}

impl Auth {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
    fn is_none(&self) -> bool {
        matches!(self, Auth::None)
    }

    pub(super) fn client_auth(&self) -> ClientAuth {
        match self.clone() {
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

    /// The other way round: how a plugin asked for it.
    pub(super) fn of(auth: &ClientAuth) -> Auth {
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
}

/// What must come of the call.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Of `describe`: what is named here; of settings and parameters their names.
    Description(Map<String, Value>),
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

/// Tokens that must come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Granted {
    pub access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_expires_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_token: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keep: BTreeMap<String, String>,
}

/// Whose account it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    pub subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(default)]
    pub email_verified: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// How it must fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failed {
    /// `invalid-grant`, `transient`, `misconfigured` or `provider-error`.
    pub kind: String,
    /// What the message must have in it.
    #[serde(default)]
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}
