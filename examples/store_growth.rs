//! What the store keeps of its past: size on disk, memory and time to start, after a load and after a
//! compaction. `make store-growth` runs it; it decides nothing.
//!
//!   sign-ins      people sign in and out: a session, its end, its revocation, and four events each time
//!   revocations   tokens are revoked, each one once, and none has ended yet
//!
//! Each step runs in a process of its own, so that its memory is not mixed up with another's. The load leaves
//! the store as a gateway that is stopped would; nothing is compacted while it is on unless the store itself
//! decides to.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use palisade::domain::account::UserId;
use palisade::domain::audit::{Action, Actor, Event, Outcome};
use palisade::domain::opaque::TokenHash;
use palisade::domain::revocation::{Revocation, Target, Versions};
use palisade::domain::session::{Device, Session, SessionId};
use palisade::domain::time::UnixTime;
use palisade::edge::store::{RevocationCache, SledStore};
use palisade::ports::{Change, Store};
use uuid::Uuid;

/// What the program itself runs with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CALLERS: u64 = 64;
const PEOPLE: u64 = 8;
const NOW: UnixTime = UnixTime(1_800_000_000);

type Done = Result<(), Box<dyn std::error::Error + Send + Sync>>;

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

fn measure(count: &str) -> Done {
    for what in ["sign-ins", "revocations"] {
        println!("{count} {what}");
        // Beside the build, because a folder for temporary files may be in memory.
        let folder = tempfile::tempdir_in(std::env::current_exe()?.parent().ok_or("no folder")?)?;
        let folder = folder.path().to_str().ok_or("no name")?;
        for step in [
            vec!["load", what, count, folder],
            vec!["start", folder],
            vec!["compact", folder],
            vec!["start", folder],
        ] {
            if !Command::new(std::env::current_exe()?).args(step).status()?.success() {
                return Err("a step failed".into());
            }
        }
    }
    Ok(())
}

async fn load(what: &str, count: u64, folder: &Path) -> Done {
    let store = SledStore::open(folder)?;
    let cache = Arc::new(RevocationCache::new());
    cache.load(&*store, NOW).await?;
    let (begun, next) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (store, cache, next) = (Arc::clone(&store), Arc::clone(&cache), Arc::clone(&next));
        let sign_ins = what == "sign-ins";
        callers.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok::<_, palisade::ports::CommitError>(());
                }
                if n > 0 && n % 100_000 == 0 {
                    println!(
                        "  after {n:>9}     {:>6} MB on disk, {:>6} MB resident",
                        store.disk_bytes() >> 20,
                        resident().unwrap_or(0) >> 20
                    );
                }
                let at = NOW.plus(Duration::from_secs(n / 1000));
                let revoked = if sign_ins {
                    sign_in_and_out(&store, n, at).await?
                } else {
                    store.revoke(token(n, at)).await?
                };
                cache.apply(&revoked);
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    println!("  loaded              {:>6} /s", u128::from(count) * 1000 / begun.elapsed().as_millis().max(1));
    told(&store)?;
    store.close();
    Ok(())
}

async fn start(folder: &Path) -> Done {
    let begun = Instant::now();
    let store = SledStore::open(folder)?;
    let opened = begun.elapsed();
    let cache = RevocationCache::new();
    cache.load(&*store, NOW).await?;
    println!(
        "  start               {:>6} ms, {} of them to open the files; {} revocations",
        begun.elapsed().as_millis(),
        opened.as_millis(),
        cache.len()
    );
    told(&store)?;
    store.close();
    Ok(())
}

async fn compact(folder: &Path) -> Done {
    let store = SledStore::open(folder)?;
    let cache = RevocationCache::new();
    cache.load(&*store, NOW).await?;
    let done = store.compact().await?;
    println!(
        "  compacted           {:>6} ms: from {} to {} MB, {:.2} times the {} MB that live",
        done.took.as_millis(),
        done.before >> 20,
        done.after >> 20,
        done.after as f64 / done.live as f64,
        done.live >> 20
    );
    told(&store)?;
    store.close();
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn told(store: &SledStore) -> Done {
    let status = store.status();
    println!(
        "  on disk             {:>6} MB, {:.2} times what lives; {} MB resident; {} compactions",
        status.bytes >> 20,
        status.bytes as f64 / status.live_bytes.max(1) as f64,
        resident()? >> 20,
        status.compactions.done
    );
    Ok(())
}

async fn sign_in_and_out(
    store: &SledStore,
    n: u64,
    at: UnixTime,
) -> Result<Revocation, palisade::ports::CommitError> {
    let user = UserId(Uuid::from_u128(u128::from(n % PEOPLE) + 1));
    let session = session(user, at);
    let id = session.id;
    let event = |action| Event {
        id: Uuid::now_v7(),
        at,
        action,
        outcome: Outcome::Success,
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
    let target = Target::Session { issuer: "https://accounts.example.com".into(), sid: id.to_string() };
    let expires_at = at.plus(Duration::from_secs(93_600));
    let revoked = Revocation { target, expires_at, created_at: at, reason: None };
    let changes = vec![
        Change::EndSession(user, id),
        Change::Revoke(revoked),
        Change::Record(vec![event(Action::Logout)]),
    ];
    let mut made = store.commit(changes).await?;
    made.pop().ok_or(palisade::ports::CommitError::Conflict)
}

fn token(n: u64, at: UnixTime) -> Revocation {
    let target =
        Target::Token { issuer: "https://accounts.example.com".into(), jti: Uuid::now_v7().to_string() };
    // Tokens end in any order.
    let life = Duration::from_secs(n.wrapping_mul(2_654_435_761) % 1800);
    Revocation { target, expires_at: at.plus(life), created_at: at, reason: None }
}

fn session(user: UserId, at: UnixTime) -> Session {
    let id = Uuid::now_v7();
    let agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
    Session {
        id: SessionId(id),
        user,
        begun: Versions::default(),
        created_at: at,
        last_used_at: at,
        expires_at: at.plus(Duration::from_secs(30 * 86_400)),
        device: Device {
            name: "Firefox on Linux".into(),
            user_agent: Some(agent.into()),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            place: None,
            fingerprint: TokenHash::of(agent.as_bytes()).into(),
        },
        scopes: vec!["read".into(), "write".into()],
        generation: 0,
        current: TokenHash::of(id.as_bytes()),
        rotated_at: at,
        revision: 0,
    }
}

/// Bytes of memory that this process holds now.
fn resident() -> std::io::Result<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm")?;
    let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.map(|pages| pages * 4096).ok_or(std::io::ErrorKind::InvalidData.into())
}
