//! Sessions in cookies, over the fakes: what a cookie is worth, how long its session lives, and what voids it.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use palisade_core::domain::browser::CookiePlace;
use palisade_core::domain::mail::Letter;
use palisade_core::domain::opaque::ServerKey;
use palisade_core::domain::revocation::Target;
use palisade_core::domain::session::SessionId;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, CookieFault, CookieSession, Limited, Store};
use palisade_core::service::accounts::AccountError;
use palisade_core::service::browser::SignedIn;
use palisade_core::service::caller::Person;
use palisade_core::service::sessions::Which;
use palisade_core::service::sign_in::SignIn;
use palisade_core::service::users::UserEdit;
use palisade_testing::accounts_world::{
    ANN, AccountsWorld, BROWSER, PASSWORD, client, from, secret, server_key, world, world_under, world_with,
};
use palisade_testing::fakes::MISSES;
use secrecy::ExposeSecret;

fn home() -> CookiePlace {
    CookiePlace::Host("app.test".to_owned())
}

fn address() -> IpAddr {
    client().address
}

async fn enters(world: &AccountsWorld, remember: bool, over: Option<&str>) -> SignedIn {
    let login = world.accounts.browser_login(&client(), ANN, secret(PASSWORD), remember, &home(), over).await;
    match login.unwrap() {
        SignIn::Done(signed_in) => *signed_in,
        SignIn::Challenge(challenge) => match challenge {},
    }
}

async fn read(world: &AccountsWorld, cookie: &str) -> Result<CookieSession, CookieFault> {
    world.accounts.cookie_session(cookie, &home(), address()).await
}

fn text(signed_in: &SignedIn) -> String {
    signed_in.cookie.value.expose_secret().to_owned()
}

fn is_over(outcome: &Result<CookieSession, CookieFault>) -> bool {
    matches!(outcome, Err(CookieFault::Over))
}

fn me(signed_in: &SignedIn) -> Person {
    Person { user: signed_in.user.id, session: Some(signed_in.session) }
}

#[tokio::test]
async fn a_cookie_says_what_a_fresh_access_token_would() {
    let world = world();
    let ann = world.ann().await;
    let edit = UserEdit { scopes: Some(vec!["read".to_owned()]), ..UserEdit::default() };
    world.accounts.update_user("r", ann.id, edit).await.unwrap();
    let signed_in = enters(&world, false, None).await;
    let found = read(&world, &text(&signed_in)).await.unwrap();
    let identity = &found.verified.identity;
    assert_eq!((&*identity.issuer, &identity.subject), ("https://us.test", &ann.id.to_string()));
    assert_eq!(identity.session.as_deref(), Some(&*signed_in.session.to_string()));
    assert_eq!((identity.verified_email(), identity.token_id.as_deref()), (Some(ANN), None));
    assert_eq!(identity.scopes, ["read"]);
    assert_eq!((identity.issued_at.0, identity.expires_at.0), (world.clock_now(), world.clock_now() + 1800));
    // It follows the account: no client refreshes it.
    let edit = UserEdit { scopes: Some(vec!["write".to_owned()]), ..UserEdit::default() };
    world.accounts.update_user("r", ann.id, edit).await.unwrap();
    assert_eq!(read(&world, &text(&signed_in)).await.unwrap().verified.identity.scopes, ["write"]);
    // It is a session as any other.
    let listed = world.accounts.list_sessions(me(&signed_in)).await.unwrap();
    assert_eq!(listed.iter().map(|session| session.id).collect::<Vec<_>>(), [signed_in.session]);
}

#[tokio::test]
async fn what_we_did_not_make_costs_no_read() {
    let world = world();
    world.ann().await;
    let good = text(&enters(&world, false, None).await);
    let reads = || world.store.calls.load(Ordering::Relaxed);
    let before = reads();
    let mut changed = good.clone();
    changed.replace_range(40..41, if &changed[40..41] == "A" { "B" } else { "A" });
    let elsewhere = [CookiePlace::Host("other.test".into()), CookiePlace::Domain("app.test".into())];
    for bad in ["", "x", &changed, &good[1..]] {
        assert!(matches!(read(&world, bad).await, Err(CookieFault::Forged)), "{bad}");
    }
    for place in &elsewhere {
        let found = world.accounts.cookie_session(&good, place, address()).await;
        assert!(matches!(found, Err(CookieFault::Forged)), "{place:?}");
    }
    assert_eq!(reads(), before);
    assert!(read(&world, &good).await.is_ok());
    assert!(reads() > before, "the count counts");
}

