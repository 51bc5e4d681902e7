//! The catalogue: what is known of providers, as `plugins/catalog/*.toml` says it, and the block of
//! `config.toml` that comes of it. The files are part of the binary; nothing is read from disk or network.
//!
//! It is for the command line only: what is not in `config.toml` is not in force.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::form;

/// The files' text, by their names.
macro_rules! files {
    ($($name:literal)*) => { &[$(include_str!(concat!("../../plugins/catalog/", $name, ".toml"))),*] };
}

/// In alphabetical order. A test compares this with the folder.
#[rustfmt::skip]
const FILES: &[&str] = files![
    "adobe" "airtable" "amazon" "apple" "asana" "atlassian" "auth0" "basecamp" "battlenet" "bitbucket"
    "box" "brex" "calendly" "canva" "clickup" "cognito" "coinbase" "deel" "digitalocean" "dingtalk"
    "discord" "docusign" "dropbox" "ebay" "entra" "etsy" "eventbrite" "facebook" "feishu" "figma"
    "freshbooks" "front" "garmin" "github" "gitlab" "gitlab-self-managed" "google" "gumroad" "gusto"
    "harvest" "hubspot" "instagram" "intercom" "kakao" "keycloak" "lark" "line" "linear" "linkedin"
    "mailchimp" "mercury" "miro" "monday" "naver" "netsuite" "notion" "okta" "oura" "patreon" "paypal"
    "pinterest" "pipedrive" "quickbooks" "ramp" "reddit" "ringcentral" "sage" "salesforce" "schwab"
    "shopify" "slack" "smartthings" "snapchat" "spotify" "square" "strava" "stripe" "tesla" "tiktok"
    "todoist" "twitch" "typeform" "wave" "webex" "webflow" "wechat" "whoop" "withings" "wordpress" "x"
    "xero" "yahoo" "youtube" "zendesk" "zoho" "zoom"
];

/// One provider of the catalogue.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What it is called in `config.toml`; also the name of its file.
    pub name: String,
    /// What people call it.
    pub display_name: String,
    /// The provider's own documentation of what is said here.
    pub docs: String,
    /// `builtin:oauth2`, or the built-in component that knows this provider.
    pub component: String,
    /// Why settings are not enough, where there is a component of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The hosts of its endpoints. A leading `*.` stands for one or more labels.
    pub allowed_hosts: Vec<String>,
    /// Scopes to begin with.
    pub scopes: Vec<String>,
    /// What an operator must know, a sentence or two each.
    pub notes: Vec<String>,
    /// As docs/oauth2.md has them; empty where the component knows everything itself.
    #[serde(default)]
    pub settings: toml::Table,
    /// The whole file, from which the settings are shown as they were written.
    #[serde(skip)]
    text: &'static str,
}

/// What each user gives when connecting; one of `parameters` in docs/oauth2.md.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// The name by which URLs have it.
    pub name: String,
    /// What it is, in words for the user.
    pub summary: String,
    /// The regular expression that the whole value must match.
    pub pattern: String,
    /// A value that would do.
    pub example: String,
}

impl Entry {
    /// What each user of this provider gives when connecting.
    #[must_use]
    pub fn parameters(&self) -> Vec<Parameter> {
        let parameters = self.settings.get("parameters").cloned();
        // A test reads those of every file.
        parameters.map(|list| list.try_into().expect("parameters of the catalogue")).unwrap_or_default()
    }

    /// `NAME_CLIENT_ID` and the like: the environment variable that holds `what`.
    fn variable(&self, what: &str) -> String {
        format!("{}_{what}", self.name.to_ascii_uppercase().replace('-', "_"))
    }
}

/// No provider is called so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// What was asked for.
    pub name: String,
    /// What may have been meant.
    pub near: Option<String>,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the catalogue has no provider {}", form::quoted(&self.name))?;
        match &self.near {
            Some(near) => write!(f, "; did you mean {near:?}?"),
            None => f.write_str("; `palisade providers list` names those it has"),
        }
    }
}

impl std::error::Error for Unknown {}

/// Every provider of the catalogue, by name.
#[must_use]
pub fn list() -> Vec<Entry> {
    let read = |&text: &&'static str| {
        // The text is part of the binary, and a test reads every file.
        let entry: Entry = toml::from_str(text).expect("a file of the catalogue");
        Entry { text, ..entry }
    };
    FILES.iter().map(read).collect()
}

