//! A revoked session stays dead: it brings no token at any moment later, though what was revoked is forgotten
//! meanwhile, the gateway is restarted, and the clock moves on for months. Also when its record comes back with a
//! backup.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use palisade::app::{self, Options, RunningGateway};
use palisade::config;
use palisade::edge::store::SledStore;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Clock, Store};
use serde_json::{Value, json};

use crate::support::{Upstream, body_of, exchange, status};

const PASSWORD: &str = "Correct horse 42";
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// When a revoked session is tried, from its revocation.
const TRIED: [u64; 5] = [0, 2 * HOUR, 26 * HOUR, 20 * DAY, 90 * DAY];

/// A clock that is moved by hand.
struct Moved(AtomicU64);

impl Clock for Moved {
    fn now(&self) -> UnixTime {
        UnixTime(self.0.load(Ordering::Relaxed))
    }
}

struct World {
    upstream: Upstream,
    folder: tempfile::TempDir,
    clock: Arc<Moved>,
    running: Option<RunningGateway>,
}

#[derive(Clone)]
struct Signed {
    access: String,
    refresh: String,
    sid: String,
    user: String,
}

impl World {
    async fn start() -> World {
        let clock = Arc::new(Moved(AtomicU64::new(crate::support::keys::now())));
        let folder = tempfile::tempdir().unwrap();
        let mut world = World { upstream: Upstream::start().await, folder, clock, running: None };
        world.run().await;
        world
    }

    async fn run(&mut self) {
        let text = format!(
            "public_url = \"http://localhost:8080\"\n[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\
             [store]\nurl = \"sled:./data\"\n[passwords]\nbcrypt_cost = 4\n[limits]\nenabled = false\n[log]\naudit = \"file:./audit.jsonl\"\n\
             [[routes]]\nname = \"app\"\nmatch = {{ path = \"/\" }}\nupstream = [\"http://{}\"]\n",
            self.upstream.address
        );
        let file = self.folder.path().join("config.toml");
        let config = config::parse(&text, &file, &|_| None).unwrap_or_else(|errors| panic!("{errors:#?}"));
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        self.running = Some(app::start_by(clock, config, Options::default()).await.unwrap());
    }

    async fn stop(&mut self) {
        self.running.take().unwrap().shutdown().await;
    }

    fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    /// Stops, forgets what has ended, and starts again.
    async fn sweep(&mut self) {
        self.stop().await;
        let store = SledStore::open(self.data()).unwrap();
        store.sweep(self.clock.now()).await.unwrap();
        store.close();
        self.run().await;
    }

    fn set(&self, at: u64) {
        self.clock.0.store(at, Ordering::Relaxed);
    }

    fn running(&self) -> &RunningGateway {
        self.running.as_ref().unwrap()
    }

    async fn admin(&self, method: &str, path: &str, body: &Value) -> Value {
        let credential = std::fs::read_to_string(self.data().join("admin.token")).unwrap();
        let path = format!("/admin/v1/{path}");
        let (code, answer) =
            crate::support::admin(self.running().admin, &credential, method, &path, body).await;
        assert!((200..300).contains(&code), "{path} {body}: {code} {answer}");
        answer
    }

