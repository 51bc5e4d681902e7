//! Accounts on a running gateway, as strangers, thieves and failing machines treat them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::support::arrivals::Arrivals;
use crate::support::binary::Program;
use crate::support::{Gateway, PATIENCE, body_of, exchange, field, status};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PASSWORD: &str = "Correct horse 42";
const ANN: &str = "ann@example.com";
/// Mails as files, cheap hashes, no limits.
const OPEN: &str = "[accounts]\nregistration = \"open\"\n[passwords]\nbcrypt_cost = 4\n[limits]\nenabled = false\n[mail]\ntransport = \"file:./outbox\"\n\
                    [log]\naudit = \"file:./audit.jsonl\"\n";

fn config(folder: &Path, rest: &str) {
    let text = format!(
        "public_url = \"http://localhost:8080\"\n[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\
         [store]\nurl = \"sled:./data\"\n{rest}"
    );
    std::fs::write(folder.join("config.toml"), text).unwrap();
}

/// A request with a JSON body and further field lines, each ending in CRLF.
fn request(method: &str, path: &str, fields: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: app.test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n{fields}\r\n{body}",
        body.len()
    )
}

/// Where accounts are asked about.
#[derive(Clone, Copy)]
struct Auth(std::net::SocketAddr);

impl Auth {
    async fn raw(self, method: &str, path: &str, fields: &str, body: &str) -> String {
        exchange(self.0, request(method, &format!("/auth{path}"), fields, body)).await
    }

    async fn post(self, path: &str, body: &Value) -> (u16, Value) {
        let answer = self.raw("POST", path, "", &body.to_string()).await;
        (status(&answer), serde_json::from_str(body_of(&answer)).unwrap_or(Value::Null))
    }

    async fn login(self, email: &str, password: &str) -> (u16, Value) {
        self.post("/login", &json!({"email": email, "password": password})).await
    }

    async fn refresh(self, token: &Value) -> (u16, Value) {
        self.post("/refresh", &json!({"refresh_token": token})).await
    }
}

