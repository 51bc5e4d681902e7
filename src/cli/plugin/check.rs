//! `palisade plugin check`: everything that is wrong with a component, each with its cure.

use std::fmt::Write as _;
use std::path::Path;

use super::{With, bench, block, meter, read, show};
use crate::cli::output::tell;
use crate::edge::wasm::{Interface, InterfaceFault, LARGE, examine as look, unlisted};
use palisade_core::ports::ProviderFault;

/// A component, as far as its bytes tell.
pub(super) struct Report {
    pub(super) interface: Interface,
}

/// Looks at `bytes` without running them.
pub(super) fn examine(bytes: &[u8]) -> Report {
    Report { interface: look(bytes) }
}

impl Report {
    /// What is wrong with `file`, if something is.
    pub(super) fn faults_text(&self, file: &Path) -> Option<String> {
        (!self.interface.faults.is_empty()).then(|| faulty(file, &self.interface.faults))
    }

    /// What it speaks.
    pub(super) fn summary(&self) -> String {
        format!("palisade:provider {}", self.interface.speaks.as_deref().unwrap_or("unknown"))
    }
}

/// Faults of `file`, each with its cure under it.
pub(super) fn faulty(file: &Path, faults: &[InterfaceFault]) -> String {
    let mut text = format!("{} cannot be loaded:", file.display());
    for fault in faults {
        // A text can always grow.
        let _ = write!(text, "\n  - {}\n    → {}", fault.what, fault.cure);
    }
    text
}

/// Checks `file`.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn run(config: &Path, file: &Path, with: &With) -> Result<String, String> {
    let bytes = read(file)?;
    let report = examine(&bytes);
    if let Some(faults) = report.faults_text(file) {
        return Err(faults);
    }
    let tried = with.read(config)?;
    let (size, sha256) = (bytes.len(), show::sha256(&bytes));
    let (described, compiled) = block(async {
        let bench = bench(file, bytes).await?;
        Ok((bench.describe(&tried.settings, tried.secrets(), tried.limits, meter()?).await, bench.took()))
    })?;
    let mut text = format!("{}: good, {}", file.display(), report.summary());
    let mut line = |name: &str, value: &str| {
        let _ = write!(text, "\n  {name:<10} {value}");
    };
    line("size", &show::size(size));
    line("loaded", &format!("in {:.1}s; what was compiled once is kept", compiled.as_secs_f32()));
    let mut faults: Vec<InterfaceFault> = Vec::new();
    match described {
        Ok(described) => {
            line("described", &format!("{} {}", described.display_name, described.version));
            line("calls", &described.hosts.join(", "));
            if let Some(provider) = &tried.provider {
                let unlisted = unlisted(&described.hosts, &provider.allowed_hosts);
                if !unlisted.is_empty() {
                    tell(format_args!(
                        "warning: it calls {}, which providers.allowed_hosts does not list: requests there will be \
                         denied unless you add them",
                        unlisted.join(", ")
                    ));
                }
            }
        }
        Err(ProviderFault::Misconfigured(why)) if !tried.given => {
            line("described", &format!("only with settings ({why}): give them with --settings or --provider"));
        }
        Err(ProviderFault::Misconfigured(why)) => faults.push(InterfaceFault {
            what: format!("`describe` refuses the settings: {why}"),
            cure: "correct [providers.settings]; `palisade plugin inspect` lists what the plugin knows".to_owned(),
        }),
        Err(fault @ ProviderFault::PluginFailed(_)) => faults.push(InterfaceFault {
            what: format!("`describe` breaks off: {fault}"),
            cure: "it must return a description, or `misconfigured` for settings that will not do; what it wrote \
                   to the log says more (`palisade plugin call`)"
                .to_owned(),
        }),
        Err(fault) => faults.push(InterfaceFault {
            what: format!("`describe` fails: {fault}"),
            cure: "it must not depend on the network: return a description, or `misconfigured`".to_owned(),
        }),
    }
    if let Some(pin) = tried.provider.as_ref().and_then(|provider| provider.sha256) {
        let pin = hex::encode(pin);
        if pin != sha256 {
            faults.push(InterfaceFault {
                what: format!("providers.sha256 pins {pin}, and this file's is {sha256}"),
                cure: "if this is the component you want, put its sum there".to_owned(),
            });
        }
    }
    if !faults.is_empty() {
        return Err(faulty(file, &faults));
    }
    line("pin", &format!("sha256 = \"{sha256}\""));
    if size > LARGE {
        tell(format_args!(
            "warning: {} is large: every change of it is compiled for seconds; is there debug information in it?",
            show::size(size)
        ));
    }
    Ok(text)
}
