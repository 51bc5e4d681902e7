//! Beginning a connection, or the renewal of one. What is live stays in use until the new grant is there.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::seal::Parameters;
use super::{Begin, BegunConsent, ConnectionError, Connections, Failure};
use crate::domain::account::{SCOPES_WANTED, are_scopes};
use crate::domain::audit::{Action, Outcome};
use crate::domain::connection::{CONSENT_LIFE, Connection, ConnectionId, Consent, MAX_CONNECTIONS, Status};
use crate::domain::opaque::{State, TokenHash, code_challenge};
use crate::domain::revocation::Versions;
use crate::domain::session::SessionId;
use crate::ports::{
    Authorization, Change, Limited, Pkce, Precondition, ProviderCall, ProviderFault, ProviderInfo,
};
use crate::service::caller::{Client, OwnedSource, Person};
use crate::service::noted::About;
use crate::service::retry::Decision;

/// The longest value of a parameter, in bytes.
const MAX_PARAMETER: usize = 500;

impl Connections {
    /// Begins a connection, or the renewal of one.
    ///
    /// # Errors
    /// [`ConnectionError`]; then nothing was begun.
    pub async fn begin(
        &self,
        client: &Client,
        person: Person,
        begin: Begin,
    ) -> Result<BegunConsent, ConnectionError> {
        let user = person.user;
        self.limiter.attempt(Limited::Connect, client.address, Some(&user.to_string()))?;
        let info = self.providers.get(&begin.provider);
        let info = info.ok_or_else(|| ConnectionError::UnknownProvider(begin.provider.clone()))?;
        self.check_return_to(begin.return_to.as_deref())?;
        let scopes = self.scopes(&begin, &info)?;
        let begun = self.store.versions(&self.issuer, &user.to_string()).await?;
        let decide = || async {
            if self.store.user(user).await?.is_none_or(|user| !user.is_open()) {
                return Err(ConnectionError::NoAccount);
            }
            let mine = self.store.connections(user).await?;
            let given = told_apart(&begin.parameters, &info);
            let chosen = choose(&mine, &begin, &given.open)?;
            let parameters = match chosen {
                Some(chosen) if begin.parameters.is_empty() => Parameters {
                    open: chosen.parameters.clone(),
                    // What cannot be opened is asked for again.
                    secret: self.open_parameters(chosen).unwrap_or_default(),
                },
                _ => given,
            };
            check_parameters(&parameters, &info)?;
            if chosen.is_none()
                && mine.iter().filter(|one| one.status != Status::Revoked).count() >= MAX_CONNECTIONS
            {
                return Err(ConnectionError::TooManyConnections);
            }
            let is_new = chosen.is_none();
            let mut connection = chosen.cloned().unwrap_or_else(|| {
                let id = ConnectionId(self.entropy.uuid());
                Connection::pending(id, user, begin.provider.clone(), self.now())
            });
            let (consent, browser) =
                self.consent(&connection, &begin, (person.session, begun), &scopes, &parameters);
            let attended = self.authorization(&connection, &consent, &parameters).await?;
            if connection.status == Status::Pending {
                connection.scopes_asked.clone_from(&scopes);
                connection.parameters = parameters.open;
            }
            // Without a user to ask there is no consent to wait for.
            connection.consent = attended.is_some().then(|| consent.clone());
            self.schedule(&mut connection);
            let mut changes = match is_new {
                // The account may be deleted, with all that it has, while the plugin is asked.
                true => vec![
                    Change::Require(Precondition::UserExists(user)),
                    Change::CreateConnection(connection.clone()),
                ],
                false => vec![Change::UpdateConnection(connection.clone())],
            };
            changes.extend(surplus(&mine).map(|old| Change::RemoveConnection(old.user, old.id)));
            connection.revision += u64::from(!is_new);
            Ok(Decision::Commit(changes, (connection, consent, browser, attended)))
        };
        let (connection, consent, browser, attended) = self.retry_on_conflict(decide).await?;
        self.state.due.notify_one();
        if let Some(url) = attended {
            return Ok(BegunConsent { connection, authorization_url: Some(url), browser: Some(browser) });
        }
        let connection = self.connect_unattended(client, connection, consent).await?;
        Ok(BegunConsent { connection, authorization_url: None, browser: None })
    }

