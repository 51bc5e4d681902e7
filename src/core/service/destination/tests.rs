use std::net::IpAddr;
use std::sync::Arc;

use palisade_core::domain::destination::DestinationFault;
use palisade_core::domain::pattern::PathPattern;
use palisade_core::domain::request::{Malformed, Request, Scheme};
use palisade_core::domain::route::{Auth, AuthorizationField, Carriers, FailMode, Public, Route};
use palisade_core::domain::same_origin::OwnOrigins;
use palisade_core::domain::table::Table;
use palisade_core::domain::verdict::{Refusal, TokenFault};
use palisade_core::service::admit::{Admission, Authenticator, Permit, Verdict};
use palisade_testing::fakes::{FakeClock, FakeStore};
use palisade_testing::route_fakes::{self, FieldLines, request};
use palisade_testing::token_fakes::FakeVerifier;

/// [`FakeVerifier`] takes them for tokens of Ann and Bob.
const ANN: (&str, &str) = ("authorization", "Bearer ann.v1");
const BASIC: (&str, &str) = ("authorization", "Basic eDp5");
const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn path(text: &str) -> PathPattern {
    PathPattern::parse(text).unwrap()
}

/// A route of one app.
fn route(path: &str, auth: Auth, adjust: impl FnOnce(&mut Route)) -> Route {
    let upstreams = vec!["http://127.0.0.1:3000".to_owned()];
    let mut route = Route { upstreams, ..route_fakes::route(path, auth) };
    adjust(&mut route);
    route
}

struct Gate(Admission);

fn gate(mut routes: Vec<Route>) -> Gate {
    for (index, route) in routes.iter_mut().enumerate() {
        route.index = index;
    }
    Gate(Admission {
        routes: Table::new(routes),
        authenticator: Authenticator {
            verifier: Arc::new(FakeVerifier),
            revocations: Arc::new(FakeStore::default()),
            fail: FailMode::Closed,
            clock: Arc::new(FakeClock::default()),
        },
        own: OwnOrigins { scheme: Scheme::Https, named: Vec::new() },
        sessions: None,
    })
}

/// An app that judges what has no session.
fn judged(route: &mut Route) {
    route.policy.carriers = Carriers {
        header: Some("x-gate".into()),
        authorization: AuthorizationField::Apps { without_session: true },
        ..Carriers::default()
    };
}

impl Gate {
    async fn verdict(&self, method: &str, at: &str, fields: &[(&str, &str)]) -> Verdict {
        let fields = FieldLines(fields);
        let request = Request { client: Some(CLIENT), ..request(method, at, &fields) };
        self.0.admit(&request, CLIENT).await
    }

