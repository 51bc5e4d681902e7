//! Attacks on the code that carries a session between hosts, each with its outcome.

use std::sync::Arc;
use std::time::Duration;

use futures::future::FutureExt;
use palisade_core::domain::account::UserId;
use palisade_core::domain::browser::{BrowserSettings, NamedOrigin, SessionUse};
use palisade_core::domain::carry::{CarryRequest, Turn};
use palisade_core::domain::opaque::ServerKey;
use palisade_core::domain::request::Host;
use palisade_core::domain::return_to::ReturnTarget;
use palisade_core::domain::session::SessionId;
use palisade_core::service::carry::{Carried, CarryBegun, CarryFault, SessionCarrier, carried_to};
use palisade_testing::fakes::{FakeClock, FakeEntropy, FakeStore};
use secrecy::ExposeSecret;
use uuid::Uuid;
use zeroize::Zeroizing;

const ANN: UserId = UserId(Uuid::from_u128(1));
const SESSION: SessionId = SessionId(Uuid::from_u128(2));
const NO_NONCE: CarryFault = CarryFault::NoNonce { was_cleartext: false };

fn origin(text: &str) -> NamedOrigin {
    NamedOrigin::parse(text).unwrap()
}

fn settings() -> BrowserSettings {
    BrowserSettings {
        enabled: true,
        public: origin("https://auth.test"),
        hosts: vec![
            origin("https://app.test"),
            origin("https://lab.example:8443"),
            origin("https://auth.test:1"),
        ],
        domain: None,
        idle: Duration::from_secs(60),
        absolute: Duration::from_secs(60),
        remember: None,
        return_to: vec![origin("https://www.test")],
        uses: SessionUse::Every,
        insecure_http: false,
    }
}

struct World {
    carrier: SessionCarrier,
    clock: Arc<FakeClock>,
}

/// A browser, as far as one host knows it.
struct Browser {
    nonce: String,
    parameter: String,
}

fn world() -> World {
    let clock = Arc::new(FakeClock::default());
    let key = Arc::new(ServerKey::new(Zeroizing::new([9; 32])));
    let store = Arc::new(FakeStore::default());
    let carrier = SessionCarrier::new(key, Arc::clone(&clock) as _, Arc::new(FakeEntropy::default()), store);
    World { carrier, clock }
}

impl World {
    /// A browser without a session asks `at` for a page.
    fn ask(&self, at: &str) -> Browser {
        let CarryBegun { new_nonce, parameter } = self.carrier.begin(&origin(at), None, false);
        Browser { nonce: new_nonce.unwrap().value().expose_secret().to_owned(), parameter }
    }

    fn leave(&self, session: SessionId, target: &str, parameter: Option<&str>) -> String {
        let target = ReturnTarget::parse(target, &settings()).unwrap();
        let leaving = self.carrier.leave(ANN, session, &target, parameter).now_or_never();
        leaving.expect("nothing is waited for").unwrap().as_str().to_owned()
    }

    /// The code of a sign-in that `browser` began.
    fn code(&self, browser: &Browser, target: &str) -> String {
        let url = self.leave(SESSION, target, Some(&browser.parameter));
        url.split_once("/.palisade/carry?code=").unwrap_or_else(|| panic!("no code: {url}")).1.to_owned()
    }

    fn take(&self, code: &str, host: &str, browser: &Browser) -> Result<Carried, CarryFault> {
        self.take_with(code, host, Some(&browser.nonce))
    }

    fn take_with(&self, code: &str, host: &str, nonce: Option<&str>) -> Result<Carried, CarryFault> {
        let taking = self.carrier.take(code, host, nonce, &settings()).now_or_never();
        taking.expect("nothing is waited for").unwrap().map_err(|refused| refused.fault)
    }
}

#[test]
fn a_session_is_carried_to_the_host_and_the_browser_that_asked() {
    let world = world();
    let browser = world.ask("https://app.test");
    let url = world.leave(SESSION, "https://app.test/x?y#z", Some(&browser.parameter));
    assert!(url.starts_with("https://app.test/.palisade/carry?code="), "{url}");
    let code = url.split_once("code=").unwrap().1;
    let carried = world.take(code, "app.test", &browser).unwrap();
    assert_eq!((carried.user, carried.session), (ANN, SESSION));
    assert_eq!(carried.target.as_str(), "https://app.test/x?y#z");
}

