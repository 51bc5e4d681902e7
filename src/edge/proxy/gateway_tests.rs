use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderMap, HeaderName};
use pingora::ErrorType;
use pingora::http::ResponseHeader;
use pingora::proxy::ProxyHttp;
use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::capacity::Plan;
use super::super::exchange::CURRENT;
use super::super::forward::UpstreamFields;
use super::super::forwarded::ReceivedFrom;
use super::super::socket::{Socket, Wire};
use super::*;
use crate::config;
use palisade_core::domain::identity::Identity;
use palisade_core::domain::native_hosts::NativeHosts;
use palisade_core::domain::redirect::{Location, Redirect, SetCookie};
use palisade_core::domain::request::Scheme;
use palisade_core::domain::route::FailMode;
use palisade_core::domain::same_origin::OwnOrigins;
use palisade_core::domain::table::Table;
use palisade_core::ports::{Ended, InjectFault};
use palisade_core::service::admit::Authenticator;
use palisade_core::service::ongoing::Ending;
use palisade_testing::carry_fakes::carrier;
use palisade_testing::fakes::{FakeAudit, FakeClock, FakeEntropy, FakeSigner, FakeStore};
use palisade_testing::page_fakes::FakePages;
use palisade_testing::token_fakes::FakeVerifier;

/// Keeps what it is told of ended requests: route, status and decision.
#[derive(Default)]
struct Recorder(Mutex<Vec<(Option<String>, u16, &'static str)>>);

impl Meter for Recorder {
    fn ended(&self, ended: &Ended<'_>) {
        self.0.lock().unwrap().push((ended.route.map(str::to_owned), ended.status, ended.decision));
    }
    fn token_cache(&self, _: bool) {}
    fn store_call(&self, _: &'static str, _: Duration, _: bool) {}
    fn mail(&self, _: &'static str) {}
    fn password(&self, _: Duration, _: Duration) {}
    fn jwks_fetch(&self, _: &str, _: bool) {}
    fn provider_call(&self, _: &str, _: &'static str, _: &'static str, _: Duration) {}
    fn provider_request(&self, _: &str, _: &'static str) {}
    fn plugin_reload(&self, _: &str, _: &'static str) {}
}

/// A provider that does not answer.
struct Silent;

#[async_trait]
impl Injector for Silent {
    async fn token(&self, _: &Identity, _: &str) -> std::result::Result<SecretString, InjectFault> {
        std::future::pending().await
    }

    async fn again(
        &self,
        _: &Identity,
        _: &str,
        _: &SecretString,
    ) -> std::result::Result<SecretString, InjectFault> {
        std::future::pending().await
    }
}

struct World {
    gateway: Gateway,
    meter: Arc<Recorder>,
    route: Arc<ServedRoute>,
}

/// A gateway with one route, which asks for a token.
async fn world() -> World {
    world_with("").await
}

/// The same, and what else the route says.
async fn world_with(keys: &str) -> World {
    let text = "[[providers]]\nname = \"bank\"\ncomponent = \"builtin:oauth2\"\nclient_id = \"env:ID\"\n\
                allowed_hosts = [\"bank.test\"]\n[[routes]]\nname = \"app\"\nmatch = { path = \"/\" }\nupstream = [\"http://127.0.0.1:9\"]\n\
                cors = { origins = [\"https://pages.test\"] }\n";
    let text = format!("{text}{keys}\n");
    let config = config::parse(&text, std::path::Path::new("config.toml"), &|_| Some("id".to_owned()))
        .unwrap_or_else(|errors| panic!("{errors:#?}"));
    let capacity = Capacity::new(Plan::new(None, 10, 1).unwrap(), 1 << 20);
    let configured = config.routes[0].clone();
    let strip = StripRules::of(std::iter::once((&configured.forward, &configured.policy.policy)));
    let served = ServedRoute::start(configured, &capacity).await.unwrap();
    let clock = Arc::new(FakeClock::default());
    let live = Live {
        admission: Admission {
            routes: Table::new(vec![served]),
            authenticator: Authenticator {
                verifier: Arc::new(FakeVerifier),
                revocations: Arc::new(FakeStore::default()),
                fail: FailMode::Closed,
                clock: Arc::clone(&clock) as _,
            },
            own: OwnOrigins { scheme: Scheme::Https, named: Vec::new() },
            sessions: None,
        },
        strip,
        believed: Believed::default(),
        thrown_away: ThrownAway::default(),
        native_hosts: NativeHosts::default(),
        browsers: None,
    };
    let route = Arc::clone(live.admission.routes.iter().next().unwrap());
    let meter = Arc::new(Recorder::default());
    let gateway = Gateway {
        live: Arc::new(ArcSwap::from_pointee(live)),
        max_header_bytes: 32_768,
        native: Router::new(),
        native_prefix: "/auth".to_owned(),
        streams: Arc::new(Streams::new(&(Arc::clone(&meter) as Arc<dyn Meter>))),
        signer: Arc::new(FakeSigner),
        app_tokens: Arc::new(AppTokens::new(Arc::new(FakeSigner), Duration::from_secs(900), 10)),
        injector: Arc::new(Silent),
        ping: None,
        connect_at: "/auth/connections".to_owned(),
        mark: LoopMark::of(1),
        pages: Arc::new(FakePages),
        carrier: carrier(),
        left_to_app: Arc::new(LeftToApp::new(
            Arc::new(FakeAudit::default()),
            Arc::clone(&clock) as _,
            Arc::new(FakeEntropy::default()),
        )),
        clock,
        meter: Arc::clone(&meter) as _,
        capacity,
    };
    World { gateway, meter, route }
}

/// A request that was read, its client, and what is known of it.
async fn read(request: &str) -> (TcpStream, Session, RequestContext) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let mut session = Session::new_h1(Box::new(Socket::new(Wire::Clear(stream))));
    session.set_keepalive(None);
    assert!(session.as_mut().read_request().await.unwrap());
    let context = CURRENT.scope(OpenExchange::new(peer, false), async { RequestContext::new() }).await;
    (client, session, context)
}

/// What the client of a request is sent, once its connection is closed.
async fn sent(mut client: TcpStream, session: Session) -> String {
    drop(session);
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    text
}

const GET: &str = "GET /x?y HTTP/1.1\r\nHost: app.test\r\nOrigin: https://pages.test\r\n\r\n";

/// Does with a request what is done when its route sends its browser to the sign-in page.
async fn redirected(world: &World, request: &str) -> (String, RequestContext) {
    let (client, mut session, mut context) = read(request).await;
    let redirect = Redirect {
        code: "sign_in",
        to: Location::new("/auth/pages/sign-in?return_to=%2Fx%3Fy").unwrap(),
        cookies: vec![
            SetCookie::new("__Host-nonce=hunter2; Path=/; Secure; HttpOnly; SameSite=Lax").unwrap(),
        ],
    };
    let matched =
        MatchedRequest { host: "app.test".into(), path: "/x".into(), websocket: false, client: None };
    let next = Next::Decided(Verdict::Redirect { redirect, route: Arc::clone(&world.route) });
    let live = world.gateway.live.load_full();
    let followed = world.gateway.follow(&mut session, &mut context, live, matched, None, next).await;
    assert!(followed.unwrap(), "answered here");
    world.gateway.logging(&mut session, None, &mut context).await;
    (sent(client, session).await, context)
}

#[tokio::test]
async fn a_browser_is_sent_elsewhere_with_its_cookies() {
    let world = world().await;
    let (text, mut context) = redirected(&world, GET).await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n");
    assert_eq!(lines.next(), Some("HTTP/1.1 303 See Other"));
    let lines: Vec<String> = lines.map(str::to_ascii_lowercase).collect();
    for line in [
        "location: /auth/pages/sign-in?return_to=%2fx%3fy",
        "set-cookie: __host-nonce=hunter2; path=/; secure; httponly; samesite=lax",
        "cache-control: no-store",
        "referrer-policy: no-referrer",
        "content-length: 0",
        "access-control-allow-origin: https://pages.test",
        "vary: origin",
        &*format!("x-request-id: {}", context.id),
    ] {
        assert!(lines.iter().any(|sent| sent == line), "{line} in {lines:#?}");
    }
    assert_eq!(body, "");
    assert_eq!(*world.meter.0.lock().unwrap(), [(Some("app".to_owned()), 303, "sign_in")]);
    assert!(context.stage.admitted().is_err(), "nothing of it goes upstream");
}

#[tokio::test]
async fn a_request_without_a_token_is_refused_and_has_no_permit() {
    let world = world().await;
    let (client, mut session, mut context) = read(GET).await;
    assert!(world.gateway.request_filter(&mut session, &mut context).await.unwrap());
    world.gateway.logging(&mut session, None, &mut context).await;
    assert!(context.stage.admitted().is_err());
    let text = sent(client, session).await;
    assert!(
        text.starts_with("HTTP/1.1 401 ") && text.to_lowercase().contains("www-authenticate: bearer"),
        "{text}"
    );
    assert_eq!(*world.meter.0.lock().unwrap(), [(Some("app".to_owned()), 401, "token_missing")]);
}

/// Every hook on the way to an upstream and back, called for a request that has no permit.
async fn hooks(gateway: &Gateway, session: &mut Session, context: &mut RequestContext) -> Vec<ErrorType> {
    let mut request = RequestHeader::build("GET", b"/x", None).unwrap();
    let mut response = ResponseHeader::build(401, None).unwrap();
    let (mut sent, mut body) = (Some("x".into()), Some("x".into()));
    let outcomes = [
        gateway.upstream_peer(session, context).await.map(|_| ()),
        gateway.upstream_request_filter(session, &mut request, context).await,
        gateway.request_body_filter(session, &mut sent, false, context).await,
        gateway.upstream_response_filter(session, &mut response, context).await,
        gateway.response_filter(session, &mut response, context).await,
        gateway.response_body_filter(session, &mut body, false, context).map(|_| ()),
    ];
    assert_eq!(request.headers, HeaderMap::new(), "nothing is said to an upstream");
    outcomes.into_iter().filter_map(|outcome| outcome.err().map(|error| error.etype().clone())).collect()
}

#[tokio::test]
async fn no_hook_serves_a_request_without_a_permit() {
    let world = world().await;
    let refused = vec![ErrorType::HTTPStatus(500); 6];
    let (_client, mut session, mut context) = read(GET).await;
    assert_eq!(hooks(&world.gateway, &mut session, &mut context).await, refused, "before any decision");
    assert!(world.gateway.request_filter(&mut session, &mut context).await.unwrap());
    assert_eq!(hooks(&world.gateway, &mut session, &mut context).await, refused, "after a refusal");
    let again = world.gateway.request_filter(&mut session, &mut context).await;
    assert_eq!(again.unwrap_err().etype(), &ErrorType::HTTPStatus(500), "a request is decided once");
    // Outside of a listener nothing could end the exchange.
    let mut context = RequestContext::new();
    let decided = world.gateway.request_filter(&mut session, &mut context).await;
    assert_eq!(decided.unwrap_err().etype(), &ErrorType::HTTPStatus(500));
}

/// The engine drops such a request and calls no further hook.
#[tokio::test]
async fn a_request_that_is_ended_while_it_waits_for_a_token_is_logged() {
    let world = world_with("inject = { provider = \"bank\" }").await;
    let request = "GET /x HTTP/1.1\r\nHost: app.test\r\nAuthorization: Bearer ann.v0\r\n\r\n";
    let (_client, mut session, mut context) = read(request).await;
    let exchange = Arc::clone(&context.exchange);
    let waiting = futures::poll!(Box::pin(world.gateway.request_filter(&mut session, &mut context)));
    assert!(waiting.is_pending());
    assert!(context.stage.admitted().is_err(), "without its token it does not go upstream");
    assert!(exchange.cut(Ending::Revoked));
    drop(context);
    assert_eq!(*world.meter.0.lock().unwrap(), [(Some("app".to_owned()), 0, "ended_revoked")]);
}

/// Another proxy that only asks for a verdict has no header of the engine to write into.
#[tokio::test]
async fn an_upstream_is_told_the_same_with_and_without_the_engine() {
    let world = world().await;
    let mut request = RequestHeader::build("GET", b"/x", None).unwrap();
    let mut map = HeaderMap::new();
    for (name, value) in [
        ("host", "app.test"),
        ("accept", "*/*"),
        ("authorization", "Bearer ann.v0"),
        ("X-Auth-Subject", "evil"),
        ("x_auth_subject", "evil"),
        ("x-auth-email", "evil@app.test"),
        ("X-Forwarded-For", "6.6.6.6"),
        ("cookie", "a=b; palisade_connect_3f=secret"),
    ] {
        request.append_header(name, value).unwrap();
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    let live = world.gateway.live.load_full();
    let client = [192, 0, 2, 1].into();
    let from = Sender { peer: client, client, relayed: None };
    let (matched, next) = world.gateway.decide(&request, &live, &from).await.unwrap();
    let Next::Decided(Verdict::Permit(permit)) = next else { panic!("a good token was not admitted") };
    let told = UpstreamFields {
        strip: &live.strip,
        believed: &live.believed,
        thrown_away: &live.thrown_away,
        permit: &permit,
        from: ReceivedFrom {
            peer: "9.9.9.9".parse().unwrap(),
            tls: false,
            host: &matched.host,
            relayed: None,
            field: live.believed.field,
        },
        mark: &world.gateway.mark,
        host: &matched.host,
        request_id: "id",
        assertion: None,
        access_token: None,
        injected: None,
        destination: None,
    };
    told.write(&mut request).unwrap();
    told.write(&mut map).unwrap();
    let sorted = |fields: &HeaderMap| {
        let line =
            |(name, value): (&HeaderName, &http::HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        let mut lines: Vec<String> = fields.iter().map(line).collect();
        lines.sort();
        lines
    };
    let want = [
        "accept: */*",
        "cookie: a=b",
        "forwarded: for=9.9.9.9;host=app.test;proto=http",
        "host: app.test",
        "palisade-hops: 0000000000000001",
        "x-auth-issuer: https://us.test",
        "x-auth-subject: ann",
        "x-forwarded-for: 9.9.9.9",
        "x-forwarded-host: app.test",
        "x-forwarded-proto: http",
        "x-request-id: id",
    ];
    assert_eq!(sorted(&request.headers), want);
    assert_eq!(sorted(&map), want);
}
