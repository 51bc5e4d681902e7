//! Every class of token that a comparable gateway took for a good one, sent to a running gateway in front
//! of an upstream that records what arrives.

mod edges;
mod introspection;
mod issuers;
mod key_sets;
mod shapes;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::support::keys::{Key, b64, hs256, jwks, merge, now, public_der};
use crate::support::{Gateway, Upstream, body_of, field, status};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const A: &str = "https://a.test";
const B: &str = "https://b.test";
const OURS: &str = "https://us.test";

/// A gateway with two issuers beside our own, and their keys.
struct House {
    gateway: Gateway,
    upstream: Upstream,
    a: HashMap<&'static str, Key>,
    b: Key,
    _keys: tempfile::TempDir,
}

async fn house() -> House {
    let upstream = Upstream::start().await;
    let keys = tempfile::tempdir().unwrap();
    let a = [Key::ed("a-ed"), Key::es("a-es"), Key::rs("a-rs")];
    let b = Key::ed("b-ed");
    std::fs::write(keys.path().join("a.json"), jwks(&a.each_ref())).unwrap();
    std::fs::write(keys.path().join("b.json"), jwks(&[&b])).unwrap();
    let mut extra = format!("[tokens]\nissuer = \"{OURS}\"\naudience = \"api\"\n");
    for (issuer, file) in [(A, "a.json"), (B, "b.json")] {
        let file = keys.path().join(file);
        extra += &format!(
            "[[issuers]]\nissuer = \"{issuer}\"\njwks = \"file:{}\"\naudiences = [\"api\", \"second\"]\n\
             algorithms = [\"EdDSA\", \"ES256\", \"RS256\"]\n",
            file.display()
        );
    }
    let target = upstream.address;
    for (name, more) in [
        ("private", String::new()),
        ("only-a", format!("issuers = [\"{A}\"]")),
        ("only-b", format!("issuers = [\"{B}\"]")),
        ("scoped", "require = { scopes = [\"read\", \"write\"] }".to_owned()),
        ("mailed", "require = { email_verified = true }".to_owned()),
        ("role", "require = { claims = { role = [\"admin\", \"root\"] } }".to_owned()),
        ("optional", "auth = \"optional\"".to_owned()),
        (
            "carried",
            "token = { cookie = \"sess\", websocket_protocol = true, query = \"access_token\" }".to_owned(),
        ),
        (
            "asserted",
            format!(
                "issuers = [\"{A}\"]\nheaders = {{ subject = \"Remote-User\", assertion = \"X-Auth-Assertion\" }}"
            ),
        ),
        ("open", "auth = \"none\"".to_owned()),
    ] {
        extra += &crate::support::route(name, target, &more);
    }
    let gateway = Gateway::start(&extra).await;
    let a = ["ed", "es", "rs"].into_iter().zip(a).collect();
    House { gateway, upstream, a, b, _keys: keys }
}

impl House {
    async fn bearer(&self, path: &str, token: &str) -> String {
        self.gateway.get(path, &format!("Authorization: Bearer {token}\r\n")).await
    }

    async fn status(&self, path: &str, token: &str) -> u16 {
        status(&self.bearer(path, token).await)
    }

    /// What the upstream received last.
    fn last(&self) -> String {
        self.upstream.requests().last().cloned().unwrap_or_default()
    }

    fn data(&self) -> std::path::PathBuf {
        self.gateway.folder.path().join("data")
    }

    async fn minted(&self, body: Value) -> String {
        let (code, answer) = self.gateway.admin("POST", "/admin/v1/tokens", &body).await;
        assert_eq!(code, 201, "{answer}");
        answer["access_token"].as_str().unwrap().to_owned()
    }
}

/// Good claims of `issuer`, changed; `null` takes one out.
fn claims(issuer: &str, change: Value) -> Value {
    let mut claims = json!({"iss": issuer, "aud": "api", "sub": "alice", "iat": now(), "exp": now() + 600});
    merge(&mut claims, &change);
    claims
}

fn ours(change: Value) -> Value {
    let mut claims = claims(OURS, json!({"type": "access", "ver": 0, "jti": "j"}));
    merge(&mut claims, &change);
    claims
}

