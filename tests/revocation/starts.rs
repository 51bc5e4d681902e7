//! Starts that could bring revoked tokens back, or lose what cannot be made again: with a clock that is wrong, and
//! with secrets that are gone.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use palisade::app::{self, Accept, Options, RunningGateway};
use palisade::config;
use palisade::edge::clock::SystemClock;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::Clock;
use serde_json::{Value, json};

use super::Client;
use crate::support::keys::Key;
use crate::support::{PATIENCE, Upstream, admin, exchange};

const DAY: i64 = 24 * 3600;
const YEAR: i64 = 365 * DAY;

/// The machine's clock, set by a test. Its uptime is the machine's.
#[derive(Default)]
struct Set(AtomicI64);

impl Set {
    fn to(&self, skew: i64) {
        self.0.store(skew, Ordering::Relaxed);
    }
}

impl Clock for Set {
    fn now(&self) -> UnixTime {
        UnixTime(SystemClock.now().0.saturating_add_signed(self.0.load(Ordering::Relaxed)))
    }
}

/// A data folder, a clock, and an app behind the gateways that are started over them.
struct Machine {
    clock: Arc<Set>,
    folder: tempfile::TempDir,
    upstream: Upstream,
}

impl Machine {
    async fn new() -> Machine {
        Machine {
            clock: Arc::default(),
            folder: tempfile::tempdir().unwrap(),
            upstream: Upstream::start().await,
        }
    }

    async fn try_start(&self, accept: Accept) -> Result<RunningGateway, String> {
        let text = super::config(&self.upstream, &Key::ed("theirs"), self.folder.path());
        let file = self.folder.path().join("config.toml");
        let config = config::parse(&text, &file, &|_| None).unwrap();
        app::start_by(self.clock.clone(), config, Options { accept, ..Options::default() }).await
    }

    async fn start(&self) -> RunningGateway {
        self.try_start(Accept::default()).await.unwrap()
    }

    /// Starts one, waits until it has looked for what has ended, and stops it.
    async fn sweep(&self) {
        let running = self.start().await;
        metrics_say(&running, "palisade_store_call_duration_seconds_count{call=\"sweep\",outcome=\"ok\"}")
            .await;
        running.shutdown().await;
    }

    async fn operate(&self, running: &RunningGateway, method: &str, path: &str, body: &Value) -> Value {
        let credential = fs::read_to_string(self.folder.path().join("data/admin.token")).unwrap();
        let (status, answer) = admin(running.admin, &credential, method, path, body).await;
        assert!((200..300).contains(&status), "{path}: {answer}");
        answer
    }

    /// A token that lives as long as any does.
    async fn mint(&self, running: &RunningGateway) -> String {
        let body = json!({"sub": "ann", "ttl": "24h"});
        let minted = self.operate(running, "POST", "/admin/v1/tokens", &body).await;
        minted["access_token"].as_str().unwrap().to_owned()
    }

    async fn revoke(&self, running: &RunningGateway, token: &str) {
        self.operate(running, "POST", "/admin/v1/revocations", &json!({"token": token})).await;
    }

    async fn revocations(&self, running: &RunningGateway) -> usize {
        let listed = self.operate(running, "GET", "/admin/v1/revocations?limit=9", &Value::Null).await;
        listed["revocations"].as_array().unwrap().len()
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.folder.path().join("data").join(file)).unwrap();
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("data")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        // The engine names its snapshot anew whenever it is opened.
        names.retain(|name| !name.starts_with("snap."));
        names.sort();
        names
    }
}

