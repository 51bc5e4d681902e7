//! `palisade check`: is the configuration right?

use std::path::Path;
use std::process::ExitCode;

/// Checks the configuration.
pub(super) fn run(_config: &Path) -> ExitCode {
    ExitCode::FAILURE
}
