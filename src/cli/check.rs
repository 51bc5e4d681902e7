//! `palisade check`: reads the configuration as `run` would, tries the providers' components with their
//! settings, and says everything that is wrong.

use std::path::Path;
use std::process::ExitCode;

use super::output::{ended, tell};
use super::routes;
use crate::app;
use crate::config::{self, Config, ConfigError, StoreUrl};
use crate::edge::clock::SystemClock;
use crate::edge::mail::Post;
use crate::edge::pages::TemplatedPages;
use crate::edge::proxy::expiry;
use crate::edge::store;
use palisade_core::ports::Clock;

/// The most rules that are printed.
const MOST_RULES: usize = 50;

/// Prints `FILE: good, N routes`, the SHA-256 of the file and the order of its rules, or every error with its line on
/// standard error. Exits 1 on errors. Connects to the database of a store that replicas share only if it is to `connect`.
#[must_use]
pub fn run(path: &Path, connect: bool) -> ExitCode {
    match load(path) {
        Ok(config) => {
            let written = config.warnings.iter().chain(&config.unsent_emails).cloned();
            for warning in written.chain(look_around(&config)).chain(config.exposures.iter().cloned()) {
                tell(format_args!("warning: {warning}"));
            }
            let database = if connect { look_at_database(&config) } else { Ok(Vec::new()) };
            match (&config.store, &database) {
                (StoreUrl::Sled(folder), _) => {
                    if let Some(warning) = store::look(folder) {
                        tell(format_args!("warning: {}: store.url: {warning}", path.display()));
                    }
                }
                (StoreUrl::Postgres(_), Ok(warnings)) => warnings.iter().for_each(|warning| {
                    tell(format_args!("warning: {}: store.url: {warning}", path.display()))
                }),
                (StoreUrl::Postgres(_), Err(why)) => {
                    tell(format_args!("{}: store.url: {why}", path.display()))
                }
            }
            let (errors, warnings) = app::key_files::about(&config);
            warnings.iter().for_each(|warning| tell(format_args!("warning: {warning}")));
            errors.iter().for_each(tell);
            let faults = app::files::faults(&config);
            faults.iter().for_each(tell);
            warn_of_expiry(&config);
            let missing = app::secrets::check(&config);
            missing.iter().for_each(tell);
            let is_bad = !errors.is_empty() || !faults.is_empty() || missing.is_some() || database.is_err();
            if !try_providers(&config) || is_bad {
                return ExitCode::FAILURE;
            }
            let count = |number: usize, noun: &str| {
                let plural = if number == 1 { "" } else { "s" };
                format!(", {number} {noun}{plural}")
            };
            let routes = count(config.routes.len(), "route");
            let providers = match config.providers.len() {
                0 => String::new(),
                some => count(some, "provider"),
            };
            let file = path.display();
            let mut text = format!("{file}: good{routes}{providers}\n{file}: sha256 {}", config.hash);
            if let Some(failover) = app::warnings::about_failover(&config) {
                text += &format!("\n{failover}");
            }
            if let Some(rules) = order_of_rules(&config) {
                text += &format!("\n\n{rules}");
            }
            ended(text, ExitCode::SUCCESS)
        }
        Err(errors) => {
            for error in &errors {
                tell(error);
            }
            ExitCode::FAILURE
        }
    }
}

/// The rules in the order in which they decide, where there is more than one; the first ones of many.
fn order_of_rules(config: &Config) -> Option<String> {
    let rules = routes::rules(config);
    // Below the head.
    let count = rules.lines().count() - 1;
    let mut shown: Vec<&str> = rules.lines().take(1 + MOST_RULES).collect();
    let rest = count.saturating_sub(MOST_RULES);
    let more = format!("… and {rest} more: `palisade routes` prints them all");
    if rest > 0 {
        shown.push(&more);
    }
    (count > 1).then(|| shown.join("\n"))
}

/// What the network shows to be odd about the configuration.
fn look_around(config: &Config) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    // Without a runtime the providers cannot be tried either; that check reports why.
    runtime.map_or_else(|_| Vec::new(), |runtime| runtime.block_on(app::warnings::about(config)))
}

/// What is to be known of the database of a store that replicas share; nothing of another store.
fn look_at_database(config: &Config) -> Result<Vec<String>, String> {
    let Some(settings) = config.store.postgres() else { return Ok(Vec::new()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(app::look_at_database(config, settings))
}

/// Warns of a certificate of `server.tls` that ends soon.
fn warn_of_expiry(config: &Config) {
    let Some(tls) = &config.server.tls else { return };
    if let Some(warning) = expiry::of_file(&tls.cert, SystemClock.now()) {
        let file = config.path.display();
        tell(format_args!("warning: {file}: server.tls.cert: {} {}", tls.cert.display(), warning.words));
    }
}

/// Prints what keeps providers out of service and what is odd about them. Returns whether all can be in service.
fn try_providers(config: &Config) -> bool {
    if config.providers.is_empty() {
        return true;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let found = match &runtime {
        Ok(runtime) => runtime.block_on(app::try_providers(config)),
        Err(error) => Err(error.to_string()),
    };
    let line = |line: usize, key: &str, why: &str| format!("{}:{line}: {key}: {why}", config.path.display());
    let tried = match found {
        Ok(tried) => tried,
        Err(why) => {
            tell(line(config.providers[0].line, "providers", &why));
            return false;
        }
    };
    for (provider, standing) in &tried {
        let say = |why: &str| line(provider.line, &format!("providers.{}", provider.name), why);
        if let Some(warning) = &standing.warning {
            tell(format_args!("warning: {}", say(warning)));
        }
        if let Some(fault) = &standing.fault {
            tell(say(fault));
        }
    }
    tried.iter().all(|(_, standing)| standing.fault.is_none())
}

/// Reads the configuration, and tries the templates of letters and pages, which are part of it.
pub(super) fn load(path: &Path) -> Result<Config, Vec<ConfigError>> {
    let config = config::load(path)?;
    let letters = Post::new(&config.mail, &config.public_url).err();
    let pages = TemplatedPages::load(&config).err();
    let errors: Vec<ConfigError> = letters.into_iter().chain(pages).flatten().collect();
    if errors.is_empty() { Ok(config) } else { Err(errors) }
}
