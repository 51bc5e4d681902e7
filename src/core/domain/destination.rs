//! The second target of a request: COPY and MOVE name in `Destination` where they write (WebDAV, RFC 4918 §10.3).
//!
//! The app acts on it as on the target of the request line, so it is read in the same normal form, and what has two
//! readings is refused. The fields `If` and `Lock-Token` (RFC 4918 §10.4, §10.5) hold URLs too: they are only
//! preconditions, which can make a request fail and never make it act on another path, so they are left alone.

use super::folded::Name;
use super::reading::names_of;
use super::request::{Malformed, Path, Request, Scheme, WebOrigin};
use super::upstream_path::UpstreamPath;

/// The methods whose `Destination` an app acts on: those of RFC 4918 §9.8 and §9.9, and Microsoft's older batch forms.
const METHODS: [&str; 4] = ["COPY", "MOVE", "BCOPY", "BMOVE"];

/// Whether an app may act on the `Destination` of a request with this method. Some servers ignore the case of methods.
#[must_use]
#[inline]
pub fn is_named_by(method: &str) -> bool {
    matches!(method.len(), 4 | 5) && METHODS.iter().any(|name| method.eq_ignore_ascii_case(name))
}

/// Why a `Destination` is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DestinationFault {
    /// More than one field line.
    #[error("The request has more than one Destination.")]
    Several,
    /// Neither an absolute path nor an absolute `http` or `https` URI.
    #[error("The Destination must be an absolute path or an http or https URI, without a query.")]
    Form,
    /// Its path has no single reading, or its route does not take it as it is written.
    #[error("The Destination cannot be used: {0}.")]
    Path(Malformed),
    /// It names another host or port than the request.
    #[error("The Destination is on another host than the request.")]
    OtherHost,
    /// Its route leads to another upstream.
    #[error("The Destination is served by another app than the request's path.")]
    OtherUpstream,
    /// A route with another policy lies below the request's path or below the destination. COPY and MOVE act on a whole
    /// collection (RFC 4918 §9.8.3, §9.9.2), so they would act there as well.
    #[error("Another route with a policy of its own lies below the path or the Destination.")]
    CoversOtherRoute,
}

impl DestinationFault {
    /// The stable word for logs, metrics and problem documents.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            DestinationFault::Several | DestinationFault::Form | DestinationFault::Path(_) => {
                "destination_malformed"
            }
            DestinationFault::OtherHost => "destination_other_host",
            DestinationFault::OtherUpstream => "destination_other_upstream",
            DestinationFault::CoversOtherRoute => "destination_covers_other_route",
        }
    }

    /// 400 for what cannot be read, else 403. RFC 4918 §9.8.5 has 502 for a destination on another server; but proxies
    /// and monitors in front take a 502 for a failure of the app, and this is a decision of policy.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            DestinationFault::Several | DestinationFault::Form | DestinationFault::Path(_) => 400,
            DestinationFault::OtherHost
            | DestinationFault::OtherUpstream
            | DestinationFault::CoversOtherRoute => 403,
        }
    }
}

/// A `Destination` on the host of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination<'a> {
    /// The scheme of an absolute URI; `None`: it is an absolute path.
    pub scheme: Option<Scheme>,
    /// In normal form.
    pub path: Path<'a>,
}

