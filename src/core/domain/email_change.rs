//! Which changes of an account's address can be undone, and what a frozen account allows until its owner is decided.
//! Pure rules: nothing here sends a letter or ends a session.
//!
//! A thief with a session and the password can give the account another address. The letter to the old address
//! therefore carries a link that undoes the change, and no later change of address or password voids it. But an old
//! mailbox may be in foreign hands by then, so that an undo does not hand the account over. It freezes it:
//!
//! 1. Each change has an undo link of its own, good for [`UNDO_LIFE`] and once.
//! 2. An undo takes back its change and every later one: the links of those are void from then on. The links of
//!    earlier changes stay good, also while the account is frozen and after it was given back, so that the address
//!    which was there first has the last word.
//! 3. While frozen, nothing signs in, and no link is accepted but the undo links of earlier changes and those to object.
//! 4. Every address that the account had since the undone change was verified, so each of them is told, and may object
//!    for [`OBJECTION_TIME`]. Without an objection the account gets the earlier address back, and that address a link
//!    that sets a new password. With one, an operator decides, and that is final: it voids every undo link.
//! 5. An earlier address that has become another account's is not given back: an operator decides.
//! 6. Once the address is decided, only a reset of the password by it is accepted, and ends the freeze.
//!
//! People cannot delete their accounts while a change can be undone ([`EmailChanges::undoable_until`]): the undo would
//! go with the account.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::email::EmailAddress;
use super::time::UnixTime;

/// How long a change of address can be undone by its old address.
pub const UNDO_LIFE: Duration = Duration::from_secs(3 * 24 * 3600);
/// How long the later addresses can object to an undo.
pub const OBJECTION_TIME: Duration = Duration::from_secs(24 * 3600);
/// How many changes of an account can be undone at one time. More are refused until the earliest has ended: what could
/// not be remembered could not be undone.
pub const MAX_UNDOABLE: usize = 16;

/// What is kept with an account about its addresses. An account of an earlier version has none of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmailChanges {
    /// Changes with an undo link that may still be good, the earliest first.
    #[serde(default)]
    pub undoable: Vec<EmailChange>,
    /// Set from an undo until the reset of the password that follows it.
    #[serde(default)]
    pub freeze: Option<Freeze>,
}

/// A change of address that can be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmailChange {
    /// The id of its undo link.
    pub link: Uuid,
    pub from: EmailAddress,
    pub to: EmailAddress,
    pub at: UnixTime,
}

/// An account between an undo and the reset that follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// When the first undo was made.
    pub since: UnixTime,
    /// The id of the undo link that was used last.
    pub claim: Uuid,
    /// The address that it was mailed to, which gets the account back.
    pub earlier: EmailAddress,
    /// The addresses that the account had after that one and may object, the present one last.
    pub later: Vec<EmailAddress>,
    pub stage: FreezeStage,
}

/// How far the decision is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FreezeStage {
    /// The later addresses can object; the earlier one gets the account at `until`.
    Waiting { until: UnixTime },
    /// A later address has objected: an operator decides.
    Objected { at: UnixTime },
    /// The earlier address is another account's by now: an operator decides.
    Taken,
    /// The address is decided. A reset of the password by it ends the freeze.
    Decided,
}

/// What an undo takes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undone {
    /// When the change was made: what was added since then may be a thief's.
    pub since: UnixTime,
    /// The addresses that are told and may object.
    pub later: Vec<EmailAddress>,
    /// When the earlier address gets the account; `None`: an operator decides.
    pub until: Option<UnixTime>,
}

/// Why a change of address cannot be remembered: there are [`MAX_UNDOABLE`] already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyChanges {
    /// When the earliest of them ends.
    pub until: UnixTime,
}

