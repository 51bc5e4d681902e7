//! Where a browser comes back from a provider: the parameters of the callback go to the use case, and the
//! browser goes on to the app, or sees a page of ours.
//!
//! What the provider sent holds the code: it reaches no log, no page that is shown and no address of ours.
//! Providers that send it as a form (`response_mode=form_post`) do so across sites, and then a browser brings
//! no cookie that is `SameSite=Lax`. Such a form is answered with a page that sends the same form once more
//! from here: a redirect would put the code into an address, and a cookie for every site would be one that
//! browsers take over TLS only.

use std::sync::Arc;

use axum::extract::{FromRequest, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use form_urlencoded::Serializer;
use secrecy::{ExposeSecret, SecretString};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::super::body;
use super::super::failure::Failure;
use super::super::reply::written;
use super::caller::By;
use super::cookies;
use super::docs::escaped;
use super::pages;
use super::state::{AuthState, SharedAuthState};
use palisade_core::domain::connection::CONSENT_LIFE;
use palisade_core::domain::credential::CONSENT_COOKIE;
use palisade_core::domain::redirect::{Location, Redirect};
use palisade_core::service::caller::Client;
use palisade_core::service::connections::{Callback, ConnectionError, Returned};

/// Below the prefix.
const PATH: &str = "/connections/callback";
/// How many consents may be under way in one browser: over TLS its cookies come with every request.
const MOST_COOKIES: usize = 16;
/// How many parameters a callback may have.
const MOST_PARAMETERS: usize = 64;
/// What may be there once (RFC 6749 §3.1, RFC 9207 §2): of two, each reader would take another.
const ONCE: [&str; 4] = ["state", "code", "error", "iss"];
/// The member of a form that says it was sent once more from here.
const ONCE_MORE: &str = "palisade_once_more";
/// What sends it.
const SEND: &str = "HTMLFormElement.prototype.submit.call(document.forms[0]);";

pub(super) fn endpoints() -> OpenApiRouter<Arc<AuthState>> {
    OpenApiRouter::new().routes(routes!(by_query, by_form))
}

/// What the names of these cookies begin with here.
fn stem(state: &AuthState) -> String {
    format!("{}_", cookies::name(state, CONSENT_COOKIE))
}

/// The cookie of a consent. Its name differs from consent to consent, so that several may be under way in one
/// browser.
fn name(state: &AuthState, consent: Uuid) -> String {
    // The last bits of a UUID v7 are random.
    format!("{}{:08x}", stem(state), consent.as_u128() & 0xffff_ffff)
}

/// `Set-Cookie` for the browser that begins a consent. When the request had many cookies of consents, the browser also
/// forgets the oldest of them.
///
/// # Errors
/// As [`cookies::set`].
pub(super) fn set_cookies(
    state: &AuthState,
    headers: &HeaderMap,
    consent: Uuid,
    browser: &SecretString,
) -> Result<Vec<HeaderValue>, Failure> {
    let stem = stem(state);
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_ours = |name: &&str| {
        name.strip_prefix(&*stem).is_some_and(|rest| rest.len() == 8 && rest.bytes().all(is_digit))
    };
    // Browsers put the oldest first (RFC 6265 §5.4).
    let ours: Vec<&str> = cookies::pairs(headers).map(|(name, _)| name).filter(is_ours).collect();
    let many = ours.len().saturating_sub(MOST_COOKIES - 1);
    let mut set: Vec<HeaderValue> =
        ours[..many].iter().map(|name| set_cookie(state, name, "", 0)).collect::<Result<_, _>>()?;
    let life = CONSENT_LIFE.as_secs();
    set.push(set_cookie(state, &name(state, consent), browser.expose_secret(), life)?);
    Ok(set)
}

fn set_cookie(state: &AuthState, name: &str, value: &str, max_age: u64) -> Result<HeaderValue, Failure> {
    let attributes = cookies::Attributes { below: PATH, max_age, same_site: cookies::SameSite::Lax };
    cookies::set(state, name, value, attributes)
}

fn cookie_of(state: &AuthState, headers: &HeaderMap, consent: Uuid) -> Option<SecretString> {
    cookies::only(headers, &name(state, consent)).map(|value| value.to_owned().into())
}

/// What a provider sent, taken apart.
struct Sent {
    /// Empty when there is none, or when this is no answer of a provider's at all.
    state: String,
    parameters: Vec<(String, SecretString)>,
}

fn read(encoded: &[u8]) -> Sent {
    let nothing = || Sent { state: String::new(), parameters: Vec::new() };
    let (mut sent, mut seen) = (nothing(), [false; ONCE.len()]);
    for (name, value) in form_urlencoded::parse(encoded) {
        let place = ONCE.iter().position(|once| *once == name);
        let is_second = place.is_some_and(|place| std::mem::replace(&mut seen[place], true));
        if is_second || sent.parameters.len() > MOST_PARAMETERS {
            return nothing();
        }
        match &*name {
            "state" => sent.state = value.into_owned(),
            ONCE_MORE => {}
            _ => sent.parameters.push((name.into_owned(), value.into_owned().into())),
        }
    }
    if sent.parameters.len() > MOST_PARAMETERS { nothing() } else { sent }
}

/// Where a provider sends the browser back to.
///
/// The browser goes on to `return_to` with `connection`, and with `error` when it did not work; without
/// `return_to`, a page says how it went.
#[utoipa::path(get, path = "/connections/callback", tag = "Connections",
    params(
        ("state" = Option<String>, Query, description = "As it was sent to the provider."),
        ("code" = Option<String>, Query, description = "What the provider granted."),
        ("error" = Option<String>, Query, description = "Why it granted nothing (RFC 6749 §4.1.2.1)."),
    ),
    responses(
        (status = 303, description = "On to the app.",
            headers(("Location" = String, description = "`return_to` with `connection`, and `error` if any."))),
        (status = 200, content_type = "text/html", description = "A page that says how it went."),
        (status = 400, content_type = "text/html",
            description = "Nothing that this browser has begun within the last ten minutes."),
        (status = 403, content_type = "text/html", description = "The account is gone."),
        (status = 409, content_type = "text/html", description = "The connection was changed meanwhile."),
        (status = 429, content_type = "text/html", description = "Too many attempts.",
            headers(("Retry-After" = String, description = "Seconds to wait (RFC 9110 §10.2.3)."))),
        (status = 500, content_type = "text/html", description = "Something of ours failed."),
        (status = 503, content_type = "text/html", description = "The store cannot write.",
            headers(("Retry-After" = String, description = "Seconds to wait (RFC 9110 §10.2.3)."))),
    ))]
