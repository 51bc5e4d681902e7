//! `palisade users import`: the accounts of a file, in bulk.
//!
//! What can be made is made; every other line is named with the reason. `--dry-run` says both ahead.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::username::Username;

use super::super::admin;
use super::super::output::{Output, pretty, say, tell, tell_part, text};
use super::rows::{self, Format};
use super::{called, handed};
use crate::edge::admin_client::AdminClient;

/// How much of a request's body accounts take: a body has at most 64 KiB.
const MOST_BYTES: usize = 60 * 1024;
/// The most accounts of one request.
const MOST_ROWS: usize = 1000;
/// The most of them with a password that is hashed, a fraction of a second each.
const MOST_HASHED: usize = 16;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// After so many lines it is told how far the import has come.
const TOLD_EVERY: usize = 10_000;

/// Which accounts are mailed a link.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum LettersTo {
    /// Those without a password and without an identity at a provider.
    Missing,
    /// Also those whose address is not verified.
    All,
    None,
}

#[derive(Debug, Args)]
pub(in super::super) struct Import {
    /// A `-` is standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Check every line and make nothing.
    #[arg(long)]
    dry_run: bool,
    /// Without it, as the name of the file ends: `.csv`, or anything else for JSON lines.
    #[arg(long)]
    format: Option<Format>,
    /// Which accounts get a link: `missing`, those that nothing signs in to; `all`, also those whose address is not
    /// verified; `none`.
    #[arg(long, default_value = "missing", value_name = "WHICH")]
    letters: LettersTo,
    /// Firebase: the signer key of the project's hash parameters, as `env:NAME` or `file:PATH`. Each account then has its
    /// `hash` and its `salt`.
    #[arg(long, value_name = "REFERENCE")]
    firebase_signer_key: Option<String>,
    /// Firebase: the salt separator, in base64.
    #[arg(long, value_name = "BASE64", requires = "firebase_signer_key", default_value = "Bw==")]
    firebase_salt_separator: String,
    /// Firebase: the rounds.
    #[arg(long, value_name = "N", requires = "firebase_signer_key", default_value_t = 8)]
    firebase_rounds: u32,
    /// Firebase: the memory cost.
    #[arg(long, value_name = "N", requires = "firebase_signer_key", default_value_t = 14)]
    firebase_mem_cost: u32,
    #[command(flatten)]
    output: Output,
}

/// Accounts of one request.
#[derive(Default)]
struct Batch {
    /// The line of each.
    lines: Vec<u64>,
    accounts: Vec<Value>,
    bytes: usize,
    hashed: usize,
}

impl Batch {
    /// Whether another account of so many bytes does not fit.
    fn is_full_for(&self, bytes: usize, is_hashed: bool) -> bool {
        !self.lines.is_empty()
            && (self.bytes + bytes > MOST_BYTES
                || self.lines.len() == MOST_ROWS
                || self.hashed + usize::from(is_hashed) > MOST_HASHED)
    }
}

/// What has become of the lines so far.
#[derive(Default)]
struct Outcome {
    made: usize,
    letters: u64,
    /// The accounts that are told: those with something to hand over, and all of them for programs.
    told: Vec<Value>,
    refused: Vec<Fault>,
    lines: usize,
}

/// What is wrong with a line.
struct Fault {
    line: u64,
    what: String,
}

impl Fault {
    fn told(&self) -> String {
        format!("line {}: {}", self.line, self.what)
    }
}

/// What no two lines have.
#[derive(Default)]
struct Seen {
    names: HashMap<palisade_core::domain::username::UsernameFingerprint, u64>,
    addresses: HashMap<EmailAddress, u64>,
}

impl Seen {
    /// What an earlier line has, too. What is no name or address at all, the gateway says.
    fn fault(&mut self, account: &Map<String, Value>, line: u64) -> Option<String> {
        let given = |name: &str| account.get(name).and_then(Value::as_str);
        let name = given("username").and_then(|name| name.parse::<Username>().ok());
        let address = given("email").and_then(|email| email.parse::<EmailAddress>().ok());
        let twice = [
            name.and_then(|name| met(&mut self.names, name.fingerprint(), line))
                .map(|first| ("user name", first)),
            address.and_then(|email| met(&mut self.addresses, email, line)).map(|first| ("address", first)),
        ];
        let told: Vec<String> = twice
            .into_iter()
            .flatten()
            .map(|(what, first)| format!("line {first} has the same {what}"))
            .collect();
        Some(told.join("; ")).filter(|told| !told.is_empty())
    }
}

