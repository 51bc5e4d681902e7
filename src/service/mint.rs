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
pub struct Request {
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
    pub async fn mint(&self, request: Request) -> Result<Minted, MintError> {
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
        let request = Request { sub: our_spelling(request.sub), ..request };
        let version = self.store.versions(self.signer.issuer(), &request.sub).await?;
        // An account that is closed opens nothing, by no token. Looked at after its version was read: what closes it
        // raises that. A subject need not be an account.
        if let Ok(id) = request.sub.parse()
            && let Some(user) = self.store.user(id).await?
            && !user.is_open()
        {
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
            generation: version.everybody,
            scopes: request.scopes,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Change;
    use crate::service::fakes::{FakeClock, FakeSigner, FakeStore, NOW, conformance};

    fn mint() -> (Mint, Arc<FakeStore>) {
        let store = Arc::new(FakeStore::default());
        let half_hour = Duration::from_secs(1800);
        (
            Mint::new(store.clone(), Arc::new(FakeSigner), Arc::new(FakeClock::default()), half_hour, 200),
            store,
        )
    }

    fn for_alice() -> Request {
        Request { sub: "alice".into(), ..Request::default() }
    }

    #[tokio::test]
    async fn the_token_carries_the_present_version() {
        let (mint, store) = mint();
        assert!(mint.mint(for_alice()).await.unwrap().signed.token.ends_with(".v0"));
        store.raise_version("https://us.test", "alice", NOW, NOW, None).await.unwrap();
        assert!(mint.mint(for_alice()).await.unwrap().signed.token.ends_with(".v1"));
    }

    #[tokio::test]
    async fn an_id_of_an_account_is_written_in_one_spelling() {
        let (mint, _) = mint();
        let id = "0192f0c1-2345-7abc-8def-0123456789ab";
        for spelt in [id.to_owned(), id.to_uppercase(), id.replace('-', ""), format!("{{{id}}}")] {
            let token = mint.mint(Request { sub: spelt, ..Request::default() }).await.unwrap().signed.token;
            assert_eq!(token, format!("{id}.v0"));
        }
    }

    #[tokio::test]
    async fn a_disabled_account_gets_no_token_and_a_subject_that_is_none_does() {
        let (mint, store) = mint();
        let mut user = conformance::user(1, "ann@example.com");
        let ask = || Request { sub: user.id.to_string(), ..Request::default() };
        let (unknown, ann) = (ask(), ask());
        mint.mint(unknown).await.unwrap();
        user.active = false;
        store.commit(vec![Change::CreateUser(user)]).await.unwrap();
        let refused = mint.mint(ann).await.unwrap_err();
        assert!(matches!(&refused, MintError::Invalid(why) if why.contains("disabled")), "{refused:?}");
    }

    #[tokio::test]
    async fn a_life_over_a_day_is_refused() {
        let (mint, _) = mint();
        let ask = |secs| Request { ttl: Some(Duration::from_secs(secs)), ..for_alice() };
        assert!(matches!(mint.mint(ask(86_401)).await, Err(MintError::Invalid(_))));
        assert!(matches!(mint.mint(ask(0)).await, Err(MintError::Invalid(_))));
        assert_eq!(mint.mint(ask(86_400)).await.unwrap().signed.expires_at.0, NOW.0 + 86_400);
        assert_eq!(mint.mint(for_alice()).await.unwrap().ttl, Duration::from_secs(1800));
    }

    #[tokio::test]
    async fn what_cannot_stand_in_a_header_is_refused() {
        let (mint, _) = mint();
        for bad in [
            Request::default(),
            Request { sub: "a\r\nb".into(), ..Request::default() },
            Request { email: Some(String::new()), ..for_alice() },
            Request { scopes: vec!["a b".into()], ..for_alice() },
            Request { scopes: vec!["a".repeat(257)], ..for_alice() },
            // The fake token is longer than a request has room for.
            Request { sub: "a".repeat(198), ..Request::default() },
        ] {
            assert!(matches!(mint.mint(bad).await, Err(MintError::Invalid(_))));
        }
    }
}
