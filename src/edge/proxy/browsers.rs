//! What browsers are answered in place of a problem document: a redirect to the sign-in page, a page, or the document with
//! the address of the sign-in page in it.
//!
//! Asked only after a request was refused or has failed: an admitted one pays nothing for it. Which form it is, the domain
//! chooses ([`palisade_core::domain::answer_form`]).

use std::sync::Arc;

use pingora::http::RequestHeader;
use serde_json::{Value, json};

use super::grpc;
use super::inbound;
use super::served::ServedRoute;
use super::turns::{self, CarryAlong};
use crate::http_fields::Fields;
use palisade_core::domain::answer::{self, Answer};
use palisade_core::domain::answer_form::{self, AnswerForm, AnsweredFor, AskedFor};
use palisade_core::domain::browser::{BrowserSettings, NamedOrigin, SignInPage};
use palisade_core::domain::carry::{NOT_KEPT, NotKept};
use palisade_core::domain::navigation::{self, Asking};
use palisade_core::domain::page::PageName;
use palisade_core::domain::redirect::{Location, Redirect};
use palisade_core::domain::reply::{self, Page, Reply};
use palisade_core::domain::request::{Host, WebOrigin};
use palisade_core::domain::return_to::ReturnTarget;
use palisade_core::domain::route::Route;
use palisade_core::domain::sign_in_url::{self, SignInUrl};
use palisade_core::domain::verdict::Refusal;
use palisade_core::ports::{PageRenderer, PageRequest, Verified};
use palisade_core::service::carry::SessionCarrier;

/// The code of a redirect to a sign-in page.
pub const SIGN_IN: &str = "sign_in";
/// The code of the page that says which address works.
const WRONG_HOST: &str = "wrong_host";

/// The parameter of an operator's own error page.
const ERROR_CODE: &str = "code";

/// Why a request is answered here, and by what.
pub struct AnsweredHere {
    /// The word for the log, which may be narrower than the one that the client is told.
    pub code: &'static str,
    pub reply: Reply,
}

impl From<Refusal> for AnsweredHere {
    fn from(refusal: Refusal) -> AnsweredHere {
        AnsweredHere { code: refusal.code(), reply: answer::answer(&refusal).into() }
    }
}

impl From<Redirect> for AnsweredHere {
    fn from(redirect: Redirect) -> AnsweredHere {
        AnsweredHere { code: redirect.code, reply: redirect.into() }
    }
}

/// What a configuration says about people with browsers, for their answers.
pub struct BrowserRules {
    pub settings: Arc<BrowserSettings>,
    /// The issuer of our own tokens.
    pub issuer: String,
}

/// What answers for browsers are made of.
pub struct BrowserAnswers<'a> {
    pub settings: &'a BrowserSettings,
    /// The issuer of our own tokens.
    pub issuer: &'a str,
    pub pages: &'a dyn PageRenderer,
    /// Carries sessions to other hosts.
    pub carrier: &'a SessionCarrier,
}

/// A request that is not served.
pub struct Unserved<'a> {
    pub header: &'a RequestHeader,
    pub request_id: &'a str,
    /// The Host as it was matched.
    pub host: &'a str,
    /// The route that it belongs to, once one was found.
    pub route: Option<&'a ServedRoute>,
    /// Its caller, where a good credential says who that is.
    pub caller: Option<&'a Verified>,
}

