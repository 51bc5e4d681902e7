//! The part of the composition that accounts need: their ports, the workers behind them, and how they end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, MailTransport, error_lines};
use crate::edge::devices::DeviceReader;
use crate::edge::entropy::SystemEntropy;
use crate::edge::limits::RateLimits;
use crate::edge::mail::Post;
use crate::edge::own_secrets;
use crate::edge::passwords::BcryptPasswords;
use crate::edge::telemetry::audit::AuditLog;
use palisade_core::domain::account::Registration;
use palisade_core::domain::lease::LeaseHolder;
use palisade_core::domain::mail_cap::Caps;
use palisade_core::domain::opaque::ServerKey;
use palisade_core::domain::session::{BrowserLifetimes, Lifetimes};
use palisade_core::ports::{Audit, Clock, Entropy, Limiter, Meter, SecretStore, Signer, Store};
use palisade_core::service::accounts::{AccountPorts, AccountSettings, Accounts};
use palisade_core::service::audited_limits::AuditedLimits;
use palisade_core::service::fit::{longest_token, most_signed};
use palisade_core::service::hash_costs;
use palisade_core::service::mint::MAX_TTL;
use palisade_core::service::outbox::Outbox;
use palisade_core::service::revoke::Lives;

/// What the use cases about accounts are composed from, beside the configuration.
pub(super) struct AccountInputs {
    pub(super) store: Arc<dyn Store>,
    pub(super) signer: Arc<dyn Signer>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) meter: Arc<dyn Meter>,
    /// Who may make an account.
    pub(super) registration: Registration,
}

/// The use cases about accounts, and their workers.
pub(super) struct AccountWorkers {
    pub(super) accounts: Accounts,
    shared: SharedPorts,
    /// Delivers what the outbox holds.
    pub(super) post: Arc<Post>,
    audit: Arc<AuditLog>,
    outbox: Arc<Outbox>,
    delivering: JoinHandle<()>,
    working: JoinHandle<()>,
    noting: JoinHandle<()>,
    closing: CancellationToken,
}

/// What the use cases about connections share with those about accounts.
#[derive(Clone)]
pub(super) struct SharedPorts {
    pub(super) limiter: Arc<dyn Limiter>,
    pub(super) audit: Arc<dyn Audit>,
    pub(super) key: Arc<ServerKey>,
    /// Notified when a mail was put into the outbox.
    pub(super) outbox: Arc<Notify>,
}

impl AccountWorkers {
    /// What the use cases about connections share with those about accounts.
    pub(super) fn shared(&self) -> SharedPorts {
        self.shared.clone()
    }

    /// Ends the workers: tasks and mails under way come to their end within `grace`, and every event is
    /// written.
    pub(super) async fn close(self, grace: Duration) {
        self.closing.cancel();
        self.outbox.close();
        let (worked, delivered, noted) = tokio::join!(
            tokio::time::timeout(grace, self.working),
            tokio::time::timeout(grace, self.delivering),
            tokio::time::timeout(grace, self.noting)
        );
        if noted.is_err() {
            tracing::warn!(
                "the grace period ended with uses of sessions that were not written; some may end sooner"
            );
        }
        if worked.is_err() {
            tracing::warn!("the grace period ended with tasks under way; the next start does them");
        }
        if delivered.is_err() {
            tracing::warn!("the grace period ended with mails under way; they may be sent a second time");
        }
        // A pipe whose reader does not read must not keep the gateway from ending.
        if tokio::time::timeout(grace, self.audit.close()).await.is_err() {
            tracing::error!("the grace period ended with audit events that could not be written");
        }
    }
}

