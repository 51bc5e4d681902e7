-- The replicas and what they follow. What these functions have to guarantee is told in replica.rs and acknowledge.rs.
-- Each call is one message and one transaction; arguments come as JSON in base64, and answers are JSON.

-- Of a replica that goes on believing tokens without a lease (`fail = "open"`): since when it has been counted as
-- gone. Such a row is kept for a day, so that acknowledgements can name it. The rows of all others are deleted.
ALTER TABLE palisade.replicas ADD COLUMN expired_at timestamptz NULL;
-- NULL until a replica has read the whole set: it believes no token yet, and no revocation waits for it.
ALTER TABLE palisade.replicas ALTER COLUMN position DROP NOT NULL;

-- Everything that is registered. One statement, so that the head and the rows are of one snapshot.
CREATE FUNCTION palisade.replicas_1() RETURNS json LANGUAGE sql STABLE AS $$
  SELECT json_build_object(
    'head', (SELECT position FROM palisade.head),
    'replicas', COALESCE((SELECT json_agg(json_build_object(
        'id', id, 'name', name, 'program', program, 'formats', formats, 'position', position,
        'confirms', confirms, 'lease_ms', lease_ms, 'fail_open', fail_open, 'key_ring', key_ring,
        'expired', expired_at IS NOT NULL) ORDER BY registered_at, id) FROM palisade.replicas), '[]'::json))
$$;

-- Whether the entry that a replica applied last still stands where it was: `stands`, `forgotten` (so long ago that it
-- was pruned), or `gone` (the database has lost it).
CREATE FUNCTION palisade.entry_stands_1(place bigint, own uuid) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT CASE
    WHEN place IS NULL OR own IS NULL THEN 'stands'
    WHEN place > head.position THEN 'gone'
    WHEN place = head.position THEN CASE WHEN own = head.entry THEN 'stands' ELSE 'gone' END
    ELSE COALESCE(
      (SELECT CASE WHEN own = entry THEN 'stands' ELSE 'gone' END FROM palisade.feed WHERE position = place),
      CASE WHEN EXISTS (SELECT FROM palisade.feed WHERE position < place) THEN 'gone' ELSE 'forgotten' END)
    END
  FROM palisade.head
$$;

-- The timeline of the server, which rises when a standby takes over; NULL where the service does not tell.
CREATE FUNCTION palisade.timeline_1() RETURNS bigint LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN ('x' || substring(pg_walfile_name(pg_current_wal_lsn()) FROM 1 FOR 8))::bit(32)::bigint;
EXCEPTION WHEN OTHERS THEN
  RETURN NULL;
END
$$;

-- The head, and up to `count` entries behind `since`. `own`: the entry that stood there.
CREATE FUNCTION palisade.entries_1(since bigint, own uuid, count int) RETURNS json LANGUAGE sql STABLE AS $$
  SELECT json_build_object(
    'standing', palisade.entry_stands_1(since, own),
    'timeline', palisade.timeline_1(),
    'head', (SELECT json_build_object('position', position, 'entry', entry) FROM palisade.head),
    'entries', COALESCE((SELECT json_agg(json_build_object(
        'position', f.position, 'entry', f.entry, 'revocations', convert_from(f.body, 'UTF8')::json) ORDER BY f.position)
      FROM (SELECT * FROM palisade.feed WHERE position > since ORDER BY position LIMIT count) f), '[]'::json))
$$;

-- Registers a replica that believes no token. The rows that it had before go: by those it believes none any more.
CREATE FUNCTION palisade.register_1(request text) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
  asked json := convert_from(decode(request, 'base64'), 'UTF8')::json;
  here palisade.installation;
BEGIN
  PERFORM palisade.admit_program((asked->>'program')::int);
  -- As a commit does: none is closed for in between.
  PERFORM palisade.in_commit();
  IF (asked->>'accept')::boolean THEN
    UPDATE palisade.installation SET lost = NULL WHERE lost IS NOT NULL;
  END IF;
  SELECT * INTO STRICT here FROM palisade.installation;
  IF here.closed_for IS NOT NULL AND NOT (asked->>'accept_closed')::boolean THEN
    RAISE EXCEPTION 'the store is closed for writing: %', here.closed_for USING ERRCODE = 'PX004';
  END IF;
  DELETE FROM palisade.replicas WHERE id IN (SELECT f::uuid FROM json_array_elements_text(asked->'former') f)
    OR expired_at IS NOT NULL AND (name = asked->>'name' OR expired_at < clock_timestamp() - interval '1 day');
  INSERT INTO palisade.replicas
    (id, name, program, formats, position, confirms, lease_ms, fail_open, key_ring, registered_at, confirmed_at)
  VALUES ((asked->>'id')::uuid, asked->>'name', (asked->>'program')::int, asked->>'formats', NULL, 0,
    (asked->>'lease_ms')::int, (asked->>'fail_open')::boolean, (asked->>'key_ring')::bigint, clock_timestamp(), clock_timestamp());
  RETURN json_build_object(
    'installation', here.id,
    'lost', here.lost,
    -- NULL: nothing was followed before, and no entries are asked for.
    'news', palisade.entries_1((asked->>'position')::bigint, (asked->>'entry')::uuid, 500),
    'members', palisade.replicas_1());
