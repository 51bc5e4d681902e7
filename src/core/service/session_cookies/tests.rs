use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;
use zeroize::Zeroizing;

use palisade_core::domain::account::UserId;
use palisade_core::domain::browser::{BrowserSettings, NamedOrigin, PlaceRef, SessionUse};
use palisade_core::domain::cors::{Cors, Origins};
use palisade_core::domain::credential::Carrier;
use palisade_core::domain::identity::Identity;
use palisade_core::domain::opaque::ServerKey;
use palisade_core::domain::request::{Request, Scheme};
use palisade_core::domain::route::{Auth, AuthorizationField, Carriers, FailMode, Route};
use palisade_core::domain::same_origin::OwnOrigins;
use palisade_core::domain::session::SessionId;
use palisade_core::domain::table::Table;
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::verdict::{Refusal, TokenFault};
use palisade_core::ports::{
    BrowserSessions, CookieFault, LiveCookie, Revocations, Standing, StoreError, TooMany, Verified,
};
use palisade_core::service::admit::{Admission, Authenticator, Permit, Verdict};
use palisade_core::service::session_cookies::SessionCookies;
use palisade_testing::accounts_world::world;
use palisade_testing::route_fakes::{self, FieldLines, request};
use palisade_testing::token_fakes::FakeVerifier;

const ISSUER: &str = "https://us.test";
/// [`FakeVerifier`] takes it for a token of Bob's.
const TOKEN: &str = "bob.v1";

/// Cookies `ann`, `ann2` and `bob` are good at any place, `carol` at the domain only, `over` is over, and `many` was a
/// miss too often. All else was not made by us. What was read is in memory from then on.
#[derive(Default)]
struct Cookies {
    memory: Mutex<Vec<(String, Arc<LiveCookie>)>>,
    reads: Mutex<Vec<String>>,
    uses: Mutex<Vec<SessionId>>,
    is_down: AtomicBool,
}

fn live(session: u128, version: u64) -> Arc<LiveCookie> {
    let (user, session) = (UserId(Uuid::from_u128(session)), SessionId(Uuid::from_u128(session)));
    let identity = Identity {
        issuer: ISSUER.into(),
        subject: user.to_string(),
        email: None,
        email_verified: false,
        session: Some(session.to_string()),
        token_id: None,
        version: Some(version),
        scopes: Vec::new(),
        issued_at: UnixTime(0),
        expires_at: UnixTime(u64::MAX),
        claims: serde_json::Map::new(),
    };
    Arc::new(LiveCookie::new(Arc::new(Verified::new(identity)), user, session))
}

#[async_trait]
impl BrowserSessions for Cookies {
    fn cached(&self, cookie: &str, _: PlaceRef<'_>, _: UnixTime) -> Option<Arc<LiveCookie>> {
        let memory = self.memory.lock().unwrap();
        memory.iter().rev().find(|(value, _)| value == cookie).map(|(_, live)| Arc::clone(live))
    }

    async fn read(
        &self,
        cookie: &str,
        place: PlaceRef<'_>,
        client: IpAddr,
    ) -> Result<Arc<LiveCookie>, CookieFault> {
        assert_eq!(client, CLIENT);
        self.reads.lock().unwrap().push(cookie.to_owned());
        let is_domain = matches!(place, PlaceRef::Domain(_));
        let live = match cookie {
            _ if self.is_down.load(Ordering::Relaxed) => {
                return Err(StoreError::Unavailable("gone".into()).into());
            }
            "ann" | "ann2" => live(1, 2),
            "bob" => live(2, 2),
            "carol" if is_domain => live(3, 2),
            "over" => return Err(CookieFault::Over),
            "many" => return Err(TooMany { retry_after: Duration::from_secs(9) }.into()),
            _ => return Err(CookieFault::Forged),
        };
        self.memory.lock().unwrap().push((cookie.to_owned(), Arc::clone(&live)));
        Ok(live)
    }

