-- A batch of commits, each whole or not at all, and their entries of the feed. One call is one transaction: what it locks
-- is free when it answers.
--
-- A refusal of a commit is an error with the SQLSTATE PX001 and the outcome as its message; it takes back what that commit
-- wrote and nothing else. Rows are locked where another commit at the same time could make a check untrue: FOR KEY SHARE
-- against deletion, FOR SHARE against change.

-- Ends a commit with this outcome.
CREATE FUNCTION palisade.refuse_1(outcome text) RETURNS void LANGUAGE plpgsql AS $f$
BEGIN
    RAISE EXCEPTION USING MESSAGE = outcome, ERRCODE = 'PX001';
END
$f$;

-- Ends a commit that meets a record of a newer program.
CREATE FUNCTION palisade.refuse_newer_1(kind text, version smallint, id text) RETURNS void LANGUAGE plpgsql AS $f$
BEGIN
    RAISE EXCEPTION USING MESSAGE = pg_catalog.concat_ws(':', 'newer', kind, version, id), ERRCODE = 'PX001';
END
$f$;

CREATE FUNCTION palisade.bytes_1(base64 text) RETURNS bytea LANGUAGE sql IMMUTABLE AS
    $f$ SELECT pg_catalog.decode(base64, 'base64') $f$;

-- Without the line breaks that the database puts into it.
CREATE FUNCTION palisade.base64_1(bytes bytea) RETURNS text LANGUAGE sql IMMUTABLE AS
    $f$ SELECT pg_catalog.translate(pg_catalog.encode(bytes, 'base64'), E'\n', '') $f$;

-- Gives an account its addresses, unless one is another's.
CREATE FUNCTION palisade.claim_addresses_1(addresses jsonb, owner uuid) RETURNS void LANGUAGE plpgsql AS $f$
DECLARE
    claimed text;
    holder uuid;
BEGIN
    FOR claimed IN SELECT e.value FROM pg_catalog.jsonb_array_elements_text(addresses) e LOOP
        LOOP
            INSERT INTO palisade.addresses (address, user_id) VALUES (claimed, owner) ON CONFLICT (address) DO NOTHING;
            EXIT WHEN FOUND;
            SELECT a.user_id INTO holder FROM palisade.addresses a WHERE a.address = claimed;
            -- Given up in this moment.
            CONTINUE WHEN NOT FOUND;
            IF holder <> owner THEN
                PERFORM palisade.refuse_1('email_taken');
            END IF;
            EXIT;
        END LOOP;
    END LOOP;
END
$f$;

-- Gives an account its user name, unless another one has or had it.
CREATE FUNCTION palisade.claim_username_1(claimed bytea, owner uuid) RETURNS void LANGUAGE plpgsql AS $f$
DECLARE
    holder uuid;
BEGIN
    LOOP
        EXIT WHEN claimed IS NULL;
        INSERT INTO palisade.usernames (name, user_id, former) VALUES (claimed, owner, false) ON CONFLICT (name) DO NOTHING;
        EXIT WHEN FOUND;
        SELECT u.user_id INTO holder FROM palisade.usernames u WHERE u.name = claimed;
        CONTINUE WHEN NOT FOUND;
        IF holder <> owner THEN
            PERFORM palisade.refuse_1('username_taken');
        END IF;
        UPDATE palisade.usernames u SET former = false WHERE u.name = claimed AND u.former;
        EXIT;
    END LOOP;
END
$f$;

-- Gives an account its identities at providers, unless one is another's.
CREATE FUNCTION palisade.claim_identities_1(identities bytea[], owner uuid) RETURNS void LANGUAGE plpgsql AS $f$
DECLARE
    claimed bytea;
    holder uuid;
