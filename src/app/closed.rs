//! A start over a store that is closed for writing, because its records are moved, or were moved, to another one.

use super::options::Accept;
use crate::edge::store::Kept;

/// Whether a start may serve this store. Returns what the operator should know.
///
/// # Errors
/// It is the source of a migration; what to do.
pub(super) fn admit(kept: &Kept, accept: Accept) -> Result<Option<String>, String> {
    match &kept.closed_for {
        Some(what) if !accept.closed_source => Err(format!(
            "the store is closed for writing: {what}. If that is done, serve the other store: set store.url to it. To go on \
             with a migration that was broken off, run the same `palisade migrate` again; to give it up, and let this store \
             take writes again: `palisade migrate --give-up` with its URL. To serve it as it is, without any change, not even \
             a revocation: `palisade run --accept-closed-source`"
        )),
        Some(what) => Ok(Some(format!(
            "the store is closed for writing: {what}. It is served as it is, as accepted: what was valid passes, and every \
             change is answered with a 503, revocations among them"
        ))),
        None => Ok(None),
    }
}
