//! `/admin/v1/clock`: how far the wall clock can be trusted, and the operator's word that it is right.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::super::body::answer;
use super::super::failure::Failure;
use super::operator::RequestId;
use super::state::AdminState;
use palisade_core::domain::audit::Action;
use palisade_core::domain::trusted_time::{ClockState, Doubt};
use palisade_core::service::clock::{in_words, shown};

pub(super) fn router() -> Router<AdminState> {
    Router::new().route("/admin/v1/clock", get(show)).route("/admin/v1/clock/accept", post(accept))
}

/// Moments and spans in seconds; moments since 1970.
fn body(standing: &ClockState) -> Value {
    let stops = standing.stops.iter();
    let stops: Vec<_> =
        stops.map(|stop| json!({ "seconds": stop.seconds, "believed_after": stop.left })).collect();
    json!({
        "wall": standing.wall,
        "mark": standing.mark,
        "in_doubt": standing.doubt.is_some(),
        "doubt": standing.doubt.map(|doubt| match doubt {
            Doubt::Ahead(_) => "ahead",
            Doubt::Behind(_) => "behind",
        }),
        "skew": standing.skew(),
        "delay": standing.delay().as_secs(),
        "stops": stops,
        "highest": standing.highest,
        "has_been_ahead": standing.has_been_ahead(),
        "detail": standing.doubt.map(|doubt| in_words(doubt, standing)),
    })
}

async fn show(State(state): State<AdminState>) -> Response {
    answer(StatusCode::OK, &body(&state.timekeeping.standing()))
}

async fn accept(State(state): State<AdminState>, RequestId(id): RequestId) -> Result<Response, Failure> {
    let accepted = state.timekeeping.accept().await?;
    let before = &accepted.before;
    let what = format!("{} instead of {}", shown(before.wall), shown(before.mark));
    state.accounts.note_operator(&id, Action::AcceptClock, what);
    let answered = json!({
        "accepted": before.wall,
        "revoked_all_tokens": accepted.revoked,
        "before": body(before),
        "now": body(&state.timekeeping.standing()),
    });
    Ok(answer(StatusCode::OK, &answered))
}
