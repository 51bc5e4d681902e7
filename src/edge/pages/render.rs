//! From a page's facts to its HTML.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::Error;
use minijinja::value::{Serde, Value};

use super::accent;
use super::assets::Assets;
use super::languages::{Language, LanguageFault, Languages};
use super::policy::Policies;
use super::samples::{Sample, samples};
use super::templates::{KIND, Templates, file_of};
use crate::config::{Config, ConfigError};
use palisade_core::domain::page::PageName;
use palisade_core::domain::reply::Page;
use palisade_core::ports::{PageRenderer, PageRequest};

/// What a reader gets when a template fails: it rendered at the start, so an operator has to look at it.
const WITHOUT_TEMPLATE: &str = "<!doctype html>\n<html lang=\"en\">\n<title>Something went wrong</title>\n\
    <main><h1>Something went wrong</h1>\n<p>This page cannot be shown. Please try again later.</p></main>\n</html>\n";

/// The pages.
pub struct TemplatedPages {
    templates: Templates,
    languages: Languages,
    policies: Policies,
    pub(super) assets: Assets,
    /// What every page knows, whatever its facts.
    shared: BTreeMap<&'static str, Value>,
    /// The facts that each page knows.
    known: BTreeMap<PageName, Vec<String>>,
    /// Where each page is.
    urls: BTreeMap<PageName, String>,
    /// The pages among them that are the operator's.
    own: BTreeSet<PageName>,
}

impl TemplatedPages {
    /// Reads templates, texts and logo, and renders every page in every language with all of its samples. Blocks.
    ///
    /// # Errors
    /// Everything that is wrong with them, with file and line.
    pub fn load(config: &Config) -> Result<TemplatedPages, Vec<ConfigError>> {
        let settings = &config.pages;
        let mut errors = Vec::new();
        let mut wrong = |key: &str, found: String, want: &str| {
            let (key, want) = (key.to_owned(), want.to_owned());
            errors.push(ConfigError { path: config.path.clone(), line: 0, key, found, want });
        };
        let style = settings.accent.as_deref().map(|accent| {
            accent::properties(accent).unwrap_or_else(|| {
                wrong("pages.accent", format!("{accent:?}"), "a colour like #1d4ed8");
                String::new()
            })
        });
        let mut assets = Assets::new(&config.server.prefix, &style.unwrap_or_default());
        if let Some(logo) = &settings.logo
            && let Err(found) = assets.add_logo(logo)
        {
            wrong("pages.logo", format!("{}: {found}", logo.display()), "an SVG or PNG of at most 512 KiB");
        }
        let templates = match Templates::load(settings.folder.as_deref(), settings.logo.as_deref()) {
            Ok(templates) => templates,
            Err(more) => return Err(errors.into_iter().chain(more).collect()),
        };
        let languages = Languages::load(&settings.languages, &templates.texts).map_err(|faults| {
            errors.extend(faults.into_iter().map(|fault| told(config, fault)));
        });
        let (Ok(languages), true) = (languages, errors.is_empty()) else { return Err(errors) };
        let urls = urls(config);
        let pages = TemplatedPages {
            templates,
            languages,
            policies: Policies::of(&config.browser),
            shared: shared(config, &assets, &urls),
            assets,
            known: BTreeMap::new(),
            urls,
            own: config.pages.urls.iter().map(|(page, _)| *page).collect(),
        };
        pages.tried()
    }

    /// The tags of the languages that are offered.
    pub(super) fn languages(&self) -> impl Iterator<Item = &str> {
        self.languages.iter().map(|language| language.tag.as_str())
    }

    /// Renders every page in every language with all of its samples, and remembers which facts there are.
    fn tried(mut self) -> Result<TemplatedPages, Vec<ConfigError>> {
        let mut errors: Vec<ConfigError> = Vec::new();
        for page in PageName::ALL {
            let samples = samples(page).unwrap_or_else(|found| {
                let file = file_of(page).into();
                let want = "samples of its facts".to_owned();
                errors.push(ConfigError { path: file, line: 0, key: String::new(), found, want });
                Vec::new()
            });
            self.known.insert(page, known(&samples));
            for language in self.languages.iter() {
                for Sample { status, facts, .. } in &samples {
                    if let Err(error) =
                        self.templates.render(page, &self.facts(page, *status, language, facts))
                    {
                        let error = self.templates.as_config_error(&error, &file_of(page));
                        if !errors.contains(&error) {
                            errors.push(error);
                        }
                    }
                }
            }
        }
        if errors.is_empty() { Ok(self) } else { Err(errors) }
    }

