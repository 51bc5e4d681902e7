//! Tokens that a proxy in front of the gateway hands on in a field of its own: Cloudflare Access, Google's
//! Identity-Aware Proxy, and the load balancers of AWS.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::keys::{Key, jwks, merge, now};
use crate::support::neighbours::{Scripted, read_head};
use crate::support::{Gateway, Upstream, field, status};

const CLOUDFLARE: &str = "https://example.cloudflareaccess.com";
const GOOGLE: &str = "https://cloud.google.com/iap";
const BACKEND: &str = "/projects/123456789/global/backendServices/987654321";
const TAG: &str = "32eafc7626e737474c68d42b41cb0a9b0e4ec9bf4b5ba5ea8a4ddeb8c05b0a6f";

/// <https://developers.cloudflare.com/cloudflare-one/identity/authorization-cookie/application-token/>
fn cloudflare(change: Value) -> Value {
    let mut claims = json!({
        "aud": [TAG], "email": "user@example.com", "exp": now() + 600, "iat": now(), "nbf": now(), "iss": CLOUDFLARE,
        "type": "app", "identity_nonce": "6ei69kawdKzMIAPF", "sub": "7335d417-61da-459d-899c-0a01c76a2f94", "country": "US",
    });
    merge(&mut claims, &change);
    claims
}

/// <https://cloud.google.com/iap/docs/signed-headers-howto>
fn google(change: Value) -> Value {
    let mut claims = json!({
        "iss": GOOGLE, "aud": BACKEND, "azp": BACKEND, "iat": now(), "exp": now() + 600, "hd": "example.com",
        "sub": "accounts.google.com:118133858486581853996", "email": "user@example.com", "google": {"access_levels": []},
    });
    merge(&mut claims, &change);
    claims
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fields_of_cloudflare_and_google_carry_tokens_and_reach_no_app() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (cf, iap) = (Key::rs("cf"), Key::es("iap"));
    let mut text = String::new();
    for (issuer, audience, algorithm, key) in
        [(CLOUDFLARE, TAG, "RS256", &cf), (GOOGLE, BACKEND, "ES256", &iap)]
    {
        let file = folder.path().join(format!("{}.json", key.kid));
        std::fs::write(&file, jwks(&[key])).unwrap();
        text += &format!(
            "[[issuers]]\nissuer = \"{issuer}\"\njwks = \"file:{}\"\naudiences = [\"{audience}\"]\n\
             algorithms = [\"{algorithm}\"]\nemail = \"trusted\"\n",
            file.display()
        );
    }
    let route = |name, keys: &str| crate::support::route(name, upstream.address, keys);
    text += &route(
        "cf",
        &format!("token = {{ header = \"Cf-Access-Jwt-Assertion\" }}\nissuers = [\"{CLOUDFLARE}\"]"),
    );
    text += &route(
        "iap",
        &format!("token = {{ header = \"x-goog-iap-jwt-assertion\" }}\nissuers = [\"{GOOGLE}\"]"),
    );
    text += &route("open", "auth = \"none\"");
    let gateway = Gateway::start(&text).await;
    let last = || upstream.requests().last().cloned().unwrap_or_default();

    let (cf_token, iap_token) = (cf.token(&cloudflare(json!({}))), iap.token(&google(json!({}))));
    for (path, name, token, subject) in [
        ("/cf", "cf-access-jwt-assertion", &cf_token, "7335d417-61da-459d-899c-0a01c76a2f94"),
        ("/cf", "CF-Access-JWT-Assertion", &cf_token, "7335d417-61da-459d-899c-0a01c76a2f94"),
        ("/iap", "X-Goog-Iap-Jwt-Assertion", &iap_token, "accounts.google.com:118133858486581853996"),
    ] {
        // What the same proxy says without a signature is taken out, too.
        let spoofed = "Cf-Access-Authenticated-User-Email: root@example.com\r\n\
                       X-Goog-Authenticated-User-Email: accounts.google.com:root@example.com\r\n";
        let answer = gateway.get(path, &format!("{name}: {token}\r\n{spoofed}")).await;
        assert_eq!(status(&answer), 200, "{path} {name}: {answer}");
        let seen = last();
        assert_eq!(field(&seen, "x-auth-subject"), Some(subject), "{seen}");
        assert_eq!(field(&seen, "x-auth-email"), Some("user@example.com"), "{seen}");
        assert!(!seen.contains(token.as_str()) && !seen.contains("root"), "{seen}");
    }
    // On every other route, and in every spelling, it goes no further.
    for name in ["Cf-Access-Jwt-Assertion", "Cf_Access_Jwt_Assertion", "x-goog-iap-jwt-assertion"] {
        assert_eq!(status(&gateway.get("/open", &format!("{name}: {cf_token}\r\n")).await), 200);
        assert!(!last().contains(&cf_token), "{name}: {}", last());
    }

    let forwarded = upstream.requests().len();
    let other = |change: Value| cf.token(&cloudflare(change));
    for (what, fields, want) in [
        ("none", String::new(), 401),
        ("another spelling", format!("Cf_Access_Jwt_Assertion: {cf_token}\r\n"), 401),
        ("an empty field", "Cf-Access-Jwt-Assertion: \r\n".to_owned(), 401),
        ("two lines", format!("Cf-Access-Jwt-Assertion: {cf_token}\r\n").repeat(2), 400),
        ("two lines in one", format!("Cf-Access-Jwt-Assertion: {cf_token}, {cf_token}\r\n"), 400),
        (
            "one that is empty",
            format!("Cf-Access-Jwt-Assertion: {cf_token}\r\nCf-Access-Jwt-Assertion:\r\n"),
            400,
        ),
        (
            "another token beside it",
            format!("Cf-Access-Jwt-Assertion: {cf_token}\r\nAuthorization: Bearer {cf_token}\r\n"),
            400,
        ),
        ("another issuer", format!("Cf-Access-Jwt-Assertion: {iap_token}\r\n"), 401),
        ("the field of another", format!("X-Goog-Iap-Jwt-Assertion: {cf_token}\r\n"), 401),
        (
            "another app",
            format!("Cf-Access-Jwt-Assertion: {}\r\n", other(json!({"aud": ["0".repeat(64)]}))),
            401,
        ),
        ("over", format!("Cf-Access-Jwt-Assertion: {}\r\n", other(json!({"exp": now() - 61}))), 401),
        ("padded", format!("Cf-Access-Jwt-Assertion: {cf_token}==\r\n"), 401),
    ] {
        let answer = gateway.get("/cf", &fields).await;
        assert_eq!(status(&answer), want, "{what}: {answer}");
    }
    assert_eq!(upstream.requests().len(), forwarded);
}

