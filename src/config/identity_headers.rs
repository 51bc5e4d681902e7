//! `headers`, `pass` and `inject` of a route: who the app is told that the caller is, in which header fields, and which
//! fields of the client's it is shown beside them.

use super::file::{Item, Section};
use super::read::claim_path;
use super::settings::Forward;
use super::{access_token, form};
use palisade_core::domain::claim_path::ClaimPath;
use palisade_core::domain::claims::{GROUPS_CLAIM, USERNAME_CLAIM};
use palisade_core::domain::identity_fields::{
    IdentityField, IdentityFields, IdentitySource, TextEncoding, is_separator,
};
use palisade_core::domain::reserved::{self, Reserved, fold};
use palisade_core::domain::route::Auth;

/// A field that this route lets through, though by default no client may send it. `names`: what the route sets.
fn pass(item: &Item<'_>, names: &[String]) -> Option<String> {
    let want = "the name of a header that is taken out by default, such as \"X-HTTP-Method-Override\"";
    let name = item.read(want, |text| form::is_token(text).then(|| text.to_owned()))?;
    let folded = fold(&name);
    if names.iter().any(|ours| *ours == *folded) {
        return item.bad_as(
            format!("{name:?}, in which this route says who the caller is"),
            "no name that this route's headers have: callers could choose who they are",
        );
    }
    if let Some(why) = reserved::never_passes(&name) {
        return item.bad_as(format!("{name:?}: {why}"), want);
    }
    if !Reserved::default().takes(&name.to_ascii_lowercase()) {
        item.doc.warn(item.at, &item.key, &format!("{name:?} passes anyway, unless another route sets it"));
    }
    Some(name)
}

/// `headers`, `pass`, `inject` and `preserve_host`; and what of it a caller must have to be let in.
/// `providers`: the names of all that are configured.
pub fn forward(
    section: &Section<'_>,
    providers: &[String],
    auth: Auth,
) -> (Forward, Option<Box<IdentityFields>>) {
    let headers = section.section("headers");
    let mut names: Vec<String> = Vec::new();
    let mut name = |key: &'static str, default: Option<&str>| {
        let default = default.map(str::to_owned);
        let header = match headers.get(key) {
            None => default,
            Some(item) if item.is_false() => None,
            Some(item) => {
                let want = "a header name that carries nothing else, or false to send none";
                let header = item.read(want, |text| {
                    (form::is_token(text) && !form::is_reserved_header(text)).then(|| text.to_owned())
                });
                header.and_then(|header| {
                    // Apps that read `_` as `-` could not tell them apart.
                    let folded = fold(&header).into_owned();
                    if names.contains(&folded) { item.bad("each header name once") } else { Some(header) }
                })
            }
        };
        names.extend(header.as_ref().map(|header| fold(header).into_owned()));
        header
    };
    let subject = name("subject", Some("X-Auth-Subject"));
    let issuer = name("issuer", Some("X-Auth-Issuer"));
    let email = name("email", Some("X-Auth-Email"));
    let session = name("session", Some("X-Auth-Session"));
    let scopes = name("scopes", Some("X-Auth-Scopes"));
    let assertion = name("assertion", None);
    let route = section.get("name").and_then(|item| item.raw()).unwrap_or_default();
    let access_token = access_token::field(&headers, route, &names);
    names.extend(access_token.as_ref().map(|token| fold(&token.field).into_owned()));
    let identity = identity(&headers, &mut names);
    refuse_without_auth(&headers, auth);
    headers.close();
    let pass = section.list("pass", |item| pass(item, &names));
    let inject_item = section.get("inject");
    let inject = inject_item.as_ref().and_then(|item| {
        let inject = item.section()?;
        let want = "the name of a provider";
        let provider = inject.required("provider", want).and_then(|item| {
            let name = item.text(want)?;
            if providers.iter().any(|provider| provider == name) {
                return Some(name.to_owned());
            }
            item.bad("the name of a configured provider (see [[providers]])")
        });
        inject.close();
        provider
    });
    if let Some(item) = inject_item.filter(|_| auth == Auth::None) {
        item.bad_as::<()>("a provider on a route with auth = \"none\"", "auth = \"required\": whose token?");
    }
    let forward = Forward {
        subject,
        issuer,
        email,
        session,
        scopes,
        assertion,
        access_token,
        pass,
        preserve_host: section.bool("preserve_host", true),
        inject,
    };
    (forward, identity.map(Box::new))
}

