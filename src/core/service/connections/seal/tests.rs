//! Stories about parameters that are secrets: keys that users give when connecting.

use std::collections::BTreeMap;

use secrecy::ExposeSecret;

use palisade_core::ports::ParameterInfo;
use palisade_core::service::connections::{Begin, ConnectionError};
use palisade_testing::accounts_world::client;
use palisade_testing::connections_world::{acme, world};

#[tokio::test]
async fn a_secret_parameter_is_sealed_and_goes_to_the_provider_only() {
    let world = world().await;
    let parameter = |name: &str, secret| ParameterInfo {
        name: name.into(),
        summary: "what it is".into(),
        pattern: ".*".into(),
        example: None,
        required: true,
        secret,
    };
    world
        .providers
        .edit_info(|info| info.parameters = vec![parameter("shop", false), parameter("api_key", true)]);
    let with = |key: &str| Begin {
        parameters: BTreeMap::from([("shop".into(), "s".into()), ("api_key".into(), key.into())]),
        ..acme()
    };
    let told = |verb: &str| {
        let call = world.providers.last(verb);
        assert_eq!(call.parameters, BTreeMap::from([("shop".into(), "s".into())]));
        call.secret_parameters["api_key"].expose_secret().to_owned()
    };
    let stored = async |id| {
        let stored = world.stored(id).await;
        // The fake vault writes a secret in the clear behind its place: what is not in such an envelope shows.
        let text = serde_json::to_string(&stored).unwrap();
        assert!(!text.replace("parameters|{\\\"api_key\\\":\\\"hush-", "").contains("hush-"), "{text}");
        stored
    };
    let begun = world.begin(with("hush-1")).await.unwrap();
    let pending = stored(begun.connection.id).await;
    assert!(pending.consent.unwrap().secret_parameters.is_some());
    assert_eq!(told("authorize"), "hush-1");
    let id = world.come_back(&begun).await.unwrap().connection;
    assert_eq!((told("exchange"), told("identity")), ("hush-1".into(), "hush-1".into()));
    assert!(stored(id).await.tokens.unwrap().parameters.is_some());
    world.connections.force_refresh(&client(), world.ann, id).await.unwrap();
    assert_eq!(told("refresh"), "hush-1");
    world.connections.force_refresh(&client(), world.ann, id).await.unwrap();
    assert_eq!(told("refresh"), "hush-1", "a refresh keeps it");
    // Sealed anew with the tokens.
    world.vault.keys.lock().unwrap().insert(0, "k2".into());
    let resealed = world.connections.reseal_step(None).await.unwrap();
    assert_eq!((resealed.renewed, resealed.unreadable), (1, 0));
    assert!(stored(id).await.tokens.unwrap().parameters.unwrap().starts_with("k2"));
    // Another key for the same shop is the same connection; without parameters, they are those of before.
    let again = world.begin(with("hush-2")).await.unwrap();
    assert_eq!((again.connection.id, told("authorize")), (id, "hush-2".into()));
    let renewed = world.begin(Begin { connection: Some(id), ..acme() }).await.unwrap();
    assert_eq!((renewed.connection.id, told("authorize")), (id, "hush-1".into()));
    let missing = Begin { parameters: BTreeMap::from([("shop".into(), "s".into())]), ..acme() };
    assert!(
        matches!(world.begin(missing).await, Err(ConnectionError::Invalid(why)) if why.contains("api_key"))
    );
    world.connections.disconnect(&client(), world.ann, id).await.unwrap();
    assert_eq!(told("revoke"), "hush-1");
    let text = serde_json::to_string(&world.stored(id).await).unwrap();
    assert!(!text.contains("hush-"), "{text}");
}
