//! What the lists take in their query.

use super::super::failure::Failure;
use palisade_core::service::users::MAX_LISTED;

/// How many are listed when the call does not say.
const USUAL: usize = 100;

/// The `limit` of a list.
///
/// # Errors
/// It is zero or too large; `want` says what the query may hold.
pub(super) fn limited(limit: Option<usize>, want: &str) -> Result<usize, Failure> {
    let limit = limit.unwrap_or(USUAL);
    if limit == 0 || limit > MAX_LISTED {
        return Err(bad_query(want));
    }
    Ok(limit)
}

/// A parameter is unknown, or cannot be what it is; `want` says what the query may hold.
pub(super) fn bad_query(want: &str) -> Failure {
    Failure::new(400, "invalid_request", want)
}
