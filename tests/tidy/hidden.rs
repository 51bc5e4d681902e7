//! Imports through which a name would be hidden from the other laws: these follow paths, and a glob of the standard
//! library, another name for it, and `extern crate` leave no path to follow.

use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};
use syn::{ItemExternCrate, ItemUse, UseTree};

use super::sources::Sources;

const STANDARD: [&str; 3] = ["std", "core", "alloc"];

/// Where such imports stand.
pub fn hidden_imports(sources: &Sources) -> Vec<String> {
    let mut broken = Vec::new();
    for source in &sources.files {
        let mut finder = Finder { lines: Vec::new() };
        finder.visit_file(&source.file);
        broken.extend(finder.lines.into_iter().map(|(line, what)| format!("{}:{line}: {what}", source.name)));
    }
    broken
}

struct Finder {
    lines: Vec<(usize, &'static str)>,
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_item_extern_crate(&mut self, item: &'ast ItemExternCrate) {
        self.lines.push((item.span().start().line, "`extern crate`"));
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let tops = match &item.tree {
            UseTree::Group(group) => group.items.iter().collect(),
            tree => vec![tree],
        };
        for tree in tops {
            let what = match tree {
                UseTree::Rename(rename) if is_standard(&rename.ident) => {
                    "another name for the standard library"
                }
                UseTree::Path(path) if is_standard(&path.ident) && renames_self(&path.tree) => {
                    "another name for the standard library"
                }
                UseTree::Path(path) if is_standard(&path.ident) && has_glob(&path.tree) => {
                    "a glob of the standard library"
                }
                _ => continue,
            };
            self.lines.push((item.span().start().line, what));
        }
        visit::visit_item_use(self, item);
    }
}

fn is_standard(name: &syn::Ident) -> bool {
    STANDARD.iter().any(|standard| name == standard)
}

fn has_glob(tree: &UseTree) -> bool {
    match tree {
        UseTree::Glob(_) => true,
        UseTree::Path(path) => has_glob(&path.tree),
        UseTree::Group(group) => group.items.iter().any(has_glob),
        UseTree::Name(_) | UseTree::Rename(_) => false,
    }
}

/// `std::{self as s}`.
fn renames_self(tree: &UseTree) -> bool {
    match tree {
        UseTree::Rename(rename) => rename.ident == "self",
        UseTree::Group(group) => group.items.iter().any(renames_self),
        _ => false,
    }
}
