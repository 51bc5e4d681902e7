//! User names, groups and accounts without an address, from the operator's commands to the app.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use palisade::edge::store::SledStore;
use palisade_core::domain::account::{PasswordHash, User, UserId};
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{Change, Store};
use serde_json::{Map, Value, json};

use crate::support::binary::Program;
use crate::support::{Gateway, Upstream, admin, body_of, exchange, field, status};

const PASSWORD: &str = "Correct horse 42";
const USERS: &str = "/admin/v1/users";

/// A gateway that writes mails to files, in front of an app that wants to know its callers.
struct World {
    gateway: Gateway,
    app: Upstream,
}

/// The configuration beside `server` and `store`.
fn config(app: &Upstream) -> String {
    let route = |name: &str, more: &str| {
        format!(
            "[[routes]]\nname = \"{name}\"\nmatch = {{ path = \"/{name}\" }}\nupstream = [\"http://{}\"]\n{more}\n",
            app.address
        )
    };
    format!(
        "[accounts]\nregistration = \"open\"\n[passwords]\nbcrypt_cost = 4\n[limits]\nenabled = false\n\
         [mail]\ntransport = \"file:./outbox\"\n{}{}",
        route("app", ""),
        route("mailed", "require = { email_verified = true }"),
    )
}

impl World {
    async fn start() -> World {
        let app = Upstream::start().await;
        World { gateway: Gateway::start(&config(&app)).await, app }
    }

