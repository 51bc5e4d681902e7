//! Between the plugin's values and ours. What comes from a plugin is checked here, and only here.

use std::time::Duration;

use regex::{Regex, RegexBuilder};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::bindings::exports::palisade::provider::plugin::{Authorization as WitAuthorization, Description};
use super::bindings::palisade::provider::types;
use super::granted;
use super::lines::{escaped, is_plain};
use super::secrets::Secrets;
use crate::config::AllowedHost;
use palisade_core::domain::connection::{Account, MAX_REASON};
use palisade_core::domain::reach::Reach;
use palisade_core::ports::{Authorization, CurrentTokens, ParameterInfo, Pkce, ProviderCall, ProviderFault};

/// The longest identifier, address and name of an account, in bytes.
const SUBJECT: usize = 255;
const EMAIL: usize = 320;
const NAME: usize = 256;
/// The longest URL that browsers and providers take.
const AUTHORIZATION_URL: usize = 8192;
/// What a description may hold.
const DESCRIBED: usize = 64;
const DESCRIBED_TEXT: usize = 1024;
/// The longest value of a parameter, in bytes.
const PARAMETER: usize = 1024;
/// The longest `retry-after` of a provider that is kept.
const RETRY_AFTER: Duration = Duration::from_secs(86_400);
/// How much of a failure's text is searched for secrets, in bytes. Less than that is passed on.
const SEARCHED: usize = 4096;
/// The largest compiled pattern, in bytes.
const PATTERN: usize = 256 << 10;

/// A parameter and what it must look like.
pub(super) struct Parameter {
    pub(super) info: ParameterInfo,
    pattern: Regex,
}

/// The parameters of a description, those named in `secret` marked as secrets.
///
/// # Errors
/// What cannot be used, for the plugin's author.
pub(super) fn parameters(described: &Description, secret: &[String]) -> Result<Vec<Parameter>, String> {
    let texts = [&described.display_name, &described.version].into_iter().chain(&described.docs);
    let of_parameters = described.parameters.iter().flat_map(|parameter| {
        [&parameter.name, &parameter.summary, &parameter.pattern].into_iter().chain(&parameter.example)
    });
    let of_settings = described.settings.iter().flat_map(|setting| [&setting.name, &setting.summary]);
    let mut all = texts.chain(of_parameters).chain(of_settings).chain(&described.hosts);
    // Logs, terminals and pages show them.
    if all.any(|text| text.len() > DESCRIBED_TEXT || !is_plain(text)) {
        return Err(format!(
            "its description has a text of more than {DESCRIBED_TEXT} bytes, or with control characters"
        ));
    }
    if described.docs.as_ref().is_some_and(|docs| !is_web_page(docs)) {
        return Err("its description names documentation that is no URL of a web page".to_owned());
    }
    let lists = [described.parameters.len(), described.settings.len(), described.hosts.len()];
    if lists.iter().any(|count| *count > DESCRIBED) {
        return Err(format!("its description has a list of more than {DESCRIBED} items"));
    }
    granted::are_scopes(&described.scopes)?;
    let mut parameters: Vec<Parameter> = Vec::with_capacity(described.parameters.len());
    for parameter in &described.parameters {
        let name = &parameter.name;
        if name.is_empty() || parameters.iter().any(|known| known.info.name == *name) {
            return Err(format!(
                "its description names the parameter {:?} twice, or not at all",
                escaped(name)
            ));
        }
        // Anchored as a whole: `^a|b$` would match any value that ends with `b`.
        let pattern = RegexBuilder::new(&format!(r"\A(?:{})\z", parameter.pattern))
            .size_limit(PATTERN)
            .dfa_size_limit(PATTERN)
            .build()
            .map_err(|_| {
                format!(
                    "the pattern of its parameter {} is no regular expression, or too large",
                    escaped(name)
                )
            })?;
        let info = ParameterInfo {
            name: name.clone(),
            summary: parameter.summary.clone(),
            pattern: parameter.pattern.clone(),
            example: parameter.example.clone(),
            required: parameter.required,
            secret: secret.contains(name),
        };
        parameters.push(Parameter { info, pattern });
    }
    match secret.iter().find(|name| !parameters.iter().any(|known| known.info.name == **name)) {
        Some(name) => Err(format!(
            "providers.secret_parameters names {:?}, which is no parameter of its component",
            escaped(name)
        )),
        None => Ok(parameters),
    }
}

