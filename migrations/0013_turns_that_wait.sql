-- A message that waits in its conversation's queue is taken up by its own request, which hears of the end of the turn before
-- within a second or two: only after that nobody is there for it. So the five seconds count from that end, not from the
-- message. The function with one parameter is the release before's.
GRANT SELECT (finished_at) ON turns TO icmp_lookup;
CREATE FUNCTION find_abandoned_turns(most integer, grace_s double precision)
    RETURNS TABLE (business_id uuid, turn_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT t.business_id, t.turn_id FROM public.turns t
    WHERE t.state = 'open'
      AND (t.lease_until < clock_timestamp()
           OR t.lease_until IS NULL AND greatest(t.created_at, (
               SELECT before.finished_at FROM public.turns before
               WHERE before.business_id = t.business_id AND before.conversation_id = t.conversation_id
                 AND before.number < t.number
               ORDER BY before.number DESC LIMIT 1)) < clock_timestamp() - make_interval(secs => grace_s))
      AND NOT EXISTS (
          SELECT FROM public.turns earlier
          WHERE earlier.business_id = t.business_id AND earlier.conversation_id = t.conversation_id
            AND earlier.state = 'open' AND earlier.number < t.number)
    ORDER BY t.created_at LIMIT most
$$;
GRANT CREATE ON SCHEMA public TO icmp_lookup;
ALTER FUNCTION find_abandoned_turns(integer, double precision) OWNER TO icmp_lookup;
REVOKE CREATE ON SCHEMA public FROM icmp_lookup;
REVOKE ALL ON FUNCTION find_abandoned_turns(integer, double precision) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION find_abandoned_turns(integer, double precision) TO icmp_app;

-- As keep_turn_steps, for one who also wants to know whether the conversation is the model's still: `kept`; `not active`, kept
-- as well, when people took it over or completed it; `fenced`, and nothing kept, when somebody else has taken the turn over.
CREATE FUNCTION keep_steps_of_turn(
    p_business_id uuid, p_turn_id uuid, p_epoch bigint, p_first integer, p_steps jsonb, p_contents bytea[])
    RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    conversation uuid;
BEGIN
    SELECT t.conversation_id INTO conversation FROM turns t
    WHERE t.business_id = p_business_id AND t.turn_id = p_turn_id AND t.epoch = p_epoch AND t.state = 'open' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'fenced';
    END IF;
    PERFORM insert_turn_steps(p_business_id, p_turn_id, p_first, p_steps, p_contents);
    -- Each row by its primary key: a join could be planned from the side of a business's many conversations.
    RETURN CASE WHEN EXISTS (
        SELECT FROM conversations c
        WHERE c.business_id = p_business_id AND c.conversation_id = conversation AND c.status = 'active')
        THEN 'kept' ELSE 'not active' END;
END $$;
REVOKE ALL ON FUNCTION keep_steps_of_turn(uuid, uuid, bigint, integer, jsonb, bytea[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION keep_steps_of_turn(uuid, uuid, bigint, integer, jsonb, bytea[]) TO icmp_app;
