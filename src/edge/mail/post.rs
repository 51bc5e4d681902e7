//! The mailer: a letter is written, made a message, and handed to the configured transport.

use std::path::PathBuf;

use async_trait::async_trait;
use secrecy::SecretString;

use super::files;
use super::message::{message, message_id};
use super::smtp::Relay;
use super::write::{Letters, Written};
use crate::config::{self, ConfigError, MailTransport};
use palisade_core::domain::mail::Mail;
use palisade_core::ports::{MailFault, Mailer};

/// Writes and delivers mail as the configuration says.
pub struct Post {
    letters: Letters,
    from: config::Mailbox,
    transport: Transport,
}

enum Transport {
    /// `"none"`: what is enqueued is taken out and goes nowhere.
    Nowhere,
    Log,
    Files(PathBuf),
    Smtp(Box<Relay>),
}

/// A mail that was handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its `Message-ID`, with the angle brackets.
    pub message_id: String,
    /// What the transport answered: the server's reply, or the file's name.
    pub answer: String,
}

impl Post {
    /// Reads and tries every template, and the authorities. Connects to nothing yet.
    ///
    /// # Errors
    /// Everything that is wrong with them, with file and line.
    pub fn new(mail: &config::Mail, public_url: &str) -> Result<Post, Vec<ConfigError>> {
        let letters = Letters::load(mail, public_url);
        let host = public_url.split_once("://").map_or(public_url, |(_, host)| host);
        let transport = match &mail.transport {
            MailTransport::None => Ok(Transport::Nowhere),
            MailTransport::Log => Ok(Transport::Log),
            MailTransport::File(folder) => Ok(Transport::Files(folder.clone())),
            MailTransport::Smtp(smtp) => Relay::new(smtp, host).map(|relay| Transport::Smtp(Box::new(relay))),
        };
        match (letters, transport) {
            (Ok(letters), Ok(transport)) => Ok(Post { letters, from: mail.from.clone(), transport }),
            (letters, transport) => Err(letters.err().into_iter().flatten().chain(transport.err()).collect()),
        }
    }

    /// Signs in at the mail server with the password of `mail` from now on, if it is that of the same user there.
    pub fn renew(&self, mail: &config::Mail) {
        if let (Transport::Smtp(relay), MailTransport::Smtp(smtp)) = (&self.transport, &mail.transport) {
            relay.renew(smtp);
        }
    }

    /// The message as it would be sent, for people to look at.
    ///
    /// # Errors
    /// [`MailFault`].
    pub fn preview(
        &self,
        mail: &Mail,
        link_token: Option<&SecretString>,
    ) -> Result<(Written, Vec<u8>), MailFault> {
        let written = self.letters.write(mail, link_token)?;
        let message = message(&self.from, mail, &written).map_err(MailFault::Permanent)?;
        Ok((written, message.formatted()))
    }

    /// Delivers as [`Mailer::deliver`] does, and says what became of it.
    ///
    /// # Errors
    /// [`MailFault`], without any token in it.
    pub async fn hand_over(
        &self,
        mail: &Mail,
        link_token: Option<SecretString>,
    ) -> Result<Accepted, MailFault> {
        let written = self.letters.write(mail, link_token.as_ref())?;
        let message = message(&self.from, mail, &written).map_err(MailFault::Permanent)?;
        let message_id = message_id(&self.from, mail);
        let answer = match &self.transport {
            Transport::Nowhere => {
                let why = "mail.transport is \"none\": no mail is sent";
                return Err(MailFault::Permanent(why.to_owned()));
            }
            Transport::Log => {
                let (to, subject) = (mail.to.as_str(), written.subject.as_str());
                let why = "mail.transport is \"log\", which is for development: this mail goes nowhere else";
                // The only place where a token is written down: with this transport nothing else holds it.
                match &written.link {
                    Some(link) => tracing::info!(to, subject, link, "{why}"),
                    None => tracing::info!(to, subject, "{why}"),
                }
                "written to the log".to_owned()
            }
            Transport::Files(folder) => {
                let (folder, id, bytes) = (folder.clone(), mail.id, message.formatted());
                let shown = folder.display().to_string();
                let written = tokio::task::spawn_blocking(move || files::write(&folder, id, &bytes)).await;
                match written {
                    Ok(Ok(path)) => path.display().to_string(),
                    Ok(Err(error)) => return Err(MailFault::Unreachable(format!("{shown}: {error}"))),
                    Err(error) => return Err(MailFault::Unreachable(format!("{shown}: {error}"))),
                }
            }
            Transport::Smtp(relay) => format!("{}: {}", relay.place(), relay.send(&message).await?),
        };
        tracing::debug!(mail = %mail.id, letter = mail.letter.name(), answer, "mail was handed over");
        Ok(Accepted { message_id, answer })
    }
}

#[async_trait]
impl Mailer for Post {
    async fn deliver(&self, mail: &Mail, link_token: Option<SecretString>) -> Result<(), MailFault> {
        if matches!(self.transport, Transport::Nowhere) {
            tracing::debug!(letter = mail.letter.name(), "no mail is sent; the account page tells of it");
            return Ok(());
        }
        self.hand_over(mail, link_token).await.map(|_| ())
    }
}
