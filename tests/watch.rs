//! The configuration follows its files: `server.watch`, and the files that references name.
//!
//! The gateway looks every two seconds; the tests make further looks of their own and wait for none.

use std::fs;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::support::neighbours::probe;
use super::support::plugins::Neighbour;
use super::support::{Gateway, PATIENCE, Upstream, body_of, field, status};

const ROUTE: &str = "[[routes]]\nname = \"app\"\nauth = \"none\"\nupstream = [\"http://${file:upstream}\"]\n";

struct World {
    gateway: Gateway,
    /// The text of the configuration at the start.
    text: String,
}

impl World {
    /// A gateway whose upstream is named in a file; `server`: further keys.
    async fn start(server: &str, upstream: &Upstream) -> World {
        let gateway =
            Gateway::start_beside(&[("upstream", &format!("{}\n", upstream.address))], server, ROUTE).await;
        let text = fs::read_to_string(gateway.folder.path().join("config.toml")).unwrap();
        World { gateway, text }
    }

    /// Writes a file, and looks twice.
    async fn write(&self, name: &str, text: &str) {
        fs::write(self.gateway.folder.path().join(name), text).unwrap();
        for _ in 0..2 {
            self.gateway.running.look_at_files().await;
        }
    }

    fn hash(&self) -> String {
        self.gateway.running.control.configuration()
    }

    async fn status(&self, target: &str) -> u16 {
        status(&self.gateway.get(target, "").await)
    }

    /// The hashes of the configurations that the metrics say are in force.
    async fn in_force(&self) -> Vec<String> {
        let text = probe(&self.gateway, "/metrics").await;
        let hash = |line: &str| {
            Some(line.strip_prefix("palisade_config_info{hash=\"")?.strip_suffix("\"} 1")?.to_owned())
        };
        text.lines().filter_map(hash).collect()
    }

    /// What came of the reloads that files have caused: the outcomes in the audit log, the last one first. `asked`: the
    /// reloads that an operator has asked for so far.
    async fn reloads(&self, asked: usize) -> Vec<String> {
        // Events are written in their order, and that of this one is the last.
        self.gateway.admin("POST", "/admin/v1/reload", &json!({})).await;
        let is_asked = |event: &&Value| event["reason"] != "files_changed";
        let written = async {
            loop {
                let (_, list) = self.gateway.admin("GET", "/admin/v1/audit", &Value::Null).await;
                let events = list["events"].as_array().unwrap().iter();
                let events: Vec<Value> =
                    events.filter(|event| event["action"] == "reload").cloned().collect();
                if events.iter().filter(is_asked).count() > asked {
                    return events;
                }
            }
        };
        let events = tokio::time::timeout(PATIENCE, written).await.expect("no event of the reload");
        let caused = events.iter().filter(|event| !is_asked(event));
        caused.map(|event| event["outcome"].as_str().unwrap().to_owned()).collect()
    }
}

/// A mail server that takes every mail, and keeps what clients sign in with (AUTH PLAIN, in base64).
async fn mail_server() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sign_ins = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&sign_ins);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(take_mail(stream, Arc::clone(&kept)));
        }
    });
    (port, sign_ins)
}

async fn take_mail(stream: TcpStream, sign_ins: Arc<Mutex<Vec<String>>>) {
    let mut stream = BufReader::new(stream);
    let mut answer = "220 mail.test\r\n";
    loop {
        stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        answer = match line.get(..4).unwrap_or_default() {
            "EHLO" => "250-mail.test\r\n250 AUTH PLAIN\r\n",
            "AUTH" => {
                sign_ins.lock().unwrap().push(line.trim_end().rsplit(' ').next().unwrap().to_owned());
                "235 signed in\r\n"
            }
            "DATA" => {
                stream.get_mut().write_all(b"354 go on\r\n").await.unwrap();
                while line != ".\r\n" {
                    line.clear();
                    stream.read_line(&mut line).await.unwrap();
                }
                "250 taken\r\n"
            }
            _ => "250 OK\r\n",
        };
    }
}

