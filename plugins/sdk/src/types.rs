//! What Palisade and a plugin hand each other: the records of the WIT's interfaces `types` and `plugin`.
//!
//! What holds a token does not show it: `{:?}` prints `[hidden]` in its place.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// Names with their values, in order. Names may repeat where the protocol allows it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// The first value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Adds a field at the end.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    /// Sets `name` to `value`, and removes every other field of that name.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.retain(|(key, _)| key != name);
        self.push(name, value);
    }

    /// The names and values in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The list itself.
    #[must_use]
    pub fn into_inner(self) -> Vec<(String, String)> {
        self.0
    }
}

impl From<Vec<(String, String)>> for Fields {
    fn from(fields: Vec<(String, String)>) -> Self {
        Self(fields)
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Fields {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        Self(fields.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// As a table of texts.
impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::default();
                while let Some((name, value)) = table.next_entry::<String, String>()? {
                    fields.push(name, value);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Table)
    }
}

/// Shows the names only: a callback's fields hold a code.
impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// One user's connection to the provider, as far as a plugin may know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// The client identifier that the provider issued (RFC 6749 §2.2).
    pub client_id: String,
    /// Where the provider sends the browser back to (RFC 6749 §3.1.2).
    pub redirect_uri: String,
    /// What the user gave when connecting, for the parameters that [`Description::parameters`] names.
    pub parameters: Fields,
    /// What earlier results asked to be kept ([`Tokens::keep`]).
    pub kept: Fields,
    /// The scopes that the connection asks for.
    pub scopes: Vec<String>,
}

/// Proof Key for Code Exchange (RFC 7636).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pkce {
    /// The `code_verifier`; also the challenge of the method `plain`.
    pub verifier: String,
    /// The `code_challenge` of the method `S256`.
    pub challenge: String,
}

impl fmt::Debug for Pkce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pkce").field("challenge", &self.challenge).finish_non_exhaustive()
    }
}

/// The tokens that a connection has now.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CurrentTokens {
    /// The access token.
    pub access_token: String,
    /// The refresh token, if the provider gave one.
    pub refresh_token: Option<String>,
    /// When the access token ends, in seconds since 1970; absent when it is unknown.
    pub expires_at: Option<u64>,
    /// The ID token that came last, if any did.
    pub id_token: Option<String>,
}

impl fmt::Debug for CurrentTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CurrentTokens")
            .field("access_token", &Hidden)
            .field("refresh_token", &self.refresh_token.as_ref().map(|_| Hidden))
            .field("expires_at", &self.expires_at)
            .field("id_token", &self.id_token.as_ref().map(|_| Hidden))
            .finish()
    }
}

/// What a token endpoint answered.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    /// The access token. Never empty.
    pub access_token: String,
    /// `Bearer` unless it says otherwise.
    pub token_type: Option<String>,
    /// In how many seconds the access token ends; absent when the provider does not say.
    pub expires_in: Option<u64>,
    /// The next refresh token. Absent: the present one goes on being good.
    pub refresh_token: Option<String>,
    /// In how many seconds the refresh token ends, where that is known.
    pub refresh_expires_in: Option<u64>,
    /// The scopes that were granted. Absent: those that were asked for.
    pub scopes: Option<Vec<String>>,
    /// The ID token, if there was one.
    pub id_token: Option<String>,
    /// What Palisade shall keep with the connection and give back in [`Connection::kept`]. A name that is
    /// there already is replaced; one with an empty value is forgotten. At most 64 fields of 4096 bytes.
    pub keep: Fields,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("access_token", &Hidden)
            .field("token_type", &self.token_type)
            .field("expires_in", &self.expires_in)
            .field("refresh_token", &self.refresh_token.as_ref().map(|_| Hidden))
            .field("refresh_expires_in", &self.refresh_expires_in)
            .field("scopes", &self.scopes)
            .field("id_token", &self.id_token.as_ref().map(|_| Hidden))
            .field("keep", &self.keep)
            .finish()
    }
}

/// Whose account is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The provider's own identifier of the account: never reassigned, as e-mail addresses can be.
    pub subject: String,
    /// An e-mail address.
    pub email: Option<String>,
    /// Whether the provider says that the address is this person's. When in doubt, false.
    pub email_verified: bool,
    /// What the person or the account is called.
    pub name: Option<String>,
}

/// What the user is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// Open this URL and give consent.
    Visit(String),
    /// Nothing: there is no consent to give (client credentials, RFC 6749 §4.4).
    Unattended,
}

/// A setting that `[providers.settings]` may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// Its key.
    pub name: String,
    /// What it is for, in one sentence.
    pub summary: String,
    /// Whether nothing works without it.
    pub required: bool,
}

/// Something that each user gives when connecting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameter {
    /// The name, as the API takes it.
    pub name: String,
    /// What it is, in words for the user.
    pub summary: String,
    /// A regular expression that the whole value must match: linear-time syntax, no look-around.
    pub pattern: String,
    /// An example.
    pub example: Option<String>,
    /// Whether connecting is possible without it.
    pub required: bool,
}

/// What a plugin can do with the settings it was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// The provider's name as people know it.
    pub display_name: String,
    /// The plugin's own version.
    pub version: String,
    /// Where the provider documents what the plugin does.
    pub docs: Option<String>,
    /// The settings that it knows.
    pub settings: Vec<Setting>,
    /// What users must give when connecting.
    pub parameters: Vec<Parameter>,
    /// The scopes that are asked for when the operator names none.
    pub scopes: Vec<String>,
    /// Hosts that it calls. A `*` stands for labels that a parameter or an answer decides.
    pub hosts: Vec<String>,
    /// Whether access tokens can be refreshed.
    pub can_refresh: bool,
    /// Whether `revoke` does something at the provider.
    pub can_revoke: bool,
    /// Whether `identity` answers.
    pub can_identify: bool,
}

/// Stands where a token is.
struct Hidden;

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debugging_shows_no_token() {
        let tokens = Tokens {
            access_token: "secret-1".into(),
            refresh_token: Some("secret-2".into()),
            id_token: Some("secret-3".into()),
            keep: [("name", "secret-4")].into_iter().collect(),
            ..Tokens::default()
        };
        let current = CurrentTokens { access_token: "secret-5".into(), ..CurrentTokens::default() };
        let shown = format!("{tokens:?} {current:?}");
        assert!(!shown.contains("secret-"), "{shown}");
        assert!(shown.contains("[hidden]"), "{shown}");
    }
}
