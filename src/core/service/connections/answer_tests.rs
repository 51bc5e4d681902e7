//! What providers say beside what they were asked for: reasons in words of their own, and oddities beside good tokens.

use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::service::connections::{ConnectionError, ConsentRefusal};
use palisade_testing::accounts_world::client;
use palisade_testing::connections_world::{RETURN_TO, acme, world};

#[tokio::test]
async fn what_the_provider_refuses_is_told_in_words_of_ours() {
    let world = world().await;
    let long = "x".repeat(1000);
    let cut = format!("{}…", &long[..197]);
    let (consent, other) = ("consent was not given", "the provider has refused for a reason of its own");
    for (error, described, word, meaning, said) in [
        (
            "access_denied",
            "No,\r\nSet-Cookie: a=b\u{202e}",
            "access_denied",
            consent,
            Some("No, Set-Cookie: a=b"),
        ),
        ("access_denied", "", "access_denied", consent, None),
        ("<script>", long.as_str(), "provider_error", other, Some(cut.as_str())),
    ] {
        let begun = world.begin(acme()).await.unwrap();
        let callback = world.coming_back(&begun, &[("error", error), ("error_description", described)]);
        let returned = world.connections.callback(&client(), callback).await.unwrap();
        let said = said.map(str::to_owned);
        assert_eq!(returned.outcome, Err(ConsentRefusal { word, meaning, said }));
        assert_eq!(returned.return_to.as_deref(), Some(RETURN_TO));
        assert!(matches!(world.come_back(&begun).await, Err(ConnectionError::InvalidState)), "it is used up");
    }
    assert_eq!(world.providers.count("exchange"), 0);
    let denied = (Action::Connect, Outcome::Denied, Some("access_denied".to_owned()));
    assert!(world.events().contains(&denied));
}

/// What was odd beside good tokens is written down, once, and costs nothing.
#[tokio::test]
async fn what_was_dropped_of_an_answer_stands_with_the_connection() {
    let world = world().await;
    let note = |text: &str| *world.providers.notes.lock().unwrap() = vec![text.to_owned()];
    note("12 scopes were dropped");
    let id = world.connect(acme()).await;
    assert_eq!(world.stored(id).await.notes, ["12 scopes were dropped"]);
    let connected = (Action::Connect, Outcome::Success, Some("12 scopes were dropped".to_owned()));
    assert!(world.events().contains(&connected), "{:?}", world.events());
    // The same with each refresh is no news.
    let before = world.events().len();
    world.clock.advance(3500);
    assert_eq!(world.access(id).await, "a0.1");
    let odd = |events: &[(Action, Outcome, Option<String>)]| {
        events.iter().filter(|event| event.2.as_deref().is_some_and(|why| why.contains("dropped"))).count()
    };
    assert_eq!(odd(&world.events()[before..]), 0);
    note("the ID token was dropped");
    world.clock.advance(3500);
    assert_eq!(world.access(id).await, "a0.2");
    assert_eq!(odd(&world.events()[before..]), 1);
    world.providers.notes.lock().unwrap().clear();
    world.clock.advance(3500);
    assert_eq!(world.access(id).await, "a0.3");
    assert!(world.stored(id).await.notes.is_empty());
}
