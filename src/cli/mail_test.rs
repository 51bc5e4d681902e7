//! `palisade mail test`: one letter over the configured transport, and what the server said.

use std::path::Path;

use uuid::Uuid;

use super::MailTestArgs;
use super::mail_preview::letter;
use crate::config::{self, error_lines};
use crate::edge::clock::SystemClock;
use crate::edge::mail::{self, Post};
use crate::edge::telemetry::logging;
use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::mail::Mail;
use palisade_core::domain::name::is_line;
use palisade_core::ports::{Clock, MailFault};

/// Sends it.
pub(super) fn run(config: &Path, args: MailTestArgs) -> Result<String, String> {
    let letter = letter(&args.letter)?;
    let to: EmailAddress = args.to.parse().map_err(|error| format!("--to: {error}"))?;
    if args.name.as_deref().is_some_and(|name| !is_line(name)) {
        return Err("--name: a name is one line of at most 200 bytes".to_owned());
    }
    let config = config::load(config).map_err(|errors| error_lines(&errors))?;
    let post = Post::new(&config.mail, &config.public_url).map_err(|errors| error_lines(&errors))?;
    // The transport "log" has nowhere else to write to.
    logging::start(&config.log)?;
    let sample = mail::sample(letter, Uuid::now_v7(), to, SystemClock.now());
    let sample = Mail { name: args.name, ..sample };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime could be started: {error}"))?;
    match runtime.block_on(post.hand_over(&sample, Some(mail::sample_token()))) {
        Ok(accepted) => Ok(format!("{} for {}: {}", accepted.message_id, sample.to, accepted.answer)),
        Err(MailFault::Permanent(why)) => Err(format!("refused for good: {why}")),
        Err(MailFault::Transient(why)) => Err(format!("not taken now; the gateway would try again: {why}")),
        Err(MailFault::Unreachable(why)) => {
            Err(format!("no mail can be delivered now; the gateway would try again: {why}"))
        }
    }
}