impl EmailChanges {
    /// Remembers a change at `now`, and forgets those that can no longer be undone.
    ///
    /// # Errors
    /// [`TooManyChanges`]; then nothing was remembered, and the change must not be made.
    pub fn add(&mut self, change: EmailChange, now: UnixTime) -> Result<(), TooManyChanges> {
        self.forget_over(now);
        if let Some(earliest) = self.undoable.first().filter(|_| self.undoable.len() >= MAX_UNDOABLE) {
            return Err(TooManyChanges { until: earliest.at.plus(UNDO_LIFE) });
        }
        self.undoable.push(change);
        Ok(())
    }

    /// Forgets the changes that can no longer be undone: old addresses are kept no longer than they serve.
    pub fn forget_over(&mut self, now: UnixTime) {
        self.undoable.retain(|change| is_live(change, now));
    }

    /// Whether the undo link of this id is good at `now`.
    #[must_use]
    pub fn can_undo(&self, link: Uuid, now: UnixTime) -> bool {
        self.undoable.iter().any(|change| change.link == link && is_live(change, now))
    }

    /// Until when a change can be undone; `None` when there is none that can be at `now`.
    #[must_use]
    pub fn undoable_until(&self, now: UnixTime) -> Option<UnixTime> {
        let live = self.undoable.iter().filter(|change| is_live(change, now));
        live.map(|change| change.at.plus(UNDO_LIFE)).max()
    }

    /// Takes back the change of this undo link and every later one, and freezes the account. `present` is the
    /// account's address. `is_taken`: the earlier address is another account's. `None` when the link is not good;
    /// then nothing was changed.
    ///
    /// An account that is frozen already was frozen for a later address: its claim gives way to this earlier one, and
    /// the time to object begins anew. An objection stands.
    pub fn undo(
        &mut self,
        link: Uuid,
        present: Option<&EmailAddress>,
        is_taken: bool,
        now: UnixTime,
    ) -> Option<Undone> {
        let place = self.undoable.iter().position(|change| change.link == link && is_live(change, now))?;
        let undone = self.undoable.split_off(place);
        let first = undone.first()?;
        let (since, earlier) = (first.at, first.from.clone());
        let before = self.freeze.take();
        let mut later: Vec<EmailAddress> = Vec::new();
        // The addresses that were notified of a replaced claim count as later ones too.
        let told = before.iter().flat_map(|freeze| freeze.later.iter().cloned());
        let had = undone.iter().map(|change| change.to.clone());
        for address in had.chain(told).chain(present.cloned()) {
            later.retain(|other| *other != address);
            later.push(address);
        }
        later.retain(|address| *address != earlier);
        let until = now.plus(OBJECTION_TIME);
        let stage = match before.as_ref().map(|freeze| freeze.stage) {
            _ if is_taken => FreezeStage::Taken,
            Some(objected @ FreezeStage::Objected { .. }) => objected,
            _ => FreezeStage::Waiting { until },
        };
        let until = matches!(stage, FreezeStage::Waiting { .. }).then_some(until);
        let began = before.map_or(now, |freeze| freeze.since);
        self.freeze = Some(Freeze { since: began, claim: link, earlier, later: later.clone(), stage });
        Some(Undone { since, later, until })
    }

    /// Whether an objection counts: the address is not decided yet.
    #[must_use]
    pub fn can_object(&self) -> bool {
        self.freeze.as_ref().is_some_and(|freeze| freeze.stage != FreezeStage::Decided)
    }

    /// Whether an objection of `address` counts: it is not decided yet, and the address is one of the later ones.
    #[must_use]
    pub fn takes_objection(&self, address: &EmailAddress) -> bool {
        self.can_object() && self.freeze.as_ref().is_some_and(|freeze| freeze.later.contains(address))
    }

    /// Leaves the decision to an operator. False when there is none to leave; then nothing was changed.
    pub fn object(&mut self, now: UnixTime) -> bool {
        let Some(freeze) = self.freeze.as_mut().filter(|freeze| freeze.stage != FreezeStage::Decided) else {
            return false;
        };
        if matches!(freeze.stage, FreezeStage::Waiting { .. }) {
            freeze.stage = FreezeStage::Objected { at: now };
        }
        true
    }

