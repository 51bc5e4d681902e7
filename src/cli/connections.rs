//! `palisade connections …`: users' connections to providers, over the admin API of the running gateway.

use std::path::Path;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::admin;
use super::output::{Output, escaped, list_of, pretty, table, text, time};
use crate::edge::admin_client::AdminClient;

/// How many connections one request for a list asks for.
const PAGE: usize = 1000;

/// See and end connections.
#[derive(Debug, Subcommand)]
pub(super) enum Connections {
    /// Connections, those of one user or of all.
    #[command(after_help = "\
Examples:
  palisade connections list --status reconnect_needed         who must connect again
  palisade connections list --provider google
  palisade connections list --user ann@example.com --json

A connection is `pending` until its user has given consent, `active` while its tokens are good,
`reconnect_needed` when the provider does not honour them any more, and `revoked` when it was ended.")]
    List {
        /// Only this account's: its id, its e-mail address or its user name.
        #[arg(long, value_name = "USER")]
        user: Option<String>,
        /// Only those that stand like this.
        #[arg(long)]
        status: Option<Status>,
        /// Only those to this provider, by its name in the configuration.
        #[arg(long, value_name = "NAME")]
        provider: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// One connection: how it stands, whose account it is, and how its last refresh failed. Shows no token.
    Show {
        #[command(flatten)]
        connection: Named,
        #[command(flatten)]
        output: Output,
    },
    /// Refresh now, though the access token may be good: after the provider or its settings were mended.
    Refresh {
        #[command(flatten)]
        connection: Named,
    },
    /// End a connection: the provider is told, the tokens are erased, the record stays.
    ///
    /// There is no way back but consent: the user must connect again.
    #[command(
        after_help = "Example:\n  palisade connections revoke ann@example.com 019b1e25-4f6a-7d10-8e2b-6c9d1f3a5b7e"
    )]
    Revoke {
        #[command(flatten)]
        connection: Named,
    },
}

/// How a connection stands.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum Status {
    Pending,
    Active,
    ReconnectNeeded,
    Revoked,
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// The account: its id, its e-mail address or its user name.
    #[arg(value_name = "USER")]
    user: String,
    /// The connection's id, as `palisade connections list` shows it.
    #[arg(value_name = "ID")]
    id: String,
}

impl Named {
    fn path(&self, rest: &str) -> String {
        format!("/admin/v1/users/{}/connections/{}{rest}", escaped(&self.user), escaped(&self.id))
    }
}

/// Does what was asked. The text is what to print.
pub(super) fn run(config: &Path, command: Connections) -> Result<String, String> {
    match command {
        Connections::List { user, status, provider, output } => {
            let word = status.and_then(|status| status.to_possible_value());
            let filters = [
                ("user", user),
                ("status", word.map(|word| word.get_name().to_owned())),
                ("provider", provider),
            ];
            let filters: String = filters
                .iter()
                .filter_map(|(name, value)| Some(format!("&{name}={}", escaped(value.as_deref()?))))
                .collect();
            admin::ask(config, |client| async move { list(&client, &filters, &output).await })
        }
        Connections::Show { connection, output } => {
            admin::ask(config, |client| async move { show(&client, &connection, &output).await })
        }
        Connections::Refresh { connection } => admin::ask(config, |client| async move {
            let refreshed = client.post(&connection.path("/refresh"), &json!({})).await?;
            Ok(match refreshed["expires_at"].is_number() {
                true => format!("refreshed; the new token is good until {}", time(&refreshed["expires_at"])),
                false => "refreshed".to_owned(),
            })
        }),
        Connections::Revoke { connection } => admin::ask(config, |client| async move {
            client.delete(&connection.path("")).await?;
            Ok(format!("ended {}", connection.id))
        }),
    }
}

