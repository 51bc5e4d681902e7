use palisade_core::domain::audit::{Action, Actor, Event, Outcome};
use palisade_core::service::left_to_app::*;
use palisade_testing::fakes::{FakeAudit, FakeClock, FakeEntropy};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

struct World {
    left: LeftToApp,
    audit: Arc<FakeAudit>,
    clock: Arc<FakeClock>,
}

impl World {
    fn new() -> World {
        let (audit, clock) = (Arc::new(FakeAudit::default()), Arc::new(FakeClock::default()));
        let left = LeftToApp::new(audit.clone(), clock.clone(), Arc::new(FakeEntropy::default()));
        World { left, audit, clock }
    }

    fn pass(&self, route: &str, client: impl Into<IpAddr>) {
        self.left.passed(&Arc::from(route), client.into(), "r1");
    }

    /// What was written since the last call.
    fn told(&self) -> Vec<Event> {
        std::mem::take(&mut *self.audit.0.lock().unwrap())
    }

    /// Of each of these events: the reason, the route, the address and the number of requests, in some order.
    fn words(&self) -> Vec<(String, String, Option<IpAddr>, u64)> {
        let mut words: Vec<_> = self
            .told()
            .into_iter()
            .map(|event| {
                let is_ours = event.action == Action::LeftToApp
                    && event.outcome == Outcome::Success
                    && event.actor == Actor::User;
                assert!(is_ours && event.is_strangers(), "{event:?}");
                let route = event.details["route"].as_str().unwrap().to_owned();
                let requests = event.details.get("requests").map_or(1, |count| count.as_u64().unwrap());
                (event.reason.unwrap(), route, event.address, requests)
            })
            .collect();
        words.sort();
        words
    }
}

fn v4(n: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, n])
}

/// The `n`th network of one customer.
fn network(n: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, n, 0, 0, 0, 1).into()
}

fn word(
    reason: &str,
    route: &str,
    address: Option<IpAddr>,
    requests: u64,
) -> (String, String, Option<IpAddr>, u64) {
    (reason.to_owned(), route.to_owned(), address, requests)
}

#[test]
fn the_first_request_of_a_client_is_told_and_the_others_are_counted() {
    let world = World::new();
    for _ in 0..1000 {
        world.pass("grafana", v4(1));
    }
    let told = world.told();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].request_id.as_deref(), Some("r1"));
    world.pass("grafana", v4(2));
    world.pass("git", v4(1));
    assert_eq!(
        world.words(),
        [word("first_request", "git", Some(v4(1)), 1), word("first_request", "grafana", Some(v4(2)), 1)]
    );
    // An IPv6 network is one client, and an IPv4 address that is mapped into IPv6 is that address.
    world.pass("grafana", network(7));
    world.pass("grafana", Ipv6Addr::new(0x2001, 0xdb8, 0, 7, 9, 9, 9, 9));
    world.pass("grafana", Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201));
    assert_eq!(world.words(), [word("first_request", "grafana", Some(network(7)), 1)]);

    world.clock.advance(WINDOW.as_secs() - 1);
    world.left.look();
    assert_eq!(world.words(), []);
    world.clock.advance(1);
    world.left.look();
    let totals = [
        word("total_of_client", "grafana", Some(v4(1)), 1001),
        word("total_of_client", "grafana", Some(network(7)), 2),
    ];
    assert_eq!(world.words(), totals);
    world.left.look();
    assert_eq!(world.words(), [], "told once");
    world.pass("grafana", v4(1));
    assert_eq!(world.words(), [word("first_request", "grafana", Some(v4(1)), 1)], "a window of its own");
}

#[test]
fn a_flood_from_many_networks_adds_a_bounded_number_of_lines_and_loses_no_request() {
    let world = World::new();
    let most = u16::try_from(MAX_CLIENTS).unwrap();
    for n in 0..=u16::MAX {
        world.pass("grafana", network(n));
    }
    let first = world.words();
    assert_eq!(first.len(), MAX_CLIENTS + 1);
    assert_eq!(first[MAX_CLIENTS], word("more_clients", "grafana", Some(network(most)), 1));
    // Another route has room of its own, and a client that was told apart is still counted as itself.
    world.pass("git", network(most + 1));
    world.pass("grafana", network(0));
    assert_eq!(world.words(), [word("first_request", "git", Some(network(most + 1)), 1)]);
    world.left.close();
    let beyond = u64::from(u16::MAX) + 1 - u64::from(most);
    assert_eq!(
        world.words(),
        [
            word("total_of_client", "grafana", Some(network(0)), 2),
            word("total_of_others", "grafana", None, beyond)
        ]
    );
}

#[test]
fn a_window_ends_with_its_hour_without_a_look_and_by_a_clock_that_was_set_back() {
    let world = World::new();
    for _ in 0..2 {
        world.pass("grafana", v4(1));
    }
    world.told();
    world.clock.advance(WINDOW.as_secs());
    world.pass("grafana", v4(1));
    let (total, first) = (
        word("total_of_client", "grafana", Some(v4(1)), 2),
        word("first_request", "grafana", Some(v4(1)), 1),
    );
    assert_eq!(world.words(), [first.clone(), total.clone()]);
    world.pass("grafana", v4(1));
    world.clock.set_back(1);
    world.left.look();
    assert_eq!(world.words(), [total]);
    world.left.close();
    assert_eq!(world.words(), []);
}
