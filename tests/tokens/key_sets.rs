//! Key sets as issuers serve them: what is written in another way than RFC 7517 has it, and harmless, is read, and what
//! is of no use is named.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::issuers::{bearer, issuer, reload, route};
use super::{A, KeyServer, b64, claims};
use crate::support::keys::{Key, jwks};
use crate::support::{Gateway, Upstream};

/// `jwk` with other members; a null stays one.
pub(super) fn with(mut jwk: Value, change: Value) -> Value {
    for (name, value) in change.as_object().unwrap() {
        jwk[name] = value.clone();
    }
    jwk
}

pub(super) fn without(mut jwk: Value, names: &[&str]) -> Value {
    names.iter().for_each(|name| drop(jwk.as_object_mut().unwrap().remove(*name)));
    jwk
}

fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

fn bytes(jwk: &Value, name: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap()
}

pub(super) fn certificate(key: &Key) -> rcgen::Certificate {
    let params = rcgen::CertificateParams::new(["issuer.test".to_owned()]).unwrap();
    params.self_signed(&key.certifying()).unwrap()
}

/// A key whose point has a zero in front of one of its numbers.
fn short_point() -> Key {
    loop {
        let key = Key::es("one");
        if bytes(&key.jwk(), "x")[0] == 0 {
            return key;
        }
    }
}

