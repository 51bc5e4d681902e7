//! What both interfaces answer alike, as the descriptions show it.

use serde::Serialize;
use utoipa::ToSchema;

use super::connection_failure::word;
use palisade_core::domain::connection::{Account, ProviderFailure};

/// What went wrong (RFC 9457). `code` is stable, `title` and `detail` are for people.
#[derive(ToSchema)]
#[allow(dead_code, reason = "read by the description only")]
pub(super) struct Problem {
    /// Always `about:blank`.
    r#type: String,
    status: u16,
    title: String,
    detail: String,
    code: String,
    /// Of `password_rejected`: the rules that the password breaks.
    violations: Option<Vec<BrokenRule>>,
    /// Of `account_locked`: when the lock ends.
    until: Option<u64>,
    /// Of `proof_needed`: what does beside the token: members of the body, or `access_token` in `Authorization`.
    ways: Option<Vec<String>>,
    /// Of `provider_failed`: `misconfigured`, `provider_error` or `plugin_failed`.
    kind: Option<String>,
    /// Where a person signs in: the whole URL of a page.
    sign_in: Option<String>,
}

/// A rule that a password breaks.
#[derive(ToSchema)]
#[allow(dead_code, reason = "read by the description only")]
pub(super) struct BrokenRule {
    /// `too_short`, `too_long`, `no_uppercase`, `no_lowercase`, `no_digit`, `no_special`, `too_common`,
    /// `contains_identity` or `contains_nul`.
    rule: String,
    /// For people.
    text: String,
}

/// An account at a provider.
#[derive(Serialize, ToSchema)]
pub(super) struct AccountView {
    /// The provider's own identifier; never reassigned.
    subject: String,
    #[schema(required)]
    email: Option<String>,
    /// Whether the provider says that the address is this person's.
    email_verified: bool,
    #[schema(required)]
    name: Option<String>,
}

impl From<&Account> for AccountView {
    fn from(account: &Account) -> AccountView {
        let Account { subject, email, email_verified, name } = account.clone();
        AccountView { subject, email, email_verified, name }
    }
}

/// How the last call to the provider failed.
#[derive(Serialize, ToSchema)]
pub(super) struct FaultView {
    at: u64,
    /// `invalid_grant`, `transient`, `misconfigured`, `provider_error` or `plugin_failed`.
    kind: &'static str,
    /// For people.
    reason: String,
}

impl From<&ProviderFailure> for FaultView {
    fn from(fault: &ProviderFailure) -> FaultView {
        FaultView { at: fault.at.0, kind: word(fault.kind), reason: fault.reason.clone() }
    }
}