#[tokio::test]
async fn misses_are_bounded_by_value_and_address_and_hold_nobody_else_up() {
    let world = world();
    world.ann().await;
    let first = enters(&world, false, None).await;
    let second = enters(&world, false, None).await;
    let stale = text(&first);
    let renewed = world.accounts.renew_cookie(&client(), first.user.id, first.session, &home()).await;
    let (_, renewed) = renewed.unwrap().unwrap();
    for _ in 0..MISSES {
        assert!(is_over(&read(&world, &stale).await));
    }
    let reads = world.store.calls.load(Ordering::Relaxed);
    for _ in 0..10 {
        assert!(matches!(read(&world, &stale).await, Err(CookieFault::TooMany(_))));
    }
    assert_eq!(world.store.calls.load(Ordering::Relaxed), reads, "a flood reads nothing");
    // From another block it is one miss like any other, and the good ones are good, of the same session too.
    let other = world.accounts.cookie_session(&stale, &home(), [192, 0, 2, 99].into()).await;
    assert!(is_over(&other));
    for good in [renewed.value.expose_secret(), &text(&second)] {
        for _ in 0..3 * MISSES {
            assert!(read(&world, good).await.is_ok());
        }
    }
    assert!(world.limiter.misses.lock().unwrap().iter().all(|(_, value)| !value.contains(&stale)));
    *world.limiter.stop.lock().unwrap() = Some(Limited::SessionCookie);
    assert!(matches!(read(&world, &text(&second)).await, Err(CookieFault::TooMany(_))));
}

#[tokio::test]
async fn use_moves_the_idle_end_and_nothing_moves_the_absolute_one() {
    let world = world();
    world.ann().await;
    let signed_in = enters(&world, false, None).await;
    let (cookie, begun) = (text(&signed_in), world.clock_now());
    let (idle, absolute) = (BROWSER.idle.as_secs(), BROWSER.absolute.as_secs());
    let found = read(&world, &cookie).await.unwrap();
    assert_eq!((found.idle_at.0, found.ends_at.0), (begun + idle, begun + absolute));
    world.clock.advance(idle - 1);
    assert_eq!(read(&world, &cookie).await.unwrap().idle_at.0, begun + idle, "a read is no use");
    world.accounts.used(signed_in.user.id, signed_in.session, UnixTime(world.clock_now()));
    assert_eq!(
        read(&world, &cookie).await.unwrap().idle_at.0,
        world.clock_now() + idle,
        "before it is written"
    );
    world.clock.advance(idle);
    assert!(is_over(&read(&world, &cookie).await));
    // A use that comes late, as by a verdict that was remembered, revives nothing.
    world.accounts.used(signed_in.user.id, signed_in.session, UnixTime(world.clock_now()));
    assert!(is_over(&read(&world, &cookie).await));
    world.accounts.write_due_uses().await.unwrap();
    assert!(is_over(&read(&world, &cookie).await));

    let signed_in = enters(&world, false, None).await;
    let begun = world.clock_now();
    while world.clock_now() + idle < begun + absolute {
        world.clock.advance(idle - 1);
        world.accounts.used(signed_in.user.id, signed_in.session, UnixTime(world.clock_now()));
        world.accounts.write_due_uses().await.unwrap();
    }
    let found = read(&world, &text(&signed_in)).await.unwrap();
    assert_eq!((found.idle_at.0, found.ends_at.0), (begun + absolute, begun + absolute));
    world.clock.advance(begun + absolute - world.clock_now());
    assert!(is_over(&read(&world, &text(&signed_in)).await));
}

