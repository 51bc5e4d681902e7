//! Random damages of every file in the data folder, one at a time: the start opens everything, or is refused by the
//! name of the file with what to do, and then the file put back is all that it takes. It never opens with less.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use palisade::app::{self, Options};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::open;
use super::truth::{Fixture, copy_into};
use super::upgrade::Standing;

/// How many damages; `make soak` makes more.
const RUNS: &str = "PALISADE_DAMAGES";
const FEW: usize = 200;
const SEED: u64 = 0x5eed;
/// A bound against hanging.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    Cut,
    Flipped,
    Removed,
    Emptied,
    /// Its length is there and its content is not, as after a power loss.
    Zeroed,
}

const DAMAGES: [Damage; 5] = [Damage::Cut, Damage::Flipped, Damage::Removed, Damage::Emptied, Damage::Zeroed];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Whole,
    /// Everything acknowledged is there, and a notice names the file, which held something that can be had again.
    Told,
    Refused,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Whole => "whole",
            Outcome::Told => "whole, told",
            Outcome::Refused => "refused",
        })
    }
}

/// SplitMix64 (G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }
}

impl Damage {
    /// Whether anything has changed.
    fn make(self, file: &Path, dice: &mut Dice) -> bool {
        let mut bytes = fs::read(file).unwrap();
        let before = bytes.clone();
        // Where something is: the end of a database is free.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(bytes.len(), |last| last + 1);
        match self {
            Damage::Removed => {
                fs::remove_file(file).unwrap();
                return true;
            }
            _ if bytes.is_empty() => return false,
            Damage::Cut => bytes.truncate(1 + dice.below(used)),
            Damage::Flipped => bytes[dice.below(used)] ^= 1 << dice.below(8),
            Damage::Emptied => bytes.clear(),
            Damage::Zeroed => bytes.fill(0),
        }
        fs::write(file, &bytes).unwrap();
        bytes != before
    }
}

/// Every file below `folder`, by its name there.
fn files(folder: &Path) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    drop(found.insert(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned(), path))
                }
            }
        }
    }
    found
}

/// What is in every file that a refused start must leave alone.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = files(folder).into_iter().filter(|(name, _)| name != "palisade.lock");
    files.map(|(name, path)| (name, fs::read(path).unwrap())).collect()
}

/// Whether a text names this file, and not one whose name is longer.
fn names(text: &str, path: &str) -> bool {
    text.match_indices(path)
        .any(|(at, _)| !text[at + path.len()..].starts_with(|c: char| c == '.' || c.is_alphanumeric()))
}

/// What may be lost: it is only kept so as not to be asked for, or made, again.
fn is_cache(name: &str) -> bool {
    name.starts_with("plugins/") || name.starts_with("issuer-keys/")
}

/// Starts the gateway over `folder` and stops it again; its notices.
async fn start(fixture: &Fixture, folder: &Path, providers: bool) -> Result<Vec<String>, String> {
    let config = fixture.read_config(folder, providers);
    let begun = Instant::now();
    let running = loop {
        match app::start_by(Arc::new(Standing(fixture.at())), config.clone(), Options::default()).await {
            // By a worker of the start that was refused just before, which is on its way out.
            Err(why) if why.starts_with("the store is in use") && begun.elapsed() < PATIENCE => {
                tokio::task::yield_now().await;
            }
            started => break started?,
        }
    };
    let notices = running.notices.clone();
    running.shutdown().await;
    Ok(notices)
}

/// Panics when anything is missing.
async fn whole(fixture: &Fixture, folder: &Path) {
    let store = open(folder);
    fixture.holds_all_of_ours(&store, folder).await;
    store.close();
}

