//! How an answer of ours is written, whatever it is: a problem document, a page, or a redirect, with its cookies.
//!
//! The fields and the body are text here; each edge turns them into what its HTTP library takes. What only an edge
//! knows is its own to add: the length, the id of the request, what becomes of the connection. Nothing that is
//! answered so may be stored by a cache.

use std::borrow::Cow;
use std::time::Duration;

use super::answer::Answer;
use super::problem::Problem;
use super::redirect::{Location, Redirect, SetCookie};

/// The fields of every page beside its type and policy: no browser tells other origins its address, lets a page that
/// opened it reach into it, or guesses at its type, and no search engine lists it. With `no-referrer` a form of our own
/// would come with `Origin: null` (Fetch §3.2, "append a request `Origin` header").
const OF_PAGES: [(&str, &str); 6] = [
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
    ("x-robots-tag", "noindex"),
];

/// A page for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub status: u16,
    /// The stable word for logs and metrics.
    pub code: &'static str,
    /// What it says, in a sentence: for clients that are shown no page.
    pub summary: String,
    /// The whole document, in UTF-8.
    pub html: String,
    /// Its `Content-Security-Policy` (CSP 3).
    pub policy: String,
}

impl Page {
    /// Whether its policy lets every page frame it. `X-Frame-Options`, which older browsers go by, must say the same.
    fn may_be_framed(&self) -> bool {
        self.policy.ends_with("frame-ancestors *")
    }
}

/// What an answer is about.
#[derive(Debug, Clone)]
enum Content {
    Problem(Answer),
    Page(Page),
    Redirect { code: &'static str, to: Location },
}

/// An answer of ours.
#[derive(Debug, Clone)]
pub struct Reply {
    content: Content,
    cookies: Vec<SetCookie>,
    /// Further fields, in the order in which they are written.
    further: Vec<(&'static str, String)>,
}

/// One header field of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// In lower case.
    pub name: &'static str,
    /// Visible ASCII and spaces.
    pub value: Cow<'a, str>,
    /// Whether it may hold a secret: such a value is kept out of tables of compressed fields (RFC 7541 §7.1.3).
    pub is_secret: bool,
}

const NO_STORE: Field<'static> = Field::plain("cache-control", "no-store");
/// When to come back where nothing better is known.
const SHORTLY: Duration = Duration::from_secs(1);

impl<'a> Field<'a> {
    const fn plain(name: &'static str, value: &'a str) -> Field<'a> {
        Field { name, value: Cow::Borrowed(value), is_secret: false }
    }
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Reply {
        Reply::of(Content::Problem(answer), Vec::new())
    }
}

impl From<Problem> for Reply {
    fn from(problem: Problem) -> Reply {
        Answer::from(problem).into()
    }
}

impl From<Page> for Reply {
    fn from(page: Page) -> Reply {
        Reply::of(Content::Page(page), Vec::new())
    }
}

impl From<Redirect> for Reply {
    fn from(redirect: Redirect) -> Reply {
        let Redirect { code, to, cookies } = redirect;
        Reply::of(Content::Redirect { code, to }, cookies)
    }
}

impl Reply {
    fn of(content: Content, cookies: Vec<SetCookie>) -> Reply {
        Reply { content, cookies, further: Vec::new() }
    }

    /// The same with one more field. `name` is in lower case, `value` a text of ours: it is never taken from a request but
    /// percent-encoded.
    #[must_use]
    pub fn with_field(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.further.push((name, value.into()));
        self
    }

    /// The same with one more cookie.
    #[must_use]
    pub fn with_cookie(mut self, cookie: SetCookie) -> Reply {
        self.cookies.push(cookie);
        self
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        match &self.content {
            Content::Problem(answer) => answer.problem.status,
            Content::Page(page) => page.status,
            Content::Redirect { .. } => 303,
        }
    }

