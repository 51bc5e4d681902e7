//! When a connection is due, and what for: refreshing its tokens ahead of their end, retrying after a failure
//! (backoff), warning of the end of a grant, removing a consent that its user did not give in time.

use std::time::Duration;

use super::connection::{CONSENT_LIFE, Connection, FaultKind, Status};
use super::time::UnixTime;

/// An open attempt is due so long after it began. The refresh that opened it has normally finished by then; if the
/// process was killed, the attempt is still open.
const ATTEMPT_LOOK: Duration = Duration::from_secs(15);
/// Tokens that have just come are not replaced ahead of their end, however short their life.
const REST: Duration = Duration::from_secs(10);
/// Up to this part of the time ahead comes on top by chance, so that what was connected together is not
/// refreshed together.
const SPREAD: u32 = 4;
/// Waits after failures that may pass, in seconds after the first, second, … in a row.
const WAITS: [u64; 9] = [2, 5, 15, 30, 60, 180, 600, 1800, 3600];
/// Waits after failures that only an operator can mend.
const RARE_WAITS: [u64; 3] = [300, 900, 3600];
/// The longest that a provider's `Retry-After` is heeded.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// The longest that [`backoff`] comes to: [`LONGEST_WAIT`] and its spread.
const LONGEST_BACKOFF: Duration = Duration::from_secs(3600 + 3600 / SPREAD as u64);

/// What is done for a connection without being asked.
#[derive(Debug, Clone, Copy)]
pub struct Upkeep {
    /// Whether its tokens are replaced ahead of their end.
    pub keep_fresh: bool,
    /// Whether its provider's tokens can be replaced at all.
    pub can_refresh: bool,
    pub refresh_ahead: Duration,
    pub warn_ahead: Duration,
}

impl Connection {
    /// How long before its end the access token is replaced: as configured, and never more than half of its
    /// life.
    #[must_use]
    pub fn ahead(&self, configured: Duration) -> Duration {
        let life = self.refreshed_at.zip(self.expires_at).map(|(from, end)| from.until(end));
        life.map_or(configured, |life| configured.min(life / 2))
    }

    /// Sets when the worker looks at it next. `chance` is any number.
    pub fn schedule(&mut self, now: UnixTime, upkeep: Upkeep, chance: u16) {
        let active = self.status == Status::Active;
        let consent = match &self.consent {
            Some(consent) => Some(consent.expires_at),
            // It is being exchanged, or came to nothing.
            None if self.status == Status::Pending => Some(now.plus(CONSENT_LIFE)),
            None => None,
        };
        let attempt = self.attempt.as_ref().map(|attempt| attempt.started_at.plus(ATTEMPT_LOOK));
        let refresh = match self.retry_at.filter(|at| *at <= now.plus(LONGEST_BACKOFF)) {
            Some(at) if attempt.is_some() || upkeep.keep_fresh => Some(at),
            _ if attempt.is_some() => attempt,
            _ if !upkeep.keep_fresh => None,
            _ if self.is_refreshable(upkeep) => self.refresh_at(upkeep.refresh_ahead, chance),
            // Its user is told once the tokens have ended.
            _ => self.expires_at,
        };
        // No warning is sent of an end that has passed.
        let warn = self.warn_at(upkeep.warn_ahead).filter(|_| self.refresh_expires_at > Some(now));
        self.due_at =
            [consent, refresh.filter(|_| active), warn.filter(|_| active)].into_iter().flatten().min();
    }

    /// Whether its tokens can be replaced, as far as is known.
    fn is_refreshable(&self, upkeep: Upkeep) -> bool {
        upkeep.can_refresh && !self.not_refreshable
    }

    fn refresh_at(&self, configured: Duration, chance: u16) -> Option<UnixTime> {
        let ahead = self.ahead(configured);
        let extra = (ahead / SPREAD).mul_f64(f64::from(chance) / f64::from(u16::MAX));
        let rested = self.refreshed_at.map_or(UnixTime(0), |at| at.plus(REST));
        self.expires_at.map(|end| end.minus(ahead + extra).max(rested))
    }

