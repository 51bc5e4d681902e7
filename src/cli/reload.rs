//! `palisade reload`: the running gateway reads its configuration again.

use std::path::Path;

use serde_json::{Value, json};

use super::admin;

/// Asks the gateway to reload.
pub(super) fn run(config: &Path) -> Result<String, String> {
    admin::ask(config, |client| async move {
        let answer = client.post("/admin/v1/reload", &json!({})).await.map_err(|errors| {
            format!("not reloaded:\n{errors}\nThe last good configuration stays in force.")
        })?;
        let notes = answer["notes"].as_array().into_iter().flatten().filter_map(Value::as_str);
        Ok(std::iter::once("reloaded").chain(notes).collect::<Vec<_>>().join("\n"))
    })
}
