//! What a start moves from the layout of an earlier version to the present one.

use super::draft::Draft;
use super::keys::{self, Table};
use super::record::{decode, is_newer};
use super::trees::Trees;
use palisade_core::domain::task::Task;
use palisade_core::ports::StoreError;

/// Moves everything, or nothing when the process dies meanwhile. Writes nothing to a store of the present layout.
pub(super) fn upgrade(trees: &Trees) -> Result<(), StoreError> {
    let mut draft = Draft::new(trees);
    draft.step(|draft| {
        for entry in trees.under(&keys::all(Table::FormerTask)) {
            let (key, bytes) = entry?;
            if !is_newer(&key, &bytes) {
                let task: Task = decode(&key, &bytes)?;
                draft.evict(key.to_vec());
                draft.create_task(&task)?;
            }
        }
        Ok::<_, StoreError>(())
    })?;
    match draft.finish() {
        Some((writes, steps)) => trees.apply(writes, steps).and_then(|()| trees.sync()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::store::opening::{self, Doubts};
    use crate::edge::store::read::due_tasks;
    use crate::edge::store::record::encode;
    use crate::edge::store::trees::Writes;
    use crate::edge::store::verify::verify;
    use palisade_core::domain::task::TaskKind;
    use palisade_core::domain::time::UnixTime;
    use palisade_testing::conformance::task;

    /// As version 0.1.0 filed it.
    fn former(task: &Task) -> Vec<u8> {
        [&[Table::FormerTask as u8][..], &task.due_at.0.to_be_bytes(), task.id.as_bytes()].concat()
    }

    #[test]
    fn tasks_of_an_earlier_version_are_still_to_be_done() {
        let dir = tempfile::tempdir().unwrap();
        let tasks = [task(1, 9), task(2, 5)];
        let trees = opening::open(dir.path(), Doubts::Refuse).unwrap();
        let written =
            tasks.iter().map(|task| (former(task), Some(encode(Table::FormerTask, task).unwrap().into())));
        trees.apply(written.collect::<Writes>(), 1).unwrap();
        trees.sync().unwrap();
        drop(trees);
        for _ in 0..2 {
            let trees = opening::open(dir.path(), Doubts::Refuse).unwrap();
            let due = due_tasks(&trees, TaskKind::Account, UnixTime::NEVER, 9).unwrap();
            assert_eq!(due, [task(2, 5), task(1, 9)]);
            assert_eq!(trees.under(&keys::all(Table::FormerTask)).count(), 0);
            assert_eq!(trees.sequence(), 2, "moved once");
            verify(&trees).unwrap();
        }
    }
}
