//! A link that the operator hands over, where no mail is sent: as text, and on a terminal as a QR code.

use std::io::IsTerminal as _;

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use serde_json::Value;

use super::output::{text, time};

/// What became of the link that `answer` is about, which is `what`: that it was mailed, or the link itself.
pub(super) fn shown(answer: &Value, what: &str) -> String {
    // A link that goes into a file or a pipe is for a program.
    said(answer, what, std::io::stdout().is_terminal())
}

fn said(answer: &Value, what: &str, is_terminal: bool) -> String {
    let Some(link) = answer["link"].as_str() else { return format!("{what} is on its way by mail") };
    let mut said = format!(
        "{what}, to hand over; it works once, until {}:\n\n  {}\n",
        time(&answer["link_expires_at"]),
        text(&answer["link"])
    );
    if is_terminal && let Some(code) = code(link) {
        said.push_str(&format!("\n{code}\n"));
    }
    said.push_str("\nIt stands for the mailbox: any person who has it can take the account.");
    said
}

/// The QR code (ISO/IEC 18004) of a link, black on white whatever the colours of the terminal; `None`: too long for one.
fn code(link: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(link, EcLevel::L).ok()?;
    let drawn = code.render::<Dense1x2>().build();
    let lines: Vec<String> = drawn.lines().map(|line| format!("\x1b[30;107m{line}\x1b[0m")).collect();
    Some(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LINK: &str = "https://app.test/auth/pages/reset#token=abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";

    #[test]
    fn a_link_is_printed_and_drawn_on_a_terminal_only() {
        let answer = json!({"mailed": false, "link": LINK, "link_expires_at": 1_800_000_000});
        let piped = said(&answer, "the invitation", false);
        assert!(
            piped.starts_with("the invitation, to hand over; it works once, until 2027-01-15"),
            "{piped}"
        );
        assert!(piped.contains(&format!("\n\n  {LINK}\n")) && !piped.contains('\x1b'), "{piped}");
        let terminal = said(&answer, "the invitation", true);
        assert!(terminal.contains(LINK) && terminal.contains("\x1b[30;107m"), "{terminal}");
        // Narrow enough for a terminal, with its quiet zone.
        assert!(code(LINK).unwrap().lines().all(|line| line.chars().count() < 70));
        assert_eq!(code(&"x".repeat(8000)), None);
    }

    #[test]
    fn what_is_mailed_is_not_printed() {
        assert_eq!(
            said(&json!({"mailed": true}), "the invitation", true),
            "the invitation is on its way by mail"
        );
    }
}
