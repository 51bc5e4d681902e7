//! Handing mail to a server (RFC 6409): connections, TLS, sign-in, and what its answers mean.
//!
//! The library has a pool of its own, which takes a connection back whatever state it is in: after a
//! timeout the next mail would get the answer to the last one. Here only a connection on which a mail
//! came through is kept.

use std::error::Error as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lettre::message::Message;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters, TlsParametersBuilder,
};
use lettre::transport::smtp::extension::ClientId;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::lines::Lines;
use super::sign_in::{NoSignIn, sign_in};
use crate::config::{self, ConfigError, SmtpTls};
use palisade_core::ports::MailFault;

/// From the first packet until the server is ready to take mail.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// For one mail. Servers take their time over the last answer (RFC 5321 §4.5.3.2.6); a mail
/// whose answer was not awaited would be sent twice.
const SEND_TIMEOUT: Duration = Duration::from_secs(180);
/// How long a connection may wait for the next mail.
const IDLE: Duration = Duration::from_secs(60);
/// How many may wait.
const MAX_IDLE: usize = 4;
/// The longest answer of a server that is repeated, in characters.
const MAX_ANSWER: usize = 200;

/// A server that takes our mail.
pub(super) struct Relay {
    smtp: config::Smtp,
    /// In place of the one in `smtp`: a reload replaces it.
    password: Mutex<Option<SecretString>>,
    tls: Option<TlsParameters>,
    hello: ClientId,
    idle: Arc<Mutex<Vec<Parked>>>,
}

struct Parked {
    connection: AsyncSmtpConnection,
    since: Instant,
}

impl Relay {
    /// Reads the authorities. Connects to nothing yet. `host` is the host of `public_url`: what we call
    /// ourselves.
    ///
    /// # Errors
    /// Why TLS cannot be spoken.
    pub(super) fn new(smtp: &config::Smtp, host: &str) -> Result<Relay, ConfigError> {
        let password = Mutex::new(smtp.password.clone());
        let tls = match smtp.tls {
            SmtpTls::Off => None,
            SmtpTls::StartTls | SmtpTls::Implicit => Some(parameters(smtp)?),
        };
        let hello = match host.split(':').next() {
            Some(name)
                if name.contains('.')
                    && !name.starts_with('[')
                    && name.parse::<std::net::Ipv4Addr>().is_err() =>
            {
                ClientId::Domain(name.to_owned())
            }
            // RFC 5321 §4.1.4: a client without a name gives its address.
            _ => ClientId::Ipv4(std::net::Ipv4Addr::LOCALHOST),
        };
        let smtp = config::Smtp { password: None, ..smtp.clone() };
        Ok(Relay { smtp, password, tls, hello, idle: Arc::default() })
    }

    /// Signs in with the password of `smtp` from now on, if that is for the same user at the same server. Connections that
    /// wait are ended: the server may have taken their password back.
    pub(super) fn renew(&self, smtp: &config::Smtp) {
        let account = |smtp: &config::Smtp| (smtp.host.clone(), smtp.port, smtp.tls, smtp.user.clone());
        if account(smtp) != account(&self.smtp) {
            return;
        }
        let mut password = lock(&self.password);
        let text =
            |password: &Option<SecretString>| password.as_ref().map(|it| it.expose_secret().to_owned());
        if text(&password) != text(&smtp.password) {
            password.clone_from(&smtp.password);
            lock(&self.idle).clear();
        }
    }

    /// Hands over one message. Returns what the server said.
    ///
    /// # Errors
    /// [`MailFault`]. Answers are cut, and long words in them, which could be a token, left out.
    pub(super) async fn send(&self, message: &Message) -> Result<String, MailFault> {
        let mut connection = self.connection().await?;
        let raw = message.formatted();
        let answer = match timeout(SEND_TIMEOUT, connection.send(message.envelope(), &raw)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(self.refused(&error)),
            Err(_) => return Err(MailFault::Transient(self.silent(SEND_TIMEOUT))),
        };
        self.park(connection);
        let words: Vec<&str> = answer.message().collect();
        Ok(format!("{} {}", answer.code(), cut(&words.join(" "))))
    }

