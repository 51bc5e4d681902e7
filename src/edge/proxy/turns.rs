//! The turn that a browser makes by the sign-in: the nonce that it takes along from this host, and the mark that it comes
//! back with ([`palisade_core::domain::carry`]).

use pingora::http::RequestHeader;

use super::inbound;
use crate::http_fields::Fields;
use palisade_core::domain::browser::BrowserSettings;
use palisade_core::domain::carry::{self, NotKept};
use palisade_core::domain::credential;
use palisade_core::domain::redirect::{Location, Redirect, SetCookie};
use palisade_core::domain::request::{Host, Request};
use palisade_core::domain::return_to::{ReturnReach, ReturnTarget};
use palisade_core::domain::route::Route;
use palisade_core::service::admit::Verdict;
use palisade_core::service::carry::{SessionCarrier, carried_to};

/// The code of a redirect to the same address without its mark.
const TURNED: &str = "signed_in";

/// What the address of the sign-in page gets when a session has to be carried back, and the cookie that goes with it.
pub struct CarryAlong {
    pub parameter: String,
    pub nonce: Option<SetCookie>,
}

/// Begins the carry of a session to `target` on the host that was asked; `None` where the session is there anyway, or
/// gets there in no way.
#[must_use]
pub fn begin(
    carrier: &SessionCarrier,
    settings: &BrowserSettings,
    header: &RequestHeader,
    host: &str,
    target: &ReturnTarget,
) -> Option<CarryAlong> {
    let host = Host::parse(host.as_bytes()).ok()?;
    let origin = carried_to(settings, &host)?;
    if target.reach() != ReturnReach::Carried || target.origin() != origin {
        return None;
    }
    let is_cleartext = carry::is_cleartext(settings, &Fields(&header.headers));
    let begun = carrier.begin(origin, nonce(settings, header).as_deref(), is_cleartext);
    let nonce = begun.new_nonce.and_then(|nonce| carry::set_nonce(settings, &nonce).ok());
    Some(CarryAlong { parameter: begun.parameter, nonce })
}

/// The one nonce cookie of a request. Of two, another host or path may have planted one.
fn nonce(settings: &BrowserSettings, header: &RequestHeader) -> Option<String> {
    let (name, mut found) = (carry::nonce_cookie(settings), Vec::new());
    let fields = Fields(&header.headers);
    credential::each_cookie(&fields, &name, &mut |value| found.push(value.to_owned()));
    if found.len() == 1 { found.pop() } else { None }
}

/// Why a browser that was sent back just now has no session; `None`: it was not.
#[must_use]
pub fn not_kept(
    carrier: &SessionCarrier,
    settings: &BrowserSettings,
    header: &RequestHeader,
    host: &str,
) -> Option<NotKept> {
    let host = Host::parse(host.as_bytes()).ok()?;
    let turn = carrier.turn(host.name(), header.uri.query())?;
    NotKept::of(turn, carry::is_cleartext(settings, &Fields(&header.headers)))
}

/// A path and query without the mark.
#[must_use]
pub fn unmarked(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
    match carry::split_mark(query) {
        None => target.to_owned(),
        Some((None, _)) => path.to_owned(),
        Some((Some(rest), _)) => format!("{path}?{rest}"),
    }
}

/// Takes the mark out of the address of an admitted navigation, by a redirect: the app does not get to see it, and a
/// person who keeps the address keeps one without. Costs one comparison at the end of a query.
pub fn without_mark<R: AsRef<Route>>(
    header: &RequestHeader,
    request: &Request<'_>,
    verdict: Verdict<R>,
) -> Verdict<R> {
    let is_marked = request.query.is_some_and(|query| carry::split_mark(query).is_some());
    if !is_marked || request.websocket || !matches!(request.method, "GET" | "HEAD") {
        return verdict;
    }
    let Verdict::Permit(permit) = verdict else { return verdict };
    let target =
        inbound::origin_form(header.raw_path()).ok().and_then(|target| std::str::from_utf8(target).ok());
    match target.and_then(|target| Location::new(unmarked(target)).ok()) {
        Some(to) => Verdict::Redirect {
            redirect: Redirect { code: TURNED, to, cookies: Vec::new() },
            route: std::sync::Arc::clone(permit.route()),
        },
        // A path that could be taken for a host: the app gets it as it is.
        None => Verdict::Permit(permit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_taken_off_and_nothing_else() {
        let mark = format!("palisade-turn={}", "A".repeat(32));
        for (target, without) in [
            ("/x", "/x"),
            ("/x?", "/x?"),
            ("/x?a=1", "/x?a=1"),
            (&format!("/x?{mark}"), "/x"),
            (&format!("/x?a=1&{mark}"), "/x?a=1"),
            (&format!("/x?a=1&&{mark}"), "/x?a=1&"),
            (&format!("/x?{mark}&a=1"), &format!("/x?{mark}&a=1")),
        ] {
            assert_eq!(unmarked(target), without);
        }
    }
}
