//! `palisade users import`: the accounts of a file, one on each line.
//!
//! Every line is checked before the first account is made, so that a fault in the file leaves nothing half done.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::path::Path;

use serde_json::{Value, json};

use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::username::Username;

use super::super::admin;
use super::super::output::{Output, pretty, text};
use super::{called, handed};
use crate::edge::admin_client::AdminClient;

/// The account on a line.
struct Wanted {
    /// Its number in the file, from 1.
    line: usize,
    /// The body of the request that makes it.
    body: Value,
}

/// Does what was asked. The text is what to print.
pub(super) fn run(config: &Path, file: &Path, dry_run: bool, output: &Output) -> Result<String, String> {
    let text = match file.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin().lock()),
        _ => std::fs::read_to_string(file),
    };
    let text = text.map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    let (wanted, mut faults) = read(&text);
    admin::ask(config, |client| async move {
        // One that is not reached is told once, not for every line.
        client.get("/admin/v1/users?limit=1").await?;
        faults.extend(check(&client, &wanted).await);
        if !faults.is_empty() {
            faults.sort_by_key(|fault| fault.line);
            let told: Vec<String> = faults.iter().map(Fault::told).collect();
            return Err(format!("nothing was made:\n{}", told.join("\n")));
        }
        if dry_run {
            let checked = json!({"checked": wanted.len(), "made": 0});
            return Ok(match output.json {
                true => pretty(&checked),
                false => format!("{} can be made; nothing was", accounts(wanted.len())),
            });
        }
        make(&client, &wanted, output).await
    })
}

/// What is wrong with a line.
struct Fault {
    line: usize,
    what: String,
}

impl Fault {
    fn told(&self) -> String {
        format!("line {}: {}", self.line, self.what)
    }
}

/// The accounts of a file, and what is wrong with it: no JSON object, or two accounts with one user name or one address.
fn read(text: &str) -> (Vec<Wanted>, Vec<Fault>) {
    let (mut wanted, mut faults) = (Vec::new(), Vec::new());
    let (mut names, mut addresses) = (HashMap::new(), HashMap::new());
    // Spreadsheets and editors of some systems put a byte order mark first.
    for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let at = at + 1;
        let mut fault = |what: String| faults.push(Fault { line: at, what });
        if line.trim().is_empty() {
            continue;
        }
        let body = match serde_json::from_str(line) {
            Ok(Value::Object(account)) if account.contains_key("dry_run") => {
                fault("`dry_run` is for the whole file: --dry-run".to_owned());
                continue;
            }
            Ok(Value::Object(account)) => Value::Object(account),
            Ok(_) => {
                fault("no JSON object".to_owned());
                continue;
            }
            Err(error) => {
                fault(format!("no JSON object, at column {}", error.column()));
                continue;
            }
        };
        // What is no name or address at all, the gateway says.
        let name = body["username"].as_str().and_then(|name| name.parse::<Username>().ok());
        let address = body["email"].as_str().and_then(|email| email.parse::<EmailAddress>().ok());
        let twice = [
            name.and_then(|name| met(&mut names, name.fingerprint(), at)).map(|first| ("user name", first)),
            address.and_then(|email| met(&mut addresses, email, at)).map(|first| ("address", first)),
        ];
        for (what, first) in twice.into_iter().flatten() {
            fault(format!("line {first} has the same {what}"));
        }
        wanted.push(Wanted { line: at, body });
    }
    if wanted.is_empty() && faults.is_empty() {
        faults.push(Fault { line: 1, what: "the file has no account".to_owned() });
    }
    (wanted, faults)
}

/// The line that had this first; `None` for the first one.
fn met<K: Hash + Eq>(seen: &mut HashMap<K, usize>, key: K, line: usize) -> Option<usize> {
    match seen.entry(key) {
        Entry::Occupied(first) => Some(*first.get()),
        Entry::Vacant(place) => {
            place.insert(line);
            None
        }
    }
}

fn accounts(count: usize) -> String {
    if count == 1 { "1 account".to_owned() } else { format!("{count} accounts") }
}

/// What the gateway says against each of them.
async fn check(client: &AdminClient, wanted: &[Wanted]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for Wanted { line, body } in wanted {
        let mut body = body.clone();
        body["dry_run"] = json!(true);
        if let Err(error) = client.post("/admin/v1/users", &body).await {
            faults.push(Fault { line: *line, what: error });
        }
    }
    faults
}

async fn make(client: &AdminClient, wanted: &[Wanted], output: &Output) -> Result<String, String> {
    let mut made: Vec<Value> = Vec::with_capacity(wanted.len());
    for Wanted { line, body } in wanted {
        match client.post("/admin/v1/users", body).await {
            Ok(mut account) => {
                account["line"] = json!(line);
                made.push(account);
            }
            Err(error) => {
                // What was made may have to be handed over.
                println!("{}", told(&made, output));
                return Err(format!(
                    "line {line}: {error}\n{} of the lines before it were made, and none behind it. Take those lines out of \
                     the file and import it again; if the gateway did not answer, see first whether there is the account of \
                     line {line}, too",
                    accounts(made.len())
                ));
            }
        }
    }
    Ok(told(&made, output))
}

/// What became of the accounts, with what is to be handed over.
fn told(made: &[Value], output: &Output) -> String {
    if output.json {
        return pretty(&Value::Array(made.to_vec()));
    }
    let mut lines: Vec<String> = Vec::new();
    for account in made {
        let handed = match account["password"].is_string() || account["link"].is_string() {
            true => handed(account),
            false => String::new(),
        };
        lines.push(format!("{} with the id {}{handed}", called(account), text(&account["id"])));
    }
    format!("made {}:\n{}", accounts(made.len()), lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        read(text).1.iter().map(Fault::told).collect()
    }

    #[test]
    fn a_file_has_an_account_on_each_line() {
        let file = "\u{feff}{\"username\": \"ann\"}\r\n\n  \n{\"email\": \"bob@example.com\", \"groups\": [\"a\"]}\n";
        let (wanted, faulty) = read(file);
        assert!(faulty.is_empty());
        let lines: Vec<usize> = wanted.iter().map(|one| one.line).collect();
        assert_eq!(lines, [1, 4]);
        assert_eq!(wanted[1].body["groups"], json!(["a"]));
        assert_eq!(faults(" \n"), ["line 1: the file has no account"]);
    }

    #[test]
    fn every_fault_is_named_by_its_line() {
        let file = concat!(
            "{\"username\": \"Ann\", \"email\": \"ann@example.com\"}\n",
            "{\"username\": \"bob\"\n",
            "[1]\n",
            "{\"username\": \"ａｎｎ\"}\n",
            "{\"username\": \"cid\", \"email\": \"ANN@EXAMPLE.COM\"}\n",
            "{\"username\": \"dan\", \"dry_run\": true}\n",
            "{\"username\": \"not @ name\"}\n",
        );
        let faults = faults(file);
        assert_eq!(faults.len(), 5, "{faults:?}");
        assert!(faults[0].starts_with("line 2: no JSON object, at column"), "{faults:?}");
        assert_eq!(faults[1], "line 3: no JSON object");
        assert_eq!(faults[2], "line 4: line 1 has the same user name", "one name in another case and form");
        assert_eq!(faults[3], "line 5: line 1 has the same address");
        assert!(faults[4].starts_with("line 6: `dry_run`"), "{faults:?}");
    }
}
