//! What a component imports and exports, read from its bytes and held against `wit/provider.wit`.
//!
//! Nothing is compiled and nothing runs. Everything that is wrong is told at once, each with its cure: who
//! reads it has built a component, perhaps for the first time.

use std::collections::BTreeMap;
use std::fmt;

use wasmparser::{KnownCustom, Parser, Payload};
use wit_component::{DecodedWasm, OutputToString, WitPrinter};
use wit_parser::{Function, InterfaceId, Resolve, Type, TypeDefKind, World, WorldItem};

use super::lines::escaped;

/// `wit/provider.wit`, as this binary serves it.
pub const WIT: &str = include_str!("../../../wit/provider.wit");
/// The versions of the package `palisade:provider` that are served.
pub const SERVED: &[&str] = &["0.1.0"];
/// The largest component that is loaded, in bytes.
pub const LARGEST: usize = 64 << 20;
/// Above this many bytes a component is worth a look: compiling it takes seconds.
pub const LARGE: usize = 32 << 20;

const PACKAGE: &str = "palisade:provider";
/// What a component may import of it.
const IMPORTS: [&str; 4] = ["types", "http", "log", "clock"];
/// What WASI 0.2 is made of, as far as it is served.
const WASI: [&str; 6] = ["cli", "clocks", "filesystem", "io", "random", "sockets"];
const MAGIC: &[u8] = b"\0asm";
/// Version 13, layer 1: a component. A core module has version 1, layer 0.
const COMPONENT: &[u8] = &[0x0d, 0, 1, 0];
const CORE_MODULE: &[u8] = &[1, 0, 0, 0];
/// What is read of what tools wrote about themselves: so many names, and so many under each.
const TOOLS: usize = 32;
/// Types within types that are followed.
const DEPTH: u32 = 32;

/// Something that keeps a component from being loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceFault {
    /// What is wrong, and where.
    pub what: String,
    /// What to do about it.
    pub cure: String,
}

impl fmt::Display for InterfaceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.cure)
    }
}

fn fault(what: impl Into<String>, cure: impl Into<String>) -> InterfaceFault {
    InterfaceFault { what: what.into(), cure: cure.into() }
}

/// A component, as far as its bytes tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// The version of `palisade:provider` that it exports a plugin of.
    pub speaks: Option<String>,
    /// The names of what it imports.
    pub imports: Vec<String>,
    /// The names of what it exports.
    pub exports: Vec<String>,
    /// The languages, tools and kits it was made with, as the tools wrote it into it: `language` → `Rust`,
    /// `processed-by` → `rustc 1.95.0`.
    pub producers: BTreeMap<String, Vec<String>>,
    /// Why it cannot be loaded; empty when it can, as far as is known without compiling it.
    pub faults: Vec<InterfaceFault>,
}

/// Reads `bytes`. Whatever they hold, this ends.
#[must_use]
pub fn examine(bytes: &[u8]) -> Interface {
    let broken = |fault| Interface { faults: vec![fault], ..Interface::default() };
    if let Some(fault) = refuse_form(bytes) {
        return broken(fault);
    }
    let (resolve, world) = match wit_component::decode(bytes) {
        Ok(DecodedWasm::Component(resolve, world)) => (resolve, world),
        Ok(DecodedWasm::WitPackage(..)) => {
            return broken(fault(
                "it is an encoded WIT package: types without code",
                "build a component with `palisade plugin build`",
            ));
        }
        Err(error) => {
            return broken(fault(
                format!("it is damaged, or made of what is not served: {}", escaped(&format!("{error:#}"))),
                "build it again, for WASI 0.2 or wasm32-unknown-unknown, without threads and other proposals",
            ));
        }
    };
    let found = Found { resolve: &resolve, world: &resolve.worlds[world] };
    let mut interface = Interface {
        speaks: found.plugin().map(|(version, _)| version),
        imports: found.names(found.world.imports.iter()),
        exports: found.names(found.world.exports.iter()),
        producers: producers(bytes),
        faults: Vec::new(),
    };
    interface.faults.extend(interface.imports.iter().filter_map(|name| refuse_import(name)));
    let versions = refuse_versions(&interface.imports, interface.speaks.as_deref());
    match &interface.speaks {
        None => interface.faults.push(no_plugin()),
        // The functions of another version are no faults of this one's.
        Some(_) if !versions.is_empty() => {}
        Some(_) => interface.faults.extend(found.misfits()),
    }
    interface.faults.extend(versions);
    interface
}