async fn by_query(
    State(state): SharedAuthState,
    By(client): By,
    method: Method,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    // A state is good once; a client that only looks whether there is something here must not use it up.
    if method == Method::HEAD {
        return message_page(StatusCode::OK, "Connect an account", "A provider sends your browser here.");
    }
    let query = Zeroizing::new(query.unwrap_or_default());
    complete(&state, &client, &headers, read(query.as_bytes())).await
}

/// The same for providers that send a form.
#[utoipa::path(post, path = "/connections/callback", tag = "Connections",
    request_body(content = String, content_type = "application/x-www-form-urlencoded",
        description = "What the provider sent."),
    responses(
        (status = 303, description = "On to the app.",
            headers(("Location" = String, description = "`return_to` with `connection`, and `error` if any."))),
        (status = 200, content_type = "text/html",
            description = "A page that says how it went, or one that sends the form once more from here."),
        (status = 400, content_type = "text/html",
            description = "Nothing that this browser has begun within the last ten minutes."),
        (status = 403, content_type = "text/html", description = "The account is gone."),
        (status = 409, content_type = "text/html", description = "The connection was changed meanwhile."),
        (status = 413, content_type = "text/html", description = "More than 64 KiB."),
        (status = 415, content_type = "text/html", description = "No form."),
        (status = 429, content_type = "text/html", description = "Too many attempts.",
            headers(("Retry-After" = String, description = "Seconds to wait (RFC 9110 §10.2.3)."))),
        (status = 500, content_type = "text/html", description = "Something of ours failed."),
        (status = 503, content_type = "text/html", description = "The store cannot write.",
            headers(("Retry-After" = String, description = "Seconds to wait (RFC 9110 §10.2.3)."))),
    ))]
