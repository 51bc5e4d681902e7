//! Floor 1: what is true. No async, no I/O, no clock, no framework.
//!
//! Nothing here can fail for a reason outside its arguments, so everything here is tested without a
//! runtime, a socket or a file.

pub mod account;
pub mod account_event;
pub mod answer;
pub mod answer_form;
pub mod app_cookie;
pub mod app_token;
pub mod audit;
pub mod binding;
pub mod block;
pub mod browser;
pub mod carry;
pub mod claim_names;
pub mod claim_path;
pub mod claims;
pub mod connection;
pub mod cors;
pub mod credential;
pub mod destination;
pub mod email;
pub mod email_change;
#[cfg(test)]
pub(crate) mod fixtures;
mod folded;
pub mod groups;
pub mod guesses;
pub mod hash_cost;
pub mod identity;
pub mod identity_fields;
pub mod lease;
pub mod link;
pub mod mail;
pub mod mail_cap;
pub mod name;
pub mod native_hosts;
pub mod navigation;
pub mod opaque;
pub mod order;
pub mod other_token;
pub mod overlap;
pub mod own_claims;
pub mod page;
pub mod password;
pub mod pattern;
pub mod problem;
pub mod provider_identity;
pub mod reach;
pub mod reading;
#[cfg(test)]
mod reading_tests;
pub mod redirect;
pub mod reply;
pub mod request;
pub mod reserved;
pub mod return_to;
pub mod revocation;
pub mod route;
pub mod same_origin;
pub mod segment;
pub mod session;
pub mod session_cookie;
pub mod session_cookies;
pub mod sign_in_name;
pub mod sign_in_url;
pub mod table;
pub mod task;
pub mod tenant;
pub mod time;
mod trie;
pub mod trusted_time;
pub mod upkeep;
pub mod upstream_address;
pub mod upstream_path;
pub mod username;
pub mod verdict;
