//! The sources of our crates, parsed, with the module that each file is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::spanned::Spanned as _;
use syn::{Attribute, Item, Meta, UseTree};

/// A path from the root of a crate: `["palisade", "edge", "jwt"]`.
pub type Module = Vec<String>;

/// One file.
pub struct Source {
    /// Relative to `src`, with `/`.
    pub name: String,
    pub module: Module,
    pub file: syn::File,
    /// How many lines are not inside of `#[cfg(test)]`.
    pub lines: usize,
    /// Compiled for tests only.
    pub is_test: bool,
}

/// What a name in a module stands for.
#[derive(Clone)]
pub enum Meaning {
    /// A module that is declared there.
    Module,
    /// What a `use` brings in, as it is written.
    Import(Vec<String>),
}

/// The names of one module that a path can begin with.
#[derive(Default)]
pub struct Scope {
    pub names: BTreeMap<String, Meaning>,
    /// What `use …::*` brings in, as it is written.
    pub globs: Vec<Vec<String>>,
}

/// Every file and every module.
#[derive(Default)]
pub struct Sources {
    pub files: Vec<Source>,
    pub scopes: BTreeMap<Module, Scope>,
}

impl Sources {
    /// Reads the folder `src` of this repository.
    pub fn read() -> Sources {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut paths = Vec::new();
        collect(&root, &mut paths);
        paths.sort();
        assert!(paths.len() > 20, "the sources were not found");
        Sources::parse(paths.iter().map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
            (name, fs::read_to_string(path).unwrap())
        }))
    }

    /// Parses files, each a name relative to `src` and a text.
    pub fn parse(texts: impl IntoIterator<Item = (String, String)>) -> Sources {
        let parsed: Vec<(String, String, syn::File)> = texts
            .into_iter()
            .map(|(name, text)| {
                let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
                (name, text, file)
            })
            .collect();
        let mounts: Mounts = parsed.iter().flat_map(|(name, _, file)| mounted(name, file)).collect();
        let mut sources = Sources::default();
        let mut tests = BTreeSet::new();
        for (name, text, file) in parsed {
            let module = module_of(&name, &mounts);
            declare(&file.items, &module, &mut sources.scopes, &mut tests);
            let lines = text.lines().count() - test_lines(&file.items);
            sources.files.push(Source { name, module, file, lines, is_test: false });
        }
        for source in &mut sources.files {
            let module = &source.module;
            source.is_test =
                (1..=module.len()).any(|n| tests.contains(&module[..n])) || is_of_tests(&source.name);
        }
        sources
    }
}

/// Tests of `palisade_core` that are a target of their own, which no `mod` of the library declares: `src/core/tests.rs`.
fn is_of_tests(name: &str) -> bool {
    name.starts_with("core/") && (name.ends_with("/tests.rs") || name.ends_with("_tests.rs"))
}

/// Files that `#[path = "…"]` makes a module of another place than theirs.
type Mounts = BTreeMap<String, Module>;

fn mounted(name: &str, file: &syn::File) -> Vec<(String, Module)> {
    let folder = name.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let modules = file.items.iter().filter_map(|item| match item {
        Item::Mod(inner) => Some(inner),
        _ => None,
    });
    let path_of = |attribute: &Attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    };
    modules
        .filter_map(|inner| {
            let path = inner.attrs.iter().find_map(path_of)?;
            let mut module = module_of(name, &Mounts::new());
            module.push(name_of(&inner.ident));
            Some((format!("{folder}{path}"), module))
        })
        .collect()
}

