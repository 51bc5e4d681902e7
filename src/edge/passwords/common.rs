//! The list of common passwords. It is looked at, never shown.

use std::sync::LazyLock;

use zeroize::Zeroizing;

/// The file says where it is from.
const FILE: &str = include_str!("common.txt");

/// The lines behind the first empty one, which are in order.
static COMMON: LazyLock<Vec<&str>> =
    LazyLock::new(|| FILE.split_once("\n\n").map_or("", |(_, list)| list).lines().collect());

/// Whether `password`, in any case, is on the list.
pub(super) fn is_common(password: &str) -> bool {
    let lower = Zeroizing::new(password.to_ascii_lowercase());
    COMMON.binary_search(&lower.as_str()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use palisade_core::domain::password::PasswordPolicy;

    #[test]
    fn the_list_is_in_order_and_has_nothing_that_is_refused_anyway() {
        assert!(COMMON.len() > 9000);
        assert!(COMMON.is_sorted_by(|a, b| a < b));
        for common in COMMON.iter() {
            assert!(
                common.len() >= PasswordPolicy::Length.min_length()
                    && !common.bytes().any(|b| b.is_ascii_uppercase())
            );
        }
    }

    #[test]
    fn case_hides_nothing() {
        assert!(
            is_common("passwordpassword") && is_common("PasswordPassword") && is_common("1qaz2wsx3edc4rfv")
        );
        assert!(
            !is_common("correct horse battery staple") && !is_common("") && !is_common("# common passwords")
        );
    }
}
