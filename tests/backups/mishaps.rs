//! What goes wrong with backups in the hands of people: full disks, keys that were left behind, journals that are not
//! there, stores that are named the wrong way round.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use palisade_testing::folders::names_in;
use serde_json::{Value, json};

use super::program::{SECRETS, account, beside, config, mint, offline, said};
use crate::support::Upstream;
use crate::support::binary::{Program, palisade, run};

/// The names in a folder that begin like this.
fn names(folder: &Path, begin: &str) -> Vec<String> {
    names_in(folder).into_iter().filter(|name| name.starts_with(begin)).collect()
}

/// A folder with a gateway that has an account.
async fn begun(upstream: &Upstream, more: &str) -> (tempfile::TempDir, Program) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.toml"), config(upstream, more)).unwrap();
    let program = Program::start(folder.path());
    account(&program, "ann").await;
    (folder, program)
}

fn client(folder: &Path, program: &Program) -> std::path::PathBuf {
    let file = folder.join("client.toml");
    fs::write(&file, format!("server.admin = \"{}\"\nstore.url = \"sled:./data\"\n", program.admin)).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_without_room_names_its_file_and_leaves_nothing() {
    let upstream = Upstream::start().await;
    let (folder, program) = begun(&upstream, "").await;
    let folder = folder.path();
    let client = client(folder, &program);
    // The system writes no file that is longer than so many blocks.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ && ulimit -f 1 && exec \"$0\" backup full.palisade --config \"$1\""]);
    command.arg(env!("CARGO_BIN_EXE_palisade")).arg(&client).current_dir(folder);
    let refused = run(command.env_remove("PALISADE_ADMIN_TOKEN"), "");
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    let why = said(&refused);
    assert!(why.contains("full.palisade.") && why.contains(".part: File too large"), "{why}");
    assert_eq!(names(folder, "full.palisade"), [""; 0]);

    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = palisade();
    command.args(["backup", "-", "--config"]).arg(&client).current_dir(folder).stdin(Stdio::null());
    let refused = command.stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let why = said(&refused);
    assert!(why.contains("standard output: No space left on device"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_backups_to_one_name_at_once_one_is_made_and_it_is_whole() {
    let upstream = Upstream::start().await;
    let (folder, program) = begun(&upstream, "").await;
    let folder = folder.path();
    let client = client(folder, &program);
    for round in 0..3 {
        let name = format!("{round}.palisade");
        fs::write(folder.join(format!("{name}.00112233.part")), "what a killed one has left").unwrap();
        let begin = |_| {
            let mut command = palisade();
            command.args(["backup", &name, "--config"]).arg(&client).current_dir(folder);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let running: Vec<_> = (0..4).map(begin).collect();
        let ended: Vec<Output> = running.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
        let words: Vec<String> = ended.iter().map(said).collect();
        // All may find another one under way and leave it to that.
        assert!(ended.iter().filter(|output| output.status.success()).count() <= 1, "{words:?}");
        let mut told = words.iter().zip(&ended).filter(|(_, output)| !output.status.success());
        let is_told =
            |why: &str| why.contains("another process is making") || why.contains("replaces no file");
        assert!(told.all(|(why, _)| is_told(why)), "{words:?}");
        if ended.iter().all(|output| !output.status.success()) {
            let again =
                run(palisade().args(["backup", &name, "--config"]).arg(&client).current_dir(folder), "");
            assert!(again.status.success(), "{}", said(&again));
        }
        assert_eq!(names(folder, &name), [name.as_str()]);
        assert_eq!(offline(folder, &["backup", "verify", &name]).status.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_a_backup_needs_are_told_before_anything_of_it_is_written() {
    let upstream = Upstream::start().await;
    let (folder, program) = begun(&upstream, "").await;
    let folder = folder.path();
    assert!(program.stop().success());
    let file = folder.join("one.palisade");
    let file = file.to_str().unwrap();
    assert!(offline(folder, &["backup", file]).status.success());
    let all = ["vault.key", "opaque.key", "signing-keys.json"];
    let needs = "needs         admin.token, opaque.key, plugins.key, signing-keys.json, vault.key\n";
    let here = said(&offline(folder, &["backup", "inspect", file]));
    assert!(here.contains(needs) && here.contains("lacking here  none"), "{here}");

    for missing in all {
        let files: Vec<&str> = SECRETS.into_iter().filter(|file| *file != missing).collect();
        let other = beside(folder, &files);
        let other = other.path();
        // Without the vault's key nothing tells either that the backup is one's own.
        let restore = ["restore", file, "--accept-foreign"];
        let inspected = said(&offline(other, &["backup", "inspect", file]));
        assert!(inspected.contains(&format!("lacking here  {missing}: ")), "{inspected}");
        let refused = offline(other, &restore);
        let why = said(&refused);
        assert_eq!(refused.status.code(), Some(1), "{why}");
        assert!(why.contains("--accept-missing-keys") && why.contains(missing), "{why}");
        assert!(all.iter().filter(|name| why.contains(*name)).count() == 1, "and no other: {why}");
        assert!(!other.join("data/db").exists() && !other.join("data").join(missing).exists());

        // One that cannot be read, or is none, helps nothing.
        for damage in [&|path: &Path| fs::create_dir(path), &|path: &Path| fs::write(path, "damaged")]
            as [&dyn Fn(&Path) -> std::io::Result<()>; 2]
        {
            let path = other.join("data").join(missing);
            damage(&path).unwrap();
            let refused = offline(other, &[&restore[..], &["--accept-missing-keys"]].concat());
            assert_eq!(refused.status.code(), Some(1));
            assert!(said(&refused).contains(missing), "{}", said(&refused));
            assert!(!other.join("data/db").exists());
            let inspected = said(&offline(other, &["backup", "inspect", file]));
            assert!(inspected.contains("lacking here  ") && inspected.contains(missing), "{inspected}");
            let _ = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
        }

        let taken = offline(other, &[&restore[..], &["--accept-missing-keys"]].concat());
        assert!(taken.status.success() && said(&taken).contains(missing), "{}", said(&taken));
        // They can be put back until the start.
        fs::copy(folder.join("data").join(missing), other.join("data").join(missing)).unwrap();
        drop(Program::start(other));
    }

    // Another key where one is needed.
    let other = beside(folder, &SECRETS);
    fs::write(other.path().join("data/opaque.key"), "A".repeat(43)).unwrap();
    let refused = said(&offline(other.path(), &["restore", file]));
    assert!(refused.contains("opaque.key is another one"), "{refused}");
    assert!(!other.path().join("data/db").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_without_a_journal_is_not_taken_for_one_and_what_was_read_is_told() {
    let upstream = Upstream::start().await;
    let (folder, program) = begun(&upstream, "[backup]\njournal = \"ends\"\n").await;
    let folder = folder.path();
    let id = account(&program, "bob").await;
    let backup = |name: &str| {
        let file = folder.join(name).to_str().unwrap().to_owned();
        assert!(program.command(&["backup", &file]).status.success());
        file
    };
    let file = backup("one.palisade");
    let erased = program.admin("DELETE", &format!("/admin/v1/users/{id}"), &Value::Null).await;
    assert_eq!(erased.0, 204);
    assert!(program.stop().success());
    let (ends, empty) = (folder.join("ends"), folder.join("empty"));
    fs::create_dir(&empty).unwrap();
    fs::write(empty.join("ends.txt"), "no journal").unwrap();
    fs::write(folder.join("nothing"), "").unwrap();
    let [ends, empty, nothing, wrong] = [&ends, &empty, &folder.join("nothing"), &folder.join("config.toml")]
        .map(|path| path.to_str().unwrap().to_owned());
    let restore = |arguments: &[&str]| {
        let restored = beside(folder, &SECRETS);
        let output = offline(restored.path(), &[&["restore", &file][..], arguments].concat());
        (output.status.success(), said(&output), restored.path().join("data/db").exists())
    };
    for paths in [&["--ends", &*empty][..], &["--ends", &ends, "--ends", &empty], &["--ends", &nothing]] {
        let (is_done, words, is_written) = restore(paths);
        assert!(!is_done && !is_written && words.contains("holds no journal of ends"), "{words}");
        assert!(words.contains("--accept-no-ends"), "{words}");
        let (is_done, words, _) = restore(&[paths, &["--accept-no-ends"]].concat());
        assert!(is_done && words.contains("holds no journal of ends, as accepted"), "{words}");
    }
    let (is_done, words, is_written) = restore(&["--ends", &wrong]);
    assert!(!is_done && !is_written && words.contains("it is no journal of ends"), "{words}");
    // The same folder twice is one journal.
    let (is_done, words, _) = restore(&["--ends", &ends, "--ends", &ends]);
    let year = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()[..4].to_owned();
    assert!(
        is_done && words.contains(&format!("ends from {year}")) && words.contains("in 1 files"),
        "{words}"
    );
    let (is_done, words, _) = restore(&["--ends", &ends, "--json"]);
    let report: Value = serde_json::from_str(&words[..=words.rfind('}').unwrap()]).unwrap();
    assert!(is_done && report["ends_files"] == 1 && report["ends_from"].as_u64().unwrap() > 1_700_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_is_named_wrongly_closes_no_store() {
    let upstream = Upstream::start().await;
    let (folder, program) = begun(&upstream, "").await;
    let folder = folder.path();
    assert!(program.stop().success());
    let refused = |arguments: &[&str], why: &str| {
        let output = offline(folder, &[&["migrate"][..], arguments].concat());
        let words = said(&output);
        assert!(!output.status.success() && words.contains(why), "{arguments:?}: {words}");
    };
    let serves = || drop(Program::start(folder));
    refused(&["sled:data", "sled:./data"], "are one store");
    refused(&["sled:other", "sled:data"], "there is no store at");
    serves();
    // A store that holds nothing yet, and one of another gateway.
    let made = palisade::edge::store::SledStore::open(folder.join("empty")).unwrap();
    made.close();
    refused(&["sled:empty", "sled:data"], "holds no records");
    let (second, program) = begun(&upstream, "").await;
    assert!(program.stop().success());
    let second = format!("sled:{}", second.path().join("data").display());
    refused(&["sled:data", &second], "is not empty");
    refused(&["--give-up", "sled:data"], "is not closed for writing, and nothing was changed");
    serves();

    let moved = offline(folder, &["migrate", "sled:data", "sled:other"]);
    assert!(moved.status.success(), "{}", said(&moved));
    refused(&["sled:data", "sled:other"], "Set store.url to that one");
    refused(&["sled:data", "sled:third"], "closed already");
    refused(&["sled:other", "sled:data"], "is closed for writing (its records were moved to sled:");
    refused(&["--give-up", "sled:other"], "Name the store that is moved");
    let given_up = offline(folder, &["migrate", "--give-up", "sled:data"]);
    assert!(given_up.status.success(), "{}", said(&given_up));
    let words = String::from_utf8_lossy(&given_up.stderr);
    assert!(words.contains("warning: ") && words.contains("palisade token revoke --before now"), "{words}");
    serves();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_a_closed_store_is_refused_in_clear_words() {
    let upstream = Upstream::start().await;
    let (folder, program) = begun(&upstream, "").await;
    let folder = folder.path();
    let token = mint(&program, "ann").await;
    assert!(program.stop().success());
    assert!(offline(folder, &["migrate", "sled:data", "sled:other"]).status.success());
    let program = Program::start_with(folder, &["--accept-closed-source"]);
    assert!(
        program.began.contains("the store is closed for writing: its records were moved to"),
        "{}",
        program.began
    );
    let credential = fs::read_to_string(folder.join("data/admin.token")).unwrap();
    let body = json!({"token": token}).to_string();
    let request = format!(
        "POST /admin/v1/revocations HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {credential}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        program.admin,
        body.len()
    );
    let answer = crate::support::exchange(program.admin, request).await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.to_lowercase().contains("\r\nretry-after: 60\r\n"),
        "{answer}"
    );
    assert!(answer.contains("nothing was changed: ") && answer.contains("closed for writing"), "{answer}");
    assert!(!answer.contains("try again"), "{answer}");
    let log = program.until_it_says("the store refused a request");
    assert!(log.contains("migrate --give-up"), "{log}");
    // Background work has said its word by now, and says it once.
    assert!(log.lines().filter(|line| line.contains("WARN")).count() < 5, "{log}");
}
