//! `/admin/v1/users-import` and `/admin/v1/users-export`: accounts in bulk. What the one answers the other takes. Password
//! hashes are in an export only when the operator asks for them.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::super::body::{JsonBody, answer, parse};
use super::super::failure::Failure;
use super::input::{Moment, NumberOrText};
use super::operator::RequestId;
use super::query::{bad_query, limited};
use super::schema::Delivery;
use super::state::AdminState;
use palisade_core::domain::account::{Claim, PasswordHash, User, UserId};
use palisade_core::domain::provider_identity::ProviderIdentity;
use palisade_core::domain::time::UnixTime;
use palisade_core::service::user_import::{ImportLetters, ImportedAccount, ImportedUser};
use palisade_core::service::users::{NewPassword, NewUser};

pub(super) fn endpoints() -> OpenApiRouter<AdminState> {
    OpenApiRouter::new().routes(routes!(import)).routes(routes!(export))
}

/// Accounts to be made, as many as a body holds.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"accounts": [{"email": "ann@example.com", "email_verified": true, "password_hash": "$2b$12$…"}]}))]
struct Import {
    /// One by one, so that a fault of one refuses no other.
    #[schema(value_type = Vec<Row>)]
    accounts: Vec<Value>,
    /// Only says what would become of each.
    #[serde(default)]
    dry_run: bool,
    /// Which accounts are mailed a link: `missing`, those without a password and without an identity at a provider;
    /// `all`, also those whose address is not verified; `none`. Of an account without an address, and where no mail is
    /// sent, the link is in the answer.
    #[serde(default)]
    letters: Which,
}

#[derive(Deserialize, ToSchema, Default, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Which {
    #[default]
    Missing,
    All,
    None,
}

/// An account as it was elsewhere.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Row {
    /// The `sub` of its tokens: a UUID that no account has. Without it, a new one.
    #[serde(alias = "id")]
    #[schema(format = "uuid")]
    subject: Option<String>,
    /// Without it the account has a `username`, and nothing is mailed to it.
    #[schema(format = Email)]
    email: Option<String>,
    /// False without it.
    #[serde(alias = "verified")]
    email_verified: Option<bool>,
    username: Option<String>,
    name: Option<String>,
    #[schema(value_type = Option<String>, format = Password)]
    password: Option<SecretString>,
    /// A hash of bcrypt, Argon2, PBKDF2 or scrypt as its maker writes it: text, or the JSON object of a maker that writes
    /// one.
    #[serde(alias = "hash")]
    #[schema(value_type = Option<Value>)]
    password_hash: Option<Value>,
    generate_password: Option<bool>,
    /// Further claims of its access tokens.
    #[schema(value_type = Option<BTreeMap<String, Value>>)]
    claims: Option<Map<String, Value>>,
    scopes: Option<Vec<String>>,
    groups: Option<Vec<String>>,
    /// True without it. The same as the `state` `active` or `disabled`.
    active: Option<bool>,
    state: Option<AccountState>,
    /// Seconds since 1970, or a moment as in RFC 3339. Without it, now.
    #[serde(alias = "created")]
    #[schema(value_type = Option<NumberOrText>)]
    created_at: Option<Moment>,
    /// What it is known by at providers. No two accounts have the same pair of `issuer` and `subject`.
    identities: Option<Vec<Identity>>,
    /// False: the address was registered and never verified, so it may not be the registrant's. True without it.
    claimed: Option<bool>,
}

#[derive(Deserialize, ToSchema, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[schema(as = ImportedState)]
enum AccountState {
    Active,
    Disabled,
}

/// An identity at a provider.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ProviderIdentity)]
struct Identity {
    issuer: String,
    subject: String,
    /// When it became the account's, in seconds since 1970, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
}

/// What became of the accounts.
#[derive(Serialize, ToSchema)]
struct Imported {
    /// How many were made; in a dry run, how many could be.
    made: usize,
    refused: usize,
    /// How many get a letter, or a link to be handed over.
    letters: usize,
    /// Each, in the order in which they were sent.
    accounts: Vec<RowOutcome>,
}

/// What became of one account.
#[derive(Serialize, ToSchema, Default)]
struct RowOutcome {
    /// Its id, when it was made or could be.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    has_password: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email_verified: Option<bool>,
    /// The generated password, shown here only.
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
    /// Of an account that gets a link: whether it is on its way by mail.
    #[serde(skip_serializing_if = "Option::is_none")]
    mailed: Option<bool>,
    /// Of an account without an address, and where no mail is sent: the link, for the operator to hand to the person.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    /// When that link is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    link_expires_at: Option<u64>,
    /// Why it was refused: a code as of `POST /admin/v1/users`, and what is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl RowOutcome {
    fn refused(failure: &Failure) -> RowOutcome {
        let document = failure.document();
        let mut detail = document["detail"].as_str().unwrap_or_default().to_owned();
        // Which rules a password breaks.
        if let Some(violations) = document.get("violations") {
            detail = format!("{detail}: {violations}");
        }
        RowOutcome { code: Some(failure.code()), detail: Some(detail), ..RowOutcome::default() }
    }

