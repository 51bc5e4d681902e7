//! Signing in at a mail server (RFC 4954).
//!
//! The library signs in where a server says `AUTH PLAIN` or `AUTH LOGIN` in upper case. Here are those that say it as servers
//! did before there was an RFC (`AUTH=LOGIN`), and what to tell an operator whose server offers nothing that we speak.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::Ehlo;
use lettre::transport::smtp::extension::ClientId;
use zeroize::Zeroizing;

/// What the library signs in with, the better one first.
const KNOWN: [Mechanism; 2] = [Mechanism::Plain, Mechanism::Login];

/// Why there was no sign-in.
pub(super) enum NoSignIn {
    /// The server offers none that we speak: what it offers, and which end must change.
    NotOffered(String),
    /// The server refused it, or broke off.
    Refused(Error),
}

impl From<Error> for NoSignIn {
    fn from(error: Error) -> NoSignIn {
        NoSignIn::Refused(error)
    }
}

/// Signs in as `user`. `hello`: what we call ourselves.
///
/// # Errors
/// [`NoSignIn`].
pub(super) async fn sign_in(
    connection: &mut AsyncSmtpConnection,
    hello: &ClientId,
    user: &str,
    password: &str,
) -> Result<(), NoSignIn> {
    if connection.server_info().get_auth_mechanism(&KNOWN).is_some() {
        let credentials = Credentials::new(user.to_owned(), password.to_owned());
        connection.auth(&KNOWN, &credentials).await?;
        return Ok(());
    }
    // The library keeps only what it understands of the answer, so the server is asked once more (RFC 5321 §4.1.4).
    let greeting = connection.command(Ehlo::new(hello.clone())).await?;
    let offered = offered(greeting.message());
    let offers = |name: &str| offered.iter().any(|mechanism| mechanism == name);
    if offers("PLAIN") {
        let both = Zeroizing::new(format!("\0{user}\0{password}"));
        said(connection, &format!("AUTH PLAIN {}", *encoded(&both))).await?;
    } else if offers("LOGIN") {
        // The server asks for one after the other, in words that differ.
        said(connection, "AUTH LOGIN").await?;
        said(connection, &encoded(user)).await?;
        said(connection, &encoded(password)).await?;
    } else {
        return Err(NoSignIn::NotOffered(advice(&offered)));
    }
    Ok(())
}

/// Sends a line. What the server refuses is an error.
async fn said(connection: &mut AsyncSmtpConnection, line: &str) -> Result<(), Error> {
    let line = Zeroizing::new(format!("{line}\r\n"));
    connection.command(line.as_str()).await.map(drop)
}

fn encoded(text: &str) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(text))
}

/// The mechanisms that an answer to EHLO lists, in upper case: after `AUTH`, or `AUTH=` as before RFC 2554.
fn offered<'l>(lines: impl Iterator<Item = &'l str>) -> Vec<String> {
    let mut offered: Vec<String> = Vec::new();
    for line in lines {
        let line = line.to_ascii_uppercase();
        let Some(mechanisms) = line.strip_prefix("AUTH").filter(|rest| rest.starts_with([' ', '='])) else {
            continue;
        };
        for mechanism in mechanisms[1..].split_ascii_whitespace() {
            if !offered.iter().any(|known| known == mechanism) {
                offered.push(mechanism.to_owned());
            }
        }
    }
    offered
}

/// Which of the two ends must change.
fn advice(offered: &[String]) -> String {
    match offered.is_empty() {
        true => "sign-in: the server offers none here, and mail.transport names a user. Either take the user out of \
                 mail.transport, and mail.password with it, or use the port at which the server lets users sign in: mostly \
                 587 (smtp://) or 465 (smtps://)"
            .to_owned(),
        false => format!(
            "sign-in: the server offers {} only, and Palisade speaks PLAIN and LOGIN, inside TLS. Let the server offer one of \
             them",
            offered.iter().take(8).map(|name| name.chars().take(24).collect()).collect::<Vec<String>>().join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mechanisms_are_read_in_every_spelling() {
        for (lines, want) in [
            (&["mail.test", "AUTH PLAIN LOGIN"][..], &["PLAIN", "LOGIN"][..]),
            (&["AUTH=LOGIN"], &["LOGIN"]),
            (&["AUTH=LOGIN PLAIN", "AUTH LOGIN PLAIN"], &["LOGIN", "PLAIN"]),
            (&["auth login"], &["LOGIN"]),
            (&["AUTH CRAM-MD5 DIGEST-MD5"], &["CRAM-MD5", "DIGEST-MD5"]),
            (&["AUTH", "AUTHOR x", "SIZE 100"], &[]),
        ] {
            assert_eq!(offered(lines.iter().copied()), want, "{lines:?}");
        }
    }
}