#[tokio::test]
async fn people_are_kept_signed_in_only_where_the_operator_offers_it() {
    let world = world();
    world.ann().await;
    let signed_in = enters(&world, true, None).await;
    assert_eq!(signed_in.cookie.max_age, Some(BROWSER.absolute));
    world.clock.advance(BROWSER.idle.as_secs() * 2);
    let found = read(&world, &text(&signed_in)).await.unwrap();
    let kept = BROWSER.remember.unwrap().as_secs();
    assert_eq!(found.idle_at.0 + 2 * BROWSER.idle.as_secs(), world.clock_now() + kept);
    assert_eq!(enters(&world, false, None).await.cookie.max_age, None);

    let strict = world_with(|settings| settings.lifetimes.browser.remember = None);
    strict.ann().await;
    let signed_in = enters(&strict, true, None).await;
    assert_eq!(signed_in.cookie.max_age, None);
    strict.clock.advance(BROWSER.idle.as_secs());
    assert!(is_over(&read(&strict, &text(&signed_in)).await));
}

#[tokio::test]
async fn the_absolute_limit_of_all_sessions_is_the_upper_bound() {
    let world = world_with(|settings| settings.lifetimes.absolute = Duration::from_secs(600));
    world.ann().await;
    let signed_in = enters(&world, true, None).await;
    let found = read(&world, &text(&signed_in)).await.unwrap();
    let end = UnixTime(world.clock_now() + 600);
    assert_eq!((found.idle_at, found.ends_at), (end, end));
    assert_eq!(signed_in.cookie.max_age, Some(Duration::from_secs(600)));
}

/// Session fixation: no value from before a sign-in is one of after it.
#[tokio::test]
async fn signing_in_over_a_session_ends_it_whosever_it_is() {
    let world = world();
    world.ann().await;
    let former = enters(&world, false, None).await;
    let now = enters(&world, false, Some(&text(&former))).await;
    assert!(is_over(&read(&world, &text(&former)).await));
    assert!(world.store.session(former.user.id, former.session).await.unwrap().is_none());
    assert_eq!(world.revoked_sessions().await, 1, "its access tokens end as well");
    assert!(read(&world, &text(&now)).await.is_ok());
    // One that is no cookie of ours, or of a session that is over, changes nothing.
    for over in ["", "x", &text(&former)] {
        enters(&world, false, Some(over)).await;
    }
    assert_eq!(world.revoked_sessions().await, 2, "and of the oldest, beyond the number of sessions");
    // A wrong password ends nothing.
    let last = enters(&world, false, None).await;
    let wrong = secret("wrong");
    let denied =
        world.accounts.browser_login(&client(), ANN, wrong, false, &home(), Some(&text(&last))).await;
    assert!(matches!(denied, Err(AccountError::InvalidCredentials)));
    assert!(read(&world, &text(&last)).await.is_ok());
}

/// Each host has a value of its own for the same session.
#[tokio::test]
async fn a_new_value_voids_those_of_every_host() {
    let world = world();
    world.ann().await;
    let first = enters(&world, false, None).await;
    let elsewhere = CookiePlace::Host("other.test".to_owned());
    let at = async |session: SessionId| {
        world.accounts.cookie_at(first.user.id, session, &elsewhere).await.map(|cookie| cookie.value)
    };
    let there = at(first.session).await.unwrap();
    let read_there = async |cookie: &secrecy::SecretString| {
        world.accounts.cookie_session(cookie.expose_secret(), &elsewhere, address()).await
    };
    assert!(read_there(&there).await.is_ok());
    assert!(matches!(read(&world, there.expose_secret()).await, Err(CookieFault::Forged)), "here it is none");

    let renewed = world.accounts.renew_cookie(&client(), first.user.id, first.session, &home()).await;
    let (session, cookie) = renewed.unwrap().unwrap();
    assert!(is_over(&read(&world, &text(&first)).await) && is_over(&read_there(&there).await));
    assert!(read(&world, cookie.value.expose_secret()).await.is_ok());
    let again = world.accounts.renew_cookie(&client(), first.user.id, first.session, &home()).await;
    assert!(again.unwrap().is_none(), "one that is over is not renewed");

    let there = at(session).await.unwrap();
    let mine = Person { user: first.user.id, session: Some(session) };
    let new = secret("another good one");
    let changed =
        world.accounts.change_password_in_browser(&client(), mine, secret(PASSWORD), new, &home()).await;
    let (session, after) = changed.unwrap().unwrap();
    assert!(is_over(&read(&world, cookie.value.expose_secret()).await) && is_over(&read_there(&there).await));
    let found = read(&world, after.value.expose_secret()).await.unwrap();
    // Its age is that of the sign-in.
    assert_eq!(found.ends_at.0, world.clock_now() + BROWSER.absolute.as_secs());
    world.accounts.end_browser_session(&client(), first.user.id, session).await.unwrap();
    assert!(is_over(&read(&world, after.value.expose_secret()).await));
    assert!(matches!(at(session).await, Err(CookieFault::Over)));
}

