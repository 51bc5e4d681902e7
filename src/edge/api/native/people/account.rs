//! One's own account: name, address, password, sessions, connections, and its end.
//!
//! Each form of the page posts to the page and says which it is (`form`). After success the answer is a redirect with a
//! word for what was done, otherwise the page with what is wrong beside the form.

mod connect;
mod facts;

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use axum::routing::get;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::super::super::failure::method_not_allowed;
use super::super::caller::Asked;
use super::super::session_cookies;
use super::super::state::{AuthState, SharedAuthState};
use super::Form;
use super::Told;
use super::own::{failed, forgotten, is_from_us, owner, to_sign_in, turned};
use super::sign_out;
use super::{Owner, url};
use super::{answer, redirect};
use palisade_core::domain::native_hosts::CHANGE_PASSWORD;
use palisade_core::domain::page::PageName;
use palisade_core::domain::sign_in_url::{NOTICE, SignInUrl, UNSENT};
use palisade_core::service::accounts::AccountError;
use palisade_core::service::profile::Edit;
use palisade_core::service::sessions::Which;

const PAGE: PageName = PageName::Account;
/// What may have been done, as the page's address says it. Any other word says nothing.
const DONE: [&str; 7] = ["name", "email", "password", "session", "sessions", "connected", "disconnected"];
/// How many parameters of an address are looked at.
const MAX_PARAMETERS: usize = 16;

pub(super) fn router() -> Router<Arc<AuthState>> {
    Router::new().route("/pages/account", get(show).post(submit))
}

/// The address of it that password managers know.
pub(super) fn well_known() -> Router<Arc<AuthState>> {
    Router::new().route(CHANGE_PASSWORD, get(change_password)).method_not_allowed_fallback(method_not_allowed)
}

async fn change_password(State(state): SharedAuthState) -> Response {
    let to = match state.pages.own_url(PAGE) {
        Some(own) => own.to_owned(),
        None => format!("{}#change-password", url(&state, PAGE)),
    };
    redirect("change_password", &to)
}

/// The page of one request.
struct AccountPage<'a> {
    state: &'a AuthState,
    asked: &'a Asked,
    owner: Owner,
}

/// What is wrong with a form.
struct Wrong {
    /// Which form.
    form: &'static str,
    told: Told,
}

impl Wrong {
    fn new(form: &'static str, told: Told) -> Wrong {
        Wrong { form, told }
    }

    /// About one input.
    fn at(form: &'static str, field: &str, code: &'static str) -> Wrong {
        let errors = json!([{"field": field, "code": code}]);
        Wrong { form, told: Told { status: 422, code, errors, retry_after: None } }
    }
}

async fn show(State(state): SharedAuthState, asked: Asked, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let owner = match owner(&state, &asked).await {
        Err(page) => return page,
        Ok(owner) => owner,
    };
    if let Some(turned) = turned(&state, &asked, PAGE, &query, owner.is_some()) {
        return turned;
    }
    let Some(owner) = owner else { return to_sign_in(&state, PAGE, None) };
    let page = AccountPage { state: &state, asked: &asked, owner };
    page.used();
    let (mut notice, mut connection, mut is_refused) = (None, None, false);
    for (name, value) in form_urlencoded::parse(query.as_bytes()).take(MAX_PARAMETERS) {
        match &*name {
            NOTICE if is_from_us(&asked.headers) => {
                notice = DONE.into_iter().find(|known| **known == *value);
            }
            // The browser comes back from a provider.
            "connection" => connection = value.parse().ok(),
            "error" => is_refused = true,
            _ => {}
        }
    }
    if let Some(connection) = connection {
        notice = page.came_back(connection, is_refused).await;
    }
    page.answer(notice, None, &Value::Null).await
}

async fn submit(State(state): SharedAuthState, asked: Asked, form: Form) -> Response {
    let owner = match owner(&state, &asked).await {
        Err(page) => return page,
        // What was typed is not kept: the person who signs in may be another one.
        Ok(None) => return to_sign_in(&state, PAGE, Some(UNSENT)),
        Ok(Some(owner)) => owner,
    };
    let page = AccountPage { state: &state, asked: &asked, owner };
    page.used();
    let done = match form.text("form") {
        "name" => page.change_name(&form).await,
        "email" => page.change_email(&form).await,
        "password" => page.change_password(&form).await,
        "session" => page.end_session(&form).await,
        "sessions" => page.end_others().await,
        "connect" => page.connect(&form).await,
        "disconnect" => page.disconnect(&form).await,
        "delete" => page.delete(&form).await,
        _ => Ok(page.done(None)),
    };
    match done {
        Ok(response) => response,
        Err(wrong) => {
            let typed = json!({"name": form.again("name"), "email": form.again("email")});
            page.answer(None, Some(wrong), &typed).await
        }
    }
}

