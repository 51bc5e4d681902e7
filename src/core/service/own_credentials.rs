//! Tells credentials of our own from those of others, so that none of ours is sent to an issuer that is asked about
//! opaque tokens (introspection, RFC 7662 §4: what is sent there is disclosed).

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::opaque::{ServerKey, TokenHash};
use crate::domain::other_token::has_form_of_ours;
use crate::ports::{OwnCredentials, Store, StoreError};

/// Knows the credentials of this gateway.
pub struct KnownCredentials {
    key: Arc<ServerKey>,
    store: Arc<dyn Store>,
    /// Of the credential of the admin API.
    admin: TokenHash,
}

impl KnownCredentials {
    /// Of a gateway with this server key, this store, and this credential of the admin API.
    #[must_use]
    pub fn new(key: Arc<ServerKey>, store: Arc<dyn Store>, admin: &str) -> KnownCredentials {
        KnownCredentials { key, store, admin: TokenHash::of(admin.as_bytes()) }
    }
}

#[async_trait]
impl OwnCredentials for KnownCredentials {
    async fn is_ours(&self, text: &str) -> Result<bool, StoreError> {
        let hash = TokenHash::of(text.as_bytes());
        if hash.is(&self.admin) || has_form_of_ours(&self.key, text) {
            return Ok(true);
        }
        // Links that have not been opened; those that were are good for nothing.
        Ok(self.store.link(&hash).await?.is_some())
    }
}
