//! What each kind of client gets, for each kind of refusal.

use super::super::fixtures::{Fields, browser_settings, route};
use super::super::request::Malformed;
use super::super::verdict::TokenFault;
use super::*;

const US: &str = "https://auth.test";

fn settings() -> BrowserSettings {
    let origin = |text| NamedOrigin::parse(text).unwrap();
    BrowserSettings {
        hosts: [origin("https://app.test"), origin("https://auth.test:9443")].to_vec(),
        return_to: [origin("https://www.test")].to_vec(),
        ..browser_settings(US)
    }
}

/// A request and what is asked about it.
struct Case {
    method: &'static str,
    origin: &'static str,
    target: String,
    fields: Vec<(&'static str, String)>,
    cause: AnsweredFor,
    route: Option<Route>,
    settings: BrowserSettings,
}

impl Case {
    fn new(fields: &[(&'static str, &str)]) -> Case {
        Case {
            method: "GET",
            origin: "https://app.test",
            target: "/lab/%7Ex?y=%2F&z".to_owned(),
            fields: fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
            cause: AnsweredFor::WantOfSession,
            route: Some(route("/lab", Auth::Required)),
            settings: settings(),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Case)) -> Case {
        change(&mut self);
        self
    }

    fn form(&self) -> AnswerForm {
        let fields: Vec<(&str, &str)> = self.fields.iter().map(|(name, value)| (*name, &**value)).collect();
        let headers = Fields(&fields);
        let path = path_of(&self.target);
        let asked = AskedFor {
            asking: Asking { method: self.method, websocket: false, path, headers: &headers },
            origin: NamedOrigin::parse(self.origin).unwrap(),
            target: &self.target,
        };
        choose(&asked, self.cause, self.route.as_ref(), &self.settings, US)
    }
}

const NAVIGATION: [(&str, &str); 2] = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];

fn navigation() -> Case {
    Case::new(&NAVIGATION)
}

fn form_post(referer: Option<&str>) -> Case {
    navigation().with(|case| {
        case.method = "POST";
        case.target = "/lab/delete?id=7".to_owned();
        case.fields.extend(referer.map(|referer| ("referer", referer.to_owned())));
    })
}

fn target(url: &str) -> Option<ReturnTarget> {
    Some(ReturnTarget::parse(url, &settings()).unwrap())
}

fn to_sign_in(url: &str) -> AnswerForm {
    AnswerForm::SignIn { target: target(url), unsent: false }
}

const DOCUMENT: AnswerForm = AnswerForm::Problem { sign_in: false, page: None };

#[test]
fn a_navigation_goes_to_sign_in_and_comes_back_to_what_was_asked_for() {
    assert_eq!(navigation().form(), to_sign_in("https://app.test/lab/%7Ex?y=%2F&z"));
    assert_eq!(
        navigation().with(|case| case.method = "HEAD").form(),
        to_sign_in("https://app.test/lab/%7Ex?y=%2F&z")
    );
    let public = navigation().with(|case| case.origin = "https://auth.test:9443");
    assert_eq!(public.form(), to_sign_in("https://auth.test:9443/lab/%7Ex?y=%2F&z"));
    // What is too long to be carried, or could be read as another place, becomes the start of the app.
    for odd in
        [format!("/lab?{}", "x".repeat(5000)), "//evil.test/x".to_owned(), "/lab/x?\\evil.test".to_owned()]
    {
        let odd = navigation().with(|case| case.target = odd);
        assert_eq!(odd.form(), to_sign_in("https://app.test/lab"), "{}", odd.target);
    }
}

#[test]
fn a_sign_in_that_would_not_help_is_none() {
    for (name, change) in [
        ("no browsers", (|case: &mut Case| case.settings.enabled = false) as fn(&mut Case)),
        ("sign_in = false", |case| case.route.as_mut().unwrap().browser.sign_in = SignInPage::Nowhere),
        ("other issuers", |case| {
            case.route.as_mut().unwrap().policy.issuers = vec!["https://they.test".to_owned()]
        }),
        ("auth = optional", |case| case.route.as_mut().unwrap().policy.auth = Auth::Optional),
        ("no route", |case| case.route = None),
        ("the app's own cross-site refusal", |case| case.cause = AnsweredFor::Failure(400)),
    ] {
        assert_eq!(navigation().with(change).form(), DOCUMENT, "{name}");
        let script = Case::new(&[("accept", "*/*"), ("referer", "https://app.test/lab")]);
        assert_eq!(script.with(change).form(), DOCUMENT, "{name}");
        let frame = Case::new(&[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")]);
        assert_eq!(frame.with(change).form(), DOCUMENT, "{name}");
    }
    let ours = navigation().with(|case| {
        case.route.as_mut().unwrap().policy.issuers = vec!["https://they.test".to_owned(), US.to_owned()];
    });
    assert_eq!(ours.form(), to_sign_in("https://app.test/lab/%7Ex?y=%2F&z"));
}

#[test]
fn no_host_that_is_not_spelled_out_is_returned_to() {
    for origin in [
        "https://tenant.app.test",
        "https://evil.test",
        "https://app.test:8443",
        "http://app.test",
        // It is only returned to: a session never gets there, so the browser would go round for ever.
        "https://www.test",
    ] {
        for case in [
            navigation(),
            form_post(Some("https://app.test/lab")),
            navigation().with(|case| case.method = "HEAD"),
        ] {
            assert_eq!(case.with(|case| case.origin = origin).form(), AnswerForm::WrongAddress, "{origin}");
        }
        let own = navigation().with(|case| {
            case.origin = origin;
            case.route.as_mut().unwrap().browser.sign_in = SignInPage::At("https://own.test/".into());
        });
        assert_eq!(own.form(), AnswerForm::SignIn { target: None, unsent: false }, "{origin}");
    }
}

#[test]
fn a_form_that_came_too_late_leads_back_to_the_page_it_came_from() {
    let unsent = |url: &str| AnswerForm::SignIn { target: target(url), unsent: true };
    for (referer, expected) in [
        (Some("https://app.test/lab/list?page=2"), "https://app.test/lab/list?page=2"),
        // The page that a form is on may be what it is sent to.
        (Some("https://app.test/lab/edit"), "https://app.test/lab/edit"),
        // No address of the page, or a page of another origin: the start of the app.
        (None, "https://app.test/lab"),
        (Some("https://auth.test/x"), "https://app.test/lab"),
        (Some("https://www.test/x"), "https://app.test/lab"),
        (Some("https://evil.test/lab"), "https://app.test/lab"),
        (Some("https://app.test@evil.test/lab"), "https://app.test/lab"),
        (Some("https://app.test//evil.test"), "https://app.test/lab"),
        (Some("https://app.test/.palisade/sign-out"), "https://app.test/lab"),
        (Some("/lab/list"), "https://app.test/lab"),
        (Some("javascript:alert(1)"), "https://app.test/lab"),
        (Some(""), "https://app.test/lab"),
    ] {
        assert_eq!(form_post(referer).form(), unsent(expected), "{referer:?}");
    }
    // Never with GET to what the form was sent to.
    for method in ["POST", "PUT", "DELETE", "post", "XYZ"] {
        let to_start = form_post(None).with(|case| {
            case.method = method;
            case.target = "/lab?id=7".to_owned();
        });
        assert_eq!(to_start.form(), AnswerForm::SignIn { target: None, unsent: true }, "{method}");
    }
}

#[test]
fn a_frame_gets_a_notice_with_a_link_out_of_it() {
    let frame = || Case::new(&[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")]);
    let url = "https://app.test/lab/%7Ex?y=%2F&z".to_owned();
    assert_eq!(frame().form(), AnswerForm::Framed { url });
    let posted = frame().with(|case| case.method = "POST");
    assert_eq!(posted.form(), AnswerForm::Framed { url: "https://app.test/lab".to_owned() });
    assert_eq!(frame().with(|case| case.cause = AnsweredFor::Failure(403)).form(), DOCUMENT);
}

#[test]
fn a_script_is_told_the_page_to_come_back_to_and_never_what_it_fetched() {
    for (fields, page) in [
        (&[][..], None),
        (&[("referer", "https://app.test/list?a=b")][..], Some("https://app.test/list?a=b")),
        (
            &[("hx-current-url", "https://app.test/now"), ("referer", "https://app.test/list")],
            Some("https://app.test/now"),
        ),
        // A page of another origin that the configuration names.
        (&[("referer", "https://www.test/spa")], Some("https://www.test/spa")),
        (&[("referer", "https://evil.test/list")], None),
        (&[("hx-current-url", "https://evil.test/x"), ("referer", "https://app.test/list")], None),
        (&[("referer", "//evil.test")], None),
        (&[("referer", "https://app.test\\@evil.test/")], None),
        (&[("referer", "https://app.test/\r\nx")], None),
        (&[("hx-current-url", "https://app.test/\u{e9}")], None),
    ] {
        for hx in
            [&[][..], &[("hx-request", "true")], &[("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")]]
        {
            for method in ["GET", "POST"] {
                let case = Case::new(&[fields, hx].concat()).with(|case| case.method = method);
                let page = page.and_then(target);
                assert_eq!(case.form(), AnswerForm::Problem { sign_in: true, page }, "{fields:?}");
            }
        }
    }
}

#[test]
fn what_a_person_may_not_see_or_what_fails_is_a_page_for_navigations_alone() {
    for status in [403, 500, 502, 503, 504, 508] {
        let failed = |case: Case| case.with(|case| case.cause = AnsweredFor::Failure(status)).form();
        assert_eq!(failed(navigation()), AnswerForm::Page, "{status}");
        assert_eq!(failed(navigation().with(|case| case.method = "POST")), AnswerForm::Page, "{status}");
        // Whatever the route says about signing in, and without a route.
        let nowhere =
            navigation().with(|case| case.route.as_mut().unwrap().browser.sign_in = SignInPage::Nowhere);
        assert_eq!(failed(nowhere), AnswerForm::Page, "{status}");
        assert_eq!(failed(navigation().with(|case| case.route = None)), AnswerForm::Page, "{status}");
        assert_eq!(failed(Case::new(&[("accept", "application/json")])), DOCUMENT, "{status}");
        assert_eq!(failed(navigation().with(|case| case.settings.enabled = false)), DOCUMENT, "{status}");
    }
    for status in [400, 401, 404, 405, 408, 413, 429, 431] {
        assert_eq!(
            navigation().with(|case| case.cause = AnsweredFor::Failure(status)).form(),
            DOCUMENT,
            "{status}"
        );
    }
}

#[test]
fn a_new_sign_in_lifts_only_what_is_about_the_session() {
    for lifted in
        [Refusal::NoToken, Refusal::Revoked, Refusal::SessionOver, Refusal::Token(TokenFault::Expired)]
    {
        assert_eq!(AnsweredFor::refusal(&lifted), AnsweredFor::WantOfSession, "{lifted:?}");
    }
    for unfit in [
        TokenFault::Issuer,
        TokenFault::Audience,
        TokenFault::UnknownKey,
        // The issuer may have replaced the key under its name.
        TokenFault::Signature,
        TokenFault::NotYet,
    ] {
        assert_eq!(AnsweredFor::refusal(&Refusal::Token(unfit)), AnsweredFor::UnfitToken, "{unfit:?}");
    }
    for (stands, status) in [
        (Refusal::Scope { needed: vec![] }, 403),
        (Refusal::EmailUnverified, 403),
        (Refusal::Claim, 403),
        (Refusal::CrossSite, 403),
        (Refusal::Credentials, 400),
        (Refusal::NotReady, 503),
        (Refusal::Stale, 503),
        (Refusal::SessionUnknown, 503),
        (Refusal::Overloaded, 503),
        (Refusal::NoRoute, 404),
        (Refusal::Malformed(Malformed::Byte), 400),
    ] {
        assert_eq!(AnsweredFor::refusal(&stands), AnsweredFor::Failure(status), "{stands:?}");
    }
}

#[test]
fn a_token_that_another_page_would_bring_again_leads_to_no_loop() {
    let unfit = navigation().with(|case| case.cause = AnsweredFor::UnfitToken);
    assert_eq!(unfit.form(), to_sign_in("https://app.test/lab/%7Ex?y=%2F&z"));
    let at = |case: &mut Case| {
        case.route.as_mut().unwrap().browser.sign_in = SignInPage::At("https://own.test/".into());
    };
    assert_eq!(unfit.with(at).form(), DOCUMENT);
    assert_eq!(navigation().with(at).form(), to_sign_in("https://app.test/lab/%7Ex?y=%2F&z"));
}
