//! `palisade token revoke`: from the moment this returns, the gateway refuses what it names.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::token_inspect::moment;
use super::{RevokeArgs, admin};

/// Asks the gateway to revoke.
pub(super) fn run(config: &Path, args: RevokeArgs) -> Result<String, String> {
    let body = body(args)?;
    admin::ask(config, |client| async move {
        let entry = client.post("/admin/v1/revocations", &body).await?;
        let until = entry["expires_at"].as_u64().map_or_else(|| "it ends".to_owned(), moment);
        Ok(format!("revoked: {}; remembered until {until}", said(&entry["target"])))
    })
}

fn body(args: RevokeArgs) -> Result<Value, String> {
    let mut body = Map::new();
    let what = args.what;
    if let Some(token) = what.token {
        body.insert("token".to_owned(), json!(admin::token_or_stdin(Some(token))?));
    }
    let texts = [
        ("jti", what.jti),
        ("sid", what.sid),
        ("sub", what.sub),
        ("issuer", args.issuer),
        ("reason", args.reason),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            body.insert(name.to_owned(), Value::String(text));
        }
    }
    if let Some(before) = what.before {
        body.insert("before".to_owned(), cutoff(&before));
    }
    if let Some(span) = args.expires_in {
        body.insert("expires_in".to_owned(), json!(span.as_secs()));
    }
    Ok(Value::Object(body))
}

/// Seconds, or what the gateway reads: `now`, or a moment.
fn cutoff(before: &str) -> Value {
    before.parse::<u64>().map_or_else(|_| json!(before), |seconds| json!(seconds))
}

fn said(target: &Value) -> String {
    let text = |name: &str| target[name].as_str().unwrap_or("?").to_owned();
    let until =
        || target["until"].as_u64().map_or_else(String::new, |at| format!(" issued until {}", moment(at)));
    let what = match target["kind"].as_str() {
        Some("token") => format!("token {}", text("jti")),
        Some("session") => format!("session {}", text("sid")),
        Some("subject_version") => format!("every token of {} signed so far", text("sub")),
        Some("everybody") => "every token signed so far".to_owned(),
        Some("subject_issued") => format!("every token of {}{}", text("sub"), until()),
        _ => format!("every token{}", until()),
    };
    format!("{what} of issuer {}", text("issuer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutoffs_are_seconds_or_left_to_the_gateway() {
        assert_eq!(cutoff("17"), json!(17));
        assert_eq!(cutoff("2026-01-31T12:00:00Z"), json!("2026-01-31T12:00:00Z"));
        assert_eq!(cutoff("now"), json!("now"));
    }

    #[test]
    fn what_was_revoked_is_said_in_words() {
        let target = json!({"kind": "session", "issuer": "i", "sid": "s"});
        assert_eq!(said(&target), "session s of issuer i");
        let target = json!({"kind": "everybody", "issuer": "i", "below": 7});
        assert_eq!(said(&target), "every token signed so far of issuer i");
    }
}