/// The module that the file `name` is.
fn module_of(name: &str, mounts: &Mounts) -> Module {
    if let Some(module) = mounts.get(name) {
        return module.clone();
    }
    // A file beside a `mod.rs` that is mounted elsewhere.
    if let Some((folder, file)) = name.rsplit_once('/')
        && let Some(module) = mounts.get(&format!("{folder}/mod.rs"))
    {
        let file = file.strip_suffix(".rs").unwrap_or(file);
        return module.iter().cloned().chain([file.to_owned()]).collect();
    }
    let (crate_name, rest) = match name.split_once('/') {
        Some(("core", rest)) => ("palisade_core", rest),
        Some(("testing", rest)) => ("palisade_testing", rest),
        _ => ("palisade", name),
    };
    let rest = rest.strip_suffix(".rs").unwrap_or(rest);
    let rest = rest.strip_suffix("/mod").unwrap_or(rest);
    let segments = rest.split('/').filter(|segment| *segment != "lib");
    [crate_name].into_iter().chain(segments).map(str::to_owned).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // What `palisade plugin new` writes is no source of ours.
        if path.is_dir() && !path.ends_with("templates") {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Notes the names that `items` bring into `module`, and the modules that are for tests.
fn declare(
    items: &[Item],
    module: &[String],
    scopes: &mut BTreeMap<Module, Scope>,
    tests: &mut BTreeSet<Module>,
) {
    scopes.entry(module.to_vec()).or_default();
    for item in items {
        match item {
            Item::Mod(inner) => {
                let child: Module = module.iter().cloned().chain([name_of(&inner.ident)]).collect();
                if is_for_tests(&inner.attrs) {
                    tests.insert(child.clone());
                }
                let scope = scopes.get_mut(module).expect("just made");
                scope.names.insert(name_of(&inner.ident), Meaning::Module);
                if let Some((_, items)) = &inner.content {
                    declare(items, &child, scopes, tests);
                }
            }
            Item::Use(item) => {
                let scope = scopes.get_mut(module).expect("just made");
                for import in imports(&item.tree) {
                    let mut path = import.path;
                    match import.name {
                        Some(name) if item.leading_colon.is_none() => {
                            // `use sled;` brings nothing in that was not there.
                            if path.len() > 1 || path[0] != name {
                                scope.names.insert(name, Meaning::Import(path));
                            }
                        }
                        Some(_) => {}
                        None => {
                            path.retain(|segment| segment != "*");
                            scope.globs.push(path);
                        }
                    }
                }
            }
            _ => {}
        }
    }
}

/// One name of a `use`, or all of a module.
pub struct Import {
    /// With `self` at its end left out.
    pub path: Vec<String>,
    /// What it is called here; `None` for `*`.
    pub name: Option<String>,
    pub line: usize,
}

/// What `tree` brings in, each by its whole path.
pub fn imports(tree: &UseTree) -> Vec<Import> {
    let mut found = Vec::new();
    flatten(tree, &mut Vec::new(), &mut found);
    found
}

fn flatten(tree: &UseTree, before: &mut Vec<String>, found: &mut Vec<Import>) {
    let line = tree.span().start().line;
    match tree {
        UseTree::Path(path) => {
            before.push(name_of(&path.ident));
            flatten(&path.tree, before, found);
            before.pop();
        }
        UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, before, found)),
        UseTree::Glob(_) => found.push(Import { path: before.clone(), name: None, line }),
        UseTree::Name(name) => found.push(named(before, &name_of(&name.ident), None, line)),
        UseTree::Rename(rename) => {
            found.push(named(before, &name_of(&rename.ident), Some(name_of(&rename.rename)), line));
        }
    }
}

fn named(before: &[String], last: &str, renamed: Option<String>, line: usize) -> Import {
    let mut path = before.to_vec();
    if last != "self" || path.is_empty() {
        path.push(last.to_owned());
    }
    let name = renamed.or_else(|| path.last().cloned());
    Import { path, name, line }
}

/// Without the `r#` of a raw name.
pub fn name_of(ident: &syn::Ident) -> String {
    let name = ident.to_string();
    name.strip_prefix("r#").map_or(name.clone(), str::to_owned)
}

/// Whether one of `attributes` is `#[cfg(test)]`.
pub fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}

/// The attributes of an item that can be for tests only.
pub fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn test_lines(items: &[Item]) -> usize {
    let tests = items.iter().filter(|item| is_for_tests(attributes(item)));
    // The attribute is a part of the item.
    tests.map(|item| item.span().end().line + 1 - item.span().start().line).sum()
}
