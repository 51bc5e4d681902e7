//! When a certificate ends, and when to say so.

use std::path::Path;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use palisade_core::domain::time::UnixTime;

const DAY: Duration = Duration::from_secs(86_400);
/// The days before the end at which a warning begins to be due, the last first.
const STAGES: [u64; 3] = [1, 7, 30];

/// What is to be said of a certificate's end.
#[derive(Debug, PartialEq, Eq)]
pub struct Warning {
    /// Whether it has passed.
    pub ended: bool,
    /// As the rest of a sentence about the certificate.
    pub words: String,
}

/// The end of a certificate's validity (RFC 5280 §4.1.2.5); `None` where it cannot be read.
#[must_use]
pub fn not_after(certificate: &CertificateDer<'_>) -> Option<UnixTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    u64::try_from(certificate.validity().not_after.timestamp()).ok().map(UnixTime)
}

/// What is to be said at `now` of the first certificate in a PEM file; `None` where all is well or nothing can
/// be read.
#[must_use]
pub fn of_file(path: &Path, now: UnixTime) -> Option<Warning> {
    let leaf = CertificateDer::pem_file_iter(path).ok()?.next()?.ok()?;
    let end = not_after(&leaf)?;
    stage(end, now).map(|_| warning(end, now))
}

/// How near the end is: 0 when it has passed, else the days of the stage that has begun.
fn stage(end: UnixTime, now: UnixTime) -> Option<u64> {
    if end <= now {
        return Some(0);
    }
    STAGES.into_iter().find(|days| now.until(end) <= DAY * u32::try_from(*days).unwrap_or(u32::MAX))
}

fn warning(end: UnixTime, now: UnixTime) -> Warning {
    let days = |span: Duration| match span.as_secs() / DAY.as_secs() {
        0 => "within a day".to_owned(),
        1 => "in one day".to_owned(),
        days => format!("in {days} days"),
    };
    let date = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_secs(end.0));
    match end <= now {
        true => Warning { ended: true, words: format!("has expired, at {date}: clients refuse it") },
        false => Warning { ended: false, words: format!("expires {}, at {date}", days(now.until(end))) },
    }
}

/// Remembers what was said.
#[derive(Debug, Default)]
pub struct Watch {
    said: Option<(u64, UnixTime)>,
}

impl Watch {
    /// What is to be said at `now` of a certificate that ends at `end`: when a stage begins, and every day
    /// from then on.
    pub fn look(&mut self, end: UnixTime, now: UnixTime) -> Option<Warning> {
        let Some(stage) = stage(end, now) else {
            // Renewed: the next one has stages of its own.
            self.said = None;
            return None;
        };
        if self.said.is_some_and(|(said, at)| said == stage && at.until(now) < DAY) {
            return None;
        }
        self.said = Some((stage, now));
        Some(warning(end, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    #[test]
    fn warnings_come_at_their_stages_and_then_daily() {
        let mut watch = Watch::default();
        let end = NOW.plus(DAY * 31);
        let mut said = Vec::new();
        for hours in 0..=32 * 24 {
            let now = NOW.plus(DAY / 24 * hours);
            if let Some(warning) = watch.look(end, now) {
                said.push((hours, warning.ended));
            }
        }
        let hours: Vec<u32> = said.iter().map(|(hours, _)| *hours).collect();
        assert_eq!(hours[..2], [24, 48], "{hours:?}");
        for begun in [24, 24 * 24, 30 * 24, 31 * 24, 32 * 24] {
            assert!(hours.contains(&begun), "{begun} in {hours:?}");
        }
        assert_eq!(said.len(), 32, "{hours:?}");
        assert!(said.iter().all(|(hours, ended)| *ended == (*hours >= 31 * 24)));
    }

    #[test]
    fn a_stage_that_begins_waits_for_no_day_to_pass() {
        let end = NOW.plus(DAY * 31);
        for days in [24, 30, 31] {
            let (mut watch, begun) = (Watch::default(), NOW.plus(DAY * days));
            assert!(watch.look(end, begun.minus(DAY / 2)).is_some());
            assert!(watch.look(end, begun).is_some(), "{days}");
        }
    }

    #[test]
    fn a_renewed_certificate_ends_the_warnings() {
        let mut watch = Watch::default();
        assert!(watch.look(NOW.plus(DAY), NOW).is_some());
        assert_eq!(watch.look(NOW.plus(DAY * 90), NOW), None);
        assert!(watch.look(NOW.plus(DAY), NOW).is_some());
    }

    #[test]
    fn the_end_is_read_from_the_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cert.pem");
        let mut params = rcgen::CertificateParams::new(["app.test".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2031, 2, 3);
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        std::fs::write(&path, cert.pem()).unwrap();
        let end = not_after(cert.der()).unwrap();
        assert_eq!(end, UnixTime(1_927_843_200));
        assert_eq!(of_file(&path, end.minus(DAY * 31)), None);
        let soon = of_file(&path, end.minus(DAY * 5)).unwrap();
        assert_eq!(soon.words, "expires in 5 days, at 2031-02-03T00:00:00Z");
        assert!(of_file(&path, end).unwrap().ended);
        std::fs::write(&path, "nonsense").unwrap();
        assert_eq!(of_file(&path, end), None);
    }
}
