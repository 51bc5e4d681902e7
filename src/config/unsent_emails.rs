//! Routes that do not send the address of some callers.

use super::file::Section;
use super::issuers;
use super::settings::Route;
use palisade_core::domain::identity_fields::IdentitySource;
use palisade_core::domain::route::Auth;

/// Each route whose upstream is not told the address of callers whose issuer does not say that it is verified;
/// one printable line each. An issuer with `email` in the file is left out: its operator has decided.
pub(super) fn unsent_emails(root: &Section<'_>, routes: &[Route]) -> Vec<String> {
    let sections = root.sections("issuers");
    let decided = |written: &str| {
        let is_it = |issuer: &&Section<'_>| issuer.get("issuer").and_then(|item| item.raw()) == Some(written);
        sections.iter().find(is_it).is_some_and(|issuer| issuer.get("email").is_some())
    };
    let silent: Vec<(String, Vec<String>)> =
        issuers::names(root).into_iter().filter(|(written, _)| !decided(written)).collect();
    let places = root.sections("routes");
    let unsent = |route: &Route| {
        let policy = &route.policy.policy;
        let mut told = policy.require.told().filter(|field| field.source == IdentitySource::Email);
        // The one without which callers are refused comes first.
        let (field, key) = match (told.next(), route.forward.email.as_deref()) {
            (Some(field), _) => (field.header.as_str(), "headers"),
            (None, Some(field)) => (field, "headers.email"),
            (None, None) => return None,
        };
        // Without a token there is no address, and with the requirement there is none that is not verified.
        if policy.auth == Auth::None || policy.require.email_verified {
            return None;
        }
        let accepts = |names: &[String]| {
            policy.issuers.is_empty() || policy.issuers.iter().any(|issuer| names.contains(issuer))
        };
        let lost = silent.iter().filter(|(_, names)| accepts(names));
        let lost: Vec<&str> = lost.map(|(written, _)| written.as_str()).collect();
        if lost.is_empty() {
            return None;
        }
        let place = places.get(route.policy.index)?;
        let text = format!(
            "route {:?} sends {field} only for tokens that say `email_verified`; for {} write into [[issuers]] \
             email = \"verified\" (its tokens say so, or the field is not needed) or email = \"trusted\" (every \
             address that it hands out is verified)",
            route.policy.name,
            lost.join(", ")
        );
        Some(root.doc.place(place.at, &format!("{}.{key}", place.key), &text))
    };
    routes.iter().filter_map(unsent).collect()
}
