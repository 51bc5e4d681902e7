//! What checks of the accounts' password hashes cost, so that an address without an account takes the same time as one
//! with (enumeration by timing).
//!
//! A hash that was imported may take longer to check than a new one, or another algorithm altogether, until its owner
//! signs in. If an address without an account always took the usual time, another one would tell that there is an
//! account. So addresses without an account are checked against decoys of every kind of hash that there is: as many of
//! them, in proportion, as accounts are. Of an address that takes long nothing more is known then than of any other.
//!
//! A kind is named by its decoy: a hash of no password that takes the same work. Which address gets which decoy is kept
//! from one count to the next ([`Decoys`]). An account changes its kind once, when its owner signs in and its hash is
//! made anew; so a decoy may become the usual one, and never one of another kind.

use std::collections::BTreeMap;

/// Kinds of hashes that are told apart. Those beyond are taken for usual ones: each kind costs a look at every check.
const MOST_KINDS: usize = 256;
/// Pieces of the space of tags before the space is shared out anew.
const MOST_PIECES: usize = 1024;
/// One more than the highest tag.
const TAGS: u128 = 1 << 64;

/// How many accounts have a password hash of which kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HashCosts {
    usual: u64,
    /// By the decoy of the kind.
    others: BTreeMap<Box<str>, u64>,
}

impl HashCosts {
    /// Counts one account more with a hash of this kind, which its decoy names; `None`: one that is checked as a new
    /// one is.
    pub fn add(&mut self, kind: Option<&str>) {
        match kind {
            Some(kind) if self.others.contains_key(kind) || self.others.len() < MOST_KINDS => {
                *self.others.entry(kind.into()).or_default() += 1;
            }
            _ => self.usual += 1,
        }
    }

    /// Counts one account less with a hash of this kind.
    pub fn remove(&mut self, kind: Option<&str>) {
        match kind.and_then(|kind| self.others.get_mut(kind)) {
            Some(1) => drop(kind.and_then(|kind| self.others.remove(kind))),
            Some(accounts) => *accounts -= 1,
            None => self.usual = self.usual.saturating_sub(1),
        }
    }

    /// The accounts that were counted.
    #[must_use]
    pub fn accounts(&self) -> u64 {
        self.usual + self.others.values().sum::<u64>()
    }

    /// How much of [`TAGS`] the kind gets, of `all` accounts.
    fn share(&self, kind: &str, all: u64) -> u128 {
        let accounts = u128::from(*self.others.get(kind).unwrap_or(&0));
        (accounts << 64) / u128::from(all).max(1)
    }
}

/// Which decoy stands in for an address without an account.
#[derive(Debug, Default)]
pub struct Decoys {
    costs: HashCosts,
    /// What tags are given to which kind, in order and without overlap. The usual kind has the rest.
    pieces: Vec<Piece>,
    /// Whether `pieces` are those of other counts.
    is_stale: bool,
}

/// The tags `from..to`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    from: u128,
    to: u128,
    kind: Box<str>,
}

impl Decoys {
    /// All accounts were counted anew.
    pub fn counted(&mut self, costs: HashCosts) {
        self.costs = costs;
        self.is_stale = true;
    }

    /// Accounts have changed.
    pub fn change(&mut self, change: impl FnOnce(&mut HashCosts)) {
        change(&mut self.costs);
        self.is_stale = true;
    }

    /// The accounts by kind.
    #[must_use]
    pub fn costs(&self) -> &HashCosts {
        &self.costs
    }

    /// The decoy that the address of this tag is checked against when it has no account; `None` for the usual one.
    /// `tag` must be evenly spread, secret, and always the same for the same address.
    #[must_use]
    pub fn of(&mut self, tag: u64) -> Option<&str> {
        if std::mem::take(&mut self.is_stale) {
            self.share_out();
        }
        let tag = u128::from(tag);
        let at = self.pieces.partition_point(|piece| piece.to <= tag);
        self.pieces.get(at).filter(|piece| piece.from <= tag).map(|piece| &*piece.kind)
    }

