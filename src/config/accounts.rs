//! `[accounts]`: how people come to their accounts.

use super::file::Section;
use palisade_core::domain::account::{Registration, Verification};

/// `[accounts]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accounts {
    /// What a verification link needs beside its token.
    pub verification: Verification,
    /// Who may make an account.
    pub registration: Registration,
}

/// Reads the section.
pub(super) fn accounts(section: Section<'_>) -> Accounts {
    let words = [("link", Verification::Link), ("proof", Verification::Proof)];
    let verification = section.choice("verification", &words, Verification::Link);
    let words =
        [("open", Registration::Open), ("invited", Registration::Invited), ("closed", Registration::Closed)];
    // Open is what an operator has to say: a session alone passes every route that requires nothing more.
    let registration = section.choice("registration", &words, Registration::Invited);
    let accounts = Accounts { verification, registration };
    section.close();
    accounts
}
