//! Randomness: the gateway's own, which a component is given by WASI.

/// So many unpredictable bytes, different ones each time. The gateway gives 64 KiB in one piece at most.
///
/// Outside of a component, where tests run, they are different each time and no more.
#[must_use]
pub fn bytes(count: usize) -> Vec<u8> {
    system::bytes(count)
}

/// A plugin that never asks for randomness imports none.
#[cfg(target_arch = "wasm32")]
mod system {
    #![allow(unsafe_code, missing_docs, clippy::all, reason = "generated")]

    wit_bindgen::generate!({
        inline: "
            package palisade:randomness@0.1.0;

            world randomness {
                import wasi:random/random@0.2.0;
            }

            package wasi:random@0.2.0 {
                interface random {
                    get-random-bytes: func(len: u64) -> list<u8>;
                }
            }
        ",
        world: "palisade:randomness/randomness",
        generate_all,
    });

    pub fn bytes(count: usize) -> Vec<u8> {
        wasi::random::random::get_random_bytes(count as u64)
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod system {
    use std::collections::hash_map::RandomState;
    use std::hash::{BuildHasher, Hasher};

    pub fn bytes(count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend(RandomState::new().build_hasher().finish().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_differ_and_are_as_many_as_asked_for() {
        assert_ne!(bytes(16), bytes(16));
        assert_eq!((bytes(0).len(), bytes(13).len()), (0, 13));
    }
}
