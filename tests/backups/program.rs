//! Backups of the real program: while it serves, of its store alone, and into a new folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::Upstream;
use crate::support::binary::{Program, palisade, refused, run};

pub(super) fn config(upstream: &Upstream, more: &str) -> String {
    format!(
        "public_url = \"http://app.test\"\n[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n{more}\
         [[routes]]\nname = \"all\"\nmatch = {{ path = \"/\" }}\nupstream = [\"http://{}\"]\n",
        upstream.address
    )
}

/// The program with these arguments, for the configuration in `folder`.
pub(super) fn offline(folder: &Path, arguments: &[&str]) -> Output {
    run(palisade().args(arguments).arg("--config").arg(folder.join("config.toml")).current_dir(folder), "")
}

pub(super) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

pub(super) async fn mint(program: &Program, sub: &str) -> String {
    let (code, answer) = program.admin("POST", "/admin/v1/tokens", &json!({"sub": sub})).await;
    assert_eq!(code, 201, "{answer}");
    answer["access_token"].as_str().unwrap().to_owned()
}

pub(super) async fn account(program: &Program, name: &str) -> String {
    let user = json!({"username": name, "generate_password": true});
    let (code, answer) = program.admin("POST", "/admin/v1/users", &user).await;
    assert_eq!(code, 201, "{answer}");
    answer["id"].as_str().unwrap().to_owned()
}

/// A folder with the same configuration, and these files of the data folder of another one.
pub(super) fn beside(folder: &Path, files: &[&str]) -> tempfile::TempDir {
    let other = tempfile::tempdir().unwrap();
    fs::copy(folder.join("config.toml"), other.path().join("config.toml")).unwrap();
    fs::create_dir(other.path().join("data")).unwrap();
    for file in files {
        fs::copy(folder.join("data").join(file), other.path().join("data").join(file)).unwrap();
    }
    other
}

