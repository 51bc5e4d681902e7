//! Key rotation of our signing keys: the published next key begins to sign, the active one retires.
//!
//! No valid token is rejected by it: the next key was published before it signs, the retired one
//! verifies until its last token has ended.

use std::sync::Arc;

use crate::ports::{Clock, KeyInfo, Keys, SignError};

/// The use case.
#[derive(Clone)]
pub struct Rotate {
    keys: Arc<dyn Keys>,
    clock: Arc<dyn Clock>,
}

impl Rotate {
    #[must_use]
    pub fn new(keys: Arc<dyn Keys>, clock: Arc<dyn Clock>) -> Rotate {
        Rotate { keys, clock }
    }

    /// Every key that verifies, the active one first.
    #[must_use]
    pub fn list(&self) -> Vec<KeyInfo> {
        self.keys.list()
    }

    /// Rotates, durably. Returns the ring as it now stands.
    ///
    /// # Errors
    /// The ring is not managed by us or cannot be written; then nothing changed.
    pub async fn rotate(&self) -> Result<Vec<KeyInfo>, SignError> {
        self.keys.rotate(self.clock.reading()).await
    }
}
