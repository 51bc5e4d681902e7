//! The OAuth callback: checks the `state`, the cookie of the browser (CSRF, mix-up) and the time, consumes the
//! consent, and only then exchanges the code. A replay of a callback finds no consent. The browser that began the consent
//! may reload the page: it is told again what came of it ([`super::returned_lately`]), and nothing is done twice.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::begin::{first_call, pkce_of};
use super::{Callback, ConnectionError, Connections, ConsentRefusal, Failure, Returned};
use crate::domain::audit::{Action, Outcome};
use crate::domain::connection::{
    CONSENT_LIFE, Connection, Consent, FaultKind, MAX_REASON, ProviderFailure, clean,
};
use crate::domain::lease::LeaseSubject;
use crate::domain::opaque::TokenHash;
use crate::domain::revocation::Begun;
use crate::ports::{Change, Limited, Pkce, ProviderFault};
use crate::service::caller::{Client, OwnedSource};
use crate::service::leases::HeldLease;
use crate::service::noted::About;
use crate::service::retry::Decision;

/// How long a callback waits at most for another gateway that takes one of the same consent.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest words of a provider's for a user, in bytes: one line of a page.
const MAX_SAID: usize = 200;
/// What a provider may say went wrong: RFC 6749 §4.1.2.1, and OpenID Connect Core §3.1.2.6.
const WORDS: [(&str, &str); 11] = [
    ("access_denied", "consent was not given"),
    ("invalid_request", "the provider does not understand the request"),
    ("unauthorized_client", "the provider does not let this app ask for consent"),
    ("unsupported_response_type", "the provider does not let this app ask for consent in this way"),
    ("invalid_scope", "the provider does not know what was asked for, or does not grant it"),
    ("server_error", "something failed at the provider"),
    ("temporarily_unavailable", "the provider cannot answer now; try again later"),
    ("interaction_required", "the provider wants to ask something"),
    ("login_required", "the provider wants a sign-in first"),
    ("account_selection_required", "the provider wants an account to be chosen"),
    ("consent_required", "consent was not given"),
];

impl Connections {
    /// Takes what a browser brings back from a provider. What the provider or the user refused is in
    /// [`Returned::outcome`]. One that led to a connection leads its browser there again for some minutes. It comes to
    /// its end though the browser that sent it goes away.
    ///
    /// # Errors
    /// [`ConnectionError::InvalidState`], [`ConnectionError::NoAccount`], [`ConnectionError::TooMany`],
    /// [`ConnectionError::Store`].
    pub async fn callback(&self, client: &Client, callback: Callback) -> Result<Returned, ConnectionError> {
        self.limiter.attempt(Limited::Connect, client.address, None)?;
        let id = self.consent_of(&callback.state).ok_or(ConnectionError::InvalidState)?;
        let (this, who) = (self.clone(), OwnedSource::Client(client.clone()));
        self.spawn(async move {
            let _turn = this.state.returned.turns.turn(id).await;
            let mut held = this.consent_lease(id).await;
            let outcome = match (this.returned_before(id, &callback).await, &mut held) {
                (Ok(Some(returned)), _) => Ok(returned),
                (Ok(None), Some(held)) => {
                    let taking = this.leases.hold_during(held, this.take_back(&who, callback)).await;
                    taking
                        .map_err(ConnectionError::from)
                        .and_then(|taken| taken.unwrap_or(Err(ConnectionError::Conflict)))
                }
                (Ok(None), None) => this.take_back(&who, callback).await,
                (Err(error), _) => Err(error),
            };
            if let Some(held) = &held {
                this.leases.release(held).await;
            }
            outcome
        })
        .await
    }

    /// A page that is reloaded may ask another gateway, which waits until this one knows what came of it. Without the
    /// lease a consent is used up once all the same, so no claim that fails keeps a browser from it.
    async fn consent_lease(&self, id: Uuid) -> Option<HeldLease> {
        self.store.shared_notes()?;
        let claiming = self.leases.claim_within(LeaseSubject::Consent(id), PATIENCE);
        tokio::time::timeout(PATIENCE, claiming).await.ok()?.ok()?
    }

