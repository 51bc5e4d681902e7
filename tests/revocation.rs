//! What was revoked stays revoked: by every name, at once, across restarts and kills. Also what else an
//! operator does to a running gateway: rotate its keys, reload it, start it twice by mistake.

mod cutoffs;
mod sessions;
mod starts;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::binary::{Program, palisade, run};
use crate::support::keys::{Key, jwks, now};
use crate::support::neighbours::{Scripted, read_head};
use crate::support::{Gateway, PATIENCE, Upstream, find, status};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

const THEIRS: &str = "https://i.test";

fn config(upstream: &Upstream, key: &Key, folder: &Path) -> String {
    std::fs::write(folder.join("theirs.json"), jwks(&[key])).unwrap();
    format!(
        "public_url = \"http://localhost:8080\"\n\
         [server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n[store]\nurl = \"sled:./data\"\n{}",
        rest(upstream, folder)
    )
}

fn rest(upstream: &Upstream, folder: &Path) -> String {
    format!(
        "[[issuers]]\nissuer = \"{THEIRS}\"\njwks = \"file:{}\"\naudiences = [\"api\"]\nalgorithms = [\"EdDSA\"]\n\
         [[routes]]\nname = \"all\"\nmatch = {{ path = \"/\" }}\nupstream = [\"http://{}\"]\n",
        folder.join("theirs.json").display(),
        upstream.address
    )
}

fn theirs(key: &Key, jti: &str, sub: &str, sid: &str) -> String {
    let (iat, exp) = (now(), now() + 600);
    key.token(
        &json!({"iss": THEIRS, "aud": "api", "sub": sub, "jti": jti, "sid": sid, "iat": iat, "exp": exp}),
    )
}

/// Asked over one connection that stays open, as an app's client would.
struct Client(TcpStream);

impl Client {
    async fn to(address: std::net::SocketAddr) -> Client {
        Client(TcpStream::connect(address).await.unwrap())
    }

