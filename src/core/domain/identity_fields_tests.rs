use std::sync::Arc;

use percent_encoding::percent_decode;
use serde_json::json;

use super::super::time::UnixTime;
use super::*;

fn caller(claims: Value) -> Identity {
    let Value::Object(claims) = claims else { unreachable!("an object of claims") };
    Identity {
        issuer: Arc::from("https://i.test"),
        subject: "u1".into(),
        email: claims.get("email").and_then(Value::as_str).map(str::to_owned),
        email_verified: claims.get("email_verified") == Some(&Value::Bool(true)),
        session: None,
        token_id: None,
        version: None,
        scopes: Vec::new(),
        issued_at: UnixTime(1),
        expires_at: UnixTime(2),
        claims,
    }
}

fn field(source: IdentitySource) -> IdentityField {
    IdentityField {
        header: "X".into(),
        source,
        encoding: TextEncoding::Percent,
        is_list: true,
        is_required: false,
        is_groups: false,
    }
}

fn claim() -> IdentityField {
    field(IdentitySource::Claim(ClaimPath::parse("c").unwrap()))
}

/// The value of `field` alone, as text; it is written as it was measured.
fn said_with(
    separator: u8,
    groups_only: Option<&[&str]>,
    field: IdentityField,
    claims: Value,
) -> Result<Option<String>, IdentityFault> {
    let groups_only = groups_only.map(|only| only.iter().map(|group| (*group).to_owned()).collect());
    let fields = IdentityFields { fields: vec![field], separator, groups_only };
    let identity = caller(claims);
    let value = fields.value(&fields.fields[0], &identity);
    assert_eq!(fields.check(&identity).err(), value.clone().err(), "checked as written");
    let value = value?.inspect(|value| assert_eq!(value.len(), value.capacity(), "measured as written"));
    Ok(value.map(|value| String::from_utf8(value).unwrap()))
}

fn said(field: IdentityField, value: Value) -> Result<Option<String>, IdentityFault> {
    said_with(b',', None, field, json!({ "c": value }))
}

/// What an app reads in a field: it trims what is white space around the field and around each value.
fn decode(value: Option<&str>, separator: char) -> Vec<String> {
    let Some(value) = value else { return Vec::new() };
    let decoded = |text: &str| percent_decode(text.trim().as_bytes()).decode_utf8().unwrap().into_owned();
    value.trim().split(separator).map(decoded).collect()
}

/// Every text of one to three of these letters.
fn texts() -> Vec<String> {
    const LETTERS: [&str; 9] = ["a", "%", ",", " ", ";", "2", "C", "\u{e0}", "\u{a0}"];
    let mut texts: Vec<String> = LETTERS.map(str::to_owned).to_vec();
    let mut longest = texts.clone();
    for _ in 0..2 {
        longest = longest.iter().flat_map(|text| LETTERS.map(|letter| format!("{text}{letter}"))).collect();
        texts.extend(longest.iter().cloned());
    }
    texts
}

#[test]
fn every_list_is_read_as_it_was_written() {
    let texts = texts();
    assert_eq!(texts.len(), 9 + 81 + 729);
    for encoding in [TextEncoding::Percent, TextEncoding::Utf8] {
        for separator in [b',', b';', b' '] {
            let field = || IdentityField { encoding, ..claim() };
            let check = |list: &[&str]| {
                let value = said_with(separator, None, field(), json!({ "c": list })).unwrap();
                // The white space of Unicode is trimmed by some apps, which only `percent` is safe from.
                let value_is_safe = encoding == TextEncoding::Percent || !list.concat().contains('\u{a0}');
                if value_is_safe {
                    assert_eq!(decode(value.as_deref(), char::from(separator)), list, "{value:?}");
                }
                if encoding == TextEncoding::Percent {
                    let is_ascii = value.is_none_or(|value| value.bytes().all(|b| matches!(b, b' '..=b'~')));
                    assert!(is_ascii, "{list:?}");
                }
            };
            check(&[]);
            for (index, one) in texts.iter().enumerate() {
                check(&[one]);
                // Beside every short one, before and behind it, and beside one that lies elsewhere in the list.
                for other in texts[..27].iter().chain([&texts[(index * 7 + 1) % texts.len()]]) {
                    check(&[one, other]);
                    check(&[other, one, other]);
                }
            }
        }
    }
}

