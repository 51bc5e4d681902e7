//! What the program says of a real database: `palisade check --connect`, and a start over a store that is closed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use palisade_testing::postgres::{Cluster, Pooler};

use super::commits::until;
use super::place::prepared;
use crate::support::binary::{Program, palisade, refused, run};

/// Writes a configuration with a store at `url`, with these keys beside it and those in one of its routes.
fn configure(folder: &Path, url: &str, keys: &str, of_lax: &str) {
    fs::write(folder.join("vault"), "A".repeat(43)).unwrap();
    let route = |name: &str, more: &str| {
        format!(
            "[[routes]]\nname = \"{name}\"\nmatch.path = \"/{name}\"\nupstream = [\"http://127.0.0.1:9\"]\n{more}\n"
        )
    };
    let text = format!(
        "public_url = \"http://app.test\"\n[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\
         [store]\nurl = {url:?}\n{keys}\n[vault]\nkeys = [\"file:vault\"]\n{}{}{}",
        route("app", ""),
        route("lax", of_lax),
        route("public", "auth = \"none\"")
    );
    fs::write(folder.join("config.toml"), text).unwrap();
}

/// Whether `check --connect` is content, what it prints, and the lines that it says about the store.
fn checked(url: &str, keys: &str) -> (bool, String, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path(), url, keys, "fail = \"open\"");
    let mut command = palisade();
    command.args(["check", "--connect", "--config"]).arg(folder.path().join("config.toml"));
    let output = run(&mut command, "");
    let file = folder.path().join("config.toml").display().to_string();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&file, "FILE");
    let said = text(output.stderr);
    let about_store = said.lines().filter(|line| line.contains("store.")).map(str::to_owned).collect();
    (output.status.success(), text(output.stdout), about_store)
}