    async fn revoke(&self, body: &Value) -> Value {
        self.admin("POST", "revocations", body).await
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let request = format!(
            "POST /auth{path} HTTP/1.1\r\nHost: app.test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        let answer = exchange(self.running().listen[0], request).await;
        (status(&answer), serde_json::from_str(body_of(&answer)).unwrap_or(Value::Null))
    }

    async fn visit(&self, token: &str) -> u16 {
        let fields = format!("Authorization: Bearer {token}\r\nConnection: close\r\n\r\n");
        status(
            &exchange(self.running().listen[0], format!("GET / HTTP/1.1\r\nHost: app.test\r\n{fields}"))
                .await,
        )
    }

    async fn add(&self, email: &str) {
        let account = json!({"email": email, "password": PASSWORD, "email_verified": true});
        self.admin("POST", "users", &account).await;
    }

    async fn sign_in(&self, email: &str) -> Signed {
        let (code, tokens) = self.post("/login", &json!({"email": email, "password": PASSWORD})).await;
        assert_eq!(code, 200, "{tokens}");
        let user = tokens["user"]["id"].as_str().unwrap().to_owned();
        let sessions = self.admin("GET", &format!("users/{user}/sessions"), &Value::Null).await;
        let newest =
            sessions["sessions"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).max();
        let text = |name: &str| tokens[name].as_str().unwrap().to_owned();
        Signed {
            access: text("access_token"),
            refresh: text("refresh_token"),
            sid: newest.unwrap().to_owned(),
            user,
        }
    }

    async fn sign_in_often(&self, email: &str) -> Vec<Signed> {
        self.add(email).await;
        let mut signed = Vec::new();
        for _ in TRIED {
            signed.push(self.sign_in(email).await);
        }
        signed
    }

    /// What a refresh token brings.
    async fn refreshed(&self, refresh: &str) -> Option<(String, String)> {
        let (code, tokens) = self.post("/refresh", &json!({"refresh_token": refresh})).await;
        match code {
            200 => {
                let text = |name: &str| tokens[name].as_str().unwrap().to_owned();
                Some((text("access_token"), text("refresh_token")))
            }
            _ => {
                assert_eq!((code, &tokens["code"]), (401, &json!("invalid_refresh_token")), "{tokens}");
                None
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_revoked_brings_no_token_at_once_nor_months_later() {
    let mut world = World::start().await;
    let mut revoked: Vec<(&str, Vec<Signed>)> = Vec::new();

    let by_sid = world.sign_in_often("sid@example.com").await;
    for (n, one) in by_sid.iter().enumerate() {
        // In any spelling: a token says it in one only.
        let sid = if n % 2 == 0 { one.sid.clone() } else { one.sid.to_uppercase() };
        let answer = world.revoke(&json!({"sid": sid})).await;
        assert_eq!(answer["target"]["sid"], one.sid, "{answer}");
        assert_eq!((&answer["sessions_ended"], &answer["account"]), (&json!(1), &json!("sid@example.com")));
        assert_eq!(world.revoke(&json!({"sid": sid})).await["sessions_ended"], 0, "it was over");
    }
    revoked.push(("sid", by_sid));

    let by_sub = world.sign_in_often("sub@example.com").await;
    let answer = world.revoke(&json!({"sub": by_sub[0].user, "reason": "left"})).await;
    assert_eq!(answer["target"]["kind"], "subject_version");
    assert_eq!((&answer["sessions_ended"], &answer["account"]), (&json!(5), &json!("sub@example.com")));
    revoked.push(("sub", by_sub));

    let by_token = world.sign_in_often("token@example.com").await;
    for one in &by_token {
        let answer = world.revoke(&json!({"token": one.access, "session": true})).await;
        assert_eq!(
            (&answer["sessions_ended"], &answer["live_session"]),
            (&json!(1), &Value::Null),
            "{answer}"
        );
    }
    revoked.push(("token and session", by_token));

    // Begun before a moment that has passed; its tokens of the time since end with it.
    let start = world.clock.now().0;
    let by_moment = world.sign_in_often("moment@example.com").await;
    world.set(start + 60);
    let mut moved = Vec::new();
    for one in by_moment {
        let (access, refresh) = world.refreshed(&one.refresh).await.unwrap();
        moved.push(Signed { access, refresh, ..one });
    }
    let later = world.sign_in("moment@example.com").await;
    let answer = world.revoke(&json!({"before": start + 30})).await;
    assert_eq!(
        (&answer["target"]["kind"], &answer["sessions_ended"]),
        (&json!("issuer"), &json!(5)),
        "{answer}"
    );
    assert_eq!(world.visit(&later.access).await, 200, "begun since");
    assert!(world.refreshed(&later.refresh).await.is_some(), "begun since");
    revoked.push(("a moment that has passed", moved));

    let by_cutoff = world.sign_in_often("cutoff@example.com").await;
    let answer = world.revoke(&json!({"before": "now"})).await;
    assert_eq!(
        (&answer["target"]["kind"], &answer["sessions_ended"]),
        (&json!("everybody"), &json!(6)),
        "{answer}"
    );
    assert_eq!(world.revoke(&json!({"before": "now"})).await["sessions_ended"], 0, "they were over");
    let shown = world.admin("GET", &format!("users/{}/sessions", by_cutoff[0].user), &Value::Null).await;
    assert_eq!(shown["sessions"], json!([]), "what was cut off is not shown as if it lived");
    revoked.push(("everything so far", by_cutoff));

    // In the same second: a session that is begun afterwards lives, for as long as it is used.
    world.add("later@example.com").await;
    let bystander = world.sign_in("later@example.com").await;
    let (mut alive, began) = (bystander.refresh, world.clock.now().0);
    for (n, at) in TRIED.into_iter().enumerate() {
        world.set(began + at);
        world.sweep().await;
        for (how, sessions) in &revoked {
            assert_eq!(world.visit(&sessions[n].access).await, 401, "{how}, {at} s later");
            for _ in 0..2 {
                assert_eq!(world.refreshed(&sessions[n].refresh).await, None, "{how}, {at} s later");
            }
        }
        match world.refreshed(&alive).await {
            Some((access, refresh)) => {
                assert_eq!(world.visit(&access).await, 200, "{at} s later");
                alive = refresh;
            }
            None => assert_eq!(at, 90 * DAY, "by its time"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_single_token_says_whether_its_session_lives_on() {
    let world = World::start().await;
    world.add("ann@example.com").await;
    let ann = world.sign_in("ann@example.com").await;
    let answer = world.revoke(&json!({"token": ann.access})).await;
    assert_eq!(
        (&answer["live_session"], &answer["sessions_ended"]),
        (&json!(ann.sid), &json!(0)),
        "{answer}"
    );
    assert_eq!(world.visit(&ann.access).await, 401);
    let (access, refresh) = world.refreshed(&ann.refresh).await.expect("the session lives on");
    assert_eq!(world.visit(&access).await, 200);
    // With the token that was revoked before: the session is the same.
    let answer = world.revoke(&json!({"token": ann.access, "session": true})).await;
    assert_eq!((&answer["live_session"], &answer["sessions_ended"]), (&Value::Null, &json!(1)), "{answer}");
    assert_eq!(world.visit(&access).await, 401, "every token of the session");
    assert_eq!(world.refreshed(&refresh).await, None);
    // A raised version asks for new tokens, and ends no session.
    let ann = world.sign_in("ann@example.com").await;
    for body in [json!({"sub": ann.user}), json!({"all": true})] {
        world.admin("POST", "token-versions", &body).await;
        assert_eq!(world.visit(&ann.access).await, 401, "{body}");
    }
    let (access, _) = world.refreshed(&ann.refresh).await.expect("its session lives on");
    assert_eq!(world.visit(&access).await, 200);
}

/// Ours: every file of the folder, as `cp -a` would.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// What was signed out, and what was signed in, since the backup: a cutoff reaches both.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cutoff_after_older_data_was_restored_ends_what_the_data_knows_and_what_it_does_not() {
    let mut world = World::start().await;
    world.add("ann@example.com").await;
    let signed_out = world.sign_in("ann@example.com").await;
    let rotated = world.sign_in("ann@example.com").await;
    world.stop().await;
    let backup = world.folder.path().join("backup");
    copy(&world.data(), &backup);
    world.run().await;

    let (code, _) = world.post("/logout", &json!({"refresh_token": signed_out.refresh})).await;
    assert_eq!(code, 204);
    assert_eq!(world.refreshed(&signed_out.refresh).await, None);
    let (rotated_access, rotated_refresh) = world.refreshed(&rotated.refresh).await.unwrap();
    // The generation rises beyond what the backup knows, more than once in a second.
    for _ in 0..3 {
        world.admin("POST", "token-versions", &json!({"all": true})).await;
    }
    let since = world.sign_in("ann@example.com").await;
    assert_eq!(world.visit(&since.access).await, 200);

    world.stop().await;
    std::fs::remove_dir_all(world.data()).unwrap();
    std::fs::rename(&backup, world.data()).unwrap();
    world.set(world.clock.now().0 + 60);
    world.run().await;
    let answer = world.revoke(&json!({"before": "now"})).await;
    assert_eq!(answer["sessions_ended"], 2, "{answer}");
    for access in [&signed_out.access, &rotated.access, &rotated_access, &since.access] {
        assert_eq!(world.visit(access).await, 401);
    }
    for refresh in [&signed_out.refresh, &rotated.refresh, &rotated_refresh, &since.refresh] {
        assert_eq!(world.refreshed(refresh).await, None);
    }
    let again = world.sign_in("ann@example.com").await;
    assert_eq!(world.visit(&again.access).await, 200);
    assert!(world.refreshed(&again.refresh).await.is_some());
}
