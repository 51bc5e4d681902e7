//! `palisade run`: the gateway.

use std::path::Path;
use std::process::ExitCode;

/// Runs the gateway.
pub(super) fn run(_config: &Path, _demo: bool) -> ExitCode {
    ExitCode::FAILURE
}
