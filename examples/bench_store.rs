//! What the store does on this machine's disk: durable commits per second, and what a large revocation set
//! costs on disk, at the start and in memory. `make bench-store` runs it; it decides nothing.
//!
//! Every commit is a caller's own and is synced before it is answered; 64 callers wait at a time. The set
//! is loaded in a process of its own, so that its memory is not mixed up with what filled it.

mod store_load;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use palisade::edge::clock::uptime;
use palisade::edge::store::{RevocationCache, SledStore};
use palisade_core::domain::account::UserId;
use palisade_core::ports::{Change, Store};
use uuid::Uuid;

use store_load::{CALLERS, NOW, Outcome, by_callers, folder, resident, revoked_token, session};

const SPAN: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => measure(1_000_000).await,
        ["load", folder] => load(Path::new(folder)).await,
        [count] => match count.parse() {
            Ok(count) => measure(count).await,
            Err(_) => Err("usage: bench_store [NUMBER OF REVOCATIONS]".into()),
        },
        _ => Err("usage: bench_store [NUMBER OF REVOCATIONS]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(revocations: u64) -> Outcome {
    let folder = folder()?;
    let store = SledStore::open(folder.path())?;
    println!("session updates    {:>8.0} /s durable, {CALLERS} callers", updates(&store).await?);
    let before = store.disk_bytes();
    let begun = Instant::now();
    by_callers(&store, revocations, |store, n| async move {
        let at = NOW.plus(Duration::from_secs(n / 5000));
        store.revoke(revoked_token(n, at)).await?;
        Ok(())
    })
    .await?;
    println!("revocations        {:>8.0} /s durable, {CALLERS} callers", per_second(revocations, begun));
    let grown = store.disk_bytes() - before;
    println!("on disk            {:>8} bytes for each of {revocations}", grown / revocations.max(1));
    let begun = Instant::now();
    let listed = store.recent_revocations(1000).await?.len();
    println!("the newest {listed:<7} {:>8} ms to list", begun.elapsed().as_millis());
    println!("session updates    {:>8.0} /s durable beside that set", updates(&store).await?);
    store.close();
    let loaded = Command::new(std::env::current_exe()?).arg("load").arg(folder.path()).status()?;
    if loaded.success() { Ok(()) } else { Err("the set was not loaded".into()) }
}

async fn load(folder: &Path) -> Outcome {
    let begun = Instant::now();
    let store = SledStore::open(folder)?;
    println!("open               {:>8} ms", begun.elapsed().as_millis());
    let (begun, before) = (Instant::now(), resident()?);
    let cache = RevocationCache::new(Box::new(uptime));
    cache.load(&*store, NOW).await?;
    println!("load               {:>8} ms for {} entries", begun.elapsed().as_millis(), cache.len());
    let open = resident()?;
    println!(
        "resident           {:>8} MB, {} MB of it since the store was open",
        open >> 20,
        (open - before) >> 20
    );
    store.close();
    drop(store);
    println!("resident, closed   {:>8} MB with the set alone", resident()? >> 20);
    if cache.is_empty() { Err("nothing was loaded".into()) } else { Ok(()) }
}

async fn updates(store: &Arc<SledStore>) -> Outcome<f64> {
    let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let begun = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (store, done, stop) = (Arc::clone(store), Arc::clone(&done), Arc::clone(&stop));
        callers.spawn(async move {
            let mut session = session(UserId(Uuid::now_v7()), NOW);
            store.commit(vec![Change::CreateSession(session.clone())]).await?;
            while !stop.load(Ordering::Relaxed) {
                session.expires_at = session.expires_at.plus(Duration::from_secs(1));
                store.commit(vec![Change::UpdateSession(session.clone())]).await?;
                session.revision += 1;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, palisade_core::ports::CommitError>(())
        });
    }
    tokio::time::sleep(SPAN).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    Ok(per_second(done.load(Ordering::Relaxed), begun))
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn per_second(count: u64, begun: Instant) -> f64 {
    count as f64 / begun.elapsed().as_secs_f64()
}