    async fn connect_unattended(
        &self,
        client: &Client,
        connection: Connection,
        consent: Consent,
    ) -> Result<Connection, ConnectionError> {
        let (this, who) = (self.clone(), OwnedSource::Client(client.clone()));
        self.spawn(async move {
            let about = About::connection(connection.user, connection.id);
            let outcome = this.complete(&connection, &consent, Vec::new(), this.pkce(&consent)).await;
            match &outcome {
                Ok(_) => this.note(&who, Action::Connect, Outcome::Success, about),
                Err(error) => {
                    this.note(&who, Action::Connect, Outcome::Failed, about.because(error.to_string()));
                }
            }
            outcome
        })
        .await
    }

    /// Word for word one of those that are configured: whatever looks like one is another.
    fn check_return_to(&self, given: Option<&str>) -> Result<(), ConnectionError> {
        let settings = self.settings();
        if given.is_none_or(|given| settings.return_to.iter().any(|allowed| allowed == given)) {
            return Ok(());
        }
        let want = "`return_to` must be, word for word, one of the URLs that the configuration lists";
        Err(ConnectionError::Invalid(want.to_owned()))
    }

    fn scopes(&self, begin: &Begin, info: &ProviderInfo) -> Result<Vec<String>, ConnectionError> {
        let Some(scopes) = &begin.scopes else {
            let settings = self.settings();
            let own = settings.providers.get(&begin.provider).map(|own| own.scopes.clone());
            return Ok(own.filter(|scopes| !scopes.is_empty()).unwrap_or_else(|| info.scopes.clone()));
        };
        if are_scopes(scopes) {
            Ok(scopes.clone())
        } else {
            Err(ConnectionError::Invalid(SCOPES_WANTED.to_owned()))
        }
    }

    /// A fresh consent, and the cookie of the browser that is to bring it back.
    fn consent(
        &self,
        connection: &Connection,
        begin: &Begin,
        (session, begun): (Option<SessionId>, Versions),
        scopes: &[String],
        parameters: &Parameters,
    ) -> (Consent, SecretString) {
        let mut bytes = Zeroizing::new([0; 32]);
        self.entropy.fill(&mut *bytes);
        let browser = SecretString::from(URL_SAFE_NO_PAD.encode(*bytes));
        let consent = Consent {
            id: self.entropy.uuid(),
            browser: TokenHash::of(browser.expose_secret().as_bytes()),
            session,
            begun,
            return_to: begin.return_to.clone(),
            scopes: scopes.to_vec(),
            parameters: parameters.open.clone(),
            secret_parameters: self.seal_for_consent(connection, &parameters.secret),
            expires_at: self.now().plus(CONSENT_LIFE),
        };
        (consent, browser)
    }

    /// Where the user gives consent, if there is any to give.
    async fn authorization(
        &self,
        connection: &Connection,
        consent: &Consent,
        parameters: &Parameters,
    ) -> Result<Option<String>, ConnectionError> {
        let named = State { user: connection.user, connection: connection.id, consent: consent.id };
        let state = self.key.write_state(&named);
        let call = first_call(connection, consent, parameters);
        match self.providers.authorize(call, &state, &self.pkce(consent)).await {
            Ok(Authorization::Unattended) => Ok(None),
            // A browser is sent there: to a page, and to nothing that a browser would run.
            Ok(Authorization::Visit(url)) if url.starts_with("https://") || url.starts_with("http://") => {
                Ok(Some(url))
            }
            Ok(Authorization::Visit(_)) => {
                let fault =
                    ProviderFault::ProviderError("the authorization URL is not one of the web".to_owned());
                Err(Failure::from(fault).into())
            }
            Err(fault @ ProviderFault::InvalidParameter { .. }) => {
                Err(ConnectionError::Invalid(Failure::from(fault).reason))
            }
            Err(ProviderFault::NotInService(name)) => Err(ConnectionError::UnknownProvider(name)),
            Err(fault) => Err(Failure::from(fault).into()),
        }
    }

