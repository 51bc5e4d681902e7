//! Data folders that earlier versions wrote (`tests/fixtures/write_store`), and whether one is whole: nothing that
//! was acknowledged is missing, nothing that was revoked is believed, nothing that was used up is good again.
//!
//! Every check is made as of the moment at which the folder was written, so that no record has expired.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use palisade::config::{self, Algorithm, Config};
use palisade::edge::clock::uptime;
use palisade::edge::jwt::compact::Compact;
use palisade::edge::jwt::keyset::KeySet;
use palisade::edge::jwt::{Clocks, SigningKeyRing, StoredKeys};
use palisade::edge::own_secrets::{self, FolderSecrets};
use palisade::edge::store::{RevocationCache, SledStore};
use palisade::edge::vault;
use palisade_core::domain::account::UserId;
use palisade_core::domain::connection::{ConnectionId, Status, field};
use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::identity::Identity;
use palisade_core::domain::link::Purpose;
use palisade_core::domain::opaque::{ServerKey, TokenHash};
use palisade_core::domain::revocation::Target;
use palisade_core::domain::session::SessionId;
use palisade_core::domain::task::{Errand, Task, TaskKind, Work};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{IssuerClocks, Keys, OwnSecret, Place, Revocations, Store, Vault};
use secrecy::ExposeSecret;
use serde_json::{Map, Value};
use uuid::Uuid;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

pub fn copy_into(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_file() {
            fs::copy(entry.path(), &target).unwrap();
            // A checkout gives files another mode than the program did.
            fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
        } else {
            fs::create_dir(&target).unwrap();
            copy_into(&entry.path(), &target);
        }
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {value}"))
}

fn uuid(text: &str) -> Uuid {
    text.parse().unwrap()
}

/// What a token says, unverified: its signature is another check's matter.
fn identity(token: &str) -> Identity {
    let part = token.split('.').nth(1).unwrap();
    let claims: Map<String, Value> = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    let string = |name: &str| claims.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
    let number = |name: &str| claims.get(name).and_then(Value::as_u64);
    Identity {
        issuer: string("iss").unwrap().into(),
        subject: string("sub").unwrap(),
        email: None,
        email_verified: false,
        session: string("sid"),
        token_id: string("jti"),
        version: number("ver"),
        scopes: Vec::new(),
        issued_at: UnixTime(number("iat").unwrap()),
        expires_at: UnixTime(number("exp").unwrap()),
        claims,
    }
}

/// A data folder of an earlier version, and what is true of it.
pub struct Fixture {
    pub path: PathBuf,
    pub truth: Value,
}

impl Fixture {
    /// Every one that there is.
    pub fn all() -> Vec<Fixture> {
        let entries = fs::read_dir(FIXTURES).unwrap().map(|entry| entry.unwrap().path());
        let mut found: Vec<_> = entries.filter(|path| path.join("truth.json").is_file()).collect();
        found.sort();
        assert!(!found.is_empty(), "no fixture in {FIXTURES}");
        let read = |path: PathBuf| {
            let truth = serde_json::from_slice(&fs::read(path.join("truth.json")).unwrap()).unwrap();
            Fixture { path, truth }
        };
        found.into_iter().map(read).collect()
    }

    /// The moment at which it was written.
    pub fn at(&self) -> UnixTime {
        UnixTime(self.truth["written_at"].as_u64().unwrap())
    }

    /// A copy of its data folder: opening a store writes to it.
    pub fn copy(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        copy_into(&self.path.join("data"), folder.path());
        folder
    }

