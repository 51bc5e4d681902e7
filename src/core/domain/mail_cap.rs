//! The rate limit of a mailbox: how many letters it gets that its owner may not have asked for.
//!
//! A requester can have a link mailed to any address, from as many networks as they have, and so flood the mailbox
//! (mail bombing). So the letters to one mailbox are limited for each hour and each day, over all requesters
//! ([`Caps`]). The answers do not show it (enumeration). Security notices are not among these letters: they follow a
//! sign-in or an act of an operator, and exhausting the cap must not silence them.
//!
//! The cap must lock no owner out, so these pass, and are counted:
//! - what is asked for from a block that has signed in to the account;
//! - a letter that carries the account's only live link, if the address is verified or is the mailbox's plain one: a
//!   link lives an hour (a reset) or a day (a verification), so that is one reset letter an hour. Of an address with
//!   a tag there can be any number for one mailbox, each with an unverified account; those have a smaller allowance
//!   of their own;
//! - the only live link of a wish for this address by an account that has another one, as far as there are few: how
//!   many accounts wish is up to strangers.
//!
//! So the cap holds back only repeats, beside a link that was mailed and still works.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::email::EmailAddress;
use super::opaque::ServerKey;
use super::time::UnixTime;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// First links to tagged addresses of one mailbox that pass the cap in a day.
const TAGGED_FIRSTS: usize = 5;
/// First links of wishes of other accounts that pass the cap in an hour, and in a day.
const WISHES_AN_HOUR: usize = 3;
const WISHES_A_DAY: usize = 6;
/// Letters of one mailbox that are remembered; more than all caps together let through in a day.
const REMEMBERED: usize = 128;

/// How many letters go to one mailbox that a requester without a session can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// False: all of them.
    pub enabled: bool,
    /// In any 60 minutes.
    pub an_hour: usize,
    /// In any 24 hours.
    pub a_day: usize,
}

/// What a letter is, as far as the cap asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LetterRequest {
    /// A link that verifies the address of an account.
    Verify,
    /// A link that sets its password.
    Reset,
    /// A link that makes the address that of an account which has another one.
    Wish,
    /// A notice that the address has an account already. It has no link.
    #[serde(rename = "told")]
    Notice,
}

/// A letter that a requester asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CappedLetter {
    pub asked: LetterRequest,
    /// Whether it carries a link while the account has no other live one for the same purpose.
    pub only_link: bool,
    /// Whether the address is the account's and verified.
    pub verified: bool,
    /// Whether the request came from a block that has signed in to the account of this address.
    pub known: bool,
}

/// The letters that went to one mailbox within a day, as they are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mailbox {
    pub id: MailboxId,
    /// The oldest first.
    letters: Vec<Counted>,
    /// Counts the writes of this record; the store refuses one that was made from an older state.
    pub revision: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Counted {
    at: UnixTime,
    asked: LetterRequest,
    /// To an address with a tag.
    tagged: bool,
}

/// Identifies a mailbox by a MAC of its address, so that the record does not reveal the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MailboxId(pub [u8; 16]);

impl ServerKey {
    /// The mailbox that `email` leads to, as far as an address shows it.
    #[must_use]
    pub fn mailbox(&self, email: &EmailAddress) -> MailboxId {
        let mac = self.mac_by_oldest("mailbox", &[plain(email).as_bytes()]);
        let mut id = [0; 16];
        id.copy_from_slice(&mac[..16]);
        MailboxId(id)
    }
}

/// The plain address of the mailbox that `email` leads to: without a tag behind `+` (RFC 5233), and, where the
/// provider is known to ignore them, without dots. Two mailboxes that have the same one share a cap and nothing else.
fn plain(email: &EmailAddress) -> String {
    let (local, domain) = (email.local(), email.domain());
    let untagged = local.split_once('+').map_or(local, |(local, _)| local);
    // `+tag@` alone is a name like any other.
    let untagged = if untagged.is_empty() { local } else { untagged };
    match domain {
        "gmail.com" | "googlemail.com" => format!("{}@gmail.com", untagged.replace('.', "")),
        _ => format!("{untagged}@{domain}"),
    }
}

impl Mailbox {
    /// A mailbox that got nothing yet.
    #[must_use]
    pub fn new(id: MailboxId) -> Mailbox {
        Mailbox { id, letters: Vec::new(), revision: 0 }
    }

    /// When nothing in it counts any more.
    #[must_use]
    pub fn ends_at(&self) -> UnixTime {
        self.letters.iter().map(|letter| letter.at).max().unwrap_or_default().plus(DAY)
    }