/// Why `bytes` are not a component at all; `None` when they look like one.
pub(super) fn refuse_form(bytes: &[u8]) -> Option<InterfaceFault> {
    if bytes.len() > LARGEST {
        return Some(fault(
            format!("it has {} bytes, more than {} MiB", bytes.len(), LARGEST >> 20),
            "build it without debug information; a component of Rust has less than 1 MiB, of JavaScript 12, \
             of Python 20",
        ));
    }
    match (bytes.get(..4), bytes.get(4..8)) {
        (Some(MAGIC), Some(COMPONENT)) => None,
        (Some(MAGIC), Some(CORE_MODULE)) => Some(fault(
            "it is a core module, not a component",
            "`palisade plugin build` makes a component of it; so does `wasm-tools component new`",
        )),
        _ if bytes.trim_ascii_start().starts_with(b"(") => {
            Some(fault("it is WebAssembly in text form", "translate it with `wasm-tools parse`"))
        }
        _ => Some(fault(
            "it is not a WebAssembly component",
            "name the file that `palisade plugin build` made",
        )),
    }
}

/// Why `name` is not served; `None` when it is. Versions of our own are for [`refuse_versions`].
pub(super) fn refuse_import(name: &str) -> Option<InterfaceFault> {
    let (path, version) = name.split_once('@').unwrap_or((name, ""));
    let shown = escaped(name);
    let ours = path.strip_prefix(PACKAGE).and_then(|rest| rest.strip_prefix('/'));
    if let Some(interface) = ours {
        if IMPORTS.contains(&interface) {
            return None;
        }
        return Some(fault(
            format!("it imports `{shown}`, which there is not"),
            format!("of {PACKAGE} there are {}", IMPORTS.join(", ")),
        ));
    }
    let package =
        path.strip_prefix("wasi:").and_then(|rest| rest.split_once('/')).map(|(package, _)| package);
    let cure = match package {
        Some(package) if WASI.contains(&package) => {
            if version.starts_with("0.2.") {
                return None;
            }
            "only WASI 0.2 is served; choose a toolchain or a target that makes components for it (wasm32-wasip2)"
        }
        Some("http") => {
            "a plugin has one door to the network, `palisade:provider/http`; where a toolchain brings it along \
             unasked, leave it out (componentize-js: `-d http fetch-event`)"
        }
        Some(_) => {
            "it is no part of WASI 0.2, and a plugin has no such capability; settings and kept values \
                    come with each call"
        }
        None => "only palisade:provider and WASI 0.2 are served; take the import out of your world",
    };
    Some(fault(format!("it imports `{shown}`, which is not served"), cure))
}

/// Why versions of our own interfaces are not served, among what is imported and the plugin that is exported: one
/// fault for each version, however many interfaces are of it.
pub(super) fn refuse_versions(imports: &[impl AsRef<str>], exported: Option<&str>) -> Vec<InterfaceFault> {
    let mut of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let imported = imports.iter().filter_map(|name| {
        let (path, version) = name.as_ref().split_once('@').unwrap_or((name.as_ref(), ""));
        let interface = path.strip_prefix(PACKAGE)?.strip_prefix('/')?;
        IMPORTS.contains(&interface).then_some((version, interface))
    });
    for (version, interface) in imported.chain(exported.map(|version| (version, "plugin"))) {
        if !SERVED.contains(&version) {
            of.entry(version).or_default().push(interface);
        }
    }
    of.into_iter().map(|(version, interfaces)| refuse_version(version, &interfaces.join(", "))).collect()
}

fn refuse_version(version: &str, interfaces: &str) -> InterfaceFault {
    let served = SERVED.join(", ");
    let what = match version {
        "" => format!("it speaks {PACKAGE} ({interfaces}) without a version"),
        version => format!("it speaks {PACKAGE}@{} ({interfaces})", escaped(version)),
    };
    let newest = SERVED.iter().filter_map(|served| parts(served)).max();
    let cure = if parts(version) > newest {
        format!(
            "it is newer than this Palisade, which serves {served}: upgrade Palisade, or build it against the \
                 wit/provider.wit that `palisade plugin new` writes"
        )
    } else {
        format!(
            "this Palisade serves {served}: build it against the wit/provider.wit that `palisade plugin new` \
                 writes"
        )
    };
    fault(what, cure)
}

/// The version, if `name` is that of an exported plugin; empty when it has none.
pub(super) fn plugin_version(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(PACKAGE)?.strip_prefix("/plugin")?;
    rest.strip_prefix('@').or_else(|| rest.is_empty().then_some(""))
}