BEGIN
    FOREACH claimed IN ARRAY identities LOOP
        LOOP
            INSERT INTO palisade.identities (fingerprint, user_id) VALUES (claimed, owner)
                ON CONFLICT (fingerprint) DO NOTHING;
            EXIT WHEN FOUND;
            SELECT i.user_id INTO holder FROM palisade.identities i WHERE i.fingerprint = claimed;
            CONTINUE WHEN NOT FOUND;
            IF holder <> owner THEN
                PERFORM palisade.refuse_1('identity_taken');
            END IF;
            EXIT;
        END LOOP;
    END LOOP;
END
$f$;

-- Writes an account that is new or has changed.
CREATE FUNCTION palisade.put_user_1(change jsonb, known smallint, is_new boolean) RETURNS void LANGUAGE plpgsql AS $f$
DECLARE
    account uuid := change->>'id';
    username bytea := palisade.bytes_1(change->>'username');
    identities bytea[] := ARRAY(
        SELECT palisade.bytes_1(e.value) FROM pg_catalog.jsonb_array_elements_text(change->'identities') e);
    stored record;
BEGIN
    IF NOT is_new THEN
        SELECT u.revision, u.version INTO stored FROM palisade.users u WHERE u.id = account FOR NO KEY UPDATE;
        IF NOT FOUND THEN
            PERFORM palisade.refuse_1('conflict');
        ELSIF stored.version > known THEN
            PERFORM palisade.refuse_newer_1('user', stored.version, account::text);
        ELSIF stored.revision <> (change->>'revision')::bigint THEN
            PERFORM palisade.refuse_1('conflict');
        END IF;
    END IF;
    -- Behind that: of an account that is gone, another one may well have the address.
    PERFORM palisade.claim_addresses_1(change->'addresses', account);
    IF NOT is_new THEN
        DELETE FROM palisade.addresses a WHERE a.user_id = account
            AND a.address NOT IN (SELECT e.value FROM pg_catalog.jsonb_array_elements_text(change->'addresses') e);
        -- No other account gets the name that it had.
        UPDATE palisade.usernames u SET former = true
            WHERE u.user_id = account AND NOT u.former AND u.name IS DISTINCT FROM username;
    END IF;
    PERFORM palisade.claim_username_1(username, account);
    IF NOT is_new THEN
        DELETE FROM palisade.identities i WHERE i.user_id = account AND i.fingerprint <> ALL (identities);
    END IF;
    PERFORM palisade.claim_identities_1(identities, account);
    IF is_new THEN
        INSERT INTO palisade.users (id, revision, version, body) VALUES (account, (change->>'revision')::bigint,
            (change->>'version')::smallint, palisade.bytes_1(change->>'body')) ON CONFLICT (id) DO NOTHING;
        IF NOT FOUND THEN
            PERFORM palisade.refuse_1('conflict');
        END IF;
    ELSE
        UPDATE palisade.users u SET revision = (change->>'next')::bigint, version = (change->>'version')::smallint,
            body = palisade.bytes_1(change->>'body') WHERE u.id = account;
    END IF;
END
$f$;

-- Removes an account with what is its own. Returns whether there was any of it.
CREATE FUNCTION palisade.delete_user_1(account uuid, known jsonb) RETURNS boolean LANGUAGE plpgsql AS $f$
DECLARE
    stored record;
    removed boolean;
BEGIN
    SELECT u.version INTO stored FROM palisade.users u WHERE u.id = account FOR UPDATE;
    removed := FOUND;
    IF removed THEN
        IF stored.version > (known->>'user')::smallint THEN
            PERFORM palisade.refuse_newer_1('user', stored.version, account::text);
        END IF;
        DELETE FROM palisade.addresses a WHERE a.user_id = account;
        UPDATE palisade.usernames u SET former = true WHERE u.user_id = account AND NOT u.former;
        DELETE FROM palisade.identities i WHERE i.user_id = account;
        DELETE FROM palisade.users u WHERE u.id = account;
    END IF;
    FOR stored IN DELETE FROM palisade.sessions s WHERE s.user_id = account RETURNING s.id, s.version LOOP
        removed := true;
        IF stored.version > (known->>'session')::smallint THEN
            PERFORM palisade.refuse_newer_1('session', stored.version, stored.id::text);
        END IF;
    END LOOP;
    FOR stored IN DELETE FROM palisade.connections c WHERE c.user_id = account RETURNING c.id, c.version LOOP
        removed := true;
        IF stored.version > (known->>'connection')::smallint THEN
            PERFORM palisade.refuse_newer_1('connection', stored.version, stored.id::text);
        END IF;
    END LOOP;
    DELETE FROM palisade.gone_users g WHERE g.user_id = account;
    removed := removed OR FOUND;
    DELETE FROM palisade.events e WHERE e.user_id = account;
    RETURN removed OR FOUND;
