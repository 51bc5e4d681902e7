//! The file of a recorded exchange: what a call of a provider plugin is given, which requests it must make, what each is
//! answered, and what must come of it.
//!
//! The one definition of the format. `palisade plugin test` replays these files against a component in the gateway's
//! host, `palisade plugin call --record` writes them, and the SDK's feature `testing` replays them natively. The files
//! are TOML; this crate reads and writes them through serde, whatever the syntax. `plugins/README.md` in Palisade's
//! repository describes every key.
//!
//! Tables that name values (`parameters`, `kept`, `keep`, `form`, `callback`) have been read in two ways: a text for
//! each name, or a list of texts. Both are read in each of these tables. A list of one is the same as its text, and a
//! text is what is written.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One recorded exchange.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedExchange {
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
    /// The connection that the call is about.
    #[serde(default)]
    pub connection: Given,
    /// What else the call is given.
    #[serde(default)]
    pub input: Input,
    /// The requests that must be made, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<Expected>,
    /// What must come of the call.
    pub result: Outcome,
}

fn some_moment() -> u64 {
    1_767_225_600
}

impl RecordedExchange {
    /// Checks what serde cannot: unknown keys of requests, and keys that exclude each other.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), FormatError> {
        let wrong = |what: String| Err(FormatError::Wrong(what));
        match &self.result {
            Outcome::Done(false) | Outcome::Unattended(false) => {
                return wrong("result: `done` and `unattended` can only be true".to_owned());
            }
            Outcome::Failure(failure) if !KINDS.contains(&&*failure.kind) => {
                return wrong(format!("result.failure: `{}` is none of {}", failure.kind, KINDS.join(", ")));
            }
            _ => {}
        }
        for (index, request) in self.requests.iter().enumerate() {
            if let Some(name) = request.other.keys().next() {
                return Err(FormatError::UnknownKey { index, of_answer: false, name: name.clone() });
            }
            if let Some(name) = request.answer.as_ref().and_then(|answer| answer.other.keys().next()) {
                return Err(FormatError::UnknownKey { index, of_answer: true, name: name.clone() });
            }
            if request.answer.is_some() == request.fails.is_some() {
                return wrong(format!("requests[{index}] needs either `answer` or `fails`"));
            }
            if request.body.count() > 1
                || request.answer.as_ref().is_some_and(|answer| answer.body.count() > 1)
            {
                return wrong(format!("requests[{index}] has more than one of `form`, `json` and `body`"));
            }
            if !METHODS.contains(&&*request.method) {
                let known = METHODS.join(", ");
                return wrong(format!("requests[{index}]: `{}` is none of {known}", request.method));
            }
        }
        Ok(())
    }

    /// Checks that what a gateway hands over has one value for each name: a file may list several, and the SDK's
    /// tests take them, but a gateway keeps one.
    ///
    /// # Errors
    /// The first name that has none or several.
    pub fn check_single_values(&self) -> Result<(), FormatError> {
        let keep = match &self.result {
            Outcome::Tokens(tokens) => Some(("result.tokens.keep", &tokens.keep)),
            _ => None,
        };
        let given = &self.connection;
        let tables = [("connection.parameters", &given.parameters), ("connection.kept", &given.kept)];
        for (table, values) in tables.into_iter().chain(keep) {
            if let Some(name) = values.iter().find_map(|(name, texts)| match texts {
                Texts::One(_) => None,
                Texts::Several(_) => Some(name),
            }) {
                let what =
                    format!("{table}: `{name}` needs one value, as a gateway hands over one for each name");
                return Err(FormatError::Wrong(what));
            }
        }
        Ok(())
    }

    /// A call with nothing given and nothing expected.
    #[must_use]
    pub fn empty(call: Call) -> RecordedExchange {
        RecordedExchange {
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

/// Why a file is no recorded exchange, although its values have the right types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FormatError {
    /// A request, or its answer, has a key that the format does not know.
    UnknownKey {
        /// Which of the requests, from 0.
        index: usize,
        /// The key is in the request's answer.
        of_answer: bool,
        /// The key.
        name: String,
    },
    /// Anything else, in words.
    Wrong(String),
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FormatError::UnknownKey { index, of_answer, name } => {
                let (place, known) = if *of_answer { (".answer", &ANSWER[..]) } else { ("", &REQUEST[..]) };
                let known = known.join(", ");
                write!(f, "requests[{index}]{place}: unknown key `{name}`, expected one of {known}")
            }
            FormatError::Wrong(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for FormatError {}

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
    /// `describe`.
    Describe,
    /// `authorize`.
    Authorize,
    /// `exchange`.
    Exchange,
    /// `refresh`.
    Refresh,
    /// `revoke`.
    Revoke,
    /// `identity`.
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
    /// The client's identifier at the provider.
    pub client_id: String,
    /// The callback's URL.
    pub redirect_uri: String,
    /// What the user gave when connecting.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, Texts>,
    /// What earlier results asked to be kept.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub kept: BTreeMap<String, Texts>,
    /// The scopes to ask for.
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

/// One value, or several under the same name. Read from a text or a list of texts; a list of one is its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, from = "ReadTexts")]
pub enum Texts {
    /// One.
    One(String),
    /// None, or more than one.
    Several(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ReadTexts {
    One(String),
    Several(Vec<String>),
}

impl From<ReadTexts> for Texts {
    fn from(read: ReadTexts) -> Texts {
        match read {
            ReadTexts::One(text) => Texts::One(text),
            ReadTexts::Several(mut texts) => match (texts.pop(), texts.is_empty()) {
                (Some(only), true) => Texts::One(only),
                (last, _) => {
                    texts.extend(last);
                    Texts::Several(texts)
                }
            },
        }
    }
}

impl From<String> for Texts {
    fn from(text: String) -> Texts {
        Texts::One(text)
    }
}

impl From<&str> for Texts {
    fn from(text: &str) -> Texts {
        Texts::One(text.to_owned())
    }
}

/// A table of texts as names and values, a name with several values once for each.
#[must_use]
pub fn pairs(table: &BTreeMap<String, Texts>) -> Vec<(String, String)> {
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
    /// OAuth's `state`.
    pub state: String,
    /// PKCE (RFC 7636).
    pub pkce: Verifier,
    /// The parameters of the callback.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub callback: BTreeMap<String, Texts>,
    /// The tokens that the connection has.
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
    /// `code_verifier`.
    pub verifier: String,
    /// `code_challenge`.
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
    /// The access token.
    pub access_token: String,
    /// The refresh token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
    /// When the access token ends, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// The ID token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_token: Option<String>,
}

/// A request that must be made, and what comes of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Expected {
    /// The method, in capitals.
    pub method: String,
    /// The URL. The order of its query and the way that characters are escaped do not matter.
    pub url: String,
    /// How the plugin asks the host to authenticate the client.
    #[serde(default, skip_serializing_if = "Auth::is_none")]
    pub client_auth: Auth,
    /// Header fields by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The body.
    #[serde(flatten)]
    pub body: Body,
    /// What the request is answered; excludes `fails`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// Why there is no answer; excludes `answer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fails: Option<Fails>,
    #[serde(flatten, skip_serializing)]
    /// Keys that the format does not know; [`RecordedExchange::check`] refuses them.
    pub other: Unknown,
}

/// Unknown keys: serde does not combine `deny_unknown_fields` with `flatten`.
pub type Unknown = BTreeMap<String, serde::de::IgnoredAny>;

/// At most one of them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Body {
    /// A form; order does not matter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<BTreeMap<String, Texts>>,
    /// JSON; the order of names does not matter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<Value>,
    /// Text, byte by byte.
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
    /// The status code.
    #[serde(default = "fine")]
    pub status: u16,
    /// Header fields by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The body.
    #[serde(flatten)]
    pub body: Body,
    #[serde(flatten, skip_serializing)]
    /// Keys that the format does not know; [`RecordedExchange::check`] refuses them.
    pub other: Unknown,
}

fn fine() -> u16 {
    200
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fails {
    /// The host refused to send the request.
    Denied,
    /// The upstream was silent for too long.
    Timeout,
    /// There was no connection.
    Unreachable,
    /// The answer was larger than allowed.
    TooLarge,
}

/// As `client-auth` of the WIT.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(
    rename_all = "snake_case",
    expecting = "client_auth is none of \"none\", \"basic\", \"basic_raw\", { post = { secret = … } } and { private_key_jwt = { audience = …, lifetime = … } }"
)]
pub enum Auth {
    /// Not at all.
    #[default]
    None,
    /// HTTP Basic, with form-encoded credentials (RFC 6749 §2.3.1).
    Basic,
    /// HTTP Basic, with the credentials as they are.
    BasicRaw,
    /// Parameters of the request.
    #[serde(untagged)]
    Post {
        /// Their names.
        post: Credentials,
    },
    /// A signed assertion (RFC 7523 §2.2).
    #[serde(untagged)]
    PrivateKeyJwt {
        /// What it says.
        private_key_jwt: Box<Jwt>,
    },
}

/// Parameters that carry identifier and secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The name of the parameter with the identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The name of the parameter with the secret.
    pub secret: String,
    /// Where the parameters go.
    #[serde(default)]
    pub place: Where,
}

/// Where they go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Where {
    /// Into the body.
    #[default]
    Body,
    /// Into the query.
    Query,
}