impl BrowserAnswers<'_> {
    /// The answer to a request that was refused.
    #[must_use]
    pub fn refusal(&self, unserved: &Unserved<'_>, refusal: &Refusal) -> AnsweredHere {
        let document = answer::answer(refusal);
        let cause = AnsweredFor::refusal(refusal);
        let kind = match refusal {
            Refusal::Scope { .. } | Refusal::EmailUnverified | Refusal::Claim | Refusal::Identity(_) => {
                "forbidden"
            }
            Refusal::NotConnected { .. } | Refusal::ReconnectNeeded { .. } => "connection",
            _ if document.problem.status >= 500 => "unavailable",
            _ => "other",
        };
        self.answer(unserved, refusal.code(), document, cause, kind)
    }

    /// The answer to a request that failed on its way to or from its upstream.
    #[must_use]
    pub fn failure(&self, unserved: &Unserved<'_>, document: Answer) -> AnsweredHere {
        let (code, status) = (document.problem.code, document.problem.status);
        self.answer(unserved, code, document, AnsweredFor::Failure(status), "unavailable")
    }

    fn answer(
        &self,
        unserved: &Unserved<'_>,
        code: &'static str,
        document: Answer,
        cause: AnsweredFor,
        kind: &'static str,
    ) -> AnsweredHere {
        let Some(asked) = Asked::of(unserved, self.settings) else {
            return AnsweredHere { code, reply: document.into() };
        };
        let asked = asked.as_domain();
        let route = unserved.route.map(|served| &*served.route);
        let form = answer_form::choose(&asked, cause, route, self.settings, self.issuer);
        let (code, reply) = match form {
            AnswerForm::Problem { sign_in, page } => {
                let reply = match route.filter(|_| sign_in) {
                    Some(route) => self.document(unserved, &asked, document, route, page.as_ref()),
                    None => document.into(),
                };
                (code, reply)
            }
            AnswerForm::Page => (code, self.error(unserved, &asked, &document, route, kind)),
            AnswerForm::Framed { url } => {
                let status = document.problem.status;
                let page = self.render(
                    unserved,
                    PageName::Framed,
                    status,
                    document.problem.code,
                    &json!({"url": url}),
                );
                (code, challenged(page, &document))
            }
            AnswerForm::SignIn { target, unsent } => {
                match (turns::not_kept(self.carrier, self.settings, unserved.header, unserved.host), route) {
                    // Sent to the sign-in once more, it would come back in the same way for ever.
                    (Some(cause), Some(_)) if !unsent => (NOT_KEPT, self.not_kept(unserved, &asked, cause)),
                    (_, Some(route)) => (SIGN_IN, self.sign_in(unserved, route, target.as_ref(), unsent)),
                    (_, None) => (code, document.into()),
                }
            }
            AnswerForm::WrongAddress => {
                let right = self.settings.public.to_string();
                let facts = json!({"kind": "address", "right_url": format!("{right}/")});
                (WRONG_HOST, self.render(unserved, PageName::Error, 403, WRONG_HOST, &facts).into())
            }
        };
        let depends = match cause {
            AnsweredFor::WantOfSession | AnsweredFor::UnfitToken => true,
            AnsweredFor::Failure(status) => status == 403 || status >= 500,
        };
        let reply = if depends { reply.with_field("vary", navigation::VARY) } else { reply };
        AnsweredHere { code, reply }
    }

    /// The problem document for scripts and programs: it names the sign-in page, which returns to the page that the script
    /// runs in. On a host that only scripts ask something protected of, no navigation begins the carry of a session to it:
    /// this does, for a page of the very host that was asked.
    fn document(
        &self,
        unserved: &Unserved<'_>,
        asked: &AskedFor<'_>,
        document: Answer,
        route: &Route,
        page: Option<&ReturnTarget>,
    ) -> Reply {
        let along = page.and_then(|page| self.carry(unserved, route, page));
        let url = with_carry(self.sign_in_url(route, page), along.as_ref()).into_string();
        let problem = document.problem.with_sign_in(url.clone());
        let reply = with_nonce(Answer { problem, ..document }.into(), along);
        // An operator's page is in the configuration as it may stand in a field.
        match navigation::is_htmx(asked.asking.headers) && Location::new(&*url).is_ok() {
            true => reply.with_field("hx-redirect", url),
            false => reply,
        }
    }

    /// The redirect of a navigation to the sign-in page.
    fn sign_in(
        &self,
        unserved: &Unserved<'_>,
        route: &Route,
        target: Option<&ReturnTarget>,
        unsent: bool,
    ) -> Reply {
        let along = target.and_then(|target| self.carry(unserved, route, target));
        let url = |target: Option<&ReturnTarget>| {
            let url = self.sign_in_url(route, target);
            let url = with_carry(url, along.as_ref().filter(|_| target.is_some()));
            let url = if unsent { url.with(sign_in_url::NOTICE, sign_in_url::UNSENT) } else { url };
            Location::new(url.into_string())
        };
        // A target that makes the address too long is left out.
        match url(target).or_else(|_| url(None)) {
            Ok(to) => with_nonce(Redirect { code: SIGN_IN, to, cookies: Vec::new() }.into(), along),
            // An operator's page that cannot stand in a field: the configuration takes none.
            Err(_) => answer::answer(&Refusal::NoToken).into(),
        }
    }

    /// What our own sign-in page needs to carry a session back to the host that was asked.
    fn carry(&self, unserved: &Unserved<'_>, route: &Route, target: &ReturnTarget) -> Option<CarryAlong> {
        match &route.browser.sign_in {
            SignInPage::Ours => {
                turns::begin(self.carrier, self.settings, unserved.header, unserved.host, target)
            }
            SignInPage::At(_) | SignInPage::Nowhere => None,
        }
    }

    /// The page that says why a browser has no session although it was signed in just now.
    fn not_kept(&self, unserved: &Unserved<'_>, asked: &AskedFor<'_>, cause: NotKept) -> Reply {
        let facts = cause.facts(Some(&asked.url()));
        self.render(unserved, PageName::Error, 400, NOT_KEPT, &facts).into()
    }

    /// The address of the sign-in page of a route.
    fn sign_in_url(&self, route: &Route, target: Option<&ReturnTarget>) -> SignInUrl {
        let page = match &route.browser.sign_in {
            SignInPage::At(url) => SignInUrl::of(url),
            SignInPage::Ours | SignInPage::Nowhere => SignInUrl::of(&self.pages.url(PageName::SignIn)),
        };
        match target {
            Some(target) => page.with(sign_in_url::RETURN_TO, target.as_str()),
            None => page,
        }
    }

    /// The redirect to the operator's own page for what went wrong; it is told the code and nothing about a person. `None`:
    /// there is none, or it is the page that was asked for, which would lead to itself for ever.
    fn own_error(&self, asked: &AskedFor<'_>, code: &'static str) -> Option<Reply> {
        let page = self.pages.own_url(PageName::Error).filter(|page| !is_at(asked, page))?;
        let to = Location::new(SignInUrl::of(page).with(ERROR_CODE, code).into_string()).ok()?;
        Some(Redirect { code, to, cookies: Vec::new() }.into())
    }

    /// The page that says what went wrong: who is signed in, and what a person can do about it.
    fn error(
        &self,
        unserved: &Unserved<'_>,
        asked: &AskedFor<'_>,
        document: &Answer,
        route: Option<&Route>,
        kind: &'static str,
    ) -> Reply {
        if let Some(elsewhere) = self.own_error(asked, document.problem.code) {
            return elsewhere;
        }
        let status = document.problem.status;
        let is_repeatable = navigation::is_safe(asked.asking.method);
        let retry = is_repeatable.then(|| asked.url());
        let target = retry.as_deref().and_then(|url| ReturnTarget::parse(url, self.settings));
        let caller = unserved.caller.map(|caller| &caller.identity);
        let person = caller.map(|identity| identity.called());
        // Another account helps against a refusal only.
        let helpful =
            route.filter(|route| kind == "forbidden" && answer_form::has_sign_in(route, self.issuer));
        // Or the session of this host would stay that of the other person.
        let along = helpful.zip(target.as_ref()).and_then(|(route, to)| self.carry(unserved, route, to));
        let as_another = helpful.map(|route| {
            let url = self.sign_in_url(route, target.as_ref()).with(sign_in_url::PROMPT, sign_in_url::LOGIN);
            with_carry(url, along.as_ref()).into_string()
        });
        let is_ours = caller.is_some_and(|identity| *identity.issuer == *self.issuer);
        let wait = reply::wait(status, document.retry_after);
        let facts = json!({
            "kind": kind,
            "lacks": lacks(document.problem.code),
            "person": person,
            "sign_in_url": as_another,
            "sign_out_url": (kind == "forbidden" && is_ours).then(|| self.pages.url(PageName::SignOut)),
            "provider": document.problem.provider,
            "account_url": (kind == "connection").then(|| self.pages.url(PageName::Account)),
            "retry_url": retry,
            "wait": wait,
            "request_id": unserved.request_id,
        });
        let page = self.render(unserved, PageName::Error, status, document.problem.code, &facts);
        let reply = with_nonce(challenged(page, document), along);
        match wait {
            Some(wait) => reply.with_field("retry-after", wait.to_string()),
            None => reply,
        }
    }

    fn render(
        &self,
        unserved: &Unserved<'_>,
        page: PageName,
        status: u16,
        code: &'static str,
        facts: &Value,
    ) -> Page {
        let accept_language = unserved.header.headers.get(http::header::ACCEPT_LANGUAGE);
        let accept_language = accept_language.and_then(|line| line.to_str().ok());
        self.pages.render(&PageRequest { page, status, code, accept_language, facts })
    }
}