    /// What the template of `page` is given. A fact that is not there is none.
    fn facts(&self, page: PageName, status: u16, language: &Language, facts: &serde_json::Value) -> Value {
        let mut all: BTreeMap<&str, Value> = BTreeMap::new();
        for name in self.known.get(&page).into_iter().flatten() {
            let fact = facts.get(name).map_or(Value::from(()), |fact| Value::from(Serde(fact)));
            all.insert(name, fact);
        }
        all.extend(self.shared.iter().map(|(name, value)| (*name, value.clone())));
        all.insert("lang", language.tag.as_str().into());
        all.insert("page", page.name().into());
        all.insert("status", status.into());
        all.insert("t", language.table(page.name()));
        all.insert("c", language.table("common"));
        all.insert("e", language.table("errors"));
        Value::from(all)
    }

    /// The HTML of the page in this language, and its title.
    fn written(&self, request: &PageRequest<'_>, language: &Language) -> Result<String, Error> {
        let facts = self.facts(request.page, request.status, language, request.facts);
        self.templates.render(request.page, &facts)
    }
}

impl PageRenderer for TemplatedPages {
    fn render(&self, request: &PageRequest<'_>) -> Page {
        let language = self.languages.choose(request.accept_language);
        let html = self.written(request, language).unwrap_or_else(|error| {
            // The detail of the error can quote facts that the template used.
            let place = self.templates.as_config_error(&error, &file_of(request.page));
            let (file, line) = (place.path.display().to_string(), place.line);
            tracing::error!(
                page = request.page.name(),
                file,
                line,
                "the template of a page cannot be rendered"
            );
            WITHOUT_TEMPLATE.to_owned()
        });
        let title = language.table(request.page.name()).get_attr("title").unwrap_or_default();
        Page {
            status: request.status,
            code: request.code,
            summary: title.to_string(),
            html,
            policy: self.policies.get(request.page).to_owned(),
        }
    }

    fn url(&self, page: PageName) -> String {
        self.urls.get(&page).cloned().unwrap_or_default()
    }

    fn own_url(&self, page: PageName) -> Option<&str> {
        self.urls.get(&page).filter(|_| self.own.contains(&page)).map(String::as_str)
    }
}

/// A fault of a language as the configuration tells its own.
fn told(config: &Config, LanguageFault { file, line, found }: LanguageFault) -> ConfigError {
    match file {
        Some(file) => {
            KIND.fault(&file, line, &found, "texts as in the built-in languages, each with its {places}")
        }
        None => ConfigError {
            path: config.path.clone(),
            line,
            key: "pages.languages".to_owned(),
            found,
            want: "languages out of en, de, fr, es, or with texts in pages.folder".to_owned(),
        },
    }
}

/// The facts of a page: those of any of its samples, and what was wrong with a form.
fn known(samples: &[Sample]) -> Vec<String> {
    let names = samples.iter().filter_map(|sample| sample.facts.as_object()).flat_map(|facts| facts.keys());
    let mut names: Vec<String> = names.cloned().chain(["errors".to_owned()]).collect();
    names.sort();
    names.dedup();
    names
}

fn urls(config: &Config) -> BTreeMap<PageName, String> {
    let ours =
        |page: PageName| format!("{}{}/pages/{}", config.public_url, config.server.prefix, page.name());
    let mut urls: BTreeMap<PageName, String> = PageName::ALL.map(|page| (page, ours(page))).into();
    urls.extend(config.pages.urls.iter().cloned());
    urls
}

/// What every page knows: see the comment at the head of `layout.html`.
fn shared(
    config: &Config,
    assets: &Assets,
    urls: &BTreeMap<PageName, String>,
) -> BTreeMap<&'static str, Value> {
    let host = config.public_url.split_once("://").map_or(&*config.public_url, |(_, host)| host);
    let service = config.pages.name.as_deref().or(config.mail.from.name.as_deref()).unwrap_or(host);
    let urls: BTreeMap<String, &str> =
        urls.iter().map(|(page, url)| (page.name().replace('-', "_"), url.as_str())).collect();
    let path = |stem: &str| assets.path(stem).map_or(Value::from(()), Value::from);
    BTreeMap::from([
        ("service", service.into()),
        ("home", format!("{}/", config.public_url).into()),
        ("urls", Value::from(Serde(urls))),
        ("style", path("style")),
        ("script", path("pages")),
        ("icon", path("icon")),
        ("logo", path("logo")),
    ])
}