    pub(super) fn pkce(&self, consent: &Consent) -> Pkce {
        pkce_of(self.key.code_verifier(consent.id))
    }
}

/// A code verifier with its challenge (RFC 7636 §4.2).
pub(super) fn pkce_of(verifier: SecretString) -> Pkce {
    Pkce { challenge: code_challenge(&verifier), verifier }
}

/// A call about a grant that is to be: what was kept of an earlier one is none of its business.
pub(super) fn first_call(
    connection: &Connection,
    consent: &Consent,
    parameters: &Parameters,
) -> ProviderCall {
    ProviderCall {
        provider: connection.provider.clone(),
        parameters: parameters.open.clone(),
        secret_parameters: parameters.secret.clone(),
        kept: BTreeMap::new(),
        scopes: consent.scopes.clone(),
    }
}

/// The connection that is to be renewed; `None`: a new one is to be made.
fn choose<'a>(
    mine: &'a [Connection],
    begin: &Begin,
    parameters: &BTreeMap<String, String>,
) -> Result<Option<&'a Connection>, ConnectionError> {
    if let Some(id) = begin.connection {
        let named = mine.iter().find(|one| one.id == id).ok_or(ConnectionError::NotFound)?;
        if named.status == Status::Revoked {
            return Err(ConnectionError::Revoked);
        }
        if named.provider != begin.provider {
            let want = format!("`provider` must be {:?}, which `connection` is of", named.provider);
            return Err(ConnectionError::Invalid(want));
        }
        return Ok(Some(named));
    }
    let is_same = |one: &&Connection| {
        one.status != Status::Revoked && one.provider == begin.provider && one.parameters == *parameters
    };
    // Of several connections, one that was established, and of those the latest.
    Ok(match begin.another {
        true => None,
        false => mine.iter().filter(is_same).max_by_key(|one| (one.connected_at, one.id)),
    })
}

/// Which of the parameters are secrets. Those say nothing about which connection is meant: a key may be replaced.
fn told_apart(given: &BTreeMap<String, String>, info: &ProviderInfo) -> Parameters {
    let mut parameters = Parameters::default();
    for (name, value) in given {
        if info.parameters.iter().any(|known| known.name == *name && known.secret) {
            parameters.secret.insert(name.clone(), value.as_str().into());
        } else {
            parameters.open.insert(name.clone(), value.clone());
        }
    }
    parameters
}

/// The names are known, and whatever is needed is there. Whether the values match their patterns is for the
/// provider's side to say.
fn check_parameters(given: &Parameters, info: &ProviderInfo) -> Result<(), ConnectionError> {
    let invalid = |why: String| Err(ConnectionError::Invalid(why));
    let secret = given.secret.iter().map(|(name, value)| (name, value.expose_secret()));
    for (name, value) in given.open.iter().map(|(name, value)| (name, value.as_str())).chain(secret) {
        let Some(known) = info.parameters.iter().find(|known| known.name == *name) else {
            let known: Vec<&str> = info.parameters.iter().map(|known| known.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return invalid(format!(
                "{} takes no parameter of one of these names; it takes {known}",
                info.name
            ));
        };
        if value.is_empty() || value.len() > MAX_PARAMETER || value.chars().any(char::is_control) {
            let name = &known.name;
            return invalid(format!(
                "`parameters.{name}` must have 1 to 500 bytes, none a control character"
            ));
        }
    }
    let has = |name: &String| given.open.contains_key(name) || given.secret.contains_key(name);
    match info.parameters.iter().find(|known| known.required && !has(&known.name)) {
        Some(missing) => invalid(format!("`parameters.{}` is needed: {}", missing.name, missing.summary)),
        None => Ok(()),
    }
}

/// The oldest of the ended ones, as far as there are too many to keep.
fn surplus(mine: &[Connection]) -> impl Iterator<Item = &Connection> {
    let ended = || mine.iter().filter(|one| one.status == Status::Revoked);
    ended().take(ended().count().saturating_sub(MAX_CONNECTIONS))
}
