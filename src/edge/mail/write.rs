//! From a mail's facts to its words: subject, plain text, HTML.
//!
//! Names of people and devices are chosen by callers. An attacker could put a message of their own into a letter to
//! another person's address that way. So a letter to an address that is not verified repeats no text that a caller
//! chose ([`Mail::telling`]), whatever its template asks for, and no letter repeats a name that could be read as a
//! link or a message.

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::value::Value;
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::moment::{moment, span};
use super::samples::{bare, purpose, sample, sample_token};
use super::templates::{self, KIND};
use crate::config::{self, ConfigError};
use crate::templates::TemplateSet;
use palisade_core::domain::link::Purpose;
use palisade_core::domain::mail::{Connected, Letter, Mail};
use palisade_core::domain::name::{is_line, is_name};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::MailFault;

/// The longest subject in characters; more than any mail program shows.
const MAX_SUBJECT: usize = 200;
/// The longest name that a letter repeats.
const MAX_NAME: usize = 64;
/// The longest description of a device or place that a letter repeats.
const MAX_FACT: usize = 120;
/// How many connections a letter names.
const MAX_CONNECTIONS: usize = 20;
/// What the letters can tell: the name in a template, and what it is.
pub const KNOWN: [(&str, &str); 17] = [
    ("service", "the name in mail.from, or else the host of public_url"),
    ("public_url", "as configured"),
    ("host", "the host of public_url"),
    ("email", "the recipient's address"),
    ("subject", "the letter's subject; in .html files only"),
    ("name?", "what the person is called; never in a letter to an address that is not verified"),
    (
        "link",
        "in verify_email, reset_password, confirm_email, email_replaced and email_change_disputed: what to open",
    ),
    ("code", "with link: its token, for the page of a browser without script"),
    ("expires_at", "with link: until when it works, like \"26 November 2026, 16:41 UTC\""),
    ("expires_in", "with link: for how long it works, like \"24 hours\""),
    ("at?", "when that happened which the letter tells of"),
    ("device?", "the device it happened from, like \"Firefox on Linux\""),
    ("address? place?", "where that device is: its IP address, and the place as far as it is known"),
    (
        "new_email?",
        "in email_changed and email_replaced, to a verified address: the address that replaces this one",
    ),
    ("old_email?", "in email_change_disputed: the earlier address, which undid the change"),
    ("provider", "in reconnect_needed and grant_ending: what people call the provider"),
    (
        "ends_at?",
        "in grant_ending: when the grant ends; in email_change_undone and _disputed: when it is decided; like \"26 November 2026, 16:41 UTC\"",
    ),
];

/// A letter in words. Its link holds a token, so this is never printed.
pub struct Written {
    pub subject: String,
    pub text: String,
    pub html: String,
    /// The link in it.
    pub link: Option<String>,
}

/// Writes letters.
pub struct Letters {
    templates: TemplateSet,
    service: String,
    public_url: String,
    host: String,
    verify_url: String,
    reset_url: String,
    undo_url: String,
    object_url: String,
}

impl Letters {
    /// Reads the templates and tries every one of them.
    ///
    /// # Errors
    /// Everything that is wrong with them, with file and line.
    pub fn load(mail: &config::Mail, public_url: &str) -> Result<Letters, Vec<ConfigError>> {
        let host = public_url.split_once("://").map_or(public_url, |(_, host)| host).to_owned();
        let letters = Letters {
            templates: templates::load(mail.templates.as_deref())?,
            service: mail.from.name.clone().unwrap_or_else(|| host.clone()),
            public_url: public_url.to_owned(),
            host,
            verify_url: mail.verify_url.clone(),
            reset_url: mail.reset_url.clone(),
            undo_url: mail.undo_url.clone(),
            object_url: mail.object_url.clone(),
        };
        let errors = letters.faults(mail);
        if errors.is_empty() { Ok(letters) } else { Err(errors) }
    }

