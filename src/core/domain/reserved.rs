//! Spoofed header fields, which a client may not send: those that we set, and those in which apps and their
//! frameworks let a proxy in front of them say who the caller is, where a request came from, or what it really asks
//! for.
//!
//! Every name is compared as CGI reads it: `X_Auth_Subject` and `X.Auth.Subject` are `X-Auth-Subject` to some app.
//! A route lets single fields through by name (`pass`), in the one spelling that its configuration has.

use std::borrow::Cow;

/// The field in which gateways of ours name themselves to each other, so that a request that goes in circles is
/// noticed.
pub const HOPS: &str = "palisade-hops";

/// What says where a message ends: in any other spelling it would say so to one of two parties only.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

/// Where a request came from, as the gateway tells the upstream itself, and what contradicts it.
const ORIGIN: [&str; 20] = [
    "forwarded",
    "front-end-https",
    "x-forwarded",
    "x-forwarded-by",
    "x-forwarded-for",
    "x-forwarded-for-original",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-protocol",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-original-for",
    "x-original-host",
    "x-original-proto",
    "x-real-ip",
    "x-request-id",
    "x-scheme",
    "x-url-scheme",
];

/// Fields by which a request is given another path, method, host, scheme or client address, or passes for one that a
/// proxy in front of the app has authenticated. Sorted.
const OVERRIDES: &[&str] = &[
    "ali-cdn-real-ip",
    "cdn-src-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "cf-visitor",
    // RFC 9440.
    "client-cert",
    "client-cert-chain",
    "client-ip",
    "cloudfront-forwarded-proto",
    "cloudfront-viewer-address",
    "do-connecting-ip",
    // Elasticsearch.
    "es-security-runas-user",
    "fastly-client-ip",
    "fastly-ssl",
    "fly-client-ip",
    // oauth2-proxy, of old.
    "gap-auth",
    "gap-signature",
    "http-client-ip",
    "http-method-override",
    "http-x-forwarded-for",
    // httpoxy: CGI makes it HTTP_PROXY, by which programs find their proxy.
    "proxy",
    "proxy-client-ip",
    "request-uri",
    "script-name",
    // CA SiteMinder.
    "sm-universalid",
    "sm-user",
    "smuser",
    "true-client-ip",
    "wl-proxy-client-ip",
    "wl-proxy-ssl",
    // Rack::Sendfile: what the file that is sent is called.
    "x-accel-mapping",
    // AWS Lambda Web Adapter.
    "x-amzn-lambda-context",
    "x-amzn-request-context",
    "x-apigateway-api-userinfo",
    "x-arr-clientcert",
    "x-arr-ssl",
    "x-auth",
    "x-authenticated",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-cdn-src-ip",
    "x-client-dn",
    "x-client-ip",
    "x-client-s-dn",
    "x-client-subject-dn",
    "x-client-verify",
    "x-cluster-client-ip",
    "x-endpoint-api-userinfo",
    "x-host",
    "x-host-override",
    "x-http-destinationurl",
    "x-http-host",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    // Home Assistant.
    "x-ingress-path",
    // Next.js.
    "x-invoke-error",
    "x-invoke-output",
    "x-invoke-path",
    "x-invoke-query",
    "x-invoke-status",
    "x-jwt-assertion",
    "x-matched-path",
    "x-method",
    "x-method-override",
    "x-middleware-next",
    "x-middleware-override-headers",
    "x-middleware-redirect",
    "x-middleware-rewrite",
    "x-middleware-subrequest",
    "x-middleware-subrequest-id",
    "x-nf-client-connection-ip",
    "x-now-route-matches",
    "x-originating-ip",
    "x-path-info",
    // Apache NiFi.
    "x-proxiedentitieschain",
    "x-proxycontextpath",
    "x-proxyhost",
    "x-proxyport",
    "x-proxyscheme",
    "x-proxyuser-ip",
    "x-real-host",
    // Traefik.
    "x-replaced-path",
    "x-request-uri",
    "x-rstudio-request",
    "x-rstudio-root-path",
    // Posit Workbench.
    "x-rstudio-username",
    "x-script-name",
    "x-sendfile-type",
    "x-sso-user",
    "x-tls-client-cert",
    "x-token-subject",
    "x-userinfo",
    "x-waws-unencoded-url",
];