/// `preset`, `user`, `claims`, `separator` and `groups_only`. `names`: what the route sets already, folded; those of
/// these keys are put to them.
fn identity(headers: &Section<'_>, names: &mut Vec<String>) -> Option<IdentityFields> {
    let mut fields = preset(headers, names);
    claims(headers, &mut fields, names);
    let separator = headers.get("separator").and_then(|item| separator(&item, &fields)).unwrap_or(b',');
    let groups_only = headers.get("groups_only").map(|item| groups_only(&item, &fields));
    (!fields.is_empty()).then_some(IdentityFields { fields, separator, groups_only })
}

/// The fields of the preset, with what the app knows its people by in the first.
fn preset(headers: &Section<'_>, names: &mut Vec<String>) -> Vec<IdentityField> {
    let words = [
        ("username", IdentitySource::Username),
        ("email", IdentitySource::Email),
        ("subject", IdentitySource::Subject),
    ];
    let want = "\"username\", \"email\" or \"subject\": what the app knows its people by";
    let Some(item) = headers.get("preset") else {
        if let Some(user) = headers.get("user") {
            user.bad_as::<()>("user without a preset", "preset = \"remote-user\" beside it");
        }
        return Vec::new();
    };
    let is_known = item.choice(&[("remote-user", ())]).is_some();
    let source = headers.required("user", want).and_then(|user| {
        user.read(want, |text| words.into_iter().find(|(word, _)| *word == text).map(|(_, source)| source))
    });
    let Some(source) = source.filter(|_| is_known) else { return Vec::new() };
    let field = |header: &str, source| IdentityField {
        header: header.to_owned(),
        source,
        encoding: TextEncoding::default(),
        is_list: false,
        is_required: false,
        is_groups: false,
    };
    let groups = field("Remote-Groups", IdentitySource::Claim(ClaimPath::top(GROUPS_CLAIM)));
    let fields = vec![
        IdentityField { is_required: true, ..field("Remote-User", source) },
        field("Remote-Email", IdentitySource::Email),
        field("Remote-Name", IdentitySource::Claim(ClaimPath::top("name"))),
        IdentityField { is_list: true, is_groups: true, ..groups },
    ];
    for IdentityField { header, .. } in &fields {
        let folded = fold(header).into_owned();
        if names.contains(&folded) {
            item.bad_as::<()>(
                format!("{header:?}, which is the name of another header of this route"),
                "each header name once",
            );
        }
        names.push(folded);
    }
    fields
}

/// What an entry of `claims` says.
enum Entry {
    Off,
    Sent(Said),
}

/// What an entry says of a field that is sent; `None`: it does not say.
#[derive(Default)]
struct Said {
    claim: Option<IdentitySource>,
    encoding: Option<TextEncoding>,
    required: Option<bool>,
    groups: Option<bool>,
}

/// `claims`: further fields, and what is other about those of the preset.
fn claims(headers: &Section<'_>, fields: &mut Vec<IdentityField>, names: &mut Vec<String>) {
    let Some(section) = headers.get("claims").and_then(|item| item.section()) else { return };
    let mut named: Vec<String> = Vec::new();
    for (header, item) in section.all() {
        let folded = fold(header).into_owned();
        let of_preset = fields.iter().position(|field| field.header.eq_ignore_ascii_case(header));
        let of_preset = of_preset.filter(|_| !named.contains(&folded));
        let entry = entry(&item, of_preset.is_some());
        if !form::is_sendable(header) {
            item.bad_as::<()>(format!("{header:?}"), "a header name that carries nothing else");
        } else if let Some(at) = of_preset {
            if let Some(entry) = entry {
                change(fields, at, entry, &item);
            }
        } else if names.contains(&folded) {
            item.bad_as::<()>(format!("{header:?}"), "each header name once, however it is spelled");
        } else if let Some(Entry::Sent(Said { claim: Some(source), encoding, required, groups })) = entry {
            let is_list = matches!(source, IdentitySource::Claim(_));
            if groups == Some(true) && !is_list {
                item.bad::<()>("a claim that holds groups: this one is one text");
            }
            fields.push(IdentityField {
                header: header.to_owned(),
                encoding: encoding.unwrap_or_default(),
                is_list,
                is_required: required.unwrap_or(false),
                is_groups: is_list && groups.unwrap_or_else(|| is_groups(&source)),
                source,
            });
        }
        named.push(folded.clone());
        names.push(folded);
    }
}

fn is_groups(source: &IdentitySource) -> bool {
    matches!(source, IdentitySource::Claim(path) if path.name() == Some(GROUPS_CLAIM))
}