#[test]
fn a_code_is_good_once() {
    let world = world();
    let browser = world.ask("https://app.test");
    let code = world.code(&browser, "https://app.test/");
    assert!(world.take(&code, "app.test", &browser).is_ok());
    assert_eq!(world.take(&code, "app.test", &browser), Err(CarryFault::Over));
}

#[test]
fn a_code_is_refused_on_another_host_and_void_after_that() {
    let world = world();
    let browser = world.ask("https://app.test");
    let other = world.ask("https://lab.example:8443");
    let code = world.code(&browser, "https://app.test/");
    assert_eq!(world.take(&code, "lab.example", &other), Err(CarryFault::NotForHere));
    assert_eq!(world.take(&code, "app.test", &browser), Err(CarryFault::Over));
    // A nonce of another host is none.
    let code = world.code(&browser, "https://app.test/");
    assert_eq!(world.take(&code, "lab.example", &browser), Err(NO_NONCE));
}

/// Login CSRF: an attacker signs in, and has a victim open the code.
#[test]
fn a_code_of_another_browser_signs_no_victim_in() {
    let world = world();
    let attacker = world.ask("https://app.test");
    let victim = world.ask("https://app.test");
    let code = world.code(&attacker, "https://app.test/");
    assert_eq!(world.take(&code, "app.test", &victim), Err(CarryFault::NotForHere));
    assert_eq!(world.take(&code, "app.test", &attacker), Err(CarryFault::Over), "and is void");
    let code = world.code(&attacker, "https://app.test/");
    assert_eq!(world.take_with(&code, "app.test", None), Err(NO_NONCE));
    assert_eq!(
        world.take_with(&code, "app.test", Some("planted")),
        Err(CarryFault::NoNonce { was_cleartext: false })
    );
}

/// The other way round: a victim who is signed in is sent to the sign-in with the attacker's parameter.
#[test]
fn an_attackers_parameter_brings_no_code_for_the_attackers_browser_to_another_place() {
    let world = world();
    let attacker = world.ask("https://app.test");
    let victim = world.ask("https://app.test");
    // The victim's browser gets the code, and cannot use it; it never reaches the attacker.
    let code = world.code(&attacker, "https://app.test/");
    assert_eq!(world.take(&code, "app.test", &victim), Err(CarryFault::NotForHere));
    // The target's host decides, not the host in the parameter.
    let url = world.leave(SESSION, "https://lab.example:8443/", Some(&attacker.parameter));
    assert_eq!(url, "https://lab.example:8443/");
    let url = world.leave(SESSION, "https://www.test/", Some(&attacker.parameter));
    assert_eq!(url, "https://www.test/", "no code goes to an origin that is only returned to");
}

#[test]
fn no_code_is_made_without_a_parameter_of_ours() {
    let world = world();
    let browser = world.ask("https://app.test");
    let other = ServerKey::new(Zeroizing::new([8; 32]));
    let hash = palisade_core::domain::opaque::TokenHash::of(browser.nonce.as_bytes());
    let forged = CarryRequest {
        origin: origin("https://app.test"),
        nonce: hash,
        was_cleartext: false,
        begun_at: palisade_core::ports::Clock::now(&*world.clock),
    };
    for parameter in
        [None, Some(""), Some("x"), Some(forged.write(&other).as_str()), Some(&browser.parameter[1..])]
    {
        assert_eq!(world.leave(SESSION, "https://app.test/x", parameter), "https://app.test/x");
    }
    world.clock.advance(24 * 3600);
    assert_eq!(world.leave(SESSION, "https://app.test/x", Some(&browser.parameter)), "https://app.test/x");
}

#[test]
fn a_code_lives_for_a_minute() {
    let world = world();
    let browser = world.ask("https://app.test");
    let [early, late] = [0; 2].map(|_| world.code(&browser, "https://app.test/"));
    world.clock.advance(59);
    assert!(world.take(&early, "app.test", &browser).is_ok());
    world.clock.advance(1);
    assert_eq!(world.take(&late, "app.test", &browser), Err(CarryFault::Over));
}

