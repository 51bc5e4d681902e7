//! A recorded exchange that is not kept to must fail, for whatever reason.

#![cfg(feature = "testing")]

use palisade_provider::oauth2::Generic;
use palisade_provider::testing::{Exchange, play};

const KEPT: &str = r#"
about = "A refresh."
call = "refresh"

[settings]
authorize_url = "https://id.example/authorize"
token_url = "https://id.example/token?x=1&y=2"
headers = { x-version = "1" }

[input.tokens]
access_token = "access-1"
refresh_token = "refresh-1"

[[requests]]
method = "POST"
url = "https://id.example/token?y=2&x=%31"
headers = { x-version = "1" }
client_auth = "basic"
form = { refresh_token = "refresh-1", grant_type = "refresh_token" }
answer.json = { access_token = "access-2", expires_in = 60 }

[result.tokens]
access_token = "access-2"
expires_in = 60
"#;

fn differences(from: &str, to: &str) -> Vec<String> {
    assert!(KEPT.contains(from), "{from}");
    play::<Generic>(&Exchange::parse(&KEPT.replacen(from, to, 1)).unwrap())
}

#[test]
fn what_is_kept_to_passes_in_any_order_and_escaping() {
    assert_eq!(differences("", ""), Vec::<String>::new());
}

/// Files of both shapes that were written by hand before the format was one; the gateway plays the same.
#[test]
fn values_are_read_as_texts_and_as_lists() {
    for file in [include_str!("shapes/text.toml"), include_str!("shapes/list.toml")] {
        assert_eq!(play::<Generic>(&Exchange::parse(file).unwrap()), Vec::<String>::new());
    }
}

#[test]
fn every_difference_is_seen() {
    for (from, to, named) in [
        ("method = \"POST\"", "method = \"GET\"", "method"),
        ("y=2&x=%31", "y=2", "url"),
        ("y=2&x=%31", "y=2&x=1#z", "url"),
        ("headers = { x-version = \"1\" }\nclient", "client", "`x-version` was not expected"),
        ("x-version = \"1\" }\nclient", "x-version = \"2\" }\nclient", "expected x-version"),
        ("client_auth = \"basic\"", "client_auth = \"basic_raw\"", "client_auth"),
        ("client_auth = \"basic\"\n", "", "client_auth"),
        ("refresh_token = \"refresh-1\", grant", "refresh_token = \"refresh-2\", grant", "form"),
        (", grant_type = \"refresh_token\"", "", "form"),
        ("form = {", "json = {", "json"),
        ("access-2\"\nexpires", "access-3\"\nexpires", "access_token"),
        ("expires_in = 60\n", "expires_in = 61\n", "expires_in"),
        ("expires_in = 60\n", "expires_in = 60\nkeep = { a = \"b\" }\n", "keep"),
        (
            "expires_in = 60 }",
            "expires_in = 60 }\n[[requests]]\nmethod = \"GET\"\nurl = \"https://b.example\"\nfails = \"timeout\"",
            "was not asked",
        ),
        (
            "answer.json = { access_token = \"access-2\", expires_in = 60 }",
            "fails = \"timeout\"",
            "transient",
        ),
        (
            "[result.tokens]\naccess_token = \"access-2\"\nexpires_in = 60",
            "[result]\ndone = true",
            "another kind",
        ),
    ] {
        let found = differences(from, to);
        assert!(found.iter().any(|difference| difference.contains(named)), "{to}: {found:?}");
    }
}

#[test]
fn a_request_too_many_is_seen() {
    let from = KEPT.find("[[requests]]").unwrap();
    let to = KEPT.find("[result.tokens]").unwrap();
    let without = format!("{}{}", &KEPT[..from], &KEPT[to..]);
    let found = play::<Generic>(&Exchange::parse(&without).unwrap());
    assert!(found.iter().any(|difference| difference.contains("was not expected")), "{found:?}");
}

#[test]
fn a_file_that_makes_no_sense_is_refused() {
    for (from, to) in [
        ("about = \"A refresh.\"\n", ""),
        ("call = \"refresh\"", "call = \"refresh\"\nstage = 1"),
        ("answer.json = { access_token = \"access-2\", expires_in = 60 }\n", ""),
        ("answer.json", "fails = \"timeout\"\nanswer.json"),
        ("form = {", "body = \"x\"\nform = {"),
        ("client_auth = \"basic\"", "client_auth = \"bsic\""),
        ("expires_in = 60\n", "expires_im = 60\n"),
    ] {
        assert!(KEPT.contains(from), "{from}");
        assert!(Exchange::parse(&KEPT.replacen(from, to, 1)).is_err(), "{to}");
    }
}

/// Logs what it was given.
struct Talkative;

impl palisade_provider::oauth2::Flow for Talkative {
    type Settings = palisade_provider::oauth2::Settings;

    fn about() -> palisade_provider::oauth2::About {
        Generic::about()
    }

    fn standard(
        settings: &Self::Settings,
        _step: palisade_provider::oauth2::Step,
    ) -> Result<Self::Settings, palisade_provider::Failure> {
        Ok(settings.clone())
    }

    fn refresh(
        cx: &palisade_provider::Context<'_>,
        _settings: &Self::Settings,
        current: &palisade_provider::CurrentTokens,
    ) -> Result<palisade_provider::Tokens, palisade_provider::Failure> {
        cx.log(palisade_provider::Level::Info, &format!("it is {}", current.access_token));
        Err(palisade_provider::Failure::provider_error(format!("not {:?}", current.refresh_token)))
    }
}

#[test]
fn a_token_that_is_told_is_seen() {
    let found = play::<Talkative>(&Exchange::parse(KEPT).unwrap());
    assert!(found.iter().any(|difference| difference.contains("is in the log")), "{found:?}");
    assert!(found.iter().any(|difference| difference.contains("is in the failure")), "{found:?}");
}

#[test]
fn a_key_that_there_is_not_is_named() {
    for (from, to, name) in [
        ("client_auth", "client_auht", "client_auht"),
        ("answer.json", "answer.staus = 400\nanswer.json", "staus"),
    ] {
        let error = Exchange::parse(&KEPT.replacen(from, to, 1)).unwrap_err();
        assert_eq!(error, format!("requests[0] has the unknown key `{name}`"));
    }
}
