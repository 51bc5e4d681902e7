//! `palisade users add`: one new account.

use clap::Args;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::super::output::{Output, pretty, text};
use super::{called, handed};
use crate::edge::admin_client::AdminClient;

#[derive(Debug, Args)]
pub(in super::super) struct Add {
    /// The e-mail address. An account without one has a user name, and nothing is mailed to it.
    #[arg(required_unless_present = "username")]
    email: Option<String>,
    /// A user name, which it is signed in to by, too, and by which apps know it (`preferred_username`). No other account
    /// has it or had it.
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// A group, in the claim `groups` of every access token; repeat for more.
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
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
    #[arg(long, requires = "email")]
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

impl Add {
    /// The password from standard input, if it comes from there.
    pub(super) fn password(&self) -> Result<Option<Zeroizing<String>>, String> {
        if self.password_stdin { from_stdin().map(Some) } else { Ok(None) }
    }
}

fn claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((name.to_owned(), value))
}

/// Does what was asked. The text is what to print.
pub(super) async fn run(
    client: &AdminClient,
    add: Add,
    password: Option<Zeroizing<String>>,
) -> Result<String, String> {
    let claims: Map<String, Value> = add.claims.into_iter().collect();
    let body = json!({
        "email": add.email,
        "username": add.username,
        "groups": add.groups,
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
    let mut said = format!("added {} with the id {}", called(&made), text(&made["id"]));
    said.push_str(&handed(&made));
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
}
