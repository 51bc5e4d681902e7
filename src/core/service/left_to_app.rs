//! The audit of requests that pass without a session because their route leaves them to the app (`without_session`): who
//! sent such requests to which route, within each hour, and how many.
//!
//! Any client can send them, so they are not written down one by one. Within a window each route has an event for the
//! first request of each of so many blocks of addresses, an event for the first request beyond these, and at the end of the
//! window a total for each of them. What a flood can add to the audit log is bounded by that, and it makes no request pass
//! without being counted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::caller::Source;
use super::noted::About;
use crate::domain::audit::{Action, Actor, Outcome};
use crate::domain::block::AddressBlock;
use crate::domain::time::UnixTime;
use crate::ports::{Audit, Clock, Entropy};

/// How long requests are counted together.
pub const WINDOW: Duration = Duration::from_secs(60 * 60);
/// How many blocks of addresses a route tells apart within a window.
pub const MAX_CLIENTS: usize = 256;

/// The audit of such requests.
pub struct LeftToApp {
    audit: Arc<dyn Audit>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    window: Mutex<Option<Window>>,
}

/// What has passed since `begun`.
struct Window {
    begun: UnixTime,
    /// By the route's name: no more than the configurations of one window have.
    routes: HashMap<Arc<str>, Passed>,
}

/// What has passed on one route.
#[derive(Default)]
struct Passed {
    clients: HashMap<AddressBlock, Count>,
    /// Of all blocks beyond [`MAX_CLIENTS`].
    others: u64,
}

struct Count {
    requests: u64,
    /// Of the first request.
    address: IpAddr,
}

impl LeftToApp {
    /// Counts from now on.
    #[must_use]
    pub fn new(audit: Arc<dyn Audit>, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> LeftToApp {
        LeftToApp { audit, clock, entropy, window: Mutex::default() }
    }

    /// Notes a request of `client` that was left to the app of `route`.
    pub fn passed(&self, route: &Arc<str>, client: IpAddr, request_id: &str) {
        let now = self.clock.now();
        let mut window = self.window();
        if window.as_ref().is_some_and(|window| window.is_over(now)) {
            self.tell(window.take(), now);
        }
        let window = window.get_or_insert_with(|| Window { begun: now, routes: HashMap::new() });
        let passed = window.routes.entry(Arc::clone(route)).or_default();
        let block = AddressBlock::of(client);
        if let Some(count) = passed.clients.get_mut(&block) {
            count.requests = count.requests.saturating_add(1);
            return;
        }
        let reason = if passed.clients.len() < MAX_CLIENTS {
            passed.clients.insert(block, Count { requests: 1, address: client });
            "first_request"
        } else {
            passed.others = passed.others.saturating_add(1);
            if passed.others > 1 {
                return;
            }
            "more_clients"
        };
        self.note(now, About::default().because(reason).with("route", &**route), Some(client), request_id);
    }

    /// Writes the totals of a window that is over. To be called every minute or so.
    pub fn look(&self) {
        let now = self.clock.now();
        let mut window = self.window();
        if window.as_ref().is_some_and(|window| window.is_over(now)) {
            self.tell(window.take(), now);
        }
    }

    /// Writes the totals so far: the process ends.
    pub fn close(&self) {
        let window = self.window().take();
        self.tell(window, self.clock.now());
    }

    /// Writes what one event has not told already: totals of more than one request.
    fn tell(&self, window: Option<Window>, now: UnixTime) {
        let Some(Window { begun, routes }) = window else { return };
        for (route, Passed { clients, others }) in routes {
            let about = |reason, requests: u64| {
                let about = About::default().because(reason).with("route", &*route);
                about.with("requests", requests).with("since", begun.0)
            };
            for Count { requests, address } in clients.into_values().filter(|count| count.requests > 1) {
                self.note(now, about("total_of_client", requests), Some(address), "");
            }
            if others > 1 {
                self.note(now, about("total_of_others", others), None, "");
            }
        }
    }

    fn note(&self, now: UnixTime, about: About, address: Option<IpAddr>, request_id: &str) {
        let mut event =
            Source::System.event(self.entropy.uuid(), now, Action::LeftToApp, Outcome::Success, about);
        event.actor = Actor::User;
        event.address = address;
        event.request_id = Some(request_id.to_owned()).filter(|id| !id.is_empty());
        self.audit.record(event);
    }

    fn window(&self) -> MutexGuard<'_, Option<Window>> {
        // What a thread that panicked left is whole: each change is one call.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    /// Whether it has ended, or the clock was set back to before it.
    fn is_over(&self, now: UnixTime) -> bool {
        now < self.begun || now >= self.begun.plus(WINDOW)
    }
}
