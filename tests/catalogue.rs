//! Every provider of the catalogue, through the component that it names: its block of `config.toml` is
//! valid, its settings are ones that the component takes, what the component calls is allowed, and what the
//! provider answers, as it documents it, makes a connection that refreshes and can be used.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use palisade::config::{self, Config, catalogue};
use palisade::edge::telemetry::metrics::Metrics;
use palisade::edge::wasm::{Plugins, Wiring};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{
    Assertion, Assertions, Authorization, Clock, CurrentTokens, Door, DoorFault, DoorRequest, DoorResponse,
    Pkce, ProviderCall, ProviderFault, Providers as _, SignError,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;
const CLIENT: &str = "the-client";

/// `tests/catalogue/answers.toml`.
#[derive(Deserialize)]
struct Answers {
    provider: Vec<Play>,
}

/// What one provider answers, in the order of the requests, and what must come of it.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Play {
    name: String,
    exchange: Vec<String>,
    refresh: Option<Vec<String>>,
    #[serde(default)]
    identity: Vec<String>,
    #[serde(default)]
    claims: Option<String>,
    #[serde(default)]
    callback: BTreeMap<String, String>,
    subject: Option<String>,
    life: u64,
}

/// Gives the answers that are next, and keeps what was asked.
#[derive(Default)]
struct Scripted {
    answers: Mutex<VecDeque<String>>,
    asked: Mutex<Vec<(String, String)>>,
}

#[async_trait::async_trait]
impl Door for Scripted {
    async fn send(&self, request: DoorRequest) -> Result<DoorResponse, DoorFault> {
        let body = String::from_utf8(request.body.to_vec()).unwrap();
        self.asked.lock().unwrap().push((request.url.expose_secret().to_owned(), body));
        let Some(answer) = self.answers.lock().unwrap().pop_front() else {
            return Err(DoorFault::Denied("there is no answer left".to_owned()));
        };
        let headers = vec![("content-type".to_owned(), "application/json; charset=utf-8".to_owned())];
        Ok(DoorResponse { status: 200, headers, body: answer.into_bytes().into(), retry_after: None })
    }
}

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> UnixTime {
        UnixTime(NOW)
    }
}

impl Assertions for Fixed {
    fn sign(&self, _: &SecretString, _: &Assertion, _: UnixTime) -> Result<String, SignError> {
        Ok("an.assertion.unsigned".to_owned())
    }
}

fn built_in() -> Vec<(&'static str, &'static [u8])> {
    let read = |name: &&'static str| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/dist").join(format!("{name}.wasm"));
        (*name, &*std::fs::read(file).unwrap().leak())
    };
    config::BUILT_IN.iter().map(read).collect()
}

