"""Breaches of the promise, made in the database, where no program that ships can hold them: to prove the checker."""

from collections.abc import Callable
from dataclasses import dataclass

import checker


@dataclass
class Mutation:
    make: Callable
    # Which rule of the checker has to find it.
    finds: Callable = checker.admitted_after
    # What replicas suffer meanwhile: a fault of `Faults`.
    fault: str | None = None
    # Whether it shows only where everything is read back at the end.
    at_the_end: bool = False


def lease_off(database):
    """A replica believes its revocations for longer than the writers wait for it: the rows say a tenth of a second."""
    database.sql("""
        CREATE FUNCTION palisade.shorten() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.lease_ms := 100; RETURN NEW; END $$;
        CREATE TRIGGER shorten BEFORE INSERT OR UPDATE ON palisade.replicas FOR EACH ROW EXECUTE FUNCTION palisade.shorten();
        UPDATE palisade.replicas SET lease_ms = 100;
    """)


def feed_gap(database):
    """One entry of the feed in four says what the one before it has said, at its own position and with its own id."""
    database.sql("""
        CREATE FUNCTION palisade.leave_out() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN
                IF NEW.position % 4 = 0 THEN
                    NEW.body := coalesce((SELECT f.body FROM palisade.feed f WHERE f.position = NEW.position - 1), NEW.body);
                END IF;
                RETURN NEW;
            END $$;
        CREATE TRIGGER leave_out BEFORE INSERT ON palisade.feed FOR EACH ROW EXECUTE FUNCTION palisade.leave_out();
    """)


def revision_goes_back(database, connection, revision):
    """A connection says a former revision, by which a write tells that another one came in between."""
    database.sql(f"UPDATE palisade.connections SET revision = {revision} WHERE id = '{connection}'")


def write_lost(database):
    """One write of an account in three is acknowledged and not made."""
    database.sql("""
        CREATE SEQUENCE palisade.writes;
        CREATE FUNCTION palisade.leave_it() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RETURN CASE WHEN nextval('palisade.writes') % 3 = 0 THEN OLD ELSE NEW END; END $$;
        CREATE TRIGGER leave_it BEFORE UPDATE ON palisade.users FOR EACH ROW EXECUTE FUNCTION palisade.leave_it();
    """)


def ends_too_much(database):
    """One entry of the feed in four ends another session as well."""
    database.sql("""
        CREATE FUNCTION palisade.end_another() RETURNS trigger LANGUAGE plpgsql AS
            $$ DECLARE
                entries jsonb := convert_from(NEW.body, 'UTF8')::jsonb;
                another bytea;
            BEGIN
                SELECT decode('02', 'hex') || int4send(16) || 'http://gate.test'::bytea || s.id::text::bytea INTO another
                    FROM palisade.sessions s ORDER BY s.id DESC LIMIT 1;
                IF NEW.position % 4 = 0 AND another IS NOT NULL THEN
                    NEW.body := convert_to((entries || jsonb_set(entries->0, '{key}',
                        to_jsonb(translate(encode(another, 'base64'), E'\\n', ''))))::text, 'UTF8');
                END IF;
                RETURN NEW;
            END $$;
        CREATE TRIGGER end_another BEFORE INSERT ON palisade.feed FOR EACH ROW EXECUTE FUNCTION palisade.end_another();
    """)


def waited_in_a_socket(history):
    return [breach for breach in checker.admitted_after(history) if checker.DECIDED_LATER in breach]


ALL = {
    "lease_off": Mutation(lease_off, fault="cut_off"),
    "lease_off_while_paused": Mutation(lease_off, waited_in_a_socket, fault="pause_within_lease"),
    "feed_gap": Mutation(feed_gap, fault="cut_off"),
    "write_lost": Mutation(write_lost, at_the_end=True),
    "ends_too_much": Mutation(ends_too_much, checker.refused_wrongly),
}

# What the short form tries: the written histories prove every rule there, too.
SHORT = ("lease_off", "feed_gap", "write_lost")
