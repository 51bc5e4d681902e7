//! The gateway's own secrets in the database, and the ring of signing keys that several gateways go by.

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use palisade::config::{Algorithm, Tokens};
use palisade::edge::clock::SystemClock;
use palisade::edge::jwt::SigningKeyRing;
use palisade::edge::own_secrets;
use palisade::edge::postgres::connect::DatabasePool;
use palisade::edge::postgres::secrets::DatabaseSecrets;
use palisade::edge::postgres::server;
use palisade::edge::vault::VaultKeyRing;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{
    AccessGrant, Clock, KeyState, Keys as _, OwnSecret, Replaced, SecretRevision, SecretSealer as _,
    SecretStore, Signer as _,
};
use palisade_testing::postgres::{Cluster, Database};
use secrecy::{ExposeSecret as _, SecretString};

use crate::place::{self, settings};

const NOW: UnixTime = UnixTime(1_000_000);

/// A vault key made of this byte.
fn vault_key(byte: u8) -> SecretString {
    hex::encode([byte; 32]).into()
}

fn vault(bytes: &[u8]) -> Arc<VaultKeyRing> {
    let keys: Vec<SecretString> = bytes.iter().map(|byte| vault_key(*byte)).collect();
    Arc::new(VaultKeyRing::new(&keys).unwrap())
}

fn secrets(database: &Database, vault_keys: &[u8]) -> Arc<DatabaseSecrets> {
    Arc::new(
        DatabaseSecrets::new(&settings(&database.url()), "the database".to_owned(), vault(vault_keys))
            .unwrap(),
    )
}

/// A database with the schema.
async fn prepared() -> Database {
    place::prepared(Cluster::shared()).await
}

async fn sql(database: &Database, sql: &str) {
    database.client().await.batch_execute(sql).await.unwrap();
}

#[tokio::test]
async fn of_many_that_make_a_secret_at_once_all_go_by_one() {
    let database = prepared().await;
    let barrier = Arc::new(Barrier::new(6));
    let makers: Vec<_> = (0..6)
        .map(|_| {
            let (barrier, secrets) = (Arc::clone(&barrier), secrets(&database, &[1]));
            std::thread::spawn(move || {
                barrier.wait();
                let keys = own_secrets::server_keys(&*secrets).unwrap();
                let admin = own_secrets::secret(&*secrets, OwnSecret::AdminCredential).unwrap();
                (keys.iter().map(|key| key.to_vec()).collect::<Vec<_>>(), admin.expose_secret().to_owned())
            })
        })
        .collect();
    let mut made: Vec<_> = makers.into_iter().map(|maker| maker.join().unwrap()).collect();
    made.dedup();
    assert_eq!(made.len(), 1);
    // And nothing of it can be read in the table.
    let rows = database.client().await.query("SELECT sealed FROM palisade.secrets", &[]).await.unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        let sealed = String::from_utf8(row.get(0)).unwrap();
        assert!(sealed.starts_with("ps1.") && !sealed.contains(&made[0].1), "{sealed}");
    }
}

#[tokio::test]
async fn a_replacement_is_made_over_what_was_read_and_over_nothing_else() {
    let database = prepared().await;
    let (one, other) = (secrets(&database, &[1]), secrets(&database, &[1]));
    assert!(one.find(OwnSecret::SigningKeys).unwrap().is_none());
    // Nothing is there to be replaced.
    assert_eq!(one.replace(OwnSecret::SigningKeys, b"x", SecretRevision(1)).unwrap(), Replaced::Overtaken);
    let made = one.make(OwnSecret::SigningKeys, b"first").unwrap();
    assert_eq!(&**other.make(OwnSecret::SigningKeys, b"second").unwrap().content, b"first");
    let second = one.replace(OwnSecret::SigningKeys, b"second", made.revision).unwrap();
    assert_eq!(second, Replaced::Done(SecretRevision(made.revision.0 + 1)));
    assert_eq!(other.replace(OwnSecret::SigningKeys, b"third", made.revision).unwrap(), Replaced::Overtaken);
    let kept = other.find(OwnSecret::SigningKeys).unwrap().unwrap();
    assert_eq!((&**kept.content, Replaced::Done(kept.revision)), (&b"second"[..], second));
}

