//! The ring of signing keys as it is kept: JSON with a digest, read as a whole or not at all.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::compact::{algorithm, name};
use super::digest;
use super::keyring::{KeyRingError, Member};
use super::keys::SigningKey;
use palisade_core::domain::time::UnixTime;
use palisade_core::ports::{
    KeptSecret, KeyState, OwnSecret, Replaced, SecretRevision, SecretStore, SecretStoreError,
};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRing {
    version: u32,
    keys: Vec<StoredKey>,
    /// Of the keys. Version 0.1.0 wrote none.
    #[serde(default)]
    digest: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    kid: String,
    algorithm: String,
    state: String,
    created_at: UnixTime,
    activated_at: Option<UnixTime>,
    retired_at: Option<UnixTime>,
    verifies_until: Option<UnixTime>,
    secret: Zeroizing<String>,
}

/// A ring as it was read.
pub(super) struct KeptRing {
    /// The one that signs.
    pub(super) active: Member,
    pub(super) others: Vec<Member>,
    pub(super) revision: SecretRevision,
    /// Whether a digest stands for them.
    pub(super) has_digest: bool,
}

/// What is kept; `None`: nothing.
///
/// # Errors
/// [`KeyRingError::Store`] or [`KeyRingError::Unreadable`].
pub(super) fn read(secrets: &dyn SecretStore) -> Result<Option<KeptRing>, KeyRingError> {
    let place = secrets.place(OwnSecret::SigningKeys);
    let unreadable = |why: String| KeyRingError::Unreadable { place: place.clone(), why };
    let Some(KeptSecret { content: bytes, revision }) = secrets.find(OwnSecret::SigningKeys)? else {
        return Ok(None);
    };
    // The library's words could quote the file, so only the place is told.
    let stored: StoredRing = serde_json::from_slice(&bytes)
        .map_err(|e| unreadable(format!("not a key ring (line {}, column {})", e.line(), e.column())))?;
    if stored.version != 1 {
        return Err(unreadable(format!("version {} is not known to this program", stored.version)));
    }
    let digest = digest::of(&stored.keys).map_err(|e| unreadable(e.to_string()))?;
    if stored.digest.as_ref().is_some_and(|stored| *stored != digest) {
        return Err(unreadable("it is damaged: its content does not fit its digest".into()));
    }
    let has_digest = stored.digest.is_some();
    let members = stored.keys.into_iter().map(|stored| {
        let algorithm = algorithm(&stored.algorithm).ok_or_else(|| unreadable("unknown algorithm".into()))?;
        let state = match stored.state.as_str() {
            "next" => KeyState::Next,
            "active" => KeyState::Active,
            "retired" => KeyState::Retired,
            _ => return Err(unreadable("unknown key state".into())),
        };
        let key = SigningKey::read(algorithm, &stored.secret).map_err(unreadable)?;
        if key.kid != stored.kid {
            return Err(unreadable("a key does not match its kid".into()));
        }
        Ok(Member {
            key,
            state,
            created_at: stored.created_at,
            activated_at: stored.activated_at,
            retired_at: stored.retired_at,
            verifies_until: stored.verifies_until,
        })
    });
    let members: Vec<Member> = members.collect::<Result<_, _>>()?;
    let (mut actives, others): (Vec<Member>, Vec<Member>) =
        members.into_iter().partition(|member| member.state == KeyState::Active);
    match (actives.pop(), actives.is_empty()) {
        (Some(active), true) => Ok(Some(KeptRing { active, others, revision, has_digest })),
        _ => Err(unreadable("it must hold exactly one active key".into())),
    }
}

/// Replaces the revision `over` as a whole; durable when it is done.
///
/// # Errors
/// As [`SecretStore::replace`].
pub(super) fn write<'m>(
    secrets: &dyn SecretStore,
    members: impl Iterator<Item = &'m Member>,
    over: SecretRevision,
) -> Result<Replaced, SecretStoreError> {
    let content = encode(members, &secrets.place(OwnSecret::SigningKeys))?;
    secrets.replace(OwnSecret::SigningKeys, &content, over)
}

/// The ring as it is kept, at `place`.
///
/// # Errors
/// It cannot be written as JSON.
pub(super) fn encode<'m>(
    members: impl Iterator<Item = &'m Member>,
    place: &str,
) -> Result<Zeroizing<Vec<u8>>, SecretStoreError> {
    let keys = members.map(|member| StoredKey {
        kid: member.key.kid.clone(),
        algorithm: name(member.key.algorithm).to_owned(),
        state: match member.state {
            KeyState::Next => "next",
            KeyState::Active => "active",
            KeyState::Retired => "retired",
        }
        .to_owned(),
        created_at: member.created_at,
        activated_at: member.activated_at,
        retired_at: member.retired_at,
        verifies_until: member.verifies_until,
        secret: Zeroizing::new(member.key.secret().to_owned()),
    });
    let keys: Vec<StoredKey> = keys.collect();
    let failed =
        |why: &dyn std::fmt::Display| SecretStoreError { place: place.to_owned(), why: why.to_string() };
    let digest = Some(digest::of(&keys).map_err(|error| failed(&error))?);
    let stored = StoredRing { version: 1, keys, digest };
    serde_json::to_vec_pretty(&stored).map(Zeroizing::new).map_err(|error| failed(&error))
}
