//! Minting an access token by hand, for an operator or a script: our own issuer, a short life, and the
//! subject's present token version and generation, so that a later raise of either ends it too.

use std::sync::Arc;
use std::time::Duration;

use super::revoke::our_spelling;
use crate::domain::claims::scopes_fault;
use crate::ports::{AccessGrant, Clock, SignError, Signed, Signer, Store, StoreError};

/// The longest life of a minted token.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// What the token shall say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MintRequest {
    pub sub: String,
    /// Taken as verified: the operator vouches for it.
    pub email: Option<String>,
    pub scopes: Vec<String>,
    /// `None`: the configured life of an access token.
    pub ttl: Option<Duration>,
}

/// A token just minted.
#[derive(Debug, Clone)]
pub struct Minted {
    pub signed: Signed,
    pub ttl: Duration,
}

/// Why no token was minted.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// What was asked makes no sense; the text says what would.
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// The use case.
#[derive(Clone)]
pub struct Mint {
    store: Arc<dyn Store>,
    signer: Arc<dyn Signer>,
    clock: Arc<dyn Clock>,
    default_ttl: Duration,
    longest_token: usize,
}

impl Mint {
    /// `longest_token` is in bytes ([`super::fit::longest_token`]).
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        signer: Arc<dyn Signer>,
        clock: Arc<dyn Clock>,
        default_ttl: Duration,
        longest_token: usize,
    ) -> Mint {
        Mint { store, signer, clock, default_ttl: default_ttl.min(MAX_TTL), longest_token }
    }

    /// Signs an access token for the subject.
    ///
    /// # Errors
    /// [`MintError`].
    pub async fn mint(&self, request: MintRequest) -> Result<Minted, MintError> {
        let line = |what: &str, text: &str| {
            let whole = text.trim() == text && !text.chars().any(char::is_control);
            if text.is_empty() || text.len() > 1024 || !whole {
                let why = format!(
                    "`{what}` must be 1 to 1024 bytes without control characters and without white space at its ends"
                );
                return Err(MintError::Invalid(why));
            }
            Ok(())
        };
        line("sub", &request.sub)?;
        request.email.as_deref().map_or(Ok(()), |email| line("email", email))?;
        if let Some(fault) = scopes_fault(&request.scopes) {
            return Err(MintError::Invalid(fault));
        }
        let ttl = request.ttl.unwrap_or(self.default_ttl);
        if ttl.as_secs() == 0 || ttl > MAX_TTL {
            return Err(MintError::Invalid("`ttl` must be between one second and 24 hours".to_owned()));
        }
        // A revocation of an account names its id as we write it, and no other spelling.
        let request = MintRequest { sub: our_spelling(request.sub), ..request };
        let version = self.store.versions(self.signer.issuer(), &request.sub).await?;
        // An account that is closed opens nothing, by no token. Looked at after its version was read: what closes it
        // raises that. A subject need not be an account.
        let user = match request.sub.parse() {
            Ok(id) => self.store.user(id).await?,
            Err(_) => None,
        };
        if let Some(user) = user.as_ref().filter(|user| !user.is_open()) {
            let why = match user.active {
                true => "the account is frozen: a change of its address was undone",
                false => "the account is disabled: enable it first",
            };
            return Err(MintError::Invalid(why.to_owned()));
        }
        let grant = AccessGrant {
            subject: request.sub,
            email_verified: request.email.is_some(),
            email: request.email,
            version: version.subject,
            generation: version.generation,
            scopes: request.scopes,
            // Apps must not know one subject by two names. What else its own tokens say is not asked for.
            username: user.as_ref().and_then(|user| user.username.clone()),
            groups: user.map(|user| user.groups).unwrap_or_default(),
            ..AccessGrant::default()
        };
        let signed = self.signer.access_token(&grant, ttl, self.clock.now())?;
        match signed.token.len() {
            bytes if bytes > self.longest_token => {
                Err(MintError::Invalid(super::fit::too_long(bytes, self.longest_token)))
            }
            _ => Ok(Minted { signed, ttl }),
        }
    }
}
