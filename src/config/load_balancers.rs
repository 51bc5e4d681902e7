//! `[[issuers]]` with `kind = "aws-alb"`: load balancers of AWS that sign people in at an identity provider.

use super::file::{Item, Section};
use super::foreign_tokens::{claim_names, itself};
use super::form::Url;
use super::networks::reach;
use super::redaction::Redaction;
use palisade_core::domain::claim_names::ClaimNames;
use palisade_core::domain::reach::Reach;

/// Load balancers of AWS that say who a caller is, in `X-Amzn-Oidc-Data`.
#[derive(Debug, Clone)]
pub struct LoadBalancers {
    /// The `iss` of the identity provider that they sign people in at.
    pub issuer: String,
    /// Where the keys are, each behind a slash under its `kid`; without the last slash.
    pub keys: String,
    /// The ARNs of the load balancers; at least one.
    pub signers: Vec<String>,
    /// The clients as which they sign people in; at least one.
    pub clients: Vec<String>,
    /// `email = "trusted"`.
    pub email_trusted: bool,
    /// Which claims of the user info say what.
    pub claims: ClaimNames,
    /// Which addresses the keys may be at.
    pub reach: Reach,
    /// Keeps the values of references out of messages about its keys.
    pub redaction: Redaction,
}

const REGION: &str = "a region of AWS, such as \"eu-central-1\"";
const ARN: &str = "the ARN of a load balancer in that region, such as \
                   \"arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/web/50dc6c495c0c9188\"";
const KEYS: &str = "an https:// URL (http:// on loopback or to a network of allow_private) without a query, below which each \
                    key is under its kid";

/// Whether an issuer is of this kind.
pub(super) fn is_balancers(section: &Section<'_>) -> bool {
    section.get("kind").is_some_and(|kind| kind.raw() == Some("aws-alb"))
}

/// Reads what an issuer of this kind has of its own. `issuer`: its name; the section is closed by the caller.
pub(super) fn read(
    section: &Section<'_>,
    issuer: Option<String>,
    email_trusted: bool,
) -> Option<LoadBalancers> {
    let region = section
        .required("region", REGION)
        .and_then(|item| item.read(REGION, |text| is_region(text).then(|| text.to_owned())));
    let signers = filled(section, "signer", ARN, |item| {
        let region = region.as_deref();
        item.read(ARN, |text| is_balancer(text, region).then(|| text.to_owned()))
    });
    let want = "the client id with which the load balancer signs people in";
    let clients = filled(section, "client", want, |item| itself(item, want, want));
    let reach = reach(section);
    let keys = match section.get("keys") {
        Some(item) => item.read(KEYS, |text| {
            let url = Url::parse(text).filter(|url| url.is_safe_within(&reach))?;
            let is_plain = !url.rest.contains(['?', '#']);
            is_plain.then(|| text.trim_end_matches('/').to_owned())
        }),
        None => region.as_deref().and_then(|region| {
            let found = usual_keys(region);
            if found.is_none() {
                let found = format!("no address of the keys of {region:?}");
                section.doc.fault(section.at, &format!("{}.keys", section.key), found, KEYS);
            }
            found
        }),
    };
    let claims = claim_names(section, email_trusted);
    if let Some(item) = section.get("audience_claim") {
        item.bad::<()>("no audience_claim: `client` says for which app a load balancer signs people in");
    }
    let (issuer, keys) = (issuer?, keys?);
    (!signers.is_empty() && !clients.is_empty()).then(|| LoadBalancers {
        issuer,
        keys,
        signers,
        clients,
        email_trusted,
        claims,
        reach,
        redaction: section.doc.redaction().clone(),
    })
}

/// Where AWS publishes the keys of a region; `None`: only its operator knows.
fn usual_keys(region: &str) -> Option<String> {
    if region.starts_with("us-gov-") {
        return Some(format!("https://s3-{region}.amazonaws.com/aws-elb-public-keys-prod-{region}"));
    }
    let is_of_aws = !region.starts_with("cn-") && !region.contains("-iso");
    is_of_aws.then(|| format!("https://public-keys.auth.elb.{region}.amazonaws.com"))
}

/// It becomes a label of a host name.
fn is_region(text: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    text.len() <= 32 && text.split('-').count() >= 3 && text.split('-').all(is_word)
}

/// Whether `text` is the ARN of an application load balancer, in `region` where that is known.
fn is_balancer(text: &str, region: Option<&str>) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let [arn, partition, service, of, account, resource] = parts.as_slice() else { return false };
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    let mut path = resource.split('/');
    let is_app = path.next() == Some("loadbalancer") && path.next() == Some("app");
    let named = path.filter(|part| !part.is_empty()).count() == 2;
    *arn == "arn"
        && partition.starts_with("aws")
        && *service == "elasticloadbalancing"
        && region.is_none_or(|region| region == *of)
        && is_account
        && is_app
        && named
}

/// A text or a list of texts, each read by `read`.
fn filled(
    section: &Section<'_>,
    name: &'static str,
    want: &str,
    read: impl Fn(&Item<'_>) -> Option<String>,
) -> Vec<String> {
    super::read::filled(section, name, want, |item| read(item))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_a_label_and_an_arn_names_one_load_balancer_in_it() {
        for (region, address) in [
            ("eu-central-1", Some("https://public-keys.auth.elb.eu-central-1.amazonaws.com")),
            (
                "us-gov-west-1",
                Some("https://s3-us-gov-west-1.amazonaws.com/aws-elb-public-keys-prod-us-gov-west-1"),
            ),
            ("cn-north-1", None),
            ("us-iso-east-1", None),
        ] {
            assert!(is_region(region), "{region}");
            assert_eq!(usual_keys(region).as_deref(), address, "{region}");
        }
        for region in [
            "",
            "eu",
            "eu-central",
            "eu-central-1.evil.test/",
            "eu-central-1#",
            "EU-central-1",
            "eu--1",
            "eu-central-1-",
        ] {
            assert!(!is_region(region), "{region}");
        }
        let arn =
            "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/web/50dc6c495c0c9188";
        assert!(is_balancer(arn, Some("eu-central-1")) && is_balancer(arn, None));
        assert!(is_balancer(&arn.replace("arn:aws:", "arn:aws-us-gov:"), None));
        for (from, to) in [
            ("eu-central-1", "eu-west-1"),
            ("arn:aws", "urn:aws"),
            ("123456789012", "1234567890"),
            ("loadbalancer/app", "loadbalancer/net"),
            ("/50dc6c495c0c9188", ""),
            ("/50dc6c495c0c9188", "/"),
            ("/web/", "/web/x/"),
            ("elasticloadbalancing", "ec2"),
        ] {
            assert!(!is_balancer(&arn.replacen(from, to, 1), Some("eu-central-1")), "{from} {to}");
        }
    }
}
