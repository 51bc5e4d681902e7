//! What a token endpoint answers (RFC 6749 §5), and what it means when it is not tokens.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::settings::Settings;
use crate::http::Response;
use crate::{Context, Failure, Fields, Level, Tokens, form, json, salvage};

/// Where the end of an access token is as a rule, and that of a refresh token, where there is no life in seconds.
const ENDS: [&str; 3] = ["expires_at", "expires_on", "expiresAt"];
const REFRESH_ENDS: [&str; 2] = ["refresh_token_expires_at", "refresh_expires_at"];

/// How much of a provider's own words goes into a failure, in characters.
const QUOTED: usize = 200;

/// What Palisade keeps of what comes beside the tokens: handed over in larger numbers, it would cost the call.
const SCOPES: usize = 256;
const SCOPE: usize = 512;
/// The longest token that Palisade keeps, in bytes.
const TOKEN: usize = 64 << 10;

/// The answer as JSON: what is written as a form becomes an object of texts. `null` when it is neither. A member that
/// cannot be read is left out.
#[must_use]
pub fn parse(body: &[u8]) -> Value {
    parse_counting(body).0
}

/// The same, and how many members were left out.
fn parse_counting(body: &[u8]) -> (Value, usize) {
    let body = json::without_mark(body);
    if let Ok(value) = serde_json::from_slice(body) {
        return (value, 0);
    }
    if let Some(salvaged) = salvage::object(body) {
        return salvaged;
    }
    let is_form = std::str::from_utf8(body).is_ok_and(|text| {
        let text = text.trim();
        text.contains('=') && !text.contains(['<', '{', ' ', '\n'])
    });
    if !is_form {
        return (Value::Null, 0);
    }
    (json::object(form::decode(body.trim_ascii()).iter()), 0)
}

/// The tokens in `response`. `secrets` are what the request carried and nothing may repeat.
///
/// The request may have used a refresh token up: nothing that stands beside an access token in a success is a reason
/// to lose what came with it. What is odd is left out and named in the log.
///
/// # Errors
/// By the table in docs/oauth2.md.
pub fn tokens(
    cx: &Context<'_>,
    settings: &Settings,
    response: &Response,
    secrets: &[&str],
) -> Result<Tokens, Failure> {
    if let Some(failure) = response.transient(cx.now()) {
        return Err(failure);
    }
    let (answer, lost) = parse_counting(&response.body);
    if lost > 0 {
        cx.log(Level::Warn, "values of the answer that are no JSON were left out");
    }
    let fields = &settings.fields;
    let path = |path: &Option<String>, usual: &'static str| path.clone().unwrap_or_else(|| usual.to_owned());
    // `refresh_token: false` is none.
    let text = |own: &Option<String>, usual| json::string_at(&answer, &path(own, usual));
    // No provider issues a token that has ended: zero stands for one that does not end.
    let life = |path: &str| json::at(&answer, path).and_then(json::seconds).filter(|life| *life > 0);

    let access_token = text(&fields.access_token, "access_token");
    match refused(settings, response, &answer, secrets) {
        // An error beside a token in a success is one of something else: part of what was asked for, say.
        Some(_) if access_token.is_some() && response.is_success() && is_ok(settings, &answer) => {
            cx.log(Level::Warn, "the answer names an error beside its tokens; the tokens are kept");
        }
        Some(failure) => return Err(failure),
        None => {}
    }
    let access_token = access_token.ok_or_else(|| {
        Failure::provider_error(format!(
            "the answer (status {}) has no `{}`",
            response.status,
            path(&fields.access_token, "access_token")
        ))
    })?;
    let end = |path: &str| json::at(&answer, path).and_then(moment).map(|end| end.saturating_sub(cx.now()));
    // What is called so by chance, and has passed, says nothing.
    let usual_end = |paths: &[&str]| paths.iter().find_map(|path| end(path).filter(|life| *life > 0));
    let bounded = |token: Option<String>| {
        token.filter(|token| {
            let fits = token.len() <= TOKEN;
            if !fits {
                cx.log(Level::Warn, "a token beside the access token is too long to keep");
            }
            fits
        })
    };
    Ok(Tokens {
        access_token,
        // eBay's is `User Access Token`, and means a bearer token. RFC 6749 §A.13 has one word.
        token_type: text(&fields.token_type, "token_type")
            .filter(|kind| kind.len() <= SCOPE && kind.bytes().all(|byte| byte.is_ascii_graphic())),
        expires_in: life(&path(&fields.expires_in, "expires_in"))
            .or_else(|| match &fields.expires_at {
                Some(own) => end(own),
                None => usual_end(&ENDS),
            })
            .or(settings.default_expires_in),
        refresh_token: bounded(text(&fields.refresh_token, "refresh_token")),
        refresh_expires_in: match &fields.refresh_expires_in {
            Some(own) => life(own),
            None => life("refresh_expires_in")
                .or_else(|| life("refresh_token_expires_in"))
                .or_else(|| usual_end(&REFRESH_ENDS)),
        },
        scopes: json::at(&answer, &path(&fields.scope, "scope"))
            .and_then(|granted| scopes(granted, settings))
            .map(|scopes| fitting(cx, scopes)),
        id_token: bounded(text(&fields.id_token, "id_token")),
        keep: kept(cx, settings, &answer),
    })
}

