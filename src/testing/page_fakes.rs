//! A fake of the renderer of pages, for tests only.

use palisade_core::domain::page::PageName;
use palisade_core::domain::reply::Page;
use palisade_core::ports::{PageRenderer, PageRequest};

/// Renders each page as its name and its facts (JSON) in two lines.
pub struct FakePages;

impl PageRenderer for FakePages {
    fn render(&self, request: &PageRequest<'_>) -> Page {
        Page {
            status: request.status,
            code: request.code,
            summary: request.page.name().to_owned(),
            html: format!("{}\n{}", request.page.name(), request.facts),
            policy: "default-src 'none'".to_owned(),
        }
    }

    fn url(&self, page: PageName) -> String {
        format!("https://app.test/auth/pages/{}", page.name())
    }
}