/// Whether a page may link to `text`: `javascript:` is a URL, too.
fn is_web_page(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "https" | "http"))
}

/// Whether what a user gave is what `parameters` ask for.
///
/// # Errors
/// [`ProviderFault::InvalidParameter`].
pub(super) fn check(parameters: &[Parameter], call: &ProviderCall) -> Result<(), ProviderFault> {
    let value = |name: &str| {
        let secret = call.secret_parameters.get(name).map(ExposeSecret::expose_secret);
        secret.or_else(|| call.parameters.get(name).map(String::as_str))
    };
    let fault = |name: &str, summary: &str| {
        Err(ProviderFault::InvalidParameter { name: name.to_owned(), summary: summary.to_owned() })
    };
    for name in call.parameters.keys().chain(call.secret_parameters.keys()) {
        if !parameters.iter().any(|parameter| parameter.info.name == *name) {
            return fault(&escaped(name), "there is no such parameter");
        }
    }
    for Parameter { info, pattern } in parameters {
        let fits = match value(&info.name) {
            None => !info.required,
            Some(value) => value.len() <= PARAMETER && pattern.is_match(value),
        };
        if !fits {
            return fault(&info.name, &info.summary);
        }
    }
    Ok(())
}

/// The connection as a plugin sees it.
pub(super) fn connection(
    call: &ProviderCall,
    client_id: &SecretString,
    redirect_uri: &str,
    settings: &str,
) -> types::Connection {
    types::Connection {
        client_id: client_id.expose_secret().to_owned(),
        redirect_uri: redirect_uri.to_owned(),
        settings: settings.to_owned(),
        parameters: call
            .parameters
            .clone()
            .into_iter()
            .chain(call.secret_parameters.iter().map(|(name, value)| (name.clone(), exposed(value))))
            .collect(),
        kept: call.kept.iter().map(|(name, value)| (name.clone(), exposed(value))).collect(),
        scopes: call.scopes.clone(),
    }
}

fn exposed(secret: &SecretString) -> String {
    secret.expose_secret().to_owned()
}

pub(super) fn pkce(pkce: &Pkce) -> types::Pkce {
    types::Pkce { verifier: pkce.verifier.expose_secret().to_owned(), challenge: pkce.challenge.clone() }
}

pub(super) fn current(tokens: &CurrentTokens) -> types::CurrentTokens {
    types::CurrentTokens {
        access_token: exposed(&tokens.access_token),
        refresh_token: tokens.refresh_token.as_ref().map(exposed),
        expires_at: tokens.expires_at.map(|at| at.0),
        id_token: tokens.id_token.as_ref().map(exposed),
    }
}

/// A plugin's failure. Whatever its text says, `secrets` are not in it.
pub(super) fn failure(failure: types::Failure, secrets: &Secrets) -> ProviderFault {
    let text = |text: String| summary(&secrets.hide(&text[..text.floor_char_boundary(SEARCHED)]));
    match failure {
        types::Failure::InvalidGrant(why) => ProviderFault::InvalidGrant(text(why)),
        types::Failure::Misconfigured(why) => ProviderFault::Misconfigured(text(why)),
        types::Failure::ProviderError(why) => ProviderFault::ProviderError(text(why)),
        types::Failure::Transient(why) => ProviderFault::Transient {
            reason: text(why.message),
            retry_after: why.retry_after.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER)),
        },
    }
}

/// `text` for a log: one line, and not long.
pub(super) fn summary(text: &str) -> String {
    let mut line = escaped(text);
    line.truncate(line.floor_char_boundary(MAX_REASON));
    line
}

