//! Three gateways on one database, in one process: what one has signed, made or revoked is so at the others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use palisade::app::{self, Options, RunningGateway};
use palisade::config;
use palisade_testing::postgres::{Cluster, Database};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::support::{self, PATIENCE, Upstream, body_of, exchange, field, status};
use palisade::edge::own_secrets;
use palisade::edge::postgres::secrets::DatabaseSecrets;
use palisade::edge::vault::VaultKeyRing;
use palisade_core::ports::OwnSecret;

const PASSWORD: &str = "Horse-Battery-9!";
pub(super) const VAULT: &str = "VAULT_KEY_IS_IN_NO_MESSAGE_AT_ALL_EVER_1234";

/// A gateway that shares its store.
struct Replica {
    running: RunningGateway,
    _folder: tempfile::TempDir,
}

impl Replica {
    fn config(database: &Database, folder: &std::path::Path, upstream: SocketAddr) -> config::Config {
        let text = format!(
            "public_url = \"http://localhost:8080\"\n\
             [server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\
             [store]\nurl = {:?}\nmax_staleness = \"2s\"\nconnections = 4\n\
             [vault]\nkeys = [\"env:VAULT\"]\n[passwords]\nbcrypt_cost = 4\n{}{}",
            database.url(),
            support::route("app", upstream, ""),
            support::route("open", upstream, "auth = \"none\"")
        );
        let file = folder.join("config.toml");
        std::fs::write(&file, &text).unwrap();
        let env = |name: &str| (name == "VAULT").then(|| VAULT.to_owned());
        config::parse(&text, &file, &env).unwrap_or_else(|errors| panic!("{errors:#?}"))
    }

    async fn start(database: &Database, upstream: SocketAddr) -> Replica {
        let folder = tempfile::tempdir().unwrap();
        let config = Replica::config(database, folder.path(), upstream);
        let running = app::start(config, Options::default()).await.unwrap();
        Replica { running, _folder: folder }
    }

    async fn send(&self, method: &str, target: &str, fields: &str, body: &Value) -> String {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost:8080\r\nOrigin: http://localhost:8080\r\n{kind}{fields}\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        exchange(self.running.listen[0], request).await
    }

    async fn get(&self, target: &str, fields: &str) -> u16 {
        status(&self.send("GET", target, fields, &Value::Null).await)
    }

    async fn with_token(&self, token: &str) -> u16 {
        self.get("/app/x", &format!("Authorization: Bearer {token}\r\n")).await
    }
}

/// Several of them.
struct World {
    database: Database,
    replicas: Vec<Replica>,
    credential: String,
    _upstream: Upstream,
}

impl World {
    async fn start() -> World {
        let database = Cluster::shared().database().await;
        let upstream = Upstream::start().await;
        // All at once, on a database that holds nothing yet.
        let starts = (0..3).map(|_| Replica::start(&database, upstream.address));
        let replicas = futures::future::join_all(starts).await;
        let credential = credential(&database);
        World { database, replicas, credential, _upstream: upstream }
    }

    async fn admin(&self, at: usize, method: &str, path: &str, body: &Value) -> (u16, Value) {
        support::admin(self.replicas[at].running.admin, &self.credential, method, path, body).await
    }

    async fn mint(&self, at: usize) -> String {
        let (code, minted) = self.admin(at, "POST", "/admin/v1/tokens", &json!({"sub": "a"})).await;
        assert_eq!(code, 201, "{minted}");
        minted["access_token"].as_str().unwrap().to_owned()
    }
}