    /// Uses the consent up, exchanges what came for it, and says where the browser goes.
    async fn take_back(&self, who: &OwnedSource, callback: Callback) -> Result<Returned, ConnectionError> {
        let (connection, consent) = self.used_up(&callback).await?;
        let pkce = self.key.code_verifier_of(&callback.state).map(pkce_of);
        let pkce = pkce.unwrap_or_else(|| self.pkce(&consent));
        let about = About::connection(connection.user, connection.id);
        let outcome = match refused(&callback.parameters) {
            Some(refused) => Err(refused),
            None => match self.complete(&connection, &consent, callback.parameters, pkce).await {
                Ok(connected) => Ok(connected.notes),
                // The reason is for operators, who find it in the log and with the connection.
                Err(ConnectionError::Provider { kind, .. }) => Err(of_exchange(kind)),
                Err(ConnectionError::NotFound | ConnectionError::Revoked) => Err(ConsentRefusal {
                    word: "ended",
                    meaning: "the connection was ended meanwhile",
                    said: None,
                }),
                Err(error) => {
                    let about = about.because(error.to_string());
                    self.note(who, Action::Connect, Outcome::Failed, about);
                    return Err(error);
                }
            },
        };
        match &outcome {
            Ok(notes) if notes.is_empty() => self.note(who, Action::Connect, Outcome::Success, about),
            Ok(notes) => {
                let about = about.because(clean(&notes.join("; "), MAX_REASON));
                self.note(who, Action::Connect, Outcome::Success, about);
            }
            Err(refusal) => {
                self.note(who, Action::Connect, Outcome::Denied, about.because(refusal.word));
            }
        }
        let (provider, return_to) = (connection.provider, consent.return_to.clone());
        let returned =
            Returned { connection: connection.id, provider, return_to, outcome: outcome.map(drop) };
        if returned.outcome.is_ok() {
            self.note_returned(connection.user, consent, &returned).await;
        }
        Ok(returned)
    }

    /// The id of the consent that `state` names; `None`: the state is none of ours. Whether the consent is still awaited
    /// is not asked.
    #[must_use]
    pub fn consent_of(&self, state: &str) -> Option<Uuid> {
        self.key.read_state(state).map(|state| state.consent)
    }

    /// The consent that this browser was sent for. It is gone once this returns.
    async fn used_up(&self, callback: &Callback) -> Result<(Connection, Consent), ConnectionError> {
        let state = self.key.read_state(&callback.state).ok_or(ConnectionError::InvalidState)?;
        let browser = callback.browser.as_ref().ok_or(ConnectionError::InvalidState)?;
        let browser = TokenHash::of(browser.expose_secret().as_bytes());
        let decide = || async {
            let found = self.store.connection(state.user, state.connection).await?;
            let mut connection = found.ok_or(ConnectionError::InvalidState)?;
            let consent = connection.consent.take().filter(|consent| consent.id == state.consent);
            let consent = consent.ok_or(ConnectionError::InvalidState)?;
            // It stays: who asks is not the one that it waits for.
            if !consent.browser.is(&browser) {
                return Err(ConnectionError::InvalidState);
            }
            self.still_theirs(&connection, &consent).await?;
            let too_late = consent.expires_at <= self.now();
            self.schedule(&mut connection);
            let changes = vec![Change::UpdateConnection(connection.clone())];
            connection.revision += 1;
            Ok(Decision::Commit(changes, (connection, consent, too_late)))
        };
        match self.retry_on_conflict(decide).await? {
            (_, _, true) => Err(ConnectionError::InvalidState),
            (connection, consent, false) => Ok((connection, consent)),
        }
    }

    /// The user who began it is still let in, has not signed out, and was not cut off since: on a shared browser, the next one would grant
    /// access to an account of their own.
    pub(super) async fn still_theirs(
        &self,
        connection: &Connection,
        consent: &Consent,
    ) -> Result<(), ConnectionError> {
        let user = connection.user;
        if self.store.user(user).await?.is_none_or(|user| !user.is_open()) {
            return Err(ConnectionError::NoAccount);
        }
        let begun = match consent.session {
            Some(session) => {
                let session = self.store.session(user, session).await?;
                Begun::session(&session.ok_or(ConnectionError::InvalidState)?, &self.issuer)
            }
            // By a token without a session, which an operator minted.
            None => Begun {
                issuer: &self.issuer,
                user: user.0,
                session: None,
                versions: consent.begun,
                at: consent.expires_at.minus(CONSENT_LIFE),
            },
        };
        match self.store.is_cut(&begun).await? {
            true => Err(ConnectionError::InvalidState),
            false => Ok(()),
        }
    }