/// Where the plugin wants the user to go.
///
/// # Errors
/// Why the user is not sent there.
pub(super) fn authorization(
    asked: WitAuthorization,
    state: &SecretString,
    allowed: &[AllowedHost],
    allow_loopback: bool,
    reach: &Reach,
) -> Result<Authorization, String> {
    let WitAuthorization::Visit(text) = asked else { return Ok(Authorization::Unattended) };
    if text.len() > AUTHORIZATION_URL {
        return Err(format!("an authorization URL of more than {AUTHORIZATION_URL} bytes"));
    }
    let url = Url::parse(&text).map_err(|error| format!("an authorization URL that is none: {error}"))?;
    let host = url.host_str().unwrap_or_default();
    let usual = match url.scheme() {
        "https" => 443,
        // In cleartext as for the plugin's own requests: to this machine, and into a network that was opened.
        "http" if (allow_loopback && is_loopback(&url)) || may_be_opened(&url, reach) => 80,
        _ => return Err("an authorization URL that is not https".to_owned()),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err("an authorization URL with a user name".to_owned());
    }
    let port = url.port().unwrap_or(usual);
    if !allowed.iter().any(|pattern| pattern.covers(host, port, usual)) {
        return Err(format!(
            "an authorization URL at {host}:{port}, which providers.allowed_hosts does not list"
        ));
    }
    let state = state.expose_secret();
    let carried = |part: Option<&str>| part.is_some_and(|part| part.contains(state));
    if !carried(url.query()) && !carried(url.fragment()) {
        return Err("an authorization URL without the state".to_owned());
    }
    // The parsed form, and not the text as it was written: a browser must find the same host that was checked.
    Ok(Authorization::Visit(url.into()))
}

/// Whether the host is in a network that was opened. Where a name leads the browser finds out, and not we.
fn may_be_opened(url: &Url, reach: &Reach) -> bool {
    match url.host() {
        Some(url::Host::Domain(_)) => !is_loopback(url) && !reach.allow_private.is_empty(),
        Some(url::Host::Ipv4(ip)) => reach.opens(ip.into()),
        Some(url::Host::Ipv6(ip)) => reach.opens(ip.into()),
        None => false,
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Refuses the callback of another provider (mix-up, RFC 9700 §4.4). When the callback names its issuer (`iss`, RFC
/// 9207), that must be on a host of this provider. Otherwise another provider's code would be sent to this provider's
/// token endpoint.
///
/// # Errors
/// Why it is not taken.
pub(super) fn sender(callback: &[(String, SecretString)], allowed: &[AllowedHost]) -> Result<(), String> {
    for (_, issuer) in callback.iter().filter(|(name, _)| name == "iss") {
        let url = Url::parse(issuer.expose_secret()).ok();
        let usual = |url: &Url| if url.scheme() == "http" { 80 } else { 443 };
        let is_listed = |url: &Url| {
            let (host, usual) = (url.host_str().unwrap_or_default(), usual(url));
            allowed.iter().any(|pattern| pattern.covers(host, url.port().unwrap_or(usual), usual))
        };
        if !url.as_ref().is_some_and(is_listed) {
            let named = url.as_ref().and_then(Url::host_str).unwrap_or("no host");
            return Err(format!(
                "the callback says that it comes from {named} (`iss`), which providers.allowed_hosts does not list"
            ));
        }
    }
    Ok(())
}

/// Whose account it is, and notes about what was dropped of it. Where a user chooses which of the `allowed` hosts is
/// asked, no address counts as verified: the owner of a host below a wildcard could answer with any address.
///
/// # Errors
/// The identifier cannot be one. An odd address or name is dropped: the identifier tells accounts apart without it.
pub(super) fn account(
    account: types::Account,
    allowed: &[AllowedHost],
) -> Result<(Account, Vec<String>), String> {
    let fits = |text: &String, most: usize| text.len() <= most && !text.chars().any(char::is_control);
    let subject = &account.subject;
    if subject.is_empty() || !fits(subject, SUBJECT) {
        return Err(format!("an account's identifier that is empty or has more than {SUBJECT} bytes"));
    }
    let mut notes = Vec::new();
    let mut checked = |what: &str, text: Option<String>, most: usize| {
        let text = text.filter(|text| !text.is_empty())?;
        if fits(&text, most) {
            return Some(text);
        }
        notes.push(format!(
            "the account's {what} has more than {most} bytes, or control characters, and was dropped"
        ));
        None
    };
    let email = checked("address", account.email, EMAIL);
    let name = checked("name", account.name, NAME);
    let account = Account {
        subject: account.subject,
        email_verified: account.email_verified
            && email.is_some()
            && !allowed.iter().any(|pattern| pattern.wildcard),
        email,
        name,
    };
    Ok((account, notes))
}

/// The hosts of a description that the operator's list does not have; one without a port is there with any.
pub fn unlisted<'a>(described: &'a [String], allowed: &[AllowedHost]) -> Vec<&'a str> {
    let listed = |host: &String| {
        let host = host.to_ascii_lowercase();
        let (name, port) = match host.rsplit_once(':') {
            // The colons of an address in brackets are its own.
            Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, port.parse().ok()),
            _ => (&*host, None),
        };
        allowed.iter().any(|pattern| may_be(name, pattern) && port.is_none_or(|port| at_port(port, pattern)))
    };
    described.iter().filter(|host| !listed(host)).map(|host| &**host).collect()
}