    fn used(&self, live: &LiveCookie, _: UnixTime) {
        self.uses.lock().unwrap().push(live.session);
    }
}

/// Not loaded, or loaded with the sessions that are revoked and the versions that are too old.
#[derive(Default)]
struct Set {
    is_missing: AtomicBool,
    is_stale: AtomicBool,
    sessions: Mutex<Vec<String>>,
    version: Mutex<u64>,
}

impl Revocations for Set {
    fn standing(&self) -> Standing {
        let at = 1 + self.sessions.lock().unwrap().len() as u64 + *self.version.lock().unwrap();
        match (self.is_missing.load(Ordering::Relaxed), self.is_stale.load(Ordering::Relaxed)) {
            (true, _) => Standing::Loading,
            (false, true) => Standing::Stale(at),
            (false, false) => Standing::Confirmed(at),
        }
    }

    fn is_revoked(&self, identity: &Identity) -> bool {
        let is_of = |session: &String| Some(session) == identity.session.as_ref();
        self.sessions.lock().unwrap().iter().any(is_of)
            || identity.version.is_some_and(|version| version < *self.version.lock().unwrap())
    }
}

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

struct Gate {
    cookies: Arc<Cookies>,
    set: Arc<Set>,
    admission: Admission,
}

/// What was decided: who it is, and by what; or why not.
type Decided = Result<Option<(u128, Carrier)>, Refusal>;

fn gate_with(auth: Auth, adjust: impl FnOnce(&mut Route, &mut BrowserSettings)) -> Gate {
    let (cookies, set) = (Arc::new(Cookies::default()), Arc::new(Set::default()));
    let cors = Cors {
        origins: Origins::These(vec!["https://friend.test".into()]),
        credentials: true,
        ..Cors::default()
    };
    let mut route = Route { cors: Some(cors), ..route_fakes::route("/", auth) };
    route.policy.carriers = Carriers {
        cookie: Some("jwt".into()),
        websocket_protocol: true,
        query: Some("t".into()),
        ..Carriers::default()
    };
    let mut settings = BrowserSettings {
        enabled: true,
        public: NamedOrigin::parse("https://a.test").unwrap(),
        hosts: Vec::new(),
        domain: None,
        idle: Duration::from_secs(60),
        absolute: Duration::from_secs(60),
        remember: None,
        return_to: Vec::new(),
        uses: SessionUse::Every,
        insecure_http: false,
    };
    adjust(&mut route, &mut settings);
    let admission = Admission {
        routes: Table::new(vec![route]),
        authenticator: Authenticator {
            verifier: Arc::new(FakeVerifier),
            revocations: Arc::clone(&set) as _,
            fail: FailMode::Closed,
            clock: world().clock.clone(),
        },
        own: OwnOrigins { scheme: Scheme::Https, named: Vec::new() },
        sessions: Some(SessionCookies {
            settings: Arc::new(settings),
            issuer: ISSUER.to_owned(),
            sessions: Arc::clone(&cookies) as _,
            key: Arc::new(ServerKey::new(Zeroizing::new([1; 32]))),
        }),
    };
    Gate { cookies, set, admission }
}

fn gate(auth: Auth) -> Gate {
    gate_with(auth, |_, _| {})
}

impl Gate {
    async fn verdict(&self, method: &str, websocket: bool, fields: &[(&str, &str)]) -> Verdict {
        let query = fields.iter().find(|(name, _)| *name == ":query").map(|(_, value)| *value);
        let fields = FieldLines(fields);
        let request = Request { query, websocket, ..request(method, "/x", &fields) };
        self.admission.admit(&request, CLIENT).await
    }

    async fn permit(&self, method: &str, websocket: bool, fields: &[(&str, &str)]) -> Permit {
        match self.verdict(method, websocket, fields).await {
            Verdict::Permit(permit) => permit,
            other => panic!("{other:?}"),
        }
    }