    /// Exchanges what the callback brought, for a consent that is used up.
    pub(super) async fn complete(
        &self,
        connection: &Connection,
        consent: &Consent,
        callback: Vec<(String, SecretString)>,
        pkce: Pkce,
    ) -> Result<Connection, ConnectionError> {
        let asked_at = self.now();
        let parameters = self.parameters_of(connection, consent)?;
        let call = first_call(connection, consent, &parameters);
        let fault = match self.providers.exchange(call, callback, &pkce).await {
            Ok(granted) if granted.access_token.expose_secret().is_empty() => {
                ProviderFault::ProviderError("there is no access token in it".to_owned())
            }
            Ok(granted) => {
                return self.establish(connection, granted, &consent.scopes, &parameters, asked_at).await;
            }
            Err(fault) => fault,
        };
        let failure = Failure::from(fault);
        let (id, provider, reason) = (connection.id, &connection.provider, &failure.reason);
        tracing::warn!(connection = %id, provider, reason, "a consent could not be exchanged");
        let fault = ProviderFailure { at: asked_at, kind: failure.kind, reason: failure.reason.clone() };
        let record = |connection: &mut Connection| connection.last_fault = Some(fault.clone());
        if let Err(error) = self.amend(connection, Vec::new(), record).await {
            tracing::warn!(connection = %id, %error, "the failure of an exchange could not be recorded");
        }
        Err(failure.into())
    }
}

/// What the provider says went wrong, if it says so.
fn refused(parameters: &[(String, SecretString)]) -> Option<ConsentRefusal> {
    let given = |name: &str| {
        let found = parameters.iter().find(|(given, _)| given == name);
        found.map(|(_, value)| value.expose_secret())
    };
    let error = given("error")?;
    let (word, meaning) = WORDS
        .into_iter()
        .find(|(word, _)| *word == error)
        .unwrap_or(("provider_error", "the provider has refused for a reason of its own"));
    let said = given("error_description").map(one_line).filter(|said| !said.is_empty());
    Some(ConsentRefusal { word, meaning, said })
}

/// A provider's words on one line, cut where a page would wrap them many times.
fn one_line(words: &str) -> String {
    // Not searched to its end: a callback is as long as an address may be, a form longer.
    let words = &words[..words.floor_char_boundary(4 * MAX_SAID)];
    let whole = clean(&words.split_whitespace().collect::<Vec<_>>().join(" "), 4 * MAX_SAID);
    if whole.len() <= MAX_SAID {
        return whole;
    }
    format!("{}…", clean(&whole, MAX_SAID - '…'.len_utf8()))
}

/// What went wrong in an exchange.
fn of_exchange(kind: FaultKind) -> ConsentRefusal {
    let (word, meaning) = match kind {
        FaultKind::InvalidGrant => {
            ("invalid_grant", "the provider did not take what your browser brought back")
        }
        FaultKind::Transient => {
            ("temporarily_unavailable", "the provider cannot answer now; try again later")
        }
        FaultKind::Misconfigured => ("misconfigured", "this app and the provider do not fit together yet"),
        FaultKind::ProviderError => ("provider_error", "the provider gave an answer that cannot be used"),
        FaultKind::PluginFailed => ("provider_error", "the provider could not be asked"),
    };
    ConsentRefusal { word, meaning, said: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_provider_says_is_one_line_and_not_long() {
        for (said, want) in [
            ("The user said no.", "The user said no."),
            ("  a\r\n\r\n  b\tc  ", "a b c"),
            ("a\u{202e}b\u{2028}c\0d", "a b c d"),
            (" \n ", ""),
        ] {
            assert_eq!(one_line(said), want, "{said:?}");
        }
        for long in ["x".repeat(100_000), "ż".repeat(500), format!("{}…", "y".repeat(199)), "z ".repeat(300)]
        {
            let line = one_line(&long);
            assert!(line.len() <= MAX_SAID && line.ends_with('…'), "{} bytes", line.len());
        }
        assert_eq!(one_line(&"x".repeat(MAX_SAID)), "x".repeat(MAX_SAID));
    }

    #[test]
    fn our_words_and_those_of_the_provider_stay_apart() {
        let given = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into()));
            refused(&pairs.collect::<Vec<_>>())
        };
        let refusal =
            given(&[("error", "access_denied"), ("error_description", "Call 555-1234\nnow")]).unwrap();
        assert_eq!((refusal.word, refusal.meaning), ("access_denied", "consent was not given"));
        assert_eq!(refusal.said.as_deref(), Some("Call 555-1234 now"));
        let own = given(&[("error", "<b>"), ("error_description", "")]).unwrap();
        assert_eq!((own.word, own.said), ("provider_error", None));
        assert_eq!(given(&[("error_description", "x")]), None);
    }
}