impl<'a> Destination<'a> {
    /// Reads the `Destination` of `request`; `None` when it has none, which the app refuses.
    ///
    /// The port that a URI or the Host leaves out is that of the URI's scheme. Which scheme it is does not matter here:
    /// TLS may end in front of us, and either leads to the same app.
    ///
    /// # Errors
    /// Every [`DestinationFault`] but those about routes.
    pub fn of(request: &Request<'a>) -> Result<Option<Destination<'a>>, DestinationFault> {
        let (mut lines, mut value): (usize, &'a [u8]) = (0, b"");
        request.headers.each("destination", &mut |line| {
            lines += 1;
            value = line.trim_ascii();
        });
        match lines {
            0 => return Ok(None),
            1 => {}
            _ => return Err(DestinationFault::Several),
        }
        // A path that begins with `//` is a host to a server that resolves references (RFC 3986 §4.2).
        if value.starts_with(b"/") && !value.starts_with(b"//") {
            return Ok(Some(Destination { scheme: None, path: path(value)? }));
        }
        let text = std::str::from_utf8(value).map_err(|_| DestinationFault::Form)?;
        let authority = text.find("://").ok_or(DestinationFault::Form)? + 3;
        let end = text[authority..].find('/').map_or(text.len(), |at| authority + at);
        let origin = WebOrigin::parse(&text[..end]).ok_or(DestinationFault::Form)?;
        if !origin.is_same(&WebOrigin { scheme: origin.scheme, host: request.host.clone() }) {
            return Err(DestinationFault::OtherHost);
        }
        let path = match &text[end..] {
            "" => path(b"/")?,
            rest => path(rest.as_bytes())?,
        };
        Ok(Some(Destination { scheme: Some(origin.scheme), path }))
    }

    /// What the upstream is told of it, by the route that takes its path.
    ///
    /// # Errors
    /// The route's upstream cannot be asked for it.
    pub fn kept(&self, paths: &UpstreamPath) -> Result<SecondTarget, DestinationFault> {
        let path = self.path.as_str();
        let sent = paths.of(path).map_err(DestinationFault::Path)?.into_owned();
        Ok(SecondTarget { scheme: self.scheme, path: path.to_owned(), sent })
    }
}

fn path(raw: &[u8]) -> Result<Path<'_>, DestinationFault> {
    match raw.contains(&b'?') {
        true => Err(DestinationFault::Form),
        false => Path::parse(raw).map_err(DestinationFault::Path),
    }
}

/// A `Destination` that was admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecondTarget {
    scheme: Option<Scheme>,
    path: String,
    /// The path that the upstream is told.
    sent: String,
}

impl SecondTarget {
    /// Its path in normal form.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The value of the field for the upstream. `host` is the Host that the upstream is told; `scheme` is that of the
    /// upstream where the Host is its own, and otherwise `None`: the client's stays.
    #[must_use]
    pub fn to_upstream(&self, scheme: Option<Scheme>, host: &str) -> String {
        let written = match self.scheme {
            None => return self.sent.clone(),
            Some(written) => scheme.unwrap_or(written),
        };
        let written = match written {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        format!("{written}://{host}{}", self.sent)
    }
}

/// Whether a pattern with these names takes something below `path` to some server, without being one at `path` itself. A
/// wildcard may take any name.
#[must_use]
pub(super) fn covers(path: &str, pattern: &[Name]) -> bool {
    let mut read: Vec<Vec<char>> = Vec::new();
    let is_above = |read: &[Vec<char>]| {
        let takes = |(name, read): (&Name, &Vec<char>)| match name {
            Name::Literal(name) => name == read,
            Name::Part(_) | Name::Any => true,
        };
        pattern.len() > read.len() && pattern.iter().zip(read).all(takes)
    };
    for segment in names_of(path) {
        // What servers drop: parameters, or everything from here on; and dots and spaces at the end of a name.
        let end = segment.iter().position(|char| matches!(char, ';' | '#' | '?')).unwrap_or(segment.len());
        let name = &segment[..end];
        let last = name.iter().rposition(|char| !matches!(char, '.' | ' ')).map_or(0, |at| at + 1);
        if last > 0 {
            read.push(name[..last].to_vec());
        }
        if end < segment.len() && is_above(&read) {
            return true;
        }
    }
    is_above(&read)
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Fields, request};
    use super::super::folded;
    use super::super::pattern::PathPattern;
    use super::*;

    fn read(host: &str, lines: &[&str]) -> Result<Option<SecondTarget>, DestinationFault> {
        let fields: Vec<(&str, &str)> = lines.iter().map(|line| ("destination", *line)).collect();
        let request = Request { headers: &Fields(&fields), ..request(host, "COPY", "/") };
        let same = UpstreamPath::default();
        Destination::of(&request)?.map(|destination| destination.kept(&same)).transpose()
    }

    #[test]
    fn methods_are_known_in_any_case() {
        for method in ["COPY", "MOVE", "copy", "Move", "BCOPY", "bmove"] {
            assert!(is_named_by(method), "{method}");
        }
        for method in ["GET", "POST", "HEAD", "PATCH", "PUT", "LOCK", "PROPFIND", "COPYX", "MOV", ""] {
            assert!(!is_named_by(method), "{method}");
        }
    }

