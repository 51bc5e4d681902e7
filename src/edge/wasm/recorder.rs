//! A door that tells what goes through it, and writes it down as an exchange without a secret.
//!
//! Every token, code and personal detail is replaced by a placeholder, the same one wherever it turns up.
//! What is not known to be harmless counts as a secret.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::bindings::palisade::provider::http::Request;
use super::exchange::{
    Answer, Auth, Body, Current, Exchange, Expected, Failed, Fails, Given, Outcome, Texts, Verifier, pairs,
};
use super::host::{Witness, method};
use crate::config;
use crate::ports::{Door, DoorFault, DoorRequest, DoorResponse};

/// Shorter values are replaced only where their name says that they are secrets.
const OPAQUE: usize = 20;
/// Header fields of an answer that are written down.
const TELLING: [&str; 3] = ["content-type", "retry-after", "www-authenticate"];
/// Parts of names whose values are secrets.
const SECRET_NAMES: [&str; 9] =
    ["token", "secret", "code", "password", "assertion", "session", "signature", "key", "sid"];
/// Names whose values belong to a person.
const PERSONAL: [(&str, &str); 8] = [
    ("sub", "account"),
    ("user_id", "account"),
    ("email", "person@example.com"),
    ("name", "Person"),
    ("given_name", "Person"),
    ("family_name", "Person"),
    ("preferred_username", "person"),
    ("picture", "https://example.com/person.png"),
];

/// The door, and what went through it.
pub(super) struct Recorder {
    inner: Arc<dyn Door>,
    tell: Box<dyn Fn(&str) + Send + Sync>,
    seen: Mutex<Vec<Expected>>,
}

impl Recorder {
    /// Requests go on to `inner`; of each, `tell` gets one line without a secret.
    pub(super) fn new(inner: Arc<dyn Door>, tell: Box<dyn Fn(&str) + Send + Sync>) -> Recorder {
        Recorder { inner, tell, seen: Mutex::default() }
    }

