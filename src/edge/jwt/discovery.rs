//! Where an issuer says that its keys are (OpenID Connect Discovery §4, RFC 8414 §3).
//!
//! The document is believed about one thing alone, the address of the keys, and only when it is of the configured issuer:
//! else one issuer could be passed off as another (RFC 8414 §6.2). It leads neither from TLS to cleartext nor to this
//! machine; which other addresses may be called is the operator's to say, as for every source of keys.

use serde_json::Value;
use url::Url;

use super::{json, published};
use palisade_core::domain::reach::Reach;
use palisade_core::domain::request::is_loopback;
use palisade_core::ports::{Fetch, FetchError, FetchRequest};

/// The largest document that is read, in bytes.
const MAX_BYTES: usize = 256 * 1024;

/// How much of what a document says is shown, in characters.
const SHOWN: usize = 200;

/// Why no address of keys is known, for the operator.
#[derive(Debug)]
pub enum NotFound {
    /// There was no document.
    Down(String),
    /// The document is not to be believed.
    Wrong(String),
}

/// The address of the keys of `issuer`, as the first of `documents` that is there says it.
///
/// # Errors
/// [`NotFound`].
pub async fn find(
    fetch: &dyn Fetch,
    documents: &[String; 2],
    issuer: &str,
    reach: &Reach,
) -> Result<String, NotFound> {
    let [first, second] = documents;
    let get = |url| fetch.get(FetchRequest { url, max_bytes: MAX_BYTES, reach });
    let (at, answer) = match get(first).await {
        // Some servers have only the document of RFC 8414.
        Err(FetchError::Answered { status: 400..500, .. }) => match get(second).await {
            // The address that people expect a document at is the one to name.
            Err(FetchError::Answered { .. }) => {
                let why = format!("{first}: no such document, nor {second}");
                return Err(NotFound::Down(why));
            }
            answer => (second, answer),
        },
        answer => (first, answer),
    };
    let document = answer.map_err(|error| NotFound::Down(error.to_string()))?.body;
    keys_of(&document, at, issuer).map_err(|why| NotFound::Wrong(format!("{at}: {why}")))
}

/// `jwks_uri` of the document that was at `at`.
fn keys_of(document: &[u8], at: &str, issuer: &str) -> Result<String, String> {
    let members = json::object(published::without_mark(document))
        .map_err(|_| "not the metadata of an issuer: no JSON object with each name once".to_owned())?;
    match members.get("issuer") {
        Some(Value::String(name)) if name == issuer => {}
        Some(Value::String(name)) => {
            return Err(format!(
                "the metadata of another issuer, {:?}; `issuer` must be the same text",
                short(name)
            ));
        }
        _ => return Err("the metadata does not say whose it is (`issuer`)".to_owned()),
    }
    let Some(Value::String(keys)) = members.get("jwks_uri") else {
        return Err("the metadata has no `jwks_uri`; write the address of the keys into `jwks`".to_owned());
    };
    let refused = |why: &str| Err(format!("its `jwks_uri` is {:?}, {why}", short(keys)));
    let (Ok(from), Ok(to)) = (Url::parse(at), Url::parse(keys)) else { return refused("which is no URL") };
    match (from.scheme(), to.scheme()) {
        (_, "https") | ("http", "http") => {}
        _ => return refused("where keys could be changed on the way: an https:// URL is taken"),
    }
    let is_local = |url: &Url| url.host_str().is_some_and(is_loopback);
    if is_local(&to) && !is_local(&from) {
        return refused("which is this machine");
    }
    Ok(keys.clone())
}

fn short(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://i.test/a";
    const AT: &str = "https://i.test/a/.well-known/openid-configuration";

    #[test]
    fn a_document_is_believed_about_its_own_keys_alone() {
        let say = |issuer: &str, keys: &str| format!(r#"{{"issuer": "{issuer}", "jwks_uri": "{keys}"}}"#);
        let read = |text: &str| keys_of(text.as_bytes(), AT, ISSUER);
        for keys in ["https://i.test/keys", "https://keys.other.test/a?b=c", "https://10.0.0.1/keys"] {
            assert_eq!(read(&say(ISSUER, keys)).as_deref(), Ok(keys));
            assert_eq!(read(&format!("\u{feff}{}", say(ISSUER, keys))).as_deref(), Ok(keys));
        }
        for issuer in [
            "https://i.test/a/",
            "https://i.test/A",
            "https://I.test/a",
            "http://i.test/a",
            "https://j.test",
            "",
        ] {
            assert!(
                read(&say(issuer, "https://i.test/keys")).unwrap_err().contains("another issuer"),
                "{issuer}"
            );
        }
        for keys in [
            "http://i.test/keys",
            "http://127.0.0.1/keys",
            "https://127.0.0.1/keys",
            "https://localhost/keys",
            "https://[::1]/keys",
            "file:///etc/passwd",
            "data:application/json,{}",
            "/keys",
            "",
        ] {
            assert!(read(&say(ISSUER, keys)).unwrap_err().contains("jwks_uri"), "{keys}");
        }
        for document in [
            "",
            "[]",
            "<html>",
            r#"{"issuer": "https://i.test/a"}"#,
            r#"{"issuer": "https://i.test/a", "jwks_uri": null}"#,
            r#"{"jwks_uri": "https://i.test/keys"}"#,
            r#"{"issuer": ["https://i.test/a"], "jwks_uri": "https://i.test/keys"}"#,
            r#"{"issuer": "https://i.test/a", "issuer": "https://i.test/a", "jwks_uri": "https://i.test/keys"}"#,
        ] {
            assert!(read(document).is_err(), "{document}");
        }
        let local = "http://127.0.0.1:8080/.well-known/openid-configuration";
        let say = say("http://127.0.0.1:8080", "http://127.0.0.1:8080/keys");
        assert!(keys_of(say.as_bytes(), local, "http://127.0.0.1:8080").is_ok());
    }
}