    fn made(made: &ImportedAccount, dry_run: bool, state: &AdminState) -> RowOutcome {
        let ImportedAccount { user, password, gets_link, link } = made;
        let delivery = (*gets_link && !dry_run).then(|| Delivery::of(link.as_ref(), &state.pages));
        let mailed = delivery.as_ref().map(|delivery| delivery.mailed);
        let Delivery { link, link_expires_at, .. } = delivery.unwrap_or_default();
        RowOutcome {
            id: Some(user.id.0),
            email: user.email.as_ref().map(ToString::to_string),
            username: user.username.as_ref().map(ToString::to_string),
            has_password: Some(user.password.is_some()),
            email_verified: Some(user.email_verified),
            password: password.as_ref().map(|password| password.expose_secret().to_owned()),
            mailed,
            link,
            link_expires_at,
            ..RowOutcome::default()
        }
    }
}

/// Make accounts, or, with `dry_run`, say which of them could be made.
///
/// Each account stands for itself: those that are refused are named, and the others are made. A body holds at most 64 KiB
/// and 1000 accounts.
#[utoipa::path(post, path = "/admin/v1/users-import", tag = "Users", operation_id = "import_users",
    request_body = Import,
    security(("operator" = [])),
    responses((status = 200, body = Imported, description = "What became of each.")),
    extensions(("x-codes" = json!(["invalid_request"]))))]
async fn import(
    State(state): State<AdminState>,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<Import>,
) -> Result<Response, Failure> {
    let letters = match body.letters {
        Which::Missing => ImportLetters::Missing,
        Which::All => ImportLetters::All,
        Which::None => ImportLetters::None,
    };
    // The rows that can be read go on; each has its place.
    let (mut rows, mut outcomes) = (Vec::new(), Vec::with_capacity(body.accounts.len()));
    for account in body.accounts {
        match read(&account) {
            Ok(row) => {
                rows.push(row);
                outcomes.push(None);
            }
            Err(failure) => outcomes.push(Some(RowOutcome::refused(&failure))),
        }
    }
    let made = state.accounts.import_users(&request_id, rows, letters, body.dry_run).await?;
    let letters = made.iter().flatten().filter(|account| account.gets_link).count();
    let mut made = made.into_iter().map(|outcome| match outcome {
        Ok(account) => RowOutcome::made(&account, body.dry_run, &state),
        Err(error) => RowOutcome::refused(&Failure::from(error)),
    });
    let accounts: Vec<RowOutcome> =
        outcomes.into_iter().map(|refused| refused.or_else(|| made.next()).unwrap_or_default()).collect();
    let refused = accounts.iter().filter(|account| account.code.is_some()).count();
    let imported = Imported { made: accounts.len() - refused, refused, letters, accounts };
    Ok(answer(StatusCode::OK, &imported))
}

