//! The order in which waiting requesters get their hashes, and which of them are refused. Pure: no clock, no
//! thread, so that the order can be tested by counting work.
//!
//! Work is counted in units: a hash of cost n takes 2ⁿ of them. The turns are fair in work between address blocks,
//! between IPv6 sites and between accounts at once: a turn begins, in virtual time, when each of the three has had
//! all turns that it asked for before (start-time fair queueing, Goyal, Vin and Cheng, 1996, with the clock of
//! weighted fair queueing, so that no requester is starved by a stream of newcomers). So sixty blocks that
//! guess at one account weigh as one account against the others, and one block that guesses at a thousand accounts is one
//! block.
//!
//! Blocks from which an account was signed in to before have a queue of their own that goes first. It gets three
//! units of four while others wait, and no more: an attacker with accounts of their own must not starve the others.
//!
//! A full line takes a newcomer whose turn would come before that of its last requester, and evicts that one. No
//! account and no block can reserve places.

use std::collections::{BTreeMap, HashMap};

use palisade_core::domain::block::{AddressBlock, Site};
use palisade_core::ports::Requester;

/// Of so many units, known blocks get all but one while others wait.
const OF: u64 = 4;
/// A site's share is that of so many blocks.
const SITE_WEIGHT: u64 = 4;
/// One block and one account hold at most these of the places, in fourths.
const MOST_FOURTHS: u64 = 3;
/// Virtual time is finer than units by this, so that weights and all who may wait divide it.
const SCALE: u64 = 4 * MOST as u64;
/// So many may wait, however little their work is.
const MOST: usize = 4096;

/// A flow: what turns are shared between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Flow {
    /// `None`: the operator.
    Block(Option<AddressBlock>),
    Site(Site),
    Account(u64),
}

fn flows(requester: &Requester) -> impl Iterator<Item = Flow> {
    let site = requester.block.and_then(AddressBlock::site).map(Flow::Site);
    [Some(Flow::Block(requester.block)), Some(Flow::Account(requester.account)), site].into_iter().flatten()
}

/// What `units` of work cost a flow in virtual time.
fn charge(flow: Flow, units: u64) -> u64 {
    match flow {
        Flow::Site(_) => units.saturating_mul(SCALE) / SITE_WEIGHT,
        Flow::Block(_) | Flow::Account(_) => units.saturating_mul(SCALE),
    }
}

/// A place in the line, by which it can be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    start: u64,
    number: u64,
    is_known: bool,
}

struct Waiting<T> {
    requester: Requester,
    units: u64,
    item: T,
}

/// One of the two queues.
struct Queue<T> {
    turns: BTreeMap<(u64, u64), Waiting<T>>,
    /// The virtual time at which each flow has had what it asked for, if that is in the future.
    finish: HashMap<Flow, u64>,
    /// The units that wait of each flow.
    held: HashMap<Flow, u64>,
    /// How many blocks wait.
    blocks: u64,
    units: u64,
    /// Virtual time.
    now: u64,
}

impl<T> Queue<T> {
    fn new() -> Queue<T> {
        let (finish, held) = (HashMap::new(), HashMap::new());
        Queue { turns: BTreeMap::new(), finish, held, blocks: 0, units: 0, now: 0 }
    }

    /// When the turn of a newcomer would begin.
    fn start(&self, requester: &Requester) -> u64 {
        flows(requester).filter_map(|flow| self.finish.get(&flow).copied()).fold(self.now, u64::max)
    }

    /// Whether a flow of the newcomer would hold more than `most` units. One turn it may always hold.
    fn holds_too_much(&self, requester: &Requester, units: u64, most: u64) -> bool {
        flows(requester)
            .any(|flow| self.held.get(&flow).is_some_and(|held| held.saturating_add(units) > most))
    }

    fn join(&mut self, number: u64, waiting: Waiting<T>) -> u64 {
        let start = self.start(&waiting.requester);
        for flow in flows(&waiting.requester) {
            self.finish.insert(flow, start.saturating_add(charge(flow, waiting.units)));
            let held = self.held.entry(flow).or_default();
            if *held == 0 && matches!(flow, Flow::Block(_)) {
                self.blocks += 1;
            }
            *held += waiting.units;
        }
        self.units += waiting.units;
        self.turns.insert((start, number), waiting);
        start
    }

