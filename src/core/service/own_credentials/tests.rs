//! Which texts are credentials of ours, over the fakes.

use std::sync::Arc;

use palisade_core::domain::account::UserId;
use palisade_core::domain::browser::CookiePlace;
use palisade_core::domain::mail::Letter;
use palisade_core::domain::session::SessionId;
use palisade_core::domain::session_cookie::CookieSeed;
use palisade_core::ports::{OwnCredentials, Store};
use palisade_core::service::own_credentials::KnownCredentials;
use palisade_testing::accounts_world::{ANN, client, world};
use secrecy::ExposeSecret as _;
use uuid::Uuid;

const ADMIN: &str = "Zm9yIHRoZSBvcGVyYXRvciBhbG9uZSwgMzIgYnl0ZXM";

#[tokio::test]
async fn what_was_handed_out_is_known_and_what_others_hand_out_is_not() {
    let world = world();
    world.ann().await;
    let granted = world.login().await;
    world.accounts.request_reset(&client(), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    let link = world.token(Letter::ResetPassword).await;
    let place = CookiePlace::Host("app.test".to_owned());
    // The ids of the fakes are no UUIDs of version 7.
    let id = |n: u128| Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + n);
    let cookie = world.key.write_cookie(UserId(id(1)), SessionId(id(2)), &CookieSeed([3; 32]), &place);
    let store = Arc::clone(&world.store) as Arc<dyn Store>;
    let known = KnownCredentials::new(Arc::clone(&world.key), store, ADMIN);
    for (what, text) in [
        ("refresh token", granted.refresh_token.expose_secret()),
        ("link", &link),
        ("cookie", cookie.expose_secret()),
        ("admin credential", ADMIN),
        ("API key", "pal_0190_x"),
    ] {
        assert!(known.is_ours(text).await.unwrap(), "{what}");
    }
    // Also one that another gateway handed out, or this one under a key that is gone.
    for text in ["Zm9yIHRoZSBvcGVyYXRvciBhbG9uZSwgMzIgYnl0ZXN", "2YotnFZFEjr1zCsicMWpAA", &link[1..]] {
        assert!(!known.is_ours(text).await.unwrap(), "{text}");
    }
}
