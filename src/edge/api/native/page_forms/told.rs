//! What is wrong with a form, as its page tells it: by codes, for which the texts of each language have words.

use serde_json::{Value, json};

use super::super::super::failure::Failure;
use super::form::Form;
use palisade_core::domain::password::{PasswordPolicy, Violation};
use palisade_core::service::accounts::AccountError;

/// What a page says instead of success.
pub(in super::super) struct Told {
    pub(in super::super) status: u16,
    /// The stable word for logs and metrics.
    pub(in super::super) code: &'static str,
    /// `{field, code, …}` each; `field` is null for what is about the whole form.
    pub(in super::super) errors: Value,
    /// In seconds.
    pub(in super::super) retry_after: Option<u64>,
}

impl Told {
    /// Those of these inputs that are empty; `None` when none is.
    pub(in super::super) fn missing(form: &Form, inputs: &[&str]) -> Option<Told> {
        let empty = inputs.iter().filter(|name| !form.has(name));
        let errors: Vec<Value> = empty.map(|name| json!({"field": name, "code": "required"})).collect();
        let errors = (!errors.is_empty()).then_some(errors)?;
        Some(Told { status: 422, code: "required", errors: errors.into(), retry_after: None })
    }

    /// Why a request was not done. `password` is the name of the input with the password that it is about.
    pub(in super::super) fn of(error: AccountError, password: &str) -> Told {
        let on_fields = match &error {
            AccountError::PasswordRejected { broken, policy } => {
                Some(broken.iter().map(|rule| violation(*rule, *policy, password)).collect())
            }
            AccountError::InvalidEmail(_) => Some(vec![json!({"field": "email", "code": "invalid_email"})]),
            // The field of the sign-in takes either.
            AccountError::InvalidUsername(_) => {
                Some(vec![json!({"field": "email", "code": "invalid_username"})])
            }
            AccountError::WrongPassword => Some(vec![json!({"field": password, "code": "wrong_password"})]),
            // The only other text that these forms have.
            AccountError::Invalid(_) => Some(vec![json!({"field": "name", "code": "invalid_name"})]),
            _ => None,
        };
        // The status, the code and the log are those of the JSON endpoints.
        let failure = Failure::from(error);
        let (status, code, wait) = (failure.status(), failure.code(), failure.retry_after());
        let mut whole = json!({"field": null, "code": code});
        if let Some(until) = failure.document().get("until") {
            whole["until"] = until.clone();
        }
        if let Some(wait) = wait {
            whole["wait"] = json!(wait);
        }
        let errors = on_fields.unwrap_or_else(|| vec![whole]).into();
        Told { status, code, errors, retry_after: wait }
    }
}

/// A rule that the password breaks.
fn violation(rule: Violation, policy: PasswordPolicy, field: &str) -> Value {
    let mut told = json!({"field": field, "code": format!("password_{}", rule.word())});
    if rule == Violation::TooShort {
        told["min"] = json!(policy.requirements(0).min_length);
    }
    told
}
