//! What one call of a component may use, counted over all that is in it.

use wasmtime::ResourceLimiter;

/// Core instances, tables and memories in one component. The components of the JavaScript, Python and Go
/// toolchains have a few dozen; one of Rust's has three.
pub(super) const INSTANCES: u32 = 128;
pub(super) const TABLES: u32 = 32;
pub(super) const MEMORIES: u32 = 4;
/// Elements of all tables together: the functions that can be called through pointers.
pub(super) const TABLE_ELEMENTS: usize = 100_000;

/// Counts memory and tables of one store.
pub(super) struct CallLimiter {
    memory: usize,
    memory_limit: usize,
    elements: usize,
    /// Whether more memory than allowed was asked for.
    pub(super) memory_refused: bool,
    /// Whether larger tables than allowed were asked for.
    pub(super) tables_refused: bool,
}

impl CallLimiter {
    /// Bytes of linear memory in use.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// `memory` bytes of linear memory for the whole component.
    pub(super) fn new(memory: usize) -> CallLimiter {
        CallLimiter {
            memory: 0,
            memory_limit: memory,
            elements: 0,
            memory_refused: false,
            tables_refused: false,
        }
    }
}

impl ResourceLimiter for CallLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let wanted = self.memory.saturating_add(desired.saturating_sub(current));
        if wanted > self.memory_limit {
            self.memory_refused = true;
            return Ok(false);
        }
        self.memory = wanted;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let wanted = self.elements.saturating_add(desired.saturating_sub(current));
        if wanted > TABLE_ELEMENTS {
            self.tables_refused = true;
            return Ok(false);
        }
        self.elements = wanted;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES as usize
    }

    fn tables(&self) -> usize {
        TABLES as usize
    }

    fn memories(&self) -> usize {
        MEMORIES as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_are_counted_together() {
        let mut limiter = CallLimiter::new(100);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.memory_growing(0, 41, None).unwrap() && limiter.memory_refused);
        assert!(limiter.memory_growing(60, 100, None).unwrap());
        assert!(!limiter.memory_growing(100, usize::MAX, None).unwrap());
    }

    #[test]
    fn tables_are_counted_together() {
        let mut limiter = CallLimiter::new(0);
        assert!(limiter.table_growing(0, TABLE_ELEMENTS, None).unwrap() && !limiter.tables_refused);
        assert!(!limiter.table_growing(0, 1, None).unwrap() && limiter.tables_refused);
    }
}