pub(super) const SECRETS: [&str; 4] = ["vault.key", "opaque.key", "signing-keys.json", "admin.token"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_backup_brings_back_is_cut_off_unless_the_operator_refuses_that() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("config.toml"), config(&upstream, "[backup]\njournal = \"ends\"\n")).unwrap();
    let program = Program::start(folder);
    let (kept, erased) = (account(&program, "ann").await, account(&program, "bob").await);
    let token = mint(&program, "ann").await;
    assert_eq!(program.status("/", &token).await, 200);
    let file = folder.join("one.palisade");
    let file = file.to_str().unwrap();
    let made = program.command(&["backup", file]);
    assert!(made.status.success(), "{}", said(&made));
    assert!(said(&made).contains("from the running gateway"), "{}", said(&made));
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = program.command(&["backup", file]);
    assert!(!again.status.success() && said(&again).contains("replaces no file"), "{}", said(&again));
    // Since then an account has gone and the token was revoked.
    assert_eq!(program.admin("DELETE", &format!("/admin/v1/users/{erased}"), &Value::Null).await.0, 204);
    let revoked = json!({"token": token});
    assert_eq!(program.admin("POST", "/admin/v1/revocations", &revoked).await.0, 201);
    assert_eq!(program.status("/", &token).await, 401);
    assert!(program.stop().success());

    let own = offline(folder, &["backup", "verify", file]);
    assert_eq!(own.status.code(), Some(0), "{}", said(&own));
    // Another installation, and one without a key.
    for files in [&[][..], &["opaque.key"]] {
        let stranger = beside(folder, files);
        let foreign = offline(stranger.path(), &["backup", "verify", file]);
        assert_eq!(foreign.status.code(), Some(3), "{}", said(&foreign));
        let refused = offline(stranger.path(), &["restore", file]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(said(&refused).contains("--accept-foreign"), "{}", said(&refused));
        assert!(!stranger.path().join("data/db").exists(), "nothing was changed");
        let taken = offline(stranger.path(), &["restore", file, "--accept-foreign", "--accept-missing-keys"]);
        assert!(taken.status.success(), "{}", said(&taken));
    }
    let mut damaged = fs::read(file).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(folder.join("damaged"), damaged).unwrap();
    for command in
        [&["backup", "verify", "damaged"][..], &["restore", "damaged"], &["backup", "inspect", "damaged"]]
    {
        let other = beside(folder, &SECRETS);
        fs::copy(folder.join("damaged"), other.path().join("damaged")).unwrap();
        let refused = offline(other.path(), command);
        assert_eq!(refused.status.code(), Some(1));
        assert!(said(&refused).contains("damaged at byte"), "{}", said(&refused));
    }

    let ends = folder.join("ends");
    let ends = ends.to_str().unwrap();
    for (arguments, token_is, bob_is) in [
        (&["restore", file][..], 401, 200),
        (&["restore", file, "--without-cutoff"], 200, 200),
        // What the journal knows has ended stays so, whatever else comes back.
        (&["restore", file, "--without-cutoff", "--ends", ends], 401, 404),
        (&["restore", file, "--ends", ends], 401, 404),
    ] {
        let restored = beside(folder, &SECRETS);
        let done = offline(restored.path(), arguments);
        assert!(done.status.success(), "{}", said(&done));
        // It was made by hand, for the keys.
        let mode = fs::metadata(restored.path().join("data")).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "other users could read what was restored");
        let twice = offline(restored.path(), arguments);
        assert!(!twice.status.success() && said(&twice).contains("not empty"), "{}", said(&twice));
        let program = Program::start(restored.path());
        assert_eq!(program.status("/", &token).await, token_is, "{arguments:?}");
        assert_eq!(program.status("/", &mint(&program, "ann").await).await, 200);
        for (id, expected) in [(&kept, 200), (&erased, bob_is)] {
            assert_eq!(
                program.admin("GET", &format!("/admin/v1/users/{id}"), &Value::Null).await.0,
                expected
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_store_at_rest_is_the_same_and_a_closed_store_serves_by_a_word_only() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("config.toml"), config(&upstream, "")).unwrap();
    let program = Program::start(folder);
    let id = account(&program, "ann").await;
    let token = mint(&program, "ann").await;
    let online = program.command(&["backup", folder.join("online").to_str().unwrap()]);
    assert!(online.status.success(), "{}", said(&online));
    assert!(program.stop().success());
    let offline_made = offline(folder, &["backup", "offline"]);
    assert!(offline_made.status.success(), "{}", said(&offline_made));
    let kinds = |file: &str| {
        let looked = offline(folder, &["backup", "inspect", "--json", file]);
        let looked: Value = serde_json::from_slice(&looked.stdout).unwrap();
        looked["kinds"].clone()
    };
    assert_eq!(kinds("online"), kinds("offline"));

    let moved = offline(folder, &["migrate", "sled:data", "sled:other"]);
    assert!(moved.status.success(), "{}", said(&moved));
    assert!(said(&moved).contains("compared each of them"), "{}", said(&moved));
    let mut start = palisade();
    start.args(["run", "--config"]).arg(folder.join("config.toml"));
    let why = refused(&mut start);
    assert!(why.contains("--accept-closed-source") && why.contains("--give-up"), "{why}");
    let program = Program::start_with(folder, &["--accept-closed-source"]);
    assert_eq!(program.status("/", &token).await, 200, "what was valid is served");
    let revoked = program.admin("POST", "/admin/v1/revocations", &json!({"token": token})).await;
    assert_eq!(revoked.0, 503, "{}", revoked.1);
    assert!(program.stop().success());

    let text = fs::read_to_string(folder.join("config.toml")).unwrap();
    fs::write(folder.join("config.toml"), format!("store.url = \"sled:other\"\n{text}")).unwrap();
    let program = Program::start(folder);
    assert_eq!(
        program.status("/", &token).await,
        200,
        "the new store serves with the secrets of the former one"
    );
    drop(program);
    fs::write(folder.join("config.toml"), &text).unwrap();
    let given_up = offline(folder, &["migrate", "--give-up", "sled:data"]);
    assert!(said(&given_up).contains("takes writes again"), "{}", said(&given_up));
    let program = Program::start(folder);
    assert_eq!(program.admin("GET", &format!("/admin/v1/users/{id}"), &Value::Null).await.0, 200);
    account(&program, "eve").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_not_acknowledged_while_the_journal_cannot_be_written() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("config.toml"), config(&upstream, "[backup]\njournal = \"ends\"\n")).unwrap();
    fs::write(folder.join("ends"), "").unwrap();
    let mut start = palisade();
    let start = start.args(["run", "--config"]).arg(folder.join("config.toml")).current_dir(folder);
    let why = refused(start);
    assert!(why.contains("backup.journal"), "{why}");
    fs::remove_file(folder.join("ends")).unwrap();

    let program = Program::start(folder);
    let ids = [account(&program, "ann").await, account(&program, "bob").await];
    let token = mint(&program, "ann").await;
    let file = folder.join("one.palisade");
    assert!(program.command(&["backup", file.to_str().unwrap()]).status.success());
    fs::remove_dir(folder.join("ends")).unwrap();
    fs::write(folder.join("ends"), "").unwrap();
    let revocation = json!({"token": token});
    for _ in 0..2 {
        let (code, answer) = program.admin("POST", "/admin/v1/revocations", &revocation).await;
        assert_eq!((code, &answer["code"]), (503, &"store_unavailable".into()), "{answer}");
        assert!(answer["detail"].as_str().unwrap().contains("backup.journal"), "{answer}");
    }
    assert_eq!(program.status("/", &token).await, 401, "it is in force");
    let erase = |id: &str| format!("/admin/v1/users/{id}");
    assert_eq!(program.admin("DELETE", &erase(&ids[0]), &Value::Null).await.0, 503);
    assert!(program.metric("palisade_backup_journal_pending").await >= 3);
    account(&program, "eve").await;
    assert_eq!(program.metric("palisade_revocations_stale").await, 0);

    fs::remove_file(folder.join("ends")).unwrap();
    fs::create_dir(folder.join("ends")).unwrap();
    let told = program.until_it_says("backup.journal is written again");
    assert_eq!(told.matches("backup.journal cannot be written: changes").count(), 1, "{told}");
    assert_eq!(program.metric("palisade_backup_journal_pending").await, 0);
    assert_eq!(program.admin("DELETE", &erase(&ids[1]), &Value::Null).await.0, 204);
    assert!(program.stop().success());

    let restored = beside(folder, &SECRETS);
    let ends = folder.join("ends");
    let arguments = ["restore", file.to_str().unwrap(), "--without-cutoff", "--ends", ends.to_str().unwrap()];
    let done = offline(restored.path(), &arguments);
    assert!(done.status.success(), "{}", said(&done));
    let program = Program::start(restored.path());
    assert_eq!(program.status("/", &token).await, 401);
    for id in &ids {
        assert_eq!(program.admin("GET", &erase(id), &Value::Null).await.0, 404);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_takes_the_journals_of_several_gateways() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let journal = |name: &str| {
        let more = format!("[backup]\njournal = \"{name}\"\n");
        fs::write(folder.join("config.toml"), config(&upstream, &more)).unwrap();
    };
    journal("a");
    let program = Program::start(folder);
    let ids =
        [account(&program, "ann").await, account(&program, "bob").await, account(&program, "eve").await];
    let file = folder.join("one.palisade");
    assert!(program.command(&["backup", file.to_str().unwrap()]).status.success());
    let erase = |id: &str| format!("/admin/v1/users/{id}");
    assert_eq!(program.admin("DELETE", &erase(&ids[0]), &Value::Null).await.0, 204);
    assert!(program.stop().success());
    journal("b");
    let program = Program::start(folder);
    assert_eq!(program.admin("DELETE", &erase(&ids[1]), &Value::Null).await.0, 204);
    assert!(program.stop().success());

    let [a, b] = ["a", "b"].map(|name| folder.join(name).to_str().unwrap().to_owned());
    for (journals, found) in
        [(&["--ends", &*a][..], [404, 200, 200]), (&["--ends", &*a, "--ends", &*b], [404, 404, 200])]
    {
        let restored = beside(folder, &SECRETS);
        let arguments = [&["restore", file.to_str().unwrap()], journals].concat();
        let done = offline(restored.path(), &arguments);
        assert!(done.status.success(), "{}", said(&done));
        let program = Program::start(restored.path());
        for (id, expected) in ids.iter().zip(found) {
            let (code, _) = program.admin("GET", &erase(id), &Value::Null).await;
            assert_eq!(code, expected, "{journals:?}");
        }
    }
}