#[test]
fn ten_tabs_have_one_nonce_and_each_its_own_code() {
    let world = world();
    let browser = world.ask("https://app.test");
    let parameters: Vec<String> = (0..10)
        .map(|_| {
            let begun = world.carrier.begin(&origin("https://app.test"), Some(&browser.nonce), false);
            assert!(begun.new_nonce.is_none(), "the nonce is used again");
            begun.parameter
        })
        .collect();
    for (tab, parameter) in parameters.into_iter().enumerate() {
        let browser = Browser { nonce: browser.nonce.clone(), parameter };
        let code = world.code(&browser, &format!("https://app.test/{tab}"));
        let carried = world.take(&code, "app.test", &browser).unwrap();
        assert_eq!(carried.target.as_str(), format!("https://app.test/{tab}"));
    }
    // One that was planted, or is of another host, is not.
    let other = world.ask("https://lab.example:8443");
    for planted in ["", "planted", &other.nonce] {
        assert!(world.carrier.begin(&origin("https://app.test"), Some(planted), false).new_nonce.is_some());
    }
}

#[test]
fn codes_are_bounded_and_no_session_takes_the_room_of_all() {
    let world = world();
    let browser = world.ask("https://app.test");
    let mine = world.code(&browser, "https://app.test/mine");
    let flooding = SessionId(Uuid::from_u128(3));
    let mut codes = Vec::new();
    for _ in 0..100 {
        let url = world.leave(flooding, "https://app.test/", Some(&browser.parameter));
        codes.push(url.split_once("code=").unwrap().1.to_owned());
    }
    let good = codes.iter().filter(|code| world.take(code, "app.test", &browser).is_ok()).count();
    assert_eq!(good, 32, "the last ones of that session");
    assert!(world.take(&mine, "app.test", &browser).is_ok());
    // Of many sessions, the oldest codes give way.
    let first = world.code(&browser, "https://app.test/");
    for session in 10..10_010 {
        world.leave(SessionId(Uuid::from_u128(session)), "https://app.test/", Some(&browser.parameter));
    }
    assert_eq!(world.take(&first, "app.test", &browser), Err(CarryFault::Over));
}

#[test]
fn a_browser_that_began_over_http_is_told_so() {
    let world = world();
    let begun = world.carrier.begin(&origin("https://app.test"), None, true);
    let url = world.leave(SESSION, "https://app.test/", Some(&begun.parameter));
    let code = url.split_once("code=").unwrap().1;
    assert_eq!(world.take_with(code, "app.test", None), Err(CarryFault::NoNonce { was_cleartext: true }));
}

#[test]
fn a_clock_that_was_set_back_is_named() {
    let world = world();
    world.clock.advance(1000);
    let browser = world.ask("https://app.test");
    let code = world.code(&browser, "https://app.test/");
    let target = ReturnTarget::parse("/x", &settings()).unwrap();
    let marked = world.carrier.mark(&target);
    let query = marked.as_str().split_once('?').unwrap().1;
    assert_eq!(world.carrier.turn("auth.test", Some(query)), Some(Turn::JustNow));
    world.clock.set_back(500);
    assert_eq!(world.take(&code, "app.test", &browser), Err(CarryFault::Clock));
    assert_eq!(world.carrier.turn("auth.test", Some(query)), Some(Turn::Ahead));
}

#[test]
fn a_target_on_our_own_host_gets_a_mark_and_no_code() {
    let world = world();
    let browser = world.ask("https://app.test");
    for parameter in [None, Some(&*browser.parameter)] {
        let url = world.leave(SESSION, "/x?a=1#f", parameter);
        assert!(url.starts_with("https://auth.test/x?a=1&palisade-turn=") && url.ends_with("#f"), "{url}");
    }
    assert_eq!(world.carrier.turn("auth.test", None), None);
    assert_eq!(world.carrier.turn("auth.test", Some("a=1")), None);
}

#[test]
fn only_hosts_that_are_spelled_out_can_ask() {
    let settings = settings();
    let asked =
        |host: &str| carried_to(&settings, &Host::parse(host.as_bytes()).unwrap()).map(ToString::to_string);
    assert_eq!(asked("app.test"), Some("https://app.test".into()));
    assert_eq!(asked("APP.test:443"), Some("https://app.test".into()));
    assert_eq!(asked("lab.example:8443"), Some("https://lab.example:8443".into()));
    for host in ["auth.test", "auth.test:1", "lab.example", "app.test:8443", "x.app.test", "evil.test"] {
        assert_eq!(asked(host), None, "{host}");
    }
}