    fn warn_at(&self, configured: Duration) -> Option<UnixTime> {
        let end = self.refresh_expires_at.filter(|end| self.warned_of != Some(*end))?;
        let life = self.connected_at.map_or(configured, |from| from.until(end));
        Some(end.minus(configured.min(life / 2)))
    }

    /// Until when the provider is not asked again after a failure (backoff). A longer wait than the longest step
    /// means that the clock was set back, and counts as the longest.
    #[must_use]
    pub fn waits_until(&self, now: UnixTime) -> Option<UnixTime> {
        self.retry_at.filter(|at| now < *at && *at <= now.plus(LONGEST_BACKOFF))
    }

    /// Ends the wait after a failure that only an operator can mend. Returns whether there was one.
    pub fn end_wait_for_operator(&mut self, now: UnixTime) -> bool {
        let is_theirs = self.last_fault.as_ref().is_some_and(|fault| fault.kind == FaultKind::Misconfigured);
        let held = is_theirs && self.waits_until(now).is_some();
        if held {
            self.retry_at = None;
        }
        held
    }

    /// Whether the worker, who looks at it now, is to refresh it.
    #[must_use]
    pub fn is_to_refresh(&self, now: UnixTime, upkeep: Upkeep) -> bool {
        if self.status != Status::Active || self.waits_until(now).is_some() {
            return false;
        }
        let ahead = self.ahead(upkeep.refresh_ahead);
        let margin = if self.is_refreshable(upkeep) { ahead + ahead / SPREAD } else { Duration::ZERO };
        self.attempt.is_some() || upkeep.keep_fresh && !self.is_fresh(now, margin)
    }

    /// The end of the grant that its user is to be warned of now.
    #[must_use]
    pub fn is_to_warn(&self, now: UnixTime, upkeep: Upkeep) -> Option<UnixTime> {
        let is_time = self.warn_at(upkeep.warn_ahead).is_some_and(|at| at <= now);
        self.refresh_expires_at.filter(|end| self.status == Status::Active && is_time && now < *end)
    }

    /// Whether its consent was not given in time.
    #[must_use]
    pub fn has_lapsed(&self, now: UnixTime) -> bool {
        match &self.consent {
            Some(consent) => consent.expires_at <= now,
            None => self.status == Status::Pending && self.due_at.is_some_and(|at| at <= now),
        }
    }
}

