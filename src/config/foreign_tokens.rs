//! What a section of `[[issuers]]` says about the tokens: whose they are, and which claims say what.

use super::file::{Item, Section};
use super::form::Url;
use super::read::claim_path;
use palisade_core::domain::claim_names::ClaimNames;
use palisade_core::domain::claim_path::ClaimPath;
use palisade_core::domain::tenant::{TENANT, is_tenant, with_tenant};

/// Hosts at which Entra publishes its issuers.
const ENTRA: [&str; 4] = [
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.partner.microsoftonline.cn",
    "sts.windows.net",
];

/// What stands for several tenants in the addresses of Entra, and in no token.
const MANY_TENANTS: [&str; 3] = ["common", "organizations", "consumers"];

/// Claims that are the same in many tokens, or another one in each: no subject.
const NO_SUBJECT: [&str; 10] =
    ["iss", "aud", "exp", "nbf", "iat", "jti", "scope", "scp", "email_verified", "auth_time"];

/// Claims that say when, by which issuer, or who the caller is: no audience.
const NO_AUDIENCE: [&str; 8] = ["iss", "sub", "exp", "nbf", "iat", "jti", "email", "auth_time"];

/// Claims that people, or those who keep their directory, can change, or that another person gets later.
const CHANGING: [&str; 9] = [
    "preferred_username",
    "upn",
    "unique_name",
    "username",
    "cognito:username",
    "email",
    "name",
    "nickname",
    "login",
];

/// The `iss` of every token of `issuer`, which is as it is written: itself, or with each of the `tenants` in place of the
/// placeholder. Faults are reported.
pub(super) fn names(section: &Section<'_>, item: &Item<'_>, issuer: &str) -> Vec<String> {
    let tenants = section.get("tenants");
    let without_tenant = issuer.replacen(TENANT, "", 1);
    if has_placeholder(&without_tenant) {
        let want = format!(
            "the issuer as its tokens say it in `iss`; the only placeholder is {TENANT}, with tenants"
        );
        item.bad::<()>(&want);
        return Vec::new();
    }
    if issuer.ends_with("/.well-known/openid-configuration") {
        item.bad::<()>("the `issuer` in that document; discovery = true finds the document by it");
        return Vec::new();
    }
    if let Some(many) = many_tenants(issuer) {
        let want = format!(
            "{TENANT} in place of {many:?}, with tenants = [\"…\"]: no token says {many:?} in its `iss`"
        );
        item.bad::<()>(&want);
        return Vec::new();
    }
    let has_placeholder = without_tenant != issuer;
    match (&tenants, has_placeholder) {
        (None, false) => return vec![issuer.to_owned()],
        (Some(tenants), false) => {
            let want = format!("no tenants, or an issuer with {TENANT} in it");
            tenants.bad_as::<()>("tenants of an issuer without a placeholder", &want);
            return Vec::new();
        }
        (None, true) => {
            item.bad::<()>(
                "tenants = [\"…\"] beside the placeholder: the ids of those whose tokens are taken",
            );
            return Vec::new();
        }
        (Some(_), true) => {}
    }
    let want = "the id of a tenant, such as \"1f2e3d4c-86f1-41af-91ab-2d7cd011db47\"";
    if tenants.is_some_and(|item| item.is_empty_list()) {
        section.get("tenants").and_then(|item| item.bad::<()>("at least one id of a tenant"));
    }
    let mut names: Vec<String> = Vec::new();
    let read = section.list("tenants", |item| {
        let tenant = item.read(want, |text| Some(text.to_ascii_lowercase()).filter(|id| is_tenant(id)))?;
        Some((with_tenant(issuer, &tenant), item.at, item.key.clone()))
    });
    for (name, at, key) in read {
        if names.contains(&name) {
            section.doc.fault(at, &key, "a tenant twice", "each tenant once");
        } else {
            names.push(name);
        }
    }
    names
}