#[tokio::test]
async fn whatever_ends_a_session_ends_its_cookie() {
    let raise = |world: &AccountsWorld, sub: Option<String>| {
        let (issuer, created_at) = ("https://us.test".to_owned(), UnixTime(world.clock_now()));
        let expires_at = UnixTime::NEVER;
        let first = match sub.clone() {
            Some(sub) => {
                let issuer = issuer.clone();
                Change::RaiseVersion { issuer, sub, created_at, expires_at, reason: None, enforce: true }
            }
            None => {
                let issuer = issuer.clone();
                Change::RaiseGeneration { issuer, created_at, expires_at, reason: None, enforce: true }
            }
        };
        vec![first, Change::CutSessions { issuer, sub, created_at, expires_at, reason: None }]
    };
    for way in 0..7 {
        let world = world();
        let ann = world.ann().await;
        let signed_in = enters(&world, false, None).await;
        let cookie = text(&signed_in);
        assert!(read(&world, &cookie).await.is_ok());
        match way {
            0 => world.accounts.end_sessions(&client(), me(&signed_in), Which::All).await.unwrap(),
            1 => drop(world.store.commit(raise(&world, Some(ann.id.to_string()))).await.unwrap()),
            2 => drop(world.store.commit(raise(&world, None)).await.unwrap()),
            3 => {
                let off = UserEdit { active: Some(false), ..UserEdit::default() };
                world.accounts.update_user("r", ann.id, off).await.unwrap();
            }
            4 => {
                let until = Some(UnixTime(world.clock_now() + 60));
                let locked = UserEdit { locked_until: until, ..UserEdit::default() };
                world.accounts.update_user("r", ann.id, locked).await.unwrap();
            }
            5 => world.accounts.delete_user("r", ann.id).await.unwrap(),
            _ => {
                world.accounts.request_reset(&client(), ANN).await.unwrap();
                world.accounts.do_due_tasks().await.unwrap();
                let token = world.token(Letter::ResetPassword).await;
                let new = secret("another good one");
                world.accounts.confirm_reset(&client(), &token, new).await.unwrap();
            }
        }
        assert!(is_over(&read(&world, &cookie).await), "{way}");
        assert!(world.accounts.session_token(ann.id, signed_in.session).await.is_err(), "{way}");
    }
}

/// A raise alone asks for new tokens, and lets sessions go on.
#[tokio::test]
async fn a_raised_version_asks_for_a_new_verdict_and_ends_no_session() {
    let world = world();
    let ann = world.ann().await;
    let cookie = text(&enters(&world, false, None).await);
    let before = read(&world, &cookie).await.unwrap().verified;
    world
        .store
        .commit(vec![Change::RaiseVersion {
            issuer: "https://us.test".to_owned(),
            sub: ann.id.to_string(),
            created_at: UnixTime(1),
            expires_at: UnixTime::NEVER,
            reason: None,
            enforce: true,
        }])
        .await
        .unwrap();
    let after = read(&world, &cookie).await.unwrap().verified;
    assert_eq!(after.identity.version, before.identity.version.map(|version| version + 1));
    let entries = world.store.recent_revocations(10).await.unwrap();
    assert!(entries.iter().all(|entry| !matches!(entry.target, Target::Session { .. })));
}

