//! URLs: parameters in their queries, and templates with `${name}`.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{Failure, Fields};

/// Everything but the unreserved characters of RFC 3986 §2.3.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `text` percent-encoded for a path segment or a query.
#[must_use]
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// `url` with `fields` added to its query, ahead of its fragment. A space becomes `%20`, which every
/// server reads as one.
#[must_use]
pub fn with_query(url: &str, fields: &Fields) -> String {
    let (url, fragment) = url.split_once('#').map_or((url, None), |(url, fragment)| (url, Some(fragment)));
    let mut whole = url.to_owned();
    for (name, value) in fields.iter() {
        let joint = match whole.find('?') {
            None => "?",
            Some(_) if whole.ends_with(['?', '&']) => "",
            Some(_) => "&",
        };
        whole.push_str(joint);
        whole.push_str(&encode(name));
        whole.push('=');
        whole.push_str(&encode(value));
    }
    if let Some(fragment) = fragment {
        whole.push('#');
        whole.push_str(fragment);
    }
    whole
}

/// The host of an absolute URL without its port, and nothing else: not whether the URL makes sense.
#[must_use]
pub fn host(url: &str) -> Option<&str> {
    let authority = authority(url)?;
    // An IPv6 address keeps its brackets.
    let end = authority.find(']').map_or_else(|| authority.find(':'), |bracket| Some(bracket + 1));
    Some(&authority[..end.unwrap_or(authority.len())])
}

/// What is between the scheme and the path.
fn authority(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    Some(&rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())])
}

/// Checks that `url` is absolute, has a host of sound form, no user name and no password, and is `https`
/// unless the host is this machine.
///
/// # Errors
/// What is wrong with it, to be put after "it".
pub fn check(url: &str) -> Result<(), &'static str> {
    if url.bytes().any(|byte| byte.is_ascii_control() || byte == b' ' || byte == b'\\') {
        return Err("has a character that no URL has");
    }
    let Some((scheme, rest)) = url.split_once("://") else { return Err("is not an absolute URL") };
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    if authority.contains('@') {
        return Err("has a user name");
    }
    let name = host(url).unwrap_or_default();
    let port = &authority[name.len()..];
    if !(name == "[::1]" || is_host(name)) {
        return Err("has no proper host");
    }
    if !(port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())) {
        return Err("has no proper port");
    }
    match scheme {
        "https" => Ok(()),
        "http" if matches!(name, "localhost" | "127.0.0.1" | "[::1]") => Ok(()),
        _ => Err("is not https"),
    }
}

/// Whether `name` is made of labels of letters, digits and `-`, joined by `.`.
fn is_host(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// One piece of a template.
enum Piece<'t> {
    Text(&'t str),
    Name(&'t str),
}

fn pieces(template: &str) -> Result<Vec<Piece<'_>>, Failure> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some(start) = rest.find("${") {
        pieces.push(Piece::Text(&rest[..start]));
        let Some(end) = rest[start..].find('}') else {
            return Err(Failure::misconfigured(format!("`{template}`: `${{` without `}}`")));
        };
        pieces.push(Piece::Name(&rest[start + 2..start + end]));
        rest = &rest[start + end + 1..];
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

/// The names in `template`.
///
/// # Errors
/// [`Failure::Misconfigured`] when a `${` is not closed.
pub fn names(template: &str) -> Result<Vec<&str>, Failure> {
    let name = |piece| if let Piece::Name(name) = piece { Some(name) } else { None };
    Ok(pieces(template)?.into_iter().filter_map(name).collect())
}

/// `template` with what `value` says of each name, as it is: for a parameter, which is encoded as a whole
/// afterwards.
///
/// # Errors
/// [`Failure::Misconfigured`] when there is no value for a name.
pub fn fill<'v>(template: &str, value: impl Fn(&str) -> Option<&'v str>) -> Result<String, Failure> {
    let mut text = String::new();
    for piece in pieces(template)? {
        text.push_str(match piece {
            Piece::Text(plain) => plain,
            Piece::Name(name) => value(name).ok_or_else(|| missing(template, name))?,
        });
    }
    Ok(text)
}

/// The URL that `template` stands for.
///
/// A value is percent-encoded in the path, the query and the fragment, where it can also be no dot segment;
/// in the host it must be letters, digits, `-` and `.`. A template that begins with a name stands for a
/// service whose address the provider tells: that value must be an `https` origin, without a path. It may
/// have come through the browser, and a path of the user's choice would be sent the client's secret.
///
/// # Errors
/// [`Failure::Misconfigured`] when there is no value for a name, and when what comes out is no proper URL;
/// [`Failure::ProviderError`] when a value is not fit for its place.
pub fn expand<'v>(template: &str, value: impl Fn(&str) -> Option<&'v str>) -> Result<String, Failure> {
    let mut url = String::new();
    for piece in pieces(template)? {
        let name = match piece {
            Piece::Text(plain) => {
                url.push_str(plain);
                continue;
            }
            Piece::Name(name) => name,
        };
        let value = value(name).ok_or_else(|| missing(template, name))?;
        let unfit = |why: &str| Failure::provider_error(format!("the value of `{name}` {why}"));
        if url.is_empty() {
            check(value).map_err(unfit)?;
            let origin = value.strip_suffix('/').unwrap_or(value);
            if after_authority(origin) {
                return Err(unfit("is more than `https://` and a host"));
            }
            url.push_str(origin);
        } else if after_authority(&url) {
            if value.is_empty() || value == "." || value == ".." {
                return Err(unfit("is not fit for a URL"));
            }
            url.push_str(&encode(value));
        } else if is_host(value) {
            url.push_str(value);
        } else {
            return Err(unfit("is not fit for a host name"));
        }
    }
    check(&url).map_err(|why| Failure::misconfigured(format!("the URL of `{template}` {why}")))?;
    Ok(url)
}