#[tokio::test]
async fn a_secret_of_another_vault_key_is_named_and_a_new_key_seals_it_anew() {
    let database = prepared().await;
    secrets(&database, &[1]).make(OwnSecret::ServerKey, b"the secret").unwrap();
    let without = secrets(&database, &[2]).find(OwnSecret::ServerKey).err().unwrap().to_string();
    assert!(
        without.contains("server-key") && without.contains("the database") && without.contains("vault.keys"),
        "{without}"
    );
    assert!(!without.contains("the secret"));
    let both = secrets(&database, &[2, 1]);
    assert_eq!(&**both.read(OwnSecret::ServerKey).unwrap().unwrap(), b"the secret");
    assert_eq!(both.seal_anew().unwrap(), 1);
    assert_eq!(both.seal_anew().unwrap(), 0);
    assert_eq!(&**secrets(&database, &[2]).read(OwnSecret::ServerKey).unwrap().unwrap(), b"the secret");
    assert!(secrets(&database, &[1]).read(OwnSecret::ServerKey).is_err());
    // One in the place of another is none.
    sql(
        &database,
        "INSERT INTO palisade.secrets SELECT 'admin-credential', revision, sealed FROM palisade.secrets",
    )
    .await;
    let moved = secrets(&database, &[2]).read(OwnSecret::AdminCredential).err().unwrap().to_string();
    assert!(moved.contains("damaged or belongs elsewhere"), "{moved}");
    let plain = vault(&[2]).seal_own(OwnSecret::ServerKey, b"x");
    assert!(plain.starts_with("ps1."));
    sql(&database, "UPDATE palisade.secrets SET sealed = 'hunter2'::bytea").await;
    let damaged = secrets(&database, &[2]).read(OwnSecret::ServerKey).err().unwrap().to_string();
    assert!(damaged.contains("damaged") && !damaged.contains("hunter2"), "{damaged}");
}

/// A row of a replica.
fn replica(name: &str, ring: u64, lease: u64) -> String {
    format!(
        "INSERT INTO palisade.replicas (id, name, program, formats, position, confirms, lease_ms, fail_open, key_ring, \
         registered_at, confirmed_at) VALUES (gen_random_uuid(), '{name}', 1, '{{}}', 0, 1, {lease}, false, {ring}, now(), now())"
    )
}

