//! Client authentication, added to a request after the plugin has handed it over: the plugin chooses the method, and
//! never sees the credentials.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::bindings::palisade::provider::http::{
    Assertion as WitAssertion, BasicEncoding, ClientAuth, CredentialParameters, Place,
};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Assertion, Assertions};

/// Everything but the unreserved characters of `application/x-www-form-urlencoded`.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'*');
const FORM_TYPE: &str = "application/x-www-form-urlencoded";
/// `client_assertion_type` (RFC 7523 §2.2).
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// The longest life of an assertion, in seconds.
const ASSERTION_LIFE: u32 = 3600;
/// Claims that the host sets in every assertion.
const FIXED_CLAIMS: [&str; 7] = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"];

/// The client as the provider knows it.
pub(super) struct Client {
    pub(super) id: SecretString,
    pub(super) secret: Option<SecretString>,
}

impl Client {
    fn secret(&self) -> Result<&str, String> {
        let secret = self.secret.as_ref().ok_or("the client has no secret: set providers.client_secret")?;
        Ok(secret.expose_secret())
    }
}

/// A request as the plugin wants it, becoming one that may hold credentials.
pub(super) struct Draft {
    url: Zeroizing<String>,
    headers: Vec<(String, Zeroizing<String>)>,
    body: Zeroizing<Vec<u8>>,
    /// What no answer may reveal to the plugin: the secret, and its encoded forms.
    credentials: Vec<SecretString>,
}

/// A draft's URL, header fields and body, and what no answer to it may tell.
pub(super) struct DraftParts {
    pub(super) url: SecretString,
    pub(super) headers: Vec<(String, SecretString)>,
    pub(super) body: Zeroizing<Vec<u8>>,
    pub(super) credentials: Vec<SecretString>,
}

impl Draft {
    pub(super) fn new(url: String, headers: Vec<(String, String)>, body: Vec<u8>) -> Draft {
        let headers = headers.into_iter().map(|(name, value)| (name, Zeroizing::new(value))).collect();
        Draft { url: Zeroizing::new(url), headers, body: Zeroizing::new(body), credentials: Vec::new() }
    }

    pub(super) fn into_parts(self) -> DraftParts {
        let wrap = |mut text: Zeroizing<String>| SecretString::from(std::mem::take(&mut *text));
        let headers = self.headers.into_iter().map(|(name, value)| (name, wrap(value))).collect();
        DraftParts { url: wrap(self.url), headers, body: self.body, credentials: self.credentials }
    }

    fn header(&self, wanted: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted))?;
        Some(&*found.1)
    }
}

/// `draft` with what `auth` asks for.
///
/// # Errors
/// Why it cannot be, without a secret.
pub(super) fn apply(
    mut draft: Draft,
    auth: ClientAuth,
    client: &Client,
    assertions: &dyn Assertions,
    now: UnixTime,
) -> Result<Draft, String> {
    draft.credentials.extend(client.secret.clone());
    match auth {
        ClientAuth::None => {}
        ClientAuth::Basic(encoding) => {
            if draft.header("authorization").is_some() {
                return Err("basic client authentication beside an authorization header".to_owned());
            }
            let encoded = basic(client, encoding)?;
            draft.credentials.push(encoded.as_str().into());
            let value = Zeroizing::new(format!("Basic {}", &*encoded));
            draft.headers.push(("authorization".to_owned(), value));
        }
        ClientAuth::Post(names) => {
            let parameters = credential_parameters(client, names)?;
            match parameters.1 {
                Place::Body => into_body(&mut draft, &parameters.0)?,
                Place::Query => into_query(&mut draft, &parameters.0),
            }
        }
        ClientAuth::PrivateKeyJwt(asked) => {
            let parameter = asked.parameter.clone();
            let jwt = signed(asked, client, assertions, now)?;
            draft.credentials.push(jwt.as_str().into());
            let parameters = match parameter {
                Some(name) => vec![(name, jwt)],
                None => vec![
                    ("client_assertion_type".to_owned(), Zeroizing::new(JWT_BEARER.to_owned())),
                    ("client_assertion".to_owned(), jwt),
                ],
            };
            into_body(&mut draft, &parameters)?;
        }
    }
    Ok(draft)
}

type Parameters = Vec<(String, Zeroizing<String>)>;

/// What `Authorization: Basic` is followed by.
fn basic(client: &Client, encoding: BasicEncoding) -> Result<Zeroizing<String>, String> {
    let (id, secret) = (client.id.expose_secret(), client.secret()?);
    let joined = Zeroizing::new(match encoding {
        BasicEncoding::Form => format!("{}:{}", &*form_encoded(id), &*form_encoded(secret)),
        BasicEncoding::Raw => format!("{id}:{secret}"),
    });
    Ok(Zeroizing::new(STANDARD.encode(joined.as_bytes())))
}

