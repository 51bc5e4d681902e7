//! `palisade check`: reads the configuration as `run` would, and says everything that is wrong with it.

use std::path::Path;
use std::process::ExitCode;

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
            let routes = config.routes.len();
            let noun = if routes == 1 { "route" } else { "routes" };
            println!("{}: good, {routes} {noun}", path.display());
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

/// Reads the configuration, and tries the templates of the letters, which are part of it.
pub(super) fn load(path: &Path) -> Result<Config, Vec<ConfigError>> {
    let config = config::load(path)?;
    Post::new(&config.mail, &config.public_url)?;
    Ok(config)
}
