//! `palisade users set`: what an operator changes of an account.

use clap::Args;
use serde_json::{Map, Value, json};

use super::super::output::{Output, pretty, text};
use super::{Named, awaits_verification, called, groups};
use crate::edge::admin_client::AdminClient;

#[derive(Debug, Args)]
pub(in super::super) struct Set {
    #[command(flatten)]
    user: Named,
    /// What the person is called.
    #[arg(long)]
    name: Option<String>,
    /// The user name, in place of the one that it has.
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// The e-mail address, in place of the one that it has.
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// Take the address as verified.
    #[arg(long)]
    verified: bool,
    /// A group; repeat for more. Together they are in place of all that it has.
    #[arg(long = "group", value_name = "GROUP", conflicts_with_all = ["add_groups", "remove_groups", "no_groups"])]
    groups: Vec<String>,
    /// A further group; repeat for more.
    #[arg(long = "add-group", value_name = "GROUP", conflicts_with = "no_groups")]
    add_groups: Vec<String>,
    /// A group that it leaves; repeat for more. No fault where it is not in it.
    #[arg(long = "remove-group", value_name = "GROUP", conflicts_with = "no_groups")]
    remove_groups: Vec<String>,
    /// Take it out of every group.
    #[arg(long)]
    no_groups: bool,
    #[command(flatten)]
    output: Output,
}

/// Does what was asked. The text is what to print.
pub(super) async fn run(client: &AdminClient, wish: Set) -> Result<String, String> {
    let change = change(&wish)?;
    let user = client.patch(&wish.user.path(""), &change).await?;
    if wish.output.json {
        return Ok(pretty(&user));
    }
    let mut said = format!(
        "{} has the user name {}, the address {} and the groups {}",
        called(&user),
        text(&user["username"]),
        text(&user["email"]),
        groups(&user)
    );
    if awaits_verification(&user) {
        said.push_str(
            "\nthe address waits for its verification, and so does every sign-in: where mail is sent, a link is on its way \
             to a new address; `--verified` vouches for it",
        );
    }
    Ok(said)
}

/// The body of the request.
fn change(wish: &Set) -> Result<Value, String> {
    let mut change = Map::new();
    let texts = [("name", &wish.name), ("username", &wish.username), ("email", &wish.email)];
    for (name, given) in texts {
        if let Some(given) = given {
            change.insert(name.to_owned(), json!(given));
        }
    }
    if wish.verified {
        change.insert("email_verified".to_owned(), json!(true));
    }
    if wish.no_groups || !wish.groups.is_empty() {
        change.insert("groups".to_owned(), json!(wish.groups));
    }
    for (name, given) in [("add_groups", &wish.add_groups), ("remove_groups", &wish.remove_groups)] {
        if !given.is_empty() {
            change.insert(name.to_owned(), json!(given));
        }
    }
    if change.is_empty() {
        return Err("say what to change: --name, --username, --email, --verified, --group, --add-group, --remove-group or \
                    --no-groups"
            .to_owned());
    }
    Ok(Value::Object(change))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        set: Set,
    }

    fn of(line: &str) -> Result<Value, String> {
        let words = std::iter::once("set").chain(line.split('|'));
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        change(&line.set)
    }

    #[test]
    fn groups_are_replaced_added_and_removed() {
        for (line, body) in [
            ("ann|--group|b|--group|a, b", json!({"groups": ["b", "a, b"]})),
            ("ann|--no-groups", json!({"groups": []})),
            ("ann|--add-group|a|--remove-group|b", json!({"add_groups": ["a"], "remove_groups": ["b"]})),
            (
                "ann|--username|ann.lee|--email||--name|Ann",
                json!({"username": "ann.lee", "email": "", "name": "Ann"}),
            ),
            ("ann|--email|a@b.test|--verified", json!({"email": "a@b.test", "email_verified": true})),
        ] {
            assert_eq!(of(line).unwrap(), body, "{line}");
        }
    }

    #[test]
    fn what_contradicts_itself_or_changes_nothing_is_refused() {
        for line in [
            "ann|--group|a|--add-group|b",
            "ann|--group|a|--no-groups",
            "ann|--no-groups|--remove-group|b",
            "ann",
            "",
        ] {
            assert!(of(line).is_err(), "{line}");
        }
    }
}