    /// One call of a native endpoint.
    async fn call(&self, method: &str, path: &str, token: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let bearer =
            if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        let request = format!(
            "{method} /auth{path} HTTP/1.1\r\nHost: app.test\r\n{bearer}Content-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let answer = self.gateway.send(request).await;
        (status(&answer), serde_json::from_str(body_of(&answer)).unwrap_or(Value::Null))
    }

    async fn login(&self, body: Value) -> (u16, Value) {
        self.call("POST", "/login", "", &body).await
    }

    async fn admin(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.gateway.admin(method, path, &body).await
    }

    /// A new account with [`PASSWORD`].
    async fn made(&self, mut account: Value) -> Value {
        account["password"] = json!(PASSWORD);
        let (code, made) = self.admin("POST", USERS, account).await;
        assert_eq!(code, 201, "{made}");
        made
    }

    fn letters(&self) -> usize {
        let folder = self.gateway.folder.path().join("outbox");
        std::fs::read_dir(folder).into_iter().flatten().count()
    }
}

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

fn code(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["code"].as_str().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_without_an_address_signs_in_by_its_name_and_is_known_by_it() {
    let world = World::start().await;
    let made =
        world.made(json!({"username": "Ann.Lee", "groups": ["staff", "Sales, EMEA"], "name": "Ann"})).await;
    assert_eq!((&made["username"], &made["email"]), (&json!("ann.lee"), &Value::Null));
    assert_eq!(made["email_verified"], false);

    let (code, tokens) = world.login(json!({"username": "ANN.lee", "password": PASSWORD})).await;
    assert_eq!(code, 200, "{tokens}");
    let user = &tokens["user"];
    assert_eq!((&user["username"], &user["email"]), (&json!("ann.lee"), &Value::Null));
    assert_eq!(user["groups"], json!(["Sales, EMEA", "staff"]));
    let token = tokens["access_token"].as_str().unwrap();
    let said = claims(token);
    assert_eq!(
        (&said["preferred_username"], &said["groups"]),
        (&json!("ann.lee"), &json!(["Sales, EMEA", "staff"]))
    );
    assert!(said.get("email").is_none() && said.get("email_verified").is_none(), "{said}");
    let (_, me) = world.call("GET", "/me", token, &Value::Null).await;
    assert_eq!((&me["username"], &me["email"]), (&json!("ann.lee"), &Value::Null));

    let bearer = format!("Authorization: Bearer {token}\r\n");
    assert_eq!(status(&world.gateway.get("/app", &bearer).await), 200);
    let forwarded = world.app.only();
    assert_eq!(field(&forwarded, "x-auth-subject"), made["id"].as_str());
    assert_eq!(field(&forwarded, "x-auth-email"), None, "{forwarded}");
    assert_eq!(status(&world.gateway.get("/mailed", &bearer).await), 403, "there is no verified address");

    // An operator renames and regroups it: the token is over, and the session tells it.
    let change =
        json!({"username": "ann", "add_groups": ["night shift"], "remove_groups": ["staff", "none"]});
    let (code, changed) = world.admin("PATCH", &format!("{USERS}/ann.lee"), change).await;
    assert_eq!((code, &changed["groups"]), (200, &json!(["Sales, EMEA", "night shift"])), "{changed}");
    assert_eq!(status(&world.gateway.get("/app", &bearer).await), 401);
    let refresh = json!({"refresh_token": tokens["refresh_token"]});
    let (_, tokens) = world.call("POST", "/refresh", "", &refresh).await;
    let said = claims(tokens["access_token"].as_str().unwrap());
    assert_eq!(said["preferred_username"], "ann");
    assert_eq!(world.login(json!({"username": "ann.lee", "password": PASSWORD})).await.0, 401);

    let (code, reset) = world.admin("POST", &format!("{USERS}/ann/reset-password"), json!({})).await;
    assert_eq!((code, &reset["mailed"]), (202, &json!(false)), "{reset}");
    assert!(reset["link"].as_str().is_some_and(|link| link.contains("/auth/pages/reset#token=")), "{reset}");
    assert_eq!(world.letters(), 0);
}

/// A name that has no account looks like a wrong password. What cannot be a name is told, as it is of no account.
#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_takes_an_address_or_a_name_and_tells_nothing() {
    let world = World::start().await;
    world.made(json!({"username": "ann", "email": "ann@example.com", "email_verified": true})).await;
    let by = |name: &str, value: &str, password: &str| json!({name: value, "password": password});
    for body in [by("username", "ann", PASSWORD), by("email", "ann@example.com", PASSWORD)] {
        assert_eq!(world.login(body).await.0, 200);
    }
    let mut answers = Vec::new();
    for body in [
        by("username", "ann", "wrong"),
        by("username", "bob", PASSWORD),
        by("email", "ann@example.com", "wrong"),
        by("email", "bob@example.com", PASSWORD),
    ] {
        let (code, mut answer) = world.login(body).await;
        answer.as_object_mut().unwrap().remove("request_id");
        answers.push((code, answer));
    }
    assert_eq!(answers[0].0, 401);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    for (body, want) in [
        (by("email", "ann", PASSWORD), "invalid_email"),
        (by("username", "ann@example.com", PASSWORD), "invalid_username"),
        (by("username", "ann lee", PASSWORD), "invalid_username"),
        (json!({"password": PASSWORD}), "invalid_request"),
        (json!({"username": "ann", "email": "ann@example.com", "password": PASSWORD}), "invalid_request"),
    ] {
        let answer = world.login(body.clone()).await;
        assert_eq!(code(&answer).1, want, "{body}");
        assert!((400..=422).contains(&answer.0), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_person_sets_a_name_or_groups_of_their_own() {
    let world = World::start().await;
    let account = json!({"email": "bob@example.com", "password": PASSWORD});
    for (name, value) in [("username", json!("admin")), ("groups", json!(["admins"]))] {
        let mut wish = account.clone();
        wish[name] = value.clone();
        assert_eq!(code(&world.call("POST", "/register", "", &wish).await), (400, "invalid_json"), "{name}");
    }
    world.made(json!({"username": "ann", "email": "ann@example.com", "email_verified": true})).await;
    let (_, tokens) = world.login(json!({"username": "ann", "password": PASSWORD})).await;
    let token = tokens["access_token"].as_str().unwrap();
    for wish in
        [json!({"username": "root"}), json!({"groups": ["admins"]}), json!({"add_groups": ["admins"]})]
    {
        assert_eq!(code(&world.call("PATCH", "/me", token, &wish).await), (400, "invalid_json"), "{wish}");
    }
    // What an operator grants by claims is no way around it either.
    for claims in [json!({"groups": ["admins"]}), json!({"preferred_username": "root"}), json!({"Groups": 1})]
    {
        let answer = world.admin("PATCH", &format!("{USERS}/ann"), json!({"claims": claims})).await;
        assert_eq!(code(&answer), (422, "invalid_request"), "{claims}");
    }
    let (_, me) = world.call("GET", "/me", token, &Value::Null).await;
    assert_eq!((&me["username"], &me["groups"]), (&json!("ann"), &json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_never_given_to_a_second_account() {
    let world = World::start().await;
    world.made(json!({"username": "ann"})).await;
    let bob = world.made(json!({"email": "bob@example.com", "email_verified": true})).await;
    let bob = format!("{USERS}/{}", bob["id"].as_str().unwrap());
    let refused = async |name: &str| {
        let (new, change) = (json!({"username": name, "generate_password": true}), json!({"username": name}));
        assert_eq!(code(&world.admin("POST", USERS, new.clone()).await), (409, "username_taken"), "{name}");
        let mut dry = new;
        dry["dry_run"] = json!(true);
        assert_eq!(code(&world.admin("POST", USERS, dry).await), (409, "username_taken"), "{name}");
        assert_eq!(code(&world.admin("PATCH", &bob, change).await), (409, "username_taken"), "{name}");
    };
    for name in ["ann", "ANN", "ａｎｎ"] {
        refused(name).await;
    }
    assert_eq!(world.admin("PATCH", &format!("{USERS}/ann"), json!({"username": "anna"})).await.0, 200);
    assert_eq!(
        world.admin("GET", &format!("{USERS}/ann"), json!({})).await.0,
        404,
        "it names no account any more"
    );
    refused("ann").await;
    // The account itself may take its own back.
    assert_eq!(world.admin("PATCH", &format!("{USERS}/anna"), json!({"username": "ann"})).await.0, 200);
    refused("anna").await;
    assert_eq!(world.admin("DELETE", &format!("{USERS}/ann"), json!({})).await.0, 204);
    for name in ["ann", "anna"] {
        refused(name).await;
    }
    let (code, shown) = world.admin("GET", &bob, json!({})).await;
    assert_eq!((code, &shown["username"]), (200, &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_sets_makes_sense_or_changes_nothing() {
    let world = World::start().await;
    let made = world.made(json!({"username": "ann", "groups": ["staff"]})).await;
    let ann = format!("{USERS}/ann");
    let long: Vec<String> = (0..201).map(|n| format!("group {n}")).collect();
    for (change, want) in [
        (json!({"username": ""}), "invalid_request"),
        (json!({"email_verified": true}), "invalid_request"),
        (json!({"username": "ann lee"}), "invalid_username"),
        (json!({"username": made["id"]}), "invalid_username"),
        (json!({"email": "ann"}), "invalid_email"),
        (json!({"groups": ["a\r\nX-Auth-Groups: root"]}), "invalid_request"),
        (json!({"groups": [" a"]}), "invalid_request"),
        (json!({"groups": long}), "invalid_request"),
        (json!({"add_groups": long[..200]}), "invalid_request"),
        (json!({"groups": ["a"], "add_groups": ["b"]}), "invalid_request"),
        (json!({"add_groups": ["a"], "remove_groups": ["a"]}), "invalid_request"),
    ] {
        let answer = world.admin("PATCH", &ann, change.clone()).await;
        assert_eq!(code(&answer), (422, want), "{change}");
    }
    for new in [json!({}), json!({"name": "Ann"}), json!({"username": "bob", "email_verified": true})] {
        assert_eq!(code(&world.admin("POST", USERS, new.clone()).await), (422, "invalid_request"), "{new}");
    }
    let (_, shown) = world.admin("GET", &ann, json!({})).await;
    assert_eq!((&shown["username"], &shown["groups"]), (&json!("ann"), &json!(["staff"])));

    // An address, vouched for: it is signed in to by either. Then it is its only name, and stays.
    let given = json!({"email": "ann@example.com", "email_verified": true});
    assert_eq!(world.admin("PATCH", &ann, given).await.0, 200);
    assert_eq!(world.login(json!({"email": "ann@example.com", "password": PASSWORD})).await.0, 200);
    assert_eq!(world.admin("PATCH", &ann, json!({"username": "", "groups": []})).await.0, 200);
    let by_address = format!("{USERS}/ann@example.com");
    assert_eq!(
        code(&world.admin("PATCH", &by_address, json!({"email": ""})).await),
        (422, "invalid_request")
    );
    // Its own name comes back to it.
    assert_eq!(world.admin("PATCH", &by_address, json!({"username": "ann", "email": ""})).await.0, 200);
    assert_eq!(world.login(json!({"username": "ann", "password": PASSWORD})).await.0, 200);
    assert_eq!(code(&world.login(json!({"email": "ann@example.com", "password": PASSWORD})).await).0, 401);
    assert_eq!(world.letters(), 0);
}

/// The commands, with the real program.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_command_line_adds_sets_lists_and_imports() {
    let app = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let server = "public_url = \"http://localhost:8080\"\n[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\
                  [store]\nurl = \"sled:./data\"\n";
    std::fs::write(folder.path().join("config.toml"), format!("{server}{}", config(&app))).unwrap();
    let program = Program::start(folder.path());
    let command = |arguments: &[&str]| {
        let output = program.command(arguments);
        let (out, err) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        (output.status.success(), out, err)
    };
    let said = |arguments: &[&str]| {
        let (done, out, err) = command(arguments);
        assert!(done, "{arguments:?}: {err}");
        out
    };
    let refused = |arguments: &[&str]| {
        let (done, out, err) = command(arguments);
        assert!(!done, "{arguments:?}: {out}");
        err
    };

    assert!(refused(&["users", "add"]).contains("EMAIL"));
    assert!(refused(&["users", "add", "--username", "ann", "--verified"]).contains("EMAIL"));
    let added = said(&["users", "add", "--username", "Ann", "--group", "staff", "--group", "Sales, EMEA"]);
    assert!(
        added.starts_with("added ann with the id ") && added.contains("/auth/pages/reset#token="),
        "{added}"
    );
    assert!(
        refused(&["users", "add", "--username", "ANN", "--generate-password"]).contains("username_taken")
    );
    let set = said(&["users", "set", "ann", "--add-group", "night", "--remove-group", "staff"]);
    assert_eq!(
        set.trim(),
        "ann has the user name ann, the address – and the groups [\"Sales, EMEA\",\"night\"]"
    );
    assert!(refused(&["users", "set", "ann"]).contains("say what to change"));
    assert!(refused(&["users", "set", "ann", "--group", "a", "--no-groups"]).contains("cannot be used with"));
    let set = said(&["users", "set", "ann", "--email", "ann@example.com", "--no-groups"]);
    assert!(set.contains("the address ann@example.com and the groups –") && set.contains("waits"), "{set}");
    said(&["users", "set", "ann@example.com", "--verified"]);
    let list = said(&["users", "list"]);
    assert!(list.contains("USER NAME") && list.contains("ann@example.com"), "{list}");
    assert!(said(&["users", "show", "ann"]).contains("User name"));
    assert_eq!(said(&["users", "disable", "ann"]).trim(), "disabled ann");

    // Every line stands for itself: what is wrong is named, here and by the gateway, and the rest goes in.
    let file = folder.path().join("people.jsonl");
    let path = file.to_str().unwrap();
    let lines = |text: &str| std::fs::write(&file, text).unwrap();
    let count = || said(&["users", "list"]).lines().count() - 1;
    lines(concat!(
        "{\"username\": \"bob\", \"groups\": [\"staff\"], \"generate_password\": true}\n",
        "{\"username\": \"cid\", \"email\": \"cid@example.com\"}\n",
        "\n",
        "{\"username\": \"BOB\"}\n",
        "{\"username\": \"dan\", \"email\": \"CID@example.com\"}\n",
        "{\"username\": \"a b\"}\n",
        "{\"username\": \"Ann\"}\n",
        "{\"username\": \"eve\", \"group\": [\"staff\"]}\n",
        "{\"email\": \"ann@example.com\"}\n",
        "{\"username\": \"dan\", \"password\": \"x\"}\n",
    ));
    let (done, out, wrong) = command(&["users", "import", path, "--dry-run"]);
    assert!(!done && out.contains("2 accounts can be made; nothing was"), "{out} {wrong}");
    assert!(out.contains("1 of them would get a letter"), "{out}");
    assert_eq!(count(), 1, "nothing was made");
    let (done, out, imported) = command(&["users", "import", path, "--json"]);
    assert!(!done, "{out}");
    for wrong in [&wrong, &imported] {
        for (line, want) in [
            (4, "line 1 has the same user name"),
            (5, "line 2 has the same address"),
            (6, "invalid_username"),
            (7, "username_taken"),
            (8, "invalid_json"),
            (9, "email_taken"),
            (10, "same user name"),
        ] {
            let told =
                wrong.lines().find(|told| told.starts_with(&format!("line {line}:"))).unwrap_or_default();
            assert!(told.contains(want), "{line}: {wrong}");
        }
        assert!(wrong.contains("7 lines refused") && !wrong.contains("line 1:"), "{wrong}");
    }
    let made: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&made[0]["line"], &made[0]["username"]), (&json!(1), &json!("bob")));
    assert!(made[0]["password"].is_string() && made[1]["password"].is_null(), "{made}");
    assert_eq!((&made[1]["mailed"], &made[1]["link"]), (&json!(true), &Value::Null), "{made}");
    assert_eq!(count(), 3);
    let again = refused(&["users", "import", path]);
    assert!(again.contains("line 1:") && again.contains("line 2:"), "{again}");
    assert_eq!(count(), 3, "nothing is made twice");
}

/// bcrypt of [`PASSWORD`], cost 4.
const HASH: &str = "$2b$04$abcdefghijklmnopqrstuukUF1tav/VB1FyI0DVA1eNnD.6yjwg7y";

/// What an earlier version has left: operators had set these names as claims of the accounts' own.
async fn write_own_claims(folder: &Path) {
    let store = SledStore::open(folder).unwrap();
    let account = |id: u128, claims: Value| {
        let claims: Map<String, Value> = serde_json::from_value(claims).unwrap();
        let email = format!("u{id}@example.com").parse().unwrap();
        let password = Some(PasswordHash(HASH.to_owned()));
        let new = User::new(UserId(uuid::Uuid::from_u128(id)), email, UnixTime(1_700_000_000));
        Change::CreateUser(User { claims, password, email_verified: true, ..new })
    };
    let accounts = vec![
        account(1, json!({"groups": ["staff", "Sales, EMEA"], "preferred_username": "Ann", "role": "clerk"})),
        account(2, json!({"groups": "staff,admins", "preferred_username": "ann", "role": "clerk"})),
        account(3, json!({"role": "clerk"})),
    ];
    store.commit(accounts).await.unwrap();
    store.close();
}

/// The claims of the access token of a sign-in.
async fn signed_in(program: &Program, credentials: Value) -> Value {
    let body = credentials.to_string();
    let request = format!(
        "POST /auth/login HTTP/1.1\r\nHost: localhost:8080\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = exchange(program.listen, request).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let tokens: Value = serde_json::from_str(body_of(&answer)).unwrap();
    let payload = tokens["access_token"].as_str().unwrap().split('.').nth(1).unwrap();
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    for name in ["\"groups\"", "\"preferred_username\""] {
        assert!(text.matches(name).count() <= 1, "{text}");
    }
    serde_json::from_str(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn own_claims_of_an_earlier_version_become_user_names_and_groups_at_the_first_start() {
    let app = Upstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let server = "public_url = \"http://localhost:8080\"\n[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\
                  [store]\nurl = \"sled:./data\"\n";
    std::fs::write(folder.path().join("config.toml"), format!("{server}{}", config(&app))).unwrap();
    // The secrets of an installation, and the store of another one beside them.
    let data = folder.path().join("data");
    Program::start(folder.path()).stop();
    for entry in std::fs::read_dir(&data).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        match name.as_str() {
            "admin.token" | "signing-keys.json" => {}
            name if name.ends_with(".key") => {}
            _ if path.is_dir() => std::fs::remove_dir_all(path).unwrap(),
            _ => std::fs::remove_file(path).unwrap(),
        }
    }
    write_own_claims(&data).await;
    // A later start finds nothing to do, and says nothing of it.
    for round in 0..2 {
        let program = Program::start(folder.path());
        assert_eq!(program.began.contains("do not fit"), round == 0, "{}", program.began);
        let ann = signed_in(&program, json!({"username": "ANN", "password": PASSWORD})).await;
        assert_eq!(
            json!([ann["sub"], ann["preferred_username"], ann["groups"], ann["role"]]),
            json!([uuid::Uuid::from_u128(1), "ann", ["Sales, EMEA", "staff"], "clerk"])
        );
        let unfit = signed_in(&program, json!({"email": "u2@example.com", "password": PASSWORD})).await;
        assert_eq!(
            json!([unfit.get("preferred_username"), unfit.get("groups"), unfit["role"]]),
            json!([null, null, "clerk"])
        );
        let credential = std::fs::read_to_string(data.join("admin.token")).unwrap();
        let ask = async |path: &str| admin(program.admin, &credential, "GET", path, &Value::Null).await;
        let (_, listed) = ask("/admin/v1/users?ignored_claims=true").await;
        assert_eq!(listed["users"].as_array().unwrap().len(), 1, "{listed}");
        let listed = &listed["users"][0];
        assert_eq!(listed["ignored_claims"], json!(["groups", "preferred_username"]));
        assert_eq!(listed["claims"]["groups"], "staff,admins", "it is not lost");
        if round == 1 {
            // Written at the latest when the first run ended.
            let (_, events) = ask("/admin/v1/audit?limit=99&user=u2@example.com").await;
            let events = events["events"].as_array().unwrap();
            let taken = events.iter().filter(|event| event["reason"] == "claims_taken_over");
            assert_eq!(taken.count(), 1, "{events:?}");
        }
        let table = program.command(&["users", "list", "--ignored-claims"]);
        let table = String::from_utf8(table.stdout).unwrap();
        assert!(table.contains("u2@example.com") && !table.contains("u1@example.com"), "{table}");
        program.stop();
    }
    let program = Program::start(folder.path());
    let set = program.command(&["users", "set", "u2@example.com", "--group", "staff", "--username", "ann2"]);
    assert!(set.status.success(), "{set:?}");
    let decided = signed_in(&program, json!({"username": "ann2", "password": PASSWORD})).await;
    assert_eq!(json!([decided["preferred_username"], decided["groups"]]), json!(["ann2", ["staff"]]));
    let table = program.command(&["users", "list", "--ignored-claims"]);
    assert!(!String::from_utf8(table.stdout).unwrap().contains("example.com"));
}
