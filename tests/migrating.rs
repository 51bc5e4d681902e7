//! Accounts that move in and out, with the real program: `palisade users import` and `palisade users export`.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::binary::Program;
use crate::support::{PATIENCE, Upstream, exchange, status};

const PASSWORD: &str = "lètmein";

/// Hashes of [`PASSWORD`] as their makers write them, with costs that a test can pay: made with Django 5.2.
const HASHES: [&str; 5] = [
    "pbkdf2_sha256$1000$seasalt$JgZryXe2Ga8ysg6XbzkLpTdyPQrHqsinbL9BnnhgX4A=",
    "pbkdf2_sha1$1000$seasalt$ljleU4wBmTtz/MoG5YTwxpM0d7I=",
    "scrypt$1024$seasalt$8$1$+qO2jTkVUbPNlniTkHY96ldSJKs4U0WQif8UbWlfO3wJDNhKOg+pPtDckiT6Zw0qkEvKIQ1MdONfGxsWrpoiNg==",
    "argon2$argon2id$v=19$m=256,t=2,p=8$c2Vhc2FsdHNlYQ$j1G5E8rTIHfVYfi+HsNs43UON5MQ8O7IKJCBePPGRQo",
    "bcrypt_sha256$$2b$05$CCCCCCCCCCCCCCCCCCCCCODnkkP4QfskupI0ioFA.dE5LjRF2Tqxm",
];

struct Gateway {
    folder: tempfile::TempDir,
    program: Program,
    _app: Upstream,
}

