//! Keys of other issuers as their operators meet them: further algorithms, weak and withdrawn keys, sources that hang
//! or are down, and the addresses that an issuer vouches for.

use std::path::Path;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{A, B, KeyServer, claims};
use crate::support::binary::{Program, palisade, refused, run};
use crate::support::keys::{Key, jwks};
use crate::support::neighbours::probe;
use crate::support::{Gateway, PATIENCE, Upstream, body_of, field, status};

const ALL: [&str; 10] =
    ["EdDSA", "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];

/// The modulus of `tests/fixtures/roca.pem`.
const ROCA: &str = "1I1bBr-Arv6-CTT-lv3ud-gjXoEjdjk8kEqMYF1hXD8zngdWBO_dg5EsNNEvWgHMDukO71JERS7emAPrPk8weoHBxZTEfAol1o8L6iEqQ0nVdELOH7eSJjsgAIbHkhYyT9M1idjC0x48JXE8Y17OqQZWde0wI78JHpJ45qzs_24lc18gXIUUOblHl5s0IFBhIJPZ6DLD0gCGoa7K5oDcXOYp_5fZ9arA9Qqn7c5THCjb4IsUHAmf1IsuVU9Y4AuFloWvJIF4X5ADuB7DElMwJtYSfEePbET8FiU10PYMk-Djnohwd7YK9uVeo-1-pHQAyiXjLzbj9lvj3l7ar6N4-Q";

pub(super) fn issuer(name: &str, source: &str, algorithms: &[&str], more: &str) -> String {
    format!(
        "[[issuers]]\nissuer = \"{name}\"\njwks = \"{source}\"\naudiences = [\"api\"]\nalgorithms = {algorithms:?}\n{more}\n"
    )
}

pub(super) fn route(upstream: &Upstream, more: &str) -> String {
    let target = upstream.address;
    format!(
        "[[routes]]\nname = \"all\"\nmatch = {{ path = \"/\" }}\nupstream = [\"http://{target}\"]\n{more}\n"
    )
}

pub(super) async fn bearer(gateway: &Gateway, token: &str) -> u16 {
    status(&gateway.get("/", &format!("Authorization: Bearer {token}\r\n")).await)
}

/// What a reload says.
pub(super) async fn reload(gateway: &Gateway) -> String {
    let (code, answer) = gateway.admin("POST", "/admin/v1/reload", &json!({})).await;
    assert_eq!(code, 200, "{answer}");
    let notes: Vec<&str> = answer["notes"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    notes.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_public_key_algorithm_of_the_field_is_verified_and_only_where_it_is_listed() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let keys = ALL.map(|alg| Key::of(alg, alg));
    let file = folder.path().join("keys.json");
    std::fs::write(&file, jwks(&keys.each_ref())).unwrap();
    let source = format!("file:{}", file.display());
    let text =
        issuer(A, &source, &ALL, "") + &issuer(B, &source, &["PS256", "ES384"], "") + &route(&upstream, "");
    let gateway = Gateway::start(&text).await;
    for key in &keys {
        let alg = key.alg;
        let token = key.token(&claims(A, json!({})));
        assert_eq!(bearer(&gateway, &token).await, 200, "{alg}");
        let listed = ["PS256", "ES384"].contains(&alg);
        let want = if listed { 200 } else { 401 };
        assert_eq!(bearer(&gateway, &key.token(&claims(B, json!({})))).await, want, "{alg}");
        // The name of another algorithm over the same signature, and a signature that is not quite one.
        for other in ALL.iter().filter(|other| **other != alg) {
            let renamed = key.with_header(json!({"alg": other}), &claims(A, json!({})));
            assert_eq!(bearer(&gateway, &renamed).await, 401, "{alg} as {other}");
        }
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let first = if signature.starts_with('A') { "B" } else { "A" };
        let forged = format!("{signed}.{first}{}", &signature[1..]);
        assert_eq!(bearer(&gateway, &forged).await, 401, "{alg}");
        assert_eq!(bearer(&gateway, &format!("{signed}.")).await, 401, "{alg}");
    }
    // `palisade token verify` knows them too.
    let lines: Vec<String> = keys.iter().map(|key| key.token(&claims(A, json!({})))).collect();
    let verify = |input: &str| {
        let output = run(palisade().args(["token", "verify", "--jwks"]).arg(&file), input);
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(verify(&lines.join("\n")), "valid\n".repeat(ALL.len()));
    let bound = keys[0].token(&claims(A, json!({"cnf": {"jkt": "x"}})));
    assert!(verify(&bound).starts_with("invalid: bound to a key (cnf)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_rsa_key_without_an_algorithm_verifies_what_its_issuer_may_use() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let key = Key::of("k", "PS384");
    let mut jwk = key.jwk();
    jwk.as_object_mut().unwrap().remove("alg");
    let file = folder.path().join("keys.json");
    std::fs::write(&file, json!({"keys": [jwk]}).to_string()).unwrap();
    let source = format!("file:{}", file.display());
    let text = issuer(A, &source, &["PS384", "RS256", "ES256"], "") + &route(&upstream, "");
    let gateway = Gateway::start(&text).await;
    assert_eq!(bearer(&gateway, &key.token(&claims(A, json!({})))).await, 200);
    let key = key.signing_as("RS256");
    assert_eq!(bearer(&gateway, &key.token(&claims(A, json!({})))).await, 200);
    let key = key.signing_as("PS512");
    assert_eq!(bearer(&gateway, &key.token(&claims(A, json!({})))).await, 401, "not among the issuer's");
}

#[tokio::test(flavor = "multi_thread")]
async fn weak_keys_are_left_out_by_name_and_a_key_published_twice_is_one() {
    let upstream = Upstream::start().await;
    let good = Key::rs("good");
    let short = super::b64([0xff; 255]);
    let padded = super::b64([&[0][..], &[0xff; 255]].concat());
    let weak = |kid: &str, n: &str, e: &str| json!({"kty": "RSA", "kid": kid, "n": n, "e": e, "use": "sig"});
    let n = good.jwk()["n"].as_str().unwrap().to_owned();
    let mut again = good.jwk();
    again["alg"] = json!("PS256");
    let keys = json!({"keys": [
        weak("roca", ROCA, "AQAB"), weak("short", &short, "AQAB"), weak("padded", &padded, "AQAB"),
        weak("one", &n, "AQ"), weak("even", &n, "Ag"),
        good.jwk(), good.jwk(), again,
        Key::rs("two").jwk(), Key::rs("two").jwk(),
        {"kty": "RSA", "kid": "enc", "n": n, "e": "AQAB", "use": "enc"},
    ]});
    let server = KeyServer::start("{\"keys\":[]}".to_owned()).await;
    let source = format!("http://{}/keys", server.address);
    let gateway =
        Gateway::start(&(issuer(A, &source, &["RS256", "PS256"], "") + &route(&upstream, ""))).await;
    server.serve(Some(keys.to_string()));
    let told = reload(&gateway).await;
    assert!(told.contains("1 key in force (1 new, 0 withdrawn)"), "{told}");
    for (kid, why) in [
        ("roca", "CVE-2017-15361"),
        ("short", "2048"),
        ("padded", "2048"),
        ("one", "exponent"),
        ("even", "exponent"),
        ("two", "share"),
    ] {
        let named = told.split("; left out ").find(|part| part.starts_with(&format!("key {kid:?}")));
        assert!(named.is_some_and(|part| part.contains(why)), "{kid}: {told}");
    }
    assert!(told.contains("; passed over key \"enc\": a key for encryption"), "{told}");
    assert_eq!(bearer(&gateway, &good.token(&claims(A, json!({})))).await, 200);
    assert_eq!(bearer(&gateway, &good.with_header(json!({"kid": null}), &claims(A, json!({})))).await, 200);
    let good = good.signing_as("PS256");
    assert_eq!(bearer(&gateway, &good.token(&claims(A, json!({})))).await, 200);
    assert_eq!(reload(&gateway).await, "", "nothing to say of keys that stay");
    // Nothing but weak keys: the command names them.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, json!({"keys": [weak("roca", ROCA, "AQAB")]}).to_string()).unwrap();
    let output = run(palisade().args(["token", "verify", "--jwks"]).arg(&file), "");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("CVE-2017-15361"), "{said}");
}

#[test]
fn a_key_of_our_own_that_can_be_factored_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(folder.path().join("key.pem"), include_str!("../fixtures/roca.pem")).unwrap();
    write_config(folder.path(), "[tokens]\nalgorithm = \"RS256\"\nkey = \"file:./key.pem\"\n");
    let said = refused(palisade().args(["run", "--config"]).arg(&file));
    assert!(said.contains("tokens.key") && said.contains("CVE-2017-15361"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_key_set_is_a_withdrawal_and_a_reload_says_so() {
    let upstream = Upstream::start().await;
    let (one, two) = (Key::es("one"), Key::es("two"));
    let server = KeyServer::start(jwks(&[&one, &two])).await;
    let source = format!("http://{}/keys", server.address);
    let gateway = Gateway::start(&(issuer(A, &source, &["ES256"], "") + &route(&upstream, ""))).await;
    let token = one.token(&claims(A, json!({})));
    assert_eq!(bearer(&gateway, &token).await, 200);
    server.serve(None);
    let told = reload(&gateway).await;
    assert!(told.contains(A) && told.contains("the last good ones stay (2 keys)"), "{told}");
    assert_eq!(bearer(&gateway, &token).await, 200);
    server.serve(Some(jwks(&[&one])));
    let told = reload(&gateway).await;
    assert!(told.contains("1 key in force (0 new, 1 withdrawn)"), "{told}");
    assert_eq!(bearer(&gateway, &two.token(&claims(A, json!({})))).await, 401);
    server.serve(Some("{\"keys\":[]}".to_owned()));
    let told = reload(&gateway).await;
    assert!(told.contains("none that can be used; its tokens are refused (0 new, 1 withdrawn)"), "{told}");
    assert_eq!(bearer(&gateway, &token).await, 401, "not from the cache of verified tokens either");
    let ready = probe(&gateway, "/readyz").await;
    assert_eq!(status(&ready), 200);
    assert!(body_of(&ready).contains(&format!("keys of {A}")), "{ready}");
}

/// Takes connections, and answers what it is told to once it is told.
struct Hanging {
    address: std::net::SocketAddr,
    answer: watch::Sender<bool>,
}

impl Hanging {
    async fn start(body: String) -> Hanging {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, told) = watch::channel(false);
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut told, body) = (told.clone(), body.clone());
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 4096]).await;
                    let _ = told.wait_for(|told| *told).await;
                    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length";
                    let _ =
                        stream.write_all(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
                });
            }
        });
        Hanging { address, answer }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_hangs_holds_up_neither_the_start_nor_a_reload() {
    let upstream = Upstream::start().await;
    let key = Key::es("one");
    let hanging = Hanging::start(jwks(&[&key])).await;
    let source = format!("http://{}/keys", hanging.address);
    // The start returns although the source says nothing.
    let gateway = Gateway::start(&(issuer(A, &source, &["ES256"], "") + &route(&upstream, ""))).await;
    let ready = probe(&gateway, "/readyz").await;
    assert_eq!(status(&ready), 503, "{ready}");
    assert!(body_of(&ready).contains(&format!("the keys of {A} are still being fetched")), "{ready}");
    let (_, minted) = gateway.admin("POST", "/admin/v1/tokens", &json!({"sub": "a"})).await;
    assert_eq!(bearer(&gateway, minted["access_token"].as_str().unwrap()).await, 200, "others are served");
    let told = reload(&gateway).await;
    assert!(told.contains(A) && told.contains("has not answered yet"), "{told}");
    // A token that needs the keys waits for the answer.
    let token = key.token(&claims(A, json!({})));
    let (answered, _) = tokio::join!(bearer(&gateway, &token), async { hanging.answer.send_replace(true) });
    assert_eq!(answered, 200);
    assert_eq!(status(&probe(&gateway, "/readyz").await), 200);
}