#[tokio::test]
async fn a_changed_configuration_is_taken_up_and_a_broken_one_is_not() {
    let upstream = Upstream::start().await;
    let world = World::start("watch = true", &upstream).await;
    let first = world.hash();
    assert_eq!(world.status("/").await, 200);

    world.write("config.toml", &world.text.replace("auth = \"none\"", "auth = \"nobody\"")).await;
    assert_eq!((world.hash(), world.status("/").await), (first.clone(), 200));
    // Looked at again, and not read again: its errors are told once.
    world.gateway.running.look_at_files().await;
    assert_eq!(world.in_force().await, std::slice::from_ref(&first));

    world.write("config.toml", &world.text.replace("auth = \"none\"", "auth = \"required\"")).await;
    let second = world.hash();
    assert_ne!(second, first);
    assert_eq!(world.status("/").await, 401);
    let (_, answer) = world.gateway.admin("POST", "/admin/v1/reload", &serde_json::json!({})).await;
    assert_eq!(answer["hash"], *second);

    // It is itself followed: from here on the file is left alone.
    let without = world.text.replace("watch = true", "watch = false");
    world.write("config.toml", &without).await;
    let third = world.hash();
    assert_eq!(world.status("/").await, 200);
    world.write("config.toml", &world.text).await;
    assert_eq!(world.hash(), third);
    assert_ne!(third, first);
    assert_eq!(world.in_force().await, [third]);
    assert_eq!(world.reloads(1).await, ["success", "success", "failed"]);
}

#[tokio::test]
async fn a_file_that_a_reference_names_is_read_again_when_it_changes() {
    let (before, after) = (Upstream::start().await, Upstream::start().await);
    let world = World::start("", &before).await;
    let hash = world.hash();
    assert_eq!(world.status("/").await, 200);
    // Empty, as a file is between being truncated and being written.
    world.write("upstream", "").await;
    assert_eq!(world.status("/").await, 200);
    assert_eq!((before.requests().len(), after.requests().len()), (2, 0));
    world.write("upstream", &after.address.to_string()).await;
    assert_eq!(world.status("/").await, 200);
    assert_eq!((before.requests().len(), after.requests().len()), (2, 1));
    assert_eq!(world.hash(), hash, "no value is in the hash");
}