/// Whether what follows `url` can no longer change its host.
fn after_authority(url: &str) -> bool {
    url.split_once("://").is_some_and(|(_, rest)| rest.contains(['/', '?', '#']))
}

fn missing(template: &str, name: &str) -> Failure {
    Failure::misconfigured(format!("`{template}` needs `{name}`, which this connection does not have"))
}

/// The host of a template, with a `*` for what names decide and with its port, as `allowed_hosts` lists it;
/// `None` when it has none.
#[must_use]
pub fn host_pattern(template: &str) -> Option<String> {
    let mut shown = String::new();
    for piece in pieces(template).ok()? {
        match piece {
            Piece::Text(plain) => shown.push_str(plain),
            Piece::Name(_) if shown.is_empty() => return Some("*".to_owned()),
            Piece::Name(_) => shown.push('*'),
        }
    }
    authority(&shown).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand_with(template: &str, value: &str) -> Result<String, Failure> {
        expand(template, |name| (name == "x").then_some(value))
    }

    #[test]
    fn parameters_go_ahead_of_the_fragment() {
        let fields: Fields = [("scope", "a b"), ("x", "1&2")].into_iter().collect();
        assert_eq!(with_query("https://a.example/#/x", &fields), "https://a.example/?scope=a%20b&x=1%262#/x");
        assert_eq!(with_query("https://a.example/?y", &fields), "https://a.example/?y&scope=a%20b&x=1%262");
        assert_eq!(with_query("https://a.example/?", &Fields::default()), "https://a.example/?");
    }

    #[test]
    fn a_host_takes_nothing_but_a_host() {
        let template = "https://${x}.example.com/a";
        assert_eq!(expand_with(template, "shop-1").unwrap(), "https://shop-1.example.com/a");
        for value in [
            "",
            "a/b",
            "evil.test/",
            "evil.test#",
            "evil.test?",
            "u@evil",
            "a:1",
            "a\\b",
            "a%2fb",
            ".",
            "a..b",
            "ä",
            "-a",
            "a b",
        ] {
            assert!(expand_with(template, value).is_err(), "{value}");
        }
        // A name at the end of the host, and one right behind the scheme.
        assert_eq!(expand_with("https://${x}/a", "h.example").unwrap(), "https://h.example/a");
        assert!(expand_with("https://${x}", "h.example/../x").is_err());
        assert!(expand_with("https://h.example:${x}/", "1@evil").is_err());
    }

    #[test]
    fn elsewhere_values_are_encoded() {
        assert_eq!(
            expand_with("https://a.example/${x}/b?c=${x}", "1/2&3").unwrap(),
            "https://a.example/1%2F2%263/b?c=1%2F2%263"
        );
        assert!(expand_with("https://a.example/${x}/b", "..").is_err());
        assert!(expand_with("https://a.example/${y}/b", "1").is_err());
        assert!(expand_with("https://a.example/${x", "1").is_err());
    }

    #[test]
    fn a_service_whose_address_the_provider_tells() {
        assert_eq!(expand_with("${x}/token", "https://eu.example").unwrap(), "https://eu.example/token");
        assert_eq!(expand_with("${x}/token", "https://eu.example/").unwrap(), "https://eu.example/token");
        for value in [
            "https://eu.example/api",
            "https://eu.example/api/",
            "https://eu.example//",
            "https://eu.example/..",
            "https://eu.example#x",
            "http://eu.example",
            "eu.example",
            "https://u@eu.example",
            "https://eu.example?x",
            "javascript:1",
            "https://eu.example\\@x",
        ] {
            assert!(expand_with("${x}/token", value).is_err(), "{value}");
        }
    }

    #[test]
    fn only_this_machine_is_talked_to_in_clear() {
        assert_eq!(check("http://127.0.0.1:8080/x"), Ok(()));
        assert_eq!(check("http://[::1]:8080/x"), Ok(()));
        assert!(check("http://a.example/").is_err());
        assert!(check("https:///x").is_err());
        assert!(check("https://a.example:99999/").is_err());
        assert!(check("//a.example").is_err());
    }

    #[test]
    fn hosts_of_templates_are_patterns() {
        assert_eq!(host_pattern("https://${x}.example.com:8443/a").as_deref(), Some("*.example.com:8443"));
        assert_eq!(host_pattern("${x}/token").as_deref(), Some("*"));
        assert_eq!(host_pattern("nonsense"), None);
    }
}
