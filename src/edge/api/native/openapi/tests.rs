//! The description and what is around the endpoints: other paths, CORS, the docs page.

use serde_json::{Value, json};

use super::super::super::described;
use super::super::super::openapi::documented_failures;
use super::super::pages;
use super::super::tests::{Api, PREFIX, api, api_for, request};
use crate::config::Origins;
use palisade_testing::accounts_world::PASSWORD;

#[tokio::test]
async fn other_paths_and_methods_are_problem_documents() {
    let api = api();
    assert_eq!(api.ask("GET", "/other", None, &Value::Null).await.refusal(), (404, "not_found".into()));
    assert_eq!(api.ask("GET", "", None, &Value::Null).await.refusal(), (404, "not_found".into()));
    assert_eq!(api.ask("GET", "/login/", None, &Value::Null).await.refusal(), (404, "not_found".into()));
    for path in ["/login", "/pages/verify", "/docs"] {
        let answer = api.ask("DELETE", path, None, &Value::Null).await;
        assert_eq!(answer.refusal(), (405, "method_not_allowed".into()), "{path}");
        assert_ne!(answer.header("allow"), "", "{path}");
    }
    assert_eq!(api.ask("GET", "/pages/verify", None, &Value::Null).await.status, 200);
}

#[tokio::test]
async fn pages_of_allowed_origins_may_call() {
    let preflight = async |api: &Api, origin: &str, path: &str| {
        let mut request = request("OPTIONS", path, None, None);
        let headers = request.headers_mut();
        headers.insert("origin", origin.parse().unwrap());
        let method = if path == "/connections" { "POST" } else { "PATCH" };
        headers.insert("access-control-request-method", method.parse().unwrap());
        headers.insert("access-control-request-headers", "authorization,content-type".parse().unwrap());
        api.send(request).await
    };
    let app = "https://app.example.com";
    let some = api_for(Origins::These(vec![app.to_owned()]));
    let allowed = preflight(&some, app, "/me").await;
    assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (200, app));
    assert!(allowed.header("access-control-allow-methods").contains("PATCH"));
    assert!(allowed.header("access-control-allow-headers").contains("authorization"));
    assert_eq!(allowed.header("access-control-max-age"), "600");
    assert_eq!(allowed.header("access-control-allow-credentials"), "");
    // A cookie is set there.
    let begin = preflight(&some, app, "/connections").await;
    assert_eq!(begin.header("access-control-allow-credentials"), "true");
    let anybody = preflight(&api_for(Origins::Any), app, "/connections").await;
    assert_eq!(anybody.header("access-control-allow-credentials"), "");
    assert!(allowed.header("vary").contains("origin"));
    for other in
        ["https://evil.example.com", "http://app.example.com", "null", "https://app.example.com.evil.test"]
    {
        assert_eq!(preflight(&some, other, "/me").await.header("access-control-allow-origin"), "", "{other}");
    }
    let mut refused = request("GET", "/me", None, None);
    refused.headers_mut().insert("origin", app.parse().unwrap());
    let refused = some.send(refused).await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, app));
    assert!(refused.header("access-control-expose-headers").contains("retry-after"));
    assert_eq!(
        preflight(&api_for(Origins::Any), app, "/login").await.header("access-control-allow-origin"),
        "*"
    );
    let none = preflight(&api(), app, "/me").await;
    assert_eq!((none.status, none.header("access-control-allow-origin")), (405, ""));
    // No other origin may read the pages.
    let mut page = request("GET", "/pages/reset", None, None);
    page.headers_mut().insert("origin", app.parse().unwrap());
    assert_eq!(some.send(page).await.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn the_description_is_served_and_complete() {
    let api = api();
    let served = api.ask("GET", "/openapi.json", None, &Value::Null).await;
    assert_eq!((served.status, served.header("content-type")), (200, "application/json"));
    assert_eq!(served.body(), api.document);
    assert_eq!(served.body()["servers"], json!([{"url": "https://app.test/auth"}]));
    assert!(served.body()["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut described: Vec<String> = Vec::new();
    let mut used: Vec<String> = vec![
        "method_not_allowed".into(),
        "email_taken".into(),
        "username_taken".into(),
        "identity_taken".into(),
        "account_frozen".into(),
    ];
    for (path, methods) in api.document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            described.push(format!("{} {path}", method.to_uppercase()));
            // Every described route is mounted.
            let concrete = path.replace("{id}", "x");
            let answer = api.ask(&method.to_uppercase(), &concrete, None, &Value::Null).await;
            assert!(!matches!(answer.refusal(), (404 | 405, _)) || path.contains("{id}"), "{method} {path}");
            assert_ne!(answer.status, 405, "{method} {path}");
            assert!(!operation["summary"].as_str().unwrap().is_empty(), "{method} {path}");
            assert!(operation.get("x-codes").is_none());
            for response in operation["responses"].as_object().unwrap().values() {
                for code in response["x-codes"].as_array().into_iter().flatten() {
                    let example =
                        &response["content"]["application/problem+json"]["examples"][code.as_str().unwrap()];
                    assert_eq!(example["value"]["code"], *code);
                    used.push(code.as_str().unwrap().to_owned());
                }
            }
        }
    }
    described.sort();
    // By the design, and no more.
    let mut wanted: Vec<&str> = "POST /register|POST /verify-email|POST /verify-email/resend|GET /session|POST /token|DELETE /me|POST /login|POST /refresh|\
         POST /logout|GET /me|PATCH /me|PUT /me/password|POST /password-resets|POST /password-resets/validate|\
         POST /password-resets/confirm|POST /email-changes/undo|POST /email-changes/object|GET /password-requirements|GET /sessions|DELETE /sessions|DELETE /sessions/{id}|GET /providers|GET /connections|POST /connections|\
         GET /connections/callback|POST /connections/callback|GET /connections/{id}|DELETE /connections/{id}|\
         POST /connections/{id}/refresh|GET /connections/{id}/token|PUT /connections/{id}/tokens"
        .split('|')
        .collect();
    wanted.sort_unstable();
    assert_eq!(described, wanted);
    for (failure, _) in documented_failures() {
        let code = failure.document()["code"].as_str().unwrap().to_owned();
        assert!(used.contains(&code), "{code} is answered by no endpoint");
    }
}

#[tokio::test]
async fn the_examples_are_real() {
    let api = api();
    let schemas = api.document["components"]["schemas"].as_object().unwrap();
    let mut examples = 0;
    for (name, schema) in schemas {
        if let Some(example) = schema.get("example") {
            assert_eq!(described::fault(&api.document, example, schema), None, "{name}");
            examples += 1;
        }
    }
    assert!(examples >= 14, "{examples}");
    let id = api.ann().await;
    let token = format!("{id}.v9");
    for (path, methods) in api.document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let name = schema["$ref"]
                .as_str()
                .or_else(|| schema["oneOf"].as_array()?.iter().find_map(|s| s["$ref"].as_str()));
            let Some(name) = name else { continue };
            let example = &schemas[name.rsplit('/').next().unwrap()]["example"];
            let answer = api.ask(&method.to_uppercase(), path, Some(&token), example).await;
            assert_ne!(answer.refusal().1, "invalid_json", "{method} {path} {answer:?}");
            assert_ne!(answer.status, 422, "{method} {path} {answer:?}");
        }
    }
}

