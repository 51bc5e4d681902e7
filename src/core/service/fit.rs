//! Whether an access token fits where it has to go: into one header line of a request, below the bound of tokens and
//! beside the other lines.
//!
//! It is looked at when an operator sets what goes into the tokens of an account. A token that fits nowhere would shut
//! its owner out of every route, signing out included.

use super::accounts::{AccountError, Accounts};
use crate::domain::account::User;
use crate::domain::email::MAX_ADDRESS;
use crate::domain::name::MAX_NAME;
use crate::ports::AccessGrant;

/// The longest access token that is worth signing, in bytes, where tokens may have `max_bytes` and a header section
/// `max_header_bytes`: a quarter of that is for everything else in it.
#[must_use]
pub fn longest_token(max_bytes: usize, max_header_bytes: usize) -> usize {
    most_signed(max_bytes).min(max_header_bytes / 4 * 3)
}

/// The longest access token that is signed, in bytes, where tokens may have `max_bytes`.
#[must_use]
pub fn most_signed(max_bytes: usize) -> usize {
    crate::domain::credential::OWN_TOKEN_BYTES.min(max_bytes)
}

/// The message about a token that is too long.
pub(super) fn too_long(bytes: usize, longest: usize) -> String {
    format!(
        "the access token would have {bytes} bytes, and a request has room for {longest} (at most 8192, and no \
         more than tokens.max_bytes; server.max_header_bytes holds the other fields too): grant fewer or shorter `scopes`, `groups` and `claims`"
    )
}

impl Accounts {
    /// Whether every token of `user` will fit, whatever name and address they choose later.
    pub(super) fn fits(&self, user: &User) -> Result<(), AccountError> {
        if user.scopes.is_empty()
            && user.claims.is_empty()
            && user.groups.is_empty()
            && user.username.is_none()
        {
            return Ok(());
        }
        let mut extra = user.claims.clone();
        // Each of these takes two bytes in JSON.
        extra.entry("name").or_insert_with(|| "\"".repeat(MAX_NAME).into());
        let grant = AccessGrant {
            subject: user.id.to_string(),
            email: Some("e".repeat(MAX_ADDRESS)),
            email_verified: false,
            username: user.username.clone(),
            groups: user.groups.clone(),
            session: Some(uuid::Uuid::nil().to_string()),
            version: u64::MAX,
            generation: u64::MAX,
            scopes: user.scopes.clone(),
            host: None,
            rotation: Some(u32::MAX),
            extra,
        };
        let (ttl, longest) = (self.settings.access_ttl, self.settings.longest_token);
        let bytes = self.signer.access_token(&grant, ttl, self.now())?.token.len();
        if bytes > longest {
            return Err(AccountError::Invalid(too_long(bytes, longest)));
        }
        Ok(())
    }
}