    /// What went through, as an exchange.
    pub(super) fn exchange(
        &self,
        provider: &config::Provider,
        asked: &Exchange,
        outcome: &Outcome,
    ) -> Exchange {
        let requests = std::mem::take(&mut *self.lock());
        let mut raw = asked.clone();
        raw.about = format!("Recorded from {}.", provider.name);
        raw.settings = provider.settings.clone();
        if raw.connection.scopes.is_empty() {
            raw.connection.scopes.clone_from(&provider.scopes);
        }
        raw.connection.client_id = provider.client_id.expose_secret().to_owned();
        raw.requests = requests;
        raw.result = outcome.clone();
        if let Outcome::Failure(Failed { message, .. }) = &mut raw.result {
            // The kind is what counts, and the words may be the provider's.
            message.clear();
        }
        let mut mask = Mask::default();
        mask.learn(provider, &raw);
        mask.apply(raw)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Expected>> {
        // Every change of it is whole.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Witness for Recorder {
    fn asked(&self, request: &Request) {
        let kind = request.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let kind = kind.map_or(String::new(), |(_, value)| value.clone());
        let unremarkable = |name: &str| ["accept", "content-type", "user-agent"].contains(&name);
        let headers = request.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
        self.lock().push(Expected {
            method: method(request.method).to_owned(),
            url: request.url.clone(),
            client_auth: Auth::of(&request.client_auth),
            headers: headers.filter(|(name, _)| !unremarkable(name)).collect(),
            body: body(&kind, &request.body),
            answer: None,
            // Until there is an answer.
            fails: Some(Fails::Denied),
        });
    }

    fn logged(&self, _: &str) {}

    fn used(&self, _: usize) {}
}

#[async_trait]
impl Door for Recorder {
    async fn send(&self, request: DoorRequest) -> Result<DoorResponse, DoorFault> {
        let begun = Instant::now();
        let url = request.url.expose_secret().split(['?', '#']).next().unwrap_or_default().to_owned();
        let method = request.method;
        let answer = self.inner.send(request).await;
        let ms = begun.elapsed().as_millis();
        match &answer {
            Ok(response) => (self.tell)(&format!("{method} {url} → {} in {ms} ms", response.status)),
            Err(fault) => (self.tell)(&format!("{method} {url} → {fault}, after {ms} ms")),
        }
        if let Some(last) = self.lock().last_mut() {
            match &answer {
                Ok(response) => (last.answer, last.fails) = (Some(written(response)), None),
                Err(fault) => {
                    last.fails = Some(match fault {
                        DoorFault::Denied(_) => Fails::Denied,
                        DoorFault::Timeout => Fails::Timeout,
                        DoorFault::Unreachable(_) => Fails::Unreachable,
                        DoorFault::TooLarge => Fails::TooLarge,
                    });
                }
            }
        }
        answer
    }
}

fn written(response: &DoorResponse) -> Answer {
    let telling = response.headers.iter().filter(|(name, _)| TELLING.contains(&&**name));
    let mut headers: BTreeMap<String, String> = telling.cloned().collect();
    let kind = headers.get("content-type").cloned().unwrap_or_default();
    let body = body(&kind, &response.body);
    if body.json.is_some() || body.form.is_some() {
        headers.remove("content-type");
    }
    Answer { status: response.status, headers, body }
}

/// A body in the form in which it can be read best.
fn body(kind: &str, bytes: &[u8]) -> Body {
    if bytes.is_empty() {
        return Body::default();
    }
    if kind.starts_with("application/x-www-form-urlencoded") {
        let mut form: BTreeMap<String, Texts> = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(bytes).into_owned() {
            let texts = match form.remove(&name) {
                None => Texts::One(value),
                Some(Texts::One(first)) => Texts::Several(vec![first, value]),
                Some(Texts::Several(mut all)) => {
                    all.push(value);
                    Texts::Several(all)
                }
            };
            form.insert(name, texts);
        }
        return Body { form: Some(form), ..Body::default() };
    }
    match serde_json::from_slice::<Value>(bytes) {
        // TOML has no `null`.
        Ok(value) if value.is_object() && kind.contains("json") && !has_null(&value) => {
            Body { json: Some(value), ..Body::default() }
        }
        _ => Body { body: Some(String::from_utf8_lossy(bytes).into_owned()), ..Body::default() },
    }
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(members) => members.values().any(has_null),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Secrets, and what stands in their place.
#[derive(Default)]
struct Mask {
    known: Vec<(Zeroizing<String>, String)>,
    counts: BTreeMap<String, usize>,
}

impl Mask {
    fn hide(&mut self, secret: &str, placeholder: &str) {
        if secret.len() < 3 || secret == placeholder || self.known.iter().any(|(known, _)| **known == *secret)
        {
            return;
        }
        self.known.push((Zeroizing::new(secret.to_owned()), placeholder.to_owned()));
    }

    /// Hides `secret` behind the next placeholder of its kind.
    fn number(&mut self, secret: &str, kind: &str) {
        if secret.is_empty() || self.known.iter().any(|(known, _)| **known == *secret) {
            return;
        }
        let count = self.counts.entry(kind.to_owned()).or_default();
        *count += 1;
        let placeholder = format!("{kind}-{count}");
        self.hide(secret, &placeholder);
    }

    /// Finds everything in `raw` that is a secret.
    fn learn(&mut self, provider: &config::Provider, raw: &Exchange) {
        let usual = Given::default();
        self.hide(provider.client_id.expose_secret(), &usual.client_id);
        if let Some(secret) = &provider.client_secret {
            self.hide(secret.expose_secret(), "client-secret");
        }
        self.hide(&raw.connection.redirect_uri, &usual.redirect_uri);
        self.hide(&raw.input.state, "state-1");
        self.hide(&raw.input.pkce.verifier, &Verifier::default().verifier);
        self.hide(&raw.input.pkce.challenge, &Verifier::default().challenge);
        let Current { access_token, refresh_token, id_token, .. } = &raw.input.tokens;
        self.number(access_token, "access");
        refresh_token.iter().for_each(|token| self.number(token, "refresh"));
        id_token.iter().for_each(|token| self.id_token(token));
        for (name, value) in pairs(&raw.input.callback) {
            self.number(&value, &name);
        }
        for (name, value) in &raw.connection.kept {
            self.named(name, value);
        }
        for (name, value) in &raw.connection.parameters {
            self.named(name, value);
        }
        if let Outcome::Tokens(tokens) = &raw.result {
            self.number(&tokens.access_token, "access");
            tokens.refresh_token.iter().for_each(|token| self.number(token, "refresh"));
            tokens.id_token.iter().for_each(|token| self.id_token(token));
        }
        if let Outcome::Account(person) = &raw.result {
            self.number(&person.subject, "account");
            person.email.iter().for_each(|email| self.hide(email, "person@example.com"));
            person.name.iter().for_each(|name| self.hide(name, "Person"));
        }
        for request in &raw.requests {
            request.headers.values().for_each(|value| self.opaque(value.trim_start_matches("Bearer ")));
            self.learn_url(&request.url);
            self.learn_body(&request.body);
            if let Some(answer) = &request.answer {
                self.learn_body(&answer.body);
            }
        }
    }

    fn learn_url(&mut self, url: &str) {
        let query = url.split_once('?').map_or("", |(_, query)| query);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()).into_owned() {
            self.named(&name, &value);
        }
    }

    fn learn_body(&mut self, body: &Body) {
        for (name, value) in body.form.iter().flat_map(pairs) {
            self.named(&name, &value);
        }
        if let Some(value) = &body.json {
            self.learn_json("", value);
        }
        match body.body.as_deref().map(|text| (text, serde_json::from_str::<Value>(text))) {
            Some((_, Ok(value))) => self.learn_json("", &value),
            Some((text, Err(_))) => {
                let word = |c: char| !(c.is_ascii_alphanumeric() || "-_.~+/=".contains(c));
                text.split(word).for_each(|word| self.opaque(word));
            }
            None => {}
        }
    }

    fn learn_json(&mut self, name: &str, value: &Value) {
        match value {
            Value::String(text) => self.named(name, text),
            Value::Number(number) if PERSONAL.iter().any(|(personal, _)| *personal == name) => {
                self.number(&number.to_string(), "account");
            }
            Value::Array(items) => items.iter().for_each(|item| self.learn_json(name, item)),
            Value::Object(members) => members.iter().for_each(|(name, value)| self.learn_json(name, value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// A value whose name tells something.
    fn named(&mut self, name: &str, value: &str) {
        let lower = name.to_ascii_lowercase();
        if ["grant_type", "token_type", "token_type_hint", "response_type", "code_challenge_method"]
            .contains(&&*lower)
        {
            return;
        }
        if let Some((_, placeholder)) = PERSONAL.iter().find(|(personal, _)| *personal == lower) {
            return if placeholder.contains(['@', ':']) || placeholder.starts_with('P') {
                self.hide(value, placeholder);
            } else {
                self.number(value, placeholder);
            };
        }
        if lower == "id_token" {
            return self.id_token(value);
        }
        let is_url = value.starts_with("https://");
        if !is_url && SECRET_NAMES.iter().any(|part| lower.contains(part)) {
            return self.number(value, &lower.replace('_', "-"));
        }
        self.opaque(value);
    }

    /// A long value without a meaning to people.
    fn opaque(&mut self, value: &str) {
        let readable =
            value.starts_with("https://") || value.contains([' ', '/', ':']) && !value.contains('.');
        if value.len() >= OPAQUE
            && !readable
            && value.bytes().any(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
        {
            self.number(value, "opaque");
        }
    }

    /// An ID token becomes another one, unsigned, with the same claims as far as they are harmless: a plugin
    /// may read them.
    fn id_token(&mut self, token: &str) {
        let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let Some(claims) =
            payload.and_then(|bytes| serde_json::from_slice::<Map<String, Value>>(&bytes).ok())
        else {
            return self.number(token, "id-token");
        };
        for (name, value) in &claims {
            if !["iss", "aud", "azp"].contains(&&**name) {
                self.learn_json(name, value);
            }
        }
        let mut claims = Value::Object(claims);
        self.replace(&mut claims);
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let made = format!("{}.{}.unsigned", part(&json!({"alg": "none"})), part(&claims));
        self.hide(token, &made);
    }

    /// `raw` with every secret replaced.
    fn apply(mut self, raw: Exchange) -> Exchange {
        // A secret may be part of a longer one.
        self.known.sort_by_key(|(secret, _)| std::cmp::Reverse(secret.len()));
        let (settings, call) = (raw.settings.clone(), raw.call);
        let mut value = serde_json::to_value(&raw).unwrap_or_default();
        self.replace(&mut value);
        let masked: Option<Exchange> = serde_json::from_value(value).ok();
        // What cannot be read again is not given out at all.
        let mut masked = masked.unwrap_or_else(|| Exchange::empty(call));
        masked.settings = settings;
        masked
    }

    fn replace(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                for (secret, placeholder) in &self.known {
                    if text.contains(&**secret) {
                        *text = text.replace(&**secret, placeholder);
                    }
                    let encoded = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
                    for encoded in [&encoded, &encoded.replace("%20", "+"), &form_encoded(secret)] {
                        if **encoded != **secret && text.contains(&**encoded) {
                            *text = text.replace(&**encoded, &form_encoded(placeholder));
                        }
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.replace(item)),
            Value::Object(members) => members.values_mut().for_each(|member| self.replace(member)),
            Value::Number(number) => {
                let text = number.to_string();
                // A number that is an account's identifier, and not one that is a time.
                if let Some((_, placeholder)) = self.known.iter().find(|(secret, _)| **secret == *text)
                    && let Some(count) = placeholder.strip_prefix("account-")
                {
                    *value = json!(count.parse::<u64>().unwrap_or(1));
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }
}

fn form_encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::bindings::palisade::provider::http::{BasicEncoding, ClientAuth, Method};
    use super::super::exchange::{Call, Granted, Person};
    use super::*;
    use crate::config::{Component, PluginLimits, Provider};

    const FORM: &str = "application/x-www-form-urlencoded";
    const ACCESS: &str = "acc/ess+1234567890abcdef==";
    const REFRESH: &str = "rt.1/+~abc";

    /// Answers every request the same.
    struct FakeDoor(&'static str, String);

    #[async_trait]
    impl Door for FakeDoor {
        async fn send(&self, _: DoorRequest) -> Result<DoorResponse, DoorFault> {
            let headers = vec![
                ("content-type".to_owned(), self.0.to_owned()),
                ("set-cookie".to_owned(), "session=cookie-value".to_owned()),
            ];
            Ok(DoorResponse { status: 200, headers, body: Zeroizing::new(self.1.clone().into_bytes()) })
        }
    }

    fn provider() -> Provider {
        Provider {
            name: "acme".to_owned(),
            line: 1,
            display_name: None,
            component: Component::BuiltIn(String::new()),
            sha256: None,
            client_id: "the-client".into(),
            client_secret: Some("the secret".into()),
            allowed_hosts: Vec::new(),
            allow_loopback: false,
            ca: None,
            scopes: Vec::new(),
            settings: Map::new(),
            limits: PluginLimits::default(),
            token_access: None,
        }
    }

    async fn recorded(answer: Value, request: Request, outcome: Outcome) -> (Exchange, String) {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&lines);
        let tell = Box::new(move |line: &str| kept.lock().unwrap().push(line.to_owned()));
        let recorder = Recorder::new(Arc::new(FakeDoor("application/json", answer.to_string())), tell);
        let mut asked = Exchange::empty(Call::Refresh);
        asked.input.tokens = Current {
            access_token: ACCESS.to_owned(),
            refresh_token: Some(REFRESH.to_owned()),
            ..Current::default()
        };
        let url = request.url.clone();
        recorder.asked(&request);
        let sent = DoorRequest {
            method: "POST",
            url: url.into(),
            headers: Vec::new(),
            body: Zeroizing::default(),
            timeout: Duration::ZERO,
            max_bytes: 0,
        };
        recorder.send(sent).await.unwrap();
        let exchange = recorder.exchange(&provider(), &asked, &outcome);
        let lines = lines.lock().unwrap().join("\n");
        (exchange, lines)
    }

    fn request(url: &str, headers: Vec<(&str, String)>, body: String) -> Request {
        Request {
            method: Method::Post,
            url: url.to_owned(),
            headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            body: body.into_bytes(),
            client_auth: ClientAuth::Basic(BasicEncoding::Form),
        }
    }

    #[tokio::test]
    async fn what_is_written_holds_no_secret_and_says_the_same() {
        let claims =
            json!({"iss": "https://id.example", "sub": "user-4711", "email": "ann@corp.example", "exp": 1});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let id_token =
            format!("{}.{}.c2ln", part(&json!({"alg": "RS256", "kid": "key-from-idp"})), part(&claims));
        let fresh = "fresh-access-token-0987654321";
        let answer = json!({
            "access_token": fresh, "token_type": "Bearer", "expires_in": 3600, "refresh_token": "rt.2/xyz",
            "id_token": id_token, "scope": "read write", "user": {"sub": 99_887_766, "name": "Ann Smith"},
            "session_state": "s3ss10n", "device": "A1b2C3d4E5f6G7h8I9j0K1",
        });
        let body =
            format!("grant_type=refresh_token&refresh_token={}&client_id=the-client", form_encoded(REFRESH));
        let url = format!("https://id.example/token?hint={}", form_encoded(ACCESS));
        let headers = vec![("content-type", FORM.to_owned()), ("authorization", format!("Bearer {ACCESS}"))];
        let outcome = Outcome::Tokens(Box::new(Granted {
            access_token: fresh.to_owned(),
            refresh_token: Some("rt.2/xyz".to_owned()),
            id_token: Some(id_token.clone()),
            ..Granted::default()
        }));
        let (exchange, lines) = recorded(answer, request(&url, headers, body), outcome).await;
        let text = serde_json::to_string(&exchange).unwrap();
        for secret in [
            ACCESS,
            REFRESH,
            fresh,
            "rt.2/xyz",
            &id_token,
            "the-client",
            "the secret",
            "user-4711",
            "ann@corp",
            "Ann Smith",
            "99887766",
            "s3ss10n",
            "A1b2C3d4",
            "cookie-value",
            &form_encoded(ACCESS),
            &form_encoded(REFRESH),
            "key-from-idp",
        ] {
            assert!(!text.contains(secret) && !lines.contains(secret), "{secret}: {text}");
        }
        assert!(lines.starts_with("POST https://id.example/token → 200 in "), "{lines}");
        let first = &exchange.requests[0];
        assert_eq!(first.url, "https://id.example/token?hint=access-1");
        assert_eq!(first.headers["authorization"], "Bearer access-1");
        let form: Vec<_> = pairs(first.body.form.as_ref().unwrap());
        let want =
            [("client_id", "client-1"), ("grant_type", "refresh_token"), ("refresh_token", "refresh-1")];
        assert_eq!(form, want.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let answer = first.answer.as_ref().unwrap().body.json.clone().unwrap();
        assert_eq!(
            (&answer["access_token"], &answer["refresh_token"]),
            (&json!("access-2"), &json!("refresh-2"))
        );
        assert_eq!((&answer["scope"], &answer["expires_in"]), (&json!("read write"), &json!(3600)));
        let Outcome::Tokens(tokens) = &exchange.result else { panic!("tokens") };
        assert_eq!(tokens.access_token, "access-2");
        let id_token = tokens.id_token.as_ref().unwrap();
        assert_eq!(answer["id_token"], json!(id_token));
        let claims: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(id_token.split('.').nth(1).unwrap()).unwrap())
                .unwrap();
        assert_eq!(
            (&claims["iss"], &claims["email"]),
            (&json!("https://id.example"), &json!("person@example.com"))
        );
    }

    #[tokio::test]
    async fn a_person_becomes_nobody() {
        let answer = json!({"id": 1, "sub": "user-1", "email": "ann@corp.example", "name": "Ann", "picture": "https://x.example/ann.png"});
        let person = Person {
            subject: "user-1".to_owned(),
            email: Some("ann@corp.example".to_owned()),
            email_verified: true,
            name: Some("Ann".to_owned()),
        };
        let request = request("https://id.example/me", Vec::new(), String::new());
        let (exchange, _) = recorded(answer, request, Outcome::Account(person)).await;
        let text = serde_json::to_string(&exchange).unwrap();
        for personal in ["user-1", "ann@corp", "\"Ann\"", "ann.png"] {
            assert!(!text.contains(personal), "{personal}: {text}");
        }
        let Outcome::Account(person) = &exchange.result else { panic!("an account") };
        let answer = exchange.requests[0].answer.as_ref().unwrap().body.json.clone().unwrap();
        assert_eq!((&answer["sub"], &answer["email"]), (&json!(person.subject), &json!(person.email)));
        assert!(toml::to_string(&exchange).is_ok());
    }
}