/// The line that had this first; `None` for the first one.
fn met<K: Hash + Eq>(seen: &mut HashMap<K, u64>, key: K, line: u64) -> Option<u64> {
    match seen.entry(key) {
        Entry::Occupied(first) => Some(*first.get()),
        Entry::Vacant(place) => {
            place.insert(line);
            None
        }
    }
}

/// Does what was asked. The text is what to print.
pub(super) fn run(config: &Path, wish: &Import) -> Result<String, String> {
    let firebase = wish.firebase()?;
    let format = Format::of(wish.format, Some(&wish.file));
    let (batches, mut outcome) = batches(wish.open()?, format, firebase.as_ref())?;
    if batches.is_empty() && outcome.refused.is_empty() {
        return Err("the file has no account".to_owned());
    }
    admin::ask(config, |client| async move {
        // One that is not reached is told once, not for every line.
        client.get("/admin/v1/users?limit=1").await?;
        let mut progress = Progress::new();
        for batch in batches {
            let (first, last) = (batch.lines.first().copied(), batch.lines.last().copied());
            if let Err(error) = send(&client, wish, batch, &mut outcome).await {
                let (first, last) = (first.unwrap_or_default(), last.unwrap_or_default());
                // What was made may have to be handed over.
                say(told(&outcome, wish)).unwrap_or_else(tell);
                return Err(format!(
                    "lines {first} to {last}: {error}\nThe lines before are dealt with, and it is not known which of these \
                     were. Import the file again: lines that are made already are refused, and the others go in{}",
                    listed(&outcome.refused)
                ));
            }
            progress.told(outcome.lines);
        }
        progress.end();
        outcome.refused.sort_by_key(|fault| fault.line);
        let said = told(&outcome, wish);
        if outcome.refused.is_empty() {
            return Ok(said);
        }
        say(said).unwrap_or_else(tell);
        Err(format!("{} refused:{}", lines(outcome.refused.len()), listed(&outcome.refused)))
    })
}

impl Import {
    fn open(&self) -> Result<Box<dyn Read>, String> {
        if self.file.as_os_str() == "-" {
            return Ok(Box::new(std::io::stdin().lock()));
        }
        let file = std::fs::File::open(&self.file);
        let file = file.map_err(|error| format!("{} cannot be read: {error}", self.file.display()))?;
        Ok(Box::new(file))
    }

    /// What is the same for every account of a Firebase project.
    fn firebase(&self) -> Result<Option<Map<String, Value>>, String> {
        let Some(reference) = &self.firebase_signer_key else { return Ok(None) };
        let cure = "--firebase-signer-key: name where it is, as env:NAME or file:PATH";
        let key = match reference.split_once(':') {
            Some(("env", name)) => {
                std::env::var(name).map_err(|_| format!("--firebase-signer-key: {name} is not set"))?
            }
            Some(("file", path)) => std::fs::read_to_string(path)
                .map_err(|error| format!("--firebase-signer-key: {path} cannot be read: {error}"))?,
            _ => return Err(cure.to_owned()),
        };
        let key = Zeroizing::new(key);
        let common = json!({
            "algorithm": "firebase-scrypt", "signer_key": key.trim(), "salt_separator": self.firebase_salt_separator,
            "rounds": self.firebase_rounds, "mem_cost": self.firebase_mem_cost,
        });
        Ok(common.as_object().cloned())
    }
}

