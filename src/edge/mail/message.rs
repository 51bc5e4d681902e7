//! From a written letter to a message (RFC 5322, RFC 2046): the headers, and text beside HTML.
//!
//! Every header is made of typed values; nothing that a person typed gets into one unencoded.

use lettre::Address;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Body, Mailbox, Message, MultiPart, SinglePart};

use super::moment::system_time;
use super::write::{Written, can_be_greeted};
use crate::config;
use palisade_core::domain::email::EmailAddress;
use palisade_core::domain::mail::Mail;

/// The message of `mail`: the same one however often it is made, but for the boundary between its parts.
///
/// # Errors
/// What cannot be said in a header.
pub(super) fn message(from: &config::Mailbox, mail: &Mail, written: &Written) -> Result<Message, String> {
    let name = mail.telling().0.filter(|name| can_be_greeted(name)).map(str::to_owned);
    // RFC 3834 §5: keeps holiday notices and other robots from answering.
    let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
    Message::builder()
        .from(Mailbox::new(from.name.clone(), address(&from.address)?))
        .to(Mailbox::new(name, address(&mail.to)?))
        .subject(written.subject.as_str())
        .date(system_time(mail.created_at))
        .message_id(Some(message_id(from, mail)))
        .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()))
        .multipart(
            MultiPart::alternative()
                .singlepart(part(ContentType::TEXT_PLAIN, &written.text))
                .singlepart(part(ContentType::TEXT_HTML, &written.html)),
        )
        .map_err(|error| format!("the message cannot be made: {error}"))
}

/// A part of the message. Text of ASCII goes as it is, so that a link in a file is one that can be copied;
/// the library would encode it for every line of more than 76 characters, and 998 are allowed (RFC 5322
/// §2.1.1).
fn part(kind: ContentType, text: &str) -> SinglePart {
    // A bare carriage return is the end of a line to some servers and not to others.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let as_it_is = |line: &str| line.len() <= 900 && line.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    let body = match text.lines().all(as_it_is) {
        true => {
            let lines: Vec<&str> = text.lines().collect();
            let bytes = (lines.join("\r\n") + "\r\n").into_bytes();
            Body::dangerous_pre_encoded(bytes, ContentTransferEncoding::SevenBit)
        }
        false => Body::new(text),
    };
    SinglePart::builder().header(kind).body(body)
}

/// The `Message-ID`: the same at every try, so that a second delivery can be told (RFC 5322 §3.6.4).
pub(super) fn message_id(from: &config::Mailbox, mail: &Mail) -> String {
    format!("<{}@{}>", mail.id, from.address.domain())
}

