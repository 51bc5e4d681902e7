//! What the app is told of accounts by `[accounts] webhook`: that something happened to which account, and which of its
//! fields changed. Never a value: an app that wants one asks for it.

use super::account::User;

/// What happened to an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountEvent {
    Created,
    /// Its address was verified.
    Verified,
    Changed,
    /// An operator disabled it.
    Disabled,
    Deleted,
}

impl AccountEvent {
    /// The `type` of the notice.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            AccountEvent::Created => "account.created",
            AccountEvent::Verified => "account.verified",
            AccountEvent::Changed => "account.changed",
            AccountEvent::Disabled => "account.disabled",
            AccountEvent::Deleted => "account.deleted",
        }
    }

    /// What a commit that makes `after` of `before` is to an app, with the fields that changed; `None`: nothing that is
    /// told. `before` without an account: it is new; `after` without one: it is removed.
    #[must_use]
    pub fn of(before: Option<&User>, after: Option<&User>) -> Option<(AccountEvent, Vec<&'static str>)> {
        let (before, after) = match (before, after) {
            (Some(before), Some(after)) => (before, after),
            (None, Some(_)) => return Some((AccountEvent::Created, Vec::new())),
            (Some(_), None) => return Some((AccountEvent::Deleted, Vec::new())),
            (None, None) => return None,
        };
        let fields = changed_fields(before, after);
        let event = match () {
            () if fields.is_empty() => return None,
            () if before.active && !after.active => AccountEvent::Disabled,
            () if !before.email_verified && after.email_verified => AccountEvent::Verified,
            () => AccountEvent::Changed,
        };
        Some((event, fields))
    }
}

/// The names of the fields that differ, as the admin API calls them.
fn changed_fields(before: &User, after: &User) -> Vec<&'static str> {
    // A sign-in renews a hash of the same password.
    let is_sign_in = before.last_login_at != after.last_login_at;
    let differ = [
        ("email", before.email != after.email),
        ("email_verified", before.email_verified != after.email_verified),
        ("username", before.username != after.username),
        ("name", before.name != after.name),
        ("password", before.password != after.password && !is_sign_in),
        ("groups", before.groups != after.groups),
        ("scopes", before.scopes != after.scopes),
        ("claims", before.claims != after.claims),
        ("active", before.active != after.active),
        ("locked_until", before.locked_until != after.locked_until),
        ("frozen", before.email_changes.is_frozen() != after.email_changes.is_frozen()),
        ("identities", before.identities != after.identities),
    ];
    differ.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::{PasswordHash, UserId};
    use crate::domain::time::UnixTime;
    use uuid::Uuid;

    fn ann() -> User {
        let email = "ann@example.com".parse().unwrap();
        let ann = User::new(UserId(Uuid::from_u128(7)), email, UnixTime(1));
        User { password: Some(PasswordHash("a".into())), name: Some("Secret Name".into()), ..ann }
    }

    fn of(change: impl FnOnce(&mut User)) -> Option<(AccountEvent, Vec<&'static str>)> {
        let mut after = ann();
        change(&mut after);
        AccountEvent::of(Some(&ann()), Some(&after))
    }

    #[test]
    fn what_changed_is_told_by_name() {
        use AccountEvent::*;
        assert_eq!(AccountEvent::of(None, Some(&ann())), Some((Created, vec![])));
        assert_eq!(AccountEvent::of(Some(&ann()), None), Some((Deleted, vec![])));
        assert_eq!(of(|user| user.name = None), Some((Changed, vec!["name"])));
        assert_eq!(of(|user| user.password = None), Some((Changed, vec!["password"])));
        assert_eq!(of(User::verified), Some((Verified, vec!["email_verified"])));
        assert_eq!(of(|user| user.active = false), Some((Disabled, vec!["active"])));
        let email = "lee@example.com".parse().unwrap();
        let moved = of(|user| (user.email, user.email_verified) = (Some(email), true));
        assert_eq!(moved, Some((Verified, vec!["email", "email_verified"])));
        let mut disabled = ann();
        disabled.active = false;
        assert_eq!(AccountEvent::of(Some(&disabled), Some(&ann())), Some((Changed, vec!["active"])));
    }

    #[test]
    fn a_sign_in_is_no_change() {
        assert_eq!(of(|_| ()), None);
        let signed_in = of(|user| {
            user.last_login_at = Some(UnixTime(9));
            user.devices.push("d".into());
            user.known_blocks.push("b".into());
            user.password = Some(PasswordHash("renewed".into()));
            user.revision += 1;
        });
        assert_eq!(signed_in, None);
        assert_eq!(of(|user| user.link_generation += 1), None);
        assert_eq!(of(|user| user.updated_at = UnixTime(2)), None);
    }
}
