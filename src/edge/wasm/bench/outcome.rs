//! What comes of a call, as recorded exchanges have it: made of the host's own values, compared, and shown.

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::super::bindings::exports::palisade::provider::plugin::Description;
use super::super::convert;
use super::player::{different, lists, shown, urls};
use palisade_core::domain::connection::Account;
use palisade_core::ports::{GrantedTokens, ProviderFault};
use palisade_exchange::{Failed, Granted, Outcome, Person, pairs};

pub(super) fn granted(tokens: GrantedTokens) -> Granted {
    let exposed = |secret: SecretString| secret.expose_secret().to_owned();
    Granted {
        access_token: exposed(tokens.access_token),
        token_type: tokens.token_type,
        expires_in: tokens.expires_in.map(|life| life.as_secs()),
        refresh_token: tokens.refresh_token.map(exposed),
        refresh_expires_in: tokens.refresh_expires_in.map(|life| life.as_secs()),
        scopes: tokens.scopes,
        id_token: tokens.id_token.map(exposed),
        keep: tokens.keep.into_iter().map(|(name, value)| (name, exposed(value).into())).collect(),
    }
}

pub(super) fn person(account: Account) -> Person {
    Person {
        subject: account.subject,
        email: account.email,
        email_verified: account.email_verified,
        name: account.name,
    }
}

pub(super) fn failed(fault: ProviderFault) -> Failed {
    let of = |kind: &str, message: String| Failed { kind: kind.to_owned(), message, retry_after: None };
    match fault {
        ProviderFault::InvalidGrant(why) => of("invalid-grant", why),
        ProviderFault::NotRefreshable(why) => of("not-refreshable", why),
        ProviderFault::Misconfigured(why) => of("misconfigured", why),
        ProviderFault::ProviderError(why) => of("provider-error", why),
        ProviderFault::PluginFailed(why) => of("plugin-failed", why),
        ProviderFault::Transient { reason, retry_after } => {
            Failed { retry_after: retry_after.map(|wait| wait.as_secs()), ..of("transient", reason) }
        }
        fault @ ProviderFault::InvalidParameter { .. } => of("invalid-parameter", fault.to_string()),
        fault @ ProviderFault::NotInService(_) => of("not-in-service", fault.to_string()),
    }
}

/// What is different between two outcomes.
pub(super) fn compare(want: &Outcome, found: &Outcome) -> Vec<String> {
    match (want, found) {
        (Outcome::Visit(want), Outcome::Visit(found)) => urls(want, found),
        (Outcome::Unattended(_), Outcome::Unattended(_)) | (Outcome::Done(_), Outcome::Done(_)) => Vec::new(),
        (Outcome::Tokens(_), Outcome::Tokens(_)) => lists("tokens", flat(want), flat(found)),
        (Outcome::Account(_), Outcome::Account(_)) => lists("account", flat(want), flat(found)),
        (Outcome::Description(want), Outcome::Description(found)) => want
            .iter()
            .filter(|(name, value)| found.get(*name) != Some(value))
            .map(|(name, value)| {
                let found =
                    found.get(name).map_or_else(|| "(there is no such thing)".to_owned(), Value::to_string);
                different(&format!("description: {name}"), &value.to_string(), &found)
            })
            .collect(),
        (Outcome::Failure(want), Outcome::Failure(found)) => {
            let mut wrong = Vec::new();
            if want.kind != found.kind {
                wrong.push(different(
                    "failure: kind",
                    &want.kind,
                    &format!("{} ({})", found.kind, found.message),
                ));
            } else if !found.message.contains(&want.message) {
                wrong.push(different("failure: message", &want.message, &found.message));
            }
            if want.retry_after != found.retry_after {
                let text =
                    |seconds: Option<u64>| seconds.map_or_else(String::new, |seconds| seconds.to_string());
                wrong.push(different(
                    "failure: retry_after",
                    &text(want.retry_after),
                    &text(found.retry_after),
                ));
            }
            wrong
        }
        _ => vec![different("result", &summary(want), &summary(found))],
    }
}

/// One line for an outcome.
fn summary(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Description(_) => "a description".to_owned(),
        Outcome::Visit(_) => "a URL to visit".to_owned(),
        Outcome::Unattended(_) => "nothing to visit (unattended)".to_owned(),
        Outcome::Tokens(_) => "tokens".to_owned(),
        Outcome::Done(_) => "done".to_owned(),
        Outcome::Account(_) => "an account".to_owned(),
        Outcome::Failure(failure) => format!("the failure {}: {}", failure.kind, failure.message),
    }
}

