-- While a table has no statistics, PostgreSQL thinks that an index of the business alone serves as well as its primary key,
-- and functions and foreign keys keep such a plan: each turn then reads all rows of its business. Autovacuum would look
-- once a minute; a table that is still small and has doubled is looked at by us, see docs/decisions/0028. One table a call,
-- for a call that is broken off loses its statistics, but not the note that they were taken. Tells whether there was one;
-- one caller at a time, nobody waits.
CREATE FUNCTION analyze_young_table(most_rows bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    young regclass;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('icmp.analyze_young_table', 0)) THEN
        RETURN false;
    END IF;
    -- Any of them: one that is always locked must not hide the others.
    SELECT c.oid INTO young FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.reltuples < most_rows
      AND pg_stat_get_mod_since_analyze(c.oid) > greatest(50, c.reltuples)
    ORDER BY random() LIMIT 1;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    EXECUTE format('ANALYZE (SKIP_LOCKED) %s', young);
    RETURN true;
END $$;
REVOKE ALL ON FUNCTION analyze_young_table(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION analyze_young_table(bigint) TO icmp_app;

-- Their statements take arrays and objects whose size the planner cannot know: it planned them anew each time.
DO $$
DECLARE
    made regprocedure;
BEGIN
    FOR made IN SELECT p.oid::regprocedure FROM pg_proc p
        WHERE p.pronamespace = 'public'::regnamespace AND p.proname IN ('insert_turn_steps', 'end_turn')
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET plan_cache_mode = force_generic_plan', made);
    END LOOP;
END $$;

-- Ciphertext cannot be compressed: PostgreSQL need not try.
ALTER TABLE turn_steps ALTER COLUMN content SET STORAGE EXTERNAL;
ALTER TABLE messages ALTER COLUMN message_content SET STORAGE EXTERNAL, ALTER COLUMN metadata SET STORAGE EXTERNAL;
ALTER TABLE message_requests ALTER COLUMN answer SET STORAGE EXTERNAL;
ALTER TABLE conversations ALTER COLUMN data SET STORAGE EXTERNAL;
