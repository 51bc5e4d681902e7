//! The session of the browser: whose it is, and what becomes of it after a sign-in.

use axum::response::{IntoResponse, Response};

use super::super::super::reply::written;
use super::super::caller::Asked;
use super::super::hosts;
use super::super::page_forms::signed_in;
use super::super::session_cookies;
use super::super::state::AuthState;
use super::way::Way;
use super::{Owner, page_url, redirect};
use crate::edge::api::account_failure::log_store;
use palisade_core::domain::browser::CookiePlace;
use palisade_core::domain::page::PageName;
use palisade_core::domain::redirect::Redirect;
use palisade_core::domain::return_to::ReturnTarget;
use palisade_core::domain::sign_in_url::NOTICE;
use palisade_core::ports::CookieFault;
use palisade_core::service::browser::IssuedCookie;
use palisade_core::service::caller::Person;
use palisade_core::service::entry::{Entered, EntryCookie};
use palisade_core::service::sign_in::SignIn;

/// Who is signed in. For a page it is the same whether there is no session or one that cannot be read: it asks.
pub(super) async fn visitor(state: &AuthState, asked: &Asked) -> Option<Owner> {
    match signed_in(state, asked).await {
        Ok(owner) => owner,
        Err(CookieFault::Store(error)) => {
            log_store(&error);
            None
        }
        Err(_) => None,
    }
}

/// What a sign-in needs to know of the browser's cookies.
pub(super) struct Cookies {
    pub(super) place: CookiePlace,
    /// The cookie that the sign-in goes over.
    pub(super) over: Option<String>,
}

impl Cookies {
    pub(super) fn of(state: &AuthState, asked: &Asked) -> Cookies {
        Cookies { place: session_cookies::place(state), over: session_cookies::over(state, asked) }
    }

    pub(super) fn entry(&self, person: Option<Person>) -> EntryCookie<'_> {
        EntryCookie { place: &self.place, over: self.over.as_deref(), person }
    }
}

/// Sets the cookie of a session, and goes on to where the person was going; without such a place, to the account.
pub(super) async fn begun(
    state: &AuthState,
    asked: &Asked,
    person: Person,
    cookie: &IssuedCookie,
    way: &Way,
) -> Response {
    let mut response = go_on(state, person, way).await;
    let Some(session) = person.session else { return response };
    match session_cookies::begin(state, asked, &mut response, (person.user, session), cookie).await {
        Ok(()) => response,
        Err(failure) => failure.into_response(),
    }
}

/// On to where the person was going, for a browser that has a session.
pub(super) async fn go_on(state: &AuthState, person: Person, way: &Way) -> Response {
    match (&way.target, person.session) {
        (Some(target), Some(session)) => {
            let carry = way.carry.as_deref();
            match hosts::leave(state, person.user, session, target, carry).await {
                Ok(redirect) => written(&redirect.into(), String::new()),
                Err(failure) => failure.into_response(),
            }
        }
        _ => to_account(state),
    }
}

/// To the account, with the mark by which its page tells a browser that keeps no cookie from one that was never signed in.
fn to_account(state: &AuthState) -> Response {
    let url = state.pages.url(PageName::Account);
    match ReturnTarget::parse(&url, &state.browser) {
        Some(target) => {
            let to = state.carrier.mark(&target);
            written(&Redirect { code: "signed_in", to, cookies: Vec::new() }.into(), String::new())
        }
        // The operator's own page, elsewhere.
        None => redirect("signed_in", &url),
    }
}

/// What follows when a link was used up. `notice`: what the sign-in page says, where the person has to sign in.
pub(super) async fn entered(
    state: &AuthState,
    asked: &Asked,
    entered: Entered,
    (way, notice): (&Way, &str),
) -> Response {
    match entered {
        Entered::SignedIn(SignIn::Done(signed_in)) => {
            let person = Person { user: signed_in.user.id, session: Some(signed_in.session) };
            begun(state, asked, person, &signed_in.cookie, way).await
        }
        Entered::SignedIn(SignIn::Challenge(challenge)) => match challenge {},
        Entered::Renewed(person, cookie) => begun(state, asked, person, &cookie, way).await,
        Entered::SignInNeeded => {
            redirect("page", &page_url(state, PageName::SignIn, way, &[(NOTICE, notice)]))
        }
    }
}