/// The same, by what the names begin with.
const FAMILIES: &[&str] = &[
    // Cloudflare Access.
    "cf-access-",
    "forwarded-",
    // Kubernetes.
    "impersonate-",
    // IBM Security Verify Access.
    "iv-",
    // mod_auth_mellon.
    "mellon-",
    // Oracle Access Manager.
    "oam-",
    // mod_auth_openidc.
    "oidc-",
    "palisade-",
    // Authelia and others.
    "remote-",
    // Shibboleth.
    "shib-",
    "ssl-",
    "tailscale-",
    // AWS load balancers.
    "x-amzn-mtls-",
    "x-amzn-oidc-",
    "x-appengine-",
    "x-auth-",
    "x-authenticated-",
    // authentik.
    "x-authentik-",
    "x-client-cert",
    // Kong.
    "x-consumer-",
    "x-credential-",
    "x-envoy-",
    "x-forward-",
    "x-forwarded-",
    // Google's Identity-Aware Proxy.
    "x-goog-authenticated-user-",
    "x-goog-iap-",
    // Azure App Service.
    "x-ms-client-principal",
    "x-ms-token-",
    "x-original-",
    "x-pomerium-",
    "x-proxy-",
    "x-remote-",
    "x-rewrite-",
    "x-ssl-",
    "x-tls-",
    "x-token-user-",
    "x-vouch-",
    // Grafana, Gitea.
    "x-webauth-",
];

/// Fields in which proxies in front of the gateway hand on a signed token, each of them reserved: a route may
/// name one as the field of its tokens (`token.header`). What stands in it is believed for its signature alone.
const TOKENS: [&str; 11] = [
    // Cloudflare Access.
    "cf-access-jwt-assertion",
    // AWS load balancers: the access token of the identity provider, and a statement of their own.
    "x-amzn-oidc-accesstoken",
    LOAD_BALANCER_CLAIMS,
    // oauth2-proxy, like `x-forwarded-access-token`.
    "x-auth-request-access-token",
    // authentik.
    "x-authentik-jwt",
    "x-forwarded-access-token",
    // Google's Identity-Aware Proxy.
    "x-goog-iap-jwt-assertion",
    // WSO2.
    "x-jwt-assertion",
    // Azure App Service.
    "x-ms-token-aad-access-token",
    "x-ms-token-aad-id-token",
    "x-pomerium-jwt-assertion",
];

/// The field in which a load balancer of AWS says who the caller is, as a token of a form of its own.
pub const LOAD_BALANCER_CLAIMS: &str = "x-amzn-oidc-data";

/// Whether the field of this name, in lower case, hands on a token that can be verified, although no client may send it
/// on to an app.
#[must_use]
pub fn hands_on_a_token(name: &str) -> bool {
    TOKENS.contains(&name)
}

/// Fields of one connection (RFC 9110 §7.6.1), of HTTP itself, and of the caller's own credentials.
const PROTOCOL: [&str; 21] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// The names that a client may not send, in every spelling that a server might fold into them.
#[derive(Debug, Clone)]
pub struct Reserved {
    /// Folded, in the order of the alphabet.
    names: Vec<Cow<'static, str>>,
    /// For each pair of a first and a third byte, the lengths that reserved names with them have, the longest
    /// together: most names of a request are told by it to be none, without a look at the rest of them.
    sieve: Box<[u64; 1024]>,
}

impl Default for Reserved {
    fn default() -> Reserved {
        Reserved::new(std::iter::empty())
    }
}

impl Reserved {
    /// The fields that no client may send, and `ours`: the fields that any route sets for its upstream.
    #[must_use]
    pub fn new<'a>(ours: impl Iterator<Item = &'a str>) -> Reserved {
        let fixed = ORIGIN.iter().chain(OVERRIDES).map(|name| Cow::Borrowed(*name));
        let ours = ours.map(|name| Cow::Owned(fold(name).into_owned()));
        let mut names: Vec<Cow<'static, str>> = fixed.chain(ours).collect();
        names.sort();
        names.dedup();
        let mut sieve = Box::new([0; 1024]);
        for name in names.iter().map(AsRef::as_ref).chain(FRAMING) {
            sieve[place(name)] |= 1 << bit(name.len());
        }
        for family in FAMILIES {
            sieve[place(family)] |= u64::MAX << bit(family.len());
        }
        Reserved { names, sieve }
    }

    /// Whether a name may be a reserved one by its length and the two bytes, which no spelling changes.
    #[inline]
    fn may_take(&self, name: &str) -> bool {
        self.sieve[place(name)] >> bit(name.len()) & 1 == 1
    }

    /// Whether a client may not send a field of this name, which is in lower case.
    #[must_use]
    #[inline]
    pub fn takes(&self, name: &str) -> bool {
        if !self.may_take(name) {
            return false;
        }
        let folded = fold(name);
        self.names.binary_search_by(|ours| (**ours).cmp(&folded)).is_ok()
            || FAMILIES.iter().any(|family| folded.starts_with(family))
            || (folded != name && FRAMING.contains(&&*folded))
    }
}