fn configured(entries: &[catalogue::Entry]) -> Config {
    let mut text = String::from("public_url = \"http://localhost:8080\"\n");
    text.push_str("[[routes]]\nname = \"app\"\nupstream = [\"http://127.0.0.1:3000\"]\n");
    for entry in entries {
        text.push_str(&catalogue::block(entry));
        text.push('\n');
    }
    let config = config::parse(&text, Path::new("config.toml"), &|_| Some(CLIENT.to_owned()));
    config.unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// The host with every provider of `config`, each behind a door of its own.
async fn host(config: &Config) -> (Arc<Plugins>, BTreeMap<String, Arc<Scripted>>) {
    let of = |provider: &config::Provider| (provider.name.clone(), Arc::default());
    let doors: BTreeMap<String, Arc<Scripted>> = config.providers.iter().map(of).collect();
    let behind = doors.clone();
    let wiring = Wiring {
        doors: Box::new(move |provider| Ok(Arc::clone(&behind[&provider.name]) as _)),
        assertions: Arc::new(Fixed),
        clock: Arc::new(Fixed),
        meter: Arc::new(Metrics::new("test").unwrap()),
        built_in: built_in(),
        redirect_uri: "http://localhost:8080/auth/connections/callback".to_owned(),
        cache: None,
    };
    (Plugins::start(&config.providers, wiring).await.unwrap(), doors)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_provider_of_the_catalogue_connects_refreshes_and_is_used() {
    let entries = catalogue::list();
    let config = configured(&entries);
    assert_eq!(config.providers.len(), entries.len());
    let (plugins, doors) = host(&config).await;
    let faults: Vec<_> =
        plugins.standings().into_iter().filter(|standing| standing.fault.is_some()).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    for entry in entries.iter().filter(|entry| entry.component == "builtin:oauth2") {
        let info = plugins.get(&entry.name).unwrap();
        assert_eq!(info.parameters.len(), entry.parameters().len(), "{}", entry.name);
    }
    let asked: usize = doors.values().map(|door| door.asked.lock().unwrap().len()).sum();
    assert_eq!(asked, 0, "a request while a provider is being described");

    let answers: Answers = toml::from_str(include_str!("catalogue/answers.toml")).unwrap();
    let played: BTreeSet<&str> = answers.provider.iter().map(|play| &*play.name).collect();
    let known: BTreeSet<&str> = entries.iter().map(|entry| &*entry.name).collect();
    assert_eq!(played, known, "tests/catalogue/answers.toml has every provider, once");
    assert_eq!(answers.provider.len(), entries.len());
    let mut wrong = Vec::new();
    for play in &answers.provider {
        let provider = config.providers.iter().find(|provider| provider.name == play.name).unwrap();
        let stage = Stage { plugins: &plugins, door: &doors[&play.name], provider, play };
        wrong.extend(stage.play().await.err().map(|why| format!("{}: {why}", play.name)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What `builtin:oauth2` reads of an answer to a refresh, and the host makes of it.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_stands_beside_good_tokens_they_are_kept_and_no_life_is_read_wrong() {
    let entry = catalogue::list().into_iter().find(|entry| entry.name == "linear").unwrap();
    let config = configured(&[entry]);
    let (plugins, doors) = host(&config).await;
    let refresh = async |answer: &str| {
        doors["linear"].answers.lock().unwrap().push_back(answer.to_owned());
        let call = ProviderCall {
            provider: "linear".to_owned(),
            parameters: BTreeMap::new(),
            secret_parameters: BTreeMap::new(),
            kept: BTreeMap::new(),
            scopes: Vec::new(),
        };
        let current = CurrentTokens {
            access_token: "access-1".into(),
            refresh_token: Some("refresh-1".into()),
            expires_at: None,
            id_token: None,
        };
        let granted =
            plugins.refresh(call, current).await.unwrap_or_else(|fault| panic!("{fault}: {answer}"));
        let of = |token: &SecretString| token.expose_secret().to_owned();
        let tokens = (of(&granted.access_token), granted.refresh_token.as_ref().map(of));
        assert_eq!(tokens, ("access-2".to_owned(), Some("refresh-2".to_owned())), "{answer}");
        granted
    };
    let longest = Duration::from_secs(10 * 365 * 86_400);
    for (said, life) in [
        ("0", None),
        ("-0", None),
        ("-1", None),
        ("0.999", None),
        ("1e-400", None),
        ("1", Some(1)),
        ("3600", Some(3600)),
        ("3.6e3", Some(3600)),
        ("3599.9", Some(3599)),
        ("36000000E-4", Some(3600)),
        ("315360000", Some(315_360_000)),
        ("315360001", Some(315_360_000)),
        ("9007199254740993", Some(315_360_000)),
        ("9223372036854775808", Some(315_360_000)),
        ("18446744073709551615", Some(315_360_000)),
        ("18446744073709551616", Some(315_360_000)),
        ("1.5e20", Some(315_360_000)),
        ("1e308", Some(315_360_000)),
        ("1e400", Some(315_360_000)),
        ("99999999999999999999999999999999999999", Some(315_360_000)),
        ("-18446744073709551616", None),
        ("-1e400", None),
    ] {
        for said in [said.to_owned(), format!("\"{said}\"")] {
            let answer =
                format!(r#"{{"access_token":"access-2","refresh_token":"refresh-2","expires_in":{said}}}"#);
            assert_eq!(refresh(&answer).await.expires_in, life.map(Duration::from_secs), "{answer}");
        }
    }
    let scopes: Vec<String> = (0..200_000).map(|n| format!("s{n}")).collect();
    for beside in [
        format!(r#""scope":"{}""#, scopes.join(" ")),
        format!(r#""scope":"{}""#, scopes.join(",")),
        format!(r#""scope":["{}","a\nb","x"]"#, "s".repeat(600)),
        format!(r#""id_token":"{}""#, "i".repeat(80_000)),
        r#""token_type":"a b","expires_in":{},"id_token":[1]"#.to_owned(),
        r#""user":"\ud800","error":[],"expires_in":"never""#.to_owned(),
        r#""error":"partly","error_description":"\u0000""#.to_owned(),
    ] {
        let answer = format!(r#"{{"access_token":"access-2",{beside},"refresh_token":"refresh-2"}}"#);
        let granted = refresh(&answer).await;
        assert!(granted.scopes.is_none_or(|scopes| scopes.len() <= 256));
        assert!(granted.id_token.is_none() && granted.expires_in.is_none_or(|life| life <= longest));
    }
}

struct Stage<'a> {
    plugins: &'a Plugins,
    door: &'a Scripted,
    provider: &'a config::Provider,
    play: &'a Play,
}

impl Stage<'_> {
    /// Connects, identifies the account, refreshes, and uses the tokens.
    async fn play(&self) -> Result<(), String> {
        let (plugins, play) = (self.plugins, self.play);
        let info = plugins.get(&play.name).ok_or("not in service")?;
        let mut call = ProviderCall {
            provider: play.name.clone(),
            parameters: info
                .parameters
                .iter()
                .filter_map(|one| Some((one.name.clone(), one.example.clone()?)))
                .collect(),
            secret_parameters: BTreeMap::new(),
            kept: BTreeMap::new(),
            scopes: info.scopes.clone(),
        };
        let pkce = Pkce { verifier: "v".repeat(43).into(), challenge: "c".repeat(43) };
        let visit = plugins.authorize(call.clone(), &"the-state".into(), &pkce).await.map_err(said)?;
        if !matches!(&visit, Authorization::Visit(url) if url.contains("the-state")) {
            return Err(format!("authorize: {visit:?}"));
        }

        let callback = if play.callback.is_empty() {
            vec![("code".to_owned(), "code-1".into())]
        } else {
            play.callback.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect()
        };
        self.answers(&play.exchange);
        let granted = plugins.exchange(call.clone(), callback, &pkce).await.map_err(said)?;
        self.asked("exchange", "code-1")?;
        usable(&granted.access_token)?;
        if granted.expires_in != (play.life > 0).then(|| Duration::from_secs(play.life)) {
            return Err(format!("exchange: a life of {:?}", granted.expires_in));
        }
        if granted.token_type.as_ref().is_some_and(|kind| kind.contains(' ')) {
            return Err(format!("exchange: the token type {:?}", granted.token_type));
        }
        call.kept = granted.keep.clone();
        let mut current = CurrentTokens {
            access_token: granted.access_token.clone(),
            refresh_token: granted.refresh_token.clone(),
            expires_at: granted.expires_in.map(|life| UnixTime(NOW).plus(life)),
            id_token: granted.id_token.clone(),
        };

        self.answers(&play.identity);
        let account = plugins.identity(call.clone(), current.clone()).await.map_err(said)?;
        self.finished("identity")?;
        let subject = account.map(|account| account.subject);
        if subject != play.subject || info.can_identify != play.subject.is_some() {
            return Err(format!("identity: {subject:?}"));
        }

        let Some(answers) = &play.refresh else {
            return if info.can_refresh { Err("refresh: it says that it can".to_owned()) } else { Ok(()) };
        };
        self.answers(answers);
        let refreshed = plugins.refresh(call.clone(), current.clone()).await;
        if answers.is_empty() {
            return match refreshed {
                Err(ProviderFault::NotRefreshable(_)) if current.refresh_token.is_none() => Ok(()),
                other => Err(format!("refresh without anything to refresh by: {other:?}")),
            };
        }
        let presented = current.refresh_token.take().unwrap_or(current.access_token);
        let refreshed = refreshed.map_err(said)?;
        self.asked("refresh", presented.expose_secret())?;
        usable(&refreshed.access_token)?;
        match refreshed.access_token.expose_secret() {
            "access-2" => Ok(()),
            other => Err(format!("refresh: {other}")),
        }
    }

    /// What the next requests are answered.
    fn answers(&self, answers: &[String]) {
        let claims = self.play.claims.as_deref().unwrap_or(r#"{"sub":"s"}"#);
        let mut claims: Value = serde_json::from_str(claims).unwrap();
        claims["aud"] = json!(CLIENT);
        claims["exp"] = json!(NOW + 600);
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let id_token = format!("{}.{}.c2ln", part(json!({"alg": "RS256"})), part(claims));
        let date = |at: u64| {
            let at = std::time::UNIX_EPOCH + Duration::from_secs(at);
            humantime::format_rfc3339_seconds(at).to_string()
        };
        let fill = |answer: &String| {
            answer
                .replace("ID_TOKEN", &id_token)
                .replace("IN_AN_HOUR_RFC3339", &date(NOW + 3600))
                .replace("IN_AN_HOUR", &(NOW + 3600).to_string())
                .replace("IN_SIX_HOURS", &(NOW + 6 * 3600).to_string())
        };
        *self.door.answers.lock().unwrap() = answers.iter().map(fill).collect();
        self.door.asked.lock().unwrap().clear();
    }

    /// The first request of `call` presented `what`, and each of them went to a host that is allowed.
    fn asked(&self, call: &str, what: &str) -> Result<(), String> {
        let asked = self.door.asked.lock().unwrap().clone();
        let Some((url, body)) = asked.first() else { return Err(format!("{call}: no request was sent")) };
        let encoded: String = url::form_urlencoded::byte_serialize(what.as_bytes()).collect();
        let percent = encoded.replace('+', "%20");
        if ![what, &*encoded, &*percent].iter().any(|what| url.contains(what) || body.contains(what)) {
            return Err(format!("{call}: {what} was not presented: {url} {body}"));
        }
        self.finished(call)
    }

    fn finished(&self, call: &str) -> Result<(), String> {
        for (url, _) in self.door.asked.lock().unwrap().iter() {
            let url = url::Url::parse(url).map_err(|error| format!("{call}: {url}: {error}"))?;
            let host = url.host_str().unwrap_or_default();
            let allowed = &self.provider.allowed_hosts;
            if url.scheme() != "https" || !allowed.iter().any(|pattern| pattern.covers(host, 443, 443)) {
                return Err(format!("{call}: {host} is not allowed"));
            }
        }
        match self.door.answers.lock().unwrap().len() {
            0 => Ok(()),
            left => Err(format!("{call}: {left} answers were not asked for")),
        }
    }
}

fn said(fault: ProviderFault) -> String {
    fault.to_string()
}

/// As injection uses it (RFC 6750 §2.1).
fn usable(token: &SecretString) -> Result<(), String> {
    let value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()));
    value.map(drop).map_err(|_| "a token that no header can hold".to_owned())
}