    /// The stable word that it says itself. What was decided may have a narrower one.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match &self.content {
            Content::Problem(answer) => answer.problem.code,
            Content::Page(page) => page.code,
            Content::Redirect { code, .. } => code,
        }
    }

    /// A sentence for users of clients that show no body.
    #[must_use]
    pub fn summary(&self) -> &str {
        match &self.content {
            Content::Problem(answer) => &answer.problem.detail,
            Content::Page(page) => &page.summary,
            Content::Redirect { to, .. } => to.as_str(),
        }
    }

    /// The value of `WWW-Authenticate` (RFC 6750 §3).
    #[must_use]
    pub fn challenge(&self) -> Option<&str> {
        match &self.content {
            Content::Problem(answer) => answer.challenge.as_deref(),
            Content::Page(_) | Content::Redirect { .. } => None,
        }
    }

    /// The whole body. A redirect has none: browsers follow `Location` and show nothing of it.
    #[must_use]
    pub fn body(&self) -> Cow<'_, str> {
        match &self.content {
            Content::Problem(answer) => Cow::Owned(answer.problem.to_json()),
            Content::Page(page) => Cow::Borrowed(&page.html),
            Content::Redirect { .. } => Cow::Borrowed(""),
        }
    }

    /// Every header field but those that only an edge knows.
    #[must_use]
    pub fn fields(&self) -> Vec<Field<'_>> {
        let mut fields = Vec::with_capacity(12);
        match &self.content {
            Content::Problem(answer) => {
                let Answer { problem, challenge, allow, retry_after } = answer;
                fields.push(Field::plain("content-type", "application/problem+json"));
                fields.push(NO_STORE);
                fields.extend(challenge.as_deref().map(|value| Field::plain("www-authenticate", value)));
                fields.extend(allow.as_deref().map(|value| Field::plain("allow", value)));
                let wait = wait(problem.status, *retry_after);
                fields.extend(wait.map(|wait| Field {
                    name: "retry-after",
                    value: Cow::Owned(wait.to_string()),
                    is_secret: false,
                }));
            }
            Content::Page(page) => {
                fields.push(Field::plain("content-type", "text/html; charset=utf-8"));
                fields.push(NO_STORE);
                fields.push(Field::plain("content-security-policy", &page.policy));
                fields.extend(OF_PAGES.map(|(name, value)| Field::plain(name, value)));
                fields.extend((!page.may_be_framed()).then_some(Field::plain("x-frame-options", "DENY")));
            }
            Content::Redirect { to, .. } => {
                fields.push(NO_STORE);
                // A place may hold a state or a code that is good once.
                fields.push(Field { is_secret: true, ..Field::plain("location", to.as_str()) });
                fields.push(Field::plain("referrer-policy", "no-referrer"));
            }
        }
        fields.extend(self.further.iter().map(|(name, value)| Field::plain(name, value)));
        let cookies = self.cookies.iter();
        fields.extend(
            cookies.map(|cookie| Field { is_secret: true, ..Field::plain("set-cookie", cookie.expose()) }),
        );
        fields
    }
}

/// The value of `Retry-After` of an answer with this status, in whole seconds (RFC 9110 §10.2.3), and never "at once": a
/// client that is refused for the moment is told when to retry. `known`: what is known of it.
#[must_use]
pub fn wait(status: u16, known: Option<Duration>) -> Option<u64> {
    let wait = known.or((status == 503).then_some(SHORTLY))?;
    Some((wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1))
}

#[cfg(test)]
mod tests {
    use super::super::answer::answer;
    use super::super::verdict::Refusal;
    use super::*;