    async fn status(&mut self, path: &str, token: &str) -> u16 {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: app.test\r\nAuthorization: Bearer {token}\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.unwrap();
        let mut buffer = Vec::new();
        let read = async {
            loop {
                if let Some(end) = find(&buffer, b"\r\n\r\n") {
                    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
                    let length =
                        crate::support::field(&head, "content-length").map_or(0, |n| n.parse().unwrap());
                    if buffer.len() >= end + 4 + length {
                        return status(&head);
                    }
                }
                assert!(self.0.read_buf(&mut buffer).await.unwrap() > 0, "the connection was closed");
            }
        };
        tokio::time::timeout(PATIENCE, read).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_way_to_revoke_holds_from_the_next_request_on_and_after_a_restart() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let key = Key::ed("theirs");
    std::fs::write(folder.path().join("config.toml"), config(&upstream, &key, folder.path())).unwrap();
    let program = Program::start(folder.path());
    let mint = async |sub: &str| {
        let (code, answer) = program.admin("POST", "/admin/v1/tokens", &json!({"sub": sub})).await;
        assert_eq!(code, 201, "{answer}");
        (answer["access_token"].as_str().unwrap().to_owned(), answer["jti"].as_str().unwrap().to_owned())
    };
    let mut cases: Vec<(String, &str, Value)> = Vec::new();
    let (token, _) = mint("by-token").await;
    cases.push((token.clone(), "revocations", json!({"token": token})));
    let (token, jti) = mint("by-jti").await;
    cases.push((token, "revocations", json!({"jti": jti})));
    let (token, _) = mint("by-sub").await;
    cases.push((token, "revocations", json!({"sub": "by-sub", "reason": "left"})));
    let (token, _) = mint("by-version").await;
    cases.push((token, "token-versions", json!({"sub": "by-version"})));
    let token = theirs(&key, "t1", "x1", "s1");
    cases.push((token.clone(), "revocations", json!({"token": token})));
    for (jti, sub, sid, place, mut body) in [
        ("t2", "x2", "s2", "revocations", json!({"jti": "t2"})),
        ("t3", "x3", "s3", "revocations", json!({"sid": "s3"})),
        ("t4", "x4", "s4", "revocations", json!({"sub": "x4"})),
        ("t5", "x5", "s5", "token-versions", json!({"sub": "x5"})),
    ] {
        body["issuer"] = json!(THEIRS);
        cases.push((theirs(&key, jti, sub, sid), place, body));
    }
    let bystanders = [theirs(&key, "t0", "x0", "s0"), mint("bystander").await.0];
    // Of the other issuer: the same name there is another token.
    let namesake = theirs(&key, &cases[1].2["jti"].to_string().replace('"', ""), "by-sub", "s0");
    let mut client = Client::to(program.listen).await;
    for (token, place, body) in &cases {
        assert_eq!(client.status("/", token).await, 200, "{body}");
        assert_eq!(client.status("/", token).await, 200, "{body}");
        let (code, answer) = program.admin("POST", &format!("/admin/v1/{place}"), body).await;
        assert!([200, 201].contains(&code), "{body}: {answer}");
        assert_eq!(client.status("/", token).await, 401, "{body}");
    }
    let seen = upstream.requests().len();
    for good in bystanders.iter().chain([&namesake]) {
        assert_eq!(client.status("/", good).await, 200);
    }
    let listed = program.admin("GET", "/admin/v1/revocations?limit=100", &Value::Null).await.1;
    assert_eq!(listed["revocations"].as_array().unwrap().len(), cases.len(), "{listed}");
    drop(client);
    assert!(program.stop().success());

    let program = Program::start(folder.path());
    for (token, _, body) in &cases {
        assert_eq!(program.status("/", token).await, 401, "{body}");
    }
    for good in &bystanders {
        assert_eq!(program.status("/", good).await, 200);
    }
    assert_eq!(upstream.requests().len(), seen + 3 + 2);
    // Everything of one issuer until now; the other's stays.
    let body = json!({"before": now(), "issuer": THEIRS});
    assert_eq!(program.admin("POST", "/admin/v1/revocations", &body).await.0, 201);
    assert_eq!(program.status("/", &bystanders[0]).await, 401);
    assert_eq!(program.status("/", &bystanders[1]).await, 200);
    assert_eq!(program.admin("POST", "/admin/v1/revocations", &json!({"before": now()})).await.0, 201);
    assert_eq!(program.status("/", &bystanders[1]).await, 401);
    program.kill();
    let program = Program::start(folder.path());
    for token in &bystanders {
        assert_eq!(program.status("/", token).await, 401);
    }
}

/// Old tokens live until the grace is over, also when the gateway was killed in between; new ones go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_raised_version_comes_into_force_when_its_grace_is_over() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let key = Key::ed("theirs");
    std::fs::write(folder.path().join("config.toml"), config(&upstream, &key, folder.path())).unwrap();
    let mut program = Program::start(folder.path());
    for body in
        [json!({"sub": "ann", "grace": 3, "reason": "laptop lost"}), json!({"all": true, "grace": "3s"})]
    {
        let mint = async |program: &Program| {
            let (code, answer) = program.admin("POST", "/admin/v1/tokens", &json!({"sub": "ann"})).await;
            assert_eq!(code, 201, "{answer}");
            answer["access_token"].as_str().unwrap().to_owned()
        };
        let old = mint(&program).await;
        let (code, answer) = program.admin("POST", "/admin/v1/token-versions", &body).await;
        assert_eq!(code, 200, "{answer}");
        assert!(answer["in_force_at"].as_u64().unwrap() > now(), "{answer}");
        assert_eq!(program.status("/", &old).await, 200, "{body}");
        program.kill();
        program = Program::start(folder.path());
        let waited = async {
            while program.status("/", &old).await == 200 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, waited).await.expect("the grace never ends");
        assert_eq!(program.status("/", &old).await, 401, "{body}");
        assert!(now() >= answer["in_force_at"].as_u64().unwrap(), "{body}: before its time");
        assert_eq!(program.status("/", &mint(&program).await).await, 200, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_kill_right_after_the_answer_loses_nothing() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let key = Key::ed("theirs");
    std::fs::write(folder.path().join("config.toml"), config(&upstream, &key, folder.path())).unwrap();
    let mut revoked: Vec<String> = Vec::new();
    let mut program = Program::start(folder.path());
    for round in 0..5 {
        let (jti, sub, sid) = (format!("t{round}"), format!("x{round}"), format!("s{round}"));
        let token = theirs(&key, &jti, &sub, &sid);
        assert_eq!(program.status("/", &token).await, 200);
        let (place, mut body) = match round {
            0 => ("revocations", json!({"token": token})),
            1 => ("revocations", json!({"jti": jti})),
            2 => ("revocations", json!({"sid": sid})),
            3 => ("revocations", json!({"sub": sub})),
            _ => ("token-versions", json!({"sub": sub})),
        };
        body["issuer"] = json!(THEIRS);
        let code = program.admin("POST", &format!("/admin/v1/{place}"), &body).await.0;
        program.kill();
        assert!([200, 201].contains(&code), "{body}");
        revoked.push(token);
        program = Program::start(folder.path());
        for token in &revoked {
            assert_eq!(program.status("/", token).await, 401, "round {round}");
        }
    }
    // A rotation that was acknowledged is there too, and what the keys signed stays good.
    let old = program.admin("POST", "/admin/v1/tokens", &json!({"sub": "a"})).await.1;
    let (code, keys) = program.admin("POST", "/admin/v1/keys/rotate", &json!({})).await;
    program.kill();
    assert_eq!(code, 200, "{keys}");
    let program = Program::start(folder.path());
    assert_eq!(program.admin("GET", "/admin/v1/keys", &Value::Null).await.1, keys);
    assert_eq!(program.status("/", old["access_token"].as_str().unwrap()).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_command_line_revokes_in_the_running_gateway() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let key = Key::ed("theirs");
    std::fs::write(folder.path().join("config.toml"), config(&upstream, &key, folder.path())).unwrap();
    let program = Program::start(folder.path());
    let said = |arguments: &[&str]| {
        let output = program.command(arguments);
        let text = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let token = said(&["token", "mint", "--sub", "alice", "--scope", "read", "--ttl", "5m"]);
    assert_eq!(program.status("/", &token).await, 200);
    assert!(said(&["token", "inspect", &token]).contains("alice"));
    assert!(said(&["token", "revoke", &token, "--reason", "posted in a chat"]).starts_with("revoked: token"));
    assert_eq!(program.status("/", &token).await, 401);
    let token = theirs(&key, "t1", "x1", "s1");
    assert_eq!(program.status("/", &token).await, 200);
    let words = said(&["token", "revoke", "--sid", "s1", "--issuer", THEIRS]);
    assert!(
        words.starts_with(&format!("revoked: session s1 with every token of it, of issuer {THEIRS}")),
        "{words}"
    );
    assert!(words.contains("sessions of another issuer are not kept here"), "{words}");
    assert_eq!(program.status("/", &token).await, 401);
    let token = said(&["token", "mint", "--sub", "bob"]);
    let words = said(&["token", "revoke", "--sub", "bob"]);
    assert!(words.starts_with("revoked: every token of bob signed so far, of issuer "), "{words}");
    assert!(words.contains("\nsessions ended: 0; no account has this id\nin force after "), "{words}");
    assert_eq!(program.status("/", &token).await, 401);
    let added = said(&["users", "add", "ann@example.com", "--verified", "--generate-password"]);
    let ann = added.lines().next().unwrap().rsplit(' ').next().unwrap();
    let words = said(&["token", "revoke", "--sub", ann]);
    let whom = format!("revoked: every token of {ann} (ann@example.com) signed so far, of issuer ");
    assert!(words.starts_with(&whom) && words.contains("\nsessions ended: 0\n"), "{words}");
    let token = said(&["token", "mint", "--sub", "bob"]);
    let words = said(&["token", "revoke", "--before", "now"]);
    assert!(words.starts_with("revoked: every token signed so far, of issuer "), "{words}");
    assert!(words.contains("\nsessions ended: 0\n"), "{words}");
    assert_eq!(program.status("/", &token).await, 401);
    let refused = program.command(&["token", "revoke", "--sub", "bob", "--session"]);
    assert!(!refused.status.success());
    assert!(said(&["keys", "list"]).contains("active"));
    said(&["keys", "rotate"]);
    assert_eq!(said(&["reload"]), "reloaded");
    let wrong = program.command(&["token", "mint", "--sub", ""]);
    assert!(!wrong.status.success());
    let ends = program.command(&["token", "revoke", "not-a-token"]);
    assert!(!ends.status.success());
    assert!(!String::from_utf8_lossy(&ends.stderr).contains("not-a-token"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rotation_under_load_refuses_no_valid_token() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("theirs.json"), jwks(&[&Key::ed("theirs")])).unwrap();
    let gateway = Gateway::start(&rest(&upstream, folder.path())).await;
    let mint = async || {
        let (code, answer) = gateway.admin("POST", "/admin/v1/tokens", &json!({"sub": "a"})).await;
        assert_eq!(code, 201, "{answer}");
        answer["access_token"].as_str().unwrap().to_owned()
    };
    let tokens = Arc::new(std::sync::Mutex::new(vec![mint().await]));
    let done = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (tokens, done, address) = (Arc::clone(&tokens), Arc::clone(&done), gateway.address());
            tokio::spawn(async move {
                let mut client = Client::to(address).await;
                let mut asked = 0;
                while !done.load(Ordering::Acquire) {
                    let held = tokens.lock().unwrap().clone();
                    for token in held {
                        assert_eq!(client.status("/", &token).await, 200);
                        asked += 1;
                    }
                }
                asked
            })
        })
        .collect();
    let nothing = json!({});
    for _ in 0..6 {
        // One signed before, one while, one after.
        let (during, rotated) =
            tokio::join!(mint(), gateway.admin("POST", "/admin/v1/keys/rotate", &nothing));
        assert_eq!(rotated.0, 200, "{}", rotated.1);
        let after = mint().await;
        tokens.lock().unwrap().extend([during, after]);
    }
    done.store(true, Ordering::Release);
    for task in load {
        assert!(task.await.unwrap() > 0);
    }
    let mut client = Client::to(gateway.address()).await;
    let held = tokens.lock().unwrap().clone();
    for token in held {
        assert_eq!(client.status("/", &token).await, 200, "the oldest key still verifies");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reload_takes_what_is_right_and_leaves_what_is_wrong() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("theirs.json"), jwks(&[&Key::ed("theirs")])).unwrap();
    let gateway = Gateway::start(&format!(
        "[tokens]\nissuer = \"us\"\naudience = \"us\"\n{}token = {{ cookie = \"__Host-at\" }}\n",
        rest(&upstream, folder.path()).replace("path = \"/\"", "path = \"/old\"")
    ))
    .await;
    let file = gateway.folder.path().join("config.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let minted = gateway.admin("POST", "/admin/v1/tokens", &json!({"sub": "a"})).await.1;
    let token = minted["access_token"].as_str().unwrap();
    let mut open = Client::to(gateway.address()).await;
    assert_eq!(open.status("/old", token).await, 200);
    assert_eq!(open.status("/new", token).await, 404);
    let reload = async || gateway.admin("POST", "/admin/v1/reload", &json!({})).await;

    std::fs::write(&file, format!("{before}nonsense = 1\nauth = \"maybe\"\n")).unwrap();
    let (code, answer) = reload().await;
    assert_eq!(code, 422, "{answer}");
    let errors = answer["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 2, "{answer}");
    assert!(errors.iter().all(|error| error.as_str().unwrap().contains("config.toml:")), "{answer}");
    std::fs::write(&file, "[[routes").unwrap();
    assert_eq!(reload().await.0, 422);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(reload().await.0, 422);
    assert_eq!(open.status("/old", token).await, 200);

    let route = format!(
        "[[routes]]\nname = \"new\"\nmatch = {{ path = \"/new\" }}\nupstream = [\"http://{}\"]\n",
        upstream.address
    );
    std::fs::write(&file, format!("{before}{route}")).unwrap();
    let (code, answer) = reload().await;
    assert_eq!((code, &answer["notes"]), (200, &json!([])), "{answer}");
    assert_eq!(open.status("/new", token).await, 200, "over the connection that was open before");
    assert_eq!(open.status("/old", token).await, 200);

    // What we sign with stays until the next start, and so does what we verify by.
    for change in
        ["issuer = \"us2\"\naudience = \"us\"", "issuer = \"us\"\naudience = \"us2\"\nleeway = \"0s\""]
    {
        let changed = before.replace("issuer = \"us\"\naudience = \"us\"", change);
        assert_ne!(changed, before);
        std::fs::write(&file, changed).unwrap();
        for _ in 0..2 {
            let (code, answer) = reload().await;
            assert_eq!(code, 200, "{answer}");
            let note = answer["notes"][0].as_str().unwrap();
            let (_, keys) = note.split_once("from the next start on: ").unwrap();
            let want = match change.contains("leeway") {
                true => "tokens.audience, tokens.leeway",
                false => "tokens.issuer",
            };
            assert_eq!(keys, want, "{answer}");
        }
        assert_eq!(open.status("/old", token).await, 200, "{change}");
        let later = gateway.admin("POST", "/admin/v1/tokens", &json!({"sub": "b"})).await.1;
        assert_eq!(open.status("/old", later["access_token"].as_str().unwrap()).await, 200, "{change}");
    }
    assert_eq!(open.status("/new", token).await, 404, "the route is gone again");
    // Listeners and the public URL, each by its name, and again until the start; what follows the URL is not named.
    let changed = before
        .replace("public_url = \"http://localhost:8080\"", "public_url = \"http://localhost:9090\"")
        .replace("header_timeout = \"2s\"", "header_timeout = \"3s\"\ntrusted_proxies = [\"10.0.0.1\"]");
    assert_ne!(changed, before);
    std::fs::write(&file, changed).unwrap();
    for _ in 0..2 {
        let notes = reload().await.1["notes"].clone();
        let said = "changed, but in force from the next start on: public_url, server.header_timeout";
        assert_eq!(notes, json!([said]));
    }
    // The scheme of pages is what it was at the start, so a form on one of them may use the cookie still.
    let changed = before.replace("public_url = \"http:", "public_url = \"https:");
    assert_ne!(changed, before);
    std::fs::write(&file, changed).unwrap();
    assert_eq!(reload().await.0, 200);
    let form = format!(
        "POST /old HTTP/1.1\r\nHost: app.test\r\nOrigin: http://app.test\r\nCookie: __Host-at={token}\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(status(&gateway.send(form).await), 200);
    std::fs::write(&file, &before).unwrap();
    assert_eq!(reload().await.1["notes"], json!([]), "what is as it was at the start needs none");
    // A revocation outlives a reload.
    assert_eq!(gateway.admin("POST", "/admin/v1/revocations", &json!({"token": token})).await.0, 201);
    assert_eq!(reload().await.0, 200);
    assert_eq!(open.status("/old", token).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_reloads_at_once_the_later_one_holds() {
    let upstream = Upstream::start().await;
    let (asked, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told, wait) = (Arc::clone(&asked), Arc::clone(&release));
    // An issuer that keeps the first reload waiting.
    let keys = Scripted::start(move |mut stream| {
        let (told, wait) = (Arc::clone(&told), Arc::clone(&wait));
        async move {
            read_head(&mut stream).await;
            told.notify_one();
            wait.notified().await;
            let _ = stream.write_all(b"HTTP/1.1 503 -\r\nContent-Length: 0\r\n\r\n").await;
        }
    })
    .await;
    let route = |path: &str| {
        format!(
            "[[routes]]\nname = \"{path}\"\nmatch = {{ path = \"/{path}\" }}\nupstream = [\"http://{}\"]\nauth = \"none\"\n",
            upstream.address
        )
    };
    let gateway = Gateway::start(&route("first")).await;
    let file = gateway.folder.path().join("config.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let issuer = format!(
        "[[issuers]]\nissuer = \"https://i.test\"\njwks = \"http://{}/\"\naudiences = [\"a\"]\nalgorithms = [\"ES256\"]\n",
        keys.address
    );
    let reload = async || gateway.admin("POST", "/admin/v1/reload", &json!({})).await.0;
    std::fs::write(&file, before.replace("first", "older") + &issuer).unwrap();
    let older = reload();
    let newer = async {
        asked.notified().await;
        std::fs::write(&file, before.replace("first", "newer")).unwrap();
        let newer = reload();
        // Long enough for a reload that does not wait; one that waits needs the release.
        let release = async {
            for _ in 0..20 {
                gateway.admin("GET", "/livez", &json!({})).await;
            }
            release.notify_one();
        };
        tokio::join!(newer, release).0
    };
    assert_eq!(tokio::join!(older, newer), (200, 200));
    assert_eq!(status(&gateway.get("/newer", "").await), 200);
    assert_eq!(status(&gateway.get("/older", "").await), 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_second_process_on_the_same_data_says_who_has_it() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let key = Key::ed("theirs");
    std::fs::write(folder.path().join("config.toml"), config(&upstream, &key, folder.path())).unwrap();
    let first = Program::start(folder.path());
    let file = folder.path().join("config.toml");
    let second = run(palisade().args(["run", "--config"]).arg(&file), "");
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("process {}", first.id())) && said.contains("palisade.lock"), "{said}");
    assert!(!said.contains("\u{1b}["), "colours where no terminal is: {said}");
    assert_eq!(first.status("/", &theirs(&key, "t", "x", "s")).await, 200);
}

#[test]
fn check_tells_by_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let route =
        "[[routes]]\nname = \"a\"\nmatch = { path = \"/\" }\nupstream = [\"http://127.0.0.1:3000\"]\n";
    std::fs::write(&file, format!("public_url = \"http://localhost:8080\"\n{route}")).unwrap();
    let good = run(palisade().args(["check", "--config"]).arg(&file), "");
    assert_eq!(good.status.code(), Some(0), "{}", String::from_utf8_lossy(&good.stderr));
    assert!(String::from_utf8_lossy(&good.stdout).contains("good, 1 route"));
    std::fs::write(&file, format!("public_url = 1\n{route}auth = \"never\"\n")).unwrap();
    let bad = run(palisade().args(["check", "--config"]).arg(&file), "");
    let said = String::from_utf8(bad.stderr).unwrap();
    assert_eq!(bad.status.code(), Some(1), "{said}");
    assert!(said.contains("config.toml:1:") && said.contains("config.toml:6:"), "{said}");
    let missing = run(palisade().args(["check", "--config"]).arg(folder.path().join("none.toml")), "");
    assert_eq!(missing.status.code(), Some(1));
    let usage = run(palisade().args(["check", "--nonsense"]), "");
    assert_eq!(usage.status.code(), Some(2));
}

/// RFC 7515 appendices A.2 and A.3, RFC 8037 appendices A.2 and A.4.
#[test]
fn token_verify_knows_the_vectors_of_the_rfcs() {
    let folder = tempfile::tempdir().unwrap();
    let payload =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let set = json!({"keys": [
        {"kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"},
        {"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
        {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
    ]});
    let tokens = [
        format!("eyJhbGciOiJSUzI1NiJ9.{payload}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"),
        format!("eyJhbGciOiJFUzI1NiJ9.{payload}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"),
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg".to_owned(),
    ];
    let file = folder.path().join("keys.json");
    std::fs::write(&file, set.to_string()).unwrap();
    let verify = |more: &[&str], input: &str| {
        let output = run(palisade().args(["token", "verify", "--jwks"]).arg(&file).args(more), input);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let input = tokens.join("\n") + "\n";
    assert_eq!(verify(&["--signature-only"], &input), (Some(0), "valid\n".repeat(3)));
    let (code, said) = verify(&[], &input);
    assert_eq!(code, Some(1));
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said.len(), 3);
    assert!(
        said.iter().all(|line| line.starts_with("invalid: ") && line.len() > "invalid: ".len()),
        "{said:?}"
    );
    for token in &tokens {
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let first = if signature.starts_with('A') { "B" } else { "A" };
        let forged = format!("{signed}.{first}{}", &signature[1..]);
        let told = verify(&["--signature-only"], &forged);
        assert_eq!(told, (Some(1), "invalid: bad signature\n".to_owned()), "{token}");
    }
    let none = run(palisade().args(["token", "verify", "--jwks", "/nowhere/keys.json"]), "");
    assert_eq!(none.status.code(), Some(1));
    // A token of today, with every claim.
    let key = Key::es("k");
    std::fs::write(&file, jwks(&[&key])).unwrap();
    let good = key.token(&json!({"iss": "i", "aud": "a", "sub": "s", "exp": now() + 60}));
    let old = key.token(&json!({"iss": "i", "aud": "a", "sub": "s", "exp": now() - 600}));
    assert_eq!(verify(&[], &format!("{good}\n{old}")), (Some(1), "valid\ninvalid: expired\n".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_gateway_that_was_shut_down_has_let_go_of_its_store() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let key = Key::ed("theirs");
    let text = config(&upstream, &key, folder.path());
    let file = folder.path().join("config.toml");
    std::fs::write(&file, &text).unwrap();
    let mut revoked = Vec::<String>::new();
    for round in 0..5 {
        let config = palisade::config::parse(&text, &file, &|_| None).unwrap();
        let running = palisade::app::start(config, palisade::app::Options::default()).await.unwrap();
        for token in &revoked {
            assert_eq!(Client::to(running.listen[0]).await.status("/", token).await, 401, "round {round}");
        }
        let token = theirs(&key, &format!("t{round}"), "x", "s");
        let mut client = Client::to(running.listen[0]).await;
        assert_eq!(client.status("/", &token).await, 200);
        let credential = std::fs::read_to_string(folder.path().join("data/admin.token")).unwrap();
        let body = json!({"token": token});
        let revoke =
            crate::support::admin(running.admin, &credential, "POST", "/admin/v1/revocations", &body);
        assert_eq!(revoke.await.0, 201);
        revoked.push(token);
        let scrape = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", running.admin);
        let metrics = crate::support::exchange(running.admin, scrape).await;
        for call in ["commit", "each_revocation"] {
            // The audit log commits what was done a moment later: it may be counted already.
            let counter =
                format!("palisade_store_call_duration_seconds_count{{call=\"{call}\",outcome=\"ok\"}} ");
            let counted = metrics.lines().find_map(|line| line.strip_prefix(&counter));
            assert!(counted.is_some_and(|count| count.parse::<u64>().unwrap() >= 1), "{metrics}");
        }
        drop(client);
        running.shutdown().await;
    }
}
