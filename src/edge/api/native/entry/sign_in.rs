//! Signing in with an address and a password.

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::super::caller::Asked;
use super::super::state::{AuthState, SharedAuthState};
use super::AtHome;
use super::Form;
use super::Owner;
use super::Told;
use super::session::{Cookies, begun, go_on, visitor};
use super::way::Way;
use super::{may_register, page_url, return_host, shown};
use palisade_core::domain::page::PageName;
use palisade_core::domain::sign_in_url::UNSENT;
use palisade_core::service::caller::Person;
use palisade_core::service::sign_in::SignIn;

const PAGE: PageName = PageName::SignIn;

/// The form; or, for a browser with a session, the place to return to at once. Not right after a sign-out, not when
/// another account is to be signed in to, and not after a form was lost: another tab may have signed in meanwhile, and the
/// person has to read that the form was not sent.
pub(super) async fn show(State(state): SharedAuthState, _: AtHome, way: Way, asked: Asked) -> Response {
    let visitor = visitor(&state, &asked).await;
    if let Some(visitor) = &visitor
        && way.target.is_some()
        && !way.switch
        && !matches!(way.notice, Some("signed_out" | UNSENT))
    {
        return go_on(&state, visitor.person, &way).await;
    }
    shown(&state, &asked.headers, PAGE, facts(&state, &way, visitor.as_ref()))
}

/// Signs in. An unknown address is answered as a wrong password is, in the same time.
pub(super) async fn submit(State(state): SharedAuthState, way: Way, asked: Asked, form: Form) -> Response {
    let again = |told: Told| {
        let mut facts = facts(&state, &way, None);
        facts["email"] = json!(form.again("email"));
        facts["remember"] = json!(form.has("remember"));
        // What led here was said when the page was opened.
        facts["notice"] = Value::Null;
        super::told(&state, &asked.headers, PAGE, facts, told)
    };
    if let Some(missing) = Told::missing(&form, &["email", "password"]) {
        return again(missing);
    }
    let (email, password) = (form.text("email"), form.password("password"));
    let cookies = Cookies::of(&state, &asked);
    let (remember, over) = (form.has("remember"), cookies.over.as_deref());
    match state.accounts.browser_login(&asked.client, email, password, remember, &cookies.place, over).await {
        Ok(SignIn::Done(signed_in)) => {
            let person = Person { user: signed_in.user.id, session: Some(signed_in.session) };
            begun(&state, &asked, person, &signed_in.cookie, &way).await
        }
        Ok(SignIn::Challenge(challenge)) => match challenge {},
        Err(error) => again(Told::of(error, "password")),
    }
}

fn facts(state: &AuthState, way: &Way, visitor: Option<&Owner>) -> Value {
    let on = match (&way.target, way.notice) {
        // This page goes on from there at once, and takes the session along to another host.
        (Some(_), Some(UNSENT)) => page_url(state, PAGE, way, &[]),
        (Some(target), _) => target.as_str().to_owned(),
        (None, _) => state.pages.url(PageName::Account),
    };
    json!({
        "may_remember": state.accounts.offers_remember(),
        "may_register": may_register(state),
        "has_mail": state.accounts.has_mail(),
        "register_url": page_url(state, PageName::Register, way, &[]),
        "forgot_url": page_url(state, PageName::Forgot, way, &[]),
        "person": visitor.map(|visitor| &visitor.called),
        "continue_url": visitor.map(|_| on),
        "notice": way.notice,
        "switch": way.switch,
        "return_host": return_host(state, way),
    })
}
