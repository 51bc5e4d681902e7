-- The tables of the store. Moments are seconds since 1970, numbers are at most 2^63 - 1, which stands for "never" and
-- "all of it". Bodies are JSON, each with the version of its kind of record.

CREATE TABLE palisade.installation (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    -- An import has begun and has not come to its end: nothing else is read or written.
    importing boolean NOT NULL DEFAULT false,
    -- Why nothing is written any more, until an operator says otherwise.
    closed_for text NULL,
    -- What a replica has found the database to have lost: until an operator's word no replica believes any token.
    lost text NULL
);
INSERT INTO palisade.installation DEFAULT VALUES;

CREATE TABLE palisade.users (
    id uuid PRIMARY KEY,
    revision bigint NOT NULL,
    version smallint NOT NULL,
    body bytea NOT NULL
);
CREATE TABLE palisade.addresses (
    address text COLLATE "C" PRIMARY KEY,
    user_id uuid NOT NULL
);
CREATE INDEX addresses_of_user ON palisade.addresses (user_id);
CREATE TABLE palisade.usernames (
    -- The fingerprint of the name.
    name bytea PRIMARY KEY,
    user_id uuid NOT NULL,
    -- The account had it; no other gets it, also when the account is gone.
    former boolean NOT NULL
);
CREATE INDEX usernames_of_user ON palisade.usernames (user_id);
CREATE TABLE palisade.identities (
    fingerprint bytea PRIMARY KEY,
    user_id uuid NOT NULL
);
CREATE INDEX identities_of_user ON palisade.identities (user_id);

CREATE TABLE palisade.sessions (
    user_id uuid NOT NULL,
    id uuid NOT NULL,
    revision bigint NOT NULL,
    expires_at bigint NOT NULL,
    version smallint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (user_id, id)
);
CREATE INDEX sessions_by_id ON palisade.sessions (id);
CREATE INDEX sessions_by_end ON palisade.sessions (expires_at);

CREATE TABLE palisade.connections (
    user_id uuid NOT NULL,
    id uuid NOT NULL,
    revision bigint NOT NULL,
    due_at bigint NULL,
    version smallint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (user_id, id)
);
CREATE INDEX connections_due ON palisade.connections (due_at, user_id, id) WHERE due_at IS NOT NULL;

CREATE TABLE palisade.links (
    hash bytea PRIMARY KEY,
    expires_at bigint NOT NULL,
    version smallint NOT NULL,
    body bytea NOT NULL
);
CREATE INDEX links_by_end ON palisade.links (expires_at);

CREATE TABLE palisade.mails (
    id uuid PRIMARY KEY,
    due_at bigint NOT NULL,
    created_at bigint NOT NULL,
    given_up boolean NOT NULL,
    version smallint NOT NULL,
    body bytea NOT NULL
);
CREATE INDEX mails_due ON palisade.mails (given_up, due_at, id);

CREATE TABLE palisade.mailboxes (
    id bytea PRIMARY KEY,
    revision bigint NOT NULL,
    ends_at bigint NOT NULL,
    version smallint NOT NULL,
    body bytea NOT NULL
);
CREATE INDEX mailboxes_by_end ON palisade.mailboxes (ends_at);

CREATE TABLE palisade.tasks (
    id uuid PRIMARY KEY,
    kind text COLLATE "C" NOT NULL,
    due_at bigint NOT NULL,
    version smallint NOT NULL,
    body bytea NOT NULL
);
CREATE INDEX tasks_due ON palisade.tasks (kind, due_at, id);

CREATE TABLE palisade.events (
    -- The order in which they came.
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- NULL: of no account.
    user_id uuid NULL,
    -- Of the list of those that strangers can cause, which has a bound of its own.
    strangers boolean NOT NULL,
    version smallint NOT NULL,
    body bytea NOT NULL
);
CREATE INDEX events_of_user ON palisade.events (user_id, strangers, n);
CREATE TABLE palisade.gone_users (
    user_id uuid PRIMARY KEY,
    -- Until when the events of the account are kept, which is gone.
    at bigint NOT NULL
);
CREATE INDEX gone_users_by_end ON palisade.gone_users (at);

