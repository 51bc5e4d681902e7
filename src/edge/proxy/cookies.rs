//! One `Cookie` field, however many lines it came in.
//!
//! HTTP/2 clients may send each cookie as a field of its own (RFC 9113 §8.2.3). Outside HTTP/2 such crumbs must be
//! joined by `; `: apps read the first line only, or join lines by a comma, and lose the session. Two lines in
//! HTTP/1.1, which no browser sends (RFC 6265 §5.4), are read in the same way, so that what we read ourselves and
//! what the app reads are the same cookies.

use http::{HeaderValue, header};

use super::fields::{self, HeaderFields};
use palisade_core::domain::credential;

/// Joins the `Cookie` lines of `request` into one, in their order. A request with one line or none is left
/// as it is.
pub fn join(fields: &mut impl HeaderFields) {
    if fields.map().get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let lines = fields.map().get_all(header::COOKIE).iter();
    let crumbs = lines.map(|line| line.as_bytes().trim_ascii()).filter(|crumb| !crumb.is_empty());
    let joined = crumbs.collect::<Vec<_>>().join(&b"; "[..]);
    fields.take_out(&header::COOKIE);
    // Made of valid values and two ASCII characters: always valid.
    if !joined.is_empty()
        && let Ok(joined) = HeaderValue::from_bytes(&joined)
    {
        fields.put(&fields::COOKIE, joined);
    }
}

/// Takes the lines out of an app's answer that would set a cookie of ours: an app could sign its visitor in as another
/// person, or out, on every host of a domain.
pub fn take_out_ours(answer: &mut impl HeaderFields) {
    let lines = answer.map().get_all(header::SET_COOKIE);
    if !lines.iter().any(|line| credential::sets_ours(line.as_bytes())) {
        return;
    }
    let kept: Vec<HeaderValue> =
        lines.iter().filter(|line| !credential::sets_ours(line.as_bytes())).cloned().collect();
    answer.take_out(&header::SET_COOKIE);
    for line in kept {
        answer.add(&fields::SET_COOKIE, line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_sets_its_own_cookies_only() {
        let mut answer = http::HeaderMap::new();
        for line in ["a=1", "__Host-palisade=x; Path=/; Secure", "b=2; Path=/palisade", "=palisade=x"] {
            answer.append("set-cookie", HeaderValue::from_static(line));
        }
        take_out_ours(&mut answer);
        let left: Vec<_> = answer.get_all("set-cookie").iter().collect();
        assert_eq!(left, ["a=1", "b=2; Path=/palisade"]);
    }

    #[test]
    fn lines_become_one_in_their_order() {
        let joined = |lines: &[&[u8]]| {
            let mut request = http::HeaderMap::new();
            for line in lines {
                request.append("cookie", HeaderValue::from_bytes(line).unwrap());
            }
            join(&mut request);
            let lines = request.get_all("cookie").iter();
            lines.map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(joined(&[b"a=1", b"b=2", b"c=3"]), [b"a=1; b=2; c=3"]);
        assert_eq!(joined(&[b"a=1; b=2", b"", b" c=\xe9 "]), [b"a=1; b=2; c=\xe9"]);
        assert_eq!(joined(&[b"a=1;b=2"]), [b"a=1;b=2"]);
        assert_eq!(joined(&[b"", b""]), Vec::<Vec<u8>>::new());
        assert_eq!(joined(&[]), Vec::<Vec<u8>>::new());
    }
}
