use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::samples::{Sample, samples};
use super::templates::BUILT_IN;
use super::{TemplatedPages, assets_router};
use crate::config::{self, Config};
use palisade_core::domain::page::PageName;
use palisade_core::domain::reply::Page;
use palisade_core::ports::{PageRenderer, PageRequest};

const LANGUAGES: [(&str, &str); 4] = [
    ("en", include_str!("languages/en.toml")),
    ("de", include_str!("languages/de.toml")),
    ("fr", include_str!("languages/fr.toml")),
    ("es", include_str!("languages/es.toml")),
];

fn config() -> Config {
    let text = "public_url = \"https://example.com\"";
    config::parse(text, Path::new("config.toml"), &|_| None).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn pages() -> TemplatedPages {
    TemplatedPages::load(&config()).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn render(pages: &TemplatedPages, page: PageName, language: &str, sample: &Sample) -> Page {
    pages.render(&PageRequest {
        page,
        status: sample.status,
        code: "page",
        accept_language: Some(language),
        facts: &sample.facts,
    })
}

/// Every page in every language with each of its samples, by a name to tell them apart.
fn all(pages: &TemplatedPages) -> Vec<(String, PageName, &'static str, Page)> {
    let mut all = Vec::new();
    for page in PageName::ALL {
        for sample in samples(page).unwrap() {
            for (language, _) in LANGUAGES {
                let name = format!("{} {} {language}", page.name(), sample.name);
                all.push((name, page, language, render(pages, page, language, &sample)));
            }
        }
    }
    all
}

/// The texts of a language by `table.key`.
fn texts(source: &str) -> BTreeMap<String, toml::Value> {
    let tables: toml::Table = toml::from_str(source).unwrap();
    let texts = tables.into_iter().flat_map(|(table, texts)| {
        let texts: toml::Table = texts.try_into().unwrap();
        texts.into_iter().map(move |(key, text)| (format!("{table}.{key}"), text))
    });
    texts.collect()
}

/// The names in braces, in order.
fn places(text: &toml::Value) -> BTreeSet<String> {
    let text = text.to_string();
    text.split('{').skip(1).map(|rest| rest.split('}').next().unwrap().to_owned()).collect()
}

#[test]
fn every_language_says_the_same_things() {
    let english = texts(LANGUAGES[0].1);
    for (language, source) in LANGUAGES {
        let texts = texts(source);
        let keys = |texts: &BTreeMap<String, toml::Value>| texts.keys().cloned().collect::<BTreeSet<_>>();
        let (here, there) = (keys(&texts), keys(&english));
        let differing: Vec<_> = here.symmetric_difference(&there).collect();
        assert!(differing.is_empty(), "{language}: {differing:?}");
        for (key, text) in &texts {
            assert_eq!(places(text), places(&english[key]), "{language}: {key}");
            let said = text.to_string();
            assert!(!said.contains('<') && !said.contains("  ") && said != "\"\"", "{language}: {key}");
        }
        let months = texts["common.months"].as_array().unwrap();
        assert_eq!(months.len(), 12, "{language}");
    }
}

#[test]
fn no_text_is_unused() {
    let source = |name: &str| BUILT_IN.iter().find(|(known, _)| *known == name).unwrap().1;
    let shared = [source("layout.html"), source("_ui.html")].concat();
    let every: String = BUILT_IN.iter().map(|(_, text)| *text).collect();
    let written = include_str!("words.rs");
    let given: String = PageName::ALL
        .iter()
        .flat_map(|page| samples(*page).unwrap())
        .map(|sample| sample.facts.to_string())
        .collect();
    let is_named = |text: &str, name: &str| {
        text.match_indices(name).any(|(at, _)| {
            let next = text[at + name.len()..].chars().next();
            !next.is_some_and(|next| next.is_alphanumeric() || next == '_')
        })
    };
    for key in texts(LANGUAGES[0].1).keys() {
        let (table, name) = key.split_once('.').unwrap();
        let is_used = match table {
            "common" => is_named(&every, &format!("c.{name}")) || written.contains(&format!("\"{name}\"")),
            "errors" => given.contains(&format!("\"{name}\"")) || name == "other",
            page => {
                let own = [source(&format!("{page}.html")), &shared].concat();
                // `t[kind ~ "_title"]`: a part of the name is in the template or in a sample.
                let is_built = own.contains("t[")
                    && name.split('_').all(|part| own.contains(part) || given.contains(part));
                is_named(&own, &format!("t.{name}")) || is_built
            }
        };
        assert!(is_used, "{key}");
    }
}

#[test]
fn every_error_of_a_sample_has_a_text_and_a_field() {
    let known = texts(LANGUAGES[0].1);
    let pages = pages();
    for page in PageName::ALL {
        for sample in samples(page).unwrap() {
            for error in sample.facts["errors"].as_array().into_iter().flatten() {
                let (name, code) =
                    (format!("{} {}", page.name(), sample.name), error["code"].as_str().unwrap());
                assert!(known.contains_key(&format!("errors.{code}")), "{name}: {code}");
                let html = render(&pages, page, "en", &sample).html;
                if let Some(field) = error["field"].as_str() {
                    assert!(html.contains(&format!("id=\"{field}\"")), "{name}: no {field}");
                    assert!(html.contains("aria-invalid=\"true\""), "{name}");
                }
                assert!(html.contains("role=\"alert\""), "{name}: no summary");
            }
        }
    }
}

#[test]
fn every_page_is_whole_and_has_nothing_inline() {
    let pages = pages();
    for (name, page, language, Page { html, policy, .. }) in all(&pages) {
        assert!(html.starts_with("<!doctype html>\n"), "{name}: {html}");
        for (part, count) in [
            (format!("<html lang=\"{language}\">"), 1),
            ("<title>".to_owned(), 1),
            ("<main>".to_owned(), 1),
            ("<h1>".to_owned(), 1),
            ("width=device-width".to_owned(), 1),
            ("</html>".to_owned(), 1),
            ("<style".to_owned(), 0),
            (" style=".to_owned(), 0),
            ("javascript:".to_owned(), 0),
            ("http-equiv".to_owned(), 0),
            ("{{".to_owned(), 0),
            ("{%".to_owned(), 0),
            ("<script".to_owned(), usize::from(page != PageName::Framed)),
            ("<script src=\"/auth/pages/assets/pages-".to_owned(), usize::from(page != PageName::Framed)),
        ] {
            assert_eq!(html.matches(&part).count(), count, "{name}: {part}\n{html}");
        }
        let handlers = html.match_indices(" on").filter(|(at, _)| {
            let word: String = html[at + 1..].chars().take_while(char::is_ascii_alphabetic).collect();
            html[at + 1 + word.len()..].starts_with('=')
        });
        assert_eq!(handlers.count(), 0, "{name}");
        let framing = if page == PageName::Framed { "frame-ancestors *" } else { "frame-ancestors 'none'" };
        assert!(policy.ends_with(framing), "{name}: {policy}");
        for part in ["default-src 'none'; ", "style-src 'self'; ", "img-src 'self'; ", "base-uri 'none'; "] {
            assert!(policy.contains(part), "{name}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("script-src *"), "{name}: {policy}");
    }
}

/// Accessibility: every input has a label, names once what describes it, and every reference within the page leads somewhere.
#[test]
fn every_field_is_labelled_and_every_reference_leads_somewhere() {
    let pages = pages();
    for (name, _, _, Page { html, .. }) in all(&pages) {
        let values = |attribute: &str| -> Vec<String> {
            let start = format!(" {attribute}=\"");
            html.split(&*start).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
        };
        let ids = values("id");
        let known: BTreeSet<&String> = ids.iter().collect();
        assert_eq!(known.len(), ids.len(), "{name}: an id is given twice in {ids:?}");
        let described = values("aria-describedby").join(" ");
        let links: Vec<String> =
            values("href").into_iter().filter_map(|href| href.strip_prefix('#').map(str::to_owned)).collect();
        for id in described.split_whitespace().map(str::to_owned).chain(values("for")).chain(links) {
            assert!(known.contains(&id), "{name}: #{id}");
        }
        let labelled: BTreeSet<String> = values("for").into_iter().collect();
        for input in html.split("<input ").skip(1).map(|rest| rest.split('>').next().unwrap()) {
            if input.contains("type=\"hidden\"") || input.ends_with(" hidden") {
                continue;
            }
            let id = input.split("id=\"").nth(1).map(|rest| rest.split('"').next().unwrap().to_owned());
            assert!(id.is_some_and(|id| labelled.contains(&id)), "{name}: {input}");
        }
    }
}

/// Puts markup into every fact that is no word of ours.
fn hostile(value: &Value) -> Value {
    match value {
        Value::String(text) if text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') => {
            value.clone()
        }
        Value::String(text) => {
            Value::String(format!("{text}\"'><script>alert(1)</script><b onclick=x>\u{202e}\u{0}&lt;"))
        }
        Value::Array(list) => list.iter().map(hostile).collect(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), hostile(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

#[test]
fn a_lost_form_is_told_without_a_form_to_who_is_signed_in() {
    let pages = pages();
    let find = |name: &str| {
        let sample =
            samples(PageName::SignIn).unwrap().into_iter().find(|sample| sample.name == name).unwrap();
        render(&pages, PageName::SignIn, "en", &sample).html
    };
    let here = find("unsent-here");
    assert!(here.contains("This was not sent") && !here.contains("<form"), "{here}");
    assert!(here.contains("href=\"https://example.com/auth/pages/sign-in?return_to="), "{here}");
    for name in ["unsent", "unsent-switch"] {
        let html = find(name);
        assert!(html.contains("<form") && html.contains("Your form was not sent"), "{html}");
    }
}

#[test]
fn no_fact_becomes_markup() {
    let pages = pages();
    let mut seen = 0;
    for page in PageName::ALL {
        for sample in samples(page).unwrap() {
            let facts = hostile(&sample.facts);
            for (language, _) in LANGUAGES {
                let html =
                    render(&pages, page, language, &Sample { facts: facts.clone(), ..sample.clone() }).html;
                let name = format!("{} {} {language}", page.name(), sample.name);
                assert!(!html.contains("<title>Something went wrong</title>\n    "), "{name}");
                assert!(!html.contains("<script>") && !html.contains("<b "), "{name}: {html}");
                assert!(!html.contains('\u{202e}') && !html.contains('\u{0}'), "{name}");
                seen += html.matches("&lt;script&gt;alert(1)").count();
            }
        }
    }
    assert!(seen > 100, "{seen}");
}

#[test]
fn a_page_that_cannot_be_rendered_says_so_without_its_facts() {
    let folder = tempfile::tempdir().unwrap();
    let text = "{% if url == \"https://secret.test\" %}{{ url + 1 }}{% endif %}<html lang=\"{{ lang }}\">";
    fs::write(folder.path().join("framed.html"), text).unwrap();
    let mut config = config();
    config.pages.folder = Some(folder.path().to_owned());
    let pages = TemplatedPages::load(&config).unwrap_or_else(|errors| panic!("{errors:#?}"));
    let sample = |url: &str| Sample { name: String::new(), status: 401, facts: json!({"url": url}) };
    assert_eq!(render(&pages, PageName::Framed, "de", &sample("https://x.test")).html, "<html lang=\"de\">");
    let page = render(&pages, PageName::Framed, "de", &sample("https://secret.test"));
    assert!(page.html.contains("cannot be shown") && !page.html.contains("secret"), "{}", page.html);
    assert_eq!(page.status, 401);
}

#[test]
fn a_wrong_template_is_an_error_with_its_file_and_line() {
    for (file, text, told) in [
        (
            "de.toml",
            "[sign-in]\ntitel = \"x\"",
            "de.toml:2: pages.folder: found sign-in.titel, which is no text",
        ),
        ("signin.html", "x", "signin.html: pages.folder: found a file that no page is made of"),
        ("error.html", "a\n{% if x", "error.html:2: pages.folder: found syntax error"),
        ("sign-in.html", "a\n\n{{ emial }}", "sign-in.html:3: pages.folder: found undefined value"),
        (
            "sign-in.html",
            "{{ email }}",
            "sign-in.html:1: pages.folder: found invalid operation (this page may lack it",
        ),
        ("sign-in.html", "{{ t.titel }}", "sign-in.html:1: pages.folder: found undefined value"),
        (
            "sign-in.html",
            "{{ c.towards|fill(hots=1) }}",
            "sign-in.html:1: pages.folder: found undefined value",
        ),
        ("layout.html", "\n{{ servce }}", "layout.html:2: pages.folder: found undefined value"),
        ("_ui.html", "{% macro field() %}{% endmacro %}", "sign-in.html"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(file), text).unwrap();
        let mut config = config();
        config.pages.folder = Some(folder.path().to_owned());
        let errors: Vec<String> =
            TemplatedPages::load(&config).err().unwrap_or_default().iter().map(ToString::to_string).collect();
        assert!(errors.iter().any(|error| error.contains(told)), "{file}: {errors:#?}");
    }
}

#[test]
fn a_folder_replaces_templates_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("framed.html"), "{% include \"_own.html\" %} {{ c.email }}").unwrap();
    fs::write(folder.path().join("_own.html"), "{{ service }}").unwrap();
    fs::write(folder.path().join(".DS_Store"), "\u{0}").unwrap();
    let mut config = config();
    config.pages.folder = Some(folder.path().to_owned());
    config.pages.name = Some("Ann & Co".to_owned());
    config.pages.languages = vec!["fr".to_owned(), "it".to_owned(), "en".to_owned()];
    fs::write(folder.path().join("fr.toml"), "[common]\nemail = \"Courriel\"").unwrap();
    fs::write(folder.path().join("it.toml"), LANGUAGES[0].1.replace("\"Sign in\"", "\"Accedi\"")).unwrap();
    let pages = TemplatedPages::load(&config).unwrap_or_else(|errors| panic!("{errors:#?}"));
    let sample = &samples(PageName::Framed).unwrap()[0];
    assert_eq!(render(&pages, PageName::Framed, "de", sample).html, "Ann &amp; Co Courriel");
    let sample = &samples(PageName::SignIn).unwrap()[0];
    let html = render(&pages, PageName::SignIn, "en", sample).html;
    assert!(html.contains("<title>Sign in – Ann &amp; Co</title>"), "{html}");
    let html = render(&pages, PageName::SignIn, "it-CH", sample).html;
    assert!(html.contains("<html lang=\"it\">") && html.contains("<title>Accedi – "), "{html}");
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("logo.svg"), "<html>").unwrap();
    fs::write(folder.path().join("x.html"), "").unwrap();
    let mut config = config();
    config.pages.folder = Some(folder.path().to_owned());
    config.pages.logo = Some(folder.path().join("logo.svg"));
    config.pages.accent = Some("blue".to_owned());
    config.pages.languages = vec!["it".to_owned()];
    let errors = TemplatedPages::load(&config).err().unwrap();
    let keys: Vec<&str> = errors.iter().map(|error| error.key.as_str()).collect();
    assert_eq!(keys, ["pages.accent", "pages.logo", "pages.folder"]);
    config.pages.folder = None;
    let errors = TemplatedPages::load(&config).err().unwrap();
    let keys: Vec<&str> = errors.iter().map(|error| error.key.as_str()).collect();
    assert_eq!(keys, ["pages.accent", "pages.logo", "pages.languages"]);
}

#[test]
fn pages_are_below_public_url_or_where_the_operator_has_them() {
    let mut config = config();
    config.pages.urls = vec![(PageName::Account, "https://own.test/me".to_owned())];
    let pages = TemplatedPages::load(&config).unwrap_or_else(|errors| panic!("{errors:#?}"));
    assert_eq!(pages.url(PageName::SignIn), "https://example.com/auth/pages/sign-in");
    assert_eq!(pages.url(PageName::Account), "https://own.test/me");
    assert_eq!(pages.own_url(PageName::Account), Some("https://own.test/me"));
    assert_eq!(pages.own_url(PageName::SignIn), None);
}

#[test]
fn a_form_may_lead_to_every_origin_that_a_sign_in_may() {
    let mut config = config();
    config.browser.hosts = vec!["https://app.test".parse_origin(), "https://app.test:8443".parse_origin()];
    config.browser.return_to = vec!["https://spa.test".parse_origin(), "https://app.test".parse_origin()];
    let pages = TemplatedPages::load(&config).unwrap_or_else(|errors| panic!("{errors:#?}"));
    let sample = &samples(PageName::SignIn).unwrap()[0];
    let policy = render(&pages, PageName::SignIn, "en", sample).policy;
    let targets =
        "form-action 'self' https://example.com https://app.test https://app.test:8443 https://spa.test; ";
    assert!(policy.contains(targets), "{policy}");
    config.browser.hosts = (0..200).map(|n| format!("https://app-{n}.example.net").parse_origin()).collect();
    let pages = TemplatedPages::load(&config).unwrap_or_else(|errors| panic!("{errors:#?}"));
    let policy = render(&pages, PageName::SignIn, "en", sample).policy;
    assert!(policy.contains("form-action 'self' https:; "), "{policy}");
}

trait ParseOrigin {
    fn parse_origin(&self) -> palisade_core::domain::browser::NamedOrigin;
}

impl ParseOrigin for str {
    fn parse_origin(&self) -> palisade_core::domain::browser::NamedOrigin {
        palisade_core::domain::browser::NamedOrigin::parse(self).unwrap()
    }
}

#[tokio::test]
async fn files_are_kept_for_as_long_as_they_stay_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let logo = folder.path().join("logo.svg");
    fs::write(&logo, "<svg xmlns=\"http://www.w3.org/2000/svg\"><script>alert(1)</script></svg>").unwrap();
    let mut config = config();
    config.pages.logo = Some(logo);
    config.pages.accent = Some("#ffcc00".to_owned());
    let pages = Arc::new(TemplatedPages::load(&config).unwrap_or_else(|errors| panic!("{errors:#?}")));
    // As it is mounted: beside a fallback for all that is below the prefix.
    let beside = Router::new().nest("/auth", Router::new().fallback(|| async { StatusCode::IM_A_TEAPOT }));
    let router = beside.merge(assets_router(&pages));
    let sample = &samples(PageName::SignIn).unwrap()[0];
    let html = render(&pages, PageName::SignIn, "en", sample).html;
    let paths: Vec<&str> = html.split('"').filter(|part| part.starts_with("/auth/pages/assets/")).collect();
    assert_eq!(paths.len(), 4, "{paths:?}");
    let ask = async |path: &str| {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let (parts, body) = router.clone().oneshot(request).await.unwrap().into_parts();
        let field =
            |name: &str| parts.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        let text = String::from_utf8(to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap();
        let kept = field("cache-control");
        (parts.status, field("content-type"), kept, field("content-security-policy"), text)
    };
    for path in &paths {
        let (status, media_type, kept, policy, text) = ask(path).await;
        assert_eq!((status, &*kept), (StatusCode::OK, "public, max-age=31536000, immutable"), "{path}");
        match *path {
            path if path.contains("/style-") => {
                assert_eq!(media_type, "text/css; charset=utf-8");
                assert!(text.contains("--act: #ffcc00"));
            }
            path if path.contains("/logo-") => {
                assert_eq!(media_type, "image/svg+xml");
                assert!(policy.ends_with("; sandbox"), "{policy}");
            }
            _ => assert_eq!(media_type, "text/javascript; charset=utf-8"),
        }
    }
    let (status, _, kept, ..) = ask("/auth/pages/assets/style-0000000000000000.css").await;
    assert_eq!((status, &*kept), (StatusCode::OK, "no-store"));
    assert_eq!(ask("/auth/pages/assets/other.css").await.0, StatusCode::NOT_FOUND);
    assert_eq!(ask("/auth/pages/sign-in").await.0, StatusCode::IM_A_TEAPOT);
}

#[tokio::test]
async fn a_preview_shows_every_page_and_what_is_wrong() {
    let router = super::preview::router(Arc::new(|| TemplatedPages::load(&config())));
    let ask = async |router: &Router, path: &str| {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let (parts, body) = router.clone().oneshot(request).await.unwrap().into_parts();
        let text = String::from_utf8(to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap();
        (parts.status.as_u16(), parts.headers, text)
    };
    let (status, _, list) = ask(&router, "/").await;
    assert_eq!(status, 200);
    let links: Vec<&str> =
        list.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(links.len() > 4 * PageName::ALL.len(), "{links:?}");
    assert!(links.contains(&"/error/unavailable/fr"));
    let (status, headers, html) = ask(&router, "/error/unavailable/fr").await;
    assert!(status == 503 && html.contains("<html lang=\"fr\">"), "{html}");
    assert!(headers["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'"));
    let style = html.split('"').find(|part| part.contains("/style-")).unwrap();
    assert_eq!(ask(&router, style).await.1["content-type"], "text/css; charset=utf-8");
    for path in ["/error/none/fr", "/none/all/fr", "/none"] {
        assert_eq!(ask(&router, path).await.0, 404, "{path}");
    }
    let router = super::preview::router(Arc::new(|| {
        let mut config = config();
        config.pages.accent = Some("blue".to_owned());
        TemplatedPages::load(&config)
    }));
    let (status, _, text) = ask(&router, "/").await;
    assert!(status == 500 && text.contains("pages.accent: found \"blue\""), "{text}");
}
