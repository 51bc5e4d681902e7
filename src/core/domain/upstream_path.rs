//! The path that an upstream is asked for, of a route that takes a prefix off or puts a base path before.
//!
//! What the policy matched and what goes up relate by one law: the rest behind the prefix, byte for byte, behind the base
//! path. The rest begins with exactly one `/`, so `/api//evil.test` cannot become `//evil.test`, which some servers and
//! clients take for another host (RFC 3986 §4.2).

use std::borrow::Cow;

use super::request::{Malformed, Path};

/// How the paths of a route become those of its upstream. By default they are the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamPath {
    /// What is taken off: a path in normal form without a slash at its end; empty: nothing.
    strip: String,
    /// What is put before: a path in the same form; empty: nothing.
    base: String,
}

impl UpstreamPath {
    /// Takes `strip` off and puts `base` before; each empty, or a path in normal form. `/` is the same as nothing.
    ///
    /// # Errors
    /// One of them is not in that form, or ends in a slash: the one as it was given.
    pub fn new(strip: &str, base: &str) -> Result<UpstreamPath, String> {
        let read = |text: &str| match text {
            "" | "/" => Ok(String::new()),
            _ => match Path::parse(text.as_bytes()) {
                Ok(path) if path.as_str() == text && !text.ends_with('/') && !path.has_empty_segment() => {
                    Ok(text.to_owned())
                }
                _ => Err(text.to_owned()),
            },
        };
        Ok(UpstreamPath { strip: read(strip)?, base: read(base)? })
    }

    /// Whether the upstream is asked for the paths of the route as they are.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.strip.is_empty() && self.base.is_empty()
    }

    /// The prefix that is taken off; `None`: none is.
    #[must_use]
    pub fn stripped(&self) -> Option<&str> {
        (!self.strip.is_empty()).then_some(self.strip.as_str())
    }

    /// The path for the upstream of `path`, in normal form.
    ///
    /// # Errors
    /// [`Malformed::Rest`]: `path` is not below the prefix, or what is left does not begin with exactly one slash.
    pub fn of<'a>(&self, path: &'a str) -> Result<Cow<'a, str>, Malformed> {
        if self.is_same() {
            return Ok(Cow::Borrowed(path));
        }
        let rest = path.strip_prefix(self.strip.as_str()).ok_or(Malformed::Rest)?;
        if rest.starts_with("//") || !(rest.is_empty() || rest.starts_with('/')) {
            return Err(Malformed::Rest);
        }
        let target = match (self.base.as_str(), rest) {
            ("", "") => Cow::Borrowed("/"),
            ("", rest) => Cow::Borrowed(rest),
            (base, rest) => Cow::Owned(format!("{base}{rest}")),
        };
        // Read again: it has to be what it was matched as, a path in normal form.
        match Path::parse(target.as_bytes()) {
            Ok(read) if read.as_str() == target => Ok(target),
            _ => Err(Malformed::Rest),
        }
    }

    /// A path of the upstream, with or without what follows a path in a URL, as clients of the gateway know it. `None`: it
    /// is not below the base path, or would be read as a host.
    #[must_use]
    pub fn public_of(&self, path: &str) -> Option<String> {
        // Browsers drop tabs and line ends from a URL, so `/<tab>/host` is `//host` to them (WHATWG URL §4.4).
        if path.bytes().any(|byte| byte.is_ascii_control()) {
            return None;
        }
        let rest = path.strip_prefix(self.base.as_str())?;
        if !(rest.is_empty() || rest.starts_with(['/', '?', '#'])) {
            return None;
        }
        let slash = if self.strip.is_empty() && !rest.starts_with('/') { "/" } else { "" };
        let public = format!("{}{slash}{rest}", self.strip);
        // Browsers read a backslash as a slash.
        let is_host = public.as_bytes().get(1).is_some_and(|byte| matches!(byte, b'/' | b'\\'));
        (!is_host).then_some(public)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(strip: &str, base: &str) -> UpstreamPath {
        UpstreamPath::new(strip, base).unwrap()
    }

    #[test]
    fn the_rest_goes_up_byte_for_byte() {
        for (strip, base, path, target) in [
            ("", "", "/x//y", "/x//y"),
            ("/api", "", "/api", "/"),
            ("/api", "", "/api/", "/"),
            ("/api", "", "/api/x%2Fy;z=1/", "/x%2Fy;z=1/"),
            ("/api", "", "/api/x//y", "/x//y"),
            ("/api", "/base", "/api", "/base"),
            ("/api", "/base", "/api/", "/base/"),
            ("/api", "/base", "/api/x", "/base/x"),
            ("", "/base", "/", "/base/"),
            ("", "/base", "/x", "/base/x"),
            ("/", "/", "/x", "/x"),
            ("/a/b", "", "/a/b/%2Fevil.test", "/%2Fevil.test"),
        ] {
            assert_eq!(map(strip, base).of(path).as_deref(), Ok(target), "{strip} {base} {path}");
        }
    }

    #[test]
    fn what_is_left_begins_with_exactly_one_slash() {
        for (strip, base, path) in [
            ("/api", "", "/api//evil.test"),
            ("/api", "", "/api//"),
            ("/api", "/base", "/api//evil.test"),
            ("", "/base", "//evil.test"),
            ("/api", "", "/apix"),
            ("/api", "", "/api%2Fx"),
            ("/api", "", "/other"),
            ("/api", "", "/"),
        ] {
            assert_eq!(map(strip, base).of(path), Err(Malformed::Rest), "{strip} {base} {path}");
        }
    }

    #[test]
    fn a_prefix_is_a_path_in_normal_form_without_a_slash_at_its_end() {
        for fault in ["api", "/api/", "//api", "/a//b", "/%61pi", "/a/../b", "/a?b", "/a#b", "/\u{e9}"] {
            assert_eq!(UpstreamPath::new(fault, "").err().as_deref(), Some(fault));
            assert_eq!(UpstreamPath::new("", fault).err().as_deref(), Some(fault));
        }
    }

    #[test]
    fn a_path_of_the_app_is_told_as_clients_know_it() {
        for (strip, base, path, public) in [
            ("/api", "", "/x?y#z", Some("/api/x?y#z")),
            ("/api", "", "/", Some("/api/")),
            ("/api", "/base", "/base", Some("/api")),
            ("/api", "/base", "/base?x", Some("/api?x")),
            ("/api", "/base", "/base/x", Some("/api/x")),
            ("/api", "/base", "/basement", None),
            ("/api", "/base", "/other", None),
            ("", "/base", "/base/x", Some("/x")),
            ("", "/base", "/base", Some("/")),
            ("", "/base", "/base?x", Some("/?x")),
            // As a host another site would be where the client goes.
            ("", "/base", "/base//evil.test", None),
            ("", "/base", "/base/\\evil.test", None),
            ("", "", "//evil.test", None),
            ("", "/base", "/base/\t/evil.test", None),
            ("", "", "/\t\\evil.test", None),
            ("/api", "", "/x\ny", None),
            ("/api", "", "//evil.test", Some("/api//evil.test")),
        ] {
            assert_eq!(map(strip, base).public_of(path).as_deref(), public, "{strip} {base} {path}");
        }
    }
}
