//! Optimistic concurrency control: read, decide, commit on the condition that nothing which was read has changed
//! meanwhile, and decide again after a conflict.

use crate::ports::{Change, CommitError};

/// How often a decision is made before the caller is told that it conflicts. Only many requests for one and the same
/// account at once come near it.
pub(super) const MAX_ATTEMPTS: usize = 64;

/// What was decided from one reading of the store.
pub(super) enum Decision<T> {
    /// These changes, in one commit. `T` counts once they are durable.
    Commit(Vec<Change>, T),
    /// Nothing is to be changed.
    Unchanged(T),
}

/// Decides and commits until the commit meets no conflict. `decide` runs again for each attempt: it reads what it
/// decides from, and has no effect of its own. What is to be noted or woken by the outcome comes after this has
/// returned.
///
/// An address that another account has taken meanwhile ([`CommitError::EmailTaken`]) is a conflict like any other: the
/// next decision sees that account.
///
/// # Errors
/// Whatever `decide` fails with; [`CommitError::Conflict`] when the last of [`MAX_ATTEMPTS`] attempts conflicts; or
/// [`CommitError::UsernameTaken`], [`CommitError::IdentityTaken`] and [`CommitError::Store`] at once.
pub(super) async fn retry_on_conflict<T, E, Committed, Decided, Deciding>(
    commit: impl Fn(Vec<Change>) -> Committed,
    mut decide: impl FnMut() -> Deciding,
) -> Result<T, E>
where
    E: From<CommitError>,
    Committed: Future<Output = Result<Decided, CommitError>>,
    Deciding: Future<Output = Result<Decision<T>, E>>,
{
    for _ in 0..MAX_ATTEMPTS {
        let (changes, outcome) = match decide().await? {
            Decision::Commit(changes, outcome) => (changes, outcome),
            Decision::Unchanged(outcome) => return Ok(outcome),
        };
        match commit(changes).await {
            Ok(_) => return Ok(outcome),
            Err(CommitError::Conflict | CommitError::EmailTaken) => {}
            // No other decision gives the account the name that was asked for.
            Err(
                error @ (CommitError::UsernameTaken | CommitError::IdentityTaken | CommitError::Store(_)),
            ) => {
                return Err(error.into());
            }
        }
    }
    Err(CommitError::Conflict.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::StoreError;
    use std::cell::Cell;

    /// Commits with these outcomes in turn, the last of them for ever. Returns how often it was decided.
    async fn run(outcomes: &[fn() -> Result<(), CommitError>]) -> (Result<usize, CommitError>, usize) {
        let decided = Cell::new(0);
        let commit = |_| {
            let outcome = outcomes[(decided.get() - 1).min(outcomes.len() - 1)]();
            async { outcome }
        };
        let decide = || {
            decided.set(decided.get() + 1);
            let attempt = decided.get();
            async move { Ok(Decision::Commit(Vec::new(), attempt)) }
        };
        let outcome = retry_on_conflict(commit, decide).await;
        (outcome, decided.get())
    }

    #[tokio::test]
    async fn a_conflict_is_decided_again_and_a_failing_store_is_not() {
        let (outcome, decided) =
            run(&[|| Err(CommitError::Conflict), || Err(CommitError::EmailTaken), || Ok(())]).await;
        assert_eq!(
            (outcome.unwrap(), decided),
            (3, 3),
            "the outcome is that of the attempt that was committed"
        );
        let failing = || Err(CommitError::Store(StoreError::Unavailable("full".into())));
        let (outcome, decided) = run(&[failing]).await;
        assert!(matches!(outcome, Err(CommitError::Store(_))) && decided == 1);
    }

    #[tokio::test]
    async fn it_ends_with_a_conflict_after_the_last_attempt() {
        let (outcome, decided) = run(&[|| Err(CommitError::EmailTaken)]).await;
        assert!(matches!(outcome, Err(CommitError::Conflict)));
        assert_eq!(decided, MAX_ATTEMPTS);
    }

    #[tokio::test]
    async fn what_is_unchanged_is_not_committed() {
        let commit = |_| async { Err::<(), _>(CommitError::Conflict) };
        let outcome =
            retry_on_conflict::<_, CommitError, _, _, _>(commit, || async { Ok(Decision::Unchanged(7)) });
        assert_eq!(outcome.await.unwrap(), 7);
    }
}
