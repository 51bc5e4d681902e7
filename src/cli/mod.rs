//! The command line: arguments in, one file per command.
//!
//! Commands that change a running gateway are clients of its admin API; they never open its store.

mod admin;
mod backup;
mod check;
mod clock;
mod connections;
mod keys;
mod link;
mod mail_preview;
mod mail_test;
mod migrate;
mod output;
mod pages_preview;
mod password_generate;
mod password_hash;
mod password_verify;
mod plugin;
mod providers;
mod reload;
mod restore;
mod routes;
mod run;
mod store;
mod token_inspect;
mod token_mint;
mod token_revoke;
mod token_verify;
mod users;
mod vault_key;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::app::{Accept, Options};

const EXAMPLES: &str = "\
Examples:
  palisade run --demo                        try it: a gateway, and a sample app behind it
  palisade check                             is config.toml right? says file and line if not
  palisade routes                            which rule takes a request, in their order
  palisade run --config /etc/palisade.toml   the gateway, with another configuration

With the gateway running:
  TOKEN=$(palisade token mint --sub alice --scope read)
  curl -H \"Authorization: Bearer $TOKEN\" http://localhost:8080/
  palisade token revoke \"$TOKEN\"             from now on this token is refused";

/// An authentication gateway that runs beside a web app: verified requests in, revoked tokens out.
#[derive(Debug, Parser)]
#[command(name = "palisade", version, after_help = EXAMPLES, propagate_version = true)]
pub struct Cli {
    /// The configuration.
    #[arg(long, global = true, value_name = "FILE", env = "PALISADE_CONFIG", default_value = "config.toml")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until it is told to stop (SIGTERM, Ctrl-C).
    Run {
        /// Also serve a sample app on loopback that shows the identity it received, and route to it.
        #[arg(long)]
        demo: bool,
        #[command(flatten)]
        accept: AcceptArgs,
    },
    /// Check the configuration and the components of its providers, and tell every error at once; exit 1 if
    /// there is one.
    Check {
        /// Also connect to the database of store.url, where it is one, and look at its settings.
        #[arg(long)]
        connect: bool,
    },
    /// Show the rules of all routes in the order in which they decide, or which one answers a request.
    ///
    /// Reads the configuration; needs no running gateway.
    #[command(
        after_help = "Examples:\n  palisade routes\n  palisade routes explain GET https://app.example.com/admin --client 10.0.0.7"
    )]
    Routes {
        #[command(subcommand)]
        command: Option<routes::Routes>,
        #[command(flatten)]
        output: output::Output,
    },
    /// Make, read, verify and revoke access tokens.
    #[command(subcommand)]
    Token(Token),
    /// See and rotate the keys that sign our own tokens.
    #[command(subcommand)]
    Keys(Keys),
    /// See how far the running gateway trusts its clock, and say that the clock is right.
    Clock {
        #[command(subcommand)]
        command: Option<Clock>,
    },
    /// See and change accounts: list, show, add, invite, disable, enable, delete, sessions, unfreeze, reset-password.
    #[command(subcommand)]
    Users(users::Users),
    /// See and end users' connections to providers: list, show, refresh, revoke.
    #[command(subcommand)]
    Connections(connections::Connections),
    /// See the letters before a user gets one, and try the transport. Needs no running gateway.
    #[command(subcommand)]
    Mail(Mail),
    /// See the pages for people before a user does. Needs no running gateway.
    #[command(subcommand)]
    Pages(Pages),
    /// Hash, check and make up passwords, offline. Passwords come on standard input.
    #[command(subcommand)]
    Password(Password),
    /// See the providers whose settings come with Palisade, and print them for config.toml. Works offline.
    #[command(subcommand)]
    Providers(providers::Providers),
    /// Write, build, check, test and try provider plugins: new, build, check, inspect, test, call.
    #[command(subcommand)]
    Plugin(plugin::Plugin),
    /// Make keys that the tokens of providers are sealed with, offline.
    #[command(subcommand)]
    Vault(Vault),
    /// See how large the running gateway's store is, and compact it: status, compact.
    #[command(subcommand)]
    Store(store::Store),
    /// Make a backup of everything that the store holds; verify and inspect one.
    ///
    /// The running gateway makes it while it serves, as the store is at one moment; when none runs, the store is read
    /// itself. Without a recipient it is not encrypted, and leaves out the gateway's own secrets: keep copies of those (the
    /// files of the data folder, vault.keys) elsewhere.
    #[command(after_help = "\
