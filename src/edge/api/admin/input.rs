//! Moments and spans as operators write them.

use std::time::Duration;

use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use palisade_core::domain::time::UnixTime;

/// A moment: seconds since the epoch, or RFC 3339.
#[derive(Debug)]
pub(super) struct Moment(pub(super) UnixTime);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Moment, D::Error> {
        let cure = "expected seconds since 1970 or a moment such as \"2026-01-31T12:00:00Z\"";
        let moment = match NumberOrText::deserialize(deserializer) {
            Ok(NumberOrText::Number(seconds)) => Some(UnixTime(seconds)),
            Ok(NumberOrText::Text(text)) => humantime::parse_rfc3339_weak(&text)
                .ok()
                .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok())
                .map(|since| UnixTime(since.as_secs())),
            Err(_) => None,
        };
        moment.map(Moment).ok_or_else(|| serde::de::Error::custom(cure))
    }
}

/// How far a revocation by time reaches: `"now"`, or a moment.
#[derive(Debug)]
pub(super) enum Cutoff {
    Now,
    At(UnixTime),
}

impl<'de> Deserialize<'de> for Cutoff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Cutoff, D::Error> {
        let given = serde_json::Value::deserialize(deserializer)?;
        if given == "now" {
            return Ok(Cutoff::Now);
        }
        let cure = "expected \"now\", seconds since 1970 or a moment such as \"2026-01-31T12:00:00Z\"";
        let moment = Moment::deserialize(given).map_err(|_| serde::de::Error::custom(cure))?;
        Ok(Cutoff::At(moment.0))
    }
}

/// A span: seconds, or text such as `30m`.
#[derive(Debug)]
pub(super) struct Span(pub(super) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let cure = "expected a number of seconds or a span such as \"30m\"";
        let span = match NumberOrText::deserialize(deserializer) {
            Ok(NumberOrText::Number(seconds)) => Some(Duration::from_secs(seconds)),
            Ok(NumberOrText::Text(text)) => humantime::parse_duration(&text).ok(),
            Err(_) => None,
        };
        span.map(Span).ok_or_else(|| serde::de::Error::custom(cure))
    }
}

/// A moment or span as it is sent.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
pub(super) enum NumberOrText {
    /// In seconds; a moment is counted from 1970.
    Number(u64),
    /// A moment as in RFC 3339, or a span with its unit.
    Text(String),
}