/// The place of a name in the sieve. Separators are one byte there, as they are to [`fold`].
fn place(name: &str) -> usize {
    let byte = |at: usize| match name.as_bytes().get(at) {
        Some(byte) if byte.is_ascii_alphanumeric() => usize::from(byte & 31),
        Some(_) | None => 0,
    };
    byte(0) << 5 | byte(2)
}

/// The place of a length in a row of 64 bits; what is longer shares the last.
const fn bit(length: usize) -> u32 {
    if length < 63 { length as u32 } else { 63 }
}

/// Why a route may not let a field of this name through, in any spelling; `None` when it may.
#[must_use]
pub fn never_passes(name: &str) -> Option<&'static str> {
    let folded = name.to_ascii_lowercase();
    let folded = fold(&folded);
    if folded == "x-auth" || folded.starts_with("x-auth-") {
        Some("the identity that the gateway vouches for")
    } else if ORIGIN.contains(&&*folded) || folded.starts_with("forwarded-") {
        Some("where a request came from, which the gateway says itself")
    } else if PROTOCOL.contains(&&*folded) || folded == HOPS {
        Some("HTTP's own, of the connection, or a credential")
    } else {
        None
    }
}

/// Whether apps take what stands in a field of this name for the user that a request is from: of the fields that no client
/// may send those whose names end so, and the names that apps choose for themselves.
#[must_use]
pub fn names_a_user(name: &str) -> bool {
    const CHOSEN: [&str; 7] =
        ["x-email", "x-login", "x-user", "x-user-email", "x-user-id", "x-user-name", "x-username"];
    const ENDS: [&str; 17] = [
        "account",
        "credential-identifier",
        "custom-id",
        "dn",
        "email",
        "login",
        "mail",
        "principal",
        "principal-name",
        "sub",
        "subject",
        "uid",
        "universalid",
        "user",
        "user-id",
        "userid",
        "username",
    ];
    let folded = name.to_ascii_lowercase();
    let folded = fold(&folded);
    let ends = |end: &&str| folded.strip_suffix(*end).is_some_and(|start| start.ends_with('-'));
    CHOSEN.contains(&&*folded)
        || folded == "smuser"
        || Reserved::default().takes(&folded) && ENDS.iter().any(ends)
}