    /// The configuration of the gateway that wrote it, with its store in `data`; `providers` cost a start the most.
    pub fn config(&self, data: &Path, providers: bool) -> String {
        let mut text = format!(
            "public_url = \"http://localhost:8080\"\n\
             [server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\
             [store]\nurl = \"sled:{}\"\n\
             [tokens]\nissuer = \"http://issuer.fixture\"\naudience = \"fixture\"\n\
             [passwords]\nbcrypt_cost = 4\n[limits]\nenabled = false\n\
             [[routes]]\nname = \"app\"\nmatch = {{ path = \"/app\" }}\nupstream = [\"http://127.0.0.1:9\"]\n",
            data.display()
        );
        if let Some(foreign) = self.truth.get("foreign") {
            text += &format!(
                "[[issuers]]\nissuer = {}\njwks = {}\naudiences = [\"fixture\"]\nalgorithms = [\"EdDSA\"]\n",
                foreign["issuer"], foreign["jwks"]
            );
        }
        for name in ["bank", "broker"].into_iter().filter(|_| providers) {
            text += &format!(
                "[[providers]]\nname = \"{name}\"\ncomponent = \"builtin:oauth2\"\nclient_id = \"env:FIXTURE_ID\"\n\
                 client_secret = \"env:FIXTURE_SECRET\"\nallowed_hosts = [\"127.0.0.1:9\"]\nallow_loopback = true\n\
                 scopes = [\"read\"]\n[providers.settings]\nauthorize_url = \"http://127.0.0.1:9/authorize\"\n\
                 token_url = \"http://127.0.0.1:9/token\"\nrevoke_url = \"http://127.0.0.1:9/revoke\"\n"
            );
        }
        text
    }

    /// The same, read.
    pub fn read_config(&self, data: &Path, providers: bool) -> Config {
        let secret = |name: &str| name.starts_with("FIXTURE_").then(|| "fixture".to_owned());
        config::parse(&self.config(data, providers), &data.join("config.toml"), &secret)
            .unwrap_or_else(|errors| panic!("{errors:#?}"))
    }

    /// Everything that was acknowledged is in `folder`, whose store is open, and what was learnt from others.
    pub async fn holds(&self, store: &SledStore, folder: &Path) {
        self.holds_all_of_ours(store, folder).await;
        self.holds_others(folder);
    }

    /// Everything that was acknowledged is in `folder`.
    pub async fn holds_all_of_ours(&self, store: &SledStore, folder: &Path) {
        let (truth, at) = (&self.truth, self.at());
        store.verify().await.unwrap();
        accounts_and_sessions(store, truth, folder).await;
        links(store, truth, at).await;
        revocations(store, truth, at).await;
        connections(store, truth, folder).await;
        keys(&self.read_config(folder, false), truth, folder, at);
        tasks(store, truth).await;
        events(store, truth).await;
    }

    /// What is known of other issuers is in `folder`: their keys as last fetched, and how far their clocks were seen
    /// ahead.
    pub fn holds_others(&self, folder: &Path) {
        others(&self.truth, folder, self.at());
    }
}

async fn accounts_and_sessions(store: &SledStore, truth: &Value, folder: &Path) {
    for told in truth["users"].as_array().unwrap() {
        let address = text(told, "/email").parse::<EmailAddress>().unwrap();
        let user = store.user_by_email(&address).await.unwrap().unwrap();
        assert_eq!(user.id, UserId(uuid(text(told, "/id"))), "{told}");
        assert_eq!(user.email_verified, told["email_verified"], "{told}");
        assert_eq!(user.active, told["active"], "{told}");
        assert_eq!(user.password.is_some(), told["has_password"], "{told}");
        assert_eq!(user.name.as_deref(), told["name"].as_str(), "{told}");
    }
    let server = ServerKey::new(own_secrets::key(&FolderSecrets::new(folder), OwnSecret::ServerKey).unwrap());
    let named = |claims: &Value| (UserId(uuid(text(claims, "/sub"))), SessionId(uuid(text(claims, "/sid"))));
    for (name, session) in truth["sessions"].as_object().unwrap() {
        let (user, id) = named(&session["claims"]);
        let stored = store.session(user, id).await.unwrap().unwrap_or_else(|| panic!("no session {name}"));
        let token = server.read(text(session, "/refresh_token")).unwrap();
        assert_eq!((token.user, token.session, token.generation), (user, id, stored.generation), "{name}");
        assert!(token.hash().is(&stored.current), "the refresh token of {name} is not the present one");
    }
    for replaced in truth["ended"]["replaced"].as_array().unwrap() {
        let token = server.read(replaced.as_str().unwrap()).unwrap();
        let stored = store.session(token.user, token.session).await.unwrap().unwrap();
        assert!(token.generation < stored.generation && !token.hash().is(&stored.current));
    }
    let (user, id) = named(&truth["ended"]["signed_out"]["claims"]);
    assert_eq!(store.session(user, id).await.unwrap(), None, "a session that was signed out");
}

