//! Which paths a file names, each from the root of its crate. Groups, renames, `self`, `super`, imports of modules,
//! and the insides of macros and attributes are seen through.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, Macro, Meta};

use super::sources::{Meaning, Module, Source, Sources, attributes, imports, is_for_tests, name_of};

/// Our crates.
pub const OURS: [&str; 3] = ["palisade", "palisade_core", "palisade_testing"];

/// One path that is named.
#[derive(Debug, Clone)]
pub struct Named {
    /// The file that names it, relative to `src`.
    pub file: String,
    pub line: usize,
    /// The module that names it.
    pub from: Module,
    /// From the root of its crate: `["palisade", "edge", "jwt", "keys"]`, `["std", "fs"]`.
    pub path: Vec<String>,
    /// In code that is compiled for tests only.
    pub is_test: bool,
}

/// The macros that print.
const PRINTS: [&str; 5] = ["print", "println", "eprint", "eprintln", "dbg"];

/// What is found in code and is no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Async,
    /// A macro that prints.
    Prints,
    Unsafe,
}

/// Everything that matters to the laws.
pub struct Found {
    pub named: Vec<Named>,
    /// With the file and whether it is of tests.
    pub kinds: Vec<(String, usize, Kind, bool)>,
}

/// Looks through all of `sources`; a path that begins with one of `crates` is of that crate.
pub fn find(sources: &Sources, crates: &BTreeSet<String>) -> Found {
    let mut found = Found { named: Vec::new(), kinds: Vec::new() };
    for source in &sources.files {
        let mut finder = Finder {
            sources,
            crates,
            source,
            module: source.module.clone(),
            is_test: source.is_test,
            found: &mut found,
        };
        finder.visit_file(&source.file);
    }
    found
}

struct Finder<'a> {
    sources: &'a Sources,
    crates: &'a BTreeSet<String>,
    source: &'a Source,
    module: Module,
    is_test: bool,
    found: &'a mut Found,
}

impl Finder<'_> {
    fn note(&mut self, path: &[String], is_absolute: bool, line: usize) {
        let resolved = if is_absolute { Some(path.to_vec()) } else { self.resolve(path) };
        let Some(path) = resolved else { return };
        let (file, from, is_test) = (self.source.name.clone(), self.module.clone(), self.is_test);
        self.found.named.push(Named { file, line, from, path, is_test });
    }

    fn kind(&mut self, kind: Kind, line: usize) {
        self.found.kinds.push((self.source.name.clone(), line, kind, self.is_test));
    }

    fn resolve(&self, path: &[String]) -> Option<Vec<String>> {
        resolve(self.sources, self.crates, &self.module, path, 0)
    }

    /// Paths among tokens that no parser of ours takes apart: of macros and attributes.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let is_colon =
            |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Ident(first) => {
                    let line = first.span().start().line;
                    if first == "unsafe" {
                        self.kind(Kind::Unsafe, line);
                    }
                    if first == "async" {
                        self.kind(Kind::Async, line);
                    }
                    let is_macro =
                        matches!(tokens.get(at + 1), Some(TokenTree::Punct(punct)) if punct.as_char() == '!');
                    if is_macro && PRINTS.iter().any(|name| first == name) {
                        self.kind(Kind::Prints, line);
                    }
                    let is_absolute = at >= 2 && is_colon(at - 1) && is_colon(at - 2);
                    let mut path = vec![name_of(first)];
                    while is_colon(at + 1) && is_colon(at + 2) {
                        match tokens.get(at + 3) {
                            Some(TokenTree::Ident(next)) => path.push(name_of(next)),
                            // `use a::{b, c}` and `a::<b>` within a macro: what stands before it is enough.
                            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => break,
                            _ => break,
                        }
                        at += 3;
                    }
                    if path.len() > 1 {
                        self.note(&path, is_absolute && self.crates.contains(&path[0]), line);
                    }
                }
                TokenTree::Literal(literal) => {
                    // `#[serde(with = "crate::…")]`
                    let text = literal.to_string();
                    let text = text.trim_matches('"');
                    let is_path = text.contains("::")
                        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
                    if is_path {
                        let path: Vec<String> = text.split("::").map(str::to_owned).collect();
                        self.note(&path, false, literal.span().start().line);
                    }
                }
                TokenTree::Punct(_) => {}
            }
            at += 1;
        }
    }
}

