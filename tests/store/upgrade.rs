//! Data folders that earlier versions wrote open whole with this one, also after a kill in the middle of its first
//! start.

use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use palisade::app::{self, Options};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::Clock;

use super::truth::Fixture;

/// The fixture whose data folder the child starts with, and that folder.
const FIXTURE: &str = "PALISADE_UPGRADE_FIXTURE";
const FOLDER: &str = "PALISADE_UPGRADE_FOLDER";
/// What the child says once it serves.
const SERVES: &str = "SERVES";
/// How often the first start of each folder is killed.
const KILLS: u32 = 12;

#[tokio::test]
async fn the_folder_of_an_earlier_version_opens_whole() {
    for fixture in Fixture::all() {
        let folder = fixture.copy();
        // Twice: the second start finds what the first one may have rewritten.
        for _ in 0..2 {
            let store = super::open(folder.path());
            fixture.holds(&store, folder.path()).await;
            store.close();
        }
    }
}

/// A clock that stands: the machine's own is years past what is in the folder.
pub struct Standing(pub UnixTime);

impl Clock for Standing {
    fn now(&self) -> UnixTime {
        self.0
    }
}

/// The child of the test below: a gateway that starts, and waits to be killed.
#[test]
fn upgrade_child() {
    let (Some(path), Some(folder)) = (std::env::var_os(FIXTURE), std::env::var_os(FOLDER)) else { return };
    let fixture = Fixture::all().into_iter().find(|fixture| fixture.path == Path::new(&path)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let config = fixture.read_config(Path::new(&folder), true);
        let clock = Arc::new(Standing(fixture.at()));
        let _running = app::start_by(clock, config, Options::default()).await.unwrap();
        println!("{SERVES}");
        std::future::pending::<()>().await;
    });
}

fn child(fixture: &Fixture, folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["store::upgrade::upgrade_child", "--exact", "--nocapture"])
        .env(FIXTURE, &fixture.path)
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_the_first_start_loses_nothing() {
    for fixture in Fixture::all() {
        let folder = fixture.copy();
        let begun = Instant::now();
        let mut first = child(&fixture, folder.path());
        let mut lines = BufReader::new(first.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains(SERVES)), "{} does not start", fixture.path.display());
        let whole = begun.elapsed();
        first.kill().unwrap();
        first.wait().unwrap();
        let store = super::open(folder.path());
        fixture.holds(&store, folder.path()).await;
        store.close();

        for round in 0..KILLS {
            let folder = fixture.copy();
            // Every other folder meets two starts that are killed.
            for again in 0..=round % 2 {
                // Any moment, early ones more often: the store is opened first.
                let part = (RandomState::new().hash_one((round, again)) % 1000) as f64 / 1000.0;
                let mut child = child(&fixture, folder.path());
                let moment = whole.mul_f64(part * part).max(Duration::from_millis(1));
                // There is no event to wait for: any moment may be the one.
                let (_never, nothing) = std::sync::mpsc::channel::<()>();
                let _ = nothing.recv_timeout(moment);
                child.kill().unwrap();
                child.wait().unwrap();
            }
            let store = super::open(folder.path());
            fixture.holds(&store, folder.path()).await;
            store.close();
        }
    }
}
