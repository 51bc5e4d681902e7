//! The page that the link of a verification opens.
//!
//! Nothing happens before its button is pressed: programs that look at mail open links, and some of them run scripts.
//! The link shows whose the mailbox is; that the password is theirs, too, is shown by the browser that registered, or by
//! typing it. Or it is replaced.

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::super::caller::Asked;
use super::super::link_browser;
use super::super::registration;
use super::super::state::{AuthState, SharedAuthState};
use super::AtHome;
use super::Form;
use super::Owner;
use super::Told;
use super::session::{Cookies, entered, visitor};
use super::way::{LETTER, Letter, Way};
use super::{page_url, return_host, rules, shown};
use palisade_core::domain::link::Purpose;
use palisade_core::domain::page::PageName;
use palisade_core::service::accounts::{AccountError, Ways};
use palisade_core::service::opened_link::OpenedLink;
use palisade_core::service::used_links::LinkTurn;
use palisade_core::service::verify_email::VERIFYING;
use palisade_core::service::verify_registration::Proof;

const PAGE: PageName = PageName::Verify;

pub(super) async fn show(State(state): SharedAuthState, _: AtHome, asked: Asked) -> Response {
    let page = shown(&state, &asked.headers, PAGE, json!({"step": "link"}));
    link_browser::marked(&state, &asked.headers, page)
}

/// Uses the link, asks for what it needs beside its token, or says what is wrong with it.
pub(super) async fn submit(State(state): SharedAuthState, asked: Asked, form: Form) -> Response {
    if let Some(missing) = Told::missing(&form, &["token"]) {
        return super::told(&state, &asked.headers, PAGE, json!({"step": "link"}), missing);
    }
    let token = form.text("token");
    let turn = state.accounts.link_turn(token).await;
    let link = Link { page: PAGE, letter: Letter::Verify, token, turn: &turn };
    let opened = match state.accounts.open_link(&asked.client, token, &VERIFYING).await {
        Ok(opened) => opened,
        Err(error) => return not_opened(&state, &asked, link, error).await,
    };
    let way = Way::of_link(opened.return_to.as_deref(), &state);
    let page = LinkPage { state: &state, asked: &asked, token, opened: &opened, way: &way };
    if form.has("choose") && opened.purpose == Purpose::VerifyEmail {
        return page.asking("new_password", true, None);
    }
    let visitor = visitor(&state, &asked).await;
    let proof = Proof {
        password: form.has("password").then(|| form.password("password")),
        new_password: form.has("new_password").then(|| form.password("new_password")),
        browser: state
            .accounts
            .read_binding(registration::cookie_of(&state, &asked.headers).unwrap_or_default()),
        wanted: true,
        person: visitor.as_ref().map(|visitor| visitor.person),
    };
    let (step, field) = match (form.has("new_password"), form.has("password")) {
        (true, _) => ("new_password", "new_password"),
        (_, true) => ("password", "password"),
        // The button below an empty field was pressed.
        _ if form.has("step") => match form.text("step") {
            "new_password" => {
                return page.asking("new_password", true, Told::missing(&form, &["new_password"]));
            }
            _ => return page.asking("password", true, Told::missing(&form, &["password"])),
        },
        _ => ("link", "password"),
    };
    match page.use_up(proof, visitor.as_ref()).await {
        Ok(response) => {
            let browser = link_browser::mark_of(&state, &asked.headers);
            state.accounts.link_used(&turn, opened.purpose, Some(opened.user), browser).await;
            response
        }
        Err(AccountError::ProofNeeded(ways)) => match ways {
            Ways::Password => page.asking("password", true, None),
            Ways::NewPassword => page.asking("new_password", false, None),
            Ways::Account => page.asking("account", false, None),
        },
        Err(error @ AccountError::InvalidLink) => not_opened(&state, &asked, link, error).await,
        Err(error) => page.asking(page.step(step), true, Some(Told::of(error, field))),
    }
}

/// The page with a link that is good.
struct LinkPage<'a> {
    state: &'a AuthState,
    asked: &'a Asked,
    token: &'a str,
    opened: &'a OpenedLink,
    way: &'a Way,
}

impl LinkPage<'_> {
    /// Uses the link up and goes on: signed in, where the proof is one of the account's own password.
    async fn use_up(&self, proof: Proof, visitor: Option<&Owner>) -> Result<Response, AccountError> {
        let LinkPage { state, asked, opened, way, .. } = self;
        if !state.browser.enabled {
            let proof = Proof { wanted: true, ..proof };
            state.accounts.verify_opened(&asked.client, opened, proof).await?;
            return Ok(shown(state, &asked.headers, PAGE, json!({"step": "done"})));
        }
        let cookies = Cookies::of(state, asked);
        let cookie = cookies.entry(visitor.map(|visitor| visitor.person));
        let outcome = state.accounts.verify_and_enter(&asked.client, opened, proof, cookie).await?;
        Ok(entered(state, asked, outcome, (way, "verified")).await)
    }

    /// What the form asks for when something is wrong with what was sent.
    fn step(&self, step: &'static str) -> &'static str {
        match (step, self.opened.purpose) {
            ("password", Purpose::ChangeEmail) => "account",
            (step, _) => step,
        }
    }

    /// The form that asks for `step`. `may_choose`: whether a new password would do instead.
    fn asking(&self, step: &str, may_choose: bool, told: Option<Told>) -> Response {
        let facts = json!({
            "step": step,
            "may_choose": may_choose && self.opened.purpose == Purpose::VerifyEmail,
            "token": self.token,
            "email": self.opened.login_name(),
            "rules": rules(self.state),
            "return_host": return_host(self.state, self.way),
        });
        match told {
            Some(told) => super::told(self.state, &self.asked.headers, PAGE, facts, told),
            None => shown(self.state, &self.asked.headers, PAGE, facts),
        }
    }
}

/// A link that was pressed, and the page that it opens.
#[derive(Clone, Copy)]
pub(super) struct Link<'a> {
    pub(super) page: PageName,
    pub(super) letter: Letter,
    pub(super) token: &'a str,
    pub(super) turn: &'a LinkTurn,
}

/// The page of a link that did not open: what is wrong with it, and how to get another one; or, to the person who used
/// it, that it is done. One that may open with the next try stays in the form.
pub(super) async fn not_opened(
    state: &AuthState,
    asked: &Asked,
    link: Link<'_>,
    error: AccountError,
) -> Response {
    let Link { page, letter, token, turn } = link;
    let has_pages = state.browser.enabled;
    let is_over = matches!(error, AccountError::InvalidLink);
    if is_over {
        let visitor = visitor(state, asked).await;
        let go_on = has_pages.then(|| page_url(state, PageName::SignIn, &Way::default(), &[]));
        let done = link_browser::already_done(state, asked, page, turn, visitor.as_ref(), go_on).await;
        if let Some(done) = done {
            return done;
        }
    }
    let (way, letter) = (Way::default(), [(LETTER, letter.name())]);
    let facts = json!({
        "step": if is_over { "over" } else { "link" },
        "token": if is_over { Value::Null } else { json!(token) },
        "again_url": has_pages.then(|| page_url(state, PageName::CheckMail, &way, &letter)),
        "sign_in_url": has_pages.then(|| page_url(state, PageName::SignIn, &way, &[])),
        "has_mail": state.accounts.has_mail(),
    });
    super::told(state, &asked.headers, page, facts, Told::of(error, "password"))
}