const COGNITO: &str = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_Example";
const ARN: &str =
    "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/web/50dc6c495c0c9188";
const KID: &str = "8d72a3d1-3b4c-4f5e-9a6b-7c8d9e0f1a2b";

/// <https://docs.aws.amazon.com/elasticloadbalancing/latest/application/listener-authenticate-users.html>
fn balancers(key: &Key, head: Value, claims: Value) -> String {
    let mut header = json!({"typ": "JWT", "kid": key.kid, "alg": "ES256", "iss": COGNITO, "client": "client-id", "signer": ARN,
        "exp": now() + 120});
    merge(&mut header, &head);
    let mut payload = json!({"sub": "1234567890", "name": "name", "email": "alias@example.com", "email_verified": "true",
        "exp": now() + 120, "iss": COGNITO});
    merge(&mut payload, &claims);
    let signed = format!("{}.{}", URL_SAFE.encode(header.to_string()), URL_SAFE.encode(payload.to_string()));
    format!("{signed}.{}", URL_SAFE.encode(key.signature(signed.as_bytes())))
}

/// The public key as AWS publishes it (RFC 5480 §2).
fn pem(key: &Key) -> String {
    const P256: [u8; 26] = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
        0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    let der = [&P256[..], &crate::support::keys::public_der(key)].concat();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_of_aws_speaks_in_its_own_field_and_nowhere_else() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (key, jwt_key) = (Key::es(KID), Key::es("jwt"));
    let file = folder.path().join("keys.json");
    std::fs::write(&file, jwks(&[&jwt_key, &key])).unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (paths, served) = (Arc::clone(&asked), pem(&key));
    let aws = Scripted::start(move |mut stream| {
        let (paths, served) = (Arc::clone(&paths), served.clone());
        async move {
            loop {
                let head = read_head(&mut stream).await;
                let Some(path) = head.split(' ').nth(1).map(str::to_owned) else { return };
                let is_it = path == format!("/keys/{KID}");
                paths.lock().unwrap().push(path);
                let (status, body) = if is_it { ("200 OK", &*served) } else { ("403 Forbidden", "") };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let route = |name, keys: &str| crate::support::route(name, upstream.address, keys);
    let api = "https://api.test";
    let text = format!(
        "[[issuers]]\nissuer = \"{COGNITO}\"\nkind = \"aws-alb\"\nregion = \"eu-central-1\"\nsigner = \"{ARN}\"\n\
         client = \"client-id\"\nkeys = \"http://{}/keys/\"\n\
         [[issuers]]\nissuer = \"{api}\"\njwks = \"file:{}\"\naudiences = [\"api\"]\nalgorithms = [\"ES256\"]\n",
        aws.address,
        file.display()
    ) + &route(
        "alb",
        &format!("token = {{ header = \"X-Amzn-Oidc-Data\" }}\nissuers = [\"{COGNITO}\", \"{api}\"]"),
    ) + &route("every", "token = { header = \"X-Gate\" }")
        + &route("open", "auth = \"none\"");
    let gateway = Gateway::start(&text).await;
    let last = || upstream.requests().last().cloned().unwrap_or_default();
    let token = balancers(&key, json!({}), json!({}));
    let send = |path: &'static str, fields: String| {
        let gateway = &gateway;
        async move { gateway.get(path, &fields).await }
    };

    let spoofed = "X-Amzn-Oidc-Identity: root\r\nX-Amzn-Oidc-Accesstoken: root\r\nX_Amzn_Oidc_Data: root\r\n";
    let answer = send("/alb", format!("x-amzn-oidc-data: {token}\r\n{spoofed}")).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = last();
    assert_eq!(field(&seen, "x-auth-subject"), Some("1234567890"), "{seen}");
    assert_eq!(field(&seen, "x-auth-issuer"), Some(COGNITO), "{seen}");
    assert_eq!(field(&seen, "x-auth-email"), Some("alias@example.com"), "{seen}");
    assert!(!seen.to_ascii_lowercase().contains("oidc") && !seen.contains("root"), "{seen}");
    // Beside it a program may send a JWT of an issuer that the route names, in the usual field.
    let jwt = |change: Value| {
        let mut claims = json!({"iss": api, "aud": "api", "sub": "program", "exp": now() + 60});
        merge(&mut claims, &change);
        jwt_key.token(&claims)
    };
    assert_eq!(status(&send("/alb", format!("Authorization: Bearer {}\r\n", jwt(json!({})))).await), 200);
    assert_eq!(field(&last(), "x-auth-subject"), Some("program"));

    let forwarded = upstream.requests().len();
    let as_jwt = key.token(&json!({"iss": COGNITO, "aud": "api", "sub": "ann", "exp": now() + 60}));
    for (what, path, fields, want) in [
        ("two lines", "/alb", format!("X-Amzn-Oidc-Data: {token}\r\n").repeat(2), 400),
        ("in Authorization", "/alb", format!("Authorization: Bearer {token}\r\n"), 401),
        ("on another route", "/every", format!("X-Amzn-Oidc-Data: {token}\r\n"), 401),
        ("in the field of another route", "/every", format!("X-Gate: {token}\r\n"), 401),
        ("in Authorization of another route", "/every", format!("Authorization: Bearer {token}\r\n"), 401),
        ("a JWT in its field", "/alb", format!("X-Amzn-Oidc-Data: {}\r\n", jwt(json!({}))), 401),
        ("a JWT of its issuer in its field", "/alb", format!("X-Amzn-Oidc-Data: {as_jwt}\r\n"), 401),
        ("a JWT of its issuer", "/alb", format!("Authorization: Bearer {as_jwt}\r\n"), 401),
        (
            "a JWT in the name of its issuer",
            "/alb",
            format!("Authorization: Bearer {}\r\n", jwt(json!({"iss": COGNITO}))),
            401,
        ),
        ("with the scheme", "/alb", format!("X-Amzn-Oidc-Data: Bearer {token}x\r\n"), 401),
        (
            "another load balancer",
            "/alb",
            format!(
                "X-Amzn-Oidc-Data: {}\r\n",
                balancers(&key, json!({"signer": ARN.replace("web", "evil")}), json!({}))
            ),
            401,
        ),
        (
            "a path for a key",
            "/alb",
            format!(
                "X-Amzn-Oidc-Data: {}\r\n",
                balancers(&key, json!({"kid": format!("../keys/{KID}")}), json!({}))
            ),
            401,
        ),
        (
            "over",
            "/alb",
            format!("X-Amzn-Oidc-Data: {}\r\n", balancers(&key, json!({"exp": now() - 61}), json!({}))),
            401,
        ),
    ] {
        let answer = send(path, fields).await;
        assert_eq!(status(&answer), want, "{what}: {answer}");
    }
    // A token of another kind with padding.
    let (signed, signature) =
        jwt(json!({})).rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    for path in ["/alb", "/every"] {
        let padded = format!("Authorization: Bearer {signed}.{signature}==\r\n");
        assert_eq!(status(&send(path, padded).await), 401, "{path}");
    }
    assert_eq!(upstream.requests().len(), forwarded);
    assert_eq!(status(&send("/open", format!("X-Amzn-Oidc-Data: {token}\r\n")).await), 200);
    assert!(!last().contains(&token));
    // A flood of keys that AWS might have.
    let flood = (0..50_u128).map(|n| {
        let kid = uuid::Uuid::from_u128(n).to_string();
        send("/alb", format!("X-Amzn-Oidc-Data: {}\r\n", balancers(&key, json!({"kid": kid}), json!({}))))
    });
    for answer in futures::future::join_all(flood).await {
        assert_eq!(status(&answer), 401);
    }
    let paths = asked.lock().unwrap().clone();
    assert!(paths.len() <= 2 && paths[0] == format!("/keys/{KID}"), "{paths:?}");
    assert_eq!(status(&send("/alb", format!("X-Amzn-Oidc-Data: {token}\r\n")).await), 200);
}