async fn by_form(
    State(state): SharedAuthState,
    By(client): By,
    headers: HeaderMap,
    Form(form): Form,
) -> Response {
    let sent = read(&form);
    let consent = state.connections.consent_of(&sent.state);
    let lacks_cookie = consent.is_some_and(|consent| cookie_of(&state, &headers, consent).is_none());
    let is_first = form_urlencoded::parse(&form).all(|(name, _)| name != ONCE_MORE);
    // Only what answers a consent of ours goes round: anything else would let any site make pages here.
    if lacks_cookie && is_first { once_more(&form) } else { complete(&state, &client, &headers, sent).await }
}

async fn complete(state: &AuthState, client: &Client, headers: &HeaderMap, sent: Sent) -> Response {
    let consent = state.connections.consent_of(&sent.state);
    let callback = Callback {
        browser: consent.and_then(|consent| cookie_of(state, headers, consent)),
        state: sent.state,
        parameters: sent.parameters,
    };
    match state.connections.callback(client, callback).await {
        Ok(returned) => {
            let mut response = gone_on(state, &returned);
            // After a success the browser keeps it until the consent would have ended, for when the page is reloaded.
            let spent = consent.filter(|_| returned.outcome.is_err());
            let spent = spent.map(|consent| set_cookie(state, &name(state, consent), "", 0));
            if let Some(Ok(spent)) = spent {
                response.headers_mut().insert(header::SET_COOKIE, spent);
            }
            response
        }
        Err(error) => failed(error),
    }
}

/// On to the app, or to a page that says how it went.
fn gone_on(state: &AuthState, returned: &Returned) -> Response {
    let known = state.connections.providers().into_iter().find(|info| info.name == returned.provider);
    let provider = known.map_or_else(|| returned.provider.clone(), |info| info.display_name);
    let to = returned.return_to.as_ref().map(|to| location(to, returned));
    match to.map(Location::new) {
        Some(Ok(to)) => {
            let redirect = Redirect { code: "returned", to, cookies: Vec::new() };
            written(&redirect.into(), String::new())
        }
        // It was read as a URL, which is visible ASCII; a page is an answer all the same.
        Some(Err(_)) | None => match &returned.outcome {
            Ok(()) => message_page(
                StatusCode::OK,
                "Your account is connected",
                &format!("The connection to {provider} works. You can close this page."),
            ),
            Err(refusal) => {
                let words = format!(
                    "The connection to {provider} did not come about: {}. You can close this page and try again \
                     from the app.",
                    refusal.meaning
                );
                let title = "Your account is not connected";
                message_page_with(StatusCode::OK, title, &words, refusal.said.as_deref().map(quoted))
            }
        },
    }
}

/// `to` with `connection`, and with `error` if there is one, in its query (RFC 3986 §3.4).
fn location(to: &str, returned: &Returned) -> String {
    let (to, fragment) = to.split_once('#').map_or((to, None), |(to, fragment)| (to, Some(fragment)));
    let mut query = Serializer::new(String::new());
    query.append_pair("connection", &returned.connection.to_string());
    if let Err(refusal) = &returned.outcome {
        query.append_pair("error", refusal.word);
    }
    let joint = match to.split_once('?') {
        None => "?",
        Some((_, "")) => "",
        Some(_) => "&",
    };
    let fragment = fragment.map(|fragment| format!("#{fragment}")).unwrap_or_default();
    format!("{to}{joint}{}{fragment}", query.finish())
}

