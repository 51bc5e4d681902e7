//! Sample facts of each page, about an invented account: to try the templates with at the start, and to look at.

use serde_json::Value;

use palisade_core::domain::page::PageName;

/// Facts that a page can be given.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// What the page shows with them, as a part of a file name.
    pub(super) name: String,
    /// The HTTP status that goes with them.
    pub(super) status: u16,
    pub(super) facts: Value,
}

/// The samples of `page`, as `samples/<page>.json` lists them: `[{"name": …, "status": …, "facts": {…}}]`. The first
/// has every fact that the page knows.
///
/// # Errors
/// The file is not such a list.
pub(super) fn samples(page: PageName) -> Result<Vec<Sample>, String> {
    let text = match page {
        PageName::SignIn => include_str!("samples/sign-in.json"),
        PageName::Register => include_str!("samples/register.json"),
        PageName::CheckMail => include_str!("samples/check-mail.json"),
        PageName::Verify => include_str!("samples/verify.json"),
        PageName::Forgot => include_str!("samples/forgot.json"),
        PageName::Reset => include_str!("samples/reset.json"),
        PageName::Undo => include_str!("samples/undo.json"),
        PageName::Object => include_str!("samples/object.json"),
        PageName::Account => include_str!("samples/account.json"),
        PageName::SignOut => include_str!("samples/sign-out.json"),
        PageName::Error => include_str!("samples/error.json"),
        PageName::Framed => include_str!("samples/framed.json"),
    };
    let file = format!("samples/{}.json", page.name());
    let Value::Array(list) = serde_json::from_str(text).map_err(|error| format!("{file}: {error}"))? else {
        return Err(format!("{file}: no list"));
    };
    let sample = |mut value: Value| {
        let name = value["name"].as_str()?.to_owned();
        let status = value.get("status").map_or(Some(200), Value::as_u64)?;
        let facts = value["facts"].take();
        let status = u16::try_from(status).ok()?;
        facts.is_object().then_some(Sample { name, status, facts })
    };
    list.into_iter()
        .map(|value| sample(value).ok_or_else(|| format!("{file}: a sample without name or facts")))
        .collect()
}
