//! What `builtin:oauth2` can be told: docs/oauth2.md as types.

use serde::Deserialize;

use crate::{Failure, Fields, url};

/// How a provider's dialect of OAuth 2.0 differs from the standard. Every field is explained in
/// docs/oauth2.md under its own name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "docs/oauth2.md documents them, in tables by what they are about")]
pub struct Settings {
    pub authorize_url: Option<String>,
    pub token_url: String,
    pub refresh_url: Option<String>,
    pub revoke_url: Option<String>,

    pub client_auth: ClientAuthMethod,
    pub client_id_param: String,
    pub client_secret_param: String,
    pub send_client_id: bool,
    pub assertion: AssertionSettings,

    pub pkce: PkceMethod,
    pub response_type: String,
    pub scope_param: String,
    pub scope_separator: String,
    pub state_param: String,
    pub redirect_uri_param: String,
    pub authorize_params: Fields,

    pub callback_code: String,
    pub callback_keep: Vec<String>,
    pub callback_required: Vec<String>,

    pub grant_type: String,
    pub refresh_grant_type: String,
    pub refresh: Option<RefreshBy>,
    pub method: TokenMethod,
    pub body: BodyForm,
    pub code_param: String,
    pub refresh_token_param: String,
    pub send_scopes_on_refresh: bool,
    pub token_params: Fields,
    pub refresh_params: Fields,
    pub revoke_params: Fields,
    pub headers: Fields,

    pub fields: AnswerFields,
    pub keep: Fields,
    pub default_expires_in: Option<u64>,
    pub default_refresh_expires_in: Option<u64>,
    pub granted_scope_separator: Option<String>,
    pub ok: Option<Success>,
    pub invalid_grant: Vec<String>,
    pub transient: Vec<String>,
    pub misconfigured: Vec<String>,

    pub revoke_method: RevokeMethod,
    pub revoke_token: Option<RevokedToken>,
    pub revoke_token_param: String,
    pub revoke_auth: Option<RevokeAuth>,
    pub revoke_body: Option<BodyForm>,

    pub identity: IdentitySource,
    pub issuer: Option<String>,
    pub userinfo_url: Option<String>,
    pub userinfo_headers: Fields,
    pub identity_fields: IdentityFields,

    pub parameters: Vec<ParameterSettings>,
    pub display_name: Option<String>,
    pub docs: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            authorize_url: None,
            token_url: String::new(),
            refresh_url: None,
            revoke_url: None,
            client_auth: ClientAuthMethod::default(),
            client_id_param: "client_id".into(),
            client_secret_param: "client_secret".into(),
            send_client_id: false,
            assertion: AssertionSettings::default(),
            pkce: PkceMethod::default(),
            response_type: "code".into(),
            scope_param: "scope".into(),
            scope_separator: " ".into(),
            state_param: "state".into(),
            redirect_uri_param: "redirect_uri".into(),
            authorize_params: Fields::default(),
            callback_code: "code".into(),
            callback_keep: Vec::new(),
            callback_required: Vec::new(),
            grant_type: "authorization_code".into(),
            refresh_grant_type: "refresh_token".into(),
            refresh: None,
            method: TokenMethod::default(),
            body: BodyForm::default(),
            code_param: "code".into(),
            refresh_token_param: "refresh_token".into(),
            send_scopes_on_refresh: false,
            token_params: Fields::default(),
            refresh_params: Fields::default(),
            revoke_params: Fields::default(),
            headers: Fields::default(),
            fields: AnswerFields::default(),
            keep: Fields::default(),
            default_expires_in: None,
            default_refresh_expires_in: None,
            granted_scope_separator: None,
            ok: None,
            invalid_grant: Vec::new(),
            transient: Vec::new(),
            misconfigured: Vec::new(),
            revoke_method: RevokeMethod::default(),
            revoke_token: None,
            revoke_token_param: "token".into(),
            revoke_auth: None,
            revoke_body: None,
            identity: IdentitySource::default(),
            issuer: None,
            userinfo_url: None,
            userinfo_headers: Fields::default(),
            identity_fields: IdentityFields::default(),
            parameters: Vec::new(),
            display_name: None,
            docs: None,
        }
    }
}

