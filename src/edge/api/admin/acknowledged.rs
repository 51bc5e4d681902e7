//! Where a revocation is in force, as the admin API answers it.

use serde::Serialize;
use utoipa::ToSchema;

use palisade_core::ports::{Acknowledgement, ConfirmedBy};

/// Where a revocation is in force, and how long that took.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Acknowledged {
    by: AcknowledgedBy,
    /// Milliseconds from the request of the store to its answer.
    took_ms: u64,
    /// With `replicas`: how many have confirmed that it is in force there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    confirmed: Option<u32>,
    /// With `replicas`: how many did not answer, and were waited for until their lease was over. They take no credential
    /// before they know the revocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    lapsed: Option<u32>,
    /// With `replicas`: the names of those that did not answer and may go on taking what is revoked, because of `fail =
    /// "open"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    open: Option<Vec<String>>,
}

/// What has acknowledged it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum AcknowledgedBy {
    /// This process, which alone holds the store.
    Process,
    /// The database that the replicas share.
    Database,
    /// Every replica.
    Replicas,
}

impl From<&Acknowledgement> for Acknowledged {
    fn from(acknowledgement: &Acknowledgement) -> Acknowledged {
        let Acknowledgement { by, took } = acknowledgement;
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let plain = |by| Acknowledged { by, took_ms, confirmed: None, lapsed: None, open: None };
        match by {
            ConfirmedBy::Replicas { confirmed, lapsed, open } => Acknowledged {
                by: AcknowledgedBy::Replicas,
                took_ms,
                confirmed: Some(*confirmed),
                lapsed: Some(*lapsed),
                open: Some(open.clone()),
            },
            ConfirmedBy::Database => plain(AcknowledgedBy::Database),
            _ => plain(AcknowledgedBy::Process),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use serde_json::{json, to_value};

    #[test]
    fn replicas_are_told_of_where_there_are_some() {
        let told = |by| {
            let acknowledgement = Acknowledgement { by, took: Duration::from_micros(5_412_999) };
            to_value(Acknowledged::from(&acknowledgement)).unwrap()
        };
        assert_eq!(told(ConfirmedBy::ThisProcess), json!({"by": "process", "took_ms": 5412}));
        assert_eq!(told(ConfirmedBy::Database), json!({"by": "database", "took_ms": 5412}));
        let by = ConfirmedBy::Replicas { confirmed: 2, lapsed: 1, open: vec!["gw-3".into()] };
        let all = json!({"by": "replicas", "took_ms": 5412, "confirmed": 2, "lapsed": 1, "open": ["gw-3"]});
        assert_eq!(told(by), all);
    }
}