/// What `path` is when it is written in `module`; `None` for what begins with a name that is neither a module of ours
/// nor a crate: a type, a local name.
fn resolve(
    sources: &Sources,
    crates: &BTreeSet<String>,
    module: &[String],
    path: &[String],
    depth: usize,
) -> Option<Vec<String>> {
    // Imports that lead in circles lead nowhere.
    if depth > 16 {
        return None;
    }
    let (first, rest) = path.split_first()?;
    let absolute: Vec<String> = match first.as_str() {
        "crate" => [&module[..1], rest].concat(),
        "self" => [module, rest].concat(),
        "super" => {
            let ups = path.iter().take_while(|segment| *segment == "super").count();
            [&module[..module.len().saturating_sub(ups).max(1)], &path[ups..]].concat()
        }
        first_name => {
            let scope = sources.scopes.get(module);
            match scope.and_then(|scope| scope.names.get(first_name)) {
                Some(Meaning::Module) => [module, path].concat(),
                Some(Meaning::Import(import)) if import.first() != Some(first) || import.len() > 1 => {
                    // An import of a crate's module under the crate's own name is of the crate.
                    let import = if import.first() == Some(first) && is_crate(crates, first) {
                        import.clone()
                    } else {
                        resolve(sources, crates, module, import, depth + 1)?
                    };
                    [&import[..], rest].concat()
                }
                _ if is_crate(crates, first) => path.to_vec(),
                _ => {
                    let globs = scope.map_or(&[][..], |scope| &scope.globs);
                    return globs.iter().find_map(|glob| {
                        let glob = resolve(sources, crates, module, glob, depth + 1)?;
                        // Only names of our modules can be looked up.
                        let names = &sources.scopes.get(&glob)?.names;
                        names.contains_key(first_name).then_some(())?;
                        resolve(sources, crates, &glob, path, depth + 1)
                    });
                }
            }
        }
    };
    Some(followed(sources, crates, absolute, depth))
}

fn is_crate(crates: &BTreeSet<String>, name: &str) -> bool {
    crates.contains(name) || matches!(name, "std" | "core" | "alloc")
}

/// `path` with what our modules export under another name replaced by what it is.
fn followed(sources: &Sources, crates: &BTreeSet<String>, path: Vec<String>, depth: usize) -> Vec<String> {
    for at in 1..path.len() {
        let Some(scope) = sources.scopes.get(&path[..at]) else { break };
        if let Some(Meaning::Import(import)) = scope.names.get(&path[at])
            && let Some(target) = resolve(sources, crates, &path[..at], import, depth + 1)
            // What another crate gives us is named by the one who imports it.
            && OURS.contains(&&*target[0])
            && !target.starts_with(&path[..=at])
        {
            return [&target[..], &path[at + 1..]].concat();
        }
    }
    path
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let before = self.is_test;
        self.is_test |= is_for_tests(attributes(item));
        visit::visit_item(self, item);
        self.is_test = before;
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        let Some((_, items)) = &item.content else { return };
        self.module.push(name_of(&item.ident));
        for item in items {
            self.visit_item(item);
        }
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        for import in imports(&item.tree) {
            let (path, name) = (&import.path, &import.name);
            // A module of ours beside a crate of the same name hides nothing: `use` then has to say which it means.
            let imports_itself = name.as_ref() == path.first() && is_crate(self.crates, &path[0]);
            self.note(path, item.leading_colon.is_some() || imports_itself, import.line);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| name_of(&segment.ident)).collect();
        if segments.len() > 1 {
            let line = path.segments[0].ident.span().start().line;
            self.note(&segments, path.leading_colon.is_some(), line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, mac: &'ast Macro) {
        self.visit_path(&mac.path);
        if let Some(last) =
            mac.path.segments.last().filter(|last| PRINTS.iter().any(|name| last.ident == name))
        {
            let line = last.ident.span().start().line;
            self.note(&["std", "io", "stdout"].map(str::to_owned), true, line);
            self.kind(Kind::Prints, line);
        }
        self.tokens(mac.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        self.visit_path(attribute.path());
        match &attribute.meta {
            Meta::List(list) => self.tokens(list.tokens.clone()),
            Meta::NameValue(_) | Meta::Path(_) => {}
        }
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        if let Some(keyword) = &signature.asyncness {
            self.kind(Kind::Async, keyword.span.start().line);
        }
        if let Some(keyword) = &signature.unsafety {
            self.kind(Kind::Unsafe, keyword.span.start().line);
        }
        visit::visit_signature(self, signature);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let Some(keyword) = &item.unsafety {
            self.kind(Kind::Unsafe, keyword.span.start().line);
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_expr_async(&mut self, block: &'ast syn::ExprAsync) {
        self.kind(Kind::Async, block.async_token.span.start().line);
        visit::visit_expr_async(self, block);
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.kind(Kind::Unsafe, block.unsafe_token.span.start().line);
        visit::visit_expr_unsafe(self, block);
    }
}