END
$$;

-- Says that a replica lives, and up to where it has applied the feed. NULL: it is not registered, was counted as gone, or
-- has to register again because the database has lost something. A replica whose last entry does not stand is not moved.
CREATE FUNCTION palisade.confirm_1(request text) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
  asked json := convert_from(decode(request, 'base64'), 'UTF8')::json;
  own uuid := (asked->>'id')::uuid;
  at bigint := (asked->>'position')::bigint;
  stood text;
  before bigint;
BEGIN
  SELECT position INTO before FROM palisade.replicas WHERE id = own AND expired_at IS NULL FOR UPDATE;
  IF NOT FOUND OR EXISTS (SELECT FROM palisade.installation WHERE lost IS NOT NULL) THEN
    RETURN NULL;
  END IF;
  stood := palisade.entry_stands_1(at, (asked->>'entry')::uuid);
  UPDATE palisade.replicas SET confirms = confirms + 1, confirmed_at = clock_timestamp(),
    position = CASE WHEN stood = 'gone' THEN position ELSE COALESCE(at, position) END,
    fail_open = (asked->>'fail_open')::boolean, key_ring = (asked->>'key_ring')::bigint
    WHERE id = own;
  IF at IS DISTINCT FROM before AND stood <> 'gone' THEN
    PERFORM pg_notify('palisade_confirmed', at::text);
  END IF;
  -- In a snapshot of their own, taken after the replica sent this.
  RETURN json_build_object(
    'news', palisade.entries_1(at, (asked->>'entry')::uuid, 500),
    'members', palisade.replicas_1());
END
$$;

-- Counts a replica as gone that has not confirmed since it was seen with this number of confirmations. False: it has.
CREATE FUNCTION palisade.expire_1(request text) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
  asked json := convert_from(decode(request, 'base64'), 'UTF8')::json;
  own uuid := (asked->>'id')::uuid;
  seen bigint := (asked->>'confirms')::bigint;
BEGIN
  UPDATE palisade.replicas SET expired_at = clock_timestamp()
    WHERE id = own AND confirms = seen AND fail_open AND expired_at IS NULL;
  IF FOUND THEN
    RETURN to_json(true);
  END IF;
  DELETE FROM palisade.replicas WHERE id = own AND confirms = seen AND expired_at IS NULL;
  RETURN to_json(FOUND);
END
$$;

-- Says for all replicas, and for those that start later, that the database has lost something.
CREATE FUNCTION palisade.lost_1(request text) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
  UPDATE palisade.installation SET lost = convert_from(decode(request, 'base64'), 'UTF8')::json->>'why' WHERE lost IS NULL;
  RETURN to_json(FOUND);
END
$$;

-- Closes the store for writing. Not while replicas serve it, which would go on admitting what is revoked elsewhere:
-- returns their names then, and '' otherwise. One that has not confirmed for a minute more than its lease is gone.
CREATE FUNCTION palisade.close_1(what text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  serving text;
BEGIN
  PERFORM palisade.hold_commits();
  DELETE FROM palisade.replicas
    WHERE confirmed_at < clock_timestamp() - make_interval(secs => lease_ms / 1000.0 + 60);
  SELECT string_agg(name, ', ' ORDER BY name) INTO serving FROM palisade.replicas;
  IF serving IS NULL THEN
    UPDATE palisade.installation SET closed_for = what;
  END IF;
  RETURN coalesce(serving, '');
END
$$;

-- Takes a replica off the list that believes no token any more.
CREATE FUNCTION palisade.leave_1(request text) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
  asked json := convert_from(decode(request, 'base64'), 'UTF8')::json;
BEGIN
  DELETE FROM palisade.replicas WHERE id = (asked->>'id')::uuid;
  RETURN to_json(FOUND);
END
$$;

-- Forgets entries that are older than an hour and that every replica has confirmed; the last one stays. Returns how
-- many.
CREATE FUNCTION palisade.prune_feed_1() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  pruned bigint;
BEGIN
  DELETE FROM palisade.feed WHERE at < clock_timestamp() - interval '1 hour' AND position < LEAST(
    (SELECT position FROM palisade.head),
    (SELECT min(position) FROM palisade.replicas WHERE expired_at IS NULL));
  GET DIAGNOSTICS pruned = ROW_COUNT;
  RETURN pruned;
END
$$;