CREATE TABLE palisade.revocations (
    -- The kind, the length of the issuer in four bytes, the issuer and the name.
    key bytea PRIMARY KEY,
    lim bigint NOT NULL,
    expires_at bigint NOT NULL,
    created_at bigint NOT NULL,
    version smallint NOT NULL,
    reason bytea NULL
);
CREATE INDEX revocations_by_end ON palisade.revocations (expires_at);
CREATE INDEX revocations_by_age ON palisade.revocations (created_at);
CREATE TABLE palisade.token_versions (
    -- 0 for all tokens of an issuer or 1 for those of a subject, the length of the issuer in four bytes, the issuer and
    -- the subject.
    key bytea PRIMARY KEY,
    number bigint NOT NULL
);

CREATE TABLE palisade.clock_mark (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version smallint NOT NULL,
    body bytea NOT NULL
);
CREATE TABLE palisade.upgrades (
    name text COLLATE "C" PRIMARY KEY
);
CREATE TABLE palisade.key_checks (
    name text COLLATE "C" PRIMARY KEY,
    value text NOT NULL
);
CREATE TABLE palisade.secrets (
    name text COLLATE "C" PRIMARY KEY,
    revision bigint NOT NULL,
    sealed bytea NOT NULL
);

CREATE TABLE palisade.leases (
    subject bytea PRIMARY KEY,
    holder uuid NOT NULL,
    fence bigint NOT NULL,
    ends_at timestamptz NOT NULL,
    released boolean NOT NULL DEFAULT false
);
CREATE SEQUENCE palisade.fences;
-- By what the terms of leases are measured.
CREATE FUNCTION palisade.lease_clock() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT pg_catalog.clock_timestamp()';

-- Positions of commits that revoke nothing.
CREATE SEQUENCE palisade.commits;
-- The position of the last entry of the feed. Its row is the last that a revoking commit writes, so that the order of
-- positions is the order of commits.
CREATE TABLE palisade.head (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    position bigint NOT NULL,
    entry uuid NOT NULL
);
INSERT INTO palisade.head (position, entry) VALUES (0, gen_random_uuid());
CREATE TABLE palisade.feed (
    position bigint PRIMARY KEY,
    entry uuid NOT NULL,
    body bytea NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE palisade.replicas (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    -- The number of the program.
    program int NOT NULL,
    -- JSON: each kind of record with the highest version that the program knows.
    formats text NOT NULL CHECK (formats::jsonb IS NOT NULL),
    position bigint NOT NULL,
    confirms bigint NOT NULL,
    lease_ms int NOT NULL,
    fail_open boolean NOT NULL,
    key_ring bigint NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    confirmed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Written to see whether the database takes writes.
CREATE TABLE palisade.probe (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    at timestamptz NOT NULL
);

-- Held for the length of each commit; by `palisade.hold_commits` alone for a change of `palisade.installation`. The two
-- numbers are this program's: "pali", 1.
CREATE FUNCTION palisade.in_commit() RETURNS void LANGUAGE sql VOLATILE AS
    'SELECT pg_catalog.pg_advisory_xact_lock_shared(1885433961, 1)';
-- Waits until no commit is under way, and lets none begin until the transaction has ended.
CREATE FUNCTION palisade.hold_commits() RETURNS void LANGUAGE sql VOLATILE AS
    'SELECT pg_catalog.pg_advisory_xact_lock(1885433961, 1)';

-- To be asked in the transaction that registers a replica: refuses a program that the schema has left behind, and waits
-- for a migration that is about to do so.
CREATE FUNCTION palisade.admit_program(program int) RETURNS void LANGUAGE plpgsql VOLATILE AS $f$
DECLARE
    oldest int;
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock_shared(1885433961, 2);
    SELECT pg_catalog.max(m.oldest_program) INTO oldest FROM palisade.migrations m;
    IF program < oldest THEN
        RAISE EXCEPTION 'the schema needs program %, and this is program %', oldest, program USING ERRCODE = 'PX002';
    END IF;
END
$f$;