END
$f$;

-- Keeps an event in place of the oldest of its list. The events of an account that is gone get an end.
CREATE FUNCTION palisade.record_event_1(event jsonb) RETURNS void LANGUAGE plpgsql AS $f$
DECLARE
    account uuid := event->>'user';
    of_strangers boolean := event->>'strangers';
    last_kept bigint;
BEGIN
    IF account IS NOT NULL THEN
        PERFORM FROM palisade.users u WHERE u.id = account FOR KEY SHARE;
        IF NOT FOUND THEN
            INSERT INTO palisade.gone_users (user_id, at) VALUES (account, (event->>'gone_until')::bigint)
                ON CONFLICT (user_id) DO NOTHING;
        END IF;
    END IF;
    INSERT INTO palisade.events (user_id, strangers, version, body)
        VALUES (account, of_strangers, (event->>'version')::smallint, palisade.bytes_1(event->>'body'));
    -- What another commit is removing at the same time is left to it.
    IF account IS NULL THEN
        SELECT e.n INTO last_kept FROM palisade.events e WHERE e.user_id IS NULL AND e.strangers = of_strangers
            ORDER BY e.n DESC OFFSET (event->>'kept')::int - 1 LIMIT 1;
        IF FOUND THEN
            DELETE FROM palisade.events d WHERE d.n IN (SELECT e.n FROM palisade.events e WHERE e.user_id IS NULL
                AND e.strangers = of_strangers AND e.n < last_kept ORDER BY e.n LIMIT 100 FOR UPDATE SKIP LOCKED);
        END IF;
    ELSE
        SELECT e.n INTO last_kept FROM palisade.events e WHERE e.user_id = account AND e.strangers = of_strangers
            ORDER BY e.n DESC OFFSET (event->>'kept')::int - 1 LIMIT 1;
        IF FOUND THEN
            DELETE FROM palisade.events d WHERE d.n IN (SELECT e.n FROM palisade.events e WHERE e.user_id = account
                AND e.strangers = of_strangers AND e.n < last_kept ORDER BY e.n LIMIT 100 FOR UPDATE SKIP LOCKED);
        END IF;
    END IF;
END
$f$;

-- A revocation as answers and entries of the feed hold it.
CREATE FUNCTION palisade.standing_1(key bytea, lim bigint, expires_at bigint, created_at bigint, version smallint, reason bytea)
    RETURNS jsonb LANGUAGE sql IMMUTABLE AS
    $f$ SELECT pg_catalog.jsonb_build_object('key', palisade.base64_1(key), 'lim', lim, 'expires_at', expires_at,
        'created_at', created_at, 'version', version, 'reason', palisade.base64_1(reason)) $f$;

-- Records a revocation, merged with the one that stands under its key: the larger limit, the later end, and the later word
-- on why. Returns it as it stands.
CREATE FUNCTION palisade.revoke_1(change jsonb, reach bigint, known smallint) RETURNS jsonb LANGUAGE plpgsql AS $f$
DECLARE
    stored palisade.revocations;
