-- Token buckets shared by all workers and instances. Unlogged: a crash of the server refills them, which is harmless,
-- and no request waits for a disk.
CREATE UNLOGGED TABLE rate_buckets (
    bucket_key bytea PRIMARY KEY,       -- a hash: no addresses of people are kept
    tokens double precision NOT NULL,
    filled_at timestamptz NOT NULL
);
CREATE INDEX rate_buckets_age ON rate_buckets (filled_at);

-- Take p_cost tokens if they are there. The clock is read after the row is locked, else two takers at once could both
-- count the same refill; greatest() guards against a clock that is set back.
CREATE FUNCTION take_tokens(p_key bytea, p_capacity double precision, p_per_second double precision, p_cost double precision)
    RETURNS TABLE (is_allowed boolean, remaining double precision, retry_after_s double precision)
    LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz;
    held double precision;
    held_at timestamptz;
BEGIN
    INSERT INTO rate_buckets VALUES (p_key, p_capacity, clock_timestamp()) ON CONFLICT (bucket_key) DO NOTHING;
    SELECT tokens, filled_at INTO held, held_at FROM rate_buckets WHERE bucket_key = p_key FOR UPDATE;
    now_at := clock_timestamp();
    held := least(p_capacity, held + greatest(0, extract(epoch FROM now_at - held_at)) * p_per_second);
    is_allowed := held >= p_cost;
    IF is_allowed THEN
        held := held - p_cost;
    END IF;
    UPDATE rate_buckets SET tokens = held, filled_at = greatest(now_at, held_at) WHERE bucket_key = p_key;
    remaining := held;
    retry_after_s := CASE WHEN is_allowed THEN 0 ELSE (p_cost - held) / p_per_second END;
    RETURN NEXT;
END $$;

GRANT SELECT, INSERT, UPDATE, DELETE ON rate_buckets TO icmp_app;
REVOKE ALL ON FUNCTION take_tokens(bytea, double precision, double precision, double precision) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION take_tokens(bytea, double precision, double precision, double precision) TO icmp_app;
