//! `[pages]`: what the pages for people look like, and which of them are the operator's own.

use super::file::{Item, Section};
use super::form;
use super::read::{existing_file, page_url};
use super::settings::PagesSettings;
use palisade_core::domain::name::is_line;
use palisade_core::domain::page::PageName;

/// Reads the section.
pub(super) fn pages(section: Section<'_>) -> PagesSettings {
    let name = section.get("name").and_then(|item| {
        item.read("what the service is called, on one line", |text| is_line(text).then(|| text.to_owned()))
    });
    let logo = section.get("logo").and_then(|item| {
        let want = "an image file that ends in .svg or .png";
        let file = existing_file(&item, want)?;
        let kind = file.extension().and_then(|kind| kind.to_str()).map(str::to_ascii_lowercase);
        if matches!(kind.as_deref(), Some("svg" | "png")) { Some(file) } else { item.bad(want) }
    });
    let folder = section.get("folder").and_then(|item| {
        let text = item.text("a folder")?;
        let folder = item.doc.resolve(text);
        if folder.is_dir() {
            return Some(folder);
        }
        item.bad_as(format!("{text:?}, which is no folder"), "the folder with your own templates")
    });
    let languages: Vec<String> = section.list("languages", |item| {
        item.read("a language such as \"en\" or \"pt-BR\"", |text| is_language(text).then(|| text.to_owned()))
    });
    if let Some(item) = section.get("languages") {
        let mut sorted = languages.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if item.is_empty_list() {
            item.bad::<()>("at least one language; leave the key out for all that are built in");
        } else if sorted.len() < languages.len() {
            item.bad_as::<()>("a language twice", "each language once");
        }
    }
    let pages = PagesSettings {
        name,
        logo,
        accent: section.get("accent").and_then(|item| accent(&item)),
        folder,
        languages,
        urls: section.get("urls").and_then(|item| item.section()).map(urls).unwrap_or_default(),
    };
    section.close();
    pages
}

/// `#rrggbb`. Pages write in it and on it so that it can be read, whatever it is.
fn accent(item: &Item<'_>) -> Option<String> {
    item.read("a colour such as \"#0b57d0\"", |text| {
        let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6)?;
        form::hex(digits).map(|_| text.to_ascii_lowercase())
    })
}

/// A language tag of one or two subtags (RFC 5646 §2.1): `en`, `pt-BR`.
fn is_language(text: &str) -> bool {
    let (language, region) = text.split_once('-').map_or((text, None), |(first, rest)| (first, Some(rest)));
    let is_lower = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase());
    (2..=3).contains(&language.len())
        && is_lower(language)
        && region.is_none_or(|region| region.len() == 2 && region.bytes().all(|b| b.is_ascii_uppercase()))
}

/// `urls`: the operator's pages by the names of ours.
fn urls(section: Section<'_>) -> Vec<(PageName, String)> {
    // The notice in a frame says nothing of its own to replace, and has to stay framable.
    let replaceable = || PageName::ALL.into_iter().filter(|page| *page != PageName::Framed);
    let names: Vec<&str> = replaceable().map(PageName::name).collect();
    let mut urls: Vec<(PageName, String)> = Vec::new();
    for (name, item) in section.all() {
        let Some(page) = replaceable().find(|page| page.name() == name) else {
            let want = match form::nearest(name, &names) {
                Some(near) => format!("the name of a page; did you mean {near:?}?"),
                None => format!("one of {}", names.join(", ")),
            };
            item.bad_as::<()>("no page of that name", &want);
            continue;
        };
        let want = format!("a URL like https://app.example.com/{name}, without a fragment");
        let url = page_url(&item, &want, "what people type there, and their links,");
        urls.extend(url.map(|url| (page, url)));
    }
    urls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_have_the_form_of_tags() {
        for (text, is_good) in [
            ("en", true),
            ("pt-BR", true),
            ("gsw", true),
            ("EN", false),
            ("e", false),
            ("en-us", false),
            ("en-", false),
        ] {
            assert_eq!(is_language(text), is_good, "{text}");
        }
    }
}