fn credential_parameters(
    client: &Client,
    names: CredentialParameters,
) -> Result<(Parameters, Place), String> {
    let copy = |text: &str| Zeroizing::new(text.to_owned());
    let mut parameters = Vec::with_capacity(2);
    if let Some(name) = names.id {
        parameters.push((name, copy(client.id.expose_secret())));
    }
    parameters.push((names.secret, copy(client.secret()?)));
    Ok((parameters, names.place))
}

fn signed(
    asked: WitAssertion,
    client: &Client,
    assertions: &dyn Assertions,
    now: UnixTime,
) -> Result<Zeroizing<String>, String> {
    if asked.lifetime == 0 || asked.lifetime > ASSERTION_LIFE {
        return Err(format!("an assertion lives 1 to {ASSERTION_LIFE} seconds, not {}", asked.lifetime));
    }
    let claims: Map<String, Value> =
        serde_json::from_str(&asked.claims).map_err(|_| "the claims of the assertion are no JSON object")?;
    if let Some(name) = FIXED_CLAIMS.iter().find(|name| claims.contains_key(**name)) {
        return Err(format!("the claim {name} of the assertion is not the plugin's to set"));
    }
    let key = client.secret.as_ref().ok_or("there is no private key: set providers.client_secret")?;
    let own = || client.id.expose_secret().to_owned();
    let assertion = Assertion {
        algorithm: asked.algorithm,
        key_id: asked.key_id,
        issuer: asked.issuer.unwrap_or_else(own),
        subject: asked.subject.unwrap_or_else(own),
        audience: asked.audience,
        lifetime: Duration::from_secs(asked.lifetime.into()),
        claims,
    };
    let jwt = assertions.sign(key, &assertion, now).map_err(|error| format!("the assertion: {error}"))?;
    Ok(Zeroizing::new(jwt))
}

/// One name or value, form-encoded.
fn form_encoded(text: &str) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(text.len() * 3));
    for (at, word) in text.split(' ').enumerate() {
        if at > 0 {
            out.push('+');
        }
        out.extend(percent_encode(word.as_bytes(), FORM));
    }
    out
}

fn form(parameters: &Parameters) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::new());
    for (name, value) in parameters {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(&form_encoded(name));
        out.push('=');
        out.push_str(&form_encoded(value));
    }
    out
}

fn into_query(draft: &mut Draft, parameters: &Parameters) {
    let query = form(parameters);
    let joint = match draft.url.split_once('?') {
        None => "?",
        Some((_, "")) => "",
        Some(_) => "&",
    };
    let url = Zeroizing::new(format!("{}{joint}{}", &*draft.url, &*query));
    draft.url = url;
}

