//! `[[issuers]]`: whose tokens are taken beside our own, and where their keys are.

use std::path::PathBuf;

use super::file::{Item, Section};
use super::foreign_tokens;
use super::form::Url;
use super::introspection::{self, IntrospectedIssuer, is_opaque_alone};
use super::load_balancers::{self, LoadBalancers, is_balancers};
use super::networks::reach;
use super::read::{existing_file, filled};
use super::redaction::Redaction;
use palisade_core::domain::claim_names::ClaimNames;
use palisade_core::domain::reach::Reach;
use palisade_core::domain::tenant::with_tenant;

/// Signature algorithms (RFC 7518 §3, RFC 8037). Ours are EdDSA, ES256, RS256 and HS256; the tokens of other
/// issuers may be signed with any of them but HS256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    EdDsa,
    Es256,
    Es384,
    Es512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Hs256,
}

/// `[[issuers]]`: tokens that others sign.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// As it is written: with the placeholder, where it stands for several tenants.
    pub issuer: String,
    /// The `iss` of its tokens, exactly: one, or that of each tenant.
    pub names: Vec<String>,
    /// Which claims say what.
    pub claims: ClaimNames,
    pub jwks: Jwks,
    /// Which addresses its keys may be fetched from, and which authorities are trusted there.
    pub reach: Reach,
    /// Where it is written.
    pub line: usize,
    pub audiences: Vec<String>,
    pub algorithms: Vec<Algorithm>,
    /// `email = "trusted"`: addresses of which the issuer does not say whether they are verified count as
    /// verified.
    pub email_trusted: bool,
    /// Keeps the values of references out of messages about its keys.
    pub redaction: Redaction,
}

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jwks {
    /// `https://…`, or `http://` on loopback.
    Url(String),
    /// `file:…`
    File(PathBuf),
    /// `discovery = true`: in the document at the first of these addresses that has one. The document's `issuer` must be the
    /// one that is written.
    Discovery([String; 2]),
}

const KINDS: [(&str, Kind); 2] = [("jwt", Kind::Issuer), ("aws-alb", Kind::LoadBalancers)];

/// What others may sign with. A shared secret would let every verifier also sign.
const PUBLIC_ALGORITHMS: [(&str, Algorithm); 10] = [
    ("EdDSA", Algorithm::EdDsa),
    ("ES256", Algorithm::Es256),
    ("ES384", Algorithm::Es384),
    ("ES512", Algorithm::Es512),
    ("RS256", Algorithm::Rs256),
    ("RS384", Algorithm::Rs384),
    ("RS512", Algorithm::Rs512),
    ("PS256", Algorithm::Ps256),
    ("PS384", Algorithm::Ps384),
    ("PS512", Algorithm::Ps512),
];

/// `kind`: what says who a caller is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Issuer,
    LoadBalancers,
}

/// Every `[[issuers]]`, by what their tokens are.
#[derive(Default)]
pub(super) struct TrustedIssuers {
    pub jwt: Vec<Issuer>,
    pub load_balancers: Vec<LoadBalancers>,
    pub introspected: Vec<IntrospectedIssuer>,
}

