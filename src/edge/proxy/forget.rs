//! Taking back a cookie whose token is no longer good, from the browser that sent it.

use http::{HeaderValue, header};

use super::caching;
use super::fields::{self, HeaderFields};
use palisade_core::domain::redirect::SetCookie;
use palisade_core::domain::request::Scheme;

/// Lets the browser forget the cookie `name`, unless the app sets it in this answer. Such an answer is kept by no
/// cache, which would sign out every client that is served from it.
pub fn cookie(answer: &mut impl HeaderFields, name: &str, public: Scheme) {
    let is_set = |line: &HeaderValue| {
        let key = line.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default();
        key.trim_ascii() == name.as_bytes()
    };
    if answer.map().get_all(header::SET_COOKIE).iter().any(is_set) {
        return;
    }
    // The name is a token (the configuration sees to that), so this is always a value.
    if let Ok(line) = SetCookie::expired(name, public == Scheme::Https, None)
        && let Ok(line) = HeaderValue::from_str(line.expose())
    {
        answer.add(&fields::SET_COOKIE, line);
    }
    caching::tell_no_shared_cache(answer);
    answer.take_out(&header::EXPIRES);
    answer.put(&fields::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    fn answer(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut response = HeaderMap::new();
        for (name, value) in fields {
            response.append(*name, HeaderValue::from_static(value));
        }
        response
    }

    fn lines(response: &HeaderMap, name: &str) -> Vec<String> {
        response.get_all(name).iter().map(|line| line.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_cookie_is_cleared_under_its_own_name_and_in_no_cache() {
        for (name, public, secure) in [
            ("session", Scheme::Http, ""),
            ("session", Scheme::Https, "; Secure"),
            ("__Host-session", Scheme::Http, "; Secure"),
            ("__secure-session", Scheme::Http, "; Secure"),
        ] {
            let mut response = answer(&[
                ("set-cookie", "sessions=1"),
                ("cache-control", "public, max-age=60"),
                ("cdn-cache-control", "max-age=60"),
                ("surrogate-control", "max-age=60"),
            ]);
            cookie(&mut response, name, public);
            let cleared = format!("{name}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax{secure}");
            assert_eq!(lines(&response, "set-cookie"), ["sessions=1".to_owned(), cleared]);
            assert_eq!(lines(&response, "cache-control"), ["no-store"]);
            assert_eq!(lines(&response, "cdn-cache-control"), [""; 0]);
            assert_eq!(lines(&response, "surrogate-control"), [""; 0]);
        }
    }

    #[test]
    fn a_cookie_that_the_app_sets_anew_stays() {
        let fields = [("set-cookie", "session = new; Path=/"), ("cache-control", "private")];
        let mut response = answer(&fields);
        cookie(&mut response, "session", Scheme::Https);
        assert_eq!(lines(&response, "set-cookie"), ["session = new; Path=/"]);
        assert_eq!(lines(&response, "cache-control"), ["private"]);
    }
}