/// `client_auth`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthMethod {
    /// RFC 6749 §2.3.1, both parts form-encoded.
    #[default]
    Basic,
    /// The same without the encoding.
    BasicRaw,
    /// Parameters in the body.
    Post,
    /// Parameters in the query.
    Query,
    /// A public client.
    None,
    /// RFC 7523.
    PrivateKeyJwt,
}

/// `revoke_auth`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "as ClientAuthMethod")]
pub enum RevokeAuth {
    Basic,
    BasicRaw,
    Post,
    Query,
    None,
    PrivateKeyJwt,
    /// The access token in `Authorization`.
    Bearer,
}

/// `assertion`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "they are those of http::Assertion")]
pub struct AssertionSettings {
    pub algorithm: Option<String>,
    pub key_id: Option<String>,
    pub issuer: Option<String>,
    pub subject: Option<String>,
    pub audience: Option<String>,
    pub lifetime: u32,
    pub claims: serde_json::Map<String, serde_json::Value>,
    pub parameter: Option<String>,
}

impl Default for AssertionSettings {
    fn default() -> Self {
        Self {
            algorithm: None,
            key_id: None,
            issuer: None,
            subject: None,
            audience: None,
            lifetime: 300,
            claims: serde_json::Map::new(),
            parameter: None,
        }
    }
}

/// `pkce`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum PkceMethod {
    /// RFC 7636 §4.2.
    #[default]
    S256,
    /// The verifier is its own challenge.
    #[serde(rename = "plain")]
    Plain,
    /// None.
    #[serde(rename = "off")]
    Off,
}

/// `refresh`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefreshBy {
    /// The refresh token is presented.
    RefreshToken,
    /// The access token is, and comes back with a longer life.
    AccessToken,
    /// Tokens are asked for as at first.
    Again,
    /// There is no refresh.
    None,
}

/// `method`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "they are their names")]
pub enum TokenMethod {
    #[default]
    Post,
    Get,
}

/// `revoke_method`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "they are their names")]
pub enum RevokeMethod {
    #[default]
    Post,
    Get,
    Delete,
}

/// `body`, `revoke_body`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "they are their names")]
pub enum BodyForm {
    #[default]
    Form,
    Json,
}

/// `revoke_token`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "they are their names")]
pub enum RevokedToken {
    RefreshToken,
    AccessToken,
    Both,
}

/// `identity`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentitySource {
    /// The claims of the ID token.
    IdToken,
    /// What `userinfo_url` answers.
    Userinfo,
    /// What was kept.
    Answer,
    /// Nowhere.
    #[default]
    None,
}

/// `fields`: paths that are not the usual ones.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "they are their names")]
pub struct AnswerFields {
    pub access_token: Option<String>,
    pub refresh_token: Option<String>,
    pub token_type: Option<String>,
    pub expires_in: Option<String>,
    pub expires_at: Option<String>,
    pub refresh_expires_in: Option<String>,
    pub scope: Option<String>,
    pub id_token: Option<String>,
    pub error: Option<String>,
    pub error_description: Option<String>,
}

/// `identity_fields`: paths that are not the usual ones.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "they are their names")]
pub struct IdentityFields {
    pub subject: Option<String>,
    pub email: Option<String>,
    pub email_verified: Option<String>,
    pub name: Option<String>,
}

/// `ok`: what an answer that is a success has.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Success {
    /// Where to look.
    pub path: String,
    /// What must be there, as text.
    pub value: String,
}

/// `parameters`
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "WrittenParameter")]
#[expect(missing_docs, reason = "they are those of Parameter")]
pub struct ParameterSettings {
    pub name: String,
    pub summary: String,
    pub pattern: String,
    pub example: Option<String>,
    pub required: bool,
}

