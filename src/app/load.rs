//! Phase 4 of a start, load: the set of revocations, the components of providers, and the keys of other issuers, all
//! at once.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::backend::Backend;
use super::bind::Bound;
use super::compose::Composed;
use palisade_core::ports::Clock as _;
use palisade_core::service::accounts::AccountError;
use palisade_core::service::own_claims::TakenOver;

/// How long requests wait at the start for the providers to be loaded: from the cache that takes milliseconds,
/// and requests of routes without a provider must not wait for a compiler.
const PROVIDERS_FIRST: Duration = Duration::from_secs(2);

/// What the phase made. The set of revocations is complete.
pub(super) struct Loaded {
    pub(super) bound: Bound,
    pub(super) providers: Providers,
}

/// How far the components of providers are.
pub(super) enum Providers {
    /// Loaded, as far as they can be; with what the operator should know, one line each.
    Loaded(Vec<String>),
    /// Still being compiled; ends with the same.
    Loading(BoxFuture<'static, Vec<String>>),
}

impl Providers {
    /// Waits for the end of loading. Returns what the operator should know, one line each.
    pub(super) async fn finish(self) -> Vec<String> {
        match self {
            Providers::Loaded(notices) => notices,
            Providers::Loading(loading) => loading.await,
        }
    }
}

/// What the operator should know of own claims of accounts that were taken over. A failure must not keep the gateway
/// from serving: what was not taken over is in no token until the next start has done it.
fn taken_over(claims: Result<TakenOver, AccountError>) -> Option<String> {
    match claims {
        Ok(TakenOver { accounts: 0, unfit: 0 }) => None,
        Ok(TakenOver { accounts, unfit: 0 }) => Some(format!(
            "the claims `groups` and `preferred_username` of {accounts} accounts became their groups and user names"
        )),
        Ok(TakenOver { accounts, unfit }) => Some(format!(
            "the claims `groups` and `preferred_username` of {accounts} accounts became their groups and user names; {unfit} \
             accounts have such claims that do not fit, which are in no token: the log and the events of the accounts name \
             them"
        )),
        Err(error) => Some(format!(
            "not all claims `groups` and `preferred_username` of accounts became their groups and user names, and those that \
             did not are in no token ({error}); the next start goes on with it"
        )),
    }
}

/// Reads the set of revocations. A replica registers with the others first, and is believed once it has confirmed that it
/// knows every one.
///
/// # Errors
/// The set cannot be read, or the database has lost what was followed before; as one printable text.
async fn revocations(composed: &Composed) -> Result<(), String> {
    let (operator, state) = (&composed.operator, &composed.operator.state);
    match &composed.backend {
        Backend::Sled(_) => {
            let loaded = state.revocations.load(&*state.store, state.clock.reading().earliest).await;
            loaded.map_err(|error| error.to_string())
        }
        Backend::Postgres(shared) => {
            Box::pin(shared.join(&operator.started, composed.options, Arc::clone(&composed.sink))).await?;
            // What was published between the opening of the ring and the registration.
            let ring = state.ring.clone();
            let read = tokio::task::spawn_blocking(move || ring.reload()).await;
            read.map_err(|error| error.to_string())?.map(drop).map_err(|error| error.to_string())
        }
    }
}

/// Loads what requests are decided by.
///
/// # Errors
/// The set of revocations cannot be read; as one printable text.
pub(super) async fn load(mut bound: Bound) -> Result<Loaded, String> {
    let operator = Arc::clone(&bound.composed.operator);
    let state = &operator.state;
    let issuers = state.issuers.load_full();
    let loader = Arc::clone(&operator);
    let mut loading = async move { loader.connections.load(&loader.started).await }.boxed();
    let accounts = &bound.composed.accounts.accounts;
    let (asked, loaded, early, claims) = tokio::join!(
        // No source but a file is waited for; `/readyz` waits for the first answer of each.
        issuers.begin(Duration::ZERO),
        Box::pin(revocations(&bound.composed)),
        tokio::time::timeout(PROVIDERS_FIRST, &mut loading),
        accounts.take_over_claims(),
    );
    loaded?;
    match &bound.composed.backend {
        // No other process can write to it.
        Backend::Sled(_) => state.revocations.believe_for_ever(),
        // It has read the set itself, after it had registered.
        Backend::Postgres(_) => {}
    }
    bound.composed.notices.extend(asked.iter().filter(|news| news.is_worrying()).map(ToString::to_string));
    bound.composed.notices.extend(taken_over(claims));
    let providers = match early {
        Ok(notices) => Providers::Loaded(notices),
        Err(_) => Providers::Loading(loading),
    };
    Ok(Loaded { bound, providers })
}
