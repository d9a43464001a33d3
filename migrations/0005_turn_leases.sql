-- A turn is claimed for a time and can be taken over; a message is answered once per idempotency key; a business's
-- set-up has a version, so that a process can keep what it has read.

ALTER TABLE turns
    ADD COLUMN owner text,                          -- the process that claimed it last, for people who look
    ADD COLUMN epoch bigint NOT NULL DEFAULT 0,     -- fencing: grows with each claim, whoever has an older one is late
    ADD COLUMN lease_until timestamptz,             -- null: nobody has claimed it
    ADD COLUMN attempts integer NOT NULL DEFAULT 0;
-- The release before this one claims nothing: what it still inserts must not be taken from it while it works.
ALTER TABLE turns ALTER COLUMN lease_until SET DEFAULT clock_timestamp() + interval '2 minutes';
CREATE INDEX turns_open ON turns (business_id, conversation_id, number) WHERE state = 'open';

-- What was asked with a message, and what was answered, byte for byte. Kept for a day.
CREATE TABLE message_requests (
    business_id uuid NOT NULL,
    message_id uuid NOT NULL,
    key_hash bytea,             -- of the Idempotency-Key
    fingerprint bytea,          -- keyed hash of the request, to tell another request under the same key
    status smallint,            -- null until there is an answer
    answer bytea,               -- ciphertext of the body
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (business_id, message_id),
    FOREIGN KEY (business_id, message_id) REFERENCES messages ON DELETE CASCADE
);
CREATE UNIQUE INDEX message_requests_key ON message_requests (business_id, key_hash) WHERE key_hash IS NOT NULL;
CREATE INDEX message_requests_oldest ON message_requests (created_at);
ALTER TABLE message_requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE message_requests FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON message_requests USING (business_id = (SELECT app_business()))
    WITH CHECK (business_id = (SELECT app_business()));
GRANT SELECT, INSERT, UPDATE, DELETE ON message_requests TO icmp_app;

-- The version of everything that turns read of a business's set-up.
ALTER TABLE businesses ADD COLUMN setup_version bigint NOT NULL DEFAULT 0;

CREATE FUNCTION count_setup_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    UPDATE public.businesses SET setup_version = setup_version + 1 WHERE business_id = public.app_business();
    RETURN NULL;
END $$;
CREATE FUNCTION count_business_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF NEW.setup_version = OLD.setup_version THEN
        NEW.setup_version := OLD.setup_version + 1;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER setup_change BEFORE UPDATE ON businesses FOR EACH ROW EXECUTE FUNCTION count_business_change();
CREATE TRIGGER setup_change AFTER INSERT OR UPDATE OR DELETE ON agents
    FOR EACH STATEMENT EXECUTE FUNCTION count_setup_change();
CREATE TRIGGER setup_change AFTER INSERT OR UPDATE OR DELETE ON stages
    FOR EACH STATEMENT EXECUTE FUNCTION count_setup_change();
CREATE TRIGGER setup_change AFTER INSERT OR UPDATE OR DELETE ON templates
    FOR EACH STATEMENT EXECUTE FUNCTION count_setup_change();

-- Two looks across businesses, for the thread that takes over what was lost and forgets what is old. They tell ids only;
-- what is done about them is done business by business.
CREATE POLICY lookup ON turns FOR SELECT TO icmp_lookup USING (true);
GRANT SELECT (business_id, turn_id, conversation_id, number, state, lease_until, created_at) ON turns TO icmp_lookup;
CREATE POLICY lookup ON message_requests FOR SELECT TO icmp_lookup USING (true);
GRANT SELECT (business_id, created_at) ON message_requests TO icmp_lookup;

-- A turn that nobody has claimed has a request that waits for it, which looks much more often than every five seconds.
CREATE FUNCTION find_abandoned_turns(most integer) RETURNS TABLE (business_id uuid, turn_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT t.business_id, t.turn_id FROM public.turns t
    WHERE t.state = 'open'
      AND (t.lease_until < clock_timestamp()
           OR t.lease_until IS NULL AND t.created_at < clock_timestamp() - interval '5 seconds')
      AND NOT EXISTS (
          SELECT FROM public.turns earlier
          WHERE earlier.business_id = t.business_id AND earlier.conversation_id = t.conversation_id
            AND earlier.state = 'open' AND earlier.number < t.number)
    ORDER BY t.created_at LIMIT most
$$;

CREATE FUNCTION find_old_message_requests(hours double precision, most integer) RETURNS TABLE (business_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT DISTINCT old.business_id FROM (
        SELECT r.business_id FROM public.message_requests r
        WHERE r.created_at < clock_timestamp() - make_interval(secs => hours * 3600)
        ORDER BY r.created_at LIMIT most) old
$$;

GRANT CREATE ON SCHEMA public TO icmp_lookup;
ALTER FUNCTION find_abandoned_turns(integer) OWNER TO icmp_lookup;
ALTER FUNCTION find_old_message_requests(double precision, integer) OWNER TO icmp_lookup;
REVOKE CREATE ON SCHEMA public FROM icmp_lookup;
REVOKE ALL ON FUNCTION find_abandoned_turns(integer), find_old_message_requests(double precision, integer),
    count_setup_change(), count_business_change() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION find_abandoned_turns(integer), find_old_message_requests(double precision, integer)
    TO icmp_app;
