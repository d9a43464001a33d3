-- A bucket row knows when it will be full, because a full one need not be kept: the sweep can tell each size of bucket.
-- Without an index on a column that every take changes, a take rewrites the row in its page and touches no index.
DROP INDEX rate_buckets_age;
ALTER TABLE rate_buckets ADD COLUMN full_at timestamptz NOT NULL DEFAULT now() + interval '1 hour';
ALTER TABLE rate_buckets SET (fillfactor = 50);

-- As before, and no taker waits long for a row: a request that cannot be limited in time goes on without.
CREATE OR REPLACE FUNCTION take_tokens(
    p_key bytea, p_capacity double precision, p_per_second double precision, p_cost double precision)
    RETURNS TABLE (is_allowed boolean, remaining double precision, retry_after_s double precision)
    LANGUAGE plpgsql SET lock_timeout = '500ms' AS $$
DECLARE
    now_at timestamptz;
    held double precision;
    held_at timestamptz;
BEGIN
    LOOP
        SELECT tokens, filled_at INTO held, held_at FROM rate_buckets WHERE bucket_key = p_key FOR UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO rate_buckets (bucket_key, tokens, filled_at, full_at)
        VALUES (p_key, p_capacity, clock_timestamp(), clock_timestamp()) ON CONFLICT (bucket_key) DO NOTHING;
    END LOOP;
    now_at := clock_timestamp();
    held := least(p_capacity, held + greatest(0, extract(epoch FROM now_at - held_at)) * p_per_second);
    is_allowed := held >= p_cost;
    IF is_allowed THEN
        held := held - p_cost;
    END IF;
    UPDATE rate_buckets
    SET tokens = held, filled_at = greatest(now_at, held_at),
        full_at = greatest(now_at, held_at) + make_interval(secs => (p_capacity - held) / p_per_second)
    WHERE bucket_key = p_key;
    remaining := held;
    retry_after_s := CASE WHEN is_allowed THEN 0 ELSE (p_cost - held) / p_per_second END;
    RETURN NEXT;
END $$;

-- The same for a bucket of p_tokens that fills in p_seconds, or of as many tokens as the business p_limit_of has set for
-- itself in messages_per_minute. A function, because its plans are kept: written out in the app, the statement costs
-- twice the time.
CREATE FUNCTION take_from_bucket(
    p_key bytea, p_tokens double precision, p_seconds double precision, p_cost double precision, p_limit_of uuid)
    RETURNS TABLE (tokens double precision, is_allowed boolean, remaining double precision, retry_after_s double precision)
    LANGUAGE plpgsql AS $$
BEGIN
    IF p_limit_of IS NOT NULL THEN
        SELECT (settings -> 'messages_per_minute')::double precision INTO tokens
        FROM businesses WHERE business_id = p_limit_of;
    END IF;
    tokens := coalesce(tokens, p_tokens);
    SELECT t.is_allowed, t.remaining, t.retry_after_s INTO is_allowed, remaining, retry_after_s
    FROM take_tokens(p_key, tokens, tokens / p_seconds, p_cost) t;
    RETURN NEXT;
END $$;

REVOKE ALL ON FUNCTION take_from_bucket(bytea, double precision, double precision, double precision, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION take_from_bucket(bytea, double precision, double precision, double precision, uuid) TO icmp_app;
