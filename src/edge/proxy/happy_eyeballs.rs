//! Connecting to one of several addresses: Happy Eyeballs (RFC 8305).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};

/// How long an attempt has to itself before the next one starts beside it (RFC 8305 §5, the recommended value).
pub const DELAY: Duration = Duration::from_millis(250);

/// Puts addresses into the order in which they are tried: the families alternate, beginning with that of the first, and
/// within a family the resolver's order stays (RFC 8305 §4, with a "First Address Family Count" of one).
#[must_use]
pub fn alternated(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else { return Vec::new() };
    let of_family = |wanted: bool| addresses.iter().filter(move |address| address.is_ipv6() == wanted);
    let (mut one, mut other) = (of_family(first.is_ipv6()), of_family(!first.is_ipv6()));
    let mut ordered: Vec<SocketAddr> = Vec::with_capacity(addresses.len());
    loop {
        let before = ordered.len();
        ordered.extend(one.next());
        ordered.extend(other.next());
        if ordered.len() == before {
            return ordered;
        }
    }
}

/// What became of the attempts to connect.
#[derive(Debug)]
pub struct Raced<T> {
    /// The first connection with the index of its attempt, or the last failure.
    pub outcome: io::Result<(usize, T)>,
    /// The attempts that failed, or had not succeeded when another one did.
    pub passed_over: Vec<usize>,
}

/// Makes `attempt` for the numbers below `count`, in their order, until one succeeds. The next one starts when the last one
/// has failed, or after [`DELAY`] beside it. Those that are not over when one succeeds are given up.
pub async fn race<T, F>(count: usize, attempt: impl Fn(usize) -> F) -> Raced<T>
where
    F: Future<Output = io::Result<T>>,
{
    let numbered = |index: usize| {
        let attempt = attempt(index);
        async move { (index, attempt.await) }
    };
    let (mut started, mut failed) = (0, Vec::new());
    let mut error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let mut running = FuturesUnordered::new();
    loop {
        if started < count {
            running.push(numbered(started));
            started += 1;
        }
        let ended = if started < count {
            tokio::time::timeout(DELAY, running.next()).await.unwrap_or_default()
        } else {
            match running.next().await {
                None => return Raced { outcome: Err(error), passed_over: failed },
                ended => ended,
            }
        };
        match ended {
            // Another attempt starts beside those under way.
            None => {}
            Some((index, Ok(connection))) => {
                let passed_over = (0..started).filter(|other| *other != index).collect();
                return Raced { outcome: Ok((index, connection)), passed_over };
            }
            Some((index, Err(why))) => {
                failed.push(index);
                error = why;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use tokio::time::Instant;

    #[test]
    fn families_alternate_and_each_keeps_its_order() {
        let read =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        for (given, wanted) in [
            (&[][..], &[][..]),
            (&["[::1]:1"], &["[::1]:1"]),
            (&["[::1]:1", "[::2]:1", "1.1.1.1:1"], &["[::1]:1", "1.1.1.1:1", "[::2]:1"]),
            (
                &["1.1.1.1:1", "[::1]:1", "[::2]:1", "[::3]:1"],
                &["1.1.1.1:1", "[::1]:1", "[::2]:1", "[::3]:1"],
            ),
        ] {
            assert_eq!(alternated(&read(given)), read(wanted));
        }
    }

    /// How an address behaves: the milliseconds after which it refuses or is connected; `None`: it is silent.
    type Behaviour = Option<(u64, bool)>;

    /// The winner, those passed over, and the millisecond at which each attempt started.
    async fn run(behaviours: &[Behaviour]) -> (Option<usize>, Vec<usize>, Vec<u128>) {
        let (begun, starts) = (Instant::now(), RefCell::new(Vec::new()));
        let raced = race(behaviours.len(), |index| {
            starts.borrow_mut().push(begun.elapsed().as_millis());
            let behaviour = behaviours[index];
            async move {
                let Some((after, connects)) = behaviour else { return std::future::pending().await };
                tokio::time::sleep(Duration::from_millis(after)).await;
                if connects { Ok(index) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
            }
        })
        .await;
        let won = raced.outcome.ok().map(|(index, connection)| {
            assert_eq!(index, connection);
            index
        });
        (won, raced.passed_over, starts.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_starts_the_next_attempt_at_once_and_silence_after_a_while() {
        let (refuses, connects, silent) = (Some((1, false)), Some((1, true)), None);
        assert_eq!(run(&[connects, connects]).await, (Some(0), vec![], vec![0]));
        assert_eq!(run(&[refuses, connects]).await, (Some(1), vec![0], vec![0, 1]));
        assert_eq!(run(&[silent, connects]).await, (Some(1), vec![0], vec![0, 250]));
        assert_eq!(run(&[silent, refuses, connects]).await, (Some(2), vec![0, 1], vec![0, 250, 251]));
        // A slow one wins as long as no other has; those that never started are not passed over.
        assert_eq!(run(&[Some((400, true)), silent, connects]).await, (Some(0), vec![1], vec![0, 250]));
        assert_eq!(run(&[refuses, refuses]).await, (None, vec![0, 1], vec![0, 1]));
        assert_eq!(run(&[]).await, (None, vec![], vec![]));
    }
}
