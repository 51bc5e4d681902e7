//! `palisade clock` and `palisade clock accept`.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::admin;
use super::token_inspect::moment;
use palisade_core::service::clock::span;

/// How the clock stands, and what waits.
pub(super) fn show(config: &Path) -> Result<String, String> {
    admin::ask(config, |client| async move { Ok(standing(&client.get("/admin/v1/clock").await?)) })
}

/// The clock is right.
pub(super) fn accept(config: &Path) -> Result<String, String> {
    admin::ask(config, |client| async move {
        let answer = client.post("/admin/v1/clock/accept", &json!({})).await?;
        Ok(accepted(&answer))
    })
}

fn accepted(answer: &Value) -> String {
    let (wall, mark) = (time(&answer["accepted"]), time(&answer["before"]["mark"]));
    let mut text = format!("accepted: it is {wall}. Forgetting and removing went by {mark} until now.");
    if answer["revoked_all_tokens"] == true {
        text.push_str(
            "\nThe clock had shown a later moment than this: every access token signed so far was revoked. Sessions go \
             on and get new ones at their next refresh; minted tokens have to be minted anew.",
        );
    }
    text
}

fn standing(clock: &Value) -> String {
    let seconds = |value: &Value| span(Duration::from_secs(value.as_u64().unwrap_or(0)));
    let in_doubt = if clock["in_doubt"] == true { "yes" } else { "no" };
    let mut text = format!(
        "wall clock  {}\nmark        {}   the time of the last run, moved on by uptime alone\nin doubt    {in_doubt}\n",
        time(&clock["wall"]),
        time(&clock["mark"])
    );
    // The text can always grow.
    for stop in clock["stops"].as_array().into_iter().flatten() {
        let (long, left) = (seconds(&stop["seconds"]), seconds(&stop["believed_after"]));
        let _ = writeln!(text, "stopped     for {long}, which is believed after {left} more of running");
    }
    if let Some(detail) = clock["detail"].as_str() {
        let _ = writeln!(text, "\n{detail}");
    } else if clock["has_been_ahead"] == true {
        let _ = writeln!(
            text,
            "\nThe clock once showed {}. Tokens that were signed then begin in the future. `palisade clock accept` \
             revokes every access token signed so far; sessions go on.",
            time(&clock["highest"])
        );
    }
    let _ = match clock["delay"].as_u64().unwrap_or(0) {
        0 => write!(text, "\nNothing waits for the clock."),
        delay => write!(
            text,
            "\nDelayed by {}: forgetting revocations that have ended, removing ended sessions, links, retired keys and \
             unverified accounts, giving up on mail and notices. Tokens are accepted and refused by the wall clock as \
             before.",
            span(Duration::from_secs(delay))
        ),
    };
    text
}

fn time(value: &Value) -> String {
    value.as_u64().map_or_else(|| "?".to_owned(), moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_waits_and_what_to_do() {
        let sure = json!({"wall": 100, "mark": 100, "in_doubt": false, "stops": [], "delay": 0});
        let text = standing(&sure);
        assert!(
            text.contains("1970-01-01T00:01:40Z") && text.ends_with("Nothing waits for the clock."),
            "{text}"
        );
        let ahead = json!({
            "wall": 31_536_000, "mark": 0, "in_doubt": true, "delay": 31_536_000, "detail": "in doubt: say so",
            "stops": [{"seconds": 3600, "believed_after": 60}], "has_been_ahead": true, "highest": 40_000_000,
        });
        let text = standing(&ahead);
        for part in [
            "in doubt    yes",
            "in doubt: say so",
            "1 h 0 min, which is believed after 1 min 0 s more",
            "by 365 days:",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let right = json!({"in_doubt": false, "has_been_ahead": true, "highest": 40_000_000, "delay": 0});
        assert!(standing(&right).contains("The clock once showed 1971-04-08"), "{}", standing(&right));
    }

    #[test]
    fn an_acceptance_says_what_it_cost() {
        let answer = json!({"accepted": 100, "before": {"mark": 40}, "revoked_all_tokens": false});
        assert_eq!(accepted(&answer).lines().count(), 1);
        let answer = json!({"accepted": 100, "before": {"mark": 40}, "revoked_all_tokens": true});
        assert!(accepted(&answer).contains("revoked"));
    }
}
