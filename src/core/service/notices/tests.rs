//! What an account page tells of, over the fakes.

use palisade_core::ports::{Change, Store};
use palisade_core::service::notices::{MAX_NOTICES, NoticeKind};
use palisade_testing::accounts_world::{
    ANN, AccountsWorld, PASSWORD, PasswordLogin, from, person, secret, world_with,
};

/// Keeps with the account what was noted so far, as the audit log does.
async fn keep(world: &AccountsWorld) {
    let events = std::mem::take(&mut *world.audit.0.lock().unwrap());
    world.store.commit(vec![Change::Record(events)]).await.unwrap();
}

#[tokio::test]
async fn what_a_letter_would_tell_is_told_on_the_account_page() {
    let world = world_with(|_| ());
    let ann = world.ann().await;
    let granted = world.login().await;
    world.accounts.login(&from("curl"), ANN, secret(PASSWORD)).await.unwrap();
    world.accounts.login(&from("curl"), ANN, secret(PASSWORD)).await.unwrap();
    // A stranger who names the address is nothing to tell of.
    world.accounts.login(&from("curl"), ANN, secret("wrong password")).await.unwrap_err();
    world.accounts.request_reset(&from("curl"), ANN).await.unwrap();
    world.accounts.do_due_tasks().await.unwrap();
    keep(&world).await;
    let notices = world.accounts.notices(person(&granted)).await.unwrap();
    let told: Vec<_> = notices.iter().map(|notice| (notice.kind, notice.device.as_deref())).collect();
    assert_eq!(told, [(NoticeKind::NewDevice, Some("described curl"))]);
    assert_eq!(notices[0].address, Some([192, 0, 2, 1].into()));
    world.accounts.reset_password_of("r", ann.id).await.unwrap();
    keep(&world).await;
    let notices = world.accounts.notices(person(&granted)).await.unwrap();
    assert_eq!((notices[0].kind, notices.len()), (NoticeKind::ResetByOperator, 2));
    assert_eq!(notices[1].kind.code(), "new_device");
    for _ in 0..=MAX_NOTICES {
        world.accounts.reset_password_of("r", ann.id).await.unwrap();
        keep(&world).await;
    }
    assert_eq!(world.accounts.notices(person(&granted)).await.unwrap().len(), MAX_NOTICES);
}
