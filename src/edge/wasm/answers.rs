//! What a plugin is shown of an answer: everything but what the client proves itself by.
//!
//! A provider may repeat a request in its answer, most often by a redirect that keeps the query. Without this the
//! plugin would learn the client secret that the host added to the request.

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use palisade_core::ports::DoorResponse;

/// Shorter values occur in answers by chance, and are no secrets.
const SHORTEST: usize = 8;

/// `answer` without the header fields, and without the body, that have one of `credentials` in them. Also
/// whether anything was left out.
pub(super) fn shown(mut answer: DoorResponse, credentials: &[SecretString]) -> (DoorResponse, bool) {
    let needles: Vec<Zeroizing<String>> = credentials
        .iter()
        .map(ExposeSecret::expose_secret)
        .filter(|text| text.len() >= SHORTEST)
        // The second as forms write spaces, after they have been decoded otherwise.
        .flat_map(|text| [Zeroizing::new(text.to_owned()), Zeroizing::new(text.replace(' ', "+"))])
        .collect();
    let fields = answer.headers.len();
    answer.headers.retain(|(_, value)| !repeats(value, &needles));
    let mut withheld = answer.headers.len() < fields;
    if repeats(&String::from_utf8_lossy(&answer.body), &needles) {
        answer.body = Zeroizing::new(Vec::new());
        withheld = true;
    }
    (answer, withheld)
}

/// Whether one of `needles` is in `text`: as it is, percent-encoded, or with the backslashes of JSON.
fn repeats(text: &str, needles: &[Zeroizing<String>]) -> bool {
    let within = |text: &str| needles.iter().any(|needle| text.contains(&***needle));
    within(text)
        || text.contains('%')
            && within(&Zeroizing::new(percent_decode_str(text).decode_utf8_lossy().into_owned()))
        || text.contains('\\') && within(&Zeroizing::new(text.replace('\\', "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(field: &str, body: &str) -> (DoorResponse, bool) {
        let headers = [("server", "x"), ("location", field)];
        let answer = DoorResponse {
            status: 302,
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            body: body.as_bytes().to_vec().into(),
            retry_after: None,
        };
        shown(answer, &["s cret/&hunter2".into(), "short".into(), "".into()])
    }

    #[test]
    fn what_repeats_a_credential_is_left_out_however_it_is_written() {
        for text in [
            "s cret/&hunter2",
            "https://a.test/x?client_secret=s+cret%2F%26hunter2&y",
            "https://a.test/x?client_secret=s%20cret%2f&hunter2",
            r#"{"client_secret":"s cret\/&hunter2"}"#,
        ] {
            let (shown, withheld) = answer(text, "plain");
            assert!(withheld && shown.headers.len() == 1 && &**shown.body == b"plain", "{text}");
            let (shown, withheld) = answer("plain", text);
            assert!(withheld && shown.headers.len() == 2 && shown.body.is_empty(), "{text}");
        }
    }

    #[test]
    fn everything_else_is_shown() {
        let (shown, withheld) = answer("https://a.test/?short=%41", r#"{"a":"short \/ hunter2"}"#);
        assert!(!withheld);
        assert_eq!((shown.status, shown.headers.len(), shown.body.len()), (302, 2, 24));
    }
}