    fn take(&mut self, key: (u64, u64)) -> Option<Waiting<T>> {
        let waiting = self.turns.remove(&key)?;
        self.units -= waiting.units;
        for flow in flows(&waiting.requester) {
            if let Some(held) = self.held.get_mut(&flow) {
                *held -= waiting.units;
                if *held == 0 {
                    self.held.remove(&flow);
                    self.blocks -= u64::from(matches!(flow, Flow::Block(_)));
                }
            }
        }
        Some(waiting)
    }

    /// Removes a requester that will not have its turn. It is as if it had never asked.
    fn give_up(&mut self, key: (u64, u64)) -> Option<Waiting<T>> {
        let waiting = self.take(key)?;
        for flow in flows(&waiting.requester) {
            if let Some(finish) = self.finish.get_mut(&flow) {
                *finish = finish.saturating_sub(charge(flow, waiting.units));
            }
        }
        self.forget();
        Some(waiting)
    }

    fn next(&mut self) -> Option<Waiting<T>> {
        let (&key, waiting) = self.turns.first_key_value()?;
        // With n blocks waiting, each has had one unit more when n units are done.
        let step = waiting.units.saturating_mul(SCALE) / self.blocks.max(1);
        self.now = self.now.max(key.0).saturating_add(step);
        let waiting = self.take(key);
        self.forget();
        waiting
    }

    /// Drops entries that no longer matter.
    fn forget(&mut self) {
        if self.turns.is_empty() {
            self.finish.clear();
            self.now = 0;
        } else if self.finish.len() > 4 * self.held.len() + 64 {
            let now = self.now;
            self.finish.retain(|_, finish| *finish > now);
        }
    }
}

/// Why there is no place; with what was to be done.
#[derive(Debug)]
pub(super) struct Full;

/// The line before some threads.
pub(super) struct Line<T> {
    known: Queue<T>,
    others: Queue<T>,
    /// The units that known blocks were served since the last one of another block.
    lead: u64,
    number: u64,
}

impl<T> Line<T> {
    pub(super) fn new() -> Line<T> {
        Line { known: Queue::new(), others: Queue::new(), lead: 0, number: 0 }
    }

    /// The units that wait.
    pub(super) fn units(&self) -> u64 {
        self.known.units + self.others.units
    }

    fn len(&self) -> usize {
        self.known.turns.len() + self.others.turns.len()
    }

    /// Gives `item`, of `units` of work, a place in a line that holds `limit` units. Returns the place, and the
    /// requester that was evicted for it.
    ///
    /// # Errors
    /// [`Full`]: there is none.
    pub(super) fn join(
        &mut self,
        requester: Requester,
        units: u64,
        limit: u64,
        item: T,
    ) -> Result<(Place, Vec<T>), Full> {
        let most = limit / 4 * MOST_FOURTHS;
        let is_known = requester.known;
        let own = if is_known { &self.known } else { &self.others };
        let start = own.start(&requester);
        if own.holds_too_much(&requester, units, most) {
            return Err(Full);
        }
        // Checked before any requester is evicted: one that finds no place must not cost others theirs.
        let (mut over, mut count) = ((self.units() + units).saturating_sub(limit), self.len());
        let mut victims = Vec::new();
        // The places of known blocks are bounded among themselves.
        let mut known_over = if is_known { (self.known.units + units).saturating_sub(most) } else { 0 };
        let others = self.others.turns.iter().rev().map(|(key, waiting)| (false, *key, waiting.units));
        let known = self.known.turns.iter().rev().map(|(key, waiting)| (true, *key, waiting.units));
        for (of_known, key, of) in known.filter(|_| is_known).take_while(|(_, key, _)| key.0 > start) {
            if known_over == 0 {
                break;
            }
            (known_over, over, count) = (known_over.saturating_sub(of), over.saturating_sub(of), count - 1);
            victims.push((of_known, key));
        }
        let later = others.take_while(|(_, key, _)| is_known || key.0 > start);
        for (of_known, key, of) in later {
            if over == 0 && count < MOST {
                break;
            }
            (over, count) = (over.saturating_sub(of), count - 1);
            victims.push((of_known, key));
        }
        // The first of all finds a place, whatever its work.
        let is_alone = self.len() == 0;
        if !is_alone && (over > 0 || known_over > 0 || count >= MOST) {
            return Err(Full);
        }
        let sent_away = victims.into_iter().filter_map(|(of_known, key)| {
            let queue = if of_known { &mut self.known } else { &mut self.others };
            queue.give_up(key).map(|waiting| waiting.item)
        });
        let sent_away = sent_away.collect();
        self.number += 1;
        let number = self.number;
        let queue = if is_known { &mut self.known } else { &mut self.others };
        let start = queue.join(number, Waiting { requester, units, item });
        Ok((Place { start, number, is_known }, sent_away))
    }

