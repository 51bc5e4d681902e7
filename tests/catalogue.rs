//! Every provider of the catalogue, through the component that it names: its block of `config.toml` is
//! valid, its settings are ones that the component takes, and what the component calls is allowed.

use std::path::Path;
use std::sync::Arc;

use palisade::config::{self, catalogue};
use palisade::edge::clock::SystemClock;
use palisade::edge::jwt::ClientAssertions;
use palisade::edge::telemetry::metrics::Metrics;
use palisade::edge::wasm::{Plugins, Wiring};
use palisade::ports::{Door, DoorFault, DoorRequest, DoorResponse, Providers};

/// To describe itself a component may ask nobody.
struct Shut;

#[async_trait::async_trait]
impl Door for Shut {
    async fn send(&self, _: DoorRequest) -> Result<DoorResponse, DoorFault> {
        panic!("a request while a provider is being described")
    }
}

fn built_in() -> Vec<(&'static str, &'static [u8])> {
    let read = |name: &&'static str| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/dist").join(format!("{name}.wasm"));
        (*name, &*std::fs::read(file).unwrap().leak())
    };
    config::BUILT_IN.iter().map(read).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_block_of_the_catalogue_is_a_provider_in_service() {
    let entries = catalogue::list();
    let mut text = String::from("public_url = \"http://localhost:8080\"\n");
    text.push_str("[[routes]]\nname = \"app\"\nupstream = [\"http://127.0.0.1:3000\"]\n");
    for entry in &entries {
        text.push_str(&catalogue::block(entry));
        text.push('\n');
    }
    let config = config::parse(&text, Path::new("config.toml"), &|_| Some("a credential".to_owned()));
    let config = config.unwrap_or_else(|errors| panic!("{errors:#?}"));
    assert_eq!(config.providers.len(), entries.len());
    let plugins = Plugins::start(
        &config.providers,
        Wiring {
            doors: Box::new(|_| Ok(Arc::new(Shut))),
            assertions: Arc::new(ClientAssertions::default()),
            clock: Arc::new(SystemClock),
            meter: Arc::new(Metrics::new("test").unwrap()),
            built_in: built_in(),
            redirect_uri: "http://localhost:8080/auth/connections/callback".to_owned(),
            cache: None,
        },
    )
    .await
    .unwrap();
    let faults: Vec<_> =
        plugins.standings().into_iter().filter(|standing| standing.fault.is_some()).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    for entry in entries.iter().filter(|entry| entry.component == "builtin:oauth2") {
        let info = plugins.get(&entry.name).unwrap();
        assert_eq!(info.parameters.len(), entry.parameters().len(), "{}", entry.name);
    }
}