/// How long the provider is not asked after the `failures`-th failure in a row (exponential backoff).
#[must_use]
pub fn backoff(kind: FaultKind, failures: u32, retry_after: Option<Duration>, chance: u16) -> Duration {
    let waits: &[u64] = if kind == FaultKind::Misconfigured { &RARE_WAITS } else { &WAITS };
    let wait = Duration::from_secs(waits[(failures as usize).clamp(1, waits.len()) - 1]);
    let wait = retry_after.map_or(wait, |asked| wait.max(asked.min(LONGEST_WAIT)));
    wait + (wait / SPREAD).mul_f64(f64::from(chance) / f64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::UserId;
    use crate::domain::connection::{ConnectionId, Consent, Grant, RefreshAttempt, SealedTokens};
    use crate::domain::opaque::TokenHash;
    use uuid::Uuid;

    const NOW: UnixTime = UnixTime(1_800_000_000);
    const UPKEEP: Upkeep = Upkeep {
        keep_fresh: true,
        can_refresh: true,
        refresh_ahead: Duration::from_secs(300),
        warn_ahead: Duration::from_secs(48 * HOUR),
    };
    const HOUR: u64 = 3600;

    fn after(seconds: u64) -> UnixTime {
        UnixTime(NOW.0 + seconds)
    }

    fn grant(expires: Option<u64>, refresh_expires: Option<u64>) -> Grant {
        Grant {
            tokens: SealedTokens {
                access_token: "a".into(),
                refresh_token: None,
                id_token: None,
                kept: None,
                token_type: None,
                parameters: None,
            },
            scopes: Vec::new(),
            expires_at: expires.map(after),
            refresh_expires_at: refresh_expires.map(after),
            notes: Vec::new(),
        }
    }

    fn connection(expires: Option<u64>, refresh_expires: Option<u64>) -> Connection {
        let (id, user) = (ConnectionId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        let mut connection = Connection::pending(id, user, "acme".into(), NOW);
        connection.establish(grant(expires, refresh_expires), NOW);
        connection
    }

    fn due(connection: &mut Connection, now: UnixTime, upkeep: Upkeep, chance: u16) -> Option<u64> {
        connection.schedule(now, upkeep, chance);
        connection.due_at.map(|at| at.0 - NOW.0)
    }

    #[test]
    fn tokens_are_replaced_ahead_of_their_end_and_not_all_at_once() {
        let mut hour = connection(Some(HOUR), None);
        assert_eq!(due(&mut hour, NOW, UPKEEP, 0), Some(3300));
        assert_eq!(due(&mut hour, NOW, UPKEEP, u16::MAX), Some(3225));
        for at in [3225, 3300, 9999] {
            assert!(hour.is_to_refresh(after(at), UPKEEP), "{at}");
        }
        assert!(!hour.is_to_refresh(after(3224), UPKEEP));
        // A short life: half of it, and never in a circle.
        assert_eq!(due(&mut connection(Some(100), None), NOW, UPKEEP, 0), Some(50));
        for life in [0, 1, 10] {
            assert_eq!(due(&mut connection(Some(life), None), NOW, UPKEEP, 7), Some(10), "{life}");
        }
        let off = Upkeep { keep_fresh: false, ..UPKEEP };
        assert_eq!(due(&mut hour, NOW, off, 0), None);
        assert!(!hour.is_to_refresh(after(9999), off));
        let mut endless = connection(None, None);
        assert_eq!(due(&mut endless, NOW, UPKEEP, 0), None);
        assert!(endless.is_fresh(UnixTime::NEVER, Duration::ZERO));
    }

    #[test]
    fn whatever_is_due_has_something_to_do_then() {
        for (life, chance) in [(7, 0), (60, 99), (333, 12_345), (3600, 65_535), (86_400, 40_000)] {
            let mut connection = connection(Some(life), None);
            let at = due(&mut connection, NOW, UPKEEP, chance).unwrap();
            assert!(connection.is_to_refresh(after(at), UPKEEP), "{life} {chance}");
        }
    }

    #[test]
    fn an_open_attempt_is_looked_at_whether_or_not_tokens_are_kept_fresh() {
        let off = Upkeep { keep_fresh: false, ..UPKEEP };
        let mut connection = connection(Some(HOUR), None);
        connection.attempt = Some(RefreshAttempt { started_at: after(100), run: Uuid::nil() });
        assert_eq!(due(&mut connection, after(100), off, 0), Some(115));
        assert!(connection.is_to_refresh(after(115), off));
        connection.retry_at = Some(after(500));
        assert_eq!(due(&mut connection, after(115), off, 0), Some(500));
        assert!(!connection.is_to_refresh(after(499), off));
        assert!(connection.is_to_refresh(after(500), off));
    }

    #[test]
    fn what_cannot_be_refreshed_is_left_alone_until_it_ends() {
        let provider = Upkeep { can_refresh: false, ..UPKEEP };
        let mut alone = connection(Some(HOUR), None);
        alone.leave_alone();
        for (mut connection, upkeep) in [(connection(Some(HOUR), None), provider), (alone, UPKEEP)] {
            assert_eq!(due(&mut connection, NOW, upkeep, 0), Some(HOUR));
            assert!(!connection.is_to_refresh(after(HOUR - 1), upkeep));
            assert!(connection.is_to_refresh(after(HOUR), upkeep), "its user is told");
        }
        let mut endless = connection(None, None);
        endless.leave_alone();
        assert_eq!(due(&mut endless, NOW, UPKEEP, 0), None);
        // New tokens may be of another kind.
        endless.renew(grant(Some(HOUR), None), NOW);
        assert_eq!(due(&mut endless, NOW, UPKEEP, 0), Some(3300));
    }

    #[test]
    fn the_end_of_a_grant_is_warned_of_once() {
        let week = 7 * 24 * HOUR;
        let mut connection = connection(None, Some(week));
        let warn = week - 48 * HOUR;
        assert_eq!(due(&mut connection, NOW, UPKEEP, 0), Some(warn));
        assert_eq!(connection.is_to_warn(after(warn - 1), UPKEEP), None);
        assert_eq!(connection.is_to_warn(after(warn), UPKEEP), Some(after(week)));
        assert_eq!(connection.is_to_warn(after(week), UPKEEP), None, "too late to be of use");
        connection.warned_of = connection.refresh_expires_at;
        assert_eq!(due(&mut connection, NOW, UPKEEP, 0), None);
        // The provider counts down, and is a second off: the same end.
        connection.renew(grant(None, Some(week + 1)), after(warn + 5));
        assert_eq!(connection.is_to_warn(after(warn + 5), UPKEEP), None);
        // Consent given again: another end.
        connection.establish(grant(None, Some(2 * week)), after(week));
        assert_eq!(connection.is_to_warn(after(2 * week - 1), UPKEEP), Some(after(2 * week)));
    }

    #[test]
    fn a_grant_that_moves_on_with_each_refresh_is_not_warned_of() {
        let day = 24 * HOUR;
        let mut connection = connection(Some(HOUR), Some(day));
        assert_eq!(connection.is_to_warn(NOW, UPKEEP), None, "half of its life is left");
        for hour in 1..100 {
            connection.renew(grant(Some((hour + 1) * HOUR), Some(day + hour * HOUR)), after(hour * HOUR));
            assert_eq!(connection.is_to_warn(after(hour * HOUR), UPKEEP), None);
        }
    }

    #[test]
    fn a_consent_lapses_and_what_never_was_connected_with_it() {
        let mut connection = Connection::pending(
            ConnectionId(Uuid::from_u128(1)),
            UserId(Uuid::from_u128(2)),
            "acme".into(),
            NOW,
        );
        connection.consent = Some(Consent {
            id: Uuid::nil(),
            browser: TokenHash::of(b"x"),
            session: None,
            begun: crate::domain::revocation::Versions::default(),
            return_to: None,
            scopes: Vec::new(),
            parameters: std::collections::BTreeMap::new(),
            secret_parameters: None,
            expires_at: after(600),
        });
        assert_eq!(due(&mut connection, NOW, UPKEEP, 0), Some(600));
        assert!(!connection.has_lapsed(after(599)));
        assert!(connection.has_lapsed(after(600)));
        connection.consent = None;
        assert_eq!(due(&mut connection, after(100), UPKEEP, 0), Some(700));
        assert!(!connection.has_lapsed(after(699)));
        assert!(connection.has_lapsed(after(700)));
    }

    #[test]
    fn waits_grow_and_heed_the_provider_within_bounds() {
        use FaultKind::{Misconfigured, Transient};
        let wait = |kind, failures, asked: Option<u64>, chance| {
            backoff(kind, failures, asked.map(Duration::from_secs), chance).as_secs()
        };
        let row: Vec<u64> = (0..12).map(|failures| wait(Transient, failures, None, 0)).collect();
        assert_eq!(row, [2, 2, 5, 15, 30, 60, 180, 600, 1800, 3600, 3600, 3600]);
        assert_eq!(wait(Transient, 1, Some(40), 0), 40);
        assert_eq!(wait(Transient, 1, Some(u64::MAX), 0), 3600);
        assert_eq!(wait(Transient, 9, Some(1), 0), 3600);
        assert_eq!(wait(Transient, 5, None, u16::MAX), 75);
        assert_eq!(wait(Misconfigured, 1, None, 0), 300);
    }
}