/// The provider called `name`, in whatever case.
///
/// # Errors
/// There is none, but perhaps one that was meant: by what people call it, or but for a slip.
pub fn find(name: &str) -> Result<Entry, Unknown> {
    let entries = list();
    let wanted = name.to_ascii_lowercase();
    let meant = |entry: &&Entry| {
        let people_say = entry.display_name.to_ascii_lowercase();
        people_say.split(|c: char| !c.is_alphanumeric()).any(|word| !word.is_empty() && word == wanted)
    };
    let near = match entries.iter().find(meant) {
        Some(entry) => Some(entry.name.clone()),
        None => {
            let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
            form::nearest(&wanted, &names).map(str::to_owned)
        }
    };
    let found = entries.into_iter().find(|entry| entry.name == wanted);
    found.ok_or_else(|| Unknown { name: name.to_owned(), near })
}

/// A `[[providers]]` block for `config.toml`, with what the operator must know as comments.
#[must_use]
pub fn block(entry: &Entry) -> String {
    let mut lines = vec![format!("# {}: {}", entry.display_name, entry.docs)];
    lines.extend(entry.notes.iter().map(|note| format!("# - {note}")));
    for parameter in entry.parameters() {
        let Parameter { name, summary, example, .. } = parameter;
        lines.push(format!("# Each user gives `{name}` when connecting, such as {example}: {summary}."));
    }
    lines.push("# The redirect URL to register: your public_url, then /auth/connections/callback".to_owned());
    lines.push("[[providers]]".to_owned());
    lines.push(format!("name = {:?}", entry.name));
    lines.push(format!("display_name = {:?}", entry.display_name));
    if let Some(why) = &entry.why {
        lines.push(format!("# {why}"));
    }
    lines.push(format!("component = {:?}", entry.component));
    lines.push(format!("client_id = \"env:{}\"", entry.variable("CLIENT_ID")));
    // Public clients have no secret.
    if entry.settings.get("client_auth").and_then(toml::Value::as_str) != Some("none") {
        lines.push(format!("client_secret = \"env:{}\"", entry.variable("CLIENT_SECRET")));
    }
    lines.push(format!("allowed_hosts = {:?}", entry.allowed_hosts));
    lines.push("# To begin with; ask for no more than the app needs.".to_owned());
    lines.push(format!("scopes = {:?}", entry.scopes));
    if let Some((_, settings)) = entry.text.split_once("\n[settings]\n") {
        lines.push("\n[providers.settings]".to_owned());
        if entry.component == "builtin:oauth2" {
            lines.push(format!("docs = {:?}", entry.docs));
        }
        // Also what follows a second bracket: `[[settings.parameters]]`.
        lines.push(settings.trim_end().replace("[settings.", "[providers.settings."));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use regex::Regex;
    use toml::Value;

    use super::*;
    use crate::config::BUILT_IN;
    use palisade_core::domain::pattern::HostPattern;

    /// What `docs/oauth2.md` says of a setting: what it holds, and what it means.
    type Documented = BTreeMap<&'static str, (&'static str, &'static str)>;

    fn documented() -> Documented {
        let page = include_str!("../../docs/oauth2.md");
        let settings = page.split("\n## ").find(|part| part.starts_with("Settings\n")).unwrap();
        let mut known = BTreeMap::new();
        for row in settings.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            let [keys, holds, means] = cells[..] else { panic!("{row}") };
            known.extend(in_backticks(keys).map(|key| (key, (holds, means))));
        }
        assert!(known.len() > 40, "the tables of docs/oauth2.md were not found");
        known
    }

    fn in_backticks(text: &'static str) -> impl Iterator<Item = &'static str> {
        text.split('`').skip(1).step_by(2)
    }

    /// The words that a setting may hold; none: it is free.
    fn choices(holds: &'static str, known: &Documented) -> Vec<&'static str> {
        let word = |word: &'static str| match word.strip_prefix('"') {
            Some(word) => vec![word.trim_end_matches('"')],
            // "as `client_auth`, or …"
            None => choices(known[word].0, known),
        };
        in_backticks(holds).flat_map(word).collect()
    }

    fn fits(value: &Value, holds: &'static str, known: &Documented) -> bool {
        let choices = choices(holds, known);
        match value {
            Value::String(_) if choices.is_empty() => ["URL", "text", "name"].contains(&holds),
            Value::String(text) => choices.contains(&text.as_str()),
            Value::Boolean(_) => holds == "boolean",
            Value::Integer(seconds) => holds == "seconds" && *seconds > 0,
            Value::Array(_) => holds.starts_with("list of"),
            Value::Table(_) => holds.starts_with("table"),
            _ => false,
        }
    }

    /// The endpoints, with examples for what users give.
    fn urls(entry: &Entry) -> Vec<String> {
        let parameters = entry.parameters();
        let filled = |url: &str| {
            parameters.iter().fold(url.to_owned(), |url, given| {
                url.replace(&format!("${{{}}}", given.name), &given.example)
            })
        };
        let settings = entry.settings.iter().filter(|(key, _)| key.ends_with("_url"));
        settings.map(|(_, url)| filled(url.as_str().unwrap())).collect()
    }

    fn allows(allowed: &str, host: &str) -> bool {
        HostPattern::of(allowed).takes(host)
    }

    fn word<'a>(entry: &'a Entry, key: &str) -> Option<&'a str> {
        entry.settings.get(key).and_then(Value::as_str)
    }

    #[test]
    fn the_catalogue_is_the_folder() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/catalog");
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        let mut stems: Vec<String> = files
            .filter(|file| file.extension().is_some_and(|extension| extension == "toml"))
            .map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        stems.sort();
        let names: Vec<String> = list().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, stems);
        assert!(names.len() >= 45);
    }

    #[test]
    fn an_entry_says_what_it_must_in_lines_of_its_own() {
        for entry in list() {
            let Entry { name, display_name, docs, why, allowed_hosts, scopes, notes, .. } = &entry;
            assert!(form::is_label(name) && name.to_ascii_lowercase() == *name, "{name}");
            assert!(form::Url::parse(docs).is_some_and(|url| url.tls), "{name}: {docs}");
            assert!(!notes.is_empty() && !allowed_hosts.is_empty(), "{name}");
            let texts = notes.iter().chain(scopes).chain(why).chain([display_name]);
            for text in texts {
                assert!(!text.is_empty() && !text.contains(char::is_control), "{name}: {text:?}");
            }
            let component = entry.component.strip_prefix("builtin:").unwrap();
            assert!(BUILT_IN.contains(&component), "{name}: {component}");
            let own = component != "oauth2";
            assert_eq!(own, why.is_some(), "{name}: why a component, or why not");
        }
    }

    #[test]
    fn settings_are_those_of_the_documentation() {
        let known = documented();
        // Whether the others' settings are right, their components say: see tests/catalogue.rs.
        for entry in list().into_iter().filter(|entry| entry.component == "builtin:oauth2") {
            let name = &entry.name;
            for (key, value) in &entry.settings {
                let Some(&(holds, means)) = known.get(key.as_str()) else { panic!("{name}: {key}") };
                assert!(fits(value, holds, &known), "{name}: {key} = {value:?}, which holds {holds}");
                if let ("fields" | "identity_fields", Some(paths)) = (key.as_str(), value.as_table()) {
                    for field in paths.keys() {
                        assert!(in_backticks(means).any(|word| word == field), "{name}: {key}.{field}");
                    }
                }
            }
            // Of each other.
            if entry.component == "builtin:oauth2" {
                let endpoints = (word(&entry, "authorize_url"), word(&entry, "token_url"));
                assert!(matches!(endpoints, (Some(_), Some(_))), "{name}: {endpoints:?}");
            }
            assert_eq!(
                word(&entry, "identity") == Some("userinfo"),
                word(&entry, "userinfo_url").is_some(),
                "{name}: identity and userinfo_url"
            );
        }
    }

    #[test]
    fn every_endpoint_is_on_an_allowed_host_and_no_other_host_is_allowed() {
        for entry in list() {
            let name = &entry.name;
            let mut used = BTreeSet::new();
            for url in urls(&entry) {
                let parsed = form::Url::parse(&url).filter(|url| url.tls && url.port.is_none());
                let Some(parsed) = parsed else { panic!("{name}: {url}") };
                let allowed = entry.allowed_hosts.iter().find(|allowed| allows(allowed, &parsed.host));
                used.insert(allowed.unwrap_or_else(|| panic!("{name}: {url} is on no allowed host")));
            }
            // What a component calls, it knows itself.
            for host in entry.allowed_hosts.iter().filter(|_| entry.component == "builtin:oauth2") {
                let chosen = |given: &Parameter| Regex::new(&given.pattern).unwrap().is_match(host);
                let needed = used.contains(host) || entry.parameters().iter().any(chosen);
                assert!(needed, "{name}: {host} is allowed for nothing");
            }
        }
    }

    #[test]
    fn what_users_give_stays_where_it_is_put() {
        let mut seen = 0;
        for entry in list() {
            for Parameter { name, summary, pattern, example } in entry.parameters() {
                let place = format!("{} {name}", entry.name);
                seen += 1;
                assert!(!summary.is_empty() && !summary.ends_with('.'), "{place}: {summary}");
                assert!(pattern.starts_with('^') && pattern.ends_with('$'), "{place}: {pattern}");
                let pattern = Regex::new(&pattern).unwrap();
                assert!(pattern.is_match(&example), "{place}: {example}");
                for end in [".evil.test", "/", "/..", "?", "#", "@", ":80", "%2f", "\\", "\n", " ", "-"] {
                    assert!(!pattern.is_match(&format!("{example}{end}")), "{place}: …{end:?}");
                }
                for start in ["evil.test/", "evil.test?", "evil.test#", "x@", "-", "\n", " "] {
                    assert!(!pattern.is_match(&format!("{start}{example}")), "{place}: {start:?}…");
                }
                assert!(!pattern.is_match("") && !pattern.is_match(&"a".repeat(64)), "{place}: length");
                let used = format!("${{{name}}}");
                assert!(
                    entry.settings.iter().any(|(_, value)| format!("{value:?}").contains(&used)),
                    "{place}"
                );
            }
        }
        assert!(seen > 3);
    }

    /// The owner of a tenant decides what it says of its users, their addresses included.
    #[test]
    fn a_host_that_users_choose_vouches_for_no_address() {
        for entry in list().iter().filter(|entry| entry.allowed_hosts.iter().any(|host| host.contains('*'))) {
            assert_eq!(word(entry, "identity").unwrap_or("none"), "none", "{}", entry.name);
        }
    }

    #[test]
    fn a_block_is_what_the_entry_says() {
        for entry in list() {
            let name = &entry.name;
            let block = block(&entry);
            let parsed: toml::Table =
                toml::from_str(&block).unwrap_or_else(|error| panic!("{block}\n{error}"));
            let mut expected = toml::Table::new();
            let variable = name.to_uppercase().replace('-', "_");
            expected.insert("name".to_owned(), name.clone().into());
            expected.insert("display_name".to_owned(), entry.display_name.clone().into());
            expected.insert("component".to_owned(), entry.component.clone().into());
            expected.insert("client_id".to_owned(), format!("env:{variable}_CLIENT_ID").into());
            if word(&entry, "client_auth") != Some("none") {
                expected.insert("client_secret".to_owned(), format!("env:{variable}_CLIENT_SECRET").into());
            }
            expected.insert("allowed_hosts".to_owned(), entry.allowed_hosts.clone().into());
            expected.insert("scopes".to_owned(), entry.scopes.clone().into());
            if !entry.settings.is_empty() {
                let mut settings = entry.settings.clone();
                if entry.component == "builtin:oauth2" {
                    settings.insert("docs".to_owned(), entry.docs.clone().into());
                }
                expected.insert("settings".to_owned(), settings.into());
            }
            assert_eq!(parsed["providers"], Value::Array(vec![expected.into()]), "{name}");
            for said in entry.notes.iter().chain(&entry.why).chain([&entry.docs]) {
                assert!(block.contains(said.as_str()), "{name}: {said}");
            }
        }
    }

    #[test]
    fn a_name_that_is_not_there_may_be_meant() {
        assert_eq!(find("zendesk").unwrap().name, "zendesk");
        assert_eq!(find("GitHub").unwrap().name, "github");
        let near = |name| find(name).unwrap_err().near;
        assert_eq!(near("githb").as_deref(), Some("github"));
        assert_eq!(near("microsoft").as_deref(), Some("entra"));
        assert_eq!(near("Jira").as_deref(), Some("atlassian"));
        assert_eq!(near("twitter").as_deref(), Some("x"));
        assert_eq!(near("something else"), None);
        let said = find("githb").unwrap_err().to_string();
        assert_eq!(said, "the catalogue has no provider \"githb\"; did you mean \"github\"?");
    }
}
