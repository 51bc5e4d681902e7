//! `palisade providers …`: the catalogue of providers whose settings come with Palisade.
//!
//! Needs neither a running gateway nor a configuration, and calls no provider.

use clap::Subcommand;

use super::output::table;
use crate::config::catalogue::{self, Entry};

/// See the catalogue of providers.
#[derive(Debug, Subcommand)]
pub(super) enum Providers {
    /// Every provider of the catalogue: its name for config.toml, what knows it, and what its users give.
    #[command(after_help = "\
A provider that is not here needs no more than its settings, if it speaks OAuth 2.0: see docs/oauth2.md.

Examples:
  palisade providers list
  palisade providers list --json | jq -r '.[] | select(.component == \"builtin:oauth2\") | .docs'")]
    List {
        /// JSON, for programs, with all that the catalogue says.
        #[arg(long)]
        json: bool,
    },
    /// Print a [[providers]] block for config.toml, with what there is to know about the provider.
    ///
    /// Credentials are references to environment variables, which you set to what the provider gave you.
    #[command(after_help = "Example:\n  palisade providers show zendesk >> config.toml")]
    Show {
        /// Which one; `palisade providers list` names them.
        name: String,
    },
}

/// Does what was asked. The text is what to print.
pub(super) fn run(command: &Providers) -> Result<String, String> {
    match command {
        Providers::List { json: false } => Ok(listed(&catalogue::list())),
        // Text, lists and tables of them can be written as JSON.
        Providers::List { json: true } => {
            Ok(serde_json::to_string_pretty(&catalogue::list()).unwrap_or_default())
        }
        Providers::Show { name } => match catalogue::find(name) {
            Ok(entry) => Ok(catalogue::block(&entry)),
            Err(unknown) => Err(unknown.to_string()),
        },
    }
}

fn listed(entries: &[Entry]) -> String {
    let mut table = table(&["NAME", "PROVIDER", "COMPONENT", "USERS GIVE"]);
    for entry in entries {
        let given: Vec<String> = entry.parameters().into_iter().map(|parameter| parameter.name).collect();
        let given = if given.is_empty() { "–".to_owned() } else { given.join(" ") };
        table.add_row([&entry.name, &entry.display_name, &entry.component, &given]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_provider() {
        let entries = catalogue::list();
        let listed = listed(&entries);
        assert_eq!(listed.lines().count(), entries.len() + 1);
        let zendesk = listed.lines().find(|line| line.trim_start().starts_with("zendesk ")).unwrap();
        let words: Vec<&str> = zendesk.split_whitespace().collect();
        assert_eq!(words, ["zendesk", "Zendesk", "builtin:oauth2", "subdomain"]);
    }

    #[test]
    fn the_whole_catalogue_is_json() {
        let json = run(&Providers::List { json: true }).unwrap();
        let read: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
        assert_eq!(read.len(), catalogue::list().len());
        let zendesk = read.iter().find(|entry| entry["name"] == "zendesk").unwrap();
        assert_eq!(zendesk["settings"]["parameters"][0]["name"], "subdomain");
    }

    #[test]
    fn a_provider_that_is_not_there_is_said() {
        let shown = run(&Providers::Show { name: "zendesk".to_owned() }).unwrap();
        assert!(shown.contains("\nname = \"zendesk\"\n"), "{shown}");
        let said = run(&Providers::Show { name: "zendesc".to_owned() }).unwrap_err();
        assert!(said.contains("did you mean \"zendesk\"?"), "{said}");
    }
}
