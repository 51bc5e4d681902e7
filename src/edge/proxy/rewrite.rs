//! `rewrite` of a route: what an app says of its own addresses is told as clients of the gateway know them. Off unless asked
//! for, because an app that goes by `X-Forwarded-Prefix` and `X-Forwarded-Host` says it right already.

use http::HeaderValue;

use super::fields::{self, FieldName, HeaderFields};
use crate::config;
use palisade_core::domain::credential::name_that_is_set;
use palisade_core::domain::request::{Host, Scheme, WebOrigin};
use palisade_core::domain::upstream_path::UpstreamPath;

/// What is written anew in the answers of one route.
pub struct Rewriting {
    settings: config::Rewrite,
    paths: UpstreamPath,
    scheme: Scheme,
    /// `host[:port]` of each upstream.
    upstreams: Vec<String>,
    /// Whether the app is told the caller's Host, and so may take that for its own.
    preserve_host: bool,
}

impl Rewriting {
    /// `None`: nothing is.
    #[must_use]
    pub fn new(upstream: &config::Upstream, paths: &UpstreamPath, preserve_host: bool) -> Option<Rewriting> {
        let settings = upstream.rewrite;
        let is_tls = upstream.origins.iter().any(|origin| origin.tls);
        let upstreams = upstream.origins.iter().map(|origin| format!("{}:{}", origin.host, origin.port));
        (settings.location || settings.cookies).then(|| Rewriting {
            settings,
            paths: paths.clone(),
            scheme: if is_tls { Scheme::Https } else { Scheme::Http },
            upstreams: upstreams.collect(),
            preserve_host,
        })
    }

    /// Writes an app's answer anew. `host`: the Host of the request, as it was matched.
    pub fn apply(&self, host: &str, answer: &mut impl HeaderFields) {
        if self.settings.location {
            for name in [&fields::LOCATION, &fields::CONTENT_LOCATION] {
                self.each_line(name, answer, |line| self.location(line, host));
            }
        }
        if self.settings.cookies {
            self.each_line(&fields::SET_COOKIE, answer, |line| self.cookie(line, host));
        }
    }

    /// Replaces the lines of a field for which there is another text.
    fn each_line(
        &self,
        name: &FieldName,
        answer: &mut impl HeaderFields,
        line: impl Fn(&str) -> Option<String>,
    ) {
        let anew = |value: &HeaderValue| -> Option<HeaderValue> {
            let mut anew = HeaderValue::from_str(&line(value.to_str().ok()?)?).ok()?;
            anew.set_sensitive(value.is_sensitive());
            Some(anew)
        };
        let lines: Vec<_> =
            answer.map().get_all(name.name()).iter().map(|value| (value.clone(), anew(value))).collect();
        if lines.iter().all(|(_, anew)| anew.is_none()) {
            return;
        }
        answer.take_out(name.name());
        for (value, anew) in lines {
            answer.add(name, anew.unwrap_or(value));
        }
    }

    /// A reference to the app's own (RFC 3986 §4.1) as a path of ours. A path that is relative needs no change.
    fn location(&self, text: &str, host: &str) -> Option<String> {
        if text.starts_with('/') && !text.starts_with("//") {
            return self.paths.public_of(text).filter(|public| public != text);
        }
        let authority = text.find("//")? + 2;
        let end = text[authority..].find(['/', '?', '#']).map_or(text.len(), |at| authority + at);
        let name = Host::parse(&text.as_bytes()[authority..end]).ok()?;
        let scheme = match &text[..authority] {
            "//" => self.scheme,
            written => WebOrigin::parse(&format!("{written}{name}"))?.scheme,
        };
        let asked = WebOrigin { scheme, host: name };
        if !self.is_own(&asked, host) {
            return None;
        }
        match &text[end..] {
            path if path.starts_with('/') => self.paths.public_of(path),
            rest => self.paths.public_of(&format!("/{rest}")),
        }
    }

    /// Whether the app would call itself so.
    fn is_own(&self, asked: &WebOrigin<'_>, host: &str) -> bool {
        let is_at = |authority: &str, scheme: Scheme| {
            let host = Host::parse(authority.as_bytes()).ok();
            host.is_some_and(|host| asked.is_same(&WebOrigin { scheme, host }))
        };
        self.upstreams.iter().any(|upstream| is_at(upstream, self.scheme))
            // An app behind TLS that ended before it may write either scheme.
            || self.preserve_host && is_at(host, asked.scheme)
    }

