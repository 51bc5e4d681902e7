//! A provider in service: its component, and everything that its calls need.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;
use wasmtime::Store;
use zeroize::Zeroizing;

use super::bindings::exports::palisade::provider::plugin::{Description, Guest};
use super::bindings::palisade::provider::types::{self, Failure};
use super::call::{Answer, Callee, Counted, DESCRIBE, run};
use super::convert::{self, Parameter};
use super::credentials::Client;
use super::engine::Machine;
use super::granted;
use super::host::{State, Surroundings, Witness};
use super::load::Code;
use super::secrets::Secrets;
use crate::config;
use palisade_core::domain::connection::Account;
use palisade_core::domain::reach::Reach;
use palisade_core::ports::{
    Assertions, Authorization, Clock, CurrentTokens, Door, GrantedTokens, Meter, Pkce, ProviderCall,
    ProviderFault, ProviderInfo,
};

/// What came of a refresh.
pub(super) struct Refreshed {
    pub(super) outcome: Result<GrantedTokens, ProviderFault>,
    /// Whether a request was sent to the provider.
    pub(super) asked: bool,
}

/// Our sides of what a plugin needs.
pub(super) struct Sides {
    pub(super) door: Arc<dyn Door>,
    pub(super) assertions: Arc<dyn Assertions>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) meter: Arc<dyn Meter>,
    pub(super) redirect_uri: Arc<str>,
    pub(super) witness: Option<Arc<dyn Witness>>,
}

/// A provider in service.
pub(super) struct Plugin {
    pub(super) info: ProviderInfo,
    /// What the operator may not have meant.
    pub(super) warning: Option<String>,
    pub(super) code: Arc<Code>,
    /// The plugin's own version.
    pub(super) version: String,
    machine: Arc<Machine>,
    parameters: Vec<Parameter>,
    around: Arc<Surroundings>,
    slots: Arc<Semaphore>,
    settings: String,
    secret_settings: Vec<SecretString>,
    redirect_uri: Arc<str>,
    allowed_hosts: Arc<[config::AllowedHost]>,
    allow_loopback: bool,
    reach: Reach,
}

impl Plugin {
    /// Asks the component what it can do with the provider's settings.
    ///
    /// # Errors
    /// Why the provider cannot be in service.
    pub(super) async fn prepare(
        machine: &Arc<Machine>,
        code: Arc<Code>,
        provider: &config::Provider,
        sides: Sides,
    ) -> Result<Plugin, String> {
        let around = Arc::new(Surroundings {
            provider: Arc::from(&*provider.name),
            client: Client { id: provider.client_id.clone(), secret: provider.client_secret.clone() },
            door: sides.door,
            limits: provider.limits,
            assertions: sides.assertions,
            clock: sides.clock,
            meter: sides.meter,
            witness: sides.witness,
        });
        let slots = Arc::new(Semaphore::new(provider.limits.concurrency));
        let settings = serde_json::to_string(&provider.settings).map_err(|error| error.to_string())?;
        let secrets = Arc::new(Secrets::of(provider.secret_settings.iter().cloned()));
        let callee = Callee { machine, code: &code, around: &around, slots: &slots, secrets };
        let (described, parameters) = describe(callee, settings.clone(), &provider.secret_parameters)
            .await
            .map_err(|fault| match fault {
            ProviderFault::Misconfigured(why) => format!("providers.settings: {why}"),
            fault => fault.to_string(),
        })?;
        let unlisted = convert::unlisted(&described.hosts, &provider.allowed_hosts);
        let warning = (!unlisted.is_empty()).then(|| {
            let hosts = convert::summary(&unlisted.join(", "));
            format!(
                "its plugin calls {hosts}, which providers.allowed_hosts does not list: those requests will be denied"
            )
        });
        let name = provider.display_name.clone().unwrap_or_else(|| convert::summary(&described.display_name));
        let info = ProviderInfo {
            name: provider.name.clone(),
            display_name: name,
            scopes: if provider.scopes.is_empty() { described.scopes } else { provider.scopes.clone() },
            parameters: parameters.iter().map(|parameter| parameter.info.clone()).collect(),
            docs: described.docs,
            can_refresh: described.can_refresh,
            can_revoke: described.can_revoke,
            can_identify: described.can_identify,
        };
        Ok(Plugin {
            info,
            warning,
            code,
            version: convert::summary(&described.version),
            machine: Arc::clone(machine),
            parameters,
            around,
            slots,
            settings,
            secret_settings: provider.secret_settings.clone(),
            redirect_uri: sides.redirect_uri,
            allowed_hosts: provider.allowed_hosts.clone().into(),
            allow_loopback: provider.allow_loopback,
            reach: provider.reach.clone(),
        })
    }