async fn list(client: &AdminClient, filters: &str, output: &Output) -> Result<String, String> {
    let mut connections = Vec::new();
    let mut after = String::new();
    loop {
        let page = client.get(&format!("/admin/v1/connections?limit={PAGE}{filters}{after}")).await?;
        connections.extend(page["connections"].as_array().cloned().unwrap_or_default());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    if output.json {
        return Ok(pretty(&Value::Array(connections)));
    }
    let mut table =
        table(&["PROVIDER", "STATUS", "ACCOUNT", "TOKEN ENDS", "REFRESHED", "FAILURES", "USER", "ID"]);
    for connection in &connections {
        table.add_row([
            text(&connection["provider"]),
            text(&connection["status"]),
            whose(connection),
            time(&connection["expires_at"]),
            time(&connection["refreshed_at"]),
            connection["failures"].to_string(),
            text(&connection["user"]),
            text(&connection["id"]),
        ]);
    }
    Ok(table.to_string())
}

/// The account at the provider, by what a person knows it by.
fn whose(connection: &Value) -> String {
    let account = &connection["account"];
    let known = ["email", "name", "subject"].into_iter().map(|member| &account[member]);
    known.into_iter().find(|value| value.is_string()).map_or_else(|| "–".to_owned(), text)
}

async fn show(client: &AdminClient, connection: &Named, output: &Output) -> Result<String, String> {
    let shown = client.get(&connection.path("")).await?;
    if output.json {
        return Ok(pretty(&shown));
    }
    let fault = &shown["last_fault"];
    let parameters = shown["parameters"].as_object().into_iter().flatten();
    let parameters: Vec<String> =
        parameters.map(|(name, value)| format!("{}={}", text(&json!(name)), text(value))).collect();
    let mut lines = table(&[]);
    for (label, value) in [
        ("Provider", text(&shown["provider"])),
        ("Status", text(&shown["status"])),
        ("Account", whose(&shown)),
        ("Its subject", text(&shown["account"]["subject"])),
        ("Parameters", if parameters.is_empty() { "–".to_owned() } else { parameters.join(" ") }),
        ("Scopes asked", list_of(&shown["scopes_asked"])),
        ("Scopes granted", list_of(&shown["scopes_granted"])),
        ("Token ends", time(&shown["expires_at"])),
        ("Grant ends", time(&shown["refresh_expires_at"])),
        ("Begun", time(&shown["created_at"])),
        ("Consent given", time(&shown["connected_at"])),
        ("Refreshed", time(&shown["refreshed_at"])),
        ("Failures in a row", shown["failures"].to_string()),
        ("Last failure", format!("{} {}", time(&fault["at"]), text(&fault["kind"]))),
        ("Its reason", text(&fault["reason"])),
        ("Left out of its tokens", list_of(&shown["notes"])),
        ("Not tried before", time(&shown["retry_at"])),
        ("User", text(&shown["user"])),
        ("Id", text(&shown["id"])),
    ] {
        lines.add_row([label.to_owned(), value]);
    }
    Ok(lines.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_named_by_what_people_know() {
        let of = |account: Value| whose(&json!({ "account": account }));
        assert_eq!(of(json!({"subject": "42", "email": "a@b.test", "name": "Ann"})), "a@b.test");
        assert_eq!(of(json!({"subject": "42", "email": null, "name": "Ann\u{1b}[2J"})), "Ann?[2J");
        assert_eq!(of(json!({"subject": "42", "email": null, "name": null})), "42");
        assert_eq!(of(Value::Null), "–");
    }

    #[test]
    fn what_is_asked_for_stays_in_its_place() {
        let named = Named { user: "a/b@example.com".to_owned(), id: "../x?y".to_owned() };
        assert_eq!(
            named.path("/refresh"),
            "/admin/v1/users/a%2Fb@example.com/connections/..%2Fx%3Fy/refresh"
        );
        let words: Vec<String> = Status::value_variants()
            .iter()
            .filter_map(|status| Some(status.to_possible_value()?.get_name().to_owned()))
            .collect();
        assert_eq!(words, ["pending", "active", "reconnect_needed", "revoked"]);
    }
}
