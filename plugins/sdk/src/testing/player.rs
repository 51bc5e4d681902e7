//! Plays an exchange: a host that knows what will be asked, and a look at what came of it.

use std::cell::{Cell, RefCell};
use std::fmt::Debug;

use palisade_exchange::{Answer, Call, Fails, Granted, Outcome, Person, RecordedExchange};
use serde_json::Value;

use super::compare;
use super::file::{Exchange, fields, pkce, secrets, tokens};
use crate::http::{Request, Response, SendError};
use crate::{
    Account, Authorization, Context, Description, Failure, Host, Level, Provider, Tokens, form, settings,
};

/// What a call brought.
enum Brought {
    Description(Box<Description>),
    Authorization(Authorization),
    Tokens(Box<Tokens>),
    Done,
    Account(Account),
}

/// Plays `exchange` with the plugin `P`, and returns everything that was not as recorded.
#[must_use]
pub fn play<P: Provider>(exchange: &Exchange) -> Vec<String> {
    let recorded = &exchange.recorded;
    let host = Script { exchange: recorded, next: Cell::new(0), wrong: RefCell::default() };
    let brought = call::<P>(exchange, &host);
    let mut wrong = host.wrong.into_inner();
    for request in recorded.requests.iter().skip(host.next.get()) {
        wrong.push(format!("{} {} was not asked", request.method, request.url));
    }
    if let Err(failure) = &brought
        && secrets(&recorded.input).iter().any(|secret| failure.message().contains(secret))
    {
        wrong.push(format!("a token or a code is in the failure: {failure}"));
    }
    wrong.extend(outcome(&recorded.result, brought));
    wrong
}

fn call<P: Provider>(exchange: &Exchange, host: &Script<'_>) -> Result<Brought, Failure> {
    let json = serde_json::to_string(&exchange.recorded.settings)
        .map_err(|error| Failure::misconfigured(error.to_string()))?;
    let settings: P::Settings = settings(&json)?;
    let connection = exchange.connection();
    let cx = Context::new(&connection, host);
    let input = &exchange.recorded.input;
    let (pkce, current) = (pkce(input), tokens(input));
    Ok(match exchange.recorded.call {
        Call::Describe => Brought::Description(Box::new(P::describe(&settings)?)),
        Call::Authorize => Brought::Authorization(P::authorize(&cx, &settings, &input.state, &pkce)?),
        Call::Exchange => {
            Brought::Tokens(Box::new(P::exchange(&cx, &settings, &fields(&input.callback), &pkce)?))
        }
        Call::Refresh => Brought::Tokens(Box::new(P::refresh(&cx, &settings, &current)?)),
        Call::Revoke => P::revoke(&cx, &settings, &current).map(|()| Brought::Done)?,
        Call::Identity => Brought::Account(P::identity(&cx, &settings, &current)?),
    })
}

/// A host that answers as recorded.
struct Script<'e> {
    exchange: &'e RecordedExchange,
    next: Cell<usize>,
    wrong: RefCell<Vec<String>>,
}

impl Host for Script<'_> {
    fn send(&self, request: &Request) -> Result<Response, SendError> {
        let index = self.next.get();
        self.next.set(index + 1);
        let Some(expected) = self.exchange.requests.get(index) else {
            let surplus = format!("{} {} was not expected", request.method.as_str(), request.url);
            self.wrong.borrow_mut().push(surplus);
            return Err(SendError::Denied("nothing is recorded for this request".into()));
        };
        let differences = compare::request(expected, request);
        self.wrong
            .borrow_mut()
            .extend(differences.into_iter().map(|difference| format!("requests[{index}]: {difference}")));
        match (&expected.answer, expected.fails) {
            (Some(answer), _) => Ok(response(answer)),
            (None, Some(Fails::Timeout)) => Err(SendError::Timeout),
            (None, Some(Fails::TooLarge)) => Err(SendError::TooLarge),
            (None, Some(Fails::Unreachable)) => Err(SendError::Unreachable("as recorded".into())),
            (None, Some(Fails::Denied) | None) => Err(SendError::Denied("as recorded".into())),
        }
    }

    fn now(&self) -> u64 {
        self.exchange.now
    }

    fn log(&self, _level: Level, message: &str) {
        if secrets(&self.exchange.input).iter().any(|secret| message.contains(secret)) {
            self.wrong.borrow_mut().push(format!("a token or a code is in the log: {message}"));
        }
    }
}

