//! What the process can hold at once, and load shedding beyond it: client connections, connections to
//! upstreams, HTTP/2 streams, and the memory of requests.
//!
//! Each of them is counted for the whole process, since a limit per connection bounds nothing while the
//! number of connections is the client's choice. What takes a place holds a [`Share`], which gives it back
//! when it is dropped. One atomic addition takes, one gives back; nothing waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The fewest descriptors that a gateway can be started with.
pub const FEWEST_DESCRIPTORS: usize = 128;
/// Descriptors that proxied traffic never gets: the listeners, the admin listener's connections, the store,
/// logs, mail, health checks, and requests of our own. A quarter of the limit between these bounds.
const RESERVE: std::ops::RangeInclusive<usize> = 64..=512;
/// Idle connections to upstreams that are kept, where there is room.
const POOL: usize = 1024;
/// Where descriptors are plenty, this many are left to each kind of connection whatever the other takes.
const LEFT_TO_EACH: usize = 1024;

/// About what a request holds beside its header section while it is served: the state of the engine, and the
/// buffers of two connections. In bytes.
const REQUEST: usize = 32 * 1024;
/// How often its bytes a header section is in memory: as it came, and as fields.
const COPIES: usize = 2;

/// What a header section of `length` bytes costs while it is read.
#[must_use]
pub const fn of_head(length: usize) -> usize {
    length * COPIES
}

/// What a request with such a section costs while it is served.
#[must_use]
pub const fn of_request(length: usize) -> usize {
    of_head(length) + REQUEST
}

/// How a limit of descriptors is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Client connections at once.
    pub clients: usize,
    /// Requests at once that hold a connection to an upstream.
    pub upstreams: usize,
    /// Both together.
    pub connections: usize,
    /// Idle connections to upstreams.
    pub pool: usize,
    /// What is left to everything else.
    pub reserve: usize,
}

impl Plan {
    /// Those of the idle connections that speak HTTP/2: each serves many requests.
    #[must_use]
    pub fn http2_pool(&self) -> usize {
        self.pool / 4
    }

    /// Divides `limit` descriptors (`None`: without limit), for at most `max_connections` clients.
    /// `per_upstream` descriptors belong to a connection to an upstream: two when the upstream is in this
    /// process.
    ///
    /// # Errors
    /// The limit is too low to serve anything.
    pub fn new(limit: Option<u64>, max_connections: usize, per_upstream: usize) -> Result<Plan, String> {
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        if limit < FEWEST_DESCRIPTORS {
            return Err(format!(
                "this process may open {limit} files at once (RLIMIT_NOFILE), and needs {FEWEST_DESCRIPTORS} \
                 at least: raise the hard limit (`ulimit -Hn`, LimitNOFILE= of systemd, --ulimit of Docker)"
            ));
        }
        let reserve = (limit / 4).clamp(*RESERVE.start(), *RESERVE.end());
        let pool = POOL.min((limit - reserve) / 8);
        let connections = limit - reserve - pool * per_upstream;
        let left = LEFT_TO_EACH.min(connections / 4);
        let clients = max_connections.min(connections - left);
        let upstreams = (connections - left) / per_upstream;
        Ok(Plan { clients, upstreams, connections, pool, reserve })
    }
}

/// A count with an upper bound.
#[derive(Debug)]
struct Bounded {
    taken: AtomicUsize,
    most: usize,
}

impl Bounded {
    const fn new(most: usize) -> Bounded {
        Bounded { taken: AtomicUsize::new(0), most }
    }

    /// Takes `amount`, unless that would be more than the bound.
    fn take(&self, amount: usize) -> bool {
        if amount > self.most {
            return false;
        }
        let fits = self.taken.fetch_add(amount, Ordering::SeqCst) <= self.most - amount;
        if !fits {
            self.give(amount);
        }
        fits
    }

    fn give(&self, amount: usize) {
        self.taken.fetch_sub(amount, Ordering::SeqCst);
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }
}

