//! `app_cookies` of a route in the fields of its requests and answers: an app gets its own session cookie back only under
//! the session of ours in which it was set ([`palisade_core::domain::app_cookie`]).

use http::{HeaderValue, header};

use super::fields::{self, HeaderFields};
use super::served::ServedRoute;
use palisade_core::domain::app_cookie::{self, Marks, Sorted};
use palisade_core::domain::credential::name_that_is_set;
use palisade_core::domain::redirect::SetCookie;
use palisade_core::domain::request::Host;
use palisade_core::domain::table::Table;
use palisade_core::service::admit::Permit;
use palisade_core::service::session_cookies::SessionCookies;

/// The app's cookies of one request, as they were sorted.
#[derive(Debug)]
pub struct AppCookies {
    owner: String,
    host: String,
    sorted: Sorted,
}

impl AppCookies {
    /// Sorts the app's cookies of a request, and leaves in `fields` those that the app may have. `None` where the route
    /// lists none. `host` is the Host as it was matched.
    pub fn sort(
        sessions: Option<&SessionCookies>,
        permit: &Permit<ServedRoute>,
        host: &str,
        fields: &mut impl HeaderFields,
    ) -> Option<Box<AppCookies>> {
        let (sessions, names) = (sessions?, &permit.route().route.browser.app_cookies);
        if names.is_empty() {
            return None;
        }
        let owner = app_cookie::owner(permit.caller().map(|caller| &caller.identity));
        let host = Host::parse(host.as_bytes()).map(|host| host.name().to_owned()).ok()?;
        let mut sorted = Sorted::default();
        // The lines were joined before.
        if let Some(line) = fields.map().get(header::COOKIE) {
            let line = String::from_utf8_lossy(line.as_bytes()).into_owned();
            sorted = marks(sessions, &owner, &host).sort(&line, names);
            match HeaderValue::from_bytes(sorted.line.as_bytes()) {
                Ok(kept) if !kept.is_empty() => fields.put(&fields::COOKIE, kept),
                _ => fields.take_out(&header::COOKIE),
            }
        }
        Some(Box::new(AppCookies { owner, host, sorted }))
    }

    /// Marks what the app sets in `answer`, and makes the browser forget what was not forwarded. True when anything was
    /// added, which no other client may be served.
    pub fn mark(&self, sessions: &SessionCookies, names: &[String], answer: &mut impl HeaderFields) -> bool {
        let marks = marks(sessions, &self.owner, &self.host);
        let (mut lines, mut set) = (Vec::new(), Vec::new());
        for line in answer.map().get_all(header::SET_COOKIE) {
            let Ok(name) = std::str::from_utf8(name_that_is_set(line.as_bytes())) else { continue };
            let pair = line.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
            let value = String::from_utf8_lossy(pair);
            let value = value.split_once('=').map_or("", |(_, value)| value.trim());
            if names.iter().any(|listed| listed == name) {
                set.push(name.to_owned());
                lines.extend(marks.set(name, value, &self.sorted.good).ok());
            }
        }
        for name in self.sorted.stale.iter().filter(|name| !set.contains(name)) {
            lines.extend(app_cookie::expired(name, &self.host, marks.is_secure));
        }
        add(answer, &lines)
    }
}

/// The lines that make the browser forget every app's cookie of a host, when `answer` of ours sets or takes back its
/// session cookie.
pub fn forget_all(
    sessions: &SessionCookies,
    routes: &Table<ServedRoute>,
    host: &str,
    answer: &mut impl HeaderFields,
) {
    let host = Host::parse(host.as_bytes()).map(|host| host.name().to_owned()).unwrap_or_default();
    let is_session = |name: &[u8]| {
        sessions.settings.cookies_at(&host).into_iter().flatten().any(|(ours, _)| ours.as_bytes() == name)
    };
    let mut lines = answer.map().get_all(header::SET_COOKIE).iter();
    if !lines.any(|line| is_session(name_that_is_set(line.as_bytes()))) {
        return;
    }
    let mut names: Vec<&String> =
        routes.of_host(&host).flat_map(|served| &served.route.browser.app_cookies).collect();
    names.sort_unstable();
    names.dedup();
    let is_secure = sessions.settings.is_secure();
    let lines: Vec<SetCookie> =
        names.into_iter().flat_map(|name| app_cookie::expired(name, &host, is_secure)).collect();
    add(answer, &lines);
}

fn marks<'a>(sessions: &'a SessionCookies, owner: &'a str, host: &'a str) -> Marks<'a> {
    Marks { key: &sessions.key, owner, host, is_secure: sessions.settings.is_secure() }
}

fn add(answer: &mut impl HeaderFields, lines: &[SetCookie]) -> bool {
    for line in lines {
        // Visible ASCII and spaces.
        if let Ok(mut line) = HeaderValue::from_str(line.expose()) {
            line.set_sensitive(true);
            answer.add(&fields::SET_COOKIE, line);
        }
    }
    !lines.is_empty()
}