#[tokio::test]
async fn a_new_device_is_told_of_whatever_the_session_travels_in() {
    let world = world();
    world.ann().await;
    enters(&world, false, None).await;
    let thief = from("opera");
    world.accounts.browser_login(&thief, ANN, secret(PASSWORD), false, &home(), None).await.unwrap();
    let told = world.recipients(Letter::NewDevice).await;
    assert_eq!(told, [ANN]);
}

/// The changes that follow a password change must not bring back what a token row was.
#[tokio::test]
async fn with_an_access_token_a_session_goes_on_in_tokens() {
    let world = world();
    world.ann().await;
    let signed_in = enters(&world, false, None).await;
    let new = secret("another good one");
    let granted = world.accounts.change_password(&client(), me(&signed_in), secret(PASSWORD), new).await;
    let granted = granted.unwrap().unwrap();
    assert!(is_over(&read(&world, &text(&signed_in)).await));
    assert!(world.refresh(&granted.refresh_token).await.is_ok());
    let at = world.accounts.cookie_at(signed_in.user.id, granted.session, &home()).await;
    assert!(matches!(at, Err(CookieFault::Over)), "a session of tokens has no cookie");
}

/// A restart with another server key in front: no user is signed out, and no link is void.
#[tokio::test]
async fn a_new_server_key_in_front_voids_nothing() {
    let before = world();
    before.ann().await;
    let cookie = text(&enters(&before, false, None).await);
    let tokens = before.login().await;
    before.clock.advance(60);
    let rotated = before.refresh(&tokens.refresh_token).await.unwrap();
    before.accounts.request_reset(&client(), ANN).await.unwrap();
    before.accounts.do_due_tasks().await.unwrap();
    let link = before.token(Letter::ResetPassword).await;

    let new = zeroize::Zeroizing::new([8; 32]);
    let after = world_under(before.store.clone(), ServerKey::ring(new.clone(), vec![server_key()]));
    after.clock.advance(60);
    assert!(read(&after, &cookie).await.is_ok());
    // The repeat window of the rotation before the restart, then the row goes on.
    let again = after.refresh(&tokens.refresh_token).await.unwrap();
    assert_eq!(again.refresh_token.expose_secret(), rotated.refresh_token.expose_secret());
    let next = after.refresh(&rotated.refresh_token).await.unwrap();
    assert!(after.accounts.validate_reset(&client(), &link).await.is_ok());
    // Asked again, the same link is mailed; it is not made anew for want of the key.
    after.accounts.request_reset(&client(), ANN).await.unwrap();
    after.accounts.do_due_tasks().await.unwrap();
    let (one, other) =
        (before.newest(Letter::ResetPassword).await, after.newest(Letter::ResetPassword).await);
    assert_eq!(one.link.unwrap().id, other.link.unwrap().id);

    // Without the former key, what was made by the new one lives.
    let alone = world_under(before.store.clone(), ServerKey::new(new));
    alone.clock.advance(120);
    assert!(matches!(read(&alone, &cookie).await, Err(CookieFault::Forged)));
    assert!(alone.refresh(&next.refresh_token).await.is_ok());
}

/// A copy of a token from before the new key still ends its session.
#[tokio::test]
async fn a_replay_is_found_across_a_new_server_key() {
    let before = world();
    before.ann().await;
    let tokens = before.login().await;
    let new = zeroize::Zeroizing::new([8; 32]);
    let after = world_under(before.store.clone(), ServerKey::ring(new, vec![server_key()]));
    let second = after.refresh(&tokens.refresh_token).await.unwrap();
    after.clock.advance(60);
    let third = after.refresh(&second.refresh_token).await.unwrap();
    after.clock.advance(60);
    assert!(after.refresh(&tokens.refresh_token).await.is_err());
    assert!(after.refresh(&third.refresh_token).await.is_err(), "the session has ended");
}
