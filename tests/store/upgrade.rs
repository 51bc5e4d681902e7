//! Data folders that earlier versions wrote (`tests/fixtures/write_store`) open whole with this one: nothing that
//! was acknowledged is missing, nothing that was revoked is believed, nothing that was used up is good again.
//!
//! Every check is made as of the moment at which the folder was written, so that no record has expired.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use palisade::config;
use palisade::domain::account::UserId;
use palisade::domain::connection::{ConnectionId, Status, field};
use palisade::domain::email::EmailAddress;
use palisade::domain::identity::Identity;
use palisade::domain::opaque::{ServerKey, TokenHash};
use palisade::domain::session::SessionId;
use palisade::domain::time::UnixTime;
use palisade::edge::data_dir;
use palisade::edge::jwt::KeyRing;
use palisade::edge::jwt::compact::Compact;
use palisade::edge::store::{RevocationCache, SledStore};
use palisade::edge::vault;
use palisade::ports::{Keys, Place, Revocations, Store, Vault};
use secrecy::ExposeSecret;
use serde_json::{Map, Value};
use uuid::Uuid;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// Copies the fixture's data folder: opening a store writes to it.
fn copy(fixture: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture.join("data")).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    folder
}

fn fixtures() -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(FIXTURES).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.join("truth.json").is_file()).collect();
    found.sort();
    found
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

#[tokio::test]
async fn the_folder_of_an_earlier_version_opens_whole() {
    assert!(!fixtures().is_empty(), "no fixture in {FIXTURES}");
    for fixture in fixtures() {
        let truth: Value = serde_json::from_slice(&fs::read(fixture.join("truth.json")).unwrap()).unwrap();
        let at = UnixTime(truth["written_at"].as_u64().unwrap());
        let folder = copy(&fixture);
        // Twice: the second start finds what the first one may have rewritten.
        for _ in 0..2 {
            let store = super::open(folder.path());
            store.verify().await.unwrap();
            accounts_and_sessions(&store, &truth, folder.path()).await;
            links(&store, &truth).await;
            revocations(&store, &truth, at).await;
            connections(&store, &truth, folder.path()).await;
            keys(&truth, folder.path(), at);
            store.close();
        }
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
    let server = ServerKey::new(data_dir::key(folder, "opaque.key").unwrap());
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

async fn links(store: &SledStore, truth: &Value) {
    for (link, is_live) in [("verify_pending", true), ("reset_ann", true), ("used", false)] {
        let hash = TokenHash::of(text(&truth["links"], &format!("/{link}")).as_bytes());
        assert_eq!(store.link(&hash).await.unwrap().is_some(), is_live, "{link}");
    }
}

async fn revocations(store: &SledStore, truth: &Value, at: UnixTime) {
    let cache = RevocationCache::new();
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
    let kept = store.recent_revocations(1000).await.unwrap();
    assert_eq!(kept.len(), truth["revocations"].as_array().unwrap().len());
}

async fn connections(store: &SledStore, truth: &Value, folder: &Path) {
    let user = UserId(uuid(text(truth, "/sessions/bob/claims/sub")));
    let told = &truth["connections"];
    let id = ConnectionId(uuid(text(told, "/active")));
    let active = store.connection(user, id).await.unwrap().unwrap();
    assert_eq!(active.status, Status::Active);
    let key = data_dir::secret(folder, "vault.key").unwrap();
    let vault = vault::KeyRing::new(&[key]).unwrap();
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
}

fn keys(truth: &Value, folder: &Path, at: UnixTime) {
    let config = folder.join("config.toml");
    fs::write(&config, "[tokens]\nissuer = \"http://issuer.fixture\"\naudience = \"fixture\"\n").unwrap();
    let config = config::load(&config).unwrap();
    let ring = KeyRing::open(&config.tokens, folder, at).unwrap();
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
