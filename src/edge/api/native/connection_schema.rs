//! What the endpoints about connections take and answer, as JSON. Times are seconds since 1970.
//!
//! Nothing here shows a sealed token; only [`Token`] holds one in the clear, for a caller that may have it.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::schema::{AccountView, FaultView};
use palisade_core::domain::connection::Connection;
use palisade_core::ports::{ParameterInfo, ProviderInfo};
use palisade_core::service::connections::{Begin, BegunConsent, Import, ProviderToken};

/// What can be connected.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"providers": [{
    "name": "shop", "display_name": "The Shop", "scopes": ["orders.read"],
    "parameters": [{"name": "shop", "summary": "The name of your shop", "pattern": "[a-z0-9-]+",
        "example": "my-shop", "required": true, "secret": false}],
    "docs": "https://shop.example.com/docs/oauth", "can_refresh": true, "can_revoke": true,
    "can_identify": false,
}]}))]
pub(super) struct ProviderList {
    pub(super) providers: Vec<ProviderView>,
}

/// A provider that can be connected.
#[derive(Serialize, ToSchema)]
pub(super) struct ProviderView {
    /// What `POST /connections` takes.
    name: String,
    /// What people call it.
    display_name: String,
    /// What is asked for unless the request names other scopes.
    scopes: Vec<String>,
    /// What the user gives when connecting.
    parameters: Vec<ParameterView>,
    /// Where the provider documents its side.
    #[schema(required)]
    docs: Option<String>,
    /// Whether access tokens are replaced when they end.
    can_refresh: bool,
    /// Whether ending a connection ends the grant at the provider, too.
    can_revoke: bool,
    /// Whether `account` of its connections says whose they are.
    can_identify: bool,
}

/// Something that the user gives when connecting.
#[derive(Serialize, ToSchema)]
pub(super) struct ParameterView {
    name: String,
    /// For the user.
    summary: String,
    /// A regular expression that the whole value must match.
    pattern: String,
    #[schema(required)]
    example: Option<String>,
    required: bool,
    /// Whether its value is a secret, which no answer repeats: show no more of it than of a password.
    secret: bool,
}

impl From<ProviderInfo> for ProviderView {
    fn from(info: ProviderInfo) -> ProviderView {
        ProviderView {
            name: info.name,
            display_name: info.display_name,
            scopes: info.scopes,
            parameters: info.parameters.into_iter().map(ParameterView::from).collect(),
            docs: info.docs,
            can_refresh: info.can_refresh,
            can_revoke: info.can_revoke,
            can_identify: info.can_identify,
        }
    }
}

impl From<ParameterInfo> for ParameterView {
    fn from(info: ParameterInfo) -> ParameterView {
        let ParameterInfo { name, summary, pattern, example, required, secret } = info;
        ParameterView { name, summary, pattern, example, required, secret }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"provider": "shop", "parameters": {"shop": "my-shop"},
    "return_to": "https://app.example.com/settings"}))]
pub(super) struct NewConnection {
    /// See `GET /providers`.
    provider: String,
    /// What to ask for, in place of what the provider's `scopes` say.
    scopes: Option<Vec<String>>,
    /// Where the browser goes afterwards: one of `connections.return_to` in the configuration, word for word.
    /// Without it, a page of the gateway's says how it went.
    return_to: Option<String>,
    /// What the provider's `parameters` ask for.
    #[serde(default)]
    parameters: BTreeMap<String, String>,
    /// Renew this connection.
    #[schema(value_type = Option<String>, format = "uuid")]
    connection: Option<Uuid>,
    /// Make a further connection though there is one to the same provider with the same parameters; else that
    /// one is renewed.
    #[serde(default)]
    another: bool,
}

impl From<NewConnection> for Begin {
    fn from(new: NewConnection) -> Begin {
        Begin {
            provider: new.provider,
            scopes: new.scopes,
            return_to: new.return_to,
            parameters: new.parameters,
            connection: new.connection.map(palisade_core::domain::connection::ConnectionId),
            another: new.another,
        }
    }
}

/// A connection that was begun.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"id": "019b1e25-4f6a-7d10-8e2b-6c9d1f3a5b7e", "status": "pending",
    "authorization_url": "https://shop.example.com/oauth/authorize?client_id=1&state=AQGb1sPK"}))]
pub(super) struct BegunConnection {
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    /// `pending`, or `active` when there was no consent to give, or when an active one is being renewed.
    status: &'static str,
    /// Where the browser that got this answer goes next; null when there is no consent to give.
    #[schema(required)]
    authorization_url: Option<String>,
}

impl From<&BegunConsent> for BegunConnection {
    fn from(begun: &BegunConsent) -> BegunConnection {
        BegunConnection {
            id: begun.connection.id.0,
            status: begun.connection.status.word(),
            authorization_url: begun.authorization_url.clone(),
        }
    }
}