    /// What is wrong with any letter, with everything it can tell and with as little as it may have.
    fn faults(&self, mail: &config::Mail) -> Vec<ConfigError> {
        let mut errors: Vec<ConfigError> = Vec::new();
        let to = &mail.from.address;
        for letter in Letter::ALL {
            let full = sample(letter, Uuid::nil(), to.clone(), UnixTime(1_800_000_000));
            for mail in [bare(full.clone()), full] {
                if let Err(error) = self.try_to_write(&mail, Some(&sample_token()))
                    && !errors.contains(&error)
                {
                    errors.push(error);
                }
            }
        }
        errors
    }

    /// The letter in words. `token` is the token of its link.
    ///
    /// # Errors
    /// [`MailFault`], without the token in it.
    pub fn write(&self, mail: &Mail, token: Option<&SecretString>) -> Result<Written, MailFault> {
        if mail.link.is_some() && token.is_none() {
            return Err(MailFault::Permanent("the token of its link is not known".to_owned()));
        }
        if purpose(mail.letter).is_some() && mail.link.is_none() {
            return Err(MailFault::Permanent("it has no link, and is about nothing else".to_owned()));
        }
        self.try_to_write(mail, token).map_err(|error| {
            // The detail of the error can quote facts that the template used.
            let place = Path::new(error.path.file_name().unwrap_or_default()).display();
            MailFault::Transient(format!("the template {place} cannot be rendered (line {})", error.line))
        })
    }

    fn try_to_write(&self, mail: &Mail, token: Option<&SecretString>) -> Result<Written, ConfigError> {
        let link = mail.link.zip(token).map(|(link, token)| {
            let page = match link.purpose {
                Purpose::VerifyEmail | Purpose::ChangeEmail => &self.verify_url,
                Purpose::ResetPassword | Purpose::Invite => &self.reset_url,
                Purpose::UndoEmailChange => &self.undo_url,
                Purpose::ObjectToUndo => &self.object_url,
            };
            (format!("{page}#token={}", token.expose_secret()), token.expose_secret(), link.expires_at)
        });
        let mut facts = self.facts(mail);
        if let Some((url, code, expires_at)) = &link {
            facts.insert("link", url.as_str().into());
            // For a browser without script: only a script can read the fragment of the link.
            facts.insert("code", (*code).into());
            facts.insert("expires_at", moment(*expires_at).into());
            facts.insert("expires_in", span(mail.created_at.until(*expires_at)).into());
        }
        let name = format!("{}.txt", mail.letter.name());
        let render = |name: &str, facts: &BTreeMap<&str, Value>| {
            let facts = Value::from_pairs(facts.iter().map(|(name, value)| (*name, value.clone())));
            self.templates.render(name, &facts).map_err(|error| self.templates.as_config_error(&error, name))
        };
        let text = render(&name, &facts)?;
        let (subject, text) = parted(&text).ok_or_else(|| {
            let first = text.trim_start().lines().next().unwrap_or_default();
            let found = format!("the first line {:?}", first.chars().take(60).collect::<String>());
            KIND.fault(
                &self.templates.place(&name),
                1,
                &found,
                "a first line like \"Subject: Confirm your address\"",
            )
        })?;
        facts.insert("subject", subject.as_str().into());
        let html = render(&format!("{}.html", mail.letter.name()), &facts)?;
        Ok(Written { subject, text, html: html.trim().to_owned() + "\n", link: link.map(|(url, ..)| url) })
    }

