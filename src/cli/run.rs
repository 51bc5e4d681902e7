//! `palisade run`: the gateway, until it is told to stop.

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::check;
use super::output::{failed, tell, tell_part};
use secrecy::ExposeSecret;

use crate::app::{self, Demo, Options, RunningGateway};
use crate::config::{Config, LogFormat};
use crate::edge::machine;
use crate::edge::telemetry::logging;

/// Runs the gateway until SIGTERM or SIGINT; SIGHUP reads the configuration again. A second signal cuts
/// `server.shutdown_delay` short.
pub(super) fn run(path: &Path, options: Options) -> ExitCode {
    let config = match check::load(path) {
        Ok(config) => config,
        Err(errors) => {
            errors.iter().for_each(tell);
            return ExitCode::FAILURE;
        }
    };
    match serve(path, config, options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => failed(&why),
    }
}

fn serve(path: &Path, config: Config, options: Options) -> Result<(), String> {
    logging::start(&config.log)?;
    // Before anything is opened that should find the limit in force.
    let descriptors = machine::raise_descriptors();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if config.server.threads > 0 {
        builder.worker_threads(config.server.threads);
    }
    let runtime = builder.enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let failed = |error: std::io::Error| format!("signals cannot be received: {error}");
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
        let greet = config.log.format == LogFormat::Text && (options.demo || std::io::stderr().is_terminal());
        // A start can wait: for a database that is not there yet, for one.
        let running = tokio::select! {
            started = Box::pin(app::start(config, options)) => started?,
            _ = terminate.recv() => return stopped_early(),
            _ = interrupt.recv() => return stopped_early(),
        };
        for notice in &running.notices {
            tracing::warn!("{notice}");
        }
        let number =
            |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
        tracing::info!(
            limit = number(descriptors.limit),
            given = number(descriptors.given),
            client_connections = running.capacity.plan().clients,
            upstream_connections = running.capacity.plan().upstreams,
            reserve = running.capacity.plan().reserve,
            "file descriptors"
        );
        for address in &running.listen {
            tracing::info!("serving http://{address}");
        }
        if let Some(address) = running.tls {
            tracing::info!("serving https://{address}");
        }
        if let Some(demo) = &running.demo {
            tracing::info!("the sample app is behind every route, at http://{}", demo.app);
        }
        if let Some(address) = running.health {
            tracing::info!("health and metrics alone at http://{address}");
        }
        tracing::info!("admin and metrics at http://{}", running.admin);
        if greet {
            tell_part(welcome(path, &running));
        }
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                // The log says what came of it.
                _ = hangup.recv() => drop(running.reload().await),
            }
        }
        let delay = running.retire();
        if !delay.is_zero() {
            tracing::info!(?delay, "stopping: requests are taken for a while yet; /readyz says no");
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                _ = terminate.recv() => tracing::info!("stopping without further delay"),
                _ = interrupt.recv() => tracing::info!("stopping without further delay"),
            }
        }
        tracing::info!("stopping: requests under way are finished first");
        running.shutdown().await;
        Ok(())
    })
}

fn stopped_early() -> Result<(), String> {
    tracing::info!("stopped before it served anything");
    Ok(())
}

/// What a person at a terminal wants to know first: where it serves, and what to type next.
fn welcome(path: &Path, running: &RunningGateway) -> String {
    let open = running.listen.first().map(|address| format!("http://{address}"));
    let Some(url) = open.or_else(|| running.tls.map(|address| format!("https://{address}"))) else {
        return String::new();
    };
    let palisade = match std::env::args().next() {
        Some(name) if name.contains('/') => name,
        _ => "palisade".to_owned(),
    };
    let config = match path.to_str() {
        Some("config.toml") | None => String::new(),
        Some(other) => format!(" --config {other}"),
    };
    let mut text = format!("\n  Palisade serves {url}; Ctrl-C stops it.");
    if let Some(Demo { account, .. }) = &running.demo {
        let password = match &account.password {
            Some(password) => password.expose_secret(),
            None => "(the password that it was given)",
        };
        // The text can always grow.
        let _ = write!(
            text,
            "\n\n  Open {public}/ in a browser and sign in:\n\n    \
             e-mail    {email}\n    \
             password  {password}\n\n  \
             Or be a program, in another terminal:\n\n  \
             curl -i {url}/\n  \
             TOKEN=$({palisade} token mint --sub alice --email alice@example.com{config})\n  \
             curl -i -H \"Authorization: Bearer $TOKEN\" {url}/\n  \
             {palisade} token revoke \"$TOKEN\"{config}",
            public = running.public_url,
            email = account.email,
        );
    }
    text.push_str("\n\n");
    text
}