/// What a [`Share`] is a share of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Client,
    Upstream,
    Stream,
    Idle,
    Memory,
}

/// How much is taken now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Open client connections.
    pub clients: usize,
    /// Requests that hold a connection to an upstream.
    pub upstreams: usize,
    /// Open HTTP/2 streams of clients.
    pub streams: usize,
    /// Bytes of memory of the requests under way.
    pub memory: usize,
}

/// What this process can hold, and how much of it is taken.
#[derive(Debug)]
pub struct Capacity {
    plan: Plan,
    clients: Bounded,
    upstreams: Bounded,
    streams: Bounded,
    idle: Bounded,
    memory: Bounded,
}

impl Capacity {
    /// A capacity of which nothing is taken; `memory` is in bytes.
    #[must_use]
    pub fn new(plan: Plan, memory: usize) -> Arc<Capacity> {
        Arc::new(Capacity {
            plan,
            clients: Bounded::new(plan.clients),
            upstreams: Bounded::new(plan.upstreams),
            streams: Bounded::new(usize::MAX),
            idle: Bounded::new(plan.pool - plan.http2_pool()),
            memory: Bounded::new(memory),
        })
    }

    /// How the descriptors are divided.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// A place for a client's connection.
    #[must_use]
    pub fn client(self: &Arc<Self>) -> Option<Share> {
        self.connection(Kind::Client)
    }

    /// A place for a connection to an upstream. A request over HTTP/2 to an upstream takes one too, though
    /// several of them may share a connection: which do is not known before.
    #[must_use]
    pub fn upstream(self: &Arc<Self>) -> Option<Share> {
        self.connection(Kind::Upstream)
    }

    /// A place for an idle connection to an upstream, over HTTP/1.1.
    #[must_use]
    pub fn idle(self: &Arc<Self>) -> Option<Share> {
        self.idle.take(1).then(|| Share { of: Arc::clone(self), kind: Kind::Idle, amount: 1 })
    }

    /// Counts an HTTP/2 stream.
    #[must_use]
    pub fn stream(self: &Arc<Self>) -> Share {
        self.streams.take(1);
        Share { of: Arc::clone(self), kind: Kind::Stream, amount: 1 }
    }

    /// No memory yet for a request; [`Share::hold`] asks for it.
    #[must_use]
    pub fn memory(self: &Arc<Self>) -> Share {
        Share { of: Arc::clone(self), kind: Kind::Memory, amount: 0 }
    }

    /// How much is taken.
    #[must_use]
    pub fn taken(&self) -> Taken {
        Taken {
            clients: self.clients.taken(),
            upstreams: self.upstreams.taken(),
            streams: self.streams.taken(),
            memory: self.memory.taken(),
        }
    }

    /// The most bytes of memory of requests.
    #[must_use]
    pub fn most_memory(&self) -> usize {
        self.memory.most
    }

    fn of(&self, kind: Kind) -> &Bounded {
        match kind {
            Kind::Client => &self.clients,
            Kind::Upstream => &self.upstreams,
            Kind::Stream => &self.streams,
            Kind::Idle => &self.idle,
            Kind::Memory => &self.memory,
        }
    }

    fn connection(self: &Arc<Self>, kind: Kind) -> Option<Share> {
        let own = self.of(kind);
        if !own.take(1) {
            return None;
        }
        // Taken first, so that of two that come at once for the last place at least one sees the other.
        if self.clients.taken() + self.upstreams.taken() > self.plan.connections {
            own.give(1);
            return None;
        }
        Some(Share { of: Arc::clone(self), kind, amount: 1 })
    }
}

/// A part of a [`Capacity`], given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    of: Arc<Capacity>,
    kind: Kind,
    amount: usize,
}