/// Reads an entry of `claims`; only one about a field of the preset may be `false` or leave the claim out.
fn entry(item: &Item<'_>, is_of_preset: bool) -> Option<Entry> {
    if item.is_false() {
        return match is_of_preset {
            true => Some(Entry::Off),
            false => item.bad("no such key: only a header of the preset is sent unasked"),
        };
    }
    if !item.is_table() {
        return Some(Entry::Sent(Said { claim: Some(claim(item)?), ..Said::default() }));
    }
    let section = item.section()?;
    let encodings = [("percent", TextEncoding::Percent), ("utf-8", TextEncoding::Utf8)];
    let encoding = section.get("encoding").and_then(|item| item.choice(&encodings));
    let flag = |name| section.get(name).map(|_| section.bool(name, false));
    let (required, groups) = (flag("required"), flag("groups"));
    let named = match is_of_preset {
        true => section.get("claim"),
        false => section.required("claim", "the name of a claim such as \"groups\""),
    };
    let is_missing = named.is_none() && !is_of_preset;
    let source = named.as_ref().map(claim);
    section.close();
    let is_wrong = is_missing || matches!(source, Some(None));
    (!is_wrong).then_some(Entry::Sent(Said { claim: source.flatten(), encoding, required, groups }))
}

fn claim(item: &Item<'_>) -> Option<IdentitySource> {
    let path = claim_path(item)?;
    Some(match path.name() {
        // An address that is not verified may be another person's.
        Some("email") => IdentitySource::Email,
        Some("sub") => IdentitySource::Subject,
        Some(USERNAME_CLAIM) => IdentitySource::Username,
        _ => IdentitySource::Claim(path),
    })
}

/// Changes a field of the preset as its entry says. The first one is what the app knows its people by.
fn change(fields: &mut Vec<IdentityField>, at: usize, entry: Entry, item: &Item<'_>) {
    let field = &mut fields[at];
    match entry {
        Entry::Sent(Said { claim: None, encoding, required: None | Some(true), groups: None }) if at == 0 => {
            field.encoding = encoding.unwrap_or(field.encoding);
        }
        Entry::Off | Entry::Sent(_) if at == 0 => {
            let want =
                "an encoding alone, such as { encoding = \"utf-8\" }: `user` says what is in this header";
            item.bad::<()>(want);
        }
        Entry::Off => {
            fields.remove(at);
        }
        Entry::Sent(Said { claim, encoding, required, groups }) => {
            field.encoding = encoding.unwrap_or(field.encoding);
            field.source = claim.unwrap_or_else(|| field.source.clone());
            field.is_required = required.unwrap_or(false);
            // The list of the preset is for groups, whatever claim has them.
            field.is_groups = groups.unwrap_or(field.is_list || is_groups(&field.source));
            if field.is_groups && !field.is_list {
                item.bad::<()>(
                    "a claim of one text: groups are a list, for Remote-Groups or a header of its own",
                );
            }
        }
    }
}

fn separator(item: &Item<'_>, fields: &[IdentityField]) -> Option<u8> {
    if !fields.iter().any(|field| field.is_list) {
        return item.bad_as("separator without a header that holds a list", "claims or a preset beside it");
    }
    match item.raw().map(str::as_bytes) {
        Some([byte]) if is_separator(*byte) => Some(*byte),
        _ => item.bad("one printable ASCII character that is no letter, no digit and not '%', such as \"|\""),
    }
}

fn groups_only(item: &Item<'_>, fields: &[IdentityField]) -> Vec<String> {
    if !fields.iter().any(|field| field.is_groups) {
        item.bad_as::<()>(
            "groups_only without a header that sends groups",
            "a preset, or claims with a header for \"groups\", beside it",
        );
    } else if item.is_empty_list() {
        item.bad::<()>("at least one group; without the header, in claims, none is sent");
    }
    let want = "the name of a group";
    let name = |item: Item<'_>| {
        item.read(want, |text| (!text.chars().any(char::is_control)).then(|| text.to_owned()))
    };
    item.list().into_iter().filter_map(name).collect()
}

/// Refuses identity headers where no caller is known.
fn refuse_without_auth(headers: &Section<'_>, auth: Auth) {
    for item in ["preset", "claims"].into_iter().filter_map(|key| headers.get(key)) {
        if auth == Auth::None {
            item.bad_as::<()>(
                "identity headers on a route with auth = \"none\"",
                "auth = \"required\" or \"optional\": without it tokens are not looked at",
            );
        }
    }
}