    async fn send(&self, method: &str, websocket: bool, fields: &[(&str, &str)]) -> Decided {
        match self.verdict(method, websocket, fields).await {
            Verdict::Permit(permit) => Ok(permit.caller().map(|caller| {
                let id = caller.identity.subject.parse::<UserId>().map_or(0, |user| user.0.as_u128());
                (id, permit.carrier().unwrap())
            })),
            Verdict::Refusal { refusal, .. } => Err(refusal),
            Verdict::Redirect { .. } => unreachable!("no route sends a browser elsewhere"),
        }
    }

    async fn get(&self, cookie: &str) -> Decided {
        self.send("GET", false, &[("cookie", cookie)]).await
    }

    fn reads(&self) -> Vec<String> {
        std::mem::take(&mut *self.cookies.reads.lock().unwrap())
    }

    fn uses(&self) -> usize {
        std::mem::take(&mut *self.cookies.uses.lock().unwrap()).len()
    }
}

fn session(id: u128) -> Decided {
    Ok(Some((id, Carrier::Session)))
}

#[tokio::test]
async fn a_good_cookie_admits_and_every_other_is_none_or_over() {
    let required = gate(Auth::Required);
    assert_eq!(required.get("a=b; __Host-palisade=ann; c=d").await, session(1));
    for none in [
        "",
        "a=b",
        "__Host-palisade=",
        "__Host-palisade=forged",
        "__Secure-palisade=ann",
        "palisade=ann",
        "__host-palisade=ann",
        "__Host-palisade =ann",
        "x__Host-palisade=ann",
        "__Host-palisadex=ann",
        "__Host-palisade=\"ann\"",
        "a=__Host-palisade=ann",
    ] {
        assert_eq!(required.get(none).await, Err(Refusal::NoToken), "{none}");
        assert_eq!(gate(Auth::Optional).get(none).await, Ok(None), "{none}");
    }
    for over in ["__Host-palisade=over", "__Host-palisade=many"] {
        assert_eq!(required.get(over).await, Err(Refusal::SessionOver), "{over}");
        assert_eq!(gate(Auth::Optional).get(over).await, Ok(None), "{over}");
    }
    let open = gate(Auth::None);
    assert_eq!(open.get("__Host-palisade=ann").await, Ok(None));
    assert_eq!(open.reads(), [""; 0], "it is not looked at");
}

#[tokio::test]
async fn what_is_in_memory_is_held_against_the_revocations_and_read_again_when_one_reaches_it() {
    let gate = gate(Auth::Required);
    let ann = "__Host-palisade=ann";
    assert_eq!(gate.get(ann).await, session(1));
    assert_eq!(gate.get(ann).await, session(1));
    assert_eq!(gate.reads(), ["ann"]);
    // An identity of before the version was raised: the session goes on, by what is read now.
    gate.cookies.memory.lock().unwrap().push(("ann".to_owned(), live(1, 1)));
    *gate.set.version.lock().unwrap() = 2;
    assert_eq!(gate.get(ann).await, session(1));
    assert_eq!(gate.reads(), ["ann"]);
    gate.set.sessions.lock().unwrap().push(SessionId(Uuid::from_u128(1)).to_string());
    assert_eq!(gate.get(ann).await, Err(Refusal::SessionOver));
    gate.set.is_missing.store(true, Ordering::Relaxed);
    assert_eq!(gate.get("__Host-palisade=bob").await, Err(Refusal::NotReady));
}

