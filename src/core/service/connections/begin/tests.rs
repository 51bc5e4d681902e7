//! From beginning a connection to its tokens, over the fakes, as stories.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use palisade_core::domain::account::UserId;
use palisade_core::domain::audit::{Action, Outcome};
use palisade_core::domain::connection::{ConnectionId, FaultKind, MAX_CONNECTIONS, Status};
use palisade_core::domain::opaque::code_challenge;
use palisade_core::ports::{Change, Clock, Limited, ParameterInfo, ProviderFault, Store};
use palisade_core::service::caller::Person;
use palisade_core::service::connections::{Begin, Callback, ConnectionError, Import};
use palisade_testing::accounts_world::client;
use palisade_testing::connection_fakes::{ACME, info};
use palisade_testing::connections_world::{ConnectionsWorld, RETURN_TO, acme, identity, secret, world};

#[tokio::test]
async fn from_consent_to_a_token() {
    let world = world().await;
    let begun = world.begin(acme()).await.unwrap();
    assert_eq!(begun.authorization_url.as_deref(), Some("https://acme.test/authorize"));
    assert_eq!(begun.connection.status, Status::Pending);
    assert!(matches!(world.token(begun.connection.id).await, Err(ConnectionError::Pending)));

    let returned = world.come_back(&begun).await.unwrap();
    assert_eq!((returned.connection, returned.outcome), (begun.connection.id, Ok(())));
    assert_eq!((returned.provider.as_str(), returned.return_to.as_deref()), (ACME, Some(RETURN_TO)));
    let stored = world.stored(begun.connection.id).await;
    assert_eq!((stored.status, stored.consent.is_none()), (Status::Active, true));
    assert_eq!(stored.account.as_ref().map(|account| account.subject.as_str()), Some("ann-at-acme"));
    assert_eq!(
        (stored.connected_at, stored.refreshed_at),
        (Some(world.clock.now()), Some(world.clock.now()))
    );
    assert_eq!(world.sealed(stored.id).await, ["a0.0", "r0.0", r#"{"realm":"realm-0"}"#]);
    let token = world.token(stored.id).await.unwrap();
    assert_eq!((token.token_type.as_str(), token.scopes), ("Bearer", vec!["plugin.read".to_owned()]));
    assert_eq!(world.access(stored.id).await, "a0.0");
    assert_eq!(world.providers.count("refresh"), 0);

    let pkce = world.providers.pkce.lock().unwrap().clone();
    assert_eq!(pkce[0], pkce[1], "the exchange has the verifier of the authorization");
    assert_eq!(pkce[0].0, code_challenge(&secret(&pkce[0].1)));
    assert_eq!(world.sent_notices().await, ["connection.connected"]);
    let notice = world.webhook.notices.lock().unwrap()[0].clone();
    assert!(notice.body.contains(&stored.id.to_string()) && notice.body.contains("2027-01-15T08:00:00Z"));
    assert!(!notice.body.contains("a0.0"));
    assert_eq!(world.count(Action::Connect, Outcome::Success), 1);
    assert_eq!(world.count(Action::ReadProviderToken, Outcome::Success), 2);
    let events = world.audit.0.lock().unwrap();
    assert!(
        events.iter().all(|event| event.connection == Some(stored.id) && event.user == Some(stored.user))
    );
}

#[tokio::test]
async fn a_callback_is_good_once_and_one_at_a_time() {
    let world = world().await;
    let begun = world.begin(acme()).await.unwrap();
    // While the first one is still with the provider, too.
    world.providers.close_gate();
    let first = {
        let (connections, callback) =
            (world.connections.clone(), world.coming_back(&begun, &[("code", "x")]));
        tokio::spawn(async move { connections.callback(&client(), callback).await })
    };
    world.providers.begun.notified().await;
    let mut reloaded = Box::pin(world.come_back(&begun));
    assert!(futures::poll!(&mut reloaded).is_pending(), "it waits for what comes of the first one");
    world.providers.gate.add_permits(1000);
    let returned = first.await.unwrap().unwrap();
    assert_eq!(returned.outcome, Ok(()));
    for again in [reloaded.await, world.come_back(&begun).await] {
        let again = again.unwrap();
        assert_eq!((again.connection, again.return_to), (returned.connection, returned.return_to.clone()));
        assert_eq!(again.outcome, Ok(()));
    }
    assert_eq!(world.providers.count("exchange"), 1);
    assert_eq!(world.count(Action::Connect, Outcome::Success), 1);
}

/// The request of a browser that reloads while the provider is asked is cancelled. What it began comes to its end.
#[tokio::test]
async fn a_callback_whose_browser_goes_away_comes_to_its_end() {
    let world = world().await;
    let begun = world.begin(acme()).await.unwrap();
    world.providers.close_gate();
    let mut first = Box::pin(world.come_back(&begun));
    assert!(futures::poll!(&mut first).is_pending());
    world.providers.begun.notified().await;
    drop(first);
    world.providers.gate.add_permits(1000);
    assert_eq!(world.come_back(&begun).await.unwrap().outcome, Ok(()));
    assert_eq!(world.providers.count("exchange"), 1);
}

/// "Connected" is told to the browser that began it, for ten minutes, while its session lives and it is so.
#[tokio::test]
async fn a_reloaded_callback_tells_no_other_and_nothing_that_is_not_so() {
    let fresh = world;
    let connected = || async {
        let world = fresh().await;
        let begun = world.begin(acme()).await.unwrap();
        world.come_back(&begun).await.unwrap();
        (world, begun)
    };
    let is_none = |answer| matches!(answer, Err(ConnectionError::InvalidState));
    let (mut world, begun) = connected().await;
    for browser in [None, Some(secret("another browser's")), Some(secret(""))] {
        let callback = Callback { browser, ..world.coming_back(&begun, &[("code", "x")]) };
        assert!(is_none(world.connections.callback(&client(), callback).await));
    }
    world.clock.advance(599);
    assert!(world.come_back(&begun).await.is_ok());
    world.clock.advance(1);
    assert!(is_none(world.come_back(&begun).await));
    assert!(is_none({
        world.restart();
        world.come_back(&begun).await
    }));

    let (world, begun) = connected().await;
    world.connections.disconnect(&client(), world.ann, begun.connection.id).await.unwrap();
    assert!(is_none(world.come_back(&begun).await), "it was ended since");

    let (world, begun) = connected().await;
    let mut ann = world.store.user(world.ann.user).await.unwrap().unwrap();
    ann.active = false;
    world.store.commit(vec![Change::UpdateUser(ann)]).await.unwrap();
    assert!(matches!(world.come_back(&begun).await, Err(ConnectionError::NoAccount)));

    // What was refused is not told as connected, and is not tried again.
    let world = fresh().await;
    let begun = world.begin(acme()).await.unwrap();
    let refused = world.coming_back(&begun, &[("error", "access_denied")]);
    assert!(world.connections.callback(&client(), refused).await.unwrap().outcome.is_err());
    assert!(is_none(world.come_back(&begun).await));
}

#[tokio::test]
async fn a_callback_counts_only_from_the_browser_that_began_it() {
    let world = world().await;
    let begun = world.begin(acme()).await.unwrap();
    let good = || world.coming_back(&begun, &[("code", "x")]);
    let changed = |at: usize| {
        let mut state = good().state.into_bytes();
        state[at] = if state[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(state).unwrap()
    };
    let bad = [
        Callback { browser: None, ..good() },
        Callback { browser: Some(secret("another browser's")), ..good() },
        Callback { browser: Some(secret("")), ..good() },
        Callback { state: String::new(), ..good() },
        Callback { state: changed(3), ..good() },
        Callback { state: changed(50), ..good() },
        Callback { state: changed(107), ..good() },
        Callback { state: "A".repeat(1 << 20), ..good() },
    ];
    for callback in bad {
        let answer = world.connections.callback(&client(), callback).await;
        assert!(matches!(answer, Err(ConnectionError::InvalidState)));
    }
    assert_eq!(world.providers.count("exchange"), 0);
    world.come_back(&begun).await.unwrap().outcome.unwrap();
}

/// Begun again, in another tab or by another person's browser: the earlier consent is dead.
#[tokio::test]
async fn the_latest_consent_counts() {
    let world = world().await;
    let first = world.begin(acme()).await.unwrap();
    let stale = world.coming_back(&first, &[("code", "x")]);
    let second = world.begin(acme()).await.unwrap();
    assert_eq!(first.connection.id, second.connection.id, "one that still waits is begun again");
    let answer = world.connections.callback(&client(), stale).await;
    assert!(matches!(answer, Err(ConnectionError::InvalidState)));
    world.come_back(&second).await.unwrap().outcome.unwrap();
}

#[tokio::test]
async fn a_consent_that_comes_late_is_none_and_goes_by_itself() {
    let world = world().await;
    let begun = world.begin(acme()).await.unwrap();
    world.clock.advance(600);
    assert!(matches!(world.come_back(&begun).await, Err(ConnectionError::InvalidState)));
    assert_eq!(world.providers.count("exchange"), 0);
    world.live(700).await;
    assert!(world.connections.connections(world.ann).await.unwrap().is_empty());
    // And without a callback.
    let id = world.begin(acme()).await.unwrap().connection.id;
    world.live(599).await;
    assert!(world.connections.connection(world.ann, id).await.is_ok());
    world.live(1).await;
    world.live(1).await;
    assert!(matches!(world.connections.connection(world.ann, id).await, Err(ConnectionError::NotFound)));
}

#[tokio::test]
async fn a_browser_goes_back_to_listed_places_only() {
    let world = world().await;
    for evil in [
        "//evil.test",
        "/\\evil.test",
        "https:evil.test",
        "https://evil.test/",
        "https://app.test@evil.test/settings?tab=banks",
        "https://app.test/settings?tab=banks#x",
        "https://app.test/settings?tab=banks ",
        "\thttps://app.test/settings?tab=banks",
        "https://app.test/settings?tab=banks\r\nX: y",
        "https://APP.test/settings?tab=banks",
        "https://app.test/settings",
        "javascript:alert(1)",
        "",
    ] {
        let begin = Begin { return_to: Some(evil.to_owned()), ..acme() };
        assert!(matches!(world.begin(begin).await, Err(ConnectionError::Invalid(_))), "{evil:?}");
    }
    assert_eq!(world.providers.count("authorize"), 0);
    let nowhere = world.begin(Begin { return_to: None, ..acme() }).await.unwrap();
    assert_eq!(world.come_back(&nowhere).await.unwrap().return_to, None);
}

#[tokio::test]
async fn an_exchange_that_fails_says_why_and_leaves_what_was_there() {
    let world = world().await;
    let id = world.connect(acme()).await;
    for (fault, word) in [
        (ProviderFault::InvalidGrant("bad code".into()), "invalid_grant"),
        (ProviderFault::Transient { reason: "503".into(), retry_after: None }, "temporarily_unavailable"),
        (ProviderFault::Misconfigured("invalid_client".into()), "misconfigured"),
        (ProviderFault::PluginFailed("out of memory".into()), "provider_error"),
    ] {
        let begun = world.begin(acme()).await.unwrap();
        assert_eq!(begun.connection.id, id);
        assert_eq!(world.access(id).await, "a0.0", "in use until there is another");
        world.providers.fail("exchange", fault);
        assert_eq!(world.come_back(&begun).await.unwrap().outcome.unwrap_err().word, word);
        assert_eq!(world.access(id).await, "a0.0");
        assert!(world.stored(id).await.last_fault.is_some());
    }
    let begun = world.begin(acme()).await.unwrap();
    world.come_back(&begun).await.unwrap().outcome.unwrap();
    assert_eq!(world.access(id).await, "a1.0");
    assert_eq!(world.stored(id).await.last_fault, None);
}

#[tokio::test]
async fn scopes_are_the_callers_or_the_configurations_or_the_plugins() {
    let world = world().await;
    let asked = |world: &ConnectionsWorld| world.providers.last("authorize").scopes;
    world.begin(acme()).await.unwrap();
    assert_eq!(asked(&world), ["plugin.read"]);
    world.set(|settings| settings.providers.get_mut(ACME).unwrap().scopes = vec!["ours".into()]);
    assert_eq!(world.connections.providers()[0].scopes, ["ours"]);
    world.begin(acme()).await.unwrap();
    assert_eq!(asked(&world), ["ours"]);
    *world.providers.scopes.lock().unwrap() = Some(vec!["a".into()]);
    let id = world.connect(Begin { scopes: Some(vec!["a".into(), "b".into()]), ..acme() }).await;
    assert_eq!(asked(&world), ["a", "b"]);
    let stored = world.stored(id).await;
    assert_eq!(
        (stored.scopes_asked, stored.scopes_granted),
        (vec!["a".into(), "b".into()], vec!["a".to_owned()])
    );
    for bad in ["a b", "", "a\n"] {
        let begin = Begin { scopes: Some(vec![bad.into()]), ..acme() };
        assert!(matches!(world.begin(begin).await, Err(ConnectionError::Invalid(_))), "{bad:?}");
    }
}

#[tokio::test]
async fn parameters_are_those_that_the_provider_names() {
    let world = world().await;
    let shop = ParameterInfo {
        name: "shop".into(),
        summary: "the name of the shop".into(),
        pattern: "[a-z]+".into(),
        example: None,
        required: true,
        secret: false,
    };
    world.providers.edit_info(|info| info.parameters = vec![shop]);
    let with = |pairs: &[(&str, &str)]| Begin {
        parameters: pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        ..acme()
    };
    let long = "x".repeat(501);
    for bad in
        [with(&[]), with(&[("shop", "a"), ("x", "y")]), with(&[("shop", "")]), with(&[("shop", &long)])]
    {
        assert!(matches!(world.begin(bad).await, Err(ConnectionError::Invalid(_))));
    }
    world.providers.fail(
        "authorize",
        ProviderFault::InvalidParameter { name: "shop".into(), summary: "the shop".into() },
    );
    let pattern = world.begin(with(&[("shop", "A")])).await;
    assert!(matches!(pattern, Err(ConnectionError::Invalid(why)) if why.contains("shop")));
    assert!(world.connections.connections(world.ann).await.unwrap().is_empty(), "nothing was begun");

    let (one, other) =
        (world.connect(with(&[("shop", "a")])).await, world.connect(with(&[("shop", "b")])).await);
    assert_ne!(one, other);
    let again = world.begin(with(&[("shop", "a")])).await.unwrap();
    assert_eq!(again.connection.id, one);
    let named = world.begin(Begin { connection: Some(other), ..acme() }).await.unwrap();
    assert_eq!(named.connection.id, other);
    assert_eq!(world.providers.last("authorize").parameters, BTreeMap::from([("shop".into(), "b".into())]));
}

#[tokio::test]
async fn which_connection_is_begun() {
    let world = world().await;
    world.providers.infos.lock().unwrap().push(info("other"));
    let id = world.connect(acme()).await;
    *world.providers.subject.lock().unwrap() = "ann-at-work".into();
    let another = world.connect(Begin { another: true, ..acme() }).await;
    assert_ne!(id, another);
    let unknown = world.begin(Begin { provider: "nobody".into(), ..acme() }).await;
    assert!(matches!(unknown, Err(ConnectionError::UnknownProvider(name)) if name == "nobody"));
    let missing = ConnectionId(uuid::Uuid::from_u128(99));
    let begin = |provider: &str, connection| Begin {
        provider: provider.into(),
        connection: Some(connection),
        ..acme()
    };
    assert!(matches!(world.begin(begin(ACME, missing)).await, Err(ConnectionError::NotFound)));
    assert!(matches!(world.begin(begin("other", id)).await, Err(ConnectionError::Invalid(_))));
    world.connections.disconnect(&client(), world.ann, id).await.unwrap();
    assert!(matches!(world.begin(begin(ACME, id)).await, Err(ConnectionError::Revoked)));
    let next = world.begin(acme()).await.unwrap();
    assert_eq!(next.connection.id, another, "one that has ended is not begun again");
}

#[tokio::test]
async fn a_page_of_the_web_is_where_consent_is_given() {
    let world = world().await;
    *world.providers.url.lock().unwrap() = "javascript:alert(1)".into();
    assert!(matches!(world.begin(acme()).await, Err(ConnectionError::Provider { .. })));
}

#[tokio::test]
async fn where_nobody_is_asked_it_is_active_at_once() {
    let world = world().await;
    world.providers.unattended.store(true, Ordering::Relaxed);
    let fault = ProviderFault::Transient { reason: "503".into(), retry_after: None };
    world.providers.fail("exchange", fault);
    assert!(matches!(world.begin(acme()).await, Err(ConnectionError::Provider { .. })));
    let begun = world.begin(acme()).await.unwrap();
    assert!(begun.authorization_url.is_none() && begun.browser.is_none());
    assert_eq!(begun.connection.status, Status::Active);
    assert_eq!(world.access(begun.connection.id).await, "a0.0");
    assert_eq!(world.count(Action::Connect, Outcome::Success), 1);
}

/// The provider may know the two for one grant: to end the older there would end the newer.
#[tokio::test]
async fn the_same_account_connected_twice_is_connected_once() {
    let world = world().await;
    let old = world.connect(acme()).await;
    let new = world.connect(Begin { another: true, ..acme() }).await;
    let ended = world.stored(old).await;
    assert_eq!((ended.status, ended.tokens, ended.due_at), (Status::Revoked, None, None));
    assert_eq!(world.access(new).await, "a1.0");
    let mut told = world.sent_notices().await;
    // What is told of two connections has no order.
    told.sort();
    assert_eq!(told, ["connection.connected", "connection.connected", "connection.revoked"]);
    assert_eq!(world.providers.count("revoke"), 0);
    // The account at the provider may not be known: then they are two connections.
    world.providers.edit_info(|info| info.can_identify = false);
    let third = world.connect(Begin { another: true, ..acme() }).await;
    assert_eq!((world.access(new).await, world.access(third).await), ("a1.0".into(), "a2.0".into()));
}

/// Nothing else is left of the grant of the first account.
#[tokio::test]
async fn a_renewal_with_another_account_ends_the_grant_of_the_one_before() {
    let world = world().await;
    let id = world.connect(acme()).await;
    let renew = || Begin { connection: Some(id), ..acme() };
    // The same account: the provider may know the two for one grant.
    assert_eq!(world.connect(renew()).await, id);
    assert_eq!(world.sent_notices().await, ["connection.connected", "connection.connected"]);
    assert_eq!((world.providers.count("revoke"), world.access(id).await.as_str()), (0, "a1.0"));
    *world.providers.subject.lock().unwrap() = "bob-at-acme".to_owned();
    assert_eq!(world.connect(renew()).await, id);
    world.sent_notices().await;
    assert_eq!((world.providers.count("revoke"), world.providers.live()), (1, vec![0, 2]));
    assert_eq!(world.access(id).await, "a2.0");
}

#[tokio::test]
async fn nothing_fails_for_want_of_an_identity() {
    let world = world().await;
    world.providers.fail("identity", ProviderFault::ProviderError("500".into()));
    let id = world.connect(acme()).await;
    assert_eq!((world.stored(id).await.account, world.access(id).await.as_str()), (None, "a0.0"));
}

#[tokio::test]
async fn there_is_an_end_to_what_one_may_have() {
    let world = world().await;
    for _ in 0..MAX_CONNECTIONS {
        world.begin(Begin { another: true, ..acme() }).await.unwrap();
    }
    let more = world.begin(Begin { another: true, ..acme() }).await;
    assert!(matches!(more, Err(ConnectionError::TooManyConnections)));
    world.begin(acme()).await.expect("one of them may be begun again");
    // The ended ones do not count, and are not kept for ever.
    for _ in 0..MAX_CONNECTIONS + 5 {
        let mine = world.connections.connections(world.ann).await.unwrap();
        let live = mine.iter().find(|one| one.status == Status::Pending).unwrap();
        world.connections.disconnect(&client(), world.ann, live.id).await.unwrap();
        world.begin(Begin { another: true, ..acme() }).await.unwrap();
    }
    let mine = world.connections.connections(world.ann).await.unwrap();
    let ended = mine.iter().filter(|one| one.status == Status::Revoked).count();
    assert!((MAX_CONNECTIONS..=MAX_CONNECTIONS + 1).contains(&ended), "{ended}");
}

#[tokio::test]
async fn what_is_limited_is_not_tried() {
    let world = world().await;
    let id = world.connect(acme()).await;
    let begun = world.begin(acme()).await.unwrap();
    let calls = world.providers.calls.lock().unwrap().len();
    *world.limiter.stop.lock().unwrap() = Some(Limited::Connect);
    assert!(matches!(world.begin(acme()).await, Err(ConnectionError::TooMany(_))));
    assert!(matches!(world.come_back(&begun).await, Err(ConnectionError::TooMany(_))));
    let refreshed = world.connections.force_refresh(&client(), world.ann, id).await;
    assert!(matches!(refreshed, Err(ConnectionError::TooMany(_))));
    assert_eq!(world.providers.calls.lock().unwrap().len(), calls);
}

#[tokio::test]
async fn one_person_has_nothing_to_do_with_the_connections_of_another() {
    let world = world().await;
    let id = world.connect(acme()).await;
    let bob = Person { user: UserId(uuid::Uuid::from_u128(0xb << 64)), session: None };
    let connections = &world.connections;
    let import = Import {
        access_token: secret("x"),
        refresh_token: None,
        expires_in: None,
        refresh_expires_in: None,
        scopes: None,
        kept: BTreeMap::new(),
    };
    let not_found = |error: ConnectionError| assert!(matches!(error, ConnectionError::NotFound), "{error}");
    not_found(connections.connection(bob, id).await.unwrap_err());
    not_found(connections.force_refresh(&client(), bob, id).await.unwrap_err());
    not_found(connections.import_tokens(&client(), bob, id, import).await.unwrap_err());
    not_found(connections.disconnect(&client(), bob, id).await.unwrap_err());
    not_found(connections.provider_token(&client(), &identity(bob.user), id).await.unwrap_err());
    not_found(connections.inject(&identity(bob.user), ACME).await.unwrap_err());
    assert!(connections.connections(bob).await.unwrap().is_empty());
    let begun = connections.begin(&client(), bob, acme()).await;
    assert!(matches!(begun, Err(ConnectionError::NoAccount)), "whose token outlives their account");
    assert_eq!(world.access(id).await, "a0.0");
}

#[tokio::test]
async fn an_account_that_goes_meanwhile_leaves_no_grant_behind() {
    let world = world().await;
    let begun = world.begin(acme()).await.unwrap();
    world.providers.close_gate();
    let coming = world.come_back(&begun);
    let going = async {
        world.providers.begun.notified().await;
        world.store.commit(vec![Change::DeleteUser(world.ann.user)]).await.unwrap();
        world.providers.gate.add_permits(1000);
    };
    let (returned, ()) = tokio::join!(coming, going);
    assert_eq!(returned.unwrap().outcome.unwrap_err().word, "ended");
    assert!(world.providers.live().is_empty());
}

#[tokio::test]
async fn the_app_brings_the_tokens_it_holds() {
    let world = world().await;
    let id = world.begin(acme()).await.unwrap().connection.id;
    let import = |access: &str, refresh: Option<&str>| Import {
        access_token: secret(access),
        refresh_token: refresh.map(secret),
        expires_in: Some(Duration::from_secs(60)),
        refresh_expires_in: None,
        scopes: Some(vec!["old".into()]),
        kept: BTreeMap::from([("realm".into(), secret("theirs"))]),
    };
    let from_ann = client();
    let take = |import| world.connections.import_tokens(&from_ann, world.ann, id, import);
    let long = "x".repeat(20_000);
    for bad in [
        import("", None),
        import("a b", None),
        import("a\r\nb", None),
        import(&long, None),
        import("a", Some("")),
    ] {
        assert!(matches!(take(bad).await, Err(ConnectionError::Invalid(_))));
    }
    let many = (0..65).map(|n| (n.to_string(), secret("x"))).collect();
    assert!(matches!(
        take(Import { kept: many, ..import("a", None) }).await,
        Err(ConnectionError::Invalid(_))
    ));
    assert_eq!(world.stored(id).await.status, Status::Pending);

    let taken = take(import("theirs", Some("r7.7"))).await.unwrap();
    assert_eq!((taken.status, taken.scopes_granted), (Status::Active, vec!["old".to_owned()]));
    assert_eq!(world.sealed(id).await, ["theirs", "r7.7", r#"{"realm":"theirs"}"#]);
    assert_eq!(world.access(id).await, "theirs");
    assert_eq!(world.count(Action::ImportTokens, Outcome::Success), 1);
    assert_eq!(world.sent_notices().await, ["connection.connected"]);
    world.connections.disconnect(&client(), world.ann, id).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(matches!(take(import("again", None)).await, Err(ConnectionError::Revoked)));
}

#[tokio::test]
async fn nothing_that_can_be_printed_holds_a_token() {
    let world = world().await;
    let begun = world.begin(acme()).await.unwrap();
    let callback = world.coming_back(&begun, &[("code", "c0de")]);
    let printed = format!("{begun:?} {callback:?}");
    assert!(!printed.contains("c0de"), "{printed}");
    let returned = world.come_back(&begun).await.unwrap();
    let token = world.token(returned.connection).await.unwrap();
    let injected = world.connections.inject(&identity(world.ann.user), ACME).await.unwrap();
    let stored = world.stored(returned.connection).await;
    world.connections.disconnect(&client(), world.ann, stored.id).await.unwrap();
    let tasks = world.store.due_tasks(world.clock.now(), 99).await.unwrap();
    let events = world.audit.0.lock().unwrap().clone();
    let printed = format!("{token:?} {injected:?} {stored:?} {tasks:?} {events:?}");
    for secret in ["a0.0", "r0.0", "realm-0"] {
        assert!(!printed.contains(secret), "{printed}");
    }
    let error =
        ConnectionError::Provider { kind: FaultKind::Transient, reason: "x".into(), retry_after: None };
    assert_eq!(error.to_string(), "no fresh token: x");
}