/// As an operator writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenParameter {
    name: String,
    #[serde(default)]
    summary: String,
    pattern: String,
    example: Option<String>,
    #[serde(default = "yes")]
    required: bool,
    #[serde(default, rename = "secret")]
    _secret: bool, // The gateway reads it: a plugin has nothing to do about it.
}

impl From<WrittenParameter> for ParameterSettings {
    fn from(written: WrittenParameter) -> Self {
        let WrittenParameter { name, summary, pattern, example, required, .. } = written;
        Self { name, summary, pattern, example, required }
    }
}

fn yes() -> bool {
    true
}

/// Names that a template may use without a declaration.
pub(super) const PREDEFINED: [&str; 2] = ["client_id", "redirect_uri"];

impl Settings {
    /// How a refresh is done.
    #[must_use]
    pub fn refresh_by(&self) -> RefreshBy {
        match self.refresh {
            Some(by) => by,
            None if self.is_unattended() => RefreshBy::Again,
            None => RefreshBy::RefreshToken,
        }
    }

    /// Whether there is no consent to give.
    #[must_use]
    pub fn is_unattended(&self) -> bool {
        self.grant_type == "client_credentials"
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// [`Failure::Misconfigured`] names the key.
    pub fn check(&self) -> Result<(), Failure> {
        let missing =
            |key: &str, why: &str| Failure::misconfigured(format!("settings: `{key}` is missing{why}"));
        if self.token_url.is_empty() {
            return Err(missing("token_url", ""));
        }
        if self.authorize_url.is_none() && !self.is_unattended() {
            return Err(missing("authorize_url", "; only grant_type = \"client_credentials\" needs none"));
        }
        if self.identity == IdentitySource::Userinfo && self.userinfo_url.is_none() {
            return Err(missing("userinfo_url", ", which identity = \"userinfo\" needs"));
        }
        if self.identity == IdentitySource::Answer && !self.keeps(&self.subject_path()) {
            return Err(Failure::misconfigured(format!(
                "settings: identity = \"answer\" needs `{}` among what is kept (`keep`, `callback_keep`)",
                self.subject_path()
            )));
        }
        if self.state_param.is_empty() {
            return Err(Failure::misconfigured(
                "settings: `state_param` is empty; without state an attacker could complete a connection (CSRF)",
            ));
        }
        if self.client_auth == ClientAuthMethod::PrivateKeyJwt && self.method == TokenMethod::Get {
            return Err(Failure::misconfigured(
                "settings: client_auth = \"private_key_jwt\" needs method = \"POST\"",
            ));
        }
        if self.refresh == Some(RefreshBy::Again) && !self.is_unattended() {
            return Err(Failure::misconfigured(
                "settings: refresh = \"again\" needs grant_type = \"client_credentials\"",
            ));
        }
        if !(1..=3600).contains(&self.assertion.lifetime) {
            return Err(Failure::misconfigured(
                "settings: `assertion.lifetime` is in seconds, from 1 to 3600",
            ));
        }
        self.check_templates()
    }

    fn subject_path(&self) -> String {
        self.identity_fields.subject.clone().unwrap_or_else(|| "sub".into())
    }

    fn keeps(&self, name: &str) -> bool {
        self.keep.get(name).is_some() || self.callback_keep.iter().any(|kept| kept == name)
    }

    fn check_templates(&self) -> Result<(), Failure> {
        let mut known = PREDEFINED.to_vec();
        for parameter in &self.parameters {
            if known.contains(&parameter.name.as_str()) {
                return Err(Failure::misconfigured(format!(
                    "settings: `parameters`: the name `{}` is taken",
                    parameter.name
                )));
            }
            known.push(&parameter.name);
        }
        known.extend(self.keep.iter().map(|(name, _)| name));
        known.extend(self.callback_keep.iter().map(String::as_str));
        let check_names = |key: &str, template: &str| {
            for name in url::names(template)? {
                if !known.contains(&name) {
                    return Err(Failure::misconfigured(format!(
                        "settings: `{key}` uses `${{{name}}}`, which is no parameter and is not kept"
                    )));
                }
            }
            Ok(())
        };
        for (key, template) in self.urls() {
            check_names(key, template)?;
            // Any label shows whether the rest is a URL.
            let sample = if template.starts_with("${") { "https://x" } else { "x" };
            let mut first = true;
            let expanded = url::names(template)?.into_iter().fold(template.to_owned(), |text, name| {
                let value = if std::mem::take(&mut first) { sample } else { "x" };
                text.replacen(&format!("${{{name}}}"), value, 1)
            });
            url::check(&expanded)
                .map_err(|why| Failure::misconfigured(format!("settings: `{key}`, `{template}`, {why}")))?;
            if expanded.contains('#') && key != "authorize_url" {
                return Err(Failure::misconfigured(format!(
                    "settings: `{key}`, `{template}`, has a fragment"
                )));
            }
        }
        for (key, params) in [
            ("authorize_params", &self.authorize_params),
            ("token_params", &self.token_params),
            ("refresh_params", &self.refresh_params),
            ("revoke_params", &self.revoke_params),
        ] {
            for (name, template) in params.iter() {
                check_names(&format!("{key}.{name}"), template)?;
            }
        }
        Ok(())
    }

    /// The URLs that are set, by their keys.
    pub(super) fn urls(&self) -> Vec<(&'static str, &str)> {
        [
            ("authorize_url", self.authorize_url.as_deref()),
            ("token_url", Some(self.token_url.as_str())),
            ("refresh_url", self.refresh_url.as_deref()),
            ("revoke_url", self.revoke_url.as_deref()),
            ("userinfo_url", self.userinfo_url.as_deref()),
        ]
        .into_iter()
        .filter_map(|(key, url)| Some((key, url?)))
        .collect()
    }
}

/// Keys, what they are for, and whether nothing works without them.
pub(super) const KNOWN: &[(&str, &str, bool)] = &[
    (
        "authorize_url",
        "Where the user gives consent; required unless grant_type is client_credentials.",
        false,
    ),
    ("token_url", "Where the code is exchanged.", true),
    ("refresh_url", "Where tokens are refreshed; token_url unless set.", false),
    ("revoke_url", "Where a grant is ended.", false),
    (
        "client_auth",
        "How the client is authenticated: basic, basic_raw, post, query, none, private_key_jwt.",
        false,
    ),
    ("client_id_param", "The parameter with the client identifier.", false),
    ("client_secret_param", "The parameter with the client secret.", false),
    ("send_client_id", "Send the identifier as a parameter even where it travels in Authorization.", false),
    ("assertion", "What the JWT of private_key_jwt says.", false),
    ("pkce", "S256, plain or off.", false),
    ("response_type", "`code` unless set.", false),
    ("scope_param", "The parameter with the scopes.", false),
    ("scope_separator", "What stands between scopes.", false),
    ("state_param", "The parameter with the state.", false),
    ("redirect_uri_param", "The parameter with the redirect URI.", false),
    ("authorize_params", "Further parameters of the authorization URL.", false),
    ("callback_code", "The callback parameter with the code.", false),
    ("callback_keep", "Callback parameters to keep.", false),
    ("callback_required", "Callback parameters without which connecting fails.", false),
    ("grant_type", "authorization_code, client_credentials, or the provider's own.", false),
    ("refresh_grant_type", "`refresh_token` unless set.", false),
    ("refresh", "What a refresh presents: refresh_token, access_token, again, none.", false),
    ("method", "Of token requests: POST or GET.", false),
    ("body", "Of token requests: form or json.", false),
    ("code_param", "The token parameter with the code.", false),
    ("refresh_token_param", "The token parameter with the refresh token.", false),
    ("send_scopes_on_refresh", "Name the scopes on a refresh.", false),
    ("token_params", "Further parameters of the exchange.", false),
    ("refresh_params", "Further parameters of the refresh.", false),
    ("revoke_params", "Further parameters of the revocation.", false),
    ("headers", "Further header fields of every request.", false),
    ("fields", "Where things are in the answer.", false),
    ("keep", "What to keep of an answer.", false),
    ("default_expires_in", "Seconds that an access token lives when the answer does not say.", false),
    ("default_refresh_expires_in", "Seconds that a refresh token lives.", false),
    ("granted_scope_separator", "What stands between granted scopes.", false),
    ("ok", "What an answer that is a success has.", false),
    ("invalid_grant", "Error codes that mean: connect again.", false),
    ("transient", "Error codes that mean: later.", false),
    ("misconfigured", "Error codes that mean: the operator must change something.", false),
    ("revoke_method", "POST, GET or DELETE.", false),
    ("revoke_token", "Which token is presented: refresh_token, access_token, both.", false),
    ("revoke_token_param", "The parameter with the token.", false),
    ("revoke_auth", "As client_auth, or bearer.", false),
    ("revoke_body", "form or json.", false),
    ("identity", "Where the identity is: id_token, userinfo, answer, none.", false),
    ("issuer", "The `iss` that ID tokens and callbacks must have.", false),
    ("userinfo_url", "Asked with the access token.", false),
    ("userinfo_headers", "Further header fields of that request.", false),
    ("identity_fields", "Where things are in the identity.", false),
    ("parameters", "What users give when connecting.", false),
    ("display_name", "The provider's name for people.", false),
    ("docs", "Where the provider documents it.", false),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::settings;

    /// The documentation, the type and the description must name the same keys.
    #[test]
    fn every_key_is_documented_and_described() {
        let refused = settings::<Settings>(r#"{"?":1}"#).unwrap_err().message().to_owned();
        let (_, list) = refused.split_once("expected one of ").unwrap();
        let of_type: BTreeSet<&str> = list.split(", ").map(|key| key.trim_matches('`')).collect();
        let described: BTreeSet<&str> = KNOWN.iter().map(|(key, ..)| *key).collect();
        assert_eq!(of_type, described);
    }

    #[test]
    fn what_the_types_cannot_say_is_checked() {
        let check = |json: &str| {
            settings::<Settings>(json)
                .and_then(|settings| settings.check())
                .map_err(|failure| failure.message().to_owned())
        };
        let with = |more: &str| {
            check(&format!(
                r#"{{"authorize_url":"https://a.example/a","token_url":"https://a.example/t"{more}}}"#
            ))
        };
        assert_eq!(with(""), Ok(()));
        assert!(check("{}").unwrap_err().contains("`token_url` is missing"));
        assert!(
            check(r#"{"token_url":"https://a.example"}"#).unwrap_err().contains("`authorize_url` is missing")
        );
        assert_eq!(check(r#"{"token_url":"https://a.example","grant_type":"client_credentials"}"#), Ok(()));
        assert!(with(r#","identity":"userinfo""#).unwrap_err().contains("`userinfo_url` is missing"));
        assert!(with(r#","identity":"answer""#).unwrap_err().contains("`sub`"));
        assert!(with(r#","refresh_url":"http://a.example""#).unwrap_err().contains("is not https"));
        assert!(with(r#","refresh_url":"https://${shop}.example""#).unwrap_err().contains("`${shop}`"));
        assert!(with(r#","refresh_url":"https://a.example/#x""#).unwrap_err().contains("fragment"));
        assert!(with(r#","parameters":[{"name":"client_id","pattern":"x"}]"#).unwrap_err().contains("taken"));
        assert_eq!(with(r#","refresh_url":"${host}/t","callback_keep":["host"]"#), Ok(()));
        assert_eq!(with(r#","parameters":[{"name":"key","pattern":".*","secret":true}]"#), Ok(()));
        assert!(with(r#","parameters":[{"name":"key","pattern":".*","sekret":true}]"#).is_err());
        assert!(with(r#","state_param":"""#).unwrap_err().contains("state_param"));
        assert!(with(r#","client_auth":"private_key_jwt","method":"GET""#).is_err());
        assert!(with(r#","pkce":"s256""#).unwrap_err().contains("`pkce`: unknown variant `s256`"));
    }
}
