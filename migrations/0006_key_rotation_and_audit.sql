-- Keys that can be changed while the app serves, an audit log that the app can only add to, keys that tell when they end.

-- What is new is written with the newest key whose time has come. A key that is made now is used only after every process
-- has had to read the business's keys again: nobody meets a value whose key it does not know. `is_active` marks the first
-- key of a business; the release before writes with that one.
ALTER TABLE data_keys ADD COLUMN used_from timestamptz NOT NULL DEFAULT now();
CREATE INDEX data_keys_wrapping ON data_keys (wrapping_key_id);
GRANT UPDATE (wrapped, wrapping_key_id) ON platform_secrets TO icmp_app;

-- Who did what to the configuration, who logged in, and every use of the master key. Ids and names of fields only.
-- No reference to businesses: the trail outlives them. The all-zero business is the platform itself.
CREATE TABLE audit_log (
    business_id uuid NOT NULL,
    audit_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL CHECK (actor IN ('master', 'business', 'user', 'nobody', 'command')),
    key_id uuid,
    user_id uuid,
    action text NOT NULL,
    target_id text,
    fields text[] NOT NULL DEFAULT '{}',
    outcome text NOT NULL CHECK (outcome IN ('done', 'refused', 'failed')),
    client_network text,        -- an address cut to /24 or /48
    request_id text,
    PRIMARY KEY (business_id, audit_id)
);
CREATE INDEX audit_log_newest ON audit_log (business_id, created_at DESC, audit_id DESC);
CREATE INDEX audit_log_platform ON audit_log (created_at DESC, audit_id DESC)
    WHERE actor = 'master' OR business_id = '00000000-0000-0000-0000-000000000000';
ALTER TABLE audit_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_log FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON audit_log USING (business_id = (SELECT app_business()))
    WITH CHECK (business_id = (SELECT app_business()));
GRANT SELECT, INSERT ON audit_log TO icmp_app;

-- What is looked up across businesses: ids, names and times; never a wrapped key.
GRANT SELECT (business_id, data_key_id, wrapping_key_id, created_at) ON data_keys TO icmp_lookup;
CREATE POLICY lookup ON data_keys FOR SELECT TO icmp_lookup USING (true);
GRANT SELECT ON audit_log TO icmp_lookup;
CREATE POLICY lookup ON audit_log FOR SELECT TO icmp_lookup USING (true);

-- One step in the index per name, however many keys there are: /readyz asks this.
CREATE FUNCTION list_wrapping_keys() RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    WITH RECURSIVE found (name) AS (
        SELECT min(k.wrapping_key_id) FROM public.data_keys k
        UNION ALL
        SELECT (SELECT min(k.wrapping_key_id) FROM public.data_keys k WHERE k.wrapping_key_id > found.name)
        FROM found WHERE found.name IS NOT NULL)
    SELECT name FROM found WHERE name IS NOT NULL
$$;

CREATE FUNCTION list_keys_to_wrap(active_id text, after_business uuid, after_key uuid, row_limit integer)
    RETURNS TABLE (business_id uuid, data_key_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT k.business_id, k.data_key_id FROM public.data_keys k
    WHERE k.wrapping_key_id <> active_id AND (k.business_id, k.data_key_id) > (after_business, after_key)
    ORDER BY k.business_id, k.data_key_id LIMIT row_limit
$$;

CREATE FUNCTION list_businesses_to_rekey(made_before timestamptz, after_business uuid, row_limit integer)
    RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT k.business_id FROM public.data_keys k WHERE k.business_id > after_business
    GROUP BY k.business_id HAVING max(k.created_at) < made_before
    ORDER BY k.business_id LIMIT row_limit
$$;

CREATE FUNCTION list_platform_audit(p_action text, p_actor text, p_since timestamptz, p_until timestamptz,
                                    before_at timestamptz, before_id uuid, row_limit integer, row_offset integer)
    RETURNS TABLE (audit_id uuid, business_id uuid, created_at timestamptz, actor text, key_id uuid, user_id uuid,
                   action text, target_id text, fields text[], outcome text, client_network text, request_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT a.audit_id, a.business_id, a.created_at, a.actor, a.key_id, a.user_id, a.action, a.target_id, a.fields,
           a.outcome, a.client_network, a.request_id
    FROM public.audit_log a
    WHERE (a.actor = 'master' OR a.business_id = '00000000-0000-0000-0000-000000000000')
      AND (p_action IS NULL OR a.action = p_action) AND (p_actor IS NULL OR a.actor = p_actor)
      AND (p_since IS NULL OR a.created_at >= p_since) AND (p_until IS NULL OR a.created_at < p_until)
      AND (before_at IS NULL OR (a.created_at, a.audit_id) < (before_at, before_id))
    ORDER BY a.created_at DESC, a.audit_id DESC LIMIT row_limit OFFSET row_offset
$$;

-- Like find_api_key and find_session, which the release before calls, and they tell when the key ends.
CREATE FUNCTION find_live_key(hash bytea)
    RETURNS TABLE (business_id uuid, key_id uuid, is_stale boolean, expires_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT k.business_id, k.key_id, coalesce(k.last_used_at < clock_timestamp() - interval '1 minute', true), k.expires_at
    FROM public.api_keys k
    WHERE k.key_hash = hash
      AND k.revoked_at IS NULL
      AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
$$;

CREATE FUNCTION find_live_session(hash bytea, idle interval)
    RETURNS TABLE (business_id uuid, key_id uuid, session_key_id uuid, is_stale boolean, expires_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT s.business_id, s.key_id, s.session_key_id, s.last_seen_at < clock_timestamp() - interval '1 minute',
           k.expires_at
    FROM public.sessions s JOIN public.api_keys k USING (business_id, key_id)
    WHERE s.token_hash = hash
      AND s.expires_at > clock_timestamp() AND s.last_seen_at > clock_timestamp() - idle
      AND k.revoked_at IS NULL
      AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
$$;

GRANT CREATE ON SCHEMA public TO icmp_lookup;
DO $$
DECLARE
    made regprocedure;
BEGIN
    FOREACH made IN ARRAY ARRAY[
        'list_wrapping_keys()', 'list_keys_to_wrap(text, uuid, uuid, integer)',
        'list_businesses_to_rekey(timestamptz, uuid, integer)',
        'list_platform_audit(text, text, timestamptz, timestamptz, timestamptz, uuid, integer, integer)',
        'find_live_key(bytea)', 'find_live_session(bytea, interval)']::regprocedure[]
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', made);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO icmp_app', made);
        EXECUTE format('ALTER FUNCTION %s OWNER TO icmp_lookup', made);
    END LOOP;
END $$;
REVOKE CREATE ON SCHEMA public FROM icmp_lookup;
