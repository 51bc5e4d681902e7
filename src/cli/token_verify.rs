//! `palisade token verify --jwks FILE`: one token a line in, one verdict a line out.
//!
//! The same code as the gateway's judges; nothing is asked over the network, and no token is ever echoed.

use std::io::{self, BufRead, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::output::{failed, tell};
use crate::edge::clock::SystemClock;
use crate::edge::jwt::SetVerifier;
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::verdict::TokenFault;
use palisade_core::ports::Clock;

/// The longest line that is kept; the rest of a longer one is read and dropped.
const MAX_LINE: usize = 64 * 1024;

/// The default of `tokens.leeway`.
const LEEWAY: Duration = Duration::from_secs(60);

/// Judges the tokens on standard input by the key set in `jwks`.
pub(super) fn run(jwks: &Path, signature_only: bool) -> ExitCode {
    let checks = match signature_only {
        true => Checks::Signature,
        false => Checks::Claims { issuer: None, audience: None },
    };
    let read = std::fs::read(jwks).map_err(|error| error.to_string());
    let verifier = match read.and_then(|bytes| SetVerifier::new(&bytes, LEEWAY)) {
        Ok(verifier) => verifier,
        Err(why) => {
            tell(format_args!("palisade: {}: {why}; --jwks wants a JWK Set (RFC 7517)", jwks.display()));
            return ExitCode::FAILURE;
        }
    };
    let lines = io::stdin().lock();
    match verify_lines(&verifier, checks, SystemClock.now(), lines, io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // The reader has left. Not all were judged.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(error) => failed(&error.to_string()),
    }
}

/// What is checked beside the signature.
#[derive(Debug, Clone, Copy)]
pub enum Checks<'a> {
    /// `--signature-only`: form, header and signature.
    Signature,
    /// Every claim; the issuer and the audience when they are given.
    Claims { issuer: Option<&'a str>, audience: Option<&'a str> },
}

/// Reads tokens from `lines` and writes `valid` or `invalid: <reason>` for each, until the end. True when
/// all were valid.
///
/// # Errors
/// Reading or writing failed.
pub fn verify_lines(
    verifier: &SetVerifier,
    checks: Checks<'_>,
    now: UnixTime,
    mut lines: impl BufRead,
    mut out: impl Write,
) -> io::Result<bool> {
    let mut all_valid = true;
    let mut line = Vec::new();
    while read_line(&mut lines, &mut line)? {
        let verdict = match std::str::from_utf8(line.trim_ascii()) {
            Err(_) => Err(TokenFault::Malformed),
            Ok(token) => match checks {
                Checks::Signature => verifier.check_signature(token),
                Checks::Claims { issuer, audience } => verifier.check(token, issuer, audience, now),
            },
        };
        match verdict {
            Ok(()) => writeln!(out, "valid")?,
            Err(fault) => {
                all_valid = false;
                writeln!(out, "invalid: {fault}")?;
            }
        }
    }
    out.flush()?;
    Ok(all_valid)
}

/// Reads up to and without the next newline; false at the end. Keeps at most [`MAX_LINE`] bytes and one,
/// which no token survives.
fn read_line(lines: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let mut any = false;
    loop {
        let chunk = match lines.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            chunk => chunk?,
        };
        if chunk.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let kept = &chunk[..end.unwrap_or(chunk.len())];
        let room = (MAX_LINE + 1).saturating_sub(line.len());
        line.extend_from_slice(&kept[..kept.len().min(room)]);
        let used = end.map_or(chunk.len(), |at| at + 1);
        lines.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// RFC 8037 appendix A.2 and A.4.
    const SET: &str =
        r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    const TOKEN: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

    fn run(checks: Checks<'_>, input: &str) -> (bool, String) {
        let verifier = SetVerifier::new(SET.as_bytes(), Duration::from_secs(60)).unwrap();
        let mut out = Vec::new();
        let all = verify_lines(&verifier, checks, UnixTime(0), input.as_bytes(), &mut out).unwrap();
        (all, String::from_utf8(out).unwrap())
    }

    #[test]
    fn each_line_gets_its_verdict() {
        assert_eq!(run(Checks::Signature, &format!("{TOKEN}\r\n")), (true, "valid\n".to_owned()));
        let input = format!("{TOKEN}\n\na.b.c\n{}\n{TOKEN}", "a".repeat(1 << 20));
        let (all, said) = run(Checks::Signature, &input);
        let said: Vec<&str> = said.lines().collect();
        assert!(!all);
        assert_eq!(said.len(), 5);
        assert_eq!((said[0], said[4]), ("valid", "valid"));
        assert_eq!(said[3], "invalid: longer than a token may be");
        let claims = Checks::Claims { issuer: None, audience: None };
        assert_eq!(run(claims, TOKEN).1, "invalid: not a well-formed signed token\n");
    }
}
