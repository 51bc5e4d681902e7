//! A provider in service: its component, and everything that its calls need.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::bindings::exports::palisade::provider::plugin::Description;
use super::bindings::palisade::provider::types::{self, Failure};
use super::call::{Answer, Callee, Counted, DESCRIBE, run};
use super::convert::{self, Parameter};
use super::credentials::Client;
use super::engine::Machine;
use super::host::{Surroundings, Witness};
use super::load::Code;
use crate::config;
use crate::domain::connection::Account;
use crate::ports::{
    Assertions, Authorization, Clock, CurrentTokens, Door, GrantedTokens, Meter, Pkce, ProviderCall,
    ProviderFault, ProviderInfo,
};

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
    pub(super) code: Arc<Code>,
    /// The plugin's own version.
    pub(super) version: String,
    machine: Arc<Machine>,
    parameters: Vec<Parameter>,
    around: Arc<Surroundings>,
    slots: Arc<Semaphore>,
    settings: String,
    redirect_uri: Arc<str>,
    allowed_hosts: Vec<config::HostPattern>,
    allow_loopback: bool,
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
        let callee = Callee { machine, code: &code, around: &around, slots: &slots, secrets: Vec::new() };
        let described = describe(callee, settings.clone()).await.map_err(|fault| match fault {
            ProviderFault::Misconfigured(why) => format!("providers.settings: {why}"),
            fault => fault.to_string(),
        })?;
        let parameters = convert::parameters(&described)?;
        let unlisted = convert::unlisted(&described.hosts, &provider.allowed_hosts);
        if !unlisted.is_empty() {
            let hosts = convert::summary(&unlisted.join(", "), &[]);
            tracing::warn!(
                provider = provider.name,
                "the plugin calls {hosts}, which providers.allowed_hosts does not list: those requests will be denied"
            );
        }
        let name =
            provider.display_name.clone().unwrap_or_else(|| convert::summary(&described.display_name, &[]));
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
            code,
            version: convert::summary(&described.version, &[]),
            machine: Arc::clone(machine),
            parameters,
            around,
            slots,
            settings,
            redirect_uri: sides.redirect_uri,
            allowed_hosts: provider.allowed_hosts.clone(),
            allow_loopback: provider.allow_loopback,
        })
    }

    pub(super) async fn authorize(
        &self,
        call: &ProviderCall,
        state: &SecretString,
        pkce: &Pkce,
    ) -> Result<Authorization, ProviderFault> {
        let work = async {
            convert::check(&self.parameters, &call.parameters)?;
            let (connection, pkce_told) = (self.connection(call), Zeroizing::new(convert::pkce(pkce)));
            let told = Zeroizing::new(state.expose_secret().to_owned());
            let mut secrets = self.secrets(call);
            secrets.extend([state.clone(), pkce.verifier.clone()]);
            let answer = run(self.callee(&secrets), "authorize", move |guest, store| -> Answer<'_, _> {
                Box::pin(async move { guest.call_authorize(store, &connection, &told, &pkce_told).await })
            });
            let asked = told_or(answer.await?, &secrets)?;
            convert::authorization(asked, state, &self.allowed_hosts, self.allow_loopback).map_err(unusable)
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
            let answer = run(self.callee(&secrets), "exchange", move |guest, store| -> Answer<'_, _> {
                Box::pin(async move { guest.call_exchange(store, &connection, &told.0, &pkce_told).await })
            });
            convert::tokens(told_or(answer.await?, &secrets)?).map_err(unusable)
        };
        self.counted("exchange", work).await
    }

    pub(super) async fn refresh(
        &self,
        call: &ProviderCall,
        current: &CurrentTokens,
    ) -> Result<GrantedTokens, ProviderFault> {
        let work = async {
            if !self.info.can_refresh {
                let why = "its access tokens cannot be refreshed, says its plugin";
                return Err(ProviderFault::ProviderError(why.to_owned()));
            }
            let (connection, tokens) = (self.connection(call), Zeroizing::new(convert::current(current)));
            let secrets = self.secrets_with(call, current);
            let answer = run(self.callee(&secrets), "refresh", move |guest, store| -> Answer<'_, _> {
                Box::pin(async move { guest.call_refresh(store, &connection, &tokens).await })
            });
            convert::tokens(told_or(answer.await?, &secrets)?).map_err(unusable)
        };
        self.counted("refresh", work).await
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
            let secrets = self.secrets_with(call, current);
            let answer = run(self.callee(&secrets), "revoke", move |guest, store| -> Answer<'_, _> {
                Box::pin(async move { guest.call_revoke(store, &connection, &tokens).await })
            });
            told_or(answer.await?, &secrets)
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
            let secrets = self.secrets_with(call, current);
            let answer = run(self.callee(&secrets), "identity", move |guest, store| -> Answer<'_, _> {
                Box::pin(async move { guest.call_identity(store, &connection, &tokens).await })
            });
            let account = told_or(answer.await?, &secrets)?;
            convert::account(account, &self.allowed_hosts).map(Some).map_err(unusable)
        };
        self.counted("identity", work).await
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

    fn callee(&self, secrets: &[SecretString]) -> Callee<'_> {
        Callee {
            machine: &self.machine,
            code: &self.code,
            around: &self.around,
            slots: &self.slots,
            secrets: secrets.to_vec(),
        }
    }

    fn connection(&self, call: &ProviderCall) -> Zeroizing<types::Connection> {
        let id = &self.around.client.id;
        Zeroizing::new(convert::connection(call, id, &self.redirect_uri, &self.settings))
    }

    /// What no text about a call may hold.
    fn secrets(&self, call: &ProviderCall) -> Vec<SecretString> {
        self.around.client.secret.iter().chain(call.kept.values()).cloned().collect()
    }

    fn secrets_with(&self, call: &ProviderCall, tokens: &CurrentTokens) -> Vec<SecretString> {
        let mut secrets = self.secrets(call);
        secrets.push(tokens.access_token.clone());
        secrets.extend(tokens.refresh_token.iter().chain(&tokens.id_token).cloned());
        secrets
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

/// What a component says about itself with these settings.
///
/// # Errors
/// What it says is wrong with them, or that it broke off.
pub(super) async fn describe(callee: Callee<'_>, settings: String) -> Result<Description, ProviderFault> {
    let answer = run(callee, DESCRIBE, move |guest, store| -> Answer<'_, _> {
        Box::pin(async move { guest.call_describe(store, &settings).await })
    });
    told_or(answer.await?, &[])
}

fn told_or<T>(answer: Result<T, Failure>, secrets: &[SecretString]) -> Result<T, ProviderFault> {
    answer.map_err(|failure| convert::failure(failure, secrets))
}

fn unusable(why: String) -> ProviderFault {
    ProviderFault::PluginFailed(format!("it brought {why}"))
}
