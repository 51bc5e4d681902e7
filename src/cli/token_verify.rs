//! `palisade token verify`: the gateway's verdict on tokens, line by line.

use std::path::Path;
use std::process::ExitCode;

/// Verifies the tokens on standard input.
pub(super) fn run(_config: &Path, _jwks: &Path, _signature_only: bool) -> ExitCode {
    ExitCode::FAILURE
}