    /// The address that the account gets back, when the time to object to `claim` is over at `now` without an
    /// objection. `None`: nothing was changed.
    pub fn give_back(&mut self, claim: Uuid, now: UnixTime) -> Option<EmailAddress> {
        let freeze = self.freeze.as_mut().filter(|freeze| freeze.claim == claim)?;
        let FreezeStage::Waiting { until } = freeze.stage else { return None };
        if now < until {
            return None;
        }
        freeze.stage = FreezeStage::Decided;
        Some(freeze.earlier.clone())
    }

    /// An operator decides for `address`, which must be the earlier or one of the later addresses. Every undo link is
    /// void from then on. False when the account is not frozen or the address none of those; then nothing was changed.
    pub fn decide(&mut self, address: &EmailAddress) -> bool {
        let Some(freeze) = self.freeze.as_mut() else { return false };
        if freeze.earlier != *address && !freeze.later.contains(address) {
            return false;
        }
        freeze.stage = FreezeStage::Decided;
        self.undoable.clear();
        true
    }

    /// The password was set anew by the address that was decided for.
    pub fn reset(&mut self) {
        self.freeze = None;
    }

    /// Whether nothing but a decision and a reset are accepted.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.freeze.is_some()
    }

    /// Whether a reset of the password is accepted.
    #[must_use]
    pub fn takes_reset(&self) -> bool {
        self.freeze.as_ref().is_none_or(|freeze| freeze.stage == FreezeStage::Decided)
    }

    /// The address that is kept from other accounts although it is not this account's: the one that may get it back.
    #[must_use]
    pub fn reserved(&self) -> Option<&EmailAddress> {
        let freeze = self.freeze.as_ref()?;
        matches!(freeze.stage, FreezeStage::Waiting { .. } | FreezeStage::Objected { .. })
            .then_some(&freeze.earlier)
    }
}

