//! `palisade check`: reads the configuration as `run` would, tries the providers' components with their
//! settings, and says everything that is wrong.

use std::path::Path;
use std::process::ExitCode;

use crate::app;
use crate::config::{self, Config, ConfigError};
use crate::edge::mail::Post;

/// Prints `FILE: good, N routes`, or every error with its line on standard error. Exits 1 on errors.
#[must_use]
pub fn run(path: &Path) -> ExitCode {
    match load(path) {
        Ok(config) => {
            for warning in &config.warnings {
                eprintln!("warning: {warning}");
            }
            let faults = provider_faults(&config);
            for fault in &faults {
                eprintln!("{fault}");
            }
            if !faults.is_empty() {
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
            println!("{}: good{routes}{providers}", path.display());
            ExitCode::SUCCESS
        }
        Err(errors) => {
            for error in &errors {
                eprintln!("{error}");
            }
            ExitCode::FAILURE
        }
    }
}

/// What keeps providers out of service, one printable line for each.
fn provider_faults(config: &Config) -> Vec<String> {
    if config.providers.is_empty() {
        return Vec::new();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let found = match &runtime {
        Ok(runtime) => runtime.block_on(app::provider_faults(config)),
        Err(error) => Err(error.to_string()),
    };
    let line = |line: usize, key: &str, why: &str| format!("{}:{line}: {key}: {why}", config.path.display());
    match found {
        Ok(faults) => {
            let said = |(provider, why): &(&config::Provider, String)| {
                line(provider.line, &format!("providers.{}", provider.name), why)
            };
            faults.iter().map(said).collect()
        }
        Err(why) => vec![line(config.providers[0].line, "providers", &why)],
    }
}

/// Reads the configuration, and tries the templates of the letters, which are part of it.
pub(super) fn load(path: &Path) -> Result<Config, Vec<ConfigError>> {
    let config = config::load(path)?;
    Post::new(&config.mail, &config.public_url)?;
    Ok(config)
}
