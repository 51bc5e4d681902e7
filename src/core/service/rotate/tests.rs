use palisade_core::ports::KeyState;
use palisade_core::service::rotate::*;
use palisade_testing::fakes::{FakeClock, FakeKeys};
use std::sync::Arc;

#[tokio::test]
async fn the_next_key_becomes_the_active_one() {
    let rotate = Rotate::new(Arc::new(FakeKeys::default()), Arc::new(FakeClock::default()));
    assert_eq!(rotate.list()[0].kid, "k0");
    let ring = rotate.rotate().await.unwrap();
    assert_eq!((ring[0].kid.as_str(), ring[0].state), ("k1", KeyState::Active));
}