/// The names in `issuer` of several tenants of Entra at once.
/// The name of an issuer that has one, or none and a message.
pub(super) fn one_name(item: &Item<'_>, issuer: &str) -> Vec<String> {
    if has_placeholder(issuer) {
        item.bad::<()>("the issuer as its tokens say it in `iss`, without a placeholder");
        return Vec::new();
    }
    if let Some(many) = many_tenants(issuer) {
        item.bad::<()>(&format!(
            "the id of the tenant in place of {many:?}: no token says {many:?} in its `iss`"
        ));
        return Vec::new();
    }
    vec![issuer.to_owned()]
}

/// The text of `item`, unless it is what a guide writes in place of a value. `itself`: what would be right then.
pub(super) fn itself(item: &Item<'_>, want: &str, itself: &str) -> Option<String> {
    let text = item.text(want)?;
    match has_placeholder(text) {
        false => Some(text.to_owned()),
        true => item.bad(itself),
    }
}

fn has_placeholder(text: &str) -> bool {
    text.contains(['{', '}', '<', '>'])
}

fn many_tenants(issuer: &str) -> Option<&'static str> {
    let url = Url::parse(issuer).filter(|url| ENTRA.contains(&url.host.as_str()))?;
    let first = url.rest.trim_start_matches('/').split('/').next()?;
    MANY_TENANTS.into_iter().find(|many| *many == first)
}

/// The addresses of the documents that may describe `issuer`: that of OpenID Connect Discovery §4, then that of RFC 8414 §3.
/// For the tenants of Entra: of the document of them all. `None`: its keys cannot be found by its name.
pub(super) fn documents(issuer: &str, is_safe: impl Fn(&Url<'_>) -> bool) -> Option<[String; 2]> {
    let issuer = with_tenant(issuer, "common");
    let url = Url::parse(&issuer).filter(|url| is_safe(url) && !url.rest.contains(['?', '#']))?;
    let path = url.rest.trim_end_matches('/');
    let origin = issuer.strip_suffix(url.rest)?;
    Some([
        format!("{origin}{path}/.well-known/openid-configuration"),
        format!("{origin}/.well-known/oauth-authorization-server{path}"),
    ])
}

/// The claim that stands in place of the usual one.
fn named<'a>(section: &Section<'a>, key: &'static str, usual: &str) -> Option<(Item<'a>, ClaimPath)> {
    let item = section.get(key)?;
    let path = claim_path(&item)?;
    (path.name() != Some(usual)).then_some((item, path))
}

/// The claims that stand in place of the usual ones. `email_trusted`: the operator vouches for the addresses.
pub(super) fn claim_names(section: &Section<'_>, email_trusted: bool) -> ClaimNames {
    let named = |key, usual| named(section, key, usual);
    let top = |path: &ClaimPath, names: &[&str]| path.name().is_some_and(|name| names.contains(&name));
    let audience = named("audience_claim", "aud").and_then(|(item, path)| {
        if top(&path, &NO_AUDIENCE) {
            return item.bad("a claim that names what the token is for, such as \"client_id\" or \"azp\"");
        }
        Some(path)
    });
    let subject = named("subject_claim", "sub").and_then(|(item, path)| {
        if top(&path, &NO_SUBJECT) {
            return item.bad("a claim that names the person, such as \"oid\"");
        }
        if top(&path, &CHANGING) {
            let text = format!(
                "\"{path}\" can change, and a value that is free again can go to another person, who is the same subject \
                 then: choose it only where the issuer never lets people change it and never gives it again; \"sub\" and \
                 Entra's \"oid\" are made for this"
            );
            item.doc.warn(item.at, &item.key, &text);
        }
        Some(path)
    });
    let email = named("email_claim", "email").and_then(|(item, path)| {
        if !email_trusted {
            let want = format!(
                "email = \"trusted\" beside it: no issuer says of {path} that it is verified, so it has to be known \
                 that people cannot set it themselves"
            );
            return item.bad_as(format!("\"{path}\" without email = \"trusted\""), &want);
        }
        Some(path)
    });
    let groups = named("groups_claim", "groups").map(|(_, path)| path);
    ClaimNames { audience, subject, email, groups }
}