/// Two replicas over one store, of one clock.
fn replicas() -> (Arc<FakeStore>, Arc<FakeClock>, [SessionCarrier; 2]) {
    let (store, clock) = (Arc::new(FakeStore::shared()), Arc::new(FakeClock::default()));
    let entropy = Arc::new(FakeEntropy::default());
    let replica = || {
        let key = Arc::new(ServerKey::new(Zeroizing::new([9; 32])));
        SessionCarrier::new(key, Arc::clone(&clock) as _, Arc::clone(&entropy) as _, Arc::clone(&store) as _)
    };
    let both = [replica(), replica()];
    (store, clock, both)
}

/// Its nonce, and a code of the sign-in that it began.
async fn signed_in(began: &SessionCarrier, left: &SessionCarrier) -> (String, String) {
    let begun = began.begin(&origin("https://app.test"), None, false);
    let target = ReturnTarget::parse("https://app.test/x?y#z", &settings()).unwrap();
    let url = left.leave(ANN, SESSION, &target, Some(&begun.parameter)).await.unwrap();
    let (_, code) = url.as_str().split_once("/.palisade/carry?code=").unwrap();
    (begun.new_nonce.unwrap().value().expose_secret().to_owned(), code.to_owned())
}

#[tokio::test]
async fn a_code_is_taken_at_another_replica_than_the_one_that_made_it_and_once() {
    let (_, clock, [one, other]) = replicas();
    let (nonce, code) = signed_in(&other, &one).await;
    let carried = other.take(&code, "app.test", Some(&nonce), &settings()).await.unwrap().unwrap();
    assert_eq!((carried.user, carried.session), (ANN, SESSION));
    assert_eq!(carried.target.as_str(), "https://app.test/x?y#z");
    for replica in [&one, &other] {
        let again = replica.take(&code, "app.test", Some(&nonce), &settings()).await.unwrap();
        assert_eq!(again.unwrap_err().fault, CarryFault::Over);
    }
    let (nonce, late) = signed_in(&one, &other).await;
    clock.advance(60);
    let late = one.take(&late, "app.test", Some(&nonce), &settings()).await.unwrap();
    assert_eq!(late.unwrap_err().fault, CarryFault::Over);
}

#[tokio::test]
async fn a_code_among_shared_notes_is_for_its_browser_and_host_and_void_after_one_look() {
    let (_, _, [one, other]) = replicas();
    let (nonce, code) = signed_in(&one, &one).await;
    let (another, _) = signed_in(&one, &one).await;
    let refused = other.take(&code, "app.test", Some(&another), &settings()).await.unwrap().unwrap_err();
    assert_eq!(refused.fault, CarryFault::NotForHere);
    let refused = one.take(&code, "app.test", Some(&nonce), &settings()).await.unwrap().unwrap_err();
    assert_eq!((refused.fault, refused.target), (CarryFault::Over, None));
    // A replica whose configuration does not name the target any more sends no browser there.
    let (nonce, code) = signed_in(&one, &one).await;
    let without = BrowserSettings { hosts: Vec::new(), ..settings() };
    let refused = other.take(&code, "app.test", Some(&nonce), &without).await.unwrap().unwrap_err();
    assert_eq!((refused.fault, refused.target), (CarryFault::Over, None));
}

#[tokio::test]
async fn a_store_that_does_not_answer_takes_and_gives_no_code() {
    let (store, _, [one, other]) = replicas();
    let (nonce, code) = signed_in(&one, &one).await;
    store.notes.fail(true);
    let target = ReturnTarget::parse("https://app.test/", &settings()).unwrap();
    let begun = one.begin(&origin("https://app.test"), None, false);
    one.leave(ANN, SESSION, &target, Some(&begun.parameter)).await.unwrap_err();
    other.take(&code, "app.test", Some(&nonce), &settings()).await.unwrap_err();
    store.notes.fail(false);
    assert!(other.take(&code, "app.test", Some(&nonce), &settings()).await.unwrap().is_ok());
}
