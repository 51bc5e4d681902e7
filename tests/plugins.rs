//! The plugin host with a component that does everything a plugin must not do.

mod support;

use std::sync::{Arc, Mutex};

use palisade::ports::{Authorization, ProviderFault, Providers as _};
use secrecy::ExposeSecret;
use serde_json::json;
use support::neighbours::{Scripted, read_head};
use support::plugins::{Host, access_token, call, current, local, mode, pkce, provider};
use tokio::io::AsyncWriteExt;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A neighbour that gives `answer` to every request and keeps what it was sent.
async fn answering(answer: &'static str) -> (Scripted, Arc<Mutex<Vec<String>>>) {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&seen);
    let neighbour = Scripted::start(move |mut stream| {
        let kept = Arc::clone(&kept);
        async move {
            let mut head = read_head(&mut stream).await;
            let length = support::field(&head, "content-length").map_or(0, |text| text.parse().unwrap());
            let mut body = vec![0; length];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut body).await.unwrap();
            head.push_str(&String::from_utf8(body).unwrap());
            kept.lock().unwrap().push(head);
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    })
    .await;
    (neighbour, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_reaches_the_plugin_and_comes_back() {
    let (neighbour, seen) = answering(OK).await;
    let authorize = "https://provider.test/consent?state=STATE&code_challenge=CHALLENGE";
    let settings = json!({"mode": "ok", "auth": "basic", "authorize": authorize});
    let mut bank = local("bank", neighbour.address, settings);
    bank.allowed_hosts.extend(provider("x", json!({})).allowed_hosts);
    let host = Host::start(&[bank]).await;
    let info = host.plugins.get("bank").expect("in service");
    assert_eq!((info.display_name.as_str(), &*info.scopes), ("Hostile", &["read".to_owned()][..]));
    let visit = host.plugins.authorize(call("bank"), &"state-1".into(), &pkce()).await.unwrap();
    let url = "https://provider.test/consent?state=state-1&code_challenge=challenge".to_owned();
    assert_eq!(visit, Authorization::Visit(url));
    let callback = vec![("code".to_owned(), "code-1".into())];
    let granted = host.plugins.exchange(call("bank"), callback, &pkce()).await.unwrap();
    let told = "code-1 verifier-hunter2 https://app.test/auth/connections/callback";
    assert_eq!(granted.keep["seen"].expose_secret(), told);
    let granted = host.refresh("bank").await.unwrap();
    assert_eq!(access_token(&granted), "token-200");
    host.plugins.revoke(call("bank"), current()).await.unwrap();
    let account = host.plugins.identity(call("bank"), current()).await.unwrap().unwrap();
    assert_eq!((account.subject.as_str(), account.email_verified), ("account-1", false));
    assert_eq!(seen.lock().unwrap().len(), 2);
    for name in ["authorize", "exchange", "refresh", "revoke", "identity"] {
        assert_eq!(host.ended("bank", name, "ok"), 1, "{name}");
    }
    let gone = host.refresh("nobody").await.unwrap_err();
    assert_eq!(gone, ProviderFault::NotInService("nobody".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_does_to_itself_costs_its_call() {
    for (name, why) in
        [("trap", "unreachable"), ("memory", "providers.limits.memory"), ("stack", "out of bounds")]
    {
        let host = Host::start(&[mode(name)]).await;
        let fault = host.refresh(name).await.unwrap_err();
        assert!(matches!(&fault, ProviderFault::PluginFailed(text) if text.contains(why)), "{name}: {fault}");
        assert_eq!(host.ended(name, "refresh", "plugin_failed"), 1);
    }
}
