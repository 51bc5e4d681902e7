//! `palisade plugin call`: one function of a configured provider's plugin, for real.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{CallArgs, bench, block, log, meter, provider, read, read_text, show};
use crate::app;
use crate::cli::output::{print, tell};
use crate::config::{self, Component};
use crate::edge::clock::SystemClock;
use crate::edge::jwt::ClientAssertions;
use crate::edge::wasm::bench::{Apparatus, Bench};
use palisade_core::ports::Clock as _;
use palisade_exchange::{Call, Current, Given, Outcome, RecordedExchange, Texts, Verifier, pairs};

/// Where people read on.
const RECORD_HEAD: &str = "# Recorded by `palisade plugin call`; tokens, codes and personal details are replaced, and\n\
                           # what looks like one. Names of hosts are not. Read it before you share it.\n";

/// What a function is given, as `--input` has it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Input {
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pkce: Option<Verifier>,
    tokens: Current,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    callback: BTreeMap<String, Texts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<Asked>,
}

/// The connection, without what the configuration says anyway.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Asked {
    #[serde(skip_serializing_if = "Option::is_none")]
    redirect_uri: Option<String>,
    parameters: BTreeMap<String, String>,
    kept: BTreeMap<String, String>,
    scopes: Vec<String>,
}

/// Calls, shows, and records.
///
/// # Errors
/// The plugin's failure, or what kept it from being called.
pub(super) fn run(config: &Path, args: &CallArgs) -> Result<String, String> {
    let (config, provider) = provider(config, &args.provider)?;
    let input = input(args.input.as_deref())?;
    let call = args.export.call();
    let asked = asked(&config, call, input)?;
    log();
    block(async {
        let bench = component(&provider).await?;
        // A refresh token may be spent by the call: whether its answer can be kept is known before.
        if let Some(file) = &args.record {
            create(file)?;
            std::fs::remove_file(file).map_err(|error| unwritable(file, &error))?;
        }
        let apparatus = Apparatus {
            door: app::door(&config, &provider)?,
            assertions: Arc::new(ClientAssertions::default()),
            clock: Arc::new(SystemClock),
            meter: meter()?,
        };
        let each = Box::new(|line: &str| tell(format_args!("  {line}")));
        tell(format_args!("{} {}", provider.name, call.name()));
        let tried = bench.call(&provider, apparatus, &asked, each).await;
        let mut text = String::new();
        for (name, value) in &tried.shown {
            // A text can always grow.
            let _ = writeln!(text, "  {name:<18} {value}");
        }
        if call == Call::Authorize {
            text.push_str(&going_on(&asked));
        }
        if args.print_tokens {
            print_tokens(&asked, &tried.outcome)?;
        }
        if let Some(file) = &args.record {
            match record(file, &tried.recorded, &bench, &provider).await {
                Ok(said) => text.push_str(&said),
                Err(why) => return Err(format!("{why}\n{}", text.trim_end())),
            }
        }
        text.truncate(text.trim_end().len());
        match &tried.outcome {
            // Standard output carries nothing but tokens.
            Outcome::Tokens(_) if args.print_tokens => {
                tell(show::harmless(&text));
                Ok(String::new())
            }
            Outcome::Failure(failure) => {
                let hint = match args.input {
                    None if !matches!(call, Call::Describe | Call::Authorize) => {
                        "\n\nNothing was given to it: tokens or a callback come with --input (--help shows them)"
                    }
                    _ => "",
                };
                Err(format!("{} {}: {}\n{text}{hint}", provider.name, call.name(), failure.kind))
            }
            _ => Ok(text),
        }
    })
}

async fn component(provider: &config::Provider) -> Result<Bench, String> {
    match &provider.component {
        Component::File(file) => bench(file, read(file)?).await,
        Component::BuiltIn(name) => {
            let found = app::SHIPPED.iter().find(|(known, _)| known == name);
            let (_, bytes) = found.ok_or_else(|| format!("there is no builtin:{name} in this build"))?;
            bench(Path::new(&format!("builtin:{name}")), bytes.to_vec()).await
        }
    }
}

fn input(file: Option<&Path>) -> Result<Input, String> {
    let Some(file) = file else { return Ok(Input::default()) };
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin().lock())
            .map(Zeroizing::new)
            .map_err(|error| format!("standard input cannot be read: {error}"))?
    } else {
        read_text(file)?
    };
    // The whole error would quote the line, token and all.
    toml::from_str(&text).map_err(|error| {
        let line =
            error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        format!("the input, line {line}: {}", untold(error.message()))
    })
}

