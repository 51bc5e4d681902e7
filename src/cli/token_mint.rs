//! `palisade token mint`: a new access token, alone on standard output so that a script can take it.

use std::path::Path;

use serde_json::json;

use super::{MintArgs, admin};

/// Asks the gateway for the token.
pub(super) fn run(config: &Path, args: &MintArgs) -> Result<String, String> {
    let mut body = json!({"sub": args.sub, "scopes": args.scopes});
    if let Some(email) = &args.email {
        body["email"] = json!(email);
    }
    if let Some(ttl) = args.ttl {
        body["ttl"] = json!(ttl.as_secs());
    }
    admin::ask(config, |client| async move {
        let answer = client.post("/admin/v1/tokens", &body).await?;
        answer["access_token"]
            .as_str()
            .map(str::to_owned)
            .ok_or("the gateway's answer holds no token".to_owned())
    })
}