    /// What every letter knows.
    fn facts(&self, mail: &Mail) -> BTreeMap<&'static str, Value> {
        let text = |text: Option<&String>| Value::from(text.map(|text| plain(text)));
        let (name, told) = mail.telling();
        BTreeMap::from([
            ("service", self.service.as_str().into()),
            ("public_url", self.public_url.as_str().into()),
            ("host", self.host.as_str().into()),
            ("email", mail.to.as_str().into()),
            ("name", Value::from(name.filter(|name| can_be_greeted(name)))),
            ("at", Value::from(told.at.map(moment))),
            ("device", text(told.device.as_ref())),
            ("address", text(told.address.as_ref())),
            ("place", text(told.place.as_ref())),
            ("new_email", Value::from(told.new_email.as_ref().map(|email| email.as_str()))),
            ("old_email", Value::from(told.old_email.as_ref().map(|email| email.as_str()))),
            ("provider", Value::from(told.provider.as_deref().map_or("the provider".to_owned(), plain))),
            ("ends_at", Value::from(told.ends_at.map(moment))),
            (
                "connections",
                Value::from(told.connections.iter().take(MAX_CONNECTIONS).map(connected).collect::<Vec<_>>()),
            ),
            ("more_connections", told.connections.len().saturating_sub(MAX_CONNECTIONS).into()),
        ])
    }
}

/// A connection as the templates have it.
fn connected(one: &Connected) -> Value {
    Value::from_pairs([("provider", plain(&one.provider)), ("at", moment(one.at))])
}

/// Whether a letter may call a person by this name: it must not read as a link, an address or a message
/// to the recipient.
pub(super) fn can_be_greeted(name: &str) -> bool {
    let inside = |c: char| "/\\:@<>=#%&?!$*|~^`{}[]。．｡".contains(c);
    // `J. R. Smith` has dots, and so has `example.com`.
    let dotted = name.split('.').skip(1).any(|after| !after.is_empty() && !after.starts_with([' ', ',']));
    is_name(name) && name.chars().count() <= MAX_NAME && !name.chars().any(inside) && !dotted
}

/// A text that another party chose, on one line of bounded length.
fn plain(text: &str) -> String {
    let text: String = text.chars().take(MAX_FACT).map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    if is_line(&text) { text } else { text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect() }
}

