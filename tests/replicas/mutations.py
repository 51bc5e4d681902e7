"""Breaches of the promise, made in the database, where no program that ships can hold them: to prove the checker."""


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


ALL = {"lease_off": lease_off, "feed_gap": feed_gap}