fn is_live(change: &EmailChange, now: UnixTime) -> bool {
    now < change.at.plus(UNDO_LIFE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600;
    const THEN: UnixTime = UnixTime(1_800_000_000);

    fn address(name: &str) -> EmailAddress {
        format!("{name}@example.com").parse().unwrap()
    }

    fn link(change: u128) -> Uuid {
        Uuid::from_u128(change)
    }

    /// An account that had these addresses one after the other, an hour apart. The undo link of the change to the
    /// second one is 1.
    fn after(addresses: &[&str]) -> EmailChanges {
        let mut changes = EmailChanges::default();
        for (n, pair) in addresses.windows(2).enumerate() {
            let at = UnixTime(THEN.0 + 3600 * n as u64);
            let (from, to) = (address(pair[0]), address(pair[1]));
            changes.add(EmailChange { link: link(n as u128 + 1), from, to, at }, at).unwrap();
        }
        changes
    }

    fn later(changes: &EmailChanges) -> Vec<&str> {
        let freeze = changes.freeze.as_ref().unwrap();
        freeze.later.iter().map(|email| email.as_str().split('@').next().unwrap()).collect()
    }

    #[test]
    fn a_change_can_be_undone_for_three_days_and_once() {
        let mut changes = after(&["ann", "thief"]);
        assert!(changes.can_undo(link(1), THEN.plus(UNDO_LIFE).minus(Duration::from_secs(1))));
        assert!(!changes.can_undo(link(1), THEN.plus(UNDO_LIFE)));
        assert!(!changes.can_undo(link(2), THEN));
        let (end, thief) = (THEN.plus(UNDO_LIFE), address("thief"));
        assert_eq!(changes.undo(link(1), Some(&thief), false, end), None);
        assert_eq!(changes, after(&["ann", "thief"]));

        let now = UnixTime(THEN.0 + 60);
        let undone = changes.undo(link(1), Some(&thief), false, now).unwrap();
        let until = Some(now.plus(OBJECTION_TIME));
        assert_eq!(undone, Undone { since: THEN, later: vec![address("thief")], until });
        assert_eq!(changes.reserved(), Some(&address("ann")));
        assert!(changes.is_frozen() && !changes.takes_reset() && changes.can_object());
        assert!(!changes.can_undo(link(1), now));
        assert_eq!(changes.undo(link(1), Some(&thief), false, now), None);
    }

    #[test]
    fn without_an_objection_the_earlier_address_gets_the_account_after_a_day() {
        let mut changes = after(&["ann", "thief"]);
        changes.undo(link(1), Some(&address("thief")), false, THEN).unwrap();
        let end = THEN.plus(OBJECTION_TIME);
        assert_eq!(changes.give_back(link(1), end.minus(Duration::from_secs(1))), None);
        assert_eq!(changes.give_back(link(2), end), None);
        assert_eq!(changes.give_back(link(1), end), Some(address("ann")));
        assert_eq!(changes.give_back(link(1), end), None, "once");
        assert!(changes.is_frozen() && changes.takes_reset());
        assert!(!changes.can_object() && !changes.object(end), "it is too late");
        assert_eq!(changes.reserved(), None, "it is the account's own now");
        changes.reset();
        assert!(!changes.is_frozen());
    }

    #[test]
    fn an_objection_leaves_it_to_an_operator() {
        let mut changes = after(&["ann", "new"]);
        changes.undo(link(1), Some(&address("new")), false, THEN).unwrap();
        assert!(changes.object(THEN));
        assert!(changes.object(UnixTime(THEN.0 + 5)), "a second one changes nothing");
        assert_eq!(changes.freeze.as_ref().unwrap().stage, FreezeStage::Objected { at: THEN });
        assert_eq!(changes.give_back(link(1), UnixTime(THEN.0 + 30 * DAY)), None);
        assert_eq!(changes.reserved(), Some(&address("ann")), "nobody else gets it meanwhile");
        assert!(!changes.decide(&address("other")));
        assert!(changes.decide(&address("new")) && changes.takes_reset());
    }

    #[test]
    fn nobody_objects_to_nothing() {
        let mut changes = after(&["ann", "new"]);
        assert!(!changes.object(THEN) && !changes.can_object() && !changes.decide(&address("ann")));
        assert_eq!(changes, after(&["ann", "new"]));
    }

    /// The thief changes it twice, to two mailboxes of their own.
    #[test]
    fn the_earliest_address_has_the_last_word() {
        let mut changes = after(&["ann", "thief", "thief2"]);
        let now = UnixTime(THEN.0 + 7200);
        let undone = changes.undo(link(1), Some(&address("thief2")), false, now).unwrap();
        assert_eq!(undone.since, THEN);
        assert_eq!(later(&changes), ["thief", "thief2"]);
        assert!(!changes.can_undo(link(2), now), "the later change is gone with the earlier one");
        changes.give_back(link(1), now.plus(OBJECTION_TIME)).unwrap();
        changes.reset();
        assert!(!changes.can_undo(link(2), now), "and stays so");
    }

    /// The thief undoes a change of their own first, to have the account frozen for a mailbox of theirs.
    #[test]
    fn the_claim_of_a_later_address_gives_way_to_an_earlier_one() {
        let mut changes = after(&["ann", "thief", "thief2"]);
        let first = UnixTime(THEN.0 + 7200);
        changes.undo(link(2), Some(&address("thief2")), false, first).unwrap();
        assert_eq!((changes.reserved(), later(&changes)), (Some(&address("thief")), vec!["thief2"]));
        let second = UnixTime(first.0 + DAY - 1);
        let undone = changes.undo(link(1), Some(&address("thief2")), false, second).unwrap();
        assert_eq!(undone.until, Some(second.plus(OBJECTION_TIME)), "each claim has its own day");
        assert_eq!(changes.freeze.as_ref().unwrap().since, first);
        assert_eq!((changes.reserved(), later(&changes)), (Some(&address("ann")), vec!["thief", "thief2"]));
        assert_eq!(
            changes.give_back(link(2), UnixTime(first.0 + DAY)),
            None,
            "its task is of a claim that is gone"
        );
        assert_eq!(changes.give_back(link(1), second.plus(OBJECTION_TIME)), Some(address("ann")));
    }

    #[test]
    fn an_earlier_change_can_be_undone_after_a_later_one_was_given_back() {
        let mut changes = after(&["ann", "thief", "thief2"]);
        changes.undo(link(2), Some(&address("thief2")), false, THEN).unwrap();
        changes.give_back(link(2), THEN.plus(OBJECTION_TIME)).unwrap();
        let now = UnixTime(THEN.0 + 2 * DAY);
        assert!(changes.takes_reset());
        changes.undo(link(1), Some(&address("thief")), false, now).unwrap();
        assert!(!changes.takes_reset(), "the reset for the later address is void");
        assert_eq!(later(&changes), ["thief2", "thief"]);
    }

    #[test]
    fn an_objection_stands_when_an_earlier_address_claims_the_account() {
        let mut changes = after(&["ann", "new", "newer"]);
        changes.undo(link(2), Some(&address("newer")), false, THEN).unwrap();
        changes.object(THEN);
        let undone = changes.undo(link(1), Some(&address("newer")), false, THEN).unwrap();
        assert_eq!(undone.until, None);
        assert_eq!(changes.reserved(), Some(&address("ann")));
    }

    #[test]
    fn an_address_that_is_anothers_by_now_is_not_given_back() {
        for objected in [false, true] {
            let mut changes = after(&["ann", "new", "newer"]);
            if objected {
                changes.undo(link(2), Some(&address("newer")), false, THEN).unwrap();
                changes.object(THEN);
            }
            let undone = changes.undo(link(1), Some(&address("newer")), true, THEN).unwrap();
            assert_eq!(undone.until, None);
            assert_eq!(changes.reserved(), None);
            assert_eq!(changes.give_back(link(1), UnixTime(THEN.0 + 9 * DAY)), None);
            assert!(changes.is_frozen() && !changes.takes_reset());
        }
    }

    #[test]
    fn an_operators_decision_is_final() {
        let mut changes = after(&["ann", "new", "newer"]);
        changes.undo(link(2), Some(&address("newer")), false, THEN).unwrap();
        assert!(changes.decide(&address("newer")));
        assert!(!changes.can_undo(link(1), THEN));
    }

    #[test]
    fn more_changes_than_can_be_remembered_are_refused_until_the_earliest_ends() {
        let mut changes = EmailChanges::default();
        let add = |changes: &mut EmailChanges, n: u128, at: UnixTime| {
            changes.add(EmailChange { link: link(n), from: address("a"), to: address("b"), at }, at)
        };
        for n in 0..MAX_UNDOABLE {
            add(&mut changes, n as u128, UnixTime(THEN.0 + n as u64)).unwrap();
        }
        let end = THEN.plus(UNDO_LIFE);
        let refused = add(&mut changes, 99, end.minus(Duration::from_secs(1)));
        assert_eq!(refused, Err(TooManyChanges { until: end }));
        assert!(changes.can_undo(link(0), THEN), "none made room");
        add(&mut changes, 99, end).unwrap();
        assert_eq!(changes.undoable.len(), MAX_UNDOABLE);
    }

    #[test]
    fn an_account_of_an_earlier_version_has_none_of_it() {
        let read: EmailChanges = serde_json::from_str("{}").unwrap();
        assert_eq!(read, EmailChanges::default());
        let mut changes = after(&["ann", "thief"]);
        changes.undo(link(1), Some(&address("thief")), false, THEN).unwrap();
        let text = serde_json::to_string(&changes).unwrap();
        assert_eq!(serde_json::from_str::<EmailChanges>(&text).unwrap(), changes);
    }
}