async fn links(store: &SledStore, truth: &Value, at: UnixTime) {
    for (link, token) in truth["links"].as_object().unwrap() {
        let hash = TokenHash::of(token.as_str().unwrap().as_bytes());
        let kept = store.link(&hash).await.unwrap();
        assert_eq!(kept.is_some(), link != "used", "{link}");
        let Some(kept) = kept else { continue };
        let user = store.user(kept.user).await.unwrap().unwrap();
        let purpose = match &**link {
            "verify_pending" => Purpose::VerifyEmail,
            "reset_ann" => Purpose::ResetPassword,
            _ => Purpose::ChangeEmail,
        };
        assert!(kept.is_good(purpose, &user, at), "{link}");
    }
}

async fn revocations(store: &SledStore, truth: &Value, at: UnixTime) {
    let cache = RevocationCache::new(Box::new(uptime));
    cache.load(store, at).await.unwrap();
    let is_revoked = |token: &str| cache.is_revoked(&identity(token));
    let tokens = &truth["tokens"];
    assert!(is_revoked(text(tokens, "/revoked")));
    assert!(is_revoked(text(tokens, "/of_revoked_subject")));
    assert!(is_revoked(text(truth, "/ended/signed_out/access_token")));
    for good in tokens["good"].as_array().unwrap() {
        assert!(!is_revoked(good.as_str().unwrap()), "{good}");
    }
    for session in truth["sessions"].as_object().unwrap().values() {
        assert!(!is_revoked(text(session, "/access_token")), "{session}");
    }
    if let Some(token) = tokens["of_earlier_generation"].as_str() {
        assert!(is_revoked(token), "a token of an earlier generation");
    }
    let generation = store.generation("http://issuer.fixture").await.unwrap();
    assert_eq!(generation, truth["generation"].as_u64().unwrap_or(0));
    if let Some(foreign) = truth.get("foreign") {
        for (tokens, revoked) in [("good", false), ("revoked", true)] {
            for token in foreign[tokens].as_array().unwrap() {
                assert_eq!(is_revoked(token.as_str().unwrap()), revoked, "{tokens}: {token}");
            }
        }
    }
    let kept = store.recent_revocations(1000).await.unwrap();
    assert_eq!(kept.len(), truth["revocations"].as_array().unwrap().len());
    for told in truth["revocations"].as_array().unwrap() {
        let target: Target = serde_json::from_value(told["target"].clone()).unwrap();
        let found = store.revocation(&target).await.unwrap().unwrap_or_else(|| panic!("{told} is lost"));
        assert_eq!((&found.target, found.expires_at.0), (&target, told["expires_at"].as_u64().unwrap()));
    }
}

/// What is left to do: a revocation whose grace goes on, and the end of a grant whose provider could not be reached.
async fn tasks(store: &SledStore, truth: &Value) {
    let Some(told) = truth.get("tasks") else { return };
    let waiting = store.due_tasks_of(TaskKind::Account, UnixTime::NEVER, 99).await.unwrap();
    let late = waiting.iter().find_map(|task| match &task.work {
        Work::Revoke(revocation) => Some(revocation),
        _ => None,
    });
    let named =
        matches!(&late.unwrap().target, Target::SubjectVersion { sub, .. } if sub == text(told, "/revokes"));
    assert!(named, "{late:?}");
    let ending = store.due_tasks_of(TaskKind::EndGrant, UnixTime::NEVER, 99).await.unwrap();
    let ended = ConnectionId(uuid(text(told, "/ends_grant_of")));
    let is_ended = |task: &Task| match &task.work {
        Work::Errand { errand: Errand::EndGrant(granted), .. } => granted.id == ended,
        _ => false,
    };
    assert!(ending.iter().any(is_ended), "{ending:?}");
}

