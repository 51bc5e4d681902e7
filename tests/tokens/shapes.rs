//! Tokens as named issuers shape them: each file in `fixtures/tokens` has the header and the claims of one, the section of
//! `[[issuers]]` that takes it, and the addresses of its documentation. Signed by a key of the test, read by the real
//! configuration and verified by the real verifier; what is served at an address is the test's own.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use palisade::config::{self, Config};
use palisade::edge::jwt::{
    Asker, Clocks, IntrospectionPorts, Issuers, OtherIssuers, SigningKeyRing, TokenVerifier,
};
use palisade::edge::own_secrets::FolderSecrets;
use palisade::edge::telemetry::metrics::Metrics;
use palisade_core::domain::identity::Identity;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{
    Fetch, FetchError, FetchRequest, Fetched, FirstVerified, Meter, OwnCredentials, PostForm, StoreError,
    Verifier,
};
use palisade_testing::fakes::FakeClock;
use serde_json::{Map, Value, json};

use super::key_sets::{certificate, with, without};
use crate::support::keys::{Key, merge, now};

/// What is served, by address.
struct Web(Map<String, Value>);

#[async_trait]
impl Fetch for Web {
    async fn get(&self, request: FetchRequest<'_>) -> Result<Fetched, FetchError> {
        let url = request.url.to_owned();
        match self.0.get(request.url) {
            Some(body) => {
                Ok(Fetched { status: 200, body: body.to_string().into_bytes(), ..Fetched::default() })
            }
            None => Err(FetchError::Answered { url, status: 404, retry_after: None }),
        }
    }

    async fn post_form(&self, request: PostForm<'_>) -> Result<Fetched, FetchError> {
        panic!("nothing is posted: {}", request.url)
    }

    async fn post(&self, url: &str, _: &[(&str, String)], _: String) -> Result<u16, FetchError> {
        panic!("nothing is posted: {url}")
    }
}

struct Unheard;

impl FirstVerified for Unheard {
    fn passed(&self, _: &Identity) {}
}

#[async_trait]
impl OwnCredentials for Unheard {
    async fn is_ours(&self, _: &str) -> Result<bool, StoreError> {
        Ok(false)
    }
}

/// A file of the folder.
struct Shape {
    name: String,
    said: Value,
}

fn shapes() -> Vec<Shape> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokens");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.collect();
    files.sort();
    let read = |path: std::path::PathBuf| Shape {
        name: path.file_stem().unwrap().to_string_lossy().into_owned(),
        said: serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap(),
    };
    files.into_iter().map(read).collect()
}

impl Shape {
    fn key(&self) -> Key {
        let alg = if self.said["header"]["alg"] == "ES256" { "ES256" } else { "RS256" };
        Key::of(self.said["header"]["kid"].as_str().unwrap(), alg)
    }

