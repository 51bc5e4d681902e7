//! What the store keeps of its past: size on disk, memory and time to start, after a load, and after a
//! compaction, which leaves what lives and nothing else. `make store-growth` runs it; it decides nothing.
//!
//!   sign-ins      eight people sign in and out: a session, its end, its revocation, and two events each time
//!   revocations   tokens are revoked, each one once, and none has ended yet
//!
//! Each step runs in a process of its own, so that its memory is not mixed up with another's, and prints what it
//! found as one line of JSON; `load WHAT COUNT FOLDER`, `start FOLDER` and `compact FOLDER` run a single one. The
//! load leaves the store as a gateway that is stopped would; nothing is compacted while it is on unless the store
//! itself decides to. What is resident is counted at the end of a step, with the store open and the revocation set
//! in memory.

mod store_load;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use palisade::edge::clock::uptime;
use palisade::edge::store::{RevocationCache, SledStore};
use palisade_core::domain::account::UserId;
use palisade_core::domain::audit::{Action, Actor, Event, Outcome as Ended};
use palisade_core::domain::revocation::{Revocation, Target};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, CommitError, Store};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use store_load::{ISSUER, NOW, Outcome, by_callers, folder, resident, revoked_token, session};

const PEOPLE: u64 = 8;
const MB: f64 = 1_048_576.0;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => measure("1000000"),
        [count] if count.parse::<u64>().is_ok() => measure(count),
        ["load", what, count, folder] => load(what, count.parse().unwrap_or(0), Path::new(folder)).await,
        ["start", folder] => start(Path::new(folder)).await,
        ["compact", folder] => compact(Path::new(folder)).await,
        _ => Err("usage: store_growth [HOW MANY]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What a step found at its end.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Figures {
    /// Bytes of the files.
    disk: u64,
    /// Bytes of keys and values.
    live: u64,
    /// Bytes of memory.
    resident: u64,
    /// How long the step took, in milliseconds: a start until the revocation set was in memory.
    took: u64,
    /// Of a start: how much of it was to open the files.
    opened: u64,
    revocations: usize,
    /// How often the store was compacted in this step.
    compactions: u64,
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn measure(count: &str) -> Outcome {
    println!(
        "{:<14} {:<12} {:>8} {:>8} {:>12} {:>9}",
        "store growth", count, "disk MB", "x live", "resident MB", "ms"
    );
    for what in ["sign-ins", "revocations"] {
        let folder = folder()?;
        let folder = folder.path().to_str().ok_or("the folder's name is no text")?;
        let steps = [
            ("load", vec!["load", what, count, folder]),
            ("start", vec!["start", folder]),
            ("compact", vec!["compact", folder]),
            ("start", vec!["start", folder]),
        ];
        let mut starts = Vec::new();
        for (name, arguments) in steps {
            let found = step(&arguments)?;
            println!(
                "{what:<14} {name:<12} {:>8.0} {:>8.2} {:>12.0} {:>9}{}",
                found.disk as f64 / MB,
                found.disk as f64 / found.live.max(1) as f64,
                found.resident as f64 / MB,
                found.took,
                match name {
                    "load" => format!("   compacted {} times by itself", found.compactions),
                    "start" => format!("   {} revocations", found.revocations),
                    _ => String::new(),
                }
            );
            if name == "start" {
                starts.push(found);
            }
        }
        let ratio = |of: fn(&Figures) -> u64| of(&starts[0]) as f64 / of(&starts[1]).max(1) as f64;
        println!(
            "{what:<14} with its past / without it: disk {:.2}, resident {:.2}, start {:.2}",
            ratio(|found| found.disk),
            ratio(|found| found.resident),
            ratio(|found| found.took)
        );
    }
    Ok(())
}

/// One step in a process of its own.
fn step(arguments: &[&str]) -> Outcome<Figures> {
    let ran = Command::new(std::env::current_exe()?).args(arguments).stderr(Stdio::inherit()).output()?;
    if !ran.status.success() {
        return Err(format!("the step `{}` failed", arguments[0]).into());
    }
    Ok(serde_json::from_slice(&ran.stdout)?)
}

async fn load(what: &str, count: u64, folder: &Path) -> Outcome {
    let store = SledStore::open(folder)?;
    let cache = Arc::new(RevocationCache::new(Box::new(uptime)));
    cache.load(&*store, NOW).await?;
    let (begun, sign_ins, step) = (Instant::now(), what == "sign-ins", (count / 10).max(1));
    let learned = Arc::clone(&cache);
    by_callers(&store, count, move |store, n| {
        let cache = Arc::clone(&learned);
        async move {
            if n > 0 && n % step == 0 {
                let status = store.status();
                eprintln!(
                    "  after {n:>9}  {:>6} MB on disk, {:>6} MB live, {:>6} MB resident, {} compactions",
                    status.bytes >> 20,
                    status.live_bytes >> 20,
                    resident().unwrap_or(0) >> 20,
                    status.compactions.done
                );
            }
            let at = NOW.plus(Duration::from_secs(n / 1000));
            let revoked = match sign_ins {
                true => sign_in_and_out(&store, n, at).await?,
                false => store.revoke(revoked_token(n, at)).await?,
            };
            cache.apply(&[revoked]);
            Ok(())
        }
    })
    .await?;
    told(&store, &cache, begun.elapsed(), Duration::ZERO)
}

async fn start(folder: &Path) -> Outcome {
    let begun = Instant::now();
    let store = SledStore::open(folder)?;
    let opened = begun.elapsed();
    let cache = RevocationCache::new(Box::new(uptime));
    cache.load(&*store, NOW).await?;
    told(&store, &cache, begun.elapsed(), opened)
}

async fn compact(folder: &Path) -> Outcome {
    let store = SledStore::open(folder)?;
    let cache = RevocationCache::new(Box::new(uptime));
    cache.load(&*store, NOW).await?;
    let done = store.compact().await?;
    told(&store, &cache, done.took, Duration::ZERO)
}

fn told(store: &SledStore, cache: &RevocationCache, took: Duration, opened: Duration) -> Outcome {
    let (status, milliseconds) = (store.status(), |span: Duration| u64::try_from(span.as_millis()));
    let figures = Figures {
        disk: status.bytes,
        live: status.live_bytes,
        resident: resident()?,
        took: milliseconds(took)?,
        opened: milliseconds(opened)?,
        revocations: cache.len(),
        compactions: status.compactions.done,
    };
    store.close();
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

async fn sign_in_and_out(store: &SledStore, n: u64, at: UnixTime) -> Result<Revocation, CommitError> {
    let user = UserId(Uuid::from_u128(u128::from(n % PEOPLE) + 1));
    let session = session(user, at);
    let id = session.id;
    let event = |action| Event {
        id: Uuid::now_v7(),
        at,
        action,
        outcome: Ended::Success,
        actor: Actor::User,
        user: Some(user),
        session: Some(id),
        connection: None,
        address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        request_id: Some(Uuid::now_v7().to_string()),
        reason: None,
        details: serde_json::Map::new(),
    };
    store.commit(vec![Change::CreateSession(session), Change::Record(vec![event(Action::Login)])]).await?;
    let target = Target::Session { issuer: ISSUER.into(), sid: id.to_string() };
    let expires_at = at.plus(Duration::from_secs(93_600));
    let revoked = Revocation { target, expires_at, created_at: at, reason: None };
    let changes = vec![
        Change::EndSession(user, id),
        Change::Revoke(revoked),
        Change::Record(vec![event(Action::Logout)]),
    ];
    let mut made = store.commit(changes).await?.revocations;
    made.pop().ok_or(CommitError::Conflict)
}