#[test]
fn one_text_in_a_list_field_is_a_list_of_one() {
    let same = |text: &str| assert_eq!(said(claim(), json!(text)), said(claim(), json!([text])), "{text}");
    for text in ["admins", "admins,staff", "Sales, EMEA", "100%", " a "] {
        same(text);
    }
    assert_eq!(said(claim(), json!(["Sales, EMEA", "staff"])), Ok(Some("Sales%2C EMEA,staff".into())));
}

#[test]
fn a_field_of_one_value_keeps_the_separator_and_is_read_as_it_was_written() {
    let one = || IdentityField { is_list: false, ..claim() };
    assert_eq!(said(one(), json!("Smith, Ann")), Ok(Some("Smith, Ann".into())));
    for text in texts() {
        let value = said(one(), json!(text)).unwrap().unwrap();
        assert_eq!(percent_decode(value.trim().as_bytes()).decode_utf8().unwrap(), text);
    }
    let unsendable = IdentityFault::Unsendable { what: "c".into() };
    assert_eq!(said(one(), json!(["Ann"])), Err(unsendable));
}

#[test]
fn text_beyond_ascii_is_written_as_the_field_has_it() {
    let utf8 = || IdentityField { encoding: TextEncoding::Utf8, ..claim() };
    assert_eq!(said(claim(), json!("J\u{fc}rgen")), Ok(Some("J%C3%BCrgen".into())));
    assert_eq!(said(utf8(), json!("J\u{fc}rgen, 5%")), Ok(Some("J\u{fc}rgen%2C 5%25".into())));
}

#[test]
fn what_is_not_there_gives_no_field() {
    for claims in [json!({}), json!({"c": null}), json!({"c": []}), json!({"c": ""})] {
        assert_eq!(said_with(b',', None, claim(), claims.clone()), Ok(None), "{claims}");
    }
}

#[test]
fn numbers_and_booleans_are_written_as_json_has_them_and_what_no_field_can_hold_is_refused_by_name() {
    for (value, text) in [
        (json!(7), "7"),
        (json!(-1.5), "-1.5"),
        (json!(true), "true"),
        (json!([1, "x", false]), "1,x,false"),
        (json!(u64::MAX), "18446744073709551615"),
    ] {
        assert_eq!(said(claim(), value), Ok(Some(text.into())));
    }
    // In a number the separator is encoded, too.
    assert_eq!(said_with(b'-', None, claim(), json!({"c": [-1, 2]})), Ok(Some("%2D1-2".into())));
    for value in [
        json!({"a": 1}),
        json!([["a"]]),
        json!([{"a": 1}]),
        json!([null]),
        json!([""]),
        json!(["a", ""]),
        json!("a\r\nX-Auth-Subject: root"),
        json!(["a\u{0}"]),
        json!("a\tb"),
        json!("\u{7f}"),
        json!("\u{85}"),
        // No longer the number that was signed.
        json!(1e300),
    ] {
        let refused = said(claim(), value.clone());
        assert_eq!(refused, Err(IdentityFault::Unsendable { what: "c".into() }), "{value}");
        let utf8 = IdentityField { encoding: TextEncoding::Utf8, ..claim() };
        assert_eq!(said(utf8, value.clone()), refused, "{value}");
    }
}

#[test]
fn a_line_that_does_not_fit_is_refused_and_never_cut() {
    let room = MAX_LINE - "X: ".len();
    let sent = said(claim(), json!("a".repeat(room))).unwrap().unwrap();
    assert_eq!(sent.len(), room);
    let too_long = Err(IdentityFault::TooLong { what: "c".into() });
    assert_eq!(said(claim(), json!("a".repeat(room + 1))), too_long);
    // As it is written, not as it was.
    assert_eq!(said(claim(), json!("%".repeat(room / 3 + 1))), too_long);
    let groups: Vec<String> = (0..400).map(|number| format!("group {number:032}")).collect();
    let field = || IdentityField { is_groups: true, ..claim() };
    assert_eq!(said(field(), json!(groups)), too_long);
    // Those that the route sends fit.
    let some = [&*groups[399], "elsewhere", &*groups[7]];
    let filtered = said_with(b',', Some(&some), field(), json!({ "c": groups }));
    assert_eq!(filtered, Ok(Some(format!("{},{}", groups[7], groups[399]))));
}