fn write_config(folder: &Path, text: &str) {
    let head = "public_url = \"http://localhost:8080\"\n\
                [server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n[store]\nurl = \"sled:./data\"\n";
    std::fs::write(folder.join("config.toml"), format!("{head}{text}")).unwrap();
}

/// Waits until the stored keys of the only issuer are `count`.
async fn stored(folder: &Path, count: usize) -> std::path::PathBuf {
    let read = || {
        let entry = std::fs::read_dir(folder.join("data/issuer-keys")).ok()?.next()?.ok()?.path();
        let record: Value = serde_json::from_slice(&std::fs::read(&entry).ok()?).ok()?;
        (record["keys"].as_array()?.len() == count).then_some(entry)
    };
    let wait = async {
        loop {
            match read() {
                Some(file) => return file,
                None => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never {count} stored keys"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_good_keys_survive_a_restart_and_withdrawn_ones_do_not() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let key = Key::es("one");
    let server = KeyServer::start(jwks(&[&key])).await;
    let source = format!("http://{}/keys", server.address);
    let text = issuer(A, &source, &["ES256"], "") + &route(&upstream, "");
    write_config(folder.path(), &text);
    let token = key.token(&claims(A, json!({})));
    let program = Program::start(folder.path());
    assert_eq!(program.status("/", &token).await, 200);
    let file = stored(folder.path(), 1).await;
    program.kill();
    server.serve(None);
    let program = Program::start(folder.path());
    assert_eq!(program.status("/", &token).await, 200, "the source is down, the keys are on disk");
    program.kill();

    // Another issuer, another source, or a damaged file: not these keys.
    for other in [text.replace(A, B), text.replace("/keys", "/other-keys")] {
        write_config(folder.path(), &other);
        let kept = std::fs::read(&file).unwrap();
        let program = Program::start(folder.path());
        let issuer = if other.contains(B) { B } else { A };
        assert_eq!(program.status("/", &key.token(&claims(issuer, json!({})))).await, 401);
        program.kill();
        std::fs::write(&file, kept).unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    write_config(folder.path(), &text);
    let kept = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, kept.replacen("\"kid\": \"one\"", "\"kid\": \"two\"", 1)).unwrap();
    let program = Program::start(folder.path());
    assert_eq!(program.status("/", &token).await, 401, "a file that was changed is not used");
    program.kill();
    std::fs::write(&file, kept).unwrap();

    // Withdrawn while the gateway runs: gone from the disk as well.
    let program = Program::start(folder.path());
    assert_eq!(program.status("/", &token).await, 200);
    server.serve(Some("{\"keys\":[]}".to_owned()));
    assert_eq!(program.admin("POST", "/admin/v1/reload", &json!({})).await.0, 200);
    assert_eq!(program.status("/", &token).await, 401);
    stored(folder.path(), 0).await;
    program.kill();
    server.serve(None);
    let program = Program::start(folder.path());
    assert_eq!(program.status("/", &token).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_goes_out_only_when_it_is_known_to_be_the_callers() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let key = Key::ed("k");
    let file = folder.path().join("keys.json");
    std::fs::write(&file, jwks(&[&key])).unwrap();
    let source = format!("file:{}", file.display());
    let mailed = format!(
        "[[routes]]\nname = \"mailed\"\nmatch = {{ path = \"/mailed\" }}\nupstream = [\"http://{}\"]\nrequire = {{ email_verified = true }}\n",
        upstream.address
    );
    let text = issuer(A, &source, &["EdDSA"], "email = \"verified\"")
        + &issuer(B, &source, &["EdDSA"], "email = \"trusted\"")
        + &route(&upstream, "")
        + &mailed;
    let gateway = Gateway::start(&text).await;
    let mail = json!("a@b.test");
    for (issuer, verified, want) in [
        (A, json!(null), false),
        (A, json!(false), false),
        (A, json!("false"), false),
        (A, json!(true), true),
        (A, json!("true"), true),
        (B, json!(null), true),
        (B, json!(false), false),
        (B, json!("false"), false),
        (B, json!(true), true),
    ] {
        let token = key.token(&claims(issuer, json!({"email": mail, "email_verified": verified})));
        assert_eq!(bearer(&gateway, &token).await, 200);
        let seen = upstream.requests().last().unwrap().clone();
        assert_eq!(field(&seen, "x-auth-email"), want.then_some("a@b.test"), "{issuer} {verified}: {seen}");
        assert_eq!(field(&seen, "x-auth-subject"), Some("alice"));
        let required = gateway.get("/mailed", &format!("Authorization: Bearer {token}\r\n")).await;
        assert_eq!(status(&required), if want { 200 } else { 403 }, "{issuer} {verified}");
    }
    let without = key.token(&claims(B, json!({})));
    assert_eq!(bearer(&gateway, &without).await, 200);
    assert_eq!(field(upstream.requests().last().unwrap(), "x-auth-email"), None);
    let required = gateway.get("/mailed", &format!("Authorization: Bearer {without}\r\n")).await;
    assert_eq!(status(&required), 403, "trusted is said of addresses, and there is none");
}

#[test]
fn check_names_each_route_that_sends_an_address_no_longer() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(folder.path().join("keys.json"), jwks(&[&Key::ed("k")])).unwrap();
    let route = |name: &str, more: &str| {
        format!(
            "[[routes]]\nname = \"{name}\"\nmatch = {{ path = \"/{name}\" }}\nupstream = [\"http://127.0.0.1:9\"]\n{more}\n"
        )
    };
    let issuers = |email: &str| {
        issuer(A, "file:./keys.json", &["EdDSA"], "email = \"verified\"")
            + &issuer(B, "file:./keys.json", &["EdDSA"], email)
    };
    let routes = route("all", "")
        + &route("only-a", &format!("issuers = [\"{A}\"]"))
        + &route("silent", "headers = { email = false }")
        + &route("open", "auth = \"none\"")
        + &route("required", "require = { email_verified = true }")
        + &route("named", &format!("issuers = [\"{B}\"]\nheaders = {{ email = \"Remote-Email\" }}"));
    let check = |email: &str| {
        let text = format!("public_url = \"http://localhost:8080\"\n{}{routes}", issuers(email));
        std::fs::write(&file, text).unwrap();
        let output = run(palisade().args(["check", "--config"]).arg(&file), "");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{said}");
        said.lines().filter(|line| line.contains("email_verified")).map(str::to_owned).collect::<Vec<_>>()
    };
    let said = check("");
    assert_eq!(said.len(), 2, "{said:#?}");
    assert!(said[0].contains("route \"all\" sends X-Auth-Email") && said[0].contains(B), "{said:#?}");
    assert!(!said[0].contains(A) && said[0].contains("config.toml:"), "{said:#?}");
    assert!(said[1].contains("route \"named\" sends Remote-Email"), "{said:#?}");
    for email in ["email = \"verified\"", "email = \"trusted\""] {
        assert_eq!(check(email), [""; 0]);
    }
}

/// What `check` says to standard error, and whether it passed.
fn checked(folder: &Path, text: &str) -> (bool, String) {
    let file = folder.join("config.toml");
    std::fs::write(&file, format!("public_url = \"http://localhost:8080\"\n{text}")).unwrap();
    let output = run(palisade().args(["check", "--config"]).arg(&file), "");
    (output.status.code() == Some(0), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn check_refuses_a_key_file_without_a_key_that_can_be_used_and_warns_of_subjects_that_change() {
    let folder = tempfile::tempdir().unwrap();
    let app = "[[routes]]\nname = \"app\"\nupstream = \"http://127.0.0.1:9\"\n";
    let file = folder.path().join("keys.json");
    std::fs::write(&file, jwks(&[&Key::es("mine")])).unwrap();
    let section = |algorithms: &[&str], more: &str| issuer(A, "file:./keys.json", algorithms, more) + app;
    let email = "email = \"verified\"";
    let (passed, said) = checked(folder.path(), &section(&["RS256"], email));
    assert!(!passed && said.contains("issuers[0].jwks") && said.contains("key \"mine\""), "{said}");
    let (passed, said) = checked(folder.path(), &section(&["RS256", "ES256"], email));
    assert!(passed && !said.contains("mine"), "{said}");
    std::fs::write(&file, "{\"keys\":[]}").unwrap();
    let (passed, said) = checked(folder.path(), &section(&["RS256"], email));
    assert!(passed && said.contains("holds no key"), "{said}");
    std::fs::write(&file, jwks(&[&Key::es("mine")])).unwrap();
    for (claim, warned) in
        [("oid", false), ("sub", false), ("upn", true), ("preferred_username", true), ("email", true)]
    {
        let more = format!("{email}\nsubject_claim = \"{claim}\"");
        let (passed, said) = checked(folder.path(), &section(&["ES256"], &more));
        assert!(passed && said.contains("subject_claim") == warned, "{claim}: {said}");
    }
}

/// Serves bodies by path, and 404 elsewhere.
struct Site {
    address: std::net::SocketAddr,
    bodies: std::sync::Arc<std::sync::Mutex<std::collections::HashMap<String, String>>>,
}

impl Site {
    async fn start() -> Site {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let site = Site { address: listener.local_addr().unwrap(), bodies: Default::default() };
        let bodies = std::sync::Arc::clone(&site.bodies);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = vec![0; 4096];
                let length = stream.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..length]).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let body = bodies.lock().unwrap().get(&path).cloned();
                let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
                let body = body.unwrap_or_default();
                let head =
                    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}", body.len());
                let _ = stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await;
            }
        });
        site
    }

    fn at(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn serve(&self, path: &str, body: Option<String>) {
        let mut bodies = self.bodies.lock().unwrap();
        match body {
            Some(body) => drop(bodies.insert(path.to_owned(), body)),
            None => drop(bodies.remove(path)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_found_by_the_issuers_name_and_stay_while_its_document_is_down_or_of_another() {
    let upstream = Upstream::start().await;
    let site = Site::start().await;
    let (oidc, oauth) = (site.at("/realms/main"), site.at("/oauth"));
    let keys = |key: &Key| Some(jwks(&[key]));
    let document = |issuer: &str, keys: &str| Some(json!({"issuer": issuer, "jwks_uri": keys}).to_string());
    let (one, two) = (Key::es("one"), Key::es("two"));
    const OIDC: &str = "/realms/main/.well-known/openid-configuration";
    const OAUTH: &str = "/.well-known/oauth-authorization-server/oauth";
    site.serve(OIDC, document(&oidc, &site.at("/keys/1")));
    site.serve("/keys/1", keys(&one));
    site.serve(OAUTH, document(&oauth, &site.at("/keys/2")));
    site.serve("/keys/2", keys(&two));
    let section = |issuer: &str| {
        format!(
            "[[issuers]]\nissuer = \"{issuer}\"\ndiscovery = true\naudiences = [\"api\"]\nalgorithms = [\"ES256\"]\n"
        )
    };
    let text = section(&oidc) + &section(&oauth) + &route(&upstream, "");
    let gateway = Gateway::start(&text).await;
    let token = |key: &Key, issuer: &str| key.token(&claims(issuer, json!({"jti": key.kid})));
    assert_eq!(bearer(&gateway, &token(&one, &oidc)).await, 200);
    assert_eq!(bearer(&gateway, &token(&two, &oauth)).await, 200);
    assert_eq!(bearer(&gateway, &token(&two, &oidc)).await, 401, "each its own");

    // The document is down, and the keys are replaced where it last said that they are.
    let three = Key::es("three");
    site.serve(OIDC, None);
    site.serve("/keys/1", Some(jwks(&[&one, &three])));
    let told = reload(&gateway).await;
    assert!(told.contains("2 keys in force (1 new, 0 withdrawn)"), "{told}");
    assert_eq!(bearer(&gateway, &token(&three, &oidc)).await, 200);

    // It leads elsewhere in another's name: the last good keys stay.
    site.serve(OIDC, document(&oauth, &site.at("/keys/2")));
    let told = reload(&gateway).await;
    assert!(told.contains("another issuer") && told.contains("the last good ones stay (2 keys)"), "{told}");
    assert_eq!(bearer(&gateway, &token(&one, &oidc)).await, 200);
    assert_eq!(bearer(&gateway, &token(&two, &oidc)).await, 401);

    // It leads to other keys in its own name.
    site.serve(OIDC, document(&oidc, &site.at("/keys/2")));
    let told = reload(&gateway).await;
    assert!(told.contains("1 key in force (1 new, 2 withdrawn)"), "{told}");
    assert_eq!(bearer(&gateway, &token(&two, &oidc)).await, 200);
    assert_eq!(bearer(&gateway, &token(&one, &oidc)).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keys_that_were_found_by_name_survive_a_restart_with_the_source_down() {
    let upstream = Upstream::start().await;
    let site = Site::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (issuer, key) = (site.at(""), Key::es("one"));
    const AT: &str = "/.well-known/openid-configuration";
    site.serve(AT, Some(json!({"issuer": issuer, "jwks_uri": site.at("/keys")}).to_string()));
    site.serve("/keys", Some(jwks(&[&key])));
    let section = format!(
        "[[issuers]]\nissuer = \"{issuer}\"\ndiscovery = true\naudiences = [\"api\"]\nalgorithms = [\"ES256\"]\n"
    );
    write_config(folder.path(), &(section + &route(&upstream, "")));
    let token = key.token(&claims(&issuer, json!({})));
    let program = Program::start(folder.path());
    assert_eq!(program.status("/", &token).await, 200);
    stored(folder.path(), 1).await;
    program.kill();
    site.serve(AT, None);
    site.serve("/keys", None);
    let program = Program::start(folder.path());
    assert_eq!(program.status("/", &token).await, 200);
    let stranger = Key::es("one").token(&claims(&issuer, json!({})));
    assert_eq!(program.status("/", &stranger).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tenants_of_one_section_are_issuers_of_their_own() {
    let upstream = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let key = Key::rs("k");
    let file = folder.path().join("keys.json");
    std::fs::write(&file, jwks(&[&key])).unwrap();
    let tenant = |digit: char| digit.to_string().repeat(8) + "-2222-3333-4444-555566667777";
    let of = |digit: char| format!("https://login.microsoftonline.com/{}/v2.0", tenant(digit));
    let section = format!(
        "[[issuers]]\nissuer = \"https://login.microsoftonline.com/{{tenantid}}/v2.0\"\ntenants = [\"{}\", \"{}\"]\n\
         jwks = \"file:{}\"\naudiences = [\"api\"]\nalgorithms = [\"RS256\"]\nsubject_claim = \"oid\"\n",
        tenant('a'),
        tenant('b').to_uppercase(),
        file.display()
    );
    let routes = [
        ("one", format!("[\"{}\"]", of('a'))),
        ("both", "[\"https://login.microsoftonline.com/{tenantid}/v2.0\"]".to_owned()),
    ];
    let routes: String = routes
        .iter()
        .map(|(name, issuers)| crate::support::route(name, upstream.address, &format!("issuers = {issuers}")))
        .collect();
    let gateway = Gateway::start(&(section + &routes)).await;
    let tokens: std::collections::HashMap<char, String> = ['a', 'b', 'c']
        .into_iter()
        .map(|digit| (digit, key.token(&claims(&of(digit), json!({"oid": "o-1", "sub": "pairwise"})))))
        .collect();
    let status_of = async |path: &str, digit: char| {
        let token = &tokens[&digit];
        status(&gateway.get(path, &format!("Authorization: Bearer {token}\r\n")).await)
    };
    for (path, digit, want) in [
        ("/one", 'a', 200),
        ("/one", 'b', 401),
        ("/both", 'a', 200),
        ("/both", 'b', 200),
        ("/both", 'c', 401),
    ] {
        assert_eq!(status_of(path, digit).await, want, "{path} {digit}");
    }
    assert_eq!(status_of("/both", 'b').await, 200);
    let seen = upstream.requests().last().unwrap().clone();
    assert_eq!(field(&seen, "x-auth-subject"), Some("o-1"), "{seen}");
    assert_eq!(field(&seen, "x-auth-issuer"), Some(of('b').as_str()), "{seen}");
    // Revoked in one tenant, the same subject of the other one goes on.
    let target = json!({"sub": "o-1", "issuer": of('b')});
    let (code, answer) = gateway.admin("POST", "/admin/v1/revocations", &target).await;
    assert!((200..300).contains(&code), "{answer}");
    assert_eq!((status_of("/both", 'a').await, status_of("/both", 'b').await), (200, 401));
}
