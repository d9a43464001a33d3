-- What analytics and retention read, and the ways to it.

-- What a turn made of its conversation, known only at the moment it is saved. Turns from before have none of it: they
-- count as turns, and in no funnel.
ALTER TABLE turns
    ADD COLUMN entered_stage boolean NOT NULL DEFAULT false,    -- this turn brought the conversation into its stage
    ADD COLUMN missing_fields jsonb,                            -- names of required fields still unknown after it
    ADD COLUMN conversation_status text                         -- null when the turn changed nothing
        CHECK (conversation_status IN ('active', 'paused', 'completed'));

-- A period of one business. Only what never changes is in these indexes, so that closing a turn stays cheap.
CREATE INDEX turns_of_time ON turns (business_id, created_at);
CREATE INDEX turn_steps_of_time ON turn_steps (business_id, created_at);
CREATE INDEX messages_of_time ON messages (business_id, created_at) INCLUDE (sender_type);

-- Retention goes by when an event was received: event_timestamp is the sender's clock, which may say anything.
CREATE INDEX events_of_receipt ON events (business_id, received_at);

-- Retention visits one business after another. By id, a few at a time: a row of list_businesses costs their catalogues.
CREATE FUNCTION list_business_ids(after_id uuid, row_limit integer) RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT b.business_id FROM public.businesses b
    WHERE after_id IS NULL OR b.business_id > after_id ORDER BY b.business_id LIMIT row_limit
$$;
GRANT CREATE ON SCHEMA public TO icmp_lookup;
ALTER FUNCTION list_business_ids(uuid, integer) OWNER TO icmp_lookup;
REVOKE CREATE ON SCHEMA public FROM icmp_lookup;
REVOKE ALL ON FUNCTION list_business_ids(uuid, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION list_business_ids(uuid, integer) TO icmp_app;
