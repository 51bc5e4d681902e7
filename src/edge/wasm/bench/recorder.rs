//! Records an exchange: a door that reports each request, and keeps them with every secret replaced.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use percent_encoding::percent_decode_str;
use secrecy::ExposeSecret;
use serde_json::Value;
use zeroize::Zeroizing;

use super::super::bindings::palisade::provider::http::Request;
use super::super::host::{Witness, method};
use super::super::lines::escaped;
use super::super::secrets::is_opaque;
use super::client_auth::recorded_auth;
use super::mask::masked;
use crate::config;
use palisade_core::ports::{Door, DoorFault, DoorRequest, DoorResponse};
use palisade_exchange::{Answer, Body, Expected, Failed, Fails, Outcome, RecordedExchange, Texts, pairs};

/// Header fields of an answer that are written down.
const TELLING: [&str; 3] = ["content-type", "retry-after", "www-authenticate"];
/// Header fields of a request that need not be.
const UNREMARKABLE: [&str; 3] = ["accept", "content-type", "user-agent"];

/// The door, and what went through it.
pub(super) struct Recorder {
    inner: Arc<dyn Door>,
    tell: Box<dyn Fn(&str) + Send + Sync>,
    /// What no line may have in it.
    secrets: Vec<Zeroizing<String>>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    requests: Vec<Expected>,
    /// What the requests had in them when they left, by name: the client's credentials, which answers may
    /// repeat.
    sent: Vec<(String, Zeroizing<String>)>,
}

impl Recorder {
    /// Requests of the call of `provider` that `asked` describes go on to `inner`; of each, `tell` gets one line
    /// without a secret.
    pub(super) fn new(
        provider: &config::Provider,
        inner: Arc<dyn Door>,
        asked: &RecordedExchange,
        tell: Box<dyn Fn(&str) + Send + Sync>,
    ) -> Recorder {
        let tokens = &asked.input.tokens;
        let given = [Some(&tokens.access_token), tokens.refresh_token.as_ref(), tokens.id_token.as_ref()];
        let mut secrets: Vec<String> = given.into_iter().flatten().cloned().collect();
        secrets.extend(pairs(&asked.connection.kept).into_iter().map(|(_, value)| value));
        secrets.extend(pairs(&asked.input.callback).into_iter().map(|(_, value)| value));
        secrets.extend(provider.secret_settings.iter().map(|secret| secret.expose_secret().to_owned()));
        let parameters = pairs(&asked.connection.parameters).into_iter();
        let secret = parameters.filter(|(name, _)| provider.secret_parameters.contains(name));
        secrets.extend(secret.map(|(_, value)| value));
        secrets.retain(|secret| secret.len() >= 3);
        Recorder {
            inner,
            tell,
            secrets: secrets.into_iter().map(Zeroizing::new).collect(),
            seen: Mutex::default(),
        }
    }

    /// What went through, as an exchange.
    pub(super) fn exchange(
        &self,
        provider: &config::Provider,
        asked: &RecordedExchange,
        outcome: &Outcome,
    ) -> RecordedExchange {
        let Seen { requests, sent } = std::mem::take(&mut *self.lock());
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
        masked(provider, &raw, &sent)
    }