/// What is wrong with a value, without the value.
fn untold(message: &str) -> String {
    match message.strip_prefix("invalid ").and_then(|rest| rest.rsplit_once(", expected ")) {
        Some((found, expected)) => {
            let kind = found.split(['"', '`']).next().unwrap_or_default();
            let expected = if expected.starts_with("struct ") { "a table" } else { expected };
            format!("invalid {}, expected {expected}", kind.trim_end())
        }
        None => show::without_long_words(message),
    }
}

fn texts(table: BTreeMap<String, String>) -> BTreeMap<String, Texts> {
    table.into_iter().map(|(name, value)| (name, value.into())).collect()
}

/// The call, with missing values made up as the gateway would.
fn asked(config: &config::Config, call: Call, input: Input) -> Result<RecordedExchange, String> {
    let mut asked = RecordedExchange::empty(call);
    let connection = input.connection.unwrap_or_default();
    asked.now = SystemClock.now().0;
    asked.connection = Given {
        client_id: String::new(),
        redirect_uri: connection.redirect_uri.unwrap_or_else(|| app::callback_url(config)),
        parameters: texts(connection.parameters),
        kept: texts(connection.kept),
        scopes: connection.scopes,
    };
    asked.input.state = match input.state {
        Some(state) => state,
        None => random()?,
    };
    asked.input.pkce = match input.pkce {
        Some(pkce) => pkce,
        None => {
            let verifier = random()?;
            let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&verifier));
            Verifier { verifier, challenge }
        }
    };
    asked.input.callback = input.callback;
    asked.input.tokens = input.tokens;
    Ok(asked)
}

fn random() -> Result<String, String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| format!("no randomness: {error}"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// How to complete what `authorize` began.
fn going_on(asked: &RecordedExchange) -> String {
    format!(
        "\nOpen it, give consent, and put what comes back in the address bar into an input for `exchange`:\n  \
         [callback]\n  code = \"…\"\n  [pkce]\n  verifier = \"{}\"\n  challenge = \"{}\"\n",
        asked.input.pkce.verifier, asked.input.pkce.challenge
    )
}

/// The tokens that the connection has now, as an input.
fn print_tokens(asked: &RecordedExchange, outcome: &Outcome) -> Result<(), String> {
    let Outcome::Tokens(granted) = outcome else { return Ok(()) };
    let before = asked.input.tokens.refresh_token.clone();
    let input = Input {
        tokens: Current {
            access_token: granted.access_token.clone(),
            refresh_token: granted.refresh_token.clone().or(before),
            expires_at: granted.expires_in.map(|life| asked.now.saturating_add(life)),
            id_token: granted.id_token.clone(),
        },
        connection: Some(Asked {
            kept: pairs(&asked.connection.kept).into_iter().chain(pairs(&granted.keep)).collect(),
            parameters: pairs(&asked.connection.parameters).into_iter().collect(),
            scopes: asked.connection.scopes.clone(),
            redirect_uri: Some(asked.connection.redirect_uri.clone()),
        }),
        ..Input::default()
    };
    let text = toml::to_string(&input).map(Zeroizing::new).map_err(|error| error.to_string())?;
    print(text.as_bytes())
}

/// A new file, for its owner until it has been read.
fn create(file: &Path) -> Result<File, String> {
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))?;
    }
    // Follows no link, either.
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    made.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            "the file to --record to is there already, and nothing is overwritten".to_owned()
        }
        _ => unwritable(file, &error),
    })
}

fn unwritable(file: &Path, error: &std::io::Error) -> String {
    format!("{} cannot be written: {error}", file.display())
}

/// Writes the exchange, and plays it at once: what cannot be played is no test.
async fn record(
    file: &Path,
    exchange: &RecordedExchange,
    bench: &Bench,
    provider: &config::Provider,
) -> Result<String, String> {
    let text = toml::to_string(exchange)
        .map_err(|error| format!("the exchange cannot be written as TOML: {error}"))?;
    let mut out = create(file)?;
    out.write_all(format!("{RECORD_HEAD}{text}").as_bytes()).map_err(|error| unwritable(file, &error))?;
    let played = bench.play(exchange, provider.limits, meter()?).await;
    if played.differences.is_empty() {
        return Ok(format!("\nrecorded in {}, and played back: as it was\n", file.display()));
    }
    Ok(format!(
        "\nrecorded in {}; played back it differs, because something that the plugin reads was replaced. Edit it:\n  {}\n",
        file.display(),
        played.differences.join("\n").replace('\n', "\n  ")
    ))
}
