//! What the log says, and what no setting makes it say.

mod refused;

use crate::support::binary::Program;
use crate::support::neighbours::{Scripted, read_head};
use crate::support::{exchange, status};
use serde_json::json;
use tokio::io::AsyncWriteExt;

#[tokio::test(flavor = "multi_thread")]
async fn no_level_puts_a_credential_into_the_log() {
    let upstream = Scripted::start(|mut stream| async move {
        let head = read_head(&mut stream).await;
        let answer: &[u8] = match head.starts_with("GET /broken") {
            true => b"HTTP/1.1 200 OK\r\nSet-Cookie: session=hunter2\r\nbad name: x\r\n\r\n",
            false => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        };
        let _ = stream.write_all(answer).await;
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let route = format!(
        "[[routes]]\nname = \"all\"\nmatch = {{ path = \"/\" }}\nupstream = [\"http://{}\"]\n\
         token = {{ cookie = \"sess\", query = \"access_token\" }}\n",
        upstream.address
    );
    let config = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n[log]\nlevel = \"trace,pingora_proxy=trace\"\n\
         [store]\nurl = \"sled:./data\"\n{route}"
    );
    std::fs::write(folder.path().join("config.toml"), config).unwrap();
    let program = Program::start(folder.path());
    let (_, minted) = program.admin("POST", "/admin/v1/tokens", &json!({"sub": "alice"})).await;
    let token = minted["access_token"].as_str().unwrap();
    for (target, fields, want) in [
        ("/header".to_owned(), format!("Authorization: Bearer {token}"), 200),
        ("/cookie".to_owned(), format!("Cookie: sess={token}"), 200),
        (format!("/query?access_token={token}"), "Accept: */*".to_owned(), 401),
        ("/broken".to_owned(), format!("Authorization: Bearer {token}"), 502),
        (format!("/bad?access_token={token}^"), "Accept: */*".to_owned(), 400),
        (format!("/fragment#{token}"), "Accept: */*".to_owned(), 400),
    ] {
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: app.test\r\n{fields}\r\nConnection: close\r\n\r\n");
        // No UTF-8: the engine gives such a target up itself, and says so.
        let request: Vec<u8> = request.bytes().map(|byte| if byte == b'^' { 0xff } else { byte }).collect();
        let answer = exchange(program.listen, request).await;
        assert_eq!(status(&answer), want, "{target}: {answer}");
    }
    let credential = std::fs::read_to_string(folder.path().join("data/admin.token")).unwrap();
    let log = program.stop_and_tell();
    assert!(log.contains("a header line that is malformed") && log.contains("/cookie"), "{log}");
    let signature = token.rsplit('.').next().unwrap();
    for secret in [signature, credential.trim(), "hunter2"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarded_fields_that_count_for_nothing_are_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let text = |proxies: &str| {
        format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\ntrusted_proxies = [{proxies}]\n\
             [store]\nurl = \"sled:./data\"\n"
        )
    };
    for (proxies, want) in [("", 1), ("\"10.0.0.1\"", 0)] {
        std::fs::write(&file, text(proxies)).unwrap();
        let program = Program::start(folder.path());
        for path in ["/", "/auth/password-requirements", "/"] {
            for name in ["X-Forwarded-For: 6.6.6.6", "Forwarded: for=6.6.6.6", "X-Real-IP: 6.6.6.6"] {
                let request =
                    format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n{name}\r\nConnection: close\r\n\r\n");
                exchange(program.listen, request).await;
            }
        }
        let log = program.stop_and_tell();
        assert_eq!(log.matches("server.trusted_proxies is empty").count(), want, "{log}");
        assert!(!log.contains("6.6.6.6"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_a_reload_that_a_signal_asked_for_is_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let text =
        "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n[store]\nurl = \"sled:./data\"\n";
    std::fs::write(&file, text).unwrap();
    let program = Program::start(folder.path());
    std::fs::write(&file, text.replace("listen =", "lisen =")).unwrap();
    program.hang_up();
    let told = program.until_it_says("the configuration in force stays");
    assert!(told.contains("config.toml:2: server.lisen: found an unknown key"), "{told}");
    std::fs::write(&file, text.replace("[store]", "threads = 3\n[store]")).unwrap();
    program.hang_up();
    program.until_it_says("in force from the next start on: server.threads");
}
