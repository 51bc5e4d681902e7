//! Log lines, as text or JSON, on standard error. Never a query, a token or a secret.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};
use palisade_core::ports::Ended;

/// The target of access log lines.
const ACCESS: &str = "access";

/// Starts logging for the whole process. Libraries that use the `log` crate are included.
///
/// # Errors
/// The level is not one, or logging was started before.
pub fn start(log: &Log) -> Result<(), String> {
    let filter = filter(log)?;
    // Colours are for people: in a file they are noise.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        // It would say so on standard error, by a macro that panics when that is gone: a gateway outlives its log.
        .log_internal_errors(false);
    let started = match log.format {
        LogFormat::Text => subscriber.finish().try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).finish().try_init(),
    };
    started.map_err(|error| format!("logging did not start: {error}"))
}

/// Libraries that write whole requests at their lower levels, credentials and all, each with all whose
/// names begin like it. No setting may put a token into the log, so none makes them say more than this.
const MUTED: [&str; 6] = ["pingora", "h2", "hyper", "reqwest", "rustls", "tokio_postgres"];
const MUTED_LEVEL: &str = "info";

/// Parts of the engine whose lines are about single connections and requests, at ERROR some of them: a client or
/// an upstream that closed one is part of every day, and what matters of it is in lines of ours. They are heard
/// only when the configuration names the engine.
const EVERYDAY: [&str; 3] = ["pingora_core::connectors", "pingora_pool", "pingora_proxy"];

/// `level` as the configuration has it, with what it asks of the [`MUTED`] libraries bounded.
fn bounded(level: &str) -> String {
    let is_more = |word: &str| matches!(word.to_ascii_lowercase().as_str(), "debug" | "trace");
    let cap = |word: &str| if is_more(word) { MUTED_LEVEL } else { word }.to_owned();
    let (mut directives, mut general) = (Vec::new(), "error".to_owned());
    for directive in level.split(',').map(str::trim) {
        match directive.split_once('=') {
            Some((target, word)) if MUTED.iter().any(|name| target.starts_with(name)) => {
                directives.push(format!("{target}={}", cap(word)));
            }
            Some(_) => directives.push(directive.to_owned()),
            None => {
                general = cap(directive);
                directives.push(directive.to_owned());
            }
        }
    }
    if !directives.iter().any(|directive| directive.starts_with("pingora")) {
        directives.extend(EVERYDAY.iter().map(|target| format!("{target}=off")));
    }
    for name in MUTED {
        let named = format!("{name}=");
        if !directives.iter().any(|directive| directive.starts_with(&named)) {
            directives.push(named + &general);
        }
    }
    directives.join(",")
}

fn filter(log: &Log) -> Result<EnvFilter, String> {
    let advice = |error: &dyn std::fmt::Display| {
        format!("log.level: {:?} is not a level: {error}; use error, warn, info, debug or trace", log.level)
    };
    // Read as it is first, so that an error is about what is written there.
    EnvFilter::try_new(&log.level).map_err(|error| advice(&error))?;
    let filter = EnvFilter::try_new(bounded(&log.level)).map_err(|error| advice(&error))?;
    // `log.access` alone decides about access lines, not the level.
    let directive = if log.access { "access=info" } else { "access=off" };
    match directive.parse() {
        Ok(directive) => Ok(filter.add_directive(directive)),
        // Both texts are directives; a test reads them.
        Err(_) => Ok(filter),
    }
}