/// Why `response`, whose body says `answer`, is no success, if it is none. Nothing of the provider's own words
/// is quoted that has one of `secrets` in it.
#[must_use]
pub fn refused(
    settings: &Settings,
    response: &Response,
    answer: &Value,
    secrets: &[&str],
) -> Option<Failure> {
    let fields = &settings.fields;
    let error = match &fields.error {
        Some(path) => json::text_at(answer, path),
        None => usual_error(answer),
    };
    let ok = is_ok(settings, answer);
    // Some name an error in a success, and say there that there is none.
    let named = error.as_deref().is_some_and(|code| settings.ok.is_none() && !matches!(code, "0" | "ok"));
    if response.is_success() && ok && !named {
        return None;
    }
    let code = error.unwrap_or_default();
    let description = match &fields.error_description {
        Some(path) => json::text_at(answer, path),
        None => json::text_at(answer, "error_description")
            .or_else(|| json::text_at(answer, "error.message"))
            .or_else(|| json::text_at(answer, "message")),
    };
    let mut message = format!("the provider answered with status {}", response.status);
    for words in [Some(code.clone()), description].into_iter().flatten().filter(|words| !words.is_empty()) {
        message.push_str(": ");
        message.push_str(&quotable(&words, secrets));
    }
    let is = |listed: &[String]| listed.contains(&code);
    Some(if code == "invalid_grant" || is(&settings.invalid_grant) {
        Failure::InvalidGrant(message)
    } else if matches!(code.as_str(), "temporarily_unavailable" | "server_error" | "slow_down")
        || is(&settings.transient)
    {
        Failure::transient(message)
    } else if matches!(
        code.as_str(),
        "invalid_client"
            | "unauthorized_client"
            | "unsupported_grant_type"
            | "invalid_scope"
            | "redirect_uri_mismatch"
    ) || is(&settings.misconfigured)
    {
        Failure::Misconfigured(message)
    } else {
        Failure::ProviderError(message)
    })
}

/// Whether `answer` has what the settings say that a success has.
fn is_ok(settings: &Settings, answer: &Value) -> bool {
    settings.ok.as_ref().is_none_or(|ok| {
        json::at(answer, &ok.path).and_then(json::text).as_deref() == Some(ok.value.as_str())
    })
}

/// `error` as text, or what stands for it where `error` is an object.
fn usual_error(answer: &Value) -> Option<String> {
    match json::at(answer, "error")? {
        Value::Object(error) => ["type", "status", "code"]
            .iter()
            .find_map(|name| json::text_at(&Value::Object(error.clone()), name)),
        // `error: false` is none, and so is an empty list, which is what an empty PHP array becomes.
        Value::Bool(false) => None,
        Value::Array(items) if items.is_empty() => None,
        other => json::text(other).filter(|text| !text.is_empty()),
    }
}

/// A provider's own words, unless they repeat a secret, and short.
fn quotable(words: &str, secrets: &[&str]) -> String {
    if secrets.iter().any(|secret| !secret.is_empty() && words.contains(secret)) {
        return "[words that repeat what was sent]".into();
    }
    words.chars().filter(|c| !c.is_control()).take(QUOTED).collect()
}

fn scopes(granted: &Value, settings: &Settings) -> Option<Vec<String>> {
    let separator = settings.granted_scope_separator.as_ref().unwrap_or(&settings.scope_separator);
    let list: Vec<String> = match granted {
        Value::Array(items) => items.iter().filter_map(json::text).collect(),
        Value::String(text) if separator.trim().is_empty() => {
            text.split_whitespace().map(str::to_owned).collect()
        }
        Value::String(text) => text.split(separator.as_str()).map(|scope| scope.trim().to_owned()).collect(),
        _ => return None,
    };
    Some(list.into_iter().filter(|scope| !scope.is_empty()).collect())
}

