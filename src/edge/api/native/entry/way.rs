//! What the address of a page says: where the person is going, and why the page is shown.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::super::state::AuthState;
use palisade_core::domain::return_to::ReturnTarget;
use palisade_core::domain::sign_in_url::{CARRY, LOGIN, NOTICE, PROMPT, RETURN_TO, SignInUrl};
use palisade_core::domain::time::UnixTime;

/// What may have led to a page. Any other word in an address says nothing.
const NOTICES: [&str; 6] = ["sent", "unsent", "signed_out", "ended", "verified", "password_set"];
/// The longest parameter that names the nonce and host of a carry.
const MAX_CARRY: usize = 1024;
/// How many parameters are looked at.
const MAX_PARAMETERS: usize = 16;
/// The letter that [`Way::letter`] says.
pub(super) const LETTER: &str = "letter";

/// When the wait for a letter began, in seconds since 1970 (UTC).
pub(super) const SINCE: &str = "since";

/// What an address says. Every value may be an attacker's: only what is allowed is kept.
#[derive(Debug, Default)]
pub(super) struct Way {
    pub(super) target: Option<ReturnTarget>,
    /// Names the nonce and the host that a session is to be carried to; taken along as it is.
    pub(super) carry: Option<String>,
    /// Why the page is shown.
    pub(super) notice: Option<&'static str>,
    /// To sign in as another account: the form is shown although there is a session.
    pub(super) switch: bool,
    /// Which letter the person waits for.
    pub(super) letter: Letter,
    /// Since when.
    pub(super) since: Option<UnixTime>,
}

/// A letter that a person waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Letter {
    /// The one that verifies an address.
    #[default]
    Verify,
    /// The one that sets a new password.
    Reset,
}

impl Letter {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Letter::Verify => "verify",
            Letter::Reset => "reset",
        }
    }
}

impl Way {
    fn read(query: &str, state: &AuthState) -> Way {
        let (mut way, mut targets) = (Way::default(), 0);
        for (name, value) in form_urlencoded::parse(query.as_bytes()).take(MAX_PARAMETERS) {
            match &*name {
                RETURN_TO => {
                    targets += 1;
                    // Of several, readers could differ in which one counts.
                    way.target =
                        (targets == 1).then(|| ReturnTarget::parse(&value, &state.browser)).flatten();
                }
                CARRY if value.len() <= MAX_CARRY => way.carry = Some(value.into_owned()),
                NOTICE => way.notice = NOTICES.into_iter().find(|notice| **notice == *value),
                PROMPT => way.switch = value == LOGIN,
                SINCE => way.since = value.parse().ok().map(UnixTime),
                LETTER if value == Letter::Reset.name() => way.letter = Letter::Reset,
                _ => {}
            }
        }
        way
    }

    /// The way of a link that leads to this target; nothing of what its record says is taken on trust.
    pub(super) fn of_link(return_to: Option<&str>, state: &AuthState) -> Way {
        let target = return_to.and_then(|target| ReturnTarget::parse(target, &state.browser));
        Way { target, ..Way::default() }
    }

    /// The address of `page` with the place to return to.
    pub(super) fn url(&self, page: &str, more: &[(&str, &str)]) -> String {
        let mut url = SignInUrl::of(page);
        if let Some(target) = &self.target {
            url = url.with(RETURN_TO, target.as_str());
        }
        if let Some(carry) = &self.carry {
            url = url.with(CARRY, carry);
        }
        more.iter().fold(url, |url, (name, value)| url.with(name, value)).into_string()
    }

    /// The place to return to, as a link's record keeps it.
    pub(super) fn kept(&self) -> Option<String> {
        self.target.as_ref().map(|target| target.as_str().to_owned())
    }
}

impl FromRequestParts<Arc<AuthState>> for Way {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<AuthState>) -> Result<Way, Infallible> {
        Ok(Way::read(parts.uri.query().unwrap_or_default(), state))
    }
}