    /// Gives every kind its share of the tags. A kind that has shrunk leaves tags to the usual kind, and one that has
    /// grown takes tags from the usual kind: no tag goes from one of the others to another.
    fn share_out(&mut self) {
        if self.pieces.len() > MOST_PIECES {
            self.pieces.clear();
        }
        let all = self.costs.accounts();
        let mut widths: BTreeMap<Box<str>, u128> = BTreeMap::new();
        for piece in &mut self.pieces {
            let width = widths.entry(piece.kind.clone()).or_default();
            let room = self.costs.share(&piece.kind, all).saturating_sub(*width);
            piece.to = piece.to.min(piece.from + room);
            *width += piece.to - piece.from;
        }
        self.pieces.retain(|piece| piece.from < piece.to);
        for kind in self.costs.others.keys() {
            let has = widths.get(kind).copied().unwrap_or(0);
            let missing = self.costs.share(kind, all).saturating_sub(has);
            take_gaps(&mut self.pieces, kind, missing);
        }
    }
}

/// Gives `kind` so many tags that no piece has: the last ones of the widest gap. What a kind has left lies at the
/// beginning of a gap, so it becomes another kind's late.
fn take_gaps(pieces: &mut Vec<Piece>, kind: &str, mut missing: u128) {
    while missing > 0 {
        let ends = pieces.iter().map(|piece| piece.from).chain([TAGS]);
        let starts = [0].into_iter().chain(pieces.iter().map(|piece| piece.to));
        let gaps = starts.zip(ends).enumerate().map(|(at, (from, to))| (to - from, to, at));
        let Some((width, to, at)) = gaps.max().filter(|(width, _, _)| *width > 0) else { return };
        let from = to - width.min(missing);
        missing -= to - from;
        match pieces.get_mut(at).filter(|next| next.from == to && &*next.kind == kind) {
            Some(next) => next.from = from,
            None => pieces.insert(at, Piece { from, to, kind: kind.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(counted: &[(&str, u64)]) -> HashCosts {
        let mut costs = HashCosts::default();
        for (kind, accounts) in counted {
            (0..*accounts).for_each(|_| costs.add(Some(*kind).filter(|kind| *kind != "usual")));
        }
        costs
    }

    fn decoys(counted: &[(&str, u64)]) -> Decoys {
        let mut decoys = Decoys::default();
        decoys.counted(costs(counted));
        decoys
    }

    fn tags() -> impl Iterator<Item = u64> {
        (0..1000).map(|n| u64::MAX / 2000 * (2 * n + 1))
    }

    /// What each of 1,000 evenly spread tags gets.
    fn kinds(decoys: &mut Decoys) -> Vec<String> {
        tags().map(|tag| decoys.of(tag).unwrap_or("usual").to_owned()).collect()
    }

    fn spread(decoys: &mut Decoys) -> BTreeMap<String, usize> {
        let mut spread = BTreeMap::new();
        kinds(decoys).into_iter().for_each(|kind| *spread.entry(kind).or_default() += 1);
        spread
    }

    #[track_caller]
    fn is_spread(decoys: &mut Decoys, expected: &[(&str, usize)]) {
        let spread = spread(decoys);
        for (kind, share) in expected {
            assert!(spread.get(*kind).unwrap_or(&0).abs_diff(*share) <= 2, "{kind}: {spread:?}");
        }
        assert_eq!(spread.len(), expected.len(), "{spread:?}");
    }

    #[test]
    fn strangers_get_every_kind_in_the_proportion_of_accounts() {
        let mut mixed = decoys(&[("usual", 70), ("argon2", 20), ("scrypt", 10)]);
        is_spread(&mut mixed, &[("usual", 700), ("argon2", 200), ("scrypt", 100)]);
        is_spread(&mut Decoys::default(), &[("usual", 1000)]);
        is_spread(&mut decoys(&[("argon2", 3)]), &[("argon2", 1000)]);
        assert_eq!(decoys(&[("argon2", 3)]).of(u64::MAX), Some("argon2"));
        is_spread(&mut decoys(&[("a", 1), ("b", 1), ("c", 1)]), &[("a", 333), ("b", 333), ("c", 333)]);
    }

    #[test]
    fn an_import_counts_at_once_and_beside_what_there_is() {
        let mut decoys = decoys(&[("usual", 100)]);
        (0..100).for_each(|_| decoys.change(|costs| costs.add(Some("argon2"))));
        is_spread(&mut decoys, &[("usual", 500), ("argon2", 500)]);
        (0..200).for_each(|_| decoys.change(|costs| costs.add(None)));
        is_spread(&mut decoys, &[("usual", 750), ("argon2", 250)]);
        (0..100).for_each(|_| decoys.change(|costs| costs.remove(Some("argon2"))));
        is_spread(&mut decoys, &[("usual", 1000)]);
    }

    /// What an account never does, an address without one must not do either.
    #[test]
    fn while_accounts_are_renewed_an_address_becomes_usual_at_most_once_and_never_another_kind() {
        let mut decoys = decoys(&[("usual", 10), ("argon2", 40), ("pbkdf2", 30), ("scrypt", 20)]);
        let mut before = kinds(&mut decoys);
        // In an order that leaves gaps between the kinds.
        for (kind, renewed) in [("argon2", 13), ("scrypt", 20), ("pbkdf2", 29), ("argon2", 27), ("pbkdf2", 1)]
        {
            for _ in 0..renewed {
                decoys.change(|costs| {
                    costs.remove(Some(kind));
                    costs.add(None);
                });
                let now = kinds(&mut decoys);
                for (was, is) in before.iter().zip(&now) {
                    assert!(was == is || is == "usual" && was == kind, "{was} became {is}");
                }
                before = now;
            }
        }
        assert!(before.iter().all(|kind| kind == "usual"));
    }

    /// A further import takes from those that were usual, and from nothing else; a new count of the same changes nothing.
    #[test]
    fn a_further_import_and_a_new_count_move_no_address_from_kind_to_kind() {
        let mut decoys = decoys(&[("usual", 50), ("argon2", 25), ("scrypt", 25)]);
        let before = kinds(&mut decoys);
        (0..10).for_each(|_| decoys.change(|costs| costs.add(Some("pbkdf2"))));
        let now = kinds(&mut decoys);
        for (was, is) in before.iter().zip(&now) {
            assert!(was == is || was == "usual" || is == "usual", "{was} became {is}");
        }
        is_spread(&mut decoys, &[("usual", 454), ("argon2", 227), ("scrypt", 227), ("pbkdf2", 91)]);
        let again = decoys.costs().clone();
        decoys.counted(again);
        assert_eq!(kinds(&mut decoys), now);
    }

    #[test]
    fn kinds_and_pieces_are_bounded() {
        let mut many = HashCosts::default();
        (0..MOST_KINDS + 50).for_each(|n| many.add(Some(&format!("kind {n}"))));
        assert_eq!(
            (many.others.len(), many.usual, many.accounts()),
            (MOST_KINDS, 50, MOST_KINDS as u64 + 50)
        );
        let mut decoys = Decoys::default();
        decoys.counted(many);
        for round in 0..9_u64 {
            for n in (0..MOST_KINDS).filter(|n| (*n as u64 + round).is_multiple_of(3)) {
                decoys.change(|costs| (0..=round).for_each(|_| costs.add(Some(&format!("kind {n}")))));
                let _ = decoys.of(0);
            }
            assert!(decoys.pieces.len() <= 2 * MOST_PIECES, "{}", decoys.pieces.len());
            assert!(decoys.pieces.windows(2).all(|pair| pair[0].to <= pair[1].from));
        }
    }
}
