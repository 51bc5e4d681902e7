//! `palisade users …`: accounts, over the admin API of the running gateway.

use std::io::IsTerminal;
use std::path::Path;

use clap::{Args, Subcommand};
use comfy_table::Table;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::output::{Output, escaped, list_of, pretty, table, text, time};
use super::{admin, link};
use crate::edge::admin_client::AdminClient;

/// How many accounts one request for a list asks for.
const PAGE: usize = 1000;

/// See and change accounts.
#[derive(Debug, Subcommand)]
pub(super) enum Users {
    /// Every account, oldest first.
    List {
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
  palisade users add ann@example.com --verified --password-hash '$2b$12$…'")]
    Add(Box<Add>),
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
The link is good for an hour and once. With mail.transport = \"none\" nothing is mailed: the link is printed, on a
terminal with a QR code for a telephone, to hand over. Until it is used, no sign-in with a password
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
    /// The account: its id or its e-mail address.
    #[arg(value_name = "USER")]
    user: String,
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// The e-mail address.
    email: String,
    /// What the person is called.
    #[arg(long)]
    name: Option<String>,
    /// Make a random password that meets the policy, and print it.
    #[arg(long, group = "secret")]
    generate_password: bool,
    /// Read the password from standard input. (There is no option for the password itself: it would be in
    /// the shell's history, and visible to every user of this machine.)
    #[arg(long, group = "secret")]
    password_stdin: bool,
    /// Import a hash: bcrypt ($2a$, $2b$, $2y$) or passlib's bcrypt_sha256.
    #[arg(long, value_name = "HASH", group = "secret")]
    password_hash: Option<String>,
    /// Take the address as verified; otherwise a verification is mailed.
    #[arg(long)]
    verified: bool,
    /// A scope of every access token; repeat for more.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// A further claim of every access token; repeat for more. The value is JSON, or else text.
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    claims: Vec<(String, Value)>,
    #[command(flatten)]
    output: Output,
}

fn claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((name.to_owned(), value))
}

/// Does what was asked. The text is what to print.
pub(super) fn run(config: &Path, command: Users) -> Result<String, String> {
    match command {
        Users::List { output } => admin::ask(config, |client| async move { list(&client, &output).await }),
        Users::Show { user, events, output } => {
            admin::ask(config, |client| async move { show(&client, &user, events, &output).await })
        }
        Users::Add(add) => {
            let password = if add.password_stdin { Some(from_stdin()?) } else { None };
            admin::ask(config, |client| async move { self::add(&client, *add, password).await })
        }
        Users::Disable { user } => set(config, &user, json!({"active": false}), "disabled"),
        Users::Enable { user } => set(config, &user, json!({"active": true}), "enabled"),
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

fn set(config: &Path, user: &Named, change: Value, done: &str) -> Result<String, String> {
    admin::ask(config, |client| async move {
        client.patch(&user.path(""), &change).await?;
        Ok(format!("{done} {}", user.user))
    })
}

async fn list(client: &AdminClient, output: &Output) -> Result<String, String> {
    let mut users = Vec::new();
    let mut after = String::new();
    loop {
        let page = client.get(&format!("/admin/v1/users?limit={PAGE}{after}")).await?;
        users.extend(page["users"].as_array().cloned().unwrap_or_default());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    if output.json {
        return Ok(pretty(&Value::Array(users)));
    }
    let mut table = table(&["E-MAIL", "NAME", "STATE", "CREATED", "LAST LOGIN", "ID"]);
    for user in &users {
        table.add_row([
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
    } else if user["email_verified"] == false {
        "unverified"
    } else {
        "active"
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
        ("E-mail", text(&shown["email"])),
        ("Name", text(&shown["name"])),
        ("State", state(&shown).to_owned()),
        ("Password", if shown["has_password"] == true { "set" } else { "none" }.to_owned()),
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

async fn add(client: &AdminClient, add: Add, password: Option<Zeroizing<String>>) -> Result<String, String> {
    let claims: Map<String, Value> = add.claims.into_iter().collect();
    let body = json!({
        "email": add.email,
        "name": add.name,
        "password": password.as_deref(),
        "password_hash": add.password_hash,
        "generate_password": add.generate_password,
        "email_verified": add.verified,
        "scopes": add.scopes,
        "claims": claims,
    });
    let made = client.post("/admin/v1/users", &body).await?;
    if add.output.json {
        return Ok(pretty(&made));
    }
    let mut said = format!("added {} with the id {}", text(&made["email"]), text(&made["id"]));
    if let Some(password) = made["password"].as_str() {
        said.push_str(&format!("\npassword: {password}"));
    }
    if made["has_password"] == false {
        said.push_str(&format!("\n{}", link::shown(&made, "a link that sets a password")));
    } else if made["email_verified"] == false {
        said.push_str(&format!("\n{}", link::shown(&made, "a link that verifies the address")));
    }
    Ok(said)
}

/// A password from standard input, without its last line feed.
fn from_stdin() -> Result<Zeroizing<String>, String> {
    let text = std::io::read_to_string(std::io::stdin().lock()).map(Zeroizing::new);
    let text = text.map_err(|error| format!("standard input cannot be read: {error}"))?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    match password.strip_suffix('\r').unwrap_or(password) {
        "" => Err("no password came from standard input".to_owned()),
        password => Ok(Zeroizing::new(password.to_owned())),
    }
}

/// Asks a person; a script must say `--yes`.
fn confirmed(user: &str) -> Result<bool, String> {
    if !std::io::stdin().is_terminal() {
        return Err("deleting cannot be undone: say --yes to mean it".to_owned());
    }
    eprint!("Delete the account {user} for good? Type `yes`: ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|error| error.to_string())?;
    Ok(answer.trim() == "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_json_or_text() {
        assert_eq!(claim("role=admin").unwrap(), ("role".to_owned(), json!("admin")));
        assert_eq!(claim("level=3").unwrap(), ("level".to_owned(), json!(3)));
        assert_eq!(claim("roles=[\"a\",\"b\"]").unwrap().1, json!(["a", "b"]));
        assert!(claim("role").is_err());
    }

    #[test]
    fn the_state_is_the_word_that_matters_most() {
        let user = |active, locked: Value, verified| json!({"active": active, "locked_until": locked, "email_verified": verified});
        assert_eq!(state(&user(false, json!(5), false)), "disabled");
        let mut frozen = user(true, json!(5), true);
        frozen["frozen"] = json!({"state": "waiting"});
        assert_eq!(state(&frozen), "frozen");
        assert_eq!(state(&user(true, json!(5), false)), "locked");
        assert_eq!(state(&user(true, Value::Null, false)), "unverified");
        assert_eq!(state(&user(true, Value::Null, true)), "active");
    }
}
