//! What the handlers of the admin API work with.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use palisade_core::domain::link::Purpose;
use palisade_core::ports::{Backups, Control};
use palisade_core::service::accounts::Accounts;
use palisade_core::service::clock::Timekeeping;
use palisade_core::service::connections::Connections;
use palisade_core::service::links::HandedLink;
use palisade_core::service::mint::Mint;
use palisade_core::service::revoke::Revoke;
use palisade_core::service::rotate::Rotate;
use palisade_core::service::storage::Storage;

/// Writes the metrics in the Prometheus text format.
pub type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

/// What the admin API works with.
#[derive(Clone)]
pub struct AdminState {
    /// What callers must present as a bearer token. With an empty one every caller is refused.
    pub credential: SecretString,
    pub storage: Storage,
    pub backups: Arc<dyn Backups>,
    pub revoke: Revoke,
    pub mint: Mint,
    pub rotate: Rotate,
    pub timekeeping: Timekeeping,
    pub accounts: Accounts,
    pub connections: Connections,
    pub control: Arc<dyn Control>,
    pub metrics: MetricsText,
    pub pages: LinkPages,
}

/// The pages that a link leads to which the operator hands over, where no mail is sent.
#[derive(Debug, Clone)]
pub struct LinkPages {
    /// `mail.verify_url`.
    pub verify: String,
    /// `mail.reset_url`.
    pub reset: String,
}

impl LinkPages {
    /// The whole link, with its token in the fragment.
    pub(super) fn url(&self, link: &HandedLink) -> String {
        let page = match link.purpose {
            Purpose::VerifyEmail | Purpose::ChangeEmail => &self.verify,
            // No other link is handed to an operator.
            Purpose::ResetPassword | Purpose::Invite | Purpose::UndoEmailChange | Purpose::ObjectToUndo => {
                &self.reset
            }
        };
        format!("{page}#token={}", link.token.expose_secret())
    }
}
