//! The content security policy of each page (CSP 3), against script that got into a page and against clickjacking.

use palisade_core::domain::browser::BrowserSettings;
use palisade_core::domain::page::PageName;

/// The longest list of origins in bytes: servers and browsers bound header sections.
const MAX_ORIGINS: usize = 3000;

/// The policies of all pages.
pub(super) struct Policies {
    plain: String,
    framed: String,
}

impl Policies {
    /// The policies under these settings.
    ///
    /// Browsers hold the redirect after a form, too, to `form-action` (Chromium), so every origin that a sign-in may
    /// lead to is in it. Where these are too many for a header field, the scheme stands for them.
    pub(super) fn of(settings: &BrowserSettings) -> Policies {
        let mut origins: Vec<String> = Vec::new();
        for origin in std::iter::once(&settings.public).chain(&settings.hosts).chain(&settings.return_to) {
            let origin = origin.to_string();
            if !origins.contains(&origin) {
                origins.push(origin);
            }
        }
        let mut targets = origins.join(" ");
        if targets.len() > MAX_ORIGINS {
            targets = if settings.is_secure() { "https:" } else { "http: https:" }.to_owned();
        }
        let files = "default-src 'none'; style-src 'self'; img-src 'self'";
        Policies {
            plain: format!(
                "{files}; script-src 'self'; form-action 'self' {targets}; base-uri 'none'; frame-ancestors 'none'"
            ),
            // It may be framed, so there is nothing in it to press by mistake but a link.
            framed: format!("{files}; form-action 'none'; base-uri 'none'; frame-ancestors *"),
        }
    }

    /// The policy of `page`.
    pub(super) fn get(&self, page: PageName) -> &str {
        match page {
            PageName::Framed => &self.framed,
            _ => &self.plain,
        }
    }
}