    /// What becomes of a MOVE.
    async fn moved(&self, from: &str, to: &str, more: &[(&str, &str)]) -> Result<Permit, Refusal> {
        match self.verdict("MOVE", from, &[&[("destination", to)], more].concat()).await {
            Verdict::Permit(permit) => Ok(permit),
            Verdict::Refusal { refusal, route, .. } => {
                let route = route.unwrap();
                assert!(from.starts_with(route.start(from)), "the route of the request's own path");
                Err(refusal)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn refused(&self, from: &str, to: &str, more: &[(&str, &str)]) -> Option<Refusal> {
        self.moved(from, to, more).await.err()
    }
}

fn open_and_closed() -> Gate {
    gate(vec![
        route("/open", Auth::None, |_| {}),
        route("/team", Auth::Required, |_| {}),
        route("/admin", Auth::Required, |route| route.policy.require.scopes = vec!["admin".into()]),
        route("/read", Auth::None, |route| route.methods = vec!["GET".into()]),
        route("/office", Auth::None, |route| route.networks = vec!["198.51.100.0/24".parse().unwrap()]),
        route("/elsewhere", Auth::None, |route| route.upstreams = vec!["http://127.0.0.1:9".to_owned()]),
        route("/theirs", Auth::Required, |route| route.policy.carriers.header = Some("x-theirs".into())),
    ])
}

#[tokio::test]
async fn a_destination_is_admitted_by_its_own_route_or_the_request_is_not() {
    let gate = open_and_closed();
    let permit = gate.moved("/open/a", "/open/%62", &[]).await.unwrap();
    assert_eq!(permit.destination().map(|to| to.path().to_owned()).as_deref(), Some("/open/b"));
    for (to, more, want) in [
        ("/team/b", &[][..], Some(Refusal::NoToken)),
        ("/team/b", &[BASIC], Some(Refusal::NoToken)),
        ("/team/b", &[("authorization", "Bearer x")], Some(Refusal::Token(TokenFault::Malformed))),
        ("/team/b", &[ANN], None),
        ("/admin/b", &[ANN], Some(Refusal::Scope { needed: vec!["admin".into()] })),
        ("/read/b", &[], Some(Refusal::Method { allow: vec!["GET".into()] })),
        ("/office/b", &[], Some(Refusal::Network)),
        ("/nowhere/b", &[], Some(Refusal::NoRoute)),
        ("/elsewhere/b", &[], Some(Refusal::Destination(DestinationFault::OtherUpstream))),
        ("/open/../team/b", &[], Some(Refusal::Destination(DestinationFault::Path(Malformed::DotSegment)))),
        ("/open/a%2fb", &[], Some(Refusal::Destination(DestinationFault::Path(Malformed::EncodedSlash)))),
    ] {
        assert_eq!(gate.refused("/open/a", to, more).await, want, "{to} {more:?}");
    }
    // The way out of a closed place asks for what that place asks for.
    assert_eq!(gate.refused("/team/a", "/open/b", &[]).await, Some(Refusal::NoToken));
    assert!(gate.moved("/team/a", "/open/b", &[ANN]).await.unwrap().caller().is_some());
}

#[tokio::test]
async fn the_field_counts_for_the_methods_that_act_on_it_and_may_be_missing() {
    let gate = open_and_closed();
    let closed = [("destination", "/team/b")];
    for method in ["GET", "PUT", "PROPFIND", "LOCK", "MOVES"] {
        match gate.verdict(method, "/open/a", &closed).await {
            Verdict::Permit(permit) => assert!(permit.destination().is_none(), "{method}"),
            other => panic!("{method}: {other:?}"),
        }
    }
    for method in ["COPY", "MOVE", "BCOPY", "BMOVE", "copy", "Move"] {
        let verdict = gate.verdict(method, "/open/a", &closed).await;
        assert!(
            matches!(verdict, Verdict::Refusal { refusal: Refusal::NoToken, .. }),
            "{method}: {verdict:?}"
        );
    }
    assert!(matches!(gate.verdict("MOVE", "/open/a", &[]).await, Verdict::Permit(_)), "the app answers that");
}

#[tokio::test]
async fn both_credentials_are_of_one_person() {
    let gate = open_and_closed();
    let theirs = |token| [ANN, ("x-theirs", token)];
    // On `/team` the field of the other route is none that carries a token.
    assert_eq!(gate.refused("/team/a", "/theirs/b", &theirs("ann.v1")).await, Some(Refusal::Credentials));
    for (token, want) in
        [("ann.v1", None), ("bob.v1", Some(Refusal::Credentials)), ("they/ann", Some(Refusal::Credentials))]
    {
        let gate = gate_of_two_fields();
        let more = [("x-ours", "ann.v1"), ("x-theirs", token)];
        assert_eq!(gate.refused("/ours/a", "/theirs/b", &more).await, want, "{token}");
    }
}

/// Two routes that look for a token in a field of their own each.
fn gate_of_two_fields() -> Gate {
    let by = |field: &'static str| move |route: &mut Route| route.policy.carriers.header = Some(field.into());
    gate(vec![route("/ours", Auth::Required, by("x-ours")), route("/theirs", Auth::Required, by("x-theirs"))])
}

#[tokio::test]
async fn what_the_app_judges_by_its_own_field_reaches_it_with_that_field() {
    let gate = gate(vec![
        route("/judged", Auth::Required, judged),
        route("/also", Auth::Required, judged),
        route("/ours", Auth::Required, |_| {}),
        route("/open", Auth::None, |_| {}),
    ]);
    // Both are left to the app, with the field that it judges by.
    for (from, to) in [("/judged/a", "/also/b"), ("/judged/a", "/open/b"), ("/open/a", "/judged/b")] {
        let permit = gate.moved(from, to, &[BASIC]).await.unwrap();
        assert!(permit.caller().is_none() && permit.carrier().is_none(), "{from} {to}");
        assert_eq!(permit.is_left_to_app(), from == "/judged/a", "{from} {to}");
        assert_eq!(gate.refused(from, to, &[]).await, Some(Refusal::NoToken), "{from} {to}");
    }
    // The token of ours is taken out, and the app would judge by nothing.
    assert_eq!(gate.refused("/ours/a", "/judged/b", &[ANN]).await, Some(Refusal::NoToken));
    // The app's password is no credential of ours.
    assert_eq!(gate.refused("/judged/a", "/ours/b", &[BASIC]).await, Some(Refusal::NoToken));
    let gate_token = ("x-gate", "ann.v1");
    assert!(gate.moved("/judged/a", "/also/b", &[BASIC, gate_token]).await.unwrap().caller().is_some());
    let bad = ("x-gate", "x");
    assert_eq!(
        gate.refused("/judged/a", "/also/b", &[BASIC, bad]).await,
        Some(Refusal::Token(TokenFault::Malformed))
    );
}

#[tokio::test]
async fn a_collection_takes_nothing_along_that_another_rule_decides_about() {
    let covers = Some(Refusal::Destination(DestinationFault::CoversOtherRoute));
    let gate = gate(vec![
        route("/open", Auth::None, |_| {}),
        route("/tree", Auth::None, |_| {}),
        route("/tree/closed", Auth::Required, |_| {}),
        route("/projects", Auth::None, |_| {}),
        route("/projects/*/hooks", Auth::Required, |_| {}),
        route("=/exact", Auth::None, |_| {}),
        route("/exact", Auth::Required, |_| {}),
        route("=/alone", Auth::None, |_| {}),
        route("/shop", Auth::Required, |route| {
            let methods = vec!["MOVE".to_owned()];
            route.public = vec![
                Public { methods: methods.clone(), path: path("/shop/drop") },
                Public { methods, path: path("=/shop/one") },
            ];
        }),
    ]);
    for (at, want) in [
        ("/tree", &covers),
        ("/tree/", &covers),
        ("/tree/x", &None),
        // A project has hooks below it.
        ("/projects", &covers),
        ("/projects/one", &covers),
        ("/projects/one/issues", &None),
        // An exact rule says nothing of what lies below its path.
        ("/exact", &covers),
        ("/alone", &covers),
        ("/shop/drop", &None),
        ("/shop/drop/x", &None),
        ("/shop/one", &covers),
    ] {
        assert_eq!(gate.refused("/open/a", at, &[]).await, *want, "to {at}");
        assert_eq!(gate.refused(at, "/open/b", &[]).await, *want, "from {at}");
    }
}