#[tokio::test]
async fn a_set_that_is_not_confirmed_counts_where_the_route_says_so() {
    let refused = Err(Refusal::Stale);
    for (auth, fail, outcome) in [
        (Auth::Required, FailMode::Closed, refused.clone()),
        (Auth::Optional, FailMode::Closed, refused.clone()),
        (Auth::Required, FailMode::Open, session(1)),
        (Auth::Optional, FailMode::Open, session(1)),
        (Auth::None, FailMode::Closed, Ok(None)),
    ] {
        let gate = gate_with(auth, |route, _| route.fail = fail);
        gate.set.is_stale.store(true, Ordering::Relaxed);
        for known in ["read", "in memory"] {
            assert_eq!(gate.get("__Host-palisade=ann").await, outcome, "{auth:?} {fail:?} {known}");
        }
        // What nothing has to be known of is as ever.
        let without = if auth == Auth::Required { Err(Refusal::NoToken) } else { Ok(None) };
        assert_eq!(gate.get("").await, without, "{auth:?} {fail:?}");
        gate.set.sessions.lock().unwrap().push(SessionId(Uuid::from_u128(1)).to_string());
        let over = match (auth, fail) {
            (Auth::None, _) => Ok(None),
            (_, FailMode::Closed) => refused.clone(),
            (Auth::Required, FailMode::Open) => Err(Refusal::SessionOver),
            (Auth::Optional, FailMode::Open) => Ok(None),
        };
        assert_eq!(
            gate.get("__Host-palisade=ann").await,
            over,
            "{auth:?} {fail:?}: what is known is in force"
        );
        gate.set.is_missing.store(true, Ordering::Relaxed);
        let loading = if auth == Auth::None { Ok(None) } else { Err(Refusal::NotReady) };
        assert_eq!(gate.get("__Host-palisade=ann").await, loading, "{auth:?} {fail:?}: it was never whole");
    }
}

#[tokio::test]
async fn an_outage_ends_no_session() {
    for auth in [Auth::Required, Auth::Optional] {
        let gate = gate(auth);
        gate.cookies.is_down.store(true, Ordering::Relaxed);
        assert_eq!(gate.get("__Host-palisade=ann").await, Err(Refusal::SessionUnknown), "{auth:?}");
    }
    let gate = gate(Auth::Required);
    assert_eq!(gate.get("__Host-palisade=ann").await, session(1));
    gate.cookies.is_down.store(true, Ordering::Relaxed);
    assert_eq!(gate.get("__Host-palisade=ann").await, session(1), "it is in memory");
}

#[tokio::test]
async fn a_cookie_that_any_host_of_the_domain_can_plant_is_no_way_to_keep_a_person_out() {
    for (cookies, outcome) in [
        ("__Secure-palisade=carol", session(3)),
        ("__Secure-palisade=ann; __Secure-palisade=ann2", session(1)),
        ("__Secure-palisade=forged; __Secure-palisade=ann; __Secure-palisade=over", session(1)),
        ("__Secure-palisade=bob; __Secure-palisade=ann", Err(Refusal::NoToken)),
        ("__Secure-palisade=bob; __Secure-palisade=over; __Secure-palisade=ann", Err(Refusal::NoToken)),
        ("__Secure-palisade=bob; __Secure-palisade=ann; __Host-palisade=ann", session(1)),
        ("__Secure-palisade=bob; __Host-palisade=ann", session(1)),
        ("__Secure-palisade=bob; __Host-palisade=forged", session(2)),
        ("__Secure-palisade=bob; __Host-palisade=over", session(2)),
        // Good for the domain, and no cookie of the host.
        ("__Host-palisade=carol", Err(Refusal::NoToken)),
    ] {
        let gate = gate_with(Auth::Required, |_, settings| settings.domain = Some("a.test".into()));
        assert_eq!(gate.get(cookies).await, outcome, "{cookies}");
    }
}