/// The parts of tokens or of an account, by name.
fn flat(outcome: &Outcome) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut add = |name: &str, value: Option<String>| all.extend(value.map(|value| (name.to_owned(), value)));
    match outcome {
        Outcome::Tokens(tokens) => {
            add("access_token", Some(tokens.access_token.clone()));
            add("token_type", tokens.token_type.clone());
            add("expires_in", tokens.expires_in.map(|seconds| seconds.to_string()));
            add("refresh_token", tokens.refresh_token.clone());
            add("refresh_expires_in", tokens.refresh_expires_in.map(|seconds| seconds.to_string()));
            add("scopes", tokens.scopes.as_ref().map(|scopes| scopes.join(" ")));
            add("id_token", tokens.id_token.clone());
            for (name, value) in pairs(&tokens.keep) {
                add(&format!("keep.{name}"), Some(value));
            }
        }
        Outcome::Account(person) => {
            add("subject", Some(person.subject.clone()));
            add("email", person.email.clone());
            add("email_verified", Some(person.email_verified.to_string()));
            add("name", person.name.clone());
        }
        _ => {}
    }
    all
}

/// What may be shown of an outcome: of a token that it is there.
pub(super) fn shown_outcome(outcome: &Outcome) -> Vec<(String, String)> {
    let pair = |name: &str, value: String| vec![(name.to_owned(), value)];
    match outcome {
        Outcome::Tokens(_) => flat(outcome)
            .into_iter()
            .map(|(name, value)| {
                let secret = name.ends_with("_token") || name.starts_with("keep.");
                let value =
                    if secret { format!("(hidden, {} characters)", value.chars().count()) } else { value };
                (name, value)
            })
            .collect(),
        Outcome::Account(_) => flat(outcome),
        Outcome::Visit(url) => pair("visit", url.clone()),
        Outcome::Failure(failure) => {
            let mut all = pair(&failure.kind, failure.message.clone());
            all.extend(failure.retry_after.map(|seconds| ("retry_after".to_owned(), seconds.to_string())));
            all
        }
        Outcome::Description(found) => {
            found.iter().map(|(name, value)| (name.clone(), shown(&value.to_string()))).collect()
        }
        Outcome::Unattended(_) | Outcome::Done(_) => pair("result", summary(outcome)),
    }
}

/// What can be compared of a description; of settings and parameters their names.
pub(super) fn names(description: &Description) -> Map<String, Value> {
    let settings: Vec<&String> = description.settings.iter().map(|setting| &setting.name).collect();
    let parameters: Vec<&String> = description.parameters.iter().map(|parameter| &parameter.name).collect();
    let all = json!({
        "display_name": description.display_name,
        "version": description.version,
        "docs": description.docs,
        "settings": settings,
        "parameters": parameters,
        "scopes": description.scopes,
        "hosts": description.hosts,
        "can_refresh": description.can_refresh,
        "can_revoke": description.can_revoke,
        "can_identify": description.can_identify,
    });
    match all {
        Value::Object(all) => all,
        _ => Map::new(),
    }
}

/// What a component says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Described {
    pub display_name: String,
    pub version: String,
    pub docs: Option<String>,
    pub settings: Vec<Item>,
    pub parameters: Vec<Item>,
    pub scopes: Vec<String>,
    pub hosts: Vec<String>,
    pub can_refresh: bool,
    pub can_revoke: bool,
    pub can_identify: bool,
}

/// A setting, or a parameter with its pattern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    pub name: String,
    pub summary: String,
    pub required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub example: Option<String>,
}

impl From<Description> for Described {
    fn from(found: Description) -> Described {
        let line = |text: &str| convert::summary(text);
        let lines = |texts: &[String]| texts.iter().map(|text| line(text)).collect();
        Described {
            display_name: line(&found.display_name),
            version: line(&found.version),
            docs: found.docs.as_deref().map(line),
            settings: found
                .settings
                .iter()
                .map(|setting| Item {
                    name: line(&setting.name),
                    summary: line(&setting.summary),
                    required: setting.required,
                    pattern: None,
                    example: None,
                })
                .collect(),
            parameters: found
                .parameters
                .iter()
                .map(|parameter| Item {
                    name: line(&parameter.name),
                    summary: line(&parameter.summary),
                    required: parameter.required,
                    pattern: Some(line(&parameter.pattern)),
                    example: parameter.example.as_deref().map(line),
                })
                .collect(),
            scopes: lines(&found.scopes),
            hosts: lines(&found.hosts),
            can_refresh: found.can_refresh,
            can_revoke: found.can_revoke,
            can_identify: found.can_identify,
        }
    }
}