impl Gateway {
    async fn start() -> Gateway {
        let (app, folder) = (Upstream::start().await, tempfile::tempdir().unwrap());
        let config = format!(
            "public_url = \"http://localhost:8080\"\n[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\
             [store]\nurl = \"sled:./data\"\n[accounts]\nregistration = \"invited\"\n[passwords]\nbcrypt_cost = 4\n\
             [limits]\nenabled = false\n[mail]\ntransport = \"none\"\n\
             [[routes]]\nname = \"app\"\nmatch = {{ path = \"/\" }}\nupstream = [\"http://{}\"]\n",
            app.address
        );
        std::fs::write(folder.path().join("config.toml"), config).unwrap();
        let program = Program::start(folder.path());
        Gateway { folder, program, _app: app }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Whether the command succeeded, and what it said.
    fn command(&self, arguments: &[&str]) -> (bool, String, String) {
        let output = self.program.command(arguments);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    }

    fn done(&self, arguments: &[&str]) -> String {
        let (done, out, err) = self.command(arguments);
        assert!(done, "{arguments:?}: {out}{err}");
        out
    }

    /// The status of a sign-in.
    async fn sign_in(&self, email: &str, password: &str) -> u16 {
        let body = json!({"email": email, "password": password}).to_string();
        let request = format!(
            "POST /auth/login HTTP/1.1\r\nHost: localhost:8080\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        status(&exchange(self.program.listen, request).await)
    }

    fn exported(&self, arguments: &[&str]) -> Vec<Value> {
        let arguments = [&["users", "export"], arguments].concat();
        let text = self.done(&arguments);
        let lines = text.lines().filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn write(path: &str, rows: &[Value]) {
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(path, lines).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hashes_of_others_open_their_accounts_once_and_are_the_gateways_own_then() {
    let gateway = Gateway::start().await;
    let address = |n: usize| format!("u{n}@example.com");
    let rows: Vec<Value> = HASHES
        .iter()
        .enumerate()
        .map(|(n, hash)| json!({"email": address(n), "email_verified": true, "password_hash": hash}))
        .collect();
    write(&gateway.path("people.jsonl"), &rows);
    assert!(gateway.done(&["users", "import", &gateway.path("people.jsonl")]).contains("made 5 accounts"));
    for n in 0..HASHES.len() {
        assert_eq!(gateway.sign_in(&address(n), "letmein").await, 401, "{n}");
        assert_eq!(gateway.sign_in(&address(n), PASSWORD).await, 200, "{n}");
    }
    for account in gateway.exported(&["--hashes"]) {
        assert!(account["password_hash"].as_str().unwrap().starts_with("$2b$04$"), "{account}");
    }
    for n in 0..HASHES.len() {
        assert_eq!(gateway.sign_in(&address(n), PASSWORD).await, 200, "{n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_one_gateway_exports_another_imports() {
    let gateway = Gateway::start().await;
    let rows = [
        json!({
            "subject": "6f9619ff-8b86-4d01-b42d-00cf4fc964ff", "username": "ann", "email": "ann@example.com", "verified": true,
            "name": "=Ann \"A\", Lee", "hash": HASHES[0], "groups": ["staff", "Sales; EMEA"], "scopes": ["read"],
            "claims": {"level": 3, "note": "a,b"}, "created": "2024-05-01T00:00:00Z",
            "identities": [{"issuer": "https://idp.test", "subject": "ann"}],
        }),
        json!({"username": "scanner-3", "hash": HASHES[3], "state": "disabled"}),
        json!({"email": "bob@example.com", "hash": HASHES[2], "claimed": false}),
        json!({"email": "Ann@example.com", "hash": HASHES[2]}),
        json!({"email": "cid@example.com", "identities": [{"issuer": "https://idp.test", "subject": "ann"}]}),
    ];
    write(&gateway.path("people.jsonl"), &rows);
    let (done, out, err) = gateway.command(&["users", "import", &gateway.path("people.jsonl")]);
    assert!(!done && out.contains("made 3 accounts"), "{out}{err}");
    assert!(err.contains("line 4: line 1 has the same address") && err.contains("line 5:"), "{err}");
    assert!(err.contains("identity_taken"), "{err}");

    assert!(gateway.exported(&[]).iter().all(|account| account.get("password_hash").is_none()));
    let exported = gateway.exported(&["--hashes"]);
    assert_eq!(exported.len(), 3);
    for name in ["out.jsonl", "out.csv"] {
        let path = gateway.path(name);
        gateway.done(&["users", "export", "--hashes", "--output", &path]);
        assert_private(Path::new(&path));
        assert!(!gateway.command(&["users", "export", "--output", &path]).0, "no file is written over");
        let other = Gateway::start().await;
        let said = other.done(&["users", "import", &path]);
        assert!(said.contains("made 3 accounts"), "{name}: {said}");
        assert_eq!(other.exported(&["--hashes"]), exported, "{name}");
        assert_eq!(other.sign_in("ann@example.com", PASSWORD).await, 200);
        let (done, _, again) = other.command(&["users", "import", &path]);
        assert!(!done && again.contains("3 lines refused"), "{again}");
    }
}

fn assert_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_accounts_of_a_table_go_in_and_an_export_since_tells_what_changed() {
    let gateway = Gateway::start().await;
    let mut table = String::from("email,verified,hash\n");
    (0..1000).for_each(|n| table += &format!("u{n}@example.com,yes,{}\n", HASHES[0]));
    table += "u7@example.com,yes,\nno address,yes,\nx@example.com,maybe,\n";
    let path = gateway.path("people.csv");
    std::fs::write(&path, table).unwrap();
    let (done, out, err) = gateway.command(&["users", "import", &path, "--letters", "none"]);
    assert!(!done && out.contains("made 1000 accounts"), "{out}{err}");
    assert!(err.contains("line 1002: line 9 has the same address"), "{err}");
    assert!(err.contains("line 1003:") && err.contains("line 1004: `verified`"), "{err}");
    assert_eq!(gateway.exported(&[]).len(), 1000);
    let all = gateway.exported(&["--since", "2020-01-01T00:00:00Z"]);
    assert_eq!(all.len(), 1000);
    assert_eq!(gateway.exported(&["--since", "4000000000"]), Vec::<Value>::new());
    gateway.done(&["users", "delete", "u1@example.com", "--yes"]);
    // The event that keeps the deletion is written behind it.
    let mut gone = Vec::new();
    let begun = Instant::now();
    while gone.is_empty() {
        assert!(begun.elapsed() < PATIENCE, "the deletion is in no export");
        let since = gateway.exported(&["--since", "2020-01-01T00:00:00Z"]);
        assert!(since.len() >= 999);
        gone = since.into_iter().filter(|account| account["deleted_at"].is_u64()).collect();
    }
    assert_eq!(gone.len(), 1);
    assert_eq!(gateway.exported(&[]).len(), 999);
    assert!(!gateway.command(&["users", "export", "--since", "yesterday"]).0);
}
