//! What commands do once their words are not read any more, and when they cannot be written.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, pipe};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::json;

use crate::support::binary::{Program, palisade};
use crate::support::{PATIENCE, exchange, status};

const CONFIG: &str = "public_url = \"http://app.test\"\n[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\
                      [[routes]]\nname = \"app\"\nupstream = [\"http://127.0.0.1:9\"]\nmatch.host = \"app.test\"\nauth = \"none\"\n";
/// Of `palisade password hash`, for the word on standard input.
const WORD: &str = "correct horse battery staple";

/// An end of a pipe whose reader has left.
fn left() -> Stdio {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    writer.into()
}

/// Where nothing can be written: a disk that is full.
fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

fn ended(command: &mut Command, stdout: Stdio, stderr: Stdio) -> Output {
    use std::io::Write as _;
    let mut child = command.stdin(Stdio::piped()).stdout(stdout).stderr(stderr).spawn().unwrap();
    // Most commands read none of it.
    let _ = child.stdin.take().unwrap().write_all(WORD.as_bytes());
    child.wait_with_output().unwrap()
}

/// Commands that print, about the gateway of this folder or about none.
fn commands(folder: &Path, program: &Program) -> Vec<Command> {
    let backup = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/backup-1/backup.palisade");
    let client = folder.join("client.toml");
    fs::write(&client, format!("server.admin = \"{}\"\nstore.url = \"sled:./data\"\n", program.admin))
        .unwrap();
    let alone = [
        &["backup", "inspect", backup][..],
        &["backup", "inspect", "--json", backup],
        &["backup", "verify", backup],
        &["check"],
        &["routes"],
        &["mail", "preview", "--list"],
        &["password", "generate"],
        &["password", "hash", "--cost", "4"],
        &["password", "verify", "$2b$04$abcdefghijklmnopqrstuuD9lzHwz1RmX6g1DPxYhXwR0bjwhvT1C"],
        &["vault", "key"],
    ];
    let asking = [
        &["users", "list"][..],
        &["users", "export"],
        &["users", "sessions", "ann"],
        &["connections", "list"],
        &["keys", "list"],
        &["clock"],
        &["store", "status"],
        &["token", "mint", "--sub", "ann"],
    ];
    let of = |arguments: &&[&str], config: &Path| {
        let mut command = palisade();
        command.args(*arguments).arg("--config").arg(config).current_dir(folder);
        command
    };
    let config = folder.join("config.toml");
    let alone = alone.iter().map(|arguments| of(arguments, &config));
    alone.chain(asking.iter().map(|arguments| of(arguments, &client))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_has_left_changes_no_end_of_a_command_and_a_full_disk_fails_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("config.toml"), CONFIG).unwrap();
    let program = Program::start(folder);
    let user = json!({"username": "ann", "generate_password": true});
    assert_eq!(program.admin("POST", "/admin/v1/users", &user).await.0, 201);
    for mut command in commands(folder, &program) {
        let read = ended(&mut command, Stdio::piped(), Stdio::piped());
        assert!(!read.stdout.is_empty(), "{command:?} prints: {}", String::from_utf8_lossy(&read.stderr));
        for (stdout, stderr) in [(left(), Stdio::piped()), (Stdio::piped(), left()), (left(), left())] {
            let unread = ended(&mut command, stdout, stderr);
            let said = String::from_utf8_lossy(&unread.stderr);
            assert_eq!(unread.status.code(), read.status.code(), "{command:?}: {said}");
            assert!(!said.contains("panicked"), "{command:?}: {said}");
        }
        let unwritten = ended(&mut command, full(), Stdio::piped());
        let said = String::from_utf8_lossy(&unwritten.stderr);
        assert_eq!(unwritten.status.code(), Some(1), "{command:?}: {said}");
        assert!(said.contains("standard output cannot be written: "), "{command:?}: {said}");
    }
}

/// What is long says how far it is. That must not end it in the middle.
#[test]
fn a_restore_is_done_whether_its_words_are_read_or_not() {
    let outer = tempfile::tempdir().unwrap();
    let backup = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/backup-1/backup.palisade");
    let restore = |folder: &Path, stderr: Stdio| {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("config.toml"), CONFIG).unwrap();
        let mut command = palisade();
        command.args(["restore", backup, "--accept-foreign", "--accept-missing-keys"]);
        ended(command.arg("--config").arg(folder.join("config.toml")).current_dir(folder), left(), stderr)
    };
    // It warns on standard error.
    let read = restore(&outer.path().join("a"), Stdio::piped());
    assert!(read.status.success() && !read.stderr.is_empty(), "{}", String::from_utf8_lossy(&read.stderr));
    assert!(restore(&outer.path().join("b"), left()).status.success());
    assert!(outer.path().join("b/data/db").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_outlives_the_reader_of_its_log() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.toml"), CONFIG).unwrap();
    let mut command = palisade();
    command.args(["run", "--config"]).arg(folder.path().join("config.toml"));
    let mut child = command.stdin(Stdio::null()).stdout(left()).stderr(Stdio::piped()).spawn().unwrap();
    let mut listen = None;
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut log = String::new();
    while !log.contains("admin and metrics at") {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).unwrap() > 0, "it did not start: {log}");
        if let Some((_, address)) = line.split_once("serving http://") {
            listen = Some(address.trim().parse().unwrap());
        }
        log += &line;
    }
    drop(lines);
    // Each is logged.
    for _ in 0..3 {
        let request = "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n".to_owned();
        let answer = tokio::time::timeout(PATIENCE, exchange(listen.unwrap(), request)).await.unwrap();
        assert_eq!(status(&answer), 502, "{answer}");
    }
    assert!(child.try_wait().unwrap().is_none(), "it serves on");
    child.kill().unwrap();
    child.wait().unwrap();
}