BEGIN
    INSERT INTO palisade.revocations AS r (key, lim, expires_at, created_at, version, reason)
        VALUES (palisade.bytes_1(change->>'key'), reach, (change->>'expires_at')::bigint,
            (change->>'created_at')::bigint, (change->>'version')::smallint, palisade.bytes_1(change->>'reason'))
        ON CONFLICT (key) DO UPDATE SET lim = greatest(r.lim, EXCLUDED.lim),
            expires_at = greatest(r.expires_at, EXCLUDED.expires_at),
            created_at = greatest(r.created_at, EXCLUDED.created_at), version = EXCLUDED.version,
            reason = coalesce(EXCLUDED.reason, r.reason)
        WHERE r.version <= known
        RETURNING r.* INTO stored;
    IF NOT FOUND THEN
        SELECT r.* INTO stored FROM palisade.revocations r WHERE r.key = palisade.bytes_1(change->>'key');
        PERFORM palisade.refuse_newer_1('revocation', stored.version, '');
    END IF;
    RETURN palisade.standing_1(stored.key, stored.lim, stored.expires_at, stored.created_at, stored.version, stored.reason);
END
$f$;

-- Raises a token version or a generation. Returns the revocation of every token below it: recorded where it is enforced,
-- otherwise as it would be.
CREATE FUNCTION palisade.raise_1(change jsonb, known smallint) RETURNS jsonb LANGUAGE plpgsql AS $f$
DECLARE
    standing palisade.revocations;
    at_least bigint := change->>'at_least';
    raised bigint;
    entry jsonb;
BEGIN
    SELECT r.* INTO standing FROM palisade.revocations r WHERE r.key = palisade.bytes_1(change->>'key') FOR UPDATE;
    IF standing.version > known THEN
        PERFORM palisade.refuse_newer_1('revocation', standing.version, '');
    END IF;
    -- An operator may already have revoked further than the number ever rose; a token signed with the new one must not be
    -- born revoked.
    at_least := greatest(at_least, standing.lim, 1);
    INSERT INTO palisade.token_versions AS t (key, number) VALUES (palisade.bytes_1(change->>'number_key'), at_least)
        ON CONFLICT (key) DO UPDATE SET number = greatest(at_least,
            CASE WHEN t.number = 9223372036854775807 THEN t.number ELSE t.number + 1 END)
        RETURNING t.number INTO raised;
    IF (change->>'enforce')::boolean THEN
        entry := palisade.revoke_1(change, raised, known);
        -- Where no entry stood that could be locked above, an operator's may have come since. It counts as the earlier one.
        IF (entry->>'lim')::bigint > raised THEN
            UPDATE palisade.token_versions t SET number = (entry->>'lim')::bigint
                WHERE t.key = palisade.bytes_1(change->>'number_key');
        END IF;
        RETURN entry;
    END IF;
    RETURN palisade.standing_1(palisade.bytes_1(change->>'key'), greatest(raised, standing.lim),
        greatest((change->>'expires_at')::bigint, standing.expires_at),
        greatest((change->>'created_at')::bigint, standing.created_at), (change->>'version')::smallint,
        coalesce(palisade.bytes_1(change->>'reason'), standing.reason));
END
$f$;

-- Makes the changes of one commit, in their order. Returns `entries`, the revocations that it answers; `in_force`, those
-- that are; and whether it `wrote` anything.
CREATE FUNCTION palisade.make_1(changes jsonb, known jsonb) RETURNS jsonb LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
    change jsonb;
    event jsonb;
    entry jsonb;
    entries jsonb[] := '{}';
    in_force jsonb[] := '{}';
    wrote boolean := false;
    v smallint;
    owner uuid;
    record_id uuid;
    sought bytea;