/// Adds `parameters` to the body in its own form.
fn into_body(draft: &mut Draft, parameters: &Parameters) -> Result<(), String> {
    let kind = draft
        .header("content-type")
        .map(|value| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match kind.as_deref() {
        None if draft.body.is_empty() => {
            draft.headers.push(("content-type".to_owned(), Zeroizing::new(FORM_TYPE.to_owned())));
            draft.body = bytes(&form(parameters));
        }
        Some(FORM_TYPE) => {
            let names = |name: &str| form_encoded(name);
            let text = std::str::from_utf8(&draft.body).map_err(|_| "the form is not UTF-8")?;
            for (name, _) in parameters {
                let name = names(name);
                if text.split('&').any(|pair| pair.split('=').next() == Some(&**name)) {
                    return Err(twice(&name));
                }
            }
            let joint = if text.is_empty() { "" } else { "&" };
            let joined = Zeroizing::new(format!("{text}{joint}{}", &*form(parameters)));
            draft.body = bytes(&joined);
        }
        Some(kind) if kind == "application/json" || kind.ends_with("+json") => {
            let mut object: Map<String, Value> = match draft.body.is_empty() {
                true => Map::new(),
                false => serde_json::from_slice(&draft.body).map_err(|_| "the body is no JSON object")?,
            };
            for (name, value) in parameters {
                if object.insert(name.clone(), Value::String(value.to_string())).is_some() {
                    return Err(twice(name));
                }
            }
            let mut value = Value::Object(object);
            let written = serde_json::to_vec(&value).map_err(|error| error.to_string());
            wipe(&mut value);
            draft.body = Zeroizing::new(written?);
        }
        Some(_) | None => {
            return Err("credentials go into a body that is a form or a JSON object".to_owned());
        }
    }
    Ok(())
}

fn twice(name: &str) -> String {
    format!("the body has the parameter {name} already")
}

fn bytes(text: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(text.as_bytes().to_vec())
}

fn wipe(value: &mut Value) {
    use zeroize::Zeroize;
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(members) => members.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_core::ports::SignError;

    struct FakeAssertions;

    impl Assertions for FakeAssertions {
        fn sign(&self, key: &SecretString, it: &Assertion, now: UnixTime) -> Result<String, SignError> {
            assert_eq!(key.expose_secret(), "s cret&");
            Ok(format!("jwt.{}.{}.{}.{}", it.issuer, it.audience, it.lifetime.as_secs(), now))
        }
    }

    fn client() -> Client {
        Client { id: "id:1".into(), secret: Some(SecretString::from("s cret&")) }
    }

    fn with(headers: &[(&str, &str)], body: &str, auth: ClientAuth) -> Result<Draft, String> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let draft = Draft::new("https://a.test/token?x=1".to_owned(), headers, body.as_bytes().to_vec());
        apply(draft, auth, &client(), &FakeAssertions, UnixTime(7))
    }

    fn body(draft: &Draft) -> &str {
        std::str::from_utf8(&draft.body).unwrap()
    }

    fn post(id: Option<&str>, place: Place) -> ClientAuth {
        let id = id.map(str::to_owned);
        ClientAuth::Post(CredentialParameters { id, secret: "client_secret".to_owned(), place })
    }

    #[test]
    fn basic_is_form_encoded_or_not() {
        for (encoding, want) in
            [(BasicEncoding::Form, "id%3A1:s+cret%26"), (BasicEncoding::Raw, "id:1:s cret&")]
        {
            let draft = with(&[], "", ClientAuth::Basic(encoding)).unwrap();
            let value = draft.header("Authorization").unwrap().strip_prefix("Basic ").unwrap().to_owned();
            assert_eq!(STANDARD.decode(value).unwrap(), want.as_bytes());
        }
        let twice = with(&[("Authorization", "x")], "", ClientAuth::Basic(BasicEncoding::Raw));
        assert!(twice.is_err());
    }

    #[test]
    fn parameters_go_where_they_are_told() {
        let draft = with(&[], "", post(Some("client_id"), Place::Body)).unwrap();
        assert_eq!(body(&draft), "client_id=id%3A1&client_secret=s+cret%26");
        assert_eq!(draft.header("content-type"), Some(FORM_TYPE));
        let kind = [("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")];
        let draft = with(&kind, "a=b", post(None, Place::Body)).unwrap();
        assert_eq!(body(&draft), "a=b&client_secret=s+cret%26");
        let draft =
            with(&[("content-type", "application/json")], r#"{"a":1}"#, post(None, Place::Body)).unwrap();
        assert_eq!(body(&draft), r#"{"a":1,"client_secret":"s cret&"}"#);
        let draft = with(&[], "", post(None, Place::Query)).unwrap();
        assert_eq!((&**draft.url, body(&draft)), ("https://a.test/token?x=1&client_secret=s+cret%26", ""));
    }

    #[test]
    fn a_body_that_cannot_take_them_is_refused() {
        for (kind, text) in [
            ("text/plain", "x"),
            ("application/json", "[]"),
            ("application/json", r#"{"client_secret":"x"}"#),
            (FORM_TYPE, "client_secret=x"),
        ] {
            let refused = with(&[("content-type", kind)], text, post(None, Place::Body));
            let why = refused.err().unwrap();
            assert!(!why.contains("s cret"), "{kind}: {why}");
        }
        assert!(with(&[], "x", post(None, Place::Body)).is_err());
    }

    #[test]
    fn a_client_without_a_secret_is_told_which_key_to_set() {
        let draft = Draft::new("https://a.test/".to_owned(), Vec::new(), Vec::new());
        let bare = Client { id: "id".into(), secret: None };
        let auth = ClientAuth::Basic(BasicEncoding::Form);
        let why = apply(draft, auth, &bare, &FakeAssertions, UnixTime(0)).err().unwrap();
        assert!(why.contains("providers.client_secret"), "{why}");
    }

    #[test]
    fn an_assertion_is_signed_within_its_bounds() {
        let asked = |lifetime, claims: &str, parameter: Option<&str>| {
            ClientAuth::PrivateKeyJwt(WitAssertion {
                algorithm: None,
                key_id: None,
                issuer: None,
                subject: None,
                audience: "aud".to_owned(),
                lifetime,
                claims: claims.to_owned(),
                parameter: parameter.map(str::to_owned),
            })
        };
        let draft = with(&[], "", asked(60, "{}", None)).unwrap();
        assert_eq!(
            body(&draft),
            "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
             &client_assertion=jwt.id%3A1.aud.60.7"
        );
        assert_eq!(
            body(&with(&[], "", asked(60, "{}", Some("assertion"))).unwrap()),
            "assertion=jwt.id%3A1.aud.60.7"
        );
        for (lifetime, claims) in [(0, "{}"), (3601, "{}"), (60, "[]"), (60, r#"{"aud":"other"}"#)] {
            assert!(with(&[], "", asked(lifetime, claims, None)).is_err(), "{lifetime} {claims}");
        }
    }
}
