-- Room for the new version of a row in its page.
ALTER TABLE conversations SET (fillfactor = 70);
ALTER TABLE message_requests SET (fillfactor = 50);

-- A turn's two transactions, and the steps kept between them, each as one call: their plans are kept by the server, and a
-- turn waits for a handful of round trips instead of seventeen. They run with the caller's rights, under row-level
-- security, and every statement names the business.

-- Store a customer's message with all that its answer needs, or tell why not. `verdict` is `accepted`, or else nothing was
-- written: `repeated` (the key has been here before: message_id, turn_id, number, state, error_code and fingerprint are
-- that message's), `paused` (people answer: the caller stores it), `not found`, `completed`, `no stages`, `busy`.
-- epoch is 0 while other turns of the conversation are open; the history is that of a turn that begins at once.
CREATE FUNCTION accept_message(
    p_business_id uuid, p_user_id uuid, p_message_id uuid, p_turn_id uuid, p_message_content bytea, p_metadata bytea,
    p_key_hash bytea, p_fingerprint bytea, p_conversation_id uuid, p_session_id text, p_new_conversation_id uuid,
    p_new_session_id text, p_minutes integer, p_owner text, p_lease_s double precision, p_most_waiting integer,
    p_most_merged_bytes integer, p_most_history integer)
    RETURNS TABLE (
        verdict text, message_id uuid, turn_id uuid, number bigint, epoch bigint, attempts integer, others bigint,
        state text, error_code text, fingerprint bytea,
        conversation_id uuid, business_id uuid, user_id uuid, agent_id uuid, stage_id uuid, stage_name text,
        session_id text, start_time timestamptz, last_updated timestamptz, status text, data bytea, missing_fields jsonb,
        contact bytea, setup_version bigint, templates bigint, newest_template timestamptz,
        history_ids text[], history_turns text[], history_senders text[], history_contents bytea[],
        history_sequences bigint[])
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    policy text;
BEGIN
    IF p_key_hash IS NOT NULL THEN
        -- Until the transaction ends nobody else accepts a message under this key.
        PERFORM pg_advisory_xact_lock(hashtextextended(p_business_id || ':' || encode(p_key_hash, 'hex'), 0));
        SELECT m.message_id, m.conversation_id, m.turn_id, coalesce(t.number, 0), t.state, t.error_code,
               coalesce(r.fingerprint, ''::bytea)
        INTO message_id, conversation_id, turn_id, number, state, error_code, fingerprint
        FROM message_requests r JOIN messages m ON m.business_id = r.business_id AND m.message_id = r.message_id
        LEFT JOIN turns t ON t.business_id = m.business_id AND t.turn_id = m.turn_id
        WHERE r.business_id = p_business_id AND r.key_hash = p_key_hash;
        IF FOUND THEN
            verdict := 'repeated';
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;

    SELECT b.setup_version, coalesce(b.settings ->> 'on_concurrent_message', 'queue') INTO setup_version, policy
    FROM businesses b WHERE b.business_id = p_business_id;
    IF NOT FOUND THEN
        verdict := 'not found';
        RETURN NEXT;
        RETURN;
    END IF;
    SELECT count(*), max(g.created_at) INTO templates, newest_template FROM global_templates g;

    -- The conversation that the message belongs to, locked until the message is stored.
    IF p_conversation_id IS NOT NULL THEN
        SELECT c.conversation_id, c.user_id, c.status INTO conversation_id, user_id, status FROM conversations c
        WHERE c.business_id = p_business_id AND c.conversation_id = p_conversation_id FOR UPDATE;
        IF NOT FOUND OR user_id <> p_user_id THEN
            verdict := 'not found';
            RETURN NEXT;
            RETURN;
        END IF;
    ELSE
        FOR look IN 1..2 LOOP
            IF p_session_id IS NOT NULL THEN
                SELECT c.conversation_id, c.status INTO conversation_id, status FROM conversations c
                WHERE c.business_id = p_business_id AND c.user_id = p_user_id AND c.session_id = p_session_id
                  AND c.status IN ('active', 'paused') FOR UPDATE;
            ELSE
                SELECT c.conversation_id, c.status INTO conversation_id, status FROM conversations c
                WHERE c.business_id = p_business_id AND c.user_id = p_user_id AND c.status = 'active'
                  AND c.last_updated > clock_timestamp() - make_interval(mins => p_minutes)
                ORDER BY c.last_updated DESC LIMIT 1 FOR UPDATE;
            END IF;
            EXIT WHEN FOUND OR look = 2;
            -- Two first messages at once must find one conversation, which no unique index can say when neither
            -- names a session: from here on nobody else starts one for this user.
            PERFORM pg_advisory_xact_lock(hashtextextended(p_business_id || ':' || p_user_id, 0));
        END LOOP;
    END IF;
    verdict := CASE
        WHEN status = 'completed' THEN 'completed'
        WHEN status = 'paused' THEN 'paused'
        WHEN NOT EXISTS (SELECT FROM stages s WHERE s.business_id = p_business_id) THEN 'no stages'
    END;
    IF verdict IS NOT NULL THEN
        RETURN NEXT;
        RETURN;
    END IF;
    IF conversation_id IS NULL THEN
        conversation_id := p_new_conversation_id;
        IF NOT EXISTS (SELECT FROM memberships m WHERE m.business_id = p_business_id AND m.user_id = p_user_id) THEN
            -- No conflict target: with one, row-level security would want the new row to be visible already.
            INSERT INTO users (user_id) VALUES (p_user_id) ON CONFLICT DO NOTHING;
            INSERT INTO memberships (business_id, user_id, role) VALUES (p_business_id, p_user_id, 'customer')
            ON CONFLICT DO NOTHING;
        END IF;
        INSERT INTO conversations (business_id, conversation_id, user_id, session_id)
        VALUES (p_business_id, p_new_conversation_id, p_user_id, coalesce(p_session_id, p_new_session_id));
    END IF;

    -- Its place: in the last turn if that waits, with policy `merge`, or in one of its own, claimed when no other is open.
    IF policy = 'merge' THEN
        SELECT t.turn_id, t.number INTO turn_id, number FROM turns t
        WHERE t.business_id = p_business_id AND t.conversation_id = accept_message.conversation_id
          AND t.state = 'open' AND t.attempts = 0
          AND NOT EXISTS (SELECT FROM turns later WHERE later.business_id = t.business_id
                          AND later.conversation_id = t.conversation_id AND later.state = 'open' AND later.number > t.number)
          AND (SELECT sum(octet_length(m.message_content)) FROM messages m
               WHERE m.business_id = t.business_id AND m.turn_id = t.turn_id) <= p_most_merged_bytes
        FOR UPDATE;
    END IF;
    epoch := 0;
    attempts := 0;
    IF turn_id IS NULL THEN
        turn_id := p_turn_id;
        SELECT count(*) INTO others FROM turns t
        WHERE t.business_id = p_business_id AND t.conversation_id = accept_message.conversation_id AND t.state = 'open';
        IF others > (CASE policy WHEN 'reject' THEN 0 ELSE p_most_waiting END) THEN
            verdict := 'busy';
            RETURN NEXT;
            RETURN;
        END IF;
        IF others = 0 THEN
            epoch := 1;
            attempts := 1;
            SELECT array_agg(h.message_id::text), array_agg(h.turn_id::text), array_agg(h.sender_type),
                   array_agg(h.message_content), array_agg(h.sequence)
            INTO history_ids, history_turns, history_senders, history_contents, history_sequences
            FROM (SELECT m.message_id, m.turn_id, m.sender_type, m.message_content, m.sequence FROM messages m
                  WHERE m.business_id = p_business_id AND m.conversation_id = accept_message.conversation_id
                  ORDER BY m.sequence DESC LIMIT p_most_history) h;
        END IF;
        -- A time that is nearly right stays: while no column of an index changes, the row is rewritten in its page and
        -- no index is touched.
        UPDATE conversations c SET turn_count = c.turn_count + 1, last_updated = CASE
            WHEN c.last_updated > clock_timestamp() - interval '5 seconds' THEN c.last_updated ELSE clock_timestamp() END
        WHERE c.business_id = p_business_id AND c.conversation_id = accept_message.conversation_id
        RETURNING c.turn_count INTO number;
        INSERT INTO turns (business_id, turn_id, conversation_id, number, owner, epoch, attempts, lease_until)
        VALUES (p_business_id, p_turn_id, conversation_id, number, p_owner, epoch, attempts,
                CASE epoch WHEN 1 THEN clock_timestamp() + make_interval(secs => p_lease_s) END);
    END IF;
    INSERT INTO messages (business_id, message_id, conversation_id, turn_id, sender_type, message_content, metadata)
    VALUES (p_business_id, p_message_id, conversation_id, turn_id, 'user', p_message_content, p_metadata);
    INSERT INTO message_requests (business_id, message_id, key_hash, fingerprint)
    VALUES (p_business_id, p_message_id, p_key_hash, p_fingerprint);

    verdict := 'accepted';
    message_id := p_message_id;
    SELECT c.business_id, c.user_id, c.agent_id, c.stage_id, c.session_id, c.start_time, c.last_updated, c.status, c.data,
           c.missing_fields, m.contact,
           (SELECT s.stage_name FROM stages s WHERE s.business_id = c.business_id AND s.stage_id = c.stage_id)
    INTO business_id, user_id, agent_id, stage_id, session_id, start_time, last_updated, status, data, missing_fields,
         contact, stage_name
    FROM conversations c JOIN memberships m ON m.business_id = c.business_id AND m.user_id = c.user_id
    WHERE c.business_id = p_business_id AND c.conversation_id = accept_message.conversation_id;
    RETURN NEXT;
END $$;

-- The steps of a turn from position p_first on: their plain columns as an array of objects, their ciphertexts beside it.
CREATE FUNCTION insert_turn_steps(
    p_business_id uuid, p_turn_id uuid, p_first integer, p_steps jsonb, p_contents bytea[])
    RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO turn_steps (
        business_id, turn_id, position, content, kind, outcome, stage_name, template_id, template_version, model, attempts,
        prompt_tokens, completion_tokens, cost_usd, latency_ms)
    SELECT p_business_id, p_turn_id, p_first + s.place - 1, p_contents[s.place], s.kind, s.outcome, s.stage_name,
           s.template_id, s.template_version, s.model, s.attempts, s.prompt_tokens, s.completion_tokens, s.cost_usd,
           s.latency_ms
    FROM ROWS FROM (jsonb_to_recordset(p_steps) AS (
             kind text, outcome text, stage_name text, template_id text, template_version integer, model text,
             attempts integer, prompt_tokens integer, completion_tokens integer, cost_usd numeric,
             latency_ms double precision))
         WITH ORDINALITY AS s (
             kind, outcome, stage_name, template_id, template_version, model, attempts, prompt_tokens, completion_tokens,
             cost_usd, latency_ms, place);
END $$;

-- Keep finished steps before the turn goes on; false when somebody else has taken it over.
CREATE FUNCTION keep_turn_steps(
    p_business_id uuid, p_turn_id uuid, p_epoch bigint, p_first integer, p_steps jsonb, p_contents bytea[])
    RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM turns t
    WHERE t.business_id = p_business_id AND t.turn_id = p_turn_id AND t.epoch = p_epoch AND t.state = 'open' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM insert_turn_steps(p_business_id, p_turn_id, p_first, p_steps, p_contents);
    RETURN true;
END $$;

-- End a turn: its outcome, its last steps and the answer to each of its messages; with a reply that reply, and the state
-- in which it leaves the conversation. Tells `ended`, or else nothing was written: `fenced` (somebody else has taken the
-- turn over, or it has ended), `not active` (people took the conversation over while the model was thinking: its reply
-- must not reach the customer any more), `not found`.
CREATE FUNCTION end_turn(
    p_business_id uuid, p_turn_id uuid, p_conversation_id uuid, p_epoch bigint, p_outcome jsonb,
    p_first integer, p_steps jsonb, p_contents bytea[],
    p_answer_status smallint, p_message_ids uuid[], p_answers bytea[],
    p_reply_id uuid, p_reply_content bytea, p_stage_id uuid, p_agent_id uuid, p_is_agent_chosen boolean, p_status text,
    p_data bytea, p_missing_fields jsonb)
    RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    before record;
BEGIN
    SELECT c.status, c.stage_id INTO before FROM conversations c
    WHERE c.business_id = p_business_id AND c.conversation_id = p_conversation_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'not found';
    ELSIF p_reply_id IS NOT NULL AND before.status <> 'active' THEN
        RETURN 'not active';
    END IF;
    UPDATE turns t SET
        state = o.state, error_code = o.error_code, stage_id = o.stage_id, stage_name = o.stage_name,
        agent_id = o.agent_id, confidence = o.confidence, model = o.model, degraded = coalesce(o.degraded, false),
        prompt_tokens = coalesce(o.prompt_tokens, 0), completion_tokens = coalesce(o.completion_tokens, 0),
        cost_usd = o.cost_usd, timings_ms = o.timings_ms, lease_until = NULL, finished_at = clock_timestamp(),
        -- What it makes of its conversation, for analytics: known at this moment only.
        entered_stage = p_reply_id IS NOT NULL AND o.stage_id IS NOT NULL AND o.stage_id IS DISTINCT FROM before.stage_id,
        missing_fields = CASE WHEN p_reply_id IS NOT NULL THEN p_missing_fields END,
        conversation_status = CASE WHEN p_reply_id IS NOT NULL THEN p_status END
    FROM jsonb_to_record(p_outcome) AS o (
        state text, error_code text, stage_id uuid, stage_name text, agent_id uuid, confidence double precision,
        model text, degraded boolean, prompt_tokens integer, completion_tokens integer, cost_usd numeric,
        timings_ms jsonb)
    WHERE t.business_id = p_business_id AND t.turn_id = p_turn_id AND t.epoch = p_epoch AND t.state = 'open';
    IF NOT FOUND THEN
        RETURN 'fenced';
    END IF;
    PERFORM insert_turn_steps(p_business_id, p_turn_id, p_first, p_steps, p_contents);
    UPDATE message_requests r SET status = p_answer_status, answer = given.answer
    FROM unnest(p_message_ids, p_answers) AS given (message_id, answer)
    WHERE r.business_id = p_business_id AND r.message_id = given.message_id;
    IF p_reply_id IS NOT NULL THEN
        INSERT INTO messages (business_id, message_id, conversation_id, turn_id, sender_type, message_content)
        VALUES (p_business_id, p_reply_id, p_conversation_id, p_turn_id, 'ai', p_reply_content);
        -- A stage or agent deleted meanwhile becomes null, as it does for conversations that stand in it. An agent that
        -- staff named meanwhile stays, unless this turn chose another one.
        UPDATE conversations c SET
            stage_id = (SELECT s.stage_id FROM stages s WHERE s.business_id = p_business_id AND s.stage_id = p_stage_id),
            agent_id = CASE WHEN p_is_agent_chosen THEN
                (SELECT a.agent_id FROM agents a WHERE a.business_id = p_business_id AND a.agent_id = p_agent_id)
                ELSE c.agent_id END,
            status = p_status, data = p_data, missing_fields = p_missing_fields, last_updated = clock_timestamp()
        WHERE c.business_id = p_business_id AND c.conversation_id = p_conversation_id;
    END IF;
    RETURN 'ended';
END $$;

DO $$
DECLARE
    made regprocedure;
BEGIN
    FOR made IN SELECT p.oid::regprocedure FROM pg_proc p
        WHERE p.pronamespace = 'public'::regnamespace
          AND p.proname IN ('accept_message', 'insert_turn_steps', 'keep_turn_steps', 'end_turn')
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', made);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO icmp_app', made);
    END LOOP;
END $$;