    pub(super) async fn authorize(
        &self,
        call: &ProviderCall,
        state: &SecretString,
        pkce: &Pkce,
    ) -> Result<Authorization, ProviderFault> {
        let work = async {
            convert::check(&self.parameters, call)?;
            let (connection, pkce_told) = (self.connection(call), Zeroizing::new(convert::pkce(pkce)));
            let told = Zeroizing::new(state.expose_secret().to_owned());
            let mut secrets = self.secrets(call);
            secrets.extend([state.clone(), pkce.verifier.clone()]);
            let (state, hosts, loopback) = (state.clone(), self.allowed_hosts.clone(), self.allow_loopback);
            let reach = self.reach.clone();
            let read = move |asked| convert::authorization(asked, &state, &hosts, loopback, &reach);
            let secrets = Arc::new(Secrets::of(secrets));
            self.ask("authorize", secrets, read, move |guest, store| {
                Box::pin(async move { guest.call_authorize(store, &connection, &told, &pkce_told).await })
            })
            .await
        };
        self.counted("authorize", work).await
    }

    pub(super) async fn exchange(
        &self,
        call: &ProviderCall,
        callback: Vec<(String, SecretString)>,
        pkce: &Pkce,
    ) -> Result<GrantedTokens, ProviderFault> {
        let work = async {
            convert::sender(&callback, &self.allowed_hosts).map_err(ProviderFault::ProviderError)?;
            let (connection, pkce_told) = (self.connection(call), Zeroizing::new(convert::pkce(pkce)));
            let mut secrets = self.secrets(call);
            secrets.push(pkce.verifier.clone());
            secrets.extend(callback.iter().map(|(_, value)| value.clone()));
            let mut told: Vec<(String, String)> = Vec::with_capacity(callback.len());
            for (name, value) in &callback {
                told.push((name.clone(), value.expose_secret().to_owned()));
            }
            let told = Callback(told);
            let secrets = Arc::new(Secrets::of(secrets));
            self.ask("exchange", secrets, granted::tokens, move |guest, store| {
                Box::pin(async move { guest.call_exchange(store, &connection, &told.0, &pkce_told).await })
            })
            .await
        };
        let granted = self.counted("exchange", work).await?;
        self.show(&granted.notes);
        Ok(granted)
    }

    pub(super) async fn refresh(&self, call: &ProviderCall, current: &CurrentTokens) -> Refreshed {
        let secrets = Arc::new(self.secrets_with(call, current));
        let told = Arc::clone(&secrets);
        let work = async {
            if !self.info.can_refresh {
                let why = "its access tokens cannot be refreshed, says its plugin";
                return Err(ProviderFault::ProviderError(why.to_owned()));
            }
            let (connection, tokens) = (self.connection(call), Zeroizing::new(convert::current(current)));
            self.ask("refresh", told, granted::tokens, move |guest, store| {
                Box::pin(async move { guest.call_refresh(store, &connection, &tokens).await })
            })
            .await
        };
        let outcome = self.counted("refresh", work).await;
        if let Ok(granted) = &outcome {
            self.show(&granted.notes);
        }
        Refreshed { outcome, asked: secrets.asked() }
    }

    pub(super) async fn revoke(
        &self,
        call: &ProviderCall,
        current: &CurrentTokens,
    ) -> Result<(), ProviderFault> {
        if !self.info.can_revoke {
            return Ok(());
        }
        let work = async {
            let (connection, tokens) = (self.connection(call), Zeroizing::new(convert::current(current)));
            let secrets = Arc::new(self.secrets_with(call, current));
            self.ask("revoke", secrets, Ok, move |guest, store| {
                Box::pin(async move { guest.call_revoke(store, &connection, &tokens).await })
            })
            .await
        };
        self.counted("revoke", work).await
    }

