//! `palisade token revoke`: from the moment this returns, the gateway refuses what it names.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::token_inspect::moment;
use super::{RevokeArgs, admin};

/// Asks the gateway to revoke.
pub(super) fn run(config: &Path, args: RevokeArgs) -> Result<String, String> {
    let body = body(args)?;
    admin::ask(config, |client| async move {
        let answer = client.post("/admin/v1/revocations", &body).await?;
        Ok(summary(&answer))
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
    if args.session {
        body.insert("session".to_owned(), json!(true));
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

/// What the gateway has done, in words: what, whose, which sessions ended or live on, and for how long it is remembered.
fn summary(answer: &Value) -> String {
    let target = &answer["target"];
    let until = answer["expires_at"].as_u64().map_or_else(|| "it ends".to_owned(), moment);
    let account = answer["account"].as_str();
    let mut text = format!("revoked: {}; remembered until {until}", said(target, account));
    let live = answer["live_session"].as_str();
    let note = match (target["kind"].as_str(), answer["sessions_ended"].as_u64()) {
        (Some("token"), ended) => match (live, ended) {
            (Some(session), _) => format!(
                "its session {session} lives on and brings further tokens; end it with `palisade token revoke --sid \
                 {session}`"
            ),
            (None, None | Some(0)) => return text + &in_force(&answer["acknowledged"]),
            (None, Some(_)) => "its session has ended as well".to_owned(),
        },
        (_, None) => {
            "sessions of another issuer are not kept here: end them there, or they bring further tokens"
                .to_owned()
        }
        (Some("subject_version"), Some(ended)) if account.is_none() => {
            format!("sessions ended: {ended}; no account has this id")
        }
        (Some("session"), Some(0)) => "sessions ended: 0; no session that lives has this id".to_owned(),
        (_, Some(ended)) => format!("sessions ended: {ended}"),
    };
    text += "\n";
    text += &note;
    text + &in_force(&answer["acknowledged"])
}

/// A further line that says where it is in force, and how long that took; empty where the gateway does not say.
fn in_force(acknowledged: &Value) -> String {
    let Some(took) = acknowledged["took_ms"].as_u64() else { return String::new() };
    let mut said = format!("\nin force after {took} ms");
    let Some(confirmed) = acknowledged["confirmed"].as_u64() else { return said };
    let open: Vec<&str> =
        acknowledged["open"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    said += &match confirmed {
        1 => ": 1 replica has confirmed it".to_owned(),
        _ => format!(": {confirmed} replicas have confirmed it"),
    };
    match acknowledged["lapsed"].as_u64().unwrap_or(0) {
        0 => {}
        1 => said += "; 1 did not answer, and takes no credential until it does: its lease has run out",
        lapsed => {
            said += &format!(
                "; {lapsed} did not answer, and take no credential until they do: their leases have run out"
            );
        }
    }
    if !open.is_empty() {
        said += &format!(
            "\nnot in force where `fail = \"open\"` serves on without an answer: {}",
            open.join(", ")
        );
    }
    said
}

fn said(target: &Value, account: Option<&str>) -> String {
    let text = |name: &str| target[name].as_str().unwrap_or("?").to_owned();
    let until =
        || target["until"].as_u64().map_or_else(String::new, |at| format!(" issued until {}", moment(at)));
    let of_account = account.map_or_else(String::new, |email| format!(" ({email})"));
    let what = match target["kind"].as_str() {
        Some("token") => format!("token {}{of_account}", text("jti")),
        Some("session") => format!("session {}{of_account} with every token of it", text("sid")),
        Some("subject_version") => format!("every token of {}{of_account} signed so far", text("sub")),
        Some("everybody") => "every token signed so far".to_owned(),
        Some("subject_issued") => format!("every token of {}{}", text("sub"), until()),
        _ => format!("every token{}", until()),
    };
    let comma = if what.starts_with("token ") { "" } else { "," };
    format!("{what}{comma} of issuer {}", text("issuer"))
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
    fn whom_and_what_was_revoked_is_said_in_words() {
        let answer = |target: Value, ended: u64, live: Option<&str>, account: Option<&str>| {
            summary(&json!({
                "target": target, "expires_at": 1_800_000_000, "sessions_ended": ended, "live_session": live,
                "account": account,
            }))
        };
        let end = "; remembered until 2027-01-15T08:00:00Z";
        for (target, ended, live, account, words) in [
            (
                json!({"kind": "session", "issuer": "i", "sid": "s"}),
                1,
                None,
                Some("ann@example.com"),
                format!(
                    "session s (ann@example.com) with every token of it, of issuer i{end}\nsessions ended: 1"
                ),
            ),
            (
                json!({"kind": "subject_version", "issuer": "i", "sub": "u", "below": 3}),
                2,
                None,
                Some("ann@example.com"),
                format!(
                    "every token of u (ann@example.com) signed so far, of issuer i{end}\nsessions ended: 2"
                ),
            ),
            (
                json!({"kind": "subject_version", "issuer": "i", "sub": "alice", "below": 3}),
                0,
                None,
                None,
                format!(
                    "every token of alice signed so far, of issuer i{end}\nsessions ended: 0; no account has this id"
                ),
            ),
            (
                json!({"kind": "everybody", "issuer": "i", "below": 7}),
                40,
                None,
                None,
                format!("every token signed so far, of issuer i{end}\nsessions ended: 40"),
            ),
            (
                json!({"kind": "token", "issuer": "i", "jti": "j"}),
                0,
                Some("s"),
                Some("ann@example.com"),
                format!(
                    "token j (ann@example.com) of issuer i{end}\nits session s lives on and brings further tokens; \
                     end it with `palisade token revoke --sid s`"
                ),
            ),
            (
                json!({"kind": "token", "issuer": "i", "jti": "j"}),
                1,
                None,
                None,
                format!("token j of issuer i{end}\nits session has ended as well"),
            ),
            (
                json!({"kind": "token", "issuer": "i", "jti": "j"}),
                0,
                None,
                None,
                format!("token j of issuer i{end}"),
            ),
        ] {
            assert_eq!(answer(target, ended, live, account), format!("revoked: {words}"));
        }
        for (acknowledged, words) in [
            (json!(null), ""),
            (json!({"by": "process", "took_ms": 3}), "\nin force after 3 ms"),
            (
                json!({"by": "replicas", "took_ms": 41, "confirmed": 3, "lapsed": 0, "open": []}),
                "\nin force after 41 ms: 3 replicas have confirmed it",
            ),
            (
                json!({"by": "replicas", "took_ms": 5550, "confirmed": 1, "lapsed": 1, "open": ["gw-3", "gw-4"]}),
                "\nin force after 5550 ms: 1 replica has confirmed it; 1 did not answer, and takes no credential until \
                 it does: its lease has run out\nnot in force where `fail = \"open\"` serves on without an answer: gw-3, \
                 gw-4",
            ),
        ] {
            assert_eq!(in_force(&acknowledged), words);
        }
        let theirs = json!({"kind": "subject_issued", "issuer": "i", "sub": "u", "until": 1_800_000_000});
        let theirs = summary(&json!({"target": theirs, "expires_at": 1_800_000_000, "sessions_ended": null}));
        assert!(theirs.contains("sessions of another issuer are not kept here"), "{theirs}");
    }
}
