//! What an operator wants of an account (its address, its user name, its groups …), read once and applied to the account as it is at that moment.

use serde_json::{Map, Value};

use super::accounts::{AccountError, name};
use crate::domain::account::User;
use crate::domain::claims::{GROUPS_CLAIM, USERNAME_CLAIM, claims_fault, scopes_fault};
use crate::domain::email::EmailAddress;
use crate::domain::email_change::EmailChanges;
use crate::domain::groups::Groups;
use crate::domain::time::UnixTime;
use crate::domain::username::Username;

/// What an operator changes of an account; `None` leaves it as it is.
#[derive(Debug, Clone, Default)]
pub struct UserEdit {
    /// An empty name takes it away.
    pub name: Option<String>,
    /// An empty address takes it away. Another one is not verified unless [`UserEdit::email_verified`] says so.
    pub email: Option<String>,
    pub email_verified: Option<bool>,
    /// False ends every session.
    pub active: Option<bool>,
    /// A moment that has passed unlocks.
    pub locked_until: Option<UnixTime>,
    pub scopes: Option<Vec<String>>,
    /// An empty name takes it away; no other account gets the former one.
    pub username: Option<String>,
    /// In place of all groups that it has.
    pub groups: Option<Vec<String>>,
    /// Beside those that it has. Not with [`UserEdit::groups`].
    pub add_groups: Vec<String>,
    /// Of those that it has. Not with [`UserEdit::groups`].
    pub remove_groups: Vec<String>,
    pub claims: Option<Map<String, Value>>,
}

/// A [`UserEdit`] that makes sense.
pub(super) struct Wish {
    edit: UserEdit,
    name: Option<Option<String>>,
    email: Option<Option<EmailAddress>>,
    username: Option<Option<Username>>,
    groups: GroupWish,
}

enum GroupWish {
    Replace(Groups),
    Change { add: Groups, remove: Groups },
}

impl Wish {
    pub(super) fn read(edit: UserEdit) -> Result<Wish, AccountError> {
        check_scopes(edit.scopes.as_deref().unwrap_or_default())?;
        edit.claims.as_ref().map_or(Ok(()), check_claims)?;
        let (add, remove) = (Groups::new(&edit.add_groups)?, Groups::new(&edit.remove_groups)?);
        let groups = match &edit.groups {
            None => GroupWish::Change { add, remove },
            Some(_) if !add.is_empty() || !remove.is_empty() => {
                let why = "`groups` replaces all groups: send it without `add_groups` and `remove_groups`";
                return Err(AccountError::Invalid(why.to_owned()));
            }
            Some(all) => GroupWish::Replace(Groups::new(all)?),
        };
        if let Some(both) = edit.add_groups.iter().find(|added| edit.remove_groups.contains(added)) {
            return Err(AccountError::Invalid(format!("the group {both:?} is to be added and removed")));
        }
        Ok(Wish {
            name: edit.name.clone().map(|given| name(Some(given))).transpose()?,
            email: edit.email.as_deref().map(given).transpose()?,
            username: edit.username.as_deref().map(given).transpose()?,
            groups,
            edit,
        })
    }

    /// Whether it may make tokens longer.
    pub(super) fn lengthens(&self) -> bool {
        let UserEdit { scopes, claims, groups, add_groups, .. } = &self.edit;
        let lists = scopes.is_some() || claims.is_some() || groups.is_some() || !add_groups.is_empty();
        lists || self.email.is_some() || self.username.is_some()
    }

    /// Changes `user` at `now`.
    ///
    /// # Errors
    /// [`AccountError::Frozen`], or [`AccountError::Invalid`] for what the account must not become.
    pub(super) fn apply(&self, user: &mut User, now: UnixTime) -> Result<(), AccountError> {
        let edit = &self.edit;
        if let Some(name) = &self.name {
            user.name.clone_from(name);
        }
        if let Some(email) = self.email.as_ref().filter(|email| **email != user.email) {
            if user.email_changes.is_frozen() {
                return Err(AccountError::Frozen);
            }
            user.email.clone_from(email);
            user.email_verified = false;
            // The operator has decided: no earlier address takes the account back.
            user.email_changes = EmailChanges::default();
        }
        user.email_verified = edit.email_verified.unwrap_or(user.email_verified);
        if user.email_verified && user.email.is_none() {
            return Err(AccountError::Invalid("`email_verified`: the account has no address".to_owned()));
        }
        user.active = edit.active.unwrap_or(user.active);
        if let Some(until) = edit.locked_until {
            user.locked_until = Some(until).filter(|until| *until > now);
        }
        if let Some(scopes) = &edit.scopes {
            user.scopes.clone_from(scopes);
        }
        if let Some(claims) = &edit.claims {
            user.claims.clone_from(claims);
        }
        if let Some(username) = &self.username {
            user.username.clone_from(username);
            // What did not fit when it was to be taken over is decided now.
            user.claims.remove(USERNAME_CLAIM);
        }
        if matches!(self.groups, GroupWish::Replace(_)) {
            user.claims.remove(GROUPS_CLAIM);
        }
        user.groups = match &self.groups {
            GroupWish::Replace(groups) => groups.clone(),
            GroupWish::Change { add, remove } => {
                let kept = user.groups.as_slice().iter().filter(|group| !remove.as_slice().contains(group));
                let all: Vec<&String> = kept.chain(add.as_slice()).collect();
                Groups::new(&all)?
            }
        };
        has_login_name(user)
    }
}

/// A text that takes away when it is empty.
fn given<T>(text: &str) -> Result<Option<T>, AccountError>
where
    T: std::str::FromStr,
    AccountError: From<T::Err>,
{
    Some(text).filter(|text| !text.is_empty()).map(|text| Ok(text.parse()?)).transpose()
}

/// Whether there is something by which the account is signed in to.
///
/// # Errors
/// [`AccountError::Invalid`].
pub(super) fn has_login_name(user: &User) -> Result<(), AccountError> {
    match (&user.email, &user.username) {
        (None, None) => Err(AccountError::Invalid("an account needs an `email` or a `username`".to_owned())),
        _ => Ok(()),
    }
}

pub(super) fn check_scopes(scopes: &[String]) -> Result<(), AccountError> {
    scopes_fault(scopes).map_or(Ok(()), |fault| Err(AccountError::Invalid(fault)))
}

pub(super) fn check_claims(claims: &Map<String, Value>) -> Result<(), AccountError> {
    claims_fault(claims).map_or(Ok(()), |fault| Err(AccountError::Invalid(fault)))
}