#[tokio::test(flavor = "multi_thread")]
async fn good_tokens_pass_and_tell_the_upstream_who() {
    let house = house().await;
    let said = claims(
        A,
        json!({"email": "a@b.test", "email_verified": true, "sid": "s1", "scope": "read write", "aud": ["x", "second"]}),
    );
    for (alg, key) in &house.a {
        for token in [
            key.token(&said),
            key.with_header(json!({"typ": "at+jwt"}), &said),
            key.with_header(json!({"typ": null}), &said),
            key.with_header(json!({"kid": null}), &said),
        ] {
            let answer = house.bearer("/private?x=1", &token).await;
            assert_eq!(status(&answer), 200, "{alg}: {answer}");
            let seen = house.last();
            assert_eq!(field(&seen, "x-auth-subject"), Some("alice"), "{seen}");
            assert_eq!(field(&seen, "x-auth-email"), Some("a@b.test"));
            assert_eq!(field(&seen, "x-auth-session"), Some("s1"));
            assert_eq!(field(&seen, "x-auth-scopes"), Some("read write"));
            assert_eq!(field(&seen, "authorization"), None);
            assert!(!seen.contains(&token), "{seen}");
        }
    }
    let minted = house.minted(json!({"sub": "bob", "scopes": ["read"], "email": "bob@b.test"})).await;
    assert_eq!(house.status("/private", &minted).await, 200);
    let seen = house.last();
    assert_eq!(field(&seen, "x-auth-subject"), Some("bob"));
    assert_eq!(field(&seen, "x-auth-email"), Some("bob@b.test"));
    assert!(!seen.contains(&minted), "{seen}");
    // By hand as the gateway would: the suite's own forgeries below fail for their own reasons only.
    let own = Key::of_gateway(&house.data());
    let by_hand = own.with_header(json!({"typ": "at+jwt"}), &ours(json!({})));
    assert_eq!(house.status("/private", &by_hand).await, 200);
    // As others write them: null for what is not known, scopes in a list, a `type` of their own.
    let head = json!({"alg": "EdDSA", "kid": house.a["ed"].kid}).to_string();
    for said in [
        r#""scope": ["read", "write"], "scp": null, "type": "app""#,
        r#""scope": null, "scp": ["read", "write"], "type": ["access"], "cnf": null"#,
        r#""scp": "read write", "type": null, "ver": null, "email_verified": null"#,
        r#""scope": "read write", "type": "access_token", "jti": null, "email": null, "sid": null"#,
    ] {
        let payload =
            format!(r#"{{"iss": "{A}", "aud": "api", "sub": "alice", "exp": {}, {said}}}"#, now() + 600);
        assert_eq!(house.status("/private", &house.a["ed"].raw(&head, &payload)).await, 200, "{said}");
        let seen = house.last();
        assert_eq!(field(&seen, "x-auth-scopes"), Some("read write"), "{said}: {seen}");
        assert_eq!(field(&seen, "x-auth-email").or(field(&seen, "x-auth-session")), None, "{said}: {seen}");
    }
    let lower = house.gateway.get("/private", &format!("authorization: bEARER   {minted}\r\n")).await;
    assert_eq!(status(&lower), 200, "{lower}");
}

/// Every bad token by the name of its class.
fn bad_tokens(house: &House, trap: SocketAddr) -> Vec<(String, String)> {
    let (ed, es, rs) = (&house.a["ed"], &house.a["es"], &house.a["rs"]);
    let good = claims(A, json!({}));
    let token = ed.token(&good);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let (head, payload) = signed.split_once('.').unwrap();
    let own = Key::of_gateway(&house.data());
    let own_typed = |change: Value| own.with_header(json!({"typ": "at+jwt"}), &ours(change));
    let mut bad: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, token: String| bad.push((name.to_owned(), token));

    for alg in ["none", "None", "nOnE", "NONE", "", "eddsa", "HS256", "HS512", "RS512", "PS256", "ES256K"] {
        add(&format!("alg {alg:?}"), ed.with_header(json!({"alg": alg}), &good));
        let unsigned = b64(json!({"alg": alg, "kid": "a-ed"}).to_string());
        add(&format!("alg {alg:?} unsigned"), format!("{unsigned}.{payload}."));
    }
    add("alg number", ed.with_header(json!({"alg": 7}), &good));
    add("no alg", ed.with_header(json!({"alg": null}), &good));
    add("alg of another key", rs.with_header(json!({"alg": "ES256"}), &good));
    for key in [ed, es, rs] {
        for (form, secret) in [
            ("JWK", key.jwk().to_string().into_bytes()),
            ("DER", public_der(key)),
            ("PEM", pem(&public_der(key)).into_bytes()),
            ("nothing", Vec::new()),
        ] {
            let name = format!("HS256 with the public {} key as {form}", key.alg);
            add(&name, hs256(&secret, &key.kid, "JWT", &good));
        }
    }
    let our_public = URL_SAFE_NO_PAD.decode(own.jwk()["x"].as_str().unwrap()).unwrap();
    add("HS256 with our public key", hs256(&our_public, &own.kid, "at+jwt", &ours(json!({}))));

    let trap_url = format!("http://{trap}/keys");
    for kid in [
        "../../dev/null",
        "/dev/null",
        "' OR 1=1--",
        "a-ed'; DROP TABLE keys;--",
        &trap_url,
        "b-ed",
        &own.kid,
        "a-es",
        "",
        "A-ED",
        "a-ed\u{0}",
    ] {
        add(&format!("kid {kid:?}"), ed.with_header(json!({"kid": kid}), &good));
    }
    for kid in [json!(1), json!(["a-ed"]), json!({"kid": "a-ed"}), json!(true)] {
        add(&format!("kid {kid}"), ed.with_header(json!({"kid": kid}), &good));
    }
    add("B's key for A", house.b.token(&good));
    add("A's key for B", ed.token(&claims(B, json!({}))));
    add("A's key for us", ed.with_header(json!({"typ": "at+jwt"}), &ours(json!({}))));
    add("our key for A", own.token(&good));
    let stranger = Key::ed("a-ed");
    add("a stranger's key", stranger.token(&good));
    for (name, value) in [
        ("jku", json!(trap_url)),
        ("x5u", json!(trap_url)),
        ("jwk", stranger.jwk()),
        ("x5c", json!(["AAAA"])),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("crit", json!("b64")),
    ] {
        add(&format!("{name} {value}"), ed.with_header(json!({name: value}), &good));
        add(&format!("{name}, a stranger's"), stranger.with_header(json!({name: value}), &good));
    }
    add("crit with b64", ed.with_header(json!({"crit": ["b64"], "b64": false}), &good));
    for bound in [json!({"jkt": "x"}), json!({"x5t#S256": "x"}), json!({}), json!("x"), json!(false)] {
        let mut claims = good.clone();
        claims["cnf"] = bound.clone();
        add(&format!("cnf {bound}"), ed.token(&claims));
        let mut claims = ours(json!({}));
        claims["cnf"] = bound.clone();
        add(&format!("ours, cnf {bound}"), own.with_header(json!({"typ": "at+jwt"}), &claims));
    }
    for typ in ["JWE", "refresh+jwt", "dpop+jwt", "logout+jwt", "secevent+jwt", ""] {
        add(&format!("typ {typ:?}"), ed.with_header(json!({"typ": typ}), &good));
    }
    add("typ number", ed.with_header(json!({"typ": 1}), &good));

    let jwe = b64(json!({"alg": "RSA-OAEP", "enc": "A256GCM", "kid": "a-rs"}).to_string());
    add("JWE", format!("{jwe}.AAAA.AAAA.AAAA.AAAA"));
    add("five parts", format!("{token}.AAAA.AAAA"));
    add("four parts", format!("{token}.AAAA"));
    add("two parts", signed.to_owned());
    add("no parts", "abc".to_owned());
    add("dots", "..".to_owned());
    add("no signature", format!("{signed}."));
    for key in [ed, es, rs] {
        let token = key.token(&good);
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let other = key.token(&claims(A, json!({"sub": "root"})));
        let (other_signed, _) = other.rsplit_once('.').unwrap();
        let alg = key.alg;
        add(&format!("{alg} truncated"), format!("{signed}.{}", b64(&bytes[..bytes.len() - 1])));
        add(&format!("{alg} longer"), format!("{signed}.{}", b64([&bytes[..], &[0]].concat())));
        add(&format!("{alg} all zero"), format!("{signed}.{}", b64(vec![0; bytes.len()])));
        add(&format!("{alg} all ones"), format!("{signed}.{}", b64(vec![255; bytes.len()])));
        add(&format!("{alg} swapped"), format!("{other_signed}.{signature}"));
        let mut flipped = bytes.clone();
        flipped[10] ^= 1;
        add(&format!("{alg} one bit"), format!("{signed}.{}", b64(&flipped)));
    }
    // r and s as an ASN.1 sequence, which JWS does not take (RFC 7518 §3.4).
    let es_token = es.token(&good);
    let (es_signed, es_signature) = es_token.rsplit_once('.').unwrap();
    let fixed = URL_SAFE_NO_PAD.decode(es_signature).unwrap();
    let integer = |half: &[u8]| [&[2, 33, 0][..], half].concat();
    let sequence = [&[0x30, 70][..], &integer(&fixed[..32]), &integer(&fixed[32..])].concat();
    add("ES256 as DER", format!("{es_signed}.{}", b64(sequence)));

    for (name, token) in [
        ("padded", format!("{token}==")),
        ("standard alphabet", format!("{head}.{payload}.{}+/", &signature[..84])),
        ("a bang", format!("{token}!")),
        ("a blank inside", format!("{head}. {payload}.{signature}")),
        ("a percent", format!("{token}%00")),
        ("quoted", format!("\"{token}\"")),
        ("spare bits", format!("{signed}.{}", spare_bits(signature))),
        ("24 KiB", format!("{signed}.{}", "A".repeat(24 * 1024))),
        ("24 KiB signed", ed.token(&claims(A, json!({"x": "x".repeat(18_500)})))),
        ("a long header", ed.with_header(json!({"x": "x".repeat(7000)}), &good)),
        ("header not JSON", format!("{}.{payload}.{signature}", b64("{"))),
        ("header an array", format!("{}.{payload}.{signature}", b64("[]"))),
        ("empty header", format!(".{payload}.{signature}")),
    ] {
        add(name, token);
    }

    let header = json!({"alg": "EdDSA", "kid": "a-ed"}).to_string();
    let end = now() + 600;
    let text = |rest: &str| format!("{{\"iss\":\"{A}\",\"aud\":\"api\",\"sub\":\"alice\"{rest}}}");
    for payload in [
        text(&format!(",\"exp\":{end},\"exp\":{end}")),
        text(&format!(",\"exp\":{end},\"sub\":\"root\"")),
        text(&format!(",\"exp\":{end},\"\\u0073ub\":\"root\"")),
        text(&format!(",\"exp\":{end},\"x\":{{\"a\":1,\"a\":2}}")),
        text(",\"exp\":1e400"),
        text(",\"exp\":-1e400"),
        text(",\"exp\":1e300"),
        text(",\"exp\":99999999999999999999999999"),
        text(",\"exp\":NaN"),
        text(&format!(",\"exp\":{end},}}")),
        text(&format!(",\"exp\":{end}}} {{")),
        "[]".to_owned(),
        "null".to_owned(),
        "\"alice\"".to_owned(),
        String::new(),
        "[".repeat(4000),
    ] {
        let shown: String = payload.chars().take(80).collect();
        add(&format!("payload {shown}"), ed.raw(&header, &payload));
    }
    let twice = "{\"alg\":\"none\",\"alg\":\"EdDSA\",\"kid\":\"a-ed\"}";
    add("alg twice", ed.raw(twice, &good.to_string()));
    for name in ["exp", "nbf", "iat"] {
        for value in [
            json!(end.to_string()),
            json!(end as f64 + 0.5),
            json!(-1),
            json!([end]),
            json!({"at": end}),
            json!(true),
        ] {
            add(&format!("{name} {value}"), ed.token(&claims(A, json!({name: value}))));
        }
    }
    add("exp missing", ed.token(&claims(A, json!({"exp": null}))));
    add("expired", ed.token(&claims(A, json!({"exp": now() - 120}))));
    add("exp zero", ed.token(&claims(A, json!({"exp": 0}))));
    add("nbf ahead", ed.token(&claims(A, json!({"nbf": now() + 300}))));
    add("iat ahead", ed.token(&claims(A, json!({"iat": now() + 300}))));
    for name in ["aud", "iss", "sub"] {
        add(&format!("{name} missing"), ed.token(&claims(A, json!({name: null}))));
        for value in [json!(1), json!({"api": "api"}), json!([]), json!([1]), json!(""), json!(false)] {
            add(&format!("{name} {value}"), ed.token(&claims(A, json!({name: value}))));
        }
    }
    for (name, value) in [
        ("aud", json!("other")),
        ("aud", json!(["other"])),
        ("aud", json!(["api", 1])),
        ("aud", json!("api ")),
        ("iss", json!([A])),
        ("iss", json!(format!("{A}/"))),
        ("iss", json!("https://A.test")),
        ("iss", json!("https://unknown.test")),
        ("sub", json!(["alice"])),
        ("sub", json!("alice\r\nX-Auth-Subject: root")),
        ("email", json!("a@b.test\r\nX-Evil: 1")),
        ("email", json!(["a@b.test"])),
        ("sid", json!(1)),
        ("jti", json!({})),
        ("scope", json!([1])),
        ("scope", json!(["read write"])),
        ("scp", json!([1])),
        ("type", json!("refresh")),
        ("type", json!("password-reset")),
        ("type", json!("email-verification")),
        ("type", json!("refresh_token")),
    ] {
        add(&format!("{name} {value}"), ed.token(&claims(A, json!({name: value}))));
    }
    for change in [
        json!({"type": "refresh"}),
        json!({"type": "assertion"}),
        json!({"type": "magic-link"}),
        json!({"type": null}),
        json!({"type": 1}),
        json!({"ver": "1"}),
        json!({"aud": "private"}),
        json!({"exp": now() - 120}),
    ] {
        add(&format!("ours, {change}"), own_typed(change));
    }
    add("ours, typ JWT", own.token(&ours(json!({}))));
    add("ours, no typ", own.with_header(json!({"typ": null}), &ours(json!({}))));
    add("ours, typ refresh", own.with_header(json!({"typ": "rt+jwt"}), &ours(json!({}))));
    bad
}

fn pem(der: &[u8]) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
}