Examples:
  palisade backup /backups/$(date +%F).palisade
  palisade backup /backups/$(date +%F).palisade --recipient age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
  palisade backup - | ssh vault 'cat > today.palisade'
  palisade backup verify /backups/2026-01-31.palisade
  palisade backup inspect /backups/2026-01-31.palisade --identity key.txt")]
    Backup(backup::Backup),
    /// Restore a backup into an empty store, of this kind or of the other.
    ///
    /// What the backup brings back to life is cut off: every token, session, link and invitation from before, and what was
    /// under way. With --ends, accounts that were erased, disabled or unlinked since stay so.
    #[command(after_help = "\
Examples:
  palisade restore /backups/2026-01-31.palisade --ends /backups/ends
  palisade restore /backups/2026-01-31.palisade --identity key.txt --ends /backups/ends")]
    Restore(restore::Restore),
    /// Move everything from one store into another, empty one, such as a data folder into PostgreSQL and back.
    ///
    /// Stop the gateways first. The source is closed for writing until it is done or given up, so nothing is lost between
    /// the two. What was broken off is gone on with by the same command. At its end each record of the one is compared with
    /// the other's.
    #[command(after_help = "\
Examples:
  palisade migrate sled:./data postgres://palisade@db.internal/palisade
  palisade migrate sled:./data env:PALISADE_DATABASE
  palisade migrate --give-up sled:./data       the source takes writes again")]
    Migrate(migrate::Migrate),
    /// Let the running gateway read its configuration again. A wrong one changes nothing.
    Reload,
}

#[derive(Debug, Subcommand)]
enum Token {
    /// Verify tokens from standard input, one a line, by the same code as the gateway.
    ///
    /// Prints `valid` or `invalid: REASON` for each; exits with 1 when one is invalid.
    Verify {
        /// The keys: a JWK Set.
        #[arg(long, value_name = "FILE")]
        jwks: PathBuf,
        /// Check only the form and the signature, not the issuer, the audience and the times.
        #[arg(long)]
        signature_only: bool,
    },
    /// Show what a token says, WITHOUT verifying it. Works offline.
    Inspect {
        /// The token; `-` or nothing: from standard input, which keeps it out of the shell's history.
        token: Option<String>,
    },
    /// Print a new access token of the running gateway's own issuer.
    #[command(
        after_help = "Example:\n  palisade token mint --sub alice --email alice@example.com --scope read --ttl 10m"
    )]
    Mint(MintArgs),
    /// Revoke one token, a session, a subject, or everything signed until a moment.
    #[command(after_help = "\
Examples:
  palisade token revoke \"$TOKEN\" --reason \"posted in a chat\"
  palisade token revoke --sub alice            every token of alice issued until now
  palisade token revoke --before now           every token of our issuer issued until now
  palisade token revoke --sub 4711 --issuer https://issuer.example")]
    Revoke(RevokeArgs),
}

#[derive(Debug, Subcommand)]
enum Password {
    /// Print the hash of the password on standard input, as the gateway would keep it.
    ///
    /// Up to 72 bytes plain bcrypt ($2b$); beyond, bcrypt_sha256 as passlib writes it. A line feed at the
    /// end is no part of the password; all else is.
    #[command(after_help = "Example:\n  palisade password hash < password.txt")]
    Hash {
        /// bcrypt's cost; each step doubles the work.
        #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(4..=31))]
        cost: u32,
    },
    /// Say whether the password on standard input is that of a hash, as a login would.
    ///
    /// Exits with 0 when it is, 1 when it is not, and 2 when the hash is none that the gateway checks: before
    /// an import, this tells whether a hash can be taken over.
    #[command(after_help = "\
Example:
  palisade password verify '$2y$10$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui' < password.txt")]
    Verify {
        /// The hash, in single quotes. It is no password, but keep it to yourself.
        hash: String,
        /// The cost of new hashes (passwords.bcrypt_cost), by which an older one needs to be written anew.
        #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(4..=31))]
        cost: u32,
    },
    /// Print a random password that every policy takes.
    Generate,
}