#[test]
fn only_the_groups_that_the_route_names_are_sent() {
    let field = || IdentityField { is_groups: true, ..claim() };
    let only = |claims| said_with(b',', Some(&["staff", "1", "a,b"]), field(), json!({ "c": claims }));
    assert_eq!(only(json!(["admins", "staff", "STAFF", "staff "])), Ok(Some("staff".into())));
    assert_eq!(only(json!(["a,b", "a", "b"])), Ok(Some("a%2Cb".into())));
    // A number is no name.
    assert_eq!(only(json!([1])), Ok(None));
    assert_eq!(only(json!("staff")), Ok(Some("staff".into())));
    assert_eq!(only(json!("admins")), Ok(None));
    // What is not sent may hold anything but structure.
    assert_eq!(only(json!(["a\nb", "staff"])), Ok(Some("staff".into())));
    let refused = Err(IdentityFault::Unsendable { what: "c".into() });
    assert_eq!(only(json!([["staff"]])), refused);
    assert_eq!(only(json!({"staff": true})), refused);
    // Of other claims all is sent.
    let other = said_with(b',', Some(&["staff"]), claim(), json!({"c": ["x"]}));
    assert_eq!(other, Ok(Some("x".into())));
}

#[test]
fn a_person_without_what_the_app_knows_people_by_is_refused_and_sent_under_nothing_else() {
    let user = |source, claims| {
        let field = IdentityField { is_list: false, is_required: true, ..field(source) };
        said_with(b',', None, field, claims)
    };
    let username = |claims| user(IdentitySource::Username, claims);
    assert_eq!(username(json!({"preferred_username": "ann"})), Ok(Some("ann".into())));
    for claims in [
        json!({}),
        json!({"preferred_username": null}),
        json!({"preferred_username": ""}),
        json!({"preferred_username": 7}),
        json!({"preferred_username": ["ann"]}),
        // Another account's address, or its subject.
        json!({"preferred_username": "bob@a.test"}),
        json!({"preferred_username": "01890a5d-ac96-774b-bcce-b302099a8057"}),
        json!({"preferred_username": "ann\n"}),
        json!({"preferred_username": " ann"}),
        // Another person's name to an app that ignores case or compares normal forms.
        json!({"preferred_username": "Ann"}),
        json!({"preferred_username": "jose\u{301}"}),
        json!({"email": "ann@a.test", "email_verified": true, "name": "Ann"}),
    ] {
        assert_eq!(username(claims.clone()), Err(IdentityFault::NoUsername), "{claims}");
    }
    let email = |claims| user(IdentitySource::Email, claims);
    assert_eq!(email(json!({"email": "ann@a.test", "email_verified": true})), Ok(Some("ann@a.test".into())));
    for claims in [
        json!({"preferred_username": "ann"}),
        json!({"email": "ann@a.test"}),
        json!({"email": "ann@a.test", "email_verified": false}),
    ] {
        assert_eq!(email(claims.clone()), Err(IdentityFault::NoEmail), "{claims}");
    }
    assert_eq!(user(IdentitySource::Subject, json!({})), Ok(Some("u1".into())));
}

#[test]
fn a_claim_that_the_route_requires_is_there_or_the_caller_is_refused() {
    let required = || IdentityField { is_required: true, ..claim() };
    assert_eq!(said(required(), json!("x")), Ok(Some("x".into())));
    for value in [json!(null), json!(""), json!([])] {
        assert_eq!(
            said(required(), value.clone()),
            Err(IdentityFault::Missing { what: "c".into() }),
            "{value}"
        );
    }
    let groups = IdentityField { is_groups: true, ..required() };
    let none_sent = said_with(b',', Some(&["staff"]), groups, json!({"c": ["other"]}));
    assert_eq!(none_sent, Err(IdentityFault::Missing { what: "c".into() }));
}

#[test]
fn an_address_that_is_not_verified_is_sent_in_no_field() {
    let unverified = json!({"email": "ann@a.test"});
    assert_eq!(said_with(b',', None, field(IdentitySource::Email), unverified), Ok(None));
}

#[test]
fn separators_are_printable_and_mean_nothing_else() {
    let good: Vec<char> = (0..=255).filter(|byte| is_separator(*byte)).map(char::from).collect();
    let all: String = good.iter().collect();
    assert_eq!(all, " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~");
}

#[test]
fn every_fault_says_which_claim_it_is_about() {
    for (fault, word) in [
        (IdentityFault::NoUsername, "user name"),
        (IdentityFault::NoEmail, "verified e-mail address"),
        (IdentityFault::TooLong { what: "groups".into() }, "\"groups\""),
        (IdentityFault::Unsendable { what: "roles".into() }, "\"roles\""),
        (IdentityFault::Missing { what: "team".into() }, "\"team\""),
    ] {
        assert!(fault.to_string().contains(word), "{fault}");
    }
}
