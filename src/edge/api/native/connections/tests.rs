//! Connections over fakes: begun, completed in the browser that began them, used, and ended.

use axum::body::Body;
use serde_json::{Value, json};

use super::super::super::body::MAX_BODY;
use super::super::super::described::Answer;
use super::super::super::fakes::{RETURN_TO, TOKENS};
use super::super::tests::{Api, PREFIX, access, api, api_at, request};
use crate::config::Origins;
use palisade_core::domain::account::UserId;
use palisade_core::ports::ProviderFault;
use palisade_core::service::users::UserEdit;
use palisade_testing::connection_fakes::ACME;
use std::time::Duration;

/// A browser that has begun a connection, and what the provider sends it back with.
struct Begun {
    id: String,
    state: String,
    /// `name=value`.
    cookie: String,
    set_cookie: String,
}

impl Api {
    async fn begin(&self, token: &str, body: Value) -> Begun {
        let answer = self.ask("POST", "/connections", Some(token), &body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let set_cookie = answer.header("set-cookie").to_owned();
        Begun {
            id: answer.body()["id"].as_str().unwrap().to_owned(),
            state: self.providers.states.lock().unwrap().last().unwrap().clone(),
            cookie: set_cookie.split(';').next().unwrap().to_owned(),
            set_cookie,
        }
    }

    async fn come_back(&self, method: &str, query: &str, cookie: &str) -> Answer {
        let mut request = request(method, &format!("/connections/callback?{query}"), None, None);
        if !cookie.is_empty() {
            request.headers_mut().insert("cookie", cookie.parse().unwrap());
        }
        self.send(request).await
    }

    async fn form(&self, form: &str, cookie: &str) -> Answer {
        let mut request = request("POST", "/connections/callback", None, None);
        let kind = "application/x-www-form-urlencoded; charset=utf-8";
        request.headers_mut().insert("content-type", kind.parse().unwrap());
        if !cookie.is_empty() {
            request.headers_mut().insert("cookie", cookie.parse().unwrap());
        }
        *request.body_mut() = Body::from(form.to_owned());
        self.send(request).await
    }

    /// Ann's access token, and her connection.
    async fn connected(&self) -> (String, String) {
        self.ann().await;
        let token = access(&self.login().await);
        let begun = self.begin(&token, json!({"provider": ACME})).await;
        let back = self.come_back("GET", &format!("code=c0de&state={}", begun.state), &begun.cookie).await;
        assert_eq!(back.status, 200, "{back:?}");
        (token, begun.id)
    }

    async fn status_of(&self, token: &str, id: &str) -> String {
        let shown = self.get(&format!("/connections/{id}"), token).await;
        shown.body()["status"].as_str().unwrap_or_default().to_owned()
    }
}

fn to_app() -> Value {
    json!({"provider": ACME, "return_to": RETURN_TO})
}

#[tokio::test]
async fn from_beginning_to_end() {
    let api = api();
    let listed = api.ask("GET", "/providers", None, &Value::Null).await;
    assert_eq!((listed.status, &listed.body()["providers"][0]["name"]), (200, &json!(ACME)));
    api.ann().await;
    let token = access(&api.login().await);
    let begun = api.begin(&token, to_app()).await;
    assert_eq!(api.status_of(&token, &begun.id).await, "pending");
    let (name, rest) = begun.set_cookie.split_once('=').unwrap();
    assert!(name.starts_with("__Host-palisade_connect_") && name.len() == 32, "{name}");
    let (_, attributes) = rest.split_once("; ").unwrap();
    assert_eq!(attributes, "HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=600");

    let query = format!("code=c0de&state={}", begun.state);
    let back = api.come_back("GET", &query, &format!("a=b; {}; c=d", begun.cookie)).await;
    assert_eq!((back.status, back.text.as_str()), (303, ""));
    assert_eq!(back.header("location"), format!("{RETURN_TO}&connection={}", begun.id));
    assert_eq!(back.header("referrer-policy"), "no-referrer");
    assert_eq!(back.header("set-cookie"), "", "for when the page is reloaded");
    let again = api.come_back("GET", &query, &begun.cookie).await;
    assert_eq!((again.status, again.header("location")), (303, back.header("location")));
    assert_eq!(api.come_back("GET", &query, "").await.status, 400, "to no other browser");
    assert_eq!(api.providers.count("exchange"), 1, "a state is good once");

    let shown = api.get(&format!("/connections/{}", begun.id), &token).await.body();
    assert_eq!((&shown["status"], &shown["account"]["subject"]), (&json!("active"), &json!("ann-at-acme")));
    assert_eq!(api.get("/connections", &token).await.body()["connections"], json!([shown]));
    let path = format!("/connections/{}", begun.id);
    let refreshed = api.ask("POST", &format!("{path}/refresh"), Some(&token), &Value::Null).await;
    assert_eq!((refreshed.status, &refreshed.body()["failures"]), (200, &json!(0)));
    assert_eq!(api.providers.count("refresh"), 1);
    for text in [shown.to_string(), refreshed.text] {
        for secret in ["a0.0", "r0.0", "a0.1", "k1|", "realm-0", "c0de"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
    for _ in 0..2 {
        assert_eq!(api.ask("DELETE", &path, Some(&token), &Value::Null).await.status, 204);
    }
    assert_eq!(api.status_of(&token, &begun.id).await, "revoked");
    assert!(api.providers.live().is_empty(), "the provider was told");
}

#[tokio::test]
async fn only_the_browser_that_began_completes() {
    let api = api();
    api.ann().await;
    let token = access(&api.login().await);
    let (first, second) = (
        api.begin(&token, to_app()).await,
        api.begin(&token, json!({"provider": ACME, "another": true})).await,
    );
    assert_ne!(first.cookie.split('=').next(), second.cookie.split('=').next(), "both may be under way");
    let name = first.cookie.split('=').next().unwrap();
    let good = format!("code=c&state={}", first.state);
    for (query, cookie) in [
        (good.clone(), String::new()),
        (good.clone(), second.cookie.clone()),
        (good.clone(), format!("{name}=guessed")),
        // With two of a name, one is of another site.
        (good.clone(), format!("{}; {name}=other", first.cookie)),
        (format!("{good}&state={}", first.state), first.cookie.clone()),
        ("code=c".to_owned(), first.cookie.clone()),
        ("code=c&state=nonsense".to_owned(), first.cookie.clone()),
        (String::new(), String::new()),
        ("error=access_denied".to_owned(), String::new()),
        // What another host of the site can plant, with the value that the attacker's own browser was given.
        (good.clone(), first.cookie.replace("__Host-", "")),
        (good.clone(), first.cookie.replace("__Host-", "__Secure-")),
        (good.clone(), first.cookie.replace("__Host-", "__host-")),
        (format!("{good}&code=d"), first.cookie.clone()),
        (format!("{good}&iss=a&iss=b"), first.cookie.clone()),
        (format!("{good}{}", "&x=y".repeat(64)), first.cookie.clone()),
    ] {
        let answer = api.come_back("GET", &query, &cookie).await;
        assert_eq!((answer.status, answer.header("location")), (400, ""), "{query} {cookie}");
        assert!(answer.text.contains("Go back to the app"), "{}", answer.text);
        assert!(!answer.text.contains("nonsense"), "{}", answer.text);
        assert_eq!(answer.header("set-cookie"), "");
    }
    assert_eq!(api.providers.count("exchange"), 0);
    // A client that only looks does not use it up.
    assert_eq!(api.come_back("HEAD", &good, &first.cookie).await.status, 200);
    assert_eq!(api.status_of(&token, &first.id).await, "pending");
    assert_eq!(api.come_back("GET", &good, &first.cookie).await.status, 303);
    assert_eq!(api.status_of(&token, &first.id).await, "active");
}

#[tokio::test]
async fn a_browser_is_told_why_it_did_not_work() {
    let api = api();
    api.ann().await;
    let token = access(&api.login().await);
    let begun = api.begin(&token, to_app()).await;
    let query = format!("error=access_denied&state={}", begun.state);
    let back = api.come_back("GET", &query, &begun.cookie).await;
    let to = format!("{RETURN_TO}&connection={}&error=access_denied", begun.id);
    assert_eq!((back.status, back.header("location")), (303, to.as_str()));

    let begun = api.begin(&token, json!({"provider": ACME})).await;
    let words = "error=access_denied&error_description=%3Cscript%3Ealert(1)%3C/script%3E";
    let page = api.come_back("GET", &format!("{words}&state={}", begun.state), &begun.cookie).await;
    assert_eq!(page.status, 200);
    assert!(page.text.contains("<h1>Your account is not connected</h1>"), "{}", page.text);
    assert!(page.text.contains("Acme Bank") && page.text.contains("&lt;script&gt;"), "{}", page.text);
    assert!(!page.text.contains("<script"), "{}", page.text);
    assert!(page.header("content-security-policy").starts_with("default-src 'none'; style-src 'sha256-"));

    let begun = api.begin(&token, json!({"provider": ACME})).await;
    let page = api.come_back("GET", &format!("code=c&state={}", begun.state), &begun.cookie).await;
    assert!(page.text.contains("<h1>Your account is connected</h1>"), "{}", page.text);

    let begun = api.begin(&token, json!({"provider": ACME})).await;
    api.world.store.fail();
    let page = api.come_back("GET", &format!("code=c&state={}", begun.state), &begun.cookie).await;
    assert_eq!((page.status, page.header("retry-after")), (503, "1"), "{page:?}");
    assert!(!page.text.contains("secret detail"), "{}", page.text);
}

#[tokio::test]
async fn a_form_of_another_site_is_sent_once_more_from_here() {
    let api = api();
    api.ann().await;
    let token = access(&api.login().await);
    let begun = api.begin(&token, to_app()).await;
    let form = format!("code=c0de&state={}&user=%7B%22a%22%3A%22%3Cb%3E%22%7D", begun.state);
    // What a browser sends from another site: no cookie.
    let page = api.form(&form, "").await;
    assert_eq!((page.status, page.header("location")), (200, ""));
    assert!(page.text.contains("name=\"code\" value=\"c0de\""), "{}", page.text);
    assert!(page.text.contains("value=\"{&quot;a&quot;:&quot;&lt;b&gt;&quot;}\""), "{}", page.text);
    assert_eq!(page.header("cache-control"), "no-store");
    assert_eq!(api.status_of(&token, &begun.id).await, "pending");
    let back = api.form(&format!("palisade_once_more=1&{form}"), &begun.cookie).await;
    assert_eq!(back.header("location"), format!("{RETURN_TO}&connection={}", begun.id));
    assert_eq!(api.providers.last("exchange").provider, ACME);

    // Nor does anything go round that answers no consent of ours.
    for stranger in ["code=c0de&state=nonsense", "code=c0de", "<b>=1", &format!("{form}&code=d")] {
        let refused = api.form(stranger, "").await;
        assert_eq!((refused.status, refused.text.contains("c0de")), (400, false), "{stranger}");
    }
    // A browser that keeps no cookies is not sent round for ever.
    assert_eq!(api.form(&format!("palisade_once_more=1&{form}"), "").await.status, 400);
    let mut other = request("POST", "/connections/callback", None, Some("{}"));
    assert_eq!(api.send(other).await.status, 415);
    other = request("POST", "/connections/callback", None, None);
    assert_eq!(api.send(other).await.status, 415);
    assert_eq!(api.form(&format!("a={}", "b".repeat(MAX_BODY)), "").await.status, 413);
}

#[tokio::test]
async fn tokens_are_for_those_whom_the_configuration_names() {
    let api = api();
    let (token, id) = api.connected().await;
    let path = format!("/connections/{id}/token");
    assert_eq!(api.get(&path, &token).await.refusal(), (403, "token_access_denied".into()));
    let mut open = (*api.connections.settings()).clone();
    open.providers
        .get_mut(ACME)
        .unwrap()
        .token_access
        .as_mut()
        .unwrap()
        .scopes
        .retain(|scope| scope != TOKENS);
    api.connections.apply(open);
    let given = api.get(&path, &token).await;
    assert_eq!(given.status, 200);
    assert_eq!(
        (&given.body()["access_token"], &given.body()["token_type"]),
        (&json!("a0.0"), &json!("Bearer"))
    );
    let none = api.ask("GET", &path, None, &Value::Null).await;
    assert_eq!(none.refusal(), (401, "token_missing".into()));
    assert_eq!(api.get(&path, "they/ann").await.refusal(), (403, "no_account".into()));

    let bob = format!("{}.v0", UserId(uuid::Uuid::from_u128(77)));
    for (method, rest) in
        [("GET", ""), ("GET", "/token"), ("DELETE", ""), ("POST", "/refresh"), ("PUT", "/tokens")]
    {
        let body = if method == "PUT" { json!({"access_token": "mine"}) } else { Value::Null };
        for id in [id.as_str(), "x", "%FF", "00000000-0000-0000-0000-000000000000"] {
            let tried = api.ask(method, &format!("/connections/{id}{rest}"), Some(&bob), &body).await;
            assert_eq!(tried.refusal(), (404, "not_found".into()), "{method} {id}{rest}");
        }
    }
    assert_eq!(api.get("/connections", &bob).await.body()["connections"], json!([]));
    assert_eq!(api.get(&path, &token).await.body()["access_token"], "a0.0");
}

#[tokio::test]
async fn an_app_hands_over_what_it_has() {
    let api = api();
    api.ann().await;
    let token = access(&api.login().await);
    let begun = api.begin(&token, json!({"provider": ACME})).await;
    // These are of no grant that this provider has given.
    api.providers.edit_info(|info| info.can_revoke = false);
    let path = format!("/connections/{}", begun.id);
    let pending = api.ask("POST", &format!("{path}/refresh"), Some(&token), &Value::Null).await;
    assert_eq!(pending.refusal(), (409, "connection_pending".into()));
    let put = async |body: Value| api.ask("PUT", &format!("{path}/tokens"), Some(&token), &body).await;
    let refused = put(json!({"access_token": ""})).await;
    assert_eq!(refused.refusal(), (422, "invalid_request".into()));
    let tokens = json!({"access_token": "old", "refresh_token": "r9.9", "expires_in": 600, "scopes": ["read"],
        "kept": {"realm": "x"}});
    assert_eq!(put(tokens).await.status, 204);
    let shown = api.get(&path, &token).await.body();
    assert_eq!((&shown["status"], &shown["scopes_granted"]), (&json!("active"), &json!(["read"])));
    assert_eq!(api.ask("DELETE", &path, Some(&token), &Value::Null).await.status, 204);
    assert_eq!(put(json!({"access_token": "x"})).await.refusal(), (409, "connection_revoked".into()));
}

#[tokio::test]
async fn what_cannot_be_begun_is_refused_with_the_cure() {
    let api = api();
    api.ann().await;
    let token = access(&api.login().await);
    let shop = json!({"shop": "x"});
    for (body, code) in [
        (json!({"provider": "nobody", "parameters": shop}), "unknown_provider"),
        (json!({"provider": "shop"}), "invalid_request"),
        (json!({"provider": "shop", "parameters": {"shop": "x", "other": "y"}}), "invalid_request"),
        (json!({"provider": "shop", "parameters": shop, "scopes": ["a b"]}), "invalid_request"),
        (
            json!({"provider": "shop", "parameters": shop, "return_to": "https://evil.test/"}),
            "invalid_request",
        ),
        (json!({"provider": "shop", "parameters": shop, "return_to": "//evil.test/"}), "invalid_request"),
        (
            json!({"provider": "shop", "parameters": shop, "return_to": format!("{RETURN_TO}#x")}),
            "invalid_request",
        ),
        (json!({"provider": "shop", "parameters": shop, "connection": uuid::Uuid::nil()}), "not_found"),
    ] {
        let refused = api.ask("POST", "/connections", Some(&token), &body).await;
        let status = if code == "not_found" { 404 } else { 422 };
        assert_eq!(refused.refusal(), (status, code.to_owned()), "{body}");
        assert_eq!(refused.header("set-cookie"), "");
    }
    // A path is one on the public URL.
    let body = json!({"provider": "shop", "parameters": shop, "return_to": "/settings?tab=banks"});
    assert_eq!(api.ask("POST", "/connections", Some(&token), &body).await.status, 201);
    // There is no consent to give.
    api.providers.unattended.store(true, std::sync::atomic::Ordering::Relaxed);
    let body = json!({"provider": "shop", "parameters": shop, "another": true});
    let active = api.ask("POST", "/connections", Some(&token), &body).await;
    assert_eq!((active.status, active.header("set-cookie")), (201, ""));
    assert_eq!(
        (&active.body()["status"], &active.body()["authorization_url"]),
        (&json!("active"), &Value::Null)
    );
}

#[tokio::test]
async fn what_the_provider_says_is_told_apart() {
    let api = api();
    let (token, id) = api.connected().await;
    let path = format!("/connections/{id}/refresh");
    let later = |wait| ProviderFault::Transient { reason: "a 503".into(), retry_after: wait };
    let wait = Some(Duration::from_secs(9));
    for (fault, status, code, kind) in [
        (later(wait), 503, "provider_unavailable", Value::Null),
        (ProviderFault::ProviderError("no".into()), 502, "provider_failed", json!("provider_error")),
        (ProviderFault::Misconfigured("no".into()), 502, "provider_failed", json!("misconfigured")),
        (ProviderFault::PluginFailed("no".into()), 502, "provider_failed", json!("plugin_failed")),
        (ProviderFault::InvalidGrant("gone".into()), 409, "reconnect_needed", Value::Null),
        (ProviderFault::InvalidGrant("gone".into()), 409, "reconnect_needed", Value::Null),
    ] {
        api.providers.fail("refresh", fault);
        let failed = api.ask("POST", &path, Some(&token), &Value::Null).await;
        assert_eq!((failed.refusal(), failed.body()["kind"].clone()), ((status, code.into()), kind));
        let waits: u64 = failed.header("retry-after").parse().unwrap_or_default();
        assert_eq!(waits >= 9, status == 503, "{failed:?}");
    }
    let shown = api.get(&format!("/connections/{id}"), &token).await.body();
    assert_eq!(shown["status"], "reconnect_needed");
    assert_eq!(shown["last_fault"]["kind"], "invalid_grant");
}

#[tokio::test]
async fn a_disabled_account_connects_nothing() {
    let api = api();
    let id = api.ann().await;
    api.edit(id, UserEdit { active: Some(false), ..UserEdit::default() }).await;
    let token = format!("{id}.v9");
    let refused = api.ask("POST", "/connections", Some(&token), &json!({"provider": ACME})).await;
    assert_eq!(refused.refusal(), (403, "no_account".into()));
}

#[tokio::test]
async fn in_cleartext_the_cookie_is_not_secure() {
    let api = api_at(Origins::These(Vec::new()), "http://localhost:8080");
    api.ann().await;
    let token = access(&api.login().await);
    let begun = api.begin(&token, json!({"provider": ACME})).await;
    let (name, rest) = begun.set_cookie.split_once('=').unwrap();
    assert!(name.starts_with("palisade_connect_"), "{name}");
    let (_, attributes) = rest.split_once("; ").unwrap();
    assert_eq!(
        attributes,
        format!("HttpOnly; SameSite=Lax; Path={PREFIX}/connections/callback; Max-Age=600")
    );
}

/// Over TLS the cookies come with every request of the browser, so there is an end to their number.
#[tokio::test]
async fn a_browser_keeps_so_many_cookies_of_ours_and_no_more() {
    let api = api();
    api.ann().await;
    let token = access(&api.login().await);
    let ours = |number: usize| format!("__Host-palisade_connect_{number:08x}=x");
    let others =
        "a=b; __Host-palisade_connect_zz=1; __Host-palisade_connect_0000000g=1; palisade_connect_00000000=1";
    for (count, gone) in [(0, 0), (15, 0), (16, 1), (40, 25)] {
        let cookies: Vec<String> = (0..count).map(ours).collect();
        let body = json!({"provider": ACME}).to_string();
        let mut request = request("POST", "/connections", Some(&token), Some(&body));
        let line = format!("{others}; {}", cookies.join("; "));
        request.headers_mut().insert("cookie", line.parse().unwrap());
        let answer = api.send(request).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let set: Vec<&str> =
            answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap()).collect();
        let (fresh, old) = set.split_last().unwrap();
        assert!(fresh.contains("Max-Age=600"), "{fresh}");
        let names: Vec<String> = (0..gone)
            .map(|number| ours(number).replace("=x", "=; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=0"))
            .collect();
        assert_eq!(old.len(), gone);
        assert!(old.iter().zip(&names).all(|(set, name)| set.starts_with(&**name)), "{old:?}");
    }
}