/// The subject, and the text that follows, without more than one empty line in a row.
fn parted(rendered: &str) -> Option<(String, String)> {
    let (first, rest) = rendered.trim_start().split_once('\n')?;
    let subject: String = first
        .strip_prefix("Subject:")?
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_SUBJECT)
        .collect();
    let mut text = String::with_capacity(rest.len());
    for line in rest.trim().lines() {
        let line = if line == "-- " { line } else { line.trim_end() };
        if !line.is_empty() || !text.ends_with("\n\n") {
            text.push_str(line);
            text.push('\n');
        }
    }
    (!subject.is_empty() && !text.is_empty()).then_some((subject, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn config(folder: Option<&Path>) -> config::Mail {
        let text = "public_url = \"https://app.test\"\n[mail]\nfrom = \"App <noreply@app.test>\"";
        let mail = config::parse(text, Path::new("config.toml"), &|_| None).unwrap().mail;
        config::Mail { templates: folder.map(Path::to_owned), ..mail }
    }

    fn letters() -> Letters {
        Letters::load(&config(None), "https://app.test").unwrap_or_else(|errors| panic!("{errors:#?}"))
    }

    fn ann(letter: Letter) -> Mail {
        sample(letter, Uuid::from_u128(7), "ann@example.com".parse().unwrap(), UnixTime(1_800_000_000))
    }

    /// The faults of a folder with these files, without its path.
    fn faults(files: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let errors =
            Letters::load(&config(Some(folder.path())), "https://app.test").err().unwrap_or_default();
        let prefix = format!("{}/", folder.path().display());
        errors.iter().map(|error| error.to_string().replace(&prefix, "")).collect()
    }

    #[test]
    fn every_letter_is_written_and_says_what_to_do() {
        for letter in Letter::ALL {
            let written = letters().write(&ann(letter), Some(&sample_token())).ok().unwrap();
            let (text, html) = (&written.text, &written.html);
            let greeting = if ann(letter).verified { "Hello Ann,\n" } else { "Hello,\n" };
            assert!(text.starts_with(greeting), "{text}");
            for part in [text, html] {
                assert!(
                    part.contains("it was not you") || part.contains("you did not"),
                    "{letter:?}: {part}"
                );
                assert!(part.contains("ann@example.com") && part.contains("App"), "{letter:?}: {part}");
                assert!(!part.contains("{{") && !part.contains("{%"), "{part}");
            }
            assert!(!text.contains("none"), "{text}");
            assert!(!text.contains("\n\n\n") && text.lines().all(|line| line.len() <= 100), "{text}");
            assert!(html.contains("<html lang=\"en\"") && html.contains("prefers-color-scheme: dark"));
            assert!(html.contains(&format!("<title>{}</title>", written.subject)), "{html}");
            // Nothing is fetched when it is read.
            for outside in ["<img", "src=", "url(", "@import", "<link", "<script"] {
                assert!(!html.contains(outside), "{letter:?} has {outside}");
            }
        }
    }

    /// Whether a provider is known by name, and whether it is known when a grant ends.
    #[test]
    fn letters_about_a_provider_name_it() {
        let written = |mail| letters().write(&mail, None).ok().unwrap();
        let reconnect = written(ann(Letter::ReconnectNeeded));
        assert_eq!(reconnect.subject, "Connect Example Bank to App again");
        assert!(reconnect.text.contains("\n  https://app.test\n"), "{}", reconnect.text);
        let ending = written(ann(Letter::GrantEnding));
        assert_eq!(ending.subject, "Your connection to Example Bank ends soon");
        for part in [&ending.text.replace('\n', " "), &ending.html] {
            assert!(part.contains("to Example Bank ends on 16 January 2027, 08:00 UTC:"), "{part}");
        }
        let unknown = written(bare(ann(Letter::GrantEnding)));
        assert!(unknown.text.contains("to the provider ends soon:\n"), "{}", unknown.text);
        let mut odd = ann(Letter::ReconnectNeeded);
        odd.facts.provider = Some("<b>Bank</b>\nBcc: x@y.test".to_owned());
        let odd = written(odd);
        assert!(!odd.html.contains("<b>Bank") && !odd.subject.contains('\n'), "{}", odd.subject);
        assert!(!odd.text.contains("\nBcc"), "{}", odd.text);
    }

    #[test]
    fn a_letter_about_a_new_password_names_what_stays_connected() {
        let mut mail = ann(Letter::PasswordChanged);
        let one =
            |n: u64| Connected { provider: format!("bank{n}<b>"), at: UnixTime(1_800_000_000 + 60 * n) };
        mail.facts.connections = (0..MAX_CONNECTIONS as u64 + 3).map(one).collect();
        let written = letters().write(&mail, None).ok().unwrap();
        assert!(
            written.text.contains("\n  bank1<b>, since 15 January 2027, 08:01 UTC\n"),
            "{}",
            written.text
        );
        assert!(written.html.contains(">bank1&lt;b&gt;</td>"), "{}", written.html);
        for part in [&written.text, &written.html] {
            assert!(
                part.contains("bank19") && !part.contains("bank20") && part.contains("and 3 more"),
                "{part}"
            );
        }
        let none = letters().write(&bare(mail), None).ok().unwrap();
        assert!(!none.text.contains("connect") && !none.html.contains("connect"), "{}", none.text);
    }

    #[test]
    fn links_come_from_the_configuration_with_the_token_in_the_fragment() {
        let token = sample_token();
        for (letter, page, life) in [
            (Letter::VerifyEmail, "verify", "24 hours"),
            (Letter::ConfirmEmail, "verify", "24 hours"),
            (Letter::ResetPassword, "reset", "1 hour"),
            (Letter::Invitation, "reset", "168 hours"),
            (Letter::EmailReplaced, "undo", "72 hours"),
            (Letter::EmailChangeDisputed, "object", "24 hours"),
        ] {
            let written = letters().write(&ann(letter), Some(&token)).ok().unwrap();
            let link = format!("https://app.test/auth/pages/{page}#token={}", token.expose_secret());
            assert_eq!(written.link.as_deref(), Some(&*link));
            assert!(written.text.contains(&format!("\n  {link}\n")), "{}", written.text);
            assert!(written.html.contains(&format!("href=\"{link}\"")), "{}", written.html);
            let code = token.expose_secret();
            assert!(written.text.contains(&format!("a code, it is {code}\n")), "{}", written.text);
            assert!(written.html.contains(&format!("<code>{code}</code>")), "{}", written.html);
            assert!(
                written.text.contains(life) && written.text.contains("January 2027, "),
                "{}",
                written.text
            );
        }
        for letter in [
            Letter::Welcome,
            Letter::AlreadyRegistered,
            Letter::NewDevice,
            Letter::EmailChanged,
            Letter::EmailChangeUndone,
            Letter::ReconnectNeeded,
            Letter::GrantEnding,
        ] {
            assert_eq!(letters().write(&ann(letter), None).ok().unwrap().link, None);
        }
        let own = config::Mail { verify_url: "https://spa.test/v?lang=en".into(), ..config(None) };
        let own = Letters::load(&own, "https://app.test").ok().unwrap();
        let written = own.write(&ann(Letter::VerifyEmail), Some(&token)).ok().unwrap();
        assert!(written.link.unwrap().starts_with("https://spa.test/v?lang=en#token="));
    }

    #[test]
    fn a_letter_without_its_link_or_token_is_never_written() {
        let mail = Mail { link: None, ..ann(Letter::ResetPassword) };
        for fault in [
            letters().write(&mail, Some(&sample_token())).err(),
            letters().write(&ann(Letter::ResetPassword), None).err(),
        ] {
            assert!(matches!(fault, Some(MailFault::Permanent(_))), "{fault:?}");
        }
    }

    #[test]
    fn a_stranger_says_nothing_in_a_letter() {
        for name in ["Ann", "Ann O'Neil", "J. R. Smith, Jr.", "李", "Żółw (Ann) \"Lee\""] {
            assert!(can_be_greeted(name), "{name}");
        }
        for name in [
            "https://evil.test",
            "evil.test",
            "you won: evil。test",
            "x@evil.test",
            "Ann\r\nBcc: x@evil.test",
            "Ann\u{202e}",
            "<b>Ann</b>",
            &"a".repeat(65),
        ] {
            assert!(!can_be_greeted(name), "{name}");
            let mail = Mail { name: Some(name.to_owned()), ..ann(Letter::ResetPassword) };
            let written = letters().write(&mail, Some(&sample_token())).ok().unwrap();
            assert!(
                written.text.starts_with("Hello,\n") && !written.html.contains("evil"),
                "{}",
                written.text
            );
        }
    }

    /// Every letter, to an address that is not verified, with a mark in every text that a caller may
    /// have chosen: none of it is in the subject, the text, the HTML or a header, whatever the templates ask for.
    #[test]
    fn a_letter_to_an_address_that_is_not_verified_repeats_nothing_that_a_stranger_chose() {
        let own = tempfile::tempdir().unwrap();
        let all = "{% if name %}{{ name }}{% endif %}{% if device %}{{ device }}{% endif %}\
                   {% if new_email %}{{ new_email }}{% endif %}";
        for letter in Letter::ALL {
            let name = letter.name();
            fs::write(own.path().join(format!("{name}.txt")), format!("Subject: x {all}\n\nx {all}\n"))
                .unwrap();
            fs::write(own.path().join(format!("{name}.html")), format!("x {all}")).unwrap();
        }
        for folder in [None, Some(own.path())] {
            let config = config(folder);
            let letters = Letters::load(&config, "https://app.test").ok().unwrap();
            for letter in Letter::ALL {
                let mut mail = ann(letter);
                mail.name = Some("Marked".to_owned());
                mail.facts.device = Some("Marked".to_owned());
                mail.facts.new_email = Some("marked@example.com".parse().unwrap());
                for verified in [false, true] {
                    mail.verified = verified;
                    let written = letters.write(&mail, Some(&sample_token())).ok().unwrap();
                    let message = crate::edge::mail::message::message(&config.from, &mail, &written).unwrap();
                    let headers = format!("{:?}", message.headers());
                    let mut all = [&written.subject, &written.text, &written.html, &headers]
                        .map(String::as_str)
                        .concat();
                    all.make_ascii_lowercase();
                    assert_eq!(all.contains("marked"), verified, "{letter:?}: {all}");
                }
            }
        }
    }

    #[test]
    fn what_devices_say_is_text() {
        let mut mail = ann(Letter::NewDevice);
        mail.facts.device = Some("<script>alert('x')</script>\r\nBcc: x\u{202e}".to_owned());
        let written = letters().write(&mail, None).ok().unwrap();
        assert!(written.html.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"), "{}", written.html);
        assert!(
            written.text.contains("Device:      <script>alert('x')</script>  Bcc: x\n"),
            "{}",
            written.text
        );
    }

    #[test]
    fn a_folder_replaces_letters_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let words = "Subject: {{ service }}: yes?\n\n{% include \"_sign.txt\" %} {{ link }}";
        fs::write(folder.path().join("verify_email.txt"), words).unwrap();
        fs::write(folder.path().join("_sign.txt"), "Your gate").unwrap();
        fs::write(folder.path().join(".DS_Store"), "\u{0}").unwrap();
        let letters = Letters::load(&config(Some(folder.path())), "https://app.test").ok().unwrap();
        let written = letters.write(&ann(Letter::VerifyEmail), Some(&sample_token())).ok().unwrap();
        assert_eq!(written.subject, "App: yes?");
        assert!(written.text.starts_with("Your gate https://app.test/auth/pages/verify#token="));
        assert!(written.html.contains("Confirm the address"));
        assert!(letters.write(&ann(Letter::NewDevice), None).ok().unwrap().text.contains("Hello Ann"));
    }

    #[test]
    fn a_wrong_template_is_an_error_with_its_file_and_line() {
        for (name, text, told) in [
            (
                "verify_mail.html",
                "x",
                "verify_mail.html: mail.templates: found a file that no letter is made of",
            ),
            ("welcome.html", "a\n{% if x", "welcome.html:2: mail.templates: found syntax error"),
            ("welcome.html", "a\nb\n{{ nam }}", "welcome.html:3: mail.templates: found undefined value"),
            ("welcome.html", "a\n{{ link }}", "welcome.html:2: mail.templates: found undefined value"),
            (
                "welcome.html",
                "{{ name }}",
                "welcome.html:1: mail.templates: found invalid operation (this letter may lack it",
            ),
            ("welcome.txt", "Hello", "welcome.txt:1: mail.templates: found the first line \"Hello\""),
            (
                "welcome.txt",
                "Subject:\n\nHello",
                "welcome.txt:1: mail.templates: found the first line \"Subject:\"",
            ),
            ("_facts.txt", "a\n\n{{ when }}", "_facts.txt:3: mail.templates: found undefined value"),
            ("layout.html", "\n{{ subjekt }}", "layout.html:2: mail.templates: found undefined value"),
        ] {
            let errors = faults(&[(name, text)]);
            assert!(errors.iter().any(|error| error.starts_with(told)), "{name}: {errors:#?}");
        }
        assert_eq!(
            faults(&[("welcome.html", "{{ a }}"), ("new_device.txt", "Subject: x\n\n{{ b }}"), ("x", "")])
                .len(),
            1
        );
        assert_eq!(
            faults(&[("welcome.html", "{{ a }}"), ("new_device.txt", "Subject: x\n\n{{ b }}")]).len(),
            2
        );
    }

    #[test]
    fn a_fault_never_tells_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let words = "Subject: x\n\n{% if name == \"Bob\" %}{{ link + 1 }}{% endif %}x";
        fs::write(folder.path().join("reset_password.txt"), words).unwrap();
        let letters = Letters::load(&config(Some(folder.path())), "https://app.test").ok().unwrap();
        let mail = Mail { name: Some("Bob".into()), ..ann(Letter::ResetPassword) };
        let fault = letters.write(&mail, Some(&sample_token())).err().unwrap();
        assert_eq!(fault.to_string(), "the template reset_password.txt cannot be rendered (line 3)");
    }
}