/// How a set is served, the set, and what a token's header says beside `alg` and `kid`.
type Served = (&'static str, String, Value);

fn of_rsa(key: &Key) -> Vec<Served> {
    let (jwk, n) = (key.jwk(), bytes(&key.jwk(), "n"));
    let led = b64([&[0][..], &n].concat());
    let chain = json!([STANDARD.encode(certificate(key).der())]);
    let enc = with(Key::rs("one").jwk(), json!({"use": "enc", "alg": "RSA-OAEP"}));
    let extra = json!({"x5c": chain, "x5t": "AAAA", "nbf": 1, "exp": 1, "issuer": A, "ext": true, "key_ops": ["verify"]});
    let nulls = json!({"x5c": null, "key_ops": null, "use": null, "alg": null});
    let bare = without(jwk.clone(), &["n", "e"]);
    let beside = json!({"keys": [jwk], "public_certs": [{"kid": "one"}], "issuer": 7}).to_string();
    let table = |pem: String| json!({ "one": pem }).to_string();
    let named = || json!({});
    vec![
        ("a modulus with a zero in front", set(&[with(jwk.clone(), json!({"n": led}))]), named()),
        ("padded", set(&[with(jwk.clone(), json!({"n": URL_SAFE.encode(&n)}))]), named()),
        ("in the other base64", set(&[with(jwk.clone(), json!({"n": STANDARD.encode(&n)}))]), named()),
        ("a long exponent", set(&[with(jwk.clone(), json!({"e": "AAEAAQ=="}))]), named()),
        ("a set of one without a name", set(&[without(jwk.clone(), &["kid"])]), named()),
        ("neither has a name", set(&[without(jwk.clone(), &["kid"])]), json!({"kid": null})),
        ("the token has no name", set(std::slice::from_ref(&jwk)), json!({"kid": null})),
        ("named by x5t alone", set(&[jwk.clone(), Key::rs("two").jwk()]), json!({"kid": null, "x5t": "one"})),
        ("neither alg nor use", set(&[without(jwk.clone(), &["alg", "use"])]), named()),
        ("further members", set(&[with(jwk.clone(), extra)]), named()),
        ("nulls", set(&[with(jwk.clone(), nulls)]), named()),
        ("a certificate alone", set(&[with(bare, json!({"x5c": chain}))]), named()),
        ("a key for encryption of the same name", set(&[enc, jwk.clone()]), named()),
        ("a key of another kind of the same name", set(&[Key::es("one").jwk(), jwk]), named()),
        ("members beside the keys", beside, named()),
        ("a byte order mark and line ends", format!("\u{feff}{}\r\n\n", jwks(&[key])), named()),
        ("a table of certificates", table(certificate(key).pem()), named()),
        ("a table of public keys", table(key.certifying().public_key_pem()), named()),
    ]
}

fn of_ec(key: &Key) -> Vec<Served> {
    let x = bytes(&key.jwk(), "x");
    let led = b64([&[0][..], &x].concat());
    vec![
        ("a point without its zeros", set(&[with(key.jwk(), json!({"x": b64(&x[1..])}))]), json!({})),
        ("a point with one zero more", set(&[with(key.jwk(), json!({"x": led}))]), json!({})),
        ("a table", json!({"one": key.certifying().public_key_pem()}).to_string(), json!({})),
        ("certificates", json!({"one": certificate(key).pem()}).to_string(), json!({})),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn sets_are_read_as_they_are_served_in_the_wild() {
    let upstream = Upstream::start().await;
    let server = KeyServer::start(set(&[])).await;
    let source = format!("http://{}/keys", server.address);
    let text = issuer(A, &source, &["RS256", "ES256"], "") + &route(&upstream, "");
    let gateway = Gateway::start(&text).await;
    let (rsa, ec) = (Key::rs("one"), short_point());
    let cases = of_rsa(&rsa).into_iter().map(|case| (&rsa, case));
    for (key, (how, body, header)) in cases.chain(of_ec(&ec).into_iter().map(|case| (&ec, case))) {
        server.serve(Some(body));
        let told = reload(&gateway).await;
        let good = key.with_header(header.clone(), &claims(A, json!({"jti": how})));
        assert_eq!(bearer(&gateway, &good).await, 200, "{how}: {told}");
        let stranger = if key.alg == "RS256" { Key::rs("one") } else { Key::es("one") };
        let forged = stranger.with_header(header, &claims(A, json!({})));
        assert_eq!(bearer(&gateway, &forged).await, 401, "{how}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_of_no_use_is_named_with_why() {
    let upstream = Upstream::start().await;
    let server = KeyServer::start(set(&[])).await;
    let source = format!("http://{}/keys", server.address);
    let gateway = Gateway::start(&(issuer(A, &source, &["RS256"], "") + &route(&upstream, ""))).await;
    let good = Key::rs("good");
    let other = |kid: &str, change: Value| with(Key::rs(kid).jwk(), change);
    let keys = [
        good.jwk(),
        other("enc", json!({"use": "enc", "alg": "RSA-OAEP"})),
        other("oaep", json!({"alg": "RSA-OAEP-256"})),
        other("wraps", json!({"key_ops": ["wrapKey"]})),
        other("tls", json!({"use": "tls"})),
        json!({"kty": "EC", "crv": "secp256k1", "kid": "coin", "x": "AA", "y": "AA"}),
        json!({"kty": "OKP", "crv": "Ed448", "kid": "goldilocks", "x": "AA"}),
        other("theirs", json!({"issuer": "https://other.test"})),
        other("ps", json!({"alg": "PS256"})),
        other("private", json!({"d": "AQAB"})),
        with(Key::es("off").jwk(), json!({"y": Key::es("off").jwk()["y"]})),
        without(good.jwk(), &["n"]),
    ];
    let mut keys = keys.to_vec();
    keys.last_mut().unwrap()["kid"] = json!("half");
    server.serve(Some(set(&keys)));
    let told = reload(&gateway).await;
    assert!(told.contains("1 key in force (1 new, 0 withdrawn)"), "{told}");
    for (how, kid, why) in [
        ("passed over", "enc", "for encryption"),
        ("passed over", "oaep", "for encryption"),
        ("passed over", "wraps", "key_ops"),
        ("passed over", "tls", "use"),
        ("passed over", "coin", "not understood"),
        ("passed over", "goldilocks", "not understood"),
        ("passed over", "theirs", "issuer"),
        ("left out", "ps", "algorithms"),
        ("left out", "private", "its private half"),
        ("left out", "off", "no public key"),
        ("left out", "half", "missing"),
    ] {
        let start = format!("{how} key {kid:?}: ");
        let named = told.split("; ").find(|part| part.starts_with(&start));
        assert!(named.is_some_and(|part| part.contains(why)), "{kid}: {told}");
    }
    assert_eq!(bearer(&gateway, &good.token(&claims(A, json!({})))).await, 200);
    // Tables are held to the same: a certificate that cannot be read is named, and a private key is no table.
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    server.serve(Some(json!({"broken": broken, "good": certificate(&good).pem()}).to_string()));
    let told = reload(&gateway).await;
    assert!(told.contains("left out key \"broken\""), "{told}");
    let private = good.certifying().serialize_pem();
    server.serve(Some(json!({ "good": private }).to_string()));
    let told = reload(&gateway).await;
    assert!(told.contains("the last good ones stay (1 key)") && !told.contains("PRIVATE"), "{told}");
}
