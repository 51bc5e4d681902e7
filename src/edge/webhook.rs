//! Tells the app of what happened to accounts and their connections, by the Standard Webhooks specification (1.0.0):
//! the id, the moment and the body are signed with HMAC-SHA256, so the app can verify the sender.
//!
//! The URL may hold a secret of its own, as some receivers want it: no error names it.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::config;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Clock, Fetch, FetchError, Notice, NoticeAbout, Webhook};

/// `accounts.webhook` and `connections.webhook`: each notice goes to the receiver of what it is about.
pub struct Webhooks {
    pub accounts: SignedWebhook,
    pub connections: SignedWebhook,
}

#[async_trait]
impl Webhook for Webhooks {
    async fn deliver(&self, notice: &Notice) -> Result<(), String> {
        match notice.about {
            NoticeAbout::Account => self.accounts.deliver(notice).await,
            NoticeAbout::Connection => self.connections.deliver(notice).await,
        }
    }
}

/// A webhook, if it is configured.
pub struct SignedWebhook {
    /// Its key in the configuration.
    key: &'static str,
    target: Option<Target>,
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
}

struct Target {
    url: String,
    key: Mutex<Arc<Zeroizing<Vec<u8>>>>,
}

impl SignedWebhook {
    /// Delivers to `webhook`, which is `key` of the configuration; drops notices when there is none.
    ///
    /// # Errors
    /// The secret is not in its form; without the secret.
    pub fn new(
        key: &'static str,
        webhook: Option<&config::Webhook>,
        fetch: Arc<dyn Fetch>,
        clock: Arc<dyn Clock>,
    ) -> Result<SignedWebhook, String> {
        let target = webhook.map(|webhook| {
            let secret = config::webhook_key(&webhook.secret);
            let key = secret.ok_or_else(|| format!("{key}.secret: there is no base64 behind whsec_"))?;
            Ok::<_, String>(Target { url: webhook.url.clone(), key: Mutex::new(Arc::new(key)) })
        });
        Ok(SignedWebhook { key, target: target.transpose()?, fetch, clock })
    }

    /// Signs with the secret of `webhook` from the next try on, if it is for the same URL. The secret of another receiver
    /// takes effect with its URL, at the next start.
    pub fn renew(&self, webhook: Option<&config::Webhook>) {
        if let (Some(target), Some(webhook)) = (&self.target, webhook)
            && target.url == webhook.url
            && let Some(key) = config::webhook_key(&webhook.secret)
        {
            *target.key.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
        }
    }
}

#[async_trait]
impl Webhook for SignedWebhook {
    async fn deliver(&self, notice: &Notice) -> Result<(), String> {
        let Some(target) = &self.target else { return Ok(()) };
        let id = notice.id.to_string();
        // Of this try, not of the event: receivers refuse what was sent too long ago.
        let now = self.clock.now();
        let key = Arc::clone(&*target.key.lock().unwrap_or_else(PoisonError::into_inner));
        let headers = [
            ("webhook-id", id.clone()),
            ("webhook-timestamp", now.0.to_string()),
            ("webhook-signature", signature(&key, &id, now, &notice.body)),
        ];
        match self.fetch.post(&target.url, &headers, notice.body.clone()).await {
            Ok(200..=299) => Ok(()),
            Ok(status) | Err(FetchError::Answered { status, .. }) => {
                Err(format!("{}.url answered {status}", self.key))
            }
            Err(FetchError::Forbidden { why, .. } | FetchError::Failed { why, .. }) => {
                Err(format!("{}.url: {why}", self.key))
            }
        }
    }
}