#[tokio::test]
async fn a_token_that_a_script_chose_counts_and_the_cookie_beside_it_does_not() {
    let gate = gate(Auth::Required);
    let cookie = ("cookie", "__Host-palisade=ann");
    let by = |carrier| Ok(Some((0, carrier)));
    let bad = || Err(Refusal::Token(TokenFault::Malformed));
    let (good_token, bad_token) = (format!("Bearer {TOKEN}"), "Bearer x".to_owned());
    for (token, outcome) in [(&good_token, by(Carrier::Authorization)), (&bad_token, bad())] {
        let fields = [("authorization", token.as_str()), cookie];
        assert_eq!(gate.send("GET", false, &fields).await, outcome, "{token}");
        // What is not authorised by the cookie needs no origin.
        assert_eq!(gate.send("POST", false, &fields).await, outcome, "{token}");
    }
    for (token, outcome) in [(TOKEN, true), ("x", false)] {
        for (name, value, carrier) in [
            ("sec-websocket-protocol", format!("bearer.{token}"), Carrier::WebsocketProtocol),
            (":query", format!("t={token}"), Carrier::Query),
        ] {
            let outcome = if outcome { by(carrier) } else { bad() };
            assert_eq!(gate.send("GET", true, &[(name, &value), cookie]).await, outcome, "{name} {value}");
        }
    }
    assert_eq!(gate.reads(), [""; 0]);
    assert_eq!(gate.uses(), 0);
    // Credentials that the app reads itself say nothing about a session.
    assert_eq!(gate.send("GET", false, &[("authorization", "Basic eDp5"), cookie]).await, session(1));
}

#[tokio::test]
async fn a_good_session_comes_before_the_routes_own_cookie() {
    let gate = gate(Auth::Required);
    assert_eq!(gate.get("jwt=x; __Host-palisade=ann").await, session(1));
    assert_eq!(gate.get(&format!("jwt={TOKEN}; __Host-palisade=over")).await, Ok(Some((0, Carrier::Cookie))));
    assert_eq!(gate.get("jwt=x; __Host-palisade=over").await, Err(Refusal::Token(TokenFault::Malformed)));
}

#[tokio::test]
async fn only_the_apps_own_pages_can_change_anything_by_the_cookie() {
    let cookie = ("cookie", "__Host-palisade=ann");
    let same: [&[(&str, &str)]; 4] = [
        &[("sec-fetch-site", "same-origin"), ("origin", "null")],
        &[("origin", "https://a.test")],
        &[("referer", "https://a.test/x")],
        &[("origin", "https://friend.test"), ("sec-fetch-site", "cross-site")],
    ];
    let other: [&[(&str, &str)]; 5] = [
        &[],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "cross-site"), ("origin", "https://a.test")],
        &[("origin", "https://b.a.test")],
        &[("referer", "https://evil.test/")],
    ];
    for auth in [Auth::Required, Auth::Optional] {
        let gate = gate(auth);
        for (method, websocket) in [("POST", false), ("DELETE", false), ("GET", true)] {
            for fields in same {
                let fields = [&[cookie], fields].concat();
                assert_eq!(gate.send(method, websocket, &fields).await, session(1), "{fields:?}");
            }
            for fields in other {
                gate.uses();
                let fields = [&[cookie], fields].concat();
                assert_eq!(
                    gate.send(method, websocket, &fields).await,
                    Err(Refusal::CrossSite),
                    "{fields:?}"
                );
                assert_eq!(gate.uses(), 0);
            }
        }
        for fields in other {
            assert_eq!(gate.send("GET", false, &[&[cookie], fields].concat()).await, session(1));
        }
    }
    // A token in the route's cookie is for programs, too.
    let gate = gate(Auth::Required);
    let jwt = ("cookie", "jwt=bob.v1");
    assert_eq!(gate.send("POST", false, &[jwt]).await, Ok(Some((0, Carrier::Cookie))));
    let cross = [jwt, ("sec-fetch-site", "cross-site")];
    assert_eq!(gate.send("POST", false, &cross).await, Err(Refusal::CrossSite));
}

#[tokio::test]
async fn a_route_that_leaves_our_issuer_out_takes_no_session() {
    for (issuers, outcome) in [
        (vec![], session(1)),
        (vec!["https://else.test".to_owned(), ISSUER.to_owned()], session(1)),
        (vec!["https://else.test".to_owned()], Err(Refusal::NoToken)),
    ] {
        let gate = gate_with(Auth::Required, |route, _| route.policy.issuers = issuers);
        assert_eq!(gate.get("__Host-palisade=ann").await, outcome);
    }
    let strict = gate_with(Auth::Optional, |route, _| route.policy.require.scopes = vec!["x".into()]);
    let missing = Err(Refusal::Scope { needed: vec!["x".into()] });
    assert_eq!(strict.get("__Host-palisade=ann").await, missing);
    assert_eq!(strict.uses(), 0, "what is refused is no use");
}

