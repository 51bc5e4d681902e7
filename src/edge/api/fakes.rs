//! Connections over the fakes that a world of accounts has, for the tests of this room.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use palisade_core::domain::route::Require;
use palisade_core::ports::{ParameterInfo, ProviderInfo, Signer};
use palisade_core::service::connections::{
    ConnectionPorts, ConnectionSettings, Connections, ProviderSettings,
};
use palisade_testing::accounts_world::AccountsWorld;
use palisade_testing::connection_fakes::{ACME, FakeProviders, FakeVault, FakeWebhook, info};
use palisade_testing::fakes::FakeSigner;

/// Where browsers may be sent.
pub(super) const RETURN_TO: &str = "https://app.test/settings?tab=banks";
/// The scope that callers need to be given tokens.
pub(super) const TOKENS: &str = "provider-tokens";

/// Beside Acme there is the shop of the description's examples.
pub(super) fn over(world: &AccountsWorld, providers: &Arc<FakeProviders>) -> Connections {
    let shop = ParameterInfo {
        name: "shop".to_owned(),
        summary: "The name of your shop".to_owned(),
        pattern: "[a-z0-9-]+".to_owned(),
        example: Some("my-shop".to_owned()),
        required: true,
        secret: false,
    };
    let shop = ProviderInfo { parameters: vec![shop], ..info("shop") };
    providers.infos.lock().unwrap().push(shop);
    let token_access = Some(Require { scopes: vec![TOKENS.to_owned()], ..Require::default() });
    let settings = ConnectionSettings {
        callback_url: "https://app.test/auth/connections/callback".to_owned(),
        return_to: vec![
            RETURN_TO.to_owned(),
            "https://app.example.com/settings".to_owned(),
            "https://app.test/auth/pages/account".to_owned(),
        ],
        refresh_ahead: Duration::from_secs(300),
        keep_fresh: true,
        warn_ahead: Duration::from_secs(86_400),
        providers: BTreeMap::from([
            (ACME.to_owned(), ProviderSettings { scopes: Vec::new(), token_access }),
            ("broken".to_owned(), ProviderSettings::default()),
        ]),
    };
    let ports = ConnectionPorts {
        store: Arc::clone(&world.store) as _,
        providers: Arc::clone(providers) as _,
        vault: Arc::new(FakeVault::default()),
        webhook: Arc::new(FakeWebhook::default()),
        clock: Arc::clone(&world.clock) as _,
        entropy: Arc::clone(&world.entropy) as _,
        limiter: Arc::clone(&world.limiter) as _,
        audit: Arc::clone(&world.audit) as _,
        key: Arc::clone(&world.key),
        outbox: Arc::new(Notify::new()),
        issuer: FakeSigner.issuer().to_owned(),
        run: uuid::Uuid::from_u128(1),
    };
    Connections::new(ports, settings)
}