    /// A connection that is ready for a mail: one that waits, or a new one.
    async fn connection(&self) -> Result<AsyncSmtpConnection, MailFault> {
        while let Some(parked) = self.waiting() {
            let mut connection = parked.connection;
            // The server may have left meanwhile.
            let alive = timeout(CONNECT_TIMEOUT, connection.test_connected()).await;
            if parked.since.elapsed() < IDLE && alive.unwrap_or(false) {
                return Ok(connection);
            }
        }
        match timeout(CONNECT_TIMEOUT, self.connect()).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(why)) => Err(MailFault::Unreachable(format!("{}: {why}", self.place()))),
            Err(_) => Err(MailFault::Unreachable(self.silent(CONNECT_TIMEOUT))),
        }
    }

    fn waiting(&self) -> Option<Parked> {
        lock(&self.idle).pop()
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, String> {
        let server = (self.smtp.host.as_str(), self.smtp.port);
        let mut connection = match (self.smtp.tls, &self.tls) {
            (SmtpTls::StartTls, Some(tls)) => {
                let tcp =
                    TcpStream::connect(server).await.map_err(|error| format!("no connection: {error}"))?;
                let stream = Box::new(Lines::new(tcp));
                let mut connection = AsyncSmtpConnection::connect_with_transport(stream, &self.hello)
                    .await
                    .map_err(|error| words(&error))?;
                if !connection.can_starttls() {
                    return Err("the server offers no STARTTLS, and mail is not sent in cleartext".to_owned());
                }
                let upgraded = connection.starttls(tls.clone(), &self.hello).await;
                upgraded.map_err(|error| format!("STARTTLS: {}", words(&error)))?;
                connection
            }
            (SmtpTls::Implicit, Some(_)) | (SmtpTls::Off, None) => {
                AsyncSmtpConnection::connect_tokio1(server, None, &self.hello, self.tls.clone(), None)
                    .await
                    .map_err(|error| words(&error))?
            }
            (SmtpTls::StartTls | SmtpTls::Implicit, None) | (SmtpTls::Off, Some(_)) => {
                return Err("TLS was not set up".to_owned());
            }
        };
        let password = lock(&self.password).clone();
        if let (Some(user), Some(password)) = (&self.smtp.user, password) {
            let signed_in = sign_in(&mut connection, &self.hello, user, password.expose_secret()).await;
            signed_in.map_err(|why| match why {
                NoSignIn::NotOffered(advice) => advice,
                NoSignIn::Refused(error) => format!("sign-in: {}", words(&error)),
            })?;
        }
        Ok(connection)
    }

    /// Keeps a connection for the next mail. The first one to wait starts the watch that ends them.
    fn park(&self, connection: AsyncSmtpConnection) {
        let mut idle = lock(&self.idle);
        if idle.len() >= MAX_IDLE || connection.has_broken() {
            return;
        }
        let first = idle.is_empty();
        idle.push(Parked { connection, since: Instant::now() });
        drop(idle);
        if first {
            let idle = Arc::downgrade(&self.idle);
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(IDLE).await;
                    let Some(idle) = idle.upgrade() else { return };
                    let mut waiting = lock(&idle);
                    waiting.retain(|parked| parked.since.elapsed() < IDLE);
                    if waiting.is_empty() {
                        return;
                    }
                }
            });
        }
    }

    /// What a refusal of one mail means.
    fn refused(&self, error: &Error) -> MailFault {
        let code = error.status().map(|code| code.to_string());
        let text = format!("{}: {}", self.place(), words(error));
        match code.as_deref() {
            // RFC 4954 §6: about us, and not about this mail.
            Some("530" | "534" | "535" | "538") => MailFault::Unreachable(text),
            Some(code) if code.starts_with('5') => MailFault::Permanent(text),
            _ => MailFault::Transient(text),
        }
    }

    fn silent(&self, waited: Duration) -> String {
        format!("{}: no answer within {} s", self.place(), waited.as_secs())
    }

    /// The server as people write it.
    pub(super) fn place(&self) -> String {
        let (host, port) = (&self.smtp.host, self.smtp.port);
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

fn parameters(smtp: &config::Smtp) -> Result<TlsParameters, ConfigError> {
    let mut builder = TlsParametersBuilder::new(smtp.host.clone());
    if let Some(file) = &smtp.ca {
        builder = builder
            .certificate_store(CertificateStore::None)
            .add_root_certificate(authorities(file).map_err(|found| fault(file, &found))?);
    }
    let file = smtp.ca.as_deref().unwrap_or(Path::new("(system)"));
    builder.build().map_err(|error| fault(file, &words(&error)))
}

fn authorities(file: &Path) -> Result<Certificate, String> {
    let pem = std::fs::read(file).map_err(|error| format!("no readable file ({error})"))?;
    // The library takes a file with none in it, and then trusts no server.
    if !pem.windows(27).any(|window| window == b"-----BEGIN CERTIFICATE-----") {
        return Err("no certificate".to_owned());
    }
    Certificate::from_pem(&pem).map_err(|error| words(&error))
}

fn fault(file: &Path, found: &str) -> ConfigError {
    let want = "a PEM file of authorities to trust".to_owned();
    ConfigError { path: file.to_owned(), line: 0, key: "mail.ca".to_owned(), found: found.to_owned(), want }
}

/// An error in words, with what the server said, and without what it should not have.
fn words(error: &Error) -> String {
    let mut text = match (error.status(), error.source()) {
        (Some(code), Some(said)) => format!("the server said {code} {said}"),
        (Some(code), None) => format!("the server said {code}"),
        (None, _) => error.to_string(),
    };
    let mut source = error.source().and_then(std::error::Error::source);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    cut(&text)
}

/// A text of the server's for a log: on one line and not long. A filter that refuses a mail may quote the
/// link in it, whole or broken as the message's encoding broke it: what follows `token=`, and any word so
/// long that it could be one, is left out.
fn cut(text: &str) -> String {
    let text: String =
        text.chars().take(8 * MAX_ANSWER).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let is_token = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let mut words = Vec::new();
    for word in text.split_whitespace() {
        let (word, dropped) = match word.split_once("token=") {
            Some((before, _)) => (format!("{before}token="), true),
            None => (word.to_owned(), false),
        };
        let long = |part: &str| if part.len() < 40 { part.to_owned() } else { "…".to_owned() };
        let mut out = String::new();
        let mut rest = word.as_str();
        while let Some(at) = rest.find(|c| !is_token(c)) {
            let (part, after) = rest.split_at(at);
            let separator = after.chars().next().map_or(0, char::len_utf8);
            out.push_str(&long(part));
            out.push_str(&after[..separator]);
            rest = &after[separator..];
        }
        out.push_str(&long(rest));
        words.push(if dropped { out + "…" } else { out });
    }
    words.join(" ").chars().take(MAX_ANSWER).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing under the locks can leave what they hold half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_short_line_without_a_token() {
        let token = "sample-that-opens-nothing-0123456789-abcdef";
        assert_eq!(
            cut(&format!("5.7.1 spam:\r\n\u{1b}[31m https://app.test/auth/pages/reset#token={token} listed")),
            "5.7.1 spam: [31m https://app.test/auth/pages/reset#token=… listed"
        );
        assert_eq!(cut("blocked: /reset#token=3Dsample-that-opens-nothin=\n"), "blocked: /reset#token=…");
        assert_eq!(cut(&format!("see {token}, or \u{e9}{token}")), "see …, or \u{e9}…");
        assert_eq!(cut("2.0.0 Ok: queued as 4XyZ12abc"), "2.0.0 Ok: queued as 4XyZ12abc");
        assert_eq!(cut(&"long ".repeat(100_000)).chars().count(), MAX_ANSWER);
    }

    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    /// A server that takes every mail, or says `at_rcpt` to a recipient; and leaves after `mails` of them.
    struct Server {
        port: u16,
        connections: Arc<AtomicUsize>,
        /// What clients have signed in with (AUTH PLAIN), in base64.
        sign_ins: SignIns,
    }

    type SignIns = Arc<Mutex<Vec<String>>>;

    impl Server {
        async fn start(at_rcpt: &'static str, mails: usize) -> Server {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let connections = Arc::new(AtomicUsize::new(0));
            let (counted, sign_ins) = (Arc::clone(&connections), SignIns::default());
            let kept = Arc::clone(&sign_ins);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    counted.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(serve(stream, at_rcpt, mails, Arc::clone(&kept)));
                }
            });
            Server { port, connections, sign_ins }
        }

        fn relay(&self) -> Relay {
            let smtp = config::Smtp {
                host: "127.0.0.1".to_owned(),
                port: self.port,
                tls: SmtpTls::Off,
                user: None,
                password: None,
                ca: None,
            };
            Relay::new(&smtp, "app.test").unwrap()
        }
    }

    async fn serve(stream: TcpStream, at_rcpt: &str, mails: usize, sign_ins: SignIns) {
        let mut stream = BufReader::new(stream);
        let mut answer = "220 mail.test\r\n".to_owned();
        let mut taken = 0;
        loop {
            stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
            if taken == mails {
                return;
            }
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            let word = line.get(..4).unwrap_or_default();
            answer = match word {
                "EHLO" => "250-mail.test\r\n250 AUTH PLAIN\r\n".to_owned(),
                "AUTH" => {
                    let sent = line.trim_end().rsplit(' ').next().unwrap_or_default();
                    lock(&sign_ins).push(sent.to_owned());
                    "235 signed in\r\n".to_owned()
                }
                "RCPT" => format!("{at_rcpt}\r\n"),
                "DATA" => {
                    stream.get_mut().write_all(b"354 go on\r\n").await.unwrap();
                    while line != ".\r\n" {
                        line.clear();
                        stream.read_line(&mut line).await.unwrap();
                    }
                    taken += 1;
                    "250 queued\r\n".to_owned()
                }
                _ => "250 OK\r\n".to_owned(),
            };
        }
    }

    fn letter() -> Message {
        let mailbox = |text: &str| text.parse().unwrap();
        Message::builder().from(mailbox("a@b.test")).to(mailbox("c@d.test")).body("text".to_owned()).unwrap()
    }

    #[tokio::test]
    async fn mails_in_a_row_share_a_connection() {
        let server = Server::start("250 OK", 100).await;
        let relay = server.relay();
        for _ in 0..5 {
            assert_eq!(relay.send(&letter()).await, Ok("250 queued".to_owned()));
        }
        assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_new_password_is_signed_in_with_and_that_of_another_user_is_not() {
        let server = Server::start("250 OK", 100).await;
        let smtp = |user: &str, password: &str| config::Smtp {
            host: "127.0.0.1".to_owned(),
            port: server.port,
            tls: SmtpTls::Off,
            user: Some(user.to_owned()),
            password: Some(password.into()),
            ca: None,
        };
        let relay = Relay::new(&smtp("me", "first"), "app.test").unwrap();
        relay.send(&letter()).await.unwrap();
        for (user, password) in [("me", "second"), ("me", "second"), ("you", "third")] {
            relay.renew(&smtp(user, password));
            relay.send(&letter()).await.unwrap();
        }
        // "\0me\0first" and "\0me\0second" in base64 (RFC 4616 §2): the connection with the former ended.
        assert_eq!(*lock(&server.sign_ins), ["AG1lAGZpcnN0", "AG1lAHNlY29uZA=="]);
    }

    #[tokio::test]
    async fn a_connection_that_the_server_left_is_replaced() {
        let server = Server::start("250 OK", 1).await;
        let relay = server.relay();
        for _ in 0..3 {
            assert_eq!(relay.send(&letter()).await, Ok("250 queued".to_owned()));
        }
        assert_eq!(server.connections.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_connection_on_which_a_mail_was_refused_is_not_kept() {
        for (answer, transient) in [("450 later", true), ("421 closing", true), ("550 no", false)] {
            let server = Server::start(answer, 100).await;
            let relay = server.relay();
            for _ in 0..2 {
                let fault = relay.send(&letter()).await.unwrap_err();
                assert_eq!(matches!(fault, MailFault::Transient(_)), transient, "{fault:?}");
                assert_eq!(matches!(fault, MailFault::Permanent(_)), !transient, "{fault:?}");
                assert!(fault.to_string().contains(answer), "{fault}");
            }
            assert_eq!(server.connections.load(Ordering::Relaxed), 2);
        }
    }

    #[tokio::test]
    async fn what_is_about_us_is_not_about_the_mail() {
        let server = Server::start("530 5.7.0 sign in first", 100).await;
        let fault = server.relay().send(&letter()).await.unwrap_err();
        assert!(matches!(fault, MailFault::Unreachable(_)), "{fault:?}");
        let unbound = palisade_testing::nowhere::nowhere().port();
        let unreachable = Server { port: unbound, connections: Arc::default(), sign_ins: SignIns::default() };
        let fault = unreachable.relay().send(&letter()).await.unwrap_err();
        assert!(matches!(fault, MailFault::Unreachable(_)), "{fault:?}");
    }

    /// A server that says of itself what `hello` holds, takes every line of a sign-in, and keeps them.
    async fn signing_in(hello: &'static str) -> (Relay, SignIns) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let kept = SignIns::default();
        let kept_there = Arc::clone(&kept);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept_there);
                tokio::spawn(script(stream, hello, kept));
            }
        });
        let smtp = config::Smtp {
            host: "127.0.0.1".to_owned(),
            port,
            tls: SmtpTls::Off,
            user: Some("me".to_owned()),
            password: Some("hunter2-hunter2".into()),
            ca: None,
        };
        (Relay::new(&smtp, "app.test").unwrap(), kept)
    }

    async fn script(stream: TcpStream, hello: &str, kept: SignIns) {
        let mut stream = BufReader::new(stream);
        stream.get_mut().write_all(b"220 mail.test\r\n").await.unwrap();
        let (mut line, mut left) = (String::new(), 0);
        loop {
            line.clear();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            let sent = line.trim_end().to_owned();
            let answer = match sent.split(' ').next().unwrap_or_default() {
                "EHLO" => hello,
                "AUTH" if sent == "AUTH LOGIN" => {
                    left = 2;
                    lock(&kept).push(sent);
                    // "Benutzername:", as no library expects it.
                    "334 QmVudXR6ZXJuYW1lOg==\r\n"
                }
                "AUTH" => {
                    lock(&kept).push(sent);
                    "235 signed in\r\n"
                }
                _ if left > 0 => {
                    left -= 1;
                    lock(&kept).push(sent);
                    if left == 0 { "235 signed in\r\n" } else { "334 S2Vubndvcnc6\r\n" }
                }
                "DATA" => {
                    stream.get_mut().write_all(b"354 go on\r\n").await.unwrap();
                    while line != ".\r\n" {
                        line.clear();
                        stream.read_line(&mut line).await.unwrap();
                    }
                    "250 queued\r\n"
                }
                _ => "250 OK\r\n",
            };
            stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_server_that_offers_a_sign_in_as_old_ones_do_is_signed_in_at() {
        let login = ["AUTH LOGIN", "bWU=", "aHVudGVyMi1odW50ZXIy"];
        let plain = ["AUTH PLAIN AG1lAGh1bnRlcjItaHVudGVyMg=="];
        for (hello, want) in [
            ("250-mail.test\r\n250 AUTH=LOGIN\r\n", &login[..]),
            ("250-mail.test\r\n250-AUTH=CRAM-MD5 LOGIN\r\n250 SIZE 1000\r\n", &login),
            ("250-mail.test\r\n250 auth login\r\n", &login),
            ("250-mail.test\r\n250 AUTH=PLAIN LOGIN\r\n", &plain),
            ("250-mail.test\r\n250 AUTH PLAIN LOGIN\r\n", &plain),
        ] {
            let (relay, kept) = signing_in(hello).await;
            assert_eq!(relay.send(&letter()).await, Ok("250 queued".to_owned()), "{hello}");
            assert_eq!(*lock(&kept), want, "{hello}");
        }
    }

    #[tokio::test]
    async fn where_there_is_no_sign_in_that_we_speak_the_end_that_must_change_is_named() {
        for (hello, words) in [
            (
                "250-mail.test\r\n250 AUTH CRAM-MD5\r\n",
                "offers CRAM-MD5 only, and Palisade speaks PLAIN and LOGIN",
            ),
            ("250-mail.test\r\n250 AUTH XOAUTH2 GSSAPI\r\n", "offers XOAUTH2, GSSAPI only"),
            ("250 mail.test\r\n", "take the user out of mail.transport"),
        ] {
            let (relay, kept) = signing_in(hello).await;
            let fault = relay.send(&letter()).await.unwrap_err();
            assert!(matches!(&fault, MailFault::Unreachable(why) if why.contains(words)), "{fault:?}");
            assert!(!fault.to_string().contains("hunter2"));
            assert_eq!(*lock(&kept), [""; 0], "{hello}");
        }
    }
}