/// A connection, as its owner sees it.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "id": "019b1e25-4f6a-7d10-8e2b-6c9d1f3a5b7e", "provider": "shop", "status": "active",
    "scopes_asked": ["orders.read"], "scopes_granted": ["orders.read"], "parameters": {"shop": "my-shop"},
    "account": {"subject": "42", "email": "ann@example.com", "email_verified": true, "name": "Ann"},
    "expires_at": 1800003600, "refresh_expires_at": null, "created_at": 1799990000,
    "connected_at": 1799990060, "refreshed_at": 1800000000, "failures": 0, "last_fault": null,
    "notes": [], "retry_at": null, "refreshable": true, "consent_expires_at": null,
}))]
pub(super) struct ConnectionView {
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    provider: String,
    /// `pending`, `active`, `reconnect_needed` or `revoked`.
    status: &'static str,
    scopes_asked: Vec<String>,
    scopes_granted: Vec<String>,
    /// What the user gave when connecting, secrets left out.
    parameters: BTreeMap<String, String>,
    /// Whose account at the provider it is, where the provider says.
    #[schema(required)]
    account: Option<AccountView>,
    /// When the access token ends, where that is known.
    #[schema(required)]
    expires_at: Option<u64>,
    /// When the refresh token ends, where that is known: the user must connect again before.
    #[schema(required)]
    refresh_expires_at: Option<u64>,
    created_at: u64,
    /// When consent was last given.
    #[schema(required)]
    connected_at: Option<u64>,
    /// When tokens last came.
    #[schema(required)]
    refreshed_at: Option<u64>,
    /// Refreshes that failed in a row.
    failures: u32,
    #[schema(required)]
    last_fault: Option<FaultView>,
    /// What was odd in the answer that brought the tokens and was dropped or cut, a sentence each. The tokens are
    /// good all the same.
    notes: Vec<String>,
    /// After a failure: not tried again before.
    #[schema(required)]
    retry_at: Option<u64>,
    /// Whether the access token can be replaced ahead of its end, as far as is known. If not, the user must connect
    /// again once it has ended.
    refreshable: bool,
    /// While a consent is being given, for the first time or again: until when.
    #[schema(required)]
    consent_expires_at: Option<u64>,
}

impl From<&Connection> for ConnectionView {
    fn from(connection: &Connection) -> ConnectionView {
        ConnectionView {
            id: connection.id.0,
            provider: connection.provider.clone(),
            status: connection.status.word(),
            scopes_asked: connection.scopes_asked.clone(),
            scopes_granted: connection.scopes_granted.clone(),
            parameters: connection.parameters.clone(),
            account: connection.account.as_ref().map(AccountView::from),
            expires_at: connection.expires_at.map(|at| at.0),
            refresh_expires_at: connection.refresh_expires_at.map(|at| at.0),
            created_at: connection.created_at.0,
            connected_at: connection.connected_at.map(|at| at.0),
            refreshed_at: connection.refreshed_at.map(|at| at.0),
            failures: connection.failures,
            last_fault: connection.last_fault.as_ref().map(FaultView::from),
            notes: connection.notes.clone(),
            retry_at: connection.retry_at.map(|at| at.0),
            refreshable: !connection.not_refreshable,
            consent_expires_at: connection.consent.as_ref().map(|consent| consent.expires_at.0),
        }
    }
}

/// The connections of an account, oldest first.
#[derive(Serialize, ToSchema)]
pub(super) struct ConnectionList {
    pub(super) connections: Vec<ConnectionView>,
}

/// An access token of the provider.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"access_token": "ya29.a0AfB_byC", "token_type": "Bearer", "expires_at": 1800003600,
    "scopes": ["orders.read"]}))]
pub(super) struct Token {
    access_token: String,
    token_type: String,
    /// When it ends, where that is known.
    #[schema(required)]
    expires_at: Option<u64>,
    scopes: Vec<String>,
}

impl From<&ProviderToken> for Token {
    fn from(token: &ProviderToken) -> Token {
        Token {
            access_token: token.access_token.expose_secret().to_owned(),
            token_type: token.token_type.clone(),
            expires_at: token.expires_at.map(|at| at.0),
            scopes: token.scopes.clone(),
        }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"access_token": "ya29.a0AfB_byC", "refresh_token": "1//0gdr", "expires_in": 3600,
    "scopes": ["orders.read"]}))]
pub(super) struct ImportedTokens {
    #[schema(value_type = String, format = Password)]
    access_token: SecretString,
    #[schema(value_type = Option<String>, format = Password)]
    refresh_token: Option<SecretString>,
    /// Seconds until the access token ends.
    expires_in: Option<u64>,
    /// Seconds until the refresh token ends.
    refresh_expires_in: Option<u64>,
    /// What was granted; else what the connection asked for.
    scopes: Option<Vec<String>>,
    /// What the provider's component would have kept of the answer that brought the tokens.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    kept: BTreeMap<String, SecretString>,
}

impl From<ImportedTokens> for Import {
    fn from(tokens: ImportedTokens) -> Import {
        let seconds = std::time::Duration::from_secs;
        Import {
            access_token: tokens.access_token,
            refresh_token: tokens.refresh_token,
            expires_in: tokens.expires_in.map(seconds),
            refresh_expires_in: tokens.refresh_expires_in.map(seconds),
            scopes: tokens.scopes,
            kept: tokens.kept,
        }
    }
}