impl Share {
    /// How large it is.
    #[must_use]
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Makes this share `amount` large. False when there is not that much; the share is then as it was.
    pub fn hold(&mut self, amount: usize) -> bool {
        let of = self.of.of(self.kind);
        if amount > self.amount {
            if !of.take(amount - self.amount) {
                return false;
            }
        } else {
            of.give(self.amount - amount);
        }
        self.amount = amount;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.of(self.kind).give(self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity(clients: usize, upstreams: usize, connections: usize, memory: usize) -> Arc<Capacity> {
        Capacity::new(Plan { clients, upstreams, connections, pool: 0, reserve: 0 }, memory)
    }

    #[test]
    fn no_plan_spends_more_than_there_is() {
        for limit in [128, 129, 200, 256, 1024, 4096, 20_000, 65_536, 1_048_576] {
            for max_connections in [1, 100, 16_384, 10_000_000] {
                for per_upstream in [1, 2] {
                    let plan = Plan::new(Some(limit), max_connections, per_upstream).unwrap();
                    let spent = plan.reserve + plan.pool * per_upstream + plan.connections;
                    assert!(spent as u64 <= limit, "{limit}: {plan:?}");
                    assert!(
                        plan.reserve >= 64 && plan.clients >= 1 && plan.upstreams >= 8,
                        "{limit}: {plan:?}"
                    );
                    assert!(plan.clients <= max_connections, "{plan:?}");
                    // Neither kind can take everything from the other.
                    assert!(plan.clients < plan.connections, "{plan:?}");
                    assert!(plan.upstreams * per_upstream < plan.connections, "{plan:?}");
                }
            }
        }
        // What is usual in containers and on servers costs no client its place.
        assert_eq!(Plan::new(Some(20_000), 16_384, 1).unwrap().clients, 16_384);
        assert_eq!(Plan::new(None, 16_384, 1).unwrap().clients, 16_384);
        let why = Plan::new(Some(100), 16_384, 1).unwrap_err();
        assert!(why.contains("100") && why.contains("ulimit"), "{why}");
    }

    #[test]
    fn shares_are_bounded_by_kind_and_together_and_come_back() {
        let capacity = capacity(3, 3, 4, 0);
        let clients: Vec<_> = (0..3).map(|_| capacity.client().unwrap()).collect();
        assert!(capacity.client().is_none());
        let upstream = capacity.upstream().unwrap();
        assert!(capacity.upstream().is_none(), "five of four");
        drop(clients);
        let upstreams: Vec<_> = (0..2).map(|_| capacity.upstream().unwrap()).collect();
        assert!(capacity.upstream().is_none());
        assert!(capacity.client().is_some());
        drop((upstream, upstreams));
        assert_eq!(capacity.taken(), Taken::default());
    }

    #[test]
    fn memory_is_held_by_the_byte() {
        let capacity = capacity(1, 1, 2, 100);
        let (mut one, mut other) = (capacity.memory(), capacity.memory());
        assert!(one.hold(60) && other.hold(40));
        assert!(!other.hold(41) && !one.hold(usize::MAX));
        assert_eq!(capacity.taken().memory, 100);
        assert!(one.hold(10) && other.hold(90));
        drop(one);
        assert_eq!(capacity.taken().memory, 90);
        drop(other);
        assert_eq!(capacity.taken().memory, 0);
    }

    #[test]
    fn races_for_the_last_places_never_hand_out_too_many() {
        let capacity = capacity(64, 64, 64, 0);
        let most = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8)
                .map(|number| {
                    let capacity = &capacity;
                    scope.spawn(move || {
                        let mut held = Vec::new();
                        for _ in 0..1000 {
                            held.extend(if number % 2 == 0 {
                                capacity.client()
                            } else {
                                capacity.upstream()
                            });
                        }
                        held
                    })
                })
                .collect();
            let held: Vec<_> = racers.into_iter().flat_map(|racer| racer.join().unwrap()).collect();
            held.len()
        });
        assert!((1..=64).contains(&most), "{most}");
        assert_eq!(capacity.taken(), Taken::default());
    }
}
