//! What carries sessions between hosts, over fakes.

use std::sync::Arc;

use palisade_core::domain::opaque::ServerKey;
use palisade_core::service::carry::SessionCarrier;
use zeroize::Zeroizing;

use crate::fakes::{FakeClock, FakeEntropy, FakeStore};

/// One for a gateway whose test carries no session.
#[must_use]
pub fn carrier() -> Arc<SessionCarrier> {
    let key = Arc::new(ServerKey::new(Zeroizing::new([9; 32])));
    let (clock, entropy) = (Arc::new(FakeClock::default()), Arc::new(FakeEntropy::default()));
    Arc::new(SessionCarrier::new(key, clock, entropy, Arc::new(FakeStore::default())))
}