    /// A URL's origin and path, without what is a secret in it.
    fn place(&self, url: &str) -> String {
        let plain = url.split(['?', '#']).next().unwrap_or_default();
        let secret = |segment: &&str| {
            let read = percent_decode_str(segment).decode_utf8_lossy();
            is_opaque(&read) || self.secrets.iter().any(|secret| read.contains(&**secret))
        };
        let parts =
            plain.split('/').enumerate().map(|(index, segment)| match index > 2 && secret(&segment) {
                true => "(hidden)",
                false => segment,
            });
        escaped(&parts.collect::<Vec<_>>().join("/"))
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // Every change of it is whole.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Witness for Recorder {
    fn asked(&self, request: &Request) {
        let kind = request.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let kind = kind.map_or(String::new(), |(_, value)| value.clone());
        let headers = request.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
        self.lock().requests.push(Expected {
            method: method(request.method).to_owned(),
            url: request.url.clone(),
            client_auth: recorded_auth(&request.client_auth),
            headers: headers.filter(|(name, _)| !UNREMARKABLE.contains(&&**name)).collect(),
            body: body(&kind, &request.body),
            answer: None,
            // Until there is an answer.
            fails: Some(Fails::Denied),
            other: BTreeMap::new(),
        });
    }

    /// Without the client's credentials, and as it has to be played for the plugin to do the same.
    fn answered(&self, answer: &DoorResponse) {
        if let Some(last) = self.lock().requests.last_mut() {
            (last.answer, last.fails) = (Some(written(answer)), None);
        }
    }

    fn logged(&self, _: &str) {}

    fn used(&self, _: usize) {}
}

#[async_trait]
impl Door for Recorder {
    async fn send(&self, request: DoorRequest) -> Result<DoorResponse, DoorFault> {
        let begun = Instant::now();
        let url = self.place(request.url.expose_secret());
        self.lock().sent.extend(carried(&request));
        let method = request.method;
        let answer = self.inner.send(request).await;
        let ms = begun.elapsed().as_millis();
        match &answer {
            Ok(response) => (self.tell)(&format!("{method} {url} → {} in {ms} ms", response.status)),
            Err(fault) => {
                (self.tell)(&format!("{method} {url} → {}, after {ms} ms", escaped(&fault.to_string())));
            }
        }
        if let (Err(fault), Some(last)) = (&answer, self.lock().requests.last_mut()) {
            last.fails = Some(match fault {
                DoorFault::Denied(_) => Fails::Denied,
                DoorFault::Timeout => Fails::Timeout,
                DoorFault::Unreachable(_) => Fails::Unreachable,
                DoorFault::TooLarge => Fails::TooLarge,
            });
        }
        answer
    }
}

/// What a request has in it when it leaves, by name.
fn carried(request: &DoorRequest) -> Vec<(String, Zeroizing<String>)> {
    let query = request.url.expose_secret().split_once('?').map_or("", |(_, query)| query);
    let mut all: Vec<(String, Zeroizing<String>)> = Vec::new();
    for part in [query.as_bytes(), &request.body] {
        let fields = url::form_urlencoded::parse(part).into_owned();
        all.extend(fields.map(|(name, value)| (name, Zeroizing::new(value))));
    }
    let telling =
        request.headers.iter().filter(|(name, _)| !UNREMARKABLE.contains(&&*name.to_ascii_lowercase()));
    for (name, value) in telling {
        // `Basic …`, `Bearer …`: the scheme is no secret.
        let (name, value) = (name.to_ascii_lowercase(), value.expose_secret());
        let value = value.split_once(' ').map_or(value, |(_, rest)| rest.trim());
        all.push((name, Zeroizing::new(value.to_owned())));
    }
    all
}

fn written(response: &DoorResponse) -> Answer {
    let telling = response.headers.iter().filter(|(name, _)| TELLING.contains(&&**name));
    let mut headers: BTreeMap<String, String> = telling.cloned().collect();
    let kind = headers.get("content-type").cloned().unwrap_or_default();
    let body = body(&kind, &response.body);
    if body.json.is_some() || body.form.is_some() {
        headers.remove("content-type");
    }
    Answer { status: response.status, headers, body, other: BTreeMap::new() }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use serde_json::{Map, json};

    use super::super::super::bindings::palisade::provider::http::{BasicEncoding, ClientAuth, Method};
    use super::*;
    use crate::config::{Component, PluginLimits, Provider};
    use palisade_exchange::{Call, Current, Granted, Person};

    const FORM: &str = "application/x-www-form-urlencoded";
    const KEY: &str = "plain-key";
    const PIN: &str = "one-two-three";
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
            Ok(DoorResponse {
                status: 200,
                headers,
                body: Zeroizing::new(self.1.clone().into_bytes()),
                retry_after: None,
            })
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
            reach: Default::default(),
            scopes: Vec::new(),
            settings: Map::from_iter([("pin".to_owned(), json!(PIN))]),
            secret_settings: vec![PIN.into()],
            secret_parameters: vec!["api_key".to_owned()],
            limits: PluginLimits::default(),
            token_access: None,
        }
    }

    async fn recorded(answer: String, request: Request, outcome: Outcome) -> (RecordedExchange, String) {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&lines);
        let tell = Box::new(move |line: &str| kept.lock().unwrap().push(line.to_owned()));
        let mut asked = RecordedExchange::empty(Call::Refresh);
        asked.input.tokens = Current {
            access_token: ACCESS.to_owned(),
            refresh_token: Some(REFRESH.to_owned()),
            ..Current::default()
        };
        let provider = provider();
        asked.connection.parameters =
            [("api_key", KEY), ("shop", "acme")].map(|(name, value)| (name.into(), value.into())).into();
        let door = Arc::new(FakeDoor("application/json", answer));
        let recorder = Recorder::new(&provider, door, &asked, tell);
        let url = request.url.clone();
        recorder.asked(&request);
        let sent = DoorRequest {
            method: "POST",
            url: url.into(),
            headers: vec![("authorization".to_owned(), format!("Basic {}", basic()).into())],
            body: Zeroizing::default(),
            timeout: Duration::ZERO,
            max_bytes: 0,
        };
        let answer = recorder.send(sent).await.unwrap();
        recorder.answered(&answer);
        let exchange = recorder.exchange(&provider, &asked, &outcome);
        let lines = lines.lock().unwrap().join("\n");
        (exchange, lines)
    }

    /// How the client is authenticated.
    fn basic() -> String {
        STANDARD.encode("the-client:the secret")
    }

    fn form_encoded(text: &str) -> String {
        url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
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
    async fn secret_settings_and_parameters_are_recorded_as_placeholders() {
        let url = format!("https://acme.example/{KEY}/token?pin={PIN}");
        let body = format!("key={}", STANDARD.encode(KEY));
        let answer = json!({"access_token": "a-2", "echo": KEY}).to_string();
        let (exchange, lines) = recorded(answer, request(&url, Vec::new(), body), Outcome::Done(true)).await;
        let text = toml::to_string(&exchange).unwrap();
        for secret in [KEY, PIN, &*STANDARD.encode(KEY)] {
            assert!(!text.contains(secret) && !lines.contains(secret), "{secret}: {text}\n{lines}");
        }
        assert_eq!(exchange.connection.parameters["api_key"], "api-key-1".into());
        assert_eq!(exchange.connection.parameters["shop"], "acme".into());
        assert_eq!(exchange.settings["pin"], "setting-1");
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
        let (exchange, lines) = recorded(answer.to_string(), request(&url, headers, body), outcome).await;
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
        let (exchange, _) = recorded(answer.to_string(), request, Outcome::Account(person)).await;
        let text = serde_json::to_string(&exchange).unwrap();
        for personal in ["user-1", "ann@corp", "\"Ann\"", "ann.png"] {
            assert!(!text.contains(personal), "{personal}: {text}");
        }
        let Outcome::Account(person) = &exchange.result else { panic!("an account") };
        let answer = exchange.requests[0].answer.as_ref().unwrap().body.json.clone().unwrap();
        assert_eq!((&answer["sub"], &answer["email"]), (&json!(person.subject), &json!(person.email)));
        assert!(toml::to_string(&exchange).is_ok());
    }

    /// Wherever a provider or a plugin writes a secret, and however.
    #[tokio::test]
    async fn a_secret_is_found_however_it_is_written() {
        let lower = form_encoded(ACCESS).to_ascii_lowercase();
        let slashes = ACCESS.replace('/', "\\/");
        let nested = URL_SAFE_NO_PAD.encode(json!({"sub": "x", "act": {"token": ACCESS}}).to_string());
        let jwt = format!("eyJhbGciOiJub25lIn0.{nested}.c2ln");
        let encoded = STANDARD.encode(format!("user:{ACCESS}"));
        let twice = form_encoded(&form_encoded(ACCESS));
        let unknown = "Zm9v/YmFyMTIzNDU2Nzg5MDEyMzQ1";
        let short = STANDARD.encode(REFRESH);
        let answers = [
            // TOML has no `null`, so this is kept as a text.
            format!(r#"{{"access_token":"{slashes}","scope":null}}"#),
            r#"{"access_token":"acc\u002fess+1234567890abcdef==","scope":null}"#.to_owned(),
            json!({"hint": lower}).to_string(),
            json!({"next": format!("https://id.example/cb?t={lower}#access_token={twice}")}).to_string(),
            json!({"detail": format!("rejected {jwt} of {encoded}")}).to_string(),
            json!({"echo": json!({"refresh_token": REFRESH}).to_string()}).to_string(),
            json!({"you_sent": format!("Basic {}", basic())}).to_string(),
            format!("<p>you sent Basic {} and {}</p>", basic(), twice),
            format!("access_token=shorty&refresh_token={}", form_encoded(REFRESH)),
            json!({"blob": unknown, "avatar_url": "https://id.example/u?sig=hunter2sig", "login": "annie"}).to_string(),
            // Too short to be taken for a token by its looks.
            json!({"ref": short}).to_string(),
            json!({"id": "https://login.id.example/id/00Dx0000000BV7z/005x00000012Q9P"}).to_string(),
            json!({"by_user": {"4711-0815-4711-0815-4711": 1}, "phone": "+49 30 1234", "upn": "ann@corp.example"})
                .to_string(),
        ];
        let basic = basic();
        for answer in answers {
            let url = format!("https://id.example/revoke/{}/now", utf8(ACCESS));
            let headers =
                vec![("x-api-key", "k1y".to_owned()), ("authorization", format!("Basic {encoded}"))];
            let outcome = Outcome::Tokens(Box::new(Granted {
                access_token: "other".to_owned(),
                keep: [("tenant".to_owned(), "hush".into())].into(),
                ..Granted::default()
            }));
            let (exchange, lines) =
                recorded(answer.clone(), request(&url, headers, String::new()), outcome).await;
            let text = toml::to_string(&exchange).unwrap();
            for secret in [
                ACCESS,
                REFRESH,
                &short,
                &lower,
                &slashes,
                &nested,
                &encoded,
                &twice,
                unknown,
                &basic,
                "shorty",
                "hunter2sig",
                "annie",
                "4711-0815",
                "005x0000",
                "00Dx000",
                "1234\"",
                "ann@corp",
                "k1y",
                "hush",
                "\\u002fess",
                &utf8(ACCESS),
            ] {
                assert!(!text.contains(secret), "{secret} after {answer}: {text}");
            }
            assert_eq!(lines.split(" in ").next(), Some("POST https://id.example/revoke/(hidden)/now → 200"));
        }
    }

    fn utf8(text: &str) -> String {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    }

    /// Readable words stay: without them a recorded exchange could not be understood.
    #[tokio::test]
    async fn what_is_harmless_stays() {
        let answer = json!({
            "error": "invalid_grant", "error_description": "Token has been expired or revoked.",
            "scope": "https://id.example/auth/drive.readonly openid", "token_type": "Bearer",
            "issued": "2026-11-25T12:00:00Z", "refreshTokenExpiresInSeconds": 5184000,
            "refresh_token_expires_in": "15811200", "email_verified": "true",
            "kind": "urn:ietf:params:oauth:token-type:access_token",
        });
        let url = "https://id.example/oauth2/v2.0/token?api-version=2&grant_type=refresh_token";
        let (exchange, lines) =
            recorded(answer.to_string(), request(url, Vec::new(), String::new()), Outcome::Done(true)).await;
        assert_eq!(exchange.requests[0].url, url);
        assert_eq!(exchange.requests[0].answer.as_ref().unwrap().body.json, Some(answer));
        assert!(lines.starts_with("POST https://id.example/oauth2/v2.0/token → 200"), "{lines}");
    }

    /// A megabyte of what looks like tokens costs no minutes.
    #[tokio::test]
    async fn an_answer_full_of_secrets_is_left_out() {
        let words: Vec<String> = (0..40_000).map(|n| format!("token-number-{n:010}")).collect();
        let answer = json!({ "all": words }).to_string();
        let request = request("https://id.example/t", Vec::new(), String::new());
        let (exchange, _) = recorded(answer, request, Outcome::Done(true)).await;
        let body = &exchange.requests[0].answer.as_ref().unwrap().body;
        assert_eq!((body.body.as_deref(), body.json.is_none()), (Some("withheld"), true));
    }

    /// GitHub's accounts are numbers.
    #[tokio::test]
    async fn an_account_that_is_a_number_stays_the_same_as_its_text() {
        let person =
            Person { subject: "99887766".to_owned(), email: None, email_verified: false, name: None };
        let request = request("https://id.example/user", Vec::new(), String::new());
        let (exchange, _) =
            recorded(json!({"id": 99_887_766}).to_string(), request, Outcome::Account(person)).await;
        let Outcome::Account(person) = &exchange.result else { panic!("an account") };
        let answer = exchange.requests[0].answer.as_ref().unwrap().body.json.clone().unwrap();
        assert_eq!(answer["id"].to_string(), person.subject);
        assert_ne!(person.subject, "99887766");
    }
}
