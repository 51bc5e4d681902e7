//! Phase 3 of a start, bind: the listeners. The admin listener and that of `server.health` come first and answer from here
//! on, since they tell how the rest of the start proceeds; on the others connections wait in the kernel's queue instead of
//! being refused.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::compose::Composed;
use super::sockets::{listen, local};
use super::{accounts, backups, credential, key_checks};
use crate::edge::api::{self, AdminState, HealthState, LinkPages};
use crate::edge::entropy::SystemEntropy;
use crate::edge::proxy::tls::Acceptor;
use palisade_core::ports::{Control, Keys, Signer};
use palisade_core::service::clock::Timekeeping;
use palisade_core::service::fit::longest_token;
use palisade_core::service::mint::Mint;
use palisade_core::service::revoke::Revoke;
use palisade_core::service::rotate::Rotate;
use palisade_core::service::storage::Storage;

/// What the phase made.
pub(super) struct Bound {
    pub(super) composed: Composed,
    pub(super) admin: SocketAddr,
    pub(super) health: Option<SocketAddr>,
    /// The tasks that answer on the admin and the health listener.
    pub(super) answering: Vec<AbortHandle>,
    pub(super) cleartext: Vec<TcpListener>,
    pub(super) encrypted: Option<(TcpListener, Acceptor)>,
}

/// Binds every listener, and serves the admin API.
///
/// # Errors
/// A listener cannot be bound, or the admin credential cannot be used; as one printable text.
pub(super) async fn bind(mut composed: Composed) -> Result<Bound, String> {
    let operator = Arc::clone(&composed.operator);
    let server = &operator.started.server;
    let admin_listener = listen(server.admin, "server.admin")?;
    let admin = local(&admin_listener)?;
    let router = api::admin_router(admin_state(&composed)?);
    let data_dir = operator.started.store.data_dir();
    composed.notices.extend(key_checks::keep(&composed.backend, &*composed.secrets, data_dir).await);
    let serving = api::serve(admin_listener, router, server.admin_hosts.clone());
    let mut answering = vec![tokio::spawn(serving).abort_handle()];
    let mut health = None;
    if let Some(address) = server.health {
        let listener = listen(address, "server.health")?;
        health = Some(local(&listener)?);
        let metrics = Arc::clone(&operator.state.metrics);
        let router = api::health_router(HealthState {
            control: Arc::clone(&operator) as Arc<dyn Control>,
            metrics: Arc::new(move || metrics.text()),
        });
        answering.push(tokio::spawn(api::serve_health(listener, router)).abort_handle());
    }

    let mut cleartext = Vec::with_capacity(server.listen.len());
    for address in &server.listen {
        cleartext.push(listen(*address, "server.listen")?);
    }
    let encrypted = match (&server.tls, operator.tls.clone()) {
        (Some(tls), Some(acceptor)) => Some((listen(tls.listen, "server.tls.listen")?, acceptor)),
        _ => None,
    };
    Ok(Bound { composed, admin, health, answering, cleartext, encrypted })
}

/// What the admin API works with.
fn admin_state(composed: &Composed) -> Result<AdminState, String> {
    let operator = &composed.operator;
    let (state, config) = (&operator.state, &operator.started);
    let ring = Arc::new(state.ring.clone());
    let signer = || Arc::clone(&ring) as Arc<dyn Signer>;
    let revoke = Revoke::new(
        Arc::clone(&state.store),
        signer(),
        state.clock(),
        Arc::new(SystemEntropy),
        Arc::clone(&state.issuer_clocks) as _,
        accounts::lives(config),
    );
    let mint = Mint::new(
        Arc::clone(&state.store),
        signer(),
        state.clock(),
        config.tokens.access_ttl,
        longest_token(config.tokens.max_bytes, config.server.max_header_bytes),
    );
    let metrics = Arc::clone(&state.metrics);
    Ok(AdminState {
        credential: credential::admin(&*composed.secrets)?,
        storage: Storage::new(Arc::clone(&state.store)),
        backups: Arc::new(backups::maker(composed)?),
        revoke: revoke.clone(),
        mint,
        rotate: Rotate::new(Arc::clone(&ring) as Arc<dyn Keys>, state.clock()),
        timekeeping: Timekeeping::new(Arc::clone(&state.clock), Arc::clone(&state.store), revoke),
        accounts: composed.accounts.accounts.clone(),
        connections: operator.connections.connections.clone(),
        control: Arc::clone(operator) as Arc<dyn Control>,
        metrics: Arc::new(move || metrics.text()),
        pages: LinkPages { verify: config.mail.verify_url.clone(), reset: config.mail.reset_url.clone() },
    })
}