    /// A line of `Set-Cookie` (RFC 6265 §4.1.1) with the Path as clients know it, and without a Domain that is the upstream's.
    fn cookie(&self, line: &str, host: &str) -> Option<String> {
        let mut parts = line.split(';');
        let pair = parts.next()?;
        let name = name_that_is_set(line.as_bytes());
        // Browsers take such a cookie for the path / alone.
        let is_for_root = name.get(..7).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"__Host-"));
        let (mut anew, mut is_changed) = (pair.to_owned(), false);
        for part in parts {
            let (attribute, value) = part.split_once('=').unwrap_or((part, ""));
            let (attribute, value) = (attribute.trim(), value.trim());
            if attribute.eq_ignore_ascii_case("path") && !is_for_root {
                if let Some(public) = self.cookie_path(value).filter(|public| public != value) {
                    anew.push_str("; Path=");
                    anew.push_str(&public);
                    is_changed = true;
                    continue;
                }
            } else if attribute.eq_ignore_ascii_case("domain") && self.is_upstreams(value, host) {
                is_changed = true;
                continue;
            }
            anew.push(';');
            anew.push_str(part);
        }
        is_changed.then_some(anew)
    }

    fn cookie_path(&self, path: &str) -> Option<String> {
        match (self.paths.stripped(), self.paths.public_of(path)?) {
            // The whole app: `/api` holds `/api` and what is below it, `/api/` not the first (RFC 6265 §5.1.4).
            (Some(prefix), public) if public.strip_suffix('/') == Some(prefix) => Some(prefix.to_owned()),
            (_, public) => Some(public),
        }
    }

    /// Whether a Domain is that of an upstream and not of the host that the client asked: the client would drop the cookie.
    fn is_upstreams(&self, domain: &str, host: &str) -> bool {
        let domain = domain.strip_prefix('.').unwrap_or(domain).to_ascii_lowercase();
        let holds = |name: &str| {
            name.strip_suffix(&*domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let name = |authority: &str| Host::parse(authority.as_bytes()).map(|host| host.name().to_owned());
        let is_of = |authority: &str| name(authority).is_ok_and(|name| !domain.is_empty() && holds(&name));
        !is_of(host) && self.upstreams.iter().any(|upstream| is_of(upstream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use std::path::Path;

    fn rewriting(strip: &str, upstream: &str, keys: &str) -> Rewriting {
        let strip = if strip.is_empty() { String::new() } else { format!("strip_prefix = {strip:?}\n") };
        let at = if strip.is_empty() { "/" } else { "/api" };
        let text = format!(
            "[[routes]]\nname = \"app\"\nmatch = {{ path = {at:?} }}\nupstream = {upstream:?}\n{strip}\
             rewrite = {{ location = true, cookies = true }}\n{keys}\n"
        );
        let config = config::parse(&text, Path::new("config.toml"), &|_| None)
            .unwrap_or_else(|errors| panic!("{errors:#?}"));
        let config::Route { policy, upstream, forward } = &config.routes[0];
        Rewriting::new(upstream, &policy.upstream_path, forward.preserve_host).unwrap()
    }

    fn anew(rewriting: &Rewriting, name: &'static str, line: &str) -> String {
        let mut answer = HeaderMap::new();
        answer.insert(name, line.parse().unwrap());
        rewriting.apply("app.test", &mut answer);
        answer[name].to_str().unwrap().to_owned()
    }

    #[test]
    fn an_address_of_the_app_is_told_as_clients_know_it() {
        let stripped = rewriting("/api", "http://10.0.0.1:3000/base", "");
        let own = rewriting("/api", "http://10.0.0.1:3000/base", "preserve_host = false");
        let plain = rewriting("", "http://app.internal", "");
        for (rewriting, told, known) in [
            (&stripped, "/base/x?y#z", "/api/x?y#z"),
            (&stripped, "/base", "/api"),
            (&stripped, "http://10.0.0.1:3000/base/x", "/api/x"),
            (&stripped, "HTTP://10.0.0.1:3000/base/x", "/api/x"),
            (&stripped, "//10.0.0.1:3000/base/x", "/api/x"),
            (&stripped, "http://app.test/base/x", "/api/x"),
            (&stripped, "https://app.test:443/base/x", "/api/x"),
            (&own, "http://app.test/base/x", "http://app.test/base/x"),
            (&own, "http://10.0.0.1:3000/base/x", "/api/x"),
            (&plain, "http://app.internal/x", "/x"),
            (&plain, "http://app.internal:80?x", "/?x"),
            (&plain, "http://app.internal", "/"),
        ] {
            for name in ["location", "content-location"] {
                assert_eq!(anew(rewriting, name, told), known);
            }
        }
        // What is not the app's own, what is relative, and what would become another host.
        for other in [
            "https://10.0.0.1:3000/base/x",
            "http://10.0.0.1:3001/base/x",
            "http://10.0.0.1:3000@evil.test/base/x",
            "http://evil.test/base/x",
            "http://10.0.0.1:3000/other",
            "/other",
            "/basement",
            "x/y",
            "?x=//10.0.0.1:3000/base",
            "",
        ] {
            assert_eq!(anew(&stripped, "location", other), other);
        }
        let based = rewriting("", "http://10.0.0.1:3000/base", "");
        for evil in ["/base//evil.test", "http://10.0.0.1:3000/base//evil.test", "/base/\\evil.test"] {
            assert_eq!(anew(&based, "location", evil), evil);
        }
        assert_eq!(
            anew(&plain, "location", "http://app.internal//evil.test"),
            "http://app.internal//evil.test"
        );
    }

    #[test]
    fn a_cookie_of_the_app_is_one_of_its_part_of_the_host() {
        let stripped = rewriting("/api", "http://App.internal:3000/base", "");
        let rooted = rewriting("/api", "http://app.internal:3000", "");
        let based = rewriting("", "http://app.internal:3000/base", "");
        for (rewriting, told, known) in [
            (&stripped, "a=1; Path=/base; Secure", "a=1; Path=/api; Secure"),
            (&stripped, "a=1; Path=/base/", "a=1; Path=/api"),
            (&stripped, "a=1;path=/base/x;HttpOnly", "a=1; Path=/api/x;HttpOnly"),
            (&stripped, "a=1; Path=/", "a=1; Path=/"),
            (
                &stripped,
                "a=/base; Expires=Wed, 21 Oct 2026 07:28:00 GMT",
                "a=/base; Expires=Wed, 21 Oct 2026 07:28:00 GMT",
            ),
            (&rooted, "a=1; Path=/", "a=1; Path=/api"),
            (&rooted, "a=1; Path=/x; Domain=app.internal", "a=1; Path=/api/x"),
            (&rooted, "a=1; Domain=.Internal; Secure", "a=1; Secure"),
            (&rooted, "a=1; Domain=app.test", "a=1; Domain=app.test"),
            (&rooted, "a=1; Domain=evil.test", "a=1; Domain=evil.test"),
            (&rooted, "a=1; Domain=nternal", "a=1; Domain=nternal"),
            (&rooted, "a=1; Domain=", "a=1; Domain="),
            (&rooted, "a=1", "a=1"),
            (&rooted, "__Host-a=1; Secure; Path=/", "__Host-a=1; Secure; Path=/"),
            (&rooted, "__hOsT-a=1; Secure; Path=/", "__hOsT-a=1; Secure; Path=/"),
            (&rooted, "a=1; Path=\"/x\"", "a=1; Path=\"/x\""),
            (&based, "a=1; Path=/base", "a=1; Path=/"),
            (&based, "a=1; Path=/base/x", "a=1; Path=/x"),
        ] {
            assert_eq!(anew(rewriting, "set-cookie", told), known);
        }
    }

    #[test]
    fn only_the_lines_that_change_are_written_anew() {
        let rewriting = rewriting("/api", "http://app.internal", "");
        let mut answer = HeaderMap::new();
        for line in ["a=1; Path=/x", "b=2", "c=3; Path=/y"] {
            answer.append("set-cookie", HeaderValue::from_static(line));
        }
        let latin = HeaderValue::from_bytes(b"d=\xe9; Path=/x").unwrap();
        answer.append("set-cookie", latin.clone());
        rewriting.apply("app.test", &mut answer);
        let lines: Vec<_> = answer.get_all("set-cookie").iter().cloned().collect();
        let [a, b, c] = ["a=1; Path=/api/x", "b=2", "c=3; Path=/api/y"].map(HeaderValue::from_static);
        assert_eq!(lines, [a, b, c, latin]);
    }
}