BEGIN
    FOR change IN SELECT e.value FROM jsonb_array_elements(changes) e LOOP
        owner := change->>'user';
        record_id := change->>'id';
        CASE change->>'do'
        WHEN 'user_exists' THEN
            PERFORM FROM palisade.users u WHERE u.id = record_id FOR KEY SHARE;
            IF NOT FOUND THEN PERFORM palisade.refuse_1('conflict'); END IF;
        WHEN 'task_waits' THEN
            -- Not shared: it is finished by the same commit as a rule, and two could wait for one another.
            PERFORM FROM palisade.tasks t WHERE t.id = record_id FOR UPDATE;
            IF NOT FOUND THEN PERFORM palisade.refuse_1('conflict'); END IF;
        WHEN 'lease_stands' THEN
            PERFORM FROM palisade.leases l WHERE l.subject = palisade.bytes_1(change->>'subject')
                AND l.holder = (change->>'holder')::uuid AND l.fence = (change->>'fence')::bigint AND NOT l.released FOR SHARE;
            IF NOT FOUND THEN PERFORM palisade.refuse_1('conflict'); END IF;
        WHEN 'create_user' THEN
            PERFORM palisade.put_user_1(change, (known->>'user')::smallint, true);
            wrote := true;
        WHEN 'update_user' THEN
            PERFORM palisade.put_user_1(change, (known->>'user')::smallint, false);
            wrote := true;
        WHEN 'delete_user' THEN
            wrote := palisade.delete_user_1(record_id, known) OR wrote;
        WHEN 'create_session' THEN
            v := known->>'session';
            INSERT INTO palisade.sessions AS s (user_id, id, revision, expires_at, version, body) VALUES (owner, record_id,
                (change->>'revision')::bigint, (change->>'expires_at')::bigint, (change->>'version')::smallint,
                palisade.bytes_1(change->>'body'))
                ON CONFLICT (user_id, id) DO UPDATE SET revision = EXCLUDED.revision, expires_at = EXCLUDED.expires_at,
                    version = EXCLUDED.version, body = EXCLUDED.body WHERE s.version <= v;
            IF NOT FOUND THEN
                SELECT s.version INTO v FROM palisade.sessions s WHERE s.user_id = owner AND s.id = record_id;
                PERFORM palisade.refuse_newer_1('session', v, record_id::text);
            END IF;
            wrote := true;
        WHEN 'update_session' THEN
            v := known->>'session';
            UPDATE palisade.sessions s SET revision = (change->>'next')::bigint, expires_at = (change->>'expires_at')::bigint,
                version = (change->>'version')::smallint, body = palisade.bytes_1(change->>'body')
                WHERE s.user_id = owner AND s.id = record_id AND s.revision = (change->>'revision')::bigint AND s.version <= v;
            IF NOT FOUND THEN
                PERFORM palisade.refuse_newer_1('session', s.version, record_id::text) FROM palisade.sessions s
                    WHERE s.user_id = owner AND s.id = record_id AND s.version > v;
                PERFORM palisade.refuse_1('conflict');
            END IF;
            wrote := true;
        WHEN 'end_session' THEN
            v := known->>'session';
            DELETE FROM palisade.sessions s WHERE s.user_id = owner AND s.id = record_id AND s.version <= v;
            wrote := wrote OR FOUND;
            PERFORM palisade.refuse_newer_1('session', s.version, record_id::text) FROM palisade.sessions s
                WHERE s.user_id = owner AND s.id = record_id AND s.version > v;
        WHEN 'create_connection' THEN
            INSERT INTO palisade.connections (user_id, id, revision, due_at, version, body) VALUES (owner, record_id,
                (change->>'revision')::bigint, (change->>'due_at')::bigint, (change->>'version')::smallint,
                palisade.bytes_1(change->>'body')) ON CONFLICT (user_id, id) DO NOTHING;
            IF NOT FOUND THEN PERFORM palisade.refuse_1('conflict'); END IF;
            wrote := true;
        WHEN 'update_connection' THEN
            v := known->>'connection';
            UPDATE palisade.connections c SET revision = (change->>'next')::bigint, due_at = (change->>'due_at')::bigint,
                version = (change->>'version')::smallint, body = palisade.bytes_1(change->>'body')
                WHERE c.user_id = owner AND c.id = record_id AND c.revision = (change->>'revision')::bigint AND c.version <= v;
            IF NOT FOUND THEN
                PERFORM palisade.refuse_newer_1('connection', c.version, record_id::text) FROM palisade.connections c
                    WHERE c.user_id = owner AND c.id = record_id AND c.version > v;
                PERFORM palisade.refuse_1('conflict');
            END IF;
            wrote := true;
        WHEN 'remove_connection' THEN
            v := known->>'connection';
            DELETE FROM palisade.connections c WHERE c.user_id = owner AND c.id = record_id AND c.version <= v;
            wrote := wrote OR FOUND;
            PERFORM palisade.refuse_newer_1('connection', c.version, record_id::text) FROM palisade.connections c
                WHERE c.user_id = owner AND c.id = record_id AND c.version > v;
        WHEN 'create_link' THEN
            v := known->>'link';
            INSERT INTO palisade.links AS l (hash, expires_at, version, body) VALUES (palisade.bytes_1(change->>'hash'),
                (change->>'expires_at')::bigint, (change->>'version')::smallint, palisade.bytes_1(change->>'body'))
                ON CONFLICT (hash) DO UPDATE SET expires_at = EXCLUDED.expires_at,
                    version = EXCLUDED.version, body = EXCLUDED.body WHERE l.version <= v;
            IF NOT FOUND THEN
                SELECT l.version INTO v FROM palisade.links l WHERE l.hash = palisade.bytes_1(change->>'hash');
                PERFORM palisade.refuse_newer_1('link', v, '');
            END IF;
            wrote := true;
        WHEN 'consume_link' THEN
            v := known->>'link';
            sought := palisade.bytes_1(change->>'hash');
            DELETE FROM palisade.links l WHERE l.hash = sought AND l.version <= v;
            IF NOT FOUND THEN
                PERFORM palisade.refuse_newer_1('link', l.version, '') FROM palisade.links l
                    WHERE l.hash = sought AND l.version > v;
                PERFORM palisade.refuse_1('conflict');
            END IF;
            wrote := true;
        WHEN 'put_mail' THEN
            v := known->>'mail';
            INSERT INTO palisade.mails AS m (id, due_at, created_at, given_up, version, body) VALUES (record_id,
                (change->>'due_at')::bigint, (change->>'created_at')::bigint, (change->>'given_up')::boolean,
                (change->>'version')::smallint, palisade.bytes_1(change->>'body'))
                ON CONFLICT (id) DO UPDATE SET due_at = EXCLUDED.due_at, created_at = EXCLUDED.created_at,
                    given_up = EXCLUDED.given_up, version = EXCLUDED.version, body = EXCLUDED.body WHERE m.version <= v;
            IF NOT FOUND THEN
                SELECT m.version INTO v FROM palisade.mails m WHERE m.id = record_id;
                PERFORM palisade.refuse_newer_1('mail', v, record_id::text);
            END IF;
            wrote := true;
        WHEN 'remove_mail' THEN
            v := known->>'mail';
            DELETE FROM palisade.mails m WHERE m.id = record_id AND m.version <= v;
            wrote := wrote OR FOUND;
            PERFORM palisade.refuse_newer_1('mail', m.version, record_id::text) FROM palisade.mails m
                WHERE m.id = record_id AND m.version > v;
        WHEN 'put_mailbox' THEN
            v := known->>'mailbox';
            sought := palisade.bytes_1(change->>'mailbox');
            IF (change->>'revision')::bigint = 0 THEN
                INSERT INTO palisade.mailboxes AS m (id, revision, ends_at, version, body) VALUES (sought,
                    (change->>'next')::bigint, (change->>'ends_at')::bigint, (change->>'version')::smallint,
                    palisade.bytes_1(change->>'body'))
                    ON CONFLICT (id) DO UPDATE SET revision = EXCLUDED.revision, ends_at = EXCLUDED.ends_at,
                        version = EXCLUDED.version, body = EXCLUDED.body WHERE m.revision = 0 AND m.version <= v;
            ELSE
                UPDATE palisade.mailboxes m SET revision = (change->>'next')::bigint, ends_at = (change->>'ends_at')::bigint,
                    version = (change->>'version')::smallint, body = palisade.bytes_1(change->>'body')
                    WHERE m.id = sought AND m.revision = (change->>'revision')::bigint AND m.version <= v;
            END IF;
            IF NOT FOUND THEN
                PERFORM palisade.refuse_newer_1('mailbox', m.version, '') FROM palisade.mailboxes m
                    WHERE m.id = sought AND m.version > v;
                PERFORM palisade.refuse_1('conflict');
            END IF;
            wrote := true;
        WHEN 'create_task' THEN
            v := known->>'task';
            INSERT INTO palisade.tasks AS t (id, kind, due_at, version, body) VALUES (record_id, change->>'kind',
                (change->>'due_at')::bigint, (change->>'version')::smallint, palisade.bytes_1(change->>'body'))
                ON CONFLICT (id) DO UPDATE SET kind = EXCLUDED.kind, due_at = EXCLUDED.due_at, version = EXCLUDED.version,
                    body = EXCLUDED.body WHERE t.version <= v;
            IF NOT FOUND THEN
                SELECT t.version INTO v FROM palisade.tasks t WHERE t.id = record_id;
                PERFORM palisade.refuse_newer_1('task', v, record_id::text);
            END IF;
            wrote := true;
        WHEN 'finish_task' THEN
            v := known->>'task';
            DELETE FROM palisade.tasks t WHERE t.id = record_id AND t.version <= v;
            IF NOT FOUND THEN
                PERFORM palisade.refuse_newer_1('task', t.version, record_id::text) FROM palisade.tasks t
                    WHERE t.id = record_id AND t.version > v;
                PERFORM palisade.refuse_1('conflict');
            END IF;
            wrote := true;
        WHEN 'record' THEN
            FOR event IN SELECT e.value FROM jsonb_array_elements(change->'events') e LOOP
                PERFORM palisade.record_event_1(event);
                wrote := true;
            END LOOP;
        WHEN 'put_clock_mark' THEN
            v := known->>'clock_mark';
            INSERT INTO palisade.clock_mark AS c (one, version, body) VALUES (true, (change->>'version')::smallint,
                palisade.bytes_1(change->>'body'))
                ON CONFLICT (one) DO UPDATE SET version = EXCLUDED.version, body = EXCLUDED.body WHERE c.version <= v;
            IF NOT FOUND THEN
                SELECT c.version INTO v FROM palisade.clock_mark c;
                PERFORM palisade.refuse_newer_1('clock_mark', v, '');
            END IF;
            wrote := true;
        WHEN 'upgraded' THEN
            INSERT INTO palisade.upgrades (name) VALUES (change->>'name') ON CONFLICT (name) DO NOTHING;
            wrote := true;
        WHEN 'revoke' THEN
            entry := palisade.revoke_1(change, (change->>'lim')::bigint, (known->>'revocation')::smallint);
            entries := entries || entry;
            in_force := in_force || entry;
            wrote := true;
        WHEN 'raise' THEN
            entry := palisade.raise_1(change, (known->>'revocation')::smallint);
            entries := entries || entry;
            IF (change->>'enforce')::boolean THEN in_force := in_force || entry; END IF;
            wrote := true;
        WHEN 'cut_sessions' THEN
            entry := palisade.revoke_1(change, coalesce((SELECT t.number FROM palisade.token_versions t
                WHERE t.key = palisade.bytes_1(change->>'number_key')), 0), (known->>'revocation')::smallint);
            entries := entries || entry;
            in_force := in_force || entry;
            wrote := true;
        END CASE;
    END LOOP;
    RETURN jsonb_build_object('outcome', 'done', 'entries', to_jsonb(entries), 'in_force', to_jsonb(in_force), 'wrote', wrote);
