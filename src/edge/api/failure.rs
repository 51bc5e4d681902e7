//! What a caller is told when a request is not done: problem documents (RFC 9457), the same way for every endpoint.

use std::borrow::Cow;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::reply::written;
use palisade_core::domain::answer::Answer;
use palisade_core::domain::problem::Problem;
use palisade_core::domain::reply::Reply;

/// The longest message about a body, in characters: it names members by the names they were sent with.
const MAX_WORDS: usize = 300;

/// A refusal or failure as an answer.
#[derive(Debug)]
pub(super) struct Failure(Box<FailureParts>);

#[derive(Debug)]
struct FailureParts {
    problem: Problem,
    /// For 401: how to authenticate (RFC 9110 §11.6.1).
    challenge: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
    /// An extension member of the document (RFC 9457 §3.2).
    member: Option<(&'static str, Value)>,
}

impl Failure {
    pub(super) fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Failure {
        let problem = Problem::new(status, code, detail);
        // The store tries its disk again twice a second.
        let retry_after = (status == 503).then_some(Duration::from_secs(1));
        Failure(Box::new(FailureParts { problem, challenge: None, retry_after, member: None }))
    }

    pub(super) fn challenging(mut self, challenge: &'static str) -> Failure {
        self.0.challenge = Some(challenge.into());
        self
    }

    pub(super) fn after(mut self, wait: Duration) -> Failure {
        self.0.retry_after = Some(wait);
        self
    }

    pub(super) fn with(mut self, name: &'static str, value: Value) -> Failure {
        self.0.member = Some((name, value));
        self
    }

    pub(super) fn status(&self) -> u16 {
        self.0.problem.status
    }

    pub(super) fn code(&self) -> &'static str {
        self.0.problem.code
    }

    /// When to come back, in whole seconds (RFC 9110 §10.2.3).
    pub(super) fn retry_after(&self) -> Option<u64> {
        let wait = self.0.retry_after?;
        Some((wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1))
    }

    /// The whole document.
    pub(super) fn document(&self) -> Value {
        let mut document = json!(self.0.problem);
        if let Some((name, value)) = &self.0.member {
            document[name] = value.clone();
        }
        document
    }
}

impl From<Answer> for Failure {
    fn from(Answer { problem, challenge, retry_after, .. }: Answer) -> Failure {
        let mut failure = Failure::new(problem.status, problem.code, "");
        failure.0.problem = problem;
        failure.0.challenge = challenge.map(Cow::from);
        failure.0.retry_after = retry_after.or(failure.0.retry_after);
        failure
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let with_member = self.0.member.is_some().then(|| format!("{}\n", self.document()));
        let FailureParts { problem, challenge, retry_after, .. } = *self.0;
        let code = Code(problem.code);
        let challenge = challenge.map(Cow::into_owned);
        let reply = Reply::from(Answer { problem, challenge, allow: None, retry_after });
        let body = with_member.unwrap_or_else(|| reply.body().into_owned());
        let mut response = written(&reply, body);
        response.extensions_mut().insert(code);
        response
    }
}

/// The code of a failure, kept with its answer for those who write it down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Code(pub(super) &'static str);

pub(super) fn wrong_type() -> Failure {
    let cure = "send the body as `Content-Type: application/json`, in UTF-8 and without a content coding";
    Failure::new(415, "unsupported_media_type", cure)
}

pub(super) fn too_large() -> Failure {
    Failure::new(413, "body_too_large", "the body is larger than 64 KiB")
}

pub(super) fn unreadable() -> Failure {
    Failure::new(400, "body_unreadable", "the body ended early")
}

pub(super) fn too_slow() -> Failure {
    Failure::new(408, "body_timeout", "the body did not arrive within ten seconds")
}

pub(super) fn malformed(detail: &str) -> Failure {
    Failure::new(400, "invalid_json", detail.chars().take(MAX_WORDS).collect::<String>())
}

pub(super) fn internal() -> Failure {
    Failure::new(500, "internal", "the answer could not be written")
}

pub(super) fn no_such_method() -> Failure {
    Failure::new(405, "method_not_allowed", "this path does not take this method")
}

/// The answer to a path we do not know.
pub(super) async fn not_found() -> Failure {
    Failure::new(404, "not_found", "there is nothing at this path")
}

/// The answer to a method a path does not have; axum adds `Allow`.
pub(super) async fn method_not_allowed() -> Failure {
    no_such_method()
}
