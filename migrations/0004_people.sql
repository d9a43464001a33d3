-- People who log in: their sessions, and what must be looked up before a business is known.

-- Counts the changes of the password: a session belongs to the password it was opened with, in every business at once.
ALTER TABLE users ADD COLUMN password_version integer NOT NULL DEFAULT 0;
GRANT UPDATE (password_version) ON users TO icmp_app;

CREATE TABLE user_sessions (
    business_id uuid NOT NULL REFERENCES businesses ON DELETE CASCADE,
    user_session_id uuid NOT NULL,
    user_id uuid NOT NULL,
    token_hash bytea NOT NULL CONSTRAINT user_sessions_token_hash_key UNIQUE,
    password_version integer NOT NULL,
    last_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (business_id, user_session_id),
    FOREIGN KEY (business_id, user_id) REFERENCES memberships ON DELETE CASCADE
);
CREATE INDEX user_sessions_user ON user_sessions (business_id, user_id);
CREATE INDEX user_sessions_expired ON user_sessions (business_id, expires_at);

ALTER TABLE user_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE user_sessions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON user_sessions USING (business_id = (SELECT app_business()))
    WITH CHECK (business_id = (SELECT app_business()));
GRANT SELECT, INSERT, UPDATE, DELETE ON user_sessions TO icmp_app;

GRANT SELECT (business_id, user_session_id, user_id, token_hash, password_version, last_seen_at, expires_at)
    ON user_sessions TO icmp_lookup;
CREATE POLICY lookup ON user_sessions FOR SELECT TO icmp_lookup USING (true);
GRANT SELECT (business_id, user_id, role) ON memberships TO icmp_lookup;
CREATE POLICY lookup ON memberships FOR SELECT TO icmp_lookup USING (true);
GRANT SELECT (user_id, login_email_hash, password_hash, password_version) ON users TO icmp_lookup;
CREATE POLICY lookup ON users FOR SELECT TO icmp_lookup USING (true);

CREATE FUNCTION find_login(email_hash bytea)
    RETURNS TABLE (user_id uuid, password_hash text, password_version integer)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT u.user_id, u.password_hash, u.password_version FROM public.users u
    WHERE u.login_email_hash = email_hash AND u.password_hash IS NOT NULL
$$;

CREATE FUNCTION list_memberships(person uuid) RETURNS TABLE (business_id uuid, role text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT m.business_id, m.role FROM public.memberships m WHERE m.user_id = person ORDER BY m.business_id
$$;

-- The role is read anew for every request: a change of it counts at once.
CREATE FUNCTION find_user_session(hash bytea, idle interval)
    RETURNS TABLE (business_id uuid, user_session_id uuid, user_id uuid, role text, is_stale boolean)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT s.business_id, s.user_session_id, s.user_id, m.role,
           s.last_seen_at < clock_timestamp() - interval '1 minute'
    FROM public.user_sessions s
    JOIN public.memberships m USING (business_id, user_id)
    JOIN public.users u USING (user_id)
    WHERE s.token_hash = hash
      AND s.expires_at > clock_timestamp() AND s.last_seen_at > clock_timestamp() - idle
      AND s.password_version = u.password_version
      AND m.role <> 'customer'
$$;

GRANT CREATE ON SCHEMA public TO icmp_lookup;
ALTER FUNCTION find_login(bytea) OWNER TO icmp_lookup;
ALTER FUNCTION list_memberships(uuid) OWNER TO icmp_lookup;
ALTER FUNCTION find_user_session(bytea, interval) OWNER TO icmp_lookup;
REVOKE CREATE ON SCHEMA public FROM icmp_lookup;
REVOKE ALL ON FUNCTION find_login(bytea) FROM PUBLIC;
REVOKE ALL ON FUNCTION list_memberships(uuid) FROM PUBLIC;
REVOKE ALL ON FUNCTION find_user_session(bytea, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION find_login(bytea) TO icmp_app;
GRANT EXECUTE ON FUNCTION list_memberships(uuid) TO icmp_app;
GRANT EXECUTE ON FUNCTION find_user_session(bytea, interval) TO icmp_app;
