//! `palisade users …`: accounts, over the admin API of the running gateway.

mod add;
mod export;
mod import;
mod rows;
mod set;

use std::io::IsTerminal;
use std::path::Path;

use clap::{Args, Subcommand};
use comfy_table::Table;
use serde_json::{Value, json};

use super::output::{Output, escaped, list_of, pretty, table, tell_part, text, time};
use super::{admin, link};
use crate::edge::admin_client::AdminClient;

/// How many accounts one request for a list asks for.
const PAGE: usize = 1000;

/// See and change accounts.
#[derive(Debug, Subcommand)]
pub(super) enum Users {
    /// Every account, oldest first.
    List {
        /// Only accounts with claims of their own that no token says, because the gateway sets claims of these names.
        #[arg(long)]
        ignored_claims: bool,
        #[command(flatten)]
        output: Output,
    },
    /// One account with its sessions and its latest events.
    Show {
        #[command(flatten)]
        user: Named,
        /// Show at most this many events, the latest first, up to 1000. No more than 300 are kept of an account.
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
        events: u16,
        #[command(flatten)]
        output: Output,
    },
    /// Make an account.
    #[command(after_help = "\
Examples:
  palisade users add ann@example.com                          mails her a link that sets a password (1 hour; an
                                                              invitation, `palisade users invite`, is good for 7 days)
  palisade users add ann@example.com --verified --generate-password
  palisade users add ann@example.com --verified --password-stdin < secret
  palisade users add ann@example.com --verified --password-hash '$2b$12$…'
  palisade users add --username ann --group staff             an account without an address: nothing is mailed to it;
                                                              the link that sets its password is printed
  palisade users add ann@example.com --username ann --group staff --group \"Sales, EMEA\"")]
    Add(Box<add::Add>),
    /// Change an account: its address, its user name, its groups, what the person is called.
    #[command(after_help = "\
What is not named stays as it is. `--group` says the whole list of groups; `--add-group` and `--remove-group` leave the
others as they are, whatever they are by now. An empty text takes a name or an address away. What apps are told changes
with the next token: those that are in use are refused from now on, and sessions go on with new ones.

A user name is never given out twice: no other account gets one that this account had, also when it is deleted. The
account itself may take it back.

A new address waits for its verification: a link is mailed to it, and until it is used no sign-in to the account works.
`--verified` vouches for it instead. The account's sessions end when its address is replaced or taken away.

Examples:
  palisade users set ann@example.com --username ann
  palisade users set ann --add-group staff --remove-group trainees
  palisade users set ann --group staff --group \"Sales, EMEA\"   these two and no other
  palisade users set ann --no-groups
  palisade users set ann --email ann@example.com --verified
  palisade users set ann --email \"\"                          no address: nothing is mailed any more")]
    Set(Box<set::Set>),
    /// Make the accounts of a file, in bulk.
    #[command(after_help = "\