fn failed(error: ConnectionError) -> Response {
    let title = "Your account is not connected";
    match error {
        ConnectionError::InvalidState => message_page(
            StatusCode::BAD_REQUEST,
            title,
            "This page was opened in another browser than the one that began, or more than ten minutes later, or \
             for a second time. Go back to the app and connect the account again.",
        ),
        // Told as everywhere else, in a page's words.
        error => {
            let failure = Failure::from(error);
            let words = failure.document()["detail"].as_str().unwrap_or_default().to_owned();
            let answered = axum::response::IntoResponse::into_response(failure);
            let mut response = message_page(
                answered.status(),
                title,
                &format!("{words}. Go back to the app and try again."),
            );
            if let Some(wait) = answered.headers().get(header::RETRY_AFTER) {
                response.headers_mut().insert(header::RETRY_AFTER, wait.clone());
            }
            response
        }
    }
}

/// A provider's words as HTML, which says whose words they are. No quotation mark in them ends the quotation, and
/// their direction of writing ends with it.
fn quoted(words: &str) -> String {
    let inner: String = words
        .chars()
        .map(|c| {
            if matches!(c, '"' | '\u{201c}'..='\u{201f}' | '«' | '»' | '\u{301d}'..='\u{301f}') {
                '\''
            } else {
                c
            }
        })
        .collect();
    format!("\n<p>In the provider’s own words: “<bdi>{}</bdi>”</p>", escaped(&inner))
}

/// A page with a heading and a sentence, for people.
fn message_page(status: StatusCode, title: &str, words: &str) -> Response {
    message_page_with(status, title, words, None)
}

/// The same with a quotation from [`quoted`] below the sentence.
fn message_page_with(status: StatusCode, title: &str, words: &str, quotation: Option<String>) -> Response {
    let style = format!("\n{}", pages::STYLE);
    // The words of others come last and at once: nothing in them is taken for a place to be filled.
    let html = include_str!("pages/told.html")
        .replace("{{style}}", &style)
        .replace("{{title}}", &escaped(title))
        .replace("{{paragraphs}}", &format!("<p>{}</p>{}", escaped(words), quotation.unwrap_or_default()));
    let policy = format!(
        "default-src 'none'; style-src '{}'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
        pages::source(&style)
    );
    page(status, html, &policy)
}

fn page(status: StatusCode, html: String, policy: &str) -> Response {
    let mut response = pages::page(status, html, policy);
    // An app that opens the provider in a window of its own waits for that window.
    response.headers_mut().remove("cross-origin-opener-policy");
    response
}

/// The page that sends a form again as it came, this time from here.
fn once_more(form: &[u8]) -> Response {
    let mut fields = Zeroizing::new(format!("<input type=\"hidden\" name=\"{ONCE_MORE}\" value=\"1\">"));
    for (name, value) in form_urlencoded::parse(form) {
        fields.push_str(&format!(
            "\n<input type=\"hidden\" name=\"{}\" value=\"{}\">",
            escaped(&name),
            escaped(&value)
        ));
    }
    let style = format!("\n{}", pages::STYLE);
    let html = include_str!("pages/once_more.html")
        .replace("{{style}}", &style)
        .replace("{{script}}", SEND)
        .replace("{{fields}}", &fields);
    // No `form-action`: browsers hold it against where the form's answer redirects to as well, and that is the
    // app.
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; base-uri 'none'; frame-ancestors 'none'",
        pages::source(SEND),
        pages::source(&style)
    );
    page(StatusCode::OK, html, &policy)
}

