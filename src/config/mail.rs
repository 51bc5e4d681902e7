//! `[mail]`: who sends it, over which transport, in whose words, and where its links lead.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::file::{Item, Section};
use super::form;
use super::read::{existing_file, page_url, secret};
use super::settings::{Mail, MailTransport, Mailbox, PagesSettings, Smtp, SmtpTls};
use palisade_core::domain::page::PageName;
use palisade_core::domain::request::{Host, is_loopback};

const TRANSPORT: &str =
    "\"log\", \"file:FOLDER\", \"smtp://user@host:587\", \"smtps://user@host\" or \"none\"";
const FROM: &str = "Palisade <noreply@example.com>";

/// Reads the section; `native_url` is where the built-in pages are, `pages` which of them the operator replaces. `None` when its transport is wrong, which was then reported.
pub fn mail(section: Section<'_>, native_url: &str, pages: &PagesSettings) -> Option<Mail> {
    let password_item = section.get("password");
    let password = password_item.as_ref().and_then(secret);
    let ca_item = section.get("ca");
    let want = "a PEM file of authorities";
    let ca = ca_item.as_ref().and_then(|item| existing_file(item, want));
    let transport = match section.get("transport") {
        None => Some(MailTransport::Log),
        Some(item) => match item.text(TRANSPORT) {
            Some("log") => Some(MailTransport::Log),
            Some("none") => Some(MailTransport::None),
            Some(text) => match text.strip_prefix("file:").filter(|folder| !folder.is_empty()) {
                Some(folder) => Some(MailTransport::File(item.doc.resolve(folder))),
                None => smtp(&item, text, password_item.is_some()).map(MailTransport::Smtp),
            },
            None => None,
        },
    };
    if matches!(transport, Some(MailTransport::Log)) && native_url.starts_with("https://") {
        let at = section.get("transport").map_or(section.at, |item| item.at);
        let text = "mail goes only into the log, with its links, which is for development";
        section.doc.warn(at, "mail.transport", text);
    }
    let transport = match transport {
        Some(MailTransport::Smtp(smtp)) => Some(MailTransport::Smtp(Smtp { password, ca, ..smtp })),
        Some(other) => {
            let want = "none, as mail.transport is not SMTP";
            if let Some(item) = password_item {
                item.bad_as::<()>("a password", want);
            }
            if let Some(item) = ca_item.filter(|_| ca.is_some()) {
                item.bad_as::<()>("authorities", want);
            }
            Some(other)
        }
        None => None,
    };
    let from = section
        .get("from")
        .and_then(|item| item.read(&format!("a mailbox like {FROM:?}"), form::mailbox))
        .or_else(|| form::mailbox(FROM));
    let templates = section.get("templates").and_then(|item| {
        let text = item.text("a folder")?;
        let folder = item.doc.resolve(text);
        if folder.is_dir() {
            return Some(folder);
        }
        item.bad_as(format!("{text:?}, which is no folder"), "the folder with your own letters")
    });
    let page = |key: &'static str, page: PageName| {
        let own = pages.urls.iter().find(|(name, _)| *name == page).map(|(_, url)| url.clone());
        let url = section.get(key).and_then(|item| {
            let want = "a URL like https://app.example.com/verify, without a fragment: the token becomes it";
            let url = page_url(&item, want, "links and tokens")?;
            if own.as_ref().is_some_and(|own| *own != url) {
                return item.bad("what pages.urls says of this page, or only one of the two keys");
            }
            Some(url)
        });
        url.or(own).unwrap_or_else(|| format!("{native_url}/pages/{}", page.name()))
    };
    let (verify_url, reset_url) = (page("verify_url", PageName::Verify), page("reset_url", PageName::Reset));
    let (undo_url, object_url) = (page("undo_url", PageName::Undo), page("object_url", PageName::Object));
    section.close();
    let from = from.map(|(name, address)| Mailbox { name, address })?;
    Some(Mail { transport: transport?, from, templates, verify_url, reset_url, undo_url, object_url })
}

/// Reads the URL; the password and the authorities come from keys of their own.
fn smtp(item: &Item<'_>, text: &str, has_password: bool) -> Option<Smtp> {
    let (implicit, after) = match text.split_once("://") {
        Some(("smtps", after)) => (true, after),
        Some(("smtp", after)) => (false, after),
        _ => return item.bad(TRANSPORT),
    };
    let (after, query) = after.split_once('?').map_or((after, None), |(after, query)| (after, Some(query)));
    // The last one: user names are often addresses themselves.
    let (user, authority) = after.rsplit_once('@').map_or((None, after), |(user, rest)| (Some(user), rest));
    if user.is_some_and(|user| user.contains(':')) {
        return item.bad_as("a password in the URL", "the password in mail.password, as a reference");
    }
    let user = user.map(|user| percent_decode_str(user).decode_utf8());
    let user = match user {
        None => None,
        Some(Ok(user)) if !user.is_empty() && !user.chars().any(|c| c.is_control() || c == ' ') => {
            Some(Cow::into_owned(user))
        }
        Some(_) => return item.bad(TRANSPORT),
    };
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let Ok(host) = Host::parse(authority.as_bytes()) else { return item.bad(TRANSPORT) };
    let tls = match query {
        None if implicit => SmtpTls::Implicit,
        None => SmtpTls::StartTls,
        Some("tls=none") if !implicit && is_loopback(host.name()) => SmtpTls::Off,
        Some("tls=none") if !implicit => {
            let want = "no ?tls=none: mail leaves this machine encrypted, or not at all";
            return item.bad(want);
        }
        Some(_) => return item.bad(TRANSPORT),
    };
    match (&user, has_password) {
        (Some(_), false) => return item.bad_as("a user without a password", "mail.password beside it"),
        (None, true) => {
            return item.bad_as("no user", "the user that mail.password belongs to: smtp://user@host");
        }
        _ => {}
    }
    if host.port() == Some(0) {
        return item.bad(TRANSPORT);
    }
    let port = host.port().unwrap_or(if implicit { 465 } else { 587 });
    let host = host.name().trim_matches(['[', ']']).to_owned();
    Some(Smtp { host, port, tls, user, password: None, ca: None })
}