/// What a page says that the account lacks, of a refusal with this code.
fn lacks(code: &str) -> Option<&'static str> {
    match code {
        "username_missing" => Some("username"),
        "email_unverified" => Some("email"),
        "identity_missing" | "identity_too_long" | "identity_unsendable" => Some("form"),
        _ => None,
    }
}

/// The address of a sign-in page with what carries the session back.
fn with_carry(url: SignInUrl, along: Option<&CarryAlong>) -> SignInUrl {
    match along {
        Some(along) => url.with(sign_in_url::CARRY, &along.parameter),
        None => url,
    }
}

/// The answer with the nonce that the browser has not got yet.
fn with_nonce(reply: Reply, along: Option<CarryAlong>) -> Reply {
    match along.and_then(|along| along.nonce) {
        Some(nonce) => reply.with_cookie(nonce),
        None => reply,
    }
}

/// Whether the request asked for the whole URL `page`, whatever the ports and queries: a proxy in front may change a port.
fn is_at(asked: &AskedFor<'_>, page: &str) -> bool {
    let authority = page.find("://").map_or(0, |at| at + 3);
    let end = page[authority..].find(['/', '?']).map_or(page.len(), |at| authority + at);
    let (origin, rest) = page.split_at(end);
    let path = rest.split('?').next().filter(|path| !path.is_empty()).unwrap_or("/");
    path == asked.asking.path
        && WebOrigin::parse(origin).is_some_and(|origin| NamedOrigin::of(&origin).host == asked.origin.host)
}