/// A signed assertion.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// `alg` of the header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<String>,
    /// `kid` of the header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// `iss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// `sub`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// `aud`.
    pub audience: String,
    /// How long it is good for, in seconds.
    pub lifetime: u32,
    /// Further claims.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub claims: Map<String, Value>,
    /// The parameter that carries it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
}

impl Auth {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
    fn is_none(&self) -> bool {
        matches!(self, Auth::None)
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
    /// The access token.
    pub access_token: String,
    /// `token_type`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_type: Option<String>,
    /// The life of the access token, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
    /// The refresh token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
    /// The life of the refresh token, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_expires_in: Option<u64>,
    /// The granted scopes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// The ID token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_token: Option<String>,
    /// What the gateway is to keep for later calls.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keep: BTreeMap<String, Texts>,
}

/// Whose account it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// The provider's identifier of the account.
    pub subject: String,
    /// The address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Whether the provider says that the address is verified.
    #[serde(default)]
    pub email_verified: bool,
    /// The person's name.
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
    /// How long to wait before another try, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(parameters: &Value) -> RecordedExchange {
        serde_json::from_value(json!({
            "about": "A refresh.",
            "call": "refresh",
            "connection": { "parameters": parameters, "kept": parameters },
            "requests": [{
                "method": "POST", "url": "https://id.example/token", "form": parameters, "fails": "timeout",
            }],
            "result": { "tokens": { "access_token": "access-2", "keep": parameters } },
        }))
        .unwrap()
    }

    #[test]
    fn a_text_and_a_list_of_it_are_read_alike_and_written_as_a_text() {
        let text = json!({ "shop": "acme" });
        for parameters in [&text, &json!({ "shop": ["acme"] })] {
            let exchange = read(parameters);
            assert_eq!((exchange.check(), exchange.check_single_values()), (Ok(()), Ok(())));
            assert_eq!(pairs(&exchange.connection.parameters), [("shop".to_owned(), "acme".to_owned())]);
            let written = serde_json::to_value(&exchange).unwrap();
            assert_eq!(
                (&written["connection"]["parameters"], &written["connection"]["kept"]),
                (&text, &text)
            );
            assert_eq!(
                (&written["requests"][0]["form"], &written["result"]["tokens"]["keep"]),
                (&text, &text)
            );
        }
    }

    #[test]
    fn several_values_are_read_and_a_gateway_takes_one() {
        for several in [json!({ "shop": ["a", "b"] }), json!({ "shop": [] })] {
            let exchange = read(&several);
            assert_eq!(exchange.check(), Ok(()));
            assert_eq!(serde_json::to_value(&exchange.connection.parameters).unwrap(), several);
            let refused = exchange.check_single_values().unwrap_err().to_string();
            assert!(refused.starts_with("connection.parameters: `shop` needs one value"), "{refused}");
        }
        for table in ["connection.kept", "result.tokens.keep"] {
            let mut exchange = read(&json!({ "shop": "a" }));
            let several = BTreeMap::from([("shop".to_owned(), Texts::Several(Vec::new()))]);
            match &mut exchange.result {
                Outcome::Tokens(tokens) if table == "result.tokens.keep" => tokens.keep = several,
                _ => exchange.connection.kept = several,
            }
            assert!(exchange.check_single_values().unwrap_err().to_string().starts_with(table));
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_those_that_are_known() {
        let mut file = serde_json::to_value(read(&json!({}))).unwrap();
        file["requests"][0]["anwser"] = json!({});
        let exchange: RecordedExchange = serde_json::from_value(file).unwrap();
        let error = exchange.check().unwrap_err();
        let name = "anwser".to_owned();
        assert_eq!(error, FormatError::UnknownKey { index: 0, of_answer: false, name });
        let words = "requests[0]: unknown key `anwser`, expected one of method, url, headers";
        assert!(error.to_string().starts_with(words), "{error}");
    }
}
