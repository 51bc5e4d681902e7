//! In which form a refusal or a failure is answered: as a problem document, as a page, or by a redirect to the sign-in
//! page.
//!
//! What a request says of itself chooses here between forms that say the same ([`super::navigation`]). Nothing here
//! admits.

use super::answer::answer;
use super::browser::{BrowserSettings, NamedOrigin, RouteBrowser, SignInPage};
use super::navigation::{self, Asking, RequestKind};
use super::return_to::{ReturnReach, ReturnTarget};
use super::route::{Auth, Route};
use super::verdict::Refusal;

/// A request, as far as the form of its answer depends on it.
pub struct AskedFor<'a> {
    pub asking: Asking<'a>,
    /// The host that was matched and the port that the client named, under the scheme of `public_url`.
    pub origin: NamedOrigin,
    /// The path and the query exactly as they were sent; it begins with `/`.
    pub target: &'a str,
}

/// Why a request is answered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnsweredFor {
    /// There is no session and no token, or one that nothing can make good again: a sign-in helps.
    WantOfSession,
    /// A token is not good here and now. A session of ours comes before it, so a sign-in with us helps; another page may
    /// only bring the same token again, and the browser would go round for ever.
    UnfitToken,
    /// It is refused or failed with this HTTP status, and a sign-in does not help.
    Failure(u16),
}

impl AnsweredFor {
    /// What `refusal` comes to.
    #[must_use]
    pub fn refusal(refusal: &Refusal) -> AnsweredFor {
        match (refusal, answer(refusal).problem.status) {
            (Refusal::Token(fault), _) if !fault.is_final() => AnsweredFor::UnfitToken,
            (_, 401) => AnsweredFor::WantOfSession,
            (_, status) => AnsweredFor::Failure(status),
        }
    }
}

/// The form of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerForm {
    /// The problem document. `sign_in`: it names the sign-in page, which returns to `page`.
    Problem { sign_in: bool, page: Option<ReturnTarget> },
    /// The page that says what went wrong.
    Page,
    /// The notice inside a frame, with a link that opens this whole URL outside of it.
    Framed { url: String },
    /// 303 to the sign-in page, which returns to `target`. `unsent`: a form came that was not sent on.
    SignIn { target: Option<ReturnTarget>, unsent: bool },
    /// No session can be brought to the host that was asked for: the page that says which address works.
    WrongAddress,
}

/// Whether `route` has a sign-in that helps: it asks for a token, and either sends people to a page of the operator's or
/// takes tokens of `issuer`, which is us.
#[must_use]
pub fn has_sign_in(route: &Route, issuer: &str) -> bool {
    let issuers = &route.policy.issuers;
    route.policy.auth == Auth::Required
        && match route.browser.sign_in {
            SignInPage::Nowhere => false,
            SignInPage::Ours => issuers.is_empty() || issuers.iter().any(|accepted| accepted == issuer),
            SignInPage::At(_) => true,
        }
}

/// Chooses the form. `route` is the one that the request belongs to, `issuer` that of our own tokens.
#[must_use]
pub fn choose(
    asked: &AskedFor<'_>,
    cause: AnsweredFor,
    route: Option<&Route>,
    settings: &BrowserSettings,
    issuer: &str,
) -> AnswerForm {
    let document = AnswerForm::Problem { sign_in: false, page: None };
    if !settings.enabled {
        return document;
    }
    let kind = navigation::kind(&asked.asking);
    match (cause, route.filter(|route| has_sign_in(route, issuer))) {
        (AnsweredFor::Failure(403 | 500..), _) if kind == RequestKind::Navigation => AnswerForm::Page,
        (AnsweredFor::Failure(_), _) | (_, None) => document,
        (
            AnsweredFor::UnfitToken,
            Some(Route { browser: RouteBrowser { sign_in: SignInPage::At(_), .. }, .. }),
        ) => document,
        (AnsweredFor::WantOfSession | AnsweredFor::UnfitToken, Some(route)) => match kind {
            RequestKind::Navigation => sign_in(asked, route, settings),
            RequestKind::Frame => AnswerForm::Framed { url: framed(asked, route) },
            RequestKind::Program => {
                let page = navigation::page(asked.asking.headers);
                let page = page.and_then(|page| ReturnTarget::parse(&page, settings));
                AnswerForm::Problem { sign_in: true, page }
            }
        },
    }
}

/// Where a navigation without a session goes.
fn sign_in(asked: &AskedFor<'_>, route: &Route, settings: &BrowserSettings) -> AnswerForm {
    let unsent = !navigation::is_safe(asked.asking.method);
    let root = asked.at("/");
    if reached(&root, settings).is_none() {
        return match route.browser.sign_in {
            // What it does for this host is the operator's to know.
            SignInPage::At(_) => AnswerForm::SignIn { target: None, unsent },
            SignInPage::Ours | SignInPage::Nowhere => AnswerForm::WrongAddress,
        };
    }
    let target = match unsent {
        false => reached(&asked.url(), settings),
        true => before_form(asked, settings),
    };
    let elsewhere = || {
        let start = route.start(path_of(asked.target));
        let is_posted_to = unsent && path_of(asked.target) == start;
        let start = asked.at(start);
        reached(&start, settings).filter(|_| !is_posted_to)
    };
    AnswerForm::SignIn { target: target.or_else(elsewhere), unsent }
}

/// What is opened outside of a frame: the page itself, and the start of the app in place of what a form was sent to.
fn framed(asked: &AskedFor<'_>, route: &Route) -> String {
    match navigation::is_safe(asked.asking.method) {
        true => asked.url(),
        false => asked.at(route.start(path_of(asked.target))),
    }
}

/// The page of this very origin that a form was sent from. It is asked for with GET; the form is not sent again.
fn before_form(asked: &AskedFor<'_>, settings: &BrowserSettings) -> Option<ReturnTarget> {
    let page = reached(&navigation::referrer(asked.asking.headers)?, settings)?;
    (*page.origin() == asked.origin).then_some(page)
}

/// A place that a session gets to. At one that is only returned to the browser would be sent to sign in for ever.
fn reached(url: &str, settings: &BrowserSettings) -> Option<ReturnTarget> {
    ReturnTarget::parse(url, settings).filter(|target| target.reach() != ReturnReach::Outside)
}

fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

impl AskedFor<'_> {
    /// The whole URL that was asked for.
    #[must_use]
    pub fn url(&self) -> String {
        self.at(self.target)
    }

    /// `path` of the origin that was asked.
    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }
}

#[cfg(test)]
#[path = "answer_form_tests.rs"]
mod tests;