#[tokio::test]
async fn readers_are_waited_for_and_the_dead_for_one_lease() {
    let database = prepared().await;
    let secrets = secrets(&database, &[1]);
    let wait = |revision| {
        let secrets = Arc::clone(&secrets);
        tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            (secrets.await_readers(SecretRevision(revision)).unwrap(), begun.elapsed())
        })
    };
    assert_eq!(wait(7).await.unwrap().0, [""; 0]);
    sql(&database, &replica("current", 7, 60_000)).await;
    let (behind, took) = wait(7).await.unwrap();
    assert!(behind.is_empty() && took < Duration::from_secs(5), "{behind:?} {took:?}");
    // Dead: nothing confirms any more.
    sql(&database, &replica("dead", 6, 300)).await;
    let (behind, took) = wait(7).await.unwrap();
    assert!(behind.is_empty() && took >= Duration::from_millis(300), "{behind:?} {took:?}");
    // It takes the ring up while it is waited for.
    sql(&database, &replica("slow", 6, 60_000)).await;
    let waiting = wait(7);
    sql(&database, "UPDATE palisade.replicas SET key_ring = 7, confirms = confirms + 1 WHERE name = 'slow'")
        .await;
    assert_eq!(waiting.await.unwrap().0, [""; 0]);
    // It lives, and goes on with what it has.
    sql(&database, &replica("stubborn", 6, 300)).await;
    let living = tokio::spawn({
        let client = database.client().await;
        async move {
            loop {
                let confirm = "UPDATE palisade.replicas SET confirms = confirms + 1 WHERE name = 'stubborn'";
                client.batch_execute(confirm).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    assert_eq!(wait(7).await.unwrap().0, ["stubborn"]);
    living.abort();
}

fn tokens(algorithm: Algorithm) -> Tokens {
    Tokens {
        issuer: "https://we.test".into(),
        audience: "api".into(),
        algorithm,
        access_ttl: Duration::from_secs(1800),
        refresh_ttl: Duration::from_secs(86_400),
        refresh_repeat: Duration::from_secs(10),
        leeway: Duration::from_secs(60),
        key: None,
        max_bytes: 24 * 1024,
        cache_entries: 10,
    }
}

fn ring(secrets: &Arc<DatabaseSecrets>, algorithm: Algorithm) -> SigningKeyRing {
    SigningKeyRing::open(&tokens(algorithm), Arc::clone(secrets) as _, NOW).unwrap()
}

fn sign(ring: &SigningKeyRing, ttl: Duration) -> String {
    let grant = AccessGrant { subject: "u1".into(), ..AccessGrant::default() };
    ring.access_token(&grant, ttl, NOW).unwrap().token
}

fn is_good(ring: &SigningKeyRing, token: &str, now: UnixTime) -> bool {
    ring.check(&palisade::edge::jwt::compact::Compact::read(token).unwrap(), now).is_ok()
}

#[tokio::test]
async fn three_rings_that_start_at_once_are_one() {
    let database = prepared().await;
    let barrier = Arc::new(Barrier::new(3));
    let starts: Vec<_> = (0..3)
        .map(|_| {
            let (barrier, secrets) = (Arc::clone(&barrier), secrets(&database, &[1]));
            std::thread::spawn(move || {
                barrier.wait();
                ring(&secrets, Algorithm::EdDsa)
            })
        })
        .collect();
    let rings: Vec<SigningKeyRing> = starts.into_iter().map(|start| start.join().unwrap()).collect();
    assert!(rings.iter().all(|ring| ring.list() == rings[0].list()));
    assert_eq!(rings.iter().filter(|ring| ring.made_keys()).count(), 1);
    let day = Duration::from_secs(24 * 3600);
    let old = sign(&rings[1], day);
    rings[0].rotate(NOW.into()).await.unwrap();
    let new = sign(&rings[0], Duration::from_secs(1800));
    for ring in &rings {
        // Published before it signed, so that no replica has to hear of the rotation first.
        assert!(is_good(ring, &new, NOW) && is_good(ring, &old, NOW));
        let is_behind = ring.list() != rings[0].list();
        assert_eq!(ring.reload().unwrap(), is_behind);
        assert_eq!(ring.list(), rings[0].list());
        // For as long as anything lives that another replica has signed.
        assert!(is_good(ring, &old, NOW.plus(day)));
    }
}

#[tokio::test]
async fn of_two_rotations_at_once_one_is_made() {
    let database = prepared().await;
    let rings = [
        ring(&secrets(&database, &[1]), Algorithm::EdDsa),
        ring(&secrets(&database, &[1]), Algorithm::EdDsa),
    ];
    let before = rings[0].list();
    // Both have read the ring before either writes: this replica keeps them waiting.
    sql(&database, &replica("slow", 0, 60_000)).await;
    let both = [rings[0].clone(), rings[1].clone()]
        .map(|ring| tokio::spawn(async move { ring.rotate(NOW.into()).await }));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(rings[0].list(), before);
    sql(&database, "DELETE FROM palisade.replicas").await;
    for rotation in both {
        rotation.await.unwrap().unwrap();
    }
    for ring in &rings {
        ring.reload().unwrap();
        assert_eq!(ring.list()[0].kid, before[1].kid, "the next key signs, and not the one after it");
    }
}

#[tokio::test]
async fn a_rotation_waits_for_every_replica_that_lives_and_names_those_it_waited_for() {
    let database = prepared().await;
    let secrets = secrets(&database, &[1]);
    let ring = ring(&secrets, Algorithm::EdDsa);
    let before = ring.list();
    sql(&database, &replica("stubborn", 0, 200)).await;
    let living = tokio::spawn({
        let client = database.client().await;
        async move {
            loop {
                client.batch_execute("UPDATE palisade.replicas SET confirms = confirms + 1").await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    let refused = ring.rotate(NOW.into()).await.unwrap_err().to_string();
    assert!(refused.contains("stubborn") && refused.contains("Nothing was changed"), "{refused}");
    assert_eq!(ring.list(), before);
    living.abort();
    // Dead, it costs its lease.
    ring.rotate(NOW.into()).await.unwrap();
    assert_eq!(ring.list()[0].kid, before[1].kid);
}

#[tokio::test]
async fn another_algorithm_is_published_before_it_signs() {
    let database = prepared().await;
    let first = ring(&secrets(&database, &[1]), Algorithm::EdDsa);
    let second = ring(&secrets(&database, &[1]), Algorithm::Es256);
    assert!(second.awaits_algorithm() && !first.awaits_algorithm());
    let early = sign(&second, Duration::from_secs(60));
    assert!(is_good(&first, &early, NOW), "signed by the key that the other knows");
    assert!(first.reload().unwrap());
    second.rotate(NOW.into()).await.unwrap();
    assert!(!second.awaits_algorithm());
    assert_eq!(second.list()[0].algorithm, "ES256");
    assert!(is_good(&first, &sign(&second, Duration::from_secs(60)), NOW));
    // The other one's next key is of its own algorithm again, and published first.
    assert!(first.reload().unwrap());
    first.rotate(NOW.into()).await.unwrap();
    let list = first.list();
    assert_eq!((list[0].algorithm.as_str(), list[0].state), ("EdDSA", KeyState::Active));
    assert!(second.reload().unwrap() && is_good(&second, &sign(&first, Duration::from_secs(60)), NOW));
}

/// A machine whose clock is an hour behind.
struct HourBehind;

impl Clock for HourBehind {
    fn now(&self) -> UnixTime {
        UnixTime(SystemClock.now().0 - 3600)
    }
}

#[tokio::test]
async fn a_server_that_may_lose_what_it_acknowledged_is_told_of() {
    let cluster = Cluster::plan().set("fsync", "off").start();
    let database = cluster.database().await;
    let pool = DatabasePool::new(settings(&database.url())).unwrap();
    let doubts = server::look(&pool, &SystemClock).await.unwrap().doubts;
    assert!(doubts.iter().any(|doubt| doubt.contains("fsync = off")), "{doubts:?}");
    assert!(!doubts.iter().any(|doubt| doubt.contains("synchronous_standby_names")), "{doubts:?}");
    assert!(!doubts.iter().any(|doubt| doubt.contains("clock")), "{doubts:?}");
    let behind = server::look(&pool, &HourBehind).await.unwrap().doubts;
    let ahead = "seconds ahead of this machine's";
    assert!(behind.iter().any(|doubt| doubt.contains(ahead)), "{behind:?}");
    let _standby = cluster.standby("second");
    let end = Instant::now() + Duration::from_secs(20);
    while !server::look(&pool, &SystemClock)
        .await
        .unwrap()
        .doubts
        .iter()
        .any(|doubt| doubt.contains("a standby and waits for none"))
    {
        assert!(Instant::now() < end, "the standby does not follow");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
