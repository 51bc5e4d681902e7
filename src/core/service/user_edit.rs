//! What an operator changes of an account (its address, its user name, its groups …): parsed once, and applied to the
//! account as it is when the change is committed.

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

/// A [`UserEdit`] that was parsed.
pub(super) struct ParsedEdit {
    name: Option<Option<String>>,
    email: Option<Option<EmailAddress>>,
    email_verified: Option<bool>,
    active: Option<bool>,
    locked_until: Option<UnixTime>,
    scopes: Option<Vec<String>>,
    username: Option<Option<Username>>,
    groups: Option<GroupChange>,
    claims: Option<Map<String, Value>>,
}

enum GroupChange {
    Replace(Groups),
    /// One of them is not empty, and no group is in both.
    Amend {
        add: Groups,
        remove: Groups,
    },
}

impl ParsedEdit {
    pub(super) fn parse(edit: UserEdit) -> Result<ParsedEdit, AccountError> {
        let UserEdit {
            name: called,
            email,
            email_verified,
            active,
            locked_until,
            scopes,
            username,
            groups,
            add_groups,
            remove_groups,
            claims,
        } = edit;
        check_scopes(scopes.as_deref().unwrap_or_default())?;
        claims.as_ref().map_or(Ok(()), check_claims)?;
        let groups = GroupChange::parse(groups.as_deref(), &add_groups, &remove_groups)?;
        Ok(ParsedEdit {
            name: called.map(|text| name(Some(text))).transpose()?,
            email: email.as_deref().map(given).transpose()?,
            email_verified,
            active,
            locked_until,
            scopes,
            username: username.as_deref().map(given).transpose()?,
            groups,
            claims,
        })
    }

    /// Whether it may make tokens longer.
    pub(super) fn lengthens(&self) -> bool {
        let groups = match &self.groups {
            None => false,
            Some(GroupChange::Replace(_)) => true,
            Some(GroupChange::Amend { add, .. }) => !add.is_empty(),
        };
        let lists = groups || self.scopes.is_some() || self.claims.is_some();
        lists || self.email.is_some() || self.username.is_some()
    }

    /// Changes `user` at `now`.
    ///
    /// # Errors
    /// [`AccountError::Frozen`], or [`AccountError::Invalid`] for what the account must not become.
    pub(super) fn apply(&self, user: &mut User, now: UnixTime) -> Result<(), AccountError> {
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
        user.email_verified = self.email_verified.unwrap_or(user.email_verified);
        if user.email_verified && user.email.is_none() {
            return Err(AccountError::Invalid("`email_verified`: the account has no address".to_owned()));
        }
        user.active = self.active.unwrap_or(user.active);
        if let Some(until) = self.locked_until {
            user.locked_until = Some(until).filter(|until| *until > now);
        }
        if let Some(scopes) = &self.scopes {
            user.scopes.clone_from(scopes);
        }
        if let Some(claims) = &self.claims {
            user.claims.clone_from(claims);
        }
        if let Some(username) = &self.username {
            user.username.clone_from(username);
            // What did not fit when it was to be taken over is decided now.
            user.claims.remove(USERNAME_CLAIM);
        }
        match &self.groups {
            None => {}
            Some(GroupChange::Replace(groups)) => {
                user.claims.remove(GROUPS_CLAIM);
                user.groups.clone_from(groups);
            }
            Some(GroupChange::Amend { add, remove }) => user.groups = user.groups.changed(add, remove)?,
        }
        has_login_name(user)
    }
}

impl GroupChange {
    /// `None`: no group is named, and the stored ones are not looked at.
    fn parse(
        all: Option<&[String]>,
        add: &[String],
        remove: &[String],
    ) -> Result<Option<GroupChange>, AccountError> {
        let (add, remove) = (Groups::new(add)?, Groups::new(remove)?);
        let names_none = add.is_empty() && remove.is_empty();
        match all {
            None if names_none => return Ok(None),
            None => {}
            Some(all) if names_none => return Ok(Some(GroupChange::Replace(Groups::new(all)?))),
            Some(_) => {
                let why = "`groups` replaces all groups: send it without `add_groups` and `remove_groups`";
                return Err(AccountError::Invalid(why.to_owned()));
            }
        }
        if let Some(both) = add.as_slice().iter().find(|added| remove.as_slice().contains(added)) {
            return Err(AccountError::Invalid(format!("the group {both:?} is to be added and removed")));
        }
        Ok(Some(GroupChange::Amend { add, remove }))
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