/// Why there is nothing to call.
pub(super) fn no_plugin() -> InterfaceFault {
    fault(
        format!("it does not export `{PACKAGE}/plugin@{}`", SERVED.last().copied().unwrap_or_default()),
        "build it for the world `provider` of wit/provider.wit, and export the interface `plugin`: in Rust \
         `palisade_provider::register!(…)`, in JavaScript `export const plugin = {…}`, in Python \
         `class Plugin(exports.Plugin)`",
    )
}

/// Major, minor and patch; `None` for what is no version.
fn parts(version: &str) -> Option<[u64; 3]> {
    let core = version.split(['-', '+']).next()?;
    let numbers: Vec<u64> = core.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

/// What tools wrote about themselves, of the component and everything in it.
fn producers(bytes: &[u8]) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    // What cannot be read is left out: it is only for people.
    for payload in Parser::new(0).parse_all(bytes).map_while(Result::ok) {
        let Payload::CustomSection(section) = payload else { continue };
        let KnownCustom::Producers(fields) = section.as_known() else { continue };
        for field in fields.into_iter().map_while(Result::ok) {
            let name = escaped(field.name);
            if all.len() >= TOOLS && !all.contains_key(&name) {
                continue;
            }
            let known = all.entry(name).or_default();
            for tool in field.values.into_iter().map_while(Result::ok).take(TOOLS) {
                let tool = escaped(format!("{} {}", tool.name, tool.version).trim());
                if known.len() < TOOLS && !known.contains(&tool) {
                    known.push(tool);
                }
            }
        }
    }
    all
}

/// A decoded component.
struct Found<'a> {
    resolve: &'a Resolve,
    world: &'a World,
}

impl Found<'_> {
    fn names<'i>(
        &self,
        items: impl Iterator<Item = (&'i wit_parser::WorldKey, &'i WorldItem)>,
    ) -> Vec<String> {
        items.map(|(key, _)| self.resolve.name_world_key(key)).collect()
    }

    /// The version of the plugin that is exported, and its interface.
    fn plugin(&self) -> Option<(String, InterfaceId)> {
        self.world.exports.iter().find_map(|(key, item)| {
            let WorldItem::Interface { id, .. } = item else { return None };
            let name = self.resolve.name_world_key(key);
            Some((plugin_version(&name)?.to_owned(), *id))
        })
    }

    /// Every function that is not what the WIT says.
    fn misfits(&self) -> Vec<InterfaceFault> {
        let mut wanted = Resolve::default();
        // The text is this repository's own, and a test reads it.
        let Ok(package) = wanted.push_source("provider.wit", WIT) else { return Vec::new() };
        let interface = |name: &str| wanted.packages[package].interfaces.get(name).copied();
        let mut faults = Vec::new();
        if let (Some(want), Some((_, found))) = (interface("plugin"), self.plugin()) {
            for (name, function) in &wanted.interfaces[want].functions {
                let said = signature(&wanted, function);
                match self.resolve.interfaces[found].functions.get(name) {
                    None => faults.push(fault(
                        format!("it does not export the function `{name}`"),
                        format!("add `{said}` to what `plugin` exports"),
                    )),
                    Some(found) => faults.extend(
                        misfit((&wanted, function), (self.resolve, found))
                            .map(|why| wrong("exports", &said, found, self.resolve, &why)),
                    ),
                }
            }
        }
        for (key, item) in &self.world.imports {
            let (WorldItem::Interface { id, .. }, name) = (item, self.resolve.name_world_key(key)) else {
                continue;
            };
            let Some(want) = name.strip_prefix(PACKAGE).and_then(|rest| rest.strip_prefix('/')) else {
                continue;
            };
            let Some(want) = want.split('@').next().and_then(interface) else { continue };
            for (name, found) in &self.resolve.interfaces[*id].functions {
                match wanted.interfaces[want].functions.get(name) {
                    None => faults.push(fault(
                        format!(
                            "it imports the function `{name}` of {}, which there is not",
                            escaped(&name_of(self.resolve, *id))
                        ),
                        "build it against the wit/provider.wit that `palisade plugin new` writes",
                    )),
                    Some(function) => {
                        faults.extend(misfit((&wanted, function), (self.resolve, found)).map(|why| {
                            wrong("imports", &signature(&wanted, function), found, self.resolve, &why)
                        }))
                    }
                }
            }
        }
        faults
    }
}

fn name_of(resolve: &Resolve, id: InterfaceId) -> String {
    resolve.id_of(id).unwrap_or_default()
}

fn wrong(way: &str, said: &str, found: &Function, resolve: &Resolve, why: &str) -> InterfaceFault {
    fault(
        format!("it {way} `{}` with another type: {why}", escaped(&signature(resolve, found))),
        format!("it must be `{said}`, with the types of wit/provider.wit; build it against that file"),
    )
}