#[derive(Debug, Subcommand)]
enum Vault {
    /// Print a fresh key for vault.keys: 32 random bytes as base64url.
    ///
    /// Keep it away from the data folder. To replace a key, put the new one first and leave the old one
    /// behind it: the first seals, all of them open.
    #[command(
        after_help = "Example:\n  palisade vault key > /run/secrets/vault-key   # keys = [\"file:/run/secrets/vault-key\"]"
    )]
    Key,
}

/// What this one start may go on from. Each is said for one start, and not remembered.
#[derive(Debug, Args)]
struct AcceptArgs {
    /// Go on although secrets of the data folder are gone, and make new ones. The refused start says what that loses.
    #[arg(long)]
    accept_new_keys: bool,
    /// Go on with the store as it is, although it is not known to be whole: its witness is missing or damaged, or it
    /// holds less than was acknowledged. The refused start says which. What was revoked and is missing from it is
    /// accepted again, so `palisade token revoke --before now` comes next.
    #[arg(long)]
    accept_store_as_it_is: bool,
    /// Serve a store whose records are moved, or were moved, to another one (`palisade migrate`). It takes no change:
    /// valid tokens pass, and nothing can be revoked here. `palisade migrate --give-up` opens it for writing again.
    #[arg(long)]
    accept_closed_source: bool,
}

impl From<AcceptArgs> for Accept {
    fn from(args: AcceptArgs) -> Accept {
        Accept {
            new_keys: args.accept_new_keys,
            store_as_it_is: args.accept_store_as_it_is,
            closed_source: args.accept_closed_source,
        }
    }
}

