//! JSON in and JSON out, the same way for every endpoint.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::{Zeroize, Zeroizing};

use super::failure::{Failure, internal, malformed, too_large, too_slow, unreadable, wrong_type};
use super::object;
use super::reply::typed;

/// The largest request body, in bytes.
pub(super) const MAX_BODY: usize = 64 * 1024;
/// How long a body may take to arrive, from its first byte to its last: it is small, whatever it is.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// `value` as a JSON answer that no cache keeps.
pub(super) fn answer(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => typed(status, "application/json", text),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            internal().into_response()
        }
    }
}

/// The answer to what is done and has nothing to show.
pub(super) fn done() -> Response {
    (StatusCode::NO_CONTENT, [(header::CACHE_CONTROL, "no-store")]).into_response()
}

/// A request body parsed as a JSON object. Says what is wrong with it in a problem document.
pub(super) struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<JsonBody<T>, Failure> {
        if !is_json(&request) {
            return Err(wrong_type());
        }
        parse(&read(request).await?).map(JsonBody)
    }
}

/// Like [`JsonBody`], where there may be none at all.
pub(super) struct OptionalJsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJsonBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<OptionalJsonBody<T>, Failure> {
        let is_json = is_json(&request);
        // Only the end of a body tells that there was none: HTTP/2 need not say so ahead.
        let bytes = read(request).await?;
        match (bytes.is_empty(), is_json) {
            (true, _) => Ok(OptionalJsonBody(T::default())),
            (false, true) => parse(&bytes).map(OptionalJsonBody),
            (false, false) => Err(wrong_type()),
        }
    }
}

/// A page of another origin can send forms and text without asking first, but not this type. JSON is UTF-8 (RFC 8259
/// §8.1) as it is: what says that it is in another charset or a content coding would be read as something else by a
/// reader that believes that.
fn is_json(request: &Request) -> bool {
    let types = request.headers().get_all(header::CONTENT_TYPE);
    let codings = request.headers().get_all(header::CONTENT_ENCODING);
    types.iter().count() == 1
        && is_of(request, b"application/json")
        && types.iter().all(|value| is_utf8(value.as_bytes()))
        && codings.iter().all(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
}

/// Whether the parameters of a `Content-Type` (RFC 9110 §8.3.1) can be read and name no charset but UTF-8. `utf8` is
/// what many clients write.
fn is_utf8(value: &[u8]) -> bool {
    let Ok(value) = std::str::from_utf8(value) else { return false };
    let mut rest = value.split_once(';').map_or("", |(_, parameters)| parameters);
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        if rest.is_empty() {
            return true;
        }
        let Some((name, behind)) = rest.split_once('=') else { return false };
        let (said, behind) = match behind.strip_prefix('"') {
            // No charset's name has a character that would have to be quoted.
            Some(quoted) => match quoted.split_once('"') {
                Some((said, behind)) if !said.contains('\\') => (said, behind),
                _ => return false,
            },
            None => behind.split_at(behind.find([';', ' ', '\t']).unwrap_or(behind.len())),
        };
        let is_known = ["utf-8", "utf8"].iter().any(|known| said.eq_ignore_ascii_case(known));
        if name.trim_ascii_end().eq_ignore_ascii_case("charset") && !is_known {
            return false;
        }
        rest = behind.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(';') {
            return false;
        }
    }
}

/// Whether the body says that it is of this media type.
pub(super) fn is_of(request: &Request, wanted: &[u8]) -> bool {
    request.headers().get(header::CONTENT_TYPE).is_some_and(|value| {
        let media_type = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        media_type.trim_ascii().eq_ignore_ascii_case(wanted)
    })
}

/// The body as far as [`MAX_BODY`] goes, whatever length it claims or comes in. It may hold a password, so
/// what it was read into is overwritten.
pub(super) async fn read(request: Request) -> Result<Zeroizing<Vec<u8>>, Failure> {
    match tokio::time::timeout(BODY_DEADLINE, whole(request)).await {
        Ok(read) => read,
        Err(_) => Err(too_slow()),
    }
}

async fn whole(request: Request) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let length = length.and_then(|length| length.parse().ok()).unwrap_or(MAX_BODY);
    if length > MAX_BODY {
        return Err(too_large());
    }
    // Room for all of it, so that no copy is left behind by growing.
    let mut whole = Zeroizing::new(Vec::with_capacity(length));
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| unreadable())?;
        let Ok(chunk) = frame.into_data() else { continue };
        if whole.len() + chunk.len() > MAX_BODY {
            return Err(too_large());
        }
        whole.extend_from_slice(&chunk);
        // Ours alone, as a rule; then nothing of it need stay.
        if let Ok(mut chunk) = chunk.try_into_mut() {
            chunk.zeroize();
        }
    }
    Ok(whole)
}

pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    object::begins(bytes).map_err(malformed)?;
    let reader = &mut serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut *reader).map_err(|error| {
        let path = error.path().to_string();
        (path, error.into_inner())
    });
    // Anything but white space behind the value is a fault as well.
    let parsed = parsed.and_then(|value| reader.end().map(|()| value).map_err(|e| (".".to_owned(), e)));
    let parsed = parsed.and_then(|value| {
        object::has_unique_names(bytes).map(|()| value).map_err(|error| (".".to_owned(), error))
    });
    parsed.map_err(|(path, error)| {
        let words = without_values(&error.to_string());
        let detail = if path == "." { words } else { format!("`{path}`: {words}") };
        malformed(&detail)
    })
}

/// The parser's message without what it found: that may be a password in the wrong place.
fn without_values(message: &str) -> String {
    for fault in ["invalid type: ", "invalid value: ", "invalid length "] {
        if let Some(found) = message.strip_prefix(fault)
            && let Some((_, expected)) = found.rsplit_once(", expected ")
        {
            return format!("expected {expected}");
        }
    }
    message.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    #[test]
    fn json_is_utf8_and_nothing_else() {
        let is = |fields: &[(&'static str, &str)]| {
            let mut request = Request::new(Body::empty());
            for (name, value) in fields {
                request.headers_mut().append(*name, value.parse().unwrap());
            }
            is_json(&request)
        };
        for good in [
            "application/json",
            "Application/JSON ; Charset=UTF-8",
            "application/json;charset=\"utf-8\"",
            "application/json; charset=utf8",
            "application/json;",
            "application/json; version=1; charset=utf-8",
            "application/json; profile=\"a;charset=x\"",
        ] {
            assert!(is(&[("content-type", good)]), "{good}");
            assert!(is(&[("content-type", good), ("content-encoding", "Identity")]), "{good}");
            assert!(!is(&[("content-type", good), ("content-encoding", "gzip")]), "{good}");
            assert!(!is(&[("content-type", good), ("content-type", good)]), "{good}");
        }
        for bad in [
            "application/json; charset=iso-8859-1",
            "application/json; CHARSET=\"UTF-16\"",
            "application/json; charset=us-ascii",
            "application/json; charset=utf-7",
            "application/json; charset=utf-8; charset=utf-16",
            "application/json; charset=",
            "application/json; charset",
            "application/json; charset=\"utf-8",
            "application/json; charset=\"utf-8\"x",
            "application/json; charset=utf-8 x",
            "application/json; charset =iso-8859-1",
            "application/jsonp",
            "text/json",
        ] {
            assert!(!is(&[("content-type", bad)]), "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let never = futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
        let request = Request::new(Body::from_stream(never));
        let failure = read(request).await.unwrap_err();
        let document = failure.document();
        assert_eq!(
            (document["status"].as_u64(), document["code"].as_str()),
            (Some(408), Some("body_timeout"))
        );
    }
}