    /// Each field as a line; `!` marks those that may hold a secret.
    fn lines(reply: &Reply) -> Vec<String> {
        let line = |field: &Field<'_>| {
            format!("{}{}: {}", if field.is_secret { "!" } else { "" }, field.name, field.value)
        };
        reply.fields().iter().map(line).collect()
    }

    #[test]
    fn a_problem_says_what_would_do() {
        let reply = Reply::from(answer(&Refusal::NoToken));
        assert_eq!((reply.status(), reply.code()), (401, "token_missing"));
        assert_eq!(
            lines(&reply),
            [
                "content-type: application/problem+json",
                "cache-control: no-store",
                "www-authenticate: Bearer realm=\"palisade\"",
            ]
        );
        assert!(reply.body().contains("\"code\":\"token_missing\""), "{}", reply.body());
        let reply = Reply::from(answer(&Refusal::Method { allow: vec!["GET".into(), "PUT".into()] }));
        assert_eq!(lines(&reply)[2..], ["allow: GET, PUT"]);
    }

    #[test]
    fn who_is_turned_away_for_the_moment_is_told_for_how_long() {
        let wait = |retry_after: Option<Duration>| {
            let reply =
                Reply::from(Answer { retry_after, ..Problem::new(503, "overloaded", "Try again.").into() });
            lines(&reply).pop()
        };
        assert_eq!(wait(None).as_deref(), Some("retry-after: 1"));
        assert_eq!(wait(Some(Duration::ZERO)).as_deref(), Some("retry-after: 1"));
        assert_eq!(wait(Some(Duration::from_millis(1500))).as_deref(), Some("retry-after: 2"));
        let other = Reply::from(Problem::new(404, "no_route", "Nothing is here."));
        assert!(!lines(&other).iter().any(|line| line.starts_with("retry-after")));
    }

    #[test]
    fn a_redirect_is_a_303_that_nobody_stores_and_that_carries_cookies() {
        let redirect = Redirect {
            code: "sign_in",
            to: Location::new("/auth/pages/sign-in?return_to=%2Fx").unwrap(),
            cookies: vec![
                SetCookie::new("__Host-a=1; Path=/; Secure; HttpOnly; SameSite=Lax").unwrap(),
                SetCookie::new("b=; Path=/; Max-Age=0").unwrap(),
            ],
        };
        let reply = Reply::from(redirect).with_cookie(SetCookie::new("c=2; Path=/").unwrap());
        assert_eq!((reply.status(), reply.code(), &*reply.body()), (303, "sign_in", ""));
        assert_eq!(reply.challenge(), None);
        assert_eq!(
            lines(&reply),
            [
                "cache-control: no-store",
                "!location: /auth/pages/sign-in?return_to=%2Fx",
                "referrer-policy: no-referrer",
                "!set-cookie: __Host-a=1; Path=/; Secure; HttpOnly; SameSite=Lax",
                "!set-cookie: b=; Path=/; Max-Age=0",
                "!set-cookie: c=2; Path=/",
            ]
        );
    }

    #[test]
    fn a_page_is_not_framed_stored_or_sniffed() {
        let page = Page {
            status: 403,
            code: "cross_site",
            summary: "Not from there.".into(),
            html: "<!doctype html>".into(),
            policy: "default-src 'none'".into(),
        };
        let reply = Reply::from(page).with_cookie(SetCookie::new("a=; Max-Age=0").unwrap());
        assert_eq!((reply.status(), reply.code(), &*reply.body()), (403, "cross_site", "<!doctype html>"));
        assert_eq!(
            lines(&reply),
            [
                "content-type: text/html; charset=utf-8",
                "cache-control: no-store",
                "content-security-policy: default-src 'none'",
                "x-content-type-options: nosniff",
                "referrer-policy: same-origin",
                "cross-origin-opener-policy: same-origin",
                "cross-origin-resource-policy: same-origin",
                "permissions-policy: camera=(), geolocation=(), microphone=()",
                "x-robots-tag: noindex",
                "x-frame-options: DENY",
                "!set-cookie: a=; Max-Age=0",
            ]
        );
    }

    #[test]
    fn a_page_may_be_framed_where_its_policy_says_so() {
        for (policy, fields) in
            [("default-src 'none'; frame-ancestors *", 0), ("frame-ancestors 'none'", 1), ("", 1)]
        {
            let page = Page {
                status: 401,
                code: "framed",
                summary: String::new(),
                html: String::new(),
                policy: policy.to_owned(),
            };
            let lines = lines(&page.into());
            assert_eq!(
                lines.iter().filter(|line| line.starts_with("x-frame-options")).count(),
                fields,
                "{policy}"
            );
        }
    }
}
