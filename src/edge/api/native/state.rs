//! What the handlers of the native endpoints work with.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use super::super::failure::Failure;
use palisade_core::domain::browser::BrowserSettings;
use palisade_core::domain::cors::Cors;
use palisade_core::ports::PageRenderer;
use palisade_core::service::accounts::Accounts;
use palisade_core::service::admit::Authenticator;
use palisade_core::service::carry::SessionCarrier;
use palisade_core::service::connections::Connections;

/// What the native endpoints work with.
pub struct AuthState {
    pub accounts: Accounts,
    pub connections: Connections,
    /// What the request path decides by at this moment: a reload may replace it.
    pub authenticator: Arc<dyn Fn() -> Authenticator + Send + Sync>,
    /// The issuer our tokens carry.
    pub issuer: String,
    /// The path that the endpoints are below, without a trailing slash.
    pub prefix: String,
    /// The origin people see, without a trailing slash.
    pub public_url: String,
    /// The pages for people.
    pub pages: Arc<dyn PageRenderer>,
    /// Whose pages may call the endpoints from a browser.
    pub cors: Cors,
    /// Sessions in cookies.
    pub browser: BrowserSettings,
    /// The same as it is at this moment: a reload may bring other hosts.
    pub hosts: Arc<dyn Fn() -> Arc<BrowserSettings> + Send + Sync>,
    /// Carries sessions to other hosts.
    pub carrier: Arc<SessionCarrier>,
}

impl AuthState {
    /// Whether browsers reach the endpoints over TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.public_url.starts_with("https:")
    }
}

pub(super) type SharedAuthState = State<Arc<AuthState>>;
pub(super) type Answered = Result<Response, Failure>;
