//! `palisade run`: the gateway, until it is told to stop.

use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::app::{self, Options};
use crate::config::{self, Config};
use crate::edge::telemetry::logging;

/// Runs the gateway until SIGTERM or SIGINT; SIGHUP reads the configuration again.
pub(super) fn run(path: &Path, demo: bool) -> ExitCode {
    let config = match config::load(path) {
        Ok(config) => config,
        Err(errors) => {
            errors.iter().for_each(|error| eprintln!("{error}"));
            return ExitCode::FAILURE;
        }
    };
    match serve(config, demo) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("palisade: {why}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config, demo: bool) -> Result<(), String> {
    logging::start(&config.log)?;
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
        let running = app::start(config, Options { demo }).await?;
        for notice in &running.notices {
            tracing::warn!("{notice}");
        }
        for address in &running.listen {
            tracing::info!("serving http://{address}");
        }
        if let Some(address) = running.tls {
            tracing::info!("serving https://{address}");
        }
        if let Some(address) = running.demo {
            tracing::info!("the sample app is behind every route, at http://{address}");
        }
        tracing::info!("admin and metrics at http://{}", running.admin);
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => match running.control.reload().await {
                    Ok(notices) => notices.iter().for_each(|notice| tracing::warn!("{notice}")),
                    Err(errors) => {
                        errors.iter().for_each(|error| tracing::error!("{error}"));
                        tracing::error!("the configuration in force stays");
                    }
                },
            }
        }
        tracing::info!("stopping: requests under way are finished first");
        running.shutdown().await;
        Ok(())
    })
}
