//! `palisade pages preview`: every page with sample data, to look at in a browser before a user does.
//!
//! Needs no running gateway. Each look reads config.toml and the templates anew.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::output::{say, tell};
use crate::config::{self, error_lines};
use crate::edge::pages::{TemplatedPages, preview};

/// Serves the pages on a loopback port until the process is ended.
pub(super) fn run(config: &Path, port: u16) -> Result<String, String> {
    let config: PathBuf = config.to_owned();
    let load = move || TemplatedPages::load(&config::load(&config)?);
    load().map_err(|errors| error_lines(&errors))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let bound = |at: SocketAddr| {
        say(format_args!("http://{at}/: every page with sample data; Ctrl-C ends it")).unwrap_or_else(tell);
    };
    runtime.block_on(preview(address, bound, load)).map_err(|error| format!("{address}: {error}"))?;
    Ok(String::new())
}
