use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::templates::BUILT_IN;
use super::{Pages, samples};
use crate::config::{self, Config};
use palisade_core::domain::page::PageName;
use palisade_core::domain::reply::Page;
use palisade_core::ports::{PageRenderer, PageRequest};

const LANGUAGES: [&str; 4] = ["en", "de", "fr", "es"];

fn config(more: &str) -> Config {
    let text = format!("public_url = \"https://example.com\"\n{more}");
    config::parse(&text, Path::new("config.toml"), &|_| None).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn pages(config: &Config) -> Pages {
    Pages::load(config).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn render(pages: &Pages, page: PageName, language: &str, facts: &Value) -> Page {
    pages.render(&PageRequest { page, status: 200, code: "page", accept_language: Some(language), facts })
}

#[test]
fn the_pages_render() {
    pages(&config(""));
}
