//! Moments and spans in words, for letters.

use std::time::{Duration, UNIX_EPOCH};

use palisade_core::domain::time::UnixTime;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// 9999-12-31T23:59:59Z: what comes later cannot be written as a date.
const LAST: u64 = 253_402_300_799;

/// A moment as the operating system counts it, no later than the year 9999.
pub(super) fn system_time(at: UnixTime) -> std::time::SystemTime {
    UNIX_EPOCH + Duration::from_secs(at.0.min(LAST))
}

/// `26 November 2026, 16:41 UTC`.
pub(super) fn moment(at: UnixTime) -> String {
    let text = humantime::format_rfc3339_seconds(system_time(at)).to_string();
    // 2026-11-26T16:41:00Z
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    let month = part(5, 7).parse::<usize>().ok().and_then(|month| MONTHS.get(month.wrapping_sub(1)));
    let day = part(8, 10).trim_start_matches('0');
    format!("{day} {} {}, {} UTC", month.unwrap_or(&""), part(0, 4), part(11, 16))
}

/// `24 hours`, `90 minutes`: the largest unit that is exact, or minutes; from two hours on whole hours, rounded
/// down, as a link that is mailed again has an odd time left.
pub(super) fn span(span: Duration) -> String {
    let minutes = span.as_secs() / 60;
    let (count, unit) = match minutes {
        0 => (span.as_secs(), "second"),
        _ if minutes.is_multiple_of(60) || minutes > 120 => (minutes / 60, "hour"),
        _ => (minutes, "minute"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_by_people() {
        assert_eq!(moment(UnixTime(0)), "1 January 1970, 00:00 UTC");
        assert_eq!(moment(UnixTime(1_709_251_199)), "29 February 2024, 23:59 UTC");
        assert_eq!(moment(UnixTime::NEVER), "31 December 9999, 23:59 UTC");
    }

    #[test]
    fn spans_are_read_by_people() {
        for (seconds, words) in [
            (86_400, "24 hours"),
            (3600, "1 hour"),
            (5400, "90 minutes"),
            (60, "1 minute"),
            (59, "59 seconds"),
            (7200 + 59, "2 hours"),
            (86_400 - 60, "23 hours"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), words);
        }
    }
}