/// A page with the challenge of the document in whose place it stands (RFC 9110 §11.6.1). No browser asks for a password on
/// account of ours.
fn challenged(page: Page, document: &Answer) -> Reply {
    let reply = Reply::from(page);
    match &document.challenge {
        Some(challenge) => reply.with_field("www-authenticate", &**challenge),
        None => reply,
    }
}

/// What a request asked for, as it is read once more for its answer.
struct Asked<'a> {
    method: &'a str,
    websocket: bool,
    origin: NamedOrigin,
    /// Without the mark of a turn: what is returned to, and what a person may keep.
    target: String,
    fields: Fields<'a>,
}

impl<'a> Asked<'a> {
    /// `None`: it has no host and target that could be asked for again, or is a gRPC call.
    fn of(unserved: &Unserved<'a>, settings: &BrowserSettings) -> Option<Asked<'a>> {
        let header = unserved.header;
        if grpc::is_call(header) {
            return None;
        }
        let target = inbound::origin_form(header.raw_path()).ok()?;
        let host = Host::parse(unserved.host.as_bytes()).ok()?;
        Some(Asked {
            method: header.method.as_str(),
            websocket: inbound::is_websocket(header),
            origin: NamedOrigin::of(&WebOrigin { scheme: settings.public.scheme, host }),
            target: turns::unmarked(std::str::from_utf8(target).ok()?),
            fields: Fields(&header.headers),
        })
    }

    fn as_domain(&self) -> AskedFor<'_> {
        let path = self.target.split('?').next().unwrap_or_default();
        AskedFor {
            asking: Asking { method: self.method, websocket: self.websocket, path, headers: &self.fields },
            origin: self.origin.clone(),
            target: &self.target,
        }
    }
}
