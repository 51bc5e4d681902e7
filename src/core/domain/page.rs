//! The pages for people: which there are.

/// A page, by the last part of its path below `pages/` of the native endpoints. That is the name of its template, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PageName {
    SignIn,
    Register,
    CheckMail,
    Verify,
    Forgot,
    Reset,
    /// Undoes a change of the address.
    Undo,
    /// Objects to such an undo.
    Object,
    Account,
    SignOut,
    Error,
    /// The notice inside a frame: it says nothing personal, has no form, and is the only page that may be framed.
    Framed,
}

impl PageName {
    pub const ALL: [PageName; 12] = [
        PageName::SignIn,
        PageName::Register,
        PageName::CheckMail,
        PageName::Verify,
        PageName::Forgot,
        PageName::Reset,
        PageName::Undo,
        PageName::Object,
        PageName::Account,
        PageName::SignOut,
        PageName::Error,
        PageName::Framed,
    ];

    /// As it stands in paths, in `[pages] urls`, and as the name of a template.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            PageName::SignIn => "sign-in",
            PageName::Register => "register",
            PageName::CheckMail => "check-mail",
            PageName::Verify => "verify",
            PageName::Forgot => "forgot",
            PageName::Reset => "reset",
            PageName::Undo => "undo",
            PageName::Object => "object",
            PageName::Account => "account",
            PageName::SignOut => "sign-out",
            PageName::Error => "error",
            PageName::Framed => "framed",
        }
    }
}
