//! What the page of an account tells.

use serde_json::{Value, json};

use super::AccountPage;
use palisade_core::domain::connection::{Connection, Status};
use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::page::PageName;
use palisade_core::domain::username::Username;
use palisade_core::ports::ProviderInfo;
use palisade_core::service::accounts::AccountError;
use palisade_core::service::connections::ConnectionError;
use palisade_core::service::delete_account::is_fresh;
use palisade_core::service::notices::AccountNotice;

/// How much of what happened lately is told, the latest first.
const MAX_NEWS: usize = 5;

impl AccountPage<'_> {
    /// The facts of the page, without what was just done or is wrong.
    ///
    /// # Errors
    /// [`AccountError`].
    pub(super) async fn facts(&self) -> Result<Value, AccountError> {
        let (accounts, person) = (&self.state.accounts, self.owner.person);
        let user = accounts.profile(person).await?;
        let sessions = accounts.list_sessions(person).await?;
        let own = sessions.iter().find(|session| session.id == self.owner.session);
        let is_fresh = own.is_some_and(|session| is_fresh(session.created_at, accounts.now()));
        let rules = accounts.password_requirements();
        let connections = self.state.connections.connections(person).await.map_err(of_store)?;
        let connections: Vec<&Connection> =
            connections.iter().filter(|one| one.status != Status::Revoked).collect();
        let providers = self.state.connections.providers();
        // Where letters are sent to it, they tell it.
        let is_told = accounts.has_mail() && user.email.is_some();
        let news = if is_told { Vec::new() } else { accounts.notices(person).await? };
        let news: Vec<Value> = news.iter().take(MAX_NEWS).map(told).collect();
        Ok(json!({
            "step": "account",
            "person": user.called(),
            "email": user.email.as_ref().map(EmailAddress::as_str),
            "username": user.username.as_ref().map(Username::as_str),
            "groups": user.groups.as_slice(),
            "name": user.name,
            "has_password": user.password.is_some(),
            "has_mail": accounts.has_mail(),
            "rules": {"policy": rules.policy, "min": rules.min_length},
            "news": news,
            "typed": {"name": "", "email": ""},
            "sessions": sessions.iter().map(|session| json!({
                "id": session.id,
                "device": session.device.name,
                "place": session.device.place,
                "address": session.device.address,
                "used_at": session.last_used_at,
                "is_this": session.id == self.owner.session,
            })).collect::<Vec<_>>(),
            "connections": connections.iter().map(|one| shown(one, &providers)).collect::<Vec<_>>(),
            "providers": providers.iter().filter_map(|info| offered(info, &connections)).collect::<Vec<_>>(),
            "is_fresh": is_fresh,
            "stays_until": user.email_changes.undoable_until(accounts.now()),
            "sign_out_url": self.state.pages.url(PageName::SignOut),
        }))
    }
}

fn told(notice: &AccountNotice) -> Value {
    json!({
        "code": notice.kind.code(),
        "at": notice.at,
        "device": notice.device,
        "address": notice.address,
    })
}

/// What people call the provider of this name.
pub(super) fn title(name: &str, providers: &[ProviderInfo]) -> String {
    let known = providers.iter().find(|info| info.name == name);
    known.map_or_else(|| name.to_owned(), |info| info.display_name.clone())
}

/// A connection. Secret parameters are not among those of its record.
fn shown(one: &Connection, providers: &[ProviderInfo]) -> Value {
    let account = one.account.as_ref();
    let account = account.and_then(|account| account.email.as_ref().or(account.name.as_ref()));
    json!({
        "id": one.id,
        "name": one.provider,
        "title": title(&one.provider, providers),
        "account": account,
        "status": one.status.word(),
        "parameters": one.parameters.values().collect::<Vec<_>>(),
    })
}

/// What can be connected; `None` when it is already, and there is nothing by which another connection would differ.
fn offered(info: &ProviderInfo, connections: &[&Connection]) -> Option<Value> {
    let is_connected = connections.iter().any(|one| one.provider == info.name);
    if is_connected && info.parameters.is_empty() {
        return None;
    }
    let parameters = info.parameters.iter().map(|parameter| {
        json!({
            "name": parameter.name,
            "summary": parameter.summary,
            "pattern": parameter.pattern,
            "example": parameter.example,
            "required": parameter.required,
            "secret": parameter.secret,
        })
    });
    let parameters: Vec<Value> = parameters.collect();
    Some(json!({"name": info.name, "title": info.display_name, "parameters": parameters}))
}

fn of_store(error: ConnectionError) -> AccountError {
    match error {
        ConnectionError::Store(error) => error.into(),
        // Reading connections fails in no other way.
        _ => AccountError::NotFound("connection"),
    }
}
