//! How sizes, sums and tables are written for people.

use sha2::{Digest, Sha256};

use crate::cli::output;

/// `184 KiB`, `12.2 MiB`.
#[allow(clippy::cast_precision_loss, reason = "to be read, not to be computed with")]
pub(super) fn size(bytes: usize) -> String {
    match bytes {
        0..=1023 => format!("{bytes} bytes"),
        1024..=1_048_575 => format!("{} KiB", bytes / 1024),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// The SHA-256, as `sha256sum` prints it and `providers.sha256` takes it.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Rows under a head, without lines.
pub(super) fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = output::table(&head);
    for row in rows {
        table.add_row(row);
    }
    table.to_string().lines().map(|line| format!("  {}", line.trim_end())).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!([size(7), size(188_416), size(12_800_000)], ["7 bytes", "184 KiB", "12.2 MiB"]);
    }

    #[test]
    fn a_sum_is_what_sha256sum_prints() {
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
