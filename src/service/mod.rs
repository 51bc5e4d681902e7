//! Floor 3: the use cases, one file each, over the ports.

pub mod accounts;
pub mod admit;
pub mod audited_limits;
pub mod clock;
pub mod connections;
pub mod email_change;
pub mod fit;
pub mod hash_costs;
pub mod injector;
pub mod links;
pub mod login;
pub mod mailboxes;
pub mod mint;
mod new_password;
pub mod noted;
pub mod ongoing;
pub mod outbox;
pub mod profile;
pub mod recover;
pub mod refresh;
pub mod register;
mod retry;
pub mod revoke;
pub mod rotate;
pub mod sessions;
pub mod tasks;
pub mod unclaimed;
pub mod users;
pub mod verify_email;
pub mod verify_registration;

#[cfg(test)]
mod abuse_tests;
#[cfg(test)]
mod accounts_tests;
#[cfg(test)]
pub(crate) mod accounts_world;
#[cfg(test)]
mod answer_tests;
#[cfg(test)]
mod audit_tests;
#[cfg(test)]
mod clock_fakes;
#[cfg(test)]
mod connect_tests;
#[cfg(test)]
mod connection_abuse_tests;
#[cfg(test)]
pub(crate) mod connection_fakes;
#[cfg(test)]
pub(crate) mod connections_world;
#[cfg(test)]
mod doubt_tests;
#[cfg(test)]
mod email_change_tests;
#[cfg(test)]
mod email_freeze_tests;
#[cfg(test)]
mod end_tests;
#[cfg(test)]
pub(crate) mod fakes;
#[cfg(test)]
mod lasting_tests;
#[cfg(test)]
mod letter_tests;
#[cfg(test)]
mod limit_fakes;
#[cfg(test)]
mod notice_tests;
#[cfg(test)]
mod parameter_tests;
#[cfg(test)]
pub(crate) mod password_fakes;
#[cfg(test)]
mod password_tests;
#[cfg(test)]
mod refresh_tests;
#[cfg(test)]
pub(crate) mod token_fakes;
#[cfg(test)]
mod users_tests;
#[cfg(test)]
mod waiting_tests;
