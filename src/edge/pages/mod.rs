//! Pages for people: templates in Jinja syntax, texts in one data file a language, one stylesheet, one script file.
//!
//! A page works without its script, and nothing in it is inline: its `Content-Security-Policy` allows files of its own
//! origin only. Every template is rendered at the start, with everything that it can tell and with the least
//! ([`samples`]), so a fault in one, also in one of the operator's, does not wait for its reader.
//!
//! How a page is made:
//! 1. `templates/<page>.html` extends `layout.html`, says in a comment at its head which facts it knows, and takes
//!    fields, errors, notices and buttons from the macros of `_ui.html`, which the layout imports as `ui`.
//! 2. Its texts are in the table `[<page>]` of each file in `languages/`, as `t`; what pages share is in `[common]`, as
//!    `c`; what can be wrong is in `[errors]`, as `e`.
//! 3. `samples/<page>.json` lists samples of its facts, the first one with all of them. A fact that no sample has is not
//!    known to the page; a known one that a handler leaves out is none: ask with `{% if %}`.

mod accent;
mod assets;
mod languages;
mod policy;
mod preview;
mod render;
mod samples;
mod templates;
#[cfg(test)]
mod tests;
mod words;

pub use assets::assets_router;
pub use preview::preview;
pub use render::TemplatedPages;
