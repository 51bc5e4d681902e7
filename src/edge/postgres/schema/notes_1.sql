-- Notes that gateways share and may forget: each ends by itself, and a crash may lose the last of them.
CREATE TABLE palisade.notes (
    kind smallint NOT NULL,
    -- A hash of what it is about.
    hash bytea NOT NULL,
    revision bigint NOT NULL,
    ends_at timestamptz NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (kind, hash)
);
CREATE INDEX notes_by_end ON palisade.notes (kind, ends_at);
-- A revision never comes again, also for a note that was removed meanwhile.
CREATE SEQUENCE palisade.note_revisions;