/// The events of one account, which may have been followed by others.
async fn events(store: &SledStore, truth: &Value) {
    let Some(told) = truth["events_of_bob"].as_array() else { return };
    let user = UserId(uuid(text(truth, "/sessions/bob/claims/sub")));
    let kept: Vec<_> = store.events(Some(user), 999).await.unwrap().iter().map(|event| event.id).collect();
    let told: Vec<_> = told.iter().map(|id| uuid(id.as_str().unwrap())).collect();
    assert!(!told.is_empty() && kept.ends_with(&told), "{kept:?} and {told:?}");
}

async fn connections(store: &SledStore, truth: &Value, folder: &Path) {
    let user = UserId(uuid(text(truth, "/sessions/bob/claims/sub")));
    let told = &truth["connections"];
    let id = ConnectionId(uuid(text(told, "/active")));
    let active = store.connection(user, id).await.unwrap().unwrap();
    assert_eq!(active.status, Status::Active);
    let key = own_secrets::secret(&FolderSecrets::new(folder), OwnSecret::VaultKey).unwrap();
    let vault = vault::VaultKeyRing::new(&[key]).unwrap();
    let tokens = active.tokens.unwrap();
    let open = |field, envelope: &str| {
        let place = Place { user, connection: id, field };
        vault.open(place, envelope).unwrap().expose_secret().to_owned()
    };
    assert_eq!(open(field::ACCESS_TOKEN, &tokens.access_token), text(told, "/access_token"));
    let refresh = tokens.refresh_token.unwrap();
    assert_eq!(open(field::REFRESH_TOKEN, &refresh), text(told, "/refresh_token"));
    let id = ConnectionId(uuid(text(told, "/pending")));
    let asked = store.connection(user, id).await.unwrap().unwrap();
    assert!(asked.consent.is_some(), "a consent that was being given");
    if let Some(ended) = told["ended"].as_str() {
        let ended = store.connection(user, ConnectionId(uuid(ended))).await.unwrap().unwrap();
        assert_eq!((ended.status, ended.tokens), (Status::Revoked, None));
    }
}

/// What is known of other issuers: their keys as last fetched, and how far their clocks were seen ahead.
fn others(truth: &Value, folder: &Path, at: UnixTime) {
    let Some(foreign) = truth.get("foreign") else { return };
    let issuer = text(foreign, "/issuer");
    let stored = StoredKeys::new(folder).load(issuer, text(foreign, "/jwks"), at).unwrap().unwrap();
    let keys = KeySet::parse(&stored.jwks, &[Algorithm::EdDsa]).unwrap();
    for token in foreign["good"].as_array().unwrap() {
        let token = Compact::read(token.as_str().unwrap()).unwrap();
        keys.find(&token.header).unwrap().check(&token).unwrap();
    }
    assert!(
        !Clocks::open(folder).unwrap().ahead(issuer, at).is_zero(),
        "the clock of {issuer} was seen ahead"
    );
}

fn keys(config: &Config, truth: &Value, folder: &Path, at: UnixTime) {
    let ring = SigningKeyRing::open(&config.tokens, Arc::new(FolderSecrets::new(folder)), at).unwrap();
    assert!(!ring.made_keys());
    let kept: Vec<String> = ring.list().into_iter().map(|key| key.kid).collect();
    for told in truth["keys"].as_array().unwrap() {
        assert!(kept.iter().any(|kid| kid == text(told, "/kid")), "{told}");
    }
    let tokens = &truth["tokens"];
    let signed = tokens["good"].as_array().unwrap().iter().chain([&tokens["revoked"]]);
    for token in signed {
        ring.check(&Compact::read(token.as_str().unwrap()).unwrap(), at).unwrap();
    }
}