    #[test]
    fn a_destination_on_the_requests_host_has_one_reading() {
        for (host, line, path, sent) in [
            ("a.test", "/x/%61b", "/x/ab", "/x/ab"),
            ("a.test", " /x%3a ", "/x%3A", "/x%3A"),
            ("a.test", "http://a.test/%7Ex", "/~x", "http://host/~x"),
            ("a.test", "HTTPS://A.test./x", "/x", "https://host/x"),
            ("a.test", "https://a.test:443", "/", "https://host/"),
            ("a.test:443", "https://a.test/x", "/x", "https://host/x"),
            ("a.test:8080", "http://a.test:8080/x", "/x", "http://host/x"),
            ("[::1]:81", "http://[0:0:0:0:0:0:0:1]:81/x", "/x", "http://host/x"),
        ] {
            let read = read(host, &[line]).unwrap().unwrap();
            assert_eq!((read.path(), &*read.to_upstream(None, "host")), (path, sent), "{line}");
        }
        let own = read("a.test", &["https://a.test/x"]).unwrap().unwrap();
        assert_eq!(own.to_upstream(Some(Scheme::Http), "10.0.0.1:81"), "http://10.0.0.1:81/x");
        let path = read("a.test", &["/x"]).unwrap().unwrap();
        assert_eq!(path.to_upstream(Some(Scheme::Http), "10.0.0.1:81"), "/x");
        assert_eq!(read("a.test", &[]), Ok(None));
    }

    #[test]
    fn what_two_servers_could_read_differently_is_refused() {
        use DestinationFault::{Form, OtherHost, Several};
        assert_eq!(read("a.test", &["/x", "/x"]), Err(Several));
        for (line, fault) in [
            ("", Form),
            ("x", Form),
            ("//a.test/x", Form),
            ("/x?y", Form),
            ("http:/x", Form),
            ("http://a.test?x", Form),
            ("http://a.test#x", Form),
            ("http://u@a.test/x", Form),
            ("http:///x", Form),
            ("ftp://a.test/x", Form),
            ("http://a.test/x?y", Form),
            ("http://a.test\\@b.test/x", Form),
            ("/x y", DestinationFault::Path(Malformed::Byte)),
            ("/x#y", DestinationFault::Path(Malformed::Byte)),
            ("/x\\y", DestinationFault::Path(Malformed::Byte)),
            ("/x/../y", DestinationFault::Path(Malformed::DotSegment)),
            ("http://a.test/x/%2e%2E/y", DestinationFault::Path(Malformed::DotSegment)),
            ("/x%5cy", DestinationFault::Path(Malformed::Backslash)),
            ("/x%", DestinationFault::Path(Malformed::Escape)),
            ("http://b.test/x", OtherHost),
            ("http://a.test:81/x", OtherHost),
            ("https://a.test:80/x", OtherHost),
            ("http://a.test.b.test/x", OtherHost),
        ] {
            assert_eq!(read("a.test", &[line]), Err(fault), "{line}");
        }
    }

    #[test]
    fn a_collection_covers_what_lies_below_it() {
        let names = |pattern: &str| folded::names(&PathPattern::parse(pattern).unwrap());
        let prefix = names("/files/closed");
        for path in ["/", "/files", "/files/", "/FILES", "/files;x", "/files%3Fx/y", "/files.", "/%66iles"] {
            assert!(covers(path, &prefix), "{path}");
        }
        for path in ["/files/closed", "/files/closed/x", "/files/open", "/file", "/files2", "/x", "/x/files"]
        {
            assert!(!covers(path, &prefix), "{path}");
        }
        for pattern in ["/*/closed", "=/files/x*", "/*.d/x", "=/files/*/y/"] {
            assert!(covers("/files", &names(pattern)), "{pattern}");
        }
        for pattern in ["/*", "=/*", "/other/*", "/files", "=/files/", "=/x/*/y"] {
            assert!(!covers("/files", &names(pattern)), "{pattern}");
        }
    }
}
