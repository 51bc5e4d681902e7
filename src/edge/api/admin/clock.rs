//! `/admin/v1/clock`: how far the wall clock can be trusted, and the operator's word that it is right.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::body::answer;
use super::super::failure::Failure;
use super::operator::RequestId;
use super::state::AdminState;
use palisade_core::domain::audit::Action;
use palisade_core::domain::trusted_time::{ClockState, Doubt};
use palisade_core::service::clock::{in_words, shown};

pub(super) fn endpoints() -> OpenApiRouter<AdminState> {
    OpenApiRouter::new().routes(routes!(show)).routes(routes!(accept))
}

/// How far the wall clock can be trusted. Moments and spans in seconds; moments since 1970.
#[derive(Serialize, ToSchema)]
struct ClockEntry {
    wall: u64,
    /// The trusted time, which uptime alone moves.
    mark: u64,
    in_doubt: bool,
    /// `ahead` or `behind`, while the wall clock is in doubt.
    #[schema(required)]
    doubt: Option<&'static str>,
    /// How far the wall clock is ahead of what is expected, or, below zero, behind it.
    skew: i64,
    /// How far what cannot be undone is behind the wall clock.
    delay: u64,
    /// Stops that are not believed yet.
    stops: Vec<StopEntry>,
    /// The latest moment that the wall clock ever showed.
    highest: u64,
    /// Whether that moment is still to come by what the wall clock shows now.
    has_been_ahead: bool,
    /// What is wrong, what waits because of it, and what to do.
    #[schema(required)]
    detail: Option<String>,
}

/// A stop of the program.
#[derive(Serialize, ToSchema)]
struct StopEntry {
    /// How long it was.
    seconds: u64,
    /// How much more uptime it takes until it is believed.
    believed_after: u64,
}

impl From<&ClockState> for ClockEntry {
    fn from(standing: &ClockState) -> ClockEntry {
        let stops = standing.stops.iter();
        ClockEntry {
            wall: standing.wall.0,
            mark: standing.mark.0,
            in_doubt: standing.doubt.is_some(),
            doubt: standing.doubt.map(|doubt| match doubt {
                Doubt::Ahead(_) => "ahead",
                Doubt::Behind(_) => "behind",
            }),
            skew: standing.skew(),
            delay: standing.delay().as_secs(),
            stops: stops.map(|stop| StopEntry { seconds: stop.seconds, believed_after: stop.left }).collect(),
            highest: standing.highest.0,
            has_been_ahead: standing.has_been_ahead(),
            detail: standing.doubt.map(|doubt| in_words(doubt, standing)),
        }
    }
}

/// The wall clock was accepted.
#[derive(Serialize, ToSchema)]
struct AcceptedClock {
    /// The moment that it showed.
    accepted: u64,
    /// Whether every token signed so far was revoked, because some may say a later moment than the clock.
    revoked_all_tokens: bool,
    before: ClockEntry,
    now: ClockEntry,
}

/// How far the wall clock can be trusted.
#[utoipa::path(get, path = "/admin/v1/clock", tag = "Clock", operation_id = "show_clock",
    security(("operator" = [])),
    responses((status = 200, body = ClockEntry, description = "How it stands.")),
    extensions(("x-codes" = json!([]))))]
async fn show(State(state): State<AdminState>) -> Response {
    answer(StatusCode::OK, &ClockEntry::from(&state.timekeeping.standing()))
}

/// Say that the wall clock is right.
///
/// Tokens that may begin in the future are revoked first, with all others that were signed so far.
#[utoipa::path(post, path = "/admin/v1/clock/accept", tag = "Clock", operation_id = "accept_clock",
    security(("operator" = [])),
    responses((status = 200, body = AcceptedClock, description = "It is accepted.")),
    extensions(("x-codes" = json!(["invalid_request"]))))]
async fn accept(State(state): State<AdminState>, RequestId(id): RequestId) -> Result<Response, Failure> {
    let accepted = state.timekeeping.accept().await?;
    let before = &accepted.before;
    let what = format!("{} instead of {}", shown(before.wall), shown(before.mark));
    state.accounts.note_operator(&id, Action::AcceptClock, what);
    let answered = AcceptedClock {
        accepted: before.wall.0,
        revoked_all_tokens: accepted.revoked,
        before: ClockEntry::from(before),
        now: ClockEntry::from(&state.timekeeping.standing()),
    };
    Ok(answer(StatusCode::OK, &answered))
}
