//! `[accounts]`: how people come to their accounts.

use super::file::Section;
use palisade_core::domain::account::Verification;

/// `[accounts]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accounts {
    /// What a verification link needs beside its token.
    pub verification: Verification,
}

/// Reads the section.
pub(super) fn accounts(section: Section<'_>) -> Accounts {
    let words = [("link", Verification::Link), ("proof", Verification::Proof)];
    let accounts = Accounts { verification: section.choice("verification", &words, Verification::Link) };
    section.close();
    accounts
}