fn signature(key: &[u8], id: &str, at: UnixTime, body: &str) -> String {
    #[allow(clippy::expect_used, reason = "HMAC takes keys of every length (RFC 2104 §2)")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    for part in [id, ".", &at.0.to_string(), ".", body] {
        mac.update(part.as_bytes());
    }
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::fetch::HttpFetch;
    use axum::Router;
    use axum::extract::State;
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::post;
    use tokio::sync::mpsc;
    use uuid::Uuid;

    /// What the reference libraries of the specification are tested with.
    #[test]
    fn the_reference_signature() {
        let key = config::webhook_key(&"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()).unwrap();
        let (id, at) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", UnixTime(1_614_265_330));
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signature(&key, id, at, r#"{"test": 2432232314}"#), expected);
    }

    struct At(u64);

    impl Clock for At {
        fn now(&self) -> UnixTime {
            UnixTime(self.0)
        }
    }

    type Seen = mpsc::UnboundedSender<(HeaderMap, String)>;

    /// An app that answers `status`, and tells what it got.
    async fn app(status: StatusCode) -> (String, mpsc::UnboundedReceiver<(HeaderMap, String)>) {
        let take = move |State(seen): State<Seen>, headers: HeaderMap, body: String| async move {
            seen.send((headers, body)).unwrap();
            (status, [("location", "/elsewhere")])
        };
        let (seen, told) = mpsc::unbounded_channel();
        let router = Router::new().route("/hook", post(take)).with_state(seen);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?key=hunter2", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (url, told)
    }

    fn webhook(url: &str, secret: &str, now: u64) -> SignedWebhook {
        let webhook = config::Webhook { url: url.to_owned(), secret: secret.into() };
        let fetch = Arc::new(HttpFetch::new().unwrap());
        SignedWebhook::new("connections.webhook", Some(&webhook), fetch, Arc::new(At(now))).unwrap()
    }

    fn notice() -> Notice {
        Notice {
            id: Uuid::from_u128(7),
            at: UnixTime(1),
            body: r#"{"type":"x","żółw":"…"}"#.to_owned(),
            about: NoticeAbout::Connection,
        }
    }

    #[tokio::test]
    async fn the_app_can_tell_whose_word_it_is() {
        for secret in ["whsec_aGVsbG8gaGVsbG8gaGVsbG8gaGVsbG8h", "hello hello hello hello!"] {
            let (url, mut told) = app(StatusCode::NO_CONTENT).await;
            webhook(&url, secret, 1_700_000_000).deliver(&notice()).await.unwrap();
            let (headers, body) = told.recv().await.unwrap();
            assert_eq!(body, notice().body);
            let header = |name: &str| headers[name].to_str().unwrap();
            assert_eq!(header("content-type"), "application/json");
            assert_eq!(header("webhook-id"), Uuid::from_u128(7).to_string());
            assert_eq!(header("webhook-timestamp"), "1700000000", "of the try, not of the event");
            let signed = format!("{}.{}.{body}", header("webhook-id"), header("webhook-timestamp"));
            let sent = STANDARD.decode(header("webhook-signature").strip_prefix("v1,").unwrap()).unwrap();
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"hello hello hello hello!");
            aws_lc_rs::hmac::verify(&key, signed.as_bytes(), &sent).unwrap();
        }
    }

    #[tokio::test]
    async fn a_new_secret_signs_the_next_try_and_that_of_another_receiver_does_not() {
        let (url, mut told) = app(StatusCode::NO_CONTENT).await;
        let sender = webhook(&url, "the first secret of this app", 5);
        let mut signed = async |renewed: Option<(&str, &str)>| {
            let other =
                renewed.map(|(url, secret)| config::Webhook { url: url.to_owned(), secret: secret.into() });
            sender.renew(other.as_ref());
            sender.deliver(&notice()).await.unwrap();
            told.recv().await.unwrap().0["webhook-signature"].to_str().unwrap().to_owned()
        };
        let with = |key: &[u8]| signature(key, &notice().id.to_string(), UnixTime(5), &notice().body);
        assert_eq!(signed(None).await, with(b"the first secret of this app"));
        assert_eq!(
            signed(Some((&url, "its second secret, for a while"))).await,
            with(b"its second secret, for a while")
        );
        let elsewhere = format!("{url}&another");
        for kept in [Some((&*elsewhere, "what another receiver knows")), None, Some((&*url, "whsec_***"))] {
            assert_eq!(signed(kept).await, with(b"its second secret, for a while"), "{kept:?}");
        }
    }

    #[tokio::test]
    async fn what_was_not_taken_is_an_error_without_the_url() {
        for status in [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::FOUND, StatusCode::GONE] {
            let (url, mut told) = app(status).await;
            let error = webhook(&url, "s", 1).deliver(&notice()).await.unwrap_err();
            assert_eq!(error, format!("connections.webhook.url answered {}", status.as_u16()));
            told.recv().await.unwrap();
            assert!(told.try_recv().is_err(), "asked twice");
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone = format!("http://{}/hook?key=hunter2", listener.local_addr().unwrap());
        drop(listener);
        for url in [gone.as_str(), "http://10.0.0.1/hook?key=hunter2"] {
            let error = webhook(url, "s", 1).deliver(&notice()).await.unwrap_err();
            assert!(!error.contains("hunter2") && !error.contains("/hook"), "{error}");
        }
    }

    #[tokio::test]
    async fn without_a_configured_webhook_a_notice_is_done_at_once() {
        let fetch = Arc::new(HttpFetch::new().unwrap());
        let silent = SignedWebhook::new("connections.webhook", None, fetch, Arc::new(At(1))).unwrap();
        silent.deliver(&notice()).await.unwrap();
    }

    #[tokio::test]
    async fn a_notice_goes_to_the_receiver_of_what_it_is_about() {
        let ((accounts, mut of_accounts), (connections, mut of_connections)) =
            (app(StatusCode::OK).await, app(StatusCode::OK).await);
        let both = Webhooks {
            accounts: webhook(&accounts, "the secret of accounts, 24 bytes", 1),
            connections: webhook(&connections, "the secret of connections, 24", 1),
        };
        both.deliver(&notice()).await.unwrap();
        both.deliver(&Notice { about: NoticeAbout::Account, ..notice() }).await.unwrap();
        assert!(of_connections.recv().await.is_some() && of_connections.try_recv().is_err());
        assert!(of_accounts.recv().await.is_some() && of_accounts.try_recv().is_err());
    }
}