/// Damages `name` in a copy of `good`, starts, and says what came of it. Panics when that is less than everything.
async fn one(
    fixture: &Fixture,
    good: &Path,
    name: &str,
    damage: Damage,
    dice: &mut Dice,
) -> (Outcome, String) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    copy_into(good, folder);
    let changed = damage.make(&folder.join(name), dice);
    let before = contents(folder);
    let providers = name.starts_with("plugins");
    match start(fixture, folder, providers).await {
        Err(why) => {
            assert!(changed, "{name} is as it was, and refused: {why}");
            assert!(
                why.contains(name) && why.contains(folder.to_str().unwrap()),
                "{name} {damage:?} is not named: {why}"
            );
            let cures =
                ["restore", "Restore", "Put the former one back", "Put them back", "put back", "move"];
            assert!(
                cures.iter().any(|cure| why.contains(cure)),
                "{name} {damage:?}: nothing says what to do: {why}"
            );
            assert!(before == contents(folder), "{name} {damage:?}: a refused start has changed files");
            fs::copy(good.join(name), folder.join(name)).unwrap();
            start(fixture, folder, providers).await.unwrap();
            whole(fixture, folder).await;
            fixture.holds_others(folder);
            (Outcome::Refused, why)
        }
        Ok(notices) => {
            whole(fixture, folder).await;
            let path = format!("{}/{name}", folder.display());
            let told = notices.iter().find(|notice| names(notice, &path));
            let others = std::panic::catch_unwind(|| fixture.holds_others(folder)).is_ok();
            if !others {
                assert!(told.is_some() || is_cache(name), "{name} {damage:?}: lost without a word");
            }
            match told {
                Some(notice) => (Outcome::Told, notice.clone()),
                None => {
                    let is_secret =
                        name.ends_with(".key") || name == "admin.token" || name.ends_with(".json");
                    let same = fs::read(folder.join(name)).ok() == fs::read(good.join(name)).ok();
                    // A digest may still say what it said: the white space of a file of JSON counts for nothing.
                    let is_json = name.ends_with(".json") && damage == Damage::Flipped;
                    assert!(
                        !is_secret || same || is_json || is_cache(name),
                        "{name} {damage:?}: changed without a word"
                    );
                    (Outcome::Whole, String::new())
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_refused_by_name_or_makes_no_difference() {
    let runs = std::env::var(RUNS).map_or(FEW, |runs| runs.parse().unwrap());
    // Its store lies in the data folder itself, so that its files have the names that are damaged here.
    let in_folder = |fixture: &Fixture| fixture.path.join("data/db").is_file();
    let fixture = Fixture::all().into_iter().rfind(in_folder).unwrap();
    assert!(fixture.truth.get("foreign").is_some(), "the last such fixture is the one with everything in it");
    // Two starts, so that there is a snapshot and every file is as this version writes it.
    let good = fixture.copy();
    for _ in 0..2 {
        start(&fixture, good.path(), true).await.unwrap();
    }
    whole(&fixture, good.path()).await;
    fixture.holds_others(good.path());
    let names: Vec<String> = files(good.path()).into_keys().collect();
    for name in ["admin.token", "conf", "db", "opaque.key", "palisade.acknowledged", "vault.key"] {
        assert!(names.iter().any(|known| known == name), "no {name} in {names:?}");
    }
    assert!(names.iter().any(|name| name.starts_with("snap.")), "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("plugins/")), "{names:?}");

    // Every damage of every file once, and then at random, the files of the store above all.
    let mut dice = Dice(SEED);
    let mut wanted: Vec<(&str, Damage)> =
        names.iter().flat_map(|name| DAMAGES.map(|damage| (&**name, damage))).collect();
    while wanted.len() < runs {
        let damage = if dice.below(3) == 0 { Damage::Cut } else { Damage::Flipped };
        let name = if dice.below(2) == 0 { "db" } else { &names[dice.below(names.len())] };
        wanted.push((name, damage));
    }
    let (fixture, good) = (Arc::new(fixture), Arc::new(good));
    let at_once = Arc::new(Semaphore::new(4));
    let mut running = JoinSet::new();
    for (number, (name, damage)) in wanted.iter().enumerate() {
        let (fixture, good, name, damage) =
            (Arc::clone(&fixture), Arc::clone(&good), (*name).to_owned(), *damage);
        let (at_once, mut dice) = (Arc::clone(&at_once), Dice(SEED + number as u64));
        let task = async move {
            let _place = at_once.acquire().await.unwrap();
            one(&fixture, good.path(), &name, damage, &mut dice).await
        };
        let task = tokio::spawn(task);
        running.spawn(async move { (number, task.await) });
    }
    let mut table: BTreeMap<(&str, Damage), BTreeMap<Outcome, usize>> = BTreeMap::new();
    let (mut said, mut wrong) = (BTreeSet::new(), Vec::new());
    while let Some(done) = running.join_next().await {
        let (number, done) = done.unwrap();
        let (name, damage) = wanted[number];
        match done {
            Ok((outcome, words)) => {
                *table.entry((name, damage)).or_default().entry(outcome).or_default() += 1;
                said.insert((name, outcome, words.chars().take_while(|c| *c != ';').collect::<String>()));
            }
            Err(_) => wrong.push((number, name, damage)),
        }
    }
    println!("{} damages:", wanted.len());
    for ((name, damage), outcomes) in &table {
        let outcomes: Vec<String> =
            outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        println!("  {name:24.24} {damage:10?} {}", outcomes.join(", "));
    }
    for (name, outcome, words) in said {
        println!("{name} {outcome}: {words}");
    }
    assert!(wrong.is_empty(), "{wrong:?}: see above");
    let refused = table.values().filter(|outcomes| outcomes.contains_key(&Outcome::Refused)).count();
    assert!(refused > 10 && table.len() > refused, "{table:?}");
}
