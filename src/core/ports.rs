//! Floor 2: what the use cases need from outside, in the domain's words.
//!
//! Each trait is a door; the rooms of `edge` stand behind them and never see each other. Nothing here
//! names a crate that talks to the outside.

mod backups;
mod browser;
mod commits;
mod connections;
mod door;
mod failure;
mod feed;
mod fetch;
mod formats;
mod injector;
mod leases;
mod notes;
mod pages;
mod people;
mod records;
mod secrets;
mod store;
mod tokens;
mod upkeep;

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;

pub use self::backups::{BackupBytes, BackupRefused, BackupRequest, Backups, EndsKeeper, EndsNotKept};
pub use self::browser::{BrowserSessions, CookieFault, CookieSession, LiveCookie};
pub use self::commits::{
    Acknowledgement, CommitError, Committed, ConfirmedBy, InForce, Position, Precondition, Revoked,
    Subscription, SubscriptionError,
};
pub use self::connections::{
    Authorization, CurrentTokens, GrantedTokens, Notice, NoticeAbout, ParameterInfo, Pkce, Place,
    ProviderCall, ProviderFault, ProviderInfo, Providers, Vault, VaultError, Webhook,
};
pub use self::door::{Assertion, Assertions, Door, DoorFault, DoorRequest, DoorResponse};
pub use self::failure::StoreError;
pub use self::feed::{Confirmation, FeedSink, ReplicaMeter, Unmeasured};
pub use self::fetch::{Fetch, FetchError, FetchRequest, Fetched, FormAuth, PostForm};
pub use self::formats::{OlderReplica, RecordFormats, ReplicaFormats, check_formats, written_format};
pub use self::injector::{InjectFault, Injector};
pub use self::leases::LeaseStore;
pub use self::notes::{Note, NoteKey, NoteKind, NotePut, NotesRead, SharedNotes};
pub use self::pages::{PageRenderer, PageRequest};
pub use self::people::{
    Audit, Busy, Checked, Devices, Limited, Limiter, MailFault, Mailer, NotImported, Passwords, Requester,
    TooMany,
};
pub use self::records::{
    ImportError, RECORDS_PAGE, Record, RecordCursor, RecordKind, RecordPage, RecordSource, Records,
    RecordsOf, VersionedRecord, task_version, user_version,
};
pub use self::secrets::{
    KeptSecret, OwnSecret, Replaced, SecretRevision, SecretSealer, SecretStore, SecretStoreError,
};
pub use self::store::{Change, EVENTS_KEPT, GIVEN_UP_LIFE, GONE_EVENTS_LIFE, STRANGERS_EVENTS_KEPT, Store};
pub use self::tokens::{
    AccessGrant, FirstVerified, IssuerClocks, KeyInfo, KeyState, Keys, OwnCredentials, Revocations,
    SignError, Signed, Signer, Standing, Verified, Verifier,
};
pub use self::upkeep::{Compacted, CompactionCounts, StoreStatus, Swept, Upgrade};

use crate::domain::time::UnixTime;
use crate::domain::trusted_time::ClockReading;
use crate::domain::upstream_address::UpstreamAddress;

/// The wall clock.
pub trait Clock: Send + Sync {
    /// Now, in whole seconds.
    fn now(&self) -> UnixTime;

    /// What is known of the present moment where the wall clock may be wrong: what can be undone goes by
    /// [`ClockReading::wall`], what cannot by [`ClockReading::earliest`], and what has to outlast everything that was signed so
    /// far is counted from [`ClockReading::horizon`]. By default this clock is beyond doubt.
    fn reading(&self) -> ClockReading {
        self.now().into()
    }

    /// How long the machine has run, by a clock that cannot be set and that goes on while the machine is suspended.
    /// `None`: this clock does not tell, and the machine's own is asked.
    fn uptime(&self) -> Option<Duration> {
        None
    }
}

/// Randomness.
pub trait Entropy: Send + Sync {
    /// Fills `bytes` from the operating system's generator.
    fn fill(&self, bytes: &mut [u8]);

    /// A fresh UUID v7 of this moment.
    fn uuid(&self) -> uuid::Uuid;
}

/// How one request ended, for the meters and the access log. Holds no query and no credential.
#[derive(Debug, Clone)]
pub struct Ended<'a> {
    /// The route's name; `None` when no route was found or it was ours to answer.
    pub route: Option<&'a str>,
    /// What was sent; 0 when the caller left first.
    pub status: u16,
    pub took: Duration,
    /// `allowed`, `left_to_app`, `native`, or the refusal's code.
    pub decision: &'static str,
    pub request_id: &'a str,
    pub method: &'a str,
    /// The Host as sent.
    pub host: &'a str,
    /// The path as sent, without the query.
    pub path: &'a str,
    /// Bytes of body sent to the client.
    pub bytes: u64,
    /// The verified caller.
    pub subject: Option<&'a str>,
    /// The client's address, trusted proxies left out.
    pub client: IpAddr,
    /// Where the last attempt led, or would have led.
    pub upstream: Option<UpstreamAddress>,
}

/// Where counts go. Implementations never block.
pub trait Meter: Send + Sync {
    /// One request ended.
    fn ended(&self, ended: &Ended<'_>);
    /// A client's connection ended before it brought a request: `limit` (shed), `tls` (no handshake),
    /// `http2` (a breach of the protocol), `accept` (the system refused to hand it over).
    fn connection_refused(&self, _reason: &'static str) {}
    /// One look into the verified-token cache.
    fn token_cache(&self, hit: bool);
    /// A store call by name, with its duration and whether it succeeded.
    fn store_call(&self, call: &'static str, took: Duration, ok: bool);
    /// A try at delivering a mail: `sent`, `retried` or `given_up`.
    fn mail(&self, outcome: &'static str);
    /// A password was hashed or checked: how long it waited, and how long it took.
    fn password(&self, waited: Duration, took: Duration);
    /// A key fetch for an issuer and whether it brought keys.
    fn jwks_fetch(&self, issuer: &str, ok: bool);
    /// A request to an issuer about an opaque token: `active`, `inactive`, `unusable` (active, and not good here),
    /// `failed`, or `shed` (not made: too many at once).
    fn introspection(&self, _issuer: &str, _outcome: &'static str) {}
    /// A call of a provider's plugin ended: `refresh` with `ok`, `transient`, `plugin_failed` …
    fn provider_call(&self, provider: &str, call: &'static str, outcome: &'static str, took: Duration);
    /// A request that a plugin asked for ended: `ok` whatever was answered, `denied`, `timeout` …
    fn provider_request(&self, provider: &str, outcome: &'static str);
    /// A provider's component was loaded again: `ok`, or `failed` and the last good one goes on.
    fn plugin_reload(&self, provider: &str, outcome: &'static str);
}

/// The gateway as its operator sees it.
#[async_trait]
pub trait Control: Send + Sync {
    /// Reads the configuration again and puts its routes, issuers and limits in force.
    ///
    /// # Errors
    /// What is wrong with it, one message each; the last good configuration stays in force.
    async fn reload(&self) -> Result<Vec<String>, Vec<String>>;

    /// The SHA-256 of the configuration file that is in force, in hexadecimal.
    fn configuration(&self) -> String;

    /// What keeps the gateway from being ready; empty when it is.
    fn not_ready_because(&self) -> Vec<String>;

    /// What is missing although the gateway is ready, such as the keys of an issuer that cannot be fetched.
    fn missing(&self) -> Vec<String>;
}
