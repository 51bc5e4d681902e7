//! Whether everything that is kept can be read, and every index agrees with its records. Changes nothing.

use ::sled::IVec;

use super::change::mail_filed;
use super::keys::{self, EventPlace, Table};
use super::read::at;
use super::record::{decode, decode_revocation, decode_session, session_filed};
use super::trees::Trees;
use palisade_core::domain::account::{User, UserId};
use palisade_core::domain::audit::Event;
use palisade_core::domain::connection::Connection;
use palisade_core::domain::link::Link;
use palisade_core::domain::mail::Mail;
use palisade_core::domain::mail_cap::Mailbox;
use palisade_core::domain::task::Task;
use palisade_core::domain::time::UnixTime;
use palisade_core::domain::trusted_time::Mark;
use palisade_core::ports::StoreError;

/// Reads everything; the error names the first thing that does not fit.
pub(super) fn verify(trees: &Trees) -> Result<(), StoreError> {
    trees.range(Vec::new()..vec![u8::MAX]).try_for_each(|entry| {
        let (key, bytes) = entry?;
        check(trees, &key, &bytes)
    })
}

fn check(trees: &Trees, key: &[u8], bytes: &IVec) -> Result<(), StoreError> {
    let is = |table: Table| key.first() == Some(&(table as u8));
    let filed = |time| trees.get(&keys::due(time, key)).map(|found| found.is_some());
    if is(Table::Sequence) || is(Table::Erased) || is(Table::Closed) {
        Ok(())
    } else if is(Table::Issuer) {
        let number = decode(key, bytes)?;
        let text: Option<String> = at(trees, &keys::issuer_text(number))?;
        fits(text.is_some_and(|text| keys::issuer(&text) == key), "an issuer and its number")
    } else if is(Table::IssuerText) {
        let text: String = decode(key, bytes)?;
        let number: Option<u32> = at(trees, &keys::issuer(&text))?;
        fits(number.map(keys::issuer_text).as_deref() == Some(key), "the number of an issuer")
    } else if is(Table::Revocation) {
        let (_, number, _) = keys::revoked(key)?;
        fits(trees.get(&keys::issuer_text(number))?.is_some(), "a revocation and its issuer")?;
        fits(filed(decode_revocation(key, bytes)?.expires_at)?, "a revocation and its end")
    } else if is(Table::Version) {
        decode::<u64>(key, bytes).map(drop)
    } else if is(Table::User) {
        let user: User = decode(key, bytes)?;
        for email in user.addresses() {
            let owner: Option<UserId> = at(trees, &keys::email(email))?;
            fits(owner == Some(user.id), "an account and its address")?;
        }
        if let Some(name) = &user.username {
            let owner: Option<UserId> = at(trees, &keys::username(name.fingerprint()))?;
            fits(owner == Some(user.id), "an account and its user name")?;
        }
        for identity in &user.identities {
            let owner: Option<UserId> = at(trees, &keys::identity(identity.fingerprint()))?;
            fits(owner == Some(user.id), "an account and its identity at a provider")?;
        }
        fits(keys::user(user.id) == key, "an account and its key")
    } else if is(Table::Email) {
        let owner = decode(key, bytes)?;
        let user: Option<User> = at(trees, &keys::user(owner))?;
        let owns = user.is_some_and(|user| user.addresses().any(|email| keys::email(email) == key));
        fits(owns, "an address and its account")
    } else if is(Table::Username) {
        let user: Option<User> = at(trees, &keys::user(decode(key, bytes)?))?;
        let name = user.and_then(|user| user.username);
        let owns = name.is_some_and(|name| keys::username(name.fingerprint()) == key);
        fits(owns, "a user name and its account")
    } else if is(Table::Identity) {
        let user: Option<User> = at(trees, &keys::user(decode(key, bytes)?))?;
        let owns = user.is_some_and(|user| {
            user.identities.iter().any(|identity| keys::identity(identity.fingerprint()) == key)
        });
        fits(owns, "an identity at a provider and its account")
    } else if is(Table::FormerUsername) {
        decode::<UserId>(key, bytes)?;
        let now = keys::username(keys::former_fingerprint(key)?);
        fits(trees.get(&now)?.is_none(), "a former user name and one that an account has")
    } else if is(Table::Upgrade) {
        fits(keys::upgrade(decode(key, bytes)?) == key, "what was done once, and its key")
    } else if is(Table::Session) {
        let (session, time) = (decode_session(key, bytes)?, session_filed(key, bytes)?);
        fits(keys::session(session.user, session.id) == key, "a session and its key")?;
        fits(time <= session.expires_at && filed(time)?, "a session and its end")
    } else if is(Table::Link) {
        let link: Link = decode(key, bytes)?;
        fits(keys::link(&link.hash) == key && filed(link.expires_at)?, "a link and its end")
    } else if is(Table::Task) {
        let task: Task = decode(key, bytes)?;
        let filed = trees.get(&keys::due_task(&task))?.is_some();
        fits(keys::task(task.id) == key && filed, "a task and when it is due")
    } else if is(Table::DueTask) {
        let task: Option<Task> = at(trees, &keys::task(keys::due_task_id(key)?))?;
        fits(task.is_some_and(|task| keys::due_task(&task) == key), "when a task is due, and the task")
    } else if is(Table::FormerTask) {
        decode::<Task>(key, bytes).map(drop)
    } else if is(Table::Mail) {
        let mail: Mail = decode(key, bytes)?;
        let filed = trees.get(&mail_filed(&mail))?.is_some();
        fits(keys::mail(mail.id) == key && filed, "a mail and when it is due")
    } else if is(Table::DueMail) {
        let mail: Option<Mail> = at(trees, &keys::mail(keys::due_mail_id(key)?))?;
        let due = mail.is_some_and(|mail| !mail.given_up && keys::due_mail(mail.due_at, mail.id) == key);
        fits(due, "when a mail is due, and the mail")
    } else if is(Table::Mailbox) {
        let mailbox: Mailbox = decode(key, bytes)?;
        fits(keys::mailbox(mailbox.id) == key && filed(mailbox.ends_at())?, "a mailbox and its end")
    } else if is(Table::Event) {
        let event: Event = decode(key, bytes)?;
        let lists = [false, true].map(|strangers| keys::events(event.user, strangers));
        let fit = |list: &[u8]| key.starts_with(list) && EventPlace::read(list, key).is_ok();
        fits(lists.iter().any(|list| fit(list)), "an event and its key")
    } else if is(Table::GoneUser) {
        keys::gone_user_id(key)?;
        fits(filed(decode(key, bytes)?)?, "the events of an account that is gone, and their end")
    } else if is(Table::Connection) {
        let connection: Connection = decode(key, bytes)?;
        let (user, id) = (connection.user, connection.id);
        let due = connection.due_at.map(|due_at| trees.get(&keys::due_connection(due_at, user, id)));
        let filed = due.transpose()?.is_none_or(|found| found.is_some());
        fits(keys::connection(user, id) == key && filed, "a connection and when it is due")
    } else if is(Table::DueConnection) {
        let connection: Option<Connection> = at(trees, &keys::connection_due(key)?)?;
        let due = connection.is_some_and(|connection| {
            let due = connection.due_at;
            due.is_some_and(|due_at| keys::due_connection(due_at, connection.user, connection.id) == key)
        });
        fits(due, "when a connection is due, and the connection")
    } else if is(Table::LeaseRun) {
        decode::<u64>(key, bytes)?;
        fits(keys::lease_run() == key, "the count of runs that granted leases, and its key")
    } else if is(Table::KeyCheck) {
        decode::<String>(key, bytes).map(drop)
    } else if is(Table::Due) {
        check_due(trees, key)
    } else if is(Table::Clock) {
        decode::<Mark>(key, bytes)?;
        fits(keys::clock() == key, "the mark of the clock and its key")
    } else if is(Table::Importing) {
        fits(false, "an import that did not come to its end, and a store,")
    } else {
        fits(false, "a key of no table")
    }
}

fn check_due(trees: &Trees, due: &[u8]) -> Result<(), StoreError> {
    let key = keys::filed(due)?;
    let Some(bytes) = trees.get(key)? else { return fits(false, "an end and what ends") };
    let filed: UnixTime = match key[0] {
        table if table == Table::Session as u8 => session_filed(key, &bytes)?,
        table if table == Table::Mailbox as u8 => decode::<Mailbox>(key, &bytes)?.ends_at(),
        table if table == Table::GoneUser as u8 => decode(key, &bytes)?,
        table if table == Table::Link as u8 => decode::<Link>(key, &bytes)?.expires_at,
        table if table == Table::Mail as u8 => {
            return fits(mail_filed(&decode(key, &bytes)?) == due, "the end of a mail, and the mail");
        }
        _ => decode_revocation(key, &bytes)?.expires_at,
    };
    fits(keys::due(filed, key) == due, "an end, and when it is")
}

fn fits(fits: bool, what: &str) -> Result<(), StoreError> {
    match fits {
        true => Ok(()),
        false => Err(StoreError::Unreadable(format!(
            "{what} do not fit together; restore the data directory from a backup"
        ))),
    }
}