#[tokio::test]
async fn the_docs_page_is_whole_in_itself() {
    let api = api();
    let page = api.ask("GET", "/docs", None, &Value::Null).await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let style = page.text.split_once("<style>").unwrap().1.split_once("</style>").unwrap().0;
    let policy = format!("default-src 'none'; style-src '{}'; ", pages::source(style));
    assert!(page.header("content-security-policy").starts_with(&policy));
    for dead in ["<script", " src=", "http://", "@import", "url(", " style=\"", " onclick="] {
        assert!(!page.text.contains(dead), "{dead}");
    }
    for (path, methods) in api.document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let heading = format!("<code>{} {PREFIX}{path}</code>", method.to_uppercase());
            assert_eq!(page.text.matches(&heading).count(), 1, "{heading}");
        }
    }
    for (failure, _) in documented_failures() {
        let code = failure.document()["code"].as_str().unwrap().to_owned();
        assert!(page.text.contains(&format!("<td><code>{code}</code></td>")), "{code}");
    }
}

#[tokio::test]
async fn an_answer_is_never_taken_for_a_page() {
    let api = api();
    let odd = json!({"email": "<script>@x.test", "password": PASSWORD});
    let told = api.post("/login", &odd).await;
    assert_eq!(told.refusal(), (422, "invalid_email".into()));
    assert_eq!(told.header("x-content-type-options"), "nosniff");
}
