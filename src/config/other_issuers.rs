//! Issuers whose tokens are no JWTs under a key set, and the routes that name them: nothing of them is taken where no
//! route says so.

use super::file::Section;
use super::introspection::is_opaque_alone;
use super::load_balancers::is_balancers;
use super::settings::Route;
use palisade_core::domain::reserved::LOAD_BALANCER_CLAIMS;
use palisade_core::domain::route::Policy;

/// The names of such issuers.
pub struct OtherIssuerNames {
    /// `kind = "aws-alb"`.
    load_balancers: Vec<String>,
    /// With `introspection`.
    introspected: Vec<String>,
    /// Those of the latter that sign no JWTs.
    opaque_alone: Vec<String>,
}

impl OtherIssuerNames {
    /// Those of the file.
    pub fn of(root: &Section<'_>) -> OtherIssuerNames {
        let sections = root.sections("issuers");
        let named = |is: &dyn Fn(&Section<'_>) -> bool| {
            let found = sections.iter().filter(|section| is(section));
            found.filter_map(|section| Some(section.get("issuer")?.raw()?.to_owned())).collect()
        };
        let has = |section: &Section<'_>, name| section.get(name).is_some();
        OtherIssuerNames {
            load_balancers: named(&is_balancers),
            introspected: named(&|section| has(section, "introspection")),
            opaque_alone: named(&is_opaque_alone),
        }
    }

    /// Whether tokens of this issuer are taken without a route that names it.
    pub fn signs_jwts(&self, issuer: &str) -> bool {
        !self.load_balancers.iter().chain(&self.opaque_alone).any(|other| other == issuer)
    }

    /// Puts into the policy of a route what it takes of such issuers, and reports what could never match.
    pub fn judge(&self, section: &Section<'_>, policy: &mut Policy) {
        let named = |names: &[String]| -> Vec<String> {
            policy.issuers.iter().filter(|issuer| names.contains(issuer)).cloned().collect()
        };
        let (balancers, introspected) = (named(&self.load_balancers), named(&self.introspected));
        let token = section.section("token");
        let header = token.get("header");
        let issuers = section.get("issuers");
        let is_balancers = policy.carriers.header.as_deref() == Some(LOAD_BALANCER_CLAIMS);
        match balancers.as_slice() {
            [issuer] if is_balancers => policy.carriers.load_balancer = Some(issuer.as_str().into()),
            [] if !is_balancers => {}
            _ if is_balancers => {
                if let Some(item) = &header {
                    item.bad_as::<()>(
                        format!(
                            "the claims of load balancers beside {} issuers of their kind",
                            balancers.len()
                        ),
                        "issuers = [\"…\"] with exactly one issuer of kind \"aws-alb\"",
                    );
                }
            }
            [issuer, ..] => {
                if let Some(item) = &issuers {
                    item.bad_as::<()>(
                        format!("{issuer:?}, whose load balancers say who a caller is, on a route that does not read that"),
                        "token = { header = \"X-Amzn-Oidc-Data\" } beside it",
                    );
                }
            }
            [] => {}
        }
        match introspected.as_slice() {
            [] => {}
            [issuer] => policy.carriers.opaque = Some(issuer.as_str().into()),
            several => {
                if let Some(item) = &issuers {
                    item.bad_as::<()>(
                        format!("several issuers that are asked about opaque tokens: {}", several.join(", ")),
                        "exactly one of them: an opaque token does not say whose it is, and is shown to no other issuer",
                    );
                }
            }
        }
    }

    /// Warns of an issuer of which no route takes anything.
    pub fn warn_of_unnamed(&self, root: &Section<'_>, routes: &[Route]) {
        for section in root.sections("issuers") {
            let Some(item) = section.get("issuer") else { continue };
            let Some(name) = item.raw() else { continue };
            let is_named =
                routes.iter().any(|route| route.policy.policy.issuers.iter().any(|own| own == name));
            if is_named {
                continue;
            }
            let text = if is_balancers(&section) {
                "no route names it in `issuers`, so what its load balancers say is taken nowhere"
            } else if section.get("introspection").is_some() {
                "no route names it in `issuers`, so its opaque tokens are taken nowhere"
            } else {
                continue;
            };
            item.doc.warn(item.at, &item.key, text);
        }
    }
}
