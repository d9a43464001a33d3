-- Find a live key and take a token from its bucket of that name, as find_live_key and take_from_bucket do, in one call.
-- No row when the key is not alive, and nothing is taken then. From here on the transaction is that of the key's
-- business: what limit that has set for itself is its own to read.
CREATE FUNCTION find_key_and_take(p_key_hash bytea, p_limit text, p_tokens double precision, p_seconds double precision)
    RETURNS TABLE (
        business_id uuid, key_id uuid, is_stale boolean, expires_at timestamptz,
        tokens double precision, is_allowed boolean, remaining double precision, retry_after_s double precision)
    LANGUAGE plpgsql AS $$
BEGIN
    SELECT k.business_id, k.key_id, k.is_stale, k.expires_at INTO business_id, key_id, is_stale, expires_at
    FROM find_live_key(p_key_hash) k;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM set_config('icmp.business_id', business_id::text, true);
    SELECT t.tokens, t.is_allowed, t.remaining, t.retry_after_s INTO tokens, is_allowed, remaining, retry_after_s
    FROM take_from_bucket(sha256(convert_to(key_id || '/' || p_limit, 'UTF8')), p_tokens, p_seconds, 1,
                          CASE p_limit WHEN 'messages' THEN business_id END) t;
    RETURN NEXT;
END $$;

REVOKE ALL ON FUNCTION find_key_and_take(bytea, text, double precision, double precision) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION find_key_and_take(bytea, text, double precision, double precision) TO icmp_app;
