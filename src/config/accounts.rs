//! `[accounts]`: how people come to their accounts.

use super::connections::{Webhook, webhook};
use super::file::Section;
use palisade_core::domain::account::{Registration, Verification};

/// `[accounts]`.
#[derive(Debug, Clone)]
pub struct Accounts {
    /// What a verification link needs beside its token.
    pub verification: Verification,
    /// Who may make an account; `None`: it is not written.
    pub registration: Option<Registration>,
    /// Where the app is told of accounts.
    pub webhook: Option<Webhook>,
}

impl Accounts {
    /// Who may make an account. Open is what an operator has to say: a session alone passes every route that requires
    /// nothing more.
    #[must_use]
    pub fn registration(&self) -> Registration {
        self.registration.unwrap_or(Registration::Invited)
    }
}

/// Reads the section.
pub(super) fn accounts(section: Section<'_>) -> Accounts {
    let words = [("link", Verification::Link), ("proof", Verification::Proof)];
    let verification = section.choice("verification", &words, Verification::Link);
    let words =
        [("open", Registration::Open), ("invited", Registration::Invited), ("closed", Registration::Closed)];
    let registration = section.get("registration").and_then(|item| item.choice(&words));
    let webhook = section.get("webhook").and_then(|item| webhook(item.section()?));
    let accounts = Accounts { verification, registration, webhook };
    section.close();
    accounts
}