/// Composes the use cases about accounts and starts their workers.
///
/// # Errors
/// What kept it from that, as one printable text.
pub(super) fn start(
    config: &Config,
    secrets: &dyn SecretStore,
    inputs: AccountInputs,
) -> Result<AccountWorkers, String> {
    let AccountInputs { store, signer, clock, meter, registration } = inputs;
    let mut keys = own_secrets::server_keys(secrets)?.into_iter();
    let first = keys.next().ok_or_else(|| "there is no server key".to_owned())?;
    let key = Arc::new(ServerKey::ring(first, keys.collect()));
    let audit = Arc::new(AuditLog::start(config.log.audit.clone(), Arc::clone(&store)));
    let mails = Arc::new(Notify::new());
    let (tokens, lives) = (&config.tokens, lives(config));
    let service = service_names(config);
    let passwords =
        BcryptPasswords::start(&config.passwords, service, Arc::new(SystemEntropy), Arc::clone(&meter))
            .map_err(|error| format!("the threads that hash passwords: {error}"))?;
    let limits = RateLimits::new(config.limits.clone());
    let limits = match store.shared_notes() {
        // Guesses are counted for all gateways over the store.
        Some(_) => limits.without_guesses(),
        None => limits,
    };
    let limiter: Arc<dyn Limiter> = Arc::new(AuditedLimits::new(
        Arc::new(limits),
        Arc::clone(&audit) as _,
        Arc::clone(&clock),
        Arc::new(SystemEntropy),
        Arc::clone(&key),
    ));
    let holder = LeaseHolder(SystemEntropy.uuid());
    let ports = AccountPorts {
        store: Arc::clone(&store),
        signer,
        clock: Arc::clone(&clock),
        entropy: Arc::new(SystemEntropy),
        passwords: Arc::new(passwords),
        limiter: Arc::clone(&limiter),
        audit: Arc::clone(&audit) as _,
        devices: Arc::new(DeviceReader::open(config.sessions.geoip.as_deref())?),
        key: Arc::clone(&key),
        outbox: Arc::clone(&mails),
        holder,
    };
    let settings = AccountSettings {
        access_ttl: tokens.access_ttl,
        longest_token: longest_token(tokens.max_bytes, config.server.max_header_bytes),
        most_signed: most_signed(tokens.max_bytes),
        lifetimes: lives.sessions,
        refresh_repeat: tokens.refresh_repeat,
        max_sessions: config.sessions.max_per_user,
        fingerprint: config.sessions.fingerprint,
        verification: config.accounts.verification,
        registration,
        tells_app: config.accounts.webhook.is_some(),
        sends_mail: !matches!(config.mail.transport, MailTransport::None),
        revocation_life: lives.tokens + lives.leeway,
        guesses: config.limits.enabled.then_some(config.limits.guesses),
        letters: Caps {
            enabled: config.limits.enabled,
            an_hour: config.limits.letters_per_hour,
            a_day: config.limits.letters_per_day,
        },
    };
    let accounts = Accounts::new(ports, settings);
    let post = Arc::new(Post::new(&config.mail, &config.public_url).map_err(|errors| error_lines(&errors))?);
    let shared = SharedPorts {
        limiter,
        audit: Arc::clone(&audit) as _,
        key: Arc::clone(&key),
        outbox: Arc::clone(&mails),
    };
    let outbox = Arc::new(Outbox::new(store, Arc::clone(&post) as _, clock, meter, key, mails, holder));
    let worker = Arc::clone(&outbox);
    let delivering = tokio::spawn(async move { worker.run().await });
    let closing = CancellationToken::new();
    let (worker, until) = (accounts.clone(), closing.clone());
    let working = tokio::spawn(async move { worker.run_tasks(until).await });
    let (worker, until) = (accounts.clone(), closing.clone());
    let noting = tokio::spawn(async move { worker.write_session_uses(until).await });
    drop(tokio::spawn(count_hash_costs(accounts.clone(), closing.clone())));
    Ok(AccountWorkers { accounts, shared, post, audit, outbox, delivering, working, noting, closing })
}

/// What people know the service by: the name that its letters have, where it is, and what it is made with.
fn service_names(config: &Config) -> Vec<String> {
    let authority = config.public_url.split_once("://").map_or("", |(_, rest)| rest);
    let host = authority.split(['/', ':']).next().unwrap_or_default();
    // Without the top-level domain, which names no service.
    let labels = host.rsplit_once('.').map_or(host, |(labels, _)| labels).to_owned();
    config.mail.from.name.clone().into_iter().chain([labels, "palisade".to_owned()]).collect()
}

/// How long tokens and sessions live: a revocation is kept at least as long.
pub(super) fn lives(config: &Config) -> Lives {
    let tokens = &config.tokens;
    Lives {
        tokens: tokens.access_ttl.max(MAX_TTL),
        sessions: Lifetimes {
            sliding: tokens.refresh_ttl,
            absolute: config.sessions.absolute_ttl,
            browser: BrowserLifetimes {
                idle: config.browser.idle,
                absolute: config.browser.absolute,
                remember: config.browser.remember,
            },
        },
        leeway: tokens.leeway,
    }
}

/// Counts the accounts by the cost of their password hashes: at the start, and from time to time.
async fn count_hash_costs(accounts: Accounts, closing: CancellationToken) {
    let mut ticks = tokio::time::interval(hash_costs::EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = closing.cancelled() => return,
        }
        if let Err(error) = accounts.count_hash_costs().await {
            tracing::warn!(%error, "the costs of password hashes could not be counted");
        }
    }
}
