//! `palisade mail preview`: a letter as a file, to look at before a user gets one.
//!
//! Needs no running gateway and sends nothing.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use uuid::Uuid;

use super::PreviewArgs;
use crate::config::{self, error_lines};
use crate::edge::clock::SystemClock;
use crate::edge::mail::{self, Post};
use palisade_core::domain::mail::Letter;
use palisade_core::ports::Clock;

/// Writes the letter, or lists all of them.
pub(super) fn run(config: &Path, args: &PreviewArgs) -> Result<String, String> {
    let (Some(name), Some(file)) = (&args.name, &args.to) else { return Ok(list()) };
    let letter = letter(name)?;
    let config = config::load(config).map_err(|errors| error_lines(&errors))?;
    let post = Post::new(&config.mail, &config.public_url).map_err(|errors| error_lines(&errors))?;
    let to = "ann@example.com".parse().map_err(|error| format!("the sample address: {error}"))?;
    let sample = mail::sample(letter, Uuid::now_v7(), to, SystemClock.now());
    let (written, message) =
        post.preview(&sample, Some(&mail::sample_token())).map_err(|fault| fault.to_string())?;
    let write = |file: &Path, bytes: &[u8]| {
        fs::write(file, bytes).map_err(|error| format!("{} cannot be written: {error}", file.display()))
    };
    let about = format!("{name}: {:?}", written.subject);
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("eml") => {
            write(file, &message)?;
            Ok(format!("{about}, in {}", file.display()))
        }
        Some("html") => {
            let beside = file.with_extension("txt");
            write(file, written.html.as_bytes())?;
            write(&beside, written.text.as_bytes())?;
            Ok(format!("{about}, in {} and {}", file.display(), beside.display()))
        }
        _ => Err(format!("{} must end in .html or .eml", file.display())),
    }
}

/// The letter of this name.
pub(super) fn letter(name: &str) -> Result<Letter, String> {
    Letter::ALL.into_iter().find(|letter| letter.name() == name).ok_or_else(|| {
        let names: Vec<&str> = Letter::ALL.iter().map(|letter| letter.name()).collect();
        format!("there is no letter {name:?}; the letters are {}", names.join(", "))
    })
}

fn list() -> String {
    let mut text = "The letters; each is made of NAME.html and NAME.txt:\n".to_owned();
    for letter in Letter::ALL {
        let about = match letter {
            Letter::VerifyEmail => "a link that shows the address is theirs",
            Letter::Welcome => "the account works now",
            Letter::AlreadyRegistered => "a registration was tried for an address that has an account",
            Letter::ResetPassword => "a link that sets a new password",
            Letter::PasswordChanged => "the password was changed",
            Letter::ConfirmEmail => "to a new address: a link that makes it the account's",
            Letter::EmailChanged => "to the old address: another one is to replace it",
            Letter::EmailReplaced => "to the old address: it was replaced, with a link that undoes it",
            Letter::EmailChangeUndone => "to the earlier address: the change was undone",
            Letter::EmailChangeDisputed => "to a later address: the same, with a link to object",
            Letter::NewDevice => "a sign-in from a device that was not seen before",
            Letter::AccountDeleted => "its owner has deleted the account",
            Letter::ReconnectNeeded => "a provider does not honour a grant any more",
            Letter::GrantEnding => "a grant of a provider ends soon",
            Letter::Invitation => "an operator made an account for them: a link that sets its password",
        };
        // The text can always grow.
        let _ = writeln!(text, "  {:<20} {about}", letter.name());
    }
    text.push_str(
        "\nA template is written in Jinja syntax. A .txt begins with a line `Subject: ...`. layout.html and\n\
         layout.txt frame the built-in letters; files that begin with _ are parts to include.\n\
         Templates know (what has a ? may be missing: ask with {% if %} first):\n",
    );
    for (name, about) in mail::KNOWN {
        let _ = writeln!(text, "  {name:<20} {about}");
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_letter_is_listed_and_found() {
        let list = list();
        for known in Letter::ALL {
            assert!(list.contains(&format!("\n  {:<20} ", known.name())), "{list}");
            assert_eq!(letter(known.name()), Ok(known));
        }
        assert!(letter("verify").unwrap_err().contains("verify_email, welcome"));
    }

    #[test]
    fn a_preview_is_html_with_text_beside_it_or_a_message() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.toml");
        fs::write(&config, "public_url = \"https://app.test\"").unwrap();
        let preview = |file: &str| {
            let to = Some(folder.path().join(file));
            run(&config, &PreviewArgs { name: Some("reset_password".to_owned()), to, list: false })
        };
        let read = |file: &str| fs::read_to_string(folder.path().join(file)).unwrap();
        assert!(preview("a.html").unwrap().contains("\"Set a new password for Palisade\""));
        assert!(read("a.html").contains("<!doctype html>"));
        assert!(read("a.txt").contains("https://app.test/auth/pages/reset#token="));
        preview("b.eml").unwrap();
        assert!(read("b.eml").contains("multipart/alternative"));
        assert!(preview("c").unwrap_err().contains(".html or .eml"));
    }
}