/// The body of a form, whole. Says on a page what is wrong with it.
struct Form(Zeroizing<Vec<u8>>);

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Form, Response> {
        let title = "Your account is not connected";
        let refused = |status, words| message_page(status, title, words);
        if !body::is_of(&request, b"application/x-www-form-urlencoded") {
            return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "What the provider sent is no form."));
        }
        body::read(request).await.map(Form).map_err(|failure| {
            let status = axum::response::IntoResponse::into_response(failure).status();
            refused(status, "What the provider sent could not be read. Go back to the app and try again.")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_core::domain::connection::ConnectionId;
    use palisade_core::service::connections::ConsentRefusal;

    #[test]
    fn an_answer_joins_what_is_in_the_address_already() {
        let check = |to: &str, word: Option<&'static str>| {
            let refusal = |word| ConsentRefusal { word, meaning: "words", said: None };
            let outcome = word.map_or(Ok(()), |word| Err(refusal(word)));
            let connection = ConnectionId(Uuid::nil());
            location(to, &Returned { connection, provider: "p".into(), return_to: None, outcome })
        };
        let id = "connection=00000000-0000-0000-0000-000000000000";
        assert_eq!(check("https://a.test/x", None), format!("https://a.test/x?{id}"));
        assert_eq!(check("https://a.test/x?", None), format!("https://a.test/x?{id}"));
        assert_eq!(check("https://a.test/x?y=1#z", None), format!("https://a.test/x?y=1&{id}#z"));
        assert_eq!(check("app://done#?", None), format!("app://done?{id}#?"));
        assert_eq!(
            check("https://a.test/", Some("a&b=c#\r\nd é")),
            format!("https://a.test/?{id}&error=a%26b%3Dc%23%0D%0Ad+%C3%A9")
        );
    }

    #[test]
    fn only_one_state_is_one() {
        let state = |query: &str| read(query.as_bytes()).state;
        assert_eq!(state("code=1&state=a%2Bb"), "a+b");
        assert_eq!(state("code=1"), "");
        for bad in
            ["state=a&state=b", "state=a&code=1&code=2", "state=a&error=x&error", "iss=x&iss=y&state=a"]
        {
            assert_eq!(state(bad), "", "{bad}");
        }
        let many = |count: usize| format!("{}state=a", "b=1&".repeat(count));
        assert_eq!((state(&many(64)).as_str(), state(&many(65)).as_str()), ("a", ""));
        let sent = read(b"a=1&state=s&a=2&palisade_once_more=1&b");
        let kept: Vec<_> = sent.parameters.iter().map(|(k, v)| (k.as_str(), v.expose_secret())).collect();
        assert_eq!(kept, [("a", "1"), ("a", "2"), ("b", "")]);
    }

    #[test]
    fn a_providers_words_are_quoted_and_end_no_quotation() {
        let html = |said: &str| {
            let response =
                message_page_with(StatusCode::OK, "T", "Our words {{paragraphs}}.", Some(quoted(said)));
            let bytes =
                futures::executor::block_on(axum::body::to_bytes(response.into_body(), 1 << 20)).unwrap();
            String::from_utf8(bytes.to_vec()).unwrap()
        };
        let shown = html("No.” Your bank says: \"<a href='//evil.test'>sign in</a>\" «now» {{title}}");
        let quotation = "<p>In the provider’s own words: “<bdi>No.' Your bank says: '&lt;a href='//evil.test'&gt;sign \
                         in&lt;/a&gt;' 'now' {{title}}</bdi>”</p>";
        assert!(shown.contains(quotation), "{shown}");
        assert!(shown.contains("<p>Our words {{paragraphs}}.</p>\n<p>In the"), "{shown}");
        assert_eq!(shown.matches("<a").count(), 0);
    }

    #[test]
    fn a_form_is_sent_again_as_it_came_and_runs_nothing() {
        let response = once_more(b"state=s&user=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&%3C=%26");
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        assert!(policy.contains(&format!("script-src '{}'", pages::source(SEND))), "{policy}");
        let bytes = futures::executor::block_on(axum::body::to_bytes(response.into_body(), 1 << 20)).unwrap();
        let html = std::str::from_utf8(&bytes).unwrap();
        assert!(html.contains("name=\"state\" value=\"s\""), "{html}");
        assert!(html.contains("value=\"&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;\""), "{html}");
        assert!(html.contains("name=\"&lt;\" value=\"&amp;\""), "{html}");
        assert_eq!(html.matches("<script>").count(), 1);
        assert!(html.contains(&format!("<script>{SEND}</script>")), "{html}");
    }
}