    /// The configuration with its section, and a route of its requirements.
    fn config(&self) -> Config {
        let lines: Vec<&str> =
            self.said["section"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
        let require = self.said["require"].as_str().unwrap_or("{}");
        let text = format!(
            "[tokens]\nissuer = \"https://us.test\"\n[[issuers]]\n{}\n[[routes]]\nname = \"app\"\n\
             upstream = \"http://127.0.0.1:3000\"\nrequire = {require}\n",
            lines.join("\n")
        );
        config::parse(&text, Path::new("config.toml"), &|_| None)
            .unwrap_or_else(|errors| panic!("{}: {errors:#?}", self.name))
    }

    fn web(&self, key: &Key) -> Web {
        let keys = &self.said["keys"];
        let pem = |pem: String| json!({ key.kid.as_str(): pem });
        let body = match keys["form"].as_str().unwrap() {
            "jwks" => {
                let absent: Vec<&str> =
                    keys["without"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                let members = keys["members"].as_object().cloned().unwrap_or_default();
                let jwk = with(without(key.jwk(), &absent), Value::Object(members));
                let beside = keys["beside"].as_array().cloned().unwrap_or_default();
                let all = [vec![jwk], beside].concat();
                let mut set = json!({ "keys": all });
                merge(&mut set, keys.get("set").unwrap_or(&json!({})));
                set
            }
            "certificates" => pem(certificate(key).pem()),
            "public-keys" => pem(key.certifying().public_key_pem()),
            form => panic!("{}: {form}", self.name),
        };
        let at = keys["at"].as_str().unwrap();
        let mut served = Map::from_iter([(at.to_owned(), body)]);
        if let Some(discovery) = self.said.get("discovery") {
            let document =
                json!({"issuer": discovery["issuer"], "jwks_uri": at, "response_types_supported": ["code"]});
            served.insert(discovery["at"].as_str().unwrap().to_owned(), document);
        }
        Web(served)
    }

    /// The claims at the present, changed; a null takes one out.
    fn claims(&self, change: &Value) -> Value {
        let mut claims = self.said["claims"].clone();
        for (name, after) in self.said["times"].as_object().unwrap() {
            claims[name] = json!(now().checked_add_signed(after.as_i64().unwrap()).unwrap());
        }
        merge(&mut claims, change);
        claims
    }

    fn token(&self, key: &Key, change: &Value) -> String {
        key.raw(&self.said["header"].to_string(), &self.claims(change).to_string())
    }
}

async fn verifier(config: &Config, web: Web, folder: &Path) -> TokenVerifier {
    let meter: Arc<dyn Meter> = Arc::new(Metrics::new("test").unwrap());
    let web: Arc<dyn Fetch> = Arc::new(web);
    let asker = Asker::new(Arc::clone(&web), Arc::clone(&meter), Arc::new(FakeClock::default()), None);
    let issuers = Arc::new(Issuers::new(&config.issuers, asker));
    issuers.refresh_all().await;
    let secrets = Arc::new(FolderSecrets::new(folder));
    let ring = Arc::new(SigningKeyRing::open(&config.tokens, secrets, UnixTime(now())).unwrap());
    let clocks = Clocks::open(folder).unwrap();
    let (own, clocks) = (Arc::new(Unheard), Arc::new(clocks));
    let ports =
        IntrospectionPorts { fetch: web, meter: Arc::clone(&meter), own, clocks: Arc::clone(&clocks) };
    let others = Arc::new(OtherIssuers::none(ports));
    TokenVerifier::new(&config.tokens, ring, issuers, others, clocks, meter, Arc::new(Unheard))
}

#[tokio::test]
async fn tokens_of_named_issuers_pass_as_documented_and_damaged_ones_do_not() {
    let shapes = shapes();
    assert!(shapes.len() >= 15, "the folder is there");
    for shape in shapes {
        let name = &shape.name;
        let documented = shape.said["documentation"].as_array().unwrap();
        assert!(documented.iter().all(|at| at.as_str().unwrap().starts_with("https://")), "{name}");
        let (key, config, folder) = (shape.key(), shape.config(), tempfile::tempdir().unwrap());
        let verifier = verifier(&config, shape.web(&key), folder.path()).await;
        let pass = |token: String| {
            let verified = verifier.verify(&token, UnixTime(now())).map_err(|fault| format!("{fault:?}"))?;
            let route = &config.routes[0].policy;
            route.check(&verified.identity).map_err(|refusal| format!("{refusal:?}"))?;
            Ok::<_, String>(verified)
        };
        let passed = pass(shape.token(&key, &json!({}))).unwrap_or_else(|why| panic!("{name}: {why}"));
        let identity = &passed.identity;
        let told = json!({
            "issuer": *identity.issuer,
            "subject": identity.subject,
            "email": identity.verified_email(),
            "groups": identity.claims.get("groups"),
        });
        assert_eq!(told, shape.said["caller"], "{name}");
        assert!(verifier.accepts(&passed), "{name}: after a reload, too");

        let stranger = shape.key();
        assert!(pass(shape.token(&stranger, &json!({}))).is_err(), "{name}: another key");
        let late = json!({"exp": now() - 3600});
        assert!(pass(shape.token(&key, &late)).is_err(), "{name}: expired");
        let refused = shape.said["refused"].as_object().unwrap();
        assert!(!refused.is_empty(), "{name}");
        for (how, change) in refused {
            assert!(pass(shape.token(&key, change)).is_err(), "{name}: {how}");
        }
    }
}

#[tokio::test]
async fn a_document_of_another_issuer_brings_no_keys_and_a_key_of_another_tenant_signs_nothing() {
    let shape = |name: &str| shapes().into_iter().find(|shape| shape.name == name).unwrap();
    let fault = async |shape: &Shape, web: Web, key: &Key| {
        let folder = tempfile::tempdir().unwrap();
        let verifier = verifier(&shape.config(), web, folder.path()).await;
        verifier.verify(&shape.token(key, &json!({})), UnixTime(now())).err()
    };
    let unknown = Some(palisade_core::domain::verdict::TokenFault::UnknownKey);
    let auth0 = shape("auth0");
    let key = auth0.key();
    assert_eq!(fault(&auth0, auth0.web(&key), &key).await, None);
    let at = auth0.said["discovery"]["at"].as_str().unwrap();
    for (member, value) in [
        ("issuer", json!("https://example.eu.auth0.com")),
        ("issuer", json!("https://evil.test/")),
        ("jwks_uri", json!("http://example.eu.auth0.com/.well-known/jwks.json")),
        ("jwks_uri", json!("https://localhost/keys")),
    ] {
        let mut web = auth0.web(&key);
        // The keys are wherever the document leads.
        let keys = web.0[auth0.said["keys"]["at"].as_str().unwrap()].clone();
        web.0[at][member] = value.clone();
        web.0.extend(value.as_str().map(|at| (at.to_owned(), keys)));
        assert_eq!(fault(&auth0, web, &key).await, unknown, "{member} {value}");
    }
    // Of the keys that all tenants share, those of one tenant are good for it alone.
    let tenants = shape("entra-v2-tenants");
    let key = tenants.key();
    let at = tenants.said["keys"]["at"].as_str().unwrap();
    let issuer = tenants.said["caller"]["issuer"].as_str().unwrap();
    for (limit, want) in [
        (issuer, None),
        ("https://login.microsoftonline.com/{tenantid}/v2.0", None),
        ("https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0", unknown),
    ] {
        let mut web = tenants.web(&key);
        web.0[at]["keys"][0]["issuer"] = json!(limit);
        assert_eq!(fault(&tenants, web, &key).await, want, "{limit}");
    }
}