/// The same bytes in another spelling: the bits of the last letter that carry nothing, set.
fn spare_bits(signature: &str) -> String {
    const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = signature.chars().last().unwrap();
    let at = LETTERS.find(last).unwrap();
    format!("{}{}", &signature[..signature.len() - 1], &LETTERS[at + 1..at + 2])
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bad_token_passes_or_fails_inside() {
    let house = house().await;
    // Connections to it are completed by the kernel, so that none is missed.
    let trap = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let bad = bad_tokens(&house, trap.local_addr().unwrap());
    assert!(bad.len() > 150, "{}", bad.len());
    for (name, token) in &bad {
        let answer = house.bearer("/private", token).await;
        assert_eq!(status(&answer), 401, "{name}: {answer}");
        let told = field(&answer, "www-authenticate").unwrap();
        assert!(told.contains("error=\"invalid_token\""), "{name}: {told}");
        let anonymous = house.bearer("/optional", token).await;
        assert_eq!(status(&anonymous), 401, "{name}: a bad token is not no token: {anonymous}");
    }
    let huge = house.bearer("/private", &"A".repeat(1 << 20)).await;
    assert!(huge.is_empty() || [401, 431].contains(&status(&huge)), "{huge}");
    assert_eq!(house.upstream.requests(), [""; 0]);
    let called = trap.accept().map_err(|error| error.kind());
    assert_eq!(
        called.err(),
        Some(std::io::ErrorKind::WouldBlock),
        "a token made the gateway send a request (SSRF)"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_passes_up_to_the_configured_length_and_no_longer() {
    const MOST: usize = 24 * 1024;
    let house = house().await;
    let key = &house.a["ed"];
    let (said, head) = (claims(A, json!({})), json!({}));
    for length in [9 * 1024, 20_000, MOST] {
        let token = key.of_length(length, head.clone(), &said);
        assert!((length - 2..=length).contains(&token.len()), "{}", token.len());
        assert_eq!(house.status("/private", &token).await, 200, "{length}");
        assert_eq!(house.status("/private", &token).await, 200, "{length}, remembered");
    }
    let longer = key.of_length(MOST + 4, head, &said);
    assert!(longer.len() > MOST);
    let answer = house.bearer("/private", &longer).await;
    assert_eq!(status(&answer), 401, "{answer}");
    // Native endpoints take one of ours as long as routes do. It is signed by hand: none of ours is made as long.
    let account = json!({"email": "long@a.test", "password": "Horse-Battery-9!", "email_verified": true});
    let (code, made) = house.gateway.admin("POST", "/admin/v1/users", &account).await;
    assert_eq!(code, 201, "{made}");
    let own = Key::of_gateway(&house.data());
    let said = ours(json!({"sub": made["id"], "iss": OURS}));
    for (length, want) in [(1024, 200), (MOST, 200), (MOST + 4, 401)] {
        let token = own.of_length(length, json!({"typ": "at+jwt"}), &said);
        let answer = house.bearer("/auth/me", &token).await;
        assert_eq!(status(&answer), want, "{length}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_token_is_the_operators_choice() {
    let upstream = Upstream::start().await;
    let route = crate::support::route("private", upstream.address, "");
    let gateway =
        Gateway::start(&format!("[tokens]\nissuer = \"{OURS}\"\nmax_bytes = \"2KiB\"\n{route}")).await;
    let own = Key::of_gateway(&gateway.folder.path().join("data"));
    for (length, want) in [(2048, 200), (2052, 401), (9 * 1024, 401)] {
        let token = own.of_length(length, json!({"typ": "at+jwt"}), &ours(json!({})));
        let answer = gateway.get("/private", &format!("Authorization: Bearer {token}\r\n")).await;
        assert_eq!(status(&answer), want, "{length}: {answer}");
    }
    // What no request could carry is not signed.
    let scopes: Vec<String> = (0..40).map(|n| format!("{n:040}")).collect();
    let (code, answer) =
        gateway.admin("POST", "/admin/v1/tokens", &json!({"sub": "bob", "scopes": scopes})).await;
    assert!(code >= 400 && answer.to_string().contains("tokens.max_bytes"), "{code} {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_cache_lends_no_issuer_to_another_route() {
    let house = house().await;
    let (a, b) = (house.a["ed"].token(&claims(A, json!({}))), house.b.token(&claims(B, json!({}))));
    for _ in 0..3 {
        for (path, token, want) in [
            ("/private", &a, 200),
            ("/only-a", &a, 200),
            ("/only-b", &a, 401),
            ("/private", &b, 200),
            ("/only-b", &b, 200),
            ("/only-a", &b, 401),
        ] {
            assert_eq!(house.status(path, token).await, want, "{path}");
        }
    }
    let own = house.minted(json!({"sub": "alice"})).await;
    assert_eq!(house.status("/private", &own).await, 200);
    assert_eq!(house.status("/only-a", &own).await, 401);
    assert!(house.upstream.requests().iter().all(|seen| !seen.contains(&a) && !seen.contains(&b)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_route_requires_is_a_403_that_says_so() {
    let house = house().await;
    let with = |change: Value| house.a["ed"].token(&claims(A, change));
    let short = house.bearer("/scoped", &with(json!({"scope": "read readwrite"}))).await;
    assert_eq!(status(&short), 403, "{short}");
    let told = field(&short, "www-authenticate").unwrap();
    assert!(told.contains("error=\"insufficient_scope\"") && told.contains("scope=\"read write\""), "{told}");
    for (path, change, want) in [
        ("/scoped", json!({"scope": "write read other"}), 200),
        ("/scoped", json!({"scp": ["read", "write"]}), 200),
        ("/scoped", json!({"scope": ""}), 403),
        ("/scoped", json!({"scope": "READ WRITE"}), 403),
        ("/scoped", json!({}), 403),
        ("/mailed", json!({"email": "a@b.test", "email_verified": true}), 200),
        ("/mailed", json!({"email": "a@b.test", "email_verified": "true"}), 200),
        ("/mailed", json!({"email": "a@b.test", "email_verified": false}), 403),
        ("/mailed", json!({"email": "a@b.test"}), 403),
        ("/mailed", json!({"email": "a@b.test", "email_verified": 1}), 401),
        ("/role", json!({"role": "admin"}), 200),
        ("/role", json!({"role": ["user", "root"]}), 200),
        ("/role", json!({"role": "administrator"}), 403),
        ("/role", json!({"role": {"admin": true}}), 403),
        ("/role", json!({}), 403),
    ] {
        assert_eq!(house.status(path, &with(change.clone())).await, want, "{path} {change}");
    }
    assert_eq!(house.upstream.requests().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn optional_means_nobody_or_somebody() {
    let house = house().await;
    let nobody = house.gateway.get("/optional", "X-Auth-Subject: root\r\n").await;
    assert_eq!(status(&nobody), 200, "{nobody}");
    assert_eq!(field(&house.last(), "x-auth-subject"), None);
    let token = house.a["es"].token(&claims(A, json!({})));
    assert_eq!(house.status("/optional", &token).await, 200);
    assert_eq!(field(&house.last(), "x-auth-subject"), Some("alice"));
    assert_eq!(field(&house.last(), "authorization"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_credentials_are_refused_even_when_both_are_good() {
    let house = house().await;
    let (a, b) = (house.a["ed"].token(&claims(A, json!({}))), house.b.token(&claims(B, json!({}))));
    for path in ["/private", "/optional", "/only-a", "/open"] {
        for fields in [
            format!("Authorization: Bearer {a}\r\nAuthorization: Bearer {a}\r\n"),
            format!("Authorization: Bearer {a}\r\nauthorization: Bearer {b}\r\n"),
            format!("Authorization: Bearer {b}\r\nX-Between: 1\r\nAUTHORIZATION: Bearer {a}\r\n"),
            format!("Authorization: Basic cm9vdDpyb290\r\nAuthorization: Bearer {a}\r\n"),
            format!("Authorization: Bearer {a}, Bearer {b}\r\n"),
            format!("Authorization: Basic cm9vdDpyb290, Bearer {a}\r\n"),
        ] {
            if path == "/open" && fields.contains(", ") {
                continue; // Where no token is looked for, one line may hold anything.
            }
            let answer = house.gateway.get(path, &fields).await;
            assert_eq!(status(&answer), 400, "{path} {fields}: {answer}");
        }
    }
    assert_eq!(house.upstream.requests(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_carried_the_token_stays_here() {
    let house = house().await;
    let token = house.a["ed"].token(&claims(A, json!({})));
    let websocket = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let send = |target: String, fields: String| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n");
        async { self::first_head(house.gateway.address(), request).await }
    };
    let cookie = format!("Cookie: theme=dark; sess={token}; lang=en\r\n");
    assert_eq!(status(&send("/carried".into(), cookie.clone()).await), 200);
    let seen = house.last();
    assert_eq!(field(&seen, "cookie"), Some("theme=dark; lang=en"), "{seen}");
    assert_eq!(field(&seen, "x-auth-subject"), Some("alice"));

    let protocol = format!("{websocket}Sec-WebSocket-Protocol: chat, bearer.{token}\r\n");
    assert_eq!(status(&send("/carried".into(), protocol).await), 200);
    let seen = house.last();
    assert_eq!(field(&seen, "sec-websocket-protocol"), Some("chat"), "{seen}");
    assert!(!seen.contains(&token), "{seen}");

    let target = format!("/carried?a=1&access_token={token}&b=2");
    assert_eq!(status(&send(target, websocket.to_owned()).await), 200);
    let seen = house.last();
    assert!(seen.starts_with("GET /carried?a=1&b=2 HTTP/1.1"), "{seen}");
    assert_eq!(field(&seen, "x-auth-subject"), Some("alice"));
    assert!(!seen.contains(&token), "{seen}");

    // Only where the route says so, and only one.
    for (target, fields, want) in [
        (format!("/carried?access_token={token}"), String::new(), 401),
        (format!("/private?access_token={token}"), websocket.to_owned(), 401),
        ("/private".into(), cookie.clone(), 401),
        ("/carried".into(), format!("{cookie}Authorization: Bearer {token}\r\n"), 400),
        ("/carried".into(), format!("Cookie: sess={token}; sess={token}\r\n"), 400),
        (format!("/carried?access_token={token}"), format!("{websocket}{cookie}"), 400),
    ] {
        let answer = send(target.clone(), fields).await;
        assert_eq!(status(&answer), want, "{target}: {answer}");
    }
    // A cookie that carries tokens somewhere reaches no upstream anywhere.
    assert_eq!(status(&send("/open".into(), cookie).await), 200);
    assert_eq!(field(&house.last(), "cookie"), Some("theme=dark; lang=en"));
    assert_eq!(house.upstream.requests().len(), 4);
}

/// The header section of the first answer, for requests that cannot ask for `Connection: close`.
async fn first_head(address: SocketAddr, request: String) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = async {
        while !answer.windows(4).any(|window| window == b"\r\n\r\n") {
            if stream.read_buf(&mut answer).await.unwrap() == 0 {
                break;
            }
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, read).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_assertion_verifies_by_what_we_publish_and_opens_nothing() {
    let house = house().await;
    let token = house.a["rs"].token(&claims(A, json!({"scope": "read", "sid": "s1"})));
    let fields = format!("Authorization: Bearer {token}\r\nremote_user: root\r\n");
    assert_eq!(status(&house.gateway.get("/asserted", &fields).await), 200);
    let seen = house.last();
    assert_eq!(field(&seen, "remote-user"), Some("alice"));
    assert!(!seen.contains("root"), "{seen}");
    let assertion = field(&seen, "x-auth-assertion").unwrap().to_owned();
    let published = house.gateway.get("/.well-known/jwks.json", "").await;
    assert_eq!(status(&published), 200, "{published}");
    let set: Value = serde_json::from_str(body_of(&published)).unwrap();
    let (signed, signature) = assertion.rsplit_once('.').unwrap();
    let (header, payload) = signed.split_once('.').unwrap();
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
    let header: Value = serde_json::from_slice(&decode(header)).unwrap();
    let jwk = set["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]).unwrap();
    assert!(jwk.get("d").is_none(), "{jwk}");
    let key = UnparsedPublicKey::new(&ED25519, decode(jwk["x"].as_str().unwrap()));
    key.verify(signed.as_bytes(), &decode(signature)).unwrap();
    let said: Value = serde_json::from_slice(&decode(payload)).unwrap();
    assert_eq!(
        (&said["iss"], &said["aud"], &said["sub"]),
        (&json!(OURS), &json!("asserted"), &json!("alice"))
    );
    assert_eq!((&said["idp"], &said["scope"], &said["sid"]), (&json!(A), &json!("read"), &json!("s1")));
    assert_eq!(said["exp"].as_u64().unwrap() - said["iat"].as_u64().unwrap(), 60);
    assert_eq!(house.status("/asserted", &assertion).await, 401);
}

/// A JWKS endpoint that counts and can be down.
struct KeyServer {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    body: Arc<Mutex<Option<String>>>,
}

impl KeyServer {
    async fn start(body: String) -> KeyServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = KeyServer {
            address: listener.local_addr().unwrap(),
            asked: Arc::default(),
            body: Arc::new(Mutex::new(Some(body))),
        };
        let (asked, body) = (Arc::clone(&server.asked), Arc::clone(&server.body));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                asked.fetch_add(1, Ordering::SeqCst);
                let Some(body) = body.lock().unwrap().clone() else { continue };
                let _ = stream.read(&mut [0; 4096]).await;
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length";
                let _ = stream.write_all(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
            }
        });
        server
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn serve(&self, body: Option<String>) {
        *self.body.lock().unwrap() = body;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_unknown_keys_does_not_reach_the_issuer_and_its_last_keys_stay() {
    let upstream = Upstream::start().await;
    let key = Key::es("one");
    let server = KeyServer::start(jwks(&[&key])).await;
    let start = Instant::now();
    let gateway = Gateway::start(&format!(
        "[[issuers]]\nissuer = \"{A}\"\njwks = \"http://{}/jwks.json\"\naudiences = [\"api\"]\nalgorithms = [\"ES256\"]\n\
         [[routes]]\nname = \"all\"\nmatch = {{ path = \"/\" }}\nupstream = [\"http://{}\"]\n",
        server.address, upstream.address
    ))
    .await;
    let bearer = |token: String| {
        let gateway = &gateway;
        async move { status(&gateway.get("/", &format!("Authorization: Bearer {token}\r\n")).await) }
    };
    let good = key.token(&claims(A, json!({})));
    assert_eq!(bearer(good.clone()).await, 200);
    assert_eq!(server.asked(), 1, "fetched ahead");
    for round in 0..10 {
        let flood = (0..50)
            .map(|n| bearer(key.with_header(json!({"kid": format!("{round}-{n}")}), &claims(A, json!({})))));
        for code in futures::future::join_all(flood).await {
            assert_eq!(code, 401);
        }
    }
    let allowed = 1 + start.elapsed().as_secs() as usize / 10;
    assert!(server.asked() <= allowed, "{} of {allowed}", server.asked());

    // A reload asks again; what is no key set does not take the good keys away.
    for body in [None, Some("<html>".to_owned()), Some("{\"keys\":{}}".to_owned())] {
        server.serve(body.clone());
        let before = server.asked();
        assert_eq!(gateway.admin("POST", "/admin/v1/reload", &json!({})).await.0, 200);
        assert!(server.asked() > before);
        assert_eq!(bearer(good.clone()).await, 200, "{body:?}");
        let fresh = key.token(&claims(A, json!({"sub": "not in any cache"})));
        assert_eq!(bearer(fresh).await, 200, "{body:?}");
    }
    // A key that its issuer withdrew is gone, from the cache too.
    let next = Key::es("two");
    server.serve(Some(jwks(&[&next])));
    assert_eq!(gateway.admin("POST", "/admin/v1/reload", &json!({})).await.0, 200);
    assert_eq!(bearer(good).await, 401);
    assert_eq!(bearer(next.token(&claims(A, json!({})))).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_is_told_who_vouches_for_the_caller_and_no_address_that_nobody_verified() {
    let house = house().await;
    let key = &house.a["ed"];
    for (key, issuer, verified, email) in [
        (key, A, json!(true), Some("a@b.test")),
        (key, A, json!(false), None),
        (key, A, json!(null), None),
        (&house.b, B, json!(true), Some("a@b.test")),
    ] {
        let token = key.token(&claims(issuer, json!({"email": "a@b.test", "email_verified": verified})));
        let fields =
            format!("Authorization: Bearer {token}\r\nX-Auth-Issuer: evil\r\nX_Auth_Email: evil\r\n");
        assert_eq!(status(&house.gateway.get("/private", &fields).await), 200);
        let seen = house.last();
        assert_eq!(field(&seen, "x-auth-subject"), Some("alice"));
        assert_eq!(field(&seen, "x-auth-issuer"), Some(issuer));
        assert_eq!(field(&seen, "x-auth-email"), email, "{verified}");
        assert!(!seen.contains("evil"), "{seen}");
    }
}
