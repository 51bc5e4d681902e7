use palisade_core::domain::audit::Action;
use palisade_core::domain::opaque::ServerKey;
use palisade_core::ports::Limited;
use palisade_core::ports::Limiter;
use palisade_core::service::audited_limits::*;
use palisade_testing::fakes::{FakeAudit, FakeClock, FakeEntropy, FakeLimiter};
use std::net::IpAddr;
use std::sync::Arc;
use zeroize::Zeroizing;

#[test]
fn the_first_refusal_of_each_wait_is_written_down() {
    let (limits, audit, clock) =
        (Arc::new(FakeLimiter::default()), Arc::new(FakeAudit::default()), Arc::new(FakeClock::default()));
    let audited = AuditedLimits::new(
        limits.clone(),
        audit.clone(),
        clock.clone(),
        Arc::new(FakeEntropy::default()),
        Arc::new(ServerKey::new(Zeroizing::new([9; 32]))),
    );
    let address = |n: u8| IpAddr::from([192, 0, 2, n]);
    let try_login = |n, account| audited.attempt(Limited::Login, address(n), Some(account)).is_ok();
    assert!(try_login(1, "ann@example.com"));
    assert!(audit.0.lock().unwrap().is_empty());
    *limits.stop.lock().unwrap() = Some(Limited::Login);
    let count = || audit.0.lock().unwrap().len();
    for _ in 0..5 {
        assert!(!try_login(1, "ann@example.com"));
    }
    assert_eq!(count(), 1);
    try_login(2, "ann@example.com");
    try_login(1, "bob@example.com");
    assert_eq!(count(), 3, "of another block, and on another account");
    clock.advance(7);
    try_login(1, "ann@example.com");
    assert_eq!(count(), 4, "the wait was over");
    let events = audit.0.lock().unwrap();
    let told = serde_json::to_string(&events[0]).unwrap();
    assert_eq!((events[0].action, events[0].reason.as_deref()), (Action::LimitReached, Some("login")));
    assert_eq!(events[0].details["retry_after"], 7);
    assert!(!told.contains("ann@example.com"), "{told}");
    assert_eq!(events[0].details["address_hash"], events[1].details["address_hash"]);
    assert_ne!(events[0].details["address_hash"], events[2].details["address_hash"]);
}