fn read(account: &Value) -> Result<ImportedUser, Failure> {
    let row: Row = parse(zeroize::Zeroizing::new(account.to_string()).as_bytes())?;
    let wrong = |what: &str| Failure::new(422, "invalid_request", what);
    let subject = match row.subject.as_deref().map(str::parse::<UserId>).transpose() {
        Ok(subject) => subject,
        Err(_) => {
            let cure = "`subject` must be a UUID; keep another system's id as a claim or as an identity";
            return Err(wrong(cure));
        }
    };
    let hash = match row.password_hash {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(object @ Value::Object(_)) => Some(object.to_string()),
        Some(_) => return Err(wrong("`password_hash` must be text or an object")),
    };
    let password = match (row.password, hash, row.generate_password.unwrap_or(false)) {
        (Some(password), None, false) => NewPassword::Given(password),
        (None, Some(hash), false) => NewPassword::Imported(PasswordHash(hash)),
        (None, None, true) => NewPassword::Generated,
        (None, None, false) => NewPassword::Mailed,
        _ => return Err(wrong("give at most one of `password`, `password_hash` and `generate_password`")),
    };
    let active = match (row.active, row.state) {
        (Some(active), Some(state)) if active != (state == AccountState::Active) => {
            return Err(wrong("`active` and `state` contradict each other"));
        }
        (active, state) => active.or(state.map(|state| state == AccountState::Active)).unwrap_or(true),
    };
    let new = NewUser {
        email: row.email,
        username: row.username,
        groups: row.groups.unwrap_or_default(),
        name: row.name,
        password,
        email_verified: row.email_verified.unwrap_or(false),
        scopes: row.scopes.unwrap_or_default(),
        claims: row.claims.unwrap_or_default(),
    };
    let identities = row.identities.unwrap_or_default().into_iter();
    let identities = identities
        .map(|Identity { issuer, subject, since }| ProviderIdentity {
            issuer,
            subject,
            since: since.map(UnixTime),
        })
        .collect();
    let created_at = row.created_at.map(|at| at.0);
    let claimed = row.claimed.unwrap_or(true);
    Ok(ImportedUser { subject, new, active, created_at, identities, claimed })
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Export {
    /// The `next` of the page before.
    #[param(value_type = Option<String>, format = "uuid")]
    after: Option<UserId>,
    /// At most so many are looked at, up to 1000; 100 without it.
    limit: Option<usize>,
    /// Only those that were made or changed from this moment on, and at the end those that were deleted since: seconds
    /// since 1970, or a moment as in RFC 3339.
    #[param(value_type = Option<String>)]
    since: Option<String>,
    /// With the password hashes.
    #[serde(default)]
    hashes: bool,
}

/// A page of accounts.
#[derive(Serialize, ToSchema)]
struct Exported {
    /// As an import takes them.
    accounts: Vec<ExportedUser>,
    /// On the last page of what has changed `since`: the accounts that are gone, as long as that is known (90 days).
    deleted: Vec<Gone>,
    /// The `after` of the next page; none at the end.
    #[schema(required, value_type = Option<String>, format = "uuid")]
    next: Option<Uuid>,
    /// When the page was begun, in seconds since 1970: what changes later has this moment or a later one.
    as_of: u64,
}

/// An account, with what an import takes of it.
#[derive(Serialize, ToSchema)]
struct ExportedUser {
    #[schema(value_type = String, format = "uuid")]
    subject: Uuid,
    #[schema(required)]
    username: Option<String>,
    #[schema(required)]
    email: Option<String>,
    email_verified: bool,
    #[schema(required)]
    name: Option<String>,
    /// With `hashes` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = Password)]
    password_hash: Option<String>,
    groups: Vec<String>,
    scopes: Vec<String>,
    claims: std::collections::BTreeMap<String, Value>,
    active: bool,
    created_at: u64,
    identities: Vec<Identity>,
    /// Whether the address was ever verified, or an operator made or changed the account.
    claimed: bool,
}

/// An account that is gone.
#[derive(Serialize, ToSchema)]
struct Gone {
    #[schema(value_type = String, format = "uuid")]
    subject: Uuid,
    deleted_at: u64,
}

impl ExportedUser {
    fn of(user: User, hashes: bool) -> ExportedUser {
        let claimed = user.claim == Claim::Claimed;
        let unsaid: Vec<String> = user.unsaid_claims().map(str::to_owned).collect();
        let identities = user.identities.into_iter().map(|identity| Identity {
            issuer: identity.issuer,
            subject: identity.subject,
            since: identity.since.map(|at| at.0),
        });
        ExportedUser {
            subject: user.id.0,
            username: user.username.map(|name| name.to_string()),
            email: user.email.map(|email| email.to_string()),
            email_verified: user.email_verified,
            name: user.name,
            password_hash: user.password.filter(|_| hashes).map(|hash| hash.0),
            groups: user.groups.as_slice().to_vec(),
            scopes: user.scopes,
            // Those that an import refuses are in no token either.
            claims: user.claims.into_iter().filter(|(name, _)| !unsaid.contains(name)).collect(),
            active: user.active,
            created_at: user.created_at.0,
            identities: identities.collect(),
            claimed,
        }
    }
}

/// Accounts as an import takes them, in the order of their ids.
#[utoipa::path(get, path = "/admin/v1/users-export", tag = "Users", operation_id = "export_users",
    security(("operator" = [])),
    params(Export),
    responses((status = 200, body = Exported, description = "A page of accounts.")),
    extensions(("x-codes" = json!([]))))]
async fn export(
    State(state): State<AdminState>,
    query: Result<Query<Export>, QueryRejection>,
) -> Result<Response, Failure> {
    let want = "`after` is the id of an account, `limit` a whole number up to 1000, `since` seconds since 1970 or a moment \
                such as \"2026-01-31T12:00:00Z\", and `hashes` true or false";
    let Ok(Query(asked)) = query else { return Err(bad_query(want)) };
    let limit = limited(asked.limit, want)?;
    let since = match asked.since {
        None => None,
        Some(text) => {
            let given = text.parse::<u64>().map_or(Value::String(text), Value::from);
            Some(Moment::deserialize(given).map_err(|_| bad_query(want))?.0)
        }
    };
    let page = state.accounts.export_users(asked.after, limit, since).await?;
    let deleted = page.gone.into_iter().map(|(id, at)| Gone { subject: id.0, deleted_at: at.0 });
    let exported = Exported {
        accounts: page.users.into_iter().map(|user| ExportedUser::of(user, asked.hashes)).collect(),
        deleted: deleted.collect(),
        next: page.next.map(|id| id.0),
        as_of: page.as_of.0,
    };
    Ok(answer(StatusCode::OK, &exported))
}