#[tokio::test]
async fn a_new_password_of_the_mail_server_is_taken_up() {
    let (upstream, (port, sign_ins)) = (Upstream::start().await, mail_server().await);
    let mail = format!(
        "[mail]\ntransport = \"smtp://me@127.0.0.1:{port}?tls=none\"\npassword = \"file:smtp\"\n{ROUTE}"
    );
    let address = upstream.address.to_string();
    let gateway = Gateway::start_beside(&[("upstream", &address), ("smtp", "first\n")], "", &mail).await;
    let world = World { text: String::new(), gateway };
    let invite = async |name: &str, mails: usize| {
        let body = json!({"email": format!("{name}@example.com")});
        let (code, told) = world.gateway.admin("POST", "/admin/v1/invitations", &body).await;
        assert_eq!(code, 201, "{told}");
        let sent = async {
            while sign_ins.lock().unwrap().len() < mails {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, sent).await.expect("no mail");
    };
    invite("ann", 1).await;
    world.write("smtp", "second\n").await;
    invite("bea", 2).await;
    // "\0me\0first" and "\0me\0second" in base64 (RFC 4616 §2).
    assert_eq!(*sign_ins.lock().unwrap(), ["AG1lAGZpcnN0", "AG1lAHNlY29uZA=="]);
    // Nothing of it waits for a start.
    let notices = world.gateway.running.control.reload().await.unwrap();
    assert!(!notices.iter().any(|notice| notice.contains("next start")), "{notices:#?}");
}

/// A connection of a new account to the provider "bank", whose tokens the account has brought: the path of its refresh.
async fn connected(gateway: &Gateway) -> String {
    let (mail, password) = ("ann@example.com", "Correct horse 9 battery");
    let account = json!({"email": mail, "password": password, "email_verified": true});
    let (code, made) = gateway.admin("POST", "/admin/v1/users", &account).await;
    assert_eq!(code, 201, "{made}");
    let mut bearer = String::new();
    let mut told = Value::Null;
    for (method, path, body) in [
        ("POST", "/auth/login", json!({"email": mail, "password": password})),
        ("POST", "/auth/connections", json!({"provider": "bank"})),
        ("PUT", "", json!({"access_token": "a", "refresh_token": "r", "expires_in": 3600})),
    ] {
        let own = format!("/auth/connections/{}/tokens", told["id"].as_str().unwrap_or_default());
        let (path, body) = (if path.is_empty() { &own } else { path }, body.to_string());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost:8080\r\nContent-Type: application/json\r\n{bearer}\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let answer = gateway.send(request).await;
        assert!((200..300).contains(&status(&answer)), "{method} {path}: {answer}");
        // The last answer has no body.
        told = serde_json::from_str(body_of(&answer)).unwrap_or(told);
        if let Some(token) = told["access_token"].as_str() {
            bearer = format!("Authorization: Bearer {token}\r\n");
        }
    }
    let (user, connection) = (made["id"].as_str().unwrap(), told["id"].as_str().unwrap());
    format!("/admin/v1/users/{user}/connections/{connection}/refresh")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_client_secret_of_a_provider_is_taken_up() {
    let tokens =
        json!({"access_token": "b", "refresh_token": "r", "token_type": "Bearer", "expires_in": 3600});
    let tokens = tokens.to_string();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{tokens}",
        tokens.len()
    );
    let (upstream, bank) = (Upstream::start().await, Neighbour::start(answer.leak()).await);
    let provider = format!(
        "[passwords]\nbcrypt_cost = 4\n\
         [[providers]]\nname = \"bank\"\ncomponent = \"builtin:oauth2\"\nclient_id = \"file:id\"\n\
         client_secret = \"file:secret\"\nallowed_hosts = [\"{0}\"]\nallow_loopback = true\n\
         [providers.settings]\nauthorize_url = \"http://{0}/authorize\"\ntoken_url = \"http://{0}/token\"\n{ROUTE}",
        bank.address
    );
    let files = [("upstream", &*upstream.address.to_string()), ("id", "id\n"), ("secret", "first\n")];
    let gateway = Gateway::start_beside(&files, "", &provider).await;
    let world = World { text: String::new(), gateway };
    let refresh = connected(&world.gateway).await;
    let refreshed = async || {
        let (code, told) = world.gateway.admin("POST", &refresh, &Value::Null).await;
        assert_eq!(code, 200, "{told}");
    };
    refreshed().await;
    world.write("secret", "second\n").await;
    refreshed().await;
    // By a reload that was asked for as well.
    fs::write(world.gateway.folder.path().join("secret"), "third\n").unwrap();
    let notices = world.gateway.running.control.reload().await.unwrap();
    assert!(!notices.iter().any(|notice| notice.contains("next start")), "{notices:#?}");
    refreshed().await;
    let seen = bank.seen();
    let sent: Vec<_> = seen.iter().map(|request| field(request, "authorization").unwrap()).collect();
    // "id:first", "id:second" and "id:third" in base64 (RFC 6749 §2.3.1).
    assert_eq!(sent, ["Basic aWQ6Zmlyc3Q=", "Basic aWQ6c2Vjb25k", "Basic aWQ6dGhpcmQ="]);
}

#[tokio::test]
async fn a_changed_file_that_takes_a_start_is_named() {
    let upstream = Upstream::start().await;
    let [first, second, third] = ["1", "2", "3"].map(|digit| digit.repeat(64));
    let address = upstream.address.to_string();
    let keys = "[tokens]\nalgorithm = \"HS256\"\nkey = \"file:token.key\"\n[vault]\nkeys = [\"file:a\", \"file:b\"]\n";
    let files = [("upstream", &*address), ("token.key", &first), ("a", &first), ("b", &second)];
    let gateway = Gateway::start_beside(&files, "", &format!("{keys}{ROUTE}")).await;
    let folder = gateway.folder.path().to_owned();
    let notices = async || gateway.running.control.reload().await.unwrap();
    let about = |notices: &[String], key: &str| notices.iter().filter(|notice| notice.contains(key)).count();
    let before = notices().await;
    assert_eq!((about(&before, "tokens.key:"), about(&before, "next start")), (1, 0), "{before:#?}");
    fs::write(folder.join("token.key"), &third).unwrap();
    fs::write(folder.join("b"), &third).unwrap();
    let told = notices().await;
    let at = |name: &str| folder.join(name).display().to_string();
    let want = format!(
        "changed, but in force from the next start on: tokens.key ({}), vault.keys ({})",
        at("token.key"),
        at("b")
    );
    assert_eq!(told[0], want);
    assert_eq!(about(&told, "vault.keys: a key is gone"), 1, "{told:#?}");
    assert!(![&first, &second, &third].iter().any(|key| told.join("").contains(key.as_str())), "{told:#?}");
    // In another order each of them is still there.
    fs::write(folder.join("b"), &first).unwrap();
    fs::write(folder.join("a"), &second).unwrap();
    let told = notices().await;
    assert_eq!((about(&told, "vault.keys ("), about(&told, "a key is gone")), (1, 0), "{told:#?}");
}
