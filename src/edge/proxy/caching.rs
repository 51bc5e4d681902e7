//! Keeping an app's answers to one person out of caches that serve others.
//!
//! A shared cache does not keep an answer to a request with `Authorization` unless it is told to (RFC 9111 §3.5). It does
//! not know that a cookie is a credential, and would serve what one person saw to the next.

use http::{HeaderName, HeaderValue, header};

use super::fields::{self, HeaderFields};

/// Takes out what speaks to shared caches alone: targeted fields (RFC 9213), and what content networks and proxies called
/// them before and beside that.
pub fn tell_no_shared_cache(answer: &mut impl HeaderFields) {
    const OTHERS: [&str; 4] =
        ["surrogate-control", "edge-control", "x-accel-expires", "x-litespeed-cache-control"];
    let speaks =
        |name: &&HeaderName| name.as_str().ends_with("cdn-cache-control") || OTHERS.contains(&name.as_str());
    let spoken: Vec<HeaderName> = answer.map().keys().filter(speaks).cloned().collect();
    for name in &spoken {
        answer.take_out(name);
    }
}

/// Makes an answer `private` unless it says `private` or `no-store`, and takes out what would let a shared cache keep it.
/// How long the browser keeps it stays as it is.
pub fn make_private(answer: &mut impl HeaderFields) {
    tell_no_shared_cache(answer);
    let mut kept: Vec<&str> = Vec::new();
    let (mut is_private, mut is_whole) = (false, true);
    for line in answer.map().get_all(header::CACHE_CONTROL) {
        let Some(directives) = line.to_str().ok().and_then(directives) else {
            is_whole = false;
            continue;
        };
        for directive in directives {
            let name = directive.split('=').next().unwrap_or_default().trim();
            let is = |word: &str| name.eq_ignore_ascii_case(word);
            if is("public") || is("s-maxage") {
                continue;
            }
            // With an argument it is about the fields that it names (RFC 9111 §5.2.2.7), not about the answer.
            is_private |= is("no-store") || (is("private") && name.len() == directive.len());
            kept.push(directive);
        }
    }
    let said = match (is_private, is_whole) {
        // What cannot be read may say more than what is kept of it.
        (_, false) => "no-store".to_owned(),
        (true, true) => kept.join(", "),
        (false, true) => [&["private"], &kept[..]].concat().join(", "),
    };
    // Made of parts of valid values.
    if let Ok(said) = HeaderValue::from_str(&said) {
        answer.put(&fields::CACHE_CONTROL, said);
    }
}

/// The directives of a `Cache-Control` line (RFC 9111 §5.2), each as it stands; `None` where a quoted text does not end.
fn directives(line: &str) -> Option<Vec<&str>> {
    let (mut parts, mut begin) = (Vec::new(), 0);
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b',' if !is_quoted => {
                parts.push(line[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(line[begin..].trim());
    parts.retain(|part| !part.is_empty());
    (!is_quoted).then_some(parts)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn an_answer_becomes_private_and_its_age_stays() {
        for (lines, said) in [
            (&[][..], "private"),
            (&["public"], "private"),
            (&["public, max-age=60"], "private, max-age=60"),
            (&["PUBLIC,S-MaxAge=60 , max-age=5"], "private, max-age=5"),
            (&["max-age=60", "s-maxage=9, immutable"], "private, max-age=60, immutable"),
            (&["no-cache"], "private, no-cache"),
            (&["private, max-age=60"], "private, max-age=60"),
            (&["Private"], "Private"),
            (&["public, no-store"], "no-store"),
            (&["private, s-maxage=60"], "private"),
            // About fields, not about the answer.
            (&["private=\"set-cookie, x\", public"], "private, private=\"set-cookie, x\""),
            (
                &["no-cache=\"a, public, \\\"b\", max-age=1"],
                "private, no-cache=\"a, public, \\\"b\", max-age=1",
            ),
            (&["max-age=60, x=\"public"], "no-store"),
            (&["max-age=60, \u{e9}"], "no-store"),
            (&["public", "max-age=\"1"], "no-store"),
            (&["privately, no-storey"], "private, privately, no-storey"),
            (&[", ,"], "private"),
        ] {
            let mut answer = HeaderMap::new();
            for line in lines {
                answer.append("cache-control", HeaderValue::from_bytes(line.as_bytes()).unwrap());
            }
            make_private(&mut answer);
            let made: Vec<&str> =
                answer.get_all("cache-control").iter().map(|line| line.to_str().unwrap()).collect();
            assert_eq!(made, [said], "{lines:?}");
        }
    }

    #[test]
    fn what_speaks_to_shared_caches_alone_goes() {
        let mut answer = HeaderMap::new();
        let gone = [
            "cdn-cache-control",
            "cloudflare-cdn-cache-control",
            "surrogate-control",
            "edge-control",
            "x-accel-expires",
            "x-litespeed-cache-control",
        ];
        for name in gone.into_iter().chain(["expires", "vary", "etag"]) {
            answer.append(name, HeaderValue::from_static("x"));
        }
        make_private(&mut answer);
        let mut left: Vec<&str> = answer.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["cache-control", "etag", "expires", "vary"]);
    }
}