impl AccountPage<'_> {
    /// Looking at the page is a use of the session.
    fn used(&self) {
        let accounts = &self.state.accounts;
        accounts.used(self.owner.person.user, self.owner.session, accounts.now());
    }

    /// The page itself.
    async fn answer(&self, notice: Option<&str>, wrong: Option<Wrong>, typed: &Value) -> Response {
        let headers = &self.asked.headers;
        let mut facts = match self.facts().await {
            Ok(facts) => facts,
            // The account is gone or disabled, and with it the session.
            Err(AccountError::NoAccount | AccountError::Disabled) => {
                return to_sign_in(self.state, PAGE, None);
            }
            Err(error) => return failed(self.state, headers, error.into()),
        };
        facts["notice"] = json!(notice);
        if !typed.is_null() {
            facts["typed"] = typed.clone();
        }
        match wrong {
            None => answer(self.state, headers, PAGE, 200, "page", &facts),
            Some(Wrong { form, told }) => {
                facts["form"] = json!(form);
                super::told(self.state, headers, PAGE, facts, told)
            }
        }
    }

    /// Back to the page, which says what was done.
    fn done(&self, word: Option<&'static str>) -> Response {
        let url = SignInUrl::of(&url(self.state, PAGE));
        let url = word.into_iter().fold(url, |url, word| url.with(NOTICE, word));
        redirect(word.unwrap_or("page"), &url.into_string())
    }

    async fn change_name(&self, form: &Form) -> Result<Response, Wrong> {
        let edit = Edit { name: Some(form.text("name").to_owned()), ..Edit::default() };
        let edited = self.state.accounts.edit_profile(&self.asked.client, self.owner.person, edit).await;
        edited.map_err(|error| Wrong::new("name", Told::of(error, "name")))?;
        Ok(self.done(Some("name")))
    }

    /// Asks for another address. The answer does not tell whether it has an account.
    async fn change_email(&self, form: &Form) -> Result<Response, Wrong> {
        if let Some(missing) = Told::missing(form, &["email", "email_password"]) {
            return Err(Wrong::new("email", missing));
        }
        let edit = Edit {
            email: Some(form.text("email").to_owned()),
            current_password: Some(form.password("email_password")),
            ..Edit::default()
        };
        let edited = self.state.accounts.edit_profile(&self.asked.client, self.owner.person, edit).await;
        let edited = edited.map_err(|error| Wrong::new("email", Told::of(error, "email_password")))?;
        Ok(self.done(edited.pending_email.map(|_| "email")))
    }

    async fn change_password(&self, form: &Form) -> Result<Response, Wrong> {
        const FORM: &str = "password";
        if let Some(missing) = Told::missing(form, &["current_password", "new_password"]) {
            return Err(Wrong::new(FORM, missing));
        }
        let (current, new) = (form.password("current_password"), form.password("new_password"));
        let (person, place) = (self.owner.person, session_cookies::place(self.state));
        let accounts = &self.state.accounts;
        let changed =
            accounts.change_password_in_browser(&self.asked.client, person, current, new, &place).await;
        let changed = changed.map_err(|error| {
            let is_current = matches!(error, AccountError::WrongPassword);
            Wrong::new(FORM, Told::of(error, if is_current { "current_password" } else { "new_password" }))
        })?;
        // The session was ended meanwhile: the password is changed all the same.
        let Some((session, cookie)) = changed else {
            return Ok(forgotten(self.state, to_sign_in(self.state, PAGE, Some("password_set"))));
        };
        let mut response = self.done(Some("password"));
        let of = (person.user, session);
        match session_cookies::set(self.state, &self.asked.headers, &mut response, of, &cookie).await {
            Ok(()) => Ok(response),
            Err(failure) => Ok(failed(self.state, &self.asked.headers, failure)),
        }
    }

    /// Ends one session; this one is ended by signing out.
    async fn end_session(&self, form: &Form) -> Result<Response, Wrong> {
        let Ok(id) = form.text("session").parse() else { return Ok(self.done(None)) };
        if id == self.owner.session {
            return Ok(sign_out::signed_out(self.state, self.asked, &self.owner, None).await);
        }
        let ended = self.state.accounts.end_sessions(&self.asked.client, self.owner.person, Which::One(id));
        match ended.await {
            // It has ended by itself meanwhile.
            Ok(()) | Err(AccountError::NotFound(_)) => Ok(self.done(Some("session"))),
            Err(error) => Err(Wrong::new("sessions", Told::of(error, ""))),
        }
    }

    async fn end_others(&self) -> Result<Response, Wrong> {
        let ended = self.state.accounts.end_sessions(&self.asked.client, self.owner.person, Which::Others);
        ended.await.map_err(|error| Wrong::new("sessions", Told::of(error, "")))?;
        Ok(self.done(Some("sessions")))
    }

    /// Deletes the account. It takes a tick beside the password or the fresh sign-in, so that no slip of a finger does it.
    async fn delete(&self, form: &Form) -> Result<Response, Wrong> {
        const FORM: &str = "delete";
        if !form.has("delete_confirmed") {
            return Err(Wrong::at(FORM, "delete_confirmed", "not_confirmed"));
        }
        let password = form.password("delete_password");
        let password = (!password.expose_secret().is_empty()).then_some(password);
        let (client, person) = (&self.asked.client, self.owner.person);
        match self.state.accounts.delete_account(client, person, password).await {
            Ok(()) => {
                let response = redirect("deleted", &sign_out::address_of_deleted(self.state));
                Ok(forgotten(self.state, response))
            }
            Err(error) => {
                let missing = match error {
                    AccountError::FreshSignInNeeded => Told::missing(form, &["delete_password"]),
                    _ => None,
                };
                // An account without a password has no such field.
                let has_password = match missing {
                    Some(_) => {
                        self.state.accounts.profile(person).await.is_ok_and(|user| user.password.is_some())
                    }
                    None => false,
                };
                let told = missing.filter(|_| has_password);
                Err(Wrong::new(FORM, told.unwrap_or_else(|| Told::of(error, "delete_password"))))
            }
        }
    }
}