/// The accounts of the file, and the lines that are none.
fn batches(
    file: impl Read,
    format: Format,
    firebase: Option<&Map<String, Value>>,
) -> Result<(Vec<Batch>, Outcome), String> {
    let (mut batches, mut batch) = (Vec::new(), Batch::default());
    let (mut outcome, mut seen) = (Outcome::default(), Seen::default());
    rows::read(file, format, &mut |(line, row)| {
        let account = row.and_then(|mut account| {
            with_salt(&mut account, firebase)?;
            match seen.fault(&account, line) {
                Some(fault) => Err(fault),
                None => Ok(Value::Object(account)),
            }
        });
        let account = match account {
            Ok(account) => account,
            Err(what) => {
                outcome.lines += 1;
                outcome.refused.push(Fault { line, what });
                return Ok(());
            }
        };
        let bytes = account.to_string().len() + 1;
        if bytes > MOST_BYTES {
            outcome.lines += 1;
            outcome.refused.push(Fault { line, what: format!("it is longer than {MOST_BYTES} bytes") });
            return Ok(());
        }
        let is_hashed = account["password"].is_string() || account["generate_password"] == true;
        if batch.is_full_for(bytes, is_hashed) {
            batches.push(std::mem::take(&mut batch));
        }
        batch.lines.push(line);
        batch.accounts.push(account);
        batch.bytes += bytes;
        batch.hashed += usize::from(is_hashed);
        Ok(())
    })?;
    batches.extend(Some(batch).filter(|batch| !batch.lines.is_empty()));
    Ok((batches, outcome))
}

/// Puts a hash of Firebase together with its salt and the parameters of the project.
fn with_salt(account: &mut Map<String, Value>, firebase: Option<&Map<String, Value>>) -> Result<(), String> {
    let Some(salt) = account.remove("salt") else { return Ok(()) };
    let Some(firebase) = firebase else {
        return Err("`salt` is of Firebase's hashes: say --firebase-signer-key".to_owned());
    };
    let Some(hash) = account.remove("hash").or_else(|| account.remove("password_hash")) else {
        return Ok(());
    };
    let mut whole = firebase.clone();
    whole.insert("hash".to_owned(), hash);
    whole.insert("salt".to_owned(), salt);
    account.insert("password_hash".to_owned(), Value::Object(whole));
    Ok(())
}

/// Has the gateway make the accounts, and notes what became of each.
async fn send(
    client: &AdminClient,
    wish: &Import,
    batch: Batch,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let letters = match wish.letters {
        LettersTo::Missing => "missing",
        LettersTo::All => "all",
        LettersTo::None => "none",
    };
    let body = json!({"accounts": batch.accounts, "dry_run": wish.dry_run, "letters": letters});
    let mut answer = client.post_within("/admin/v1/users-import", &body, PATIENCE).await?;
    outcome.letters += answer["letters"].as_u64().unwrap_or(0);
    outcome.lines += batch.lines.len();
    let accounts = answer["accounts"].as_array_mut().map(std::mem::take).unwrap_or_default();
    for (line, mut account) in batch.lines.into_iter().zip(accounts) {
        if let Some(code) = account["code"].as_str() {
            outcome.refused.push(Fault { line, what: format!("{} ({code})", text(&account["detail"])) });
            continue;
        }
        outcome.made += 1;
        let is_handed = account["password"].is_string() || account["link"].is_string();
        if !wish.dry_run && (wish.output.json || is_handed) {
            account["line"] = json!(line);
            outcome.told.push(account);
        }
    }
    Ok(())
}

/// How far the import has come, on standard error.
struct Progress {
    is_terminal: bool,
    told: usize,
}

impl Progress {
    fn new() -> Progress {
        Progress { is_terminal: std::io::stderr().is_terminal(), told: 0 }
    }

    fn told(&mut self, count: usize) {
        if self.is_terminal {
            tell_part(format_args!("\r{}", lines(count)));
        } else if count / TOLD_EVERY > self.told / TOLD_EVERY {
            tell(lines(count));
        }
        self.told = count;
    }

    fn end(&self) {
        if self.is_terminal {
            tell_part(format_args!("\r\x1b[K"));
        }
    }
}

fn accounts(count: usize) -> String {
    if count == 1 { "1 account".to_owned() } else { format!("{count} accounts") }
}

fn lines(count: usize) -> String {
    if count == 1 { "1 line".to_owned() } else { format!("{count} lines") }
}

fn listed(refused: &[Fault]) -> String {
    refused.iter().map(|fault| format!("\n{}", fault.told())).collect()
}