fn response(answer: &Answer) -> Response {
    let (kind, body) = if let Some(form) = &answer.body.form {
        (Some("application/x-www-form-urlencoded"), form::encode(&fields(form)).into_bytes())
    } else if let Some(json) = &answer.body.json {
        (Some("application/json"), json.to_string().into_bytes())
    } else {
        (None, answer.body.body.clone().unwrap_or_default().into_bytes())
    };
    let mut headers: Vec<(String, String)> =
        answer.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
    if let Some(kind) = kind.filter(|_| !answer.headers.contains_key("content-type")) {
        headers.push(("content-type".into(), kind.into()));
    }
    Response { status: answer.status, headers, body }
}

fn outcome(expected: &Outcome, brought: Result<Brought, Failure>) -> Vec<String> {
    let mut wrong = Vec::new();
    match (expected, brought) {
        (Outcome::Visit(expected), Ok(Brought::Authorization(Authorization::Visit(url)))) => {
            wrong.extend(compare::urls(expected, &url));
        }
        (Outcome::Unattended(true), Ok(Brought::Authorization(Authorization::Unattended)))
        | (Outcome::Done(true), Ok(Brought::Done)) => {}
        (Outcome::Tokens(expected), Ok(Brought::Tokens(tokens))) => {
            return granted(expected, &tokens);
        }
        (Outcome::Account(expected), Ok(Brought::Account(account))) => return person(expected, &account),
        (Outcome::Description(expected), Ok(Brought::Description(description))) => {
            let found = described(&description);
            for (name, value) in expected {
                same(name, &Some(value), &found.get(name), &mut wrong);
            }
        }
        (Outcome::Failure(expected), Err(failure)) => {
            same("failure.kind", &expected.kind.as_str(), &failure.kind(), &mut wrong);
            if !failure.message().contains(&expected.message) {
                wrong.push(compare::different("failure.message", &expected.message, failure.message()));
            }
            let retry_after = match &failure {
                Failure::Transient { retry_after, .. } => *retry_after,
                _ => None,
            };
            same("failure.retry_after", &expected.retry_after, &retry_after, &mut wrong);
        }
        (expected, Err(failure)) => {
            wrong.push(format!("result: expected {expected:?}, got the failure {failure}"))
        }
        (expected, Ok(_)) => {
            wrong.push(format!("result: expected {expected:?}, got a result of another kind"))
        }
    }
    wrong
}

fn same<T: PartialEq + Debug>(what: &str, expected: &T, found: &T, wrong: &mut Vec<String>) {
    if expected != found {
        wrong.push(format!("{what}: expected {expected:?}, got {found:?}"));
    }
}

fn granted(expected: &Granted, tokens: &Tokens) -> Vec<String> {
    let mut wrong = Vec::new();
    same("access_token", &expected.access_token, &tokens.access_token, &mut wrong);
    same("token_type", &expected.token_type, &tokens.token_type, &mut wrong);
    same("expires_in", &expected.expires_in, &tokens.expires_in, &mut wrong);
    same("refresh_token", &expected.refresh_token, &tokens.refresh_token, &mut wrong);
    same("refresh_expires_in", &expected.refresh_expires_in, &tokens.refresh_expires_in, &mut wrong);
    same("scopes", &expected.scopes, &tokens.scopes, &mut wrong);
    same("id_token", &expected.id_token, &tokens.id_token, &mut wrong);
    let expected = compare::sorted(&fields(&expected.keep));
    same("keep", &expected, &compare::sorted(&tokens.keep), &mut wrong);
    wrong
}

fn person(expected: &Person, account: &Account) -> Vec<String> {
    let mut wrong = Vec::new();
    same("subject", &expected.subject, &account.subject, &mut wrong);
    same("email", &expected.email, &account.email, &mut wrong);
    same("email_verified", &expected.email_verified, &account.email_verified, &mut wrong);
    same("name", &expected.name, &account.name, &mut wrong);
    wrong
}

/// What can be compared of a description; of settings and parameters their names.
fn described(description: &Description) -> serde_json::Map<String, Value> {
    let names = |names: Vec<&String>| Value::from(names.into_iter().cloned().collect::<Vec<_>>());
    [
        ("display_name", Value::from(description.display_name.as_str())),
        ("version", Value::from(description.version.as_str())),
        ("docs", description.docs.as_deref().map_or(Value::Null, Value::from)),
        ("settings", names(description.settings.iter().map(|setting| &setting.name).collect())),
        ("parameters", names(description.parameters.iter().map(|parameter| &parameter.name).collect())),
        ("scopes", names(description.scopes.iter().collect())),
        ("hosts", names(description.hosts.iter().collect())),
        ("can_refresh", Value::from(description.can_refresh)),
        ("can_revoke", Value::from(description.can_revoke)),
        ("can_identify", Value::from(description.can_identify)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}
