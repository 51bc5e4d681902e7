//! What the benchmarks of the store share: callers that wait for durable commits, what they write, and how much
//! memory the process holds.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use palisade::edge::store::SledStore;
use palisade_core::domain::account::UserId;
use palisade_core::domain::opaque::TokenHash;
use palisade_core::domain::revocation::{Revocation, Target, Versions};
use palisade_core::domain::session::{Device, Session, SessionId};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::CommitError;
use tempfile::TempDir;
use uuid::Uuid;

/// What the program itself runs with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many callers wait at a time, each for a commit of its own.
pub const CALLERS: u64 = 64;
pub const NOW: UnixTime = UnixTime(1_800_000_000);
pub const ISSUER: &str = "https://accounts.example.com";

pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A folder beside the build, because a folder for temporary files may be in memory.
pub fn folder() -> Outcome<TempDir> {
    Ok(tempfile::tempdir_in(std::env::current_exe()?.parent().ok_or("the program is in no folder")?)?)
}

/// Calls `each` with every number below `count`, and with the store, from [`CALLERS`] callers.
pub async fn by_callers<F: Future<Output = Result<(), CommitError>> + Send + 'static>(
    store: &Arc<SledStore>,
    count: u64,
    each: impl Fn(Arc<SledStore>, u64) -> F + Clone + Send + 'static,
) -> Outcome {
    let next = Arc::new(AtomicU64::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (store, next, each) = (Arc::clone(store), Arc::clone(&next), each.clone());
        callers.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok::<_, CommitError>(());
                }
                each(Arc::clone(&store), n).await?;
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    Ok(())
}

/// The revocation of a token of its own, made at `at`. They end in any order, within half an hour.
pub fn revoked_token(n: u64, at: UnixTime) -> Revocation {
    let target = Target::Token { issuer: ISSUER.into(), jti: Uuid::now_v7().to_string() };
    let life = Duration::from_secs(n.wrapping_mul(2_654_435_761) % 1800);
    Revocation { target, expires_at: at.plus(life), created_at: at, reason: None }
}

/// A session of `user` that begins at `at`.
pub fn session(user: UserId, at: UnixTime) -> Session {
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
        rekeyed: 0,
        rotated_at: at,
        successor: Default::default(),
        browser: None,
        revision: 0,
    }
}

/// Bytes of memory that this process holds now.
pub fn resident() -> std::io::Result<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm")?;
    let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.map(|pages| pages * 4096).ok_or(std::io::ErrorKind::InvalidData.into())
}
