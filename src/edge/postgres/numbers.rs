//! Numbers as the database holds them.
//!
//! The domain counts in `u64`, PostgreSQL's `bigint` is an `i64`. Numbers above `i64::MAX` become it, and it reads back
//! as `u64::MAX`: "never" and "all of it" ([`palisade_core::domain::time::UnixTime::NEVER`], a limit that ends every
//! token) stay what they are, and the order of numbers stays. Nothing real lies between the two: the one is a moment in
//! 292 thousand million years.

use palisade_core::domain::time::UnixTime;

/// `number` for a `bigint`.
#[must_use]
pub fn to_bigint(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The number that a `bigint` stands for. A negative one, which this program never writes, reads as 0.
#[must_use]
pub fn from_bigint(number: i64) -> u64 {
    match number {
        i64::MAX => u64::MAX,
        number => u64::try_from(number).unwrap_or(0),
    }
}

/// The moment that a `bigint` stands for.
#[must_use]
pub fn moment(number: i64) -> UnixTime {
    UnixTime(from_bigint(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_keep_their_order() {
        for number in [0, 1, 1_800_000_000, i64::MAX as u64 - 1, u64::MAX] {
            assert_eq!(from_bigint(to_bigint(number)), number);
        }
        assert_eq!(from_bigint(to_bigint(i64::MAX as u64)), u64::MAX);
        assert_eq!(from_bigint(to_bigint(u64::MAX - 1)), u64::MAX);
        assert_eq!(from_bigint(-1), 0);
        let ordered = [0, 1, i64::MAX as u64 - 1, i64::MAX as u64, u64::MAX].map(to_bigint);
        assert!(ordered.is_sorted());
        assert_eq!(moment(i64::MAX), UnixTime::NEVER);
    }
}
