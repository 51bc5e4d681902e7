//! What identity headers mean for the accounts that an app makes of them: each must be one person's.

use super::file::Section;
use super::settings::Route;
use palisade_core::domain::identity_fields::{IdentityField, IdentitySource};
use palisade_core::domain::reserved::fold;
use palisade_core::domain::route::Auth;

/// A route whose app may make accounts of what is in one of its fields.
struct Naming<'a> {
    route: &'a Route,
    user: &'a IdentitySource,
    issuer: String,
}

/// Refuses routes on which one person could enter the account of another, and warns where that depends on an issuer.
/// `issuers`: all that are configured, `own` among them.
pub(super) fn judge(root: &Section<'_>, routes: &[Route], issuers: &[String], own: &str) {
    let sections = root.sections("routes");
    let mut before: Vec<Naming<'_>> = Vec::new();
    for route in routes {
        let policy = &route.policy.policy;
        let told = policy.require.told();
        let user = told.clone().find(|field| field.is_required).or_else(|| told.clone().find(names_a_person));
        let Some(IdentityField { header, source: user, is_required, .. }) = user else { continue };
        let Some(section) = sections.get(route.policy.index).filter(|_| policy.auth != Auth::None) else {
            continue;
        };
        let headers = section.get("headers").map_or(section.at, |item| item.at);
        let key = |name: &str| format!("{}.{name}", section.key);
        let mut accepted = if policy.issuers.is_empty() { issuers.to_vec() } else { policy.issuers.clone() };
        accepted.sort();
        accepted.dedup();
        let [issuer] = accepted.as_slice() else {
            section.doc.fault(
                section.get("issuers").map_or(headers, |item| item.at),
                &key("issuers"),
                match is_required {
                    true => format!("several issuers beside headers.preset: {}", accepted.join(", ")),
                    false => format!("several issuers beside {header:?}: {}", accepted.join(", ")),
                },
                format!(
                    "one issuer: {header} does not say whose it is, so a person of one issuer could enter the account of \
                     another's"
                ),
            );
            continue;
        };
        if *user == IdentitySource::Username && issuer != own {
            let text = format!(
                "people of {issuer} enter the account of the app that their `preferred_username` names: only where that \
                 issuer lets no person choose or change it (OpenID Connect Core §5.7)"
            );
            section.doc.warn(headers, &key("headers.user"), &text);
        }
        let naming = Naming { route, user, issuer: issuer.clone() };
        if let Some(other) = before.iter().find(|other| other.mixes_with(&naming)) {
            section.doc.fault(
                headers,
                &key(if *is_required { "headers.preset" } else { "headers.claims" }),
                format!(
                    "another issuer or another `user` than route {:?}, which has an upstream in common",
                    other.route.policy.name
                ),
                "one issuer and one `user` for all routes of an app: else it takes two people for one",
            );
        }
        before.push(naming);
    }
}

/// Whether an app may take what the field holds for an account of its own. The `X-Auth-` fields come with the issuer.
fn names_a_person(field: &&IdentityField) -> bool {
    let is_ours = fold(&field.header).starts_with("x-auth-");
    !is_ours && !matches!(field.source, IdentitySource::Claim(_))
}

impl Naming<'_> {
    /// Whether both lead to one app, and name its people differently.
    fn mixes_with(&self, other: &Naming<'_>) -> bool {
        let upstreams = |naming: &Naming<'_>| naming.route.policy.upstreams.clone();
        let is_one_app = upstreams(self).iter().any(|upstream| upstreams(other).contains(upstream));
        is_one_app && (self.issuer != other.issuer || self.user != other.user)
    }
}