async fn metrics_say(running: &RunningGateway, line: &str) -> String {
    let scrape = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", running.admin);
    let seen = async {
        loop {
            let metrics = exchange(running.admin, &scrape).await;
            if metrics.contains(line) {
                return metrics;
            }
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("/metrics never said {line:?}"))
}

async fn ready(running: &RunningGateway) -> (u16, Value) {
    admin(running.admin, "", "GET", "/readyz", &Value::Null).await
}

async fn status(running: &RunningGateway, token: &str) -> u16 {
    Client::to(running.listen[0]).await.status("/", token).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_start_with_a_clock_that_is_wrong_forgets_no_revocation() {
    let machine = Machine::new().await;
    let running = machine.start().await;
    let (good, bad) = (machine.mint(&running).await, machine.mint(&running).await);
    machine.revoke(&running, &bad).await;
    assert_eq!((status(&running, &good).await, status(&running, &bad).await), (200, 401));
    running.shutdown().await;
    // Two days, which is as long as any of this is remembered; a year; ten years back; and a year once more.
    for skew in [2 * DAY, YEAR, -10 * YEAR, YEAR] {
        machine.clock.to(skew);
        machine.sweep().await;
    }
    machine.clock.to(0);
    let running = machine.start().await;
    assert_eq!((status(&running, &good).await, status(&running, &bad).await), (200, 401));
    assert_eq!(machine.revocations(&running).await, 1);
    running.shutdown().await;
}

/// What is read into memory at a start counts for the whole run, in which the clock may be set right.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_clock_that_is_wrong_reads_at_a_start_is_the_whole_set() {
    let machine = Machine::new().await;
    let running = machine.start().await;
    let (good, bad) = (machine.mint(&running).await, machine.mint(&running).await);
    machine.revoke(&running, &bad).await;
    running.shutdown().await;
    machine.clock.to(YEAR);
    let running = machine.start().await;
    machine.clock.to(0);
    assert_eq!((status(&running, &good).await, status(&running, &bad).await), (200, 401));
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_clock_in_doubt_is_told_and_the_operators_word_ends_the_delay() {
    let machine = Machine::new().await;
    let running = machine.start().await;
    let bad = machine.mint(&running).await;
    machine.revoke(&running, &bad).await;
    metrics_say(&running, "palisade_clock_in_doubt 0").await;
    running.shutdown().await;

    machine.clock.to(30 * DAY);
    let running = machine.start().await;
    let metrics = metrics_say(&running, "palisade_clock_in_doubt 1").await;
    assert!(metrics.contains("palisade_clock_skew_seconds 2592"), "{metrics}");
    // Everything is served meanwhile; what waits is said where the operator looks.
    let (code, answer) = ready(&running).await;
    assert_eq!(code, 200, "{answer}");
    assert!(answer["missing"][0].as_str().unwrap().contains("palisade clock accept"), "{answer}");
    let fresh = machine.mint(&running).await;
    assert_eq!(status(&running, &fresh).await, 200);
    running.shutdown().await;
    machine.sweep().await;
    let running = machine.start().await;
    assert_eq!(machine.revocations(&running).await, 1);

    let accepted = machine.operate(&running, "POST", "/admin/v1/clock/accept", &json!({})).await;
    assert_eq!(
        (accepted["now"]["in_doubt"].clone(), accepted["now"]["delay"].clone()),
        (json!(false), json!(0))
    );
    metrics_say(&running, "palisade_clock_in_doubt 0").await;
    assert_eq!(ready(&running).await.1.get("missing"), None);
    running.shutdown().await;
    machine.sweep().await;
    let running = machine.start().await;
    assert_eq!(machine.revocations(&running).await, 0);
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn events_of_a_deleted_account_end_and_not_by_a_clock_in_doubt() {
    let machine = Machine::new().await;
    let running = machine.start().await;
    let body = json!({"email": "ann@example.com", "email_verified": true, "generate_password": true});
    let made = machine.operate(&running, "POST", "/admin/v1/users", &body).await;
    let path = format!("/admin/v1/users/{}", made["id"].as_str().unwrap());
    machine.operate(&running, "DELETE", &path, &Value::Null).await;
    running.shutdown().await;
    let actions = async |running: &RunningGateway| {
        let path = format!("/admin/v1/audit?user={}", made["id"].as_str().unwrap());
        let log = machine.operate(running, "GET", &path, &Value::Null).await;
        let events = log["events"].as_array().unwrap().iter();
        events.map(|event| event["action"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    machine.clock.to(YEAR);
    machine.sweep().await;
    let running = machine.start().await;
    // Events are recorded behind the answer: that of the making may have come after the deletion, too.
    assert!(actions(&running).await.iter().any(|action| action == "delete_user"));
    machine.operate(&running, "POST", "/admin/v1/clock/accept", &json!({})).await;
    running.shutdown().await;
    machine.sweep().await;
    let running = machine.start().await;
    assert_eq!(actions(&running).await, [""; 0]);
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_token_that_was_signed_while_the_clock_was_ahead_ends_with_the_acceptance() {
    let machine = Machine::new().await;
    let running = machine.start().await;
    machine.clock.to(YEAR);
    let one = machine.mint(&running).await;
    // Of a subject that nothing but the acceptance reaches.
    let body = json!({"sub": "bob", "ttl": "24h"});
    let other = machine.operate(&running, "POST", "/admin/v1/tokens", &body).await;
    let other = other["access_token"].as_str().unwrap().to_owned();
    machine.clock.to(0);
    // It begins in a year. What revokes it now is still there then.
    assert_eq!(status(&running, &one).await, 401);
    machine.operate(&running, "POST", "/admin/v1/token-versions", &json!({"sub": "ann"})).await;
    let accepted = machine.operate(&running, "POST", "/admin/v1/clock/accept", &json!({})).await;
    assert_eq!(accepted["revoked_all_tokens"], true, "{accepted}");
    let fresh = machine.mint(&running).await;
    assert_eq!(status(&running, &fresh).await, 200);
    running.shutdown().await;
    machine.sweep().await;
    // A year later, truly.
    machine.clock.to(YEAR + 60);
    let running = machine.start().await;
    let accepted = machine.operate(&running, "POST", "/admin/v1/clock/accept", &json!({})).await;
    assert_eq!(accepted["revoked_all_tokens"], false, "{accepted}");
    running.shutdown().await;
    machine.sweep().await;
    let running = machine.start().await;
    assert_eq!((status(&running, &one).await, status(&running, &other).await), (401, 401));
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn secrets_that_are_gone_are_not_made_anew_unasked() {
    let machine = Machine::new().await;
    // Nothing was ever done with these.
    machine.start().await.shutdown().await;
    let secrets = ["opaque.key", "signing-keys.json", "vault.key"];
    secrets.iter().for_each(|file| machine.remove(file));
    let running = machine.start().await;
    let token = machine.mint(&running).await;
    assert_eq!(status(&running, &token).await, 200);
    running.shutdown().await;

    secrets.iter().for_each(|file| machine.remove(file));
    let before = machine.files();
    let refused = machine.try_start(Accept::default()).await.err().unwrap();
    assert!(secrets.iter().all(|file| refused.contains(file)), "{refused}");
    assert!(refused.contains("palisade run --accept-new-keys"), "{refused}");
    assert_eq!(machine.files(), before);

    let running = machine.try_start(Accept { new_keys: true, ..Accept::default() }).await.unwrap();
    let told =
        |notice: &String| secrets.iter().any(|file| notice.contains(file)) && notice.contains("made anew");
    assert_eq!(running.notices.iter().filter(|notice| told(notice)).count(), 3, "{:?}", running.notices);
    assert_eq!(status(&running, &token).await, 401);
    running.shutdown().await;
    // Accepted once is enough: now they are there.
    machine.start().await.shutdown().await;

    machine.remove("admin.token");
    let running = machine.start().await;
    assert!(running.notices.iter().any(|notice| notice.contains("admin.token")), "{:?}", running.notices);
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_secret_that_is_another_one_is_refused_until_the_operator_accepts_it() {
    let machine = Machine::new().await;
    let running = machine.start().await;
    machine.mint(&running).await;
    running.shutdown().await;
    let path = |file: &str| machine.folder.path().join("data").join(file);
    let told = |running: &RunningGateway| -> Vec<String> {
        let other = |notice: &&String| notice.contains("is another one") || notice.contains("is not the one");
        running.notices.iter().filter(other).cloned().collect()
    };
    for (file, lost) in [("vault.key", "sealed with it"), ("opaque.key", "derived from it")] {
        let former = fs::read(path(file)).unwrap();
        let another = "A".repeat(43);
        fs::write(path(file), &another).unwrap();
        let refused = machine.try_start(Accept::default()).await.err().unwrap();
        for part in [file, lost, "palisade run --accept-new-keys"] {
            assert!(refused.contains(part), "{part:?} is not in {refused}");
        }
        assert_eq!(fs::read_to_string(path(file)).unwrap(), another);
        fs::write(path(file), former).unwrap();
        machine.start().await.shutdown().await;

        fs::write(path(file), &another).unwrap();
        let running = machine.try_start(Accept { new_keys: true, ..Accept::default() }).await.unwrap();
        let notices = told(&running);
        // Under another server key no check value is the one that it was, which says nothing of the others.
        assert!(notices.len() == 1 && notices[0].contains(file), "{notices:?}");
        running.shutdown().await;
        // From then on it is the one.
        let running = machine.start().await;
        assert_eq!(told(&running), [""; 0]);
        running.shutdown().await;
    }
    // What is no secret at all is damaged, whatever was accepted.
    for file in ["opaque.key", "vault.key", "admin.token"] {
        let former = fs::read(path(file)).unwrap();
        fs::write(path(file), "short").unwrap();
        let accept = Accept { new_keys: true, ..Accept::default() };
        let refused = machine.try_start(accept).await.err().unwrap();
        assert!(refused.contains(&format!("{file} is damaged")), "{refused}");
        assert_eq!(fs::read(path(file)).unwrap(), b"short");
        fs::write(path(file), former).unwrap();
    }
    fs::write(path("admin.token"), "another-credential-of-43-characters-12345678").unwrap();
    let running = machine.start().await;
    let notices = told(&running);
    assert!(notices.len() == 1 && notices[0].contains("admin.token"), "{notices:?}");
    running.shutdown().await;

    // What is gone is missed, and what is under its key cannot be compared; nothing else is said to be gone.
    fs::remove_file(path("opaque.key")).unwrap();
    let refused = machine.try_start(Accept::default()).await.err().unwrap();
    assert!(refused.contains("opaque.key") && refused.contains("--accept-new-keys"), "{refused}");
    let accept = Accept { new_keys: true, ..Accept::default() };
    let running = machine.try_start(accept).await.unwrap();
    let notices = &running.notices;
    assert!(notices.iter().any(|notice| notice.contains("nothing shows whether vault.key")), "{notices:?}");
    assert!(!notices.iter().any(|notice| notice.contains("plugins.key is gone")), "{notices:?}");
    running.shutdown().await;
}

/// The lines of `opaque.key` are a ring: the first signs, all verify.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_key_is_added_in_front_and_dropped_from_the_end_and_nothing_else() {
    let machine = Machine::new().await;
    machine.start().await.shutdown().await;
    let path = machine.folder.path().join("data/opaque.key");
    let first = fs::read_to_string(&path).unwrap().trim().to_owned();
    let (second, third) = ("A".repeat(43), format!("{}A", "B".repeat(42)));
    let starts = async |keys: &[&str]| {
        fs::write(&path, keys.join("\n")).unwrap();
        let running = machine.try_start(Accept::default()).await?;
        let notices: Vec<String> =
            running.notices.iter().filter(|notice| notice.contains("is not the one")).cloned().collect();
        assert_eq!(notices, [""; 0], "every other secret is the former one");
        running.shutdown().await;
        Ok::<(), String>(())
    };
    let refused = async |keys: &[&str]| {
        let said = starts(keys).await.unwrap_err();
        assert!(said.contains("opaque.key") && said.contains("--accept-new-keys"), "{said}");
        assert!(!keys.iter().any(|key| said.contains(*key)), "{said}");
    };
    // Another one alone, or a new one behind the one that signs.
    refused(&[&second]).await;
    refused(&[&first, &second]).await;
    starts(&[&second, &first]).await.unwrap();
    // The one that signs is gone, or the former one is damaged.
    refused(&[&first]).await;
    refused(&[&second, &third]).await;
    refused(&[&second, "short"]).await;
    starts(&[&third, &second, &first]).await.unwrap();
    starts(&[&third, &second]).await.unwrap();
    starts(&[&third]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_secret_that_others_could_read_is_closed_and_told() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::new().await;
    machine.start().await.shutdown().await;
    let path = machine.folder.path().join("data/vault.key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let running = machine.start().await;
    let told = |notice: &String| notice.contains("vault.key was open to every user");
    assert!(running.notices.iter().any(told), "{:?}", running.notices);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn check_and_run_say_which_secret_is_gone() {
    let machine = Machine::new().await;
    let running = machine.start().await;
    machine.mint(&running).await;
    running.shutdown().await;
    machine.remove("vault.key");
    let text = super::config(&machine.upstream, &Key::ed("theirs"), machine.folder.path());
    let file = machine.folder.path().join("config.toml");
    fs::write(&file, text).unwrap();
    for command in ["check", "run"] {
        let output = crate::support::binary::palisade()
            .args([command, "--config"])
            .arg(&file)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        assert!(said.contains("vault.key: the tokens of providers are sealed"), "{command}: {said}");
    }
}