#[tokio::test]
async fn what_is_a_use_is_for_the_route_to_say_and_else_for_all_of_them() {
    use SessionUse::{Every, Navigation, Never};
    let cookie = ("cookie", "__Host-palisade=ann");
    let page = [cookie, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
    let script = [cookie, ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")];
    let socket = [cookie, ("sec-fetch-site", "same-origin")];
    for (all, own, [page_uses, script_uses, socket_uses, frame_uses]) in [
        (Every, None, [1, 1, 1, 1]),
        (Navigation, None, [1, 0, 0, 0]),
        (Never, None, [0, 0, 0, 0]),
        (Never, Some(Every), [1, 1, 1, 1]),
        (Every, Some(Navigation), [1, 0, 0, 0]),
        (Every, Some(Never), [0, 0, 0, 0]),
    ] {
        let gate = gate_with(Auth::Required, |route, settings| {
            settings.uses = all;
            route.browser.uses = own;
        });
        gate.permit("GET", false, &page).await;
        assert_eq!(gate.uses(), page_uses, "{all:?} {own:?}");
        gate.permit("GET", false, &script).await;
        assert_eq!(gate.uses(), script_uses, "{all:?} {own:?}");
        let permit = gate.permit("GET", true, &socket).await;
        assert_eq!(gate.uses(), socket_uses, "{all:?} {own:?}");
        gate.admission.sent_frame(&permit);
        assert_eq!(gate.uses(), frame_uses, "{all:?} {own:?}");
    }
    let gate = gate(Auth::Optional);
    let permit = gate.permit("GET", true, &[]).await;
    gate.admission.sent_frame(&permit);
    assert_eq!(gate.uses(), 0);
}

/// A route whose `Authorization` is the app's, and whose tokens come in `x-gate`.
fn of_an_app(auth: Auth, without_session: bool) -> Gate {
    gate_with(auth, |route, _| {
        route.policy.carriers.authorization = AuthorizationField::Apps { without_session };
        route.policy.carriers.header = Some("x-gate".into());
    })
}

const APPS: (&str, &str) = ("authorization", "Bearer glsa_x");

#[tokio::test]
async fn the_apps_own_credential_is_no_token_of_ours_and_stands_beside_one() {
    for without_session in [false, true] {
        let gate = of_an_app(Auth::Required, without_session);
        let ann = ("cookie", "__Host-palisade=ann");
        let good_token = format!("Bearer {TOKEN}");
        for field in ["Bearer glsa_x", "Basic eDp5", "Bearer a, Bearer b", "", &good_token] {
            let field = ("authorization", field);
            assert_eq!(gate.send("GET", false, &[ann, field, field]).await, session(1));
            // The cookie admitted it, so the rule for cookies holds.
            assert_eq!(gate.send("POST", false, &[ann, field]).await, Err(Refusal::CrossSite));
            let cross = ("sec-fetch-site", "cross-site");
            assert_eq!(gate.send("POST", false, &[ann, field, cross]).await, Err(Refusal::CrossSite));
            let jwt = ("cookie", "jwt=bob.v1");
            assert_eq!(gate.send("POST", false, &[jwt, field, cross]).await, Err(Refusal::CrossSite));
            let same = ("origin", "https://a.test");
            assert_eq!(gate.send("POST", false, &[ann, field, same]).await, session(1));
            // A token in the route's own field was chosen by a script; one that is bad is refused, whatever is beside it.
            for (token, outcome) in [
                (TOKEN, Ok(Some((0, Carrier::Header)))),
                (&*good_token, Ok(Some((0, Carrier::Header)))),
                ("x", Err(Refusal::Token(TokenFault::Malformed))),
                ("", Err(Refusal::Token(TokenFault::Malformed))),
                ("x, y", Err(Refusal::Credentials)),
            ] {
                for fields in [&[("x-gate", token), field][..], &[("x-gate", token), field, ann]] {
                    assert_eq!(gate.send("POST", false, fields).await, outcome, "{fields:?}");
                }
            }
        }
        assert!(!gate.permit("GET", false, &[ann, APPS]).await.is_left_to_app());
        assert!(!gate.permit("GET", false, &[("x-gate", TOKEN), APPS]).await.is_left_to_app());
    }
    // A good token of ours in the app's field opens nothing.
    let gate = of_an_app(Auth::Required, false);
    for field in ["Bearer glsa_x", &format!("Bearer {TOKEN}")] {
        let refused = gate.send("GET", false, &[("authorization", field)]).await;
        assert_eq!(refused, Err(Refusal::NoToken), "{field}");
    }
    // On every other route two lines stay refused.
    let other = gate_with(Auth::Optional, |_, _| {});
    assert_eq!(other.send("GET", false, &[APPS, APPS]).await, Err(Refusal::Credentials));
}

#[tokio::test]
async fn without_a_session_the_app_judges_its_own_credential() {
    let gate = of_an_app(Auth::Required, true);
    let (over, bad) = (("cookie", "__Host-palisade=over"), ("cookie", "jwt=x"));
    let cross = ("sec-fetch-site", "cross-site");
    for none in [&[][..], &[over], &[bad], &[bad, over], &[("cookie", "__Host-palisade=forged; a=b")]] {
        for (method, websocket, more) in
            [("GET", false, &[][..]), ("POST", false, &[cross]), ("GET", true, &[cross])]
        {
            let fields = [none, more, &[APPS]].concat();
            let permit = gate.permit(method, websocket, &fields).await;
            assert!(permit.caller().is_none() && permit.is_left_to_app(), "{method} {fields:?}");
            assert_eq!(permit.spent_cookie(), none.contains(&bad).then_some("jwt"), "{fields:?}");
            assert_eq!(permit.carrier(), None);
        }
    }
    for empty in
        [&[][..], &[("authorization", "")], &[("authorization", " \t")], &[("authorization", ""), APPS]]
    {
        for (cookie, refusal) in [
            (("cookie", "a=b"), Refusal::NoToken),
            (over, Refusal::SessionOver),
            (bad, Refusal::Token(TokenFault::Malformed)),
        ] {
            let fields = [empty, &[cookie]].concat();
            assert_eq!(gate.send("GET", false, &fields).await, Err(refusal), "{fields:?}");
        }
        let fields = [empty, &[bad, cross]].concat();
        assert_eq!(gate.send("POST", false, &fields).await, Err(Refusal::CrossSite), "{fields:?}");
    }
    // A session that lacks what the route asks for is one; one that cannot be judged is not taken for none.
    let strict = gate_with(Auth::Required, |route, _| {
        route.policy.carriers.authorization = AuthorizationField::Apps { without_session: true };
        route.policy.require.scopes = vec!["none-has-it".into()];
    });
    let refused = strict.send("GET", false, &[("cookie", "__Host-palisade=ann"), APPS]).await;
    assert!(matches!(refused, Err(Refusal::Scope { .. })), "{refused:?}");
    gate.cookies.is_down.store(true, Ordering::Relaxed);
    let refused = gate.send("GET", false, &[("cookie", "__Host-palisade=ann"), APPS]).await;
    assert_eq!(refused, Err(Refusal::SessionUnknown));
    // Where the route does not say so, and on one whose field is ours, nothing passes.
    for gate in [of_an_app(Auth::Required, false), gate_with(Auth::Required, |_, _| {})] {
        let refused = gate.send("GET", false, &[("authorization", "Basic eDp5")]).await;
        assert_eq!(refused, Err(Refusal::NoToken));
    }
}
