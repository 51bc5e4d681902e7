//! `palisade plugin inspect`: what a component is and says about itself.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use super::{With, bench, block, check, meter, read, show};
use crate::edge::wasm::bench::{Described, Item};
use palisade_core::ports::ProviderFault;

/// Shows `file`, as text or as JSON. A component that cannot be loaded is shown as far as that goes.
///
/// # Errors
/// The file cannot be read, or is no component.
pub(super) fn run(config: &Path, file: &Path, with: &With, as_json: bool) -> Result<String, String> {
    let bytes = read(file)?;
    let report = check::examine(&bytes);
    let (size, sha256) = (bytes.len(), show::sha256(&bytes));
    let found = report.interface.clone();
    if found.imports.is_empty() && found.exports.is_empty() && !found.faults.is_empty() {
        return Err(check::faulty(file, &found.faults));
    }
    let tried = with.read(config)?;
    let described = if found.faults.is_empty() {
        block(async {
            let bench = bench(file, bytes).await?;
            Ok(bench.describe(&tried.settings, tried.secrets(), tried.limits, meter()?).await.map_err(
                |fault| match fault {
                    ProviderFault::Misconfigured(why) => why,
                    fault => fault.to_string(),
                },
            ))
        })?
    } else {
        let whats: Vec<&str> = found.faults.iter().map(|fault| &*fault.what).collect();
        Err(format!("it cannot be loaded: {}", whats.join("; ")))
    };
    if as_json {
        let value = json!({
            "file": file.display().to_string(),
            "size": size,
            "sha256": sha256,
            "speaks": found.speaks,
            "imports": found.imports,
            "exports": found.exports,
            "producers": found.producers,
            "description": described.as_ref().ok(),
            "undescribed": described.as_ref().err(),
        });
        return serde_json::to_string_pretty(&value).map_err(|error| error.to_string());
    }
    let mut text = match &described {
        Ok(described) => format!("{} {}", described.display_name, described.version),
        Err(_) => file.display().to_string(),
    };
    let mut line = |name: &str, value: &str| {
        // A text can always grow.
        let _ = write!(text, "\n  {name:<10} {value}");
    };
    line("size", &show::size(size));
    line("sha256", &sha256);
    line("speaks", &report.summary());
    line("exports", &found.exports.join("\n             "));
    line("imports", &found.imports.join("\n             "));
    for (field, tools) in &found.producers {
        line(field, &tools.join(", "));
    }
    match &described {
        Ok(described) => text.push_str(&about(described)),
        Err(why) => {
            let _ = write!(text, "\n\nIt does not describe itself: {why}");
            if !tried.given && found.faults.is_empty() {
                text.push_str("\nGive it settings with --settings FILE or --provider NAME.");
            }
        }
    }
    Ok(text)
}

fn about(described: &Described) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = write!(text, "\n  {name:<10} {value}");
        }
    };
    line("docs", described.docs.as_deref().unwrap_or_default());
    line("scopes", &described.scopes.join(" "));
    line("calls", &described.hosts.join(", "));
    let can = [
        ("refresh", described.can_refresh),
        ("revoke", described.can_revoke),
        ("identify", described.can_identify),
    ];
    let can: Vec<&str> = can.into_iter().filter_map(|(name, can)| can.then_some(name)).collect();
    line("can", &can.join(", "));
    let required = |item: &Item| if item.required { "required" } else { "" }.to_owned();
    if !described.settings.is_empty() {
        let rows =
            described.settings.iter().map(|item| [item.name.clone(), required(item), item.summary.clone()]);
        let _ = write!(
            text,
            "\n\nSettings, in [providers.settings]:\n{}",
            show::table(["key", "", "what"], rows)
        );
    }
    if !described.parameters.is_empty() {
        let rows = described.parameters.iter().map(|item| {
            let pattern = item.pattern.clone().unwrap_or_default();
            [item.name.clone(), required(item), pattern, item.summary.clone()]
        });
        let _ = write!(
            text,
            "\n\nParameters, which each user gives when connecting:\n{}",
            show::table(["name", "", "pattern", "what"], rows)
        );
    }
    text
}