/// The admin credential, from where the command line reads it as well.
pub(super) fn credential(database: &Database) -> String {
    let vault = VaultKeyRing::new(&[VAULT.to_owned().into()]).unwrap();
    let settings = crate::place::settings(&database.url());
    let secrets = DatabaseSecrets::new(&settings, "the database".to_owned(), Arc::new(vault)).unwrap();
    let found = own_secrets::find(&secrets, OwnSecret::AdminCredential).unwrap().unwrap();
    found.expose_secret().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_token_and_a_session_of_one_are_good_at_all_and_a_revocation_is_in_force_at_all() {
    let world = World::start().await;
    for signer in 0..3 {
        let token = world.mint(signer).await;
        for replica in &world.replicas {
            assert_eq!(replica.with_token(&token).await, 200);
        }
        let (code, revoked) =
            world.admin(signer, "POST", "/admin/v1/revocations", &json!({"token": token})).await;
        assert!((200..300).contains(&code), "{revoked}");
        for replica in &world.replicas {
            assert_eq!(replica.with_token(&token).await, 401, "acknowledged, so it is so everywhere");
        }
    }
    let account = json!({"email": "ann@example.com", "password": PASSWORD, "email_verified": true});
    assert_eq!(world.admin(0, "POST", "/admin/v1/users", &account).await.0, 201);
    // A cookie, and a refresh token, each used at another gateway than the one before.
    let login = json!({"email": "ann@example.com", "password": PASSWORD, "session": "cookie"});
    let answer = world.replicas[1].send("POST", "/auth/login", "", &login).await;
    assert_eq!(status(&answer), 204, "{answer}");
    let cookie = field(&answer, "set-cookie").unwrap().split(';').next().unwrap().to_owned();
    for replica in &world.replicas {
        assert_eq!(replica.get("/app/x", &format!("Cookie: {cookie}\r\n")).await, 200);
    }
    let login = json!({"email": "ann@example.com", "password": PASSWORD});
    let mut answer = world.replicas[0].send("POST", "/auth/login", "", &login).await;
    for replica in [1, 2, 0] {
        assert_eq!(status(&answer), 200, "{answer}");
        let tokens: Value = serde_json::from_str(body_of(&answer)).unwrap();
        let access = tokens["access_token"].as_str().unwrap();
        assert_eq!(world.replicas[replica].with_token(access).await, 200);
        let refresh = json!({"refresh_token": tokens["refresh_token"]});
        answer = world.replicas[replica].send("POST", "/auth/refresh", "", &refresh).await;
    }
    assert_eq!(status(&answer), 200, "{answer}");
    for replica in world.replicas {
        replica.running.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rotation_at_any_of_them_refuses_no_token_at_any() {
    let world = Arc::new(World::start().await);
    let done = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..3)
        .map(|signer| {
            let (world, done) = (Arc::clone(&world), Arc::clone(&done));
            tokio::spawn(async move {
                let mut asked = 0;
                while !done.load(Ordering::Acquire) {
                    let token = world.mint(signer).await;
                    for replica in &world.replicas {
                        assert_eq!(replica.with_token(&token).await, 200, "signed at {signer}");
                        asked += 1;
                    }
                }
                asked
            })
        })
        .collect();
    let oldest = world.mint(0).await;
    for at in [0, 1, 2, 2, 1, 0] {
        let (code, keys) = world.admin(at, "POST", "/admin/v1/keys/rotate", &json!({})).await;
        assert_eq!(code, 200, "{keys}");
    }
    done.store(true, Ordering::Release);
    for task in load {
        assert!(task.await.unwrap() > 0);
    }
    for replica in &world.replicas {
        assert_eq!(replica.with_token(&oldest).await, 200);
    }
    // All publish the same keys before long.
    let end = Instant::now() + PATIENCE;
    loop {
        let mut sets = Vec::new();
        for replica in &world.replicas {
            let answer = replica.send("GET", "/.well-known/jwks.json", "", &Value::Null).await;
            sets.push(serde_json::from_str::<Value>(body_of(&answer)).unwrap());
        }
        if sets.iter().all(|set| *set == sets[0]) {
            break;
        }
        assert!(Instant::now() < end, "{sets:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_gateway_that_stops_leaves_the_others_and_frees_its_folder() {
    let mut world = World::start().await;
    let registered = || async {
        let rows = world.database.client().await.query("SELECT count(*) FROM palisade.replicas", &[]).await;
        rows.unwrap()[0].get::<_, i64>(0)
    };
    assert_eq!(registered().await, 3);
    let Replica { running, _folder: folder } = world.replicas.pop().unwrap();
    // Its folder is its own.
    let config = Replica::config(&world.database, folder.path(), world._upstream.address);
    let refused = app::start(config.clone(), Options::default()).await.err().unwrap();
    assert!(refused.contains("store.data of its own"), "{refused}");
    running.shutdown().await;
    let rows = world.database.client().await.query("SELECT count(*) FROM palisade.replicas", &[]).await;
    assert_eq!(rows.unwrap()[0].get::<_, i64>(0), 2);
    // A revocation waits for no one that has left.
    let token = world.mint(0).await;
    let begun = Instant::now();
    let (code, revoked) = world.admin(0, "POST", "/admin/v1/revocations", &json!({"token": token})).await;
    assert!((200..300).contains(&code) && begun.elapsed() < Duration::from_secs(2), "{revoked}");
    let again = app::start(config, Options::default()).await.unwrap();
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_start_without_the_vault_key_is_refused_and_names_the_place() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n[store]\nurl = {:?}\n[vault]\nkeys = [\"env:OTHER\"]\n",
        world.database.url()
    );
    let env = |name: &str| (name == "OTHER").then(|| VAULT.replace("VAULT", "OTHER"));
    let config = config::parse(&text, &folder.path().join("config.toml"), &env).unwrap();
    let refused = app::start(config, Options::default()).await.err().unwrap();
    assert!(refused.contains("palisade.secrets") && refused.contains("vault.keys"), "{refused}");
    // A server key that is gone beside accounts is not made anew.
    let account = json!({"email": "ann@example.com", "password": PASSWORD, "email_verified": true});
    assert_eq!(world.admin(0, "POST", "/admin/v1/users", &account).await.0, 201);
    let client = world.database.client().await;
    client.batch_execute("DELETE FROM palisade.secrets WHERE name = 'server-key'").await.unwrap();
    let config = Replica::config(&world.database, folder.path(), world._upstream.address);
    let refused = app::start(config, Options::default()).await.err().unwrap();
    assert!(refused.contains("server-key") && refused.contains("--accept-new-keys"), "{refused}");
}