/// A server that keeps what it acknowledges, unlike those of other tests.
fn durable() -> palisade_testing::postgres::ClusterPlan {
    Cluster::plan().set("fsync", "on").set("full_page_writes", "on")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_says_what_a_failover_means_and_what_would_be_lost() {
    let cluster = durable().start();
    let database = cluster.database().await;
    let (good, printed, said) = checked(&database.url(), "max_staleness = \"3s\"");
    let no_schema = "warning: FILE: store.url: the schema of the database is not made yet, or is older: the next start brings it up to date";
    assert!(good && said == [no_schema], "{said:#?}");
    let failover = "FILE: store.max_staleness = 3s: a failover of the database takes a minute or two as a rule. Until it is \
                    over, nothing is signed in, refreshed or revoked (503); from 3s on, requests with a token or a session \
                    are refused with 503 and what they have opened is ended, on app (fail = \"closed\"); tokens go on being \
                    believed on lax (fail = \"open\"), those too that another replica revokes meanwhile";
    assert!(printed.lines().any(|line| line == failover), "{printed}");

    let database = prepared(&cluster).await;
    let (good, _, said) = checked(&database.url(), "");
    assert!(good && said.is_empty(), "{said:#?}");

    let standby = cluster.standby("second");
    let client = database.client().await;
    until(&client, "SELECT count(*) FROM pg_stat_replication", "1").await;
    let (good, _, said) = checked(&database.url(), "");
    let waits_for_none = "warning: FILE: store.url: the database has a standby and waits for none (synchronous_standby_names is empty): a \
         failover loses what the standby had not received, acknowledged revocations among it. Palisade refuses tokens after \
         such a failover until an operator's word; to lose nothing, name standbys, such as synchronous_standby_names = \
         'ANY 1 (*)'";
    assert!(good && said == [waits_for_none], "{said:#?}");

    let (_, _, said) = checked(&standby.database_named(&database.name).url(), "");
    let read_only = "warning: FILE: store.url: the database is read-only: a standby, or a primary that takes no writes. Nothing can be \
         served";
    assert_eq!(said, [read_only]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_fails_where_the_database_cannot_be_used_and_says_why() {
    let cluster = durable().hba("host all changer 127.0.0.1/32 scram-sha-256").start();
    let database = prepared(&cluster).await;
    let client = database.client().await;
    client.batch_execute("CREATE ROLE changer LOGIN PASSWORD 'first'").await.unwrap();
    let secret = tempfile::tempdir().unwrap();
    let file = secret.path().join("password");
    fs::write(&file, "hunter2hunter2").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let place = database.address;
    let url = format!("postgres://changer@{place}/{}", database.name);
    let (good, _, said) = checked(&url, &format!("password = \"file:{}\"", file.display()));
    let refused = format!(
        "FILE: store.url: no connection to the database at {place}: the database refused the user or the password of \
         store.url (SQLSTATE 28P01: password authentication failed for user \"changer\")"
    );
    assert!(!good && said == [refused], "{said:#?}");

    let (good, _, said) = checked(&format!("{}?sslmode=require", database.url()), "");
    let no_tls = format!(
        "FILE: store.url: no connection to the database at {place}: error performing TLS handshake: server does not support \
         TLS; switch TLS on in the database, or say sslmode=disable in store.url where the network is trusted"
    );
    assert!(!good && said == [no_tls], "{said:#?}");

    let (good, _, said) = checked(&format!("postgres://palisade@{place}/elsewhere"), "");
    let missing = format!(
        "FILE: store.url: no connection to the database at {place}: the database that store.url names does not exist \
         (SQLSTATE 3D000: database \"elsewhere\" does not exist)"
    );
    assert!(!good && said == [missing], "{said:#?}");
    cluster.stop();
    let (good, _, said) = checked(&database.url(), "");
    let gone = format!(
        "FILE: store.url: no connection to the database at {place}: error connecting to server: Connection refused"
    );
    assert!(!good && said.len() == 1 && said[0].starts_with(&gone), "{said:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_counts_the_connections_of_all_replicas_and_notices_a_pooler() {
    let cluster = durable().set("max_connections", "40").start();
    let database = prepared(&cluster).await;
    let client = database.client().await;
    let register = "INSERT INTO palisade.replicas (id, name, program, formats, position, confirms, lease_ms, fail_open, key_ring) \
                    SELECT gen_random_uuid(), 'replica ' || n, 1, '{}', 0, 1, 2000, false, 0 FROM generate_series(1, 2) n";
    client.batch_execute(register).await.unwrap();
    let (good, _, said) = checked(&database.url(), "");
    let too_many = "warning: FILE: store.url: 3 replicas may use together 39 connections, and the server lets 37 in (max_connections \
         without those that it reserves, or a limit of the user or of the database). Under load, and when a replica starts, \
         changes would get a 503. Raise max_connections, lower store.connections, or put PgBouncer in between";
    assert!(good && said == [too_many], "{said:#?}");
    let (good, _, said) = checked(&database.url(), "connections = 7");
    assert!(good && said.is_empty(), "{said:#?}");
    let limit = format!("ALTER DATABASE {} CONNECTION LIMIT 30", database.name);
    client.batch_execute(&limit).await.unwrap();
    let (_, _, said) = checked(&database.url(), "connections = 7");
    assert!(said.len() == 1 && said[0].contains("36 connections, and the server lets 30 in"), "{said:#?}");

    let pooler = Pooler::before(&cluster, 4);
    let (good, _, said) = checked(&pooler.url(&database), "");
    let polled = "warning: FILE: store.url: no notices of the database arrive, as through a connection pooler in transaction mode: the \
         feed of revocations is polled every 50 ms instead. Give the database's own address as store.feed_url";
    assert!(good && said == [polled], "{said:#?}");
    let (good, _, said) = checked(&pooler.url(&database), &format!("feed_url = {:?}", database.url()));
    assert!(good && said.is_empty(), "{said:#?}");
}

/// The source of a migration, of either kind.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_over_a_store_that_was_moved_is_refused_with_what_to_do() {
    let database = Cluster::shared().database().await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    configure(folder, &database.url(), "", "");
    let migrate = |from: &str, to: &str| {
        let mut command = palisade();
        command.args(["migrate", from, to, "--config"]).arg(folder.join("config.toml")).current_dir(folder);
        let output = run(&mut command, "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let start = |arguments: &[&str]| {
        let mut command = palisade();
        command
            .arg("run")
            .args(arguments)
            .arg("--config")
            .arg(folder.join("config.toml"))
            .current_dir(folder);
        command
    };
    // The first start makes what there is to move.
    Program::start(folder).kill();
    let client = database.client().await;
    until(&client, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'palisade' AND datname = current_database()", "0").await;
    client.batch_execute("DELETE FROM palisade.replicas").await.unwrap();
    migrate(&database.url(), "sled:moved");
    let said = refused(&mut start(&[]));
    let words = [
        "the store is closed for writing: ",
        "were moved to sled:",
        "set store.url to it",
        "`palisade migrate --give-up`",
        "`palisade run --accept-closed-source`",
    ];
    for word in words {
        assert!(said.contains(word), "{word}: {said}");
    }
    // The words are those of the start, and no error of a replica that tries to register.
    assert!(!said.contains("PX004"), "{said}");
    let program = Program::start_with(folder, &["--accept-closed-source"]);
    assert!(program.stop().success());

    let back = Cluster::shared().database().await;
    migrate("sled:moved", &back.url());
    configure(folder, "sled:moved", "", "");
    let said = refused(&mut start(&[]));
    for word in ["the store is closed for writing: ", "were moved to postgres:"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    configure(folder, &back.url(), "", "");
    // Another database than the one that this folder has followed.
    assert!(Program::start_with(folder, &["--accept-store-as-it-is"]).stop().success());
}