The file has an account on each line, as a JSON object (docs/migrating-accounts.md has all members), or is a CSV file
with their names as its head:

  {\"username\": \"ann\", \"email\": \"ann@example.com\", \"email_verified\": true, \"groups\": [\"staff\"]}
  {\"email\": \"bob@example.com\", \"password_hash\": \"pbkdf2_sha256$1000000$…\", \"created_at\": \"2024-05-01T00:00:00Z\"}

Each needs a `username` or an `email`. Empty lines are left out. A `-` in place of the file is standard input.

Every line stands for itself: what can be made is made, and every line that is refused is named with the reason. Lines
that were made already are refused, so a file can be imported again. `--dry-run` says both ahead and makes nothing.

Hashes of bcrypt, Argon2, PBKDF2 and scrypt are taken as Django, Spring, passlib, Keycloak, ASP.NET Identity and Firebase
write them. An account without a password and without an identity at a provider is mailed a link that sets a password;
where no mail is sent, and of an account without an address, the link is printed (`--json`: in .link). `--letters none`
mails nothing.

Examples:
  palisade users import people.jsonl --dry-run
  palisade users import people.csv --letters none
  palisade users import people.jsonl --json > made.json")]
    Import(Box<import::Import>),
    /// Write every account, as `palisade users import` takes it.
    #[command(after_help = "\
The gateway goes on serving, and the file holds what the store held at one moment. Password hashes are in it with
`--hashes` only. Sessions, connections and events are not in it.

Examples:
  palisade users export --output people.jsonl --hashes
  palisade users export --output people.csv
  palisade users export --since 2026-01-31T12:00:00Z      what has changed since, also accounts that were deleted")]
    Export(export::Export),
    /// Invite a person: an account without a password, and a mailed link with which they choose one.
    #[command(after_help = "\
The link is good for 7 days and once; following it shows that the mailbox is theirs, so the address counts as verified.
Invite the same address again to send the same link once more, for another 7 days.

With mail.transport = \"none\" nothing is mailed. The link is printed, on a terminal with a QR code for a telephone:
hand it over in person or by a channel that only this person reads. Any person who has it can take the account.

Examples:
  palisade users invite ann@example.com --name Ann
  palisade users invite ann@example.com --json            the link is in .link where no mail is sent")]
    Invite {
        /// The e-mail address.
        email: String,
        /// What the person is called.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Disable an account: its sessions end, and sign-ins are refused.
    Disable {
        #[command(flatten)]
        user: Named,
    },
    /// Enable a disabled account again.
    Enable {
        #[command(flatten)]
        user: Named,
    },
    /// Delete an account with its sessions; its tokens are refused from now on. There is no way back.
    Delete {
        #[command(flatten)]
        user: Named,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// List an account's sessions, or end them.
    Sessions {
        #[command(flatten)]
        user: Named,
        /// End this one.
        #[arg(long, value_name = "ID", conflicts_with = "end_all")]
        end: Option<String>,
        /// End all of them.
        #[arg(long)]
        end_all: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Decide which address an account gets that is frozen because a change of its address was undone. A link that
    /// sets a new password is mailed to it.
    #[command(after_help = "\
`palisade users show USER` says which addresses it is about. Find out first whose the account is: by a payment, by
what is in it, by other means than these mailboxes.")]
    Unfreeze {
        #[command(flatten)]
        user: Named,
        /// The earlier address or one of the later ones.
        #[arg(long, value_name = "ADDRESS")]
        email: String,
    },
    /// Take the password away, end the sessions, and mail a link that sets a new one.
    #[command(after_help = "\
The link is good for an hour and once. With mail.transport = \"none\", and to an account without an address, nothing is
mailed: the link is printed, on a terminal with a QR code for a telephone, to hand over. Until it is used, no sign-in with a password
works; run the command again for another link.")]
    ResetPassword {
        #[command(flatten)]
        user: Named,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// The account: its id, its e-mail address or its user name.
    #[arg(value_name = "USER")]
    user: String,
}

/// Does what was asked. The text is what to print.
pub(super) fn run(config: &Path, command: Users) -> Result<String, String> {
    match command {
        Users::List { ignored_claims, output } => {
            admin::ask(config, |client| async move { list(&client, ignored_claims, &output).await })
        }
        Users::Show { user, events, output } => {
            admin::ask(config, |client| async move { show(&client, &user, events, &output).await })
        }
        Users::Add(add) => {
            let password = add.password()?;
            admin::ask(config, |client| async move { add::run(&client, *add, password).await })
        }
        Users::Set(wish) => admin::ask(config, |client| async move { set::run(&client, *wish).await }),
        Users::Import(wish) => import::run(config, &wish),
        Users::Export(wish) => export::run(config, &wish),
        Users::Disable { user } => switch(config, &user, json!({"active": false}), "disabled"),
        Users::Enable { user } => switch(config, &user, json!({"active": true}), "enabled"),
        Users::Delete { user, yes } => {
            if !yes && !confirmed(&user.user)? {
                return Err("nothing was deleted".to_owned());
            }
            admin::ask(config, |client| async move {
                client.delete(&user.path("")).await?;
                Ok(format!("deleted {}", user.user))
            })
        }
        Users::Sessions { user, end, end_all, output } => admin::ask(config, |client| async move {
            let ended = match (end, end_all) {
                (Some(id), _) => client.delete(&user.path(&format!("/sessions/{}", escaped(&id)))).await?,
                (None, true) => client.delete(&user.path("/sessions")).await?,
                (None, false) => return sessions(&client, &user, &output).await,
            };
            Ok(format!("ended {}", ended["ended"]))
        }),
        Users::Unfreeze { user, email } => admin::ask(config, |client| async move {
            client.post(&user.path("/unfreeze"), &json!({"email": email})).await?;
            Ok(format!(
                "the account gets {email}; a link that sets a new password is on its way there (where no mail is sent, \
                 `palisade users reset-password` prints one)"
            ))
        }),
        Users::ResetPassword { user, output } => admin::ask(config, |client| async move {
            let made = client.post(&user.path("/reset-password"), &json!({})).await?;
            if output.json {
                return Ok(pretty(&made));
            }
            let link = link::shown(&made, "a link that sets a new password");
            Ok(format!("the password of {} is gone, and the sessions have ended\n{link}", user.user))
        }),
        Users::Invite { email, name, output } => admin::ask(config, |client| async move {
            let made = client.post("/admin/v1/invitations", &json!({"email": email, "name": name})).await?;
            if output.json {
                return Ok(pretty(&made));
            }
            let said = format!("invited {}: the account {}", text(&made["email"]), text(&made["id"]));
            Ok(format!("{said}\n{}", link::shown(&made, "the invitation")))
        }),
    }
}

impl Named {
    fn path(&self, rest: &str) -> String {
        format!("/admin/v1/users/{}{rest}", escaped(&self.user))
    }
}

fn switch(config: &Path, user: &Named, change: Value, done: &str) -> Result<String, String> {
    admin::ask(config, |client| async move {
        client.patch(&user.path(""), &change).await?;
        Ok(format!("{done} {}", user.user))
    })
}

async fn list(client: &AdminClient, ignored_claims: bool, output: &Output) -> Result<String, String> {
    let mut users = Vec::new();
    let mut after = String::new();
    let which = if ignored_claims { "&ignored_claims=true" } else { "" };
    loop {
        let page = client.get(&format!("/admin/v1/users?limit={PAGE}{which}{after}")).await?;
        users.extend(page["users"].as_array().cloned().unwrap_or_default());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    if output.json {
        return Ok(pretty(&Value::Array(users)));
    }
    let mut table = table(&["USER NAME", "E-MAIL", "NAME", "STATE", "CREATED", "LAST LOGIN", "ID"]);
    for user in &users {
        table.add_row([
            text(&user["username"]),
            text(&user["email"]),
            text(&user["name"]),
            state(user).to_owned(),
            time(&user["created_at"]),
            time(&user["last_login_at"]),
            text(&user["id"]),
        ]);
    }
    Ok(table.to_string())
}

/// The one word that matters most.
fn state(user: &Value) -> &'static str {
    if user["active"] == false {
        "disabled"
    } else if user["frozen"].is_object() {
        "frozen"
    } else if user["locked_until"].is_number() {
        "locked"
    } else if awaits_verification(user) {
        "unverified"
    } else {
        "active"
    }
}

/// Whether its address was never verified. An account without one waits for nothing.
fn awaits_verification(user: &Value) -> bool {
    user["email"].is_string() && user["email_verified"] == false
}

/// What an answer calls its account: by what it is signed in to.
fn called(user: &Value) -> String {
    let names = [&user["email"], &user["username"], &user["id"]];
    names.into_iter().find(|name| name.is_string()).map_or_else(String::new, text)
}

/// Names of groups, which may hold spaces and commas.
fn groups(user: &Value) -> String {
    match user["groups"].as_array() {
        Some(groups) if !groups.is_empty() => user["groups"].to_string(),
        _ => text(&Value::Null),
    }
}

async fn show(client: &AdminClient, user: &Named, limit: u16, output: &Output) -> Result<String, String> {
    let mut shown = client.get(&user.path("")).await?;
    let id = shown["id"].as_str().unwrap_or_default().to_owned();
    let events = client.get(&format!("/admin/v1/audit?limit={limit}&user={id}")).await?;
    if output.json {
        shown["events"] = events["events"].clone();
        return Ok(pretty(&shown));
    }
    let mut lines = table(&[]);
    for (label, value) in [
        ("User name", text(&shown["username"])),
        ("E-mail", text(&shown["email"])),
        ("Name", text(&shown["name"])),
        ("State", state(&shown).to_owned()),
        ("Password", if shown["has_password"] == true { "set" } else { "none" }.to_owned()),
        ("Groups", groups(&shown)),
        ("Scopes", list_of(&shown["scopes"])),
        ("Claims", shown["claims"].to_string()),
        ("Token version", shown["token_version"].to_string()),
        ("Created", time(&shown["created_at"])),
        ("Changed", time(&shown["updated_at"])),
        ("Last login", time(&shown["last_login_at"])),
        ("Locked until", time(&shown["locked_until"])),
        ("Frozen", frozen(&shown["frozen"])),
        ("Id", id),
    ] {
        lines.add_row([label.to_owned(), value]);
    }
    let mut log = table(&["WHEN", "WHAT", "OUTCOME", "WHO", "FROM", "WHY"]);
    for event in events["events"].as_array().into_iter().flatten() {
        log.add_row([
            time(&event["at"]),
            text(&event["action"]),
            text(&event["outcome"]),
            text(&event["actor"]),
            text(&event["address"]),
            match &event["details"] {
                Value::Null => text(&event["reason"]),
                details => format!("{} {details}", text(&event["reason"])).trim().to_owned(),
            },
        ]);
    }
    Ok(format!("{lines}\n\nSessions\n{}\n\nLatest events\n{log}", session_table(&shown["sessions"])))
}

/// How a freeze stands, and which addresses it is about.
fn frozen(freeze: &Value) -> String {
    if freeze.is_null() {
        return text(freeze);
    }
    let (earlier, later) = (text(&freeze["earlier_email"]), list_of(&freeze["later_emails"]));
    let stands = match freeze["state"].as_str() {
        Some("waiting") => format!("{earlier} gets it back at {}", time(&freeze["until"])),
        Some("objected") => format!("{earlier} wants it back, and a later address objected"),
        Some("taken") => format!("{earlier} wants it back, and is another account's by now"),
        _ => "decided; waits for a new password".to_owned(),
    };
    format!("since {}: {stands}; later addresses: {later}", time(&freeze["since"]))
}

async fn sessions(client: &AdminClient, user: &Named, output: &Output) -> Result<String, String> {
    let answer = client.get(&user.path("/sessions")).await?;
    if output.json {
        return Ok(pretty(&answer["sessions"]));
    }
    Ok(session_table(&answer["sessions"]).to_string())
}

fn session_table(sessions: &Value) -> Table {
    let mut table = table(&["DEVICE", "PLACE", "ADDRESS", "CREATED", "LAST USED", "ENDS", "ID"]);
    for session in sessions.as_array().into_iter().flatten() {
        table.add_row([
            text(&session["device"]),
            text(&session["place"]),
            text(&session["address"]),
            time(&session["created_at"]),
            time(&session["last_used_at"]),
            time(&session["expires_at"]),
            text(&session["id"]),
        ]);
    }
    table
}

/// What is to be handed over or is on its way, below what was said of a new account.
fn handed(made: &Value) -> String {
    let mut said = String::new();
    if let Some(password) = made["password"].as_str() {
        said.push_str(&format!("\npassword: {password}"));
    }
    if made["has_password"] == false {
        said.push_str(&format!("\n{}", link::shown(made, "a link that sets a password")));
    } else if awaits_verification(made) {
        said.push_str(&format!("\n{}", link::shown(made, "a link that verifies the address")));
    }
    said
}

/// Asks a person; a script must say `--yes`.
fn confirmed(user: &str) -> Result<bool, String> {
    if !std::io::stdin().is_terminal() {
        return Err("deleting cannot be undone: say --yes to mean it".to_owned());
    }
    tell_part(format_args!("Delete the account {user} for good? Type `yes`: "));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|error| error.to_string())?;
    Ok(answer.trim() == "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_the_word_that_matters_most() {
        let user = |active, locked: Value, verified| {
            let email = "ann@example.com";
            json!({"active": active, "locked_until": locked, "email": email, "email_verified": verified})
        };
        assert_eq!(state(&user(false, json!(5), false)), "disabled");
        let mut frozen = user(true, json!(5), true);
        frozen["frozen"] = json!({"state": "waiting"});
        assert_eq!(state(&frozen), "frozen");
        assert_eq!(state(&user(true, json!(5), false)), "locked");
        assert_eq!(state(&user(true, Value::Null, false)), "unverified");
        assert_eq!(state(&user(true, Value::Null, true)), "active");
        let mut none = user(true, Value::Null, false);
        none["email"] = Value::Null;
        assert_eq!(state(&none), "active", "there is nothing to verify");
    }

    #[test]
    fn an_account_is_called_by_what_it_is_signed_in_to() {
        let both =
            json!({"id": "1", "email": "ann@example.com", "username": "ann", "groups": ["a b", "c, d"]});
        assert_eq!(
            (called(&both).as_str(), groups(&both).as_str()),
            ("ann@example.com", r#"["a b","c, d"]"#)
        );
        let none = json!({"id": "1", "email": null, "username": "ann", "groups": []});
        assert_eq!((called(&none).as_str(), groups(&none).as_str()), ("ann", "–"));
    }
}
