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
    """One entry of the feed in four says nothing, and keeps its position and its id."""
    database.sql("""
        CREATE FUNCTION palisade.empty() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF NEW.position % 4 = 0 THEN NEW.body := convert_to('[]', 'UTF8'); END IF; RETURN NEW; END $$;
        CREATE TRIGGER empty BEFORE INSERT ON palisade.feed FOR EACH ROW EXECUTE FUNCTION palisade.empty();
    """)


ALL = {"lease_off": lease_off, "feed_gap": feed_gap}