fn address(email: &EmailAddress) -> Result<Address, String> {
    // Takes all that our own type takes; what it does not take must not be sent.
    Address::new(email.local(), email.domain()).map_err(|error| format!("the address {email}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::mail::samples::sample;
    use palisade_core::domain::mail::Letter;
    use palisade_core::domain::time::UnixTime;
    use uuid::Uuid;

    fn sent(name: Option<&str>, to: &str, from: &str) -> String {
        let text = format!("[mail]\nfrom = {from:?}");
        let config = config::parse(&text, std::path::Path::new("config.toml"), &|_| None).unwrap();
        let mail = sample(Letter::Welcome, Uuid::from_u128(7), to.parse().unwrap(), UnixTime(1_800_000_000));
        let mail = Mail { name: name.map(str::to_owned), verified: true, ..mail };
        let written = Written {
            subject: "Grüße, and a long subject that goes on until it must be folded onto another line"
                .into(),
            text: "text ü\n.\n".into(),
            html: "<p>html</p>\n".into(),
            link: None,
        };
        let message = message(&config.mail.from, &mail, &written).unwrap();
        let recipients: Vec<String> = message.envelope().to().iter().map(ToString::to_string).collect();
        assert_eq!(recipients, [to]);
        String::from_utf8(message.formatted()).unwrap()
    }

    /// The header's fields, unfolded.
    fn fields(message: &str) -> Vec<(String, String)> {
        let (head, _) = message.split_once("\r\n\r\n").unwrap();
        assert!(
            head.is_ascii()
                && head.split("\r\n").all(|line| line.len() <= 78 && !line.contains(['\r', '\n']))
        );
        let head = head.replace("\r\n ", " ").replace("\r\n\t", " ");
        head.split("\r\n")
            .map(|line| line.split_once(": ").unwrap())
            .map(|(n, v)| (n.into(), v.into()))
            .collect()
    }

    #[test]
    fn the_headers_are_those_and_no_others() {
        let message = sent(Some("Ann"), "ann@example.com", "App <noreply@app.test>");
        let fields = fields(&message);
        let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"]
        );
        let value = |name: &str| fields.iter().find(|(n, _)| n == name).unwrap().1.clone();
        assert_eq!(value("From"), "App <noreply@app.test>");
        assert_eq!(value("To"), "Ann <ann@example.com>");
        assert_eq!(value("Date"), "Fri, 15 Jan 2027 08:00:00 +0000");
        assert_eq!(value("Message-ID"), "<00000000-0000-0000-0000-000000000007@app.test>");
        assert_eq!(value("Auto-Submitted"), "auto-generated");
        assert!(value("Subject").starts_with("=?utf-8?b?"), "{}", value("Subject"));
        assert!(value("Content-Type").starts_with("multipart/alternative; "), "{}", value("Content-Type"));
        // The plain one first: the last is the one to show (RFC 2046 §5.1.4).
        let (plain, html) = (message.find("text/plain"), message.find("text/html"));
        assert!(plain.unwrap() < html.unwrap() && message.is_ascii());
    }

    #[test]
    fn no_name_makes_a_header_or_a_recipient() {
        let from = "App <noreply@app.test>";
        let plain = fields(&sent(None, "ann@example.com", from)).len();
        for name in [
            "Ann\r\nBcc: x@evil.test",
            "Ann\nBcc: x@evil.test",
            "Ann\r\n\r\n<p>",
            "Ann>, Bob <x@evil.test",
            "Ann, Bob",
            "\"Ann\" (x)",
            "Ann\\",
            "\"",
            "Ann\u{202e}moc",
            "Ann\u{2028}Bcc: x@evil.test",
            "Ännchen Øst, \"李\"",
            "=?utf-8?q?=0D=0ABcc:_x?=",
            "Ann\0",
            "\u{feff}Ann",
            "x@evil.test",
        ] {
            let message = sent(Some(name), "ann@example.com", from);
            let fields = fields(&message);
            assert_eq!(fields.len(), plain, "{name:?}: {message}");
            let to = &fields.iter().find(|(name, _)| name == "To").unwrap().1;
            assert!(to == "ann@example.com" || to.ends_with(" <ann@example.com>"), "{name:?}: {to}");
            assert_eq!(to.matches('@').count(), 1, "{name:?}: {to}");
            // Outside of quotes there is no second mailbox.
            let bare: String = to.split('"').step_by(2).collect();
            assert!(!bare.contains(','), "{name:?}: {to}");
        }
    }

    #[test]
    fn a_text_goes_as_it_is_when_it_can() {
        let formatted = |kind, text: &str| String::from_utf8(part(kind, text).formatted()).unwrap();
        let link = format!("https://app.test/auth/pages/reset#token={}", "a".repeat(43));
        let plain = formatted(ContentType::TEXT_PLAIN, &format!("Hello\n{link}\n.\n"));
        assert!(
            plain.contains("7bit") && plain.trim_end().ends_with(&format!("\r\n\r\nHello\r\n{link}\r\n.")),
            "{plain}"
        );
        for text in ["ü", &"a".repeat(999)] {
            let encoded = formatted(ContentType::TEXT_PLAIN, text);
            assert!(!encoded.contains("7bit"), "{encoded}");
            assert!(encoded.is_ascii() && encoded.lines().all(|line| line.len() <= 78), "{encoded}");
        }
    }

    #[test]
    fn every_line_ends_the_same_way() {
        for text in ["a\rb\r\n.\r\nc\nd", "ü\rb\r\n.\r\nc\nd"] {
            let formatted = String::from_utf8(part(ContentType::TEXT_HTML, text).formatted()).unwrap();
            assert!(!formatted.replace("\r\n", "").contains(['\r', '\n']), "{formatted:?}");
        }
    }

    #[test]
    fn odd_addresses_stay_in_their_place() {
        for address in
            ["o'neil+tag@mail.example.com", "a!#$%&*-/=?^_`{|}~b@example.com", "a@xn--bcher-kva.example"]
        {
            let message = sent(Some("Ann"), address, "\"App, Inc\" <noreply@app.test>");
            let fields = fields(&message);
            assert_eq!(fields[1].1, format!("Ann <{address}>"));
            assert_eq!(fields[0].1.matches('@').count(), 1);
        }
    }
}
