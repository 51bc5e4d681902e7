//! `palisade keys list` and `palisade keys rotate`.

use std::path::Path;

use serde_json::{Value, json};

use super::admin;
use super::token_inspect::moment;

/// Every key that verifies.
pub(super) fn list(config: &Path) -> Result<String, String> {
    admin::ask(config, |client| async move { Ok(table(&client.get("/admin/v1/keys").await?["keys"])) })
}

/// The next key begins to sign.
pub(super) fn rotate(config: &Path) -> Result<String, String> {
    admin::ask(config, |client| async move {
        let answer = client.post("/admin/v1/keys/rotate", &json!({})).await?;
        Ok(format!("rotated\n{}", table(&answer["keys"])))
    })
}

fn table(keys: &Value) -> String {
    let mut lines = vec![format!("{:<8} {:<9} {:<21} KID", "STATE", "ALGORITHM", "CREATED")];
    for key in keys.as_array().into_iter().flatten() {
        let text = |name: &str| key[name].as_str().unwrap_or("?");
        let created = key["created_at"].as_u64().map_or_else(|| "?".to_owned(), moment);
        lines.push(format!("{:<8} {:<9} {created:<21} {}", text("state"), text("algorithm"), text("kid")));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_key() {
        let keys = json!([{"kid": "k0", "algorithm": "EdDSA", "state": "active", "created_at": 0}]);
        let table = table(&keys);
        assert!(table.ends_with("active   EdDSA     1970-01-01T00:00:00Z  k0"), "{table}");
    }
}