    /// Gives a place up; `None` when the turn has come, or another requester got the place.
    pub(super) fn give_up(&mut self, place: Place) -> Option<T> {
        let queue = if place.is_known { &mut self.known } else { &mut self.others };
        queue.give_up((place.start, place.number)).map(|waiting| waiting.item)
    }

    /// Whose turn it is, and its units.
    pub(super) fn next(&mut self) -> Option<(T, u64)> {
        let of_others = self.others.turns.first_key_value().map(|(_, waiting)| waiting.units);
        let of_known = self.known.turns.first_key_value().map(|(_, waiting)| waiting.units);
        let known_first = match (of_known, of_others) {
            (None, None) => return None,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(_), Some(units)) => self.lead < units.saturating_mul(OF - 1),
        };
        let next = if known_first { self.known.next() } else { self.others.next() }?;
        self.lead = match known_first && of_others.is_some() {
            true => self.lead.saturating_add(next.units),
            false => 0,
        };
        Some((next.item, next.units))
    }

    /// Evicts every requester.
    pub(super) fn clear(&mut self) {
        *self = Line { number: self.number, ..Line::new() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash of cost 12.
    const UNIT: u64 = 1 << 12;
    const ANN: u64 = 1;

    fn block(n: u32) -> Option<AddressBlock> {
        Some(AddressBlock::V4(n))
    }

    fn stranger(n: u32, account: u64) -> Requester {
        Requester { block: block(n), account, known: false }
    }

    fn owner(n: u32, account: u64) -> Requester {
        Requester { known: true, ..stranger(n, account) }
    }

    /// A line of 64 hashes.
    const LIMIT: u64 = 64 * UNIT;

    fn join(line: &mut Line<&'static str>, requester: Requester, item: &'static str) -> bool {
        line.join(requester, UNIT, LIMIT, item).is_ok()
    }

    fn served(line: &mut Line<&'static str>, turns: usize) -> Vec<&'static str> {
        (0..turns).map_while(|_| line.next().map(|(item, _)| item)).collect()
    }

    #[test]
    fn requesters_with_equal_work_are_served_in_order_of_arrival() {
        let mut line = Line::new();
        for (n, item) in ["a", "b", "c", "d"].into_iter().enumerate() {
            assert!(join(&mut line, stranger(n as u32, n as u64), item));
        }
        assert_eq!(served(&mut line, 9), ["a", "b", "c", "d"]);
        assert_eq!(line.units(), 0);
    }

    /// One thread, cost 12, a quarter of a second a hash: eight turns are two seconds. Sixty blocks guess at Ann's
    /// account without a pause. Signing in takes one turn.
    #[test]
    fn the_owner_signs_in_within_two_seconds_while_sixty_blocks_guess() {
        let mut line = Line::new();
        let limit = 8 * UNIT;
        let guess = |line: &mut Line<&'static str>| {
            for n in 0..60 {
                let _ = line.join(stranger(n, ANN), UNIT, limit, "guess");
            }
        };
        for round in 0..100 {
            guess(&mut line);
            assert!(
                line.join(owner(1000, ANN), UNIT, limit, "owner").is_ok(),
                "{round}: a place even when it is full"
            );
            guess(&mut line);
            assert_eq!(served(&mut line, 1), ["owner"], "{round}");
            // Requesters of other accounts are not delayed by the guessing at all.
            assert!(line.join(stranger(2000 + round, 7), UNIT, limit, "other").is_ok(), "{round}");
            guess(&mut line);
            let turns = served(&mut line, 2);
            assert!(turns.contains(&"other"), "{round}: {turns:?}");
        }
    }

    /// The owner on a network that the account does not know is one of those who guess, and is kept out by none of
    /// them: a slot for each account would be taken by strangers for ever.
    #[test]
    fn the_owner_on_a_new_network_has_a_turn_among_those_who_guess() {
        let mut line = Line::new();
        // A guess of each block at a time, as the limits allow after the first few.
        for n in 0..6 {
            assert!(line.join(stranger(n, ANN), UNIT, 8 * UNIT, "guess").is_ok());
        }
        line.next();
        assert!(line.join(stranger(1000, ANN), UNIT, 8 * UNIT, "owner").is_ok());
        assert!(served(&mut line, 8).contains(&"owner"));
    }

    #[test]
    fn turns_are_fair_between_blocks_whatever_accounts_they_name() {
        let mut line = Line::new();
        for n in 0..30 {
            assert!(join(&mut line, stranger(1, 100 + n), "many"));
        }
        for n in 0..3 {
            assert!(join(&mut line, stranger(2, 200 + n), "few"));
        }
        let turns = served(&mut line, 7);
        assert_eq!(turns.iter().filter(|turn| **turn == "few").count(), 3, "{turns:?}");
    }

    #[test]
    fn turns_are_fair_in_work_and_not_in_number() {
        let mut line = Line::new();
        for n in 0..4 {
            line.join(stranger(1, n), 8 * UNIT, 1000 * UNIT, "dear").unwrap();
        }
        for n in 0..20 {
            line.join(stranger(2, 100 + n), UNIT, 1000 * UNIT, "cheap").unwrap();
        }
        let turns = served(&mut line, 18);
        let dear = turns.iter().filter(|turn| **turn == "dear").count();
        assert!((2..=3).contains(&dear), "{turns:?}");
    }

    #[test]
    fn a_site_is_not_as_many_as_it_has_networks() {
        let mut line = Line::new();
        let of_site = |n: u64| Requester {
            block: Some(AddressBlock::V6(0xdb8_0000 + n)),
            account: 500 + n,
            known: false,
        };
        for n in 0..40 {
            assert!(join(&mut line, of_site(n), "site"));
        }
        for n in 0..4 {
            assert!(join(&mut line, stranger(1, n), "other"));
        }
        let turns = served(&mut line, 20);
        assert_eq!(turns.iter().filter(|turn| **turn == "other").count(), 4, "{turns:?}");
    }

    #[test]
    fn known_blocks_go_first_and_leave_a_fourth() {
        let mut line = Line::new();
        for n in 0..12 {
            assert!(join(&mut line, stranger(n, u64::from(n)), "other"));
        }
        for n in 100..130 {
            assert!(join(&mut line, owner(n, u64::from(n)), "known"));
        }
        let turns = served(&mut line, 16);
        assert_eq!(turns[0], "known");
        assert_eq!(turns.iter().filter(|turn| **turn == "other").count(), 4, "{turns:?}");
    }

    #[test]
    fn no_requester_is_starved_by_newcomers() {
        let mut line = Line::new();
        let limit = 1000 * UNIT;
        for n in 0..3 {
            line.join(stranger(1, n), UNIT, limit, "office").unwrap();
        }
        let mut seen = 0;
        for n in 0..100 {
            line.join(stranger(100 + n, 1000 + u64::from(n)), UNIT, limit, "newcomer").unwrap();
            line.join(stranger(500 + n, 2000 + u64::from(n)), UNIT, limit, "newcomer").unwrap();
            seen += served(&mut line, 1).iter().filter(|turn| **turn == "office").count();
        }
        assert_eq!(seen, 3, "though more come than are served");
    }

    #[test]
    fn a_full_line_sends_the_last_away_and_not_who_comes_first() {
        let mut line = Line::new();
        let limit = 4 * UNIT;
        for n in 0..4 {
            line.join(stranger(n, ANN), UNIT, limit, "guess")
                .unwrap_or_else(|_| (Place { start: 0, number: 0, is_known: false }, Vec::new()));
        }
        // Three of four places are the most that one account holds.
        assert_eq!(line.units(), 3 * UNIT);
        let (_, sent_away) = line.join(stranger(50, 2), UNIT, limit, "other").unwrap();
        assert!(sent_away.is_empty());
        let (_, sent_away) = line.join(stranger(51, 3), UNIT, limit, "another").unwrap();
        assert_eq!(sent_away, ["guess"]);
        assert!(line.join(stranger(4, ANN), UNIT, limit, "guess").is_err(), "its turn would be the last");
        let (_, sent_away) = line.join(owner(60, 4), UNIT, limit, "owner").unwrap();
        assert_eq!(sent_away, ["guess"]);
        assert_eq!(served(&mut line, 9), ["owner", "guess", "other", "another"]);
    }

    #[test]
    fn a_cancelled_requester_leaves_no_trace() {
        let mut line = Line::new();
        for _ in 0..1000 {
            let (place, _) = line.join(stranger(1, ANN), UNIT, LIMIT, "gone").unwrap();
            line.join(stranger(2, 2), UNIT, LIMIT, "stays").unwrap();
            assert_eq!(line.give_up(place), Some("gone"));
            assert_eq!(line.give_up(place), None);
            assert_eq!(served(&mut line, 1), ["stays"]);
        }
        line.join(stranger(2, 2), UNIT, LIMIT, "a").unwrap();
        line.join(stranger(3, 3), UNIT, LIMIT, "b").unwrap();
        line.join(stranger(1, ANN), UNIT, LIMIT, "c").unwrap();
        assert_eq!(
            served(&mut line, 9),
            ["a", "b", "c"],
            "a thousand turns that were not taken cost nothing"
        );
        assert!(line.others.finish.is_empty() && line.others.held.is_empty() && line.others.blocks == 0);
    }

    #[test]
    fn a_flood_of_blocks_takes_bounded_memory() {
        let mut line = Line::new();
        for n in 0..100_000 {
            let _ = line.join(stranger(n, u64::from(n)), 16, u64::MAX, "x");
            if n % 3 == 0 {
                line.next();
            }
        }
        assert!(line.len() <= MOST && line.others.finish.len() <= 16 * MOST, "{}", line.others.finish.len());
    }

    /// At cost 4 a core does some thousand hashes in two seconds.
    #[test]
    fn a_hundred_sign_ins_at_once_at_a_low_cost_all_find_a_place() {
        let mut line = Line::new();
        let limit = 2_000_000_000 / 60_000;
        for n in 0..100 {
            line.join(stranger(1, n), 16, limit, "a").unwrap();
        }
        for _ in 0..100 {
            line.join(stranger(2, ANN), 16, limit, "b").unwrap();
        }
        assert_eq!(served(&mut line, 300).len(), 200);
    }

    /// However little their work is: what is kept of each takes memory.
    #[test]
    fn no_more_than_so_many_wait() {
        let (mut line, limit) = (Line::new(), u64::MAX / 8);
        for n in 0..MOST as u32 {
            line.join(stranger(n, n.into()), 1, limit, "first").unwrap();
        }
        assert!(line.join(stranger(0, 0), 1, limit, "second").is_err());
        assert_eq!(line.len(), MOST);
        line.next();
        line.join(stranger(0, 0), 1, limit, "second").unwrap();
    }

    /// A turn that was given up counts as never asked for.
    #[test]
    fn who_has_left_is_not_behind_those_who_came_later() {
        let mut line = Line::new();
        assert!(join(&mut line, stranger(9, 9), "first"));
        let left: Vec<Place> =
            (0..5).map(|n| line.join(stranger(1, n), UNIT, LIMIT, "left").unwrap().0).collect();
        left.into_iter().rev().for_each(|place| assert!(line.give_up(place).is_some()));
        assert!(join(&mut line, stranger(1, 7), "back"));
        for n in 2..5 {
            assert!(join(&mut line, stranger(n, u64::from(n) + 10), "later"));
        }
        assert_eq!(served(&mut line, 9), ["first", "back", "later", "later", "later"]);
    }

    /// An attacker with accounts of their own and many networks leaves room for all other requesters.
    #[test]
    fn known_blocks_do_not_take_every_place() {
        let mut line = Line::new();
        for n in 0..16 {
            assert!(join(&mut line, stranger(n, n.into()), "other"));
        }
        let taken = (100..200).filter(|n| join(&mut line, owner(*n, u64::from(*n)), "known")).count();
        assert_eq!(taken, 48);
        let turns = served(&mut line, 100);
        assert_eq!(turns.iter().filter(|turn| **turn == "other").count(), 16);
    }
}