    pub(super) async fn identity(
        &self,
        call: &ProviderCall,
        current: &CurrentTokens,
    ) -> Result<Option<Account>, ProviderFault> {
        if !self.info.can_identify {
            return Ok(None);
        }
        let work = async {
            let (connection, tokens) = (self.connection(call), Zeroizing::new(convert::current(current)));
            let secrets = Arc::new(self.secrets_with(call, current));
            let hosts = self.allowed_hosts.clone();
            let read = move |said| convert::account(said, &hosts);
            self.ask("identity", secrets, read, move |guest, store| {
                Box::pin(async move { guest.call_identity(store, &connection, &tokens).await })
            })
            .await
        };
        let (account, notes) = self.counted("identity", work).await?;
        self.show(&notes);
        // Asked once for each consent, so a line each time is not too much.
        for note in notes {
            tracing::warn!(provider = self.info.name, "{note}");
        }
        Ok(Some(account))
    }

    /// Shows the plugin's author what was dropped of its answer.
    fn show(&self, notes: &[String]) {
        if let Some(witness) = &self.around.witness {
            notes.iter().for_each(|note| witness.logged(note));
        }
    }

    async fn counted<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T, ProviderFault>>,
    ) -> Result<T, ProviderFault> {
        let counted = Counted::begin(&*self.around.meter, &self.info.name, call);
        let result = work.await;
        counted.end(&result);
        result
    }

    /// `read` makes ours of what the component answers, or says what is wrong with it.
    async fn ask<R, T, F>(
        &self,
        what: &'static str,
        secrets: Arc<Secrets>,
        read: impl FnOnce(R) -> Result<T, String> + Send + 'static,
        ask: F,
    ) -> Result<T, ProviderFault>
    where
        R: Send,
        T: Send + 'static,
        F: for<'a> FnOnce(&'a Guest, &'a mut Store<State>) -> Answer<'a, R> + Send + 'static,
    {
        let callee = Callee {
            machine: &self.machine,
            code: &self.code,
            around: &self.around,
            slots: &self.slots,
            secrets: Arc::clone(&secrets),
        };
        run(callee, what, ask, move |answer| read(told_or(answer, &secrets)?).map_err(unusable)).await
    }

    fn connection(&self, call: &ProviderCall) -> Zeroizing<types::Connection> {
        let id = &self.around.client.id;
        Zeroizing::new(convert::connection(call, id, &self.redirect_uri, &self.settings))
    }

    /// What no text about a call may hold.
    fn secrets(&self, call: &ProviderCall) -> Vec<SecretString> {
        let known = self.around.client.secret.iter().chain(&self.secret_settings);
        known.chain(call.kept.values()).chain(call.secret_parameters.values()).cloned().collect()
    }

    fn secrets_with(&self, call: &ProviderCall, tokens: &CurrentTokens) -> Secrets {
        let mut secrets = self.secrets(call);
        secrets.push(tokens.access_token.clone());
        secrets.extend(tokens.refresh_token.iter().chain(&tokens.id_token).cloned());
        Secrets::of(secrets)
    }
}

/// What came back in a callback, the code among it.
struct Callback(Vec<(String, String)>);

impl Drop for Callback {
    fn drop(&mut self) {
        use zeroize::Zeroize;
        self.0.iter_mut().for_each(|(_, value)| value.zeroize());
    }
}

/// What a component says about itself with these settings, and the parameters in it.
///
/// # Errors
/// What it says is wrong with them, or that it broke off.
pub(super) async fn describe(
    callee: Callee<'_>,
    settings: String,
    secret_parameters: &[String],
) -> Result<(Description, Vec<Parameter>), ProviderFault> {
    let (secrets, secret_parameters) = (Arc::clone(&callee.secrets), secret_parameters.to_vec());
    let read = move |answer| {
        let described = told_or(answer, &secrets)?;
        let parameters =
            convert::parameters(&described, &secret_parameters).map_err(ProviderFault::PluginFailed)?;
        Ok((described, parameters))
    };
    run(
        callee,
        DESCRIBE,
        move |guest, store| Box::pin(async move { guest.call_describe(store, &settings).await }),
        read,
    )
    .await
}

fn told_or<T>(answer: Result<T, Failure>, secrets: &Secrets) -> Result<T, ProviderFault> {
    answer.map_err(|failure| convert::failure(failure, secrets))
}

fn unusable(why: String) -> ProviderFault {
    ProviderFault::PluginFailed(format!("it brought {why}"))
}