#[derive(Debug, Args)]
struct MintArgs {
    /// The subject of the token.
    #[arg(long, value_name = "ID")]
    sub: String,
    /// The e-mail address of the subject; the token calls it verified.
    #[arg(long)]
    email: Option<String>,
    /// A scope to grant; repeat for more.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// How long it lives, at most 24h; tokens.access_ttl when not given.
    #[arg(long, value_parser = humantime::parse_duration)]
    ttl: Option<std::time::Duration>,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    #[command(flatten)]
    what: RevokeWhat,
    /// Whose tokens; our own issuer when not given (or the token's, when a token is).
    #[arg(long)]
    issuer: Option<String>,
    /// Why, for those who read the list later.
    #[arg(long)]
    reason: Option<String>,
    /// How long to remember; as long as such a token can live when not given, and never shorter where that is known.
    #[arg(long, value_parser = humantime::parse_duration)]
    expires_in: Option<std::time::Duration>,
    /// End the session that the given token belongs to as well.
    #[arg(long, conflicts_with_all = ["jti", "sid", "sub", "before"])]
    session: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct RevokeWhat {
    /// The token itself; `-`: from standard input. Its session lives on, without --session.
    token: Option<String>,
    /// One token, by its `jti`, which does not say what session it belongs to.
    #[arg(long)]
    jti: Option<String>,
    /// A session, with every token of it.
    #[arg(long)]
    sid: Option<String>,
    /// Every token of a subject issued until now, and the sessions begun until now.
    #[arg(long)]
    sub: Option<String>,
    /// Every token of the issuer issued until then, and the sessions begun until then: `now`,
    /// `2026-01-31T12:00:00Z`, or seconds since 1970.
    #[arg(long, value_name = "WHEN")]
    before: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Keys {
    /// Every key that verifies, the active one first.
    List,
    /// Let the next key sign and publish a new next one. No valid token is rejected by it.
    Rotate,
}

#[derive(Debug, Subcommand)]
enum Clock {
    /// Say that the clock of the gateway is right, after it was found in doubt.
    ///
    /// What cannot be undone and waited for this goes on: revocations whose tokens have ended are forgotten, retired
    /// keys, ended sessions and unverified accounts are removed, mail that is too old is given up. Look at the clock
    /// first (`palisade clock`): a revocation that is forgotten by a clock that is ahead is lost for good. If the
    /// clock once showed a later moment than now, every access token signed so far is revoked as well; sessions go
    /// on.
    Accept,
}

#[derive(Debug, Subcommand)]
enum Mail {
    /// Write a letter with sample data to a file, in the words of mail.templates.
    ///
    /// FILE.html gets the HTML, and FILE.txt beside it the plain text; FILE.eml gets the whole message, as a
    /// mail program opens it. The link in it opens nothing.
    #[command(after_help = "\
Examples:
  palisade mail preview --list                             the letters, and what each of them knows
  palisade mail preview verify_email --to /tmp/verify.html
  palisade mail preview new_device --to /tmp/device.eml")]
    Preview(PreviewArgs),
    /// Send one letter with sample data over mail.transport, and print what the server said.
    ///
    /// Exits with 1 when it was not taken. The link in it opens nothing.
    #[command(after_help = "Example:\n  palisade mail test --to you@example.com")]
    Test(MailTestArgs),
}

#[derive(Debug, Subcommand)]
enum Pages {
    /// Show every page with sample data in the browser, in each language, in the words of pages.folder.
    ///
    /// Serves them on loopback until Ctrl-C. Each look reads the templates anew; what is wrong with them is said in place
    /// of the page.
    #[command(after_help = "Example:\n  palisade pages preview")]
    Preview {
        /// The port on 127.0.0.1; 0 for any that is free.
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
}

#[derive(Debug, Args)]
struct PreviewArgs {
    /// Which letter; --list names them.
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// Where to: a name that ends in .html or .eml.
    #[arg(long, value_name = "FILE", required_unless_present = "list")]
    to: Option<PathBuf>,
    /// List the letters and what their templates can say.
    #[arg(long, conflicts_with_all = ["name", "to"])]
    list: bool,
}

#[derive(Debug, Args)]
struct MailTestArgs {
    /// Who gets it.
    #[arg(long, value_name = "ADDRESS")]
    to: String,
    /// Which letter; `palisade mail preview --list` names them.
    #[arg(long, value_name = "NAME", default_value = "welcome")]
    letter: String,
    /// What to call the person.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// Reads the process's arguments and does what they ask.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = cli.config.as_path();
    let done = match cli.command {
        Command::Run { demo, accept } => return run::run(config, Options { demo, accept: accept.into() }),
        Command::Check { connect } => return check::run(config, connect),
        Command::Routes { command, output } => routes::run(config, command.as_ref(), &output),
        Command::Token(Token::Verify { jwks, signature_only }) => {
            return token_verify::run(&jwks, signature_only);
        }
        Command::Token(Token::Inspect { token }) => token_inspect::run(token),
        Command::Token(Token::Mint(args)) => token_mint::run(config, &args),
        Command::Token(Token::Revoke(args)) => token_revoke::run(config, args),
        Command::Keys(Keys::List) => keys::list(config),
        Command::Keys(Keys::Rotate) => keys::rotate(config),
        Command::Clock { command: None } => clock::show(config),
        Command::Clock { command: Some(Clock::Accept) } => clock::accept(config),
        Command::Users(command) => users::run(config, command),
        Command::Connections(command) => connections::run(config, command),
        Command::Mail(Mail::Preview(args)) => mail_preview::run(config, &args),
        Command::Mail(Mail::Test(args)) => mail_test::run(config, args),
        Command::Pages(Pages::Preview { port }) => pages_preview::run(config, port),
        Command::Password(Password::Hash { cost }) => password_hash::run(cost),
        Command::Password(Password::Verify { hash, cost }) => return password_verify::run(hash, cost),
        Command::Password(Password::Generate) => Ok(password_generate::run()),
        Command::Providers(command) => providers::run(&command),
        Command::Plugin(command) => plugin::run(config, command),
        Command::Vault(Vault::Key) => Ok(vault_key::run()),
        Command::Store(command) => store::run(config, command),
        Command::Backup(command) => return backup::run(config, command),
        Command::Restore(command) => restore::run(config, command),
        Command::Migrate(command) => migrate::run(config, &command),
        Command::Reload => reload::run(config),
    };
    match done {
        Ok(text) => output::ended(text, ExitCode::SUCCESS),
        Err(error) => output::failed(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_revocation_names_exactly_one_thing() {
        let parse = |args: &str| Cli::try_parse_from(args.split(' ')).is_ok();
        assert!(parse("palisade token revoke a.b.c --reason x"));
        assert!(parse("palisade token revoke --sub alice --config other.toml"));
        assert!(!parse("palisade token revoke"));
        assert!(!parse("palisade token revoke --sub alice --sid s"));
        assert!(!parse("palisade token revoke a.b.c --jti j"));
    }
}