    /// Whether `letter` to `email` may go out at `now`. Then it is counted.
    #[must_use]
    pub fn admits(&mut self, caps: Caps, letter: CappedLetter, email: &EmailAddress, now: UnixTime) -> bool {
        // After the clock was set back by more than an hour, letters that lie in the future do not count.
        let counts = |at: UnixTime| now.until(at) <= HOUR && at.until(now) < DAY;
        self.letters.retain(|counted| counts(counted.at));
        let tagged = plain(email) != email.as_str();
        let passes =
            !caps.enabled || self.has_room(caps, now) || letter.known || self.passes(letter, tagged, now);
        if passes {
            self.letters.push(Counted { at: now, asked: letter.asked, tagged });
            let excess = self.letters.len().saturating_sub(REMEMBERED);
            self.letters.drain(..excess);
        }
        passes
    }

    fn within(&self, span: Duration, now: UnixTime) -> impl Iterator<Item = &Counted> {
        self.letters.iter().filter(move |letter| letter.at.until(now) < span)
    }

    fn has_room(&self, caps: Caps, now: UnixTime) -> bool {
        self.within(HOUR, now).count() < caps.an_hour && self.within(DAY, now).count() < caps.a_day
    }

    /// Whether a letter passes a cap that is exhausted.
    fn passes(&self, letter: CappedLetter, tagged: bool, now: UnixTime) -> bool {
        let wishes =
            |span| self.within(span, now).filter(|letter| letter.asked == LetterRequest::Wish).count();
        let is_link =
            |counted: &&Counted| matches!(counted.asked, LetterRequest::Verify | LetterRequest::Reset);
        match letter.asked {
            LetterRequest::Notice => false,
            LetterRequest::Wish => {
                letter.only_link && wishes(HOUR) < WISHES_AN_HOUR && wishes(DAY) < WISHES_A_DAY
            }
            LetterRequest::Verify | LetterRequest::Reset if letter.verified || !tagged => letter.only_link,
            LetterRequest::Verify | LetterRequest::Reset => {
                let firsts = self.within(DAY, now).filter(is_link).filter(|counted| counted.tagged).count();
                letter.only_link && firsts < TAGGED_FIRSTS
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    const CAPS: Caps = Caps { enabled: true, an_hour: 5, a_day: 15 };
    const NOW: UnixTime = UnixTime(1_800_000_000);
    const MINUTE: u64 = 60;

    fn ann() -> EmailAddress {
        "ann@example.com".parse().unwrap()
    }

    fn mailbox() -> Mailbox {
        Mailbox::new(MailboxId([1; 16]))
    }

    fn repeat(asked: LetterRequest) -> CappedLetter {
        CappedLetter { asked, only_link: false, verified: true, known: false }
    }

    fn first(asked: LetterRequest) -> CappedLetter {
        CappedLetter { only_link: true, ..repeat(asked) }
    }

    fn at(minutes: u64) -> UnixTime {
        UnixTime(NOW.0 + minutes * MINUTE)
    }

    /// How many of so many letters pass at one moment.
    fn passed(mailbox: &mut Mailbox, letter: CappedLetter, times: usize, now: UnixTime) -> usize {
        (0..times).filter(|_| mailbox.admits(CAPS, letter, &ann(), now)).count()
    }

    #[test]
    fn repeats_are_capped_by_hour_and_by_day_over_all_kinds() {
        let mut mailbox = mailbox();
        let mut all = 0;
        for hour in 0..24 {
            let kinds =
                [LetterRequest::Verify, LetterRequest::Reset, LetterRequest::Notice, LetterRequest::Wish];
            let of_hour: usize =
                kinds.into_iter().map(|asked| passed(&mut mailbox, repeat(asked), 100, at(hour * 60))).sum();
            assert!(of_hour <= 5, "{hour}: {of_hour}");
            all += of_hour;
        }
        assert_eq!(all, 15);
        assert_eq!(passed(&mut mailbox, repeat(LetterRequest::Notice), 9, at(24 * 60)), 5, "a day later");
    }

    #[test]
    fn the_hour_is_any_hour() {
        let mut mailbox = mailbox();
        assert_eq!(passed(&mut mailbox, repeat(LetterRequest::Reset), 3, at(0)), 3);
        assert_eq!(passed(&mut mailbox, repeat(LetterRequest::Reset), 9, at(30)), 2);
        assert_eq!(passed(&mut mailbox, repeat(LetterRequest::Reset), 9, at(59)), 0);
        assert_eq!(passed(&mut mailbox, repeat(LetterRequest::Reset), 9, at(60)), 3);
        assert_eq!(passed(&mut mailbox, repeat(LetterRequest::Reset), 9, at(90)), 2);
    }

    #[test]
    fn the_only_live_link_is_never_held_back() {
        let mut mailbox = mailbox();
        for asked in [LetterRequest::Reset, LetterRequest::Verify] {
            passed(&mut mailbox, repeat(LetterRequest::Notice), 100, NOW);
            assert_eq!(passed(&mut mailbox, repeat(asked), 1, NOW), 0);
            assert_eq!(passed(&mut mailbox, first(asked), 1, NOW), 1, "{asked:?}");
        }
        // Each hour, all day long, while strangers ask without a pause.
        for hour in 1..48 {
            passed(&mut mailbox, repeat(LetterRequest::Reset), 100, at(hour * 60));
            assert_eq!(passed(&mut mailbox, first(LetterRequest::Reset), 1, at(hour * 60)), 1, "{hour}");
            let within: usize = mailbox.within(DAY, at(hour * 60)).count();
            assert!(within <= 15 + 24 + 2, "{within}");
        }
        assert!(!mailbox.admits(
            CAPS,
            CappedLetter { only_link: true, ..repeat(LetterRequest::Notice) },
            &ann(),
            at(48 * 60)
        ));
    }

    #[test]
    fn an_owner_where_they_have_signed_in_before_is_not_held_back() {
        let mut mailbox = mailbox();
        passed(&mut mailbox, repeat(LetterRequest::Notice), 100, NOW);
        for asked in [LetterRequest::Reset, LetterRequest::Verify, LetterRequest::Notice] {
            assert!(
                mailbox.admits(CAPS, CappedLetter { known: true, ..repeat(asked) }, &ann(), NOW),
                "{asked:?}"
            );
        }
    }

    /// Every tag is an unverified account of its own, with a first link of its own.
    #[test]
    fn tags_and_dots_are_no_way_around() {
        let key = ServerKey::new(Zeroizing::new([9; 32]));
        let mut mailbox = mailbox();
        let unverified = CappedLetter { verified: false, ..first(LetterRequest::Verify) };
        let tagged = |n: u32| -> EmailAddress { format!("ann+{n}@example.com").parse().unwrap() };
        assert_eq!((0..500).map(tagged).filter(|to| mailbox.admits(CAPS, unverified, to, NOW)).count(), 5);
        // The plain address is the owner's, and so is a tagged one that is verified.
        assert!(mailbox.admits(CAPS, unverified, &ann(), NOW));
        assert!(mailbox.admits(CAPS, first(LetterRequest::Reset), &tagged(3), NOW));
        for (one, other, same) in [
            ("ann@example.com", "ann+x@example.com", true),
            ("ann@example.com", "ann+x+y@example.com", true),
            ("ann@example.com", "an.n@example.com", false),
            ("ann.lee@gmail.com", "a.nnl.ee+x@googlemail.com", true),
            ("ann@example.com", "ann@example.org", false),
            ("+x@example.com", "+y@example.com", false),
        ] {
            let of = |text: &str| key.mailbox(&text.parse().unwrap());
            assert_eq!(of(one) == of(other), same, "{one} {other}");
        }
    }

    #[test]
    fn a_wish_comes_through_while_strangers_use_the_cap_up_and_wishes_are_few() {
        let mut mailbox = mailbox();
        passed(&mut mailbox, repeat(LetterRequest::Notice), 100, NOW);
        let wish = CappedLetter { verified: false, ..first(LetterRequest::Wish) };
        assert_eq!(passed(&mut mailbox, wish, 100, NOW), 3);
        assert_eq!(passed(&mut mailbox, wish, 100, at(60)), 5, "the cap has room again");
        passed(&mut mailbox, repeat(LetterRequest::Notice), 100, at(120));
        assert_eq!(passed(&mut mailbox, wish, 100, at(120)), 0, "of a day");
    }

    #[test]
    fn a_clock_that_is_set_back_or_was_ahead_holds_nothing_back_for_long() {
        let mut mailbox = mailbox();
        let year = 365 * 24 * 60;
        passed(&mut mailbox, repeat(LetterRequest::Notice), 100, at(year));
        assert_eq!(
            passed(&mut mailbox, repeat(LetterRequest::Notice), 9, NOW),
            5,
            "what lies a year ahead is not believed"
        );
        // A little ahead is, or a clock set back by a minute would be a way around.
        assert_eq!(passed(&mut mailbox, repeat(LetterRequest::Notice), 9, UnixTime(NOW.0 - 60)), 0);
    }

    #[test]
    fn what_is_kept_is_bounded_and_ends() {
        let mut mailbox = mailbox();
        let known = CappedLetter { known: true, ..repeat(LetterRequest::Reset) };
        assert_eq!(passed(&mut mailbox, known, 1000, NOW), 1000);
        assert_eq!(mailbox.letters.len(), REMEMBERED);
        assert_eq!(mailbox.ends_at(), NOW.plus(DAY));
        let off = Caps { enabled: false, ..CAPS };
        assert!(mailbox.admits(off, repeat(LetterRequest::Notice), &ann(), NOW));
    }
}
