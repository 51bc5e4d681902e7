//! `introspection` of an issuer: where it is asked about opaque tokens (RFC 7662), and how often.

use std::time::Duration;

use secrecy::SecretString;

use super::file::{Item, Section};
use super::form::Url;
use super::read::secret;
use super::redaction::Redaction;
use palisade_core::domain::claim_names::ClaimNames;
use palisade_core::domain::reach::Reach;

/// An issuer that is asked about its opaque tokens.
#[derive(Debug, Clone)]
pub struct IntrospectedIssuer {
    /// The `iss` of its answers, exactly.
    pub issuer: String,
    /// One of them must be the token's.
    pub audiences: Vec<String>,
    /// `email = "trusted"`.
    pub email_trusted: bool,
    /// Which members say what.
    pub claims: ClaimNames,
    pub introspection: Introspection,
    /// Which addresses the endpoint may have.
    pub reach: Reach,
    /// Keeps the values of references out of messages about it.
    pub redaction: Redaction,
}

/// `introspection`.
#[derive(Debug, Clone)]
pub struct Introspection {
    pub url: String,
    pub client_id: String,
    pub client_secret: SecretString,
    pub client_auth: IntrospectionAuth,
    /// What answers may lack.
    pub optional: OptionalMembers,
    /// How long an answer is believed, whatever it says.
    pub cache: Duration,
    /// How long a request may take, answer and all.
    pub timeout: Duration,
    /// Requests at once; at least 1.
    pub in_flight: usize,
    /// Requests within any second; at least 1.
    pub per_second: usize,
}

/// How the gateway says at the endpoint who it is (RFC 6749 §2.3.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IntrospectionAuth {
    /// HTTP Basic.
    #[default]
    Basic,
    /// In the form.
    Post,
}

/// Members that an answer may lack, because the operator says that its server never sends them. One that is there counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OptionalMembers {
    pub iss: bool,
    pub aud: bool,
}

impl PartialEq for Introspection {
    fn eq(&self, other: &Introspection) -> bool {
        use secrecy::ExposeSecret as _;
        let Introspection {
            url,
            client_id,
            client_secret,
            client_auth,
            optional,
            cache,
            timeout,
            in_flight,
            per_second,
        } = self;
        *url == other.url
            && *client_id == other.client_id
            && client_secret.expose_secret() == other.client_secret.expose_secret()
            && *client_auth == other.client_auth
            && *optional == other.optional
            && *cache == other.cache
            && *timeout == other.timeout
            && *in_flight == other.in_flight
            && *per_second == other.per_second
    }
}

impl Eq for Introspection {}

const SECOND: Duration = Duration::from_secs(1);

/// Whether an issuer signs no JWTs that are taken: it is asked about opaque tokens alone.
pub(super) fn is_opaque_alone(section: &Section<'_>) -> bool {
    let is_discovered = section.get("discovery").is_some_and(|item| !item.is_false());
    let has_keys = section.get("jwks").is_some() || is_discovered;
    section.get("introspection").is_some() && !has_keys
}

/// Reads the table.
pub(super) fn read(section: Section<'_>, reach: &Reach) -> Option<Introspection> {
    let want = "an https:// URL (http:// on loopback or to a network of allow_private)";
    let url = section.required("url", want).and_then(|item| {
        item.read(want, |text| {
            let url = Url::parse(text).filter(|url| url.is_safe_within(reach))?;
            (!url.rest.contains('#')).then(|| text.to_owned())
        })
    });
    let want = "the client id of this gateway at the issuer";
    let client_id = section.required("client_id", want);
    let client_id = client_id.and_then(|item| item.text(want).map(str::to_owned));
    let client_secret = section.required("client_secret", "a reference: \"env:NAME\" or \"file:PATH\"");
    let client_secret = client_secret.as_ref().and_then(secret);
    let words = [("iss", true), ("aud", false)];
    let optional = section.list("optional", |item| item.choice(&words));
    let optional = OptionalMembers { iss: optional.contains(&true), aud: optional.contains(&false) };
    if optional.aud
        && let Some(item) = section.get("optional")
    {
        warn_of_any_audience(&item);
    }
    let introspection = Introspection {
        client_auth: section.choice(
            "client_auth",
            &[("basic", IntrospectionAuth::Basic), ("post", IntrospectionAuth::Post)],
            IntrospectionAuth::Basic,
        ),
        optional,
        cache: section.duration("cache", 10 * SECOND, SECOND..=60 * SECOND),
        timeout: section.duration("timeout", 5 * SECOND, SECOND / 10..=30 * SECOND),
        in_flight: section.count("in_flight", 32, 1..=1000),
        per_second: section.count("per_second", 50, 1..=10_000),
        url: url.unwrap_or_default(),
        client_id: client_id.unwrap_or_default(),
        client_secret: client_secret.unwrap_or_default(),
    };
    section.close();
    let is_whole = !introspection.url.is_empty() && !introspection.client_id.is_empty();
    is_whole.then_some(introspection)
}

fn warn_of_any_audience(item: &Item<'_>) {
    let text = "a token that this issuer handed out for any other app opens the routes that take its opaque tokens, where the \
                answer has no `aud`; `audience_claim = \"client_id\"` on the issuer says for which app it was";
    item.doc.warn(item.at, &item.key, text);
}