/// A function in WIT text.
fn signature(resolve: &Resolve, function: &Function) -> String {
    let parameters: Vec<String> = function
        .params
        .iter()
        .map(|parameter| format!("{}: {}", parameter.name, type_text(resolve, &parameter.ty)))
        .collect();
    let result = function.result.map(|result| format!(" -> {}", type_text(resolve, &result)));
    format!("{}: func({}){}", function.name, parameters.join(", "), result.unwrap_or_default())
}

fn type_text(resolve: &Resolve, kind: &Type) -> String {
    let mut printer = WitPrinter::<OutputToString>::default();
    match printer.print_type_name(resolve, kind) {
        Ok(()) => printer.output.to_string(),
        Err(_) => "(a type without a name)".to_owned(),
    }
}

/// Where two functions differ.
fn misfit(want: (&Resolve, &Function), found: (&Resolve, &Function)) -> Option<String> {
    let ((wanted, function), (resolve, other)) = (want, found);
    if function.kind != other.kind {
        return Some("it is not a plain function".to_owned());
    }
    if function.params.len() != other.params.len() {
        return Some(format!("{} parameters instead of {}", other.params.len(), function.params.len()));
    }
    let compare = Compare { wanted, found: resolve };
    for (want, found) in function.params.iter().zip(&other.params) {
        if want.name != found.name {
            return Some(format!("the parameter `{}` instead of `{}`", escaped(&found.name), want.name));
        }
        if let Some(why) = compare.types(&want.ty, &found.ty, &want.name, 0) {
            return Some(why);
        }
    }
    compare.maybe(function.result.as_ref(), other.result.as_ref(), "the result", 0)
}

/// Holds types of one file against those of another.
struct Compare<'a> {
    wanted: &'a Resolve,
    found: &'a Resolve,
}

impl Compare<'_> {
    fn maybe(&self, want: Option<&Type>, found: Option<&Type>, at: &str, depth: u32) -> Option<String> {
        match (want, found) {
            (None, None) => None,
            (Some(want), Some(found)) => self.types(want, found, at, depth),
            (Some(want), None) => {
                Some(format!("{at} is nothing instead of {}", type_text(self.wanted, want)))
            }
            (None, Some(found)) => {
                Some(format!("{at} is {} instead of nothing", escaped(&type_text(self.found, found))))
            }
        }
    }

    /// The first place below `at` where they differ.
    fn types(&self, want: &Type, found: &Type, at: &str, depth: u32) -> Option<String> {
        let other = || {
            let text = escaped(&type_text(self.found, found));
            Some(format!("{at} is {text} instead of {}", type_text(self.wanted, want)))
        };
        // Aliases of aliases count, too.
        if depth > DEPTH {
            return other();
        }
        let (want_id, found_id) = match (want, found) {
            (Type::Id(want), Type::Id(found)) => (*want, *found),
            (want, Type::Id(id)) => {
                let TypeDefKind::Type(alias) = &self.found.types[*id].kind else { return other() };
                return self.types(want, alias, at, depth + 1);
            }
            (Type::Id(id), found) => {
                let TypeDefKind::Type(alias) = &self.wanted.types[*id].kind else { return other() };
                return self.types(alias, found, at, depth + 1);
            }
            (want, found) => return if want == found { None } else { other() },
        };
        let deeper = |want: &Type, found: &Type, at: &str| self.types(want, found, at, depth + 1);
        let below = |name: &str| format!("`{name}` of {at}");
        match (&self.wanted.types[want_id].kind, &self.found.types[found_id].kind) {
            (TypeDefKind::Type(alias), _) => deeper(alias, found, at),
            (_, TypeDefKind::Type(alias)) => deeper(want, alias, at),
            (TypeDefKind::Option(want), TypeDefKind::Option(found))
            | (TypeDefKind::List(want), TypeDefKind::List(found)) => deeper(want, found, at),
            (TypeDefKind::Result(want), TypeDefKind::Result(found)) => {
                self.maybe(want.ok.as_ref(), found.ok.as_ref(), at, depth + 1).or_else(|| {
                    self.maybe(
                        want.err.as_ref(),
                        found.err.as_ref(),
                        &format!("the failure of {at}"),
                        depth + 1,
                    )
                })
            }
            (TypeDefKind::Tuple(want), TypeDefKind::Tuple(found))
                if want.types.len() == found.types.len() =>
            {
                want.types.iter().zip(&found.types).find_map(|(want, found)| deeper(want, found, at))
            }
            (TypeDefKind::Record(want), TypeDefKind::Record(found)) => {
                let (names, others) =
                    (want.fields.iter().map(|f| &f.name), found.fields.iter().map(|f| &f.name));
                lists(names, others, at).or_else(|| {
                    let pairs = want.fields.iter().zip(&found.fields);
                    pairs
                        .into_iter()
                        .find_map(|(want, found)| deeper(&want.ty, &found.ty, &below(&want.name)))
                })
            }
            (TypeDefKind::Variant(want), TypeDefKind::Variant(found)) => {
                let (names, others) =
                    (want.cases.iter().map(|c| &c.name), found.cases.iter().map(|c| &c.name));
                lists(names, others, at).or_else(|| {
                    let mut pairs = want.cases.iter().zip(&found.cases);
                    pairs.find_map(|(want, found)| {
                        self.maybe(want.ty.as_ref(), found.ty.as_ref(), &below(&want.name), depth + 1)
                    })
                })
            }
            (TypeDefKind::Enum(want), TypeDefKind::Enum(found)) => {
                lists(want.cases.iter().map(|c| &c.name), found.cases.iter().map(|c| &c.name), at)
            }
            _ => other(),
        }
    }
}

