//! Why a call did not bring what it was for. The texts are for operators: no token, no code in them.

use std::fmt;

use crate::http::SendError;

/// What each of them makes Palisade do is part of the interface; see the WIT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The grant is gone (`invalid_grant`, RFC 6749 §5.2): the user must connect again.
    InvalidGrant(String),
    /// The provider cannot answer now, and may do so later.
    Transient {
        /// What happened.
        message: String,
        /// Seconds that the provider asked to wait (`Retry-After`).
        retry_after: Option<u64>,
    },
    /// Nothing will get better until the operator changes the configuration.
    Misconfigured(String),
    /// The provider's answer makes no sense, or says no for another reason.
    ProviderError(String),
}

impl Failure {
    /// [`Failure::InvalidGrant`].
    pub fn invalid_grant(message: impl Into<String>) -> Self {
        Self::InvalidGrant(message.into())
    }

    /// [`Failure::Transient`], without a time to wait.
    pub fn transient(message: impl Into<String>) -> Self {
        Self::Transient { message: message.into(), retry_after: None }
    }

    /// [`Failure::Misconfigured`].
    pub fn misconfigured(message: impl Into<String>) -> Self {
        Self::Misconfigured(message.into())
    }

    /// [`Failure::ProviderError`].
    pub fn provider_error(message: impl Into<String>) -> Self {
        Self::ProviderError(message.into())
    }

    /// What happened.
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::InvalidGrant(message) | Self::Misconfigured(message) | Self::ProviderError(message) => message,
            Self::Transient { message, .. } => message,
        }
    }

    /// The name of its case in the WIT: `invalid-grant`, `transient`, `misconfigured`, `provider-error`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InvalidGrant(_) => "invalid-grant",
            Self::Transient { .. } => "transient",
            Self::Misconfigured(_) => "misconfigured",
            Self::ProviderError(_) => "provider-error",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind(), self.message())
    }
}

impl std::error::Error for Failure {}

/// What docs/oauth2.md says about answers that did not come.
impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Denied(why) => Self::Misconfigured(format!("the request was not made: {why}")),
            SendError::Timeout => Self::transient("the provider did not answer in time"),
            SendError::Unreachable(why) => Self::transient(format!("the provider cannot be reached: {why}")),
            SendError::TooLarge => Self::provider_error("the provider's answer is larger than allowed"),
        }
    }
}
