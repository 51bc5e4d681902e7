//! `palisade token inspect`: what a token says, for eyes only. Nothing is verified, and it says so.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::admin;

/// Shows the header and the claims.
pub(super) fn run(token: Option<String>) -> Result<String, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    inspect(&admin::token_or_stdin(token)?, now)
}

fn inspect(token: &str, now: u64) -> Result<String, String> {
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = parts[..] else {
        return Err(match parts.len() {
            5 => "this token is encrypted (JWE): only its recipient can read it".to_owned(),
            1 => "this is not a JWT: it has no dots; it may be an opaque token".to_owned(),
            count => format!("this is not a signed JWT: it has {count} parts instead of 3"),
        });
    };
    let header = object("header", header)?;
    let claims = object("payload", payload)?;
    let mut out =
        "NOT VERIFIED: any caller can write this; ask the gateway or `palisade token verify`.\n".to_owned();
    out.push_str("\nheader\n");
    show(&mut out, &header, now);
    out.push_str("\nclaims\n");
    show(&mut out, &claims, now);
    if signature.is_empty() {
        out.push_str("\nThere is no signature.\n");
    }
    Ok(out.trim_end().to_owned())
}

fn object(what: &str, part: &str) -> Result<Map<String, Value>, String> {
    let bytes = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| format!("the {what} is not base64url without padding; was the token copied whole?"))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("the {what} is not a JSON object: {error}"))
}

fn show(out: &mut String, object: &Map<String, Value>, now: u64) {
    let width = object.keys().map(|name| name.chars().count()).max().unwrap_or(0).min(24);
    for (name, value) in object {
        // JSON escapes what would move the cursor of a terminal, except C1 controls.
        let shown: String =
            value.to_string().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        let name: String = name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        let time = match name.as_str() {
            "exp" | "iat" | "nbf" | "auth_time" => value.as_f64().filter(|at| *at >= 0.0),
            _ => None,
        };
        match time {
            Some(at) => {
                let at = at as u64;
                let relation = relation(&name, at, now);
                out.push_str(&format!("  {name:width$}  {shown}  {} ({relation})\n", moment(at)));
            }
            None => out.push_str(&format!("  {name:width$}  {shown}\n")),
        }
    }
}

/// Where a moment lies from now, in the words of the claim.
fn relation(name: &str, at: u64, now: u64) -> String {
    let span = humantime::format_duration(Duration::from_secs(at.abs_diff(now)));
    match (name, at > now) {
        ("exp", true) => format!("expires in {span}"),
        ("exp", false) => format!("EXPIRED {span} ago"),
        ("nbf", true) => format!("NOT YET VALID, in {span}"),
        (_, true) => format!("in {span}"),
        (_, false) => format!("{span} ago"),
    }
}

/// Seconds since 1970 as a date. Past the year 9999, which no calendar here can write, the number.
pub(super) fn moment(seconds: u64) -> String {
    if seconds > 253_402_300_799 {
        return format!("{seconds} s after 1970");
    }
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn times_are_told_in_words_and_nothing_is_called_good() {
        let token = token(r#"{"alg":"none"}"#, r#"{"sub":"alice","exp":1700000060,"iat":1699999940}"#);
        let shown = inspect(&token, 1_700_000_000).unwrap();
        assert!(shown.starts_with("NOT VERIFIED"), "{shown}");
        assert!(shown.contains("2023-11-14T22:14:20Z (expires in 1m)"), "{shown}");
        assert!(shown.contains("(1m ago)") && shown.contains("\"alice\""), "{shown}");
    }

    #[test]
    fn what_is_no_token_is_told_why() {
        assert!(inspect("abc", 0).unwrap_err().contains("opaque"));
        assert!(inspect("a.b.c.d.e", 0).unwrap_err().contains("encrypted"));
        assert!(inspect("a!.b.c", 0).unwrap_err().contains("base64url"));
        assert!(inspect(&token("[]", "{}"), 0).unwrap_err().contains("JSON object"));
    }

    #[test]
    fn a_hostile_token_cannot_move_the_cursor() {
        let shown = inspect(&token("{}", "{\"a\":\"\u{9b}2J\",\"\\u001b[2J\":1,\"exp\":1e300}"), 0).unwrap();
        assert!(!shown.contains('\u{9b}') && !shown.contains('\u{1b}'), "{shown:?}");
    }
}