/// What became of the accounts, with what is to be handed over.
fn told(outcome: &Outcome, wish: &Import) -> String {
    let Outcome { made, letters, told, refused, .. } = outcome;
    if wish.output.json {
        return match wish.dry_run {
            true => pretty(
                &json!({"checked": made + refused.len(), "could_be_made": made, "refused": refused.len(), "letters": letters, "made": 0}),
            ),
            false => pretty(&Value::Array(told.clone())),
        };
    }
    if wish.dry_run {
        let mut said = format!("{} can be made; nothing was", accounts(*made));
        if *letters > 0 {
            said.push_str(&format!("\n{letters} of them would get a letter, or a link to be handed over"));
        }
        return said;
    }
    let mut lines = vec![format!("made {}", accounts(*made))];
    for account in told {
        lines.push(format!("{} with the id {}{}", called(account), text(&account["id"]), handed(account)));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        batches(text.as_bytes(), Format::Jsonl, None).unwrap().1.refused.iter().map(Fault::told).collect()
    }

    #[test]
    fn every_fault_is_named_by_its_line_and_the_others_go_on() {
        let file = concat!(
            "{\"username\": \"Ann\", \"email\": \"ann@example.com\"}\n",
            "{\"username\": \"bob\"\n",
            "[1]\n",
            "{\"username\": \"ａｎｎ\"}\n",
            "{\"username\": \"cid\", \"email\": \"ANN@EXAMPLE.COM\"}\n",
            "{\"username\": \"not @ name\"}\n",
            "{\"username\": \"dan\", \"hash\": \"x\", \"salt\": \"y\"}\n",
        );
        let faults = faults(file);
        assert_eq!(faults.len(), 5, "{faults:?}");
        assert!(faults[0].starts_with("line 2: no JSON object, at column"), "{faults:?}");
        assert_eq!(faults[1], "line 3: no JSON object");
        assert_eq!(faults[2], "line 4: line 1 has the same user name", "one name in another case and form");
        assert_eq!(faults[3], "line 5: line 1 has the same address");
        assert!(faults[4].contains("--firebase-signer-key"), "{faults:?}");
        let (batches, _) = batches(file.as_bytes(), Format::Jsonl, None).unwrap();
        assert_eq!(batches[0].lines, [1, 6]);
    }

    #[test]
    fn a_request_holds_what_fits_into_a_body_and_is_answered_in_time() {
        let of = |line: &str, count: usize| {
            let (batches, outcome) = batches(line.repeat(count).as_bytes(), Format::Jsonl, None).unwrap();
            assert!(outcome.refused.is_empty());
            assert_eq!(batches.iter().map(|batch| batch.lines.len()).sum::<usize>(), count);
            for batch in &batches {
                assert!(json!({"accounts": batch.accounts}).to_string().len() < 64 * 1024);
            }
            batches.iter().map(|batch| batch.lines.len()).max().unwrap()
        };
        assert_eq!(of("{\"name\": \"a\"}\n", 3000), MOST_ROWS);
        assert!(of(&format!("{{\"name\": \"{}\"}}\n", "a".repeat(1000)), 200) < 64);
        assert_eq!(of("{\"generate_password\": true}\n", 100), MOST_HASHED);
        let long = format!("{{\"name\": \"{}\"}}\n", "a".repeat(MOST_BYTES));
        let (none, outcome) = batches(long.as_bytes(), Format::Jsonl, None).unwrap();
        assert!(none.is_empty() && outcome.refused[0].what.contains("longer"));
    }

    #[test]
    fn a_hash_of_firebase_gets_the_parameters_of_its_project() {
        let common = json!({"algorithm": "firebase-scrypt", "signer_key": "k"});
        let file = "{\"email\": \"ann@example.com\", \"hash\": \"h\", \"salt\": \"s\"}\n{\"email\": \"bob@example.com\"}\n";
        let (batches, _) = batches(file.as_bytes(), Format::Jsonl, common.as_object()).unwrap();
        let whole = json!({"algorithm": "firebase-scrypt", "signer_key": "k", "hash": "h", "salt": "s"});
        assert_eq!(batches[0].accounts[0], json!({"email": "ann@example.com", "password_hash": whole}));
        assert_eq!(batches[0].accounts[1], json!({"email": "bob@example.com"}));
    }
}