/// The first name in which two lists differ.
fn lists<'n>(
    want: impl Iterator<Item = &'n String>,
    found: impl Iterator<Item = &'n String>,
    at: &str,
) -> Option<String> {
    let (want, found): (Vec<_>, Vec<_>) = (want.collect(), found.collect());
    if let Some(missing) = want.iter().find(|name| !found.contains(name)) {
        return Some(format!("{at} lacks `{missing}`"));
    }
    if let Some(extra) = found.iter().find(|name| !want.contains(name)) {
        return Some(format!("{at} has `{}`, which there is not", escaped(extra)));
    }
    (want != found).then(|| format!("{at} has its parts in another order"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A custom section may have any length.
    #[test]
    fn tools_are_told_as_far_as_anybody_reads() {
        let leb = |mut n: usize| {
            let mut out = Vec::new();
            while n >= 0x80 {
                out.push((n & 0x7f) as u8 | 0x80);
                n >>= 7;
            }
            out.push(n as u8);
            out
        };
        let text = |text: &str| [leb(text.len()), text.as_bytes().to_vec()].concat();
        let tools: Vec<u8> =
            (0..200_000).flat_map(|n| [text(&format!("tool-{n}")), text("1")].concat()).collect();
        let body = [text("producers"), leb(1), text("processed-by"), leb(200_000), tools].concat();
        let bytes = [b"\0asm\x0d\0\x01\0\0".to_vec(), leb(body.len()), body].concat();
        assert_eq!(producers(&bytes)["processed-by"].len(), TOOLS);
    }

    #[test]
    fn another_version_is_one_fault_and_not_one_for_each_interface() {
        let imports =
            ["palisade:provider/http@0.2.0", "wasi:io/streams@0.2.0", "palisade:provider/log@0.2.0"];
        let faults = refuse_versions(&imports, Some("0.2.0"));
        let told: Vec<&str> = faults.iter().map(|fault| &*fault.what).collect();
        assert_eq!(told, ["it speaks palisade:provider@0.2.0 (http, log, plugin)"]);
        assert!(refuse_versions(&["palisade:provider/http@0.1.0"], Some("0.1.0")).is_empty());
        assert_eq!(refuse_versions(&imports, Some("0.3.0")).len(), 2);
    }

    #[test]
    fn what_is_not_served_is_named_with_the_reason() {
        for served in ["palisade:provider/http@0.1.0", "wasi:io/streams@0.2.0", "wasi:cli/stderr@0.2.12"] {
            assert_eq!(refuse_import(served), None, "{served}");
        }
        for (name, why) in [
            ("palisade:provider/http@0.2.0", "upgrade Palisade"),
            ("palisade:provider/http@0.0.9", "this Palisade serves 0.1.0"),
            ("palisade:provider/http", "without a version"),
            ("palisade:provider/secrets@0.1.0", "there are types, http"),
            ("wasi:http/outgoing-handler@0.2.0", "componentize-js: `-d http fetch-event`"),
            ("wasi:cli/environment@0.3.0", "only WASI 0.2"),
            ("wasi:keyvalue/store@0.2.0", "no part of WASI 0.2"),
            ("env", "only palisade:provider and WASI"),
        ] {
            let refused = refuse_import(name).or_else(|| refuse_versions(&[name], None).pop());
            let refused = refused.unwrap().to_string();
            assert!(
                refused.contains(why) && refused.contains(name.split(['@', '/']).next().unwrap()),
                "{refused}"
            );
        }
    }
}