/// As many of them as are kept.
fn fitting(cx: &Context<'_>, mut scopes: Vec<String>) -> Vec<String> {
    let all = scopes.len();
    scopes.retain(|scope| scope.len() <= SCOPE && !scope.chars().any(char::is_control));
    scopes.truncate(SCOPES);
    if scopes.len() < all {
        cx.log(Level::Warn, "scopes of the answer that are too many or too long were left out");
    }
    scopes
}

fn kept(cx: &Context<'_>, settings: &Settings, answer: &Value) -> Fields {
    let mut kept = Fields::default();
    for (name, path) in settings.keep.iter() {
        match json::text_at(answer, path) {
            Some(value) if value.len() > 4096 => {
                cx.log(Level::Warn, &format!("`{path}` of the answer is too long to keep"));
            }
            Some(value) => kept.push(name, value),
            None => {}
        }
    }
    kept
}

/// A moment, in seconds since 1970: seconds, milliseconds, or RFC 3339.
fn moment(value: &Value) -> Option<u64> {
    if let Some(number) = json::seconds(value) {
        if number == 0 {
            return None;
        }
        // No token of the year 5138 is meant: these are milliseconds, or still smaller parts.
        let mut number = number;
        while number > 100_000_000_000 {
            number /= 1000;
        }
        return Some(number);
    }
    let moment = OffsetDateTime::parse(value.as_str()?, &Rfc3339).ok()?;
    u64::try_from(moment.unix_timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_and_forms_are_told_apart() {
        assert_eq!(parse(br#"{"a":1}"#), json!({"a": 1}));
        assert_eq!(parse(b"\xef\xbb\xbf{\"a\":1}"), json!({"a": 1}), "a byte order mark");
        assert_eq!(parse(b"\xef\xbb\xbfa=1"), json!({"a": "1"}));
        assert_eq!(parse(b"access_token=x&scope=a%20b\n"), json!({"access_token": "x", "scope": "a b"}));
        assert_eq!(parse(b"<html a=b>"), Value::Null);
        assert_eq!(parse(b""), Value::Null);
        assert_eq!(parse(b"\xff\xfe="), Value::Null);
    }

    #[test]
    fn moments_come_in_three_forms() {
        assert_eq!(moment(&json!(1_767_225_600)), Some(1_767_225_600));
        assert_eq!(moment(&json!("1767225600000")), Some(1_767_225_600));
        assert_eq!(moment(&json!(1_767_225_600_000_000_000_u64)), Some(1_767_225_600));
        assert_eq!(moment(&json!("2026-01-01T01:00:00+01:00")), Some(1_767_225_600));
        assert_eq!(moment(&json!("tomorrow")), None);
        assert_eq!(moment(&json!(0)), None);
    }

    #[test]
    fn what_was_sent_is_not_quoted() {
        assert_eq!(
            quotable("no token abcdefghijklmnop here", &["abcdefghijklmnop"]),
            "[words that repeat what was sent]"
        );
        assert_eq!(quotable("plain\nwords", &["", "other"]), "plainwords");
    }

    #[test]
    fn errors_come_as_texts_and_as_objects() {
        assert_eq!(usual_error(&json!({"error": "x"})).as_deref(), Some("x"));
        assert_eq!(
            usual_error(&json!({"error": {"type": "OAuthException", "code": 190}})).as_deref(),
            Some("OAuthException")
        );
        assert_eq!(usual_error(&json!({"error": false})), None);
        assert_eq!(usual_error(&json!({"error": null})), None);
        assert_eq!(usual_error(&json!({"error": []})), None);
        assert_eq!(usual_error(&json!({"error": {}})), None);
    }

    #[test]
    fn granted_scopes_are_lists_or_texts() {
        let mut settings = Settings::default();
        assert_eq!(scopes(&json!("a  b"), &settings).unwrap(), ["a", "b"]);
        assert_eq!(scopes(&json!(["a b", "c"]), &settings).unwrap(), ["a b", "c"]);
        settings.granted_scope_separator = Some(",".into());
        assert_eq!(scopes(&json!("a, b,,"), &settings).unwrap(), ["a", "b"]);
        assert_eq!(scopes(&json!(null), &settings), None);
    }
}
