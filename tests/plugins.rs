//! The plugin host with a component that does everything a plugin must not do: `plugins/hostile`. The host
//! survives each misdeed, it costs no more than its call, and log and metrics name it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::neighbours::{Scripted, read_head};
use crate::support::plugins::{
    HOSTILE, Host, Neighbour, SECRET, access_token, call, current, local, logged, mode, pkce, provider,
};
use crate::support::{PATIENCE, Upstream, exchange, status};
use palisade::app::{self, Options};
use palisade::config::{self, AllowedHost, Component, PluginLimits};
use palisade_core::domain::reach::Authorities;
use palisade_core::ports::{Authorization, CurrentTokens, ProviderFault, Providers as _};
use palisade_testing::nowhere::nowhere;
use secrecy::ExposeSecret;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, crypto};

/// The longest text of a fault that operators are shown.
const LONGEST: usize = 2100;

fn failed(fault: &ProviderFault) -> &str {
    let text = match fault {
        ProviderFault::PluginFailed(text) => text,
        other => panic!("{other:?}"),
    };
    assert!(text.len() < LONGEST, "{text}");
    text
}

fn misconfigured(fault: &ProviderFault) -> &str {
    match fault {
        ProviderFault::Misconfigured(text) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_component_is_the_one_that_its_note_speaks_of() {
    let sha256: String = Sha256::digest(HOSTILE).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(include_str!("fixtures/README.md").contains(&sha256), "tests/fixtures/README.md: {sha256}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_reaches_the_plugin_and_comes_back() {
    let neighbour = Neighbour::start("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let authorize = "https://provider.test/consent?state=STATE&code_challenge=CHALLENGE";
    let settings = json!({"mode": "ok", "auth": "basic", "authorize": authorize});
    let mut bank = local("bank", neighbour.address, settings);
    bank.allowed_hosts.extend(mode("ok").allowed_hosts);
    let host = Host::start(&[bank]).await;
    let info = host.plugins.get("bank").expect("in service");
    assert_eq!((info.display_name.as_str(), &*info.scopes), ("Hostile", &["read".to_owned()][..]));
    assert_eq!(host.plugins.list(), [info]);
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
    // An address that is not there is not verified.
    assert_eq!((account.subject.as_str(), account.email_verified), ("account-1", false));
    assert_eq!(neighbour.seen().len(), 2);
    for name in ["authorize", "exchange", "refresh", "revoke", "identity"] {
        assert_eq!(host.ended("bank", name, "ok"), 1, "{name}");
    }
    assert_eq!(host.requests("bank", "ok"), 2);
    let gone = host.refresh("nobody").await.unwrap_err();
    assert_eq!(gone, ProviderFault::NotInService("nobody".to_owned()));
}

/// A code that another provider has sent goes to this one's token endpoint never (mix-up, RFC 9207).
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_of_another_provider_reaches_no_plugin() {
    let host = Host::start(&[mode("ok")]).await;
    let come_back = async |issuer: &str| {
        let callback =
            [("code", "code-1"), ("iss", issuer)].map(|(name, value)| (name.to_owned(), value.into()));
        host.plugins.exchange(call("ok"), callback.into(), &pkce()).await
    };
    come_back("https://provider.test").await.unwrap();
    let refused = come_back("https://other.test").await.unwrap_err();
    assert!(
        matches!(&refused, ProviderFault::ProviderError(why) if why.contains("other.test")),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_does_to_itself_costs_its_call() {
    let modes = [
        ("trap", "unreachable"),
        ("memory", "providers.limits.memory"),
        ("stack", "out of bounds"),
        ("recursion", "the stack is full"),
        ("handles", "more handles than allowed"),
        ("exit", "exit code 1"),
        ("big-token", "handed over more than"),
        ("many-keep", "handed over more than"),
        ("long-token", "more than 65536 bytes"),
        ("empty-token", "an empty access token"),
        ("control-token", "cannot be sent in a header"),
    ];
    let providers: Vec<_> = modes.iter().map(|(name, _)| mode(name)).chain([mode("local")]).collect();
    let host = Host::start(&providers).await;
    for (name, why) in modes {
        let fault = host.refresh(name).await.unwrap_err();
        assert!(failed(&fault).contains(why), "{name}: {fault}");
        assert_eq!(host.ended(name, "refresh", "plugin_failed"), 1, "{name}");
        assert!(logged(name).iter().any(|line| line.contains("ERROR") && line.contains(why)), "{name}");
        assert_eq!(access_token(&host.refresh("local").await.unwrap()), "a-token", "after {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn time_is_up_for_what_does_not_end() {
    let limits = PluginLimits { deadline: Duration::from_millis(200), ..PluginLimits::default() };
    let mut providers = [mode("loop"), mode("sleep")];
    providers.iter_mut().for_each(|provider| provider.limits = limits);
    let host = Host::start(&providers).await;
    for name in ["loop", "sleep"] {
        // More at once than there are threads: none of them keeps its thread.
        let calls = futures::future::join_all((0..limits.concurrency).map(|_| host.refresh(name)));
        let ended = tokio::time::timeout(Duration::from_secs(10), calls).await;
        for fault in ended.unwrap_or_else(|_| panic!("{name} did not end")) {
            let fault = fault.unwrap_err();
            assert!(failed(&fault).contains("allowed: 200ms (providers.limits.deadline)"), "{name}: {fault}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_keeps_no_other_provider_waiting_for_long() {
    let host = Host::start(&[mode("loop"), mode("local")]).await;
    let loops = (0..8).map(|_| host.refresh("loop"));
    let others = async {
        for _ in 0..20 {
            host.refresh("local").await.unwrap();
        }
    };
    tokio::select! {
        _ = futures::future::join_all(loops) => panic!("twenty calls took longer than the deadline of a loop"),
        () = others => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_takes_long_to_load_keeps_no_request_waiting() {
    let (listen, admin, upstream) = (nowhere(), nowhere(), Upstream::start().await);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hostile.wasm"), HOSTILE).unwrap();
    // It is given five seconds to describe itself, and takes them all.
    let text = format!(
        "public_url = \"http://localhost:8080\"\n\
         [server]\nlisten = [\"{listen}\"]\nadmin = \"{admin}\"\n[store]\nurl = \"sled:./data\"\n\
         [[providers]]\nname = \"slow\"\ncomponent = \"hostile.wasm\"\nclient_id = \"env:CLIENT\"\n\
         allowed_hosts = [\"bank.test\"]\nsettings = {{ describe = \"loop\" }}\n\
         [[routes]]\nname = \"all\"\nmatch = {{ path = \"/\" }}\nauth = \"none\"\nupstream = [\"http://{}\"]\n",
        upstream.address
    );
    let file = folder.path().join("config.toml");
    let config = config::parse(&text, &file, &|_| Some("app".to_owned()))
        .unwrap_or_else(|errors| panic!("{errors:#?}"));
    let starting = tokio::spawn(app::start(config, Options::default()));
    let ask = |address, target: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        async move {
            while TcpStream::connect(address).await.is_err() {
                tokio::task::yield_now().await;
            }
            exchange(address, request).await
        }
    };
    let waits = |answer: &str| {
        let because = "the components of providers are not loaded yet";
        assert!(status(answer) == 503 && answer.contains(because), "{answer}");
    };
    waits(&tokio::time::timeout(PATIENCE, ask(admin, "/readyz")).await.unwrap());
    // Accepted once it is served, and still not ready.
    assert_eq!(status(&ask(listen, "/").await), 200);
    waits(&ask(admin, "/readyz").await);
    let running = starting.await.unwrap().unwrap();
    assert!(
        running.notices.iter().any(|notice| notice.contains("the provider slow: ")),
        "{:?}",
        running.notices
    );
    assert_eq!(status(&ask(admin, "/readyz").await), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_traps_leave_nothing_behind() {
    let host = Host::start(&[mode("trap"), mode("local")]).await;
    for _ in 0..625 {
        for fault in futures::future::join_all((0..16).map(|_| host.refresh("trap"))).await {
            assert!(failed(&fault.unwrap_err()).contains("unreachable"));
        }
    }
    assert_eq!(host.ended("trap", "refresh", "plugin_failed"), 10_000);
    host.refresh("local").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_takes_so_many_lines_of_a_call_and_no_control_characters() {
    let mut providers = [mode("log"), mode("stderr")];
    // A hundred thousand lines, beside whatever else the machine does.
    providers.iter_mut().for_each(|provider| provider.limits.deadline = Duration::from_secs(300));
    let host = Host::start(&providers).await;
    for name in ["log", "stderr"] {
        host.refresh(name).await.unwrap();
        let lines: Vec<_> =
            logged(name).into_iter().filter(|line| line.contains("lines: plugin: ")).collect();
        assert_eq!(lines.len(), 63, "{name}");
        assert!(logged(name).iter().any(|line| line.contains("writes too much")), "{name}");
        assert!(!lines.iter().any(|line| line.trim_start().starts_with("looks")), "{lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_logs_holds_no_token_of_its_call() {
    let (mut written, mut printed) = (mode("log"), mode("stderr"));
    (written.name, printed.name) = ("written".to_owned(), "printed".to_owned());
    written.limits.deadline = Duration::from_secs(300);
    printed.limits.deadline = Duration::from_secs(300);
    let host = Host::start(&[written, printed]).await;
    // As if it told them: they are what it writes in any case.
    for (name, token) in [("written", "looks like another"), ("printed", "on standard error")] {
        let tokens = CurrentTokens { refresh_token: Some(token.into()), ..current() };
        host.plugins.refresh(call(name), tokens).await.unwrap();
        let lines: Vec<_> = logged(name).into_iter().filter(|line| line.contains("plugin: ")).collect();
        assert!(lines.len() > 60 && lines.iter().all(|line| line.contains("(a secret)")), "{lines:?}");
        assert!(!lines.iter().any(|line| line.contains(token)), "{lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_finds_no_environment_and_no_end_beyond_belief() {
    let modes = ["environment", "forever", "gone", "tell", "some-keep"];
    let host = Host::start(&modes.map(mode)).await;
    // Too much of what is optional is cut: the tokens are good.
    let kept = host.refresh("some-keep").await.unwrap();
    assert_eq!((access_token(&kept), kept.keep.len(), kept.notes.len()), ("a-token", 64, 1));
    assert_eq!(access_token(&host.refresh("environment").await.unwrap()), "0-variables");
    let forever = host.refresh("forever").await.unwrap();
    assert_eq!(forever.expires_in.unwrap(), Duration::from_secs(3650 * 86_400));
    assert!(forever.notes.iter().any(|note| note.contains("ten years")), "{:?}", forever.notes);
    let fault = host.refresh("gone").await.unwrap_err();
    assert_eq!(fault, ProviderFault::InvalidGrant("revoked".to_owned()));
    assert_eq!(host.ended("gone", "refresh", "invalid_grant"), 1);
    // A plugin that tells its tokens is not believed that they are no secret.
    let fault = host.refresh("tell").await.unwrap_err();
    let told = "it was (a secret) and (a secret)\\nand more".to_owned();
    assert_eq!(fault, ProviderFault::ProviderError(told));
}

/// A token of weeks, of a provider that gives this client no refresh token.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_without_anything_to_refresh_by_speaks_for_no_provider() {
    let host = Host::start(&[mode("gone")]).await;
    let without = CurrentTokens { refresh_token: None, ..current() };
    let fault = host.plugins.refresh(call("gone"), without).await.unwrap_err();
    assert_eq!(fault, ProviderFault::NotRefreshable("revoked".to_owned()));
    let fault = host.plugins.refresh(call("gone"), current()).await.unwrap_err();
    assert_eq!(fault, ProviderFault::InvalidGrant("revoked".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_parameter_is_checked_like_the_others_and_named_once() {
    let mut wanted = provider("keyed", json!({"shop": "required"}));
    wanted.secret_parameters = vec!["shop".to_owned()];
    let mut unknown = provider("unkeyed", json!({}));
    unknown.secret_parameters = vec!["no-such".to_owned()];
    let host = Host::start(&[wanted, unknown]).await;
    assert!(host.plugins.get("keyed").unwrap().parameters[0].secret);
    let asked = async |value: &str| {
        let mut call = call("keyed");
        call.secret_parameters.insert("shop".to_owned(), value.into());
        host.plugins.authorize(call, &"state-1".into(), &pkce()).await
    };
    assert!(asked("abc").await.is_ok());
    assert!(matches!(asked("abc1").await, Err(ProviderFault::InvalidParameter { .. })));
    let standings = host.plugins.standings();
    let fault = standings.iter().find(|standing| standing.provider == "unkeyed").unwrap().fault.clone();
    assert!(fault.unwrap().contains("providers.secret_parameters names \"no-such\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_may_not_be_made_are_not() {
    let neighbour = Neighbour::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let address = neighbour.address;
    let at = |name: &str| local(name, address, json!({"mode": name}));
    let to = |name: &str, url: String| {
        let mut provider = local(name, address, json!({"mode": "ok"}));
        provider.settings.insert("url".to_owned(), json!(url));
        provider
    };
    let mut cleartext = to("cleartext", "http://provider.test/".to_owned());
    cleartext.allowed_hosts = vec![AllowedHost { host: "provider.test".into(), wildcard: false, port: None }];
    let mut machine = to("machine", format!("https://{address}/"));
    machine.allow_loopback = false;
    let mut private = to("private", "https://10.0.0.1/".to_owned());
    private.allowed_hosts = vec![AllowedHost { host: "10.0.0.1".into(), wildcard: false, port: None }];
    let cases = [
        (at("headers"), "more than 64 header fields"),
        (at("host-header"), "the header field host"),
        (at("split-header"), "a value of the header field x-a"),
        (at("big-body"), "a body of more than"),
        (at("requests"), "more than 16 requests"),
        (to("elsewhere", "https://elsewhere.test/".to_owned()), "elsewhere.test:443 is not among"),
        (to("port", format!("http://{}:1/", address.ip())), "127.0.0.1:1 is not among"),
        (to("user", format!("http://u:p@{address}/")), "a user name or a fragment"),
        (to("scheme", format!("ftp://{address}/")), "only https"),
        (to("nothing", "nonsense".to_owned()), "not a URL"),
        (cleartext, "only https"),
        (machine, "allow_loopback is not set"),
        (private, "10.0.0.1 is not a public address"),
    ];
    let providers: Vec<_> = cases.iter().map(|(provider, _)| provider.clone()).collect();
    let host = Host::start(&providers).await;
    for (provider, why) in &cases {
        let name = &*provider.name;
        let fault = host.refresh(name).await.unwrap_err();
        assert!(misconfigured(&fault).contains(why), "{name}: {fault}");
        assert_eq!(host.requests(name, "denied"), 1, "{name}");
        assert!(logged(name).iter().any(|line| line.contains("WARN") && line.contains(why)), "{name}");
    }
    assert_eq!((neighbour.seen().len(), host.requests("requests", "ok")), (16, 16));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_taken_up_to_a_size_and_a_time_and_redirects_as_they_are() {
    let endless = Scripted::start(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        while stream.write_all(chunk.as_bytes()).await.is_ok() {}
    })
    .await;
    let long = Neighbour::start("HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\nx").await;
    let fields: &str = Box::leak(format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(32_769)).into());
    let wide = Neighbour::start(fields).await;
    let fat: &str = Box::leak(format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(100_000)).into());
    let fat = Neighbour::start(fat).await;
    let target = Neighbour::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let moved =
        format!("HTTP/1.1 302 Found\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n", target.address);
    let moved = Neighbour::start(Box::leak(moved.into())).await;
    let silent = Scripted::start(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.read_u8().await;
    })
    .await;
    let ok = || json!({"mode": "ok"});
    let mut patient = local("patient", silent.address, ok());
    patient.limits.request_timeout = Duration::from_millis(100);
    let mut late = local("late", silent.address, ok());
    late.limits.deadline = Duration::from_millis(500);
    let host = Host::start(&[
        local("endless", endless.address, ok()),
        local("long", long.address, ok()),
        local("wide", wide.address, ok()),
        local("fat", fat.address, ok()),
        local("moved", moved.address, ok()),
        local("nowhere", nowhere(), ok()),
        patient,
        late,
    ])
    .await;
    for name in ["endless", "long", "fat"] {
        let fault = host.refresh(name).await.unwrap_err();
        assert_eq!(fault, ProviderFault::ProviderError("too large".to_owned()), "{name}");
        assert_eq!(host.requests(name, "too_large"), 1, "{name}");
    }
    for (name, why, outcome) in [
        ("wide", "unreachable", "unreachable"),
        ("nowhere", "unreachable", "unreachable"),
        ("patient", "timeout", "timeout"),
        ("late", "timeout", "timeout"),
    ] {
        let fault = host.refresh(name).await.unwrap_err();
        let ProviderFault::Transient { reason, retry_after } = &fault else { panic!("{fault:?}") };
        assert!(reason.starts_with(why), "{name}: {reason}");
        assert_eq!(*retry_after, Some(Duration::from_secs(86_400)), "{name}");
        assert_eq!(host.requests(name, outcome), 1, "{name}");
    }
    assert_eq!(access_token(&host.refresh("moved").await.unwrap()), "token-302");
    assert_eq!(target.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_says_who_the_client_is_and_the_plugin_never_learns_how() {
    let neighbour = Neighbour::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let names = ["basic", "post", "query", "jwt"];
    let providers: Vec<_> = names
        .iter()
        .map(|name| local(name, neighbour.address, json!({"mode": "ok", "auth": name})))
        .collect();
    let host = Host::start(&providers).await;
    for name in names {
        host.refresh(name).await.unwrap();
    }
    let seen = neighbour.seen();
    // printf %s client-1:client-secret-hunter2 | base64
    let basic = "authorization: Basic Y2xpZW50LTE6Y2xpZW50LXNlY3JldC1odW50ZXIy\r\n";
    assert!(seen[0].contains(basic), "{}", seen[0]);
    let parameters = format!("client_id=client-1&client_secret={SECRET}");
    assert!(seen[1].ends_with(&parameters) && seen[1].contains("x-www-form-urlencoded"), "{}", seen[1]);
    assert!(seen[2].starts_with(&format!("POST /token?{parameters} HTTP/1.1")), "{}", seen[2]);
    assert!(seen[3].contains("client_assertion=jwt-of-client-1-for-aud"), "{}", seen[3]);
    for name in names {
        let lines = logged(name);
        assert!(lines.iter().any(|line| line.contains("status=200")), "{name}: {lines:?}");
        assert!(!lines.iter().any(|line| line.contains("hunter2") || line.contains("?client")), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_dropped_leaves_nothing_behind() {
    let (told, mut hears) = mpsc::unbounded_channel();
    let silent = Scripted::start(move |mut stream| {
        let told = told.clone();
        async move {
            read_head(&mut stream).await;
            let _ = told.send("begun");
            // Ends when the other side closes.
            let _ = stream.read_u8().await;
            let _ = told.send("closed");
        }
    })
    .await;
    let mut held = local("held", silent.address, json!({"mode": "ok"}));
    held.limits.concurrency = 1;
    let host = Host::start(&[held]).await;
    for round in 1..=3 {
        tokio::select! {
            answer = host.refresh("held") => panic!("{answer:?}"),
            begun = hears.recv() => assert_eq!(begun, Some("begun")),
        }
        assert_eq!(hears.recv().await, Some("closed"));
        assert_eq!(host.ended("held", "refresh", "dropped"), round);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_calls_than_allowed_wait_and_give_up_in_time() {
    let (told, mut hears) = mpsc::unbounded_channel();
    let silent = Scripted::start(move |mut stream| {
        let told = told.clone();
        async move {
            read_head(&mut stream).await;
            let _ = told.send(());
            let _ = stream.read_u8().await;
        }
    })
    .await;
    let mut narrow = local("narrow", silent.address, json!({"mode": "ok"}));
    narrow.limits.concurrency = 1;
    narrow.limits.deadline = Duration::from_secs(2);
    narrow.limits.request_timeout = Duration::from_millis(1500);
    let host = Host::start(&[narrow]).await;
    let first = host.refresh("narrow");
    tokio::pin!(first);
    tokio::select! {
        answer = &mut first => panic!("{answer:?}"),
        begun = hears.recv() => assert_eq!(begun, Some(())),
    }
    // A place that came at the end of the second's time would be of no use: its request would be cut off, and
    // the provider may have used the refresh token up by then.
    let (first, second) = tokio::join!(first, host.refresh("narrow"));
    for answer in [first, second] {
        assert!(matches!(answer, Err(ProviderFault::Transient { .. })), "{answer:?}");
    }
    assert!(hears.try_recv().is_err(), "the provider saw the second one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_sent_only_where_the_operator_allows_and_with_the_state() {
    let to = |name: &str, url: &str| provider(name, json!({"authorize": url}));
    let mut loopback = to("loopback", "http://127.0.0.1:9/?state=STATE");
    loopback.allow_loopback = true;
    loopback.allowed_hosts = vec![AllowedHost { host: "127.0.0.1".into(), wildcard: false, port: Some(9) }];
    let good = [
        to("query", "https://provider.test/?state=STATE"),
        to("fragment", "https://PROVIDER.test/#state=STATE"),
        loopback,
    ];
    let bad = [
        to("elsewhere", "https://evil.test/?state=STATE"),
        to("below", "https://provider.test.evil.test/?state=STATE"),
        to("user", "https://provider.test@evil.test/?state=STATE"),
        to("named", "https://a@provider.test/?state=STATE"),
        to("backslash", "https://evil.test\\\\@provider.test/?state=STATE"),
        to("port", "https://provider.test:8443/?state=STATE"),
        to("cleartext", "http://provider.test/?state=STATE"),
        to("script", "javascript:alert('STATE')"),
        to("stateless", "https://provider.test/?state=other"),
        to("nonsense", "nonsense"),
    ];
    let host = Host::start(&[&good[..], &bad[..]].concat()).await;
    for provider in &good {
        let visit = host.plugins.authorize(call(&provider.name), &"state-1".into(), &pkce()).await.unwrap();
        assert!(matches!(visit, Authorization::Visit(url) if url.contains("state-1")), "{}", provider.name);
    }
    for provider in &bad {
        let asked = host.plugins.authorize(call(&provider.name), &"state-1".into(), &pkce()).await;
        assert!(failed(&asked.unwrap_err()).contains("authorization URL"), "{}", provider.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_users_give_must_match_as_a_whole() {
    let wanted = provider("wanted", json!({"shop": "required"}));
    let host = Host::start(&[wanted, provider("welcome", json!({}))]).await;
    let asked = async |provider: &str, given: &[(&str, &str)]| {
        let mut call = call(provider);
        let given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        call.parameters = given.collect();
        host.plugins.authorize(call, &"state-1".into(), &pkce()).await
    };
    assert!(asked("wanted", &[("shop", "abc")]).await.is_ok());
    assert!(asked("wanted", &[("shop", "ab1")]).await.is_ok());
    assert!(asked("welcome", &[]).await.is_ok());
    let long = "a".repeat(1025);
    for given in [
        &[][..],
        &[("shop", "")],
        &[("shop", "abc1")],
        &[("shop", "1abc")],
        &[("shop", "abc\n")],
        &[("shop", &long)],
        &[("shop", "abc"), ("other", "x")],
    ] {
        let fault = asked("wanted", given).await.unwrap_err();
        let ProviderFault::InvalidParameter { name, .. } = &fault else { panic!("{given:?}: {fault:?}") };
        assert_eq!(name, if given.len() > 1 { "other" } else { "shop" });
    }
    assert_eq!(host.ended("wanted", "authorize", "invalid_parameter"), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_cannot_work_is_out_of_service_and_says_why() {
    let neighbour = Neighbour::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let describe = |how: &str| provider(how, json!({"describe": how}));
    let mut looping = describe("loop");
    looping.limits.deadline = Duration::from_millis(200);
    let mut pinned = mode("pinned");
    pinned.sha256 = Some([7; 32]);
    let mut unknown = mode("unknown");
    unknown.component = Component::BuiltIn("oauth3".to_owned());
    let mut missing = mode("missing");
    missing.component = Component::File("/nonexistent/plugin.wasm".into());
    let folder = tempfile::tempdir().unwrap();
    let pipe_path = folder.path().join("plugin.wasm");
    assert!(std::process::Command::new("mkfifo").arg(&pipe_path).status().unwrap().success());
    let mut pipe = mode("pipe");
    pipe.component = Component::File(pipe_path);
    let mut authority = mode("authority");
    authority.reach.ca = Some(Authorities { named: "providers[0].ca: ca.pem".into(), pem: "no PEM".into() });
    let providers = [
        describe("misconfigured"),
        describe("pattern"),
        describe("huge-pattern"),
        looping,
        pinned,
        unknown,
        missing,
        pipe,
        authority,
        local("http", neighbour.address, json!({"describe": "http"})),
    ];
    let host = Host::start(&providers).await;
    for (name, why) in [
        ("misconfigured", "providers.settings: the setting url is missing"),
        ("pattern", "no regular expression"),
        ("huge-pattern", "no regular expression, or too large"),
        ("loop", "providers.limits.deadline"),
        ("pinned", "providers.sha256"),
        ("unknown", "builtin:oauth3"),
        ("missing", "/nonexistent/plugin.wasm"),
        ("pipe", "it is no file"),
        ("authority", "providers[0].ca: ca.pem: there is no certificate in it"),
    ] {
        let standings = host.plugins.standings();
        let standing = standings.iter().find(|standing| standing.provider == name).unwrap();
        let fault = standing.fault.as_deref().unwrap_or_default();
        assert!(standing.sha256.is_none() && fault.contains(why), "{name}: {fault}");
        assert!(host.plugins.get(name).is_none());
        assert!(logged(name).iter().any(|line| line.contains("ERROR") && line.contains(why)), "{name}");
    }
    // It is in service, and was told that describing takes no requests.
    let name = host.plugins.get("http").unwrap().display_name;
    assert!(name.contains("Denied") && neighbour.seen().is_empty(), "{name}");
    let warned =
        logged("http").iter().any(|line| line.contains("unlisted.example, which providers.allowed_hosts"));
    assert!(warned);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_cannot_take_more_than_allowed_while_it_is_made() {
    // A component as it should be, and a core module beside it that is made with it.
    let good = crate::support::components::of(crate::support::components::WIT);
    let good = wasmprinter::print_bytes(good).unwrap();
    let component = |resource: &str, module: &str| {
        let given = if resource.contains("$new") { r#"(export "new" (func $new))"# } else { "" };
        let more = format!(
            r#"{resource} (core module $more {module}) (core instance (instantiate $more (with "" (instance {given}))))"#
        );
        let text = good.trim_end().strip_suffix(')').unwrap();
        wat::parse_str(format!("{text} {more})")).unwrap()
    };
    let handles = component(
        "(type $r (resource (rep i32))) (core func $new (canon resource.new $r))",
        r#"(import "" "new" (func $new (param i32) (result i32)))
           (func $go (loop (drop (call $new (i32.const 1))) (br 0))) (start $go)"#,
    );
    let table = component(
        "",
        "(table 0 funcref)
         (func $go (loop (br_if 0 (i32.ne (table.grow (ref.null func) (i32.const 1000)) (i32.const -1))))
         unreachable) (start $go)",
    );
    let crowd = {
        let text = "(core module $n) ".to_owned() + &"(core instance (instantiate $n))".repeat(1000);
        component(&text, "")
    };
    let cases = [
        ("hoarded-handles", handles, "more handles than allowed"),
        ("tables", table, "tables of more than 100000 elements"),
        ("wide-table", component("", "(table 100001 funcref)"), "table"),
        ("wide-memory", component("", "(memory 1025)"), "providers.limits.memory"),
        ("looping", component("", "(func $go (loop (br 0))) (start $go)"), "providers.limits.deadline"),
        ("crowd", crowd, "instances"),
        ("shared-memory", component("", "(memory 1 1 shared)"), "threads"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let mut providers = Vec::new();
    for (name, bytes, _) in &cases {
        let path = folder.path().join(format!("{name}.wasm"));
        std::fs::write(&path, bytes).unwrap();
        let mut provider = mode(name);
        provider.component = Component::File(path);
        // As much as a load may take: on a busy machine the others must meet their own bounds first.
        provider.limits.deadline = Duration::from_secs(5);
        providers.push(provider);
    }
    let host = Host::start(&providers).await;
    let standings = host.plugins.standings();
    for (name, _, why) in cases {
        let standing = standings.iter().find(|standing| standing.provider == name).unwrap();
        let fault = standing.fault.as_deref().unwrap_or_default();
        assert!(fault.contains(why) && fault.len() < LONGEST, "{name}: {fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_plugin_of_ours_is_refused_by_name() {
    let wat = |text: &str| wat::parse_str(text).unwrap();
    let import = |import: &str| {
        wat(&format!(
            r#"(component (import "{import}" (instance)) (instance $p) (export "palisade:provider/plugin@0.1.0" (instance $p)))"#
        ))
    };
    let mistyped = r#"(component
        (import "palisade:provider/clock@0.1.0" (instance (export "now" (func (result string)))))
        (instance $p) (export "palisade:provider/plugin@0.1.0" (instance $p)))"#;
    let newer = r#"(component (instance $p) (export "palisade:provider/plugin@0.2.0" (instance $p)))"#;
    let empty = r#"(component (instance $p) (export "palisade:provider/plugin@0.1.0" (instance $p)))"#;
    let mut damaged = HOSTILE.to_vec();
    damaged[HOSTILE.len() / 2..].iter_mut().for_each(|byte| *byte ^= 0x55);
    let cases = [
        ("text", b"not a component".to_vec(), "not a WebAssembly component"),
        ("nothing", Vec::new(), "not a WebAssembly component"),
        ("module", wat("(module)"), "a core module"),
        ("damaged", damaged, "it is damaged"),
        ("cut", HOSTILE[..HOSTILE.len() - 100].to_vec(), "it is damaged"),
        ("bare", wat("(component)"), "does not export `palisade:provider/plugin@0.1.0`"),
        (
            "newer-import",
            import("palisade:provider/http@0.2.0"),
            "it speaks palisade:provider@0.2.0 (http): it is newer than this Palisade, which serves 0.1.0",
        ),
        (
            "newer-export",
            wat(newer),
            "it speaks palisade:provider@0.2.0 (plugin): it is newer than this Palisade, which serves 0.1.0",
        ),
        (
            "wasi-http",
            import("wasi:http/outgoing-handler@0.2.0"),
            "`wasi:http/outgoing-handler@0.2.0`, which is not served: a plugin has one door",
        ),
        (
            "foreign",
            import("acme:vault/secrets@1.0.0"),
            "`acme:vault/secrets@1.0.0`, which is not served: only palisade:provider",
        ),
        ("mistyped", wat(mistyped), "it imports `now: func() -> string` with another type"),
        ("empty", wat(empty), "describe"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let mut providers = Vec::new();
    for (name, bytes, _) in &cases {
        let path = folder.path().join(format!("{name}.wasm"));
        std::fs::write(&path, bytes).unwrap();
        let mut provider = mode(name);
        provider.component = Component::File(path);
        providers.push(provider);
    }
    let host = Host::start(&providers).await;
    let standings = host.plugins.standings();
    let mut others = Vec::new();
    for (name, _, why) in cases {
        let standing = standings.iter().find(|standing| standing.provider == name).unwrap();
        let fault = standing.fault.as_deref().unwrap_or_default();
        if !(fault.contains(why) && fault.len() < LONGEST) {
            others.push(format!("{name}: {fault}"));
        }
    }
    assert!(others.is_empty(), "{others:#?}");
}

/// The hostile component with a section more: another file that does the same.
fn variant(number: u8) -> Vec<u8> {
    // A custom section (id 0) of 3 bytes with the name "v".
    [HOSTILE, &[0, 3, 1, b'v', number]].concat()
}

/// Puts `bytes` where `path` is, as deployments do: all at once.
fn replace(path: &Path, bytes: &[u8]) {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, bytes).unwrap();
    std::fs::rename(draft, path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_is_replaced_under_load_and_a_bad_one_replaces_nothing() {
    let neighbour = Neighbour::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plugin.wasm");
    replace(&path, &variant(0));
    let mut bank = local("bank", neighbour.address, json!({"mode": "ok"}));
    bank.component = Component::File(path.clone());
    let host = Host::start(&[bank.clone()]).await;
    let standing = || host.plugins.standings().remove(0);
    let first = standing().sha256.unwrap();
    let done = AtomicBool::new(false);
    let load = async {
        let mut calls = 0;
        while !done.load(Ordering::Relaxed) {
            for answer in futures::future::join_all((0..8).map(|_| host.refresh("bank"))).await {
                assert_eq!(access_token(&answer.unwrap()), "token-200");
                calls += 1;
            }
        }
        calls
    };
    let swaps = async {
        for number in 1..=5 {
            replace(&path, &variant(number));
            host.plugins.look().await;
            assert_ne!(standing().sha256.unwrap(), first, "{number}");
            assert_eq!(standing().fault, None);
        }
        done.store(true, Ordering::Relaxed);
    };
    let (calls, ()) = tokio::join!(load, swaps);
    assert!(calls >= 8);
    assert_eq!(host.reloads("bank", "ok"), 5);
    assert_eq!(host.ended("bank", "refresh", "ok"), calls);
    // Nothing changed, nothing is loaded.
    host.plugins.look().await;
    assert_eq!(host.reloads("bank", "ok"), 5);

    let last = standing().sha256.unwrap();
    replace(&path, b"not a component");
    host.plugins.look().await;
    assert_eq!((standing().sha256.unwrap(), host.reloads("bank", "failed")), (last.clone(), 1));
    assert!(standing().fault.unwrap().contains("not a WebAssembly component"));
    assert!(logged("bank").iter().any(|line| line.contains("the last good one goes on")));
    host.refresh("bank").await.unwrap();
    std::fs::remove_file(&path).unwrap();
    host.plugins.look().await;
    host.refresh("bank").await.unwrap();

    // The last good one goes on under the configuration that is in force, and only while that allows it.
    bank.settings.insert("mode".to_owned(), json!("local"));
    host.plugins.reload(&[bank.clone()]).await;
    assert_eq!(access_token(&host.refresh("bank").await.unwrap()), "a-token");
    bank.sha256 = Some([7; 32]);
    host.plugins.reload(&[bank.clone()]).await;
    assert_eq!(host.refresh("bank").await.unwrap_err(), ProviderFault::NotInService("bank".to_owned()));
    bank.sha256 = None;
    replace(&path, &variant(9));
    host.plugins.reload(&[bank]).await;
    host.refresh("bank").await.unwrap();
    host.plugins.reload(&[]).await;
    assert_eq!(host.plugins.list(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn compiled_components_are_kept_and_only_our_own_are_run() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("plugins");
    let start = async |key| {
        let host = Host::start_with(&[mode("local")], Some((cache.clone(), key))).await;
        assert_eq!(access_token(&host.refresh("local").await.unwrap()), "a-token");
    };
    let kept = || {
        let files: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&cache), mode(&files[0])), (0o700, 0o600));
        let inode = std::fs::metadata(&files[0]).unwrap().ino();
        (files[0].clone(), std::fs::read(&files[0]).unwrap(), inode)
    };
    start(1).await;
    let (path, first, inode) = kept();
    start(1).await;
    assert_eq!(kept().2, inode, "a good one was written again");
    for damage in [0, 40, first.len() - 1] {
        let mut damaged = first.clone();
        damaged[damage] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        start(1).await;
        assert_ne!(kept().1, damaged, "byte {damage}");
    }
    std::fs::write(&path, &first[..20]).unwrap();
    start(1).await;
    // What another gateway has written is as good as damaged.
    let ours = kept().1;
    start(2).await;
    assert_ne!(kept().1[..32], ours[..32]);
    // Unused files are removed.
    std::fs::write(cache.join("0000-0000.cwasm"), "old").unwrap();
    start(2).await;
    kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_a_provider_asks_for_is_kept_whatever_its_status_is() {
    let denied = r#"{"error":"access_denied"}"#;
    let gone = r#"{"error":"invalid_grant"}"#;
    let answers = [
        ("403 No", "retry-after: 77\r\n", denied, Some(77)),
        ("400 Bad", "retry-after: 9999999\r\n", denied, Some(86_400)),
        ("200 OK", "retry-after: 5\r\n", "{}", Some(5)),
        ("503 Later", "retry-after: 6\r\n", denied, Some(6)),
        ("403 No", "retry-after: soon\r\n", denied, None),
        ("403 No", "", denied, None),
        // A grant that is gone is gone.
        ("400 Bad", "retry-after: 77\r\n", gone, None),
    ];
    let mut providers = Vec::new();
    for (index, (status, field, body, _)) in answers.iter().enumerate() {
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{field}content-length: {length}\r\n\r\n{body}"
        );
        let server = Neighbour::start(answer.leak()).await;
        let url = format!("http://{}", server.address);
        let settings =
            json!({"authorize_url": format!("{url}/authorize"), "token_url": format!("{url}/token")});
        let mut provider = local(&format!("p{index}"), server.address, settings);
        let component = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/dist/oauth2.wasm");
        provider.settings.remove("url");
        provider.component = Component::File(component);
        providers.push(provider);
    }
    let host = Host::start(&providers).await;
    for (index, (status, field, body, want)) in answers.into_iter().enumerate() {
        let fault = host.refresh(&format!("p{index}")).await.unwrap_err();
        let waits = match &fault {
            ProviderFault::Transient { retry_after, .. } => retry_after.map(|wait| wait.as_secs()),
            _ => None,
        };
        assert_eq!(waits, want, "{status} {field}{body}: {fault:?}");
        assert_eq!(matches!(fault, ProviderFault::InvalidGrant(_)), body == gone, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_the_operators_is_trusted_instead_of_the_usual_ones() {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
    let tls = ServerConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let server = Scripted::start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            read_head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            let _ = stream.shutdown().await;
        }
    })
    .await;
    let mut usual = local("usual", server.address, json!({"mode": "ok"}));
    let url = format!("https://localhost:{}/token", server.address.port());
    usual.settings.insert("url".to_owned(), json!(url));
    usual.allowed_hosts[0].host = "localhost".to_owned();
    let mut own = usual.clone();
    own.name = "own".to_owned();
    own.reach.ca = Some(Authorities { named: "ca".into(), pem: pair.cert.pem().into() });
    let host = Host::start(&[usual, own]).await;
    let fault = host.refresh("usual").await.unwrap_err();
    assert!(
        matches!(&fault, ProviderFault::Transient { reason, .. } if reason.contains("unreachable")),
        "{fault:?}"
    );
    assert_eq!(access_token(&host.refresh("own").await.unwrap()), "token-200");
}