/// Lower case, with `-` for whatever is neither letter nor digit: CGI-like servers read `_` and `-` as
/// one, PHP `.` as well, and some make one of every other character too.
#[must_use]
pub fn fold(name: &str) -> Cow<'_, str> {
    let is_kept = |byte: u8| byte == b'-' || byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if name.bytes().all(is_kept) {
        return Cow::Borrowed(name);
    }
    let folded =
        |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
    Cow::Owned(name.chars().map(folded).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a browser and a program that calls an API send.
    const USUAL: [&str; 30] = [
        "accept",
        "accept-encoding",
        "accept-language",
        "authorization",
        "cache-control",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "dnt",
        "host",
        "if-none-match",
        "origin",
        "pragma",
        "priority",
        "range",
        "referer",
        "sec-ch-ua",
        "sec-ch-ua-mobile",
        "sec-ch-ua-platform",
        "sec-fetch-dest",
        "sec-fetch-mode",
        "sec-fetch-site",
        "sec-fetch-user",
        "te",
        "traceparent",
        "upgrade-insecure-requests",
        "user-agent",
        "x-csrf-token",
        "x-requested-with",
    ];

    #[test]
    fn the_lists_are_in_the_form_that_they_are_compared_in() {
        for list in [&ORIGIN[..], OVERRIDES, FAMILIES, &PROTOCOL] {
            assert!(list.is_sorted(), "{list:?}");
            for name in list {
                assert_eq!(fold(name), *name);
            }
        }
    }

    #[test]
    fn every_reserved_name_is_taken_in_every_spelling() {
        let reserved = Reserved::new(["X-User", "Remote_User"].into_iter());
        let families = FAMILIES.iter().map(|family| format!("{family}anything"));
        let exact = ORIGIN.iter().chain(OVERRIDES).map(|name| (*name).to_owned());
        for name in families.chain(exact).chain(["x-user".to_owned()]) {
            for separator in ["-", "_", ".", "~", "!"] {
                let spelling = name.replace('-', separator);
                assert!(reserved.takes(&spelling), "{spelling}");
            }
        }
        for name in ["content_length", "transfer.encoding"] {
            assert!(reserved.takes(name), "{name}");
        }
    }

    #[test]
    fn a_field_that_hands_on_a_token_is_reserved_and_named_in_one_spelling() {
        let reserved = Reserved::default();
        assert!(TOKENS.is_sorted());
        for name in TOKENS {
            assert_eq!(fold(name), name);
            assert!(reserved.takes(name) && hands_on_a_token(name), "{name}");
        }
        for name in
            ["cf_access_jwt_assertion", "cf-access-authenticated-user-email", "x-auth-subject", "x-user"]
        {
            assert!(!hands_on_a_token(name), "{name}");
        }
    }

    #[test]
    fn what_clients_send_is_told_by_two_bytes_and_the_length() {
        let reserved = Reserved::default();
        for name in USUAL {
            assert!(!reserved.takes(name), "{name}");
        }
        for name in ["x-authority", "x-api-key", "x-client-data", "x-client-version", "x-xsrf-token", "via"] {
            assert!(!reserved.takes(name), "{name}");
        }
        // Only for these are names compared at all.
        let looked_at: Vec<&str> = USUAL.into_iter().filter(|name| reserved.may_take(name)).collect();
        assert_eq!(
            looked_at,
            ["connection", "content-length", "if-none-match", "x-csrf-token", "x-requested-with"]
        );
    }

    #[test]
    fn fields_that_apps_take_for_a_user_are_known_in_every_spelling() {
        for name in [
            "Remote-User",
            "REMOTE_USER",
            "remote.email",
            "X-Remote-User",
            "X-WEBAUTH-USER",
            "X-WebAuth-Email",
            "X-Forwarded-User",
            "X-Forwarded-Preferred-Username",
            "X-Forwarded-Email",
            "X-Auth-User",
            "X-Auth-Username",
            "X-Auth-Request-User",
            "X-Auth-Request-Email",
            "X-Authentik-Uid",
            "X-Authenticated-UserId",
            "Tailscale-User-Login",
            "Cf-Access-Authenticated-User-Email",
            "X-Goog-Authenticated-User-ID",
            "X-MS-Client-Principal-Name",
            "OIDC-Claim-Sub",
            "Impersonate-User",
            "X-SSO-User",
            "SmUser",
            "SM_UNIVERSALID",
            "X-Consumer-Custom-Id",
            "X-Client-S-DN",
            "X-User",
            "x_user_id",
        ] {
            assert!(names_a_user(name), "{name}");
        }
        for name in [
            "Remote-Name",
            "Remote-Groups",
            "X-WEBAUTH-NAME",
            "X-Auth-Department",
            "X-Manager-Email",
            "X-Department",
            "X-Request-Id",
            "X-Auth-Tenant-Id",
            "X-Superuser",
            "X-Display-Name",
            "User-Agent",
        ] {
            assert!(!names_a_user(name), "{name}");
        }
    }

    #[test]
    fn some_names_never_pass() {
        for name in [
            "X-Auth-Subject",
            "x_auth_anything",
            "X-Auth",
            "Forwarded",
            "X.Forwarded.For",
            "X-FORWARDED_PROTO",
            "X-Real-IP",
            "X-Request-Id",
            "Connection",
            "Keep_Alive",
            "TE",
            "Proxy-Authorization",
            "Transfer_Encoding",
            "CONTENT.LENGTH",
            "Host",
            "Cookie",
            "authorization",
            "Palisade-Hops",
        ] {
            assert!(never_passes(name).is_some(), "{name}");
        }
        for name in ["X-HTTP-Method-Override", "Remote-User", "X-Forwarded-User", "X-Original-URL", "Proxy"] {
            assert_eq!(never_passes(name), None, "{name}");
        }
    }
}