/// Whether `pattern` has a host of this name. A `*` in the name stands for labels that a parameter or an answer
/// decides: where any of them is listed, the operator has thought of it.
fn may_be(name: &str, pattern: &AllowedHost) -> bool {
    let covers = |name: &str| pattern.covers(name, pattern.port.unwrap_or(443), 443);
    let (Some(front), Some(back)) = (name.split('*').next(), name.rsplit('*').next()) else { return false };
    if !name.contains('*') {
        return covers(name);
    }
    let sample = if pattern.wildcard { format!("any.{}", pattern.host) } else { pattern.host.clone() };
    let fits = sample.len() > front.len() + back.len() && sample.starts_with(front) && sample.ends_with(back);
    fits || covers(&name.replace('*', "any"))
}

/// Whether `pattern` has this port. A description does not say whether a host is called in cleartext.
fn at_port(port: u16, pattern: &AllowedHost) -> bool {
    pattern.port.map_or(matches!(port, 443 | 80), |own| own == port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_a_description_are_listed_or_named() {
        let pattern = |host: &str, wildcard, port| AllowedHost { host: host.to_owned(), wildcard, port };
        let allowed = [
            pattern("a.test", false, None),
            pattern("b.test", true, None),
            pattern("c.test", false, Some(8443)),
            pattern("eu.d.test", false, None),
            pattern("127.0.0.1", false, None),
            pattern("[::1]", false, Some(5000)),
        ];
        let described = [
            "*.d.test",
            "*",
            "eu.*.test:443",
            "127.0.0.1:80",
            "[::1]",
            "[::1]:5000",
            "[::2]",
            "[::1]:5001",
            "*.e.test",
            "a.test",
            "A.test:443",
            "*.b.test",
            "x.*.b.test",
            "c.test:8443",
            "c.test",
            "b.test",
            "*.a.test",
            "c.test:443",
        ];
        let described = described.map(str::to_owned);
        assert_eq!(
            unlisted(&described, &allowed),
            ["[::2]", "[::1]:5001", "*.e.test", "b.test", "*.a.test", "c.test:443"]
        );
    }

    #[test]
    fn nobody_vouches_for_an_address_where_users_choose_the_host() {
        let allowed = |wildcard| [AllowedHost { host: "a.test".to_owned(), wildcard, port: None }];
        for (email, wildcard, verified) in
            [(Some("a@b.test"), false, true), (Some("a@b.test"), true, false), (None, false, false)]
        {
            let said = types::Account {
                subject: "1".to_owned(),
                email: email.map(str::to_owned),
                email_verified: true,
                name: None,
            };
            assert_eq!(account(said, &allowed(wildcard)).unwrap().0.email_verified, verified, "{email:?}");
        }
    }

    #[test]
    fn an_odd_address_or_name_costs_nobody_the_account() {
        let said = |subject: &str, email: &str, name: &str| types::Account {
            subject: subject.to_owned(),
            email: Some(email.to_owned()),
            email_verified: true,
            name: Some(name.to_owned()),
        };
        let long = "x".repeat(400);
        for odd in [long.as_str(), "a\nb", "a\0"] {
            let (found, notes) = account(said("1", odd, odd), &[]).unwrap();
            assert_eq!((&*found.subject, &found.email, &found.name), ("1", &None, &None));
            assert!(!found.email_verified, "an address that was dropped is not verified");
            assert!(notes.len() == 2 && !notes.iter().any(|note| note.contains(odd)), "{notes:?}");
            assert!(account(said(odd, "a@b.test", "Ann"), &[]).is_err());
        }
        let (found, notes) = account(said("1", "a@b.test", "Ann"), &[]).unwrap();
        assert!(found.email_verified && found.name.is_some() && notes.is_empty());
    }

    #[test]
    fn a_description_is_plain_text_and_its_documentation_a_web_page() {
        let described = |docs: &str, example: &str| Description {
            display_name: "A".to_owned(),
            version: "1".to_owned(),
            docs: Some(docs.to_owned()),
            settings: Vec::new(),
            parameters: vec![super::super::bindings::exports::palisade::provider::plugin::Parameter {
                name: "shop".to_owned(),
                summary: "The shop".to_owned(),
                pattern: "a".to_owned(),
                example: Some(example.to_owned()),
                required: true,
            }],
            scopes: Vec::new(),
            hosts: Vec::new(),
            can_refresh: false,
            can_revoke: false,
            can_identify: false,
        };
        assert!(parameters(&described("https://a.test/docs", "b"), &["shop".to_owned()]).is_ok());
        assert!(parameters(&described("https://a.test/docs", "b"), &["key".to_owned()]).is_err());
        for docs in ["javascript:alert(1)", "data:text/html,x", "docs", ""] {
            assert!(parameters(&described(docs, "b"), &[]).is_err(), "{docs}");
        }
        for example in ["a\nb", "a\u{1b}[2J", "a\u{202e}b"] {
            assert!(parameters(&described("https://a.test", example), &[]).is_err(), "{example:?}");
        }
    }

    #[test]
    fn a_callback_of_another_provider_is_not_this_ones() {
        let pattern = |host: &str, wildcard, port| AllowedHost { host: host.to_owned(), wildcard, port };
        let allowed = [
            pattern("a.test", false, None),
            pattern("b.test", true, None),
            pattern("localhost", false, Some(81)),
        ];
        let from = |issuers: &[&str]| {
            let named = issuers.iter().map(|issuer| ("iss".to_owned(), SecretString::from(*issuer)));
            let other = ("code".to_owned(), "https://evil.test".into());
            sender(&std::iter::once(other).chain(named).collect::<Vec<_>>(), &allowed)
        };
        for good in [
            &[][..],
            &["https://a.test"],
            &["https://A.test/realms/x"],
            &["https://x.b.test/"],
            &["http://localhost:81"],
        ] {
            assert_eq!(from(good), Ok(()), "{good:?}");
        }
        for bad in [
            &["https://evil.test"][..],
            &["https://a.test.evil.test"],
            &["https://a.test@evil.test"],
            &["https://a.test:8443"],
            &["http://localhost"],
            &["a.test"],
            &[""],
            &["https://a.test", "https://evil.test"],
        ] {
            assert!(from(bad).is_err(), "{bad:?}");
        }
        let why = from(&["https://evil.test/secret?code=x"]).unwrap_err();
        assert!(
            why.contains("evil.test") && why.contains("allowed_hosts") && !why.contains("secret"),
            "{why}"
        );
    }

    #[test]
    fn no_secret_and_no_second_line_gets_into_a_summary() {
        let secrets = Secrets::of(["hunter2-hunter2".into(), "".into(), "short".into()]);
        let said = "short: hunter2-hunter2,\n\u{1b}hunter2-hunter2".to_owned();
        let fault = failure(types::Failure::ProviderError(said), &secrets);
        let text = "short: (a secret),\\n\\u{1b}(a secret)".to_owned();
        assert_eq!(fault, ProviderFault::ProviderError(text));
        assert!(summary(&"ä".repeat(10_000)).len() <= MAX_REASON);
    }
}