/// One line for one request. Text fields are written quoted and escaped, so that no path can forge a
/// line.
pub(super) fn access(ended: &Ended<'_>) {
    tracing::info!(
        target: ACCESS,
        request_id = ended.request_id,
        client = %ended.client,
        method = ended.method,
        host = ended.host,
        path = ended.path,
        route = ended.route,
        status = ended.status,
        decision = ended.decision,
        sub = ended.subject,
        upstream = ended.upstream.as_ref().map(tracing::field::display),
        bytes = ended.bytes,
        took_ms = ended.took.as_micros() as f64 / 1000.0,
        "request"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AuditTo;
    use std::io::Write;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    #[derive(Clone, Default)]
    struct FakeStderr(Arc<Mutex<Vec<u8>>>);

    impl Write for FakeStderr {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn log(level: &str, access: bool) -> Log {
        Log { format: LogFormat::Text, level: level.to_owned(), access, audit: AuditTo::Stdout }
    }

    fn written(log: &Log, path: &str) -> String {
        let written = FakeStderr::default();
        let sink = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter(log).unwrap())
            .with_ansi(false)
            .with_writer(move || sink.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(target: "pingora_core::connectors", "failed to acquire reusable stream");
            tracing::error!(target: "pingora_proxy", "failed to send error response to downstream");
            tracing::error!(target: "pingora_core::protocols::tls", "TLS is misconfigured");
            tracing::debug!(target: "palisade_core::service::outbox", "said by a use case");
            access(&Ended {
                route: Some("app"),
                status: 200,
                took: Duration::from_micros(1500),
                decision: "allowed",
                request_id: "r1",
                method: "GET",
                host: "h",
                path,
                bytes: 3,
                subject: None,
                client: [127, 0, 0, 1].into(),
                upstream: None,
            });
        });
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_access_line_is_one_line_whatever_the_path() {
        let text = written(&log("warn", true), "/a\nb");
        let text: Vec<&str> = text.lines().filter(|line| !line.contains("pingora")).collect();
        let [text] = text[..] else { panic!("{text:#?}") };
        assert!(text.contains("r1") && text.contains("took_ms=1.5") && text.contains("app"), "{text}");
    }

    #[test]
    fn the_switch_alone_decides_about_access_lines() {
        assert!(!written(&log("trace", false), "/").contains("request_id"));
    }

    #[test]
    fn what_the_engine_says_every_day_is_heard_on_request_only() {
        let everyday = ["failed to acquire reusable stream", "failed to send error response to downstream"];
        for level in ["error", "info", "trace", "info,h2=warn"] {
            let text = written(&log(level, false), "/");
            assert!(everyday.iter().all(|line| !text.contains(line)), "{level}: {text}");
            assert!(text.contains("TLS is misconfigured"), "{level}: {text}");
        }
        for level in ["info,pingora=warn", "info,pingora_core::connectors=error,pingora_proxy=error"] {
            let text = written(&log(level, false), "/");
            assert!(everyday.iter().all(|line| text.contains(line)), "{level}: {text}");
        }
    }

    /// The use cases are a crate of their own, and still Palisade to an operator.
    #[test]
    fn a_filter_for_palisade_is_one_for_its_use_cases() {
        for (level, is_heard) in
            [("error,palisade=debug", true), ("error,palisade=info", false), ("debug", true)]
        {
            assert_eq!(written(&log(level, false), "/").contains("said by a use case"), is_heard, "{level}");
        }
    }

    #[test]
    fn a_level_that_is_none_is_named() {
        assert!(filter(&log("palisade=loud", true)).unwrap_err().contains("log.level"));
    }

    #[test]
    fn no_level_makes_a_library_write_what_a_request_holds() {
        for (level, pingora, ours) in [
            ("trace", "info", "trace"),
            ("TRACE", "info", "TRACE"),
            ("warn", "warn", "warn"),
            ("warn,pingora=debug,pingora_core::protocols=trace", "info", "warn"),
            ("debug,pingora=off", "off", "debug"),
        ] {
            let bounded = bounded(level);
            let directives: Vec<&str> = bounded.split(',').collect();
            assert!(directives.contains(&format!("pingora={pingora}").as_str()), "{bounded}");
            assert_eq!(directives[0], ours, "{bounded}");
            let libraries = || directives.iter().filter(|d| MUTED.iter().any(|name| d.starts_with(name)));
            assert!(libraries().all(|d| !d.ends_with("debug") && !d.ends_with("trace")), "{bounded}");
        }
    }
}