/// Waits until a mail is there that `fits`; its text.
async fn mail(outbox: &Path, fits: impl Fn(&str) -> bool) -> String {
    let arrivals = Arrivals::at(outbox);
    let look = async {
        loop {
            let found = mails(outbox).into_iter().find(|mail| fits(mail));
            match found {
                Some(mail) => return mail,
                None => arrivals.next().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, look).await.expect("the mail did not come")
}

fn mails(outbox: &Path) -> Vec<String> {
    let files = std::fs::read_dir(outbox).into_iter().flatten().flatten().map(|entry| entry.path());
    let whole = files.filter(|path| path.extension().is_some_and(|ending| ending == "eml"));
    whole.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
}

fn token_in(mail: &str) -> &str {
    mail.split_once("#token=")
        .unwrap()
        .1
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_')
        .next()
        .unwrap()
}

fn outbox(gateway: &Gateway) -> PathBuf {
    gateway.folder.path().join("outbox")
}

/// An account whose address counts as verified.
async fn account(gateway: &Gateway, email: &str) -> Value {
    let body = json!({"email": email, "password": PASSWORD, "email_verified": true});
    let (status, made) = gateway.admin("POST", "/admin/v1/users", &body).await;
    assert_eq!(status, 201, "{made}");
    made
}

/// What differs between any two answers, taken out.
fn settled(answer: &str) -> String {
    let volatile =
        |line: &&str| !["date:", "x-request-id:"].iter().any(|name| line.to_lowercase().starts_with(name));
    answer.lines().filter(volatile).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_tells_whether_an_address_has_an_account() {
    let gateway = Gateway::start(OPEN).await;
    let auth = Auth(gateway.address());
    account(&gateway, ANN).await;
    account(&gateway, "me@example.com").await;
    let unverified = json!({"email": "new@example.com", "password": PASSWORD});
    assert_eq!(auth.post("/register", &unverified).await.0, 202);
    mail(&outbox(&gateway), |mail| mail.contains("To: new@example.com")).await;
    let disabled = account(&gateway, "off@example.com").await;
    let path = format!("/admin/v1/users/{}", disabled["id"].as_str().unwrap());
    assert_eq!(gateway.admin("PATCH", &path, &json!({"active": false})).await.0, 200);
    let (_, mine) = auth.login("me@example.com", PASSWORD).await;
    let bearer = format!("Authorization: Bearer {}\r\n", mine["access_token"].as_str().unwrap());

    let asked = async |email: &str| {
        let mut all = String::new();
        for (method, path, body) in [
            ("POST", "/login", json!({"email": email, "password": "Wrong horse 42"})),
            ("POST", "/register", json!({"email": email, "password": PASSWORD, "name": "X"})),
            ("POST", "/verify-email/resend", json!({"email": email})),
            ("POST", "/password-resets", json!({"email": email})),
        ] {
            write!(all, "{}\n\n", settled(&auth.raw(method, path, "", &body.to_string()).await)).unwrap();
        }
        let wish = json!({"email": email, "current_password": PASSWORD}).to_string();
        let wished = auth.raw("PATCH", "/me", &bearer, &wish).await;
        assert_eq!(status(&wished), 200, "{wished}");
        all + &settled(&wished).replace(email, "ADDRESS")
    };
    let unknown = settle_times(&asked("nobody@example.com").await);
    for known in [ANN, "new@example.com", "off@example.com"] {
        assert_eq!(settle_times(&asked(known).await), unknown, "{known}");
    }
}

/// Addresses of other lengths make other lengths, and an account says when it was changed.
fn settle_times(text: &str) -> String {
    let mut settled = String::new();
    for line in text.lines() {
        match line.split_once("\"updated_at\":") {
            Some((before, after)) => {
                settled += &format!("{before}{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
            }
            None if line.to_lowercase().starts_with("content-length:") => {}
            None => settled += line,
        }
        settled.push('\n');
    }
    settled
}

#[tokio::test(flavor = "multi_thread")]
async fn links_lead_to_the_configured_url_whatever_a_request_says() {
    let gateway = Gateway::start(OPEN).await;
    account(&gateway, ANN).await;
    let fields = "X-Forwarded-Host: evil.test\r\nX-Forwarded-Proto: https\r\nForwarded: host=evil.test\r\n\
                  X-Original-Host: evil.test\r\n";
    let body = json!({"email": ANN}).to_string();
    let ask = async |more: &str| {
        let sent = request("POST", "/auth/password-resets", &format!("{fields}{more}"), &body);
        gateway.send(sent.replace("app.test", "evil.test")).await
    };
    // What a browser says of the page that it asks for lets nothing in its name be asked.
    for page in ["Referer: https://evil.test/\r\n", "Origin: https://evil.test\r\n"] {
        let refused = ask(page).await;
        assert_eq!(status(&refused), 403, "{refused}");
        assert!(refused.contains("\"cross_site\""), "{refused}");
    }
    assert_eq!(status(&ask("").await), 202);
    let mail = mail(&outbox(&gateway), |mail| mail.contains("#token=")).await;
    assert!(
        mail.contains("http://localhost:8080/auth/pages/reset#token=") && !mail.contains("evil"),
        "{mail}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_bodies_are_refused_in_words() {
    let gateway = Gateway::start(OPEN).await;
    let auth = Auth(gateway.address());
    let nested = format!("{{\"email\":{}{}}}", "[".repeat(20_000), "]".repeat(20_000));
    let long = format!("{{\"email\":\"a@example.com\",\"password\":\"{}\"}}", "x".repeat(60_000));
    let huge = format!("{{\"email\":\"{}\",\"password\":\"x\"}}", "x".repeat(70_000));
    for (body, expected) in [
        ("", 400),
        ("{", 400),
        ("null", 400),
        ("[]", 400),
        ("{} {}", 400),
        ("{\"email\":\"a@example.com\"}", 400),
        ("{\"email\":\"a@example.com\",\"email\":\"b@example.com\",\"password\":\"x\"}", 400),
        ("{\"email\":\"a@example.com\",\"password\":\"x\",\"admin\":true}", 400),
        ("{\"email\":\"a@example.com\",\"password\":1e400}", 400),
        ("{\"email\":\"a@example.com\",\"password\":[\"x\"]}", 400),
        ("{\"email\":\"a@example.com\",\"password\":null}", 400),
        ("{\"email\":\"\\ud800@example.com\",\"password\":\"x\"}", 400),
        ("{\"email\":\"a\\u0000@example.com\",\"password\":\"x\"}", 422),
        ("{\"email\":\"a@evil@example.com\",\"password\":\"x\"}", 422),
        ("{\"email\":\"a@example.com\\r\\nBcc: b@example.com\",\"password\":\"x\"}", 422),
        ("{\"email\":\"a@example.com\",\"password\":\"x\\u0000y\"}", 401),
        ("{\"email\":\"a@example.com\",\"password\":\"\"}", 401),
        (&nested, 400),
        (&long, 401),
        (&huge, 413),
    ] {
        let answer = auth.raw("POST", "/login", "", body).await;
        let shown = &body[..body.len().min(80)];
        assert_eq!(status(&answer), expected, "{shown}: {answer}");
        assert!(
            answer.contains("application/problem+json") && answer.contains("\"code\":"),
            "{shown}: {answer}"
        );
        assert!(answer.to_lowercase().contains("cache-control: no-store"), "{answer}");
    }
    let form = "POST /auth/login HTTP/1.1\r\nHost: app.test\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\
                Connection: close\r\n\r\n{}";
    assert_eq!(status(&gateway.send(form).await), 415, "what a page of another site can send is not read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles_in_is_given_up() {
    let gateway = Gateway::start(OPEN).await;
    let begun = Instant::now();
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    let head = "POST /auth/login HTTP/1.1\r\nHost: app.test\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    // A byte whenever nothing was heard for a second.
    let mut answer = Vec::new();
    loop {
        match tokio::time::timeout(std::time::Duration::from_secs(1), reader.read_buf(&mut answer)).await {
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(_)) => {}
            Err(_) => drop(writer.write_all(b" ").await),
        }
        assert!(begun.elapsed() < PATIENCE, "it is still waited for");
    }
    assert_eq!(status(&String::from_utf8_lossy(&answer)), 408);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_not_walked_around_by_spelling_or_header() {
    let gateway = Gateway::start(&OPEN.replace("enabled = false", "enabled = true")).await;
    let auth = Auth(gateway.address());
    account(&gateway, ANN).await;
    let spellings =
        [ANN, "Ann@example.com", " ann@EXAMPLE.com", "ANN@example.COM\t", "ann@ｅｘａｍｐｌｅ.com", ANN, ANN];
    let mut answers = Vec::new();
    for (n, email) in spellings.iter().enumerate() {
        let fields = format!(
            "X-Forwarded-For: 203.0.113.{n}\r\nX-Real-IP: 203.0.113.{n}\r\nForwarded: for=203.0.113.{n}\r\n\
             CF-Connecting-IP: 203.0.113.{n}\r\nTrue-Client-IP: 203.0.113.{n}\r\n"
        );
        let body = json!({"email": email, "password": "Wrong horse 42"}).to_string();
        answers.push(auth.raw("POST", "/login", &fields, &body).await);
    }
    let statuses: Vec<u16> = answers.iter().map(|answer| status(answer)).collect();
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429, 429]);
    let wait: u64 = field(&answers[6], "retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    // The right password waits as well; another account does not.
    assert_eq!(auth.login(ANN, PASSWORD).await.0, 429);
    assert_eq!(auth.login("bob@example.com", PASSWORD).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sign_ins_at_once_all_come_to_their_end() {
    let gateway = Gateway::start(&(OPEN.to_owned() + "[sessions]\nmax_per_user = 5\n")).await;
    let auth = Auth(gateway.address());
    let ann = account(&gateway, ANN).await;
    // On a machine that is busy with other things a turn may not come in time; then it is asked for once more.
    let tries = (0..30).map(|_| async {
        loop {
            match auth.login(ANN, PASSWORD).await.0 {
                503 => {}
                status => return status,
            }
        }
    });
    let statuses: Vec<u16> = futures::future::join_all(tries).await;
    assert_eq!(statuses, [200; 30]);
    let path = format!("/admin/v1/users/{}/sessions", ann["id"].as_str().unwrap());
    let (_, listed) = gateway.admin("GET", &path, &json!({})).await;
    assert_eq!(listed["sessions"].as_array().unwrap().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_replaced_stays_so_across_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    config(folder.path(), OPEN);
    let program = Program::start(folder.path());
    let body = json!({"email": ANN, "password": PASSWORD, "email_verified": true});
    assert_eq!(program.admin("POST", "/admin/v1/users", &body).await.0, 201);
    let auth = Auth(program.listen);
    let (_, first) = auth.login(ANN, PASSWORD).await;
    let again = (0..50).map(|_| auth.refresh(&first["refresh_token"]));
    let answers = futures::future::join_all(again).await;
    let successors: BTreeSet<String> =
        answers.iter().map(|(status, tokens)| format!("{status} {}", tokens["refresh_token"])).collect();
    assert_eq!(successors.len(), 1, "{successors:?}");
    let (status, third) = auth.refresh(&answers[0].1["refresh_token"]).await;
    assert_eq!(status, 200);
    program.kill();
    let program = Program::start(folder.path());
    let auth = Auth(program.listen);
    assert_eq!(auth.refresh(&first["refresh_token"]).await.0, 401);
    assert_eq!(auth.refresh(&third["refresh_token"]).await.0, 401, "and the session has ended");
    // On the very next request, and after another kill too.
    let me = format!("Authorization: Bearer {}\r\n", third["access_token"].as_str().unwrap());
    assert_eq!(crate::support::status(&auth.raw("GET", "/me", &me, "").await), 401);
    program.kill();
    let program = Program::start(folder.path());
    assert_eq!(crate::support::status(&Auth(program.listen).raw("GET", "/me", &me, "").await), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_loses_no_registration_that_was_taken() {
    let folder = tempfile::tempdir().unwrap();
    config(folder.path(), OPEN);
    let outbox = folder.path().join("outbox");
    let mut taken = BTreeSet::new();
    for round in 0..3 {
        let program = Program::start(folder.path());
        let auth = Auth(program.listen);
        let mut asked = tokio::task::JoinSet::new();
        for n in 0..40 {
            let email = format!("u{round}-{n}@example.com");
            let body = json!({"email": email, "password": PASSWORD}).to_string();
            asked.spawn(async move {
                let mut stream = TcpStream::connect(auth.0).await.ok()?;
                stream.write_all(request("POST", "/auth/register", "", &body).as_bytes()).await.ok()?;
                let mut answer = Vec::new();
                // Cut short when the gateway is killed.
                let _ = stream.read_to_end(&mut answer).await;
                (status(&String::from_utf8_lossy(&answer)) == 202).then_some(email)
            });
        }
        let mut acknowledged = 0;
        let mut program = Some(program);
        while let Some(answer) = asked.join_next().await {
            taken.extend(answer.unwrap().inspect(|_| acknowledged += 1));
            if acknowledged == 10 * (round + 1)
                && let Some(program) = program.take()
            {
                program.kill();
            }
        }
    }
    assert!(taken.len() >= 60, "{}", taken.len());
    let program = Program::start(folder.path());
    for email in &taken {
        let found = mail(&outbox, |mail| mail.contains(&format!("To: {email}"))).await;
        assert!(found.contains("/auth/pages/verify#token="));
    }
    // Each of them once, whatever was under way.
    let (_, listed) = program.admin("GET", "/admin/v1/users?limit=1000", &json!({})).await;
    let emails: Vec<&str> =
        listed["users"].as_array().unwrap().iter().map(|user| user["email"].as_str().unwrap()).collect();
    assert_eq!(emails.iter().collect::<BTreeSet<_>>().len(), emails.len());
    assert!(taken.iter().all(|email| emails.contains(&email.as_str())));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_written_anywhere_but_into_the_mail() {
    let folder = tempfile::tempdir().unwrap();
    config(folder.path(), &OPEN.replace("[log]", "[log]\nlevel = \"trace\""));
    let program = Program::start(folder.path());
    let auth = Auth(program.listen);
    let register = json!({"email": ANN, "password": PASSWORD, "name": "Ann"});
    assert_eq!(auth.post("/register", &register).await.0, 202);
    let outbox = folder.path().join("outbox");
    let verify = mail(&outbox, |mail| mail.contains("pages/verify#token=")).await;
    let verify = token_in(&verify);
    assert_eq!(auth.post("/verify-email", &json!({"token": verify})).await.0, 200);
    assert_eq!(auth.login(ANN, "Wrong horse 43").await.0, 401);
    let (_, granted) = auth.login(ANN, PASSWORD).await;
    let (_, refreshed) = auth.refresh(&granted["refresh_token"]).await;
    assert_eq!(auth.post("/password-resets", &json!({"email": ANN})).await.0, 202);
    let reset = mail(&outbox, |mail| mail.contains("pages/reset#token=")).await;
    let reset = token_in(&reset);
    let confirm = json!({"token": reset, "new_password": "Better horse 44"});
    assert_eq!(auth.post("/password-resets/confirm", &confirm).await.0, 204);
    assert_eq!(auth.post("/password-resets/confirm", &confirm).await.0, 400);
    let odd = auth.raw("POST", "/login", "", "{\"email\": 1, \"password\": \"Broken horse 45\"").await;
    assert_eq!(status(&odd), 400);
    let metrics =
        exchange(program.admin, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await;
    let log = program.stop_and_tell();
    assert!(log.contains("/auth/login"), "there is a log: {log}");
    let mut written =
        vec![("the log".to_owned(), log.into_bytes()), ("metrics".to_owned(), metrics.into_bytes())];
    let mut folders = vec![folder.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() && entry != outbox {
                folders.push(entry);
            } else if entry.is_file() {
                written.push((entry.display().to_string(), std::fs::read(&entry).unwrap()));
            }
        }
    }
    let audit = written.iter().find(|(name, _)| name.ends_with("audit.jsonl")).unwrap();
    let audit = String::from_utf8(audit.1.clone()).unwrap();
    for action in ["register", "verify_email", "login", "refresh", "request_password_reset", "reset_password"]
    {
        assert!(audit.contains(&format!("\"action\":\"{action}\"")), "{action}: {audit}");
    }
    let secrets = [
        PASSWORD,
        "Wrong horse 43",
        "Better horse 44",
        "Broken horse 45",
        verify,
        reset,
        granted["access_token"].as_str().unwrap(),
        granted["refresh_token"].as_str().unwrap(),
        refreshed["refresh_token"].as_str().unwrap(),
    ];
    for (place, bytes) in &written {
        for secret in secrets {
            assert!(crate::support::find(bytes, secret.as_bytes()).is_none(), "{secret} is in {place}");
        }
    }
}