/// Reads every `[[issuers]]`. `own`: `tokens.issuer`.
pub(super) fn issuers(root: &Section<'_>, own: &str) -> TrustedIssuers {
    let mut issuers = TrustedIssuers::default();
    let mut known: Vec<String> = vec![own.to_owned()];
    for section in root.sections("issuers") {
        let issuer = section.required("issuer", "the `iss` of its tokens");
        let mut names = Vec::new();
        let issuer = issuer.and_then(|item| {
            let issuer = item.text("the `iss` of its tokens")?;
            names = match is_balancers(&section) {
                true => foreign_tokens::one_name(&item, issuer),
                false => foreign_tokens::names(&section, &item, issuer),
            };
            if names.iter().any(|name| name == own) {
                return item.bad("another issuer than our own (tokens.issuer)");
            }
            if names.iter().any(|name| known.contains(name)) {
                return item.bad("each issuer once");
            }
            known.extend(names.iter().cloned());
            Some(issuer.to_owned())
        });
        let email_trusted = section.choice("email", &[("verified", false), ("trusted", true)], false);
        if section.choice("kind", &KINDS, Kind::Issuer) == Kind::LoadBalancers {
            issuers.load_balancers.extend(load_balancers::read(&section, issuer, email_trusted));
            section.close();
            continue;
        }
        if section.get("introspection").is_some()
            && let Some(tenants) = section.get("tenants")
        {
            let want = "one issuer, without a placeholder: what is answered about an opaque token names one";
            tenants.bad_as::<()>("tenants beside introspection", want);
        }
        let want = "an https:// URL (http:// on loopback and into allow_private only) or file:PATH";
        let reach = reach(&section);
        let introspection = section.get("introspection").and_then(|item| item.section());
        let introspection = introspection.and_then(|section| introspection::read(section, &reach));
        let is_opaque_alone = is_opaque_alone(&section);
        let is_safe = |url: &Url<'_>| url.is_safe_within(&reach);
        let line = section.get("jwks").map(|item| item.doc.line(item.at));
        let jwks = match section.get("discovery").filter(|item| !item.is_false()) {
            Some(item) => discovered(&section, &item, issuer.as_deref(), is_safe),
            None if is_opaque_alone => None,
            None => section.required("jwks", want).and_then(|item| {
                if item.raw().is_some_and(|text| text.starts_with("file:")) {
                    return existing_file(&item, "a readable JWKS file").map(Jwks::File);
                }
                item.read(want, |text| Url::parse(text).filter(is_safe).map(|_| Jwks::Url(text.to_owned())))
            }),
        };
        let want = "at least one audience, such as [\"api\"]";
        let audiences = filled(&section, "audiences", want, |item| {
            foreign_tokens::itself(
                item,
                "a text that is not empty",
                "the audience itself, not what stands for it",
            )
        });
        let algorithms = section.list("algorithms", |item| item.choice(&PUBLIC_ALGORITHMS));
        if !is_opaque_alone && section.get("algorithms").is_none_or(|item| item.is_empty_list()) {
            let names = PUBLIC_ALGORITHMS.map(|(name, _)| format!("{name:?}")).join(", ");
            let want = format!("at least one of {names}");
            section.doc.fault(section.at, &format!("{}.algorithms", section.key), "nothing", &want);
        }
        let claims = foreign_tokens::claim_names(&section, email_trusted);
        section.close();
        if let (Some(issuer), Some(introspection)) = (&issuer, introspection) {
            issuers.introspected.push(IntrospectedIssuer {
                issuer: issuer.clone(),
                audiences: audiences.clone(),
                email_trusted,
                claims: claims.clone(),
                introspection,
                reach: reach.clone(),
                redaction: root.doc.redaction().clone(),
            });
        }
        if let (Some(issuer), Some(jwks)) = (issuer, jwks) {
            let line = line.unwrap_or_default();
            let redaction = root.doc.redaction().clone();
            issuers.jwt.push(Issuer {
                issuer,
                names,
                claims,
                jwks,
                reach,
                line,
                audiences,
                algorithms,
                email_trusted,
                redaction,
            });
        }
    }
    issuers
}

/// `discovery = true`.
fn discovered(
    section: &Section<'_>,
    item: &Item<'_>,
    issuer: Option<&str>,
    is_safe: impl Fn(&Url<'_>) -> bool,
) -> Option<Jwks> {
    if !item.is_true() {
        return item.bad("true or false");
    }
    if let Some(jwks) = section.get("jwks") {
        return jwks
            .bad_as("jwks beside discovery = true", "one of them: the document says where the keys are");
    }
    match foreign_tokens::documents(issuer?, is_safe) {
        Some(documents) => Some(Jwks::Discovery(documents)),
        None => item.bad(
            "jwks = \"…\" instead: a document is found by an issuer that is an https:// URL without a query (http:// on \
             loopback and into allow_private only)",
        ),
    }
}

/// The `iss` of every issuer that the file names, as far as it can be read. For the routes.
pub(super) fn names(root: &Section<'_>) -> Vec<(String, Vec<String>)> {
    let of = |section: &Section<'_>| {
        let issuer = section.get("issuer")?.raw()?.to_owned();
        let tenants = section.list("tenants", |item| item.raw().map(str::to_ascii_lowercase));
        let names = match tenants.is_empty() {
            true => vec![issuer.clone()],
            false => tenants.iter().map(|tenant| with_tenant(&issuer, tenant)).collect(),
        };
        Some((issuer, names))
    };
    root.sections("issuers").iter().filter_map(of).collect()
}
