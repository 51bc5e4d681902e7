//! The operating system's generator. The only place that asks it for tokens and ids.

use palisade_core::ports::Entropy;

/// Randomness of the operating system.
#[derive(Debug, Clone, Copy)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        #[allow(
            clippy::expect_used,
            reason = "a system without randomness has none to go on with: a token made without it could be guessed"
        )]
        getrandom::fill(bytes).expect("the operating system gives randomness");
    }

    fn uuid(&self) -> uuid::Uuid {
        uuid::Uuid::now_v7()
    }
}