END
$f$;

-- Makes a batch of commits. Base64 of JSON: `known`, the highest version of each kind of record that the program knows; the
-- same as `formats`, in the words in which replicas register; and `commits`, the changes of each, with what a replica needs
-- to know to read what they write. Answers JSON: for each commit its outcome, with the revocations and the two numbers of
-- its position.
CREATE FUNCTION palisade.commit_1(batch text) RETURNS text LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
    asked jsonb := convert_from(decode(batch, 'base64'), 'UTF8')::jsonb;
    one jsonb;
    answer jsonb;
    answers jsonb[] := '{}';
    -- The replicas that know other versions than this program, as a rule none.
    others jsonb;
    installation record;
    revoking int := 0;
    last_position bigint;
    last_entry uuid;
    here bigint;
BEGIN
    PERFORM palisade.in_commit();
    SELECT i.importing, i.closed_for INTO installation FROM palisade.installation i;
    IF installation.importing OR installation.closed_for IS NOT NULL THEN
        RETURN jsonb_build_object('importing', installation.importing, 'closed_for', installation.closed_for)::text;
    END IF;
    SELECT jsonb_agg(jsonb_build_object('replica', r.name, 'program', r.program, 'formats', r.formats::jsonb)) INTO others
        FROM palisade.replicas r WHERE r.formats <> asked->>'formats' AND r.expired_at IS NULL;
    FOR one IN SELECT e.value FROM jsonb_array_elements(asked->'commits') e LOOP
        IF others IS NOT NULL THEN
            -- What a live replica could not read is not written.
            SELECT jsonb_build_object('outcome', 'older', 'older', o.value - 'formats' || jsonb_build_object('kind', n.key,
                'version', n.value::int, 'reads', coalesce((o.value->'formats'->>n.key)::int, 0))) INTO answer
                FROM jsonb_array_elements(others) o, jsonb_each_text(one->'needs') n
                WHERE coalesce((o.value->'formats'->>n.key)::int, 0) < n.value::int LIMIT 1;
            IF FOUND THEN
                answers := answers || answer;
                CONTINUE;
            END IF;
        END IF;
        BEGIN
            answer := palisade.make_1(one->'changes', asked->'known');
        EXCEPTION
            WHEN SQLSTATE 'PX001' THEN
                answer := jsonb_build_object('outcome', SQLERRM);
            WHEN deadlock_detected OR serialization_failure THEN
                answer := jsonb_build_object('outcome', 'again', 'state', SQLSTATE);
            WHEN OTHERS THEN
                answer := jsonb_build_object('outcome', 'failed', 'state', SQLSTATE);
        END;
        IF answer->'in_force' <> '[]' THEN
            revoking := revoking + 1;
        END IF;
        answers := answers || answer;
    END LOOP;

    -- The last step: the row of the head is locked from here until the end of the transaction, which is near.
    IF revoking > 0 THEN
        UPDATE palisade.head h SET position = h.position + revoking, entry = gen_random_uuid()
            RETURNING h.position, h.entry INTO STRICT last_position, last_entry;
    ELSE
        SELECT h.position INTO STRICT last_position FROM palisade.head h;
    END IF;
    here := last_position - revoking;
    FOR i IN 1 .. cardinality(answers) LOOP
        answer := answers[i];
        IF answer->'in_force' <> '[]' THEN
            here := here + 1;
            INSERT INTO palisade.feed (position, entry, body) VALUES (here,
                CASE here WHEN last_position THEN last_entry ELSE gen_random_uuid() END,
                convert_to((answer->'in_force')::text, 'UTF8'));
            answer := answer || jsonb_build_object('position', here, 'number', 0);
        ELSIF (answer->>'wrote')::boolean THEN
            answer := answer || jsonb_build_object('position', last_position, 'number', nextval('palisade.commits'));
        END IF;
        answers[i] := answer - 'in_force';
    END LOOP;
    IF revoking > 0 THEN
        PERFORM pg_notify('palisade_feed', last_position::text);
    END IF;
    RETURN jsonb_build_object('commits', to_jsonb(answers))::text;
END
$f$;
